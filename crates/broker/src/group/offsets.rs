//! Committed offsets: what a group has read. Follows Kafka's `OffsetMetadataManager`.
//!
//! An offset becomes visible when it is durable. Until then its partition counts what is under way, so that a fetch that
//! wants stable offsets can tell. One that is part of a transaction becomes visible when that commits, unless a newer one
//! has been committed meanwhile; what is newer is what stands further on in the log.

use std::collections::BTreeMap;

use anabranch_core::ProducerId;
use anabranch_core::batch::EndKind;
use anabranch_core::planted::{self, Bug};

use super::classic::Group;
use super::config::{GroupConfig, TEXT_BYTES_MAX};
use super::entry::{Entry, Kind};
use super::error::GroupError;
use super::event::{Commit, CommitOffset, GroupState, InTransaction, RequestId, Response};
use super::member::{Act, Then, Turn};
use super::record::{CommittedOffset, GroupRecord};

/// By topic and partition.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    topics: BTreeMap<String, BTreeMap<i32, Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    committed: Option<CommittedOffset>,
    /// The number of the store that said so, in the order of the log.
    committed_at: u64,
    /// Stores under way, commits and deletions.
    in_flight: u32,
    /// What open transactions have said last, and the number of the store.
    pending: BTreeMap<ProducerId, (u64, CommittedOffset)>,
}

impl Slot {
    fn visible(&self, require_stable: bool) -> Result<Option<&CommittedOffset>, GroupError> {
        if require_stable && (self.in_flight > 0 || !self.pending.is_empty()) {
            return Err(GroupError::UnstableOffsetCommit);
        }
        Ok(self.committed.as_ref())
    }
}

impl Offsets {
    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    pub(super) fn get(
        &self,
        topic: &str,
        partition: i32,
        require_stable: bool,
    ) -> Result<Option<&CommittedOffset>, GroupError> {
        let slot = self.topics.get(topic).and_then(|partitions| partitions.get(&partition));
        slot.map_or(Ok(None), |slot| slot.visible(require_stable))
    }

    pub(super) fn iter(
        &self,
        require_stable: bool,
    ) -> impl Iterator<Item = (&str, i32, Result<&CommittedOffset, GroupError>)> {
        // What nothing is committed for is not there, also while something is about to be.
        self.slots().filter_map(move |(topic, partition, slot)| {
            let committed = slot.committed.as_ref()?;
            Some((topic, partition, slot.visible(require_stable).map(|_| committed)))
        })
    }

    /// Whether something is under way for a partition of `topic`, also where nothing is committed yet.
    pub(super) fn is_unstable(&self, topic: &str) -> bool {
        let mut slots = self.topics.get(topic).into_iter().flat_map(BTreeMap::values);
        slots.any(|slot| slot.visible(true).is_err())
    }

    fn slots(&self) -> impl Iterator<Item = (&str, i32, &Slot)> {
        self.topics.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(partition, slot)| (topic.as_str(), *partition, slot))
        })
    }

    /// A store for the partition begins.
    pub(super) fn begin(&mut self, topic: &str, partition: i32) {
        self.slot(topic, partition).in_flight += 1;
    }

    /// It ends; `landed` is what is durable now, if it went well.
    pub(super) fn end(
        &mut self,
        topic: &str,
        partition: i32,
        at: u64,
        landed: Option<Option<CommittedOffset>>,
    ) {
        let slot = self.slot(topic, partition);
        slot.in_flight = slot.in_flight.saturating_sub(1);
        if let Some(value) = landed {
            self.restore(topic, partition, at, value);
        }
        self.prune(topic, partition);
    }

    /// The same of a store that is part of a transaction.
    pub(super) fn end_in(
        &mut self,
        topic: &str,
        partition: i32,
        producer: ProducerId,
        at: u64,
        landed: Option<CommittedOffset>,
    ) {
        let slot = self.slot(topic, partition);
        slot.in_flight = slot.in_flight.saturating_sub(1);
        slot.pending.extend(landed.map(|value| (producer, (at, value))));
        self.prune(topic, partition);
    }

    /// The transaction of a producer has ended.
    pub(super) fn resolve(&mut self, topic: &str, partition: i32, producer: ProducerId, kind: EndKind) {
        let slot = self.slot(topic, partition);
        if let Some((at, value)) = slot.pending.remove(&producer)
            && (kind == EndKind::Commit || planted::is(Bug::AbortedOffsetsCommitted))
            && at >= slot.committed_at
        {
            (slot.committed, slot.committed_at) = (Some(value), at);
        }
        self.prune(topic, partition);
    }

    /// What the log says. Who deletes an offset deletes what is pending, too.
    pub(super) fn restore(&mut self, topic: &str, partition: i32, at: u64, value: Option<CommittedOffset>) {
        let slot = self.slot(topic, partition);
        if value.is_none() {
            slot.pending.clear();
        }
        (slot.committed, slot.committed_at) = (value, at);
        self.prune(topic, partition);
    }

    fn slot(&mut self, topic: &str, partition: i32) -> &mut Slot {
        if !self.topics.contains_key(topic) {
            self.topics.insert(topic.to_owned(), BTreeMap::new());
        }
        let partitions = self.topics.get_mut(topic).expect("it was inserted above");
        partitions.entry(partition).or_default()
    }

    fn prune(&mut self, topic: &str, partition: i32) {
        let Some(partitions) = self.topics.get_mut(topic) else { return };
        let is_idle =
            |slot: &Slot| slot.committed.is_none() && slot.in_flight == 0 && slot.pending.is_empty();
        if partitions.get(&partition).is_some_and(is_idle) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    /// Deletes the offsets of a topic.
    pub(super) fn tombstones_of_topic(&self, group_id: &str, topic: &str) -> Vec<GroupRecord> {
        let partitions = self.topics.get(topic).into_iter().flat_map(BTreeMap::keys);
        partitions.map(|partition| tombstone(group_id, topic, *partition)).collect()
    }

    /// Deletes every offset, also those whose commit is under way: that one comes first in the log.
    pub(super) fn tombstones(&self, group_id: &str) -> Vec<GroupRecord> {
        self.slots().map(|(topic, partition, _)| tombstone(group_id, topic, partition)).collect()
    }
}

fn tombstone(group_id: &str, topic: &str, partition: i32) -> GroupRecord {
    GroupRecord::Offset { group: group_id.to_owned(), topic: topic.to_owned(), partition, value: None }
}

impl Entry {
    pub(super) fn commit(
        &mut self,
        request: RequestId,
        commit: Commit,
        transaction: Option<InTransaction>,
        turn: &mut Turn<'_>,
    ) {
        // Producers of before version 3 say no more than the group.
        let is_anonymous = transaction.is_some()
            && commit.generation < 0
            && commit.member_id.is_empty()
            && commit.instance_id.is_none();
        let checked = match &mut self.kind {
            _ if is_anonymous => Ok(()),
            Kind::Classic(group) if transaction.is_some() => group.check_commit_in(&commit),
            Kind::Classic(group) => group.check_commit(&commit, turn),
            Kind::Consumer(group) => group.check_commit(&commit).map_err(|error| match error {
                GroupError::StaleMemberEpoch if transaction.is_some() => GroupError::IllegalGeneration,
                error => error,
            }),
        };
        if let Err(error) = checked {
            return turn.answer(request, Response::Commit(Err(error)));
        }
        let commit_ms = turn.now.unix_ms;
        let expire_ms = commit.retention_ms.map(|kept_ms| commit_ms.saturating_add(kept_ms));
        let mut results = Vec::with_capacity(commit.offsets.len());
        let mut records = Vec::with_capacity(commit.offsets.len());
        for offset in commit.offsets {
            let result = check_offset(&offset, turn.config);
            if result.is_ok() {
                let CommitOffset { topic, partition, offset, leader_epoch, metadata } = offset;
                let value = CommittedOffset { offset, leader_epoch, metadata, commit_ms, expire_ms };
                let group = turn.group_id.to_owned();
                records.push(GroupRecord::Offset { group, topic, partition, value: Some(value) });
            }
            results.push(result);
        }
        let response = Response::Commit(Ok(results));
        match records.is_empty() {
            true => turn.answer(request, response),
            false => turn.acts.push(Act::Store(records, Then::Answer(request, response), transaction)),
        }
    }

    pub(super) fn delete_offsets(
        &mut self,
        request: RequestId,
        partitions: &[(String, i32)],
        turn: &mut Turn<'_>,
    ) {
        let is_refused = match &self.kind {
            Kind::Classic(group) => group.state != GroupState::Empty && !group.uses_consumer_protocol(),
            Kind::Consumer(_) => false,
        };
        if is_refused {
            return turn.answer(request, Response::DeleteOffsets(Err(GroupError::NonEmptyGroup)));
        }
        let mut results = Vec::with_capacity(partitions.len());
        let mut records = Vec::new();
        for (topic, partition) in partitions {
            if self.is_subscribed_to(topic) {
                results.push(Err(GroupError::GroupSubscribedToTopic));
                continue;
            }
            let is_there = self.offsets.topics.get(topic).is_some_and(|known| known.contains_key(partition));
            if is_there {
                records.push(tombstone(turn.group_id, topic, *partition));
            }
            results.push(Ok(()));
        }
        turn.store_then_answer(records, request, Response::DeleteOffsets(Ok(results)));
    }

    /// Deletes what nobody will ask for any more (KIP-211), and the group when nothing of it is left.
    ///
    /// Offsets of a group without members count from when it lost the last; of a consumer group with members, those of
    /// topics that it reads no more count from their commit, and so do those of groups that never had members.
    pub(super) fn sweep(&self, turn: &mut Turn<'_>) {
        let mut records = Vec::new();
        let mut all_expired = true;
        for (topic, partition, slot) in self.offsets.slots() {
            let expired = slot.in_flight == 0
                && slot.pending.is_empty()
                && slot.committed.as_ref().is_some_and(|offset| self.is_expired(topic, offset, turn));
            if expired {
                records.push(tombstone(turn.group_id, topic, partition));
            }
            all_expired &= expired;
        }
        if all_expired && self.is_free() {
            records.extend(self.tombstones(turn.group_id));
        }
        if !records.is_empty() {
            turn.store(records, Then::Nothing);
        }
    }

    fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.kind {
            Kind::Classic(group) => group.is_subscribed_to(topic),
            Kind::Consumer(group) => group.is_subscribed_to(topic),
        }
    }

    fn is_expired(&self, topic: &str, offset: &CommittedOffset, turn: &Turn<'_>) -> bool {
        let since_ms = match &self.kind {
            Kind::Classic(group) => group.kept_since_ms(offset),
            Kind::Consumer(_) => Some(offset.commit_ms),
        };
        let Some(since_ms) = since_ms.filter(|_| !self.is_subscribed_to(topic)) else { return false };
        let now_ms = turn.now.unix_ms;
        let kept_ms = i64::try_from(turn.config.offsets_retention.as_millis()).unwrap_or(i64::MAX);
        offset.expire_ms.map_or(now_ms.saturating_sub(since_ms) >= kept_ms, |expire_ms| now_ms >= expire_ms)
    }
}

impl Group {
    /// Whether a commit counts; if so, its member is alive.
    fn check_commit(&mut self, commit: &Commit, turn: &Turn<'_>) -> Result<(), GroupError> {
        let from_member =
            commit.generation >= 0 || !commit.member_id.is_empty() || commit.instance_id.is_some();
        if commit.generation < 0 && self.state == GroupState::Empty {
            // A consumer that assigns itself, or an administrator.
            return Ok(());
        }
        if !from_member {
            return Err(GroupError::UnknownMemberId);
        }
        self.check_generation(&commit.member_id, commit.instance_id.as_deref(), commit.generation)?;
        if self.state == GroupState::CompletingRebalance {
            // The member knows the generation, so it has joined; it must sync before it commits.
            return Err(GroupError::RebalanceInProgress);
        }
        self.heard_of(&commit.member_id, turn);
        Ok(())
    }

    /// The same for a commit of a transaction, whose member need not be there to be alive.
    fn check_commit_in(&self, commit: &Commit) -> Result<(), GroupError> {
        if commit.generation < 0 && self.state == GroupState::Empty {
            return Ok(());
        }
        self.check_generation(&commit.member_id, commit.instance_id.as_deref(), commit.generation)
    }

    /// From when on the retention of an offset counts that no member reads; `None`: not yet.
    fn kept_since_ms(&self, offset: &CommittedOffset) -> Option<i64> {
        match (self.protocol_type.is_some(), self.state) {
            (false, _) => Some(offset.commit_ms),
            (true, GroupState::Empty) => Some(self.since_ms.unwrap_or(offset.commit_ms)),
            (true, GroupState::Stable) if self.topics.is_some() => Some(offset.commit_ms),
            (true, _) => None,
        }
    }
}

fn check_offset(offset: &CommitOffset, config: &GroupConfig) -> Result<(), GroupError> {
    let CommitOffset { topic, metadata, .. } = offset;
    // UTF-8 is never shorter than UTF-16 counted in units.
    let is_long = metadata.len() > config.offset_metadata_max
        && metadata.encode_utf16().count() > config.offset_metadata_max;
    if is_long || metadata.len() > TEXT_BYTES_MAX {
        return Err(GroupError::OffsetMetadataTooLarge);
    }
    if topic.is_empty() || topic.len() > TEXT_BYTES_MAX { Err(GroupError::InvalidRequest) } else { Ok(()) }
}
