//! A group in the consumer protocol (KIP-848): the coordinator assigns, and brings each member there step by step, by
//! heartbeats alone. Follows Kafka's `ConsumerGroup` and `GroupMetadataManager`.
//!
//! ```text
//!   subscriptions, topics ──▶ epoch ──▶ target, by the assignor ──▶ each member's own partitions
//!          changed            + 1       takes the group's epoch     take the target's epoch when nothing is left to give up
//! ```
//!
//! What changes, changes in memory at once, and is then stored. Whoever is told anything of it is told when that, and all that the
//! group stored before, is durable (`changes`, [`super::Groups::stored`]). A store that fails takes nothing back:
//! what it had is stored again with the next one, and nobody is answered until then. So every answer that a member has had
//! stands in the log, and with it everything that it rests on; what a crash leaves half done was told to nobody, and
//! `restore` takes it back.
//!
//! Members may speak the classic protocol (`classic_member`); a classic group becomes one of this protocol, and back, while
//! its members go on (`migrate`).

pub(super) mod assign;
mod classic_member;
mod event;
mod heartbeat;
mod member;
mod migrate;
mod reconcile;
pub mod record;
mod restore;

pub use assign::Assignor;
pub(super) use classic_member::{ClassicJoin, Downgrade};
pub use event::{Beat, ConsumerHeartbeat, DescribedConsumer, DescribedConsumerGroup, Topics};
pub(super) use heartbeat::check as check_heartbeat;
pub(super) use restore::Stored;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use anabranch_core::TopicId;

use crate::pattern::Pattern;

use super::config::ConsumerConfig;
use super::error::GroupError;
use super::event::{Commit, ConsumerState, Now};
use super::record::GroupRecord;
use member::Member;
use record::{
    ConsumerRecord, EpochValue, MemberValue, Partitions, PatternValue, TargetEpochValue, TargetValue,
};

/// What a static member says that leaves for a while, and what stands for its epoch meanwhile.
const LEFT_FOR_A_WHILE: i32 = -2;

/// That of a group which nobody has joined. Not 0, which is what a member says that joins.
const INITIAL_EPOCH: i32 = 1;

/// One of the group's records, in the order in which they are stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Member(String),
    Pattern(String),
    Epoch,
    Target(String),
    TargetEpoch,
    Current(String),
    /// That of the classic group which it was. Last (Kafka: first), since its deletion decides: before, a start finds the
    /// classic group as it was, and after, all of this one.
    Classic,
}

impl Key {
    /// Of a record of this protocol.
    pub(super) fn of(record: &ConsumerRecord) -> Self {
        match record {
            ConsumerRecord::Epoch(_) => Self::Epoch,
            ConsumerRecord::TargetEpoch(_) => Self::TargetEpoch,
            ConsumerRecord::Member(id, _) => Self::Member(id.clone()),
            ConsumerRecord::Target(id, _) => Self::Target(id.clone()),
            ConsumerRecord::Current(id, _) => Self::Current(id.clone()),
            ConsumerRecord::Pattern(pattern, _) => Self::Pattern(pattern.clone()),
        }
    }

    /// The record that deletes it.
    pub(super) fn tombstone(&self, group_id: &str) -> GroupRecord {
        let record = match self {
            Self::Classic => return GroupRecord::Group { group: group_id.to_owned(), value: None },
            Self::Epoch => ConsumerRecord::Epoch(None),
            Self::TargetEpoch => ConsumerRecord::TargetEpoch(None),
            Self::Member(id) => ConsumerRecord::Member(id.clone(), None),
            Self::Target(id) => ConsumerRecord::Target(id.clone(), None),
            Self::Current(id) => ConsumerRecord::Current(id.clone(), None),
            Self::Pattern(pattern) => ConsumerRecord::Pattern(pattern.clone(), None),
        };
        GroupRecord::Consumer { group: group_id.to_owned(), record }
    }

    /// All that there are of a member.
    fn of_member(id: &str) -> [Self; 3] {
        [Self::Member(id.to_owned()), Self::Target(id.to_owned()), Self::Current(id.to_owned())]
    }
}

/// What an event changed, and must be stored.
pub(super) type Changes = BTreeSet<Key>;

#[derive(Debug)]
pub(super) struct Group {
    epoch: i32,
    /// Of `topics`, as stored with the epoch.
    topics_hash: i64,
    members: BTreeMap<String, Member>,
    /// From instance id to member id.
    statics: BTreeMap<String, String>,
    /// How many members subscribe to a name.
    names: BTreeMap<String, usize>,
    patterns: BTreeMap<String, Resolved>,
    /// How many members speak the classic protocol.
    classics: usize,
    /// And how many of them support a protocol of that name.
    classic_protocols: BTreeMap<String, usize>,
    /// The topics that members subscribe to, of those that there are.
    topics: BTreeMap<String, (TopicId, i32)>,
    /// A name or an expression came or went since they were looked at.
    is_wanted_anew: bool,
    /// Which catalogue that was; `None`: it must be looked at anew.
    seen: Option<u64>,
    target: BTreeMap<String, Partitions>,
    target_epoch: i32,
    computed_ms: i64,
    /// Until when the assignor rests.
    assign_after: Option<Duration>,
    /// What members have: nobody gets what is in here.
    held: HashSet<(TopicId, i32)>,
    /// What a store failed to make durable.
    unstored: Changes,
    /// No later than when something happens by itself.
    due: Option<Duration>,
}

/// A regular expression that members subscribe to.
#[derive(Debug)]
struct Resolved {
    /// `None`: this version cannot read what another stored.
    pattern: Option<Pattern>,
    members: usize,
    /// What it matches; nothing until it was looked at.
    value: PatternValue,
    is_resolved: bool,
}

impl Group {
    /// A group that nobody has joined.
    pub(super) fn new() -> Self {
        Self {
            epoch: INITIAL_EPOCH,
            topics_hash: 0,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            names: BTreeMap::new(),
            patterns: BTreeMap::new(),
            classics: 0,
            classic_protocols: BTreeMap::new(),
            topics: BTreeMap::new(),
            is_wanted_anew: false,
            seen: None,
            target: BTreeMap::new(),
            target_epoch: INITIAL_EPOCH,
            computed_ms: 0,
            assign_after: None,
            held: HashSet::new(),
            unstored: Changes::new(),
            due: None,
        }
    }

    pub(super) fn state(&self) -> ConsumerState {
        if self.members.is_empty() {
            ConsumerState::Empty
        } else if self.epoch > self.target_epoch {
            ConsumerState::Assigning
        } else if self.members.values().all(|member| member.is_reconciled_to(self.target_epoch)) {
            ConsumerState::Stable
        } else {
            ConsumerState::Reconciling
        }
    }

    /// Whether nobody is in the group.
    pub(super) fn is_idle(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn member_ids(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    pub(super) fn has_member(&self, id: &str) -> bool {
        self.members.contains_key(id)
    }

    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        self.names.contains_key(topic)
            || self.patterns.values().any(|resolved| resolved.value.topics.contains(topic))
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.due
    }

    /// Whether what is counted of members is what they are; looks at all of them.
    pub(super) fn is_counted(&self) -> bool {
        let (mut names, mut patterns, mut now) = (BTreeMap::new(), BTreeMap::new(), Self::new());
        for (id, member) in &self.members {
            member.about.topics.iter().for_each(|name| *names.entry(name.clone()).or_default() += 1);
            member.pattern().into_iter().for_each(|pattern| *patterns.entry(pattern).or_default() += 1);
            now.count_classic(None, Some(&member.about));
            now.statics.extend(member.about.instance_id.clone().map(|instance_id| (instance_id, id.clone())));
            now.held.extend(member.held());
        }
        let first = self.members.values().map(Member::deadline).min();
        (&self.names, &self.statics, &self.held) == (&names, &now.statics, &now.held)
            && (self.classics, &self.classic_protocols) == (now.classics, &now.classic_protocols)
            && self.patterns.iter().map(|(pattern, all)| (pattern.as_str(), all.members)).eq(patterns)
            && self.topics.keys().all(|name| self.is_subscribed_to(name))
            && first.is_none_or(|first| self.due.is_some_and(|due| due <= first))
    }

    /// Whether a failed store has left anything that is not durable.
    pub(super) fn is_behind(&self) -> bool {
        !self.unstored.is_empty()
    }

    /// What must be stored to make `changes` durable; and, if no store of the group is under way, what failed before.
    pub(super) fn records(&self, group_id: &str, changes: Changes, is_settled: bool) -> Vec<GroupRecord> {
        let mut keys = changes;
        if is_settled {
            keys.extend(self.unstored.iter().cloned());
        }
        keys.into_iter().map(|key| self.record(group_id, key)).collect()
    }

    fn record(&self, group_id: &str, key: Key) -> GroupRecord {
        let record = match key {
            Key::Classic => return key.tombstone(group_id),
            Key::Epoch => {
                ConsumerRecord::Epoch(Some(EpochValue { epoch: self.epoch, topics_hash: self.topics_hash }))
            }
            Key::TargetEpoch => ConsumerRecord::TargetEpoch(Some(TargetEpochValue {
                epoch: self.target_epoch,
                computed_ms: self.computed_ms,
            })),
            Key::Member(id) => {
                let value = self.members.get(&id).map(|member| Box::new(member.about.clone()));
                ConsumerRecord::Member(id, value)
            }
            Key::Current(id) => {
                let value = self.members.get(&id).map(|member| member.current.clone());
                ConsumerRecord::Current(id, value)
            }
            Key::Target(id) => {
                let value = self.target.get(&id).cloned();
                ConsumerRecord::Target(id, value.map(|partitions| TargetValue { partitions }))
            }
            Key::Pattern(pattern) => {
                let value = self.patterns.get(&pattern).map(|resolved| resolved.value.clone());
                ConsumerRecord::Pattern(pattern, value)
            }
        };
        GroupRecord::Consumer { group: group_id.to_owned(), record }
    }

    /// A record of the group is durable, or could not be stored.
    pub(super) fn landed(&mut self, record: &ConsumerRecord, is_durable: bool) {
        self.land(Key::of(record), is_durable);
    }

    /// The deletion of the classic group that it was, likewise.
    pub(super) fn landed_classic(&mut self, is_durable: bool) {
        self.land(Key::Classic, is_durable);
    }

    fn land(&mut self, key: Key, is_durable: bool) {
        if is_durable {
            self.unstored.remove(&key);
        } else {
            self.unstored.insert(key);
        }
    }

    /// Deletes all that is stored of the group, or is being stored, as far as it is of this protocol; `changes` are not stored
    /// yet. The epoch comes last: a group that nobody is in is gone with it.
    pub(super) fn tombstones(&self, group_id: &str, changes: Changes) -> Vec<GroupRecord> {
        let mut keys = changes;
        keys.extend(self.unstored.iter().cloned());
        keys.extend(self.members.keys().flat_map(|id| Key::of_member(id)));
        keys.extend(self.patterns.keys().cloned().map(Key::Pattern));
        keys.remove(&Key::Epoch);
        keys.remove(&Key::TargetEpoch);
        keys.into_iter().chain([Key::TargetEpoch, Key::Epoch]).map(|key| key.tombstone(group_id)).collect()
    }

    /// Sends away whoever was silent for too long, or did not give up in time what it must.
    pub(super) fn expire(&mut self, now: Now) -> Changes {
        let is_due = |member: &Member| member.deadline() <= now.monotonic;
        let late: Vec<String> =
            self.members.iter().filter(|(_, member)| is_due(member)).map(|(id, _)| id.clone()).collect();
        let mut changes = Changes::new();
        if !late.is_empty() {
            self.fence(&late, &mut changes);
        }
        self.due = self.members.values().map(Member::deadline).min();
        changes
    }

    /// Removes members; what they had is free.
    fn fence(&mut self, ids: &[String], changes: &mut Changes) {
        for id in ids {
            let Some(member) = self.members.remove(id) else { continue };
            for at in member.held() {
                self.held.remove(&at);
            }
            if let Some(instance_id) = &member.about.instance_id {
                self.statics.remove(instance_id);
            }
            self.count_subscriptions(Some(&member), None, changes);
            self.count_classic(Some(&member.about), None);
            self.target.remove(id);
            changes.extend(Key::of_member(id));
        }
        if std::mem::take(&mut self.is_wanted_anew) {
            let topics = std::mem::take(&mut self.topics);
            self.topics = topics.into_iter().filter(|(name, _)| self.is_subscribed_to(name)).collect();
            self.topics_hash = hash(&self.topics);
        }
        self.advance(changes);
    }

    /// The next epoch of the group: the assignor must run.
    fn advance(&mut self, changes: &mut Changes) {
        self.epoch = self.epoch.saturating_add(1);
        changes.insert(Key::Epoch);
    }

    fn wake_at(&mut self, deadline: Duration) {
        self.due = Some(self.due.map_or(deadline, |due| due.min(deadline)));
    }

    /// Keeps the counts of who subscribes to what. An expression that nobody subscribes to is forgotten.
    fn count_subscriptions(&mut self, old: Option<&Member>, new: Option<&Member>, changes: &mut Changes) {
        for name in new.into_iter().flat_map(|member| &member.about.topics) {
            let count = self.names.entry(name.clone()).or_default();
            *count += 1;
            self.is_wanted_anew |= *count == 1;
        }
        for name in old.into_iter().flat_map(|member| &member.about.topics) {
            if let Some(count) = self.names.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.names.remove(name);
                    self.is_wanted_anew = true;
                }
            }
        }
        if let Some(pattern) = new.and_then(Member::pattern) {
            let resolved = self.patterns.entry(pattern.to_owned()).or_insert_with(|| Resolved {
                pattern: Pattern::new(pattern).ok(),
                members: 0,
                value: PatternValue::default(),
                is_resolved: false,
            });
            resolved.members += 1;
            self.is_wanted_anew |= resolved.members == 1;
        }
        if let Some(pattern) = old.and_then(Member::pattern)
            && let Some(resolved) = self.patterns.get_mut(pattern)
        {
            resolved.members -= 1;
            if resolved.members == 0 {
                self.patterns.remove(pattern);
                self.is_wanted_anew = true;
                changes.insert(Key::Pattern(pattern.to_owned()));
            }
        }
    }

    /// Keeps the counts of who speaks the classic protocol.
    fn count_classic(&mut self, old: Option<&MemberValue>, new: Option<&MemberValue>) {
        if let Some(classic) = new.and_then(|about| about.classic.as_ref()) {
            self.classics += 1;
            for name in classic.names() {
                *self.classic_protocols.entry(name.to_owned()).or_default() += 1;
            }
        }
        if let Some(classic) = old.and_then(|about| about.classic.as_ref()) {
            self.classics -= 1;
            for name in classic.names() {
                if let Some(count) = self.classic_protocols.get_mut(name) {
                    *count -= 1;
                    if *count == 0 {
                        self.classic_protocols.remove(name);
                    }
                }
            }
        }
    }

    /// What a member subscribes to, of the topics that there are.
    fn subscribed(&self, member: &Member) -> BTreeSet<TopicId> {
        let matched = member.pattern().and_then(|pattern| self.patterns.get(pattern));
        let matched = matched.into_iter().flat_map(|resolved| &resolved.value.topics);
        let names = member.about.topics.iter().chain(matched);
        names.filter_map(|name| self.topics.get(name)).map(|(id, _)| *id).collect()
    }

    /// The assignor that most members ask for, or the first that is configured.
    fn assignor(&self, config: &ConsumerConfig) -> Assignor {
        let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
        let asked =
            self.members.values().filter_map(|member| Assignor::of(member.about.assignor.as_deref()?));
        for assignor in asked.filter(|assignor| config.assignors.contains(assignor)) {
            *votes.entry(assignor).or_default() += 1;
        }
        let most = votes.into_iter().max_by_key(|(_, count)| *count).map(|(assignor, _)| assignor);
        most.or(config.assignors.first().copied()).unwrap_or(Assignor::Uniform)
    }

    /// Whether offsets may be committed, by whoever says so.
    pub(super) fn check_commit(&self, commit: &Commit) -> Result<(), GroupError> {
        if commit.generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        let member = self.members.get(&commit.member_id).ok_or(GroupError::UnknownMemberId)?;
        let stale = || member.other_epoch();
        if !commit.by_epoch && !member.is_classic() {
            return Err(GroupError::UnsupportedVersion(
                "OffsetCommit version 9 or above must be used by members using the consumer group protocol",
            ));
        }
        match commit.generation.cmp(&member.current.epoch) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(stale()),
            // KIP-1251: an epoch that is over is good for what the member has had since then.
            std::cmp::Ordering::Less => {
                let is_held = |topic: &str, partition| {
                    let since = self.topics.get(topic).and_then(|(id, _)| member.held_since(*id, partition));
                    since.is_some_and(|since| since <= commit.generation)
                };
                let all_held = commit.offsets.iter().all(|offset| is_held(&offset.topic, offset.partition));
                if all_held { Ok(()) } else { Err(stale()) }
            }
        }
    }

    /// Whether a member may read what is committed.
    pub(super) fn check_fetch(&self, member_id: &str, member_epoch: i32) -> Result<(), GroupError> {
        let member = self.members.get(member_id).ok_or(GroupError::UnknownMemberId)?;
        if member.current.epoch == member_epoch { Ok(()) } else { Err(member.other_epoch()) }
    }

    pub(super) fn describe(&self, config: &ConsumerConfig) -> DescribedConsumerGroup {
        let flat = |all: &Partitions| {
            all.iter().map(|(topic, all)| (*topic, all.iter().copied().collect())).collect::<Vec<_>>()
        };
        let members = self.members.iter().map(|(id, member)| DescribedConsumer {
            member_id: id.clone(),
            epoch: member.current.epoch,
            about: member.about.clone(),
            assigned: flat(&member.held_partitions()),
            target: self.target.get(id).map(flat).unwrap_or_default(),
        });
        DescribedConsumerGroup {
            state: self.state(),
            epoch: self.epoch,
            target_epoch: self.target_epoch,
            assignor: self.assignor(config).name(),
            members: members.collect(),
        }
    }
}

/// Tells one set of topics from another; stable, for it is stored (FNV-1a). 0 is no topics.
fn hash(topics: &BTreeMap<String, (TopicId, i32)>) -> i64 {
    let mut hash = if topics.is_empty() { 0 } else { 0xcbf2_9ce4_8422_2325_u64 };
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for (name, (id, count)) in topics {
        add(&(name.len() as u32).to_be_bytes());
        add(name.as_bytes());
        add(id.0.as_bytes());
        add(&count.to_be_bytes());
    }
    hash as i64
}
