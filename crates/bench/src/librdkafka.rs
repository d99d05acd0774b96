//! The most used client that is not Java's.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use serde::Serialize;

use crate::latency::{Latencies, Latency, cpu_seconds};

/// Requests on their way at the end have so long.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// How long a producer with a full queue waits before it tries again.
const FULL_PAUSE: Duration = Duration::from_micros(200);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    /// Clients, each with a thread that sends
    #[arg(long, default_value_t = 1)]
    producers: u32,
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
    /// A setting of the client, KEY=VALUE
    #[arg(long)]
    config: Vec<String>,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before those, which are not counted
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Records per second, all producers together; as fast as possible without it
    #[arg(long)]
    rate: Option<f64>,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Produced {
    records_per_second: f64,
    mib_per_second: f64,
    /// From `send` to the delivery report, in microseconds.
    latency_us: Latency,
    records_total: u64,
    client_cpu_seconds: f64,
}

/// What the delivery reports are counted in.
struct Tally {
    counted_from: Instant,
    end: Instant,
    counted: AtomicU64,
    total: AtomicU64,
    failed: AtomicU64,
    /// Protects the histogram; held to count one.
    latencies: Mutex<Latencies>,
}

impl ClientContext for Tally {}

impl ProducerContext for Tally {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, begun: Box<Instant>) {
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let now = Instant::now();
        self.total.fetch_add(1, Ordering::Relaxed);
        if now >= self.counted_from && now < self.end {
            self.counted.fetch_add(1, Ordering::Relaxed);
        }
        if *begun >= self.counted_from {
            self.latencies.lock().expect("no panic while it is held").record(now - *begun);
        }
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<Produced> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &options.bootstrap);
    for setting in &options.config {
        let Some((key, value)) = setting.split_once('=') else { bail!("{setting:?} is not KEY=VALUE") };
        config.set(key, value);
    }
    let start = Instant::now();
    let mut producers = Vec::new();
    for _ in 0..options.producers {
        let counted_from = start + Duration::from_secs_f64(options.warm_up);
        let tally = Tally {
            counted_from,
            end: counted_from + Duration::from_secs_f64(options.seconds),
            counted: AtomicU64::new(0),
            total: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            latencies: Mutex::new(Latencies::new()),
        };
        let producer: ThreadedProducer<Tally> = config.create_with_context(tally)?;
        producers.push(producer);
    }
    thread::scope(|scope| {
        let sending: Vec<_> =
            producers.iter().map(|producer| scope.spawn(move || send(producer, options, start))).collect();
        sending.into_iter().try_for_each(|sending| sending.join().expect("a sender does not panic"))
    })?;
    let mut latencies = Latencies::new();
    let (mut counted, mut total) = (0, 0);
    for producer in &producers {
        let tally = producer.context();
        ensure!(tally.failed.load(Ordering::Relaxed) == 0, "records were not delivered");
        counted += tally.counted.load(Ordering::Relaxed);
        total += tally.total.load(Ordering::Relaxed);
        latencies.add(&tally.latencies.lock().expect("no panic while it is held"));
    }
    let rate = counted as f64 / options.seconds;
    Ok(Produced {
        records_per_second: rate,
        mib_per_second: rate * options.record_bytes as f64 / f64::from(1 << 20),
        latency_us: latencies.summary(),
        records_total: total,
        client_cpu_seconds: cpu_seconds(),
    })
}

fn send(producer: &ThreadedProducer<Tally>, options: &Options, start: Instant) -> anyhow::Result<()> {
    let value = vec![b'a'; options.record_bytes];
    let interval = options.rate.map(|rate| Duration::from_secs_f64(f64::from(options.producers) / rate));
    let mut due = start;
    loop {
        let now = Instant::now();
        if now >= producer.context().end {
            return producer.flush(DRAIN_MAX).context("waiting for the last records");
        }
        if interval.is_some() && due > now {
            thread::sleep(due - now);
        }
        let begun = if interval.is_some() { due } else { Instant::now() };
        let record = BaseRecord::<(), _, _>::with_opaque_to(&options.topic, Box::new(begun)).payload(&value);
        match producer.send(record) {
            Ok(()) => due += interval.unwrap_or_default(),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => thread::sleep(FULL_PAUSE),
            Err((error, _)) => return Err(error.into()),
        }
    }
}
