//! Which transactions of a segment were aborted: what readers of committed records are told, so that they leave those out.
//!
//! `BASE.aborted` has an entry for each marker in the segment that aborts a transaction of which there are records, in the
//! order of the markers. Derived: all of it follows from the batches. A segment that is complete has a last entry more that
//! counts the others, so that a file which lacks some is known; one without entries has no file. Layout, little-endian:
//!
//! ```text
//!  0  producer  i64   -1 in the last entry of a complete segment
//!  8  first     i64   offset of the transaction; how many entries there are before the last
//! 16  last      i64   offset of its marker
//! 24  stable    i64   last stable offset after the marker
//! 32  crc       u32   CRC-32C of the segment's base offset and bytes 0-31
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::seam::{Disk, DiskFile, Open};
use anabranch_core::{Offset, ProducerId};

use crate::producers::AbortedTransaction;

pub(crate) const ENTRY_BYTES: usize = 36;
/// Entries that wait in memory before they go to the file.
const TAIL_ENTRIES_MAX: usize = 512;
/// Entries that are read at a time.
const WINDOW_ENTRIES: usize = 128;

/// A transaction that was aborted: from `first` on, what `producer` wrote up to its next marker is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted {
    /// Whose.
    pub producer: ProducerId,
    /// Where it begins.
    pub first: Offset,
}

impl From<AbortedTransaction> for Aborted {
    fn from(AbortedTransaction { producer, first, .. }: AbortedTransaction) -> Self {
        Self { producer, first }
    }
}

/// What stands in the file cannot be read, or is not all that was written: it must be made anew.
#[derive(Debug)]
pub(crate) struct AbortedWrong;

impl AbortedTransaction {
    /// The last entry of a complete segment.
    pub(crate) fn end(count: usize) -> Self {
        let first = Offset(count as i64);
        Self { producer: ProducerId::NONE, first, last: Offset(i64::MAX), stable: Offset(i64::MAX) }
    }

    pub(crate) fn is_end(&self) -> bool {
        !self.producer.is_some()
    }

    fn encode(&self, base: Offset) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        let fields = [self.producer.0, self.first.0, self.last.0, self.stable.0];
        for (at, field) in entry.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *at = field.to_le_bytes();
        }
        let crc = checksum(base, &entry[..32]);
        entry[32..].copy_from_slice(&crc.to_le_bytes());
        entry
    }

    fn decode(entry: &[u8; ENTRY_BYTES], base: Offset) -> Option<Self> {
        let (body, crc) = entry.split_last_chunk::<4>()?;
        let [producer, first, last, stable] = body.as_chunks::<8>().0 else { return None };
        let offset = |field: &[u8; 8]| Offset(i64::from_le_bytes(*field));
        (checksum(base, body) == u32::from_le_bytes(*crc)).then(|| Self {
            producer: ProducerId(i64::from_le_bytes(*producer)),
            first: offset(first),
            last: offset(last),
            stable: offset(stable),
        })
    }
}

fn checksum(base: Offset, entry: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&base.0.to_le_bytes()), entry)
}

/// The aborted transactions of one segment.
#[derive(Debug)]
pub(crate) struct AbortedIndex {
    path: PathBuf,
    base: Offset,
    file: Option<Arc<dyn DiskFile>>,
    /// Entries in the file, with the one that counts them.
    stored: usize,
    /// Entries after those.
    tail: Vec<AbortedTransaction>,
    is_synced: bool,
}

impl AbortedIndex {
    /// An index whose file, if there is one, is believed until an entry proves wrong.
    pub(crate) fn open(disk: &dyn Disk, path: PathBuf, base: Offset) -> io::Result<Self> {
        let mut index = Self { path, base, file: None, stored: 0, tail: Vec::new(), is_synced: false };
        if disk.exists(&index.path)? {
            let file = disk.open(&index.path, Open::ReadWrite)?;
            index.stored = usize::try_from(file.len()?).map_err(io::Error::other)? / ENTRY_BYTES;
            index.file = Some(file);
        }
        Ok(index)
    }

    /// Adds an entry after all others.
    pub(crate) fn push(&mut self, entry: AbortedTransaction) {
        self.tail.push(entry);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.stored + self.tail.len() == 0
    }

    /// Of a segment that is written to.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.stored + self.tail.len()).expect("a segment has fewer than 2^32 batches")
    }

    pub(crate) fn wants_flush(&self) -> bool {
        self.tail.len() >= TAIL_ENTRIES_MAX
    }

    /// Writes what waits in memory, without making it durable.
    pub(crate) fn flush(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.tail.is_empty() {
            return Ok(());
        }
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(disk.open(&self.path, Open::Create)?),
        };
        let bytes: Vec<u8> = self.tail.iter().flat_map(|entry| entry.encode(self.base)).collect();
        self.is_synced = false;
        file.write_all_at(&[&bytes], (self.stored * ENTRY_BYTES) as u64)?;
        self.stored += self.tail.len();
        self.tail.clear();
        Ok(())
    }

    /// Makes all entries durable, but for the name of the file.
    pub(crate) fn save(&mut self, disk: &dyn Disk) -> io::Result<()> {
        self.flush(disk)?;
        if let Some(file) = self.file.as_ref().filter(|_| !self.is_synced) {
            file.sync_data()?;
            self.is_synced = true;
        }
        Ok(())
    }

    /// The same, and the segment is complete. There is a file then, also without entries.
    pub(crate) fn seal(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.tail.is_empty() && matches!(self.is_whole()?, Ok(())) {
            return self.save(disk);
        }
        self.flush(disk)?;
        self.tail.push(AbortedTransaction::end(self.stored));
        let flushed = self.flush(disk);
        self.tail.clear();
        flushed?;
        let file = self.file.as_ref().expect("what is stored has a file");
        file.set_len((self.stored * ENTRY_BYTES) as u64)?;
        self.save(disk)
    }

    /// Whether this is what [`AbortedIndex::seal`] wrote, by its last entry.
    pub(crate) fn is_whole(&self) -> io::Result<Result<(), AbortedWrong>> {
        let Some(last) = self.stored.checked_sub(1) else { return Ok(Err(AbortedWrong)) };
        let last = self.read(last..self.stored)?;
        let is_whole = matches!(&last[..], [Some(end)] if *end == AbortedTransaction::end(self.stored - 1));
        Ok(if is_whole { Ok(()) } else { Err(AbortedWrong) })
    }

    /// Keeps the first `count` entries, which must be there, and cuts the rest off, durably: what is not yet durable in the
    /// segment, perhaps.
    pub(crate) fn keep_first(&mut self, count: u32) -> io::Result<Result<(), AbortedWrong>> {
        self.tail.clear();
        let count = count as usize;
        if self.stored < count {
            return Ok(Err(AbortedWrong));
        }
        let entries = self.read(0..count)?;
        if !entries.iter().all(|entry| entry.is_some_and(|entry| !entry.is_end())) {
            return Ok(Err(AbortedWrong));
        }
        if let Some(file) = self.file.as_ref().filter(|_| self.stored > count) {
            file.set_len((count * ENTRY_BYTES) as u64)?;
            file.sync_data()?;
        }
        self.stored = count;
        Ok(Ok(()))
    }

    /// Replaces everything. After an error the entries stand in memory.
    pub(crate) fn rebuild(
        &mut self,
        disk: &dyn Disk,
        entries: Vec<AbortedTransaction>,
        is_sealed: bool,
    ) -> io::Result<()> {
        let was_there = self.file.take().is_some();
        self.stored = 0;
        self.tail = entries;
        if was_there {
            self.file = Some(disk.open(&self.path, Open::Create)?);
            self.is_synced = false;
        }
        match is_sealed {
            true => self.seal(disk),
            false => self.save(disk),
        }
    }

    /// The same, but in memory only: another has the file's name.
    pub(crate) fn rebuild_in_memory(&mut self, entries: Vec<AbortedTransaction>) {
        (self.file, self.stored, self.tail) = (None, 0, entries);
    }

    /// The file has another name now.
    pub(crate) fn renamed(&mut self, path: PathBuf) {
        self.path = path;
    }

    /// The offset of the first marker that waits in memory.
    pub(crate) fn first_in_memory(&self) -> Option<Offset> {
        self.tail.first().map(|entry| entry.last)
    }

    /// What waits in memory.
    pub(crate) fn take_tail(&mut self) -> Vec<AbortedTransaction> {
        std::mem::take(&mut self.tail)
    }

    /// Adds the transactions to `found` that reach to `from` or beyond and begin before `upper`. Whether these are all, also
    /// of later segments: the rule of Kafka's `TransactionIndex.collectAbortedTxns`.
    pub(crate) fn find(
        &self,
        from: Offset,
        upper: Offset,
        found: &mut Vec<AbortedTransaction>,
    ) -> io::Result<Result<bool, AbortedWrong>> {
        let (mut low, mut high) = (0, self.stored);
        while low < high {
            let middle = low + (high - low) / 2;
            let [Some(entry)] = self.read(middle..middle + 1)?[..] else { return Ok(Err(AbortedWrong)) };
            if entry.last < from {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let mut is_complete = false;
        let visited = self.visit(low, |entry| {
            if entry.last >= from && entry.first < upper {
                found.push(entry);
            }
            is_complete = entry.stable >= upper;
            !is_complete
        })?;
        Ok(visited.map(|()| is_complete))
    }

    /// Shows entries to `visit`, from the one at `at` on, until that says no.
    fn visit(
        &self,
        mut at: usize,
        mut visit: impl FnMut(AbortedTransaction) -> bool,
    ) -> io::Result<Result<(), AbortedWrong>> {
        while at < self.stored {
            let window = at..self.stored.min(at + WINDOW_ENTRIES);
            for entry in self.read(window)? {
                match entry {
                    None => return Ok(Err(AbortedWrong)),
                    Some(entry) if entry.is_end() => {}
                    Some(entry) => {
                        if !visit(entry) {
                            return Ok(Ok(()));
                        }
                    }
                }
                at += 1;
            }
        }
        let _ = self.tail.iter().all(|entry| visit(*entry));
        Ok(Ok(()))
    }

    fn read(&self, range: std::ops::Range<usize>) -> io::Result<Vec<Option<AbortedTransaction>>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let file = self.file.as_ref().expect("stored entries have a file");
        let bytes = file.read_vec_at(range.len() * ENTRY_BYTES, (range.start * ENTRY_BYTES) as u64)?;
        Ok(decode_all(&bytes, self.base).collect())
    }
}

fn decode_all(bytes: &[u8], base: Offset) -> impl Iterator<Item = Option<AbortedTransaction>> {
    let entries = bytes.as_chunks::<ENTRY_BYTES>().0.iter();
    entries.map(move |entry| AbortedTransaction::decode(entry, base))
}

/// All entries of a file, those that are wrong as `None`, with the last one of a complete segment.
pub(crate) fn read_entries(
    disk: &dyn Disk,
    path: &Path,
    base: Offset,
) -> io::Result<Vec<Option<AbortedTransaction>>> {
    Ok(decode_all(&disk.read(path)?, base).collect())
}

#[cfg(test)]
mod tests {
    use anabranch_core::seam::RealDisk;

    use super::*;

    /// Number `n` is open from 10n to its marker at 10n + 15, so that each overlaps the next.
    fn entry(number: i64) -> AbortedTransaction {
        let first = Offset(number * 10);
        let (last, stable) = (first.plus(15), first.plus(10));
        AbortedTransaction { producer: ProducerId(number), first, last, stable }
    }

    fn found(index: &AbortedIndex, from: i64, upper: i64) -> (Vec<i64>, bool) {
        let mut found = Vec::new();
        let is_complete = index.find(Offset(from), Offset(upper), &mut found).unwrap().unwrap();
        (found.iter().map(|aborted| aborted.producer.0).collect(), is_complete)
    }

    #[test]
    fn transactions_are_found_in_file_and_memory_and_a_wrong_entry_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.aborted");
        let mut index = AbortedIndex::open(&RealDisk, path.clone(), Offset(0)).unwrap();
        assert!(index.is_empty() && index.is_whole().unwrap().is_err() && !path.exists());
        index.seal(&RealDisk).unwrap();
        assert!(index.is_whole().unwrap().is_ok(), "nothing of nothing is missing");
        index.keep_first(0).unwrap().unwrap();
        (0..150).for_each(|number| index.push(entry(number)));
        index.flush(&RealDisk).unwrap();
        (150..200).for_each(|number| index.push(entry(number)));
        assert_eq!(found(&index, 190, 2001), ((18..200).collect(), false));
        for (from, upper, expected) in [
            (0, 1, vec![0]),
            (0, 15, vec![0, 1]),
            (50, 51, vec![4, 5]),
            (55, 56, vec![4, 5]),
            (56, 60, vec![5]),
        ] {
            assert_eq!(found(&index, from, upper), (expected, true), "{from} {upper}");
        }
        index.seal(&RealDisk).unwrap();
        index.seal(&RealDisk).unwrap();
        assert!(index.is_whole().unwrap().is_ok());
        assert_eq!(found(&index, 0, i64::MAX).0.len(), 200);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 201 * ENTRY_BYTES);
        // Entries are missing at the end, or in the middle.
        for len in [0, 1, 100, 200] {
            std::fs::write(&path, &bytes[..len * ENTRY_BYTES]).unwrap();
            let index = AbortedIndex::open(&RealDisk, path.clone(), Offset(0)).unwrap();
            assert!(index.is_whole().unwrap().is_err(), "{len}");
        }
        std::fs::write(&path, [&bytes[..7200 - 36], &bytes[7200..]].concat()).unwrap();
        assert!(AbortedIndex::open(&RealDisk, path.clone(), Offset(0)).unwrap().is_whole().unwrap().is_err());
        for bit in 0..ENTRY_BYTES * 8 {
            let mut changed = bytes.clone();
            changed[5 * ENTRY_BYTES + bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, changed).unwrap();
            let index = AbortedIndex::open(&RealDisk, path.clone(), Offset(0)).unwrap();
            assert!(index.find(Offset(40), Offset(100), &mut Vec::new()).unwrap().is_err(), "bit {bit}");
        }
        // What is not needed any more goes for good.
        std::fs::write(&path, &bytes).unwrap();
        let mut index = AbortedIndex::open(&RealDisk, path.clone(), Offset(0)).unwrap();
        assert!(index.keep_first(201).unwrap().is_err());
        index.keep_first(20).unwrap().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 20 * ENTRY_BYTES as u64);
        assert_eq!(found(&index, 190, 2001), (vec![18, 19], false));
        index.rebuild(&RealDisk, vec![entry(3)], true).unwrap();
        assert_eq!((found(&index, 0, 900), index.is_whole().unwrap().is_ok()), ((vec![3], false), true));
    }
}
