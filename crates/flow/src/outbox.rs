//! Records on their way out, gathered into batches per partition.

use std::collections::BTreeMap;

use anabranch_core::TopicPartition;
use anabranch_core::batch::{BatchBuilder, Compression, Record};
use bytes::Bytes;

use crate::FlowError;
use crate::partitioner::partition_of;

/// A batch is closed when it has grown to this; Kafka's topics take about 1 MiB unless told otherwise.
const BATCH_BYTES: usize = 256 << 10;

/// A topic that a flow writes.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    pub(crate) topic: String,
    pub(crate) partitions: i32,
}

/// Batches for one partition, in order.
pub(crate) type Outgoing = BTreeMap<TopicPartition, Vec<Bytes>>;

/// What is to be appended with the next commit.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    open: BTreeMap<TopicPartition, BatchBuilder>,
    closed: Outgoing,
    len_bytes: usize,
}

impl Outbox {
    /// Adds a result, whose key decides its partition.
    pub(crate) fn push_keyed(&mut self, to: &Outlet, record: &Record) -> Result<(), FlowError> {
        let Some(key) = &record.key else {
            return Err(FlowError::KeylessResult { topic: to.topic.clone() });
        };
        self.push(TopicPartition::new(&to.topic, partition_of(key, to.partitions)), record)
    }

    /// Adds a record that was read from the partition `from`; records keep their order.
    pub(crate) fn push_aside(&mut self, to: &Outlet, from: i32, record: &Record) -> Result<(), FlowError> {
        self.push(TopicPartition::new(&to.topic, from % to.partitions), record)
    }

    /// Bytes of records so far.
    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Everything so far.
    pub(crate) fn take(&mut self) -> Result<Outgoing, FlowError> {
        while let Some((to, batch)) = self.open.pop_first() {
            self.close(to, batch)?;
        }
        self.len_bytes = 0;
        Ok(std::mem::take(&mut self.closed))
    }

    fn push(&mut self, to: TopicPartition, record: &Record) -> Result<(), FlowError> {
        let batch = self.open.entry(to.clone()).or_insert_with(|| BatchBuilder::new(Compression::None));
        let before_bytes = batch.len_bytes();
        self.len_bytes += batch.push(record).len_bytes() - before_bytes;
        if batch.len_bytes() >= BATCH_BYTES
            && let Some(batch) = self.open.remove(&to)
        {
            self.close(to, batch)?;
        }
        Ok(())
    }

    fn close(&mut self, to: TopicPartition, mut batch: BatchBuilder) -> Result<(), FlowError> {
        let bytes =
            batch.build().map_err(|source| FlowError::Unwritable { topic: to.topic.clone(), source })?;
        self.closed.entry(to).or_default().push(bytes);
        Ok(())
    }
}
