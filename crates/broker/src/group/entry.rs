//! What is kept under one group id: a group of either protocol, and the offsets, which outlive it.
//!
//! A group changes its protocol in one store, which its classic record decides: its deletion is the last record of an upgrade,
//! and its value the first of a downgrade. So a start finds the group whole, as it was before or as it is after (ADR 0017).

use std::time::Duration;

use super::config::ConsumerConfig;
use super::consumer::{Beat, Changes, ClassicJoin, ConsumerHeartbeat, Downgrade, Key, Topics};
use super::error::GroupError;
use super::event::{
    DescribedGroup, GroupKind, GroupState, Heartbeat, Join, Leaver, Now, RequestId, Response, StoreToken,
    Sync,
};
use super::member::{Then, Turn};
use super::offsets::Offsets;
use super::record::GroupRecord;
use super::{classic, consumer};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) offsets: Offsets,
    /// The deadline under which [`super::Groups`] finds the group.
    pub(super) indexed: Option<Duration>,
    /// The newest store of the group's own records in the consumer protocol.
    pub(super) last_store: Option<StoreToken>,
    /// Records of the consumer protocol that may be in the log though the group is a classic one.
    pub(super) leftovers: Changes,
    /// How often it has changed its protocol.
    pub(super) conversions: u32,
}

#[derive(Debug)]
pub(super) enum Kind {
    Classic(Box<classic::Group>),
    Consumer(Box<consumer::Group>),
}

impl Entry {
    /// Nobody has joined it, and nothing is committed.
    pub(super) fn new(now: Now) -> Self {
        Self::of(Kind::Classic(Box::new(classic::Group::new(now))), Offsets::default())
    }

    pub(super) fn of(kind: Kind, offsets: Offsets) -> Self {
        Self { kind, offsets, indexed: None, last_store: None, leftovers: Changes::new(), conversions: 0 }
    }

    pub(super) fn classic(&self) -> Option<&classic::Group> {
        match &self.kind {
            Kind::Classic(group) => Some(group),
            Kind::Consumer(_) => None,
        }
    }

    pub(super) fn classic_mut(&mut self) -> Option<&mut classic::Group> {
        match &mut self.kind {
            Kind::Classic(group) => Some(group),
            Kind::Consumer(_) => None,
        }
    }

    pub(super) fn consumer(&self) -> Option<&consumer::Group> {
        match &self.kind {
            Kind::Classic(_) => None,
            Kind::Consumer(group) => Some(group),
        }
    }

    pub(super) fn consumer_mut(&mut self) -> Option<&mut consumer::Group> {
        match &mut self.kind {
            Kind::Classic(_) => None,
            Kind::Consumer(group) => Some(group),
        }
    }

    pub(super) fn listed_kind(&self) -> GroupKind {
        match &self.kind {
            Kind::Classic(_) => GroupKind::Classic,
            Kind::Consumer(_) => GroupKind::Consumer,
        }
    }

    pub(super) fn state_name(&self) -> &'static str {
        match &self.kind {
            Kind::Classic(group) => group.state.name(),
            Kind::Consumer(group) => group.state().name(),
        }
    }

    /// Whether it has no members.
    pub(super) fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Classic(group) => group.state == GroupState::Empty,
            Kind::Consumer(group) => group.is_idle(),
        }
    }

    pub(super) fn member_ids(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.kind {
            Kind::Classic(group) => Box::new(group.members.keys().map(String::as_str)),
            Kind::Consumer(group) => Box::new(group.member_ids()),
        }
    }

    pub(super) fn protocol_type(&self) -> &str {
        match &self.kind {
            Kind::Classic(group) => group.protocol_type.as_deref().unwrap_or_default(),
            Kind::Consumer(_) => classic::CONSUMER,
        }
    }

    /// As DescribeGroups shows it.
    pub(super) fn describe(&self) -> Option<DescribedGroup> {
        self.classic().map(classic::Group::describe)
    }

    /// Whether it becomes a group of the other protocol without anybody's noticing.
    pub(super) fn is_free(&self) -> bool {
        match &self.kind {
            Kind::Classic(group) => group.is_idle(),
            Kind::Consumer(group) => group.is_idle(),
        }
    }

    /// Whether nothing would be lost if the group were gone.
    pub(super) fn is_idle(&self) -> bool {
        self.is_free() && self.offsets.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        match &self.kind {
            Kind::Classic(group) => group.next_deadline(),
            Kind::Consumer(group) => group.next_deadline(),
        }
    }

    /// Whether what is counted is what is there; looks at all of it.
    pub(super) fn is_counted(&self) -> bool {
        match &self.kind {
            Kind::Classic(group) => group.is_counted(),
            Kind::Consumer(group) => group.is_counted(),
        }
    }

    /// Everything that is due.
    pub(super) fn expire(&mut self, turn: &mut Turn<'_>) {
        match &mut self.kind {
            Kind::Classic(group) => group.expire(turn),
            Kind::Consumer(group) => {
                let epoch = group.epoch();
                let changes = group.expire(turn.now);
                if !changes.is_empty() {
                    self.fenced(epoch, changes, None, turn);
                }
            }
        }
    }

    /// ConsumerGroupHeartbeat.
    pub(super) fn heartbeat_consumer(
        &mut self,
        request: RequestId,
        beat: &ConsumerHeartbeat,
        new_id: String,
        topics: &dyn Topics,
        turn: &mut Turn<'_>,
    ) {
        let config = turn.config.consumer_with(turn.own);
        let done = match &mut self.kind {
            Kind::Consumer(group) if beat.member_epoch < 0 => {
                let epoch = group.epoch();
                return match group.leave(beat) {
                    Ok((left, changes)) => {
                        self.fenced(epoch, changes, Some((request, Response::Beat(Ok(left)))), turn);
                    }
                    Err(error) => turn.answer(request, Response::Beat(Err(error))),
                };
            }
            Kind::Consumer(group) => group.heartbeat(beat, new_id, topics, &config, turn.now),
            Kind::Classic(_) if beat.member_epoch != 0 => Err(GroupError::GroupIdNotFound),
            Kind::Classic(_) => self.upgrade(beat, new_id, topics, &config, turn),
        };
        match done {
            Ok((beat, changes)) => self.store(changes, Some((request, Response::Beat(Ok(beat)))), turn),
            Err(error) => turn.answer(request, Response::Beat(Err(error))),
        }
    }

    /// A member of the consumer protocol joins a classic group. When it is refused, nothing has changed.
    fn upgrade(
        &mut self,
        beat: &ConsumerHeartbeat,
        new_id: String,
        topics: &dyn Topics,
        config: &ConsumerConfig,
        turn: &mut Turn<'_>,
    ) -> Result<(Beat, Changes), GroupError> {
        let Kind::Classic(classic) = &mut self.kind else { return Err(GroupError::GroupIdNotFound) };
        let (mut group, conversion) = match classic.state {
            GroupState::Empty => (consumer::Group::new(), Changes::from([Key::Classic])),
            _ => consumer::Group::of_classic(turn.group_id, classic, topics, config, turn.now)?,
        };
        let (answer, mut changes) = group.heartbeat(beat, new_id, topics, config, turn.now)?;
        // They join again, and find the new group.
        classic.dismiss_all(&GroupError::RebalanceInProgress, turn);
        changes.extend(conversion);
        changes.append(&mut self.leftovers);
        self.convert(Kind::Consumer(Box::new(group)));
        Ok((answer, changes))
    }

    /// JoinGroup, to a group of the consumer protocol that has members.
    pub(super) fn join_classic(
        &mut self,
        request: RequestId,
        join: &Join,
        new_id: String,
        topics: &dyn Topics,
        turn: &mut Turn<'_>,
    ) {
        let config = turn.config.consumer_with(turn.own);
        let Kind::Consumer(group) = &mut self.kind else { return };
        match group.join_classic(join, new_id, topics, (&config, turn.config), turn.now) {
            Err(error) => turn.refuse_join(request, error),
            Ok(ClassicJoin { joined, changes, downgrade }) => {
                let reply = Some((request, Response::Join(Ok(joined))));
                match downgrade {
                    Some(downgrade) => self.downgrade(downgrade, changes, reply, turn),
                    None => self.store(changes, reply, turn),
                }
            }
        }
    }

    /// A classic member of a group of the consumer protocol has its answer to a join only now.
    pub(super) fn heard_of(&mut self, id: &str, turn: &Turn<'_>) {
        let config = turn.config.consumer_with(turn.own);
        if let Some(group) = self.consumer_mut() {
            group.heard_of(id, &config, turn.now);
        }
    }

    /// SyncGroup.
    pub(super) fn sync(&mut self, request: RequestId, sync: Sync, turn: &mut Turn<'_>) {
        let config = turn.config.consumer_with(turn.own);
        match &mut self.kind {
            Kind::Classic(group) => group.sync(request, sync, turn),
            Kind::Consumer(group) => match group.sync_classic(&sync, &config, turn.now) {
                Ok(synced) => self.store(Changes::new(), Some((request, Response::Sync(Ok(synced)))), turn),
                Err(error) => turn.refuse_sync(request, error),
            },
        }
    }

    /// Heartbeat, to a group of the consumer protocol.
    pub(super) fn heartbeat_classic(
        &mut self,
        heartbeat: Heartbeat<'_>,
        topics: &dyn Topics,
        turn: &Turn<'_>,
    ) -> Result<(), GroupError> {
        let group = self.consumer_mut().ok_or(GroupError::UnknownMemberId)?;
        group.heartbeat_classic(heartbeat, topics, &turn.config.consumer_with(turn.own), turn.now)
    }

    /// LeaveGroup.
    pub(super) fn leave(&mut self, request: RequestId, leavers: &[Leaver], turn: &mut Turn<'_>) {
        match &mut self.kind {
            Kind::Classic(group) => group.leave(request, leavers, turn),
            Kind::Consumer(group) => {
                let epoch = group.epoch();
                let (results, changes) = group.leave_classic(leavers);
                let response = Response::Leave(Ok(results));
                match changes.is_empty() {
                    true => turn.answer(request, response),
                    false => self.fenced(epoch, changes, Some((request, response)), turn),
                }
            }
        }
    }

    /// Members have gone from a group of the consumer protocol, whose epoch was `epoch` before: if only classic ones are left, it
    /// is a classic group again.
    fn fenced(
        &mut self,
        epoch: i32,
        changes: Changes,
        reply: Option<(RequestId, Response)>,
        turn: &mut Turn<'_>,
    ) {
        let Kind::Consumer(group) = &self.kind else { return };
        if group.may_become_classic(turn.config) {
            // In the epoch of before, so that members that are up to date are told to join again, and lose nothing.
            let downgrade = Downgrade { generation: epoch, rebalances: true };
            self.downgrade(downgrade, changes, reply, turn);
        } else {
            self.store(changes, reply, turn);
        }
    }

    fn downgrade(
        &mut self,
        Downgrade { generation, rebalances }: Downgrade,
        changes: Changes,
        reply: Option<(RequestId, Response)>,
        turn: &mut Turn<'_>,
    ) {
        let Kind::Consumer(group) = &self.kind else { return };
        let mut classic = Box::new(group.to_classic(generation, turn.now));
        let mut record = classic.record(turn.group_id, |_, member| member.assignment.clone());
        if let (true, GroupRecord::Group { value: Some(value), .. }) = (rebalances, &mut record) {
            // Nobody leads until the group has rebalanced: a start sees by it that it must.
            value.leader = None;
        }
        let mut records = vec![record];
        records.extend(group.tombstones(turn.group_id, changes));
        self.convert(Kind::Consumer(Box::new(consumer::Group::new())));
        let conversions = self.conversions;
        turn.store(records, Then::Downgrade { group: turn.group_id.to_owned(), conversions, reply });
        if rebalances {
            classic.prepare_rebalance(turn);
        }
        self.kind = Kind::Classic(classic);
    }

    /// The store of a downgrade has failed. A group that rebalances is stored again with its next generation.
    pub(super) fn downgrade_failed(&mut self, turn: &mut Turn<'_>) {
        if let Kind::Classic(group) = &mut self.kind
            && group.state == GroupState::Stable
        {
            group.prepare_rebalance(turn);
        }
    }

    fn convert(&mut self, kind: Kind) {
        self.kind = kind;
        self.conversions += 1;
    }

    /// Nobody is in the group: it may become one of the classic protocol.
    pub(super) fn become_classic(&mut self, turn: &mut Turn<'_>) {
        turn.store(self.tombstones(turn.group_id), Then::Nothing);
        self.convert(Kind::Classic(Box::new(classic::Group::new(turn.now))));
    }

    /// Stores what changed of a group of the consumer protocol, and answers behind that and all that the group stored before; at
    /// once if that is nothing.
    fn store(&self, changes: Changes, reply: Option<(RequestId, Response)>, turn: &mut Turn<'_>) {
        let Kind::Consumer(group) = &self.kind else { return };
        let records = group.records(turn.group_id, changes, turn.is_settled);
        match reply {
            None if records.is_empty() => {}
            None => turn.store(records, Then::Nothing),
            Some((request, response)) if records.is_empty() && turn.is_settled => {
                turn.answer(request, response);
            }
            Some((request, response)) => {
                let group = turn.group_id.to_owned();
                let conversions = self.conversions;
                turn.store(records, Then::Beat { group, conversions, request, response });
            }
        }
    }

    /// A record of the consumer protocol is durable, or could not be stored.
    pub(super) fn landed(&mut self, record: &consumer::record::ConsumerRecord, is_durable: bool) {
        match &mut self.kind {
            Kind::Consumer(group) => group.landed(record, is_durable),
            Kind::Classic(_) if is_durable && record.is_tombstone() => {
                self.leftovers.remove(&Key::of(record));
            }
            Kind::Classic(_) => {
                self.leftovers.insert(Key::of(record));
            }
        }
    }

    /// Deletes what is stored of the group, which nobody is in, without its offsets.
    pub(super) fn tombstones(&self, group_id: &str) -> Vec<GroupRecord> {
        match &self.kind {
            Kind::Classic(_) => {
                let keys = self.leftovers.iter().chain([&Key::Classic]);
                keys.map(|key| key.tombstone(group_id)).collect()
            }
            Kind::Consumer(group) => group.tombstones(group_id, Changes::new()),
        }
    }

    /// Its records were deleted while somebody was coming in: it is as new.
    pub(super) fn forget(&mut self) {
        match &mut self.kind {
            Kind::Classic(group) => group.forget(),
            // Whoever comes stores all that it is.
            Kind::Consumer(_) => {}
        }
    }
}
