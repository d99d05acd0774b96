//! Topics to measure with.

use std::time::{Duration, Instant};

use anabranch_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use anabranch_wire::messages::metadata_request::MetadataRequestTopic;
use anabranch_wire::messages::{
    ApiKey, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    MetadataRequest, MetadataResponse, TopicName,
};
use anabranch_wire::protocol::StrBytes;
use anyhow::{bail, ensure};
use serde::Serialize;

use crate::request::Connection;

/// A topic that is not led by then is not going to be.
const LED_MAX: Duration = Duration::from_secs(60);

/// Between two looks at the metadata.
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

fn name(topic: &str) -> TopicName {
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
    Ok(Done { milliseconds: start.elapsed().as_secs_f64() * 1e3 })
}

/// Kafka answers before the partitions have a leader.
fn wait_until_led(connection: &mut Connection, options: &Create) -> anyhow::Result<()> {
    let deadline = Instant::now() + LED_MAX;
    let topic = MetadataRequestTopic::default().with_name(Some(name(&options.topic)));
    let request = MetadataRequest::default().with_topics(Some(vec![topic]));
    loop {
        connection.send(ApiKey::Metadata, 8, &request)?;
        let answer: MetadataResponse = connection.receive(8)?;
        let led = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let led = led.filter(|partition| partition.error_code == 0 && partition.leader_id.0 >= 0).count();
        if led == options.partitions as usize {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "only {led} of {} partitions are led", options.partitions);
        std::thread::sleep(ASK_INTERVAL);
    }
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
