//! The settings of the broker, under Kafka's property names where Kafka has them.

use super::topic::{POLICIES, SEGMENT_BYTES_MIN, TIMESTAMP_TYPES};
use super::{ConfigEntry, ConfigKind, ConfigSource, Range};
use crate::error::ConfigError;

/// The settings of a broker. They are given when it is opened and do not change while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerConfig {
    /// A value for each of [`BROKER_SETTINGS`], checked and in normal form.
    values: Vec<String>,
}

/// One setting of the broker.
#[derive(Debug, Clone, Copy)]
pub struct BrokerSetting {
    /// Kafka's name, or one of ours in Kafka's manner.
    pub name: &'static str,
    /// Its type.
    pub kind: ConfigKind,
    /// Its default.
    pub default: &'static str,
    /// What it may be.
    pub range: Range,
    /// What it does here.
    pub documentation: &'static str,
}

const fn setting(
    name: &'static str,
    kind: ConfigKind,
    default: &'static str,
    range: Range,
    documentation: &'static str,
) -> BrokerSetting {
    BrokerSetting { name, kind, default, range, documentation }
}

use ConfigKind::{Boolean, Int, List, Long, String as Text};

const I32_MAX: i64 = i32::MAX as i64;

/// Every setting of the broker, by name.
#[rustfmt::skip]
pub const BROKER_SETTINGS: &[BrokerSetting] = &[
    setting("auto.create.topics.enable", Boolean, "true", Range::Boolean,
        "Whether a topic that does not exist is created when a client first asks for it."),
    setting("group.initial.rebalance.delay.ms", Int, "0", Range::Between(0, I32_MAX),
        "How long a new group waits for more members before its first rebalance. Kafka's default, and that of a server, is 3000."),
    setting("group.max.session.timeout.ms", Int, "1800000", Range::Between(1, I32_MAX),
        "The longest session timeout that a member of a group may ask for."),
    setting("group.max.size", Int, "10000", Range::Between(1, I32_MAX),
        "How many members a group may have. Kafka's default is no limit."),
    setting("group.min.session.timeout.ms", Int, "6000", Range::Between(1, I32_MAX),
        "The shortest session timeout that a member of a group may ask for."),
    setting("log.cleanup.policy", List, "delete", Range::SomeOf(POLICIES),
        "The default of cleanup.policy for topics."),
    setting("log.flush.interval.messages", Long, "1", Range::Between(1, i64::MAX),
        "The default of flush.messages for topics. 1 syncs before anything is acknowledged; Kafka's default is never."),
    setting("log.flush.interval.ms", Long, "9223372036854775807", Range::Between(0, i64::MAX),
        "The default of flush.ms for topics."),
    setting("log.index.interval.bytes", Int, "4096", Range::Between(0, I32_MAX),
        "The default of index.interval.bytes for topics."),
    setting("log.journal.file.bytes", Int, "67108864", Range::Between(0, 1 << 30),
        "The journal's files grow to this size; there are up to 4. With 0 there is no journal, and each partition is synced by itself."),
    setting("log.message.timestamp.after.max.ms", Long, "3600000", Range::Between(0, i64::MAX),
        "The default of message.timestamp.after.max.ms for topics."),
    setting("log.message.timestamp.before.max.ms", Long, "9223372036854775807", Range::Between(0, i64::MAX),
        "The default of message.timestamp.before.max.ms for topics."),
    setting("log.message.timestamp.type", Text, "CreateTime", Range::OneOf(TIMESTAMP_TYPES),
        "The default of message.timestamp.type for topics."),
    setting("log.queue.appends.max", Int, "1024", Range::Between(1, 1_000_000),
        "How many appends may wait for the writer of the data directory; one more waits for its place."),
    setting("log.retention.bytes", Long, "-1", Range::Between(-1, i64::MAX),
        "The default of retention.bytes for topics."),
    setting("log.retention.ms", Long, "604800000", Range::Between(-1, i64::MAX),
        "The default of retention.ms for topics."),
    setting("log.roll.ms", Long, "604800000", Range::Between(1, i64::MAX),
        "The default of segment.ms for topics."),
    setting("log.segment.bytes", Int, "1073741824", Range::Between(SEGMENT_BYTES_MIN, I32_MAX),
        "The default of segment.bytes for topics."),
    setting("message.max.bytes", Int, "1048588", Range::Between(0, I32_MAX),
        "The default of max.message.bytes for topics."),
    setting("num.partitions", Int, "1", Range::Between(1, I32_MAX),
        "How many partitions a topic gets when nobody says."),
    setting("offset.metadata.max.bytes", Int, "4096", Range::Between(0, I32_MAX),
        "How long the text may be that a member commits with an offset."),
    setting("offsets.retention.check.interval.ms", Long, "600000", Range::Between(1, i64::MAX / 2),
        "How often offsets that have outlived their retention are looked for."),
    setting("offsets.retention.minutes", Int, "10080", Range::Between(1, I32_MAX),
        "How long the offsets of a group without members are kept."),
    setting("producer.id.expiration.ms", Int, "86400000", Range::Between(1, I32_MAX),
        "A producer that has written nothing to a partition for so long is forgotten there."),
    setting("queued.max.request.bytes", Long, "268435456", Range::Between(1 << 20, 1 << 40),
        "The bytes that requests and responses may hold at a time, all connections together. Past it, nothing more is read."),
    setting("replication.factor.clamp", Boolean, "false", Range::Boolean,
        "Whether a replication factor above 1 is taken as 1 instead of refused, for tools that insist."),
    setting("topic.partitions.max", Int, "10000", Range::Between(1, 1_000_000),
        "How many partitions a topic may have."),
];

impl Default for BrokerConfig {
    fn default() -> Self {
        Self { values: BROKER_SETTINGS.iter().map(|setting| setting.default.to_owned()).collect() }
    }
}

impl BrokerConfig {
    /// Sets the setting `name`.
    ///
    /// # Errors
    /// [`ConfigError`] when there is none of that name, or the value does not fit.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let index = place(name).ok_or_else(|| ConfigError::Unknown(name.to_owned()))?;
        self.values[index] = BROKER_SETTINGS[index].range.check(name, value)?;
        Ok(())
    }

    /// The same with `name` set.
    ///
    /// # Errors
    /// As [`BrokerConfig::set`].
    pub fn with(mut self, name: &str, value: &str) -> Result<Self, ConfigError> {
        self.set(name, value)?;
        Ok(self)
    }

    /// The value of `name` and where it comes from, if there is such a setting.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<(String, ConfigSource)> {
        let index = place(name)?;
        let source = match self.values[index] == BROKER_SETTINGS[index].default {
            true => ConfigSource::Default,
            false => ConfigSource::StaticBroker,
        };
        Some((self.values[index].clone(), source))
    }

    /// All settings as DescribeConfigs shows them.
    #[must_use]
    pub fn describe(&self) -> Vec<ConfigEntry> {
        let entry = |setting: &BrokerSetting| {
            let (value, source) = self.get(setting.name).expect("the name stands in the table");
            ConfigEntry {
                name: setting.name,
                value: Some(value),
                source,
                read_only: true,
                sensitive: false,
                kind: setting.kind,
                documentation: setting.documentation,
                synonyms: self.synonyms(setting.name),
            }
        };
        BROKER_SETTINGS.iter().map(entry).collect()
    }

    /// What was set, if anything was, and the default.
    pub(crate) fn synonyms(&self, name: &str) -> Vec<(&'static str, Option<String>, ConfigSource)> {
        let Some(setting) = place(name).map(|index| &BROKER_SETTINGS[index]) else {
            return Vec::new();
        };
        let default = (setting.name, Some(setting.default.to_owned()), ConfigSource::Default);
        match self.get(name) {
            Some((value, ConfigSource::StaticBroker)) => {
                vec![(setting.name, Some(value), ConfigSource::StaticBroker), default]
            }
            _ => vec![default],
        }
    }

    pub(crate) fn number(&self, name: &str) -> i64 {
        let (value, _) = self.get(name).expect("the name stands in the table");
        value.parse().expect("the value was checked when it was set")
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).expect("the name stands in the table").0 == "true"
    }
}

fn place(name: &str) -> Option<usize> {
    BROKER_SETTINGS.iter().position(|setting| setting.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        assert!(BROKER_SETTINGS.is_sorted_by_key(|setting| setting.name));
        for setting in BROKER_SETTINGS {
            let default = setting.range.check(setting.name, setting.default);
            assert_eq!(default.as_deref(), Ok(setting.default), "{}", setting.name);
        }
    }

    #[test]
    fn values_are_checked_and_unknown_names_refused() {
        let mut config = BrokerConfig::default();
        assert_eq!(config.set("num.partition", "3"), Err(ConfigError::Unknown("num.partition".into())));
        assert!(matches!(config.set("num.partitions", "0"), Err(ConfigError::Invalid { .. })));
        config.set("num.partitions", "3").unwrap();
        assert_eq!(config.number("num.partitions"), 3);
        assert_eq!(config.get("num.partitions"), Some(("3".into(), ConfigSource::StaticBroker)));
        assert!(config.flag("auto.create.topics.enable"));
        assert!(config.describe().iter().all(|entry| entry.read_only && !entry.documentation.is_empty()));
    }
}
