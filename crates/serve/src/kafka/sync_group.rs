//! SyncGroup (key 14, versions 0 to 5). The answer waits for the leader's assignment.
//!
//! KIP-559: from version 5 the client says which protocol it believes in, and is told the group's.

use anabranch_broker::group::event::Sync;
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::{SyncGroupRequest, SyncGroupResponse};

use super::{Door, codes, own, own_text, text, unless_stopped};

pub(super) async fn answer(door: &Door, version: i16, request: SyncGroupRequest) -> SyncGroupResponse {
    // KIP-559: neither may be missing, though the schema lets both be null.
    if version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return SyncGroupResponse::default().with_error_code(ErrorCode::InconsistentGroupProtocol.code());
    }
    let assignments =
        request.assignments.iter().map(|each| (each.member_id.to_string(), own(&each.assignment)));
    let sync = Sync {
        group: request.group_id.to_string(),
        member_id: request.member_id.to_string(),
        instance_id: own_text(request.group_instance_id.as_ref()),
        generation: request.generation_id,
        protocol_type: own_text(request.protocol_type.as_ref()),
        protocol: own_text(request.protocol_name.as_ref()),
        assignments: assignments.collect(),
    };
    drop(request);
    match unless_stopped(door, door.broker.groups().sync(sync)).await {
        Ok(synced) => SyncGroupResponse::default()
            .with_protocol_type(synced.protocol_type.as_deref().map(text))
            .with_protocol_name(synced.protocol.as_deref().map(text))
            .with_assignment(synced.assignment),
        Err(error) => SyncGroupResponse::default().with_error_code(codes::group(&error).code()),
    }
}
