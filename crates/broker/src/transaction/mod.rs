//! The coordinator of transactions: who may write under a transactional id, what is in its transaction, and how that
//! ends (KIP-98, KIP-360, KIP-890).
//!
//! [`Transactions`] is a plain state machine. It does no I/O and reads no clock: the driver passes requests and the time
//! in, and does what the [`Effect`]s say.
//!
//! ```text
//!  request, Now ──▶ Transactions ──▶ Effect::Answer ──▶ client
//!                     ▲ ├──────────▶ Effect::Admit  ──▶ whoever appends in the transaction
//!                     │ ├──────────▶ Effect::Store  ──▶ __transaction_state
//!                     │ ├──────────▶ Effect::End    ──▶ __transaction_state and all partitions, at one durable point
//!                     │ └──────────▶ Effect::TakeProducerId
//!                     └── stored, ended, producer_id(token, outcome) ◀──┘
//!                     └── tick(Now), no later than next_deadline()
//! ```
//!
//! * [`config`]: limits and timeouts. [`error`]: what clients are told. [`event`]: requests, answers, effects.
//! * [`state`]: what a transactional id is, and its steps; `init`, `join`, `end`: what is asked of it.
//! * [`record`]: Kafka's own records, so that tools that read `__transaction_state` work. [`restore`]: back from them.
//!
//! Behaviour follows Kafka 4.3's `TransactionCoordinator`, with these differences, which no client can tell from another
//! timing:
//!
//! * Partitions that join are in the transaction at once, and their record is queued. All writes are in one order, so the
//!   end of the transaction stands behind them. A store that fails leaves them in: to end a partition that has nothing of
//!   the transaction harms nobody.
//! * Markers are written behind the decision, so a transaction that is ended is complete as a rule. It stays prepared only
//!   where a partition could not take its marker; that is tried again until it can.
//! * A transaction has an ordinal, which is never used again. The partitions refuse whatever comes with the ordinal of a
//!   transaction that has ended, so a late batch cannot open one that nobody would end.

pub mod config;
mod end;
pub mod error;
pub mod event;
mod init;
mod join;
pub mod record;
pub mod restore;
pub mod state;
#[cfg(test)]
mod tests;

pub use config::TransactionConfig;
pub use error::{StoreError, TransactionError};
pub use event::{Effect, EndKind, EndTransaction, Now, RequestId, Response, Token};
pub use restore::Restore;
pub use state::{State, TransactionMetadata, TransactionVersion};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use anabranch_core::{ProducerEpoch, ProducerId};

use config::ID_BYTES_MAX;
use event::{DescribedTransaction, Filter, InitProducer, Joined};
use record::{EncodedRecord, encode};
use state::Transaction;

/// All transactional ids of a node.
pub struct Transactions {
    config: TransactionConfig,
    by_id: BTreeMap<String, Transaction>,
    /// Transactional ids by when something happens to them by itself.
    deadlines: BTreeSet<(Duration, String)>,
    next_sweep: Duration,
    /// From when on ongoing transactions are looked at, once each interval.
    began: Duration,
    /// In the order of the log.
    in_flight: VecDeque<InFlight>,
    /// Producer ids that are on their way.
    taking: BTreeMap<Token, (String, Taking)>,
    next_token: u64,
    last_ordinal: u64,
}

struct InFlight {
    token: Token,
    id: String,
    write: Write,
}

/// What happens when a write is durable.
enum Write {
    Init { initialized: TransactionMetadata, request: RequestId },
    Join { requests: Vec<(RequestId, Joined)> },
    Expire,
    End { prepared: TransactionMetadata, ended: TransactionMetadata, asked: Asked },
}

/// What a producer id is for.
enum Taking {
    First { request: RequestId, init: InitProducer },
    Next { request: RequestId, init: InitProducer },
    End { kind: EndKind, version: TransactionVersion, asked: Asked },
}

/// Who wants a transaction to end.
#[derive(Debug, Clone, Copy)]
enum Asked {
    /// The producer.
    Producer(RequestId),
    /// Its next incarnation.
    Successor(RequestId),
    /// Time, or the start.
    Nobody,
}

impl Transactions {
    /// No transactional ids. To have those of before, use [`Restore`].
    #[must_use]
    pub fn new(config: TransactionConfig, now: Now) -> Self {
        let next_sweep = now.monotonic + config.id_expiration_check_interval;
        Self {
            config,
            by_id: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next_sweep,
            began: now.monotonic,
            in_flight: VecDeque::new(),
            taking: BTreeMap::new(),
            next_token: 0,
            last_ordinal: 0,
        }
    }

    /// The outcome of an [`Effect::TakeProducerId`].
    ///
    /// # Panics
    /// If the driver reports twice.
    #[must_use]
    pub fn producer_id(
        &mut self,
        token: Token,
        outcome: Result<ProducerId, StoreError>,
        now: Now,
    ) -> Vec<Effect> {
        let (id, taking) = self.taking.remove(&token).expect("a producer id is reported once");
        let producer = match outcome {
            Ok(producer) => producer,
            Err(error) => return self.not_taken(&id, &taking, error.into(), now),
        };
        match taking {
            Taking::First { request, init } => self.created(request, &init, producer, now),
            Taking::Next { request, init } => self.rotate(request, &init, producer, now),
            Taking::End { kind, version, asked } => self.submit_end(&id, kind, version, producer, asked, now),
        }
    }

    /// The outcome of an [`Effect::Store`].
    ///
    /// # Panics
    /// If the driver reports out of order, or twice: what is durable would no longer be what is shown.
    #[must_use]
    pub fn stored(&mut self, token: Token, outcome: Result<(), StoreError>, now: Now) -> Vec<Effect> {
        let InFlight { id, write, .. } = self.reported(token);
        let outcome = outcome.map_err(TransactionError::from);
        let transaction = self.known(&id);
        let effects = match write {
            Write::Init { initialized, request } => {
                transaction.is_pending = false;
                let response = outcome.map(|()| {
                    transaction.metadata = initialized;
                    transaction.identity()
                });
                answer(request, Response::InitProducer(response))
            }
            Write::Join { requests } => {
                if transaction.joining == Some(token) {
                    transaction.joining = None;
                }
                // The newest store has all that those before it have.
                transaction.is_unstored = outcome.is_err();
                let answer = |(request, joined)| {
                    let response = Response::Join(outcome.map(|()| joined));
                    Effect::Answer { request, response }
                };
                requests.into_iter().map(answer).collect()
            }
            Write::Expire => {
                transaction.is_pending = false;
                if outcome.is_ok() {
                    self.by_id.remove(&id);
                }
                return Vec::new();
            }
            Write::End { .. } => panic!("the outcome of an end is told by ended()"),
        };
        self.index(&id, now);
        effects
    }

    /// Lets time do its work. Harmless when nothing is due.
    #[must_use]
    pub fn tick(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some((due, id)) = self.deadlines.first().cloned().filter(|(due, _)| *due <= now.monotonic) {
            effects.extend(match self.known(&id).metadata.state {
                State::Ongoing => self.fence(&id, Asked::Nobody, now),
                _ => self.end_again(&id, now),
            });
            assert!(!self.deadlines.contains(&(due, id)), "what was due has happened");
        }
        if self.next_sweep <= now.monotonic {
            effects.extend(self.sweep(now));
        }
        effects
    }

    /// When [`Transactions::tick`] has something to do, on the monotonic clock; `None`: not before a request comes.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let sweep = (!self.by_id.is_empty()).then_some(self.next_sweep);
        self.deadlines.first().map(|(due, _)| *due).into_iter().chain(sweep).min()
    }

    /// `DescribeTransactions`.
    #[must_use]
    pub fn describe(&self, id: &str) -> Option<DescribedTransaction<'_>> {
        let (id, transaction) = self.by_id.get_key_value(id)?;
        transaction.describe(id)
    }

    /// `ListTransactions`, by id. What its pattern leaves out, the door does.
    pub fn list(&self, filter: &Filter, now: Now) -> impl Iterator<Item = DescribedTransaction<'_>> {
        self.by_id.iter().filter_map(|(id, transaction)| transaction.describe(id)).filter(move |described| {
            let is_long = |running_ms: i64| {
                running_ms < 0 || described.started_ms <= now.unix_ms.saturating_sub(running_ms)
            };
            (filter.states.is_empty() || filter.states.contains(&described.state))
                && (filter.producers.is_empty() || filter.producers.contains(&described.producer))
                && filter.running_ms.is_none_or(is_long)
        })
    }

    /// Ids that nobody has used for long are forgotten.
    fn sweep(&mut self, now: Now) -> Vec<Effect> {
        let kept_ms = i64::try_from(self.config.id_expiration.as_millis()).unwrap_or(i64::MAX);
        let is_expired = |transaction: &Transaction| {
            let TransactionMetadata { state, updated_ms, .. } = transaction.metadata;
            let is_idle = state == State::Empty || state.completed().is_some();
            is_idle && !transaction.is_pending && now.unix_ms.saturating_sub(updated_ms) >= kept_ms
        };
        let expired: Vec<String> = self
            .by_id
            .iter()
            .filter(|(_, transaction)| is_expired(transaction))
            .map(|(id, _)| id.clone())
            .take(self.config.stores_in_flight_max.saturating_sub(self.in_flight.len()))
            .collect();
        self.next_sweep = now.monotonic + self.config.id_expiration_check_interval;
        let mut effects = Vec::new();
        for id in expired {
            self.known(&id).is_pending = true;
            let record = encode(&id, None);
            effects.push(self.store(&id, record, Write::Expire));
        }
        effects
    }

    /// The transactional id, which is there: only an expired one goes away, and nothing is under way for such.
    fn known(&mut self, id: &str) -> &mut Transaction {
        self.by_id.get_mut(id).expect("what is under way belongs to a transactional id")
    }

    /// The transactional id as a client may see it: not before it has a producer.
    fn visible(&self, id: &str) -> Result<Option<&Transaction>, TransactionError> {
        check_id(id)?;
        Ok(self.by_id.get(id).filter(|transaction| transaction.metadata.producer.is_some()))
    }

    fn check_load(&self) -> Result<(), TransactionError> {
        let is_full = self.in_flight.len() + self.taking.len() >= self.config.stores_in_flight_max;
        if is_full { Err(TransactionError::CoordinatorNotAvailable) } else { Ok(()) }
    }

    fn token(&mut self) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        token
    }

    fn store(&mut self, id: &str, record: EncodedRecord, write: Write) -> Effect {
        let token = self.token();
        self.in_flight.push_back(InFlight { token, id: id.to_owned(), write });
        Effect::Store { token, record }
    }

    fn take(&mut self, id: &str, taking: Taking) -> Vec<Effect> {
        let token = self.token();
        self.known(id).is_pending = true;
        self.taking.insert(token, (id.to_owned(), taking));
        vec![Effect::TakeProducerId { token }]
    }

    fn not_taken(&mut self, id: &str, taking: &Taking, error: TransactionError, now: Now) -> Vec<Effect> {
        self.known(id).is_pending = false;
        let effects = match taking {
            Taking::First { request, .. } => {
                self.by_id.remove(id);
                return answer(*request, Response::InitProducer(Err(error)));
            }
            Taking::Next { request, .. } => answer(*request, Response::InitProducer(Err(error))),
            Taking::End { asked, .. } => asked.answer(Err(error)),
        };
        self.index(id, now);
        effects
    }

    fn reported(&mut self, token: Token) -> InFlight {
        self.in_flight
            .pop_front()
            .filter(|write| write.token == token)
            .expect("writes are reported once, in the order in which they were asked for")
    }

    /// Notes when something happens to `id` by itself. Called after whatever changes that.
    fn index(&mut self, id: &str, now: Now) {
        let Some(transaction) = self.by_id.get(id) else { return };
        let state = transaction.metadata.state;
        let due = if transaction.is_pending {
            None
        } else if state == State::Ongoing {
            // What has just been tried in vain is looked at again in its turn.
            Some(self.look_after(transaction.expires.max(now.monotonic)))
        } else {
            state.preparing().map(|_| transaction.retry)
        };
        let transaction = self.known(id);
        if transaction.indexed != due {
            let before = std::mem::replace(&mut transaction.indexed, due);
            if let Some(before) = before {
                self.deadlines.remove(&(before, id.to_owned()));
            }
            self.deadlines.extend(due.map(|due| (due, id.to_owned())));
        }
    }

    /// When transactions are looked at for the first time after `at`.
    fn look_after(&self, at: Duration) -> Duration {
        let interval = self.config.timeouts_check_interval.max(Duration::from_nanos(1));
        let waited = at.saturating_sub(self.began);
        let rest = Duration::from_nanos_u128(waited.as_nanos() % interval.as_nanos());
        at - rest + interval
    }
}

impl fmt::Debug for Transactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transactions")
            .field("ids", &self.by_id.len())
            .field("writes_in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}

impl Asked {
    /// Whoever comes next was not there before the end, and has to ask again.
    fn answer(self, outcome: Result<(ProducerId, ProducerEpoch), TransactionError>) -> Vec<Effect> {
        match self {
            Self::Producer(request) => answer(request, Response::End(outcome)),
            Self::Successor(request) => {
                let again = outcome.and(Err(TransactionError::ConcurrentTransactions));
                answer(request, Response::InitProducer(again))
            }
            Self::Nobody => Vec::new(),
        }
    }
}

impl Transaction {
    fn identity(&self) -> (ProducerId, ProducerEpoch) {
        (self.metadata.producer, self.metadata.epoch)
    }

    fn describe<'a>(&'a self, id: &'a str) -> Option<DescribedTransaction<'a>> {
        let TransactionMetadata { producer, epoch, state, timeout_ms, started_ms, .. } = self.metadata;
        let partitions = &self.metadata.partitions;
        producer.is_some().then_some(DescribedTransaction {
            id,
            state,
            producer,
            epoch,
            timeout_ms,
            started_ms,
            partitions,
        })
    }
}

fn check_id(id: &str) -> Result<(), TransactionError> {
    let is_valid = !id.is_empty() && id.len() <= ID_BYTES_MAX;
    if is_valid { Ok(()) } else { Err(TransactionError::InvalidRequest) }
}

fn answer(request: RequestId, response: Response) -> Vec<Effect> {
    vec![Effect::Answer { request, response }]
}
