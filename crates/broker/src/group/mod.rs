//! The coordinator of groups: who is in a group, who reads what, and how far they have read.
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
//! * [`consumer`]: groups in the consumer protocol (KIP-848), where the coordinator assigns. `entry`: one group of either kind.
//! * [`record`]: Kafka's own records, so that tools that read `__consumer_offsets` work. [`restore`]: back from them.
//! * [`consumer_protocol`]: what consumers tell each other through the group, for members in this process.
//!
//! Behaviour follows Kafka 4's `GroupMetadataManager`. A group that is created by a join is stored with its first
//! generation, not before: until then a restart loses nothing that a client could miss.

mod classic;
pub mod config;
pub mod consumer;
pub mod consumer_protocol;
mod entry;
pub mod error;
pub mod event;
mod join;
mod member;
mod members;
mod offsets;
mod rebalance;
pub mod record;
pub mod restore;
mod sync;
#[cfg(test)]
mod tests;

pub use crate::kafka_record::CodecError;
pub use config::{ConsumerConfig, GroupConfig};
pub use consumer::{Assignor, Beat, ConsumerHeartbeat, DescribedConsumer, DescribedConsumerGroup, Topics};
pub use error::{GroupError, StoreError};
pub use event::{
    ConsumerState, Effect, GroupKind, GroupState, Heartbeat, InTransaction, Now, RequestId, Response,
    StoreToken,
};
pub(crate) use member::IN_PROCESS;
pub use restore::Restore;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ProducerId;
use anabranch_core::batch::EndKind;
use anabranch_core::seam::Random;

use classic::Group;
use config::{ConsumerOverrides, TEXT_BYTES_MAX};
use consumer::record::ConsumerRecord;
use entry::{Entry, Kind};
use event::{Commit, DescribedGroup, Join, Leaver, ListedGroup, Sync};
use member::{Act, Then, Turn};
use offsets::Offsets;
use record::{CommittedOffset, GroupRecord};

use crate::names::base64_url;

/// All groups of a node.
pub struct Groups {
    config: GroupConfig,
    random: Arc<dyn Random>,
    groups: BTreeMap<String, Entry>,
    /// Settings of single groups, whether there is such a group or not.
    overrides: BTreeMap<String, ConsumerOverrides>,
    /// Groups by when something happens to them by itself. An entry may be too early, since a heartbeat does not move
    /// it; never too late.
    deadlines: BTreeSet<(Duration, String)>,
    next_sweep: Duration,
    /// In the order of the log.
    in_flight: VecDeque<InFlight>,
    next_token: u64,
    /// Where offsets wait for the end of a producer's transaction.
    pending: HashMap<ProducerId, BTreeSet<Place>>,
}

struct InFlight {
    token: StoreToken,
    records: Vec<GroupRecord>,
    then: Then,
    open: Option<Open>,
}

/// The transaction of a store that is under way.
struct Open {
    producer: ProducerId,
    /// The end may be told before the store.
    ended: Option<EndKind>,
}

/// Group, topic and partition.
type Place = (String, String, i32);

impl Groups {
    /// No groups. To have those of before, use [`Restore`].
    #[must_use]
    pub fn new(config: GroupConfig, random: Arc<dyn Random>, now: Now) -> Self {
        let next_sweep = now.monotonic + config.offsets_retention_check_interval;
        Self {
            config,
            random,
            groups: BTreeMap::new(),
            overrides: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next_sweep,
            in_flight: VecDeque::new(),
            next_token: 0,
            pending: HashMap::new(),
        }
    }

    /// JoinGroup; answered with [`Response::Join`], perhaps much later.
    #[must_use]
    pub fn join(&mut self, request: RequestId, join: Join, topics: &dyn Topics, now: Now) -> Vec<Effect> {
        if let Err(error) = join::check_join(&join, &self.config) {
            return answer(request, Response::Join(Err(error)));
        }
        let group_id = join.group.clone();
        let mut effects = Vec::new();
        if let Some(entry) = self.groups.get(&group_id).filter(|entry| entry.consumer().is_some()) {
            if !entry.is_free() {
                if let Err(error) = self.check_load() {
                    return answer(request, Response::Join(Err(error)));
                }
                let new_id = base64_url(self.random.uuid());
                return self.with_group(&group_id, now, |entry, turn| {
                    entry.join_classic(request, &join, new_id, topics, turn);
                });
            }
            if !join.member_id.is_empty() {
                return answer(request, Response::Join(Err(GroupError::UnknownMemberId)));
            }
            effects = self.with_group(&group_id, now, Entry::become_classic);
        }
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
        effects
            .extend(self.with_classic(&group_id, now, |group, turn| group.join(request, join, new_id, turn)));
        effects
    }

    /// ConsumerGroupHeartbeat; answered with [`Response::Beat`] when all that the answer rests on is durable.
    #[must_use]
    pub fn heartbeat_consumer(
        &mut self,
        request: RequestId,
        beat: &ConsumerHeartbeat,
        topics: &dyn Topics,
        now: Now,
    ) -> Vec<Effect> {
        let group_id = beat.group.clone();
        let new_id = if beat.member_id.is_empty() { base64_url(self.random.uuid()) } else { String::new() };
        let is_there = self.groups.contains_key(&group_id);
        let checked = consumer::check_heartbeat(beat, &self.config).and_then(|()| self.check_load());
        let checked = checked.and(match is_there {
            true => Ok(()),
            false if beat.member_epoch != 0 => Err(GroupError::GroupIdNotFound),
            false if self.groups.len() >= self.config.groups_max => Err(GroupError::PolicyViolation),
            false => Ok(()),
        });
        if let Err(error) = checked {
            return answer(request, Response::Beat(Err(error)));
        }
        if !is_there {
            let entry = Entry::of(Kind::Consumer(Box::new(consumer::Group::new())), Offsets::default());
            self.groups.insert(group_id.clone(), entry);
        }
        let effects = self.with_group(&group_id, now, |entry, turn| {
            entry.heartbeat_consumer(request, beat, new_id, topics, turn);
        });
        // Whom it was made for was refused.
        if !is_there && self.groups.get(&group_id).is_some_and(Entry::is_idle) {
            self.groups.remove(&group_id);
        }
        effects
    }

    /// SyncGroup; answered with [`Response::Sync`] once the assignment is durable.
    #[must_use]
    pub fn sync(&mut self, request: RequestId, sync: Sync, now: Now) -> Vec<Effect> {
        let group_id = sync.group.clone();
        if group_id.is_empty() {
            return answer(request, Response::Sync(Err(GroupError::InvalidGroupId)));
        }
        if !self.groups.contains_key(&group_id) {
            return answer(request, Response::Sync(Err(GroupError::UnknownMemberId)));
        }
        self.with_group(&group_id, now, |entry, turn| entry.sync(request, sync, turn))
    }

    /// Heartbeat: changes nothing but the member's session, so the answer is there at once.
    ///
    /// # Errors
    /// What the member must know.
    pub fn heartbeat(
        &mut self,
        heartbeat: Heartbeat<'_>,
        topics: &dyn Topics,
        now: Now,
    ) -> Result<(), GroupError> {
        if heartbeat.group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let own = self.overrides.get(heartbeat.group);
        let turn =
            |group_id| Turn { group_id, config: &self.config, own, now, is_settled: true, acts: Vec::new() };
        match self.groups.get_mut(heartbeat.group).map(|entry| &mut entry.kind) {
            None => Err(GroupError::UnknownMemberId),
            Some(Kind::Classic(group)) => group.heartbeat(heartbeat, &turn(heartbeat.group)),
            // Here a member may be given a deadline.
            Some(Kind::Consumer(_)) => {
                let mut outcome = Ok(());
                let effects = self.with_group(heartbeat.group, now, |entry, turn| {
                    outcome = entry.heartbeat_classic(heartbeat, topics, turn);
                });
                assert!(effects.is_empty(), "a heartbeat stores nothing");
                outcome
            }
        }
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
        self.with_group(group_id, now, |entry, turn| entry.leave(request, leavers, turn))
    }

    /// OffsetCommit; answered with [`Response::Commit`] when the offsets are durable and visible. The empty group id is
    /// legal here, as in Kafka.
    #[must_use]
    pub fn commit(&mut self, request: RequestId, commit: Commit, now: Now) -> Vec<Effect> {
        self.commit_within(request, commit, None, now)
    }

    /// TxnOffsetCommit: the same, and they become visible when the transaction commits.
    #[must_use]
    pub fn commit_in(
        &mut self,
        request: RequestId,
        commit: Commit,
        transaction: InTransaction,
        now: Now,
    ) -> Vec<Effect> {
        if commit.group.is_empty() {
            return answer(request, Response::Commit(Err(GroupError::InvalidGroupId)));
        }
        self.commit_within(request, commit, Some(transaction), now)
    }

    fn commit_within(
        &mut self,
        request: RequestId,
        commit: Commit,
        transaction: Option<InTransaction>,
        now: Now,
    ) -> Vec<Effect> {
        let group_id = commit.group.clone();
        if let Err(error) = self.check_load() {
            return answer(request, Response::Commit(Err(error)));
        }
        let is_new = !self.groups.contains_key(&group_id);
        if is_new {
            // Who names a generation means a group that was.
            let created = match (commit.generation >= 0, transaction) {
                (true, None) => Err(GroupError::GroupIdNotFound),
                (true, Some(_)) => Err(GroupError::IllegalGeneration),
                (false, _) => self.create(&group_id, now),
            };
            if let Err(error) = created {
                return answer(request, Response::Commit(Err(error)));
            }
        }
        let effects =
            self.with_group(&group_id, now, |group, turn| group.commit(request, commit, transaction, turn));
        if is_new {
            // If all of it was refused there is none.
            self.remove_if_idle(&group_id);
        }
        effects
    }

    /// A producer's transaction has ended: what it committed is visible, or gone. Told before its next one begins.
    pub fn transaction_ended(&mut self, producer: ProducerId, kind: EndKind) {
        let under_way = self.in_flight.iter_mut().filter_map(|store| store.open.as_mut());
        for open in under_way.filter(|open| open.producer == producer) {
            // If another transaction of the producer has ended since, it was not that one's.
            open.ended.get_or_insert(kind);
        }
        for (group, topic, partition) in self.pending.remove(&producer).unwrap_or_default() {
            if let Some(group) = self.groups.get_mut(&group) {
                group.offsets.resolve(&topic, partition, producer, kind);
            }
        }
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
                Some(group) if !group.is_empty() => Err(GroupError::NonEmptyGroup),
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
        self.perform(vec![Act::Store(records, Then::Answer(request, response), None)])
    }

    /// A topic is gone, and so is what groups have read of it.
    #[must_use]
    pub fn topic_deleted(&mut self, topic: &str) -> Vec<Effect> {
        let tombstones = |(id, group): (&String, &Entry)| group.offsets.tombstones_of_topic(id, topic);
        let records: Vec<GroupRecord> = self.groups.iter().flat_map(tombstones).collect();
        if records.is_empty() {
            return Vec::new();
        }
        self.perform(vec![Act::Store(records, Then::Nothing, None)])
    }

    /// The outcome of an [`Effect::Store`].
    ///
    /// # Panics
    /// If the driver reports out of order, or twice: what is durable would no longer be what is shown.
    #[must_use]
    pub fn stored(&mut self, token: StoreToken, outcome: Result<(), StoreError>, now: Now) -> Vec<Effect> {
        let store = self.in_flight.pop_front();
        let InFlight { records, then, open, .. } = store
            .filter(|store| store.token == token)
            .expect("stores are reported once, in the order in which they were asked for");
        for record in records {
            match (&open, record) {
                (Some(open), GroupRecord::Offset { group, topic, partition, value: Some(value) }) => {
                    let value = outcome.is_ok().then_some(value);
                    self.land_in(open, token, (group, topic, partition), value);
                }
                (_, record) => self.land(record, token, outcome.is_ok()),
            }
        }
        let outcome = outcome.map_err(GroupError::from);
        match then {
            Then::Nothing => Vec::new(),
            Then::Answer(request, response) => match outcome {
                Ok(()) => answer(request, response),
                Err(error) => answer(request, response.failed(&error)),
            },
            Then::Beat { group, conversions, request, response } => {
                let entry = self.groups.get(&group).filter(|entry| entry.conversions == conversions);
                let is_behind = entry.and_then(Entry::consumer).is_none_or(consumer::Group::is_behind);
                let behind = if is_behind { Err(GroupError::CoordinatorNotAvailable) } else { Ok(()) };
                let response = match outcome.and(behind) {
                    Ok(()) => response,
                    Err(error) => response.failed(&error),
                };
                if let Response::Join(Ok(joined)) = &response {
                    // It was silent while it waited.
                    let id = joined.member_id.clone();
                    let heard = self.with_group(&group, now, |entry, turn| entry.heard_of(&id, turn));
                    assert!(heard.is_empty(), "to be heard of stores nothing");
                }
                answer(request, response)
            }
            Then::Downgrade { group, conversions, reply } => {
                let has_failed = outcome.is_err();
                let mut effects = Vec::new();
                if let Some((request, response)) = reply {
                    effects.extend(match &outcome {
                        Ok(()) => answer(request, response),
                        Err(error) => answer(request, response.failed(error)),
                    });
                }
                effects.extend(self.with_group(&group, now, |entry, turn| {
                    if has_failed && entry.conversions == conversions {
                        entry.downgrade_failed(turn);
                    }
                }));
                effects
            }
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

    /// A group for which something is under way in one of `topics`: a commit, or a transaction with one.
    #[must_use]
    pub fn unstable_in(&self, topics: &[String]) -> Option<&str> {
        let is_unstable = |group: &Entry| topics.iter().any(|topic| group.offsets.is_unstable(topic));
        self.groups.iter().find(|(_, group)| is_unstable(group)).map(|(id, _)| id.as_str())
    }

    /// Every member that there is: its group and its id.
    pub fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.groups.iter().flat_map(|(id, group)| group.member_ids().map(move |member| (id.as_str(), member)))
    }

    /// Whether the group speaks the classic protocol.
    #[must_use]
    pub fn is_classic(&self, group_id: &str) -> bool {
        self.groups.get(group_id).is_some_and(|group| group.classic().is_some())
    }

    /// The ids of a group's members.
    pub fn members_of(&self, group_id: &str) -> impl Iterator<Item = &str> {
        self.groups.get(group_id).into_iter().flat_map(Entry::member_ids)
    }

    /// Whether the group has that member.
    #[must_use]
    pub fn has_member(&self, group_id: &str, member_id: &str) -> bool {
        self.groups.get(group_id).is_some_and(|group| match &group.kind {
            Kind::Classic(group) => group.members.contains_key(member_id),
            Kind::Consumer(group) => group.has_member(member_id),
        })
    }

    /// ListGroups, by id.
    pub fn list(&self) -> impl Iterator<Item = ListedGroup> {
        self.groups.iter().map(|(id, group)| ListedGroup {
            group: id.clone(),
            protocol_type: group.protocol_type().to_owned(),
            state: group.state_name(),
            kind: group.listed_kind(),
        })
    }

    /// DescribeGroups: `None` is what Kafka calls Dead.
    #[must_use]
    pub fn describe(&self, group_id: &str) -> Option<DescribedGroup> {
        self.groups.get(group_id).and_then(Entry::describe)
    }

    /// ConsumerGroupDescribe.
    #[must_use]
    pub fn describe_consumer(&self, group_id: &str) -> Option<DescribedConsumerGroup> {
        let group = self.groups.get(group_id)?.consumer()?;
        Some(group.describe(&self.config.consumer))
    }

    /// Whether a member may read what its group has committed (OffsetFetch 9 and above); anybody may who is none.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn check_fetch(
        &self,
        group_id: &str,
        member_id: Option<&str>,
        member_epoch: i32,
    ) -> Result<(), GroupError> {
        let group = self.groups.get(group_id).and_then(Entry::consumer);
        match (group, member_id) {
            (Some(group), Some(member_id)) => group.check_fetch(member_id, member_epoch),
            (Some(_), None) if member_epoch >= 0 => Err(GroupError::UnknownMemberId),
            _ => Ok(()),
        }
    }

    /// From now on these settings hold for a group, also if it is made later.
    pub fn set_overrides(&mut self, group_id: &str, own: ConsumerOverrides) {
        if own == ConsumerOverrides::default() {
            self.overrides.remove(group_id);
        } else {
            self.overrides.insert(group_id.to_owned(), own);
        }
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
        let oldest = self.in_flight.front().map(|store| store.token);
        let is_settled = group.last_store.is_none_or(|last| oldest.is_none_or(|oldest| oldest > last));
        let own = self.overrides.get(group_id);
        let mut turn = Turn { group_id, config: &self.config, own, now, is_settled, acts: Vec::new() };
        event(group, &mut turn);
        let acts = turn.acts;
        debug_assert!(group.is_counted(), "what is counted of {group_id} is what is there");
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
            Act::Store(records, then, transaction) => {
                let token = StoreToken(self.next_token);
                self.next_token += 1;
                for record in &records {
                    match record {
                        GroupRecord::Offset { group, topic, partition, .. } => {
                            if let Some(group) = self.groups.get_mut(group) {
                                group.offsets.begin(topic, *partition);
                            }
                        }
                        GroupRecord::Consumer { group, .. } | GroupRecord::Group { group, .. } => {
                            if let Some(group) = self.groups.get_mut(group) {
                                group.last_store = Some(token);
                            }
                        }
                    }
                }
                let encoded = records.iter().map(GroupRecord::encode).collect();
                let open =
                    transaction.map(|transaction| Open { producer: transaction.producer, ended: None });
                self.in_flight.push_back(InFlight { token, records, then, open });
                Effect::Store { token, records: encoded, transaction }
            }
        };
        acts.into_iter().map(effect).collect()
    }

    /// An offset of a transaction is durable, or will never be.
    fn land_in(&mut self, open: &Open, token: StoreToken, place: Place, value: Option<CommittedOffset>) {
        let (group, topic, partition) = &place;
        let Some(group) = self.groups.get_mut(group) else { return };
        let is_pending = value.is_some() && open.ended.is_none();
        group.offsets.end_in(topic, *partition, open.producer, token.0, value);
        match open.ended {
            Some(kind) => group.offsets.resolve(topic, *partition, open.producer, kind),
            None if is_pending => drop(self.pending.entry(open.producer).or_default().insert(place)),
            None => {}
        }
    }

    /// A record is durable, or will never be.
    fn land(&mut self, record: GroupRecord, token: StoreToken, is_durable: bool) {
        match record {
            GroupRecord::Offset { group, topic, partition, value } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.offsets.end(&topic, partition, token.0, is_durable.then_some(value));
                }
            }
            GroupRecord::Group { group: id, value: None } => {
                match self.groups.get_mut(&id).map(|group| &mut group.kind) {
                    Some(Kind::Consumer(group)) => group.landed_classic(is_durable),
                    Some(Kind::Classic(_)) if is_durable => self.remove_if_idle(&id),
                    Some(Kind::Classic(_)) | None => {}
                }
            }
            GroupRecord::Consumer { group: id, record } => {
                let Some(group) = self.groups.get_mut(&id) else { return };
                group.landed(&record, is_durable);
                // The last of the records that delete a group.
                if is_durable && record == ConsumerRecord::Epoch(None) && group.consumer().is_some() {
                    self.remove_if_idle(&id);
                }
            }
            GroupRecord::Group { .. } => {}
        }
    }
}

impl Groups {
    /// The group's record is deleted: so is the group, unless somebody came meanwhile.
    fn remove_if_idle(&mut self, id: &str) {
        let Some(group) = self.groups.get_mut(id) else { return };
        group.forget();
        if group.is_idle() {
            let indexed = group.indexed;
            self.groups.remove(id);
            self.unindex(indexed, id);
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
