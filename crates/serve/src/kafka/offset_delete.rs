//! OffsetDelete (key 47, version 0): KIP-496.

use anabranch_wire::ErrorCode;
use anabranch_wire::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use anabranch_wire::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::{Door, codes};

pub(super) async fn answer(door: &Door, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let catalogue = door.broker.topics();
    let exists =
        |name: &str, partition| catalogue.get(name).is_some_and(|topic| topic.partition(partition).is_some());
    let asked = request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| (topic.name.to_string(), partition.partition_index))
    });
    let known = asked.filter(|(name, partition)| exists(name, *partition)).collect();
    let outcomes = match door.broker.groups().delete_offsets(&request.group_id, known).await {
        Ok(outcomes) => outcomes,
        Err(error) => return OffsetDeleteResponse::default().with_error_code(codes::group(&error).code()),
    };
    let mut outcomes = outcomes.iter();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let partitions = topic.partitions.iter().map(|partition| {
            let code = match exists(&topic.name, partition.partition_index) {
                true => outcomes.next().map_or(ErrorCode::UnknownServerError.code(), codes::group_outcome),
                false => ErrorCode::UnknownTopicOrPartition.code(),
            };
            OffsetDeleteResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code)
        });
        let partitions = partitions.collect();
        topics.push(OffsetDeleteResponseTopic::default().with_name(topic.name).with_partitions(partitions));
    }
    OffsetDeleteResponse::default().with_topics(topics)
}
