//! What consumers tell each other through the group: their subscriptions, and the leader's assignment.
//!
//! The coordinator passes these bytes on without looking, but for [`subscribed_topics`]; a member in this process reads
//! and writes them, so that it can share a group with clients in any language. Source: Kafka's
//! `ConsumerProtocolSubscription.json` and `ConsumerProtocolAssignment.json`, which no version flexes.
//!
//! ```text
//! subscription  version: i16, topics: [string], user data: bytes?
//!               from 1: owned: [topic: string, partitions: [i32]]; from 2: generation: i32; from 3: rack: string?
//! assignment    version: i16, [topic: string, partitions: [i32]], user data: bytes?
//! ```
//!
//! A version that is newer than this is read as the newest here, as Kafka does: fields are only ever added.

use std::collections::BTreeMap;

use anabranch_core::TopicPartition;
use bytes::Bytes;

use crate::kafka_record::{CodecError, Reader, Writer};

/// The newest version that is written here.
pub const VERSION_MAX: i16 = 3;

/// The name of [`assign_ranges`] as a protocol of the group.
pub const RANGE: &str = "range";

/// What a consumer joins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// What it wants to read.
    pub topics: Vec<String>,
    /// For the assignor.
    pub user_data: Option<Bytes>,
    /// What it holds on to, in cooperative protocols.
    pub owned: Vec<(String, Vec<i32>)>,
    /// The generation in which it came to own them; -1: none.
    pub generation: i32,
    /// Where it runs.
    pub rack: Option<String>,
}

/// What the leader gives a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// By topic.
    pub partitions: Vec<(String, Vec<i32>)>,
    /// From the assignor.
    pub user_data: Option<Bytes>,
}

impl Subscription {
    /// To these topics, owning nothing.
    #[must_use]
    pub fn to(topics: Vec<String>) -> Self {
        Self { topics, user_data: None, owned: Vec::new(), generation: -1, rack: None }
    }

    /// The bytes in `version`, 0 to [`VERSION_MAX`]; what it has no field for is left out.
    #[must_use]
    pub fn encode(&self, version: i16) -> Bytes {
        let mut writer = Writer::default();
        writer.i16(version);
        writer.list(self.topics.iter(), |writer, topic| {
            writer.string(topic);
        });
        writer.nullable_bytes(self.user_data.as_deref());
        if version >= 1 {
            write_partitions(&mut writer, &self.owned);
        }
        if version >= 2 {
            writer.i32(self.generation);
        }
        if version >= 3 {
            writer.nullable_string(self.rack.as_deref());
        }
        writer.finish()
    }

    /// Reads what any client wrote.
    ///
    /// # Errors
    /// [`CodecError`] when these are not a subscription.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let version = reader.i16()?;
        let topics = reader.list(Reader::string)?;
        Ok(Self {
            topics,
            user_data: reader.nullable_bytes()?,
            owned: if version >= 1 { read_partitions(&mut reader)? } else { Vec::new() },
            generation: if version >= 2 { reader.i32()? } else { -1 },
            rack: if version >= 3 { reader.nullable_string()? } else { None },
        })
    }
}

impl Assignment {
    /// The bytes in `version`, 0 to [`VERSION_MAX`].
    #[must_use]
    pub fn encode(&self, version: i16) -> Bytes {
        let mut writer = Writer::default();
        writer.i16(version);
        write_partitions(&mut writer, &self.partitions);
        writer.nullable_bytes(self.user_data.as_deref());
        writer.finish()
    }

    /// Reads what any leader wrote. No bytes at all are an empty assignment: the leader forgot the member.
    ///
    /// # Errors
    /// [`CodecError`] when these are not an assignment.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut reader = Reader::new(bytes);
        reader.i16()?;
        Ok(Self { partitions: read_partitions(&mut reader)?, user_data: reader.nullable_bytes()? })
    }
}

/// The topics of a subscription, which stand first in every version.
///
/// # Errors
/// [`CodecError`] when there are none.
pub fn subscribed_topics(bytes: &[u8]) -> Result<Vec<String>, CodecError> {
    let mut reader = Reader::new(bytes);
    reader.i16()?;
    reader.list(Reader::string)
}

/// The version of a subscription or of an assignment; 0 where there is none.
#[must_use]
pub fn version(bytes: &[u8]) -> i16 {
    Reader::new(bytes).i16().unwrap_or(0)
}

fn write_partitions(writer: &mut Writer, topics: &[(String, Vec<i32>)]) {
    writer.list(topics.iter(), |writer, (topic, partitions)| {
        writer.string(topic).list(partitions.iter(), |writer, partition| {
            writer.i32(*partition);
        });
    });
}

fn read_partitions(reader: &mut Reader<'_>) -> Result<Vec<(String, Vec<i32>)>, CodecError> {
    reader.list(|reader| Ok((reader.string()?, reader.list(Reader::i32)?)))
}

/// A consumer, as an assignor sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    /// Its id in the group.
    pub member_id: String,
    /// Its `group.instance.id`.
    pub instance_id: Option<String>,
    /// What it wants to read.
    pub topics: Vec<String>,
}

/// Kafka's `RangeAssignor`, without racks: each topic is cut into as many ranges of neighbouring partitions as it has
/// subscribers, the first ones longer by one where it does not come out even. Static members come first, by instance
/// id, so that they keep their ranges over restarts; then the others by member id.
///
/// `partition_counts` holds the topics that exist. Every subscriber is in the result.
#[must_use]
pub fn assign_ranges(
    partition_counts: &BTreeMap<String, i32>,
    subscribers: &[Subscriber],
) -> BTreeMap<String, Vec<TopicPartition>> {
    let mut assignment: BTreeMap<String, Vec<TopicPartition>> =
        subscribers.iter().map(|subscriber| (subscriber.member_id.clone(), Vec::new())).collect();
    for (topic, &count) in partition_counts {
        let mut readers: Vec<&Subscriber> =
            subscribers.iter().filter(|subscriber| subscriber.topics.contains(topic)).collect();
        readers.sort_by_key(|reader| (reader.instance_id.is_none(), &reader.instance_id, &reader.member_id));
        let Ok(reader_count) = i32::try_from(readers.len()) else { continue };
        let mut start = 0;
        for (index, reader) in (0..).zip(readers) {
            let len = count / reader_count + i32::from(index < count % reader_count);
            let range = (start..start + len).map(|partition| TopicPartition::new(topic, partition));
            assignment.entry(reader.member_id.clone()).or_default().extend(range);
            start += len;
        }
    }
    assignment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Subscription {
        Subscription {
            topics: vec!["a".into(), "b".into()],
            user_data: Some(Bytes::from_static(b"u")),
            owned: vec![("a".into(), vec![0, 2])],
            generation: 4,
            rack: Some("r".into()),
        }
    }

    #[test]
    fn the_bytes_are_kafkas() {
        let bytes = Subscription::to(vec!["a".into()]).encode(0);
        assert_eq!(bytes, &b"\0\0\0\0\0\x01\0\x01a\xff\xff\xff\xff"[..]);
        let assignment = Assignment { partitions: vec![("a".into(), vec![1])], user_data: None };
        assert_eq!(assignment.encode(1), &b"\0\x01\0\0\0\x01\0\x01a\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff"[..]);
    }

    #[test]
    fn each_version_keeps_what_it_has_fields_for() {
        let nothing_owned = Subscription { owned: vec![], generation: -1, rack: None, ..full() };
        let expected = [
            nothing_owned.clone(),
            Subscription { owned: full().owned, ..nothing_owned },
            Subscription { rack: None, ..full() },
            full(),
        ];
        for (version, expected) in (0..).zip(expected) {
            let bytes = full().encode(version);
            assert_eq!(Subscription::decode(&bytes).unwrap(), expected, "version {version}");
            assert_eq!(subscribed_topics(&bytes).unwrap(), full().topics);
            let assignment = Assignment { partitions: full().owned, user_data: full().user_data };
            assert_eq!(Assignment::decode(&assignment.encode(version)).unwrap(), assignment);
        }
    }

    #[test]
    fn newer_versions_are_read_as_the_newest_and_garbage_is_refused() {
        let mut newer = full().encode(3).to_vec();
        newer[1] = 9;
        newer.extend(b"more");
        assert_eq!(Subscription::decode(&newer).unwrap(), full());
        assert_eq!(Assignment::decode(b"").unwrap(), Assignment::default());
        assert_eq!(subscribed_topics(b"\0\0\x7f\xff\xff\xff"), Err(CodecError::Truncated));
        for cut in 0..full().encode(3).len() {
            assert!(Subscription::decode(&full().encode(3)[..cut]).is_err());
        }
    }

    #[test]
    fn ranges() {
        #[track_caller]
        fn check(
            counts: &[(&str, i32)],
            members: &[(&str, Option<&str>, &[&str])],
            expected: &[(&str, &str)],
        ) {
            let counts = counts.iter().map(|(topic, count)| ((*topic).to_owned(), *count)).collect();
            let subscribers: Vec<Subscriber> = members
                .iter()
                .map(|(id, instance, topics)| Subscriber {
                    member_id: (*id).into(),
                    instance_id: instance.map(str::to_owned),
                    topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
                })
                .collect();
            let shown: Vec<(String, String)> = assign_ranges(&counts, &subscribers)
                .into_iter()
                .map(|(id, partitions)| {
                    (id, partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
                })
                .collect();
            let expected: Vec<(String, String)> =
                expected.iter().map(|(id, partitions)| ((*id).into(), (*partitions).into())).collect();
            assert_eq!(shown, expected);
        }
        let t: &[&str] = &["t"];
        check(&[("t", 3)], &[("b", None, t), ("a", None, t)], &[("a", "t-0 t-1"), ("b", "t-2")]);
        check(&[("t", 1)], &[("a", None, t), ("b", None, t)], &[("a", "t-0"), ("b", "")]);
        check(&[("t", 2)], &[("a", None, t), ("b", Some("i"), t)], &[("a", "t-1"), ("b", "t-0")]);
        check(&[("t", 2)], &[("a", Some("2"), t), ("b", Some("1"), t)], &[("a", "t-1"), ("b", "t-0")]);
        check(
            &[("t", 1), ("u", 3)],
            &[("a", None, &["t", "u"]), ("b", None, &["u", "gone"])],
            &[("a", "t-0 u-0 u-1"), ("b", "u-2")],
        );
        check(&[("t", 3)], &[("a", None, &[])], &[("a", "")]);
        check(&[("t", 3)], &[], &[]);
    }
}
