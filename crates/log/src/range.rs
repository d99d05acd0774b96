//! Batches where they stand: what a reader is given that sends much, and must not hold much.
//!
//! A [`BatchRange`] is found by a few headers, so that its length is known; its batches are read and checked right before
//! they are sent, as many at a time as the sender has memory for, whatever the range's length. While they are on their way to
//! the peer, the next are checked.
//!
//! What makes that safe:
//!
//! * A range ends where readers might see when it was found. Nothing before that is ever cut off or changed: a torn tail is
//!   cut before there are readers, and a write that failed is taken back to where it began, which nobody has seen.
//! * The range keeps its segment, and so its file ([`crate::files`]), though retention removes it or compaction replaces it.
//!   It holds no handle of the operating system while nothing is read.
//! * The bytes that are handed out are those that were checked, in the same memory; see [`BatchRange::read_next`] for batches
//!   that are larger than the memory.

use std::ops::Range;
use std::sync::Arc;

use anabranch_core::Offset;
use anabranch_core::batch::{BATCH_HEADER_BYTES, BatchChecksum, BatchError, BatchHeader};

use crate::partition::Shared;
use crate::segment::{ScanError, Segment, check_follows};
use crate::{FaultCause, ReadError};

/// Whole batches of one segment that are not read yet.
#[derive(Debug)]
pub struct BatchRange {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    /// What was not handed out yet.
    left: Range<u64>,
    /// What is handed out next begins at this offset or later.
    next: Offset,
    /// No record is at this offset or beyond.
    below: Offset,
    record_count: u64,
    /// A batch that is larger than the memory for it, and was begun.
    begun: Option<Begun>,
}

/// A batch that was checked, and is read once more.
#[derive(Debug)]
struct Begun {
    left: usize,
    checksum: BatchChecksum,
}

/// So much is read and checked at a time: it stays in a processor's nearest caches meanwhile.
const STEP_BYTES: usize = 256 << 10;

impl BatchRange {
    pub(crate) fn new(
        (shared, segment): (Arc<Shared>, Arc<Segment>),
        left: Range<u64>,
        below: Offset,
    ) -> Self {
        Self { shared, segment, left, next: Offset(0), below, record_count: 0, begun: None }
    }

    /// No record is at this offset or beyond.
    pub(crate) fn below(&self) -> Offset {
        self.below
    }

    /// Bytes that were not handed out yet.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX)
    }

    /// Records in the batches that were handed out, by their headers.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        self.record_count
    }

    /// Puts what comes next at the front of `buffer`, and says how much; 0 at the end. It is checked: whole batches, or a
    /// part of one for which `buffer` is too small. Such a batch is read twice, first to check all of it; and the second
    /// time its last part is not handed out if the checksum is not the same again, so that nobody ever gets all of a batch
    /// that is damaged. Blocks on the disk. `buffer` must have room for a batch's header.
    ///
    /// # Errors
    /// [`ReadError::Fault`]; damage stops the partition.
    pub fn read_next(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        assert!(buffer.len() >= BATCH_HEADER_BYTES, "a buffer takes a header");
        let read = match self.begun.take() {
            None => self.read_batches(buffer),
            Some(begun) => self.read_part(begun, buffer),
        };
        let read = self.shared.stop_if_damaged(read.map_err(|error| self.segment.scan_fault(error)))?;
        self.left.start += read as u64;
        Ok(read)
    }

    /// As many whole batches as there is room for, or a part of one.
    fn read_batches(&mut self, buffer: &mut [u8]) -> Result<usize, ScanError> {
        let left = self.len_bytes();
        let (mut checked, mut last_bytes) = (0, 0);
        loop {
            let room = left.min(buffer.len()) - checked;
            // What would likely not be whole is read later.
            if room == 0 || room < last_bytes.min(left - checked) {
                return Ok(checked);
            }
            let before = checked;
            let mut loaded = checked + room.min(STEP_BYTES);
            self.load(&mut buffer[checked..loaded], checked)?;
            while loaded - checked >= BATCH_HEADER_BYTES || loaded == left && checked < left {
                let header = self.header(&buffer[checked..loaded], checked)?;
                let end = checked + header.len_bytes;
                if end > buffer.len() {
                    return match checked {
                        0 => self.read_large(&header, buffer),
                        _ => Ok(checked),
                    };
                }
                if end > loaded {
                    self.load(&mut buffer[loaded..end], loaded)?;
                    loaded = end;
                }
                self.check(&header, &buffer[checked..end], checked)?;
                self.pass(&header);
                (checked, last_bytes) = (end, header.len_bytes);
            }
            if checked == before {
                return Ok(checked); // Not even a header.
            }
        }
    }

    /// The first part of a batch, all of which is checked before.
    fn read_large(&mut self, header: &BatchHeader, buffer: &mut [u8]) -> Result<usize, ScanError> {
        let mut checksum = BatchChecksum::of(header);
        let mut at = 0;
        while at < header.len_bytes {
            let part = (header.len_bytes - at).min(buffer.len());
            self.load(&mut buffer[..part], at)?;
            checksum.add(&buffer[..part]);
            at += part;
        }
        checksum.finish().map_err(|error| self.damaged(0, error))?;
        self.pass(header);
        let begun = Begun { left: header.len_bytes, checksum: BatchChecksum::of(header) };
        let read = self.read_part(begun, buffer)?;
        // A part of the header lies outside of the checksum.
        match BatchHeader::parse(buffer).as_ref() == Ok(header) {
            true => Ok(read),
            false => Err(self.damaged(0, BatchError::Invalid("it is another one than a moment ago"))),
        }
    }

    fn read_part(&mut self, mut begun: Begun, buffer: &mut [u8]) -> Result<usize, ScanError> {
        let part = begun.left.min(buffer.len());
        self.load(&mut buffer[..part], 0)?;
        begun.checksum.add(&buffer[..part]);
        begun.left -= part;
        match begun.left {
            0 => begun.checksum.finish().map_err(|error| self.damaged(0, error))?,
            _ => self.begun = Some(begun),
        }
        Ok(part)
    }

    /// The header of the batch that stands `at` bytes on; and nothing follows the last one.
    fn header(&self, bytes: &[u8], at: usize) -> Result<BatchHeader, ScanError> {
        let header = BatchHeader::parse(bytes).map_err(|error| self.damaged(at, error))?;
        check_follows(&header, self.left.start + at as u64, self.next, self.below)?;
        let left = self.len_bytes() - at;
        match header.len_bytes <= left {
            true => Ok(header),
            false => {
                Err(self
                    .damaged(at, BatchError::Truncated { needed_bytes: header.len_bytes, got_bytes: left }))
            }
        }
    }

    fn check(&self, header: &BatchHeader, batch: &[u8], at: usize) -> Result<(), ScanError> {
        let mut checksum = BatchChecksum::of(header);
        checksum.add(batch);
        checksum.finish().map_err(|error| self.damaged(at, error))
    }

    fn pass(&mut self, header: &BatchHeader) {
        self.next = header.next_offset();
        self.record_count += u64::from(header.record_count.unsigned_abs());
    }

    fn damaged(&self, at: usize, error: BatchError) -> ScanError {
        ScanError::Damaged(self.left.start + at as u64, FaultCause::Damaged(error))
    }

    fn load(&self, into: &mut [u8], at: usize) -> Result<(), ScanError> {
        let position = self.left.start + at as u64;
        self.segment.file.read_exact_at(into, position).map_err(|error| ScanError::Io(position, error))
    }
}
