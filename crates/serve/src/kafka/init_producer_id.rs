//! InitProducerId (key 22, versions 0 to 5).
//!
//! Without a transactional id every request gets a new id at epoch 0, whatever it had before, as in Kafka.

use anabranch_broker::transaction::event::InitProducer;
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_wire::messages::{self, InitProducerIdRequest, InitProducerIdResponse};
use anabranch_wire::{ErrorCode, NO_ERROR};

use super::{Door, codes};

pub(super) async fn answer(
    door: &Door,
    version: i16,
    request: &InitProducerIdRequest,
) -> InitProducerIdResponse {
    let (code, (producer, epoch)) = match init(door, version, request).await {
        Ok(identity) => (NO_ERROR, identity),
        Err(code) => (code.code(), (ProducerId::NONE, ProducerEpoch::NONE)),
    };
    InitProducerIdResponse::default()
        .with_error_code(code)
        .with_producer_id(messages::ProducerId(producer.0))
        .with_producer_epoch(epoch.0)
}

async fn init(
    door: &Door,
    version: i16,
    request: &InitProducerIdRequest,
) -> Result<(ProducerId, ProducerEpoch), ErrorCode> {
    let (producer, epoch) = (ProducerId(request.producer_id.0), ProducerEpoch(request.producer_epoch));
    let expected = match (producer == ProducerId::NONE, epoch == ProducerEpoch::NONE) {
        (true, true) => None,
        (false, false) => Some((producer, epoch)),
        _ => return Err(ErrorCode::InvalidRequest),
    };
    let Some(id) = &request.transactional_id else {
        return door.broker.init_producer_id().await.map_err(|error| {
            tracing::warn!(%error, "no producer id given");
            ErrorCode::CoordinatorNotAvailable // retriable
        });
    };
    let init = InitProducer { id: id.to_string(), timeout_ms: request.transaction_timeout_ms, expected };
    let answer = door.broker.transactions().init_producer(init).await;
    answer.map_err(|error| codes::transaction(error, version >= 4))
}
