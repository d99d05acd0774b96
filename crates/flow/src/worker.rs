//! The flow itself, between reading and appending: records in, batches out, state behind.
//!
//! A worker does no I/O but on its state, and reads no clock. It is told what was read and says what is to be appended;
//! [`crate::run`] goes between it and the engine. A commit goes in steps:
//!
//! 1. *flush*: what changed since the last commit, with the input positions and the watermark. Records that went aside,
//!    retractions, corrections and early results go out.
//! 2. *fire*, in pages: the windows that the watermark has passed emit their results.
//! 3. *expire*, in pages, where windows outlive their end: those that nothing may correct any more are deleted.
//!
//! Each step is one transaction of the engine: what goes out, what the changelog is told, and where the input stands. Only
//! when it is committed is the local store told, too. So a step has happened as a whole or not at all, and what comes of
//! the next attempt may differ: a session can grow otherwise when its input is read again, and nobody has seen the first.

use std::collections::VecDeque;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::{BatchError, Record, RecordAt};
use anabranch_core::engine::{Fetched, Position};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::FlowError;
use crate::aggregate::Aggregate;
use crate::changelog::Changelog;
use crate::header::{self, mark};
use crate::metrics::Snapshot;
use crate::outbox::{Outbox, Outgoing, Outlet};
use crate::state::{Changes, Entry, KEY_BYTES_MAX, Mark, Progress, Stage, Table, WindowKey};
use crate::watermark::{NO_WATERMARK, Watermarks};
use crate::window::{self, Window, WindowKind};

/// Windows and keys that the write buffer holds; when it is full, the worker asks for a commit.
const BUFFER_ENTRIES_MAX: usize = 50_000;
/// Bytes of records that wait to be sent aside; the same.
const OUTBOX_BYTES_MAX: usize = 8 << 20;
/// Windows that fire or expire in one step of a commit.
const PAGE_WINDOWS: usize = 4096;

/// Makes sense of a record, or leaves it out, or says why it makes none.
pub(crate) type Decode<T> = Box<dyn Fn(&RecordAt) -> Result<Option<T>, String> + Send>;
/// Makes a record of a result.
pub(crate) type Encode<K, R> = Box<dyn Fn(&K, Window, R) -> Record + Send>;

/// What the flow's author wrote.
pub(crate) struct Logic<T, K, A: Aggregate<T>> {
    pub(crate) decode: Decode<T>,
    pub(crate) event_time: Box<dyn Fn(&T) -> i64 + Send>,
    pub(crate) key: Box<dyn Fn(&T) -> K + Send>,
    pub(crate) windows: Box<dyn WindowKind>,
    pub(crate) aggregate: A,
    pub(crate) encode: Encode<K, A::Output>,
}

/// What becomes of records that cannot take part.
#[derive(Debug)]
pub(crate) enum Aside {
    Fail,
    Drop,
    Send(Outlet),
}

/// What the flow's author chose.
pub(crate) struct Options {
    pub(crate) sink: Outlet,
    pub(crate) undecodable: Aside,
    pub(crate) late: Aside,
    pub(crate) allowed_lateness_ms: i64,
    pub(crate) emit_early: bool,
    pub(crate) commit_records: u64,
    /// None when the flow delivers at least once.
    pub(crate) changelog: Option<Changelog>,
}

/// What happens together.
#[derive(Debug)]
pub(crate) struct Step {
    /// Results, and what went aside.
    pub(crate) outgoing: Outgoing,
    /// The changelog's batches; the newest progress is in the last.
    pub(crate) changelog: Vec<Bytes>,
    /// Where the input stands, as far as that is news: index among the flow's sources, and the record that is read next.
    pub(crate) positions: Vec<(usize, Position)>,
}

/// Where the last batch of a step is in the changelog, and a moment before it was appended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Logged {
    pub(crate) position: Position,
    pub(crate) at_ms: i64,
}

/// What was read from a partition.
pub(crate) struct Chunk {
    /// Index among the flow's sources.
    pub(crate) partition: usize,
    pub(crate) fetched: Fetched,
    /// The partition's input ends here, if it does.
    pub(crate) end: Option<Position>,
}

/// A worker, without its types.
pub(crate) trait Work: Send {
    /// Takes in what was read at `now`.
    fn take_in(&mut self, chunks: Vec<Chunk>, now: Duration);

    /// Works on what was taken in. Ends early, with `true`, when a commit is due first.
    fn work(&mut self) -> Result<bool, FlowError>;

    /// Takes the next step of a commit, and says what it comes to. `None` when the commit is complete.
    fn commit_step(&mut self) -> Result<Option<Step>, FlowError>;

    /// The step has happened: its changes go to the store.
    fn step_done(&mut self, logged: Option<Logged>) -> Result<(), FlowError>;

    /// Declares all windows complete, because the input has ended; to be called with nothing left to commit.
    fn close(&mut self) -> Result<(), FlowError>;

    /// Brings a snapshot up to date.
    fn report(&self, into: &mut Snapshot);
}

/// See [`Work`].
pub(crate) struct Worker<T, K, A: Aggregate<T>> {
    logic: Logic<T, K, A>,
    options: Options,
    sources: Vec<TopicPartition>,
    table: Table<A::State>,
    watermarks: Watermarks,
    progress: Progress,
    /// The end of every partition, as far as is known.
    latest: Vec<u64>,
    inbox: VecDeque<Inflow>,
    outbox: Outbox,
    since_commit: u64,
    dirty: bool,
    phase: Phase,
    /// Of the step that is under way.
    changes: Option<Changes>,
    /// The positions that were part of a step.
    committed: Vec<u64>,
    scratch: Scratch,
}

/// A chunk, partly worked on.
struct Inflow {
    chunk: Chunk,
    records: std::vec::IntoIter<RecordAt>,
}

/// Where a commit stands.
enum Phase {
    Flush,
    Fire { cursor: Option<Vec<u8>> },
    Expire { cursor: Option<Vec<u8>> },
    Done,
}

/// Memory that is used again for every record.
#[derive(Default)]
struct Scratch {
    key: Vec<u8>,
    window_key: Vec<u8>,
    windows: Vec<Window>,
}

/// What came of adding a record to its windows.
#[derive(Default)]
struct Fate {
    /// At least one window was closed.
    missed: bool,
    /// At least one window had ended, and took the record in.
    admitted: bool,
}

impl<T, K, A> Worker<T, K, A>
where
    K: Serialize + DeserializeOwned,
    A: Aggregate<T>,
{
    pub(crate) fn new(
        logic: Logic<T, K, A>,
        options: Options,
        sources: Vec<TopicPartition>,
        table: Table<A::State>,
        watermarks: Watermarks,
        progress: Progress,
    ) -> Self {
        Self {
            logic,
            options,
            sources,
            table,
            watermarks,
            latest: progress.positions.clone(),
            committed: progress.positions.clone(),
            progress,
            inbox: VecDeque::new(),
            outbox: Outbox::default(),
            since_commit: 0,
            dirty: false,
            phase: Phase::Fire { cursor: None }, // a commit that was interrupted is finished first
            changes: None,
            scratch: Scratch::default(),
        }
    }

    fn is_due(&self) -> bool {
        self.since_commit >= self.options.commit_records
            || self.table.len() >= BUFFER_ENTRIES_MAX
            || self.outbox.len_bytes() >= OUTBOX_BYTES_MAX
    }

    /// The next record of the inbox's first chunk that has not been worked on before.
    fn next_record(&mut self, inflow: &mut Inflow) -> Result<Option<RecordAt>, FlowError> {
        let Chunk { partition, fetched, end } = &mut inflow.chunk;
        let position = self.progress.positions[*partition];
        let damaged = |source: BatchError| FlowError::Damaged {
            partition: self.sources[*partition].clone(),
            position: Position(position),
            source,
        };
        loop {
            // The first batch may begin before the position; a bounded input may end inside the last.
            for record in inflow.records.by_ref() {
                let at = record.offset.0.cast_unsigned();
                if at >= position && end.is_none_or(|end| at < end.0) {
                    return Ok(Some(record));
                }
            }
            match fetched.block.take_records().map_err(damaged)? {
                None => return Ok(None),
                Some(records) => inflow.records = records.into_iter(),
            }
        }
    }

    fn accept(&mut self, partition: usize, record: RecordAt) -> Result<(), FlowError> {
        let position = record.offset.0.cast_unsigned();
        self.progress.counts.records_in += 1;
        match (self.logic.decode)(&record) {
            Ok(Some(item)) => self.add(partition, position, &item, record.record)?,
            Ok(None) => self.progress.counts.filtered += 1,
            Err(reason) => {
                self.progress.counts.undecodable += 1;
                self.set_undecodable_aside(partition, position, record.record, reason)?;
            }
        }
        self.progress.positions[partition] = position + 1;
        self.dirty = true;
        self.since_commit += 1;
        Ok(())
    }

    fn set_undecodable_aside(
        &mut self,
        partition: usize,
        position: u64,
        record: Record,
        reason: String,
    ) -> Result<(), FlowError> {
        let from = &self.sources[partition];
        match &self.options.undecodable {
            Aside::Drop => Ok(()),
            Aside::Send(to) => {
                let record = mark(record, from, position, (header::ERROR, reason));
                self.outbox.push_aside(to, from.partition, &record)
            }
            Aside::Fail => {
                Err(FlowError::Undecodable { partition: from.clone(), position: Position(position), reason })
            }
        }
    }

    fn add(&mut self, partition: usize, position: u64, item: &T, record: Record) -> Result<(), FlowError> {
        let at_ms = window::within_reach((self.logic.event_time)(item));
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.key = serialise_key(&(self.logic.key)(item), scratch.key)?;
        scratch.windows.clear();
        self.logic.windows.assign(at_ms, &mut scratch.windows);
        let fate = if self.logic.windows.merges() {
            self.add_to_session(item, &mut scratch)
        } else {
            self.add_to_windows(item, &mut scratch)
        };
        self.scratch = scratch;
        let Fate { missed, admitted } = fate?;
        self.progress.counts.late_admitted += u64::from(admitted);
        if missed {
            self.set_late_aside(partition, position, at_ms, record)?;
        }
        self.watermarks.observe(partition, at_ms);
        Ok(())
    }

    fn add_to_windows(&mut self, item: &T, scratch: &mut Scratch) -> Result<Fate, FlowError> {
        let mut fate = Fate::default();
        for window in scratch.windows.drain(..) {
            if window.end_ms <= self.closed_ms() {
                fate.missed = true;
                continue;
            }
            fate.admitted |= window.end_ms <= self.watermarks.flow_ms();
            WindowKey { window, key: &scratch.key }.write(&mut scratch.window_key);
            let entry = self.table.window(&scratch.window_key)?;
            let entry =
                entry.get_or_insert_with(|| Entry { stage: Stage::Open, state: self.logic.aggregate.init() });
            self.logic.aggregate.add(&mut entry.state, item);
        }
        Ok(fate)
    }

    fn add_to_session(&mut self, item: &T, scratch: &mut Scratch) -> Result<Fate, FlowError> {
        let own = scratch.windows[0];
        let closed_ms = self.closed_ms();
        let sessions = self.table.sessions(&scratch.key)?;
        // A record that is too late for a session of its own may still belong to one that goes on.
        let joins = |session: &Window| session.end_ms > closed_ms && session.touches(own);
        if own.end_ms <= closed_ms && !sessions.iter().any(joins) {
            return Ok(Fate { missed: true, admitted: false });
        }
        let merged = window::merge(sessions, own, closed_ms);
        let mut joined: Option<Entry<A::State>> = None;
        for window in merged.absorbed {
            WindowKey { window, key: &scratch.key }.write(&mut scratch.window_key);
            let removed = self.table.remove(&scratch.window_key)?;
            let Some(mut entry) = removed else {
                return Err(self.table.store.damaged("a session has no state"));
            };
            if window != merged.window && entry.stage != Stage::Open {
                self.retract(&scratch.key, window, &entry.state)?;
                entry.stage = Stage::Open;
            }
            match &mut joined {
                None => joined = Some(entry),
                Some(joined) => self.logic.aggregate.merge(&mut joined.state, entry.state),
            }
        }
        let mut entry =
            joined.unwrap_or_else(|| Entry { stage: Stage::Open, state: self.logic.aggregate.init() });
        self.logic.aggregate.add(&mut entry.state, item);
        WindowKey { window: merged.window, key: &scratch.key }.write(&mut scratch.window_key);
        *self.table.window(&scratch.window_key)? = Some(entry);
        Ok(Fate { missed: false, admitted: merged.window.end_ms <= self.watermarks.flow_ms() })
    }

    /// Windows that end here or before take nothing in any more.
    fn closed_ms(&self) -> i64 {
        let closed_ms = self.watermarks.flow_ms().saturating_sub(self.options.allowed_lateness_ms);
        // What has expired stays closed, even when more lateness is allowed since the flow was opened again.
        closed_ms.max(self.progress.expired_ms)
    }

    fn set_late_aside(
        &mut self,
        partition: usize,
        position: u64,
        at_ms: i64,
        record: Record,
    ) -> Result<(), FlowError> {
        let Aside::Send(to) = &self.options.late else {
            self.progress.counts.late_dropped += 1;
            return Ok(());
        };
        self.progress.counts.late_sent += 1;
        let from = &self.sources[partition];
        let late_ms = self.watermarks.flow_ms() - at_ms;
        let record = mark(record, from, position, (header::LATE_MS, late_ms.to_string()));
        self.outbox.push_aside(to, from.partition, &record)
    }

    fn retract(&mut self, key: &[u8], window: Window, state: &A::State) -> Result<(), FlowError> {
        self.progress.counts.retractions += 1;
        let record = self.logic.result(key, window, state)?;
        self.outbox.push_keyed(&self.options.sink, &Record { value: None, ..record })
    }

    fn is_unchanged(&self) -> bool {
        !self.dirty && self.watermarks.flow_ms() == self.progress.watermark_ms
    }

    fn flush(&mut self, changes: &mut Changes) -> Result<Phase, FlowError> {
        let Self { logic, options, table, watermarks, progress, outbox, .. } = self;
        progress.watermark_ms = watermarks.flow_ms();
        progress.latest_events_ms = watermarks.latest_events_ms();
        for (bytes, entry) in table.changed() {
            let WindowKey { window, key } = WindowKey::read(bytes).expect("the table's keys are window keys");
            entry.stage = if window.end_ms <= progress.fired_ms {
                Stage::Fired
            } else if options.emit_early && window.end_ms > progress.watermark_ms {
                Stage::Shown
            } else {
                continue;
            };
            progress.counts.results += 1;
            outbox.push_keyed(&options.sink, &logic.result(key, window, &entry.state)?)?;
        }
        table.flush(changes)?;
        self.since_commit = 0;
        self.dirty = false;
        Ok(match self.progress.watermark_ms > self.progress.fired_ms {
            true => Phase::Fire { cursor: None },
            false => Phase::Done,
        })
    }

    fn fire(&mut self, cursor: Option<&[u8]>, changes: &mut Changes) -> Result<Phase, FlowError> {
        let Progress { fired_ms, watermark_ms, .. } = self.progress;
        let page = self.table.store.windows_ending(fired_ms, watermark_ms, cursor, PAGE_WINDOWS)?;
        let next = next_cursor(&page);
        let closed_ms = self.closed_ms();
        for (bytes, entry) in page {
            let WindowKey { window, key } = self.window_key(&bytes)?;
            let Entry { stage, state } = entry;
            if stage != Stage::Fired {
                self.progress.counts.results += 1;
                let record = self.logic.result(key, window, &state)?;
                self.outbox.push_keyed(&self.options.sink, &record)?;
            }
            if window.end_ms <= closed_ms {
                self.delete(&bytes, changes)?;
            } else {
                let entry = Entry { stage: Stage::Fired, state };
                self.table.store.set_window(changes, &bytes, Some(&entry))?;
            }
        }
        self.table.flush(changes)?;
        if next.is_some() {
            return Ok(Phase::Fire { cursor: next });
        }
        self.progress.fired_ms = watermark_ms;
        if self.options.allowed_lateness_ms > 0 {
            return Ok(Phase::Expire { cursor: None });
        }
        self.progress.expired_ms = closed_ms;
        Ok(Phase::Done)
    }

    fn expire(&mut self, cursor: Option<&[u8]>, changes: &mut Changes) -> Result<Phase, FlowError> {
        let closed_ms = self.closed_ms();
        let store = &self.table.store;
        let page: Vec<(_, Entry<A::State>)> =
            store.windows_ending(self.progress.expired_ms, closed_ms, cursor, PAGE_WINDOWS)?;
        let next = next_cursor(&page);
        for (bytes, _) in page {
            self.delete(&bytes, changes)?;
        }
        self.table.flush(changes)?;
        if next.is_some() {
            return Ok(Phase::Expire { cursor: next });
        }
        self.progress.expired_ms = closed_ms;
        Ok(Phase::Done)
    }

    /// What `changes` and the outbox come to, with how far the flow has come by them.
    fn step(&mut self, mut changes: Changes) -> Result<Step, FlowError> {
        self.progress.step += 1;
        self.table.store.set_progress(&mut changes, &self.progress)?;
        let records = changes.take_records();
        let changelog = match &self.options.changelog {
            Some(changelog) => changelog.batches(&records)?,
            None => Vec::new(),
        };
        let moved = self.progress.positions.iter().zip(&self.committed).enumerate();
        let positions = moved
            .filter(|(_, (next, committed))| next != committed)
            .map(|(source, (next, _))| (source, Position(*next)))
            .collect();
        self.committed.clone_from(&self.progress.positions);
        self.changes = Some(changes);
        Ok(Step { outgoing: self.outbox.take()?, changelog, positions })
    }

    fn delete(&mut self, window_key: &[u8], changes: &mut Changes) -> Result<(), FlowError> {
        if self.logic.windows.merges() {
            let WindowKey { window, key } = self.window_key(window_key)?;
            self.table.sessions(key)?.retain(|session| *session != window);
        }
        self.table.store.set_window(changes, window_key, None::<&Entry<A::State>>)
    }

    fn window_key<'a>(&self, bytes: &'a [u8]) -> Result<WindowKey<'a>, FlowError> {
        WindowKey::read(bytes).ok_or_else(|| self.table.store.damaged("a window's key is cut short"))
    }
}

impl<T, K, A> Work for Worker<T, K, A>
where
    K: Serialize + DeserializeOwned,
    A: Aggregate<T>,
{
    fn take_in(&mut self, chunks: Vec<Chunk>, now: Duration) {
        for chunk in chunks {
            let Chunk { partition, fetched, .. } = &chunk;
            self.latest[*partition] = fetched.latest.0;
            if !fetched.block.is_empty() {
                self.watermarks.heard(*partition, now);
            } else if fetched.next >= fetched.latest {
                self.watermarks.quiet(*partition, now);
            }
            self.inbox.push_back(Inflow { chunk, records: Vec::new().into_iter() });
        }
    }

    fn work(&mut self) -> Result<bool, FlowError> {
        while let Some(mut inflow) = self.inbox.pop_front() {
            let partition = inflow.chunk.partition;
            while let Some(record) = self.next_record(&mut inflow)? {
                self.accept(partition, record)?;
                if self.is_due() {
                    self.inbox.push_front(inflow);
                    return Ok(true);
                }
            }
            let Chunk { fetched, end, .. } = inflow.chunk;
            let position = &mut self.progress.positions[partition];
            let next = end.map_or(fetched.next, |end| end.min(fetched.next)).0;
            self.dirty |= next > *position;
            *position = next.max(*position);
            if end.is_some_and(|end| *position >= end.0) {
                self.watermarks.end(partition);
            }
        }
        Ok(false)
    }

    fn commit_step(&mut self) -> Result<Option<Step>, FlowError> {
        loop {
            let mut changes = self.table.store.changes();
            let flushes = matches!(self.phase, Phase::Flush);
            self.phase = match std::mem::replace(&mut self.phase, Phase::Flush) {
                Phase::Flush if self.is_unchanged() => return Ok(None),
                Phase::Flush => self.flush(&mut changes)?,
                Phase::Fire { cursor } => self.fire(cursor.as_deref(), &mut changes)?,
                Phase::Expire { cursor } => self.expire(cursor.as_deref(), &mut changes)?,
                Phase::Done => return Ok(None),
            };
            // That no window was due is worth no step of its own: progress tells it with the next.
            if flushes || !changes.is_empty() {
                return self.step(changes).map(Some);
            }
        }
    }

    fn step_done(&mut self, logged: Option<Logged>) -> Result<(), FlowError> {
        let changes = self.changes.take().expect("a step is under way");
        let mark = self.options.changelog.as_ref().zip(logged).map(|(changelog, logged)| Mark {
            made_ms: changelog.made_ms,
            position: logged.position.0,
            written_ms: logged.at_ms,
        });
        self.table.store.commit(changes, mark.as_ref())
    }

    fn close(&mut self) -> Result<(), FlowError> {
        if let Some(last) = self.table.store.last_window_key()? {
            let end_ms = self.window_key(&last)?.window.end_ms;
            self.watermarks.close(end_ms);
        }
        Ok(())
    }

    fn report(&self, into: &mut Snapshot) {
        into.counts = self.progress.counts;
        let watermark_ms = self.watermarks.flow_ms();
        into.watermark_ms = (watermark_ms != NO_WATERMARK).then_some(watermark_ms);
        let lag = self
            .latest
            .iter()
            .zip(&self.progress.positions)
            .map(|(latest, next)| latest.saturating_sub(*next));
        into.lag = self.sources.iter().cloned().zip(lag).collect();
    }
}

impl<T, K: DeserializeOwned, A: Aggregate<T>> Logic<T, K, A> {
    fn result(&self, key: &[u8], window: Window, state: &A::State) -> Result<Record, FlowError> {
        let key =
            postcard::from_bytes(key).map_err(|source| FlowError::Unserialisable { what: "key", source })?;
        Ok((self.encode)(&key, window, self.aggregate.finish(state)))
    }
}

/// Where the page after `page` begins, if there is one.
fn next_cursor<E>(page: &[(fjall::Slice, E)]) -> Option<Vec<u8>> {
    page.last().filter(|_| page.len() == PAGE_WINDOWS).map(|(last, _)| last.to_vec())
}

/// Writes `key` over what is in `into`.
fn serialise_key(key: &impl Serialize, mut into: Vec<u8>) -> Result<Vec<u8>, FlowError> {
    into.clear();
    let bytes =
        postcard::to_extend(key, into).map_err(|source| FlowError::Unserialisable { what: "key", source })?;
    if bytes.len() > KEY_BYTES_MAX {
        return Err(FlowError::KeyTooLong { len_bytes: bytes.len(), max_bytes: KEY_BYTES_MAX });
    }
    Ok(bytes)
}
