//! The newest offset of each key, in bounded memory.
//!
//! A key is known by 128 bits of SipHash-1-3 under a random key, so that nobody can make two keys meet; by chance, two of
//! 100 million do with probability 10⁻²³. An entry takes [`ENTRY_BYTES`], whatever the key's length, in open addressing
//! with linear probing. There are up to 64 tables, chosen by the hash, that grow on their own: while one is copied the
//! others are not, so that growing takes no more than a 64th above the limit. Nothing is ever taken out.
//!
//! When a table is full the map takes no new key. The pass then ends where it stands (Kafka's cleaner does the same): what
//! was seen is compacted, and the next pass goes on from there. So 128 MiB serve 5 million distinct keys in one pass, and
//! 100 million in 20.

use anabranch_core::Offset;
use siphasher::sip128::SipHasher13;

/// Memory per key: Kafka's, too.
const ENTRY_BYTES: usize = size_of::<Entry>();
/// Probing stays short up to here; Kafka's `log.cleaner.io.buffer.load.factor`.
const LOAD_PERCENT_MAX: usize = 90;
const TABLES_MAX: usize = 64;
/// A map that is smaller than this has one table.
const ENTRIES_FOR_TABLES: usize = TABLES_MAX * 1024;
const ENTRIES_FIRST: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: [u64; 2],
    offset: i64,
}

const EMPTY: Entry = Entry { hash: [0; 2], offset: -1 };

/// A table is full, and does not have the key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug)]
pub(super) struct OffsetMap {
    hash_key: [u64; 2],
    tables: Vec<Table>,
    /// How many entries a table may have room for.
    slots_max: usize,
}

#[derive(Debug, Default)]
struct Table {
    slots: Vec<Entry>,
    len: usize,
}

impl OffsetMap {
    /// An empty map that takes up to `bytes_max`, and room for at least one key.
    pub(super) fn new(bytes_max: usize, hash_key: [u64; 2]) -> Self {
        let entries = (bytes_max / ENTRY_BYTES).max(2);
        let count = if entries >= ENTRIES_FOR_TABLES { TABLES_MAX } else { 1 };
        let tables = (0..count).map(|_| Table::default()).collect();
        Self { hash_key, tables, slots_max: entries / count }
    }

    /// The newest offset of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<Offset> {
        let hash = self.hash(key);
        let table = &self.tables[self.table_of(hash)];
        if table.slots.is_empty() {
            return None;
        }
        let entry = table.slots[table.slot_of(hash)];
        (entry.offset >= 0).then_some(Offset(entry.offset))
    }

    /// `key` has a newer record at `offset`.
    pub(super) fn put(&mut self, key: &[u8], offset: Offset) -> Result<(), Full> {
        assert!(offset.0 >= 0, "offsets count from 0");
        let hash = self.hash(key);
        let index = self.table_of(hash);
        let slots_max = self.slots_max;
        self.tables[index].put(Entry { hash, offset: offset.0 }, slots_max)
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.tables.iter().map(|table| table.len).sum()
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        let hash = SipHasher13::new_with_keys(self.hash_key[0], self.hash_key[1]).hash(key);
        [hash.h1, hash.h2]
    }

    fn table_of(&self, hash: [u64; 2]) -> usize {
        hash[1] as usize % self.tables.len()
    }
}

impl Table {
    fn put(&mut self, entry: Entry, slots_max: usize) -> Result<(), Full> {
        if !self.slots.is_empty() {
            let at = self.slot_of(entry.hash);
            if self.slots[at].offset >= 0 {
                self.slots[at].offset = entry.offset;
                return Ok(());
            }
        }
        if self.is_full() && !self.grow(slots_max) {
            return Err(Full);
        }
        let at = self.slot_of(entry.hash);
        self.slots[at] = entry;
        self.len += 1;
        Ok(())
    }

    /// Whether one more would be too many. One slot always stays empty, where probing ends.
    fn is_full(&self) -> bool {
        self.len + 1 > (self.slots.len() * LOAD_PERCENT_MAX / 100).max(1) || self.len + 1 >= self.slots.len()
    }

    fn grow(&mut self, slots_max: usize) -> bool {
        let slots = (self.slots.len() * 2).clamp(ENTRIES_FIRST.min(slots_max), slots_max);
        if slots <= self.slots.len() {
            return false;
        }
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; slots]);
        for entry in old.into_iter().filter(|entry| entry.offset >= 0) {
            let at = self.slot_of(entry.hash);
            self.slots[at] = entry;
        }
        !self.is_full()
    }

    /// Where the hash is, or would be.
    fn slot_of(&self, hash: [u64; 2]) -> usize {
        let slots = self.slots.len();
        let mut at = ((u128::from(hash[0]) * slots as u128) >> 64) as usize;
        while self.slots[at].offset >= 0 && self.slots[at].hash != hash {
            at = if at + 1 == slots { 0 } else { at + 1 };
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_offset_of_each_key_is_found_while_the_map_grows() {
        let mut map = OffsetMap::new(8 << 20, [1, 2]);
        assert_eq!(map.tables.len(), TABLES_MAX);
        for round in 0..3 {
            for key in 0..50_000i64 {
                map.put(&key.to_le_bytes(), Offset(round * 50_000 + key)).unwrap();
            }
        }
        assert_eq!(map.len(), 50_000);
        for key in 0..50_000i64 {
            assert_eq!(map.get(&key.to_le_bytes()), Some(Offset(100_000 + key)));
        }
        assert_eq!(map.get(b"another"), None);
    }

    #[test]
    fn a_full_map_still_takes_keys_that_it_has() {
        for bytes_max in [0, 1, 48, 1000, 2 << 20] {
            let mut map = OffsetMap::new(bytes_max, [3, 4]);
            let taken =
                (0..).take_while(|key: &i64| map.put(&key.to_le_bytes(), Offset(*key)).is_ok()).count();
            assert_eq!(taken, map.len());
            let slots: usize = map.tables.iter().map(|table| table.slots.len()).sum();
            assert!(
                taken >= 1 && slots <= (bytes_max / ENTRY_BYTES).max(2),
                "{bytes_max}: {taken} in {slots}"
            );
            // The first table that is full ends it, and they fill evenly.
            assert!(bytes_max < 1 << 20 || taken * 100 > slots * 80, "{taken} of {slots}");
            map.put(&0i64.to_le_bytes(), Offset(77)).unwrap();
            assert_eq!(map.get(&0i64.to_le_bytes()), Some(Offset(77)));
            assert_eq!(map.get(&(taken as i64).to_le_bytes()), None);
        }
    }
}
