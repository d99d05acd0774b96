//! A snapshot of the producers' state, `OFFSET.snapshot`: what is known after all records below that offset. Recovery takes
//! the newest one that is right and reads the batch headers that follow it. Layout, little-endian:
//!
//! ```text
//!  0  version   u32   3
//!  4  count     u32   producers
//!  8  { id i64 | epoch i16 | batches u8 | last_time i64
//!       | coordinator_epoch i32, -1: none | open i64, first offset of the open transaction, -1: none
//!       | { first u32, last u32, offset i64, end i64 } × batches } × count
//!  -  segments  u32   that had ends of aborted transactions (see `aborted`)
//!  -  entries   u32   that the last of these had
//!  -  { base i64 } × segments
//!  -  crc       u32   CRC-32C of the offset and of everything before
//! ```
//!
//! Up to version 2 the checksum was without the offset, so that an older snapshot under the name of a newer one was believed.
//! Version 1 knew no transactions: no producer had a coordinator epoch or anything open, and nothing followed the producers.

use std::collections::{HashMap, VecDeque};

use anabranch_core::{Offset, ProducerEpoch, ProducerId};
use bytes::{Buf, BufMut};

use super::{BATCHES_MAX, NO_COORDINATOR, Producer, Producers, Written};

const VERSION_FIRST: u32 = 1;
/// The last that did not know its offset.
const VERSION_NAMELESS: u32 = 2;
const VERSION: u32 = 3;
/// No offset.
const NONE: i64 = -1;

/// Which segments had ends of aborted transactions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AbortedSegments {
    /// Their bases, oldest first.
    pub(crate) bases: Vec<Offset>,
    /// Entries of the last one.
    pub(crate) entries: u32,
}

impl AbortedSegments {
    /// Entries of the segment that was written to; 0 if that was another.
    pub(crate) fn entries_of(&self, base: Offset) -> u32 {
        if self.bases.last() == Some(&base) { self.entries } else { 0 }
    }
}

/// What a snapshot says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) producers: Producers,
    pub(crate) aborted: AbortedSegments,
}

impl Snapshot {
    /// The bytes of the snapshot up to `at`.
    pub(crate) fn encode(at: Offset, producers: &Producers, aborted: &AbortedSegments) -> Vec<u8> {
        let mut by_id: Vec<_> = producers.by_id.iter().collect();
        by_id.sort_by_key(|(id, _)| **id);
        let mut bytes = Vec::new();
        let count = |len: usize| u32::try_from(len).expect("fewer than 2^32 fit in memory");
        bytes.put_u32_le(VERSION);
        bytes.put_u32_le(count(by_id.len()));
        for (id, producer) in by_id {
            bytes.put_i64_le(id.0);
            bytes.put_i16_le(producer.epoch.0);
            bytes.put_u8(producer.batches.len() as u8);
            bytes.put_i64_le(producer.last_time_ms);
            bytes.put_i32_le(producer.coordinator_epoch);
            bytes.put_i64_le(producer.open.map_or(NONE, |first| first.0));
            for batch in &producer.batches {
                bytes.put_i32_le(batch.first_sequence);
                bytes.put_i32_le(batch.last_sequence);
                bytes.put_i64_le(batch.base_offset.0);
                bytes.put_i64_le(batch.last_offset.0);
            }
        }
        bytes.put_u32_le(count(aborted.bases.len()));
        bytes.put_u32_le(aborted.entries);
        aborted.bases.iter().for_each(|base| bytes.put_i64_le(base.0));
        bytes.put_u32_le(checksum(VERSION, at, &bytes));
        bytes
    }

    /// `None` if these are not the bytes of the snapshot up to `at`, whole and unchanged.
    pub(crate) fn decode(at: Offset, bytes: &[u8]) -> Option<Self> {
        let (whole, crc) = bytes.split_last_chunk::<4>()?;
        let mut body = whole;
        let version = body.try_get_u32_le().ok()?;
        let is_known = (VERSION_FIRST..=VERSION).contains(&version);
        if !is_known || checksum(version, at, whole) != u32::from_le_bytes(*crc) {
            return None;
        }
        let count = body.try_get_u32_le().ok()?;
        let mut by_id = HashMap::new();
        for _ in 0..count {
            let id = ProducerId(body.try_get_i64_le().ok()?);
            by_id.insert(id, decode_producer(&mut body, version)?);
        }
        let mut aborted = AbortedSegments::default();
        if version > VERSION_FIRST {
            let count = body.try_get_u32_le().ok()?;
            aborted.entries = body.try_get_u32_le().ok()?;
            for _ in 0..count {
                aborted.bases.push(Offset(body.try_get_i64_le().ok()?));
            }
        }
        body.is_empty().then(|| Self { producers: Producers::of(by_id), aborted })
    }
}

fn checksum(version: u32, at: Offset, bytes: &[u8]) -> u32 {
    match version {
        ..=VERSION_NAMELESS => crc32c::crc32c(bytes),
        _ => crate::entries::checksum(at, bytes),
    }
}

fn decode_producer(body: &mut &[u8], version: u32) -> Option<Producer> {
    let epoch = ProducerEpoch(body.try_get_i16_le().ok()?);
    let batch_count = body.try_get_u8().ok()?;
    let last_time_ms = body.try_get_i64_le().ok()?;
    let (coordinator_epoch, open) = match version {
        VERSION_FIRST => (NO_COORDINATOR, NONE),
        _ => (body.try_get_i32_le().ok()?, body.try_get_i64_le().ok()?),
    };
    let open = (open != NONE).then_some(Offset(open));
    let mut batches = VecDeque::with_capacity(BATCHES_MAX);
    for _ in 0..batch_count {
        batches.push_back(Written {
            first_sequence: body.try_get_i32_le().ok()?,
            last_sequence: body.try_get_i32_le().ok()?,
            base_offset: Offset(body.try_get_i64_le().ok()?),
            last_offset: Offset(body.try_get_i64_le().ok()?),
        });
    }
    Some(Producer { epoch, last_time_ms, batches, coordinator_epoch, open, ended: 0 })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{after, batch, transaction};
    use super::*;

    #[test]
    fn a_snapshot_is_read_back_and_any_change_to_it_is_seen() {
        let mut producers = after(&[(0, 0, 2), (0, 2, 4)]);
        transaction(&mut producers, 9, 6);
        let aborted = AbortedSegments { bases: vec![Offset(0), Offset(5)], entries: 3 };
        let at = Offset(9);
        let snapshot = Snapshot::encode(at, &producers, &aborted);
        assert_eq!(
            Snapshot::decode(at, &snapshot),
            Some(Snapshot { producers: producers.clone(), aborted: aborted.clone() })
        );
        assert_eq!(Snapshot::decode(Offset(8), &snapshot), None, "another one's name");
        for bit in 0..snapshot.len() * 8 {
            let mut changed = snapshot.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Snapshot::decode(at, &changed), None, "bit {bit}");
        }
        producers.forget_before(i64::MAX);
        assert_eq!(producers.states().len(), 1, "what has something open is not forgotten");
        assert_eq!(producers.first_open(), Some(Offset(6)));
    }

    /// Written by 0.1: one producer, 7, in epoch 0, with sequences 0 and 1 at the offsets 0 and 1.
    #[test]
    fn a_snapshot_of_the_first_version_is_read() {
        let mut bytes = Vec::new();
        bytes.put_u32_le(1);
        bytes.put_u32_le(1);
        bytes.put_i64_le(7);
        bytes.put_i16_le(0);
        bytes.put_u8(1);
        bytes.put_i64_le(1000);
        bytes.put_i32_le(0);
        bytes.put_i32_le(1);
        bytes.put_i64_le(0);
        bytes.put_i64_le(1);
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        let read = Snapshot::decode(Offset(2), &bytes).unwrap();
        assert_eq!(read, Snapshot { producers: after(&[(0, 0, 2)]), aborted: AbortedSegments::default() });
        assert!(read.producers.judge(&batch(0, 5, 1), None).is_err());
    }
}
