//! What a pass knows of transactions: whose records were aborted, and which markers still end something.
//!
//! The rules are those of Kafka's cleaner (`CleanedTransactionMetadata`):
//!
//! * Records of an aborted transaction go, and are no key's newest.
//! * A marker stays while passes meet batches of its transaction, be they without records. After that it goes as a tombstone
//!   does.
//! * `BASE.aborted` of the new segment has the transactions of which the pass has met batches. So where there are records
//!   there is an entry, and where there is an entry there is a marker: who reads committed records, is told of an aborted
//!   transaction and meets no marker leaves out what its producer commits later.
//!
//! A pass begins with the first segment of the log, so that it has met whatever there is of a transaction before its marker.
//! Since the segments take their places in order, a pass that is given up has never removed a marker before its records.

use std::collections::BTreeMap;

use anabranch_core::batch::{Batch, BatchError, BatchHeader};
use anabranch_core::planted::{self, Bug};
use anabranch_core::{Offset, ProducerId};

use crate::producers::{AbortedTransaction, Producers};

/// Aborted transactions, by producer and first offset: those of one producer do not overlap.
#[derive(Debug, Default)]
pub(super) struct AbortedSpans(BTreeMap<(ProducerId, Offset), AbortedTransaction>);

impl FromIterator<AbortedTransaction> for AbortedSpans {
    fn from_iter<I: IntoIterator<Item = AbortedTransaction>>(transactions: I) -> Self {
        Self(transactions.into_iter().map(|aborted| ((aborted.producer, aborted.first), aborted)).collect())
    }
}

impl AbortedSpans {
    /// Whether a client's batch is of one of them.
    pub(super) fn hold(&self, batch: &BatchHeader) -> bool {
        let begun = self.last_begun(batch).filter(|_| batch.is_transactional());
        begun.is_some_and(|aborted| batch.base_offset < aborted.last)
    }

    /// The one of the batch's producer that began last before it.
    fn last_begun(&self, batch: &BatchHeader) -> Option<&AbortedTransaction> {
        let (producer, at) = (batch.producer_id, batch.base_offset);
        self.0.range((producer, Offset(0))..=(producer, at)).next_back().map(|(_, aborted)| aborted)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// Those that were aborted and of which there may be records in the segment that the pass is in.
    pub(super) aborted: AbortedSpans,
    /// What the pass has met.
    met: Producers,
}

impl Transactions {
    /// Whether nobody needs what is in the batch: it was aborted, or ends what nothing is left of.
    pub(super) fn is_void(&self, batch: &BatchHeader) -> bool {
        match batch.is_control() {
            true => !self.met.is_open(batch.producer_id) || planted::is(Bug::MarkerDroppedEarly),
            false => self.aborted.hold(batch),
        }
    }

    /// Goes past a batch. The aborted transaction that it ends, if it is one that is still to be told of.
    pub(super) fn pass(&mut self, batch: &Batch) -> Result<Option<AbortedTransaction>, BatchError> {
        let header = batch.header();
        if !header.is_transactional() {
            return Ok(None);
        }
        let ended = self.met.pass(header, batch.end_marker()?, 0);
        Ok(match planted::is(Bug::AbortedEntryOutlivesMarker) {
            true => {
                ended.or(self.aborted.last_begun(header).filter(|it| it.last == header.base_offset).copied())
            }
            false => ended,
        })
    }
}
