//! From the log back to a group.
//!
//! A store that was under way, or had failed, when the broker stopped may be missing while a later one is there. Nobody was
//! told of either, so that whatever does not fit together is undone in favour of what is older:
//!
//! * A partition of two members belongs to the one that got it in the older epoch: the newer one rests on the older giving it
//!   up, which the log does not have.
//! * A member, or a target, of a later epoch than the target's moves the group beyond it, so that no epoch means two things.

use std::collections::BTreeMap;

use anabranch_core::TopicId;

use super::member::Member;
use super::record::{
    ConsumerRecord, CurrentValue, EpochValue, Held, MemberValue, PatternValue, TargetEpochValue, TargetValue,
};
use super::{Changes, Group, INITIAL_EPOCH, Key, LEFT_FOR_A_WHILE};
use crate::group::config::ConsumerConfig;
use crate::group::event::Now;

/// The records of a group; of each key, the last.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    epoch: Option<EpochValue>,
    target_epoch: Option<TargetEpochValue>,
    members: BTreeMap<String, MemberValue>,
    targets: BTreeMap<String, TargetValue>,
    currents: BTreeMap<String, CurrentValue>,
    patterns: BTreeMap<String, PatternValue>,
}

impl Stored {
    pub(crate) fn apply(&mut self, record: ConsumerRecord) {
        fn put<V>(all: &mut BTreeMap<String, V>, key: String, value: Option<V>) {
            match value {
                Some(value) => all.insert(key, value),
                None => all.remove(&key),
            };
        }
        match record {
            ConsumerRecord::Epoch(value) => self.epoch = value,
            ConsumerRecord::TargetEpoch(value) => self.target_epoch = value,
            ConsumerRecord::Member(id, value) => put(&mut self.members, id, value.map(|value| *value)),
            ConsumerRecord::Target(id, value) => put(&mut self.targets, id, value),
            ConsumerRecord::Current(id, value) => put(&mut self.currents, id, value),
            ConsumerRecord::Pattern(pattern, value) => put(&mut self.patterns, pattern, value),
        }
    }

    /// Whether there is anything of it.
    pub(crate) fn is_empty(&self) -> bool {
        self.epoch.is_none() && self.members.is_empty()
    }

    /// What there is of it.
    pub(crate) fn keys(&self) -> Changes {
        let mut keys = Changes::new();
        keys.extend(self.epoch.map(|_| Key::Epoch));
        keys.extend(self.target_epoch.map(|_| Key::TargetEpoch));
        keys.extend(self.members.keys().cloned().map(Key::Member));
        keys.extend(self.targets.keys().cloned().map(Key::Target));
        keys.extend(self.currents.keys().cloned().map(Key::Current));
        keys.extend(self.patterns.keys().cloned().map(Key::Pattern));
        keys
    }
}

impl Group {
    /// The group as it was, with sessions that begin now. `leftovers` are in the log, and nothing of it; `topics` are all that
    /// there are.
    pub(crate) fn restored(
        stored: Stored,
        leftovers: Changes,
        topics: &BTreeMap<String, (TopicId, i32)>,
        config: &ConsumerConfig,
        now: Now,
    ) -> Self {
        let Stored { epoch, target_epoch, members, targets, mut currents, patterns } = stored;
        let mut group = Self {
            epoch: epoch.map_or(INITIAL_EPOCH, |value| value.epoch),
            topics_hash: epoch.map_or(0, |value| value.topics_hash),
            target_epoch: target_epoch.map_or(INITIAL_EPOCH, |value| value.epoch),
            computed_ms: target_epoch.map_or(0, |value| value.computed_ms),
            ..Self::new()
        };
        let mut changes = leftovers;
        for (id, about) in members {
            let mut member = Member { about, ..Member::new(now.monotonic) };
            member.session_deadline += member.session_timeout(config);
            if let Some(current) = currents.remove(&id) {
                member.current = current;
            }
            group.count_subscriptions(None, Some(&member), &mut changes);
            group.count_classic(None, Some(&member.about));
            let twin = match &member.about.instance_id {
                Some(instance_id) => group.statics.insert(instance_id.clone(), id.clone()),
                None => None,
            };
            group.members.insert(id.clone(), member);
            if let Some(twin) = twin {
                group.keep_older_twin(id, twin, &mut changes);
            }
        }
        changes.extend(currents.into_keys().map(Key::Current));
        for (id, target) in targets {
            if group.members.contains_key(&id) {
                group.target.insert(id, target.partitions);
            } else {
                changes.insert(Key::Target(id));
            }
        }
        for (pattern, value) in patterns {
            match group.patterns.get_mut(&pattern) {
                Some(resolved) => (resolved.value, resolved.is_resolved) = (value, true),
                None => {
                    changes.insert(Key::Pattern(pattern));
                }
            }
        }
        // Whether they have changed meanwhile, the first look tells by their hash.
        let known = topics.iter().filter(|(name, _)| group.is_subscribed_to(name));
        group.topics = known.map(|(name, topic)| (name.clone(), *topic)).collect();
        let took_back = group.one_owner_each(&mut changes);
        let newest = group.members.values().map(|member| member.current.epoch).max().unwrap_or(0);
        if took_back || newest > group.target_epoch || group.target_epoch > group.epoch {
            group.epoch = group.epoch.max(group.target_epoch).max(newest);
            group.advance(&mut changes);
        }
        for member in group.members.values_mut() {
            if !member.current.revoking.is_empty() && !member.is_classic() {
                member.revocation_deadline = Some(now.monotonic + member.rebalance_timeout());
            }
        }
        group.due = (!group.members.is_empty()).then_some(now.monotonic);
        // Deadlines are in the future: the first look finds which is next.
        group.expire(now);
        group.unstored = changes;
        group
    }

    /// Half of a replacement of a static member: who had left stays, and who came was told nothing, and comes again.
    fn keep_older_twin(&mut self, one: String, other: String, changes: &mut Changes) {
        let has_left =
            |id: &String| self.members.get(id).is_some_and(|member| member.current.epoch == LEFT_FOR_A_WHILE);
        let (older, newer) = if has_left(&one) { (one, other) } else { (other, one) };
        let Some(newer_member) = self.members.remove(&newer) else { return };
        self.count_subscriptions(Some(&newer_member), None, changes);
        self.count_classic(Some(&newer_member.about), None);
        self.statics.extend(newer_member.about.instance_id.map(|instance_id| (instance_id, older)));
        changes.extend(Key::of_member(&newer));
    }

    /// Takes partitions back from whoever got them last, where two have them; whether there were any.
    fn one_owner_each(&mut self, changes: &mut Changes) -> bool {
        let mut claims: Vec<_> = self
            .members
            .iter()
            .flat_map(|(id, member)| {
                let since = |at: &(_, _)| member.held_since(at.0, at.1).unwrap_or_default();
                member.held().map(move |at| (since(&at), id.clone(), at))
            })
            .collect();
        claims.sort();
        let mut took_back = false;
        for (_, id, at) in claims {
            if self.held.insert(at) {
                continue;
            }
            took_back = true;
            let Some(member) = self.members.get_mut(&id) else { continue };
            for held in [&mut member.current.assigned, &mut member.current.revoking] {
                take(held, at);
            }
            changes.insert(Key::Current(id));
        }
        let owned = self.members.values().map(|member| member.held().count()).sum::<usize>();
        assert_eq!(owned, self.held.len(), "every partition that is held has one member");
        took_back
    }
}

fn take(held: &mut Held, (topic, partition): (TopicId, i32)) {
    if let Some(partitions) = held.get_mut(&topic) {
        partitions.remove(&partition);
        if partitions.is_empty() {
            held.remove(&topic);
        }
    }
}
