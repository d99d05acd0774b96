//! What a flow has done, to be looked at while it runs.

use anabranch_core::TopicPartition;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// How many records took which way since the state was made. The counts are stored with the state, so that after a
/// crash they tell of every record once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Read.
    pub records_in: u64,
    /// Left out by a filter.
    pub filtered: u64,
    /// Could not be decoded.
    pub undecodable: u64,
    /// Came too late for at least one window, and were left out there.
    pub late_dropped: u64,
    /// Came late, and corrected a result.
    pub late_admitted: u64,
    /// Came too late for at least one window, and went to the topic for late records.
    pub late_sent: u64,
    /// Results, early and corrected ones included.
    pub results: u64,
    /// Results taken back, because their session became part of a longer one.
    pub retractions: u64,
}

/// A moment in the life of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// How many records took which way.
    pub counts: Counts,
    /// No earlier event is expected, in ms since the Unix epoch; `None` before the first.
    pub watermark_ms: Option<i64>,
    /// How many positions of each partition are still to be read, as far as the last read told.
    pub lag: Vec<(TopicPartition, u64)>,
    /// Commits since the flow was opened.
    pub commits: u64,
}

/// The newest [`Snapshot`] of a running flow.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Protects the snapshot as a whole; held for a copy only.
    now: Mutex<Snapshot>,
}

impl Metrics {
    /// How things stand, at most a batch ago.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.now.lock().clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.now.lock());
    }
}
