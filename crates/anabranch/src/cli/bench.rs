//! `anabranch bench`

use std::time::{Duration, Instant};

use anabranch::engine::{AppendOptions, Durability, Engine, Payload, Position, ReadLimits, TopicSpec};
use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anyhow::Context;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use serde_json::json;

use super::client::{EngineArgs, Told, partitions, span};
use super::output::{Column, Output, grouped};

/// Measure how fast an engine takes and gives records
///
/// It makes a topic of its own, writes, reads everything back, counts it, and deletes the topic. Engines are compared by running it
/// on each, one after the other, on a quiet machine, and more than once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anabranch bench --engine embedded:./bench
  anabranch bench --engine kafka://one:9092 --partitions 12 --size 100
  anabranch bench --engine nats://one:4222 --json")]
pub(super) struct BenchArgs {
    /// How many records
    #[arg(short = 'n', long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// How large their values are, bytes
    #[arg(short, long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=16 << 20))]
    size: u32,
    /// Over how many partitions
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// How many records one append has
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    append: u32,
    /// How many appends are under way at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    in_flight: u32,
    /// Acknowledged when written, not when as durable as the engine can make it
    #[arg(long)]
    written: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// How one half of it went.
struct Measured {
    what: &'static str,
    elapsed: Duration,
    /// What each append took, or each read, sorted.
    took: Vec<Duration>,
}

impl Measured {
    /// What so much of them took at most, milliseconds.
    fn quantile_ms(&self, part: f64) -> f64 {
        let rank = (self.took.len() as f64 * part).ceil() as usize;
        self.took.get(rank.max(1) - 1).copied().unwrap_or_default().as_secs_f64() * 1e3
    }
}

pub(super) fn run(args: &BenchArgs, output: &mut Output) -> anyhow::Result<()> {
    args.engine.run(async |engine| {
        let engine = &**engine;
        let topic = format!("anabranch-bench-{}-{}", std::process::id(), Timestamp::now().as_millisecond());
        let spec = TopicSpec::new(&topic, args.partitions);
        engine.ensure_topic(&spec).await.told().context("cannot create a topic")?;
        let measured = measure(args, engine, &topic).await;
        engine.admin().delete_topic(&topic).await.told().with_context(|| format!("cannot delete {topic}"))?;
        show(args, engine, &measured?, output)?;
        output.flush()
    })
}

async fn measure(args: &BenchArgs, engine: &dyn Engine, topic: &str) -> anyhow::Result<[Measured; 2]> {
    let written = write(args, engine, topic).await.context("cannot write")?;
    let read = read(args, engine, topic).await.context("cannot read")?;
    Ok([written, read])
}

async fn write(args: &BenchArgs, engine: &dyn Engine, topic: &str) -> anyhow::Result<Measured> {
    let durability = if args.written { Durability::Written } else { Durability::Durable };
    // Not so even that it could be compressed to nothing.
    let noise: Vec<u8> =
        (0..args.size).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let value = Bytes::from(noise);
    let timestamp_ms = Timestamp::now().as_millisecond();
    let append = |partition: i32, count: u32| {
        let record = |number: u32| Record {
            key: Some(Bytes::copy_from_slice(&number.to_be_bytes())),
            value: Some(value.clone()),
            headers: Vec::new(),
            timestamp_ms,
        };
        let records: Vec<_> = (0..count).map(record).collect();
        let at = TopicPartition::new(topic, partition);
        async move {
            let began = Instant::now();
            engine.append(&at, Payload::Records(records), AppendOptions::new(durability)).await.told()?;
            anyhow::Ok(began.elapsed())
        }
    };
    let began = Instant::now();
    let (mut left, mut took, mut under_way) = (args.records, Vec::new(), FuturesUnordered::new());
    let mut partition = 0;
    while left > 0 || !under_way.is_empty() {
        while left > 0 && under_way.len() < args.in_flight as usize {
            let count = u64::from(args.append).min(left) as u32;
            left -= u64::from(count);
            under_way.push(append(partition, count));
            partition = (partition + 1) % args.partitions;
        }
        if let Some(done) = under_way.next().await {
            took.push(done?);
        }
    }
    let elapsed = began.elapsed();
    took.sort_unstable();
    Ok(Measured { what: "write", elapsed, took })
}

async fn read(args: &BenchArgs, engine: &dyn Engine, topic: &str) -> anyhow::Result<Measured> {
    let mut ends = Vec::new();
    for at in partitions(engine, topic).await? {
        // Acknowledged is not yet shown, where it is but written.
        let end = span(engine, &at).await?.end;
        ends.push((at, end));
    }
    let read_one = |(at, end): (TopicPartition, Position)| async move {
        let mut reader = engine.reader(&at, Position(0)).await.told()?;
        let (mut count, mut took) = (0, Vec::new());
        while reader.position() < end {
            let (began, from) = (Instant::now(), reader.position());
            let fetched = reader.read(ReadLimits::default()).await.told()?;
            count += fetched.block.into_records(from)?.len() as u64;
            took.push(began.elapsed());
        }
        anyhow::Ok((count, took))
    };
    let began = Instant::now();
    let mut reading: FuturesUnordered<_> = ends.into_iter().map(read_one).collect();
    let (mut count, mut took) = (0, Vec::new());
    while let Some(read) = reading.next().await {
        let (more, mut times) = read?;
        count += more;
        took.append(&mut times);
    }
    let elapsed = began.elapsed();
    anyhow::ensure!(count == args.records, "{count} records are there, and {} were written", args.records);
    took.sort_unstable();
    Ok(Measured { what: "read", elapsed, took })
}

fn show(
    args: &BenchArgs,
    engine: &dyn Engine,
    measured: &[Measured],
    output: &mut Output,
) -> anyhow::Result<()> {
    let per_second = |measured: &Measured| args.records as f64 / measured.elapsed.as_secs_f64();
    let mib = |measured: &Measured| per_second(measured) * f64::from(args.size) / f64::from(1 << 20);
    if output.is_json() {
        let halves = measured.iter().map(|half| {
            json!({
                "what": half.what,
                "seconds": half.elapsed.as_secs_f64(),
                "records_per_second": per_second(half),
                "mib_per_second": mib(half),
                "p50_ms": half.quantile_ms(0.5),
                "p99_ms": half.quantile_ms(0.99),
                "max_ms": half.quantile_ms(1.0),
            })
        });
        return output.json(&json!({
            "engine": engine.description().engine,
            "records": args.records,
            "record_bytes": args.size,
            "partitions": args.partitions,
            "append_records": args.append,
            "in_flight": args.in_flight,
            "measured": halves.collect::<Vec<_>>(),
        }));
    }
    output.line(format!(
        "{} records of {} bytes, {} partitions, {} records an append, {} appends at once, on {}",
        grouped(args.records),
        grouped(args.size),
        args.partitions,
        args.append,
        args.in_flight,
        engine.description().engine,
    ))?;
    let rows = measured.iter().map(|half| {
        let ms = |part| format!("{:.1}", half.quantile_ms(part));
        vec![
            half.what.to_owned(),
            format!("{:.2}", half.elapsed.as_secs_f64()),
            grouped(per_second(half) as i128),
            format!("{:.1}", mib(half)),
            ms(0.5),
            ms(0.99),
            ms(1.0),
        ]
    });
    let columns = ["SECONDS", "RECORDS/S", "MIB/S", "P50 MS", "P99 MS", "MAX MS"].map(Column::Number);
    let columns: Vec<_> = std::iter::once(Column::Text("")).chain(columns).collect();
    output.table(&columns, rows.collect())
}
