//! `anabranch group reset-offsets`

use std::collections::BTreeMap;

use anabranch::engine::{Engine, GroupPositions, Position};
use anabranch_core::TopicPartition;
use anabranch_core::engine::Place;
use anyhow::{Context, anyhow};
use jiff::{SignedDuration, Span as Period, Timestamp};
use serde_json::json;

use super::find;
use crate::cli::client::{Span, Told, partitions, span};
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
    to_offset: Option<u64>,
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
    at: TopicPartition,
    from: Option<Position>,
    to: Position,
}

pub(super) async fn run(args: &ResetArgs, engine: &dyn Engine, output: &mut Output) -> anyhow::Result<()> {
    let group = &args.name;
    if let Some(busy) = find(engine, group).await?.filter(|info| !info.members.is_empty()) {
        return Err(anyhow!(
            "group {group} is {} and has {}",
            busy.state,
            counted(busy.members.len() as u64, "member")
        ))
        .advise("Stop them first: they would not notice, and overwrite it.");
    }
    let moves = plan(args, engine).await?;
    if args.execute {
        let positions = moves.iter().map(|planned| (planned.at.clone(), planned.to)).collect();
        let to = GroupPositions { group: group.clone(), positions };
        let moved = engine.admin().set_group_positions(&to).await;
        moved.told().with_context(|| format!("cannot move group {group}"))?;
    }
    if output.is_json() {
        let moves = moves.iter().map(|planned| {
            json!({
                "topic": planned.at.topic,
                "partition": planned.at.partition,
                "from_offset": planned.from.map(|from| from.0),
                "to_offset": planned.to.0,
            })
        });
        let moves: Vec<_> = moves.collect();
        return output.json(&json!({ "group": group, "executed": args.execute, "partitions": moves }));
    }
    let columns =
        [Column::Text("TOPIC"), Column::Number("PARTITION"), Column::Number("FROM"), Column::Number("TO")];
    let rows = moves.iter().map(|Move { at, from, to }| {
        let from = from.map_or_else(|| "-".to_owned(), |from| from.to_string());
        vec![at.topic.clone(), at.partition.to_string(), from, to.to_string()]
    });
    output.table(&columns, rows.collect())?;
    match args.execute {
        true => output.line(format!("moved group {group}")),
        false => output.line("nothing was changed: --execute does it"),
    }
}

async fn plan(args: &ResetArgs, engine: &dyn Engine) -> anyhow::Result<Vec<Move>> {
    let group = &args.name;
    let stands = engine.admin().group_positions(group).await.told();
    let stands = stands.with_context(|| format!("cannot read where group {group} stands"))?;
    let stands: BTreeMap<TopicPartition, Position> = stands.into_iter().collect();
    let asked = match args.all_topics {
        true => stands.keys().cloned().collect(),
        false => named(args, engine).await?,
    };
    if asked.is_empty() {
        return Err(anyhow!("group {group} stands nowhere")).advise("Name what to move with --topic.");
    }
    let now_ms = Timestamp::now().as_millisecond();
    let ago = |duration: SignedDuration| {
        now_ms.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
    };
    let time_ms = args.to_datetime.or(args.by_duration.map(ago));
    let mut moves = Vec::new();
    for at in asked {
        let Span { start, end } = span(engine, &at).await?;
        let from = stands.get(&at).copied();
        let to = match (time_ms, args.to_offset, args.shift_by) {
            (Some(ms), _, _) => {
                let found = engine.locate(&at, Place::AtTime(ms)).await.told();
                found.with_context(|| format!("cannot look up {at}"))?
            }
            (_, Some(offset), _) => Position(offset),
            (_, _, Some(records)) => {
                let stands =
                    from.with_context(|| format!("cannot shift {at}: group {group} does not stand there"))?;
                Position(stands.0.saturating_add_signed(records))
            }
            _ if args.to_earliest => start,
            _ => end,
        };
        moves.push(Move { at, from, to: to.clamp(start, end) });
    }
    Ok(moves)
}

/// What `--topic` names.
async fn named(args: &ResetArgs, engine: &dyn Engine) -> anyhow::Result<Vec<TopicPartition>> {
    let mut named = Vec::new();
    for text in &args.topics {
        let (topic, numbers) = match text.split_once(':') {
            None => (text.as_str(), None),
            Some((topic, numbers)) => (topic, Some(numbers)),
        };
        let all = partitions(engine, topic).await?;
        let Some(numbers) = numbers else {
            named.extend(all);
            continue;
        };
        for number in numbers.split(',') {
            let found = number.trim().parse().ok().map(|number| TopicPartition::new(topic, number));
            match found.filter(|at| all.contains(at)) {
                Some(at) => named.push(at),
                None => {
                    return Err(usage(format!("--topic {text}: topic {topic} has no partition {number:?}")));
                }
            }
        }
    }
    named.sort();
    named.dedup();
    Ok(named)
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
