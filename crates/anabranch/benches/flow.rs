//! What exactly once costs a flow: records a second through one on the embedded broker, with and without, in turn.
//!
//! `cargo bench -p anabranch --bench flow [ROUNDS]`; the data lie in `TMPDIR`.

use std::error::Error;
use std::num::ParseIntError;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch::core::batch::RecordAt;
use anabranch::core::seam::SystemClock;
use anabranch::flow::{Count, Disorder, Flow, Late, Sum, Tumbling, Undecodable};
use anabranch::{Ack, Apply, Broker, NewTopic, Record};

const RECORDS: i64 = 600_000;
const PARTITIONS: i32 = 3;
const RECORDS_PER_BATCH: usize = 500;
const KEYS: i64 = 1_000;
const WINDOW: Duration = Duration::from_secs(10);
/// Records of one commit: the default, and what gives fresh results.
const COMMITS: [u64; 2] = [20_000, 1_000];
const ROUNDS: usize = 3;

/// Numbers: each is its own time, key and amount.
async fn fill(broker: &Broker) -> Result<(), Box<dyn Error>> {
    let topic = broker.create_topic(NewTopic::new("numbers").partitions(PARTITIONS), Apply::Now).await?;
    for partition in 0..PARTITIONS {
        let numbers: Vec<i64> = (i64::from(partition)..RECORDS).step_by(PARTITIONS as usize).collect();
        for numbers in numbers.chunks(RECORDS_PER_BATCH) {
            let records = numbers.iter().map(|number| Record::keyless(number.to_string())).collect();
            topic.append_batch(partition, records, Ack::Written).await?;
        }
    }
    Ok(())
}

fn number(at: &RecordAt) -> Result<i64, ParseIntError> {
    std::str::from_utf8(at.record.value.as_deref().unwrap_or_default()).unwrap_or_default().parse()
}

/// Records a second, and how many commits there were.
async fn run(home: &Path, exactly_once: bool, commit_records: u64) -> Result<(f64, u64), Box<dyn Error>> {
    let root = tempfile::tempdir_in(home)?;
    let broker = Broker::open(root.path().join("data")).await?;
    fill(&broker).await?;
    let flow = Flow::named("sums")
        .source(["numbers"])
        .decode(number, Undecodable::Fail)
        .event_time(|number| *number, Disorder::bounded(Duration::from_secs(1)))
        .key_by(|number| number % KEYS)
        .window(Tumbling::of(WINDOW), Late::Drop)
        .aggregate((Count, Sum::of(|number: &i64| *number)))
        .sink("sums", |key, window, (count, sum)| {
            Record::new(format!("{key}/{}", window.start_ms), format!("{count}/{sum}"))
        })
        .commit_every(commit_records, Duration::from_secs(1));
    let flow = if exactly_once { flow } else { flow.at_least_once() };
    let engine = Arc::new(broker.clone());
    let open = flow.open(engine, root.path().join("flow"), Arc::new(SystemClock::new())).await?;
    let started = Instant::now();
    let end = open.run_until_end().await?;
    let took = started.elapsed();
    assert_eq!(end.counts.records_in, RECORDS as u64);
    broker.close().await;
    Ok((RECORDS as f64 / took.as_secs_f64(), end.commits))
}

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo's own arguments begin with dashes.
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(ROUNDS);
    let home = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for commit_records in COMMITS {
        for round in 1..=rounds {
            let (exactly, commits) = runtime.block_on(run(home.path(), true, commit_records))?;
            let (at_least, _) = runtime.block_on(run(home.path(), false, commit_records))?;
            println!(
                "round {round}: {commits} commits of {commit_records} records: {exactly:.0} records/s exactly once, \
                 {at_least:.0} at least once; ratio {:.2}",
                exactly / at_least,
            );
        }
    }
    Ok(())
}
