//! Small files that each say one thing about a partition. Each is replaced whole, and durably.
//!
//! ```text
//! start    the log start offset: what is below is deleted, and stays so
//! cleaned  how far the log is compacted; derived: without it everything is dirty
//! swap     the segment at the first offset is being replaced by one that reaches the second (see `layout`)
//! ```
//!
//! Layout, little-endian:
//!
//! ```text
//!  0  offsets  i64 × 1, or × 2 in `swap`
//!  -  crc      u32   CRC-32C of the file's name and the offsets
//! ```

use std::io;
use std::path::{Path, PathBuf};

use anabranch_core::Offset;
use anabranch_core::seam::Disk;

use crate::spare::Spares;

const CRC_BYTES: usize = 4;

/// One of these files, with so many offsets in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark<const OFFSETS: usize>(&'static str);

pub(crate) const START: Mark<1> = Mark("start");
pub(crate) const CLEANED: Mark<1> = Mark("cleaned");
pub(crate) const SWAP: Mark<2> = Mark("swap");

/// The file is there, and is not what was written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MarkDamaged;

impl<const OFFSETS: usize> Mark<OFFSETS> {
    pub(crate) fn name(self) -> &'static str {
        self.0
    }

    pub(crate) fn path(self, directory: &Path) -> PathBuf {
        directory.join(self.0)
    }

    /// What the file says; it must be there.
    pub(crate) fn read(
        self,
        disk: &dyn Disk,
        directory: &Path,
    ) -> io::Result<Result<[Offset; OFFSETS], MarkDamaged>> {
        Ok(self.decode(&disk.read(&self.path(directory))?).ok_or(MarkDamaged))
    }

    /// The same as [`Self::write`], also on a full disk.
    pub(crate) fn write_to_spare(
        self,
        spares: &Spares,
        disk: &dyn Disk,
        directory: &Path,
        offsets: [Offset; OFFSETS],
    ) -> io::Result<()> {
        spares.replace(disk, &self.path(directory), &self.encode(offsets))
    }

    /// Writes the file, durably. After an error it says what it said before, or this.
    pub(crate) fn write(
        self,
        disk: &dyn Disk,
        directory: &Path,
        offsets: [Offset; OFFSETS],
    ) -> io::Result<()> {
        disk.replace(&self.path(directory), &self.encode(offsets))
    }

    pub(crate) fn encode(self, offsets: [Offset; OFFSETS]) -> Vec<u8> {
        let mut bytes: Vec<u8> = offsets.iter().flat_map(|offset| offset.0.to_le_bytes()).collect();
        bytes.extend_from_slice(&self.checksum(&bytes).to_le_bytes());
        bytes
    }

    pub(crate) fn decode(self, bytes: &[u8]) -> Option<[Offset; OFFSETS]> {
        let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
        let (fields, rest) = body.as_chunks::<8>();
        if !rest.is_empty() || self.checksum(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let offsets: Vec<Offset> = fields.iter().map(|field| Offset(i64::from_le_bytes(*field))).collect();
        offsets.try_into().ok()
    }

    fn checksum(self, body: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(self.0.as_bytes()), body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_any_change_to_it_is_seen() {
        let offsets = [Offset(7), Offset(i64::MAX)];
        let bytes = SWAP.encode(offsets);
        assert_eq!(SWAP.decode(&bytes), Some(offsets));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SWAP.decode(&changed), None, "bit {bit}");
        }
        let start = START.encode([Offset(7)]);
        assert_eq!(START.decode(&start), Some([Offset(7)]));
        assert_eq!(CLEANED.decode(&start), None, "another file's");
        assert_eq!(START.decode(&start[..11]), None);
        assert_eq!(START.decode(&[]), None);
    }
}
