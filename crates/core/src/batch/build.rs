//! Writes batches, for whoever has records and not bytes: in-process producers, internal topics, flows.

use bytes::{BufMut, Bytes};

use super::{
    BATCH_HEADER_BYTES, BATCH_LENGTH_PREFIX_BYTES, BatchError, CRC_AT, CRC_FROM, Compression, Record,
};
use crate::{ProducerEpoch, ProducerId};

/// Gathers records into one batch, from base offset 0; whoever stores it patches the offset.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    compression: Compression,
    producer: (ProducerId, ProducerEpoch, i32),
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    count: i32,
    records: Vec<u8>,
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
            base_timestamp_ms: super::NO_TIMESTAMP,
            max_timestamp_ms: super::NO_TIMESTAMP,
            count: 0,
            records: Vec::new(),
        }
    }

    /// Marks the batch as an idempotent producer's, its first record having `sequence`.
    pub fn producer(&mut self, id: ProducerId, epoch: ProducerEpoch, sequence: i32) -> &mut Self {
        self.producer = (id, epoch, sequence);
        self
    }

    /// Adds a record at the end.
    pub fn push(&mut self, record: &Record) -> &mut Self {
        if self.count == 0 {
            self.base_timestamp_ms = record.timestamp_ms;
        }
        let delta_ms = record.timestamp_ms.wrapping_sub(self.base_timestamp_ms);
        record.write(&mut self.records, self.count, delta_ms);
        self.max_timestamp_ms = self.max_timestamp_ms.max(record.timestamp_ms);
        self.count += 1;
        self
    }

    /// Bytes of the records so far, before compression.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.records.len()
    }

    /// Records so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// The batch.
    ///
    /// # Errors
    /// [`BatchError::Invalid`] without records, [`BatchError::TooLarge`] beyond 2 GiB.
    pub fn build(&self) -> Result<Bytes, BatchError> {
        if self.count == 0 {
            return Err(BatchError::Invalid("no records"));
        }
        let undecompressable = |error: std::io::Error| BatchError::Undecompressable {
            codec: self.compression,
            reason: error.to_string(),
        };
        let compressed;
        let records = if self.compression == Compression::None {
            &self.records
        } else {
            compressed = self.compression.compress(&self.records).map_err(undecompressable)?;
            &compressed
        };
        if self.records.len().max(records.len()) > RECORDS_BYTES_MAX {
            return Err(BatchError::TooLarge { max_bytes: RECORDS_BYTES_MAX as u64 });
        }
        let len_bytes = BATCH_HEADER_BYTES + records.len();
        let mut bytes = Vec::with_capacity(len_bytes);
        bytes.put_i64(0); // base offset
        bytes.put_i32((len_bytes - BATCH_LENGTH_PREFIX_BYTES) as i32);
        bytes.put_i32(-1); // leader epoch: not known to a producer
        bytes.put_i8(2); // magic
        bytes.put_u32(0); // checksum, below
        bytes.put_i16(self.compression as i16);
        bytes.put_i32(self.count - 1);
        bytes.put_i64(self.base_timestamp_ms);
        bytes.put_i64(self.max_timestamp_ms);
        bytes.put_i64(self.producer.0.0);
        bytes.put_i16(self.producer.1.0);
        bytes.put_i32(self.producer.2);
        bytes.put_i32(self.count);
        bytes.extend_from_slice(records);
        let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        Ok(bytes.into())
    }
}
