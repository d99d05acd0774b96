//! What is asked of every contender.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// Which acknowledgement the producer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Acks {
    /// Of all in-sync replicas: on one node, whatever durability the topic has
    All,
    /// Of the leader
    #[value(name = "1")]
    #[serde(rename = "1")]
    Leader,
}

impl Acks {
    /// As Kafka's setting has it.
    pub(in super::super) fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Leader => "1",
        }
    }
}

/// The shape of the records and of the topic that they go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(in super::super) struct Load {
    pub(in super::super) record_bytes: u32,
    pub(in super::super) acks: Acks,
    pub(in super::super) partitions: u32,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { record_bytes, acks, partitions } = self;
        write!(f, "{record_bytes} B, acks={}, {partitions} part.", acks.name())
    }
}

/// What is done with a load, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Work {
    /// Producing as fast as the producer and the server can. Its latencies are the time in the producer's full buffer:
    /// they say again what the rate says.
    Produce,
    /// Consuming what was produced.
    Consume,
    /// Producing at a rate that leaves everybody air: its latencies are those of the server.
    Paced,
}

impl Work {
    pub(super) const ALL: [Self; 3] = [Self::Produce, Self::Consume, Self::Paced];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_are_kafkas_everywhere() {
        for acks in [Acks::All, Acks::Leader] {
            assert_eq!(Acks::from_str(acks.name(), false), Ok(acks));
            assert_eq!(serde_json::to_value(acks).unwrap(), acks.name());
        }
    }
}
