//! DescribeGroups (key 15, versions 0 to 6).
//!
//! KIP-1043: from version 6 a group that does not exist is GROUP_ID_NOT_FOUND; before, it is in state `Dead`.

use anabranch_broker::group::event::DescribedMember;
use anabranch_wire::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use anabranch_wire::messages::{DescribeGroupsRequest, DescribeGroupsResponse};

use super::{Door, codes, operations, text};

/// What Kafka calls the state of a group that is not there.
const DEAD: &str = "Dead";

pub(super) async fn answer(
    door: &Door,
    version: i16,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let mut groups = Vec::with_capacity(request.groups.len());
    for id in request.groups {
        let described = DescribedGroup::default().with_group_id(id.clone());
        let operations = operations::if_asked(request.include_authorized_operations, operations::ON_GROUP);
        groups.push(match door.broker.groups().describe(&id).await {
            Ok(group) => described
                .with_group_state(text(group.state.name()))
                .with_protocol_type(text(&group.protocol_type))
                .with_protocol_data(text(&group.protocol))
                .with_members(group.members.into_iter().map(member).collect())
                .with_authorized_operations(operations),
            Err(_) if version < 6 => {
                described.with_group_state(text(DEAD)).with_authorized_operations(operations)
            }
            Err(error) => {
                let (code, message) =
                    codes::refusal(codes::group(&error), format!("group {}: {error}", id.as_str()));
                described.with_group_state(text(DEAD)).with_error_code(code).with_error_message(message)
            }
        });
    }
    DescribeGroupsResponse::default().with_groups(groups)
}

fn member(member: DescribedMember) -> DescribedGroupMember {
    DescribedGroupMember::default()
        .with_member_id(text(&member.member_id))
        .with_group_instance_id(member.instance_id.as_deref().map(text))
        .with_client_id(text(&member.client_id))
        .with_client_host(text(&member.client_host))
        .with_member_metadata(member.metadata)
        .with_member_assignment(member.assignment)
}
