//! One life of the broker: it opens on what the disk kept, is asked things, and ends.

use std::sync::Arc;

use anabranch_broker::{Ack, Apply, Broker, BrokerConfig, ConfigOp, LogStatus};
use anabranch_core::TopicPartition;
use anabranch_core::seam::{Machine, Random, SeededRandom};
use anabranch_log::{Offline, PartitionReport};
use parking_lot::Mutex;

use crate::check::{check_everything, check_reports};
use crate::clients::Clients;
use crate::clock::SimClock;
use crate::disk::{Ahead, Moment, SimDisk};
use crate::model::{DATA, Question, World};
use crate::plan::{End, Plan};
use crate::random::Chance;
use crate::readers::fetch;
use crate::trace::Trace;
use crate::workers::SimWorkers;

type Reports = Vec<(TopicPartition, PartitionReport)>;

/// What lives on from one life to the next.
pub(crate) struct Run {
    pub(crate) plan: Plan,
    pub(crate) disk: SimDisk,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) trace: Trace,
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) random: Arc<SeededRandom>,
    pub(crate) chance: Chance,
    /// How the life before ended.
    pub(crate) before: End,
}

impl Run {
    fn failed(&self) -> bool {
        self.world.lock().failure.is_some()
    }

    fn trace(&self, line: std::fmt::Arguments<'_>) {
        self.trace.note(line);
    }

    /// Lives one life, which must not end by death if it is the `last`.
    pub(crate) async fn live(&mut self, last: bool) {
        let end = if last { End::Clean } else { self.plan.end(&mut self.chance) };
        self.trace(format_args!("a life begins, to end {end:?}; it was {:?} before", self.before));
        let reports = self.verify();
        if self.failed() {
            return;
        }
        let Some(broker) = self.open(end, reports).await else { return };
        self.listen(&broker);
        if self.plan.cleans {
            self.small_segments(&broker).await;
        }
        let world = Arc::clone(&self.world);
        let (plan, disk, clock) = (self.plan.clone(), self.disk.clone(), Arc::clone(&self.clock));
        let chance = self.chance.fork();
        let mut clients = Clients {
            plan: &plan,
            broker: broker.clone(),
            world: &world,
            disk: &disk,
            clock: &clock,
            chance,
        };
        self.disk.expect(self.plan.ahead(end, &mut self.chance));
        for _ in 0..self.plan.steps {
            clients.step().await;
            clients.harvest();
            match self.chance.below(6) {
                0 => clients.pass(self.plan.pause_ms).await,
                turns => {
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                }
            }
            clients.harvest();
            if self.disk.is_dead() || self.failed() {
                break;
            }
        }
        if !self.disk.is_dead() && !self.failed() && (end == End::Clean || self.chance.one_in(3)) {
            self.quiesce(&mut clients).await;
            // Old records have all expired, and what is known of their producers stands in the last snapshot only.
            if self.plan.cleans && self.chance.one_in(2) && !self.failed() {
                self.clock.jump(2_000_000);
                clients.maintain().await;
            }
        }
        self.finish(&broker, end).await;
    }

    /// What a look at the directory says, which changes nothing.
    fn verify(&mut self) -> Reports {
        let disk = self.disk.begin_life();
        let format = std::path::Path::new(DATA).join("format");
        if self.disk.files(&format).is_empty() {
            return Vec::new();
        }
        let before = self.disk.mutations();
        let look = || {
            let offline = Offline::open(Arc::new(disk.clone()), DATA)?;
            let partitions = offline.partitions()?;
            partitions
                .into_iter()
                .map(|partition| offline.verify(&partition).map(|report| (partition, report)))
                .collect()
        };
        let looked: Result<Vec<_>, anabranch_log::OpenError> = look();
        let mut world = self.world.lock();
        if self.disk.mutations() != before {
            world.fail("looking at the directory has changed it");
        }
        match looked {
            Ok(reports) => reports,
            Err(error) if world.all_excused() => {
                self.trace.note(format_args!("cannot look: {error}"));
                Vec::new()
            }
            Err(error) => {
                world.fail(format!("cannot look at the directory: {error}"));
                Vec::new()
            }
        }
    }

    /// Opens the broker and checks what it has; `None` if it died over that.
    async fn open(&mut self, end: End, mut reports: Reports) -> Option<Broker> {
        let mut ahead = self.plan.ahead_of_opening(end, &mut self.chance);
        loop {
            let disk = self.disk.begin_life();
            self.world.lock().faults.clear();
            self.disk.expect(ahead);
            let opened = self.open_once(&disk).await;
            if self.disk.is_dead() {
                self.trace(format_args!("died while opening"));
                drop(opened);
                self.end_of_life(end).await;
                return None;
            }
            self.disk.expect(Ahead::default());
            let (calm, excused) = {
                let mut world = self.world.lock();
                world.opened();
                (world.faults.is_empty(), world.all_excused())
            };
            match opened {
                Ok(broker) => {
                    self.excuse_lost_producers(&broker);
                    check_reports(&self.world, &broker, &reports, calm);
                    check_everything(&self.world, &broker).await;
                    return Some(broker);
                }
                Err(error) if !calm => {
                    self.trace.note(format_args!("not opened, and rightly: {error}"));
                    ahead = Ahead::default();
                }
                Err(error) if excused => {
                    self.trace.note(format_args!("not opened, since a bit was changed: {error}"));
                    self.unflip();
                    reports.clear();
                    ahead = Ahead::default();
                }
                Err(error) => {
                    self.world.lock().fail(format!("the broker does not open: {error}"));
                    return None;
                }
            }
        }
    }

    async fn open_once(&mut self, disk: &SimDisk) -> Result<Broker, anabranch_broker::error::BrokerError> {
        let mut config = BrokerConfig::default();
        let settings = [
            ("producer.id.expiration.ms", i32::MAX.to_string()),
            ("log.journal.file.bytes", self.plan.journal_bytes.to_string()),
            ("log.open.files.max", self.plan.open_files.to_string()),
        ];
        for (name, value) in settings {
            config.set(name, &value).expect("there is such a setting");
        }
        let broker = Broker::builder()
            .data(DATA)
            .config(config)
            .disk(Arc::new(disk.clone()))
            .clock(Arc::clone(&self.clock) as Arc<_>)
            .random(Arc::clone(&self.random) as Arc<dyn Random>)
            .machine(Machine::default())
            .workers(Arc::new(SimWorkers::new(self.chance.fork())));
        let opening = tokio::time::timeout(std::time::Duration::from_secs(3600), broker.open());
        // A dead process does nothing more, also not that which it waits for.
        tokio::select! {
            biased;
            opened = opening => opened.unwrap_or_else(|_| panic!("the broker opens for ever")),
            () = until_dead(disk) => Err(anabranch_broker::error::BrokerError::Open(
                anabranch_log::OpenError::InUse(DATA.into()),
            )),
        }
    }

    /// Answers count until the last moment, and readers see what there is at every moment.
    fn listen(&self, broker: &Broker) {
        let (world, broker, peeks) = (Arc::clone(&self.world), broker.clone(), self.plan.peeks);
        self.disk.listen(Some(Box::new(move |moment| {
            // Whoever holds the world is one of its clients, and will look again.
            let Some(mut world) = world.try_lock() else { return };
            world.glean();
            let Moment::Sync(path) = moment else { return };
            if !peeks || path.extension().is_some_and(|kind| kind == "index" || kind == "tmp") {
                return;
            }
            for key in world.present() {
                if let Some(partition) = broker.partition(&world.name(key))
                    && matches!(partition.status(), LogStatus::Online)
                    && partition.offsets().high_watermark.0
                        > world.partitions.get(&key).map_or(0, |model| model.reader)
                {
                    fetch(&mut world, key, &partition, 2000);
                }
            }
        })));
    }

    /// The groups' offsets roll early, so that they are compacted.
    async fn small_segments(&self, broker: &Broker) {
        let ops = ["segment.bytes", "min.cleanable.dirty.ratio"]
            .into_iter()
            .zip(["1500", "0"])
            .map(|(name, value)| ConfigOp::Set(name.to_owned(), value.to_owned()))
            .collect::<Vec<_>>();
        let altered = broker.alter_topic_configs("__consumer_offsets", &ops, Apply::Now).await;
        self.trace(format_args!("small segments: {altered:?}"));
    }

    /// All faults end, and everything that was asked is answered, and everything works that has no reason not to.
    async fn quiesce(&mut self, clients: &mut Clients<'_>) {
        self.trace(format_args!("quiet"));
        self.disk.fill(None);
        self.disk.expect(Ahead::default());
        for _ in 0..300 {
            clients.pass(2000).await;
            clients.harvest();
            let world = self.world.lock();
            let is_open =
                |question: &Question| !matches!(question, Question::Join { .. } | Question::Sync { .. });
            if !world.waiting.iter().any(|waiting| is_open(&waiting.question)) || world.failure.is_some() {
                break;
            }
        }
        let open: Vec<String> =
            self.world.lock().waiting.iter().map(|waiting| format!("{:?}", waiting.question)).collect();
        if let Some(open) =
            open.iter().find(|question| !question.starts_with("Join") && !question.starts_with("Sync"))
        {
            self.world.lock().fail(format!("never answered: {open}"));
        }
        let present = self.world.lock().present();
        for key in present {
            if self.failed() {
                return;
            }
            let Some(partition) = clients.partition(key) else {
                let mut world = self.world.lock();
                let name = world.name(key);
                world.fail(format!("{name} is gone"));
                return;
            };
            if self.world.lock().works(key, &partition) {
                clients.probe(key, Ack::Durable).await;
            }
        }
        crate::clients::check_offsets(&self.world, &clients.broker).await;
    }

    async fn finish(&mut self, broker: &Broker, end: End) {
        if end == End::Clean && !self.failed() {
            self.world.lock().closing = true;
            self.disk.expect(Ahead::default());
            self.disk.fill(None);
            let closing = tokio::time::timeout(std::time::Duration::from_secs(3600), broker.close());
            if closing.await.is_err() {
                self.world.lock().fail("the broker closes for ever");
            }
            self.world.lock().harvest();
            self.trace(format_args!("closed"));
        }
        self.end_of_life(end).await;
    }

    /// The process is no more, and perhaps the power is gone.
    async fn end_of_life(&mut self, end: End) {
        self.disk.kill();
        self.disk.listen(None);
        let mut world = self.world.lock();
        world.end_life(end);
        drop(world);
        // Tasks of the dead process meet a dead disk, and end.
        self.disk.fill(None);
        self.before = end;
    }

    /// Between two lives: the power goes, or bits do.
    pub(crate) fn between_lives(&mut self) {
        self.mend_snapshot();
        let faults = self.world.lock().faults.len() + self.disk.happened().len();
        match self.before {
            End::PowerLost => {
                self.trace(format_args!("the power goes"));
                self.disk.lose_power();
                self.world.lock().partitions.values_mut().for_each(|model| model.power_lost = true);
            }
            End::Clean if self.plan.flips && faults == 0 => self.flip(),
            End::Clean | End::Killed => {}
        }
    }
}

pub(crate) async fn until_dead(disk: &SimDisk) {
    while !disk.is_dead() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
