//! The disk of the notes fails at every call, before it is done and after.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_core::engine::Engine;
use anabranch_core::seam::{Disk, DiskFile, Entry, Lock, Open, RealDisk};
use anabranch_move::MoveError;

use crate::stage::{Side, a_move, judge, source};

/// Fails at one call: the process that sees it stops.
#[derive(Debug, Clone)]
struct FailingDisk {
    calls: Arc<AtomicU64>,
    fails_at: u64,
    is_done: bool,
}

impl FailingDisk {
    fn call<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let fails = self.calls.fetch_add(1, Ordering::SeqCst) == self.fails_at;
        let done = if fails && !self.is_done { None } else { Some(call()?) };
        match done.filter(|_| !fails) {
            Some(done) => Ok(done),
            None => Err(io::Error::other("the process dies here")),
        }
    }
}

impl Disk for FailingDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.call(|| RealDisk.open(path, how))?;
        Ok(Arc::new(FailingFile { file, disk: self.clone() }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.call(|| RealDisk.create_dir_all(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call(|| RealDisk.sync_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(|| RealDisk.rename(from, to))
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

#[derive(Debug)]
struct FailingFile {
    file: Arc<dyn DiskFile>,
    disk: FailingDisk,
}

impl DiskFile for FailingFile {
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        self.file.read_exact_at(into, position)
    }

    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        self.disk.call(|| self.file.write_all_at(parts, position))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.call(|| self.file.sync_data())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_whose_notes_fail_goes_on_from_what_the_target_holds() {
    let source = source().await;
    let here: Arc<dyn Engine> = Arc::new(source.broker.clone());
    for is_done in [false, true] {
        let mut fails_at = 0;
        loop {
            let target = Side::new().await;
            let there: Arc<dyn Engine> = Arc::new(target.broker.clone());
            let disk = FailingDisk { calls: Arc::default(), fails_at, is_done };
            let failing =
                a_move(Arc::clone(&here), Arc::clone(&there)).disk(Arc::new(disk)).notes(target.notes());
            let has_failed = match failing.run().await {
                Ok(_) => false,
                Err(MoveError::Notes { .. }) => true,
                Err(error) => panic!("{error}"),
            };
            if has_failed {
                let again = a_move(Arc::clone(&here), Arc::clone(&there)).notes(target.notes());
                again.run().await.unwrap();
            }
            judge(&*here, &*there, &format!("call {fails_at} of the disk, done: {is_done}")).await;
            target.broker.close().await;
            if !has_failed {
                break;
            }
            fails_at += 1;
        }
        assert!(fails_at > 10, "{fails_at} calls note nothing");
    }
}
