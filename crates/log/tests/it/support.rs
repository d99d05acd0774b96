//! What the tests share: a store in a temporary directory, batches, and a disk whose failures are told beforehand.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_core::batch::{Batch, BatchBuilder, Compression, Record, check_batch, split_batches};
use anabranch_core::seam::{Disk, DiskFile, Entry, Lock, ManualClock, Open, RealDisk, Threads, Workers};
use anabranch_core::{Offset, ProducerEpoch, ProducerId, TopicPartition};
use anabranch_log::{LogConfig, Offline, PartitionLog, PartitionReport, Store, StoreConfig};
use parking_lot::{Condvar, Mutex};

pub(crate) fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 1 << 20,
        segment_ms: i64::MAX,
        segment_jitter_ms: 0,
        flush_messages: 1,
        flush_ms: i64::MAX,
        index_interval_bytes: 256,
        segment_index_bytes: 10 << 20,
        reserve_bytes: 0,
    }
}

pub(crate) fn open_on(disk: Arc<dyn Disk>, root: &Path) -> Store {
    open_with(disk, root, Arc::new(Threads))
}

pub(crate) fn open_with(disk: Arc<dyn Disk>, root: &Path, workers: Arc<dyn Workers>) -> Store {
    Store::open(StoreConfig {
        root: root.to_owned(),
        disk,
        clock: Arc::new(ManualClock::at(1_000_000)),
        workers,
        random: std::sync::Arc::new(anabranch_core::seam::OsRandom),
        journal_file_bytes: 0,
        queue_appends_max: 1024,
        open_files_max: 8,
        producer_expiration_ms: i64::MAX,
    })
    .unwrap()
}

pub(crate) fn open(root: &Path) -> Store {
    open_on(Arc::new(RealDisk), root)
}

/// What the offline check says of partition 0 of `t`.
pub(crate) fn verify(root: &Path) -> PartitionReport {
    let offline = Offline::open(Arc::new(RealDisk), root).unwrap();
    let partition = TopicPartition::new("t", 0);
    assert!(offline.partitions().unwrap().contains(&partition));
    offline.verify(&partition).unwrap()
}

/// A copy of a data directory that nobody has open.
pub(crate) fn copied(root: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &to),
                false => drop(std::fs::copy(entry.path(), to).unwrap()),
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy(root, dir.path());
    dir
}

/// A batch of one record per value; timestamps are what the values say, times 10.
pub(crate) fn batch(values: std::ops::Range<i64>) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.push(&Record::new("key", format!("value {value}")).at(value * 10));
    }
    check_batch(&builder.build().unwrap()).unwrap()
}

pub(crate) fn producer_batch(epoch: i16, sequence: i32, value: &str) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .producer(ProducerId(7), ProducerEpoch(epoch), sequence)
        .push(&Record::new("key", value.to_owned()));
    check_batch(&builder.build().unwrap()).unwrap()
}

/// All visible records, by reading as a consumer does.
pub(crate) fn values(log: &PartitionLog) -> Vec<(i64, String)> {
    let mut values = Vec::new();
    let mut from = log.offsets().log_start;
    loop {
        let slice = log.read(from, 300).unwrap();
        if slice.batches.is_empty() {
            return values;
        }
        for batch in split_batches(slice.batches) {
            let batch = batch.unwrap();
            for at in batch.records().unwrap() {
                if at.offset >= from {
                    let value = String::from_utf8(at.record.value.unwrap().to_vec()).unwrap();
                    values.push((at.offset.0, value));
                }
            }
            from = batch.header().next_offset();
        }
    }
}

pub(crate) fn expected(range: std::ops::Range<i64>) -> Vec<(i64, String)> {
    range.map(|value| (value, format!("value {value}"))).collect()
}

pub(crate) fn offset(offset: i64) -> Offset {
    Offset(offset)
}

/// What a [`FailingDisk`] does wrong, until told otherwise.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// The next removal of a segment, and the next read after it.
    pub(crate) next_removal_fails: AtomicBool,
    next_read_fails: AtomicBool,
    pub(crate) writes_fail: AtomicBool,
    /// The next write of batches.
    pub(crate) next_write_fails: AtomicBool,
    pub(crate) syncs_fail: AtomicBool,
    /// A file that could not be created is there all the same: what failed came after.
    pub(crate) creates_fail: AtomicBool,
    pub(crate) dir_syncs_fail: AtomicBool,
    /// This file cannot be opened, as if it could not be read.
    pub(crate) unreadable: Mutex<Option<PathBuf>>,
    /// Directories whose names were made durable.
    pub(crate) synced_dirs: Mutex<Vec<PathBuf>>,
    /// Syncs wait while this is set; with how many may pass.
    held: Mutex<Option<u32>>,
    released: Condvar,
}

impl Faults {
    pub(crate) fn hold_syncs(&self) {
        *self.held.lock() = Some(0);
    }

    pub(crate) fn release_one_sync(&self) {
        *self.held.lock() = Some(1);
        self.released.notify_all();
    }

    pub(crate) fn release_syncs(&self) {
        *self.held.lock() = None;
        self.released.notify_all();
    }
}

/// The real disk, with [`Faults`] in `*.log` and `durable`. A failing write writes half of its bytes first.
#[derive(Debug, Default, Clone)]
pub(crate) struct FailingDisk {
    pub(crate) faults: Arc<Faults>,
}

#[derive(Debug)]
struct FailingFile {
    file: Arc<dyn DiskFile>,
    faults: Arc<Faults>,
}

impl DiskFile for FailingFile {
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        if self.faults.next_read_fails.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("planted"));
        }
        self.file.read_exact_at(into, position)
    }

    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        // Batches are written in parts, and the note of the durable point is not.
        let fails_once = parts.len() > 1 && self.faults.next_write_fails.swap(false, Ordering::SeqCst);
        if fails_once || self.faults.writes_fail.load(Ordering::SeqCst) {
            let bytes = parts.concat();
            self.file.write_all_at(&[&bytes[..bytes.len() / 2]], position)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all_at(parts, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut held = self.faults.held.lock();
        while *held == Some(0) {
            self.faults.released.wait(&mut held);
        }
        *held = held.map(|left| left - 1);
        drop(held);
        if self.faults.syncs_fail.load(Ordering::SeqCst) {
            return Err(io::Error::other("planted"));
        }
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

impl Disk for FailingDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        if self.faults.unreadable.lock().as_deref() == Some(path) {
            return Err(io::Error::other("planted"));
        }
        if path.extension().is_none_or(|extension| extension != "log") && !path.ends_with("durable") {
            return RealDisk.open(path, how);
        }
        if how == Open::Create && self.faults.creates_fail.load(Ordering::SeqCst) {
            RealDisk.open(path, how)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(Arc::new(FailingFile { file: RealDisk.open(path, how)?, faults: Arc::clone(&self.faults) }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.faults.dir_syncs_fail.load(Ordering::SeqCst) {
            return Err(io::Error::other("planted"));
        }
        self.faults.synced_dirs.lock().push(path.to_owned());
        RealDisk.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let is_segment = path.extension().is_some_and(|extension| extension == "log");
        if is_segment && self.faults.next_removal_fails.swap(false, Ordering::SeqCst) {
            self.faults.next_read_fails.store(true, Ordering::SeqCst);
            return Err(io::Error::other("planted"));
        }
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
