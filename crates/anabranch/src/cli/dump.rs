//! `anabranch dump`

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anabranch_core::batch::{Batch, NO_TIMESTAMP, RecordAt};
use anabranch_core::seam::{Disk, RealDisk};
use anabranch_log::{DumpItem, FileKind, JournalItem, ProducerState, dump};
use serde_json::{Map, Value, json};

use super::failure::{advised, usage};
use super::format::insert_bytes;
use super::output::{Output, counted, grouped};

/// Print what stands in the files of a data directory
///
/// It prints segments, indexes, snapshots of producers, durable points, starts and the journal, file by file as they stand,
/// and changes nothing. Damage is told with its place and cause, and what can be read after it is printed. The server need not
/// be stopped; what it writes meanwhile may look damaged.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Whether the damaged end of a segment is damage or a torn tail that the next start cuts off, `anabranch check` tells.

Exit codes:
  0  every file could be read to its end
  1  there is damage; the output says where
  2  it was not tried: no such file

Examples:
  anabranch dump data/topics/orders/0
  anabranch dump --records data/topics/orders/0/00000000000000000000.log
  anabranch dump data --json | jq 'select(.kind == \"damage\")'")]
pub(super) struct DumpArgs {
    /// Files, or directories for all files below
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Print the records of each batch, too
    #[arg(long, short)]
    records: bool,
}

pub(super) fn run(args: &DumpArgs, output: &mut Output) -> anyhow::Result<ExitCode> {
    let mut files = Vec::new();
    for path in &args.paths {
        let failed = |error: io::Error| {
            let refused = usage(format!("{} cannot be read: {error}", path.display()));
            advised(refused, "Give files, or directories with files, of a data directory.")
        };
        gather(path, &mut files).map_err(failed)?;
    }
    let mut is_damaged = false;
    for file in &files {
        let mut printer = Printer { file, records: args.records, output, totals: Totals::default() };
        printer.print()?;
        is_damaged |= printer.totals.damage > 0;
    }
    output.flush()?;
    Ok(if is_damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The files at and below `path`, sorted.
fn gather(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        std::fs::metadata(path)?;
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in RealDisk.list(path)? {
        gather(&path.join(entry.name), files)?;
    }
    Ok(())
}

/// What one file had.
#[derive(Debug, Default)]
struct Totals {
    items: u64,
    records: u64,
    damage: u64,
}

struct Printer<'a> {
    file: &'a Path,
    records: bool,
    output: &'a mut Output,
    totals: Totals,
}

impl Printer<'_> {
    fn print(&mut self) -> anyhow::Result<()> {
        if !self.output.is_json() {
            let heading = match FileKind::of(self.file) {
                None => "not a file of ours, skipped".to_owned(),
                Some(FileKind::Format) => "format of the data directory".to_owned(),
                Some(FileKind::Segment(base)) => format!("segment from offset {base}"),
                Some(FileKind::Index(base)) => format!("index of the segment from offset {base}"),
                Some(FileKind::Aborted(base)) => {
                    format!("aborted transactions that end in the segment from offset {base}")
                }
                Some(FileKind::Snapshot(offset)) => format!("producers up to offset {offset}"),
                Some(FileKind::Durable) => "durable point".to_owned(),
                Some(FileKind::Start) => "start of the log".to_owned(),
                Some(FileKind::Cleaned) => "how far the log is compacted".to_owned(),
                Some(FileKind::Swap) => "segments that are being replaced".to_owned(),
                Some(FileKind::Spare) => "space that is set aside".to_owned(),
                Some(FileKind::Journal(number)) => format!("journal file {number}"),
            };
            self.output.line(format!("{}: {heading}", self.file.display()))?;
        }
        let file = self.file;
        let kind = dump(&RealDisk, file, |item| self.item(&item))?;
        let Totals { items, records, damage } = self.totals;
        let told = match kind {
            Some(FileKind::Segment(_)) => {
                format!("{}, {}", plural(items, "batch", "batches"), counted(records, "record"))
            }
            Some(FileKind::Index(_) | FileKind::Aborted(_)) => plural(items, "entry", "entries"),
            Some(FileKind::Snapshot(_)) => counted(items, "producer"),
            _ => return Ok(()),
        };
        if self.output.is_json() {
            return Ok(());
        }
        let damaged =
            if damage > 0 { format!("; DAMAGE in {}", counted(damage, "place")) } else { String::new() };
        self.output.line(format!("  {told}{damaged}"))
    }

    fn item(&mut self, item: &DumpItem) -> anyhow::Result<()> {
        match item {
            DumpItem::Damage { .. } => self.totals.damage += 1,
            DumpItem::Batch(_, batch) => {
                self.totals.items += 1;
                self.totals.records += u64::from(batch.header().record_count.unsigned_abs());
            }
            _ => self.totals.items += 1,
        }
        if self.output.is_json() {
            let mut value = to_json(item);
            value.insert("file".to_owned(), json!(self.file));
            if let (DumpItem::Batch(_, batch), true) = (item, self.records) {
                let records = self.read_records(batch)?;
                value.insert("records".to_owned(), records.iter().map(record_to_json).collect());
            }
            return self.output.json(&Value::Object(value));
        }
        self.output.line(format!("  {}", to_text(item)))?;
        if let (DumpItem::Batch(_, batch), true) = (item, self.records) {
            for record in self.read_records(batch)? {
                self.output.line(format!("    {}", record_to_text(&record)))?;
            }
        }
        Ok(())
    }

    /// None, and that is damage, when the records are not what their batch says: its checksum is right, so that whoever
    /// wrote it was wrong.
    fn read_records(&mut self, batch: &Batch) -> anyhow::Result<Vec<RecordAt>> {
        batch.records().or_else(|error| {
            self.totals.damage += 1;
            let told = format!("the records of this batch cannot be read: {error}");
            match self.output.is_json() {
                true => self.output.json(&json!({ "kind": "damage", "file": self.file, "cause": told }))?,
                false => self.output.line(format!("  DAMAGE: {told}"))?,
            }
            Ok(Vec::new())
        })
    }
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}

fn to_text(item: &DumpItem) -> String {
    match item {
        DumpItem::Format(text) => text.trim().to_owned(),
        DumpItem::Batch(position, batch) => batch_to_text(*position, batch),
        DumpItem::IndexEntry { offset, position, max_before_ms } => {
            format!("offset {offset} at byte {position}; before it, times up to {max_before_ms}")
        }
        DumpItem::Aborted { producer, first, last, stable } => {
            format!(
                "producer {producer} from offset {first} to its marker at {last}; last stable offset then {stable}"
            )
        }
        DumpItem::AbortedCount(count) => format!("that is all: {count}"),
        DumpItem::Producer(ProducerState { id, epoch, last_time_ms, coordinator_epoch, open, batches }) => {
            let batches: Vec<String> = batches
                .iter()
                .map(|(first, last, base, end)| format!("sequences {first}-{last} at offsets {base}-{end}"))
                .collect();
            let ended =
                coordinator_epoch.map_or(String::new(), |by| format!(", ended by coordinator epoch {by}"));
            let open = open.map_or(String::new(), |first| format!(", open from offset {first}"));
            format!(
                "producer {id} epoch {epoch}, last at {last_time_ms}{ended}{open}: {}",
                batches.join(", ")
            )
        }
        DumpItem::DurablePoint { segment, bytes, next } => format!(
            "durable: {} of the segment from offset {segment}, to offset {next}",
            counted(*bytes, "byte")
        ),
        DumpItem::Start(start) => format!("everything below offset {start} is deleted"),
        DumpItem::Cleaned(cleaned) => format!("everything below offset {cleaned} is compacted"),
        DumpItem::Swap { base, end } => {
            format!("the segment from offset {base} is being replaced by one that reaches offset {end}")
        }
        DumpItem::JournalFile { number, key } => format!("number {number}, key {key:#018x}"),
        DumpItem::JournalEntry { position, sequence, oldest, len_bytes, items } => {
            let items = items.iter().map(|item| match item {
                JournalItem::Run { partition, segment, position, next, len_bytes, whole } => {
                    let torn = if *whole { "" } else { ", NOT WHOLE" };
                    format!("\n    {partition} segment {segment} byte {position}: {len_bytes} bytes, to offset {next}{torn}")
                }
                JournalItem::Forgotten(topic) => format!("\n    topic {topic} is forgotten"),
            });
            let head =
                format!("@{position} entry {sequence}, {len_bytes} bytes, needs entries from {oldest} on");
            std::iter::once(head).chain(items).collect()
        }
        DumpItem::Damage { position, bytes, cause } => {
            format!("DAMAGE @{position}, {}: {cause}", counted(*bytes, "byte"))
        }
    }
}

fn batch_to_text(position: u64, batch: &Batch) -> String {
    let header = batch.header();
    let mut text = format!(
        "@{position} offsets {}-{}, {}, {}, {}",
        header.base_offset,
        header.last_offset(),
        counted(u64::from(header.record_count.unsigned_abs()), "record"),
        counted(header.len_bytes as u64, "byte"),
        codec(batch),
    );
    text += &match (header.is_log_append_time(), header.max_timestamp_ms) {
        (_, NO_TIMESTAMP) => ", no time".to_owned(),
        (true, time) => format!(", appended at {time}"),
        (false, time) => format!(", times up to {time}"),
    };
    if header.producer_id.is_some() {
        text += &format!(
            ", producer {} epoch {} sequences {}-{}",
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
            header.last_sequence()
        );
    }
    for (is, what) in [(header.is_transactional(), "transactional"), (header.is_control(), "control")] {
        if is {
            text += &format!(", {what}");
        }
    }
    text
}

fn codec(batch: &Batch) -> String {
    batch.header().compression().map_or_else(|error| error.to_string(), |codec| codec.to_string())
}

fn to_json(item: &DumpItem) -> Map<String, Value> {
    let value = match item {
        DumpItem::Format(text) => json!({ "kind": "format", "text": text }),
        DumpItem::Batch(position, batch) => {
            let header = batch.header();
            json!({
                "kind": "batch",
                "position": position,
                "base_offset": header.base_offset.0,
                "last_offset": header.last_offset().0,
                "record_count": header.record_count,
                "bytes": header.len_bytes,
                "crc": header.crc,
                "compression": codec(batch),
                "timestamp_type": if header.is_log_append_time() { "LogAppendTime" } else { "CreateTime" },
                "base_timestamp_ms": header.base_timestamp_ms,
                "max_timestamp_ms": header.max_timestamp_ms,
                "leader_epoch": header.leader_epoch.0,
                "producer_id": header.producer_id.0,
                "producer_epoch": header.producer_epoch.0,
                "base_sequence": header.base_sequence,
                "last_sequence": header.last_sequence(),
                "is_transactional": header.is_transactional(),
                "is_control": header.is_control(),
            })
        }
        DumpItem::IndexEntry { offset, position, max_before_ms } => json!({
            "kind": "index_entry", "offset": offset.0, "position": position, "max_before_ms": max_before_ms,
        }),
        DumpItem::Aborted { producer, first, last, stable } => json!({
            "kind": "aborted_transaction", "producer_id": producer.0,
            "first_offset": first.0, "last_offset": last.0, "last_stable_offset": stable.0,
        }),
        DumpItem::AbortedCount(count) => json!({ "kind": "aborted_count", "count": count }),
        DumpItem::Producer(ProducerState { id, epoch, last_time_ms, coordinator_epoch, open, batches }) => {
            let batches = batches.iter().map(|(first, last, base, end)| {
                json!({ "first_sequence": first, "last_sequence": last, "base_offset": base.0, "last_offset": end.0 })
            });
            json!({
                "kind": "producer",
                "producer_id": id.0,
                "producer_epoch": epoch.0,
                "last_time_ms": last_time_ms,
                "coordinator_epoch": coordinator_epoch,
                "open_offset": open.map(|first| first.0),
                "batches": batches.collect::<Vec<Value>>(),
            })
        }
        DumpItem::DurablePoint { segment, bytes, next } => {
            json!({ "kind": "durable_point", "segment": segment.0, "bytes": bytes, "next_offset": next.0 })
        }
        DumpItem::Start(start) => json!({ "kind": "start", "offset": start.0 }),
        DumpItem::Cleaned(cleaned) => json!({ "kind": "cleaned", "offset": cleaned.0 }),
        DumpItem::Swap { base, end } => {
            json!({ "kind": "swap", "base_offset": base.0, "end_offset": end.0 })
        }
        DumpItem::JournalFile { number, key } => {
            json!({ "kind": "journal_file", "number": number, "key": key })
        }
        DumpItem::JournalEntry { position, sequence, oldest, len_bytes, items } => {
            let items = items.iter().map(|item| match item {
                JournalItem::Run { partition, segment, position, next, len_bytes, whole } => json!({
                    "topic": partition.topic,
                    "partition": partition.partition,
                    "segment": segment.0,
                    "position": position,
                    "bytes": len_bytes,
                    "next_offset": next.0,
                    "whole": whole,
                }),
                JournalItem::Forgotten(topic) => json!({ "forgotten_topic": topic }),
            });
            json!({
                "kind": "journal_entry",
                "position": position,
                "sequence": sequence,
                "oldest": oldest,
                "bytes": len_bytes,
                "items": items.collect::<Vec<Value>>(),
            })
        }
        DumpItem::Damage { position, bytes, cause } => json!({
            "kind": "damage", "position": position, "bytes": bytes, "cause": cause.to_string(),
        }),
    };
    match value {
        Value::Object(object) => object,
        _ => unreachable!("each of them is an object"),
    }
}

fn record_to_json(at: &RecordAt) -> Value {
    let mut object = Map::new();
    object.insert("offset".to_owned(), json!(at.offset.0));
    object.insert("timestamp_ms".to_owned(), json!(at.record.timestamp_ms));
    insert_bytes(&mut object, "key", at.record.key.as_deref());
    insert_bytes(&mut object, "value", at.record.value.as_deref());
    let headers = at.record.headers.iter().map(|header| {
        let mut object = Map::new();
        insert_bytes(&mut object, "key", Some(&header.key));
        insert_bytes(&mut object, "value", header.value.as_deref());
        Value::Object(object)
    });
    object.insert("headers".to_owned(), headers.collect());
    Value::Object(object)
}

fn record_to_text(at: &RecordAt) -> String {
    let mut text = format!("{} time {} key ", at.offset, at.record.timestamp_ms);
    put_bytes(&mut text, at.record.key.as_deref());
    text += " value ";
    put_bytes(&mut text, at.record.value.as_deref());
    for header in &at.record.headers {
        text += " header ";
        put_bytes(&mut text, Some(&header.key));
        text.push('=');
        put_bytes(&mut text, header.value.as_deref());
    }
    text
}

/// Text between quotation marks, and bytes that are none with `\xNN`.
fn put_bytes(text: &mut String, bytes: Option<&[u8]>) {
    match bytes {
        None => text.push_str("null"),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(valid) => *text += &format!("{valid:?}"),
            Err(_) => *text += &format!("\"{}\"", bytes.escape_ascii()),
        },
    }
}
