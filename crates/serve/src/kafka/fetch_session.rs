//! Fetch sessions (KIP-227): what a client fetches is remembered between its requests, so that it says what changes, and is
//! told what changed.
//!
//! The rules are those of Kafka's `FetchManager` and `FetchSessionCacheShard`. A session belongs to whoever knows its id,
//! not to a connection. There are `max.incremental.fetch.session.cache.slots` of them, within a part of the memory budget;
//! who gets none is given id 0 and goes on to say everything each time. No I/O, no clock and no randomness here.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anabranch_core::budget::{Budget, Permit};
use anabranch_wire::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use anabranch_wire::messages::fetch_response::PartitionData;
use anabranch_wire::messages::{FetchRequest, TopicName};
use anabranch_wire::{ErrorCode, NO_ERROR};
use uuid::Uuid;

use super::topic_name;

/// `FetchMetadata.java`: a full request, which begins a session; and one that ends its session and begins none.
const INITIAL_EPOCH: i32 = 0;
const FINAL_EPOCH: i32 = -1;
/// The id of no session.
pub(super) const NO_SESSION: i32 = 0;
/// `MIN_INCREMENTAL_FETCH_SESSION_EVICTION_MS`: who is idle for longer makes room for others, and who is older, for larger ones.
const EVICT_AFTER: Duration = Duration::from_secs(120);
/// What one partition of a session takes, with its places in both maps, and without its topic's name.
const PARTITION_BYTES: usize = 512;

/// What a request is to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has none.
    Alone,
    /// It asks for one.
    First,
    Next {
        id: i32,
        epoch: i32,
    },
}

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    known: HashMap<i32, Session>,
    slots_max: usize,
    memory: Budget,
}

#[derive(Debug)]
struct Session {
    /// Whether its requests name topics by id.
    by_id: bool,
    /// That of the request that comes next.
    epoch: i32,
    created: Duration,
    used: Duration,
    /// In the order in which they are read. Who got records goes to the end, so that all have their turn.
    order: BTreeMap<u64, Cached>,
    places: HashMap<Key, u64>,
    place_next: u64,
    bytes: usize,
    /// For these bytes.
    memory: Permit,
}

type Key = (TopicName, Uuid, i32);

/// A partition as it was last asked for, and as it was last told.
#[derive(Debug)]
struct Cached {
    key: Key,
    asked: FetchPartition,
    /// High watermark and start.
    bounds: (i64, i64),
}

impl Sessions {
    pub(super) fn new(slots_max: usize, memory: Budget) -> Self {
        Self { known: HashMap::new(), slots_max, memory }
    }

    /// Takes what a request changes in its session, and makes it ask for all that the session has.
    pub(super) fn begin(
        &mut self,
        version: i16,
        request: &mut FetchRequest,
        now: Duration,
    ) -> Result<Turn, ErrorCode> {
        let (id, epoch) = (request.session_id, request.session_epoch);
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            self.known.remove(&id);
            return Ok(if epoch == INITIAL_EPOCH { Turn::First } else { Turn::Alone });
        }
        let session = self.known.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != (version >= 13) {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        if session.add(&request.topics, &self.memory).is_none() {
            // There is no memory for what it adds. The client begins anew, and is then given none.
            self.known.remove(&id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        session.forget(&request.forgotten_topics_data);
        if session.order.is_empty() {
            self.known.remove(&id);
            return Ok(Turn::Alone);
        }
        session.used = now;
        session.epoch = epoch_after(epoch);
        request.topics = session.topics();
        Ok(Turn::Next { id, epoch })
    }

    /// Begins a session of what was asked for, and of what was told: its id, or [`NO_SESSION`].
    pub(super) fn first<'a>(
        &mut self,
        by_id: bool,
        topics: &[FetchTopic],
        told: impl Iterator<Item = &'a PartitionData>,
        random: impl Fn() -> u64,
        now: Duration,
    ) -> i32 {
        let partitions = topics.iter().map(|topic| topic.partitions.len()).sum();
        let bytes = topics.iter().map(|topic| topic.partitions.len() * bytes_of(&topic.topic)).sum();
        let Some(memory) = self.room(partitions, bytes, now) else { return NO_SESSION };
        let mut session = Session {
            by_id,
            epoch: epoch_after(INITIAL_EPOCH),
            created: now,
            used: now,
            order: BTreeMap::new(),
            places: HashMap::new(),
            place_next: 0,
            bytes: 0,
            memory,
        };
        session.add(topics, &self.memory).expect("its memory is there");
        for (cached, told) in session.order.values_mut().zip(told) {
            cached.bounds = (told.high_watermark, told.log_start_offset);
        }
        let ids = std::iter::repeat_with(|| i32::try_from(random() >> 33).expect("31 bits"));
        let mut free = ids.filter(|id| *id != NO_SESSION && !self.known.contains_key(id));
        let id = free.next().expect("there are more ids than sessions");
        self.known.insert(id, session);
        id
    }

    /// The session whose turn it still is.
    pub(super) fn next(&mut self, id: i32, epoch: i32) -> Result<Changes<'_>, ErrorCode> {
        let session = self.known.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        match session.epoch == epoch_after(epoch) {
            true => Ok(Changes(session)),
            // The client has sent another request meanwhile.
            false => Err(ErrorCode::InvalidFetchSessionEpoch),
        }
    }

    /// A place for a session of so many partitions, and its memory.
    fn room(&mut self, partitions: usize, bytes: usize, now: Duration) -> Option<Permit> {
        if self.known.len() >= self.slots_max && !self.evict_idle(now) && !self.evict_smaller(partitions) {
            return None;
        }
        loop {
            let memory = self.memory.try_acquire(bytes);
            if memory.is_some() || !self.evict_idle(now) {
                return memory;
            }
        }
    }

    /// The one that is idle for longest goes, if that is long.
    fn evict_idle(&mut self, now: Duration) -> bool {
        let longest = self.known.iter().min_by_key(|(_, session)| session.used);
        let idle = longest.filter(|(_, session)| now.saturating_sub(session.used) > EVICT_AFTER);
        let id = idle.map(|(id, _)| *id);
        id.is_some_and(|id| self.known.remove(&id).is_some())
    }

    /// The smallest of those that are old goes, if it is smaller.
    fn evict_smaller(&mut self, partitions: usize) -> bool {
        let old = self.known.iter().filter(|(_, session)| session.used - session.created > EVICT_AFTER);
        let smallest = old.min_by_key(|(id, session)| (session.order.len(), **id));
        let id = smallest.filter(|(_, session)| session.order.len() < partitions).map(|(id, _)| *id);
        id.is_some_and(|id| self.known.remove(&id).is_some())
    }
}

/// 1 comes after the largest (`FetchMetadata.nextEpoch`).
fn epoch_after(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

fn key(name: &TopicName, id: Uuid, partition: i32) -> Key {
    (name.clone(), id, partition)
}

fn bytes_of(name: &TopicName) -> usize {
    PARTITION_BYTES + name.len()
}

impl Session {
    /// Adds partitions, and takes what is asked of those that it has. `None` when there is no memory for more.
    fn add(&mut self, topics: &[FetchTopic], memory: &Budget) -> Option<()> {
        for topic in topics {
            // The request's own name would keep its whole frame.
            let name = topic_name(&topic.topic);
            for asked in &topic.partitions {
                let key = key(&name, topic.topic_id, asked.partition);
                // Nor is kept what it does not know.
                let asked = FetchPartition::default()
                    .with_partition(asked.partition)
                    .with_current_leader_epoch(asked.current_leader_epoch)
                    .with_fetch_offset(asked.fetch_offset)
                    .with_partition_max_bytes(asked.partition_max_bytes);
                if let Some(place) = self.places.get(&key) {
                    self.order.get_mut(place).expect("both maps have the same").asked = asked;
                    continue;
                }
                self.bytes += bytes_of(&name);
                if self.bytes > self.memory.bytes() {
                    self.memory.merge(memory.try_acquire(self.bytes - self.memory.bytes())?);
                }
                self.append(Cached { key, asked, bounds: (-1, -1) });
            }
        }
        Some(())
    }

    fn append(&mut self, cached: Cached) {
        self.places.insert(cached.key.clone(), self.place_next);
        self.order.insert(self.place_next, cached);
        self.place_next += 1;
    }

    fn forget(&mut self, topics: &[ForgottenTopic]) {
        for topic in topics {
            for partition in &topic.partitions {
                if let Some(place) = self.places.remove(&key(&topic.topic, topic.topic_id, *partition)) {
                    self.order.remove(&place);
                    self.bytes -= bytes_of(&topic.topic);
                }
            }
        }
        self.memory.shrink_to(self.bytes);
    }

    /// Everything that it asks for.
    fn topics(&self) -> Vec<FetchTopic> {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for Cached { key: (name, id, _), asked, .. } in self.order.values() {
            if topics.last().is_none_or(|last| (&last.topic, &last.topic_id) != (name, id)) {
                topics.push(FetchTopic::default().with_topic(name.clone()).with_topic_id(*id));
            }
            topics.last_mut().expect("it was just pushed").partitions.push(asked.clone());
        }
        topics
    }
}

/// A session while it is answered.
#[derive(Debug)]
pub(super) struct Changes<'a>(&'a mut Session);

impl Changes<'_> {
    /// Whether a partition is told: it has records or an error, or bounds that its client does not know.
    pub(super) fn tells(
        &mut self,
        name: &TopicName,
        id: Uuid,
        data: &PartitionData,
        has_records: bool,
    ) -> bool {
        let Self(session) = self;
        let key = key(name, id, data.partition_index);
        let place = session.places[&key];
        let cached = session.order.get_mut(&place).expect("both maps have the same");
        let is_error = data.error_code != NO_ERROR;
        // Those of an error are -1, so that what comes after it is told.
        let bounds = (data.high_watermark, data.log_start_offset);
        let moved = std::mem::replace(&mut cached.bounds, bounds) != bounds;
        if has_records && let Some(cached) = session.order.remove(&place) {
            session.append(cached);
        }
        has_records || is_error || moved
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const SLOTS: usize = 3;

    fn sessions(bytes: usize) -> Sessions {
        Sessions::new(SLOTS, Budget::new(bytes))
    }

    fn asking(id: i32, epoch: i32, partitions: std::ops::Range<i32>) -> FetchRequest {
        let partitions = partitions.map(|index| FetchPartition::default().with_partition(index)).collect();
        let topic = FetchTopic::default().with_topic(topic_name("t")).with_partitions(partitions);
        FetchRequest::default().with_session_id(id).with_session_epoch(epoch).with_topics(vec![topic])
    }

    /// A session of so many partitions, from a full request.
    fn begin(sessions: &mut Sessions, partitions: i32, now_s: u64) -> i32 {
        let mut request = asking(0, 0, 0..partitions);
        let now = Duration::from_secs(now_s);
        assert_eq!(sessions.begin(12, &mut request, now), Ok(Turn::First));
        let random = || NEXT_ID.fetch_add(1 << 33, Ordering::Relaxed);
        sessions.first(false, &request.topics, std::iter::empty(), random, now)
    }

    /// They count up, since of sessions of one size that with the smallest id goes first.
    static NEXT_ID: AtomicU64 = AtomicU64::new(0);

    fn touch(sessions: &mut Sessions, id: i32, epoch: i32, now_s: u64) {
        let mut request = asking(id, epoch, 0..0);
        let turn = sessions.begin(12, &mut request, Duration::from_secs(now_s));
        assert_eq!(turn, Ok(Turn::Next { id, epoch }));
    }

    #[test]
    fn who_is_idle_makes_room_and_who_is_old_for_larger_ones() {
        let mut sessions = sessions(1 << 20);
        let ids: Vec<i32> = (0..3).map(|number| begin(&mut sessions, 2 + number, 0)).collect();
        assert!(!ids.contains(&NO_SESSION));
        assert_eq!(begin(&mut sessions, 100, 120), NO_SESSION, "none is idle for more than two minutes");
        // All are used; the first is idle after that.
        touch(&mut sessions, ids[1], 1, 121);
        touch(&mut sessions, ids[2], 1, 121);
        let new = begin(&mut sessions, 1, 121);
        assert!(new != NO_SESSION && !sessions.known.contains_key(&ids[0]));
        // The others are old now, and make room for who is larger alone.
        assert_eq!(begin(&mut sessions, 3, 122), NO_SESSION);
        assert_ne!(begin(&mut sessions, 4, 122), NO_SESSION);
        assert!(!sessions.known.contains_key(&ids[1]) && sessions.known.contains_key(&new));
    }

    #[test]
    fn memory_is_taken_and_given_back() {
        let mut sessions = sessions(10 * PARTITION_BYTES);
        assert_eq!(begin(&mut sessions, 10, 0), NO_SESSION);
        assert_eq!(sessions.memory.used_bytes(), 0);
        let id = begin(&mut sessions, 3, 0);
        let used = sessions.memory.used_bytes();
        let mut request = asking(id, 1, 2..5);
        assert!(sessions.begin(12, &mut request, Duration::ZERO).is_ok());
        assert_eq!(request.topics[0].partitions.len(), 5);
        let forgotten =
            ForgottenTopic::default().with_topic(topic_name("t")).with_partitions(vec![0, 0, 9, 4]);
        let mut request = asking(id, 2, 0..0).with_forgotten_topics_data(vec![forgotten]);
        assert!(sessions.begin(12, &mut request, Duration::ZERO).is_ok());
        assert_eq!(sessions.memory.used_bytes(), used);
        // Who is idle makes room for what would not fit.
        assert_eq!(begin(&mut sessions, 8, 120), NO_SESSION);
        let other = begin(&mut sessions, 8, 121);
        assert!(other != NO_SESSION && !sessions.known.contains_key(&id));
        // What does not fit ends the session.
        let id = other;
        let refused = sessions.begin(12, &mut asking(id, 1, 0..10), Duration::ZERO);
        assert_eq!(refused, Err(ErrorCode::FetchSessionIdNotFound));
        assert_eq!((sessions.memory.used_bytes(), sessions.known.len()), (0, 0));
    }

    #[test]
    fn epochs_wrap() {
        assert_eq!([0, 1, i32::MAX].map(epoch_after), [1, 2, 1]);
    }

    #[test]
    fn who_got_records_comes_last_the_next_time() {
        let mut sessions = sessions(1 << 20);
        let id = begin(&mut sessions, 3, 0);
        touch(&mut sessions, id, 1, 0);
        let data = |index| PartitionData::default().with_partition_index(index).with_high_watermark(1);
        let name = topic_name("t");
        let mut changes = sessions.next(id, 1).unwrap();
        assert!(changes.tells(&name, Uuid::nil(), &data(0), true));
        assert!(changes.tells(&name, Uuid::nil(), &data(1), false));
        assert!(!changes.tells(&name, Uuid::nil(), &data(1), false));
        let mut request = asking(id, 2, 0..0);
        sessions.begin(12, &mut request, Duration::ZERO).unwrap();
        let order = request.topics[0].partitions.iter().map(|asked| asked.partition);
        assert_eq!(order.collect::<Vec<_>>(), [1, 2, 0]);
    }
}
