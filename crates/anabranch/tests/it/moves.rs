//! Topics move to another engine while producers and a group go on with them, and the mover is killed with kill -9, again and
//! again. Nothing is lost, doubled or out of order, and the group goes on at the record after its last commit.
//!
//! `ANABRANCH_MOVE_RECORDS` is how many there are before (10,000,000 in the large form), `ANABRANCH_MOVE_KILLS` how often the mover
//! dies, and `ANABRANCH_MOVE_TARGET` an Apache Kafka to move to, by its `HOST:PORT`, instead of another of our servers.
//! `ANABRANCH_MOVE_ENGINES` has addresses of engines, with commas between, that a directory is moved to and back from.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::flow_kill::dice;
use crate::harness::{Server, command, run};
use crate::kill9::from_environment;

/// With names of this run: the target may have those of one before.
static TOPICS: LazyLock<[String; 4]> = LazyLock::new(|| {
    let unique = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    ["a", "b", "c", "in-transactions"].map(|name| format!("moved-{unique:x}-{name}"))
});
/// Whoever writes to this one does it in transactions.
const TRANSACTIONAL: usize = 3;
const PARTITIONS: u64 = 3;
const GROUP: &str = "moved-readers";
/// What a producer may wait for.
const PAUSE_MAX: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("log_level", "0");
    config
}

/// What became of a record, by its number, and when.
type Outcome = (u64, Result<(), String>, Instant);

/// What became of records.
#[derive(Clone, Default)]
struct Outcomes(Arc<Mutex<Vec<Outcome>>>);

impl ClientContext for Outcomes {}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let result = result.as_ref().map(drop).map_err(|(error, _)| error.to_string());
        self.0.lock().unwrap().push((number as u64, result, Instant::now()));
    }
}

fn producer(bootstrap: &str, topic: usize) -> (BaseProducer<Outcomes>, Outcomes) {
    let outcomes = Outcomes::default();
    let mut config = client(bootstrap);
    config.set("enable.idempotence", "true").set("linger.ms", "2");
    if topic == TRANSACTIONAL {
        config.set("transactional.id", "moved").set("transaction.timeout.ms", "60000");
    }
    let producer: BaseProducer<Outcomes> = config.create_with_context(outcomes.clone()).unwrap();
    if topic == TRANSACTIONAL {
        producer.init_transactions(TIMEOUT).unwrap();
    }
    (producer, outcomes)
}

/// Number `n` of a topic goes to partition `n % 3`, so that each partition has its numbers in order.
fn send(producer: &BaseProducer<Outcomes>, topic: usize, number: u64) {
    let (key, payload) = (format!("{}", number % 999), format!("{number} and some more, as records have it"));
    loop {
        let record = BaseRecord::<str, str, usize>::with_opaque_to(&TOPICS[topic], number as usize)
            .partition((number % PARTITIONS) as i32)
            .key(&key)
            .payload(&payload);
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(5));
            }
            Err((error, _)) => panic!("{} {number}: {error}", TOPICS[topic]),
        }
    }
}

/// What is there before.
fn fill(bootstrap: &str, records: u64) {
    let fill = |topic: usize| {
        let bootstrap = bootstrap.to_owned();
        std::thread::spawn(move || {
            let (producer, outcomes) = producer(&bootstrap, topic);
            let mut acknowledged = 0;
            let numbers: Vec<u64> = (0..records / TOPICS.len() as u64).collect();
            for chunk in numbers.chunks(10_000) {
                if topic == TRANSACTIONAL {
                    producer.begin_transaction().unwrap();
                }
                chunk.iter().for_each(|number| send(&producer, topic, *number));
                producer.flush(TIMEOUT).unwrap();
                if topic == TRANSACTIONAL {
                    producer.commit_transaction(TIMEOUT).unwrap();
                }
                let done = std::mem::take(&mut *outcomes.0.lock().unwrap());
                assert!(done.iter().all(|(_, result, _)| result.is_ok()));
                acknowledged += done.len();
            }
            assert_eq!(acknowledged, numbers.len());
        })
    };
    let threads: Vec<_> = (0..TOPICS.len()).map(fill).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// How a live producer fared.
#[derive(Debug)]
struct Fared {
    /// After its last number.
    next: u64,
    /// How many of its records the target took.
    at_target: u64,
    /// The longest that nothing was acknowledged in the source, up to the refusal.
    pause: Duration,
    /// From the refusal to the first acknowledgement of the target.
    change: Duration,
}

/// Writes on and on, in the source until that says that the topic has moved, and then in the target.
fn live(topic: usize, from: u64, source: String, target: String, stop: Arc<AtomicBool>) -> JoinHandle<Fared> {
    std::thread::spawn(move || {
        let mut here = Writer::new(&source, topic);
        let mut number = from;
        while here.refused.is_empty() {
            assert!(!stop.load(Ordering::Relaxed), "{}: it was moved, and nobody said so", TOPICS[topic]);
            number = here.step(number);
        }
        here.end();
        let refused_at = here.refused_at.unwrap();
        let mut there = Writer::new(&target, topic);
        let mut again = here.refused;
        again.sort_unstable();
        for partition in 0..PARTITIONS {
            let of_it: Vec<u64> =
                again.iter().copied().filter(|number| number % PARTITIONS == partition).collect();
            let Some(first) = of_it.first() else { continue };
            let last: Vec<u64> = (*first..number).step_by(PARTITIONS as usize).collect();
            assert_eq!(of_it, last, "{}-{partition}: what was refused is all that came last", TOPICS[topic]);
        }
        let at_target = number - again.len() as u64;
        there.again(&again);
        let mut rounds_left = 50;
        while !stop.load(Ordering::Relaxed) || rounds_left > 0 {
            number = there.step(number);
            rounds_left -= 1;
        }
        there.end();
        assert!(there.refused.is_empty(), "{:?}", there.reason);
        let change = there.first.unwrap() - refused_at;
        Fared { next: number, at_target: number - at_target, pause: here.gap_max, change }
    })
}

struct Writer {
    topic: usize,
    producer: BaseProducer<Outcomes>,
    outcomes: Outcomes,
    refused: Vec<u64>,
    reason: Option<String>,
    refused_at: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    gap_max: Duration,
}

impl Writer {
    fn new(bootstrap: &str, topic: usize) -> Self {
        let (producer, outcomes) = producer(bootstrap, topic);
        Self {
            topic,
            producer,
            outcomes,
            refused: Vec::new(),
            reason: None,
            refused_at: None,
            first: None,
            last: None,
            gap_max: Duration::ZERO,
        }
    }

    /// What another refused.
    fn again(&self, numbers: &[u64]) {
        if self.topic == TRANSACTIONAL {
            self.producer.begin_transaction().unwrap();
        }
        numbers.iter().for_each(|number| send(&self.producer, self.topic, *number));
        if self.topic == TRANSACTIONAL {
            self.producer.commit_transaction(TIMEOUT).unwrap();
        }
    }

    /// Some records; the next number.
    fn step(&mut self, number: u64) -> u64 {
        let next = number + 10;
        let is_transactional = self.topic == TRANSACTIONAL;
        if is_transactional {
            self.producer.begin_transaction().unwrap();
        }
        (number..next).for_each(|number| send(&self.producer, self.topic, number));
        self.producer.poll(Duration::from_millis(5));
        if is_transactional {
            self.producer.flush(TIMEOUT).unwrap();
            let is_refused = self.outcomes.0.lock().unwrap().iter().any(|(_, result, _)| result.is_err());
            if is_refused {
                // All of it: what was acknowledged before, too.
                self.producer.abort_transaction(TIMEOUT).unwrap();
                self.look();
                self.refused = (number..next).collect();
                return next;
            }
            self.producer.commit_transaction(TIMEOUT).unwrap();
        }
        self.look();
        next
    }

    /// Takes note of what became of records.
    fn look(&mut self) {
        for (number, result, at) in std::mem::take(&mut *self.outcomes.0.lock().unwrap()) {
            let gap = self.last.map_or(Duration::ZERO, |last| at - last);
            if self.refused_at.is_none() {
                self.gap_max = self.gap_max.max(gap);
            }
            self.last = Some(at);
            match result {
                Ok(()) => drop(self.first.get_or_insert(at)),
                Err(reason) => {
                    self.refused.push(number);
                    self.refused_at.get_or_insert(at);
                    self.reason = Some(reason);
                }
            }
        }
    }

    /// Waits for whatever has no answer.
    fn end(&mut self) {
        self.producer.flush(TIMEOUT).unwrap();
        if self.topic != TRANSACTIONAL {
            self.look();
        }
    }
}

fn consumer(bootstrap: &str) -> BaseConsumer {
    let mut config = client(bootstrap);
    config
        .set("group.id", GROUP)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed");
    config.create().unwrap()
}

type Numbers = BTreeMap<(String, i32), u64>;

/// Reads and commits until it is told that the topics have moved; the number after the last that was committed, by partition.
fn read(bootstrap: String) -> JoinHandle<Numbers> {
    std::thread::spawn(move || {
        let consumer = consumer(&bootstrap);
        consumer.subscribe(&[&TOPICS[0], &TOPICS[TRANSACTIONAL]]).unwrap();
        let (mut read, mut committed, mut since) = (Numbers::new(), Numbers::new(), 0);
        loop {
            match consumer.poll(Duration::from_millis(50)) {
                None => {}
                Some(Ok(message)) => {
                    let at = (message.topic().to_owned(), message.partition());
                    let number = number_of(&message);
                    if let Some(expected) = read.insert(at.clone(), number + PARTITIONS) {
                        assert_eq!(number, expected, "{at:?}");
                    }
                    since += 1;
                }
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::PolicyViolation))) => {
                    return committed;
                }
                Some(Err(_)) => {}
            }
            if since >= 100 {
                since = 0;
                // What is not committed comes again.
                if consumer.commit_consumer_state(CommitMode::Sync).is_ok() {
                    committed = read.clone();
                }
            }
        }
    })
}

fn number_of(message: &impl Message) -> u64 {
    let payload = std::str::from_utf8(message.payload().unwrap()).unwrap();
    payload.split(' ').next().unwrap().parse().unwrap()
}

/// The group goes on where it was.
fn check_group(target: &str, committed: &Numbers) {
    let consumer = consumer(target);
    consumer.subscribe(&[&TOPICS[0], &TOPICS[TRANSACTIONAL]]).unwrap();
    let mut first = Numbers::new();
    let until = Instant::now() + TIMEOUT;
    while first.len() < committed.len() {
        assert!(Instant::now() < until, "it reads {first:?}, and has committed {committed:?}");
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            let at = (message.topic().to_owned(), message.partition());
            first.entry(at).or_insert_with(|| number_of(&message));
        }
    }
    assert_eq!(first, *committed, "the record after the last commit");
}

/// Every number of each topic is there once, in order.
fn check_records(target: &str, fared: &[Fared]) {
    for (topic, fared) in TOPICS.iter().zip(fared) {
        for partition in 0..PARTITIONS {
            let consumer = consumer(target);
            let mut assigned = TopicPartitionList::new();
            assigned.add_partition_offset(topic, partition as i32, Offset::Beginning).unwrap();
            consumer.assign(&assigned).unwrap();
            let expected: Vec<u64> = (partition..fared.next).step_by(PARTITIONS as usize).collect();
            let mut numbers = expected.iter();
            let until = Instant::now() + Duration::from_secs(600);
            while numbers.len() > 0 {
                assert!(Instant::now() < until, "{topic}-{partition}: {} are missing", numbers.len());
                match consumer.poll(Duration::from_millis(500)) {
                    None => {}
                    Some(Ok(message)) => {
                        assert_eq!(Some(&number_of(&message)), numbers.next(), "{topic}-{partition}");
                    }
                    Some(Err(error)) => panic!("{topic}-{partition}: {error}"),
                }
            }
            assert!(consumer.poll(Duration::from_millis(300)).is_none(), "{topic}-{partition} goes on");
        }
    }
}

pub(crate) fn start_mover(from: &str, to: &str, more: &[&str]) -> Child {
    command()
        .args(["move", "--json", "--from", from, "--to", to])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_move_under_load_that_is_killed_loses_nothing_and_repeats_nothing() {
    let records = from_environment("ANABRANCH_MOVE_RECORDS", 200_000);
    let kills = from_environment("ANABRANCH_MOVE_KILLS", 4);
    let mut dice = dice();
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = Server::start(home.path());
    let own_target = std::env::var("ANABRANCH_MOVE_TARGET").err().map(|_| Server::start(other.path()));
    let target = own_target
        .as_ref()
        .map_or_else(|| std::env::var("ANABRANCH_MOVE_TARGET").unwrap(), |server| server.kafka.clone());
    for topic in &*TOPICS {
        source.client(&["topic", "create", topic, "-p", "3"]).ok();
    }
    let began = Instant::now();
    fill(&source.kafka, records);
    println!("{records} records were there after {:?}", began.elapsed());

    let stop = Arc::new(AtomicBool::new(false));
    let from = records / TOPICS.len() as u64;
    let start = |topic| live(topic, from, source.kafka.clone(), target.clone(), Arc::clone(&stop));
    let producers: Vec<_> = (0..TOPICS.len()).map(start).collect();
    let reader = read(source.kafka.clone());

    let to = format!("kafka://{target}");
    let began = Instant::now();
    let mut killed = 0;
    let report = loop {
        let mut mover = start_mover(home.path().to_str().unwrap(), &to, &[]);
        let life = Duration::from_millis(100 + dice.below(1500) + killed * records / 10_000);
        let deadline = Instant::now() + life;
        while killed < kills && Instant::now() < deadline && mover.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1)); // the moment of death is the input of this test
        }
        if killed < kills && mover.try_wait().unwrap().is_none() {
            mover.kill().unwrap();
            mover.wait().unwrap();
            killed += 1;
            continue;
        }
        let output = mover.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{told}");
        break serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
    };
    println!(
        "moved after {:?} and {killed} kills; pause {} ms, last run {} ms",
        began.elapsed(),
        report["pause_ms"],
        report["took_ms"]
    );
    let committed = reader.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    let fared: Vec<_> = producers.into_iter().map(|producer| producer.join().unwrap()).collect();
    for (topic, fared) in TOPICS.iter().zip(&fared) {
        let Fared { next, at_target, pause, change } = fared;
        println!(
            "{topic}: {next} records, {at_target} of them in the target; pause {pause:?}, and {change:?} to the target"
        );
        assert!(fared.pause <= PAUSE_MAX, "{topic}");
    }
    check_group(&target, &committed);
    check_records(&target, &fared);
    let there: u64 = fared.iter().map(|fared| fared.next).sum();
    println!("all {there} records are there once, in order; the group goes on at {committed:?}");
    source.stop();
}

/// A directory that nobody has open, to another; and back again, through a server.
#[test]
fn a_directory_is_moved_and_its_old_clients_are_told() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (home.path().to_str().unwrap(), other.path().join("data"));
    let to = to.to_str().unwrap();
    let server = Server::start(home.path());
    server.client(&["topic", "create", "orders", "-p", "2", "-c", "retention.ms=1234567890000"]).ok();
    let lines: String = (0..500).map(|number| format!("key-{number}:value {number}\n")).collect();
    server.client_with_input(&["produce", "orders", "-K", ":"], &lines).ok();
    server.client(&["consume", "orders", "-g", "shipping", "--from", "beginning", "--count", "300"]).ok();
    // A flow's own topic, in a form of another version.
    server.client(&["topic", "create", "totals-changelog", "-c", "cleanup.policy=compact"]).ok();
    server.client_with_input(&["produce", "totals-changelog", "-K", ":"], "oorigin:x\n").ok();

    server.client(&["topic", "create", "workers.queue.orders", "-c", "cleanup.policy=compact"]).ok();

    let plan = run(&["move", "--json", "--dry-run", "--from", from, "--to", to]).json();
    assert_eq!(plan["dry_run"], true);
    assert_eq!(plan["topics"][0]["partition_count"], 2);
    assert_eq!(plan["left"].as_array().unwrap().len(), 1);
    assert_eq!(plan["left"][0]["topic"], "totals-changelog");
    let refused = run(&["move", "--topics", "totals-changelog", "--from", from, "--to", to]).fails(2);
    assert!(refused.contains("a flow's or a queue's own"), "{refused}");
    let refused = run(&["move", "--topics", "workers.queue.orders", "--from", from, "--to", to]).fails(2);
    assert!(refused.contains("without orders"), "{refused}");
    server.client_with_input(&["produce", "orders"], "it goes on\n").ok();

    let report = run(&["move", "--json", "--from", from, "--to", to]).json();
    let partitions = report["topics"][0]["partitions"].as_array().unwrap();
    let records = partitions.iter().map(|partition| partition["records"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(records, 501);
    assert!(partitions.iter().all(|at| at["source"]["checksum"] == at["target"]["checksum"]));
    assert_eq!(report["groups"][0]["group"], "shipping");
    let refused = server.client_with_input(&["produce", "orders"], "too late\n");
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.stderr.contains("Policy violation"), "{refused:?}");
    let refused = server.client(&["consume", "orders", "--from", "beginning", "--count", "1"]);
    assert_ne!(refused.code, Some(0), "{refused:?}");

    let there = Server::start(std::path::Path::new(to));
    let told = there.client(&["topic", "describe", "orders", "--json"]).ok();
    assert!(told.contains("1234567890000"), "{told}");
    let rest = there.client(&["consume", "orders", "-g", "shipping", "--count", "201"]).ok();
    assert_eq!(rest.lines().count(), 201);
    there.stop();

    // It is decided, and stays so, until it is given up.
    let again = run(&["move", "--json", "--from", from, "--to", to]).json();
    assert_eq!(again["was_decided"], true);
    assert_eq!(again["groups"][0]["group"], "shipping");
    run(&["move", "--abandon", "--from", from, "--to", "./elsewhere"]).fails(1);
    run(&["move", "--abandon", "--from", from, "--to", to]).ok();
    server.client_with_input(&["produce", "orders"], "here again\n").ok();
    server.stop();
}

#[test]
fn what_makes_no_sense_is_not_tried() {
    let home = tempfile::tempdir().unwrap();
    let from = home.path().to_str().unwrap();
    run(&["move", "--from", from, "--to", from]).fails(2);
    run(&["move", "--from", from, "--to", "nowhere://x"]).fails(2);
    run(&["move", "--from", from, "--to", "kafka://127.0.0.1:1"]).fails(1);
    run(&["move", "--abandon", "--from", "kafka://127.0.0.1:1", "--to", from]).fails(2);
}

/// Records with all that there can be, and a table, go to another engine and come back from it as they were, and so does a group.
#[test]
fn there_and_back_again() {
    let own = tempfile::tempdir().unwrap();
    let engines = std::env::var("ANABRANCH_MOVE_ENGINES").ok();
    let server = engines.is_none().then(|| Server::start(own.path()));
    let engines = engines.unwrap_or_else(|| format!("kafka://{}", server.as_ref().unwrap().kafka));
    for engine in engines.split(',') {
        let (home, back) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, back) = (home.path().to_str().unwrap(), back.path().join("data"));
        let back = back.to_str().unwrap();
        let unique = format!("{:016x}", dice().0);
        let (plain, table, group) =
            (format!("plain-{unique}"), format!("table-{unique}"), format!("group-{unique}"));
        let here = Server::start(home.path());
        here.client(&["topic", "create", &plain, "-p", "2"]).ok();
        here.client(&["topic", "create", &table, "-p", "2", "-c", "cleanup.policy=compact"]).ok();
        for round in 0..3 {
            let lines: String =
                (0..400).map(|number| format!("key-{}:{round} {number}\n", number % 40)).collect();
            for topic in [&plain, &table] {
                let header = format!("round={round}");
                here.client_with_input(
                    &["produce", topic, "-K", ":", "-H", &header, "-H", "round=again"],
                    &lines,
                )
                .ok();
            }
        }
        here.client(&["consume", &plain, "-g", &group, "--from", "beginning", "--count", "700"]).ok();
        here.stop();

        run(&["move", "--json", "--from", from, "--to", engine]).ok();
        let state = format!("{from}-notes");
        let topics = format!("{plain},{table}");
        run(&[
            "move", "--json", "--from", engine, "--to", back, "--still", "0.5", "--state", &state,
            "--topics", &topics, "--groups", &group,
        ])
        .ok();
        std::fs::remove_dir_all(&state).unwrap();
        // In one partition after the other, for between them there is no order.
        let all = |directory: &str, topic: &str| -> Vec<String> {
            let engine = format!("embedded:{directory}");
            let args = ["consume", topic, "--engine", &engine, "--from", "beginning", "--to", "end", "-f"];
            let text = run(&[&args[..], &["%p %T %h %k=%v\\n"]].concat()).ok();
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort_by_key(|line| line.as_bytes()[0]);
            lines
        };
        assert_eq!(all(from, &plain).len(), 1200);
        assert_eq!(all(back, &plain), all(from, &plain), "{engine}");
        // A target that compacts from the beginning has kept the newest of each key at least.
        let newest = |lines: Vec<String>| -> BTreeMap<String, String> {
            lines
                .into_iter()
                .map(|line| (line.split(['=', ' ']).rev().nth(2).unwrap().to_owned(), line))
                .collect()
        };
        assert_eq!(newest(all(back, &table)), newest(all(from, &table)), "{engine}");
        let there = Server::start(std::path::Path::new(back));
        let rest = there.client(&["consume", &plain, "-g", &group, "--count", "500"]).ok();
        assert_eq!(rest.lines().count(), 500, "{engine}");
        there.stop();
        println!("there and back again: {engine}");
    }
}
