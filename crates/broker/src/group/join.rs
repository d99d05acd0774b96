//! JoinGroup. Follows `classicGroupJoin` of Kafka's `GroupMetadataManager`.

use super::classic::Group;
use super::config::{GroupConfig, TEXT_BYTES_MAX};
use super::error::GroupError;
use super::event::{GroupState, Join, RequestId, Response};
use super::member::{Member, Readmit, Then, Turn};

/// A protocol costs this much besides its bytes, so that empty ones are bounded too.
const PROTOCOL_OVERHEAD_BYTES: usize = 64;

/// What can be refused before looking at the group.
pub(super) fn check_join(join: &Join, config: &GroupConfig) -> Result<(), GroupError> {
    if join.group.is_empty() || join.group.len() > TEXT_BYTES_MAX {
        return Err(GroupError::InvalidGroupId);
    }
    let session_ms = u128::from(join.session_timeout_ms.max(0).unsigned_abs());
    let bounds = config.session_timeout_min.as_millis()..=config.session_timeout_max.as_millis();
    if !bounds.contains(&session_ms) {
        return Err(GroupError::InvalidSessionTimeout);
    }
    let texts = [
        Some(&join.client_id),
        Some(&join.client_host),
        join.instance_id.as_ref(),
        Some(&join.protocol_type),
    ];
    let names = join.protocols.iter().map(|(name, _)| name);
    if texts.into_iter().flatten().chain(names).any(|text| text.len() > TEXT_BYTES_MAX) {
        return Err(GroupError::InvalidRequest);
    }
    let bytes: usize = join
        .protocols
        .iter()
        .map(|(name, metadata)| name.len() + metadata.len() + PROTOCOL_OVERHEAD_BYTES)
        .sum();
    if bytes > config.member_metadata_bytes_max { Err(GroupError::InvalidRequest) } else { Ok(()) }
}

impl Group {
    /// `new_id` is for the member if it has none.
    pub(super) fn join(&mut self, request: RequestId, join: Join, new_id: String, turn: &mut Turn<'_>) {
        if !self.has_room_for(&join.member_id, turn.config) {
            turn.refuse_join(request, GroupError::GroupMaxSizeReached);
            // A member that rejoins last into a group that became too small is out.
            self.remove(&join.member_id, turn);
            self.complete_join_if_all_joined(turn);
        } else if !self.accepts_protocols(&join.protocol_type, &join.protocols) {
            turn.refuse_join(request, GroupError::InconsistentGroupProtocol);
        } else if join.member_id.is_empty() {
            self.join_as_new(request, join, new_id, turn);
        } else if self.promised.contains_key(&join.member_id) {
            if join.instance_id.is_some() {
                // Ids are promised to members without one only.
                return turn.refuse_join(request, GroupError::InvalidRequest);
            }
            let member_id = join.member_id.clone();
            self.admit(request, join, member_id, turn);
        } else {
            self.rejoin(request, join, turn);
        }
    }

    /// While members are joining, those that have joined count: whoever comes last into a full group is out. Static
    /// members that are silent meanwhile are kept, and may bring the group above its limit until they time out; so it is
    /// in Kafka.
    fn has_room_for(&self, member_id: &str, config: &GroupConfig) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            GroupState::Empty => true,
            GroupState::PreparingRebalance => {
                member.is_some_and(|member| member.join.is_some())
                    || self.members.joining() < config.members_max
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                member.is_some() || self.members.len() < config.members_max
            }
        }
    }

    fn join_as_new(&mut self, request: RequestId, join: Join, new_id: String, turn: &mut Turn<'_>) {
        if let Some(instance_id) = join.instance_id.clone() {
            match self.statics.get(&instance_id).cloned() {
                Some(old_id) => self.replace_static(request, join, &instance_id, &old_id, new_id, turn),
                None => self.admit(request, join, new_id, turn),
            }
        } else if !join.require_known_member_id {
            self.admit(request, join, new_id, turn);
        } else if self.promised.len() >= turn.config.members_max {
            turn.refuse_join(request, GroupError::GroupMaxSizeReached);
        } else {
            let session = std::time::Duration::from_millis(u64::from(join.session_timeout_ms.unsigned_abs()));
            self.promise(new_id.clone(), turn.now.monotonic + session);
            turn.refuse_join(request, GroupError::MemberIdRequired(new_id));
        }
    }

    fn admit(&mut self, request: RequestId, join: Join, member_id: String, turn: &mut Turn<'_>) {
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        self.add(member_id, Member::new(join, request, turn.now));
        if let Some(initial) = &mut self.initial {
            initial.grown = true;
        }
        self.rebalance_or_complete_join(turn);
    }

    fn rejoin(&mut self, request: RequestId, join: Join, turn: &mut Turn<'_>) {
        if let Err(error) = self.check_member(&join.member_id, join.instance_id.as_deref()) {
            return turn.refuse_join(request, error);
        }
        let is_leader = self.is_leader(&join.member_id);
        let Some(member) = self.members.get(&join.member_id) else { return };
        let unchanged = member.protocols == join.protocols;
        let is_current = match self.state {
            // Perhaps it missed the answer to its join.
            GroupState::CompletingRebalance => unchanged,
            // A leader joins to force a rebalance: it may know of more than its own metadata shows.
            GroupState::Stable => unchanged && !is_leader,
            GroupState::Empty | GroupState::PreparingRebalance => false,
        };
        if is_current {
            // In Kafka its session goes on as it was, and may be over before the member can send a heartbeat.
            self.heard_of(&join.member_id, turn);
            let joined = self.joined(&join.member_id);
            return turn.answer(request, Response::Join(Ok(joined)));
        }
        let Some(mut member) = self.members.remove(&join.member_id) else { return };
        member.update(join.protocols, join.session_timeout_ms, join.rebalance_timeout_ms);
        member.park_join(request, turn);
        self.members.insert(join.member_id, member);
        self.rebalance_or_complete_join(turn);
    }

    /// KIP-345: a static member starts anew under a new id, and its older twin is fenced. A stable group goes on without
    /// a rebalance unless its protocol changes by that.
    fn replace_static(
        &mut self,
        request: RequestId,
        join: Join,
        instance_id: &str,
        old_id: &str,
        new_id: String,
        turn: &mut Turn<'_>,
    ) {
        let Some(mut old) = self.members.remove(old_id) else { return };
        old.dismiss(&GroupError::FencedInstanceId, turn);
        let led_by = if join.can_skip_assignment { None } else { self.leader.clone() };
        let mut member = Member { is_new: false, ..old.clone() };
        member.update(join.protocols, join.session_timeout_ms, join.rebalance_timeout_ms);
        member.heard_of(turn.now);
        member.park_join(request, turn);
        self.rename(instance_id, old_id, &new_id, member);

        match self.state {
            GroupState::Stable if self.select_protocol() == self.protocol => {
                let record = self.record(turn.group_id, |_, member| member.assignment.clone());
                let old_id = old_id.to_owned();
                let readmit = Box::new(Readmit { request, new_id, old_id, old, led_by });
                turn.store(vec![record], Then::Readmit { group: turn.group_id.to_owned(), readmit });
            }
            // The leader may have assigned to the old id already.
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(turn),
            GroupState::PreparingRebalance => self.complete_join_if_all_joined(turn),
            GroupState::Empty => unreachable!("an empty group has no static members"),
        }
    }

    /// The new id of a static member is stored, or is not. When a rebalance has begun meanwhile, the member's join is
    /// part of that, and the next generation is what is stored.
    pub(super) fn readmitted(
        &mut self,
        readmit: Readmit,
        outcome: Result<(), GroupError>,
        turn: &mut Turn<'_>,
    ) {
        let Readmit { request, new_id, old_id, mut old, led_by } = readmit;
        let mut joined = self.joined(&new_id);
        match led_by {
            None => joined.skip_assignment = self.is_leader(&new_id),
            // An old client that hears it leads would assign anew, and nobody would listen: it is told of the leader
            // before it came back, which may be its former self.
            Some(leader) => {
                joined.leader = leader;
                joined.members.clear();
            }
        }
        let waits = self.members.get(&new_id).is_some_and(|member| member.join == Some(request));
        if self.state != GroupState::Stable || !waits {
            return;
        }
        let has_failed = outcome.is_err();
        let response = Response::Join(outcome.map(|()| joined));
        self.members.change(&new_id, |member| member.answer_join(response, turn));
        if has_failed {
            old.heard_of(turn.now);
            let instance_id = old.instance_id.clone().unwrap_or_default();
            self.rename(&instance_id, &new_id, &old_id, old);
        }
    }
}
