//! `anabranch topic describe`

use anyhow::Context;
use rdkafka::admin::ConfigEntry;
use serde_json::{Value, json};

use super::settings::{self, is_default};
use crate::cli::client::{ClusterArgs, Observer, Span, code_error};
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
    leader: i32,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
    span: Span,
}

pub(super) fn run(args: &DescribeArgs, cluster: &ClusterArgs, output: &mut Output) -> anyhow::Result<()> {
    let observer = cluster.observe(&[])?;
    let admin = cluster.admin()?;
    let mut told = Vec::new();
    for (index, topic) in args.topics.iter().enumerate() {
        let failed = || format!("cannot describe topic {topic}");
        let partitions = partitions(&observer, topic).with_context(failed)?;
        let mut settings = settings::describe(&admin, topic).with_context(failed)?;
        settings.retain(|entry| args.all_settings || !is_default(entry));
        if output.is_json() {
            told.push(to_json(topic, &partitions, &settings));
        } else {
            if index > 0 {
                output.line("")?;
            }
            print(topic, &partitions, &settings, output)?;
        }
    }
    if output.is_json() { output.json(&told) } else { Ok(()) }
}

fn partitions(observer: &Observer, topic: &str) -> anyhow::Result<Vec<Partition>> {
    let metadata = observer.metadata(Some(topic))?;
    let mut partitions = Vec::new();
    for found in metadata.topics() {
        if let Some(error) = found.error() {
            return Err(code_error(error.into()));
        }
        for partition in found.partitions() {
            partitions.push(Partition {
                number: partition.id(),
                leader: partition.leader(),
                replicas: partition.replicas().to_vec(),
                in_sync: partition.isr().to_vec(),
                span: observer.span(topic, partition.id())?,
            });
        }
    }
    partitions.sort_by_key(|partition| partition.number);
    Ok(partitions)
}

fn to_json(topic: &str, partitions: &[Partition], settings: &[ConfigEntry]) -> Value {
    let partitions = partitions.iter().map(|partition| {
        json!({
            "partition": partition.number,
            "leader": partition.leader,
            "replicas": partition.replicas,
            "in_sync": partition.in_sync,
            "start_offset": partition.span.start,
            "end_offset": partition.span.end,
        })
    });
    let settings = settings
        .iter()
        .map(|entry| json!({ "name": entry.name, "value": entry.value, "default": is_default(entry) }));
    json!({
        "topic": topic,
        "partitions": partitions.collect::<Vec<_>>(),
        "settings": settings.collect::<Vec<_>>(),
    })
}

fn print(
    topic: &str,
    partitions: &[Partition],
    settings: &[ConfigEntry],
    output: &mut Output,
) -> anyhow::Result<()> {
    use Column::{Number, Text};
    let offsets: i64 = partitions.iter().map(|partition| partition.span.end - partition.span.start).sum();
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
    let list = |nodes: &[i32]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let rows = partitions.iter().map(|partition| {
        vec![
            partition.number.to_string(),
            partition.leader.to_string(),
            list(&partition.replicas),
            list(&partition.in_sync),
            partition.span.start.to_string(),
            partition.span.end.to_string(),
        ]
    });
    output.table(&columns, rows.collect())?;
    if !settings.is_empty() {
        output.line("")?;
        let rows = settings.iter().map(|entry| {
            let from = if is_default(entry) { "default" } else { "topic" };
            vec![entry.name.clone(), entry.value.clone().unwrap_or_default(), from.to_owned()]
        });
        output.table(&[Text("SETTING"), Text("VALUE"), Text("FROM")], rows.collect())?;
    }
    Ok(())
}
