//! Damages the files of a partition, as many as the input says, and starts on them: what is damaged is told, and is never taken
//! for something else. Whatever is read is what was written; and where one file alone is damaged, all of it is there, or the
//! start or the partition says that it is not.
//!
//! The input: which of two directories (after a clean stop, and after the death of the process), then five bytes for each
//! damage: which file, where, what.

#![no_main]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anabranch_core::batch::{Batch, BatchBuilder, Compression, EndKind, EndMarker, Record, check_batch};
use anabranch_core::seam::{Disk, ManualClock, Open, RealDisk, SeededRandom};
use anabranch_core::{Offset, ProducerEpoch, ProducerId};
use anabranch_log::{
    Aborted, Absent, Ack, Isolation, LogConfig, Part, PartitionLog, ProducerState, Rehearsal, Store,
    StoreConfig,
};
use anabranch_sim::random::Chance;
use anabranch_sim::workers::SimWorkers;
use libfuzzer_sys::fuzz_target;

/// A damage is told by five bytes, and there may be so many.
const DAMAGES_MAX: usize = 8;
/// What is zeroed at a time: a torn write.
const SECTOR_BYTES: usize = 512;
/// Read in so many bytes at a time, so that there are many reads.
const READ_BYTES: usize = 500;

/// A directory as it was left, and what is in it.
struct Left {
    files: Vec<(PathBuf, Vec<u8>)>,
    seen: Seen,
}

/// What readers of a partition see.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Each read, of all that is written and of what is committed.
    written: Vec<Vec<u8>>,
    committed: Vec<(Vec<u8>, Vec<Aborted>)>,
    producers: Vec<ProducerState>,
}

/// Somebody said that something is wrong.
struct Told;

fuzz_target!(|data: &[u8]| {
    static LEFT: OnceLock<[Left; 2]> = OnceLock::new();
    let left = LEFT.get_or_init(|| [true, false].map(|is_stopped| run(leave(is_stopped))));
    let Some((which, damages)) = data.split_first() else { return };
    let left = &left[usize::from(*which) % left.len()];
    let mut files = left.files.clone();
    let mut damaged = BTreeSet::new();
    for damage in damages.as_chunks::<5>().0.iter().take(DAMAGES_MAX) {
        damaged.extend(spoil(&mut files, *damage));
    }
    run(start(files, &left.seen, damaged.len()));
});

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a thread is there").block_on(work)
}

/// Which file is damaged; none if the input names nothing that is there.
fn spoil(files: &mut Vec<(PathBuf, Vec<u8>)>, [file, high, low, kind, with]: [u8; 5]) -> Option<PathBuf> {
    let file = usize::from(file);
    let other = files.get(usize::from(with)).map(|(_, bytes)| bytes.clone());
    let (path, bytes) = files.get_mut(file)?;
    let (path, at) = (path.clone(), usize::from(u16::from_be_bytes([high, low])));
    match kind {
        0 => drop(files.remove(file)),
        1 if at < bytes.len() => bytes.truncate(at),
        2 if at < bytes.len() => {
            let end = bytes.len().min(at + SECTOR_BYTES);
            bytes[at..end].fill(0);
        }
        3 => bytes.extend(std::iter::repeat_n(with, at % SECTOR_BYTES)),
        // Another file's bytes, as a file system that mixed them up would give.
        4 => *bytes = other?,
        _ => *bytes.get_mut(at)? ^= with,
    }
    Some(path)
}

/// Reads a directory, and demands what the target is for.
async fn start(files: Vec<(PathBuf, Vec<u8>)>, left: &Seen, damaged: usize) {
    let (root, disk) = directory(&files);
    let Ok(store) = open(&disk, &root) else { return };
    let Ok(log) = store.open_partition("t", 0, config(), Absent::Damage) else { return };
    let mut seen = Seen::default();
    let told = read(&log, &mut seen).await.is_err();
    let (written, expected) = (seen.written.concat(), left.written.concat());
    assert!(expected.starts_with(&written), "what is read was written");
    if damaged > 1 || told {
        return; // where the note of the durable point is lost with what it was of, a tail is torn
    }
    assert_eq!(written.len(), expected.len(), "what is missing is told");
    assert_eq!(&seen, left, "all that is known of it is right");
}

/// Reads all there is.
async fn read(log: &PartitionLog, seen: &mut Seen) -> Result<(), Told> {
    let mut next = log.offsets().log_start;
    assert_eq!(next, Offset(0), "nothing was deleted");
    loop {
        let slice = log.read(next, READ_BYTES).map_err(|_| Told)?;
        let Some(after) = after(&slice.batches) else { break };
        seen.written.push(slice.batches.to_vec());
        next = after;
    }
    next = Offset(0);
    loop {
        let slice = log.read_within(next, READ_BYTES, Isolation::Committed).map_err(|_| Told)?;
        let Some(after) = after(&slice.batches) else { break };
        seen.committed.push((slice.batches.to_vec(), slice.aborted));
        next = after;
    }
    seen.producers = log.producers().await.map_err(|_| Told)?;
    Ok(())
}

/// The offset after these batches.
fn after(batches: &bytes::Bytes) -> Option<Offset> {
    let batches = anabranch_core::batch::split_batches(batches.clone());
    batches.last().map(|batch| batch.expect("what is served is whole").header().next_offset())
}

/// A partition of some segments: producers that count, codecs, transactions of either end, and one that is open.
async fn leave(is_stopped: bool) -> Left {
    let (root, disk) = directory(&[]);
    let store = open(&disk, &root).unwrap_or_else(|Told| panic!("an empty directory can be opened"));
    let log = store.open_partition("t", 0, config(), Absent::Create).expect("it is made");
    for number in 0..12_i32 {
        let ordinal = u64::try_from(number / 4 + 1).expect("it counts up");
        let part = Some(Part { ordinal, version: 2 });
        let epoch = ProducerEpoch((number / 4) as i16);
        append(&log, data(7, epoch, number % 4, true, Compression::None), part).await;
        append(&log, data(8, ProducerEpoch(0), number, false, Compression::Zstd), None).await;
        if number % 4 == 3 && number < 11 {
            let kind = if number == 3 { EndKind::Abort } else { EndKind::Commit };
            let end = EndMarker { kind, coordinator_epoch: 0 };
            append(&log, end.batch(ProducerId(7), ProducerEpoch(epoch.0 + 1), 2000), part).await;
        }
    }
    if is_stopped {
        store.close().await;
    }
    let files = files(disk.as_ref(), &root);
    let mut seen = Seen::default();
    let (again, copy) = directory(&files);
    let store = open(&copy, &again).unwrap_or_else(|Told| panic!("what was left can be opened"));
    let log = store.open_partition("t", 0, config(), Absent::Damage).expect("it is there");
    assert!(read(&log, &mut seen).await.is_ok(), "what was left can be read");
    assert!(seen.committed.iter().any(|(_, aborted)| !aborted.is_empty()), "something was aborted");
    assert!(seen.committed.concat_len() < seen.written.concat().len(), "something is open");
    Left { files, seen }
}

trait ConcatLen {
    fn concat_len(&self) -> usize;
}

impl ConcatLen for Vec<(Vec<u8>, Vec<Aborted>)> {
    fn concat_len(&self) -> usize {
        self.iter().map(|(bytes, _)| bytes.len()).sum()
    }
}

fn data(
    producer: i64,
    epoch: ProducerEpoch,
    sequence: i32,
    in_transaction: bool,
    codec: Compression,
) -> Batch {
    let mut builder = BatchBuilder::new(codec);
    builder.producer(ProducerId(producer), epoch, sequence);
    if in_transaction {
        builder.transactional();
    }
    builder.push(&Record::new("key", format!("{producer} {sequence} {}", "x".repeat(40))).at(1000));
    check_batch(&builder.build().expect("a record is a batch")).expect("it was just built")
}

async fn append(log: &PartitionLog, batch: Batch, part: Option<Part>) {
    let pending = log.submit_in(batch, Ack::Durable, part).await.expect("it is queued");
    pending.answer().await.expect("it is appended");
}

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 600,
        segment_ms: i64::MAX,
        segment_jitter_ms: 0,
        flush_messages: 1,
        flush_ms: i64::MAX,
        index_interval_bytes: 100,
        segment_index_bytes: 1 << 20,
        reserve_bytes: 0,
    }
}

fn open(disk: &Arc<Rehearsal>, root: &Path) -> Result<Store, Told> {
    let opened = Store::open(StoreConfig {
        root: root.to_owned(),
        disk: Arc::<Rehearsal>::clone(disk),
        clock: Arc::new(ManualClock::at(1_000_000)),
        random: Arc::new(SeededRandom::new(1)),
        workers: Arc::new(SimWorkers::new(Chance::new(1))),
        queue_appends_max: 16,
        journal_file_bytes: 16_384,
        open_files_max: 1000,
        producer_expiration_ms: i64::MAX,
    });
    opened.map_err(|_| Told)
}

/// These files in a directory in memory; below it is an empty one that is never written to.
fn directory(files: &[(PathBuf, Vec<u8>)]) -> (PathBuf, Arc<Rehearsal>) {
    let root = std::env::temp_dir().join("anabranch-fuzz-damage");
    RealDisk.create_dir_all(&root).expect("a directory for nothing");
    let disk = Rehearsal::new(Arc::new(RealDisk), &root).expect("nothing can be listed");
    for (name, bytes) in files {
        let path = root.join(name);
        disk.create_dir_all(path.parent().expect("a file is in a directory")).expect("in memory");
        let file = disk.open(&path, Open::Create).expect("in memory");
        file.write_all_at(&[bytes], 0).expect("in memory");
    }
    (root, Arc::new(disk))
}

/// All files, by name, with what is in them.
fn files(disk: &dyn Disk, root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut directories) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in disk.list(&directory).expect("in memory") {
            let path = directory.join(entry.name);
            if entry.is_dir {
                directories.push(path);
            } else {
                let name = path.strip_prefix(root).expect("it is below").to_owned();
                found.push((name, disk.read(&path).expect("in memory")));
            }
        }
    }
    found.sort();
    found
}
