//! A segment's sparse index: places by offset and by time. Derived from the segment, and made anew when wrong.
//!
//! Entries stand one after another, each with its own checksum, so that any prefix is an index. Layout, little-endian:
//!
//! ```text
//!  0  offset      u32   of a batch's first record, counted from the segment's base
//!  4  position    u32   of that batch in the segment
//!  8  max_before  i64   largest timestamp of all batches before it in the segment, ms
//! 16  crc         u32   CRC-32C of the segment's base offset and bytes 0-15
//! ```

use std::io;

use anabranch_core::Offset;
use anabranch_core::planted::{self, Bug};
use anabranch_core::seam::Disk;

use crate::entries::{Entries, Entry, checksum};

pub(crate) const ENTRY_BYTES: usize = 20;

/// A place in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: Offset,
    pub(crate) position: u64,
    pub(crate) max_before_ms: i64,
}

impl Place {
    /// Where every segment begins.
    pub(crate) fn start(base: Offset) -> Self {
        Self { offset: base, position: 0, max_before_ms: i64::MIN }
    }
}

impl Entry<ENTRY_BYTES> for Place {
    fn encode(self, base: Offset) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        // A segment has at most 2 GiB, so at most that many records and bytes.
        let offset = u32::try_from(self.offset.0 - base.0).expect("a segment's offsets span less than 2^32");
        let position = u32::try_from(self.position).expect("a segment has less than 2^32 bytes");
        entry[..4].copy_from_slice(&offset.to_le_bytes());
        entry[4..8].copy_from_slice(&position.to_le_bytes());
        entry[8..16].copy_from_slice(&self.max_before_ms.to_le_bytes());
        let crc = checksum(base, &entry[..16]);
        entry[16..].copy_from_slice(&crc.to_le_bytes());
        entry
    }

    fn decode(entry: &[u8; ENTRY_BYTES], base: Offset) -> Option<Self> {
        let word = |at: usize| {
            u32::from_le_bytes(*entry[at..].first_chunk().expect("a field lies inside the entry"))
        };
        (checksum(base, &entry[..16]) == word(16) || planted::is(Bug::IndexTrusted)).then(|| Self {
            offset: base.plus(i64::from(word(0))),
            position: u64::from(word(4)),
            max_before_ms: i64::from_le_bytes(
                *entry[8..].first_chunk().expect("a field lies inside the entry"),
            ),
        })
    }
}

/// An entry of the file cannot be read; the index must be made anew.
#[derive(Debug)]
pub(crate) struct IndexWrong;

/// The index of one segment.
pub(crate) type Index = Entries<Place, ENTRY_BYTES>;

impl Index {
    /// Keeps the right entries from the front of the file that lie before `position`, and cuts the rest off, durably: an
    /// entry of a batch that is gone must not come back between those of later ones.
    pub(crate) fn keep_valid_below(&mut self, position: u64) -> io::Result<()> {
        let mut valid = 0;
        let mut before = Place::start(self.base());
        for place in self.read(0..self.stored())? {
            match place {
                Some(place)
                    if place.position < position
                        && place.position > before.position
                        && place.offset > before.offset
                        && place.max_before_ms >= before.max_before_ms =>
                {
                    before = place;
                    valid += 1;
                }
                _ => break,
            }
        }
        self.cut(valid)
    }

    /// How large the file is, or will be.
    pub(crate) fn len_bytes(&self) -> u64 {
        (self.len() * ENTRY_BYTES) as u64
    }

    /// Makes the file durable: the segment is complete.
    pub(crate) fn seal(&mut self, disk: &dyn Disk) -> io::Result<()> {
        self.save_trimmed(disk)
    }

    /// Replaces everything by `places`, for a segment that is complete. After an error they stand in memory.
    pub(crate) fn rebuild(&mut self, disk: &dyn Disk, places: Vec<Place>) -> io::Result<()> {
        self.replace(places);
        self.create(disk)?;
        self.seal(disk)
    }

    /// The last place for which `is_before` holds; it must hold for a prefix of the places. The segment's start if none.
    pub(crate) fn last_where(
        &self,
        is_before: impl Fn(&Place) -> bool,
    ) -> io::Result<Result<Place, IndexWrong>> {
        let tail = self.tail.partition_point(&is_before);
        if tail > 0 {
            return Ok(Ok(self.tail[tail - 1]));
        }
        let Some((_, found)) = self.before(is_before)? else { return Ok(Err(IndexWrong)) };
        Ok(Ok(found.unwrap_or(Place::start(self.base()))))
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::seam::RealDisk;

    use super::*;

    fn place(number: i64) -> Place {
        Place { offset: Offset(100 + number * 10), position: number as u64 * 4096, max_before_ms: number * 5 }
    }

    #[test]
    fn places_are_found_in_file_and_memory_and_a_wrong_entry_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.index");
        let mut index = Index::open(&RealDisk, path.clone(), Offset(100)).unwrap();
        (1..=20).for_each(|number| index.push(place(number)));
        index.flush(&RealDisk).unwrap();
        (21..=25).for_each(|number| index.push(place(number)));
        for (offset, number) in
            [(100, 0), (109, 0), (110, 1), (255, 15), (300, 20), (309, 20), (310, 21), (999, 25)]
        {
            let found = index.last_where(|place| place.offset.0 <= offset).unwrap().unwrap();
            assert_eq!(found.position, number * 4096, "offset {offset}");
        }
        index.flush(&RealDisk).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 25 * ENTRY_BYTES);
        bytes[12 * ENTRY_BYTES + 3] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let mut index = Index::open(&RealDisk, path, Offset(100)).unwrap();
        assert!(index.last_where(|place| place.offset.0 <= 255).unwrap().is_err());
        index.keep_valid_below(u64::MAX).unwrap();
        assert_eq!(index.last_where(|_| true).unwrap().unwrap(), place(12));
        index.keep_valid_below(5 * 4096).unwrap();
        assert_eq!(index.last_where(|_| true).unwrap().unwrap(), place(4));
    }
}
