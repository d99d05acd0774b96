//! What a move does when nothing happens to it.

use std::sync::Arc;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{AppendOptions, Engine, Payload, Position, TopicSpec};
use anabranch_move::MoveError;

use crate::stage::{Side, TOPICS, a_move, judge, source};

#[tokio::test(flavor = "multi_thread")]
async fn topics_groups_and_settings_are_there_and_the_report_tells_what_was_compared() {
    let (source, target) = (source().await, Side::new().await);
    let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    let report = a_move(engines.0.clone(), engines.1.clone()).notes(target.notes()).run().await.unwrap();
    judge(&*engines.0, &*engines.1, "at the end").await;

    assert_eq!(report.topics.len(), TOPICS.len());
    let orders = report.topics.iter().find(|topic| topic.name == "orders").unwrap();
    let first = &orders.partitions[0];
    assert_eq!(first.records, 6 + 9 + 4);
    assert_eq!(first.source_checksum, first.target_checksum);
    assert_ne!(first.source_checksum, orders.partitions[1].source_checksum);
    assert_eq!(first.source.0, Position(3));
    assert!(!orders.was_there && orders.settings_left.is_empty());
    let groups: Vec<_> = report.groups.iter().map(|group| &*group.name).collect();
    assert_eq!(groups, ["audit", "begun", "shipping"]);

    // Decided is decided: once more, it only sees to the settings.
    let again = a_move(engines.0.clone(), engines.1.clone()).notes(target.notes()).run().await.unwrap();
    assert!(again.was_decided);
    judge(&*engines.0, &*engines.1, "after a second run").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_named_is_moved() {
    let (source, target) = (source().await, Side::new().await);
    let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    let plan = a_move(engines.0.clone(), engines.1.clone()).dry_run(true).run().await.unwrap();
    assert_eq!(plan.topics.len(), TOPICS.len());
    assert!(target.broker.topic("bills").is_err(), "a dry run does nothing");
    let some = a_move(engines.0.clone(), engines.1.clone()).topics(["bills"]).groups(["audit"]);
    let report = some.run().await.unwrap();
    assert_eq!((report.topics.len(), report.groups.len()), (1, 1));
    assert!(target.broker.topic("orders").is_err());
    let unknown = a_move(engines.0.clone(), engines.1.clone()).topics(["bils"]).run().await;
    assert!(matches!(unknown, Err(MoveError::Unknown { what: "topic", .. })));
    let unknown = a_move(engines.0.clone(), engines.1.clone()).groups(["adit"]).run().await;
    assert!(matches!(unknown, Err(MoveError::Unknown { what: "group", .. })));
}

/// A target topic that holds something else is left alone, and told.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_written_to_the_target_is_found() {
    let (source, target) = (source().await, Side::new().await);
    let bills = TopicPartition::new("bills", 0);
    let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    target.broker.ensure_topic(&TopicSpec::new("bills", 1)).await.unwrap();
    let other = Payload::from(Record::new("other", "record"));
    Engine::append(&target.broker, &bills, other.clone(), AppendOptions::default()).await.unwrap();
    let moved = a_move(engines.0.clone(), engines.1.clone()).run().await;
    assert!(matches!(moved, Err(MoveError::Diverged { at, .. }) if at == bills));

    // Behind all that was copied.
    let target = Side::new().await;
    let engines = (engines.0, Arc::new(target.broker.clone()));
    a_move(engines.0.clone(), engines.1.clone()).run().await.unwrap();
    Engine::append(&target.broker, &bills, other, AppendOptions::default()).await.unwrap();
    let moved = a_move(engines.0.clone(), engines.1.clone()).run().await;
    assert!(matches!(moved, Err(MoveError::Surplus { at, .. }) if at == bills));

    let target = Side::new().await;
    target.broker.ensure_topic(&TopicSpec::new("bills", 2)).await.unwrap();
    let moved = a_move(engines.0.clone(), Arc::new(target.broker.clone())).run().await;
    assert!(matches!(moved, Err(MoveError::Target(_))));
}
