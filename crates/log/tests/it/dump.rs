//! What `dump` says of files that are whole, and of each byte of them that is changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anabranch_core::batch::{BatchBuilder, Compression, EndKind, Record, check_batch};
use anabranch_core::seam::RealDisk;
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_log::{
    Absent, Ack, DumpCause, DumpItem, FileKind, JournalItem, LogConfig, Roll, Store, StoreConfig, dump,
};

use crate::support::{batch, config, offset, open, producer_batch, verify};
use crate::transactions::{appended, marker};

fn items(path: &Path) -> Vec<DumpItem> {
    let mut items = Vec::new();
    let kind = dump::<io::Error>(&RealDisk, path, |item| {
        items.push(item);
        Ok(())
    });
    assert!(kind.unwrap().is_some());
    items
}

/// Positions of the batches, and positions and lengths of the damage.
fn outline(path: &Path) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (mut batches, mut damage) = (Vec::new(), Vec::new());
    for item in items(path) {
        match item {
            DumpItem::Batch(position, _) => batches.push(position),
            DumpItem::Damage { position, bytes, .. } => damage.push((position, bytes)),
            other => panic!("{other:?}"),
        }
    }
    (batches, damage)
}

/// Ten batches in one segment, an index of nine entries, and a producer's snapshot.
async fn partition(root: &Path) -> PathBuf {
    let store = open(root);
    let settings = LogConfig { index_interval_bytes: 0, ..config() };
    let log = store.open_partition("t", 0, settings, Absent::Create).unwrap();
    for value in 0..9 {
        log.append(batch(value * 3..value * 3 + 3), Ack::Durable).await.unwrap();
    }
    log.append(producer_batch(2, 0, "of a producer"), Ack::Durable).await.unwrap();
    let settled = log.settle(Roll::WhenDue).await.unwrap();
    log.remove_below(&settled, offset(5)).unwrap();
    store.close().await;
    root.join("topics/t/0")
}

#[tokio::test]
async fn everything_that_is_whole_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let partition = partition(dir.path()).await;
    let segment = items(&partition.join("00000000000000000000.log"));
    let mut next = offset(0);
    for item in &segment {
        let DumpItem::Batch(_, batch) = item else { panic!("{item:?}") };
        assert_eq!(batch.header().base_offset, next);
        next = batch.header().next_offset();
    }
    assert_eq!((segment.len(), next), (10, offset(28)));
    let index = items(&partition.join("00000000000000000000.index"));
    let places: Vec<_> = index
        .iter()
        .map(|item| match item {
            DumpItem::IndexEntry { offset, max_before_ms, .. } => (offset.0, *max_before_ms),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected: Vec<_> = (1..10).map(|number| (number * 3, (number * 3 - 1) * 10)).collect();
    assert_eq!(places, expected);
    match &items(&partition.join("00000000000000000028.snapshot"))[..] {
        [DumpItem::Producer(state)] => {
            assert_eq!((state.id.0, state.epoch.0), (7, 2));
            assert_eq!(state.batches, [(0, 0, offset(27), offset(27))]);
        }
        other => panic!("{other:?}"),
    }
    let len = fs::metadata(partition.join("00000000000000000000.log")).unwrap().len();
    match &items(&partition.join("durable"))[..] {
        [DumpItem::DurablePoint { segment, bytes, next }] => {
            assert_eq!((*segment, *bytes, *next), (offset(0), len, offset(28)));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(&items(&partition.join("start"))[..], [DumpItem::Start(start)] if *start == offset(5)));
    assert!(
        matches!(&items(&dir.path().join("format"))[..], [DumpItem::Format(text)] if text.contains("format 2"))
    );
    assert_eq!(FileKind::of(Path::new("x/00000000000000000007.tmp")), None);
    assert_eq!(FileKind::of(Path::new("x/7.log")), None);
}

#[tokio::test]
async fn aborted_transactions_are_printed_and_damaged_ones_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
    for epoch in 0..2 {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.producer(ProducerId(7), ProducerEpoch(epoch), 0).transactional().push(&Record::new("k", "v"));
        let data = check_batch(&builder.build().unwrap()).unwrap();
        appended(&log, data, u64::from(epoch.unsigned_abs()) + 1).await;
        appended(&log, marker(7, epoch + 1, EndKind::Abort), u64::from(epoch.unsigned_abs()) + 1).await;
    }
    log.settle(Roll::Now).await.unwrap();
    store.close().await;
    let path = dir.path().join("topics/t/0/00000000000000000000.aborted");
    let told = |item: &DumpItem| match item {
        DumpItem::Aborted { producer, first, last, stable } => (producer.0, first.0, last.0, stable.0),
        DumpItem::AbortedCount(count) => (-1, *count as i64, 0, 0),
        DumpItem::Damage { position, bytes, .. } => (-2, *position as i64, *bytes as i64, 0),
        other => panic!("{other:?}"),
    };
    let all = || items(&path).iter().map(told).collect::<Vec<_>>();
    assert_eq!(all(), [(7, 0, 1, 2), (7, 2, 3, 4), (-1, 2, 0, 0)]);
    assert!(verify(dir.path()).derived_wrong.is_empty());
    let whole = fs::read(&path).unwrap();
    for at in 36..72 {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes[..]).unwrap();
        assert_eq!(all(), [(7, 0, 1, 2), (-2, 36, 36, 0), (-1, 2, 0, 0)], "byte {at}");
        assert_eq!(verify(dir.path()).derived_wrong, std::slice::from_ref(&path));
    }
    // An entry is missing, or twice there, or all of them are; each file is whole in itself.
    let parts: Vec<&[u8]> = whole.chunks(36).collect();
    for entries in [vec![parts[0]], vec![parts[0], parts[0], parts[2]], vec![parts[0], parts[1]], vec![]] {
        fs::write(&path, entries.concat()).unwrap();
        assert_eq!(verify(dir.path()).derived_wrong, std::slice::from_ref(&path));
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(verify(dir.path()).derived_wrong, std::slice::from_ref(&path));
    fs::write(&path, &whole[..80]).unwrap();
    assert_eq!(all(), [(7, 0, 1, 2), (7, 2, 3, 4), (-2, 72, 8, 0)]);
}

/// Whatever byte of a batch is changed, that batch is told as damage, and all others are printed.
#[tokio::test]
async fn a_changed_byte_costs_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let partition = partition(dir.path()).await;
    let file = partition.join("00000000000000000000.log");
    let whole = fs::read(&file).unwrap();
    let (starts, none) = outline(&file);
    assert!(none.is_empty());
    let (first, second, third) = (starts[3] as usize, starts[4] as usize, starts[5] as usize);
    for at in first..second {
        let in_batch = at - first;
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&file, &bytes).unwrap();
        let (batches, damage) = outline(&file);
        if in_batch < 8 {
            // So does the offset: one that grew makes those that follow go back; one that shrank goes back itself.
            assert!(!damage.is_empty(), "byte {in_batch}");
            continue;
        }
        let others: Vec<u64> = starts.iter().copied().filter(|start| *start != first as u64).collect();
        assert_eq!(batches, others, "byte {in_batch}");
        assert_eq!(damage, [(first as u64, (second - first) as u64)], "byte {in_batch}");
    }
    // The end is cut, or a batch in the middle is missing half of itself.
    for cut in [1, 40, 70] {
        fs::write(&file, &whole[..whole.len() - cut]).unwrap();
        let (batches, damage) = outline(&file);
        let last = starts[9];
        assert_eq!(
            (batches, damage),
            (starts[..9].to_vec(), vec![(last, (whole.len() - cut) as u64 - last)])
        );
    }
    let half = second + (third - second) / 2;
    fs::write(&file, [&whole[..second], &whole[half..]].concat()).unwrap();
    let (batches, damage) = outline(&file);
    assert_eq!(batches.len(), 9);
    assert_eq!(damage, [(second as u64, (third - half) as u64)]);
    fs::write(&file, [0; 1000]).unwrap();
    assert_eq!(outline(&file), (Vec::new(), vec![(0, 1000)]));
}

/// A record may hold a whole batch. When the batch around it is damaged, what it holds is not taken for the log's.
#[tokio::test]
async fn a_batch_inside_a_record_is_not_the_logs() {
    use anabranch_core::batch::{BatchBuilder, Compression, Record, check_batch};
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
    let inner = batch(0..2).bytes().clone();
    for _ in 0..2 {
        let outer =
            BatchBuilder::new(Compression::None).push(&Record::keyless(inner.clone())).build().unwrap();
        log.append(check_batch(&outer).unwrap(), Ack::Durable).await.unwrap();
    }
    store.close().await;
    let file = dir.path().join("topics/t/0/00000000000000000000.log");
    let (starts, _) = outline(&file);
    let mut bytes = fs::read(&file).unwrap();
    let last = starts[1] as usize - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_eq!(outline(&file), (vec![starts[1]], vec![(0, starts[1])]));
}

#[tokio::test]
async fn wrong_entries_of_an_index_are_told_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let partition = partition(dir.path()).await;
    let file = partition.join("00000000000000000000.index");
    let whole = fs::read(&file).unwrap();
    let damage = |bytes: &[u8]| -> Vec<(u64, DumpCause)> {
        fs::write(&file, bytes).unwrap();
        let wrong = items(&file).into_iter().filter_map(|item| match item {
            DumpItem::Damage { position, cause, .. } => Some((position, cause)),
            _ => None,
        });
        wrong.collect()
    };
    assert!(damage(&whole).is_empty());
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        let told = damage(&bytes);
        assert!(
            matches!(told[..], [(position, DumpCause::Checksum)] if position == (at / 20 * 20) as u64),
            "byte {at}: {told:?}"
        );
    }
    let told = damage(&[&whole[..40], &whole[20..40], &whole[40..45]].concat());
    assert!(matches!(told[..], [(40, DumpCause::NotInOrder), (60, DumpCause::LessThanAnEntry)]), "{told:?}");
    // The segment is another one than the index was made for.
    let log = partition.join("00000000000000000000.log");
    let segment = fs::read(&log).unwrap();
    let DumpItem::IndexEntry { position, .. } = items(&{
        fs::write(&file, &whole).unwrap();
        file.clone()
    })[0] else {
        panic!()
    };
    fs::write(&log, &segment[position as usize..]).unwrap();
    let told = damage(&whole);
    assert!(told.iter().all(|(_, cause)| matches!(cause, DumpCause::NoBatch { .. })), "{told:?}");
    assert!(told.len() > 5, "{told:?}");
    fs::remove_file(&log).unwrap();
    assert!(damage(&whole).is_empty(), "without a segment there is nothing to compare with");
}

#[tokio::test]
async fn a_changed_byte_of_a_small_file_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let partition = partition(dir.path()).await;
    // Another mark's bytes are none of this one's.
    for name in ["cleaned", "swap"] {
        fs::copy(partition.join("start"), partition.join(name)).unwrap();
        assert!(matches!(items(&partition.join(name))[..], [DumpItem::Damage { position: 0, .. }]), "{name}");
    }
    for name in ["durable", "start", "00000000000000000028.snapshot"] {
        let file = partition.join(name);
        let whole = fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x80;
            fs::write(&file, bytes).unwrap();
            let found = items(&file);
            assert!(
                matches!(found[..], [DumpItem::Damage { position: 0, cause: DumpCause::Checksum, .. }]),
                "{name} byte {at}: {found:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_journal_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig {
        root: dir.path().to_owned(),
        disk: std::sync::Arc::new(RealDisk),
        clock: std::sync::Arc::new(anabranch_core::seam::ManualClock::at(0)),
        workers: std::sync::Arc::new(anabranch_core::seam::Threads),
        random: std::sync::Arc::new(anabranch_core::seam::SeededRandom::new(1)),
        queue_appends_max: 8,
        open_files_max: 100,
        producer_expiration_ms: i64::MAX,
        journal_file_bytes: 1 << 20,
    })
    .unwrap();
    let log = store.open_partition("t", 0, config(), Absent::Create).unwrap();
    let mut value = 0;
    // The first groups go without a journal, until its first file is there.
    let runs = loop {
        log.append(batch(value..value + 1), Ack::Durable).await.unwrap();
        value += 1;
        let listed = fs::read_dir(dir.path().join("journal")).into_iter().flatten();
        let mut files: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| FileKind::of(file).is_some());
        let found: Vec<DumpItem> = files.iter().flat_map(|file| items(file)).collect();
        let runs: Vec<JournalItem> = found
            .into_iter()
            .filter_map(|item| match item {
                DumpItem::JournalEntry { items, .. } => Some(items),
                _ => None,
            })
            .flatten()
            .collect();
        if !runs.is_empty() {
            break runs;
        }
        assert!(value < 10_000, "there is no journal");
    };
    let last = i64::from(runs.len() as i32);
    for (number, run) in runs.iter().enumerate() {
        let JournalItem::Run { partition, next, whole, .. } = run else { panic!("{run:?}") };
        assert_eq!((partition.topic.as_str(), *whole), ("t", true));
        assert_eq!(next.0, value - last + number as i64 + 1);
    }
    store.close().await;
}
