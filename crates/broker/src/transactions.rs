//! Transactions, for many callers at a time: drives the coordinator of [`crate::transaction`].
//!
//! Callers put their requests into the coordinator under a lock and wait for their answers outside of it. What it wants
//! written goes through one queue, in order: one task submits it to the log, and tells whoever may append behind it;
//! another awaits the outcomes, in the same order. So a producer's records are queued behind the record that they join
//! by, and one sync makes both durable.
//!
//! Before anybody is served, what the partitions have open and what the coordinator knows are brought together: ends that
//! were decided are completed, and what nobody would end is aborted.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::batch::EndMarker;
use anabranch_core::seam::Clock;
use anabranch_core::{ProducerEpoch, ProducerId, TopicPartition};
use anabranch_log::{Ack, AppendError, End as LogEnd, Gate, Part, PartitionLog, Pending, PendingEnd, Store};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::catalogue::{Catalogue, OFFSETS_TOPIC};
use crate::config::broker::BrokerConfig;
use crate::driver::{Waiting, keep_time};
use crate::error::{BrokerError, ProduceError};
use crate::groups::GroupService;
use crate::journal::{Journal, batch_of};
use crate::kafka_record::EncodedRecord;
use crate::producers::ProducerIds;
use crate::tasks::blocking;
use crate::transaction::event::{DescribedTransaction, End, Filter, How, InitProducer, Join, Joined};
use crate::transaction::restore::Open;
use crate::transaction::{
    Effect, EndKind, EndTransaction, Now, RequestId, Response, Restore, StoreError, Token, TransactionConfig,
    TransactionError, TransactionVersion, Transactions,
};

/// One coordinator for ever.
const COORDINATOR_EPOCH: i32 = 0;
/// Outcomes that are awaited at a time; the rest is not submitted before.
const SUBMITTED_MAX: usize = 1024;
/// What a batch has beside the key and the value of its one record, and what the record of an end has more than the one of
/// a join before it.
const OVERHEAD_BYTES: usize = 256;

/// The transactions of a broker.
pub struct TransactionService {
    driver: Arc<Driver>,
    retry: Retry,
    timer: JoinHandle<()>,
    /// Taken by whoever closes.
    writers: Mutex<Vec<JoinHandle<()>>>,
}

/// How long a producer's records wait for the end of its last transaction.
#[derive(Debug, Clone, Copy)]
struct Retry {
    backoff: Duration,
    backoff_max: Duration,
}

/// What the driver works with.
pub(crate) struct Parts {
    pub(crate) journal: Journal,
    pub(crate) store: Store,
    pub(crate) producer_ids: Arc<ProducerIds>,
    pub(crate) catalogue: Arc<RwLock<Arc<Catalogue>>>,
    /// Whose offsets are part of transactions.
    pub(crate) groups: Arc<GroupService>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The largest batch that the coordinator's topic takes.
    pub(crate) message_bytes_max: usize,
}

struct Driver {
    parts: Parts,
    /// Protects the coordinator and who waits for it; never held across an await.
    state: Mutex<State>,
    /// There is something to submit, or nothing will come any more.
    steps_wake: Notify,
    /// Something happens by itself earlier than the timer knows.
    timer_wake: Notify,
}

struct State {
    transactions: Transactions,
    waiting: Waiting<Response>,
    /// Who waits to append.
    joining: HashMap<RequestId, oneshot::Sender<u64>>,
    /// Topics in which no transaction begins, since they are to be held still.
    held: HashSet<String>,
    /// Bounded by [`TransactionConfig::stores_in_flight_max`], and by one for each who waits.
    steps: VecDeque<Step>,
    /// Steps that are not done, with the one that is taken.
    steps_left: usize,
    /// What the timer waits for.
    timer_until: Option<Duration>,
    closed: bool,
}

/// What is done in order.
enum Step {
    Store(Token, EncodedRecord),
    End(Token, EndTransaction),
    Admit(oneshot::Sender<u64>, u64),
    TakeProducerId(Token),
}

/// What is in the log's queue.
enum Submitted {
    Store(Token, Result<Pending, StoreError>),
    End(Token, Ending, Result<PendingEnd, StoreError>),
}

/// An end under way.
struct Ending {
    producer: ProducerId,
    kind: EndKind,
    /// Of the markers.
    partitions: Vec<TopicPartition>,
}

/// Leave to append in a transaction.
#[derive(Debug)]
pub struct Membership {
    part: Part,
    answer: oneshot::Receiver<Response>,
}

impl Membership {
    /// To append with. What comes after the end of the transaction is refused by it.
    #[must_use]
    pub fn part(&self) -> Part {
        self.part
    }

    /// What is in the transaction, durably, in the order of the request.
    ///
    /// # Errors
    /// [`TransactionError`]. What was appended meanwhile ends with the transaction all the same.
    pub async fn answer(self) -> Result<Vec<Result<(), TransactionError>>, TransactionError> {
        Ok(joined(self.answer).await?.partitions)
    }
}

async fn joined(answer: oneshot::Receiver<Response>) -> Result<Joined, TransactionError> {
    match answer.await {
        Ok(Response::Join(answer)) => answer,
        Ok(other) => unreachable!("a Join was answered with {other:?}"),
        Err(_) => Err(TransactionError::CoordinatorNotAvailable),
    }
}

impl TransactionService {
    /// Restores the transactions from their topic, ends what is to be ended, and takes up work.
    pub(crate) async fn open(parts: Parts, config: &BrokerConfig) -> Result<Self, BrokerError> {
        let reading = parts.journal.clone();
        let restored = blocking(parts.journal.log().workers(), move || {
            let mut restore = Restore::default();
            reading.read_all(|batch, at| {
                if batch.header().is_control() {
                    return Ok(()); // somebody had this partition in a transaction
                }
                let key = at.record.key.as_deref().ok_or("it has no key")?;
                restore.apply(key, at.record.value.as_deref()).map_err(|error| error.to_string())
            })?;
            Ok::<_, BrokerError>(restore)
        })
        .await?;
        let settings = transaction_config(config, parts.message_bytes_max);
        let (transactions, effects) = restored.finish(settings, Now::of(parts.clock.as_ref()));
        let mut state = State {
            transactions,
            waiting: Waiting::default(),
            joining: HashMap::new(),
            held: HashSet::new(),
            steps: VecDeque::new(),
            steps_left: 0,
            timer_until: None,
            closed: false,
        };
        state.perform(effects);
        let driver = Arc::new(Driver {
            parts,
            state: Mutex::new(state),
            steps_wake: Notify::new(),
            timer_wake: Notify::new(),
        });
        driver.settle().await;
        driver.reconcile().await;
        let (submitted, outcomes) = mpsc::channel(SUBMITTED_MAX);
        let (submitting, reporting, ticking) =
            (Arc::clone(&driver), Arc::clone(&driver), Arc::clone(&driver));
        let writers = vec![
            tokio::spawn(async move { submitting.submit_all(submitted).await }),
            tokio::spawn(async move { reporting.report_all(outcomes).await }),
        ];
        let ms = |name: &str| Duration::from_millis(config.number(name).unsigned_abs());
        Ok(Self {
            driver,
            retry: Retry {
                backoff: ms("add.partitions.to.txn.retry.backoff.ms"),
                backoff_max: ms("add.partitions.to.txn.retry.backoff.max.ms"),
            },
            timer: tokio::spawn(async move { ticking.keep_time().await }),
            writers: Mutex::new(writers),
        })
    }

    /// Ends what is on its way, and refuses what comes.
    pub(crate) async fn close(&self) {
        self.driver.state.lock().closed = true;
        self.timer.abort();
        self.driver.steps_wake.notify_one();
        let writers = std::mem::take(&mut *self.writers.lock());
        for writer in writers {
            if let Err(failed) = writer.await {
                tracing::error!(%failed, "the writer of the transactions' topic failed");
            }
        }
        let mut state = self.driver.state.lock();
        state.waiting.clear();
        state.joining.clear();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.driver.state.lock().closed
    }

    /// InitProducerId with a transactional id; durable.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub async fn init_producer(
        &self,
        init: InitProducer,
    ) -> Result<(ProducerId, ProducerEpoch), TransactionError> {
        let answer =
            self.driver.ask(|transactions, request, now| transactions.init_producer(request, init, now));
        match answer?.await {
            Ok(Response::InitProducer(answer)) => answer,
            Ok(other) => unreachable!("an InitProducer was answered with {other:?}"),
            Err(_) => Err(TransactionError::CoordinatorNotAvailable),
        }
    }

    /// AddPartitionsToTxn, and what other requests ask on the way. Returns when what the answer rests on is in the log's queue:
    /// what is appended then comes behind it.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub async fn join(&self, join: Join) -> Result<Membership, TransactionError> {
        let version = match join.how {
            How::Add(version) => version,
            How::Verify => TransactionVersion::V0,
        };
        let (admitted, answer) = self.driver.ask_to_join(join)?;
        match admitted.await {
            Ok(ordinal) => Ok(Membership { part: Part { ordinal, version: version.level() as i8 }, answer }),
            Err(_) => Err(joined(answer).await.expect_err("who joins is admitted first")),
        }
    }

    /// The same for records that come: a producer may send the first of a transaction before the last one's end is done, and
    /// it need not know (`add.partitions.to.txn.retry.backoff.ms`).
    ///
    /// # Errors
    /// [`TransactionError`].
    pub async fn join_in_turn(&self, join: Join) -> Result<Membership, TransactionError> {
        let mut waited = Duration::ZERO;
        loop {
            match self.join(join.clone()).await {
                Err(TransactionError::ConcurrentTransactions) if waited < self.retry.backoff_max => {
                    tokio::time::sleep(self.retry.backoff).await;
                    waited += self.retry.backoff;
                }
                answer => return answer,
            }
        }
    }

    /// EndTxn; answered when the end is decided, durably: who the producer is from now on.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub async fn end(&self, end: &End) -> Result<(ProducerId, ProducerEpoch), TransactionError> {
        let answer = self.driver.ask(|transactions, request, now| transactions.end(request, end, now));
        match answer?.await {
            Ok(Response::End(answer)) => answer,
            Ok(other) => unreachable!("an End was answered with {other:?}"),
            Err(_) => Err(TransactionError::CoordinatorNotAvailable),
        }
    }
}

impl TransactionService {
    /// WriteTxnMarkers: ends in one partition what is open there of a producer, whatever its transaction comes to.
    ///
    /// # Errors
    /// [`ProduceError`].
    pub async fn mark(
        &self,
        partition: &TopicPartition,
        producer: ProducerId,
        epoch: ProducerEpoch,
        marker: EndMarker,
    ) -> Result<(), ProduceError> {
        self.driver.mark(partition, producer, epoch, marker).await
    }

    /// In topics that are to be held still no transaction begins; those that are open go on to their ends.
    pub(crate) fn set_gate(&self, topics: &[String], gate: &Gate) {
        let mut state = self.driver.state.lock();
        for topic in topics {
            match gate {
                Gate::Open | Gate::Moved(_) | Gate::Redirected(_) => drop(state.held.remove(topic)),
                Gate::Draining | Gate::Held => drop(state.held.insert(topic.clone())),
            }
        }
    }

    /// DescribeTransactions, one transactional id, if there is such: what `show` makes of it.
    pub fn describe<T>(&self, id: &str, show: impl FnOnce(DescribedTransaction<'_>) -> T) -> Option<T> {
        self.driver.state.lock().transactions.describe(id).map(show)
    }

    /// ListTransactions, by id: what `show` makes of each, if anything.
    pub fn list<T>(&self, filter: &Filter, show: impl Fn(DescribedTransaction<'_>) -> Option<T>) -> Vec<T> {
        let now = self.driver.now();
        self.driver.state.lock().transactions.list(filter, now).filter_map(show).collect()
    }
}

impl Drop for TransactionService {
    /// When it was not closed before, what nobody was told of is not written.
    fn drop(&mut self) {
        self.timer.abort();
        for writer in self.writers.get_mut() {
            writer.abort();
        }
    }
}

impl fmt::Debug for TransactionService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionService")
            .field("transactions", &self.driver.state.lock().transactions)
            .finish_non_exhaustive()
    }
}

impl Driver {
    fn now(&self) -> Now {
        Now::of(self.parts.clock.as_ref())
    }

    /// Asks the coordinator: where the answer will come.
    fn ask(
        &self,
        question: impl FnOnce(&mut Transactions, RequestId, Now) -> Vec<Effect>,
    ) -> Result<oneshot::Receiver<Response>, TransactionError> {
        let now = self.now();
        let mut state = self.state.lock();
        let (request, answer) = state.begin()?;
        let effects = question(&mut state.transactions, request, now);
        state.perform(effects);
        self.wake(&state);
        Ok(answer)
    }

    /// The same, and where the leave to append will come.
    fn ask_to_join(
        &self,
        join: Join,
    ) -> Result<(oneshot::Receiver<u64>, oneshot::Receiver<Response>), TransactionError> {
        let now = self.now();
        let mut state = self.state.lock();
        if state.is_kept_out(&join) {
            // Which every client tries again.
            return Err(TransactionError::ConcurrentTransactions);
        }
        let (request, answer) = state.begin()?;
        let (admit, admitted) = oneshot::channel();
        state.joining.insert(request, admit);
        let effects = state.transactions.join(request, join, now);
        state.perform(effects);
        self.wake(&state);
        Ok((admitted, answer))
    }

    /// Tells the coordinator what asks for no answer.
    fn run(&self, event: impl FnOnce(&mut Transactions, Now) -> Vec<Effect>) {
        let now = self.now();
        let mut state = self.state.lock();
        let effects = event(&mut state.transactions, now);
        state.perform(effects);
        self.wake(&state);
    }

    fn wake(&self, state: &State) {
        if !state.steps.is_empty() {
            self.steps_wake.notify_one();
        }
        let is_earlier = |due: Duration| state.timer_until.is_none_or(|until| due < until);
        if state.transactions.next_deadline().is_some_and(is_earlier) {
            self.timer_wake.notify_one();
        }
    }

    async fn keep_time(&self) {
        let due = || {
            let mut state = self.state.lock();
            state.timer_until = state.transactions.next_deadline();
            state.timer_until
        };
        keep_time(self.parts.clock.as_ref(), &self.timer_wake, due, || self.run(Transactions::tick)).await;
    }

    async fn submit_all(&self, submitted: mpsc::Sender<Submitted>) {
        loop {
            let step = self.state.lock().steps.pop_front();
            match step {
                Some(step) => {
                    if let Some(step) = self.submit(step).await {
                        // The other task lives as long as this one.
                        let _ = submitted.send(step).await;
                    }
                }
                None if self.state.lock().closed => return,
                None => self.steps_wake.notified().await,
            }
        }
    }

    async fn report_all(&self, mut outcomes: mpsc::Receiver<Submitted>) {
        while let Some(submitted) = outcomes.recv().await {
            self.report(submitted).await;
        }
    }

    /// Does all that is to be done, before there are tasks for it.
    async fn settle(&self) {
        loop {
            let steps = std::mem::take(&mut self.state.lock().steps);
            if steps.is_empty() {
                return;
            }
            let mut submitted = Vec::new();
            for step in steps {
                submitted.extend(self.submit(step).await);
            }
            for submitted in submitted {
                self.report(submitted).await;
            }
        }
    }

    /// Does a step, but for awaiting its outcome.
    async fn submit(&self, step: Step) -> Option<Submitted> {
        let submitted = match step {
            Step::Admit(admit, ordinal) => {
                // Nobody waits any more: the connection is gone.
                let _ = admit.send(ordinal);
                None
            }
            Step::TakeProducerId(token) => {
                let taken = self.parts.producer_ids.next().await;
                let outcome = taken.map(|(id, _)| id).map_err(|error| store_error(&error.0));
                self.run(|transactions, now| transactions.producer_id(token, outcome, now));
                None
            }
            Step::Store(token, record) => Some(Submitted::Store(token, self.submit_record(record).await)),
            Step::End(token, end) => {
                let (ending, pending) = self.submit_end(end).await;
                Some(Submitted::End(token, ending, pending))
            }
        };
        self.state.lock().steps_left -= 1;
        submitted
    }

    async fn submit_record(&self, record: EncodedRecord) -> Result<Pending, StoreError> {
        let batch = batch_of(&record.at(self.now().unix_ms));
        if batch.bytes().len() > self.parts.message_bytes_max {
            return Err(StoreError::TooLarge);
        }
        let submitted = self.parts.journal.log().submit(batch, Ack::Durable).await;
        submitted.map_err(|error| store_error(&error))
    }

    /// Queues an end, with markers for the partitions that are there.
    async fn submit_end(&self, end: EndTransaction) -> (Ending, Result<PendingEnd, StoreError>) {
        let now_ms = self.now().unix_ms;
        let marker = EndMarker { kind: end.kind, coordinator_epoch: COORDINATOR_EPOCH };
        let marker = marker.batch(end.producer, end.epoch, now_ms);
        let (mut partitions, mut markers) = (Vec::new(), Vec::new());
        for partition in end.partitions {
            let Some(log) = self.log(&partition) else { continue };
            if end.only_open && !has_open(&log, end.producer).await {
                continue;
            }
            partitions.push(partition);
            markers.push((log, marker.clone()));
        }
        let submitted = self.parts.store.submit_end(LogEnd {
            decision: self.parts.journal.log().clone(),
            prepared: end.prepared.map(|record| batch_of(&record.at(now_ms))),
            completed: batch_of(&end.completed.at(now_ms)),
            markers,
            version: end.version.level() as i8,
            ordinal: end.ordinal,
        });
        let ending = Ending { producer: end.producer, kind: end.kind, partitions };
        (ending, submitted.await.map_err(|error| store_error(&error)))
    }

    fn log(&self, partition: &TopicPartition) -> Option<PartitionLog> {
        let catalogue = Arc::clone(&self.parts.catalogue.read());
        Some(catalogue.get(&partition.topic)?.partition(partition.partition)?.log().clone())
    }

    /// Awaits an outcome and tells the coordinator.
    async fn report(&self, submitted: Submitted) {
        let told = |error: AppendError| {
            tracing::error!(%error, "the state of a transaction cannot be stored");
            store_error(&error)
        };
        match submitted {
            Submitted::Store(token, pending) => {
                let outcome = match pending {
                    Ok(pending) => pending.answer().await.map(|_| ()).map_err(told),
                    Err(error) => Err(error),
                };
                self.run(|transactions, now| transactions.stored(token, outcome, now));
            }
            Submitted::End(token, ending, pending) => {
                let outcome = match pending {
                    Ok(pending) => pending.answer().await.map(|ended| ended.missing).map_err(told),
                    Err(error) => Err(error),
                };
                let outcome = outcome.map(|missing| self.marked(&ending, &missing));
                self.run(|transactions, now| transactions.ended(token, outcome, now));
            }
        }
    }

    /// The end is decided, and carried out but where markers are missing: which partitions those are.
    fn marked(&self, ending: &Ending, missing: &[usize]) -> Vec<TopicPartition> {
        let missing: Vec<TopicPartition> = missing.iter().map(|at| ending.partitions[*at].clone()).collect();
        if let Some(partition) = missing.first() {
            tracing::warn!(
                %partition, partitions = missing.len(),
                "the end of a transaction is decided, and cannot be written yet"
            );
        }
        // Before the producer is told, and may ask what its group has committed.
        if missing.iter().all(|partition| partition.topic != OFFSETS_TOPIC) {
            self.parts.groups.transaction_ended(ending.producer, ending.kind);
        }
        missing
    }

    /// Brings together what the partitions have open and what the coordinator knows, when the ends that were decided are done.
    async fn reconcile(&self) {
        let catalogue = Arc::clone(&self.parts.catalogue.read());
        let mut open = Vec::new();
        for partition in catalogue.iter().flat_map(|topic| topic.partitions()) {
            let log = partition.log();
            let offsets = log.offsets();
            // What is open begins below the high watermark, unless its records were deleted.
            let may_be = offsets.last_stable < offsets.high_watermark
                || offsets.log_start == offsets.high_watermark && offsets.log_start.0 > 0;
            if may_be {
                for found in log.open_transactions().await.unwrap_or_default() {
                    let (partition, producer, epoch) = (log.id().clone(), found.producer, found.epoch);
                    open.push(Open { partition, producer, epoch });
                }
            }
        }
        let orphans = {
            let now = self.now();
            let mut state = self.state.lock();
            let (effects, orphans) = state.transactions.reconcile(open, now);
            state.perform(effects);
            orphans
        };
        self.settle().await;
        for orphan in orphans {
            self.abort(orphan).await;
        }
    }

    /// Aborts what no transactional id stands for.
    async fn abort(&self, Open { partition, producer, epoch }: Open) {
        let marker = EndMarker { kind: EndKind::Abort, coordinator_epoch: COORDINATOR_EPOCH };
        match self.mark(&partition, producer, epoch, marker).await {
            Ok(()) => tracing::warn!(
                %partition, producer = producer.0, epoch = epoch.0, "aborted what nobody would have ended"
            ),
            Err(error) => tracing::error!(
                %partition, producer = producer.0, epoch = epoch.0, %error,
                "what nobody will end cannot be aborted before the next start: readers of committed records wait"
            ),
        }
    }

    /// Writes a marker by itself, in the epoch of the records, by the rules that let it have that.
    async fn mark(
        &self,
        partition: &TopicPartition,
        producer: ProducerId,
        epoch: ProducerEpoch,
        marker: EndMarker,
    ) -> Result<(), ProduceError> {
        let log = self.log(partition).ok_or_else(|| ProduceError::Unknown(partition.clone()))?;
        let batch = marker.batch(producer, epoch, self.now().unix_ms);
        let part = Part { ordinal: 0, version: TransactionVersion::V0.level() as i8 };
        log.submit_in(batch, Ack::Durable, Some(part)).await?.answer().await?;
        if partition.topic == OFFSETS_TOPIC {
            self.parts.groups.transaction_ended(producer, marker.kind);
        }
        Ok(())
    }
}

impl State {
    fn begin(&mut self) -> Result<(RequestId, oneshot::Receiver<Response>), TransactionError> {
        if self.closed { Err(TransactionError::CoordinatorNotAvailable) } else { Ok(self.waiting.add()) }
    }

    /// Whether it would begin a transaction where none is to begin.
    fn is_kept_out(&self, join: &Join) -> bool {
        let is_ongoing = |of: DescribedTransaction<'_>| of.state == crate::transaction::State::Ongoing;
        matches!(join.how, How::Add(_))
            && join.partitions.iter().any(|at| self.held.contains(&at.topic))
            && !self.transactions.describe(&join.id).is_some_and(is_ongoing)
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer { request, response } => {
                    // Whoever was not admitted is told by this that it will not be.
                    self.joining.remove(&request);
                    self.waiting.answer(request, response);
                }
                Effect::Admit { request, ordinal } => {
                    let Some(admit) = self.joining.remove(&request) else { continue };
                    match self.steps_left {
                        0 => drop(admit.send(ordinal)),
                        _ => self.push(Step::Admit(admit, ordinal)),
                    }
                }
                Effect::TakeProducerId { token } => self.push(Step::TakeProducerId(token)),
                Effect::Store { token, record } => self.push(Step::Store(token, record)),
                Effect::End { token, end } => self.push(Step::End(token, end)),
            }
        }
    }

    fn push(&mut self, step: Step) {
        self.steps.push_back(step);
        self.steps_left += 1;
    }
}

async fn has_open(log: &PartitionLog, producer: ProducerId) -> bool {
    let open = log.open_transactions().await.unwrap_or_default();
    open.iter().any(|open| open.producer == producer)
}

fn store_error(error: &AppendError) -> StoreError {
    match error {
        AppendError::WriteFailed(_) => StoreError::Full,
        _ => StoreError::Stopped,
    }
}

fn transaction_config(config: &BrokerConfig, message_bytes_max: usize) -> TransactionConfig {
    let number = |name: &str| config.number(name).unsigned_abs();
    let ms = |name: &str| Duration::from_millis(number(name));
    TransactionConfig {
        timeout_max: ms("transaction.max.timeout.ms"),
        timeouts_check_interval: ms("transaction.abort.timed.out.transaction.cleanup.interval.ms"),
        id_expiration: ms("transactional.id.expiration.ms"),
        id_expiration_check_interval: ms("transaction.remove.expired.transaction.cleanup.interval.ms"),
        ids_max: number("transactional.ids.max") as usize,
        record_bytes_max: message_bytes_max.saturating_sub(OVERHEAD_BYTES),
        ..TransactionConfig::default()
    }
}
