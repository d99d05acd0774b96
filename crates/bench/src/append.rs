//! What an application pays that holds the broker inside: one record after the other, each waited for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anabranch_broker::{Ack, Apply, NewTopic, Record, Topic, blocking};
use anyhow::ensure;
use bytes::Bytes;
use clap::ValueEnum;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::directory::RELAXED;
use crate::latency::{Latencies, Latency};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A directory for the broker, which should not exist yet
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value_t = 200_000)]
    records: u64,
    /// Records before those, which are not counted
    #[arg(long, default_value_t = 20_000)]
    warm_up: u64,
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    #[arg(long, value_enum, default_value = "blocking")]
    face: Face,
    /// Wait until each is synced
    #[arg(long)]
    durable: bool,
    /// How many tasks append, one record after the other each; more than one with the async face only
    #[arg(long, default_value_t = 1)]
    tasks: u64,
}

/// Which of the two ways into the library.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Face {
    Blocking,
    Async,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Appended {
    /// Of one call, in microseconds.
    latency_us: Latency,
    records_per_second: f64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<Appended> {
    let ack = if options.durable { Ack::Durable } else { Ack::Written };
    let mut topic = NewTopic::new("appended").partitions(options.partitions);
    if !options.durable {
        topic = topic.config(RELAXED.0, RELAXED.1);
    }
    let value = Bytes::from(vec![b'a'; options.record_bytes]);
    let record = move || Record { key: None, value: Some(value.clone()), ..Record::new("", "") };
    let mut latencies = Latencies::new();
    let mut counted_from = Instant::now();
    match options.face {
        Face::Blocking => {
            ensure!(options.tasks == 1, "the blocking face has one caller: choose --face=async for several");
            let broker = blocking::Broker::open(&options.dir)?;
            broker.create_topic(topic, Apply::Now)?;
            for number in 0..options.warm_up + options.records {
                if number == options.warm_up {
                    counted_from = Instant::now();
                }
                let record = record();
                let begun = Instant::now();
                broker.append_with("appended", record, ack)?;
                if number >= options.warm_up {
                    latencies.record(begun.elapsed());
                }
            }
            broker.close();
        }
        Face::Async => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(async {
                let broker = anabranch_broker::Broker::open(&options.dir).await?;
                let topic = broker.create_topic(topic, Apply::Now).await?;
                several(&topic, options.tasks, options.warm_up, ack, &record).await?;
                counted_from = Instant::now();
                latencies = several(&topic, options.tasks, options.records, ack, &record).await?;
                broker.close().await;
                anyhow::Ok(())
            })?;
        }
    }
    let seconds = counted_from.elapsed().as_secs_f64();
    Ok(Appended { latency_us: latencies.summary(), records_per_second: options.records as f64 / seconds })
}

/// Appends `records`, shared out among so many tasks.
async fn several(
    topic: &Arc<Topic>,
    tasks: u64,
    records: u64,
    ack: Ack,
    record: &(impl Fn() -> Record + Clone + Send + 'static),
) -> anyhow::Result<Latencies> {
    let mut appending = JoinSet::new();
    for task in 0..tasks {
        let (topic, record) = (Arc::clone(topic), record.clone());
        let share = records / tasks + u64::from(task < records % tasks);
        appending.spawn(async move {
            let mut latencies = Latencies::new();
            for _ in 0..share {
                let record = record();
                let begun = Instant::now();
                topic.append_with(record, ack).await?;
                latencies.record(begun.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    let mut all = Latencies::new();
    while let Some(latencies) = appending.join_next().await {
        all.add(&latencies??);
    }
    Ok(all)
}
