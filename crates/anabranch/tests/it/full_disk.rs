//! A volume of 64 MiB that fills up and is emptied again while clients produce and commit offsets.
//!
//! `ANABRANCH_FULL_DISK=1 cargo test -p anabranch --test it full_disk`, as a user who may mount a tmpfs. Without that the
//! same is tested on a small disk in memory (`crates/broker/tests/it/full.rs`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::harness::{DEADLINE, Server, eventually, run};

const TOPIC: &str = "full";
const PARTITIONS: i32 = 3;
const WRITERS: u64 = 4;
const ROUNDS: usize = 3;
/// How much a writer gets acknowledged, and a committer through, in each part of a round.
const STEP: u64 = 200;

/// Unmounts it at the end.
struct Volume(tempfile::TempDir);

impl Volume {
    fn mount() -> Self {
        let volume = Self(tempfile::tempdir().unwrap());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
            .arg(volume.0.path())
            .status();
        assert!(mounted.unwrap().success(), "a tmpfs must be mounted");
        volume
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[derive(Default)]
struct Delivered {
    /// Partition and offset of each number.
    places: Mutex<BTreeMap<u64, (i32, i64)>>,
    errors: Mutex<Vec<KafkaError>>,
}

#[derive(Clone)]
struct Context(Arc<Delivered>);

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        match result {
            Ok(message) => {
                let place = (message.partition(), message.offset());
                self.0.places.lock().unwrap().insert(number as u64, place);
            }
            Err((error, _)) => self.0.errors.lock().unwrap().push(error.clone()),
        }
    }
}

fn producer(addr: &str, settings: &[(&str, &str)]) -> (BaseProducer<Context>, Arc<Delivered>) {
    let delivered: Arc<Delivered> = Arc::default();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", addr).set("retry.backoff.ms", "20").set("retry.backoff.max.ms", "100");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    (config.create_with_context(Context(Arc::clone(&delivered))).unwrap(), delivered)
}

fn send(producer: &BaseProducer<Context>, writer: u64, number: u64) -> bool {
    let payload = format!("{writer} {number} {}", "x".repeat(200));
    let record = BaseRecord::<(), str, usize>::with_opaque_to(TOPIC, number as usize)
        .partition((number % PARTITIONS as u64) as i32)
        .payload(&payload);
    match producer.send(record) {
        Ok(()) => true,
        Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => false,
        Err((error, _)) => panic!("{error}"),
    }
}

struct Writer {
    delivered: Arc<Delivered>,
    thread: JoinHandle<u64>,
}

impl Writer {
    fn start(writer: u64, addr: &str, stop: &Arc<AtomicBool>) -> Self {
        let idempotence = if writer.is_multiple_of(2) { "true" } else { "false" };
        let settings = [
            ("enable.idempotence", idempotence),
            ("acks", "all"),
            ("max.in.flight.requests.per.connection", "1"),
            ("retries", "1000000"),
            ("message.timeout.ms", "0"),
            ("queue.buffering.max.messages", "200"),
        ];
        let (producer, delivered) = producer(addr, &settings);
        let stop = Arc::clone(stop);
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += u64::from(send(&producer, writer, number));
                // A pace at which the volume is filled by the ballast, and not by these.
                producer.poll(Duration::from_millis(2));
            }
            producer.flush(DEADLINE).unwrap();
            number
        });
        Self { delivered, thread }
    }

    fn count(&self) -> u64 {
        self.delivered.places.lock().unwrap().len() as u64
    }
}

fn consumer(addr: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", addr).set("group.id", "g").set("enable.auto.commit", "false");
    config.set("enable.partition.eof", "true").create().unwrap()
}

/// Commits one more with each turn; failures are counted.
fn commit(addr: &str, stop: &AtomicBool, committed: &AtomicU64, failed: &AtomicU64) {
    let consumer = consumer(addr);
    while !stop.load(Ordering::Relaxed) {
        let next = committed.load(Ordering::Relaxed) + 1;
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(TOPIC, 0, Offset::Offset(next as i64)).unwrap();
        match consumer.commit(&offsets, CommitMode::Sync) {
            Ok(()) => committed.store(next, Ordering::Relaxed),
            Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

/// Takes all the room there is.
fn fill(path: &Path) {
    let mut ballast = File::create(path).unwrap();
    for bytes in [1 << 20, 64 << 10, 4 << 10] {
        let block = vec![1; bytes];
        while ballast.write_all(&block).is_ok() {}
    }
}

/// What a producer is told that does not try again.
fn probe(addr: &str) -> Option<KafkaError> {
    let (producer, delivered) = producer(addr, &[("retries", "0"), ("acks", "all")]);
    assert!(send(&producer, 99, 0));
    producer.flush(DEADLINE).unwrap();
    let errors = delivered.errors.lock().unwrap();
    errors.first().cloned()
}

fn more(counts: &[u64], before: &[u64]) -> bool {
    counts.iter().zip(before).all(|(count, before)| *count >= before + STEP)
}

#[test]
fn a_volume_fills_up_and_is_emptied_again() {
    if std::env::var_os("ANABRANCH_FULL_DISK").is_none() {
        return;
    }
    let volume = Volume::mount();
    let (data, ballast) = (volume.0.path().join("data"), volume.0.path().join("ballast"));
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let start = || Server::start_at(&data, &addr, &["--set", "log.segment.bytes=1000000"]);
    let mut server = start();
    server.client(&["topic", "create", TOPIC, "-p", &PARTITIONS.to_string()]).ok();
    let stop: Arc<AtomicBool> = Arc::default();
    let writers: Vec<Writer> = (0..WRITERS).map(|writer| Writer::start(writer, &addr, &stop)).collect();
    let counts = || writers.iter().map(Writer::count).collect::<Vec<_>>();
    let (committed, failed): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
    let committer = {
        let (addr, stop) = (addr.clone(), Arc::clone(&stop));
        let (committed, failed) = (Arc::clone(&committed), Arc::clone(&failed));
        std::thread::spawn(move || commit(&addr, &stop, &committed, &failed))
    };
    for round in 0..ROUNDS {
        let (before, commits) = (counts(), committed.load(Ordering::Relaxed));
        eventually("all write and commit", || {
            more(&counts(), &before) && committed.load(Ordering::Relaxed) >= commits + STEP
        });
        fill(&ballast);
        eventually("a producer is told", || match probe(&addr) {
            None => false,
            Some(KafkaError::MessageProduction(RDKafkaErrorCode::KafkaStorageError)) => true,
            Some(other) => panic!("{other}"),
        });
        let (commits, failures) = (committed.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
        eventually("offsets are committed on a full disk", || {
            committed.load(Ordering::Relaxed) >= commits + STEP
        });
        assert_eq!(failed.load(Ordering::Relaxed), failures, "no commit failed");
        if round == 1 {
            // It dies and starts again, and the disk is still full.
            server.kill();
            server = start();
            let commits = committed.load(Ordering::Relaxed);
            eventually("offsets are committed after a start on a full disk", || {
                committed.load(Ordering::Relaxed) >= commits + STEP
            });
        }
        let before = counts();
        fs::remove_file(&ballast).unwrap();
        eventually("all go on by themselves", || more(&counts(), &before));
    }
    stop.store(true, Ordering::Relaxed);
    committer.join().unwrap();
    let mut all = Vec::new();
    for writer in writers {
        let written = writer.thread.join().unwrap();
        assert_eq!(*writer.delivered.errors.lock().unwrap(), []);
        let places = writer.delivered.places.lock().unwrap().clone();
        assert_eq!(places.len() as u64, written, "everything was acknowledged in the end");
        all.push(places);
    }
    for starts in 0..2 {
        check_records(&addr, &all);
        let mut asked = TopicPartitionList::new();
        asked.add_partition(TOPIC, 0);
        let found = consumer(&addr).committed_offsets(asked, DEADLINE).unwrap();
        let stands = found.find_partition(TOPIC, 0).unwrap().offset().to_raw().unwrap();
        assert_eq!(stands as u64, committed.load(Ordering::Relaxed));
        if starts == 0 {
            server.signal(rustix::process::Signal::TERM);
            assert_eq!(server.wait().code(), Some(0));
            let report = run(&["check", data.to_str().unwrap()]).ok();
            assert!(report.contains("everything is whole"), "{report}");
            server = start();
        }
    }
    server.stop();
    println!(
        "{ROUNDS} times full: {} records acknowledged and there, {} commits",
        all.iter().map(BTreeMap::len).sum::<usize>(),
        committed.load(Ordering::Relaxed),
    );
}

/// Every acknowledged record is where it was acknowledged to be.
fn check_records(addr: &str, all: &[BTreeMap<u64, (i32, i64)>]) {
    let consumer = consumer(addr);
    let mut from = TopicPartitionList::new();
    let mut open = BTreeMap::new();
    for partition in 0..PARTITIONS {
        from.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
        let (_, end) = consumer.fetch_watermarks(TOPIC, partition, DEADLINE).unwrap();
        open.insert(partition, end);
    }
    consumer.assign(&from).unwrap();
    let mut found = BTreeMap::new();
    let started = Instant::now();
    while !open.is_empty() {
        assert!(started.elapsed() < DEADLINE, "these are open: {open:?}");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let text = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
                let (partition, offset) = (message.partition(), message.offset());
                found.insert((partition, offset), text);
                if open[&partition] == offset + 1 {
                    open.remove(&partition);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) | None => sleep(Duration::from_millis(1)),
            Some(Err(error)) => panic!("{error}"),
        }
    }
    for (writer, places) in all.iter().enumerate() {
        for (number, place) in places {
            assert!(
                found[place].starts_with(&format!("{writer} {number} ")),
                "{writer} {number} at {place:?}"
            );
        }
    }
}
