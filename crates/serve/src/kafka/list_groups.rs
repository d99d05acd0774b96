//! ListGroups (key 16, versions 0 to 5). Filters by state (KIP-518, version 4) and by type (KIP-848, version 5); an empty
//! filter lets everything through, and case does not matter.

use anabranch_wire::messages::list_groups_response::ListedGroup;
use anabranch_wire::messages::{GroupId, ListGroupsRequest, ListGroupsResponse};
use anabranch_wire::protocol::StrBytes;

use super::{Door, text};

pub(super) async fn answer(door: &Door, request: ListGroupsRequest) -> ListGroupsResponse {
    let passes = |filter: &[StrBytes], value: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
    };
    let mut groups = door.broker.groups().list().await;
    groups.retain(|group| {
        passes(&request.states_filter, group.state) && passes(&request.types_filter, group.kind.name())
    });
    let listed = groups.iter().map(|group| {
        ListedGroup::default()
            .with_group_id(GroupId(text(&group.group)))
            .with_protocol_type(text(&group.protocol_type))
            .with_group_state(text(group.state))
            .with_group_type(text(group.kind.name()))
    });
    ListGroupsResponse::default().with_groups(listed.collect())
}
