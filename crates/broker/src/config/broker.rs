//! The settings of the broker, under Kafka's property names where Kafka has them.

use std::collections::BTreeMap;

use super::kafka::why_not;
use super::topic::{CODECS, POLICIES, SEGMENT_BYTES_MIN, TIMESTAMP_TYPES};
use super::{ConfigEntry, ConfigKind, ConfigSource, Range};
use crate::error::ConfigError;

/// The settings of a broker. They are given when it is opened and do not change while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerConfig {
    /// What was set, of [`BROKER_SETTINGS`], checked and in normal form.
    values: BTreeMap<&'static str, String>,
}

/// One setting of the broker.
#[derive(Debug, Clone, Copy)]
pub struct BrokerSetting {
    /// Kafka's name, or one of ours in Kafka's manner.
    pub name: &'static str,
    /// Its type.
    pub kind: ConfigKind,
    /// Its default; empty for those that say in another unit what another one says.
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

use ConfigKind::{Boolean, Double, Int, List, Long, String as Text};

const ASSIGNORS: &[&str] = &["uniform", "range"];
const MIGRATIONS: &[&str] = &["bidirectional", "upgrade", "downgrade", "disabled"];
const PROTOCOLS: &[&str] = &["classic", "consumer"];
const I32_MAX: i64 = i32::MAX as i64;
const HOUR_MS: i64 = 3_600_000;

/// Kafka's coarser names of a time, the name that is meant, and a unit in ms. Of several that are set, the meant one goes
/// first, then they in this order (`ServerTopicConfigSynonyms`).
const UNITS: &[(&str, &str, i64)] = &[
    ("log.retention.minutes", "log.retention.ms", 60_000),
    ("log.retention.hours", "log.retention.ms", HOUR_MS),
    ("log.roll.hours", "log.roll.ms", HOUR_MS),
];

/// Every setting of the broker, by name.
#[rustfmt::skip]
pub const BROKER_SETTINGS: &[BrokerSetting] = &[
    setting("add.partitions.to.txn.retry.backoff.max.ms", Int, "100", Range::Between(0, I32_MAX),
        "How long a producer's records wait for the end of its last transaction; then it is told to try again."),
    setting("add.partitions.to.txn.retry.backoff.ms", Int, "20", Range::Between(1, I32_MAX),
        "How often it is looked for meanwhile."),
    setting("auto.create.topics.enable", Boolean, "true", Range::Boolean,
        "Whether a topic that does not exist is created when a client first asks for it."),
    setting("compression.gzip.level", Int, "-1", Range::OneOrBetween(-1, 1, 9),
        "The default of compression.gzip.level for topics."),
    setting("compression.type", Text, "producer", Range::OneOf(CODECS),
        "The default of compression.type for topics."),
    setting("compression.zstd.level", Int, "3", Range::Between(-131_072, 22),
        "The default of compression.zstd.level for topics."),
    setting("group.consumer.assignment.interval.ms", Int, "1000", Range::Between(0, I32_MAX),
        "How long the assignor of a group in the consumer protocol rests after it has run."),
    setting("group.consumer.assignors", List, "uniform,range", Range::SomeOf(ASSIGNORS),
        "The assignors of the consumer protocol; the first is for members that name none."),
    setting("group.consumer.heartbeat.interval.ms", Int, "5000", Range::Between(1, I32_MAX),
        "How often members in the consumer protocol are told to send heartbeats."),
    setting("group.consumer.max.assignment.interval.ms", Int, "15000", Range::Between(0, I32_MAX),
        "The most that a group may set consumer.assignment.interval.ms to."),
    setting("group.consumer.max.heartbeat.interval.ms", Int, "15000", Range::Between(1, I32_MAX),
        "The most that a group may set consumer.heartbeat.interval.ms to."),
    setting("group.consumer.max.session.timeout.ms", Int, "60000", Range::Between(1, I32_MAX),
        "The most that a group may set consumer.session.timeout.ms to."),
    setting("group.consumer.max.size", Int, "10000", Range::Between(1, I32_MAX),
        "How many members a group in the consumer protocol may have. Kafka's default is no limit."),
    setting("group.consumer.migration.policy", Text, "bidirectional", Range::OneOfAnyCase(MIGRATIONS),
        "Whether a group with members becomes one of the consumer protocol when the first such member joins (upgrade), a classic one when the last leaves (downgrade), or both; disabled keeps classic members out of the other."),
    setting("group.consumer.min.assignment.interval.ms", Int, "0", Range::Between(0, I32_MAX),
        "The least that a group may set consumer.assignment.interval.ms to."),
    setting("group.consumer.min.heartbeat.interval.ms", Int, "5000", Range::Between(1, I32_MAX),
        "The least that a group may set consumer.heartbeat.interval.ms to."),
    setting("group.consumer.min.session.timeout.ms", Int, "45000", Range::Between(1, I32_MAX),
        "The least that a group may set consumer.session.timeout.ms to."),
    setting("group.consumer.session.timeout.ms", Int, "45000", Range::Between(1, I32_MAX),
        "How long a member in the consumer protocol may be silent."),
    setting("group.coordinator.rebalance.protocols", List, "classic,consumer", Range::SomeOf(PROTOCOLS),
        "The protocols of groups. Without consumer, its heartbeats are refused; classic is always on."),
    setting("group.initial.rebalance.delay.ms", Int, "0", Range::Between(0, I32_MAX),
        "How long a new group waits for more members before its first rebalance. Kafka's default, and that of a server, is 3000."),
    setting("group.max.session.timeout.ms", Int, "1800000", Range::Between(1, I32_MAX),
        "The longest session timeout that a member of a group may ask for."),
    setting("group.max.size", Int, "10000", Range::Between(1, I32_MAX),
        "How many members a group may have. Kafka's default is no limit."),
    setting("group.min.session.timeout.ms", Int, "6000", Range::Between(1, I32_MAX),
        "The shortest session timeout that a member of a group may ask for."),
    setting("log.cleaner.backoff.ms", Long, "15000", Range::Between(1, i64::MAX / 2),
        "How long compaction rests when nothing is dirty enough."),
    setting("log.cleaner.dedupe.buffer.size", Long, "134217728", Range::Between(1 << 10, 1 << 40),
        "The memory for the keys of one pass of compaction, 24 bytes each; a sixteenth of the memory budget at most. Beyond it a log takes several passes."),
    setting("log.cleaner.delete.retention.ms", Long, "86400000", Range::Between(0, i64::MAX),
        "The default of delete.retention.ms for topics."),
    setting("log.cleaner.enable", Boolean, "true", Range::Boolean,
        "Whether topics are compacted. Without, __consumer_offsets grows for ever."),
    setting("log.cleaner.max.compaction.lag.ms", Long, "9223372036854775807", Range::Between(1, i64::MAX),
        "The default of max.compaction.lag.ms for topics."),
    setting("log.cleaner.min.cleanable.ratio", Double, "0.5", Range::Fraction(0.0, 1.0),
        "The default of min.cleanable.dirty.ratio for topics."),
    setting("log.cleaner.min.compaction.lag.ms", Long, "0", Range::Between(0, i64::MAX),
        "The default of min.compaction.lag.ms for topics."),
    setting("log.cleanup.policy", List, "delete", Range::SomeOf(POLICIES),
        "The default of cleanup.policy for topics."),
    setting("log.flush.interval.messages", Long, "1", Range::Between(1, i64::MAX),
        "The default of flush.messages for topics. 1 syncs before anything is acknowledged; Kafka's default is never."),
    setting("log.flush.interval.ms", Long, "9223372036854775807", Range::Between(0, i64::MAX),
        "The default of flush.ms for topics."),
    setting("log.index.interval.bytes", Int, "4096", Range::Between(0, I32_MAX),
        "The default of index.interval.bytes for topics."),
    setting("log.index.size.max.bytes", Int, "10485760", Range::Between(4, I32_MAX),
        "The default of segment.index.bytes for topics."),
    setting("log.journal.file.bytes", Int, "4194304", Range::Between(0, 1 << 30),
        "The size of a file of the journal; there are up to 16. With 0 there is no journal, and each partition is synced by itself."),
    setting("log.message.timestamp.after.max.ms", Long, "3600000", Range::Between(0, i64::MAX),
        "The default of message.timestamp.after.max.ms for topics."),
    setting("log.message.timestamp.before.max.ms", Long, "9223372036854775807", Range::Between(0, i64::MAX),
        "The default of message.timestamp.before.max.ms for topics."),
    setting("log.message.timestamp.type", Text, "CreateTime", Range::OneOf(TIMESTAMP_TYPES),
        "The default of message.timestamp.type for topics."),
    setting("log.open.files.max", Int, "-1", Range::Between(-1, 10_000_000),
        "How many files of the log may be open at a time; what is cold is closed. -1 is half of what the process may open, one for each 50 KiB of the memory budget, and 16384 at most."),
    setting("log.queue.appends.max", Int, "1024", Range::Between(1, 1_000_000),
        "How many appends may wait for the writer of the data directory; one more waits for its place."),
    setting("log.retention.bytes", Long, "-1", Range::Between(-1, i64::MAX),
        "The default of retention.bytes for topics."),
    setting("log.retention.check.interval.ms", Long, "300000", Range::Between(1, i64::MAX / 2),
        "How often segments that have outlived their retention are looked for."),
    setting("log.retention.hours", Int, "", Range::Between(-1, I32_MAX),
        "log.retention.ms in hours, unless that or log.retention.minutes is set."),
    setting("log.retention.minutes", Int, "", Range::Between(-1, I32_MAX),
        "log.retention.ms in minutes, unless that is set."),
    setting("log.retention.ms", Long, "604800000", Range::Between(-1, i64::MAX),
        "The default of retention.ms for topics."),
    setting("log.roll.hours", Int, "", Range::Between(1, I32_MAX),
        "log.roll.ms in hours, unless that is set."),
    setting("log.roll.jitter.ms", Long, "0", Range::Between(0, i64::MAX),
        "The default of segment.jitter.ms for topics."),
    setting("log.roll.ms", Long, "604800000", Range::Between(1, i64::MAX),
        "The default of segment.ms for topics."),
    setting("log.segment.bytes", Int, "1073741824", Range::Between(SEGMENT_BYTES_MIN, I32_MAX),
        "The default of segment.bytes for topics."),
    setting("max.incremental.fetch.session.cache.slots", Int, "1000", Range::Between(0, I32_MAX),
        "How many fetch sessions are kept, within a 64th of memory.budget.bytes."),
    setting("memory.budget.bytes", Long, "-1", Range::Between(-1, 1 << 50),
        "The bytes that the broker allows itself; never more than 4/5 of the cgroup's limit. -1 is that, or half of the machine's memory."),
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
        "The bytes that requests and responses may hold at a time, all connections together, within 11/16 of memory.budget.bytes. Past it, nothing more is read."),
    setting("replication.factor.clamp", Boolean, "false", Range::Boolean,
        "Whether a replication factor above 1 is taken as 1 instead of refused, for tools that insist."),
    setting("topic.partitions.max", Int, "10000", Range::Between(1, 1_000_000),
        "How many partitions a topic may have."),
    setting("transaction.abort.timed.out.transaction.cleanup.interval.ms", Int, "10000", Range::Between(1, I32_MAX),
        "How often transactions are looked for that have lasted longer than their timeout."),
    setting("transaction.max.timeout.ms", Int, "900000", Range::Between(1, I32_MAX),
        "The longest timeout that a producer may ask for its transactions."),
    setting("transaction.remove.expired.transaction.cleanup.interval.ms", Int, "3600000", Range::Between(1, I32_MAX),
        "How often transactional ids are looked for that nobody has used for long."),
    setting("transactional.id.expiration.ms", Int, "604800000", Range::Between(1, I32_MAX),
        "How long a transactional id is kept that nobody uses."),
    setting("transactional.ids.max", Int, "100000", Range::Between(1, I32_MAX),
        "How many transactional ids there may be."),
];

impl BrokerConfig {
    /// Sets the setting `name`.
    ///
    /// # Errors
    /// [`ConfigError`] when there is none of that name, or the value does not fit.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let Some(setting) = find(name) else {
            return Err(match why_not(name) {
                Some(reason) => ConfigError::NotHere { name: name.to_owned(), reason },
                None => ConfigError::Unknown(name.to_owned()),
            });
        };
        self.values.insert(setting.name, setting.range.check(name, value)?);
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
        let setting = find(name)?;
        Some(match self.given(name) {
            Some((_, value)) => (value, ConfigSource::StaticBroker),
            None => (setting.default.to_owned(), ConfigSource::Default),
        })
    }

    /// What was set for `name`, and under which name: itself, or the same in another unit.
    fn given(&self, name: &str) -> Option<(&'static str, String)> {
        if let Some((own, value)) = self.values.get_key_value(name) {
            return Some((own, value.clone()));
        }
        let (coarse, value, unit_ms) = UNITS
            .iter()
            .filter(|(_, meant, _)| *meant == name)
            .find_map(|(coarse, _, unit_ms)| Some((*coarse, self.values.get(coarse)?, unit_ms)))?;
        let value: i64 = value.parse().expect("the value was checked when it was set");
        // -1 is for ever in every unit.
        Some((coarse, if value < 0 { value } else { value * unit_ms }.to_string()))
    }

    /// All settings as DescribeConfigs shows them.
    #[must_use]
    pub fn describe(&self) -> Vec<ConfigEntry> {
        let entry = |setting: &BrokerSetting| {
            let (value, source) = self.get(setting.name).expect("the name stands in the table");
            ConfigEntry {
                name: setting.name,
                value: Some(value).filter(|value| !value.is_empty()),
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
        let Some(setting) = find(name) else { return Vec::new() };
        let given = self.given(name).and_then(|(given, _)| self.values.get_key_value(given));
        let given = given.map(|(name, value)| (*name, Some(value.clone()), ConfigSource::StaticBroker));
        // Kafka gives some no default of their own, but one in another unit, or none: those have no synonym for it.
        let default = (!setting.default.is_empty() && !WITHOUT_DEFAULT.contains(&setting.name))
            .then(|| (setting.name, Some(setting.default.to_owned()), ConfigSource::Default));
        given.into_iter().chain(default).collect()
    }

    /// A setting that is a number.
    ///
    /// # Panics
    /// If there is no such setting, or it is none.
    #[must_use]
    pub fn number(&self, name: &str) -> i64 {
        let (value, _) = self.get(name).expect("the name stands in the table");
        value.parse().expect("the value was checked when it was set")
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).expect("the name stands in the table").0 == "true"
    }
}

/// Settings whose default is null in Kafka.
const WITHOUT_DEFAULT: &[&str] =
    &["log.flush.interval.ms", "log.retention.ms", "log.roll.jitter.ms", "log.roll.ms"];

fn find(name: &str) -> Option<&'static BrokerSetting> {
    BROKER_SETTINGS.iter().find(|setting| setting.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        assert!(BROKER_SETTINGS.is_sorted_by_key(|setting| setting.name));
        for setting in BROKER_SETTINGS {
            let default = setting.range.check(setting.name, setting.default);
            let is_unit = UNITS.iter().any(|(name, ..)| *name == setting.name);
            match is_unit {
                true => assert_eq!(setting.default, "", "{}", setting.name),
                false => assert_eq!(default.as_deref(), Ok(setting.default), "{}", setting.name),
            }
        }
        assert!(UNITS.iter().all(|(name, meant, _)| find(name).is_some() && find(meant).is_some()));
    }

    #[test]
    fn a_time_may_be_given_in_coarser_units_and_the_finest_holds() {
        let mut config = BrokerConfig::default();
        let retention = |config: &BrokerConfig| config.number("log.retention.ms");
        assert_eq!(retention(&config), 168 * HOUR_MS);
        for (name, value, expected) in [
            ("log.retention.hours", "2", 2 * HOUR_MS),
            ("log.retention.minutes", "3", 180_000),
            ("log.retention.hours", "5", 180_000),
            ("log.retention.minutes", "-1", -1),
            ("log.retention.ms", "77", 77),
            ("log.retention.minutes", "9", 77),
        ] {
            config.set(name, value).unwrap();
            assert_eq!(retention(&config), expected, "{name}={value}");
        }
        let config = BrokerConfig::default().with("log.roll.hours", "1").unwrap();
        assert_eq!(config.get("log.roll.ms"), Some((HOUR_MS.to_string(), ConfigSource::StaticBroker)));
        let expected = [("log.roll.hours", Some("1".to_owned()), ConfigSource::StaticBroker)];
        assert_eq!(config.synonyms("log.roll.ms"), expected);
        let shown = BrokerConfig::default().describe();
        assert_eq!(shown.iter().find(|entry| entry.name == "log.roll.hours").unwrap().value, None);
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
