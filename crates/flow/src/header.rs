//! The headers that a flow puts on records which it sends aside, late or undecodable.
//!
//! Source topic, partition and position together name the record. From a flow that delivers at least once it may come
//! again after a crash, and a reader who has seen them before can skip it.

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
/// Where the record was read, under the names that dead letters of queues have.
pub use anabranch_core::engine::{SOURCE_PARTITION, SOURCE_POSITION, SOURCE_TOPIC};

/// On a late record: by how many milliseconds its event time was behind the flow's watermark, in decimal.
pub const LATE_MS: &str = "anabranch.late.ms";
/// On an undecodable record: what the flow's decoder said.
pub const ERROR: &str = "anabranch.error";

/// `record` with its origin, and why it was sent aside.
pub(crate) fn mark(
    record: Record,
    from: &TopicPartition,
    position: u64,
    (why, how): (&'static str, String),
) -> Record {
    record
        .header(SOURCE_TOPIC, from.topic.clone())
        .header(SOURCE_PARTITION, from.partition.to_string())
        .header(SOURCE_POSITION, position.to_string())
        .header(why, how)
}
