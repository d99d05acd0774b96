//! A door for the fuzz targets and for nobody else: what is private here, from its bytes to its bytes. Only with the feature
//! `fuzz`, which is `fuzz/`'s. A door shows no type, so that nothing private becomes what others build on.

use std::io;
use std::path::Path;

use anabranch_core::seam::{Disk, Open};
use anabranch_core::{Offset, TopicPartition};

use crate::OpenError;
use crate::durable::DurablePoint;
use crate::entries::Entry;
use crate::index::Place;
use crate::journal::entry::{FileHeader, SECTOR_BYTES, decode_head, encode_head};
use crate::journal::redo::{self, Plan};
use crate::marks::{CLEANED, Mark, START, SWAP};
use crate::producers::{AbortedTransaction, Snapshot};
use crate::segment::segment_path;
use crate::store::{failed, partition_directory};

/// What has a format of its own beside the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A snapshot of producers up to 0, whole.
    Snapshot,
    /// An entry of the aborted transactions of the segment at 0.
    Aborted,
    /// An entry of the index of the segment at 0.
    Index,
    /// The note of the durable point.
    Durable,
    /// The note of the log's start.
    Start,
    /// The note of compaction.
    Cleaned,
    /// The note of a swap.
    Swap,
    /// The first sector of a journal file.
    JournalFile,
    /// The head of an entry of the journal, of the file with key 0. What it says of the payload's length is not kept.
    JournalEntry,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Snapshot,
        Self::Aborted,
        Self::Index,
        Self::Durable,
        Self::Start,
        Self::Cleaned,
        Self::Swap,
        Self::JournalFile,
        Self::JournalEntry,
    ];

    /// Reads `bytes` and writes what was read; `None` if they are told to be wrong.
    ///
    /// # Panics
    /// If what it writes says something else than what it read.
    #[must_use]
    pub fn rewrite(self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Snapshot => {
                let read = Snapshot::decode(Offset(0), bytes)?;
                let written = Snapshot::encode(Offset(0), &read.producers, &read.aborted);
                assert_eq!(Snapshot::decode(Offset(0), &written), Some(read), "it says the same");
                Some(written)
            }
            Self::Aborted => entry::<AbortedTransaction, _>(bytes),
            Self::Index => entry::<Place, _>(bytes),
            Self::Durable => {
                let written = DurablePoint::decode(bytes)?.encode();
                assert!(bytes.starts_with(&written), "it says the same");
                Some(written.to_vec())
            }
            Self::Start => mark(START, bytes),
            Self::Cleaned => mark(CLEANED, bytes),
            Self::Swap => mark(SWAP, bytes),
            Self::JournalFile => {
                let written = FileHeader::decode(bytes)?.encode();
                assert_eq!(written[..24], bytes[..24], "it says the same");
                Some(written.to_vec())
            }
            Self::JournalEntry => {
                let (header, items) = decode_head(0, bytes)?;
                let head_bytes = header.head_bytes as usize;
                let payload_bytes = header.len_bytes as usize - head_bytes;
                let (mut entry, _) = encode_head(0, header.sequence, header.oldest, &items, payload_bytes);
                entry.extend_from_slice(bytes.get(head_bytes..header.len_bytes as usize)?);
                entry.resize(entry.len().next_multiple_of(SECTOR_BYTES as usize), 0);
                let (again, items_again) = decode_head(0, &entry).expect("what was written can be read");
                let said = (header.sequence, header.oldest, items);
                assert_eq!((again.sequence, again.oldest, items_again), said, "it says the same");
                Some(entry)
            }
        }
    }

    /// `bytes` with the checksum that they should have: no fuzzer guesses one. `None` where they are too short for it.
    #[must_use]
    pub fn forge(self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut forged = bytes.to_vec();
        let seeded = |seed: &[u8], body: &[u8]| crc32c::crc32c_append(crc32c::crc32c(seed), body);
        match self {
            Self::Durable => {
                let (body, crc) = forged.split_last_chunk_mut::<4>()?;
                *crc = seeded(&[], body).to_le_bytes();
            }
            Self::Snapshot | Self::Aborted | Self::Index => {
                let (body, crc) = forged.split_last_chunk_mut::<4>()?;
                *crc = seeded(&[0; 8], body).to_le_bytes();
            }
            Self::Start | Self::Cleaned | Self::Swap => {
                let name = [START.name(), CLEANED.name(), SWAP.name()][self as usize - Self::Start as usize];
                let (body, crc) = forged.split_last_chunk_mut::<4>()?;
                *crc = seeded(name.as_bytes(), body).to_le_bytes();
            }
            Self::JournalFile => {
                let crc = seeded(&[], forged.get(8..24)?);
                forged[4..8].copy_from_slice(&crc.to_le_bytes());
            }
            Self::JournalEntry => {
                let head_bytes = u32::from_le_bytes(*forged.get(28..)?.first_chunk()?) as usize;
                let crc = seeded(&[0; 8], forged.get(8..head_bytes)?);
                forged[4..8].copy_from_slice(&crc.to_le_bytes());
            }
        }
        Some(forged)
    }
}

fn entry<T: Entry<BYTES>, const BYTES: usize>(bytes: &[u8]) -> Option<Vec<u8>> {
    let written = T::decode(bytes.try_into().ok()?, Offset(0))?.encode(Offset(0));
    assert_eq!(written, bytes, "it says the same");
    Some(written.to_vec())
}

fn mark<const OFFSETS: usize>(mark: Mark<OFFSETS>, bytes: &[u8]) -> Option<Vec<u8>> {
    let written = mark.encode(mark.decode(bytes)?);
    assert_eq!(written, bytes, "it says the same");
    Some(written)
}

/// What the start makes of the journal below `root`, first of all; and before that, what whoever only looks takes from it of
/// the segment at 0 of a partition, if that is the one which the journal writes to.
///
/// # Errors
/// [`OpenError`]; and nothing has changed when the journal is damaged.
pub fn redo_journal(
    disk: &dyn Disk,
    root: &Path,
    partition: &TopicPartition,
) -> Result<Option<Vec<u8>>, OpenError> {
    let plan = Plan::read(disk, root)?;
    let directory = partition_directory(root, partition);
    let looked = plan.last_segment(partition) == Some(Offset(0));
    let path = segment_path(&directory, Offset(0));
    let look = || {
        let file = plan.redone(disk, partition, Offset(0), disk.open(&path, Open::Read)?)?;
        file.read_vec_at(usize::try_from(file.len()?).map_err(io::Error::other)?, 0)
    };
    let looked = looked.then(look).transpose().map_err(failed("look at", &path))?;
    redo::recover(disk, root)?;
    Ok(looked)
}
