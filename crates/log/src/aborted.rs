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

use anabranch_core::seam::Disk;
use anabranch_core::{Offset, ProducerId};

use crate::entries::{Entries, Entry, checksum};
use crate::producers::AbortedTransaction;

pub(crate) const ENTRY_BYTES: usize = 36;
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
}

impl Entry<ENTRY_BYTES> for AbortedTransaction {
    fn encode(self, base: Offset) -> [u8; ENTRY_BYTES] {
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

/// The aborted transactions of one segment.
pub(crate) type AbortedIndex = Entries<AbortedTransaction, ENTRY_BYTES>;

impl AbortedIndex {
    /// Of a segment that is written to.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.len()).expect("a segment has fewer than 2^32 batches")
    }

    /// Makes all durable, and the segment is complete. There is a file then, also without entries.
    pub(crate) fn seal(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.tail.is_empty() && matches!(self.is_whole()?, Ok(())) {
            return self.save(disk);
        }
        self.flush(disk)?;
        self.push(AbortedTransaction::end(self.stored()));
        let flushed = self.flush(disk);
        self.tail.clear();
        flushed?;
        self.save_trimmed(disk)
    }

    /// Whether this is what [`AbortedIndex::seal`] wrote, by its last entry.
    pub(crate) fn is_whole(&self) -> io::Result<Result<(), AbortedWrong>> {
        let Some(last) = self.stored().checked_sub(1) else { return Ok(Err(AbortedWrong)) };
        let last = self.read(last..self.stored())?;
        let is_whole = matches!(&last[..], [Some(end)] if *end == AbortedTransaction::end(self.stored() - 1));
        Ok(if is_whole { Ok(()) } else { Err(AbortedWrong) })
    }

    /// Keeps the first `count` entries, which must be there, and cuts the rest off, durably: what is not yet durable in the
    /// segment, perhaps.
    pub(crate) fn keep_first(&mut self, count: u32) -> io::Result<Result<(), AbortedWrong>> {
        self.tail.clear();
        let count = count as usize;
        if self.stored() < count {
            return Ok(Err(AbortedWrong));
        }
        let entries = self.read(0..count)?;
        if !entries.iter().all(|entry| entry.is_some_and(|entry| !entry.is_end())) {
            return Ok(Err(AbortedWrong));
        }
        self.cut(count).map(Ok)
    }

    /// Replaces everything. After an error the entries stand in memory.
    pub(crate) fn rebuild(
        &mut self,
        disk: &dyn Disk,
        entries: Vec<AbortedTransaction>,
        is_sealed: bool,
    ) -> io::Result<()> {
        if self.replace(entries) {
            self.create(disk)?;
        }
        match is_sealed {
            true => self.seal(disk),
            false => self.save(disk),
        }
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
        let Some((low, _)) = self.before(|entry| entry.last < from)? else { return Ok(Err(AbortedWrong)) };
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
        while at < self.stored() {
            let window = at..self.stored().min(at + WINDOW_ENTRIES);
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
