//! What can stop a move.

use anabranch_core::TopicPartition;
use anabranch_core::engine::{EngineError, Position, Untranslatable};

/// Why a move did not come to its end. The source is as it was, unless [`MoveError::AfterSwitch`] says otherwise; begun again,
/// a move goes on where it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// The source cannot be read, or its groups.
    #[error("the source: {0}")]
    Source(#[source] EngineError),
    /// The target cannot be written, or read.
    #[error("the target: {0}")]
    Target(#[source] EngineError),
    /// The target is no engine to move to.
    #[error("the {engine} engine cannot be moved to: {reason}")]
    Unfit {
        /// Which engine.
        engine: &'static str,
        /// What it lacks.
        reason: String,
    },
    /// There is nothing of that name in the source.
    #[error("the source has no {what} {name:?}")]
    Unknown {
        /// `topic` or `group`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A record of the target is not the one that the source has in its place.
    #[error(
        "{at}: the target's record {target_position} is not the source's record {source_position}: somebody else has written to \
         the target, or the source has deleted or compacted records that were copied; delete the topic in the target, and it is \
         copied anew"
    )]
    Diverged {
        /// Where.
        at: TopicPartition,
        /// The source's record.
        source_position: Position,
        /// The target's.
        target_position: Position,
    },
    /// The target has records that the source has not.
    #[error(
        "{at}: the target goes on with record {target_position} where the source ends, at {source_end}: somebody else has \
         written to it; delete the topic in the target, and it is copied anew"
    )]
    Surplus {
        /// Where.
        at: TopicPartition,
        /// The first of them.
        target_position: Position,
        /// Where the source ends.
        source_end: Position,
    },
    /// The target has no more what was copied.
    #[error(
        "{at}: the target ends at {target_end}, and has not all that the source has before {source_position}, though it was \
         copied: somebody has deleted the topic there, or it has lost its end; begun again, the move copies it anew"
    )]
    Lost {
        /// Where.
        at: TopicPartition,
        /// Before this the source has records that the target has not.
        source_position: Position,
        /// Where the target ends.
        target_end: Position,
    },
    /// The source has deleted records that were not copied yet, or not compared.
    #[error(
        "{at}: the source has deleted its records {wanted} to {earliest} before they were copied and compared (retention): let \
         it keep them longer, delete the topic in the target, and it is copied anew"
    )]
    Gone {
        /// Where.
        at: TopicPartition,
        /// What was to be read.
        wanted: Position,
        /// What is the oldest now.
        earliest: Position,
    },
    /// A group's positions in the target are not those that were written.
    #[error("group {group:?} stands elsewhere in the target than was written: somebody else commits for it")]
    GroupDiffers {
        /// The group.
        group: String,
    },
    /// A topic cannot be moved without another, since positions of that one stand in its records.
    #[error("topic {topic} cannot be moved without {needs}: positions of that one stand in its records")]
    Without {
        /// The topic.
        topic: String,
        /// What is not moved with it.
        needs: String,
    },
    /// Something has begun in the source meanwhile that has to be moved along.
    #[error(
        "topic {topic} has begun meanwhile, and has to be moved with the others: run the same command again, which takes it along"
    )]
    BegunMeanwhile {
        /// The topic.
        topic: String,
    },
    /// Positions in a topic's records cannot be translated.
    #[error(transparent)]
    Untranslatable(#[from] Untranslatable),
    /// What was written behind a topic's records is not what is there.
    #[error("{at}: somebody else has written to the target")]
    WordDiffers {
        /// Where.
        at: TopicPartition,
    },
    /// The source could not be held still long enough, though it was tried again.
    #[error("the source could not be held still for long enough ({attempts} attempts): {reason}")]
    NotStill {
        /// How often it was tried.
        attempts: u32,
        /// What came in between.
        reason: String,
    },
    /// The source does not do what holds it still, or switches it over.
    #[error("the source's switch: {0}")]
    Gate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The notes of the move cannot be read or written.
    #[error("{path}: {reason}")]
    Notes {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The move is decided, and its clients belong to the target; something is left to do. Run it again.
    #[error("the move is done, and the target is the truth now; something was left: {0}")]
    AfterSwitch(#[source] EngineError),
}

impl MoveError {
    /// Whether it may go away when it is tried again: from what the target holds by then.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        let (Self::Source(error) | Self::Target(error)) = self else { return false };
        matches!(
            error,
            EngineError::Away { .. }
                | EngineError::Aborted { .. }
                | EngineError::Failed(_)
                | EngineError::NotAtEnd { .. }
        )
    }
}
