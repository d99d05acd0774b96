//! CreateTopics (key 19, versions 2 to 7).

use anabranch_broker::{Apply, ConfigEntry, NewTopic, Topic, TopicError};
use anabranch_wire::messages::create_topics_request::CreatableTopic;
use anabranch_wire::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use anabranch_wire::messages::{CreateTopicsRequest, CreateTopicsResponse};
use anabranch_wire::{ErrorCode, NO_ERROR};

use super::codes::{self, refusal};
use super::{Door, repeated, text};

pub(super) async fn answer(door: &Door, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let mode = apply(request.validate_only);
    let repeated = repeated(request.topics.iter().map(|topic| &topic.name));
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let result = CreatableTopicResult::default()
            .with_name(topic.name.clone())
            .with_num_partitions(-1)
            .with_replication_factor(-1);
        if repeated.contains(&topic.name) {
            // Kafka answers a repeated name once, though it came twice.
            if !results.iter().any(|result: &CreatableTopicResult| result.name == topic.name) {
                let (code, message) = refusal(ErrorCode::InvalidRequest, "duplicate topic name");
                results.push(result.with_error_code(code).with_error_message(message));
            }
            continue;
        }
        let new = match new_topic(&topic) {
            Ok(new) => door.broker.create_topic(new, mode).await,
            Err((code, message)) => {
                let (code, message) = match door.broker.topic_or_why(&topic.name) {
                    Ok(_) => refusal(ErrorCode::TopicAlreadyExists, "the topic is there already"),
                    Err(TopicError::Unknown(_)) => (code, message),
                    Err(error) => refusal(codes::topic(&error), error.to_string()),
                };
                results.push(result.with_error_code(code).with_error_message(message));
                continue;
            }
        };
        results.push(match new {
            Ok(topic) => created(door, result, &topic),
            Err(error) => {
                let (code, message) = refusal(codes::topic(&error), error.to_string());
                // `TopicConfigErrorCode`: whether the configs may be shown; there are none to show.
                result.with_error_code(code).with_error_message(message)
            }
        });
    }
    CreateTopicsResponse::default().with_topics(results)
}

pub(super) fn apply(validate_only: bool) -> Apply {
    if validate_only { Apply::ValidateOnly } else { Apply::Now }
}

fn new_topic(asked: &CreatableTopic) -> Result<NewTopic, codes::Refusal> {
    let mut new = NewTopic::new(asked.name.to_string()).partitions(asked.num_partitions);
    new.replication_factor = asked.replication_factor;
    let nodes = |nodes: &[_]| nodes.iter().map(|node: &anabranch_wire::messages::BrokerId| node.0).collect();
    new.assignments =
        asked.assignments.iter().map(|each| (each.partition_index, nodes(&each.broker_ids))).collect();
    for config in &asked.configs {
        // `CreatableTopicConfig.Value` is nullable, and null is refused for a new topic.
        let value = config.value.as_ref().ok_or_else(|| {
            refusal(ErrorCode::InvalidConfig, format!("{} must not be null", config.name.as_str()))
        })?;
        new = new.config(config.name.to_string(), value.to_string());
    }
    Ok(new)
}

/// What was created, or would be: version 5 shows the configuration (KIP-525), version 7 the id.
fn created(door: &Door, result: CreatableTopicResult, topic: &Topic) -> CreatableTopicResult {
    let config = |entry: ConfigEntry| {
        CreatableTopicConfigs::default()
            .with_name(text(entry.name))
            .with_value(entry.value.as_deref().map(text))
            .with_read_only(entry.read_only)
            .with_config_source(entry.source as i8)
            .with_is_sensitive(entry.sensitive)
    };
    let configs = door.broker.describe_topic_configs(topic).into_iter().map(config).collect();
    result
        .with_error_code(NO_ERROR)
        .with_error_message(None)
        .with_topic_id(topic.id().0)
        .with_num_partitions(topic.partition_count())
        .with_replication_factor(1)
        .with_configs(Some(configs))
}
