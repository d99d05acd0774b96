//! The journal: what it makes durable is there after a crash, whatever became of the segments.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::seam::{ManualClock, RealDisk, SeededRandom, Threads};
use anabranch_log::{Absent, Ack, LogStatus, Offline, OpenError, PartitionLog, Store, StoreConfig};

use crate::support::{batch, config, expected, offset, values};

const FILE_BYTES: u64 = 64 << 10;
const SECTOR: usize = 512;

fn open_with(root: &Path, journal_file_bytes: u64) -> Result<Store, OpenError> {
    Store::open(StoreConfig {
        root: root.to_owned(),
        disk: Arc::new(RealDisk),
        clock: Arc::new(ManualClock::at(1_000_000)),
        random: Arc::new(SeededRandom::new(1)),
        workers: Arc::new(Threads),
        journal_file_bytes,
        queue_appends_max: 1024,
        open_files_max: 8,
        producer_expiration_ms: i64::MAX,
    })
}

fn open(root: &Path) -> Store {
    open_with(root, FILE_BYTES).unwrap()
}

fn partition(store: &Store, number: i32) -> PartitionLog {
    store.open_partition("t", number, config(), Absent::Create).unwrap()
}

fn journal_file(root: &Path, number: u64) -> PathBuf {
    root.join(format!("journal/{number:08}.journal"))
}

/// The places of the entries in a journal file.
fn entries(file: &Path) -> Vec<usize> {
    let bytes = fs::read(file).unwrap_or_default();
    let is_entry = |at: &usize| bytes[*at..].starts_with(b"AJE1");
    (SECTOR..bytes.len()).step_by(SECTOR).filter(is_entry).collect()
}

/// Appends one record at a time until the journal is in use; how many.
async fn append_until_journalled(root: &Path, log: &PartitionLog) -> i64 {
    for next in log.offsets().log_end.0.. {
        if !entries(&journal_file(root, 0)).is_empty() {
            return next;
        }
        log.append(batch(next..next + 1), Ack::Durable).await.unwrap();
    }
    unreachable!("it returns when the journal is in use")
}

fn segment(root: &Path, partition: i32) -> PathBuf {
    root.join(format!("topics/t/{partition}/00000000000000000000.log"))
}

/// What a crash leaves: a copy of the directory, taken while the store is open.
fn crashed(root: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &target),
                false => drop(fs::copy(entry.path(), target).unwrap()),
            }
        }
    }
    let left = tempfile::tempdir().unwrap();
    copy(root, left.path());
    left
}

fn cut(file: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(len).unwrap();
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x40;
    fs::write(file, bytes).unwrap();
}

/// A store with a journalled tail: what a crash left, how many records there are, and how long the segment was when the
/// journal took over.
async fn journalled_tail(more: i64) -> (tempfile::TempDir, i64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = partition(&store, 0);
    let count = append_until_journalled(dir.path(), &log).await;
    let (synced, count) = (log.size_bytes(), count + more);
    for next in count - more..count {
        log.append(batch(next..next + 1), Ack::Durable).await.unwrap();
    }
    let left = crashed(dir.path());
    store.close().await;
    (left, count, synced)
}

async fn reopened(root: &Path) -> Vec<(i64, String)> {
    let store = open(root);
    let values = values(&partition(&store, 0));
    store.close().await;
    values
}

#[tokio::test]
async fn what_the_segments_lost_comes_back_from_the_journal() {
    let (left, count, synced) = journalled_tail(20).await;
    cut(&segment(left.path(), 0), synced);
    assert_eq!(reopened(left.path()).await, expected(0..count));
    assert!(!left.path().join("journal").exists(), "it is not needed any more");
    assert_eq!(reopened(left.path()).await, expected(0..count));
}

#[tokio::test]
async fn pages_that_were_lost_out_of_order_come_back_too() {
    let (left, count, synced) = journalled_tail(20).await;
    let mut bytes = fs::read(segment(left.path(), 0)).unwrap();
    let middle = synced as usize + 300;
    bytes[middle..middle + 500].fill(0);
    fs::write(segment(left.path(), 0), bytes).unwrap();
    assert_eq!(reopened(left.path()).await, expected(0..count));
}

#[tokio::test]
async fn an_entry_that_is_torn_was_never_acknowledged() {
    let (left, count, synced) = journalled_tail(5).await;
    let file = journal_file(left.path(), 0);
    let last = *entries(&file).last().unwrap();
    for at in [last + 100, last + 20] {
        let left = crashed(left.path());
        flip(&journal_file(left.path(), 0), at);
        cut(&segment(left.path(), 0), synced);
        assert_eq!(reopened(left.path()).await, expected(0..count - 1));
    }
}

#[tokio::test]
async fn a_missing_entry_is_damage_and_nothing_is_changed() {
    let (left, ..) = journalled_tail(5).await;
    let file = journal_file(left.path(), 0);
    let places = entries(&file);
    flip(&file, places[places.len() - 3] + 20);
    let before = (fs::read(&file).unwrap(), fs::read(segment(left.path(), 0)).unwrap());
    for _ in 0..2 {
        let refused = open_with(left.path(), FILE_BYTES).unwrap_err();
        let OpenError::JournalDamaged(fault) = &refused else { panic!("{refused}") };
        assert_eq!(fault.file, file);
        assert!(matches!(Offline::open(Arc::new(RealDisk), left.path()), Err(OpenError::JournalDamaged(_))));
    }
    assert_eq!((fs::read(&file).unwrap(), fs::read(segment(left.path(), 0)).unwrap()), before);
}

#[tokio::test]
async fn damaged_bytes_in_the_journal_harm_nobody_whose_segment_is_right_and_stop_those_whose_is_not() {
    let (left, count, synced) = journalled_tail(5).await;
    let file = journal_file(left.path(), 0);
    let places = entries(&file);
    flip(&file, places[places.len() - 3] + 120);
    let lost = crashed(left.path());
    assert_eq!(reopened(left.path()).await, expected(0..count));

    cut(&segment(lost.path(), 0), synced);
    let offline = Offline::open(Arc::new(RealDisk), lost.path()).unwrap();
    assert!(!offline.verify(&TopicPartition::new("t", 0)).unwrap().faults.is_empty());
    drop(offline);
    let store = open(lost.path());
    let log = partition(&store, 0);
    assert!(matches!(log.status(), LogStatus::Stopped(_)), "{:?}", log.status());
    let other = partition(&store, 1);
    other.append(batch(0..1), Ack::Durable).await.unwrap();
}

#[tokio::test]
async fn the_check_sees_the_log_as_the_next_start_will_make_it_and_changes_nothing() {
    let (left, count, synced) = journalled_tail(5).await;
    cut(&segment(left.path(), 0), synced);
    let before = fs::read(segment(left.path(), 0)).unwrap();
    let offline = Offline::open(Arc::new(RealDisk), left.path()).unwrap();
    let report = offline.verify(&TopicPartition::new("t", 0)).unwrap();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    assert_eq!((report.end, report.torn_tail_bytes), (offset(count), 0));
    assert_eq!(fs::read(segment(left.path(), 0)).unwrap(), before);
    assert!(journal_file(left.path(), 0).exists());
}

#[tokio::test]
async fn a_topic_that_was_deleted_does_not_haunt_its_successor() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = partition(&store, 0);
    append_until_journalled(dir.path(), &log).await;
    log.append(batch(0..1), Ack::Durable).await.unwrap();
    store.close_partition(&log).await;
    store.forget_topic("t").await.unwrap();
    store.remove_topic("t").unwrap();
    let log = partition(&store, 0);
    let left = crashed(dir.path());
    assert_eq!(reopened(left.path()).await, []);
    log.append(batch(0..2), Ack::Durable).await.unwrap();
    let left = crashed(dir.path());
    cut(&segment(left.path(), 0), 0);
    assert_eq!(reopened(left.path()).await, expected(0..2));
}

#[tokio::test]
async fn files_are_used_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 4 << 10).unwrap();
    let logs: Vec<PartitionLog> = (0..3).map(|number| partition(&store, number)).collect();
    append_until_journalled(dir.path(), &logs[0]).await;
    let mut crashes = 0;
    for round in 0..400 {
        let log = &logs[round % 3];
        let next = log.offsets().log_end.0;
        log.append(batch(next..next + 1), Ack::Durable).await.unwrap();
        if round % 50 == 49 {
            let ends: Vec<i64> = logs.iter().map(|log| log.offsets().log_end.0).collect();
            let left = crashed(dir.path());
            let store = open(left.path());
            for (number, end) in (0..).zip(ends) {
                assert_eq!(values(&partition(&store, number)), expected(0..end), "round {round}");
            }
            store.close().await;
            crashes += 1;
        }
    }
    assert_eq!(crashes, 8);
    assert!(fs::read_dir(dir.path().join("journal")).unwrap().count() <= 16);
    store.close().await;
    assert!(!dir.path().join("journal").exists());
}

#[tokio::test]
async fn a_sealed_segment_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = partition(&store, 0);
    let count = append_until_journalled(dir.path(), &log).await;
    // Larger than a segment by now: the next append begins another one.
    log.set_config(anabranch_log::LogConfig { segment_bytes: 100, ..config() });
    for next in count..count + 3 {
        log.append(batch(next..next + 1), Ack::Durable).await.unwrap();
    }
    let left = crashed(dir.path());
    // Whoever rewrote the sealed segment had its own reasons.
    let rewritten = vec![0; fs::metadata(segment(left.path(), 0)).unwrap().len() as usize];
    fs::write(segment(left.path(), 0), &rewritten).unwrap();
    let store = open(left.path());
    drop(partition(&store, 0));
    store.close().await;
    assert_eq!(fs::read(segment(left.path(), 0)).unwrap(), rewritten);
}

/// Before there was a journal, its numbers said that it might know of anything, and the deletion of a topic waited for room
/// in it for ever.
#[tokio::test]
async fn a_journal_that_is_not_in_use_has_nothing_to_forget() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = partition(&store, 0);
    store.close_partition(&log).await;
    tokio::time::timeout(Duration::from_secs(60), store.forget_topic("t")).await.unwrap().unwrap();
    let without = tempfile::tempdir().unwrap();
    let store = open_with(without.path(), 0).unwrap();
    tokio::time::timeout(Duration::from_secs(60), store.forget_topic("t")).await.unwrap().unwrap();
}
