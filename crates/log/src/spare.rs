//! Space that is set aside for the log's start: a full disk gets room by retention only after it is said what will go.
//!
//! A few small files lie in `DIR/spare`, empty, with room for what a mark has. Where there is no space for a new `start`,
//! one of them is written, which takes nothing from anybody, and gets the name. When segments have gone there is room to set
//! aside another. Without `fallocate` nothing is set aside.

use std::io;
use std::path::{Path, PathBuf};

use anabranch_core::seam::{Disk, Open};
use parking_lot::Mutex;

const DIRECTORY: &str = "spare";
pub(crate) const EXTENSION: &str = "spare";
/// What one file may hold.
const SPARE_BYTES: u64 = 4096;
/// More than one, since producers may be faster than whoever sets the next aside.
const SPARES_MAX: usize = 4;

/// See the module.
#[derive(Debug)]
pub(crate) struct Spares {
    directory: PathBuf,
    /// Which files are ready. Held while one is used or made: there is nothing faster to be had on a full disk.
    ready: Mutex<[bool; SPARES_MAX]>,
}

impl Spares {
    /// Those of the data directory `root`, as many as there is space for.
    pub(crate) fn open(disk: &dyn Disk, root: &Path) -> Self {
        let spares = Self { directory: root.join(DIRECTORY), ready: Mutex::default() };
        spares.refill(disk);
        spares
    }

    fn path(&self, number: usize) -> PathBuf {
        self.directory.join(format!("{number}.{EXTENSION}"))
    }

    /// Sets space aside for those that were used.
    pub(crate) fn refill(&self, disk: &dyn Disk) {
        let mut ready = self.ready.lock();
        for number in 0..SPARES_MAX {
            if ready[number] {
                continue;
            }
            match self.set_aside(disk, &self.path(number)) {
                Ok(()) => ready[number] = true,
                Err(error) => {
                    tracing::debug!(directory = %self.directory.display(), %error, "no space can be set aside");
                    return;
                }
            }
        }
    }

    fn set_aside(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        disk.create_dir_all(&self.directory)?;
        // One that is there keeps the space that it has.
        if disk.exists(path)? {
            return disk.open(path, Open::ReadWrite)?.reserve(0, SPARE_BYTES);
        }
        disk.open(path, Open::Create)?.reserve(0, SPARE_BYTES).inspect_err(|_| {
            let _ = disk.remove_file(path);
        })
    }

    /// [`Disk::replace`], also where there is no space for it.
    pub(crate) fn replace(&self, disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
        assert!(bytes.len() as u64 <= SPARE_BYTES, "what is replaced fits what is set aside for it");
        let error = match disk.replace(path, bytes) {
            Err(error) if is_full(&error) => error,
            outcome => return outcome,
        };
        let mut ready = self.ready.lock();
        let Some(number) = ready.iter().position(|ready| *ready) else { return Err(error) };
        // Whatever comes of it, it is looked at anew before it is used again.
        ready[number] = false;
        let spare = self.path(number);
        let file = disk.open(&spare, Open::ReadWrite)?;
        file.write_all_at(&[bytes], 0)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_data()?;
        disk.rename(&spare, path)?;
        tracing::info!(file = %path.display(), "the disk is full: this was written to space that was set aside");
        match path.parent() {
            Some(directory) => disk.sync_dir(directory),
            None => Ok(()),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
