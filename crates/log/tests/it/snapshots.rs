//! What becomes of producers when a snapshot of their state is damaged.
//!
//! A damaged snapshot was always made good by an older one and the batches since. When these were deleted meanwhile, the
//! producers stood where they no longer were: what they sent next was refused as out of order, for good.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::seam::Disk;
use anabranch_log::{
    Absent, Ack, Appended, FaultCause, LogConfig, LogStatus, PartitionLog, ProducerState, Roll,
};

use crate::support::{FailingDisk, config, copied, offset, open, open_on, producer_batch, verify};

fn settings() -> LogConfig {
    LogConfig { segment_bytes: 400, ..config() }
}

async fn append(log: &PartitionLog, sequence: i32) -> Appended {
    log.append(producer_batch(0, sequence, "some value"), Ack::Durable).await.unwrap()
}

/// One producer's batches with the sequences 0 to 29, in several segments; then all but the newest segments go, so that the
/// log starts at `start`.
async fn written(root: &Path, roll: Roll, start: i64) {
    let store = open(root);
    let log = store.open_partition("t", 0, settings(), Absent::Create).unwrap();
    for sequence in 0..30 {
        append(&log, sequence).await;
    }
    let settled = log.settle(roll).await.unwrap();
    log.remove_below(&settled, offset(start)).unwrap();
    store.close().await;
}

/// The snapshots, the newest first.
fn snapshots(root: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(root.join("topics/t/0")).unwrap().map(|entry| entry.unwrap().path());
    let mut snapshots: Vec<PathBuf> =
        names.filter(|path| path.extension().is_some_and(|e| e == "snapshot")).collect();
    snapshots.sort();
    snapshots.reverse();
    snapshots
}

fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[10] ^= 1;
    fs::write(path, bytes).unwrap();
}

async fn stops(disk: Arc<dyn Disk>, root: &Path, file: &Path, is_right: fn(&FaultCause) -> bool) {
    let before: Vec<_> = snapshots(root).into_iter().map(|path| (fs::read(&path).ok(), path)).collect();
    let store = open_on(disk, root);
    let log = store.open_partition("t", 0, settings(), Absent::Damage).unwrap();
    let LogStatus::Stopped(fault) = log.status() else { panic!("it must have stopped") };
    assert!(fault.file == file && is_right(&fault.cause), "{fault}");
    store.close().await;
    let after: Vec<_> = snapshots(root).into_iter().map(|path| (fs::read(&path).ok(), path)).collect();
    assert_eq!(after, before, "left as they are");
}

fn is_lost(cause: &FaultCause) -> bool {
    matches!(cause, FaultCause::ProducersLost { first } if *first == offset(30))
}

#[tokio::test]
async fn a_damaged_snapshot_stops_the_partition_when_what_it_knew_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), Roll::Now, 30).await;
    let [newest, older] = &snapshots(dir.path())[..] else { panic!("two are kept") };
    damage(newest);
    let report = verify(dir.path());
    assert!(
        matches!(&report.faults[..], [fault] if fault.file == *newest && is_lost(&fault.cause)),
        "{report:?}"
    );
    stops(Arc::new(FailingDisk::default()), dir.path(), newest, is_lost).await;
    // Nor does the older one say where the producers are when the newest is gone.
    fs::remove_file(newest).unwrap();
    stops(Arc::new(FailingDisk::default()), dir.path(), older, is_lost).await;
    // As the fault says: without both, the producer is forgotten, and may begin anywhere.
    fs::remove_file(older).unwrap();
    assert!(verify(dir.path()).faults.is_empty());
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Damage).unwrap();
    assert_eq!(append(&log, 30).await.base_offset, offset(30));
    assert!(append(&log, 30).await.duplicate);
    store.close().await;
}

#[tokio::test]
async fn an_only_snapshot_that_is_damaged_stops_the_partition() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), Roll::Now, 30).await;
    let [newest, older] = &snapshots(dir.path())[..] else { panic!("two are kept") };
    fs::remove_file(older).unwrap();
    damage(newest);
    stops(Arc::new(FailingDisk::default()), dir.path(), newest, is_lost).await;
}

/// It was skipped at the next roll, since there was one of that offset: a damaged one stayed the newest.
#[tokio::test]
async fn a_damaged_snapshot_is_made_good_while_the_records_since_are_there() {
    for unreadable in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), Roll::WhenDue, 15).await;
        let newest = snapshots(dir.path())[0].clone();
        let disk = FailingDisk::default();
        match unreadable {
            true => *disk.faults.unreadable.lock() = Some(newest.clone()),
            false => damage(&newest),
        }
        let report = verify(dir.path());
        assert!(report.faults.is_empty(), "{report:?}");
        assert_eq!(report.derived_wrong.is_empty(), unreadable);
        let store = open_on(Arc::new(disk), dir.path());
        let log = store.open_partition("t", 0, settings(), Absent::Damage).unwrap();
        assert!(append(&log, 29).await.duplicate && append(&log, 25).await.duplicate);
        let settled = log.settle(Roll::Now).await.unwrap();
        log.remove_below(&settled, offset(30)).unwrap();
        store.close().await;
        let store = open(dir.path());
        let log = store.open_partition("t", 0, settings(), Absent::Damage).unwrap();
        assert!(append(&log, 29).await.duplicate);
        assert_eq!(append(&log, 30).await.base_offset, offset(30));
        store.close().await;
    }
}

/// What a lost snapshot knew was found out from the batches; then these were deleted, and after a crash nobody knew it any
/// more: the producer was forgotten, and a transaction that it had open.
#[tokio::test]
async fn a_lost_snapshot_is_made_good_before_the_records_since_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), Roll::WhenDue, 0).await;
    snapshots(dir.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
    let log = open(dir.path()).open_partition("t", 0, settings(), Absent::Damage).unwrap();
    let known = log.producers().await.unwrap();
    let settled = log.settle(Roll::WhenDue).await.unwrap();
    let last = log.segments(0).unwrap().last().unwrap().base;
    log.remove_below(&settled, last).unwrap();
    let killed = copied(dir.path());
    let log = open(killed.path()).open_partition("t", 0, settings(), Absent::Damage).unwrap();
    let batches = |states: &[ProducerState]| states[0].batches.clone();
    assert_eq!(batches(&log.producers().await.unwrap()), batches(&known));
    assert!(append(&log, 29).await.duplicate && !append(&log, 30).await.duplicate);
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_stops_the_partition_when_what_it_knows_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), Roll::Now, 30).await;
    let newest = snapshots(dir.path())[0].clone();
    let disk = FailingDisk::default();
    *disk.faults.unreadable.lock() = Some(newest.clone());
    stops(Arc::new(disk), dir.path(), &newest, |cause| matches!(cause, FaultCause::Io { .. })).await;
    // Another time it can be read.
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Damage).unwrap();
    assert!(append(&log, 29).await.duplicate);
    store.close().await;
}

/// Found by `fuzz/targets/damage.rs`: an older snapshot stood under the name of the newest, with a checksum that was right. It
/// was believed, though it knew nothing of the batches between the two: what a producer sent again was taken once more.
#[tokio::test]
async fn an_older_snapshot_is_not_taken_for_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let settings = LogConfig { segment_bytes: 300, ..config() };
    let log = open(dir.path()).open_partition("t", 0, settings, Absent::Create).unwrap();
    for sequence in 0..12 {
        log.append(producer_batch(0, sequence, "value"), Ack::Durable).await.unwrap();
    }
    let before = log.producers().await.unwrap();
    drop(log);
    let [newest, older] = &snapshots(dir.path())[..] else { panic!("two are kept") };
    fs::copy(older, newest).unwrap();
    assert!(verify(dir.path()).derived_wrong.contains(newest), "the check tells");
    let log = open(dir.path()).open_partition("t", 0, settings, Absent::Damage).unwrap();
    assert_eq!(log.producers().await.unwrap(), before);
}
