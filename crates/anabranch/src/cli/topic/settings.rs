//! Settings of topics, as users give them.

use anabranch_broker::config::topic::TOPIC_SETTINGS;

use crate::cli::failure::{advised, usage};
use crate::cli::nearest;

/// Takes `KEY=VALUE` apart.
pub(super) fn pairs(given: &[String]) -> anyhow::Result<Vec<(&str, &str)>> {
    let wrong = |pair| usage(format!("--config {pair}: it is not KEY=VALUE"));
    given.iter().map(|pair| pair.split_once('=').ok_or_else(|| wrong(pair))).collect()
}

/// Some clusters refuse settings without a word on which: points at a name that no Kafka knows, if one was given.
pub(super) fn explain<'a>(error: anyhow::Error, mut names: impl Iterator<Item = &'a str>) -> anyhow::Error {
    let is_known = |name: &str| TOPIC_SETTINGS.iter().any(|setting| setting.name == name);
    let Some(unknown) = names.find(|name| !is_known(name)) else { return error };
    let near = nearest(unknown, TOPIC_SETTINGS.iter().map(|setting| setting.name));
    let near = near.map(|near| format!(" Did you mean {near}?")).unwrap_or_default();
    advised(error, format!("Topics of Kafka have no setting {unknown}.{near}"))
}
