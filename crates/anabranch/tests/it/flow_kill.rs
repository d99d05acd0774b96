//! A flow's process is killed, at random and at each step of what it does, on the real broker and the real disk. What
//! readers of committed records see is the output of one pass, each record of it once.
//!
//! `ANABRANCH_KILL_SEED` as in `kill9`; `ANABRANCH_FLOW_STEPS` is how many steps are died at, of some hundreds.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anabranch::core::batch::RecordAt;
use anabranch::core::seam::SystemClock;
use anabranch::flow::{Count, Definition, Disorder, Flow, FlowError, Late, Sum, Tumbling, Undecodable};
use anabranch::{Ack, Apply, Broker, EngineError, NewTopic, Record};
use anabranch_core::engine::for_each_record;
use anabranch_engine_kafka::{KafkaEngine, KafkaSettings};
use rustix::process::{Pid, Signal, kill_process};

use crate::deadly::{DeadlyDisk, DeadlyEngine, Fuse};
use crate::harness::Server;
use crate::kill9::{Dice, from_environment};

/// Names the data directory to the process that runs the flow.
const CHILD: &str = "ANABRANCH_TEST_FLOW_DATA";
/// Tells it at which of its calls to die.
const DIES_AT: &str = "ANABRANCH_TEST_FLOW_DIES_AT";
/// Tells it how much there is to do.
const RECORDS: &str = "ANABRANCH_TEST_FLOW_RECORDS";
/// Names the server to the process that runs the flow as a client.
const SERVER: &str = "ANABRANCH_TEST_FLOW_SERVER";
const PARTITIONS: i32 = 3;
const KEYS: i64 = 50;
const KILLS_MIN: u32 = 5;
const KILLS_MAX: u32 = 60;

/// How much there is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) records_per_partition: i64,
    pub(crate) commit_records: u64,
    pub(crate) commit_ms: u64,
    pub(crate) window_ms: i64,
}

const MUCH: Work = Work { records_per_partition: 20_000, commit_records: 500, commit_ms: 5, window_ms: 1000 };
const CLIENTS: Work =
    Work { records_per_partition: 500, commit_records: 50, commit_ms: 1000, window_ms: 100 };
const LITTLE: Work = Work { records_per_partition: 40, commit_records: 30, commit_ms: 5, window_ms: 50 };

impl Work {
    /// The numbers of a partition: each is its own time, key and amount.
    fn numbers(self, partition: i32) -> impl Iterator<Item = i64> {
        let number = move |at| at * i64::from(PARTITIONS) + i64::from(partition);
        (0..self.records_per_partition).map(number)
    }

    pub(crate) fn flow(
        self,
    ) -> Definition<i64, i64, impl anabranch::flow::Aggregate<i64, Output = (u64, i64)>> {
        Flow::named("sums")
            .source(["numbers"])
            .decode(number, Undecodable::Fail)
            .event_time(|number| *number, Disorder::bounded(Duration::ZERO))
            .key_by(|number| number % KEYS)
            .window(
                Tumbling::of(Duration::from_millis(self.window_ms.unsigned_abs())),
                Late::ToTopic("numbers-late".to_owned()),
            )
            .aggregate((Count, Sum::of(|number: &i64| *number)))
            .sink("sums", |key, window, (count, sum)| {
                Record::new(format!("{key}/{}", window.start_ms), format!("{count}/{sum}"))
            })
            .commit_every(self.commit_records, Duration::from_millis(self.commit_ms))
    }

    /// What one pass comes to.
    fn one_pass(self) -> Vec<(String, String)> {
        let mut sums: BTreeMap<(i64, i64), (u64, i64)> = BTreeMap::new();
        for number in (0..PARTITIONS).flat_map(|partition| self.numbers(partition)) {
            let start_ms = number / self.window_ms * self.window_ms;
            let sum = sums.entry((number % KEYS, start_ms)).or_default();
            *sum = (sum.0 + 1, sum.1 + number);
        }
        let row = |((key, start), (count, sum))| (format!("{key}/{start}"), format!("{count}/{sum}"));
        let mut rows: Vec<_> = sums.into_iter().map(row).collect();
        rows.sort_unstable();
        rows
    }
}

fn number(at: &RecordAt) -> Result<i64, std::num::ParseIntError> {
    std::str::from_utf8(at.record.value.as_deref().unwrap_or_default()).unwrap_or_default().parse()
}

/// Not a test of its own: the process that the tests below start, and kill.
#[test]
fn flow_process() {
    let Some(root) = std::env::var_os(CHILD) else { return };
    let work =
        if from_environment(RECORDS, 0) == LITTLE.records_per_partition as u64 { LITTLE } else { MUCH };
    let fuse = Fuse::new(std::env::var(DIES_AT).ok().map(|at| at.parse().unwrap()));
    runtime().block_on(async {
        let disk = Arc::new(DeadlyDisk(Arc::clone(&fuse)));
        let broker = Broker::builder().data(&root).disk(disk).open().await.unwrap();
        println!("running");
        let engine = DeadlyEngine { broker: broker.clone(), fuse: Arc::clone(&fuse) };
        let state = Path::new(&root).join("flow");
        fuse.light();
        let open = work.flow().open(Arc::new(engine), state, Arc::new(SystemClock::new())).await.unwrap();
        open.run_until_end().await.unwrap();
        println!("calls {}", fuse.calls());
        broker.close().await;
    });
}

fn start(root: &Path, work: Work, dies_at: Option<u64>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "flow_kill::flow_process", "--nocapture"])
        .env(CHILD, root)
        .env(RECORDS, work.records_per_partition.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    if let Some(at) = dies_at {
        command.env(DIES_AT, at.to_string());
    }
    command.spawn().unwrap()
}

pub(crate) fn dice() -> Dice {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = from_environment("ANABRANCH_KILL_SEED", now) | 1;
    println!("ANABRANCH_KILL_SEED={seed}");
    Dice(seed)
}

/// Now and then the local copy of the state goes with the process.
fn lose_state(root: &Path, dice: &mut Dice) {
    if dice.below(3) == 0 {
        std::fs::remove_dir_all(root.join("flow")).ok();
    }
}

#[test]
fn a_flow_that_is_killed_loses_nothing_and_repeats_nothing() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(fill(home.path(), MUCH));
    let mut dice = dice();
    let mut kills = 0;
    loop {
        let mut child = start(home.path(), MUCH, None);
        wait_until_running(&mut child);
        // A moment of its life, later every time, so that it gets to its end.
        let moment = Duration::from_millis(dice.below(100) + u64::from(kills) * 15);
        let done = (0..moment.as_millis()).any(|_| {
            std::thread::sleep(Duration::from_millis(1)); // the moment of death is the input of this test
            child.try_wait().unwrap().is_some()
        });
        if done || kills == KILLS_MAX {
            assert!(child.wait().unwrap().success(), "the flow failed after {kills} kills");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        lose_state(home.path(), &mut dice);
    }
    println!("{kills} kills");
    assert!(kills >= KILLS_MIN, "the flow was done after {kills} kills: it must have more to do");
    check(home.path(), MUCH);
}

#[test]
fn a_flow_that_is_killed_at_a_step_has_done_it_or_not() {
    let steps = from_environment("ANABRANCH_FLOW_STEPS", 20);
    let mut dice = dice();
    let filled = tempfile::tempdir().unwrap();
    runtime().block_on(fill(filled.path(), LITTLE));
    let run = |dies_at: Option<u64>, dice: &mut Dice| -> (ExitStatus, u64) {
        let home = tempfile::tempdir().unwrap();
        copy(filled.path(), home.path());
        let ended = finish(start(home.path(), LITTLE, dies_at));
        if dies_at.is_some() {
            lose_state(home.path(), dice);
            let (status, _) = finish(start(home.path(), LITTLE, None));
            assert!(status.success(), "it goes on after it died at call {dies_at:?}");
        }
        check(home.path(), LITTLE);
        ended
    };
    let (status, calls) = run(None, &mut dice);
    assert!(status.success() && calls > 100, "{status}, {calls} calls");
    let steps = steps.min(calls);
    for step in 0..steps {
        // One of each stretch, so that they are spread, and all if all are wanted.
        let at =
            step * calls / steps + dice.below(((step + 1) * calls / steps - step * calls / steps).max(1));
        let (status, _) = run(Some(at), &mut dice);
        // The calls of two runs differ a little: the last may not come.
        assert!(status.signal() == Some(9) || at + 20 > calls, "{status} at call {at} of {calls}");
    }
    println!("died at {steps} of {calls} calls");
}

/// Not a test of its own: a process that runs the flow on a Kafka server.
#[test]
fn flow_client_process() {
    let (Some(addr), Some(state)) = (std::env::var_os(SERVER), std::env::var_os(CHILD)) else { return };
    runtime().block_on(async {
        let settings = KafkaSettings::new(addr.to_str().unwrap());
        let engine = Arc::new(KafkaEngine::open(settings, &[]).await.unwrap());
        let open =
            CLIENTS.flow().open(engine, Path::new(&state), Arc::new(SystemClock::new())).await.unwrap();
        println!("running");
        let metrics = open.metrics();
        let watch = tokio::spawn(async move {
            while metrics.snapshot().commits < 3 {
                tokio::time::sleep(Duration::from_millis(1)).await; // it is the other process that waits
            }
            println!("committed");
        });
        match open.run_until_end().await {
            Ok(end) => println!("done {}", end.counts.records_in),
            Err(error) => println!("stopped: {error}"),
        }
        watch.abort();
    });
}

/// A process is stopped where it is, as by a machine that hangs, and replaced; then it goes on.
#[test]
fn a_process_that_was_replaced_adds_nothing_when_it_goes_on() {
    let rounds = from_environment("ANABRANCH_KILL_ROUNDS", 3);
    let mut dice = dice();
    for round in 0..rounds {
        let home = tempfile::tempdir().unwrap();
        runtime().block_on(fill(&home.path().join("data"), CLIENTS));
        let server = Server::start(&home.path().join("data"));
        let start = |state: &str| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "flow_kill::flow_client_process", "--nocapture"])
                .env(SERVER, &server.kafka)
                .env(CHILD, home.path().join(state))
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
                .unwrap()
        };
        let mut old = start("old");
        let mut said = BufReader::new(old.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(said.any(|line| line.contains("committed")), "it did not begin");
        std::thread::sleep(Duration::from_millis(dice.below(60))); // the moment is the input of this test
        let signal = |signal| kill_process(Pid::from_child(&old), signal).unwrap();
        signal(Signal::STOP);
        let (mut new, mut new_said) = (start("new"), String::new());
        new.stdout.take().unwrap().read_to_string(&mut new_said).unwrap();
        new.wait().unwrap();
        let all = format!("done {}", CLIENTS.records_per_partition * i64::from(PARTITIONS));
        assert!(new_said.contains(&all), "round {round}: {new_said}");
        signal(Signal::CONT);
        let rest: Vec<_> = said.collect();
        let is_fenced = |line: &String| line.contains("stopped: a newer producer has the transactional id");
        assert!(rest.iter().any(is_fenced), "round {round}: {rest:?}");
        old.wait().unwrap();
        server.stop();
        check(&home.path().join("data"), CLIENTS);
    }
}

/// Waits for its end, and how many calls it came to, if it says so.
pub(crate) fn finish(mut child: Child) -> (ExitStatus, u64) {
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let calls = said.lines().find_map(|line| line.strip_prefix("calls ")?.parse().ok());
    (child.wait().unwrap(), calls.unwrap_or(0))
}

/// Copies a directory, as deep as it is.
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

/// A flow that was replaced while it was held up somewhere adds nothing when it goes on: not what it was about to commit.
#[test]
fn a_flow_that_was_replaced_adds_nothing() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        fill(home.path(), LITTLE).await;
        let broker = Broker::open(home.path()).await.unwrap();
        let open = async |state: &str| {
            let state = home.path().join(state);
            let engine = Arc::new(broker.clone());
            LITTLE.flow().open(engine, state, Arc::new(SystemClock::new())).await.unwrap()
        };
        let old = open("old").await;
        let new = open("new").await;
        let error = old.run_until_end().await.unwrap_err();
        assert!(matches!(error, FlowError::Engine(EngineError::ProducerFenced { .. })), "{error}");
        new.run_until_end().await.unwrap();
        let end = open("old").await.run_until_end().await.unwrap();
        assert_eq!(end.counts.records_in, LITTLE.records_per_partition as u64 * PARTITIONS as u64);
        broker.close().await;
    });
    check(home.path(), LITTLE);
}

fn wait_until_running(child: &mut Child) {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(
        lines.map_while(Result::ok).any(|line| line.contains("running")),
        "the process did not open the broker"
    );
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub(crate) async fn fill(root: &Path, work: Work) {
    let broker = Broker::open(root).await.unwrap();
    let topic =
        broker.create_topic(NewTopic::new("numbers").partitions(PARTITIONS), Apply::Now).await.unwrap();
    for partition in 0..PARTITIONS {
        let records: Vec<Record> =
            work.numbers(partition).map(|number| Record::keyless(number.to_string())).collect();
        for chunk in records.chunks(1000) {
            topic.append_batch(partition, chunk.to_vec(), Ack::Written).await.unwrap();
        }
    }
    broker.close().await;
}

/// The flow is at its end, and its output is that of one pass.
#[track_caller]
pub(crate) fn check(root: &Path, work: Work) {
    let (rows, late, stands) = runtime().block_on(async {
        let broker = Broker::open(root).await.unwrap();
        let mut rows = rows_of(&broker, "sums").await;
        rows.sort_unstable();
        let late = rows_of(&broker, "numbers-late").await.len();
        let partitions: Vec<_> = (0..PARTITIONS).map(|partition| ("numbers".to_owned(), partition)).collect();
        let stands = broker.groups().fetch_offsets("sums", &partitions, true).await;
        broker.close().await;
        let stands: Vec<_> = stands.into_iter().map(|at| at.unwrap().unwrap().offset).collect();
        (rows, late, stands)
    });
    assert_eq!(late, 0, "nothing is late here");
    assert_eq!(rows, work.one_pass());
    assert_eq!(stands, vec![work.records_per_partition; PARTITIONS as usize], "tools see where it stands");
}

/// Every committed record of a topic.
async fn rows_of(broker: &Broker, topic: &str) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let text = |bytes: Option<bytes::Bytes>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
    let collect = |RecordAt { record, .. }| {
        rows.push((text(record.key), text(record.value)));
        Ok::<_, EngineError>(())
    };
    for_each_record(broker, topic, collect).await.unwrap();
    rows
}
