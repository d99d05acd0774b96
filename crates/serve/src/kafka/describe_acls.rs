//! DescribeAcls (key 29, versions 1 to 3): what a broker without an authorizer says, which tools take for an answer.

use anabranch_wire::ErrorCode;
use anabranch_wire::messages::DescribeAclsResponse;

use super::codes::refusal;

pub(super) fn answer() -> DescribeAclsResponse {
    let (code, message) = refusal(ErrorCode::SecurityDisabled, "there is no authorizer");
    DescribeAclsResponse::default().with_error_code(code).with_error_message(message)
}
