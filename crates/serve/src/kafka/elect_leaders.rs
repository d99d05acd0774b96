//! ElectLeaders (key 43, versions 0 to 2): KIP-183, KIP-460. This node leads every partition, and is the one that is preferred.

use anabranch_broker::Topic;
use anabranch_wire::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use anabranch_wire::messages::{ElectLeadersRequest, ElectLeadersResponse};
use anabranch_wire::{ErrorCode, NO_ERROR};

use super::codes::{NO_REFUSAL, Refusal, refusal};
use super::{Door, topic_name};

/// `ElectionType.java`: of the preferred leader, or of any.
const TYPES: std::ops::RangeInclusive<i8> = 0..=1;

pub(super) fn answer(door: &Door, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let catalogue = door.broker.topics();
    // Which is said of the whole, and of each partition that is named.
    let (refused, _) = check(request.election_type);
    let response = ElectLeadersResponse::default().with_error_code(refused);
    // `TopicPartitions` is nullable, and null is all: of these, nothing is said of those that need no election.
    let Some(asked) = request.topic_partitions else {
        let topics = catalogue.iter().filter(|_| refused == NO_ERROR);
        let results =
            topics.map(|topic| ReplicaElectionResult::default().with_topic(topic_name(topic.name())));
        return response.with_replica_election_results(results.collect());
    };
    let results = asked.into_iter().map(|asked| {
        let topic = catalogue.get(&asked.topic);
        let partitions = asked.partitions.iter().map(|number| {
            let (code, message) = elect(request.election_type, topic.map(AsRef::as_ref), *number);
            PartitionResult::default()
                .with_partition_id(*number)
                .with_error_code(code)
                .with_error_message(message)
        });
        let partitions = partitions.collect();
        ReplicaElectionResult::default().with_topic(asked.topic).with_partition_result(partitions)
    });
    response.with_replica_election_results(results.collect())
}

fn check(kind: i8) -> Refusal {
    match TYPES.contains(&kind) {
        true => NO_REFUSAL,
        false => refusal(ErrorCode::InvalidRequest, format!("unknown election type {kind}")),
    }
}

fn elect(kind: i8, topic: Option<&Topic>, partition: i32) -> Refusal {
    let unknown = |what| refusal(ErrorCode::UnknownTopicOrPartition, what);
    match topic {
        _ if !TYPES.contains(&kind) => check(kind),
        None => unknown("there is no such topic"),
        Some(topic) if topic.partition(partition).is_none() => unknown("the topic has no such partition"),
        Some(_) => refusal(ErrorCode::ElectionNotNeeded, "the preferred replica leads"),
    }
}
