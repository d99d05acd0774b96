//! What the simulator found, told one by one.

use std::path::Path;
use std::sync::Arc;

use anabranch_broker::{Apply, Broker, NewTopic};
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
