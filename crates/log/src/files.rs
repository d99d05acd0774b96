//! Open files, bounded: a [`Disk`] that closes what is cold and opens it again when it is asked for.
//!
//! Ten thousand partitions have twenty thousand files, and a process may have a thousand open. Whoever opens a file here
//! keeps it for as long as it likes; behind it there is a handle of the operating system only while it is in use, or was
//! lately. What makes that safe:
//!
//! * A handle is closed only when nobody is inside a call on it. If bytes were written and not synced, it is synced first,
//!   since a failure of writing back is told to handles that were open then. When that fails the next sync fails.
//! * A path is not a file: before a file is removed or another takes its name, its handle is opened and kept until the last
//!   user is gone. Reopening by path never finds another file's bytes. All names are changed through this disk, for one
//!   process owns the directory. Only a whole directory goes without that: what was closed in it can no longer be read.
//!
//! A handle that is open costs its user one short lock that nobody else wants. The table's lock is taken to open, to close
//! and to change names.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use anabranch_core::seam::{Disk, DiskFile, Entry, Lock, Open};
use parking_lot::Mutex;

/// How many handles of files there are, and may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileCounts {
    /// Handles that are open.
    pub open: usize,
    /// How many may be; more only while each is needed at the same moment.
    pub open_max: usize,
    /// How often a file was opened again.
    pub reopened: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Files(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    open_max: usize,
    open: AtomicUsize,
    reopened: AtomicU64,
    /// Protects which files there are by which name, and the order in which they are closed. Taken before any file's state.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Files that somebody has and that are still found by their name.
    by_path: BTreeMap<Arc<Path>, Vec<Arc<File>>>,
    /// Files with an open handle that may be closed, and some that are gone: the next to be looked at stands in front.
    clock: VecDeque<Arc<File>>,
}

#[derive(Debug)]
struct File {
    /// Since the clock passed.
    is_used: AtomicBool,
    /// Protects the handle. Held for moments, but while it is opened or closed.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    path: Arc<Path>,
    handle: Option<Arc<dyn DiskFile>>,
    /// Counts what changed the file.
    changes: u64,
    /// The last change that is synced.
    synced: u64,
    /// The handle must stay: its name leads elsewhere, or a sync has failed on it.
    is_kept: bool,
    /// Its directory was removed while it was closed.
    is_gone: bool,
    /// What a sync said that nobody had asked for.
    sync_failed: Option<io::Error>,
}

/// What users hold.
#[derive(Debug)]
struct Handle {
    file: Arc<File>,
    files: Arc<Shared>,
}

/// Below this the clock is not worth cleaning.
const CLOCK_MIN: usize = 64;

impl Files {
    /// Over `disk`, with `open_max` handles at most, and at least a few.
    pub(crate) fn new(disk: Arc<dyn Disk>, open_max: usize) -> Self {
        Self(Arc::new(Shared {
            disk,
            open_max: open_max.max(4),
            open: AtomicUsize::new(0),
            reopened: AtomicU64::new(0),
            table: Mutex::default(),
        }))
    }

    pub(crate) fn counts(&self) -> FileCounts {
        FileCounts {
            open: self.0.open.load(Ordering::Relaxed),
            open_max: self.0.open_max,
            reopened: self.0.reopened.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    /// Closes handles until there is room for one more, or none can be closed. The clock goes round twice: what was used
    /// since the first time stays.
    fn make_room(&self, table: &mut Table) {
        let mut looks = 2 * table.clock.len();
        while self.open.load(Ordering::Relaxed) >= self.open_max && looks > 0 {
            looks -= 1;
            let Some(file) = table.clock.pop_front() else { return };
            if file.is_used.swap(false, Ordering::Relaxed) || !self.close(&file) {
                table.clock.push_back(file);
            }
        }
    }

    /// Whether there is nothing more to close in this file.
    fn close(&self, file: &File) -> bool {
        let Some(mut state) = file.state.try_lock() else { return false };
        if state.is_kept {
            return true;
        }
        let Some(handle) = &state.handle else { return true };
        // Nobody can take another while the state is locked.
        if Arc::strong_count(handle) > 1 {
            return false;
        }
        if state.synced != state.changes {
            if let Err(error) = handle.sync_data() {
                state.sync_failed = Some(error);
                state.is_kept = true;
                return true;
            }
            state.synced = state.changes;
        }
        state.handle = None;
        self.open.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// The handle of a file that is closed.
    fn reopen(&self, file: &Arc<File>) -> io::Result<Arc<dyn DiskFile>> {
        let mut table = self.table.lock();
        self.make_room(&mut table);
        let mut state = file.state.lock();
        let handle = self.open_again(&mut state)?;
        table.note_open(file, self.open.load(Ordering::Relaxed));
        Ok(handle)
    }

    fn open_again(&self, state: &mut State) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(handle) = &state.handle {
            return Ok(Arc::clone(handle));
        }
        if state.is_gone {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its directory was removed"));
        }
        let handle = self.disk.open(&state.path, Open::ReadWrite)?;
        self.reopened.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        state.handle = Some(Arc::clone(&handle));
        Ok(handle)
    }

    /// Before `path` leads elsewhere: whoever has its file keeps it.
    fn detach(&self, table: &mut Table, path: &Path) -> io::Result<()> {
        for file in table.by_path.get(path).into_iter().flatten() {
            let mut state = file.state.lock();
            self.open_again(&mut state)?;
            state.is_kept = true;
        }
        table.by_path.remove(path);
        Ok(())
    }
}

impl Table {
    fn note_open(&mut self, file: &Arc<File>, open: usize) {
        if self.clock.len() > CLOCK_MIN.max(2 * open) {
            self.clock.retain(|file| file.state.try_lock().is_none_or(|state| state.handle.is_some()));
        }
        self.clock.push_back(Arc::clone(file));
    }

    /// The names at and below `path`: paths sort by their components.
    fn below(&self, path: &Path) -> Vec<Arc<Path>> {
        let all =
            self.by_path.range::<Path, _>((Bound::Included(path), Bound::Unbounded)).map(|(name, _)| name);
        all.take_while(|name| name.starts_with(path)).cloned().collect()
    }
}

impl Handle {
    fn get(&self) -> io::Result<Arc<dyn DiskFile>> {
        self.file.is_used.store(true, Ordering::Relaxed);
        let state = self.file.state.lock();
        if let Some(handle) = &state.handle {
            return Ok(Arc::clone(handle));
        }
        drop(state);
        self.files.reopen(&self.file)
    }

    /// Changes the file. It is noted before, so that the handle is not closed without a sync; and after, so that a sync
    /// that came in between does not count for it. Whoever holds a handle keeps it from being closed.
    fn change(&self, change: impl FnOnce(&dyn DiskFile) -> io::Result<()>) -> io::Result<()> {
        let handle = self.get()?;
        self.file.state.lock().changes += 1;
        let changed = change(handle.as_ref());
        self.file.state.lock().changes += 1;
        changed
    }
}

impl DiskFile for Handle {
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        self.get()?.read_exact_at(into, position)
    }

    fn read_vec_at(&self, len: usize, position: u64) -> io::Result<Vec<u8>> {
        self.get()?.read_vec_at(len, position)
    }

    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        self.change(|handle| handle.write_all_at(parts, position))
    }

    fn sync_data(&self) -> io::Result<()> {
        let handle = self.get()?;
        let mut state = self.file.state.lock();
        if let Some(failed) = state.sync_failed.take() {
            return Err(failed);
        }
        let changes = state.changes;
        drop(state);
        let synced = handle.sync_data();
        let mut state = self.file.state.lock();
        match &synced {
            Ok(()) => state.synced = state.synced.max(changes),
            Err(_) => state.is_kept = true,
        }
        synced
    }

    fn len(&self) -> io::Result<u64> {
        self.get()?.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|handle| handle.set_len(len))
    }

    fn reserve(&self, position: u64, len: u64) -> io::Result<()> {
        self.get()?.reserve(position, len)
    }

    /// A handle that is closed now and then misses errors.
    fn sync_file_system(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut table = self.files.table.lock();
        let mut state = self.file.state.lock();
        if let Some(files) = table.by_path.get_mut(&state.path) {
            files.retain(|file| !Arc::ptr_eq(file, &self.file));
            if files.is_empty() {
                table.by_path.remove(&state.path);
            }
        }
        if state.handle.take().is_some() {
            self.files.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Disk for Files {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut table = self.0.table.lock();
        self.0.make_room(&mut table);
        let handle = self.0.disk.open(path, how)?;
        let open = self.0.open.fetch_add(1, Ordering::Relaxed) + 1;
        let known = table.by_path.get_key_value(path).map(|(known, _)| Arc::clone(known));
        let path = known.unwrap_or_else(|| path.into());
        // An emptied file has something to sync.
        let changes = u64::from(how == Open::Create);
        let file = Arc::new(File {
            is_used: AtomicBool::new(true),
            state: Mutex::new(State {
                path: Arc::clone(&path),
                handle: Some(handle),
                changes,
                synced: 0,
                // What may only be read is not opened again for writing.
                is_kept: how == Open::Read,
                is_gone: false,
                sync_failed: None,
            }),
        });
        if how != Open::Read {
            table.by_path.entry(path).or_default().push(Arc::clone(&file));
            table.note_open(&file, open);
        }
        Ok(Arc::new(Handle { file, files: Arc::clone(&self.0) }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.disk.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.disk.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut table = self.0.table.lock();
        self.0.detach(&mut table, to)?;
        self.0.disk.rename(from, to)?;
        for old in table.below(from) {
            let moved = old.strip_prefix(from).expect("it was found below this");
            let new: Arc<Path> = match moved.as_os_str().is_empty() {
                true => to.into(),
                false => to.join(moved).into(),
            };
            let files = table.by_path.remove(&old).expect("it was found a moment ago");
            files.iter().for_each(|file| file.state.lock().path = Arc::clone(&new));
            table.by_path.entry(new).or_default().extend(files);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut table = self.0.table.lock();
        self.0.detach(&mut table, path)?;
        self.0.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut table = self.0.table.lock();
        for name in table.below(path) {
            for file in table.by_path.remove(&name).expect("it was found a moment ago") {
                let mut state = file.state.lock();
                state.is_gone = state.handle.is_none();
                state.is_kept = true;
            }
        }
        self.0.disk.remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.0.disk.list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.disk.exists(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.0.disk.try_lock(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.disk.read(path)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use anabranch_core::seam::RealDisk;

    use super::*;

    /// The real disk, that counts handles and fails to sync when told to.
    #[derive(Debug, Default, Clone)]
    struct Watched(Arc<Watch>);

    #[derive(Debug, Default)]
    struct Watch {
        open: AtomicUsize,
        open_most: AtomicUsize,
        synced: AtomicUsize,
        syncs_fail: AtomicBool,
    }

    #[derive(Debug)]
    struct WatchedFile(Arc<dyn DiskFile>, Arc<Watch>);

    impl Drop for WatchedFile {
        fn drop(&mut self) {
            self.1.open.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl DiskFile for WatchedFile {
        fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
            self.0.read_exact_at(into, position)
        }

        fn write_all_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
            self.0.write_all_at(parts, position)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.1.synced.fetch_add(1, Ordering::SeqCst);
            match self.1.syncs_fail.load(Ordering::SeqCst) {
                true => Err(io::Error::other("planted")),
                false => self.0.sync_data(),
            }
        }

        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
    }

    impl Disk for Watched {
        fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
            let file = RealDisk.open(path, how)?;
            let open = self.0.open.fetch_add(1, Ordering::SeqCst) + 1;
            self.0.open_most.fetch_max(open, Ordering::SeqCst);
            Ok(Arc::new(WatchedFile(file, Arc::clone(&self.0))))
        }

        fn create_dir_all(&self, path: &Path) -> io::Result<()> {
            RealDisk.create_dir_all(path)
        }

        fn sync_dir(&self, path: &Path) -> io::Result<()> {
            RealDisk.sync_dir(path)
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            RealDisk.rename(from, to)
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

    struct Fixture {
        watched: Watched,
        files: Files,
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new(open_max: usize) -> Self {
            let watched = Watched::default();
            let files = Files::new(Arc::new(watched.clone()), open_max);
            Self { watched, files, dir: tempfile::tempdir().unwrap() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, text: &str) -> Arc<dyn DiskFile> {
            let file = self.files.open(&self.path(name), Open::Create).unwrap();
            file.write_all_at(&[text.as_bytes()], 0).unwrap();
            file
        }

        /// Closes every handle that may be closed.
        fn cool(&self) {
            for number in 0..8 {
                self.write(&format!("other {number}"), "");
            }
            let others: Vec<_> = (0..8).map(|number| self.write(&format!("other {number}"), "")).collect();
            for other in others.iter().cycle().take(32) {
                other.len().unwrap();
            }
        }

        fn open(&self) -> usize {
            self.watched.0.open.load(Ordering::SeqCst)
        }
    }

    fn text(file: &Arc<dyn DiskFile>) -> io::Result<String> {
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap()];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_thousand_files_need_few_handles_and_each_has_its_own_bytes() {
        let all = Fixture::new(16);
        let files: Vec<_> = (0..1000).map(|n| all.write(&format!("{n}"), &format!("file {n}"))).collect();
        for round in 0..3 {
            for n in (0..1000).map(|n| n * 7 % 1000) {
                assert_eq!(text(&files[n]).unwrap(), format!("file {n}"), "round {round}");
            }
        }
        assert!(all.watched.0.open_most.load(Ordering::SeqCst) <= 17, "one more while it is opened");
        let counts = all.files.counts();
        assert_eq!((counts.open, counts.open_max), (all.open(), 16));
        assert!(counts.reopened >= 2000, "{counts:?}");
        drop(files);
        assert_eq!((all.open(), all.files.counts().open), (0, 0));
        let table = all.files.0.table.lock();
        assert!(
            table.by_path.is_empty() && table.clock.len() <= CLOCK_MIN,
            "nothing is kept of what is gone"
        );
    }

    #[test]
    fn what_is_used_stays_open() {
        let all = Fixture::new(16);
        let hot = all.write("hot", "hot");
        let cold: Vec<_> = (0..100).map(|n| all.write(&format!("{n}"), "cold")).collect();
        let before = all.files.counts().reopened;
        for file in &cold {
            text(&hot).unwrap();
            text(file).unwrap();
        }
        assert_eq!(all.files.counts().reopened - before, 101, "every cold one, and the hot one once");
    }

    /// A reader holds a segment that retention removes, or that compaction replaces, while its handle is closed.
    #[test]
    fn a_name_that_leads_elsewhere_never_brings_another_files_bytes() {
        let all = Fixture::new(4);
        let (removed, replaced, moved) =
            (all.write("removed", "first"), all.write("replaced", "old"), all.write("new", "new"));
        all.cool();
        all.files.remove_file(&all.path("removed")).unwrap();
        all.files.rename(&all.path("new"), &all.path("replaced")).unwrap();
        let second = all.write("removed", "second");
        all.cool();
        for _ in 0..2 {
            assert_eq!(text(&removed).unwrap(), "first");
            assert_eq!(text(&replaced).unwrap(), "old");
            assert_eq!(text(&moved).unwrap(), "new");
            assert_eq!(text(&second).unwrap(), "second");
            all.cool();
        }
        all.files.replace(&all.path("replaced"), b"newest").unwrap();
        all.cool();
        assert_eq!(text(&moved).unwrap(), "new");
        assert_eq!(all.files.read(&all.path("replaced")).unwrap(), b"newest");
    }

    /// A topic is deleted and made again, and a reader still has a segment of the old one.
    #[test]
    fn a_directory_that_comes_again_has_none_of_the_old_files() {
        let all = Fixture::new(4);
        std::fs::create_dir(all.path("topic")).unwrap();
        let (closed, open) = (all.write("topic/a", "old a"), all.write("topic/b", "old b"));
        all.cool();
        text(&open).unwrap();
        all.files.remove_dir_all(&all.path("topic")).unwrap();
        std::fs::create_dir(all.path("topic")).unwrap();
        let new = all.write("topic/a", "new a");
        all.write("topic/b", "new b");
        all.cool();
        assert_eq!(text(&closed).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(text(&open).unwrap(), "old b");
        std::fs::create_dir(all.path("other")).unwrap();
        all.files.rename(&all.path("topic"), &all.path("other/topic")).unwrap();
        all.cool();
        assert_eq!(text(&new).unwrap(), "new a", "found where its directory was moved");
    }

    /// The operating system tells a failure of writing back to who has the file open, once.
    #[test]
    fn unsynced_bytes_are_synced_before_their_handle_goes_and_a_failure_is_told() {
        let all = Fixture::new(4);
        let file = all.write("file", "bytes");
        file.sync_data().unwrap();
        let syncs = || all.watched.0.synced.load(Ordering::SeqCst);
        let read_only: Vec<_> = (0..4).map(|n| all.write(&format!("clean {n}"), "")).collect();
        read_only.iter().for_each(|file| file.sync_data().unwrap());
        let before = syncs();
        read_only.iter().cycle().take(64).for_each(|file| assert_eq!(text(file).unwrap(), ""));
        text(&file).unwrap();
        assert_eq!(syncs(), before, "what is clean needs no sync to be closed");
        file.write_all_at(&[b"more"], 5).unwrap();
        all.watched.0.syncs_fail.store(true, Ordering::SeqCst);
        read_only.iter().cycle().take(64).for_each(|file| assert_eq!(text(file).unwrap(), ""));
        assert_eq!(syncs(), before + 1, "tried once, and never again");
        all.watched.0.syncs_fail.store(false, Ordering::SeqCst);
        assert_eq!(file.sync_data().unwrap_err().to_string(), "planted");
    }

    #[test]
    fn files_are_read_and_written_from_many_threads() {
        let all = Fixture::new(8);
        let files: Vec<_> = (0..64).map(|n| all.write(&format!("{n}"), "00000000")).collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let files = &files;
                scope.spawn(move || {
                    for round in 0..500 {
                        let file = &files[(round * 13 + thread * 16) % 64];
                        let position = thread as u64;
                        file.write_all_at(&[b"1"], position).unwrap();
                        let mut byte = [0];
                        file.read_exact_at(&mut byte, position).unwrap();
                        assert_eq!(&byte, b"1");
                    }
                });
            }
        });
        assert!(all.files.counts().open <= 8 + 4);
    }
}
