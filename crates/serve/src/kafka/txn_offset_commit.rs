//! TxnOffsetCommit (key 28, versions 0 to 5): offsets that count when the transaction commits.
//!
//! From version 5 on, what is committed joins the transaction by this; before, it must have joined by AddOffsetsToTxn.

use anabranch_broker::group::event::{Commit, CommitOffset};
use anabranch_broker::group::{GroupError, InTransaction};
use anabranch_broker::transaction::event::{How, Join};
use anabranch_broker::transaction::{TransactionError, TransactionVersion};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use anabranch_wire::messages::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};

use super::group_offsets::Asked;
use super::{Door, codes, own_text};

pub(super) async fn answer(
    door: &Door,
    version: i16,
    request: TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    let mut asked = Asked::new(door);
    for topic in &request.topics {
        for of in &topic.partitions {
            asked.add(&topic.name, of.partition_index, || CommitOffset {
                topic: topic.name.to_string(),
                partition: of.partition_index,
                offset: of.committed_offset,
                leader_epoch: of.committed_leader_epoch,
                metadata: own_text(of.committed_metadata.as_ref()).unwrap_or_default(),
            });
        }
    }
    let known = match asked.known.is_empty() {
        true => Ok(Vec::new()),
        false => commit(door, version, &request, asked.known).await,
    };
    let mut codes = asked.places.codes(known);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let partitions = topic.partitions.iter().zip(&mut codes).map(|(of, code)| {
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(of.partition_index)
                .with_error_code(code)
        });
        let partitions = partitions.collect();
        topics
            .push(TxnOffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions));
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
