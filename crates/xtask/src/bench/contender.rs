//! Who is measured, and what sets one apart from the other.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

/// A server and its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// Anabranch as it comes: every acknowledged batch is synced to disk
    Anabranch,
    /// Anabranch that leaves syncing to the operating system, as Kafka does
    AnabranchRelaxed,
    /// Apache Kafka as it comes: nothing is synced before it is acknowledged
    Kafka,
    /// Apache Kafka that syncs every batch before it is acknowledged
    KafkaFlush,
}

impl Contender {
    pub(super) const ALL: [Self; 4] =
        [Self::Anabranch, Self::AnabranchRelaxed, Self::Kafka, Self::KafkaFlush];

    /// As it is called on the command line, in file names and in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Anabranch => "anabranch",
            Self::AnabranchRelaxed => "anabranch-relaxed",
            Self::Kafka => "kafka",
            Self::KafkaFlush => "kafka-flush",
        }
    }

    /// Whether it is Apache Kafka.
    pub(super) fn is_kafka(self) -> bool {
        matches!(self, Self::Kafka | Self::KafkaFlush)
    }

    /// Whether what it acknowledges with acks=all survives a power cut of this one machine.
    pub(super) fn syncs(self) -> bool {
        matches!(self, Self::Anabranch | Self::KafkaFlush)
    }

    /// Settings of the server, where they are not its defaults.
    pub(super) fn server_settings(self) -> &'static [&'static str] {
        match self {
            Self::Anabranch | Self::AnabranchRelaxed => &[JOIN_AT_ONCE],
            Self::Kafka => &[JOIN_AT_ONCE, DELETE_SOON],
            Self::KafkaFlush => &[JOIN_AT_ONCE, DELETE_SOON, "log.flush.interval.messages=1"],
        }
    }

    /// Settings of its topics, where they are not its defaults.
    pub(super) fn topic_settings(self) -> &'static [&'static str] {
        match self {
            Self::AnabranchRelaxed => &[DELETE_AT_ONCE, "flush.messages=9223372036854775807"],
            Self::Anabranch | Self::Kafka | Self::KafkaFlush => &[DELETE_AT_ONCE],
        }
    }
}

/// How a contender was told to be.
#[derive(Debug, Serialize)]
pub(super) struct Settings {
    contender: Contender,
    server: &'static [&'static str],
    topic: &'static [&'static str],
}

impl From<Contender> for Settings {
    fn from(contender: Contender) -> Self {
        Self { contender, server: contender.server_settings(), topic: contender.topic_settings() }
    }
}

/// A group's first member need not wait for others. It saves idle seconds, and changes no figure but those of groups.
const JOIN_AT_ONCE: &str = "group.initial.rebalance.delay.ms=0";

/// The files of a topic that is done with go at once, not in the middle of somebody else's measurement.
const DELETE_AT_ONCE: &str = "file.delete.delay.ms=0";

/// Kafka takes the delay of a deleted topic's files from the server, and looks in this interval, too.
const DELETE_SOON: &str = "log.segment.delete.delay.ms=200";

/// So long after a topic is deleted its files are gone.
pub(super) const DELETED: Duration = Duration::from_millis(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_that_of_the_command_line_and_of_the_results() {
        for contender in Contender::ALL {
            assert_eq!(Contender::from_str(contender.name(), false), Ok(contender));
            assert_eq!(serde_json::to_value(contender).unwrap(), contender.name());
        }
    }
}
