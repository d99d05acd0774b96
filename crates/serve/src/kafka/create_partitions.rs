//! CreatePartitions (key 37, versions 0 to 3).

use anabranch_wire::ErrorCode;
use anabranch_wire::messages::create_partitions_request::CreatePartitionsTopic;
use anabranch_wire::messages::create_partitions_response::CreatePartitionsTopicResult;
use anabranch_wire::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use super::codes::{self, Refusal, refusal};
use super::create_topics::apply;
use super::{Door, repeated};

pub(super) async fn answer(door: &Door, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mode = apply(request.validate_only);
    let repeated = repeated(request.topics.iter().map(|topic| &topic.name));
    let mut results: Vec<CreatePartitionsTopicResult> = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        if results.iter().any(|result| result.name == topic.name) {
            continue; // answered once, with INVALID_REQUEST
        }
        let (code, message) = match check_assignments(door, &topic) {
            _ if repeated.contains(&topic.name) => refusal(ErrorCode::InvalidRequest, "duplicate topic name"),
            Err(refused) => refused,
            Ok(()) => codes::outcome(door.broker.create_partitions(&topic.name, topic.count, mode).await),
        };
        results.push(
            CreatePartitionsTopicResult::default()
                .with_name(topic.name)
                .with_error_code(code)
                .with_error_message(message),
        );
    }
    CreatePartitionsResponse::default().with_results(results)
}

/// Assignments, if given, must be one per new partition, each to this node.
fn check_assignments(door: &Door, asked: &CreatePartitionsTopic) -> Result<(), Refusal> {
    let Some(assignments) = &asked.assignments else { return Ok(()) };
    let Ok(topic) = door.broker.topic(&asked.name) else { return Ok(()) };
    let added = i64::from(asked.count) - i64::from(topic.partition_count());
    let node = door.node_id();
    let is_wrong =
        assignments.len() as i64 != added || assignments.iter().any(|assigned| assigned.broker_ids != [node]);
    // That there are no new ones is told first.
    match added > 0 && is_wrong {
        true => Err(refusal(
            ErrorCode::InvalidReplicaAssignment,
            format!("each of the {added} new partitions must be assigned to broker {}", node.0),
        )),
        false => Ok(()),
    }
}
