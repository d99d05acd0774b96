//! What a crash left in the journal, and how the next start brings it to the segments.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::planted::{self, Bug};
use anabranch_core::seam::{Disk, DiskFile, Open};
use anabranch_core::{Offset, TopicPartition};

use super::entry::{EntryHeader, FileHeader, Item, Run, SECTOR_BYTES, decode_head};
use super::{JOURNAL, discard, file_number};
use crate::durable::{DurableNote, DurablePoint};
use crate::segment::{Listing, segment_path};
use crate::store::{failed, partition_directory};
use crate::{Fault, FaultCause, OpenError};

/// What the journal tells of the partitions, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    files: Vec<PathBuf>,
    runs: BTreeMap<TopicPartition, Vec<Found>>,
}

/// A run, and where its bytes stand.
#[derive(Debug, Clone)]
struct Found {
    run: Run,
    /// Which of the files.
    file: usize,
    /// Where in it.
    at: u64,
    /// The bytes are what they were.
    whole: bool,
}

/// An entry that was read.
struct Entry {
    header: EntryHeader,
    items: Vec<Item>,
    file: usize,
    at: u64,
    /// For each run, in order: whether its bytes are what they were.
    whole: Vec<bool>,
}

/// Brings what the journal holds to the segments, durably, and removes it.
pub(crate) fn recover(disk: &dyn Disk, root: &Path) -> Result<(), OpenError> {
    let plan = Plan::read(disk, root)?;
    for (partition, found) in plan.runs.iter().filter(|_| !planted::is(Bug::JournalNotReplayed)) {
        let directory = partition_directory(root, partition);
        plan.redo(disk, &directory, found).map_err(failed("bring the journal's records to", &directory))?;
    }
    let journal = root.join(JOURNAL);
    discard(disk, root).map_err(failed("remove", &journal))
}

impl Plan {
    /// Reads the journal, and changes nothing.
    ///
    /// # Errors
    /// [`OpenError::Io`], and [`OpenError::JournalDamaged`] when an entry that is needed is not there.
    pub(crate) fn read(disk: &dyn Disk, root: &Path) -> Result<Self, OpenError> {
        let directory = root.join(JOURNAL);
        let mut plan = Self::default();
        if !disk.exists(&directory).map_err(failed("look for", &directory))? {
            return Ok(plan);
        }
        let mut entries = Vec::new();
        for listed in disk.list(&directory).map_err(failed("list", &directory))? {
            if file_number(&listed.name).is_none() {
                continue;
            }
            let path = directory.join(&listed.name);
            let bytes = disk.read(&path).map_err(failed("read", &path))?;
            read_entries(&bytes, plan.files.len(), &mut entries);
            plan.files.push(path);
        }
        entries.sort_by_key(|entry| entry.header.sequence);
        plan.take(entries).map_err(OpenError::JournalDamaged)?;
        Ok(plan)
    }

    fn take(&mut self, mut entries: Vec<Entry>) -> Result<(), Fault> {
        let Some(newest) = entries.last().map(|entry| entry.header) else { return Ok(()) };
        entries.retain(|entry| entry.header.sequence >= newest.oldest);
        // The newest may be torn: then it was never acknowledged.
        entries.pop_if(|entry| entry.whole.contains(&false) && !planted::is(Bug::TornEntryReplayed));
        let mut before = None;
        for (expected, entry) in (newest.oldest..).zip(&entries) {
            if entry.header.sequence != expected {
                let (file, position) = before.unwrap_or((entry.file, SECTOR_BYTES));
                let cause = FaultCause::EntriesMissing { from: expected, to: entry.header.sequence };
                return Err(Fault { file: self.files[file].clone(), position, cause });
            }
            before = Some((entry.file, entry.at + u64::from(entry.header.len_bytes)));
        }
        for entry in entries {
            self.take_entry(entry);
        }
        Ok(())
    }

    fn take_entry(&mut self, entry: Entry) {
        let mut at = entry.at + u64::from(entry.header.head_bytes);
        let mut whole = entry.whole.into_iter();
        for item in entry.items {
            match item {
                Item::Run(run) => {
                    let len = u64::from(run.len_bytes);
                    let partition = TopicPartition::new(run.topic.clone(), run.partition);
                    let whole = whole.next().expect("each run was checked");
                    self.runs.entry(partition).or_default().push(Found { run, file: entry.file, at, whole });
                    at += len;
                }
                Item::Forgotten(topic) => self.runs.retain(|partition, _| partition.topic != topic),
            }
        }
    }

    /// The durable point of a partition: the one that was noted, or the one that the journal tells if it is later.
    pub(crate) fn durable_point(
        &self,
        partition: &TopicPartition,
        noted: Option<DurablePoint>,
    ) -> Option<DurablePoint> {
        let last = self.runs.get(partition).and_then(|found| found.last());
        noted.max(last.map(|found| found.run.end()))
    }

    /// The segment that a partition's last run is of.
    #[cfg(feature = "fuzz")]
    pub(crate) fn last_segment(&self, partition: &TopicPartition) -> Option<Offset> {
        Some(self.runs.get(partition)?.last()?.run.segment)
    }

    /// A segment as it is after [`recover`].
    pub(crate) fn redone(
        &self,
        disk: &dyn Disk,
        partition: &TopicPartition,
        segment: Offset,
        file: Arc<dyn DiskFile>,
    ) -> io::Result<Arc<dyn DiskFile>> {
        let of_segment = |found: &&Found| found.run.segment == segment && found.whole;
        let found: Vec<&Found> = self.runs.get(partition).into_iter().flatten().filter(of_segment).collect();
        if found.is_empty() {
            return Ok(file);
        }
        let mut runs = Vec::new();
        let mut len = file.len()?;
        for found in found {
            if found.run.position <= len {
                runs.push((found.run.position, self.bytes(disk, found)?));
                len = len.max(found.run.end().bytes);
            }
        }
        Ok(Arc::new(Redone { file, runs, len }))
    }

    /// Writes a partition's runs to its last segment, and notes the point that they reach.
    fn redo(&self, disk: &dyn Disk, directory: &Path, found: &[Found]) -> io::Result<()> {
        let end = found.last().expect("a partition in the plan has a run").run.end();
        if !disk.exists(directory)? {
            return Ok(()); // whoever knows the topic tells that it is missing
        }
        let listing = Listing::of(disk, directory)?;
        let last = listing.segments.last().copied();
        if last == Some(end.segment) {
            let file = disk.open(&segment_path(directory, end.segment), Open::ReadWrite)?;
            for found in found.iter().filter(|found| found.run.segment == end.segment) {
                self.redo_run(disk, file.as_ref(), found)?;
            }
            file.sync_data()?;
        }
        // With a successor, the segment was synced before that was begun. Without the segment, the note tells that it is
        // missing.
        let noted = DurablePoint::read(disk, directory)?;
        if last.is_none_or(|last| last <= end.segment) && noted.is_none_or(|noted| noted < end) {
            DurableNote::new(directory).write_durably(disk, end)?;
        }
        Ok(())
    }

    fn redo_run(&self, disk: &dyn Disk, file: &dyn DiskFile, found: &Found) -> io::Result<()> {
        let run = &found.run;
        if !found.whole && !planted::is(Bug::TornEntryReplayed) {
            // What the segment holds may be right; if not, recovery finds it below the durable point.
            tracing::error!(
                file = %self.files[found.file].display(), position = found.at, topic = run.topic, partition = run.partition,
                "the journal is damaged here"
            );
            return Ok(());
        }
        // A hole before the run is damage, and is not to be filled up with zeros.
        if file.len()? < run.position {
            return Ok(());
        }
        file.write_all_at(&[&self.bytes(disk, found)?], run.position)
    }

    fn bytes(&self, disk: &dyn Disk, found: &Found) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; found.run.len_bytes as usize];
        disk.open(&self.files[found.file], Open::Read)?.read_exact_at(&mut bytes, found.at)?;
        Ok(bytes)
    }
}

impl Run {
    /// The point that it reaches.
    fn end(&self) -> DurablePoint {
        let bytes = self.position + u64::from(self.len_bytes);
        DurablePoint { segment: self.segment, bytes, next: self.next }
    }
}

/// Finds the entries in a file's bytes. Where there is none, the next may begin at any later sector: what is damaged, and
/// what is left of older entries, is passed over.
fn read_entries(bytes: &[u8], file: usize, entries: &mut Vec<Entry>) {
    // A file that was not finished has no header, and no entries.
    let Some(FileHeader { key, .. }) = FileHeader::decode(bytes) else { return };
    let mut at = SECTOR_BYTES as usize;
    while at < bytes.len() {
        let Some((header, items)) = decode_head(key, &bytes[at..]) else {
            at += SECTOR_BYTES as usize;
            continue;
        };
        let mut payload = &bytes[at + header.head_bytes as usize..at + header.len_bytes as usize];
        let runs = items.iter().filter_map(|item| match item {
            Item::Run(run) => Some(run),
            Item::Forgotten(_) => None,
        });
        let is_whole = |run: &Run| {
            let bytes = payload.split_off(..run.len_bytes as usize);
            bytes.is_some_and(|bytes| crc32c::crc32c(bytes) == run.crc)
        };
        let whole = runs.map(is_whole).collect();
        entries.push(Entry { header, items, file, at: at as u64, whole });
        at += header.len_bytes as usize;
    }
}

/// A segment with what the journal holds of it.
#[derive(Debug)]
struct Redone {
    file: Arc<dyn DiskFile>,
    /// By position, oldest first.
    runs: Vec<(u64, Vec<u8>)>,
    len: u64,
}

impl DiskFile for Redone {
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        let end = position + into.len() as u64;
        if end > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let there = self.file.len()?.saturating_sub(position).min(into.len() as u64) as usize;
        self.file.read_exact_at(&mut into[..there], position)?;
        for (start, bytes) in &self.runs {
            let (from, to) = (position.max(*start), end.min(start + bytes.len() as u64));
            if from < to {
                into[(from - position) as usize..(to - position) as usize]
                    .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
            }
        }
        Ok(())
    }

    fn write_all_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}
