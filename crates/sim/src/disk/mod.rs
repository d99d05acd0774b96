//! A disk in memory that keeps what a disk keeps, and lies as disks lie.
//!
//! Of each file there is what the page cache has and what the platter has (`pages`); of each directory likewise
//! (`names`). A sync makes the one the other. When the power goes, of what was under way any part is there: sectors of
//! 512 bytes, lengths, names, each by itself. When the process dies, the page cache stays.
//!
//! What is adversarial beyond what Linux and ext4 do: names become durable in any order, a sync of a file says nothing
//! of its name, and a sync of a directory nothing of any other.

mod faults;
mod names;
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_core::seam::{Disk, DiskFile, Entry, Lock, Open};
use parking_lot::{Mutex, MutexGuard};

use faults::is_due;
pub use faults::{Ahead, Fault, Happened};
use names::{Change, Inode, Names};
use pages::Pages;

use crate::clock::SimClock;
use crate::random::Chance;
use crate::trace::Trace;

/// What a listener is told.
#[derive(Debug, Clone, Copy)]
pub enum Moment<'a> {
    /// This file is about to be synced: whatever was answered or shown before now was so before the sync.
    Sync(&'a Path),
    /// The disk will answer no more: whatever was answered before now was answered.
    Death,
}

type Listener = Box<dyn Fn(Moment<'_>) + Send + Sync>;

/// The disk of a run. Cheap to clone; all clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Inner>,
    /// The life of the process that has this handle; that of an earlier one is of no use.
    life: u64,
}

struct Inner {
    /// Never held while a listener is called.
    state: Mutex<State>,
    /// Replaced between lives only.
    listener: Mutex<Option<Arc<Listener>>>,
    clock: Arc<SimClock>,
    trace: Trace,
}

struct State {
    nodes: Vec<Node>,
    /// Changes of names that the platter does not have, oldest first.
    changes: Vec<Change>,
    locked: BTreeSet<Inode>,
    /// Counts lives: handles of an earlier one are of a dead process.
    life: u64,
    dead: bool,
    ahead: Ahead,
    happened: Vec<Happened>,
    capacity: Option<u64>,
    used: u64,
    /// Counts changes of anything.
    mutations: u64,
    /// Counts failed syncs: a handle that has not been told of one is told when it syncs everything.
    sync_errors: u64,
    chance: Chance,
}

enum Node {
    File(Pages),
    Directory(Names),
}

const ROOT: Inode = 0;

impl SimDisk {
    /// An empty disk, with no faults ahead.
    #[must_use]
    pub fn new(chance: Chance, clock: Arc<SimClock>, trace: Trace) -> Self {
        let state = State {
            nodes: vec![Node::Directory(Names::default())],
            changes: Vec::new(),
            locked: BTreeSet::new(),
            life: 0,
            dead: false,
            ahead: Ahead::default(),
            happened: Vec::new(),
            capacity: None,
            used: 0,
            mutations: 0,
            sync_errors: 0,
            chance,
        };
        let inner = Inner { state: Mutex::new(state), listener: Mutex::new(None), clock, trace };
        Self { inner: Arc::new(inner), life: 0 }
    }

    /// Tells `listener` of moments from now on.
    pub fn listen(&self, listener: Option<Listener>) {
        *self.inner.listener.lock() = listener.map(Arc::new);
    }

    /// Sets what will go wrong.
    pub fn expect(&self, ahead: Ahead) {
        self.inner.state.lock().ahead = ahead;
    }

    /// What went wrong since this was asked last.
    #[must_use]
    pub fn happened(&self) -> Vec<Happened> {
        std::mem::take(&mut self.inner.state.lock().happened)
    }

    /// Whether the process that uses it is dead.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.inner.state.lock().dead
    }

    /// How often anything was changed, ever.
    #[must_use]
    pub fn mutations(&self) -> u64 {
        self.inner.state.lock().mutations
    }

    /// The process dies now, if it is not dead.
    pub fn kill(&self) {
        if !self.is_dead() {
            self.tell(Moment::Death);
            self.inner.state.lock().dead = true;
        }
    }

    /// From now on only `bytes` more fit; `None`: there is space.
    pub fn fill(&self, bytes: Option<u64>) {
        let mut state = self.inner.state.lock();
        state.capacity = bytes.map(|bytes| state.used + bytes);
    }

    /// The power goes: the platter is what remains.
    pub fn lose_power(&self) {
        let mut state = self.inner.state.lock();
        let State { nodes, changes, chance, .. } = &mut *state;
        for change in names::survivors(std::mem::take(changes), chance) {
            change.apply(|directory, name, inode| set(&mut names_of(nodes, directory).platter, name, inode));
        }
        for node in nodes.iter_mut() {
            match node {
                Node::File(pages) => pages.lose_power(chance),
                Node::Directory(names) => names.now.clone_from(&names.platter),
            }
        }
        state.recount();
    }

    /// Time passes with nothing to do: everything that waits reaches the platter.
    pub fn settle(&self) {
        let mut state = self.inner.state.lock();
        let State { nodes, changes, .. } = &mut *state;
        for change in changes.drain(..) {
            change.apply(|directory, name, inode| set(&mut names_of(nodes, directory).platter, name, inode));
        }
        for node in nodes {
            if let Node::File(pages) = node {
                pages.sync();
            }
        }
    }

    /// A new process begins to use it: its handle. What an older one does fails from now on.
    #[must_use]
    pub fn begin_life(&self) -> Self {
        let mut state = self.inner.state.lock();
        state.life += 1;
        state.dead = false;
        state.ahead = Ahead::default();
        state.locked.clear();
        Self { inner: Arc::clone(&self.inner), life: state.life }
    }

    /// The state, unless the process is dead.
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.inner.state.lock();
        match state.dead || state.life != self.life {
            true => Err(dead()),
            false => Ok(state),
        }
    }

    /// Every file below `root` and its length, by path.
    #[must_use]
    pub fn files(&self, root: &Path) -> Vec<(PathBuf, u64)> {
        let state = self.inner.state.lock();
        let mut files = Vec::new();
        let mut todo = match state.find(root) {
            Some(inode) => vec![(root.to_owned(), inode)],
            None => Vec::new(),
        };
        while let Some((path, inode)) = todo.pop() {
            match &state.nodes[inode] {
                Node::File(pages) => files.push((path, pages.len())),
                Node::Directory(names) => {
                    todo.extend(names.now.iter().map(|(name, inode)| (path.join(name), *inode)));
                }
            }
        }
        files.sort();
        files
    }

    /// Changes a bit of a file; `false` if there is nothing at rest there.
    pub fn flip(&self, path: &Path, byte: u64, bit: u8) -> bool {
        let mut state = self.inner.state.lock();
        let Some(inode) = state.find(path) else { return false };
        let Node::File(pages) = &mut state.nodes[inode] else { return false };
        let flipped = pages.flip(byte, bit);
        if flipped {
            self.inner.trace.note(format_args!("disk: bit {bit} of byte {byte} of {} flips", path.display()));
            state.happened.push(Happened { fault: Fault::Flipped, path: text(path) });
        }
        flipped
    }

    fn tell(&self, moment: Moment<'_>) {
        let listener = self.inner.listener.lock().clone();
        if let Some(listener) = listener {
            listener(moment);
        }
    }

    /// Begins a change of anything. `None` when the process is dead, or dies now; then `part` has been done of it, or not.
    fn begin(
        &self,
        what: &str,
        path: &Path,
        part: impl FnOnce(&mut State),
    ) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.alive()?;
        state.mutations += 1;
        if is_due(&mut state.ahead.slow) {
            let ms = state.chance.between(1..=2000);
            self.inner.trace.note(format_args!("disk: the next call takes {ms} ms"));
            self.inner.clock.slow(ms);
        }
        if is_due(&mut state.ahead.death) {
            drop(state);
            self.inner.trace.note(format_args!("disk: {what} {}: dies", path.display()));
            self.tell(Moment::Death);
            let mut state = self.inner.state.lock();
            state.dead = true;
            part(&mut state);
            return Err(dead());
        }
        state.write_back_some();
        Ok(state)
    }

    fn fail(&self, state: &mut State, fault: Fault, path: &Path) -> io::Error {
        self.inner.trace.note(format_args!("disk: {fault:?} {}", path.display()));
        state.happened.push(Happened { fault, path: text(path) });
        match fault {
            Fault::Full => io::ErrorKind::StorageFull.into(),
            _ => io::Error::other("EIO, as the seed has it"),
        }
    }

    /// A change of names: fails, or is done and noted for the platter.
    fn change(
        &self,
        what: &str,
        path: &Path,
        make: impl Fn(&mut State) -> io::Result<Option<Change>>,
    ) -> io::Result<()> {
        let mut state = self.begin(what, path, |state| {
            if state.chance.one_in(2)
                && let Ok(Some(change)) = make(state)
            {
                state.apply(change);
            }
        })?;
        if is_due(&mut state.ahead.change_fails) {
            return Err(self.fail(&mut state, Fault::ChangeFailed, path));
        }
        if let Some(change) = make(&mut state)? {
            state.apply(change);
            self.inner.trace.note(format_args!("disk: {what} {}", path.display()));
        }
        Ok(())
    }
}

impl State {
    fn find(&self, path: &Path) -> Option<Inode> {
        let mut at = ROOT;
        for part in path.components() {
            if let std::path::Component::Normal(name) = part {
                let Node::Directory(names) = &self.nodes[at] else { return None };
                at = *names.now.get(name.to_str()?)?;
            }
        }
        Some(at)
    }

    /// The directory that holds `path`, and the name in it.
    fn place(&self, path: &Path) -> io::Result<(Inode, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().and_then(|parent| self.find(parent)).ok_or(io::ErrorKind::NotFound)?;
        match &self.nodes[parent] {
            Node::Directory(_) => Ok((parent, name.to_owned())),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn apply(&mut self, change: Change) {
        let State { nodes, .. } = self;
        change.apply(|directory, name, inode| set(&mut names_of(nodes, directory).now, name, inode));
        self.changes.push(change);
        self.recount();
    }

    fn pages(&mut self, inode: Inode) -> &mut Pages {
        match &mut self.nodes[inode] {
            Node::File(pages) => pages,
            Node::Directory(_) => panic!("a handle is of a file"),
        }
    }

    /// A file that is not on the platter.
    fn dirty_file(&mut self) -> Option<Inode> {
        let is_dirty = |inode: &Inode| matches!(&self.nodes[*inode], Node::File(pages) if pages.is_dirty());
        let dirty: Vec<Inode> = (0..self.nodes.len()).filter(is_dirty).collect();
        (!dirty.is_empty()).then(|| *self.chance.pick(&dirty))
    }

    /// All files reach the platter, but for one that cannot be written.
    fn sync_all(&mut self, victim: Option<Inode>) {
        let Self { nodes, chance, .. } = self;
        for (inode, node) in nodes.iter_mut().enumerate() {
            match node {
                Node::File(pages) if Some(inode) == victim => {
                    pages.fail_to_sync(chance);
                    pages.failed = true;
                }
                Node::File(pages) => pages.sync(),
                Node::Directory(_) => {}
            }
        }
    }

    /// The platter gets something now and then, whether or not anybody asked.
    fn write_back_some(&mut self) {
        if !self.chance.one_in(16) {
            return;
        }
        let Self { nodes, changes, chance, .. } = self;
        for node in nodes.iter_mut() {
            if let Node::File(pages) = node
                && pages.is_dirty()
                && chance.one_in(2)
            {
                pages.write_back_some(chance);
            }
        }
        if chance.one_in(2) {
            let cut = chance.below(changes.len() as u64 + 1) as usize;
            for change in changes.drain(..cut) {
                change.apply(|directory, name, inode| {
                    set(&mut names_of(nodes, directory).platter, name, inode);
                });
            }
        }
    }

    /// Bytes of all files that have names.
    fn recount(&mut self) {
        let mut todo = vec![ROOT];
        let mut used = 0;
        while let Some(inode) = todo.pop() {
            match &self.nodes[inode] {
                Node::File(pages) => used += pages.space(),
                Node::Directory(names) => todo.extend(names.now.values()),
            }
        }
        self.used = used;
    }
}

fn names_of(nodes: &mut [Node], inode: Inode) -> &mut Names {
    match &mut nodes[inode] {
        Node::Directory(names) => names,
        Node::File(_) => panic!("only directories have names in them"),
    }
}

fn set(names: &mut BTreeMap<String, Inode>, name: &str, inode: Option<Inode>) {
    match inode {
        Some(inode) => names.insert(name.to_owned(), inode),
        None => names.remove(name),
    };
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let found = { self.alive()?.find(path) };
        if found.is_none() && how != Open::Create {
            return Err(io::ErrorKind::NotFound.into());
        }
        if found.is_none() {
            self.change("create", path, |state| {
                if state.capacity.is_some_and(|capacity| state.used >= capacity) {
                    return Err(self.fail(state, Fault::Full, path));
                }
                let (directory, name) = state.place(path)?;
                state.nodes.push(Node::File(Pages::default()));
                Ok(Some(Change::Set { directory, name, inode: state.nodes.len() - 1 }))
            })?;
        } else if how == Open::Create {
            let mut state = self.begin("empty", path, |_| {})?;
            let inode = state.find(path).ok_or(io::ErrorKind::NotFound)?;
            state.pages(inode).set_len(0);
            state.recount();
        }
        let state = self.inner.state.lock();
        let inode = state.find(path).ok_or(io::ErrorKind::NotFound)?;
        match &state.nodes[inode] {
            Node::File(_) => {
                let errors_seen = AtomicU64::new(state.sync_errors);
                let file = SimFile { disk: self.clone(), inode, path: path.to_owned(), how, errors_seen };
                Ok(Arc::new(file))
            }
            Node::Directory(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = {
            let state = self.inner.state.lock();
            path.ancestors().take_while(|directory| state.find(directory).is_none()).collect()
        };
        for directory in missing.into_iter().rev() {
            self.change("create directory", directory, |state| {
                let (parent, name) = state.place(directory)?;
                state.nodes.push(Node::Directory(Names::default()));
                Ok(Some(Change::Set { directory: parent, name, inode: state.nodes.len() - 1 }))
            })?;
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let sync = |state: &mut State, inode: Inode| {
            let State { nodes, changes, .. } = state;
            let (due, later) = changes.drain(..).partition(|change| change.touches(inode));
            *changes = later;
            for change in due {
                change.apply(|directory, name, inode| {
                    set(&mut names_of(nodes, directory).platter, name, inode);
                });
            }
        };
        let mut state = self.begin("sync directory", path, |state| {
            if let Some(inode) = state.find(path)
                && state.chance.one_in(2)
            {
                sync(state, inode);
            }
        })?;
        let inode = state.find(path).ok_or(io::ErrorKind::NotFound)?;
        if is_due(&mut state.ahead.directory_sync_fails) {
            return Err(self.fail(&mut state, Fault::DirectorySyncFailed, path));
        }
        sync(&mut state, inode);
        self.inner.trace.note(format_args!("disk: sync directory {}", path.display()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change("rename to", to, |state| {
            let inode = state.find(from).ok_or(io::ErrorKind::NotFound)?;
            Ok(Some(Change::Rename { from: state.place(from)?, to: state.place(to)?, inode }))
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change("remove", path, |state| {
            let (directory, name) = state.place(path)?;
            state.find(path).ok_or(io::ErrorKind::NotFound)?;
            Ok(Some(Change::Unset { directory, name }))
        })
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        for entry in self.list(path)? {
            let inner = path.join(&entry.name);
            match entry.is_dir {
                true => self.remove_dir_all(&inner)?,
                false => self.remove_file(&inner)?,
            }
        }
        self.remove_file(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let state = self.alive()?;
        let inode = state.find(path).ok_or(io::ErrorKind::NotFound)?;
        let Node::Directory(names) = &state.nodes[inode] else {
            return Err(io::ErrorKind::NotADirectory.into());
        };
        let is_dir = |inode: Inode| matches!(state.nodes[inode], Node::Directory(_));
        let entry = |(name, inode): (&String, &Inode)| Entry { name: name.clone(), is_dir: is_dir(*inode) };
        Ok(names.now.iter().map(entry).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.alive()?.find(path).is_some())
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = self.alive()?;
        let inode = state.find(path).ok_or(io::ErrorKind::NotFound)?;
        if !state.locked.insert(inode) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock { disk: self.clone(), inode })))
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

struct SimLock {
    disk: SimDisk,
    inode: Inode,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.inner.state.lock();
        if state.life == self.disk.life {
            state.locked.remove(&self.inode);
        }
    }
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimLock").field("inode", &self.inode).finish_non_exhaustive()
    }
}

/// An open file: it stays the same file when its name goes to another.
struct SimFile {
    disk: SimDisk,
    inode: Inode,
    path: PathBuf,
    how: Open,
    errors_seen: AtomicU64,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        match self.how {
            Open::Read => Err(io::ErrorKind::PermissionDenied.into()),
            Open::ReadWrite | Open::Create => Ok(()),
        }
    }
}

impl DiskFile for SimFile {
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        if is_due(&mut state.ahead.read_fails) {
            return Err(self.disk.fail(&mut state, Fault::ReadFailed, &self.path));
        }
        match state.pages(self.inode).read(into, position) {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        self.check_writable()?;
        let bytes = parts.concat();
        let some = |state: &mut State| state.chance.below(bytes.len() as u64 + 1) as usize;
        let mut state = self.disk.begin("write", &self.path, |state| {
            let done = some(state);
            state.pages(self.inode).write(&bytes[..done], position);
        })?;
        let growth = (position + bytes.len() as u64).saturating_sub(state.pages(self.inode).space());
        let space = state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used));
        let fault = match is_due(&mut state.ahead.write_fails) {
            true => Some(Fault::WriteFailed),
            false => (growth > space).then_some(Fault::Full),
        };
        if let Some(fault) = fault {
            let done = match fault {
                Fault::Full => bytes.len() - (growth - space) as usize,
                _ => some(&mut state),
            };
            state.pages(self.inode).write(&bytes[..done], position);
            state.recount();
            return Err(self.disk.fail(&mut state, fault, &self.path));
        }
        state.pages(self.inode).write(&bytes, position);
        state.used += growth;
        self.disk.inner.trace.note(format_args!(
            "disk: write {} at {position}: {} bytes",
            self.path.display(),
            bytes.len()
        ));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check_writable()?;
        drop(self.disk.alive()?);
        self.disk.tell(Moment::Sync(&self.path));
        let mut state = self.disk.begin("sync", &self.path, |state| {
            let State { nodes, chance, .. } = state;
            if let Node::File(pages) = &mut nodes[self.inode] {
                pages.write_back_some(chance);
            }
        })?;
        let failed = std::mem::take(&mut state.pages(self.inode).failed);
        if is_due(&mut state.ahead.sync_fails) || failed {
            state.sync_errors += u64::from(!failed);
            let State { nodes, chance, .. } = &mut *state;
            if let Node::File(pages) = &mut nodes[self.inode] {
                pages.fail_to_sync(chance);
            }
            return Err(self.disk.fail(&mut state, Fault::SyncFailed, &self.path));
        }
        state.pages(self.inode).sync();
        self.disk.inner.trace.note(format_args!("disk: sync {}", self.path.display()));
        Ok(())
    }

    /// Bytes of all files; of names it says nothing here.
    fn sync_file_system(&self) -> io::Result<()> {
        drop(self.disk.alive()?);
        self.disk.tell(Moment::Sync(&self.path));
        let mut state = self.disk.begin("sync everything by", &self.path, |state| {
            state.sync_all(None);
        })?;
        let fails = is_due(&mut state.ahead.file_system_sync_fails) | is_due(&mut state.ahead.sync_fails);
        let victim = fails.then(|| state.dirty_file()).flatten();
        state.sync_all(victim);
        if victim.is_some() {
            state.sync_errors += 1;
        }
        self.disk.inner.trace.note(format_args!("disk: sync everything, but {victim:?}"));
        let errors = state.sync_errors;
        match self.errors_seen.swap(errors, Ordering::Relaxed) == errors {
            true => Ok(()),
            false => Err(self.disk.fail(&mut state, Fault::SyncFailed, Path::new("/"))),
        }
    }

    fn reserve(&self, position: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.disk.begin("reserve", &self.path, |_| {})?;
        let growth = (position + len).saturating_sub(state.pages(self.inode).space());
        if state.capacity.is_some_and(|capacity| state.used + growth > capacity) && growth > 0 {
            return Err(self.disk.fail(&mut state, Fault::Full, &self.path));
        }
        state.pages(self.inode).reserve(position + len);
        state.used += growth;
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.alive()?.pages(self.inode).len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.disk.begin("set length", &self.path, |state| {
            if state.chance.one_in(2) {
                state.pages(self.inode).set_len(len);
            }
        })?;
        let growth = len.saturating_sub(state.pages(self.inode).space());
        if state.capacity.is_some_and(|capacity| state.used + growth > capacity) && growth > 0 {
            return Err(self.disk.fail(&mut state, Fault::Full, &self.path));
        }
        state.pages(self.inode).set_len(len);
        state.recount();
        self.disk.inner.trace.note(format_args!("disk: set length of {} to {len}", self.path.display()));
        Ok(())
    }
}
