//! DescribeConfigs (key 32, versions 1 to 4), for topics, for this broker, and for groups (KIP-848).

use anabranch_broker::ConfigEntry;
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::describe_configs_request::DescribeConfigsResource;
use anabranch_wire::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use anabranch_wire::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::codes::{self, Refusal, refusal};
use super::{Door, text};

/// `ConfigResource.Type`.
pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;
pub(super) const GROUP: i8 = 32;

pub(super) fn answer(door: &Door, request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
    let results = request.resources.iter().map(|resource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match entries(door, resource) {
            Ok(entries) => {
                result.with_configs(entries.into_iter().map(|entry| show(entry, request)).collect())
            }
            Err((code, message)) => result.with_error_code(code).with_error_message(message),
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn entries(door: &Door, resource: &DescribeConfigsResource) -> Result<Vec<ConfigEntry>, Refusal> {
    let mut entries = match resource.resource_type {
        TOPIC => {
            let topic = door.broker.topic_or_why(&resource.resource_name);
            let topic = topic.map_err(|error| refusal(codes::topic(&error), error.to_string()))?;
            door.broker.describe_topic_configs(&topic)
        }
        BROKER => {
            check_broker(door, &resource.resource_name)?;
            match resource.resource_name.is_empty() {
                // The defaults of the whole cluster that were set at run time: none can be.
                true => Vec::new(),
                false => door.broker.describe_broker_configs(),
            }
        }
        GROUP if resource.resource_name.is_empty() => {
            return Err(refusal(ErrorCode::InvalidRequest, "the name of a group must not be empty"));
        }
        GROUP => door.broker.describe_group_configs(&resource.resource_name),
        kind => return Err(refusal(ErrorCode::InvalidRequest, format!("unexpected resource type {kind}"))),
    };
    if let Some(keys) = resource.configuration_keys.as_ref().filter(|keys| !keys.is_empty()) {
        entries.retain(|entry| keys.iter().any(|key| key.as_str() == entry.name));
    }
    Ok(entries)
}

/// A broker is named by its id; the empty name means all brokers.
pub(super) fn check_broker(door: &Door, name: &str) -> Result<(), Refusal> {
    let id = door.node_id().0;
    match name.is_empty() || name.parse() == Ok(id) {
        true => Ok(()),
        false => Err(refusal(
            ErrorCode::InvalidRequest,
            format!("unexpected broker id: {id} or the empty string was expected, and {name:?} came"),
        )),
    }
}

fn show(entry: ConfigEntry, request: &DescribeConfigsRequest) -> DescribeConfigsResourceResult {
    let shown = DescribeConfigsResourceResult::default()
        .with_name(text(entry.name))
        .with_value(entry.value.as_deref().filter(|_| !entry.sensitive).map(text))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source as i8)
        .with_is_sensitive(entry.sensitive)
        .with_config_type(entry.kind as i8)
        .with_documentation(request.include_documentation.then(|| text(entry.documentation)));
    if !request.include_synonyms {
        return shown;
    }
    let synonym = |(name, value, source): (&str, Option<String>, anabranch_broker::ConfigSource)| {
        DescribeConfigsSynonym::default()
            .with_name(text(name))
            .with_value(value.as_deref().filter(|_| !entry.sensitive).map(text))
            .with_source(source as i8)
    };
    shown.with_synonyms(entry.synonyms.into_iter().map(synonym).collect())
}
