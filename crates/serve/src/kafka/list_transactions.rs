//! ListTransactions (key 66, versions 0 to 2).

use anabranch_broker::Pattern;
use anabranch_broker::transaction::State;
use anabranch_broker::transaction::event::{DescribedTransaction, Filter};
use anabranch_core::ProducerId;
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::list_transactions_response::TransactionState;
use anabranch_wire::messages::{self, ListTransactionsRequest, ListTransactionsResponse, TransactionalId};
use anabranch_wire::protocol::StrBytes;

use super::{Door, text};

/// States of Kafka's in which nothing stays here.
const PASSING: [&str; 2] = ["Dead", "PrepareEpochFence"];

pub(super) fn answer(door: &Door, request: ListTransactionsRequest) -> ListTransactionsResponse {
    let response = ListTransactionsResponse::default();
    let pattern = request.transactional_id_pattern.filter(|pattern| !pattern.is_empty());
    let Ok(pattern) = pattern.map(|pattern| Pattern::new(&pattern)).transpose() else {
        return response.with_error_code(ErrorCode::InvalidRegularExpression.code());
    };
    let named = |name: &StrBytes| State::ALL.into_iter().find(|state| state.name() == name.as_str());
    let states: Vec<State> = request.state_filters.iter().filter_map(named).collect();
    let is_unknown = |name: &&StrBytes| named(name).is_none() && !PASSING.contains(&name.as_str());
    let unknown = request.state_filters.iter().filter(is_unknown).cloned().collect();
    let response = response.with_unknown_state_filters(unknown);
    // In states that are none there is nothing.
    if states.is_empty() && !request.state_filters.is_empty() {
        return response;
    }
    let filter = Filter {
        states,
        producers: request.producer_id_filters.iter().map(|id| ProducerId(id.0)).collect(),
        running_ms: (request.duration_filter >= 0).then_some(request.duration_filter),
    };
    let show = |described: DescribedTransaction<'_>| {
        let is_wanted = pattern.as_ref().is_none_or(|pattern| pattern.matches(described.id));
        is_wanted.then(|| {
            TransactionState::default()
                .with_transactional_id(TransactionalId(text(described.id)))
                .with_producer_id(messages::ProducerId(described.producer.0))
                .with_transaction_state(text(described.state.name()))
        })
    };
    response.with_transaction_states(door.broker.transactions().list(&filter, show))
}
