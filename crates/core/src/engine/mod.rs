//! The seam above which an application survives outgrowing one machine.
//!
//! What is written against [`Engine`] runs on the embedded broker, on Apache Kafka and on NATS. The seam is small and
//! honest: an engine says what it can do ([`Engine::description`]), and whoever needs more than that is told at the start
//! ([`Engine::require`]), not at the worst moment. Nothing is downgraded in silence.
//!
//! What holds for all of it:
//!
//! * **Dropped futures.** [`Engine::append`], [`TransactionalProducer::commit`], [`GroupMember::commit`] and
//!   [`QueueConsumer::settle`] hand everything to the engine before they wait for the first time: when their future is dropped, the outcome is unknown, and later calls
//!   come behind it. Every other future can be dropped, and called again, and nothing is lost.
//! * **Order.** Of two appends to one partition by one engine, the second called after the first was polled, the first is
//!   stored first, if both are.
//! * **Retries.** The engine tries again what failed for a moment, and stores it once. Whoever calls tries again after
//!   [`EngineError::Away`] and [`EngineError::Aborted`], of which nothing was done. After [`EngineError::Failed`] nobody
//!   knows.

mod admin;
mod block;
mod capability;
mod carried;
mod error;
mod group;
mod queue;
mod topic;
mod transaction;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

pub use self::admin::{Admin, GroupInfo, MemberInfo, PartitionInfo, TopicConfig, TopicInfo};
pub use self::block::{Block, Payload};
pub use self::capability::{Capability, Description, ENGINES, Limits, Missing, Support, Unsuitable};
pub use self::carried::{Carried, Elsewhere, LastWord, Noted, Untranslatable};
pub use self::error::EngineError;
pub use self::group::{GroupEvent, GroupMember, GroupPositions};
pub use self::queue::{
    DEAD_COUNT, DEAD_GROUP, DEAD_INCOMPLETE, DEAD_REASON, DELIVER_AT_MS, Delivery, EXPIRES_AT_MS,
    QueueConsumer, QueueSpec, Queues, SOURCE_PARTITION, SOURCE_POSITION, SOURCE_TOPIC, Settlement,
    TakeLimits, Ticket, Times, TooLate, dead_letter, stripped,
};
pub use self::topic::{Ensured, TopicSpec};
pub use self::transaction::{TransactionalProducer, Transactions};
use crate::batch::RecordAt;
use crate::{Offset, TopicPartition};

/// A place in a partition, ordered within it and otherwise opaque: an offset in Kafka, a sequence in other systems.
/// A position names the record that is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Offset> for Position {
    /// Offsets of records are never negative.
    fn from(offset: Offset) -> Self {
        Self(offset.0.unsigned_abs())
    }
}

impl From<Position> for Offset {
    /// A position that no offset can have is past every end.
    fn from(position: Position) -> Self {
        Self(i64::try_from(position.0).unwrap_or(i64::MAX))
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
    /// As much as the engine can promise (`acks=all`). Whether that is the loss of a node or of power is told by
    /// [`Capability::SurvivesNodeLoss`] and [`Capability::SurvivesPowerLoss`].
    #[default]
    Durable,
}

/// What is asked of an append.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppendOptions {
    /// When it is acknowledged.
    pub durability: Durability,
    /// Appends only if the partition ends here, and fails with [`EngineError::NotAtEnd`] otherwise. Needs
    /// [`Capability::ConditionalAppend`].
    pub expected: Option<Position>,
    /// Stores what is appended again under this id once, for as long as the engine remembers ids. Needs
    /// [`Capability::AppendIds`].
    pub id: Option<String>,
}

impl AppendOptions {
    /// No conditions.
    #[must_use]
    pub fn new(durability: Durability) -> Self {
        Self { durability, ..Self::default() }
    }
}

/// Where records were stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The first record.
    pub first: Position,
    /// After the last. Others' records may be in between, unless the engine has [`Capability::AtomicAppend`] or it was a
    /// transaction.
    pub next: Position,
    /// They had been stored before, under the same id.
    pub duplicate: bool,
}

/// How much to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// Whole batches or records up to this size; the first comes whole even when it is larger.
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
    /// The records.
    pub block: Block,
    /// Where to read next: also behind what is not shown.
    pub next: Position,
    /// After the newest visible record, when this was read: the difference to `next` is the lag, at most.
    pub latest: Position,
}

/// A place where topics live.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug {
    /// What the engine is and can do.
    fn description(&self) -> &Description;

    /// Fails unless the engine has all of `needs`.
    ///
    /// # Errors
    /// [`Unsuitable`] names everything that is missing, and who has it.
    fn require(&self, needs: &[Capability]) -> Result<(), Unsuitable> {
        self.description().require(needs)
    }

    /// Creates the topic unless it is there with as many partitions. When it returns, this client can use it, and others a
    /// moment later.
    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<Ensured, EngineError>;

    /// How many partitions the topic has.
    async fn partition_count(&self, topic: &str) -> Result<i32, EngineError>;

    /// Appends to a partition; tells where, once it is as durable as asked. Dropping the future does not take the append
    /// back. Every client is shown what is durable; what is but written may be shown a moment later.
    async fn append(
        &self,
        to: &TopicPartition,
        what: Payload,
        how: AppendOptions,
    ) -> Result<Appended, EngineError>;

    /// The position of `place`.
    async fn locate(&self, partition: &TopicPartition, place: Place) -> Result<Position, EngineError>;

    /// Reads `partition` from `from` on. Where to begin is looked at when it reads for the first time.
    async fn reader(
        &self,
        partition: &TopicPartition,
        from: Position,
    ) -> Result<Box<dyn Reader>, EngineError>;

    /// Deletes the records before `before`, and tells where the oldest one is now; behind the latest place is out of range.
    /// Needs [`Capability::Trim`].
    async fn trim(&self, partition: &TopicPartition, before: Position) -> Result<Position, EngineError>;

    /// Joins `group` as a consumer of `topics`.
    async fn join(&self, group: &str, topics: &[String]) -> Result<Box<dyn GroupMember>, EngineError>;

    /// There if the engine has [`Capability::Transactions`].
    fn transactions(&self) -> Option<&dyn Transactions> {
        None
    }

    /// There if the engine has [`Capability::Queue`].
    fn queues(&self) -> Option<&dyn Queues> {
        None
    }

    /// For those who operate it.
    fn admin(&self) -> &dyn Admin;

    /// Ends what is under way, as far as that is soon, and lets go of everything. Later calls, and waits that are under way,
    /// fail with [`EngineError::Closed`]; so do those of its readers, members and producers.
    async fn close(&self);
}

/// Reads one partition, one block after the other. It holds no more than about two blocks of the size that was last asked
/// for.
#[async_trait]
pub trait Reader: Send + fmt::Debug {
    /// What is read next.
    fn position(&self) -> Position;

    /// Reads what follows [`Reader::position`], waiting for it as long as `limits` say; nothing when the wait was in vain,
    /// also when what there is came too late.
    /// Records of a transaction are shown when it is committed, and nothing else of it ever is. In the end it comes to
    /// every `latest` that it told, also where nothing is shown. After an error the position is as it was.
    async fn read(&mut self, limits: ReadLimits) -> Result<Fetched, EngineError>;

    /// Reads from `to` next. To go on at [`Reader::position`] costs nothing; a jump may cost a request.
    fn seek(&mut self, to: Position);
}

/// Shows `each` the records that `topic` holds now, partition by partition, in order.
///
/// # Errors
/// The engine's, or those of `each`.
pub async fn for_each_record<E: From<EngineError>>(
    engine: &dyn Engine,
    topic: &str,
    mut each: impl FnMut(RecordAt) -> Result<(), E>,
) -> Result<(), E> {
    for partition in 0..engine.partition_count(topic).await? {
        let partition = TopicPartition::new(topic, partition);
        let start = engine.locate(&partition, Place::Earliest).await?;
        let end = engine.locate(&partition, Place::Latest).await?;
        let mut reader = engine.reader(&partition, start).await?;
        while reader.position() < end {
            let from = reader.position();
            let mut records = reader
                .read(ReadLimits::default())
                .await?
                .block
                .into_records(from)
                .map_err(EngineError::Batch)?;
            records.retain(|at| Position::from(at.offset) < end);
            records.into_iter().try_for_each(&mut each)?;
        }
    }
    Ok(())
}
