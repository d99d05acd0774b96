//! `anabranch check`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anabranch_core::seam::{Disk, Lock, RealDisk};
use anabranch_log::{PartitionReport, verify_partition};
use serde_json::{Value, json};

use super::failure::{Advise, usage};
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

/// What the format file of this version says.
const FORMAT: &str = "anabranch data directory, format 1\n";

/// One partition's outcome.
struct Checked {
    topic: String,
    partition: i32,
    report: PartitionReport,
}

pub(super) fn run(args: &CheckArgs, output: &mut Output) -> anyhow::Result<ExitCode> {
    let root = &args.directory;
    check_format(root)?;
    let _held = lock(root)?;
    let checked = check_all(root)
        .map_err(|(path, error)| usage(format!("cannot read {}: {error}", path.display())))
        .advise("Run it as a user who may read the directory.")?;
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

fn check_format(root: &Path) -> anyhow::Result<()> {
    let file = root.join("format");
    match std::fs::read(&file) {
        Ok(found) if found == FORMAT.as_bytes() => Ok(()),
        Ok(found) => {
            let found: String = String::from_utf8_lossy(&found).trim().chars().take(80).collect();
            Err(usage(format!(
                "{} has format {found:?}, and this version reads {:?}",
                file.display(),
                FORMAT.trim()
            )))
            .advise("Check it with the version that wrote it.")
        }
        Err(error) => {
            Err(usage(format!("{} is not a data directory: its format file: {error}", root.display())))
                .advise("A data directory is what `anabranch serve --data DIR` makes.")
        }
    }
}

/// Nobody may write while it is read. A directory without a lock file was never served, and does not get one.
fn lock(root: &Path) -> anyhow::Result<Option<Box<dyn Lock>>> {
    let file = root.join("lock");
    if !file.exists() {
        return Ok(None);
    }
    match RealDisk.try_lock(&file) {
        Ok(Some(lock)) => Ok(Some(lock)),
        Ok(None) => Err(usage(format!("{} is in use by another process (its lock is held)", root.display())))
            .advise("Stop the server first, or check a copy of the directory."),
        // A directory that cannot be written, such as a read-only backup, is nobody's.
        Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => Ok(None),
        Err(error) => Err(usage(format!("cannot lock {}: {error}", file.display())))
            .advise("Run it as the user who owns the directory."),
    }
}

fn check_all(root: &Path) -> Result<Vec<Checked>, (PathBuf, std::io::Error)> {
    let disk = RealDisk;
    let list = |path: &Path| disk.list(path).map_err(|error| (path.to_owned(), error));
    let topics = root.join("topics");
    let mut checked = Vec::new();
    for topic in list(&topics)?.into_iter().filter(|entry| entry.is_dir) {
        let directory = topics.join(&topic.name);
        let mut numbers: Vec<i32> = list(&directory)?
            .iter()
            .filter(|entry| entry.is_dir)
            .filter_map(|entry| entry.name.parse().ok())
            .collect();
        numbers.sort_unstable();
        for partition in numbers {
            let report = verify_partition(&disk, root, &topic.name, partition)
                .map_err(|error| (directory.join(partition.to_string()), error))?;
            checked.push(Checked { topic: topic.name.clone(), partition, report });
        }
    }
    Ok(checked)
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
    match (report.faults.len(), report.torn_tail_bytes) {
        (0, 0) => "whole".to_owned(),
        (0, torn) => format!("whole; torn tail of {}", counted(torn, "byte")),
        _ => "DAMAGED".to_owned(),
    }
}
