//! What an engine is tested on.

use std::fmt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::engine::{Engine, EngineError};
use async_trait::async_trait;

/// What an engine brings to be tested: how it is opened, and as much as there is to do to it. Names of topics, groups and ids
/// are never used twice, so that many behaviours may run side by side on one cluster.
#[async_trait]
pub trait Ground: Send + Sync + fmt::Debug {
    /// An engine for the client of this name. Clients of different names share no connection, where there are any.
    async fn open(&self, client: &str) -> Result<Arc<dyn Engine>, EngineError>;

    /// Closes, cleanly, all that this process has open, and what must stop so that the directory or cluster can be opened
    /// by another process.
    async fn release(&self);

    /// Whether several processes can have it open at once.
    fn is_shared(&self) -> bool {
        false
    }

    /// After how long something hangs. Generous: it is waited for only where a promise is broken.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Whether the engine's nodes sync before they answer, as they were started; `None` if nobody knows.
    fn syncs(&self) -> Option<bool> {
        None
    }

    /// The topic settings with which retention and compaction act within [`Ground::patience`].
    fn ageing(&self) -> Option<Vec<(&'static str, &'static str)>> {
        None
    }

    /// What is between clients and engine, if it can be cut.
    fn network(&self) -> Option<&dyn Network> {
        None
    }

    /// The engine's nodes, if they can be killed.
    fn nodes(&self) -> Option<&dyn Nodes> {
        None
    }

    /// This program again, so that it calls [`crate::play`] with a ground of the same data, and can be killed.
    fn child(&self) -> Option<Command> {
        None
    }
}

/// What is between clients and engine.
pub trait Network: Send + Sync {
    /// Breaks the connections of the client, and lets it make no others.
    fn cut(&self, client: &str);

    /// Lets it make connections again.
    fn mend(&self, client: &str);
}

/// The engine's nodes.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// How many there are.
    fn count(&self) -> u32;

    /// Kills one where it stands, as by kill -9.
    async fn kill(&self, node: u32);

    /// Starts what was killed, on its data.
    async fn start(&self, node: u32);
}
