//! `anabranch topic delete-records`

use anabranch::engine::{Engine, Position};
use anyhow::Context;

use crate::cli::client::{Told, partitions, span};
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
    Offset(u64),
    End,
}

fn before(text: &str) -> Result<Before, String> {
    match text.parse() {
        Ok(offset) => Ok(Before::Offset(offset)),
        _ if text == "end" => Ok(Before::End),
        _ => Err("it must be an offset, or end".to_owned()),
    }
}

pub(super) async fn run(
    args: &DeleteRecordsArgs,
    engine: &dyn Engine,
    output: &mut Output,
) -> anyhow::Result<()> {
    let topic = &args.topic;
    let failed = || format!("cannot delete records of topic {topic}");
    let mut asked = partitions(engine, topic).await.with_context(failed)?;
    if let Some(partition) = args.partition {
        asked.retain(|at| at.partition == partition);
        if asked.is_empty() {
            return Err(usage(format!("topic {topic} has no partition {partition}")));
        }
    }
    for at in asked {
        let before = match args.before {
            Before::Offset(position) => Position(position),
            Before::End => span(engine, &at).await?.end,
        };
        let start = engine.trim(&at, before).await.told().with_context(failed)?;
        let number = at.partition;
        if output.is_json() {
            output
                .json(&serde_json::json!({ "topic": topic, "partition": number, "start_offset": start.0 }))?;
        } else {
            output.line(format!("partition {number} of {topic} starts at {start}"))?;
        }
    }
    Ok(())
}
