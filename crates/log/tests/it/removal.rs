//! The oldest records go when they are told to, and stay gone.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anabranch_log::{
    Absent, Ack, FaultCause, LogConfig, LogStatus, PartitionLog, ReadError, Roll, Store, UpkeepError,
};
use tempfile::TempDir;

use crate::crash::{CrashDisk, Loss, Plan};
use crate::support::{batch, config, copied, expected, offset, open, open_on, values, verify};

fn settings() -> LogConfig {
    LogConfig { segment_bytes: 400, ..config() }
}

async fn filled(log: &PartitionLog) {
    for value in log.offsets().log_end.0..30 {
        log.append(batch(value..value + 1), Ack::Durable).await.unwrap();
    }
}

/// A directory with thirty records.
async fn template() -> TempDir {
    let template = tempfile::tempdir().unwrap();
    let (store, log) = opened(&CrashDisk::new(), template.path(), Absent::Create);
    filled(&log).await;
    store.close().await;
    template
}

fn opened(disk: &CrashDisk, root: &Path, absent: Absent) -> (Store, PartitionLog) {
    let store = open_on(Arc::new(disk.clone()), root);
    let log = store.open_partition("t", 0, settings(), absent).unwrap();
    (store, log)
}

fn log_files(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root.join("topics/t/0")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> =
        names.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".log")).collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_log_starts_where_it_was_told_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Create).unwrap();
    filled(&log).await;
    let files = log_files(dir.path()).len();
    let settled = log.settle(Roll::WhenDue).await.unwrap();
    let size = log.size_bytes();
    let removed = log.remove_below(&settled, offset(17)).unwrap();
    assert_eq!(removed.log_start, offset(17));
    assert_eq!((files - log_files(dir.path()).len()) as u64, removed.segments);
    assert_eq!(size - log.size_bytes(), removed.bytes);
    assert!(removed.segments >= 3);
    assert!(
        matches!(log.read(offset(16), 100), Err(ReadError::OutOfRange { start, .. }) if start == offset(17))
    );
    let all = expected(0..30);
    assert_eq!(values(&log), all[17..]);
    // It never goes back, and not past what is durable.
    assert_eq!(log.remove_below(&settled, offset(3)).unwrap().log_start, offset(17));
    assert!(matches!(
        log.remove_below(&settled, offset(31)),
        Err(UpkeepError::OutOfRange { end, .. }) if end == offset(30)
    ));
    store.close().await;
    let report = verify(dir.path());
    assert!(report.faults.is_empty() && report.leftovers.is_empty());
    assert_eq!((report.start, report.end), (offset(17), offset(30)));
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Damage).unwrap();
    assert_eq!((values(&log), log.offsets().log_start), (all[17..].to_vec(), offset(17)));
    // Everything: the last segment stays, and offsets go on.
    let settled = log.settle(Roll::Now).await.unwrap();
    log.remove_below(&settled, offset(30)).unwrap();
    assert_eq!((log_files(dir.path()).len(), log.size_bytes()), (1, 0));
    store.close().await;
    let log = open(dir.path()).open_partition("t", 0, settings(), Absent::Damage).unwrap();
    assert_eq!((log.offsets().log_start, log.offsets().log_end), (offset(30), offset(30)));
    assert_eq!(log.append(batch(30..31), Ack::Durable).await.unwrap().base_offset, offset(30));
}

/// Under relaxed durability readers see what is not synced: a start among that would outlive it, and look like damage.
#[tokio::test]
async fn a_start_is_never_past_what_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let disk = CrashDisk::new();
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let relaxed = LogConfig { flush_messages: i64::MAX, ..settings() };
    let log = store.open_partition("t", 0, relaxed, Absent::Create).unwrap();
    filled(&log).await;
    let settled = log.settle(Roll::WhenDue).await.unwrap();
    assert_eq!(settled.durable(), log.offsets().high_watermark);
    log.remove_below(&settled, offset(30)).unwrap();
    disk.lose(Loss::Everything);
    store.close().await;
    drop((store, log));
    let log = open(dir.path()).open_partition("t", 0, relaxed, Absent::Damage).unwrap();
    assert!(matches!(log.status(), LogStatus::Online), "{:?}", log.status());
    assert_eq!(log.offsets().log_start, offset(30));
}

#[tokio::test]
async fn power_loss_at_every_step_keeps_the_old_start_or_the_new_one() {
    let all = expected(0..30);
    let template = template().await;
    let losses = [Loss::Nothing, Loss::Everything].into_iter().chain((0..4).map(Loss::Some));
    for loss in losses {
        for after in 0.. {
            let dir = copied(template.path());
            let disk = CrashDisk::new();
            let (store, log) = opened(&disk, dir.path(), Absent::Damage);
            let settled = log.settle(Roll::WhenDue).await.unwrap();
            disk.plan(Plan::PowerOffAfter(after));
            let done = log.remove_below(&settled, offset(17));
            let is_over = disk.operations() < after;
            disk.lose(loss);
            store.close().await;
            drop((store, log));
            let report = verify(dir.path());
            assert!(report.faults.is_empty(), "{loss:?} after {after}: {report:?}");
            let log = open(dir.path()).open_partition("t", 0, settings(), Absent::Damage).unwrap();
            assert!(matches!(log.status(), LogStatus::Online), "{loss:?} after {after}: {:?}", log.status());
            let start = log.offsets().log_start.0;
            assert!(start == 17 || start == 0 && done.is_err(), "{loss:?} after {after}: {start}");
            assert_eq!(values(&log), all[start as usize..]);
            assert_eq!(log_files(dir.path()).len(), log.segments(0).unwrap().len(), "nothing is left over");
            if is_over {
                assert!(after > 8);
                break;
            }
        }
    }
}

/// Whoever dies may leave a start whose name is not durable. The next one shows it, and removes what is below it.
#[tokio::test]
async fn a_start_that_was_shown_survives_power_loss_after_a_death_at_every_step() {
    let template = template().await;
    let mut shown = Vec::new();
    for after in 0..12 {
        for loss in [Loss::Everything].into_iter().chain((0..8).map(Loss::Some)) {
            let dir = copied(template.path());
            let disk = CrashDisk::new();
            let (store, log) = opened(&disk, dir.path(), Absent::Damage);
            let settled = log.settle(Roll::WhenDue).await.unwrap();
            disk.plan(Plan::PowerOffAfter(after));
            let _ = log.remove_below(&settled, offset(17));
            store.close().await;
            drop((settled, log, store));
            disk.restart();
            let (store, log) = opened(&disk, dir.path(), Absent::Damage);
            let start = log.offsets().log_start;
            disk.lose(loss);
            store.close().await;
            drop((log, store));
            let report = verify(dir.path());
            assert!(report.faults.is_empty(), "{loss:?} after {after}: {report:?}");
            let log = open(dir.path()).open_partition("t", 0, settings(), Absent::Damage).unwrap();
            assert_eq!(log.offsets().log_start, start, "{loss:?} after {after}");
            shown.push(start.0);
        }
    }
    assert!(shown.contains(&0) && shown.contains(&17), "some died before, and some after");
}

/// A segment below the start is left over; one that is missing above it is damage.
#[tokio::test]
async fn what_is_missing_above_the_start_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Create).unwrap();
    filled(&log).await;
    let first = log.segments(0).unwrap()[0];
    store.close().await;
    let path = |name: &str| dir.path().join("topics/t/0").join(name);
    let kept = fs::read(path("00000000000000000000.log")).unwrap();
    let stopped = |cause: fn(&FaultCause) -> bool| {
        let report = verify(dir.path());
        assert!(report.faults.iter().any(|fault| cause(&fault.cause)), "{report:?}");
        let log = open(dir.path()).open_partition("t", 0, settings(), Absent::Damage).unwrap();
        let LogStatus::Stopped(fault) = log.status() else { panic!("it must have stopped") };
        assert!(cause(&fault.cause), "{fault}");
    };
    fs::remove_file(path("00000000000000000000.log")).unwrap();
    stopped(|cause| matches!(cause, FaultCause::Gap { .. }));
    fs::write(path("00000000000000000000.log"), &kept).unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Damage).unwrap();
    let settled = log.settle(Roll::WhenDue).await.unwrap();
    log.remove_below(&settled, first.end.plus(1)).unwrap();
    store.close().await;
    drop((store, log));
    // As if it had not been removed yet.
    fs::write(path("00000000000000000000.log"), &kept).unwrap();
    let report = verify(dir.path());
    assert_eq!((report.faults.len(), report.leftovers), (0, vec![path("00000000000000000000.log")]));
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Damage).unwrap();
    assert_eq!(log.offsets().log_start, first.end.plus(1));
    assert!(!path("00000000000000000000.log").exists());
    store.close().await;
    drop((store, log));
    let start = fs::read(path("start")).unwrap();
    fs::write(path("start"), [&start[..3], &[9], &start[4..]].concat()).unwrap();
    stopped(|cause| matches!(cause, FaultCause::MarkDamaged));
    fs::remove_file(path("start")).unwrap();
    stopped(|cause| matches!(cause, FaultCause::Gap { .. }));
}

/// `segment.ms` counts in the time of the records, as in Kafka, and not on the broker's clock, which stands still here.
#[tokio::test]
async fn a_segment_spans_segment_ms_of_its_records_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let timed = LogConfig { segment_ms: 100, ..config() };
    let log = store.open_partition("t", 0, timed, Absent::Create).unwrap();
    // Times are ten times the values.
    for value in [0, 10, 5, 11, 12, 21, 22] {
        log.append(batch(value..value + 1), Ack::Durable).await.unwrap();
    }
    let bases =
        |log: &PartitionLog| log.segments(0).unwrap().iter().map(|info| info.base.0).collect::<Vec<_>>();
    assert_eq!(bases(&log), [0, 3, 6]);
    store.close().await;
    // Also for a segment that was begun before a restart.
    let store = open(dir.path());
    let log = store.open_partition("t", 0, timed, Absent::Damage).unwrap();
    log.append(batch(32..33), Ack::Durable).await.unwrap();
    log.append(batch(33..34), Ack::Durable).await.unwrap();
    assert_eq!(bases(&log), [0, 3, 6, 8]);
    let infos = log.segments(0).unwrap();
    assert_eq!((infos[0].first_timestamp_ms, infos[0].newest_ms), (0, 100));
    assert_eq!((infos[3].first_timestamp_ms, infos[3].newest_ms, infos[3].is_active), (330, 330, true));
}
