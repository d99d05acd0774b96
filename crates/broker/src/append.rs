//! Appending records from inside the process.

use anabranch_core::batch::{BATCH_HEADER_BYTES, BatchBuilder, Compression, Header, NO_TIMESTAMP, Record};
use anabranch_core::budget::{OverBudget, Permit};
use anabranch_core::{Offset, partition_of};
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
            Some(key) => partition_of(key, self.partition_count),
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
