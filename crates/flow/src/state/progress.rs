//! How far a flow has come.

use serde::{Deserialize, Serialize};

use crate::metrics::Counts;

/// Stored with every commit, in the same batch as the window states that it describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The record that is read next, per partition, in the order of the flow's sources.
    pub(crate) positions: Vec<u64>,
    /// The latest event per partition.
    pub(crate) latest_events_ms: Vec<Option<i64>>,
    /// The flow's watermark.
    pub(crate) watermark_ms: i64,
    /// Every window that ends here or before has emitted its result.
    pub(crate) fired_ms: i64,
    /// Every window that ends here or before is gone.
    pub(crate) expired_ms: i64,
    /// What was counted on the way.
    pub(crate) counts: Counts,
}
