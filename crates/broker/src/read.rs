//! Reading records inside the process: some partitions, from some offsets, as they come. Nobody gets to see what is not a
//! record, or was aborted.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};

use anabranch_core::batch::{BatchHeader, Record, split_batches};
use anabranch_core::engine::{EngineError, Place};
use anabranch_core::{Offset, ProducerId, TopicPartition};
use anabranch_log::{Aborted, Isolation, LogStatus, Waiter};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::broker::Broker;
use crate::engine::read;
use crate::error::FetchError;
use crate::partition::Partition;
use crate::tasks::blocking;

/// How much of a partition is read at a time; a larger batch comes whole.
const READ_BYTES: usize = 256 << 10;

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    /// From where.
    pub partition: TopicPartition,
    /// Its place there.
    pub offset: Offset,
    /// What it is.
    pub record: Record,
}

/// The records of a topic, those that are there and those that come: see [`Broker::tail`]. Within a partition they are
/// in order. It ends after an error.
pub struct Tail(BoxStream<'static, Result<Consumed, EngineError>>);

impl Tail {
    /// The next record; waits for it.
    pub async fn next(&mut self) -> Option<Result<Consumed, EngineError>> {
        self.0.next().await
    }
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").finish_non_exhaustive()
    }
}

impl futures::Stream for Tail {
    type Item = Result<Consumed, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl Broker {
    /// The committed records of `topic` from `from` on, for ever: what there is, then what comes. It reads the partitions that the
    /// topic has now.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// use anabranch_broker::{Apply, Broker, NewTopic, Place, Record};
    ///
    /// let dir = tempfile::tempdir()?;
    /// let broker = Broker::open(dir.path()).await?;
    /// let orders = broker.create_topic(NewTopic::new("orders"), Apply::Now).await?;
    /// orders.append(Record::new("order-1", "two cups")).await?;
    ///
    /// let mut tail = broker.tail("orders", Place::Earliest).await?;
    /// let first = tail.next().await.expect("a tail has no end")?;
    /// assert_eq!(first.record.value.as_deref(), Some(&b"two cups"[..]));
    /// broker.close().await;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`EngineError`] when there is no such topic, or its disk cannot be read.
    pub async fn tail(&self, topic: &str, from: Place) -> Result<Tail, EngineError> {
        self.tail_with(topic, from, Isolation::Committed).await
    }

    /// The same, and whether it also brings records of transactions that have not ended, or were aborted.
    ///
    /// # Errors
    /// [`EngineError`] when there is no such topic, or its disk cannot be read.
    pub async fn tail_with(
        &self,
        topic: &str,
        from: Place,
        isolation: Isolation,
    ) -> Result<Tail, EngineError> {
        let found = self.topic(topic).map_err(|_| EngineError::NotFound(TopicPartition::new(topic, 0)))?;
        let mut reader = Reader::new(self.clone(), isolation);
        for partition in found.partitions() {
            let start = self.find(partition, from, isolation).await?;
            reader.add(partition.clone(), start);
        }
        Ok(Tail(
            stream::try_unfold(reader, |mut reader| async {
                let next = reader.next().await?;
                Ok(Some((next, reader)))
            })
            .boxed(),
        ))
    }
}

/// Reads several partitions in turn.
#[derive(Debug)]
pub(crate) struct Reader {
    broker: Broker,
    isolation: Isolation,
    cursors: VecDeque<Cursor>,
    /// Read and not handed out yet; bounded by one read.
    ready: VecDeque<Consumed>,
}

#[derive(Debug)]
struct Cursor {
    partition: Partition,
    next: Offset,
}

impl Reader {
    pub(crate) fn new(broker: Broker, isolation: Isolation) -> Self {
        Self { broker, isolation, cursors: VecDeque::new(), ready: VecDeque::new() }
    }

    pub(crate) fn add(&mut self, partition: Partition, next: Offset) {
        self.cursors.push_back(Cursor { partition, next });
    }

    /// Forgets a partition and what was read of it.
    pub(crate) fn remove(&mut self, partition: &TopicPartition) {
        self.cursors.retain(|cursor| cursor.partition.id() != partition);
        self.ready.retain(|consumed| &consumed.partition != partition);
    }

    /// The next record of any of the partitions; waits for it. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Consumed, EngineError> {
        loop {
            if let Some(consumed) = self.ready.pop_front() {
                return Ok(consumed);
            }
            if self.fill().await? {
                continue;
            }
            // Registered before looking again, so that nothing that comes in between is missed. A new waiter each time,
            // since partitions keep one until they grow, or it is gone.
            let waiter = Waiter::new();
            for cursor in &self.cursors {
                cursor.partition.register(&waiter);
            }
            if !self.fill().await? {
                waiter.woken().await;
            }
        }
    }

    /// Reads from the first partition that has something; whether there was one.
    async fn fill(&mut self) -> Result<bool, EngineError> {
        let isolation = self.isolation;
        let mut left = self.cursors.len();
        while left > 0 {
            let Some(cursor) = self.cursors.front() else { break };
            let (partition, from) = (cursor.partition.clone(), cursor.next);
            if has_nothing(&partition, from, isolation) {
                self.cursors.rotate_left(1);
                left -= 1;
                continue;
            }
            let read =
                blocking(cursor.partition.workers(), move || records(&partition, from, isolation)).await;
            let cursor = self.cursors.front_mut().expect("it was there, and nobody else has it");
            let (records, next) = read.map_err(|error| self.broker.blame(cursor.partition.id(), error))?;
            // Batches of which compaction left nothing, or that are not shown, bring no records, and more may follow them.
            if next == from {
                left -= 1;
            }
            cursor.next = next;
            self.ready.extend(records);
            self.cursors.rotate_left(1);
            if !self.ready.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether a read would bring nothing and no error either.
fn has_nothing(partition: &Partition, from: Offset, isolation: Isolation) -> bool {
    partition.offsets().end(isolation) == from && matches!(partition.status(), LogStatus::Online)
}

fn records(
    partition: &Partition,
    from: Offset,
    isolation: Isolation,
) -> Result<(Vec<Consumed>, Offset), FetchError> {
    let slice = read(partition, from, READ_BYTES, isolation)?;
    let mut shown = Shown::new(slice.aborted);
    let (mut records, mut next) = (Vec::new(), from);
    for batch in split_batches(slice.batches) {
        let damaged = |error| FetchError::Batch { partition: partition.id().clone(), error };
        let batch = batch.map_err(damaged)?;
        next = batch.header().next_offset();
        if !shown.includes(batch.header()) {
            continue;
        }
        let kept = batch.records().map_err(damaged)?.into_iter().filter(|at| at.offset >= from);
        records.extend(kept.map(|at| Consumed {
            partition: partition.id().clone(),
            offset: at.offset,
            record: at.record,
        }));
    }
    Ok((records, next))
}

/// Which batches of a read are shown: not those of transactions that were aborted, nor the ends of transactions.
pub(crate) struct Shown {
    /// In order of where they begin.
    aborted: VecDeque<Aborted>,
    /// Whose batches are of an aborted transaction here.
    hidden: BTreeSet<ProducerId>,
}

impl Shown {
    pub(crate) fn new(mut aborted: Vec<Aborted>) -> Self {
        aborted.sort_unstable_by_key(|aborted| aborted.first);
        Self { aborted: aborted.into(), hidden: BTreeSet::new() }
    }

    /// Whether the batch is; they are asked about in order, each of them.
    pub(crate) fn includes(&mut self, batch: &BatchHeader) -> bool {
        while let Some(begun) = self.aborted.pop_front_if(|aborted| aborted.first <= batch.last_offset()) {
            self.hidden.insert(begun.producer);
        }
        if batch.is_control() {
            self.hidden.remove(&batch.producer_id);
            return false;
        }
        !batch.is_transactional() || !self.hidden.contains(&batch.producer_id)
    }
}
