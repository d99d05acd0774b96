//! Opens a partition's directory: finds where the log ends, and cuts off what was torn there.
//!
//! Recovery always takes the same way, whether the stop was clean or not: it starts at the last snapshot of the
//! producers' state, reads batch headers up to the durable point, and whole batches with their checksums beyond it. After
//! a clean stop nothing lies beyond.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::batch::BatchHeader;
use anabranch_core::planted::{self, Bug};
use anabranch_core::seam::{Disk, Open};
use anabranch_core::{Offset, TopicPartition};
use parking_lot::{Mutex, RwLock};

use crate::active::PartitionWriter;
use crate::durable::{DurableNote, DurablePoint};
use crate::index::Index;
use crate::isolation::derive;
use crate::layout::Layout;
use crate::partition::{Absent, Bounds, LogConfig, LogStatus, Shared, Visible};
use crate::producers::{AbortedSegments, AbortedTransaction, Producers, Snapshot};
use crate::segment::{
    DEFAULT_INDEX_INTERVAL_BYTES, Listing, SCAN_WINDOW_BYTES, ScanError, Segment, Spacing, segment_path,
    snapshot_path,
};
use crate::waiters::Waiters;
use crate::{Fault, FaultCause};

/// What a partition's directory became: something to read, and something to write to unless it is damaged.
pub(crate) struct Opened {
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: Option<PartitionWriter>,
}

/// Opens the partition in `directory`. When there is none it is created durably, or is damage, as `absent` says.
pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    directory: PathBuf,
    id: TopicPartition,
    config: LogConfig,
    absent: Absent,
    now_ms: i64,
) -> io::Result<Opened> {
    let (note, layout) = match disk.exists(&directory)? {
        true => (DurablePoint::read(disk.as_ref(), &directory)?, Layout::of(disk.as_ref(), &directory)?),
        false => (None, Ok(Layout::default())),
    };
    let layout = match layout {
        Ok(layout) => layout,
        Err(fault) => return Ok(stopped(directory, id, config, &fault)),
    };
    // Whoever wrote a mark may have been killed before its name was durable: what is done by it, or shown, must not outlive it.
    if layout.has_start || layout.swap.is_some() {
        disk.sync_dir(&directory)?;
    }
    layout.tidy(disk, &directory)?;
    let (start, is_swapped, mut listing) = (layout.start, layout.swap.is_some(), layout.listing);
    if listing.segments.is_empty() && note.is_none() && !layout.has_start {
        if absent == Absent::Damage {
            let fault = missing(&directory, Offset(0));
            return Ok(stopped(directory, id, config, &fault));
        }
        disk.create_dir_all(&directory)?;
        Segment::create(disk, &directory, Offset(0))?;
        listing.segments.push(Offset(0));
    }
    // A segment is in the note only after its name is durable: without, whoever created it may not have come so far.
    if note.is_none_or(|note| listing.segments.last() != Some(&note.segment)) {
        // The names of the partition and of the topic, too.
        for parent in directory.ancestors().take(3) {
            disk.sync_dir(parent)?;
        }
    }
    let recovered = recover(disk, &directory, &listing, (start, is_swapped), note, now_ms)
        .and_then(|recovered| cut_torn_tail(disk, &directory, &recovered, note).map(|()| recovered));
    Ok(match recovered {
        Ok(recovered) => online(directory, id, config, recovered, now_ms),
        Err(fault) => stopped(directory, id, config, &fault),
    })
}

fn missing(directory: &Path, base: Offset) -> Fault {
    Fault { file: segment_path(directory, base), position: 0, cause: FaultCause::SegmentMissing }
}

/// What the directory holds.
struct Recovered {
    segments: Vec<Arc<Segment>>,
    start: Offset,
    /// After the last record that is whole.
    end: Offset,
    /// Bytes of the last segment that are whole.
    whole: u64,
    spacing: Spacing,
    producers: Producers,
    snapshots: Vec<Offset>,
}

fn recover(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    listing: &Listing,
    (start, is_swapped): (Offset, bool),
    note: Option<DurablePoint>,
    now_ms: i64,
) -> Result<Recovered, Fault> {
    let segments = open_segments(disk, directory, listing, note)?;
    match segments.first() {
        Some(first) => first.check_joins(start)?,
        None => return Err(missing(directory, start)),
    }
    let first_base = segments[0].base;
    let Remembered { producers, aborted, from, unusable } =
        newest_snapshot(disk.as_ref(), directory, &listing.snapshots, first_base)?;
    if from.is_none() && first_base > Offset(0) {
        tracing::warn!(
            directory = %directory.display(), first_offset = first_base.0,
            "there is no snapshot of producer state: producers that have written nothing since the first offset are forgotten"
        );
    }
    let last = segments.last().expect("a partition has a segment");
    let nothing = DurablePoint { segment: last.base, bytes: 0, next: last.base };
    let durable = note.filter(|note| note.segment == last.base).unwrap_or(nothing);
    if last.len() < durable.bytes {
        return Err(last.fault(last.len(), FaultCause::Shortened { durable_bytes: durable.bytes }));
    }
    let first =
        segments.partition_point(|segment| segment.base <= from.unwrap_or(Offset(0))).saturating_sub(1);
    let mut walk = Walk {
        from: from.unwrap_or(first_base),
        next: segments[first].base,
        spacing: Spacing::from_start(last.base),
        producers,
        aborted: Vec::new(),
        now_ms,
    };
    let mut believed = Believed { listed: aborted, in_sealed: Vec::new(), is_swapped };
    for segment in &segments[first..segments.len() - 1] {
        walk.sealed(segment)?;
        let has_aborted = !std::mem::take(&mut walk.aborted).is_empty();
        believed.in_sealed.extend(has_aborted.then_some(segment.base));
    }
    let whole = walk.last(last, durable)?;
    // A snapshot is written after a sync, and the log's start moved after one, so that they tell of durable records just
    // as the note does.
    let durable_next = note.map(|note| note.next).max(from).unwrap_or(Offset(0)).max(start);
    if walk.next < durable_next {
        return Err(last.fault(whole, FaultCause::EndsElsewhere { end: walk.next, durable: durable_next }));
    }
    remove_unusable(disk.as_ref(), directory, &unusable);
    recover_aborted(disk.as_ref(), &segments, whole, &believed, walk.aborted)?;
    Ok(Recovered {
        end: walk.next,
        whole,
        spacing: walk.spacing,
        producers: walk.producers,
        snapshots: listing.snapshots.iter().copied().filter(|offset| !unusable.contains(offset)).collect(),
        segments,
        start,
    })
}

fn open_segments(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    listing: &Listing,
    note: Option<DurablePoint>,
) -> Result<Vec<Arc<Segment>>, Fault> {
    let fault = |base: Offset, cause| Fault { file: segment_path(directory, base), position: 0, cause };
    if let Some(note) = note
        && listing.segments.last().is_none_or(|last| *last < note.segment)
    {
        return Err(fault(note.segment, FaultCause::SegmentMissing));
    }
    let open = |base: &Offset| {
        let segment = Segment::open(disk, directory, *base);
        let failed = |error| fault(*base, FaultCause::Io { action: "opening", error: Arc::new(error) });
        segment.map(Arc::new).map_err(failed)
    };
    listing.segments.iter().map(open).collect()
}

/// Producers as a snapshot has them.
pub(crate) struct Remembered {
    producers: Producers,
    pub(crate) aborted: AbortedSegments,
    /// The offset that the snapshot stands for, if there is one.
    pub(crate) from: Option<Offset>,
    /// Newer snapshots, which are damaged or cannot be read.
    unusable: Vec<Offset>,
}

/// The newest snapshot that can be used. A newer one that is damaged, or cannot be read, is made good by reading on from
/// there, as long as everything since is still there: a segment is begun after the state up to it was saved, so that a log
/// whose oldest segments were removed has a snapshot that reaches the `first` of those that remain. An older one than that
/// would say that producers are where they no longer are, and refuse what they send next.
pub(crate) fn newest_snapshot(
    disk: &dyn Disk,
    directory: &Path,
    snapshots: &[Offset],
    first: Offset,
) -> Result<Remembered, Fault> {
    let mut remembered = Remembered {
        producers: Producers::default(),
        aborted: AbortedSegments::default(),
        from: None,
        unusable: Vec::new(),
    };
    let mut fault = None;
    for offset in snapshots.iter().rev().copied() {
        let path = snapshot_path(directory, offset);
        let lost = FaultCause::ProducersLost { first };
        if offset < first {
            fault.get_or_insert((path, lost));
            break;
        }
        match disk.read(&path).map(|bytes| Snapshot::decode(offset, &bytes)) {
            Ok(Some(Snapshot { producers, aborted })) => {
                return Ok(Remembered { producers, aborted, from: Some(offset), ..remembered });
            }
            Ok(None) => fault.get_or_insert((path, lost)),
            Err(error) => {
                fault.get_or_insert((path, FaultCause::Io { action: "reading", error: Arc::new(error) }))
            }
        };
        remembered.unusable.push(offset);
    }
    match fault {
        Some((file, cause)) if first > Offset(0) => Err(Fault { file, position: 0, cause }),
        // Without any file, somebody has moved them away: see `FaultCause::ProducersLost`.
        _ => Ok(remembered),
    }
}

/// Removes snapshots that an older one has made good: the next one may have the same offset, and would not be written.
fn remove_unusable(disk: &dyn Disk, directory: &Path, unusable: &[Offset]) {
    for offset in unusable {
        let file = snapshot_path(directory, *offset);
        tracing::warn!(
            file = %file.display(),
            "this snapshot of producer state is damaged, or cannot be read; the log has told what it knew, and it is removed"
        );
        if let Err(error) = disk.remove_file(&file) {
            tracing::warn!(file = %file.display(), %error, "it could not be removed");
        }
    }
}

/// What is known of aborted transactions before a look at their files.
struct Believed {
    /// By the snapshot.
    listed: AbortedSegments,
    /// Sealed segments in which the walk has met some.
    in_sealed: Vec<Offset>,
    /// A swap was not finished: whose the files are is not known.
    is_swapped: bool,
}

/// Takes over which transactions were aborted: of complete segments as the files have it, of the last one as they have it up
/// to the snapshot, and as the walk has `derived` it since. If any file is not what it must be, all are made anew.
fn recover_aborted(
    disk: &dyn Disk,
    segments: &[Arc<Segment>],
    whole: u64,
    believed: &Believed,
    derived: Vec<AbortedTransaction>,
) -> Result<(), Fault> {
    let (last, sealed) = segments.split_last().expect("a partition has a segment");
    // Neighbours may have been written into one since. Those that are gone need nothing.
    let now = |base: &Offset| Some(&sealed[sealed.partition_point(|now| now.base <= *base).checked_sub(1)?]);
    let is_whole = |segment: &Arc<Segment>| matches!(segment.aborted.lock().is_whole(), Ok(Ok(())));
    let listed = believed.listed.bases.iter().filter(|base| **base < last.base);
    let are_whole = listed.chain(&believed.in_sealed).filter_map(now).all(is_whole);
    let count = believed.listed.entries_of(last.base);
    if !believed.is_swapped && are_whole && matches!(last.aborted.lock().keep_first(count), Ok(Ok(()))) {
        if !planted::is(Bug::AbortedForgotten) {
            derived.into_iter().for_each(|entry| last.aborted.lock().push(entry));
        }
        return Ok(());
    }
    tracing::warn!(
        file = %last.path.display(),
        "which transactions were aborted is found out anew: a file that tells it is damaged or missing"
    );
    let end = |segment: &Segment| if segment.base == last.base { whole } else { segment.len() };
    for (segment, entries) in segments.iter().zip(derive(segments, end)?) {
        let mut aborted = segment.aborted.lock();
        if entries.is_empty() && aborted.is_empty() {
            continue;
        }
        if let Err(error) = aborted.rebuild(disk, entries, segment.base != last.base) {
            // It stays in memory, and is found out again at the next start.
            tracing::warn!(file = %segment.path.display(), %error, "the aborted transactions could not be written");
        }
    }
    Ok(())
}

/// A walk over the batches from the snapshot to the end of the log.
struct Walk {
    /// Where the snapshot stands: the producers know everything before it.
    from: Offset,
    /// After the last batch.
    next: Offset,
    spacing: Spacing,
    producers: Producers,
    /// Of the segment that was walked last, after the snapshot.
    aborted: Vec<AbortedTransaction>,
    now_ms: i64,
}

impl Walk {
    /// A segment that is complete and was synced: every header must be right.
    fn sealed(&mut self, segment: &Segment) -> Result<(), Fault> {
        segment.check_joins(self.next)?;
        let Some((position, _)) = segment.find(self.from, segment.len())? else {
            return Ok(());
        };
        let mut scan = segment.scan(position, segment.len(), SCAN_WINDOW_BYTES).after(self.next);
        while let Some((position, header)) = scan.next_header().map_err(|error| segment.scan_fault(error))? {
            self.pass(segment, position, &header)?;
        }
        Ok(())
    }

    /// The last segment: right up to `durable`, and possibly torn after it. Returns where it is torn, or its length.
    fn last(&mut self, segment: &Segment, durable: DurablePoint) -> Result<u64, Fault> {
        segment.check_joins(self.next)?;
        let failed = |error| segment.io_fault("reading the index of", 0, error);
        let mut index = segment.index.lock();
        // Beyond the durable point an entry may tell of a batch that was never whole.
        index.keep_valid_below(durable.bytes).map_err(failed)?;
        let place = index.last_where(|place| place.offset <= self.from).map_err(failed)?;
        let place = place.expect("the entries that were kept are valid");
        index.keep_valid_below(place.position + 1).map_err(failed)?;
        self.spacing = Spacing::from_place(place);
        self.next = self.next.max(place.offset);
        let mut scan = segment.scan(place.position, durable.bytes, SCAN_WINDOW_BYTES).after(self.next);
        while let Some((position, header)) = scan.next_header().map_err(|error| segment.scan_fault(error))? {
            self.pass(segment, position, &header)?;
            self.keep_place(&mut index, position, &header);
        }
        // Offsets lie outside the checksum, and the last one has none after it that would not fit.
        if self.next != durable.next {
            let cause = FaultCause::EndsElsewhere { end: self.next, durable: durable.next };
            return Err(segment.fault(durable.bytes, cause));
        }
        let mut scan = segment.scan(durable.bytes, segment.len(), SCAN_WINDOW_BYTES).after(self.next);
        loop {
            let start = scan.position();
            if planted::is(Bug::DurableBatchCut) {
                return Ok(start);
            }
            if planted::is(Bug::TornBatchKept)
                && let Ok(Some((position, header))) = scan.next_header()
            {
                self.pass(segment, position, &header)?;
                self.keep_place(&mut index, position, &header);
                continue;
            }
            match scan.next_batch() {
                // Nothing was ever taken out of the last segment, so that each offset is the next.
                Ok(Some((position, batch))) if batch.header().base_offset == self.next => {
                    self.pass(segment, position, batch.header())?;
                    self.keep_place(&mut index, position, batch.header());
                }
                Ok(_) | Err(ScanError::Damaged(..)) => return Ok(start),
                Err(error) => return Err(segment.scan_fault(error)),
            }
        }
    }

    fn keep_place(&mut self, index: &mut Index, position: u64, header: &BatchHeader) {
        let place = self.spacing.step(position, header.base_offset, header, DEFAULT_INDEX_INTERVAL_BYTES);
        place.into_iter().for_each(|place| index.push(place));
    }

    fn pass(&mut self, segment: &Segment, position: u64, header: &BatchHeader) -> Result<(), Fault> {
        self.next = header.next_offset();
        if header.base_offset < self.from || planted::is(Bug::ProducersForgotten) {
            return Ok(());
        }
        let marker = segment.end_marker(position, header)?;
        self.aborted.extend(self.producers.pass(header, marker, self.now_ms));
        Ok(())
    }
}

/// Cuts what is torn off the last segment, and makes the rest durable: from here on readers see it.
fn cut_torn_tail(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    recovered: &Recovered,
    note: Option<DurablePoint>,
) -> Result<(), Fault> {
    let last = recovered.segments.last().expect("a partition has a segment");
    let failed = |error| last.io_fault("cutting the torn tail of", recovered.whole, error);
    let torn = last.len() - recovered.whole;
    if torn > 0 {
        tracing::warn!(
            file = %last.path.display(), position = recovered.whole, bytes = torn, next_offset = recovered.end.0,
            "cut a torn tail that was never durable"
        );
        last.file.set_len(recovered.whole).map_err(failed)?;
        last.set_len(recovered.whole);
    }
    let point = DurablePoint { segment: last.base, bytes: recovered.whole, next: recovered.end };
    if torn > 0 || note != Some(point) {
        let durable_bytes = note.filter(|note| note.segment == last.base).map_or(0, |note| note.bytes);
        if !planted::is(Bug::PageCacheBelieved) {
            write_again(last, durable_bytes, recovered.whole).map_err(failed)?;
        }
        last.file.sync_data().map_err(failed)?;
        DurableNote::new(directory).advance(disk.as_ref(), point);
    }
    Ok(())
}

/// Writes bytes of the segment over themselves. After a failed sync Linux takes pages for clean that it never wrote: the
/// process before this one may have stopped for that, and a sync of what is read back from the page cache would vouch
/// for nothing.
fn write_again(segment: &Segment, from: u64, to: u64) -> io::Result<()> {
    let mut window = vec![0; SCAN_WINDOW_BYTES.min((to - from) as usize)];
    let mut position = from;
    while position < to {
        let len = window.len().min((to - position) as usize);
        segment.file.read_exact_at(&mut window[..len], position)?;
        segment.file.write_all_at(&[&window[..len]], position)?;
        position += len as u64;
    }
    Ok(())
}

fn online(
    directory: PathBuf,
    id: TopicPartition,
    config: LogConfig,
    recovered: Recovered,
    now_ms: i64,
) -> Opened {
    let last = Arc::clone(recovered.segments.last().expect("a partition has a segment"));
    let bounds = Bounds {
        log_start: recovered.start,
        visible: Visible { next: recovered.end, segment: last.base, bytes: recovered.whole },
        stable: recovered.producers.first_open().unwrap_or(recovered.end),
        log_end: recovered.end,
    };
    let shared = shared(directory, id, config, LogStatus::Online, bounds, recovered.segments);
    let writer = PartitionWriter::new(
        Arc::clone(&shared),
        last,
        recovered.end,
        recovered.spacing,
        recovered.producers,
        recovered.snapshots,
        now_ms,
    );
    Opened { shared, writer: Some(writer) }
}

fn stopped(directory: PathBuf, id: TopicPartition, config: LogConfig, fault: &Fault) -> Opened {
    let nowhere = Visible { next: Offset(0), segment: Offset(0), bytes: 0 };
    let bounds = Bounds { log_start: Offset(0), visible: nowhere, stable: Offset(0), log_end: Offset(0) };
    let shared = shared(directory, id, config, LogStatus::Online, bounds, Vec::new());
    shared.stop(fault);
    Opened { shared, writer: None }
}

fn shared(
    directory: PathBuf,
    id: TopicPartition,
    config: LogConfig,
    status: LogStatus,
    bounds: Bounds,
    segments: Vec<Arc<Segment>>,
) -> Arc<Shared> {
    let note = DurableNote::new(&directory);
    Arc::new(Shared {
        id,
        directory,
        bounds: Mutex::new(bounds),
        segments: RwLock::new(segments),
        layout: Mutex::new(()),
        cleaning: tokio::sync::Mutex::new(()),
        config: Mutex::new(config),
        gate: Mutex::default(),
        status: Mutex::new(status),
        note: Mutex::new(note),
        waiters: Waiters::default(),
    })
}

/// Whether a directory holds segments with any bytes in them.
pub(crate) fn holds_records(disk: &dyn Disk, directory: &Path) -> io::Result<bool> {
    for base in Listing::of(disk, directory)?.segments {
        let path = segment_path(directory, base);
        if !disk.open(&path, Open::Read)?.is_empty()? {
            return Ok(true);
        }
    }
    Ok(false)
}
