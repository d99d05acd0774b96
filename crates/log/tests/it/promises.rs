//! What is acknowledged is there, in order, once, after any reopening.

use anabranch_core::Offset;
use anabranch_core::seam::RealDisk;
use anabranch_log::{Absent, Ack, AppendError, LogConfig, OpenError, ReadError, Waiter};
use proptest::prelude::*;

use crate::support::{batch, config, expected, offset, open, producer_batch, values, verify};

#[tokio::test]
async fn records_are_read_as_they_were_written_before_and_after_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let small = LogConfig { segment_bytes: 2000, ..config() };
    let log = store.open_partition("t", 0, small, Absent::Create).unwrap();
    for value in 0..200 {
        let appended = log.append(batch(value..value + 1), Ack::Durable).await.unwrap();
        assert_eq!((appended.base_offset, appended.duplicate), (offset(value), false));
    }
    assert_eq!(values(&log), expected(0..200));
    assert!(std::fs::read_dir(dir.path().join("topics/t/0")).unwrap().count() > 10);
    store.close().await;
    assert!(matches!(log.append(batch(0..1), Ack::Durable).await, Err(AppendError::Closed)));

    let store = open(dir.path());
    let log = store.open_partition("t", 0, small, Absent::Create).unwrap();
    assert_eq!(values(&log), expected(0..200));
    assert_eq!(log.append(batch(200..203), Ack::Written).await.unwrap().last_offset, offset(202));
    let ends = log.offsets();
    assert_eq!((ends.log_start, ends.log_end), (offset(0), offset(203)));
    store.close().await;
}

#[tokio::test]
async fn offsets_out_of_range_are_told_with_the_range() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).open_partition("t", 0, config(), Absent::Create).unwrap();
    log.append(batch(0..5), Ack::Durable).await.unwrap();
    for asked in [-1, 6, i64::MAX] {
        let refused = log.read(Offset(asked), 100).unwrap_err();
        assert!(matches!(refused, ReadError::OutOfRange { end: Offset(5), .. }), "{asked}: {refused}");
    }
    assert!(log.read(Offset(5), 100).unwrap().batches.is_empty());
    // The batch that holds the offset comes whole, also when it is larger than what was asked for.
    assert_eq!(log.read(Offset(4), 1).unwrap().batches.len(), batch(0..5).bytes().len());
}

#[tokio::test]
async fn appends_are_stored_in_the_order_in_which_they_are_submitted() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).open_partition("t", 0, config(), Absent::Create).unwrap();
    let mut pending = Vec::new();
    for value in 0..500 {
        pending.push(log.submit(batch(value..value + 1), Ack::Durable).await.unwrap());
    }
    for (value, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.answer().await.unwrap().base_offset, offset(value as i64));
    }
    assert_eq!(values(&log), expected(0..500));
}

#[tokio::test]
async fn a_waiter_is_woken_by_an_append_to_any_of_its_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let logs =
        [0, 1].map(|partition| store.open_partition("t", partition, config(), Absent::Create).unwrap());
    for log in &logs {
        let waiter = Waiter::new();
        logs.iter().for_each(|log| log.register(&waiter));
        log.append(batch(0..1), Ack::Durable).await.unwrap();
        waiter.woken().await;
    }
}

#[tokio::test]
async fn a_retried_batch_is_stored_once_also_after_a_reopening_without_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let store = open(dir.path());
        let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
        for sequence in 0..=round {
            let appended = log.append(producer_batch(0, sequence, "x"), Ack::Durable).await.unwrap();
            assert_eq!(appended.base_offset, offset(i64::from(sequence)));
            assert_eq!(appended.duplicate, sequence < round);
        }
        let gap = log.append(producer_batch(0, round + 2, "x"), Ack::Durable).await;
        assert!(matches!(gap, Err(AppendError::OutOfOrderSequence { .. })));
        store.close().await;
        for entry in std::fs::read_dir(dir.path().join("topics/t/0")).unwrap() {
            let path = entry.unwrap().path();
            if round == 1 && path.extension().is_some_and(|extension| extension == "snapshot") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn records_are_found_by_time_also_when_times_go_back_and_forth() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log =
        store.open_partition("t", 0, LogConfig { segment_bytes: 3000, ..config() }, Absent::Create).unwrap();
    assert!(log.find_by_time(0).unwrap().is_none());
    assert!(log.find_max_time().unwrap().is_none());
    // 0 50 10 51 20 52 ...: the even places grow by ten, the odd ones by one.
    let times: Vec<i64> = (0..300).map(|at| if at % 2 == 0 { at * 5 } else { 50 + at / 2 }).collect();
    for &time in &times {
        log.append(batch(time..time + 1), Ack::Durable).await.unwrap();
    }
    for wanted in [0, 1, 500, 505, 520, 2000, 7000, 14_900] {
        let first = times.iter().position(|time| time * 10 >= wanted).unwrap();
        let found = log.find_by_time(wanted).unwrap().unwrap();
        assert_eq!((found.offset.0 as usize, found.timestamp_ms), (first, times[first] * 10), "{wanted}");
    }
    assert!(log.find_by_time(14_901).unwrap().is_none());
    let max = log.find_max_time().unwrap().unwrap();
    assert_eq!((max.offset, max.timestamp_ms), (offset(298), 14_900));
}

#[tokio::test]
async fn relaxed_durability_shows_and_acknowledges_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let relaxed = LogConfig { flush_messages: i64::MAX, flush_ms: 50, ..config() };
    let log = store.open_partition("t", 0, relaxed, Absent::Create).unwrap();
    log.append(batch(0..3), Ack::Durable).await.unwrap();
    assert_eq!(log.offsets().high_watermark, offset(3));
    store.close().await;
    let log = open(dir.path()).open_partition("t", 0, relaxed, Absent::Create).unwrap();
    assert_eq!(values(&log), expected(0..3));
}

#[tokio::test]
async fn a_directory_has_one_owner_and_one_format() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let again = || {
        anabranch_log::Store::open(anabranch_log::StoreConfig {
            root: dir.path().to_owned(),
            disk: std::sync::Arc::new(RealDisk),
            clock: std::sync::Arc::new(anabranch_core::seam::SystemClock::new()),
            workers: std::sync::Arc::new(anabranch_core::seam::Threads),
            random: std::sync::Arc::new(anabranch_core::seam::OsRandom),
            journal_file_bytes: 0,
            queue_appends_max: 1,
            open_files_max: 8,
            producer_expiration_ms: 0,
        })
    };
    assert!(matches!(again().unwrap_err(), OpenError::InUse(_)));
    store.close().await;
    again().unwrap().close().await;
    std::fs::write(dir.path().join("format"), "anabranch data directory, format 99\n").unwrap();
    let refused = again().unwrap_err();
    assert!(refused.to_string().contains("format 99"), "{refused}");
    std::fs::remove_file(dir.path().join("format")).unwrap();
    assert!(matches!(again().unwrap_err(), OpenError::NotADataDirectory(_)));
}

#[tokio::test]
async fn closing_a_partition_refuses_further_appends_and_lets_the_topic_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
    log.append(batch(0..3), Ack::Written).await.unwrap();
    assert!(store.topic_holds_records("t").unwrap());
    store.close_partition(&log).await;
    assert!(matches!(log.append(batch(0..1), Ack::Written).await, Err(AppendError::Closed)));
    assert!(matches!(log.read(offset(0), 10), Err(ReadError::Closed)));
    store.remove_topic("t").unwrap();
    assert!(store.topic_directories().unwrap().is_empty());
    let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
    assert_eq!(log.offsets().log_end, offset(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any mix of batch sizes, segment sizes and reopenings: every offset is found, every time answered as a scan would.
    #[test]
    fn any_history_is_read_back(
        sizes in prop::collection::vec(1i64..40, 1..60),
        segment_bytes in 200u32..20_000,
        index_interval_bytes in 1u32..5000,
        reopen_every in 1usize..20,
        drop_derived in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let settings = LogConfig { segment_bytes, index_interval_bytes, ..config() };
            let mut store = open(dir.path());
            let mut log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
            let mut next = 0;
            for (at, size) in sizes.iter().enumerate() {
                log.append(batch(next..next + size), Ack::Durable).await.unwrap();
                next += size;
                if at % reopen_every == 0 {
                    store.close().await;
                    if drop_derived {
                        for entry in std::fs::read_dir(dir.path().join("topics/t/0")).unwrap() {
                            let path = entry.unwrap().path();
                            if path.extension().is_none_or(|extension| extension != "log") {
                                std::fs::remove_file(path).unwrap();
                            }
                        }
                    }
                    store = open(dir.path());
                    log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
                }
            }
            assert_eq!(values(&log), expected(0..next));
            for wanted in (0..next).step_by(7) {
                let slice = log.read(Offset(wanted), 1).unwrap();
                let first = anabranch_core::batch::check_batch(&slice.batches).unwrap();
                assert!(first.header().base_offset.0 <= wanted && wanted <= first.header().last_offset().0);
                assert_eq!(log.find_by_time(wanted * 10 - 3).unwrap().unwrap().offset, Offset(wanted));
            }
            assert_eq!(log.find_max_time().unwrap().unwrap().offset, Offset(next - 1));
            store.close().await;
            let report = verify(dir.path());
            assert_eq!((report.records as i64, report.end.0, report.torn_tail_bytes), (next, next, 0));
            assert!(report.faults.is_empty() && report.derived_wrong.is_empty(), "{report:?}");
        });
    }
}

#[tokio::test]
async fn a_segment_whose_index_is_full_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let settings = LogConfig { index_interval_bytes: 0, segment_index_bytes: 100, ..config() };
    let bases = || {
        let names = std::fs::read_dir(dir.path().join("topics/t/0")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut bases: Vec<i64> = names.filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect();
        bases.sort_unstable();
        bases
    };
    // The first batch of a segment needs no entry, so that five entries are six batches. A restart forgets nothing.
    for round in 0..2 {
        let store = open(dir.path());
        let log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
        for value in round * 8..round * 8 + 8 {
            log.append(batch(value..value + 1), Ack::Durable).await.unwrap();
        }
        store.close().await;
    }
    assert_eq!(bases(), [0, 6, 12]);
}
