//! The journal's files as the writer uses them: one that is written, full ones that wait for the flusher, and free ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::planted::{self, Bug};
use anabranch_core::seam::DiskFile;

use super::entry::{FileHeader, Item, Run, SECTOR_BYTES, encode_head, entry_bytes};
use crate::durable::DurablePoint;
use crate::flusher::{Job, Jobs};
use crate::partition::Shared;
use crate::segment::Segment;
use crate::{Fault, FaultCause};

/// Files at most; each is made when it is needed. One is written and one flushed; the others are for a disk that falls
/// behind. They are small, since the writer's syncs wait while a file's worth of segments is written out.
const FILES_MAX: u64 = 16;
/// At the end of a file, for the entry that tells that others are free.
const RESERVE_BYTES: u64 = SECTOR_BYTES;
/// After a file could not be made (the disk is full, perhaps) the next attempt waits so long.
const RETRY: Duration = Duration::from_secs(10);
/// Fills an entry's last sector.
const ZEROS: [u8; SECTOR_BYTES as usize] = [0; SECTOR_BYTES as usize];

/// A file, filled with zeros but for its header, and durable.
#[derive(Debug)]
pub(crate) struct JournalFile {
    pub(crate) header: FileHeader,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) len_bytes: u64,
}

/// A segment that a journal file holds bytes of: to be synced to `point` at least before that file is used again.
#[derive(Debug)]
pub(crate) struct Dirty {
    pub(crate) shared: Arc<Shared>,
    pub(crate) segment: Arc<Segment>,
    pub(crate) point: DurablePoint,
}

impl Dirty {
    /// Whether the segment itself holds it durably.
    pub(crate) fn is_settled(&self) -> bool {
        self.segment.synced() >= self.point.bytes
    }
}

/// A file with entries in it.
#[derive(Debug)]
struct Used {
    file: JournalFile,
    /// Sequence of its first entry.
    first: u64,
    /// Where the next entry goes.
    at: u64,
    dirty: BTreeMap<u64, Dirty>,
    topics: BTreeSet<String>,
}

/// A full file, with the flusher.
#[derive(Debug)]
struct Full {
    file: JournalFile,
    first: u64,
    last: u64,
    dirty: Arc<Vec<Dirty>>,
    topics: BTreeSet<String>,
    flushed: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ring {
    /// The size of a file; 0 means that there is no journal.
    file_bytes: u64,
    active: Option<Used>,
    /// Oldest first.
    full: VecDeque<Full>,
    /// Free files, with the sequence of the last entry in them; they may be overwritten when that is not needed, durably.
    free: VecDeque<(Option<u64>, JournalFile)>,
    /// Files made so far.
    made: u64,
    making: bool,
    make_after: Duration,
    next_sequence: u64,
    /// The oldest needed entry, as the last durable entry tells it.
    announced: u64,
    /// `None` once the flusher has stopped, or nothing more must be written to the journal.
    jobs: Option<Jobs>,
    /// A file cannot be flushed: a partition in it has stopped.
    stuck: bool,
}

/// What one sync is to make durable.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    items: Vec<Item>,
    parts: Vec<&'a [u8]>,
    item_bytes: usize,
    payload_bytes: usize,
    room_bytes: u64,
    dirty: Vec<(u64, Dirty)>,
}

impl<'a> Group<'a> {
    /// Takes what a partition wrote to one segment; `false` when there is no room for it.
    pub(crate) fn add(&mut self, number: u64, dirty: Dirty, position: u64, parts: &[&'a [u8]]) -> bool {
        let id = &dirty.shared.id;
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let item_bytes = self.item_bytes + Item::run_bytes(&id.topic);
        if entry_bytes(item_bytes, self.payload_bytes + len) > self.room_bytes {
            return false;
        }
        self.item_bytes = item_bytes;
        self.payload_bytes += len;
        self.items.push(Item::Run(Run {
            topic: id.topic.clone(),
            partition: id.partition,
            segment: dirty.segment.base,
            position,
            next: dirty.point.next,
            len_bytes: u32::try_from(len).expect("a group is smaller than a journal file"),
            crc: parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part)),
        }));
        self.parts.extend(parts);
        self.dirty.push((number, dirty));
        true
    }

    /// Takes the news that a topic is deleted; `false` when there is no room for it.
    pub(crate) fn forget(&mut self, topic: &str) -> bool {
        let item_bytes = self.item_bytes + Item::forgotten_bytes(topic);
        let fits = entry_bytes(item_bytes, self.payload_bytes) <= self.room_bytes;
        if fits {
            self.item_bytes = item_bytes;
            self.items.push(Item::Forgotten(topic.to_owned()));
        }
        fits
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether an empty group takes runs with so many bytes of items and payload.
    pub(crate) fn has_room(&self, item_bytes: usize, payload_bytes: usize) -> bool {
        entry_bytes(item_bytes, payload_bytes) <= self.room_bytes
    }
}

impl Ring {
    pub(crate) fn new(file_bytes: u64, jobs: Jobs) -> Self {
        Self {
            file_bytes,
            active: None,
            full: VecDeque::new(),
            free: VecDeque::new(),
            made: 0,
            making: false,
            make_after: Duration::ZERO,
            next_sequence: 1,
            announced: 1,
            jobs: Some(jobs),
            stuck: false,
        }
    }

    /// An empty group with room for `wanted_bytes` of payload, or for as much as there is.
    ///
    /// # Errors
    /// [`Fault`] when a file could not be written or synced: nothing more must be written to the journal.
    pub(crate) fn group<'a>(&mut self, wanted_bytes: usize, now: Duration) -> Result<Group<'a>, Fault> {
        // Items are much smaller than payloads; if they are not, some wait for the next group or do without.
        let wanted = entry_bytes(wanted_bytes / 8, wanted_bytes);
        if self.room_bytes() < wanted && self.file_bytes > 0 && self.jobs.is_some() {
            self.next_file(now)?;
        }
        Ok(Group {
            items: Vec::new(),
            parts: Vec::new(),
            item_bytes: 0,
            payload_bytes: 0,
            room_bytes: self.room_bytes(),
            dirty: Vec::new(),
        })
    }

    fn room_bytes(&self) -> u64 {
        let active = self.active.as_ref().filter(|_| self.jobs.is_some());
        active.map_or(0, |active| active.file.len_bytes - RESERVE_BYTES - active.at)
    }

    /// Goes on in a free file if there is one; the one that was written is full then.
    fn next_file(&mut self, now: Duration) -> Result<(), Fault> {
        let fresh = self.active.as_ref().is_some_and(|active| active.at == SECTOR_BYTES);
        if fresh {
            return Ok(());
        }
        let usable =
            |(last, _): &(Option<u64>, JournalFile), announced: u64| last.is_none_or(|last| last < announced);
        if !self.free.is_empty() && !self.free.iter().any(|free| usable(free, self.announced)) {
            self.append(&[], &[])?;
        }
        let Some(place) = self.free.iter().position(|free| usable(free, self.announced)) else {
            self.make_file(now);
            return Ok(());
        };
        let (_, file) = self.free.remove(place).expect("there is one at this place");
        if let Some(used) = self.active.take() {
            let dirty = Arc::new(used.dirty.into_values().collect::<Vec<_>>());
            self.ask(Job::Flush { file: used.file.header.number, dirty: Arc::clone(&dirty) });
            let (first, last) = (used.first, self.next_sequence - 1);
            let full = Full { file: used.file, first, last, dirty, topics: used.topics, flushed: false };
            self.full.push_back(full);
        }
        self.active = Some(Used {
            file,
            first: self.next_sequence,
            at: SECTOR_BYTES,
            dirty: BTreeMap::new(),
            topics: BTreeSet::new(),
        });
        if self.free.is_empty() {
            self.make_file(now);
        }
        Ok(())
    }

    fn make_file(&mut self, now: Duration) {
        if self.making || self.made == FILES_MAX || now < self.make_after {
            return;
        }
        let len_bytes = self.file_bytes.next_multiple_of(SECTOR_BYTES).max(4 * SECTOR_BYTES);
        self.making = true;
        self.make_after = now + RETRY;
        self.ask(Job::Make { number: self.made, len_bytes });
    }

    /// The file that the flusher was asked for, unless it could not be made.
    pub(crate) fn take_file(&mut self, file: Option<JournalFile>) {
        self.making = false;
        if let Some(file) = file {
            self.make_after = Duration::ZERO;
            self.made += 1;
            self.free.push_back((None, file));
        }
    }

    fn ask(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            jobs.send(job);
        }
    }

    /// Nothing is written to the journal any more. Returns when the flusher has ended.
    pub(crate) async fn stop_flusher(&mut self) {
        if let Some(jobs) = self.jobs.take() {
            jobs.stop().await;
        }
    }

    /// A write or sync has failed: nothing is written to the journal any more.
    pub(crate) fn give_up(&mut self) {
        self.jobs = None;
        self.stuck = true;
    }

    /// Whether there may be room later where there is none now.
    pub(crate) fn is_moving(&self) -> bool {
        !self.stuck
    }

    /// The flusher is through with the file `number`: `ok` if all that it holds is in the segments, durably.
    pub(crate) fn flushed(&mut self, number: u64, ok: bool) {
        self.stuck |= !ok;
        if ok && let Some(full) = self.full.iter_mut().find(|full| full.file.header.number == number) {
            full.flushed = true;
        }
        while let Some(full) = self.full.pop_front_if(|full| full.flushed) {
            self.free.push_back((Some(full.last), full.file));
        }
    }

    /// Makes a group durable by one sync.
    ///
    /// # Errors
    /// [`Fault`]; what of it is durable is not known then, and nothing more must be written to the journal.
    pub(crate) fn commit(&mut self, group: Group<'_>) -> Result<(), Fault> {
        self.append(&group.items, &group.parts)?;
        let active = self.active.as_mut().expect("a group has room in the active file");
        for (number, dirty) in group.dirty {
            match active.dirty.get_mut(&number) {
                // A new segment begins after the old one was synced.
                Some(known) => *known = dirty,
                None => {
                    active.topics.insert(dirty.shared.id.topic.clone());
                    active.dirty.insert(number, dirty);
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, items: &[Item], payload: &[&[u8]]) -> Result<(), Fault> {
        let oldest = self.oldest();
        let active = self.active.as_mut().expect("entries are written to an active file");
        let payload_bytes = payload.iter().map(|part| part.len()).sum();
        let (head, len_bytes) =
            encode_head(active.file.header.key, self.next_sequence, oldest, items, payload_bytes);
        let padding = &ZEROS[..len_bytes as usize - head.len() - payload_bytes];
        let mut parts = Vec::with_capacity(payload.len() + 2);
        parts.push(&head[..]);
        parts.extend(payload);
        parts.push(padding);
        let fault = |cause| Fault { file: active.file.path.clone(), position: active.at, cause };
        let failed = |error| fault(FaultCause::Io { action: "writing", error: Arc::new(error) });
        active.file.file.write_all_at(&parts, active.at).map_err(failed)?;
        let again = |error| match planted::is(Bug::FailedSyncRetried) {
            true => active.file.file.sync_data(),
            false => Err(error),
        };
        let synced = active.file.file.sync_data().or_else(again);
        synced.map_err(|error| fault(FaultCause::SyncFailed(Arc::new(error))))?;
        active.at += len_bytes;
        self.announced = oldest;
        self.next_sequence += 1;
        Ok(())
    }

    /// Sequence of the oldest entry that is needed, or of the next one.
    fn oldest(&self) -> u64 {
        let active = || self.active.as_ref().map_or(self.next_sequence, |active| active.first);
        self.full.front().map_or_else(active, |full| full.first)
    }

    /// Whether any entry that a start after a crash would read tells of the topic.
    pub(crate) fn knows(&self, topic: &str) -> bool {
        let active = self.active.iter().map(|active| &active.topics);
        // A free file may be read until it is overwritten.
        let full = self.full.iter().map(|full| &full.topics);
        active.chain(full).any(|topics| topics.contains(topic)) || self.announced < self.oldest()
    }

    /// Whether the segments hold everything durably, so that the journal is not needed.
    pub(crate) fn is_settled(&self) -> bool {
        if self.stuck {
            return false;
        }
        let active = self.active.iter().flat_map(|active| active.dirty.values());
        let full = self.full.iter().flat_map(|full| full.dirty.iter());
        active.chain(full).all(Dirty::is_settled)
    }
}
