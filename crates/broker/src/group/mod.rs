//! The coordinator of consumer groups, in the classic protocol of Kafka: who is in a group, who reads what, and how far
//! they have read.
//!
//! [`Groups`] is a plain state machine. It does no I/O and reads no clock: the driver passes requests and the time in,
//! and does what the [`Effect`]s say. Whatever must survive is answered only after the driver reports it stored, so that
//! an acknowledged commit is a durable one.
//!
//! ```text
//!  request, Now ──▶ Groups ──▶ Effect::Answer ──▶ client
//!                     ▲ └────▶ Effect::Store  ──▶ __consumer_offsets
//!                     └── stored(token, outcome) ◀────────┘
//!                     └── tick(Now), no later than next_deadline()
//! ```
//!
//! * [`config`]: limits and timeouts. [`error`]: what clients are told. [`event`]: requests, answers, effects.
//! * `classic`, `member`: what a group and a member are; `join`, `sync`, `rebalance`, `offsets`: what happens to them.
//! * [`record`]: Kafka's own records, so that tools that read `__consumer_offsets` work. [`restore`]: back from them.
//! * [`consumer_protocol`]: what consumers tell each other through the group, for members in this process.
//!
//! Behaviour follows Kafka 4's `GroupMetadataManager`. A group that is created by a join is stored with its first
//! generation, not before: until then a restart loses nothing that a client could miss.

mod classic;
pub mod config;
pub mod consumer_protocol;
mod entry;
pub mod error;
pub mod event;
mod join;
mod member;
mod offsets;
mod rebalance;
pub mod record;
pub mod restore;
mod sync;
#[cfg(test)]
mod tests;

pub use crate::kafka_record::CodecError;
pub use config::GroupConfig;
pub use error::{GroupError, StoreError};
pub use event::{Effect, GroupState, Heartbeat, Now, RequestId, Response, StoreToken};
pub use restore::Restore;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::seam::Random;

use classic::Group;
use config::TEXT_BYTES_MAX;
use entry::Entry;
use event::{Commit, DescribedGroup, Join, Leaver, ListedGroup, Sync};
use member::{Act, Then, Turn};
use record::{CommittedOffset, GroupRecord};

/// All groups of a node.
pub struct Groups {
    config: GroupConfig,
    random: Arc<dyn Random>,
    groups: BTreeMap<String, Entry>,
    /// Groups by when something happens to them by itself. An entry may be too early, since a heartbeat does not move
    /// it; never too late.
    deadlines: BTreeSet<(Duration, String)>,
    next_sweep: Duration,
    /// In the order of the log.
    in_flight: VecDeque<InFlight>,
    next_token: u64,
}

struct InFlight {
    token: StoreToken,
    records: Vec<GroupRecord>,
    then: Then,
}

impl Groups {
    /// No groups. To have those of before, use [`Restore`].
    #[must_use]
    pub fn new(config: GroupConfig, random: Arc<dyn Random>, now: Now) -> Self {
        let next_sweep = now.monotonic + config.offsets_retention_check_interval;
        Self {
            config,
            random,
            groups: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next_sweep,
            in_flight: VecDeque::new(),
            next_token: 0,
        }
    }

    /// JoinGroup; answered with [`Response::Join`], perhaps much later.
    #[must_use]
    pub fn join(&mut self, request: RequestId, join: Join, now: Now) -> Vec<Effect> {
        if let Err(error) = join::check_join(&join, &self.config) {
            return answer(request, Response::Join(Err(error)));
        }
        let group_id = join.group.clone();
        if !self.groups.contains_key(&group_id) {
            let refused = if !join.member_id.is_empty() {
                Some(GroupError::UnknownMemberId)
            } else if join.protocol_type.is_empty() || join.protocols.is_empty() {
                Some(GroupError::InconsistentGroupProtocol)
            } else {
                self.create(&group_id, now).err()
            };
            if let Some(error) = refused {
                return answer(request, Response::Join(Err(error)));
            }
        }
        let name = join.instance_id.as_ref().unwrap_or(&join.client_id);
        let new_id = format!("{name}-{}", self.random.uuid());
        self.with_classic(&group_id, now, |group, turn| group.join(request, join, new_id, turn))
    }

    /// SyncGroup; answered with [`Response::Sync`] once the leader's assignment is durable.
    #[must_use]
    pub fn sync(&mut self, request: RequestId, sync: Sync, now: Now) -> Vec<Effect> {
        let group_id = sync.group.clone();
        if group_id.is_empty() {
            return answer(request, Response::Sync(Err(GroupError::InvalidGroupId)));
        }
        if !self.groups.contains_key(&group_id) {
            return answer(request, Response::Sync(Err(GroupError::UnknownMemberId)));
        }
        self.with_classic(&group_id, now, |group, turn| group.sync(request, sync, turn))
    }

    /// Heartbeat: changes nothing but the member's session, so the answer is there at once.
    ///
    /// # Errors
    /// What the member must know.
    pub fn heartbeat(&mut self, heartbeat: Heartbeat<'_>, now: Now) -> Result<(), GroupError> {
        if heartbeat.group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let group = self.groups.get_mut(heartbeat.group).and_then(Entry::classic_mut);
        let group = group.ok_or(GroupError::UnknownMemberId)?;
        group.heartbeat(
            heartbeat,
            &Turn { group_id: heartbeat.group, config: &self.config, now, acts: Vec::new() },
        )
    }

    /// LeaveGroup; answered with [`Response::Leave`].
    #[must_use]
    pub fn leave(&mut self, request: RequestId, group_id: &str, leavers: &[Leaver], now: Now) -> Vec<Effect> {
        if group_id.is_empty() {
            return answer(request, Response::Leave(Err(GroupError::InvalidGroupId)));
        }
        if !self.groups.contains_key(group_id) {
            let unknown = leavers.iter().map(|_| Err(GroupError::UnknownMemberId)).collect();
            return answer(request, Response::Leave(Ok(unknown)));
        }
        self.with_classic(group_id, now, |group, turn| group.leave(request, leavers, turn))
    }

    /// OffsetCommit; answered with [`Response::Commit`] when the offsets are durable and visible. The empty group id is
    /// legal here, as in Kafka.
    #[must_use]
    pub fn commit(&mut self, request: RequestId, commit: Commit, now: Now) -> Vec<Effect> {
        let group_id = commit.group.clone();
        if let Err(error) = self.check_load() {
            return answer(request, Response::Commit(Err(error)));
        }
        if !self.groups.contains_key(&group_id) {
            // Who names a generation means a group that was.
            let created = if commit.generation >= 0 {
                Err(GroupError::GroupIdNotFound)
            } else {
                self.create(&group_id, now)
            };
            if let Err(error) = created {
                return answer(request, Response::Commit(Err(error)));
            }
        }
        self.with_group(&group_id, now, |group, turn| group.commit(request, commit, turn))
    }

    /// OffsetDelete; answered with [`Response::DeleteOffsets`].
    #[must_use]
    pub fn delete_offsets(
        &mut self,
        request: RequestId,
        group_id: &str,
        partitions: &[(String, i32)],
        now: Now,
    ) -> Vec<Effect> {
        let refused = if group_id.is_empty() {
            Some(GroupError::InvalidGroupId)
        } else if !self.groups.contains_key(group_id) {
            Some(GroupError::GroupIdNotFound)
        } else {
            self.check_load().err()
        };
        match refused {
            Some(error) => answer(request, Response::DeleteOffsets(Err(error))),
            None => {
                self.with_group(group_id, now, |group, turn| group.delete_offsets(request, partitions, turn))
            }
        }
    }

    /// DeleteGroups; answered with [`Response::DeleteGroups`] when they are durably gone.
    #[must_use]
    pub fn delete_groups(&mut self, request: RequestId, group_ids: &[String]) -> Vec<Effect> {
        let mut records = Vec::new();
        let mut results = Vec::with_capacity(group_ids.len());
        for id in group_ids {
            let result = match self.groups.get(id) {
                None => Err(GroupError::GroupIdNotFound),
                Some(group) if group.state() != GroupState::Empty => Err(GroupError::NonEmptyGroup),
                Some(group) => self.check_load().map(|()| {
                    records.extend(group.offsets.tombstones(id));
                    records.extend(group.tombstones(id));
                }),
            };
            results.push(result);
        }
        let response = Response::DeleteGroups(results);
        if records.is_empty() {
            return answer(request, response);
        }
        self.perform(vec![Act::Store(records, Then::Answer(request, response))])
    }

    /// A topic is gone, and so is what groups have read of it.
    #[must_use]
    pub fn topic_deleted(&mut self, topic: &str) -> Vec<Effect> {
        let tombstones = |(id, group): (&String, &Entry)| group.offsets.tombstones_of_topic(id, topic);
        let records: Vec<GroupRecord> = self.groups.iter().flat_map(tombstones).collect();
        if records.is_empty() {
            return Vec::new();
        }
        self.perform(vec![Act::Store(records, Then::Nothing)])
    }

    /// The outcome of an [`Effect::Store`].
    ///
    /// # Panics
    /// If the driver reports out of order, or twice: what is durable would no longer be what is shown.
    #[must_use]
    pub fn stored(&mut self, token: StoreToken, outcome: Result<(), StoreError>, now: Now) -> Vec<Effect> {
        let store = self.in_flight.pop_front();
        let InFlight { records, then, .. } = store
            .filter(|store| store.token == token)
            .expect("stores are reported once, in the order in which they were asked for");
        for record in records {
            self.land(record, outcome.is_ok());
        }
        let outcome = outcome.map_err(GroupError::from);
        match then {
            Then::Nothing => Vec::new(),
            Then::Answer(request, response) => match outcome {
                Ok(()) => answer(request, response),
                Err(error) => answer(request, response.failed(&error)),
            },
            Then::Assign { group, generation, assignments } => {
                let event = |group: &mut Group, turn: &mut Turn<'_>| {
                    group.assigned(generation, assignments, outcome, turn);
                };
                self.with_classic(&group, now, event)
            }
            Then::Readmit { group, readmit } => {
                self.with_classic(&group, now, |group, turn| group.readmitted(*readmit, outcome, turn))
            }
        }
    }

    /// Lets time do its work. Harmless when nothing is due.
    #[must_use]
    pub fn tick(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some((due, id)) = self.deadlines.first().cloned().filter(|(due, _)| *due <= now.monotonic) {
            effects.extend(self.with_group(&id, now, Entry::expire));
            assert!(!self.deadlines.contains(&(due, id)), "what was due has happened");
        }
        if self.next_sweep <= now.monotonic {
            self.next_sweep = now.monotonic + self.config.offsets_retention_check_interval;
            let ids: Vec<String> = self.groups.keys().cloned().collect();
            for id in ids {
                effects.extend(self.with_group(&id, now, |group, turn| group.sweep(turn)));
            }
        }
        effects
    }

    /// When [`Groups::tick`] has something to do, on the monotonic clock; `None`: not before a request comes.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let sweep = (!self.groups.is_empty()).then_some(self.next_sweep);
        self.deadlines.first().map(|(due, _)| *due).into_iter().chain(sweep).min()
    }

    /// OffsetFetch, one partition: `None` where the group has committed nothing.
    ///
    /// # Errors
    /// [`GroupError::UnstableOffsetCommit`] if `require_stable` and a commit is under way.
    pub fn committed(
        &self,
        group_id: &str,
        topic: &str,
        partition: i32,
        require_stable: bool,
    ) -> Result<Option<&CommittedOffset>, GroupError> {
        self.groups
            .get(group_id)
            .map_or(Ok(None), |group| group.offsets.get(topic, partition, require_stable))
    }

    /// OffsetFetch, all partitions, by topic.
    pub fn all_committed(
        &self,
        group_id: &str,
        require_stable: bool,
    ) -> impl Iterator<Item = (&str, i32, Result<&CommittedOffset, GroupError>)> {
        self.groups.get(group_id).into_iter().flat_map(move |group| group.offsets.iter(require_stable))
    }

    /// ListGroups, by id.
    pub fn list(&self) -> impl Iterator<Item = ListedGroup> {
        self.groups.iter().map(|(id, group)| ListedGroup {
            group: id.clone(),
            protocol_type: group.protocol_type().to_owned(),
            state: group.state(),
        })
    }

    /// DescribeGroups: `None` is what Kafka calls Dead.
    #[must_use]
    pub fn describe(&self, group_id: &str) -> Option<DescribedGroup> {
        self.groups.get(group_id).and_then(Entry::describe)
    }

    fn check_load(&self) -> Result<(), GroupError> {
        let is_full = self.in_flight.len() >= self.config.stores_in_flight_max;
        if is_full { Err(GroupError::CoordinatorNotAvailable) } else { Ok(()) }
    }

    fn create(&mut self, group_id: &str, now: Now) -> Result<(), GroupError> {
        if group_id.len() > TEXT_BYTES_MAX {
            return Err(GroupError::InvalidGroupId);
        }
        if self.groups.len() >= self.config.groups_max {
            return Err(GroupError::PolicyViolation);
        }
        self.groups.insert(group_id.to_owned(), Entry::new(now));
        Ok(())
    }

    fn with_group(
        &mut self,
        group_id: &str,
        now: Now,
        event: impl FnOnce(&mut Entry, &mut Turn<'_>),
    ) -> Vec<Effect> {
        let Some(group) = self.groups.get_mut(group_id) else { return Vec::new() };
        let mut turn = Turn { group_id, config: &self.config, now, acts: Vec::new() };
        event(group, &mut turn);
        let acts = turn.acts;
        let due = group.next_deadline();
        if group.indexed != due {
            let before = std::mem::replace(&mut group.indexed, due);
            self.unindex(before, group_id);
            self.deadlines.extend(due.map(|due| (due, group_id.to_owned())));
        }
        self.perform(acts)
    }

    /// The same, if the group speaks the classic protocol.
    fn with_classic(
        &mut self,
        group_id: &str,
        now: Now,
        event: impl FnOnce(&mut Group, &mut Turn<'_>),
    ) -> Vec<Effect> {
        self.with_group(group_id, now, |entry, turn| {
            if let Some(group) = entry.classic_mut() {
                event(group, turn);
            }
        })
    }

    fn unindex(&mut self, due: Option<Duration>, group_id: &str) {
        if let Some(due) = due {
            self.deadlines.remove(&(due, group_id.to_owned()));
        }
    }

    /// Gives stores their tokens, and remembers what they are for.
    fn perform(&mut self, acts: Vec<Act>) -> Vec<Effect> {
        let effect = |act| match act {
            Act::Answer(request, response) => Effect::Answer { request, response },
            Act::Store(records, then) => {
                let token = StoreToken(self.next_token);
                self.next_token += 1;
                for record in &records {
                    if let GroupRecord::Offset { group, topic, partition, .. } = record
                        && let Some(group) = self.groups.get_mut(group)
                    {
                        group.offsets.begin(topic, *partition);
                    }
                }
                let encoded = records.iter().map(GroupRecord::encode).collect();
                self.in_flight.push_back(InFlight { token, records, then });
                Effect::Store { token, records: encoded }
            }
        };
        acts.into_iter().map(effect).collect()
    }

    /// A record is durable, or will never be.
    fn land(&mut self, record: GroupRecord, is_durable: bool) {
        match record {
            GroupRecord::Offset { group, topic, partition, value } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.offsets.end(&topic, partition, is_durable.then_some(value));
                }
            }
            GroupRecord::Group { group: id, value: None } if is_durable => {
                let Some(group) = self.groups.get_mut(&id) else { return };
                group.forget();
                if group.is_idle() {
                    let indexed = group.indexed;
                    self.groups.remove(&id);
                    self.unindex(indexed, &id);
                }
            }
            GroupRecord::Group { .. } => {}
        }
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups")
            .field("groups", &self.groups.len())
            .field("stores_in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}

fn answer(request: RequestId, response: Response) -> Vec<Effect> {
    vec![Effect::Answer { request, response }]
}
