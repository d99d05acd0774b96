//! Who shall have what: the assignors of the coordinator. Pure functions of members, topics and what was assigned before.

mod range;
#[cfg(test)]
mod tests;
mod uniform;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anabranch_core::TopicId;

use super::record::Partitions;

/// One of `group.consumer.assignors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assignor {
    /// Each topic cut into ranges, so that partitions of one number stay together.
    Range,
    /// As many partitions for each as for the others, and as few moves as that allows.
    Uniform,
}

impl Assignor {
    /// As `group.consumer.assignors` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::Uniform => "uniform",
        }
    }

    /// The assignor of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::Range, Self::Uniform].into_iter().find(|assignor| assignor.name() == name)
    }

    /// Every member is in the result, each partition once, with a member that subscribes to its topic, if any does.
    pub(super) fn assign(self, group: &GroupView<'_>) -> BTreeMap<String, Partitions> {
        match self {
            Self::Range => range::assign(group),
            Self::Uniform => uniform::assign(group),
        }
    }
}

/// What an assignor looks at.
pub(super) struct GroupView<'a> {
    /// By id.
    pub(super) members: Vec<Subscriber<'a>>,
    /// How many partitions each topic has.
    pub(super) topics: &'a BTreeMap<TopicId, i32>,
}

pub(super) struct Subscriber<'a> {
    pub(super) id: &'a str,
    pub(super) instance_id: Option<&'a str>,
    /// Of the topics that there are.
    pub(super) topics: Arc<BTreeSet<TopicId>>,
    /// What it was to have until now.
    pub(super) before: Option<&'a Partitions>,
}

impl GroupView<'_> {
    fn partition_count(&self, topic: TopicId) -> i32 {
        self.topics.get(&topic).copied().unwrap_or_default()
    }
}
