//! What a flow has done, to be looked at while it runs.

use anabranch_core::TopicPartition;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::delivery::Guarantee;

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

/// A moment in the life of a flow. Of a flow that several processes share, each tells of what it does itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// How many records took which way.
    pub counts: Counts,
    /// No earlier event is expected, in ms since the Unix epoch, in the shard that is behind the others; `None` before the
    /// first.
    pub watermark_ms: Option<i64>,
    /// How many positions of each partition are still to be read, as far as the last read told.
    pub lag: Vec<(TopicPartition, u64)>,
    /// Commits since the flow was opened.
    pub commits: u64,
    /// Records of the changelog that the local copies of the state did not know when they were opened.
    pub restored: u64,
    /// Records that came to a shard once more since it was opened, and were not counted again. None where delivery is
    /// exactly once.
    pub repeated: u64,
    /// What readers of the results can count on.
    pub delivery: Guarantee,
}

/// The newest [`Snapshot`] of a running flow.
#[derive(Debug, Default)]
pub struct Metrics {
    delivery: Guarantee,
    /// Of the flow's parts: intakes, which have no watermark, and shards. Held for a copy only.
    parts: Mutex<Vec<Part>>,
}

#[derive(Debug, Clone, Default)]
struct Part {
    is_shard: bool,
    now: Snapshot,
}

impl Metrics {
    pub(crate) fn new(delivery: Guarantee) -> Self {
        Self { delivery, parts: Mutex::default() }
    }

    /// How things stand, at most a batch ago.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let parts = self.parts.lock();
        let mut whole = Snapshot { delivery: self.delivery, ..Snapshot::default() };
        for Part { now, .. } in &*parts {
            whole.counts = whole.counts.plus(&now.counts);
            whole.lag.extend_from_slice(&now.lag);
            whole.commits += now.commits;
            whole.restored += now.restored;
            whole.repeated += now.repeated;
        }
        // `None` is the least: as long as a shard has no watermark, the flow has none.
        let shards = parts.iter().filter(|part| part.is_shard);
        whole.watermark_ms = shards.map(|part| part.now.watermark_ms).min().flatten();
        whole
    }

    /// The number of one more part.
    pub(crate) fn add(&self, is_shard: bool) -> usize {
        let mut parts = self.parts.lock();
        parts.push(Part { is_shard, now: Snapshot::default() });
        parts.len() - 1
    }

    pub(crate) fn update(&self, part: usize, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.parts.lock()[part].now);
    }
}

impl Counts {
    fn plus(&self, other: &Self) -> Self {
        Self {
            records_in: self.records_in + other.records_in,
            filtered: self.filtered + other.filtered,
            undecodable: self.undecodable + other.undecodable,
            late_dropped: self.late_dropped + other.late_dropped,
            late_admitted: self.late_admitted + other.late_admitted,
            late_sent: self.late_sent + other.late_sent,
            results: self.results + other.results,
            retractions: self.retractions + other.retractions,
        }
    }
}
