//! `anabranch group describe`

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::found::{self, DEAD, Group};
use super::{no_such_group, of_group};
use crate::cli::client::{ClusterArgs, Offsets};
use crate::cli::output::{Column, Output, counted, grouped};

/// Tell where a group stands, how far behind it is, and who reads what
#[derive(Debug, clap::Args)]
pub(super) struct DescribeArgs {
    /// Which group
    group: String,
}

/// One partition of a group.
struct Row {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    end: i64,
    /// Its reader's client id and host.
    member: Option<(String, String)>,
}

impl Row {
    /// How many offsets lie between where the group stands and the end; unknown while it stands nowhere.
    fn lag(&self) -> Option<i64> {
        self.committed.map(|committed| (self.end - committed).max(0))
    }
}

pub(super) fn run(args: &DescribeArgs, cluster: &ClusterArgs, output: &mut Output) -> anyhow::Result<()> {
    let group = &args.group;
    let observer = cluster.observe(&of_group(group))?;
    let found = found::groups(&observer, cluster, Some(group))?;
    let info = found.iter().find(|info| info.name == *group);
    let committed = observer.committed(&observer.all_partitions()?)?;
    let Some(info) = info.filter(|info| info.state != DEAD || !committed.is_empty()) else {
        return Err(no_such_group(group));
    };
    let mut rows = rows(info, &committed);
    for row in &mut rows {
        row.end = observer.span(&row.topic, row.partition)?.end;
    }
    if output.is_json() { output.json(&to_json(info, &rows)) } else { print(info, &rows, output) }
}

fn rows(info: &Group, committed: &Offsets) -> Vec<Row> {
    let mut readers = BTreeMap::new();
    for member in &info.members {
        for partition in &member.assigned {
            readers.insert(partition.clone(), (member.client_id.clone(), member.client_host.clone()));
        }
    }
    let partitions: BTreeSet<_> = readers.keys().chain(committed.keys()).cloned().collect();
    let row = |partition: (String, i32)| Row {
        committed: committed.get(&partition).copied(),
        member: readers.get(&partition).cloned(),
        topic: partition.0,
        partition: partition.1,
        end: 0,
    };
    partitions.into_iter().map(row).collect()
}

fn total_lag(rows: &[Row]) -> i64 {
    rows.iter().filter_map(Row::lag).sum()
}

fn to_json(info: &Group, rows: &[Row]) -> Value {
    let partitions = rows.iter().map(|row| {
        json!({
            "topic": row.topic,
            "partition": row.partition,
            "committed_offset": row.committed,
            "end_offset": row.end,
            "lag": row.lag(),
            "client_id": row.member.as_ref().map(|(client, _)| client),
            "host": row.member.as_ref().map(|(_, host)| host),
        })
    });
    json!({
        "group": info.name,
        "state": info.state,
        "type": info.kind,
        "protocol": info.protocol,
        "members": info.members.len(),
        "lag": total_lag(rows),
        "partitions": partitions.collect::<Vec<_>>(),
    })
}

fn print(info: &Group, rows: &[Row], output: &mut Output) -> anyhow::Result<()> {
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
    let or_dash = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let rows = rows.iter().map(|row| {
        let (client, host) = row.member.clone().unwrap_or_else(|| ("-".to_owned(), "-".to_owned()));
        vec![
            row.topic.clone(),
            row.partition.to_string(),
            or_dash(row.committed),
            row.end.to_string(),
            or_dash(row.lag()),
            client,
            host,
        ]
    });
    output.table(&columns, rows.collect())
}
