//! `anabranch check`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anabranch_broker::{Broker, BrokerError};
use anabranch_core::TopicPartition;
use anabranch_core::seam::RealDisk;
use anabranch_log::{Change, Offline, OpenError, PartitionReport, Rehearsal};
use anyhow::Context;
use serde_json::{Value, json};

use super::failure::{advised, usage};
use super::output::{Column, Output, counted, grouped};

/// Verify every batch in a data directory, offline
///
/// It reads every byte of every partition, then rehearses the next start in memory and tells what that would change: what
/// it would cut, write, create and remove. It changes nothing itself. A torn tail (bytes of a write that was never
/// acknowledged) is no damage: the next start cuts it off. Neither are derived files that are wrong: they are made anew.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes:
  0  everything is whole
  1  there is damage, or the next start would fail; the output says where
  2  it could not be checked: no data directory, in use, or not readable

Examples:
  anabranch check data
  anabranch check data --json | jq '.partitions[] | select(.faults != [])'
  anabranch check data --json | jq '.changes'")]
pub(super) struct CheckArgs {
    /// The data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// One partition's outcome.
struct Checked {
    topic: String,
    partition: i32,
    report: PartitionReport,
}

pub(super) fn run(args: &CheckArgs, output: &mut Output) -> anyhow::Result<ExitCode> {
    let root = &args.directory;
    let offline = Offline::open(Arc::new(RealDisk), root).map_err(|error| refused(&error))?;
    let checked = check_all(&offline).map_err(|error| refused(&error))?;
    let (changes, started) = rehearse(root)?;
    let is_damaged = checked.iter().any(|checked| !checked.report.faults.is_empty());
    if output.is_json() {
        let partitions: Vec<Value> = checked.iter().map(to_json).collect();
        let changes: Vec<Value> = changes.iter().map(change_to_json).collect();
        let start_error = started.as_ref().err().map(ToString::to_string);
        output.json(&json!({
            "directory": root,
            "damaged": is_damaged,
            "partitions": partitions,
            "changes": changes,
            "start_error": start_error,
        }))?;
    } else {
        print(root, &checked, output)?;
        print_start(&changes, &started, output)?;
    }
    output.flush()?;
    Ok(if is_damaged || started.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the next start would change, and whether it would come up.
fn rehearse(root: &Path) -> anyhow::Result<(Vec<Change>, Result<(), BrokerError>)> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start threads")?;
    runtime.block_on(async {
        let rehearsal = Rehearsal::new(Arc::new(RealDisk), root).context("cannot list the directory")?;
        let opened = Broker::builder().data(root).disk(Arc::new(rehearsal.clone())).open().await;
        let changes = rehearsal.changes().context("cannot compare the rehearsal with the directory")?;
        if let Ok(broker) = &opened {
            broker.close().await;
        }
        Ok((changes, opened.map(drop)))
    })
}

fn change_to_json(change: &Change) -> Value {
    match change {
        Change::Created { path, bytes } => json!({ "change": "created", "path": path, "bytes": bytes }),
        Change::Removed { path } => json!({ "change": "removed", "path": path }),
        Change::Cut { path, from_bytes, to_bytes } => {
            json!({ "change": "cut", "path": path, "from_bytes": from_bytes, "to_bytes": to_bytes })
        }
        Change::Written { path, position, from_bytes, to_bytes } => json!({
            "change": "written",
            "path": path,
            "position": position,
            "from_bytes": from_bytes,
            "to_bytes": to_bytes,
        }),
    }
}

fn print_start(
    changes: &[Change],
    started: &Result<(), BrokerError>,
    output: &mut Output,
) -> anyhow::Result<()> {
    if let Err(error) = started {
        output.line(format!("the next start would fail: {error}"))?;
    }
    for change in changes {
        output.line(match change {
            Change::Created { path, bytes: None } => {
                format!("the next start would create {}", path.display())
            }
            Change::Created { path, bytes: Some(bytes) } => {
                format!("the next start would create {} with {}", path.display(), counted(*bytes, "byte"))
            }
            Change::Removed { path } => format!("the next start would remove {}", path.display()),
            Change::Cut { path, from_bytes, to_bytes } => format!(
                "the next start would cut {} from {} to {}",
                path.display(),
                counted(*from_bytes, "byte"),
                grouped(*to_bytes)
            ),
            Change::Written { path, position, from_bytes, to_bytes } => format!(
                "the next start would write {} from byte {} on; it has {} and would have {}",
                path.display(),
                grouped(*position),
                counted(*from_bytes, "byte"),
                grouped(*to_bytes)
            ),
        })?;
    }
    if changes.is_empty() {
        output.line("the next start would change nothing")?;
    }
    Ok(())
}

fn check_all(offline: &Offline) -> Result<Vec<Checked>, OpenError> {
    let check = |partition: TopicPartition| {
        let report = offline.verify(&partition)?;
        Ok(Checked { topic: partition.topic, partition: partition.partition, report })
    };
    offline.partitions()?.into_iter().map(check).collect()
}

/// It could not be checked. That says nothing about damage, unless it is the journal that is damaged.
fn refused(error: &OpenError) -> anyhow::Error {
    let advice = match error {
        OpenError::InUse(_) => "Stop the server first, or check a copy of the directory.",
        OpenError::UnknownFormat { .. } => "Check it with the version that wrote it.",
        OpenError::NotADataDirectory(_) => "A data directory is what `anabranch serve --data DIR` makes.",
        OpenError::JournalDamaged(_) => {
            let advice = "Copy the directory, then move its journal away, and check what is left.";
            return advised(anyhow::Error::msg(error.to_string()), advice);
        }
        OpenError::Io { .. } => "Run it as a user who may read the directory.",
    };
    advised(usage(error.to_string()), advice)
}

fn to_json(checked: &Checked) -> Value {
    let report = &checked.report;
    let faults = report.faults.iter().map(
        |fault| json!({ "file": fault.file, "position": fault.position, "cause": fault.cause.to_string() }),
    );
    json!({
        "topic": checked.topic,
        "partition": checked.partition,
        "segments": report.segments,
        "batches": report.batches,
        "records": report.records,
        "bytes": report.bytes,
        "start_offset": report.start.0,
        "end_offset": report.end.0,
        "torn_tail_bytes": report.torn_tail_bytes,
        "durable_point_unknown": report.durable_point_unknown,
        "derived_wrong": report.derived_wrong,
        "leftovers": report.leftovers,
        "faults": faults.collect::<Vec<Value>>(),
    })
}

fn print(root: &Path, checked: &[Checked], output: &mut Output) -> anyhow::Result<()> {
    use Column::{Number, Text};
    let columns = [
        Text("TOPIC"),
        Number("PARTITION"),
        Number("SEGMENTS"),
        Number("BATCHES"),
        Number("RECORDS"),
        Number("BYTES"),
        Number("START"),
        Number("END"),
        Text("STATE"),
    ];
    let rows = checked.iter().map(|checked| {
        let report = &checked.report;
        vec![
            checked.topic.clone(),
            checked.partition.to_string(),
            report.segments.to_string(),
            grouped(report.batches),
            grouped(report.records),
            grouped(report.bytes),
            report.start.to_string(),
            report.end.to_string(),
            state(report),
        ]
    });
    output.table(&columns, rows.collect())?;
    for report in checked.iter().map(|checked| &checked.report) {
        for fault in &report.faults {
            output.line(format!("damage: {fault}"))?;
        }
        for file in &report.derived_wrong {
            output.line(format!("wrong, and made anew when it is needed: {}", file.display()))?;
        }
        for file in &report.leftovers {
            output.line(format!("left over, removed at the next start: {}", file.display()))?;
        }
    }
    let damaged = checked.iter().filter(|checked| !checked.report.faults.is_empty()).count();
    let records: u64 = checked.iter().map(|checked| checked.report.records).sum();
    let partitions = counted(checked.len() as u64, "partition");
    let verdict = match damaged {
        0 => "everything is whole".to_owned(),
        damaged => format!("DAMAGE in {}", counted(damaged as u64, "partition")),
    };
    output.line(format!("{}: {partitions}, {}: {verdict}", root.display(), counted(records, "record")))
}

fn state(report: &PartitionReport) -> String {
    let torn = counted(report.torn_tail_bytes, "byte");
    match (report.faults.is_empty(), report.torn_tail_bytes > 0, report.durable_point_unknown) {
        (false, _, _) => "DAMAGED".to_owned(),
        (true, false, _) => "whole".to_owned(),
        (true, true, false) => format!("whole; torn tail of {torn}"),
        (true, true, true) => format!("torn tail or damage of {torn}: the durable point is not known"),
    }
}
