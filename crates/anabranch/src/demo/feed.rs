//! The flights go in as any application's records would: by an idempotent librdkafka producer, over the Kafka protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use super::FLIGHTS;
use super::flights::Flight;

/// What was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fed {
    /// Records that the broker acknowledged as durable.
    pub(super) records: u64,
    /// Bytes of their keys and values.
    pub(super) bytes: u64,
    /// From the first record to the last acknowledgement.
    pub(super) elapsed: Duration,
}

/// How far it is: records acknowledged.
#[derive(Debug, Clone, Default)]
pub(super) struct Acknowledged(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    delivered: AtomicU64,
    failed: AtomicU64,
}

impl Acknowledged {
    pub(super) fn records(&self) -> u64 {
        self.0.delivered.load(Ordering::Relaxed)
    }
}

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() { &self.0.delivered } else { &self.0.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

const FLUSH_MAX: Duration = Duration::from_secs(60);

/// Sends all flights, keyed by aircraft, at `rate` records a second or as fast as they go, and waits until the broker has
/// acknowledged them. Blocks.
pub(super) fn feed(
    bootstrap: &str,
    flights: &[Flight],
    rate: Option<u32>,
    acknowledged: &Acknowledged,
) -> anyhow::Result<Fed> {
    let producer: ThreadedProducer<Acknowledged> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("client.id", "anabranch-demo")
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        // As Kafka's Java client chooses partitions, so that any other client finds an aircraft's flights together.
        .set("partitioner", "murmur2_random")
        .create_with_context(acknowledged.clone())
        .context("cannot make a producer")?;
    let started = Instant::now();
    let mut bytes = 0;
    for (sent, flight) in flights.iter().enumerate() {
        if let Some(rate) = rate {
            let due = started + Duration::from_secs_f64(sent as f64 / f64::from(rate));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let key = flight.tailnum.as_deref().unwrap_or("unknown");
        let value = serde_json::to_vec(flight).context("cannot encode a flight")?;
        bytes += (key.len() + value.len()) as u64;
        let mut record = BaseRecord::to(FLIGHTS).key(key).payload(&value).timestamp(flight.left_ms());
        // A full queue is the broker's pace: wait for it.
        while let Err((error, unsent)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error).context("cannot send a flight");
            }
            std::thread::sleep(Duration::from_millis(1));
            record = unsent;
        }
    }
    producer.flush(FLUSH_MAX).context("the last flights were not acknowledged")?;
    let failed = acknowledged.0.failed.load(Ordering::Relaxed);
    if failed > 0 {
        bail!("{failed} flights were refused");
    }
    Ok(Fed { records: acknowledged.records(), bytes, elapsed: started.elapsed() })
}
