//! ListConfigResources (key 74, versions 0 and 1): what has settings, by kind (KIP-1142). Version 0 asks for the resources of
//! client metrics, of which there are none.

use anabranch_wire::ErrorCode;
use anabranch_wire::messages::list_config_resources_response::ConfigResource;
use anabranch_wire::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};

use super::describe_configs::{BROKER, GROUP, TOPIC};
use super::{Door, text};

/// `ConfigResource.Type`: kinds that Kafka has, and of which there is nothing here.
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;

pub(super) fn answer(
    door: &Door,
    version: i16,
    request: &ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let kinds: &[i8] = &[TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    let asked = &request.resource_types[..];
    let response = ListConfigResourcesResponse::default();
    if asked.iter().any(|kind| !kinds.contains(kind)) {
        return response.with_error_code(ErrorCode::UnsupportedVersion.code());
    }
    let mut found = Vec::new();
    for kind in kinds.iter().filter(|kind| version > 0 && (asked.is_empty() || asked.contains(kind))) {
        let names = match *kind {
            TOPIC => door.broker.topics().iter().map(|topic| text(topic.name())).collect(),
            BROKER => vec![text(&door.node_id().0.to_string())],
            GROUP => door.broker.groups_with_configs().iter().map(|name| text(name)).collect(),
            _ => Vec::new(),
        };
        let of_kind = ConfigResource::default().with_resource_type(*kind);
        found.extend(names.into_iter().map(|name| of_kind.clone().with_resource_name(name)));
    }
    response.with_config_resources(found)
}
