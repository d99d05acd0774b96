//! Follows Kafka's `UniformAssignor`: balance first, then as few moves as possible.
//!
//! When all members read the same topics, each gets its quota, and keeps what it has up to that. Otherwise partitions go to
//! whoever has the fewest, topics with the most partitions per subscriber first, and are moved as long as that brings two
//! subscribers of one topic closer together.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_core::TopicId;

use super::super::record::Partitions;
use super::GroupView;

/// When subscriptions overlap, topics may pass partitions around for long; each round about halves what is out of balance.
const ROUNDS_MAX: usize = 16;

pub(super) fn assign(group: &GroupView<'_>) -> BTreeMap<String, Partitions> {
    let same = group.members.first().map(|first| &first.topics);
    match same {
        None => BTreeMap::new(),
        Some(topics) if group.members.iter().all(|member| member.topics == *topics) => {
            assign_same(group, topics)
        }
        Some(_) => Mixed::new(group).assign(),
    }
}

fn assign_same(group: &GroupView<'_>, topics: &BTreeSet<TopicId>) -> BTreeMap<String, Partitions> {
    let total: usize = topics.iter().map(|topic| group.partition_count(*topic).unsigned_abs() as usize).sum();
    let count = group.members.len();
    // So many members have one more than the least.
    let (least, mut longer) = (total / count, total % count);
    let mut free: BTreeSet<(TopicId, i32)> = topics
        .iter()
        .flat_map(|topic| (0..group.partition_count(*topic)).map(|partition| (*topic, partition)))
        .collect();
    let mut assigned = BTreeMap::new();
    let mut unfilled = Vec::new();
    for (index, member) in group.members.iter().enumerate() {
        let mut has_more = longer > 0;
        let mut room = least + usize::from(has_more);
        let mut kept = Partitions::new();
        for (topic, partition) in member.before.into_iter().flat_map(partitions_of) {
            // What is not free is of no topic, or damaged records give it to two.
            if room > 0 && free.remove(&(topic, partition)) {
                kept.entry(topic).or_default().insert(partition);
                room -= 1;
            }
        }
        assigned.insert(member.id.to_owned(), kept);
        // One more is for who has it already, as long as enough members are left to take what remains.
        if room > 0 && has_more && count - index > longer {
            room -= 1;
            has_more = false;
        }
        longer -= usize::from(has_more);
        if room > 0 {
            unfilled.push((member.id, room));
        }
    }
    let mut free = free.into_iter();
    for (id, room) in unfilled {
        let kept = assigned.get_mut(id).expect("every member was put in above");
        for (topic, partition) in free.by_ref().take(room) {
            kept.entry(topic).or_default().insert(partition);
        }
    }
    assert!(free.next().is_none(), "the quotas add up to all partitions");
    assigned
}

fn partitions_of(partitions: &Partitions) -> impl Iterator<Item = (TopicId, i32)> + '_ {
    partitions.iter().flat_map(|(topic, all)| all.iter().map(|partition| (*topic, *partition)))
}

/// Members with different subscriptions, by index.
struct Mixed<'a> {
    group: &'a GroupView<'a>,
    subscribers: BTreeMap<TopicId, Vec<usize>>,
    /// How many partitions each member has.
    loads: Vec<usize>,
    /// Who has each partition of a topic.
    owners: BTreeMap<TopicId, Vec<Option<usize>>>,
}

impl<'a> Mixed<'a> {
    fn new(group: &'a GroupView<'a>) -> Self {
        let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (index, member) in group.members.iter().enumerate() {
            for topic in member.topics.iter() {
                subscribers.entry(*topic).or_default().push(index);
            }
        }
        let count = |topic: &TopicId| group.partition_count(*topic).unsigned_abs() as usize;
        let owners = subscribers.keys().map(|topic| (*topic, vec![None; count(topic)])).collect();
        Self { group, subscribers, loads: vec![0; group.members.len()], owners }
    }

    fn assign(mut self) -> BTreeMap<String, Partitions> {
        self.keep();
        // Most partitions per subscriber first; then the topic with fewer subscribers, which has less choice.
        let mut topics: Vec<TopicId> = self.subscribers.keys().copied().collect();
        topics.sort_by(|one, other| {
            let of = |topic: &TopicId| (self.owners[topic].len(), self.subscribers[topic].len());
            let ((partitions, readers), (other_partitions, other_readers)) = (of(one), of(other));
            let per_reader = (other_partitions * readers).cmp(&(partitions * other_readers));
            per_reader.then(readers.cmp(&other_readers)).then(one.cmp(other))
        });
        for topic in &topics {
            self.fill(*topic);
        }
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            for topic in &topics {
                moved |= self.level(*topic);
            }
            if !moved {
                break;
            }
        }
        let ids = self.group.members.iter().map(|member| (member.id.to_owned(), Partitions::new()));
        let mut assigned: BTreeMap<String, Partitions> = ids.collect();
        for (topic, owners) in &self.owners {
            for (partition, owner) in (0..).zip(owners) {
                if let Some(owner) = owner
                    && let Some(all) = assigned.get_mut(self.group.members[*owner].id)
                {
                    all.entry(*topic).or_default().insert(partition);
                }
            }
        }
        assigned
    }

    /// What members had and still subscribe to.
    fn keep(&mut self) {
        for (index, member) in self.group.members.iter().enumerate() {
            for (topic, partition) in member.before.into_iter().flat_map(partitions_of) {
                let slot = self.owners.get_mut(&topic).filter(|_| member.topics.contains(&topic));
                let slot = slot.and_then(|all| all.get_mut(usize::try_from(partition).ok()?));
                if let Some(slot @ None) = slot {
                    *slot = Some(index);
                    self.loads[index] += 1;
                }
            }
        }
    }

    /// Gives the topic's free partitions to whoever has the fewest.
    fn fill(&mut self, topic: TopicId) {
        let Some(owners) = self.owners.get_mut(&topic) else { return };
        let ranked = ranked(&self.subscribers[&topic], &self.loads);
        let mut by_load: BTreeSet<(usize, usize)> =
            (0..).zip(&ranked).map(|(rank, index)| (self.loads[*index], rank)).collect();
        for owner in owners.iter_mut().filter(|owner| owner.is_none()) {
            let (load, rank) = by_load.pop_first().expect("a topic of the view has a subscriber");
            *owner = Some(ranked[rank]);
            self.loads[ranked[rank]] = load + 1;
            by_load.insert((load + 1, rank));
        }
    }

    /// Moves partitions of the topic from whoever has the most to whoever has the fewest. Whether any moved.
    fn level(&mut self, topic: TopicId) -> bool {
        let mut held: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (partition, owner) in self.owners[&topic].iter().enumerate() {
            if let Some(owner) = owner {
                held.entry(*owner).or_default().push(partition);
            }
        }
        let ranked = ranked(&self.subscribers[&topic], &self.loads);
        let mut by_load: BTreeSet<(usize, usize)> =
            (0..).zip(&ranked).map(|(rank, index)| (self.loads[*index], rank)).collect();
        // Who has nothing of the topic to give is out of this only as a giver.
        let mut givers: BTreeSet<(usize, usize)> =
            by_load.iter().filter(|(_, rank)| held.contains_key(&ranked[*rank])).copied().collect();
        let mut moved = false;
        while let (Some(&(most, from)), Some(&(fewest, to))) = (givers.last(), by_load.first()) {
            if most <= fewest + 1 {
                break;
            }
            let given = held.get_mut(&ranked[from]).expect("a giver has something to give");
            let partition = given.pop().expect("a giver has something to give");
            let is_empty = given.is_empty();
            if let Some(all) = self.owners.get_mut(&topic) {
                all[partition] = Some(ranked[to]);
            }
            (self.loads[ranked[from]], self.loads[ranked[to]]) = (most - 1, fewest + 1);
            givers.remove(&(most, from));
            by_load.remove(&(most, from));
            by_load.insert((most - 1, from));
            if !is_empty {
                givers.insert((most - 1, from));
            }
            by_load.remove(&(fewest, to));
            by_load.insert((fewest + 1, to));
            if givers.remove(&(fewest, to)) {
                givers.insert((fewest + 1, to));
            }
            moved = true;
        }
        moved
    }
}

/// Subscribers, those with the fewest partitions first: among equals, whoever had fewer at the beginning goes first.
fn ranked(subscribers: &[usize], loads: &[usize]) -> Vec<usize> {
    let mut ranked = subscribers.to_vec();
    ranked.sort_by_key(|index| (loads[*index], *index));
    ranked
}
