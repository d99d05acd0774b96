//! An engine in memory that fails when told to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anabranch_core::batch::{BatchBuilder, Compression, Record, RecordAt, check_batch, split_batches};
use anabranch_core::engine::{
    self, Admin, AppendOptions, Appended, Block, Capability, Description, Durability, Engine, EngineError,
    Ensured, Fetched, GroupMember, GroupPositions, Limits, Payload, Place, Position, ReadLimits, Reader,
    Support, TopicSpec, TransactionalProducer,
};
use anabranch_core::{LeaderEpoch, Offset, TopicPartition};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

/// What a partition may hold: a test that needs more is wrong.
const PARTITION_BYTES_MAX: usize = 256 << 20;

/// What an engine with conditions takes at once.
const APPEND_RECORDS_MAX: u32 = 12;

/// Where the next failure happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A call fails, and nothing has happened.
    Before,
    /// A call fails, and it has happened all the same.
    After,
    /// A transaction is committed, and nobody hears of it.
    AfterCommit,
}

/// What an engine is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Commit,
    Other,
}

#[derive(Debug)]
pub(crate) struct MemoryEngine {
    me: Weak<Self>,
    partitions: Mutex<BTreeMap<TopicPartition, Partition>>,
    transactions: Mutex<Transactions>,
    grown: Notify,
    /// Batches that one read returns.
    pub(crate) batches_per_read: usize,
    description: Description,
    /// A mistake, planted: readers are shown what is not committed.
    shows_all: AtomicBool,
    failpoint: Mutex<Option<Failure>>,
    /// Calls that succeed before it strikes.
    calls_left: AtomicI64,
}

#[derive(Debug, Default)]
struct Partition {
    entries: Vec<Entry>,
    latest: i64,
    len_bytes: usize,
    /// What is before it was deleted.
    trimmed: Position,
}

/// A batch, or the end of a transaction.
#[derive(Debug)]
struct Entry {
    bytes: Option<Bytes>,
    base: i64,
    next: i64,
    transaction: Option<usize>,
}

#[derive(Debug, Default)]
struct Transactions {
    /// By number.
    outcomes: Vec<Outcome>,
    /// The newest producer per transactional id, and what it has open.
    producers: BTreeMap<String, (u64, Option<usize>)>,
    groups: BTreeMap<(String, TopicPartition), Position>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Open,
    Committed,
    Aborted,
}

impl Entry {
    /// The batch, which is whole, as it stands at offset `base`.
    fn at(batch: &Bytes, base: i64, transaction: Option<usize>) -> Self {
        let batch = check_batch(batch).unwrap();
        let mut bytes = batch.bytes().to_vec();
        let prefix = batch.stored_prefix(Offset(base), LeaderEpoch(0));
        bytes[..prefix.len()].copy_from_slice(&prefix);
        let next = base + i64::from(batch.header().record_count);
        Self { bytes: Some(bytes.into()), base, next, transaction }
    }
}

impl MemoryEngine {
    pub(crate) fn new(batches_per_read: usize) -> Arc<Self> {
        Self::with(batches_per_read, &[Capability::Transactions, Capability::Trim])
    }

    pub(crate) fn without_transactions(batches_per_read: usize) -> Arc<Self> {
        Self::with(batches_per_read, &[])
    }

    /// As NATS is: no transactions, but appends on conditions, of few records.
    pub(crate) fn with_conditions(batches_per_read: usize) -> Arc<Self> {
        Self::with(batches_per_read, &[Capability::AtomicAppend, Capability::ConditionalAppend])
    }

    fn with(batches_per_read: usize, capabilities: &[Capability]) -> Arc<Self> {
        let description = describe(capabilities);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            description,
            batches_per_read,
            partitions: Mutex::default(),
            transactions: Mutex::default(),
            grown: Notify::default(),
            failpoint: Mutex::default(),
            calls_left: AtomicI64::default(),
            shows_all: AtomicBool::default(),
        })
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

    /// Plants a mistake: from now on readers are shown what is not committed.
    pub(crate) fn show_all(&self) {
        self.shows_all.store(true, Ordering::SeqCst);
    }

    /// Keeps only the newest committed value per key, and no tombstone.
    pub(crate) fn compact(&self, topic: &str) {
        let mut newest = BTreeMap::new();
        let mut all = self.partitions.lock();
        for (at, partition) in all.iter_mut().filter(|(at, _)| at.topic == topic) {
            for entry in partition.entries.drain(..).filter(|entry| self.is_committed(entry)) {
                let Some(batch) = entry.bytes else { continue };
                for record in check_batch(&batch).unwrap().records().unwrap() {
                    newest.insert((at.clone(), record.record.key.clone()), record);
                }
            }
        }
        let mut kept: Vec<_> = newest.into_iter().filter(|(_, at)| at.record.value.is_some()).collect();
        kept.sort_unstable_by_key(|(_, at)| at.offset);
        for ((at, _), RecordAt { offset, record }) in kept {
            let batch = BatchBuilder::new(Compression::None).push(&record).build().unwrap();
            let entry = Entry::at(&batch, offset.0, None);
            all.get_mut(&at).unwrap().entries.push(entry);
        }
    }

    pub(crate) fn has_topic(&self, topic: &str) -> bool {
        self.partitions.lock().keys().any(|at| at.topic == topic)
    }

    /// Where the group stands.
    pub(crate) fn position(&self, group: &str, at: &TopicPartition) -> Option<Position> {
        self.transactions.lock().groups.get(&(group.to_owned(), at.clone())).copied()
    }

    /// What is before it was deleted.
    pub(crate) fn trimmed(&self, topic: &str, partition: i32) -> Position {
        self.partitions.lock()[&TopicPartition::new(topic, partition)].trimmed
    }

    /// Appends `records` as one batch.
    pub(crate) fn write(&self, topic: &str, partition: i32, records: &[Record]) {
        let mut batch = BatchBuilder::new(Compression::Lz4);
        records.iter().for_each(|record| {
            batch.push(record);
        });
        self.put(&TopicPartition::new(topic, partition), &batch.build().unwrap(), None).unwrap();
    }

    /// Flips a bit in the last byte of the batch that was appended last.
    pub(crate) fn damage(&self, topic: &str, partition: i32) {
        let mut all = self.partitions.lock();
        let partition = all.get_mut(&TopicPartition::new(topic, partition)).unwrap();
        let last = partition.entries.last_mut().unwrap().bytes.as_mut().unwrap();
        let mut bytes = last.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        *last = bytes.into();
    }

    /// Every committed record of the topic, partition by partition.
    pub(crate) fn records(&self, topic: &str) -> Vec<Record> {
        let all = self.partitions.lock();
        let shown = all.iter().filter(|(at, _)| at.topic == topic).flat_map(|(_, p)| &p.entries);
        shown
            .filter(|entry| self.is_committed(entry))
            .filter_map(|entry| entry.bytes.clone())
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

    fn put(
        &self,
        to: &TopicPartition,
        batch: &Bytes,
        transaction: Option<usize>,
    ) -> Result<Appended, EngineError> {
        let mut all = self.partitions.lock();
        let partition = all.get_mut(to).ok_or_else(|| EngineError::NotFound(to.clone()))?;
        check_batch(batch)?.check_records()?;
        let base = partition.latest;
        let entry = Entry::at(batch, base, transaction);
        partition.len_bytes += batch.len();
        assert!(partition.len_bytes <= PARTITION_BYTES_MAX, "the test writes too much");
        partition.latest = entry.next;
        partition.entries.push(entry);
        self.grown.notify_waiters();
        Ok(Appended {
            first: Position(base as u64),
            next: Position(partition.latest as u64),
            duplicate: false,
        })
    }

    fn put_at(
        &self,
        to: &TopicPartition,
        batch: &Bytes,
        expected: Position,
    ) -> Result<Appended, EngineError> {
        match self.partitions.lock().get(to) {
            Some(partition) if partition.latest as u64 != expected.0 => {
                return Err(EngineError::NotAtEnd { partition: to.clone(), expected });
            }
            _ => {}
        }
        self.put(to, batch, None)
    }

    /// Ends a transaction, with a marker in every partition that it wrote.
    fn end(&self, transaction: usize, outcome: Outcome) {
        self.transactions.lock().outcomes[transaction] = outcome;
        for partition in self.partitions.lock().values_mut() {
            if partition.entries.iter().any(|entry| entry.transaction == Some(transaction)) {
                let base = partition.latest;
                partition.latest += 1;
                let next = partition.latest;
                partition.entries.push(Entry { bytes: None, base, next, transaction: None });
            }
        }
        self.grown.notify_waiters();
    }

    fn is_committed(&self, entry: &Entry) -> bool {
        let outcomes = &self.transactions.lock().outcomes;
        entry.transaction.is_none_or(|number| outcomes[number] == Outcome::Committed)
    }

    fn last_stable(&self, partition: &Partition) -> Position {
        let outcomes = &self.transactions.lock().outcomes;
        let is_open = |entry: &&Entry| entry.transaction.is_some_and(|t| outcomes[t] == Outcome::Open);
        let open = partition.entries.iter().find(is_open).filter(|_| !self.shows_all.load(Ordering::SeqCst));
        Position(open.map_or(partition.latest, |entry| entry.base) as u64)
    }

    /// Does `work`, unless it is the call's turn to fail.
    fn call<T>(&self, call: Call, work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
        let strikes = |at: &[Failure]| {
            let armed = self.failpoint.lock().is_some_and(|failure| at.contains(&failure));
            armed && self.calls_left.fetch_sub(1, Ordering::SeqCst) <= 0
        };
        if strikes(&[Failure::Before]) {
            return Err(failed());
        }
        let done = work()?;
        let after: &[Failure] = match call {
            Call::Commit => &[Failure::After, Failure::AfterCommit],
            Call::Other => &[Failure::After],
        };
        match strikes(after) {
            true => Err(failed()),
            false => Ok(done),
        }
    }

    fn take(&self, at: &TopicPartition, from: Position, bytes_max: usize) -> Result<Fetched, EngineError> {
        let all = self.partitions.lock();
        let partition = all.get(at).ok_or_else(|| EngineError::NotFound(at.clone()))?;
        let latest = self.last_stable(partition);
        if from > latest {
            let earliest = Position(0);
            return Err(EngineError::OutOfRange { partition: at.clone(), position: from, earliest, latest });
        }
        let first = partition.entries.partition_point(|entry| entry.next as u64 <= from.0);
        let is_shown = |entry: &Entry| self.is_committed(entry) || self.shows_all.load(Ordering::SeqCst);
        let (mut batches, mut count) = (Vec::new(), 0);
        for entry in partition.entries[first..].iter().take_while(|entry| (entry.base as u64) < latest.0) {
            // What follows a full read comes by itself, be it a marker and no records at all.
            let is_full =
                |more: usize| count == self.batches_per_read || count > 0 && batches.len() + more > bytes_max;
            if is_full(entry.bytes.as_ref().map_or(0, Bytes::len)) {
                return Ok(fetched(batches, Position(entry.base as u64), latest));
            }
            let Some(batch) = entry.bytes.as_ref().filter(|_| is_shown(entry)) else { continue };
            batches.extend_from_slice(batch);
            count += 1;
        }
        Ok(fetched(batches, latest, latest))
    }
}

fn fetched(batches: Vec<u8>, next: Position, latest: Position) -> Fetched {
    Fetched { block: Block::Batches(batches.into()), next, latest }
}

fn describe(capabilities: &[Capability]) -> Description {
    let append_records_max = match capabilities.contains(&Capability::ConditionalAppend) {
        true => APPEND_RECORDS_MAX,
        false => u32::MAX,
    };
    let limits = Limits { record_bytes_max: u64::MAX, append_bytes_max: u64::MAX, append_records_max };
    let support = |capability| match capability {
        Capability::PartitionOrder | Capability::Replay | Capability::Groups => Support::Native,
        _ if capabilities.contains(&capability) => Support::Native,
        _ => Support::absent("no flow needs it"),
    };
    Description::new("memory", "0", "a test", 1, limits, support)
}

fn failed() -> EngineError {
    EngineError::Failed("the test says so".into())
}

#[async_trait]
impl Engine for MemoryEngine {
    fn description(&self) -> &Description {
        &self.description
    }

    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<Ensured, EngineError> {
        self.call(Call::Other, || {
            let actual = self.partitions.lock().keys().filter(|at| at.topic == spec.name).count() as i32;
            let (topic, asked) = (spec.name.clone(), spec.partitions);
            match actual {
                0 => {
                    self.create(&spec.name, spec.partitions);
                    Ok(Ensured::Created)
                }
                actual if actual == asked => Ok(Ensured::Existed),
                actual => Err(EngineError::Different { topic, actual, asked }),
            }
        })
    }

    async fn partition_count(&self, topic: &str) -> Result<i32, EngineError> {
        self.call(Call::Other, || {
            match self.partitions.lock().keys().filter(|at| at.topic == topic).count() {
                0 => Err(EngineError::NotFound(TopicPartition::new(topic, 0))),
                count => Ok(count as i32),
            }
        })
    }

    async fn append(
        &self,
        to: &TopicPartition,
        what: Payload,
        how: AppendOptions,
    ) -> Result<Appended, EngineError> {
        assert_eq!(how.durability, Durability::Durable, "state must not run ahead of its results");
        self.call(Call::Other, || {
            let batch = what.into_batch()?;
            let count = check_batch(&batch)?.header().record_count.unsigned_abs();
            let max = self.description.limits.append_records_max;
            assert!(count <= max, "{count} records for {to}, which takes {max} at once");
            match how.expected {
                Some(end) => self.put_at(to, &batch, end),
                None => self.put(to, &batch, None),
            }
        })
    }

    async fn reader(&self, at: &TopicPartition, from: Position) -> Result<Box<dyn Reader>, EngineError> {
        let engine = self.me.upgrade().expect("it is there");
        Ok(Box::new(MemoryReader { engine, at: at.clone(), next: from }))
    }

    async fn trim(&self, at: &TopicPartition, before: Position) -> Result<Position, EngineError> {
        let mut all = self.partitions.lock();
        let partition = all.get_mut(at).ok_or_else(|| EngineError::NotFound(at.clone()))?;
        partition.entries.retain(|entry| entry.next as u64 > before.0);
        partition.trimmed = before;
        Ok(before)
    }

    async fn locate(&self, partition: &TopicPartition, place: Place) -> Result<Position, EngineError> {
        self.call(Call::Other, || {
            let all = self.partitions.lock();
            let found = all.get(partition).ok_or_else(|| EngineError::NotFound(partition.clone()))?;
            match place {
                Place::Earliest => Ok(Position(0)),
                Place::Latest => Ok(self.last_stable(found)),
                Place::AtTime(_) => unimplemented!("no flow asks for it"),
            }
        })
    }

    async fn join(&self, _: &str, _: &[String]) -> Result<Box<dyn GroupMember>, EngineError> {
        unimplemented!("no flow is a member")
    }

    fn transactions(&self) -> Option<&dyn engine::Transactions> {
        self.description.has(Capability::Transactions).then_some(self)
    }

    fn admin(&self) -> &dyn Admin {
        unreachable!("a flow does not operate its engine")
    }

    async fn close(&self) {}
}

#[derive(Debug)]
struct MemoryReader {
    engine: Arc<MemoryEngine>,
    at: TopicPartition,
    next: Position,
}

#[async_trait]
impl Reader for MemoryReader {
    fn position(&self) -> Position {
        self.next
    }

    async fn read(&mut self, limits: ReadLimits) -> Result<Fetched, EngineError> {
        self.engine.call(Call::Other, || Ok(()))?;
        let take = || self.engine.take(&self.at, self.next, limits.bytes_max);
        let wait_for_records = async {
            loop {
                let grown = self.engine.grown.notified();
                let fetched = take()?;
                if fetched.next > self.next {
                    return Ok::<_, EngineError>(fetched);
                }
                grown.await;
            }
        };
        let fetched = match timeout(limits.wait_max, wait_for_records).await {
            Ok(fetched) => fetched?,
            Err(_) => take()?,
        };
        self.next = fetched.next;
        Ok(fetched)
    }

    fn seek(&mut self, to: Position) {
        self.next = to;
    }
}

#[async_trait]
impl engine::Transactions for MemoryEngine {
    async fn producer(&self, id: &str, _: Duration) -> Result<Box<dyn TransactionalProducer>, EngineError> {
        self.call(Call::Other, || {
            let (epoch, open) = {
                let mut transactions = self.transactions.lock();
                let (epoch, open) = transactions.producers.entry(id.to_owned()).or_default();
                *epoch += 1;
                (*epoch, open.take())
            };
            if let Some(open) = open {
                self.end(open, Outcome::Aborted);
            }
            let engine = self.me.upgrade().expect("it is there");
            Ok(Box::new(Producer { engine, id: id.to_owned(), epoch }) as Box<dyn TransactionalProducer>)
        })
    }
}

/// The newest of its transactional id, if it is.
#[derive(Debug)]
struct Producer {
    engine: Arc<MemoryEngine>,
    id: String,
    epoch: u64,
}

impl Producer {
    /// What is open, if this is still the producer.
    fn current<T>(&self, with: impl FnOnce(&mut Transactions) -> T) -> Result<T, EngineError> {
        let mut transactions = self.engine.transactions.lock();
        match transactions.producers[&self.id].0 == self.epoch {
            true => Ok(with(&mut transactions)),
            false => Err(EngineError::ProducerFenced { id: self.id.clone() }),
        }
    }
}

#[async_trait]
impl TransactionalProducer for Producer {
    async fn commit(
        &mut self,
        appends: Vec<(TopicPartition, Payload)>,
        positions: Option<GroupPositions>,
    ) -> Result<Vec<Appended>, EngineError> {
        let number = self.current(|transactions| {
            let number = transactions.outcomes.len();
            transactions.outcomes.push(Outcome::Open);
            transactions.producers.insert(self.id.clone(), (self.epoch, Some(number)));
            number
        })?;
        let mut appended = Vec::new();
        for (to, what) in appends {
            let append = || {
                self.current(|_| ())?;
                self.engine.put(&to, &what.into_batch()?, Some(number))
            };
            appended.push(self.engine.call(Call::Other, append)?);
            tokio::task::yield_now().await;
        }
        self.engine.call(Call::Commit, || {
            self.current(|transactions| {
                transactions.producers.insert(self.id.clone(), (self.epoch, None));
                if let Some(GroupPositions { group, positions }) = positions {
                    let stands = positions.into_iter().map(|(at, next)| ((group.clone(), at), next));
                    transactions.groups.extend(stands);
                }
            })?;
            self.engine.end(number, Outcome::Committed);
            Ok(appended)
        })
    }
}
