//! Reads a partition's directory, every byte of it, and changes nothing.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::batch::{Batch, BatchError, BatchHeader, EndKind};
use anabranch_core::seam::{Disk, DiskFile, Open};
use anabranch_core::{Offset, ProducerId, TopicPartition};

use crate::durable::DurablePoint;
use crate::entries::read_entries;
use crate::index::Place;
use crate::journal::redo::Plan;
use crate::layout::Layout;
use crate::marks::START;
use crate::producers::{AbortedTransaction, Producers, Snapshot};
use crate::recovery::{Remembered, newest_snapshot};
use crate::segment::{
    Listing, SCAN_WINDOW_BYTES, Scan, ScanError, aborted_path, index_path, segment_path, snapshot_path,
};
use crate::{Fault, FaultCause};

/// What [`crate::Offline::verify`] found.
#[derive(Debug, Clone)]
pub struct PartitionReport {
    /// Segments there are.
    pub segments: usize,
    /// Batches that are whole and right.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The log start offset.
    pub start: Offset,
    /// After the last offset.
    pub end: Offset,
    /// Damage: every place from which a segment cannot be read on.
    pub faults: Vec<Fault>,
    /// What recovery would cut off the end, in bytes: a torn tail past the durable point.
    pub torn_tail_bytes: u64,
    /// The note of the durable point is missing or torn: damage in the last segment cannot be told from a torn tail.
    pub durable_point_unknown: bool,
    /// Derived files that are wrong, and that the broker makes anew when it meets them.
    pub derived_wrong: Vec<PathBuf>,
    /// Files that retention or compaction had no time to remove, and that recovery removes.
    pub leftovers: Vec<PathBuf>,
}

/// See [`crate::Offline::verify`].
pub(crate) fn verify_partition(
    disk: &dyn Disk,
    directory: &Path,
    partition: &TopicPartition,
    journal: &Plan,
) -> io::Result<PartitionReport> {
    let note = journal.durable_point(partition, DurablePoint::read(disk, directory)?);
    let (layout, damaged) = match Layout::of(disk, directory)? {
        Ok(layout) => (layout, None),
        Err(fault) => (Layout::plain(Listing::of(disk, directory)?), Some(fault)),
    };
    let leftovers = layout.leftovers(directory);
    let Layout { listing, start, has_start, .. } = layout;
    let mut report = PartitionReport {
        segments: listing.segments.len(),
        batches: 0,
        records: 0,
        bytes: 0,
        start,
        end: start,
        faults: damaged.into_iter().collect(),
        torn_tail_bytes: 0,
        durable_point_unknown: note.is_none(),
        derived_wrong: Vec::new(),
        leftovers,
    };
    let last = listing.segments.last().copied();
    if let Some(missing) = note.map(|note| note.segment).filter(|noted| last.is_none_or(|last| last < *noted))
    {
        let file = segment_path(directory, missing);
        report.faults.push(Fault { file, position: 0, cause: FaultCause::SegmentMissing });
    }
    if listing.segments.is_empty() && has_start && report.faults.is_empty() {
        let file = segment_path(directory, start);
        report.faults.push(Fault { file, position: 0, cause: FaultCause::SegmentMissing });
    }
    let snapshots = &listing.snapshots;
    let remembered =
        listing.segments.first().map(|first| newest_snapshot(disk, directory, snapshots, *first));
    let mut transactions = Transactions::default();
    if let (Some(last), Some(Ok(Remembered { aborted, from: Some(from), .. }))) = (last, &remembered) {
        transactions.saved = (*from, aborted.entries_of(last) as usize);
    }
    // The first segment may begin below the log's start.
    report.end = listing.segments.first().map_or(start, |first| start.min(*first));
    for base in &listing.segments {
        if *base > report.end.max(start) && report.faults.is_empty() {
            let file = segment_path(directory, *base);
            let cause = FaultCause::Gap { from: report.end.max(start), base: *base };
            report.faults.push(Fault { file, position: 0, cause });
        }
        let file = disk.open(&segment_path(directory, *base), Open::Read)?;
        let is_last = Some(*base) == last;
        // A note of another is old, and compaction may have changed that one since.
        let noted = note.filter(|note| is_last && note.segment == *base);
        let file = if is_last { journal.redone(disk, partition, *base, file)? } else { file };
        let (segment, end) = ((*base, file.as_ref()), (is_last, noted));
        verify_segment(disk, directory, segment, end, &mut transactions, &mut report)?;
    }
    if report.end < start && report.faults.is_empty() {
        let cause = FaultCause::EndsElsewhere { end: report.end, durable: start };
        report.faults.push(Fault { file: START.path(directory), position: 0, cause });
    }
    if let Some(Err(fault)) = remembered {
        report.faults.push(fault);
    }
    for offset in &listing.snapshots {
        let path = snapshot_path(directory, *offset);
        let producers = disk.read(&path).ok().and_then(|bytes| Snapshot::decode(*offset, &bytes));
        if producers.is_none() && !report.faults.iter().any(|fault| fault.file == path) {
            report.derived_wrong.push(path);
        } else if producers.is_some() && *offset > report.end && report.faults.is_empty() {
            let cause = FaultCause::EndsElsewhere { end: report.end, durable: *offset };
            report.faults.push(Fault { file: path, position: 0, cause });
        }
    }
    Ok(report)
}

/// Reads one segment to its end or to the first damage. Up to the point that was noted in it, it must be right; what
/// follows may be torn if it is the last.
fn verify_segment(
    disk: &dyn Disk,
    directory: &Path,
    (base, file): (Offset, &dyn DiskFile),
    (is_last, noted): (bool, Option<DurablePoint>),
    transactions: &mut Transactions,
    report: &mut PartitionReport,
) -> io::Result<()> {
    let path = segment_path(directory, base);
    let len = file.len()?;
    let fault = |position, cause| Fault { file: path.clone(), position, cause };
    // The last segment is younger than the note, or nothing is known.
    let durable = noted.map_or(if is_last { 0 } else { u64::MAX }, |noted| noted.bytes);
    if is_last && len < durable {
        report.faults.push(fault(len, FaultCause::Shortened { durable_bytes: durable }));
    }
    let mut batches = Vec::new();
    let mut scan = Scan::new(file, 0, len, SCAN_WINDOW_BYTES).after(report.end);
    let torn = loop {
        match scan.next_batch() {
            Ok(None) => break None,
            Ok(Some((position, batch))) => {
                let header = *batch.header();
                if let Err(error) = transactions.pass(&batch) {
                    break Some((position, FaultCause::Damaged(error)));
                }
                report.batches += 1;
                report.records += u64::from(header.record_count.unsigned_abs());
                report.bytes += header.len_bytes as u64;
                report.end = header.next_offset();
                batches.push((position, header));
                let wrong = noted
                    .filter(|noted| noted.bytes == scan.position() && noted.next != header.next_offset());
                if let Some(DurablePoint { next, .. }) = wrong {
                    let cause = FaultCause::EndsElsewhere { end: header.next_offset(), durable: next };
                    report.faults.push(fault(scan.position(), cause));
                }
            }
            Err(ScanError::Damaged(position, cause)) => break Some((position, cause)),
            Err(ScanError::Io(position, error)) => {
                let cause = FaultCause::Io { action: "reading", error: Arc::new(error) };
                break Some((position, cause));
            }
        }
    };
    if let Some((position, cause)) = torn {
        if is_last && position >= durable && !matches!(cause, FaultCause::Io { .. }) {
            report.torn_tail_bytes = len - position;
        } else {
            report.faults.push(fault(position, cause));
        }
    }
    let index = index_path(directory, base);
    if disk.exists(&index)? && !index_is_right(&read_entries(disk, &index, base)?, &batches, base) {
        report.derived_wrong.push(index);
    }
    let aborted = aborted_path(directory, base);
    let entries = match disk.exists(&aborted)? {
        true => read_entries(disk, &aborted, base)?,
        false => Vec::new(),
    };
    if !transactions.are_right(entries, is_last) {
        report.derived_wrong.push(aborted);
    }
    Ok(())
}

/// What the batches tell of transactions, to compare it with the files of the aborted ones.
#[derive(Debug, Default)]
struct Transactions {
    producers: Producers,
    /// Of the segment: transactions of which there are batches and that were aborted, and whose markers say so, and where.
    aborted: Vec<AbortedTransaction>,
    aborts: BTreeSet<(ProducerId, Offset)>,
    /// How many entries the last segment had when the producers were saved last, and at which offset that was: no more of
    /// its file is believed.
    saved: (Offset, usize),
}

impl Transactions {
    fn pass(&mut self, batch: &Batch) -> Result<(), BatchError> {
        let header = batch.header();
        if header.is_transactional() {
            let marker = batch.end_marker()?;
            if marker.is_some_and(|marker| marker.kind == EndKind::Abort) {
                self.aborts.insert((header.producer_id, header.base_offset));
            }
            self.aborted.extend(self.producers.pass(header, marker, 0));
        }
        Ok(())
    }

    /// Whether the entries of a segment are what recovery takes for right: each has its marker, and each aborted transaction
    /// its entry. The next segment follows.
    fn are_right(&mut self, mut entries: Vec<Option<AbortedTransaction>>, is_last: bool) -> bool {
        let (mut aborted, aborts) = (std::mem::take(&mut self.aborted), std::mem::take(&mut self.aborts));
        if is_last {
            let (saved, count) = self.saved;
            if entries.len() < count {
                return false;
            }
            entries.truncate(count);
            aborted.retain(|aborted| aborted.last < saved);
        } else if let Some(end) = entries.pop()
            && end != Some(AbortedTransaction::end(entries.len()))
        {
            return false;
        }
        let Some(entries) = entries.into_iter().collect::<Option<Vec<_>>>() else { return false };
        let is_told = |it: &AbortedTransaction| {
            let at = entries.partition_point(|entry| entry.last < it.last);
            entries.get(at).is_some_and(|entry| {
                (entry.producer, entry.last) == (it.producer, it.last) && entry.first <= it.first
            })
        };
        entries.is_sorted_by_key(|entry| entry.last)
            && entries.iter().all(|entry| aborts.contains(&(entry.producer, entry.last)))
            && aborted.iter().all(is_told)
    }
}

/// Whether every entry names a batch that is there, and the largest timestamp before it.
fn index_is_right(entries: &[Option<Place>], batches: &[(u64, BatchHeader)], base: Offset) -> bool {
    let mut max_before_ms = Place::start(base).max_before_ms;
    let mut entries = entries.iter();
    let mut next = entries.next();
    for (position, header) in batches {
        let place = Place { offset: header.base_offset, position: *position, max_before_ms };
        if next.is_some_and(|entry| *entry == Some(place)) {
            next = entries.next();
        }
        max_before_ms = max_before_ms.max(header.max_timestamp_ms);
    }
    next.is_none()
}
