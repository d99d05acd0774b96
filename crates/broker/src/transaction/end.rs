//! How a transaction ends: by its producer, by the next incarnation of it, or by time.

use anabranch_core::planted::{self, Bug};
use anabranch_core::{ProducerEpoch, ProducerId, TopicPartition};

use super::error::{StoreError, TransactionError};
use super::event::{Effect, End, EndKind, EndTransaction, Now, RequestId, Response, Token};
use super::record::{EncodedRecord, encode};
use super::state::{EPOCH_MAX, State, Transaction, TransactionMetadata, TransactionVersion};
use super::{Asked, InFlight, Taking, Transactions, Write, answer};

/// What a request to end comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It shall end.
    Ends,
    /// It has ended so before: the client did not hear of it.
    HasEnded,
}

impl Transactions {
    /// `EndTxn`; answered with [`Response::End`] when the end is decided, durably.
    #[must_use]
    pub fn end(&mut self, request: RequestId, end: &End, now: Now) -> Vec<Effect> {
        let verdict = self
            .visible(&end.id)
            .and_then(|known| known.ok_or(TransactionError::InvalidProducerIdMapping))
            .and_then(|transaction| {
                let verdict = match end.version {
                    TransactionVersion::V0 => judge_first(transaction, end),
                    TransactionVersion::V2 => judge_second(transaction, end),
                }?;
                Ok((verdict, transaction.identity()))
            });
        match verdict {
            Err(error) => answer(request, Response::End(Err(error))),
            Ok((Verdict::HasEnded, identity)) => answer(request, Response::End(Ok(identity))),
            Ok((Verdict::Ends, _)) => {
                if let Err(error) = self.check_load() {
                    return answer(request, Response::End(Err(error)));
                }
                self.begin_end(&end.id, end.kind, end.version, Asked::Producer(request), now)
            }
        }
    }

    /// Aborts what is ongoing, in an epoch that its producer does not have.
    pub(super) fn fence(&mut self, id: &str, asked: Asked, now: Now) -> Vec<Effect> {
        let version = match asked {
            Asked::Nobody if planted::is(Bug::TimedOutNotFenced) => TransactionVersion::V0,
            _ => TransactionVersion::V2,
        };
        self.begin_end(id, EndKind::Abort, version, asked, now)
    }

    fn begin_end(
        &mut self,
        id: &str,
        kind: EndKind,
        version: TransactionVersion,
        asked: Asked,
        now: Now,
    ) -> Vec<Effect> {
        let is_exhausted = self.known(id).metadata.is_exhausted();
        let effects = if version == TransactionVersion::V2 && is_exhausted {
            self.take(id, Taking::End { kind, version, asked })
        } else {
            self.submit_end(id, kind, version, ProducerId::NONE, asked, now)
        };
        self.index(id, now);
        effects
    }

    /// `next` takes over, if the epochs are exhausted.
    pub(super) fn submit_end(
        &mut self,
        id: &str,
        kind: EndKind,
        version: TransactionVersion,
        next: ProducerId,
        asked: Asked,
        now: Now,
    ) -> Vec<Effect> {
        let prepared = self.known(id).metadata.prepared(kind, version, next, now.unix_ms);
        let decision = encode(id, Some(&prepared));
        self.push_end(id, prepared, Some(decision), asked, now)
    }

    /// Completes an end that is decided.
    pub(super) fn end_again(&mut self, id: &str, now: Now) -> Vec<Effect> {
        let prepared = self.known(id).metadata.clone();
        let effects = self.push_end(id, prepared, None, Asked::Nobody, now);
        self.index(id, now);
        effects
    }

    fn push_end(
        &mut self,
        id: &str,
        prepared: TransactionMetadata,
        decision: Option<EncodedRecord>,
        asked: Asked,
        now: Now,
    ) -> Vec<Effect> {
        let kind = prepared.state.preparing().expect("what ends was prepared");
        let ended = prepared.ended(now.unix_ms);
        let token = self.token();
        let transaction = self.known(id);
        transaction.is_pending = true;
        let end = EndTransaction {
            producer: prepared.producer,
            epoch: prepared.epoch,
            kind,
            version: prepared.version,
            ordinal: transaction.ordinal,
            partitions: prepared.partitions.iter().cloned().collect(),
            only_open: transaction.is_restored,
            prepared: decision,
            completed: encode(id, Some(&ended)),
        };
        let write = Write::End { prepared, ended, asked };
        self.in_flight.push_back(InFlight { token, id: id.to_owned(), write });
        vec![Effect::End { token, end }]
    }

    /// The outcome of an [`Effect::End`]: the partitions that could not take their marker, after the decision was durable;
    /// or why nothing has happened.
    ///
    /// # Panics
    /// If the driver reports out of order, or twice.
    #[must_use]
    pub fn ended(
        &mut self,
        token: Token,
        outcome: Result<Vec<TopicPartition>, StoreError>,
        now: Now,
    ) -> Vec<Effect> {
        let InFlight { id, write, .. } = self.reported(token);
        let Write::End { prepared, ended, asked } = write else {
            panic!("the outcome of a store is told by stored()")
        };
        let (first, last) = self.config.marker_retry;
        let transaction = self.known(&id);
        transaction.is_pending = false;
        let response = match outcome {
            Ok(missing) => {
                // Kafka, too, answers when it is decided; and it tells the client who it will be.
                let identity = (ended.producer, ended.epoch);
                transaction.is_unstored = false;
                transaction.metadata = if missing.is_empty() {
                    ended
                } else {
                    TransactionMetadata { partitions: missing.into_iter().collect(), ..prepared }
                };
                Ok(identity)
            }
            Err(error) => Err(error.into()),
        };
        if transaction.metadata.state.preparing().is_some() {
            let wait = first.saturating_mul(2_u32.saturating_pow(transaction.failures));
            transaction.retry = now.monotonic + wait.min(last);
            transaction.failures = transaction.failures.saturating_add(1);
        } else {
            transaction.failures = 0;
            transaction.is_restored = false;
        }
        self.index(&id, now);
        asked.answer(response)
    }
}

/// By the rules before KIP-890, in the order of Kafka's `endTransactionWithTV1`.
fn judge_first(transaction: &Transaction, end: &End) -> Result<Verdict, TransactionError> {
    let metadata = &transaction.metadata;
    metadata.check(end.producer, end.epoch)?;
    if transaction.is_pending {
        return Err(TransactionError::ConcurrentTransactions);
    }
    match metadata.state {
        State::Ongoing => Ok(Verdict::Ends),
        state if state.completed() == Some(end.kind) => Ok(Verdict::HasEnded),
        state if state.preparing() == Some(end.kind) => Err(TransactionError::ConcurrentTransactions),
        _ => Err(TransactionError::InvalidTxnState),
    }
}

/// By the rules of KIP-890, in the order of Kafka's `endTransaction`. Who repeats a request is one epoch behind; or has the
/// last epoch of the producer id before.
fn judge_second(transaction: &Transaction, end: &End) -> Result<Verdict, TransactionError> {
    let metadata = &transaction.metadata;
    if transaction.is_pending {
        return Err(TransactionError::ConcurrentTransactions);
    }
    let is_current = end.epoch == metadata.epoch || planted::is(Bug::FencedByIdOnly);
    let is_ours = is_current && end.epoch >= ProducerEpoch(0);
    let is_bumped = end.epoch >= ProducerEpoch(0) && end.epoch.0.checked_add(1) == Some(metadata.epoch.0);
    let has_overflown =
        end.producer == metadata.previous && end.epoch == EPOCH_MAX && metadata.epoch == ProducerEpoch(0);
    if end.producer != metadata.producer && !has_overflown {
        return Err(TransactionError::InvalidProducerIdMapping);
    }
    let is_repeated = is_bumped || has_overflown;
    let is_valid = match metadata.state {
        State::Empty | State::Ongoing => is_ours,
        State::PrepareCommit | State::PrepareAbort => is_bumped,
        State::CompleteCommit | State::CompleteAbort => is_repeated || is_ours,
    };
    if !is_valid {
        return Err(TransactionError::ProducerFenced);
    }
    match metadata.state {
        State::Ongoing => Ok(Verdict::Ends),
        state if state.preparing() == Some(end.kind) => Err(TransactionError::ConcurrentTransactions),
        State::PrepareCommit | State::PrepareAbort => Err(TransactionError::InvalidTxnState),
        state if is_repeated && state.completed() == Some(end.kind) => Ok(Verdict::HasEnded),
        _ if is_repeated => Err(TransactionError::InvalidTxnState),
        // Nothing is in it; the producer cannot know that its last batches did not arrive.
        _ if end.kind == EndKind::Abort => Ok(Verdict::Ends),
        _ => Err(TransactionError::InvalidTxnState),
    }
}
