//! `anabranch group describe`

use std::collections::{BTreeMap, BTreeSet};

use anabranch::engine::{Engine, Position};
use anabranch_core::TopicPartition;
use anabranch_core::engine::GroupInfo;
use anyhow::Context;
use serde_json::{Value, json};

use super::{find, no_such_group};
use crate::cli::client::{Told, span};
use crate::cli::output::{Column, Output, counted, grouped};

/// Tell where a group stands, how far behind it is, and who reads what
#[derive(Debug, clap::Args)]
pub(super) struct DescribeArgs {
    /// Which group
    group: String,
}

/// One partition of a group.
struct Row {
    at: TopicPartition,
    committed: Option<Position>,
    end: Position,
    /// Its reader's client id and host.
    member: Option<(String, String)>,
}

impl Row {
    /// How many offsets lie between where the group stands and the end; unknown while it stands nowhere.
    fn lag(&self) -> Option<u64> {
        self.committed.map(|committed| self.end.0.saturating_sub(committed.0))
    }
}

pub(super) async fn run(args: &DescribeArgs, engine: &dyn Engine, output: &mut Output) -> anyhow::Result<()> {
    let group = &args.group;
    let info = find(engine, group).await?.ok_or_else(|| no_such_group(group))?;
    let stands = engine.admin().group_positions(group).await.told();
    let stands = stands.with_context(|| format!("cannot read where group {group} stands"))?;
    let rows = rows(engine, &info, stands.into_iter().collect()).await?;
    if output.is_json() { output.json(&to_json(&info, &rows)) } else { print(&info, &rows, output) }
}

async fn rows(
    engine: &dyn Engine,
    info: &GroupInfo,
    stands: BTreeMap<TopicPartition, Position>,
) -> anyhow::Result<Vec<Row>> {
    let mut readers = BTreeMap::new();
    for member in &info.members {
        for at in &member.partitions {
            readers.insert(at.clone(), (member.client.clone(), member.host.clone()));
        }
    }
    let partitions: BTreeSet<_> = readers.keys().chain(stands.keys()).cloned().collect();
    let mut rows = Vec::new();
    for at in partitions {
        let end = span(engine, &at).await?.end;
        rows.push(Row { committed: stands.get(&at).copied(), member: readers.get(&at).cloned(), end, at });
    }
    Ok(rows)
}

fn total_lag(rows: &[Row]) -> u64 {
    rows.iter().filter_map(Row::lag).sum()
}

fn to_json(info: &GroupInfo, rows: &[Row]) -> Value {
    let partitions = rows.iter().map(|row| {
        json!({
            "topic": row.at.topic,
            "partition": row.at.partition,
            "committed_offset": row.committed.map(|position| position.0),
            "end_offset": row.end.0,
            "lag": row.lag(),
            "client_id": row.member.as_ref().map(|(client, _)| client),
            "host": row.member.as_ref().map(|(_, host)| host),
        })
    });
    json!({
        "group": info.name,
        "state": info.state,
        "type": info.kind,
        "protocol": info.assignor,
        "members": info.members.len(),
        "lag": total_lag(rows),
        "partitions": partitions.collect::<Vec<_>>(),
    })
}

fn print(info: &GroupInfo, rows: &[Row], output: &mut Output) -> anyhow::Result<()> {
    use Column::{Number, Text};
    output.line(format!(
        "{}: {}, {}, {}, lag {}{}",
        info.name,
        info.state,
        info.kind,
        counted(info.members.len() as u64, "member"),
        grouped(total_lag(rows)),
        match rows.iter().filter(|row| row.lag().is_none()).count() as u64 {
            0 => String::new(),
            unknown => format!(" and that of {} without a commit", counted(unknown, "partition")),
        }
    ))?;
    let columns = [
        Text("TOPIC"),
        Number("PARTITION"),
        Number("COMMITTED"),
        Number("END"),
        Number("LAG"),
        Text("CLIENT"),
        Text("HOST"),
    ];
    let or_dash = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let rows = rows.iter().map(|row| {
        let (client, host) = row.member.clone().unwrap_or_else(|| ("-".to_owned(), "-".to_owned()));
        vec![
            row.at.topic.clone(),
            row.at.partition.to_string(),
            or_dash(row.committed.map(|position| position.0)),
            row.end.to_string(),
            or_dash(row.lag()),
            client,
            host,
        ]
    });
    output.table(&columns, rows.collect())
}
