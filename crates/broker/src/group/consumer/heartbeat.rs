//! ConsumerGroupHeartbeat. Follows `consumerGroupHeartbeat` and `consumerGroupLeave` of Kafka's `GroupMetadataManager`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicId;

use super::assign::{Assignor, GroupView, Subscriber};
use super::event::{Beat, ConsumerHeartbeat, Topics};
use super::member::{Member, partitions_of};
use super::reconcile::{Goal, Owned};
use super::record::{CurrentValue, Held, MemberValue, PatternValue};
use super::{Changes, Group, Key, LEFT_FOR_A_WHILE, hash};
use crate::group::config::{ConsumerConfig, GroupConfig, TEXT_BYTES_MAX};
use crate::group::error::GroupError;
use crate::group::event::Now;
use crate::pattern::Pattern;

const JOINING: i32 = 0;
const LEAVING: i32 = -1;

/// What can be refused before looking at the group.
pub(crate) fn check(beat: &ConsumerHeartbeat, config: &GroupConfig) -> Result<(), GroupError> {
    let invalid = |reason| Err(GroupError::Invalid(reason));
    if !config.consumer.is_enabled {
        return Err(GroupError::UnsupportedVersion(
            "the consumer protocol is off (group.coordinator.rebalance.protocols)",
        ));
    }
    let is_empty = |text: &Option<String>| text.as_deref() == Some("");
    let names_itself = beat.chooses_id || beat.member_epoch > JOINING || beat.member_epoch == LEAVING;
    if names_itself && beat.member_id.is_empty() {
        return invalid("MemberId can't be empty.");
    }
    if beat.group.is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if is_empty(&beat.instance_id) {
        return invalid("InstanceId can't be empty.");
    }
    if is_empty(&beat.rack_id) {
        return invalid("RackId can't be empty.");
    }
    match beat.member_epoch {
        JOINING => {
            if beat.rebalance_timeout_ms == -1 {
                return invalid("RebalanceTimeoutMs must be provided in first request.");
            }
            if beat.owned.as_ref().is_none_or(|owned| !owned.is_empty()) {
                return invalid("TopicPartitions must be empty when (re-)joining.");
            }
            if beat.topics.is_none() && beat.pattern.is_none() {
                return invalid(
                    "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
                );
            }
        }
        LEFT_FOR_A_WHILE if beat.instance_id.is_none() => return invalid("InstanceId can't be null."),
        ..LEFT_FOR_A_WHILE => return invalid("MemberEpoch is invalid."),
        _ => {}
    }
    if let Some(name) = &beat.assignor
        && !Assignor::of(name).is_some_and(|assignor| config.consumer.assignors.contains(&assignor))
    {
        let known = config.consumer.assignors.iter().map(|assignor| assignor.name()).collect();
        return Err(GroupError::UnsupportedAssignor { name: name.clone(), known });
    }
    check_size(beat, config)
}

fn check_size(beat: &ConsumerHeartbeat, config: &GroupConfig) -> Result<(), GroupError> {
    let texts = [Some(&beat.member_id), Some(&beat.client_id), Some(&beat.client_host)];
    let optional = [&beat.instance_id, &beat.rack_id, &beat.pattern].map(Option::as_ref);
    let names = beat.topics.iter().flatten();
    let mut all = texts.into_iter().chain(optional).flatten().chain(names.clone());
    if beat.group.len() > TEXT_BYTES_MAX || all.any(|text| text.len() > TEXT_BYTES_MAX) {
        return Err(GroupError::Invalid("A text of the request is too long."));
    }
    let bytes: usize = names.map(|name| name.len() + size_of::<String>()).sum();
    match bytes > config.member_metadata_bytes_max {
        true => Err(GroupError::Invalid("The subscription is too large.")),
        false => Ok(()),
    }
}

/// A subscription: names, and a regular expression.
type Wants<'a> = (&'a BTreeSet<String>, Option<&'a str>);

/// Whom a heartbeat comes from.
pub(super) enum Sender {
    Known,
    New,
    /// A static member that comes back, and whom it was.
    Returned(String),
}

impl Group {
    /// A heartbeat, that of a new member too. When it is refused, nothing has changed.
    pub(crate) fn heartbeat(
        &mut self,
        beat: &ConsumerHeartbeat,
        new_id: String,
        topics: &dyn Topics,
        config: &ConsumerConfig,
        now: Now,
    ) -> Result<(Beat, Changes), GroupError> {
        if self.members.len() >= config.members_max && !self.members.contains_key(&beat.member_id) {
            return Err(GroupError::GroupMaxSizeReached);
        }
        let id = if beat.member_id.is_empty() { new_id } else { beat.member_id.clone() };
        let sender = self.sender(&id, beat)?;
        if let Some(pattern) = beat.pattern.as_ref().filter(|pattern| !pattern.is_empty())
            && !self.patterns.contains_key(pattern)
        {
            Pattern::new(pattern).map_err(|error| GroupError::InvalidRegularExpression(error.to_string()))?;
        }

        let mut changes = Changes::new();
        self.admit(sender, &id, now, &mut changes);
        let owned = beat.owned.as_deref();
        let is_full = beat.member_epoch == JOINING
            || (beat.rebalance_timeout_ms != -1 && beat.topics.is_some() && owned.is_some());
        let is_resubscribed = self.update(&id, beat, &mut changes);
        self.refresh(is_resubscribed, topics, now, &mut changes);
        self.assign(config, now, &mut changes);
        let is_reassigned = self.reconcile(&id, owned, is_resubscribed, now, &mut changes);

        self.heard_of(&id, config, now);
        let member = &self.members[&id];
        let assigned = &member.current.assigned;
        let assignment = (is_full || is_reassigned)
            .then(|| assigned.iter().map(|(topic, all)| (*topic, all.keys().copied().collect())).collect());
        let answer = Beat {
            member_epoch: member.current.epoch,
            heartbeat_interval_ms: whole_ms(config.heartbeat_interval),
            assignment,
            member_id: id,
        };
        Ok((answer, changes))
    }

    /// A member goes, for good or for a while.
    pub(crate) fn leave(&mut self, beat: &ConsumerHeartbeat) -> Result<(Beat, Changes), GroupError> {
        let id = match &beat.instance_id {
            None => self.members.contains_key(&beat.member_id).then_some(&beat.member_id),
            Some(instance_id) => self.statics.get(instance_id),
        };
        let id = id.ok_or(GroupError::UnknownMemberId)?.clone();
        if id != beat.member_id {
            return Err(GroupError::FencedInstanceId);
        }
        let mut changes = Changes::new();
        if beat.member_epoch == LEFT_FOR_A_WHILE && beat.instance_id.is_some() {
            let current = CurrentValue {
                epoch: LEFT_FOR_A_WHILE,
                revoking: Held::new(),
                ..self.members[&id].current.clone()
            };
            self.set_current(&id, current, &mut changes);
        } else {
            self.fence(std::slice::from_ref(&id), &mut changes);
        }
        let answer = Beat {
            member_id: id,
            member_epoch: beat.member_epoch,
            heartbeat_interval_ms: 0,
            assignment: None,
        };
        Ok((answer, changes))
    }

    fn sender(&self, id: &str, beat: &ConsumerHeartbeat) -> Result<Sender, GroupError> {
        let joins = beat.member_epoch == JOINING;
        let current = beat.instance_id.as_ref().map(|instance_id| self.statics.get(instance_id));
        match current {
            None | Some(None) if joins => match self.members.contains_key(id) {
                true => Ok(Sender::Known),
                false => Ok(Sender::New),
            },
            Some(Some(current)) if joins => {
                let member = &self.members[current];
                if !member.is_classic() && member.current.epoch != LEFT_FOR_A_WHILE {
                    return Err(GroupError::UnreleasedInstanceId);
                }
                if current != id && self.members.contains_key(id) {
                    return Err(GroupError::Invalid("MemberId is another member's."));
                }
                Ok(Sender::Returned(current.clone()))
            }
            Some(None) => Err(GroupError::UnknownMemberId),
            Some(Some(current)) if current != id => Err(GroupError::FencedInstanceId),
            None | Some(Some(_)) => {
                let member = self.members.get(id).ok_or(GroupError::UnknownMemberId)?;
                check_epoch(member, beat.member_epoch, beat.owned.as_deref())?;
                Ok(Sender::Known)
            }
        }
    }

    /// Takes a member in, if it is not in yet.
    pub(super) fn admit(&mut self, sender: Sender, id: &str, now: Now, changes: &mut Changes) {
        match sender {
            Sender::Known => {}
            Sender::New => {
                self.members.insert(id.to_owned(), Member::new(now.monotonic));
            }
            Sender::Returned(old_id) => self.replace(&old_id, id, changes),
        }
    }

    /// It is alive.
    pub(crate) fn heard_of(&mut self, id: &str, config: &ConsumerConfig, now: Now) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.session_deadline = now.monotonic + member.session_timeout(config);
        let deadline = member.session_deadline;
        self.wake_at(deadline);
    }

    /// A static member comes back, perhaps under another id: it has what its former self had.
    fn replace(&mut self, old_id: &str, new_id: &str, changes: &mut Changes) {
        let Some(mut member) = self.members.remove(old_id) else { return };
        (member.current.epoch, member.current.previous_epoch) = (0, 0);
        member.forget_deadlines();
        if let Some(instance_id) = &member.about.instance_id {
            self.statics.insert(instance_id.clone(), new_id.to_owned());
        }
        if let Some(target) = self.target.remove(old_id) {
            self.target.insert(new_id.to_owned(), target);
        }
        self.members.insert(new_id.to_owned(), member);
        for id in [old_id, new_id] {
            changes.extend([
                Key::Member(id.to_owned()),
                Key::Target(id.to_owned()),
                Key::Current(id.to_owned()),
            ]);
        }
    }

    /// Takes what the member says of itself; whether its subscription changed.
    fn update(&mut self, id: &str, beat: &ConsumerHeartbeat, changes: &mut Changes) -> bool {
        let about = &self.members[id].about;
        if !has_news(beat, about) {
            return false;
        }
        let mut about = about.clone();
        about.client_id.clone_from(&beat.client_id);
        about.client_host.clone_from(&beat.client_host);
        let told = [
            (&mut about.instance_id, &beat.instance_id),
            (&mut about.rack_id, &beat.rack_id),
            (&mut about.pattern, &beat.pattern),
            (&mut about.assignor, &beat.assignor),
        ];
        for (ours, told) in told {
            if told.is_some() {
                ours.clone_from(told);
            }
        }
        if beat.rebalance_timeout_ms != -1 {
            about.rebalance_timeout_ms = beat.rebalance_timeout_ms;
        }
        if let Some(topics) = &beat.topics {
            about.topics = topics.iter().cloned().collect();
        }
        about.classic = None;
        self.set_about(id, about, changes)
    }

    /// Whether its subscription changed.
    pub(super) fn set_about(&mut self, id: &str, about: MemberValue, changes: &mut Changes) -> bool {
        if about == self.members[id].about {
            return false;
        }
        let old = self.members[id].clone();
        changes.insert(Key::Member(id.to_owned()));
        if about.instance_id != old.about.instance_id {
            if let Some(instance_id) = &old.about.instance_id {
                self.statics.remove(instance_id);
            }
            self.statics.extend(about.instance_id.clone().map(|instance_id| (instance_id, id.to_owned())));
        }
        self.count_classic(Some(&old.about), Some(&about));
        let mut new = Member { about, ..old.clone() };
        if new.is_classic() != old.is_classic() {
            new.forget_deadlines();
        }
        let is_resubscribed = new.about.topics != old.about.topics || new.pattern() != old.pattern();
        if is_resubscribed {
            self.count_subscriptions(Some(&old), Some(&new), changes);
        }
        self.members.insert(id.to_owned(), new);
        is_resubscribed
    }

    /// Looks at the topics if they, or what is wanted of them, changed; a change is a new epoch.
    pub(super) fn refresh(&mut self, must: bool, topics: &dyn Topics, now: Now, changes: &mut Changes) {
        let is_other = self.seen != Some(topics.version());
        let must_look = is_other || self.is_wanted_anew;
        if !must && !must_look {
            return;
        }
        let hash_before = self.topics_hash;
        if must_look {
            self.look_at(topics, is_other, now, changes);
        }
        if must || self.topics_hash != hash_before {
            self.advance(changes);
        }
    }

    /// Resolves what is wanted among the topics that there are.
    fn look_at(&mut self, topics: &dyn Topics, is_other: bool, now: Now, changes: &mut Changes) {
        for (name, resolved) in &mut self.patterns {
            if !is_other && resolved.is_resolved {
                continue;
            }
            let matched = resolved.pattern.as_ref().map(|pattern| pattern.matching(topics.names()));
            let matched = matched.unwrap_or_default();
            if !resolved.is_resolved || matched != resolved.value.topics {
                let version = i64::try_from(topics.version()).unwrap_or(i64::MAX);
                resolved.value = PatternValue { topics: matched, version, resolved_ms: now.unix_ms };
                changes.insert(Key::Pattern(name.clone()));
            }
            resolved.is_resolved = true;
        }
        let matched = self.patterns.values().flat_map(|resolved| &resolved.value.topics);
        let wanted: BTreeSet<&String> = self.names.keys().chain(matched).collect();
        let found = wanted.into_iter().filter_map(|name| Some((name.clone(), topics.get(name)?)));
        self.topics = found.collect();
        self.topics_hash = hash(&self.topics);
        self.seen = Some(topics.version());
        self.is_wanted_anew = false;
    }

    /// Runs the assignor if the group has moved on since it last did, and that is long enough ago.
    pub(super) fn assign(&mut self, config: &ConsumerConfig, now: Now, changes: &mut Changes) {
        if self.epoch <= self.target_epoch || self.assign_after.is_some_and(|after| now.monotonic < after) {
            return;
        }
        // Most members subscribe to the same; they share what that comes to.
        let mut shared: BTreeMap<Wants<'_>, Arc<BTreeSet<TopicId>>> = BTreeMap::new();
        let members = self.members.iter().map(|(id, member)| {
            let wants = (&member.about.topics, member.pattern());
            let topics = shared.entry(wants).or_insert_with(|| Arc::new(self.subscribed(member)));
            Subscriber {
                id,
                instance_id: member.about.instance_id.as_deref(),
                topics: Arc::clone(topics),
                before: self.target.get(id),
            }
        });
        let members = members.collect();
        let counts = self.topics.values().copied().collect();
        let target = self.assignor(config).assign(&GroupView { members, topics: &counts });
        let changed = target.iter().filter(|(id, new)| self.target.get(*id) != Some(new));
        changes.extend(changed.map(|(id, _)| Key::Target(id.clone())));
        changes.insert(Key::TargetEpoch);
        self.target = target;
        self.target_epoch = self.epoch;
        self.computed_ms = now.unix_ms;
        self.assign_after = Some(now.monotonic + config.assignment_interval);
    }

    /// Takes a member one step further on its way to its target. Whether it has other partitions now.
    pub(super) fn reconcile(
        &mut self,
        id: &str,
        owned: Owned<'_>,
        is_resubscribed: bool,
        now: Now,
        changes: &mut Changes,
    ) -> bool {
        let member = &self.members[id];
        if !is_resubscribed && member.is_reconciled_to(self.target_epoch) {
            return false;
        }
        let nothing = BTreeMap::new();
        let goal = Goal {
            epoch: self.target_epoch,
            partitions: self.target.get(id).unwrap_or(&nothing),
            subscribed: &self.subscribed(member),
            is_resubscribed,
        };
        let next = member.step(&goal, owned, |topic, partition| self.held.contains(&(topic, partition)));
        let Some(next) = next else { return false };
        let revokes = !next.revoking.is_empty();
        let is_reassigned = next.assigned != member.current.assigned;
        self.set_current(id, next, changes);
        let member = self.members.get_mut(id).expect("it is the member of above");
        let is_timed = revokes && !member.is_classic();
        member.revocation_deadline = is_timed.then(|| now.monotonic + member.rebalance_timeout());
        if let Some(deadline) = member.revocation_deadline {
            self.wake_at(deadline);
        }
        is_reassigned
    }

    /// Gives a member what it has from now on, and frees what it has no more.
    ///
    /// # Panics
    /// If anybody has any of it already: two members would read one partition.
    fn set_current(&mut self, id: &str, next: CurrentValue, changes: &mut Changes) {
        let Some(member) = self.members.get_mut(id) else { return };
        for at in member.held() {
            self.held.remove(&at);
        }
        for at in [&next.assigned, &next.revoking].into_iter().flat_map(partitions_of) {
            assert!(self.held.insert(at), "{at:?} has an owner, and is given to another");
        }
        member.current = next;
        member.revocation_deadline = None;
        changes.insert(Key::Current(id.to_owned()));
    }
}

/// Whether a heartbeat says anything of the member that is not known. At rest it does not, and nothing is copied.
fn has_news(beat: &ConsumerHeartbeat, about: &MemberValue) -> bool {
    let told = [
        (&beat.instance_id, &about.instance_id),
        (&beat.rack_id, &about.rack_id),
        (&beat.pattern, &about.pattern),
        (&beat.assignor, &about.assignor),
    ];
    told.into_iter().any(|(told, ours)| told.is_some() && told != ours)
        || (&beat.client_id, &beat.client_host) != (&about.client_id, &about.client_host)
        || beat.rebalance_timeout_ms != -1
        || beat.topics.is_some()
        || about.classic.is_some()
}

/// A member may be one epoch behind, if it has nothing that is not its own: the answer may have been lost.
fn check_epoch(member: &Member, told: i32, owned: Owned<'_>) -> Result<(), GroupError> {
    let current = &member.current;
    let is_subset = owned.is_some_and(|owned| {
        owned.iter().all(|(topic, partitions)| {
            current.assigned.get(topic).is_some_and(|ours| partitions.iter().all(|at| ours.contains_key(at)))
        })
    });
    match told.cmp(&current.epoch) {
        _ if told == JOINING => Ok(()),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less if told == current.previous_epoch && is_subset => Ok(()),
        std::cmp::Ordering::Less | std::cmp::Ordering::Greater => Err(GroupError::FencedMemberEpoch),
    }
}

fn whole_ms(interval: Duration) -> i32 {
    i32::try_from(interval.as_millis()).unwrap_or(i32::MAX)
}
