//! The way from source partitions to shards: a topic whose partitions are the shards.
//!
//! A record is there as it was in its source, with one header more, which says where it was and how far event time had come
//! there. So a shard's watermark, and what is late, are those of one process that reads the sources in this order. After
//! every step that brings news of event time, each shard is told by a *marker*, which has that header and nothing else.
//!
//! Where the topic came from another engine a *change* stands between records that have their positions there and those that
//! have them here. Shards know where that is ([`crate::state::Change`]), and pass over it; it is for who moves the topic once more.

use anabranch_core::TopicPartition;
use anabranch_core::batch::{Header, NO_TIMESTAMP, Record};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::FlowError;

/// The header's name. Its value is the [`Envelope`] in postcard's form.
const HEADER: &str = "anabranch.flow";
/// Stands in a change for the source.
const CHANGE: u32 = u32::MAX;

/// Where a record comes from, or how a source partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// The source partition's index among the flow's sources.
    pub(crate) source: u32,
    /// The record's position there; in a marker, of what is read next.
    pub(crate) position: u64,
    /// The latest event that was read there before.
    pub(crate) latest_event_ms: Option<i64>,
    /// The record's own timestamp. On its way it bears none, so that no engine has anything against it.
    pub(crate) timestamp_ms: i64,
    /// A marker tells whether the partition is idle.
    pub(crate) marker: Option<Idle>,
}

/// Whether a source partition was read to its end, and brings nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Idle(pub(crate) bool);

impl Envelope {
    /// `record` on its way to a shard; for a marker, one that is empty.
    pub(crate) fn close(self, mut record: Record) -> Result<Record, FlowError> {
        let closed = Self { timestamp_ms: record.timestamp_ms, ..self };
        record.timestamp_ms = NO_TIMESTAMP;
        let value = postcard::to_allocvec(&closed)
            .map_err(|source| FlowError::Unserialisable { what: "record's origin", source })?;
        record.headers.push(Header { key: Bytes::from_static(HEADER.as_bytes()), value: Some(value.into()) });
        Ok(record)
    }

    /// A record as it was in its source, and where that was. `at` is where it was read from.
    pub(crate) fn open(at: &TopicPartition, mut record: Record) -> Result<(Self, Record), FlowError> {
        let envelope =
            Self::of(&record).ok_or_else(|| FlowError::Repartitioned { topic: at.topic.clone() })?;
        record.headers.pop();
        Ok((envelope, record.at(envelope.timestamp_ms)))
    }

    /// What the record's last header tells.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        let header = record.headers.last().filter(|header| header.key == HEADER.as_bytes())?;
        let value = header.value.as_deref().unwrap_or_default();
        match postcard::take_from_bytes::<Self>(value).ok()? {
            (envelope, []) => Some(envelope),
            _ => None,
        }
    }

    /// What stands between positions of two engines.
    pub(crate) fn change() -> Result<Record, FlowError> {
        let marker = Some(Idle(false));
        let change =
            Self { source: CHANGE, position: 0, latest_event_ms: None, timestamp_ms: NO_TIMESTAMP, marker };
        change.to_marker()
    }

    pub(crate) fn is_change(&self) -> bool {
        self.source == CHANGE
    }

    /// The record that comes next from this source.
    pub(crate) fn next(&self) -> u64 {
        self.position + u64::from(self.marker.is_none())
    }

    /// A marker.
    pub(crate) fn to_marker(self) -> Result<Record, FlowError> {
        self.close(Record { value: None, ..Record::keyless("") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_out_as_it_went_in() {
        let at = TopicPartition::new("f-repartition", 0);
        let envelope = Envelope {
            source: 3,
            position: 1 << 40,
            latest_event_ms: Some(-7),
            timestamp_ms: 9,
            marker: None,
        };
        let record = Record::new("k", "v").header(HEADER, "somebody's own").at(9);
        let closed = envelope.close(record.clone()).unwrap();
        assert_eq!(Envelope::open(&at, closed).unwrap(), (envelope, record.clone()));
        // Its own header of that name is not taken for the flow's.
        assert!(matches!(Envelope::open(&at, record), Err(FlowError::Repartitioned { .. })));
        let marker = Envelope { marker: Some(Idle(true)), timestamp_ms: NO_TIMESTAMP, ..envelope };
        let (found, nothing) = Envelope::open(&at, marker.to_marker().unwrap()).unwrap();
        assert_eq!((found, nothing.key, nothing.value), (marker, None, None));
        assert!(Envelope::open(&at, Record::keyless("")).is_err());
    }
}
