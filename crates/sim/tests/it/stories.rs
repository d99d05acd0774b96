//! What the simulator found, told one by one.

use std::path::Path;
use std::sync::Arc;

use anabranch_broker::{Apply, Broker, NewTopic, Record};
use anabranch_core::TopicPartition;
use anabranch_core::seam::Disk;
use anabranch_log::Offline;
use anabranch_sim::clock::SimClock;
use anabranch_sim::disk::{Ahead, SimDisk};
use anabranch_sim::random::Chance;
use anabranch_sim::trace::Trace;

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(Chance::new(seed), Arc::new(SimClock::new()), Trace::default())
}

/// A first start that died, or whose sync failed, between making the data directory and making its name durable left it to
/// later starts, which used it and did not sync it: the loss of power took every topic.
#[tokio::test]
async fn a_data_directory_outlives_a_first_start_that_did_not_come_far() {
    for seed in 0..30 {
        let disk = disk(seed);
        let process = disk.begin_life();
        disk.expect(Ahead { directory_sync_fails: Some(seed % 3), ..Ahead::default() });
        let failed = Broker::builder().data("/data").disk(Arc::new(process)).open().await;
        assert!(failed.is_err());
        drop(failed);
        disk.kill();
        let process = disk.begin_life();
        let broker = Broker::builder().data("/data").disk(Arc::new(process)).open().await.unwrap();
        broker.create_topic(NewTopic::new("t"), Apply::Now).await.unwrap();
        disk.kill();
        drop(broker);
        disk.lose_power();
        let process = disk.begin_life();
        let broker = Broker::builder().data("/data").disk(Arc::new(process)).open().await.unwrap();
        broker.topic("t").unwrap();
        broker.close().await;
    }
}

/// A look at a directory whose first start died before there were topics failed.
#[test]
fn a_directory_without_topics_can_be_looked_at() {
    let disk = disk(0);
    let process = disk.begin_life();
    process.create_dir_all(Path::new("/data")).unwrap();
    process.replace(Path::new("/data/format"), b"anabranch data directory, format 1\n").unwrap();
    let offline = Offline::open(Arc::new(process), "/data").unwrap();
    assert_eq!(offline.partitions().unwrap(), []);
}

/// A disk that producers had filled to the last byte stayed full: retention could not write where the log starts from then
/// on, and so removed nothing.
#[tokio::test]
async fn retention_frees_a_disk_that_is_full_to_the_last_byte() {
    let disk = disk(0);
    let process = disk.begin_life();
    let broker = Broker::builder().data("/data").disk(Arc::new(process)).open().await.unwrap();
    let topic = NewTopic::new("t").config("segment.bytes", "2000").config("retention.bytes", "5000");
    broker.create_topic(topic, Apply::Now).await.unwrap();
    let topic = broker.topic("t").unwrap();
    let append = || async { topic.append(Record::new("key", "v".repeat(500))).await };
    // More often than there are files set aside.
    for round in 0..10 {
        for _ in 0..60 {
            append().await.unwrap();
        }
        disk.fill(Some(0));
        let refused = append().await.unwrap_err();
        assert!(refused.to_string().contains("taken back"), "{refused}");
        broker.maintain().await;
        assert!(
            broker.maintained().segments_removed > 10 * (round + 1),
            "{round}: {:?}",
            broker.maintained()
        );
        append().await.unwrap();
        disk.fill(None);
    }
    broker.close().await;
}

/// When the segment that is written to had expired, too, none went: the next one could not be begun.
#[tokio::test]
async fn retention_on_a_full_disk_does_not_wait_for_a_new_segment() {
    let disk = disk(0);
    let process = disk.begin_life();
    let broker = Broker::builder().data("/data").disk(Arc::new(process)).open().await.unwrap();
    broker.create_topic(NewTopic::new("t").config("segment.bytes", "2000"), Apply::Now).await.unwrap();
    let topic = broker.topic("t").unwrap();
    for _ in 0..30 {
        topic.append(Record::new("key", "v".repeat(500)).at(1000)).await.unwrap();
    }
    disk.fill(Some(0));
    broker.maintain().await;
    let removed = broker.maintained().segments_removed;
    assert!(removed > 5, "{removed}");
    let partition = broker.partition(&TopicPartition::new("t", 0)).unwrap();
    assert_eq!(partition.offsets().log_start, partition.offsets().log_end);
    // There is room now for what could not be done.
    broker.maintain().await;
    assert_eq!(broker.maintained().segments_removed, removed + 1);
    broker.close().await;
}
