//! Groups of consumers, as far as every engine has them.

use std::fmt;

use async_trait::async_trait;

use super::{EngineError, Position};
use crate::TopicPartition;

/// What a member of a group is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupEvent {
    /// From now on the member reads these partitions, each from where the group stands (`None`: it has no position yet).
    /// It has no others.
    Assigned(Vec<(TopicPartition, Option<Position>)>),
    /// Others are to have these partitions. They are this member's until it asks for the next event: it commits what it
    /// has done with them first.
    Revoked(Vec<TopicPartition>),
    /// Others may have these partitions already: a commit for them fails.
    Lost(Vec<TopicPartition>),
}

/// One consumer of a group. Dropping it leaves the group when the engine notices; [`GroupMember::leave`] at once.
#[async_trait]
pub trait GroupMember: Send + fmt::Debug {
    /// The next change of this member's partitions; waits until there is one. Safe to drop and call again. A member that
    /// does not call it while others join or leave is taken for dead in the end.
    async fn next_event(&mut self) -> Result<GroupEvent, EngineError>;

    /// Stores where the group stands: the positions of the records to be read next. Durable when it returns.
    async fn commit(&mut self, positions: &[(TopicPartition, Position)]) -> Result<(), EngineError>;

    /// Leaves the group, so that the others take over at once.
    async fn leave(self: Box<Self>) -> Result<(), EngineError>;
}

/// Where a group stands: the records to be read next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPositions {
    /// The group, which needs no members.
    pub group: String,
    /// Per partition.
    pub positions: Vec<(TopicPartition, Position)>,
}
