//! From one generation to the next, and what time does to a group.
//!
//! ```text
//!            first join                     all joined, or time is up
//!   Empty ───────────────▶ PreparingRebalance ───────────────▶ CompletingRebalance
//!     ▲                      │   ▲        ▲                        │
//!     └──────────────────────┘   │        └────────────────────────┤ somebody joins, leaves, dies
//!       nobody is left           └──────────── Stable ◀────────────┘ the leader's assignment is stored
//! ```

use bytes::Bytes;

use super::classic::{Group, InitialDelay};
use super::error::GroupError;
use super::event::{GroupState, Response};
use super::member::{Member, Then, Turn};

impl Group {
    /// After a member came or changed.
    pub(super) fn rebalance_or_complete_join(&mut self, turn: &mut Turn<'_>) {
        if self.state == GroupState::PreparingRebalance {
            self.complete_join_if_all_joined(turn);
        } else {
            self.prepare_rebalance(turn);
        }
    }

    /// After a member went. An empty group has none to go.
    pub(super) fn member_left(&mut self, turn: &mut Turn<'_>) {
        if self.state != GroupState::Empty {
            self.rebalance_or_complete_join(turn);
        }
    }

    pub(super) fn prepare_rebalance(&mut self, turn: &mut Turn<'_>) {
        if self.state == GroupState::CompletingRebalance {
            self.reset_assignments(&GroupError::RebalanceInProgress, turn);
        }
        self.unsynced.clear();
        self.sync_deadline = None;
        self.assigning = false;
        let is_initial = self.state == GroupState::Empty;
        self.enter(GroupState::PreparingRebalance, turn.now);

        let delay = turn.config.initial_rebalance_delay;
        if is_initial && !delay.is_zero() {
            let remaining = self.rebalance_timeout().saturating_sub(delay);
            self.initial = Some(InitialDelay { current: delay, remaining, grown: false });
            self.join_deadline = Some(turn.now.monotonic + delay);
        } else if is_initial || self.members.is_empty() || self.all_joined() {
            self.complete_join(turn);
        } else {
            self.join_deadline = Some(turn.now.monotonic + self.rebalance_timeout());
        }
    }

    pub(super) fn complete_join_if_all_joined(&mut self, turn: &mut Turn<'_>) {
        let is_gathering = self.state == GroupState::PreparingRebalance && self.initial.is_none();
        if is_gathering && self.all_joined() {
            self.complete_join(turn);
        }
    }

    /// Begins the next generation with those that have joined, and with static members, which may be restarting.
    fn complete_join(&mut self, turn: &mut Turn<'_>) {
        self.join_deadline = None;
        self.initial = None;
        self.remove_where(turn, |member| member.join.is_none() && member.instance_id.is_none());
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Only static members are left, and none has joined: wait until their sessions end.
            self.join_deadline = Some(turn.now.monotonic + self.rebalance_timeout());
            return;
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = self.select_protocol();
        self.topics = self.subscribed_topics();
        if self.members.is_empty() {
            self.enter(GroupState::Empty, turn.now);
            // If this is lost, the members of the last generation come back after a restart, and time out.
            let record = self.record(turn.group_id, |_, _| Bytes::new());
            return turn.store(vec![record], Then::Nothing);
        }
        self.enter(GroupState::CompletingRebalance, turn.now);
        self.unsynced = self.members.keys().cloned().collect();
        self.sync_deadline = Some(turn.now.monotonic + self.rebalance_timeout());
        let answers: Vec<_> = self.members.keys().map(|id| self.joined(id)).collect();
        let mut answers = answers.into_iter();
        self.members.change_all(|_, member| {
            member.is_new = false;
            member.heard_of(turn.now);
            let joined = answers.next().expect("there is one for each of them");
            member.answer_join(Response::Join(Ok(joined)), turn);
        });
    }

    /// The leader, if it has joined, or else any member that has.
    fn elect_joined_leader(&mut self) -> bool {
        let joined = |id: &String| self.members.get(id).is_some_and(|member| member.join.is_some());
        let leader =
            self.leader.take().filter(joined).or_else(|| self.members.keys().find(|id| joined(id)).cloned());
        let found = leader.is_some();
        self.leader = leader.or_else(|| self.members.keys().next().cloned());
        found
    }

    /// Takes the assignments back, and tells those that wait for one.
    pub(super) fn reset_assignments(&mut self, error: &GroupError, turn: &mut Turn<'_>) {
        self.members.change_all(|_, member| {
            member.assignment = Bytes::new();
            member.answer_sync(Err(error.clone()), turn);
        });
    }

    /// Everything that is due.
    pub(super) fn expire(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.monotonic;
        let promised_before = self.promised.len();
        self.promised.retain(|_, deadline| *deadline > now);
        self.promised_due = self.promised.values().copied().min();
        if self.promised.len() < promised_before {
            self.complete_join_if_all_joined(turn);
        }
        self.members.change_all(|_, member| {
            if member.waits() && member.session_deadline.is_some_and(|deadline| deadline <= now) {
                member.session_deadline = None;
            }
        });
        if self.remove_where(turn, |member| member.session_deadline.is_some_and(|deadline| deadline <= now)) {
            self.member_left(turn);
        }
        if self.join_deadline.is_some_and(|deadline| deadline <= now) && !self.extend_initial_delay(turn) {
            self.complete_join(turn);
        }
        if self.sync_deadline.is_some_and(|deadline| deadline <= now) {
            self.sync_deadline = None;
            if !self.unsynced.is_empty() {
                for member_id in std::mem::take(&mut self.unsynced) {
                    self.remove(&member_id, turn);
                }
                self.prepare_rebalance(turn);
            }
        }
        self.members.find_due();
    }

    fn extend_initial_delay(&mut self, turn: &Turn<'_>) -> bool {
        let Some(initial) = &mut self.initial else { return false };
        if !initial.grown || initial.remaining.is_zero() {
            return false;
        }
        let next = turn.config.initial_rebalance_delay.min(initial.remaining);
        initial.remaining = initial.remaining.saturating_sub(initial.current);
        initial.current = next;
        initial.grown = false;
        self.join_deadline = Some(turn.now.monotonic + next);
        true
    }

    /// Whether any was removed.
    pub(super) fn remove_where(&mut self, turn: &mut Turn<'_>, gone: impl Fn(&Member) -> bool) -> bool {
        let ids: Vec<String> =
            self.members.iter().filter(|(_, member)| gone(member)).map(|(id, _)| id.clone()).collect();
        for member_id in &ids {
            self.remove(member_id, turn);
        }
        !ids.is_empty()
    }
}
