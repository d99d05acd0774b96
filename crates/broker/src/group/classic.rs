//! A group: its members, their common protocol, and its leader.
//!
//! What moves a group from state to state is in the modules [`super::join`], [`super::rebalance`] and [`super::sync`]; here is what
//! holds in every state. Behaviour follows Kafka's `ClassicGroup`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::consumer_protocol;
use super::error::GroupError;
use super::event::{DescribedGroup, DescribedMember, GroupState, Joined, Now};
use super::member::{Member, Turn};
use super::members::{Members, wake_at};
use super::record::{GroupMetadata, GroupRecord};

/// The protocol type whose subscriptions the coordinator looks into.
pub(super) const CONSUMER: &str = "consumer";

#[derive(Debug)]
pub(super) struct Group {
    pub(super) state: GroupState,
    /// When it got there, ms since the Unix epoch; unknown in old records.
    pub(super) since_ms: Option<i64>,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) generation: i32,
    /// A member's id whenever there are members.
    pub(super) leader: Option<String>,
    pub(super) members: Members,
    /// From instance id to member id.
    pub(super) statics: BTreeMap<String, String>,
    /// Ids given out and not used yet, and when they end.
    pub(super) promised: BTreeMap<String, Duration>,
    /// No later than when the first of them ends.
    pub(super) promised_due: Option<Duration>,
    /// When the join phase ends.
    pub(super) join_deadline: Option<Duration>,
    /// While the first generation of the group gathers.
    pub(super) initial: Option<InitialDelay>,
    /// Members that have joined the generation and not asked for their assignment, and until when they may.
    pub(super) unsynced: BTreeSet<String>,
    pub(super) sync_deadline: Option<Duration>,
    /// The leader's assignment is being stored.
    pub(super) assigning: bool,
    /// What the members of a consumer group read; `None` when that is not known.
    pub(super) topics: Option<BTreeSet<String>>,
}

/// KIP-134: the first generation waits for a while, and longer when members keep coming.
#[derive(Debug)]
pub(super) struct InitialDelay {
    pub(super) current: Duration,
    pub(super) remaining: Duration,
    pub(super) grown: bool,
}

impl Group {
    pub(super) fn new(now: Now) -> Self {
        Self {
            state: GroupState::Empty,
            since_ms: Some(now.unix_ms),
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: Members::default(),
            statics: BTreeMap::new(),
            promised: BTreeMap::new(),
            promised_due: None,
            join_deadline: None,
            initial: None,
            unsynced: BTreeSet::new(),
            sync_deadline: None,
            assigning: false,
            topics: None,
        }
    }

    pub(super) fn restored(stored: GroupMetadata, now: Now) -> Self {
        let mut group = Self::new(now);
        group.since_ms = stored.since_ms;
        group.protocol_type = Some(stored.protocol_type).filter(|name| !name.is_empty());
        group.generation = stored.generation;
        if let Some(protocol) = &stored.protocol {
            for member in stored.members {
                let id = member.member_id.clone();
                group.add(id, Member::restored(member, protocol.clone(), now));
            }
        }
        if !group.members.is_empty() {
            group.state = GroupState::Stable;
        }
        let leader = stored.leader.filter(|id| group.members.contains_key(id));
        group.leader = leader.or_else(|| group.members.keys().next().cloned());
        group.protocol = stored.protocol;
        group.topics = group.subscribed_topics();
        group
    }

    pub(super) fn enter(&mut self, state: GroupState, now: Now) {
        self.state = state;
        self.since_ms = Some(now.unix_ms);
    }

    /// Whether nobody is in the group or coming.
    pub(super) fn is_idle(&self) -> bool {
        self.state == GroupState::Empty && self.promised.is_empty()
    }

    /// The group's record was deleted while somebody was coming in: it is as new.
    pub(super) fn forget(&mut self) {
        if self.state == GroupState::Empty {
            (self.protocol_type, self.protocol, self.topics, self.generation) = (None, None, None, 0);
            // Whoever was promised an id is not known any more.
            self.promised.clear();
        }
    }

    pub(super) fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    /// A static member of a name replaces an older one of that name, which can only happen in damaged records.
    pub(super) fn add(&mut self, member_id: String, member: Member) {
        if let Some(instance_id) = &member.instance_id
            && let Some(older) = self.statics.insert(instance_id.clone(), member_id.clone())
        {
            self.members.remove(&older);
        }
        self.promised.remove(&member_id);
        self.leader.get_or_insert_with(|| member_id.clone());
        self.members.insert(member_id, member);
    }

    /// Removes a member, or takes a promised id back. What waits for it is answered.
    pub(super) fn remove(&mut self, member_id: &str, turn: &mut Turn<'_>) {
        self.promised.remove(member_id);
        self.unsynced.remove(member_id);
        let Some(mut member) = self.members.remove(member_id) else { return };
        member.dismiss(&GroupError::UnknownMemberId, turn);
        if let Some(instance_id) = &member.instance_id {
            self.statics.remove(instance_id);
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Answers whatever waits, since the group is about to become another.
    pub(super) fn dismiss_all(&mut self, error: &GroupError, turn: &mut Turn<'_>) {
        self.members.change_all(|_, member| member.dismiss(error, turn));
    }

    /// Puts a static member under another id.
    pub(super) fn rename(&mut self, instance_id: &str, old_id: &str, new_id: &str, member: Member) {
        self.members.remove(old_id);
        self.members.insert(new_id.to_owned(), member);
        self.statics.insert(instance_id.to_owned(), new_id.to_owned());
        if self.unsynced.remove(old_id) {
            self.unsynced.insert(new_id.to_owned());
        }
        if self.is_leader(old_id) {
            self.leader = Some(new_id.to_owned());
        }
    }

    /// The member that a request speaks for.
    pub(super) fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), GroupError> {
        if let Some(instance_id) = instance_id {
            match self.statics.get(instance_id) {
                None => return Err(GroupError::UnknownMemberId),
                Some(current) if current != member_id => return Err(GroupError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(GroupError::UnknownMemberId) }
    }

    pub(super) fn check_generation(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), GroupError> {
        self.check_member(member_id, instance_id)?;
        if generation == self.generation { Ok(()) } else { Err(GroupError::IllegalGeneration) }
    }

    /// Whether a member with these protocols can be in the group.
    pub(super) fn accepts_protocols(&self, protocol_type: &str, protocols: &[(String, Bytes)]) -> bool {
        if self.state == GroupState::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| self.members.all_support(name))
    }

    /// The protocol that most members prefer among those that all support. Of several, the one that comes first in Kafka's table
    /// of votes.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let first = self.members.values().next()?;
        let candidates: Vec<&str> = first
            .protocols
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| self.members.all_support(name))
            .collect();
        let mut votes = vec![0_usize; candidates.len()];
        for member in self.members.values() {
            let choice = member
                .protocols
                .iter()
                .find_map(|(name, _)| candidates.iter().position(|candidate| candidate == name));
            if let Some(choice) = choice {
                votes[choice] += 1;
            }
        }
        let most = votes.iter().max()?;
        let winners = candidates.iter().zip(&votes).filter(|(_, count)| *count == most);
        Some((*winners.map(|(name, _)| name).min_by_key(|name| (bucket(name), **name))?).to_owned())
    }

    /// What the members of a consumer group subscribe to. Their metadata is opaque in every other respect; when one
    /// cannot be read, nothing is known.
    pub(super) fn subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if self.protocol_type.as_deref() != Some(CONSUMER) {
            return None;
        }
        let mut topics = BTreeSet::new();
        if let Some(protocol) = &self.protocol {
            for member in self.members.values() {
                topics.extend(consumer_protocol::subscribed_topics(&member.metadata(protocol)).ok()?);
            }
        } else if !self.members.is_empty() {
            return None;
        }
        Some(topics)
    }

    pub(super) fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    /// Consumers whose subscription is not known may read any topic.
    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        self.topics.as_ref().map_or(self.uses_consumer_protocol(), |topics| topics.contains(topic))
    }

    pub(super) fn rebalance_timeout(&self) -> Duration {
        self.members.values().map(|member| member.rebalance_timeout).max().unwrap_or_default()
    }

    pub(super) fn all_joined(&self) -> bool {
        self.promised.is_empty() && self.members.joining() == self.members.len()
    }

    /// Promises an id until then.
    pub(super) fn promise(&mut self, member_id: String, deadline: Duration) {
        self.promised.insert(member_id, deadline);
        wake_at(&mut self.promised_due, Some(deadline));
    }

    /// No later than when something happens by itself.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let sessions = self.members.due().into_iter();
        sessions.chain(self.promised_due).chain(self.join_deadline).chain(self.sync_deadline).min()
    }

    /// Whether what is counted is what is there.
    pub(super) fn is_counted(&self) -> bool {
        let first = self.promised.values().min();
        self.members.is_counted()
            && first.is_none_or(|first| self.promised_due.is_some_and(|due| due <= *first))
    }

    /// What a member that joined is told.
    pub(super) fn joined(&self, member_id: &str) -> Joined {
        let members = match &self.protocol {
            Some(protocol) if self.is_leader(member_id) => {
                self.members.iter().map(|(id, member)| member.to_joined(id, protocol)).collect()
            }
            _ => Vec::new(),
        };
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: member_id.to_owned(),
            members,
            skip_assignment: false,
        }
    }

    /// The group as it is stored, with each member's assignment as `assignment` says.
    pub(super) fn record(&self, group_id: &str, assignment: impl Fn(&str, &Member) -> Bytes) -> GroupRecord {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self
            .members
            .iter()
            .map(|(id, member)| member.to_stored(id, protocol, assignment(id, member)))
            .collect();
        let value = GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            since_ms: self.since_ms,
            members,
        };
        GroupRecord::Group { group: group_id.to_owned(), value: Some(value) }
    }

    pub(super) fn describe(&self) -> DescribedGroup {
        let protocol = self.protocol.as_deref().filter(|_| self.state == GroupState::Stable);
        let members = self.members.iter().map(|(id, member)| DescribedMember {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: protocol.map(|protocol| member.metadata(protocol)).unwrap_or_default(),
            assignment: member.assignment.clone(),
        });
        DescribedGroup {
            state: self.state,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            members: members.collect(),
            protocol: protocol.unwrap_or_default().to_owned(),
        }
    }
}

/// Where a name stands in a Java `HashMap` of up to twelve: `String.hashCode`, its upper half folded in, of sixteen buckets.
fn bucket(name: &str) -> u32 {
    let hash = name.encode_utf16().fold(0_u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    (hash ^ (hash >> 16)) & 15
}
