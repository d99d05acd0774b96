//! What a move tells: while it goes on, and when it is through.

use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::Position;

use crate::checksum::Checksum;

/// Where a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// It looks at both sides.
    #[default]
    Planning,
    /// It compares what the target holds already.
    Comparing,
    /// It copies, and compares behind that.
    Copying,
    /// It waits until the source stands still, and copies on.
    Pausing,
    /// The source stands still: the rest is copied and compared, and what stands where is written.
    Still,
    /// It is decided; settings are written.
    Finishing,
}

/// How far a move has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Where it is.
    pub phase: Phase,
    /// Positions that are in the source, holes and markers included: at least as many as records.
    pub total: u64,
    /// Of those, how many are copied.
    pub copied: u64,
    /// Of those, how many are compared.
    pub compared: u64,
    /// Bytes of records that this process copied.
    pub bytes: u64,
}

/// What was moved, and what was verified of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Names the move.
    pub id: String,
    /// Only what is to be done was looked at.
    pub is_dry_run: bool,
    /// It was decided in an earlier run; nothing was compared in this one.
    pub was_decided: bool,
    /// By name.
    pub topics: Vec<MovedTopic>,
    /// By name.
    pub groups: Vec<MovedGroup>,
    /// How long the source stood still.
    pub pause: Duration,
    /// How long this run took.
    pub took: Duration,
}

/// A topic in the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedTopic {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partition_count: i32,
    /// The target had it before this run.
    pub was_there: bool,
    /// Settings of the source that the target does not take, each with its reason.
    pub settings_left: Vec<(String, String)>,
    /// By number.
    pub partitions: Vec<MovedPartition>,
}

/// A partition in the report: what was read on both sides, and is equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedPartition {
    /// Which.
    pub at: TopicPartition,
    /// Records that are on both sides.
    pub records: u64,
    /// Records that the target had and has compacted, since there are newer ones of their keys.
    pub thinned: u64,
    /// Bytes of their keys, values and headers.
    pub bytes: u64,
    /// The source's records.
    pub source_checksum: Checksum,
    /// The target's records.
    pub target_checksum: Checksum,
    /// From the first record to after the last, in the source.
    pub source: (Position, Position),
    /// The same in the target.
    pub target: (Position, Position),
    /// Positions of other topics that stand in its records: how many were translated, in what was written behind them.
    pub translated: u64,
    /// Of these, positions that were left out, since the source had their records no more.
    pub gone: u64,
    /// Records stand at other positions in the target than in the source.
    pub is_shifted: bool,
}

/// A group in the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedGroup {
    /// Its name.
    pub name: String,
    /// Where it stands in the source, and where in the target.
    pub positions: Vec<(TopicPartition, Position, Position)>,
}
