//! Heartbeat (key 12, versions 0 to 4).

use anabranch_broker::group::Heartbeat;
use anabranch_wire::messages::{HeartbeatRequest, HeartbeatResponse};

use super::{Door, codes};

pub(super) async fn answer(door: &Door, request: &HeartbeatRequest) -> HeartbeatResponse {
    let heartbeat = Heartbeat {
        group: &request.group_id,
        member_id: &request.member_id,
        instance_id: request.group_instance_id.as_deref(),
        generation: request.generation_id,
    };
    let outcome = door.broker.groups().heartbeat(&heartbeat, || door.broker.topics()).await;
    HeartbeatResponse::default().with_error_code(codes::group_outcome(&outcome))
}
