//! The records of a group in the consumer protocol, byte for byte as Kafka writes them.
//!
//! Keys have the classic encoding, values the flexible one. Source: Kafka's `ConsumerGroup*Key.json` and
//! `ConsumerGroup*Value.json`.
//!
//! ```text
//! key 3   group                   epoch: i32                                            tag 0 hash: i64
//! key 5   group, member           instance, rack: string?, client, host: string, topics: [string], pattern: string?,
//!                                 rebalance timeout: i32, assignor: string?             tag 0 classic: nullable struct of
//!                                 session timeout: i32, protocols: [name: string, metadata: bytes]
//! key 6   group                   epoch: i32                                            tag 0 computed at: i64
//! key 7   group, member           target: [topic: uuid, partitions: [i32]]
//! key 8   group, member           epoch, previous epoch: i32, state: i8,
//!                                 assigned, revoking: [topic: uuid, partitions: [i32]   tag 0 epochs: [i32]?]
//! key 16  group, pattern          topics: [string], version, resolved at: i64
//! ```
//!
//! Key 4 was the topics of the group before Kafka 4.1, and is left alone.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_core::TopicId;
use bytes::Bytes;

use super::member::State;
use crate::group::record::{EncodedRecord, RecordError};
use crate::kafka_record::{CodecError, Reader, Writer};

const EPOCH: i16 = 3;
const MEMBER: i16 = 5;
const TARGET_EPOCH: i16 = 6;
const TARGET: i16 = 7;
const CURRENT: i16 = 8;
const PATTERN: i16 = 16;
/// Of every value.
const VERSION: i16 = 0;

/// Partitions by topic.
pub(crate) type Partitions = BTreeMap<TopicId, BTreeSet<i32>>;

/// Partitions by topic, each with the epoch in which its member got it (KIP-1251).
pub(crate) type Held = BTreeMap<TopicId, BTreeMap<i32, i32>>;

/// One record; without a value it deletes what its key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsumerRecord {
    /// The group's epoch.
    Epoch(Option<EpochValue>),
    /// What a member said of itself.
    Member(String, Option<Box<MemberValue>>),
    /// The epoch for which the assignor has run.
    TargetEpoch(Option<TargetEpochValue>),
    /// What a member shall have.
    Target(String, Option<TargetValue>),
    /// What a member has.
    Current(String, Option<CurrentValue>),
    /// What a regular expression matches.
    Pattern(String, Option<PatternValue>),
}

/// The value of key 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochValue {
    /// Grows with each change of members, subscriptions or topics.
    pub epoch: i32,
    /// Of the topics that the group reads.
    pub topics_hash: i64,
}

/// The value of key 5.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberValue {
    /// Its `group.instance.id`.
    pub instance_id: Option<String>,
    /// Where it runs.
    pub rack_id: Option<String>,
    /// As the client calls itself.
    pub client_id: String,
    /// Its address.
    pub client_host: String,
    /// What it wants to read, by name.
    pub topics: BTreeSet<String>,
    /// And by regular expression.
    pub pattern: Option<String>,
    /// How long it may take to give partitions up.
    pub rebalance_timeout_ms: i32,
    /// Who shall assign.
    pub assignor: Option<String>,
    /// Of a member in the classic protocol.
    pub classic: Option<ClassicValue>,
}

/// What a member in the classic protocol said when it joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassicValue {
    /// How long it may be silent.
    pub session_timeout_ms: i32,
    /// Name and metadata, the preferred first; at least one.
    pub protocols: Vec<(String, Bytes)>,
}

impl ClassicValue {
    /// The protocols' names, each once.
    pub(super) fn names(&self) -> BTreeSet<&str> {
        self.protocols.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// The value of key 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetEpochValue {
    /// The group's epoch that the target is for.
    pub epoch: i32,
    /// When it was computed, ms since the Unix epoch; 0: not told.
    pub computed_ms: i64,
}

/// The value of key 7.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetValue {
    /// The partitions.
    pub(crate) partitions: Partitions,
}

/// The value of key 8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentValue {
    /// What the member is expected to say.
    pub epoch: i32,
    /// What it may say if an answer was lost.
    pub previous_epoch: i32,
    /// Where it is on the way to its target.
    pub(crate) state: State,
    /// What it reads.
    pub(crate) assigned: Held,
    /// What it must give up.
    pub(crate) revoking: Held,
}

/// The value of key 16.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PatternValue {
    /// The topics that match.
    pub topics: BTreeSet<String>,
    /// Of the metadata that was looked at.
    pub version: i64,
    /// When, ms since the Unix epoch.
    pub resolved_ms: i64,
}

impl ConsumerRecord {
    pub(crate) fn encode(&self, group: &str) -> EncodedRecord {
        let (kind, name) = match self {
            Self::Epoch(_) => (EPOCH, None),
            Self::Member(id, _) => (MEMBER, Some(id)),
            Self::TargetEpoch(_) => (TARGET_EPOCH, None),
            Self::Target(id, _) => (TARGET, Some(id)),
            Self::Current(id, _) => (CURRENT, Some(id)),
            Self::Pattern(pattern, _) => (PATTERN, Some(pattern)),
        };
        let mut key = Writer::default();
        key.i16(kind).string(group);
        if let Some(name) = name {
            key.string(name);
        }
        let value = match self {
            Self::Epoch(value) => value.as_ref().map(encode_epoch),
            Self::Member(_, value) => value.as_deref().map(encode_member),
            Self::TargetEpoch(value) => value.as_ref().map(encode_target_epoch),
            Self::Target(_, value) => value.as_ref().map(encode_target),
            Self::Current(_, value) => value.as_ref().map(encode_current),
            Self::Pattern(_, value) => value.as_ref().map(encode_pattern),
        };
        EncodedRecord { key: key.finish(), value }
    }

    /// Whether it deletes.
    pub(crate) fn is_tombstone(&self) -> bool {
        match self {
            Self::Epoch(value) => value.is_none(),
            Self::Member(_, value) => value.is_none(),
            Self::TargetEpoch(value) => value.is_none(),
            Self::Target(_, value) => value.is_none(),
            Self::Current(_, value) => value.is_none(),
            Self::Pattern(_, value) => value.is_none(),
        }
    }

    /// Reads the rest of a key of `kind`; `None` when it is of no kind that is known here.
    pub(crate) fn decode(
        kind: i16,
        key: &mut Reader<'_>,
        value: Option<&[u8]>,
    ) -> Result<Option<(String, Self)>, RecordError> {
        if !matches!(kind, EPOCH | MEMBER | TARGET_EPOCH | TARGET | CURRENT | PATTERN) {
            return Ok(None);
        }
        let group = key.string()?;
        let record = match kind {
            EPOCH => Self::Epoch(read(value, decode_epoch)?),
            MEMBER => Self::Member(key.string()?, read(value, decode_member)?.map(Box::new)),
            TARGET_EPOCH => Self::TargetEpoch(read(value, decode_target_epoch)?),
            TARGET => Self::Target(key.string()?, read(value, decode_target)?),
            CURRENT => Self::Current(key.string()?, read(value, decode_current)?),
            _ => Self::Pattern(key.string()?, read(value, decode_pattern)?),
        };
        Ok(Some((group, record)))
    }
}

fn read<T>(
    value: Option<&[u8]>,
    fields: impl Fn(&mut Reader<'_>) -> Result<T, RecordError>,
) -> Result<Option<T>, RecordError> {
    let Some(bytes) = value else { return Ok(None) };
    let mut reader = Reader::new(bytes);
    match reader.i16()? {
        VERSION => {}
        newer => return Err(RecordError::ValueVersion(newer)),
    }
    let value = fields(&mut reader)?;
    reader.end()?;
    Ok(Some(value))
}

fn number(value: i64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

fn encode_epoch(value: &EpochValue) -> Bytes {
    let hash = (value.topics_hash != 0).then(|| (0, number(value.topics_hash)));
    Writer::default().i16(VERSION).i32(value.epoch).tagged(hash.as_slice()).finish()
}

fn decode_epoch(reader: &mut Reader<'_>) -> Result<EpochValue, RecordError> {
    let epoch = reader.i32()?;
    Ok(EpochValue { epoch, topics_hash: tagged_number(reader)? })
}

/// The only tagged field of a struct, a number that is 0 when it is not there.
fn tagged_number(reader: &mut Reader<'_>) -> Result<i64, CodecError> {
    let mut number = 0;
    reader.tagged(|tag, field| {
        if tag == 0 {
            number = field.i64()?;
        }
        Ok(())
    })?;
    Ok(number)
}

fn encode_member(value: &MemberValue) -> Bytes {
    // Without the field Kafka would read an empty struct, and take the member for a classic one.
    let classic = (0, encode_classic(value.classic.as_ref()));
    Writer::default()
        .i16(VERSION)
        .compact_nullable_string(value.instance_id.as_deref())
        .compact_nullable_string(value.rack_id.as_deref())
        .compact_string(&value.client_id)
        .compact_string(&value.client_host)
        .compact_list(value.topics.iter(), |writer, topic| {
            writer.compact_string(topic);
        })
        .compact_nullable_string(value.pattern.as_deref())
        .i32(value.rebalance_timeout_ms)
        .compact_nullable_string(value.assignor.as_deref())
        .tagged(&[classic])
        .finish()
}

/// A nullable struct begins with whether it is there.
fn encode_classic(value: Option<&ClassicValue>) -> Bytes {
    let mut writer = Writer::default();
    match value {
        None => writer.i8(0),
        Some(value) => writer
            .i8(1)
            .i32(value.session_timeout_ms)
            .compact_list(value.protocols.iter(), |writer, (name, metadata)| {
                writer.compact_string(name).compact_bytes(metadata).tagged(&[]);
            })
            .tagged(&[]),
    }
    .finish()
}

fn decode_classic(reader: &mut Reader<'_>) -> Result<Option<ClassicValue>, CodecError> {
    if reader.i8()? == 0 {
        return Ok(None);
    }
    let session_timeout_ms = reader.i32()?;
    let protocols = reader.compact_list(|reader| {
        let protocol = (reader.compact_string()?, reader.compact_bytes()?);
        reader.tagged(|_, _| Ok(()))?;
        Ok(protocol)
    })?;
    reader.tagged(|_, _| Ok(()))?;
    Ok(Some(ClassicValue { session_timeout_ms, protocols }))
}

fn decode_member(reader: &mut Reader<'_>) -> Result<MemberValue, RecordError> {
    let mut value = MemberValue {
        instance_id: reader.compact_nullable_string()?,
        rack_id: reader.compact_nullable_string()?,
        client_id: reader.compact_string()?,
        client_host: reader.compact_string()?,
        topics: reader.compact_list(Reader::compact_string)?.into_iter().collect(),
        pattern: reader.compact_nullable_string()?,
        rebalance_timeout_ms: reader.i32()?,
        assignor: reader.compact_nullable_string()?,
        classic: None,
    };
    reader.tagged(|tag, field| {
        if tag == 0 {
            value.classic = decode_classic(field)?;
        }
        Ok(())
    })?;
    if value.classic.as_ref().is_some_and(|classic| classic.protocols.is_empty()) {
        return Err(RecordError::Invalid("a classic member has no protocol"));
    }
    Ok(value)
}

fn encode_target_epoch(value: &TargetEpochValue) -> Bytes {
    let computed = (value.computed_ms != 0).then(|| (0, number(value.computed_ms)));
    Writer::default().i16(VERSION).i32(value.epoch).tagged(computed.as_slice()).finish()
}

fn decode_target_epoch(reader: &mut Reader<'_>) -> Result<TargetEpochValue, RecordError> {
    let epoch = reader.i32()?;
    Ok(TargetEpochValue { epoch, computed_ms: tagged_number(reader)? })
}

fn encode_target(value: &TargetValue) -> Bytes {
    let topics = value.partitions.iter();
    Writer::default()
        .i16(VERSION)
        .compact_list(topics, |writer, (topic, partitions)| {
            write_topic(writer, *topic, partitions.iter()).tagged(&[]);
        })
        .tagged(&[])
        .finish()
}

fn decode_target(reader: &mut Reader<'_>) -> Result<TargetValue, RecordError> {
    let topics = reader.compact_list(|reader| {
        let (topic, partitions) = read_topic(reader)?;
        reader.tagged(|_, _| Ok(()))?;
        Ok((topic, partitions.into_iter().collect()))
    })?;
    reader.tagged(|_, _| Ok(()))?;
    Ok(TargetValue { partitions: topics.into_iter().collect() })
}

fn write_topic<'a, 'w>(
    writer: &'w mut Writer,
    topic: TopicId,
    partitions: impl ExactSizeIterator<Item = &'a i32>,
) -> &'w mut Writer {
    writer.uuid(topic.0).compact_list(partitions, |writer, partition| {
        writer.i32(*partition);
    })
}

fn read_topic(reader: &mut Reader<'_>) -> Result<(TopicId, Vec<i32>), CodecError> {
    Ok((TopicId(reader.uuid()?), reader.compact_list(Reader::i32)?))
}

fn encode_current(value: &CurrentValue) -> Bytes {
    let mut writer = Writer::default();
    writer.i16(VERSION).i32(value.epoch).i32(value.previous_epoch).i8(value.state as i8);
    for held in [&value.assigned, &value.revoking] {
        writer.compact_list(held.iter(), |writer, (topic, partitions)| {
            let epochs = Writer::default()
                .compact_list(partitions.values(), |writer, epoch| {
                    writer.i32(*epoch);
                })
                .finish();
            write_topic(writer, *topic, partitions.keys()).tagged(&[(0, epochs)]);
        });
    }
    writer.tagged(&[]).finish()
}

fn decode_current(reader: &mut Reader<'_>) -> Result<CurrentValue, RecordError> {
    let (epoch, previous_epoch, state) = (reader.i32()?, reader.i32()?, reader.i8()?);
    let state = State::of(state).ok_or(RecordError::Invalid("a member is in a state that is not known"))?;
    let mut held = || -> Result<Held, RecordError> {
        let topics = reader.compact_list(|reader| {
            let (topic, partitions) = read_topic(reader)?;
            let mut epochs = None;
            reader.tagged(|tag, field| {
                if tag == 0 {
                    epochs = Some(field.compact_list(Reader::i32)?);
                }
                Ok(())
            })?;
            Ok((topic, partitions, epochs))
        })?;
        let mut held = Held::new();
        for (topic, partitions, epochs) in topics {
            // Older records do not have them: then any epoch of the member is new enough.
            let epochs = epochs.unwrap_or_else(|| vec![0; partitions.len()]);
            if epochs.len() != partitions.len() {
                return Err(RecordError::Invalid("a partition has no epoch"));
            }
            held.insert(topic, partitions.into_iter().zip(epochs).collect());
        }
        Ok(held)
    };
    let (assigned, revoking) = (held()?, held()?);
    reader.tagged(|_, _| Ok(()))?;
    Ok(CurrentValue { epoch, previous_epoch, state, assigned, revoking })
}

fn encode_pattern(value: &PatternValue) -> Bytes {
    Writer::default()
        .i16(VERSION)
        .compact_list(value.topics.iter(), |writer, topic| {
            writer.compact_string(topic);
        })
        .i64(value.version)
        .i64(value.resolved_ms)
        .tagged(&[])
        .finish()
}

fn decode_pattern(reader: &mut Reader<'_>) -> Result<PatternValue, RecordError> {
    let topics = reader.compact_list(Reader::compact_string)?.into_iter().collect();
    let (version, resolved_ms) = (reader.i64()?, reader.i64()?);
    reader.tagged(|_, _| Ok(()))?;
    Ok(PatternValue { topics, version, resolved_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Kafka 4.3.1 writes them: a member without the last field would be a classic one to it.
    #[test]
    fn members_of_either_protocol_have_kafkas_bytes() {
        let mut value = MemberValue {
            instance_id: Some("i".into()),
            client_id: "c".into(),
            client_host: "/h".into(),
            topics: BTreeSet::from(["t".to_owned()]),
            pattern: Some(String::new()),
            rebalance_timeout_ms: 2,
            ..MemberValue::default()
        };
        let common = b"\0\0\x02i\0\x02c\x03/h\x02\x02t\x01\0\0\0\x02\0";
        let check = |value: &MemberValue, end: &[u8]| {
            let bytes = encode_member(value);
            assert_eq!(bytes, [&common[..], end].concat());
            let mut reader = Reader::new(&bytes[2..]);
            assert_eq!(decode_member(&mut reader).as_ref(), Ok(value));
        };
        check(&value, b"\x01\0\x01\0");
        let protocols = vec![("range".to_owned(), Bytes::from_static(b"s"))];
        value.classic = Some(ClassicValue { session_timeout_ms: 1, protocols });
        check(&value, b"\x01\0\x10\x01\0\0\0\x01\x02\x06range\x02s\0\0");
        let old = [&common[..], b"\0"].concat();
        value.classic = None;
        assert_eq!(decode_member(&mut Reader::new(&old[2..])), Ok(value), "as it was written here before");
    }
}
