//! A disk whose power goes at a chosen operation. What was not synced by then is kept or lost, by a seed: bytes of files, and
//! each name that was created, renamed or removed.

use std::collections::{BTreeMap, btree_map};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::seam::{Disk, DiskFile, Entry, Lock, Open, Random, RealDisk, SeededRandom};
use parking_lot::Mutex;

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Everything works.
    Works,
    /// After so many operations that change something, the power is off.
    PowerOffAfter(usize),
    /// After so many, one fails as on a full disk.
    OneFailsAfter(usize),
}

/// What is lost of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing: only the process died.
    Nothing,
    /// All of it.
    Everything,
    /// Each with even chances.
    Some(u64),
}

#[derive(Debug)]
enum Undo {
    Create(PathBuf),
    Rename { from: PathBuf, to: PathBuf, replaced: Option<Vec<u8>> },
    Remove { path: PathBuf, bytes: Vec<u8> },
}

impl Undo {
    fn directory(&self) -> &Path {
        let (Self::Create(path) | Self::Rename { to: path, .. } | Self::Remove { path, .. }) = self;
        path.parent().unwrap()
    }

    fn apply(&self) {
        match self {
            Self::Create(path) => drop(fs::remove_file(path)),
            Self::Rename { from, to, replaced } => {
                if fs::rename(to, from).is_ok()
                    && let Some(bytes) = replaced
                {
                    fs::write(to, bytes).unwrap();
                }
            }
            Self::Remove { path, bytes } if !path.exists() => fs::write(path, bytes).unwrap(),
            Self::Remove { .. } => {}
        }
    }
}

#[derive(Debug)]
struct State {
    plan: Plan,
    operations: usize,
    is_off: bool,
    /// In the order in which they were done.
    names: Vec<Undo>,
    /// Files with bytes that were not synced, by inode: a handle, and the bytes at the last sync.
    dirty: BTreeMap<u64, (Arc<dyn DiskFile>, Vec<u8>)>,
    trace: Vec<String>,
}

/// See the top of this file.
#[derive(Debug, Clone)]
pub(crate) struct CrashDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct CrashFile {
    disk: CrashDisk,
    path: PathBuf,
    inode: u64,
    file: Arc<dyn DiskFile>,
}

impl CrashDisk {
    pub(crate) fn new() -> Self {
        let state = State {
            plan: Plan::Works,
            operations: 0,
            is_off: false,
            names: Vec::new(),
            dirty: BTreeMap::new(),
            trace: Vec::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// From now on.
    pub(crate) fn plan(&self, plan: Plan) {
        let mut state = self.0.lock();
        (state.plan, state.operations) = (plan, 0);
        state.trace.clear();
    }

    /// Operations since the plan was made.
    pub(crate) fn operations(&self) -> usize {
        self.0.lock().operations
    }

    /// What was done since the plan was made.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.0.lock().trace.clone()
    }

    /// Only the process died: another finds what was written, be it synced or not.
    pub(crate) fn restart(&self) {
        let mut state = self.0.lock();
        (state.plan, state.operations, state.is_off) = (Plan::Works, 0, false);
    }

    /// Loses what was not synced, once the power is off.
    pub(crate) fn lose(&self, loss: Loss) {
        let mut state = self.0.lock();
        state.is_off = true;
        let random = SeededRandom::new(if let Loss::Some(seed) = loss { seed } else { 0 });
        let is_lost = || match loss {
            Loss::Nothing => false,
            Loss::Everything => true,
            Loss::Some(_) => random.next_u64() & 1 == 1,
        };
        for (file, bytes) in state.dirty.values().filter(|_| is_lost()) {
            file.set_len(0).unwrap();
            file.write_all_at(&[bytes], 0).unwrap();
        }
        for undo in state.names.iter().rev().filter(|_| is_lost()) {
            undo.apply();
        }
    }

    /// Counts an operation that changes something.
    fn step(&self, what: &str, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let done = state.operations;
        match state.plan {
            _ if state.is_off => return Err(io::Error::other("the power is off")),
            Plan::PowerOffAfter(after) if done >= after => {
                state.is_off = true;
                return Err(io::Error::other("the power is off"));
            }
            Plan::OneFailsAfter(after) if done == after => {
                state.operations += 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            _ => {}
        }
        state.operations += 1;
        state.trace.push(format!("{what} {}", path.file_name().unwrap().to_string_lossy()));
        Ok(())
    }

    /// The bytes of a file are about to change.
    fn touch(&self, inode: u64, file: &Arc<dyn DiskFile>) -> io::Result<()> {
        let mut state = self.0.lock();
        if let btree_map::Entry::Vacant(vacant) = state.dirty.entry(inode) {
            let mut bytes = vec![0; usize::try_from(file.len()?).unwrap()];
            file.read_exact_at(&mut bytes, 0)?;
            vacant.insert((Arc::clone(file), bytes));
        }
        Ok(())
    }
}

impl DiskFile for CrashFile {
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        self.file.read_exact_at(into, position)
    }

    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        self.disk.step("write", &self.path)?;
        self.disk.touch(self.inode, &self.file)?;
        self.file.write_all_at(parts, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.step("sync", &self.path)?;
        // The machine does not lose its power: nothing needs to be synced in earnest.
        self.disk.0.lock().dirty.remove(&self.inode);
        Ok(())
    }

    fn reserve(&self, position: u64, len: u64) -> io::Result<()> {
        self.disk.step("reserve", &self.path)?;
        self.file.reserve(position, len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.step("set_len", &self.path)?;
        self.disk.touch(self.inode, &self.file)?;
        self.file.set_len(len)
    }
}

impl Disk for CrashDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let file = match how {
            Open::Create => {
                self.step("create", path)?;
                match path.exists() {
                    true => {
                        let file = RealDisk.open(path, Open::ReadWrite)?;
                        self.touch(fs::metadata(path)?.ino(), &file)?;
                    }
                    false => self.0.lock().names.push(Undo::Create(path.to_owned())),
                }
                RealDisk.open(path, how)?
            }
            Open::Read | Open::ReadWrite => RealDisk.open(path, how)?,
        };
        let inode = fs::metadata(path)?.ino();
        Ok(Arc::new(CrashFile { disk: self.clone(), path: path.to_owned(), inode, file }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step("sync directory", path)?;
        self.0.lock().names.retain(|undo| undo.directory() != path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename to", to)?;
        let replaced = fs::read(to).ok();
        self.0.lock().names.push(Undo::Rename { from: from.to_owned(), to: to.to_owned(), replaced });
        RealDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.step("remove", path)?;
        let bytes = fs::read(path)?;
        self.0.lock().names.push(Undo::Remove { path: path.to_owned(), bytes });
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
