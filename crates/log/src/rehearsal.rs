//! A disk on which nothing happens: what is read comes from the disk below, what is written stays in memory.
//!
//! Whoever opens a data directory through it does all that recovery does, and [`Rehearsal::changes`] tells what that would
//! have changed. The files below are opened for reading only.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::seam::{Disk, DiskFile, Entry, Lock, Open};
use parking_lot::Mutex;

/// See the module.
#[derive(Debug, Clone)]
pub struct Rehearsal {
    below: Arc<dyn Disk>,
    root: PathBuf,
    /// Files and directories below the root as they were; the value says whether it is a directory.
    before: Arc<BTreeMap<PathBuf, bool>>,
    /// As they would be. Held for one operation.
    now: Arc<Mutex<BTreeMap<PathBuf, Node>>>,
}

/// What would be different afterwards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A file or directory would be there that is not.
    Created {
        /// Its path.
        path: PathBuf,
        /// How long it would be; `None` for a directory.
        bytes: Option<u64>,
    },
    /// A file would be gone, or a directory with all that is in it.
    Removed {
        /// Its path.
        path: PathBuf,
    },
    /// The end of a file would be gone, and what is left would be as it is.
    Cut {
        /// Its path.
        path: PathBuf,
        /// How long it is.
        from_bytes: u64,
        /// How long it would be.
        to_bytes: u64,
    },
    /// A file would be longer, or have other bytes.
    Written {
        /// Its path.
        path: PathBuf,
        /// The first byte that would be another.
        position: u64,
        /// How long it is.
        from_bytes: u64,
        /// How long it would be.
        to_bytes: u64,
    },
}

#[derive(Debug, Clone)]
enum Node {
    File(Arc<Mutex<Content>>),
    Directory,
}

impl Rehearsal {
    /// A rehearsal on the directory `root` of the disk `below`.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn new(below: Arc<dyn Disk>, root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        let mut before = BTreeMap::from([(root.clone(), true)]);
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in below.list(&directory)? {
                let path = directory.join(entry.name);
                before.insert(path.clone(), entry.is_dir);
                directories.extend(Some(path).filter(|_| entry.is_dir));
            }
        }
        let node = |(path, is_dir): (&PathBuf, &bool)| {
            let file = || Node::File(Arc::new(Mutex::new(Content::of(path.clone()))));
            (path.clone(), if *is_dir { Node::Directory } else { file() })
        };
        let now = before.iter().map(node).collect();
        Ok(Self { below, root, before: Arc::new(before), now: Arc::new(Mutex::new(now)) })
    }

    /// What has come of it so far, by path.
    ///
    /// # Errors
    /// When the disk below cannot be read.
    pub fn changes(&self) -> io::Result<Vec<Change>> {
        let now = self.now.lock().clone();
        let mut changes = Vec::new();
        for (path, node) in &now {
            let path = path.clone();
            match (node, self.before.get(&path)) {
                (Node::Directory, Some(true)) => {}
                (Node::Directory, _) => changes.push(Change::Created { path, bytes: None }),
                (Node::File(content), Some(false)) => {
                    changes.extend(self.compare(path, &mut content.lock())?);
                }
                (Node::File(content), _) => {
                    let bytes = Some(content.lock().load(self.below.as_ref())?.len);
                    changes.push(Change::Created { path, bytes });
                }
            }
        }
        let is_gone = |path: &Path| self.before.contains_key(path) && !now.contains_key(path);
        let gone = self.before.keys().filter(|path| is_gone(path) && !path.parent().is_some_and(is_gone));
        changes.extend(gone.map(|path| Change::Removed { path: path.clone() }));
        changes.sort();
        Ok(changes)
    }

    fn compare(&self, path: PathBuf, content: &mut Content) -> io::Result<Option<Change>> {
        if !content.differs && content.from == Some(path.clone()) {
            return Ok(None);
        }
        let content = content.load(self.below.as_ref())?;
        let file = self.below.open(&path, Open::Read)?;
        let (from_bytes, to_bytes) = (file.len()?, content.len);
        let common = from_bytes.min(to_bytes);
        let (mut old, mut new) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
        let mut at = 0;
        while at < common {
            let bytes = usize::try_from(common - at).map_or(COMPARE_BYTES, |left| left.min(COMPARE_BYTES));
            file.read_exact_at(&mut old[..bytes], at)?;
            content.read(&mut new[..bytes], at)?;
            if let Some(first) = old[..bytes].iter().zip(&new[..bytes]).position(|(old, new)| old != new) {
                let position = at + first as u64;
                return Ok(Some(Change::Written { path, position, from_bytes, to_bytes }));
            }
            at += bytes as u64;
        }
        Ok(match from_bytes.cmp(&to_bytes) {
            std::cmp::Ordering::Less => {
                Some(Change::Written { path, position: common, from_bytes, to_bytes })
            }
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(Change::Cut { path, from_bytes, to_bytes }),
        })
    }
}

const COMPARE_BYTES: usize = 1 << 20;

/// Everything below `path`, and itself.
fn subtree(nodes: &BTreeMap<PathBuf, Node>, path: &Path) -> Vec<PathBuf> {
    let from = (Bound::Included(path.to_owned()), Bound::Unbounded);
    nodes.range(from).map(|(path, _)| path.clone()).take_while(|below| below.starts_with(path)).collect()
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for Rehearsal {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut now = self.now.lock();
        let content = match (now.get(path), how) {
            (Some(Node::File(content)), _) => Arc::clone(content),
            (Some(Node::Directory), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (None, Open::Read | Open::ReadWrite) => return Err(not_found()),
            (None, Open::Create) => {
                let parent = path.parent().and_then(|parent| now.get(parent));
                let Some(Node::Directory) = parent else { return Err(not_found()) };
                let content = Arc::new(Mutex::new(Content::default()));
                now.insert(path.to_owned(), Node::File(Arc::clone(&content)));
                content
            }
        };
        drop(now);
        let mut opened = content.lock();
        opened.load(self.below.as_ref())?;
        if how == Open::Create {
            opened.set_len(0);
        }
        drop(opened);
        Ok(Arc::new(File(content)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut now = self.now.lock();
        let missing: Vec<&Path> =
            path.ancestors().take_while(|above| above.starts_with(&self.root)).collect();
        for directory in missing.into_iter().rev() {
            match now.get(directory) {
                None => drop(now.insert(directory.to_owned(), Node::Directory)),
                Some(Node::Directory) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            }
        }
        Ok(())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut now = self.now.lock();
        let moved = subtree(&now, from);
        let parent = to.parent().and_then(|parent| now.get(parent));
        if moved.is_empty() || !matches!(parent, Some(Node::Directory)) {
            return Err(not_found());
        }
        if from == to {
            return Ok(());
        }
        for replaced in subtree(&now, to) {
            now.remove(&replaced);
        }
        for path in moved {
            let node = now.remove(&path).expect("it was listed");
            let below = path.strip_prefix(from).expect("it lies below");
            // A path joined with nothing would end in a separator.
            let path = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
            now.insert(path, node);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut now = self.now.lock();
        match now.get(path) {
            Some(Node::File(_)) => {
                now.remove(path);
                Ok(())
            }
            _ => Err(not_found()),
        }
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut now = self.now.lock();
        let Some(Node::Directory) = now.get(path) else { return Err(not_found()) };
        for below in subtree(&now, path) {
            now.remove(&below);
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let now = self.now.lock();
        let Some(Node::Directory) = now.get(path) else { return Err(not_found()) };
        let mut entries = Vec::new();
        for below in subtree(&now, path).iter().filter(|below| below.parent() == Some(path)) {
            if let Some(name) = below.file_name().and_then(|name| name.to_str()) {
                let is_dir = matches!(now[below], Node::Directory);
                entries.push(Entry { name: name.to_owned(), is_dir });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match path.starts_with(&self.root) {
            true => Ok(self.now.lock().contains_key(path)),
            false => self.below.exists(path),
        }
    }

    /// Always: whoever rehearses holds the real one.
    fn try_lock(&self, _path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        Ok(Some(Box::new(NoLock)))
    }
}

#[derive(Debug)]
struct NoLock;

impl Lock for NoLock {}

/// What is written is kept in pages of this size.
const PAGE_BYTES: u64 = 4096;

/// A file's bytes: those of a file below, with pages laid over them.
#[derive(Debug, Default)]
struct Content {
    /// The file below from which it comes.
    from: Option<PathBuf>,
    /// That file, once it was opened.
    below: Option<Arc<dyn DiskFile>>,
    /// How much of that file still shows.
    below_bytes: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
    len: u64,
    differs: bool,
}

impl Content {
    fn of(path: PathBuf) -> Self {
        Self { from: Some(path), ..Self::default() }
    }

    /// Opens the file below, if that was not done.
    fn load(&mut self, disk: &dyn Disk) -> io::Result<&mut Self> {
        if let (Some(path), None) = (&self.from, &self.below) {
            let below = disk.open(path, Open::Read)?;
            self.below_bytes = below.len()?;
            self.len = self.below_bytes;
            self.below = Some(below);
        }
        Ok(self)
    }

    fn read(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        if position + into.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        into.fill(0);
        if let Some(below) = self.below.as_ref().filter(|_| position < self.below_bytes) {
            let bytes = (self.below_bytes - position).min(into.len() as u64) as usize;
            below.read_exact_at(&mut into[..bytes], position)?;
        }
        let end = position + into.len() as u64;
        for (page, bytes) in self.pages.range(position / PAGE_BYTES..end.div_ceil(PAGE_BYTES)) {
            let start = page * PAGE_BYTES;
            let (from, to) = (start.max(position), (start + PAGE_BYTES).min(end));
            into[(from - position) as usize..(to - position) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8], mut position: u64) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(()); // It makes no file longer.
        }
        self.differs = true;
        self.len = self.len.max(position + bytes.len() as u64);
        while !bytes.is_empty() {
            let page = position / PAGE_BYTES;
            let start = page * PAGE_BYTES;
            let from = (position - start) as usize;
            let count = bytes.len().min(PAGE_BYTES as usize - from);
            if !self.pages.contains_key(&page) {
                let mut fresh = vec![0; PAGE_BYTES as usize].into_boxed_slice();
                if let Some(below) = self.below.as_ref().filter(|_| start < self.below_bytes) {
                    let old = (self.below_bytes - start).min(PAGE_BYTES) as usize;
                    below.read_exact_at(&mut fresh[..old], start)?;
                }
                self.pages.insert(page, fresh);
            }
            let into = self.pages.get_mut(&page).expect("it was just put there");
            into[from..from + count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            position += count as u64;
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        self.differs |= len != self.len;
        self.below_bytes = self.below_bytes.min(len);
        self.pages.split_off(&len.div_ceil(PAGE_BYTES));
        if let Some(last) = self.pages.get_mut(&(len / PAGE_BYTES)) {
            last[(len % PAGE_BYTES) as usize..].fill(0);
        }
        self.len = len;
    }
}

#[derive(Debug)]
struct File(Arc<Mutex<Content>>);

impl DiskFile for File {
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        self.0.lock().read(into, position)
    }

    fn write_all_at(&self, parts: &[&[u8]], mut position: u64) -> io::Result<()> {
        let mut content = self.0.lock();
        for part in parts {
            content.write(part, position)?;
            position += part.len() as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().set_len(len);
        Ok(())
    }

    fn reserve(&self, _position: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::seam::RealDisk;
    use proptest::prelude::*;

    use super::*;

    const NAMES: &[&str] = &["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "f"];

    #[derive(Debug, Clone)]
    enum Op {
        Open(Open),
        Write(u64, Vec<u8>),
        SetLen(u64),
        Read(u64, usize),
        Rename(usize),
        RemoveFile,
        RemoveDirectory,
        CreateDirectory,
        List,
    }

    fn op() -> impl Strategy<Value = Op> {
        let at = || 0..9000u64;
        prop_oneof![
            prop::sample::select(vec![Open::Read, Open::ReadWrite, Open::Create]).prop_map(Op::Open),
            (at(), prop::collection::vec(any::<u8>(), 0..5000)).prop_map(|(at, bytes)| Op::Write(at, bytes)),
            at().prop_map(Op::SetLen),
            (at(), 0..5000usize).prop_map(|(at, bytes)| Op::Read(at, bytes)),
            (0..NAMES.len()).prop_map(Op::Rename),
            Just(Op::RemoveFile),
            Just(Op::RemoveDirectory),
            Just(Op::CreateDirectory),
            Just(Op::List),
        ]
    }

    /// What the operation brings on a disk, so far as a program can see it.
    fn run(disk: &dyn Disk, root: &Path, name: &str, op: &Op) -> Option<Vec<u8>> {
        let path = root.join(name);
        let written = |change: &dyn Fn(&dyn DiskFile) -> io::Result<()>| -> io::Result<Vec<u8>> {
            let file = disk.open(&path, Open::ReadWrite)?;
            change(file.as_ref())?;
            Ok(file.len()?.to_be_bytes().to_vec())
        };
        let done = |result: io::Result<()>| result.map(|()| Vec::new());
        let is_directory = disk.list(&path).is_ok();
        let result = match op {
            // Linux opens a directory for reading, too; nobody does.
            Op::Open(Open::Read) | Op::Read(..) if is_directory => Ok(Vec::new()),
            Op::Open(how) => disk.open(&path, *how).and_then(|file| Ok(file.len()?.to_be_bytes().to_vec())),
            Op::Write(at, bytes) => written(&|file| {
                file.write_all_at(&[&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]], *at)
            }),
            Op::SetLen(len) => written(&|file| file.set_len(*len)),
            Op::Read(at, bytes) => disk.open(&path, Open::Read).and_then(|file| {
                let mut read = vec![0; *bytes];
                file.read_exact_at(&mut read, *at).map(|()| read)
            }),
            // Only files are renamed here: what a full directory in the way does is the operating system's affair.
            Op::Rename(to) if !is_directory && disk.list(&root.join(NAMES[*to])).is_err() => {
                done(disk.rename(&path, &root.join(NAMES[*to])))
            }
            Op::Rename(_) => Ok(Vec::new()),
            Op::RemoveFile => done(disk.remove_file(&path)),
            Op::RemoveDirectory if is_directory => done(disk.remove_dir_all(&path)),
            Op::RemoveDirectory => Ok(Vec::new()),
            Op::CreateDirectory => done(disk.create_dir_all(&path)),
            Op::List => disk.list(&path).map(|entries| format!("{entries:?}").into_bytes()),
        };
        result.ok()
    }

    fn everything(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut found = BTreeMap::new();
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in RealDisk.list(&directory).unwrap() {
                let path = directory.join(entry.name);
                found.insert(path.clone(), (!entry.is_dir).then(|| RealDisk.read(&path).unwrap()));
                directories.extend(Some(path).filter(|_| entry.is_dir));
            }
        }
        found
    }

    /// The changes from one directory to another, named as in the first.
    fn difference(from: &Path, to: &Path) -> Vec<Change> {
        let named = |path: &PathBuf, root: &Path| path.strip_prefix(root).unwrap().to_owned();
        let of = |root: &Path| -> BTreeMap<PathBuf, Option<Vec<u8>>> {
            everything(root).into_iter().map(|(path, content)| (named(&path, root), content)).collect()
        };
        let (old, new) = (of(from), of(to));
        let mut changes = Vec::new();
        for (name, content) in &new {
            let path = from.join(name);
            match (old.get(name), content) {
                (Some(Some(old)), Some(new)) if old != new => {
                    let position = old.iter().zip(new).take_while(|(old, new)| old == new).count();
                    let (from_bytes, to_bytes) = (old.len() as u64, new.len() as u64);
                    changes.push(match position == new.len() {
                        true => Change::Cut { path, from_bytes, to_bytes },
                        false => Change::Written { path, position: position as u64, from_bytes, to_bytes },
                    });
                }
                (Some(old), new) if old.is_some() == new.is_some() => {}
                (_, new) => {
                    changes.push(Change::Created { path, bytes: new.as_ref().map(|new| new.len() as u64) });
                }
            }
        }
        let is_gone = |name: &Path| old.contains_key(name) && !new.contains_key(name);
        let gone = old.keys().filter(|name| is_gone(name) && !name.parent().is_some_and(is_gone));
        changes.extend(gone.map(|name| Change::Removed { path: from.join(name) }));
        changes.sort();
        changes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_as_on_the_disk_and_nothing_happens(
            before in prop::collection::vec((0..NAMES.len(), op()), 0..15),
            ops in prop::collection::vec((0..NAMES.len(), op()), 0..40),
        ) {
            let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            for (name, op) in &before {
                for root in [left.path(), right.path()] {
                    run(&RealDisk, root, NAMES[*name], op);
                }
            }
            let untouched = everything(left.path());
            let rehearsal = Rehearsal::new(Arc::new(RealDisk), left.path()).unwrap();
            prop_assert_eq!(rehearsal.changes().unwrap(), []);
            for (name, op) in &ops {
                let rehearsed = run(&rehearsal, left.path(), NAMES[*name], op);
                let done = run(&RealDisk, right.path(), NAMES[*name], op);
                prop_assert_eq!(rehearsed, done, "{} {:?}", NAMES[*name], op);
            }
            prop_assert_eq!(rehearsal.changes().unwrap(), difference(left.path(), right.path()));
            prop_assert_eq!(everything(left.path()), untouched);
        }
    }
}
