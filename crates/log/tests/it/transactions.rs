//! Transactions in the log: what is open, what has ended and how, whatever becomes of the process and of derived files.

use std::fs;
use std::path::{Path, PathBuf};

use anabranch_core::batch::{Batch, BatchBuilder, Compression, EndKind, EndMarker, Record, check_batch};
use anabranch_core::{Offset, ProducerEpoch, ProducerId};
use anabranch_log::{Absent, Ack, AppendError, Appended, LogConfig, Part, PartitionLog};

use crate::support::{batch, config, copied, offset, open};

/// A record in a transaction of `producer`; -1 is the sequence of who counts none.
fn data(producer: i64, epoch: i16, sequence: i32) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.producer(ProducerId(producer), ProducerEpoch(epoch), sequence).transactional();
    builder.push(&Record::new("key", format!("{producer}/{epoch}/{sequence}")).at(1000));
    check_batch(&builder.build().unwrap()).unwrap()
}

fn marker(producer: i64, epoch: i16, kind: EndKind) -> Batch {
    EndMarker { kind, coordinator_epoch: 0 }.batch(ProducerId(producer), ProducerEpoch(epoch), 2000)
}

fn part(ordinal: u64) -> Option<Part> {
    Some(Part { ordinal, version: 2 })
}

async fn append(log: &PartitionLog, batch: Batch, part: Option<Part>) -> Result<Appended, AppendError> {
    log.submit_in(batch, Ack::Durable, part).await.unwrap().answer().await
}

async fn appended(log: &PartitionLog, batch: Batch, ordinal: u64) -> i64 {
    append(log, batch, part(ordinal)).await.unwrap().base_offset.0
}

/// Producer, epoch and first offset.
async fn opened(log: &PartitionLog) -> Vec<(i64, i16, i64)> {
    let open = log.open_transactions().await.unwrap();
    open.into_iter().map(|open| (open.producer.0, open.epoch.0, open.first.0)).collect()
}

fn stable(log: &PartitionLog) -> (i64, i64) {
    let offsets = log.offsets();
    (offsets.last_stable.0, offsets.high_watermark.0)
}

fn files(root: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join("topics/t/0")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}

fn create(root: &Path, settings: LogConfig) -> PartitionLog {
    open(root).open_partition("t", 0, settings, Absent::Create).unwrap()
}

/// Everything that stands between a crash and the next start: the process dies, or its snapshots are lost as well.
#[tokio::test]
async fn an_open_transaction_survives_kill_and_the_loss_of_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let small = LogConfig { segment_bytes: 300, ..config() };
    let log = create(dir.path(), small);
    appended(&log, data(7, 0, 0), 1).await; // 0
    appended(&log, marker(7, 1, EndKind::Commit), 1).await; // 1
    appended(&log, data(8, 0, 0), 2).await; // 2
    appended(&log, data(7, 1, 0), 3).await; // 3
    for value in 4..10 {
        log.append(batch(value..value + 1), Ack::Durable).await.unwrap();
    }
    assert_eq!((stable(&log), opened(&log).await), ((2, 10), vec![(7, 1, 3), (8, 0, 2)]));
    assert!(files(dir.path(), "snapshot").len() > 1, "the snapshot is younger than the transactions");
    let killed = copied(dir.path());
    let without = copied(dir.path());
    files(without.path(), "snapshot").iter().for_each(|file| fs::remove_file(file).unwrap());
    for left in [&killed, &without] {
        let log = create(left.path(), small);
        assert_eq!((stable(&log), opened(&log).await), ((2, 10), vec![(7, 1, 3), (8, 0, 2)]));
        // The epoch of a marker fences whoever wrote before it.
        let late = append(&log, data(7, 0, 1), part(9)).await;
        assert!(matches!(late, Err(AppendError::InvalidProducerEpoch { .. })), "{late:?}");
        appended(&log, data(7, 1, 1), 9).await; // 10
        appended(&log, marker(8, 1, EndKind::Abort), 9).await; // 11
        assert_eq!((stable(&log), opened(&log).await), ((3, 12), vec![(7, 1, 3)]));
        appended(&log, marker(7, 2, EndKind::Commit), 9).await;
        assert_eq!((stable(&log), opened(&log).await), ((13, 13), vec![]));
        drop(log);
        let log = create(left.path(), small);
        assert_eq!((stable(&log), opened(&log).await), ((13, 13), vec![]));
    }
}

#[tokio::test]
async fn what_comes_after_its_end_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path(), config());
    // By the rules before version 2 the epoch stays: only the coordinator's number tells an old batch from a new one.
    let before = |ordinal| Some(Part { ordinal, version: 0 });
    append(&log, data(7, 0, 0), before(4)).await.unwrap();
    append(&log, marker(7, 0, EndKind::Abort), before(4)).await.unwrap();
    for ordinal in [3, 4] {
        let late = append(&log, data(7, 0, 1), before(ordinal)).await;
        assert!(matches!(late, Err(AppendError::NotInTransaction { .. })), "{late:?}");
    }
    let outside = append(&log, data(7, 0, 1), None).await;
    assert!(matches!(outside, Err(AppendError::NotInTransaction { .. })), "{outside:?}");
    assert_eq!(stable(&log), (2, 2));
    assert!(append(&log, data(7, 0, 0), before(4)).await.unwrap().duplicate, "as in Kafka");
    append(&log, data(7, 0, 1), before(5)).await.unwrap();
    assert_eq!((stable(&log), opened(&log).await), ((2, 3), vec![(7, 0, 2)]));
}

#[tokio::test]
async fn ends_are_refused_as_in_kafka() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path(), config());
    appended(&log, data(7, 3, 0), 1).await;
    for (epoch, version) in [(2, 0), (2, 2), (3, 2)] {
        let end = append(&log, marker(7, epoch, EndKind::Commit), Some(Part { ordinal: 1, version })).await;
        assert!(matches!(end, Err(AppendError::InvalidProducerEpoch { .. })), "{epoch} {version}: {end:?}");
    }
    let newer = EndMarker { kind: EndKind::Commit, coordinator_epoch: 5 };
    appended(&log, newer.batch(ProducerId(7), ProducerEpoch(4), 1), 1).await;
    let fenced = append(&log, marker(7, 5, EndKind::Commit), part(1)).await;
    assert!(matches!(fenced, Err(AppendError::CoordinatorFenced { current: 5, found: 0 })), "{fenced:?}");
    let states = log.producers().await.unwrap();
    assert_eq!((states[0].coordinator_epoch, states[0].epoch.0, states[0].open), (Some(5), 4, None));
    assert!(states[0].batches.is_empty());
}

/// The last stable offset follows the log's start, and never readers' promises.
#[tokio::test]
async fn the_last_stable_offset_is_never_below_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path(), config());
    appended(&log, data(7, 0, 0), 1).await;
    for value in 1..6 {
        log.append(batch(value..value + 1), Ack::Durable).await.unwrap();
    }
    assert_eq!(stable(&log), (0, 6));
    let settled = log.settle(anabranch_log::Roll::Now).await.unwrap();
    log.remove_below(&settled, offset(4)).unwrap();
    assert_eq!((stable(&log), opened(&log).await), ((4, 6), vec![(7, 0, 0)]));
    drop(log);
    let log = create(dir.path(), config());
    assert_eq!((stable(&log), opened(&log).await), ((4, 6), vec![(7, 0, 0)]));
    assert_eq!(appended(&log, marker(7, 1, EndKind::Abort), 1).await, 6);
    assert_eq!(stable(&log), (7, 7));
    assert_eq!(log.offsets().log_start, Offset(4));
}

/// A directory of the version before is taken over: from then on it is one that that version refuses.
#[tokio::test]
async fn a_directory_of_the_format_before_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.close().await;
    let format = dir.path().join("format");
    fs::write(&format, "anabranch data directory, format 1\n").unwrap();
    open(dir.path()).close().await;
    assert_eq!(fs::read_to_string(&format).unwrap(), "anabranch data directory, format 2\n");
}
