//! Batches that are found first, and read while they are sent.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anabranch_core::batch::{Batch, BatchBuilder, Compression, Record, check_batch, split_batches};
use anabranch_log::{
    Absent, Ack, Batches, FetchLimits, Isolation, LogConfig, LogStatus, PartitionLog, ReadError, Roll,
};

use crate::support::{config, offset, open};

/// Two records, in so many bytes more.
fn sized(bytes: usize, seed: usize) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    let noise: Vec<u8> = (0..bytes).map(|at| (at * 31 + seed * 7) as u8).collect();
    builder.push(&Record::keyless("first").at(1)).push(&Record::keyless(noise).at(2));
    check_batch(&builder.build().unwrap()).unwrap()
}

const SIZES: [usize; 14] =
    [10, 90_000, 3000, 50, 200_000, 20, 20, 66_000, 400_000, 10, 5000, 300_000, 64 << 10, 120_000];

async fn written(root: &Path, config: LogConfig) -> PartitionLog {
    let log = open(root).open_partition("t", 0, config, Absent::Create).unwrap();
    for (seed, bytes) in SIZES.iter().enumerate() {
        log.append(sized(*bytes, seed), Ack::Durable).await.unwrap();
    }
    log
}

fn limits(bytes_max: usize) -> FetchLimits {
    FetchLimits { bytes_max, first_comes: true, memory_bytes_max: usize::MAX }
}

/// Through a buffer; with the number of records, and what it ended with.
fn read_through(batches: Batches, buffer_bytes: usize) -> (Vec<u8>, u64, Result<(), ReadError>) {
    let mut range = match batches {
        Batches::Read(bytes) => return (bytes.to_vec(), 0, Ok(())),
        Batches::InFile(range) => range,
    };
    let (mut all, mut buffer) = (Vec::new(), vec![0; buffer_bytes]);
    let whole = range.len_bytes();
    loop {
        match range.read_next(&mut buffer) {
            Ok(0) => {
                assert_eq!((all.len(), range.len_bytes()), (whole, 0));
                return (all, range.record_count(), Ok(()));
            }
            Ok(read) => all.extend_from_slice(&buffer[..read]),
            Err(error) => return (all, range.record_count(), Err(error)),
        }
    }
}

/// With an index that tells of many batches, of few, and of none.
#[tokio::test]
async fn what_is_found_is_what_a_read_brings() {
    for (index_interval_bytes, segment_bytes) in [(1, 1 << 20), (100_000, 1 << 30), (u32::MAX, 700_000)] {
        let dir = tempfile::tempdir().unwrap();
        let log = written(dir.path(), LogConfig { index_interval_bytes, segment_bytes, ..config() }).await;
        let mut found = 0;
        for from in 0..2 * SIZES.len() as i64 + 1 {
            for bytes_max in [0, 1, 70_000, 93_300, 150_000, 500_000, 2 << 20] {
                let expected = log.read(offset(from), bytes_max).unwrap();
                for buffer_bytes in [61, 5000, 100_000, 1 << 20] {
                    let slice = log.fetch(offset(from), limits(bytes_max), Isolation::Written).unwrap();
                    assert_eq!(slice.offsets, expected.offsets);
                    let is_found = matches!(slice.batches, Batches::InFile(_));
                    assert!(is_found || slice.batches.len_bytes() < FetchLimits::IN_FILE_BYTES);
                    let (bytes, records, end) = read_through(slice.batches, buffer_bytes);
                    end.unwrap();
                    assert!(bytes == expected.batches, "{from}, {bytes_max}, {buffer_bytes}");
                    if is_found {
                        found += 1;
                        assert_eq!(records, 2 * split_batches(bytes.into()).count() as u64);
                    }
                }
            }
        }
        assert!(found > 100, "{found}");
        let within = FetchLimits { first_comes: false, ..limits(80_000) };
        let first = log.fetch(offset(2), within, Isolation::Written).unwrap();
        assert_eq!(first.batches.len_bytes(), 0, "a batch that is not the first of all waits until it fits");
        let little = FetchLimits { memory_bytes_max: 100, ..limits(100) };
        assert_eq!(
            log.fetch(offset(4), little, Isolation::Written).unwrap().batches.len_bytes(),
            0,
            "so does one without memory"
        );
    }
}

/// Damage in a range is met when its batch is read, and the batch is not handed out: never all of it.
#[tokio::test]
async fn damaged_bytes_in_a_range_are_not_handed_out() {
    const FIRST: &str = "topics/t/0/00000000000000000000.log";
    let whole = LogConfig { segment_bytes: 1 << 30, ..config() };
    // A byte of the offset, of the epoch, of the checksum, of the attributes, and of the last record; of a small batch, one
    // that fits in the buffer, and one that does not.
    let mut starts = vec![0];
    for (seed, bytes) in SIZES.iter().enumerate() {
        starts.push(starts[seed] + sized(*bytes, seed).bytes().len());
    }
    for (number, from_end) in [(5, false), (4, false), (8, false), (8, true), (13, true)] {
        // To the end of the log, and to the end of the damaged batch.
        let all = [7, 15, 17, 22, 2000].map(|at| [(at, 2 << 20), (at, starts[number + 1] - starts[1])]);
        for (at, bytes_max) in all.concat() {
            let dir = tempfile::tempdir().unwrap();
            let log = written(dir.path(), whole).await;
            let length = sized(SIZES[number], number).bytes().len();
            let at = if from_end { length - 1 - at.min(length - 61) } else { at.min(length - 1) };
            let slice = log.fetch(offset(2), limits(bytes_max), Isolation::Written).unwrap();
            let path = dir.path().join(FIRST);
            let good = fs::read(&path).unwrap();
            let mut bad = good.clone();
            bad[starts[number] + at] ^= 1;
            fs::write(&path, &bad).unwrap();
            let (bytes, _, end) = read_through(slice.batches, 250_000);
            let story = format!("byte {at} of batch {number}");
            let error = end.expect_err(&story);
            // An offset that grew shows at the next batch, if that is in the range.
            let is_shown_late = at < 8 && bytes_max == 2 << 20;
            let end = if is_shown_late { starts[number + 1] } else { starts[number] };
            assert!(bytes.len() <= end - starts[1], "{story}: {} bytes", bytes.len());
            assert!(bad[starts[1]..].starts_with(&bytes), "{story}");
            assert!(matches!(error, ReadError::Fault(_)), "{story}: {error}");
            assert!(matches!(log.status(), LogStatus::Stopped(_)), "{story}");
            assert!(log.fetch(offset(2), limits(2 << 20), Isolation::Written).is_err(), "{story}");
        }
    }
}

/// A batch that is larger than the buffer is checked first and read again: it could be another one by then.
#[tokio::test]
async fn a_batch_that_changes_after_it_was_checked_is_never_handed_out_whole() {
    let dir = tempfile::tempdir().unwrap();
    let log = written(dir.path(), LogConfig { segment_bytes: 1 << 30, ..config() }).await;
    let Batches::InFile(mut range) =
        log.fetch(offset(16), limits(400_200), Isolation::Written).unwrap().batches
    else {
        panic!("it is large")
    };
    let (whole, mut buffer) = (range.len_bytes(), vec![0; 100_000]);
    let mut got = range.read_next(&mut buffer).unwrap();
    let start: usize =
        SIZES[..8].iter().enumerate().map(|(seed, bytes)| sized(*bytes, seed).bytes().len()).sum();
    let file = dir.path().join("topics/t/0/00000000000000000000.log");
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(b"changed", (start + 250_000) as u64).unwrap();
    let error = loop {
        match range.read_next(&mut buffer) {
            Ok(read) => got += read,
            Err(error) => break error,
        }
        assert!(got < whole, "all of it was handed out");
    };
    assert!(error.to_string().contains("checksum"), "{error}");
    assert!(matches!(log.status(), LogStatus::Stopped(_)));
}

/// Retention removes a segment of which a range is being sent, and other files take its handle.
#[tokio::test]
async fn a_range_keeps_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let config = LogConfig { segment_bytes: 700_000, ..config() };
    let log = store.open_partition("t", 0, config, Absent::Create).unwrap();
    for (seed, bytes) in SIZES.iter().enumerate() {
        log.append(sized(*bytes, seed), Ack::Durable).await.unwrap();
    }
    let expected = log.read(offset(0), 2 << 20).unwrap().batches;
    let Batches::InFile(mut range) =
        log.fetch(offset(0), limits(2 << 20), Isolation::Written).unwrap().batches
    else {
        panic!("it is large")
    };
    let mut buffer = vec![0; 100_000];
    let mut got = range.read_next(&mut buffer).unwrap();
    assert!(buffer[..got] == expected[..got]);
    let settled = log.settle(Roll::Now).await.unwrap();
    assert!(log.remove_below(&settled, offset(2 * SIZES.len() as i64)).unwrap().segments > 0);
    assert!(!dir.path().join("topics/t/0/00000000000000000000.log").exists());
    for partition in 1..12 {
        // No more than eight handles are open.
        let other = store.open_partition("t", partition, config, Absent::Create).unwrap();
        other.append(sized(100, 1), Ack::Durable).await.unwrap();
    }
    loop {
        match range.read_next(&mut buffer).unwrap() {
            0 => break,
            read => {
                assert!(buffer[..read] == expected[got..got + read]);
                got += read;
            }
        }
    }
    assert_eq!(got, expected.len());
}
