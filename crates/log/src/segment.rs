//! A segment: batches one after another in a file, and an index to find them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use anabranch_core::batch::{
    BATCH_HEADER_BYTES, Batch, BatchError, BatchHeader, EndMarker, NO_TIMESTAMP, RecordAt, check_batch,
};
use anabranch_core::planted::{self, Bug};
use anabranch_core::seam::{Disk, DiskFile, Open};
use anabranch_core::{LeaderEpoch, Offset};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::aborted::AbortedIndex;
use crate::index::{Index, Place};
use crate::partition::Shared;
use crate::{AppendError, Fault, FaultCause, Timestamped};

/// A single node has one leader for ever.
pub(crate) const LEADER_EPOCH: LeaderEpoch = LeaderEpoch(0);

const LOG: &str = "log";
const INDEX: &str = "index";
const SNAPSHOT: &str = "snapshot";
const ABORTED: &str = "aborted";
/// Is added to the names of a segment's files while it is written beside the one whose place it will take.
pub(crate) const CLEAN: &str = "clean";

/// The path of a file that belongs to `offset`: twenty digits, so that names sort as offsets do.
fn path_of(directory: &Path, offset: Offset, extension: &str) -> PathBuf {
    directory.join(format!("{:020}.{extension}", offset.0))
}

pub(crate) fn segment_path(directory: &Path, base: Offset) -> PathBuf {
    path_of(directory, base, LOG)
}

pub(crate) fn index_path(directory: &Path, base: Offset) -> PathBuf {
    path_of(directory, base, INDEX)
}

pub(crate) fn aborted_path(directory: &Path, base: Offset) -> PathBuf {
    path_of(directory, base, ABORTED)
}

pub(crate) fn snapshot_path(directory: &Path, offset: Offset) -> PathBuf {
    path_of(directory, offset, SNAPSHOT)
}

/// The offset and the extension in a name that [`path_of`] made.
pub(crate) fn named_offset(name: &str) -> Option<(Offset, &str)> {
    let (stem, extension) = name.split_once('.')?;
    let offset = stem.parse().ok().filter(|_| stem.len() == 20)?;
    Some((Offset(offset), extension))
}

/// The files of a partition's directory, by kind, each sorted by offset.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) segments: Vec<Offset>,
    pub(crate) snapshots: Vec<Offset>,
}

impl Listing {
    pub(crate) fn of(disk: &dyn Disk, directory: &Path) -> io::Result<Self> {
        let mut listing = Self::default();
        for entry in disk.list(directory)? {
            let Some((offset, extension)) = named_offset(&entry.name) else { continue };
            match extension {
                LOG => listing.segments.push(offset),
                SNAPSHOT => listing.snapshots.push(offset),
                _ => {}
            }
        }
        listing.segments.sort_unstable();
        listing.snapshots.sort_unstable();
        Ok(listing)
    }
}

/// One segment of a partition.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: Offset,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Bytes that are written.
    len: AtomicU64,
    /// Bytes that a sync of this file has made durable.
    synced: AtomicU64,
    /// Held during a sync: an error is told once, to one of those who sync, and the others must not miss it.
    syncing: Mutex<()>,
    /// Protects the index: readers look up, the writer adds. Held for a few small reads at most.
    pub(crate) index: Mutex<Index>,
    /// Protects the aborted transactions, likewise; and while they are made anew, all that takes.
    pub(crate) aborted: Mutex<AbortedIndex>,
    /// Where the next segment begins: no batch of this one reaches beyond. `i64::MAX` while there is none.
    end: AtomicI64,
    /// The index was found to lack entries, and made anew.
    is_complete: AtomicBool,
    /// The largest timestamp, once it was looked for in a sealed segment.
    sealed_max_ms: OnceLock<Option<i64>>,
    /// The largest timestamp of the first batch, once it was looked for in a sealed segment.
    sealed_first_ms: OnceLock<i64>,
    /// When somebody first asked for the age of a sealed segment that has no timestamps; wall clock, ms.
    seen_ms: OnceLock<i64>,
    /// Another has its name: readers that hold it go on, and nothing is written any more.
    is_retired: AtomicBool,
    disk: Arc<dyn Disk>,
}

impl Segment {
    pub(crate) fn open(disk: &Arc<dyn Disk>, directory: &Path, base: Offset) -> io::Result<Self> {
        Self::new(disk, directory, base, Open::ReadWrite)
    }

    /// A new, empty one; its name is not durable yet.
    pub(crate) fn create(disk: &Arc<dyn Disk>, directory: &Path, base: Offset) -> io::Result<Self> {
        Self::new(disk, directory, base, Open::Create)
    }

    fn new(disk: &Arc<dyn Disk>, directory: &Path, base: Offset, how: Open) -> io::Result<Self> {
        let path = segment_path(directory, base);
        let file = disk.open(&path, how)?;
        let len = AtomicU64::new(file.len()?);
        let mut index = Index::open(disk.as_ref(), index_path(directory, base), base)?;
        let mut aborted = AbortedIndex::open(disk.as_ref(), aborted_path(directory, base), base)?;
        if how == Open::Create {
            index.keep_valid_below(0)?;
            let _ = aborted.keep_first(0)?;
        }
        Ok(Self::of(disk, path, base, file, len, index, aborted))
    }

    fn of(
        disk: &Arc<dyn Disk>,
        path: PathBuf,
        base: Offset,
        file: Arc<dyn DiskFile>,
        len: AtomicU64,
        index: Index,
        aborted: AbortedIndex,
    ) -> Self {
        Self {
            base,
            path,
            file,
            len,
            synced: AtomicU64::new(0),
            syncing: Mutex::new(()),
            index: Mutex::new(index),
            aborted: Mutex::new(aborted),
            end: AtomicI64::new(i64::MAX),
            is_complete: AtomicBool::new(false),
            sealed_max_ms: OnceLock::new(),
            sealed_first_ms: OnceLock::new(),
            seen_ms: OnceLock::new(),
            is_retired: AtomicBool::new(false),
            disk: Arc::clone(disk),
        }
    }

    /// A sealed segment that was written beside, and has its name now.
    pub(crate) fn renamed(
        disk: &Arc<dyn Disk>,
        directory: &Path,
        base: Offset,
        end: Offset,
        file: Arc<dyn DiskFile>,
        len: u64,
        (mut index, mut aborted): (Index, AbortedIndex),
    ) -> Self {
        index.renamed(index_path(directory, base));
        aborted.renamed(aborted_path(directory, base));
        let path = segment_path(directory, base);
        let segment = Self::of(disk, path, base, file, AtomicU64::new(len), index, aborted);
        segment.set_synced(len);
        segment.note_sealed(end);
        segment
    }

    /// Another segment is about to have its name: what is derived of it is not written any more.
    pub(crate) fn retire(&self) {
        let _index = self.index.lock();
        let _aborted = self.aborted.lock();
        self.is_retired.store(true, Ordering::Release);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// Takes note that the next segment begins at `end`, and nothing is added here any more.
    pub(crate) fn note_sealed(&self, end: Offset) {
        self.end.store(end.0, Ordering::Release);
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.end.load(Ordering::Acquire) != i64::MAX
    }

    /// The largest timestamp of the first batch, from which Kafka counts a segment's age; -1 where there is none before
    /// the byte `end`.
    pub(crate) fn first_timestamp(&self, end: u64) -> Result<i64, Fault> {
        if let Some(first) = self.sealed_first_ms.get() {
            return Ok(*first);
        }
        let first = self.scan(0, end, BATCH_HEADER_BYTES).next_header();
        let first = first.map_err(|error| self.scan_fault(error))?;
        let first_ms = first.map_or(NO_TIMESTAMP, |(_, header)| header.max_timestamp_ms);
        Ok(if self.is_sealed() { *self.sealed_first_ms.get_or_init(|| first_ms) } else { first_ms })
    }

    /// The time of the newest record before the byte `end`. Without timestamps, Kafka takes the time of the file's last
    /// change; here it counts from when the segment was first seen, so that it is kept rather longer than shorter.
    pub(crate) fn newest_ms(&self, end: u64, now_ms: i64) -> Result<i64, Fault> {
        Ok(match (self.max_timestamp(end)?.filter(|max| *max >= 0), self.is_sealed()) {
            (Some(max), _) => max,
            (None, true) => *self.seen_ms.get_or_init(|| now_ms),
            (None, false) => now_ms,
        })
    }

    /// Makes the index anew. Damage is told by whoever reads the segment.
    pub(crate) fn rebuild_index(&self) {
        if let Err(fault) = self.make_index_anew(&mut self.index.lock()) {
            tracing::warn!(%fault, "the index of this segment could not be made anew");
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub(crate) fn set_len(&self, len: u64) {
        self.len.store(len, Ordering::Release);
    }

    pub(crate) fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    /// What a sync before this segment was opened has made durable.
    pub(crate) fn set_synced(&self, bytes: u64) {
        self.synced.store(bytes, Ordering::Release);
    }

    /// Makes everything written so far durable. When that fails the partition stops.
    pub(crate) fn sync(&self, shared: &Shared) -> Result<(), AppendError> {
        let _turn = self.syncing.lock();
        if let Some(stopped) = shared.stopped() {
            return Err(stopped);
        }
        let len = self.len();
        let again = |error| match planted::is(Bug::FailedSyncRetried) {
            true => self.file.sync_data(),
            false => Err(error),
        };
        if planted::is(Bug::LargeWriteNotSynced) && len - self.synced() >= crate::active::DIRECT_BYTES {
            self.synced.fetch_max(len, Ordering::AcqRel);
            return Ok(());
        }
        self.file.sync_data().or_else(again).map_err(|error| {
            let fault = self.fault(self.synced(), FaultCause::SyncFailed(Arc::new(error)));
            shared.stop(&fault);
            AppendError::Stopped(fault)
        })?;
        self.synced.fetch_max(len, Ordering::AcqRel);
        Ok(())
    }

    /// Everything up to `bytes` is durable by a sync of all files, unless a sync of this one has failed before.
    pub(crate) fn note_synced(&self, shared: &Shared, bytes: u64) {
        let _turn = self.syncing.lock();
        if shared.stopped().is_none() {
            self.synced.fetch_max(bytes, Ordering::AcqRel);
        }
    }

    /// Demands that this segment begins where the records before it end, at `next`: a missing one shows by nothing else.
    pub(crate) fn check_joins(&self, next: Offset) -> Result<(), Fault> {
        match self.base > next {
            true => Err(self.fault(0, FaultCause::Gap { from: next, base: self.base })),
            false => Ok(()),
        }
    }

    pub(crate) fn fault(&self, position: u64, cause: FaultCause) -> Fault {
        Fault { file: self.path.clone(), position, cause }
    }

    pub(crate) fn io_fault(&self, action: &'static str, position: u64, error: io::Error) -> Fault {
        self.fault(position, FaultCause::Io { action, error: Arc::new(error) })
    }

    pub(crate) fn scan_fault(&self, error: ScanError) -> Fault {
        match error {
            ScanError::Io(position, error) => self.io_fault("reading", position, error),
            ScanError::Damaged(position, cause) => self.fault(position, cause),
        }
    }

    /// Walks the batches from `from` to the byte `end`.
    pub(crate) fn scan(&self, from: u64, end: u64, window_bytes: usize) -> Scan<'_> {
        let limit = Offset(self.end.load(Ordering::Acquire));
        Scan::new(self.file.as_ref(), from, end, window_bytes).below(limit)
    }

    /// The batch that holds `offset`, or the next one after it; `None` when there is none before the byte `end`.
    pub(crate) fn find(&self, offset: Offset, end: u64) -> Result<Option<(u64, BatchHeader)>, Fault> {
        self.look_up(
            end,
            |place| place.offset <= offset,
            |_, position, header| Ok((header.last_offset() >= offset).then_some((position, *header))),
        )
    }

    /// Where whole batches of up to `bytes_max` end that begin with `first` at `position`, and an offset that none of them
    /// reaches. By headers, and not by all of them: the index tells of one near the end.
    pub(crate) fn locate(
        &self,
        (position, first): (u64, &BatchHeader),
        bytes_max: usize,
        (end, below): (u64, Offset),
    ) -> Result<(u64, Offset), Fault> {
        let limit = position.saturating_add(bytes_max as u64);
        let near = self.place(end, |place| place.position <= limit && place.position < end)?;
        let is_nearer = near.position > position;
        let (from, next) =
            if is_nearer { (near.position, near.offset) } else { (position, first.base_offset) };
        let scan = self.scan(from, end, LOOKUP_WINDOW_BYTES).below(below).after(next);
        let below = scan.limit;
        let (ends, following) = scan.end_within(limit).map_err(|error| self.scan_fault(error))?;
        Ok(match is_nearer && ends > limit {
            true => (from, next), // Not even one batch from there on fits.
            false => (ends, following.unwrap_or(below)),
        })
    }

    /// The first record from the offset `from` on whose timestamp is at least `timestamp_ms`, before the byte `end`.
    pub(crate) fn find_time(
        &self,
        timestamp_ms: i64,
        from: Offset,
        end: u64,
    ) -> Result<Option<Timestamped>, Fault> {
        self.look_up(
            end,
            |place| match planted::is(Bug::TimeSoughtTooLate) {
                true => place.max_before_ms <= timestamp_ms,
                false => place.max_before_ms < timestamp_ms,
            },
            |_, position, header| {
                if header.max_timestamp_ms < timestamp_ms || header.last_offset() < from {
                    return Ok(None);
                }
                let records = self.timestamps(position, header)?;
                Ok(records.into_iter().find(|at| at.timestamp_ms >= timestamp_ms && at.offset >= from))
            },
        )
    }

    /// The first record from the offset `from` on with the largest timestamp there, before the byte `end`. Reads all of
    /// the segment from there on.
    pub(crate) fn find_max_time(&self, from: Offset, end: u64) -> Result<Option<Timestamped>, Fault> {
        let mut max: Option<Timestamped> = None;
        let is_before = |place: &Place| place.offset <= from;
        self.look_up(end, is_before, |_, position, header| {
            let is_larger = max.is_none_or(|max| header.max_timestamp_ms > max.timestamp_ms);
            if header.last_offset() >= from && is_larger {
                for at in self.timestamps(position, header)? {
                    if at.offset >= from && max.is_none_or(|max| at.timestamp_ms > max.timestamp_ms) {
                        max = Some(at);
                    }
                }
            }
            Ok(None::<()>)
        })?;
        Ok(max)
    }

    /// The largest timestamp before the byte `end`; `None` when there is no batch.
    pub(crate) fn max_timestamp(&self, end: u64) -> Result<Option<i64>, Fault> {
        if let Some(max) = self.sealed_max_ms.get() {
            return Ok(*max);
        }
        let mut max = None;
        self.look_up(
            end,
            |place| place.position < end,
            |place, _, header| {
                let is_after = place.position > 0 && !planted::is(Bug::LatestAfterIndex);
                let before = is_after.then_some(place.max_before_ms);
                max = max.max(before).max(Some(header.max_timestamp_ms));
                Ok(None::<()>)
            },
        )?;
        if self.is_sealed() {
            let _ = self.sealed_max_ms.set(max);
        }
        Ok(max)
    }

    /// Walks the batches before the byte `end`, from the index's last place for which `is_before` holds, until `visit` finds
    /// something. It is given the place, too.
    fn look_up<T>(
        &self,
        end: u64,
        is_before: impl Fn(&Place) -> bool,
        mut visit: impl FnMut(Place, u64, &BatchHeader) -> Result<Option<T>, Fault>,
    ) -> Result<Option<T>, Fault> {
        'again: loop {
            let place = self.place(end, &is_before)?;
            let mut scan = self.scan(place.position, end, LOOKUP_WINDOW_BYTES);
            while let Some((position, header)) = scan.next_header().map_err(|error| self.scan_fault(error))? {
                if position - place.position > WALK_BYTES_MAX && self.complete_index()? {
                    continue 'again;
                }
                if let Some(found) = visit(place, position, &header)? {
                    return Ok(Some(found));
                }
            }
            return Ok(None);
        }
    }

    /// Makes the index of a sealed segment anew, where entries are missing; once, and `false` ever after.
    fn complete_index(&self) -> Result<bool, Fault> {
        let may_be = self.is_sealed() && !self.is_retired.load(Ordering::Acquire);
        if !may_be || self.is_complete.swap(true, Ordering::AcqRel) {
            return Ok(false);
        }
        tracing::warn!(file = %self.path.display(), "entries are missing in the index of this segment; it is made anew");
        self.make_index_anew(&mut self.index.lock()).map(|()| true)
    }

    fn make_index_anew(&self, index: &mut Index) -> Result<(), Fault> {
        let places = self.places(self.len())?;
        if let Err(error) = index.rebuild(self.disk.as_ref(), places) {
            // The disk is full, perhaps. The entries stay in memory, and are made anew at the next start.
            tracing::warn!(file = %self.path.display(), %error, "the index of this segment could not be written");
        }
        Ok(())
    }

    /// Offsets and timestamps of a batch's records.
    fn timestamps(&self, position: u64, header: &BatchHeader) -> Result<Vec<Timestamped>, Fault> {
        let damaged = |error| self.fault(position, FaultCause::Damaged(error));
        let records = self.batch(position, header)?.records().map_err(damaged)?;
        let timestamped =
            |at: RecordAt| Timestamped { offset: at.offset, timestamp_ms: at.record.timestamp_ms };
        Ok(records.into_iter().map(timestamped).collect())
    }

    /// The end of a transaction that a batch is, if it is one.
    pub(crate) fn end_marker(&self, position: u64, header: &BatchHeader) -> Result<Option<EndMarker>, Fault> {
        if !header.is_control() {
            return Ok(None);
        }
        let damaged = |error| self.fault(position, FaultCause::Damaged(error));
        self.batch(position, header)?.end_marker().map_err(damaged)
    }

    /// One whole batch, checked.
    fn batch(&self, position: u64, header: &BatchHeader) -> Result<Batch, Fault> {
        let mut bytes = vec![0; header.len_bytes];
        self.file
            .read_exact_at(&mut bytes, position)
            .map_err(|error| self.io_fault("reading", position, error))?;
        check_batch(&bytes.into()).map_err(|error| self.fault(position, FaultCause::Damaged(error)))
    }

    /// The index's last place for which `is_before` holds, the index being made anew if it is wrong.
    fn place(&self, end: u64, is_before: impl Fn(&Place) -> bool) -> Result<Place, Fault> {
        let failed = |error| self.io_fault("reading the index of", 0, error);
        let mut index = self.index.lock();
        if let Ok(place) = index.last_where(&is_before).map_err(failed)?
            && self.is_batch_start(place, end)
        {
            return Ok(place);
        }
        if self.is_retired.load(Ordering::Acquire) {
            return Ok(Place::start(self.base));
        }
        tracing::warn!(file = %self.path.display(), "the index of this segment is wrong and is made anew");
        self.make_index_anew(&mut index)?;
        match index.last_where(&is_before).map_err(failed)? {
            Ok(place) => Ok(place),
            Err(_) => {
                Err(self.io_fault("reading the index of", 0, io::Error::other("just written, and wrong")))
            }
        }
    }

    /// Whether a batch begins at a place: an entry whose checksum is right may tell of one that is gone.
    fn is_batch_start(&self, place: Place, end: u64) -> bool {
        if planted::is(Bug::IndexTrusted) {
            return true;
        }
        if place.position == 0 || place.position >= end {
            return place.position == 0 || place.position <= self.len();
        }
        let mut scan = self.scan(place.position, end, BATCH_HEADER_BYTES);
        matches!(scan.next_header(), Ok(Some((_, header))) if header.base_offset == place.offset)
    }

    fn places(&self, end: u64) -> Result<Vec<Place>, Fault> {
        let mut places = Vec::new();
        let mut spacing = Spacing::from_start(self.base);
        let mut scan = self.scan(0, end, SCAN_WINDOW_BYTES);
        while let Some((position, header)) = scan.next_header().map_err(|error| self.scan_fault(error))? {
            places.extend(spacing.step(position, header.base_offset, &header, DEFAULT_INDEX_INTERVAL_BYTES));
        }
        Ok(places)
    }
}

/// `index.interval.bytes` where an index is made anew: Kafka's default.
pub(crate) const DEFAULT_INDEX_INTERVAL_BYTES: u32 = 4096;
/// What a look-up reads at once: an index interval and a few headers.
const LOOKUP_WINDOW_BYTES: usize = 8 << 10;
/// How far a look-up walks from its place before an index counts as lacking entries. `index.interval.bytes` may be larger:
/// then the index gets more entries than it asks for.
const WALK_BYTES_MAX: u64 = 1 << 20;
/// What a long scan reads at once.
pub(crate) const SCAN_WINDOW_BYTES: usize = 1 << 20;

/// Decides which batches get a place in the index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spacing {
    last_position: u64,
    pub(crate) max_timestamp_ms: i64,
}

impl Spacing {
    pub(crate) fn from_start(base: Offset) -> Self {
        Self::from_place(Place::start(base))
    }

    pub(crate) fn from_place(place: Place) -> Self {
        Self { last_position: place.position, max_timestamp_ms: place.max_before_ms }
    }

    /// Passes a batch at `position`; the place to note for it, if it is far enough from the last.
    pub(crate) fn step(
        &mut self,
        position: u64,
        offset: Offset,
        batch: &BatchHeader,
        interval_bytes: u32,
    ) -> Option<Place> {
        let place = Place { offset, position, max_before_ms: self.max_timestamp_ms };
        self.max_timestamp_ms = self.max_timestamp_ms.max(batch.max_timestamp_ms);
        let due = position > 0 && position - self.last_position >= u64::from(interval_bytes);
        due.then(|| {
            self.last_position = position;
            place
        })
    }
}

/// A walk over the batches of a segment, reading a window at a time. Offsets must not go back: they lie outside the
/// checksum, and this is how a changed one shows.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    file: &'a dyn DiskFile,
    position: u64,
    end: u64,
    /// After the last record passed.
    next: Offset,
    /// No record is at this offset or beyond.
    limit: Offset,
    window: Bytes,
    window_at: u64,
    window_bytes: usize,
}

/// Demands of a batch what lies outside of its checksum: offsets that do not go back behind `next` nor reach to `limit`, and
/// the one epoch that there is.
pub(crate) fn check_follows(
    header: &BatchHeader,
    position: u64,
    next: Offset,
    limit: Offset,
) -> Result<(), ScanError> {
    let damaged = |cause| Err(ScanError::Damaged(position, cause));
    if header.leader_epoch != LEADER_EPOCH {
        let invalid = BatchError::Invalid("it has a leader epoch that was never written");
        return damaged(FaultCause::Damaged(invalid));
    }
    if header.base_offset < next {
        return damaged(FaultCause::OffsetGoesBack { expected: next, found: header.base_offset });
    }
    if header.last_offset() >= limit {
        return damaged(FaultCause::OffsetTooFar { last: header.last_offset(), limit });
    }
    Ok(())
}

/// Why a walk cannot go on, and where.
#[derive(Debug)]
pub(crate) enum ScanError {
    Io(u64, io::Error),
    Damaged(u64, FaultCause),
}

impl<'a> Scan<'a> {
    /// Walks a file's batches from the byte `from` to the byte `end`.
    pub(crate) fn new(file: &'a dyn DiskFile, from: u64, end: u64, window_bytes: usize) -> Self {
        Self {
            file,
            position: from,
            end,
            next: Offset(0),
            limit: Offset(i64::MAX),
            window: Bytes::new(),
            window_at: from,
            window_bytes,
        }
    }

    /// Where the next batch begins.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Demands that the next batch begins at `next` or later.
    pub(crate) fn after(mut self, next: Offset) -> Self {
        self.next = next;
        self
    }

    /// Demands that no batch reaches to `limit` or beyond.
    pub(crate) fn below(mut self, limit: Offset) -> Self {
        self.limit = self.limit.min(limit);
        self
    }

    /// The header of the next batch and where it stands; its records are skipped. `None` at the end.
    pub(crate) fn next_header(&mut self) -> Result<Option<(u64, BatchHeader)>, ScanError> {
        let Some(header) = self.peek()? else { return Ok(None) };
        let position = self.position;
        self.pass(&header);
        Ok(Some((position, header)))
    }

    fn pass(&mut self, header: &BatchHeader) {
        self.position += header.len_bytes as u64;
        self.next = header.next_offset();
    }

    /// The next batch, checked, and where it stands. `None` at the end.
    pub(crate) fn next_batch(&mut self) -> Result<Option<(u64, Batch)>, ScanError> {
        let Some(header) = self.peek()? else { return Ok(None) };
        let position = self.position;
        self.load(header.len_bytes)?;
        let from = (position - self.window_at) as usize;
        let bytes = self.window.slice(from..from + header.len_bytes);
        let damaged = |error| ScanError::Damaged(position, FaultCause::Damaged(error));
        let batch = check_batch(&bytes).map_err(damaged)?;
        self.pass(&header);
        Ok(Some((position, batch)))
    }

    /// Whole, checked batches in one piece, up to `bytes_max`; the first one comes in any case. The header after the last
    /// one is looked at, too: if an offset was changed, one of the two does not fit.
    pub(crate) fn take(mut self, bytes_max: usize) -> Result<Bytes, ScanError> {
        let start = self.position;
        let Some((_, first)) = self.next_batch()? else { return Ok(Bytes::new()) };
        let mut whole = first.header().len_bytes;
        let window = self.window.slice((start - self.window_at) as usize..);
        // What is behind this window is only looked at.
        self.window_bytes = BATCH_HEADER_BYTES;
        while let Some(header) = self.peek()? {
            if whole + header.len_bytes > bytes_max.min(window.len()) {
                break;
            }
            self.next_batch()?;
            whole += header.len_bytes;
        }
        // Whoever pays for the memory goes by what comes.
        match whole < window.len() / 2 {
            true => Ok(Bytes::copy_from_slice(&window[..whole])),
            false => Ok(window.slice(..whole)),
        }
    }

    /// Where the last whole batch ends that ends within `limit`, by the headers alone, and the offset of the one after it;
    /// the first one counts in any case. As in [`Scan::take`]: if an offset was changed, one of the two does not fit.
    fn end_within(mut self, limit: u64) -> Result<(u64, Option<Offset>), ScanError> {
        let start = self.position;
        while let Some(header) = self.peek()? {
            if self.position > start && self.position + header.len_bytes as u64 > limit {
                return Ok((self.position, Some(header.base_offset)));
            }
            self.pass(&header);
        }
        Ok((self.position, None))
    }

    fn peek(&mut self) -> Result<Option<BatchHeader>, ScanError> {
        let left = self.end.saturating_sub(self.position);
        if left == 0 {
            return Ok(None);
        }
        let position = self.position;
        let damaged = |error| ScanError::Damaged(position, FaultCause::Damaged(error));
        if left < BATCH_HEADER_BYTES as u64 {
            return Err(damaged(BatchError::Truncated {
                needed_bytes: BATCH_HEADER_BYTES,
                got_bytes: left as usize,
            }));
        }
        self.load(BATCH_HEADER_BYTES)?;
        let from = (self.position - self.window_at) as usize;
        let header = BatchHeader::parse(&self.window[from..]).map_err(damaged)?;
        if header.len_bytes as u64 > left {
            return Err(damaged(BatchError::Truncated {
                needed_bytes: header.len_bytes,
                got_bytes: usize::try_from(left).unwrap_or(usize::MAX),
            }));
        }
        check_follows(&header, position, self.next, self.limit)?;
        Ok(Some(header))
    }

    /// Makes the window hold `bytes` from the position on; the caller has checked that there are so many.
    fn load(&mut self, bytes: usize) -> Result<(), ScanError> {
        let window_end = self.window_at + self.window.len() as u64;
        if self.position >= self.window_at && self.position + bytes as u64 <= window_end {
            return Ok(());
        }
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let window = self.file.read_vec_at(self.window_bytes.max(bytes).min(left), self.position);
        self.window = window.map_err(|error| ScanError::Io(self.position, error))?.into();
        self.window_at = self.position;
        Ok(())
    }
}
