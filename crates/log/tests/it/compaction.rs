//! Compaction keeps each key's newest record, in its place, whatever happens on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_core::batch::{Batch, BatchBuilder, Compression, Record, check_batch, split_batches};
use anabranch_core::seam::{Random, SeededRandom};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_log::{
    Absent, Ack, Compacted, Compaction, FaultCause, LogConfig, LogStatus, PartitionLog, ReadError, Roll,
    UpkeepError,
};
use proptest::prelude::*;

use crate::crash::{CrashDisk, Loss, Plan};
use crate::support::{FailingDisk, config, copied, offset, open, open_on, verify};

const RETENTION_MS: i64 = 1000;

fn settings() -> LogConfig {
    LogConfig { segment_bytes: 700, ..config() }
}

/// A record as it was written: its key, and its value unless it deletes.
type Written = (String, Option<String>);

/// What was ever appended, by offset.
#[derive(Debug, Default, Clone)]
struct Model(BTreeMap<i64, Written>);

impl Model {
    /// The offset of each key's newest record below `end`.
    fn newest(&self, end: i64) -> BTreeMap<&str, i64> {
        self.0.range(..end).map(|(offset, (key, _))| (key.as_str(), *offset)).collect()
    }

    fn is_tombstone(&self, offset: i64) -> bool {
        self.0[&offset].1.is_none()
    }

    async fn append(&mut self, log: &PartitionLog, records: &[(u8, bool)], codec: Compression) {
        let next = log.offsets().log_end.0;
        let mut builder = BatchBuilder::new(codec);
        for (at, (key, deletes)) in records.iter().enumerate() {
            let offset = next + at as i64;
            let (key, value) = (format!("key {key}"), (!deletes).then(|| format!("value {offset}")));
            let record = match &value {
                Some(value) => Record::new(key.clone(), value.clone()),
                None => Record::tombstone(key.clone()),
            };
            builder.push(&record.at(offset));
            self.0.insert(offset, (key, value));
        }
        let batch = check_batch(&builder.build().unwrap()).unwrap();
        assert_eq!(log.append(batch, Ack::Durable).await.unwrap().base_offset.0, next);
    }
}

fn batches(log: &PartitionLog) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut from = log.offsets().log_start;
    loop {
        let slice = log.read(from, 300).unwrap();
        if slice.batches.is_empty() {
            assert_eq!(from, log.offsets().high_watermark, "the end is reached");
            return batches;
        }
        for batch in split_batches(slice.batches) {
            batches.push(batch.unwrap());
            from = batches.last().unwrap().header().next_offset();
        }
    }
}

/// All records there are, as a consumer reads them.
fn records(log: &PartitionLog) -> BTreeMap<i64, Written> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let start = log.offsets().log_start;
    let all = batches(log).into_iter().flat_map(|batch| batch.records().unwrap());
    let read: Vec<_> = all
        .filter(|at| at.offset >= start)
        .map(|at| (at.offset.0, (text(&at.record.key.unwrap()), at.record.value.as_deref().map(text))))
        .collect();
    assert!(read.is_sorted_by(|before, after| before.0 < after.0), "offsets go up");
    read.into_iter().collect()
}

fn how(now_ms: i64) -> Compaction {
    Compaction {
        now_ms,
        before: offset(i64::MAX),
        delete_retention_ms: RETENTION_MS,
        map_bytes_max: 1 << 16,
        hash_key: [1, 2],
        call_off: Arc::default(),
    }
}

async fn compact(log: &PartitionLog, how: &Compaction) -> Result<Compacted, UpkeepError> {
    let settled = log.settle(Roll::WhenDue).await.unwrap();
    log.compact(&settled, how)
}

/// Seven keys in so many batches of one to three records, some of them deletions.
async fn fill(log: &PartitionLog, model: &mut Model, count: usize, seed: u64, codec: Compression) {
    let random = SeededRandom::new(seed);
    for _ in 0..count {
        let count = 1 + random.next_u64() % 3;
        let records: Vec<(u8, bool)> = (0..count)
            .map(|_| ((random.next_u64() % 7) as u8, random.next_u64().is_multiple_of(5)))
            .collect();
        model.append(log, &records, codec).await;
    }
    log.settle(Roll::Now).await.unwrap();
}

fn segments(root: &Path) -> usize {
    let names = fs::read_dir(root.join("topics/t/0")).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|extension| extension == "log")).count()
}

#[tokio::test]
async fn each_keys_newest_record_stays_in_its_place_and_tombstones_go_later() {
    for codec in [Compression::None, Compression::Zstd] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let log = store.open_partition("t", 0, settings(), Absent::Create).unwrap();
        let mut model = Model::default();
        fill(&log, &mut model, 60, 6, codec).await;
        let (before, end) = (segments(dir.path()), log.offsets().log_end);
        assert!(before > 5);

        let done = compact(&log, &how(5000)).await.unwrap();
        let newest: BTreeSet<i64> = model.newest(end.0).into_values().collect();
        let expected: BTreeMap<i64, Written> =
            newest.iter().map(|offset| (*offset, model.0[offset].clone())).collect();
        assert_eq!(records(&log), expected);
        assert_eq!((done.cleaned, done.is_partial, done.keys), (end, false, 7));
        assert_eq!(done.records_removed, (model.0.len() - 7) as u64);
        assert_eq!(done.segments_removed, (before - segments(dir.path())) as u64);
        assert!(done.bytes_removed > 1000, "{done:?}");
        assert_eq!((log.first_dirty(), log.offsets().log_end), (end, end));
        // Nothing is dirty: nothing is done.
        let nothing = Compacted { cleaned: end, ..Compacted::default() };
        assert_eq!(compact(&log, &how(6000)).await.unwrap(), nothing);

        // Any offset can be asked for, also those that are gone.
        for from in 0..end.0 {
            let slice = log.read(offset(from), 1).unwrap();
            assert!(check_batch(&slice.batches).unwrap().header().last_offset().0 >= from);
        }
        // The horizon of the first pass passes, and something else makes the log dirty.
        let had_tombstones = newest.iter().any(|offset| model.is_tombstone(*offset));
        assert!(had_tombstones && newest.iter().any(|offset| !model.is_tombstone(*offset)));
        model.append(&log, &[(100, false)], codec).await;
        log.settle(Roll::Now).await.unwrap();
        // What the first pass made small is one segment now.
        let done = compact(&log, &how(5000 + RETENTION_MS - 1)).await.unwrap();
        assert!(done.segments_removed > 3 && segments(dir.path()) < 5, "{done:?}");
        assert_eq!(records(&log).len(), 8);
        model.append(&log, &[(101, false)], codec).await;
        log.settle(Roll::Now).await.unwrap();
        compact(&log, &how(5000 + RETENTION_MS)).await.unwrap();
        let left = records(&log);
        assert!(newest.iter().all(|offset| left.contains_key(offset) != model.is_tombstone(*offset)));

        store.close().await;
        let report = verify(dir.path());
        assert!(report.faults.is_empty() && report.derived_wrong.is_empty(), "{report:?}");
        assert!(report.leftovers.is_empty(), "{report:?}");
        let log = open(dir.path()).open_partition("t", 0, settings(), Absent::Damage).unwrap();
        assert_eq!(records(&log), left);
    }
}

/// Batches from which nothing goes are the bytes that the producer sent (law 1); the others keep their headers.
#[tokio::test]
async fn what_is_not_superseded_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Create).unwrap();
    let mut model = Model::default();
    for round in 0..20 {
        model.append(&log, &[(round, false), (round + 100, false)], Compression::Gzip).await;
        model.append(&log, &[(0, false)], Compression::None).await;
    }
    log.settle(Roll::Now).await.unwrap();
    let before: BTreeMap<i64, Batch> =
        batches(&log).into_iter().map(|batch| (batch.header().base_offset.0, batch)).collect();
    compact(&log, &how(0)).await.unwrap();
    let mut whole = 0;
    for batch in batches(&log) {
        let was = &before[&batch.header().base_offset.0];
        whole += usize::from(batch == *was);
        assert_eq!(batch.header().last_offset(), was.header().last_offset());
        assert!(batch == *was || batch.header().record_count < was.header().record_count);
    }
    assert_eq!(whole, 20, "all but the first batch of two, and the newest of key 0");
}

/// A producer's last batch stays as a header, so that its retry is known after everything else was forgotten.
#[tokio::test]
async fn a_producers_sequence_survives_compaction_and_recovery_without_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Create).unwrap();
    let of_producer = |sequence: i32| {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.producer(ProducerId(7), ProducerEpoch(3), sequence);
        builder.push(&Record::new("key 1", "old").at(1));
        check_batch(&builder.build().unwrap()).unwrap()
    };
    for sequence in 0..10 {
        log.append(of_producer(sequence), Ack::Durable).await.unwrap();
    }
    let mut model = Model::default();
    for _ in 0..30 {
        model.append(&log, &[(1, false)], Compression::None).await;
    }
    log.settle(Roll::Now).await.unwrap();
    compact(&log, &how(0)).await.unwrap();
    assert_eq!(records(&log).len(), 1);
    store.close().await;
    for entry in fs::read_dir(dir.path().join("topics/t/0")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "snapshot") {
            fs::remove_file(path).unwrap();
        }
    }
    let log = open(dir.path()).open_partition("t", 0, settings(), Absent::Damage).unwrap();
    let again = log.append(of_producer(9), Ack::Durable).await.unwrap();
    assert_eq!((again.duplicate, again.base_offset), (true, offset(9)));
    assert!(!log.append(of_producer(10), Ack::Durable).await.unwrap().duplicate);
}

#[tokio::test]
async fn the_last_segment_and_what_is_above_the_bound_are_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Create).unwrap();
    let mut model = Model::default();
    for _ in 0..30 {
        model.append(&log, &[(1, false)], Compression::None).await;
    }
    let infos = log.segments(0).unwrap();
    let active = infos.last().unwrap();
    assert!(active.is_active && infos.len() > 3);
    let bound = infos[1].end;
    let done = compact(&log, &Compaction { before: bound.plus(1), ..how(0) }).await.unwrap();
    assert_eq!(done.cleaned, bound);
    let kept: Vec<i64> = records(&log).into_keys().collect();
    assert_eq!(kept, (bound.0 - 1..30).collect::<Vec<_>>());
    compact(&log, &how(0)).await.unwrap();
    let kept: Vec<i64> = records(&log).into_keys().collect();
    assert_eq!(kept, (active.base.0 - 1..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_small_map_takes_several_passes_and_comes_to_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Create).unwrap();
    let mut model = Model::default();
    for round in 0..3 {
        for key in 0..50 {
            model.append(&log, &[(key, round == 1 && key % 3 == 0)], Compression::None).await;
        }
    }
    log.settle(Roll::Now).await.unwrap();
    let mut passes = 0;
    let how = Compaction { map_bytes_max: 24 * 20, ..how(0) };
    while {
        let done = compact(&log, &how).await.unwrap();
        passes += 1;
        assert!(done.keys <= 20);
        done.is_partial
    } {}
    assert!(passes >= 8, "{passes}");
    assert_eq!(records(&log).into_keys().collect::<Vec<_>>(), (100..150).collect::<Vec<_>>());
}

#[tokio::test]
async fn damage_that_a_pass_meets_stops_the_partition_and_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Create).unwrap();
    fill(&log, &mut Model::default(), 30, 2, Compression::None).await;
    let second = dir.path().join(format!("topics/t/0/{:020}.log", log.segments(0).unwrap()[1].base.0));
    let mut bytes = fs::read(&second).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&second, &bytes).unwrap();
    let listed = |root: &Path| {
        let files = fs::read_dir(root.join("topics/t/0")).unwrap().map(|entry| entry.unwrap().path());
        files.map(|path| (path.clone(), fs::read(path).unwrap())).collect::<BTreeMap<_, _>>()
    };
    let before = listed(dir.path());
    let refused = compact(&log, &how(0)).await.unwrap_err();
    assert!(matches!(&refused, UpkeepError::Stopped(fault) if fault.file == second), "{refused}");
    assert!(
        matches!(log.status(), LogStatus::Stopped(fault) if matches!(fault.cause, FaultCause::Damaged(_)))
    );
    assert_eq!(listed(dir.path()), before);
}

#[tokio::test]
async fn a_pass_that_is_called_off_or_whose_partition_closes_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Create).unwrap();
    fill(&log, &mut Model::default(), 30, 3, Compression::None).await;
    let before = records(&log);
    let called_off = Compaction { call_off: Arc::new(AtomicBool::new(true)), ..how(0) };
    assert!(matches!(compact(&log, &called_off).await, Err(UpkeepError::CalledOff)));
    assert_eq!(records(&log), before);
    let settled = log.settle(Roll::WhenDue).await.unwrap();
    store.close_partition(&log).await;
    assert!(matches!(log.compact(&settled, &how(0)), Err(UpkeepError::Closed)));
    store.close().await;
    assert!(verify(dir.path()).leftovers.is_empty());
}

/// Everything that must hold after any stop: nothing is damaged, and each key's newest record is there.
fn check_after_a_stop(root: &Path, model: &Model, context: &str) -> PartitionLog {
    let report = verify(root);
    assert!(report.faults.is_empty(), "{context}: {report:?}");
    let store = open_on(Arc::new(CrashDisk::new()), root);
    let log = store.open_partition("t", 0, settings(), Absent::Damage).unwrap();
    assert!(matches!(log.status(), LogStatus::Online), "{context}: {:?}", log.status());
    let (left, end) = (records(&log), log.offsets().log_end.0);
    assert_eq!(end, model.0.len() as i64, "{context}");
    for (key, offset) in model.newest(end) {
        assert_eq!(left.get(&offset), Some(&model.0[&offset]), "{context}: {key}");
    }
    assert!(left.iter().all(|(offset, record)| model.0[offset] == *record), "{context}");
    let names = fs::read_dir(root.join("topics/t/0")).unwrap().map(|entry| entry.unwrap().file_name());
    let remains: Vec<_> =
        names.filter(|name| name == "swap" || name.to_string_lossy().ends_with("clean")).collect();
    assert!(remains.is_empty(), "{context}: {remains:?}");
    log
}

/// A directory with a partition in it that is worth a pass.
async fn filled(root: &Path) -> Model {
    let store = open_on(Arc::new(CrashDisk::new()), root);
    let log = store.open_partition("t", 0, settings(), Absent::Create).unwrap();
    let mut model = Model::default();
    fill(&log, &mut model, 20, 4, Compression::None).await;
    // A first pass makes segments small, so that the one that is tested merges neighbours.
    compact(&log, &how(0)).await.unwrap();
    fill(&log, &mut model, 20, 5, Compression::None).await;
    store.close().await;
    model
}

#[tokio::test]
async fn power_loss_at_every_step_of_a_pass_loses_no_newest_record() {
    let template = tempfile::tempdir().unwrap();
    let model = filled(template.path()).await;
    let losses = [Loss::Nothing, Loss::Everything].into_iter().chain((0..4).map(Loss::Some));
    for loss in losses {
        for after in 0.. {
            let dir = copied(template.path());
            let disk = CrashDisk::new();
            let store = open_on(Arc::new(disk.clone()), dir.path());
            let log = store.open_partition("t", 0, settings(), Absent::Damage).unwrap();
            let settled = log.settle(Roll::WhenDue).await.unwrap();
            disk.plan(Plan::PowerOffAfter(after));
            let done = log.compact(&settled, &how(0));
            let (operations, trace) = (disk.operations(), disk.trace());
            assert!(done.as_ref().is_err() || done.as_ref().is_ok_and(|done| done.segments_removed > 1));
            disk.lose(loss);
            store.close().await;
            drop((store, log));
            let context = format!("{loss:?} after {after} of {trace:?}");
            let log = check_after_a_stop(dir.path(), &model, &context);
            compact(&log, &how(0)).await.unwrap();
            assert_eq!(records(&log).len(), 7, "{context}");
            if done.is_ok() && operations < after {
                assert!(after > 20, "{trace:?}");
                break;
            }
        }
    }
}

/// Found by the simulator: a segment that was replaced could not be removed; the next swap could not read the new one, took it
/// for the old one, and forgot what explains the other.
#[tokio::test]
async fn a_swap_that_cannot_be_looked_at_is_not_decided() {
    let dir = tempfile::tempdir().unwrap();
    let model = filled(dir.path()).await;
    let disk = FailingDisk::default();
    let store = open_on(Arc::new(disk.clone()), dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Damage).unwrap();
    let settled = log.settle(Roll::WhenDue).await.unwrap();
    disk.faults.next_removal_fails.store(true, Ordering::SeqCst);
    let failed = log.compact(&settled, &how(0));
    assert!(matches!(failed, Err(UpkeepError::Io { action: "finishing", .. })), "{failed:?}");
    assert!(dir.path().join("topics/t/0/swap").exists());
    store.close().await;
    drop((store, log));
    check_after_a_stop(dir.path(), &model, "it is finished by the start");
}

#[tokio::test]
async fn a_full_disk_ends_the_pass_and_the_next_one_succeeds() {
    let template = tempfile::tempdir().unwrap();
    let filled = filled(template.path()).await;
    for after in 0.. {
        let dir = copied(template.path());
        let disk = CrashDisk::new();
        let store = open_on(Arc::new(disk.clone()), dir.path());
        let log = store.open_partition("t", 0, settings(), Absent::Damage).unwrap();
        let mut model = filled.clone();
        let settled = log.settle(Roll::WhenDue).await.unwrap();
        disk.plan(Plan::OneFailsAfter(after));
        let done = log.compact(&settled, &how(0));
        let context = format!("after {after} of {:?}: {done:?}", disk.trace());
        let is_over = disk.operations() <= after;
        disk.plan(Plan::Works);
        if let Err(UpkeepError::Stopped(fault)) = &done {
            // Only the one thing after which it is not known what is on the disk.
            assert!(matches!(fault.cause, FaultCause::SyncFailed(_)), "{context}");
        } else {
            assert!(matches!(log.status(), LogStatus::Online), "{context}");
            let left = records(&log);
            assert!(
                model.newest(i64::MAX).into_values().all(|offset| left.contains_key(&offset)),
                "{context}"
            );
            compact(&log, &how(0)).await.unwrap();
            assert_eq!(records(&log).len(), 7, "{context}");
            model.append(&log, &[(1, false)], Compression::None).await;
        }
        store.close().await;
        drop((store, log));
        check_after_a_stop(dir.path(), &model, &context);
        if is_over {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_while_segments_are_replaced_reads_right() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Create).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|seed| {
            let (log, stop) = (log.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let random = SeededRandom::new(seed);
                let mut reads = 0;
                while !stop.load(Ordering::Relaxed) {
                    let offsets = log.offsets();
                    let span = (offsets.high_watermark.0 - offsets.log_start.0).unsigned_abs();
                    if span == 0 {
                        continue;
                    }
                    let from = offsets.log_start.plus((random.next_u64() % span) as i64);
                    match log.read(from, 400) {
                        Ok(slice) => {
                            let first = split_batches(slice.batches).next().expect("there is more").unwrap();
                            assert!(first.header().last_offset() >= from);
                            reads += 1;
                        }
                        // Retention was faster.
                        Err(ReadError::OutOfRange { start, .. }) => assert!(from < start),
                        Err(error) => panic!("{error}"),
                    }
                }
                reads
            })
        })
        .collect();
    let mut model = Model::default();
    for round in 0..12 {
        fill(&log, &mut model, 20, round, Compression::None).await;
        compact(&log, &how(round as i64)).await.unwrap();
        let settled = log.settle(Roll::WhenDue).await.unwrap();
        let start = offset(log.offsets().log_start.0.max(log.offsets().log_end.0 / 3));
        log.remove_below(&settled, start).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(readers.into_iter().map(|reader| reader.join().unwrap()).sum::<usize>() > 100);
}

/// What may happen to a partition.
#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u8, bool)>),
    Roll,
    Compact { map_keys: usize, later_ms: i64 },
    RemoveBelow { percent: u8 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec((0..6u8, prop::bool::weighted(0.3)), 1..4).prop_map(Step::Append),
        2 => Just(Step::Roll),
        3 => (1..12usize, 0..RETENTION_MS).prop_map(|(map_keys, later_ms)| Step::Compact { map_keys, later_ms }),
        1 => (0..100u8).prop_map(|percent| Step::RemoveBelow { percent }),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn whatever_is_done_the_newest_records_are_there(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let settings = LogConfig { segment_bytes: 300, ..config() };
            let open = |root: &Path| open_on(Arc::new(CrashDisk::new()), root); // which syncs nothing in earnest
            let mut store = open(dir.path());
            let mut log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
            let (mut model, mut now_ms, mut start) = (Model::default(), 0, 0);
            // When each tombstone was first met by a pass.
            let mut met: BTreeMap<i64, i64> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Append(records) => model.append(&log, &records, Compression::None).await,
                    Step::Roll => drop(log.settle(Roll::Now).await.unwrap()),
                    Step::Compact { map_keys, later_ms } => {
                        now_ms += later_ms;
                        let how = Compaction { map_bytes_max: map_keys * 24, ..how(now_ms) };
                        let done = compact(&log, &how).await.unwrap();
                        let newest = model.newest(done.cleaned.0);
                        let superseded = |offset: i64| offset >= start && newest[model.0[&offset].0.as_str()] > offset;
                        let left = records(&log);
                        let mut kept = left.keys().copied().filter(|offset| *offset < done.cleaned.0);
                        prop_assert!(done.is_partial || kept.all(|offset| !superseded(offset)));
                        // A batch has one horizon, also for what lies behind the end of a map that was full.
                        let begun = batches(&log).into_iter().filter(|batch| batch.header().base_offset < done.cleaned);
                        for at in begun.flat_map(|batch| batch.records().unwrap()) {
                            if at.record.value.is_none() {
                                met.entry(at.offset.0).or_insert(now_ms);
                            }
                        }
                    }
                    Step::RemoveBelow { percent } => {
                        let settled = log.settle(Roll::WhenDue).await.unwrap();
                        let to = log.offsets().log_end.0 * i64::from(percent) / 100;
                        let removed = log.remove_below(&settled, offset(to)).unwrap();
                        start = start.max(to);
                        prop_assert_eq!(removed.log_start.0, start);
                    }
                    Step::Reopen => {
                        store.close().await;
                        let report = verify(dir.path());
                        prop_assert!(report.faults.is_empty() && report.leftovers.is_empty(), "{:?}", report);
                        store = open(dir.path());
                        log = store.open_partition("t", 0, settings, Absent::Damage).unwrap();
                    }
                }
                let (left, end) = (records(&log), log.offsets().log_end.0);
                prop_assert_eq!((log.offsets().log_start.0, end), (start, model.0.len() as i64));
                prop_assert!(left.iter().all(|(offset, record)| model.0[offset] == *record));
                for offset in model.newest(end).into_values().filter(|offset| *offset >= start) {
                    let may_be_gone = model.is_tombstone(offset)
                        && met.get(&offset).is_some_and(|met_ms| now_ms >= met_ms + RETENTION_MS);
                    prop_assert!(may_be_gone || left.contains_key(&offset), "offset {} is gone", offset);
                }
            }
            store.close().await;
            Ok(())
        })?;
    }
}

/// The segments that a pass replaces are found by time as before, and the largest timestamp is that of a record.
#[tokio::test]
async fn times_are_found_among_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, settings(), Absent::Create).unwrap();
    let mut model = Model::default();
    fill(&log, &mut model, 60, 5, Compression::None).await;
    compact(&log, &how(0)).await.unwrap();
    let check = || {
        let left: Vec<i64> = records(&log).into_keys().collect();
        for time in 0..model.0.len() as i64 {
            let expected = left.iter().find(|offset| **offset >= time);
            let found = log.find_by_time(time).unwrap().map(|found| found.offset.0);
            assert_eq!(found.as_ref(), expected, "{time}");
        }
        assert_eq!(log.find_max_time().unwrap().map(|found| found.offset.0).as_ref(), left.last());
        left
    };
    let left = check();
    // The newest record is deleted: the header that still tells of its time finds nothing.
    let settled = log.settle(Roll::WhenDue).await.unwrap();
    log.remove_below(&settled, offset(left[3] + 1)).unwrap();
    assert_eq!(check().len(), left.len() - 4);
    let settled = log.settle(Roll::Now).await.unwrap();
    log.remove_below(&settled, settled.durable()).unwrap();
    assert!(check().is_empty());
}
