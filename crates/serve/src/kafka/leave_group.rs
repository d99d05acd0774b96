//! LeaveGroup (key 13, versions 0 to 5). From version 3 one request names many members (KIP-345), for administrators.

use anabranch_broker::group::event::Leaver;
use anabranch_wire::messages::leave_group_request::MemberIdentity;
use anabranch_wire::messages::leave_group_response::MemberResponse;
use anabranch_wire::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::{Door, codes, own_text};

pub(super) async fn answer(door: &Door, version: i16, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let members = match version {
        3.. => request.members,
        _ => vec![MemberIdentity::default().with_member_id(request.member_id)],
    };
    let leaver = |member: &MemberIdentity| Leaver {
        member_id: member.member_id.to_string(),
        instance_id: own_text(member.group_instance_id.as_ref()),
    };
    let leavers = members.iter().map(leaver).collect();
    match door.broker.groups().leave(&request.group_id, leavers).await {
        Err(error) => LeaveGroupResponse::default().with_error_code(codes::group(&error).code()),
        Ok(outcomes) if version < 3 => {
            let code = outcomes.first().map_or(anabranch_wire::NO_ERROR, codes::group_outcome);
            LeaveGroupResponse::default().with_error_code(code)
        }
        Ok(outcomes) => {
            let told = members.into_iter().zip(&outcomes).map(|(member, outcome)| {
                MemberResponse::default()
                    .with_member_id(member.member_id)
                    .with_group_instance_id(member.group_instance_id)
                    .with_error_code(codes::group_outcome(outcome))
            });
            LeaveGroupResponse::default().with_members(told.collect())
        }
    }
}
