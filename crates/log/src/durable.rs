//! How far a partition was synced: what recovery trusts, and what lies beyond it may be torn.
//!
//! The point is noted after each sync of the segment, with a plain write and no sync of its own. After the death of the
//! process the note is exact but for what the journal holds, since the page cache survives; after power loss it may be
//! older than the truth, or torn (then the checksum tells), and recovery treats a little more of the last segment as
//! possibly torn. It can never be ahead of the truth. Layout, little-endian:
//!
//! ```text
//!  0  segment  i64   base offset of the segment that was being written
//!  8  bytes    u64   of it were synced; everything in older segments is
//! 16  next     i64   offset after the last synced record
//! 24  crc      u32   CRC-32C of bytes 0-23
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::Offset;
use anabranch_core::seam::{Disk, DiskFile, Open};

pub(crate) const FILE: &str = "durable";
const NOTE_BYTES: usize = 28;

/// A point up to which everything is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DurablePoint {
    pub(crate) segment: Offset,
    pub(crate) bytes: u64,
    pub(crate) next: Offset,
}

impl DurablePoint {
    /// The point that was noted in the partition's directory; `None` if there is none or it is torn.
    pub(crate) fn read(disk: &dyn Disk, directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(FILE);
        if !disk.exists(&path)? {
            return Ok(None);
        }
        Ok(Self::decode(&disk.read(&path)?))
    }

    pub(crate) fn encode(self) -> [u8; NOTE_BYTES] {
        let mut note = [0; NOTE_BYTES];
        note[..8].copy_from_slice(&self.segment.0.to_le_bytes());
        note[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        note[16..24].copy_from_slice(&self.next.0.to_le_bytes());
        let crc = crc32c::crc32c(&note[..24]);
        note[24..].copy_from_slice(&crc.to_le_bytes());
        note
    }

    pub(crate) fn decode(note: &[u8]) -> Option<Self> {
        let note = note.first_chunk::<NOTE_BYTES>()?;
        let long = |at: usize| *note[at..].first_chunk::<8>().expect("a field lies inside the note");
        let crc = u32::from_le_bytes(*note.last_chunk().expect("a note ends with its checksum"));
        (crc32c::crc32c(&note[..24]) == crc).then(|| Self {
            segment: Offset(i64::from_le_bytes(long(0))),
            bytes: u64::from_le_bytes(long(8)),
            next: Offset(i64::from_le_bytes(long(16))),
        })
    }
}

/// Where the point is noted. Its file is opened for each note: they are rare where the journal is used, and partitions
/// many.
#[derive(Debug)]
pub(crate) struct DurableNote {
    path: PathBuf,
    noted: Option<DurablePoint>,
    is_final: bool,
}

impl DurableNote {
    /// The note of the partition in `directory`, of which nothing is known.
    pub(crate) fn new(directory: &Path) -> Self {
        Self { path: directory.join(FILE), noted: None, is_final: false }
    }

    /// Nothing more is noted: the path may be that of another partition from now on, of a topic that has the same name.
    pub(crate) fn finish(&mut self) {
        self.is_final = true;
    }

    /// Notes a point, unless a later one was noted before.
    pub(crate) fn advance(&mut self, disk: &dyn Disk, point: DurablePoint) {
        if !self.is_final
            && self.noted.is_none_or(|noted| noted < point)
            && let Err(error) = self.write(disk, point)
        {
            // Nothing is lost: recovery will look at more of the segment.
            tracing::warn!(file = %self.path.display(), %error, "the durable point could not be noted");
        }
    }

    fn write(&mut self, disk: &dyn Disk, point: DurablePoint) -> io::Result<()> {
        self.open(disk)?.write_all_at(&[&point.encode()], 0)?;
        self.noted = Some(point);
        Ok(())
    }

    /// Notes a point so that it survives power loss.
    pub(crate) fn write_durably(&mut self, disk: &dyn Disk, point: DurablePoint) -> io::Result<()> {
        self.write(disk, point)?;
        self.open(disk)?.sync_data()
    }

    fn open(&self, disk: &dyn Disk) -> io::Result<Arc<dyn DiskFile>> {
        match disk.exists(&self.path)? {
            true => disk.open(&self.path, Open::ReadWrite),
            false => disk.open(&self.path, Open::Create),
        }
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::seam::RealDisk;

    use super::*;

    /// Found by the simulator: the last note of a deleted topic's partition failed, and the flusher made it later, in the
    /// directory of a topic that had the name by then.
    #[test]
    fn what_is_finished_notes_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let mut note = DurableNote::new(dir.path());
        note.advance(&RealDisk, DurablePoint { segment: Offset(0), bytes: 1, next: Offset(1) });
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        note.finish();
        note.advance(&RealDisk, DurablePoint { segment: Offset(0), bytes: 2, next: Offset(2) });
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn a_torn_note_is_no_note() {
        let point = DurablePoint { segment: Offset(1), bytes: 2, next: Offset(3) };
        let note = point.encode();
        assert_eq!(DurablePoint::decode(&note), Some(point));
        for bit in 0..note.len() * 8 {
            let mut torn = note;
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(DurablePoint::decode(&torn), None, "bit {bit}");
        }
        assert_eq!(DurablePoint::decode(&note[..27]), None);
        assert_eq!(DurablePoint::decode(&[0; NOTE_BYTES]), None);
    }
}
