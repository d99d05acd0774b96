//! What is kept under one group id: a group of either protocol, and the offsets, which outlive it.

use std::time::Duration;

use super::classic;
use super::event::{DescribedGroup, GroupState, Now, StoreToken};
use super::member::Turn;
use super::offsets::Offsets;
use super::record::GroupRecord;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) offsets: Offsets,
    /// The deadline under which [`super::Groups`] finds the group.
    pub(super) indexed: Option<Duration>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Classic(Box<classic::Group>),
}

impl Entry {
    /// Nobody has joined it, and nothing is committed.
    pub(super) fn new(now: Now) -> Self {
        Self::of(Kind::Classic(Box::new(classic::Group::new(now))), Offsets::default())
    }

    pub(super) fn of(kind: Kind, offsets: Offsets) -> Self {
        Self { kind, offsets, indexed: None }
    }

    pub(super) fn classic(&self) -> Option<&classic::Group> {
        match &self.kind {
            Kind::Classic(group) => Some(group),
        }
    }

    pub(super) fn classic_mut(&mut self) -> Option<&mut classic::Group> {
        match &mut self.kind {
            Kind::Classic(group) => Some(group),
        }
    }

    pub(super) fn state(&self) -> GroupState {
        match &self.kind {
            Kind::Classic(group) => group.state,
        }
    }

    pub(super) fn protocol_type(&self) -> &str {
        match &self.kind {
            Kind::Classic(group) => group.protocol_type.as_deref().unwrap_or_default(),
        }
    }

    /// As DescribeGroups shows it.
    pub(super) fn describe(&self) -> Option<DescribedGroup> {
        self.classic().map(classic::Group::describe)
    }

    /// Whether nothing would be lost if the group were gone.
    pub(super) fn is_idle(&self) -> bool {
        let is_idle = match &self.kind {
            Kind::Classic(group) => group.is_idle(),
        };
        is_idle && self.offsets.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        match &self.kind {
            Kind::Classic(group) => group.next_deadline(),
        }
    }

    /// Everything that is due.
    pub(super) fn expire(&mut self, turn: &mut Turn<'_>) {
        match &mut self.kind {
            Kind::Classic(group) => group.expire(turn),
        }
    }

    /// Deletes what is stored of the group, without its offsets.
    pub(super) fn tombstones(&self, group_id: &str) -> Vec<GroupRecord> {
        match &self.kind {
            Kind::Classic(_) => vec![GroupRecord::Group { group: group_id.to_owned(), value: None }],
        }
    }

    /// Its records were deleted while somebody was coming in: it is as new.
    pub(super) fn forget(&mut self) {
        match &mut self.kind {
            Kind::Classic(group) => group.forget(),
        }
    }
}
