//! What the broker has after it was opened, against what it said before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anabranch_broker::{At, Broker, LogStatus, Partition};
use anabranch_core::batch::BatchHeader;
use anabranch_core::seam::Clock;
use anabranch_core::{Offset, TopicPartition};
use anabranch_log::{FaultCause, PartitionReport};
use parking_lot::Mutex;

use crate::clients::check_offsets;
use crate::life::Run;
use crate::model::batch::{BatchNumber, Key};
use crate::model::partition::Strength;
use crate::model::topics::Fate;
use crate::model::{DATA, Found, World, table};
use crate::plan::End;
use crate::readers::fetched;

/// Batches from one that is sought to the next.
const SEEK_EVERY: usize = 2;
/// Records from one whose time is sought to the next.
const TIME_EVERY: usize = 7;

/// Everything that the broker has is what it must have.
pub(crate) async fn check_everything(world: &Arc<Mutex<World>>, broker: &Broker) {
    {
        let mut world = world.lock();
        check_topics(&mut world, broker);
        for key in world.present() {
            if world.failure.is_some() {
                return;
            }
            let id = world.name(key);
            match broker.partition(&id) {
                None => world.fail(format!("{id} was acknowledged, and is gone")),
                Some(partition) if world.works(key, &partition) => {
                    check_partition(&mut world, key, &partition);
                }
                Some(_) => {}
            }
        }
    }
    check_offsets(world, broker).await;
}

fn check_topics(world: &mut World, broker: &Broker) {
    let mut found: BTreeMap<String, _> = broker
        .topics()
        .iter()
        .filter(|topic| !topic.is_internal())
        .map(|topic| (topic.name().to_owned(), Arc::clone(topic)))
        .collect();
    for at in 0..world.topics.len() {
        let model = &mut world.topics[at];
        model.busy = false;
        if model.fate == Fate::Gone {
            continue;
        }
        let Some(topic) = found.get(&model.name).filter(|topic| model.id.is_none_or(|id| id == topic.id()))
        else {
            match model.fate {
                Fate::Unclear => world.gone(at),
                _ => {
                    let what = format!("topic {} was acknowledged, and is gone", model.name);
                    world.fail(what);
                }
            }
            continue;
        };
        (model.id, model.fate) = (Some(topic.id()), Fate::There);
        let count = topic.partition_count();
        let asked = model.configs_asked.take();
        let is_right = (count == model.partitions.0 || count == model.partitions.1)
            && (*topic.configs() == model.configs || Some(topic.configs()) == asked.as_ref());
        model.partitions = (count, count);
        model.configs.clone_from(topic.configs());
        if !is_right {
            let what = format!("topic {} has {count} partitions and {:?}", model.name, topic.configs());
            world.fail(what);
        }
        found.remove(&world.topics[at].name.clone());
    }
    if let Some((name, _)) = found.first_key_value() {
        world.fail(format!("there is a topic {name}, which was deleted or never created"));
    }
}

/// Reads a whole partition, as a consumer would.
fn read_all(world: &mut World, key: Key, partition: &Partition) -> Option<Vec<Found>> {
    let offsets = partition.offsets();
    world.starts(key, offsets.log_start.0);
    let (mut next, mut all) = (offsets.log_start.0, Vec::new());
    while next < offsets.high_watermark.0 && world.failure.is_none() {
        match fetched(partition, next, 1 << 20) {
            Ok(batches) if batches.is_empty() => {
                world.fail(format!(
                    "{}: nothing at offset {next}, and the high watermark is {}",
                    partition.id(),
                    offsets.high_watermark
                ));
            }
            // What is there after a start was made durable by it.
            Ok(batches) => {
                let (after, found) = world.read(key, next, batches, Strength::Durable);
                all.extend(found);
                next = after;
            }
            Err(error) => {
                world.trace.note(format_args!("{}: {error}", partition.id()));
                if !world.may_stop(key) {
                    world.fail(format!("{}: cannot read from {next}: {error}", partition.id()));
                }
                return None;
            }
        }
    }
    if next != offsets.log_end.0 && world.failure.is_none() {
        world.fail(format!("{}: ends at {next}, and says {}", partition.id(), offsets.log_end));
    }
    Some(all)
}

fn check_partition(world: &mut World, key: Key, partition: &Partition) {
    let Some(all) = read_all(world, key, partition) else { return };
    let name = partition.id().to_string();
    world.trace.note(format_args!("{name} has {} batches, to {}", all.len(), partition.offsets().log_end));
    for found in all.iter().skip(3).step_by(SEEK_EVERY) {
        seek(world, key, partition, found.base, found.number);
    }
    let there: BTreeSet<i64> = all.iter().map(|found| found.base).collect();
    let table = world.topics[key.0].table;
    let model = world.partitions.entry(key).or_default();
    let power_lost = std::mem::take(&mut model.power_lost);
    let missing: Vec<_> =
        model.known.iter().filter(|(base, _)| !there.contains(base)).map(|(b, p)| (*b, *p)).collect();
    for (base, placed) in missing {
        match placed.strength {
            Strength::Written if power_lost => world.forget(key, base, placed.batch),
            _ if table.is_some() => {}
            strength => {
                let batch = placed.batch;
                return world.fail(format!("{name}: batch {batch} at offset {base}, {strength:?}, is gone"));
            }
        }
    }
    check_order(world, &name, &all, table.is_some());
    let records = records_of(world, key, &all);
    if let Some(stay_ms) = table {
        let there = records.iter().map(|(offset, _)| *offset).collect();
        let now_ms = world.clock.now_ms();
        let outcome = match world.partitions.get(&key) {
            Some(model) => table::judge(key, model, &world.sent, &there, now_ms, stay_ms),
            None => Ok(()),
        };
        world.check(&name, outcome);
    }
    check_times(world, key, partition, &records);
    let model = world.partitions.entry(key).or_default();
    let end = model.end();
    model.reader = model.reader.min(end);
}

/// Offsets and times of the records that are there, from the log's start on.
fn records_of(world: &World, key: Key, all: &[Found]) -> Vec<(i64, i64)> {
    let start = world.partitions.get(&key).map_or(0, |model| model.start);
    let of_batch = |found: &Found| {
        let contents = &world.sent[found.number].contents;
        let base = found.base;
        let record = |at: &usize| (base + *at as i64, contents[*at].timestamp_ms);
        found.there.iter().map(record).collect::<Vec<_>>()
    };
    all.iter().flat_map(of_batch).filter(|(offset, _)| *offset >= start).collect()
}

/// Times are found where a walk over all records finds them.
fn check_times(world: &mut World, key: Key, partition: &Partition, records: &[(i64, i64)]) {
    let max_ms = records.iter().map(|(_, time_ms)| *time_ms).max();
    let some = records.iter().step_by(TIME_EVERY).flat_map(|(_, time_ms)| [*time_ms, time_ms + 1]);
    let asked: Vec<i64> = some.chain(max_ms).chain(max_ms.map(|max_ms| max_ms + 1)).collect();
    let first =
        |is_right: &dyn Fn(i64) -> bool| records.iter().find(|(_, time_ms)| is_right(*time_ms)).copied();
    let latest = (At::MaxTimestamp, first(&|time_ms| Some(time_ms) == max_ms));
    let early = asked.into_iter().map(|asked_ms| (At::Time(asked_ms), first(&|time_ms| time_ms >= asked_ms)));
    for (at, expected) in early.chain([latest]) {
        match partition.locate(at) {
            Ok(found) if found.map(|found| (found.offset.0, found.timestamp_ms)) == expected => {}
            Err(_) if world.may_stop(key) => return,
            // Damage that a read has met already.
            _ if world.partitions.get(&key).is_some_and(|model| model.damaged) => return,
            found => {
                return world
                    .fail(format!("{}: {at:?} is at {expected:?}, and not {found:?}", partition.id()));
            }
        }
    }
}

/// Whoever comes in the middle finds his way, too.
fn seek(world: &mut World, key: Key, partition: &Partition, base: i64, number: BatchNumber) {
    let last = base + i64::from(world.sent[number].records) - 1;
    let found = partition.fetch(Offset(last), 1, None).map_err(|error| error.to_string());
    let first = found.and_then(|slice| BatchHeader::parse(&slice.batches).map_err(|error| error.to_string()));
    match first {
        Ok(header) if header.base_offset.0 == base => {}
        _ if world.may_stop(key) => {}
        first => {
            world.fail(format!("{}: offset {last} is in batch {number}, and not {first:?}", partition.id()));
        }
    }
}

/// Each producer's batches are in the order in which they were sent, without holes but for those that compaction made.
fn check_order(world: &mut World, name: &str, all: &[Found], has_holes: bool) {
    let mut last: BTreeMap<Option<usize>, i32> = BTreeMap::new();
    for Found { base, number, .. } in all {
        let sent = &world.sent[*number];
        let (by, at, next) = match sent.producer {
            None => (None, *number as i32, *number as i32 + 1),
            Some((producer, sequence)) => (Some(producer), sequence, sequence + sent.records),
        };
        let before = last.insert(by, next);
        let is_right = match by {
            Some(_) if !has_holes => before.is_none_or(|before| before == at),
            _ => before.is_none_or(|before| before <= at),
        };
        if !is_right {
            return world.fail(format!("{name}: batch {number} of {by:?} is out of order at offset {base}"));
        }
    }
}

/// What a look at the directory said is what recovery then did.
pub(crate) fn check_reports(
    world: &Arc<Mutex<World>>,
    broker: &Broker,
    reports: &[(TopicPartition, PartitionReport)],
    calm: bool,
) {
    let mut world = world.lock();
    let keys: BTreeMap<TopicPartition, Key> = world
        .topics
        .iter()
        .enumerate()
        .filter(|(_, topic)| topic.fate != Fate::Gone)
        .flat_map(|(at, topic)| {
            (0..topic.partitions.1)
                .map(move |number| (TopicPartition::new(topic.name.clone(), number), (at, number)))
        })
        .collect();
    for (id, report) in reports {
        let Some(partition) = broker.partition(id) else { continue };
        let damaged =
            keys.get(id).and_then(|key| world.partitions.get(key)).is_some_and(|model| model.damaged);
        let damaged = damaged || world.all_excused();
        let end = partition.offsets().log_end;
        match partition.status() {
            LogStatus::Online if !report.faults.is_empty() && !damaged => {
                world.fail(format!("{id}: a look found {:?}, and recovery nothing", report.faults));
            }
            // The broker writes to its own topics as it opens.
            LogStatus::Online if id.topic.starts_with("__") && report.end <= end => {}
            LogStatus::Online if report.end != end && !damaged && report.faults.is_empty() => {
                world.fail(format!("{id}: a look said it ends at {}, and it ends at {end}", report.end));
            }
            LogStatus::Stopped(fault) if report.faults.is_empty() && calm => {
                world.fail(format!("{id}: a look found nothing, and recovery: {fault}"));
            }
            _ => {}
        }
    }
}

impl World {
    /// A batch that was only written is gone with the power.
    fn forget(&mut self, key: Key, base: i64, batch: BatchNumber) {
        self.trace.note(format_args!("batch {batch} was only written, and is gone"));
        self.sent[batch].at = None;
        self.sent[batch].unsure = true;
        self.partitions.entry(key).or_default().known.remove(&base);
        if let Some((producer, _)) = self.sent[batch].producer
            && let Some(stream) = self.producers[producer].streams.get_mut(&key)
        {
            stream.broken = true;
        }
    }

    /// A bit was changed in a file that is not of one partition only.
    pub(crate) fn all_excused(&self) -> bool {
        self.flipped.as_ref().is_some_and(|(path, ..)| is_shared(path))
    }

    /// The process is gone: answers that did not come will not.
    pub(crate) fn end_life(&mut self, end: End) {
        self.trace.note(format_args!("the life has ended"));
        let closed = end == End::Clean;
        if closed {
            for key in self.present() {
                if !self.may_stop(key)
                    && let Some(model) = self.partitions.get_mut(&key)
                {
                    // Closing makes everything durable.
                    model.known.values_mut().for_each(|placed| placed.strength = Strength::Durable);
                }
            }
        }
        self.closing = false;
        self.waiting.clear();
        self.kept.clear();
        for sent in &mut self.sent {
            sent.unsure |= sent.open > 0;
            sent.open = 0;
        }
        for producer in &mut self.producers {
            for stream in producer.streams.values_mut() {
                stream.resend = (stream.answered < stream.batches.len()).then_some(stream.answered);
            }
        }
        for member in &mut self.members {
            member.cut_off();
        }
        self.faults.extend(self.disk.happened());
    }
}

/// Whether a file is not of one partition of a client's topic only.
pub(crate) fn is_shared(path: &Path) -> bool {
    let topics = Path::new(DATA).join("topics");
    path.strip_prefix(&topics).map_or(true, |inner| inner.to_string_lossy().starts_with("__"))
}

/// Whether a file can be made anew from the log.
fn is_derived(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "index" || kind == "snapshot")
}

fn is_snapshot(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "snapshot")
}

impl Run {
    /// A bit changes in a file that has been at rest.
    pub(crate) fn flip(&mut self) {
        self.disk.settle();
        let files: Vec<_> =
            self.disk.files(Path::new(DATA)).into_iter().filter(|(_, len)| *len > 0).collect();
        if files.is_empty() {
            return;
        }
        // The largest files have the most bits, and the small ones are hit as often as they.
        let derived = files.iter().filter(|(path, _)| is_derived(path)).cloned().collect::<Vec<_>>();
        let files = if derived.is_empty() || self.chance.one_in(3) { files } else { derived };
        // By directory; of those that follow one another in order, the last one stays.
        let snapshots = files.iter().filter(|(path, _)| is_snapshot(path));
        let newest: BTreeMap<_, _> = snapshots.map(|file| (file.0.parent(), file.clone())).collect();
        let newest: Vec<_> = newest.into_values().collect();
        let files = if newest.is_empty() || !self.chance.one_in(3) { files } else { newest };
        let (path, len) = self.chance.pick(&files).clone();
        let (byte, bit) = (self.chance.below(len), self.chance.below(8) as u8);
        if !self.disk.flip(&path, byte, bit) {
            return;
        }
        let _ = self.disk.happened();
        let mut world = self.world.lock();
        let partition = world.present().into_iter().find(|key| {
            let id = world.name(*key);
            path.starts_with(Path::new(DATA).join("topics").join(&id.topic).join(id.partition.to_string()))
        });
        if let Some(key) = partition
            && !is_derived(&path)
        {
            world.partitions.entry(key).or_default().damaged = true;
        }
        world.flipped = Some((path, byte, bit));
    }

    /// A partition whose oldest records were deleted may need a snapshot that is damaged. Then it says so, and stops until
    /// somebody has brought the snapshot back.
    pub(crate) fn excuse_lost_producers(&mut self, broker: &Broker) {
        let mut world = self.world.lock();
        let Some((path, ..)) = world.flipped.clone().filter(|(path, ..)| is_snapshot(path)) else { return };
        for key in world.present() {
            let Some(partition) = broker.partition(&world.name(key)) else { continue };
            let expires = world.topics[key.0].expires;
            if let LogStatus::Stopped(fault) = partition.status()
                && matches!(fault.cause, FaultCause::ProducersLost { .. })
                && fault.file == path
                && let Some(model) = world.partitions.get_mut(&key)
                && (expires || model.start_asked > 0)
            {
                model.damaged = true;
                world.trace.note(format_args!("rightly stopped: {fault}"));
                world.snapshot_lost = Some(key);
            }
        }
    }

    /// See [`Self::excuse_lost_producers`].
    pub(crate) fn mend_snapshot(&mut self) {
        let mut world = self.world.lock();
        let Some(key) = world.snapshot_lost.take() else { return };
        // The topic may be deleted.
        let Some(model) = world.partitions.get_mut(&key) else { return };
        model.damaged = false;
        if let Some((path, byte, bit)) = world.flipped.take() {
            self.disk.settle();
            self.disk.flip(&path, byte, bit);
            let _ = self.disk.happened();
        }
    }

    /// The bit changes back: somebody has mended it, since the broker would not open.
    pub(crate) fn unflip(&mut self) {
        let flipped = self.world.lock().flipped.take();
        if let Some((path, byte, bit)) = flipped {
            self.disk.settle();
            assert!(self.disk.flip(&path, byte, bit), "it was flipped before");
            let _ = self.disk.happened();
        }
    }
}
