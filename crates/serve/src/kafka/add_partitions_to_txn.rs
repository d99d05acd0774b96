//! AddPartitionsToTxn (key 24, versions 0 to 5).
//!
//! Up to version 3 it comes from producers. Later ones come from brokers, which ask for several transactions, and whether
//! partitions are in them; without an authorizer Kafka serves them to everybody.

use anabranch_broker::transaction::event::{How, Join};
use anabranch_broker::transaction::{TransactionError, TransactionVersion};
use anabranch_core::{ProducerEpoch, ProducerId, TopicPartition};
use anabranch_wire::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use anabranch_wire::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use anabranch_wire::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse};
use anabranch_wire::{ErrorCode, NO_ERROR};

use super::{Door, codes};

pub(super) async fn answer(
    door: &Door,
    version: i16,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    let response = AddPartitionsToTxnResponse::default();
    if version < 4 {
        let only = AddPartitionsToTxnTransaction::default()
            .with_transactional_id(request.v3_and_below_transactional_id)
            .with_producer_id(request.v3_and_below_producer_id)
            .with_producer_epoch(request.v3_and_below_producer_epoch)
            .with_topics(request.v3_and_below_topics);
        return response.with_results_by_topic_v3_and_below(join(door, version, &only).await);
    }
    let mut results = Vec::with_capacity(request.transactions.len());
    for asked in request.transactions {
        let topics = join(door, version, &asked).await;
        results.push(
            AddPartitionsToTxnResult::default()
                .with_transactional_id(asked.transactional_id)
                .with_topic_results(topics),
        );
    }
    response.with_results_by_transaction(results)
}

async fn join(
    door: &Door,
    version: i16,
    asked: &AddPartitionsToTxnTransaction,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let named = |topic: &AddPartitionsToTxnTopic| {
        let name = topic.name.to_string();
        topic
            .partitions
            .clone()
            .into_iter()
            .map(move |partition| TopicPartition::new(name.clone(), partition))
    };
    let partitions: Vec<TopicPartition> = asked.topics.iter().flat_map(named).collect();
    let exists = |partition: &TopicPartition| door.broker.partition(partition).is_some();
    let codes: Vec<i16> = if partitions.iter().all(exists) {
        let how = match (asked.verify_only, version) {
            (true, _) => How::Verify,
            (false, ..4) => How::Add(TransactionVersion::V0),
            (false, _) => How::Add(TransactionVersion::V2),
        };
        let count = partitions.len();
        let join = Join {
            id: asked.transactional_id.to_string(),
            producer: ProducerId(asked.producer_id.0),
            epoch: ProducerEpoch(asked.producer_epoch),
            partitions,
            how,
        };
        let joined = match door.broker.transactions().join(join).await {
            Ok(membership) => membership.answer().await,
            Err(error) => Err(error),
        };
        let code = |error: TransactionError| codes::transaction(error, version >= 2).code();
        match joined {
            Ok(each) => each.into_iter().map(|each| each.map_or_else(code, |()| NO_ERROR)).collect(),
            Err(error) => vec![code(error); count],
        }
    } else {
        // One that is not there keeps all others out.
        let code = |partition| match exists(partition) {
            true => ErrorCode::OperationNotAttempted.code(),
            false => ErrorCode::UnknownTopicOrPartition.code(),
        };
        partitions.iter().map(code).collect()
    };
    let mut codes = codes.into_iter();
    let result = |(partition, code)| {
        AddPartitionsToTxnPartitionResult::default()
            .with_partition_index(partition)
            .with_partition_error_code(code)
    };
    let topic = |topic: &AddPartitionsToTxnTopic| {
        AddPartitionsToTxnTopicResult::default()
            .with_name(topic.name.clone())
            .with_results_by_partition(topic.partitions.iter().copied().zip(&mut codes).map(result).collect())
    };
    asked.topics.iter().map(topic).collect()
}
