//! InitProducerId (key 22, versions 0 to 5), for idempotent producers.
//!
//! Without a transactional id every request gets a new id at epoch 0, whatever it had before, as in Kafka.

use anabranch_wire::ErrorCode;
use anabranch_wire::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::{Door, codes};

pub(super) async fn answer(door: &Door, request: &InitProducerIdRequest) -> InitProducerIdResponse {
    let refused = |code: ErrorCode| {
        InitProducerIdResponse::default()
            .with_error_code(code.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    if request.transactional_id.is_some() {
        return refused(codes::TRANSACTIONS_UNSUPPORTED);
    }
    match door.broker.init_producer_id().await {
        Ok((id, epoch)) => {
            InitProducerIdResponse::default().with_producer_id(ProducerId(id.0)).with_producer_epoch(epoch.0)
        }
        Err(error) => {
            tracing::warn!(%error, "no producer id given");
            refused(ErrorCode::CoordinatorNotAvailable) // retriable
        }
    }
}
