//! The broker inside an application.

use anabranch_broker::{Ack, Apply, NewTopic, Place, Record};
use anabranch_core::engine::EngineError;
use futures::StreamExt;

use crate::{broker_with, soon};

#[tokio::test]
async fn equal_keys_go_to_one_partition_and_keyless_records_to_all() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t").partitions(3)).await;
    let topic = broker.topic("t").unwrap();
    let first = topic.append(Record::new("k", "1")).await.unwrap();
    let second = topic.append_with(Record::new("k", "2"), Ack::Written).await.unwrap();
    assert_eq!((first.partition, first.offset.plus(1)), (second.partition, second.offset));
    let mut seen: Vec<i32> = Vec::new();
    for _ in 0..3 {
        seen.push(topic.append(Record::keyless("x")).await.unwrap().partition);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2]);
    let together = vec![Record::keyless("a"), Record::keyless("b")];
    let before = topic.partitions()[1].offsets().log_end;
    let produced = topic.append_batch(1, together, Ack::Durable).await.unwrap();
    assert_eq!(produced.base_offset, before);
    assert!(topic.append_batch(3, vec![Record::keyless("a")], Ack::Durable).await.is_err());
    assert!(topic.append_batch(0, vec![], Ack::Durable).await.is_err());
}

#[tokio::test]
async fn a_tail_brings_what_is_there_and_what_comes() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t").partitions(2)).await;
    let topic = broker.topic("t").unwrap();
    let keyless = |n: i64| Record::keyless(format!("{n}")).at(n);
    for n in 1..=4 {
        topic.append(keyless(n)).await.unwrap();
    }
    let mut tail = broker.tail("t", Place::Earliest).await.unwrap();
    let mut values: Vec<i64> = Vec::new();
    for _ in 0..4 {
        values.push(soon(tail.next()).await.unwrap().unwrap().record.timestamp_ms);
    }
    values.sort_unstable();
    assert_eq!(values, [1, 2, 3, 4]);

    let mut latest = broker.tail("t", Place::Latest).await.unwrap();
    let mut timed = broker.tail("t", Place::AtTime(4)).await.unwrap();
    let reading = tokio::spawn(async move { (soon(tail.next()).await, soon(latest.next()).await) });
    topic.append(keyless(5)).await.unwrap();
    let (tailed, latest) = reading.await.unwrap();
    assert_eq!(tailed.unwrap().unwrap().record.timestamp_ms, 5);
    assert_eq!(latest.unwrap().unwrap().record.timestamp_ms, 5);
    // They lie in different partitions, so either may come first.
    let mut late: Vec<i64> = Vec::new();
    for _ in 0..2 {
        late.push(soon(timed.next()).await.unwrap().unwrap().record.timestamp_ms);
    }
    late.sort_unstable();
    assert_eq!(late, [4, 5]);

    broker.delete_topic("t").await.unwrap();
    let rest: Vec<_> = soon(timed.collect::<Vec<_>>()).await;
    assert!(rest.last().unwrap().is_err(), "a deleted topic ends its tails with an error");
    assert!(broker.tail("t", Place::Earliest).await.is_err());
}

#[tokio::test]
async fn a_closed_broker_ends_its_tails() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    let mut tail = broker.tail("t", Place::Earliest).await.unwrap();
    let reading = tokio::spawn(async move { tail.next().await });
    tokio::task::yield_now().await;
    broker.close().await;
    assert!(matches!(soon(reading).await.unwrap(), Some(Err(EngineError::Closed))));
}

#[test]
fn the_blocking_face_needs_no_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let broker = anabranch_broker::blocking::Broker::open(dir.path()).unwrap();
    broker.create_topic(NewTopic::new("t"), Apply::Now).unwrap();
    for n in 0..3 {
        broker.append("t", Record::keyless(format!("{n}"))).unwrap();
    }
    let read: Vec<_> = broker.tail("t", Place::Earliest).unwrap().take(3).map(Result::unwrap).collect();
    assert_eq!(read[2].record.value.as_deref(), Some(&b"2"[..]));
    let mut consumer = broker.consumer("g", ["t"]).unwrap();
    assert_eq!(consumer.next().unwrap().offset.0, 0);
    consumer.commit().unwrap();
    consumer.leave().unwrap();
    let mut consumer = broker.consumer("g", ["t"]).unwrap();
    assert_eq!(consumer.next().unwrap().offset.0, 1);
    drop(consumer);
    broker.close();
}
