//! Appending records from inside the process.

use anabranch_core::Offset;
use anabranch_core::batch::{BATCH_HEADER_BYTES, BatchBuilder, Compression, Header, NO_TIMESTAMP, Record};
use anabranch_core::budget::{OverBudget, Permit};
use anabranch_log::Ack;
use bytes::Bytes;

use crate::catalogue::Topic;
use crate::error::ProduceError;
use crate::partition::{Partition, Produced};

/// Where a record ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Which partition.
    pub partition: i32,
    /// Where in it.
    pub offset: Offset,
}

impl Topic {
    /// Appends one record; it survives power loss when this returns. Records with equal keys go to the same partition,
    /// the one that Kafka's clients choose too; records without a key go to each partition in turn. A record without a
    /// timestamp gets the present.
    ///
    /// # Errors
    /// [`ProduceError`].
    pub async fn append(&self, record: Record) -> Result<Appended, ProduceError> {
        self.append_with(record, Ack::Durable).await
    }

    /// The same with a weaker promise, if wanted: after [`Ack::Written`], a record survives the death of the process, and
    /// not the loss of power.
    ///
    /// # Errors
    /// [`ProduceError`].
    pub async fn append_with(&self, record: Record, ack: Ack) -> Result<Appended, ProduceError> {
        let partition = self.partition_of(record.key.as_deref());
        let produced = self.append_batch(partition, vec![record], ack).await?;
        Ok(Appended { partition, offset: produced.base_offset })
    }

    /// Appends records as one batch: all of them or none are there afterwards, at offsets that follow one another.
    ///
    /// # Errors
    /// [`ProduceError`].
    pub async fn append_batch(
        &self,
        partition: i32,
        records: Vec<Record>,
        ack: Ack,
    ) -> Result<Produced, ProduceError> {
        let to = self.partition(partition).ok_or_else(|| ProduceError::unknown(self.name(), partition))?;
        to.append_records(records, ack).await
    }

    /// The partition of records with this key.
    #[must_use]
    pub fn partition_of(&self, key: Option<&[u8]>) -> i32 {
        match key {
            // Kafka's DefaultPartitioner: the sign bit is dropped, not the sign.
            Some(key) => (murmur2(key) & 0x7fff_ffff) as i32 % self.partition_count,
            None => self.next_keyless(),
        }
    }
}

impl Partition {
    async fn append_records(&self, records: Vec<Record>, ack: Ack) -> Result<Produced, ProduceError> {
        let bytes = self.build(BatchBuilder::new(Compression::None), records).await?;
        self.produce(bytes, ack).await
    }

    /// A batch of `records`, in memory that is taken for it.
    pub(crate) async fn build(
        &self,
        mut builder: BatchBuilder,
        records: Vec<Record>,
    ) -> Result<Bytes, ProduceError> {
        let now_ms = self.clock().now_ms();
        let bytes = records.iter().map(bytes_max).sum();
        let permit = self.memory_for(BATCH_HEADER_BYTES + bytes).await?;
        builder.reserve(bytes);
        for record in records {
            let stamped = if record.timestamp_ms == NO_TIMESTAMP { record.at(now_ms) } else { record };
            builder.push(&stamped);
        }
        Ok(permit.attach(builder.build()?))
    }

    /// Memory for a batch, before it is built.
    async fn memory_for(&self, bytes: usize) -> Result<Permit, ProduceError> {
        let over = |over: OverBudget| ProduceError::TooLarge { bytes, max_bytes: over.budget_bytes };
        self.memory().requests().acquire(bytes).await.map_err(over)
    }
}

/// What a record takes in a batch, at most: lengths and deltas take some 30 bytes, and a header's two lengths 10.
fn bytes_max(record: &Record) -> usize {
    let of_header = |header: &Header| header.key.len() + header.value.as_ref().map_or(0, Bytes::len) + 10;
    let own = record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len);
    own + record.headers.iter().map(of_header).sum::<usize>() + 30
}

/// MurmurHash2, 32 bits (Austin Appleby, public domain), with the seed of Kafka's clients.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let word = u32::from_le_bytes(word.try_into().expect("a chunk has four bytes")).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ (word ^ (word >> 24)).wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_in_kafkas_clients() {
        // Kafka's own test values (UtilsTest.testMurmur2).
        let known = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, expected) in known {
            assert_eq!(murmur2(key.as_bytes()) as i32, expected, "{key}");
        }
    }
}
