//! What stops a flow, and whose fault it is.

use std::path::PathBuf;

use anabranch_core::TopicPartition;
use anabranch_core::batch::BatchError;
use anabranch_core::engine::{EngineError, Position};

/// Why a flow could not start, or stopped. What it had committed stays; opened again, it goes on from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlowError {
    /// The flow is defined wrongly; its author must change it.
    #[error("the flow {flow} cannot be: {reason}")]
    Definition {
        /// Its name.
        flow: String,
        /// What to change.
        reason: &'static str,
    },
    /// The engine failed, or does not have what the flow needs.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The stored input is damaged.
    #[error("{partition} is damaged at or after position {position}")]
    Damaged {
        /// Where.
        partition: TopicPartition,
        /// The first record that could not be read is here or in the batch that follows.
        position: Position,
        /// How.
        #[source]
        source: BatchError,
    },
    /// A record is not what the flow expects, and [`crate::Undecodable::Fail`] says to stop there.
    #[error("the record at {partition} position {position} cannot be decoded: {reason}")]
    Undecodable {
        /// Where.
        partition: TopicPartition,
        /// Which record.
        position: Position,
        /// What the flow's decoder says.
        reason: String,
    },
    /// A key is longer than state can hold.
    #[error("a key of {len_bytes} bytes is too long: state holds keys of up to {max_bytes} bytes")]
    KeyTooLong {
        /// What it takes when serialised.
        len_bytes: usize,
        /// What is allowed.
        max_bytes: usize,
    },
    /// The flow's encoder made a result without a record key; results are upserts, so they need one.
    #[error("a result for {topic} has no key")]
    KeylessResult {
        /// Where it should have gone.
        topic: String,
    },
    /// A record cannot be put into a batch.
    #[error("a record for {topic} cannot be written")]
    Unwritable {
        /// Where it should have gone.
        topic: String,
        /// Why.
        #[source]
        source: BatchError,
    },
    /// A key or an aggregate's state does not go into its serde form, or not back: its type is at fault.
    #[error("a {what} does not survive serialisation")]
    Unserialisable {
        /// Of what.
        what: &'static str,
        /// Why.
        #[source]
        source: postcard::Error,
    },
    /// Somebody has the state open already.
    #[error("the flow's state at {} is in use", path.display())]
    StateInUse {
        /// Where.
        path: PathBuf,
    },
    /// The state's storage failed.
    #[error("the flow's state at {} cannot be read or written", path.display())]
    State {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: fjall::Error,
    },
    /// The state is not what this flow can have written.
    #[error("the flow's state at {} is damaged: {what}", path.display())]
    StateDamaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// The state was written in a format of another version of this program. In another directory the flow begins anew.
    #[error(
        "the flow's state at {} has format {found}, and this program writes {supported}: give the flow another directory",
        path.display()
    )]
    StateFormat {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: u32,
        /// What is known.
        supported: u32,
    },
    /// The state belongs to another flow, or to this one before its definition changed. Give the changed flow another
    /// name and another directory (it reads its input again), or restore the definition.
    #[error(
        "the state at {} was made by another definition: it is of \"{found}\", and this is \"{expected}\"",
        path.display()
    )]
    OtherDefinition {
        /// Where.
        path: PathBuf,
        /// Whose state is there.
        found: String,
        /// The flow that was opened.
        expected: String,
    },
    /// The topic that the flow would keep its state in holds something else, or has lost where it began.
    #[error("the topic {topic} is not a flow's changelog: {what}")]
    Changelog {
        /// The topic.
        topic: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The changelog was written in a format of another version of this program. With another name the flow begins anew.
    #[error("the changelog {topic} has format {found}, and this program writes {supported}")]
    ChangelogFormat {
        /// The topic.
        topic: String,
        /// What is there.
        found: u32,
        /// What is known.
        supported: u32,
    },
    /// The changelog was written under this flow's name by another definition. Give the changed flow another name (it
    /// reads its input again), or restore the definition.
    #[error(
        "the changelog {topic} was made by another definition: it is of \"{found}\", and this is \"{expected}\""
    )]
    OtherChangelog {
        /// The topic.
        topic: String,
        /// Whose changelog it is.
        found: String,
        /// The flow that was opened.
        expected: String,
    },
    /// A newer process does this part of the flow: leave the work to that one. (Where the engine has transactions, it is
    /// [`EngineError::ProducerFenced`].)
    #[error("a newer process has taken over what is written to {log}: leave the work to that one")]
    Replaced {
        /// Where the part keeps its state, or its place.
        log: TopicPartition,
    },
    /// A record in the topic between a flow's sources and its shards was not put there by the flow.
    #[error("the topic {topic} has a record that the flow has not written")]
    Repartitioned {
        /// The topic.
        topic: String,
    },
    /// The runtime is shutting down.
    #[error("the async runtime stopped under the flow")]
    RuntimeStopped,
}

impl FlowError {
    /// Whether it says that another process does the work now.
    pub(crate) fn is_replaced(&self) -> bool {
        matches!(self, Self::Engine(EngineError::ProducerFenced { .. }) | Self::Replaced { .. })
    }

    /// Whether it says that the engine did not do something now, or did not tell whether it did. Who opens the flow anew finds out.
    pub(crate) fn is_passing(&self) -> bool {
        use EngineError::{Aborted, Away, Failed};
        matches!(self, Self::Engine(Away { .. } | Aborted { .. } | Failed(_)))
    }
}
