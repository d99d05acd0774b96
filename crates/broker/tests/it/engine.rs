//! The broker as an engine.

use std::sync::Arc;
use std::time::Duration;

use anabranch_broker::{Apply, Broker, NewTopic, Record, TransactionOptions};
use anabranch_core::TopicPartition;
use anabranch_core::batch::{BatchBuilder, Compression};
use anabranch_core::engine::{
    AppendOptions, Appended, Block, Capability, Durability, Engine, EngineError, Ensured, Fetched,
    GroupPositions, Payload, Place, Position, ReadLimits, TopicSpec,
};

use bytes::Bytes;

use crate::{batch, broker_with, open, soon};

fn at(topic: &str) -> TopicPartition {
    TopicPartition::new(topic, 0)
}

const NO_WAIT: ReadLimits = ReadLimits { bytes_max: 1 << 20, wait_max: Duration::ZERO };
const LONG: ReadLimits = ReadLimits { bytes_max: 1 << 20, wait_max: Duration::from_secs(3600) };

async fn read(
    engine: &dyn Engine,
    topic: &str,
    from: u64,
    limits: ReadLimits,
) -> Result<Fetched, EngineError> {
    engine.reader(&at(topic), Position(from)).await?.read(limits).await
}

fn values(fetched: &Fetched, from: u64) -> Vec<String> {
    let records = fetched.block.clone().into_records(Position(from)).unwrap();
    records.into_iter().map(|at| String::from_utf8(at.record.value.unwrap().to_vec()).unwrap()).collect()
}

async fn engine_with(path: &std::path::Path) -> (Broker, Arc<dyn Engine>) {
    let broker = broker_with(path, NewTopic::new("t")).await;
    (broker.clone(), Arc::new(broker))
}

#[tokio::test]
async fn what_is_appended_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (_, engine) = engine_with(dir.path()).await;
    for (values, durability) in [(&["a", "b"][..], Durability::Written), (&["c"][..], Durability::Durable)] {
        engine.append(&at("t"), batch(values).into(), AppendOptions::new(durability)).await.unwrap();
    }
    let mut reader = engine.reader(&at("t"), Position(1)).await.unwrap();
    let fetched = reader.read(NO_WAIT).await.unwrap();
    assert_eq!((fetched.next, fetched.latest, reader.position()), (Position(3), Position(3), Position(3)));
    assert_eq!(values(&fetched, 1), ["b", "c"]);
    let nothing = reader.read(NO_WAIT).await.unwrap();
    assert!(nothing.block.is_empty() && nothing.next == Position(3));
    reader.seek(Position(0));
    let first = reader.read(ReadLimits { bytes_max: 1, ..NO_WAIT }).await.unwrap();
    assert_eq!(first.next, Position(2), "the first batch comes whole");
}

#[tokio::test]
async fn a_read_waits_for_what_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, engine) = engine_with(dir.path()).await;
    let reading = tokio::spawn(async move { read(&*engine, "t", 0, LONG).await });
    broker.topic("t").unwrap().append(Record::keyless("x")).await.unwrap();
    assert_eq!(soon(reading).await.unwrap().unwrap().next, Position(1));

    let waiting = broker.clone();
    let reading = tokio::spawn(async move { read(&waiting, "t", 1, LONG).await });
    tokio::task::yield_now().await;
    broker.delete_topic("t").await.unwrap();
    assert!(
        matches!(soon(reading).await.unwrap(), Err(EngineError::NotFound(_))),
        "a deleted topic wakes readers"
    );
}

#[tokio::test]
async fn places_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, engine) = engine_with(dir.path()).await;
    for ms in [10, 20, 30] {
        broker.topic("t").unwrap().append(Record::keyless("x").at(ms)).await.unwrap();
    }
    let cases = [
        (Place::Earliest, 0),
        (Place::Latest, 3),
        (Place::AtTime(0), 0),
        (Place::AtTime(11), 1),
        (Place::AtTime(30), 2),
        (Place::AtTime(31), 3),
    ];
    for (place, expected) in cases {
        assert_eq!(engine.locate(&at("t"), place).await.unwrap(), Position(expected), "{place:?}");
    }
}

#[tokio::test]
async fn topics_are_ensured() {
    let dir = tempfile::tempdir().unwrap();
    let (_, engine) = engine_with(dir.path()).await;
    assert_eq!(engine.ensure_topic(&TopicSpec::new("u", 2)).await.unwrap(), Ensured::Created);
    assert_eq!(engine.ensure_topic(&TopicSpec::new("u", 2)).await.unwrap(), Ensured::Existed);
    let different = engine.ensure_topic(&TopicSpec::new("u", 3)).await.unwrap_err();
    assert!(matches!(different, EngineError::Different { actual: 2, asked: 3, .. }));
    // -1 is Kafka's word for the default, and was taken for it.
    for spec in [TopicSpec::new("no/good", 1), TopicSpec::new("v", 0), TopicSpec::new("v", -1)] {
        let refused = engine.ensure_topic(&spec).await.unwrap_err();
        assert!(matches!(refused, EngineError::Refused { .. }), "{spec:?}");
    }
    assert_eq!(engine.partition_count("u").await.unwrap(), 2);
}

#[tokio::test]
async fn failures_say_whose_fault_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, engine) = engine_with(dir.path()).await;
    let missing =
        engine.append(&at("none"), batch(&["a"]).into(), AppendOptions::default()).await.unwrap_err();
    assert!(matches!(missing, EngineError::NotFound(_)));
    let garbage =
        engine.append(&at("t"), Bytes::from("garbage").into(), AppendOptions::default()).await.unwrap_err();
    assert!(matches!(garbage, EngineError::Batch(_)));
    let beyond = read(&*engine, "t", 5, NO_WAIT).await.unwrap_err();
    assert!(matches!(beyond, EngineError::OutOfRange { position: Position(5), latest: Position(0), .. }));
    broker.close().await;
    let closed = engine.append(&at("t"), batch(&["a"]).into(), AppendOptions::default()).await.unwrap_err();
    assert!(matches!(closed, EngineError::Closed));
    assert!(matches!(engine.ensure_topic(&TopicSpec::new("v", 1)).await, Err(EngineError::Closed)));
}

/// Limits were told, and a record that was a few bytes larger was stored.
#[tokio::test]
async fn records_beyond_the_limit_that_is_told_are_too_large() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, engine) = engine_with(dir.path()).await;
    broker.create_topic(NewTopic::new("u").config("max.message.bytes", "2000000"), Apply::Now).await.unwrap();
    let limit = engine.description().limits.record_bytes_max;
    let record = |bytes: u64| Record::new("key", vec![b'x'; bytes as usize - 4]).header("h", "");
    let append = async |topic: &str, records: Vec<Record>| {
        engine.append(&at(topic), records.into(), AppendOptions::default()).await
    };
    append("t", vec![record(limit)]).await.unwrap();
    append("t", vec![record(limit - 100), record(100)]).await.unwrap();
    append("u", vec![record(limit + 1)]).await.unwrap();
    let mut producer = engine.transactions().unwrap().producer("id", Duration::from_secs(60)).await.unwrap();
    for records in [vec![record(limit + 1)], vec![record(limit - 100), record(101)]] {
        let is_told = |error| matches!(error, EngineError::TooLarge { bytes, max, .. } if (bytes, max) == (limit + 1, limit));
        assert!(is_told(append("t", records.clone()).await.unwrap_err()));
        let commit = producer.commit(vec![(at("t"), records.into())], None).await;
        assert!(is_told(commit.unwrap_err()));
    }
    assert_eq!(engine.locate(&at("t"), Place::Latest).await.unwrap(), Position(3));
}

#[tokio::test]
async fn a_damaged_partition_stops_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, _) = engine_with(dir.path()).await;
    let healthy = broker.create_topic(NewTopic::new("u"), Apply::Now).await.unwrap();
    for topic in [&broker.topic("t").unwrap(), &healthy] {
        topic.append(Record::keyless("x")).await.unwrap();
    }
    broker.close().await;
    let path = dir.path().join("topics/t/0/00000000000000000000.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[62] ^= 1;
    std::fs::write(&path, &bytes).unwrap();

    let broker = open(dir.path()).await;
    assert!(soon(read(&broker, "t", 0, LONG)).await.is_err(), "it does not wait in vain");
    assert!(broker.topic("t").unwrap().append(Record::keyless("y")).await.is_err());
    broker.topic("u").unwrap().append(Record::keyless("y")).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn committed_records_are_read_and_nothing_else_of_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, engine) = engine_with(dir.path()).await;
    let topic = broker.topic("t").unwrap();
    let mut producer = broker.transactional("id", TransactionOptions::default()).await.unwrap();
    // Far from the markers' times, they would be in other segments.
    let now_ms = broker.clock().now_ms();
    let append = async |value: &'static str| {
        topic.append(Record::keyless(value).at(now_ms)).await.unwrap();
    };
    append("0").await;
    for (value, commits) in [("1", false), ("2", true), ("3", false)] {
        let mut transaction = producer.begin().await.unwrap();
        transaction.append("t", Record::keyless(value).at(now_ms)).await.unwrap();
        match commits {
            true => transaction.commit().await.unwrap(),
            false => transaction.abort().await.unwrap(),
        }
    }
    append("7").await;
    let mut transaction = producer.begin().await.unwrap();
    transaction.append("t", Record::keyless("8").at(now_ms + 60_000)).await.unwrap();
    append("9").await;
    let shown = async |from: u64| {
        let fetched = read(&*engine, "t", from, NO_WAIT).await.unwrap();
        (values(&fetched, from).join(" "), fetched.next.0, fetched.latest.0)
    };
    // 0, 1 aborted at 2, 2 committed at 4, 3 aborted at 6, 7, and what is open.
    assert_eq!(shown(0).await, ("0 2 7".into(), 8, 8));
    assert_eq!(shown(1).await, ("2 7".into(), 8, 8));
    assert_eq!(shown(5).await, ("7".into(), 8, 8));
    let small = read(&*engine, "t", 5, ReadLimits { bytes_max: 1, ..LONG }).await.unwrap();
    assert_eq!(
        (&small.block, small.next),
        (&Block::Batches(Bytes::new()), Position(6)),
        "it goes on behind what is not shown"
    );
    for place in [Place::Latest, Place::AtTime(now_ms + 60_000)] {
        assert_eq!(engine.locate(&at("t"), place).await.unwrap(), Position(8), "{place:?}");
    }
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { read(&*engine, "t", 8, LONG).await }
    });
    transaction.commit().await.unwrap();
    assert!(soon(waiting).await.unwrap().unwrap().next > Position(8), "an end wakes readers");
    assert_eq!(shown(8).await, ("8 9".into(), 11, 11));
}

#[tokio::test]
async fn batches_and_positions_are_committed_together_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, engine) = engine_with(dir.path()).await;
    broker.create_topic(NewTopic::new("u"), Apply::Now).await.unwrap();
    engine.require(&[Capability::Transactions]).unwrap();
    let minute = Duration::from_secs(60);
    let transactions = engine.transactions().unwrap();
    let mut old = transactions.producer("id", minute).await.unwrap();
    let stands =
        |next| Some(GroupPositions { group: "g".to_owned(), positions: vec![(at("t"), Position(next))] });
    let shown = async |topic| values(&read(&*engine, topic, 0, NO_WAIT).await.unwrap(), 0).join(" ");
    let everything = async || {
        let stands = broker.groups().fetch_offsets("g", &[("t".to_owned(), 0)], true).await.remove(0);
        (shown("t").await, shown("u").await, stands.unwrap().map(|committed| committed.offset))
    };
    let fresh = |value: &str| {
        let mut builder = BatchBuilder::new(Compression::Zstd);
        let batch = builder.push(&Record::new("key", value.to_owned()).at(broker.clock().now_ms())).build();
        Payload::Batch(batch.unwrap())
    };
    let appends =
        |value: &str| vec![(at("t"), fresh(value)), (at("u"), fresh(value)), (at("t"), fresh(value))];
    let appended = old.commit(appends("1"), stands(1)).await.unwrap();
    let places = [(0, 1), (0, 1), (1, 2)];
    let places = places.map(|(first, next)| Appended {
        first: Position(first),
        next: Position(next),
        duplicate: false,
    });
    assert_eq!(appended, places);
    old.commit(Vec::new(), stands(2)).await.unwrap();
    old.commit(Vec::new(), None).await.unwrap();
    assert_eq!(everything().await, ("1 1".into(), "1".into(), Some(2)));

    let mut missing = appends("2");
    missing.push((at("none"), fresh("2")));
    assert!(matches!(old.commit(missing, stands(3)).await, Err(EngineError::NotFound(_))));
    let mut garbage = appends("2");
    garbage.push((at("u"), Bytes::from("garbage").into()));
    assert!(matches!(old.commit(garbage, stands(3)).await, Err(EngineError::Batch(_))));
    let mut new = transactions.producer("id", minute).await.unwrap();
    let fenced = old.commit(appends("2"), stands(3)).await;
    assert!(matches!(fenced, Err(EngineError::ProducerFenced { .. })), "{fenced:?}");
    new.commit(appends("3"), stands(4)).await.unwrap();
    assert_eq!(everything().await, ("1 1 3 3".into(), "1 3".into(), Some(4)));
    let refused = transactions.producer("", minute).await;
    assert!(matches!(refused, Err(EngineError::Refused { .. })), "{refused:?}");
    broker.close().await;
    assert!(matches!(new.commit(appends("4"), None).await, Err(EngineError::Closed)));
}

#[tokio::test]
async fn an_append_may_ask_that_nobody_was_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, engine) = engine_with(dir.path()).await;
    let append = async |expected, durability| {
        let how =
            AppendOptions { expected: Some(Position(expected)), durability, ..AppendOptions::default() };
        engine.append(&at("t"), batch(&["a", "b"]).into(), how).await
    };
    let first = append(0, Durability::Durable).await.unwrap();
    assert_eq!((first.first, first.next), (Position(0), Position(2)));
    for durability in [Durability::Written, Durability::Durable] {
        let late = append(0, durability).await;
        assert!(matches!(late, Err(EngineError::NotAtEnd { expected: Position(0), .. })), "{late:?}");
    }
    // Of ten rivals one wins, and its record is the only one.
    let rivals = (0..10).map(|_| append(2, Durability::Durable));
    let won = futures::future::join_all(rivals).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(won, 1);
    assert_eq!(broker.locate(&at("t"), Place::Latest).await.unwrap(), Position(4));
    // The end of a transaction takes up a position, too.
    let mut producer = engine.transactions().unwrap().producer("id", Duration::from_secs(60)).await.unwrap();
    let committed = producer.commit(vec![(at("t"), batch(&["c"]).into())], None).await.unwrap();
    assert_eq!(committed[0].next, Position(5));
    assert!(append(5, Durability::Durable).await.is_err());
    assert_eq!(append(6, Durability::Durable).await.unwrap().first, Position(6));
}
