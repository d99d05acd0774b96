//! DescribeCluster (key 60, versions 0 to 2): KIP-700, and KIP-919 for endpoint types.

use anabranch_wire::ErrorCode;
use anabranch_wire::messages::describe_cluster_response::DescribeClusterBroker;
use anabranch_wire::messages::{DescribeClusterRequest, DescribeClusterResponse};

use super::codes::refusal;
use super::{Door, operations, text};

/// `EndpointType.java`.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub(super) fn answer(door: &Door, request: &DescribeClusterRequest) -> DescribeClusterResponse {
    let (code, message) = match request.endpoint_type {
        BROKERS => super::codes::NO_REFUSAL,
        CONTROLLERS => refusal(ErrorCode::MismatchedEndpointType, "this endpoint is a broker's"),
        kind => refusal(ErrorCode::UnsupportedEndpointType, format!("unknown endpoint type {kind}")),
    };
    if code != anabranch_wire::NO_ERROR {
        return DescribeClusterResponse::default().with_error_code(code).with_error_message(message);
    }
    let this = DescribeClusterBroker::default()
        .with_broker_id(door.node_id())
        .with_host(door.host.clone())
        .with_port(door.port);
    let wants = request.include_cluster_authorized_operations;
    DescribeClusterResponse::default()
        .with_cluster_id(text(door.broker.cluster_id()))
        .with_controller_id(door.node_id())
        .with_brokers(vec![this])
        .with_cluster_authorized_operations(operations::if_asked(wants, operations::ON_CLUSTER))
}
