//! The cluster as its operators see it.

use anabranch_core::TopicPartition;
use anabranch_core::engine::{
    Admin, EngineError, GroupInfo, GroupPositions, PartitionInfo, Position, TopicConfig, TopicInfo,
};
use async_trait::async_trait;
use rdkafka::admin::{AdminOptions, ConfigSource, NewPartitions, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

use crate::engine::{ASK_AGAIN, Cluster, KafkaEngine, blocking};
use crate::error::{blame, failed, judge};
use crate::native::admin::{self, Refusal};
use crate::watch::Watch;

#[async_trait]
impl Admin for KafkaEngine {
    async fn topics(&self) -> Result<Vec<TopicInfo>, EngineError> {
        let mut topics = self.0.topics_of(None).await?;
        topics.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(topics)
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo, EngineError> {
        let mut topics = self.0.topics_of(Some(name)).await?;
        topics.pop().ok_or_else(|| EngineError::NotFound(TopicPartition::new(name, 0)))
    }

    async fn topic_configs(&self, topic: &str) -> Result<Vec<TopicConfig>, EngineError> {
        let at = TopicPartition::new(topic, 0);
        // Of a topic that is not there the cluster tells no settings, and no error.
        self.0.look_up(topic).await?;
        let asked = [ResourceSpecifier::Topic(topic)];
        let answers = self.0.admin.describe_configs(&asked, &self.0.options()).await;
        let answer = answers.map_err(|error| blame(&at, &error))?.pop();
        let found = answer.ok_or_else(|| failed("the answer tells of no topic"))?;
        let found = found.map_err(|code| blame(&at, &KafkaError::AdminOp(code)))?;
        let mut configs: Vec<_> = found
            .entries
            .into_iter()
            .map(|entry| TopicConfig {
                is_own: entry.source == ConfigSource::DynamicTopic,
                name: entry.name,
                value: entry.value,
            })
            .collect();
        configs.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(configs)
    }

    async fn set_topic_configs(
        &self,
        topic: &str,
        changes: &[(String, Option<String>)],
    ) -> Result<(), EngineError> {
        let (asked, changes) = (topic.to_owned(), changes.to_vec());
        let change = move |client: &_, patience| admin::set_topic_configs(client, &asked, &changes, patience);
        self.0.administer(topic, change).await
    }

    async fn add_partitions(&self, topic: &str, total: i32) -> Result<(), EngineError> {
        let at = TopicPartition::new(topic, 0);
        let Some(asked) = usize::try_from(total).ok().filter(|total| *total > 0) else {
            let reason = format!("{total} partitions are none");
            return Err(EngineError::Refused { topic: topic.to_owned(), reason });
        };
        let asked = NewPartitions::new(topic, asked);
        let answers = self.0.admin.create_partitions([&asked], &self.0.options()).await;
        only(&at, answers)?;
        self.0.await_topic(topic, total, true).await
    }

    async fn delete_topic(&self, name: &str) -> Result<(), EngineError> {
        let at = TopicPartition::new(name, 0);
        let answers = self.0.admin.delete_topics(&[name], &self.0.options()).await;
        only(&at, answers)?;
        // The brokers hear of it one after the other.
        self.0.forget(name);
        let until = Instant::now() + self.0.settings.request_max();
        while Instant::now() < until && self.0.look_up(name).await.is_ok() {
            self.0.forget(name);
            sleep(ASK_AGAIN).await;
        }
        Ok(())
    }

    async fn groups(&self) -> Result<Vec<GroupInfo>, EngineError> {
        self.0.administer("the groups", |client, patience| admin::groups(client, None, patience)).await
    }

    async fn group(&self, name: &str) -> Result<Option<GroupInfo>, EngineError> {
        let asked = name.to_owned();
        let ask = move |client: &_, patience| admin::groups(client, Some(vec![asked.clone()]), patience);
        Ok(self.0.administer(name, ask).await?.pop())
    }

    async fn group_positions(&self, group: &str) -> Result<Vec<(TopicPartition, Position)>, EngineError> {
        let asked = group.to_owned();
        let ask = move |client: &_, patience| admin::group_positions(client, &asked, patience);
        self.0.administer(group, ask).await
    }

    async fn set_group_positions(&self, to: &GroupPositions) -> Result<(), EngineError> {
        if to.positions.is_empty() {
            return Ok(());
        }
        let asked = to.clone();
        let change = move |client: &_, patience| {
            admin::set_group_positions(client, &asked.group, &asked.positions, patience)
        };
        self.0.administer(&to.group, change).await
    }

    async fn delete_group(&self, name: &str) -> Result<(), EngineError> {
        let at = TopicPartition::new(name, 0);
        let answers = self.0.admin.delete_groups(&[name], &self.0.options()).await;
        only(&at, answers)
    }
}

impl Cluster {
    pub(crate) fn options(&self) -> AdminOptions {
        let patience = Some(self.settings.request_max());
        AdminOptions::new().request_timeout(patience).operation_timeout(patience)
    }

    /// All topics, or one.
    async fn topics_of(&self, name: Option<&str>) -> Result<Vec<TopicInfo>, EngineError> {
        let at = TopicPartition::new(name.unwrap_or("the topics"), 0);
        let name = name.map(str::to_owned);
        let found = self.ask(&at, move |client, _, patience| {
            let metadata = client.fetch_metadata(name.as_deref(), patience)?;
            let topics = metadata.topics().iter();
            topics
                .filter(|topic| name.as_deref().is_none_or(|name| name == topic.name()))
                .map(|topic| match topic.error() {
                    Some(error) => Err(KafkaError::MetadataFetch(error.into())),
                    None => Ok(topic_info(topic)),
                })
                .collect::<Result<Vec<_>, _>>()
        });
        found.await
    }

    /// Asks again while the coordinator is on its way to another broker.
    async fn administer<R: Send + 'static>(
        &self,
        about: &str,
        ask: impl Fn(&BaseConsumer<Watch>, Duration) -> Result<R, Refusal> + Send + Sync + 'static,
    ) -> Result<R, EngineError> {
        let (patience, ask) = (self.settings.request_max(), Arc::new(ask));
        let until = Instant::now() + patience;
        loop {
            self.check_open()?;
            let (client, asked) = (Arc::clone(&self.client), Arc::clone(&ask));
            let Refusal { code, text } = match blocking(move || asked(&client, patience)).await? {
                Ok(answer) => return Ok(answer),
                Err(refusal) => refusal,
            };
            let is_passing = matches!(
                code,
                RDKafkaErrorCode::NotCoordinator
                    | RDKafkaErrorCode::CoordinatorLoadInProgress
                    | RDKafkaErrorCode::CoordinatorNotAvailable
            );
            if !is_passing || Instant::now() >= until {
                return Err(judge(&TopicPartition::new(about, 0), code, text));
            }
            sleep(ASK_AGAIN).await;
        }
    }
}

/// What came of a request about one thing.
fn only(
    at: &TopicPartition,
    answers: KafkaResult<Vec<Result<String, (String, RDKafkaErrorCode)>>>,
) -> Result<(), EngineError> {
    match answers.map_err(|error| blame(at, &error))?.pop() {
        Some(Ok(_)) => Ok(()),
        Some(Err((_, code))) => Err(blame(at, &KafkaError::AdminOp(code))),
        None => Err(failed("the answer tells of nothing")),
    }
}

fn topic_info(topic: &MetadataTopic) -> TopicInfo {
    let nodes = |ids: &[i32]| ids.iter().map(ToString::to_string).collect();
    let mut partitions: Vec<_> = topic.partitions().iter().collect();
    partitions.sort_by_key(|partition| partition.id());
    let partition = |found: &rdkafka::metadata::MetadataPartition| PartitionInfo {
        leader: (found.leader() >= 0).then(|| found.leader().to_string()),
        replicas: nodes(found.replicas()),
        in_sync: nodes(found.isr()),
    };
    TopicInfo {
        name: topic.name().to_owned(),
        // librdkafka does not tell; it is how Kafka names its own.
        is_internal: topic.name().starts_with("__"),
        partitions: partitions.into_iter().map(partition).collect(),
    }
}
