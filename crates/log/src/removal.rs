//! Removing the oldest records: the log's start moves, durably, and the segments below it go.
//!
//! Readers that hold a removed segment go on reading it; its bytes go when the last of them is done.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::planted::{self, Bug};
use anabranch_core::{Offset, ProducerId};
use tokio::sync::oneshot;

use crate::layout::remove_segment;
use crate::marks::START;
use crate::partition::{LogStatus, PartitionLog, Shared};
use crate::producers::LastWord;
use crate::segment::Segment;
use crate::writer::Command;
use crate::{AppendError, ReadError, UpkeepError};

/// Whether a new segment is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roll {
    /// When it is time.
    WhenDue,
    /// Now, if there is anything in the last one: all others can be removed or compacted.
    Now,
}

/// What the writer says of a partition: it was so when it was asked, and can only grow.
#[derive(Debug, Clone)]
pub struct Settled {
    /// After the newest record that is durable.
    pub(crate) durable: Offset,
    /// What each producer is known by.
    pub(crate) last_words: HashMap<ProducerId, LastWord>,
}

impl Settled {
    /// After the newest record that was durable.
    #[must_use]
    pub fn durable(&self) -> Offset {
        self.durable
    }
}

/// A segment, as it is judged by whoever decides what to remove or to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its first offset.
    pub base: Offset,
    /// After its last one.
    pub end: Offset,
    /// Its size.
    pub bytes: u64,
    /// The largest timestamp of its first batch, ms; -1 if there is none.
    pub first_timestamp_ms: i64,
    /// The largest timestamp of all, ms. If there is none: when the segment was first looked at and complete, or now if it
    /// is not.
    pub newest_ms: i64,
    /// Whether it is the one that is written to.
    pub is_active: bool,
}

/// What [`PartitionLog::remove_below`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// The oldest record that is kept.
    pub log_start: Offset,
    /// Segments that are gone.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Shared {
    /// Fails unless the partition works.
    pub(crate) fn check_upkeep(&self) -> Result<(), UpkeepError> {
        match &*self.status.lock() {
            LogStatus::Online => Ok(()),
            LogStatus::Stopped(fault) => Err(UpkeepError::Stopped(fault.clone())),
            LogStatus::Closed => Err(UpkeepError::Closed),
        }
    }
}

impl PartitionLog {
    /// Makes everything written durable, and begins a new segment if asked to.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn settle(&self, roll: Roll) -> Result<Settled, AppendError> {
        let (reply, settled) = oneshot::channel();
        match self.store.queue().control(Command::Settle(self.number, roll, reply)) {
            true => settled.await.unwrap_or(Err(AppendError::Closed)),
            false => Err(AppendError::Closed),
        }
    }

    /// The segments at `now_ms`, the oldest first. Blocks on the disk the first time, and for the last one.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn segments(&self, now_ms: i64) -> Result<Vec<SegmentInfo>, ReadError> {
        self.check_status()?;
        let (segments, bounds) = self.view(Offset(0));
        let mut infos = Vec::with_capacity(segments.len());
        for (at, segment) in segments.iter().enumerate() {
            let next = segments.get(at + 1);
            let (end, bytes) = match next {
                Some(next) => (next.base, segment.len()),
                None => (bounds.visible.next, bounds.visible.bytes),
            };
            infos.push(SegmentInfo {
                base: segment.base,
                end,
                bytes,
                first_timestamp_ms: self.stop_if_damaged(segment.first_timestamp(bytes))?,
                newest_ms: self.stop_if_damaged(segment.newest_ms(bytes, now_ms))?,
                is_active: next.is_none(),
            });
        }
        Ok(infos)
    }

    /// Lets the log start at `offset`, if it started before, and removes the segments that lie wholly below its start; never
    /// the last one. The start is durable before anything is removed, so that a restart keeps it. Blocks on the disk.
    ///
    /// # Errors
    /// [`UpkeepError::OutOfRange`] beyond what `settled` says is durable; the others when the start could not be written.
    pub fn remove_below(&self, settled: &Settled, offset: Offset) -> Result<Removed, UpkeepError> {
        let shared = &self.shared;
        let disk = self.store.disk();
        let _layout = shared.layout.lock();
        shared.check_upkeep()?;
        if offset > settled.durable {
            return Err(UpkeepError::OutOfRange { asked: offset, end: settled.durable });
        }
        if offset > shared.bounds.lock().log_start {
            START
                .write_to_spare(self.store.spares(), disk.as_ref(), &shared.directory, [offset])
                .map_err(failed("writing", &START.path(&shared.directory)))?;
            shared.bounds.lock().log_start = offset;
        }
        let log_start = shared.bounds.lock().log_start;
        let gone = self.take_below(log_start);
        if planted::is(Bug::ActiveSegmentRemoved)
            && let Some(active) = shared.segments.read().last()
        {
            let _ = remove_segment(disk.as_ref(), &shared.directory, active.base);
        }
        let mut removed = Removed { log_start, segments: 0, bytes: 0 };
        for segment in &gone {
            segment.retire();
            match remove_segment(disk.as_ref(), &shared.directory, segment.base) {
                Ok(()) => {
                    removed.segments += 1;
                    removed.bytes += segment.len();
                }
                // The next start knows by the log's start that it is left over.
                Err(error) => {
                    tracing::warn!(file = %segment.path.display(), %error, "a segment below the log's start remains");
                }
            }
        }
        self.store.spares().refill(disk.as_ref());
        Ok(removed)
    }

    /// Takes the segments that lie wholly below `log_start` out of the list.
    fn take_below(&self, log_start: Offset) -> Vec<Arc<Segment>> {
        let mut segments = self.shared.segments.write();
        let below = segments.windows(2).take_while(|pair| pair[1].base <= log_start).count();
        segments.drain(..below).collect()
    }
}

pub(crate) fn failed(action: &'static str, file: &Path) -> impl FnOnce(io::Error) -> UpkeepError {
    let file = file.to_owned();
    move |error| UpkeepError::Io { action, file, error: Arc::new(error) }
}
