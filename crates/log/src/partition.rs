//! One partition, as its users see it.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_core::batch::{BATCH_HEADER_BYTES, Batch, BatchHeader};
use anabranch_core::seam::Workers;
use anabranch_core::{Offset, ProducerEpoch, ProducerId, TopicPartition};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use crate::durable::DurableNote;
use crate::isolation::after;
use crate::range::BatchRange;
use crate::segment::Segment;
use crate::waiters::Waiters;
use crate::writer::{Append, Command};
use crate::{
    Aborted, AppendError, Fault, FaultCause, Isolation, Part, ProducerState, ReadError, Store, Waiter,
};

/// When an append is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// When it is in the page cache: survives the death of the process.
    Written,
    /// When it is on the disk: survives power loss.
    Durable,
}

/// A partition's settings, under Kafka's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment that would grow beyond this is closed and a new one begun.
    pub segment_bytes: u32,
    /// `segment.ms`: so is one whose records span more time than this.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: by how much less, at most.
    pub segment_jitter_ms: i64,
    /// `flush.messages`: sync when so many records are not. 1, the default here, syncs every group before it is seen or
    /// acknowledged. More than 1 is relaxed durability: written bytes are seen and acknowledged before they are synced.
    pub flush_messages: i64,
    /// `flush.ms`: sync when the oldest record that is not synced is this old (relaxed durability only).
    pub flush_ms: i64,
    /// `index.interval.bytes`: about how far apart entries of the index are.
    pub index_interval_bytes: u32,
    /// `segment.index.bytes`: a segment whose index has grown to about this is closed, too.
    pub segment_index_bytes: u32,
    /// Space that is kept ready for the next records, so that they can be written while the disk is full: at least half of
    /// this, where the file system can do it.
    pub reserve_bytes: u64,
}

/// What it means when there is no log where one is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// It is new: create it.
    Create,
    /// It was there: it opens as stopped, and nothing is created in its place.
    Damage,
}

/// Where an append ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// Whether it had been appended before, by the same producer with the same sequence; it was not appended again.
    pub duplicate: bool,
}

/// An append that is queued. Dropping it does not take the append back.
#[derive(Debug)]
pub struct Pending {
    answer: oneshot::Receiver<Result<Appended, AppendError>>,
}

impl Pending {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn answer(self) -> Result<Appended, AppendError> {
        self.answer.await.unwrap_or(Err(AppendError::Closed))
    }
}

/// The offsets that bound a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    /// The oldest kept record.
    pub log_start: Offset,
    /// After the newest record that readers may see.
    pub high_watermark: Offset,
    /// Where the oldest open transaction begins, or the high watermark: what is before is decided.
    pub last_stable: Offset,
    /// After the newest record that is written.
    pub log_end: Offset,
}

impl Offsets {
    /// After the newest record that a reader sees.
    #[must_use]
    pub fn end(&self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::Written => self.high_watermark,
            Isolation::Committed => self.last_stable,
        }
    }
}

/// A transaction that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Whose.
    pub producer: ProducerId,
    /// In which epoch.
    pub epoch: ProducerEpoch,
    /// Where it begins.
    pub first: Offset,
}

/// What a read brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadSlice {
    /// Whole, checked batches. The first may begin below the offset that was asked for.
    pub batches: Bytes,
    /// The transactions that were aborted and of which there are records in the batches, and others perhaps, in the order of
    /// their markers; only for readers of committed records, who leave them out.
    pub aborted: Vec<Aborted>,
    /// The partition's bounds when it was read.
    pub offsets: Offsets,
}

/// What a fetch may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    /// Of whole batches.
    pub bytes_max: usize,
    /// The first batch comes though it is larger (KIP-74).
    pub first_comes: bool,
    /// Of what is read at once. What could be [`FetchLimits::IN_FILE_BYTES`] or more is not.
    pub memory_bytes_max: usize,
}

impl FetchLimits {
    /// So much and more is left where it stands, to be read while it is sent.
    pub const IN_FILE_BYTES: usize = 64 << 10;
}

/// What a fetch brings.
#[derive(Debug)]
pub struct FetchSlice {
    /// Whole batches.
    pub batches: Batches,
    /// As in [`ReadSlice`].
    pub aborted: Vec<Aborted>,
    /// The partition's bounds when it was read.
    pub offsets: Offsets,
}

/// Batches that were read, or are to be read.
#[derive(Debug)]
pub enum Batches {
    /// And checked.
    Read(Bytes),
    /// They are checked when they are read.
    InFile(BatchRange),
}

impl Batches {
    /// How much it is.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Read(bytes) => bytes.len(),
            Self::InFile(range) => range.len_bytes(),
        }
    }
}

/// An offset found by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamped {
    /// The record.
    pub offset: Offset,
    /// Its timestamp, ms since the Unix epoch.
    pub timestamp_ms: i64,
}

/// Whether a partition works.
#[derive(Debug, Clone)]
pub enum LogStatus {
    /// It does.
    Online,
    /// It has stopped, because of this.
    Stopped(Fault),
    /// It was closed or deleted.
    Closed,
}

/// How far readers may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visible {
    /// After the last record that may be seen: the high watermark.
    pub(crate) next: Offset,
    /// The segment that holds the end of it.
    pub(crate) segment: Offset,
    /// Bytes of that segment that may be read.
    pub(crate) bytes: u64,
}

/// What readers and the writer share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) log_start: Offset,
    pub(crate) visible: Visible,
    /// Up to where all transactions have ended. The log's start may have passed it.
    pub(crate) stable: Offset,
    pub(crate) log_end: Offset,
}

impl Bounds {
    pub(crate) fn offsets(&self) -> Offsets {
        Offsets {
            log_start: self.log_start,
            high_watermark: self.visible.next,
            last_stable: self.stable.max(self.log_start),
            log_end: self.log_end,
        }
    }
}

/// What a partition takes while its records are moved elsewhere. Ends of transactions always come through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Gate {
    /// Everything.
    #[default]
    Open,
    /// What belongs to transactions, so that those that are open come to their ends.
    Draining,
    /// Nothing, for a moment.
    Held,
    /// Nothing any more: the records are there now, and whoever sends some is refused for good.
    Moved(Arc<str>),
    /// The same, but whoever sends records that are in no transaction is to try again, and will be told where.
    Redirected(Arc<str>),
}

/// The state behind a [`PartitionLog`].
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: TopicPartition,
    pub(crate) directory: PathBuf,
    /// Changed under one lock, so that readers see bounds that fit together: by the writer, and the log's start by whoever
    /// removes segments.
    pub(crate) bounds: Mutex<Bounds>,
    /// Oldest first, never empty while online; the last one is written to. The writer adds to them; whoever removes or
    /// replaces others holds `layout`, and has moved the log's start first.
    pub(crate) segments: RwLock<Vec<Arc<Segment>>>,
    /// Held while files of segments that are complete are removed or replaced, and while the partition closes: afterwards
    /// nobody touches them. Taken before any other lock.
    pub(crate) layout: Mutex<()>,
    /// Held by the one who compacts.
    pub(crate) cleaning: tokio::sync::Mutex<()>,
    pub(crate) config: Mutex<LogConfig>,
    /// Held for a copy only.
    pub(crate) gate: Mutex<Gate>,
    pub(crate) status: Mutex<LogStatus>,
    /// Held to note a point.
    pub(crate) note: Mutex<DurableNote>,
    pub(crate) waiters: Waiters,
}

impl Shared {
    /// Stops the partition, unless it has stopped already; told once, here.
    pub(crate) fn stop(&self, fault: &Fault) {
        let mut status = self.status.lock();
        if matches!(*status, LogStatus::Online) {
            tracing::error!(partition = %self.id, %fault, "the partition has stopped");
            *status = LogStatus::Stopped(fault.clone());
        }
        drop(status);
        self.waiters.wake();
    }

    /// Damage that a reader meets stops the partition; a read that merely failed does not.
    pub(crate) fn stop_if_damaged<T>(&self, result: Result<T, Fault>) -> Result<T, ReadError> {
        result.map_err(|fault| {
            if !matches!(fault.cause, FaultCause::Io { .. }) {
                self.stop(&fault);
            }
            ReadError::Fault(fault)
        })
    }

    /// Why nothing more is written, if so.
    pub(crate) fn stopped(&self) -> Option<AppendError> {
        match &*self.status.lock() {
            LogStatus::Online => None,
            LogStatus::Stopped(fault) => Some(AppendError::Stopped(fault.clone())),
            LogStatus::Closed => Some(AppendError::Closed),
        }
    }

    pub(crate) fn close(&self) {
        let _layout = self.layout.lock();
        *self.status.lock() = LogStatus::Closed;
        self.waiters.wake();
    }
}

/// One partition's log. Cheap to clone; all clones are the same log.
#[derive(Debug, Clone)]
pub struct PartitionLog {
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: u64,
    /// A log keeps its store open.
    pub(crate) store: Store,
}

impl PartitionLog {
    /// Which partition this is.
    #[must_use]
    pub fn id(&self) -> &TopicPartition {
        &self.shared.id
    }

    /// From now on the partition takes what `gate` says. What was queued before may have been judged by then:
    /// [`PartitionLog::settle`] comes behind it. A batch that was appended before is answered as it was, whatever the gate.
    pub fn set_gate(&self, gate: Gate) {
        *self.shared.gate.lock() = gate;
    }

    /// Appends one checked batch ([`Batch::check_records`] is the caller's affair) and answers as `ack` says. Dropping
    /// the future does not take the append back.
    ///
    /// # Errors
    /// [`AppendError`]; nothing of the batch is in the log then, except after [`AppendError::Stopped`], when it is not
    /// known.
    pub async fn append(&self, batch: Batch, ack: Ack) -> Result<Appended, AppendError> {
        let (append, pending) = self.prepare(batch, ack, None)?;
        self.hand_over(append).await?;
        pending.answer().await
    }

    /// The same, if the log ends at `end` when the batch's turn comes: whatever is queued before it counts, also what belongs
    /// to transactions, and their ends.
    ///
    /// # Errors
    /// [`AppendError::NotAtEnd`]; otherwise as [`PartitionLog::append`].
    pub async fn append_at(&self, end: Offset, batch: Batch, ack: Ack) -> Result<Appended, AppendError> {
        let (append, pending) = self.prepare(batch, ack, None)?;
        self.hand_over(Append { expected: Some(end), ..append }).await?;
        pending.answer().await
    }

    async fn hand_over(&self, append: Append) -> Result<(), AppendError> {
        match self.store.queue().append_now(append) {
            Some(append) => self.store.queue().append(append).await,
            None => Ok(()),
        }
    }

    /// Queues one checked batch behind everything queued before, and returns once it is queued: whoever appends several
    /// batches in order submits them one after the other and awaits the answers ([`Pending::answer`]) as they like.
    ///
    /// # Errors
    /// [`AppendError::Closed`] or [`AppendError::Stopped`].
    pub async fn submit(&self, batch: Batch, ack: Ack) -> Result<Pending, AppendError> {
        self.submit_in(batch, ack, None).await
    }

    /// The same for a batch that is part of a transaction: the coordinator has said of which. It is refused if that has ended
    /// by then. So is the end of a transaction itself, if it comes too late ([`Store::submit_end`] is for what is decided
    /// here).
    ///
    /// # Errors
    /// As [`PartitionLog::submit`].
    pub async fn submit_in(
        &self,
        batch: Batch,
        ack: Ack,
        part: Option<Part>,
    ) -> Result<Pending, AppendError> {
        let (append, pending) = self.prepare(batch, ack, part)?;
        self.store.queue().append(append).await?;
        Ok(pending)
    }

    /// Says of a client's batch that was meant for a transaction that it does not come, whyever: what its producer sends behind
    /// it must not take its place. `version` is `transaction.version`, as it came. A batch that was submitted needs no such
    /// word.
    pub async fn note_refused(&self, batch: &BatchHeader, version: i8) {
        // To a writer that has ended it does not matter.
        let _ = self.store.queue().note_refused(self.number, batch, version).await;
    }

    fn prepare(&self, batch: Batch, ack: Ack, part: Option<Part>) -> Result<(Append, Pending), AppendError> {
        if let Some(stopped) = self.shared.stopped() {
            return Err(stopped);
        }
        let (reply, answer) = oneshot::channel();
        let append = Append { partition: self.number, batch, part, expected: None, ack, reply };
        Ok((append, Pending { answer }))
    }

    /// Reads whole batches from the one that holds `from` on, up to `bytes_max`; the first comes whole even when it is
    /// larger. Empty from the high watermark to the end of the log. Blocks on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, from: Offset, bytes_max: usize) -> Result<ReadSlice, ReadError> {
        self.read_within(from, bytes_max, Isolation::Written)
    }

    /// The same for readers of committed records: empty from the last stable offset on.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_within(
        &self,
        from: Offset,
        bytes_max: usize,
        isolation: Isolation,
    ) -> Result<ReadSlice, ReadError> {
        let read = |segment: &Arc<Segment>, visible| {
            let batches = self.read_segment(segment, from, bytes_max, visible)?;
            Ok(after(&batches).map(|after| (batches, after)))
        };
        let (batches, aborted, offsets) = self.in_segments(from, isolation, read)?;
        Ok(ReadSlice { batches: batches.unwrap_or_default(), aborted, offsets })
    }

    /// Finds whole batches from the one that holds `from` on, and reads them if they are few. Empty from the high watermark,
    /// or the last stable offset, to the end of the log, and where the first batch does not fit. Blocks on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn fetch(
        &self,
        from: Offset,
        limits: FetchLimits,
        isolation: Isolation,
    ) -> Result<FetchSlice, ReadError> {
        let fetch = |segment: &Arc<Segment>, visible| {
            let batches = self.fetch_segment(segment, from, limits, visible)?;
            Ok(batches.map(|batches| {
                let after = match &batches {
                    Batches::Read(bytes) => after(bytes).unwrap_or(from),
                    Batches::InFile(range) => range.below(),
                };
                (batches, after)
            }))
        };
        let (batches, aborted, offsets) = self.in_segments(from, isolation, fetch)?;
        Ok(FetchSlice { batches: batches.unwrap_or(Batches::Read(Bytes::new())), aborted, offsets })
    }

    /// What is found first in the segments that hold `from` and what follows, and an offset that it does not reach.
    fn in_segments<T>(
        &self,
        from: Offset,
        isolation: Isolation,
        mut find: impl FnMut(&Arc<Segment>, Visible) -> Result<Option<(T, Offset)>, ReadError>,
    ) -> Result<(Option<T>, Vec<Aborted>, Offsets), ReadError> {
        self.check_status()?;
        let (segments, bounds) = self.view(from);
        let (start, end) = (bounds.log_start, bounds.log_end);
        if from < start || from > end {
            return Err(ReadError::OutOfRange { asked: from, start, end });
        }
        let offsets = bounds.offsets();
        let is_committed = isolation == Isolation::Committed;
        if from >= if is_committed { offsets.last_stable } else { offsets.high_watermark } {
            return Ok((None, Vec::new(), offsets));
        }
        let visible = self.visible_to(isolation, &segments, bounds)?;
        for (at, segment) in segments.iter().enumerate() {
            self.stop_if_damaged(segment.check_joins(from))?;
            if let Some((found, after)) = find(segment, visible)? {
                let aborted = match is_committed {
                    true => self.aborted_between(&segments[at..], from, after)?,
                    false => Vec::new(),
                };
                let aborted = aborted.into_iter().map(Aborted::from).collect();
                return Ok((Some(found), aborted, offsets));
            }
        }
        Ok((None, Vec::new(), offsets))
    }

    /// The bounds now.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        self.shared.bounds.lock().offsets()
    }

    /// What is remembered of producers, by id: all that was queued before is in it.
    ///
    /// # Errors
    /// [`AppendError::Closed`].
    pub async fn producers(&self) -> Result<Vec<ProducerState>, AppendError> {
        let (reply, producers) = oneshot::channel();
        match self.store.queue().control(Command::Describe(self.number, reply)) {
            true => producers.await.map_err(|_| AppendError::Closed),
            false => Err(AppendError::Closed),
        }
    }

    /// The transactions that have not ended, by producer: all that was queued before is in it.
    ///
    /// # Errors
    /// As [`PartitionLog::producers`].
    pub async fn open_transactions(&self) -> Result<Vec<OpenTransaction>, AppendError> {
        let open = |ProducerState { id, epoch, open, .. }| {
            Some(OpenTransaction { producer: id, epoch, first: open? })
        };
        Ok(self.producers().await?.into_iter().filter_map(open).collect())
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.shared.segments.read().iter().map(|segment| segment.len()).sum()
    }

    /// The first visible record whose timestamp is at least `timestamp_ms`. Blocks on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn find_by_time(&self, timestamp_ms: i64) -> Result<Option<Timestamped>, ReadError> {
        self.check_status()?;
        let (segments, bounds) = self.view(Offset(0));
        for segment in segments_from(&segments, bounds.log_start) {
            let end = readable(segment, bounds.visible);
            if self.stop_if_damaged(segment.max_timestamp(end))?.is_some_and(|max| max >= timestamp_ms) {
                let found = segment.find_time(timestamp_ms, bounds.log_start, end);
                if let Some(found) = self.stop_if_damaged(found)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// The visible record with the largest timestamp, the first one if there are several. Blocks on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn find_max_time(&self) -> Result<Option<Timestamped>, ReadError> {
        self.check_status()?;
        let (segments, bounds) = self.view(Offset(0));
        // A segment's largest timestamp, and the record that has it once that is known.
        let mut candidates: Vec<(i64, Option<Timestamped>, Arc<Segment>)> = Vec::new();
        for segment in segments_from(&segments, bounds.log_start) {
            let max = self.stop_if_damaged(segment.max_timestamp(readable(segment, bounds.visible)))?;
            candidates.extend(max.map(|max| (max, None, Arc::clone(segment))));
        }
        loop {
            // The first of the largest.
            let largest = candidates.iter().enumerate().rev().max_by_key(|(_, (max, ..))| *max);
            let Some((at, (max, found, segment))) = largest else { return Ok(None) };
            if found.is_some() {
                return Ok(*found);
            }
            let end = readable(segment, bounds.visible);
            let cheap = self.stop_if_damaged(segment.find_time(*max, bounds.log_start, end))?;
            // That record lies before the start of the log, perhaps, and another one is the largest of those that are left.
            let found = match cheap {
                Some(found) => Some(found),
                None => self.stop_if_damaged(segment.find_max_time(bounds.log_start, end))?,
            };
            match found {
                Some(found) => candidates[at] = (found.timestamp_ms, Some(found), Arc::clone(segment)),
                None => drop(candidates.remove(at)),
            }
        }
    }

    /// Wakes `waiter` once when the high watermark moves next, or the partition stops or closes.
    pub fn register(&self, waiter: &Waiter) {
        self.shared.waiters.register(waiter);
    }

    /// Takes new settings; they hold from the next append on.
    pub fn set_config(&self, config: LogConfig) {
        *self.shared.config.lock() = config;
    }

    /// Where work runs that blocks.
    #[must_use]
    pub fn workers(&self) -> &Arc<dyn Workers> {
        self.store.workers()
    }

    /// Whether it works.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        self.shared.status.lock().clone()
    }

    pub(crate) fn check_status(&self) -> Result<(), ReadError> {
        match &*self.shared.status.lock() {
            LogStatus::Online => Ok(()),
            LogStatus::Stopped(fault) => Err(ReadError::Fault(fault.clone())),
            LogStatus::Closed => Err(ReadError::Closed),
        }
    }

    /// The segments that may hold `from` or what follows it, and bounds that fit them: a segment that was written to is read no further than it was visible, and
    /// never one that took its place since.
    pub(crate) fn view(&self, from: Offset) -> (Vec<Arc<Segment>>, Bounds) {
        loop {
            // In this order: what the log's start has passed meanwhile is still among them.
            let segments = segments_from(&self.shared.segments.read(), from).to_vec();
            let bounds = *self.shared.bounds.lock();
            if segments.last().is_none_or(|last| last.base == bounds.visible.segment) {
                for pair in segments.windows(2) {
                    pair[0].note_sealed(pair[1].base);
                }
                return (segments, bounds);
            }
            std::thread::yield_now(); // a new segment is just being begun
        }
    }

    /// Batches of one segment.
    fn read_segment(
        &self,
        segment: &Segment,
        from: Offset,
        bytes_max: usize,
        visible: Visible,
    ) -> Result<Bytes, ReadError> {
        let end = readable(segment, visible);
        match self.stop_if_damaged(segment.find(from, end))? {
            Some((position, first)) => self.take(segment, (position, &first), bytes_max, visible),
            None => Ok(Bytes::new()),
        }
    }

    /// Batches from one that was found on.
    fn take(
        &self,
        segment: &Segment,
        (position, first): (u64, &BatchHeader),
        bytes_max: usize,
        visible: Visible,
    ) -> Result<Bytes, ReadError> {
        let window_bytes = bytes_max.max(first.len_bytes).saturating_add(BATCH_HEADER_BYTES);
        // Offsets lie outside the checksum, and the last batch has none after it that would not fit.
        let scan = segment.scan(position, readable(segment, visible), window_bytes);
        let scan = scan.below(limit(segment, visible));
        self.stop_if_damaged(scan.take(bytes_max).map_err(|error| segment.scan_fault(error)))
    }

    /// The same, left where they stand if they are many; `None` if there are none.
    fn fetch_segment(
        &self,
        segment: &Arc<Segment>,
        from: Offset,
        limits: FetchLimits,
        visible: Visible,
    ) -> Result<Option<Batches>, ReadError> {
        let end = readable(segment, visible);
        let Some((position, first)) = self.stop_if_damaged(segment.find(from, end))? else { return Ok(None) };
        let nothing = Ok(Some(Batches::Read(Bytes::new())));
        if first.len_bytes > limits.bytes_max && !limits.first_comes {
            return nothing;
        }
        let left = usize::try_from(end - position).unwrap_or(usize::MAX);
        let bytes_max = limits.bytes_max.max(first.len_bytes).min(left);
        if bytes_max < FetchLimits::IN_FILE_BYTES {
            if first.len_bytes > limits.memory_bytes_max {
                return nothing;
            }
            let bytes_max = bytes_max.min(limits.memory_bytes_max);
            return self.take(segment, (position, &first), bytes_max, visible).map(Batches::Read).map(Some);
        }
        let located = segment.locate((position, &first), bytes_max, (end, limit(segment, visible)));
        let (ends, below) = self.stop_if_damaged(located)?;
        let log = (Arc::clone(&self.shared), Arc::clone(segment));
        Ok(Some(Batches::InFile(BatchRange::new(log, position..ends, below))))
    }

    pub(crate) fn stop_if_damaged<T>(&self, result: Result<T, Fault>) -> Result<T, ReadError> {
        self.shared.stop_if_damaged(result)
    }
}

/// The segments that may hold `offset` or what follows it.
fn segments_from(segments: &[Arc<Segment>], offset: Offset) -> &[Arc<Segment>] {
    let first = segments.partition_point(|segment| segment.base <= offset).saturating_sub(1);
    &segments[first..]
}

/// An offset that no record reaches that may be read of a segment.
fn limit(segment: &Segment, visible: Visible) -> Offset {
    if segment.base == visible.segment { visible.next } else { Offset(i64::MAX) }
}

/// Bytes of a segment that may be read.
pub(crate) fn readable(segment: &Segment, visible: Visible) -> u64 {
    match segment.base.cmp(&visible.segment) {
        std::cmp::Ordering::Less => segment.len(),
        std::cmp::Ordering::Equal => visible.bytes,
        std::cmp::Ordering::Greater => 0,
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::batch::{BatchBuilder, Compression, Record, check_batch};
    use anabranch_core::seam::{ManualClock, RealDisk, SeededRandom, Threads};

    use super::*;
    use crate::{Absent, StoreConfig};

    /// A log may begin in the middle of a batch, whose other records are gone though the segment has them.
    #[tokio::test]
    async fn records_before_the_start_of_the_log_are_not_found_by_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig {
            root: dir.path().to_owned(),
            disk: Arc::new(RealDisk),
            clock: Arc::new(ManualClock::at(0)),
            workers: Arc::new(Threads),
            random: Arc::new(SeededRandom::new(1)),
            queue_appends_max: 1,
            open_files_max: 100,
            journal_file_bytes: 1 << 20,
            producer_expiration_ms: i64::MAX,
        })
        .unwrap();
        let config = LogConfig {
            segment_bytes: 1 << 20,
            segment_ms: i64::MAX,
            segment_jitter_ms: 0,
            flush_messages: 1,
            flush_ms: i64::MAX,
            index_interval_bytes: 0,
            segment_index_bytes: 1 << 20,
            reserve_bytes: 0,
        };
        let log = store.open_partition("t", 0, config, Absent::Create).unwrap();
        for times in [&[900, 100][..], &[500, 200], &[50, 500]] {
            let mut builder = BatchBuilder::new(Compression::None);
            times.iter().for_each(|time| {
                builder.push(&Record::new("k", "v").at(*time));
            });
            log.append(check_batch(&builder.build().unwrap()).unwrap(), Ack::Durable).await.unwrap();
        }
        let found = |at: Option<Timestamped>| at.map(|at| (at.offset.0, at.timestamp_ms));
        for (start, max, later) in [
            (0, (0, 900), Some((0, 900))),
            (1, (2, 500), Some((2, 500))),
            (3, (5, 500), Some((5, 500))),
            (4, (5, 500), Some((5, 500))),
        ] {
            log.shared.bounds.lock().log_start = Offset(start);
            assert_eq!(found(log.find_max_time().unwrap()), Some(max), "from {start}");
            assert_eq!(found(log.find_by_time(300).unwrap()), later, "from {start}");
        }
        store.close().await;
    }
}
