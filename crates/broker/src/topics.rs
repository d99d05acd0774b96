//! Creating, changing and deleting topics: one change at a time, durable before it is visible.
//!
//! * Creating: the partitions' directories, then the catalogue's record, then the snapshot. A crash before the record
//!   leaves empty directories, which the next start removes.
//! * Deleting: the catalogue's tombstone, then the snapshot, then the directories. A crash after the tombstone leaves
//!   directories that the next start removes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use anabranch_core::TopicId;
use anabranch_core::batch::Record;
use anabranch_log::{Absent, PartitionLog};
use tokio::sync::{Mutex, MutexGuard};

use crate::broker::{Broker, NODE_ID, Shared};
use crate::catalogue::{CATALOGUE_TOPIC, Catalogue, Key, Topic, TopicRecord};
use crate::config::topic::{TopicConfigs, TopicRules, apply};
use crate::config::{Apply, ConfigOp};
use crate::error::TopicError;
use crate::names::{check_topic_name, collide};
use crate::partition::Partition;
use crate::tasks::{blocking, to_the_end};

/// Names that are the broker's own, or will be: a topic that is in the way then would have to be moved.
const RESERVED: &[&str] = &[CATALOGUE_TOPIC, "__cluster_metadata", "__share_group_state"];

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name, by Kafka's rules.
    pub name: String,
    /// How many partitions; -1 for `num.partitions`, or as many as are assigned.
    pub partitions: i32,
    /// -1 or 1.
    pub replication_factor: i16,
    /// Partitions and the nodes that hold them; empty to leave it to the broker.
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// Settings other than the defaults.
    pub configs: Vec<(String, String)>,
}

impl NewTopic {
    /// A topic with everything left to the broker.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            partitions: -1,
            replication_factor: -1,
            assignments: Vec::new(),
            configs: Vec::new(),
        }
    }

    /// The same with so many partitions.
    #[must_use]
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = partitions;
        self
    }

    /// The same with one more setting.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.push((name.into(), value.into()));
        self
    }
}

/// Who may change the catalogue: one at a time.
#[derive(Debug)]
pub(crate) struct TopicWriter {
    /// Held for the whole of a change, so that changes happen one after the other.
    state: Mutex<WriterState>,
}

#[derive(Debug)]
struct WriterState {
    /// Names of which something is in the way: a directory that nobody knows, or offsets that could not be deleted.
    refused: BTreeSet<String>,
    closed: bool,
}

impl TopicWriter {
    pub(crate) fn new(refused: BTreeSet<String>) -> Self {
        Self { state: Mutex::new(WriterState { refused, closed: false }) }
    }

    /// Waits for the change that is under way, and lets no other begin.
    pub(crate) async fn close(&self) {
        self.state.lock().await.closed = true;
    }

    /// The turn of somebody else who changes the catalogue; it ends when this is dropped.
    pub(crate) async fn turn(&self) -> Result<impl Sized + '_, TopicError> {
        self.begin().await
    }

    async fn begin(&self) -> Result<MutexGuard<'_, WriterState>, TopicError> {
        let state = self.state.lock().await;
        match state.closed {
            true => Err(TopicError::Closed),
            false => Ok(state),
        }
    }
}

impl Broker {
    /// Creates a topic; it is durable when this returns. Dropping the future does not take it back. With
    /// [`Apply::ValidateOnly`] the answer is the topic as it would be, without an id and without logs.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn create_topic(&self, new: NewTopic, mode: Apply) -> Result<Arc<Topic>, TopicError> {
        let broker = self.clone();
        to_the_end(async move { broker.0.create(&new, mode).await }).await.ok_or(TopicError::Closed)?
    }

    /// Deletes a topic and the offsets that groups have in it; the answer is what was deleted.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn delete_topic(&self, name: &str) -> Result<Arc<Topic>, TopicError> {
        let (broker, name) = (self.clone(), name.to_owned());
        to_the_end(async move { broker.0.delete(&name).await }).await.ok_or(TopicError::Closed)?
    }

    /// Adds partitions, so that there are `total`.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn create_partitions(
        &self,
        name: &str,
        total: i32,
        mode: Apply,
    ) -> Result<Arc<Topic>, TopicError> {
        let (broker, name) = (self.clone(), name.to_owned());
        to_the_end(async move { broker.0.grow(&name, total, mode).await }).await.ok_or(TopicError::Closed)?
    }

    /// Changes a topic's settings, all or none of `ops`.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn alter_topic_configs(
        &self,
        name: &str,
        ops: &[ConfigOp],
        mode: Apply,
    ) -> Result<(), TopicError> {
        let (broker, name, ops) = (self.clone(), name.to_owned(), ops.to_vec());
        to_the_end(async move { broker.0.alter(&name, &ops, mode).await }).await.ok_or(TopicError::Closed)?
    }

    /// The topic of that name, or whether there could be one.
    ///
    /// # Errors
    /// [`TopicError::InvalidName`] and [`TopicError::Unknown`].
    pub fn topic_or_why(&self, name: &str) -> Result<Arc<Topic>, TopicError> {
        self.topic(name).or_else(|error| check_topic_name(name).and(Err(error)))
    }

    /// The topic that a client asks for by name, created if there is none and `auto.create.topics.enable` and the client
    /// allow it.
    ///
    /// # Errors
    /// [`TopicError::Unknown`] when it is not there and may not be created, or why it could not be.
    pub async fn topic_for_produce_or_metadata(
        &self,
        name: &str,
        allow_auto_create: bool,
    ) -> Result<Arc<Topic>, TopicError> {
        if let Ok(topic) = self.topic(name) {
            return Ok(topic);
        }
        check_topic_name(name)?;
        if !allow_auto_create || !self.0.config.flag("auto.create.topics.enable") {
            return Err(TopicError::Unknown(name.to_owned()));
        }
        match self.create_topic(NewTopic::new(name), Apply::Now).await {
            // Somebody else was first.
            Err(TopicError::Exists(_)) => self.topic(name),
            other => other,
        }
    }
}

impl Shared {
    async fn create(self: &Arc<Self>, new: &NewTopic, mode: Apply) -> Result<Arc<Topic>, TopicError> {
        let state = self.writer.begin().await?;
        if self.moves.redirecting().is_some() {
            // Clients are sent on, and would not find it.
            return Err(TopicError::Elsewhere);
        }
        let (count, configs) = self.check_new(new)?;
        if state.refused.contains(&new.name) {
            return Err(TopicError::Storage(format!(
                "something remains of a topic {:?} that the catalogue does not know: start again, and if there is a directory \
                 of it still, move it away before",
                new.name
            )));
        }
        let mut topic = Topic {
            name: new.name.clone(),
            id: TopicId::default(),
            internal: false,
            partition_count: count,
            partitions: Vec::new(),
            configs,
            keyless: AtomicU32::default(),
        };
        if mode == Apply::ValidateOnly {
            return Ok(Arc::new(topic));
        }
        topic.id = TopicId(self.random.uuid());
        let created = self.create_durably(&mut topic).await;
        if let Err(error) = created {
            // Nobody knows the directories; if they cannot be removed now, the next start does it. After a failed sync the
            // catalogue may know them: the next start will see.
            if !self.journal.is_online() {
                self.close_partitions(&topic.partitions).await;
            } else if let Err(remains) = self.remove(&topic).await {
                tracing::warn!(topic = topic.name, %remains, "the directory of a topic that was not created remains");
            }
            return Err(error);
        }
        Ok(self.publish(topic))
    }

    async fn create_durably(self: &Arc<Self>, topic: &mut Topic) -> Result<(), TopicError> {
        topic.partitions = self.open_partitions(topic, 0).await?;
        self.write(Key::Topic(topic.name.clone()).record(&TopicRecord::of(topic))).await
    }

    async fn delete(self: &Arc<Self>, name: &str) -> Result<Arc<Topic>, TopicError> {
        let mut state = self.writer.begin().await?;
        let topic = self.own_topic(name)?;
        self.write(Record::tombstone(Key::Topic(name.to_owned()).bytes())).await?;
        self.swap(|catalogue| catalogue.without(name));
        self.topic_deleted(name);
        if !self.groups.topic_deleted(name).await {
            // In a new topic of that name they would be the offsets of other records.
            state.refused.insert(name.to_owned());
        }
        if let Err(remains) = self.remove(&topic).await {
            tracing::warn!(topic = name, %remains, "the directory of a deleted topic remains until the next start");
            state.refused.insert(name.to_owned());
        }
        Ok(topic)
    }

    async fn grow(self: &Arc<Self>, name: &str, total: i32, mode: Apply) -> Result<Arc<Topic>, TopicError> {
        let _state = self.writer.begin().await?;
        let old = self.own_topic(name)?;
        if total <= old.partition_count {
            return Err(TopicError::InvalidPartitions(format!(
                "topic {name:?} has {} partitions; {total} would not be an increase",
                old.partition_count
            )));
        }
        self.check_partition_count(total)?;
        if let Some(target) = self.moved_to(&old) {
            // What is appended to a new partition here would be nowhere there.
            return Err(TopicError::Moved { name: name.to_owned(), target });
        }
        let mut topic = Topic { partition_count: total, partitions: Vec::new(), ..copy(&old) };
        if mode == Apply::ValidateOnly {
            return Ok(Arc::new(topic));
        }
        let added = self.open_partitions(&topic, old.partition_count).await?;
        topic.partitions = old.partitions.iter().chain(&added).cloned().collect();
        if let Err(error) = self.write(Key::Topic(name.to_owned()).record(&TopicRecord::of(&topic))).await {
            self.close_partitions(&added).await;
            return Err(error);
        }
        Ok(self.publish(topic))
    }

    async fn alter(self: &Arc<Self>, name: &str, ops: &[ConfigOp], mode: Apply) -> Result<(), TopicError> {
        let _state = self.writer.begin().await?;
        let old = self.catalogue.read().get(name).cloned();
        let Some(old) = old else {
            check_topic_name(name)?;
            return Err(TopicError::Unknown(name.to_owned()));
        };
        let topic = Topic { configs: apply(&old.configs, ops, &self.config)?, ..copy(&old) };
        if mode == Apply::ValidateOnly || topic.configs == old.configs {
            return Ok(());
        }
        self.write(Key::Topic(name.to_owned()).record(&TopicRecord::of(&topic))).await?;
        let rules = TopicRules::of(&topic.configs, &self.config);
        let rules = if topic.internal { rules.internal() } else { rules };
        for partition in &topic.partitions {
            partition.set_rules(rules);
        }
        self.publish(topic);
        Ok(())
    }

    /// Checks everything about a new topic; how many partitions it gets, and its settings.
    fn check_new(&self, new: &NewTopic) -> Result<(i32, TopicConfigs), TopicError> {
        check_topic_name(&new.name)?;
        if RESERVED.contains(&new.name.as_str()) {
            return Err(TopicError::Internal(new.name.clone()));
        }
        let catalogue = Arc::clone(&self.catalogue.read());
        if catalogue.get(&new.name).is_some() {
            return Err(TopicError::Exists(new.name.clone()));
        }
        if let Some(existing) = catalogue.iter().find(|topic| collide(&topic.name, &new.name)) {
            return Err(TopicError::Collides { name: new.name.clone(), existing: existing.name.clone() });
        }
        let count = match new.assignments.is_empty() {
            false => check_assignments(new)?,
            true => self.check_counts(new)?,
        };
        self.check_partition_count(count)?;
        let sets: Vec<ConfigOp> =
            new.configs.iter().map(|(name, value)| ConfigOp::Set(name.clone(), value.clone())).collect();
        Ok((count, apply(&TopicConfigs::new(), &sets, &self.config)?))
    }

    fn check_counts(&self, new: &NewTopic) -> Result<i32, TopicError> {
        match new.replication_factor {
            -1 | 1 => {}
            larger if larger > 1 && self.config.flag("replication.factor.clamp") => {}
            other => return Err(TopicError::InvalidReplicationFactor(other)),
        }
        Ok(match new.partitions {
            -1 => self.config.number("num.partitions") as i32,
            given => given,
        })
    }

    fn check_partition_count(&self, count: i32) -> Result<(), TopicError> {
        let max = self.config.number("topic.partitions.max");
        if count < 1 {
            return Err(TopicError::InvalidPartitions(format!(
                "a topic has at least one partition, not {count}"
            )));
        }
        if i64::from(count) > max {
            return Err(TopicError::InvalidPartitions(format!(
                "{count} partitions are more than topic.partitions.max, {max}"
            )));
        }
        Ok(())
    }

    /// The topic of that name, which must not be internal.
    fn own_topic(&self, name: &str) -> Result<Arc<Topic>, TopicError> {
        let topic = self.catalogue.read().get(name).cloned();
        let topic = topic.ok_or_else(|| TopicError::Unknown(name.to_owned()))?;
        match topic.internal {
            true => Err(TopicError::Internal(name.to_owned())),
            false => Ok(topic),
        }
    }

    /// Opens the logs of the topic's partitions from `first` on; all or none stay open.
    async fn open_partitions(
        self: &Arc<Self>,
        topic: &Topic,
        first: i32,
    ) -> Result<Vec<Partition>, TopicError> {
        let rules = TopicRules::of(&topic.configs, &self.config);
        let (shared, name, count) = (Arc::clone(self), topic.name.clone(), topic.partition_count);
        let (logs, failed) = blocking(self.store.workers(), move || {
            let mut logs: Vec<PartitionLog> = Vec::new();
            for number in first..count {
                match shared.store.open_partition(&name, number, rules.log, Absent::Create) {
                    Ok(log) => logs.push(log),
                    Err(error) => return (logs, Some(error)),
                }
            }
            (logs, None)
        })
        .await;
        if let Some(error) = failed {
            for log in &logs {
                self.store.close_partition(log).await;
            }
            return Err(TopicError::Storage(error.to_string()));
        }
        let partition =
            |log| Partition::new(log, Arc::clone(&self.clock), self.memory.clone(), topic.internal, rules);
        Ok(logs.into_iter().map(partition).collect())
    }

    /// Closes the topic's logs and removes its directory.
    async fn remove(self: &Arc<Self>, topic: &Topic) -> Result<(), anabranch_log::OpenError> {
        self.close_partitions(&topic.partitions).await;
        self.store.forget_topic(&topic.name).await?;
        let (shared, name) = (Arc::clone(self), topic.name.clone());
        blocking(self.store.workers(), move || shared.store.remove_topic(&name)).await
    }

    async fn close_partitions(&self, partitions: &[Partition]) {
        for partition in partitions {
            self.store.close_partition(partition.log()).await;
        }
    }

    pub(crate) async fn write(&self, record: Record) -> Result<(), TopicError> {
        let record = record.at(self.clock.now_ms());
        self.journal.append(&[record]).await.map_err(|error| TopicError::Storage(error.to_string()))
    }

    fn publish(&self, topic: Topic) -> Arc<Topic> {
        let topic = Arc::new(topic);
        self.swap(|catalogue| catalogue.with(Arc::clone(&topic)));
        topic
    }

    fn swap(&self, change: impl FnOnce(&Catalogue) -> Catalogue) {
        let mut newest = self.catalogue.write();
        *newest = Arc::new(change(&newest));
    }
}

fn copy(topic: &Topic) -> Topic {
    Topic {
        name: topic.name.clone(),
        id: topic.id,
        internal: topic.internal,
        partition_count: topic.partition_count,
        partitions: topic.partitions.clone(),
        configs: topic.configs.clone(),
        keyless: AtomicU32::default(),
    }
}

/// A manual assignment, by Kafka's rules, where only this node can hold anything; how many partitions it makes.
fn check_assignments(new: &NewTopic) -> Result<i32, TopicError> {
    if new.partitions != -1 || new.replication_factor != -1 {
        return Err(TopicError::InvalidRequest(
            "with a manual assignment, the number of partitions and the replication factor must be -1",
        ));
    }
    let mut numbers: Vec<i32> = new.assignments.iter().map(|(partition, _)| *partition).collect();
    numbers.sort_unstable();
    if !numbers.iter().copied().eq(0..numbers.len() as i32) {
        return Err(TopicError::InvalidAssignment(
            "the assigned partitions must be 0, 1, 2 and so on, each once".to_owned(),
        ));
    }
    match new.assignments.iter().find(|(_, nodes)| nodes != &[NODE_ID]) {
        Some((partition, nodes)) => Err(TopicError::InvalidAssignment(format!(
            "partition {partition} is assigned to nodes {nodes:?}, and there is only node {NODE_ID}"
        ))),
        None => Ok(numbers.len() as i32),
    }
}
