//! The narrow door: the broker as an engine of [`anabranch_core::engine`].

use std::ops::Range;
use std::time::Duration;

use anabranch_core::batch::BatchHeader;
use anabranch_core::engine::{
    self, Capability, Durability, Engine, EngineError, Ensured, Fetched, GroupMember, GroupPositions, Place,
    Position, ReadLimits, Support, TopicSpec, Transactions,
};
use anabranch_core::{Offset, TopicPartition};
use anabranch_log::{Ack, AppendError, Isolation, ReadError, ReadSlice, Waiter};
use async_trait::async_trait;
use bytes::Bytes;

use crate::broker::Broker;
use crate::config::Apply;
use crate::error::{FetchError, ProduceError, TopicError, TransactionalError};
use crate::group::GroupError;
use crate::member::Member;
use crate::partition::{At, Partition};
use crate::read::Shown;
use crate::tasks::blocking;
use crate::topics::NewTopic;
use crate::transaction::TransactionError;
use crate::transactional::{TransactionOptions, TransactionalProducer};

#[async_trait]
impl Engine for Broker {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn support(&self, capability: Capability) -> Support {
        match capability {
            Capability::PartitionOrder
            | Capability::Replay
            | Capability::Groups
            | Capability::IdempotentAppend
            | Capability::Transactions
            | Capability::Compaction => Support::Native,
        }
    }

    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<Ensured, EngineError> {
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
        batch: Bytes,
        durability: Durability,
    ) -> Result<Position, EngineError> {
        let ack = match durability {
            Durability::Written => Ack::Written,
            Durability::Durable => Ack::Durable,
        };
        let produced = self.partition_of(to)?.produce(batch, ack).await;
        Ok(position(produced.map_err(|error| self.refusal(to, error))?.base_offset))
    }

    async fn read(
        &self,
        partition: &TopicPartition,
        from: Position,
        limits: ReadLimits,
    ) -> Result<Fetched, EngineError> {
        let log = self.partition_of(partition)?;
        let from = offset(from);
        let give_up = tokio::time::sleep(limits.wait_max);
        tokio::pin!(give_up);
        loop {
            // Registered before looking, so that nothing that comes in between is missed.
            let waiter = Waiter::new();
            log.register(&waiter);
            let searched = log.clone();
            let reading = move || read(&searched, from, limits.bytes_max, Isolation::Committed);
            let slice = blocking(log.workers(), reading).await;
            let fetched = fetched(slice.map_err(|error| self.blame(partition, error))?, from)?;
            if fetched.next > position(from) || limits.wait_max.is_zero() {
                return Ok(fetched);
            }
            tokio::select! {
                () = waiter.woken() => {}
                () = &mut give_up => return Ok(fetched),
            }
        }
    }

    async fn locate(&self, partition: &TopicPartition, place: Place) -> Result<Position, EngineError> {
        Ok(position(self.find(&self.partition_of(partition)?, place, Isolation::Committed).await?))
    }

    async fn join(&self, group: &str, topics: &[String]) -> Result<Box<dyn GroupMember>, EngineError> {
        Ok(Box::new(Member::new(self.clone(), group, topics)?))
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        Some(self)
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
impl engine::TransactionalProducer for TransactionalProducer {
    async fn commit(
        &mut self,
        appends: Vec<(TopicPartition, Bytes)>,
        positions: Option<GroupPositions>,
    ) -> Result<Vec<Position>, EngineError> {
        let broker = self.broker().clone();
        let committed = async {
            let mut transaction = self.begin().await?;
            let mut appended = Vec::with_capacity(appends.len());
            for (to, batch) in appends {
                appended.push(position(transaction.produce(&to, batch).await?.base_offset));
            }
            if let Some(GroupPositions { group, positions }) = positions {
                let offsets: Vec<_> = positions.into_iter().map(|(at, next)| (at, offset(next))).collect();
                transaction.commit_offsets(&group, &offsets).await?;
            }
            transaction.commit().await?;
            Ok(appended)
        };
        committed.await.map_err(|error| broker.abortion(error))
    }
}

impl Broker {
    fn partition_of(&self, at: &TopicPartition) -> Result<Partition, EngineError> {
        self.partition(at).ok_or_else(|| EngineError::NotFound(at.clone()))
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
                position: position(asked),
                earliest: position(start),
                latest: position(end),
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
            ProduceError::Log(AppendError::Closed) => self.gone(partition),
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
            }
            | TransactionalError::Group { error: GroupError::CoordinatorNotAvailable, .. } => {
                EngineError::Failed(Box::new(error))
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
    Ok(Fetched { batches, next: position(next), latest: position(slice.offsets.last_stable) })
}

/// Offsets of records are never negative.
pub(crate) fn position(offset: Offset) -> Position {
    Position(offset.0.unsigned_abs())
}

/// A position that no offset can have is past every end.
pub(crate) fn offset(position: Position) -> Offset {
    Offset(i64::try_from(position.0).unwrap_or(i64::MAX))
}
