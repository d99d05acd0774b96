//! The settings of a topic: every one that Kafka 4 has, and what this broker makes of each.

use std::collections::BTreeMap;

use anabranch_core::batch::{Codec, Compression};
use anabranch_core::planted::{self, Bug};
use anabranch_log::LogConfig;

use super::broker::BrokerConfig;
use super::{ConfigEntry, ConfigKind, ConfigOp, ConfigSource, Range, list};
use crate::error::ConfigError;
use crate::maintenance::plan::{CompactionRules, Retention};

/// A topic's settings as they were set; what is missing has its default.
pub type TopicConfigs = BTreeMap<String, String>;

/// What this broker makes of a setting. `COMPATIBILITY.md` is checked against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does what Kafka's documentation says.
    Obeyed,
    /// It is kept and shown, since tools set it, and there is nothing here that it could change.
    Stored,
    /// Only its default is accepted: another value would be a promise that is not kept.
    Fixed,
}

/// Where a setting's default comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From this setting of the broker.
    Broker(&'static str),
    /// It is this.
    Value(&'static str),
}

/// One setting of a topic.
#[derive(Debug, Clone, Copy)]
pub struct TopicSetting {
    /// Kafka's name.
    pub name: &'static str,
    /// Its type.
    pub kind: ConfigKind,
    /// Its default.
    pub default: Origin,
    /// What it may be.
    pub range: Range,
    /// What this broker makes of it.
    pub standing: Standing,
    /// What it does here.
    pub documentation: &'static str,
}

const fn setting(
    name: &'static str,
    kind: ConfigKind,
    default: Origin,
    range: Range,
    standing: Standing,
    documentation: &'static str,
) -> TopicSetting {
    TopicSetting { name, kind, default, range, standing, documentation }
}

use ConfigKind::{Boolean, Double, Int, List, Long, String as Text};
use Origin::{Broker, Value};
use Standing::{Fixed, Obeyed, Stored};

const I32_MAX: i64 = i32::MAX as i64;
pub(super) const POLICIES: &[&str] = &["compact", "delete"];
pub(super) const TIMESTAMP_TYPES: &[&str] = &["CreateTime", "LogAppendTime"];
pub(super) const CODECS: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];

/// Every setting of a topic, by name.
#[rustfmt::skip]
pub const TOPIC_SETTINGS: &[TopicSetting] = &[
    setting("cleanup.policy", List, Broker("log.cleanup.policy"), Range::SomeOf(POLICIES), Obeyed,
        "With delete, old segments are removed by retention.ms and retention.bytes; with compact, superseded records are, and records without a key are refused."),
    setting("compression.gzip.level", Int, Broker("compression.gzip.level"), Range::OneOrBetween(-1, 1, 9), Obeyed,
        "How hard gzip works where compression.type asks for it; -1 is its default."),
    setting("compression.lz4.level", Int, Value("9"), Range::Between(1, 17), Fixed,
        "lz4 is written at one level: the fast one, which is Kafka's default too."),
    setting("compression.type", Text, Broker("compression.type"), Range::OneOf(CODECS), Obeyed,
        "What batches are stored in. With producer, and where it is the producer's anyway, they stay as they came."),
    setting("compression.zstd.level", Int, Broker("compression.zstd.level"), Range::Between(-131_072, 22), Obeyed,
        "How hard zstd works where compression.type asks for it."),
    setting("delete.retention.ms", Long, Broker("log.cleaner.delete.retention.ms"), Range::Between(0, i64::MAX), Obeyed,
        "How long compaction keeps a tombstone after it has first met it."),
    setting("file.delete.delay.ms", Long, Value("60000"), Range::Between(0, i64::MAX), Stored,
        "A removed segment's file goes when the last who reads it is done, without a delay."),
    setting("flush.messages", Long, Broker("log.flush.interval.messages"), Range::Between(1, i64::MAX), Obeyed,
        "Sync when so many records are not. 1, the default here, syncs before anything is acknowledged; more is relaxed durability."),
    setting("flush.ms", Long, Broker("log.flush.interval.ms"), Range::Between(0, i64::MAX), Obeyed,
        "Under relaxed durability, sync when the oldest record that is not synced is this old."),
    setting("follower.replication.throttled.replicas", List, Value(""), Range::Replicas, Stored,
        "One node replicates nothing."),
    setting("index.interval.bytes", Int, Broker("log.index.interval.bytes"), Range::Between(0, I32_MAX), Obeyed,
        "About how far apart entries of the index are."),
    setting("leader.replication.throttled.replicas", List, Value(""), Range::Replicas, Stored,
        "One node replicates nothing."),
    setting("local.retention.bytes", Long, Value("-2"), Range::Between(-2, i64::MAX), Fixed,
        "There is no remote storage."),
    setting("local.retention.ms", Long, Value("-2"), Range::Between(-2, i64::MAX), Fixed,
        "There is no remote storage."),
    setting("max.compaction.lag.ms", Long, Broker("log.cleaner.max.compaction.lag.ms"), Range::Between(1, i64::MAX), Obeyed,
        "A log with a dirty record that is older than this is compacted, however little of it is dirty. It bounds segment.ms, too."),
    setting("max.message.bytes", Int, Broker("message.max.bytes"), Range::Between(0, I32_MAX), Obeyed,
        "The largest batch that is accepted, as it comes and as it is stored."),
    setting("message.timestamp.after.max.ms", Long, Broker("log.message.timestamp.after.max.ms"), Range::Between(0, i64::MAX), Obeyed,
        "How far a producer's timestamps may be ahead of the broker's clock."),
    setting("message.timestamp.before.max.ms", Long, Broker("log.message.timestamp.before.max.ms"), Range::Between(0, i64::MAX), Obeyed,
        "How far a producer's timestamps may be behind the broker's clock."),
    setting("message.timestamp.type", Text, Broker("log.message.timestamp.type"), Range::OneOf(TIMESTAMP_TYPES), Obeyed,
        "Whether a record's time is the producer's (CreateTime) or the broker's (LogAppendTime)."),
    setting("min.cleanable.dirty.ratio", Double, Broker("log.cleaner.min.cleanable.ratio"), Range::Fraction(0.0, 1.0), Obeyed,
        "How much of a log must not have been compacted yet before it is."),
    setting("min.compaction.lag.ms", Long, Broker("log.cleaner.min.compaction.lag.ms"), Range::Between(0, i64::MAX), Obeyed,
        "A segment with a record that is younger than this is not compacted."),
    setting("min.insync.replicas", Int, Value("1"), Range::Between(1, I32_MAX), Fixed,
        "One node has one copy: with more, every acks=all would fail."),
    setting("preallocate", Boolean, Value("false"), Range::Boolean, Fixed,
        "Segments grow as they are written; a longer file would be read as one with a torn tail."),
    setting("remote.log.copy.disable", Boolean, Value("false"), Range::Boolean, Fixed,
        "There is no remote storage."),
    setting("remote.log.delete.on.disable", Boolean, Value("false"), Range::Boolean, Fixed,
        "There is no remote storage."),
    setting("remote.storage.enable", Boolean, Value("false"), Range::Boolean, Fixed,
        "There is no remote storage."),
    setting("retention.bytes", Long, Broker("log.retention.bytes"), Range::Between(-1, i64::MAX), Obeyed,
        "With cleanup.policy delete, the oldest segments are removed as long as what is left is at least this large; -1 for never."),
    setting("retention.ms", Long, Broker("log.retention.ms"), Range::Between(-1, i64::MAX), Obeyed,
        "With cleanup.policy delete, a segment whose newest record is older than this is removed; -1 for never."),
    setting("segment.bytes", Int, Broker("log.segment.bytes"), Range::Between(SEGMENT_BYTES_MIN, I32_MAX), Obeyed,
        "A segment that would grow beyond this is closed, and a new one begun."),
    setting("segment.index.bytes", Int, Broker("log.index.size.max.bytes"), Range::Between(4, I32_MAX), Obeyed,
        "A segment whose index has grown to about this is closed, and a new one begun. An entry has 20 bytes."),
    setting("segment.jitter.ms", Long, Broker("log.roll.jitter.ms"), Range::Between(0, i64::MAX), Obeyed,
        "By how much less than segment.ms a segment may span, so that not all partitions begin new ones at once."),
    setting("segment.ms", Long, Broker("log.roll.ms"), Range::Between(1, i64::MAX), Obeyed,
        "A segment whose records would span more time than this is closed, and a new one begun."),
    setting("unclean.leader.election.enable", Boolean, Value("false"), Range::Boolean, Stored,
        "One node elects nobody."),
];

/// What each internal topic sets aside: some ten thousand commits of offsets.
const INTERNAL_RESERVE_BYTES: u64 = 4 << 20;

/// Kafka 4.0's lower bound is 1 MiB, and 14 before; tests of tools use small segments, so the old bound is kept.
pub(super) const SEGMENT_BYTES_MIN: i64 = 14;

/// A topic's settings as the broker uses them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TopicRules {
    pub(crate) log: LogConfig,
    pub(crate) message_bytes_max: usize,
    pub(crate) log_append_time: bool,
    pub(crate) before_ms_max: i64,
    pub(crate) after_ms_max: i64,
    /// `cleanup.policy` has `compact`.
    pub(crate) compacted: bool,
    /// What batches are stored in; `None`: as the producer compressed them.
    pub(crate) codec: Option<Codec>,
    /// `cleanup.policy` has `delete`.
    pub(crate) deleted: bool,
    pub(crate) retention: Retention,
    pub(crate) compaction: CompactionRules,
}

impl TopicRules {
    /// What `configs` mean on a broker with `broker`'s settings. The values were checked when they were set.
    pub(crate) fn of(configs: &TopicConfigs, broker: &BrokerConfig) -> Self {
        let text = |name: &str| value(find(name).expect("the name stands in the table"), configs, broker).0;
        let number = |name: &str| text(name).parse::<i64>().expect("the value was checked when it was set");
        let small = |name: &str| u32::try_from(number(name)).expect("the table's range fits 32 bits");
        let has_policy = |wanted: &str| list(&text("cleanup.policy")).any(|policy| policy == wanted);
        let limit = |name: &str| Some(number(name)).filter(|limit| *limit >= 0);
        let compaction = CompactionRules {
            delete_retention_ms: number("delete.retention.ms"),
            min_lag_ms: number("min.compaction.lag.ms"),
            max_lag_ms: number("max.compaction.lag.ms"),
            min_dirty_ratio: text("min.cleanable.dirty.ratio")
                .parse()
                .expect("the value was checked when it was set"),
        };
        // What is to be compacted in time must not wait in the segment that is written to (Kafka's `LogConfig.maxSegmentMs`).
        let segment_ms = match has_policy("compact") {
            true => number("segment.ms").min(compaction.max_lag_ms),
            false => number("segment.ms"),
        };
        Self {
            log: LogConfig {
                segment_bytes: small("segment.bytes"),
                segment_ms,
                segment_jitter_ms: number("segment.jitter.ms"),
                flush_messages: number("flush.messages"),
                flush_ms: number("flush.ms"),
                index_interval_bytes: small("index.interval.bytes"),
                segment_index_bytes: small("segment.index.bytes"),
                reserve_bytes: 0,
            },
            message_bytes_max: small("max.message.bytes") as usize,
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
            before_ms_max: number("message.timestamp.before.max.ms"),
            after_ms_max: number("message.timestamp.after.max.ms"),
            compacted: has_policy("compact"),
            deleted: has_policy("delete"),
            retention: Retention {
                ms: limit("retention.ms"),
                bytes: limit("retention.bytes").map(i64::unsigned_abs),
            },
            compaction,
            codec: codec(&text("compression.type"), |name| number(name) as i32),
        }
    }

    /// The same for an internal topic: what it acknowledges is durable, whatever is set on it, and goes on for a while when
    /// others have filled the disk.
    pub(crate) fn internal(mut self) -> Self {
        self.log.flush_messages = if planted::is(Bug::CommitWithoutSync) { i64::MAX } else { 1 };
        self.log.reserve_bytes = INTERNAL_RESERVE_BYTES;
        self
    }
}

/// `compression.type` and the level that belongs to it.
fn codec(name: &str, level: impl Fn(&str) -> i32) -> Option<Codec> {
    let (compression, level) = match name {
        "producer" => return None,
        "uncompressed" => (Compression::None, None),
        "gzip" => (Compression::Gzip, Some(level("compression.gzip.level")).filter(|level| *level != -1)),
        "zstd" => (Compression::Zstd, Some(level("compression.zstd.level"))),
        other => (other.parse().expect("the value was checked when it was set"), None),
    };
    Some(Codec { compression, level })
}

/// Applies `ops` to `configs`, all or none.
pub(crate) fn apply(
    configs: &TopicConfigs,
    ops: &[ConfigOp],
    broker: &BrokerConfig,
) -> Result<TopicConfigs, ConfigError> {
    let mut changed = configs.clone();
    for op in ops {
        match op {
            ConfigOp::Set(name, value) => set(&mut changed, name, value, broker)?,
            // What nobody knows is not set.
            ConfigOp::Delete(name) => {
                changed.remove(name);
            }
            // Kafka's lists of a few words have no empty ones.
            ConfigOp::Append(name, items) if items.split(',').any(|item| item.trim().is_empty()) => {
                return Err(ConfigError::Invalid {
                    name: known(name)?.name.to_owned(),
                    value: items.clone(),
                    reason: "there is an empty item among what is to be added".to_owned(),
                });
            }
            ConfigOp::Append(name, items) => edit_list(&mut changed, name, broker, |old| {
                for item in list(items) {
                    if !old.iter().any(|known| known == item) {
                        old.push(item.to_owned());
                    }
                }
            })?,
            ConfigOp::Subtract(name, items) => edit_list(&mut changed, name, broker, |old| {
                old.retain(|item| !list(items).any(|gone| gone == item));
            })?,
            ConfigOp::ReplaceAll(all) => {
                changed.clear();
                for (name, value) in all {
                    set(&mut changed, name, value, broker)?;
                }
            }
        }
    }
    Ok(changed)
}

/// The settings as DescribeConfigs shows them.
pub(crate) fn describe(configs: &TopicConfigs, broker: &BrokerConfig) -> Vec<ConfigEntry> {
    let entry = |setting: &TopicSetting| {
        let (shown, source) = value(setting, configs, broker);
        let mut synonyms = Vec::new();
        if let Some(own) = configs.get(setting.name) {
            synonyms.push((setting.name, Some(own.clone()), ConfigSource::Topic));
        }
        match setting.default {
            Broker(name) => synonyms.extend(broker.synonyms(name)),
            Value(default) => synonyms.extend(
                in_brokers(setting.name).map(|name| (name, Some(default.to_owned()), ConfigSource::Default)),
            ),
        }
        ConfigEntry {
            name: setting.name,
            value: Some(shown),
            source,
            read_only: false,
            sensitive: false,
            kind: setting.kind,
            documentation: setting.documentation,
            synonyms,
        }
    };
    TOPIC_SETTINGS.iter().map(entry).collect()
}

/// What Kafka calls, for all topics of a broker, a setting whose default is fixed here; nothing if it has no such.
fn in_brokers(name: &'static str) -> Option<&'static str> {
    match name {
        "file.delete.delay.ms" => Some("log.segment.delete.delay.ms"),
        "local.retention.bytes" => Some("log.local.retention.bytes"),
        "local.retention.ms" => Some("log.local.retention.ms"),
        "preallocate" => Some("log.preallocate"),
        "follower.replication.throttled.replicas"
        | "leader.replication.throttled.replicas"
        | "remote.log.copy.disable"
        | "remote.log.delete.on.disable"
        | "remote.storage.enable" => None,
        same => Some(same),
    }
}

fn find(name: &str) -> Option<&'static TopicSetting> {
    TOPIC_SETTINGS.iter().find(|setting| setting.name == name)
}

fn known(name: &str) -> Result<&'static TopicSetting, ConfigError> {
    find(name).ok_or_else(|| ConfigError::Unknown(name.to_owned()))
}

/// The value that holds, and where it comes from.
fn value(setting: &TopicSetting, configs: &TopicConfigs, broker: &BrokerConfig) -> (String, ConfigSource) {
    match (configs.get(setting.name), setting.default) {
        (Some(own), _) => (own.clone(), ConfigSource::Topic),
        (None, Value(default)) => (default.to_owned(), ConfigSource::Default),
        (None, Broker(name)) => broker.get(name).expect("the table names settings that the broker has"),
    }
}

fn set(
    configs: &mut TopicConfigs,
    name: &str,
    given: &str,
    broker: &BrokerConfig,
) -> Result<(), ConfigError> {
    let setting = known(name)?;
    let checked = setting.range.check(name, given)?;
    if setting.standing == Fixed && checked != value(setting, &TopicConfigs::new(), broker).0 {
        return Err(ConfigError::Unsupported {
            name: name.to_owned(),
            value: checked,
            reason: setting.documentation.to_owned(),
        });
    }
    configs.insert(name.to_owned(), checked);
    Ok(())
}

fn edit_list(
    configs: &mut TopicConfigs,
    name: &str,
    broker: &BrokerConfig,
    edit: impl FnOnce(&mut Vec<String>),
) -> Result<(), ConfigError> {
    let setting = known(name)?;
    if setting.kind != List {
        return Err(ConfigError::Invalid {
            name: name.to_owned(),
            value: String::new(),
            reason: "it is not a list, so nothing can be added or taken away".to_owned(),
        });
    }
    let (old, _) = value(setting, configs, broker);
    let mut items = list(&old).map(str::to_owned).collect();
    edit(&mut items);
    let new = items.join(",");
    set(configs, name, &new, broker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        assert!(TOPIC_SETTINGS.is_sorted_by_key(|setting| setting.name));
        let broker = BrokerConfig::default();
        for setting in TOPIC_SETTINGS {
            let (default, _) = value(setting, &TopicConfigs::new(), &broker);
            let fits =
                default.is_empty() || setting.range.check(setting.name, &default).is_ok_and(|v| v == default);
            assert!(fits, "{}: {default}", setting.name);
            if let Broker(name) = setting.default {
                let of_broker =
                    super::super::broker::BROKER_SETTINGS.iter().find(|s| s.name == name).unwrap();
                assert_eq!((of_broker.kind, of_broker.range), (setting.kind, setting.range), "{name}");
            }
        }
        let rules = TopicRules::of(&TopicConfigs::new(), &broker);
        assert_eq!((rules.log.flush_messages, rules.compacted, rules.log_append_time), (1, false, false));
        assert_eq!(rules.log.segment_bytes, 1 << 30);
    }

    #[test]
    fn changes_apply_all_or_none() {
        let broker = BrokerConfig::default();
        let set = |name: &str, value: &str| ConfigOp::Set(name.into(), value.into());
        let start =
            apply(&TopicConfigs::new(), &[set("retention.ms", "5"), set("flush.messages", "9")], &broker)
                .unwrap();
        assert!(apply(&start, &[set("retention.ms", "6"), set("nonsense", "1")], &broker).is_err());
        let after = apply(&start, &[ConfigOp::Delete("retention.ms".into())], &broker).unwrap();
        assert_eq!(after.into_iter().collect::<Vec<_>>(), [("flush.messages".to_owned(), "9".to_owned())]);
        let replaced = ConfigOp::ReplaceAll(vec![("segment.ms".into(), "7".into())]);
        assert_eq!(apply(&start, &[replaced], &broker).unwrap().len(), 1);
    }

    #[test]
    fn lists_grow_and_shrink() {
        let broker = BrokerConfig::default();
        let policy =
            |start: &TopicConfigs, op| apply(start, &[op], &broker).map(|c| (c["cleanup.policy"].clone(), c));
        let add = |items: &str| ConfigOp::Append("cleanup.policy".into(), items.into());
        let take = |items: &str| ConfigOp::Subtract("cleanup.policy".into(), items.into());
        let (both, configs) = policy(&TopicConfigs::new(), add("compact,delete")).unwrap();
        assert_eq!(both, "delete,compact");
        assert!(TopicRules::of(&configs, &broker).compacted);
        let (one, configs) = policy(&configs, take("delete")).unwrap();
        assert_eq!(one, "compact");
        let (none, configs) = policy(&configs, take("compact")).unwrap();
        assert_eq!(none, "", "which keeps everything");
        let rules = TopicRules::of(&configs, &broker);
        assert!(!rules.compacted && !rules.deleted);
        assert!(policy(&configs, add("")).is_err() && policy(&configs, add("delete,,compact")).is_err());
        let unknown = ConfigOp::Delete("no.such.setting".into());
        assert_eq!(apply(&configs, &[unknown], &broker).unwrap(), configs, "what nobody knows is not set");
        assert!(apply(&configs, &[ConfigOp::Append("segment.ms".into(), "1".into())], &broker).is_err());
    }

    /// What Apache Kafka 4.3.1 answers to DescribeConfigs of a topic.
    const KAFKA_NAMES: &[&str] = &[
        "cleanup.policy",
        "compression.gzip.level",
        "compression.lz4.level",
        "compression.type",
        "compression.zstd.level",
        "delete.retention.ms",
        "file.delete.delay.ms",
        "flush.messages",
        "flush.ms",
        "follower.replication.throttled.replicas",
        "index.interval.bytes",
        "leader.replication.throttled.replicas",
        "local.retention.bytes",
        "local.retention.ms",
        "max.compaction.lag.ms",
        "max.message.bytes",
        "message.timestamp.after.max.ms",
        "message.timestamp.before.max.ms",
        "message.timestamp.type",
        "min.cleanable.dirty.ratio",
        "min.compaction.lag.ms",
        "min.insync.replicas",
        "preallocate",
        "remote.log.copy.disable",
        "remote.log.delete.on.disable",
        "remote.storage.enable",
        "retention.bytes",
        "retention.ms",
        "segment.bytes",
        "segment.index.bytes",
        "segment.jitter.ms",
        "segment.ms",
        "unclean.leader.election.enable",
    ];

    #[test]
    fn every_setting_of_kafka_is_in_the_table_and_no_other() {
        let ours: Vec<&str> = TOPIC_SETTINGS.iter().map(|setting| setting.name).collect();
        assert_eq!(ours, KAFKA_NAMES);
    }

    #[test]
    fn the_compatibility_document_tells_what_becomes_of_each_setting() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../COMPATIBILITY.md");
        let document = std::fs::read_to_string(path).unwrap();
        let marker = document.find("writes it anew -->\n").unwrap() + "writes it anew -->\n".len();
        let rows = TOPIC_SETTINGS.iter().map(|setting| {
            let standing = match setting.standing {
                Obeyed => "obeyed",
                Stored => "no effect",
                Fixed => "fixed",
            };
            format!("| `{}` | {standing} | {} |\n", setting.name, setting.documentation)
        });
        let table = format!("| setting | | |\n|---|---|---|\n{}", rows.collect::<String>());
        if std::env::var_os("UPDATE_COMPATIBILITY").is_some() {
            std::fs::write(path, document[..marker].to_owned() + &table).unwrap();
        } else {
            assert_eq!(document[marker..], table, "UPDATE_COMPATIBILITY=1 writes the table anew");
        }
    }

    #[test]
    fn what_is_not_kept_is_not_promised() {
        let broker = BrokerConfig::default();
        let try_set = |name: &str, value: &str| {
            apply(&TopicConfigs::new(), &[ConfigOp::Set(name.into(), value.into())], &broker)
        };
        assert!(matches!(try_set("compression.lz4.level", "3"), Err(ConfigError::Unsupported { .. })));
        assert!(matches!(try_set("remote.storage.enable", "true"), Err(ConfigError::Unsupported { .. })));
        assert!(matches!(try_set("compression.type", "rle"), Err(ConfigError::Invalid { .. })));
        assert!(matches!(try_set("preallocate", "true"), Err(ConfigError::Unsupported { .. })));
        assert!(try_set("compression.type", "producer").is_ok());
        assert!(matches!(try_set("no.such", "1"), Err(ConfigError::Unknown(_))));
    }

    #[test]
    fn a_setting_shows_where_it_comes_from() {
        let mut broker = BrokerConfig::default();
        broker.set("log.roll.ms", "77").unwrap();
        let own = TopicConfigs::from([("segment.ms".to_owned(), "5".to_owned())]);
        let shown = |configs: &TopicConfigs| {
            describe(configs, &broker).into_iter().find(|entry| entry.name == "segment.ms").unwrap()
        };
        let entry = shown(&own);
        assert_eq!((entry.value.as_deref(), entry.source), (Some("5"), ConfigSource::Topic));
        let names: Vec<_> = entry.synonyms.iter().map(|(name, _, source)| (*name, *source)).collect();
        let expected = [("segment.ms", ConfigSource::Topic), ("log.roll.ms", ConfigSource::StaticBroker)];
        assert_eq!(names, expected);
        assert_eq!(shown(&TopicConfigs::new()).source, ConfigSource::StaticBroker);
    }
}
