//! A flow on the simulated disk: it dies anywhere, and the power goes; its output is that of one pass, each record once.
//!
//! The flow's own store lies on the machine's disk, and stays, is lost, or is an older one: it may be behind and must
//! never be ahead of what the simulated disk has. Its worker has threads of its own, so that a seed does nearly the same
//! again, and not to the letter. `ANABRANCH_SIM_FLOW_SEEDS` is how many are tried, from `ANABRANCH_SIM_FLOW_SEED` on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_broker::{Ack, Apply, Broker, NewTopic, Record};
use anabranch_core::batch::RecordAt;
use anabranch_core::engine::{EngineError, for_each_record};
use anabranch_core::seam::{Machine, SeededRandom};
use anabranch_flow::{
    Aggregate, Count, Definition, Disorder, Flow, FlowError, Late, Sum, Tumbling, Undecodable,
};
use anabranch_sim::clock::SimClock;
use anabranch_sim::disk::{Ahead, SimDisk};
use anabranch_sim::random::Chance;
use anabranch_sim::trace::Trace;
use anabranch_sim::workers::SimWorkers;
use tempfile::TempDir;

const PARTITIONS: i32 = 2;
const RECORDS: i64 = 120;
const WINDOW_MS: i64 = 30;
const KEYS: i64 = 5;
/// After so many deaths the seed lives on.
const DEATHS_MAX: u64 = 4;

fn number(at: &RecordAt) -> Result<i64, std::num::ParseIntError> {
    std::str::from_utf8(at.record.value.as_deref().unwrap_or_default()).unwrap_or_default().parse()
}

/// Each number is its own time and amount.
fn sums() -> Definition<i64, i64, impl Aggregate<i64, Output = (u64, i64)>> {
    Flow::named("sums")
        .source(["numbers"])
        .decode(number, Undecodable::Fail)
        .event_time(|number| *number, Disorder::bounded(Duration::ZERO))
        .key_by(|number| number % KEYS)
        .window(Tumbling::of(Duration::from_millis(WINDOW_MS as u64)), Late::Drop)
        .aggregate((Count, Sum::of(|number: &i64| *number)))
        .sink("sums", |key, window, (count, sum)| {
            Record::new(format!("{key}/{}", window.start_ms), format!("{count}/{sum}"))
        })
        .commit_every(25, Duration::from_secs(1))
}

fn one_pass() -> Vec<(String, String)> {
    let mut sums: BTreeMap<(i64, i64), (u64, i64)> = BTreeMap::new();
    for number in 0..RECORDS {
        let sum = sums.entry((number % KEYS, number / WINDOW_MS * WINDOW_MS)).or_default();
        *sum = (sum.0 + 1, sum.1 + number);
    }
    let row = |((key, start), (count, sum))| (format!("{key}/{start}"), format!("{count}/{sum}"));
    let mut rows: Vec<_> = sums.into_iter().map(row).collect();
    rows.sort_unstable();
    rows
}

/// The disk of a seed, and what lives on it.
struct Run {
    disk: SimDisk,
    clock: Arc<SimClock>,
    chance: Chance,
    random: Arc<SeededRandom>,
    state: TempDir,
}

impl Run {
    fn new(seed: u64) -> Self {
        let (clock, mut chance) = (Arc::new(SimClock::new()), Chance::new(seed));
        let disk = SimDisk::new(chance.fork(), Arc::clone(&clock), Trace::default());
        let random = Arc::new(SeededRandom::new(chance.bits()));
        Self { disk, clock, chance, random, state: directory() }
    }

    /// One life of the process, in a runtime of its own. What is left of it when this returns meets a dead disk.
    fn live<T>(&mut self, life: impl AsyncFnOnce(&mut Self, Broker) -> T) -> T {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let lived = runtime.block_on(async {
            self.clock.begin();
            let process = self.disk.begin_life();
            let broker = Broker::builder()
                .data("/data")
                .disk(Arc::new(process))
                .clock(Arc::clone(&self.clock) as Arc<_>)
                .random(Arc::clone(&self.random) as Arc<_>)
                .machine(Machine::default())
                .workers(Arc::new(SimWorkers::new(self.chance.fork())))
                .open();
            let broker = broker.await.unwrap();
            let lived = life(self, broker).await;
            self.clock.end();
            lived
        });
        self.disk.kill();
        lived
    }

    fn fill(&mut self) {
        self.live(async |_, broker| {
            let topic = NewTopic::new("numbers").partitions(PARTITIONS);
            let topic = broker.create_topic(topic, Apply::Now).await.unwrap();
            for partition in 0..PARTITIONS {
                let numbers =
                    (0..RECORDS).filter(|number| number % i64::from(PARTITIONS) == i64::from(partition));
                let records: Vec<_> = numbers.map(|number| Record::keyless(number.to_string())).collect();
                for records in records.chunks(7) {
                    topic.append_batch(partition, records.to_vec(), Ack::Durable).await.unwrap();
                }
            }
            broker.close().await;
        });
    }

    /// The flow runs, with this ahead; `None` if it died over that.
    fn run(&mut self, ahead: Ahead) -> Option<Result<u64, FlowError>> {
        self.live(async |run, broker| {
            run.disk.expect(ahead);
            let (engine, state) = (Arc::new(broker.clone()), run.state.path().to_owned());
            let clock = Arc::clone(&run.clock) as Arc<_>;
            let flow = async move { sums().open(engine, state, clock).await?.run_until_end().await };
            let ended = tokio::select! {
                biased;
                ended = flow => Some(ended.map(|end| end.counts.records_in)),
                () = until_dead(&run.disk) => None,
            };
            if !run.disk.is_dead() {
                run.disk.expect(Ahead::default());
                broker.close().await;
            }
            ended
        })
    }

    /// Everything committed in the flow's output, sorted.
    fn rows(&mut self) -> Vec<(String, String)> {
        self.live(async |_, broker| {
            let mut rows = Vec::new();
            let text = |bytes: Option<bytes::Bytes>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
            let collect = |RecordAt { record, .. }| {
                rows.push((text(record.key), text(record.value)));
                Ok::<_, EngineError>(())
            };
            for_each_record(&broker, "sums", collect).await.unwrap();
            rows.sort_unstable();
            rows
        })
    }
}

async fn until_dead(disk: &SimDisk) {
    while !disk.is_dead() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// In memory where there is such a place: the machine's disk is not what is tested.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Whether the seed's flow died, or failed, at least once.
fn check(seed: u64) -> bool {
    let mut run = Run::new(seed);
    run.fill();
    let (mut older, mut died) = (None, false);
    for _ in 0..run.chance.between(1..=DEATHS_MAX) {
        let calls = Some(run.chance.below(300));
        let ahead = match run.chance.below(6) {
            0 => Ahead { write_fails: calls, ..Ahead::default() },
            1 => Ahead { sync_fails: calls.map(|calls| calls / 3), ..Ahead::default() },
            _ => Ahead { death: calls, ..Ahead::default() },
        };
        match run.run(ahead) {
            Some(Ok(records)) => assert_eq!(records, RECORDS as u64, "seed {seed}"),
            Some(Err(FlowError::Engine(_))) | None => died = true,
            Some(Err(error)) => panic!("seed {seed}: {error}"),
        }
        if run.chance.one_in(2) {
            run.disk.lose_power();
        }
        match run.chance.below(4) {
            0 => run.state = directory(),
            1 => run.state = older.take().unwrap_or_else(directory),
            2 => {
                let kept = directory();
                copy(run.state.path(), kept.path());
                older = Some(kept);
            }
            _ => {}
        }
    }
    let ended = run.run(Ahead::default()).expect("nothing is ahead");
    assert_eq!(ended.unwrap_or_else(|error| panic!("seed {seed}: {error}")), RECORDS as u64, "seed {seed}");
    assert_eq!(run.rows(), one_pass(), "seed {seed}");
    died
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[test]
fn a_flow_that_dies_anywhere_has_the_output_of_one_pass() {
    let first = from_environment("ANABRANCH_SIM_FLOW_SEED", 0);
    let seeds = from_environment("ANABRANCH_SIM_FLOW_SEEDS", 15);
    let died = (first..first + seeds).filter(|seed| check(*seed)).count() as u64;
    println!("{died} of {seeds} seeds died or failed");
    assert!(seeds < 10 || died > seeds / 2, "{died} of {seeds}");
}
