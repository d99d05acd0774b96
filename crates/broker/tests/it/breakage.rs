//! One changed byte, in each kind of file: it is told, or made good, and never served.
//!
//! `ANABRANCH_BREAKAGE=1 cargo test -p anabranch-broker --test it breakage` changes every byte of every file, `=7` every
//! seventh; without it, a few of each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anabranch_broker::config::broker::BrokerConfig;
use anabranch_broker::{Ack, Apply, At, Broker, BrokerError, NewTopic};
use anabranch_core::batch::{BatchBuilder, Compression, Record, split_batches};
use anabranch_core::{Offset, ProducerEpoch, ProducerId, TopicPartition};

/// What is expected of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Format,
    /// Of a topic of users: the partition tells; others go on.
    Segment,
    /// Of an internal topic: nothing goes without it, and the start is refused.
    InternalSegment,
    /// Derived: made anew.
    Derived,
    Journal,
}

fn kind(path: &Path) -> Kind {
    let name = path.file_name().unwrap().to_str().unwrap();
    let is_internal = path.components().any(|part| part.as_os_str().to_str().unwrap().starts_with("__"));
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        None if name == "format" => Kind::Format,
        None if name == "durable" => Kind::Derived,
        Some("log") if is_internal => Kind::InternalSegment,
        Some("log") => Kind::Segment,
        Some("index" | "snapshot" | "spare") => Kind::Derived,
        Some("journal") => Kind::Journal,
        _ => panic!("what is {name}?"),
    }
}

type Records = BTreeMap<TopicPartition, Vec<(String, i64)>>;

fn config() -> BrokerConfig {
    BrokerConfig::default().with("log.journal.file.bytes", "65536").unwrap()
}

async fn open(path: &Path) -> Result<Broker, BrokerError> {
    Broker::builder().data(path).config(config()).open().await
}

const COMMITTED: i64 = 7;

/// Two topics of several segments, a group's offset; and what is in them. Times go up and down.
async fn fill(path: &Path) -> (Broker, Records) {
    let broker = open(path).await.unwrap();
    let mut records = Records::new();
    for (name, codec) in [("plain", Compression::None), ("packed", Compression::Zstd)] {
        let new = NewTopic::new(name)
            .partitions(2)
            .config("segment.bytes", "1500")
            .config("index.interval.bytes", "200");
        let topic = broker.create_topic(new, Apply::Now).await.unwrap();
        for number in 0..30 {
            let partition = &topic.partitions()[number % 2];
            let mut builder = BatchBuilder::new(codec);
            builder.producer(ProducerId(number as i64 % 2), ProducerEpoch(0), number as i32 / 2 * 2);
            for part in 0..2 {
                let value = format!("{name} {number} {part} {}", "x".repeat(number * 3));
                let time = (number * 37 % 50) as i64;
                builder.push(&Record::new("key", value.clone()).at(time));
                records.entry(partition.id().clone()).or_default().push((value, time));
            }
            partition.produce(builder.build().unwrap(), Ack::Durable).await.unwrap();
        }
    }
    let commit = crate::groups::simple_commit("plain", COMMITTED);
    assert_eq!(broker.groups().commit(commit).await.unwrap(), [Ok(())]);
    (broker, records)
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { directories.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let to = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
}

/// What became of a directory with a changed byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// All that was acknowledged is there.
    Whole,
    /// A partition says that it is damaged, and the others are whole.
    PartitionTells,
    /// The start is refused.
    StartRefused,
}

/// Reads everything and demands that nothing wrong is served, and nothing is missing without a word.
async fn read(path: &Path, expected: &Records) -> Outcome {
    let Ok(broker) = open(path).await else { return Outcome::StartRefused };
    let mut outcome = Outcome::Whole;
    for (id, expected) in expected {
        let partition = broker.partition(id).unwrap();
        let mut next = Offset(0);
        let mut is_whole = true;
        while next.0 < expected.len() as i64 {
            let Ok(slice) = partition.fetch(next, 500, None) else {
                is_whole = false;
                break;
            };
            assert!(!slice.batches.is_empty(), "{id}: records from {next} on are gone without a word");
            for batch in split_batches(slice.batches) {
                let batch = batch.unwrap();
                assert_eq!(batch.header().leader_epoch, partition.leader_epoch(), "{id} at {next}");
                assert!(batch.header().base_offset <= next, "{id}: {next} was read over");
                for at in batch.records().unwrap() {
                    let (value, time) = &expected[at.offset.0 as usize];
                    assert_eq!(at.record.value.unwrap(), value.as_bytes(), "{id} at {}", at.offset);
                    assert_eq!(at.record.timestamp_ms, *time, "{id} at {}", at.offset);
                }
                next = batch.header().next_offset();
            }
        }
        assert!(!is_whole || next.0 == expected.len() as i64, "{id} ends at {next}");
        for asked in [0, 20, 49] {
            let first = expected.iter().position(|(_, time)| *time >= asked).map(|at| at as i64);
            match partition.locate(At::Time(asked)) {
                Ok(found) => assert_eq!(found.map(|at| at.offset.0), first, "{id} at time {asked}"),
                Err(_) => is_whole = false,
            }
        }
        if !is_whole {
            assert!(partition.check_status().is_err(), "{id} reads wrong and has not stopped");
            assert_eq!(outcome, Outcome::Whole, "two partitions tell of one byte");
            outcome = Outcome::PartitionTells;
        }
    }
    let committed = broker.groups().fetch_offsets("g", &[("plain".to_owned(), 0)], true).await.remove(0);
    assert_eq!(committed.unwrap().unwrap().offset, COMMITTED);
    broker.close().await;
    outcome
}

/// Which bytes of a file of that length are changed.
fn places(len: usize) -> Vec<usize> {
    if let Ok(step) = std::env::var("ANABRANCH_BREAKAGE") {
        return (0..len).step_by(step.parse().unwrap()).collect();
    }
    // In a segment: the offset, the length, the epoch, the records, the last byte.
    let mut places: Vec<usize> = [5, 9, 13, 70, len / 2].into_iter().chain(len.checked_sub(1)).collect();
    places.retain(|place| *place < len);
    places.sort_unstable();
    places.dedup();
    places
}

/// So many files of each kind, unless more is asked for.
const FILES_OF_A_KIND: usize = 6;

async fn change_each(
    whole: &Path,
    records: &Records,
    fine: impl Fn(Kind) -> &'static [Outcome],
) -> BTreeMap<(Kind, Outcome), usize> {
    let mut outcomes = BTreeMap::new();
    let mut left: BTreeMap<Kind, usize> = BTreeMap::new();
    for file in files(whole) {
        let of_kind = left.entry(kind(&file)).or_insert(FILES_OF_A_KIND);
        if *of_kind == 0 && std::env::var_os("ANABRANCH_BREAKAGE").is_none() {
            continue;
        }
        *of_kind = of_kind.saturating_sub(1);
        let name = file.strip_prefix(whole).unwrap();
        let bytes = fs::read(&file).unwrap();
        for at in places(bytes.len()) {
            // The rest of a journal file is zeros that nothing was written to yet.
            let is_unused =
                kind(name) == Kind::Journal && bytes[at..].iter().take(2048).all(|byte| *byte == 0);
            if is_unused && at % 4096 != 0 {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            copy(whole, dir.path());
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(dir.path().join(name), changed).unwrap();
            let outcome = Box::pin(read(dir.path(), records)).await;
            assert!(fine(kind(name)).contains(&outcome), "byte {at} of {}: {outcome:?}", name.display());
            *outcomes.entry((kind(name), outcome)).or_default() += 1;
        }
    }
    outcomes
}

#[tokio::test]
async fn a_changed_byte_after_a_clean_stop_is_told_or_made_good() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, records) = fill(dir.path()).await;
    broker.close().await;
    assert_eq!(read(dir.path(), &records).await, Outcome::Whole);
    let fine = |kind| match kind {
        Kind::Format | Kind::InternalSegment => &[Outcome::StartRefused][..],
        Kind::Segment => &[Outcome::PartitionTells],
        Kind::Derived => &[Outcome::Whole],
        Kind::Journal => &[],
    };
    let outcomes = Box::pin(change_each(dir.path(), &records, fine)).await;
    for kind in [Kind::Format, Kind::Segment, Kind::InternalSegment, Kind::Derived] {
        assert!(outcomes.keys().any(|(of, _)| *of == kind), "no {kind:?} was changed: {outcomes:?}");
    }
}

/// The process has died: what is durable may be in the journal and not in its segment yet, which makes good what is wrong there.
#[tokio::test]
async fn a_changed_byte_after_a_death_is_told_or_made_good() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, mut records) = fill(dir.path()).await;
    let topic = broker.create_topic(NewTopic::new("more"), Apply::Now).await.unwrap();
    let of_more = records.entry(TopicPartition::new("more", 0)).or_default();
    let has_journal = || {
        let files = fs::read_dir(dir.path().join("journal")).into_iter().flatten();
        let mut files = files.map(|entry| fs::read(entry.unwrap().path()).unwrap_or_default());
        // An entry stands in the second sector.
        files.any(|bytes| bytes.get(512..516).is_some_and(|magic| magic == b"AJE1"))
    };
    while !has_journal() || of_more.len() < 4 {
        let value = format!("more {}", of_more.len());
        topic.append_with(Record::new("key", value.clone()).at(3), Ack::Durable).await.unwrap();
        of_more.push((value, 3));
        assert!(of_more.len() < 5000, "there is no journal");
    }
    let dead = tempfile::tempdir().unwrap();
    copy(dir.path(), dead.path());
    broker.close().await;
    let again = tempfile::tempdir().unwrap();
    copy(dead.path(), again.path());
    assert_eq!(read(again.path(), &records).await, Outcome::Whole);
    let fine = |kind| match kind {
        Kind::Format => &[Outcome::StartRefused][..],
        Kind::InternalSegment | Kind::Journal => &[Outcome::Whole, Outcome::StartRefused],
        Kind::Segment => &[Outcome::Whole, Outcome::PartitionTells],
        Kind::Derived => &[Outcome::Whole],
    };
    let outcomes = Box::pin(change_each(dead.path(), &records, fine)).await;
    assert!(outcomes.keys().any(|(of, _)| *of == Kind::Journal), "{outcomes:?}");
}
