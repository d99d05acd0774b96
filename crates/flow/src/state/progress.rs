//! How far a flow has come.

use anabranch_core::batch::Record;
use serde::{Deserialize, Serialize};

use super::record::{self, About};
use super::store::{PROGRESS, serialise};
use crate::FlowError;
use crate::metrics::Counts;

/// Stored with every step of a commit, together with the window states that it describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// How many steps there were.
    pub(crate) step: u64,
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

impl Progress {
    /// As the changelog has it.
    pub(crate) fn to_record(&self) -> Result<Record, FlowError> {
        Ok(record::of(About::Progress, PROGRESS, Some(serialise(self, "flow's progress")?)))
    }

    /// Whether the record of a changelog tells it.
    pub(crate) fn is_in(record: &Record) -> bool {
        record.key.as_deref().and_then(record::about).is_some_and(|(about, _)| about == About::Progress)
    }

    /// Out of a record that tells it.
    pub(crate) fn parse(record: &Record) -> Option<Self> {
        postcard::from_bytes(record.value.as_deref()?).ok()
    }
}
