//! From a classic group to one of the consumer protocol and back, with its members. Follows `fromClassicGroup` of Kafka's
//! `ConsumerGroup`, `fromConsumerGroup` of its `ClassicGroup`, and what `GroupMetadataManager` checks before.

use anabranch_core::TopicId;

use super::event::Topics;
use super::member::{Member, State};
use super::record::{ClassicValue, CurrentValue, Held, MemberValue, Partitions};
use super::{Changes, Group, INITIAL_EPOCH, Key, hash};
use crate::group::classic;
use crate::group::config::{ConsumerConfig, GroupConfig};
use crate::group::consumer_protocol::{Assignment, Subscription};
use crate::group::error::GroupError;
use crate::group::event::{GroupState, Now};
use crate::group::member;

impl Group {
    /// What a classic group with members becomes: everybody has what it was assigned last, as of the group's generation.
    ///
    /// Kafka knows of the last assignments only, which a rebalance that is interrupted takes back, though members in cooperative
    /// protocols go on with what they have. So that counts too, as they told it when they joined.
    pub(crate) fn of_classic(
        group_id: &str,
        classic: &classic::Group,
        topics: &dyn Topics,
        config: &ConsumerConfig,
        now: Now,
    ) -> Result<(Self, Changes), GroupError> {
        let refuse = |reason| GroupError::NotUpgraded { group: group_id.to_owned(), reason };
        if !config.migration.upgrades() {
            return Err(refuse("online upgrade is disabled"));
        }
        if !classic.uses_consumer_protocol() {
            return Err(refuse("the group does not use the consumer embedded protocol"));
        }
        if classic.members.len() > config.members_max {
            return Err(refuse("the group size exceeds the consumer group maximum size"));
        }
        // A group that gathers for the first time has no generation yet.
        let epoch = classic.generation.max(INITIAL_EPOCH);
        let mut group = Self { epoch, target_epoch: epoch, ..Self::new() };
        let mut changes = Changes::from([Key::Classic, Key::Epoch, Key::TargetEpoch]);
        for (id, member) in classic.members.iter() {
            // What a member says when it joins it has until it hears of the outcome.
            let has_settled = classic.state == GroupState::Stable && !classic.unsynced.contains(id);
            let read = read_member(member, classic.protocol.as_deref(), has_settled, topics);
            let (about, assigned) = read.map_err(refuse)?;
            for at in assigned.iter().flat_map(|(topic, all)| all.iter().map(move |at| (*topic, *at))) {
                if !group.held.insert(at) {
                    return Err(refuse("two of its members have the same partition"));
                }
            }
            group.put_classic(id, member, about, assigned, now);
            changes.extend(Key::of_member(id));
        }
        group.topics =
            group.names.keys().filter_map(|name| Some((name.clone(), topics.get(name)?))).collect();
        group.topics_hash = hash(&group.topics);
        group.seen = Some(topics.version());
        Ok((group, changes))
    }

    fn put_classic(
        &mut self,
        id: &str,
        member: &member::Member,
        about: MemberValue,
        assigned: Partitions,
        now: Now,
    ) {
        let epoch = self.epoch;
        let since = |all: &std::collections::BTreeSet<i32>| all.iter().map(|at| (*at, epoch)).collect();
        let current = CurrentValue {
            epoch,
            previous_epoch: epoch,
            state: State::Stable,
            assigned: assigned.iter().map(|(topic, all)| (*topic, since(all))).collect(),
            revoking: Held::new(),
        };
        let session_deadline = now.monotonic + member.session_timeout;
        self.wake_at(session_deadline);
        self.statics.extend(about.instance_id.clone().map(|instance_id| (instance_id, id.to_owned())));
        let member = Member { about, current, ..Member::new(session_deadline) };
        // Nobody subscribes by an expression, so nothing of one can change.
        self.count_subscriptions(None, Some(&member), &mut Changes::new());
        self.count_classic(None, Some(&member.about));
        self.target.insert(id.to_owned(), assigned);
        self.members.insert(id.to_owned(), member);
    }

    pub(crate) fn epoch(&self) -> i32 {
        self.epoch
    }

    /// Whether only classic members are left, and may be a group of their own.
    pub(crate) fn may_become_classic(&self, config: &GroupConfig) -> bool {
        !self.members.is_empty() && self.classics == self.members.len() && self.fits_classic(config)
    }

    pub(super) fn fits_classic(&self, config: &GroupConfig) -> bool {
        config.consumer.migration.downgrades() && self.members.len() <= config.members_max
    }

    /// The classic group that this one becomes, all of whose members are classic: stable, each with what it has. (Kafka gives
    /// each its target, which others may still have.)
    pub(crate) fn to_classic(&self, generation: i32, now: Now) -> classic::Group {
        let mut group = classic::Group::new(now);
        group.protocol_type = Some(classic::CONSUMER.to_owned());
        group.generation = generation;
        for (id, member) in &self.members {
            let Some(classic) = &member.about.classic else { continue };
            group.add(id.clone(), member::Member::of_classic(&member.about, classic, now));
        }
        group.protocol = group.select_protocol();
        group.topics = group.subscribed_topics();
        let protocol = group.protocol.clone().unwrap_or_default();
        group.members.change_all(|id, member| {
            let held = self.members[id].held_partitions();
            member.assignment = self.classic_assignment(&held, &member.metadata(&protocol));
        });
        group.enter(GroupState::Stable, now);
        group
    }
}

/// What a classic member says of itself, and what it has.
fn read_member(
    member: &member::Member,
    protocol: Option<&str>,
    has_settled: bool,
    topics: &dyn Topics,
) -> Result<(MemberValue, Partitions), &'static str> {
    const MALFORMED: &str = "the embedded consumer protocol is malformed";
    // Who has just come need not support what the others have chosen.
    let chosen = protocol.filter(|protocol| member.supports(protocol));
    let metadata = match chosen {
        Some(protocol) => member.metadata(protocol),
        None => member.protocols.first().map(|(_, metadata)| metadata.clone()).unwrap_or_default(),
    };
    let subscription = Subscription::decode(&metadata).map_err(|_| MALFORMED)?;
    let assignment = Assignment::decode(&member.assignment).map_err(|_| MALFORMED)?;
    if assignment.user_data.is_some_and(|data| !data.is_empty()) {
        return Err(
            "an unsupported custom assignor is in use. Please refer to the documentation or switch to a \
                    default assignor before re-attempting the upgrade",
        );
    }
    let owned = if has_settled { Vec::new() } else { subscription.owned };
    let mut assigned = Partitions::new();
    for (name, partitions) in assignment.partitions.into_iter().chain(owned) {
        let Some((topic, _)): Option<(TopicId, i32)> = topics.get(&name) else { continue };
        assigned.entry(topic).or_default().extend(partitions);
    }
    assigned.retain(|_, partitions| !partitions.is_empty());
    let about = MemberValue {
        instance_id: member.instance_id.clone(),
        rack_id: subscription.rack,
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        topics: subscription.topics.into_iter().collect(),
        pattern: None,
        rebalance_timeout_ms: member::whole_ms(member.rebalance_timeout),
        assignor: None,
        classic: Some(ClassicValue {
            session_timeout_ms: member::whole_ms(member.session_timeout),
            protocols: member.protocols.clone(),
        }),
    };
    Ok((about, assigned))
}
