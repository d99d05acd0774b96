//! Control batches: what the broker writes between the records of clients. The one kind here is the end of a transaction
//! (source: Kafka's `ControlRecordType` and `EndTransactionMarker`). One record, big-endian:
//!
//! ```text
//! key    version i16 0 | type i16: 0 abort, 1 commit
//! value  version i16 0 | coordinator epoch i32
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Batch, BatchBuilder, BatchError, Compression, Record, check_batch};
use crate::{ProducerEpoch, ProducerId};

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndKind {
    /// Nothing of it is there.
    Abort = 0,
    /// All of it is there.
    Commit = 1,
}

/// The end of a transaction in one partition. Whose it is, and in which epoch, stands in the batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndMarker {
    /// How it ended.
    pub kind: EndKind,
    /// Of the coordinator that says so.
    pub coordinator_epoch: i32,
}

impl EndMarker {
    /// The batch that ends `producer`'s transaction, of one record at `now_ms`.
    #[must_use]
    pub fn batch(self, producer: ProducerId, epoch: ProducerEpoch, now_ms: i64) -> Batch {
        let (mut key, mut value) = (BytesMut::with_capacity(4), BytesMut::with_capacity(6));
        key.put_i16(0);
        key.put_i16(self.kind as i16);
        value.put_i16(0);
        value.put_i32(self.coordinator_epoch);
        let record = Record::new(key.freeze(), value.freeze()).at(now_ms);
        let mut builder = BatchBuilder::new(Compression::None);
        builder.producer(producer, epoch, -1).control().push(&record);
        let bytes = builder.build().expect("one small record is a batch");
        check_batch(&bytes).expect("what was just built is whole")
    }

    /// `None` if this is another kind of control record.
    fn of(key: Bytes, value: Bytes) -> Result<Option<Self>, BatchError> {
        // Later versions add fields at the end.
        let fields = |mut key: Bytes, mut value: Bytes| {
            let key = (key.try_get_i16().ok()?, key.try_get_i16().ok()?);
            Some((key, value.try_get_i16().ok(), value.try_get_i32().ok()))
        };
        let malformed = BatchError::Invalid("its control record cannot be read");
        let Some(((key_version, kind), value_version, coordinator_epoch)) = fields(key, value) else {
            return Err(malformed);
        };
        let kind = match kind {
            0 => EndKind::Abort,
            1 => EndKind::Commit,
            _ => return Ok(None),
        };
        match (value_version, coordinator_epoch) {
            (Some(value_version), Some(coordinator_epoch)) if key_version.min(value_version) >= 0 => {
                Ok(Some(Self { kind, coordinator_epoch }))
            }
            _ => Err(malformed),
        }
    }
}

impl Batch {
    /// The end of a transaction that this batch is; `None` if it is something else, or compaction has emptied it.
    ///
    /// # Errors
    /// [`BatchError`] if it is a control batch that cannot be read.
    pub fn end_marker(&self) -> Result<Option<EndMarker>, BatchError> {
        if !self.header().is_control() || self.header().record_count == 0 {
            return Ok(None);
        }
        let record = self.records()?.into_iter().next().map(|at| at.record);
        match record {
            Some(Record { key: Some(key), value, .. }) => EndMarker::of(key, value.unwrap_or_default()),
            _ => Err(BatchError::Invalid("its control record cannot be read")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_back() {
        for kind in [EndKind::Abort, EndKind::Commit] {
            let marker = EndMarker { kind, coordinator_epoch: 7 };
            let batch = marker.batch(ProducerId(5), ProducerEpoch(3), 1000);
            let header = batch.header();
            assert_eq!(batch.end_marker(), Ok(Some(marker)));
            assert_eq!((header.attributes, header.base_sequence, header.record_count), (0x30, -1, 1));
            assert_eq!((header.producer_id, header.producer_epoch), (ProducerId(5), ProducerEpoch(3)));
            assert_eq!((header.base_timestamp_ms, header.max_timestamp_ms), (1000, 1000));
            assert_eq!(batch.bytes().len(), 78, "as long as Kafka's");
            assert_eq!(batch.emptied().end_marker(), Ok(None));
        }
    }

    #[test]
    fn what_is_no_marker_is_told() {
        let read = |key: &'static [u8], value: &'static [u8]| {
            let mut builder = BatchBuilder::new(Compression::None);
            builder.producer(ProducerId(5), ProducerEpoch(3), -1).control().push(&Record::new(key, value));
            check_batch(&builder.build().unwrap()).unwrap().end_marker()
        };
        let commit = EndMarker { kind: EndKind::Commit, coordinator_epoch: 1 };
        assert_eq!(read(&[0, 0, 0, 1], &[0, 0, 0, 0, 0, 1]), Ok(Some(commit)));
        assert_eq!(read(&[0, 1, 0, 1, 9], &[0, 1, 0, 0, 0, 1, 9]), Ok(Some(commit)), "a later version");
        assert_eq!(read(&[0, 0, 0, 2], &[]), Ok(None), "a change of leaders");
        for (key, value) in [
            (&[0, 0, 0][..], &[0, 0, 0, 0, 0, 1][..]),
            (&[0, 0, 0, 1], &[0, 0, 0, 0, 0]),
            (&[0, 0, 0, 0], &[]),
            (&[0xff, 0xff, 0, 1], &[0, 0, 0, 0, 0, 1]),
            (&[0, 0, 0, 1], &[0xff, 0xff, 0, 0, 0, 1]),
        ] {
            assert!(matches!(read(key, value), Err(BatchError::Invalid(_))), "{key:?} {value:?}");
        }
        let mut builder = BatchBuilder::new(Compression::None);
        builder.producer(ProducerId(5), ProducerEpoch(3), 0).transactional();
        builder.push(&Record::new([0, 0, 0, 1].as_slice(), [0, 0, 0, 0, 0, 1].as_slice()));
        let data = check_batch(&builder.build().unwrap()).unwrap();
        assert!(data.header().is_transactional() && !data.header().is_control());
        assert_eq!(data.end_marker(), Ok(None), "a client's record that looks like one");
    }
}
