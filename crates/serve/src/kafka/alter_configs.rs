//! AlterConfigs (key 33, versions 0 to 2): the given settings replace all others of a resource (KIP-133).

use std::collections::HashSet;

use anabranch_broker::{Apply, ConfigOp};
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::alter_configs_request::AlterConfigsResource;
use anabranch_wire::messages::alter_configs_response::AlterConfigsResourceResponse;
use anabranch_wire::messages::{AlterConfigsRequest, AlterConfigsResponse};

use super::Door;
use super::codes::{self, NO_REFUSAL, Refusal, refusal};
use super::create_topics::apply;
use super::describe_configs::{BROKER, GROUP, TOPIC, check_broker};

pub(super) async fn answer(door: &Door, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let mode = apply(request.validate_only);
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let (code, message) = match operation(&resource) {
            Ok(op) => alter(door, resource.resource_type, &resource.resource_name, vec![op], mode).await,
            Err(refused) => refused,
        };
        responses.push(
            AlterConfigsResourceResponse::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name)
                .with_error_code(code)
                .with_error_message(message),
        );
    }
    AlterConfigsResponse::default().with_responses(responses)
}

fn operation(resource: &AlterConfigsResource) -> Result<ConfigOp, Refusal> {
    let mut seen = HashSet::new();
    if let Some(config) = resource.configs.iter().find(|config| !seen.insert(config.name.as_str())) {
        return Err(refusal(
            ErrorCode::InvalidRequest,
            format!("{} is given more than once", config.name.as_str()),
        ));
    }
    let set = resource.configs.iter().map(|config| match &config.value {
        Some(value) => Ok((config.name.to_string(), value.to_string())),
        None => Err(null_value(&config.name)),
    });
    Ok(ConfigOp::ReplaceAll(set.collect::<Result<_, _>>()?))
}

pub(super) fn null_value(name: &str) -> Refusal {
    refusal(ErrorCode::InvalidRequest, format!("{name} must not be null"))
}

fn takes_back(op: &ConfigOp) -> bool {
    match op {
        ConfigOp::Delete(_) => true,
        ConfigOp::ReplaceAll(set) => set.is_empty(),
        ConfigOp::Set(..) | ConfigOp::Append(..) | ConfigOp::Subtract(..) => false,
    }
}

/// Changes a resource, for both requests that do.
pub(super) async fn alter(door: &Door, kind: i8, name: &str, ops: Vec<ConfigOp>, mode: Apply) -> Refusal {
    match kind {
        TOPIC if name.is_empty() => refusal(
            ErrorCode::InvalidRequest,
            "there are no settings for all topics: the name must not be empty",
        ),
        TOPIC => codes::outcome(door.broker.alter_topic_configs(name, &ops, mode).await),
        BROKER => match check_broker(door, name) {
            // Nothing is set at run time, so that all of it can be taken back: `kafka-reassign-partitions` does.
            Ok(()) if ops.iter().all(takes_back) => NO_REFUSAL,
            Ok(()) => refusal(
                ErrorCode::InvalidRequest,
                "the broker's settings are given when it starts, and do not change while it runs",
            ),
            Err(refused) => refused,
        },
        GROUP => codes::outcome(door.broker.alter_group_configs(name, &ops, mode).await),
        kind => refusal(ErrorCode::InvalidRequest, format!("unexpected resource type {kind}")),
    }
}
