//! Settings of topics, as users give them and as the cluster tells them.

use std::collections::BTreeMap;

use anabranch_broker::config::topic::TOPIC_SETTINGS;
use rdkafka::admin::{ConfigEntry, ConfigSource, ResourceSpecifier};

use crate::cli::client::{Admin, code_error};
use crate::cli::failure::{advised, usage};
use crate::cli::nearest;

/// Takes `KEY=VALUE` apart.
pub(super) fn pairs(given: &[String]) -> anyhow::Result<Vec<(&str, &str)>> {
    let wrong = |pair| usage(format!("--config {pair}: it is not KEY=VALUE"));
    given.iter().map(|pair| pair.split_once('=').ok_or_else(|| wrong(pair))).collect()
}

/// What the cluster says of the topic's settings, by name.
pub(super) fn describe(admin: &Admin, topic: &str) -> anyhow::Result<Vec<ConfigEntry>> {
    let results = admin.ask(async |client, options| {
        client.describe_configs(&[ResourceSpecifier::Topic(topic)], options).await
    })?;
    let mut entries = Vec::new();
    for result in results {
        entries.extend(result.map_err(code_error)?.entries);
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

/// The settings that are set on the topic itself.
pub(super) fn of_topic(admin: &Admin, topic: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let own = describe(admin, topic)?.into_iter().filter(|entry| !is_default(entry));
    Ok(own.filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

/// Whether a setting comes from somewhere else than the topic.
pub(super) fn is_default(entry: &ConfigEntry) -> bool {
    entry.source != ConfigSource::DynamicTopic
}

/// Whether two texts mean the same value: clusters trim, and bring numbers and booleans into one form.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let items = |text: &str| text.split(',').map(|item| item.trim().to_ascii_lowercase()).collect::<Vec<_>>();
    items(one) == items(other) || number(one).is_some_and(|value| number(other) == Some(value))
}

/// The cluster refuses settings without a word on which: points at a name that no Kafka knows, if one was given.
pub(super) fn explain<'a>(error: anyhow::Error, mut names: impl Iterator<Item = &'a str>) -> anyhow::Error {
    let is_known = |name: &str| TOPIC_SETTINGS.iter().any(|setting| setting.name == name);
    let Some(unknown) = names.find(|name| !is_known(name)) else { return error };
    let near = nearest(unknown, TOPIC_SETTINGS.iter().map(|setting| setting.name));
    let near = near.map(|near| format!(" Did you mean {near}?")).unwrap_or_default();
    advised(error, format!("Topics of Kafka have no setting {unknown}.{near}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_same_in_any_form() {
        for (one, other, same) in [
            ("7", "07", true),
            ("true", " TRUE", true),
            ("compact,delete", "compact, delete", true),
            ("0.5", ".50", true),
            ("7", "8", false),
            ("7", "x", false),
            ("x", "y", false),
        ] {
            assert_eq!(is_same(one, other), same, "{one} {other}");
        }
    }
}
