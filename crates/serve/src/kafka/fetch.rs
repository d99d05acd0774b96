//! Fetch (key 1, versions 4 to 18): a long poll over many partitions.
//!
//! `max_bytes` is soft (KIP-74): the first batch that is found is returned whole even when it is larger; after it the
//! limits are hard.
//!
//! Records that are few are read, and what is wrong with them is said in the answer. Those that are many are only found, and
//! are read and checked a piece at a time while they are sent (`outgoing`, [`anabranch_broker::BatchRange`]): what is wrong
//! with them closes the connection in the middle of the answer, and is said in the next one. The memory for both is taken
//! before, and is little however much is asked for; when there is none the client is told to wait.
//!
//! A request may be one of a session (`fetch_session`), and then asks for all that the session has. One node is never fetched
//! from by followers, so replica fields are ignored.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use anabranch_broker::{Batches, FetchLimits, Isolation, Partition, Waiter, check_leader_epoch};
use anabranch_core::batch::BatchHeader;
use anabranch_core::{LeaderEpoch, Offset};
use anabranch_wire::messages::fetch_request::FetchTopic;
use anabranch_wire::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse, PartitionData};
use anabranch_wire::messages::{FetchRequest, FetchResponse, TopicName};
use anabranch_wire::{ErrorCode, Fetched, Head, NO_ERROR};
use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::fetch_session::{NO_SESSION, Turn};
use super::memory::Held;
use super::outgoing::Unread;
use super::{Door, codes, find_topic, redirect};

/// How long a client is told to wait, and is not read, that got nothing for want of memory.
const THROTTLE: Duration = Duration::from_millis(100);
/// While a fetch waits anyway, memory is looked for so often.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// `FetchRequest.json`'s IsolationLevel.
const READ_UNCOMMITTED: i8 = 0;
const READ_COMMITTED: i8 = 1;

/// Records that are only found are read through a buffer of no more than this: a batch of Kafka's default size fits, and so
/// is read once.
const BUFFER_BYTES_MAX: usize = (1 << 20) + (4 << 10);

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
    isolation: Isolation,
}

/// What one look found.
#[derive(Debug)]
struct Found {
    responses: Vec<FetchableTopicResponse>,
    /// What is not read yet, and its places in the answer.
    unread: Vec<((usize, usize), Unread)>,
    bytes: usize,
    /// Of them, what was read.
    read_bytes: usize,
    has_error: bool,
}

/// What became of a look.
#[derive(Debug)]
enum Taken {
    Found(Found, Option<Held>),
    /// There is something, and no memory for it now.
    NoMemory(Found),
}

/// An answer on its way out.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) fetched: Fetched<Unread>,
    /// The memory for its records.
    pub(super) held: Option<Held>,
    /// How much of it is for reading what is not read yet.
    pub(super) buffer_bytes: usize,
}

impl From<FetchResponse> for Answer {
    fn from(response: FetchResponse) -> Self {
        Self { fetched: response.into(), held: None, buffer_bytes: 0 }
    }
}

/// Waits until there is as much as the client wants, or it has waited long enough.
pub(super) async fn answer(door: &Door, head: &Head, mut request: FetchRequest) -> Answer {
    let version = head.version;
    request.topics = merge(request.topics);
    if ![READ_UNCOMMITTED, READ_COMMITTED].contains(&request.isolation_level)
        && Look::of(door, head, &request).partitions().next().is_some()
    {
        return misunderstood(version, request).into();
    }
    let begun = door.sessions.lock().begin(version, &mut request, door.now());
    let turn = match begun {
        Ok(turn) => turn,
        Err(code) => return FetchResponse::default().with_error_code(code.code()).into(),
    };
    let wait_max = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Instant::now() + wait_max;
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0);
    let mut waiter: Option<Waiter> = None;
    loop {
        let look = Look::of(door, head, &request);
        let is_last = Instant::now() >= deadline || *door.stopping.borrow() || look.is_empty();
        if let Some(waiter) = &waiter {
            look.partitions().for_each(|partition| partition.register(waiter));
        }
        let mut until = deadline;
        match take(door, look).await {
            Taken::Found(found, held) if is_last || found.has_error || found.bytes >= bytes_min => {
                door.metrics.records_out.add(found.count_records());
                let buffer_bytes = found.buffer_bytes(held.as_ref().map_or(0, Held::bytes));
                let fetched = found.told(door, version, turn, &request);
                return Answer { fetched, held, buffer_bytes };
            }
            Taken::NoMemory(found) if is_last || found.has_error => {
                door.metrics.fetches_without_memory.add(1);
                let throttle_ms = THROTTLE.as_millis() as i32;
                let response = found.told(door, version, turn, &request).response;
                return response.with_throttle_time_ms(throttle_ms).into();
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

/// What Kafka makes of an isolation level that it does not know (`FetchRequest.getErrorResponse`).
fn misunderstood(version: i16, request: FetchRequest) -> FetchResponse {
    let code = ErrorCode::UnknownServerError;
    if version >= 13 {
        return FetchResponse::default().with_error_code(code.code());
    }
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| refused(asked.partition, code));
        FetchableTopicResponse::default().with_topic(topic.topic).with_partitions(partitions.collect())
    });
    let code = if version >= 7 { code.code() } else { NO_ERROR };
    FetchResponse::default().with_error_code(code).with_responses(topics.collect())
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
    fn of(door: &Door, head: &Head, request: &FetchRequest) -> Self {
        let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(door.limits.fetch_bytes_max);
        let elsewhere = std::cell::LazyCell::new(|| redirect::fetch(door.redirect(head).as_ref()));
        let topics = request.topics.iter().map(|topic| {
            let FetchTopic { topic: name, topic_id, partitions, .. } = topic;
            let found = find_topic(door, head.version >= 13, name, *topic_id).and_then(|topic| {
                // A position means another record there: nobody goes on reading here.
                match door.broker.moved_to(topic.name()) {
                    None => Ok(topic),
                    Some(_) => Err(*elsewhere),
                }
            });
            let wanted = partitions.iter().map(|asked| Wanted {
                partition: found.clone().and_then(|topic| {
                    let partition = topic.partition(asked.partition).cloned();
                    partition.ok_or(ErrorCode::UnknownTopicOrPartition)
                }),
                index: asked.partition,
                from: Offset(asked.fetch_offset),
                // Whatever is below zero means none here, and only here (`FetchRequest.optionalEpoch`).
                leader_epoch: super::leader_epoch(asked.current_leader_epoch.max(-1)),
                bytes_max: usize::try_from(asked.partition_max_bytes).unwrap_or(0),
            });
            (name.clone(), *topic_id, wanted.collect())
        });
        let isolation = match request.isolation_level {
            READ_COMMITTED => Isolation::Committed,
            _ => Isolation::Written, // READ_UNCOMMITTED
        };
        Self { topics: topics.collect(), bytes_max, isolation }
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

    /// The memory that is wanted for what may be found: 0 when nothing is new, which is known without reading.
    fn memory_expected(&self) -> usize {
        let (mut read, mut is_much) = (0_usize, false);
        for wanted in self.wanted() {
            let Ok(partition) = &wanted.partition else { continue };
            if wanted.from < partition.offsets().end(self.isolation) {
                let size = usize::try_from(partition.size_bytes()).unwrap_or(usize::MAX);
                is_much |= size >= FetchLimits::IN_FILE_BYTES;
                read = read.saturating_add(size.clamp(1, FetchLimits::IN_FILE_BYTES));
            }
        }
        // What was read may stand in a buffer of twice its size.
        let read = read.min(self.bytes_max.max(FetchLimits::IN_FILE_BYTES)).saturating_mul(2);
        read + if is_much { BUFFER_BYTES_MAX } else { 0 }
    }

    /// Finds and reads, and so much of it at once; or nothing. Blocks on the disk. If the first batch of all takes more than
    /// was asked for it comes alone.
    fn read(self, read_bytes_max: Option<usize>) -> Found {
        let mut found = Found {
            responses: Vec::with_capacity(self.topics.len()),
            unread: Vec::new(),
            bytes: 0,
            read_bytes: 0,
            has_error: false,
        };
        for (name, topic_id, wanted) in self.topics {
            let mut partitions = Vec::with_capacity(wanted.len());
            for wanted in wanted {
                let limits = read_bytes_max.map(|read_bytes_max| FetchLimits {
                    bytes_max: self.bytes_max.saturating_sub(found.bytes).min(wanted.bytes_max),
                    first_comes: found.bytes == 0,
                    memory_bytes_max: read_bytes_max.saturating_sub(found.read_bytes),
                });
                let read = wanted.read(limits, self.isolation);
                let (data, batches) = read.unwrap_or_else(|code| {
                    found.has_error = true;
                    (refused(wanted.index, code), Batches::Read(Bytes::new()))
                });
                found.bytes += batches.len_bytes();
                let place = (found.responses.len(), partitions.len());
                partitions.push(match batches {
                    Batches::Read(records) => {
                        found.read_bytes += records.len();
                        data.with_records(Some(records))
                    }
                    Batches::InFile(range) => {
                        found.unread.push((place, Unread(range)));
                        data
                    }
                });
            }
            let response = FetchableTopicResponse::default().with_topic(name).with_topic_id(topic_id);
            found.responses.push(response.with_partitions(partitions));
        }
        found
    }
}

impl Wanted {
    fn read(
        &self,
        limits: Option<FetchLimits>,
        isolation: Isolation,
    ) -> Result<(PartitionData, Batches), ErrorCode> {
        let partition = self.partition.as_ref().map_err(|code| *code)?;
        check_leader_epoch(self.leader_epoch).map_err(|error| codes::fetch(&error))?;
        // Before the bounds: "out of range" would have a consumer of a damaged partition begin anew elsewhere.
        partition.check_status().map_err(|error| codes::fetch(&error))?;
        let mut bounds = partition.offsets();
        let (mut batches, mut aborted) = (Batches::Read(Bytes::new()), Vec::new());
        let mut is_left_out = false;
        if self.from < bounds.log_start || self.from > bounds.log_end {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        let limits = limits.filter(|limits| limits.bytes_max > 0 || limits.first_comes);
        if self.from < bounds.end(isolation)
            && let Some(limits) = limits
        {
            let slice = partition.fetch_within(self.from, limits, isolation, self.leader_epoch);
            let slice = slice.map_err(|error| codes::fetch(&error))?;
            (bounds, batches, aborted) = (slice.offsets, slice.batches, slice.aborted);
            // Nor does it say anything of what there was some room for, and not enough.
            is_left_out = batches.len_bytes() == 0;
        }
        let aborted = aborted.into_iter().map(|aborted| {
            AbortedTransaction::default()
                .with_producer_id(aborted.producer.0.into())
                .with_first_offset(aborted.first.0)
        });
        let data = PartitionData::default()
            .with_partition_index(self.index)
            .with_high_watermark(bounds.high_watermark.0)
            .with_last_stable_offset(bounds.last_stable.0)
            .with_log_start_offset(bounds.log_start.0)
            .with_aborted_transactions(
                (isolation == Isolation::Committed && !is_left_out).then(|| aborted.collect()),
            );
        Ok((data, batches))
    }
}

fn refused(index: i32, code: ErrorCode) -> PartitionData {
    // Kafka says "none were aborted" of what it does not look for in a log, and nothing of what it does not find there.
    let is_looked_for = !matches!(
        code,
        ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId | ErrorCode::UnknownServerError
    );
    PartitionData::default()
        .with_aborted_transactions((!is_looked_for).then(Vec::new))
        .with_partition_index(index)
        .with_error_code(code.code())
        .with_high_watermark(-1)
        .with_last_stable_offset(-1)
        .with_log_start_offset(-1)
        .with_records(Some(Bytes::new()))
}

/// One look: takes memory for what it may find, reads off the async threads, gives back what was not needed.
async fn take(door: &Door, look: Look) -> Taken {
    let expected = look.memory_expected();
    if expected == 0 {
        return Taken::Found(look.read(None), None);
    }
    let Some(mut held) = door.memory.answer(expected) else {
        return Taken::NoMemory(look.read(None));
    };
    let bytes = held.bytes();
    let read_bytes_max = (bytes - BUFFER_BYTES_MAX.min(bytes / 2)) / 2;
    let found = tokio::task::spawn_blocking(move || look.read(Some(read_bytes_max))).await;
    let found = found.expect("reading a log does not panic");
    held.shrink_to(found.held_for_read() + found.buffer_bytes(bytes));
    Taken::Found(found, Some(held))
}

impl Found {
    /// Of the memory that is held, the buffer for what is not read yet: every batch that fits is read once.
    fn buffer_bytes(&self, held_bytes: usize) -> usize {
        let largest = self.unread.iter().map(|(_, Unread(range))| range.len_bytes()).max().unwrap_or(0);
        largest.min(BUFFER_BYTES_MAX).min(held_bytes - self.held_for_read())
    }

    /// What the client is told of it: of a session, what changed.
    fn told(mut self, door: &Door, version: i16, turn: Turn, request: &FetchRequest) -> Fetched<Unread> {
        let id = match turn {
            Turn::Alone => NO_SESSION,
            Turn::First => {
                let told = self.responses.iter().flat_map(|topic| &topic.partitions);
                let random = || door.broker.random().next_u64();
                door.sessions.lock().first(version >= 13, &request.topics, told, random, door.now())
            }
            Turn::Next { id, epoch } => match door.sessions.lock().next(id, epoch) {
                Err(code) => return FetchResponse::default().with_error_code(code.code()).into(),
                Ok(mut changes) => {
                    self.retain(|topic, data, has_records| {
                        changes.tells(&topic.topic, topic.topic_id, data, has_records)
                    });
                    id
                }
            },
        };
        let response = FetchResponse::default().with_session_id(id).with_responses(self.responses);
        Fetched { response, absent: self.unread }
    }

    /// Leaves out the partitions, none of which has records, that `stays` refuses; and topics that have no others.
    fn retain(&mut self, mut stays: impl FnMut(&FetchableTopicResponse, &PartitionData, bool) -> bool) {
        let mut unread = std::mem::take(&mut self.unread).into_iter().peekable();
        let responses = std::mem::take(&mut self.responses);
        for (of_topic, mut topic) in responses.into_iter().enumerate() {
            let partitions = std::mem::take(&mut topic.partitions);
            for (of_partition, data) in partitions.into_iter().enumerate() {
                let unread = unread.next_if(|(place, _)| *place == (of_topic, of_partition));
                let has_records =
                    unread.is_some() || data.records.as_ref().is_some_and(|records| !records.is_empty());
                if stays(&topic, &data, has_records) {
                    let place = (self.responses.len(), topic.partitions.len());
                    self.unread.extend(unread.map(|(_, unread)| (place, unread)));
                    topic.partitions.push(data);
                }
            }
            if !topic.partitions.is_empty() {
                self.responses.push(topic);
            }
        }
    }

    /// What was read may stand in a buffer of twice its size.
    fn held_for_read(&self) -> usize {
        self.read_bytes * 2
    }

    /// Those that were read.
    fn count_records(&self) -> u64 {
        let partitions = self.responses.iter().flat_map(|topic| &topic.partitions);
        partitions.filter_map(|data| data.records.as_ref()).map(|records| count_in(records)).sum()
    }
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
