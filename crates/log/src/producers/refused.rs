//! Batches that were to begin a producer's transaction in a partition, and were refused: Kafka's `VerificationStateEntry`
//! (KAFKA-14920, KIP-890).
//!
//! A client has several batches on their way. When the first is refused with an error that it retries, and a later one were
//! taken, the first would be out of order for ever: so nothing is taken that is above what was refused. By the rules from
//! version 2 on, a producer of which the partition knows no batch must begin at 0 besides.

use std::collections::HashMap;

use anabranch_core::batch::BatchHeader;
use anabranch_core::{ProducerEpoch, ProducerId};

use super::{Part, Producer, VERSION_WITH_EPOCHS};

/// So many producers of a partition are remembered at most: their ids are whatever clients say.
const PRODUCERS_MAX: usize = 1024;

/// What was refused, by producer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refused(HashMap<ProducerId, Lowest>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lowest {
    epoch: ProducerEpoch,
    sequence: i32,
    /// By which rules the first of them came.
    version: i8,
    since_ms: i64,
}

impl Lowest {
    fn of(batch: &BatchHeader, version: i8, since_ms: i64) -> Self {
        Self { epoch: batch.producer_epoch, sequence: batch.base_sequence, version, since_ms }
    }

    fn lower(&mut self, batch: &BatchHeader) {
        if batch.producer_epoch == self.epoch {
            self.sequence = self.sequence.min(batch.base_sequence);
        } else if batch.producer_epoch > self.epoch {
            (self.epoch, self.sequence) = (batch.producer_epoch, batch.base_sequence);
        }
    }
}

/// Whether a batch goes on with what its producer has open.
fn goes_on(batch: &BatchHeader, known: Option<&Producer>) -> bool {
    known.is_some_and(|producer| producer.open.is_some() && producer.epoch == batch.producer_epoch)
}

impl Refused {
    /// The sequence number that a batch must not be above, if it is; counting itself if it would begin a transaction.
    pub(super) fn bar(
        &self,
        batch: &BatchHeader,
        part: Option<Part>,
        known: Option<&Producer>,
    ) -> Option<i32> {
        let before = self.0.get(&batch.producer_id).copied();
        let lowest = match part.filter(|_| !goes_on(batch, known)) {
            None => before?,
            Some(part) => {
                let mut lowest = before.unwrap_or_else(|| Lowest::of(batch, part.version, 0));
                lowest.lower(batch);
                lowest
            }
        };
        let is_first = known.is_none_or(|producer| producer.batches.is_empty());
        let bar = match is_first && lowest.version >= VERSION_WITH_EPOCHS {
            true => 0,
            false => lowest.sequence,
        };
        (batch.base_sequence > bar).then_some(bar)
    }

    /// A batch was refused.
    pub(super) fn note(&mut self, batch: &BatchHeader, version: i8, known: Option<&Producer>, now_ms: i64) {
        let is_stale = known.is_some_and(|producer| batch.producer_epoch < producer.epoch);
        let is_numbered = batch.is_transactional() && batch.producer_id.is_some() && batch.base_sequence >= 0;
        if !is_numbered || is_stale || goes_on(batch, known) {
            return;
        }
        let has_room = self.0.len() < PRODUCERS_MAX;
        match self.0.get_mut(&batch.producer_id) {
            Some(lowest) => lowest.lower(batch),
            None if has_room => {
                self.0.insert(batch.producer_id, Lowest::of(batch, version, now_ms));
            }
            None => {}
        }
    }

    /// The producer has begun its transaction.
    pub(super) fn forget(&mut self, id: ProducerId) {
        self.0.remove(&id);
    }

    /// A transaction has ended. From version 2 on its marker has the epoch of the next one, which may be on its way.
    pub(super) fn end(&mut self, id: ProducerId, epoch: ProducerEpoch) {
        let is_next = |lowest: &Lowest| lowest.version >= VERSION_WITH_EPOCHS && lowest.epoch == epoch;
        if !self.0.get(&id).is_some_and(is_next) {
            self.0.remove(&id);
        }
    }

    /// Forgets what was refused before that.
    pub(super) fn forget_before(&mut self, oldest_ms: i64) {
        self.0.retain(|_, lowest| lowest.since_ms >= oldest_ms);
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::Offset;
    use anabranch_core::batch::{BatchBuilder, Compression, EndKind, EndMarker, Record};

    use super::*;
    use crate::AppendError;
    use crate::producers::{Producers, Verdict};

    fn header(producer: i64, epoch: i16, sequence: i32, is_transactional: bool) -> BatchHeader {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.producer(ProducerId(producer), ProducerEpoch(epoch), sequence);
        if is_transactional {
            builder.transactional();
        }
        BatchHeader::parse(&builder.push(&Record::new("k", "v")).build().unwrap()).unwrap()
    }

    /// Judges a batch of producer 7 and appends it if it may be: what comes next, if it may not.
    fn append(
        producers: &mut Producers,
        epoch: i16,
        sequence: i32,
        version: Option<i8>,
    ) -> Result<(), Option<i32>> {
        let batch = header(7, epoch, sequence, version.is_some());
        match producers.judge(&batch, version.map(|version| Part { ordinal: 1, version })) {
            Ok(Verdict::Append) => {
                producers.note(&batch, Offset(i64::from(sequence)), 1000);
                Ok(())
            }
            Ok(Verdict::Duplicate(_)) => Err(None),
            Err(AppendError::OutOfOrderSequence { expected, .. }) => Err(Some(expected)),
            Err(error) => panic!("{error}"),
        }
    }

    fn refuse(producers: &mut Producers, epoch: i16, sequence: i32, version: i8) {
        producers.note_refused(&header(7, epoch, sequence, true), version, 1000);
    }

    fn end(producers: &mut Producers, epoch: i16) {
        let marker = EndMarker { kind: EndKind::Commit, coordinator_epoch: 0 };
        let header = *marker.batch(ProducerId(7), ProducerEpoch(epoch), 5).header();
        producers.note_end(&header, Some(marker), Offset(100), 0, 1000);
    }

    /// A client sent 4, which the coordinator had no time for, and 5; 5 was appended, and every retry of 4 out of order.
    #[test]
    fn nothing_is_taken_above_what_was_refused() {
        for version in [0, 1] {
            let mut producers = Producers::default();
            refuse(&mut producers, 0, 4, version);
            assert_eq!(append(&mut producers, 0, 5, Some(version)), Err(Some(4)));
            assert_eq!(append(&mut producers, 0, 5, None), Err(Some(4)), "nor a plain one");
            assert_eq!(append(&mut producers, 0, 4, Some(version)), Ok(()));
            assert_eq!(append(&mut producers, 0, 5, Some(version)), Ok(()), "its transaction has begun");
        }
    }

    /// What follows a batch that was refused is out of order even when others have come to stand in between: in Kafka the
    /// lowest number counts until the transaction begins.
    #[test]
    fn plain_batches_do_not_stand_in_for_what_was_refused() {
        let mut producers = Producers::default();
        refuse(&mut producers, 0, 0, 2);
        assert_eq!(append(&mut producers, 0, 0, None), Ok(()));
        assert_eq!(append(&mut producers, 0, 1, Some(2)), Err(Some(0)));
        end(&mut producers, 1);
        assert_eq!(append(&mut producers, 1, 0, Some(2)), Ok(()));
    }

    #[test]
    fn from_version_two_on_who_is_unknown_begins_at_zero() {
        let mut producers = Producers::default();
        assert_eq!(append(&mut producers, 0, 3, Some(2)), Err(Some(0)));
        refuse(&mut producers, 0, 3, 2);
        assert_eq!(append(&mut producers, 0, 3, None), Err(Some(0)));
        assert_eq!(append(&mut producers, 0, 0, Some(2)), Ok(()));
        // The rules are those by which the first of them came.
        let mut producers = Producers::default();
        refuse(&mut producers, 0, 3, 1);
        assert_eq!(append(&mut producers, 0, 3, Some(2)), Ok(()));
    }

    #[test]
    fn the_lowest_of_the_newest_epoch_counts() {
        let mut producers = Producers::default();
        for (epoch, sequence) in [(1, 5), (1, 3), (1, 4), (0, 0)] {
            refuse(&mut producers, epoch, sequence, 1);
        }
        assert_eq!(append(&mut producers, 1, 4, Some(1)), Err(Some(3)));
        refuse(&mut producers, 2, 4, 1);
        assert_eq!(append(&mut producers, 2, 4, Some(1)), Ok(()));
        // Nor counts what goes on with a transaction, or comes from before it.
        refuse(&mut producers, 2, 0, 1);
        refuse(&mut producers, 1, 0, 1);
        assert_eq!(append(&mut producers, 2, 5, Some(1)), Ok(()));
    }

    #[test]
    fn an_end_forgets_it_but_for_what_the_next_epoch_has_sent_already() {
        for (version, marker_epoch, barred) in [(1, 0, false), (2, 0, true), (2, 1, false)] {
            let mut producers = Producers::default();
            refuse(&mut producers, 0, 0, version);
            end(&mut producers, marker_epoch);
            let taken = append(&mut producers, marker_epoch, 0, None);
            assert_eq!(taken, Ok(()));
            let next = append(&mut producers, marker_epoch, 1, None);
            assert_eq!(next, if barred { Err(Some(0)) } else { Ok(()) }, "{version} {marker_epoch}");
        }
    }

    #[test]
    fn no_more_is_remembered_than_that_and_not_for_ever() {
        let mut producers = Producers::default();
        for producer in 0..PRODUCERS_MAX as i64 + 1 {
            producers.note_refused(&header(producer, 0, 0, true), 1, producer);
        }
        assert_eq!(producers.refused.0.len(), PRODUCERS_MAX);
        producers.forget_before(1000);
        assert_eq!(producers.refused.0.len(), PRODUCERS_MAX - 1000);
    }
}
