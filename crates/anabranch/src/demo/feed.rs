//! The flights go in as any application's records would, by an engine: in the demo of the embedded broker by that of Kafka,
//! through the broker's door.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anabranch_core::batch::Record;
use anabranch_core::engine::{AppendOptions, Engine, EngineError};
use anabranch_core::{TopicPartition, partition_of};
use anyhow::Context;
use futures::stream::{FuturesUnordered, StreamExt};

use super::flights::Flight;
use super::{FLIGHTS, PARTITIONS};

/// Flights that are handed over at once, in an append for each partition.
const FLIGHTS_AT_ONCE: usize = 600;
/// How often flights are handed over when the replay is slowed down.
const PACE: Duration = Duration::from_millis(50);
/// Appends that wait for their answers.
const APPENDS_OPEN: usize = 48;

/// What was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fed {
    /// Records that the engine acknowledged as durable.
    pub(super) records: u64,
    /// Bytes of their keys and values.
    pub(super) bytes: u64,
    /// From the first record to the last acknowledgement.
    pub(super) elapsed: Duration,
}

/// How far it is: records acknowledged.
#[derive(Debug, Clone, Default)]
pub(super) struct Acknowledged(Arc<AtomicU64>);

impl Acknowledged {
    pub(super) fn records(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sends all flights, keyed by aircraft, at `rate` records a second or as fast as they go, and waits until the engine has
/// acknowledged them.
pub(super) async fn feed(
    engine: &dyn Engine,
    flights: &[Flight],
    rate: Option<u32>,
    acknowledged: &Acknowledged,
) -> anyhow::Result<Fed> {
    let paced = rate.map(|rate| (f64::from(rate) * PACE.as_secs_f64()) as usize);
    let at_once = paced.unwrap_or(FLIGHTS_AT_ONCE).clamp(1, FLIGHTS_AT_ONCE);
    let started = Instant::now();
    let (mut sent, mut bytes) = (0, 0);
    // Appends to a partition keep the order in which they are begun.
    let mut open = FuturesUnordered::new();
    for flights in flights.chunks(at_once) {
        if let Some(rate) = rate {
            let due = started + Duration::from_secs_f64(sent as f64 / f64::from(rate));
            tokio::time::sleep_until(due.into()).await;
        }
        sent += flights.len();
        let mut by_partition: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
        for flight in flights {
            let key = flight.tailnum.as_deref().unwrap_or("unknown").to_owned();
            let value = serde_json::to_vec(flight).context("cannot encode a flight")?;
            bytes += (key.len() + value.len()) as u64;
            let partition = partition_of(key.as_bytes(), PARTITIONS);
            by_partition.entry(partition).or_default().push(Record::new(key, value).at(flight.left_ms()));
        }
        for (partition, records) in by_partition {
            open.push(append(engine, TopicPartition::new(FLIGHTS, partition), records, acknowledged));
        }
        while open.len() > APPENDS_OPEN {
            open.next().await.expect("some are open").context("cannot send a flight")?;
        }
    }
    while let Some(appended) = open.next().await {
        appended.context("the last flights were not acknowledged")?;
    }
    Ok(Fed { records: acknowledged.records(), bytes, elapsed: started.elapsed() })
}

async fn append(
    engine: &dyn Engine,
    to: TopicPartition,
    records: Vec<Record>,
    acknowledged: &Acknowledged,
) -> Result<(), EngineError> {
    let count = records.len() as u64;
    engine.append(&to, records.into(), AppendOptions::default()).await?;
    acknowledged.0.fetch_add(count, Ordering::Relaxed);
    Ok(())
}
