//! A data directory that one process owns.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_core::TopicPartition;
use anabranch_core::seam::{Clock, Dedicated, Disk, Lock, Open, Random, Workers};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::files::Files;
use crate::flusher::Flusher;
use crate::journal::redo;
use crate::journal::ring::Ring;
use crate::spare::Spares;
use crate::writer::{Command, Queue, Writer};
use crate::{Absent, FileCounts, LogConfig, OpenError, PartitionLog, recovery};

pub(crate) const FORMAT: &str = "format";
pub(crate) const TOPICS: &str = "topics";
/// What the format file of this version says.
const FORMAT_TEXT: &str = "anabranch data directory, format 2\n";
/// What that of a version says that knew no transactions: it can be read as it is, but who wrote it cannot read what is written
/// from now on.
const FORMAT_TEXT_BEFORE: &str = "anabranch data directory, format 1\n";

/// How to open a [`Store`].
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The data directory.
    pub root: PathBuf,
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Where the journal's keys come from.
    pub random: Arc<dyn Random>,
    /// Where the writer runs.
    pub workers: Arc<dyn Workers>,
    /// How many appends may wait for the writer; whoever has one more waits.
    pub queue_appends_max: usize,
    /// The size of the journal's files; 0 means that each partition is synced by itself.
    pub journal_file_bytes: u64,
    /// How many files may be open at a time; what is cold is closed.
    pub open_files_max: usize,
    /// `producer.id.expiration.ms`: a producer that has written nothing for so long is forgotten.
    pub producer_expiration_ms: i64,
}

/// A data directory that one process owns. Cheap to clone; all clones are the same store. When the last of them and of
/// its logs is dropped it closes as by [`Store::close`], blocking on the disk.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: StoreConfig,
    files: Files,
    spares: Spares,
    queue: Queue,
    /// Numbers partitions for the writer; one is never used twice.
    next_number: AtomicU64,
    /// The writer, until somebody waits for its end. Held only to take it out.
    writer: Mutex<Option<Dedicated>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.control(Command::Stop(oneshot::channel().0));
        self.join();
    }
}

impl Inner {
    /// Waits for the writer's end, which somebody has asked it for.
    fn join(&self) {
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            writer.join();
        }
    }
}

impl Store {
    /// Takes the directory (creating it), and starts its writer. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed then.
    pub fn open(mut config: StoreConfig) -> Result<Self, OpenError> {
        let unbounded = Arc::clone(&config.disk);
        let files = Files::new(Arc::clone(&config.disk), config.open_files_max);
        config.disk = Arc::new(files.clone());
        let (disk, root) = (config.disk.as_ref(), config.root.as_path());
        check_format(disk, root)?;
        create_root(disk, root)?;
        let lock = lock(disk, root)?;
        write_format(disk, root)?;
        redo::recover(disk, root)?;
        let spares = Spares::open(disk, root);
        let queue = Queue::new(config.queue_appends_max);
        let format = root.join(FORMAT);
        // Kept open, so that no error is missed.
        let all_files = || unbounded.open(&format, Open::Read).map_err(failed("open", &format));
        let (flusher, jobs) = Flusher::new(
            Arc::clone(&config.disk),
            Arc::clone(&config.random),
            root.to_owned(),
            all_files()?,
            queue.clone(),
        );
        let writer = Writer::new(
            Arc::clone(&config.disk),
            Arc::clone(&config.clock),
            root.to_owned(),
            config.producer_expiration_ms,
            all_files()?,
            Ring::new(config.journal_file_bytes, jobs),
            lock,
        );
        let start =
            |name, task| config.workers.dedicate(name, task).map_err(failed("start the writer of", root));
        start("log-flusher", Box::pin(flusher.run()))?;
        let writer = start("log-writer", Box::pin(writer.run(queue.clone())))?;
        let writer = Mutex::new(Some(writer));
        let inner = Inner { config, files, spares, queue, next_number: AtomicU64::new(0), writer };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The topics' names for which there are directories, whether or not anybody knows them.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn topic_directories(&self) -> Result<Vec<String>, OpenError> {
        directories(self.disk().as_ref(), &self.inner.config.root.join(TOPICS))
    }

    /// Whether a topic's directory holds any bytes of records.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn topic_holds_records(&self, topic: &str) -> Result<bool, OpenError> {
        let directory = self.topic_directory(topic);
        let any = || {
            for entry in self.disk().list(&directory)?.iter().filter(|entry| entry.is_dir) {
                if recovery::holds_records(self.disk().as_ref(), &directory.join(&entry.name))? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        any().map_err(failed("look into", &directory))
    }

    /// Opens the log of a partition of `topic`, recovering it; `absent` says what it means when there is none. A damaged
    /// log opens as stopped ([`crate::LogStatus`]), so that others go on. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError::Io`] when it cannot even be looked at or created.
    pub fn open_partition(
        &self,
        topic: &str,
        partition: i32,
        config: LogConfig,
        absent: Absent,
    ) -> Result<PartitionLog, OpenError> {
        let directory = self.topic_directory(topic).join(partition.to_string());
        let id = TopicPartition::new(topic, partition);
        let now_ms = self.inner.config.clock.now_ms();
        let opened = recovery::open(&self.inner.config.disk, directory.clone(), id, config, absent, now_ms)
            .map_err(failed("open", &directory))?;
        let number = self.inner.next_number.fetch_add(1, Ordering::Relaxed);
        if let Some(writer) = opened.writer {
            self.inner.queue.control(Command::Adopt(number, Box::new(writer)));
        }
        Ok(PartitionLog { shared: opened.shared, number, store: self.clone() })
    }

    /// Makes the journal forget a topic: whoever gets its name later must not get its records after a crash. Logs of it must
    /// have been closed; to be called before [`Store::remove_topic`] if any of them was open.
    ///
    /// # Errors
    /// [`OpenError::Io`] when the journal cannot be written.
    pub async fn forget_topic(&self, topic: &str) -> Result<(), OpenError> {
        let (forgotten, done) = oneshot::channel();
        self.inner.queue.control(Command::Forget(topic.to_owned(), forgotten));
        let lost = |_| io::Error::other("the journal cannot be written now");
        done.await.map_err(lost).map_err(failed("forget the records of", &self.topic_directory(topic)))
    }

    /// Removes a topic's directory with all its partitions. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn remove_topic(&self, topic: &str) -> Result<(), OpenError> {
        let directory = self.topic_directory(topic);
        if self.disk().exists(&directory).map_err(failed("look for", &directory))? {
            self.disk().remove_dir_all(&directory).map_err(failed("remove", &directory))?;
            let topics = self.inner.config.root.join(TOPICS);
            self.disk().sync_dir(&topics).map_err(failed("sync", &topics))?;
        }
        Ok(())
    }

    /// Closes the partition for good: waits until its queued appends are done, and refuses further ones.
    pub async fn close_partition(&self, log: &PartitionLog) {
        let (released, done) = oneshot::channel();
        if self.inner.queue.control(Command::Release(log.number, released)) {
            let _ = done.await;
        }
        log.shared.close();
        // Whoever compacts it sees that it is closed, and lets go.
        drop(log.shared.cleaning.lock().await);
    }

    /// Writes and syncs everything, stops the writer, and gives the directory up. Every later append fails.
    pub async fn close(&self) {
        self.inner.queue.close();
        let (stopped, done) = oneshot::channel();
        if self.inner.queue.control(Command::Stop(stopped)) {
            let _ = done.await;
        }
        self.inner.join();
    }

    /// Where work runs that blocks.
    #[must_use]
    pub fn workers(&self) -> &Arc<dyn Workers> {
        &self.inner.config.workers
    }

    /// How many files are open.
    #[must_use]
    pub fn file_counts(&self) -> FileCounts {
        self.inner.files.counts()
    }

    /// How many appends have waited for a place in the queue.
    #[must_use]
    pub fn queue_waits(&self) -> u64 {
        self.inner.queue.waits()
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.inner.queue
    }

    pub(crate) fn spares(&self) -> &Spares {
        &self.inner.spares
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.config.disk
    }

    fn topic_directory(&self, topic: &str) -> PathBuf {
        self.inner.config.root.join(TOPICS).join(topic)
    }
}

pub(crate) fn partition_directory(root: &Path, partition: &TopicPartition) -> PathBuf {
    root.join(TOPICS).join(&partition.topic).join(partition.partition.to_string())
}

pub(crate) fn lock(disk: &dyn Disk, root: &Path) -> Result<Box<dyn Lock>, OpenError> {
    let lock = disk.try_lock(root).map_err(failed("lock", root))?;
    lock.ok_or_else(|| OpenError::InUse(root.to_owned()))
}

/// Refuses what is not ours before anything is touched: an unknown format, or a directory with other things in it.
pub(crate) fn check_format(disk: &dyn Disk, root: &Path) -> Result<(), OpenError> {
    if !disk.exists(root).map_err(failed("look for", root))? {
        return Ok(());
    }
    let file = root.join(FORMAT);
    if disk.exists(&file).map_err(failed("look for", &file))? {
        let found = disk.read(&file).map_err(failed("read", &file))?;
        return match [FORMAT_TEXT, FORMAT_TEXT_BEFORE].iter().any(|known| found == known.as_bytes()) {
            true => Ok(()),
            false => {
                let found = String::from_utf8_lossy(&found).trim().chars().take(80).collect();
                Err(OpenError::UnknownFormat { file, found, expected: FORMAT_TEXT.trim() })
            }
        };
    }
    // A crash in the middle of the first start leaves the one; the other is the file system's own.
    let ours = ["format.tmp", "lost+found"];
    let entries = disk.list(root).map_err(failed("list", root))?;
    match entries.iter().all(|entry| ours.contains(&entry.name.as_str())) {
        true => Ok(()),
        false => Err(OpenError::NotADataDirectory(root.to_owned())),
    }
}

/// Creates the directory, and makes its name and those of its new parents durable. When it is there already, whoever
/// created it may not have come so far.
fn create_root(disk: &dyn Disk, root: &Path) -> Result<(), OpenError> {
    let mut missing = Vec::new();
    for directory in root.ancestors().filter(|directory| !directory.as_os_str().is_empty()) {
        if disk.exists(directory).map_err(failed("look for", directory))? {
            break;
        }
        missing.push(directory);
    }
    disk.create_dir_all(root).map_err(failed("create", root))?;
    let is_new = !missing.is_empty();
    for directory in if is_new { missing } else { vec![root] } {
        let parent = match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        match disk.sync_dir(parent) {
            // It was given to us by somebody who may do more there.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_new => {}
            synced => synced.map_err(failed("sync", parent))?,
        }
    }
    Ok(())
}

fn write_format(disk: &dyn Disk, root: &Path) -> Result<(), OpenError> {
    let (file, topics) = (root.join(FORMAT), root.join(TOPICS));
    let is_there = disk.exists(&file).map_err(failed("look for", &file))?
        && disk.read(&file).map_err(failed("read", &file))? == FORMAT_TEXT.as_bytes();
    match is_there {
        false => disk.replace(&file, FORMAT_TEXT.as_bytes()).map_err(failed("write", &file))?,
        // Whoever wrote it may have died before its name, and that of the topics, were durable.
        true => disk.sync_dir(root).map_err(failed("sync", root))?,
    }
    if !disk.exists(&topics).map_err(failed("look for", &topics))? {
        disk.create_dir_all(&topics).map_err(failed("create", &topics))?;
        disk.sync_dir(root).map_err(failed("sync", root))?;
    }
    Ok(())
}

/// The names of the directories in `path`.
pub(crate) fn directories(disk: &dyn Disk, path: &Path) -> Result<Vec<String>, OpenError> {
    let entries = disk.list(path).map_err(failed("list", path))?;
    Ok(entries.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect())
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |error| OpenError::Io { action, path, error }
}
