//! Topics: creation, the registry, settings; and how the engine is opened.

use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{
    AppendOptions, Capability, Engine, EngineError, Ensured, Place, Position, Support, TopicSpec,
};
use anabranch_engine_nats::{NatsEngine, NatsSettings};
use futures::future::join_all;

use crate::append::{all, append, topic};
use crate::nats::{SOON, fresh, nats};

#[tokio::test]
async fn a_topic_is_there_when_it_is_whole() {
    let Some(nats) = nats() else { return };
    let engine = nats.engine().await;
    let spec = TopicSpec::new(fresh("orders"), 3);
    let at = |partition| TopicPartition::new(spec.name.clone(), partition);
    let record = || Record::keyless("v").into();
    let before = engine.append(&at(0), record(), AppendOptions::default()).await;
    assert!(matches!(before, Err(EngineError::NotFound(_))), "{before:?}");

    // Many create it at once, and one of them did.
    let made = join_all((0..4).map(|_| engine.ensure_topic(&spec))).await;
    let made: Vec<_> = made.into_iter().map(Result::unwrap).collect();
    assert_eq!(made.iter().filter(|one| **one == Ensured::Created).count(), 1, "{made:?}");
    assert_eq!(engine.partition_count(&spec.name).await.unwrap(), 3);
    let other = engine.ensure_topic(&TopicSpec { partitions: 4, ..spec.clone() }).await;
    assert!(matches!(other, Err(EngineError::Different { actual: 3, asked: 4, .. })), "{other:?}");

    engine.append(&at(2), record(), AppendOptions::default()).await.unwrap();
    engine.append(&at(0), record(), AppendOptions::default()).await.unwrap();
    for partition in [-1, 3] {
        let at = at(partition);
        let refused = [
            engine.append(&at, record(), AppendOptions::default()).await.err(),
            engine.locate(&at, Place::Earliest).await.err(),
            engine.trim(&at, Position(0)).await.err(),
            engine.reader(&at, Position(0)).await.err(),
        ];
        for error in refused {
            assert!(matches!(&error, Some(EngineError::NotFound(found)) if *found == at), "{error:?}");
        }
    }
    let unknown = engine.partition_count("no such topic").await;
    assert!(matches!(unknown, Err(EngineError::NotFound(_))), "{unknown:?}");
    for (name, value) in [("segment.bytes", "1000"), ("cleanup.policy", "compact,delete")] {
        let refused = engine.ensure_topic(&TopicSpec::new(fresh("t"), 1).config(name, value)).await;
        assert!(matches!(&refused, Err(EngineError::Refused { reason, .. }) if reason.contains(name)));
    }
    engine.close().await;
}

#[tokio::test]
async fn compaction_keeps_the_newest_of_each_key_and_forgets_tombstones() {
    let Some(nats) = nats() else { return };
    let engine = nats.engine().await;
    let to = topic(&engine, &[("cleanup.policy", "compact"), ("delete.retention.ms", "1000")]).await;
    let long = vec![7; 1_000];
    let records = vec![
        Record::new("a", "1"),
        Record::new("", "1"),
        Record::new("a", "2"),
        Record::new(long.clone(), "1"),
        Record::new("b.*.>", "1"),
    ];
    append(&engine, &to, records.clone()).await;
    append(&engine, &to, vec![Record::new(long.clone(), "2")]).await;
    let kept = [(1, &records[1]), (2, &records[2]), (4, &records[4]), (5, &Record::new(long, "2"))];
    let kept = kept.map(|(at, record)| (at, record.clone()));
    assert_eq!(all(&engine, &to, Position(0)).await, kept);

    let keyless = vec![Record::new("c", "1"), Record::keyless("v")];
    let refused = engine.append(&to, keyless.into(), AppendOptions::default()).await;
    assert!(matches!(refused, Err(EngineError::Refused { .. })), "{refused:?}");
    let refused = engine.trim(&to, Position(1)).await;
    assert!(matches!(refused, Err(EngineError::Refused { .. })), "{refused:?}");

    // A reader comes to the end also when it has gone.
    append(&engine, &to, vec![Record::tombstone("a")]).await;
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let read = all(&engine, &to, Position(0)).await;
        match read.last() {
            Some((6, _)) => assert_eq!(read.len(), 4),
            _ => {
                assert_eq!(read, [&kept[..1], &kept[2..]].concat());
                break;
            }
        }
        assert!(tokio::time::Instant::now() < deadline);
    }
    engine.close().await;
}

#[tokio::test]
async fn retention_forgets_by_size_and_age() {
    let Some(nats) = nats() else { return };
    let engine = nats.engine().await;
    let small = topic(&engine, &[("retention.bytes", "10000")]).await;
    let short = topic(&engine, &[("retention.ms", "500")]).await;
    for to in [&small, &short] {
        append(&engine, to, vec![Record::keyless(vec![7; 1_000]); 20]).await;
    }
    let earliest = |at| {
        let engine = &engine;
        async move { engine.locate(at, Place::Earliest).await.unwrap().0 }
    };
    assert!((5..20).contains(&earliest(&small).await));
    tokio::time::timeout(SOON, async { while earliest(&short).await < 20 {} }).await.unwrap();
    engine.close().await;
}

#[tokio::test]
async fn it_is_told_what_the_engine_is() {
    let Some(nats) = nats() else { return };
    let (engine, again) = (nats.engine().await, nats.engine().await);
    let description = engine.description();
    assert_eq!((description.engine, description.nodes), ("nats", nats.nodes()));
    assert_eq!(description, again.description());
    assert!(description.version.starts_with("2."), "{description:?}");
    let unsuitable = NatsEngine::open(nats.own_settings(), &Capability::ALL).await.unwrap_err();
    let EngineError::Unsuitable(unsuitable) = unsuitable else { panic!("{unsuitable:?}") };
    let missing: Vec<_> = unsuitable.missing.iter().map(|missing| missing.capability).collect();
    for capability in Capability::ALL {
        let is_absent = matches!(description.support(capability), Support::Absent { .. });
        assert_eq!(missing.contains(&capability), is_absent, "{capability}");
    }
    let synced = NatsEngine::open(nats.settings("synced=1"), &[Capability::SurvivesPowerLoss]).await.unwrap();
    assert!(synced.transactions().is_none());
    synced.close().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_away() {
    // Nothing can listen on port 0, and none of these needs NATS.
    let mut settings = NatsSettings::new(["127.0.0.1:1"]);
    settings.request_timeout = Duration::from_secs(2);
    let away = NatsEngine::open(settings, &[]).await;
    assert!(matches!(away, Err(EngineError::Away { engine: "nats", .. })), "{away:?}");
}
