//! Who may use a transactional id from now on.

use std::time::Duration;

use anabranch_core::{ProducerEpoch, ProducerId};

use super::error::TransactionError;
use super::event::{Effect, InitProducer, Now, RequestId, Response};
use super::record::encode;
use super::state::{State, Transaction, TransactionMetadata};
use super::{Asked, Taking, Transactions, Write, answer, check_id};

impl Transactions {
    /// `InitProducerId` with a transactional id: a new incarnation of its producer, which fences the one before. Answered
    /// with [`Response::InitProducer`] when it is durable. Without a transactional id, the request is not for this
    /// coordinator.
    #[must_use]
    pub fn init_producer(&mut self, request: RequestId, init: InitProducer, now: Now) -> Vec<Effect> {
        match self.check_init(&init) {
            Err(error) => answer(request, Response::InitProducer(Err(error))),
            Ok(()) if !self.by_id.contains_key(&init.id) => {
                // Nobody sees it before it has a producer.
                let nobody = TransactionMetadata::new(ProducerId::NONE, init.timeout_ms, now.unix_ms);
                let id = init.id.clone();
                self.by_id.insert(id.clone(), Transaction::new(nobody));
                self.take(&id, Taking::First { request, init })
            }
            Ok(()) => self.initialize(request, init, now),
        }
    }

    fn check_init(&self, init: &InitProducer) -> Result<(), TransactionError> {
        check_id(&init.id)?;
        let is_in_bounds = u64::try_from(init.timeout_ms)
            .is_ok_and(|ms| ms > 0 && Duration::from_millis(ms) <= self.config.timeout_max);
        if !is_in_bounds {
            return Err(TransactionError::InvalidTransactionTimeout);
        }
        self.check_load()?;
        if self.by_id.len() >= self.config.ids_max && !self.by_id.contains_key(&init.id) {
            return Err(TransactionError::PolicyViolation);
        }
        Ok(())
    }

    /// The first request for `init.id` has its producer id.
    pub(super) fn created(
        &mut self,
        request: RequestId,
        init: &InitProducer,
        producer: ProducerId,
        now: Now,
    ) -> Vec<Effect> {
        let transaction = self.known(&init.id);
        transaction.metadata = TransactionMetadata::new(producer, init.timeout_ms, now.unix_ms);
        self.increment(request, init, now)
    }

    /// In the order of Kafka's `prepareInitProducerIdTransit`.
    fn initialize(&mut self, request: RequestId, init: InitProducer, now: Now) -> Vec<Effect> {
        let transaction = self.known(&init.id);
        let metadata = &transaction.metadata;
        let refused = if transaction.is_pending {
            Some(TransactionError::ConcurrentTransactions)
        } else if init.expected.is_some_and(|(producer, epoch)| !metadata.admits(producer, epoch)) {
            Some(TransactionError::ProducerFenced)
        } else if metadata.state.preparing().is_some() {
            Some(TransactionError::ConcurrentTransactions)
        } else {
            None
        };
        if let Some(error) = refused {
            return answer(request, Response::InitProducer(Err(error)));
        }
        if metadata.state == State::Ongoing {
            return self.fence(&init.id, Asked::Successor(request), now);
        }
        let is_newest = init.expected.is_none_or(|(_, epoch)| epoch == metadata.epoch);
        if metadata.is_exhausted() && is_newest {
            let id = init.id.clone();
            return self.take(&id, Taking::Next { request, init });
        }
        self.increment(request, &init, now)
    }

    fn increment(&mut self, request: RequestId, init: &InitProducer, now: Now) -> Vec<Effect> {
        let expected: Option<ProducerEpoch> = init.expected.map(|(_, epoch)| epoch);
        match self.known(&init.id).metadata.incremented(expected, init.timeout_ms, now.unix_ms) {
            Err(error) => answer(request, Response::InitProducer(Err(error))),
            Ok(initialized) => self.store_init(request, &init.id, initialized),
        }
    }

    /// The epochs were exhausted, and a new producer id is there.
    pub(super) fn rotate(
        &mut self,
        request: RequestId,
        init: &InitProducer,
        producer: ProducerId,
        now: Now,
    ) -> Vec<Effect> {
        let metadata = &self.known(&init.id).metadata;
        let rotated = metadata.rotated(producer, init.expected.is_some(), init.timeout_ms, now.unix_ms);
        self.store_init(request, &init.id, rotated)
    }

    /// It counts when it is durable: until then the incarnation before may come back, and nothing else may happen.
    fn store_init(&mut self, request: RequestId, id: &str, initialized: TransactionMetadata) -> Vec<Effect> {
        self.known(id).is_pending = true;
        let record = encode(id, Some(&initialized));
        vec![self.store(id, record, Write::Init { initialized, request })]
    }
}
