//! Against a real cluster: `ANABRANCH_KAFKA=host:port` names it. What every engine has to do is the conformance suite's.

#![allow(clippy::unwrap_used)]

mod doors;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::{Header, Record};
use anabranch_core::engine::{
    AppendOptions, Engine, EngineError, GroupEvent, GroupPositions, Place, Position, ReadLimits, Reader,
    TopicSpec,
};
use anabranch_engine_kafka::{KafkaEngine, KafkaSettings};
use bytes::Bytes;

/// Makes names that no other test and no other run has.
fn fresh(name: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    format!("{name}-{since}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// The cluster, if there is one.
async fn cluster() -> Option<KafkaEngine> {
    let Ok(addr) = std::env::var("ANABRANCH_KAFKA") else {
        eprintln!("skipped: ANABRANCH_KAFKA names no cluster");
        return None;
    };
    Some(KafkaEngine::open(KafkaSettings::new(addr), &[]).await.unwrap())
}

async fn topic(engine: &KafkaEngine, partitions: i32) -> TopicPartition {
    let spec = TopicSpec::new(fresh("t"), partitions);
    engine.ensure_topic(&spec).await.unwrap();
    TopicPartition::new(spec.name, 0)
}

async fn read_to(reader: &mut dyn Reader, end: Position) -> Vec<Record> {
    let mut all = Vec::new();
    while reader.position() < end {
        let from = reader.position();
        let fetched = reader.read(ReadLimits::default()).await.unwrap();
        all.extend(fetched.block.into_records(from).unwrap().into_iter().map(|at| at.record));
    }
    all
}

/// The end of the partition, once it is there.
async fn latest(engine: &KafkaEngine, at: &TopicPartition, expected: Position) -> Position {
    while engine.locate(at, Place::Latest).await.unwrap() < expected {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    expected
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_back_as_they_went() {
    let Some(engine) = cluster().await else { return };
    println!("{:#?}", engine.description());
    let at = topic(&engine, 1).await;
    let odd = Record {
        key: Some(Bytes::new()),
        value: None,
        headers: vec![
            Header { key: "a".into(), value: Some(Bytes::from_static(&[0, 255, 10, 13])) },
            Header { key: "b".into(), value: None },
            Header { key: "a".into(), value: Some(Bytes::new()) },
        ],
        timestamp_ms: 1_700_000_000_000,
    };
    let records =
        vec![odd, Record::keyless("").at(5), Record::new("k", vec![7; 100_000]).at(1_600_000_000_000)];
    let appended = engine.append(&at, records.clone().into(), AppendOptions::default()).await.unwrap();
    assert_eq!((appended.first, appended.next), (Position(0), Position(3)));
    let mut reader = engine.reader(&at, Position(0)).await.unwrap();
    assert_eq!(read_to(&mut *reader, Position(3)).await, records);
    reader.seek(Position(2));
    assert_eq!(read_to(&mut *reader, Position(3)).await, records[2..]);
    let nothing =
        reader.read(ReadLimits { wait_max: Duration::from_millis(50), ..Default::default() }).await.unwrap();
    assert!(nothing.block.is_empty() && nothing.next == Position(3) && nothing.latest == Position(3));
    let found = engine.locate(&at, Place::AtTime(6)).await.unwrap();
    assert_eq!((found, engine.locate(&at, Place::Latest).await.unwrap()), (Position(0), Position(3)));
    engine.close().await;
    assert!(matches!(reader.read(ReadLimits::default()).await, Err(EngineError::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_comes_behind_what_is_not_shown() {
    let Some(engine) = cluster().await else { return };
    let (at, other) = (topic(&engine, 1).await, topic(&engine, 1).await);
    let transactions = engine.transactions().unwrap();
    let id = fresh("id");
    let mut producer = transactions.producer(&id, Duration::from_secs(30)).await.unwrap();
    let group = fresh("g");
    let stands = GroupPositions { group: group.clone(), positions: vec![(other.clone(), Position(9))] };
    let both = vec![(at.clone(), Record::keyless("1").into()), (other.clone(), Record::keyless("2").into())];
    let appended = producer.commit(both, Some(stands)).await.unwrap();
    assert_eq!(appended.iter().map(|it| it.first).collect::<Vec<_>>(), [Position(0); 2]);
    // The record and its marker, which comes a moment later.
    let latest = latest(&engine, &at, Position(2)).await;
    let mut reader = engine.reader(&at, Position(0)).await.unwrap();
    assert_eq!(read_to(&mut *reader, latest).await.len(), 1);
    assert_eq!(reader.position(), latest);

    let mut newer = transactions.producer(&id, Duration::from_secs(30)).await.unwrap();
    let fenced = producer.commit(vec![(at.clone(), Record::keyless("3").into())], None).await;
    assert!(matches!(fenced, Err(EngineError::ProducerFenced { .. })), "{fenced:?}");
    newer.commit(vec![(at.clone(), Record::keyless("4").into())], None).await.unwrap();
    let latest = self::latest(&engine, &at, Position(4)).await;
    let values: Vec<_> =
        read_to(&mut *reader, latest).await.into_iter().filter_map(|record| record.value).collect();
    assert_eq!(values, ["4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told() {
    let Some(engine) = cluster().await else { return };
    let at = topic(&engine, 1).await;
    let none = TopicPartition::new(fresh("none"), 0);
    let append = async |at: &TopicPartition, record: Record| {
        engine.append(at, record.into(), AppendOptions::default()).await
    };
    assert!(matches!(append(&none, Record::keyless("x")).await, Err(EngineError::NotFound(_))));
    assert!(matches!(
        append(&TopicPartition::new(&at.topic, 1), Record::keyless("x")).await,
        Err(EngineError::NotFound(_))
    ));
    let max = engine.description().limits.record_bytes_max as usize;
    append(&at, Record::keyless(vec![1; max])).await.unwrap();
    assert!(matches!(
        append(&at, Record::keyless(vec![1; max + 1])).await,
        Err(EngineError::TooLarge { .. })
    ));
    assert!(matches!(append(&at, Record::keyless("x").at(0)).await, Err(EngineError::Refused { .. })));
    let mut reader = engine.reader(&at, Position(5)).await.unwrap();
    let beyond = reader.read(ReadLimits::default()).await;
    assert!(matches!(beyond, Err(EngineError::OutOfRange { latest: Position(1), .. })), "{beyond:?}");
    append(&at, Record::keyless("x")).await.unwrap();
    assert_eq!(engine.trim(&at, Position(1)).await.unwrap(), Position(1));
    reader.seek(Position(0));
    let gone = reader.read(ReadLimits::default()).await;
    assert!(matches!(gone, Err(EngineError::OutOfRange { earliest: Position(1), .. })), "{gone:?}");
    let nowhere = KafkaSettings::new("127.0.0.1:1").request_timeout(Duration::from_secs(2));
    let away = KafkaEngine::open(nowhere, &[]).await;
    assert!(matches!(away, Err(EngineError::Away { .. })), "{away:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_and_take_over() {
    let Some(engine) = cluster().await else { return };
    let at = topic(&engine, 4).await;
    let group = fresh("g");
    let join = async || engine.join(&group, std::slice::from_ref(&at.topic)).await.unwrap();
    let mut first = join().await;
    let GroupEvent::Assigned(all) = first.next_event().await.unwrap() else { panic!("it is alone") };
    assert_eq!(all.len(), 4);
    first.commit(&[(at.clone(), Position(3))]).await.unwrap();
    let mut second = join().await;
    let (one, two) = tokio::join!(
        async {
            let GroupEvent::Revoked(gone) = first.next_event().await.unwrap() else {
                panic!("another joins")
            };
            assert_eq!(gone.len(), 4);
            first.commit(&[(at.clone(), Position(4))]).await.unwrap();
            first.next_event().await.unwrap()
        },
        second.next_event()
    );
    let (GroupEvent::Assigned(one), GroupEvent::Assigned(two)) = (one, two.unwrap()) else {
        panic!("they share")
    };
    assert_eq!((one.len(), two.len()), (2, 2));
    let zero = one.iter().chain(&two).find(|(of, _)| *of == at).unwrap();
    assert_eq!(zero.1, Some(Position(4)));
    let foreign = first.commit(&[(two[0].0.clone(), Position(1))]).await;
    assert!(matches!(foreign, Err(EngineError::Fenced { .. })), "{foreign:?}");
    second.leave().await.unwrap();
    assert!(matches!(first.next_event().await.unwrap(), GroupEvent::Revoked(_)));
    let GroupEvent::Assigned(all) = first.next_event().await.unwrap() else { panic!("it is alone again") };
    assert_eq!(all.len(), 4);
}
