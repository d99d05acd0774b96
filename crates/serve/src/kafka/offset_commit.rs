//! OffsetCommit (key 8, versions 2 to 9). What is acknowledged is durable.

use anabranch_broker::group::GroupError;
use anabranch_broker::group::event::{Commit, CommitOffset};
use anabranch_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use anabranch_wire::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use anabranch_wire::messages::{OffsetCommitRequest, OffsetCommitResponse};
use anabranch_wire::{ErrorCode, NO_ERROR};

use super::{Door, codes, own_text};

pub(super) async fn answer(door: &Door, version: i16, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let catalogue = door.broker.topics();
    let exists = |topic: &OffsetCommitRequestTopic, asked: &OffsetCommitRequestPartition| {
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
    let outcomes = if count == 0 {
        Ok(Vec::new())
    } else {
        let commit = Commit {
            group: request.group_id.to_string(),
            member_id: request.member_id.to_string(),
            instance_id: own_text(request.group_instance_id.as_ref()),
            generation: request.generation_id_or_member_epoch,
            by_epoch: version >= 9,
            retention_ms: (request.retention_time_ms >= 0).then_some(request.retention_time_ms),
            offsets,
        };
        door.broker.groups().commit(commit).await
    };
    let code = |error: &GroupError| match error {
        // `OffsetCommitResponse.json`: GROUP_ID_NOT_FOUND came with version 9.
        GroupError::GroupIdNotFound if version < 9 => ErrorCode::IllegalGeneration.code(),
        error => codes::group(error).code(),
    };
    let mut each = match &outcomes {
        Ok(outcomes) => outcomes.iter().map(|each| each.as_ref().map_or_else(code, |()| NO_ERROR)).collect(),
        Err(error) => vec![code(error); count],
    }
    .into_iter();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let partitions = topic.partitions.iter().map(|asked| {
            let code = match exists(topic, asked) {
                true => each.next().unwrap_or(ErrorCode::UnknownServerError.code()),
                false => ErrorCode::UnknownTopicOrPartition.code(),
            };
            OffsetCommitResponsePartition::default()
                .with_partition_index(asked.partition_index)
                .with_error_code(code)
        });
        let partitions = partitions.collect();
        topics.push(
            OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions),
        );
    }
    OffsetCommitResponse::default().with_topics(topics)
}
