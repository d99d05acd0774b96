//! The server is killed, again and again, in the middle of what it does. What it acknowledged must be there.
//!
//! Clients of librdkafka write numbered records and commit a group's offsets all the time; they live through many deaths
//! of the server. `ANABRANCH_KILL_ROUNDS` asks for more rounds or `ANABRANCH_KILL_SECONDS` for a time instead,
//! `ANABRANCH_KILL_PRODUCERS` and `ANABRANCH_KILL_GROUPS` for more clients, `ANABRANCH_KILL_SEED` for the same moments again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::harness::{DEADLINE, Server, eventually, run};

const TOPICS: [&str; 2] = ["kill-a", "kill-b"];
const PARTITIONS: i32 = 3;
/// A producer lives through so many deaths before another takes its place.
const ROUNDS_PER_PRODUCER: u64 = 10;
/// The server dies within so many milliseconds of its first acknowledgements.
const LIFE_MS_MAX: u64 = 80;
/// Records of a producer that wait for their acknowledgement.
const IN_FLIGHT_MAX: &str = "500";

/// Where a record was acknowledged to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    topic: usize,
    partition: i32,
    offset: i64,
}

/// Number `n` goes to this topic and partition.
fn target(n: u64) -> (usize, i32) {
    ((n / PARTITIONS as u64 % TOPICS.len() as u64) as usize, (n % PARTITIONS as u64) as i32)
}

/// Notes what was acknowledged, by number.
#[derive(Default)]
struct Acknowledged {
    places: Mutex<BTreeMap<u64, Place>>,
    failures: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Context(Arc<Acknowledged>);

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        match result {
            Ok(message) => {
                let topic = TOPICS.iter().position(|topic| *topic == message.topic()).unwrap();
                let place = Place { topic, partition: message.partition(), offset: message.offset() };
                self.0.places.lock().unwrap().insert(number as u64, place);
            }
            Err((error, _)) => self.0.failures.lock().unwrap().push(format!("{number}: {error}")),
        }
    }
}

/// A thread that writes numbers, on and on.
struct Writer {
    name: String,
    is_idempotent: bool,
    acknowledged: Arc<Acknowledged>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Writer {
    fn start(number: u64, bootstrap: &str) -> Self {
        let is_idempotent = number.is_multiple_of(2);
        let name = format!("{}-{number}", if is_idempotent { "idempotent" } else { "plain" });
        let mut writer =
            Self { name, is_idempotent, acknowledged: Arc::default(), stop: Arc::default(), thread: None };
        writer.spawn(bootstrap, 0);
        writer
    }

    fn spawn(&mut self, bootstrap: &str, first: u64) {
        let mut config = client(bootstrap);
        for (name, value) in if self.is_idempotent { IDEMPOTENT } else { PLAIN } {
            config.set(*name, *value);
        }
        let context = Context(Arc::clone(&self.acknowledged));
        let producer: BaseProducer<Context> = config.create_with_context(context).unwrap();
        let (name, stop) = (self.name.clone(), Arc::clone(&self.stop));
        self.thread = Some(std::thread::spawn(move || write(&producer, &name, &stop, first)));
    }

    /// Ends the producer when everything it wrote is acknowledged; the next number.
    fn finish(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let next = self.thread.take().unwrap().join().unwrap();
        self.stop.store(false, Ordering::Relaxed);
        assert_eq!(*self.acknowledged.failures.lock().unwrap(), Vec::<String>::new(), "{}", self.name);
        next
    }

    fn count(&self) -> usize {
        self.acknowledged.places.lock().unwrap().len()
    }
}

fn write(producer: &BaseProducer<Context>, name: &str, stop: &AtomicBool, first: u64) -> u64 {
    let mut number = first;
    while !stop.load(Ordering::Relaxed) {
        let (topic, partition) = target(number);
        let payload = format!("{name} {number}");
        let record = BaseRecord::<(), str, usize>::with_opaque_to(TOPICS[topic], number as usize)
            .partition(partition)
            .payload(&payload);
        match producer.send(record) {
            Ok(()) => number += 1,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(5));
            }
            Err((error, _)) => panic!("{name} {number}: {error}"),
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(DEADLINE).unwrap();
    assert_eq!(producer.client().fatal_error(), None, "{name}");
    number
}

/// Offsets by topic and partition.
type Positions = BTreeMap<(usize, i32), i64>;

/// What the server has said yes to, and how often.
#[derive(Debug, Clone, Default)]
struct Committed {
    positions: Positions,
    times: u64,
}

/// A thread that commits how far `of` is acknowledged, on and on.
struct Committer {
    group: String,
    committed: Arc<Mutex<Committed>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Committer {
    fn start(number: u64, bootstrap: &str, of: Arc<Acknowledged>) -> Self {
        let group = format!("kill-group-{number}");
        let consumer: BaseConsumer = group_client(bootstrap, &group);
        let committed: Arc<Mutex<Committed>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let (yes, ending) = (Arc::clone(&committed), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !ending.load(Ordering::Relaxed) {
                let ends = ends(&of);
                let mut offsets = TopicPartitionList::new();
                for ((topic, partition), end) in &ends {
                    offsets.add_partition_offset(TOPICS[*topic], *partition, Offset::Offset(*end)).unwrap();
                }
                // It fails whenever the server is dead; then nothing was promised.
                if !ends.is_empty() && consumer.commit(&offsets, CommitMode::Sync).is_ok() {
                    let mut yes = yes.lock().unwrap();
                    *yes = Committed { positions: ends, times: yes.times + 1 };
                }
                std::thread::yield_now();
            }
        });
        Self { group, committed, stop, thread }
    }

    fn committed(&self) -> Committed {
        self.committed.lock().unwrap().clone()
    }
}

/// After the last acknowledged record of each partition.
fn ends(acknowledged: &Acknowledged) -> Positions {
    let mut ends = Positions::new();
    let places = acknowledged.places.lock().unwrap();
    // Numbers go to the partitions in turn, so the last few have the end of each.
    for place in places.values().rev().take(64) {
        let end: &mut i64 = ends.entry((place.topic, place.partition)).or_default();
        *end = (*end).max(place.offset + 1);
    }
    ends
}

pub(crate) fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        // The server is away for moments, not for minutes.
        .set("reconnect.backoff.ms", "5")
        .set("reconnect.backoff.max.ms", "20")
        .set("retry.backoff.ms", "5")
        .set("retry.backoff.max.ms", "20")
        .set("queue.buffering.max.messages", IN_FLIGHT_MAX)
        .set("linger.ms", "1")
        // Never gives a record up.
        .set("message.timeout.ms", "0");
    config
}

pub(crate) fn group_client(bootstrap: &str, group: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("reconnect.backoff.ms", "5")
        .set("reconnect.backoff.max.ms", "20");
    config.create().unwrap()
}

const IDEMPOTENT: &[(&str, &str)] = &[("enable.idempotence", "true"), ("acks", "all")];
/// One request at a time, or a retry would change the order: that is the client's side of the bargain without
/// idempotence.
const PLAIN: &[(&str, &str)] =
    &[("acks", "1"), ("max.in.flight.requests.per.connection", "1"), ("retries", "1000000")];

/// Small numbers from a seed (xorshift).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

pub(crate) fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// A port that the system does not give to outgoing connections while the server is away.
pub(crate) fn quiet_port(dice: &mut Dice) -> String {
    loop {
        let addr = format!("127.0.0.1:{}", 10_000 + dice.below(20_000));
        if TcpListener::bind(&addr).is_ok() {
            return addr;
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let rounds = from_environment("ANABRANCH_KILL_ROUNDS", 50);
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = from_environment("ANABRANCH_KILL_SEED", now) | 1;
    let seconds = from_environment("ANABRANCH_KILL_SECONDS", 0);
    let producers = from_environment("ANABRANCH_KILL_PRODUCERS", 2);
    let groups = from_environment("ANABRANCH_KILL_GROUPS", 1);
    println!("ANABRANCH_KILL_SEED={seed}: {producers} producers, {groups} groups");
    let mut dice = Dice(seed);
    let home = tempfile::tempdir().unwrap();
    let addr = quiet_port(&mut dice);
    let started = Instant::now();
    // Small segments, so that some deaths come while one is being closed.
    let start = |data: &Path| Server::start_at(data, &addr, &["--set", "log.segment.bytes=65536"]);

    let mut server = start(home.path());
    for topic in TOPICS {
        server.client(&["topic", "create", topic, "-p", &PARTITIONS.to_string()]).ok();
    }
    let mut writers: Vec<Writer> = (0..producers).map(|number| Writer::start(number, &addr)).collect();
    let committer = |number: u64| {
        let of = &writers[(number % producers) as usize];
        Committer::start(number, &addr, Arc::clone(&of.acknowledged))
    };
    let committers: Vec<Committer> = (0..groups).map(committer).collect();
    let mut away = Duration::ZERO;
    let mut round = 0;
    while if seconds > 0 { started.elapsed().as_secs() < seconds } else { round < rounds } {
        round += 1;
        let before: Vec<usize> = writers.iter().map(Writer::count).collect();
        eventually("all producers write again", || {
            writers.iter().zip(&before).all(|(writer, before)| writer.count() > *before)
        });
        if round % ROUNDS_PER_PRODUCER == 0 {
            for writer in &mut writers {
                let next = writer.finish();
                writer.spawn(&addr, next);
            }
        }
        // The moment of death is the point of the test, so it is waited for.
        std::thread::sleep(Duration::from_millis(dice.below(LIFE_MS_MAX)));
        let promised: Vec<Positions> =
            committers.iter().map(|committer| committer.committed().positions).collect();
        server.kill();
        let died = Instant::now();
        server = start(home.path());
        away += died.elapsed();
        for (committer, promised) in committers.iter().zip(&promised) {
            check_group(&addr, &committer.group, promised);
        }
    }
    committers.iter().for_each(|committer| committer.stop.store(true, Ordering::Relaxed));
    let written: Vec<u64> = writers.iter_mut().map(Writer::finish).collect();
    let mut commits = 0;
    for committer in committers {
        committer.thread.join().unwrap();
        let Committed { positions, times } = committer.committed.lock().unwrap().clone();
        check_group(&addr, &committer.group, &positions);
        assert!(times > 0, "offsets of {} were committed", committer.group);
        commits += times;
    }

    let records = read_all(&addr);
    server.stop();
    let duplicates = check_records(&records, &writers);
    for (writer, written) in writers.iter().zip(written).filter(|(writer, _)| writer.is_idempotent) {
        assert_eq!(writer.count() as u64, written, "all that {} wrote was acknowledged", writer.name);
    }
    let report = run(&["check", home.path().to_str().unwrap()]).ok();
    assert!(report.contains("everything is whole"), "{report}");
    let count = |is_idempotent: bool| -> usize {
        writers.iter().filter(|writer| writer.is_idempotent == is_idempotent).map(Writer::count).sum()
    };
    println!(
        "{round} deaths in {:.1} s ({:.0} ms to be back); idempotent: {} acknowledged, each there once and in order; \
         acks=1: {} acknowledged, all there and in order, {duplicates} of them more than once; {commits} commits, none \
         went back",
        started.elapsed().as_secs_f64(),
        away.as_secs_f64() * 1000.0 / round as f64,
        count(true),
        count(false),
    );
}

/// The group stands where it was promised, or further.
fn check_group(addr: &str, group: &str, promised: &Positions) {
    let consumer = group_client(addr, group);
    let mut asked = TopicPartitionList::new();
    for (topic, partition) in promised.keys() {
        asked.add_partition(TOPICS[*topic], *partition);
    }
    if promised.is_empty() {
        return;
    }
    let found = consumer.committed_offsets(asked, DEADLINE).unwrap();
    for ((topic, partition), promised) in promised {
        let element = found.find_partition(TOPICS[*topic], *partition).unwrap();
        let stands = element.offset().to_raw().unwrap();
        assert!(
            stands >= *promised,
            "{group} {}-{partition}: {stands}, and {promised} was promised",
            TOPICS[*topic]
        );
    }
}

/// Everything in the topics, by partition: offsets and texts.
type Records = BTreeMap<(usize, i32), Vec<(i64, String)>>;

fn read_all(addr: &str) -> Records {
    let consumer = group_client(addr, "a-reader");
    let mut all = TopicPartitionList::new();
    let mut open = BTreeSet::new();
    for topic in TOPICS {
        for partition in 0..PARTITIONS {
            all.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
            let (_, end) = consumer.fetch_watermarks(topic, partition, DEADLINE).unwrap();
            open.insert((topic, partition, end));
        }
    }
    consumer.assign(&all).unwrap();
    let mut records = Records::new();
    let mut last = Instant::now();
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let topic = TOPICS.iter().position(|topic| *topic == message.topic()).unwrap();
                let text = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
                records.entry((topic, message.partition())).or_default().push((message.offset(), text));
                open.remove(&(TOPICS[topic], message.partition(), message.offset() + 1));
                last = Instant::now();
            }
            Some(Err(KafkaError::PartitionEOF(_))) | None => {
                assert!(last.elapsed() < DEADLINE, "nothing comes any more, and these are open: {open:?}");
            }
            Some(Err(error)) => panic!("{error}"),
        }
    }
    records
}

/// Checks what is there against what was acknowledged; how many records of the plain producers are there more than once.
fn check_records(records: &Records, writers: &[Writer]) -> usize {
    for ((topic, partition), found) in records {
        let offsets: Vec<i64> = found.iter().map(|(offset, _)| *offset).collect();
        assert!(
            offsets.iter().copied().eq(0..offsets.len() as i64),
            "offsets of {}-{partition}",
            TOPICS[*topic]
        );
    }
    let mut duplicates = 0;
    for writer in writers {
        for (number, place) in &*writer.acknowledged.places.lock().unwrap() {
            let there = &records[&(place.topic, place.partition)][place.offset as usize].1;
            assert_eq!(there, &format!("{} {number}", writer.name), "acknowledged at {place:?}");
        }
        for (key, found) in records {
            let prefix = format!("{} ", writer.name);
            let own = found.iter().filter_map(|(_, text)| text.strip_prefix(&prefix));
            let numbers: Vec<u64> = own.map(|number| number.parse().unwrap()).collect();
            assert!(numbers.iter().all(|number| target(*number) == *key));
            if writer.is_idempotent {
                let is_once = numbers.is_sorted_by(|one, next| one < next);
                assert!(is_once, "{} in {key:?}: once and in order", writer.name);
                continue;
            }
            let mut seen = BTreeSet::new();
            for number in numbers {
                if seen.contains(&number) {
                    duplicates += 1;
                } else {
                    let is_next = seen.last().is_none_or(|last| *last < number);
                    assert!(is_next, "{} in {key:?}: first copies are in order", writer.name);
                    seen.insert(number);
                }
            }
        }
    }
    duplicates
}
