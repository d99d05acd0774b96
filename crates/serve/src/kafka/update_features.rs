//! UpdateFeatures (key 57, versions 0 to 2): KIP-584, KIP-778. All or nothing; and as no level can change, to apply and to
//! validate is the same.

use anabranch_wire::NO_ERROR;
use anabranch_wire::messages::update_features_response::UpdatableFeatureResult;
use anabranch_wire::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};

use super::codes::NO_REFUSAL;
use super::features::{SAFE_DOWNGRADE, UPGRADE, update};
use super::text;

pub(super) fn answer(version: i16, request: UpdateFeaturesRequest) -> UpdateFeaturesResponse {
    let outcomes = request.feature_updates.iter().map(|asked| {
        // Version 0 has a flag where later ones have a type.
        let kind = match version {
            0 if asked.allow_downgrade => SAFE_DOWNGRADE,
            0 => UPGRADE,
            _ => asked.upgrade_type,
        };
        update(&asked.feature, asked.max_version_level, kind)
    });
    let (code, message) = outcomes.into_iter().find(|(code, _)| *code != NO_ERROR).unwrap_or(NO_REFUSAL);
    // Version 2 tells no single ones; before it, they are told when all of them are well.
    let is_told = version < 2 && code == NO_ERROR;
    let told = request.feature_updates.into_iter().filter(|_| is_told).map(|asked| {
        // Kafka's words for no error.
        UpdatableFeatureResult::default().with_feature(asked.feature).with_error_message(Some(text("NONE")))
    });
    UpdateFeaturesResponse::default()
        .with_error_code(code)
        .with_error_message(message)
        .with_results(told.collect())
}
