//! OffsetDelete (key 47, version 0): KIP-496.

use anabranch_wire::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use anabranch_wire::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::group_offsets::Asked;
use super::{Door, codes};

pub(super) async fn answer(door: &Door, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let mut asked = Asked::new(door);
    for topic in &request.topics {
        for of in &topic.partitions {
            asked.add(&topic.name, of.partition_index, || (topic.name.to_string(), of.partition_index));
        }
    }
    let outcomes = match door.broker.groups().delete_offsets(&request.group_id, asked.known).await {
        Ok(outcomes) => outcomes,
        Err(error) => return OffsetDeleteResponse::default().with_error_code(codes::group(&error).code()),
    };
    let mut codes = asked.places.codes(Ok(outcomes.iter().map(codes::group_outcome).collect()));
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let partitions = topic.partitions.iter().zip(&mut codes).map(|(of, code)| {
            OffsetDeleteResponsePartition::default()
                .with_partition_index(of.partition_index)
                .with_error_code(code)
        });
        let partitions = partitions.collect();
        topics.push(OffsetDeleteResponseTopic::default().with_name(topic.name).with_partitions(partitions));
    }
    OffsetDeleteResponse::default().with_topics(topics)
}
