//! OffsetCommit (key 8, versions 2 to 9). What is acknowledged is durable.

use anabranch_broker::group::GroupError;
use anabranch_broker::group::event::{Commit, CommitOffset};
use anabranch_wire::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use anabranch_wire::messages::{OffsetCommitRequest, OffsetCommitResponse};
use anabranch_wire::{ErrorCode, NO_ERROR};

use super::group_offsets::Asked;
use super::{Door, codes, own_text};

pub(super) async fn answer(door: &Door, version: i16, request: OffsetCommitRequest) -> OffsetCommitResponse {
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
    let outcomes = if asked.known.is_empty() {
        Ok(Vec::new())
    } else {
        let commit = Commit {
            group: request.group_id.to_string(),
            member_id: request.member_id.to_string(),
            instance_id: own_text(request.group_instance_id.as_ref()),
            generation: request.generation_id_or_member_epoch,
            by_epoch: version >= 9,
            retention_ms: (request.retention_time_ms >= 0).then_some(request.retention_time_ms),
            offsets: asked.known,
        };
        door.broker.groups().commit(commit).await
    };
    let code = |error: &GroupError| match error {
        // `OffsetCommitResponse.json`: GROUP_ID_NOT_FOUND came with version 9.
        GroupError::GroupIdNotFound if version < 9 => ErrorCode::IllegalGeneration,
        error => codes::group(error),
    };
    let each = |outcome: &Result<(), GroupError>| {
        outcome.as_ref().map_or_else(|error| code(error).code(), |()| NO_ERROR)
    };
    let known = match &outcomes {
        Ok(outcomes) => Ok(outcomes.iter().map(each).collect()),
        Err(error) => Err(code(error)),
    };
    let mut codes = asked.places.codes(known);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let partitions = topic.partitions.iter().zip(&mut codes).map(|(of, code)| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(of.partition_index)
                .with_error_code(code)
        });
        let partitions = partitions.collect();
        topics.push(OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions));
    }
    OffsetCommitResponse::default().with_topics(topics)
}
