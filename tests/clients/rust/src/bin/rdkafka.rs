//! rdkafka: librdkafka under Rust.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, FutureProducer, FutureRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use smoke::{Checks, LARGE, LARGE_TOPIC, TIMES_MS, bootstrap, equal, refused, report, unique, until, values};

type Settings<'a> = &'a [(&'a str, &'a str)];

const SECONDS: Duration = Duration::from_secs(20);

fn config(settings: Settings<'_>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap());
    settings.iter().for_each(|(name, value)| drop(config.set(*name, *value)));
    config
}

fn admin() -> Result<AdminClient<DefaultClientContext>> {
    Ok(config(&[]).create()?)
}

async fn create(name: &str, partitions: i32, replicas: i32, settings: Settings<'_>) -> Result<()> {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
    for (name, value) in settings {
        topic = topic.set(name, value);
    }
    for answer in admin()?.create_topics([&topic], &AdminOptions::new()).await? {
        if let Err((_, code)) = answer {
            bail!("{code:?}");
        }
    }
    Ok(())
}

/// How many partitions the broker says the topic has.
async fn partitions(topic: &str) -> Result<usize> {
    let topic = topic.to_owned();
    // librdkafka blocks.
    let asked = tokio::task::spawn_blocking(move || -> Result<usize> {
        let consumer: BaseConsumer = config(&[("allow.auto.create.topics", "false")]).create()?;
        let metadata = consumer.fetch_metadata(None, SECONDS)?;
        Ok(metadata
            .topics()
            .iter()
            .find(|known| known.name() == topic)
            .map_or(0, |known| known.partitions().len()))
    });
    asked.await?
}

async fn new_topic(prefix: &str, count: usize, settings: Settings<'_>) -> Result<String> {
    let topic = unique(prefix);
    create(&topic, count as i32, 1, settings).await?;
    // The controller has created it; wait for the broker to know.
    until("the new topic has its partitions", || async { Ok(partitions(&topic).await? == count) }).await?;
    Ok(topic)
}

/// The offsets that the acknowledgements name.
async fn produce(topic: &str, values: &[String], settings: Settings<'_>) -> Result<Vec<i64>> {
    let producer: FutureProducer = config(&[&[("acks", "all")], settings].concat()).create()?;
    let mut offsets = Vec::new();
    for value in values {
        let record = FutureRecord::<(), String>::to(topic).partition(0).payload(value);
        match producer.send(record, SECONDS).await {
            Ok(delivery) => offsets.push(delivery.offset),
            Err((error, _)) => return Err(error.into()),
        }
    }
    Ok(offsets)
}

fn consumer(group: &str, settings: Settings<'_>) -> Result<BaseConsumer> {
    let defaults = [("group.id", group), ("auto.offset.reset", "earliest"), ("enable.auto.commit", "false")];
    Ok(config(&[&defaults, settings].concat()).create()?)
}

fn take(from: &BaseConsumer, count: usize) -> Result<Vec<OwnedMessage>> {
    let (mut messages, deadline) = (Vec::new(), Instant::now() + SECONDS);
    while messages.len() < count {
        ensure!(Instant::now() < deadline, "only {} of {count} records came", messages.len());
        if let Some(message) = from.poll(Duration::from_millis(200)) {
            messages.push(message?.detach());
        }
    }
    Ok(messages)
}

fn assigned(topic: &str, offset: i64, settings: Settings<'_>) -> Result<BaseConsumer> {
    let reader = consumer(&unique("group"), settings)?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset))?;
    reader.assign(&list)?;
    Ok(reader)
}

/// Partition 0 from this offset on.
async fn read(topic: &str, offset: i64, count: usize, settings: Settings<'_>) -> Result<Vec<OwnedMessage>> {
    let reader = assigned(topic, offset, settings)?;
    tokio::task::spawn_blocking(move || take(&reader, count)).await?
}

fn bodies(messages: &[OwnedMessage]) -> Vec<String> {
    let body =
        |message: &OwnedMessage| String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
    messages.iter().map(body).collect()
}

async fn round_trip(prefix: &str, settings: &'static [(&'static str, &'static str)]) -> Result<()> {
    let topic = new_topic(prefix, 1, &[]).await?;
    produce(&topic, &values(20), settings).await?;
    equal(bodies(&read(&topic, 0, 20, &[]).await?), values(20))
}

async fn produce_acks(acks: &'static str) -> Result<()> {
    let topic = new_topic("acks", 1, &[]).await?;
    let offsets = produce(&topic, &values(3), &[("acks", acks)]).await?;
    if acks != "0" {
        equal(offsets, vec![0, 1, 2])?; // without an acknowledgement there are none
    }
    equal(bodies(&read(&topic, 0, 3, &[]).await?), values(3))
}

async fn large_message() -> Result<()> {
    let (topic, large) = (new_topic("large", 1, &[LARGE_TOPIC]).await?, "x".repeat(LARGE));
    let limit = [("message.max.bytes", "8000000")];
    produce(&topic, std::slice::from_ref(&large), &limit).await?;
    refused("MessageSizeTooLarge", produce(&topic, &[large.repeat(2)], &limit).await)?;
    ensure!(bodies(&read(&topic, 0, 1, &[]).await?) == [large], "it came back changed");
    Ok(())
}

async fn errors_bad_input() -> Result<()> {
    let (topic, absent) = (new_topic("bad-input", 1, &[]).await?, unique("absent"));
    refused("TopicAlreadyExists", create(&topic, 1, 1, &[]).await)?;
    refused("InvalidTopic", create("no/such name", 1, 1, &[]).await)?;
    refused("InvalidReplicationFactor", create(&absent, 1, 9, &[]).await)?;
    refused("InvalidConfig", create(&absent, 1, 1, &[("retention.ms", "soon")]).await)?;
    let deleted = admin()?.delete_topics(&[&absent], &AdminOptions::new()).await?;
    refused("UnknownTopicOrPartition", deleted.into_iter().next().expect("an answer for the topic"))?;
    let compacted = new_topic("bad-key", 1, &[("cleanup.policy", "compact")]).await?;
    refused("InvalidRecord", produce(&compacted, &values(1), &[]).await)?;
    refused("AutoOffsetReset", read(&topic, 99, 1, &[("auto.offset.reset", "error")]).await)
}

async fn group_commit_resume(settings: &'static [(&'static str, &'static str)]) -> Result<()> {
    let (topic, group) = (new_topic("resume", 1, &[]).await?, unique("group"));
    produce(&topic, &values(10), &[]).await?;
    tokio::task::spawn_blocking(move || {
        let first = consumer(&group, settings)?;
        first.subscribe(&[&topic])?;
        let next = take(&first, 4)?[3].offset() + 1;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(next))?;
        first.commit(&list, CommitMode::Sync)?;
        drop(first);
        let second = consumer(&group, settings)?;
        second.subscribe(&[&topic])?;
        equal(bodies(&take(&second, 6)?), values(10)[4..].to_vec())
    })
    .await?
}

async fn headers_duplicate_keys() -> Result<()> {
    let topic = new_topic("headers", 1, &[]).await?;
    let header = |key, value| Header { key, value: Some(value) };
    let sent = [("k", "1"), ("other", ""), ("k", "2")];
    let headers = sent.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(header(key, *value)));
    let producer: FutureProducer = config(&[]).create()?;
    let record = FutureRecord::<(), str>::to(&topic).payload("v").headers(headers);
    producer.send(record, SECONDS).await.map_err(|(error, _)| error)?;
    let messages = read(&topic, 0, 1, &[]).await?;
    let got = messages[0].headers().map(|headers| {
        let text = |header: Header<'_, &[u8]>| {
            (header.key.to_owned(), String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned())
        };
        headers.iter().map(text).collect::<Vec<_>>()
    });
    equal(got, Some(sent.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()))
}

async fn timestamps_offsets_for_times() -> Result<()> {
    let topic = new_topic("times", 1, &[]).await?;
    let producer: FutureProducer = config(&[]).create()?;
    for time in TIMES_MS {
        let record = FutureRecord::<(), str>::to(&topic).partition(0).payload("v").timestamp(time);
        producer.send(record, SECONDS).await.map_err(|(error, _)| error)?;
    }
    let got: Vec<_> =
        read(&topic, 0, 3, &[]).await?.iter().map(|message| message.timestamp().to_millis()).collect();
    equal(got, TIMES_MS.map(Some).to_vec())?;
    tokio::task::spawn_blocking(move || {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(TIMES_MS[0] + 500))?;
        let found = consumer(&unique("group"), &[])?.offsets_for_times(list, SECONDS)?;
        equal(found.elements()[0].offset(), Offset::Offset(1))
    })
    .await?
}

async fn create_delete_topic() -> Result<()> {
    let topic = new_topic("delete", 3, &[]).await?;
    admin()?.delete_topics(&[&topic], &AdminOptions::new()).await?;
    until("the deleted topic is gone", || async { Ok(partitions(&topic).await? == 0) }).await
}

async fn describe_configs() -> Result<()> {
    let topic = new_topic("configs", 1, &[("retention.ms", "123456")]).await?;
    let answers =
        admin()?.describe_configs([&ResourceSpecifier::Topic(&topic)], &AdminOptions::new()).await?;
    let described = answers
        .into_iter()
        .next()
        .expect("an answer for the topic")
        .map_err(|code| anyhow::anyhow!("{code:?}"))?;
    equal(described.get("retention.ms").and_then(|entry| entry.value.clone()), Some("123456".to_owned()))
}

fn transactional(id: &str) -> Result<BaseProducer> {
    let producer: BaseProducer = config(&[("transactional.id", id)]).create()?;
    producer.init_transactions(SECONDS)?;
    Ok(producer)
}

fn begin(producer: &BaseProducer, topic: &str, value: &str) -> Result<()> {
    producer.begin_transaction()?;
    let record = BaseRecord::<(), str>::to(topic).partition(0).payload(value);
    producer.send(record).map_err(|(error, _)| error)?;
    Ok(producer.flush(SECONDS)?)
}

const COMMITTED: Settings<'static> = &[("isolation.level", "read_committed")];
const UNCOMMITTED: Settings<'static> = &[("isolation.level", "read_uncommitted")];

async fn transactions() -> Result<()> {
    let topic = new_topic("transactions", 1, &[]).await?;
    let to = topic.clone();
    tokio::task::spawn_blocking(move || -> Result<()> {
        let producer = transactional(&unique("txn"))?;
        for value in ["c1", "a1", "c2"] {
            begin(&producer, &to, value)?;
            match value.starts_with('c') {
                true => producer.commit_transaction(SECONDS)?,
                false => producer.abort_transaction(SECONDS)?,
            }
        }
        Ok(())
    })
    .await??;
    equal(bodies(&read(&topic, 0, 2, COMMITTED).await?), ["c1", "c2"].map(str::to_owned).to_vec())?;
    equal(bodies(&read(&topic, 0, 3, UNCOMMITTED).await?), ["c1", "a1", "c2"].map(str::to_owned).to_vec())
}

async fn transactions_fenced() -> Result<()> {
    let topic = new_topic("fenced", 1, &[]).await?;
    let to = topic.clone();
    tokio::task::spawn_blocking(move || -> Result<()> {
        let id = unique("txn");
        let zombie = transactional(&id)?;
        begin(&zombie, &to, "zombie")?;
        let producer = transactional(&id)?;
        begin(&producer, &to, "c1")?;
        refused("fenced", zombie.commit_transaction(SECONDS))?;
        Ok(producer.commit_transaction(SECONDS)?)
    })
    .await??;
    equal(bodies(&read(&topic, 0, 1, COMMITTED).await?), vec!["c1".to_owned()])
}

async fn transaction_offsets_eos() -> Result<()> {
    let (topic, group) = (new_topic("eos", 1, &[]).await?, unique("group"));
    produce(&topic, &values(5), &[]).await?;
    tokio::task::spawn_blocking(move || -> Result<()> {
        let (member, producer) = (consumer(&group, &[])?, transactional(&unique("txn"))?);
        member.subscribe(&[&topic])?;
        take(&member, 5)?;
        let metadata = member.group_metadata().expect("a member has it");
        for offset in [5, 3] {
            producer.begin_transaction()?;
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, 0, Offset::Offset(offset))?;
            producer.send_offsets_to_transaction(&list, &metadata, SECONDS)?;
            match offset {
                5 => producer.commit_transaction(SECONDS)?,
                _ => producer.abort_transaction(SECONDS)?,
            }
        }
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic, 0);
        equal(member.committed_offsets(list, SECONDS)?.elements()[0].offset(), Offset::Offset(5))
    })
    .await?
}

#[tokio::main]
async fn main() {
    let mut checks = Checks::default();
    checks.add("metadata", async { new_topic("metadata", 2, &[]).await.map(drop) });
    checks.add("produce_acks_all", produce_acks("all"));
    checks.add("produce_acks_1", produce_acks("1"));
    checks.add("produce_acks_0", produce_acks("0"));
    checks.add("consume_from_beginning", round_trip("beginning", &[]));
    checks.add("consume_from_to", async {
        let topic = new_topic("from-to", 1, &[]).await?;
        produce(&topic, &values(10), &[]).await?;
        equal(bodies(&read(&topic, 3, 4, &[]).await?), values(10)[3..7].to_vec())
    });
    checks.add("large_message", large_message());
    checks.add("errors_bad_input", errors_bad_input());
    checks.add("group_commit_resume", group_commit_resume(&[]));
    checks.add("compression.gzip", round_trip("gzip", &[("compression.type", "gzip"), ("linger.ms", "50")]));
    checks.add(
        "compression.snappy",
        round_trip("snappy", &[("compression.type", "snappy"), ("linger.ms", "50")]),
    );
    checks.add("compression.lz4", round_trip("lz4", &[("compression.type", "lz4"), ("linger.ms", "50")]));
    checks.add("compression.zstd", round_trip("zstd", &[("compression.type", "zstd"), ("linger.ms", "50")]));
    checks.add("headers_duplicate_keys", headers_duplicate_keys());
    checks.add("timestamps_offsets_for_times", timestamps_offsets_for_times());
    checks.add("create_delete_topic", create_delete_topic());
    checks.add("describe_configs", describe_configs());
    checks.add("idempotent", round_trip("idempotent", &[("enable.idempotence", "true")]));
    checks.add("transactions_commit_abort_read_committed", transactions());
    checks.add("transactions_fenced", transactions_fenced());
    checks.add("transaction_offsets_eos", transaction_offsets_eos());
    checks.add("consumer_protocol", group_commit_resume(&[("group.protocol", "consumer")]));
    let version = format!("0.39.0 (librdkafka {})", rdkafka::util::get_rdkafka_version().1);
    report("rdkafka", &version, checks, &[]).await
}
