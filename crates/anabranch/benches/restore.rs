//! How long it takes to restore a flow's state from its changelog: with no local copy, with one that is behind by a hundredth,
//! and with what a standby has.
//!
//! `cargo bench -p anabranch --bench restore -- [MIB] [URL]`: on an empty cluster at URL, or on the embedded engine. Its data, and the
//! local stores, lie in `TMPDIR`, and take three times as much and more.

use std::error::Error;
use std::num::ParseIntError;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch::core::batch::RecordAt;
use anabranch::core::seam::SystemClock;
use anabranch::engine::{AppendOptions, Durability, Engine, TopicSpec};
use anabranch::flow::{
    Aggregate, Definition, Disorder, Flow, Late, Metrics, Runner, Status, Tumbling, Undecodable,
};
use anabranch::{Record, TopicPartition};
use tokio::sync::{oneshot, watch};

/// What a window keeps.
const STATE_BYTES: usize = 1 << 10;
const STATE_MIB: u64 = 1024;
const RECORDS_PER_BATCH: usize = 5_000;
const A_WHILE: Duration = Duration::from_millis(20);

/// Keeps bytes.
struct Ballast;

impl Aggregate<u64> for Ballast {
    type State = Vec<u8>;
    type Output = usize;

    fn name(&self) -> String {
        "ballast".to_owned()
    }

    fn init(&self) -> Vec<u8> {
        Vec::new()
    }

    fn add(&self, state: &mut Vec<u8>, number: &u64) {
        // Not the same for all, as it might be compressed then.
        let mut bits = *number | 1;
        state.resize_with(STATE_BYTES, || {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            bits as u8
        });
    }

    fn merge(&self, state: &mut Vec<u8>, other: Vec<u8>) {
        state.extend(other);
    }

    fn finish(&self, state: &Vec<u8>) -> usize {
        state.len()
    }
}

fn number(at: &RecordAt) -> Result<u64, ParseIntError> {
    std::str::from_utf8(at.record.value.as_deref().unwrap_or_default()).unwrap_or_default().parse()
}

/// A window per number, none of which ends.
fn flow() -> Definition<u64, u64, Ballast> {
    Flow::named("ballast")
        .source(["numbers"])
        .decode(number, Undecodable::Fail)
        .event_time(|_| 0, Disorder::bounded(Duration::ZERO))
        .key_by(|number| *number)
        .window(Tumbling::of(Duration::from_secs(3600)), Late::Drop)
        .aggregate(Ballast)
        .sink("ballast", |key, _, bytes| Record::new(key.to_string(), bytes.to_string()))
        .or_at_least_once()
}

async fn fill(engine: &Arc<dyn Engine>, numbers: std::ops::Range<u64>) -> Result<(), Box<dyn Error>> {
    let to = TopicPartition::new("numbers", 0);
    for numbers in numbers.collect::<Vec<_>>().chunks(RECORDS_PER_BATCH) {
        let records: Vec<_> = numbers.iter().map(|number| Record::keyless(number.to_string())).collect();
        engine.append(&to, records.into(), AppendOptions::new(Durability::Written)).await?;
    }
    Ok(())
}

/// Runs the flow in `state` until it has read so many records; how long it took to open it, and what it restored.
async fn run(
    engine: &Arc<dyn Engine>,
    state: &Path,
    records: u64,
) -> Result<(Duration, u64), Box<dyn Error>> {
    let began = Instant::now();
    let open = flow().open(Arc::clone(engine), state, Arc::new(SystemClock::new())).await?;
    let took = began.elapsed();
    let metrics = open.metrics();
    let end = open.run(until_read(&metrics, records)).await?;
    Ok((took, end.restored))
}

async fn until_read(metrics: &Metrics, records: u64) {
    while metrics.snapshot().counts.records_in < records {
        tokio::time::sleep(A_WHILE).await;
    }
}

/// A process that stands ready: how to stop it, what it does, what it has followed.
type Ready = (oneshot::Sender<()>, watch::Receiver<Status>, watch::Receiver<u64>);

fn ready(engine: &Arc<dyn Engine>, state: &Path, stands_by: bool) -> Ready {
    let (stop, stopped) = oneshot::channel::<()>();
    let runner =
        Runner::new(Arc::clone(engine), state, Arc::new(SystemClock::new()), flow).standby(stands_by);
    let (status, followed) = (runner.status(), runner.followed());
    tokio::spawn(async move {
        let ended = runner.run(async {
            let _ = stopped.await;
        });
        ended.await.expect("a runner goes on");
    });
    (stop, status, followed)
}

async fn running(status: &mut watch::Receiver<Status>) -> Result<u64, Box<dyn Error>> {
    let now = status.wait_for(|status| matches!(status, Status::Running(_))).await?;
    match &*now {
        Status::Running(metrics) => Ok(metrics.snapshot().restored),
        Status::Waiting | Status::Restoring => unreachable!("it was waited for"),
    }
}

/// Copies a directory, as deep as it is.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => drop(std::fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}

async fn measure(home: &Path, mib: u64, url: &str) -> Result<(), Box<dyn Error>> {
    let engine = anabranch::engine::open(url, &[]).await?;
    engine.ensure_topic(&TopicSpec::new("numbers", 1)).await?;
    let records = mib * (1 << 20) / STATE_BYTES as u64;
    let most = records - records / 100;
    let path = |name: &str| home.join(name);
    fill(&engine, 0..most).await?;
    run(&engine, &path("first"), most).await?;
    copy(&path("first"), &path("behind"))?;
    fill(&engine, most..records).await?;
    run(&engine, &path("first"), records).await?;
    let tell = |what: &str, took: Duration, restored: u64| {
        println!("{what:<42} {:>8.2} s, {restored:>9} records read", took.as_secs_f64());
    };
    println!("{mib} MiB of state in {records} windows, {}", engine.description().engine);
    let (took, restored) = run(&engine, &path("cold"), records).await?;
    tell("no local copy", took, restored);
    let (took, restored) = run(&engine, &path("behind"), records).await?;
    tell("a local copy that is behind by 1 %", took, restored);
    let (took, restored) = run(&engine, &path("first"), records).await?;
    tell("a local copy that is current", took, restored);

    // From the moment at which one is told to leave to the one at which the other goes on; both are in this process.
    for (what, stands_by) in
        [("handed over to a standby", true), ("handed over to one that does not stand by", false)]
    {
        let (stop, mut status, _) = ready(&engine, &path("first"), false);
        running(&mut status).await?;
        let other = path(&format!("other-{stands_by}"));
        let (stop_other, mut status, mut followed) = ready(&engine, &other, stands_by);
        if stands_by {
            followed.wait_for(|followed| *followed >= records).await?;
        }
        let began = Instant::now();
        drop(stop);
        let restored = running(&mut status).await?;
        tell(what, began.elapsed(), restored);
        drop(stop_other);
        let left = |status: &Status| matches!(status, Status::Waiting);
        status.wait_for(left).await?;
    }
    engine.close().await;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo's own arguments begin with dashes.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mib = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(STATE_MIB);
    let home = tempfile::tempdir()?;
    let embedded = format!("embedded:{}", home.path().join("data").display());
    let url = arguments.into_iter().find(|argument| argument.contains("://")).unwrap_or(embedded);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(home.path(), mib, &url))
}
