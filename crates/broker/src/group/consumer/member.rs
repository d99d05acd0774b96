//! A member of a group in the consumer protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anabranch_core::TopicId;

use super::record::{CurrentValue, Held, MemberValue, Partitions};
use crate::group::config::ConsumerConfig;
use crate::group::error::GroupError;

/// How far a member is on the way to its target. The numbers are Kafka's (`MemberState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub(crate) enum State {
    /// It has what it shall have, as of its epoch.
    Stable = 1,
    /// It has not given up yet what it must.
    UnrevokedPartitions = 2,
    /// It waits for what others have not given up.
    UnreleasedPartitions = 3,
}

impl State {
    pub(super) fn of(number: i8) -> Option<Self> {
        [Self::Stable, Self::UnrevokedPartitions, Self::UnreleasedPartitions]
            .into_iter()
            .find(|state| *state as i8 == number)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) about: MemberValue,
    pub(super) current: CurrentValue,
    pub(super) session_deadline: Duration,
    /// Until when it may take to give up what it must; not of a classic member, which has the two below.
    pub(super) revocation_deadline: Option<Duration>,
    /// Until when a classic member that must join again may take.
    pub(super) join_deadline: Option<Duration>,
    /// And one that has joined, to ask for its assignment.
    pub(super) sync_deadline: Option<Duration>,
}

impl Member {
    pub(super) fn new(session_deadline: Duration) -> Self {
        let current = CurrentValue {
            epoch: 0,
            previous_epoch: 0,
            state: State::Stable,
            assigned: Held::new(),
            revoking: Held::new(),
        };
        let about = MemberValue { rebalance_timeout_ms: -1, ..MemberValue::default() };
        Self {
            about,
            current,
            session_deadline,
            revocation_deadline: None,
            join_deadline: None,
            sync_deadline: None,
        }
    }

    pub(super) fn is_classic(&self) -> bool {
        self.about.classic.is_some()
    }

    /// What it is told that speaks of another epoch than its own.
    pub(super) fn other_epoch(&self) -> GroupError {
        if self.is_classic() { GroupError::IllegalGeneration } else { GroupError::StaleMemberEpoch }
    }

    /// When it is sent away, whichever comes first.
    pub(super) fn deadline(&self) -> Duration {
        let others = [self.revocation_deadline, self.join_deadline, self.sync_deadline];
        others.into_iter().flatten().fold(self.session_deadline, Duration::min)
    }

    /// Nothing is awaited of it.
    pub(super) fn forget_deadlines(&mut self) {
        (self.revocation_deadline, self.join_deadline, self.sync_deadline) = (None, None, None);
    }

    pub(super) fn session_timeout(&self, config: &ConsumerConfig) -> Duration {
        self.about
            .classic
            .as_ref()
            .map_or(config.session_timeout, |classic| millis(classic.session_timeout_ms))
    }

    /// The regular expression that it subscribes to; the empty one is none.
    pub(super) fn pattern(&self) -> Option<&str> {
        self.about.pattern.as_deref().filter(|pattern| !pattern.is_empty())
    }

    pub(super) fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.current.state == State::Stable && self.current.epoch == epoch
    }

    /// Everything that nobody else may have: it reads it, or has not given it up.
    pub(super) fn held(&self) -> impl Iterator<Item = (TopicId, i32)> + '_ {
        [&self.current.assigned, &self.current.revoking].into_iter().flat_map(partitions_of)
    }

    /// The same by topic.
    pub(super) fn held_partitions(&self) -> Partitions {
        let mut all = Partitions::new();
        for (topic, partition) in self.held() {
            all.entry(topic).or_default().insert(partition);
        }
        all
    }

    /// The epoch in which it got the partition, if it still has it.
    pub(super) fn held_since(&self, topic: TopicId, partition: i32) -> Option<i32> {
        let held = [&self.current.assigned, &self.current.revoking];
        held.into_iter().find_map(|held| held.get(&topic)?.get(&partition).copied())
    }

    pub(super) fn rebalance_timeout(&self) -> Duration {
        millis(self.about.rebalance_timeout_ms)
    }
}

/// At least one millisecond, so that every deadline lies ahead of the moment that sets it.
fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::from(ms.max(1).unsigned_abs()))
}

pub(super) fn partitions_of(held: &Held) -> impl Iterator<Item = (TopicId, i32)> + '_ {
    held.iter().flat_map(|(topic, partitions)| partitions.keys().map(|partition| (*topic, *partition)))
}

pub(super) fn without_epochs(held: &Held) -> BTreeMap<TopicId, BTreeSet<i32>> {
    held.iter().map(|(topic, partitions)| (*topic, partitions.keys().copied().collect())).collect()
}
