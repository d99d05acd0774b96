//! A disk that fails: promises are kept, or not made.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anabranch_log::{
    Absent, Ack, AppendError, FaultCause, LogConfig, LogStatus, PartitionLog, Pending, ReadError,
};

use crate::support::{FailingDisk, batch, config, expected, offset, open, open_on, producer_batch, values};

/// Lets the writer wait for a sync of an empty partition, so that what is submitted meanwhile is one group.
async fn hold_writer(disk: &FailingDisk, other: &PartitionLog) -> Pending {
    disk.faults.hold_syncs();
    let held = other.submit(batch(0..1), Ack::Durable).await.unwrap();
    while other.offsets().log_end == offset(0) {
        tokio::task::yield_now().await;
    }
    held
}

#[tokio::test]
async fn nothing_is_seen_or_acknowledged_as_durable_before_the_sync() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let log =
        open_on(Arc::new(disk.clone()), dir.path()).open_partition("t", 0, config(), Absent::Create).unwrap();
    disk.faults.hold_syncs();
    let written = log.append(batch(0..2), Ack::Written).await.unwrap();
    assert_eq!(written.last_offset, offset(1));
    assert_eq!((log.offsets().log_end, log.offsets().high_watermark), (offset(2), offset(0)));
    assert!(log.read(offset(0), 1000).unwrap().batches.is_empty());
    let durable = log.submit(batch(2..3), Ack::Durable).await.unwrap();
    let mut durable = Box::pin(durable.answer());
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut durable).await.is_err());
    disk.faults.release_syncs();
    assert_eq!(durable.await.unwrap().base_offset, offset(2));
    assert_eq!(log.offsets().high_watermark, offset(3));
}

#[tokio::test]
async fn a_full_disk_refuses_appends_and_takes_them_again_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
    log.append(producer_batch(0, 0, "value 0"), Ack::Durable).await.unwrap();
    disk.faults.writes_fail.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let refused = log.append(producer_batch(0, 1, "value 1"), Ack::Durable).await;
        assert!(matches!(refused, Err(AppendError::WriteFailed(_))), "{refused:?}");
    }
    assert_eq!(values(&log), expected(0..1));
    disk.faults.writes_fail.store(false, Ordering::SeqCst);
    // The producer's retry is the next in sequence: what was refused left no trace.
    assert!(!log.append(producer_batch(0, 1, "value 1"), Ack::Durable).await.unwrap().duplicate);
    assert_eq!(values(&log), expected(0..2));
    store.close().await;
    assert_eq!(
        values(&open(dir.path()).open_partition("t", 0, config(), Absent::Create).unwrap()),
        expected(0..2)
    );
}

/// A topic created while the disk was full was there, and its partitions stopped until the next restart, for the want of
/// 28 bytes that tell nothing but how far recovery may trust.
#[tokio::test]
async fn a_partition_opens_on_a_full_disk_and_takes_appends_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    disk.faults.writes_fail.store(true, Ordering::SeqCst);
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
    assert!(matches!(log.status(), LogStatus::Online), "{:?}", log.status());
    let refused = log.append(batch(0..1), Ack::Durable).await;
    assert!(matches!(refused, Err(AppendError::WriteFailed(_))), "{refused:?}");
    disk.faults.writes_fail.store(false, Ordering::SeqCst);
    log.append(batch(0..1), Ack::Durable).await.unwrap();
    store.close().await;
    assert_eq!(
        values(&open(dir.path()).open_partition("t", 0, config(), Absent::Create).unwrap()),
        expected(0..1)
    );
}

#[tokio::test]
async fn a_disk_too_full_for_a_new_segment_refuses_and_goes_on_later() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let log =
        store.open_partition("t", 0, LogConfig { segment_bytes: 100, ..config() }, Absent::Create).unwrap();
    log.append(batch(0..1), Ack::Durable).await.unwrap();
    disk.faults.creates_fail.store(true, Ordering::SeqCst);
    let refused = log.append(batch(1..2), Ack::Durable).await;
    assert!(matches!(refused, Err(AppendError::WriteFailed(_))), "{refused:?}");
    disk.faults.creates_fail.store(false, Ordering::SeqCst);
    log.append(batch(1..2), Ack::Durable).await.unwrap();
    assert_eq!(values(&log), expected(0..2));
}

#[tokio::test]
async fn after_a_failed_sync_the_partition_stops_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
    let other = store.open_partition("t", 1, config(), Absent::Create).unwrap();
    log.append(batch(0..1), Ack::Durable).await.unwrap();
    disk.faults.syncs_fail.store(true, Ordering::SeqCst);
    let refused = log.append(batch(1..2), Ack::Durable).await;
    assert!(matches!(refused, Err(AppendError::Stopped(_))), "{refused:?}");
    disk.faults.syncs_fail.store(false, Ordering::SeqCst);
    // The next sync would "succeed", as Linux has it, without the bytes being there.
    assert!(matches!(log.append(batch(1..2), Ack::Durable).await, Err(AppendError::Stopped(_))));
    assert!(matches!(log.read(offset(0), 10), Err(ReadError::Fault(_))));
    let LogStatus::Stopped(fault) = log.status() else { panic!("it must have stopped") };
    assert!(matches!(fault.cause, FaultCause::SyncFailed(_)));
    assert!(fault.file.ends_with("t/0/00000000000000000000.log"));
    other.append(batch(0..1), Ack::Durable).await.unwrap();
    store.close().await;
    let store = open(dir.path());
    let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
    assert_eq!(values(&log)[..1], expected(0..1));
    log.append(batch(9..10), Ack::Durable).await.unwrap();
}

/// After a failed sync, a partition that had grown by a checkpoint saved its producers as if the sync had succeeded. After
/// the loss of power that snapshot bore witness to records that were never durable, and the partition stayed stopped.
#[tokio::test]
async fn a_failed_sync_leaves_no_witness_of_what_was_never_durable() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let log = store
        .open_partition("t", 0, LogConfig { segment_bytes: 1 << 26, ..config() }, Absent::Create)
        .unwrap();
    log.append(producer_batch(0, 0, "value 0"), Ack::Durable).await.unwrap();
    let durable_bytes = log.size_bytes();
    disk.faults.syncs_fail.store(true, Ordering::SeqCst);
    let refused = log.append(producer_batch(0, 1, &"x".repeat(17 << 20)), Ack::Durable).await;
    assert!(matches!(refused, Err(AppendError::Stopped(_))), "{refused:?}");
    store.close().await;
    let file = dir.path().join("topics/t/0/00000000000000000000.log");
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(durable_bytes).unwrap();
    let log = open(dir.path()).open_partition("t", 0, config(), Absent::Create).unwrap();
    assert!(matches!(log.status(), LogStatus::Online), "{:?}", log.status());
    assert_eq!(values(&log), expected(0..1));
}

/// A new segment that was begun and could not be finished remained in the directory, while batches that still fitted went
/// on into the old one. After a restart the readers of their offsets looked into the new one, and skipped them.
#[tokio::test]
async fn nothing_goes_into_a_segment_after_its_successor_was_begun() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let log =
        store.open_partition("t", 0, LogConfig { segment_bytes: 100, ..config() }, Absent::Create).unwrap();
    log.append(batch(0..1), Ack::Durable).await.unwrap();
    disk.faults.creates_fail.store(true, Ordering::SeqCst);
    let refused = log.append(batch(1..2), Ack::Durable).await;
    assert!(matches!(refused, Err(AppendError::WriteFailed(_))), "{refused:?}");
    disk.faults.creates_fail.store(false, Ordering::SeqCst);
    log.set_config(config());
    log.append(batch(1..2), Ack::Durable).await.unwrap();
    store.close().await;
    assert_eq!(
        values(&open(dir.path()).open_partition("t", 0, config(), Absent::Create).unwrap()),
        expected(0..2)
    );
}

/// A failed sync of the directory was retried like a full disk, and the retry believed: the new segment's name, and with
/// it every record acknowledged in it, might not have been on the disk.
#[tokio::test]
async fn a_failed_sync_of_the_directory_stops_the_partition() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let log =
        store.open_partition("t", 0, LogConfig { segment_bytes: 100, ..config() }, Absent::Create).unwrap();
    log.append(batch(0..1), Ack::Durable).await.unwrap();
    // What comes before the new segment is done when this has failed, so that the next failure is that of its name.
    disk.faults.creates_fail.store(true, Ordering::SeqCst);
    let refused = log.append(batch(1..2), Ack::Durable).await;
    assert!(matches!(refused, Err(AppendError::WriteFailed(_))), "{refused:?}");
    disk.faults.creates_fail.store(false, Ordering::SeqCst);
    disk.faults.dir_syncs_fail.store(true, Ordering::SeqCst);
    let refused = log.append(batch(1..2), Ack::Durable).await;
    assert!(matches!(refused, Err(AppendError::Stopped(_))), "{refused:?}");
}

/// A write that failed while a new segment was being begun took its batches back, but not the judgement of the batch that
/// came after them: it was stored, and its producer's sequence had a hole for ever.
#[tokio::test]
async fn a_batch_is_refused_with_those_that_it_follows() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let log =
        store.open_partition("t", 0, LogConfig { segment_bytes: 100, ..config() }, Absent::Create).unwrap();
    let other = store.open_partition("t", 1, config(), Absent::Create).unwrap();
    let held = hold_writer(&disk, &other).await;
    let first = log.submit(producer_batch(0, 0, "value 0"), Ack::Durable).await.unwrap();
    let second = log.submit(producer_batch(0, 1, "value 1"), Ack::Durable).await.unwrap();
    disk.faults.next_write_fails.store(true, Ordering::SeqCst);
    disk.faults.release_syncs();
    held.answer().await.unwrap();
    for refused in [first.answer().await, second.answer().await] {
        assert!(matches!(refused, Err(AppendError::WriteFailed(_))), "{refused:?}");
    }
    for sequence in 0..2 {
        let value = format!("value {sequence}");
        assert!(!log.append(producer_batch(0, sequence, &value), Ack::Durable).await.unwrap().duplicate);
    }
    assert_eq!(values(&log), expected(0..2));
}

/// Found by the simulator: a write of several batches failed, one of them was whole, and it was there again when the power went,
/// after its producer was told that it is not. What is cut off is synced before anybody is told.
#[tokio::test]
async fn what_was_refused_is_gone_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
    let other = store.open_partition("t", 1, config(), Absent::Create).unwrap();
    let held = hold_writer(&disk, &other).await;
    let first = log.submit(batch(0..1), Ack::Written).await.unwrap();
    let second = log.submit(batch(1..2), Ack::Written).await.unwrap();
    disk.faults.next_write_fails.store(true, Ordering::SeqCst);
    disk.faults.release_one_sync();
    held.answer().await.unwrap();
    let mut first = Box::pin(first.answer());
    let told_early = tokio::time::timeout(Duration::from_millis(50), &mut first).await;
    disk.faults.release_syncs();
    assert!(told_early.is_err(), "{told_early:?}");
    for refused in [first.await, second.answer().await] {
        assert!(matches!(refused, Err(AppendError::WriteFailed(_))), "{refused:?}");
    }
    assert!(values(&log).is_empty());
}

/// A topic that became relaxed between the write of a group and its sync was not synced then, and whoever waited for that
/// sync waited for `flush.ms`: for ever, by default.
#[tokio::test]
async fn whoever_waits_for_a_sync_gets_it_also_when_durability_is_relaxed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let [first, second] =
        [0, 1].map(|partition| store.open_partition("t", partition, config(), Absent::Create).unwrap());
    // The writer waits twice: with a group of its own, so that the two appends that follow are one group, and before the
    // sync of the first of these, with the second written.
    disk.faults.hold_syncs();
    let alone = first.submit(batch(0..1), Ack::Durable).await.unwrap();
    while first.offsets().log_end == offset(0) {
        tokio::task::yield_now().await;
    }
    let together = [
        first.submit(batch(1..2), Ack::Durable).await.unwrap(),
        second.submit(batch(0..1), Ack::Durable).await.unwrap(),
    ];
    disk.faults.release_one_sync();
    alone.answer().await.unwrap();
    while second.offsets().log_end == offset(0) {
        tokio::task::yield_now().await;
    }
    second.set_config(LogConfig { flush_messages: i64::MAX, ..config() });
    disk.faults.release_syncs();
    for pending in together {
        tokio::time::timeout(Duration::from_secs(10), pending.answer()).await.expect("it is synced").unwrap();
    }
}

/// A process that died between the creation of a file and the sync of its directory left a name that the next process
/// used, and never made durable.
#[tokio::test]
async fn names_that_may_not_be_durable_are_made_so_before_they_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("new/data");
    let disk = FailingDisk::default();
    let reopened = |settings: LogConfig| {
        let (disk, root) = (disk.clone(), root.clone());
        async move {
            disk.faults.synced_dirs.lock().clear();
            let store = open_on(Arc::new(disk.clone()), &root);
            store
                .open_partition("t", 0, settings, Absent::Create)
                .unwrap()
                .append(batch(0..1), Ack::Durable)
                .await
                .unwrap();
            let synced = disk.faults.synced_dirs.lock().clone();
            store.close().await;
            synced
        }
    };
    let synced = reopened(config()).await;
    for parent in ["", "new", "new/data", "new/data/topics", "new/data/topics/t", "new/data/topics/t/0"] {
        assert!(synced.contains(&dir.path().join(parent)), "{parent:?} of {synced:?}");
    }
    let partition = root.join("topics/t/0");
    assert!(!reopened(config()).await.contains(&partition), "it is known to be durable");
    std::fs::remove_file(partition.join("durable")).unwrap();
    let synced = reopened(config()).await;
    for parent in ["", "t", "t/0"] {
        assert!(synced.contains(&root.join("topics").join(parent)), "{parent:?} of {synced:?}");
    }
    // As when it died in the middle of beginning a new segment.
    std::fs::write(partition.join("00000000000000000003.log"), []).unwrap();
    assert!(reopened(config()).await.contains(&partition));
}

/// What was acknowledged as written could not be asked for until it was synced: not "nothing yet", but "out of range".
#[tokio::test]
async fn what_is_written_and_not_yet_visible_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let log =
        open_on(Arc::new(disk.clone()), dir.path()).open_partition("t", 0, config(), Absent::Create).unwrap();
    disk.faults.hold_syncs();
    log.append(batch(0..2), Ack::Written).await.unwrap();
    let reads = [0, 1, 2, 3].map(|from| log.read(offset(from), 1000));
    disk.faults.release_syncs();
    let [before, at, written, beyond] = reads;
    for read in [before, at, written] {
        assert!(read.unwrap().batches.is_empty());
    }
    assert!(matches!(beyond, Err(ReadError::OutOfRange { .. })));
}
