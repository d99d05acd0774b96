//! The files of a data directory, read one by one as they stand: what is in them, and where they are damaged.
//!
//! Nothing is changed, no lock is taken, and nothing is assumed of other files. What is damaged is told with its place, and
//! reading goes on after it where that is possible. Whether the damaged end of a segment is damage or a torn tail is not
//! seen in the file; [`crate::Offline`] tells that.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::batch::{BATCH_HEADER_BYTES, Batch, BatchHeader, check_batch};
use anabranch_core::seam::{Disk, DiskFile, Open};
use anabranch_core::{Offset, ProducerEpoch, ProducerId, TopicPartition};

use crate::FaultCause;
use crate::aborted;
use crate::durable::{self, DurablePoint};
use crate::entries::read_entries;
use crate::index::{ENTRY_BYTES, Place};
use crate::journal::entry::{FileHeader, Item, SECTOR_BYTES, decode_head};
use crate::journal::file_number;
use crate::marks::{CLEANED, Mark, START, SWAP};
use crate::producers::{AbortedTransaction, Snapshot};
use crate::segment::{SCAN_WINDOW_BYTES, Scan, ScanError, named_offset, segment_path};
use crate::spare;
use crate::store::FORMAT;

/// What a file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The version of the data directory.
    Format,
    /// Batches, from this offset on.
    Segment(Offset),
    /// The index of the segment that begins at this offset.
    Index(Offset),
    /// The aborted transactions whose markers are in the segment that begins at this offset.
    Aborted(Offset),
    /// The state of producers up to this offset.
    Snapshot(Offset),
    /// How far the partition is durable in its segments.
    Durable,
    /// Where the log starts.
    Start,
    /// How far the log is compacted.
    Cleaned,
    /// Which segments are being replaced.
    Swap,
    /// A file of the journal, and its number.
    Journal(u64),
    /// Space that is set aside.
    Spare,
}

impl FileKind {
    /// What the file at `path` is; `None` if its name is none of ours.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        match name {
            FORMAT => return Some(Self::Format),
            durable::FILE => return Some(Self::Durable),
            _ if name == START.name() => return Some(Self::Start),
            _ if name == CLEANED.name() => return Some(Self::Cleaned),
            _ if name == SWAP.name() => return Some(Self::Swap),
            _ => {}
        }
        if path.extension().is_some_and(|extension| extension == spare::EXTENSION) {
            return Some(Self::Spare);
        }
        if let Some(number) = file_number(name) {
            return Some(Self::Journal(number));
        }
        let (offset, extension) = named_offset(name)?;
        match extension {
            "log" => Some(Self::Segment(offset)),
            "index" => Some(Self::Index(offset)),
            "aborted" => Some(Self::Aborted(offset)),
            "snapshot" => Some(Self::Snapshot(offset)),
            _ => None,
        }
    }
}

/// Something that stands in a file.
#[derive(Debug, Clone)]
pub enum DumpItem {
    /// In the format file.
    Format(String),
    /// In a segment: a batch that is whole and right, and where.
    Batch(u64, Batch),
    /// In an index.
    IndexEntry {
        /// Offset of a batch.
        offset: Offset,
        /// Where in the segment it begins.
        position: u64,
        /// The largest timestamp of the batches before it, ms.
        max_before_ms: i64,
    },
    /// In a file of aborted transactions.
    Aborted {
        /// Whose.
        producer: ProducerId,
        /// Where it begins.
        first: Offset,
        /// Where its marker is.
        last: Offset,
        /// The last stable offset after that.
        stable: Offset,
    },
    /// The last entry of such a file of a complete segment: how many there are before.
    AbortedCount(u64),
    /// In a snapshot.
    Producer(ProducerState),
    /// In the note of the durable point.
    DurablePoint {
        /// The segment that was being written; older ones are durable.
        segment: Offset,
        /// Bytes of it that are.
        bytes: u64,
        /// After the last durable record.
        next: Offset,
    },
    /// In the note of the log's start: everything below is deleted.
    Start(Offset),
    /// In the note of compaction: everything below is compacted.
    Cleaned(Offset),
    /// In the note of a swap.
    Swap {
        /// The segment that is being replaced.
        base: Offset,
        /// What its successor reaches.
        end: Offset,
    },
    /// What a file of the journal says of itself.
    JournalFile {
        /// Its number.
        number: u64,
        /// What its entries must know.
        key: u64,
    },
    /// In a file of the journal: what one group made durable.
    JournalEntry {
        /// Where it begins.
        position: u64,
        /// Its number.
        sequence: u64,
        /// The oldest entry that was still needed when it was written.
        oldest: u64,
        /// Bytes of it.
        len_bytes: u32,
        /// What it holds, in order.
        items: Vec<JournalItem>,
    },
    /// Damage.
    Damage {
        /// Where.
        position: u64,
        /// How much cannot be read because of it.
        bytes: u64,
        /// What is wrong.
        cause: DumpCause,
    },
}

/// A producer as a snapshot remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerState {
    /// Who.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// When it wrote last; the broker's clock, ms.
    pub last_time_ms: i64,
    /// Of the coordinator that ended its last transaction.
    pub coordinator_epoch: Option<i32>,
    /// Where its open transaction begins.
    pub open: Option<Offset>,
    /// Its last batches: first and last sequence number, first and last offset.
    pub batches: Vec<(i32, i32, Offset, Offset)>,
}

/// One thing that a journal entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalItem {
    /// Bytes of a segment.
    Run {
        /// Of which partition.
        partition: TopicPartition,
        /// Of which segment.
        segment: Offset,
        /// Where in it.
        position: u64,
        /// The partition's next offset after these bytes.
        next: Offset,
        /// How many bytes.
        len_bytes: u32,
        /// Whether they are what they were.
        whole: bool,
    },
    /// The topic was deleted: what older entries hold of it counts no more.
    Forgotten(String),
}

/// What is wrong with bytes of a file.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DumpCause {
    /// With those of a segment.
    #[error(transparent)]
    Segment(#[from] FaultCause),
    /// They are not what was written.
    #[error("the checksum does not match")]
    Checksum,
    /// An entry of an index.
    #[error("the entry is not after the one before it")]
    NotInOrder,
    /// An entry of an index.
    #[error("no batch of offset {offset} begins at byte {position} of the segment")]
    NoBatch {
        /// The entry's offset.
        offset: Offset,
        /// The entry's place.
        position: u64,
    },
    /// An entry of an index.
    #[error("the largest timestamp before it is {found}")]
    WrongTime {
        /// What the segment has.
        found: i64,
    },
    /// The end of a file of entries that all have one size.
    #[error("they are less than an entry")]
    LessThanAnEntry,
}

/// Gives everything that stands in the file at `path` to `each`, in order, until that fails. What the file is; `None` if
/// its name is none of ours, and nothing was read.
///
/// # Errors
/// What `each` says, or that the file cannot be read at all.
pub fn dump<E: From<io::Error>>(
    disk: &dyn Disk,
    path: &Path,
    mut each: impl FnMut(DumpItem) -> Result<(), E>,
) -> Result<Option<FileKind>, E> {
    let Some(kind) = FileKind::of(path) else { return Ok(None) };
    match kind {
        FileKind::Format => {
            let text = disk.read(path)?;
            each(DumpItem::Format(String::from_utf8_lossy(&text).into_owned()))?;
        }
        FileKind::Segment(base) => dump_segment(disk, path, base, &mut each)?,
        FileKind::Index(base) => dump_index(disk, path, base, &mut each)?,
        FileKind::Aborted(base) => dump_aborted(disk, path, base, &mut each)?,
        FileKind::Snapshot(offset) => {
            let bytes = disk.read(path)?;
            match Snapshot::decode(offset, &bytes) {
                Some(Snapshot { producers, .. }) => {
                    producers.states().into_iter().try_for_each(|state| each(DumpItem::Producer(state)))?;
                }
                None => each(whole_file_damaged(&bytes))?,
            }
        }
        FileKind::Durable => {
            let bytes = disk.read(path)?;
            each(match DurablePoint::decode(&bytes) {
                Some(DurablePoint { segment, bytes, next }) => {
                    DumpItem::DurablePoint { segment, bytes, next }
                }
                None => whole_file_damaged(&bytes),
            })?;
        }
        FileKind::Start => dump_mark(START, disk, path, |[start]| DumpItem::Start(start), &mut each)?,
        FileKind::Cleaned => {
            dump_mark(CLEANED, disk, path, |[cleaned]| DumpItem::Cleaned(cleaned), &mut each)?;
        }
        FileKind::Swap => {
            dump_mark(SWAP, disk, path, |[base, end]| DumpItem::Swap { base, end }, &mut each)?;
        }
        FileKind::Journal(_) => dump_journal(&disk.read(path)?, &mut each)?,
        // What it was last used for, if anything, means nothing.
        FileKind::Spare => {}
    }
    Ok(Some(kind))
}

fn dump_mark<const OFFSETS: usize, E: From<io::Error>>(
    mark: Mark<OFFSETS>,
    disk: &dyn Disk,
    path: &Path,
    item: impl FnOnce([Offset; OFFSETS]) -> DumpItem,
    each: &mut impl FnMut(DumpItem) -> Result<(), E>,
) -> Result<(), E> {
    let bytes = disk.read(path)?;
    each(mark.decode(&bytes).map_or_else(|| whole_file_damaged(&bytes), item))
}

fn whole_file_damaged(bytes: &[u8]) -> DumpItem {
    DumpItem::Damage { position: 0, bytes: bytes.len() as u64, cause: DumpCause::Checksum }
}

fn dump_segment<E: From<io::Error>>(
    disk: &dyn Disk,
    path: &Path,
    base: Offset,
    each: &mut impl FnMut(DumpItem) -> Result<(), E>,
) -> Result<(), E> {
    let file: Arc<dyn DiskFile> = disk.open(path, Open::Read)?;
    let len = file.len()?;
    let (mut at, mut next) = (0, base);
    while at < len {
        let mut scan = Scan::new(file.as_ref(), at, len, SCAN_WINDOW_BYTES).after(next);
        let (position, cause) = loop {
            match scan.next_batch() {
                Ok(None) => return Ok(()),
                Ok(Some((position, batch))) => {
                    next = batch.header().next_offset();
                    each(DumpItem::Batch(position, batch))?;
                }
                Err(ScanError::Damaged(position, cause)) => break (position, cause),
                Err(ScanError::Io(position, error)) => {
                    break (position, FaultCause::Io { action: "reading", error: Arc::new(error) });
                }
            }
        };
        let is_unreadable = matches!(cause, FaultCause::Io { .. });
        at = if is_unreadable { len } else { next_batch(file.as_ref(), position, len, next)? };
        each(DumpItem::Damage { position, bytes: at - position, cause: cause.into() })?;
    }
    Ok(())
}

/// Where the first right batch begins after the damaged one at `position`; the end if there is none. Offsets that lie
/// before `next` are not believed.
fn next_batch(file: &dyn DiskFile, position: u64, len: u64, next: Offset) -> io::Result<u64> {
    let is_right = |at: u64, header: &BatchHeader| -> io::Result<bool> {
        if header.base_offset < next || header.len_bytes as u64 > len - at {
            return Ok(false);
        }
        let mut bytes = vec![0; header.len_bytes];
        file.read_exact_at(&mut bytes, at)?;
        Ok(check_batch(&bytes.into()).is_ok())
    };
    let header_at = |at: u64| -> io::Result<Option<BatchHeader>> {
        let mut head = [0; BATCH_HEADER_BYTES];
        if len.saturating_sub(at) < head.len() as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut head, at)?;
        Ok(BatchHeader::parse(&head).ok())
    };
    // Its length may be right though something else is not; records may hold whole batches, which are none of this file's.
    if let Some(damaged) = header_at(position)? {
        let after = position + damaged.len_bytes as u64;
        let follows = match header_at(after)? {
            Some(header) => header.base_offset == damaged.next_offset() && is_right(after, &header)?,
            None => after == len,
        };
        if follows {
            return Ok(after);
        }
    }
    let mut at = position + 1;
    while at + BATCH_HEADER_BYTES as u64 <= len {
        let mut window = vec![0; SCAN_WINDOW_BYTES.min(usize::try_from(len - at).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut window, at)?;
        for (offset, head) in window.windows(BATCH_HEADER_BYTES).enumerate() {
            if let Ok(header) = BatchHeader::parse(head)
                && is_right(at + offset as u64, &header)?
            {
                return Ok(at + offset as u64);
            }
        }
        at += (window.len() - BATCH_HEADER_BYTES + 1) as u64;
    }
    Ok(len)
}

/// Each entry is compared with the segment, as far as that is there and can be read.
fn dump_index<E: From<io::Error>>(
    disk: &dyn Disk,
    path: &Path,
    base: Offset,
    each: &mut impl FnMut(DumpItem) -> Result<(), E>,
) -> Result<(), E> {
    let segment = segment_path(path.parent().unwrap_or(Path::new("")), base);
    let segment = match disk.exists(&segment)? {
        true => Some(disk.open(&segment, Open::Read)?),
        false => None,
    };
    let mut walk = match &segment {
        Some(file) => Some(Scan::new(file.as_ref(), 0, file.len()?, SCAN_WINDOW_BYTES)),
        None => None,
    };
    let mut max_before_ms = Place::start(base).max_before_ms;
    let mut before = Place::start(base);
    let entry_bytes = ENTRY_BYTES as u64;
    for (number, entry) in read_entries::<Place, _>(disk, path, base)?.into_iter().enumerate() {
        let damage =
            |cause| DumpItem::Damage { position: number as u64 * entry_bytes, bytes: entry_bytes, cause };
        let Some(place) = entry else {
            each(damage(DumpCause::Checksum))?;
            continue;
        };
        if place.position <= before.position || place.offset <= before.offset {
            each(damage(DumpCause::NotInOrder))?;
            continue;
        }
        before = place;
        let Place { offset, position, max_before_ms: time } = place;
        // Where the segment cannot be read on nothing is known.
        let verdict = loop {
            let Some(scan) = walk.as_mut().filter(|scan| scan.position() <= position) else { break None };
            let there = scan.position();
            match scan.next_header() {
                Ok(Some((_, header))) if there == position => {
                    let wrong = match header.base_offset == offset {
                        false => Some(DumpCause::NoBatch { offset, position }),
                        true if time != max_before_ms => Some(DumpCause::WrongTime { found: max_before_ms }),
                        true => None,
                    };
                    max_before_ms = max_before_ms.max(header.max_timestamp_ms);
                    break wrong;
                }
                Ok(Some((_, header))) => {
                    max_before_ms = max_before_ms.max(header.max_timestamp_ms);
                    if scan.position() > position {
                        break Some(DumpCause::NoBatch { offset, position });
                    }
                }
                Ok(None) => break Some(DumpCause::NoBatch { offset, position }),
                Err(_) => walk = None,
            }
        };
        each(match verdict {
            Some(cause) => damage(cause),
            None => DumpItem::IndexEntry { offset, position, max_before_ms: time },
        })?;
    }
    dump_rest(disk, path, entry_bytes, each)
}

/// What is left of a file after all whole entries.
fn dump_rest<E: From<io::Error>>(
    disk: &dyn Disk,
    path: &Path,
    entry_bytes: u64,
    each: &mut impl FnMut(DumpItem) -> Result<(), E>,
) -> Result<(), E> {
    let len = disk.open(path, Open::Read)?.len()?;
    let left = len % entry_bytes;
    match left {
        0 => Ok(()),
        bytes => each(DumpItem::Damage { position: len - left, bytes, cause: DumpCause::LessThanAnEntry }),
    }
}

fn dump_aborted<E: From<io::Error>>(
    disk: &dyn Disk,
    path: &Path,
    base: Offset,
    each: &mut impl FnMut(DumpItem) -> Result<(), E>,
) -> Result<(), E> {
    let entry_bytes = aborted::ENTRY_BYTES as u64;
    let mut before = None;
    for (number, entry) in read_entries(disk, path, base)?.into_iter().enumerate() {
        let number = number as u64;
        let damage = |cause| DumpItem::Damage { position: number * entry_bytes, bytes: entry_bytes, cause };
        each(match entry {
            None => damage(DumpCause::Checksum),
            Some(entry) if before >= Some(entry.last) => damage(DumpCause::NotInOrder),
            Some(entry) if entry.is_end() => DumpItem::AbortedCount(entry.first.0.unsigned_abs()),
            Some(AbortedTransaction { producer, first, last, stable }) => {
                before = Some(last);
                DumpItem::Aborted { producer, first, last, stable }
            }
        })?;
    }
    dump_rest(disk, path, entry_bytes, each)
}

fn dump_journal<E>(bytes: &[u8], each: &mut impl FnMut(DumpItem) -> Result<(), E>) -> Result<(), E> {
    let Some(FileHeader { number, key }) = FileHeader::decode(bytes) else {
        return each(whole_file_damaged(bytes));
    };
    each(DumpItem::JournalFile { number, key })?;
    let mut at = SECTOR_BYTES as usize;
    while at < bytes.len() {
        // What is neither an entry nor zeros is what an older use of the file left, or damage: the entries' numbers tell.
        let Some((header, items)) = decode_head(key, &bytes[at..]) else {
            at += SECTOR_BYTES as usize;
            continue;
        };
        let mut payload = &bytes[at + header.head_bytes as usize..at + header.len_bytes as usize];
        let item = |item| match item {
            Item::Forgotten(topic) => JournalItem::Forgotten(topic),
            Item::Run(run) => {
                let written = payload.split_off(..run.len_bytes as usize);
                JournalItem::Run {
                    partition: TopicPartition::new(run.topic, run.partition),
                    segment: run.segment,
                    position: run.position,
                    next: run.next,
                    len_bytes: run.len_bytes,
                    whole: written.is_some_and(|bytes| crc32c::crc32c(bytes) == run.crc),
                }
            }
        };
        let items: Vec<JournalItem> = items.into_iter().map(item).collect();
        let (sequence, oldest, len_bytes) = (header.sequence, header.oldest, header.len_bytes);
        each(DumpItem::JournalEntry { position: at as u64, sequence, oldest, len_bytes, items })?;
        at += header.len_bytes as usize;
    }
    Ok(())
}
