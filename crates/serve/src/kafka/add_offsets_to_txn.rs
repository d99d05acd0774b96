//! AddOffsetsToTxn (key 25, versions 0 to 4): where a group's offsets are stored joins the transaction.

use anabranch_broker::transaction::TransactionVersion;
use anabranch_broker::transaction::event::{How, Join};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_wire::NO_ERROR;
use anabranch_wire::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};

use super::{Door, codes};

pub(super) async fn answer(
    door: &Door,
    version: i16,
    request: &AddOffsetsToTxnRequest,
) -> AddOffsetsToTxnResponse {
    let join = Join {
        id: request.transactional_id.to_string(),
        producer: ProducerId(request.producer_id.0),
        epoch: ProducerEpoch(request.producer_epoch),
        partitions: vec![door.broker.groups().partition()],
        how: How::Add(TransactionVersion::V0),
    };
    let joined = match door.broker.transactions().join(join).await {
        Ok(membership) => membership.answer().await,
        Err(error) => Err(error),
    };
    let code = joined.map_or_else(|error| codes::transaction(error, version >= 2).code(), |_| NO_ERROR);
    AddOffsetsToTxnResponse::default().with_error_code(code)
}
