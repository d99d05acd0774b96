//! What the log remembers of idempotent producers, so that a retried batch is stored once.
//!
//! For each producer the last five batches are kept (Kafka's `ProducerStateEntry`: a client has at most five requests in
//! flight). A snapshot stands beside the segments, `OFFSET.snapshot`: the state after all records below that offset.
//! Recovery takes the newest one that is right and reads the batch headers that follow it. Layout, little-endian:
//!
//! ```text
//!  0  version   u32   1
//!  4  count     u32   producers
//!  8  { id i64 | epoch i16 | batches u8 | last_time i64 | { first u32, last u32, offset i64, end i64 } × batches } × count
//!  -  crc       u32   CRC-32C of everything before
//! ```

use std::collections::{HashMap, VecDeque};

use anabranch_core::batch::BatchHeader;
use anabranch_core::{Offset, ProducerEpoch, ProducerId};
use bytes::{Buf, BufMut};

use crate::{AppendError, ProducerState};

/// Batches remembered per producer.
const BATCHES_MAX: usize = 5;
const VERSION: u32 = 1;

/// A batch that a producer wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    first_sequence: i32,
    last_sequence: i32,
    pub(crate) base_offset: Offset,
    pub(crate) last_offset: Offset,
}

/// One producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Producer {
    epoch: ProducerEpoch,
    last_time_ms: i64,
    batches: VecDeque<Written>,
}

/// What is to be done with a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Append it.
    Append,
    /// It is there already.
    Duplicate(Written),
}

/// All producers of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    by_id: HashMap<ProducerId, Producer>,
}

impl Producers {
    /// Judges a batch that comes from a client, as Kafka's `ProducerAppendInfo` does.
    pub(crate) fn judge(&self, batch: &BatchHeader) -> Result<Verdict, AppendError> {
        if !batch.producer_id.is_some() {
            return Ok(Verdict::Append);
        }
        // A producer that was never seen, or forgotten, may begin anywhere.
        let Some(producer) = self.by_id.get(&batch.producer_id) else { return Ok(Verdict::Append) };
        if batch.producer_epoch < producer.epoch {
            return Err(AppendError::InvalidProducerEpoch {
                producer: batch.producer_id,
                current: producer.epoch,
                found: batch.producer_epoch,
            });
        }
        let expected = if batch.producer_epoch > producer.epoch {
            0
        } else {
            let same = |written: &&Written| {
                written.first_sequence == batch.base_sequence
                    && written.last_sequence == batch.last_sequence()
            };
            if let Some(written) = producer.batches.iter().find(same) {
                return Ok(Verdict::Duplicate(*written));
            }
            match producer.batches.back() {
                Some(last) if last.last_sequence == i32::MAX => 0,
                Some(last) => last.last_sequence + 1,
                None => return Ok(Verdict::Append),
            }
        };
        if batch.base_sequence == expected {
            return Ok(Verdict::Append);
        }
        Err(AppendError::OutOfOrderSequence {
            producer: batch.producer_id,
            expected,
            found: batch.base_sequence,
        })
    }

    /// Takes note of a batch at its place in the log. Returns what was known of the producer, for [`Self::take_back`].
    pub(crate) fn note(
        &mut self,
        batch: &BatchHeader,
        base_offset: Offset,
        now_ms: i64,
    ) -> Option<(ProducerId, Option<Producer>)> {
        if !batch.producer_id.is_some() || batch.is_control() {
            return None;
        }
        let before = self.by_id.get(&batch.producer_id).cloned();
        let fresh =
            || Producer { epoch: batch.producer_epoch, last_time_ms: now_ms, batches: VecDeque::new() };
        let producer = self.by_id.entry(batch.producer_id).or_insert_with(fresh);
        if producer.epoch != batch.producer_epoch {
            *producer = fresh();
        }
        producer.last_time_ms = now_ms;
        if producer.batches.len() == BATCHES_MAX {
            producer.batches.pop_front();
        }
        producer.batches.push_back(Written {
            first_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            base_offset,
            last_offset: base_offset.plus(i64::from(batch.last_offset_delta)),
        });
        Some((batch.producer_id, before))
    }

    /// Undoes a [`Self::note`]; the newest first when there are several.
    pub(crate) fn take_back(&mut self, (id, before): (ProducerId, Option<Producer>)) {
        match before {
            Some(producer) => self.by_id.insert(id, producer),
            None => self.by_id.remove(&id),
        };
    }

    /// Where each producer's last batch ends.
    pub(crate) fn last_offsets(&self) -> HashMap<ProducerId, Offset> {
        let last = |producer: &Producer| producer.batches.back().map(|written| written.last_offset);
        self.by_id.iter().filter_map(|(id, producer)| Some((*id, last(producer)?))).collect()
    }

    /// Forgets producers that have written nothing since `oldest_ms`.
    pub(crate) fn forget_before(&mut self, oldest_ms: i64) {
        self.by_id.retain(|_, producer| producer.last_time_ms >= oldest_ms);
    }

    /// Everything that is remembered, by id.
    pub(crate) fn states(&self) -> Vec<ProducerState> {
        let state = |(id, producer): (&ProducerId, &Producer)| ProducerState {
            id: *id,
            epoch: producer.epoch,
            last_time_ms: producer.last_time_ms,
            batches: producer
                .batches
                .iter()
                .map(|batch| {
                    (batch.first_sequence, batch.last_sequence, batch.base_offset, batch.last_offset)
                })
                .collect(),
        };
        let mut states: Vec<ProducerState> = self.by_id.iter().map(state).collect();
        states.sort_by_key(|state| state.id);
        states
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut producers: Vec<_> = self.by_id.iter().collect();
        producers.sort_by_key(|(id, _)| **id);
        let mut bytes = Vec::new();
        bytes.put_u32_le(VERSION);
        bytes.put_u32_le(u32::try_from(producers.len()).expect("fewer than 2^32 producers fit in memory"));
        for (id, producer) in producers {
            bytes.put_i64_le(id.0);
            bytes.put_i16_le(producer.epoch.0);
            bytes.put_u8(producer.batches.len() as u8);
            bytes.put_i64_le(producer.last_time_ms);
            for batch in &producer.batches {
                bytes.put_i32_le(batch.first_sequence);
                bytes.put_i32_le(batch.last_sequence);
                bytes.put_i64_le(batch.base_offset.0);
                bytes.put_i64_le(batch.last_offset.0);
            }
        }
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        bytes
    }

    /// `None` if these are not a snapshot's bytes, whole and unchanged.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) || body.try_get_u32_le().ok()? != VERSION {
            return None;
        }
        let count = body.try_get_u32_le().ok()?;
        let mut by_id = HashMap::new();
        for _ in 0..count {
            let id = ProducerId(body.try_get_i64_le().ok()?);
            let epoch = ProducerEpoch(body.try_get_i16_le().ok()?);
            let batch_count = body.try_get_u8().ok()?;
            let last_time_ms = body.try_get_i64_le().ok()?;
            let mut batches = VecDeque::with_capacity(BATCHES_MAX);
            for _ in 0..batch_count {
                batches.push_back(Written {
                    first_sequence: body.try_get_i32_le().ok()?,
                    last_sequence: body.try_get_i32_le().ok()?,
                    base_offset: Offset(body.try_get_i64_le().ok()?),
                    last_offset: Offset(body.try_get_i64_le().ok()?),
                });
            }
            by_id.insert(id, Producer { epoch, last_time_ms, batches });
        }
        body.is_empty().then_some(Self { by_id })
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::batch::{BatchBuilder, Compression, Record};

    use super::*;

    fn batch(epoch: i16, sequence: i32, count: i32) -> BatchHeader {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.producer(ProducerId(7), ProducerEpoch(epoch), sequence);
        (0..count).for_each(|_| {
            builder.push(&Record::new("k", "v"));
        });
        BatchHeader::parse(&builder.build().unwrap()).unwrap()
    }

    fn after(batches: &[(i16, i32, i32)]) -> Producers {
        let mut producers = Producers::default();
        let mut offset = 0;
        for &(epoch, sequence, count) in batches {
            let header = batch(epoch, sequence, count);
            assert_eq!(producers.judge(&header).unwrap(), Verdict::Append, "{epoch} {sequence}");
            producers.note(&header, Offset(offset), 1000);
            offset += i64::from(count);
        }
        producers
    }

    #[test]
    fn five_batches_are_remembered_and_the_sixth_is_out_of_order() {
        let producers = after(&[(0, 0, 2), (0, 2, 1), (0, 3, 1), (0, 4, 1), (0, 5, 1), (0, 6, 3)]);
        for (sequence, count, base, last) in [(2, 1, 2, 2), (6, 3, 6, 8)] {
            match producers.judge(&batch(0, sequence, count)).unwrap() {
                Verdict::Duplicate(written) => {
                    assert_eq!((written.base_offset.0, written.last_offset.0), (base, last));
                }
                Verdict::Append => panic!("sequence {sequence} is a duplicate"),
            }
        }
        for (sequence, count) in [(0, 2), (6, 2), (10, 1), (8, 1)] {
            let refused = producers.judge(&batch(0, sequence, count));
            assert!(
                matches!(refused, Err(AppendError::OutOfOrderSequence { expected: 9, .. })),
                "{sequence}"
            );
        }
    }

    #[test]
    fn a_newer_epoch_begins_at_zero_and_fences_the_older() {
        let mut producers = after(&[(0, 0, 2)]);
        assert!(matches!(
            producers.judge(&batch(1, 2, 1)),
            Err(AppendError::OutOfOrderSequence { expected: 0, .. })
        ));
        let next = batch(1, 0, 1);
        assert_eq!(producers.judge(&next).unwrap(), Verdict::Append);
        producers.note(&next, Offset(2), 1000);
        assert!(matches!(producers.judge(&batch(0, 2, 1)), Err(AppendError::InvalidProducerEpoch { .. })));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let producers = after(&[(0, i32::MAX - 1, 2)]);
        assert_eq!(producers.judge(&batch(0, 0, 1)).unwrap(), Verdict::Append);
        assert!(producers.judge(&batch(0, 1, 1)).is_err());
    }

    #[test]
    fn a_note_is_taken_back() {
        let mut producers = after(&[(0, 0, 2)]);
        let before = producers.clone();
        let first = producers.note(&batch(0, 2, 1), Offset(2), 2000).unwrap();
        let second = producers.note(&batch(1, 0, 1), Offset(3), 3000).unwrap();
        producers.take_back(second);
        producers.take_back(first);
        assert_eq!(producers, before);
    }

    #[test]
    fn a_snapshot_is_read_back_and_any_change_to_it_is_seen() {
        let mut producers = after(&[(0, 0, 2), (0, 2, 4)]);
        let snapshot = producers.encode();
        assert_eq!(Producers::decode(&snapshot), Some(producers.clone()));
        for bit in 0..snapshot.len() * 8 {
            let mut changed = snapshot.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Producers::decode(&changed), None, "bit {bit}");
        }
        producers.forget_before(1001);
        assert_eq!(producers, Producers::default());
    }
}
