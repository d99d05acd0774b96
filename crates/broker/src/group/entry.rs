//! What is kept under one group id: a group of either protocol, and the offsets, which outlive it.

use std::time::Duration;

use super::event::{DescribedGroup, GroupKind, GroupState, Now, StoreToken};
use super::member::{Then, Turn};
use super::offsets::Offsets;
use super::record::GroupRecord;
use super::{classic, consumer};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) offsets: Offsets,
    /// The deadline under which [`super::Groups`] finds the group.
    pub(super) indexed: Option<Duration>,
    /// The newest store of the group's own records in the consumer protocol.
    pub(super) last_store: Option<StoreToken>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Classic(Box<classic::Group>),
    Consumer(Box<consumer::Group>),
}

impl Entry {
    /// Nobody has joined it, and nothing is committed.
    pub(super) fn new(now: Now) -> Self {
        Self::of(Kind::Classic(Box::new(classic::Group::new(now))), Offsets::default())
    }

    pub(super) fn of(kind: Kind, offsets: Offsets) -> Self {
        Self { kind, offsets, indexed: None, last_store: None }
    }

    pub(super) fn classic(&self) -> Option<&classic::Group> {
        match &self.kind {
            Kind::Classic(group) => Some(group),
            Kind::Consumer(_) => None,
        }
    }

    pub(super) fn classic_mut(&mut self) -> Option<&mut classic::Group> {
        match &mut self.kind {
            Kind::Classic(group) => Some(group),
            Kind::Consumer(_) => None,
        }
    }

    pub(super) fn consumer(&self) -> Option<&consumer::Group> {
        match &self.kind {
            Kind::Classic(_) => None,
            Kind::Consumer(group) => Some(group),
        }
    }

    pub(super) fn consumer_mut(&mut self) -> Option<&mut consumer::Group> {
        match &mut self.kind {
            Kind::Classic(_) => None,
            Kind::Consumer(group) => Some(group),
        }
    }

    pub(super) fn listed_kind(&self) -> GroupKind {
        match &self.kind {
            Kind::Classic(_) => GroupKind::Classic,
            Kind::Consumer(_) => GroupKind::Consumer,
        }
    }

    pub(super) fn state_name(&self) -> &'static str {
        match &self.kind {
            Kind::Classic(group) => group.state.name(),
            Kind::Consumer(group) => group.state().name(),
        }
    }

    /// Whether it has no members.
    pub(super) fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Classic(group) => group.state == GroupState::Empty,
            Kind::Consumer(group) => group.is_idle(),
        }
    }

    pub(super) fn protocol_type(&self) -> &str {
        match &self.kind {
            Kind::Classic(group) => group.protocol_type.as_deref().unwrap_or_default(),
            Kind::Consumer(_) => classic::CONSUMER,
        }
    }

    /// As DescribeGroups shows it.
    pub(super) fn describe(&self) -> Option<DescribedGroup> {
        self.classic().map(classic::Group::describe)
    }

    /// Whether it becomes a group of the other protocol without anybody's noticing.
    pub(super) fn is_free(&self) -> bool {
        match &self.kind {
            Kind::Classic(group) => group.is_idle(),
            Kind::Consumer(group) => group.is_idle(),
        }
    }

    /// Whether nothing would be lost if the group were gone.
    pub(super) fn is_idle(&self) -> bool {
        self.is_free() && self.offsets.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        match &self.kind {
            Kind::Classic(group) => group.next_deadline(),
            Kind::Consumer(group) => group.next_deadline(),
        }
    }

    /// Everything that is due.
    pub(super) fn expire(&mut self, turn: &mut Turn<'_>) {
        match &mut self.kind {
            Kind::Classic(group) => group.expire(turn),
            Kind::Consumer(group) => {
                let changes = group.expire(turn.now);
                let records = group.records(turn.group_id, changes, turn.is_settled);
                if !records.is_empty() {
                    turn.store(records, Then::Nothing);
                }
            }
        }
    }

    /// Deletes what is stored of the group, without its offsets.
    pub(super) fn tombstones(&self, group_id: &str) -> Vec<GroupRecord> {
        match &self.kind {
            Kind::Classic(_) => vec![GroupRecord::Group { group: group_id.to_owned(), value: None }],
            Kind::Consumer(group) => group.tombstones(group_id),
        }
    }

    /// Its records were deleted while somebody was coming in: it is as new.
    pub(super) fn forget(&mut self) {
        match &mut self.kind {
            Kind::Classic(group) => group.forget(),
            // Whoever comes stores all that it is.
            Kind::Consumer(_) => {}
        }
    }
}
