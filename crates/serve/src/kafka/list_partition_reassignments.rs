//! ListPartitionReassignments (key 46, version 0): KIP-455. On one node none is ever under way, whatever is asked for.

use anabranch_wire::messages::ListPartitionReassignmentsResponse;

pub(super) fn answer() -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default().with_error_message(None)
}
