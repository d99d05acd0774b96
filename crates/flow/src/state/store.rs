//! State on disk.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use anabranch_core::TopicPartition;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Slice};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Progress, key};
use crate::FlowError;
use crate::outbox::Outgoing;

/// The layout of keys and values. A change of it needs a new number.
const FORMAT: u32 = 1;

/// Blocks that were read stay in memory up to this.
const CACHE_BYTES: u64 = 8 << 20;
/// What was written stays in memory up to this, per keyspace, until it is sorted onto the disk.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// Flushing and compaction of one flow's state need no more.
const WORKER_THREADS: usize = 1;

/// Window states by [`super::WindowKey`], the sessions of each record key, the batches that are to be appended, and the
/// flow's progress.
pub(crate) struct Store {
    path: PathBuf,
    database: Database,
    meta: Keyspace,
    windows: Keyspace,
    sessions: Keyspace,
    /// Batches by their number, counted from 0.
    outbox: Keyspace,
    outbox_len: u32,
}

/// What a store held when it was opened.
pub(crate) struct Found {
    pub(crate) progress: Progress,
    /// What may not have been appended before the flow stopped.
    pub(crate) outgoing: Outgoing,
}

/// Writes that happen together.
pub(crate) struct Changes(OwnedWriteBatch);

impl Store {
    /// Opens or makes the state of the flow that `identity` describes.
    pub(crate) fn open(path: &Path, identity: &str) -> Result<(Self, Option<Found>), FlowError> {
        let failed = |source| failed(path, source);
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .worker_threads(WORKER_THREADS)
            .open()
            .map_err(failed)?;
        let keyspace = |name| {
            database
                .keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES))
                .map_err(failed)
        };
        let mut store = Self {
            path: path.to_owned(),
            meta: keyspace("meta")?,
            windows: keyspace("windows")?,
            sessions: keyspace("sessions")?,
            outbox: keyspace("outbox")?,
            outbox_len: 0,
            database,
        };
        store.identify(identity)?;
        let Some(progress) = store.read(&store.meta, b"progress", "its progress cannot be read")? else {
            return Ok((store, None));
        };
        let outgoing = store.read_outbox()?;
        Ok((store, Some(Found { progress, outgoing })))
    }

    fn read_outbox(&mut self) -> Result<Outgoing, FlowError> {
        let mut outgoing = Outgoing::new();
        for entry in self.outbox.iter() {
            let value = entry.value().map_err(|source| self.failed(source))?;
            let (topic, partition, batch): (String, i32, Vec<u8>) =
                self.decode(&value, "a batch that is to be appended cannot be read")?;
            outgoing.entry(TopicPartition { topic, partition }).or_default().push(batch.into());
            self.outbox_len += 1;
        }
        Ok(outgoing)
    }

    /// Marks new state as this flow's, and refuses any other.
    fn identify(&self, identity: &str) -> Result<(), FlowError> {
        let Some(format) = self.get(&self.meta, b"format")? else {
            let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
            batch.insert(&self.meta, "format", FORMAT.to_be_bytes());
            batch.insert(&self.meta, "identity", identity);
            return batch.commit().map_err(|source| self.failed(source));
        };
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
        Changes(self.database.batch().durability(Some(PersistMode::SyncData)))
    }

    pub(crate) fn set_window(
        &self,
        changes: &mut Changes,
        window_key: &[u8],
        value: Option<&impl Serialize>,
    ) -> Result<(), FlowError> {
        put(changes, &self.windows, window_key, value, "state")
    }

    pub(crate) fn set_sessions(
        &self,
        changes: &mut Changes,
        key: &[u8],
        value: Option<&impl Serialize>,
    ) -> Result<(), FlowError> {
        put(changes, &self.sessions, key, value, "list of sessions")
    }

    /// Makes `changes` and `progress` durable together, and with them `outgoing`, in place of what was to be appended
    /// before.
    pub(crate) fn commit(
        &mut self,
        mut changes: Changes,
        progress: &Progress,
        outgoing: &Outgoing,
    ) -> Result<(), FlowError> {
        put(&mut changes, &self.meta, b"progress", Some(progress), "flow's progress")?;
        let mut number = 0u32;
        for (TopicPartition { topic, partition }, batches) in outgoing {
            for batch in batches {
                let value = (topic, partition, &batch[..]);
                put(&mut changes, &self.outbox, &number.to_be_bytes(), Some(&value), "batch")?;
                number += 1;
            }
        }
        self.forget_from(number, &mut changes);
        changes.0.commit().map_err(|source| self.failed(source))
    }

    /// Forgets what was to be appended, because it is.
    pub(crate) fn forget_outgoing(&mut self) -> Result<(), FlowError> {
        // Not worth a sync: what comes back after a loss of power is appended once more.
        let mut changes = Changes(self.database.batch());
        self.forget_from(0, &mut changes);
        changes.0.commit().map_err(|source| self.failed(source))
    }

    fn forget_from(&mut self, first: u32, changes: &mut Changes) {
        for number in first..self.outbox_len {
            changes.0.remove(&self.outbox, number.to_be_bytes());
        }
        self.outbox_len = first;
    }

    /// The state is not what a flow writes.
    pub(crate) fn damaged(&self, what: &'static str) -> FlowError {
        FlowError::StateDamaged { path: self.path.clone(), what }
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
    let path = path.to_owned();
    match source {
        fjall::Error::Locked => FlowError::StateInUse { path },
        source => FlowError::State { path, source },
    }
}

fn put(
    changes: &mut Changes,
    keyspace: &Keyspace,
    key: &[u8],
    value: Option<&impl Serialize>,
    what: &'static str,
) -> Result<(), FlowError> {
    let Some(value) = value else {
        changes.0.remove(keyspace, key);
        return Ok(());
    };
    let value = postcard::to_allocvec(value).map_err(|source| FlowError::Unserialisable { what, source })?;
    changes.0.insert(keyspace, key, value);
    Ok(())
}
