//! The engine: the seam's calls, each by the room that knows how.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::BatchError;
use anabranch_core::engine::{
    Admin, AppendOptions, Appended, Capability, Description, Engine, EngineError, Ensured, GroupMember,
    Payload, Place, Position, QueueConsumer, QueueSpec, Queues, ReadLimits, Reader, TopicSpec,
};
use anabranch_core::seam::{OsRandom, Random};
use async_nats::jetstream;
use async_nats::jetstream::kv::Store;
use async_trait::async_trait;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::describe::{Found, describe};
use crate::group::member::{HISTORY, Member};
use crate::lane::Lanes;
use crate::link::{Bounds, Link};
use crate::names;
use crate::queue::NatsConsumer;
use crate::reader::{Part, PartitionReader};
use crate::settings::NatsSettings;
use crate::topics::{Plan, Topics, bucket};
use crate::trouble::Trouble;

/// The oldest server that knows a batch's ids again.
const VERSION_MIN: (i64, i64, i64) = (2, 12, 1);

/// What a server takes that is not told otherwise.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// A group's name becomes a token of a subject.
const GROUP_BYTES_MAX: usize = 249;
/// How long a close waits for members to leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// NATS JetStream as an engine.
#[derive(Debug)]
pub struct NatsEngine {
    inner: Arc<Inner>,
    context: jetstream::Context,
    lanes: Arc<Lanes>,
    /// The tasks of members. The lock is held for a look.
    members: Mutex<Vec<JoinHandle<()>>>,
}

/// What readers and members share with the engine.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) link: Link,
    pub(crate) topics: Topics,
    settings: NatsSettings,
    pub(crate) description: Description,
    is_closed: watch::Sender<bool>,
    /// How many read partitions.
    pub(crate) readers: AtomicUsize,
}

impl NatsEngine {
    /// Connects, and finds out what there is. Creates the registry of topics unless it is there.
    ///
    /// # Errors
    /// NATS is away, refuses us, or cannot do all of `needs`.
    pub async fn open(settings: NatsSettings, needs: &[Capability]) -> Result<Self, EngineError> {
        let place = settings.servers.join(",");
        let told = |trouble: Trouble| trouble.about_topic(&place);
        settings.check().map_err(|error| told(Trouble::Refused(error.to_string())))?;
        let link = Link::open(&settings).await.map_err(told)?;
        let info = link.client().server_info();
        let (major, minor, patch) = VERSION_MIN;
        if !link.client().is_server_compatible(major, minor, patch) {
            let why = format!("nats-server {} is older than {major}.{minor}.{patch}", info.version);
            return Err(told(Trouble::Refused(why)));
        }
        let mut context = jetstream::new(link.client().clone());
        context.set_timeout(settings.request_timeout);
        let replicas = settings.replicas;
        open_bucket(&context, names::TOPICS_BUCKET, replicas, 1).await.map_err(told)?;
        let found = Found {
            version: info.version,
            cluster: cluster(&link).await.map_err(told)?,
            nodes: u32::try_from(info.connect_urls.len()).unwrap_or(u32::MAX).max(1),
            payload_bytes_max: info.max_payload,
        };
        let description = describe(&found, &settings);
        description.require(needs)?;
        let topics = Topics::new(link.clone(), replicas);
        let lanes = Lanes::new(link.clone(), topics.clone(), settings.delivery_timeout, names::unique());
        let lanes = Arc::new(lanes);
        let is_closed = watch::Sender::new(false);
        let readers = AtomicUsize::new(0);
        let inner = Arc::new(Inner { link, topics, settings, description, is_closed, readers });
        Ok(Self { inner, context, lanes, members: Mutex::default() })
    }

    /// What the engine is on a cluster that is set up for all of it.
    #[must_use]
    pub fn at_best() -> Description {
        let settings = NatsSettings { replicas: 3, synced: true, ..NatsSettings::new(["localhost"]) };
        let found = Found {
            version: String::new(),
            cluster: String::new(),
            nodes: 3,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
        };
        describe(&found, &settings)
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// The bucket of all groups, made by the first who needs it.
    pub(crate) async fn open_groups(&self) -> Result<Store, Trouble> {
        open_bucket(&self.context, names::GROUPS_BUCKET, self.inner.settings.replicas, HISTORY).await
    }

    /// A reader of a partition that is there.
    async fn read(
        &self,
        at: &TopicPartition,
        part: Part,
        from: Position,
    ) -> Result<PartitionReader, EngineError> {
        let plan = self.inner.plan(at).await.map_err(|trouble| trouble.about(at))?;
        Ok(PartitionReader::new(Arc::clone(&self.inner), at.clone(), plan.compacted, part, from))
    }

    async fn at_time(&self, at: &TopicPartition, ms: i64, bounds: Bounds) -> Result<Position, EngineError> {
        let (earliest, latest) = bounds.positions();
        let mut reader = self.read(at, Part::Timestamp, earliest).await?;
        while reader.position() < latest {
            let from = reader.position();
            match reader.read(ReadLimits::default()).await {
                Ok(fetched) => {
                    let records = fetched.block.into_records(from)?;
                    let found = records.iter().find(|at| at.record.timestamp_ms >= ms);
                    if let Some(found) = found.filter(|at| Position::from(at.offset) < latest) {
                        return Ok(found.offset.into());
                    }
                }
                // What was to be searched is deleted meanwhile.
                Err(EngineError::OutOfRange { earliest, .. }) if earliest > from => reader.seek(earliest),
                Err(error) => return Err(error),
            }
        }
        Ok(latest)
    }
}

#[async_trait]
impl Engine for NatsEngine {
    fn description(&self) -> &Description {
        &self.inner.description
    }

    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<Ensured, EngineError> {
        let told = |trouble: Trouble| trouble.about_topic(&spec.name);
        self.inner.check_open().map_err(told)?;
        let found = match self.inner.topics.find(&spec.name).await.map_err(told)? {
            Some(topic) => Some(topic),
            None => self.inner.topics.create(spec).await.map_err(told)?,
        };
        match found {
            None => Ok(Ensured::Created),
            Some(topic) if topic.partitions == spec.partitions => Ok(Ensured::Existed),
            Some(topic) => Err(EngineError::Different {
                topic: spec.name.clone(),
                actual: topic.partitions,
                asked: spec.partitions,
            }),
        }
    }

    async fn partition_count(&self, topic: &str) -> Result<i32, EngineError> {
        let told = |trouble: Trouble| trouble.about_topic(topic);
        self.inner.check_open().map_err(told)?;
        match self.inner.topics.find(topic).await.map_err(told)? {
            Some(topic) => Ok(topic.partitions),
            None => Err(told(Trouble::NotFound)),
        }
    }

    async fn append(
        &self,
        to: &TopicPartition,
        what: Payload,
        how: AppendOptions,
    ) -> Result<Appended, EngineError> {
        let records = what.into_records()?;
        if records.is_empty() {
            return Err(BatchError::Invalid("no records").into());
        }
        self.lanes.append(to, records, how).await
    }

    async fn locate(&self, partition: &TopicPartition, place: Place) -> Result<Position, EngineError> {
        let told = |trouble: Trouble| trouble.about(partition);
        let bounds = self.inner.bounds(partition).await.map_err(told)?;
        let (earliest, latest) = bounds.positions();
        match place {
            Place::Earliest => Ok(earliest),
            Place::Latest => Ok(latest),
            Place::AtTime(ms) => self.at_time(partition, ms, bounds).await,
        }
    }

    async fn reader(
        &self,
        partition: &TopicPartition,
        from: Position,
    ) -> Result<Box<dyn Reader>, EngineError> {
        Ok(Box::new(self.read(partition, Part::All, from).await?))
    }

    async fn trim(&self, partition: &TopicPartition, before: Position) -> Result<Position, EngineError> {
        let told = |trouble: Trouble| trouble.about(partition);
        let plan = self.inner.plan(partition).await.map_err(told)?;
        if plan.compacted {
            let why = "a compacted topic loses its records by newer ones only";
            return Err(told(Trouble::Refused(why.to_owned())));
        }
        let (earliest, latest) = self.inner.bounds(partition).await.map_err(told)?.positions();
        if before > latest {
            return Err(told(Trouble::OutOfRange { position: before, earliest, latest }));
        }
        if before > earliest {
            let purged = self.inner.link.purge(&names::stream(partition), before.0 + 1).await;
            purged.map_err(|error| told(Trouble::from(error).of_a_change()))?;
        }
        Ok(before.max(earliest))
    }

    async fn join(&self, group: &str, topics: &[String]) -> Result<Box<dyn GroupMember>, EngineError> {
        let told = |trouble: Trouble| trouble.about_topic(group);
        self.inner.check_open().map_err(told)?;
        if group.is_empty() || group.len() > GROUP_BYTES_MAX {
            let why = format!("a group's name has 1 to {GROUP_BYTES_MAX} bytes");
            return Err(told(Trouble::Refused(why)));
        }
        if topics.is_empty() {
            return Err(told(Trouble::Refused("a member of a group reads at least one topic".to_owned())));
        }
        let bucket = self.open_groups().await.map_err(told)?;
        let (inner, id) = (Arc::clone(&self.inner), OsRandom.uuid().simple().to_string());
        let session = self.inner.settings.session_timeout;
        let (member, task) = Member::start(inner, bucket, id, group, topics, session);
        let mut members = self.members.lock();
        members.retain(|member| !member.is_finished());
        members.push(task);
        Ok(Box::new(member))
    }

    fn queues(&self) -> Option<&dyn Queues> {
        Some(self)
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    async fn close(&self) {
        self.inner.is_closed.send_replace(true);
        self.lanes.close().await;
        let members = std::mem::take(&mut *self.members.lock());
        // Who does not leave by then is taken for dead.
        let _ = timeout(LEAVE_TIMEOUT, join_all(members)).await;
        // Nothing waits for it any more; an error says that the connection is gone already.
        let _ = self.inner.link.client().drain().await;
    }
}

#[async_trait]
impl Queues for NatsEngine {
    async fn consumer(&self, spec: QueueSpec) -> Result<Box<dyn QueueConsumer>, EngineError> {
        spec.check()?;
        let told = |trouble: Trouble| trouble.about_topic(&spec.group);
        self.inner.check_open().map_err(told)?;
        if spec.group.len() > GROUP_BYTES_MAX {
            let why = format!("a group's name has at most {GROUP_BYTES_MAX} bytes");
            return Err(told(Trouble::Refused(why)));
        }
        let mut partitions = Vec::new();
        for topic in &spec.topics {
            let count = self.partition_count(topic).await?;
            partitions.extend((0..count).map(|partition| TopicPartition::new(topic, partition)));
        }
        let mut dead = BTreeMap::new();
        for topic in &spec.topics {
            let letters = spec.dead_letters_of(topic);
            // As many partitions as there are will do.
            match self.ensure_topic(&TopicSpec::new(&letters, 1)).await {
                Ok(_) | Err(EngineError::Different { .. }) => {}
                Err(error) => return Err(error),
            }
            let count = self.partition_count(&letters).await?;
            dead.insert(letters, count);
        }
        let (inner, lanes) = (Arc::clone(&self.inner), Arc::clone(&self.lanes));
        Ok(Box::new(NatsConsumer::open(inner, lanes, spec, partitions, dead).await?))
    }
}

impl Drop for NatsEngine {
    fn drop(&mut self) {
        self.inner.is_closed.send_replace(true);
    }
}

impl Inner {
    pub(crate) fn check_open(&self) -> Result<(), Trouble> {
        match *self.is_closed.borrow() {
            true => Err(Trouble::Closed),
            false => Ok(()),
        }
    }

    /// Waits until the engine is closed.
    pub(crate) async fn closed(&self) {
        let _ = self.is_closed.subscribe().wait_for(|is| *is).await;
    }

    /// How long a member may be silent.
    pub(crate) fn session_timeout(&self) -> Duration {
        self.settings.session_timeout
    }

    /// What the partition's topic was created with.
    async fn plan(&self, at: &TopicPartition) -> Result<Plan, Trouble> {
        self.check_open()?;
        self.topics.plan(at).await
    }

    /// Where the partition begins and ends.
    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, Trouble> {
        self.plan(at).await?;
        Ok(self.link.settled_bounds(&names::stream(at)).await?)
    }
}

async fn open_bucket(
    context: &jetstream::Context,
    name: &str,
    replicas: usize,
    history: i64,
) -> Result<Store, Trouble> {
    let away = |error: &dyn std::fmt::Display| Trouble::Away(format!("the bucket {name}: {error}"));
    let error = match context.create_key_value(bucket(name, replicas, history)).await {
        Ok(store) => return Ok(store),
        Err(error) => error,
    };
    // It is there with other settings, such as more replicas, or we may only use it.
    match context.get_key_value(name).await {
        Ok(store) => Ok(store),
        Err(_) => Err(away(&error)),
    }
}

/// What tells this cluster from every other. The first who comes says it.
async fn cluster(link: &Link) -> Result<String, Trouble> {
    loop {
        let there = link.entry(names::TOPICS_BUCKET, names::CLUSTER_KEY).await?;
        if let Some(id) = there.value {
            return Ok(String::from_utf8_lossy(&id).into_owned());
        }
        let id = OsRandom.uuid().to_string();
        let over = there.revision;
        link.put_over(names::TOPICS_BUCKET, names::CLUSTER_KEY, id.into(), over).await?;
    }
}
