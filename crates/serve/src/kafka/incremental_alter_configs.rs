//! IncrementalAlterConfigs (key 44, versions 0 and 1): single settings of a resource (KIP-339).

use std::collections::HashSet;

use anabranch_broker::ConfigOp;
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::incremental_alter_configs_request::AlterConfigsResource;
use anabranch_wire::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use anabranch_wire::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use super::Door;
use super::alter_configs::{alter, null_value};
use super::codes::{Refusal, refusal};
use super::create_topics::apply;

/// `AlterConfigOp.OpType`.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub(super) async fn answer(
    door: &Door,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mode = apply(request.validate_only);
    let mut responses = Vec::with_capacity(request.resources.len());
    let (mut seen, mut repeated) = (HashSet::new(), HashSet::new());
    for resource in &request.resources {
        let whose = (resource.resource_type, resource.resource_name.clone());
        if !seen.insert(whose.clone()) {
            repeated.insert(whose);
        }
    }
    for resource in request.resources {
        let is_repeated = repeated.contains(&(resource.resource_type, resource.resource_name.clone()));
        let (code, message) = match operations(&resource) {
            _ if is_repeated => refusal(ErrorCode::InvalidRequest, "the resource is given more than once"),
            Ok(ops) => alter(door, resource.resource_type, &resource.resource_name, ops, mode).await,
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
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

fn operations(resource: &AlterConfigsResource) -> Result<Vec<ConfigOp>, Refusal> {
    let mut seen = HashSet::new();
    if let Some(config) = resource.configs.iter().find(|config| !seen.insert(config.name.as_str())) {
        let name = config.name.as_str();
        return Err(refusal(ErrorCode::InvalidRequest, format!("{name} is given more than once")));
    }
    let operation =
        |config: &anabranch_wire::messages::incremental_alter_configs_request::AlterableConfig| {
            let name = config.name.to_string();
            let value = config.value.as_ref().map(ToString::to_string);
            Ok(match (config.config_operation, value) {
                (DELETE, _) => ConfigOp::Delete(name),
                (SET, Some(value)) => ConfigOp::Set(name, value),
                (APPEND, Some(value)) => ConfigOp::Append(name, value),
                (SUBTRACT, Some(value)) => ConfigOp::Subtract(name, value),
                (SET | APPEND | SUBTRACT, None) => return Err(null_value(&name)),
                (unknown, _) => {
                    return Err(refusal(ErrorCode::InvalidRequest, format!("unknown operation {unknown}")));
                }
            })
        };
    resource.configs.iter().map(operation).collect()
}
