//! Members in the classic protocol inside a group of the consumer protocol (KIP-848, "Supporting Online Consumer Group
//! Upgrade"): JoinGroup, SyncGroup, Heartbeat and LeaveGroup as the coordinator answers them that assigns itself. Follows
//! `classicGroup*ToConsumerGroup` of Kafka's `GroupMetadataManager`.
//!
//! ```text
//!   JoinGroup     is a heartbeat: the member has given up what its subscription does not name as owned, and takes the next
//!                 step to its target. It waits for nobody; the generation is the member's epoch.
//!   SyncGroup     tells what the member has now.
//!   Heartbeat     says REBALANCE_IN_PROGRESS when there is a step to take, so that the member joins again.
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_core::TopicId;
use bytes::Bytes;

use super::event::Topics;
use super::heartbeat::Sender;
use super::member::{Member, State, without_epochs};
use super::record::{ClassicValue, MemberValue, Partitions};
use super::{Changes, Group};
use crate::group::classic::CONSUMER;
use crate::group::config::{ConsumerConfig, GroupConfig, Migration};
use crate::group::consumer_protocol::{self, Assignment, Subscription};
use crate::group::error::GroupError;
use crate::group::event::{Heartbeat, Join, Joined, Leaver, Now, Sync, Synced};

/// What a JoinGroup has come to.
pub(crate) struct ClassicJoin {
    pub(crate) joined: Joined,
    pub(crate) changes: Changes,
    /// The group is to become a classic one, since the member took the place of the last one of the consumer protocol.
    pub(crate) downgrade: Option<Downgrade>,
}

/// How a group becomes a classic one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Downgrade {
    pub(crate) generation: i32,
    pub(crate) rebalances: bool,
}

impl Group {
    /// JoinGroup. When it is refused, nothing has changed.
    pub(crate) fn join_classic(
        &mut self,
        join: &Join,
        new_id: String,
        topics: &dyn Topics,
        (config, shared): (&ConsumerConfig, &GroupConfig),
        now: Now,
    ) -> Result<ClassicJoin, GroupError> {
        self.check_classic_join(join, config)?;
        if join.require_known_member_id && join.member_id.is_empty() && join.instance_id.is_none() {
            return Err(GroupError::MemberIdRequired(new_id));
        }
        let id = if join.member_id.is_empty() { new_id } else { join.member_id.clone() };
        let sender = self.classic_sender(&id, join)?;
        // All protocols of a member have one subscription.
        let subscription = join.protocols.first().map(|(_, metadata)| Subscription::decode(metadata));
        let Some(Ok(subscription)) = subscription else { return Err(GroupError::UnknownServerError) };
        let downgrades = self.is_last_of_the_new(join.instance_id.as_deref()) && self.fits_classic(shared);

        let mut changes = Changes::new();
        self.admit(sender, &id, now, &mut changes);
        let about = self.about_classic(&id, join, &subscription);
        let is_resubscribed = self.set_about(&id, about, &mut changes);
        self.refresh(is_resubscribed, topics, now, &mut changes);
        if !downgrades {
            self.assign(config, now, &mut changes);
        }
        let owned: Vec<(TopicId, Vec<i32>)> = subscription
            .owned
            .into_iter()
            .filter_map(|(name, partitions)| Some((topics.get(&name)?.0, partitions)))
            .collect();
        if !downgrades || self.target_epoch == self.epoch {
            self.reconcile(&id, Some(&owned), is_resubscribed, now, &mut changes);
        }
        self.heard_of(&id, config, now);
        let member = self.members.get_mut(&id).expect("it was admitted above");
        member.forget_deadlines();
        let deadline = now.monotonic + member.rebalance_timeout();
        member.sync_deadline = Some(deadline);
        let joined = Joined {
            generation: member.current.epoch,
            protocol_type: Some(CONSUMER.to_owned()),
            protocol: member.classic_protocol().map(|(name, _)| name.clone()),
            leader: String::new(),
            member_id: id,
            members: Vec::new(),
            skip_assignment: false,
        };
        self.wake_at(deadline);
        // Kafka looks at the target's epoch alone. But a target that not all have reached would be handed out as it is, to
        // members whose partitions others have not given up.
        let downgrade = downgrades.then(|| {
            let is_reconciled = self.members.values().all(|member| member.is_reconciled_to(self.epoch));
            Downgrade { generation: self.epoch, rebalances: !is_reconciled }
        });
        Ok(ClassicJoin { joined, changes, downgrade })
    }

    fn check_classic_join(&self, join: &Join, config: &ConsumerConfig) -> Result<(), GroupError> {
        if config.migration == Migration::Disabled {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        if self.members.len() >= config.members_max && !self.members.contains_key(&join.member_id) {
            return Err(GroupError::GroupMaxSizeReached);
        }
        let all_speak = |name: &str| self.classic_protocols.get(name).copied().unwrap_or(0) == self.classics;
        match join.protocol_type == CONSUMER && join.protocols.iter().any(|(name, _)| all_speak(name)) {
            true => Ok(()),
            false => Err(GroupError::InconsistentGroupProtocol),
        }
    }

    fn classic_sender(&self, id: &str, join: &Join) -> Result<Sender, GroupError> {
        let current = join.instance_id.as_ref().map(|instance_id| self.statics.get(instance_id));
        match current {
            // Ids that were given out are not remembered: whoever comes with one is taken in.
            None => Ok(if self.members.contains_key(id) { Sender::Known } else { Sender::New }),
            Some(None) if join.member_id.is_empty() => Ok(Sender::New),
            Some(Some(current)) if join.member_id.is_empty() => Ok(Sender::Returned(current.clone())),
            Some(None) => Err(GroupError::UnknownMemberId),
            Some(Some(current)) if current != id => Err(GroupError::FencedInstanceId),
            Some(Some(_)) => Ok(Sender::Known),
        }
    }

    /// Whether the static member of that name is the only one of the consumer protocol.
    fn is_last_of_the_new(&self, instance_id: Option<&str>) -> bool {
        let member = instance_id.and_then(|instance_id| self.statics.get(instance_id));
        let is_new = member.is_some_and(|id| !self.members[id].is_classic());
        is_new && self.classics + 1 == self.members.len()
    }

    fn about_classic(&self, id: &str, join: &Join, subscription: &Subscription) -> MemberValue {
        let before = &self.members[id].about;
        // Version 0 has no timeout of its own for rebalances.
        let rebalance_timeout_ms = match join.rebalance_timeout_ms {
            ..0 => join.session_timeout_ms,
            told => told,
        };
        MemberValue {
            instance_id: join.instance_id.clone().or_else(|| before.instance_id.clone()),
            rack_id: subscription.rack.clone().or_else(|| before.rack_id.clone()),
            client_id: join.client_id.clone(),
            client_host: join.client_host.clone(),
            topics: subscription.topics.iter().cloned().collect(),
            pattern: Some(String::new()),
            rebalance_timeout_ms,
            assignor: before.assignor.clone(),
            classic: Some(ClassicValue {
                session_timeout_ms: join.session_timeout_ms,
                protocols: join.protocols.clone(),
            }),
        }
    }

    /// SyncGroup: what the member has.
    pub(crate) fn sync_classic(
        &mut self,
        sync: &Sync,
        config: &ConsumerConfig,
        now: Now,
    ) -> Result<Synced, GroupError> {
        let id = self.classic_member(&sync.member_id, sync.instance_id.as_deref(), sync.generation)?;
        let member = &self.members[&id];
        let (protocol, metadata) = member.classic_protocol().ok_or(GroupError::UnknownMemberId)?;
        let differs = |told: &Option<String>, ours: &str| told.as_deref().is_some_and(|told| told != ours);
        if differs(&sync.protocol_type, CONSUMER) || differs(&sync.protocol, protocol) {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        // Who has joined, and must give up something, is told of the next rebalance when it has.
        if self.target_epoch > member.current.epoch && member.current.state != State::UnrevokedPartitions {
            self.must_join(&id, now);
            return Err(GroupError::RebalanceInProgress);
        }
        let assignment = self.classic_assignment(&without_epochs(&member.current.assigned), metadata);
        self.heard_of(&id, config, now);
        if let Some(member) = self.members.get_mut(&id) {
            member.sync_deadline = None;
        }
        Ok(Synced { protocol_type: sync.protocol_type.clone(), protocol: sync.protocol.clone(), assignment })
    }

    /// Heartbeat.
    pub(crate) fn heartbeat_classic(
        &mut self,
        heartbeat: Heartbeat<'_>,
        topics: &dyn Topics,
        config: &ConsumerConfig,
        now: Now,
    ) -> Result<(), GroupError> {
        let id = self.classic_member(heartbeat.member_id, heartbeat.instance_id, heartbeat.generation)?;
        self.heard_of(&id, config, now);
        let awaits_a_join = self.awaits_a_join(topics, now);
        let member = &self.members[&id];
        let has_a_step = match member.current.state {
            _ if member.current.epoch < self.target_epoch => true,
            State::Stable => false,
            State::UnrevokedPartitions => true,
            State::UnreleasedPartitions => !self.waits_for_others(&id, member),
        };
        if !has_a_step && !awaits_a_join {
            return Ok(());
        }
        self.must_join(&id, now);
        Err(GroupError::RebalanceInProgress)
    }

    /// Whether only a join moves the group on: nobody is left who sends heartbeats of the consumer protocol, and it may not become
    /// a classic one. In Kafka such a group stays as it is until somebody joins.
    fn awaits_a_join(&mut self, topics: &dyn Topics, now: Now) -> bool {
        if self.classics < self.members.len() {
            return false;
        }
        if self.seen != Some(topics.version()) {
            let found = self.names.keys().filter_map(|name| Some((name, topics.get(name)?)));
            if !found.eq(self.topics.iter().map(|(name, topic)| (name, *topic))) {
                return true;
            }
            self.seen = Some(topics.version());
        }
        self.epoch > self.target_epoch && self.assign_after.is_none_or(|after| now.monotonic >= after)
    }

    /// Whether somebody else has what the member shall have.
    fn waits_for_others(&self, id: &str, member: &Member) -> bool {
        let target = self.target.get(id).into_iter().flatten();
        target.flat_map(|(topic, all)| all.iter().map(|partition| (*topic, *partition))).any(|at| {
            let is_ours = member.current.assigned.get(&at.0).is_some_and(|ours| ours.contains_key(&at.1));
            !is_ours && self.held.contains(&at)
        })
    }

    /// LeaveGroup: removes whom it names, of either protocol.
    pub(crate) fn leave_classic(&mut self, leavers: &[Leaver]) -> (Vec<Result<(), GroupError>>, Changes) {
        let found: Vec<Result<String, GroupError>> =
            leavers.iter().map(|leaver| self.classic_leaver(leaver)).collect();
        let gone: Vec<String> = found.iter().filter_map(|id| id.as_ref().ok()).cloned().collect();
        let mut changes = Changes::new();
        if !gone.is_empty() {
            self.fence(&gone, &mut changes);
        }
        (found.into_iter().map(|id| id.map(|_| ())).collect(), changes)
    }

    fn classic_leaver(&self, leaver: &Leaver) -> Result<String, GroupError> {
        match &leaver.instance_id {
            None if self.members.contains_key(&leaver.member_id) => Ok(leaver.member_id.clone()),
            None => Err(GroupError::UnknownMemberId),
            Some(instance_id) => match self.statics.get(instance_id) {
                None => Err(GroupError::UnknownMemberId),
                // An administrator names no member id.
                Some(id) if !leaver.member_id.is_empty() && *id != leaver.member_id => {
                    Err(GroupError::FencedInstanceId)
                }
                Some(id) => Ok(id.clone()),
            },
        }
    }

    /// The classic member that a request speaks for.
    fn classic_member(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<String, GroupError> {
        if let Some(instance_id) = instance_id {
            let current = self.statics.get(instance_id).ok_or(GroupError::UnknownMemberId)?;
            if current != member_id {
                return Err(GroupError::FencedInstanceId);
            }
        }
        let member = self.members.get(member_id).filter(|member| member.is_classic());
        let member = member.ok_or(GroupError::UnknownMemberId)?;
        if member.current.epoch == generation {
            Ok(member_id.to_owned())
        } else {
            Err(GroupError::IllegalGeneration)
        }
    }

    fn must_join(&mut self, id: &str, now: Now) {
        let Some(member) = self.members.get_mut(id) else { return };
        let timeout = member.rebalance_timeout();
        let deadline: Duration = *member.join_deadline.get_or_insert(now.monotonic + timeout);
        self.wake_at(deadline);
    }

    /// Partitions as a consumer reads them that joined with this metadata; what is of no topic any more is left out.
    pub(super) fn classic_assignment(&self, partitions: &Partitions, metadata: &Bytes) -> Bytes {
        let names: BTreeMap<TopicId, &String> =
            self.topics.iter().map(|(name, (id, _))| (*id, name)).collect();
        let named = partitions
            .iter()
            .filter_map(|(topic, all)| Some(((*names.get(topic)?).clone(), all.iter().copied().collect())));
        let mut partitions: Vec<(String, Vec<i32>)> = named.collect();
        partitions.sort();
        let version = consumer_protocol::version(metadata).clamp(0, consumer_protocol::VERSION_MAX);
        Assignment { partitions, user_data: None }.encode(version)
    }
}

impl Member {
    /// The protocol that a classic member likes best.
    pub(super) fn classic_protocol(&self) -> Option<&(String, Bytes)> {
        self.about.classic.as_ref()?.protocols.first()
    }
}
