//! A producer, and what it makes of the answers.

use std::collections::BTreeSet;

use super::*;

pub(super) type Identity = (ProducerId, ProducerEpoch);

/// A producer as a client library drives it.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) id: usize,
    pub(super) is_alive: bool,
    pub(super) identity: Option<Identity>,
    /// Which incarnation of the transactional id it is, counted by those that were told.
    pub(super) incarnation: u64,
    /// Says who it was when it asks for an epoch.
    pub(super) expects: bool,
    pub(super) phase: Phase,
    pub(super) waits: Option<RequestId>,
    /// Of the first rules: what is added.
    pub(super) added: BTreeSet<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Phase {
    MustInit,
    Idle,
    /// The number of the transaction.
    Writes(usize),
    MustEnd(usize, EndKind),
}

impl Client {
    pub(super) fn new(id: usize) -> Self {
        Self {
            id,
            is_alive: true,
            identity: None,
            incarnation: 0,
            expects: false,
            phase: Phase::MustInit,
            waits: None,
            added: BTreeSet::new(),
        }
    }

    /// The process is gone; another comes, which may know who it was.
    pub(super) fn begin_anew(&mut self, expects: bool) {
        self.waits = None;
        self.phase = Phase::MustInit;
        self.expects = expects && self.identity.is_some();
    }

    pub(super) fn initialized(&mut self, result: Result<Identity, TransactionError>, incarnation: u64) {
        match result {
            Ok(identity) => {
                self.identity = Some(identity);
                self.incarnation = incarnation;
                self.phase = Phase::Idle;
            }
            Err(TransactionError::ProducerFenced) => self.begin_anew(false),
            Err(TransactionError::ConcurrentTransactions | TransactionError::CoordinatorNotAvailable) => {}
            Err(other) => panic!("a well-behaved client is told: {other}"),
        }
    }

    pub(super) fn added(&mut self, partition: i32, is_added: bool) {
        if is_added {
            self.added.insert(partition);
        }
    }

    pub(super) fn ended(&mut self, result: Result<Identity, TransactionError>) {
        match result {
            Ok(identity) => {
                self.identity = Some(identity);
                self.phase = Phase::Idle;
            }
            Err(TransactionError::ConcurrentTransactions | TransactionError::CoordinatorNotAvailable) => {}
            Err(
                TransactionError::ProducerFenced
                | TransactionError::InvalidProducerIdMapping
                | TransactionError::InvalidTxnState,
            ) => self.begin_anew(false),
            Err(other) => panic!("a well-behaved client is told: {other}"),
        }
    }
}
