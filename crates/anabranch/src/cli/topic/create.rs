//! `anabranch topic create`

use anabranch::engine::{Engine, EngineError, Ensured, TopicSpec};
use anyhow::anyhow;

use super::settings;
use crate::cli::client::told;
use crate::cli::failure::advised;
use crate::cli::output::Output;

/// Create a topic
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anabranch topic create orders
  anabranch topic create orders -p 3 -c retention.ms=86400000
  anabranch topic create users -c cleanup.policy=compact --if-missing")]
pub(super) struct CreateArgs {
    /// Its name: letters, digits, '.', '_' and '-'
    topic: String,
    /// How many partitions [default: the engine's, such as Kafka's num.partitions]
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// How many copies [default: the engine's]
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..))]
    replication: Option<i32>,
    /// A setting, by Kafka's name; may be given many times
    #[arg(short, long = "config", value_name = "KEY=VALUE")]
    configs: Vec<String>,
    /// Be content when there is one of that name
    #[arg(long)]
    if_missing: bool,
}

pub(super) async fn run(args: &CreateArgs, engine: &dyn Engine, output: &mut Output) -> anyhow::Result<()> {
    let topic = &args.topic;
    let configs = settings::pairs(&args.configs)?;
    let partitions = args.partitions.unwrap_or(engine.description().partitions_default);
    let mut spec = TopicSpec::new(topic, partitions);
    spec.replicas = args.replication;
    for (name, value) in &configs {
        spec = spec.config(*name, *value);
    }
    let failed = || format!("cannot create topic {topic}");
    let created = match engine.ensure_topic(&spec).await {
        Ok(Ensured::Created) => true,
        Ok(Ensured::Existed) | Err(EngineError::Different { .. }) if args.if_missing => false,
        Ok(Ensured::Existed) | Err(EngineError::Different { .. }) => {
            let advice = "`anabranch topic create --if-missing` is content with that; `anabranch topic alter` changes it.";
            return Err(advised(anyhow!("there is one of that name"), advice).context(failed()));
        }
        Err(error @ EngineError::Refused { .. }) => {
            let error = settings::explain(told(error), configs.iter().map(|(name, _)| *name));
            return Err(error.context(failed()));
        }
        Err(error) => return Err(told(error).context(failed())),
    };
    if output.is_json() {
        output.json(&serde_json::json!({ "topic": topic, "created": created }))
    } else {
        output.line(format!("{} topic {topic}", if created { "created" } else { "there is a" }))
    }
}
