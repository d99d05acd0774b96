//! What the broker refuses, and why. The Kafka door turns each into Kafka's own code.

use std::fmt;
use std::time::Duration;

use anabranch_core::batch::{BatchError, Compression};
use anabranch_core::{LeaderEpoch, Offset, TopicPartition};
use anabranch_log::{AppendError, Fault, OpenError, ReadError, UpkeepError};

use crate::group::GroupError;
use crate::transaction::TransactionError;

/// Why the broker did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The data directory cannot be had.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A setting is not what it must be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The catalogue of topics or the groups' offsets cannot be read: nothing can be served without them.
    #[error("the internal topic {topic} is damaged: {fault}")]
    InternalTopic {
        /// Which.
        topic: String,
        /// Where and what.
        fault: Fault,
    },
    /// A record of an internal topic is whole, and does not say what it must: written by a newer version, or not by us.
    #[error("the internal topic {topic} has a record at offset {offset} that cannot be understood: {reason}")]
    InternalRecord {
        /// Which.
        topic: String,
        /// Which record.
        offset: Offset,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system gives no threads ([`crate::blocking`] only).
    #[error("cannot start threads: {0}")]
    Runtime(#[source] std::io::Error),
    /// The first records of a new data directory cannot be written.
    #[error("the internal topic {topic} cannot be written: {error}")]
    InternalWrite {
        /// Which.
        topic: String,
        /// What the log said.
        #[source]
        error: AppendError,
    },
}

/// A setting that is unknown, or whose value does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such setting.
    #[error("there is no setting {0:?}")]
    Unknown(String),
    /// Kafka has it, and this broker does not.
    #[error("{name} cannot be set here: {reason}")]
    NotHere {
        /// Kafka's name of it.
        name: String,
        /// Why not, and what to do instead.
        reason: &'static str,
    },
    /// It cannot be changed, or not to anything else than it is.
    #[error("{name} cannot be set to {value:?}: {reason}")]
    Unsupported {
        /// Kafka's name of it.
        name: String,
        /// What was asked for.
        value: String,
        /// Why not.
        reason: String,
    },
    /// The value does not fit.
    #[error("{name} cannot be {value:?}: {reason}")]
    Invalid {
        /// Kafka's name of it.
        name: String,
        /// What was given.
        value: String,
        /// What it must be.
        reason: String,
    },
}

/// Why a topic was not created, changed or deleted.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// Kafka's rules: 1 to 249 of letters, digits, `.`, `_` and `-`, not `.` or `..`.
    #[error("topic name {name:?} is not allowed: {reason}")]
    InvalidName {
        /// What was given.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// There is one.
    #[error("topic {0:?} already exists")]
    Exists(String),
    /// Names that differ only in `.` and `_` have the same metrics in Kafka, which refuses the second.
    #[error("topic {name:?} collides with the existing topic {existing:?}: they differ only in '.' and '_'")]
    Collides {
        /// What was given.
        name: String,
        /// What there is.
        existing: String,
    },
    /// The request contradicts itself.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// There is none.
    #[error("topic {0:?} does not exist")]
    Unknown(String),
    /// Fewer than one, more than the limit, or fewer than before.
    #[error("{0}")]
    InvalidPartitions(String),
    /// One node has one copy.
    #[error("replication factor {0} is larger than the number of brokers, 1")]
    InvalidReplicationFactor(i16),
    /// A replica assignment that names other nodes.
    #[error("{0}")]
    InvalidAssignment(String),
    /// A setting of it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Internal topics are the broker's own.
    #[error("topic {0:?} is internal")]
    Internal(String),
    /// The disk's fault.
    #[error("the disk failed: {0}")]
    Storage(String),
    /// It has moved: what it gets, it gets there.
    #[error("topic {name:?} was moved to {target}")]
    Moved {
        /// The topic.
        name: String,
        /// Where to.
        target: String,
    },
    /// The topics have moved, and clients are sent on: what is made is made there.
    #[error("the topics of this server have moved, and its clients with them")]
    Elsewhere,
    /// The broker is closed.
    #[error("the broker is closed")]
    Closed,
}

/// Why a batch was not appended. Nothing of it is in the log.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProduceError {
    /// No such topic or partition.
    #[error("{0} does not exist")]
    Unknown(TopicPartition),
    /// The bytes are not one whole batch, or it was damaged on its way. Never [`BatchError::Invalid`].
    #[error(transparent)]
    Batch(BatchError),
    /// The batch is whole, and contradicts itself or is not allowed here: a wrong record count, a control batch from a
    /// client, a record without a key in a compacted topic, an empty batch.
    #[error("{0}")]
    InvalidRecord(&'static str),
    /// Some of the records are not allowed here; none of the batch is taken.
    #[error("{0}")]
    InvalidRecords(RecordsRefused),
    /// The same, and the times of some are why: too old or too far ahead for the topic, or set as only the broker may.
    #[error("{0}")]
    InvalidTimestamps(RecordsRefused),
    /// Larger than the topic's `max.message.bytes` once it is in the topic's codec.
    #[error(
        "the batch, compressed as the topic wants it ({codec}), has more than the {max_bytes} bytes that it takes"
    )]
    TooLargeRecompressed {
        /// The topic's codec.
        codec: Compression,
        /// The limit.
        max_bytes: usize,
    },
    /// Larger than the topic's `max.message.bytes`.
    #[error("the batch has {bytes} bytes, and the topic takes up to {max_bytes}")]
    TooLarge {
        /// What came.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// Larger than the topic's `segment.bytes`: no segment can hold it.
    #[error("the batch has {bytes} bytes, and a segment of the topic takes {max_bytes}")]
    LargerThanSegment {
        /// What came.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// Checking it would take more memory than there is for that.
    #[error(
        "decompressing the batch may take {needed_bytes} bytes, and there are {memory_bytes}: use a smaller window (a lower \
         level), or raise memory.budget.bytes"
    )]
    Undecompressable {
        /// What the decompressor may take.
        needed_bytes: usize,
        /// What there is.
        memory_bytes: usize,
    },
    /// Internal topics are the broker's own.
    #[error("topic {0:?} is internal")]
    Internal(String),
    /// The log refused, or failed.
    #[error(transparent)]
    Log(#[from] AppendError),
}

/// Why a transaction of this process did not go on ([`crate::Broker::transactional`]). Unless it says otherwise, nothing of
/// the transaction will be visible.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionalError {
    /// There is a newer producer.
    #[error(
        "a newer producer has the transactional id {id:?}, and has aborted what this one had open: leave the work to that one"
    )]
    Fenced {
        /// The transactional id.
        id: String,
    },
    /// It was open for too long.
    #[error(
        "the transaction of {id:?} was aborted after {timeout:?}: begin again, and do less in it or give it a longer timeout"
    )]
    TimedOut {
        /// The transactional id.
        id: String,
        /// How long it may last.
        timeout: Duration,
    },
    /// The coordinator has ended it for another reason: an administrator wanted it.
    #[error("the transaction of {id:?} was aborted by the coordinator: begin again")]
    Aborted {
        /// The transactional id.
        id: String,
    },
    /// A call before has failed or was dropped, so that there is less in the transaction than was meant to be.
    #[error("something of the transaction of {id:?} was not appended: abort it, and begin again")]
    Incomplete {
        /// The transactional id.
        id: String,
    },
    /// The records cannot be appended.
    #[error("{to}: {error}")]
    Produce {
        /// Where.
        to: TopicPartition,
        /// Why not.
        #[source]
        error: ProduceError,
    },
    /// The offsets cannot be committed.
    #[error("offsets of group {group:?}: {error}")]
    Group {
        /// The group.
        group: String,
        /// What its coordinator said.
        #[source]
        error: GroupError,
    },
    /// The transactions' coordinator refuses, or its disk does. When a commit comes to [`TransactionError::NotCoordinator`] the
    /// log has stopped amid it, and the next start shows whether the transaction is committed.
    #[error("transactional id {id:?}: {error}")]
    Coordinator {
        /// The transactional id.
        id: String,
        /// What it said.
        #[source]
        error: TransactionError,
    },
    /// The broker is closed.
    #[error("the broker is closed")]
    Closed,
}

/// The records of a batch for which it was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordsRefused {
    /// The first of them, up to 1,000.
    pub errors: Vec<RecordError>,
    /// How many there are.
    pub count: u64,
}

/// What is wrong with one record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordError {
    /// Its place in the batch, from 0.
    pub index: i32,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for RecordsRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of the batch's records are refused", self.count)?;
        let first = self.errors.first().map(|error| write!(f, "; record {}: {}", error.index, error.reason));
        first.unwrap_or(Ok(()))
    }
}

impl TransactionalError {
    pub(crate) fn produce(to: &TopicPartition, error: impl Into<ProduceError>) -> Self {
        Self::Produce { to: to.clone(), error: error.into() }
    }
}

impl From<BatchError> for ProduceError {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Invalid(reason) => Self::InvalidRecord(reason),
            damaged => Self::Batch(damaged),
        }
    }
}

impl ProduceError {
    pub(crate) fn unknown(topic: &str, partition: i32) -> Self {
        Self::Unknown(TopicPartition::new(topic, partition))
    }
}

/// Why no producer id was given. The caller may try again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no producer id could be reserved: {0}")]
pub struct ProducerIdError(#[from] pub(crate) AppendError);

/// Why records were not deleted.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DeleteRecordsError {
    /// No such topic or partition.
    #[error("{0} does not exist")]
    Unknown(TopicPartition),
    /// Internal topics are the broker's own.
    #[error("topic {0:?} is internal")]
    Internal(String),
    /// The topic's `cleanup.policy` has no `delete`: it is a table, whose records stand for its rows.
    #[error("records of {0} cannot be deleted: its cleanup.policy does not have delete")]
    Policy(TopicPartition),
    /// Its topic is being moved to another engine, and whoever copies it has to find it whole.
    #[error("records of {0} cannot be deleted while its topic is moved to another engine")]
    Moving(TopicPartition),
    /// Below 0, or beyond the high watermark.
    #[error("offset {asked} is not in the partition, which ends at {end}")]
    OutOfRange {
        /// Before which records were to be deleted.
        asked: Offset,
        /// The high watermark.
        end: Offset,
    },
    /// The log could not make what is written durable.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log refused, or failed.
    #[error(transparent)]
    Log(UpkeepError),
}

impl From<UpkeepError> for DeleteRecordsError {
    fn from(error: UpkeepError) -> Self {
        match error {
            UpkeepError::OutOfRange { asked, end } => Self::OutOfRange { asked, end },
            other => Self::Log(other),
        }
    }
}

/// Why nothing was fetched.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No such topic or partition.
    #[error("{0} does not exist")]
    Unknown(TopicPartition),
    /// The client believes in an older leader.
    #[error("leader epoch {asked} is older than {current}")]
    FencedLeaderEpoch {
        /// The client's.
        asked: LeaderEpoch,
        /// Ours.
        current: LeaderEpoch,
    },
    /// The client believes in a leader that never was.
    #[error("leader epoch {asked} is newer than {current}")]
    UnknownLeaderEpoch {
        /// The client's.
        asked: LeaderEpoch,
        /// Ours.
        current: LeaderEpoch,
    },
    /// Stored bytes are whole, and their records cannot be read.
    #[error("{partition}: {error}")]
    Batch {
        /// Where.
        partition: TopicPartition,
        /// What is wrong.
        error: BatchError,
    },
    /// The log refused, or failed.
    #[error(transparent)]
    Log(#[from] ReadError),
}
