//! `anabranch produce`

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use super::client::{ClusterArgs, LogContext, client_error};
use super::failure::usage;
use super::output::{Output, counted};

/// The longest line that is read: more than any broker takes, less than would exhaust the memory.
const LINE_BYTES_MAX: usize = 128 << 20;
/// How long to wait for the last acknowledgements; librdkafka gives each record up after `message.timeout.ms` itself.
const FLUSH_MAX: Duration = Duration::from_secs(330);
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
    compression: Compression,
    /// What is waited for: nothing, the broker's memory of it, or that it survives power loss
    #[arg(long, value_name = "ACKS", default_value = "all", help_heading = "Delivery")]
    acks: Acks,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Acks {
    #[value(name = "0")]
    Zero,
    #[value(name = "1")]
    One,
    All,
}

pub(super) fn run(args: &ProduceArgs, output: &mut Output) -> anyhow::Result<ExitCode> {
    let template = Template::of(args)?;
    let mut input = open(args)?;
    let producer = producer(args)?;
    let started = Instant::now();
    let mut line = Vec::new();
    let mut number = 0;
    while read_line(input.as_mut(), &mut line).with_context(|| format!("cannot read line {}", number + 1))? {
        number += 1;
        match template.key_and_value(&line) {
            Some((key, value)) => send(&producer, args, &template, key, value, number)?,
            None => producer.context().failed(&format_args!("line {number}: it has no key delimiter")),
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(FLUSH_MAX).context("cannot wait for the last acknowledgements")?;
    tell(producer.context(), started.elapsed(), args, output)
}

fn producer(args: &ProduceArgs) -> anyhow::Result<BaseProducer<Deliveries>> {
    let (acks, idempotence) = match args.acks {
        Acks::Zero => ("0", "false"),
        Acks::One => ("1", "false"),
        // A retry after a lost answer must not write twice.
        Acks::All => ("all", "true"),
    };
    let codec = args.compression.to_possible_value().expect("no codec is skipped");
    let config = args.cluster.config(&[
        ("acks", acks),
        ("enable.idempotence", idempotence),
        ("compression.codec", codec.get_name()),
        // As Java's clients choose partitions, so that both agree.
        ("partitioner", "murmur2_random"),
        ("linger.ms", "5"),
    ])?;
    config.create_with_context(Deliveries::default()).map_err(client_error)
}

fn open(args: &ProduceArgs) -> anyhow::Result<Box<dyn BufRead>> {
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
            Box::new(io::stdin().lock())
        }
    })
}

/// Either may be null.
type KeyAndValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// What makes a record of a line.
struct Template {
    key_delimiter: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    headers: Option<OwnedHeaders>,
    null_empty: bool,
}

impl Template {
    fn of(args: &ProduceArgs) -> anyhow::Result<Self> {
        let mut headers = OwnedHeaders::new();
        for pair in &args.headers {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(usage(format!("--header {pair}: it is not NAME=VALUE")));
            };
            headers = headers.insert(Header { key, value: Some(value) });
        }
        if args.key_delimiter.as_deref() == Some("") {
            return Err(usage("--key-delimiter is empty"));
        }
        Ok(Self {
            key_delimiter: args.key_delimiter.as_ref().map(|text| text.clone().into_bytes()),
            key: args.key.as_ref().map(|text| text.clone().into_bytes()),
            headers: (!args.headers.is_empty()).then_some(headers),
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

/// Queues one record, waiting while the queue is full.
fn send(
    producer: &BaseProducer<Deliveries>,
    args: &ProduceArgs,
    template: &Template,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    number: u64,
) -> anyhow::Result<()> {
    let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&args.topic);
    record.key = key;
    record.payload = value;
    record.partition = args.partition;
    record.headers = template.headers.clone();
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                producer.poll(Duration::from_millis(100));
            }
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => {
                producer.context().failed(&format_args!(
                    "line {number}: it is larger than -X message.max.bytes allows (1,000,000 unless given)"
                ));
                return Ok(());
            }
            Err((error, _)) => return Err(error).with_context(|| format!("cannot send line {number}")),
        }
    }
}

fn tell(
    deliveries: &Deliveries,
    elapsed: Duration,
    args: &ProduceArgs,
    output: &mut Output,
) -> anyhow::Result<ExitCode> {
    let sent = deliveries.acknowledged.load(Ordering::Relaxed);
    let failed = deliveries.failed.load(Ordering::Relaxed);
    let seconds = elapsed.as_secs_f64();
    if output.is_json() {
        let topic = &args.topic;
        output.json(
            &serde_json::json!({ "topic": topic, "acknowledged": sent, "failed": failed, "seconds": seconds }),
        )?;
    } else {
        // Without acknowledgements, "sent" is all that can be said.
        let verb = if args.acks == Acks::Zero { "sent" } else { "acknowledged" };
        let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        output.line(format!("{} {verb}{failures} in {seconds:.1} s", counted(sent, "record")))?;
    }
    output.flush()?;
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Counts what became of records.
#[derive(Debug, Default)]
struct Deliveries {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    /// The last failure that was told. Protects it only; a failure that repeats is told once.
    last: Mutex<String>,
}

impl Deliveries {
    fn failed(&self, why: &dyn Display) {
        let why = why.to_string();
        let mut last = self.last.lock();
        if self.failed.fetch_add(1, Ordering::Relaxed) < TOLD_MAX && *last != why {
            eprintln!("not written: {why}");
            *last = why;
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        LogContext.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        LogContext.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => self.failed(error),
        }
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
            headers: None,
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
