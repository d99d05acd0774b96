//! DescribeTransactions (key 65, version 0).

use std::collections::BTreeMap;

use anabranch_broker::transaction::event::DescribedTransaction;
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::describe_transactions_response::{TopicData, TransactionState};
use anabranch_wire::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, ProducerId, TransactionalId,
};

use super::{Door, text, topic_name};

pub(super) fn answer(door: &Door, request: DescribeTransactionsRequest) -> DescribeTransactionsResponse {
    let described = |id: TransactionalId| {
        let refused = match id.is_empty() {
            true => ErrorCode::InvalidRequest,
            false => ErrorCode::TransactionalIdNotFound,
        };
        let found = door.broker.transactions().describe(&id, show);
        let state = found.unwrap_or_else(|| TransactionState::default().with_error_code(refused.code()));
        state.with_transactional_id(id)
    };
    let states = request.transactional_ids.into_iter().map(described).collect();
    DescribeTransactionsResponse::default().with_transaction_states(states)
}

fn show(described: DescribedTransaction<'_>) -> TransactionState {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in described.partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    let topic =
        |(name, partitions)| TopicData::default().with_topic(topic_name(name)).with_partitions(partitions);
    TransactionState::default()
        .with_transaction_state(text(described.state.name()))
        .with_transaction_timeout_ms(described.timeout_ms)
        .with_transaction_start_time_ms(described.started_ms)
        .with_producer_id(ProducerId(described.producer.0))
        .with_producer_epoch(described.epoch.0)
        .with_topics(topics.into_iter().map(topic).collect())
}
