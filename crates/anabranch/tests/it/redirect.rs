//! Real clients go on by themselves in another Kafka, when their topics have moved and they are sent on: nobody is restarted or
//! told a new address. Every acknowledged record is in the target once and in order, and groups go on at the record after
//! their last commit, though records have other positions there.
//!
//! Their clients are librdkafka's; `ANABRANCH_MOVE_JAVA` is a folder with the jars of Java's, which go on in the same way.
//! `ANABRANCH_MOVE_TARGET` is an Apache Kafka to move to, by its `HOST:PORT`, instead of another of our servers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::Value;

use crate::flow_kill::dice;
use crate::harness::{Server, command, finish, run};
use crate::moves::client;

type Topics = [&'static str; 2];
const PARTITIONS: u64 = 3;
const TIMEOUT: Duration = Duration::from_secs(60);
/// What every producer gets into the target.
const AFTER: u64 = 300;

/// A Kafka that others have been moved to may hold what they have left.
fn unique(name: &str) -> &'static str {
    Box::leak(format!("{name}-{:016x}", dice().0).into_boxed_str())
}

/// An Apache Kafka, or a server of our own as long as it is kept.
fn target(home: &Path) -> (String, Option<Server>) {
    match std::env::var("ANABRANCH_MOVE_TARGET") {
        Ok(kafka) => (kafka, None),
        Err(_) => {
            let server = Server::start(home);
            (server.kafka.clone(), Some(server))
        }
    }
}

/// Moves all that there is, and has clients sent on; the report.
fn move_on(from: &Path, target: &str) -> Value {
    let mut mover = command();
    mover.args([
        "move",
        "--json",
        "--old-clients",
        "redirect",
        "--to",
        &format!("kafka://{target}"),
        "--from",
    ]);
    finish(mover.arg(from)).json()
}

/// What has gone wrong, and how many records were acknowledged.
#[derive(Clone, Default)]
struct Outcomes {
    acknowledged: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
}

impl ClientContext for Outcomes {}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => drop(self.acknowledged.fetch_add(1, Ordering::Relaxed)),
            Err((error, _)) => self.failed.lock().unwrap().push(error.to_string()),
        }
    }
}

fn idempotent(bootstrap: &str, outcomes: &Outcomes) -> BaseProducer<Outcomes> {
    let mut config = client(bootstrap);
    config.set("enable.idempotence", "true").set("linger.ms", "2");
    config.create_with_context(outcomes.clone()).unwrap()
}

/// Number `n` of a topic goes to partition `n % 3`, so that each partition has its numbers in order.
fn send<C: ProducerContext<DeliveryOpaque = ()>>(producer: &BaseProducer<C>, topic: &str, number: u64) {
    let (key, payload) = (format!("{}", number % 999), format!("{number} and some more"));
    loop {
        let record = BaseRecord::<str, str>::to(topic)
            .partition((number % PARTITIONS) as i32)
            .key(&key)
            .payload(&payload);
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(5));
            }
            Err((error, _)) => panic!("{topic} {number}: {error}"),
        }
    }
}

/// One client, from before the move until after it.
struct Live {
    outcomes: Outcomes,
    thread: JoinHandle<u64>,
}

/// Writes on and on, beginning with transactions of another, which leave their markers in between. Ends with the number after the last.
fn live(topic: &'static str, source: String, stop: Arc<AtomicBool>) -> Live {
    let outcomes = Outcomes::default();
    let known = outcomes.clone();
    let thread = std::thread::spawn(move || {
        // It has its id before anybody else: of two brokers that count from 0, both would give it.
        let producer = idempotent(&source, &known);
        send(&producer, topic, 0);
        producer.flush(TIMEOUT).unwrap();
        let mut number = 1;
        let mut config = client(&source);
        config.set("transactional.id", topic);
        let transactional: BaseProducer = config.create().unwrap();
        transactional.init_transactions(TIMEOUT).unwrap();
        for _ in 0..20 {
            transactional.begin_transaction().unwrap();
            (number..number + 10).for_each(|number| send(&transactional, topic, number));
            transactional.commit_transaction(TIMEOUT).unwrap();
            number += 10;
        }
        drop(transactional);
        known.acknowledged.fetch_add(number - 1, Ordering::Relaxed);
        while !stop.load(Ordering::Relaxed) {
            (number..number + 5).for_each(|number| send(&producer, topic, number));
            number += 5;
            producer.poll(Duration::from_millis(5));
        }
        producer.flush(TIMEOUT).unwrap();
        assert_eq!(*known.failed.lock().unwrap(), Vec::<String>::new(), "{topic}");
        assert_eq!(known.acknowledged.load(Ordering::Relaxed), number, "{topic}");
        number
    });
    Live { outcomes, thread }
}

type Numbers = BTreeMap<(String, i32), u64>;

/// What a member of a group has read and committed.
#[derive(Default)]
struct Progress {
    /// The next number, by partition, of those that it has.
    read: Numbers,
    committed: Numbers,
    /// How often it has lost its partitions.
    lost: u32,
}

#[derive(Clone, Default)]
struct Member(Arc<Mutex<Progress>>);

impl ClientContext for Member {}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let mut progress = self.0.lock().unwrap();
        match rebalance {
            // What is not committed comes again, and nothing else does.
            Rebalance::Assign(partitions) => {
                for at in partitions.elements() {
                    let at = (at.topic().to_owned(), at.partition());
                    match progress.committed.get(&at).copied() {
                        Some(number) => progress.read.insert(at, number),
                        None => progress.read.remove(&at),
                    };
                }
            }
            Rebalance::Revoke(_) => progress.lost += 1,
            Rebalance::Error(_) => {}
        }
    }
}

/// Reads and commits, and holds that each record is the one after the last; after a loss, the one after the last commit.
fn read(
    group: &'static str,
    protocol: &'static str,
    topics: Topics,
    source: String,
    stop: Arc<AtomicBool>,
) -> (Member, JoinHandle<()>) {
    let member = Member::default();
    let known = member.clone();
    let thread = std::thread::spawn(move || {
        let mut config = client(&source);
        config
            .set("group.id", group)
            .set("group.protocol", protocol)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed");
        let consumer: BaseConsumer<Member> = config.create_with_context(member.clone()).unwrap();
        consumer.subscribe(&topics).unwrap();
        let mut since = 0;
        while !stop.load(Ordering::Relaxed) {
            match consumer.poll(Duration::from_millis(50)) {
                None => {}
                Some(Ok(message)) => {
                    let at = (message.topic().to_owned(), message.partition());
                    let (number, first) = (number_of(&message), message.partition() as u64);
                    let mut progress = member.0.lock().unwrap();
                    let expected = progress.read.insert(at.clone(), number + PARTITIONS).unwrap_or(first);
                    assert_eq!(number, expected, "{group} {at:?}, offset {}", message.offset());
                    since += 1;
                }
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::PolicyViolation))) => {
                    panic!("{group}: it is told that it must not read");
                }
                // Connections come and go.
                Some(Err(_)) => {}
            }
            if since >= 50 {
                since = 0;
                if consumer.commit_consumer_state(CommitMode::Sync).is_ok() {
                    let mut progress = member.0.lock().unwrap();
                    progress.committed = progress.read.clone();
                }
            }
        }
    });
    (known, thread)
}

/// Reads without a group until it is told that it cannot go on; how many records it had by then.
fn read_alone(topic: &'static str, source: String) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut config = client(&source);
        config.set("group.id", "none").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut assigned = TopicPartitionList::new();
        assigned.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&assigned).unwrap();
        let mut read = 0;
        loop {
            match consumer.poll(Duration::from_millis(50)) {
                Some(Ok(message)) => {
                    assert_eq!(number_of(&message), read * PARTITIONS, "offset {}", message.offset());
                    read += 1;
                }
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::PolicyViolation))) => return read,
                Some(Err(_)) | None => {}
            }
        }
    })
}

fn number_of(message: &impl Message) -> u64 {
    let payload = std::str::from_utf8(message.payload().unwrap()).unwrap();
    payload.split(' ').next().unwrap().parse().unwrap()
}

/// Every number below `next` is there once, in order.
fn check_records(target: &str, topic: &str, next: u64) {
    for partition in 0..PARTITIONS {
        let consumer: BaseConsumer = client(target).set("group.id", "check").create().unwrap();
        let mut assigned = TopicPartitionList::new();
        assigned.add_partition_offset(topic, partition as i32, Offset::Beginning).unwrap();
        consumer.assign(&assigned).unwrap();
        let until = Instant::now() + TIMEOUT;
        for expected in (partition..next).step_by(PARTITIONS as usize) {
            let number = loop {
                assert!(Instant::now() < until, "{topic}-{partition}: {expected} is missing");
                if let Some(message) = consumer.poll(Duration::from_millis(500)) {
                    break number_of(&message.unwrap());
                }
            };
            assert_eq!(number, expected, "{topic}-{partition}");
        }
        assert!(consumer.poll(Duration::from_millis(300)).is_none(), "{topic}-{partition} goes on");
    }
}

/// Waits until a thread that is not to end has come so far.
fn until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn clients_that_are_sent_on_lose_nothing_and_repeat_nothing() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = Server::start(home.path());
    let (target, _own) = target(other.path());
    let topics: Topics = [unique("sent-on-a"), unique("sent-on-b")];
    for topic in topics {
        source.client(&["topic", "create", topic, "-p", "3"]).ok();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let start = |topic| live(topic, source.kafka.clone(), Arc::clone(&stop));
    let producers = topics.map(start);
    // Each has its own, for one may be behind the other.
    let reader = |group, protocol| {
        let stop = Arc::new(AtomicBool::new(false));
        (Arc::clone(&stop), read(group, protocol, topics, source.kafka.clone(), stop))
    };
    let readers = [reader(unique("classic"), "classic"), reader(unique("consumer"), "consumer")];
    let alone = read_alone(topics[0], source.kafka.clone());
    let acknowledged = || producers.each_ref().map(|live| live.outcomes.acknowledged.load(Ordering::Relaxed));
    let has_come = |before: [u64; 2]| {
        for live in &producers {
            assert!(!live.thread.is_finished(), "{:?}", live.outcomes.failed.lock().unwrap());
        }
        acknowledged().iter().zip(before).all(|(now, before)| *now > before + AFTER)
    };
    let has_committed = |member: &Member| !member.0.lock().unwrap().committed.is_empty();
    until("there is something to move", TIMEOUT, || {
        has_come([200; 2]) && readers.iter().all(|(_, (member, _))| has_committed(member))
    });

    let report = move_on(home.path(), &target);
    let moved = Instant::now();
    let before = acknowledged();
    assert_eq!(report["old_clients"], "redirect");
    assert_eq!(report["topics"][0]["partitions"][0]["positions_differ"], true, "{report}");
    until("producers go on in the target", Duration::from_secs(90), || has_come(before));
    println!("producers went on within {:?}", moved.elapsed());

    stop.store(true, Ordering::Relaxed);
    let next = producers.map(|live| live.thread.join().unwrap());
    println!("without a group, {} were read before it was refused", alone.join().unwrap());
    for (topic, next) in topics.iter().zip(next) {
        check_records(&target, topic, next);
    }
    // Groups come to the end of all of it.
    let mut ends = Numbers::new();
    for (topic, next) in topics.iter().zip(next) {
        for partition in 0..PARTITIONS {
            let end = (partition..).step_by(3).find(|number| *number >= next);
            ends.insert(((*topic).to_owned(), partition as i32), end.unwrap());
        }
    }
    for (stop, (member, reader)) in readers {
        until("groups have read all of it", TIMEOUT, || {
            assert!(!reader.is_finished());
            member.0.lock().unwrap().read == ends
        });
        assert!(member.0.lock().unwrap().lost > 0, "it was a member to the end: of what?");
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    }
    source.stop();
}

/// What cannot be done rightly is refused before anything is.
#[test]
fn clients_are_sent_on_to_a_kafka_and_from_a_directory_with_all_that_it_has() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (Server::start(home.path()), Server::start(other.path()));
    let from = home.path().to_str().unwrap();
    let to = format!("kafka://{}", target.kafka);
    for topic in ["orders", "bills"] {
        source.client(&["topic", "create", topic]).ok();
    }
    let redirect = ["move", "--old-clients", "redirect"];
    let refused = |args: &[&str]| run(&[&redirect, args].concat()).fails(2);
    let told = refused(&["--from", from, "--to", &to, "--topics", "orders"]);
    assert!(told.contains("topic bills stays"), "{told}");
    let told = refused(&["--from", from, "--to", other.path().join("data").to_str().unwrap()]);
    assert!(told.contains("kafka:// only"), "{told}");
    let told = refused(&["--from", &to, "--to", from]);
    assert!(told.contains("only a data directory"), "{told}");
    assert_eq!(target.client(&["topic", "list", "--json"]).json(), serde_json::json!([]), "nothing was done");
    source.client(&["topic", "delete", "bills"]).ok();
    let text = run(&[&redirect[..], &["--from", from, "--to", &to]].concat()).ok();
    assert!(text.contains("old clients are sent to the target"), "{text}");

    // The mover sees the directory also when everybody else is sent on.
    let client: BaseConsumer = client(&source.kafka).create().unwrap();
    until("clients are sent on", TIMEOUT, || {
        let metadata = client.fetch_metadata(None, TIMEOUT).unwrap();
        target.kafka.ends_with(&format!(":{}", metadata.brokers()[0].port()))
    });
    let again = run(&[&redirect[..], &["--json", "--from", from, "--to", &to]].concat()).json();
    assert_eq!((&again["was_decided"], &again["topics"][0]["topic"]), (&true.into(), &"orders".into()));
    let told = run(&["move", "--from", from, "--to", &to]).fails(1);
    assert!(told.contains("old clients are sent on"), "what was decided is told: {told}");
    // Given up, the old topics are its own again.
    run(&["move", "--abandon", "--from", from, "--to", &to]).ok();
    source.client_with_input(&["produce", "orders"], "here again\n").ok();
    assert_eq!(
        source.client(&["consume", "orders", "--from", "beginning", "--count", "1"]).ok(),
        "here again\n"
    );
}

/// Kafka's own clients, if `ANABRANCH_MOVE_JAVA` is a folder with its jars (`target/kafka-lib`, by `tests/peers/kafka`), and `java` is there.
#[test]
fn javas_clients_that_are_sent_on_lose_nothing_and_repeat_nothing() {
    let Ok(jars) = std::env::var("ANABRANCH_MOVE_JAVA") else { return };
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = Server::start(home.path());
    let (target, _own) = target(other.path());
    let topic = unique("sent-on-java");
    source.client(&["topic", "create", topic, "-p", "3"]).ok();
    let mut java = Java::start(&jars, &source.kafka, topic);
    until("there is something to move", TIMEOUT, || java.acknowledged() > 1000);
    let report = move_on(home.path(), &target);
    let (moved, before) = (Instant::now(), java.acknowledged());
    until("the producer goes on in the target", Duration::from_secs(90), || {
        java.acknowledged() > before + AFTER
    });
    println!("the producer went on within {:?}", moved.elapsed());
    let ended = java.end();
    println!("{ended}");
    check_records(&target, topic, ended["end"].as_u64().unwrap());
    assert!(ended["lost_classic"].as_u64() > Some(0) && ended["lost_consumer"].as_u64() > Some(0), "{ended}");
    // In a Kafka, the mover's own transactions have positions, too.
    assert_eq!(report["topics"][0]["partitions"][0]["positions_differ"], true);
    assert!(ended["alone"].as_str().unwrap().starts_with("refused"), "{ended}");
    source.stop();
}

struct Java {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Java {
    fn start(jars: &str, bootstrap: &str, topic: &str) -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../compat/programs/redirect/Redirect.java");
        let mut child = Command::new("java")
            .args(["-Xmx256m", "-cp", &format!("{jars}/*"), program, bootstrap, topic])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, answers }
    }

    fn ask(&mut self, question: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{question}").unwrap();
        // Between the answers, what Kafka's clients tell of themselves.
        let mut lines = self.answers.by_ref().lines().map(Result::unwrap);
        let answer = lines.find_map(|line| line.strip_prefix("ANSWER ").map(str::to_owned));
        answer.expect("it has said why it ended")
    }

    fn acknowledged(&mut self) -> u64 {
        self.ask("status").trim().parse().unwrap()
    }

    fn end(&mut self) -> Value {
        serde_json::from_str(&self.ask("stop")).unwrap()
    }
}

impl Drop for Java {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
