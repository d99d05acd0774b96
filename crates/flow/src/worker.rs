//! A shard: records in, batches out, state behind.
//!
//! A commit goes in steps:
//!
//! 1. *flush*: what changed since the last commit, with the input positions and the watermark. Records that went aside,
//!    retractions, corrections and early results go out.
//! 2. *fire*, in pages: the windows that the watermark has passed emit their results.
//! 3. *expire*, in pages, where windows outlive their end: those that nothing may correct any more are deleted.
//!
//! Each step happens as a whole or not at all ([`crate::delivery`]): what goes out, what the changelog is told, and where the
//! input stands. Only then is the local store told, too. What comes of the next attempt may differ: a session can grow
//! otherwise when its input is read again, and nobody has seen the first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::{BatchError, Record, RecordAt};
use anabranch_core::engine::Position;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::FlowError;
use crate::aggregate::Aggregate;
use crate::changelog::Changelog;
use crate::header::{self, mark};
use crate::logic::{Aside, Logic};
use crate::metrics::Snapshot;
use crate::outbox::{OUTBOX_BYTES_MAX, Outbox, Outlet};
use crate::repartition::{Envelope, Idle};
use crate::state::{Changes, Entry, Progress, Stage, Table, WindowKey};
use crate::watermark::{NO_WATERMARK, Watermarks};
use crate::window::{self, Window};
use crate::work::{Chunk, Logged, Step, Work};

/// Windows and keys that the write buffer holds; when it is full, the worker asks for a commit.
const BUFFER_ENTRIES_MAX: usize = 50_000;
/// Windows that fire or expire in one step of a commit.
const PAGE_WINDOWS: usize = 4096;

/// What the flow's author chose, and what follows from the engine.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) sink: Outlet,
    pub(crate) undecodable: Aside,
    pub(crate) late: Aside,
    pub(crate) allowed_lateness_ms: i64,
    pub(crate) emit_early: bool,
    pub(crate) commit_records: u64,
    /// What the engine takes at once.
    pub(crate) append_records_max: usize,
    /// In this process so many parts share what one may hold in memory.
    pub(crate) parts: usize,
    /// Records that the changelog takes in one step.
    pub(crate) step_records_max: usize,
}

/// Where a worker's records come from.
#[derive(Debug)]
pub(crate) struct Origins {
    /// What it reads.
    pub(crate) inputs: Vec<TopicPartition>,
    /// Where the records were at first; the same, unless they come through a topic of the flow's own.
    pub(crate) sources: Vec<TopicPartition>,
}

/// See [`Work`].
pub(crate) struct Worker<T, K, A: Aggregate<T>> {
    logic: Arc<Logic<T, K, A>>,
    options: Options,
    origins: Origins,
    /// None when the state is local.
    changelog: Option<Changelog>,
    table: Table<A::State>,
    watermarks: Watermarks,
    progress: Progress,
    /// The end of every input, as far as is known.
    latest: Vec<u64>,
    inbox: VecDeque<Inflow>,
    outbox: Outbox,
    since_commit: u64,
    dirty: bool,
    phase: Phase,
    /// Of the step that is under way.
    changes: Option<Changes>,
    /// Records that came once more, since it was opened.
    repeated: u64,
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
        logic: Arc<Logic<T, K, A>>,
        options: Options,
        origins: Origins,
        changelog: Option<Changelog>,
        table: Table<A::State>,
        watermarks: Watermarks,
        progress: Progress,
    ) -> Self {
        Self {
            logic,
            origins,
            changelog,
            table,
            watermarks,
            latest: progress.positions.clone(),
            committed: progress.positions.clone(),
            progress,
            inbox: VecDeque::new(),
            outbox: Outbox::new(options.append_records_max),
            options,
            repeated: 0,
            since_commit: 0,
            dirty: false,
            phase: Phase::Fire { cursor: None }, // a commit that was interrupted is finished first
            changes: None,
            scratch: Scratch::default(),
        }
    }

    fn is_due(&self) -> bool {
        let parts = self.options.parts;
        self.since_commit >= self.options.commit_records
            || self.table.len() >= (BUFFER_ENTRIES_MAX / parts).min(self.options.step_records_max / 2)
            || self.outbox.len_bytes() >= OUTBOX_BYTES_MAX / parts
    }

    /// The next record of the inbox's first chunk that has not been worked on before.
    fn next_record(&mut self, inflow: &mut Inflow) -> Result<Option<RecordAt>, FlowError> {
        let Chunk { input, fetched, end } = &mut inflow.chunk;
        let position = self.progress.positions[*input];
        let damaged = |source: BatchError| FlowError::Damaged {
            partition: self.origins.inputs[*input].clone(),
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

    fn accept(&mut self, input: usize, at: RecordAt) -> Result<(), FlowError> {
        let position = at.offset.0.cast_unsigned();
        if self.progress.taken.is_some() {
            // What lies between them and this one is not shown.
            self.progress.positions[input] = position;
            self.progress.pass_changes();
            self.accept_repartitioned(input, at.record)?;
        } else {
            self.progress.counts.records_in += 1;
            self.take(input, at)?;
        }
        self.progress.positions[input] = position + 1;
        self.dirty = true;
        self.since_commit += 1;
        Ok(())
    }

    /// A record from a source, or how things stand there. What was taken in before says nothing new.
    fn accept_repartitioned(&mut self, input: usize, record: Record) -> Result<(), FlowError> {
        let (envelope, record) = Envelope::open(&self.origins.inputs[input], record)?;
        if envelope.is_change() {
            return Ok(());
        }
        let Envelope { source, position, latest_event_ms, marker, .. } = envelope;
        let source = source as usize;
        let taken = self.progress.taken.as_mut().and_then(|taken| taken.positions.get_mut(source));
        let Some(taken) = taken else {
            return Err(FlowError::Repartitioned { topic: self.origins.inputs[input].topic.clone() });
        };
        if position < *taken {
            self.repeated += u64::from(marker.is_none());
            return Ok(());
        }
        *taken = envelope.next();
        self.watermarks.told(source, latest_event_ms, marker.is_some_and(|Idle(idle)| idle));
        match marker {
            Some(_) => Ok(()),
            None => self.take(source, RecordAt { offset: Position(position).into(), record }),
        }
    }

    /// Takes in what stood so in a source.
    fn take(&mut self, source: usize, at: RecordAt) -> Result<(), FlowError> {
        let position = at.offset.0.cast_unsigned();
        match (self.logic.decode)(&at) {
            Ok(Some(item)) => self.add(source, position, &item, at.record),
            Ok(None) => {
                self.progress.counts.filtered += 1;
                Ok(())
            }
            Err(reason) => {
                self.progress.counts.undecodable += 1;
                let from = &self.origins.sources[source];
                self.options.undecodable.undecodable(&mut self.outbox, from, position, at.record, reason)
            }
        }
    }

    fn add(&mut self, source: usize, position: u64, item: &T, record: Record) -> Result<(), FlowError> {
        let at_ms = window::within_reach((self.logic.event_time)(item));
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.key = self.logic.key_of(item, scratch.key)?;
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
            self.set_late_aside(source, position, at_ms, record)?;
        }
        self.watermarks.observe(source, at_ms);
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
        source: usize,
        position: u64,
        at_ms: i64,
        record: Record,
    ) -> Result<(), FlowError> {
        let Aside::Send(to) = &self.options.late else {
            self.progress.counts.late_dropped += 1;
            return Ok(());
        };
        self.progress.counts.late_sent += 1;
        let from = &self.origins.sources[source];
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
        if let Some(taken) = &mut progress.taken {
            taken.idle = watermarks.idle();
        }
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
        let page = self.page_windows();
        let windows = self.table.store.windows_ending(fired_ms, watermark_ms, cursor, page)?;
        let next = next_cursor(&windows, page);
        let closed_ms = self.closed_ms();
        for (bytes, entry) in windows {
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
        let page = self.page_windows();
        let windows: Vec<(_, Entry<A::State>)> =
            store.windows_ending(self.progress.expired_ms, closed_ms, cursor, page)?;
        let next = next_cursor(&windows, page);
        for (bytes, _) in windows {
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
        let log = changes.take_records();
        let moved = self.progress.positions.iter().zip(&self.committed).enumerate();
        let positions = moved
            .filter(|(_, (next, committed))| next != committed)
            .map(|(input, (next, _))| (input, Position(*next)))
            .collect();
        self.committed.clone_from(&self.progress.positions);
        self.changes = Some(changes);
        Ok(Step { outgoing: self.outbox.take()?, log, positions })
    }

    /// Windows that fire or expire in one step: each is a record of the changelog, or two, where its key has sessions.
    fn page_windows(&self) -> usize {
        PAGE_WINDOWS.min(self.options.step_records_max / 2 - 1)
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
    fn positions(&self) -> Vec<Position> {
        self.progress.positions.iter().copied().map(Position).collect()
    }

    fn take_in(&mut self, chunks: Vec<Chunk>, now: Duration) {
        for chunk in chunks {
            let Chunk { input, fetched, .. } = &chunk;
            self.latest[*input] = fetched.latest.0;
            if self.progress.taken.is_some() {
                // Whether a source brings nothing is known to who reads it.
            } else if !fetched.block.is_empty() {
                self.watermarks.heard(*input, now);
            } else if fetched.next >= fetched.latest {
                self.watermarks.quiet(*input, now);
            }
            self.inbox.push_back(Inflow { chunk, records: Vec::new().into_iter() });
        }
    }

    fn work(&mut self) -> Result<bool, FlowError> {
        while let Some(mut inflow) = self.inbox.pop_front() {
            let input = inflow.chunk.input;
            while let Some(record) = self.next_record(&mut inflow)? {
                self.accept(input, record)?;
                if self.is_due() {
                    self.inbox.push_front(inflow);
                    return Ok(true);
                }
            }
            let Chunk { fetched, end, .. } = inflow.chunk;
            let position = &mut self.progress.positions[input];
            let next = end.map_or(fetched.next, |end| end.min(fetched.next)).0;
            self.dirty |= next > *position;
            *position = next.max(*position);
            if self.progress.taken.is_none() && end.is_some_and(|end| *position >= end.0) {
                self.watermarks.end(input);
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
        let mark = self.changelog.as_ref().zip(logged);
        let mark = mark.map(|(changelog, logged)| changelog.mark(logged.position, logged.at_ms));
        self.table.store.commit(changes, mark.as_ref())
    }

    fn last_end_ms(&self) -> Result<Option<i64>, FlowError> {
        let last = self.table.store.last_window_key()?;
        last.map(|last| Ok(self.window_key(&last)?.window.end_ms)).transpose()
    }

    fn close(&mut self, end_ms: i64) {
        self.watermarks.close(end_ms);
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
        into.lag = self.origins.inputs.iter().cloned().zip(lag).collect();
        into.repeated = self.repeated;
    }
}

/// Where the page after this one begins, if there is one.
fn next_cursor<E>(windows: &[(fjall::Slice, E)], page: usize) -> Option<Vec<u8>> {
    windows.last().filter(|_| windows.len() == page).map(|(last, _)| last.to_vec())
}
