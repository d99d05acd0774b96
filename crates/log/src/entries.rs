//! What is derived of a segment stands beside it as entries of one size, in memory first and then in a file. Each has a
//! checksum of its own, so that any prefix of a file is one.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::Offset;
use anabranch_core::seam::{Disk, DiskFile, Open};

/// Entries that wait in memory before they go to the file.
const TAIL_ENTRIES_MAX: usize = 512;

/// An entry of so many bytes, of the segment that begins at `base`.
pub(crate) trait Entry<const BYTES: usize>: Copy {
    fn encode(self, base: Offset) -> [u8; BYTES];

    /// `None` if this was not written as an entry of that segment.
    fn decode(entry: &[u8; BYTES], base: Offset) -> Option<Self>;
}

/// Of an entry's bytes before it: whose segment it belongs to is in it.
pub(crate) fn checksum(base: Offset, entry: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&base.0.to_le_bytes()), entry)
}

/// All entries of a file, `None` where one is wrong.
pub(crate) fn read_entries<T: Entry<BYTES>, const BYTES: usize>(
    disk: &dyn Disk,
    path: &Path,
    base: Offset,
) -> io::Result<Vec<Option<T>>> {
    Ok(decode_all(&disk.read(path)?, base))
}

fn decode_all<T: Entry<BYTES>, const BYTES: usize>(bytes: &[u8], base: Offset) -> Vec<Option<T>> {
    bytes.as_chunks::<BYTES>().0.iter().map(|entry| T::decode(entry, base)).collect()
}

/// The entries of one segment.
#[derive(Debug)]
pub(crate) struct Entries<T, const BYTES: usize> {
    path: PathBuf,
    base: Offset,
    file: Option<Arc<dyn DiskFile>>,
    /// Entries in the file.
    stored: usize,
    /// Entries after those.
    pub(crate) tail: Vec<T>,
    is_synced: bool,
}

impl<T: Entry<BYTES>, const BYTES: usize> Entries<T, BYTES> {
    /// Those of a file, if there is one, which is believed until an entry proves wrong.
    pub(crate) fn open(disk: &dyn Disk, path: PathBuf, base: Offset) -> io::Result<Self> {
        let mut entries = Self { path, base, file: None, stored: 0, tail: Vec::new(), is_synced: false };
        if disk.exists(&entries.path)? {
            let file = disk.open(&entries.path, Open::ReadWrite)?;
            entries.stored = usize::try_from(file.len()?).map_err(io::Error::other)? / BYTES;
            entries.file = Some(file);
        }
        Ok(entries)
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    /// How many are in the file.
    pub(crate) fn stored(&self) -> usize {
        self.stored
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.stored + self.tail.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an entry after all others.
    pub(crate) fn push(&mut self, entry: T) {
        self.tail.push(entry);
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
        file.write_all_at(&[&bytes], (self.stored * BYTES) as u64)?;
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

    /// The same, and drops what stands after the last entry.
    pub(crate) fn save_trimmed(&mut self, disk: &dyn Disk) -> io::Result<()> {
        self.flush(disk)?;
        if let Some(file) = &self.file {
            file.set_len((self.stored * BYTES) as u64)?;
            self.is_synced = false;
        }
        self.save(disk)
    }

    /// Keeps the first `count` entries of the file, and cuts the rest off, durably.
    pub(crate) fn cut(&mut self, count: usize) -> io::Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| count < self.stored) {
            file.set_len((count * BYTES) as u64)?;
            file.sync_data()?;
        }
        self.stored = count;
        self.tail.clear();
        Ok(())
    }

    /// Replaces all by entries in memory, and leaves the file to whoever has its name; whether there was one.
    pub(crate) fn replace(&mut self, entries: Vec<T>) -> bool {
        (self.stored, self.tail) = (0, entries);
        self.file.take().is_some()
    }

    /// Begins an empty file.
    pub(crate) fn create(&mut self, disk: &dyn Disk) -> io::Result<()> {
        self.file = Some(disk.open(&self.path, Open::Create)?);
        self.is_synced = false;
        Ok(())
    }

    /// The file has another name now.
    pub(crate) fn renamed(&mut self, path: PathBuf) {
        self.path = path;
    }

    /// Some of those in the file.
    pub(crate) fn read(&self, range: Range<usize>) -> io::Result<Vec<Option<T>>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = self.stored_in().read_vec_at(range.len() * BYTES, (range.start * BYTES) as u64)?;
        Ok(decode_all(&bytes, self.base))
    }

    fn read_one(&self, at: usize) -> io::Result<Option<T>> {
        let mut entry = [0; BYTES];
        self.stored_in().read_exact_at(&mut entry, (at * BYTES) as u64)?;
        Ok(T::decode(&entry, self.base))
    }

    fn stored_in(&self) -> &Arc<dyn DiskFile> {
        self.file.as_ref().expect("stored entries have a file")
    }

    /// How many of those in the file come before the first for which `is_before` does not hold, and the last of them; it must
    /// hold for a prefix. `None` if one that was looked at is wrong.
    pub(crate) fn before(&self, is_before: impl Fn(&T) -> bool) -> io::Result<Option<(usize, Option<T>)>> {
        let mut found = None;
        let (mut low, mut high) = (0, self.stored);
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(entry) = self.read_one(middle)? else { return Ok(None) };
            if is_before(&entry) {
                found = Some(entry);
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(Some((low, found)))
    }
}
