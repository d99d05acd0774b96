//! DescribeTopicPartitions (key 75, version 0): topics page by page (KIP-966).
//!
//! The answer holds up to `response_partition_limit` partitions, in the order of the topics' names; where it ends early,
//! `next_cursor` says where to go on.

use std::collections::BTreeSet;

use anabranch_broker::Topic;
use anabranch_wire::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use anabranch_wire::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use anabranch_wire::{ErrorCode, NO_ERROR};

use super::{Door, codes, operations, topic_name};

pub(super) fn answer(
    door: &Door,
    request: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let catalogue = door.broker.topics();
    let names: BTreeSet<&str> = match request.topics.is_empty() {
        true => catalogue.iter().map(|topic| topic.name()).collect(),
        false => request.topics.iter().map(|topic| topic.name.as_str()).collect(),
    };
    let (first_name, first_partition) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.as_str(), usize::try_from(cursor.partition_index).unwrap_or(0)),
        None => ("", 0),
    };
    // KIP-966: a page goes on in a topic that is asked for, at a partition that may be there.
    let is_elsewhere = !request.topics.is_empty() && request.cursor.is_some() && !names.contains(first_name);
    let is_before = request.cursor.as_ref().is_some_and(|cursor| cursor.partition_index < 0);
    if is_elsewhere || is_before {
        let refused = request.topics.iter().map(|topic| {
            DescribeTopicPartitionsResponseTopic::default()
                .with_error_code(ErrorCode::InvalidRequest.code())
                .with_name(Some(topic.name.clone()))
        });
        return DescribeTopicPartitionsResponse::default().with_topics(refused.collect());
    }
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(0);
    let mut left = limit.clamp(1, door.limits.describe_partitions_max.max(1));
    let mut topics = Vec::new();
    let mut next_cursor = None;
    for name in names.range(first_name..) {
        let from = if *name == first_name { first_partition } else { 0 };
        let cursor = |at: usize| {
            Some(Cursor::default().with_topic_name(topic_name(name)).with_partition_index(at as i32))
        };
        if left == 0 {
            next_cursor = cursor(from);
            break;
        }
        let topic = match door.broker.topic_or_why(name) {
            Ok(topic) => topic,
            Err(error) => {
                topics.push(
                    DescribeTopicPartitionsResponseTopic::default()
                        .with_error_code(codes::topic(&error).code())
                        .with_name(Some(topic_name(name)))
                        .with_topic_authorized_operations(operations::ON_TOPIC),
                );
                continue;
            }
        };
        let until = topic.partitions().len().min(from.saturating_add(left));
        left -= until.saturating_sub(from);
        topics.push(describe(door, &topic, from.min(until)..until));
        if until < topic.partitions().len() {
            next_cursor = cursor(until);
            break;
        }
    }
    DescribeTopicPartitionsResponse::default().with_topics(topics).with_next_cursor(next_cursor)
}

fn describe(
    door: &Door,
    topic: &Topic,
    range: std::ops::Range<usize>,
) -> DescribeTopicPartitionsResponseTopic {
    let node = door.node_id();
    let partitions = topic.partitions()[range].iter().map(|partition| {
        DescribeTopicPartitionsResponsePartition::default()
            .with_partition_index(partition.id().partition)
            .with_leader_id(node)
            .with_leader_epoch(partition.leader_epoch().0)
            .with_replica_nodes(vec![node])
            .with_isr_nodes(vec![node])
            // The schema allows null here; Kafka never sends it, and its own Java client fails on it.
            .with_eligible_leader_replicas(Some(Vec::new()))
            .with_last_known_elr(Some(Vec::new()))
    });
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(NO_ERROR)
        .with_name(Some(topic_name(topic.name())))
        .with_topic_id(topic.id().0)
        .with_is_internal(topic.is_internal())
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(operations::ON_TOPIC)
}
