//! ApiVersions (key 18, versions 0 to 4).
//!
//! KIP-511: an unknown version is answered in version 0 with UNSUPPORTED_VERSION and the list, so that the client can ask
//! again. No features are told: none of `transaction.version`, `group.version` and their like is there yet.

use anabranch_wire::messages::ApiVersionsResponse;
use anabranch_wire::messages::api_versions_response::ApiVersion;
use anabranch_wire::{ErrorCode, NO_ERROR, api, apis};

const KEY: i16 = 18;

pub(super) fn answer(version: i16) -> ApiVersionsResponse {
    let served = apis().iter().map(|api| {
        ApiVersion::default()
            .with_api_key(api.key as i16)
            .with_min_version(api.reported_min)
            .with_max_version(api.max)
    });
    let is_served = api(KEY).is_some_and(|api| api.serves(version));
    let code = if is_served { NO_ERROR } else { ErrorCode::UnsupportedVersion.code() };
    ApiVersionsResponse::default().with_error_code(code).with_api_keys(served.collect())
}
