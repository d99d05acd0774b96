//! Metadata (key 3, versions 0 to 13).
//!
//! `MetadataRequest.json`: in version 0 an empty list of topics means all, in later ones null does and empty means none.
//! From version 12 a topic may be asked for by id alone. Topics that do not exist are created if the client and the
//! broker allow it; versions before 4 cannot say, and do.

use std::sync::Arc;

use anabranch_broker::{LogStatus, Topic};
use anabranch_core::TopicId;
use anabranch_wire::messages::metadata_request::MetadataRequestTopic;
use anabranch_wire::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use anabranch_wire::messages::{MetadataRequest, MetadataResponse};
use anabranch_wire::{ErrorCode, NO_ERROR};

use super::{Door, codes, operations, text, topic_name};

pub(super) async fn answer(door: &Door, version: i16, request: MetadataRequest) -> MetadataResponse {
    let wants_operations = request.include_topic_authorized_operations;
    let asked = request.topics.filter(|topics| version > 0 || !topics.is_empty());
    let topics = match asked {
        None => door.broker.topics().iter().map(|topic| describe(door, topic, wants_operations)).collect(),
        Some(asked) => {
            let may_create = version < 4 || request.allow_auto_topic_creation;
            // As in Kafka, once there is an id only ids count. Java sends them beside empty names.
            let by_id = version >= 12 && asked.iter().any(|topic| !topic.topic_id.is_nil());
            let mut topics = Vec::with_capacity(asked.len());
            for mut topic in asked {
                if by_id {
                    if topic.topic_id.is_nil() {
                        continue;
                    }
                    topic.name = None;
                }
                topics.push(match find(door, version, &topic, may_create).await {
                    Ok(topic) => describe(door, &topic, wants_operations),
                    Err(code) => {
                        // What is unknown by its name may be done to, and by its id not.
                        let wants_operations = wants_operations && topic.name.is_some();
                        MetadataResponseTopic::default()
                            .with_error_code(code.code())
                            .with_name(topic.name)
                            .with_topic_id(topic.topic_id)
                            .with_topic_authorized_operations(operations::if_asked(
                                wants_operations,
                                operations::ON_TOPIC,
                            ))
                    }
                });
            }
            topics
        }
    };
    let this = MetadataResponseBroker::default()
        .with_node_id(door.node_id())
        .with_host(door.host.clone())
        .with_port(door.port);
    let wants_cluster = request.include_cluster_authorized_operations;
    MetadataResponse::default()
        .with_brokers(vec![this])
        .with_cluster_id(Some(text(door.broker.cluster_id())))
        .with_controller_id(door.node_id())
        .with_topics(topics)
        .with_cluster_authorized_operations(operations::if_asked(wants_cluster, operations::ON_CLUSTER))
}

async fn find(
    door: &Door,
    version: i16,
    asked: &MetadataRequestTopic,
    may_create: bool,
) -> Result<Arc<Topic>, ErrorCode> {
    match &asked.name {
        // KAFKA-14336 and its like: ids came with version 10, and meant nothing before 12.
        _ if !asked.topic_id.is_nil() && version < 12 => Err(ErrorCode::InvalidRequest),
        Some(name) => {
            let topic = door.broker.topic_for_produce_or_metadata(name, may_create).await;
            topic.map_err(|error| codes::topic(&error))
        }
        None if version < 12 => Err(ErrorCode::InvalidRequest),
        None => {
            let topics = door.broker.topics();
            topics.by_id(TopicId(asked.topic_id)).cloned().ok_or(ErrorCode::UnknownTopicId)
        }
    }
}

fn describe(door: &Door, topic: &Topic, wants_operations: bool) -> MetadataResponseTopic {
    let node = door.node_id();
    let partitions = topic.partitions().iter().map(|partition| {
        let is_online = matches!(partition.status(), LogStatus::Online);
        let described = MetadataResponsePartition::default()
            .with_partition_index(partition.id().partition)
            .with_leader_id(node)
            .with_leader_epoch(partition.leader_epoch().0)
            .with_replica_nodes(vec![node]);
        match is_online {
            true => described.with_isr_nodes(vec![node]),
            // It stays led, so that clients learn from its answers what is wrong.
            false => described.with_offline_replicas(vec![node]),
        }
    });
    MetadataResponseTopic::default()
        .with_error_code(NO_ERROR)
        .with_name(Some(topic_name(topic.name())))
        .with_topic_id(topic.id().0)
        .with_is_internal(topic.is_internal())
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(operations::if_asked(wants_operations, operations::ON_TOPIC))
}
