//! Appends: order, atomic batches, ids, expectations, limits.

use std::sync::Arc;

use anabranch_core::TopicPartition;
use anabranch_core::batch::{Header, Record};
use anabranch_core::engine::{
    AppendOptions, Appended, Engine, EngineError, Place, Position, ReadLimits, TopicSpec,
};
use anabranch_engine_nats::NatsEngine;
use bytes::Bytes;
use futures::future::join_all;

use crate::nats::{fresh, nats};

pub(crate) async fn topic(engine: &NatsEngine, configs: &[(&str, &str)]) -> TopicPartition {
    let mut spec = TopicSpec::new(fresh("t"), 1);
    spec.configs = configs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    engine.ensure_topic(&spec).await.unwrap();
    TopicPartition::new(spec.name, 0)
}

pub(crate) async fn append(engine: &NatsEngine, to: &TopicPartition, records: Vec<Record>) -> Appended {
    engine.append(to, records.into(), AppendOptions::default()).await.unwrap()
}

/// All that the partition has from `from` on.
pub(crate) async fn all(engine: &NatsEngine, at: &TopicPartition, from: Position) -> Vec<(u64, Record)> {
    let end = engine.locate(at, Place::Latest).await.unwrap();
    let mut reader = engine.reader(at, from).await.unwrap();
    let mut all = Vec::new();
    while reader.position() < end {
        let from = reader.position();
        let fetched = reader.read(ReadLimits::default()).await.unwrap();
        let records = fetched.block.into_records(from).unwrap();
        all.extend(records.into_iter().map(|at| (Position::from(at.offset).0, at.record)));
    }
    all
}

fn at(first: u64, next: u64, duplicate: bool) -> Appended {
    Appended { first: Position(first), next: Position(next), duplicate }
}

#[tokio::test]
async fn records_come_back_as_they_were() {
    let Some(nats) = nats() else { return };
    let engine = nats.engine().await;
    let to = topic(&engine, &[]).await;
    let binary = Bytes::from((0..=255).collect::<Vec<u8>>());
    let mut full = Record::new("", "").header("b", "1").header("a", "2").header("b", "1").at(i64::MIN);
    full.headers.push(Header { key: binary.clone(), value: None });
    full.headers.push(Header { key: Bytes::new(), value: Some(Bytes::new()) });
    let records = vec![
        Record::keyless("plain"),
        Record { value: None, ..Record::keyless("") },
        full.clone(),
        full.clone().at(i64::MAX),
        Record { key: Some(vec![7; 70_000].into()), value: Some(binary), ..full },
        Record::tombstone("k").at(0),
    ];
    assert_eq!(append(&engine, &to, records.clone()).await, at(0, 6, false));
    assert_eq!(append(&engine, &to, records[..1].to_vec()).await, at(6, 7, false));
    let read = all(&engine, &to, Position(0)).await;
    let expect: Vec<_> = (0..).zip(records.iter().chain(&records[..1]).cloned()).collect();
    assert_eq!(read, expect);
    engine.close().await;
}

#[tokio::test]
async fn appends_that_wait_share_rounds_and_keep_their_order() {
    let Some(nats) = nats() else { return };
    let engine = nats.engine().await;
    let to = topic(&engine, &[]).await;
    let appends = (0..3_000_u32).map(|number| {
        let records = vec![Record::keyless(number.to_string()); number as usize % 3 + 1];
        engine.append(&to, records.into(), AppendOptions::default())
    });
    let appended = join_all(appends).await;
    let mut next = 0;
    for (number, appended) in appended.into_iter().enumerate() {
        let expect = at(next, next + number as u64 % 3 + 1, false);
        assert_eq!(appended.unwrap(), expect);
        next = expect.next.0;
    }
    let read = all(&engine, &to, Position(0)).await;
    let values: Vec<u32> = read
        .iter()
        .map(|(_, record)| std::str::from_utf8(record.value.as_ref().unwrap()).unwrap().parse().unwrap())
        .collect();
    assert_eq!(values.len() as u64, next);
    assert!(values.is_sorted());
    engine.close().await;
}

#[tokio::test]
async fn an_id_stores_once() {
    let Some(nats) = nats() else { return };
    let (engine, other) = (nats.engine().await, nats.engine().await);
    let to = topic(&engine, &[]).await;
    for (count, id) in [(1, "one\r\n: a"), (3, "three")] {
        let how = || AppendOptions { id: Some(id.to_owned()), ..AppendOptions::default() };
        let records = vec![Record::keyless("v"); count];
        let first = engine.append(&to, records.clone().into(), how()).await.unwrap();
        assert!(!first.duplicate);
        let foreign = append(&other, &to, vec![Record::keyless("between")]).await;
        for engine in [&engine, &other] {
            let again = engine.append(&to, records.clone().into(), how()).await.unwrap();
            assert_eq!(again, Appended { duplicate: true, ..first });
            // Known by its id before its expectation is looked at.
            let expected = Some(first.first);
            let how = AppendOptions { expected, ..how() };
            let again = engine.append(&to, records.clone().into(), how).await.unwrap();
            assert_eq!(again, Appended { duplicate: true, ..first });
        }
        assert_eq!(engine.locate(&to, Place::Latest).await.unwrap(), foreign.next);
    }
    engine.close().await;
}

#[tokio::test]
async fn an_expectation_holds_or_nothing_is_stored() {
    let Some(nats) = nats() else { return };
    let engine = Arc::new(nats.engine().await);
    let to = topic(&engine, &[]).await;
    let append = |count: usize, expected: u64| {
        let how = AppendOptions { expected: Some(Position(expected)), ..AppendOptions::default() };
        let (engine, to) = (Arc::clone(&engine), to.clone());
        async move { engine.append(&to, vec![Record::keyless("v"); count].into(), how).await }
    };
    assert_eq!(append(1, 0).await.unwrap(), at(0, 1, false));
    assert_eq!(append(2, 1).await.unwrap(), at(1, 3, false));
    for (count, expected) in [(1, 1), (2, 2), (1, 4), (1, 0)] {
        let refused = append(count, expected).await;
        assert!(
            matches!(&refused, Err(EngineError::NotAtEnd { expected: at, .. }) if at.0 == expected),
            "{refused:?}"
        );
    }
    // Of many who expect the same, one is right.
    let won = join_all((0..8).map(|_| append(2, 3))).await;
    assert_eq!(won.iter().filter(|one| one.is_ok()).count(), 1);
    assert_eq!(engine.locate(&to, Place::Latest).await.unwrap(), Position(5));
    engine.close().await;
}

#[tokio::test]
async fn what_is_too_large_is_not_stored() {
    let Some(nats) = nats() else { return };
    let engine = nats.engine().await;
    let to = topic(&engine, &[]).await;
    let small = topic(&engine, &[("max.message.bytes", "2000")]).await;
    let limits = engine.description().limits;
    let record = |bytes: u64| Record::keyless(vec![7; usize::try_from(bytes).unwrap()]);
    append(&engine, &to, vec![record(limits.record_bytes_max)]).await;
    append(&engine, &small, vec![record(1_000)]).await;

    let keyed = Record::new(vec![7; limits.record_bytes_max as usize - 1], "v");
    append(&engine, &to, vec![keyed]).await;
    let end = engine.locate(&to, Place::Latest).await.unwrap();
    let too_large = [
        (&to, vec![record(1), record(limits.record_bytes_max + 100_000)]),
        (&to, vec![record(limits.record_bytes_max); limits.append_bytes_max as usize / 1_000_000 + 1]),
        (&small, vec![record(10), record(2_000)]),
    ];
    for (to, records) in too_large {
        let refused = engine.append(to, records.into(), AppendOptions::default()).await;
        assert!(matches!(refused, Err(EngineError::TooLarge { .. })), "{refused:?}");
    }
    let too_many = vec![record(1); limits.append_records_max as usize + 1];
    append(&engine, &to, too_many[1..].to_vec()).await;
    let refused = engine.append(&to, too_many.into(), AppendOptions::default()).await;
    assert!(matches!(refused, Err(EngineError::TooLarge { bytes: 1001, max: 1000, .. })), "{refused:?}");
    let none = engine.append(&to, Vec::new().into(), AppendOptions::default()).await;
    assert!(matches!(none, Err(EngineError::Batch(_))), "{none:?}");
    let stored = all(&engine, &to, end).await;
    assert_eq!(stored.len(), limits.append_records_max as usize);
    engine.close().await;
}
