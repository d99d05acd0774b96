//! The seam above which an application survives outgrowing one machine.
//!
//! What is written against [`Engine`] runs on the embedded broker, and on whatever other system implements it. The seam
//! is small and honest: an engine says what it can do ([`Engine::support`]), and whoever needs more than that is told at
//! the start ([`Engine::require`]), not at the worst moment.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::TopicPartition;
use crate::batch::BatchError;

/// A place in a partition, ordered within it and otherwise opaque: an offset in Kafka, a sequence in other systems.
/// A position names the record that is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place that an engine can turn into a [`Position`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The oldest record that is kept.
    Earliest,
    /// After the newest record that readers may see.
    Latest,
    /// The first record whose timestamp is at least this many milliseconds since the Unix epoch; the latest place when
    /// there is none.
    AtTime(i64),
}

/// How long an acknowledged write must live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Survives the death of the process (`acks=1`).
    Written,
    /// Survives the loss of power (`acks=all`).
    #[default]
    Durable,
}

/// What an engine may or may not be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Capability {
    /// Records of one partition are read in the order in which they were acknowledged.
    PartitionOrder,
    /// Any kept record can be read again, from any position.
    Replay,
    /// Consumers of a group share partitions, and the group's positions are kept by the engine.
    Groups,
    /// A retried append is stored once.
    IdempotentAppend,
    /// Outputs and input positions become visible together or not at all.
    Transactions,
    /// A topic can keep only the newest record per key.
    Compaction,
}

impl Capability {
    /// Every capability that there is.
    pub const ALL: [Self; 6] = [
        Self::PartitionOrder,
        Self::Replay,
        Self::Groups,
        Self::IdempotentAppend,
        Self::Transactions,
        Self::Compaction,
    ];
}

/// How an engine provides a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// As its own feature.
    Native,
    /// On top of other features, at the cost that is told.
    Emulated(&'static str),
    /// Not at all.
    Absent,
}

/// What went wrong, by whose fault it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The caller needs what this engine cannot do.
    #[error("the {engine} engine has no {capability:?}")]
    Absent {
        /// Which engine.
        engine: &'static str,
        /// What it lacks.
        capability: Capability,
    },
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
    /// The engine's storage or network failed; the outcome of the call is not known.
    #[error("the engine failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The engine is closed.
    #[error("the engine is closed")]
    Closed,
}

/// A topic as a flow or an application wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name, by Kafka's rules.
    pub name: String,
    /// At least 1.
    pub partitions: i32,
    /// Kafka's property names and values, such as `("cleanup.policy", "compact")`.
    pub configs: Vec<(String, String)>,
}

impl TopicSpec {
    /// A topic with the engine's default settings.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self { name: name.into(), partitions, configs: Vec::new() }
    }
}

/// What [`Engine::ensure_topic`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It was not there.
    Created,
    /// It was there, as asked for.
    Existed,
}

/// How much to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// Whole batches up to this size; the first batch comes whole even when it is larger.
    pub bytes_max: usize,
    /// How long to wait for the first record.
    pub wait_max: Duration,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self { bytes_max: 1 << 20, wait_max: Duration::from_millis(500) }
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Whole batches, one after another ([`crate::batch::split_batches`]). The first may begin before the position that
    /// was asked for: skip its records below it.
    pub batches: Bytes,
    /// Where to read next: also behind what is not shown.
    pub next: Position,
    /// After the newest visible record, when this was read: the difference to `next` is the lag.
    pub latest: Position,
}

/// What a member of a group is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupEvent {
    /// From now on the member reads these partitions, each from where the group stands (`None`: it has no position yet).
    Assigned(Vec<(TopicPartition, Option<Position>)>),
    /// From now on it no longer does; commits for them fail. Told before others get them, as far as the member is alive.
    Revoked(Vec<TopicPartition>),
}

/// A place where topics live.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug {
    /// A short name: `embedded`, `kafka`, `nats`.
    fn name(&self) -> &'static str;

    /// How the engine provides `capability`.
    fn support(&self, capability: Capability) -> Support;

    /// Fails with [`EngineError::Absent`] unless the engine has all of `needs`.
    ///
    /// # Errors
    /// Names the first that is missing.
    fn require(&self, needs: &[Capability]) -> Result<(), EngineError> {
        match needs.iter().find(|need| self.support(**need) == Support::Absent) {
            None => Ok(()),
            Some(&capability) => Err(EngineError::Absent { engine: self.name(), capability }),
        }
    }

    /// Creates the topic unless it is there with as many partitions.
    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<Ensured, EngineError>;

    /// How many partitions the topic has.
    async fn partition_count(&self, topic: &str) -> Result<i32, EngineError>;

    /// Appends one batch; the position of its first record, once it is as durable as asked. Dropping the future does not
    /// take the append back.
    async fn append(
        &self,
        to: &TopicPartition,
        batch: Bytes,
        durability: Durability,
    ) -> Result<Position, EngineError>;

    /// Reads what follows `from`, waiting for it as long as `limits` say; nothing when the wait was in vain. Records of a
    /// transaction are shown when it is committed, and nothing else of it ever is.
    async fn read(
        &self,
        partition: &TopicPartition,
        from: Position,
        limits: ReadLimits,
    ) -> Result<Fetched, EngineError>;

    /// The position of `place`.
    async fn locate(&self, partition: &TopicPartition, place: Place) -> Result<Position, EngineError>;

    /// Joins `group` as a consumer of `topics`.
    async fn join(&self, group: &str, topics: &[String]) -> Result<Box<dyn GroupMember>, EngineError>;

    /// There if the engine has [`Capability::Transactions`].
    fn transactions(&self) -> Option<&dyn Transactions> {
        None
    }
}

/// What an engine with [`Capability::Transactions`] can do beside.
#[async_trait]
pub trait Transactions: Send + Sync + fmt::Debug {
    /// The one producer of the transactional id `id`, whose transactions are aborted when they take longer than `timeout`.
    /// An older one is fenced.
    async fn producer(
        &self,
        id: &str,
        timeout: Duration,
    ) -> Result<Box<dyn TransactionalProducer>, EngineError>;
}

/// Where a group stands: the records to be read next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPositions {
    /// The group, which needs no members.
    pub group: String,
    /// Per partition.
    pub positions: Vec<(TopicPartition, Position)>,
}

/// Writes transactions, each with one call: none is ever half open above the seam.
#[async_trait]
pub trait TransactionalProducer: Send + fmt::Debug {
    /// Appends batches, which name no producer, in this order, and stores where a group stands: durable and visible
    /// together when it returns, and not at all after an error other than [`EngineError::Failed`]. When the future is
    /// dropped, either may be; the next call comes after it. Per batch it tells the position of the first record.
    async fn commit(
        &mut self,
        appends: Vec<(TopicPartition, Bytes)>,
        positions: Option<GroupPositions>,
    ) -> Result<Vec<Position>, EngineError>;
}

/// One consumer of a group. Dropping it leaves the group when the engine notices; [`GroupMember::leave`] at once.
#[async_trait]
pub trait GroupMember: Send + fmt::Debug {
    /// The next change of this member's partitions; waits until there is one. Safe to drop and call again.
    async fn next_event(&mut self) -> Result<GroupEvent, EngineError>;

    /// Stores where the group stands: the positions of the records to be read next. Durable when it returns.
    async fn commit(&mut self, positions: &[(TopicPartition, Position)]) -> Result<(), EngineError>;

    /// Leaves the group, so that the others take over at once.
    async fn leave(self: Box<Self>) -> Result<(), EngineError>;
}
