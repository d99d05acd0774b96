//! Records on their way out, gathered into batches per partition.

use std::collections::BTreeMap;

use anabranch_core::batch::{BatchBuilder, BatchError, Compression, Record};
use anabranch_core::{TopicPartition, partition_of};
use bytes::Bytes;

use crate::FlowError;

/// A batch is closed when it has grown to this; Kafka's topics take about 1 MiB unless told otherwise.
const BATCH_BYTES: usize = 256 << 10;
/// Bytes of records that wait to go out; when there are as many, a part asks for a commit.
pub(crate) const OUTBOX_BYTES_MAX: usize = 8 << 20;

/// A topic that a flow writes.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    pub(crate) topic: String,
    pub(crate) partitions: i32,
}

/// Batches for one partition, in order.
pub(crate) type Outgoing = BTreeMap<TopicPartition, Vec<Bytes>>;

/// What is to be appended with the next step of a commit.
#[derive(Debug)]
pub(crate) struct Outbox {
    partitions: BTreeMap<TopicPartition, Batches>,
    batch_records_max: usize,
    len_bytes: usize,
}

/// Records for one partition, in order.
#[derive(Debug)]
pub(crate) struct Batches {
    open: BatchBuilder,
    records_max: usize,
    closed: Vec<Bytes>,
}

impl Outbox {
    /// Empty. An engine takes `batch_records_max` at once.
    pub(crate) fn new(batch_records_max: usize) -> Self {
        Self { partitions: BTreeMap::new(), batch_records_max, len_bytes: 0 }
    }

    /// Adds a result, whose key decides its partition.
    pub(crate) fn push_keyed(&mut self, to: &Outlet, record: &Record) -> Result<(), FlowError> {
        let Some(key) = &record.key else {
            return Err(FlowError::KeylessResult { topic: to.topic.clone() });
        };
        self.push(&TopicPartition::new(&to.topic, partition_of(key, to.partitions)), record)
    }

    /// Adds a record that was read from the partition `from`; records keep their order.
    pub(crate) fn push_aside(&mut self, to: &Outlet, from: i32, record: &Record) -> Result<(), FlowError> {
        self.push(&TopicPartition::new(&to.topic, from % to.partitions), record)
    }

    /// Bytes of records so far.
    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Everything so far.
    pub(crate) fn take(&mut self) -> Result<Outgoing, FlowError> {
        self.len_bytes = 0;
        let partitions = std::mem::take(&mut self.partitions).into_iter();
        let batches = |(to, batches): (TopicPartition, Batches)| {
            let closed = batches.close().map_err(unwritable(&to))?;
            Ok((to, closed))
        };
        partitions.map(batches).collect()
    }

    /// Adds a record for this partition.
    pub(crate) fn push(&mut self, to: &TopicPartition, record: &Record) -> Result<(), FlowError> {
        let batches = match self.partitions.get_mut(to) {
            Some(batches) => batches,
            None => self.partitions.entry(to.clone()).or_insert_with(|| Batches::new(self.batch_records_max)),
        };
        self.len_bytes += batches.push(record).map_err(unwritable(to))?;
        Ok(())
    }
}

impl Batches {
    /// None yet.
    pub(crate) fn new(records_max: usize) -> Self {
        Self { open: BatchBuilder::new(Compression::None), records_max, closed: Vec::new() }
    }

    /// Adds a record, and tells how many bytes it takes.
    pub(crate) fn push(&mut self, record: &Record) -> Result<usize, BatchError> {
        let before_bytes = self.open.len_bytes();
        let len_bytes = self.open.push(record).len_bytes();
        if len_bytes >= BATCH_BYTES || self.open.count() >= self.records_max {
            self.closed.push(self.open.build()?);
        }
        Ok(len_bytes - before_bytes)
    }

    /// All of them.
    pub(crate) fn close(mut self) -> Result<Vec<Bytes>, BatchError> {
        if self.open.count() > 0 {
            self.closed.push(self.open.build()?);
        }
        Ok(self.closed)
    }
}

/// What is wrong with a batch for `to`.
pub(crate) fn unwritable(to: &TopicPartition) -> impl FnOnce(BatchError) -> FlowError {
    |source| FlowError::Unwritable { topic: to.topic.clone(), source }
}
