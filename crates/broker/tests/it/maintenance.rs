//! Retention, compaction and DeleteRecords, by the settings of topics and on a clock that the test moves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anabranch_broker::{
    Apply, Before, Broker, BrokerConfig, DeleteRecordsError, FetchError, NewMove, NewTopic, Partition,
    ReadError, Record,
};
use anabranch_core::batch::split_batches;
use anabranch_core::seam::ManualClock;
use anabranch_core::{Offset, TopicPartition};

const HOUR_MS: u32 = 3_600_000;

async fn open(path: &Path, clock: &Arc<ManualClock>) -> Broker {
    let config = BrokerConfig::default().with("log.cleaner.dedupe.buffer.size", "1024").unwrap();
    Broker::builder().data(path).config(config).clock(Arc::clone(clock) as _).open().await.unwrap()
}

async fn create(broker: &Broker, name: &str, configs: &[(&str, &str)]) -> Partition {
    let small =
        NewTopic::new(name).config("segment.bytes", "500").config("segment.ms", "9223372036854775807");
    let new = configs.iter().fold(small, |new, (name, value)| new.config(*name, *value));
    broker.create_topic(new, Apply::Now).await.unwrap().partition(0).unwrap().clone()
}

async fn append(broker: &Broker, topic: &str, key: &str, value: &str) {
    broker.topic(topic).unwrap().append(Record::new(key.to_owned(), value.to_owned())).await.unwrap();
}

/// The records there are.
fn records(partition: &Partition) -> Vec<(i64, String, Option<String>)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (mut all, mut from) = (Vec::new(), partition.offsets().log_start);
    loop {
        let slice = partition.fetch(from, 1 << 20, None).unwrap();
        if slice.batches.is_empty() {
            return all;
        }
        for batch in split_batches(slice.batches) {
            let batch = batch.unwrap();
            from = batch.header().next_offset();
            all.extend(batch.records().unwrap().into_iter().map(|at| {
                (at.offset.0, text(&at.record.key.unwrap()), at.record.value.as_deref().map(text))
            }));
        }
    }
}

#[tokio::test]
async fn segments_go_when_their_time_is_over_and_stay_gone() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000_000));
    let broker = open(dir.path(), &clock).await;
    let timed = create(&broker, "timed", &[("retention.ms", "3600000")]).await;
    let sized = create(&broker, "sized", &[("retention.bytes", "700"), ("retention.ms", "-1")]).await;
    let compacted =
        create(&broker, "compacted", &[("cleanup.policy", "compact"), ("retention.ms", "1")]).await;
    for number in 0..20 {
        for topic in ["timed", "sized", "compacted"] {
            append(&broker, topic, &format!("key {number}"), "x").await;
        }
        clock.advance_ms(HOUR_MS / 10);
    }
    let size = sized.size_bytes();
    broker.maintain().await;
    let start = timed.offsets().log_start.0;
    assert!((6..=9).contains(&start), "the first hour of two is over, in whole segments: {start}");
    assert!(sized.size_bytes() >= 700 && sized.size_bytes() < 1200 && size > 1200, "{size}");
    assert_eq!(compacted.offsets().log_start, Offset(0), "without delete nothing is too old");
    let done = broker.maintained();
    assert!(done.segments_removed >= 2 && done.bytes_reclaimed > 500 && done.failures == 0, "{done:?}");
    // When all of it is over the segment that is written to goes, too, and offsets go on.
    clock.advance_ms(HOUR_MS);
    broker.maintain().await;
    assert_eq!((timed.offsets().log_start, timed.size_bytes()), (Offset(20), 0));
    append(&broker, "timed", "a", "new").await;
    broker.maintain().await;
    assert_eq!(records(&timed), [(20, "a".to_owned(), Some("new".to_owned()))]);
    let before = sized.offsets();
    broker.close().await;
    let broker = open(dir.path(), &clock).await;
    let at = |topic: &str| broker.partition(&TopicPartition::new(topic, 0)).unwrap();
    assert_eq!(at("timed").offsets().log_start, Offset(20));
    assert_eq!(at("sized").offsets(), before);
    assert_eq!(records(&at("timed")).len(), 1);
    broker.close().await;
}

#[tokio::test]
async fn compacted_topics_keep_the_newest_of_each_key_the_brokers_own_too() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000_000));
    let broker = open(dir.path(), &clock).await;
    let table =
        create(&broker, "table", &[("cleanup.policy", "compact"), ("delete.retention.ms", "1000")]).await;
    let lagging = create(
        &broker,
        "lagging",
        &[
            ("cleanup.policy", "compact"),
            ("min.compaction.lag.ms", "3600000"),
            ("min.cleanable.dirty.ratio", "0"),
        ],
    )
    .await;
    for round in 0..5 {
        for key in 0..60 {
            append(&broker, "table", &format!("key {key}"), &format!("round {round}")).await;
            append(&broker, "lagging", &format!("key {}", key % 3), &format!("round {round}")).await;
        }
    }
    let written = records(&lagging).len();
    // 1,024 bytes are 42 keys: it takes several passes, and all are done.
    broker.maintain().await;
    assert!(broker.maintained().compaction_passes > 5);
    let newest: BTreeMap<String, Option<String>> =
        records(&table).into_iter().map(|(_, key, value)| (key, value)).collect();
    assert_eq!(newest.len(), 60);
    assert!(newest.values().all(|value| value.as_deref() == Some("round 4")));
    assert!(records(&table).len() < 80, "what is left twice is in the last segment");
    assert_eq!(records(&lagging).len(), written, "it is too young");
    clock.advance_ms(HOUR_MS + 1);
    broker.maintain().await;
    assert!(records(&lagging).len() < 10);

    // Settings that change again and again are records of the catalogue.
    for round in 0..40 {
        let name = format!("t{}", round % 2);
        create(&broker, &name, &[("retention.ms", "5")]).await;
        broker.delete_topic(&name).await.unwrap();
    }
    let passes = broker.maintained().compaction_passes;
    broker.maintain().await;
    assert_eq!(
        broker.maintained().compaction_passes,
        passes,
        "they are in the last segment, which is not touched"
    );
    broker.close().await;
    let broker = open(dir.path(), &clock).await;
    let names: Vec<String> = broker.topics().iter().map(|topic| topic.name().to_owned()).collect();
    assert_eq!(names, ["__consumer_offsets", "__transaction_state", "lagging", "table"]);
    assert_eq!(broker.maintained().failures, 0);
    broker.close().await;
}

/// Batches that are empty after compaction brought nothing, and whoever followed a topic waited behind them.
#[tokio::test]
async fn who_follows_a_compacted_topic_is_not_held_up_by_empty_batches() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000_000));
    let broker = open(dir.path(), &clock).await;
    create(&broker, "table", &[("cleanup.policy", "compact,delete")]).await;
    for round in 0..50 {
        append(&broker, "table", "key", &format!("round {round}")).await;
    }
    broker.maintain().await;
    append(&broker, "table", "key", "last").await;
    let mut tail = broker.tail("table", anabranch_broker::Place::Earliest).await.unwrap();
    crate::soon(async {
        while tail.next().await.unwrap().unwrap().record.value.as_deref() != Some(b"last".as_slice()) {}
    })
    .await;
    broker.close().await;
}

#[tokio::test]
async fn records_are_deleted_up_to_an_offset_by_kafkas_rules() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000_000));
    let broker = open(dir.path(), &clock).await;
    let partition = create(&broker, "t", &[]).await;
    create(&broker, "both", &[("cleanup.policy", "compact,delete")]).await;
    create(&broker, "table", &[("cleanup.policy", "compact")]).await;
    for number in 0..20 {
        append(&broker, "t", &format!("key {number}"), "x").await;
    }
    let at = |topic: &str| TopicPartition::new(topic, 0);
    let delete = async |topic: &str, before| broker.delete_records(&at(topic), before).await;
    let to = |offset| Before::Offset(Offset(offset));
    assert_eq!(delete("t", to(7)).await.unwrap(), Offset(7));
    assert_eq!(delete("t", to(3)).await.unwrap(), Offset(7), "it does not go back");
    assert_eq!(records(&partition).iter().filter(|record| record.0 >= 7).count(), 13);
    let below = partition.fetch(Offset(6), 100, None);
    assert!(matches!(below, Err(FetchError::Log(ReadError::OutOfRange { .. }))));
    for offset in [-2, 21, i64::MAX] {
        assert!(matches!(
            delete("t", to(offset)).await,
            Err(DeleteRecordsError::OutOfRange { end: Offset(20), .. })
        ));
    }
    assert!(matches!(delete("table", to(0)).await, Err(DeleteRecordsError::Policy(_))));
    assert_eq!(delete("both", Before::HighWatermark).await.unwrap(), Offset(0));
    assert!(matches!(delete("__consumer_offsets", to(0)).await, Err(DeleteRecordsError::Internal(_))));
    assert!(matches!(delete("none", to(0)).await, Err(DeleteRecordsError::Unknown(_))));
    assert_eq!(delete("t", Before::HighWatermark).await.unwrap(), Offset(20));
    broker.close().await;
    let broker = open(dir.path(), &clock).await;
    let offsets = broker.partition(&at("t")).unwrap().offsets();
    assert_eq!((offsets.log_start, offsets.high_watermark), (Offset(20), Offset(20)));
    broker.close().await;
}

/// Deleting a topic, or closing the broker, while a round is under way ends well.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_is_under_way_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000_000));
    let broker = open(dir.path(), &clock).await;
    for name in ["a", "b", "c"] {
        create(&broker, name, &[("cleanup.policy", "compact")]).await;
        for round in 0..40 {
            append(&broker, name, &format!("key {}", round % 4), "x").await;
        }
    }
    let working = broker.clone();
    let rounds = tokio::spawn(async move {
        for _ in 0..20 {
            working.maintain().await;
        }
    });
    for name in ["c", "b"] {
        tokio::task::yield_now().await;
        broker.delete_topic(name).await.unwrap();
        assert!(!dir.path().join("topics").join(name).exists());
    }
    crate::soon(broker.close()).await;
    crate::soon(rounds).await.unwrap();
    assert_eq!(broker.maintained().failures, 0);
    let broker = open(dir.path(), &clock).await;
    let table = broker.partition(&TopicPartition::new("a", 0)).unwrap();
    let newest: BTreeMap<String, i64> = records(&table).into_iter().map(|(at, key, _)| (key, at)).collect();
    assert_eq!(newest.into_values().collect::<Vec<_>>(), [36, 37, 38, 39]);
    broker.close().await;
}

/// What is being copied elsewhere must be there until it is.
#[tokio::test]
async fn nothing_expires_and_nothing_is_compacted_while_a_topic_is_moved() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000_000));
    let broker = open(dir.path(), &clock).await;
    let timed = create(&broker, "timed", &[("retention.ms", "1")]).await;
    let compacted = create(&broker, "compacted", &[("cleanup.policy", "compact")]).await;
    for number in 0..20 {
        for topic in ["timed", "compacted"] {
            append(&broker, topic, "the same", &"x".repeat(100 + number)).await;
        }
    }
    let topics = vec!["timed".to_owned(), "compacted".to_owned()];
    let new = NewMove { id: "m".to_owned(), topics, target: "there".to_owned(), redirect: None };
    broker.begin_move(new).await.unwrap();
    clock.advance_ms(HOUR_MS);
    broker.maintain().await;
    let delete = || broker.delete_records(timed.id(), Before::Offset(Offset(5)));
    assert!(matches!(delete().await, Err(DeleteRecordsError::Moving(_))));
    assert_eq!((records(&timed).len(), records(&compacted).len()), (20, 20));
    broker.forget_move("m").await.unwrap();
    broker.maintain().await;
    assert!(records(&timed).is_empty() && records(&compacted).len() < 20);
    broker.close().await;
}
