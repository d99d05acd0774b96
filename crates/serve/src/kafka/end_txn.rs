//! EndTxn (key 26, versions 0 to 5). From version 5 on each end gives the producer a new epoch (KIP-890).

use anabranch_broker::transaction::event::End;
use anabranch_broker::transaction::{EndKind, TransactionVersion};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_wire::NO_ERROR;
use anabranch_wire::messages::{self, EndTxnRequest, EndTxnResponse};

use super::{Door, codes};

pub(super) async fn answer(door: &Door, version: i16, request: &EndTxnRequest) -> EndTxnResponse {
    let end = End {
        id: request.transactional_id.to_string(),
        producer: ProducerId(request.producer_id.0),
        epoch: ProducerEpoch(request.producer_epoch),
        kind: if request.committed { EndKind::Commit } else { EndKind::Abort },
        version: if version >= 5 { TransactionVersion::V2 } else { TransactionVersion::V0 },
    };
    let (code, (producer, epoch)) = match door.broker.transactions().end(&end).await {
        Ok(identity) => (NO_ERROR, identity),
        Err(error) => {
            (codes::transaction(error, version >= 2).code(), (ProducerId::NONE, ProducerEpoch::NONE))
        }
    };
    let response = EndTxnResponse::default().with_error_code(code);
    match version {
        ..5 => response,
        _ => response.with_producer_id(messages::ProducerId(producer.0)).with_producer_epoch(epoch.0),
    }
}
