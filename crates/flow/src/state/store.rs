//! State on disk.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use anabranch_core::batch::Record;
use anabranch_core::seam::{Disk, Lock, RealDisk};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Slice};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::record::{self, About};
use super::{FORMAT, Progress, key};
use crate::FlowError;

/// The database, in the flow's directory.
const DATABASE: &str = "store";
/// One that is being made.
const UNFINISHED: &str = "store.new";
/// In format 1 the directory itself was the database, which has a file of this name.
const FORMAT_1: &str = "version";

/// Blocks that were read stay in memory up to this.
const CACHE_BYTES: u64 = 8 << 20;
/// What was written stays in memory up to this, per keyspace, until it is sorted onto the disk.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// With many shards in a process each has a part of these, and no less than this.
const SHARE_BYTES_MIN: u64 = 1 << 20;
/// Flushing and compaction of one flow's state need no more.
const WORKER_THREADS: usize = 1;
/// Entries that are forgotten at a time.
const FORGET_ENTRIES: usize = 10_000;

pub(super) const PROGRESS: &[u8] = b"progress";
const MARK: &[u8] = b"mark";

/// Window states by [`super::WindowKey`], the sessions of each record key, and the flow's progress.
pub(crate) struct Store {
    path: PathBuf,
    role: Role,
    database: Database,
    meta: Keyspace,
    windows: Keyspace,
    sessions: Keyspace,
    /// Given up last.
    _lock: Box<dyn Lock>,
}

/// An open database.
struct Keyspaces {
    database: Database,
    meta: Keyspace,
    windows: Keyspace,
    sessions: Keyspace,
}

impl Keyspaces {
    /// One of `parts` databases that share what one may hold in memory.
    fn open(path: &Path, parts: usize) -> fjall::Result<Self> {
        let share = |bytes: u64| (bytes / parts as u64).max(SHARE_BYTES_MIN);
        let cache = share(CACHE_BYTES);
        let database = Database::builder(path).cache_size(cache).worker_threads(WORKER_THREADS).open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(share(MEMTABLE_BYTES));
        let keyspace = |name| database.keyspace(name, options);
        let (meta, windows, sessions) = (keyspace("meta")?, keyspace("windows")?, keyspace("sessions")?);
        Ok(Self { meta, windows, sessions, database })
    }
}

/// What a store is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A copy of the changelog, which may be behind it: it is not waited for until the disk has it.
    Cache,
    /// All that there is of the state.
    Only,
}

/// How far a store has followed a changelog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Which engine's cluster the changelog is on: positions in a copy of it elsewhere are others.
    pub(crate) cluster: String,
    /// Which changelog it is ([`super::Origin`]).
    pub(crate) made_ms: i64,
    /// Everything before it is in the store; the newest progress that the store knows is here or later.
    pub(crate) position: u64,
    /// What is not in the store was written later than this, on the wall clock, ms.
    pub(crate) written_ms: i64,
}

/// Writes that happen together, to the store and to its changelog.
pub(crate) struct Changes {
    batch: OwnedWriteBatch,
    /// `None` where there is no changelog.
    records: Option<Vec<Record>>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// What the changelog is told of them.
    pub(crate) fn take_records(&mut self) -> Vec<Record> {
        self.records.take().unwrap_or_default()
    }
}

impl Store {
    /// Opens or makes the state of the flow that `identity` describes, in the directory at `path`. It is one of `parts` that
    /// share what one may hold in memory.
    pub(crate) fn open(path: &Path, identity: &str, role: Role, parts: usize) -> Result<Self, FlowError> {
        let failed = |source| failed(path, fjall::Error::Io(source));
        RealDisk.create_dir_all(path).map_err(failed)?;
        let Some(lock) = RealDisk.try_lock(path).map_err(failed)? else {
            return Err(FlowError::StateInUse { path: path.to_owned() });
        };
        if RealDisk.exists(&path.join(FORMAT_1)).map_err(failed)? {
            return Err(FlowError::StateFormat { path: path.to_owned(), found: 1, supported: FORMAT });
        }
        let database = path.join(DATABASE);
        let keyspaces = match RealDisk.exists(&database).map_err(failed)? {
            false => Self::make(path, identity, parts)?,
            true => match Keyspaces::open(&database, parts) {
                Err(error) if role == Role::Cache => {
                    tracing::warn!(path = %path.display(), %error, "a flow's copy of its state is made anew");
                    RealDisk.remove_dir_all(&database).map_err(failed)?;
                    Self::make(path, identity, parts)?
                }
                opened => opened.map_err(|source| self::failed(path, source))?,
            },
        };
        let Keyspaces { database, meta, windows, sessions } = keyspaces;
        let store = Self { path: path.to_owned(), role, meta, windows, sessions, database, _lock: lock };
        store.identify(identity)?;
        Ok(store)
    }

    /// Makes the database. Of one that is there nothing is missing, since it is made under another name; it is not opened
    /// when it is torn.
    fn make(path: &Path, identity: &str, parts: usize) -> Result<Keyspaces, FlowError> {
        let failed = |source| failed(path, fjall::Error::Io(source));
        let (unfinished, finished) = (path.join(UNFINISHED), path.join(DATABASE));
        if RealDisk.exists(&unfinished).map_err(failed)? {
            RealDisk.remove_dir_all(&unfinished).map_err(failed)?;
        }
        let make = || {
            let Keyspaces { database, meta, .. } = Keyspaces::open(&unfinished, parts)?;
            let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
            batch.insert(&meta, "format", FORMAT.to_be_bytes());
            batch.insert(&meta, "identity", identity);
            batch.commit()
        };
        make().map_err(|source| self::failed(path, source))?;
        RealDisk.rename(&unfinished, &finished).map_err(failed)?;
        RealDisk.sync_dir(path).map_err(failed)?;
        Keyspaces::open(&finished, parts).map_err(|source| self::failed(path, source))
    }

    /// Refuses the state of any other flow.
    fn identify(&self, identity: &str) -> Result<(), FlowError> {
        let format = self.get(&self.meta, b"format")?.unwrap_or_default();
        let found = u32::from_be_bytes(
            format[..].try_into().map_err(|_| self.damaged("its format is not a number"))?,
        );
        if found != FORMAT {
            return Err(FlowError::StateFormat { path: self.path.clone(), found, supported: FORMAT });
        }
        let found = self.get(&self.meta, b"identity")?.unwrap_or_default();
        if *found != *identity.as_bytes() {
            return Err(FlowError::OtherDefinition {
                path: self.path.clone(),
                found: String::from_utf8_lossy(&found).into_owned(),
                expected: identity.to_owned(),
            });
        }
        Ok(())
    }

    /// How far the flow had come; `None` before its first step.
    pub(crate) fn progress(&self) -> Result<Option<Progress>, FlowError> {
        let Some(progress) = self.get(&self.meta, PROGRESS)? else { return Ok(None) };
        Progress::from_bytes(&progress).map(Some).ok_or_else(|| self.damaged("its progress cannot be read"))
    }

    /// How far it has followed its changelog; `None` when it has not begun, or nobody can tell any more.
    pub(crate) fn mark(&self) -> Result<Option<Mark>, FlowError> {
        let mark = self.get(&self.meta, MARK)?;
        Ok(mark.and_then(|mark| match postcard::take_from_bytes(&mark) {
            Ok((mark, [])) => Some(mark),
            Ok(_) | Err(_) => None,
        }))
    }

    pub(crate) fn window<V: DeserializeOwned>(&self, window_key: &[u8]) -> Result<Option<V>, FlowError> {
        self.read(&self.windows, window_key, "the state of a window cannot be read")
    }

    pub(crate) fn sessions<V: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<V>, FlowError> {
        self.read(&self.sessions, key, "the sessions of a key cannot be read")
    }

    /// Up to `count_max` windows that end after `after_ms` and no later than `through_ms`, by key, beginning after
    /// `cursor`, which is where the page before this one ended.
    pub(crate) fn windows_ending<V: DeserializeOwned>(
        &self,
        after_ms: i64,
        through_ms: i64,
        cursor: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<(Slice, V)>, FlowError> {
        let (from, to) = key::ending(after_ms, through_ms);
        let from = cursor.map_or(from, |cursor| Bound::Excluded(cursor.to_vec()));
        if through_ms <= after_ms {
            return Ok(Vec::new());
        }
        let entries = self.windows.range::<Vec<u8>, _>((from, to)).take(count_max);
        entries
            .map(|entry| {
                let (key, value) = entry.into_inner().map_err(|source| self.failed(source))?;
                let value = self.decode(&value, "the state of a window cannot be read")?;
                Ok((key, value))
            })
            .collect()
    }

    /// The window that ends last.
    pub(crate) fn last_window_key(&self) -> Result<Option<Slice>, FlowError> {
        let last = self.windows.last_key_value().map(fjall::Guard::key);
        last.transpose().map_err(|source| self.failed(source))
    }

    /// An empty batch of writes.
    pub(crate) fn changes(&self) -> Changes {
        let (mode, records) = match self.role {
            // What a loss of power takes from it, the changelog brings back.
            Role::Cache => (PersistMode::Buffer, Some(Vec::new())),
            Role::Only => (PersistMode::SyncData, None),
        };
        Changes { batch: self.database.batch().durability(Some(mode)), records }
    }

    pub(crate) fn set_window(
        &self,
        changes: &mut Changes,
        window_key: &[u8],
        value: Option<&impl Serialize>,
    ) -> Result<(), FlowError> {
        self.put(changes, About::Window, window_key, value, "state")
    }

    pub(crate) fn set_sessions(
        &self,
        changes: &mut Changes,
        key: &[u8],
        value: Option<&impl Serialize>,
    ) -> Result<(), FlowError> {
        self.put(changes, About::Sessions, key, value, "list of sessions")
    }

    pub(crate) fn set_progress(&self, changes: &mut Changes, progress: &Progress) -> Result<(), FlowError> {
        self.record(changes, About::Progress, PROGRESS, Some(progress.to_bytes()?));
        Ok(())
    }

    /// Takes over what the changelog says; whether it was a record of a changelog.
    pub(crate) fn follow(&self, changes: &mut Changes, record: &Record) -> bool {
        let Some((about, key)) = record.key.as_deref().and_then(record::about) else { return false };
        self.set(changes, about, key, record.value.as_deref());
        true
    }

    /// Makes `changes` together, and with them how far the changelog is followed.
    pub(crate) fn commit(&self, mut changes: Changes, mark: Option<&Mark>) -> Result<(), FlowError> {
        if let Some(mark) = mark {
            changes.batch.insert(&self.meta, MARK, serialise(mark, "mark")?);
        }
        changes.batch.commit().map_err(|source| self.failed(source))
    }

    /// Forgets everything but whose state it is.
    pub(crate) fn forget(&self) -> Result<(), FlowError> {
        let mut changes = self.changes();
        changes.batch.remove(&self.meta, MARK);
        changes.batch.remove(&self.meta, PROGRESS);
        self.commit(changes, None)?;
        for keyspace in [&self.windows, &self.sessions] {
            loop {
                let mut changes = self.changes();
                for entry in keyspace.iter().take(FORGET_ENTRIES) {
                    changes.batch.remove(keyspace, entry.key().map_err(|source| self.failed(source))?);
                }
                if changes.is_empty() {
                    break;
                }
                self.commit(changes, None)?;
            }
        }
        Ok(())
    }

    /// The state is not what a flow writes.
    pub(crate) fn damaged(&self, what: &'static str) -> FlowError {
        FlowError::StateDamaged { path: self.path.clone(), what }
    }

    fn put(
        &self,
        changes: &mut Changes,
        about: About,
        key: &[u8],
        value: Option<&impl Serialize>,
        what: &'static str,
    ) -> Result<(), FlowError> {
        let value = value.map(|value| serialise(value, what)).transpose()?;
        self.record(changes, about, key, value);
        Ok(())
    }

    fn record(&self, changes: &mut Changes, about: About, key: &[u8], value: Option<Vec<u8>>) {
        self.set(changes, about, key, value.as_deref());
        if let Some(records) = &mut changes.records {
            records.push(record::of(about, key, value));
        }
    }

    fn set(&self, changes: &mut Changes, about: About, key: &[u8], value: Option<&[u8]>) {
        let (keyspace, key) = match about {
            About::Window => (&self.windows, key),
            About::Sessions => (&self.sessions, key),
            About::Progress => (&self.meta, PROGRESS),
            // The mark says which changelog it is, and whoever reads it has claimed it.
            About::Origin | About::Claim => return,
        };
        match value {
            Some(value) => changes.batch.insert(keyspace, key, value),
            None => changes.batch.remove(keyspace, key),
        }
    }

    fn get(&self, from: &Keyspace, key: &[u8]) -> Result<Option<Slice>, FlowError> {
        from.get(key).map_err(|source| self.failed(source))
    }

    fn read<V: DeserializeOwned>(
        &self,
        from: &Keyspace,
        key: &[u8],
        otherwise: &'static str,
    ) -> Result<Option<V>, FlowError> {
        self.get(from, key)?.map(|value| self.decode(&value, otherwise)).transpose()
    }

    fn decode<V: DeserializeOwned>(&self, value: &[u8], otherwise: &'static str) -> Result<V, FlowError> {
        match postcard::take_from_bytes(value) {
            Ok((value, [])) => Ok(value),
            Ok(_) | Err(_) => Err(self.damaged(otherwise)),
        }
    }

    fn failed(&self, source: fjall::Error) -> FlowError {
        failed(&self.path, source)
    }
}

fn failed(path: &Path, source: fjall::Error) -> FlowError {
    FlowError::State { path: path.to_owned(), source }
}

/// `value` in its serde form.
pub(super) fn serialise(value: &impl Serialize, what: &'static str) -> Result<Vec<u8>, FlowError> {
    postcard::to_allocvec(value).map_err(|source| FlowError::Unserialisable { what, source })
}
