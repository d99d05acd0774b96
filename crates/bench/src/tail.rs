//! From a producer to a consumer that waits: one record at a time, and how long it takes until the consumer has it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;

use crate::fetch;
use crate::latency::{Latencies, Latency};
use crate::request::{Acks, Codec, Connection, ProduceFrame, batch, check_produced};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    bootstrap: String,
    /// A topic with nothing in its first partition
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
    #[arg(long, value_enum, default_value = "all")]
    acks: Acks,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Tailed {
    /// From the first byte of the produce request until the consumer has the record, in microseconds.
    latency_us: Latency,
}

const ONE: (i32, i32, i32) = (1, 1 << 20, 1 << 20);

pub(crate) fn run(options: &Options) -> anyhow::Result<Tailed> {
    let batch = batch(1, options.record_bytes, Codec::None)?;
    let mut frame = ProduceFrame::new(&options.topic, options.acks, &batch, 1)?;
    let mut producer = Connection::open(&options.bootstrap)?;
    let mut consumer = Connection::open(&options.bootstrap)?;
    let mut positions = BTreeMap::from([(0, 0)]);
    let mut latencies = Latencies::new();
    let end = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut correlation = 0;
    while Instant::now() < end {
        // The consumer waits before there is anything.
        fetch::send(&mut consumer, &fetch::fetch_of(&options.topic, &positions, ONE))?;
        correlation += 1;
        frame.patch(correlation, 0, 1);
        let start = Instant::now();
        producer.send_frame(frame.bytes())?;
        let (records, _) = fetch::take(&mut consumer, &mut positions)?;
        latencies.record(start.elapsed());
        ensure!(records == 1, "{records} records came instead of one");
        check_produced(producer.receive_frame()?, 1)?;
    }
    Ok(Tailed { latency_us: latencies.summary() })
}
