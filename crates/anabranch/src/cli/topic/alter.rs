//! `anabranch topic alter`

use anyhow::{Context, anyhow};
use rdkafka::admin::{AlterConfig, NewPartitions, ResourceSpecifier};

use super::settings;
use crate::cli::client::{Admin, ClusterArgs, each_topic};
use crate::cli::failure::usage;
use crate::cli::output::{Output, counted};

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
    cluster.observe(&[])?.partitions(topic)?;
    let admin = cluster.admin()?;
    if changes_settings {
        alter_settings(&admin, args, &set).with_context(|| format!("cannot change topic {topic}"))?;
    }
    if let Some(total) = args.partitions {
        let asked = NewPartitions::new(topic, total as usize);
        let results = admin.ask(async |client, options| client.create_partitions([&asked], options).await);
        results
            .and_then(each_topic)
            .with_context(|| format!("cannot give it {}", counted(total.into(), "partition")))?;
    }
    if output.is_json() {
        output.json(&serde_json::json!({ "topic": topic, "changed": true }))
    } else {
        output.line(format!("changed topic {topic}"))
    }
}

/// The client library has only the request that replaces all settings, and keeps its outcome to itself: so they are read
/// before it and after it.
fn alter_settings(admin: &Admin, args: &AlterArgs, set: &[(&str, &str)]) -> anyhow::Result<()> {
    let topic = &args.topic;
    let before = settings::of_topic(admin, topic)?;
    let mut wanted = before.clone();
    for name in &args.defaults {
        wanted.remove(name);
    }
    wanted.extend(set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let mut change = AlterConfig::new(ResourceSpecifier::Topic(topic));
    for (name, value) in &wanted {
        change = change.set(name, value);
    }
    admin.ask(async |client, options| client.alter_configs([&change], options).await)?;
    let after = settings::of_topic(admin, topic)?;
    let is_done = |name: &str| match (wanted.get(name), after.get(name)) {
        (Some(wanted), Some(stands)) => settings::is_same(stands, wanted),
        (wanted, stands) => wanted.is_none() && stands.is_none(),
    };
    let named = set.iter().map(|(name, _)| *name).chain(args.defaults.iter().map(String::as_str));
    let refused: Vec<&str> = named.filter(|name| !is_done(name)).collect();
    match refused.is_empty() {
        true => Ok(()),
        false => {
            let error = anyhow!("the cluster refused to set {}", refused.join(", "));
            Err(settings::explain(error, refused.into_iter()))
        }
    }
}
