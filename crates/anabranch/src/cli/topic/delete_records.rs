//! `anabranch topic delete-records`

use anyhow::{Context, anyhow};
use rdkafka::{Offset, TopicPartitionList};

use crate::cli::client::ClusterArgs;
use crate::cli::failure::usage;
use crate::cli::output::Output;

/// Delete the oldest records of a topic, for good
///
/// Records below the given offset go, in one partition or in all. What is deleted cannot be read any more at once; the disk
/// is given back in whole segments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anabranch topic delete-records orders --before 1000 --partition 0
  anabranch topic delete-records orders --before end       Everything there is")]
pub(super) struct DeleteRecordsArgs {
    /// Which topic
    topic: String,
    /// The first offset that is kept, or `end`
    #[arg(long, value_name = "OFFSET", value_parser = before)]
    before: Before,
    /// Which partition; all of them unless it is given
    #[arg(short, long, value_name = "NUMBER")]
    partition: Option<i32>,
}

/// Up to where.
#[derive(Debug, Clone, Copy)]
enum Before {
    Offset(i64),
    End,
}

fn before(text: &str) -> Result<Before, String> {
    match text.parse() {
        Ok(offset @ 0..) => Ok(Before::Offset(offset)),
        _ if text == "end" => Ok(Before::End),
        _ => Err("it must be an offset, or end".to_owned()),
    }
}

pub(super) fn run(
    args: &DeleteRecordsArgs,
    cluster: &ClusterArgs,
    output: &mut Output,
) -> anyhow::Result<()> {
    let topic = &args.topic;
    let there = cluster.observe(&[])?.partitions(topic)?;
    let partitions = match args.partition {
        None => there,
        Some(partition) if there.contains(&partition) => vec![partition],
        Some(partition) => return Err(usage(format!("topic {topic} has no partition {partition}"))),
    };
    let offset = match args.before {
        Before::Offset(offset) => Offset::Offset(offset),
        Before::End => Offset::End,
    };
    let mut asked = TopicPartitionList::new();
    for partition in &partitions {
        asked.add_partition_offset(topic, *partition, offset)?;
    }
    let admin = cluster.admin()?;
    let failed = || format!("cannot delete records of topic {topic}");
    let deleted = admin.ask(async |client, options| client.delete_records(&asked, options).await);
    let deleted = deleted.with_context(failed)?;
    for partition in deleted.elements() {
        partition
            .error()
            .map_err(|error| anyhow!("partition {}: {error}", partition.partition()))
            .with_context(failed)?;
        let start = match partition.offset() {
            Offset::Offset(start) => start,
            other => return Err(anyhow!("the broker answered {other:?}")),
        };
        let number = partition.partition();
        if output.is_json() {
            output
                .json(&serde_json::json!({ "topic": topic, "partition": number, "start_offset": start }))?;
        } else {
            output.line(format!("partition {number} of {topic} starts at {start}"))?;
        }
    }
    Ok(())
}
