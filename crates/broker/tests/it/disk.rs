//! A disk that dies: after so many changes, every further one fails, as if the machine had been switched off.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anabranch_core::seam::{Disk, DiskFile, Entry, Lock, Open, RealDisk};

#[derive(Debug, Clone)]
pub(crate) struct DyingDisk {
    /// How many changes it still makes.
    left: Arc<AtomicI64>,
}

impl DyingDisk {
    pub(crate) fn after(changes: i64) -> Self {
        Self { left: Arc::new(AtomicI64::new(changes)) }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    fn change(&self) -> io::Result<()> {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            1.. => Ok(()),
            _ => {
                self.left.store(-1, Ordering::SeqCst);
                Err(io::Error::other("the disk is dead"))
            }
        }
    }
}

#[derive(Debug)]
struct DyingFile(Arc<dyn DiskFile>, DyingDisk);

impl DiskFile for DyingFile {
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        self.0.read_exact_at(into, position)
    }

    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        self.1.change()?;
        self.0.write_all_at(parts, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.change()?;
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.change()?;
        self.0.set_len(len)
    }
}

impl Disk for DyingDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        if how == Open::Create {
            self.change()?;
        }
        Ok(Arc::new(DyingFile(RealDisk.open(path, how)?, self.clone())))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change()?;
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
