//! `anabranch topic alter`

use anabranch::engine::Engine;
use anyhow::Context;

use super::settings;
use crate::cli::client::Told;
use crate::cli::failure::usage;
use crate::cli::output::{Output, counted};

/// Change a topic's settings, or give it more partitions
///
/// Settings that are not named stay as they are.
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
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
}

pub(super) async fn run(args: &AlterArgs, engine: &dyn Engine, output: &mut Output) -> anyhow::Result<()> {
    let topic = &args.topic;
    let set = settings::pairs(&args.configs)?.into_iter();
    let set = set.map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
    let changes: Vec<_> = set.chain(args.defaults.iter().map(|name| (name.clone(), None))).collect();
    if changes.is_empty() && args.partitions.is_none() {
        return Err(usage("nothing to change: give --config, --default or --partitions"));
    }
    if !changes.is_empty() {
        let changed = engine.admin().set_topic_configs(topic, &changes).await.told();
        changed
            .map_err(|error| settings::explain(error, changes.iter().map(|(name, _)| name.as_str())))
            .with_context(|| format!("cannot change topic {topic}"))?;
    }
    if let Some(total) = args.partitions {
        let grown = engine.admin().add_partitions(topic, total).await;
        let total = u64::from(total.unsigned_abs());
        grown.told().with_context(|| format!("cannot give topic {topic} {}", counted(total, "partition")))?;
    }
    if output.is_json() {
        output.json(&serde_json::json!({ "topic": topic, "changed": true }))
    } else {
        output.line(format!("changed topic {topic}"))
    }
}
