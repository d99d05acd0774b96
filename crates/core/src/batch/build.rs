//! Writes batches, for whoever has records and not bytes: in-process producers, internal topics, flows.

use bytes::{BufMut, Bytes};

use super::{
    BATCH_HEADER_BYTES, BATCH_LENGTH_PREFIX_BYTES, BatchError, CONTROL, CRC_AT, CRC_FROM, Compression,
    Record, TRANSACTIONAL,
};
use crate::{ProducerEpoch, ProducerId};

/// Gathers records into one batch, from base offset 0; whoever stores it patches the offset.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    compression: Compression,
    producer: (ProducerId, ProducerEpoch, i32),
    /// Attributes beside the codec.
    flags: i16,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    count: i32,
    /// Room for the header, and the records.
    bytes: Vec<u8>,
}

/// Kafka's batch length is an i32; this leaves room for the header.
const RECORDS_BYTES_MAX: usize = i32::MAX as usize - 1024;

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            producer: (ProducerId::NONE, ProducerEpoch::NONE, -1),
            flags: 0,
            base_timestamp_ms: super::NO_TIMESTAMP,
            max_timestamp_ms: super::NO_TIMESTAMP,
            count: 0,
            bytes: Vec::new(),
        }
    }

    /// Sets memory for `len_bytes` of records aside, so that gathering them does not copy them.
    pub fn reserve(&mut self, len_bytes: usize) -> &mut Self {
        self.bytes.reserve_exact(BATCH_HEADER_BYTES + len_bytes);
        self
    }

    /// Marks the batch as an idempotent producer's, its first record having `sequence`.
    pub fn producer(&mut self, id: ProducerId, epoch: ProducerEpoch, sequence: i32) -> &mut Self {
        self.producer = (id, epoch, sequence);
        self
    }

    /// Makes the batch part of its producer's transaction.
    pub fn transactional(&mut self) -> &mut Self {
        self.flags |= TRANSACTIONAL;
        self
    }

    /// Makes it the end of the transaction.
    pub(super) fn control(&mut self) -> &mut Self {
        self.flags |= TRANSACTIONAL | CONTROL;
        self
    }

    /// Adds a record at the end.
    pub fn push(&mut self, record: &Record) -> &mut Self {
        if self.count == 0 {
            self.base_timestamp_ms = record.timestamp_ms;
            self.bytes.resize(BATCH_HEADER_BYTES, 0);
        }
        let delta_ms = record.timestamp_ms.wrapping_sub(self.base_timestamp_ms);
        record.write(&mut self.bytes, self.count, delta_ms);
        self.max_timestamp_ms = self.max_timestamp_ms.max(record.timestamp_ms);
        self.count += 1;
        self
    }

    /// Bytes of the records so far, before compression.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(BATCH_HEADER_BYTES)
    }

    /// Records so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// The batch; the builder has no records afterwards, also when that fails.
    ///
    /// # Errors
    /// [`BatchError::Invalid`] without records, [`BatchError::TooLarge`] beyond 2 GiB.
    pub fn build(&mut self) -> Result<Bytes, BatchError> {
        if self.count == 0 {
            return Err(BatchError::Invalid("no records"));
        }
        let count = std::mem::take(&mut self.count);
        let max_timestamp_ms = std::mem::replace(&mut self.max_timestamp_ms, super::NO_TIMESTAMP);
        let codec = self.compression;
        let undecompressable =
            |error: std::io::Error| BatchError::Undecompressable { codec, reason: error.to_string() };
        let records_bytes = self.len_bytes();
        let mut bytes = std::mem::take(&mut self.bytes);
        if codec != Compression::None {
            let compressed = codec.compress(&bytes[BATCH_HEADER_BYTES..]).map_err(undecompressable)?;
            bytes.truncate(BATCH_HEADER_BYTES);
            bytes.extend_from_slice(&compressed);
        }
        if records_bytes.max(bytes.len() - BATCH_HEADER_BYTES) > RECORDS_BYTES_MAX {
            return Err(BatchError::TooLarge { max_bytes: RECORDS_BYTES_MAX as u64 });
        }
        let length = (bytes.len() - BATCH_LENGTH_PREFIX_BYTES) as i32;
        let mut head = &mut bytes[..BATCH_HEADER_BYTES];
        head.put_i64(0); // base offset
        head.put_i32(length);
        head.put_i32(-1); // leader epoch: not known to a producer
        head.put_i8(2); // magic
        head.put_u32(0); // checksum, below
        head.put_i16(codec as i16 | self.flags);
        head.put_i32(count - 1);
        head.put_i64(self.base_timestamp_ms);
        head.put_i64(max_timestamp_ms);
        head.put_i64(self.producer.0.0);
        head.put_i16(self.producer.1.0);
        head.put_i32(self.producer.2);
        head.put_i32(count);
        let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        Ok(bytes.into())
    }
}
