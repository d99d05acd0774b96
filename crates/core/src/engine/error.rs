//! What can go wrong above the seam.

use super::{Position, Unsuitable};
use crate::TopicPartition;
use crate::batch::BatchError;

/// What went wrong, by whose fault it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The caller needs what this engine cannot do.
    #[error(transparent)]
    Unsuitable(#[from] Unsuitable),
    /// There is no such topic or partition.
    #[error("{0} does not exist")]
    NotFound(TopicPartition),
    /// The topic exists, and differs from what was asked for.
    #[error("topic {topic} exists with {actual} partitions, not {asked}")]
    Different {
        /// The topic.
        topic: String,
        /// What it has.
        actual: i32,
        /// What was asked for.
        asked: i32,
    },
    /// The engine refuses the request as it stands; the caller must change it.
    #[error("{topic}: {reason}")]
    Refused {
        /// What it was about.
        topic: String,
        /// What to change.
        reason: String,
    },
    /// A record or batch is larger than the engine or the topic takes. Nothing of the append was stored.
    #[error("{partition} takes no more than {max} bytes at once, and this is {bytes}")]
    TooLarge {
        /// Where it was to go.
        partition: TopicPartition,
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        max: u64,
    },
    /// The bytes are not a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The position is older than the oldest record, or newer than the newest.
    #[error("{partition} has no position {position}: it keeps {earliest} to {latest}")]
    OutOfRange {
        /// Where.
        partition: TopicPartition,
        /// What was asked for.
        position: Position,
        /// The oldest kept record.
        earliest: Position,
        /// After the newest visible record.
        latest: Position,
    },
    /// The partition does not end where a conditional append expected it. Nothing was stored.
    #[error("{partition} does not end at {expected}: somebody else has appended to it")]
    NotAtEnd {
        /// Where.
        partition: TopicPartition,
        /// Where it was to end.
        expected: Position,
    },
    /// The member lost its partitions to others of its group: what it does for them no longer counts.
    #[error("group {group}: this member's assignment has ended ({reason})")]
    Fenced {
        /// The group.
        group: String,
        /// Why.
        reason: String,
    },
    /// There is a newer producer of the transactional id, which has aborted what this one had begun.
    #[error("a newer producer has the transactional id {id:?}: leave the work to that one")]
    ProducerFenced {
        /// The transactional id.
        id: String,
    },
    /// The engine has aborted a transaction: the caller may do it again.
    #[error("a transaction of {id:?} was aborted: {reason}")]
    Aborted {
        /// The transactional id.
        id: String,
        /// Why.
        reason: String,
    },
    /// The engine does not let this caller do that.
    #[error("the {engine} engine refuses access: {reason}")]
    Unauthorised {
        /// Which engine.
        engine: &'static str,
        /// What it says.
        reason: String,
    },
    /// The engine cannot be reached. Nothing was done; the caller may try again.
    #[error("the {engine} engine is away: {reason}")]
    Away {
        /// Which engine.
        engine: &'static str,
        /// What was tried, and what came of it.
        reason: String,
    },
    /// The engine's storage or network failed; the outcome of the call is not known.
    #[error("the engine failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The engine is closed.
    #[error("the engine is closed")]
    Closed,
}
