//! Topics in whose records positions of other topics stand: a flow's state, a queue's settlements. Copied to another engine as
//! they are, they would mean other records there. So whoever keeps such topics tells a mover how to carry them: the mover copies
//! all of their records as they are, and when everything else is there it appends a *last word* to each partition, in which
//! positions are the new engine's. The newest counts, here as there.

use std::collections::BTreeMap;
use std::fmt;

use super::Position;
use crate::TopicPartition;
use crate::batch::Record;

/// What is kept in mind of a partition of such a topic while its records go by. It is noted on the disk every few seconds, so it
/// is small.
pub type Noted = BTreeMap<Vec<u8>, Vec<u8>>;

/// The own topics of a flow, or of a queue.
pub trait Carried: fmt::Debug + Send + Sync {
    /// Their names.
    fn topics(&self) -> Vec<String>;

    /// Other topics whose positions stand in their records. They go the same way, or these cannot.
    fn needs(&self) -> Vec<String>;

    /// Takes note of the next record of a partition.
    fn note(&self, at: &TopicPartition, record: &Record, noted: &mut Noted);

    /// What is to be appended to a partition, when all that the source has is in the target.
    ///
    /// # Errors
    /// [`Untranslatable`].
    fn last_word(&self, at: &TopicPartition, there: &dyn Elsewhere) -> Result<LastWord, Untranslatable>;
}

/// Where partitions went.
pub trait Elsewhere: Sync {
    /// Where the record is in the target that is read next in the source from `position` on; `None` if the partition does not
    /// go there.
    fn translate(&self, at: &TopicPartition, position: Position) -> Option<Position>;

    /// Where the partition ends in the target, before any last word.
    fn end(&self, at: &TopicPartition) -> Option<Position>;

    /// What was noted of a partition, all of which has gone by.
    fn noted(&self, at: &TopicPartition) -> Option<&Noted>;

    /// When the last words are said, milliseconds since the Unix epoch: it tells one move from another.
    fn now_ms(&self) -> i64;
}

/// What is appended to a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastWord {
    /// Of what the engine takes at once no more than a few.
    pub records: Vec<Record>,
    /// Positions in them, all of them translated.
    pub positions: u64,
    /// Positions that were left out, since their records were not in the source any more.
    pub gone: u64,
}

/// A last word cannot be said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {reason}")]
pub struct Untranslatable {
    /// Where.
    pub at: TopicPartition,
    /// Why.
    pub reason: &'static str,
}
