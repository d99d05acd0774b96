//! An intake: it reads one source partition, and hands each record to the shard of its key.
//!
//! It has no state but its place. A record that cannot be decoded, or is filtered out, goes no further; how far event time has
//! come is told to every shard ([`crate::repartition`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::batch::{BatchError, NO_TIMESTAMP, RecordAt};
use anabranch_core::engine::Position;
use anabranch_core::{TopicPartition, partition_of};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::FlowError;
use crate::aggregate::Aggregate;
use crate::logic::{Aside, Logic};
use crate::metrics::Snapshot;
use crate::outbox::{OUTBOX_BYTES_MAX, Outbox, Outlet};
use crate::repartition::{Envelope, Idle};
use crate::state::Progress;
use crate::watermark::Watermarks;
use crate::window;
use crate::work::{Chunk, Logged, Step, Work};

/// See [`Work`].
pub(crate) struct Intake<T, K, A: Aggregate<T>> {
    pub(crate) logic: Arc<Logic<T, K, A>>,
    pub(crate) source: TopicPartition,
    /// The source partition's index among the flow's sources.
    pub(crate) number: u32,
    pub(crate) undecodable: Aside,
    /// The topic whose partitions are the shards.
    pub(crate) shards: Outlet,
    pub(crate) commit_records: u64,
    /// In this process so many parts share what one may hold in memory.
    pub(crate) parts: usize,
    pub(crate) outbox: Outbox,
    pub(crate) progress: Progress,
    /// Of the one partition.
    pub(crate) watermarks: Watermarks,
    pub(crate) pace: Pace,
}

/// What an intake has not committed.
#[derive(Default)]
pub(crate) struct Pace {
    inbox: VecDeque<Chunk>,
    records: std::vec::IntoIter<RecordAt>,
    since_commit: u64,
    dirty: bool,
    /// What the shards were told last: the latest event, and whether the partition is idle. Nothing yet, so that they are
    /// told when it begins.
    told: Option<(Option<i64>, bool)>,
    latest: u64,
    key: Vec<u8>,
}

impl Pace {
    /// Of an intake that begins from here.
    pub(crate) fn at(progress: &Progress) -> Self {
        Self { latest: progress.positions[0], ..Self::default() }
    }
}

impl<T, K, A> Intake<T, K, A>
where
    K: Serialize + DeserializeOwned,
    A: Aggregate<T>,
{
    fn position(&self) -> u64 {
        self.progress.positions[0]
    }

    /// How the partition stands, as shards are told.
    fn stands(&self) -> (Option<i64>, bool) {
        (self.watermarks.latest_events_ms()[0], self.watermarks.idle()[0])
    }

    fn envelope(&self, position: u64, marker: Option<Idle>) -> Envelope {
        let latest_event_ms = self.watermarks.latest_events_ms()[0];
        Envelope { source: self.number, position, latest_event_ms, timestamp_ms: NO_TIMESTAMP, marker }
    }

    /// The next record of the inbox's first chunk that has not been worked on before.
    fn next_record(&mut self) -> Result<Option<RecordAt>, FlowError> {
        let position = self.position();
        let damaged = |source: BatchError| FlowError::Damaged {
            partition: self.source.clone(),
            position: Position(position),
            source,
        };
        while let Some(chunk) = self.pace.inbox.front_mut() {
            let end = chunk.end;
            let fits = |at: &RecordAt| {
                let at = at.offset.0.cast_unsigned();
                at >= position && end.is_none_or(|end| at < end.0)
            };
            if let Some(record) = self.pace.records.find(fits) {
                return Ok(Some(record));
            }
            if let Some(records) = chunk.fetched.block.take_records().map_err(damaged)? {
                self.pace.records = records.into_iter();
                continue;
            }
            return Ok(None);
        }
        Ok(None)
    }

    fn accept(&mut self, at: RecordAt) -> Result<(), FlowError> {
        let position = at.offset.0.cast_unsigned();
        self.progress.counts.records_in += 1;
        match (self.logic.decode)(&at) {
            Ok(Some(item)) => {
                let key = self.logic.key_of(&item, std::mem::take(&mut self.pace.key))?;
                let shard = partition_of(&key, self.shards.partitions);
                self.pace.key = key;
                let record = self.envelope(position, None).close(at.record)?;
                self.outbox.push(&TopicPartition::new(&self.shards.topic, shard), &record)?;
                self.watermarks.observe(0, window::within_reach((self.logic.event_time)(&item)));
            }
            Ok(None) => self.progress.counts.filtered += 1,
            Err(reason) => {
                self.progress.counts.undecodable += 1;
                self.undecodable.undecodable(&mut self.outbox, &self.source, position, at.record, reason)?;
            }
        }
        self.progress.positions[0] = position + 1;
        self.pace.dirty = true;
        self.pace.since_commit += 1;
        Ok(())
    }

    /// The chunk is worked on.
    fn pass(&mut self, chunk: &Chunk) {
        let position = &mut self.progress.positions[0];
        let next = chunk.end.map_or(chunk.fetched.next, |end| end.min(chunk.fetched.next)).0;
        self.pace.dirty |= next > *position;
        *position = next.max(*position);
        if chunk.end.is_some_and(|end| *position >= end.0) {
            self.watermarks.end(0);
        }
    }
}

impl<T, K, A> Work for Intake<T, K, A>
where
    K: Serialize + DeserializeOwned,
    A: Aggregate<T>,
{
    fn positions(&self) -> Vec<Position> {
        vec![Position(self.position())]
    }

    fn take_in(&mut self, chunks: Vec<Chunk>, now: Duration) {
        for chunk in chunks {
            self.pace.latest = chunk.fetched.latest.0;
            if !chunk.fetched.block.is_empty() {
                self.watermarks.heard(0, now);
            } else if chunk.fetched.next >= chunk.fetched.latest {
                self.watermarks.quiet(0, now);
            }
            self.pace.inbox.push_back(chunk);
        }
    }

    fn work(&mut self) -> Result<bool, FlowError> {
        loop {
            while let Some(record) = self.next_record()? {
                self.accept(record)?;
                if self.pace.since_commit >= self.commit_records
                    || self.outbox.len_bytes() >= OUTBOX_BYTES_MAX / self.parts
                {
                    return Ok(true);
                }
            }
            match self.pace.inbox.pop_front() {
                Some(chunk) => self.pass(&chunk),
                None => return Ok(false),
            }
        }
    }

    fn commit_step(&mut self) -> Result<Option<Step>, FlowError> {
        let stands = self.stands();
        let is_news = self.pace.told != Some(stands);
        if !self.pace.dirty && !is_news {
            return Ok(None);
        }
        if is_news {
            let marker = self.envelope(self.position(), Some(Idle(stands.1))).to_marker()?;
            for shard in 0..self.shards.partitions {
                self.outbox.push(&TopicPartition::new(&self.shards.topic, shard), &marker)?;
            }
        }
        self.progress.step += 1;
        self.progress.latest_events_ms[0] = stands.0;
        self.pace.told = Some(stands);
        (self.pace.dirty, self.pace.since_commit) = (false, 0);
        let log = vec![self.progress.to_record()?];
        Ok(Some(Step { outgoing: self.outbox.take()?, log, positions: vec![(0, Position(self.position()))] }))
    }

    fn step_done(&mut self, _: Option<Logged>) -> Result<(), FlowError> {
        Ok(())
    }

    fn last_end_ms(&self) -> Result<Option<i64>, FlowError> {
        Ok(None)
    }

    fn close(&mut self, _: i64) {}

    fn report(&self, into: &mut Snapshot) {
        into.counts = self.progress.counts;
        into.lag = vec![(self.source.clone(), self.pace.latest.saturating_sub(self.position()))];
    }
}
