//! rskafka: a client in Rust alone, minimal by design: no groups, no transactions, and acks=all only.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use chrono::{DateTime, Utc};
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use smoke::{Checks, LARGE, TIMES_MS, bootstrap, equal, refused, report, unique, until, values};

const WAIT_MS: i32 = 5_000;
const BYTES: std::ops::Range<i32> = 1..8_000_000;

async fn client() -> Result<Client> {
    Ok(ClientBuilder::new(vec![bootstrap()]).build().await?)
}

async fn create(client: &Client, topic: &str, partitions: i32, replicas: i16) -> Result<()> {
    Ok(client.controller_client()?.create_topic(topic, partitions, replicas, WAIT_MS).await?)
}

async fn partitions(client: &Client, topic: &str) -> Result<usize> {
    let topics = client.list_topics().await?;
    Ok(topics.iter().find(|known| known.name == topic).map_or(0, |known| known.partitions.len()))
}

async fn new_topic(client: &Client, prefix: &str, count: i32) -> Result<String> {
    let topic = unique(prefix);
    create(client, &topic, count, 1).await?;
    // The controller has created it; wait for the broker to know.
    until("the new topic has its partitions", || async {
        Ok(partitions(client, &topic).await? == count as usize)
    })
    .await?;
    Ok(topic)
}

async fn partition(client: &Client, topic: &str) -> Result<PartitionClient> {
    Ok(client.partition_client(topic, 0, UnknownTopicHandling::Retry).await?)
}

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).expect("a time of this century")
}

fn record(value: &str) -> Record {
    Record {
        key: None,
        value: Some(value.as_bytes().to_vec()),
        headers: BTreeMap::new(),
        timestamp: at(TIMES_MS[0]),
    }
}

async fn produce(to: &PartitionClient, values: &[String], compression: Compression) -> Result<Vec<i64>> {
    Ok(to.produce(values.iter().map(|value| record(value)).collect(), compression).await?)
}

/// Records from this offset on.
async fn read(from: &PartitionClient, mut offset: i64, count: usize) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    while records.len() < count {
        let (batch, _) = from.fetch_records(offset, BYTES, WAIT_MS).await?;
        ensure!(!batch.is_empty(), "only {} of {count} records came", records.len());
        offset = batch[batch.len() - 1].offset + 1;
        records.extend(batch.into_iter().map(|fetched| fetched.record));
    }
    records.truncate(count);
    Ok(records)
}

fn bodies(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned())
        .collect()
}

async fn round_trip(compression: Compression) -> Result<()> {
    let client = client().await?;
    let to = partition(&client, &new_topic(&client, "round-trip", 1).await?).await?;
    equal(produce(&to, &values(20), compression).await?, (0..20).collect())?;
    equal(bodies(&read(&to, 0, 20).await?), values(20))
}

async fn consume_from_to() -> Result<()> {
    let client = client().await?;
    let to = partition(&client, &new_topic(&client, "from-to", 1).await?).await?;
    produce(&to, &values(10), Compression::NoCompression).await?;
    equal(bodies(&read(&to, 3, 4).await?), values(10)[3..7].to_vec())?;
    equal((to.get_offset(OffsetAt::Earliest).await?, to.get_offset(OffsetAt::Latest).await?), (0, 10))
}

/// A topic takes a mebibyte; rskafka cannot ask for one that takes more.
async fn large_message() -> Result<()> {
    let client = client().await?;
    let to = partition(&client, &new_topic(&client, "large", 1).await?).await?;
    let large = "x".repeat(1_000_000);
    produce(&to, std::slice::from_ref(&large), Compression::NoCompression).await?;
    refused("MessageTooLarge", produce(&to, &["x".repeat(LARGE)], Compression::NoCompression).await)?;
    ensure!(bodies(&read(&to, 0, 1).await?) == [large], "it came back changed");
    Ok(())
}

async fn errors_bad_input() -> Result<()> {
    let client = client().await?;
    let topic = new_topic(&client, "bad-input", 1).await?;
    refused("TopicAlreadyExists", create(&client, &topic, 1, 1).await)?;
    refused("InvalidTopicException", create(&client, "no/such name", 1, 1).await)?;
    refused("InvalidReplicationFactor", create(&client, &unique("absent"), 1, 9).await)?;
    let from = partition(&client, &topic).await?;
    refused("OffsetOutOfRange", from.fetch_records(99, BYTES, WAIT_MS).await)
}

async fn timestamps() -> Result<()> {
    let client = client().await?;
    let to = partition(&client, &new_topic(&client, "times", 1).await?).await?;
    for time in TIMES_MS {
        to.produce(vec![Record { timestamp: at(time), ..record("v") }], Compression::NoCompression).await?;
    }
    let got: Vec<i64> =
        read(&to, 0, 3).await?.iter().map(|record| record.timestamp.timestamp_millis()).collect();
    equal(got, TIMES_MS.to_vec())?;
    equal(to.get_offset(OffsetAt::Timestamp(at(TIMES_MS[0] + 500))).await?, 1)
}

async fn create_delete_topic() -> Result<()> {
    let client = client().await?;
    let topic = new_topic(&client, "delete", 3).await?;
    client.controller_client()?.delete_topic(&topic, WAIT_MS).await?;
    until("the deleted topic is gone", || async { Ok(partitions(&client, &topic).await? == 0) }).await
}

async fn delete_records() -> Result<()> {
    let client = client().await?;
    let to = partition(&client, &new_topic(&client, "records", 1).await?).await?;
    produce(&to, &values(5), Compression::NoCompression).await?;
    to.delete_records(3, WAIT_MS).await?;
    equal(to.get_offset(OffsetAt::Earliest).await?, 3)
}

#[tokio::main]
async fn main() {
    let mut checks = Checks::default();
    checks.add("metadata", async { new_topic(&client().await?, "metadata", 2).await.map(drop) });
    checks.add("produce_acks_all", round_trip(Compression::NoCompression));
    checks.add("consume_from_beginning", round_trip(Compression::NoCompression));
    checks.add("consume_from_to", consume_from_to());
    checks.add("large_message", large_message());
    checks.add("errors_bad_input", errors_bad_input());
    checks.add("compression.gzip", round_trip(Compression::Gzip));
    checks.add("compression.snappy", round_trip(Compression::Snappy));
    checks.add("compression.lz4", round_trip(Compression::Lz4));
    checks.add("compression.zstd", round_trip(Compression::Zstd));
    checks.add("timestamps_offsets_for_times", timestamps());
    checks.add("create_delete_topic", create_delete_topic());
    checks.add("delete_records", delete_records());
    let cannot = [
        ("headers_duplicate_keys", "it keeps headers in a map"),
        ("group_commit_resume", "it has no groups"),
        ("transactions_commit_abort_read_committed", "it has no transactions"),
    ];
    report("rskafka", "0.6.0", checks, &cannot).await
}
