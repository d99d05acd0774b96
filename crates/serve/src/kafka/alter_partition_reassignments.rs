//! AlterPartitionReassignments (key 45, versions 0 and 1): KIP-455. A replica can be here alone, and is here.

use std::collections::HashSet;

use anabranch_broker::Topic;
use anabranch_wire::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use anabranch_wire::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId,
};
use anabranch_wire::{ErrorCode, NO_ERROR};

use super::Door;
use super::codes::{NO_REFUSAL, Refusal, refusal};

pub(super) fn answer(
    door: &Door,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let catalogue = door.broker.topics();
    let responses = request.topics.into_iter().map(|asked| {
        let topic = catalogue.get(&asked.name);
        let partitions = asked.partitions.iter().map(|asked| {
            let topic = topic.map(AsRef::as_ref);
            let (code, message) = reassign(door, topic, asked.partition_index, asked.replicas.as_deref());
            ReassignablePartitionResponse::default()
                .with_partition_index(asked.partition_index)
                .with_error_code(code)
                .with_error_message(message)
        });
        let partitions = partitions.collect();
        ReassignableTopicResponse::default().with_name(asked.name).with_partitions(partitions)
    });
    AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(request.allow_replication_factor_change)
        .with_error_code(NO_ERROR)
        .with_error_message(None)
        .with_responses(responses.collect())
}

/// In the order of Kafka's `ReplicationControlManager`.
fn reassign(door: &Door, topic: Option<&Topic>, partition: i32, replicas: Option<&[BrokerId]>) -> Refusal {
    let refuse = |why: String| refusal(ErrorCode::InvalidReplicaAssignment, why);
    if topic.and_then(|topic| topic.partition(partition)).is_none() {
        return refusal(ErrorCode::UnknownTopicOrPartition, "there is no such partition");
    }
    // `Replicas` is nullable: null takes back what is under way.
    let Some(replicas) = replicas else { return (ErrorCode::NoReassignmentInProgress.code(), None) };
    let mut seen = HashSet::new();
    match replicas.iter().find(|node| **node != door.node_id() || !seen.insert(**node)) {
        Some(BrokerId(node)) => refuse(format!("broker {node} is named twice, or is not there")),
        None if replicas.is_empty() => refuse("the list of replicas is empty".into()),
        None => NO_REFUSAL,
    }
}
