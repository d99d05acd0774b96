//! Torn tails are cut, damage is told, derived files are made anew.

use std::fs;
use std::path::{Path, PathBuf};

use anabranch_log::{Absent, Ack, AppendError, FaultCause, LogConfig, LogStatus};

use crate::support::{batch, config, expected, offset, open, values, verify};

fn file(root: &Path, name: &str) -> PathBuf {
    root.join("topics/t/0").join(name)
}

const FIRST: &str = "00000000000000000000.log";

/// Ten batches of two records, closed; the sizes of the log file after each.
async fn ten_batches(root: &Path) -> Vec<u64> {
    let store = open(root);
    let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
    let mut ends = vec![0];
    for value in 0..10 {
        log.append(batch(value * 2..value * 2 + 2), Ack::Durable).await.unwrap();
        ends.push(log.size_bytes());
    }
    store.close().await;
    ends
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let ends = ten_batches(dir.path()).await;
    let whole = fs::read(file(dir.path(), FIRST)).unwrap();
    // As after a crash: what was synced last is not known, and derived files may be gone.
    for bytes in ends[8]..=ends[10] {
        fs::write(file(dir.path(), FIRST), &whole[..bytes as usize]).unwrap();
        for derived in ["durable", "00000000000000000020.snapshot", "00000000000000000000.index"] {
            let _ = fs::remove_file(file(dir.path(), derived));
        }
        let batches = ends.iter().filter(|end| **end > 0 && **end <= bytes).count() as i64;
        let torn = bytes - ends[batches as usize];
        let report = verify(dir.path());
        assert_eq!((report.torn_tail_bytes, report.end, report.faults.len()), (torn, offset(batches * 2), 0));
        let store = open(dir.path());
        let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
        assert_eq!(values(&log), expected(0..batches * 2), "cut at {bytes}");
        let next = batches * 2;
        assert_eq!(log.append(batch(next..next + 1), Ack::Durable).await.unwrap().base_offset, offset(next));
        store.close().await;
        let log = open(dir.path()).open_partition("t", 0, config(), Absent::Create).unwrap();
        assert_eq!(values(&log), expected(0..next + 1));
        for snapshot in [next, next + 1] {
            let _ = fs::remove_file(file(dir.path(), &format!("{snapshot:020}.snapshot")));
        }
    }
}

#[tokio::test]
async fn a_changed_byte_below_the_durable_point_stops_the_partition_and_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let ends = ten_batches(dir.path()).await;
    let whole = fs::read(file(dir.path(), FIRST)).unwrap();
    for at in [ends[3] + 3, ends[3] + 7, ends[3] + 17, ends[3] + 70] {
        let mut bytes = whole.clone();
        bytes[at as usize] ^= 1;
        fs::write(file(dir.path(), FIRST), &bytes).unwrap();
        let report = verify(dir.path());
        assert_eq!(report.faults.len(), 1, "byte {at}");
        // An offset that grew shows at the batch that follows it.
        let shows = if at < ends[3] + 8 { ends[4] } else { ends[3] };
        assert_eq!((report.faults[0].position, report.torn_tail_bytes), (shows, 0), "byte {at}");
        let store = open(dir.path());
        let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
        let other = store.open_partition("t", 1, config(), Absent::Create).unwrap();
        // A reader meets it at the latest: damaged bytes are never served.
        let mut read = Vec::new();
        let mut from = offset(0);
        let fault = loop {
            match log.read(from, 1) {
                Ok(slice) if slice.batches.is_empty() => panic!("byte {at}: the end was reached"),
                Ok(slice) => {
                    read.extend_from_slice(&slice.batches);
                    from = anabranch_core::batch::check_batch(&slice.batches).unwrap().header().next_offset();
                }
                Err(error) => break error,
            }
        };
        // The header after a batch is looked at, too, so that the one before the damage may not come.
        assert!(read == whole[..ends[3] as usize] || read == whole[..ends[2] as usize], "byte {at}");
        assert!(fault.to_string().contains(FIRST), "{fault}");
        assert!(matches!(log.status(), LogStatus::Stopped(_)));
        assert!(matches!(log.append(batch(0..1), Ack::Durable).await, Err(AppendError::Stopped(_))));
        other.append(batch(0..1), Ack::Durable).await.unwrap();
        store.close().await;
        assert_eq!(fs::read(file(dir.path(), FIRST)).unwrap(), bytes, "byte {at}: left as it was");
    }
}

#[tokio::test]
async fn a_log_shorter_than_what_was_durable_stops() {
    let dir = tempfile::tempdir().unwrap();
    let ends = ten_batches(dir.path()).await;
    let whole = fs::read(file(dir.path(), FIRST)).unwrap();
    fs::write(file(dir.path(), FIRST), &whole[..ends[9] as usize]).unwrap();
    let stopped = |cause: fn(&FaultCause) -> bool| {
        let report = verify(dir.path());
        assert!(report.faults.iter().any(|fault| cause(&fault.cause)), "{report:?}");
        let log = open(dir.path()).open_partition("t", 0, config(), Absent::Create).unwrap();
        match log.status() {
            LogStatus::Stopped(fault) => assert!(cause(&fault.cause), "{fault}"),
            other => panic!("{other:?}"),
        }
    };
    stopped(|cause| matches!(cause, FaultCause::Shortened { .. }));
    // Without the note, the snapshot still tells how far the log was durable.
    fs::remove_file(file(dir.path(), "durable")).unwrap();
    stopped(|cause| matches!(cause, FaultCause::EndsElsewhere { .. }));
    assert_eq!(fs::metadata(file(dir.path(), FIRST)).unwrap().len(), ends[9]);
}

#[tokio::test]
async fn a_missing_segment_stops_the_partition() {
    let dir = tempfile::tempdir().unwrap();
    ten_batches(dir.path()).await;
    fs::remove_file(file(dir.path(), FIRST)).unwrap();
    let log = open(dir.path()).open_partition("t", 0, config(), Absent::Create).unwrap();
    assert!(
        matches!(log.status(), LogStatus::Stopped(fault) if matches!(fault.cause, FaultCause::SegmentMissing))
    );
}

/// A segment in the middle that was removed, emptied or cut between two batches was read over in silence, and `check` found
/// everything whole: every batch that is left is right, and only offsets tell.
#[tokio::test]
async fn a_gap_between_segments_is_told_and_not_read_over() {
    let settings = LogConfig { segment_bytes: 400, ..config() };
    let harm: [fn(&Path); 3] = [
        |file| fs::remove_file(file).unwrap(),
        |file| fs::write(file, []).unwrap(),
        |file| {
            let first = u32::from_be_bytes(fs::read(file).unwrap()[8..12].try_into().unwrap()) as usize + 12;
            let whole = fs::read(file).unwrap();
            assert!(whole.len() > first, "the segment has a second batch");
            fs::write(file, &whole[..first]).unwrap();
        },
    ];
    // With the newest snapshot only the last segment is walked at the start; without any, all are.
    for (harm, keeps_snapshots) in harm.iter().flat_map(|harm| [(harm, true), (harm, false)]) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
        for value in 0..30 {
            log.append(batch(value..value + 1), Ack::Durable).await.unwrap();
        }
        store.close().await;
        let names =
            || fs::read_dir(dir.path().join("topics/t/0")).unwrap().map(|entry| entry.unwrap().path());
        let mut segments: Vec<PathBuf> =
            names().filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
        segments.sort();
        assert!(segments.len() > 4);
        harm(&segments[2]);
        if !keeps_snapshots {
            names()
                .filter(|path| path.extension().is_some_and(|e| e == "snapshot"))
                .for_each(|path| fs::remove_file(path).unwrap());
        }
        let is_gap = |cause: &FaultCause| matches!(cause, FaultCause::Gap { .. });
        let report = verify(dir.path());
        assert!(report.faults.iter().any(|fault| is_gap(&fault.cause)), "{report:?}");
        let store = open(dir.path());
        let log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
        let mut from = offset(0);
        let fault = loop {
            match log.read(from, 1) {
                Ok(slice) => {
                    let batch = anabranch_core::batch::check_batch(&slice.batches).unwrap();
                    assert_eq!(batch.header().base_offset, from, "what is missing was read over");
                    from = batch.header().next_offset();
                }
                Err(error) => break error,
            }
        };
        assert!(fault.to_string().contains("are missing before this segment"), "{fault}");
        let LogStatus::Stopped(fault) = log.status() else { panic!("it must have stopped") };
        assert!(is_gap(&fault.cause) && fault.position == 0, "{fault}");
        store.close().await;
    }
}

#[tokio::test]
async fn a_wrong_or_missing_index_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let settings = LogConfig { segment_bytes: 4000, ..config() };
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
    for value in 0..100 {
        log.append(batch(value..value + 1), Ack::Durable).await.unwrap();
    }
    store.close().await;
    let index = file(dir.path(), "00000000000000000000.index");
    let right = fs::read(&index).unwrap();
    assert!(right.len() > 100);
    let zeros = vec![0; right.len()];
    // Another segment's entries carry that segment's checksum; the same segment's, shifted, name no batch's start.
    let other = fs::read(
        fs::read_dir(dir.path().join("topics/t/0"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|extension| extension == "index") && *path != index)
            .unwrap(),
    )
    .unwrap();
    for wrong in [&zeros[..], &right[1..], &other[..], &[][..]] {
        fs::write(&index, wrong).unwrap();
        let report = verify(dir.path());
        assert_eq!(report.derived_wrong.len(), usize::from(wrong.len() >= 20));
        let store = open(dir.path());
        let log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
        assert_eq!(values(&log), expected(0..100));
        assert_eq!(log.find_by_time(155).unwrap().unwrap().offset, offset(16));
        store.close().await;
        assert!(verify(dir.path()).derived_wrong.is_empty());
    }
}

/// Offsets lie outside the checksum. One that grew in the very last batch had none after it to tell: the log went on from
/// there, up to 2^56 records further.
#[tokio::test]
async fn a_last_offset_that_grew_stops_the_partition() {
    let dir = tempfile::tempdir().unwrap();
    let ends = ten_batches(dir.path()).await;
    let whole = fs::read(file(dir.path(), FIRST)).unwrap();
    for at in [ends[9], ends[9] + 3, ends[9] + 6] {
        let mut bytes = whole.clone();
        bytes[at as usize] ^= 1;
        fs::write(file(dir.path(), FIRST), &bytes).unwrap();
        let report = verify(dir.path());
        assert_eq!(report.faults.len(), 1, "byte {at}: {report:?}");
        let log = open(dir.path()).open_partition("t", 0, config(), Absent::Create).unwrap();
        assert!(matches!(log.status(), LogStatus::Stopped(_)), "byte {at}: {:?}", log.status());
    }
    // Past the durable point it is part of what was torn.
    let _ = fs::remove_file(file(dir.path(), "durable"));
    let _ = fs::remove_file(file(dir.path(), "00000000000000000020.snapshot"));
    let log = open(dir.path()).open_partition("t", 0, config(), Absent::Create).unwrap();
    assert_eq!(values(&log), expected(0..18));
}

/// The last batch of a sealed segment had none after it to tell that its offset grew: a fetch brought it, and consumers
/// read over the records that it holds.
#[tokio::test]
async fn an_offset_that_grew_at_the_end_of_a_sealed_segment_stops_the_partition() {
    let settings = LogConfig { segment_bytes: 400, ..config() };
    let whole = tempfile::tempdir().unwrap();
    let store = open(whole.path());
    let log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
    for value in 0..30 {
        log.append(batch(value..value + 1), Ack::Durable).await.unwrap();
    }
    let first = log.read(offset(0), 1 << 20).unwrap().batches;
    let ends: Vec<usize> = anabranch_core::batch::split_batches(first.clone())
        .scan(0, |end, batch| {
            *end += batch.unwrap().bytes().len();
            Some(*end)
        })
        .collect();
    let start = ends[ends.len() - 2];
    let count = ends.len() as i64;
    store.close().await;
    let path = file(whole.path(), FIRST);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), first.len(), "a sealed segment");
    for at in [start + 7, start + 6, start + 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 0x40;
        fs::write(&path, changed).unwrap();
        assert!(!verify(whole.path()).faults.is_empty());
        for search in 0..3 {
            let store = open(whole.path());
            let log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
            match search {
                0 => drop(log.read(offset(count - 1), 1).unwrap_err()),
                1 => drop(log.find_by_time((count - 1) * 10).unwrap_err()),
                _ => drop(log.read(offset(0), 1 << 20).unwrap_err()),
            }
            let LogStatus::Stopped(fault) = log.status() else { panic!("it must have stopped") };
            assert!(matches!(fault.cause, FaultCause::OffsetTooFar { .. }), "{fault}");
            assert_eq!(fault.position, start as u64);
            store.close().await;
        }
    }
}
