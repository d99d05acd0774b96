//! Topics: what each is made of, and the registry of those that there are.
//!
//! A topic is a stream per partition, and an entry in the registry that is made last: no entry, no topic. What a creation that
//! died has left is taken over by the next one.

use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::TopicSpec;
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{self, DiscardPolicy, StorageType};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::sleep;

use crate::link::{CallError, Link, code};
use crate::names;
use crate::trouble::Trouble;

/// How long a stream remembers ids; its default.
pub(crate) const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Kafka's default of `delete.retention.ms`.
const TOMBSTONE_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// NATS keeps no message for less.
const TTL_MIN: Duration = Duration::from_secs(1);

/// Each is a stream of its own, with files, and a Raft group if it is replicated.
const PARTITIONS_MAX: i32 = 10_000;
/// The server takes no more.
const REPLICAS_MAX: usize = 5;
/// How often an entry is written that cannot be written for a moment.
const CREATIONS_TRIED_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);
/// Streams that are created at once.
const CREATIONS_MAX: usize = 8;

/// A topic, as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Topic {
    pub(crate) partitions: i32,
    pub(crate) configs: Vec<(String, String)>,
    /// It is there no more, but for some of its streams.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_deleted: bool,
}

impl Topic {
    pub(crate) fn plan(&self) -> Result<Plan, Trouble> {
        Plan::of(&self.configs).map_err(|what| Trouble::Failed(format!("its entry in the registry: {what}")))
    }
}

/// What a topic's settings come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Keeps the newest record of each key.
    pub(crate) compacted: bool,
    /// How long a record without value is kept in a compacted topic.
    pub(crate) tombstone_ttl: Duration,
    /// Bytes of one message, with its headers.
    pub(crate) message_bytes_max: Option<i32>,
    max_age: Duration,
    max_bytes: Option<i64>,
}

impl Plan {
    /// Of Kafka's settings. Refuses what NATS has nothing for.
    pub(crate) fn of(configs: &[(String, String)]) -> Result<Self, String> {
        let mut plan = Self {
            compacted: false,
            tombstone_ttl: TOMBSTONE_TTL,
            message_bytes_max: None,
            max_age: Duration::ZERO,
            max_bytes: None,
        };
        for (name, value) in configs {
            let refused = |why: &str| format!("{name}={value}: {why}");
            let number = || value.parse::<i64>().map_err(|_| refused("not a number"));
            match (name.as_str(), value.as_str()) {
                ("cleanup.policy", "delete") => plan.compacted = false,
                ("cleanup.policy", "compact") => plan.compacted = true,
                ("cleanup.policy", _) => return Err(refused("NATS has delete and compact, and not both")),
                ("retention.ms", _) => {
                    plan.max_age = match number()? {
                        -1 => Duration::ZERO,
                        100.. => Duration::from_millis(number()?.unsigned_abs()),
                        _ => return Err(refused("-1, or at least 100, which is the least that NATS has")),
                    }
                }
                ("retention.bytes", _) => {
                    plan.max_bytes = match number()? {
                        -1 => None,
                        bytes @ 1.. => Some(bytes),
                        _ => return Err(refused("-1, or at least 1")),
                    }
                }
                ("max.message.bytes", _) => match i32::try_from(number()?) {
                    Ok(bytes @ 1..) => plan.message_bytes_max = Some(bytes),
                    _ => return Err(refused("at least 1, and an int")),
                },
                ("delete.retention.ms", _) => match u64::try_from(number()?) {
                    Ok(ms) => plan.tombstone_ttl = Duration::from_millis(ms).max(TTL_MIN),
                    Err(_) => return Err(refused("at least 0")),
                },
                ("compression.type", "producer") | ("message.timestamp.type", "CreateTime") => {}
                _ => return Err(refused("NATS has nothing like it")),
            }
        }
        if plan.compacted {
            // As in Kafka, these are for topics that forget by age or size.
            (plan.max_age, plan.max_bytes) = (Duration::ZERO, None);
        }
        Ok(plan)
    }

    fn stream(&self, at: &TopicPartition, replicas: usize) -> stream::Config {
        let subject = names::subject(at);
        let subjects = vec![if self.compacted { format!("{subject}.k.*") } else { format!("{subject}.r") }];
        let duplicate_window = match self.max_age {
            Duration::ZERO => DUPLICATE_WINDOW,
            // The server takes no window that is longer than it keeps messages.
            max_age => DUPLICATE_WINDOW.min(max_age),
        };
        stream::Config {
            name: names::stream(at),
            description: Some(format!("partition {} of topic {}", at.partition, at.topic)),
            subjects,
            storage: StorageType::File,
            num_replicas: replicas,
            discard: DiscardPolicy::Old,
            max_bytes: self.max_bytes.unwrap_or(-1),
            max_messages: -1,
            max_consumers: -1,
            max_messages_per_subject: if self.compacted { 1 } else { -1 },
            max_age: self.max_age,
            max_message_size: self.message_bytes_max.unwrap_or(-1),
            duplicate_window,
            allow_direct: true,
            allow_message_ttl: self.compacted,
            allow_atomic_publish: true,
            ..stream::Config::default()
        }
    }
}

/// What holds of a topic where nothing is set.
pub(crate) fn defaults() -> impl Iterator<Item = (&'static str, String)> {
    [
        ("cleanup.policy", "delete".to_owned()),
        ("compression.type", "producer".to_owned()),
        ("delete.retention.ms", TOMBSTONE_TTL.as_millis().to_string()),
        ("message.timestamp.type", "CreateTime".to_owned()),
        ("retention.bytes", "-1".to_owned()),
        ("retention.ms", "-1".to_owned()),
    ]
    .into_iter()
}

fn is_known(config: &str) -> bool {
    config == "max.message.bytes" || defaults().any(|(name, _)| name == config)
}

/// The registry.
#[derive(Debug, Clone)]
pub(crate) struct Topics {
    link: Link,
    replicas: usize,
}

impl Topics {
    pub(crate) fn new(link: Link, replicas: usize) -> Self {
        Self { link, replicas }
    }

    /// The topic; `None` when there is none.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Topic>, Trouble> {
        if !names::is_topic(name) {
            return Ok(None);
        }
        Ok(self.entry(name).await?.0.filter(|topic| !topic.is_deleted))
    }

    /// The names of all topics.
    pub(crate) async fn names(&self) -> Result<Vec<String>, Trouble> {
        let keys = self.link.keys(names::TOPICS_BUCKET, "topic.*").await?.keys;
        let mut names: Vec<_> =
            keys.iter().filter_map(|key| key.strip_prefix("topic.").map(names::topic)).collect();
        names.sort();
        Ok(names)
    }

    /// Writes the entry of a topic over that of a revision.
    async fn put(&self, name: &str, topic: &Topic, over: u64) -> Result<(), Trouble> {
        let value = serde_json::to_vec(topic).expect("an entry is a plain value");
        let put = self.link.put_over(names::TOPICS_BUCKET, &names::topic_key(name), value.into(), over).await;
        match put.map_err(|error| Trouble::from(error).of_a_change())? {
            Some(_) => Ok(()),
            None => Err(Trouble::Refused("somebody else has changed the topic meanwhile".to_owned())),
        }
    }

    /// The topic as it is, to be changed, and the revision of its entry.
    async fn to_change(&self, name: &str) -> Result<(Topic, u64), Trouble> {
        if !names::is_topic(name) {
            return Err(Trouble::NotFound);
        }
        match self.entry(name).await? {
            (Some(topic), revision) if !topic.is_deleted => Ok((topic, revision)),
            _ => Err(Trouble::NotFound),
        }
    }

    /// How many replicas the topic was created with.
    async fn replicas_of(&self, name: &str) -> Result<usize, Trouble> {
        let stream = names::stream(&TopicPartition::new(name, 0));
        let info: stream::Info = self.link.api(&format!("STREAM.INFO.{stream}"), &json!({})).await?;
        Ok(info.config.num_replicas)
    }

    /// Changes settings: those of the streams first, so that a change that died is done again.
    pub(crate) async fn set_configs(
        &self,
        name: &str,
        changes: &[(String, Option<String>)],
    ) -> Result<(), Trouble> {
        let (mut topic, over) = self.to_change(name).await?;
        let before = topic.plan()?;
        for (config, value) in changes {
            topic.configs.retain(|(there, _)| there != config);
            match value {
                Some(value) => topic.configs.push((config.clone(), value.clone())),
                None if is_known(config) => {}
                None => return Err(Trouble::Refused(format!("{config}: NATS has nothing like it"))),
            }
        }
        let plan =
            topic.plan().map_err(|_| Trouble::Refused(Plan::of(&topic.configs).err().unwrap_or_default()))?;
        if plan.compacted != before.compacted {
            let why = "cleanup.policy: the subjects of a topic's records depend on it, so it stays as it was";
            return Err(Trouble::Refused(why.to_owned()));
        }
        let replicas = self.replicas_of(name).await?;
        let updates = (0..topic.partitions).map(|partition| {
            let config = plan.stream(&TopicPartition::new(name, partition), replicas);
            async move {
                let subject = format!("STREAM.UPDATE.{}", config.name);
                let updated = self.link.api::<stream::Info>(&subject, &config).await;
                updated.map(drop).map_err(|error| Trouble::from(error).of_a_change())
            }
        });
        futures::stream::iter(updates).buffer_unordered(CREATIONS_MAX).try_collect::<()>().await?;
        self.put(name, &topic, over).await
    }

    /// Adds partitions, so that there are `total`.
    pub(crate) async fn grow(&self, name: &str, total: i32) -> Result<(), Trouble> {
        let (mut topic, over) = self.to_change(name).await?;
        if !(topic.partitions + 1..=PARTITIONS_MAX).contains(&total) {
            let why = format!("it has {} partitions, and can have {PARTITIONS_MAX}", topic.partitions);
            return Err(Trouble::Refused(why));
        }
        self.create_streams(name, &topic.plan()?, topic.partitions..total, self.replicas_of(name).await?)
            .await?;
        topic.partitions = total;
        self.put(name, &topic, over).await
    }

    /// From now on there is no such topic. What is left of it then is for [`Self::finish_deletion`].
    pub(crate) async fn mark_deleted(&self, name: &str) -> Result<(), Trouble> {
        let (topic, over) = self.to_change(name).await?;
        self.put(name, &Topic { is_deleted: true, ..topic }, over).await
    }

    /// Deletes the streams of a topic that is marked, and its entry.
    pub(crate) async fn finish_deletion(&self, name: &str) -> Result<(), Trouble> {
        let (Some(topic), _) = self.entry(name).await? else { return Ok(()) };
        if !topic.is_deleted {
            return Ok(());
        }
        let deletions = (0..topic.partitions).map(|partition| async move {
            let subject = format!("STREAM.DELETE.{}", names::stream(&TopicPartition::new(name, partition)));
            match self.link.api::<serde_json::Value>(&subject, &json!({})).await {
                Ok(_) | Err(CallError::Api { code: code::STREAM_NOT_FOUND, .. }) => Ok(()),
                Err(error) => Err(Trouble::from(error).of_a_change()),
            }
        });
        futures::stream::iter(deletions).buffer_unordered(CREATIONS_MAX).try_collect::<()>().await?;
        let forgotten = self.link.forget(names::TOPICS_BUCKET, &names::topic_key(name)).await;
        forgotten.map_err(|error| Trouble::from(error).of_a_change())
    }

    async fn create_streams(
        &self,
        name: &str,
        plan: &Plan,
        partitions: std::ops::Range<i32>,
        replicas: usize,
    ) -> Result<(), Trouble> {
        let streams = partitions.map(|partition| {
            self.create_stream(plan.stream(&TopicPartition::new(name, partition), replicas))
        });
        futures::stream::iter(streams).buffer_unordered(CREATIONS_MAX).try_collect().await
    }

    /// The topic, and the revision of its entry.
    async fn entry(&self, name: &str) -> Result<(Option<Topic>, u64), Trouble> {
        let entry = self.link.entry(names::TOPICS_BUCKET, &names::topic_key(name)).await?;
        let topic = entry.value.map(|value| serde_json::from_slice(&value)).transpose();
        let topic = topic
            .map_err(|error| Trouble::Failed(format!("its entry in the registry is damaged: {error}")))?;
        Ok((topic, entry.revision))
    }

    /// What the partition's topic was created with.
    pub(crate) async fn plan(&self, at: &TopicPartition) -> Result<Plan, Trouble> {
        match self.find(&at.topic).await? {
            Some(topic) if (0..topic.partitions).contains(&at.partition) => topic.plan(),
            _ => Err(Trouble::NotFound),
        }
    }

    /// Creates the topic; gives what is there if somebody was faster.
    pub(crate) async fn create(&self, spec: &TopicSpec) -> Result<Option<Topic>, Trouble> {
        if !names::is_topic(&spec.name) {
            return Err(Trouble::Refused(format!(
                "a topic's name has 1 to {} letters, digits, dots, underscores and hyphens",
                names::TOPIC_BYTES_MAX
            )));
        }
        if !(1..=PARTITIONS_MAX).contains(&spec.partitions) {
            return Err(Trouble::Refused(format!("a topic has 1 to {PARTITIONS_MAX} partitions")));
        }
        let plan = Plan::of(&spec.configs).map_err(Trouble::Refused)?;
        let replicas = match spec.replicas.map(usize::try_from) {
            None => self.replicas,
            Some(Ok(replicas @ 1..=REPLICAS_MAX)) => replicas,
            Some(_) => return Err(Trouble::Refused(format!("a stream has 1 to {REPLICAS_MAX} replicas"))),
        };
        // What a deletion that died has left.
        self.finish_deletion(&spec.name).await?;
        self.create_streams(&spec.name, &plan, 0..spec.partitions, replicas).await?;
        let topic = Topic { partitions: spec.partitions, configs: spec.configs.clone(), is_deleted: false };
        let entry = serde_json::to_vec(&topic).expect("an entry is a plain value");
        let key = names::topic_key(&spec.name);
        let mut tries = 0;
        loop {
            // Whoever was faster, or deleted it by hand.
            let (there, over) = self.entry(&spec.name).await?;
            match there {
                None => {}
                Some(topic) if topic.is_deleted => {
                    return Err(Trouble::Refused("somebody is deleting a topic of this name".to_owned()));
                }
                Some(topic) => return Ok(Some(topic)),
            }
            let put = self.link.put_over(names::TOPICS_BUCKET, &key, entry.clone().into(), over);
            match put.await {
                Ok(Some(_)) => return Ok(None),
                Ok(None) => {}
                Err(error) if error.is_passing() && tries < CREATIONS_TRIED_MAX => sleep(PAUSE).await,
                Err(error) => return Err(Trouble::from(error).of_a_change()),
            }
            tries += 1;
        }
    }

    /// Creates a stream unless it is there as it should be.
    async fn create_stream(&self, config: stream::Config) -> Result<(), Trouble> {
        let create = |kind: &str| {
            let subject = format!("STREAM.{kind}.{}", config.name);
            let (link, config) = (self.link.clone(), config.clone());
            async move { link.api::<stream::Info>(&subject, &config).await }
        };
        let mut created = create("CREATE").await;
        if matches!(created, Err(CallError::Api { code: code::STREAM_NAME_EXIST, .. })) {
            // Left by a creation that died. Somebody may want it otherwise now, as long as it is empty.
            let bounds = self.link.bounds(&config.name).await?;
            if bounds.first <= bounds.last {
                let why = format!("the stream {} is there, and belongs to no topic", config.name);
                return Err(Trouble::Refused(why));
            }
            created = create("UPDATE").await;
        }
        created.map(drop).map_err(|error| Trouble::from(error).of_a_change())
    }
}

/// A bucket that keeps so many of the newest entries of each key.
pub(crate) fn bucket(name: &str, replicas: usize, history: i64) -> kv::Config {
    kv::Config {
        bucket: name.to_owned(),
        history,
        storage: StorageType::File,
        num_replicas: replicas,
        ..kv::Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(configs: &[(&str, &str)]) -> Result<Plan, String> {
        let configs: Vec<_> =
            configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Plan::of(&configs)
    }

    #[test]
    fn settings_become_those_of_a_stream() {
        let at = TopicPartition::new("t", 0);
        let kept = plan(&[("retention.ms", "60000"), ("retention.bytes", "5"), ("max.message.bytes", "7")]);
        let stream = kept.unwrap().stream(&at, 3);
        assert_eq!(
            (stream.max_age, stream.duplicate_window),
            (Duration::from_secs(60), Duration::from_secs(60))
        );
        assert_eq!((stream.max_bytes, stream.max_message_size, stream.num_replicas), (5, 7, 3));
        assert_eq!((stream.subjects, stream.max_messages_per_subject), (vec!["ab.t.0.r".to_owned()], -1));

        let compacted =
            plan(&[("cleanup.policy", "compact"), ("delete.retention.ms", "0"), ("retention.ms", "60000")]);
        let compacted = compacted.unwrap();
        assert_eq!(compacted.tombstone_ttl, TTL_MIN);
        let stream = compacted.stream(&at, 1);
        assert_eq!((stream.subjects, stream.max_messages_per_subject), (vec!["ab.t.0.k.*".to_owned()], 1));
        assert_eq!((stream.max_age, stream.duplicate_window), (Duration::ZERO, DUPLICATE_WINDOW));
    }

    #[test]
    fn what_nats_has_not_is_refused() {
        let refused = [
            ("cleanup.policy", "compact,delete"),
            ("retention.ms", "5"),
            ("retention.ms", "soon"),
            ("retention.bytes", "0"),
            ("max.message.bytes", "0"),
            ("delete.retention.ms", "-1"),
            ("compression.type", "zstd"),
            ("message.timestamp.type", "LogAppendTime"),
            ("segment.bytes", "1000"),
        ];
        for (name, value) in refused {
            let told = plan(&[(name, value)]).unwrap_err();
            assert!(told.starts_with(&format!("{name}={value}: ")), "{told}");
        }
    }
}
