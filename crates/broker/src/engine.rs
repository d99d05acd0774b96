//! The narrow door: the broker as an engine of [`anabranch_core::engine`].

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::batch::{BATCH_HEADER_BYTES, BatchHeader};
use anabranch_core::engine::{
    self, Admin, AppendOptions, Appended, Block, Capability, Description, Durability, Engine, EngineError,
    Ensured, Fetched, GroupMember, GroupPositions, Limits, Payload, Place, Position, QueueConsumer,
    QueueSpec, Queues, ReadLimits, Reader, Support, TopicSpec, Transactions,
};
use anabranch_core::{Offset, TopicPartition};
use anabranch_log::{Ack, AppendError, Isolation, ReadError, ReadSlice, UpkeepError, Waiter};
use async_trait::async_trait;
use bytes::Bytes;

use crate::broker::Broker;
use crate::config::Apply;
use crate::config::broker::BrokerConfig;
use crate::error::{DeleteRecordsError, FetchError, ProduceError, TopicError, TransactionalError};
use crate::group::GroupError;
use crate::maintenance::Before;
use crate::member::Member;
use crate::partition::{At, Partition};
use crate::read::Shown;
use crate::tasks::blocking;
use crate::topics::NewTopic;
use crate::transaction::TransactionError;
use crate::transactional::{TransactionOptions, TransactionalProducer};

#[async_trait]
impl Engine for Broker {
    fn description(&self) -> &Description {
        &self.0.description
    }

    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<Ensured, EngineError> {
        // Kafka's protocol has -1 for the default; the seam has not.
        if spec.partitions < 1 {
            let reason = format!("{} partitions are none", spec.partitions);
            return Err(EngineError::Refused { topic: spec.name.clone(), reason });
        }
        if let Some(replicas) = spec.replicas.filter(|replicas| *replicas != 1) {
            let reason = format!("there is one machine, and no room for {replicas} copies on others");
            return Err(EngineError::Refused { topic: spec.name.clone(), reason });
        }
        let new = NewTopic {
            configs: spec.configs.clone(),
            ..NewTopic::new(spec.name.clone()).partitions(spec.partitions)
        };
        match self.create_topic(new, Apply::Now).await {
            Ok(_) => Ok(Ensured::Created),
            Err(TopicError::Exists(_)) => match self.partition_count(&spec.name).await? {
                same if same == spec.partitions => Ok(Ensured::Existed),
                actual => {
                    Err(EngineError::Different { topic: spec.name.clone(), actual, asked: spec.partitions })
                }
            },
            Err(TopicError::Closed) => Err(EngineError::Closed),
            Err(error @ TopicError::Storage(_)) => Err(EngineError::Failed(Box::new(error))),
            Err(error) => Err(EngineError::Refused { topic: spec.name.clone(), reason: error.to_string() }),
        }
    }

    async fn partition_count(&self, topic: &str) -> Result<i32, EngineError> {
        let found = self.topic(topic).map_err(|_| EngineError::NotFound(TopicPartition::new(topic, 0)))?;
        Ok(found.partition_count())
    }

    async fn append(
        &self,
        to: &TopicPartition,
        what: Payload,
        how: AppendOptions,
    ) -> Result<Appended, EngineError> {
        if how.id.is_some() {
            self.require(&[Capability::AppendIds])?;
        }
        let ack = match how.durability {
            Durability::Written => Ack::Written,
            Durability::Durable => Ack::Durable,
        };
        let batch = self.batch_of(to, what)?;
        let span = span(&batch)?;
        let partition = self.partition_of(to)?;
        let produced = match how.expected {
            Some(end) => partition.produce_at(end.into(), batch, ack).await,
            None => partition.produce(batch, ack).await,
        };
        Ok(appended(produced.map_err(|error| self.refusal(to, error))?.base_offset, span))
    }

    async fn locate(&self, partition: &TopicPartition, place: Place) -> Result<Position, EngineError> {
        Ok(self.find(&self.partition_of(partition)?, place, Isolation::Committed).await?.into())
    }

    async fn reader(&self, at: &TopicPartition, from: Position) -> Result<Box<dyn Reader>, EngineError> {
        let log = self.partition_of(at)?;
        Ok(Box::new(PartitionReader { broker: self.clone(), at: at.clone(), log, next: from }))
    }

    async fn trim(&self, at: &TopicPartition, before: Position) -> Result<Position, EngineError> {
        match self.delete_records(at, Before::Offset(before.into())).await {
            Ok(start) => Ok(start.into()),
            Err(DeleteRecordsError::Unknown(at)) => Err(EngineError::NotFound(at)),
            Err(DeleteRecordsError::OutOfRange { end, .. }) => Err(EngineError::OutOfRange {
                partition: at.clone(),
                position: before,
                earliest: self.partition_of(at)?.offsets().log_start.into(),
                latest: end.into(),
            }),
            Err(
                error @ (DeleteRecordsError::Internal(_)
                | DeleteRecordsError::Policy(_)
                | DeleteRecordsError::Moving(_)),
            ) => Err(EngineError::Refused { topic: at.topic.clone(), reason: error.to_string() }),
            Err(
                DeleteRecordsError::Append(AppendError::Closed)
                | DeleteRecordsError::Log(UpkeepError::Closed),
            ) => Err(self.gone(at)),
            Err(error) => Err(EngineError::Failed(Box::new(error))),
        }
    }

    async fn join(&self, group: &str, topics: &[String]) -> Result<Box<dyn GroupMember>, EngineError> {
        Ok(Box::new(Member::new(self.clone(), group, topics)?))
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        Some(self)
    }

    fn queues(&self) -> Option<&dyn Queues> {
        Some(self)
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    async fn close(&self) {
        Broker::close(self).await;
    }
}

/// What a record takes in a batch of its own, beside its key and value.
const RECORD_OVERHEAD_BYTES: u64 = BATCH_HEADER_BYTES as u64 + 40;

/// How large the records of one batch may be together, where a batch may have `message_bytes_max`.
fn records_bytes_max(message_bytes_max: u64) -> u64 {
    message_bytes_max.saturating_sub(RECORD_OVERHEAD_BYTES)
}

/// What the embedded engine is, opened with `config`.
pub(crate) fn describe(cluster: &str, config: &BrokerConfig) -> Description {
    let record_bytes_max = records_bytes_max(config.number("message.max.bytes").unsigned_abs());
    let relaxed = config.number("log.flush.interval.messages") != 1;
    let limits =
        Limits { record_bytes_max, append_bytes_max: record_bytes_max, append_records_max: u32::MAX };
    let support = |capability| match capability {
        Capability::AppendIds => Support::absent("a transaction's end says what became of it"),
        Capability::SurvivesNodeLoss => Support::absent("it is one machine"),
        Capability::SurvivesPowerLoss if relaxed => {
            Support::absent("log.flush.interval.messages is not 1, so it answers before it has synced")
        }
        other => anabranch_queue::support(other).unwrap_or(Support::Native),
    };
    let mut description =
        Description::new("embedded", env!("CARGO_PKG_VERSION"), cluster, 1, limits, support);
    description.partitions_default = i32::try_from(config.number("num.partitions")).unwrap_or(1);
    description
}

/// Reads one partition.
#[derive(Debug)]
struct PartitionReader {
    broker: Broker,
    at: TopicPartition,
    log: Partition,
    next: Position,
}

#[async_trait]
impl Reader for PartitionReader {
    fn position(&self) -> Position {
        self.next
    }

    async fn read(&mut self, limits: ReadLimits) -> Result<Fetched, EngineError> {
        let from = Offset::from(self.next);
        let give_up = tokio::time::sleep(limits.wait_max);
        tokio::pin!(give_up);
        loop {
            // Registered before looking, so that nothing that comes in between is missed.
            let waiter = Waiter::new();
            self.log.register(&waiter);
            let searched = self.log.clone();
            let reading = move || read(&searched, from, limits.bytes_max, Isolation::Committed);
            let slice = blocking(self.log.workers(), reading).await;
            let fetched = fetched(slice.map_err(|error| self.broker.blame(&self.at, error))?, from)?;
            if fetched.next > self.next || limits.wait_max.is_zero() {
                self.next = fetched.next;
                return Ok(fetched);
            }
            tokio::select! {
                () = waiter.woken() => {}
                () = &mut give_up => return Ok(fetched),
            }
        }
    }

    fn seek(&mut self, to: Position) {
        self.next = to;
    }
}

#[async_trait]
impl Transactions for Broker {
    async fn producer(
        &self,
        id: &str,
        timeout: Duration,
    ) -> Result<Box<dyn engine::TransactionalProducer>, EngineError> {
        match self.transactional(id, TransactionOptions { timeout }).await {
            Ok(producer) => Ok(Box::new(producer)),
            Err(error) => Err(self.abortion(error)),
        }
    }
}

#[async_trait]
impl Queues for Broker {
    async fn consumer(&self, spec: QueueSpec) -> Result<Box<dyn QueueConsumer>, EngineError> {
        anabranch_queue::consumer(Arc::new(self.clone()), spec).await
    }
}

#[async_trait]
impl engine::TransactionalProducer for TransactionalProducer {
    async fn commit(
        &mut self,
        appends: Vec<(TopicPartition, Payload)>,
        positions: Option<GroupPositions>,
    ) -> Result<Vec<Appended>, EngineError> {
        let broker = self.broker().clone();
        let prepare = |(to, what): (TopicPartition, Payload)| {
            let batch = broker.batch_of(&to, what)?;
            Ok((to, span(&batch)?, batch))
        };
        let batches = appends.into_iter().map(prepare).collect::<Result<Vec<_>, EngineError>>()?;
        let committed = async {
            let mut transaction = self.begin().await?;
            let mut stored = Vec::with_capacity(batches.len());
            for (to, span, batch) in batches {
                stored.push(appended(transaction.produce(&to, batch).await?.base_offset, span));
            }
            if let Some(GroupPositions { group, positions }) = positions {
                let offsets: Vec<_> = positions.into_iter().map(|(at, next)| (at, next.into())).collect();
                transaction.commit_offsets(&group, &offsets).await?;
            }
            transaction.commit().await?;
            Ok(stored)
        };
        committed.await.map_err(|error| broker.abortion(error))
    }
}

impl Broker {
    /// What the engine is with its default settings, which leave nothing to be wished for that it can do.
    #[must_use]
    pub fn at_best() -> Description {
        describe("", &BrokerConfig::default())
    }

    fn partition_of(&self, at: &TopicPartition) -> Result<Partition, EngineError> {
        self.partition(at).ok_or_else(|| EngineError::NotFound(at.clone()))
    }

    /// What is appended, as a batch. Records beyond the limit that is told are refused also where they would just fit.
    fn batch_of(&self, to: &TopicPartition, what: Payload) -> Result<Bytes, EngineError> {
        if let Payload::Records(records) = &what {
            let max = records_bytes_max(self.partition_of(to)?.rules().message_bytes_max as u64);
            let bytes = records.iter().map(|record| record.size_bytes() as u64).sum();
            if bytes > max {
                return Err(EngineError::TooLarge { partition: to.clone(), bytes, max });
            }
        }
        Ok(what.into_batch()?)
    }

    /// The offset of `place` in `partition`, as a reader sees it.
    pub(crate) async fn find(
        &self,
        partition: &Partition,
        place: Place,
        isolation: Isolation,
    ) -> Result<Offset, EngineError> {
        partition.check_status().map_err(|error| self.blame(partition.id(), error))?;
        let offsets = partition.offsets();
        let end = offsets.end(isolation);
        match place {
            Place::Earliest => Ok(offsets.log_start),
            Place::Latest => Ok(end),
            Place::AtTime(ms) => {
                let searched = partition.clone();
                let search = move || searched.locate_within(At::Time(ms), isolation);
                let found = blocking(partition.workers(), search).await;
                let found = found.map_err(|error| self.blame(partition.id(), error))?;
                Ok(found.map_or(end, |found| found.offset))
            }
        }
    }

    /// A failed read, in the engine's words.
    pub(crate) fn blame(&self, partition: &TopicPartition, error: FetchError) -> EngineError {
        match error {
            FetchError::Log(ReadError::OutOfRange { asked, start, end }) => EngineError::OutOfRange {
                partition: partition.clone(),
                position: asked.into(),
                earliest: start.into(),
                latest: end.into(),
            },
            FetchError::Log(ReadError::Closed) => self.gone(partition),
            FetchError::Unknown(partition) => EngineError::NotFound(partition),
            other => EngineError::Failed(Box::new(other)),
        }
    }

    /// A failed append, in the engine's words.
    fn refusal(&self, partition: &TopicPartition, error: ProduceError) -> EngineError {
        match error {
            ProduceError::Batch(error) => EngineError::Batch(error),
            ProduceError::Unknown(partition) => EngineError::NotFound(partition),
            ProduceError::TooLarge { bytes, max_bytes }
            | ProduceError::LargerThanSegment { bytes, max_bytes } => EngineError::TooLarge {
                partition: partition.clone(),
                bytes: bytes as u64,
                max: max_bytes as u64,
            },
            ProduceError::Log(AppendError::Closed) => self.gone(partition),
            ProduceError::Log(AppendError::NotAtEnd { expected, .. }) => {
                EngineError::NotAtEnd { partition: partition.clone(), expected: expected.into() }
            }
            ProduceError::Log(AppendError::Held) => {
                EngineError::Away { engine: "embedded", reason: error.to_string() }
            }
            ProduceError::Log(AppendError::Stopped(_) | AppendError::WriteFailed(_)) => {
                EngineError::Failed(Box::new(error))
            }
            other => EngineError::Refused { topic: partition.topic.clone(), reason: other.to_string() },
        }
    }

    /// A transaction that failed, in the engine's words.
    fn abortion(&self, error: TransactionalError) -> EngineError {
        let reason = error.to_string();
        match error {
            TransactionalError::Fenced { id } => EngineError::ProducerFenced { id },
            TransactionalError::TimedOut { id, .. }
            | TransactionalError::Aborted { id }
            | TransactionalError::Incomplete { id } => EngineError::Aborted { id, reason },
            TransactionalError::Produce { to, error } => self.refusal(&to, error),
            TransactionalError::Closed => EngineError::Closed,
            TransactionalError::Coordinator {
                error: TransactionError::CoordinatorNotAvailable | TransactionError::NotCoordinator,
                ..
            } => EngineError::Failed(Box::new(error)),
            // Positions come before the end, which then never came: nothing was done.
            TransactionalError::Group { error: GroupError::CoordinatorNotAvailable, .. } => {
                EngineError::Away { engine: "embedded", reason }
            }
            TransactionalError::Group { group: topic, .. }
            | TransactionalError::Coordinator { id: topic, .. } => EngineError::Refused { topic, reason },
        }
    }

    /// Why a log is closed: its topic was deleted, or the broker closed.
    fn gone(&self, partition: &TopicPartition) -> EngineError {
        match self.partition(partition) {
            None => EngineError::NotFound(partition.clone()),
            Some(_) => EngineError::Closed,
        }
    }
}

/// Offsets that the batch takes up.
fn span(batch: &[u8]) -> Result<i64, EngineError> {
    let header = BatchHeader::parse(batch)?;
    Ok(header.next_offset().0 - header.base_offset.0)
}

fn appended(first: Offset, span: i64) -> Appended {
    Appended { first: first.into(), next: first.plus(span).into(), duplicate: false }
}

/// Reads, and fails where there is nothing to wait for. Blocks on the disk.
pub(crate) fn read(
    partition: &Partition,
    from: Offset,
    bytes_max: usize,
    isolation: Isolation,
) -> Result<ReadSlice, FetchError> {
    let slice = partition.log().read_within(from, bytes_max, isolation)?;
    if slice.batches.is_empty() {
        partition.check_status()?;
    }
    Ok(slice)
}

/// What of a read is shown. It is copied only where something is left out in the middle.
fn fetched(slice: ReadSlice, from: Offset) -> Result<Fetched, EngineError> {
    let (mut next, mut at, mut shown) = (from, 0, Shown::new(slice.aborted));
    let mut runs: Vec<Range<usize>> = Vec::new();
    while at < slice.batches.len() {
        let header = BatchHeader::parse(&slice.batches[at..])?;
        next = header.next_offset();
        let end = (at + header.len_bytes).min(slice.batches.len());
        if shown.includes(&header) {
            match runs.last_mut() {
                Some(run) if run.end == at => run.end = end,
                _ => runs.push(at..end),
            }
        }
        at = end;
    }
    let batches = match &runs[..] {
        [] => Bytes::new(),
        [run] => slice.batches.slice(run.clone()),
        runs => runs.iter().map(|run| &slice.batches[run.clone()]).collect::<Vec<_>>().concat().into(),
    };
    Ok(Fetched {
        block: Block::Batches(batches),
        next: next.into(),
        latest: slice.offsets.last_stable.into(),
    })
}
