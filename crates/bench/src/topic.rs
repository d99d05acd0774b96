//! Topics to measure with.

use std::time::{Duration, Instant};

use anabranch_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use anabranch_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use anabranch_wire::messages::list_offsets_response::ListOffsetsPartitionResponse;
use anabranch_wire::messages::{
    ApiKey, BrokerId, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    ListOffsetsRequest, ListOffsetsResponse, TopicName,
};
use anabranch_wire::protocol::StrBytes;
use anyhow::{bail, ensure};
use serde::Serialize;

use crate::request::{Acks, Codec, Connection, ProduceFrame, batch, check_produced};

/// A topic that is not led by then is not going to be.
const LED_MAX: Duration = Duration::from_secs(60);

/// Between two looks.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    /// A setting of the topic, KEY=VALUE
    #[arg(long)]
    config: Vec<String>,
    /// Write a record to each partition, acknowledged: at the first one a server makes files, and syncs them
    #[arg(long)]
    touch: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
}

/// What was done.
#[derive(Debug, Serialize)]
pub(crate) struct Done {
    milliseconds: f64,
}

pub(crate) fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

pub(crate) fn create(options: &Create) -> anyhow::Result<Done> {
    let start = Instant::now();
    let mut connection = Connection::open(&options.bootstrap)?;
    let mut topic = CreatableTopic::default()
        .with_name(name(&options.topic))
        .with_num_partitions(i32::try_from(options.partitions)?)
        .with_replication_factor(1);
    for config in &options.config {
        let Some((key, value)) = config.split_once('=') else { bail!("{config:?} is not KEY=VALUE") };
        let config = CreatableTopicConfig::default().with_name(StrBytes::from_string(key.to_owned()));
        topic.configs.push(config.with_value(Some(StrBytes::from_string(value.to_owned()))));
    }
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(60_000);
    connection.send(ApiKey::CreateTopics, 5, &request)?;
    let answer: CreateTopicsResponse = connection.receive(5)?;
    for topic in &answer.topics {
        let said = topic.error_message.as_deref().unwrap_or_default();
        ensure!(topic.error_code == 0, "creating {}: error code {} {said}", options.topic, topic.error_code);
    }
    wait_until_led(&mut connection, options)?;
    if options.touch {
        touch(&mut connection, options)?;
    }
    Ok(Done { milliseconds: start.elapsed().as_secs_f64() * 1e3 })
}

/// Kafka answers before the partitions are led, and names their leader before it leads: they are there when the leader
/// says where they begin.
fn wait_until_led(connection: &mut Connection, options: &Create) -> anyhow::Result<()> {
    let deadline = Instant::now() + LED_MAX;
    loop {
        let answered = list_offsets(connection, &options.topic, options.partitions)?;
        let led = answered.iter().filter(|partition| partition.error_code == 0).count();
        if led == options.partitions as usize {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "only {led} of {} partitions are led", options.partitions);
        std::thread::sleep(ASK_INTERVAL);
    }
}

fn touch(connection: &mut Connection, options: &Create) -> anyhow::Result<()> {
    const BATCHES_MAX: u32 = 100;
    let batch = batch(1, 1, Codec::None)?;
    for first in (0..options.partitions).step_by(BATCHES_MAX as usize) {
        let batches = (options.partitions - first).min(BATCHES_MAX) as usize;
        let mut frame = ProduceFrame::new(&options.topic, Acks::All, &batch, batches)?;
        frame.patch(0, first, options.partitions);
        connection.send_frame(frame.bytes())?;
        check_produced(connection.receive_frame()?, batches)?;
    }
    Ok(())
}

/// Where each partition ends.
pub(crate) fn list_offsets(
    connection: &mut Connection,
    topic: &str,
    partitions: u32,
) -> anyhow::Result<Vec<ListOffsetsPartitionResponse>> {
    const VERSION: i16 = 5;
    const LATEST: i64 = -1;
    let latest = |index: u32| {
        ListOffsetsPartition::default().with_partition_index(index as i32).with_timestamp(LATEST)
    };
    let topic = ListOffsetsTopic::default()
        .with_name(name(topic))
        .with_partitions((0..partitions).map(latest).collect());
    let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
    connection.send(ApiKey::ListOffsets, VERSION, &request)?;
    let answer: ListOffsetsResponse = connection.receive(VERSION)?;
    Ok(answer.topics.into_iter().flat_map(|topic| topic.partitions).collect())
}

pub(crate) fn delete(options: &Delete) -> anyhow::Result<Done> {
    let start = Instant::now();
    let mut connection = Connection::open(&options.bootstrap)?;
    let request =
        DeleteTopicsRequest::default().with_topic_names(vec![name(&options.topic)]).with_timeout_ms(60_000);
    connection.send(ApiKey::DeleteTopics, 5, &request)?;
    let answer: DeleteTopicsResponse = connection.receive(5)?;
    for topic in &answer.responses {
        ensure!(topic.error_code == 0, "deleting {}: error code {}", options.topic, topic.error_code);
    }
    Ok(Done { milliseconds: start.elapsed().as_secs_f64() * 1e3 })
}
