//! Ids for idempotent producers: no id is ever given twice, nor one that another cluster is likely to give.
//!
//! Kafka counts from 0. A producer that goes on elsewhere with its id (a client that is redirected, ADR 0023) would there be taken for
//! whoever has the same id, and its records for repeats. So the ids of a data directory begin at a random place far from there. A
//! directory that has begun at 0, by an older version, goes on from where it is.

use std::fmt;
use std::sync::Arc;

use anabranch_core::seam::Random;
use anabranch_core::{ProducerEpoch, ProducerId};
use tokio::sync::Mutex;

use crate::catalogue::{Key, ProducerIdsRecord, Version};
use crate::error::ProducerIdError;
use crate::journal::Journal;

/// How many ids are reserved by one record, as in Kafka (`ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`): those of a block
/// that were not given when the process dies are never given.
const BLOCK_IDS: i64 = 1000;
/// No directory begins below: Kafka's ids are, however long it lives.
const FIRST_ID_MIN: i64 = 1 << 40;
/// Nor above: there is room for as many again.
const FIRST_ID_MAX: i64 = 1 << 62;

pub(crate) struct ProducerIds {
    journal: Journal,
    random: Arc<dyn Random>,
    /// Held while a block is being reserved, so that everybody who needs it waits for the one append.
    block: Mutex<Block>,
}

#[derive(Debug)]
struct Block {
    next: i64,
    end: i64,
}

impl ProducerIds {
    /// Goes on where the catalogue's last record ended; that is 0 if no id was ever given.
    pub(crate) fn new(journal: Journal, next: i64, random: Arc<dyn Random>) -> Self {
        Self { journal, random, block: Mutex::new(Block { next, end: next }) }
    }

    /// Whether ids were given that a Kafka cluster may give as well.
    pub(crate) async fn are_common(&self) -> bool {
        is_common(self.block.lock().await.end)
    }

    pub(crate) async fn next(&self) -> Result<(ProducerId, ProducerEpoch), ProducerIdError> {
        let mut block = self.block.lock().await;
        if block.next == block.end {
            if block.end == 0 {
                let first = first_id(self.random.next_u64());
                *block = Block { next: first, end: first };
            }
            // Forgotten by a caller that goes away here, the block is lost, which harms nobody: the next caller asks for
            // the same one again.
            let end = block.end + BLOCK_IDS;
            let record = ProducerIdsRecord { version: Version, next: end };
            self.journal.append(&[Key::ProducerIds.record(&record)]).await?;
            block.end = end;
        }
        let id = block.next;
        block.next += 1;
        Ok((ProducerId(id), ProducerEpoch(0)))
    }
}

/// Whether ids up to `end` were given that a Kafka cluster may give as well.
fn is_common(end: i64) -> bool {
    (1..FIRST_ID_MIN).contains(&end)
}

fn first_id(random: u64) -> i64 {
    FIRST_ID_MIN + (random % FIRST_ID_MAX.abs_diff(FIRST_ID_MIN)).cast_signed()
}

impl fmt::Debug for ProducerIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerIds").field("block", &self.block).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_id_is_far_from_those_of_kafka_and_from_the_end() {
        for random in [0, 1, 999, u64::from(u32::MAX), u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            let first = first_id(random);
            assert!((FIRST_ID_MIN..FIRST_ID_MAX).contains(&first), "{random}: {first}");
        }
        assert_ne!(first_id(1), first_id(2));
    }

    /// A directory of the version before has given ids from 0 on, and a new one none yet.
    #[test]
    fn ids_are_common_if_they_began_at_zero() {
        for (end, expected) in [(0, false), (1000, true), (1 << 39, true), (first_id(0) + BLOCK_IDS, false)] {
            assert_eq!(is_common(end), expected, "{end}");
        }
    }
}
