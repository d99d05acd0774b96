//! Compaction: of each key the newest record stays, and older ones go (Kafka's `cleanup.policy=compact`).
//!
//! A pass reads the dirty segments (those that no pass has come to) into a map of each key's newest offset ([`map`]), then
//! all segments from the first one to the end of the map, and writes what stays ([`filter`]) beside them. Neighbours that
//! have become small are written into one. Each new segment takes the place of its old ones in steps that a crash cannot
//! tear ([`swap`], `layout`). All of it happens off the writer's thread: appends and reads go on.
//!
//! What a pass never does:
//! * touch the segment that is written to, records that are not durable, or what is not decided: a transaction that is open,
//!   and all that follows its beginning ([`transactions`]);
//! * move an offset or a sequence number: batches keep their place and their producer;
//! * leave a gap between segments: each keeps its last offset, by a batch without records if need be, so that recovery
//!   still sees a segment that is missing;
//! * replace anything after it has met damage: it stops the partition instead.
//!
//! Memory: the map's limit, a few MiB for reading and writing, and the largest batch, decompressed.

mod filter;
mod map;
mod swap;
mod transactions;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_core::batch::{Batch, BatchHeader};
use anabranch_core::planted::{self, Bug};
use anabranch_core::{Offset, ProducerId};

use crate::marks::CLEANED;
use crate::partition::PartitionLog;
use crate::producers::LastWord;
use crate::removal::Settled;
use crate::segment::{SCAN_WINDOW_BYTES, ScanError, Segment};
use crate::{Fault, FaultCause, ReadError, UpkeepError};
use filter::{Filter, Kept};
use map::OffsetMap;
use swap::Rewrite;
use transactions::{AbortedSpans, Transactions};

/// How a pass is done.
#[derive(Debug, Clone)]
pub struct Compaction {
    /// The time, ms.
    pub now_ms: i64,
    /// Records below this are compacted (the caller's rules say up to where); segments are whole or not at
    /// all.
    pub before: Offset,
    /// `delete.retention.ms`: how long a tombstone stays after the first pass that meets it.
    pub delete_retention_ms: i64,
    /// `log.cleaner.dedupe.buffer.size`: the memory for the map of keys.
    pub map_bytes_max: usize,
    /// Random: what keys are hashed with.
    pub hash_key: [u64; 2],
    /// Set when the pass is to be given up; what it has finished stays.
    pub call_off: Arc<AtomicBool>,
}

/// What a pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// The log is compacted up to here.
    pub cleaned: Offset,
    /// The map was full before the pass came to where it should: another pass is due.
    pub is_partial: bool,
    /// Keys in the map.
    pub keys: u64,
    /// Records that are gone.
    pub records_removed: u64,
    /// Of those, records without a key.
    pub keyless_removed: u64,
    /// Segments fewer.
    pub segments_removed: u64,
    /// Bytes fewer.
    pub bytes_removed: u64,
}

impl PartitionLog {
    /// From where on the log is dirty: what no pass has come to. Blocks on the disk.
    #[must_use]
    pub fn first_dirty(&self) -> Offset {
        let bounds = *self.shared.bounds.lock();
        let disk = self.store.disk().as_ref();
        let cleaned = match disk.exists(&CLEANED.path(&self.shared.directory)) {
            Ok(true) => CLEANED.read(disk, &self.shared.directory).ok().and_then(Result::ok),
            _ => None,
        };
        // What cannot be, or cannot be read, is not believed: then everything is dirty, which costs a pass.
        match cleaned {
            Some([cleaned]) if bounds.log_start <= cleaned && cleaned <= bounds.log_end => cleaned,
            _ => bounds.log_start,
        }
    }

    /// One pass. Whatever the outcome, every newest record is there afterwards. Blocks on the disk, for long.
    ///
    /// # Errors
    /// [`UpkeepError`]. When the disk is full, what was half written is removed, and the pass may be tried again.
    pub fn compact(&self, settled: &Settled, how: &Compaction) -> Result<Compacted, UpkeepError> {
        let _cleaning = self.shared.cleaning.try_lock().map_err(|_| UpkeepError::Busy)?;
        // In this order: these segments have the markers of all that is decided by now.
        let decided = self.offsets().last_stable;
        let segments = self.shared.segments.read().clone();
        let pass = Pass { log: self, how, last_words: &settled.last_words, segments };
        pass.run(how.before.min(settled.durable).min(decided))
    }
}

/// A pass over one partition.
struct Pass<'a> {
    log: &'a PartitionLog,
    how: &'a Compaction,
    last_words: &'a HashMap<ProducerId, LastWord>,
    /// All that there are.
    segments: Vec<Arc<Segment>>,
}

impl Pass<'_> {
    fn run(&self, before: Offset) -> Result<Compacted, UpkeepError> {
        self.check()?;
        // The last one is written to: it is never among them. The base of each is the end of the one before.
        let ends: Vec<Offset> = self.segments.iter().skip(1).map(|segment| segment.base).collect();
        let whole = ends.iter().take_while(|end| **end <= before).count();
        let (segments, ends) = (&self.segments[..whole], &ends[..whole]);
        let first_dirty = self.log.first_dirty();
        let mut done = Compacted { cleaned: first_dirty, ..Compacted::default() };
        let Some(end) = ends.last().copied().filter(|end| first_dirty < *end) else { return Ok(done) };

        let mut map = OffsetMap::new(self.how.map_bytes_max, self.how.hash_key);
        let mapped = self.fill(&mut map, segments, ends, first_dirty)?;
        done.is_partial = mapped < end;
        done.keys = map.len() as u64;
        let filter = Filter {
            map: &map,
            end: mapped,
            now_ms: self.how.now_ms,
            delete_retention_ms: self.how.delete_retention_ms,
            last_words: self.last_words,
        };
        let reached = segments.partition_point(|segment| segment.base < mapped);
        let segment_bytes = u64::from(self.log.shared.config.lock().segment_bytes);
        let sizes: Vec<u64> = segments[..reached].iter().map(|segment| segment.len()).collect();
        let bases: Vec<Offset> = segments[..reached].iter().map(|segment| segment.base).collect();
        let mut transactions = Transactions::default();
        for group in groups(&bases, &ends[..reached], &sizes, segment_bytes) {
            let (end, group) = (ends[group.end - 1], &segments[group]);
            self.clean(&filter, group, end, &mut transactions, &mut done)?;
        }
        let disk = self.log.store.disk().as_ref();
        let directory = &self.log.shared.directory;
        let _layout = self.log.shared.layout.lock();
        self.log.shared.check_upkeep()?;
        // Durable only after every swap is, so that it is never ahead of them.
        let written = CLEANED.write(disk, directory, [mapped]);
        written.map_err(crate::removal::failed("writing", &CLEANED.path(directory)))?;
        done.cleaned = mapped;
        Ok(done)
    }

    /// Reads the keys from `first_dirty` on into the map; after the last offset that it has.
    fn fill(
        &self,
        map: &mut OffsetMap,
        segments: &[Arc<Segment>],
        ends: &[Offset],
        first_dirty: Offset,
    ) -> Result<Offset, UpkeepError> {
        let mut mapped = first_dirty;
        for (segment, end) in segments.iter().zip(ends).filter(|(_, end)| first_dirty < **end) {
            let aborted = self.aborted_in(segment, *end)?;
            let mut scan = segment.scan(0, segment.len(), SCAN_WINDOW_BYTES).after(segment.base);
            while let Some((position, batch)) =
                scan.next_batch().map_err(|error| self.blame(segment, error))?
            {
                self.check()?;
                let header = batch.header();
                let is_aborted = aborted.hold(header) && !planted::is(Bug::AbortedValueInMap);
                if header.last_offset() < first_dirty || header.is_control() || is_aborted {
                    continue;
                }
                let records = batch.records().map_err(|error| {
                    self.blame(segment, ScanError::Damaged(position, FaultCause::Damaged(error)))
                })?;
                for at in records.iter().filter(|at| at.offset >= first_dirty) {
                    if let Some(key) = &at.record.key
                        && map.put(key, at.offset).is_err()
                    {
                        return Ok(mapped);
                    }
                    mapped = at.offset.plus(1);
                }
            }
            mapped = *end;
        }
        Ok(mapped)
    }

    /// The aborted transactions of which there may be records in a segment. Their markers may stand in any that follows.
    fn aborted_in(&self, segment: &Segment, end: Offset) -> Result<AbortedSpans, UpkeepError> {
        let at = self.segments.partition_point(|other| other.base < segment.base);
        let aborted = self.log.aborted_between(&self.segments[at..], segment.base, end);
        Ok(aborted.map_err(|error| self.unreadable(segment, error))?.into_iter().collect())
    }

    /// Writes what stays of a group of neighbours, up to `end`, into one segment, and lets it take their place.
    fn clean(
        &self,
        filter: &Filter<'_>,
        group: &[Arc<Segment>],
        end: Offset,
        transactions: &mut Transactions,
        done: &mut Compacted,
    ) -> Result<(), UpkeepError> {
        let interval_bytes = self.log.shared.config.lock().index_interval_bytes;
        let disk = self.log.store.disk();
        swap::finish_last(self.log)?;
        let mut rewrite = Rewrite::begin(disk, &self.log.shared.directory, group[0].base, interval_bytes)?;
        let mut part = Compacted::default();
        let rewritten = self.rewrite(filter, group, end, transactions, &mut rewrite, &mut part);
        if !matches!(rewritten, Ok(true)) {
            rewrite.discard();
            return rewritten.map(|_| ());
        }
        let before: u64 = group.iter().map(|segment| segment.len()).sum();
        let after = rewrite.len();
        if swap::swap(self.log, group, end, rewrite)? {
            done.records_removed += part.records_removed;
            done.keyless_removed += part.keyless_removed;
            done.segments_removed += group.len() as u64 - 1;
            done.bytes_removed += before.saturating_sub(after);
        }
        Ok(())
    }

    /// Whether the new segment differs from the old ones.
    fn rewrite(
        &self,
        filter: &Filter<'_>,
        group: &[Arc<Segment>],
        end: Offset,
        transactions: &mut Transactions,
        rewrite: &mut Rewrite,
        part: &mut Compacted,
    ) -> Result<bool, UpkeepError> {
        let mut is_different = group.len() > 1;
        let mut next = group[0].base;
        for (at, segment) in group.iter().enumerate() {
            transactions.aborted =
                self.aborted_in(segment, group.get(at + 1).map_or(end, |next| next.base))?;
            let mut scan = segment.scan(0, segment.len(), SCAN_WINDOW_BYTES).after(next);
            while let Some((position, batch)) =
                scan.next_batch().map_err(|error| self.blame(segment, error))?
            {
                self.check()?;
                let header: &BatchHeader = batch.header();
                next = header.next_offset();
                let damaged =
                    |error| self.blame(segment, ScanError::Damaged(position, FaultCause::Damaged(error)));
                let is_void = transactions.is_void(header);
                let filtered = filter.judge(&batch, is_void, next == end).map_err(damaged)?;
                if let Some(aborted) = transactions.pass(&batch).map_err(damaged)? {
                    rewrite.abort(aborted);
                }
                part.records_removed += filtered.records_removed;
                part.keyless_removed += filtered.keyless_removed;
                is_different |= filtered.kept != Kept::Whole;
                let kept: Option<&Batch> = match &filtered.kept {
                    Kept::Whole => Some(&batch),
                    Kept::Part(part) => Some(part),
                    Kept::Nothing => None,
                };
                if let Some(kept) = kept {
                    rewrite.push(kept)?;
                }
            }
        }
        // Segments join when they are written: if these do not any more, something is missing.
        if next != end {
            let last = group.last().expect("a group has a segment");
            let cause = FaultCause::EndsElsewhere { end: next, durable: end };
            return Err(self.blame(last, ScanError::Damaged(last.len(), cause)));
        }
        if is_different {
            let has_aborted = group.iter().any(|segment| !segment.aborted.lock().is_empty());
            rewrite.finish(end, has_aborted)?;
        }
        Ok(is_different)
    }

    /// Fails when the pass is to go no further.
    fn check(&self) -> Result<(), UpkeepError> {
        if self.how.call_off.load(Ordering::Relaxed) {
            return Err(UpkeepError::CalledOff);
        }
        self.log.shared.check_upkeep()
    }

    fn unreadable(&self, segment: &Segment, error: ReadError) -> UpkeepError {
        match error {
            ReadError::Fault(Fault { file, cause: FaultCause::Io { action, error }, .. }) => {
                UpkeepError::Io { action, file, error }
            }
            ReadError::Fault(fault) => UpkeepError::Stopped(fault),
            ReadError::Closed => UpkeepError::Closed,
            ReadError::OutOfRange { .. } => {
                unreachable!("no offset of {} was asked for", segment.path.display())
            }
        }
    }

    /// Damage stops the partition; a read that merely failed does not.
    fn blame(&self, segment: &Segment, error: ScanError) -> UpkeepError {
        let fault: Fault = segment.scan_fault(error);
        match self.log.stop_if_damaged::<()>(Err(fault.clone())) {
            Err(ReadError::Fault(Fault { file, cause: FaultCause::Io { action, error }, .. })) => {
                UpkeepError::Io { action, file, error }
            }
            _ => UpkeepError::Stopped(fault),
        }
    }
}

/// Groups of neighbours that fit one segment: in bytes as they are, and in offsets, which the index counts in 32 bits.
fn groups(bases: &[Offset], ends: &[Offset], sizes: &[u64], segment_bytes: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for at in 0..bases.len() {
        bytes += sizes[at];
        match groups.last_mut() {
            Some(group)
                if bytes <= segment_bytes && ends[at].0 - bases[group.start].0 <= i64::from(i32::MAX) =>
            {
                group.end = at + 1;
            }
            _ => {
                groups.push(at..at + 1);
                bytes = sizes[at];
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_grouped_by_bytes_and_by_offsets() {
        let check = |segments: &[(i64, u64)], end: i64, expected: &[Range<usize>]| {
            let bases: Vec<Offset> = segments.iter().map(|(base, _)| Offset(*base)).collect();
            let ends: Vec<Offset> = bases.iter().copied().skip(1).chain([Offset(end)]).collect();
            let sizes: Vec<u64> = segments.iter().map(|(_, bytes)| *bytes).collect();
            assert_eq!(groups(&bases, &ends, &sizes, 100), expected, "{segments:?}");
        };
        check(&[], 0, &[]);
        check(&[(0, 200)], 9, std::slice::from_ref(&(0..1)));
        check(&[(0, 60), (5, 40), (7, 1), (9, 98), (10, 2)], 20, &[0..2, 2..4, 4..5]);
        let far = i64::from(i32::MAX);
        check(&[(0, 1), (5, 1), (far, 1)], far + 5, &[0..2, 2..3]);
    }
}
