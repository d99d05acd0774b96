//! What topics there are: an immutable snapshot that readers hold as long as they like, and the records that it is
//! made from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anabranch_core::TopicId;
use anabranch_core::batch::Record;
use serde::{Deserialize, Serialize};

use crate::config::group::GroupConfigs;
use crate::config::topic::TopicConfigs;
use crate::group::Topics;
use crate::partition::Partition;
use crate::redirect::Elsewhere;

/// Topics, producer ids and the cluster's id: Anabranch's counterpart of Kafka's `__cluster_metadata`, and as that one
/// not a topic that clients see.
pub(crate) const CATALOGUE_TOPIC: &str = "__anabranch_catalogue";
/// Kafka's own name for the topic of groups and their offsets.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Kafka's own name for the topic of transactions.
pub(crate) const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// One topic. A change makes a new value; this one stays as it was, though its partitions are the same.
#[derive(Debug)]
pub struct Topic {
    pub(crate) name: String,
    pub(crate) id: TopicId,
    pub(crate) internal: bool,
    pub(crate) partition_count: i32,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) configs: TopicConfigs,
    /// Counts records without a key, to spread them.
    pub(crate) keyless: AtomicU32,
}

impl Topic {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> TopicId {
        self.id
    }

    /// Whether it is the broker's own.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.internal
    }

    /// How many partitions it has.
    #[must_use]
    pub fn partition_count(&self) -> i32 {
        self.partition_count
    }

    /// Its partitions, by number. None when the topic was only validated ([`crate::Apply::ValidateOnly`]).
    #[must_use]
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// The partition of that number.
    #[must_use]
    pub fn partition(&self, number: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(number).ok()?)
    }

    /// Partitions in turn.
    pub(crate) fn next_keyless(&self) -> i32 {
        let turn = self.keyless.fetch_add(1, Ordering::Relaxed);
        (turn % self.partition_count.unsigned_abs()) as i32
    }

    /// The settings that were set on it, and no defaults.
    #[must_use]
    pub fn configs(&self) -> &TopicConfigs {
        &self.configs
    }
}

/// All topics at one moment.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    by_name: BTreeMap<String, Arc<Topic>>,
    names: HashMap<TopicId, String>,
    /// How many changes it took; of two catalogues of one broker, no two have the same.
    version: u64,
}

impl Catalogue {
    /// The topics in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.values()
    }

    /// The topic of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// The topic of that identity.
    #[must_use]
    pub fn by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.get(self.names.get(&id)?)
    }

    /// How many topics there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The same with `topic` instead of what had its name.
    pub(crate) fn with(&self, topic: Arc<Topic>) -> Self {
        let mut changed = self.without(&topic.name);
        changed.names.insert(topic.id, topic.name.clone());
        changed.by_name.insert(topic.name.clone(), topic);
        changed
    }

    /// The same without the topic of that name.
    pub(crate) fn without(&self, name: &str) -> Self {
        let mut changed = self.clone();
        changed.version += 1;
        if let Some(gone) = changed.by_name.remove(name) {
            changed.names.remove(&gone.id);
        }
        changed
    }
}

impl Topics for Catalogue {
    fn version(&self) -> u64 {
        self.version
    }

    fn get(&self, name: &str) -> Option<(TopicId, i32)> {
        Catalogue::get(self, name).map(|topic| (topic.id, topic.partition_count))
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.by_name.keys().map(String::as_str))
    }
}

/// A key of the catalogue topic: `cluster`, `producer-ids`, `topic/NAME`, `group/NAME` or `move/ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    Cluster,
    ProducerIds,
    Topic(String),
    /// The settings of a group.
    Group(String),
    /// A move to another engine.
    Move(String),
}

/// `{"version":0,"phase":"copying","target":"kafka://...","topics":{"NAME":"UUID"}}`; a tombstone gives it up. A record whose phase
/// is `moved` decides that the topics are elsewhere. With `"redirect":{"cluster":"ID","nodes":[{"id":1,"host":"one","port":9092}]}`
/// old clients are sent there; a broker that does not know of that refuses them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MoveRecord {
    pub(crate) version: Version,
    pub(crate) phase: MovePhase,
    /// Where to: for people, and without secrets.
    pub(crate) target: String,
    /// The topics by name, each with its identity.
    pub(crate) topics: BTreeMap<String, String>,
    /// Where old clients are sent; `None` is that they are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) redirect: Option<Elsewhere>,
    /// Records stand at other positions there. Known when it is decided.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) positions_differ: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What is the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MovePhase {
    /// This broker.
    Copying,
    /// The target.
    Moved,
}

/// `{"version":0,"configs":{"consumer.session.timeout.ms":"50000"}}`; a tombstone deletes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GroupConfigsRecord {
    pub(crate) version: Version,
    pub(crate) configs: GroupConfigs,
}

/// `{"version":0,"id":"22 characters"}`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClusterRecord {
    pub(crate) version: Version,
    pub(crate) id: String,
}

/// `{"version":0,"next":1000}`: every id below `next` may have been given to a producer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProducerIdsRecord {
    pub(crate) version: Version,
    pub(crate) next: i64,
}

/// `{"version":0,"id":"UUID","partitions":3,"configs":{"retention.ms":"1"},"internal":false}`; a tombstone deletes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TopicRecord {
    pub(crate) version: Version,
    #[serde(with = "uuid_text")]
    pub(crate) id: TopicId,
    pub(crate) partitions: i32,
    pub(crate) configs: TopicConfigs,
    pub(crate) internal: bool,
}

impl TopicRecord {
    pub(crate) fn of(topic: &Topic) -> Self {
        Self {
            version: Version,
            id: topic.id,
            partitions: topic.partition_count,
            configs: topic.configs.clone(),
            internal: topic.internal,
        }
    }
}

/// The version of a record: 0. A record of another version is refused, never guessed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Version;

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(0)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match u32::deserialize(from)? {
            0 => Ok(Self),
            newer => Err(serde::de::Error::custom(format!("version {newer}, and this broker reads 0"))),
        }
    }
}

mod uuid_text {
    use anabranch_core::TopicId;
    use serde::{Deserialize, Deserializer, Serializer};
    use uuid::Uuid;

    pub(super) fn serialize<S: Serializer>(id: &TopicId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<TopicId, D::Error> {
        let text = String::deserialize(from)?;
        Uuid::parse_str(&text).map(TopicId).map_err(serde::de::Error::custom)
    }
}

impl Key {
    pub(crate) fn parse(key: &[u8]) -> Option<Self> {
        match std::str::from_utf8(key).ok()? {
            "cluster" => Some(Self::Cluster),
            "producer-ids" => Some(Self::ProducerIds),
            other => match other.split_once('/')? {
                ("topic", name) => Some(Self::Topic(name.to_owned())),
                ("group", name) => Some(Self::Group(name.to_owned())),
                ("move", id) => Some(Self::Move(id.to_owned())),
                _ => None,
            },
        }
    }

    /// The record that sets this key.
    pub(crate) fn record(&self, value: &impl Serialize) -> Record {
        let value = serde_json::to_vec(value).expect("the catalogue's records are plain data");
        Record::new(self.bytes(), value)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Cluster => b"cluster".to_vec(),
            Self::ProducerIds => b"producer-ids".to_vec(),
            Self::Topic(name) => format!("topic/{name}").into_bytes(),
            Self::Group(name) => format!("group/{name}").into_bytes(),
            Self::Move(id) => format!("move/{id}").into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_as_they_were_written_and_other_versions_are_refused() {
        let record = TopicRecord {
            version: Version,
            id: TopicId(uuid::Uuid::from_u128(7)),
            partitions: 3,
            configs: TopicConfigs::from([("retention.ms".to_owned(), "1".to_owned())]),
            internal: false,
        };
        let text = serde_json::to_string(&record).unwrap();
        let read: TopicRecord = serde_json::from_str(&text).unwrap();
        assert_eq!((read.id, read.partitions, read.configs), (record.id, 3, record.configs));
        let newer = text.replace("\"version\":0", "\"version\":1");
        assert!(serde_json::from_str::<TopicRecord>(&newer).unwrap_err().to_string().contains("version 1"));
    }

    /// A directory of the version before has records without the choice, and its clients are refused.
    #[test]
    fn a_move_without_a_word_about_old_clients_refuses_them() {
        let text = r#"{"version":0,"phase":"moved","target":"kafka://one:9092","topics":{"t":"id"}}"#;
        let read: MoveRecord = serde_json::from_str(text).unwrap();
        assert_eq!((&read.redirect, read.positions_differ), (&None, false));
        assert_eq!(serde_json::to_string(&read).unwrap(), text, "nor is anything else written");
        let node = crate::redirect::Node { id: 1, host: "one".to_owned(), port: 9092 };
        let redirect = Some(Elsewhere { cluster: "c".to_owned(), nodes: vec![node] });
        let record = MoveRecord { redirect, positions_differ: true, ..read };
        let text = serde_json::to_string(&record).unwrap();
        assert!(text.contains(r#""redirect":{"cluster":"c","nodes":[{"id":1,"host":"one","port":9092}]}"#));
        assert_eq!(serde_json::from_str::<MoveRecord>(&text).unwrap(), record);
    }

    #[test]
    fn keys_read_as_they_were_written() {
        for key in [
            Key::Cluster,
            Key::ProducerIds,
            Key::Topic("topic/a".into()),
            Key::Group("g/h".into()),
            Key::Move("m".into()),
        ] {
            assert_eq!(Key::parse(&key.bytes()), Some(key));
        }
        assert_eq!(Key::parse(b"other"), None);
    }
}
