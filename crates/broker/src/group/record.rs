//! The records of `__consumer_offsets`, byte for byte as Kafka writes them.
//!
//! Every key and value begins with an i16 version. Source: Kafka's `OffsetCommitKey.json`, `OffsetCommitValue.json`,
//! `GroupMetadataKey.json` and `GroupMetadataValue.json`.
//!
//! ```text
//! offset key      1  group topic: string, partition: i32                 (version 0 is read too)
//! offset value    3  offset: i64, leader epoch: i32, metadata: string, commit timestamp: i64
//!                 1  offset: i64, metadata: string, commit timestamp: i64, expire timestamp: i64
//! group key       2  group: string
//! group value     3  protocol type: string, generation: i32, protocol, leader: string?, since: i64, members: [
//!                      id: string, instance: string?, client, host: string, rebalance, session timeout: i32,
//!                      subscription, assignment: bytes ]
//! ```
//!
//! Groups of the consumer protocol: [`super::consumer::record`].
//!
//! A record without a value deletes what its key names. Values from version 4 on use another encoding, and are refused;
//! keys of versions that are not listed belong to other kinds of groups, and are left to others.

use bytes::Bytes;

use super::consumer::record::ConsumerRecord;
pub use crate::kafka_record::{EncodedRecord, RecordError};
use crate::kafka_record::{Reader, Writer};

const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
const OFFSET_VALUE: i16 = 3;
/// The only version with an expire timestamp.
const OFFSET_VALUE_EXPIRING: i16 = 1;
const GROUP_VALUE: i16 = 3;

/// A record, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupRecord {
    /// An offset was committed, or deleted.
    Offset {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// `None`: deleted.
        value: Option<CommittedOffset>,
    },
    /// A group has a new generation, or is deleted.
    Group {
        /// The group.
        group: String,
        /// `None`: deleted.
        value: Option<GroupMetadata>,
    },
    /// Something of a group in the consumer protocol.
    Consumer {
        /// The group.
        group: String,
        /// What.
        record: ConsumerRecord,
    },
}

/// An offset that a group committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The record to be read next.
    pub offset: i64,
    /// Of the last record that was read; -1: not told.
    pub leader_epoch: i32,
    /// What the client wanted to remember.
    pub metadata: String,
    /// When it was committed, ms since the Unix epoch.
    pub commit_ms: i64,
    /// When it ends, where the client said so.
    pub expire_ms: Option<i64>,
}

/// A generation of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetadata {
    /// Empty when the group never had members.
    pub protocol_type: String,
    /// Counted from 1.
    pub generation: i32,
    /// What the members speak.
    pub protocol: Option<String>,
    /// Who assigned.
    pub leader: Option<String>,
    /// Since when the group is in its state, ms since the Unix epoch.
    pub since_ms: Option<i64>,
    /// The members, none of an empty group.
    pub members: Vec<MemberMetadata>,
}

/// A member of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberMetadata {
    /// Its id.
    pub member_id: String,
    /// Its `group.instance.id`.
    pub instance_id: Option<String>,
    /// As the client calls itself.
    pub client_id: String,
    /// Its address.
    pub client_host: String,
    /// How long a rebalance waits for it; -1 in old records.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent.
    pub session_timeout_ms: i32,
    /// What it said for the chosen protocol.
    pub subscription: Bytes,
    /// What it was assigned.
    pub assignment: Bytes,
}

/// What [`GroupRecord::decode`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A record of a group.
    Record(GroupRecord),
    /// A key of another kind, left alone.
    Unknown {
        /// Its version, which in this topic names its kind.
        key_version: i16,
    },
}

impl GroupRecord {
    /// The bytes for the log.
    #[must_use]
    pub fn encode(&self) -> EncodedRecord {
        let mut key = Writer::default();
        match self {
            Self::Offset { group, topic, partition, value } => EncodedRecord {
                key: key.i16(OFFSET_KEY).string(group).string(topic).i32(*partition).finish(),
                value: value.as_ref().map(encode_offset),
            },
            Self::Group { group, value } => EncodedRecord {
                key: key.i16(GROUP_KEY).string(group).finish(),
                value: value.as_ref().map(encode_group),
            },
            Self::Consumer { group, record } => record.encode(group),
        }
    }

    /// Reads what [`GroupRecord::encode`] or Kafka wrote.
    ///
    /// # Errors
    /// [`RecordError`] when the bytes are damaged, or the value newer than this code.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Decoded, RecordError> {
        let mut reader = Reader::new(key);
        let key_version = reader.i16()?;
        let record = match key_version {
            0 | OFFSET_KEY => {
                let (group, topic, partition) = (reader.string()?, reader.string()?, reader.i32()?);
                let value = value.map(decode_offset).transpose()?;
                Self::Offset { group, topic, partition, value }
            }
            GROUP_KEY => Self::Group { group: reader.string()?, value: value.map(decode_group).transpose()? },
            _ => match ConsumerRecord::decode(key_version, &mut reader, value)? {
                Some((group, record)) => Self::Consumer { group, record },
                None => return Ok(Decoded::Unknown { key_version }),
            },
        };
        reader.end()?;
        Ok(Decoded::Record(record))
    }
}

fn encode_offset(value: &CommittedOffset) -> Bytes {
    let mut writer = Writer::default();
    match value.expire_ms {
        None => writer
            .i16(OFFSET_VALUE)
            .i64(value.offset)
            .i32(value.leader_epoch)
            .string(&value.metadata)
            .i64(value.commit_ms),
        Some(expire_ms) => writer
            .i16(OFFSET_VALUE_EXPIRING)
            .i64(value.offset)
            .string(&value.metadata)
            .i64(value.commit_ms)
            .i64(expire_ms),
    }
    .finish()
}

fn decode_offset(bytes: &[u8]) -> Result<CommittedOffset, RecordError> {
    let mut reader = Reader::new(bytes);
    let version = known(reader.i16()?, OFFSET_VALUE)?;
    let offset = reader.i64()?;
    let leader_epoch = if version >= 3 { reader.i32()? } else { -1 };
    let metadata = reader.string()?;
    let commit_ms = reader.i64()?;
    let expire_ms = if version == OFFSET_VALUE_EXPIRING { Some(reader.i64()?) } else { None };
    reader.end()?;
    // Kafka writes -1 for "no expiry of its own".
    Ok(CommittedOffset {
        offset,
        leader_epoch,
        metadata,
        commit_ms,
        expire_ms: expire_ms.filter(|at| *at != -1),
    })
}

fn encode_group(value: &GroupMetadata) -> Bytes {
    Writer::default()
        .i16(GROUP_VALUE)
        .string(&value.protocol_type)
        .i32(value.generation)
        .nullable_string(value.protocol.as_deref())
        .nullable_string(value.leader.as_deref())
        .i64(value.since_ms.unwrap_or(-1))
        .list(value.members.iter(), |writer, member| {
            writer
                .string(&member.member_id)
                .nullable_string(member.instance_id.as_deref())
                .string(&member.client_id)
                .string(&member.client_host)
                .i32(member.rebalance_timeout_ms)
                .i32(member.session_timeout_ms)
                .bytes(&member.subscription)
                .bytes(&member.assignment);
        })
        .finish()
}

fn decode_group(bytes: &[u8]) -> Result<GroupMetadata, RecordError> {
    let mut reader = Reader::new(bytes);
    let version = known(reader.i16()?, GROUP_VALUE)?;
    let protocol_type = reader.string()?;
    let generation = reader.i32()?;
    let protocol = reader.nullable_string()?;
    let leader = reader.nullable_string()?;
    let since_ms = if version >= 2 { Some(reader.i64()?).filter(|at| *at != -1) } else { None };
    let members = reader.list(|reader| {
        Ok(MemberMetadata {
            member_id: reader.string()?,
            instance_id: if version >= 3 { reader.nullable_string()? } else { None },
            client_id: reader.string()?,
            client_host: reader.string()?,
            rebalance_timeout_ms: if version >= 1 { reader.i32()? } else { -1 },
            session_timeout_ms: reader.i32()?,
            subscription: reader.bytes()?,
            assignment: reader.bytes()?,
        })
    })?;
    reader.end()?;
    if protocol.is_none() && !members.is_empty() {
        return Err(RecordError::Invalid("a group has members and no protocol"));
    }
    Ok(GroupMetadata { protocol_type, generation, protocol, leader, since_ms, members })
}

fn known(version: i16, newest: i16) -> Result<i16, RecordError> {
    if (0..=newest).contains(&version) { Ok(version) } else { Err(RecordError::ValueVersion(version)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka_record::CodecError;

    fn offset(value: Option<CommittedOffset>) -> GroupRecord {
        GroupRecord::Offset { group: "g".into(), topic: "t".into(), partition: 7, value }
    }

    fn committed(expire_ms: Option<i64>) -> CommittedOffset {
        CommittedOffset { offset: 5, leader_epoch: -1, metadata: "m".into(), commit_ms: 9, expire_ms }
    }

    fn group(value: Option<GroupMetadata>) -> GroupRecord {
        GroupRecord::Group { group: "g".into(), value }
    }

    fn generation() -> GroupMetadata {
        GroupMetadata {
            protocol_type: "consumer".into(),
            generation: 3,
            protocol: Some("range".into()),
            leader: Some("a".into()),
            since_ms: Some(1),
            members: vec![MemberMetadata {
                member_id: "a".into(),
                instance_id: None,
                client_id: "c".into(),
                client_host: "/h".into(),
                rebalance_timeout_ms: 2,
                session_timeout_ms: 1,
                subscription: Bytes::from_static(b"s"),
                assignment: Bytes::new(),
            }],
        }
    }

    fn decode(record: &EncodedRecord) -> Result<Decoded, RecordError> {
        GroupRecord::decode(&record.key, record.value.as_deref())
    }

    #[test]
    fn the_bytes_are_kafkas() {
        let record = offset(Some(committed(None))).encode();
        assert_eq!(record.key, &b"\0\x01\0\x01g\0\x01t\0\0\0\x07"[..]);
        let value = b"\0\x03\0\0\0\0\0\0\0\x05\xff\xff\xff\xff\0\x01m\0\0\0\0\0\0\0\x09";
        assert_eq!(record.value.unwrap(), &value[..]);

        let record = group(Some(generation())).encode();
        assert_eq!(record.key, &b"\0\x02\0\x01g"[..]);
        let mut value = b"\0\x03\0\x08consumer\0\0\0\x03\0\x05range\0\x01a\0\0\0\0\0\0\0\x01".to_vec();
        value.extend(b"\0\0\0\x01\0\x01a\xff\xff\0\x01c\0\x02/h\0\0\0\x02\0\0\0\x01\0\0\0\x01s\0\0\0\0");
        assert_eq!(record.value.unwrap(), value);
    }

    #[test]
    fn every_record_comes_back() {
        for record in [
            offset(None),
            offset(Some(committed(None))),
            offset(Some(committed(Some(77)))),
            group(None),
            group(Some(generation())),
            group(Some(GroupMetadata { protocol: None, leader: None, members: vec![], ..generation() })),
        ] {
            assert_eq!(decode(&record.encode()), Ok(Decoded::Record(record)));
        }
    }

    #[test]
    fn old_versions_are_read() {
        let key = b"\0\0\0\x01g\0\x01t\0\0\0\x07";
        let value = b"\0\0\0\0\0\0\0\0\0\x05\0\x01m\0\0\0\0\0\0\0\x09";
        let read = GroupRecord::decode(key, Some(value));
        assert_eq!(read, Ok(Decoded::Record(offset(Some(committed(None))))));

        let value = b"\0\0\0\x08consumer\0\0\0\x03\0\x05range\0\x01a\0\0\0\x01\0\x01a\0\x01c\0\x02/h\0\0\0\x01\0\0\0\x01s\0\0\0\0";
        let mut expected = GroupMetadata { since_ms: None, ..generation() };
        expected.members[0].rebalance_timeout_ms = -1;
        let read = GroupRecord::decode(b"\0\x02\0\x01g", Some(value));
        assert_eq!(read, Ok(Decoded::Record(group(Some(expected)))));
    }

    #[test]
    fn other_kinds_are_skipped_and_newer_values_refused() {
        assert_eq!(GroupRecord::decode(b"\0\x0brest", None), Ok(Decoded::Unknown { key_version: 11 }));
        let newer = GroupRecord::decode(b"\0\x02\0\x01g", Some(b"\0\x04"));
        assert_eq!(newer, Err(RecordError::ValueVersion(4)));
        let orphan = GroupMetadata { protocol: None, ..generation() };
        assert!(matches!(decode(&group(Some(orphan)).encode()), Err(RecordError::Invalid(_))));
    }

    #[test]
    fn cut_or_flipped_bytes_never_panic_and_no_cut_is_read() {
        for record in [offset(Some(committed(None))), group(Some(generation()))] {
            let EncodedRecord { key, value } = record.encode();
            let value = value.unwrap();
            for cut in 0..value.len() {
                assert!(GroupRecord::decode(&key, Some(&value[..cut])).is_err());
            }
            for cut in 0..key.len() {
                assert!(GroupRecord::decode(&key[..cut], Some(&value)).is_err());
            }
            for at in 0..value.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut damaged = value.to_vec();
                    damaged[at] ^= flip;
                    let _ = GroupRecord::decode(&key, Some(&damaged));
                }
            }
            let longer = [&value[..], b"x"].concat();
            let error = RecordError::Codec(CodecError::TrailingBytes(1));
            assert_eq!(GroupRecord::decode(&key, Some(&longer)), Err(error));
        }
    }
}
