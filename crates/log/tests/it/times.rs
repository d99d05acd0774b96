//! Searches by time: against a model, with indexes that are lost or wrong, and in how many bytes they read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_core::Offset;
use anabranch_core::batch::{Batch, BatchBuilder, Compression, Record, check_batch};
use anabranch_core::seam::{Disk, DiskFile, Entry, Lock, Open, RealDisk};
use anabranch_log::{Absent, Ack, LogConfig, PartitionLog, Timestamped};
use proptest::prelude::*;

use crate::support::{config, open, open_on};

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn batch_of(codec: Compression, times: &[i64], appended_ms: Option<i64>) -> Batch {
    let mut builder = BatchBuilder::new(codec);
    for time in times {
        builder.push(&Record::new("key", "value").at(*time));
    }
    let batch = check_batch(&builder.build().unwrap()).unwrap();
    appended_ms.map_or(batch.clone(), |at| batch.with_log_append_time(at))
}

/// What a search finds: offset and timestamp.
fn found(found: Option<Timestamped>) -> Option<(i64, i64)> {
    found.map(|at| (at.offset.0, at.timestamp_ms))
}

/// Compares every search with one over all the records' times.
fn compare(log: &PartitionLog, times: &[i64]) {
    let all = || times.iter().copied().zip(0..).map(|(time, offset)| (offset, time));
    for asked in -1..=102 {
        let expected = all().find(|(_, time)| *time >= asked);
        assert_eq!(found(log.find_by_time(asked).unwrap()), expected, "asked for {asked} in {times:?}");
    }
    let max = times.iter().max();
    let expected = all().find(|(_, time)| Some(time) == max);
    assert_eq!(found(log.find_max_time().unwrap()), expected, "the largest of {times:?}");
}

fn files(root: &Path, extension: &str) -> Vec<PathBuf> {
    let names = fs::read_dir(root.join("topics/t/0")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = names.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

/// What happens to an index while the log is closed.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Nothing,
    Lost,
    Cut(prop::sample::Index),
    Flipped(prop::sample::Index),
    Swapped,
}

impl Harm {
    fn do_to(self, index: &Path, other: &Path) {
        let mut bytes = fs::read(index).unwrap();
        match self {
            Self::Nothing => return,
            Self::Lost => return fs::remove_file(index).unwrap(),
            Self::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
            Self::Flipped(_) if bytes.is_empty() => {}
            Self::Flipped(at) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 4;
            }
            Self::Swapped => bytes = fs::read(other).unwrap(),
        }
        fs::write(index, bytes).unwrap();
    }
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        Just(Harm::Nothing),
        Just(Harm::Lost),
        any::<prop::sample::Index>().prop_map(Harm::Cut),
        any::<prop::sample::Index>().prop_map(Harm::Flipped),
        Just(Harm::Swapped),
    ]
}

/// A batch: its codec, its records' times, and whether the broker gave them theirs.
type Sent = (Compression, Vec<i64>, Option<i64>);

fn sent() -> impl Strategy<Value = Sent> {
    let time = prop_oneof![4 => 0..100i64, 1 => Just(-1)];
    (
        prop::sample::select(&CODECS[..]),
        prop::collection::vec(time, 1..5),
        prop::option::weighted(0.2, 0..100i64),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_time_finds_what_a_search_over_all_records_finds(
        batches in prop::collection::vec(sent(), 0..40),
        more in prop::collection::vec(sent(), 0..10),
        segment_bytes in 200..3000u32,
        index_interval_bytes in 0..500u32,
        harms in prop::collection::vec((harm(), any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let settings = LogConfig { segment_bytes, index_interval_bytes, ..config() };
            let mut times = Vec::new();
            for (round, batches) in [batches, more].iter().enumerate() {
                let store = open(dir.path());
                let log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
                compare(&log, &times);
                for (codec, of_records, appended) in batches {
                    log.append(batch_of(*codec, of_records, *appended), Ack::Durable).await.unwrap();
                    times.extend(of_records.iter().map(|time| appended.unwrap_or(*time)));
                }
                compare(&log, &times);
                store.close().await;
                let indexes = files(dir.path(), "index");
                if round == 0 && !indexes.is_empty() {
                    for (harm, index, other) in &harms {
                        let (index, other): (&PathBuf, &PathBuf) = (index.get(&indexes), other.get(&indexes));
                        if index.exists() && other.exists() {
                            harm.do_to(index, other);
                        }
                    }
                }
            }
            let store = open(dir.path());
            let log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
            compare(&log, &times);
            store.close().await;
        });
    }
}

/// The real disk, counting what is read of files whose name ends in `.log` or `.index`.
#[derive(Debug, Default, Clone)]
struct CountingDisk {
    read_bytes: Arc<AtomicU64>,
}

#[derive(Debug)]
struct CountingFile(Arc<dyn DiskFile>, Arc<AtomicU64>);

impl DiskFile for CountingFile {
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        self.1.fetch_add(into.len() as u64, Ordering::SeqCst);
        self.0.read_exact_at(into, position)
    }

    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        self.0.write_all_at(parts, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

impl Disk for CountingDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(CountingFile(RealDisk.open(path, how)?, Arc::clone(&self.read_bytes))))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        RealDisk.try_lock(path)
    }
}

/// A search reads an interval of the index and a batch, and not the segment; what it learns of sealed segments it keeps. An
/// index that was lost or cut is made anew once, and not walked around for ever.
#[tokio::test]
async fn a_search_reads_little_and_a_lost_index_is_missed_once() {
    const BATCHES: i64 = 600;
    const SEGMENTS: usize = 4;
    // A look-up reads some entries of an index, a window of 8 KiB at its place and one at the next batch, and a batch of 16.
    const SEARCH_BYTES: u64 = 36 << 10;
    let dir = tempfile::tempdir().unwrap();
    let value = "x".repeat(16_000);
    let segment_bytes = 600 / SEGMENTS as u32 * 16_100;
    let settings = LogConfig { segment_bytes, index_interval_bytes: 4096, flush_messages: 1000, ..config() };
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
    for time in 0..BATCHES {
        let record = Record::new("key", value.clone()).at(time * 10);
        let bytes = BatchBuilder::new(Compression::None).push(&record).build().unwrap();
        log.append(check_batch(&bytes).unwrap(), Ack::Written).await.unwrap();
    }
    store.close().await;
    let segments = files(dir.path(), "log");
    assert_eq!(segments.len(), SEGMENTS);
    let segment_len = fs::metadata(&segments[0]).unwrap().len();

    let search = async |what: &str, first_bytes_max: u64| {
        let disk = CountingDisk::default();
        let store = open_on(Arc::new(disk.clone()), dir.path());
        let log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
        let costs = |asked: i64| {
            let before = disk.read_bytes.load(Ordering::SeqCst);
            let expected = (asked + 9) / 10;
            assert_eq!(
                found(log.find_by_time(asked).unwrap()),
                Some((expected, expected * 10)),
                "{what}: {asked}"
            );
            disk.read_bytes.load(Ordering::SeqCst) - before
        };
        let last = BATCHES * 10 - 15;
        // The first search looks at the end of each segment.
        let first = costs(last);
        assert!(first <= first_bytes_max, "{what}: the first search read {first} bytes");
        for asked in (0..last).step_by(333) {
            let later = costs(asked);
            assert!(later <= SEARCH_BYTES, "{what}: a search for {asked} read {later} bytes");
        }
        let before = disk.read_bytes.load(Ordering::SeqCst);
        assert_eq!(found(log.find_max_time().unwrap()), Some((BATCHES - 1, (BATCHES - 1) * 10)));
        let max = disk.read_bytes.load(Ordering::SeqCst) - before;
        assert!(max <= 2 * SEARCH_BYTES, "{what}: the largest time took {max} bytes");
        let before = disk.read_bytes.load(Ordering::SeqCst);
        let read = log.read(Offset(77), 1).unwrap().batches.len() as u64;
        let read = disk.read_bytes.load(Ordering::SeqCst) - before - read;
        assert!(read <= SEARCH_BYTES, "{what}: a fetch read {read} bytes more than it brought");
        store.close().await;
    };
    let whole = SEGMENTS as u64 * SEARCH_BYTES;
    search("whole", whole).await;
    let index = dir.path().join("topics/t/0").join(segments[1].with_extension("index").file_name().unwrap());
    let right = fs::read(&index).unwrap();
    fs::remove_file(&index).unwrap();
    search("lost", whole + 2 * segment_len + (2 << 20)).await;
    assert_eq!(fs::read(&index).unwrap(), right, "the index is back");
    search("back", whole).await;
    for keep in [0, 20, 1000, right.len() / 40 * 20] {
        fs::write(&index, &right[..keep]).unwrap();
        search("cut", whole + 2 * segment_len + (2 << 20)).await;
        assert_eq!(fs::read(&index).unwrap(), right, "cut to {keep}: the index is back");
    }
    // A wrong entry is met when a search comes by.
    let mut wrong = right.clone();
    let last = wrong.len() - 3;
    wrong[last] ^= 1;
    fs::write(&index, wrong).unwrap();
    search("wrong", whole + 2 * segment_len).await;
    assert_eq!(fs::read(&index).unwrap(), right);
}
