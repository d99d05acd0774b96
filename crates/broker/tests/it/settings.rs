//! Settings, as tools see them.

use anabranch_broker::config::ConfigOp;
use anabranch_broker::{
    Ack, Apply, Broker, BrokerConfig, ConfigSource, NewTopic, ProduceError, Record, TopicError,
};

use crate::broker_with;

#[tokio::test]
async fn a_change_of_settings_holds_at_once_and_a_refused_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    let set = |name: &str, value: &str| ConfigOp::Set(name.into(), value.into());
    let alter = async |ops: &[ConfigOp], mode| broker.alter_topic_configs("t", ops, mode).await;
    let small = [set("max.message.bytes", "100")];

    let old = broker.topic("t").unwrap();
    alter(&small, Apply::ValidateOnly).await.unwrap();
    let record = || Record::keyless("x".repeat(200));
    old.append_with(record(), Ack::Written).await.unwrap();
    let mixed = [set("max.message.bytes", "5"), set("preallocate", "true")];
    assert!(matches!(alter(&mixed, Apply::Now).await, Err(TopicError::Config(_))));
    old.append_with(record(), Ack::Written).await.unwrap();
    alter(&small, Apply::Now).await.unwrap();
    let refused = old.append_with(record(), Ack::Written).await.unwrap_err();
    assert!(matches!(refused, ProduceError::TooLarge { max_bytes: 100, .. }), "older handles obey too");

    let described = broker.describe_topic_configs(&broker.topic("t").unwrap());
    let shown = |name: &str| described.iter().find(|entry| entry.name == name).unwrap();
    assert_eq!(shown("max.message.bytes").source, ConfigSource::Topic);
    assert_eq!(shown("flush.messages").value.as_deref(), Some("1"));
    alter(&[ConfigOp::Delete("max.message.bytes".into())], Apply::Now).await.unwrap();
    old.append(record()).await.unwrap();
    assert!(matches!(
        broker.alter_topic_configs("none", &small, Apply::Now).await,
        Err(TopicError::Unknown(_))
    ));
}

#[tokio::test]
async fn the_offsets_topic_shows_as_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = crate::open(dir.path()).await;
    let topic = broker.topic("__consumer_offsets").unwrap();
    assert!(topic.is_internal());
    let policy =
        broker.describe_topic_configs(&topic).into_iter().find(|entry| entry.name == "cleanup.policy");
    assert_eq!(policy.unwrap().value.as_deref(), Some("compact"));
}

/// `flush.messages` could be set on the groups' topic, and commits were acknowledged without a sync from then on.
#[tokio::test]
async fn commits_are_durable_whatever_is_set_on_their_topic() {
    let dir = tempfile::tempdir().unwrap();
    let relaxed = [ConfigOp::Set("flush.messages".into(), "1000000".into())];
    for round in 0..2 {
        let config = BrokerConfig::default().with("log.journal.file.bytes", "0").unwrap();
        let broker = Broker::builder().data(dir.path()).config(config).open().await.unwrap();
        broker.alter_topic_configs("__consumer_offsets", &relaxed, Apply::Now).await.unwrap();
        // The note of the durable point moves with each sync of the partition.
        let noted = || std::fs::read(dir.path().join("topics/__consumer_offsets/0/durable")).unwrap();
        let before = noted();
        broker.groups().commit(crate::groups::simple_commit("t", round)).await.unwrap();
        assert_ne!(noted(), before, "round {round}");
        broker.close().await;
    }
}
