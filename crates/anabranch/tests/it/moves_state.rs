//! What flows and queues have stored moves to another engine with their topics, while they work, and while the mover is killed with
//! kill -9, again and again. There a flow goes on where it was, with the local directories that it had or without; and a queue
//! with what was not settled. And back from there.
//!
//! As in `moves`: `ANABRANCH_MOVE_KILLS`, and `ANABRANCH_MOVE_ENGINES` with addresses of engines to move to, instead of another of our
//! servers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anabranch::core::batch::RecordAt;
use anabranch::core::engine::Place;
use anabranch::core::seam::SystemClock;
use anabranch::engine::{
    self, AppendOptions, Capability, Payload, Position, QueueConsumer, QueueSpec, Settlement, TakeLimits,
    TopicSpec, for_each_record,
};
use anabranch::flow::{
    Aggregate, Count, Definition, Disorder, Flow, FlowError, Guarantee, Late, Snapshot, Sum, Tumbling,
    Undecodable,
};
use anabranch::{Broker, Engine, EngineError, Record, TopicPartition};
use anabranch_broker::NewMove;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::flow_kill::{dice, runtime};
use crate::harness::{DEADLINE, Server};
use crate::kill9::{Dice, from_environment};
use crate::moves::start_mover;

const PARTITIONS: i32 = 3;
/// A multiple of the partitions, so that each key is in one.
const KEYS: i64 = 48;
const WINDOW_MS: i64 = 300;
/// Numbers of one partition that are written at once.
const AT_ONCE: i64 = 10;
const PACE: Duration = Duration::from_millis(10);
/// What every partition loses from its beginning before anybody reads it: so many writes.
const TRIMMED: i64 = 5;

/// Kafka's library may take a minute to give up what was refused, and then its transaction.
const TOLD_WITHIN: Duration = Duration::from_secs(180);

/// How a flow is divided.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Keys,
    One,
    Each,
}

const KINDS: [Kind; 3] = [Kind::Keys, Kind::One, Kind::Each];

fn numbers(name: &str) -> String {
    format!("{name}-numbers")
}

fn sums(name: &str, kind: Kind) -> String {
    format!("{name}-sums-{kind:?}")
}

fn late(name: &str) -> String {
    format!("{name}-late")
}

fn number(at: &RecordAt) -> Result<i64, std::num::ParseIntError> {
    std::str::from_utf8(at.record.value.as_deref().unwrap_or_default()).unwrap_or_default().parse()
}

/// Each number is its own time and amount.
fn flow(name: &str, kind: Kind) -> Definition<i64, i64, impl Aggregate<i64, Output = (u64, i64)>> {
    let disorder = Disorder::bounded(Duration::ZERO).idle_after(Duration::from_secs(3600));
    let flow = Flow::named(format!("{name}-{kind:?}"))
        .source([numbers(name)])
        .decode(number, Undecodable::Fail)
        .event_time(|number| *number, disorder)
        .key_by(|number| number % KEYS)
        .window(Tumbling::of(Duration::from_millis(WINDOW_MS as u64)), Late::ToTopic(late(name)))
        .aggregate((Count, Sum::of(|number: &i64| *number)))
        .sink(sums(name, kind), |key, window, (count, sum)| {
            Record::new(format!("{key}/{}", window.start_ms), format!("{count}/{sum}"))
        })
        .or_at_least_once()
        .commit_every(60, Duration::from_millis(100));
    match kind {
        Kind::Keys => flow.shards(3),
        Kind::One => flow,
        Kind::Each => flow.shard_by_partition(),
    }
}

/// What one pass over the numbers from `from` to `end` comes to.
fn one_pass(from: i64, end: i64) -> BTreeMap<String, String> {
    let mut sums: BTreeMap<(i64, i64), (u64, i64)> = BTreeMap::new();
    for number in from..end {
        let sum = sums.entry((number % KEYS, number / WINDOW_MS * WINDOW_MS)).or_default();
        *sum = (sum.0 + 1, sum.1 + number);
    }
    let row = |((key, start), (count, sum))| (format!("{key}/{start}"), format!("{count}/{sum}"));
    sums.into_iter().map(row).collect()
}

async fn rows_of(engine: &dyn Engine, topic: &str) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let text = |bytes: Option<bytes::Bytes>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
    let collect = |RecordAt { record, .. }| {
        rows.push((text(record.key), text(record.value)));
        Ok::<_, EngineError>(())
    };
    for_each_record(engine, topic, collect).await.unwrap();
    rows
}

/// The numbers from `next` on, some for each partition.
fn step(topic: &str, next: i64) -> Vec<(TopicPartition, Payload)> {
    let of = |partition: i32| {
        let numbers = (0..AT_ONCE).map(|at| next + at * i64::from(PARTITIONS) + i64::from(partition));
        let records = numbers.map(|number| Record::keyless(number.to_string())).collect::<Vec<_>>();
        (TopicPartition::new(topic, partition), Payload::from(records))
    };
    (0..PARTITIONS).map(of).collect()
}

const STEP: i64 = AT_ONCE * PARTITIONS as i64;

/// Writes numbers, each step in a transaction, which leaves markers; until the source says that they have moved. The first that it did not
/// take.
async fn write(source: Arc<dyn Engine>, topic: String, mut next: i64, steps: u64) -> i64 {
    let transactions = source.transactions().unwrap();
    let mut producer = transactions.producer(&format!("{topic}-writer"), DEADLINE).await.unwrap();
    for _ in 0..steps {
        match producer.commit(step(&topic, next), None).await {
            Ok(_) => next += STEP,
            Err(EngineError::Refused { reason, .. }) => {
                assert!(is_told(&reason), "{reason}");
                return next;
            }
            Err(EngineError::Away { .. } | EngineError::Aborted { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        if steps == u64::MAX {
            tokio::time::sleep(PACE).await; // a load, and not a flood
        }
    }
    next
}

/// As words where there is room for them, else by Kafka's code.
fn is_told(reason: &str) -> bool {
    reason.contains("moved to") || reason.to_lowercase().contains("policy violation")
}

type Running = JoinHandle<Result<Snapshot, FlowError>>;

async fn run<S: Future<Output = ()> + Send + 'static>(
    engine: &Arc<dyn Engine>,
    name: &str,
    home: &Path,
    stopped: impl Fn() -> S,
) -> Vec<Running> {
    let mut running = Vec::new();
    for kind in KINDS {
        let state = home.join(format!("{kind:?}"));
        let clock = Arc::new(SystemClock::new());
        let open = flow(name, kind).open(Arc::clone(engine), state, clock).await.unwrap();
        running.push(tokio::spawn(open.run(stopped())));
    }
    running
}

/// To where something is moved, and the server if it is one of ours.
struct Target {
    url: String,
    server: Option<Server>,
    _home: tempfile::TempDir,
}

fn targets() -> Vec<Target> {
    let home = || tempfile::tempdir().unwrap();
    match std::env::var("ANABRANCH_MOVE_ENGINES") {
        Ok(urls) => {
            let target = |url: &str| Target { url: url.to_owned(), server: None, _home: home() };
            urls.split(',').map(target).collect()
        }
        Err(_) => {
            let home = home();
            let server = Server::start(home.path());
            vec![Target { url: format!("kafka://{}", server.kafka), server: Some(server), _home: home }]
        }
    }
}

/// Moves, killed at random; the report.
async fn move_with_kills(from: &str, to: &str, more: &[&str], dice: &mut Dice) -> Value {
    let kills = from_environment("ANABRANCH_MOVE_KILLS", 4);
    let mut killed = 0;
    loop {
        let mut mover = start_mover(from, to, more);
        let deadline = Instant::now() + Duration::from_millis(50 + dice.below(1200) + 50 * killed);
        while killed < kills && Instant::now() < deadline && mover.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await; // the moment of death is the input of this test
        }
        if killed < kills && mover.try_wait().unwrap().is_none() {
            mover.kill().unwrap();
            mover.wait().unwrap();
            killed += 1;
            continue;
        }
        let output = tokio::task::spawn_blocking(|| mover.wait_with_output().unwrap()).await.unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{told}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        println!("moved after {killed} kills; pause {} ms, {} ms", report["pause_ms"], report["took_ms"]);
        return report;
    }
}

fn translated(report: &Value, topic: &str) -> u64 {
    let topics = report["topics"].as_array().unwrap();
    let topic = topics.iter().find(|moved| moved["topic"] == topic).unwrap();
    let partitions = topic["partitions"].as_array().unwrap().iter();
    partitions.map(|partition| partition["positions_translated"].as_u64().unwrap()).sum()
}

#[test]
fn flows_go_on_where_they_were() {
    for target in targets() {
        runtime().block_on(flows_are_moved(&target));
        if let Some(server) = target.server {
            server.stop();
        }
    }
}

async fn flows_are_moved(target: &Target) {
    let mut dice = dice();
    let name = format!("flows{:x}", dice.below(1 << 40));
    let (home, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(home.path());
    let source = engine::open(&format!("kafka://{}", server.kafka), &[]).await.unwrap();
    for topic in [numbers(&name), late(&name)] {
        source.ensure_topic(&TopicSpec::new(topic, PARTITIONS)).await.unwrap();
    }
    let filled = write(Arc::clone(&source), numbers(&name), 0, 200).await;
    for partition in 0..PARTITIONS {
        let at = TopicPartition::new(numbers(&name), partition);
        source.trim(&at, Position((TRIMMED * (AT_ONCE + 1)) as u64)).await.unwrap();
    }
    let running = run(&source, &name, state.path(), std::future::pending).await;
    let writing = tokio::spawn(write(Arc::clone(&source), numbers(&name), filled, u64::MAX));
    let report = move_with_kills(home.path().to_str().unwrap(), &target.url, &[], &mut dice).await;
    assert_eq!(report["left"], serde_json::json!([]));
    for (kind, own) in [
        (Kind::Keys, "changelog"),
        (Kind::Keys, "sources"),
        (Kind::One, "changelog"),
        (Kind::Each, "changelog"),
    ] {
        assert!(translated(&report, &format!("{name}-{kind:?}-{own}")) >= 3, "{kind:?} {own}");
    }
    let next = tokio::time::timeout(TOLD_WITHIN, writing).await.unwrap().unwrap();
    for (running, kind) in running.into_iter().zip(KINDS) {
        let ended = tokio::time::timeout(TOLD_WITHIN, running).await.unwrap().unwrap();
        let error = ended.expect_err("it was moved").to_string();
        assert!(is_told(&error), "{kind:?}: {error}");
    }
    println!("{next} numbers when it was moved, {filled} of them before");
    assert!(next > filled);
    source.close().await;

    let there = engine::open(&target.url, &[]).await.unwrap();
    check_flows(&there, &name, state.path(), next, &mut dice).await;
    there.close().await;
    server.stop();
}

/// They go on, with the local directories that they had or without, and come to what one pass over all comes to.
async fn check_flows(there: &Arc<dyn Engine>, name: &str, state: &Path, next: i64, dice: &mut Dice) {
    let end = next + 30 * STEP;
    append(&**there, name, next..end).await;
    let from = TRIMMED * STEP;
    let expected = one_pass(from, end);
    for kind in KINDS {
        let state = state.join(format!("{kind:?}"));
        if dice.below(2) == 0 {
            std::fs::remove_dir_all(&state).unwrap();
        }
        let clock = Arc::new(SystemClock::new());
        let open = flow(name, kind).open(Arc::clone(there), state, clock).await.unwrap();
        let snapshot = open.run_until_end().await.unwrap();
        assert_eq!(snapshot.counts.records_in, (end - from) as u64, "{kind:?}: each record counts once");
        let rows = rows_of(&**there, &sums(name, kind)).await;
        let newest: BTreeMap<_, _> = rows.iter().cloned().collect();
        assert_eq!(newest, expected, "{kind:?}");
        if snapshot.delivery == Guarantee::ExactlyOnce {
            assert_eq!(rows.len(), expected.len(), "{kind:?}: each result is there once");
        }
    }
    assert_eq!(rows_of(&**there, &late(name)).await, [], "nothing is late here");
}

/// What is known of a queue's records, by their numbers.
#[derive(Debug, Default)]
struct Ledger {
    accepted: BTreeSet<i64>,
    rejected: BTreeSet<i64>,
    /// To come again, and when at the earliest.
    released: BTreeMap<i64, SystemTime>,
    /// Delivered, and not settled.
    out: BTreeSet<i64>,
    /// Nobody knows what became of these.
    unknown: BTreeSet<i64>,
}

const DELAY: Duration = Duration::from_secs(25);

impl Ledger {
    /// Takes some, and does something with each. `false` when the source says that they have moved.
    async fn work(&mut self, consumer: &mut dyn QueueConsumer, stays: bool) -> bool {
        let limits = TakeLimits { deliveries_max: 20, ..TakeLimits::default() };
        let taken = match consumer.next(limits).await {
            Ok(taken) => taken,
            Err(EngineError::Refused { reason, .. }) => {
                assert!(is_told(&reason), "{reason}");
                return false;
            }
            Err(error) => {
                println!("next: {error}");
                return true;
            }
        };
        let mut settling = Vec::new();
        for delivery in &taken {
            let number = number(&delivery.record).unwrap();
            assert!(
                !self.accepted.contains(&number) && !self.rejected.contains(&number),
                "{number} comes again"
            );
            assert!(
                self.released.get(&number).is_none_or(|at| SystemTime::now() >= *at),
                "{number}: too early"
            );
            let settlement = match number % 10 {
                0 => Some(Settlement::Release { delay: DELAY }),
                1 => Some(Settlement::Reject { reason: "it ends with 1".to_owned() }),
                2 if stays => None,
                _ => Some(Settlement::Accept),
            };
            match settlement {
                Some(settlement) => settling.push((number, delivery.ticket, settlement)),
                None => drop(self.out.insert(number)),
            }
        }
        let settled =
            consumer.settle(settling.iter().map(|(_, ticket, what)| (*ticket, what.clone())).collect());
        let before = SystemTime::now();
        match settled.await {
            Ok(done) => {
                for ((number, _, what), done) in settling.into_iter().zip(done) {
                    match (what, done) {
                        (_, Err(_)) => drop(self.unknown.insert(number)),
                        (Settlement::Accept, Ok(())) => drop(self.accepted.insert(number)),
                        (Settlement::Reject { .. }, Ok(())) => drop(self.rejected.insert(number)),
                        (Settlement::Release { delay }, Ok(())) => {
                            self.released.insert(number, before + delay);
                        }
                    }
                }
                true
            }
            Err(error) => {
                println!("settle: {error}");
                self.unknown.extend(settling.into_iter().map(|(number, ..)| number));
                !is_told(&error.to_string())
            }
        }
    }
}

/// They have long, so that what is out when it is moved comes when it is taken over, and not since its time is up.
fn workers(name: &str) -> QueueSpec {
    let spec = QueueSpec::new(format!("{name}-workers"), [numbers(name)]);
    QueueSpec { settle_within: 2 * DEADLINE, ..spec }
}

#[test]
fn a_queue_goes_on_with_what_was_not_settled() {
    for target in targets() {
        runtime().block_on(a_queue_is_moved(&target));
        if let Some(server) = target.server {
            server.stop();
        }
    }
}

async fn a_queue_is_moved(target: &Target) {
    let mut dice = dice();
    let name = format!("jobs{:x}", dice.below(1 << 40));
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path());
    let source = engine::open(&format!("kafka://{}", server.kafka), &[]).await.unwrap();
    source.ensure_topic(&TopicSpec::new(numbers(&name), PARTITIONS)).await.unwrap();
    let filled = write(Arc::clone(&source), numbers(&name), 0, 20).await;
    for partition in 0..PARTITIONS {
        let at = TopicPartition::new(numbers(&name), partition);
        source.trim(&at, Position((TRIMMED * (AT_ONCE + 1)) as u64)).await.unwrap();
    }
    let spec = workers(&name);
    let consumer = source.queues().unwrap().consumer(spec.clone()).await.unwrap();
    let writing = tokio::spawn(write(Arc::clone(&source), numbers(&name), filled, u64::MAX));
    let begun = Arc::new(AtomicBool::new(false));
    let working = tokio::spawn({
        let begun = Arc::clone(&begun);
        async move {
            let (mut ledger, mut consumer) = (Ledger::default(), consumer);
            let until = Instant::now() + TOLD_WITHIN;
            while ledger.work(&mut *consumer, true).await {
                assert!(Instant::now() < until, "it was moved, and nobody said so");
                begun.store(ledger.accepted.len() > 100, Ordering::Relaxed);
            }
            ledger
        }
    });
    while !begun.load(Ordering::Relaxed) {
        assert!(!working.is_finished());
        tokio::time::sleep(Duration::from_millis(5)).await; // its condition has a deadline of its own
    }
    let report = move_with_kills(home.path().to_str().unwrap(), &target.url, &[], &mut dice).await;
    let next = tokio::time::timeout(TOLD_WITHIN, writing).await.unwrap().unwrap();
    let mut ledger = tokio::time::timeout(TOLD_WITHIN, working).await.unwrap().unwrap();
    source.close().await;
    server.stop();
    let tally = [ledger.accepted.len(), ledger.rejected.len(), ledger.released.len(), ledger.out.len()];
    println!("accepted, rejected, released, out: {tally:?}; unknown {:?}; {next} numbers", ledger.unknown);
    assert!(tally.iter().all(|some| *some > 10));
    let there = engine::open(&target.url, &[]).await.unwrap();
    if !there.description().has(Capability::Transactions) {
        assert_eq!(report["left"].as_array().unwrap().len(), 1, "it has queues of its own");
        there.close().await;
        return;
    }
    assert_eq!(report["left"], serde_json::json!([]));
    let settlements = format!("{name}-workers.queue.{}", numbers(&name));
    assert!(translated(&report, &settlements) >= (ledger.released.len() + ledger.out.len()) as u64);
    check_rest(&*there, &spec, &mut ledger, next).await;
    there.close().await;
}

/// All that was not accepted or rejected comes, with its count, and not before its time; and each that is rejected is a dead letter once.
async fn check_rest(there: &dyn Engine, spec: &QueueSpec, ledger: &mut Ledger, next: i64) {
    let mut consumer = there.queues().unwrap().consumer(spec.clone()).await.unwrap();
    let is_settled =
        |ledger: &Ledger, number: i64| ledger.accepted.contains(&number) || ledger.rejected.contains(&number);
    let mut left: BTreeSet<i64> =
        (TRIMMED * STEP..next).filter(|number| !is_settled(ledger, *number)).collect();
    let until = Instant::now() + DELAY + DEADLINE;
    // What nobody knows of may have been settled.
    while left.iter().any(|number| !ledger.unknown.contains(number)) {
        assert!(Instant::now() < until, "these do not come: {left:?}");
        let taken = consumer.next(TakeLimits::default()).await.unwrap();
        let mut settling = Vec::new();
        for delivery in taken {
            let number = number(&delivery.record).unwrap();
            assert!(left.remove(&number), "{number} comes again: {delivery:?}");
            if !ledger.unknown.contains(&number) {
                let was_delivered = ledger.released.contains_key(&number) || ledger.out.contains(&number);
                let least = 1 + u32::from(was_delivered);
                assert!(delivery.count >= least, "{number}: {delivery:?}");
                assert!(!was_delivered || delivery.count == 2, "{number}: {delivery:?}");
                let early = ledger.released.get(&number).is_some_and(|at| SystemTime::now() < *at);
                assert!(!early, "{number} comes too early");
            }
            let settlement = match number % 10 {
                1 => Settlement::Reject { reason: "it ends with 1".to_owned() },
                _ => Settlement::Accept,
            };
            settling.push((delivery.ticket, settlement));
        }
        assert!(consumer.settle(settling).await.unwrap().iter().all(Result::is_ok));
    }
    assert_eq!(consumer.next(TakeLimits::default()).await.unwrap(), [], "nothing comes again");
    consumer.leave().await.unwrap();
    let dead = rows_of(there, &spec.dead_letters_of(&spec.topics[0])).await;
    let mut letters: Vec<i64> = dead.iter().map(|(_, value)| value.parse().unwrap()).collect();
    letters.sort_unstable();
    let expected: Vec<i64> = (TRIMMED * STEP..next).filter(|number| number % 10 == 1).collect();
    assert_eq!(letters, expected, "each of them is a dead letter once");
}

/// A flow and a queue come home to a directory, from an engine that nobody can hold still: who works there is stopped first, with
/// windows that are open, records on their way to shards, and settlements that wait.
#[test]
fn flows_and_queues_come_home() {
    for source in targets() {
        runtime().block_on(come_home(&source.url));
        if let Some(server) = source.server {
            server.stop();
        }
    }
}

async fn come_home(url: &str) {
    let mut dice = dice();
    let name = format!("home{:x}", dice.below(1 << 40));
    let (home, notes, state) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = engine::open(url, &[]).await.unwrap();
    for topic in [numbers(&name), late(&name)] {
        source.ensure_topic(&TopicSpec::new(topic, PARTITIONS)).await.unwrap();
    }
    let (trimmed, running_until, next) = (TRIMMED * STEP, 150 * STEP, 170 * STEP);
    append(&*source, &name, 0..trimmed).await;
    for partition in 0..PARTITIONS {
        let at = TopicPartition::new(numbers(&name), partition);
        source.trim(&at, source.locate(&at, Place::Latest).await.unwrap()).await.unwrap();
    }
    append(&*source, &name, trimmed..50 * STEP).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let stopped = || {
        let mut stopped = stopped.clone();
        async move { drop(stopped.wait_for(|stopped| *stopped).await) }
    };
    let running = run(&source, &name, state.path(), stopped).await;
    let spec = workers(&name);
    // An engine without transactions has queues of its own, whose settlements do not move.
    let has_queue = source.description().has(Capability::Transactions);
    let mut ledger = Ledger::default();
    let working = async {
        if has_queue {
            let mut consumer = source.queues().unwrap().consumer(spec.clone()).await.unwrap();
            while ledger.accepted.len() < 1000 {
                assert!(ledger.work(&mut *consumer, true).await);
            }
            consumer.leave().await.unwrap();
        }
    };
    tokio::join!(append(&*source, &name, 50 * STEP..running_until), working);
    stop.send(true).unwrap();
    for running in running {
        let snapshot = running.await.unwrap().unwrap();
        assert!(snapshot.counts.records_in > 0);
    }
    append(&*source, &name, running_until..next).await;
    let topics = source.admin().topics().await.unwrap().into_iter().map(|topic| topic.name);
    let topics: Vec<_> = topics.filter(|topic| topic.starts_with(&name)).collect();
    source.close().await;

    let (to, notes) = (home.path().to_str().unwrap(), notes.path().to_str().unwrap());
    let more = ["--topics", &topics.join(","), "--state", notes, "--still", "0.5"];
    let report = move_with_kills(url, to, &more, &mut dice).await;
    assert_eq!(report["left"], serde_json::json!([]));
    let there: Arc<dyn Engine> = Arc::new(Broker::open(home.path()).await.unwrap());
    if has_queue {
        let tally = [ledger.accepted.len(), ledger.rejected.len(), ledger.released.len(), ledger.out.len()];
        println!("accepted, rejected, released, out: {tally:?}; unknown {:?}", ledger.unknown);
        assert!(tally.iter().all(|some| *some > 10));
        check_rest(&*there, &spec, &mut ledger, next).await;
    }
    check_flows(&there, &name, state.path(), next, &mut dice).await;
    there.close().await;
}

async fn append(to: &dyn Engine, name: &str, of: Range<i64>) {
    for next in of.step_by(STEP as usize) {
        for (at, what) in step(&numbers(name), next) {
            to.append(&at, what, AppendOptions::default()).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(1)).await; // a load, and not a flood
    }
}

/// In the process of the engine: what is held for a moment is tried again, and what was moved is told.
#[test]
fn in_process_a_hold_is_waited_for_and_a_switch_is_told() {
    runtime().block_on(async {
        let (home, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let broker = Broker::open(home.path()).await.unwrap();
        let engine: Arc<dyn Engine> = Arc::new(broker.clone());
        let topics = [numbers("in"), late("in")];
        for topic in &topics {
            engine.ensure_topic(&TopicSpec::new(topic, PARTITIONS)).await.unwrap();
        }
        write(Arc::clone(&engine), numbers("in"), 0, 10).await;
        let running = run(&engine, "in", state.path(), std::future::pending).await;
        let spec = QueueSpec::new("in-workers", [numbers("in")]);
        let mut consumer = engine.queues().unwrap().consumer(spec).await.unwrap();
        let writing = tokio::spawn(write(Arc::clone(&engine), numbers("in"), 10 * STEP, u64::MAX));
        let mut ledger = Ledger::default();
        while ledger.accepted.len() < 100 {
            assert!(ledger.work(&mut *consumer, false).await);
        }
        let all = engine.admin().topics().await.unwrap();
        let all: Vec<_> = all.into_iter().filter(|topic| !topic.is_internal).collect();
        let names: Vec<String> = all.iter().map(|topic| topic.name.clone()).collect();
        let partitions: Vec<_> = all
            .iter()
            .flat_map(|topic| {
                (0..topic.partitions.len() as i32).map(|at| TopicPartition::new(&topic.name, at))
            })
            .collect();
        let (id, target) = ("m".to_owned(), "kafka://there:1".to_owned());
        broker.begin_move(NewMove { id, topics: names, target, redirect: None }).await.unwrap();
        for is_last in [false, true] {
            let hold = broker.hold_move("m", &partitions, Duration::from_secs(20)).await.unwrap();
            let holding = async {
                tokio::time::sleep(Duration::from_secs(4)).await; // as long as the mover may take
                match is_last {
                    false => broker.release_move("m", hold),
                    true => broker.decide_move("m", hold, true).await.unwrap(),
                }
            };
            let (goes_on, ()) = tokio::join!(ledger.work(&mut *consumer, false), holding);
            if !is_last {
                assert!(goes_on && ledger.unknown.is_empty(), "{:?}", ledger.unknown);
                assert!(running.iter().all(|running| !running.is_finished()));
                let accepted = ledger.accepted.len();
                while ledger.accepted.len() < accepted + 100 {
                    assert!(ledger.work(&mut *consumer, false).await);
                }
            }
        }
        tokio::time::timeout(TOLD_WITHIN, writing).await.unwrap().unwrap();
        let until = Instant::now() + DEADLINE;
        while ledger.work(&mut *consumer, false).await {
            assert!(Instant::now() < until, "nobody tells the queue");
        }
        for running in running {
            let ended = tokio::time::timeout(TOLD_WITHIN, running).await.unwrap().unwrap();
            let error = ended.expect_err("it was moved").to_string();
            assert!(error.contains("moved to kafka://there:1"), "{error}");
        }
        broker.close().await;
    });
}
