//! What goes into the coordinator and what comes out of it.

use std::collections::BTreeSet;

pub use anabranch_core::batch::EndKind;
use anabranch_core::{ProducerEpoch, ProducerId, TopicPartition};

use super::error::TransactionError;
use super::record::EncodedRecord;
use super::state::{State, TransactionVersion};
pub use crate::group::{Now, RequestId};

/// Names what the driver was asked to do until its outcome is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub(super) u64);

/// What the driver must do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Answer a request. Each is answered once.
    Answer {
        /// Which.
        request: RequestId,
        /// With what.
        response: Response,
    },
    /// Whoever asked to join may append to the partitions, behind every write above this effect: when those are in the
    /// log's queue, not when they are durable. Precedes each good answer to a [`Join`].
    Admit {
        /// Which request.
        request: RequestId,
        /// Of the transaction, to append with.
        ordinal: u64,
    },
    /// Take a producer id, and report with [`super::Transactions::producer_id`]. In no order with the writes.
    TakeProducerId {
        /// To report with.
        token: Token,
    },
    /// Make a record durable, and report with [`super::Transactions::stored`]. Stores and ends are written, and reported,
    /// in the order in which they appear; they need not wait for each other.
    Store {
        /// To report with.
        token: Token,
        /// For the coordinator's topic.
        record: EncodedRecord,
    },
    /// End a transaction, and report with [`super::Transactions::ended`]. In one order with the stores.
    End {
        /// To report with.
        token: Token,
        /// How.
        end: EndTransaction,
    },
}

/// The end of a transaction: its markers, and the records that decide it (`anabranch_log::End`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndTransaction {
    /// The producer of the markers.
    pub producer: ProducerId,
    /// The epoch of the markers.
    pub epoch: ProducerEpoch,
    /// What the markers say.
    pub kind: EndKind,
    /// By which rules the partitions take the markers.
    pub version: TransactionVersion,
    /// Of the transaction: what appends with it, or an older one, comes too late then.
    pub ordinal: u64,
    /// Where the markers go, but for those that are no more.
    pub partitions: Vec<TopicPartition>,
    /// After a restart it is not known which have their marker: those where nothing is open need none. Otherwise they need
    /// one in any case, for what is still on its way comes too late behind it.
    pub only_open: bool,
    /// The decision by itself; `None` if it is durable.
    pub prepared: Option<EncodedRecord>,
    /// The decision, done.
    pub completed: EncodedRecord,
}

/// `InitProducerId` with a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitProducer {
    /// The transactional id.
    pub id: String,
    /// How long its transactions may last.
    pub timeout_ms: i32,
    /// Who the client has been, if it says (`InitProducerId` 3 and above).
    pub expected: Option<(ProducerId, ProducerEpoch)>,
}

/// `AddPartitionsToTxn`, and what other requests ask on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// The transactional id; empty is as good as none.
    pub id: String,
    /// Who.
    pub producer: ProducerId,
    /// In which incarnation.
    pub epoch: ProducerEpoch,
    /// Which. The door has checked that they exist, so that they bound what is kept.
    pub partitions: Vec<TopicPartition>,
    /// What is asked.
    pub how: How,
}

/// What a [`Join`] asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// That the partitions are in the transaction from now on.
    Add(TransactionVersion),
    /// Whether they are.
    Verify,
}

/// `EndTxn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The transactional id; empty is as good as none.
    pub id: String,
    /// Who.
    pub producer: ProducerId,
    /// In which incarnation.
    pub epoch: ProducerEpoch,
    /// How.
    pub kind: EndKind,
    /// By which rules.
    pub version: TransactionVersion,
}

/// What comes back, per kind of request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To [`InitProducer`].
    InitProducer(Result<(ProducerId, ProducerEpoch), TransactionError>),
    /// To [`Join`].
    Join(Result<Joined, TransactionError>),
    /// To [`End`]: who the client is from now on.
    End(Result<(ProducerId, ProducerEpoch), TransactionError>),
}

/// The answer to a [`Join`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Of the transaction, to append with.
    pub ordinal: u64,
    /// In the order of the request. What was added is there.
    pub partitions: Vec<Result<(), TransactionError>>,
}

/// Which transactional ids to list; what is empty or `None` asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those in one of the states.
    pub states: Vec<State>,
    /// Those of one of the producers.
    pub producers: Vec<ProducerId>,
    /// Those whose transaction began so long ago; or never, as in Kafka.
    pub running_ms: Option<i64>,
}

/// A transactional id, described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescribedTransaction<'a> {
    /// The transactional id.
    pub id: &'a str,
    /// Where it is in its life.
    pub state: State,
    /// Who may use it.
    pub producer: ProducerId,
    /// In which incarnation.
    pub epoch: ProducerEpoch,
    /// How long a transaction may last.
    pub timeout_ms: i32,
    /// When the transaction began, ms since the Unix epoch; -1 before the first.
    pub started_ms: i64,
    /// What is in it.
    pub partitions: &'a BTreeSet<TopicPartition>,
}
