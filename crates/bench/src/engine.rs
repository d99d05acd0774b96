//! An engine, and the client below it without one: what the seam costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{AppendOptions, Engine, Place, Position, ReadLimits, TopicSpec};
use anabranch_engine_kafka::{KafkaEngine, KafkaSettings};
use anyhow::{bail, ensure};
use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::latency::cpu_seconds;

/// Records of one append through the seam.
const APPEND_RECORDS: usize = 100;
/// Appends that wait for their answers, over all partitions.
const APPENDS_OPEN: usize = 64;
/// The last records may take so long.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Way {
    /// librdkafka, by its Rust binding
    Raw,
    /// The same behind `core::Engine`
    Engine,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Work {
    Produce,
    Consume,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    way: Way,
    #[arg(long)]
    work: Work,
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
    let engine = runtime.block_on(KafkaEngine::open(KafkaSettings::new(&options.bootstrap), &[]))?;
    runtime.block_on(engine.ensure_topic(&TopicSpec::new(&options.topic, options.partitions)))?;
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    match (options.way, options.work) {
        (Way::Raw, Work::Produce) => produce_raw(options)?,
        (Way::Raw, Work::Consume) => consume_raw(options)?,
        (Way::Engine, Work::Produce) => runtime.block_on(produce(options, &engine))?,
        (Way::Engine, Work::Consume) => runtime.block_on(consume(options, engine))?,
    }
    let (seconds, records) = (begun.elapsed().as_secs_f64(), options.records as f64);
    Ok(Measured {
        records_per_second: records / seconds,
        mib_per_second: records * options.record_bytes as f64 / f64::from(1 << 20) / seconds,
        client_cpu_us_per_record: (cpu_seconds() - cpu) * 1e6 / records,
    })
}

/// What the engine sets, too.
fn client(options: &Options) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &options.bootstrap);
    config
}

#[derive(Default)]
struct Tally {
    delivered: AtomicU64,
}

impl ClientContext for Tally {}

impl ProducerContext for Tally {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.delivered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn produce_raw(options: &Options) -> anyhow::Result<()> {
    let mut config = client(options);
    config.set("enable.idempotence", "true").set("linger.ms", "1").set("message.max.bytes", "1048588");
    let producer: ThreadedProducer<Tally> = config.create_with_context(Tally::default())?;
    let value = vec![b'a'; options.record_bytes];
    for number in 0..options.records {
        // As many in a row for one partition as an append has.
        let partition = (number / APPEND_RECORDS as u64 % options.partitions as u64) as i32;
        let mut record = BaseRecord::<(), _>::to(&options.topic).partition(partition).payload(&value);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    thread::sleep(Duration::from_micros(200));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
    producer.flush(PATIENCE)?;
    let delivered = producer.context().delivered.load(Ordering::Relaxed);
    ensure!(delivered == options.records, "{delivered} of {} records were delivered", options.records);
    Ok(())
}

async fn produce(options: &Options, engine: &KafkaEngine) -> anyhow::Result<()> {
    let value = Bytes::from(vec![b'a'; options.record_bytes]);
    let (mut open, mut left, mut number) = (JoinSet::new(), options.records, 0_i32);
    while left > 0 {
        let count = left.min(APPEND_RECORDS as u64);
        left -= count;
        let records: Vec<_> = (0..count).map(|_| Record::keyless(value.clone())).collect();
        let to = TopicPartition::new(&options.topic, number % options.partitions);
        number += 1;
        let engine = engine.clone();
        open.spawn(async move { engine.append(&to, records.into(), AppendOptions::default()).await });
        if open.len() >= APPENDS_OPEN * options.partitions as usize {
            open.join_next().await.expect("some are open")??;
        }
    }
    while let Some(appended) = open.join_next().await {
        appended??;
    }
    Ok(())
}

fn consume_raw(options: &Options) -> anyhow::Result<()> {
    let mut config = client(options);
    config.set("group.id", "raw").set("enable.auto.commit", "false").set("check.crcs", "true");
    // As the engine has them, lest settings be compared.
    config.set("queued.max.messages.kbytes", "65536").set("fetch.queue.backoff.ms", "2");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..options.partitions {
        list.add_partition_offset(&options.topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (mut count, mut bytes) = (0, 0);
    while count < options.records {
        match consumer.poll(PATIENCE) {
            Some(message) => {
                bytes += message?.payload().map_or(0, <[u8]>::len);
                count += 1;
            }
            None => bail!("{count} of {} records came", options.records),
        }
    }
    ensure!(bytes as u64 == options.records * options.record_bytes as u64, "{bytes} bytes came");
    Ok(())
}

async fn consume(options: &Options, engine: KafkaEngine) -> anyhow::Result<()> {
    let mut readers = JoinSet::new();
    let bytes = Arc::new(AtomicU64::new(0));
    for partition in 0..options.partitions {
        let at = TopicPartition::new(&options.topic, partition);
        let end = engine.locate(&at, Place::Latest).await?;
        let mut reader = engine.reader(&at, Position(0)).await?;
        let bytes = Arc::clone(&bytes);
        readers.spawn(async move {
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
