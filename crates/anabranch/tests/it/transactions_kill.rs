//! The server is killed, again and again, while a client of librdkafka copies a topic in transactions: what it read, what it
//! wrote and how far it has read end together, so each record is copied once and in order, whatever died when.
//!
//! `ANABRANCH_KILL_ROUNDS` and `ANABRANCH_KILL_SEED` as in `kill9`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::harness::{DEADLINE, Server, eventually, run};
use crate::kill9::{Dice, client, from_environment, group_client, quiet_port};

const SOURCE: &str = "source";
const COPY: &str = "copy";
const GROUP: &str = "copiers";
const PARTITIONS: i32 = 3;
const RECORDS: i64 = 6_000;
/// Of one transaction.
const RECORDS_MAX: usize = 50;
/// The server dies within so many milliseconds of a transaction's end.
const LIFE_MS_MAX: u64 = 40;
/// What the server does not answer in this time, it will not.
const PATIENCE: Duration = Duration::from_secs(5);

fn transactional(addr: &str) -> BaseProducer {
    let mut config = client(addr);
    config.set("transactional.id", "copier").set("message.timeout.ms", "10000");
    config.set("transaction.timeout.ms", "30000").create().unwrap()
}

/// One incarnation: goes on from what is committed until something fails, or all is copied.
fn copy(addr: &str, stop: &AtomicBool, done: &AtomicU64) -> Result<(), KafkaError> {
    let producer = transactional(addr);
    // Whatever the one before has left open ends with this, so that what is committed is stable.
    producer.init_transactions(PATIENCE)?;
    let consumer: BaseConsumer = group_client(addr, GROUP);
    let mut asked = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        asked.add_partition(SOURCE, partition);
    }
    let mut from = TopicPartitionList::new();
    for element in consumer.committed_offsets(asked, PATIENCE)?.elements() {
        let offset = match element.offset() {
            Offset::Invalid => Offset::Beginning,
            committed => committed,
        };
        from.add_partition_offset(SOURCE, element.partition(), offset)?;
    }
    consumer.assign(&from)?;
    let mut ended = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        producer.begin_transaction()?;
        let mut next = TopicPartitionList::new();
        for _ in 0..RECORDS_MAX {
            let message = match consumer.poll(Duration::from_millis(20)) {
                Some(Ok(message)) => message,
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ended.insert(partition);
                    continue;
                }
                Some(Err(error)) => return Err(error),
                None => break,
            };
            let record = BaseRecord::<(), [u8]>::to(COPY).partition(message.partition());
            producer.send(record.payload(message.payload().unwrap())).map_err(|(error, _)| error)?;
            let after = Offset::Offset(message.offset() + 1);
            if next.find_partition(SOURCE, message.partition()).is_none() {
                next.add_partition(SOURCE, message.partition());
            }
            next.set_partition_offset(SOURCE, message.partition(), after)?;
        }
        if next.count() == 0 {
            producer.abort_transaction(PATIENCE)?;
            match ended.len() as i32 == PARTITIONS {
                true => return Ok(()),
                false => continue,
            }
        }
        let group = consumer.group_metadata().expect("it has a group");
        producer.send_offsets_to_transaction(&next, &group, PATIENCE)?;
        producer.commit_transaction(PATIENCE)?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// What readers of committed records see, by partition.
fn read(addr: &str, topic: &str) -> Vec<Vec<String>> {
    let consumer: BaseConsumer = group_client(addr, "a-reader");
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let (mut found, mut ended) = (vec![Vec::new(); PARTITIONS as usize], BTreeSet::new());
    while ended.len() < PARTITIONS as usize {
        match consumer.poll(DEADLINE).expect("an answer comes") {
            Ok(message) => {
                let value = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
                found[message.partition() as usize].push(value);
            }
            Err(KafkaError::PartitionEOF(partition)) => {
                ended.insert(partition);
            }
            Err(error) => panic!("{error}"),
        }
    }
    found
}

#[test]
fn each_record_is_copied_once_through_kill_9() {
    let rounds = from_environment("ANABRANCH_KILL_ROUNDS", 15);
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = from_environment("ANABRANCH_KILL_SEED", now) | 1;
    println!("ANABRANCH_KILL_SEED={seed}");
    let mut dice = Dice(seed);
    let home = tempfile::tempdir().unwrap();
    let addr = quiet_port(&mut dice);
    let start = || Server::start_at(home.path(), &addr, &["--set", "log.segment.bytes=65536"]);
    let mut server = start();
    for topic in [SOURCE, COPY] {
        server.client(&["topic", "create", topic, "-p", &PARTITIONS.to_string()]).ok();
    }
    let writer: BaseProducer = client(&addr).set("queue.buffering.max.messages", "100000").create().unwrap();
    for number in 0..RECORDS {
        let value = number.to_string();
        let partition = (number % i64::from(PARTITIONS)) as i32;
        let record = BaseRecord::<(), str>::to(SOURCE).partition(partition).payload(&value);
        writer.send(record).map_err(|(error, _)| error).unwrap();
    }
    writer.flush(DEADLINE).unwrap();

    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let copier = {
        let (addr, stop, done) = (addr.clone(), Arc::clone(&stop), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut incarnations = 1;
            while let Err(error) = copy(&addr, &stop, &done) {
                println!("incarnation {incarnations}: {error}");
                incarnations += 1;
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            incarnations
        })
    };
    for _ in 0..rounds {
        let before = done.load(Ordering::Relaxed);
        eventually("transactions end again", || {
            done.load(Ordering::Relaxed) > before || copier.is_finished()
        });
        assert!(!copier.is_finished(), "there is something left to copy");
        // The moment of death is the point of the test, so it is waited for.
        std::thread::sleep(Duration::from_millis(dice.below(LIFE_MS_MAX)));
        server.kill();
        server = start();
    }
    let source = read(&addr, SOURCE);
    assert_eq!(source.iter().map(Vec::len).sum::<usize>() as i64, RECORDS);
    eventually("all is copied", || copier.is_finished());
    let incarnations = copier.join().unwrap();
    let copied = read(&addr, COPY);
    assert!(copied == source, "each record once and in order");
    server.stop();
    let report = run(&["check", home.path().to_str().unwrap()]).ok();
    assert!(report.contains("everything is whole"), "{report}");
    println!("{rounds} deaths, {incarnations} incarnations, {} transactions", done.load(Ordering::Relaxed));
}
