//! async-nats, on streams as the engine has them: one per partition, in files.

use std::collections::VecDeque;
use std::hint::black_box;

use anyhow::{Context as _, ensure};
use async_nats::header::{NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::{Context, ContextBuilder, PublishAckFuture};
use async_nats::jetstream::stream;
use async_nats::{HeaderMap, HeaderName};
use futures::StreamExt;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{APPEND_RECORDS, APPENDS_OPEN, Options, PATIENCE, now_ms, value};

/// Batches of a stream that are not acknowledged yet; the server takes 50.
const BATCHES_OPEN: usize = 32;
/// When a record was made, as its producer says: the server knows only when a message came.
const TIME: HeaderName = HeaderName::from_static("Time");
/// Messages of one request: few enough for all partitions, lest the client drops what it cannot keep.
const REQUEST_MESSAGES: usize = 2_048;

async fn connect(options: &Options) -> anyhow::Result<Context> {
    let client = async_nats::connect(&options.bootstrap).await?;
    let open = APPENDS_OPEN * APPEND_RECORDS;
    Ok(ContextBuilder::new().max_ack_inflight(open).timeout(PATIENCE).build(client))
}

/// Stream and subject of a partition; the engine's are `ab-…` and `ab.…`.
fn names(options: &Options, partition: i32) -> (String, String) {
    let topic = &options.topic;
    (format!("raw-{topic}-{partition}"), format!("raw.{topic}.{partition}"))
}

/// Makes the streams; their subjects.
async fn create(options: &Options, context: &Context) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for partition in 0..options.partitions {
        let (name, subject) = names(options, partition);
        let (subjects, allow_atomic_publish) = (vec![subject.clone()], true);
        let config = stream::Config { name, subjects, allow_atomic_publish, ..stream::Config::default() };
        context.create_stream(config).await?;
        all.push(subject);
    }
    Ok(all)
}

/// Each record by itself; many are not acknowledged yet.
pub(super) async fn produce(options: &Options) -> anyhow::Result<()> {
    let context = connect(options).await?;
    let subjects = create(options, &context).await?;
    let value = value(options);
    let mut open: VecDeque<PublishAckFuture> = VecDeque::new();
    let open_max = APPENDS_OPEN * APPEND_RECORDS;
    for number in 0..options.records {
        // As many in a row for one partition as an append has.
        let subject = &subjects[number as usize / APPEND_RECORDS % subjects.len()];
        if open.len() == open_max {
            open.pop_front().expect("some are open").await?;
        }
        open.push_back(context.publish(subject.clone(), value.clone()).await?);
    }
    for acknowledged in open {
        acknowledged.await?;
    }
    Ok(())
}

/// What the engine promises, by hand: atomic batches (NATS ADR-50), of which several are not acknowledged yet, and the time of
/// each record with it.
pub(super) async fn produce_atomic(options: &Options) -> anyhow::Result<()> {
    let context = connect(options).await?;
    let client = context.client();
    let subjects = create(options, &context).await?;
    let value = value(options);
    let (mut open, mut left) = (JoinSet::new(), options.records);
    let open_max = BATCHES_OPEN * subjects.len();
    for number in 0.. {
        let count = left.min(APPEND_RECORDS as u64);
        if count == 0 {
            break;
        }
        left -= count;
        if open.len() == open_max {
            open.join_next().await.expect("some are open")??;
        }
        let (subject, now) = (subjects[number % subjects.len()].clone(), now_ms().to_string());
        for sequence in 1..=count {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_BATCH_ID, number.to_string());
            headers.insert(NATS_BATCH_SEQUENCE, sequence.to_string());
            headers.insert(TIME, now.as_str());
            if sequence < count {
                client.publish_with_headers(subject.clone(), headers, value.clone()).await?;
                continue;
            }
            headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
            let (client, subject, value) = (client.clone(), subject.clone(), value.clone());
            open.spawn(async move {
                let said = client.request_with_headers(subject, headers, value).await?;
                let said = std::str::from_utf8(&said.payload)?;
                ensure!(!said.contains("\"error\""), "{said}");
                Ok::<_, anyhow::Error>(())
            });
        }
    }
    while let Some(done) = open.join_next().await {
        done??;
    }
    Ok(())
}

pub(super) async fn consume(options: &Options) -> anyhow::Result<()> {
    let context = connect(options).await?;
    let mut readers = JoinSet::new();
    for partition in 0..options.partitions {
        let (context, name) = (context.clone(), names(options, partition).0);
        readers.spawn(async move {
            let stream = context.get_stream(name).await?;
            let left = stream.cached_info().state.messages;
            let config =
                pull::Config { ack_policy: AckPolicy::None, memory_storage: true, ..pull::Config::default() };
            let consumer = stream.create_consumer(config).await?;
            let mut messages = consumer.stream().max_messages_per_batch(REQUEST_MESSAGES).messages().await?;
            let mut bytes = 0;
            for _ in 0..left {
                let message = timeout(PATIENCE, messages.next()).await?.context("the consumer ended")??;
                bytes += message.payload.len();
                if let Some(time) = message.headers.as_ref().and_then(|headers| headers.get(TIME)) {
                    let _: i64 = black_box(time.as_str().parse()?);
                }
            }
            Ok::<_, anyhow::Error>(bytes)
        });
    }
    let mut bytes = 0;
    while let Some(read) = readers.join_next().await {
        bytes += read??;
    }
    ensure!(bytes as u64 == options.records * options.record_bytes as u64, "{bytes} bytes came");
    Ok(())
}

pub(super) async fn remove(options: &Options) -> anyhow::Result<()> {
    let context = connect(options).await?;
    for partition in 0..options.partitions {
        context.delete_stream(names(options, partition).0).await?;
    }
    Ok(())
}
