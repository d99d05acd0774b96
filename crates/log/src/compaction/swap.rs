//! A segment that is written beside those whose place it takes, and how it takes it: the steps and what a stop between
//! them leaves are described in `layout`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::Offset;
use anabranch_core::batch::Batch;
use anabranch_core::planted::{self, Bug};
use anabranch_core::seam::{Disk, DiskFile, Open};

use crate::aborted::AbortedIndex;
use crate::index::Index;
use crate::layout::{Layout, remove_segment};
use crate::marks::SWAP;
use crate::partition::PartitionLog;
use crate::producers::AbortedTransaction;
use crate::removal::failed;
use crate::segment::{CLEAN, Segment, Spacing, aborted_path, index_path, segment_path};
use crate::{FaultCause, UpkeepError};

/// What is gathered for one write.
const WRITE_BYTES: usize = 1 << 20;
/// The index's positions have 32 bits.
const SEGMENT_BYTES_MAX: u64 = u32::MAX as u64;

/// A segment that is being written beside the old ones.
pub(super) struct Rewrite {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    base: Offset,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    written: u64,
    buffer: Vec<u8>,
    next: Offset,
    index: Index,
    index_path: PathBuf,
    aborted: AbortedIndex,
    aborted_path: PathBuf,
    spacing: Spacing,
    interval_bytes: u32,
}

impl Rewrite {
    pub(super) fn begin(
        disk: &Arc<dyn Disk>,
        directory: &Path,
        base: Offset,
        interval_bytes: u32,
    ) -> Result<Self, UpkeepError> {
        let path = segment_path(directory, base).with_added_extension(CLEAN);
        let index_path = index_path(directory, base).with_added_extension(CLEAN);
        let aborted_path = aborted_path(directory, base).with_added_extension(CLEAN);
        let opened = disk.open(&path, Open::Create).and_then(|file| {
            let mut index = Index::open(disk.as_ref(), index_path.clone(), base)?;
            index.rebuild(disk.as_ref(), Vec::new())?;
            let mut aborted = AbortedIndex::open(disk.as_ref(), aborted_path.clone(), base)?;
            aborted.rebuild(disk.as_ref(), Vec::new(), false)?;
            Ok((file, index, aborted))
        });
        let (file, index, aborted) = opened.map_err(|error| {
            remove(disk.as_ref(), &index_path);
            remove(disk.as_ref(), &path);
            failed("creating", &path)(error)
        })?;
        Ok(Self {
            disk: Arc::clone(disk),
            directory: directory.to_owned(),
            base,
            path,
            file,
            written: 0,
            buffer: Vec::new(),
            next: base,
            index,
            index_path,
            aborted,
            aborted_path,
            spacing: Spacing::from_start(base),
            interval_bytes,
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Adds a batch at its own offset.
    pub(super) fn push(&mut self, batch: &Batch) -> Result<(), UpkeepError> {
        let (header, position) = (batch.header(), self.len());
        assert!(header.base_offset >= self.next, "batches are written in order");
        self.next = header.next_offset();
        if position + header.len_bytes as u64 > SEGMENT_BYTES_MAX {
            // Only when the codec makes much more of the same records.
            let too_large = io::Error::new(io::ErrorKind::FileTooLarge, "larger than a segment can be");
            return Err(failed("writing", &self.path)(too_large));
        }
        let place = self.spacing.step(position, header.base_offset, header, self.interval_bytes);
        place.into_iter().for_each(|place| self.index.push(place));
        self.buffer.extend_from_slice(batch.bytes());
        if self.buffer.len() >= WRITE_BYTES {
            self.write().map_err(failed("writing", &self.path))?;
        }
        Ok(())
    }

    /// Adds a transaction that the batch that was added last aborts, or would.
    pub(super) fn abort(&mut self, aborted: AbortedTransaction) {
        self.aborted.push(aborted);
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&[&self.buffer], self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        match self.index.wants_flush() {
            true => self.index.flush(self.disk.as_ref()),
            false => Ok(()),
        }
    }

    /// Makes all of it durable but for its name. It must have come to `end`: the next segment joins there. If there were
    /// files of aborted transactions, there will be one: the snapshot of producers may name it.
    pub(super) fn finish(&mut self, end: Offset, has_aborted: bool) -> Result<(), UpkeepError> {
        assert_eq!(self.next, end, "a segment keeps its last offset");
        let written = self.write().and_then(|()| match planted::is(Bug::SwapWithoutSync) {
            true => Ok(()),
            false => self.file.sync_data(),
        });
        let sealed = written.and_then(|()| self.index.seal(self.disk.as_ref())).and_then(|()| {
            match has_aborted || !self.aborted.is_empty() {
                true => self.aborted.seal(self.disk.as_ref()),
                false => Ok(()),
            }
        });
        sealed.map_err(failed("writing", &self.path))
    }

    /// Removes what was written.
    pub(super) fn discard(self) {
        for path in [&self.aborted_path, &self.index_path, &self.path] {
            remove(self.disk.as_ref(), path);
        }
    }
}

/// Removes a file that may be there. What remains is removed at the next start.
fn remove(disk: &dyn Disk, path: &Path) {
    match disk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(file = %path.display(), %error, "a file that is not needed remains");
        }
        _ => {}
    }
}

/// Lets `rewrite`, which is finished, take the place of `group`; `false` if that is no longer there as it was.
pub(super) fn swap(
    log: &PartitionLog,
    group: &[Arc<Segment>],
    end: Offset,
    rewrite: Rewrite,
) -> Result<bool, UpkeepError> {
    let shared = &log.shared;
    let _layout = shared.layout.lock();
    let is_there = shared.check_upkeep().map(|()| {
        let segments = shared.segments.read();
        let at = segments.partition_point(|segment| segment.base < group[0].base);
        let found = segments[at..].iter().zip(group).filter(|(found, old)| Arc::ptr_eq(found, old));
        found.count() == group.len()
    });
    if !matches!(is_there, Ok(true)) {
        // Retention was faster, or the partition has ended.
        rewrite.discard();
        return is_there;
    }
    if let Err(error) = SWAP.write(rewrite.disk.as_ref(), &shared.directory, [rewrite.base, end]) {
        rewrite.discard();
        return Err(failed("writing", &SWAP.path(&shared.directory))(error));
    }
    group.iter().for_each(|old| old.retire());
    let Rewrite { disk, directory, base, path, file, written, index, aborted, .. } = rewrite;
    let (clean_index, clean_aborted) = (rewrite.index_path, rewrite.aborted_path);
    let renamed = disk.rename(&path, &segment_path(&directory, base));
    if let Err(error) = renamed {
        for path in [&clean_aborted, &clean_index, &path] {
            remove(disk.as_ref(), path);
        }
        return Err(failed("renaming", &path)(error));
    }
    let synced =
        disk.rename(&clean_index, &index_path(&directory, base)).and_then(|()| match aborted.is_empty() {
            true => Ok(()),
            false => disk.rename(&clean_aborted, &aborted_path(&directory, base)),
        });
    let synced = synced.and_then(|()| disk.sync_dir(&directory));
    let segment = Arc::new(Segment::renamed(&disk, &directory, base, end, file, written, (index, aborted)));
    if let Err(error) = synced {
        // Which of the two logs is on the disk is not known, and nothing may be built on either.
        let fault = segment.fault(0, FaultCause::SyncFailed(Arc::new(error)));
        shared.stop(&fault);
        return Err(UpkeepError::Stopped(fault));
    }
    let mut segments = shared.segments.write();
    let at = segments.partition_point(|segment| segment.base < base);
    segments.splice(at..at + group.len(), [segment]);
    drop(segments);
    let removed = group[1..].iter().try_for_each(|old| remove_segment(disk.as_ref(), &directory, old.base));
    // Before it is forgotten what they were, they must be gone for good.
    let forgotten = removed
        .and_then(|()| disk.sync_dir(&directory))
        .and_then(|()| disk.remove_file(&SWAP.path(&directory)));
    if let Err(error) = forgotten {
        tracing::warn!(partition = %shared.id, %error, "segments that were replaced remain until the next pass or start");
    }
    Ok(true)
}

/// Finishes what an earlier swap could not: before the next one begins, no segment may be left over that only the mark of
/// the earlier one explains.
pub(super) fn finish_last(log: &PartitionLog) -> Result<(), UpkeepError> {
    let (disk, directory) = (log.store.disk().as_ref(), log.shared.directory.as_path());
    let _layout = log.shared.layout.lock();
    log.shared.check_upkeep()?;
    let swap = SWAP.path(directory);
    let finish = || match disk.exists(&swap)? {
        false => Ok(Ok(())),
        true => match Layout::of(disk, directory)? {
            Ok(layout) => layout.finish(disk, directory).map(Ok),
            Err(fault) => Ok(Err(fault)),
        },
    };
    finish().map_err(failed("finishing", &swap))?.map_err(|fault| {
        log.shared.stop(&fault);
        UpkeepError::Stopped(fault)
    })
}
