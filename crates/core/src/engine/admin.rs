//! Administration: what an operator sees and changes, and what a tool needs that moves an application elsewhere.

use std::fmt;

use async_trait::async_trait;

use super::{EngineError, GroupPositions, Position};
use crate::TopicPartition;

/// Looks at topics and groups, and changes them.
#[async_trait]
pub trait Admin: Send + Sync + fmt::Debug {
    /// All topics, by name.
    async fn topics(&self) -> Result<Vec<TopicInfo>, EngineError>;

    /// One topic.
    async fn topic(&self, name: &str) -> Result<TopicInfo, EngineError>;

    /// A topic's settings, by name.
    async fn topic_configs(&self, topic: &str) -> Result<Vec<TopicConfig>, EngineError>;

    /// Sets settings of a topic, or takes them back to their defaults (`None`). What is not named stays as it is.
    async fn set_topic_configs(
        &self,
        topic: &str,
        changes: &[(String, Option<String>)],
    ) -> Result<(), EngineError>;

    /// Gives a topic more partitions, so that it has `total`.
    async fn add_partitions(&self, topic: &str, total: i32) -> Result<(), EngineError>;

    /// Deletes a topic with all its records.
    async fn delete_topic(&self, name: &str) -> Result<(), EngineError>;

    /// All groups, by name.
    async fn groups(&self) -> Result<Vec<GroupInfo>, EngineError>;

    /// One group, if there is one.
    async fn group(&self, name: &str) -> Result<Option<GroupInfo>, EngineError>;

    /// Where a group stands; nowhere, if there is no such group.
    async fn group_positions(&self, group: &str) -> Result<Vec<(TopicPartition, Position)>, EngineError>;

    /// Makes a group stand somewhere else, and creates it if need be; durable when it returns. Partitions that are not named
    /// stay as they are. Refused while the group has members.
    async fn set_group_positions(&self, to: &GroupPositions) -> Result<(), EngineError>;

    /// Deletes a group, and where it stands. Refused while it has members, and when there is no such group.
    async fn delete_group(&self, name: &str) -> Result<(), EngineError>;
}

/// A topic, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// The engine keeps it for itself.
    pub is_internal: bool,
    /// By number, from 0.
    pub partitions: Vec<PartitionInfo>,
}

/// Where a partition is stored. Nodes are named as the engine names them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartitionInfo {
    /// The node that takes its records; `None` while there is none.
    pub leader: Option<String>,
    /// The nodes that have a copy.
    pub replicas: Vec<String>,
    /// Those of them that have everything.
    pub in_sync: Vec<String>,
}

/// A setting of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// Kafka's name of it.
    pub name: String,
    /// What holds.
    pub value: Option<String>,
    /// It is set on this topic; otherwise it is the engine's default.
    pub is_own: bool,
}

/// A group, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// In Kafka's words: `Empty`, `Stable`, `PreparingRebalance`, ...
    pub state: String,
    /// The protocol of its members: `classic` or `consumer` in Kafka.
    pub kind: String,
    /// What it is for: `consumer`, `connect`, ...; empty for a group that only stores positions.
    pub protocol_type: String,
    /// What shares out the partitions, such as `range`; empty while nothing is shared out.
    pub assignor: String,
    /// Those who are in it now.
    pub members: Vec<MemberInfo>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// What the member calls itself.
    pub client: String,
    /// Where it comes from.
    pub host: String,
    /// What it reads.
    pub partitions: Vec<TopicPartition>,
}
