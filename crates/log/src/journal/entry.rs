//! The bytes of a journal file: a header, then entries. Everything begins at a multiple of [`SECTOR_BYTES`], so that what is
//! written later never touches a sector that is durable. Little-endian.
//!
//! ```text
//! header, the first sector of a file:
//!  0  magic     u32   "AJF1"
//!  4  crc       u32   CRC-32C of bytes 8-23
//!  8  number    u64   of the file
//! 16  key       u64   random; a record that looks like an entry does not know it
//!
//! entry:
//!  0  magic     u32   "AJE1"
//!  4  crc       u32   CRC-32C of the key and of bytes 8 to `head`
//!  8  sequence  u64   one more than that of the entry before
//! 16  oldest    u64   sequence of the oldest entry that is still needed
//! 24  len       u32   bytes of the entry, padded to whole sectors
//! 28  head      u32   bytes before the payload
//! 32  items     u32
//! 36  { kind u8 | topic u8 + bytes | for a run: partition i32, segment i64, position u64, next i64, len u32, crc u32 } × items
//!  -  payload         the runs' bytes, one after another
//! ```
//!
//! A run (kind 1) is what a group wrote to one segment: `len` bytes from `position` on, after which the partition's next
//! offset is `next`. A forgotten topic (kind 2) undoes all runs of that topic before it.

use anabranch_core::Offset;
use bytes::{Buf, BufMut};

pub(crate) const SECTOR_BYTES: u64 = 512;
/// Bytes of an entry before its items.
const FIXED_BYTES: usize = 36;
const FILE_MAGIC: u32 = u32::from_le_bytes(*b"AJF1");
const ENTRY_MAGIC: u32 = u32::from_le_bytes(*b"AJE1");
const RUN: u8 = 1;
const FORGOTTEN: u8 = 2;
/// Bytes of an item's kind and of the length of its topic's name.
const NAME_BYTES: usize = 2;
/// Bytes of a run beside those and the name.
const RUN_BYTES: usize = 4 + 8 + 8 + 8 + 4 + 4;

/// The first sector of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) number: u64,
    pub(crate) key: u64,
}

impl FileHeader {
    pub(crate) fn encode(self) -> [u8; SECTOR_BYTES as usize] {
        let mut sector = [0; SECTOR_BYTES as usize];
        sector[8..16].copy_from_slice(&self.number.to_le_bytes());
        sector[16..24].copy_from_slice(&self.key.to_le_bytes());
        let crc = crc32c::crc32c(&sector[8..24]);
        sector[..4].copy_from_slice(&FILE_MAGIC.to_le_bytes());
        sector[4..8].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    /// `None` if this is not the first sector of a journal file, unchanged.
    pub(crate) fn decode(mut sector: &[u8]) -> Option<Self> {
        let magic = sector.try_get_u32_le().ok()?;
        let crc = sector.try_get_u32_le().ok()?;
        let fields = sector.get(..16)?;
        (magic == FILE_MAGIC && crc == crc32c::crc32c(fields))
            .then(|| Self { number: sector.get_u64_le(), key: sector.get_u64_le() })
    }
}

/// What stands in front of an entry's items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    pub(crate) sequence: u64,
    pub(crate) oldest: u64,
    /// Bytes of the whole entry.
    pub(crate) len_bytes: u32,
    /// Bytes before the payload.
    pub(crate) head_bytes: u32,
}

/// One item of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// Bytes of a segment.
    Run(Run),
    /// A topic that is deleted.
    Forgotten(String),
}

/// What a group wrote to one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// Base offset of the segment.
    pub(crate) segment: Offset,
    /// Where in it.
    pub(crate) position: u64,
    /// The partition's next offset after these bytes.
    pub(crate) next: Offset,
    pub(crate) len_bytes: u32,
    pub(crate) crc: u32,
}

impl Item {
    /// Bytes that a run of the topic takes in an entry's head.
    pub(crate) fn run_bytes(topic: &str) -> usize {
        RUN_BYTES + Self::forgotten_bytes(topic)
    }

    /// Bytes that the news of a deleted topic takes there.
    pub(crate) fn forgotten_bytes(topic: &str) -> usize {
        NAME_BYTES + topic.len()
    }
}

/// Bytes of an entry with so many bytes of items and payload.
pub(crate) fn entry_bytes(item_bytes: usize, payload_bytes: usize) -> u64 {
    ((FIXED_BYTES + item_bytes + payload_bytes) as u64).next_multiple_of(SECTOR_BYTES)
}

/// An entry's bytes up to its payload, and how many bytes it has with that. Topics' names have at most 255 bytes.
pub(crate) fn encode_head(
    key: u64,
    sequence: u64,
    oldest: u64,
    items: &[Item],
    payload_bytes: usize,
) -> (Vec<u8>, u64) {
    let mut head = Vec::with_capacity(FIXED_BYTES + items.len() * (RUN_BYTES + 32));
    head.put_u32_le(ENTRY_MAGIC);
    head.put_bytes(0, 4);
    head.put_u64_le(sequence);
    head.put_u64_le(oldest);
    head.put_bytes(0, 8);
    head.put_u32_le(u32::try_from(items.len()).expect("a group has fewer than 2^32 batches"));
    let put_topic = |head: &mut Vec<u8>, kind: u8, topic: &str| {
        head.put_u8(kind);
        head.put_u8(u8::try_from(topic.len()).expect("a topic's name has at most 249 bytes"));
        head.put_slice(topic.as_bytes());
    };
    for item in items {
        match item {
            Item::Run(run) => {
                put_topic(&mut head, RUN, &run.topic);
                head.put_i32_le(run.partition);
                head.put_i64_le(run.segment.0);
                head.put_u64_le(run.position);
                head.put_i64_le(run.next.0);
                head.put_u32_le(run.len_bytes);
                head.put_u32_le(run.crc);
            }
            Item::Forgotten(topic) => put_topic(&mut head, FORGOTTEN, topic),
        }
    }
    let len = entry_bytes(head.len() - FIXED_BYTES, payload_bytes);
    let head_bytes = head.len() as u32;
    head[24..28]
        .copy_from_slice(&u32::try_from(len).expect("an entry is smaller than a journal file").to_le_bytes());
    head[28..32].copy_from_slice(&head_bytes.to_le_bytes());
    let crc = checksum(key, &head[8..]);
    head[4..8].copy_from_slice(&crc.to_le_bytes());
    (head, len)
}

fn checksum(key: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&key.to_le_bytes()), bytes)
}

/// Reads the head of the entry at the front of `bytes`, which reach to the end of the file; `None` if there is none.
pub(crate) fn decode_head(key: u64, bytes: &[u8]) -> Option<(EntryHeader, Vec<Item>)> {
    let mut fields = bytes;
    let magic = fields.try_get_u32_le().ok()?;
    if magic != ENTRY_MAGIC || bytes.len() < FIXED_BYTES {
        return None;
    }
    let crc = fields.get_u32_le();
    let header = EntryHeader {
        sequence: fields.get_u64_le(),
        oldest: fields.get_u64_le(),
        len_bytes: fields.get_u32_le(),
        head_bytes: fields.get_u32_le(),
    };
    let count = fields.get_u32_le();
    let (len, head) = (header.len_bytes as usize, header.head_bytes as usize);
    let fits = len <= bytes.len() && head <= len && head >= FIXED_BYTES;
    // No journal comes so far.
    let is_counted = [header.sequence, header.oldest].iter().all(|number| i64::try_from(*number).is_ok());
    if !fits || !is_counted || checksum(key, &bytes[8..head]) != crc {
        return None;
    }
    let mut table = &bytes[FIXED_BYTES..head];
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(decode_item(&mut table)?);
    }
    Some((header, items))
}

fn decode_item(table: &mut &[u8]) -> Option<Item> {
    let kind = table.try_get_u8().ok()?;
    let len = usize::from(table.try_get_u8().ok()?);
    let topic = str::from_utf8(table.split_off(..len)?).ok()?.to_owned();
    match kind {
        RUN => Some(Item::Run(Run {
            topic,
            partition: table.try_get_i32_le().ok()?,
            segment: Offset(table.try_get_i64_le().ok()?),
            // No file is longer.
            position: table.try_get_u64_le().ok().filter(|position| i64::try_from(*position).is_ok())?,
            next: Offset(table.try_get_i64_le().ok()?),
            len_bytes: table.try_get_u32_le().ok()?,
            crc: table.try_get_u32_le().ok()?,
        })),
        FORGOTTEN => Some(Item::Forgotten(topic)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<Item> {
        let run = Run {
            topic: "orders".into(),
            partition: 3,
            segment: Offset(100),
            position: 4096,
            next: Offset(107),
            len_bytes: 5,
            crc: 0xabcd,
        };
        vec![Item::Run(run), Item::Forgotten("old".into())]
    }

    #[test]
    fn an_entry_after_which_none_can_come_is_none() {
        let read = |sequence, oldest| {
            let (mut bytes, _) = encode_head(7, sequence, oldest, &items(), 5);
            bytes.resize(SECTOR_BYTES as usize, 0);
            decode_head(7, &bytes).is_some()
        };
        assert!(read(42, 40) && !read(u64::MAX, 40) && !read(42, u64::MAX));
    }

    #[test]
    fn a_run_beyond_every_file_is_none() {
        let mut items = items();
        let read = |items: &[Item]| {
            let (mut bytes, _) = encode_head(7, 42, 40, items, 5);
            bytes.resize(SECTOR_BYTES as usize, 0);
            decode_head(7, &bytes).is_some()
        };
        assert!(read(&items));
        let Item::Run(run) = &mut items[0] else { panic!("it is a run") };
        run.position = u64::MAX - 1;
        assert!(!read(&items));
    }

    #[test]
    fn an_entry_is_read_back_and_any_change_to_its_head_is_seen() {
        let (head, _) = encode_head(7, 42, 40, &items(), 5);
        let mut bytes = head.clone();
        bytes.resize(SECTOR_BYTES as usize, 0);
        let (header, read) = decode_head(7, &bytes).unwrap();
        let expected =
            EntryHeader { sequence: 42, oldest: 40, len_bytes: 512, head_bytes: head.len() as u32 };
        assert_eq!((header, read), (expected, items()));
        assert_eq!(decode_head(8, &bytes), None, "another file's key");
        assert_eq!(decode_head(7, &bytes[..511]), None, "it reaches beyond the file");
        for bit in 0..head.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_head(7, &changed), None, "bit {bit}");
        }
    }

    /// Who counts on an entry's room before it is written counts right, wherever its last sector ends.
    #[test]
    fn an_entry_is_as_long_as_was_foreseen() {
        let item_bytes = Item::run_bytes("orders") + Item::forgotten_bytes("old");
        for payload_bytes in 0..2 * SECTOR_BYTES as usize {
            let foreseen = entry_bytes(item_bytes, payload_bytes);
            let (mut bytes, len_bytes) = encode_head(7, 42, 40, &items(), payload_bytes);
            assert_eq!(len_bytes, foreseen);
            assert_eq!(
                (bytes.len() + payload_bytes).next_multiple_of(SECTOR_BYTES as usize) as u64,
                foreseen
            );
            bytes.resize(foreseen as usize, 0);
            let (header, _) = decode_head(7, &bytes).unwrap();
            assert_eq!(u64::from(header.len_bytes), foreseen);
        }
    }

    #[test]
    fn a_file_is_known_by_its_header() {
        let header = FileHeader { number: 3, key: 99 };
        assert_eq!(FileHeader::decode(&header.encode()), Some(header));
        for bit in 0..24 * 8 {
            let mut changed = header.encode();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FileHeader::decode(&changed), None, "bit {bit}");
        }
        assert_eq!(FileHeader::decode(&[0; 512]), None);
        assert_eq!(FileHeader::decode(b"AJF1"), None);
    }
}
