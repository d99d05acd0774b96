//! A disk that fails: promises are kept, or not made.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anabranch_log::{Ack, AppendError, FaultCause, LogConfig, LogStatus, ReadError};

use crate::support::{FailingDisk, batch, config, expected, offset, open, open_on, producer_batch, values};

#[tokio::test]
async fn nothing_is_seen_or_acknowledged_as_durable_before_the_sync() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let log = open_on(Arc::new(disk.clone()), dir.path()).open_partition("t", 0, config()).unwrap();
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
    let log = store.open_partition("t", 0, config()).unwrap();
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
    assert_eq!(values(&open(dir.path()).open_partition("t", 0, config()).unwrap()), expected(0..2));
}

/// A topic created while the disk was full was there, and its partitions stopped until the next restart, for the want of
/// 28 bytes that tell nothing but how far recovery may trust.
#[tokio::test]
async fn a_partition_opens_on_a_full_disk_and_takes_appends_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    disk.faults.writes_fail.store(true, Ordering::SeqCst);
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let log = store.open_partition("t", 0, config()).unwrap();
    assert!(matches!(log.status(), LogStatus::Online), "{:?}", log.status());
    let refused = log.append(batch(0..1), Ack::Durable).await;
    assert!(matches!(refused, Err(AppendError::WriteFailed(_))), "{refused:?}");
    disk.faults.writes_fail.store(false, Ordering::SeqCst);
    log.append(batch(0..1), Ack::Durable).await.unwrap();
    store.close().await;
    assert_eq!(values(&open(dir.path()).open_partition("t", 0, config()).unwrap()), expected(0..1));
}

#[tokio::test]
async fn a_disk_too_full_for_a_new_segment_refuses_and_goes_on_later() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let log = store.open_partition("t", 0, LogConfig { segment_bytes: 100, ..config() }).unwrap();
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
    let log = store.open_partition("t", 0, config()).unwrap();
    let other = store.open_partition("t", 1, config()).unwrap();
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
    let log = store.open_partition("t", 0, config()).unwrap();
    assert_eq!(values(&log)[..1], expected(0..1));
    log.append(batch(9..10), Ack::Durable).await.unwrap();
}
