//! JoinGroup (key 11, versions 0 to 9). The answer may take as long as the group needs to gather.
//!
//! KIP-394: from version 4 a new member is told its id first, and joins again with it. KIP-345: static members from
//! version 5. KIP-814: a leader that came back may be told to skip the assignment, from version 9.

use anabranch_broker::group::GroupError;
use anabranch_broker::group::event::{Join, JoinedMember};
use anabranch_wire::messages::join_group_response::JoinGroupResponseMember;
use anabranch_wire::messages::{JoinGroupRequest, JoinGroupResponse};

use super::{Client, Door, codes, own, own_text, text, unless_stopped};

pub(super) async fn answer(door: &Door, client: Client<'_>, request: JoinGroupRequest) -> JoinGroupResponse {
    let version = client.version();
    let member_id = request.member_id.clone();
    let protocols = request.protocols.iter().map(|each| (each.name.to_string(), own(&each.metadata)));
    let join = Join {
        group: request.group_id.to_string(),
        member_id: request.member_id.to_string(),
        instance_id: own_text(request.group_instance_id.as_ref()),
        client_id: own_text(client.head.client_id.as_ref()).unwrap_or_default(),
        client_host: format!("/{}", client.peer.ip().to_canonical()),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        protocol_type: request.protocol_type.to_string(),
        protocols: protocols.collect(),
        require_known_member_id: version >= 4,
        can_skip_assignment: version >= 9,
    };
    drop(request); // and with it the frame: joining may take minutes
    // `ProtocolName` is nullable from version 7 on.
    let protocol_name = |name: Option<&str>| match version {
        7.. => name.map(text),
        _ => Some(text(name.unwrap_or_default())),
    };
    match unless_stopped(door, door.broker.groups().join(join, || door.broker.topics())).await {
        Ok(joined) => JoinGroupResponse::default()
            .with_generation_id(joined.generation)
            .with_protocol_type(joined.protocol_type.as_deref().map(text))
            .with_protocol_name(protocol_name(joined.protocol.as_deref()))
            .with_leader(text(&joined.leader))
            .with_skip_assignment(joined.skip_assignment)
            .with_member_id(text(&joined.member_id))
            .with_members(joined.members.into_iter().map(member).collect()),
        Err(error) => JoinGroupResponse::default()
            .with_error_code(codes::group(&error).code())
            .with_generation_id(-1)
            .with_protocol_name(protocol_name(None))
            .with_member_id(match &error {
                GroupError::MemberIdRequired(id) => text(id),
                _ => member_id,
            }),
    }
}

fn member(member: JoinedMember) -> JoinGroupResponseMember {
    JoinGroupResponseMember::default()
        .with_member_id(text(&member.member_id))
        .with_group_instance_id(member.instance_id.as_deref().map(text))
        .with_metadata(member.metadata)
}
