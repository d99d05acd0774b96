//! ConsumerGroupHeartbeat (key 68, versions 0 and 1): all that a member of KIP-848's protocol says, and is told.
//!
//! From version 1 the member chooses its id (KIP-1082), and may subscribe by regular expression.

use anabranch_broker::group::ConsumerHeartbeat;
use anabranch_core::TopicId;
use anabranch_wire::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use anabranch_wire::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};

use super::{Client, Door, codes, own_text, text, unless_stopped};

pub(super) async fn answer(
    door: &Door,
    client: Client<'_>,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    let topics = request.subscribed_topic_names.as_ref();
    let owned = request.topic_partitions.as_ref();
    let beat = ConsumerHeartbeat {
        group: request.group_id.to_string(),
        member_id: request.member_id.to_string(),
        chooses_id: client.version() >= 1,
        member_epoch: request.member_epoch,
        instance_id: own_text(request.instance_id.as_ref()),
        rack_id: own_text(request.rack_id.as_ref()),
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        topics: topics.map(|names| names.iter().map(|name| name.to_string()).collect()),
        pattern: own_text(request.subscribed_topic_regex.as_ref()),
        assignor: own_text(request.server_assignor.as_ref()),
        owned: owned.map(|all| all.iter().map(|of| (TopicId(of.topic_id), of.partitions.clone())).collect()),
        client_id: own_text(client.head.client_id.as_ref()).unwrap_or_default(),
        client_host: format!("/{}", client.peer.ip().to_canonical()),
    };
    let response = ConsumerGroupHeartbeatResponse::default();
    let answer = door.broker.groups().heartbeat_consumer(&beat, || door.broker.topics());
    match unless_stopped(door, answer).await {
        Ok(beat) => response
            .with_member_id(Some(text(&beat.member_id)))
            .with_member_epoch(beat.member_epoch)
            .with_heartbeat_interval_ms(beat.heartbeat_interval_ms)
            .with_assignment(beat.assignment.map(|assigned| {
                let of = |(topic, partitions): (TopicId, Vec<i32>)| {
                    TopicPartitions::default().with_topic_id(topic.0).with_partitions(partitions)
                };
                Assignment::default().with_topic_partitions(assigned.into_iter().map(of).collect())
            })),
        Err(error) => {
            let (code, message) = codes::refusal(codes::group(&error), error.to_string());
            response.with_error_code(code).with_error_message(message)
        }
    }
}
