//! The end of a transaction over several partitions: all of it or nothing, whatever fails in the middle.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anabranch_core::batch::{
    Batch, BatchBuilder, BatchHeader, Compression, EndKind, EndMarker, Record, check_batch, split_batches,
};
use anabranch_core::seam::{Disk, ManualClock, RealDisk, SeededRandom, Threads};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_log::{
    Absent, Ack, AppendError, End, Ended, Isolation, LogConfig, LogStatus, Part, PartitionLog, Roll, Store,
    StoreConfig,
};

use crate::crash::{CrashDisk, Loss, Plan};
use crate::support::{FailingDisk, config, copied, offset};

const PARTITIONS: i32 = 3;

const JOURNAL_FILE_BYTES: u64 = 1 << 20;

struct Opened {
    store: Store,
    decision: PartitionLog,
    logs: Vec<PartitionLog>,
}

/// The partitions of the transaction; the second one with relaxed durability.
fn open(disk: Arc<dyn Disk>, root: &Path, journal_file_bytes: u64, partitions: i32) -> Opened {
    let store = Store::open(StoreConfig {
        root: root.to_owned(),
        disk,
        clock: Arc::new(ManualClock::at(1_000_000)),
        workers: Arc::new(Threads),
        random: Arc::new(SeededRandom::new(1)),
        journal_file_bytes,
        queue_appends_max: 1024,
        open_files_max: 64,
        producer_expiration_ms: i64::MAX,
    })
    .unwrap();
    let decision = store.open_partition("decisions", 0, config(), Absent::Create).unwrap();
    let log = |partition| {
        let flush_messages = if partition == 1 { i64::MAX } else { 1 };
        let settings = LogConfig { flush_messages, ..config() };
        store.open_partition("t", partition, settings, Absent::Create).unwrap()
    };
    let logs = (0..partitions).map(log).collect();
    Opened { store, decision, logs }
}

fn record(value: &'static str) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    check_batch(&builder.push(&Record::new("id", value)).build().unwrap()).unwrap()
}

fn data(sequence: i32) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.producer(ProducerId(7), ProducerEpoch(0), sequence).transactional();
    check_batch(&builder.push(&Record::new("key", "value")).build().unwrap()).unwrap()
}

fn marker() -> Batch {
    EndMarker { kind: EndKind::Commit, coordinator_epoch: 0 }.batch(ProducerId(7), ProducerEpoch(1), 5)
}

const PART: Option<Part> = Some(Part { ordinal: 1, version: 2 });

fn end(opened: &Opened, to: &[usize], is_decided: bool) -> End {
    End {
        decision: opened.decision.clone(),
        prepared: (!is_decided).then(|| record("prepared")),
        completed: record("completed"),
        markers: to.iter().map(|at| (opened.logs[*at].clone(), marker())).collect(),
        version: 2,
        ordinal: 1,
    }
}

async fn ended(opened: &Opened, end: End) -> Result<Ended, AppendError> {
    opened.store.submit_end(end).await?.answer().await
}

fn decisions(opened: &Opened) -> Vec<String> {
    let slice = opened.decision.read(offset(0), 1 << 20).unwrap();
    let batches = split_batches(slice.batches).map(Result::unwrap);
    let values = batches.flat_map(|batch| batch.records().unwrap()).map(|at| at.record.value.unwrap());
    values.map(|value| String::from_utf8(value.to_vec()).unwrap()).collect()
}

/// How many data batches and markers there are.
fn counts(log: &PartitionLog) -> (usize, usize) {
    let slice = log.read(offset(0), 1 << 20).unwrap();
    let headers = split_batches(slice.batches).map(|batch| *batch.unwrap().header());
    let (markers, data): (Vec<_>, Vec<_>) = headers.partition(BatchHeader::is_control);
    (data.len(), markers.len())
}

fn all() -> Vec<usize> {
    (0..PARTITIONS as usize).collect()
}

/// A transaction with two batches in each partition, and a directory that nobody has open.
async fn begun(root: &Path, partitions: i32) {
    let opened = open(Arc::new(RealDisk), root, 0, partitions);
    for log in &opened.logs {
        for sequence in 0..2 {
            log.submit_in(data(sequence), Ack::Durable, PART).await.unwrap().answer().await.unwrap();
        }
    }
    opened.store.close().await;
}

/// As the broker does before anybody reads: what is decided and not carried out is carried out.
async fn complete(opened: &Opened, story: &str) -> bool {
    let decisions = decisions(opened);
    let is_decided = !decisions.is_empty();
    let mut open = Vec::new();
    for (at, log) in opened.logs.iter().enumerate() {
        assert!(matches!(log.status(), LogStatus::Online), "{story}: {:?}", log.status());
        let is_open = !log.open_transactions().await.unwrap().is_empty();
        let (data, markers) = counts(log);
        assert!(is_open != (markers > 0), "{story}: {at} has {data} and {markers}");
        assert!(is_decided || is_open, "{story}: a marker that nobody has decided");
        assert!(!decisions.contains(&"completed".to_owned()) || !is_open, "{story}: {at} is not completed");
        open.extend(is_open.then_some(at));
    }
    if is_decided && decisions.last().unwrap() != "completed" {
        let ended = ended(opened, end(opened, &open, true)).await.unwrap();
        assert!(ended.missing.is_empty(), "{story}");
    }
    is_decided
}

/// The transaction is there as a whole, with so many batches at least, or not at all.
fn check_whole(opened: &Opened, is_decided: bool, least: [usize; PARTITIONS as usize], story: &str) {
    for (log, least) in opened.logs.iter().zip(least) {
        assert!(!is_decided || counts(log).0 >= least, "{story}: data");
        let offsets = log.offsets();
        let stable = if is_decided { offsets.high_watermark } else { offset(0) };
        assert_eq!(offsets.last_stable, stable, "{story}");
        let seen = log.read_within(offset(0), 1 << 20, Isolation::Committed).unwrap();
        assert_eq!(seen.batches.is_empty(), !is_decided, "{story}");
    }
}

/// Appends to a partition that has no part in anything until the journal is in use, and its next file is there.
async fn use_journal(opened: &Opened, root: &Path) {
    let other = opened.store.open_partition("other", 0, config(), Absent::Create).unwrap();
    let starts_with = |number: u64, at: usize, magic: &[u8]| {
        let bytes = std::fs::read(root.join(format!("journal/{number:08}.journal"))).unwrap_or_default();
        bytes.get(at..).is_some_and(|bytes| bytes.starts_with(magic))
    };
    while !starts_with(0, 512, b"AJE1") || !starts_with(1, 0, b"AJF1") {
        other.append(record("other"), Ack::Durable).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await; // or the first one is full before
    }
}

/// When the power goes at any operation: how many transactions are found as not decided, decided but not completed, and completed.
async fn ends_when_power_goes(journal_file_bytes: u64) -> [usize; 3] {
    let template = tempfile::tempdir().unwrap();
    begun(template.path(), PARTITIONS).await;
    let losses = [Loss::Nothing, Loss::Everything].into_iter().chain((0..4).map(Loss::Some));
    let (mut none, mut half, mut whole) = (0, 0, 0);
    for loss in losses {
        for after in 0.. {
            let dir = copied(template.path());
            let disk = CrashDisk::new();
            let opened = open(Arc::new(disk.clone()), dir.path(), journal_file_bytes, PARTITIONS);
            if journal_file_bytes > 0 {
                use_journal(&opened, dir.path()).await;
            }
            let unsynced = opened.logs[1].submit_in(data(2), Ack::Written, PART).await.unwrap();
            unsynced.answer().await.unwrap();
            disk.plan(Plan::PowerOffAfter(after));
            let outcome = ended(&opened, end(&opened, &all(), false)).await;
            let (operations, trace) = (disk.operations(), disk.trace());
            disk.lose(loss);
            opened.store.close().await;
            drop(opened);
            let story = format!("{loss:?} after {after} of {trace:?}: {outcome:?}");
            let opened = open(Arc::new(RealDisk), dir.path(), 0, PARTITIONS);
            let records = decisions(&opened);
            let is_decided = complete(&opened, &story).await;
            // What was not synced when it was decided is there, too.
            check_whole(&opened, is_decided, [2, 3, 2], &story);
            match &outcome {
                Ok(Ended { missing }) => {
                    assert!(is_decided, "{story}");
                    let is_completed = records.last().is_some_and(|last| last == "completed");
                    assert!(!missing.is_empty() || is_completed, "{story}");
                }
                Err(AppendError::WriteFailed(_)) => assert!(!is_decided, "{story}"),
                Err(_) => {}
            }
            match records.last().map(String::as_str) {
                None => none += 1,
                Some("prepared") => half += 1,
                Some(_) => whole += 1,
            }
            opened.store.close().await;
            if outcome.is_ok() && operations < after {
                break;
            }
        }
    }
    [none, half, whole]
}

#[tokio::test]
async fn an_end_is_all_or_nothing_when_power_goes_at_any_operation() {
    let found = ends_when_power_goes(0).await;
    assert!(found.iter().all(|count| *count > 5), "{found:?}");
}

#[tokio::test]
async fn by_the_journal_there_is_nothing_between_all_and_nothing() {
    let found = ends_when_power_goes(JOURNAL_FILE_BYTES).await;
    assert!(found[0] > 5 && found[1] == 0 && found[2] > 5, "{found:?}");
}

/// Its markers, and the record that decides it.
#[tokio::test]
async fn by_the_journal_an_end_is_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let disk = CrashDisk::new();
    let opened = open(Arc::new(disk.clone()), dir.path(), JOURNAL_FILE_BYTES, 30);
    use_journal(&opened, dir.path()).await;
    for log in &opened.logs {
        log.submit_in(data(0), Ack::Durable, PART).await.unwrap().answer().await.unwrap();
    }
    opened.logs[1].settle(Roll::WhenDue).await.unwrap();
    disk.plan(Plan::Works);
    let to: Vec<usize> = (0..30).collect();
    assert!(ended(&opened, end(&opened, &to, false)).await.unwrap().missing.is_empty());
    let trace = disk.trace();
    let syncs: Vec<&String> = trace.iter().filter(|what| what.starts_with("sync")).collect();
    assert_eq!(syncs, ["sync 00000000.journal"], "{trace:?}");
    assert_eq!(decisions(&opened), ["completed"]);
    for log in &opened.logs {
        assert_eq!((log.offsets().last_stable, log.offsets().high_watermark), (offset(2), offset(2)));
    }
    opened.store.close().await;
}

/// Decided is decided: what the journal holds and the segment does not take stops the partition, and the next start has it.
#[tokio::test]
async fn what_cannot_be_written_after_the_journal_is_there_at_the_next_start() {
    let template = tempfile::tempdir().unwrap();
    begun(template.path(), PARTITIONS).await;
    let mut stopped = 0;
    for after in 0.. {
        let dir = copied(template.path());
        let disk = CrashDisk::new();
        let opened = open(Arc::new(disk.clone()), dir.path(), JOURNAL_FILE_BYTES, PARTITIONS);
        use_journal(&opened, dir.path()).await;
        disk.plan(Plan::OneFailsAfter(after));
        let outcome = ended(&opened, end(&opened, &all(), false)).await;
        let story = format!("after {after} of {:?}: {outcome:?}", disk.trace());
        let is_over = disk.operations() <= after;
        disk.plan(Plan::Works);
        let is_online = |log: &PartitionLog| matches!(log.status(), LogStatus::Online);
        let missing: Vec<usize> = all().into_iter().filter(|at| !is_online(&opened.logs[*at])).collect();
        if let Ok(ended) = &outcome {
            stopped += missing.len();
            assert_eq!(ended.missing, missing, "{story}");
        }
        opened.store.close().await;
        drop(opened);
        let opened = open(Arc::new(RealDisk), dir.path(), 0, PARTITIONS);
        let is_decided = complete(&opened, &story).await;
        assert!(is_decided || outcome.is_err(), "{story}");
        check_whole(&opened, is_decided, [2; 3], &story);
        opened.store.close().await;
        if is_over {
            break;
        }
    }
    assert_eq!(stopped, 3, "each write to a segment failed once");
}

#[tokio::test]
async fn an_end_that_a_full_disk_cuts_short_goes_on_when_there_is_room() {
    let template = tempfile::tempdir().unwrap();
    begun(template.path(), PARTITIONS).await;
    let (mut refused, mut missed) = (0, 0);
    for after in 0.. {
        let dir = copied(template.path());
        let disk = CrashDisk::new();
        let opened = open(Arc::new(disk.clone()), dir.path(), 0, PARTITIONS);
        disk.plan(Plan::OneFailsAfter(after));
        let outcome = ended(&opened, end(&opened, &all(), false)).await;
        let story = format!("after {after} of {:?}: {outcome:?}", disk.trace());
        let is_over = disk.operations() <= after;
        disk.plan(Plan::Works);
        let mut opened = opened;
        match outcome {
            Err(AppendError::WriteFailed(_)) => {
                refused += 1;
                assert!(decisions(&opened).is_empty(), "{story}");
                check_whole(&opened, false, [2; 3], &story);
                assert!(ended(&opened, end(&opened, &all(), false)).await.unwrap().missing.is_empty());
            }
            Ok(Ended { missing }) if !missing.is_empty() => {
                missed += 1;
                let is_online = |log: &PartitionLog| matches!(log.status(), LogStatus::Online);
                if opened.logs.iter().all(is_online) && is_online(&opened.decision) {
                    let again = ended(&opened, end(&opened, &missing, true)).await.unwrap();
                    assert!(again.missing.is_empty(), "{story}: {again:?}");
                }
            }
            _ => {}
        }
        opened.store.close().await;
        drop(opened);
        opened = open(Arc::new(RealDisk), dir.path(), 0, PARTITIONS);
        let is_decided = complete(&opened, &story).await;
        check_whole(&opened, is_decided, [2; 3], &story);
        opened.store.close().await;
        if is_over {
            break;
        }
    }
    assert!(refused > 0 && missed > 2, "{refused} {missed}");
}

/// Found by the simulator: with relaxed durability the producer had its answer, the sync that comes before the decision failed,
/// and the transaction was committed; the loss of power took a part of it.
#[tokio::test]
async fn what_may_be_lost_is_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let opened = open(Arc::new(disk.clone()), dir.path(), 0, PARTITIONS);
    for log in &opened.logs {
        log.submit_in(data(0), Ack::Durable, PART).await.unwrap().answer().await.unwrap();
    }
    disk.faults.syncs_fail.store(true, Ordering::SeqCst);
    // Twice: the second time nothing is left to be synced.
    for _ in 0..2 {
        let refused = ended(&opened, end(&opened, &all(), false)).await;
        assert!(matches!(refused, Err(AppendError::Stopped(_))), "{refused:?}");
        disk.faults.syncs_fail.store(false, Ordering::SeqCst);
    }
    assert!(decisions(&opened).is_empty() && counts(&opened.logs[0]) == (1, 0));
    let abort =
        EndMarker { kind: EndKind::Abort, coordinator_epoch: 0 }.batch(ProducerId(7), ProducerEpoch(1), 5);
    let mut aborting = end(&opened, &all(), false);
    aborting.markers.iter_mut().for_each(|(_, marker)| *marker = abort.clone());
    assert_eq!(ended(&opened, aborting).await.unwrap(), Ended { missing: vec![1] });
}

/// The same where durability is not relaxed, and the producer does not wait for it.
#[tokio::test]
async fn what_was_acknowledged_when_written_and_may_be_lost_is_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let opened = open(Arc::new(disk.clone()), dir.path(), 0, PARTITIONS);
    let log = &opened.logs[0];
    disk.faults.syncs_fail.store(true, Ordering::SeqCst);
    log.submit_in(data(0), Ack::Written, PART).await.unwrap().answer().await.unwrap();
    // The sync comes behind the answer, and the end behind the sync.
    let refused = ended(&opened, end(&opened, &[0], false)).await;
    assert!(matches!(refused, Err(AppendError::Stopped(_))), "{refused:?}");
    disk.faults.syncs_fail.store(false, Ordering::SeqCst);
    let refused = ended(&opened, end(&opened, &[0], false)).await;
    assert!(matches!(refused, Err(AppendError::Stopped(_))), "{refused:?}");
    assert!(decisions(&opened).is_empty());
}

/// As many partitions as a flow may have, with and without the journal; and a partition that is damaged, or gone.
#[tokio::test]
async fn an_end_over_many_partitions_is_one_answer() {
    for journal_file_bytes in [0, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let opened = open(Arc::new(CrashDisk::new()), dir.path(), journal_file_bytes, 2000);
        let mut pending = Vec::new();
        for log in &opened.logs {
            pending.push(log.submit_in(data(0), Ack::Durable, PART).await.unwrap());
        }
        for pending in pending {
            pending.answer().await.unwrap();
        }
        let to: Vec<usize> = (0..2000).collect();
        assert!(ended(&opened, end(&opened, &to, false)).await.unwrap().missing.is_empty());
        for log in &opened.logs {
            assert_eq!((log.offsets().last_stable, log.offsets().high_watermark), (offset(2), offset(2)));
            let late = log.submit_in(data(1), Ack::Durable, PART).await.unwrap().answer().await;
            assert!(matches!(late, Err(AppendError::InvalidProducerEpoch { .. })), "{late:?}");
        }
        assert_eq!(decisions(&opened).last().unwrap(), "completed");
        opened.store.close().await;
    }
}

#[tokio::test]
async fn a_stopped_partition_is_missing_and_a_deleted_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    begun(dir.path(), PARTITIONS).await;
    let damaged = dir.path().join("topics/t/0/00000000000000000000.log");
    let bytes = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &bytes[..10]).unwrap();
    let opened = open(Arc::new(RealDisk), dir.path(), 0, PARTITIONS);
    opened.store.close_partition(&opened.logs[2]).await;
    let outcome = ended(&opened, end(&opened, &all(), false)).await.unwrap();
    assert_eq!(outcome, Ended { missing: vec![0] });
    assert_eq!((decisions(&opened), counts(&opened.logs[1])), (vec!["prepared".to_owned()], (2, 1)));
    // Decided as it is, it is tried again, for what is missing.
    let again = ended(&opened, end(&opened, &[0], true)).await.unwrap();
    assert_eq!((again, decisions(&opened).len()), (Ended { missing: vec![0] }, 1));
    opened.store.close().await;
    std::fs::write(&damaged, bytes).unwrap();
    let opened = open(Arc::new(RealDisk), dir.path(), 0, PARTITIONS);
    assert!(ended(&opened, end(&opened, &[0, 2], true)).await.unwrap().missing.is_empty());
    check_whole(&opened, true, [2; 3], "after the damage is repaired");
    assert_eq!(decisions(&opened), ["prepared", "completed"]);
    let refused = {
        opened.store.close().await;
        ended(&opened, end(&opened, &all(), true)).await
    };
    assert!(matches!(refused, Err(AppendError::Closed)), "{refused:?}");
}
