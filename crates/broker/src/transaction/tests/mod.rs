//! Behaviour of the coordinator as its driver sees it.

mod ends;
mod inits;
mod joins;
mod restarts;
mod simulation;
mod times;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use anabranch_core::{ProducerEpoch, ProducerId, TopicPartition};

use super::event::{End, How, InitProducer, Join, Joined};
use super::record::{Decoded, EncodedRecord, TransactionRecord};
use super::restore::Open;
use super::state::Transaction;
use super::{
    Effect, EndKind, EndTransaction, Now, RequestId, Response, Restore, State, StoreError, Token,
    TransactionConfig, TransactionError, TransactionMetadata, TransactionVersion, Transactions,
};
use TransactionVersion::{V0, V2};

const ID: &str = "id";
const MINUTE_MS: i32 = 60_000;

/// A write that is under way.
#[derive(Debug, Clone, PartialEq)]
enum Write {
    Store(Token, EncodedRecord),
    End(Token, EndTransaction),
}

/// A driver without a disk: writes end, and producer ids come, when the test says so.
struct Driver {
    transactions: Transactions,
    config: TransactionConfig,
    now: Now,
    last_request: u64,
    next_producer: i64,
    answers: BTreeMap<RequestId, Response>,
    admitted: BTreeMap<RequestId, u64>,
    writes: VecDeque<Write>,
    takes: VecDeque<Token>,
    log: Vec<EncodedRecord>,
    /// Everything that was ended, in this order.
    ends: Vec<EndTransaction>,
    /// Writes end at once, well, and producer ids come at once.
    is_prompt: bool,
}

/// What a coordinator is that starts with this log.
fn restored(log: &[EncodedRecord], config: &TransactionConfig, now: Now) -> (Transactions, Vec<Effect>) {
    let mut restore = Restore::default();
    for record in log {
        restore.apply(&record.key, record.value.as_deref()).unwrap();
    }
    restore.finish(config.clone(), now)
}

impl Driver {
    fn new() -> Self {
        Self::with(TransactionConfig::default())
    }

    fn with(config: TransactionConfig) -> Self {
        let now = Now { monotonic: Duration::from_secs(1000), unix_ms: 1_700_000_000_000 };
        Self {
            transactions: Transactions::new(config.clone(), now),
            config,
            now,
            last_request: 0,
            next_producer: 100,
            answers: BTreeMap::new(),
            admitted: BTreeMap::new(),
            writes: VecDeque::new(),
            takes: VecDeque::new(),
            log: Vec::new(),
            ends: Vec::new(),
            is_prompt: true,
        }
    }

    /// One transactional id, as it is said to be.
    fn of(metadata: TransactionMetadata) -> Self {
        let mut driver = Self::new();
        let mut transaction = Transaction::new(metadata);
        transaction.ordinal = 7;
        transaction.expires = driver.now.monotonic + Duration::from_secs(60);
        driver.transactions.last_ordinal = 7;
        driver.transactions.by_id.insert(ID.to_owned(), transaction);
        driver.transactions.index(ID, driver.now);
        driver.is_prompt = false;
        driver
    }

    fn next(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer { request, response } => {
                    if let Response::Join(Ok(joined)) = &response {
                        let admitted = self.admitted.get(&request);
                        assert_eq!(admitted, Some(&joined.ordinal), "{request:?} is admitted first");
                    }
                    let before = self.answers.insert(request, response);
                    assert_eq!(before, None, "{request:?} is answered twice");
                }
                Effect::Admit { request, ordinal } => {
                    let before = self.admitted.insert(request, ordinal);
                    assert_eq!(before, None, "{request:?} is admitted twice");
                }
                Effect::TakeProducerId { token } => self.takes.push_back(token),
                Effect::Store { token, record } => self.writes.push_back(Write::Store(token, record)),
                Effect::End { token, end } => self.writes.push_back(Write::End(token, end)),
            }
        }
        while self.is_prompt && (!self.writes.is_empty() || !self.takes.is_empty()) {
            if self.takes.is_empty() { self.end_write(Ok(Vec::new())) } else { self.give(true) }
        }
    }

    /// Answers who waits longest for a producer id.
    fn give(&mut self, is_there: bool) {
        let token = self.takes.pop_front().expect("somebody waits for a producer id");
        self.next_producer += 1;
        let outcome = if is_there { Ok(ProducerId(self.next_producer)) } else { Err(StoreError::Full) };
        let effects = self.transactions.producer_id(token, outcome, self.now);
        self.perform(effects);
    }

    /// Ends the oldest write; without some markers, if it has any.
    fn end_write(&mut self, outcome: Result<Vec<TopicPartition>, StoreError>) {
        let write = self.writes.pop_front().expect("a write is under way");
        let effects = match write {
            Write::Store(token, record) => {
                if outcome.is_ok() {
                    self.log.push(record);
                }
                self.transactions.stored(token, outcome.map(|_| ()), self.now)
            }
            Write::End(token, end) => {
                if let Ok(missing) = &outcome {
                    self.log.extend(logged(&end, missing));
                    self.ends.push(end);
                }
                self.transactions.ended(token, outcome, self.now)
            }
        };
        self.perform(effects);
    }

    fn advance(&mut self, by: Duration) {
        self.now.monotonic += by;
        self.now.unix_ms += i64::try_from(by.as_millis()).unwrap();
        self.tick();
    }

    fn tick(&mut self) {
        let effects = self.transactions.tick(self.now);
        self.perform(effects);
        let next = self.transactions.next_deadline();
        assert!(next.is_none_or(|next| next > self.now.monotonic), "a tick does all that is due");
    }

    /// The same transactional ids after a restart; what has not ended well by then is lost.
    fn restart(&mut self) {
        let (transactions, effects) = restored(&self.log, &self.config, self.now);
        self.transactions = transactions;
        self.writes.clear();
        self.takes.clear();
        self.answers.clear();
        self.admitted.clear();
        self.perform(effects);
    }

    fn init(&mut self, expected: Option<(i64, i16)>) -> RequestId {
        let expected = expected.map(|(producer, epoch)| (ProducerId(producer), ProducerEpoch(epoch)));
        self.send_init(InitProducer { id: ID.into(), timeout_ms: MINUTE_MS, expected })
    }

    fn send_init(&mut self, init: InitProducer) -> RequestId {
        let request = self.next();
        let effects = self.transactions.init_producer(request, init, self.now);
        self.perform(effects);
        request
    }

    fn send_join(&mut self, join: Join) -> RequestId {
        let request = self.next();
        let effects = self.transactions.join(request, join, self.now);
        self.perform(effects);
        request
    }

    fn send_end(&mut self, end: &End) -> RequestId {
        let request = self.next();
        let effects = self.transactions.end(request, end, self.now);
        self.perform(effects);
        request
    }

    fn waits(&self, request: RequestId) -> bool {
        !self.answers.contains_key(&request)
    }

    fn initialized(&mut self, request: RequestId) -> Result<(i64, i16), TransactionError> {
        match self.answers.remove(&request).expect("the request is answered") {
            Response::InitProducer(result) => result.map(|(producer, epoch)| (producer.0, epoch.0)),
            other => panic!("{other:?}"),
        }
    }

    fn joined(&mut self, request: RequestId) -> Result<Joined, TransactionError> {
        match self.answers.remove(&request).expect("the request is answered") {
            Response::Join(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn ended(&mut self, request: RequestId) -> Result<(i64, i16), TransactionError> {
        match self.answers.remove(&request).expect("the request is answered") {
            Response::End(result) => result.map(|(producer, epoch)| (producer.0, epoch.0)),
            other => panic!("{other:?}"),
        }
    }

    fn metadata(&self) -> &TransactionMetadata {
        &self.transactions.by_id[ID].metadata
    }

    fn state(&self) -> State {
        self.metadata().state
    }
}

/// What an end leaves in the coordinator's topic.
fn logged(end: &EndTransaction, missing: &[TopicPartition]) -> Option<EncodedRecord> {
    if missing.is_empty() { Some(end.completed.clone()) } else { end.prepared.clone() }
}

fn decoded(record: &EncodedRecord) -> TransactionRecord {
    match TransactionRecord::decode(&record.key, record.value.as_deref()).unwrap() {
        Decoded::Record(record) => record,
        Decoded::Unknown { key_version } => panic!("key version {key_version} was written"),
    }
}

/// Producer 5, which was 4 once.
fn metadata(state: State, epoch: i16) -> TransactionMetadata {
    let has_partitions = matches!(state, State::Ongoing | State::PrepareCommit | State::PrepareAbort);
    TransactionMetadata {
        producer: ProducerId(5),
        previous: ProducerId(4),
        next: ProducerId::NONE,
        epoch: ProducerEpoch(epoch),
        last_epoch: ProducerEpoch(epoch - 1),
        timeout_ms: MINUTE_MS,
        state,
        partitions: if has_partitions { [part(0)].into() } else { [].into() },
        started_ms: if state == State::Empty { -1 } else { 1_699_999_990_000 },
        updated_ms: 1_699_999_995_000,
        version: V2,
    }
}

fn part(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn join(producer: i64, epoch: i16, partitions: &[i32], how: How) -> Join {
    let partitions = partitions.iter().copied().map(part).collect();
    Join { id: ID.into(), producer: ProducerId(producer), epoch: ProducerEpoch(epoch), partitions, how }
}

fn end(producer: i64, epoch: i16, kind: EndKind, version: TransactionVersion) -> End {
    End { id: ID.into(), producer: ProducerId(producer), epoch: ProducerEpoch(epoch), kind, version }
}
