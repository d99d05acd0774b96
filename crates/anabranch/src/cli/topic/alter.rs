//! `anabranch topic alter`

use std::collections::BTreeMap;

use anyhow::Context;
use rdkafka::admin::{AlterConfig, ConfigSource, NewPartitions, ResourceSpecifier};
use rdkafka::types::RDKafkaErrorCode;

use super::settings;
use crate::cli::client::{Admin, ClusterArgs, code_error, each_topic};
use crate::cli::failure::usage;
use crate::cli::output::Output;

/// Change a topic's settings, or give it more partitions
///
/// Settings that are not named stay as they are. They are read, changed and written back: of two who change the same
/// topic at the same moment, the second may undo what the first did.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anabranch topic alter orders -c retention.ms=3600000
  anabranch topic alter orders --default retention.ms
  anabranch topic alter orders --partitions 6        Keys move to other partitions from then on")]
pub(super) struct AlterArgs {
    /// Which topic
    topic: String,
    /// Set a setting; may be given many times
    #[arg(short, long = "config", value_name = "KEY=VALUE")]
    configs: Vec<String>,
    /// Take a setting back to its default; may be given many times
    #[arg(short, long = "default", value_name = "KEY")]
    defaults: Vec<String>,
    /// How many partitions it shall have: more than it has
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
}

pub(super) fn run(args: &AlterArgs, cluster: &ClusterArgs, output: &mut Output) -> anyhow::Result<()> {
    let topic = &args.topic;
    let set = settings::pairs(&args.configs)?;
    let changes_settings = !set.is_empty() || !args.defaults.is_empty();
    if !changes_settings && args.partitions.is_none() {
        return Err(usage("nothing to change: give --config, --default or --partitions"));
    }
    let admin = cluster.admin()?;
    if changes_settings {
        alter_settings(&admin, args, &set).with_context(|| format!("cannot change topic {topic}"))?;
    }
    if let Some(total) = args.partitions {
        let asked = NewPartitions::new(topic, total as usize);
        let results = admin.ask(async |client, options| client.create_partitions([&asked], options).await);
        results.and_then(each_topic).with_context(|| format!("cannot give it {total} partitions"))?;
    }
    if output.is_json() {
        output.json(&serde_json::json!({ "topic": topic, "changed": true }))
    } else {
        output.line(format!("changed topic {topic}"))
    }
}

/// librdkafka's safe face has only the request that replaces all settings.
fn alter_settings(admin: &Admin, args: &AlterArgs, set: &[(&str, &str)]) -> anyhow::Result<()> {
    let topic = &args.topic;
    let mut settings: BTreeMap<String, String> = settings::describe(admin, topic)?
        .into_iter()
        .filter(|entry| entry.source == ConfigSource::DynamicTopic)
        .filter_map(|entry| Some((entry.name, entry.value?)))
        .collect();
    for name in &args.defaults {
        settings.remove(name);
    }
    settings.extend(set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let mut change = AlterConfig::new(ResourceSpecifier::Topic(topic));
    for (name, value) in &settings {
        change = change.set(name, value);
    }
    let results = admin.ask(async |client, options| client.alter_configs([&change], options).await)?;
    for result in results {
        if let Err((_, code)) = result {
            let error = code_error(code);
            return Err(match code {
                RDKafkaErrorCode::InvalidConfig => {
                    settings::explain(error, set.iter().map(|(name, _)| *name))
                }
                _ => error,
            });
        }
    }
    Ok(())
}
