//! Data directories: filling them, and how long it takes to open them again.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anabranch_broker::{Ack, Apply, Broker, NewTopic, Partition};
use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;

use crate::request::{Codec, batch};

/// The setting of a topic that leaves syncing to the operating system.
pub(crate) const RELAXED: (&str, &str) = ("flush.messages", "9223372036854775807");

/// Of a batch, with 1 KiB records: just under Kafka's limit.
const BATCH_RECORDS: usize = 1000;
const RECORD_BYTES: usize = 1024;

/// Batches that may wait for the writer while a directory is filled.
const IN_FLIGHT: usize = 16;

#[derive(Debug, clap::Args)]
pub(crate) struct Fill {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value_t = 100)]
    partitions: i32,
    /// Together with what is there already
    #[arg(long, default_value_t = 10 << 30)]
    bytes: u64,
    /// When that is done, go on with small batches that nobody waits for, until killed
    #[arg(long)]
    until_killed: bool,
}

/// What was written.
#[derive(Debug, Serialize)]
pub(crate) struct Filled {
    bytes: u64,
    records: u64,
    seconds: f64,
}

pub(crate) fn fill(options: &Fill) -> anyhow::Result<Filled> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let broker = Broker::open(&options.dir).await?;
        let topic = match broker.topic("filled") {
            Ok(topic) => topic,
            Err(_) => {
                let topic = NewTopic::new("filled").partitions(options.partitions);
                broker.create_topic(topic, Apply::Now).await?
            }
        };
        let partitions: Vec<Partition> =
            (0..options.partitions).filter_map(|index| topic.partition(index).cloned()).collect();
        let start = Instant::now();
        let large = batch(BATCH_RECORDS, RECORD_BYTES, Codec::None)?;
        let there: u64 = partitions.iter().map(Partition::size_bytes).sum();
        let count = options.bytes.saturating_sub(there).div_ceil(large.len() as u64);
        let in_turn = partitions.iter().cycle().take(usize::try_from(count)?);
        append(in_turn, &large).await?;
        let filled = Filled {
            bytes: count * large.len() as u64,
            records: count * BATCH_RECORDS as u64,
            seconds: start.elapsed().as_secs_f64(),
        };
        if options.until_killed {
            println!("{}", serde_json::to_string(&filled)?);
            std::io::stdout().flush()?;
            append(partitions.iter().cycle(), &batch(16, RECORD_BYTES, Codec::None)?).await?;
        }
        broker.close().await;
        Ok(filled)
    })
}

/// One batch to each in turn, with a few in flight.
async fn append(to: impl Iterator<Item = &Partition>, batch: &Bytes) -> anyhow::Result<()> {
    let mut waiting = std::collections::VecDeque::new();
    for partition in to {
        if waiting.len() == IN_FLIGHT {
            let oldest: anabranch_broker::Producing = waiting.pop_front().expect("it is full");
            oldest.answer().await?;
        }
        waiting.push_back(partition.submit(batch.clone(), Ack::Written).await?);
    }
    for producing in waiting {
        producing.answer().await?;
    }
    Ok(())
}

#[derive(Debug, clap::Args)]
pub(crate) struct Open {
    #[arg(long)]
    dir: PathBuf,
    /// Have the operating system forget all files first (needs root)
    #[arg(long)]
    cold: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Opened {
    milliseconds: f64,
    /// What opening asked the operating system for, whether it had it in memory or not.
    read_bytes: u64,
    /// What is there.
    records: i64,
    partitions: usize,
    data_bytes: u64,
}

pub(crate) fn open(options: &Open) -> anyhow::Result<Opened> {
    if options.cold {
        rustix::fs::sync();
        fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache, which needs root")?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let read_before = read_bytes()?;
        let start = Instant::now();
        let broker = Broker::open(&options.dir).await?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        let read_bytes = read_bytes()? - read_before;
        let topics = broker.topics();
        let topic = topics.get("filled").context("the directory was not filled by this program")?;
        let partitions: Vec<&Partition> = (0..).map_while(|index| topic.partition(index)).collect();
        for partition in &partitions {
            partition.check_status()?;
        }
        let opened = Opened {
            milliseconds,
            read_bytes,
            records: partitions.iter().map(|partition| partition.offsets().high_watermark.0).sum(),
            partitions: partitions.len(),
            data_bytes: partitions.iter().map(|partition| partition.size_bytes()).sum(),
        };
        broker.close().await;
        Ok(opened)
    })
}

/// `rchar` of proc(5): what this process has read so far.
fn read_bytes() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/self/io")?;
    let value = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    value.and_then(|value| value.parse().ok()).context("/proc/self/io has no rchar")
}
