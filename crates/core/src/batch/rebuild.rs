//! What compaction makes of a batch: fewer records or none, in the same place, by the same producer.
//!
//! The first and the last offset stay, and so do the producer's id, epoch and first sequence number: a log of such batches
//! has gaps, and every client reads it, but no offset or sequence number moves. A batch that keeps a tombstone gets a
//! delete horizon (KIP-534): attribute 6, and the base timestamp is the time from which the tombstone may go.

use super::{
    ATTRIBUTES_AT, BATCH_HEADER_BYTES, BATCH_LENGTH_PREFIX_BYTES, Batch, BatchError, BatchHeader, CRC_AT,
    CRC_FROM, Compression, MAX_TIMESTAMP_AT, NO_TIMESTAMP, RecordAt,
};

/// The attribute that says that the base timestamp is a delete horizon.
const DELETE_HORIZON: i16 = 0x40;
const CODEC: i16 = 0x07;
const LENGTH_AT: usize = 8;
const BASE_TIMESTAMP_AT: usize = 27;
const RECORD_COUNT_AT: usize = 57;

impl BatchHeader {
    /// When the batch's tombstones may go, ms; `None` while compaction has not met them.
    #[must_use]
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp_ms)
    }
}

impl Batch {
    /// The same batch with `records` only, which must be some of its own and in order, compressed as it was. With a
    /// horizon, its tombstones may go at that time.
    ///
    /// # Errors
    /// [`BatchError::Undecompressable`] if the codec fails, [`BatchError::TooLarge`] beyond 2 GiB.
    pub fn retaining(&self, records: &[RecordAt], horizon_ms: Option<i64>) -> Result<Self, BatchError> {
        let header = self.header();
        let first_ms = records.first().map_or(NO_TIMESTAMP, |first| first.record.timestamp_ms);
        let base_timestamp_ms = horizon_ms.unwrap_or(first_ms);
        let mut block = Vec::new();
        for at in records {
            let offset_delta = at.offset.0 - header.base_offset.0;
            let offset_delta = i32::try_from(offset_delta).expect("a batch's own record lies inside it");
            at.record.write(&mut block, offset_delta, at.record.timestamp_ms.wrapping_sub(base_timestamp_ms));
        }
        let codec = header.compression()?;
        if codec != Compression::None {
            let failed =
                |error: std::io::Error| BatchError::Undecompressable { codec, reason: error.to_string() };
            block = codec.compress(&block).map_err(failed)?;
        }
        let newest_ms = records.iter().map(|at| at.record.timestamp_ms).max().unwrap_or(NO_TIMESTAMP);
        let max_timestamp_ms =
            if header.is_log_append_time() { header.max_timestamp_ms } else { newest_ms.max(NO_TIMESTAMP) };
        let attributes = match horizon_ms {
            Some(_) => header.attributes | DELETE_HORIZON,
            None => header.attributes & !DELETE_HORIZON,
        };
        self.rebuilt(attributes, (base_timestamp_ms, max_timestamp_ms), records.len(), &block)
    }

    /// The same batch without records: what is left of a batch that the log still needs, for its last offset or for its
    /// producer's last sequence number.
    #[must_use]
    pub fn emptied(&self) -> Self {
        let header = self.header();
        let attributes = header.attributes & !(DELETE_HORIZON | CODEC);
        let times = (NO_TIMESTAMP, header.max_timestamp_ms);
        self.rebuilt(attributes, times, 0, &[]).expect("a batch without records is small")
    }

    fn rebuilt(
        &self,
        attributes: i16,
        (base_timestamp_ms, max_timestamp_ms): (i64, i64),
        count: usize,
        block: &[u8],
    ) -> Result<Self, BatchError> {
        let too_large = BatchError::TooLarge { max_bytes: i32::MAX as u64 };
        let length = BATCH_HEADER_BYTES + block.len() - BATCH_LENGTH_PREFIX_BYTES;
        let length = i32::try_from(length).map_err(|_| too_large)?;
        let count = i32::try_from(count).expect("no more records than the batch had");
        let mut bytes = Vec::with_capacity(BATCH_HEADER_BYTES + block.len());
        bytes.extend_from_slice(&self.bytes()[..BATCH_HEADER_BYTES]);
        bytes.extend_from_slice(block);
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(LENGTH_AT, &length.to_be_bytes());
        put(ATTRIBUTES_AT, &attributes.to_be_bytes());
        put(BASE_TIMESTAMP_AT, &base_timestamp_ms.to_be_bytes());
        put(MAX_TIMESTAMP_AT, &max_timestamp_ms.to_be_bytes());
        put(RECORD_COUNT_AT, &count.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        super::check_batch(&bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, Record, check_batch};
    use crate::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

    const CODECS: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// Five records at 40 to 44; the fourth is a tombstone.
    fn stored(codec: Compression) -> Batch {
        let mut builder = BatchBuilder::new(codec);
        builder.producer(ProducerId(7), ProducerEpoch(2), 100);
        for number in 0..5 {
            let record = match number {
                3 => Record::tombstone("k3"),
                _ => Record::new(format!("k{number}"), format!("v{number}")).header("h", "1"),
            };
            builder.push(&record.at(1000 + number));
        }
        let batch = check_batch(&builder.build().unwrap()).unwrap();
        let mut bytes = batch.bytes().to_vec();
        let prefix = batch.stored_prefix(Offset(40), LeaderEpoch(0));
        bytes[..prefix.len()].copy_from_slice(&prefix);
        check_batch(&bytes.into()).unwrap()
    }

    #[test]
    fn what_is_kept_is_unchanged_and_in_its_place_whatever_the_codec() {
        for codec in CODECS {
            let batch = stored(codec);
            let all = batch.records().unwrap();
            let some = [all[1].clone(), all[3].clone()];
            for horizon in [None, Some(5_000_000)] {
                let kept = batch.retaining(&some, horizon).unwrap();
                let (was, is) = (batch.header(), kept.header());
                assert_eq!(kept.records().unwrap(), some, "{codec}");
                assert_eq!((is.base_offset, is.last_offset()), (was.base_offset, was.last_offset()));
                assert_eq!((is.producer_id, is.producer_epoch), (was.producer_id, was.producer_epoch));
                assert_eq!((is.base_sequence, is.last_sequence()), (was.base_sequence, was.last_sequence()));
                assert_eq!((is.leader_epoch, is.compression()), (was.leader_epoch, was.compression()));
                assert_eq!((is.record_count, is.max_timestamp_ms), (2, 1003));
                assert_eq!(is.delete_horizon_ms(), horizon);
                assert_eq!(is.base_timestamp_ms, horizon.unwrap_or(1001));
            }
        }
    }

    #[test]
    fn times_of_a_log_append_time_batch_stay() {
        let batch = stored(Compression::Lz4).with_log_append_time(9_000);
        let all = batch.records().unwrap();
        let kept = batch.retaining(&all[2..3], Some(1)).unwrap();
        assert!(kept.header().is_log_append_time());
        assert_eq!(kept.records().unwrap(), all[2..3]);
    }

    #[test]
    fn an_emptied_batch_keeps_offsets_and_producer() {
        let batch = stored(Compression::Zstd);
        let empty = batch.emptied();
        let (was, is) = (batch.header(), empty.header());
        assert_eq!(empty.bytes().len(), BATCH_HEADER_BYTES);
        assert_eq!((is.base_offset, is.next_offset()), (was.base_offset, was.next_offset()));
        assert_eq!((is.producer_id, is.last_sequence()), (was.producer_id, was.last_sequence()));
        assert_eq!((is.max_timestamp_ms, is.base_timestamp_ms), (was.max_timestamp_ms, NO_TIMESTAMP));
        assert_eq!((is.record_count, is.compression().unwrap()), (0, Compression::None));
        assert!(empty.records().unwrap().is_empty());
    }
}
