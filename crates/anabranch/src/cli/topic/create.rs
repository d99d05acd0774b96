//! `anabranch topic create`

use anyhow::Context;
use rdkafka::admin::{NewTopic, TopicReplication};
use rdkafka::types::RDKafkaErrorCode;

use super::settings;
use crate::cli::client::{ClusterArgs, code_error};
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
    /// How many partitions [default: the cluster's num.partitions]
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// How many copies [default: the cluster's]
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..))]
    replication: Option<i32>,
    /// A setting, by Kafka's name; may be given many times
    #[arg(short, long = "config", value_name = "KEY=VALUE")]
    configs: Vec<String>,
    /// Be content when there is one of that name
    #[arg(long)]
    if_missing: bool,
}

pub(super) fn run(args: &CreateArgs, cluster: &ClusterArgs, output: &mut Output) -> anyhow::Result<()> {
    /// Kafka's way to say "the default".
    const DEFAULT: i32 = -1;
    let topic = &args.topic;
    let replication = TopicReplication::Fixed(args.replication.unwrap_or(DEFAULT));
    let mut new = NewTopic::new(topic, args.partitions.unwrap_or(DEFAULT), replication);
    new.config = settings::pairs(&args.configs)?;
    let admin = cluster.admin()?;
    let failed = || format!("cannot create topic {topic}");
    let results = admin
        .ask(async |client, options| client.create_topics([&new], options).await)
        .with_context(failed)?;
    let mut created = true;
    for result in results {
        match result {
            Ok(_) => {}
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) if args.if_missing => created = false,
            Err((_, code)) => {
                let error = code_error(code);
                let error = match code {
                    RDKafkaErrorCode::InvalidConfig => {
                        settings::explain(error, new.config.iter().map(|(name, _)| *name))
                    }
                    _ => error,
                };
                return Err(error.context(failed()));
            }
        }
    }
    if output.is_json() {
        output.json(&serde_json::json!({ "topic": topic, "created": created }))
    } else {
        output.line(format!("{} topic {topic}", if created { "created" } else { "there is a" }))
    }
}
