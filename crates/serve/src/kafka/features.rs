//! Features (KIP-584): what a cluster can do, and how far that is on. On one node everything is on from the beginning.

use super::codes::{NO_REFUSAL, Refusal, refusal};
use anabranch_wire::ErrorCode;

/// Name and level; each is supported from 0, which is off.
pub(super) const FEATURES: &[(&str, i16)] = &[("group.version", 1), ("transaction.version", 2)];

/// `FeatureUpdate.UpgradeType`.
pub(super) const UPGRADE: i8 = 1;
pub(super) const SAFE_DOWNGRADE: i8 = 2;
const UNSAFE_DOWNGRADE: i8 = 3;

/// What comes of an update to `level`: nothing but what is there, in the order of Kafka's `FeatureControlManager`.
pub(super) fn update(name: &str, level: i16, kind: i8) -> Refusal {
    let current = FEATURES.iter().find(|(known, _)| *known == name).map(|(_, level)| *level);
    let why = match current {
        _ if !(UPGRADE..=UNSAFE_DOWNGRADE).contains(&kind) => "there is no such type of upgrade".to_owned(),
        _ if level < 0 => "a level is not negative".to_owned(),
        None => "there is no such feature".to_owned(),
        Some(current) if level > current => format!("0 to {current} are supported"),
        Some(current) if level < current => "what is on stays on".to_owned(),
        Some(_) => return NO_REFUSAL,
    };
    refusal(ErrorCode::InvalidUpdateVersion, format!("{name} to level {level}: {why}"))
}
