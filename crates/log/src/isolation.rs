//! What readers of committed records see: nothing beyond the last stable offset, and which transactions before it were
//! aborted. Those are left out by the reader, as in Kafka: the batches are not decoded on their way.

use std::sync::Arc;

use anabranch_core::Offset;
use anabranch_core::batch::BatchHeader;

use crate::aborted::AbortedIndex;
use crate::partition::{Bounds, PartitionLog, Visible, readable};
use crate::producers::{AbortedTransaction, Producers};
use crate::segment::{SCAN_WINDOW_BYTES, Segment};
use crate::{Fault, ReadError};

/// Whose records a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// All that are written: up to the high watermark (Kafka's `read_uncommitted`).
    Written,
    /// Those of no transaction, or of one that was committed: up to the last stable offset (`read_committed`).
    Committed,
}

impl PartitionLog {
    /// How far a reader sees who asked for something before the last stable offset.
    pub(crate) fn visible_to(
        &self,
        isolation: Isolation,
        segments: &[Arc<Segment>],
        bounds: Bounds,
    ) -> Result<Visible, ReadError> {
        let visible = bounds.visible;
        let next = bounds.offsets().last_stable;
        if isolation == Isolation::Written || next >= visible.next {
            return Ok(visible);
        }
        let at = segments.partition_point(|segment| segment.base <= next).saturating_sub(1);
        let Some(segment) = segments.get(at) else { return Ok(visible) };
        let end = readable(segment, visible);
        let found = self.stop_if_damaged(segment.find(next, end))?;
        Ok(Visible { next, segment: segment.base, bytes: found.map_or(end, |(position, _)| position) })
    }

    /// The aborted transactions that reach to `from` or beyond and begin before `upper`; `segments` are those from the one
    /// that holds `from` on.
    pub(crate) fn aborted_between(
        &self,
        segments: &[Arc<Segment>],
        from: Offset,
        upper: Offset,
    ) -> Result<Vec<AbortedTransaction>, ReadError> {
        let mut found = Vec::new();
        for segment in segments {
            let mut index = segment.aborted.lock();
            if index.is_empty() {
                continue;
            }
            let known = found.len();
            let mut is_complete = index.find(from, upper, &mut found);
            if !matches!(is_complete, Ok(Ok(_))) {
                found.truncate(known);
                self.make_anew(segment, &mut index)?;
                is_complete = index.find(from, upper, &mut found);
            }
            let wrong = || std::io::Error::other("just written, and wrong");
            let is_complete = is_complete.and_then(|found| found.map_err(|_| wrong())).map_err(|error| {
                ReadError::Fault(segment.io_fault("reading the aborted transactions of", 0, error))
            })?;
            if is_complete {
                break;
            }
        }
        Ok(found)
    }

    /// Makes the aborted transactions of a segment anew. Whoever writes to the segment waits: it happens after damage only.
    fn make_anew(&self, segment: &Arc<Segment>, index: &mut AbortedIndex) -> Result<(), ReadError> {
        tracing::warn!(
            file = %segment.path.display(),
            "which transactions of this segment were aborted cannot be read; it is found out anew"
        );
        let (segments, bounds) = self.view(Offset(0));
        let mut segments: Vec<_> = segments.into_iter().filter(|before| before.base < segment.base).collect();
        segments.push(Arc::clone(segment));
        let derived = derive(&segments, |segment| readable(segment, bounds.visible));
        let mut entries = self.stop_if_damaged(derived)?.pop().expect("the segment is the last of them");
        // What is not shown yet waits in memory, and is right.
        if let Some(first) = index.first_in_memory() {
            entries.retain(|entry| entry.last < first);
        }
        entries.extend(index.take_tail());
        if segment.is_retired() {
            index.replace(entries); // another has the file's name
        } else if let Err(error) = index.rebuild(self.store.disk().as_ref(), entries, segment.is_sealed()) {
            // The disk is full, perhaps. The entries stay in memory, and are made anew at the next start.
            tracing::warn!(file = %segment.path.display(), %error, "the aborted transactions could not be written");
        }
        Ok(())
    }
}

/// The aborted transactions of each segment, by all batches from the first one up to the byte that `end` says. What a
/// transaction had in segments that are gone is not needed.
pub(crate) fn derive(
    segments: &[Arc<Segment>],
    end: impl Fn(&Segment) -> u64,
) -> Result<Vec<Vec<AbortedTransaction>>, Fault> {
    let mut producers = Producers::default();
    let mut derived = Vec::with_capacity(segments.len());
    for segment in segments {
        let mut aborted = Vec::new();
        let mut scan = segment.scan(0, end(segment), SCAN_WINDOW_BYTES);
        while let Some((position, header)) = scan.next_header().map_err(|error| segment.scan_fault(error))? {
            if header.is_transactional() {
                aborted.extend(producers.pass(&header, segment.end_marker(position, &header)?, 0));
            }
        }
        derived.push(aborted);
    }
    Ok(derived)
}

/// The offset after whole batches.
pub(crate) fn after(mut batches: &[u8]) -> Option<Offset> {
    let mut after = None;
    while let Ok(header) = BatchHeader::parse(batches) {
        after = Some(header.next_offset());
        batches = batches.get(header.len_bytes..)?;
    }
    after
}
