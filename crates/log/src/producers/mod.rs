//! What the log remembers of producers: so that a retried batch is stored once, and of whom something is open.
//!
//! For each producer the last five batches are kept (Kafka's `ProducerStateEntry`: a client has at most five requests in
//! flight), and where its open transaction begins. All of it follows from the batches' headers and the markers, and is
//! saved beside the segments ([`snapshot`]). Two things are kept in memory only: which transaction of a producer has ended
//! last, by the coordinator's number, for what belongs to it or to an older one comes too late, and would open a transaction
//! that nobody ends; and which batches that would begin one were refused ([`refused`]). After a restart nothing is on its
//! way any more.

mod refused;
mod snapshot;

use std::collections::{BTreeSet, HashMap, VecDeque};

use anabranch_core::batch::{BatchHeader, EndKind, EndMarker};
use anabranch_core::planted::{self, Bug};
use anabranch_core::{Offset, ProducerEpoch, ProducerId};

use self::refused::Refused;
use crate::{AppendError, ProducerState};
pub(crate) use snapshot::{AbortedSegments, Snapshot};

/// Batches remembered per producer.
const BATCHES_MAX: usize = 5;
/// No coordinator has ended a transaction of the producer.
const NO_COORDINATOR: i32 = -1;
/// From here on each end gives the producer a new epoch (KIP-890).
const VERSION_WITH_EPOCHS: i8 = 2;
/// The last epoch: nobody has it but the marker that ends the epochs of a producer id.
const EPOCH_LAST: ProducerEpoch = ProducerEpoch(i16::MAX);

/// Where an append belongs, as the transaction's coordinator says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Of the transaction. Numbers grow, so that what an end has left behind is known.
    pub ordinal: u64,
    /// `transaction.version`: by which rules.
    pub version: i8,
}

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
    /// Of the last marker.
    coordinator_epoch: i32,
    /// Where its open transaction begins.
    open: Option<Offset>,
    /// The last transaction that has ended.
    ended: u64,
}

impl Producer {
    fn new(epoch: ProducerEpoch) -> Self {
        let batches = VecDeque::new();
        Self { epoch, last_time_ms: 0, batches, coordinator_epoch: NO_COORDINATOR, open: None, ended: 0 }
    }

    /// A new epoch begins with the sequence 0.
    fn move_to(&mut self, epoch: ProducerEpoch, now_ms: i64) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
        self.last_time_ms = now_ms;
    }
}

/// What is to be done with a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Append it.
    Append,
    /// It is there already.
    Duplicate(Written),
}

/// What was known of a producer before a batch was noted.
pub(crate) type Before = (ProducerId, Option<Producer>);

/// What must stay of a producer in the log, if all else goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastWord {
    /// Its last batch, which ends here: a retry is known by the sequence number.
    Data(Offset),
    /// The end of a transaction, in this epoch, in which it has numbered nothing since: it refuses older ones.
    End(ProducerEpoch),
}

/// A transaction that was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AbortedTransaction {
    pub(crate) producer: ProducerId,
    /// Its first offset.
    pub(crate) first: Offset,
    /// The marker's.
    pub(crate) last: Offset,
    /// The last stable offset after the marker.
    pub(crate) stable: Offset,
}

/// All producers of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    by_id: HashMap<ProducerId, Producer>,
    /// Where open transactions begin.
    open: BTreeSet<Offset>,
    /// Of producers that are to begin one.
    refused: Refused,
}

impl Producers {
    fn of(by_id: HashMap<ProducerId, Producer>) -> Self {
        let open = by_id.values().filter_map(|producer| producer.open).collect();
        Self { by_id, open, refused: Refused::default() }
    }

    /// Judges a batch that comes from a client, as Kafka's `ProducerAppendInfo` does, and whether it is in a transaction
    /// that has not ended.
    pub(crate) fn judge(&self, batch: &BatchHeader, part: Option<Part>) -> Result<Verdict, AppendError> {
        let id = batch.producer_id;
        let known = self.by_id.get(&id).filter(|_| id.is_some());
        if let Some(producer) = known {
            if batch.producer_epoch < producer.epoch && !planted::is(Bug::FencedByIdOnly) {
                return Err(stale_epoch(batch, producer));
            }
            let same = |written: &&Written| {
                batch.producer_epoch == producer.epoch
                    && batch.base_sequence >= 0
                    && written.first_sequence == batch.base_sequence
                    && written.last_sequence == batch.last_sequence()
            };
            if let Some(written) = producer.batches.iter().find(same) {
                return Ok(Verdict::Duplicate(*written));
            }
        }
        let part = part.filter(|_| batch.is_transactional());
        let ended = known.map_or(0, |producer| producer.ended);
        let fits = match part {
            Some(part) => id.is_some() && (part.ordinal > ended || planted::is(Bug::LateBatchTaken)),
            None => !batch.is_transactional(),
        };
        if !fits {
            return Err(AppendError::NotInTransaction { producer: id });
        }
        // The coordinator of groups has one request in flight, and no sequence.
        let is_unnumbered = part.is_some() && batch.base_sequence < 0;
        if !id.is_some() || is_unnumbered {
            return Ok(Verdict::Append);
        }
        let out_of_order =
            |expected| AppendError::OutOfOrderSequence { producer: id, expected, found: batch.base_sequence };
        if let Some(expected) = self.refused.bar(batch, part, known) {
            return Err(out_of_order(expected));
        }
        let expected = match known {
            // Who was never seen, or is forgotten, may begin anywhere.
            None => return Ok(Verdict::Append),
            Some(producer) if batch.producer_epoch > producer.epoch => 0,
            Some(producer) => match producer.batches.back() {
                Some(last) if last.last_sequence == i32::MAX => 0,
                Some(last) => last.last_sequence + 1,
                None => 0,
            },
        };
        // As there, what comes out of order is told first.
        let is_amid = !batch.is_transactional() && known.is_some_and(|producer| producer.open.is_some());
        if batch.base_sequence == expected {
            return if is_amid {
                Err(AppendError::NotInTransaction { producer: id })
            } else {
                Ok(Verdict::Append)
            };
        }
        Err(out_of_order(expected))
    }

    /// Takes note of a client's batch that was meant for a transaction and is not appended, for whatever reason; by what rules
    /// it came.
    pub(crate) fn note_refused(&mut self, batch: &BatchHeader, version: i8, now_ms: i64) {
        self.refused.note(batch, version, self.by_id.get(&batch.producer_id), now_ms);
    }

    /// Judges the end of a transaction, as Kafka's `ProducerAppendInfo.appendEndTxnMarker` does. From version 2 on its epoch
    /// is above that of the data, so that what comes late is refused; but for an end that is repeated.
    pub(crate) fn judge_end(
        &self,
        batch: &BatchHeader,
        marker: EndMarker,
        version: i8,
    ) -> Result<(), AppendError> {
        let Some(producer) = self.by_id.get(&batch.producer_id) else { return Ok(()) };
        let is_stale = match batch.producer_epoch.cmp(&producer.epoch) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => {
                let is_last = batch.producer_epoch == EPOCH_LAST;
                version >= VERSION_WITH_EPOCHS && producer.open.is_some() && !is_last
            }
            std::cmp::Ordering::Greater => false,
        };
        if is_stale {
            return Err(stale_epoch(batch, producer));
        }
        if marker.coordinator_epoch < producer.coordinator_epoch {
            return Err(AppendError::CoordinatorFenced {
                current: producer.coordinator_epoch,
                found: marker.coordinator_epoch,
            });
        }
        Ok(())
    }

    /// Takes note of a client's batch at its place in the log. Returns what was known of the producer, for
    /// [`Self::take_back`].
    pub(crate) fn note(&mut self, batch: &BatchHeader, base_offset: Offset, now_ms: i64) -> Option<Before> {
        assert!(!batch.is_control(), "the end of a transaction is noted as such");
        if !batch.producer_id.is_some() {
            return None;
        }
        let before = self.by_id.get(&batch.producer_id).cloned();
        let new = || Producer::new(batch.producer_epoch);
        let producer = self.by_id.entry(batch.producer_id).or_insert_with(new);
        producer.move_to(batch.producer_epoch, now_ms);
        if batch.is_transactional() {
            self.refused.forget(batch.producer_id);
            if producer.open.is_none() {
                producer.open = Some(base_offset);
                self.open.insert(base_offset);
            }
        }
        if batch.base_sequence >= 0 || !batch.is_transactional() {
            if producer.batches.len() == BATCHES_MAX {
                producer.batches.pop_front();
            }
            producer.batches.push_back(Written {
                first_sequence: batch.base_sequence,
                last_sequence: batch.last_sequence(),
                base_offset,
                last_offset: base_offset.plus(i64::from(batch.last_offset_delta)),
            });
        }
        Some((batch.producer_id, before))
    }

    /// Takes note of the end of the transaction `ordinal`, or of what compaction has left of one, which is the epoch. Returns
    /// what was known of the producer, and the transaction if there was one and it was aborted.
    pub(crate) fn note_end(
        &mut self,
        batch: &BatchHeader,
        marker: Option<EndMarker>,
        base_offset: Offset,
        ordinal: u64,
        now_ms: i64,
    ) -> (Option<Before>, Option<AbortedTransaction>) {
        let id = batch.producer_id;
        if !id.is_some() {
            return (None, None);
        }
        let before = self.by_id.get(&id).cloned();
        let producer = self.by_id.entry(id).or_insert_with(|| Producer::new(batch.producer_epoch));
        producer.move_to(batch.producer_epoch, now_ms);
        let Some(marker) = marker else { return (Some((id, before)), None) };
        producer.coordinator_epoch = marker.coordinator_epoch;
        producer.ended = producer.ended.max(ordinal);
        self.refused.end(id, batch.producer_epoch);
        let first = producer.open.take();
        if let Some(first) = first {
            self.open.remove(&first);
        }
        let stable = self.first_open().unwrap_or(base_offset.plus(1));
        let aborted = first.filter(|_| marker.kind == EndKind::Abort).map(|first| AbortedTransaction {
            producer: id,
            first,
            last: base_offset,
            stable,
        });
        (Some((id, before)), aborted)
    }

    /// Takes note of a batch that stands in the log; `marker` is what it ends. The transaction that it aborts, if any.
    pub(crate) fn pass(
        &mut self,
        batch: &BatchHeader,
        marker: Option<EndMarker>,
        now_ms: i64,
    ) -> Option<AbortedTransaction> {
        if batch.is_control() {
            return self.note_end(batch, marker, batch.base_offset, 0, now_ms).1;
        }
        self.note(batch, batch.base_offset, now_ms);
        None
    }

    /// Undoes a [`Self::note`] or [`Self::note_end`]; the newest first when there are several.
    pub(crate) fn take_back(&mut self, (id, before): Before) {
        self.open.extend(before.as_ref().and_then(|producer| producer.open));
        let now = match before {
            Some(producer) => {
                let open = producer.open;
                self.by_id.insert(id, producer).and_then(|now| now.open).filter(|now| Some(*now) != open)
            }
            None => self.by_id.remove(&id).and_then(|now| now.open),
        };
        if let Some(now) = now {
            self.open.remove(&now);
        }
    }

    /// Where the oldest open transaction begins.
    pub(crate) fn first_open(&self) -> Option<Offset> {
        self.open.first().copied()
    }

    /// Whether the producer has a transaction that has not ended.
    pub(crate) fn is_open(&self, id: ProducerId) -> bool {
        self.by_id.get(&id).is_some_and(|producer| producer.open.is_some())
    }

    /// What each producer is known by.
    pub(crate) fn last_words(&self) -> HashMap<ProducerId, LastWord> {
        let last = |producer: &Producer| match producer.batches.back() {
            Some(written) => LastWord::Data(written.last_offset),
            None => LastWord::End(producer.epoch),
        };
        self.by_id.iter().map(|(id, producer)| (*id, last(producer))).collect()
    }

    /// Forgets producers that have written nothing since `oldest_ms`, and have nothing open.
    pub(crate) fn forget_before(&mut self, oldest_ms: i64) {
        self.by_id.retain(|_, producer| producer.last_time_ms >= oldest_ms || producer.open.is_some());
        self.refused.forget_before(oldest_ms);
    }

    /// Everything that is remembered, by id.
    pub(crate) fn states(&self) -> Vec<ProducerState> {
        let state = |(id, producer): (&ProducerId, &Producer)| ProducerState {
            id: *id,
            epoch: producer.epoch,
            last_time_ms: producer.last_time_ms,
            coordinator_epoch: (producer.coordinator_epoch != NO_COORDINATOR)
                .then_some(producer.coordinator_epoch),
            open: producer.open,
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
}

fn stale_epoch(batch: &BatchHeader, producer: &Producer) -> AppendError {
    AppendError::InvalidProducerEpoch {
        producer: batch.producer_id,
        current: producer.epoch,
        found: batch.producer_epoch,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use anabranch_core::batch::{BatchBuilder, Compression, Record};

    use super::*;

    pub(in crate::producers) fn batch(epoch: i16, sequence: i32, count: i32) -> BatchHeader {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.producer(ProducerId(7), ProducerEpoch(epoch), sequence);
        (0..count).for_each(|_| {
            builder.push(&Record::new("k", "v"));
        });
        BatchHeader::parse(&builder.build().unwrap()).unwrap()
    }

    pub(in crate::producers) fn after(batches: &[(i16, i32, i32)]) -> Producers {
        let mut producers = Producers::default();
        let mut offset = 0;
        for &(epoch, sequence, count) in batches {
            let header = batch(epoch, sequence, count);
            assert_eq!(producers.judge(&header, None).unwrap(), Verdict::Append, "{epoch} {sequence}");
            producers.note(&header, Offset(offset), 1000);
            offset += i64::from(count);
        }
        producers
    }

    #[test]
    fn five_batches_are_remembered_and_the_sixth_is_out_of_order() {
        let producers = after(&[(0, 0, 2), (0, 2, 1), (0, 3, 1), (0, 4, 1), (0, 5, 1), (0, 6, 3)]);
        for (sequence, count, base, last) in [(2, 1, 2, 2), (6, 3, 6, 8)] {
            match producers.judge(&batch(0, sequence, count), None).unwrap() {
                Verdict::Duplicate(written) => {
                    assert_eq!((written.base_offset.0, written.last_offset.0), (base, last));
                }
                Verdict::Append => panic!("sequence {sequence} is a duplicate"),
            }
        }
        for (sequence, count) in [(0, 2), (6, 2), (10, 1), (8, 1)] {
            let refused = producers.judge(&batch(0, sequence, count), None);
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
            producers.judge(&batch(1, 2, 1), None),
            Err(AppendError::OutOfOrderSequence { expected: 0, .. })
        ));
        let next = batch(1, 0, 1);
        assert_eq!(producers.judge(&next, None).unwrap(), Verdict::Append);
        producers.note(&next, Offset(2), 1000);
        assert!(matches!(
            producers.judge(&batch(0, 2, 1), None),
            Err(AppendError::InvalidProducerEpoch { .. })
        ));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let producers = after(&[(0, i32::MAX - 1, 2)]);
        assert_eq!(producers.judge(&batch(0, 0, 1), None).unwrap(), Verdict::Append);
        assert!(producers.judge(&batch(0, 1, 1), None).is_err());
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

    fn part(ordinal: u64) -> Option<Part> {
        Some(Part { ordinal, version: 2 })
    }

    fn transactional(producer: i64, epoch: i16, sequence: i32) -> BatchHeader {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.producer(ProducerId(producer), ProducerEpoch(epoch), sequence).transactional();
        BatchHeader::parse(&builder.push(&Record::new("k", "v")).build().unwrap()).unwrap()
    }

    /// Opens a transaction in the epoch 0.
    pub(in crate::producers) fn transaction(producers: &mut Producers, producer: i64, offset: i64) {
        let header = transactional(producer, 0, 0);
        assert_eq!(producers.judge(&header, part(1)).unwrap(), Verdict::Append);
        producers.note(&header, Offset(offset), 1000);
    }

    fn marker(producer: i64, epoch: i16, kind: EndKind, coordinator_epoch: i32) -> (BatchHeader, EndMarker) {
        let marker = EndMarker { kind, coordinator_epoch };
        (*marker.batch(ProducerId(producer), ProducerEpoch(epoch), 5).header(), marker)
    }

    fn end(producers: &mut Producers, epoch: i16, version: i8, ordinal: u64) -> Result<(), AppendError> {
        let (header, marker) = marker(7, epoch, EndKind::Abort, 0);
        producers.judge_end(&header, marker, version)?;
        producers.note_end(&header, Some(marker), Offset(100), ordinal, 2000);
        Ok(())
    }

    #[test]
    fn what_is_in_no_transaction_or_in_one_that_has_ended_is_refused() {
        let refused = |producers: &Producers, batch: &BatchHeader, part| {
            matches!(producers.judge(batch, part), Err(AppendError::NotInTransaction { .. }))
        };
        let mut producers = Producers::default();
        assert!(refused(&producers, &transactional(7, 0, 0), None));
        assert!(refused(&producers, &transactional(-1, -1, -1), part(1)));
        transaction(&mut producers, 7, 0);
        assert!(refused(&producers, &transactional(7, 0, 1), None));
        assert!(refused(&producers, &batch(0, 1, 1), None), "a plain batch amid a transaction");
        let early = producers.judge(&batch(0, 5, 1), None);
        assert!(matches!(early, Err(AppendError::OutOfOrderSequence { .. })), "{early:?}");
        assert_eq!(producers.judge(&transactional(7, 0, 1), part(1)).unwrap(), Verdict::Append);
        // By the rules before version 2 the epoch stays, and only the number tells.
        end(&mut producers, 0, 0, 1).unwrap();
        assert!(refused(&producers, &transactional(7, 0, 1), part(1)));
        assert_eq!(producers.judge(&transactional(7, 0, 1), part(2)).unwrap(), Verdict::Append);
        assert_eq!(producers.judge(&batch(0, 1, 1), None).unwrap(), Verdict::Append);
        // What is there already is not appended, so that it is in nobody's way.
        assert!(matches!(producers.judge(&transactional(7, 0, 0), part(1)), Ok(Verdict::Duplicate(_))));
    }

    #[test]
    fn the_first_batch_of_an_epoch_has_sequence_zero() {
        let out_of_order = |producers: &Producers, epoch, sequence, version| {
            let part = Some(Part { ordinal: 5, version });
            matches!(
                producers.judge(&transactional(7, epoch, sequence), part),
                Err(AppendError::OutOfOrderSequence { expected: 0, .. })
            )
        };
        let mut producers = Producers::default();
        assert!(out_of_order(&producers, 0, 3, 2));
        assert!(!out_of_order(&producers, 0, 3, 0), "who is forgotten goes on where it was");
        transaction(&mut producers, 7, 0);
        end(&mut producers, 1, 2, 1).unwrap();
        assert!(out_of_order(&producers, 1, 1, 2) && !out_of_order(&producers, 1, 0, 2));
        assert!(matches!(
            producers.judge(&transactional(7, 0, 1), part(5)),
            Err(AppendError::InvalidProducerEpoch { .. })
        ));
        // The coordinator of groups counts nothing.
        assert!(!out_of_order(&producers, 1, -1, 2));
        producers.note(&transactional(7, 1, -1), Offset(9), 1000);
        producers.note(&transactional(7, 1, -1), Offset(10), 1000);
        let last_word = producers.last_words().remove(&ProducerId(7));
        assert_eq!(
            (producers.first_open(), last_word),
            (Some(Offset(9)), Some(LastWord::End(ProducerEpoch(1))))
        );
    }

    #[test]
    fn the_epoch_of_a_marker_is_above_that_of_the_data_from_version_two_on() {
        let check = |known: i16, is_open: bool, epoch: i16, version: i8, is_taken: bool| {
            let mut producers = Producers::default();
            let header = transactional(7, known, 0);
            producers.note(&header, Offset(0), 1000);
            if !is_open {
                let (header, marker) = marker(7, known, EndKind::Commit, 0);
                producers.note_end(&header, Some(marker), Offset(1), 1, 1000);
            }
            let outcome = end(&mut producers, epoch, version, 2);
            assert_eq!(outcome.is_ok(), is_taken, "{known} {is_open} {epoch} {version}: {outcome:?}");
            assert!(outcome.is_ok() || matches!(outcome, Err(AppendError::InvalidProducerEpoch { .. })));
        };
        for version in [0, 1, 2] {
            check(3, true, 2, version, false);
            check(3, false, 2, version, false);
            check(3, true, 3, version, version < 2);
            check(3, false, 3, version, true);
            check(3, true, 4, version, true);
            check(3, true, 9, version, true);
            check(i16::MAX, true, i16::MAX, version, true);
        }
        end(&mut Producers::default(), 0, 2, 1).unwrap();
    }

    #[test]
    fn an_older_coordinator_is_refused() {
        let mut producers = Producers::default();
        for (coordinator_epoch, is_taken) in [(3, true), (2, false), (3, true), (4, true), (3, false)] {
            let (header, marker) = marker(7, 0, EndKind::Commit, coordinator_epoch);
            let judged = producers.judge_end(&header, marker, 0);
            assert_eq!(judged.is_ok(), is_taken, "{coordinator_epoch}");
            match judged {
                Ok(()) => drop(producers.note_end(&header, Some(marker), Offset(1), 1, 1000)),
                Err(error) => assert!(matches!(error, AppendError::CoordinatorFenced { .. }), "{error}"),
            }
        }
    }

    #[test]
    fn an_aborted_transaction_is_told_with_what_is_stable_after_it() {
        let mut producers = Producers::default();
        transaction(&mut producers, 7, 0);
        transaction(&mut producers, 8, 1);
        let mut end = |id, kind, at| {
            let (header, marker) = marker(id, 0, kind, 0);
            producers.note_end(&header, Some(marker), Offset(at), 1, 1000).1
        };
        let (producer, first) = (ProducerId(8), Offset(1));
        let expected = AbortedTransaction { producer, first, last: Offset(2), stable: Offset(0) };
        assert_eq!(end(8, EndKind::Abort, 2), Some(expected));
        assert_eq!(end(8, EndKind::Abort, 3), None, "nothing was open");
        assert_eq!(end(7, EndKind::Commit, 4), None);
        transaction(&mut producers, 9, 5);
        let (header, marker) = marker(9, 0, EndKind::Abort, 0);
        let (_, aborted) = producers.note_end(&header, Some(marker), Offset(6), 1, 1000);
        assert_eq!(aborted.unwrap().stable, Offset(7));
    }

    #[test]
    fn an_end_is_taken_back() {
        let mut producers = Producers::default();
        transaction(&mut producers, 7, 0);
        let before = producers.clone();
        let (header, marker) = marker(7, 1, EndKind::Abort, 3);
        let ended = producers.note_end(&header, Some(marker), Offset(1), 1, 2000).0.unwrap();
        let data = producers.note(&transactional(7, 1, 0), Offset(2), 3000).unwrap();
        let other = producers.note(&transactional(8, 0, 0), Offset(3), 3000).unwrap();
        [other, data, ended].into_iter().for_each(|noted| producers.take_back(noted));
        assert_eq!(producers, before);
        assert_eq!(producers.first_open(), Some(Offset(0)));
    }
}
