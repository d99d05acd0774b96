//! `anabranch topic describe`

use anabranch::engine::Engine;
use anabranch_core::TopicPartition;
use anabranch_core::engine::{PartitionInfo, TopicConfig};
use anyhow::Context;
use serde_json::{Value, json};

use crate::cli::client::{Span, Told, span};
use crate::cli::output::{Column, Output, counted, grouped};

/// Tell a topic's partitions, offsets and settings
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anabranch topic describe orders
  anabranch topic describe orders --all-settings")]
pub(super) struct DescribeArgs {
    /// Which topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Also the settings that have their defaults
    #[arg(long)]
    all_settings: bool,
}

/// What there is to tell of a partition.
struct Partition {
    number: i32,
    stored: PartitionInfo,
    span: Span,
}

pub(super) async fn run(args: &DescribeArgs, engine: &dyn Engine, output: &mut Output) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for (index, topic) in args.topics.iter().enumerate() {
        let failed = || format!("cannot describe topic {topic}");
        let partitions = partitions(engine, topic).await.with_context(failed)?;
        let mut settings = engine.admin().topic_configs(topic).await.told().with_context(failed)?;
        settings.retain(|config| args.all_settings || config.is_own);
        if output.is_json() {
            all.push(to_json(topic, &partitions, &settings));
        } else {
            if index > 0 {
                output.line("")?;
            }
            print(topic, &partitions, &settings, output)?;
        }
    }
    if output.is_json() { output.json(&all) } else { Ok(()) }
}

async fn partitions(engine: &dyn Engine, topic: &str) -> anyhow::Result<Vec<Partition>> {
    let mut partitions = Vec::new();
    let found = engine.admin().topic(topic).await.told()?;
    for (number, stored) in (0..).zip(found.partitions) {
        let span = span(engine, &TopicPartition::new(topic, number)).await?;
        partitions.push(Partition { number, stored, span });
    }
    Ok(partitions)
}

/// Kafka's nodes are numbers.
fn node(name: &str) -> Value {
    name.parse::<i64>().map_or_else(|_| json!(name), |number| json!(number))
}

fn to_json(topic: &str, partitions: &[Partition], settings: &[TopicConfig]) -> Value {
    let nodes = |names: &[String]| names.iter().map(|name| node(name)).collect::<Vec<_>>();
    let partitions = partitions.iter().map(|Partition { number, stored, span }| {
        json!({
            "partition": number,
            "leader": stored.leader.as_deref().map(node),
            "replicas": nodes(&stored.replicas),
            "in_sync": nodes(&stored.in_sync),
            "start_offset": span.start.0,
            "end_offset": span.end.0,
        })
    });
    let settings = settings
        .iter()
        .map(|config| json!({ "name": config.name, "value": config.value, "default": !config.is_own }));
    json!({
        "topic": topic,
        "partitions": partitions.collect::<Vec<_>>(),
        "settings": settings.collect::<Vec<_>>(),
    })
}

fn print(
    topic: &str,
    partitions: &[Partition],
    settings: &[TopicConfig],
    output: &mut Output,
) -> anyhow::Result<()> {
    use Column::{Number, Text};
    let offsets: u64 = partitions.iter().map(|partition| partition.span.end.0 - partition.span.start.0).sum();
    output.line(format!(
        "{topic}: {}, {} offsets",
        counted(partitions.len() as u64, "partition"),
        grouped(offsets)
    ))?;
    let columns = [
        Number("PARTITION"),
        Number("LEADER"),
        Text("REPLICAS"),
        Text("IN SYNC"),
        Number("START"),
        Number("END"),
    ];
    let rows = partitions.iter().map(|Partition { number, stored, span }| {
        vec![
            number.to_string(),
            stored.leader.clone().unwrap_or_else(|| "none".to_owned()),
            stored.replicas.join(","),
            stored.in_sync.join(","),
            span.start.to_string(),
            span.end.to_string(),
        ]
    });
    output.table(&columns, rows.collect())?;
    if !settings.is_empty() {
        output.line("")?;
        let rows = settings.iter().map(|config| {
            let from = if config.is_own { "topic" } else { "default" };
            vec![config.name.clone(), config.value.clone().unwrap_or_default(), from.to_owned()]
        });
        output.table(&[Text("SETTING"), Text("VALUE"), Text("FROM")], rows.collect())?;
    }
    Ok(())
}
