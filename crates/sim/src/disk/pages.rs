//! A file's bytes twice: as the page cache has them, and as the platter has them.

use std::collections::BTreeSet;

use crate::random::Chance;

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: u64 = 512;
/// Lengths that are remembered between two syncs.
const LENGTHS_MAX: usize = 8;

/// The bytes of one file.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// What readers see while the machine runs.
    cache: Vec<u8>,
    /// What is on the platter; what it does not reach is zeros.
    platter: Vec<u8>,
    /// The length that the platter knows.
    platter_len: u64,
    /// Sectors that the kernel knows it must still write.
    dirty: BTreeSet<u64>,
    /// Lengths since the last sync, any of which the platter may come to know.
    lengths: Vec<u64>,
    /// Space is set aside up to here.
    reserved: u64,
    /// Something could not be written, and whoever syncs this file has not been told.
    pub(super) failed: bool,
}

impl Pages {
    pub(super) fn len(&self) -> u64 {
        self.cache.len() as u64
    }

    /// The space that it takes.
    pub(super) fn space(&self) -> u64 {
        self.len().max(self.reserved)
    }

    pub(super) fn reserve(&mut self, end: u64) {
        self.reserved = self.reserved.max(end);
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.platter_len != self.len()
    }

    pub(super) fn read(&self, into: &mut [u8], position: u64) -> bool {
        let from = usize::try_from(position).unwrap_or(usize::MAX);
        match self.cache.get(from..from.saturating_add(into.len())) {
            Some(bytes) => {
                into.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8], position: u64) {
        if bytes.is_empty() {
            return;
        }
        let (from, to) = (position as usize, position as usize + bytes.len());
        if to > self.cache.len() {
            self.resize(to as u64);
        }
        self.cache[from..to].copy_from_slice(bytes);
        self.soil(position, to as u64);
    }

    /// Cuts or extends; space that was set aside beyond is given back.
    pub(super) fn set_len(&mut self, len: u64) {
        self.reserved = 0;
        self.resize(len);
    }

    fn resize(&mut self, len: u64) {
        let before = self.len();
        self.cache.resize(len as usize, 0);
        if self.lengths.len() < LENGTHS_MAX {
            self.lengths.push(len);
        }
        // What is cut off is gone, and what comes into being is zeros, whatever the platter had there. The end of the
        // last sector counts as changed, since bytes behind it may come back as zeros.
        self.soil(before.min(len), before.max(len));
        let sectors = len.div_ceil(SECTOR_BYTES);
        self.dirty.split_off(&sectors);
    }

    fn soil(&mut self, from: u64, to: u64) {
        if from < to {
            self.dirty.extend(from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES));
        }
    }

    /// Everything reaches the platter.
    pub(super) fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.write_back(sector);
        }
        self.set_platter_len(self.len());
        self.lengths.clear();
    }

    /// Some sectors reach the platter, for no reason that the program knows of; of the length the same.
    pub(super) fn write_back_some(&mut self, chance: &mut Chance) {
        for sector in self.survivors(chance) {
            self.dirty.remove(&sector);
            self.write_back(sector);
        }
        if chance.one_in(2) {
            self.set_platter_len(self.len());
        }
    }

    /// What Linux does when it cannot write: it tells so once, and takes the pages for clean from then on.
    pub(super) fn fail_to_sync(&mut self, chance: &mut Chance) {
        for sector in self.survivors(chance) {
            self.write_back(sector);
        }
        self.dirty.clear();
        if chance.one_in(2) {
            self.set_platter_len(self.len());
            self.lengths.clear();
        }
    }

    /// The power goes: what is on the platter, of what was under way some, and nothing else.
    pub(super) fn lose_power(&mut self, chance: &mut Chance) {
        for sector in self.survivors(chance) {
            self.write_back(sector);
        }
        let len = match chance.below(4) {
            0 | 1 => self.platter_len,
            2 => self.len(),
            _ if self.lengths.is_empty() => self.platter_len,
            _ => *chance.pick(&self.lengths),
        };
        self.set_platter_len(len);
        self.platter.resize(len as usize, 0);
        self.cache.clone_from(&self.platter);
        self.dirty.clear();
        self.lengths.clear();
    }

    /// Changes a bit that is at rest: one that the platter has, and that nobody is about to write again.
    pub(super) fn flip(&mut self, byte: u64, bit: u8) -> bool {
        let at = byte as usize;
        if self.dirty.contains(&(byte / SECTOR_BYTES)) || at >= self.platter.len().min(self.cache.len()) {
            return false;
        }
        self.platter[at] ^= 1 << bit;
        self.cache[at] ^= 1 << bit;
        true
    }

    /// Those of the dirty sectors that were written: none, all, a first or a last part, or any.
    fn survivors(&self, chance: &mut Chance) -> Vec<u64> {
        let dirty: Vec<u64> = self.dirty.iter().copied().collect();
        if dirty.is_empty() {
            return dirty;
        }
        let cut = chance.below(dirty.len() as u64 + 1) as usize;
        match chance.below(6) {
            0 => Vec::new(),
            1 => dirty,
            2 => dirty[..cut].to_vec(),
            3 => dirty[cut..].to_vec(),
            _ => dirty.into_iter().filter(|_| chance.one_in(2)).collect(),
        }
    }

    fn write_back(&mut self, sector: u64) {
        let from = (sector * SECTOR_BYTES) as usize;
        let to = (from + SECTOR_BYTES as usize).min(self.cache.len());
        if from >= to {
            return;
        }
        if self.platter.len() < to {
            self.platter.resize(to, 0);
        }
        self.platter[from..to].copy_from_slice(&self.cache[from..to]);
        // Of a sector that was cut short, the rest is zeros.
        let end = (from + SECTOR_BYTES as usize).min(self.platter.len());
        self.platter[to..end].fill(0);
    }

    /// The platter knows the length; what it has beyond never comes back.
    fn set_platter_len(&mut self, len: u64) {
        self.platter_len = len;
        if self.platter.len() as u64 > len.max(self.len()) {
            self.platter.truncate(len.max(self.len()) as usize);
        }
    }
}
