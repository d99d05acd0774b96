//! Compaction and transactions: what was aborted supersedes nothing, and whoever reads committed records sees each key's
//! newest, whatever is left of transactions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::batch::{Batch, BatchBuilder, Compression, EndKind, Record, check_batch, split_batches};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_log::{Absent, Ack, Compacted, Compaction, LogConfig, PartitionLog, Roll};
use proptest::prelude::*;

use crate::crash::CrashDisk;
use crate::support::{config, copied, offset, open_on, verify};
use crate::transactions::{Loss, appended, committed, files, lose, loss, marker, opened, stable};

const RETENTION_MS: i64 = 1000;

fn create(root: &Path, segment_bytes: u32) -> PartitionLog {
    let store = open_on(Arc::new(CrashDisk::new()), root); // which syncs nothing in earnest
    store.open_partition("t", 0, LogConfig { segment_bytes, ..config() }, Absent::Create).unwrap()
}

/// A record of `key`; a tombstone without a value. With a producer, its epoch and a sequence it is in a transaction.
fn record(key: u8, value: Option<&str>, by: Option<(usize, i16, i32)>) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    if let Some((producer, epoch, sequence)) = by {
        builder.producer(ProducerId(producer as i64), ProducerEpoch(epoch), sequence).transactional();
    }
    let key = format!("key {key}");
    let record = match value {
        Some(value) => Record::new(key, value.to_owned()),
        None => Record::tombstone(key),
    };
    check_batch(&builder.push(&record.at(1000)).build().unwrap()).unwrap()
}

async fn compact(log: &PartitionLog, now_ms: i64, before: i64, map_bytes_max: usize) -> Compacted {
    let how = Compaction {
        now_ms,
        before: offset(before),
        delete_retention_ms: RETENTION_MS,
        map_bytes_max,
        hash_key: [1, 2],
        call_off: Arc::default(),
    };
    let settled = log.settle(Roll::WhenDue).await.unwrap();
    log.compact(&settled, &how).unwrap()
}

fn batches(log: &PartitionLog) -> Vec<Batch> {
    let (mut batches, mut from) = (Vec::new(), log.offsets().log_start);
    while from < log.offsets().high_watermark {
        let slice = log.read(from, 300).unwrap();
        batches.extend(split_batches(slice.batches).map(Result::unwrap));
        from = batches.last().unwrap().header().next_offset();
    }
    batches
}

fn markers(log: &PartitionLog) -> Vec<i64> {
    let ends = batches(log).into_iter().filter(|batch| batch.end_marker().unwrap().is_some());
    ends.map(|batch| batch.header().base_offset.0).collect()
}

/// The story of the hole: the aborted value is newer than the committed one, and must not take its place; and a marker stays
/// until nobody needs it.
#[tokio::test]
async fn an_aborted_value_supersedes_nothing_and_its_marker_goes_last() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path(), 1 << 20);
    let by = |epoch, sequence| Some((7, epoch, sequence));
    appended(&log, record(1, Some("committed"), by(0, 0)), 1).await; // 0
    appended(&log, marker(7, 1, EndKind::Commit), 1).await; // 1
    appended(&log, record(1, Some("aborted"), by(1, 0)), 2).await; // 2
    // The marker stands in a segment that the first pass does not come to.
    log.settle(Roll::Now).await.unwrap();
    appended(&log, record(2, Some("aborted"), by(1, 1)), 2).await; // 3
    let blocked = compact(&log, 0, i64::MAX, 1 << 16).await;
    assert_eq!(blocked.cleaned, offset(0), "the last stable offset lies in the first segment");
    appended(&log, marker(7, 2, EndKind::Abort), 2).await; // 4
    let expected = vec![(0, "committed".to_owned())];
    let check = |log: &PartitionLog, entries: usize, left: &[i64], story: &str| {
        assert_eq!(committed(log, 0, 1 << 20), expected, "{story}");
        assert_eq!(markers(log), left, "{story}");
        let len: u64 =
            files(dir.path(), "aborted").iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        assert_eq!(len, 36 * entries as u64, "{story}");
    };
    log.settle(Roll::Now).await.unwrap();
    check(&log, 2, &[1, 4], "the entry, and the one that counts it");
    let done = compact(&log, 0, 3, 1 << 16).await;
    assert_eq!((done.cleaned, done.keys, done.records_removed), (offset(3), 1, 1));
    check(&log, 2, &[1, 4], "half of it is gone");
    let done = compact(&log, 0, i64::MAX, 1 << 16).await;
    assert_eq!((done.cleaned, done.records_removed), (offset(5), 1));
    check(&log, 2, &[1, 4], "this pass has met records");
    // Something new makes the log dirty, twice: the next pass meets none, and the one after the horizon takes the marker.
    for (now_ms, left) in [(5, &[1, 4, 6][..]), (5 + RETENTION_MS, &[1, 6, 8])] {
        let log = &log;
        let next = log.offsets().log_end.0;
        appended(log, record(9, Some("new"), Some((8, (next - 5) as i16 / 2, 0))), next as u64).await;
        appended(log, marker(8, (next - 5) as i16 / 2 + 1, EndKind::Commit), next as u64).await;
        log.settle(Roll::Now).await.unwrap();
        compact(log, now_ms, i64::MAX, 1 << 16).await;
        let len: u64 =
            files(dir.path(), "aborted").iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        assert_eq!((markers(log).as_slice(), len), (left, 36), "at {now_ms}");
    }
    // Its producer goes on, and is heard; so it is when what is known of it comes from the log alone.
    let empty = batches(&log).into_iter().find(|batch| batch.header().base_offset == offset(4)).unwrap();
    assert_eq!((empty.header().record_count, empty.header().producer_epoch), (0, ProducerEpoch(2)));
    drop(log);
    assert!(verify(dir.path()).derived_wrong.is_empty(), "{:?}", verify(dir.path()));
    lose(dir.path(), Loss::Snapshots);
    let log = create(dir.path(), 1 << 20);
    let late = log.submit_in(record(1, Some("late"), by(1, 2)), Ack::Durable, None).await.unwrap();
    assert!(late.answer().await.is_err(), "the marker's epoch is remembered");
    let at = appended(&log, record(3, Some("after"), by(2, 0)), 9).await;
    appended(&log, marker(7, 3, EndKind::Commit), 9).await;
    assert_eq!(committed(&log, 0, 1 << 20).last(), Some(&(at, "after".to_owned())));
}

#[derive(Debug, Clone)]
enum Op {
    /// A key, and whether it is a tombstone.
    Plain(u8, bool),
    /// The same in the transaction of this producer, beginning one if there is none.
    Send(usize, u8, bool),
    End(usize, EndKind),
    Roll,
    /// A pass so much later, with a map of so many keys, over so many percent of the log.
    Compact(i64, usize, u8),
    /// The log begins after so many percent of it.
    Delete(u8),
    /// The process dies; and files of a kind are lost, or one bit in each of them.
    Kill(Loss),
}

fn op() -> impl Strategy<Value = Op> {
    let (producer, key, deletes) = (0..3usize, 0..5u8, prop::bool::weighted(0.2));
    let kind = prop::sample::select(vec![EndKind::Abort, EndKind::Commit]);
    prop_oneof![
        2 => (key.clone(), deletes).prop_map(|(key, deletes)| Op::Plain(key, deletes)),
        8 => (producer.clone(), key, deletes).prop_map(|(producer, key, deletes)| Op::Send(producer, key, deletes)),
        5 => (producer, kind).prop_map(|(producer, kind)| Op::End(producer, kind)),
        2 => Just(Op::Roll),
        4 => (0..RETENTION_MS, 1..12usize, 50..200u8).prop_map(|(later_ms, keys, percent)| Op::Compact(later_ms, keys, percent)),
        1 => (0..60u8).prop_map(Op::Delete),
        2 => loss().prop_map(Op::Kill),
    ]
}

#[derive(Debug)]
struct Written {
    key: u8,
    /// Empty: a tombstone.
    value: String,
    transaction: Option<usize>,
}

#[derive(Debug, Default)]
struct Producer {
    epoch: i16,
    sequence: i32,
    open: Option<usize>,
    is_known: bool,
}

/// What was done, and what must follow from it.
#[derive(Debug, Default)]
struct Model {
    /// By offset; markers are none.
    records: BTreeMap<i64, Written>,
    ends: Vec<Option<EndKind>>,
    producers: [Producer; 3],
    next: i64,
    /// Up to here passes have come.
    cleaned: i64,
    now_ms: i64,
    /// When a pass has met each tombstone first.
    met: BTreeMap<i64, i64>,
    start: i64,
}

impl Model {
    fn write(&mut self, key: u8, deletes: bool, transaction: Option<usize>) -> (i64, String) {
        let (at, value) = (self.next, if deletes { String::new() } else { format!("value {}", self.next) });
        self.records.insert(at, Written { key, value: value.clone(), transaction });
        self.next += 1;
        (at, value)
    }

    fn end_of(&self, written: &Written) -> Option<EndKind> {
        written.transaction.map_or(Some(EndKind::Commit), |at| self.ends[at])
    }

    fn stable(&self) -> i64 {
        let open = self.records.iter().find(|(_, written)| self.end_of(written).is_none());
        open.map_or(self.next, |(at, _)| *at).max(self.start)
    }

    /// Committed records from the log's start on; and whether each must be there.
    fn committed(&self) -> Vec<(i64, &str, bool)> {
        let is_committed = |(_, written): &(&i64, &Written)| self.end_of(written) == Some(EndKind::Commit);
        let all = || self.records.range(..self.stable()).filter(is_committed);
        let newest: BTreeMap<u8, i64> =
            all().filter(|(at, _)| **at < self.cleaned).map(|(at, written)| (written.key, *at)).collect();
        let must_be_there = |at: i64, written: &Written| {
            let may_have_gone = written.value.is_empty()
                && self.met.get(&at).is_some_and(|met_ms| self.now_ms >= met_ms + RETENTION_MS);
            at >= self.cleaned || newest[&written.key] == at && !may_have_gone
        };
        let from = all().filter(|(at, _)| **at >= self.start);
        from.map(|(at, written)| (*at, written.value.as_str(), must_be_there(*at, written))).collect()
    }

    fn check(&self, log: &PartitionLog, from: i64, bytes_max: usize) -> Result<(), TestCaseError> {
        let seen = committed(log, from, bytes_max);
        let expected: Vec<_> = self.committed().into_iter().filter(|(at, ..)| *at >= from).collect();
        let may_be_seen: BTreeMap<i64, &str> = expected.iter().map(|(at, value, _)| (*at, *value)).collect();
        for (at, value) in &seen {
            prop_assert_eq!(may_be_seen.get(at), Some(&value.as_str()), "offset {} from {}", at, from);
        }
        let seen: BTreeMap<i64, String> = seen.into_iter().collect();
        for (at, _, must_be_there) in expected {
            prop_assert!(!must_be_there || seen.contains_key(&at), "{} is gone, from {}", at, from);
        }
        Ok(())
    }

    /// Each transaction of which there are batches ends where it ended, or is open.
    fn check_markers(&self, log: &PartitionLog) -> Result<(), TestCaseError> {
        let mut open: BTreeMap<i64, usize> = BTreeMap::new();
        for batch in batches(log) {
            let (producer, base) = (batch.header().producer_id.0, batch.header().base_offset.0);
            if batch.header().is_control() {
                open.remove(&producer);
            } else if let Some(transaction) = self.records[&base].transaction {
                let before = open.insert(producer, transaction);
                prop_assert!(before.is_none_or(|before| before == transaction), "{:?} has no end", before);
            }
        }
        prop_assert!(open.values().all(|transaction| self.ends[*transaction].is_none()), "{:?}", open);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any history of transactions and passes is read as the model has it, whatever becomes of the process and its files.
    #[test]
    fn whatever_is_compacted_the_newest_committed_records_are_there(
        ops in prop::collection::vec(op(), 1..80),
        segment_bytes in 150u32..1200,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut dir = tempfile::tempdir().unwrap();
            let mut log = create(dir.path(), segment_bytes);
            let (mut model, mut is_damaged) = (Model::default(), false);
            for op in ops {
                match op.clone() {
                    Op::Plain(key, deletes) => {
                        let (_, value) = model.write(key, deletes, None);
                        let value = Some(value.as_str()).filter(|value| !value.is_empty());
                        log.append(record(key, value, None), Ack::Durable).await.unwrap();
                    }
                    Op::Send(at, key, deletes) => {
                        let producer = &mut model.producers[at];
                        let (epoch, sequence) = (producer.epoch, producer.sequence);
                        (producer.sequence, producer.is_known) = (sequence + 1, true);
                        let transaction = *producer.open.get_or_insert_with(|| {
                            model.ends.push(None);
                            model.ends.len() - 1
                        });
                        let (offset, value) = model.write(key, deletes, Some(transaction));
                        let value = Some(value.as_str()).filter(|value| !value.is_empty());
                        let sent = record(key, value, Some((at, epoch, sequence)));
                        prop_assert_eq!(appended(&log, sent, 1 + transaction as u64).await, offset);
                    }
                    Op::End(at, kind) => {
                        let producer = &mut model.producers[at];
                        let open = producer.open.take();
                        *producer = Producer { epoch: producer.epoch + 1, is_known: true, ..Producer::default() };
                        open.into_iter().for_each(|open| model.ends[open] = Some(kind));
                        let marker = marker(at as i64, producer.epoch, kind);
                        let ordinal = open.map_or(0, |open| open as u64 + 1);
                        prop_assert_eq!(appended(&log, marker, ordinal).await, model.next);
                        model.next += 1;
                    }
                    Op::Roll => drop(log.settle(Roll::Now).await.unwrap()),
                    Op::Compact(later_ms, keys, percent) => {
                        model.now_ms += later_ms;
                        let before = model.next * i64::from(percent) / 100;
                        let done = compact(&log, model.now_ms, before, keys * 24).await;
                        prop_assert!(done.cleaned.0 >= model.cleaned && done.cleaned <= log.offsets().last_stable);
                        model.cleaned = done.cleaned.0;
                        let cleaned = batches(&log).into_iter().filter(|batch| batch.header().base_offset < done.cleaned);
                        for at in cleaned.filter(|batch| !batch.header().is_control()).flat_map(|batch| batch.records().unwrap()) {
                            let written = &model.records[&at.offset.0];
                            let is_aborted = model.end_of(written) == Some(EndKind::Abort);
                            prop_assert!(!is_aborted || at.offset.0 < model.start, "{} was aborted", at.offset);
                            if written.value.is_empty() {
                                model.met.entry(at.offset.0).or_insert(model.now_ms);
                            }
                        }
                    }
                    Op::Delete(percent) => {
                        let settled = log.settle(Roll::WhenDue).await.unwrap();
                        let start = model.next * i64::from(percent) / 100;
                        model.start = log.remove_below(&settled, offset(start)).unwrap().log_start.0;
                        model.cleaned = model.cleaned.max(model.start);
                    }
                    Op::Kill(loss) => {
                        let left = copied(dir.path());
                        drop(log);
                        dir = left;
                        let report = verify(dir.path());
                        prop_assert!(report.faults.is_empty(), "{:?}", report);
                        // A bit that nobody has come to may be wrong yet.
                        prop_assert!(is_damaged || report.derived_wrong.is_empty(), "{:?}", report);
                        is_damaged |= matches!(loss, Loss::Bit(_));
                        // Without a snapshot, and with records deleted, producers are forgotten: that is told elsewhere.
                        if !(model.start > 0 && matches!(loss, Loss::Snapshots)) {
                            lose(dir.path(), loss);
                        }
                        log = create(dir.path(), segment_bytes);
                    }
                }
                prop_assert_eq!(stable(&log), (model.stable(), model.next), "after {:?}", op);
                let open = opened(&log).await;
                for (at, producer) in model.producers.iter().enumerate() {
                    let found = open.iter().find(|(id, ..)| *id == at as i64);
                    prop_assert_eq!(found.is_some(), producer.open.is_some(), "after {:?}", op);
                    let state = log.producers().await.unwrap().into_iter().find(|state| state.id.0 == at as i64);
                    prop_assert_eq!(state.map(|state| state.epoch.0), producer.is_known.then_some(producer.epoch));
                }
                model.check_markers(&log)?;
                model.check(&log, model.start, 1 << 20)?;
                model.check(&log, (model.start + model.next) / 2, 200)?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}
