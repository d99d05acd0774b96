//! How many records a second pass through a flow: a year of departures, as many as the demo has, on one core.
//!
//! `cargo bench -p anabranch-flow`

#[path = "../tests/it/memory.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod memory;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::batch::{Record, RecordAt};
use anabranch_core::seam::SystemClock;
use anabranch_flow::{Count, Disorder, Flow, FlowError, Late, Max, Mean, Tumbling, Undecodable};
use memory::MemoryEngine;

const RECORDS: i64 = 336_776;
const PARTITIONS: i64 = 3;
const RECORDS_PER_BATCH: i64 = 500;
const HOUR: Duration = Duration::from_secs(3600);

#[derive(serde::Serialize, serde::Deserialize)]
struct Flight {
    origin: String,
    tailnum: String,
    carrier: String,
    flight: i32,
    dest: String,
    scheduled_ms: i64,
    delay: Option<i64>,
}

/// Departures a minute and a half apart, up to an hour late, so that some are late for their window.
fn flight(index: i64) -> Flight {
    let delay = (index * 7919) % 75;
    Flight {
        origin: ["EWR", "JFK", "LGA"][(index % 3) as usize].into(),
        tailnum: format!("N{:05}", (index * 31) % 4000),
        carrier: "UA".into(),
        flight: (index % 6000) as i32,
        dest: "ORD".into(),
        scheduled_ms: 1_357_034_400_000 + index * 93_000 - delay * 60_000,
        delay: (index % 41 != 0).then_some(delay),
    }
}

fn fill(engine: &MemoryEngine) {
    engine.create("flights", PARTITIONS as i32);
    for first in (0..RECORDS).step_by(RECORDS_PER_BATCH as usize) {
        let records: Vec<_> = (first..RECORDS.min(first + RECORDS_PER_BATCH))
            .map(|index| {
                let flight = flight(index);
                let value = serde_json::to_vec(&flight).expect("a flight has a JSON form");
                Record::new(flight.tailnum, value)
            })
            .collect();
        engine.write("flights", (first / RECORDS_PER_BATCH % PARTITIONS) as i32, &records);
    }
}

async fn run(engine: Arc<MemoryEngine>, state: &std::path::Path) -> Result<(), FlowError> {
    let json =
        |at: &RecordAt| serde_json::from_slice::<Flight>(at.record.value.as_deref().unwrap_or_default());
    let open = Flow::named("departures")
        .source(["flights"])
        .decode(json, Undecodable::Fail)
        .filter(|flight| flight.delay.is_some())
        .event_time(|flight| flight.scheduled_ms, Disorder::bounded(HOUR))
        .key_by(|flight| flight.origin.clone())
        .window(Tumbling::of(HOUR), Late::ToTopic("flights-late".into()))
        .aggregate((Count, Mean::of(|flight: &Flight| flight.delay), Max::of(|flight: &Flight| flight.delay)))
        .sink("departures-by-hour", |origin, window, result| {
            let value = serde_json::to_vec(&result).expect("numbers have a JSON form");
            Record::new(format!("{origin}/{}", window.start_ms), value)
        })
        .emit_early()
        .open(engine, state, Arc::new(SystemClock::new()))
        .await?;
    let started = Instant::now();
    let end = open.run_until_end().await?;
    let took = started.elapsed();
    println!(
        "{} records in {:.2} s: {:.0} a second ({} results, {} late, {} commits)",
        end.counts.records_in,
        took.as_secs_f64(),
        end.counts.records_in as f64 / took.as_secs_f64(),
        end.counts.results,
        end.counts.late_sent,
        end.commits,
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = MemoryEngine::new(100);
    fill(&engine);
    let state = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    Ok(runtime.block_on(run(engine, state.path()))?)
}
