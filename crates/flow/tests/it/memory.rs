//! An engine in memory that fails when told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anabranch_core::batch::{BatchBuilder, BatchHeader, Compression, Record, check_batch, split_batches};
use anabranch_core::engine::{
    Capability, Durability, Engine, EngineError, Ensured, Fetched, GroupMember, Place, Position, ReadLimits,
    Support, TopicSpec,
};
use anabranch_core::{LeaderEpoch, Offset, TopicPartition};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

/// What a partition may hold: a test that needs more is wrong.
const PARTITION_BYTES_MAX: usize = 256 << 20;

/// Where the next failure happens.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Failure {
    /// Reads fail.
    Read,
    /// Appends fail, and nothing is written.
    BeforeAppend,
    /// Appends fail, and the batch is written all the same.
    AfterAppend,
}

#[derive(Debug, Default)]
pub(crate) struct MemoryEngine {
    partitions: Mutex<BTreeMap<TopicPartition, Partition>>,
    grown: Notify,
    /// Batches that one read returns.
    pub(crate) batches_per_read: usize,
    failpoint: Mutex<Option<Failure>>,
    /// Calls that succeed before it strikes.
    calls_left: AtomicI64,
}

#[derive(Debug, Default)]
struct Partition {
    batches: Vec<Bytes>,
    latest: i64,
    len_bytes: usize,
}

impl MemoryEngine {
    pub(crate) fn new(batches_per_read: usize) -> Arc<Self> {
        Arc::new(Self { batches_per_read, ..Self::default() })
    }

    pub(crate) fn create(&self, topic: &str, partitions: i32) {
        let mut all = self.partitions.lock();
        for partition in 0..partitions {
            all.insert(TopicPartition::new(topic, partition), Partition::default());
        }
    }

    /// Fails from the call after the next `calls` on.
    pub(crate) fn fail_after(&self, calls: usize, failure: Failure) {
        self.calls_left.store(calls as i64, Ordering::SeqCst);
        *self.failpoint.lock() = Some(failure);
    }

    pub(crate) fn heal(&self) {
        *self.failpoint.lock() = None;
    }

    /// Appends `records` as one batch.
    pub(crate) fn write(&self, topic: &str, partition: i32, records: &[Record]) {
        let mut batch = BatchBuilder::new(Compression::Lz4);
        records.iter().for_each(|record| {
            batch.push(record);
        });
        self.put(&TopicPartition::new(topic, partition), &batch.build().unwrap()).unwrap();
    }

    /// Flips a bit in the last byte of the batch that was appended last.
    pub(crate) fn damage(&self, topic: &str, partition: i32) {
        let mut all = self.partitions.lock();
        let last = all.get_mut(&TopicPartition::new(topic, partition)).unwrap().batches.last_mut().unwrap();
        let mut bytes = last.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        *last = bytes.into();
    }

    /// Every record of the topic, partition by partition.
    pub(crate) fn records(&self, topic: &str) -> Vec<Record> {
        let all = self.partitions.lock();
        let batches = all.iter().filter(|(at, _)| at.topic == topic).flat_map(|(_, p)| p.batches.clone());
        batches
            .flat_map(split_batches)
            .flat_map(|batch| batch.unwrap().records().unwrap())
            .map(|at| at.record)
            .collect()
    }

    /// The topic as a table: the newest value per key.
    pub(crate) fn table(&self, topic: &str) -> BTreeMap<String, String> {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let mut table = BTreeMap::new();
        for record in self.records(topic) {
            let key = text(record.key.unwrap());
            match record.value {
                Some(value) => table.insert(key, text(value)),
                None => table.remove(&key),
            };
        }
        table
    }

    fn put(&self, to: &TopicPartition, batch: &Bytes) -> Result<Position, EngineError> {
        let mut all = self.partitions.lock();
        let partition = all.get_mut(to).ok_or_else(|| EngineError::NotFound(to.clone()))?;
        let batch = check_batch(batch)?;
        batch.check_records()?;
        let base = partition.latest;
        let mut bytes = batch.bytes().to_vec();
        let prefix = batch.stored_prefix(Offset(base), LeaderEpoch(0));
        bytes[..prefix.len()].copy_from_slice(&prefix);
        partition.len_bytes += bytes.len();
        assert!(partition.len_bytes <= PARTITION_BYTES_MAX, "the test writes too much");
        partition.batches.push(bytes.into());
        partition.latest += i64::from(batch.header().record_count);
        self.grown.notify_waiters();
        Ok(Position(base as u64))
    }

    fn strikes(&self, at: impl Fn(Failure) -> bool) -> bool {
        let armed = self.failpoint.lock().is_some_and(at);
        armed && self.calls_left.fetch_sub(1, Ordering::SeqCst) <= 0
    }

    fn take(&self, at: &TopicPartition, from: Position, bytes_max: usize) -> Result<Fetched, EngineError> {
        let all = self.partitions.lock();
        let partition = all.get(at).ok_or_else(|| EngineError::NotFound(at.clone()))?;
        let latest = Position(partition.latest as u64);
        if from > latest {
            let earliest = Position(0);
            return Err(EngineError::OutOfRange { partition: at.clone(), position: from, earliest, latest });
        }
        let next_of = |batch: &Bytes| BatchHeader::parse(batch).unwrap().next_offset().0 as u64;
        let first = partition.batches.partition_point(|batch| next_of(batch) <= from.0);
        let (mut batches, mut next) = (Vec::new(), from);
        for batch in partition.batches[first..].iter().take(self.batches_per_read) {
            if !batches.is_empty() && batches.len() + batch.len() > bytes_max {
                break;
            }
            batches.extend_from_slice(batch);
            next = Position(next_of(batch));
        }
        Ok(Fetched { batches: batches.into(), next, latest })
    }
}

fn failed() -> EngineError {
    EngineError::Failed("the test says so".into())
}

#[async_trait]
impl Engine for MemoryEngine {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn support(&self, capability: Capability) -> Support {
        match capability {
            Capability::PartitionOrder | Capability::Replay => Support::Native,
            _ => Support::Absent,
        }
    }

    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<Ensured, EngineError> {
        if let Ok(actual) = self.partition_count(&spec.name).await {
            let (topic, asked) = (spec.name.clone(), spec.partitions);
            return match actual == asked {
                true => Ok(Ensured::Existed),
                false => Err(EngineError::Different { topic, actual, asked }),
            };
        }
        self.create(&spec.name, spec.partitions);
        Ok(Ensured::Created)
    }

    async fn partition_count(&self, topic: &str) -> Result<i32, EngineError> {
        match self.partitions.lock().keys().filter(|at| at.topic == topic).count() {
            0 => Err(EngineError::NotFound(TopicPartition::new(topic, 0))),
            count => Ok(count as i32),
        }
    }

    async fn append(
        &self,
        to: &TopicPartition,
        batch: Bytes,
        durability: Durability,
    ) -> Result<Position, EngineError> {
        assert_eq!(durability, Durability::Durable, "state must not run ahead of its results");
        if self.strikes(|failure| matches!(failure, Failure::BeforeAppend)) {
            return Err(failed());
        }
        let position = self.put(to, &batch)?;
        match self.strikes(|failure| matches!(failure, Failure::AfterAppend)) {
            true => Err(failed()),
            false => Ok(position),
        }
    }

    async fn read(
        &self,
        partition: &TopicPartition,
        from: Position,
        limits: ReadLimits,
    ) -> Result<Fetched, EngineError> {
        if self.strikes(|failure| matches!(failure, Failure::Read)) {
            return Err(failed());
        }
        let wait_for_records = async {
            loop {
                let grown = self.grown.notified();
                let fetched = self.take(partition, from, limits.bytes_max)?;
                if !fetched.batches.is_empty() {
                    return Ok(fetched);
                }
                grown.await;
            }
        };
        match timeout(limits.wait_max, wait_for_records).await {
            Ok(fetched) => fetched,
            Err(_) => self.take(partition, from, limits.bytes_max),
        }
    }

    async fn locate(&self, partition: &TopicPartition, place: Place) -> Result<Position, EngineError> {
        let all = self.partitions.lock();
        let found = all.get(partition).ok_or_else(|| EngineError::NotFound(partition.clone()))?;
        match place {
            Place::Earliest => Ok(Position(0)),
            Place::Latest => Ok(Position(found.latest as u64)),
            Place::AtTime(_) => unimplemented!("no flow asks for it"),
        }
    }

    async fn join(&self, _: &str, _: &[String]) -> Result<Box<dyn GroupMember>, EngineError> {
        Err(EngineError::Absent { engine: "memory", capability: Capability::Groups })
    }
}
