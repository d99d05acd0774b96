//! What goes into a group of the consumer protocol, and what comes out of it.

use anabranch_core::TopicId;

use super::record::MemberValue;
use crate::group::event::ConsumerState;

/// The topics that there are at one moment.
pub trait Topics {
    /// Changes whenever they do, and is never the same for two of them.
    fn version(&self) -> u64;
    /// The topic of that name, and how many partitions it has.
    fn get(&self, name: &str) -> Option<(TopicId, i32)>;
    /// All their names.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;
}

/// ConsumerGroupHeartbeat. What is `None` is as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerHeartbeat {
    /// The group.
    pub group: String,
    /// Chosen by the member, or by the coordinator where it is empty.
    pub member_id: String,
    /// Whether the member chooses its id (ConsumerGroupHeartbeat 1 and above).
    pub chooses_id: bool,
    /// 0 to join, -1 to leave, -2 to leave as a static member that will be back; else as it was told.
    pub member_epoch: i32,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// Where it runs.
    pub rack_id: Option<String>,
    /// How long it may take to give partitions up; -1: as it was.
    pub rebalance_timeout_ms: i32,
    /// What it wants to read.
    pub topics: Option<Vec<String>>,
    /// What it wants to read, by regular expression.
    pub pattern: Option<String>,
    /// Who shall assign.
    pub assignor: Option<String>,
    /// What it has.
    pub owned: Option<Vec<(TopicId, Vec<i32>)>>,
    /// As the client calls itself.
    pub client_id: String,
    /// Its address, as the describe request shows it (Kafka: `/127.0.0.1`).
    pub client_host: String,
}

/// The answer to a [`ConsumerHeartbeat`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Its id.
    pub member_id: String,
    /// What it must say next.
    pub member_epoch: i32,
    /// How often.
    pub heartbeat_interval_ms: i32,
    /// What it shall read from now on; `None`: as before.
    pub assignment: Option<Vec<(TopicId, Vec<i32>)>>,
}

/// A group, described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedConsumerGroup {
    /// Its state.
    pub state: ConsumerState,
    /// Its epoch.
    pub epoch: i32,
    /// The epoch of the newest target.
    pub target_epoch: i32,
    /// Who assigns.
    pub assignor: &'static str,
    /// By member id.
    pub members: Vec<DescribedConsumer>,
}

/// A member, described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedConsumer {
    /// Its id.
    pub member_id: String,
    /// Its epoch.
    pub epoch: i32,
    /// What it said of itself.
    pub about: MemberValue,
    /// What it has, and what it has not given up yet.
    pub assigned: Vec<(TopicId, Vec<i32>)>,
    /// What it shall have.
    pub target: Vec<(TopicId, Vec<i32>)>,
}
