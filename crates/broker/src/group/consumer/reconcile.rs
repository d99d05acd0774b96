//! How a member gets from what it has to what it shall have (KIP-848, "Assignment Process"). Follows Kafka's
//! `CurrentAssignmentBuilder`.
//!
//! ```text
//!                 target has less                        all of it given up
//!      Stable ─────────────────────▶ UnrevokedPartitions ─────────────────┐
//!        ▲ ▲                              (old epoch)                     │
//!        │ └─────────────── all granted ──────────────────────────────────┤ takes the target's epoch
//!        └── the rest is free ── UnreleasedPartitions ◀── some of it is ──┘
//!                                                         another's still
//! ```

use std::collections::BTreeSet;

use anabranch_core::TopicId;

use super::member::{Member, State};
use super::record::{CurrentValue, Held, Partitions};

/// What a member says it has, if it says so.
pub(super) type Owned<'a> = Option<&'a [(TopicId, Vec<i32>)]>;

/// Where a member is to go.
pub(super) struct Goal<'a> {
    pub(super) epoch: i32,
    pub(super) partitions: &'a Partitions,
    /// The topics that it subscribes to now: partitions of others are taken from it, whatever the target says.
    pub(super) subscribed: &'a BTreeSet<TopicId>,
    /// Whether the subscription changed since the target was computed for.
    pub(super) is_resubscribed: bool,
}

impl Member {
    /// The next step, or `None` if it must stay where it is. `is_taken` says whether anybody has a partition.
    pub(super) fn step(
        &self,
        goal: &Goal<'_>,
        owned: Owned<'_>,
        is_taken: impl Fn(TopicId, i32) -> bool,
    ) -> Option<CurrentValue> {
        let now = &self.current;
        match now.state {
            State::Stable if now.epoch != goal.epoch => Some(self.next(now.epoch, goal, owned, is_taken)),
            State::Stable => self.give_up_unsubscribed(goal, owned),
            State::UnrevokedPartitions if has_any(owned, &now.revoking) => {
                self.give_up_unsubscribed(goal, owned)
            }
            // It may be here because it changed its subscription, for which there may be no target yet.
            State::UnrevokedPartitions => {
                Some(self.next(goal.epoch.min(now.epoch + 1), goal, owned, is_taken))
            }
            State::UnreleasedPartitions => Some(self.next(now.epoch, goal, owned, is_taken)),
        }
        .filter(|next| next != now)
    }

    fn next(
        &self,
        epoch: i32,
        goal: &Goal<'_>,
        owned: Owned<'_>,
        is_taken: impl Fn(TopicId, i32) -> bool,
    ) -> CurrentValue {
        let now = &self.current;
        let target = |topic: &TopicId| goal.partitions.get(topic).filter(|_| goal.subscribed.contains(topic));
        let is_target =
            |topic: &TopicId, partition: &i32| target(topic).is_some_and(|all| all.contains(partition));
        let kept = filter(&now.assigned, is_target);
        let revoked = filter(&now.assigned, |topic, partition| !is_target(topic, partition));
        if !revoked.is_empty() && has_any(owned, &revoked) {
            return CurrentValue {
                epoch,
                previous_epoch: now.epoch,
                state: State::UnrevokedPartitions,
                assigned: kept,
                revoking: revoked,
            };
        }
        let (mut assigned, mut state) = (kept, State::Stable);
        for (topic, partition) in goal
            .partitions
            .iter()
            .flat_map(|(topic, all)| all.iter().map(move |partition| (topic, partition)))
        {
            if !goal.subscribed.contains(topic)
                || assigned.get(topic).is_some_and(|kept| kept.contains_key(partition))
            {
                continue;
            }
            let was_ours = now.revoking.get(topic).is_some_and(|ours| ours.contains_key(partition));
            if is_taken(*topic, *partition) && !was_ours {
                state = State::UnreleasedPartitions;
            } else {
                assigned.entry(*topic).or_default().insert(*partition, goal.epoch);
            }
        }
        CurrentValue { epoch: goal.epoch, previous_epoch: now.epoch, state, assigned, revoking: Held::new() }
    }

    /// What belongs to no topic of the subscription goes at once, before there is a target for it.
    fn give_up_unsubscribed(&self, goal: &Goal<'_>, owned: Owned<'_>) -> Option<CurrentValue> {
        let now = &self.current;
        if !goal.is_resubscribed || now.assigned.keys().all(|topic| goal.subscribed.contains(topic)) {
            return None;
        }
        let mut next = now.clone();
        next.assigned.retain(|topic, _| goal.subscribed.contains(topic));
        for (topic, partitions) in &now.assigned {
            if !goal.subscribed.contains(topic) {
                next.revoking.entry(*topic).or_default().extend(partitions);
            }
        }
        if has_any(owned, &next.revoking) {
            next.state = State::UnrevokedPartitions;
        } else {
            next.revoking = Held::new();
        }
        Some(next)
    }
}

/// Whether the member has any of `held`; one that does not say may have it.
fn has_any(owned: Owned<'_>, held: &Held) -> bool {
    let Some(owned) = owned else { return true };
    owned.iter().any(|(topic, partitions)| {
        held.get(topic).is_some_and(|held| partitions.iter().any(|partition| held.contains_key(partition)))
    })
}

fn filter(held: &Held, stays: impl Fn(&TopicId, &i32) -> bool) -> Held {
    let mut filtered = Held::new();
    for (topic, partitions) in held {
        let left = partitions.iter().filter(|(partition, _)| stays(topic, partition));
        let left: std::collections::BTreeMap<i32, i32> =
            left.map(|(partition, epoch)| (*partition, *epoch)).collect();
        if !left.is_empty() {
            filtered.insert(*topic, left);
        }
    }
    filtered
}
