//! `anabranch check`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anabranch_core::TopicPartition;
use anabranch_core::seam::RealDisk;
use anabranch_log::{Offline, OpenError, PartitionReport};
use serde_json::{Value, json};

use super::failure::{advised, usage};
use super::output::{Column, Output, counted, grouped};

/// Verify every batch in a data directory, offline
///
/// It reads every byte of every partition, and changes nothing. A torn tail (bytes of a write that was never acknowledged)
/// is told and is no damage: the next start cuts it off. Neither are derived files that are wrong: they are made anew.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes:
  0  everything is whole
  1  there is damage; the table says where
  2  it could not be checked: no data directory, in use, or not readable

Examples:
  anabranch check data
  anabranch check data --json | jq '.partitions[] | select(.faults != [])'")]
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
    let is_damaged = checked.iter().any(|checked| !checked.report.faults.is_empty());
    if output.is_json() {
        let partitions: Vec<Value> = checked.iter().map(to_json).collect();
        output.json(&json!({ "directory": root, "damaged": is_damaged, "partitions": partitions }))?;
    } else {
        print(root, &checked, output)?;
    }
    output.flush()?;
    Ok(if is_damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn check_all(offline: &Offline) -> Result<Vec<Checked>, OpenError> {
    let check = |partition: TopicPartition| {
        let report = offline.verify(&partition)?;
        Ok(Checked { topic: partition.topic, partition: partition.partition, report })
    };
    offline.partitions()?.into_iter().map(check).collect()
}

/// It could not be checked, which says nothing about damage.
fn refused(error: &OpenError) -> anyhow::Error {
    let advice = match error {
        OpenError::InUse(_) => "Stop the server first, or check a copy of the directory.",
        OpenError::UnknownFormat { .. } => "Check it with the version that wrote it.",
        OpenError::NotADataDirectory(_) => "A data directory is what `anabranch serve --data DIR` makes.",
        OpenError::JournalDamaged(_) => "Whether the partitions are whole cannot be told without it.",
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
            output.line(format!("made anew at the next start: {}", file.display()))?;
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
