//! DeleteGroups (key 42, versions 0 to 2).

use anabranch_wire::messages::delete_groups_response::DeletableGroupResult;
use anabranch_wire::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::{Door, codes};

pub(super) async fn answer(door: &Door, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let ids = request.groups_names.iter().map(|id| id.as_str().to_owned()).collect();
    let outcomes = door.broker.groups().delete(ids).await;
    let results = request.groups_names.into_iter().zip(&outcomes).map(|(id, outcome)| {
        DeletableGroupResult::default().with_group_id(id).with_error_code(codes::group_outcome(outcome))
    });
    DeleteGroupsResponse::default().with_results(results.collect())
}
