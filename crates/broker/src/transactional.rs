//! Transactions of programs that hold the broker inside: records and offsets of groups, all of them or none.
//!
//! Always by the rules of version 2 (KIP-890): each end gives the producer a new epoch, in which its sequence numbers begin at
//! 0. So what a call that was dropped may still do belongs to the transaction that it was made in; where the end of one is not
//! known, the next begins by asking the coordinator who the producer is.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use anabranch_core::batch::{BatchBuilder, Compression, EndKind, Record, check_batch};
use anabranch_core::{Offset, ProducerEpoch, ProducerId, TopicPartition};
use anabranch_log::{Ack, AppendError, Part};
use bytes::Bytes;

use crate::append::Appended;
use crate::broker::Broker;
use crate::consumer::Consumer;
use crate::error::{ProduceError, TransactionalError};
use crate::group::GroupError;
use crate::group::event::{Commit, InTransaction};
use crate::member::commit_of;
use crate::partition::{Partition, Produced};
use crate::transaction::event::{End, How, InitProducer, Join};
use crate::transaction::{TransactionError, TransactionVersion};

/// How long to wait before asking again while another change of the transactional id is under way: as Kafka's clients
/// do, 20 ms (`TransactionManager`).
const RETRY_BACKOFF: Duration = Duration::from_millis(20);

/// How a producer's transactions are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionOptions {
    /// What has not ended so long after its first record is aborted; at most `transaction.max.timeout.ms`.
    pub timeout: Duration,
}

impl Default for TransactionOptions {
    /// As Kafka's clients: a minute.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(60) }
    }
}

/// The one producer of a transactional id: see [`Broker::transactional`].
#[derive(Debug)]
pub struct TransactionalProducer {
    broker: Broker,
    id: String,
    timeout: Duration,
    producer: ProducerId,
    epoch: ProducerEpoch,
    /// Something was put into a transaction whose end is not known.
    is_open: bool,
}

/// Records and offsets that become visible together, by [`Transaction::commit`], or never. Dropping it aborts it in the
/// background.
///
/// After an error, or when one of its calls was dropped, it can only be aborted.
#[derive(Debug)]
#[must_use = "a transaction that is dropped is aborted"]
pub struct Transaction<'a> {
    producer: &'a mut TransactionalProducer,
    /// When it joined its first partition, on the monotonic clock.
    since: Duration,
    /// Leave to append in it, from its first partition on.
    part: Option<Part>,
    /// What is in it, and the sequence number that comes next there.
    sequences: HashMap<TopicPartition, i32>,
    /// Everything that it was given is in it.
    is_whole: bool,
}

impl Broker {
    /// The producer of the transactional id `id`, which is the program's to choose. An older one of this id, in this process
    /// or anywhere, is fenced by it: what that has open is aborted, and its next call fails.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// use anabranch_broker::{Apply, Broker, NewTopic, Record, TransactionOptions};
    ///
    /// let dir = tempfile::tempdir()?;
    /// let broker = Broker::open(dir.path()).await?;
    /// for topic in ["orders", "bills"] {
    ///     broker.create_topic(NewTopic::new(topic), Apply::Now).await?;
    /// }
    /// let mut shop = broker.transactional("shop-1", TransactionOptions::default()).await?;
    /// let mut transaction = shop.begin().await?;
    /// transaction.append("orders", Record::new("order-1", "two cups")).await?;
    /// transaction.append("bills", Record::new("order-1", "12.50")).await?;
    /// transaction.commit().await?; // both survive power loss, or neither is there
    /// broker.close().await;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TransactionalError::Coordinator`] and [`TransactionalError::Closed`].
    pub async fn transactional(
        &self,
        id: &str,
        options: TransactionOptions,
    ) -> Result<TransactionalProducer, TransactionalError> {
        let mut producer = TransactionalProducer {
            broker: self.clone(),
            id: id.to_owned(),
            timeout: options.timeout,
            producer: ProducerId::NONE,
            epoch: ProducerEpoch::NONE,
            is_open: false,
        };
        producer.init().await?;
        Ok(producer)
    }
}

impl TransactionalProducer {
    /// Begins a transaction. One that was dropped before has ended when this returns.
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub async fn begin(&mut self) -> Result<Transaction<'_>, TransactionalError> {
        if self.is_open {
            self.init().await?;
        }
        let (since, part, sequences) = (Duration::ZERO, None, HashMap::new());
        Ok(Transaction { producer: self, since, part, sequences, is_whole: true })
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Aborts what is open, and takes the next epoch; only of its own if it has one (KIP-360). Safe to drop and call again.
    async fn init(&mut self) -> Result<(), TransactionalError> {
        let init = InitProducer {
            id: self.id.clone(),
            timeout_ms: i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX),
            expected: self.producer.is_some().then_some((self.producer, self.epoch)),
        };
        let transactions = self.broker.transactions();
        let identity = in_turn(&self.broker, self.timeout, || transactions.init_producer(init.clone())).await;
        self.ended(identity)
    }

    /// Ends what is open. The future does not need the producer.
    fn end(
        &self,
        kind: EndKind,
    ) -> impl Future<Output = Result<(ProducerId, ProducerEpoch), TransactionError>> + Send + use<> {
        let (id, producer, epoch) = (self.id.clone(), self.producer, self.epoch);
        let end = End { id, producer, epoch, kind, version: TransactionVersion::V2 };
        let (broker, timeout) = (self.broker.clone(), self.timeout);
        async move { in_turn(&broker, timeout, || broker.transactions().end(&end)).await }
    }

    /// Nothing is open any more, and this is who it is from now on.
    fn ended(
        &mut self,
        identity: Result<(ProducerId, ProducerEpoch), TransactionError>,
    ) -> Result<(), TransactionalError> {
        (self.producer, self.epoch) = identity.map_err(|error| self.blame(error))?;
        self.is_open = false;
        Ok(())
    }

    fn blame(&self, error: TransactionError) -> TransactionalError {
        let id = self.id.clone();
        match error {
            TransactionError::ProducerFenced | TransactionError::InvalidProducerIdMapping => {
                TransactionalError::Fenced { id }
            }
            TransactionError::CoordinatorNotAvailable if self.broker.transactions().is_closed() => {
                TransactionalError::Closed
            }
            error => TransactionalError::Coordinator { id, error },
        }
    }
}

impl Transaction<'_> {
    /// Appends one record, to the partition that [`crate::Topic::append`] would choose.
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub async fn append(&mut self, topic: &str, record: Record) -> Result<Appended, TransactionalError> {
        let partition = match self.producer.broker.topic(topic) {
            Ok(topic) => topic.partition_of(record.key.as_deref()),
            Err(_) => 0, // refused there
        };
        let produced = self.append_batch(topic, partition, vec![record]).await?;
        Ok(Appended { partition, offset: produced.base_offset })
    }

    /// Appends records as one batch. They are safe when the transaction is committed, not before.
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub async fn append_batch(
        &mut self,
        topic: &str,
        partition: i32,
        records: Vec<Record>,
    ) -> Result<Produced, TransactionalError> {
        self.take_whole()?;
        let to = TopicPartition::new(topic, partition);
        let (partition, part) = self.enter(&to).await?;
        let count = records.len() as i32;
        let mut builder = BatchBuilder::new(Compression::None);
        let (producer, epoch) = (self.producer.producer, self.producer.epoch);
        builder.producer(producer, epoch, self.sequences[&to]).transactional();
        let batch = partition.build(builder, records).await;
        let batch = batch.map_err(|error| TransactionalError::produce(&to, error))?;
        let produced = self.submit(&partition, part, batch, count).await?;
        self.is_whole = true;
        Ok(produced)
    }

    /// Appends one batch, which is checked as [`crate::Partition::produce`] does. Whatever producer it names, it becomes this one's.
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub async fn produce(
        &mut self,
        to: &TopicPartition,
        batch: Bytes,
    ) -> Result<Produced, TransactionalError> {
        self.take_whole()?;
        let batch = check_batch(&batch).map_err(|error| TransactionalError::produce(to, error))?;
        let (partition, part) = self.enter(to).await?;
        let (producer, epoch) = (self.producer.producer, self.producer.epoch);
        let bytes = batch.in_transaction(producer, epoch, self.sequences[to]);
        let produced = self.submit(&partition, part, bytes, batch.header().record_count).await?;
        self.is_whole = true;
        Ok(produced)
    }

    /// Commits where `group` stands, with the transaction: the records to be read next. For groups without members; of a
    /// member there is [`Transaction::commit_consumed`].
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub async fn commit_offsets(
        &mut self,
        group: &str,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<(), TransactionalError> {
        self.take_whole()?;
        let positions: Vec<_> = offsets.iter().map(|(at, next)| (at.clone(), (*next).into())).collect();
        self.try_commit(commit_of(group, &positions)).await?;
        self.is_whole = true;
        Ok(())
    }

    /// Commits with the transaction that everything which `consumer` has handed out is done with. It fails when other members
    /// have taken over: the records come again, there.
    ///
    /// After a transaction that was aborted the consumer goes on behind what it has handed out. Whoever wants those records
    /// again leaves the group and joins it anew.
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub async fn commit_consumed(&mut self, consumer: &Consumer) -> Result<(), TransactionalError> {
        self.take_whole()?;
        self.try_commit(consumer.consumed()).await?;
        self.is_whole = true;
        Ok(())
    }

    /// Commits: when this returns, all of the transaction survives power loss, and readers see it.
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub async fn commit(mut self) -> Result<(), TransactionalError> {
        self.take_whole()?;
        if !self.producer.is_open {
            return Ok(());
        }
        match self.producer.end(EndKind::Commit).await {
            Err(error) => Err(self.refused(error).await),
            identity => self.producer.ended(identity),
        }
    }

    /// Aborts: nothing of the transaction will ever be seen by readers of committed records.
    ///
    /// # Errors
    /// [`TransactionalError`]; aborted is it in any case, in the end.
    pub async fn abort(self) -> Result<(), TransactionalError> {
        if !self.producer.is_open {
            return Ok(());
        }
        let identity = self.producer.end(EndKind::Abort).await;
        self.producer.ended(identity)
    }

    /// Who takes this gives it back when all went well; not if it fails or is dropped.
    fn take_whole(&mut self) -> Result<(), TransactionalError> {
        match mem::take(&mut self.is_whole) {
            true => Ok(()),
            false => Err(TransactionalError::Incomplete { id: self.producer.id.clone() }),
        }
    }

    /// A partition that is in the transaction from now on.
    async fn enter(&mut self, at: &TopicPartition) -> Result<(Partition, Part), TransactionalError> {
        let partition = self.known(at)?;
        Ok((partition, self.join(at).await?))
    }

    fn known(&self, at: &TopicPartition) -> Result<Partition, TransactionalError> {
        let unknown = || TransactionalError::produce(at, ProduceError::Unknown(at.clone()));
        self.producer.broker.partition(at).ok_or_else(unknown)
    }

    /// Appends `count` records with the sequence number that comes next.
    async fn submit(
        &mut self,
        to: &Partition,
        part: Part,
        batch: Bytes,
        count: i32,
    ) -> Result<Produced, TransactionalError> {
        // The end makes durable what it commits.
        let refused = |error| TransactionalError::produce(to.id(), error);
        let producing = to.submit_in(batch, Ack::Written, Some(part)).await.map_err(refused)?;
        match producing.answer().await {
            Ok(produced) => {
                let next = self.sequences.get_mut(to.id()).expect("the partition has joined");
                // After the largest comes 0 (Kafka's `DefaultRecordBatch.incrementSequence`).
                *next = next.wrapping_add(count) & i32::MAX;
                Ok(produced)
            }
            Err(ProduceError::Log(
                AppendError::InvalidProducerEpoch { .. } | AppendError::NotInTransaction { .. },
            )) => Err(self.lost().await),
            Err(error) => Err(refused(error)),
        }
    }

    async fn try_commit(&mut self, commit: Commit) -> Result<(), TransactionalError> {
        let refused = |group: &str, error| TransactionalError::Group { group: group.to_owned(), error };
        let group = commit.group.clone();
        if group.is_empty() {
            return Err(refused(&group, GroupError::InvalidGroupId));
        }
        if commit.offsets.is_empty() {
            return Ok(());
        }
        for offset in &commit.offsets {
            self.known(&TopicPartition::new(offset.topic.clone(), offset.partition))?;
        }
        let broker = self.producer.broker.clone();
        let part = self.join(&broker.groups().partition()).await?;
        let transaction =
            InTransaction { producer: self.producer.producer, epoch: self.producer.epoch, part };
        let committed = broker.groups().commit_in(commit, transaction).await;
        match committed.and_then(|each| each.into_iter().collect()) {
            Ok(()) => Ok(()),
            Err(GroupError::InvalidTxnState | GroupError::InvalidProducerEpoch) => Err(self.lost().await),
            Err(GroupError::CoordinatorNotAvailable) if broker.groups().is_closed() => {
                Err(TransactionalError::Closed)
            }
            Err(error) => Err(refused(&group, error)),
        }
    }

    /// Makes the partition a part of the transaction. That this is durable is not waited for: the end says so again.
    async fn join(&mut self, partition: &TopicPartition) -> Result<Part, TransactionalError> {
        if let (Some(part), true) = (self.part, self.sequences.contains_key(partition)) {
            return Ok(part);
        }
        let producer = &mut *self.producer;
        if self.part.is_none() {
            self.since = producer.broker.clock().monotonic();
        }
        producer.is_open = true;
        let join = Join {
            id: producer.id.clone(),
            producer: producer.producer,
            epoch: producer.epoch,
            partitions: vec![partition.clone()],
            how: How::Add(TransactionVersion::V2),
        };
        let transactions = producer.broker.transactions();
        match in_turn(&producer.broker, producer.timeout, || transactions.join(join.clone())).await {
            Ok(membership) => {
                self.part = Some(membership.part());
                self.sequences.insert(partition.clone(), 0);
                Ok(membership.part())
            }
            Err(error) => Err(self.refused(error).await),
        }
    }

    async fn refused(&mut self, error: TransactionError) -> TransactionalError {
        match error {
            TransactionError::ProducerFenced
            | TransactionError::InvalidProducerIdMapping
            | TransactionError::InvalidTxnState => self.lost().await,
            error => self.producer.blame(error),
        }
    }

    /// Why the transaction is not there any more: whose it was can still begin another, unless there is a newer producer.
    async fn lost(&mut self) -> TransactionalError {
        let lasted = self.producer.broker.clock().monotonic().saturating_sub(self.since);
        if let Err(error) = self.producer.init().await {
            return error;
        }
        let (id, timeout) = (self.producer.id.clone(), self.producer.timeout);
        match lasted >= timeout {
            true => TransactionalError::TimedOut { id, timeout },
            false => TransactionalError::Aborted { id },
        }
    }
}

impl Drop for Transaction<'_> {
    /// Where there is a runtime, readers go on at once; otherwise when the producer begins anew, or time is over.
    fn drop(&mut self) {
        if self.producer.is_open
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(self.producer.end(EndKind::Abort));
        }
    }
}

/// Asks again while another change of the transactional id is under way, which may wait for room on the disk; for no longer
/// than a transaction may last.
async fn in_turn<T, F: Future<Output = Result<T, TransactionError>>>(
    broker: &Broker,
    timeout: Duration,
    ask: impl Fn() -> F,
) -> Result<T, TransactionError> {
    let since = broker.clock().monotonic();
    loop {
        match ask().await {
            Err(TransactionError::ConcurrentTransactions)
                if broker.clock().monotonic().saturating_sub(since) < timeout =>
            {
                tokio::time::sleep(RETRY_BACKOFF).await;
            }
            answer => return answer,
        }
    }
}
