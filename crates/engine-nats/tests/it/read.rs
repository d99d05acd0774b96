//! Readers: waits, gaps, ends, and consumers that are lost.

use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{Engine, EngineError, Fetched, Place, Position, ReadLimits, Reader};
use tokio::time::{Instant, timeout};

use crate::append::{all, append, topic};
use crate::nats::{SOON, nats};

fn numbered(numbers: std::ops::Range<u32>) -> Vec<Record> {
    numbers.map(|number| Record::keyless(number.to_string())).collect()
}

fn limits(bytes_max: usize, wait_ms: u64) -> ReadLimits {
    ReadLimits { bytes_max, wait_max: Duration::from_millis(wait_ms) }
}

fn values(fetched: Fetched) -> Vec<String> {
    let records = fetched.block.into_records(Position(0)).unwrap();
    records.iter().map(|at| String::from_utf8_lossy(at.record.value.as_ref().unwrap()).into_owned()).collect()
}

#[tokio::test]
async fn blocks_are_as_large_as_asked_and_a_large_record_comes_whole() {
    let Some(nats) = nats() else { return };
    let engine = nats.engine().await;
    let to = topic(&engine, &[]).await;
    let large = Record::keyless(vec![b'x'; 500_000]);
    let mut records = numbered(0..100);
    records.insert(50, large);
    append(&engine, &to, records.clone()).await;
    for bytes_max in [1, 2_000, usize::MAX] {
        let mut reader = engine.reader(&to, Position(0)).await.unwrap();
        let (mut read, mut blocks) = (0, 0);
        while read < records.len() {
            let fetched = reader.read(limits(bytes_max, 5_000)).await.unwrap();
            assert_eq!((fetched.latest, fetched.next), (Position(101), reader.position()));
            let block = fetched.block.into_records(Position(0)).unwrap();
            assert!(!block.is_empty());
            let bytes: usize = block.iter().map(|at| at.record.value.as_ref().unwrap().len()).sum();
            assert!(bytes <= bytes_max || block.len() == 1);
            for at in block {
                assert_eq!((Position::from(at.offset), &at.record), (Position(read as u64), &records[read]));
                read += 1;
            }
            blocks += 1;
        }
        match bytes_max {
            1 => assert_eq!(blocks, records.len()),
            usize::MAX => assert!(blocks <= 2, "{blocks}"),
            _ => assert!(blocks > 3 && blocks < 50, "{blocks}"),
        }
    }
    engine.close().await;
}

#[tokio::test]
async fn a_reader_waits_as_long_as_asked_and_wakes() {
    let Some(nats) = nats() else { return };
    let engine = nats.engine().await;
    let to = topic(&engine, &[]).await;
    let mut reader = engine.reader(&to, Position(0)).await.unwrap();
    for wait_ms in [0, 200] {
        let start = Instant::now();
        let fetched = reader.read(limits(1_000, wait_ms)).await.unwrap();
        assert!(fetched.block.is_empty() && start.elapsed() >= Duration::from_millis(wait_ms));
    }
    let waiting = tokio::spawn(async move {
        let fetched = reader.read(limits(1_000, 60_000)).await.unwrap();
        (fetched, reader)
    });
    append(&engine, &to, numbered(0..1)).await;
    let (fetched, mut reader) = timeout(SOON, waiting).await.unwrap().unwrap();
    assert_eq!(values(fetched), ["0"]);

    // What is there is read without waiting, and nothing is lost when a read is given up, whenever that is.
    append(&engine, &to, numbered(1..501)).await;
    let (mut read, mut given_up) = (Vec::new(), 0);
    for micros in (0..).step_by(7) {
        if read.len() == 500 {
            break;
        }
        if micros % 11 == 0 {
            reader.seek(Position(read.len() as u64)); // a new consumer
            reader.seek(Position(read.len() as u64 + 1));
        }
        match timeout(Duration::from_micros(micros), reader.read(limits(500, 0))).await {
            Ok(fetched) => read.extend(values(fetched.unwrap())),
            Err(_) => given_up += 1,
        }
    }
    assert_eq!(read, (1..501).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(given_up > 0);

    let closing = tokio::spawn(async move { reader.read(limits(1_000, 60_000)).await });
    engine.close().await;
    let closed = timeout(SOON, closing).await.unwrap().unwrap();
    assert!(matches!(closed, Err(EngineError::Closed)), "{closed:?}");
    let late = engine.locate(&to, Place::Latest).await;
    assert!(matches!(late, Err(EngineError::Closed)), "{late:?}");
    let late = engine.append(&to, numbered(0..1).into(), Default::default()).await;
    assert!(matches!(late, Err(EngineError::Closed)), "{late:?}");
}

async fn bounds(reader: &mut dyn Reader) -> (u64, u64, u64) {
    match reader.read(limits(1_000, 0)).await {
        Err(EngineError::OutOfRange { position, earliest, latest, .. }) => (position.0, earliest.0, latest.0),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn positions_that_are_not_there_are_told() {
    let Some(nats) = nats() else { return };
    let engine = nats.engine().await;
    let to = topic(&engine, &[]).await;
    append(&engine, &to, numbered(0..10)).await;
    let mut behind = engine.reader(&to, Position(1)).await.unwrap();
    assert_eq!(behind.read(limits(1, 0)).await.unwrap().next, Position(2));
    assert_eq!(engine.trim(&to, Position(5)).await.unwrap(), Position(5));
    assert_eq!(engine.trim(&to, Position(3)).await.unwrap(), Position(5));
    let refused = engine.trim(&to, Position(11)).await;
    assert!(matches!(refused, Err(EngineError::OutOfRange { .. })), "{refused:?}");

    for position in [0, 4, 11, u64::MAX] {
        let mut reader = engine.reader(&to, Position(position)).await.unwrap();
        assert_eq!(bounds(&mut *reader).await, (position, 5, 10));
        assert_eq!(reader.position(), Position(position));
        reader.seek(Position(9));
        assert_eq!(values(reader.read(limits(1_000, 5_000)).await.unwrap()), ["9"]);
    }
    // It may have had a block on its way.
    let told = loop {
        match behind.read(limits(1, 0)).await {
            Ok(fetched) => assert!(fetched.next <= Position(5)),
            Err(error) => break error,
        }
    };
    assert!(matches!(told, EngineError::OutOfRange { .. }), "{told:?}");

    assert_eq!(engine.trim(&to, Position(10)).await.unwrap(), Position(10));
    let mut reader = engine.reader(&to, Position(7)).await.unwrap();
    assert_eq!(bounds(&mut *reader).await, (7, 10, 10));
    let mut reader = engine.reader(&to, Position(10)).await.unwrap();
    assert_eq!(reader.read(limits(1, 0)).await.unwrap().next, Position(10));
    append(&engine, &to, numbered(10..11)).await;
    assert_eq!(values(reader.read(limits(1, 5_000)).await.unwrap()), ["10"]);
    engine.close().await;
}

/// Somebody deletes consumers, and messages in the middle and at the end.
#[tokio::test]
async fn a_lost_consumer_is_made_anew_and_deleted_messages_are_passed() {
    let Some(nats) = nats() else { return };
    let engine = nats.engine().await;
    let to = topic(&engine, &[]).await;
    append(&engine, &to, numbered(0..10)).await;
    let context = async_nats::jetstream::new(nats.client().await);
    let stream = context.get_stream(format!("ab-{}-0", to.topic.replace('.', "="))).await.unwrap();
    for sequence in [4, 9, 10] {
        stream.delete_message(sequence).await.unwrap();
    }
    let mut reader = engine.reader(&to, Position(0)).await.unwrap();
    let mut read = Vec::new();
    while reader.position() < Position(10) {
        let fetched = reader.read(limits(20, 200)).await.unwrap();
        assert!(fetched.latest >= fetched.next && fetched.latest <= Position(10));
        read.extend(values(fetched));
        let mut names = stream.consumer_names();
        use futures::TryStreamExt;
        while let Some(name) = names.try_next().await.unwrap() {
            stream.delete_consumer(&name).await.unwrap();
        }
    }
    assert_eq!(read, ["0", "1", "2", "4", "5", "6", "7"]);
    append(&engine, &to, numbered(10..11)).await;
    assert_eq!(values(reader.read(limits(20, 10_000)).await.unwrap()), ["10"]);
    engine.close().await;
}

/// The server says nothing when a request ends whose bytes come out even with a message. A reader took it for being under way,
/// and waited four seconds for what nobody would send: one block of some 250 did.
#[tokio::test]
async fn a_request_that_comes_out_even_is_over() {
    let Some(nats) = nats() else { return };
    let engine = nats.engine().await;
    let to = topic(&engine, &[]).await;
    // Each by itself, as the messages of a batch differ.
    for _ in 0..9 {
        append(&engine, &to, vec![Record::keyless("of one size")]).await;
    }
    // A message takes some 250 bytes: one of these sizes is that of four.
    for bytes_max in 800..1_600 {
        let began = Instant::now();
        let mut reader = engine.reader(&to, Position(0)).await.unwrap();
        while reader.position() < Position(9) {
            reader.read(limits(bytes_max, 5_000)).await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{bytes_max} bytes took {:?}", began.elapsed());
    }
    engine.close().await;
}

#[tokio::test]
async fn a_time_is_found_by_the_records_own() {
    let Some(nats) = nats() else { return };
    let engine = nats.engine().await;
    let to = topic(&engine, &[]).await;
    let at = |place| {
        let (engine, to) = (&engine, to.clone());
        async move { engine.locate(&to, place).await.unwrap().0 }
    };
    assert_eq!(at(Place::AtTime(0)).await, 0);
    let long = Record::new(vec![7; 70_000], "v").at(40);
    let records =
        vec![Record::keyless("a").at(10), Record::keyless("b").at(30), Record::keyless("c").at(20), long];
    append(&engine, &to, records).await;
    for (ms, expect) in [(i64::MIN, 0), (10, 0), (11, 1), (30, 1), (31, 3), (40, 3), (41, 4)] {
        assert_eq!(at(Place::AtTime(ms)).await, expect, "{ms}");
    }
    engine.trim(&to, Position(2)).await.unwrap();
    assert_eq!(at(Place::AtTime(0)).await, 2);
    assert_eq!((at(Place::Earliest).await, at(Place::Latest).await), (2, 4));
    engine.close().await;
}

#[tokio::test]
async fn a_message_of_another_client_is_a_record() {
    let Some(nats) = nats() else { return };
    let engine = nats.engine().await;
    let to: TopicPartition = topic(&engine, &[]).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("colour", "red");
    let context = async_nats::jetstream::new(nats.client().await);
    let subject = format!("ab.{}.0.r", to.topic.replace('.', "="));
    context.publish_with_headers(subject, headers, "v".into()).await.unwrap().await.unwrap();
    let read = all(&engine, &to, Position(0)).await;
    let mut record = read[0].1.clone();
    assert!(record.timestamp_ms > 1_700_000_000_000);
    record.timestamp_ms = -1;
    assert_eq!(record, Record::keyless("v").header("colour", "red"));
    engine.close().await;
}
