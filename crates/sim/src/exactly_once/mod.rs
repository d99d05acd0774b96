//! Transactions through the whole broker: its coordinator, its groups and its log, as they are, on the simulated disk.
//!
//! Several lives of one broker. Clients live through them, as clients do: producers, by the rules before KIP-890 and by its
//! own, and loops that read what they have written, make something of it, and commit where they are in the same transaction.
//! A transactional id may have two clients, who fence each other, so that one of them is always a zombie. They ask again
//! when they are not answered, send batches twice and too late, and sleep longer than a transaction may last. Readers of
//! both isolations look at every moment of the disk. At a change that the seed chooses the process dies or the power goes,
//! also while the next life opens.
//!
//! What all of them did and saw is a history, and [`crate::history`] judges it, as it judges those of real clients. Besides,
//! after each start nothing is decided and not done, and readers of committed records come as far as what is open.

mod client;
mod looping;
mod question;
mod reader;

use std::sync::Arc;
use std::time::Duration;

use anabranch_broker::error::BrokerError;
use anabranch_broker::transaction::State;
use anabranch_broker::transaction::event::Filter;
use anabranch_broker::{Apply, Broker, BrokerConfig, ConfigOp, Isolation, NewTopic, Partition};
use anabranch_core::TopicPartition;
use anabranch_core::seam::{Clock, Machine, Random, SeededRandom};
use futures::future::join_all;
use parking_lot::Mutex;

use self::client::Client;
use self::question::Questions;
use self::reader::Reader;
use crate::clock::SimClock;
use crate::disk::{Ahead, Moment, SimDisk};
use crate::history::{Event, Op, Outcome, judge};
use crate::model::DATA;
use crate::random::Chance;
use crate::trace::Trace;
use crate::workers::SimWorkers;

/// What producers write, and loops read.
const IN: &str = "in";
/// What loops write.
const OUT: &str = "out";
/// Whoever waits longer than this for what takes no time waits for ever.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Between two looks for transactions that have lasted too long, ms.
const TIMEOUT_CHECK_MS: u64 = 1000;
/// The longest of a run's timeouts, ms.
const TIMEOUT_MS_MAX: u64 = 60_000;

/// The settings of one run.
#[derive(Debug, Clone)]
struct Plan {
    lives: u64,
    /// What each client does in a life.
    steps: u64,
    partitions: u64,
    producers: u64,
    loops: u64,
    /// Each transactional id has two clients.
    zombies: bool,
    /// How long a transaction may last.
    timeout_ms: u64,
    journal_bytes: u64,
    /// Segments are small, and what is superseded goes.
    cleans: bool,
    /// Readers look at every moment of the disk.
    peeks: bool,
    /// The disk is full at times.
    full: bool,
    /// Writes and syncs fail at times, in lives that end by death.
    fails: bool,
}

impl Plan {
    fn new(chance: &mut Chance) -> Self {
        // Many short lives see more deaths among first things; long ones see more of what is late.
        let is_short = chance.one_in(2);
        Self {
            lives: if is_short { chance.between(5..=12) } else { chance.between(1..=4) },
            steps: if is_short { chance.between(2..=8) } else { chance.between(10..=60) },
            partitions: chance.between(1..=3),
            producers: chance.between(1..=2),
            loops: chance.below(2),
            zombies: chance.one_in(2),
            timeout_ms: *chance.pick(&[2000, 10_000, TIMEOUT_MS_MAX]),
            journal_bytes: *chance.pick(&[0, 0, 4000, 100_000]),
            cleans: chance.one_in(3),
            peeks: chance.one_in(2),
            full: chance.one_in(4),
            fails: chance.one_in(4),
        }
    }
}

/// What all of them share.
#[derive(Clone)]
struct Shared {
    disk: SimDisk,
    clock: Arc<SimClock>,
    trace: Trace,
    world: Arc<Mutex<World>>,
    questions: Questions,
}

#[derive(Default)]
struct World {
    failure: Option<String>,
    events: Vec<Event>,
    readers: Vec<Reader>,
}

impl World {
    fn fail(&mut self, what: impl Into<String>) {
        self.failure.get_or_insert(what.into());
    }
}

impl Shared {
    fn fail(&self, what: impl Into<String>) {
        self.world.lock().fail(what);
    }

    fn is_over(&self) -> bool {
        self.disk.is_dead() || self.world.lock().failure.is_some()
    }

    /// A client writes it down; not what a dead process has said.
    fn note(&self, client: &str, op: Op, outcome: Outcome) {
        if !self.disk.is_dead() {
            self.note_in(&mut self.world.lock(), client, op, outcome);
        }
    }

    fn note_in(&self, world: &mut World, client: &str, op: Op, outcome: Outcome) {
        self.trace.note(format_args!("{client}: {op:?} {outcome:?}"));
        let at_us = self.clock.monotonic().as_micros() as i64;
        world.events.push(Event { client: client.to_owned(), op, outcome, at_us });
    }
}

/// The broker of one life, as clients see it.
struct Life<'a> {
    shared: &'a Shared,
    broker: &'a Broker,
    plan: &'a Plan,
}

impl Life<'_> {
    fn partition(&self, at: &TopicPartition) -> Partition {
        self.broker.partition(at).expect("nobody deletes topics")
    }
}

/// What lives on from one life to the next.
struct Run {
    plan: Plan,
    shared: Shared,
    chance: Chance,
    random: Arc<SeededRandom>,
    clients: Vec<Client>,
    life: u64,
}

/// Runs what follows from `chance`; what went wrong, if anything did.
pub(crate) fn run(mut chance: Chance, trace: &Trace) -> Option<String> {
    let plan = Plan::new(&mut chance);
    trace.note(format_args!("exactly once: {plan:?}"));
    let clock = Arc::new(SimClock::new());
    let disk = SimDisk::new(chance.fork(), Arc::clone(&clock), trace.clone());
    let readers = [Isolation::Committed, Isolation::Written].map(|isolation| Reader::new("peek", isolation));
    let world = World { readers: readers.into(), ..World::default() };
    let (trace, world, questions) = (trace.clone(), Arc::new(Mutex::new(world)), Questions::default());
    let shared = Shared { disk, clock, trace, world, questions };
    let random = Arc::new(SeededRandom::new(chance.bits()));
    let clients = Client::all(&plan, &mut chance);
    let lives = plan.lives;
    let mut run = Run { plan, shared, chance, random, clients, life: 0 };
    for life in 0..=lives {
        run.life = life;
        let (clock, disk) = (Arc::clone(&run.shared.clock), run.shared.disk.clone());
        let power_goes = crate::live(&clock, &disk, run.live(life == lives));
        if run.shared.world.lock().failure.is_some() || crate::has_panicked() {
            break;
        }
        disk.listen(None);
        disk.fill(None);
        if power_goes {
            run.shared.trace.note(format_args!("the power goes"));
            disk.lose_power();
        }
    }
    let mut world = run.shared.world.lock();
    let failure = world.failure.take().or_else(|| judged(&world.events));
    failure.map(|failure| format!("exactly once: {failure}"))
}

fn judged(events: &[Event]) -> Option<String> {
    match judge(events) {
        Ok(verdict) if verdict.anomalies.is_empty() => None,
        Ok(verdict) => Some(verdict.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

impl Run {
    /// Lives one life; whether the power goes at its end.
    async fn live(&mut self, is_last: bool) -> bool {
        let is_clean = is_last || self.chance.one_in(5);
        let death = |chance: &mut Chance, calls| (!is_clean).then(|| chance.below(calls));
        self.shared
            .trace
            .note(format_args!("a life begins, to end {}", if is_clean { "well" } else { "by death" }));
        let disk = self.shared.disk.begin_life();
        let is_early = self.chance.one_in(4);
        let ahead = Ahead { death: death(&mut self.chance, 60).filter(|_| is_early), ..Ahead::default() };
        self.shared.disk.expect(ahead);
        if let Some(broker) = self.open(&disk).await {
            let calls = 8 * self.plan.steps * self.clients.len() as u64;
            let fails = self.plan.fails && !is_clean;
            let fault = |chance: &mut Chance| (fails && chance.one_in(2)).then(|| chance.below(calls / 4));
            self.shared.disk.expect(Ahead {
                death: death(&mut self.chance, calls),
                write_fails: fault(&mut self.chance),
                sync_fails: fault(&mut self.chance),
                file_system_sync_fails: fault(&mut self.chance),
                ..Ahead::default()
            });
            self.work(&broker).await;
            if is_last && !self.shared.is_over() {
                self.quiesce(&broker).await;
            }
            if is_clean && !self.shared.is_over() {
                self.shared.disk.fill(None);
                if tokio::time::timeout(PATIENCE, broker.close()).await.is_err() {
                    self.shared.fail("the broker closes for ever");
                }
            }
        }
        self.shared.disk.listen(None);
        self.shared.disk.kill();
        !is_clean && self.chance.one_in(2)
    }

    async fn open(&mut self, disk: &SimDisk) -> Option<Broker> {
        let opening = tokio::time::timeout(PATIENCE, self.open_once(disk));
        let opened = tokio::select! {
            biased;
            opened = opening => opened.unwrap_or_else(|_| panic!("the broker opens for ever")),
            () = crate::life::until_dead(disk) => return None,
        };
        match opened {
            _ if disk.is_dead() => None,
            Err(error) => {
                self.shared.fail(format!("the broker does not open: {error}"));
                None
            }
            Ok(broker) => {
                // The next ones write, too.
                self.look(&broker);
                self.listen(&broker);
                tokio::select! {
                    biased;
                    () = self.topics(&broker) => {}
                    () = crate::life::until_dead(disk) => {}
                }
                (!self.shared.is_over()).then_some(broker)
            }
        }
    }

    async fn open_once(&mut self, disk: &SimDisk) -> Result<Broker, BrokerError> {
        let mut config = BrokerConfig::default();
        let settings = [
            ("producer.id.expiration.ms", i32::MAX.to_string()),
            ("log.journal.file.bytes", self.plan.journal_bytes.to_string()),
            ("transaction.abort.timed.out.transaction.cleanup.interval.ms", TIMEOUT_CHECK_MS.to_string()),
        ];
        for (name, value) in settings {
            config.set(name, &value).expect("there is such a setting");
        }
        let broker = Broker::builder()
            .data(DATA)
            .config(config)
            .disk(Arc::new(disk.clone()))
            .clock(Arc::clone(&self.shared.clock) as Arc<_>)
            .random(Arc::clone(&self.random) as Arc<dyn Random>)
            .machine(Machine::default())
            .workers(Arc::new(SimWorkers::new(self.chance.fork())));
        broker.open().await
    }

    /// What must be after each start, and all that there is to read.
    fn look(&self, broker: &Broker) {
        let decided = Filter { states: vec![State::PrepareCommit, State::PrepareAbort], ..Filter::default() };
        let left = broker.transactions().list(&decided, |transaction| Some(format!("{transaction:?}")));
        if let Some(left) = left.first() {
            return self.shared.fail(format!("decided, and not done by the start: {left}"));
        }
        let ongoing = Filter { states: vec![State::Ongoing], ..Filter::default() };
        let open = broker.transactions().list(&ongoing, |transaction| Some(transaction.partitions.clone()));
        let mut world = self.shared.world.lock();
        for at in self.plan.all().into_iter().chain([broker.groups().partition()]) {
            let Some(offsets) = broker.partition(&at).map(|partition| partition.offsets()) else { continue };
            let is_open = open.iter().any(|partitions| partitions.contains(&at));
            if offsets.last_stable != offsets.high_watermark && !is_open {
                world.fail(format!("{at}: nobody has it in a transaction, and {offsets:?}"));
            }
        }
        for isolation in [Isolation::Committed, Isolation::Written] {
            let mut reader = Reader::new(&format!("start-{}", self.life), isolation);
            reader.read_all(&self.shared, &mut world, broker, &self.plan.all());
        }
    }

    /// Topics that are not there yet are made, and their segments kept small.
    async fn topics(&self, broker: &Broker) {
        for topic in [IN, OUT] {
            let new = NewTopic::new(topic).partitions(self.plan.partitions as i32);
            let made = match broker.topic(topic) {
                Ok(_) => Ok(()),
                Err(_) => broker.create_topic(new, Apply::Now).await.map(|_| ()),
            };
            if let Err(error) = made
                && !self.shared.disk.is_dead()
            {
                return self.shared.fail(format!("topic {topic} cannot be made: {error}"));
            }
        }
        if self.plan.cleans {
            for topic in [IN, OUT, "__consumer_offsets", "__transaction_state"] {
                let ops = [("segment.bytes", "1500"), ("min.cleanable.dirty.ratio", "0")]
                    .map(|(name, value)| ConfigOp::Set(name.to_owned(), value.to_owned()));
                let altered = broker.alter_topic_configs(topic, &ops, Apply::Now).await;
                self.shared.trace.note(format_args!("small segments of {topic}: {altered:?}"));
            }
        }
    }

    /// Answers count until the last moment, and readers look at every moment of the disk.
    fn listen(&self, broker: &Broker) {
        let (shared, broker, all) = (self.shared.clone(), broker.clone(), self.plan.all());
        let peeks = self.plan.peeks;
        self.shared.disk.listen(Some(Box::new(move |moment| {
            // Whoever holds the world will look again.
            if shared.world.is_locked() {
                return;
            }
            shared.questions.glean();
            let Moment::Sync(path) = moment else { return };
            // Of what is derived somebody holds the lock.
            if !peeks
                || path.extension().is_some_and(|kind| kind == "index" || kind == "aborted" || kind == "tmp")
            {
                return;
            }
            let Some(mut world) = shared.world.try_lock() else { return };
            let mut readers = std::mem::take(&mut world.readers);
            for reader in &mut readers {
                all.iter().for_each(|at| _ = reader.read(&shared, &mut world, &broker, at));
            }
            world.readers = readers;
        })));
    }

    /// Clients do what they do until the life is over.
    async fn work(&mut self, broker: &Broker) {
        let shared = self.shared.clone();
        let life = Life { shared: &shared, broker, plan: &self.plan };
        let mut chance = self.chance.fork();
        let clients = join_all(self.clients.iter_mut().map(|client| client.live(&life)));
        let upkeep = async {
            for _ in 0..self.plan.steps / 4 {
                tokio::time::sleep(Duration::from_millis(chance.between(1..=5000))).await;
                match chance.below(4) {
                    0 if life.plan.full => shared.disk.fill(Some(chance.below(2000))),
                    0..3 => shared.disk.fill(None),
                    _ if life.plan.cleans => broker.maintain().await,
                    _ => {}
                }
            }
            shared.disk.fill(None);
        };
        let all = tokio::time::timeout(PATIENCE, async { futures::join!(clients, upkeep) });
        tokio::select! {
            biased;
            all = all => if all.is_err() && !shared.is_over() { shared.fail("a client waits for ever") },
            () = crate::life::until_dead(&shared.disk) => {}
        }
    }

    /// All clients have gone: what they have left open ends by time, and then everything can be read.
    async fn quiesce(&mut self, broker: &Broker) {
        self.shared.trace.note(format_args!("quiet"));
        self.shared.disk.fill(None);
        tokio::time::sleep(Duration::from_millis(TIMEOUT_MS_MAX + 20 * TIMEOUT_CHECK_MS)).await;
        let open = [State::Ongoing, State::PrepareCommit, State::PrepareAbort];
        let open = Filter { states: open.into(), ..Filter::default() };
        let left = broker.transactions().list(&open, |transaction| Some(format!("{transaction:?}")));
        if let Some(left) = left.first() {
            return self.shared.fail(format!("a transaction does not end: {left}"));
        }
        self.life += 1;
        self.look(broker);
    }
}

impl Plan {
    fn all(&self) -> Vec<TopicPartition> {
        [IN, OUT].into_iter().flat_map(|topic| self.partitions_of(topic)).collect()
    }

    fn partitions_of(&self, topic: &'static str) -> impl Iterator<Item = TopicPartition> + use<> {
        (0..self.partitions as i32).map(move |partition| TopicPartition::new(topic, partition))
    }
}
