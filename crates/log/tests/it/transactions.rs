//! Transactions in the log: what is open, what has ended and how, whatever becomes of the process and of derived files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anabranch_core::batch::{
    Batch, BatchBuilder, Compression, EndKind, EndMarker, Record, check_batch, split_batches,
};
use anabranch_core::{Offset, ProducerEpoch, ProducerId};
use anabranch_log::{
    Aborted, Absent, Ack, AppendError, Appended, FetchLimits, Isolation, LogConfig, Part, PartitionLog, Roll,
};
use bytes::Bytes;
use proptest::prelude::*;

use crate::support::{FailingDisk, batch, config, copied, offset, open, open_on};

/// A record in a transaction of `producer`; -1 is the sequence of who counts none.
fn data(producer: i64, epoch: i16, sequence: i32) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.producer(ProducerId(producer), ProducerEpoch(epoch), sequence).transactional();
    builder.push(&Record::new("key", format!("{producer}/{epoch}/{sequence}")).at(1000));
    check_batch(&builder.build().unwrap()).unwrap()
}

pub(crate) fn marker(producer: i64, epoch: i16, kind: EndKind) -> Batch {
    EndMarker { kind, coordinator_epoch: 0 }.batch(ProducerId(producer), ProducerEpoch(epoch), 2000)
}

pub(crate) fn part(ordinal: u64) -> Option<Part> {
    Some(Part { ordinal, version: 2 })
}

pub(crate) async fn append(
    log: &PartitionLog,
    batch: Batch,
    part: Option<Part>,
) -> Result<Appended, AppendError> {
    log.submit_in(batch, Ack::Durable, part).await.unwrap().answer().await
}

pub(crate) async fn appended(log: &PartitionLog, batch: Batch, ordinal: u64) -> i64 {
    append(log, batch, part(ordinal)).await.unwrap().base_offset.0
}

/// Producer, epoch and first offset.
pub(crate) async fn opened(log: &PartitionLog) -> Vec<(i64, i16, i64)> {
    let open = log.open_transactions().await.unwrap();
    open.into_iter().map(|open| (open.producer.0, open.epoch.0, open.first.0)).collect()
}

pub(crate) fn stable(log: &PartitionLog) -> (i64, i64) {
    let offsets = log.offsets();
    (offsets.last_stable.0, offsets.high_watermark.0)
}

pub(crate) fn files(root: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join("topics/t/0")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}

fn create(root: &Path, settings: LogConfig) -> PartitionLog {
    open(root).open_partition("t", 0, settings, Absent::Create).unwrap()
}

/// Everything that stands between a crash and the next start: the process dies, or its snapshots are lost as well.
#[tokio::test]
async fn an_open_transaction_survives_kill_and_the_loss_of_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let small = LogConfig { segment_bytes: 300, ..config() };
    let log = create(dir.path(), small);
    appended(&log, data(7, 0, 0), 1).await; // 0
    appended(&log, marker(7, 1, EndKind::Commit), 1).await; // 1
    appended(&log, data(8, 0, 0), 2).await; // 2
    appended(&log, data(7, 1, 0), 3).await; // 3
    for value in 4..10 {
        log.append(batch(value..value + 1), Ack::Durable).await.unwrap();
    }
    assert_eq!((stable(&log), opened(&log).await), ((2, 10), vec![(7, 1, 3), (8, 0, 2)]));
    assert!(files(dir.path(), "snapshot").len() > 1, "the snapshot is younger than the transactions");
    let killed = copied(dir.path());
    let without = copied(dir.path());
    files(without.path(), "snapshot").iter().for_each(|file| fs::remove_file(file).unwrap());
    for left in [&killed, &without] {
        let log = create(left.path(), small);
        assert_eq!((stable(&log), opened(&log).await), ((2, 10), vec![(7, 1, 3), (8, 0, 2)]));
        // The epoch of a marker fences whoever wrote before it.
        let late = append(&log, data(7, 0, 1), part(9)).await;
        assert!(matches!(late, Err(AppendError::InvalidProducerEpoch { .. })), "{late:?}");
        appended(&log, data(7, 1, 1), 9).await; // 10
        appended(&log, marker(8, 1, EndKind::Abort), 9).await; // 11
        assert_eq!((stable(&log), opened(&log).await), ((3, 12), vec![(7, 1, 3)]));
        appended(&log, marker(7, 2, EndKind::Commit), 9).await;
        assert_eq!((stable(&log), opened(&log).await), ((13, 13), vec![]));
        drop(log);
        let log = create(left.path(), small);
        assert_eq!((stable(&log), opened(&log).await), ((13, 13), vec![]));
    }
}

#[tokio::test]
async fn what_comes_after_its_end_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path(), config());
    // By the rules before version 2 the epoch stays: only the coordinator's number tells an old batch from a new one.
    let before = |ordinal| Some(Part { ordinal, version: 0 });
    append(&log, data(7, 0, 0), before(4)).await.unwrap();
    append(&log, marker(7, 0, EndKind::Abort), before(4)).await.unwrap();
    for ordinal in [3, 4] {
        let late = append(&log, data(7, 0, 1), before(ordinal)).await;
        assert!(matches!(late, Err(AppendError::NotInTransaction { .. })), "{late:?}");
    }
    let outside = append(&log, data(7, 0, 1), None).await;
    assert!(matches!(outside, Err(AppendError::NotInTransaction { .. })), "{outside:?}");
    assert_eq!(stable(&log), (2, 2));
    append(&log, data(7, 0, 1), before(5)).await.unwrap();
    assert_eq!((stable(&log), opened(&log).await), ((2, 3), vec![(7, 0, 2)]));
}

/// What does not come any more must not be passed by what its producer sent behind it, wherever it was refused.
#[tokio::test]
async fn nothing_is_taken_above_a_first_batch_that_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path(), config());
    let before = |ordinal| Some(Part { ordinal, version: 0 });
    let is_early = |outcome| matches!(outcome, Err(AppendError::OutOfOrderSequence { .. }));
    // At the door, and in the log: its transaction has ended.
    log.note_refused(data(7, 0, 4).header(), 0).await;
    assert!(is_early(append(&log, data(7, 0, 5), before(1)).await));
    append(&log, data(7, 0, 4), before(1)).await.unwrap();
    append(&log, marker(7, 0, EndKind::Commit), before(1)).await.unwrap();
    let late = append(&log, data(7, 0, 5), before(1)).await;
    assert!(matches!(late, Err(AppendError::NotInTransaction { .. })), "{late:?}");
    assert!(is_early(append(&log, data(7, 0, 6), before(2)).await));
    // So it is with what is there already, which is of the transaction before.
    append(&log, data(7, 0, 5), before(2)).await.unwrap();
    append(&log, marker(7, 0, EndKind::Commit), before(2)).await.unwrap();
    assert!(append(&log, data(7, 0, 5), before(3)).await.unwrap().duplicate);
    assert!(is_early(append(&log, data(7, 0, 6), before(3)).await));
}

#[tokio::test]
async fn ends_are_refused_as_in_kafka() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path(), config());
    appended(&log, data(7, 3, 0), 1).await;
    for (epoch, version) in [(2, 0), (2, 2), (3, 2)] {
        let end = append(&log, marker(7, epoch, EndKind::Commit), Some(Part { ordinal: 1, version })).await;
        assert!(matches!(end, Err(AppendError::InvalidProducerEpoch { .. })), "{epoch} {version}: {end:?}");
    }
    let newer = EndMarker { kind: EndKind::Commit, coordinator_epoch: 5 };
    appended(&log, newer.batch(ProducerId(7), ProducerEpoch(4), 1), 1).await;
    let fenced = append(&log, marker(7, 5, EndKind::Commit), part(1)).await;
    assert!(matches!(fenced, Err(AppendError::CoordinatorFenced { current: 5, found: 0 })), "{fenced:?}");
    let states = log.producers().await.unwrap();
    assert_eq!((states[0].coordinator_epoch, states[0].epoch.0, states[0].open), (Some(5), 4, None));
    assert!(states[0].batches.is_empty());
}

/// The last stable offset follows the log's start, and never readers' promises.
#[tokio::test]
async fn the_last_stable_offset_is_never_below_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = create(dir.path(), config());
    appended(&log, data(7, 0, 0), 1).await;
    for value in 1..6 {
        log.append(batch(value..value + 1), Ack::Durable).await.unwrap();
    }
    assert_eq!(stable(&log), (0, 6));
    let settled = log.settle(Roll::Now).await.unwrap();
    log.remove_below(&settled, offset(4)).unwrap();
    assert_eq!((stable(&log), opened(&log).await), ((4, 6), vec![(7, 0, 0)]));
    drop(log);
    let log = create(dir.path(), config());
    assert_eq!((stable(&log), opened(&log).await), ((4, 6), vec![(7, 0, 0)]));
    assert_eq!(appended(&log, marker(7, 1, EndKind::Abort), 1).await, 6);
    assert_eq!(stable(&log), (7, 7));
    assert_eq!(log.offsets().log_start, Offset(4));
}

/// A directory of the version before is taken over: from then on it is one that that version refuses.
#[tokio::test]
async fn a_directory_of_the_format_before_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.close().await;
    let format = dir.path().join("format");
    fs::write(&format, "anabranch data directory, format 1\n").unwrap();
    open(dir.path()).close().await;
    assert_eq!(fs::read_to_string(&format).unwrap(), "anabranch data directory, format 2\n");
}

/// What a consumer of committed records makes of a slice: Kafka's `CompletedFetch`. Records at `from` and later; and where
/// to go on.
pub(crate) fn consume(batches: Bytes, aborted: &[Aborted], from: i64) -> (Vec<(i64, String)>, i64) {
    let mut aborted: Vec<&Aborted> = aborted.iter().collect();
    aborted.sort_by_key(|aborted| aborted.first);
    let mut aborted = aborted.into_iter().peekable();
    let (mut left_out, mut records, mut next) = (BTreeSet::new(), Vec::new(), from);
    for batch in split_batches(batches) {
        let batch = batch.unwrap();
        let header = batch.header();
        while let Some(begun) = aborted.next_if(|begun| begun.first <= header.last_offset()) {
            left_out.insert(begun.producer);
        }
        next = header.next_offset().0;
        if header.is_control() {
            if batch.end_marker().unwrap().is_some_and(|marker| marker.kind == EndKind::Abort) {
                left_out.remove(&header.producer_id);
            }
        } else if !header.is_transactional() || !left_out.contains(&header.producer_id) {
            let value = |value: Option<Bytes>| String::from_utf8(value.unwrap_or_default().to_vec()).unwrap();
            let read = batch.records().unwrap().into_iter().map(|at| (at.offset.0, value(at.record.value)));
            records.extend(read.filter(|(at, _)| *at >= from));
        }
    }
    (records, next)
}

/// All committed records from an offset on, in slices of so many bytes; read, and found first.
pub(crate) fn committed(log: &PartitionLog, from: i64, bytes_max: usize) -> Vec<(i64, String)> {
    let (mut records, mut next) = (Vec::new(), from);
    loop {
        let slice = log.read_within(offset(next), bytes_max, Isolation::Committed).unwrap();
        let limits = FetchLimits { bytes_max, first_comes: true, memory_bytes_max: usize::MAX };
        let found = log.fetch(offset(next), limits, Isolation::Committed).unwrap();
        assert_eq!((found.batches.len_bytes(), &found.aborted), (slice.batches.len(), &slice.aborted));
        if slice.batches.is_empty() {
            assert!(next >= slice.offsets.last_stable.0, "nothing at {next}");
            return records;
        }
        let (read, after) = consume(slice.batches, &slice.aborted, next);
        assert!(after <= slice.offsets.last_stable.0, "{after} is beyond the last stable offset");
        records.extend(read);
        next = after;
    }
}

/// A log of three transactions in several segments: one was aborted, one committed, one is open.
async fn mixed(root: &Path) -> (PartitionLog, Vec<(i64, String)>) {
    let log = create(root, LogConfig { segment_bytes: 400, ..config() });
    let mut expected = Vec::new();
    for sequence in 0..6 {
        appended(&log, data(7, 0, sequence), 1).await;
        let at = appended(&log, data(8, 0, sequence), 2).await;
        expected.push((at, format!("8/0/{sequence}")));
        let at = log.append(batch(sequence.into()..i64::from(sequence) + 1), Ack::Durable).await.unwrap();
        expected.push((at.base_offset.0, format!("value {sequence}")));
    }
    appended(&log, marker(7, 1, EndKind::Abort), 1).await;
    appended(&log, marker(8, 1, EndKind::Commit), 2).await;
    let at = appended(&log, data(7, 1, 0), 3).await;
    expected.push((at, "7/1/0".to_owned()));
    appended(&log, marker(7, 2, EndKind::Commit), 3).await;
    appended(&log, data(8, 1, 0), 4).await;
    log.append(batch(9..10), Ack::Durable).await.unwrap();
    expected.sort();
    (log, expected)
}

fn check_committed(log: &PartitionLog, expected: &[(i64, String)], story: &str) {
    let start = log.offsets().log_start.0;
    for from in start..log.offsets().log_end.0 {
        let expected: Vec<_> = expected.iter().filter(|(at, _)| *at >= from).cloned().collect();
        for bytes_max in [1, 200, 1 << 20] {
            assert_eq!(committed(log, from, bytes_max), expected, "{story}, from {from}, {bytes_max}");
        }
    }
}

#[tokio::test]
async fn readers_of_committed_records_see_those_only() {
    let dir = tempfile::tempdir().unwrap();
    let (log, expected) = mixed(dir.path()).await;
    assert!(files(dir.path(), "log").len() > 4 && stable(&log).0 + 2 == stable(&log).1);
    check_committed(&log, &expected, "written");
    let written = log.read_within(offset(0), 1 << 20, Isolation::Written).unwrap();
    assert!(written.aborted.is_empty(), "who sees everything is told nothing");
    let settled = log.settle(Roll::Now).await.unwrap();
    check_committed(&log, &expected, "the marker in a complete segment");
    let left = copied(dir.path());
    let again = create(left.path(), config());
    check_committed(&again, &expected, "killed");
    // The log begins in the middle of an aborted transaction.
    log.remove_below(&settled, offset(8)).unwrap();
    let expected: Vec<_> = expected.into_iter().filter(|(at, _)| *at >= 8).collect();
    check_committed(&log, &expected, "deleted into a transaction");
    for extension in ["snapshot", "aborted"] {
        let left = copied(dir.path());
        files(left.path(), extension).iter().for_each(|file| fs::remove_file(file).unwrap());
        check_committed(&create(left.path(), config()), &expected, extension);
    }
}

/// What tells of aborted transactions is derived: whatever becomes of it, nothing aborted is ever shown as committed.
#[tokio::test]
async fn aborted_transactions_are_found_out_anew_when_their_file_is_damaged() {
    for roll in [Roll::WhenDue, Roll::Now] {
        let dir = tempfile::tempdir().unwrap();
        let (log, expected) = mixed(dir.path()).await;
        log.settle(roll).await.unwrap();
        drop(log); // and closes its store
        let [file] = &files(dir.path(), "aborted")[..] else { panic!("one segment has a marker") };
        let whole = fs::read(file).unwrap();
        let damaged = (0..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            bytes
        });
        let cut = (0..whole.len()).map(|len| whole[..len].to_vec());
        for bytes in damaged.chain(cut) {
            let left = copied(dir.path());
            let file = left.path().join(file.strip_prefix(dir.path()).unwrap());
            fs::write(&file, &bytes).unwrap();
            let log = create(left.path(), config());
            assert_eq!(committed(&log, 0, 1 << 20), expected, "{roll:?} {}", bytes.len());
            drop(log);
            assert_eq!(committed(&create(left.path(), config()), 0, 200), expected, "once more");
        }
        // Under a reader's eyes.
        let left = copied(dir.path());
        let log = create(left.path(), config());
        let file = left.path().join(file.strip_prefix(dir.path()).unwrap());
        let mut bytes = whole.clone();
        bytes[3] ^= 1;
        fs::write(&file, &bytes).unwrap();
        check_committed(&log, &expected, "damaged while it is open");
        assert_eq!(fs::read(&file).unwrap(), whole, "it is as it was");
    }
}

#[derive(Debug, Clone)]
enum Op {
    Plain,
    /// A record in the transaction of this producer, beginning one if there is none.
    Send(usize),
    End(usize, EndKind),
    Roll,
    /// The log begins after so many percent of it.
    Delete(u8),
    /// The process dies; and files of a kind are lost, or one bit in each of them.
    Kill(Loss),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Loss {
    Nothing,
    Snapshots,
    Aborted,
    Bit(usize),
}

pub(crate) fn loss() -> impl Strategy<Value = Loss> {
    prop_oneof![
        Just(Loss::Nothing),
        Just(Loss::Snapshots),
        Just(Loss::Aborted),
        (0..10_000usize).prop_map(Loss::Bit)
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let producer = 0..3usize;
    let kind = prop::sample::select(vec![EndKind::Abort, EndKind::Commit]);
    prop_oneof![
        2 => Just(Op::Plain),
        8 => producer.clone().prop_map(Op::Send),
        4 => (producer, kind).prop_map(|(producer, kind)| Op::End(producer, kind)),
        1 => Just(Op::Roll),
        1 => (0..100u8).prop_map(Op::Delete),
        2 => loss().prop_map(Op::Kill),
    ]
}

/// What is in the log, told by the operations alone.
#[derive(Debug, Default)]
struct Model {
    /// By offset: the value, and of which transaction; markers are none.
    records: Vec<(i64, String, Option<usize>)>,
    /// How each transaction ended.
    ends: Vec<Option<EndKind>>,
    /// Of each producer: its epoch, its next sequence, and its open transaction.
    producers: [(i16, i32, Option<usize>); 3],
    next: i64,
}

impl Model {
    fn stable(&self, start: i64) -> i64 {
        let is_open = |transaction: &Option<usize>| transaction.is_some_and(|at| self.ends[at].is_none());
        let open = self.records.iter().find(|(_, _, transaction)| is_open(transaction));
        open.map_or(self.next, |(at, ..)| *at).max(start)
    }

    fn committed(&self, start: i64) -> Vec<(i64, String)> {
        let stable = self.stable(start);
        let is_committed = |transaction: &Option<usize>| match transaction {
            None => true,
            Some(at) => self.ends[*at] == Some(EndKind::Commit),
        };
        let seen = |(at, _, transaction): &&(i64, String, Option<usize>)| {
            (start..stable).contains(at) && is_committed(transaction)
        };
        self.records.iter().filter(seen).map(|(at, value, _)| (*at, value.clone())).collect()
    }
}

pub(crate) fn lose(root: &Path, loss: Loss) {
    match loss {
        Loss::Nothing => {}
        Loss::Snapshots => files(root, "snapshot").iter().for_each(|file| fs::remove_file(file).unwrap()),
        Loss::Aborted => files(root, "aborted").iter().for_each(|file| fs::remove_file(file).unwrap()),
        Loss::Bit(bit) => {
            for file in files(root, "aborted") {
                let mut bytes = fs::read(&file).unwrap();
                if let Some(len) = Some(bytes.len() * 8).filter(|len| *len > 0) {
                    bytes[bit % len / 8] ^= 1 << (bit % 8);
                    fs::write(&file, bytes).unwrap();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any history of transactions, deletions, deaths and lost files is read as the model has it.
    #[test]
    fn any_history_of_transactions_is_read_as_it_was(
        ops in prop::collection::vec(op(), 1..60),
        segment_bytes in 150u32..1200,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let settings = LogConfig { segment_bytes, ..config() };
            let mut dir = tempfile::tempdir().unwrap();
            let mut log = create(dir.path(), settings);
            let mut model = Model::default();
            for op in ops {
                match op.clone() {
                    Op::Plain => {
                        let value = model.next;
                        log.append(batch(value..value + 1), Ack::Durable).await.unwrap();
                        model.records.push((value, format!("value {value}"), None));
                        model.next += 1;
                    }
                    Op::Send(at) => {
                        let (epoch, sequence, open) = &mut model.producers[at];
                        let transaction = *open.get_or_insert_with(|| {
                            model.ends.push(None);
                            model.ends.len() - 1
                        });
                        let sent = data(at as i64, *epoch, *sequence);
                        prop_assert_eq!(appended(&log, sent, 1 + transaction as u64).await, model.next);
                        let value = format!("{at}/{epoch}/{sequence}");
                        model.records.push((model.next, value, Some(transaction)));
                        *sequence += 1;
                        model.next += 1;
                    }
                    Op::End(at, kind) => {
                        let (epoch, sequence, open) = &mut model.producers[at];
                        *epoch += 1;
                        *sequence = 0;
                        let open = open.take();
                        open.into_iter().for_each(|open| model.ends[open] = Some(kind));
                        let ordinal = open.map_or(0, |open| open as u64 + 1);
                        prop_assert_eq!(appended(&log, marker(at as i64, *epoch, kind), ordinal).await, model.next);
                        model.next += 1;
                    }
                    Op::Roll => drop(log.settle(Roll::Now).await.unwrap()),
                    Op::Delete(percent) => {
                        let settled = log.settle(Roll::WhenDue).await.unwrap();
                        log.remove_below(&settled, offset(model.next * i64::from(percent) / 100)).unwrap();
                    }
                    Op::Kill(loss) => {
                        let left = copied(dir.path());
                        drop(log);
                        dir = left;
                        // Without a snapshot, and with records deleted, producers are forgotten: that is told elsewhere.
                        let is_deleted = dir.path().join("topics/t/0/start").exists();
                        if !(is_deleted && matches!(loss, Loss::Snapshots)) {
                            lose(dir.path(), loss);
                        }
                        log = create(dir.path(), settings);
                    }
                }
                let start = log.offsets().log_start.0;
                prop_assert_eq!(stable(&log), (model.stable(start), model.next), "after {:?}", op);
                let from = (start + model.next) / 2;
                for (from, bytes_max) in [(start, 1 << 20), (from, 200)] {
                    let expected: Vec<_> =
                        model.committed(start).into_iter().filter(|(at, _)| *at >= from).collect();
                    prop_assert_eq!(committed(&log, from, bytes_max), expected, "from {} after {:?}", from, op);
                }
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}

/// The end that a full disk has refused was another one than the end that came later.
#[tokio::test]
async fn an_end_whose_write_failed_has_aborted_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::default();
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
    appended(&log, data(7, 0, 0), 1).await;
    disk.faults.next_write_fails.store(true, Ordering::SeqCst);
    let refused = append(&log, marker(7, 1, EndKind::Abort), part(1)).await;
    assert!(matches!(refused, Err(AppendError::WriteFailed(_))), "{refused:?}");
    assert_eq!((stable(&log), opened(&log).await), ((0, 1), vec![(7, 0, 0)]));
    // It is as if it had not come: the transaction goes on.
    appended(&log, data(7, 0, 1), 1).await;
    appended(&log, marker(7, 1, EndKind::Commit), 1).await;
    check_committed(&log, &[(0, "7/0/0".to_owned()), (1, "7/0/1".to_owned())], "committed");
}
