//! Works behind the writer: brings what a full journal file holds to its segments, and makes new files.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_core::planted::{self, Bug};
use anabranch_core::seam::{Disk, DiskFile, Open, Random};
use tokio::sync::{mpsc, oneshot};

use crate::journal::entry::FileHeader;
use crate::journal::ring::{Dirty, JournalFile};
use crate::journal::{JOURNAL, file_name};
use crate::writer::{Command, Queue};

/// What the flusher is asked to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Sync the segments of which the journal file holds bytes.
    Flush { file: u64, dirty: Arc<Vec<Dirty>> },
    /// Make a journal file.
    Make { number: u64, len_bytes: u64 },
}

/// The way to the flusher. There are no more jobs than journal files, so that it need not be bounded.
#[derive(Debug)]
pub(crate) struct Jobs {
    jobs: mpsc::UnboundedSender<Job>,
    stopping: Arc<AtomicBool>,
    ended: oneshot::Receiver<()>,
}

impl Jobs {
    pub(crate) fn send(&self, job: Job) {
        // Fails when the flusher has panicked: then files stay full, and the writer does without.
        let _ = self.jobs.send(job);
    }

    /// Waits until the flusher has ended; what it has not begun is left undone.
    pub(crate) async fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        drop(self.jobs);
        let _ = self.ended.await;
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Flusher {
    disk: Arc<dyn Disk>,
    random: Arc<dyn Random>,
    /// The data directory.
    root: PathBuf,
    /// For syncs of all files.
    all_files: Arc<dyn DiskFile>,
    writer: Queue,
    jobs: mpsc::UnboundedReceiver<Job>,
    stopping: Arc<AtomicBool>,
    _ended: oneshot::Sender<()>,
}

/// So many files are synced together rather than one after another.
pub(crate) const SYNC_ALL_FILES_MIN: usize = 16;

/// How much is filled with zeros before a sync, so that the writer's own syncs do not wait for all of it.
const FILL_BYTES: usize = 1 << 20;

/// Syncs all files; whether that succeeded.
pub(crate) fn sync_all(file: &dyn DiskFile) -> bool {
    file.sync_file_system().is_ok() || planted::is(Bug::FailedSyncOfAllBelieved)
}

impl Flusher {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        random: Arc<dyn Random>,
        root: PathBuf,
        all_files: Arc<dyn DiskFile>,
        writer: Queue,
    ) -> (Self, Jobs) {
        let (sender, jobs) = mpsc::unbounded_channel();
        let (ending, ended) = oneshot::channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let to = Jobs { jobs: sender, stopping: Arc::clone(&stopping), ended };
        (Self { disk, random, root, all_files, writer, jobs, stopping, _ended: ending }, to)
    }

    /// Works until nobody can ask for anything.
    pub(crate) async fn run(mut self) {
        let mut jobs = Vec::new();
        while self.jobs.recv_many(&mut jobs, usize::MAX).await > 0 {
            // What became full during the last flush is flushed together: the more there is to do, the cheaper it gets.
            let mut full = Vec::new();
            for job in jobs.drain(..) {
                match job {
                    _ if self.is_stopping() => {}
                    Job::Flush { file, dirty } => full.push((file, dirty)),
                    Job::Make { number, len_bytes } => {
                        let made = self.make(number, len_bytes);
                        if let Err(error) = &made
                            && !self.is_stopping()
                        {
                            tracing::warn!(%error, "no journal file could be made: each partition is synced by itself meanwhile");
                        }
                        self.writer.control(Command::Made(made.ok()));
                    }
                }
            }
            let is_believed = planted::is(Bug::JournalReusedEarly);
            if !is_believed {
                self.flush(&full);
            }
            for (file, dirty) in full {
                let flushed = is_believed || dirty.iter().all(Dirty::is_settled);
                self.writer.control(Command::Flushed(file, flushed));
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Syncs the segments of full journal files, of which the oldest stands first.
    fn flush(&self, full: &[(u64, Arc<Vec<Dirty>>)]) {
        // The last point of a partition stands for those before.
        let mut known = HashSet::new();
        let all = full.iter().rev().flat_map(|(_, dirty)| dirty.iter());
        let last: Vec<&Dirty> = all.filter(|dirty| known.insert(Arc::as_ptr(&dirty.shared))).collect();
        let unsettled: Vec<&Dirty> = last.iter().copied().filter(|dirty| !dirty.is_settled()).collect();
        if unsettled.len() >= SYNC_ALL_FILES_MIN && sync_all(self.all_files.as_ref()) {
            unsettled.iter().for_each(|dirty| dirty.segment.note_synced(&dirty.shared, dirty.point.bytes));
        }
        for dirty in last {
            if self.is_stopping() {
                return;
            }
            // A partition that stops here has been told; its bytes stay in the journal.
            if dirty.is_settled() || dirty.segment.sync(&dirty.shared).is_ok() {
                dirty.shared.note.lock().advance(self.disk.as_ref(), dirty.point);
            }
        }
    }

    fn make(&self, number: u64, len_bytes: u64) -> std::io::Result<JournalFile> {
        let header = FileHeader { number, key: self.random.next_u64() };
        let directory = self.root.join(JOURNAL);
        self.disk.create_dir_all(&directory)?;
        // Also when it is there: an attempt before may have failed here.
        if !planted::is(Bug::JournalNameNotSynced) {
            self.disk.sync_dir(&self.root)?;
        }
        let path = directory.join(file_name(number));
        self.fill(&directory, &path, header, len_bytes).inspect_err(|_| {
            // Half a file would keep space from everybody; it has no header, so that it means nothing if it stays.
            let _ = self.disk.remove_file(&path);
        })
    }

    fn fill(
        &self,
        directory: &Path,
        path: &Path,
        header: FileHeader,
        len_bytes: u64,
    ) -> std::io::Result<JournalFile> {
        let file = self.disk.open(path, Open::Create)?;
        // Fails at once where there is no room, instead of filling the disk first.
        match file.reserve(0, len_bytes) {
            Err(error) if error.kind() != std::io::ErrorKind::Unsupported => return Err(error),
            _ => {}
        }
        let zeros = vec![0; FILL_BYTES];
        let mut filled = 0;
        while filled < len_bytes {
            if self.is_stopping() {
                return Err(std::io::Error::other("the store is closing"));
            }
            let bytes = (len_bytes - filled).min(FILL_BYTES as u64);
            file.write_all_at(&[&zeros[..bytes as usize]], filled)?;
            file.sync_data()?;
            filled += bytes;
        }
        file.write_all_at(&[&header.encode()], 0)?;
        file.sync_data()?;
        self.disk.sync_dir(directory)?;
        Ok(JournalFile { header, path: path.to_owned(), file, len_bytes })
    }
}
