//! Transactions against the log alone: producers, a coordinator that does what it must after each stop, and readers.
//!
//! Several lives of one store, as in the broker's story. In each, producers write batches of transactions into a few
//! partitions, end them by [`Store::submit_end`], and send what comes too late; segments roll, records are deleted or
//! compacted; readers look at every moment of the disk. At a change that the seed chooses the process dies or the power
//! goes, also while the next life opens. It then completes what is decided, as the broker's coordinator does, before anybody
//! reads. What must hold is in [`model`].

mod life;
mod model;
mod standing;

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anabranch_core::batch::{
    BatchBuilder, Compression, EndKind, EndMarker, Record, check_batch, split_batches,
};
use anabranch_core::seam::{Random, SeededRandom};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_log::{
    Absent, AppendError, Appended, End, Ended, LogConfig, LogStatus, Offline, PartitionLog, PartitionReport,
    ReadError, Store, StoreConfig,
};
use parking_lot::Mutex;

use self::life::Life;
use self::model::{Decision, Model, PartitionModel, Producer};
use crate::clock::SimClock;
use crate::disk::{Ahead, SimDisk};
use crate::model::DATA;
use crate::random::Chance;
use crate::trace::Trace;
use crate::workers::SimWorkers;

/// Whoever waits longer than this for what takes no time waits for ever.
const PATIENCE: Duration = Duration::from_secs(600);
/// A consumer reads so much at a time.
const READ_BYTES: usize = 2000;

/// The settings of one run.
#[derive(Debug, Clone)]
struct Plan {
    lives: u64,
    steps: u64,
    /// `flush.messages` of each partition.
    flush_messages: Vec<i64>,
    segment_bytes: u32,
    journal_bytes: u64,
    /// Of each key the newest record counts, and passes of compaction see to it; markers stay for so long, ms.
    table: Option<i64>,
    /// The oldest records are deleted at times.
    deletes: bool,
    /// The disk is full at times.
    full: bool,
    /// Syncs fail at times.
    fails: bool,
}

impl Plan {
    fn new(chance: &mut Chance) -> Self {
        let partitions = chance.between(1..=4);
        Self {
            lives: chance.between(1..=5),
            steps: chance.between(20..=150),
            flush_messages: (0..partitions).map(|_| *chance.pick(&[1, 1, 20])).collect(),
            segment_bytes: *chance.pick(&[400, 1000, 3000]),
            journal_bytes: *chance.pick(&[0, 4000, 100_000]),
            table: chance.one_in(2).then(|| *chance.pick(&[0, 2_000, 86_400_000])),
            deletes: chance.one_in(3),
            full: chance.one_in(3),
            fails: chance.one_in(4),
        }
    }

    fn config(&self, flush_messages: i64) -> LogConfig {
        LogConfig {
            segment_bytes: self.segment_bytes,
            segment_ms: i64::MAX,
            segment_jitter_ms: 0,
            flush_messages,
            flush_ms: 5_000,
            index_interval_bytes: 100,
            segment_index_bytes: 1 << 20,
            reserve_bytes: 0,
        }
    }
}

/// Something that was asked and has no answer yet.
struct Waiting {
    question: Question,
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
}

enum Question {
    Append {
        batch: usize,
    },
    Late {
        transaction: usize,
    },
    /// With the partitions of the markers.
    End {
        transaction: usize,
        to: Vec<usize>,
    },
}

enum Answer {
    Appended(Result<Appended, AppendError>),
    Ended(Result<Ended, AppendError>),
}

/// The model, and who waits for answers.
#[derive(Default)]
struct World {
    model: Model,
    waiting: Vec<Waiting>,
}

impl World {
    /// Takes every answer that has come. From a dead process none comes any more.
    fn harvest(&mut self, disk: &SimDisk, trace: &Trace) {
        if disk.is_dead() {
            return;
        }
        for mut waiting in std::mem::take(&mut self.waiting) {
            match (waiting.answer.as_mut().poll(&mut Context::from_waker(Waker::noop())), waiting.question) {
                (Poll::Pending, question) => self.waiting.push(Waiting { question, answer: waiting.answer }),
                (Poll::Ready(Answer::Appended(answer)), Question::Append { batch }) => {
                    trace.note(format_args!("batch {batch}: {answer:?}"));
                    self.model.appended(batch, &answer);
                }
                (Poll::Ready(Answer::Appended(answer)), Question::Late { transaction }) => {
                    trace.note(format_args!("late batch of transaction {transaction}: {answer:?}"));
                    self.model.came_late(transaction, &answer);
                }
                (Poll::Ready(Answer::Ended(answer)), Question::End { transaction, to }) => {
                    trace.note(format_args!("end of transaction {transaction} in {to:?}: {answer:?}"));
                    self.model.ended(transaction, &to, answer);
                }
                _ => unreachable!("a question has its own answer"),
            }
        }
    }
}

/// What lives on from one life to the next.
struct Run {
    plan: Plan,
    disk: SimDisk,
    clock: Arc<SimClock>,
    trace: Trace,
    chance: Chance,
    random: Arc<SeededRandom>,
    world: Arc<Mutex<World>>,
    /// The store was closed, and nothing has failed that it could not make good.
    was_closed: bool,
}

/// Runs what follows from `chance`; what went wrong, if anything did.
pub(crate) fn run(mut chance: Chance, trace: &Trace) -> Option<String> {
    let plan = Plan::new(&mut chance);
    trace.note(format_args!("transactions: {plan:?}"));
    let clock = Arc::new(SimClock::new());
    let disk = SimDisk::new(chance.fork(), Arc::clone(&clock), trace.clone());
    let mut world = World::default();
    world.model.is_table = plan.table.is_some();
    let partition = |messages: &i64| PartitionModel::new(*messages > 1);
    world.model.partitions = plan.flush_messages.iter().map(partition).collect();
    let producer =
        |at: i8| Producer { version: at % 2 * 2, epoch: 0, sequences: BTreeMap::new(), newest: None };
    world.model.producers = (0..4).map(producer).collect();
    let world = Arc::new(Mutex::new(world));
    let random = Arc::new(SeededRandom::new(chance.bits()));
    let lives = plan.lives;
    let mut run = Run { plan, disk, clock, trace: trace.clone(), chance, random, world, was_closed: false };
    for life in 0..=lives {
        let (clock, disk) = (Arc::clone(&run.clock), run.disk.clone());
        let power_goes = crate::live(&clock, &disk, run.live(life == lives));
        if run.world.lock().model.failure.is_some() || crate::has_panicked() {
            break;
        }
        run.disk.listen(None);
        run.disk.fill(None);
        let mut world = run.world.lock();
        world.waiting.clear();
        world.model.end_life();
        if power_goes {
            run.trace.note(format_args!("the power goes"));
            run.disk.lose_power();
            world.model.partitions.iter_mut().for_each(|model| model.power_lost = true);
        }
    }
    let failure = run.world.lock().model.failure.take();
    failure.map(|failure| format!("transactions: {failure}"))
}

impl Run {
    fn fail(&self, what: impl Into<String>) {
        self.world.lock().model.fail(what);
    }

    fn is_over(&self) -> bool {
        self.disk.is_dead() || self.world.lock().model.failure.is_some()
    }

    /// Lives one life; whether the power goes at its end.
    async fn live(&mut self, is_last: bool) -> bool {
        let is_clean = is_last || self.chance.one_in(5);
        let death = |chance: &mut Chance, calls| (!is_clean).then(|| chance.below(calls));
        self.trace.note(format_args!("a life begins, to end {}", if is_clean { "well" } else { "by death" }));
        self.look();
        let disk = self.disk.begin_life();
        let is_early = self.chance.one_in(4);
        let ahead = Ahead { death: death(&mut self.chance, 40).filter(|_| is_early), ..Ahead::default() };
        self.disk.expect(ahead);
        let mut store = None;
        if let Some(opened) = self.open(&disk, &mut store).await {
            let mut often = |calls| self.plan.fails.then(|| self.chance.below(calls));
            let ahead = Ahead { sync_fails: often(200), write_fails: often(200), ..Ahead::default() };
            self.disk.expect(Ahead { death: death(&mut self.chance, 4 * self.plan.steps), ..ahead });
            let chance = self.chance.fork();
            let mut life = Life { run: self, chance, opened };
            life.listen();
            for _ in 0..life.run.plan.steps {
                life.step().await;
                life.turn().await;
                if life.run.is_over() {
                    break;
                }
            }
            if is_clean && !life.run.is_over() {
                life.quiesce().await;
            }
            life.run.disk.listen(None);
        }
        self.was_closed = false;
        if let Some(store) = store.filter(|_| is_clean && !self.is_over()) {
            store.close().await;
            self.was_closed = !self.plan.fails && !self.plan.full;
        }
        self.disk.kill();
        !is_clean && self.chance.one_in(2)
    }

    /// What a look at the directory says: nothing is damaged.
    fn look(&self) {
        let disk = self.disk.begin_life();
        let looked = || {
            let offline = Offline::open(Arc::new(disk.clone()), DATA)?;
            offline.partitions()?.iter().map(|at| offline.verify(at)).collect::<Result<Vec<_>, _>>()
        };
        if self.disk.files(&Path::new(DATA).join("format")).is_empty() {
            return;
        }
        match looked() {
            Ok(reports) => {
                let is_wrong = |report: &&PartitionReport| {
                    !report.faults.is_empty() || self.was_closed && !report.derived_wrong.is_empty()
                };
                if let Some(report) = reports.iter().find(is_wrong) {
                    self.fail(format!("damaged: {report:?}"));
                }
            }
            Err(error) => self.fail(format!("cannot look at the directory: {error}")),
        }
    }

    /// Opens the store, and completes what is decided; `None` if it died over that.
    async fn open(&mut self, disk: &SimDisk, kept: &mut Option<Store>) -> Option<Opened> {
        let config = StoreConfig {
            root: DATA.into(),
            disk: Arc::new(disk.clone()),
            clock: Arc::clone(&self.clock) as Arc<_>,
            workers: Arc::new(SimWorkers::new(self.chance.fork())),
            random: Arc::clone(&self.random) as Arc<dyn Random>,
            queue_appends_max: 100,
            open_files_max: 1_000_000,
            journal_file_bytes: self.plan.journal_bytes,
            producer_expiration_ms: i64::MAX,
        };
        let opened = Store::open(config).and_then(|store| {
            *kept = Some(store.clone());
            let decisions = store.open_partition("decisions", 0, self.plan.config(1), Absent::Create)?;
            let open = |(at, flush_messages): (usize, &i64)| {
                store.open_partition("t", at as i32, self.plan.config(*flush_messages), Absent::Create)
            };
            let logs =
                self.plan.flush_messages.iter().enumerate().map(open).collect::<Result<Vec<_>, _>>()?;
            Ok(Opened { store, decisions, logs })
        });
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                if !self.disk.is_dead() {
                    self.fail(format!("the store does not open: {error}"));
                }
                return None;
            }
        };
        self.complete(&opened).await;
        (!self.is_over()).then_some(opened)
    }

    /// Compares what there is with what was said, and carries out what is decided, before anybody reads.
    async fn complete(&self, opened: &Opened) {
        let is_offline = |log: &&PartitionLog| !matches!(log.status(), LogStatus::Online);
        if let Some(log) = opened.logs.iter().chain([&opened.decisions]).find(is_offline) {
            if !self.disk.is_dead() {
                self.fail(format!("{} does not work: {:?}", log.id(), log.status()));
            }
            return;
        }
        let found = match opened.found() {
            _ if self.disk.is_dead() => return,
            Ok(found) => found,
            Err(error) => return self.fail(format!("the decisions cannot be read: {error}")),
        };
        self.trace.note(format_args!("decisions: {found:?}"));
        self.world.lock().model.decisions(&found);
        self.compare(opened).await;
        for (number, decision) in found.iter().filter(|(_, decision)| !decision.is_completed) {
            if self.is_over() {
                return;
            }
            let producer = self.world.lock().model.transactions[*number].producer;
            let mut to = Vec::new();
            for (at, log) in opened.logs.iter().enumerate() {
                let open = log.open_transactions().await.unwrap_or_default();
                to.extend(open.iter().any(|open| open.producer.0 == producer as i64).then_some(at));
            }
            let end = {
                let world = self.world.lock();
                // Who has decided it knows the epoch.
                opened.end(&world.model, *number, &to, false)
            };
            self.trace.note(format_args!("transaction {number}, {decision:?}, is completed in {to:?}"));
            let ended = match opened.store.submit_end(end).await {
                Ok(pending) => tokio::time::timeout(PATIENCE, pending.answer()).await,
                Err(error) => Ok(Err(error)),
            };
            match ended {
                _ if self.disk.is_dead() => return,
                Ok(Ok(Ended { missing })) if missing.is_empty() => self.world.lock().model.complete(*number),
                other => self.fail(format!("transaction {number} is not completed: {other:?}")),
            }
        }
        self.compare(opened).await;
        for (at, log) in opened.logs.iter().enumerate() {
            if self.is_over() {
                return;
            }
            let open = log.open_transactions().await.unwrap_or_default();
            let mut world = self.world.lock();
            let offsets = log.offsets();
            let stable = open.iter().map(|open| open.first).min().unwrap_or(offsets.high_watermark);
            if offsets.last_stable != stable.max(offsets.log_start) && !self.disk.is_dead() {
                world.model.fail(format!("{at}: {open:?} are open, and {offsets:?}"));
            }
            let start = offsets.log_start.0;
            world.model.partitions[at].reader = start;
            while !self.disk.is_dead() && read(&mut world.model, at, log) {}
        }
    }

    async fn compare(&self, opened: &Opened) {
        for (at, log) in opened.logs.iter().enumerate() {
            let Ok(open) = log.open_transactions().await else { return };
            match standing::all(log) {
                Ok(standing) => self.world.lock().model.stands(at, &standing, &open, log.offsets()),
                Err(_) if self.disk.is_dead() => return,
                Err(error) => self.fail(format!("{at} cannot be read: {error}")),
            }
        }
    }
}

/// A store that is open.
struct Opened {
    store: Store,
    decisions: PartitionLog,
    logs: Vec<PartitionLog>,
}

impl Opened {
    /// What is decided, by transaction.
    fn found(&self) -> Result<BTreeMap<usize, Decision>, ReadError> {
        let mut found: BTreeMap<usize, Decision> = BTreeMap::new();
        let mut next = self.decisions.offsets().log_start;
        while next < self.decisions.offsets().high_watermark {
            let slice = self.decisions.read(next, 1 << 20)?;
            for batch in
                split_batches(slice.batches).map(|batch| batch.expect("the log checks what it reads"))
            {
                next = batch.header().next_offset();
                for at in batch.records().expect("a record that we wrote can be read") {
                    let text = |bytes: Option<bytes::Bytes>| {
                        String::from_utf8(bytes.unwrap_or_default().to_vec()).expect("we wrote text")
                    };
                    let number = text(at.record.key).parse().expect("its key is a number");
                    let (kind, is_completed) = match text(at.record.value).as_str() {
                        "commit" => (EndKind::Commit, false),
                        "abort" => (EndKind::Abort, false),
                        "committed" => (EndKind::Commit, true),
                        _ => (EndKind::Abort, true),
                    };
                    found.insert(number, Decision { kind, is_completed });
                }
            }
        }
        Ok(found)
    }

    /// The end of a transaction in some partitions; it was decided before, unless it is to be `prepared` now.
    fn end(&self, model: &Model, number: usize, to: &[usize], prepared: bool) -> End {
        let transaction = &model.transactions[number];
        let (kind, epoch) = transaction.asked.expect("it was asked to end");
        let record = |value: &'static str| {
            let record = Record::new(number.to_string(), value);
            let bytes = BatchBuilder::new(Compression::None).push(&record).build();
            check_batch(&bytes.expect("a small record")).expect("what was just built is whole")
        };
        let (prepare, complete) = match kind {
            EndKind::Commit => ("commit", "committed"),
            EndKind::Abort => ("abort", "aborted"),
        };
        let marker = EndMarker { kind, coordinator_epoch: 0 };
        let marker = marker.batch(ProducerId(transaction.producer as i64), ProducerEpoch(epoch), 1000);
        End {
            decision: self.decisions.clone(),
            prepared: prepared.then(|| record(prepare)),
            completed: record(complete),
            markers: to.iter().map(|at| (self.logs[*at].clone(), marker.clone())).collect(),
            version: if epoch == transaction.epoch { transaction.version } else { 2 },
            ordinal: ordinal(number),
        }
    }
}

fn ordinal(transaction: usize) -> u64 {
    transaction as u64 + 1
}

/// A consumer of committed records reads on; whether he comes further.
fn read(model: &mut Model, at: usize, log: &PartitionLog) -> bool {
    let from = model.partitions[at].reader.max(log.offsets().log_start.0);
    let Ok((found, next, stable)) = standing::committed(log, from, READ_BYTES) else { return false };
    if next > stable.max(from) {
        model.fail(format!("{at}: what is not stable is shown: {next} of {stable}"));
    }
    model.told(at, log.offsets());
    model.saw(at, (from, next), &found);
    model.partitions[at].reader = next;
    next > from
}
