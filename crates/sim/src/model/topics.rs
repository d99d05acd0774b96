//! What topics there must be.

use std::collections::BTreeMap;

use anabranch_core::TopicId;

/// Whether a topic is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is.
    There,
    /// It is not, and will not be.
    Gone,
    /// Somebody asked for it to come or go, and was not answered, or not clearly: the next start will tell.
    Unclear,
}

/// One topic. One that is created later under the same name is another.
#[derive(Debug)]
pub(crate) struct TopicModel {
    pub(crate) name: String,
    pub(crate) id: Option<TopicId>,
    pub(crate) fate: Fate,
    /// What it has, and what it may have once a change that was asked for is answered.
    pub(crate) partitions: (i32, i32),
    pub(crate) configs: BTreeMap<String, String>,
    pub(crate) configs_asked: Option<BTreeMap<String, String>>,
    /// `flush.messages` is more than 1.
    pub(crate) relaxed: bool,
    /// The broker deletes its old records by itself.
    pub(crate) expires: bool,
    /// Nobody may delete its records by hand.
    pub(crate) compacted: bool,
    /// Of each key the newest record counts; tombstones stay for so long, ms.
    pub(crate) table: Option<i64>,
    /// A change of it is under way.
    pub(crate) busy: bool,
}
