//! What begins in the source while it is moved.

use std::fmt;

use anabranch_core::engine::EngineError;
use async_trait::async_trait;

/// Looks whether something has begun in the source since the move was planned without which the moved topics would mean something else there,
/// as what a new queue has settled.
#[async_trait]
pub trait Lookout: Send + Sync + fmt::Debug {
    /// A topic that has begun so. The source stands still.
    async fn begun(&self) -> Result<Option<String>, EngineError>;
}
