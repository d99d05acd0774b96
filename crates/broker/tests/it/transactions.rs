//! Transactions, end to end, and what a stop in the middle leaves.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_broker::group::InTransaction;
use anabranch_broker::transaction::event::{End, How, InitProducer, Join};
use anabranch_broker::transaction::{EndKind, TransactionError, TransactionVersion};
use anabranch_broker::{
    Ack, AppendError, Apply, Batches, Broker, BrokerBuilder, BrokerConfig, FetchLimits, Isolation, NewTopic,
    Partition, ProduceError,
};
use anabranch_core::batch::{BatchBuilder, Compression, Record, split_batches};
use anabranch_core::{Offset, ProducerEpoch, ProducerId, TopicPartition};
use bytes::Bytes;

use crate::disk::DyingDisk;
use crate::full::SmallDisk;
use crate::groups::simple_commit;
use crate::soon;

const ID: &str = "id";

/// Two partitions; transactions that are too old end at once.
async fn start(path: &Path) -> Broker {
    start_with(path, "4194304").await
}

async fn start_with(path: &Path, journal_bytes: &str) -> Broker {
    let broker = builder(path, journal_bytes).open().await.unwrap();
    if broker.topic("t").is_err() {
        broker.create_topic(NewTopic::new("t").partitions(2), Apply::Now).await.unwrap();
    }
    broker
}

fn builder(path: &Path, journal_bytes: &str) -> BrokerBuilder {
    Broker::builder().data(path).config(config(&[("log.journal.file.bytes", journal_bytes)]))
}

pub(crate) fn config(settings: &[(&str, &str)]) -> BrokerConfig {
    let interval = "transaction.abort.timed.out.transaction.cleanup.interval.ms";
    let mut config = BrokerConfig::default().with(interval, "1").unwrap();
    settings.iter().for_each(|(name, value)| config.set(name, value).unwrap());
    config
}

/// The data directory as a kill would leave it.
pub(crate) fn copied(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    copy(from, to.path());
    to
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Who writes, by the rules of version 2.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Producer(ProducerId, ProducerEpoch);

impl Producer {
    async fn begin(broker: &Broker, timeout_ms: i32) -> Result<Self, TransactionError> {
        let init = InitProducer { id: ID.to_owned(), timeout_ms, expected: None };
        loop {
            match broker.transactions().init_producer(init.clone()).await {
                Err(TransactionError::ConcurrentTransactions) => tokio::task::yield_now().await,
                begun => return begun.map(|(id, epoch)| Self(id, epoch)),
            }
        }
    }

    fn join(self, partitions: Vec<TopicPartition>) -> Join {
        let how = How::Add(TransactionVersion::V2);
        Join { id: ID.to_owned(), producer: self.0, epoch: self.1, partitions, how }
    }

    fn batch(self, sequence: i32, value: &str) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.producer(self.0, self.1, sequence).transactional();
        builder.push(&Record::keyless(value.to_owned()).at(1)).build().unwrap()
    }

    /// One record to each of both partitions, and an offset.
    async fn write(self, broker: &Broker, value: &str, offset: i64) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let partitions = vec![at(0), at(1), broker.groups().partition()];
        let membership =
            broker.transactions().join_in_turn(self.join(partitions)).await.map_err(|error| told(&error))?;
        let part = membership.part();
        for number in 0..2 {
            let batch = self.batch(0, value);
            let queued = partition(broker, number).submit_in(batch, Ack::Durable, Some(part)).await;
            queued.map_err(|error| told(&error))?.answer().await.map_err(|error| told(&error))?;
        }
        let transaction = InTransaction { producer: self.0, epoch: self.1, part };
        let committed = broker.groups().commit_in(simple_commit("t", offset), transaction).await;
        committed.map_err(|error| told(&error))?;
        membership.answer().await.map_err(|error| told(&error))?;
        Ok(())
    }

    async fn end(self, broker: &Broker, kind: EndKind) -> Result<Self, TransactionError> {
        let version = TransactionVersion::V2;
        let end = End { id: ID.to_owned(), producer: self.0, epoch: self.1, kind, version };
        loop {
            match broker.transactions().end(&end).await {
                Err(TransactionError::ConcurrentTransactions) => tokio::task::yield_now().await,
                ended => return ended.map(|(id, epoch)| Self(id, epoch)),
            }
        }
    }
}

fn at(number: i32) -> TopicPartition {
    TopicPartition::new("t", number)
}

fn partition(broker: &Broker, number: i32) -> Partition {
    broker.partition(&at(number)).unwrap()
}

/// The values that readers of committed records see.
fn committed(broker: &Broker, number: i32) -> Vec<String> {
    let (mut values, mut next) = (Vec::new(), Offset(0));
    loop {
        let limits = FetchLimits { bytes_max: 1 << 16, first_comes: true, memory_bytes_max: usize::MAX };
        let slice = partition(broker, number).fetch_within(next, limits, Isolation::Committed, None).unwrap();
        let Batches::Read(bytes) = slice.batches else { panic!("it is little") };
        if bytes.is_empty() {
            return values;
        }
        for batch in split_batches(bytes).map(Result::unwrap) {
            let header = batch.header();
            next = header.next_offset();
            let is_aborted = |aborted: &anabranch_broker::Aborted| {
                aborted.producer == header.producer_id && aborted.first <= header.base_offset
            };
            // Each producer has one transaction in what is read here.
            if header.is_control() || slice.aborted.iter().any(is_aborted) {
                continue;
            }
            let texts = batch.records().unwrap().into_iter().map(|at| at.record.value.unwrap());
            values.extend(texts.map(|value| String::from_utf8(value.to_vec()).unwrap()));
        }
    }
}

async fn offset(broker: &Broker, require_stable: bool) -> Option<i64> {
    let mut fetched = broker.groups().fetch_offsets("g", &[("t".to_owned(), 0)], require_stable).await;
    fetched.remove(0).unwrap().map(|committed| committed.offset)
}

/// Everything has ended.
fn is_stable(broker: &Broker) -> bool {
    (0..2).all(|number| {
        let offsets = partition(broker, number).offsets();
        offsets.last_stable == offsets.high_watermark
    })
}

#[tokio::test]
async fn a_transaction_goes_on_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let first = Producer::begin(&broker, 60_000).await.unwrap();
    first.write(&broker, "a", 1).await.unwrap();
    let second = first.end(&broker, EndKind::Commit).await.unwrap();
    assert_eq!((committed(&broker, 0), offset(&broker, true).await), (vec!["a".to_owned()], Some(1)));
    second.write(&broker, "b", 2).await.unwrap();
    for kind in [EndKind::Commit, EndKind::Abort] {
        let killed = copied(dir.path());
        let broker = start(killed.path()).await;
        assert_eq!((committed(&broker, 0), offset(&broker, false).await), (vec!["a".to_owned()], Some(1)));
        assert!(
            !is_stable(&broker)
                && broker.groups().fetch_offsets("g", &[("t".into(), 0)], true).await[0].is_err()
        );
        second.end(&broker, kind).await.unwrap();
        let expected = match kind {
            EndKind::Commit => (vec!["a".to_owned(), "b".to_owned()], Some(2)),
            EndKind::Abort => (vec!["a".to_owned()], Some(1)),
        };
        for _ in 0..2 {
            assert!(is_stable(&broker));
            for number in 0..2 {
                assert_eq!((committed(&broker, number), offset(&broker, true).await), expected);
            }
        }
        broker.close().await;
        let broker = start(killed.path()).await;
        assert_eq!((committed(&broker, 1), offset(&broker, true).await), expected);
    }
}

/// The disk dies after so many changes, and again after one more, until all survives. All of a transaction is there, or
/// nothing; all if its end was acknowledged; and nothing waits for ever.
#[tokio::test]
async fn a_death_at_any_change_leaves_all_of_a_transaction_or_nothing() {
    for journal_bytes in ["4194304", "0"] {
        die_at_any_change(journal_bytes).await;
    }
}

async fn die_at_any_change(journal_bytes: &str) {
    let (mut wholes, mut nothings) = (0, 0);
    for changes in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let broker = start_with(dir.path(), journal_bytes).await;
        let producer = Producer::begin(&broker, 60_000).await.unwrap();
        broker.close().await;
        let disk = DyingDisk::after(changes);
        let mut is_acknowledged = false;
        if let Ok(broker) = builder(dir.path(), journal_bytes).disk(Arc::new(disk.clone())).open().await {
            if producer.write(&broker, "a", 1).await.is_ok() {
                is_acknowledged = producer.end(&broker, EndKind::Commit).await.is_ok();
            }
            broker.close().await;
        }
        let broker = start_with(dir.path(), journal_bytes).await;
        // If it was not decided, the next incarnation aborts it.
        Producer::begin(&broker, 60_000).await.unwrap();
        assert!(is_stable(&broker), "change {changes}");
        let found = (committed(&broker, 0), committed(&broker, 1), offset(&broker, true).await);
        let whole = (vec!["a".to_owned()], vec!["a".to_owned()], Some(1));
        if is_acknowledged {
            assert_eq!(found, whole, "change {changes}: it was acknowledged");
        }
        if found == whole {
            wholes += 1;
        } else {
            assert_eq!(found, (vec![], vec![], None), "change {changes}");
            nothings += 1;
        }
        broker.close().await;
        if !disk.is_dead() {
            assert!(is_acknowledged && wholes > 1 && nothings > 5, "{wholes} and {nothings}");
            return;
        }
    }
}

#[tokio::test]
async fn what_lasts_too_long_is_aborted_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    // On a busy machine writing may take longer than that: then it is done again.
    let producer = loop {
        let producer = Producer::begin(&broker, 1000).await.unwrap();
        if producer.write(&broker, "a", 1).await.is_ok() {
            break producer;
        }
    };
    let killed = copied(dir.path());
    let again = start(killed.path()).await;
    for broker in [&broker, &again] {
        let aborted = async {
            while !is_stable(broker) {
                tokio::task::yield_now().await;
            }
        };
        soon(aborted).await;
        let late = producer.end(broker, EndKind::Commit).await;
        assert_eq!(late, Err(TransactionError::InvalidTxnState));
        assert_eq!((committed(broker, 0), offset(broker, true).await), (vec![], None));
    }
}

#[tokio::test]
async fn an_id_that_nobody_uses_is_forgotten_also_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [
        ("transactional.id.expiration.ms", "1"),
        ("transaction.remove.expired.transaction.cleanup.interval.ms", "1"),
    ];
    let broker = Broker::builder().data(dir.path()).config(config(&settings)).open().await.unwrap();
    broker.create_topic(NewTopic::new("t").partitions(2), Apply::Now).await.unwrap();
    // It may go before it has begun anything.
    let producer = loop {
        let producer = Producer::begin(&broker, 60_000).await.unwrap();
        if producer.write(&broker, "a", 1).await.is_ok() {
            break producer;
        }
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let ended = producer.end(&broker, EndKind::Commit).await.expect("what is ongoing does not expire");
    let forgotten = async {
        while broker.transactions().describe(ID, |_| ()).is_some() {
            tokio::task::yield_now().await;
        }
    };
    soon(forgotten).await;
    assert_eq!(ended.end(&broker, EndKind::Commit).await, Err(TransactionError::InvalidProducerIdMapping));
    let again = start(copied(dir.path()).path()).await;
    assert!(again.transactions().describe(ID, |_| ()).is_none());
    assert_eq!(committed(&again, 0), ["a"]);
}

/// The coordinator's record was lost with the power, and the data were not: a directory has the topic of transactions of
/// before, and no journal that would bring it back.
#[tokio::test]
async fn what_the_coordinator_does_not_know_joins_or_is_aborted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_with(dir.path(), "0").await;
    let nobody = copied(dir.path());
    let producer = Producer::begin(&broker, 60_000).await.unwrap();
    let begun = copied(dir.path());
    producer.write(&broker, "a", 1).await.unwrap();
    let state = |root: &Path| root.join("topics/__transaction_state");
    let killed = |before: &Path| {
        let killed = copied(dir.path());
        fs::remove_dir_all(state(killed.path())).unwrap();
        copy(&state(before), &state(killed.path()));
        killed
    };
    // The producer is known: it may end what it has written.
    let left = killed(begun.path());
    let broker = start_with(left.path(), "0").await;
    assert!(!is_stable(&broker));
    producer.end(&broker, EndKind::Commit).await.unwrap();
    assert_eq!((committed(&broker, 1), offset(&broker, true).await), (vec!["a".to_owned()], Some(1)));
    // Nobody knows it.
    let left = killed(nobody.path());
    let broker = start_with(left.path(), "0").await;
    assert!(is_stable(&broker));
    assert_eq!((committed(&broker, 1), offset(&broker, true).await), (vec![], None));
}

/// A marker that has no room is written when there is some again, in a partition that is full as in one that is not.
#[tokio::test]
async fn an_end_that_is_decided_waits_for_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::of(16 << 20);
    let patient = config(&[("add.partitions.to.txn.retry.backoff.max.ms", "30000")]);
    let broker = Broker::builder().data(dir.path()).config(patient).disk(Arc::new(disk.clone()));
    let broker = broker.open().await.unwrap();
    broker.create_topic(NewTopic::new("t").partitions(2), Apply::Now).await.unwrap();
    let producer = Producer::begin(&broker, 60_000).await.unwrap();
    producer.write(&broker, "a", 1).await.unwrap();
    for bytes in [1_000_000, 10_000, 100, 1] {
        let filling = || crate::batch(&["x".repeat(bytes).as_str()]);
        while partition(&broker, 0).produce(filling(), Ack::Durable).await.is_ok() {}
    }
    let next = producer.end(&broker, EndKind::Commit).await.unwrap();
    assert!(!is_stable(&broker), "there was no room");
    assert_eq!(offset(&broker, true).await, Some(1), "offsets have room of their own");
    let refused = broker.transactions().join(next.join(vec![at(1)])).await;
    assert!(matches!(refused, Err(TransactionError::ConcurrentTransactions)));
    // Records that come wait for it.
    let grow = async { disk.grow(4 << 20) };
    let (joined, ()) =
        soon(async { tokio::join!(broker.transactions().join_in_turn(next.join(vec![at(1)])), grow) }).await;
    joined.unwrap().answer().await.unwrap();
    assert!(is_stable(&broker));
    assert_eq!(committed(&broker, 1), ["a"]);
    let next = next.end(&broker, EndKind::Abort).await.unwrap();
    next.write(&broker, "b", 2).await.unwrap();
}

#[tokio::test]
async fn what_comes_behind_the_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let producer = Producer::begin(&broker, 60_000).await.unwrap();
    let membership = broker.transactions().join(producer.join(vec![at(0)])).await.unwrap();
    let part = membership.part();
    membership.answer().await.unwrap();
    let next = producer.end(&broker, EndKind::Abort).await.unwrap();
    let late = partition(&broker, 0).submit_in(producer.batch(0, "late"), Ack::Durable, Some(part)).await;
    let late = late.unwrap().answer().await;
    assert!(matches!(late, Err(ProduceError::Log(AppendError::InvalidProducerEpoch { .. }))), "{late:?}");
    let late = partition(&broker, 0).submit_in(next.batch(0, "late"), Ack::Durable, Some(part)).await;
    let late = late.unwrap().answer().await;
    assert!(matches!(late, Err(ProduceError::Log(AppendError::NotInTransaction { .. }))), "{late:?}");
    let transaction = InTransaction { producer: next.0, epoch: next.1, part };
    // The group's offsets were not in it: nothing tells there that it has ended.
    let membership = broker.transactions().join(next.join(vec![broker.groups().partition()])).await.unwrap();
    membership.answer().await.unwrap();
    let last = next.end(&broker, EndKind::Commit).await.unwrap();
    let late = broker
        .groups()
        .commit_in(simple_commit("t", 1), InTransaction { epoch: last.1, ..transaction })
        .await;
    assert_eq!(late, Err(anabranch_broker::group::GroupError::InvalidTxnState));
    assert!(is_stable(&broker));
}
