//! Topics: created, changed and deleted, and still so after the worst moment.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anabranch_broker::config::ConfigOp;
use anabranch_broker::{Apply, Broker, BrokerConfig, BrokerError, NewTopic, Record, TopicError};

use anabranch_core::batch::{BatchBuilder, Compression, check_batch};
use anabranch_core::seam::{Clock, RealDisk, SystemClock};
use anabranch_log::{Absent, Ack, LogConfig, LogStatus, Store, StoreConfig};

use crate::disk::DyingDisk;
use crate::{broker_with, open};

fn names(broker: &Broker) -> Vec<String> {
    broker.topics().iter().filter(|t| !t.is_internal()).map(|t| t.name().to_owned()).collect()
}

#[tokio::test]
async fn everything_about_a_topic_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let new = NewTopic::new("orders").partitions(3).config("retention.ms", "5");
    let broker = broker_with(dir.path(), new).await;
    broker.create_partitions("orders", 5, Apply::Now).await.unwrap();
    let op = ConfigOp::Set("flush.messages".into(), "7".into());
    broker.alter_topic_configs("orders", &[op], Apply::Now).await.unwrap();
    let (before, cluster) = (broker.topic("orders").unwrap(), broker.cluster_id().to_owned());
    broker.close().await;

    let broker = open(dir.path()).await;
    let after = broker.topic("orders").unwrap();
    assert_eq!((after.id(), after.partitions().len()), (before.id(), 5));
    assert_eq!(broker.topics().by_id(before.id()).unwrap().name(), "orders");
    let configs: Vec<_> = after.configs().iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(configs, ["flush.messages=7", "retention.ms=5"]);
    assert_eq!((broker.cluster_id(), cluster.len()), (cluster.as_str(), 22));
}

#[tokio::test]
async fn a_broker_that_is_dropped_keeps_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    for n in 0..10 {
        broker.topic("t").unwrap().append(Record::keyless(format!("{n}"))).await.unwrap();
    }
    drop(broker);
    let broker = crate::soon(async {
        // The writer gives the directory up when it has noticed.
        loop {
            match Broker::open(dir.path()).await {
                Err(BrokerError::Open(_)) => tokio::task::yield_now().await,
                opened => return opened.unwrap(),
            }
        }
    })
    .await;
    assert_eq!(broker.topic("t").unwrap().partitions()[0].offsets().high_watermark.0, 10);
}

#[tokio::test]
async fn a_topic_of_the_same_name_is_another_topic() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    let first = broker.topic("t").unwrap();
    first.append(Record::keyless("old")).await.unwrap();
    broker.delete_topic("t").await.unwrap();
    assert!(matches!(broker.delete_topic("t").await, Err(TopicError::Unknown(_))));
    assert!(first.append(Record::keyless("lost")).await.is_err(), "a deleted topic takes nothing");
    let second = broker.create_topic(NewTopic::new("t"), Apply::Now).await.unwrap();
    assert_ne!(first.id(), second.id());
    assert!(broker.topics().by_id(first.id()).is_none());
    assert_eq!(second.partitions()[0].offsets().log_end.0, 0);
}

#[tokio::test]
async fn what_is_wrong_with_a_new_topic_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("a.b")).await;
    let refusal = async |new: NewTopic| {
        let validated = broker.create_topic(new.clone(), Apply::ValidateOnly).await.unwrap_err();
        let created = broker.create_topic(new, Apply::Now).await.unwrap_err();
        assert_eq!(validated.to_string(), created.to_string(), "validation tells what creation does");
        created
    };
    let new = NewTopic::new;
    assert!(matches!(refusal(new("a/b")).await, TopicError::InvalidName { .. }));
    assert!(matches!(refusal(new("a.b")).await, TopicError::Exists(_)));
    assert!(matches!(refusal(new("a_b")).await, TopicError::Collides { .. }));
    assert!(matches!(refusal(new("__anabranch_catalogue")).await, TopicError::Internal(_)));
    assert!(matches!(refusal(new("__transaction_state")).await, TopicError::Exists(_)));
    assert!(matches!(refusal(new("__consumer_offsets")).await, TopicError::Exists(_)));
    assert!(matches!(refusal(new("t").partitions(0)).await, TopicError::InvalidPartitions(_)));
    assert!(matches!(refusal(new("t").partitions(10_001)).await, TopicError::InvalidPartitions(_)));
    let replicated = |factor| NewTopic { replication_factor: factor, ..new("t") };
    assert!(matches!(refusal(replicated(2)).await, TopicError::InvalidReplicationFactor(2)));
    assert!(matches!(refusal(replicated(0)).await, TopicError::InvalidReplicationFactor(0)));
    assert!(matches!(refusal(new("t").config("nonsense", "1")).await, TopicError::Config(_)));
    let assigned =
        |assignments: &[(i32, Vec<i32>)]| NewTopic { assignments: assignments.to_vec(), ..new("t") };
    let elsewhere = assigned(&[(0, vec![2])]);
    assert!(matches!(refusal(elsewhere).await, TopicError::InvalidAssignment(_)));
    assert!(matches!(refusal(assigned(&[(1, vec![1])])).await, TopicError::InvalidAssignment(_)));
    let both = assigned(&[(0, vec![1])]).partitions(1);
    assert!(matches!(refusal(both).await, TopicError::InvalidRequest(_)));
    assert_eq!(names(&broker), ["a.b"]);

    let here = assigned(&[(1, vec![1]), (0, vec![1])]);
    assert_eq!(broker.create_topic(here.clone(), Apply::ValidateOnly).await.unwrap().partition_count(), 2);
    assert!(broker.topic("t").is_err(), "nothing was created");
    assert_eq!(broker.create_topic(here, Apply::Now).await.unwrap().partitions().len(), 2);
    let shrink = broker.create_partitions("t", 2, Apply::Now).await;
    assert!(matches!(shrink, Err(TopicError::InvalidPartitions(_))));
    assert!(matches!(broker.delete_topic("__consumer_offsets").await, Err(TopicError::Internal(_))));
}

#[tokio::test]
async fn replication_beyond_one_node_can_be_clamped() {
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig::default().with("replication.factor.clamp", "true").unwrap();
    let broker = Broker::builder().data(dir.path()).config(config).open().await.unwrap();
    let new = NewTopic { replication_factor: 3, ..NewTopic::new("t") };
    broker.create_topic(new, Apply::Now).await.unwrap();
}

#[tokio::test]
async fn topics_are_created_when_clients_ask_for_them_if_that_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig::default().with("num.partitions", "4").unwrap();
    let broker = Broker::builder().data(dir.path()).config(config).open().await.unwrap();
    let ask = async |name: &str, allowed| broker.topic_for_produce_or_metadata(name, allowed).await;
    assert!(matches!(ask("t", false).await, Err(TopicError::Unknown(_))));
    assert!(matches!(ask("no/good", true).await, Err(TopicError::InvalidName { .. })));
    let (one, other) = tokio::join!(ask("t", true), ask("t", true));
    assert_eq!(one.unwrap().id(), other.unwrap().id());
    assert_eq!(ask("t", false).await.unwrap().partitions().len(), 4);
    broker.close().await;

    let config = BrokerConfig::default().with("auto.create.topics.enable", "false").unwrap();
    let broker = Broker::builder().data(dir.path()).config(config).open().await.unwrap();
    assert!(matches!(broker.topic_for_produce_or_metadata("u", true).await, Err(TopicError::Unknown(_))));
}

/// Creates and deletes topics on a disk that dies after so many changes, and again after one more, until it survives.
/// Whatever was acknowledged must be there after the restart, and nothing else may be in the way.
#[tokio::test]
async fn a_crash_between_any_two_steps_leaves_no_half_topic() {
    for changes in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let broker = broker_with(dir.path(), NewTopic::new("old").partitions(2)).await;
        broker.topic("old").unwrap().append(Record::keyless("x")).await.unwrap();
        broker.close().await;
        let disk = DyingDisk::after(changes);
        let builder = Broker::builder().data(dir.path()).disk(Arc::new(disk.clone()));
        let (mut created, mut deleted) = (None, None);
        if let Ok(broker) = builder.open().await {
            created = Some(broker.create_topic(NewTopic::new("new").partitions(2), Apply::Now).await.is_ok());
            deleted = Some(broker.delete_topic("old").await.is_ok());
            broker.close().await;
        }
        let broker = open(dir.path()).await;
        let known = |name: &str| broker.topics().get(name).is_some();
        assert!(created != Some(true) || known("new"), "change {changes}: an acknowledged creation is there");
        assert!(deleted != Some(true) || !known("old"), "change {changes}: an acknowledged deletion stays");
        assert!(deleted.is_some() || known("old"), "change {changes}: what nobody deleted is there");
        let on_disk: Vec<String> = directories(&dir.path().join("topics"));
        let expected = ["__anabranch_catalogue", "__consumer_offsets", "__transaction_state"];
        let expected: Vec<String> = expected.map(str::to_owned).into_iter().chain(names(&broker)).collect();
        assert_eq!(on_disk, expected, "change {changes}: no directory is left over");
        // Whatever happened, both names can be used.
        for name in ["old", "new"] {
            let topic = broker.topic_for_produce_or_metadata(name, true).await.unwrap();
            topic.append(Record::keyless("x")).await.unwrap();
        }
        broker.close().await;
        if !disk.is_dead() {
            assert!(changes > 10, "the disk died at {changes} different changes");
            return;
        }
    }
}

fn directories(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Copies a topic's directory under another name, as if the catalogue had lost it.
fn plant_stranger(root: &Path, from: &str, name: &str) {
    let target = root.join("topics").join(name).join("0");
    fs::create_dir_all(&target).unwrap();
    for file in fs::read_dir(root.join("topics").join(from).join("0")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), target.join(file.file_name())).unwrap();
    }
}

#[tokio::test]
async fn records_that_the_catalogue_does_not_know_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("known")).await;
    broker.create_topic(NewTopic::new("empty"), Apply::Now).await.unwrap();
    broker.topic("known").unwrap().append(Record::keyless("x")).await.unwrap();
    broker.groups().commit(crate::groups::simple_commit("stranger", 1)).await.unwrap();
    broker.close().await;
    plant_stranger(dir.path(), "known", "stranger");
    plant_stranger(dir.path(), "empty", "nothing");

    let broker = open(dir.path()).await;
    assert_eq!(names(&broker), ["empty", "known"]);
    let refused = broker.create_topic(NewTopic::new("stranger"), Apply::Now).await;
    assert!(matches!(refused, Err(TopicError::Storage(_))));
    assert!(dir.path().join("topics/stranger/0").exists());
    assert_eq!(
        broker.groups().fetch_all_offsets("g", true).await.len(),
        1,
        "nor what groups have read of them"
    );
    assert!(!dir.path().join("topics/nothing").exists());
    broker.create_topic(NewTopic::new("nothing"), Apply::Now).await.unwrap();
}

/// Flips a byte in the middle of a topic's first segment.
fn damage(root: &Path, topic: &str) -> Vec<u8> {
    let path = root.join("topics").join(topic).join("0/00000000000000000000.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[70] ^= 0x10;
    fs::write(&path, &bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_damaged_catalogue_stops_the_broker_and_is_not_touched() {
    for topic in ["__anabranch_catalogue", "__consumer_offsets"] {
        let dir = tempfile::tempdir().unwrap();
        let broker = broker_with(dir.path(), NewTopic::new("t")).await;
        broker.topic("t").unwrap().append(Record::keyless("x")).await.unwrap();
        let mut consumer = broker.consumer("g", ["t"]).unwrap();
        crate::soon(consumer.next()).await.unwrap();
        consumer.commit().await.unwrap();
        consumer.leave().await.unwrap();
        broker.close().await;
        let damaged = damage(dir.path(), topic);
        for _ in 0..2 {
            match Broker::open(dir.path()).await {
                Err(BrokerError::InternalTopic { topic: named, .. }) => assert_eq!(named, topic),
                other => panic!("{topic}: {other:?}"),
            }
        }
        let path = dir.path().join("topics").join(topic).join("0/00000000000000000000.log");
        assert_eq!(fs::read(path).unwrap(), damaged);
        assert!(dir.path().join("topics/t/0").exists());
    }
}

#[tokio::test]
async fn a_closed_broker_says_so_and_closing_twice_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    let topic = broker.topic("t").unwrap();
    broker.close().await;
    broker.close().await;
    assert!(matches!(broker.create_topic(NewTopic::new("u"), Apply::Now).await, Err(TopicError::Closed)));
    assert!(topic.append(Record::keyless("x")).await.is_err());
    assert!(broker.init_producer_id().await.is_err());
    open(dir.path()).await.close().await;
}

/// Appends a record to the catalogue as somebody else would.
async fn forge_catalogue(root: &Path, key: &'static str, value: &str) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let disk = Arc::new(RealDisk);
    let config = StoreConfig {
        root: root.to_owned(),
        disk,
        clock,
        workers: Arc::new(anabranch_core::seam::Threads),
        random: std::sync::Arc::new(anabranch_core::seam::OsRandom),
        journal_file_bytes: 0,
        queue_appends_max: 8,
        open_files_max: 100,
        producer_expiration_ms: i64::MAX,
    };
    let store = Store::open(config).unwrap();
    let log_config = LogConfig {
        segment_bytes: 1 << 30,
        segment_ms: i64::MAX,
        segment_jitter_ms: 0,
        flush_messages: 1,
        flush_ms: i64::MAX,
        index_interval_bytes: 4096,
        segment_index_bytes: 10 << 20,
        reserve_bytes: 0,
    };
    let log = store.open_partition("__anabranch_catalogue", 0, log_config, Absent::Create).unwrap();
    let mut builder = BatchBuilder::new(Compression::None);
    let bytes = builder.push(&Record::new(key, value.to_owned()).at(1)).build().unwrap();
    log.append(check_batch(&bytes).unwrap(), Ack::Durable).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_catalogue_that_cannot_be_understood_is_refused() {
    let topic = |version: u32, partitions: i32, configs: &str| {
        format!(
            r#"{{"version":{version},"id":"0190163a-0000-7000-8000-000000000001","partitions":{partitions},"configs":{configs},"internal":false}}"#
        )
    };
    let cases = [
        ("topic/x", topic(1, 1, "{}"), "version 1"),
        ("topic/x", topic(0, 0, "{}"), "without partitions"),
        ("topic/x", topic(0, 1, r#"{"segment.ms":"soon"}"#), "segment.ms"),
        ("topic/x", topic(0, 1, r#"{"no.such":"1"}"#), "no.such"),
        ("topic/../../x", topic(0, 1, "{}"), "not allowed"),
        ("topic/x", "garbage".to_owned(), "expected value"),
        ("mystery", "{}".to_owned(), "key is unknown"),
    ];
    for (key, value, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).await.close().await;
        forge_catalogue(dir.path(), key, &value).await;
        let told = Broker::open(dir.path()).await.unwrap_err();
        assert!(matches!(told, BrokerError::InternalRecord { .. }), "{key} {value}: {told}");
        assert!(told.to_string().contains(expected), "{key} {value}: {told}");
    }
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.close().await;
    forge_catalogue(dir.path(), "topic/x", &topic(0, 2, "{}")).await;
    assert_eq!(open(dir.path()).await.topic("x").unwrap().partitions().len(), 2, "a right one is taken");
}

/// A partition's directory was removed. The next start made an empty one in its place, and its consumers began at 0.
#[tokio::test]
async fn a_partition_whose_directory_is_gone_stops_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let topic = broker.create_topic(NewTopic::new("t").partitions(2), Apply::Now).await.unwrap();
    for partition in 0..2 {
        topic.append_batch(partition, vec![Record::keyless("x")], Ack::Durable).await.unwrap();
    }
    broker.close().await;
    fs::remove_dir_all(dir.path().join("topics/t/1")).unwrap();

    let broker = open(dir.path()).await;
    let topic = broker.topic("t").unwrap();
    assert!(matches!(topic.partition(1).unwrap().status(), LogStatus::Stopped(_)));
    assert!(topic.append_batch(1, vec![Record::keyless("y")], Ack::Durable).await.is_err());
    topic.append_batch(0, vec![Record::keyless("y")], Ack::Durable).await.unwrap();
    assert!(!dir.path().join("topics/t/1").exists());
}
