//! The engine itself: topics, places, and the way to everything else.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::batch::{NO_TIMESTAMP, Record};
use anabranch_core::engine::{
    Admin, AppendOptions, Appended, Capability, Description, Engine, EngineError, Ensured, GroupMember,
    Limits, Payload, Place, Position, QueueConsumer, QueueSpec, Queues, Reader, Support, TopicSpec,
    TransactionalProducer, Transactions,
};
use anabranch_core::{Offset, TopicPartition};
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::watch;

use crate::append::{Appender, RECORD_OVERHEAD_BYTES};
use crate::error::{KAFKA, away, blame, code_of, failed};
use crate::fetch::{Fetchers, KafkaReader};
use crate::group::KafkaMember;
use crate::settings::KafkaSettings;
use crate::transaction::KafkaProducer;
use crate::watch::Watch;

/// What a batch may have where the cluster does not tell (`message.max.bytes`).
const MESSAGE_BYTES_MAX: u64 = 1_048_588;
/// How long brokers may contradict each other about what there is.
const HEARSAY_MAX: Duration = Duration::from_secs(3);
/// How long it waits before it asks again.
pub(crate) const ASK_AGAIN: Duration = Duration::from_millis(20);
/// How long it listens why nobody has answered.
const ASIDE_MAX: Duration = Duration::from_millis(200);
/// How long closing waits for what is under way.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// A Kafka cluster as an engine.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use anabranch_core::engine::{Capability, Engine};
/// use anabranch_engine_kafka::KafkaEngine;
///
/// let settings = "kafka://localhost:9092".parse()?;
/// let engine = KafkaEngine::open(settings, &[Capability::Transactions]).await?;
/// println!("{} nodes", engine.description().nodes);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct KafkaEngine(pub(crate) Arc<Cluster>);

/// What everything of one engine shares.
pub(crate) struct Cluster {
    pub(crate) settings: KafkaSettings,
    description: Description,
    brokers: Vec<KafkaBroker>,
    /// Asks, and is assigned nothing.
    pub(crate) client: Arc<BaseConsumer<Watch>>,
    pub(crate) admin: AdminClient<Watch>,
    pub(crate) fetchers: Fetchers,
    /// Made when it is needed first, and again when one has failed for good. Held to look or to replace only.
    appender: Mutex<Option<Arc<Appender>>>,
    /// Numbers of partitions, as they were found last. They grow only, unless a topic is deleted. Held to look or to note.
    topics: Mutex<HashMap<String, i32>>,
    is_closed: watch::Sender<bool>,
}

/// A broker, as the cluster names it to its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaBroker {
    /// Its id.
    pub id: i32,
    /// Where clients reach it.
    pub host: String,
    /// And by which port.
    pub port: u16,
}

impl fmt::Display for KafkaBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl KafkaEngine {
    /// Connects to a cluster, and looks at what it is.
    ///
    /// # Errors
    /// [`EngineError::Away`] when nobody answers, [`EngineError::Unauthorised`], [`EngineError::Unsuitable`] when the cluster,
    /// as it is set up, lacks something of `needs`.
    pub async fn open(settings: KafkaSettings, needs: &[Capability]) -> Result<Self, EngineError> {
        let refused = |error: KafkaError| EngineError::Refused {
            topic: settings.bootstrap().to_owned(),
            reason: error.to_string(),
        };
        let watch = Watch::default();
        let mut config = settings.client();
        config.set("isolation.level", "read_committed");
        let client: BaseConsumer<Watch> = config.create_with_context(watch.clone()).map_err(refused)?;
        let admin: AdminClient<Watch> =
            settings.client().create_with_context(watch.clone()).map_err(refused)?;
        let client = Arc::new(client);
        let (description, brokers) = describe(&settings, &client, &watch, &admin).await?;
        description.require(needs)?;
        let settings = settings.known(brokers.iter().map(KafkaBroker::to_string).collect());
        Ok(Self(Arc::new(Cluster {
            fetchers: Fetchers::new(settings.clone()),
            settings,
            description,
            brokers,
            client,
            admin,
            appender: Mutex::default(),
            topics: Mutex::default(),
            is_closed: watch::Sender::new(false),
        })))
    }

    /// The cluster's brokers, as they were when it was opened.
    #[must_use]
    pub fn brokers(&self) -> &[KafkaBroker] {
        &self.0.brokers
    }

    /// What the engine is on a cluster that is set up for all of it.
    #[must_use]
    pub fn at_best() -> Description {
        let number = |name: &str| match name {
            "default.replication.factor" => Some(3),
            "min.insync.replicas" => Some(2),
            "log.flush.interval.messages" => Some(1),
            _ => None,
        };
        description(&KafkaSettings::new("localhost"), 3, String::new(), number)
    }
}

/// What the cluster is, and where its brokers are.
async fn describe(
    settings: &KafkaSettings,
    client: &Arc<BaseConsumer<Watch>>,
    watch: &Watch,
    admin: &AdminClient<Watch>,
) -> Result<(Description, Vec<KafkaBroker>), EngineError> {
    let (asked, patience, watch_aside) = (Arc::clone(client), settings.request_max(), watch.clone());
    let found = blocking(move || {
        let found = look_around(&asked, patience);
        if found.is_err() {
            // What came aside says why; a poll takes one thing of many.
            let until = Instant::now() + ASIDE_MAX;
            while watch_aside.refused().is_none() && Instant::now() < until {
                let _ = asked.poll(Duration::from_millis(1));
            }
        }
        found
    });
    let (brokers, broker, cluster) = found.await?.map_err(|error| match (watch.refused(), watch.away()) {
        (Some(reason), _) => EngineError::Unauthorised { engine: KAFKA, reason },
        (None, Some(reason)) => away(reason),
        (None, None) => blame(&TopicPartition::new("the cluster", 0), &error),
    })?;
    let options = AdminOptions::new().request_timeout(Some(patience));
    let asked = admin.describe_configs([&ResourceSpecifier::Broker(broker)], &options).await;
    let configs = asked.ok().and_then(|mut answers| answers.pop()?.ok());
    let nodes = brokers.len() as u32;
    let number = |name: &str| configs.as_ref()?.get(name)?.value.as_ref()?.parse().ok();
    Ok((description(settings, nodes, cluster.unwrap_or_default(), number), brokers))
}

/// Where the brokers are, which one can be asked for its settings, and what the cluster calls itself.
fn look_around(
    client: &BaseConsumer<Watch>,
    patience: Duration,
) -> Result<(Vec<KafkaBroker>, i32, Option<String>), KafkaError> {
    // Of a topic that need not be there: what is wanted are the brokers.
    let metadata = client.fetch_metadata(Some("anabranch"), patience)?;
    // Not who has answered: as long as that is a bootstrap server, it has no id.
    let broker = metadata.brokers().first().ok_or(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown))?;
    let brokers = metadata.brokers().iter().filter_map(|broker| {
        let port = u16::try_from(broker.port()).ok()?;
        Some(KafkaBroker { id: broker.id(), host: broker.host().to_owned(), port })
    });
    Ok((brokers.collect(), broker.id(), client.client().fetch_cluster_id(patience)))
}

/// What a cluster is, by its brokers' settings (`number`), if they can be seen.
fn description(
    settings: &KafkaSettings,
    nodes: u32,
    cluster: String,
    number: impl Fn(&str) -> Option<i64>,
) -> Description {
    let replicas = settings.replicas().map(i64::from).or_else(|| number("default.replication.factor"));
    let in_sync = number("min.insync.replicas");
    let unseen =
        || Support::absent("the brokers' settings cannot be seen (it takes DescribeConfigs on the cluster)");
    let support = |capability| match capability {
        Capability::AppendIds => Support::absent("a transaction's end says what became of it"),
        Capability::AtomicAppend => {
            Support::absent("an append may become several batches: use a transaction")
        }
        Capability::ConditionalAppend => Support::absent("a transactional id keeps other writers out"),
        Capability::VerbatimBatches => {
            Support::absent("librdkafka takes and gives records, and makes batches of its own")
        }
        Capability::SurvivesNodeLoss => match (replicas, in_sync) {
            (Some(replicas), Some(in_sync)) if replicas.min(nodes.into()) >= 2 && in_sync >= 2 => {
                Support::Native
            }
            (Some(replicas), Some(in_sync)) => Support::absent(format!(
                "new topics have {replicas} replicas on {nodes} nodes, of which {in_sync} must have a record before it is \
                 acknowledged (min.insync.replicas): it takes 2"
            )),
            _ => unseen(),
        },
        Capability::SurvivesPowerLoss => match number("log.flush.interval.messages") {
            Some(1) => Support::Native,
            Some(_) => {
                Support::absent("brokers acknowledge before they sync (log.flush.interval.messages is not 1)")
            }
            None => unseen(),
        },
        other => anabranch_queue::support(other).unwrap_or(Support::Native),
    };
    let record_bytes_max = number("message.max.bytes").map_or(MESSAGE_BYTES_MAX, i64::unsigned_abs);
    let limits = Limits {
        record_bytes_max: record_bytes_max.saturating_sub(RECORD_OVERHEAD_BYTES as u64),
        append_bytes_max: u64::MAX,
        append_records_max: u32::MAX,
    };
    let mut description =
        Description::new(KAFKA, "not told by Kafka's protocol", cluster, nodes, limits, support);
    if let Some(partitions) = number("num.partitions").and_then(|partitions| i32::try_from(partitions).ok()) {
        description.partitions_default = partitions;
    }
    description
}

#[async_trait]
impl Engine for KafkaEngine {
    fn description(&self) -> &Description {
        &self.0.description
    }

    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<Ensured, EngineError> {
        self.0.check_open()?;
        // Kafka's protocol has -1 for the default; the seam has not.
        if spec.partitions < 1 {
            let reason = format!("{} partitions are none", spec.partitions);
            return Err(EngineError::Refused { topic: spec.name.clone(), reason });
        }
        let replicas = spec.replicas.or(self.0.settings.replicas());
        let replication = TopicReplication::Fixed(replicas.unwrap_or(-1)); // -1: the cluster's default
        let mut topic = NewTopic::new(&spec.name, spec.partitions, replication);
        for (name, value) in &spec.configs {
            topic = topic.set(name, value);
        }
        let at = TopicPartition::new(&spec.name, 0);
        let created = self.0.admin.create_topics([&topic], &self.0.options()).await;
        let created = created.map_err(|error| blame(&at, &error))?;
        match created.into_iter().next().expect("one was asked for") {
            Ok(_) => {
                self.0.await_topic(&spec.name, spec.partitions, true).await?;
                Ok(Ensured::Created)
            }
            // It may have been made a moment ago.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {
                self.0.await_topic(&spec.name, spec.partitions, false).await?;
                Ok(Ensured::Existed)
            }
            Err((_, code)) => Err(blame(&at, &KafkaError::AdminOp(code))),
        }
    }

    async fn partition_count(&self, topic: &str) -> Result<i32, EngineError> {
        self.0.look_up(topic).await
    }

    async fn append(
        &self,
        to: &TopicPartition,
        what: Payload,
        how: AppendOptions,
    ) -> Result<Appended, EngineError> {
        self.0.check_open()?;
        if how.expected.is_some() {
            self.require(&[Capability::ConditionalAppend])?;
        }
        if how.id.is_some() {
            self.require(&[Capability::AppendIds])?;
        }
        let records = self.0.records(to, what)?;
        // All are acknowledged by every replica in sync: more than `Durability::Written` asks for.
        let appender = self.0.appender()?;
        // First of all, lest a later append overtakes while the cluster is asked.
        let turn = appender.turn().await;
        self.0.check_partition(to).await?;
        let sent = appender.send(turn, to, &records, self.0.settings.request_max()).await?;
        sent.appended(to).await
    }

    async fn locate(&self, at: &TopicPartition, place: Place) -> Result<Position, EngineError> {
        self.0.check_open()?;
        self.0.check_partition(at).await?;
        match place {
            Place::Earliest => Ok(self.0.ends(at).await?.0),
            Place::Latest => Ok(self.0.ends(at).await?.1),
            Place::AtTime(ms) => self.0.at_time(at, ms).await,
        }
    }

    async fn reader(&self, at: &TopicPartition, from: Position) -> Result<Box<dyn Reader>, EngineError> {
        self.0.check_open()?;
        self.0.check_partition(at).await?;
        Ok(Box::new(KafkaReader::new(Arc::clone(&self.0), at.clone(), from)))
    }

    async fn trim(&self, at: &TopicPartition, before: Position) -> Result<Position, EngineError> {
        self.0.check_open()?;
        self.0.check_partition(at).await?;
        let (earliest, latest) = self.0.ends(at).await?;
        if before > latest {
            return Err(EngineError::OutOfRange {
                partition: at.clone(),
                position: before,
                earliest,
                latest,
            });
        }
        let mut list = TopicPartitionList::new();
        let offset = rdkafka::Offset::Offset(Offset::from(before).0);
        list.add_partition_offset(&at.topic, at.partition, offset).map_err(|error| blame(at, &error))?;
        let options = self.0.options();
        let trim = || {
            let trimming = self.0.admin.delete_records(&list, &options);
            async move {
                Ok(trimming.await.and_then(|trimmed| {
                    let elements = trimmed.elements();
                    let told = elements.first().map(|element| element.error().map(|()| element.offset()));
                    told.unwrap_or(Err(KafkaError::Global(RDKafkaErrorCode::UnknownPartition)))
                }))
            }
            .boxed()
        };
        match self.0.patiently(at, trim).await? {
            rdkafka::Offset::Offset(start) => Ok(Offset(start).into()),
            other => Err(failed(format!("the answer tells of {other:?}"))),
        }
    }

    async fn join(&self, group: &str, topics: &[String]) -> Result<Box<dyn GroupMember>, EngineError> {
        self.0.check_open()?;
        Ok(Box::new(KafkaMember::join(Arc::clone(&self.0), group, topics)?))
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        Some(self)
    }

    fn queues(&self) -> Option<&dyn Queues> {
        Some(self)
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    async fn close(&self) {
        if self.0.is_closed.send_replace(true) {
            return;
        }
        let (appender, cluster) = (self.0.appender.lock().take(), Arc::clone(&self.0));
        let closed = blocking(move || {
            if let Some(appender) = appender {
                appender.flush(CLOSE_MAX);
            }
            cluster.fetchers.close();
        });
        let _ = closed.await; // nothing is left to do about it
    }
}

#[async_trait]
impl Transactions for KafkaEngine {
    async fn producer(
        &self,
        id: &str,
        timeout: Duration,
    ) -> Result<Box<dyn TransactionalProducer>, EngineError> {
        self.0.check_open()?;
        Ok(Box::new(KafkaProducer::open(Arc::clone(&self.0), id, timeout).await?))
    }
}

#[async_trait]
impl Queues for KafkaEngine {
    async fn consumer(&self, spec: QueueSpec) -> Result<Box<dyn QueueConsumer>, EngineError> {
        self.0.check_open()?;
        anabranch_queue::consumer(Arc::new(self.clone()), spec).await
    }
}

impl Cluster {
    pub(crate) fn check_open(&self) -> Result<(), EngineError> {
        match *self.is_closed.borrow() {
            true => Err(EngineError::Closed),
            false => Ok(()),
        }
    }

    /// Returns when the engine is closed.
    pub(crate) async fn closed(&self) {
        let _ = self.is_closed.subscribe().wait_for(|is_closed| *is_closed).await;
    }

    /// Asks the cluster about `at`, again where that may help.
    pub(crate) async fn ask<R: Send + 'static>(
        &self,
        at: &TopicPartition,
        question: impl Fn(&BaseConsumer<Watch>, &TopicPartition, Duration) -> Result<R, KafkaError>
        + Send
        + Sync
        + 'static,
    ) -> Result<R, EngineError> {
        let (question, patience) = (Arc::new(question), self.settings.request_max());
        let ask = || {
            let (client, at, question) = (Arc::clone(&self.client), at.clone(), Arc::clone(&question));
            async move { blocking(move || question(&client, &at, patience)).await }.boxed()
        };
        self.patiently(at, ask).await
    }

    /// Does something with `at`, again where a partition is changing its leader, or brokers are late to hear of it.
    async fn patiently<'a, R>(
        &self,
        at: &TopicPartition,
        mut attempt: impl FnMut() -> BoxFuture<'a, Result<Result<R, KafkaError>, EngineError>>,
    ) -> Result<R, EngineError> {
        let began = tokio::time::Instant::now();
        loop {
            self.check_open()?;
            let error = match attempt().await? {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let again_for = match code_of(&error) {
                Some(
                    RDKafkaErrorCode::NotLeaderForPartition
                    | RDKafkaErrorCode::LeaderNotAvailable
                    | RDKafkaErrorCode::DestroyBroker
                    | RDKafkaErrorCode::ReplicaNotAvailable,
                ) => self.settings.request_max(),
                // One broker has not heard of it yet, where another has told of it; or it was deleted.
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownPartition)
                    if self.topics.lock().contains_key(&at.topic) =>
                {
                    HEARSAY_MAX
                }
                _ => Duration::ZERO,
            };
            if began.elapsed() >= again_for {
                return Err(blame(at, &error));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Asks the cluster for a topic's partitions.
    pub(crate) async fn look_up(&self, topic: &str) -> Result<i32, EngineError> {
        let at = TopicPartition::new(topic, 0);
        let found = self.ask(&at, |client, asked, patience| partition_count(client, &asked.topic, patience));
        let found = found.await;
        match &found {
            Ok(count) => {
                self.topics.lock().insert(topic.to_owned(), *count);
            }
            Err(EngineError::NotFound(_)) => self.forget(topic),
            Err(_) => {} // nothing was said about it
        }
        found
    }

    /// Believes the next who says that there is no such topic.
    pub(crate) fn forget(&self, topic: &str) {
        self.topics.lock().remove(topic);
    }

    /// Fails unless there is such a partition. It asks where it has not seen the partition before.
    pub(crate) async fn check_partition(&self, at: &TopicPartition) -> Result<(), EngineError> {
        let known = self.topics.lock().get(&at.topic).copied();
        let is_there = |count: i32| (0..count).contains(&at.partition);
        if known.is_some_and(is_there) || is_there(self.look_up(&at.topic).await?) {
            return Ok(());
        }
        Err(EngineError::NotFound(at.clone()))
    }

    /// Waits until a topic can be used that is there, and perhaps new: brokers hear of it one after the other, so whoever denies
    /// it is late. So is whoever tells of fewer partitions, if it `has` these.
    pub(crate) async fn await_topic(
        &self,
        topic: &str,
        partitions: i32,
        has: bool,
    ) -> Result<(), EngineError> {
        let until = tokio::time::Instant::now() + self.settings.request_max();
        let look_up = || async {
            match self.look_up(topic).await? {
                actual if has && actual < partitions => {
                    Err(EngineError::NotFound(TopicPartition::new(topic, actual)))
                }
                actual => Ok(actual),
            }
        };
        let actual = self.until(until, look_up).await?;
        if actual != partitions {
            return Err(EngineError::Different { topic: topic.to_owned(), actual, asked: partitions });
        }
        for partition in 0..partitions {
            let at = TopicPartition::new(topic, partition);
            self.until(until, || self.ends(&at)).await?;
        }
        Ok(())
    }

    /// Does it again as long as what is asked for is not found or nobody answers, and it is not too late.
    async fn until<R, F: Future<Output = Result<R, EngineError>>>(
        &self,
        until: tokio::time::Instant,
        attempt: impl Fn() -> F,
    ) -> Result<R, EngineError> {
        loop {
            match attempt().await {
                Err(EngineError::NotFound(_) | EngineError::Away { .. })
                    if tokio::time::Instant::now() < until =>
                {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                done => return done,
            }
        }
    }

    /// The oldest kept record, and after the newest visible one.
    pub(crate) async fn ends(&self, at: &TopicPartition) -> Result<(Position, Position), EngineError> {
        let found = self.ask(at, |client, asked, patience| {
            client.fetch_watermarks(&asked.topic, asked.partition, patience)
        });
        let (low, high) = found.await?;
        Ok((Offset(low).into(), Offset(high).into()))
    }

    async fn at_time(&self, at: &TopicPartition, ms: i64) -> Result<Position, EngineError> {
        let latest = self.ends(at).await?.1;
        let found = self.ask(at, move |client, asked, patience| {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&asked.topic, asked.partition, rdkafka::Offset::Offset(ms.max(0)))?;
            let found = client.offsets_for_times(list, patience)?;
            let element = found.elements().first().map(|element| element.error().map(|()| element.offset()));
            element.unwrap_or(Err(KafkaError::Global(RDKafkaErrorCode::UnknownPartition)))
        });
        match found.await? {
            rdkafka::Offset::Offset(found) => Ok(Position::from(Offset(found)).min(latest)),
            _ => Ok(latest),
        }
    }

    fn appender(&self) -> Result<Arc<Appender>, EngineError> {
        let mut appender = self.appender.lock();
        self.check_open()?;
        match &*appender {
            Some(living) if !living.is_dead() => Ok(Arc::clone(living)),
            _ => {
                let mut config = self.settings.client();
                config
                    .set("acks", "all")
                    .set("enable.idempotence", "true")
                    .set("linger.ms", "1")
                    .set("message.max.bytes", self.message_bytes_max())
                    .set("message.timeout.ms", self.settings.delivery_max().as_millis().to_string());
                let made = Appender::new(&config).map_err(|error| failed(error.to_string()))?;
                Ok(Arc::clone(appender.insert(Arc::new(made))))
            }
        }
    }

    /// What the library may put into one batch: what the brokers take, at least its own least.
    pub(crate) fn message_bytes_max(&self) -> String {
        let most = self.description.limits.record_bytes_max + RECORD_OVERHEAD_BYTES as u64;
        most.clamp(1000, 1_000_000_000).to_string()
    }

    /// The records of `what`, if all of them can be stored as they are.
    pub(crate) fn records(&self, to: &TopicPartition, what: Payload) -> Result<Vec<Record>, EngineError> {
        let records = what.into_records()?;
        let refused =
            |reason: &str| EngineError::Refused { topic: to.topic.clone(), reason: reason.to_owned() };
        if records.is_empty() {
            return Err(refused("there is no record to append"));
        }
        let max = self.description.limits.record_bytes_max;
        for record in &records {
            let bytes = record.size_bytes() as u64;
            if bytes > max {
                return Err(EngineError::TooLarge { partition: to.clone(), bytes, max });
            }
            if record.timestamp_ms <= 0 && record.timestamp_ms != NO_TIMESTAMP {
                return Err(refused(
                    "librdkafka takes no timestamp of 0 or before 1970: it would give such a record the present time",
                ));
            }
            let is_name = |key: &[u8]| str::from_utf8(key).is_ok() && !key.contains(&0);
            if !record.headers.iter().all(|header| is_name(&header.key)) {
                return Err(refused("a header's name is not UTF-8, or has a NUL in it"));
            }
        }
        Ok(records)
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// How many partitions the cluster says that a topic has.
fn partition_count(client: &BaseConsumer<Watch>, topic: &str, patience: Duration) -> Result<i32, KafkaError> {
    let metadata = client.fetch_metadata(Some(topic), patience)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    match found.map(|found| (found.error(), found.partitions().len())) {
        Some((None, count)) if count > 0 => Ok(count as i32),
        Some((Some(error), _)) => Err(KafkaError::MetadataFetch(error.into())),
        _ => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)),
    }
}

/// Runs what waits for an answer of the library, off the async threads.
pub(crate) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, EngineError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => EngineError::Closed,
    })
}
