//! `anabranch produce`

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anabranch::engine::{AppendOptions, Capability, Durability, Engine, EngineError, Payload};
use anabranch_core::batch::{BatchBuilder, Compression, Header, Record};
use anabranch_core::{TopicPartition, partition_of};
use anyhow::Context;
use bytes::Bytes;
use clap::ValueEnum;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::client::{EngineArgs, Told, told};
use super::failure::usage;
use super::output::{Output, counted};

/// The longest line that is read: more than any engine takes, less than would exhaust the memory.
const LINE_BYTES_MAX: usize = 128 << 20;
/// Lines that were read and are not appended yet.
const LINES_MAX: usize = 4096;
/// What is appended to a partition at once, where an append is whole or not at all.
const APPEND_RECORDS_MAX: usize = 500;
const APPEND_BYTES_MAX: usize = 256 << 10;
/// Appends that wait for their acknowledgement.
const APPENDS_MAX: usize = 2000;
/// How many failures are told one by one.
const TOLD_MAX: u64 = 10;

/// Write records to a topic, one per line
///
/// Every line of standard input becomes a record. At the end it tells how many were acknowledged, and fails unless all
/// were.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  echo hello | anabranch produce greetings
  echo 'o-1:two cups' | anabranch produce orders -K :    A key, a colon, a value
  anabranch produce orders --file orders.txt --compression zstd
  anabranch produce orders -H source=shop -H trace=17 < orders.txt
  echo 'u-7:' | anabranch produce users -K : -Z         An empty value as null: deletes the key
  anabranch produce metrics --acks 1 < metrics.txt      Survives the broker's death, not power loss")]
pub(super) struct ProduceArgs {
    /// Which topic
    topic: String,
    /// Read this file instead of standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Each line is a key, this text, and a value
    #[arg(short = 'K', long, value_name = "TEXT", help_heading = "Records")]
    key_delimiter: Option<String>,
    /// The key of every record
    #[arg(short = 'k', long, value_name = "KEY", conflicts_with = "key_delimiter", help_heading = "Records")]
    key: Option<String>,
    /// A header of every record; may be given many times, in order
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", help_heading = "Records")]
    headers: Vec<String>,
    /// Empty keys and values are null; a null value deletes its key from a compacted topic
    #[arg(short = 'Z', long, help_heading = "Records")]
    null_empty: bool,
    /// To this partition; by the key's hash unless given
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(0..), help_heading = "Records")]
    partition: Option<i32>,
    /// How batches are compressed
    #[arg(short = 'z', long, value_name = "CODEC", default_value = "none", help_heading = "Delivery")]
    compression: Codec,
    /// What is waited for: the engine's memory of it, or as much as it can promise
    #[arg(long, value_name = "ACKS", default_value = "all", help_heading = "Delivery")]
    acks: Acks,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Acks {
    #[value(name = "1")]
    One,
    All,
}

pub(super) fn run(args: &ProduceArgs, output: &mut Output) -> anyhow::Result<ExitCode> {
    let template = Template::of(args)?;
    let input = open(args)?;
    let codec = args.compression.to_possible_value().expect("no codec is skipped");
    args.engine.run_with(&[("compression.type", codec.get_name())], async |engine| {
        let started = Instant::now();
        let (lines, read) = mpsc::channel(LINES_MAX);
        // Input blocks, and cannot be told to stop.
        let reader = std::thread::spawn(move || read_lines(input, &lines));
        let mut outcome = Outcome::default();
        Producer::new(args, &**engine, &template).await?.all(read, &mut outcome).await?;
        reader.join().map_err(|_| anyhow::anyhow!("the reader of the input has died"))??;
        outcome.tell(started, args, output)
    })
}

/// Sends lines on their way, numbered from 1.
fn read_lines(
    mut input: Box<dyn BufRead + Send>,
    lines: &mpsc::Sender<(u64, Vec<u8>)>,
) -> anyhow::Result<()> {
    for number in 1.. {
        let mut line = Vec::new();
        if !read_line(input.as_mut(), &mut line).with_context(|| format!("cannot read line {number}"))?
            || lines.blocking_send((number, line)).is_err()
        {
            break;
        }
    }
    Ok(())
}

fn open(args: &ProduceArgs) -> anyhow::Result<Box<dyn BufRead + Send>> {
    Ok(match &args.file {
        Some(path) => {
            let file = File::open(path)
                .map_err(|error| usage(format!("cannot read {}: {error}", path.display())))?;
            Box::new(BufReader::new(file))
        }
        None => {
            if io::stdin().is_terminal() {
                eprintln!("Every line becomes a record of {}; Ctrl-D ends.", args.topic);
            }
            Box::new(BufReader::new(io::stdin()))
        }
    })
}

/// Either may be null.
type KeyAndValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// What makes a record of a line.
struct Template {
    key_delimiter: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    headers: Vec<Header>,
    null_empty: bool,
}

impl Template {
    fn of(args: &ProduceArgs) -> anyhow::Result<Self> {
        let header = |pair: &String| match pair.split_once('=') {
            Some((name, value)) => Ok(Header {
                key: Bytes::copy_from_slice(name.as_bytes()),
                value: Some(Bytes::copy_from_slice(value.as_bytes())),
            }),
            None => Err(usage(format!("--header {pair}: it is not NAME=VALUE"))),
        };
        if args.key_delimiter.as_deref() == Some("") {
            return Err(usage("--key-delimiter is empty"));
        }
        Ok(Self {
            key_delimiter: args.key_delimiter.as_ref().map(|text| text.clone().into_bytes()),
            key: args.key.as_ref().map(|text| text.clone().into_bytes()),
            headers: args.headers.iter().map(header).collect::<anyhow::Result<_>>()?,
            null_empty: args.null_empty,
        })
    }

    /// The line's key and value; `None` when it lacks the delimiter.
    fn key_and_value<'a>(&'a self, line: &'a [u8]) -> Option<KeyAndValue<'a>> {
        let (key, value) = match &self.key_delimiter {
            None => (self.key.as_deref(), line),
            Some(delimiter) => {
                let at = line.windows(delimiter.len()).position(|window| window == delimiter)?;
                (Some(&line[..at]), &line[at + delimiter.len()..])
            }
        };
        let keep = |bytes: &&[u8]| !(self.null_empty && bytes.is_empty());
        Some((key.filter(keep), Some(value).filter(keep)))
    }

    fn record(&self, line: &[u8]) -> Option<Record> {
        let (key, value) = self.key_and_value(line)?;
        Some(Record {
            key: key.map(Bytes::copy_from_slice),
            value: value.map(Bytes::copy_from_slice),
            headers: self.headers.clone(),
            timestamp_ms: Timestamp::now().as_millisecond(),
        })
    }
}

/// Reads a line without its end; false at the end of input.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let limit = LINE_BYTES_MAX as u64 + 2;
    if input.take(limit).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    match line.len() > LINE_BYTES_MAX {
        true => Err(io::Error::other(format!("it is longer than {LINE_BYTES_MAX} bytes"))),
        false => Ok(true),
    }
}

/// What becomes of records.
#[derive(Debug, Default)]
struct Outcome {
    acknowledged: u64,
    failed: u64,
    /// The last failure that was told; one that repeats is told once.
    last: String,
}

impl Outcome {
    fn failed(&mut self, why: &dyn Display) {
        let why = why.to_string();
        if self.failed < TOLD_MAX && self.last != why {
            eprintln!("not written: {why}");
            self.last = why;
        }
        self.failed += 1;
    }

    fn tell(&self, started: Instant, args: &ProduceArgs, output: &mut Output) -> anyhow::Result<ExitCode> {
        let Self { acknowledged, failed, .. } = *self;
        let seconds = started.elapsed().as_secs_f64();
        if output.is_json() {
            output.json(&serde_json::json!({
                "topic": args.topic, "acknowledged": acknowledged, "failed": failed, "seconds": seconds,
            }))?;
        } else {
            let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
            output.line(format!(
                "{} acknowledged{failures} in {seconds:.1} s",
                counted(acknowledged, "record")
            ))?;
        }
        output.flush()?;
        Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Records of one partition that are appended together, and the lines that they come from.
#[derive(Default)]
struct Chunk {
    records: Vec<Record>,
    lines: Vec<u64>,
    bytes: usize,
}

/// A chunk that is under way, and what came of it.
struct Under {
    at: TopicPartition,
    chunk: Chunk,
    outcome: Result<(), EngineError>,
}

/// Appends records, many at once.
struct Producer<'a> {
    args: &'a ProduceArgs,
    engine: &'a dyn Engine,
    template: &'a Template,
    partitions: i32,
    /// Where records without a key go; the next chunk goes to the next.
    keyless: i32,
    /// Together only where nothing of an append is stored when one of its records is refused.
    records_max: usize,
    compression: Compression,
}

impl<'a> Producer<'a> {
    async fn new(
        args: &'a ProduceArgs,
        engine: &'a dyn Engine,
        template: &'a Template,
    ) -> anyhow::Result<Self> {
        let topic = &args.topic;
        let failed = || format!("cannot write to topic {topic}");
        let partitions = engine.partition_count(topic).await;
        let partitions = partitions.told().with_context(failed)?;
        if let Some(missing) = args.partition.filter(|partition| *partition >= partitions) {
            return Err(usage(format!("topic {topic} has no partition {missing}")));
        }
        let has = |capability| engine.description().has(capability);
        // Elsewhere the engine's own client compresses, or nobody can.
        let compression = match args.compression {
            _ if !has(Capability::VerbatimBatches) => Compression::None,
            Codec::None => Compression::None,
            Codec::Gzip => Compression::Gzip,
            Codec::Snappy => Compression::Snappy,
            Codec::Lz4 => Compression::Lz4,
            Codec::Zstd => Compression::Zstd,
        };
        let name = engine.description().engine;
        if args.compression != Codec::None && !has(Capability::VerbatimBatches) && name != "kafka" {
            return Err(usage(format!(
                "--compression: {name} stores records as they are (embedded and kafka can compress them)"
            )));
        }
        let records_max = if has(Capability::AtomicAppend) { APPEND_RECORDS_MAX } else { 1 };
        let records_max = records_max.min(engine.description().limits.append_records_max as usize);
        Ok(Self { args, engine, template, partitions, keyless: 0, records_max, compression })
    }

    /// Appends every line, and waits for what becomes of it.
    async fn all(
        mut self,
        mut lines: mpsc::Receiver<(u64, Vec<u8>)>,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let mut under_way = FuturesOrdered::new();
        let mut ready = Vec::new();
        loop {
            let is_full = under_way.len() >= APPENDS_MAX;
            tokio::select! {
                // Appends go on while lines are awaited.
                Some(under) = under_way.next(), if !under_way.is_empty() => {
                    self.settle(under, outcome).await?;
                }
                count = lines.recv_many(&mut ready, LINES_MAX), if !is_full => {
                    if count == 0 {
                        break;
                    }
                    for (at, chunk) in self.chunks(&mut ready, outcome) {
                        under_way.push_back(self.append(at, chunk));
                    }
                }
            }
        }
        while let Some(under) = under_way.next().await {
            self.settle(under, outcome).await?;
        }
        Ok(())
    }

    /// The lines as records, together as far as they go together; those of one partition in their order.
    fn chunks(
        &mut self,
        lines: &mut Vec<(u64, Vec<u8>)>,
        outcome: &mut Outcome,
    ) -> Vec<(TopicPartition, Chunk)> {
        let mut whole = Vec::new();
        let mut open: std::collections::BTreeMap<i32, Chunk> = std::collections::BTreeMap::new();
        let named = |partition| TopicPartition::new(&self.args.topic, partition);
        self.keyless = (self.keyless + 1) % self.partitions;
        for (number, line) in lines.drain(..) {
            let Some(record) = self.template.record(&line) else {
                outcome.failed(&format_args!("line {number}: it has no key delimiter"));
                continue;
            };
            let by_key = || record.key.as_deref().map(|key| partition_of(key, self.partitions));
            let partition = self.args.partition.or_else(by_key).unwrap_or(self.keyless);
            let chunk = open.entry(partition).or_default();
            chunk.bytes += record.size_bytes();
            chunk.records.push(record);
            chunk.lines.push(number);
            if chunk.records.len() >= self.records_max || chunk.bytes >= APPEND_BYTES_MAX {
                whole.push((named(partition), std::mem::take(chunk)));
            }
        }
        let rest = open.into_iter().filter(|(_, chunk)| !chunk.records.is_empty());
        whole.extend(rest.map(|(partition, chunk)| (named(partition), chunk)));
        whole
    }

    /// It is called in the order in which the records are to be stored.
    fn append(&self, at: TopicPartition, chunk: Chunk) -> impl Future<Output = Under> + use<'a> {
        let (engine, compression) = (self.engine, self.compression);
        let durability = match self.args.acks {
            Acks::One => Durability::Written,
            Acks::All => Durability::Durable,
        };
        async move {
            let append = async {
                let what = match compression {
                    Compression::None => Payload::Records(chunk.records.clone()),
                    codec => {
                        let mut batch = BatchBuilder::new(codec);
                        chunk.records.iter().for_each(|record| {
                            batch.push(record);
                        });
                        Payload::Batch(batch.build()?)
                    }
                };
                engine.append(&at, what, AppendOptions::new(durability)).await
            };
            let outcome = append.await.map(drop);
            Under { at, chunk, outcome }
        }
    }

    /// Of records that were refused together each is tried by itself, to tell whose fault it was.
    async fn settle(&self, under: Under, outcome: &mut Outcome) -> anyhow::Result<()> {
        let Under { at, chunk, outcome: appended } = under;
        let count = chunk.records.len() as u64;
        match appended {
            Ok(()) => outcome.acknowledged += count,
            Err(EngineError::TooLarge { .. } | EngineError::Refused { .. } | EngineError::Batch(_))
                if count > 1 =>
            {
                for (record, line) in chunk.records.into_iter().zip(chunk.lines) {
                    let bytes = record.size_bytes();
                    let alone = Chunk { records: vec![record], lines: vec![line], bytes };
                    let under = self.append(at.clone(), alone).await;
                    Box::pin(self.settle(under, outcome)).await?;
                }
            }
            // Nobody else would fare better.
            Err(
                error @ (EngineError::NotFound(_) | EngineError::Closed | EngineError::Unauthorised { .. }),
            ) => {
                return Err(told(error)).with_context(|| format!("cannot write to topic {}", at.topic));
            }
            Err(error) => {
                let error = told(error);
                for line in chunk.lines {
                    outcome.failed(&format_args!("line {line}: {error}"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_keys_and_values() {
        let template = |delimiter: Option<&str>, null_empty| Template {
            key_delimiter: delimiter.map(|text| text.as_bytes().to_vec()),
            key: delimiter.is_none().then(|| b"fixed".to_vec()),
            headers: Vec::new(),
            null_empty,
        };
        let check = |template: &Template, line: &str, expected: Option<KeyAndValue<'_>>| {
            assert_eq!(template.key_and_value(line.as_bytes()), expected, "{line}");
        };
        check(&template(None, false), "v", Some((Some(b"fixed"), Some(b"v"))));
        check(&template(Some("::"), false), "k::v::w", Some((Some(b"k"), Some(b"v::w"))));
        check(&template(Some("::"), false), "::", Some((Some(b""), Some(b""))));
        check(&template(Some("::"), true), "::", Some((None, None)));
        check(&template(Some("::"), true), "k::", Some((Some(b"k"), None)));
        check(&template(Some("::"), false), "k:v", None);
    }

    #[test]
    fn lines_end_at_newlines_and_at_the_end_of_input() {
        let mut input = &b"one\n\ntwo"[..];
        let mut line = Vec::new();
        let mut lines = Vec::new();
        while read_line(&mut input, &mut line).unwrap() {
            lines.push(String::from_utf8(line.clone()).unwrap());
        }
        assert_eq!(lines, ["one", "", "two"]);
    }
}
