//! A disk that fills up, and is emptied again.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_broker::{Ack, Apply, Broker, NewTopic, ProduceError};
use anabranch_core::batch::{BatchBuilder, Compression, Record, split_batches};
use anabranch_core::seam::{Disk, DiskFile, Entry, Lock, Open, RealDisk};
use anabranch_core::{Offset, TopicPartition};
use anabranch_log::AppendError;
use parking_lot::Mutex;

use crate::soon;

/// The real disk with so much room. Space is counted by the byte, for what files have and what they reserve.
#[derive(Debug, Clone)]
pub(crate) struct SmallDisk(Arc<Mutex<Room>>);

impl SmallDisk {
    pub(crate) fn of(bytes: u64) -> Self {
        Self(Arc::new(Mutex::new(Room { bytes, files: HashMap::new() })))
    }

    pub(crate) fn grow(&self, bytes: u64) {
        self.0.lock().bytes += bytes;
    }
}

#[derive(Debug)]
struct Room {
    bytes: u64,
    files: HashMap<PathBuf, u64>,
}

impl Room {
    fn used(&self) -> u64 {
        self.files.values().sum()
    }

    /// Makes the file take `bytes`, or nothing.
    fn take(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        let has = self.files.get(path).copied().unwrap_or(0);
        if bytes > has && self.used() - has + bytes > self.bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.files.insert(path.to_owned(), bytes.max(has));
        Ok(())
    }
}

#[derive(Debug)]
struct SmallFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    room: Arc<Mutex<Room>>,
}

impl DiskFile for SmallFile {
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        self.file.read_exact_at(into, position)
    }

    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        let bytes = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        // As on a real disk, the first of the bytes are written.
        if let Err(full) = self.room.lock().take(&self.path, position + bytes) {
            let first = &parts.first().copied().unwrap_or_default();
            self.file.write_all_at(&[&first[..first.len() / 2]], position)?;
            return Err(full);
        }
        self.file.write_all_at(parts, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.room.lock().files.insert(self.path.clone(), len);
        Ok(())
    }

    fn reserve(&self, position: u64, len: u64) -> io::Result<()> {
        self.room.lock().take(&self.path, position + len)
    }
}

impl Disk for SmallDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let file = RealDisk.open(path, how)?;
        let mut room = self.0.lock();
        let len = file.len()?;
        match how {
            Open::Create => drop(room.files.insert(path.to_owned(), len)),
            _ => drop(room.files.entry(path.to_owned()).or_insert(len)),
        }
        Ok(Arc::new(SmallFile { file, path: path.to_owned(), room: Arc::clone(&self.0) }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)?;
        let mut room = self.0.lock();
        let moved: Vec<PathBuf> = room.files.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in moved {
            let bytes = room.files.remove(&path).unwrap();
            let below = path.strip_prefix(from).unwrap();
            let path = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
            room.files.insert(path, bytes);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_file(path)?;
        self.0.lock().files.remove(path);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir_all(path)?;
        self.0.lock().files.retain(|file, _| !file.starts_with(path));
        Ok(())
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

fn batch(number: usize, bytes: usize) -> bytes::Bytes {
    let value = format!("{number} {}", "x".repeat(bytes));
    BatchBuilder::new(Compression::None).push(&Record::new("key", value).at(1)).build().unwrap()
}

/// While records fill the disk their producers are told so, and offsets are committed all the same; nothing that was
/// acknowledged is lost; and when there is room again, everything goes on by itself.
#[tokio::test]
async fn a_full_disk_is_told_and_commits_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::of(16 << 20);
    let open = async || Broker::builder().data(dir.path()).disk(Arc::new(disk.clone())).open().await.unwrap();
    let broker = open().await;
    let new = NewTopic::new("t").partitions(2).config("segment.bytes", "1000000");
    broker.create_topic(new, Apply::Now).await.unwrap();
    let at = |number: usize| broker.partition(&TopicPartition::new("t", number as i32 % 2)).unwrap();
    let mut acknowledged: [Vec<(Offset, usize)>; 2] = Default::default();
    let mut number = 0;
    let mut produce = async |bytes: usize, acknowledged: &mut [Vec<(Offset, usize)>; 2]| {
        number += 1;
        let produced = soon(at(number).produce(batch(number, bytes), Ack::Durable)).await?;
        acknowledged[number % 2].push((produced.base_offset, number));
        Ok::<(), ProduceError>(())
    };
    // In each round these take more than half of what is set aside (4 MiB), and all of it in two rounds.
    let commit = async |offset: i64| {
        let mut commit = crate::groups::simple_commit("t", offset);
        commit.offsets[0].metadata = "m".repeat(4000);
        assert_eq!(soon(broker.groups().commit(commit)).await.unwrap(), [Ok(())], "commit {offset}");
    };
    let mut commits = 0;
    for round in 0..3 {
        // Larger and smaller records, until nothing fits.
        for bytes in [100_000, 1000, 10] {
            let mut failures = 0;
            while failures < 5 {
                match produce(bytes, &mut acknowledged).await {
                    Ok(()) => {}
                    Err(ProduceError::Log(AppendError::WriteFailed(error))) => {
                        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                        failures += 1;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
        for _ in 0..550 {
            commit(commits).await;
            commits += 1;
            // Others keep trying meanwhile, and get none of what is set aside.
            assert!(produce(1000, &mut acknowledged).await.is_err());
        }
        assert!(acknowledged.iter().all(|of_one| of_one.len() > 10), "{round}");
        // Room again, and everything goes on.
        disk.grow(4 << 20);
        commit(commits).await;
        commits += 1;
        produce(10_000, &mut acknowledged).await.unwrap();
        produce(10_000, &mut acknowledged).await.unwrap();
    }
    let check = |broker: &Broker| {
        for (partition, expected) in acknowledged.iter().enumerate() {
            let partition = broker.partition(&TopicPartition::new("t", partition as i32)).unwrap();
            let mut found = Vec::new();
            let mut next = Offset(0);
            while next < partition.offsets().high_watermark {
                for batch in split_batches(partition.fetch(next, 1 << 20, None).unwrap().batches) {
                    let batch = batch.unwrap();
                    next = batch.header().next_offset();
                    for at in batch.records().unwrap() {
                        let value = at.record.value.unwrap();
                        let number = value.split(|byte| *byte == b' ').next().unwrap();
                        found.push((at.offset, str::from_utf8(number).unwrap().parse().unwrap()));
                    }
                }
            }
            assert_eq!(&found, expected, "each once, and nothing else");
        }
    };
    check(&broker);
    let committed = async |broker: &Broker| {
        let of_one = [("t".to_owned(), 0)];
        let found = broker.groups().fetch_offsets("g", &of_one, true).await.remove(0);
        found.unwrap().unwrap().offset
    };
    assert_eq!(committed(&broker).await, commits - 1);
    broker.close().await;
    let broker = open().await;
    check(&broker);
    assert_eq!(committed(&broker).await, commits - 1);
    broker.close().await;
}
