//! Which records of a batch compaction keeps: no I/O, no clock.
//!
//! The rules are those of Kafka's cleaner (`LogCleaner.cleanInto`, `MemoryRecords.filterTo`, KIP-534):
//!
//! * A record goes when the map has a newer one of its key, or when it has no key. Records that the map has not come to
//!   stay.
//! * The newest record of a key that is a tombstone stays until its batch's delete horizon: the first pass that meets the
//!   batch sets it to `delete.retention.ms` from then, and the first pass after that time takes the tombstone away.
//! * Records of an aborted transaction go; and a marker that ends what nothing is left of, as such a tombstone does.
//! * A batch of which nothing stays goes whole, unless it is its producer's last word, or holds the last offset that the
//!   segment must keep: then its header stays.
//! * A batch of which everything stays is not touched (law 1).

use std::collections::HashMap;

use anabranch_core::batch::{Batch, BatchError, BatchHeader, RecordAt};
use anabranch_core::planted::{self, Bug};
use anabranch_core::{Offset, ProducerId};

use super::map::OffsetMap;
use crate::producers::LastWord;

/// What a pass knows when it comes to a batch.
#[derive(Debug)]
pub(super) struct Filter<'a> {
    pub(super) map: &'a OffsetMap,
    /// After the last offset that the map has seen.
    pub(super) end: Offset,
    pub(super) now_ms: i64,
    pub(super) delete_retention_ms: i64,
    /// What each producer is known by.
    pub(super) last_words: &'a HashMap<ProducerId, LastWord>,
}

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It stays as it is.
    Whole,
    /// This stays of it.
    Part(Batch),
    /// Nothing does.
    Nothing,
}

/// What becomes of a batch, and how many records that costs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filtered {
    pub(super) kept: Kept,
    pub(super) records_removed: u64,
    /// Of those, the ones that had no key.
    pub(super) keyless_removed: u64,
}

impl Filter<'_> {
    /// Judges one batch; `is_void`: for its transaction nothing in it is needed; `must_stay`: its last offset is.
    pub(super) fn judge(
        &self,
        batch: &Batch,
        is_void: bool,
        must_stay: bool,
    ) -> Result<Filtered, BatchError> {
        let header = batch.header();
        let whole = Filtered { kept: Kept::Whole, records_removed: 0, keyless_removed: 0 };
        if header.is_control() && !is_void || header.base_offset >= self.end {
            return Ok(whole);
        }
        let records = batch.records()?;
        let horizon_ms = header.delete_horizon_ms();
        let is_past_horizon = horizon_ms.is_some_and(|horizon_ms| self.now_ms >= horizon_ms);
        let stays = |at: &RecordAt| match (header.is_control(), is_void) {
            (true, _) => !is_past_horizon,
            (false, true) => false,
            (false, false) => self.stays(at, is_past_horizon),
        };
        let (mut kept, mut keyless_removed, mut has_tombstones) = (Vec::new(), 0, false);
        let count = records.len();
        for at in records {
            if stays(&at) {
                has_tombstones |= header.is_control() || at.record.value.is_none();
                kept.push(at);
            } else {
                keyless_removed += u64::from(at.record.key.is_none());
            }
        }
        let mut records_removed = (count - kept.len()) as u64;
        let new_horizon_ms = (has_tombstones && horizon_ms.is_none())
            .then(|| self.now_ms.saturating_add(self.delete_retention_ms));
        let kept = if kept.is_empty() {
            match (must_stay || self.is_last_word(header), count) {
                (true, 0) => Kept::Whole,
                (true, _) => Kept::Part(batch.emptied()),
                (false, _) => Kept::Nothing,
            }
        } else if records_removed == 0 && new_horizon_ms.is_none() {
            Kept::Whole
        } else {
            match batch.retaining(&kept, new_horizon_ms.or(horizon_ms)) {
                Ok(part) => Kept::Part(part),
                // The codec made it larger than a batch may be. A superseded record more is no harm.
                Err(_) => {
                    (records_removed, keyless_removed) = (0, 0);
                    Kept::Whole
                }
            }
        };
        Ok(Filtered { kept, records_removed, keyless_removed })
    }

    fn is_last_word(&self, batch: &BatchHeader) -> bool {
        match self.last_words.get(&batch.producer_id) {
            Some(LastWord::Data(last)) => *last == batch.last_offset(),
            Some(LastWord::End(epoch)) => batch.is_control() && *epoch == batch.producer_epoch,
            None => false,
        }
    }

    fn stays(&self, at: &RecordAt, is_past_horizon: bool) -> bool {
        if at.offset >= self.end {
            return true;
        }
        let Some(key) = &at.record.key else { return false };
        let is_newest = self.map.get(key).is_none_or(|newest| match planted::is(Bug::NewestValueDropped) {
            true => at.offset > newest,
            false => at.offset >= newest,
        });
        let may_go = is_past_horizon || planted::is(Bug::TombstonesGoAtOnce);
        is_newest && (at.record.value.is_some() || !may_go)
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::batch::{BatchBuilder, Compression, EndKind, EndMarker, Record, check_batch};
    use anabranch_core::{LeaderEpoch, ProducerEpoch};

    use super::*;

    const DAY_MS: i64 = 86_400_000;

    fn stored(batch: &Batch, base: i64) -> Batch {
        let mut stored = batch.bytes().to_vec();
        let prefix = batch.stored_prefix(Offset(base), LeaderEpoch(0));
        stored[..prefix.len()].copy_from_slice(&prefix);
        check_batch(&stored.into()).unwrap()
    }

    /// A batch at `base` of records `key=value`, `key=` being a tombstone and `=value` without a key.
    fn batch(base: i64, records: &[&str]) -> Batch {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.producer(ProducerId(7), ProducerEpoch(0), 0);
        for text in records {
            let (key, value) = text.split_once('=').unwrap();
            let own = |text: &str| (!text.is_empty()).then(|| text.as_bytes().to_vec().into());
            builder.push(&Record { key: own(key), value: own(value), headers: Vec::new(), timestamp_ms: 5 });
        }
        stored(&check_batch(&builder.build().unwrap()).unwrap(), base)
    }

    /// Judges with a map of `newest`, at `now_ms`, up to the offset 100.
    fn judge(
        batch: &Batch,
        newest: &[(&str, i64)],
        now_ms: i64,
        must_stay: bool,
        last: Option<i64>,
    ) -> Filtered {
        let mut map = OffsetMap::new(1000, [1, 2]);
        newest.iter().for_each(|(key, offset)| map.put(key.as_bytes(), Offset(*offset)).unwrap());
        let last_words = last.map(|last| (ProducerId(7), LastWord::Data(Offset(last)))).into_iter().collect();
        let filter = Filter {
            map: &map,
            end: Offset(100),
            now_ms,
            delete_retention_ms: DAY_MS,
            last_words: &last_words,
        };
        filter.judge(batch, false, must_stay).unwrap()
    }

    fn left(filtered: &Filtered, batch: &Batch) -> Vec<i64> {
        let kept = match &filtered.kept {
            Kept::Whole => batch,
            Kept::Part(part) => part,
            Kept::Nothing => return Vec::new(),
        };
        kept.records().unwrap().iter().map(|at| at.offset.0).collect()
    }

    #[test]
    fn superseded_and_keyless_records_go_and_the_rest_is_not_touched() {
        let one = batch(10, &["a=1", "b=1", "a=2", "=x", "c=1"]);
        let filtered = judge(&one, &[("a", 12), ("b", 50), ("c", 14)], 0, false, None);
        assert_eq!(left(&filtered, &one), [12, 14]);
        assert_eq!((filtered.records_removed, filtered.keyless_removed), (3, 1));
        // A key that the map does not have is not touched: its newest record stands before the dirty part.
        let other = batch(10, &["a=1", "d=1"]);
        assert_eq!(judge(&other, &[("a", 10)], 0, false, None).kept, Kept::Whole);
        assert_eq!(judge(&other, &[("a", 99), ("d", 98)], 0, false, None).kept, Kept::Nothing);
    }

    #[test]
    fn what_the_map_has_not_come_to_stays() {
        let beyond = batch(99, &["a=1", "a=2", "=x"]);
        let filtered = judge(&beyond, &[("a", 99)], 0, false, None);
        assert_eq!((left(&filtered, &beyond), filtered.kept), (vec![99, 100, 101], Kept::Whole));
        let before = judge(&beyond, &[("a", 99)], 0, true, Some(101));
        assert_eq!(before.kept, Kept::Whole);
    }

    #[test]
    fn a_tombstone_stays_until_the_horizon_that_the_first_pass_sets() {
        let one = batch(10, &["a=", "b=1"]);
        let newest = [("a", 10), ("b", 11)];
        let first = judge(&one, &newest, 1000, false, None);
        let Kept::Part(marked) = &first.kept else { panic!("{first:?}") };
        assert_eq!(marked.header().delete_horizon_ms(), Some(1000 + DAY_MS));
        assert_eq!(marked.records().unwrap(), one.records().unwrap());
        // The horizon is set once: later passes neither move it nor touch the batch.
        assert_eq!(judge(marked, &newest, 2000, false, None).kept, Kept::Whole);
        assert_eq!(judge(marked, &[], 1000 + DAY_MS - 1, false, None).kept, Kept::Whole);
        let last = judge(marked, &[], 1000 + DAY_MS, false, None);
        assert_eq!(left(&last, marked), [11]);
        // What stays beside a tombstone keeps the horizon when something else goes.
        let three = batch(20, &["x=1", "y=", "z=1"]);
        let Kept::Part(three) = judge(&three, &[], 0, false, None).kept else { panic!() };
        let Kept::Part(two) = judge(&three, &[("x", 50)], 7, false, None).kept else { panic!() };
        assert_eq!(two.header().delete_horizon_ms(), Some(DAY_MS));
    }

    #[test]
    fn a_header_stays_for_the_producer_or_for_the_last_offset() {
        let one = batch(10, &["a=1", "b=1"]);
        let newer = [("a", 90), ("b", 91)];
        assert_eq!(judge(&one, &newer, 0, false, Some(10)).kept, Kept::Nothing);
        for (must_stay, last) in [(true, None), (false, Some(11))] {
            let Kept::Part(empty) = judge(&one, &newer, 0, must_stay, last).kept else { panic!() };
            assert_eq!((empty.header().record_count, empty.header().last_offset()), (0, Offset(11)));
            assert_eq!(judge(&empty, &newer, 0, must_stay, last).kept, Kept::Whole);
            assert_eq!(judge(&empty, &newer, 0, false, None).kept, Kept::Nothing);
        }
    }

    /// Judges at `now_ms` with an empty map, as the last word of nobody but `last_word`.
    fn judge_void(batch: &Batch, now_ms: i64, must_stay: bool, last_word: Option<LastWord>) -> Kept {
        let map = OffsetMap::new(1000, [1, 2]);
        let last_words = last_word.map(|word| (ProducerId(7), word)).into_iter().collect();
        let end = Offset(100);
        let filter = Filter { map: &map, end, now_ms, delete_retention_ms: DAY_MS, last_words: &last_words };
        filter.judge(batch, true, must_stay).unwrap().kept
    }

    #[test]
    fn a_marker_of_nothing_goes_as_a_tombstone_does() {
        let marker = EndMarker { kind: EndKind::Abort, coordinator_epoch: 3 };
        let batch = stored(&marker.batch(ProducerId(7), ProducerEpoch(2), 5), 10);
        assert_eq!(judge(&batch, &[], i64::MAX, false, None).kept, Kept::Whole, "it ends something");
        let Kept::Part(marked) = judge_void(&batch, 1000, false, None) else { panic!() };
        assert_eq!(marked.header().delete_horizon_ms(), Some(1000 + DAY_MS));
        assert_eq!(marked.end_marker(), Ok(Some(marker)));
        assert!(marked.header().is_control() && marked.header().is_transactional());
        assert_eq!(judge_void(&marked, 999 + DAY_MS, false, None), Kept::Whole);
        assert_eq!(judge_void(&marked, 1000 + DAY_MS, false, None), Kept::Nothing);
        let epoch = |epoch| Some(LastWord::End(ProducerEpoch(epoch)));
        for (must_stay, last_word) in [(true, None), (false, epoch(2))] {
            let kept = judge_void(&marked, 1000 + DAY_MS, must_stay, last_word);
            let Kept::Part(empty) = kept else { panic!("{kept:?}") };
            assert_eq!((empty.end_marker(), empty.header().producer_epoch), (Ok(None), ProducerEpoch(2)));
            assert_eq!(judge_void(&empty, 2 * DAY_MS, must_stay, last_word), Kept::Whole);
            assert_eq!(judge_void(&empty, 2 * DAY_MS, false, epoch(3)), Kept::Nothing);
        }
        let other = Some(LastWord::Data(Offset(9)));
        assert_eq!(judge_void(&marked, 1000 + DAY_MS, false, other), Kept::Nothing);
    }

    #[test]
    fn what_was_aborted_goes_at_once_unless_it_is_the_last_word() {
        let one = batch(10, &["a=1", "b="]);
        assert_eq!(judge_void(&one, 0, false, None), Kept::Nothing);
        assert_eq!(judge_void(&one, 0, false, Some(LastWord::End(ProducerEpoch(0)))), Kept::Nothing);
        let Kept::Part(empty) = judge_void(&one, 0, false, Some(LastWord::Data(Offset(11)))) else {
            panic!()
        };
        assert_eq!((empty.header().record_count, empty.header().last_offset()), (0, Offset(11)));
        assert_eq!(
            judge_void(&batch(100, &["a=1"]), 0, false, None),
            Kept::Whole,
            "a later pass comes to it"
        );
    }
}
