//! `anabranch group reset-offsets`

use anyhow::{Context, anyhow};
use jiff::{SignedDuration, Span as Period, Timestamp};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer};
use serde_json::json;

use super::found;
use super::of_group;
use crate::cli::client::{ClusterArgs, Observer, Offsets};
use crate::cli::failure::{Advise, usage};
use crate::cli::output::{Column, Output, counted};
use crate::cli::place::parse_time;

/// Move a group that has no members to other offsets
///
/// It shows what would change; with --execute it is done. An offset outside what a partition holds becomes the nearest
/// that it holds.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true),
    group = clap::ArgGroup::new("where").required(true),
    after_help = "Examples:
  anabranch group reset-offsets billing --topic orders --to-earliest
  anabranch group reset-offsets billing --topic orders:0,2 --shift-by -100 --execute
  anabranch group reset-offsets billing --all-topics --to-datetime 2013-07-01T00:00:00Z --execute
  anabranch group reset-offsets billing --all-topics --by-duration PT6H --execute"
)]
pub(super) struct ResetArgs {
    /// Which group; it need not exist yet
    #[arg(value_name = "GROUP")]
    name: String,
    /// A topic, or some of its partitions; may be given many times
    #[arg(
        long = "topic",
        value_name = "TOPIC[:PARTITION,...]",
        group = "what",
        help_heading = "What to move"
    )]
    topics: Vec<String>,
    /// Everything where the group stands now
    #[arg(long, group = "what", help_heading = "What to move")]
    all_topics: bool,
    /// To the oldest record
    #[arg(long, group = "where", help_heading = "Where to")]
    to_earliest: bool,
    /// After the newest record
    #[arg(long, group = "where", help_heading = "Where to")]
    to_latest: bool,
    /// To this offset
    #[arg(long, value_name = "OFFSET", group = "where", help_heading = "Where to")]
    to_offset: Option<i64>,
    /// So many records on, or back when negative
    #[arg(
        long,
        value_name = "RECORDS",
        group = "where",
        allow_hyphen_values = true,
        help_heading = "Where to"
    )]
    shift_by: Option<i64>,
    /// To the first record at least as late: RFC 3339, or milliseconds since 1970
    #[arg(long, value_name = "TIME", group = "where", value_parser = parse_time, help_heading = "Where to")]
    to_datetime: Option<i64>,
    /// To the first record of the last so long: ISO 8601 (PT1H30M) or words (1h 30m)
    #[arg(long, value_name = "DURATION", group = "where", value_parser = parse_duration, help_heading = "Where to")]
    by_duration: Option<SignedDuration>,
    /// Do it
    #[arg(long, conflicts_with = "dry_run")]
    execute: bool,
    /// Only show what would change, which is what happens anyway without --execute
    #[arg(long)]
    dry_run: bool,
}

/// A period of time; a day has 24 hours.
fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    let wrong = |_| "a duration is ISO 8601, such as PT1H30M or P2D, or words, such as 1h 30m".to_owned();
    let period: Period = text.parse().map_err(wrong)?;
    let duration = period.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(wrong)?;
    match duration.is_negative() {
        true => Err("it must not be negative: it counts back from now".to_owned()),
        false => Ok(duration),
    }
}

/// Where a partition's group stands, and where it is to.
struct Move {
    topic: String,
    partition: i32,
    from: Option<i64>,
    to: i64,
}

pub(super) fn run(args: &ResetArgs, cluster: &ClusterArgs, output: &mut Output) -> anyhow::Result<()> {
    let group = &args.name;
    let observer = cluster.observe(&of_group(group))?;
    let found = found::groups(&observer, cluster, Some(group))?;
    if let Some(busy) = found.iter().find(|info| info.name == *group && !info.members.is_empty()) {
        return Err(anyhow!(
            "group {group} is {} and has {}",
            busy.state,
            counted(busy.members.len() as u64, "member")
        ))
        .advise("Stop them first: they would not notice, and overwrite it.");
    }
    let moves = plan(args, &observer)?;
    if args.execute {
        let mut offsets = TopicPartitionList::new();
        for planned in &moves {
            let to = rdkafka::Offset::Offset(planned.to);
            offsets.add_partition_offset(&planned.topic, planned.partition, to)?;
        }
        let committed = observer.consumer.commit(&offsets, CommitMode::Sync);
        committed.with_context(|| format!("cannot move group {group}"))?;
    }
    if output.is_json() {
        let moves = moves.iter().map(|planned| {
            json!({
                "topic": planned.topic,
                "partition": planned.partition,
                "from_offset": planned.from,
                "to_offset": planned.to,
            })
        });
        let moves: Vec<_> = moves.collect();
        return output.json(&json!({ "group": group, "executed": args.execute, "partitions": moves }));
    }
    let columns =
        [Column::Text("TOPIC"), Column::Number("PARTITION"), Column::Number("FROM"), Column::Number("TO")];
    let rows = moves.iter().map(|planned| {
        let from = planned.from.map_or_else(|| "-".to_owned(), |from| from.to_string());
        vec![planned.topic.clone(), planned.partition.to_string(), from, planned.to.to_string()]
    });
    output.table(&columns, rows.collect())?;
    match args.execute {
        true => output.line(format!("moved group {group}")),
        false => output.line("nothing was changed: --execute does it"),
    }
}

fn plan(args: &ResetArgs, observer: &Observer) -> anyhow::Result<Vec<Move>> {
    let partitions = match args.all_topics {
        true => observer.committed(&observer.all_partitions()?)?.into_keys().collect(),
        false => partitions(args, observer)?,
    };
    if partitions.is_empty() {
        return Err(anyhow!("group {} stands nowhere", args.name)).advise("Name what to move with --topic.");
    }
    let committed = observer.committed(&partitions)?;
    let now_ms = Timestamp::now().as_millisecond();
    let ago = |duration: SignedDuration| {
        now_ms.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
    };
    let by_time: Option<Offsets> = match args.to_datetime.or(args.by_duration.map(ago)) {
        Some(time_ms) => Some(observer.at_time(&partitions, time_ms)?),
        None => None,
    };
    let mut moves = Vec::new();
    for (topic, partition) in partitions {
        let span = observer.span(&topic, partition)?;
        let key = (topic, partition);
        let from = committed.get(&key).copied();
        let to = match (&by_time, args.to_offset, args.shift_by) {
            (Some(found), _, _) => found.get(&key).copied().unwrap_or(span.end),
            (_, Some(offset), _) => offset,
            (_, _, Some(records)) => {
                let stands = from.with_context(|| {
                    format!("cannot shift {}-{partition}: group {} does not stand there", key.0, args.name)
                })?;
                stands.saturating_add(records)
            }
            _ if args.to_earliest => span.start,
            _ => span.end,
        };
        moves.push(Move { topic: key.0, partition, from, to: to.clamp(span.start, span.end) });
    }
    Ok(moves)
}

/// What `--topic` names.
fn partitions(args: &ResetArgs, observer: &Observer) -> anyhow::Result<Vec<(String, i32)>> {
    let mut partitions = Vec::new();
    for named in &args.topics {
        let (topic, numbers) = match named.split_once(':') {
            None => (named.as_str(), None),
            Some((topic, numbers)) => (topic, Some(numbers)),
        };
        let all = observer.partitions(topic)?;
        let Some(numbers) = numbers else {
            partitions.extend(all.into_iter().map(|number| (topic.to_owned(), number)));
            continue;
        };
        for number in numbers.split(',') {
            match number.trim().parse() {
                Ok(number) if all.contains(&number) => partitions.push((topic.to_owned(), number)),
                _ => {
                    return Err(usage(format!("--topic {named}: topic {topic} has no partition {number:?}")));
                }
            }
        }
    }
    partitions.sort();
    partitions.dedup();
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_kafkas_tool_reads_them_and_in_words() {
        let hours = |text: &str| parse_duration(text).map(|duration| duration.as_secs_f64() / 3600.0);
        assert_eq!(hours("PT1H30M"), Ok(1.5));
        assert_eq!(hours("P2D"), Ok(48.0));
        assert_eq!(hours("1h 30m"), Ok(1.5));
        assert!(hours("-PT1H").is_err());
        assert!(hours("P1M").is_err(), "a month has no length");
        assert!(hours("soon").is_err());
    }
}
