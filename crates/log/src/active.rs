//! The partition as the writer sees it: what is staged, written and synced at the end of its last segment.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Offset;
use anabranch_core::batch::{BATCH_HEADER_BYTES, Batch, BatchError, EndMarker, NO_TIMESTAMP};
use anabranch_core::planted::{self, Bug};
use anabranch_core::seam::{Clock, Disk};

use crate::durable::DurablePoint;
use crate::journal::ring::{Dirty, Group};
use crate::partition::{Ack, Appended, Gate, LogConfig, Shared, Visible};
use crate::producers::{AbortedSegments, AbortedTransaction, Before, Producers, Snapshot, Verdict};
use crate::removal::{Roll, Settled};
use crate::segment::{LEADER_EPOCH, Segment, Spacing, snapshot_path};
use crate::writer::{Append, Reply};
use crate::{AppendError, Fault, FaultCause, Part};

/// How much is written before the producers' state and the index are saved, which bounds what recovery reads.
const CHECKPOINT_BYTES: u64 = 16 << 20;
/// From so many bytes on a partition's part of a group goes to its segment only, with a sync of its own.
pub(crate) const DIRECT_BYTES: u64 = 1 << 20;
/// Where space is set aside for what the journal is to hold before the segment does, so much more is: an eighth of the segment,
/// between these. Most such writes need not ask then, and little is kept from others.
const AHEAD_BYTES: RangeInclusive<u64> = 4 << 10..=256 << 10;
/// Snapshots that are kept: the newest, and one in case it is damaged.
const SNAPSHOTS_MAX: usize = 2;

/// The time of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Wall clock, ms.
    pub(crate) wall_ms: i64,
    /// Never goes back.
    pub(crate) monotonic: Duration,
}

impl Now {
    pub(crate) fn of(clock: &dyn Clock) -> Self {
        Self { wall_ms: clock.now_ms(), monotonic: clock.monotonic() }
    }
}

/// The end of a partition, owned by the writer.
#[derive(Debug)]
pub(crate) struct PartitionWriter {
    pub(crate) shared: Arc<Shared>,
    pub(crate) segment: Arc<Segment>,
    /// Bytes of the segment that are written, and that are durable: in the segment or in the journal.
    pub(crate) written: u64,
    pub(crate) durable: u64,
    /// After the last record that is staged.
    pub(crate) next: Offset,
    pub(crate) spacing: Spacing,
    /// Of the segment's index.
    index_bytes: u64,
    /// When the segment got its first batch; wall clock, ms.
    pub(crate) began_ms: i64,
    /// The largest timestamp of that batch, ms; -1 if it has none.
    first_timestamp_ms: i64,
    pub(crate) producers: Producers,
    pub(crate) snapshots: Vec<Offset>,
    /// Transactions that were aborted, and are not shown yet.
    aborted: Vec<AbortedTransaction>,
    staged: Vec<Staged>,
    staged_bytes: u64,
    /// Written and not durable, while all of that is here: the journal would take it.
    tail: Option<Vec<(Batch, [u8; BATCH_HEADER_BYTES])>>,
    /// Written and to be acknowledged when durable.
    awaiting_sync: Vec<(Reply, Appended)>,
    unsynced_records: i64,
    /// By the clock that never goes back.
    unsynced_since: Duration,
    /// `written` at the last checkpoint.
    checkpoint: u64,
    /// A write was taken back, and that is not durable: what was cut off may come back.
    is_cut: bool,
    /// How far space in the segment is set aside.
    reserved: u64,
    /// Of what is written and not durable somebody was told that it is there.
    is_told: bool,
    /// What was acknowledged before it was durable may be lost: a sync has failed.
    pub(crate) is_lost: bool,
    /// The last write failed.
    is_short: bool,
    /// Stands among those that the group has to do with.
    pub(crate) in_group: bool,
    /// A successor was begun, and may be in the directory though that failed: nothing more belongs here.
    is_full: bool,
}

/// What is to be done with a batch, and how a transaction ends if it says so.
type Judged = (Verdict, Option<EndMarker>);

/// As they stand in a segment.
fn parts_of<'a>(batches: impl IntoIterator<Item = &'a (Batch, [u8; BATCH_HEADER_BYTES])>) -> Vec<&'a [u8]> {
    let parts = |(batch, prefix): &'a (Batch, [u8; BATCH_HEADER_BYTES])| {
        [&prefix[..], &batch.bytes()[prefix.len()..]]
    };
    batches.into_iter().flat_map(parts).collect()
}

/// An append that is to be written. A duplicate has no batch to write and shares the group's fate: the batch that it
/// repeats may be in the same group.
#[derive(Debug)]
struct Staged {
    batch: Option<(Batch, [u8; BATCH_HEADER_BYTES])>,
    appended: Appended,
    ack: Ack,
    reply: Reply,
    producer_before: Option<Before>,
}

impl PartitionWriter {
    /// A writer at the end of `segment`, all of which is synced.
    pub(crate) fn new(
        shared: Arc<Shared>,
        segment: Arc<Segment>,
        next: Offset,
        spacing: Spacing,
        producers: Producers,
        snapshots: Vec<Offset>,
        now_ms: i64,
    ) -> Self {
        let written = segment.len();
        segment.set_synced(written);
        let index_bytes = segment.index.lock().len_bytes();
        // What cannot be read now will be told when it is read; until then the age is counted from now.
        let first_timestamp_ms = segment.first_timestamp(written).unwrap_or(NO_TIMESTAMP);
        let mut writer = Self {
            shared,
            segment,
            written,
            durable: written,
            next,
            spacing,
            index_bytes,
            began_ms: now_ms,
            first_timestamp_ms,
            producers,
            snapshots,
            aborted: Vec::new(),
            staged: Vec::new(),
            staged_bytes: 0,
            tail: Some(Vec::new()),
            awaiting_sync: Vec::new(),
            unsynced_records: 0,
            unsynced_since: Duration::ZERO,
            in_group: false,
            checkpoint: written,
            is_cut: true, // by whoever wrote before, perhaps
            is_full: false,
            reserved: 0,
            is_told: false,
            is_lost: false,
            is_short: false,
        };
        writer.keep_reserve();
        writer
    }

    /// Whether there is anything to write, sync or answer.
    pub(crate) fn is_busy(&self) -> bool {
        !self.staged.is_empty() || !self.awaiting_sync.is_empty() || self.durable < self.written
    }

    fn config(&self) -> LogConfig {
        *self.shared.config.lock()
    }

    fn is_relaxed(&self) -> bool {
        self.config().flush_messages > 1
    }

    /// Gives a batch its offset and its place in the group, beginning a new segment first if it is time.
    pub(crate) fn stage(&mut self, disk: &Arc<dyn Disk>, append: Append, now: Now) {
        let Append { batch, part, expected, ack, reply, .. } = append;
        let verdict = match (self.shared.stopped(), expected.filter(|end| *end != self.next)) {
            (Some(stopped), _) => Err(stopped),
            (None, Some(expected)) => Err(AppendError::NotAtEnd { expected, end: self.next }),
            (None, None) => self.judge(&batch, part).and_then(|judged| self.let_in(&batch, judged)),
        };
        let is_refused = matches!(verdict, Err(_) | Ok((Verdict::Duplicate(_), _)));
        if let (true, Some(part)) = (is_refused, part) {
            self.producers.note_refused(batch.header(), part.version, now.wall_ms);
        }
        let staged = match verdict {
            Err(error) => Err((reply, error)),
            Ok((Verdict::Duplicate(written), _)) => {
                let (base_offset, last_offset) = (written.base_offset, written.last_offset);
                let appended = Appended { base_offset, last_offset, duplicate: true };
                Ok(Staged { batch: None, appended, ack, reply, producer_before: None })
            }
            Ok((Verdict::Append, marker)) => match self.roll_if_due(disk, &batch, now) {
                Ok(()) => {
                    let ordinal = part.map_or(0, |part| part.ordinal);
                    Ok(self.place(batch, marker.map(|marker| (marker, ordinal)), ack, reply, now.wall_ms))
                }
                Err(error) => Err((reply, error)),
            },
        };
        match staged {
            Ok(staged) => self.staged.push(staged),
            Err((reply, error)) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// What was judged, if the gate lets it in. What repeats a batch is not kept out: it is there.
    fn let_in(&self, batch: &Batch, judged: Judged) -> Result<Judged, AppendError> {
        let header = batch.header();
        if matches!(judged.0, Verdict::Duplicate(_)) || header.is_control() {
            return Ok(judged);
        }
        match &*self.shared.gate.lock() {
            Gate::Open => Ok(judged),
            Gate::Draining if header.is_transactional() => Ok(judged),
            Gate::Draining | Gate::Held => Err(AppendError::Held),
            Gate::Moved(to) => Err(AppendError::Moved(Arc::clone(to))),
            // The target knows nothing of this broker's transactions: their producers begin anew.
            Gate::Redirected(to) if header.is_transactional() => Err(AppendError::Moved(Arc::clone(to))),
            Gate::Redirected(to) => Err(AppendError::Redirected(Arc::clone(to))),
        }
    }

    /// What is to be done with a batch, and how a transaction ends if it says so.
    fn judge(&self, batch: &Batch, part: Option<Part>) -> Result<Judged, AppendError> {
        let header = batch.header();
        if !header.is_control() {
            return Ok((self.producers.judge(header, part)?, None));
        }
        let other = BatchError::Invalid("it is another control record");
        let marker = batch.end_marker().and_then(|marker| marker.ok_or(other));
        let marker = marker.map_err(AppendError::InvalidMarker)?;
        self.producers.judge_end(header, marker, part.map_or(0, |part| part.version))?;
        Ok((Verdict::Append, Some(marker)))
    }

    fn place(
        &mut self,
        batch: Batch,
        end: Option<(EndMarker, u64)>,
        ack: Ack,
        reply: Reply,
        now_ms: i64,
    ) -> Staged {
        let header = batch.header();
        let base_offset = self.next;
        let last_offset = base_offset.plus(i64::from(header.last_offset_delta));
        let prefix = batch.stored_prefix(base_offset, LEADER_EPOCH);
        let producer_before = match end {
            None => self.producers.note(header, base_offset, now_ms),
            Some((marker, ordinal)) => {
                let (before, aborted) =
                    self.producers.note_end(header, Some(marker), base_offset, ordinal, now_ms);
                self.aborted.extend(aborted);
                before
            }
        };
        self.next = last_offset.plus(1);
        self.staged_bytes += header.len_bytes as u64;
        let appended = Appended { base_offset, last_offset, duplicate: false };
        Staged { batch: Some((batch, prefix)), appended, ack, reply, producer_before }
    }

    fn roll_if_due(&mut self, disk: &Arc<dyn Disk>, batch: &Batch, now: Now) -> Result<(), AppendError> {
        if self.written + self.staged_bytes == 0 {
            self.begin(batch, now.wall_ms);
        } else if self.is_to_roll(batch, now.wall_ms) {
            self.write(now)?;
            self.sync(disk.as_ref());
            if let Some(stopped) = self.shared.stopped() {
                return Err(stopped);
            }
            self.is_full = true;
            self.roll(disk)?;
            self.begin(batch, now.wall_ms);
        }
        Ok(())
    }

    /// Whether a new segment is to begin with `batch`.
    fn is_to_roll(&self, batch: &Batch, now_ms: i64) -> bool {
        let config = self.config();
        let bytes = self.written + self.staged_bytes;
        let too_large = bytes + batch.header().len_bytes as u64 > u64::from(config.segment_bytes);
        let index_is_full = self.index_bytes >= u64::from(config.segment_index_bytes);
        let too_old = self.age_ms(batch, now_ms) > self.segment_ms(&config);
        // The index counts offsets from the segment's base in 32 bits.
        let last = self.next.plus(i64::from(batch.header().last_offset_delta));
        let too_far = last.0 - self.segment.base.0 > i64::from(i32::MAX);
        bytes > 0 && (self.is_full || too_large || index_is_full || too_old || too_far)
    }

    /// Whether `batch` can be appended by a write alone.
    pub(crate) fn takes_at_once(&self, batch: &Batch, now_ms: i64) -> bool {
        self.is_relaxed() && !self.is_to_roll(batch, now_ms)
    }

    /// Whether `batch` can be staged for [`write_journaled`](Self::write_journaled): nothing else is on its way, it belongs here,
    /// and there is space for it.
    pub(crate) fn takes_ahead(&mut self, batch: &Batch, part: Option<Part>, now_ms: i64) -> bool {
        let is_still = self.durable == self.written && self.awaiting_sync.is_empty();
        let is_taken = |verdict| matches!(verdict, Ok((Verdict::Append, _)));
        self.shared.stopped().is_none()
            && is_still
            && is_taken(self.judge(batch, part))
            && !self.is_to_roll(batch, now_ms)
            && self.set_aside(self.staged_bytes + batch.header().len_bytes as u64)
    }

    /// Makes sure that so many bytes can be written; `false` if nobody can promise that.
    fn set_aside(&mut self, bytes: u64) -> bool {
        if self.reserved >= self.written + bytes {
            return true;
        }
        let bytes = bytes + (self.written / 8).clamp(*AHEAD_BYTES.start(), *AHEAD_BYTES.end());
        let is_set_aside = self.segment.file.reserve(self.written, bytes).is_ok();
        if is_set_aside {
            self.reserved = self.written + bytes;
        }
        is_set_aside
    }

    fn begin(&mut self, first: &Batch, now_ms: i64) {
        self.began_ms = now_ms;
        self.first_timestamp_ms = first.header().max_timestamp_ms;
    }

    /// How old the segment is, in the time of the records from its first to `batch`; in the broker's if they have none
    /// (Kafka's `LogSegment.timeWaitedForRoll`).
    fn age_ms(&self, batch: &Batch, now_ms: i64) -> i64 {
        match self.first_timestamp_ms >= 0 {
            true => batch.header().max_timestamp_ms.saturating_sub(self.first_timestamp_ms),
            false => now_ms.saturating_sub(self.began_ms),
        }
    }

    /// How old it may be: up to `segment.jitter.ms` less than `segment.ms`, another time for each segment, so that many
    /// partitions do not begin new ones at once.
    fn segment_ms(&self, config: &LogConfig) -> i64 {
        let jitter_max = config.segment_jitter_ms.min(config.segment_ms).unsigned_abs();
        if jitter_max == 0 {
            return config.segment_ms;
        }
        let mut hasher = DefaultHasher::new();
        (&self.shared.id, self.segment.base).hash(&mut hasher);
        config.segment_ms - (hasher.finish() % jitter_max) as i64
    }

    /// Makes everything that is written durable, and begins a new segment if asked to and there is anything in this one.
    pub(crate) fn settled(&mut self, disk: &Arc<dyn Disk>, roll: Roll) -> Result<Settled, AppendError> {
        let rolls = roll == Roll::Now && self.written > 0;
        if rolls || self.durable < self.written {
            self.sync(disk.as_ref());
        }
        if let Some(stopped) = self.shared.stopped() {
            return Err(stopped);
        }
        // Whoever asks may remove segments then, and what they tell of producers: a snapshot that was lost is made good before.
        if self.snapshots.last().map_or(Offset(0), |at| *at) < self.segment.base {
            self.checkpoint(disk.as_ref());
        }
        if rolls {
            self.is_full = true;
            self.roll(disk)?;
        }
        Ok(Settled { durable: self.next, last_words: self.producers.last_words() })
    }

    /// Begins a new segment. Everything before it is synced: only the last segment can have a torn tail.
    fn roll(&mut self, disk: &Arc<dyn Disk>) -> Result<(), AppendError> {
        let failed = |error| AppendError::WriteFailed(Arc::new(error));
        self.give_reserve_back();
        self.segment.index.lock().seal(disk.as_ref()).map_err(failed)?;
        self.save_producers(disk.as_ref()).map_err(failed)?;
        let mut aborted = self.segment.aborted.lock();
        if !aborted.is_empty() {
            aborted.seal(disk.as_ref()).map_err(failed)?;
        }
        drop(aborted);
        let segment = Segment::create(disk, &self.shared.directory, self.next).map_err(failed)?;
        let segment = Arc::new(segment);
        let named = match planted::is(Bug::SegmentNameNotSynced) {
            true => Ok(()),
            false => disk.sync_dir(&self.shared.directory),
        };
        named.map_err(|error| {
            let fault = segment.fault(0, FaultCause::SyncFailed(Arc::new(error)));
            self.shared.stop(&fault);
            AppendError::Stopped(fault)
        })?;
        self.shared.segments.write().push(Arc::clone(&segment));
        self.shared.bounds.lock().visible = Visible { next: self.next, segment: segment.base, bytes: 0 };
        self.spacing = Spacing::from_start(segment.base);
        self.segment = segment;
        self.index_bytes = 0;
        (self.written, self.durable, self.checkpoint, self.reserved) = (0, 0, 0, 0);
        self.is_full = false;
        self.keep_reserve();
        Ok(())
    }

    /// Sets space aside for what comes next, when half of what was set aside is used.
    fn keep_reserve(&mut self) {
        let bytes = self.config().reserve_bytes;
        if bytes == 0 || self.reserved >= self.written + bytes / 2 {
            return;
        }
        match self.segment.file.reserve(self.written, bytes) {
            Ok(()) => self.reserved = self.written + bytes,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            // It is used up then, and asked for again with each write.
            Err(error) => tracing::debug!(partition = %self.shared.id, %error, "no space can be set aside"),
        }
    }

    /// Gives back what was set aside in a segment that is complete.
    fn give_reserve_back(&mut self) {
        if std::mem::take(&mut self.reserved) > self.written
            && let Err(error) = self.segment.file.set_len(self.written)
        {
            tracing::warn!(file = %self.segment.path.display(), %error, "space that was set aside is not given back");
        }
    }

    /// Writes what is staged, with one call, and answers whoever waits for no more than that. When it fails, everybody
    /// staged has been told.
    pub(crate) fn write(&mut self, now: Now) -> Result<(), AppendError> {
        if self.staged.is_empty() {
            return Ok(());
        }
        let outcome = self.segment.file.write_all_at(&self.staged_parts(), self.written);
        let staged = std::mem::take(&mut self.staged);
        let bytes = std::mem::take(&mut self.staged_bytes);
        match outcome {
            Ok(()) => {
                if std::mem::take(&mut self.is_short) {
                    tracing::info!(partition = %self.shared.id, "writes succeed again");
                }
                self.written(staged, bytes, now.monotonic);
                self.keep_reserve();
                Ok(())
            }
            Err(error) => Err(self.take_back(staged, error)),
        }
    }

    fn staged_parts(&self) -> Vec<&[u8]> {
        parts_of(self.staged.iter().filter_map(|staged| staged.batch.as_ref()))
    }

    /// What must not be done with what is staged for the journal.
    pub(crate) fn write_ahead(&self) {
        let _ = self.segment.file.write_all_at(&self.staged_parts(), self.written);
    }

    /// Writes what is staged and durable in the journal, shows it, and answers whoever waits. What cannot be written now stops
    /// the partition; the next start brings it here.
    pub(crate) fn write_journaled(&mut self, now: Now) {
        let outcome = self.segment.file.write_all_at(&self.staged_parts(), self.written);
        if let Err(error) = outcome {
            let fault = self.segment.io_fault("writing what the journal holds", self.written, error);
            return self.stop_staged(&fault);
        }
        let staged = std::mem::take(&mut self.staged);
        let bytes = std::mem::take(&mut self.staged_bytes);
        self.written(staged, bytes, now.monotonic);
        self.settle(&Ok(()));
    }

    /// Stops the partition, and leaves what is staged to the next start.
    pub(crate) fn stop_staged(&mut self, fault: &Fault) {
        self.shared.stop(fault);
        self.staged_bytes = 0;
        for staged in self.staged.drain(..) {
            let _ = staged.reply.send(Err(AppendError::Stopped(fault.clone())));
        }
    }

    fn written(&mut self, staged: Vec<Staged>, bytes: u64, now: Duration) {
        let config = self.config();
        if self.durable == self.written {
            self.unsynced_since = now;
        }
        let mut index = self.segment.index.lock();
        let mut position = self.written;
        for (batch, appended) in
            staged.iter().filter_map(|staged| Some((&staged.batch.as_ref()?.0, staged.appended)))
        {
            let place = self.spacing.step(
                position,
                appended.base_offset,
                batch.header(),
                config.index_interval_bytes,
            );
            place.into_iter().for_each(|place| index.push(place));
            position += batch.header().len_bytes as u64;
            self.unsynced_records += i64::from(batch.header().record_count);
        }
        self.index_bytes = index.len_bytes();
        drop(index);
        assert_eq!(position, self.written + bytes, "what was staged is what was written");
        self.written = position;
        self.segment.set_len(self.written);
        self.shared.bounds.lock().log_end = self.next;
        let relaxed = self.is_relaxed();
        if relaxed {
            self.show_written();
            self.tail = None;
        }
        if planted::is(Bug::ShownBeforeSync) {
            self.show_written();
        }
        for mut staged in staged {
            if let Some(tail) = &mut self.tail {
                tail.extend(staged.batch.take());
            }
            if relaxed || staged.ack == Ack::Written || planted::is(Bug::AcknowledgeBeforeSync) {
                self.is_told = true;
                let _ = staged.reply.send(Ok(staged.appended));
            } else {
                self.awaiting_sync.push((staged.reply, staged.appended));
            }
        }
    }

    /// The write failed, with some of it done perhaps: cut it off again, so that the log is as it was.
    fn take_back(&mut self, staged: Vec<Staged>, error: io::Error) -> AppendError {
        // Told once: on a full disk every write fails until there is room again.
        if !std::mem::replace(&mut self.is_short, true) {
            tracing::warn!(partition = %self.shared.id, %error, "a write failed and is taken back; nothing is lost, producers are refused, and writes are tried again: if the disk is full, make room");
        }
        self.reserved = 0; // given back with the cut
        // Of several batches some may be whole, and would be there again if the power went.
        let may_be_whole = staged.iter().filter(|staged| staged.batch.is_some()).count() > 1;
        let failed = match self.segment.file.set_len(self.written) {
            Ok(()) => {
                self.is_cut = true;
                let synced = if may_be_whole { self.segment.sync(&self.shared) } else { Ok(()) };
                self.keep_reserve();
                synced.map_or_else(|stopped| stopped, |()| AppendError::WriteFailed(Arc::new(error)))
            }
            Err(error) => {
                let fault = self.segment.io_fault("taking a failed write back", self.written, error);
                self.shared.stop(&fault);
                AppendError::Stopped(fault)
            }
        };
        let first = staged.iter().find(|staged| staged.batch.is_some());
        self.next = first.map_or(self.next, |first| first.appended.base_offset);
        self.aborted.retain(|aborted| aborted.last < self.next);
        for staged in staged.into_iter().rev() {
            if let Some(before) = staged.producer_before {
                self.producers.take_back(before);
            }
            let _ = staged.reply.send(Err(failed.clone()));
        }
        failed
    }

    /// Whether what is written must be synced now.
    pub(crate) fn sync_is_due(&self, now: Duration) -> bool {
        if !self.is_relaxed() || !self.awaiting_sync.is_empty() {
            return self.is_busy();
        }
        let due = self.flush_due().is_some_and(|due| now >= due);
        due || self.unsynced_records >= self.config().flush_messages
    }

    /// When what is written without a sync must be synced at the latest, by the clock that never goes back.
    pub(crate) fn flush_due(&self) -> Option<Duration> {
        let flush = Duration::from_millis(u64::try_from(self.config().flush_ms).unwrap_or(0));
        (self.durable < self.written).then(|| self.unsynced_since.saturating_add(flush))
    }

    /// Puts what is written and not durable into a group of the journal; `false` if it is not to be had, does not fit, or
    /// is so large that a sync of the segment costs less than to write it twice.
    pub(crate) fn journal<'a>(&'a self, number: u64, group: &mut Group<'a>) -> bool {
        let Some(tail) = self.tail.as_ref().filter(|_| self.journal_bytes() > 0) else { return false };
        group.add(number, self.dirty(self.written), self.durable, &parts_of(tail))
    }

    /// Puts what is staged into a group of the journal, before it is written; `false` if it does not fit.
    pub(crate) fn journal_staged<'a>(&'a self, number: u64, group: &mut Group<'a>) -> bool {
        group.add(number, self.dirty(self.written + self.staged_bytes), self.written, &self.staged_parts())
    }

    /// The segment, of which the journal is to hold what comes before `bytes`, the end.
    fn dirty(&self, bytes: u64) -> Dirty {
        let (shared, segment) = (Arc::clone(&self.shared), Arc::clone(&self.segment));
        Dirty { shared, segment, point: DurablePoint { segment: self.segment.base, bytes, next: self.next } }
    }

    /// Bytes that the journal would take; 0 if it is not to take them.
    pub(crate) fn journal_bytes(&self) -> usize {
        let bytes = self.written - self.durable;
        let takes = self.tail.is_some() && bytes < DIRECT_BYTES && self.shared.stopped().is_none();
        if takes { bytes as usize } else { 0 }
    }

    fn point(&self) -> DurablePoint {
        DurablePoint { segment: self.segment.base, bytes: self.written, next: self.next }
    }

    /// All files were synced since the last write.
    pub(crate) fn synced_with_all(&mut self) {
        self.segment.note_synced(&self.shared, self.written);
        self.is_cut = false;
    }

    /// Syncs the segment, whatever the journal holds of it, and answers whoever waited.
    pub(crate) fn sync(&mut self, disk: &dyn Disk) {
        let outcome = match self.shared.stopped() {
            Some(stopped) => Err(stopped),
            None if self.segment.synced() >= self.written
                && (!self.is_cut || planted::is(Bug::SealedWithoutSync)) =>
            {
                Ok(())
            }
            None => self.segment.sync(&self.shared),
        };
        if outcome.is_ok() && self.written > 0 {
            self.is_cut = false;
            self.shared.note.lock().advance(disk, self.point());
        }
        self.settle(&outcome);
    }

    /// Everything written is durable, or is not known to be: shows it to readers, and answers whoever waited.
    pub(crate) fn settle(&mut self, outcome: &Result<(), AppendError>) {
        let grown = self.durable < self.written;
        self.durable = self.written; // after a failure nothing more is to be done here
        self.unsynced_records = 0;
        self.tail = Some(Vec::new());
        if outcome.is_ok() && grown {
            self.show_written();
        }
        self.is_lost |= std::mem::take(&mut self.is_told) && outcome.is_err();
        for (reply, appended) in self.awaiting_sync.drain(..) {
            let _ = reply.send(outcome.clone().map(|()| appended));
        }
    }

    /// Nothing is staged: what the producers know is written.
    fn show_written(&mut self) {
        if !self.aborted.is_empty() {
            let mut aborted = self.segment.aborted.lock();
            self.aborted.drain(..).for_each(|entry| aborted.push(entry));
        }
        let mut bounds = self.shared.bounds.lock();
        bounds.visible = Visible { next: self.next, segment: self.segment.base, bytes: self.written };
        let first_open = self.producers.first_open().filter(|_| !planted::is(Bug::StablePastOpen));
        bounds.stable = first_open.unwrap_or(self.next);
        drop(bounds);
        self.shared.waiters.wake();
    }

    /// Saves the index and the producers' state when much was written since the last time. Right after a sync.
    pub(crate) fn checkpoint_if_due(&mut self, disk: &dyn Disk, oldest_producer_ms: i64) {
        if self.shared.stopped().is_some() {
            return;
        }
        let mut index = self.segment.index.lock();
        if index.wants_flush()
            && let Err(error) = index.flush(disk)
        {
            tracing::warn!(partition = %self.shared.id, %error, "the index could not be written");
        }
        drop(index);
        let mut aborted = self.segment.aborted.lock();
        if aborted.wants_flush()
            && let Err(error) = aborted.flush(disk)
        {
            tracing::warn!(partition = %self.shared.id, %error, "the aborted transactions could not be written");
        }
        drop(aborted);
        if self.durable == self.written && self.written - self.checkpoint >= CHECKPOINT_BYTES {
            self.producers.forget_before(oldest_producer_ms);
            self.checkpoint(disk);
        }
    }

    pub(crate) fn checkpoint(&mut self, disk: &dyn Disk) {
        self.checkpoint = self.written;
        let flushed = self.segment.index.lock().flush(disk);
        if let Err(error) = flushed.and_then(|()| self.save_producers(disk)) {
            // Both are derived; recovery will read more of the segment.
            tracing::warn!(partition = %self.shared.id, %error, "the index or producer state could not be saved");
        }
    }

    /// Makes the aborted transactions durable, and tells which segments have some.
    fn save_aborted(&mut self, disk: &dyn Disk) -> io::Result<AbortedSegments> {
        let segments = self.shared.segments.read().clone();
        let has_aborted = |segment: &&Arc<Segment>| !segment.aborted.lock().is_empty();
        let bases = segments.iter().filter(has_aborted).map(|segment| segment.base).collect();
        let mut aborted = self.segment.aborted.lock();
        aborted.save(disk)?;
        Ok(AbortedSegments { bases, entries: aborted.count() })
    }

    /// Writes a snapshot of the producers' state. It is never ahead of the durable log.
    fn save_producers(&mut self, disk: &dyn Disk) -> io::Result<()> {
        assert!(self.durable == self.written || planted::is(Bug::SnapshotAhead), "a snapshot follows a sync");
        // Of a partition without records there is nothing to save; there may be thousands of them.
        if self.next == Offset(0) || self.snapshots.last() == Some(&self.next) {
            return Ok(());
        }
        let aborted = self.save_aborted(disk)?;
        let snapshot = Snapshot::encode(self.next, &self.producers, &aborted);
        disk.replace(&snapshot_path(&self.shared.directory, self.next), &snapshot)?;
        self.snapshots.push(self.next);
        while self.snapshots.len() > SNAPSHOTS_MAX {
            disk.remove_file(&snapshot_path(&self.shared.directory, self.snapshots.remove(0)))?;
        }
        Ok(())
    }

    /// Syncs and saves everything that is written, and closes the partition.
    pub(crate) fn finish(&mut self, disk: &dyn Disk) {
        self.sync(disk);
        if self.shared.stopped().is_none() {
            self.checkpoint(disk);
        }
        self.shared.note.lock().finish();
        self.shared.close();
    }
}
