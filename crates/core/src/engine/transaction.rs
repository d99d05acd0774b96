//! Transactions, for the engines with [`super::Capability::Transactions`].

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::{Appended, EngineError, GroupPositions, Payload};
use crate::TopicPartition;

/// What an engine with transactions can do beside.
#[async_trait]
pub trait Transactions: Send + Sync + fmt::Debug {
    /// The one producer of the transactional id `id`, whose transactions are aborted when they take longer than `timeout`.
    /// An older one is fenced.
    async fn producer(
        &self,
        id: &str,
        timeout: Duration,
    ) -> Result<Box<dyn TransactionalProducer>, EngineError>;
}

/// Writes transactions, each with one call: none is ever half open above the seam.
#[async_trait]
pub trait TransactionalProducer: Send + fmt::Debug {
    /// Appends in this order, and stores where a group stands: durable together when it returns, and not at all after an
    /// error other than [`EngineError::Failed`]. Readers see it when it returns, or a moment later (Kafka marks partitions
    /// one after the other). When the future is dropped, either may be; the next call
    /// comes after it. Per append it tells where the records are.
    async fn commit(
        &mut self,
        appends: Vec<(TopicPartition, Payload)>,
        positions: Option<GroupPositions>,
    ) -> Result<Vec<Appended>, EngineError>;
}
