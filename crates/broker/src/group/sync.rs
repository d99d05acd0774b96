//! SyncGroup, Heartbeat and LeaveGroup: what a member does between two joins.

use std::collections::HashMap;

use bytes::Bytes;

use super::classic::Group;
use super::error::GroupError;
use super::event::{GroupState, Heartbeat, Leaver, RequestId, Response, Sync, Synced};
use super::member::{Then, Turn};

impl Group {
    pub(super) fn sync(&mut self, request: RequestId, sync: Sync, turn: &mut Turn<'_>) {
        if let Err(error) = self.check_sync(&sync) {
            return turn.refuse_sync(request, error);
        }
        self.unsynced.remove(&sync.member_id);
        if self.unsynced.is_empty() {
            self.sync_deadline = None;
        }
        if self.state == GroupState::Stable {
            let Some(member) = self.members.get(&sync.member_id) else { return };
            let synced = Synced {
                protocol_type: self.protocol_type.clone(),
                protocol: self.protocol.clone(),
                assignment: member.assignment.clone(),
            };
            return turn.answer(request, Response::Sync(Ok(synced)));
        }
        self.members.change(&sync.member_id, |member| member.park_sync(request, turn));
        // What a leader says first is what counts: one generation has one assignment.
        if self.is_leader(&sync.member_id) && !self.assigning {
            self.assigning = true;
            let told: HashMap<String, Bytes> = sync.assignments.into_iter().collect();
            let assigned = |id: &str| told.get(id).cloned().unwrap_or_default();
            let record = self.record(turn.group_id, |id, _| assigned(id));
            let assignments = self.members.keys().map(|id| (id.clone(), assigned(id))).collect();
            let group = turn.group_id.to_owned();
            turn.store(vec![record], Then::Assign { group, generation: self.generation, assignments });
        }
    }

    fn check_sync(&self, sync: &Sync) -> Result<(), GroupError> {
        let differs =
            |told: &Option<String>, ours: &Option<String>| told.is_some() && ours.is_some() && told != ours;
        if self.state == GroupState::Empty {
            return Err(GroupError::UnknownMemberId);
        }
        self.check_generation(&sync.member_id, sync.instance_id.as_deref(), sync.generation)?;
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        match self.state {
            GroupState::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// The leader's assignment is stored, or is not. If the group has moved on meanwhile, it does not matter.
    pub(super) fn assigned(
        &mut self,
        generation: i32,
        assignments: Vec<(String, Bytes)>,
        outcome: Result<(), GroupError>,
        turn: &mut Turn<'_>,
    ) {
        if self.state != GroupState::CompletingRebalance || self.generation != generation {
            return;
        }
        self.assigning = false;
        if let Err(error) = outcome {
            self.reset_assignments(&error, turn);
            return self.prepare_rebalance(turn);
        }
        for (member_id, assignment) in assignments {
            let (protocol_type, protocol) = (self.protocol_type.clone(), self.protocol.clone());
            self.members.change(&member_id, |member| {
                member.assignment = assignment.clone();
                member.answer_sync(Ok(Synced { protocol_type, protocol, assignment }), turn);
            });
        }
        self.enter(GroupState::Stable, turn.now);
    }

    pub(super) fn heartbeat(&mut self, heartbeat: Heartbeat<'_>, turn: &Turn<'_>) -> Result<(), GroupError> {
        self.check_generation(heartbeat.member_id, heartbeat.instance_id, heartbeat.generation)?;
        self.heard_of(heartbeat.member_id, turn);
        match self.state {
            GroupState::Empty => Err(GroupError::UnknownMemberId),
            GroupState::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            // Members may be ahead of the leader: they have their answer to the join, and wait.
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
        }
    }

    pub(super) fn heard_of(&mut self, member_id: &str, turn: &Turn<'_>) {
        self.members.change(member_id, |member| member.heard_of(turn.now));
    }

    pub(super) fn leave(&mut self, request: RequestId, leavers: &[Leaver], turn: &mut Turn<'_>) {
        let mut results = Vec::with_capacity(leavers.len());
        for leaver in leavers {
            let result = self.leaving(leaver);
            if let Ok(member_id) = &result {
                self.remove(member_id, turn);
            }
            results.push(result.map(|_| ()));
        }
        if results.iter().any(Result::is_ok) {
            self.member_left(turn);
        }
        turn.answer_when_stored(request, Response::Leave(Ok(results)));
    }

    /// Whom a leaver means.
    fn leaving(&self, leaver: &Leaver) -> Result<String, GroupError> {
        let instance_id = leaver.instance_id.as_deref();
        if leaver.member_id.is_empty() {
            let member_id = instance_id.and_then(|instance_id| self.statics.get(instance_id));
            return member_id.cloned().ok_or(GroupError::UnknownMemberId);
        }
        if !self.promised.contains_key(&leaver.member_id) {
            self.check_member(&leaver.member_id, instance_id)?;
        }
        Ok(leaver.member_id.clone())
    }
}
