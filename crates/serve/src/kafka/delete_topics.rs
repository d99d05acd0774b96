//! DeleteTopics (key 20, versions 1 to 6). Version 6 names each topic by name or by id (KIP-516).

use std::collections::HashSet;

use anabranch_core::TopicId;
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::delete_topics_request::DeleteTopicState;
use anabranch_wire::messages::delete_topics_response::DeletableTopicResult;
use anabranch_wire::messages::{DeleteTopicsRequest, DeleteTopicsResponse};

use super::codes::{self, refusal};
use super::{Door, topic_name};

pub(super) async fn answer(door: &Door, version: i16, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let asked = match version {
        6.. => request.topics,
        _ => {
            let by_name = |name| DeleteTopicState::default().with_name(Some(name));
            request.topic_names.into_iter().map(by_name).collect()
        }
    };
    let mut responses = Vec::with_capacity(asked.len());
    let (mut seen, mut repeated) = (HashSet::new(), HashSet::new());
    for topic in &asked {
        let which = (topic.name.clone(), topic.topic_id);
        if !seen.insert(which.clone()) {
            repeated.insert(which);
        }
    }
    for topic in asked {
        let which = (topic.name.clone(), topic.topic_id);
        responses.push(match repeated.contains(&which) {
            // Answered once, as Kafka does.
            true if !seen.remove(&which) => continue,
            true => {
                let (code, message) = refusal(ErrorCode::InvalidRequest, "the topic is named more than once");
                DeletableTopicResult::default()
                    .with_name(topic.name)
                    .with_topic_id(topic.topic_id)
                    .with_error_code(code)
                    .with_error_message(message)
            }
            false => delete(door, topic).await,
        });
    }
    DeleteTopicsResponse::default().with_responses(responses)
}

async fn delete(door: &Door, asked: DeleteTopicState) -> DeletableTopicResult {
    let result = DeletableTopicResult::default().with_name(asked.name.clone()).with_topic_id(asked.topic_id);
    let refused = |(code, message)| result.clone().with_error_code(code).with_error_message(message);
    let name = match (asked.name, asked.topic_id.is_nil()) {
        (Some(name), true) => name,
        (None, false) => match door.broker.topics().by_id(TopicId(asked.topic_id)) {
            Some(topic) => topic_name(topic.name()),
            None => return refused(refusal(ErrorCode::UnknownTopicId, "there is no topic of this id")),
        },
        (Some(_), false) => {
            return refused(refusal(ErrorCode::InvalidRequest, "a topic is named by name or id, not both"));
        }
        (None, true) => return refused(refusal(ErrorCode::InvalidRequest, "neither name nor id is given")),
    };
    match door.broker.delete_topic(&name).await {
        Ok(topic) => result.with_name(Some(name)).with_topic_id(topic.id().0),
        Err(error) => refused(refusal(codes::topic(&error), error.to_string())),
    }
}
