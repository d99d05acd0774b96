//! DescribeQuorum (key 55, versions 0 to 2): KIP-595, KIP-836, KIP-853. Kafka's metadata are a log, and so is our catalogue:
//! this node leads it, and votes alone.

use anabranch_wire::messages::describe_quorum_request::TopicData as Asked;
use anabranch_wire::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use anabranch_wire::messages::{DescribeQuorumRequest, DescribeQuorumResponse};
use anabranch_wire::{ErrorCode, NO_ERROR};
use uuid::Uuid;

use super::codes::refusal;
use super::{Door, text};

/// `Topic.CLUSTER_METADATA_TOPIC_NAME`, which has one partition.
const METADATA_TOPIC: &str = "__cluster_metadata";
/// The name of Kafka's listeners that are not encrypted.
const LISTENER: &str = "PLAINTEXT";

pub(super) fn answer(door: &Door, version: i16, request: &DescribeQuorumRequest) -> DescribeQuorumResponse {
    if !is_of_metadata(&request.topics) {
        let refused = |partition: i32| {
            let (code, message) = refusal(ErrorCode::UnknownTopicOrPartition, "it has no quorum");
            PartitionData::default()
                .with_partition_index(partition)
                .with_error_code(code)
                .with_error_message(message)
        };
        return respond(&request.topics, refused);
    }
    let end = door.broker.catalogue_offsets();
    let now_ms = door.broker.clock().now_ms();
    let voter = ReplicaState::default()
        .with_replica_id(door.node_id())
        .with_replica_directory_id(Uuid::nil())
        .with_log_end_offset(end.log_end.0)
        .with_last_fetch_timestamp(now_ms)
        .with_last_caught_up_timestamp(now_ms);
    let response = respond(&request.topics, |partition| {
        PartitionData::default()
            .with_partition_index(partition)
            .with_error_code(NO_ERROR)
            .with_leader_id(door.node_id())
            .with_leader_epoch(0)
            .with_high_watermark(end.high_watermark.0)
            .with_current_voters(vec![voter.clone()])
    });
    let listener = Listener::default()
        .with_name(text(LISTENER))
        .with_host(door.host.clone())
        .with_port(u16::try_from(door.port).expect("a port has 16 bits"));
    let node = Node::default().with_node_id(door.node_id()).with_listeners(vec![listener]);
    response.with_nodes(if version >= 2 { vec![node] } else { Vec::new() })
}

/// Kafka refuses all if anything else is asked for besides (`DescribeQuorumRequest`, `hasValidTopicPartition`).
fn is_of_metadata(topics: &[Asked]) -> bool {
    matches!(topics, [topic] if topic.topic_name.as_str() == METADATA_TOPIC
        && matches!(&topic.partitions[..], [partition] if partition.partition_index == 0))
}

fn respond(topics: &[Asked], partition: impl Fn(i32) -> PartitionData) -> DescribeQuorumResponse {
    let topics = topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| partition(asked.partition_index));
        TopicData::default().with_topic_name(topic.topic_name.clone()).with_partitions(partitions.collect())
    });
    DescribeQuorumResponse::default().with_topics(topics.collect())
}
