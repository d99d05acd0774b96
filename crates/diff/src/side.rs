//! What a server has answered in the present case, and later requests speak of.

use std::collections::BTreeMap;

use anabranch_wire::messages::{GroupId, TopicName, TransactionalId};
use anabranch_wire::protocol::StrBytes;
use bytes::Bytes;
use uuid::Uuid;

use crate::client::text;
use crate::step::{EpochRef, Group, Slot, Topic, Transaction, Who};

/// What begins the name of everything that a case makes, whosever it is.
pub const PREFIX: &str = "diff-";

/// An id that no server has given.
const UNKNOWN_PRODUCER: i64 = 99_999_999;

/// An id that no topic has.
pub const UNKNOWN_TOPIC_ID: Uuid = Uuid::from_u128(1 << 100);

/// One server, as far as it has answered.
#[derive(Debug, Clone)]
pub struct State {
    /// What begins the names of the case.
    pub prefix: String,
    /// When the case began, ms. The same on both sides.
    pub now_ms: i64,
    /// Ids, and what they are called in normal forms.
    symbols: BTreeMap<String, String>,
    named: BTreeMap<String, u32>,
    topics: BTreeMap<Topic, Uuid>,
    producers: BTreeMap<Slot, Producer>,
    sequences: BTreeMap<(Producer, Topic, i32), Sequenced>,
    /// The id of the fetch session, and the epoch that comes next in it; 0 and 1 without one.
    pub session: (i32, i32),
    /// Of classic groups.
    pub members: BTreeMap<(Group, u8), Member>,
    /// Who leads them.
    pub led: BTreeMap<Group, Led>,
    /// Of groups in the consumer protocol.
    pub consumers: BTreeMap<(Group, u8), Consumer>,
}

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Producer {
    /// Given by the server.
    pub id: i64,
    /// Given by the server.
    pub epoch: i16,
}

/// Who writes nothing.
pub const NOBODY: Producer = Producer { id: -1, epoch: -1 };

/// What is said of a session before there is one.
pub const NO_SESSION: (i32, i32) = (0, 1);

#[derive(Debug, Clone, Copy, Default)]
struct Sequenced {
    last: i32,
    next: i32,
}

/// A member of a classic group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Member {
    /// Given by the server, or empty.
    pub id: StrBytes,
    /// The newest that it was told.
    pub generation: i32,
}

/// Who leads a classic group, by its members' ids.
#[derive(Debug, Clone, Default)]
pub struct Led {
    /// The newest that anybody was told.
    pub generation: i32,
    /// Its leader.
    pub leader: StrBytes,
    /// The leader of the generation before, that anybody was told of.
    pub before: Option<StrBytes>,
}

/// A member in the consumer protocol.
#[derive(Debug, Clone, Default)]
pub struct Consumer {
    /// Its own, or given by the server.
    pub id: StrBytes,
    /// The newest that it was told.
    pub epoch: i32,
    /// The newest that it was told.
    pub assigned: Vec<(Uuid, Vec<i32>)>,
}

impl State {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(prefix: String, now_ms: i64) -> Self {
        Self {
            prefix,
            now_ms,
            symbols: BTreeMap::new(),
            named: BTreeMap::new(),
            topics: BTreeMap::new(),
            producers: BTreeMap::new(),
            sequences: BTreeMap::new(),
            session: NO_SESSION,
            members: BTreeMap::new(),
            led: BTreeMap::new(),
            consumers: BTreeMap::new(),
        }
    }

    /// From now on `id` is called by the next number of `what`.
    pub fn name(&mut self, id: &impl ToString, what: &str) {
        let id = id.to_string();
        if !self.symbols.contains_key(&id) {
            let number = self.named.entry(what.to_owned()).or_default();
            *number += 1;
            self.symbols.insert(id, format!("<{what} {number}>"));
        }
    }

    /// What an id is called.
    #[must_use]
    pub fn symbol(&self, id: &str) -> Option<&str> {
        self.symbols.get(id).map(String::as_str)
    }

    fn own(&self, name: &str) -> StrBytes {
        text(&format!("{}{name}", self.prefix))
    }

    /// Its name in this case.
    #[must_use]
    pub fn topic(&self, topic: Topic) -> TopicName {
        TopicName(match topic {
            Topic::A => self.own("a"),
            Topic::B => self.own("b"),
            Topic::Never => self.own("never"),
            Topic::Empty => text(""),
            Topic::Dots => text(".."),
            Topic::Illegal => self.own("a b"),
            Topic::Internal => text("__consumer_offsets"),
        })
    }

    /// Its id, or one that no topic has.
    #[must_use]
    pub fn topic_id(&self, topic: Topic) -> Uuid {
        let none = if topic == Topic::Empty { Uuid::nil() } else { UNKNOWN_TOPIC_ID };
        self.topics.get(&topic).copied().unwrap_or(none)
    }

    /// A topic has been found, with an id.
    pub fn set_topic_id(&mut self, topic: Topic, id: Uuid) {
        if id != Uuid::nil() {
            self.name(&id, &format!("id of {topic:?}"));
            self.topics.insert(topic, id);
        }
    }

    /// Its name in this case.
    #[must_use]
    pub fn group(&self, group: Group) -> GroupId {
        GroupId(match group {
            Group::A => self.own("group-a"),
            Group::B => self.own("group-b"),
            Group::Never => self.own("group-never"),
            Group::Empty => text(""),
        })
    }

    /// Its name in this case, or null.
    #[must_use]
    pub fn transactional_id(&self, transaction: Transaction, slot: Slot) -> Option<TransactionalId> {
        let name = match (transaction, slot) {
            (Transaction::Null, _) | (Transaction::Own, Slot::Idempotent | Slot::Unknown) => return None,
            (Transaction::Empty, _) => text(""),
            (Transaction::Never, _) => self.own("txn-never"),
            (Transaction::Own, Slot::A) | (Transaction::Other, Slot::B) => self.own("txn-a"),
            (Transaction::Own, Slot::B) | (Transaction::Other, _) => self.own("txn-b"),
        };
        Some(TransactionalId(name))
    }

    /// Whom that means now.
    #[must_use]
    pub fn producer(&self, who: Who) -> Producer {
        let Some(&known) = self.producers.get(&who.slot) else {
            return if who.slot == Slot::Unknown {
                Producer { id: UNKNOWN_PRODUCER, epoch: 0 }
            } else {
                NOBODY
            };
        };
        let epoch = match who.epoch {
            EpochRef::Current => known.epoch,
            EpochRef::Older => known.epoch - 1,
            EpochRef::Newer => known.epoch + 1,
            EpochRef::None => -1,
        };
        Producer { id: known.id, epoch }
    }

    /// The same in a batch: who has no id yet writes with an unknown one, since a transactional batch of nobody is refused here.
    #[must_use]
    pub fn writer(&self, who: Who) -> Producer {
        match self.producer(who) {
            NOBODY => self.producer(Who { slot: Slot::Unknown, epoch: EpochRef::Current }),
            // There is none that is older.
            Producer { epoch: -1, .. } => self.producer(Who { epoch: EpochRef::Current, ..who }),
            producer => producer,
        }
    }

    /// A producer has been told who it is.
    pub fn set_producer(&mut self, slot: Slot, producer: Producer) {
        if producer.id >= 0 {
            self.name(&producer.id, "producer");
            self.producers.insert(slot, producer);
        }
    }

    /// The last and the next sequence number of a producer in a partition.
    #[must_use]
    pub fn sequence(&self, producer: Producer, topic: Topic, partition: i32) -> (i32, i32) {
        let known = self.sequences.get(&(producer, topic, partition)).copied().unwrap_or_default();
        (known.last, known.next)
    }

    /// A batch has been taken.
    pub fn took(&mut self, producer: Producer, topic: Topic, partition: i32, sequence: i32, count: i32) {
        let known = self.sequences.entry((producer, topic, partition)).or_default();
        if sequence >= known.next {
            *known = Sequenced { last: sequence, next: sequence + count };
        }
    }

    /// Somebody was told who leads a generation.
    pub fn set_leader(&mut self, group: Group, generation: i32, leader: &StrBytes) {
        let led = self.led.entry(group).or_default();
        if led.generation != generation {
            let before = (!led.leader.is_empty()).then(|| led.leader.clone());
            *led = Led { generation, leader: leader.clone(), before };
        }
    }

    /// An assignment of one partition: version, topics, no user data.
    #[must_use]
    pub fn assignment(&self, topic: Topic, partition: i32) -> Bytes {
        let name = self.topic(topic);
        let mut bytes = vec![0, 0, 0, 0, 0, 1];
        bytes.extend_from_slice(&(name.len() as i16).to_be_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&1_i32.to_be_bytes());
        bytes.extend_from_slice(&partition.to_be_bytes());
        bytes.extend_from_slice(&[0xff; 4]);
        bytes.into()
    }

    /// The metadata of a member that wants that topic: version, topics, no user data.
    #[must_use]
    pub fn subscription(&self, topic: Topic) -> Bytes {
        let name = self.topic(topic);
        let mut bytes = vec![0, 1, 0, 0, 0, 1];
        bytes.extend_from_slice(&(name.len() as i16).to_be_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&[0xff; 4]);
        bytes.extend_from_slice(&[0; 4]); // version 1: owned partitions
        bytes.into()
    }
}
