//! What a transactional id is, and how it moves from one state to the next.
//!
//! ```text
//!            join           end                        markers
//! Empty ──────────▶ Ongoing ─────▶ PrepareCommit/Abort ───────▶ CompleteCommit/Abort
//!   ▲                  ▲                                             │   │
//!   │                  └──────────────────── join ───────────────────┘   │
//!   └─────────────────────────── init_producer ──────────────────────────┘
//! ```
//!
//! A step makes a new [`TransactionMetadata`] of the one before, as Kafka's `TransactionMetadata.prepare*` do; the
//! coordinator takes it over when it may.

use std::collections::BTreeSet;
use std::time::Duration;

use anabranch_core::planted::{self, Bug};
use anabranch_core::{ProducerEpoch, ProducerId, TopicPartition};

use super::error::TransactionError;
use super::event::{EndKind, Token};

/// The last epoch that is given to a client. The one above is for the marker of whoever has it.
pub(super) const EPOCH_MAX: ProducerEpoch = ProducerEpoch(i16::MAX - 1);

/// Where a transactional id is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// A producer was given the id, and has not begun a transaction.
    Empty,
    /// A transaction has partitions.
    Ongoing,
    /// It is decided that the transaction commits; not all markers are written.
    PrepareCommit,
    /// It is decided that the transaction aborts; not all markers are written.
    PrepareAbort,
    /// The transaction has committed.
    CompleteCommit,
    /// The transaction was aborted.
    CompleteAbort,
}

impl State {
    /// All of them, in the order of Kafka's numbers.
    pub const ALL: [Self; 6] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
    ];

    /// As Kafka writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
        }
    }

    /// Kafka's `TransactionState.id`.
    pub(super) const fn id(self) -> i8 {
        self as i8
    }

    pub(super) fn of(id: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.id() == id)
    }

    pub(super) const fn prepare(kind: EndKind) -> Self {
        match kind {
            EndKind::Abort => Self::PrepareAbort,
            EndKind::Commit => Self::PrepareCommit,
        }
    }

    const fn complete(kind: EndKind) -> Self {
        match kind {
            EndKind::Abort => Self::CompleteAbort,
            EndKind::Commit => Self::CompleteCommit,
        }
    }

    /// How the transaction ends whose end is decided, and not done.
    pub(super) const fn preparing(self) -> Option<EndKind> {
        match self {
            Self::PrepareAbort => Some(EndKind::Abort),
            Self::PrepareCommit => Some(EndKind::Commit),
            _ => None,
        }
    }

    /// How the last transaction ended.
    pub(super) const fn completed(self) -> Option<EndKind> {
        match self {
            Self::CompleteAbort => Some(EndKind::Abort),
            Self::CompleteCommit => Some(EndKind::Commit),
            _ => None,
        }
    }
}

/// Which rules a client's request follows (KIP-890): from 2 on, each end gives the producer a new epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransactionVersion {
    /// `AddPartitionsToTxn` below 4, `EndTxn` below 5.
    V0,
    /// From those on, and `Produce` from 12 and `TxnOffsetCommit` from 5 on.
    V2,
}

impl TransactionVersion {
    /// Kafka's feature level.
    #[must_use]
    pub const fn level(self) -> i16 {
        match self {
            Self::V0 => 0,
            Self::V2 => 2,
        }
    }

    /// Level 1 differs from 0 only in how records are written.
    pub(super) const fn of(level: i16) -> Option<Self> {
        match level {
            0 | 1 => Some(Self::V0),
            2 => Some(Self::V2),
            _ => None,
        }
    }
}

/// What is stored of a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionMetadata {
    /// Who may use the id.
    pub producer: ProducerId,
    /// Who could before the last step, which is mostly the same.
    pub previous: ProducerId,
    /// Who will when the end is done, if the epochs are exhausted.
    pub next: ProducerId,
    /// The newest epoch.
    pub epoch: ProducerEpoch,
    /// The one before, if the client that asked for the newest knew it. Not stored.
    pub last_epoch: ProducerEpoch,
    /// How long a transaction may last.
    pub timeout_ms: i32,
    /// Where the id is in its life.
    pub state: State,
    /// What is in the transaction.
    pub partitions: BTreeSet<TopicPartition>,
    /// When the transaction began, ms since the Unix epoch; -1 before the first.
    pub started_ms: i64,
    /// When the last step was, ms since the Unix epoch.
    pub updated_ms: i64,
    /// Of the client that made the last step.
    pub version: TransactionVersion,
}

impl TransactionMetadata {
    /// A transactional id whose producer has no epoch yet.
    pub(super) fn new(producer: ProducerId, timeout_ms: i32, now_ms: i64) -> Self {
        Self {
            producer,
            previous: ProducerId::NONE,
            next: ProducerId::NONE,
            epoch: ProducerEpoch::NONE,
            last_epoch: ProducerEpoch::NONE,
            timeout_ms,
            state: State::Empty,
            partitions: BTreeSet::new(),
            started_ms: -1,
            updated_ms: now_ms,
            version: TransactionVersion::V0,
        }
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.epoch >= EPOCH_MAX
    }

    /// Whether a request comes from the newest incarnation. Nobody has epoch -1.
    pub(super) fn check(&self, producer: ProducerId, epoch: ProducerEpoch) -> Result<(), TransactionError> {
        if producer != self.producer {
            Err(TransactionError::InvalidProducerIdMapping)
        } else if epoch != self.epoch && !planted::is(Bug::FencedByIdOnly) || epoch < ProducerEpoch(0) {
            Err(TransactionError::ProducerFenced)
        } else {
            Ok(())
        }
    }

    /// Whether who says that it has been `producer` in `epoch` may ask for the next epoch. The previous producer may, if
    /// its epochs were exhausted: it may not have heard the answer.
    pub(super) fn admits(&self, producer: ProducerId, epoch: ProducerEpoch) -> bool {
        self.epoch == ProducerEpoch::NONE
            || producer == self.producer
            || producer == self.previous && epoch >= EPOCH_MAX
    }

    /// A new incarnation of the same producer, or the same once more for a client that did not hear of it.
    pub(super) fn incremented(
        &self,
        expected: Option<ProducerEpoch>,
        timeout_ms: i32,
        now_ms: i64,
    ) -> Result<Self, TransactionError> {
        let (epoch, last_epoch) = match expected {
            None => (self.bumped(), ProducerEpoch::NONE),
            Some(expected) if expected == self.epoch || self.epoch == ProducerEpoch::NONE => {
                (self.bumped(), self.epoch)
            }
            Some(expected) if expected == self.last_epoch => (self.epoch, self.last_epoch),
            Some(_) => return Err(TransactionError::ProducerFenced),
        };
        Ok(Self { epoch, last_epoch, ..self.emptied(timeout_ms, now_ms) })
    }

    /// A new producer, since the epochs of this one are exhausted.
    pub(super) fn rotated(
        &self,
        producer: ProducerId,
        knows_last: bool,
        timeout_ms: i32,
        now_ms: i64,
    ) -> Self {
        let last_epoch = if knows_last { self.epoch } else { ProducerEpoch::NONE };
        Self { producer, epoch: ProducerEpoch(0), last_epoch, ..self.emptied(timeout_ms, now_ms) }
    }

    /// More partitions, in the transaction that is ongoing or begins.
    pub(super) fn joined(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
        version: TransactionVersion,
        now_ms: i64,
    ) -> Self {
        let mut joined = self.clone();
        joined.partitions.extend(partitions);
        joined.started_ms = if self.state == State::Ongoing { self.started_ms } else { now_ms };
        joined.version = version;
        joined.step_to(State::Ongoing, now_ms)
    }

    /// The decision. By the rules of version 2 the epoch of the marker fences whoever wrote the data; where that is the
    /// last epoch of all, `next` goes on.
    pub(super) fn prepared(
        &self,
        kind: EndKind,
        version: TransactionVersion,
        next: ProducerId,
        now_ms: i64,
    ) -> Self {
        let mut prepared = self.clone();
        if version == TransactionVersion::V2 {
            prepared.last_epoch = self.epoch;
            prepared.epoch = self.bumped();
        }
        // Version 2 aborts what has no partitions, too, and so no beginning.
        if self.state != State::Ongoing {
            prepared.started_ms = now_ms;
        }
        prepared.next = next;
        prepared.version = version;
        prepared.step_to(State::prepare(kind), now_ms)
    }

    /// After the markers.
    ///
    /// # Panics
    /// If nothing was decided.
    pub(super) fn ended(&self, now_ms: i64) -> Self {
        let kind = self.state.preparing().expect("what ends was prepared");
        let mut ended = self.clone();
        if self.version == TransactionVersion::V2 && self.next.is_some() {
            ended.producer = self.next;
            ended.epoch = ProducerEpoch(0);
        }
        ended.next = ProducerId::NONE;
        ended.partitions.clear();
        Self { previous: self.producer, ..ended.step_to(State::complete(kind), now_ms) }
    }

    fn emptied(&self, timeout_ms: i32, now_ms: i64) -> Self {
        let mut emptied = self.clone();
        emptied.timeout_ms = timeout_ms;
        emptied.partitions.clear();
        emptied.started_ms = -1;
        emptied.step_to(State::Empty, now_ms)
    }

    /// Every step notes who could use the id before it.
    fn step_to(self, state: State, now_ms: i64) -> Self {
        Self { previous: self.producer, state, updated_ms: now_ms, ..self }
    }

    /// Never beyond the last: nobody is given it, so nothing is lost when it stays.
    fn bumped(&self) -> ProducerEpoch {
        ProducerEpoch(self.epoch.0.saturating_add(1))
    }
}

/// A transactional id as the coordinator keeps it.
pub(super) struct Transaction {
    pub(super) metadata: TransactionMetadata,
    /// A producer id is being taken, or a record stored that decides what comes next: nothing else may change meanwhile.
    pub(super) is_pending: bool,
    /// Of the transaction that is ongoing, or was last. What it numbers is never open twice.
    pub(super) ordinal: u64,
    /// When the ongoing transaction has lasted too long, on the monotonic clock.
    pub(super) expires: Duration,
    /// The newest store of partitions, while it is under way.
    pub(super) joining: Option<Token>,
    /// Whether partitions are in the transaction that the log does not know: their store failed.
    pub(super) is_unstored: bool,
    /// The end was decided before the start.
    pub(super) is_restored: bool,
    /// How often markers could not be written.
    pub(super) failures: u32,
    /// When to write the missing ones, on the monotonic clock.
    pub(super) retry: Duration,
    /// As it stands in the index.
    pub(super) indexed: Option<Duration>,
}

impl Transaction {
    pub(super) fn new(metadata: TransactionMetadata) -> Self {
        Self {
            metadata,
            is_pending: false,
            ordinal: 0,
            expires: Duration::ZERO,
            joining: None,
            is_unstored: false,
            is_restored: false,
            failures: 0,
            retry: Duration::ZERO,
            indexed: None,
        }
    }
}
