//! What the files in a partition's directory come to: the log, and what is left over from work that a stop cut short.
//!
//! Files go in two ways, and each is made so that what it leaves can be told from damage:
//!
//! * **From the front** (retention, DeleteRecords). First `start` is made durable, then the segments that lie wholly below
//!   it are removed, in any order. So a segment below `start` is left over, and a first segment *above* it is damage.
//! * **In the middle** (compaction: one segment takes the place of one or several neighbours).
//!   1. The new segment is written to `BASE.log.clean` and `BASE.index.clean`, and synced; `BASE.aborted.clean`, too, if any
//!      of the old ones has such a file.
//!   2. `swap` is written, durably (so that the names of 1 are durable, too): `BASE`, and the offset `END` that the new
//!      segment reaches.
//!   3. `BASE.log.clean` is renamed to `BASE.log`, and the others likewise; the directory is synced.
//!   4. The other old segments, with bases between `BASE` and `END`, are removed; the directory is synced.
//!   5. `swap` is removed.
//!
//!   A stop anywhere leaves one of two logs, and `swap` with the segment itself tells which: if the batches of `BASE.log`
//!   reach `END` it is the new one, and the segments between are left over. If they do not it is the old one, and nothing
//!   of the log is. Of its index nothing is believed: it is made anew. Nor of the aborted transactions. A `swap` that outlives its work is harmless: no
//!   segment lies between its offsets any more. What ends in `.clean` is never part of the log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::Offset;
use anabranch_core::seam::{Disk, Open};

use crate::marks::{START, SWAP};
use crate::segment::{
    CLEAN, Listing, SCAN_WINDOW_BYTES, Scan, ScanError, Segment, aborted_path, index_path, segment_path,
};
use crate::{Fault, FaultCause};

/// A partition's directory, understood. Nothing has been changed yet.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// The log: without what is left over.
    pub(crate) listing: Listing,
    /// Where the log starts; 0 unless it was ever moved.
    pub(crate) start: Offset,
    /// Whether the start was ever moved.
    pub(crate) has_start: bool,
    /// Segments that are left over.
    segments: Vec<Offset>,
    /// Other files that are left over.
    files: Vec<PathBuf>,
    /// The first segment of a swap that may not have been finished.
    pub(crate) swap: Option<Offset>,
}

impl Layout {
    /// Nothing is left over.
    pub(crate) fn plain(listing: Listing) -> Self {
        Self { listing, ..Self::default() }
    }

    /// Looks at the directory. A mark that cannot be read is damage: it would say what may be removed.
    pub(crate) fn of(disk: &dyn Disk, directory: &Path) -> io::Result<Result<Self, Fault>> {
        let mut layout = Self::plain(Listing::of(disk, directory)?);
        let names: Vec<String> = disk.list(directory)?.into_iter().map(|entry| entry.name).collect();
        let has = |name: &str| names.iter().any(|there| there == name);
        let damaged = |file: PathBuf| Fault { file, position: 0, cause: FaultCause::MarkDamaged };
        if has(START.name()) {
            let Ok([start]) = START.read(disk, directory)? else {
                return Ok(Err(damaged(START.path(directory))));
            };
            (layout.start, layout.has_start) = (start, true);
        }
        let clean = names.iter().filter(|name| name.ends_with(CLEAN)).map(|name| directory.join(name));
        layout.files = clean.collect();
        if has(SWAP.name()) {
            let Ok([base, end]) = SWAP.read(disk, directory)? else {
                return Ok(Err(damaged(SWAP.path(directory))));
            };
            layout.swap = Some(base);
            if layout.listing.segments.contains(&base) && reaches(disk, directory, base, end)? {
                let is_between = |segment: &mut Offset| base < *segment && *segment < end;
                layout.segments.extend(layout.listing.segments.extract_if(.., is_between));
            }
        }
        let start = layout.start;
        let below = layout.listing.segments.windows(2).take_while(|pair| pair[1] <= start).count();
        layout.segments.extend(layout.listing.segments.drain(..below));
        Ok(Ok(layout))
    }

    /// Every file that [`Layout::tidy`] removes.
    pub(crate) fn leftovers(&self, directory: &Path) -> Vec<PathBuf> {
        let segments = self.segments.iter().map(|base| segment_path(directory, *base));
        segments.chain(self.files.iter().cloned()).collect()
    }

    /// Finishes the work that was cut short: removes what is left over. Before anybody uses the log.
    pub(crate) fn tidy(&self, disk: &Arc<dyn Disk>, directory: &Path) -> io::Result<()> {
        for file in &self.files {
            disk.remove_file(file)?;
        }
        if let Some(base) = self.swap.filter(|base| self.listing.segments.contains(base)) {
            Segment::open(disk, directory, base)?.rebuild_index();
        }
        self.finish(disk.as_ref(), directory)
    }

    /// Removes the segments that are left over, and then the mark that explains them.
    pub(crate) fn finish(&self, disk: &dyn Disk, directory: &Path) -> io::Result<()> {
        for base in &self.segments {
            tracing::info!(file = %segment_path(directory, *base).display(), "removing a segment that is left over");
            remove_segment(disk, directory, *base)?;
        }
        if self.swap.is_some() {
            disk.sync_dir(directory)?;
            disk.remove_file(&SWAP.path(directory))?;
        }
        Ok(())
    }
}

/// Removes a segment's files, what is derived last: without its segment it means nothing.
pub(crate) fn remove_segment(disk: &dyn Disk, directory: &Path, base: Offset) -> io::Result<()> {
    disk.remove_file(&segment_path(directory, base))?;
    for derived in [aborted_path(directory, base), index_path(directory, base)] {
        if disk.exists(&derived)? {
            disk.remove_file(&derived)?;
        }
    }
    Ok(())
}

/// Whether the batches of the segment at `base` go up to `end`: only a swapped one does. One that is damaged does not, and
/// whoever opens it will say so; of one that cannot be read nothing is known.
fn reaches(disk: &dyn Disk, directory: &Path, base: Offset, end: Offset) -> io::Result<bool> {
    let file: Arc<_> = disk.open(&segment_path(directory, base), Open::Read)?;
    let mut scan = Scan::new(file.as_ref(), 0, file.len()?, SCAN_WINDOW_BYTES);
    let mut next = base;
    loop {
        match scan.next_header() {
            Ok(Some((_, header))) => next = header.next_offset(),
            Ok(None) | Err(ScanError::Damaged(..)) => return Ok(next == end),
            Err(ScanError::Io(_, error)) => return Err(error),
        }
    }
}
