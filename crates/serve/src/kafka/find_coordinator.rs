//! FindCoordinator (key 10, versions 0 to 6): this node coordinates every group and every
//! transaction.
//!
//! From version 4 one request asks for many keys (KIP-699).

use anabranch_wire::messages::find_coordinator_response::Coordinator;
use anabranch_wire::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use anabranch_wire::protocol::StrBytes;
use anabranch_wire::{ErrorCode, NO_ERROR};

use super::Door;
use super::codes::refusal;

/// `CoordinatorType` of `FindCoordinatorRequest.java`.
pub(super) const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

pub(super) fn answer(door: &Door, version: i16, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let (code, message) = match request.key_type {
        // What Kafka says of success: `Errors.NONE.message` at first, later the schema's default.
        GROUP | TRANSACTION => {
            (NO_ERROR, Some(StrBytes::from_static_str(if version < 4 { "NONE" } else { "" })))
        }
        kind => refusal(ErrorCode::InvalidRequest, format!("unknown coordinator type {kind}")),
    };
    let (node, host, port) = match request.key_type {
        GROUP | TRANSACTION => (door.node_id(), door.host.clone(), door.port),
        _ => (BrokerId(-1), Default::default(), -1),
    };
    if version < 4 {
        return FindCoordinatorResponse::default()
            .with_error_code(code)
            .with_error_message(message)
            .with_node_id(node)
            .with_host(host)
            .with_port(port);
    }
    let coordinator = |key| {
        Coordinator::default()
            .with_key(key)
            .with_error_code(code)
            .with_error_message(message.clone())
            .with_node_id(node)
            .with_host(host.clone())
            .with_port(port)
    };
    let coordinators = request.coordinator_keys.into_iter().map(coordinator).collect();
    FindCoordinatorResponse::default().with_coordinators(coordinators)
}
