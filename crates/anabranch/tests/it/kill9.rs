//! The server is killed, again and again, in the middle of what it does. What it acknowledged must be there.
//!
//! Clients of librdkafka write numbered records and commit a group's offsets all the time; they live through many deaths
//! of the server. `ANABRANCH_KILL_ROUNDS` asks for more rounds, `ANABRANCH_KILL_SEED` for the same moments again.

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
const GROUP: &str = "kill-group";
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
    name: &'static str,
    acknowledged: Arc<Acknowledged>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Writer {
    fn start(name: &'static str, bootstrap: &str, settings: &[(&str, &str)]) -> Self {
        let mut writer = Self { name, acknowledged: Arc::default(), stop: Arc::default(), thread: None };
        writer.spawn(bootstrap, settings, 0);
        writer
    }

    fn spawn(&mut self, bootstrap: &str, settings: &[(&str, &str)], first: u64) {
        let mut config = client(bootstrap);
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let context = Context(Arc::clone(&self.acknowledged));
        let producer: BaseProducer<Context> = config.create_with_context(context).unwrap();
        let (name, stop) = (self.name, Arc::clone(&self.stop));
        self.thread = Some(std::thread::spawn(move || write(&producer, name, &stop, first)));
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
    committed: Arc<Mutex<Committed>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Committer {
    fn start(bootstrap: &str, of: Arc<Acknowledged>) -> Self {
        let consumer: BaseConsumer = group_client(bootstrap);
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
        Self { committed, stop, thread }
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

fn client(bootstrap: &str) -> ClientConfig {
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

fn group_client(bootstrap: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("group.id", GROUP)
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
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// A port that the system does not give to outgoing connections while the server is away.
fn quiet_port(dice: &mut Dice) -> String {
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
    println!("ANABRANCH_KILL_SEED={seed} ANABRANCH_KILL_ROUNDS={rounds}");
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
    let mut idempotent = Writer::start("idempotent", &addr, IDEMPOTENT);
    let mut plain = Writer::start("plain", &addr, PLAIN);
    let committer = Committer::start(&addr, Arc::clone(&idempotent.acknowledged));
    let mut away = Duration::ZERO;
    for round in 1..=rounds {
        let before = (idempotent.count(), plain.count());
        eventually("both producers write again", || {
            idempotent.count() > before.0 && plain.count() > before.1
        });
        if round % ROUNDS_PER_PRODUCER == 0 {
            for (writer, settings) in [(&mut idempotent, IDEMPOTENT), (&mut plain, PLAIN)] {
                let next = writer.finish();
                writer.spawn(&addr, settings, next);
            }
        }
        // The moment of death is the point of the test, so it is waited for.
        std::thread::sleep(Duration::from_millis(dice.below(LIFE_MS_MAX)));
        let promised = committer.committed().positions;
        server.kill();
        let died = Instant::now();
        server = start(home.path());
        away += died.elapsed();
        check_group(&addr, &promised);
    }
    committer.stop.store(true, Ordering::Relaxed);
    let (written, _) = (idempotent.finish(), plain.finish());
    let Committed { positions, times: commits } = committer.committed();
    committer.thread.join().unwrap();
    check_group(&addr, &positions);

    let records = read_all(&addr);
    server.stop();
    let duplicates = check_records(&records, &idempotent, &plain);
    assert_eq!(idempotent.count() as u64, written, "all that the idempotent producer wrote was acknowledged");
    let report = run(&["check", home.path().to_str().unwrap()]).ok();
    assert!(report.contains("everything is whole"), "{report}");
    println!(
        "{rounds} deaths in {:.1} s ({:.0} ms to be back); idempotent: {} acknowledged, each there once and in order; \
         acks=1: {} acknowledged, all there and in order, {duplicates} of them more than once; {commits} commits, none \
         went back",
        started.elapsed().as_secs_f64(),
        away.as_secs_f64() * 1000.0 / rounds as f64,
        idempotent.count(),
        plain.count(),
    );
    assert!(commits > 0, "offsets were committed");
}

/// The group stands where it was promised, or further.
fn check_group(addr: &str, promised: &Positions) {
    let consumer = group_client(addr);
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
        assert!(stands >= *promised, "{}-{partition}: {stands}, and {promised} was promised", TOPICS[*topic]);
    }
}

/// Everything in the topics, by partition: offsets and texts.
type Records = BTreeMap<(usize, i32), Vec<(i64, String)>>;

fn read_all(addr: &str) -> Records {
    let consumer = group_client(addr);
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

/// Checks what is there against what was acknowledged; how many records of the plain producer are there more than once.
fn check_records(records: &Records, idempotent: &Writer, plain: &Writer) -> usize {
    for ((topic, partition), found) in records {
        let offsets: Vec<i64> = found.iter().map(|(offset, _)| *offset).collect();
        assert!(
            offsets.iter().copied().eq(0..offsets.len() as i64),
            "offsets of {}-{partition}",
            TOPICS[*topic]
        );
    }
    for writer in [idempotent, plain] {
        for (number, place) in &*writer.acknowledged.places.lock().unwrap() {
            let there = &records[&(place.topic, place.partition)][place.offset as usize].1;
            assert_eq!(there, &format!("{} {number}", writer.name), "acknowledged at {place:?}");
        }
    }
    let mut duplicates = 0;
    for (key, found) in records {
        let numbers = |writer: &str| -> Vec<u64> {
            let own = found.iter().filter_map(|(_, text)| text.strip_prefix(writer));
            own.map(|number| number.trim().parse().unwrap()).collect()
        };
        let once = numbers("idempotent");
        assert!(once.is_sorted_by(|one, next| one < next), "{key:?}: once and in order");
        assert!(once.iter().all(|number| target(*number) == *key));
        let mut seen = BTreeSet::new();
        for number in numbers("plain") {
            if seen.contains(&number) {
                duplicates += 1;
            } else {
                assert!(seen.last().is_none_or(|last| *last < number), "{key:?}: first copies are in order");
                seen.insert(number);
            }
        }
    }
    duplicates
}
