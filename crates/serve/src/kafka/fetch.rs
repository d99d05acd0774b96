//! Fetch (key 1, versions 4 to 18): a long poll over many partitions.
//!
//! `max_bytes` is soft (KIP-74): the first batch that is found is returned whole even when it is larger; after it the
//! limits are hard. The memory of what is read is taken before; when there is little, less is read, and when there is none
//! the client is told to wait. Fetch sessions (KIP-227) are declined, as a broker may: session id 0 says so, and the client sends
//! whole requests. One node is never fetched from by followers, so replica fields are ignored.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use anabranch_broker::{Partition, Waiter, check_leader_epoch};
use anabranch_core::batch::BatchHeader;
use anabranch_core::{LeaderEpoch, Offset};
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::fetch_request::FetchTopic;
use anabranch_wire::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use anabranch_wire::messages::{FetchRequest, FetchResponse, TopicName};
use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::memory::Held;
use super::{Door, codes, find_topic};

/// How long a client is told to wait, and is not read, that got nothing for want of memory.
const THROTTLE: Duration = Duration::from_millis(100);
/// While a fetch waits anyway, memory is looked for so often.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// `READ_COMMITTED` of `FetchRequest.json`'s IsolationLevel.
const READ_COMMITTED: i8 = 1;

/// One partition as it was asked for.
#[derive(Debug, Clone)]
struct Wanted {
    partition: Result<Partition, ErrorCode>,
    index: i32,
    from: Offset,
    leader_epoch: Option<LeaderEpoch>,
    bytes_max: usize,
}

/// Everything that was asked for, in order. Resolved anew for each look, for topics come and go meanwhile.
#[derive(Debug)]
struct Look {
    topics: Vec<(TopicName, Uuid, Vec<Wanted>)>,
    bytes_max: usize,
    is_committed: bool,
}

/// What one look found.
#[derive(Debug)]
struct Found {
    responses: Vec<FetchableTopicResponse>,
    bytes: usize,
    has_error: bool,
    /// A batch that is larger than what was allowed, where nothing else was found before it.
    larger: Option<Larger>,
}

/// A batch that did not come.
#[derive(Debug, Clone, Copy)]
struct Larger {
    bytes: usize,
    /// Its places in the answer.
    topic: usize,
    partition: usize,
}

/// What became of a look.
#[derive(Debug)]
enum Taken {
    Found(Found, Option<Held>),
    /// There is something, and no memory for it now.
    NoMemory(Found),
}

/// Waits until there is as much as the client wants, or it has waited long enough. The memory is for the records.
pub(super) async fn answer(
    door: &Door,
    version: i16,
    mut request: FetchRequest,
) -> (FetchResponse, Option<Held>) {
    // KIP-227: epochs 0 and -1 ask for a full fetch; any other is for a session, and we never gave one out.
    if request.session_epoch > 0 {
        let code = ErrorCode::FetchSessionIdNotFound.code();
        return (FetchResponse::default().with_error_code(code), None);
    }
    request.topics = merge(request.topics);
    let wait_max = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Instant::now() + wait_max;
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0);
    let mut waiter: Option<Waiter> = None;
    loop {
        let look = Look::of(door, version, &request);
        let is_last = Instant::now() >= deadline || *door.stopping.borrow() || look.is_empty();
        if let Some(waiter) = &waiter {
            look.partitions().for_each(|partition| partition.register(waiter));
        }
        let mut until = deadline;
        match take(door, look, || Look::of(door, version, &request)).await {
            Taken::Found(found, held) if is_last || found.has_error || found.bytes >= bytes_min => {
                door.metrics.records_out.add(count_records(&found.responses));
                return (FetchResponse::default().with_responses(found.responses), held);
            }
            Taken::NoMemory(found) if is_last || found.has_error => {
                door.metrics.fetches_without_memory.add(1);
                let throttle_ms = THROTTLE.as_millis() as i32;
                let response = FetchResponse::default().with_responses(found.responses);
                return (response.with_throttle_time_ms(throttle_ms), None);
            }
            Taken::Found(..) => {}
            Taken::NoMemory(_) => until = deadline.min(Instant::now() + LOOK_AGAIN),
        }
        if let Some(waiter) = &waiter {
            tokio::select! {
                () = waiter.woken() => {}
                () = tokio::time::sleep_until(until) => {}
                () = door.stopped() => {}
            }
        }
        // The first look is without a waiter, for most find what they want. Once there is one, look again before waiting,
        // or what came in between would be missed. A new one each time, so that partitions forget the old.
        waiter = Some(Waiter::new());
    }
}

/// Each partition once, as Kafka does: a partition that is named again keeps its place, and the last word on it counts.
/// Without this, a short request could ask for the same records a hundred thousand times.
fn merge(topics: Vec<FetchTopic>) -> Vec<FetchTopic> {
    let mut places = HashMap::new();
    let mut merged: Vec<FetchTopic> = Vec::new();
    for FetchTopic { topic, topic_id, partitions, .. } in topics {
        for asked in partitions {
            match places.entry((topic.clone(), topic_id, asked.partition)) {
                Entry::Occupied(place) => {
                    let (of_topic, of_partition): (usize, usize) = *place.get();
                    merged[of_topic].partitions[of_partition] = asked;
                }
                Entry::Vacant(place) => {
                    if merged.last().is_none_or(|last| (&last.topic, last.topic_id) != (&topic, topic_id)) {
                        merged.push(FetchTopic::default().with_topic(topic.clone()).with_topic_id(topic_id));
                    }
                    let of_topic = merged.len() - 1;
                    place.insert((of_topic, merged[of_topic].partitions.len()));
                    merged[of_topic].partitions.push(asked);
                }
            }
        }
    }
    merged
}

impl Look {
    fn of(door: &Door, version: i16, request: &FetchRequest) -> Self {
        let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(door.limits.fetch_bytes_max);
        let topics = request.topics.iter().map(|topic| {
            let FetchTopic { topic: name, topic_id, partitions, .. } = topic;
            let found = find_topic(door, version >= 13, name, *topic_id);
            let wanted = partitions.iter().map(|asked| Wanted {
                partition: found.clone().and_then(|topic| {
                    let partition = topic.partition(asked.partition).cloned();
                    partition.ok_or(ErrorCode::UnknownTopicOrPartition)
                }),
                index: asked.partition,
                from: Offset(asked.fetch_offset),
                leader_epoch: super::leader_epoch(asked.current_leader_epoch),
                bytes_max: usize::try_from(asked.partition_max_bytes).unwrap_or(0),
            });
            (name.clone(), *topic_id, wanted.collect())
        });
        Self { topics: topics.collect(), bytes_max, is_committed: request.isolation_level == READ_COMMITTED }
    }

    fn wanted(&self) -> impl Iterator<Item = &Wanted> {
        self.topics.iter().flat_map(|(_, _, wanted)| wanted)
    }

    fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.wanted().filter_map(|wanted| wanted.partition.as_ref().ok())
    }

    fn is_empty(&self) -> bool {
        self.wanted().next().is_none()
    }

    /// As many bytes as may be found at most: 0 when nothing is new, which is known without reading.
    fn bytes_expected(&self) -> usize {
        let expected = self.wanted().map(|wanted| match &wanted.partition {
            Ok(partition) if wanted.from < partition.offsets().high_watermark => {
                let size = usize::try_from(partition.size_bytes()).unwrap_or(usize::MAX);
                wanted.bytes_max.clamp(1, size.max(1))
            }
            _ => 0,
        });
        expected.fold(0, usize::saturating_add).min(self.bytes_max.max(1))
    }

    /// Reads, up to `bytes_max`, or nothing if that is 0. Blocks on the disk. If the first batch of all takes more it comes
    /// alone, as long as it takes no more than `first_bytes_max`.
    fn read(self, bytes_max: usize, first_bytes_max: usize) -> Found {
        let mut found = Found {
            responses: Vec::with_capacity(self.topics.len()),
            bytes: 0,
            has_error: false,
            larger: None,
        };
        for (name, topic_id, wanted) in self.topics {
            let mut partitions = Vec::with_capacity(wanted.len());
            for wanted in wanted {
                let left = bytes_max.saturating_sub(found.bytes).min(wanted.bytes_max);
                // Nothing overtakes a batch that must come alone.
                let limit = if found.larger.is_some() { 0 } else { left };
                let is_first = found.bytes == 0 && found.larger.is_none();
                let first_bytes_max = if is_first { first_bytes_max } else { 0 };
                let read = wanted.read(limit, first_bytes_max, self.is_committed);
                let (data, first_bytes) = read.unwrap_or_else(|code| {
                    found.has_error = true;
                    (refused(wanted.index, code), None)
                });
                if let Some(bytes) = first_bytes {
                    let (topic, partition) = (found.responses.len(), partitions.len());
                    found.larger = Some(Larger { bytes, topic, partition });
                }
                found.bytes += data.records.as_ref().map_or(0, Bytes::len);
                partitions.push(data);
            }
            let response = FetchableTopicResponse::default().with_topic(name).with_topic_id(topic_id);
            found.responses.push(response.with_partitions(partitions));
        }
        found
    }
}

impl Wanted {
    /// A first batch that is larger than `limit` comes all the same if it has no more than `first_bytes_max`; otherwise its
    /// size comes.
    fn read(
        &self,
        limit: usize,
        first_bytes_max: usize,
        is_committed: bool,
    ) -> Result<(PartitionData, Option<usize>), ErrorCode> {
        let partition = self.partition.as_ref().map_err(|code| *code)?;
        check_leader_epoch(self.leader_epoch).map_err(|error| codes::fetch(&error))?;
        // Before the bounds: "out of range" would have a consumer of a damaged partition begin anew elsewhere.
        partition.check_status().map_err(|error| codes::fetch(&error))?;
        let mut bounds = partition.offsets();
        let (mut records, mut first_bytes) = (Bytes::new(), None);
        if self.from < bounds.log_start || self.from > bounds.log_end {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        if self.from < bounds.high_watermark && limit.max(first_bytes_max) > 0 {
            let slice = partition.fetch_within(self.from, limit, first_bytes_max, self.leader_epoch);
            let slice = slice.map_err(|error| codes::fetch(&error))?;
            (bounds, records) = (slice.offsets, slice.batches);
            // Where it is not the first of all, a batch that does not fit has to wait for its turn.
            first_bytes = slice.first_bytes.filter(|_| first_bytes_max > 0);
        }
        let data = PartitionData::default()
            .with_partition_index(self.index)
            .with_high_watermark(bounds.high_watermark.0)
            .with_last_stable_offset(bounds.high_watermark.0)
            .with_log_start_offset(bounds.log_start.0)
            .with_aborted_transactions(is_committed.then(Vec::new))
            .with_records(Some(records));
        Ok((data, first_bytes))
    }
}

fn refused(index: i32, code: ErrorCode) -> PartitionData {
    PartitionData::default()
        .with_partition_index(index)
        .with_error_code(code.code())
        .with_high_watermark(-1)
        .with_last_stable_offset(-1)
        .with_log_start_offset(-1)
        .with_records(Some(Bytes::new()))
}

/// One look: takes memory for what it may find, reads off the async threads, gives back what was not needed. When the first
/// batch of all takes more than that, it waits until there is as much, and looks once more.
async fn take(door: &Door, look: Look, again: impl Fn() -> Look) -> Taken {
    let expected = look.bytes_expected();
    if expected == 0 {
        return Taken::Found(look.read(0, 0), None);
    }
    let Some((mut held, bytes_max)) = door.memory.answer(expected) else {
        return Taken::NoMemory(look.read(0, 0));
    };
    let mut found = read(look, bytes_max, held.bytes()).await;
    if let Some(larger) = found.larger {
        drop(held);
        if larger.bytes > door.memory.bytes_max() {
            return Taken::Found(too_large(door, found, larger), None);
        }
        held = tokio::select! {
            held = door.memory.whole_answer(larger.bytes) => held,
            () = door.stopped() => return Taken::NoMemory(found),
        };
        found = read(again(), bytes_max, larger.bytes).await;
    }
    // What was read may stand in a buffer of twice its size.
    held.shrink_to(found.bytes.saturating_mul(2));
    Taken::Found(found, Some(held))
}

async fn read(look: Look, bytes_max: usize, first_bytes_max: usize) -> Found {
    let found = tokio::task::spawn_blocking(move || look.read(bytes_max, first_bytes_max)).await;
    found.expect("reading a log does not panic")
}

/// The next batch is larger than any memory that there can be: since the budget was made smaller, for it was written. To go
/// on as if there were nothing would have its consumer wait for ever.
fn too_large(door: &Door, mut found: Found, larger: Larger) -> Found {
    door.metrics.fetches_too_large.add(1);
    door.often_too_large.warn(door.now(), |left_out| {
        tracing::warn!(
            bytes = larger.bytes, memory = door.memory.bytes_max(), left_out,
            "a batch is larger than the memory for an answer: raise memory.budget.bytes and queued.max.request.bytes"
        );
    });
    let data = &mut found.responses[larger.topic].partitions[larger.partition];
    *data = refused(data.partition_index, ErrorCode::MessageTooLarge);
    found.has_error = true;
    found
}

fn count_records(responses: &[FetchableTopicResponse]) -> u64 {
    let records =
        responses.iter().flat_map(|topic| &topic.partitions).filter_map(|data| data.records.as_ref());
    records.map(|records| count_in(records)).sum()
}

/// From the headers alone. The log has checked them.
fn count_in(mut batches: &[u8]) -> u64 {
    let mut count = 0;
    while let Ok(header) = BatchHeader::parse(batches) {
        count += u64::from(header.record_count.unsigned_abs());
        batches = batches.get(header.len_bytes..).unwrap_or_default();
    }
    count
}
