//! What is in a transaction.

use std::time::Duration;

use super::error::TransactionError;
use super::event::{Effect, How, Join, Joined, Now, RequestId, Response};
use super::record::{EncodedRecord, encode};
use super::state::{State, TransactionMetadata, TransactionVersion};
use super::{InFlight, Transactions, Write, answer};

impl Transactions {
    /// Adds partitions to the transaction, which begins with the first, or says which are in it. Answered with
    /// [`Response::Join`] when that is durable; before each good answer there is an [`Effect::Admit`].
    #[must_use]
    pub fn join(&mut self, request: RequestId, join: Join, now: Now) -> Vec<Effect> {
        let done = match join.how {
            How::Add(version) => self.add(request, join, version, now),
            How::Verify => self.verify(&join).map(|joined| {
                let admit = Effect::Admit { request, ordinal: joined.ordinal };
                vec![admit, Effect::Answer { request, response: Response::Join(Ok(joined)) }]
            }),
        };
        done.unwrap_or_else(|error| answer(request, Response::Join(Err(error))))
    }

    /// In the order of Kafka's `handleAddPartitionsToTransaction`.
    fn add(
        &mut self,
        request: RequestId,
        join: Join,
        version: TransactionVersion,
        now: Now,
    ) -> Result<Vec<Effect>, TransactionError> {
        let transaction = self.visible(&join.id)?.ok_or(TransactionError::InvalidProducerIdMapping)?;
        let metadata = &transaction.metadata;
        if transaction.is_pending {
            return Err(TransactionError::ConcurrentTransactions);
        }
        metadata.check(join.producer, join.epoch)?;
        if metadata.state.preparing().is_some() {
            return Err(TransactionError::ConcurrentTransactions);
        }
        let added = vec![Ok(()); join.partitions.len()];
        let is_ongoing = metadata.state == State::Ongoing;
        let are_all_there = join.partitions.iter().all(|partition| metadata.partitions.contains(partition));
        if is_ongoing && are_all_there && !transaction.is_unstored {
            let ordinal = transaction.ordinal;
            return Ok(self.joined_before(request, &join.id, Joined { ordinal, partitions: added }));
        }
        self.check_load()?;
        let joined = metadata.joined(join.partitions, version, now.unix_ms);
        let record = encode(&join.id, Some(&joined));
        let bytes = record.key.len() + record.value.as_ref().map_or(0, bytes::Bytes::len);
        if bytes > self.config.record_bytes_max {
            return Err(TransactionError::UnknownServerError);
        }
        let ordinal = if is_ongoing { transaction.ordinal } else { self.last_ordinal + 1 };
        self.last_ordinal = self.last_ordinal.max(ordinal);
        let requests = vec![(request, Joined { ordinal, partitions: added })];
        let store = self.store_joined(&join.id, joined, record, requests);
        let transaction = self.known(&join.id);
        transaction.ordinal = ordinal;
        if !is_ongoing {
            transaction.expires = now.monotonic + timeout(transaction.metadata.timeout_ms);
        }
        self.index(&join.id, now);
        Ok(vec![store, Effect::Admit { request, ordinal }])
    }

    /// The partitions are in at once, and the answers wait for the store.
    pub(super) fn store_joined(
        &mut self,
        id: &str,
        joined: TransactionMetadata,
        record: EncodedRecord,
        requests: Vec<(RequestId, Joined)>,
    ) -> Effect {
        let token = self.token();
        self.in_flight.push_back(InFlight { token, id: id.to_owned(), write: Write::Join { requests } });
        let transaction = self.known(id);
        transaction.metadata = joined;
        transaction.joining = Some(token);
        Effect::Store { token, record }
    }

    /// All is there already. It is durable with the store that is under way, if there is one.
    fn joined_before(&mut self, request: RequestId, id: &str, joined: Joined) -> Vec<Effect> {
        let admit = Effect::Admit { request, ordinal: joined.ordinal };
        let under_way = self.known(id).joining.map(|token| {
            let at = self.in_flight.binary_search_by_key(&token, |write| write.token);
            &mut self.in_flight[at.expect("a store is in flight until it is reported")].write
        });
        match under_way {
            Some(Write::Join { requests }) => {
                requests.push((request, joined));
                vec![admit]
            }
            Some(_) => unreachable!("partitions join by a store of their own"),
            None => vec![admit, Effect::Answer { request, response: Response::Join(Ok(joined)) }],
        }
    }

    /// As Kafka's `handleVerifyPartitionsInTransaction`, which does not mind a change under way.
    fn verify(&self, join: &Join) -> Result<Joined, TransactionError> {
        let transaction = self.visible(&join.id)?.ok_or(TransactionError::InvalidProducerIdMapping)?;
        let metadata = &transaction.metadata;
        metadata.check(join.producer, join.epoch)?;
        if metadata.state.preparing().is_some() {
            return Err(TransactionError::ConcurrentTransactions);
        }
        let is_there = |partition| {
            let is_there = metadata.partitions.contains(partition);
            if is_there { Ok(()) } else { Err(TransactionError::TransactionAbortable) }
        };
        let partitions = join.partitions.iter().map(is_there).collect();
        Ok(Joined { ordinal: transaction.ordinal, partitions })
    }
}

/// How long a transaction may last. A record may say anything.
pub(super) fn timeout(timeout_ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0))
}
