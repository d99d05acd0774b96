//! TxnOffsetCommit (key 28, versions 0 to 5): offsets that count when the transaction commits.
//!
//! From version 5 on, what is committed joins the transaction by this; before, it must have joined by AddOffsetsToTxn.

use anabranch_broker::group::event::{Commit, CommitOffset};
use anabranch_broker::group::{GroupError, InTransaction};
use anabranch_broker::transaction::event::{How, Join};
use anabranch_broker::transaction::{TransactionError, TransactionVersion};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use anabranch_wire::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use anabranch_wire::messages::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};

use super::{Door, codes, own_text};

pub(super) async fn answer(
    door: &Door,
    version: i16,
    request: TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    let catalogue = door.broker.topics();
    let exists = |topic: &TxnOffsetCommitRequestTopic, asked: &TxnOffsetCommitRequestPartition| {
        catalogue.get(&topic.name).is_some_and(|topic| topic.partition(asked.partition_index).is_some())
    };
    let mut offsets = Vec::new();
    for topic in &request.topics {
        for asked in topic.partitions.iter().filter(|asked| exists(topic, asked)) {
            offsets.push(CommitOffset {
                topic: topic.name.to_string(),
                partition: asked.partition_index,
                offset: asked.committed_offset,
                leader_epoch: asked.committed_leader_epoch,
                metadata: own_text(asked.committed_metadata.as_ref()).unwrap_or_default(),
            });
        }
    }
    let count = offsets.len();
    let codes = match count {
        0 => Ok(Vec::new()),
        _ => commit(door, version, &request, offsets).await,
    };
    let mut codes = codes.unwrap_or_else(|code| vec![code.code(); count]).into_iter();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let partitions = topic.partitions.iter().map(|asked| {
            let code = match exists(topic, asked) {
                true => codes.next().unwrap_or(ErrorCode::UnknownServerError.code()),
                false => ErrorCode::UnknownTopicOrPartition.code(),
            };
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(asked.partition_index)
                .with_error_code(code)
        });
        let partitions = partitions.collect();
        topics.push(
            TxnOffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions),
        );
    }
    TxnOffsetCommitResponse::default().with_topics(topics)
}

/// A code for each offset, or one for all.
async fn commit(
    door: &Door,
    version: i16,
    request: &TxnOffsetCommitRequest,
    offsets: Vec<CommitOffset>,
) -> Result<Vec<i16>, ErrorCode> {
    if request.group_id.is_empty() {
        return Err(codes::group(&GroupError::InvalidGroupId));
    }
    let outside = |error: TransactionError| codes::commit_in_transaction(error, version);
    let (producer, epoch) = (ProducerId(request.producer_id.0), ProducerEpoch(request.producer_epoch));
    let (transactions, groups) = (door.broker.transactions(), door.broker.groups());
    let joins = version >= 5;
    let join = Join {
        id: request.transactional_id.to_string(),
        producer,
        epoch,
        partitions: vec![groups.partition()],
        how: if joins { How::Add(TransactionVersion::V2) } else { How::Verify },
    };
    let membership = match joins {
        true => transactions.join_in_turn(join).await,
        false => transactions.join(join).await,
    };
    let membership = membership.map_err(outside)?;
    let transaction = InTransaction { producer, epoch, part: membership.part() };
    let commit = Commit {
        group: request.group_id.to_string(),
        member_id: request.member_id.to_string(),
        instance_id: own_text(request.group_instance_id.as_ref()),
        generation: request.generation_id,
        by_epoch: true,
        retention_ms: None,
        offsets,
    };
    let committed = if joins {
        // One sync makes both durable.
        let (committed, joined) = tokio::join!(groups.commit_in(commit, transaction), membership.answer());
        joined.map_err(outside)?;
        committed
    } else {
        let verified = membership.answer().await.map_err(outside)?;
        verified.into_iter().collect::<Result<(), _>>().map_err(outside)?;
        groups.commit_in(commit, transaction).await
    };
    let each = committed.map_err(|error| codes::group(&error))?;
    Ok(each.iter().map(codes::group_outcome).collect())
}
