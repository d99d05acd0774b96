//! What goes wrong, in the seam's words. One outcome may be told to several callers, so it is cloned.

use anabranch_core::TopicPartition;
use anabranch_core::engine::{EngineError, Position};

use crate::ENGINE;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing was done.
    Away(String),
    /// Nobody knows.
    Failed(String),
    NotFound,
    TooLarge {
        bytes: u64,
        max: u64,
    },
    Refused(String),
    NotAtEnd(Position),
    OutOfRange {
        position: Position,
        earliest: Position,
        latest: Position,
    },
    Unauthorised(String),
    Closed,
}

impl Trouble {
    /// As the caller is told who asked for `at`.
    pub(crate) fn about(self, at: &TopicPartition) -> EngineError {
        let partition = at.clone();
        match self {
            Self::Away(reason) => EngineError::Away { engine: ENGINE, reason },
            Self::Failed(reason) => EngineError::Failed(format!("{at}: {reason}").into()),
            Self::NotFound => EngineError::NotFound(partition),
            Self::TooLarge { bytes, max } => EngineError::TooLarge { partition, bytes, max },
            Self::Refused(reason) => EngineError::Refused { topic: partition.topic, reason },
            Self::NotAtEnd(expected) => EngineError::NotAtEnd { partition, expected },
            Self::OutOfRange { position, earliest, latest } => {
                EngineError::OutOfRange { partition, position, earliest, latest }
            }
            Self::Unauthorised(reason) => EngineError::Unauthorised { engine: ENGINE, reason },
            Self::Closed => EngineError::Closed,
        }
    }

    /// As the caller is told who asked for something that is no partition.
    pub(crate) fn about_topic(self, topic: &str) -> EngineError {
        self.about(&TopicPartition::new(topic, 0))
    }

    /// The same about something that may have been done.
    pub(crate) fn of_a_change(self) -> Self {
        match self {
            Self::Away(reason) => Self::Failed(reason),
            other => other,
        }
    }
}
