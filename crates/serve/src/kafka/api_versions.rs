//! ApiVersions (key 18, versions 0 to 4).
//!
//! KIP-511: an unknown version is answered in version 0 with UNSUPPORTED_VERSION and the list, so that the client can ask
//! again. The epoch of the features is that of a list that never changes.

use anabranch_wire::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use anabranch_wire::messages::{ApiVersionsRequest, ApiVersionsResponse};
use anabranch_wire::{ErrorCode, NO_ERROR, api, apis};

use super::features::FEATURES;
use super::text;

const KEY: i16 = 18;

/// How a client may call itself (`ApiVersionsRequest.isValid`), from version 3 on.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    is_plain(bytes.first())
        && is_plain(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(byte))
}

pub(super) fn answer(version: i16, request: &ApiVersionsRequest) -> ApiVersionsResponse {
    let said = [&request.client_software_name, &request.client_software_version];
    if (3..).contains(&version)
        && api(KEY).is_some_and(|api| api.serves(version))
        && !said.iter().all(|name| is_name(name))
    {
        return ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
    }
    let served = apis().iter().map(|api| {
        ApiVersion::default()
            .with_api_key(api.key as i16)
            .with_min_version(api.reported_min)
            .with_max_version(api.max)
    });
    let is_served = api(KEY).is_some_and(|api| api.serves(version));
    let code = if is_served { NO_ERROR } else { ErrorCode::UnsupportedVersion.code() };
    let response = ApiVersionsResponse::default().with_error_code(code).with_api_keys(served.collect());
    if !is_served || version < 3 {
        return response;
    }
    let supported = FEATURES.iter().map(|(name, level)| {
        SupportedFeatureKey::default().with_name(text(name)).with_min_version(0).with_max_version(*level)
    });
    let finalized = FEATURES.iter().map(|(name, level)| {
        FinalizedFeatureKey::default()
            .with_name(text(name))
            .with_min_version_level(*level)
            .with_max_version_level(*level)
    });
    // Clients of version 3 do not know that a feature may be supported from 0 on.
    let supported = if version < 4 { Vec::new() } else { supported.collect() };
    response
        .with_supported_features(supported)
        .with_finalized_features_epoch(0)
        .with_finalized_features(finalized.collect())
}
