//! Ids for idempotent producers: no id is ever given twice.

use anabranch_core::{ProducerEpoch, ProducerId};
use tokio::sync::Mutex;

use crate::catalogue::{Key, ProducerIdsRecord, Version};
use crate::error::ProducerIdError;
use crate::journal::Journal;

/// How many ids are reserved by one record, as in Kafka (`ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`): those of a block
/// that were not given when the process dies are never given.
const BLOCK_IDS: i64 = 1000;

#[derive(Debug)]
pub(crate) struct ProducerIds {
    journal: Journal,
    /// Held while a block is being reserved, so that everybody who needs it waits for the one append.
    block: Mutex<Block>,
}

#[derive(Debug)]
struct Block {
    next: i64,
    end: i64,
}

impl ProducerIds {
    /// Goes on where the catalogue's last record ended.
    pub(crate) fn new(journal: Journal, next: i64) -> Self {
        Self { journal, block: Mutex::new(Block { next, end: next }) }
    }

    pub(crate) async fn next(&self) -> Result<(ProducerId, ProducerEpoch), ProducerIdError> {
        let mut block = self.block.lock().await;
        if block.next == block.end {
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
