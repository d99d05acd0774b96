//! An engine, and the client below it without one: what the seam costs.

mod kafka;
mod nats;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{AppendOptions, Engine, Place, ReadLimits, TopicSpec};
use anabranch_core::seam::{Clock, SystemClock};
use anabranch_engine_kafka::{KafkaEngine, KafkaSettings};
use anabranch_engine_nats::{NatsEngine, NatsSettings};
use anyhow::{bail, ensure};
use bytes::Bytes;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::latency::cpu_seconds;

/// Records of one append through the seam.
const APPEND_RECORDS: usize = 100;
/// Appends that wait for their answers, over all partitions: as many records as librdkafka holds by itself.
const APPENDS_OPEN: usize = 1_000;
/// The last records may take so long.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Way {
    /// The client that the engine is made of: librdkafka by its Rust binding, or async-nats
    Raw,
    /// The same, with appends that are stored whole or not at all and records that have a time, as the engine's are: of NATS
    RawAtomic,
    /// The same behind `core::Engine`
    Engine,
}

/// What is behind the seam.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Below {
    Kafka,
    Nats,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Work {
    Produce,
    Consume,
    /// Takes away what was produced
    Remove,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    way: Way,
    #[arg(long)]
    work: Work,
    #[arg(long)]
    engine: Below,
    /// HOST:PORT of a server
    #[arg(long)]
    bootstrap: String,
    /// It is made when it is produced to
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
    /// In all partitions together
    #[arg(long, default_value_t = 500_000)]
    records: u64,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    records_per_second: f64,
    mib_per_second: f64,
    client_cpu_us_per_record: f64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<Measured> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let engine: Arc<dyn Engine> = match options.engine {
        Below::Kafka => {
            let settings = KafkaSettings::new(&options.bootstrap);
            Arc::new(runtime.block_on(KafkaEngine::open(settings, &[]))?)
        }
        Below::Nats => {
            let settings = NatsSettings::new([&options.bootstrap]);
            Arc::new(runtime.block_on(NatsEngine::open(settings, &[]))?)
        }
    };
    let is_the_engines = matches!((options.way, options.engine), (Way::Engine, _) | (_, Below::Kafka));
    if is_the_engines && matches!(options.work, Work::Produce) {
        runtime.block_on(engine.ensure_topic(&TopicSpec::new(&options.topic, options.partitions)))?;
    }
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    match (options.way, options.work, options.engine) {
        (Way::Raw, Work::Produce, Below::Kafka) => kafka::produce(options)?,
        (Way::Raw, Work::Consume, Below::Kafka) => kafka::consume(options)?,
        (Way::Raw, Work::Produce, Below::Nats) => runtime.block_on(nats::produce(options))?,
        (Way::RawAtomic, Work::Produce, Below::Nats) => runtime.block_on(nats::produce_atomic(options))?,
        (Way::Raw | Way::RawAtomic, Work::Consume, Below::Nats) => {
            runtime.block_on(nats::consume(options))?;
        }
        (Way::Raw | Way::RawAtomic, Work::Remove, Below::Nats) => runtime.block_on(nats::remove(options))?,
        (Way::Raw | Way::Engine, Work::Remove, _) => {
            runtime.block_on(engine.admin().delete_topic(&options.topic))?;
        }
        (Way::RawAtomic, _, Below::Kafka) => bail!("an atomic append to Kafka is a transaction"),
        (Way::Engine, Work::Produce, _) => runtime.block_on(produce(options, &engine))?,
        (Way::Engine, Work::Consume, _) => runtime.block_on(consume(options, &engine))?,
    }
    let (seconds, records) = (begun.elapsed().as_secs_f64(), options.records as f64);
    Ok(Measured {
        records_per_second: records / seconds,
        mib_per_second: records * options.record_bytes as f64 / f64::from(1 << 20) / seconds,
        client_cpu_us_per_record: (cpu_seconds() - cpu) * 1e6 / records,
    })
}

async fn produce(options: &Options, engine: &Arc<dyn Engine>) -> anyhow::Result<()> {
    let value = value(options);
    let (mut open, mut left, mut number) = (JoinSet::new(), options.records, 0_i32);
    while left > 0 {
        let count = left.min(APPEND_RECORDS as u64);
        left -= count;
        let now_ms = now_ms();
        let records: Vec<_> = (0..count).map(|_| Record::keyless(value.clone()).at(now_ms)).collect();
        let to = TopicPartition::new(&options.topic, number % options.partitions);
        number += 1;
        let engine = Arc::clone(engine);
        open.spawn(async move { engine.append(&to, records.into(), AppendOptions::default()).await });
        if open.len() >= APPENDS_OPEN {
            open.join_next().await.expect("some are open")??;
        }
    }
    while let Some(appended) = open.join_next().await {
        appended??;
    }
    Ok(())
}

/// Of all records. Nobody counts who has it: that one value is everybody's is no part of what is measured.
fn value(options: &Options) -> Bytes {
    Bytes::from_static(vec![b'a'; options.record_bytes].leak())
}

fn now_ms() -> i64 {
    SystemClock::new().now_ms()
}

async fn consume(options: &Options, engine: &Arc<dyn Engine>) -> anyhow::Result<()> {
    let mut readers = JoinSet::new();
    let bytes = Arc::new(AtomicU64::new(0));
    for partition in 0..options.partitions {
        let at = TopicPartition::new(&options.topic, partition);
        let (engine, bytes) = (Arc::clone(engine), Arc::clone(&bytes));
        readers.spawn(async move {
            let end = engine.locate(&at, Place::Latest).await?;
            let mut reader = engine.reader(&at, engine.locate(&at, Place::Earliest).await?).await?;
            while reader.position() < end {
                let from = reader.position();
                let fetched = reader.read(ReadLimits { wait_max: PATIENCE, ..ReadLimits::default() }).await?;
                let records = fetched.block.into_records(from)?;
                let came = records.iter().map(|at| at.record.value.as_ref().map_or(0, Bytes::len) as u64);
                bytes.fetch_add(came.sum(), Ordering::Relaxed);
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(read) = readers.join_next().await {
        read??;
    }
    let bytes = bytes.load(Ordering::Relaxed);
    ensure!(bytes == options.records * options.record_bytes as u64, "{bytes} bytes came");
    Ok(())
}
