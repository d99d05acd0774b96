//! The broker: one data directory's topics, producers and groups.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::engine::Description;
use anabranch_core::seam::{
    Clock, Disk, Machine, OsRandom, Random, RealDisk, Space, SystemClock, Threads, Workers,
};
use anabranch_core::{ProducerEpoch, ProducerId, TopicPartition};
use anabranch_log::{FileCounts, Offsets, Store};
use parking_lot::RwLock;
use tokio::sync::OnceCell;

use crate::catalogue::{Catalogue, Topic};
use crate::config::ConfigEntry;
use crate::config::broker::BrokerConfig;
use crate::config::group::GroupConfigs;
use crate::error::{BrokerError, ProducerIdError, TopicError};
use crate::groups::GroupService;
use crate::journal::Journal;
use crate::maintenance::Maintenance;
use crate::memory::Memory;
use crate::moves::Moves;
use crate::partition::Partition;
use crate::producers::ProducerIds;
use crate::topics::TopicWriter;
use crate::transactions::TransactionService;

/// This node's id: there is one.
pub const NODE_ID: i32 = 1;

/// A data directory with its topics, producers and groups. Cheap to clone; all clones are the same broker.
///
/// Dropping the last clone is safe: what was acknowledged is there when the directory is opened again.
/// [`Broker::close`] also waits for what is on its way.
#[derive(Debug, Clone)]
pub struct Broker(pub(crate) Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    /// Absolute.
    pub(crate) root: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) config: BrokerConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) memory: Memory,
    pub(crate) description: Description,
    pub(crate) store: Store,
    pub(crate) journal: Journal,
    /// Protects the pointer to the newest snapshot; held to copy or replace it only.
    pub(crate) catalogue: Arc<RwLock<Arc<Catalogue>>>,
    pub(crate) writer: TopicWriter,
    pub(crate) producer_ids: Arc<ProducerIds>,
    pub(crate) groups: Arc<GroupService>,
    pub(crate) transactions: TransactionService,
    /// What was set on single groups; held to look or to replace only.
    pub(crate) group_configs: RwLock<BTreeMap<String, GroupConfigs>>,
    pub(crate) maintenance: Maintenance,
    pub(crate) moves: Moves,
    /// Set when closing is through: whoever closes a second time waits for the first.
    pub(crate) closed: OnceCell<()>,
}

/// How to open a [`Broker`].
#[derive(Debug, Clone)]
pub struct BrokerBuilder {
    pub(crate) root: PathBuf,
    pub(crate) config: BrokerConfig,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) workers: Arc<dyn Workers>,
    pub(crate) machine: Machine,
}

impl BrokerBuilder {
    /// The data directory; `./data` unless it is given.
    #[must_use]
    pub fn data(mut self, path: impl AsRef<Path>) -> Self {
        self.root = path.as_ref().to_owned();
        self
    }

    /// The settings.
    #[must_use]
    pub fn config(mut self, config: BrokerConfig) -> Self {
        self.config = config;
        self
    }

    /// The file system.
    #[must_use]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// The clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The source of ids.
    #[must_use]
    pub fn random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// Where work runs that blocks on the disk.
    #[must_use]
    pub fn workers(mut self, workers: Arc<dyn Workers>) -> Self {
        self.workers = workers;
        self
    }

    /// What the machine allows: from it come the memory budget and the number of open files.
    #[must_use]
    pub fn machine(mut self, machine: Machine) -> Self {
        self.machine = machine;
        self
    }

    /// Opens the data directory, creating it when there is none. Needs a tokio runtime with time.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn open(self) -> Result<Broker, BrokerError> {
        crate::open::open(self).await
    }
}

impl Broker {
    /// Opens the data directory `path` with default settings, creating it when there is none.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, BrokerError> {
        Self::builder().data(path).open().await
    }

    /// A builder, for other settings.
    #[must_use]
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder {
            root: PathBuf::from("data"),
            config: BrokerConfig::default(),
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(OsRandom),
            workers: Arc::new(Threads),
            machine: Machine::read(),
        }
    }

    /// Finishes what is on its way, syncs everything and gives the directory up. Whatever is asked for afterwards fails
    /// as closed. Closing again only waits.
    pub async fn close(&self) {
        let close = async || {
            self.0.writer.close().await;
            self.0.close_maintenance().await;
            self.0.transactions.close().await;
            self.0.groups.close().await;
            self.0.store.close().await;
        };
        self.0.closed.get_or_init(close).await;
    }

    /// Where its data are: an absolute path.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.0.root
    }

    /// How much room there is for data, if the disk says. Blocks on it.
    #[must_use]
    pub fn disk_space(&self) -> Option<Space> {
        self.0.disk.space(&self.0.root).ok()
    }

    /// Names this data directory for ever: 22 characters of base64, as Kafka's cluster ids are.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.0.description.cluster
    }

    /// This node's id.
    #[must_use]
    pub fn node_id(&self) -> i32 {
        NODE_ID
    }

    /// The settings that it was opened with.
    #[must_use]
    pub fn config(&self) -> &BrokerConfig {
        &self.0.config
    }

    /// The clock that it was opened with.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// The randomness that it was opened with.
    #[must_use]
    pub fn random(&self) -> &Arc<dyn Random> {
        &self.0.random
    }

    /// The bytes that it allows itself.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// How many files of the log are open, and may be.
    #[must_use]
    pub fn file_counts(&self) -> FileCounts {
        self.0.store.file_counts()
    }

    /// How many appends have waited for a place in the queue of the log (`log.queue.appends.max`).
    #[must_use]
    pub fn queue_waits(&self) -> u64 {
        self.0.store.queue_waits()
    }

    /// All topics now.
    #[must_use]
    pub fn topics(&self) -> Arc<Catalogue> {
        Arc::clone(&self.0.catalogue.read())
    }

    /// The bounds of the log in which topics are kept.
    #[must_use]
    pub fn catalogue_offsets(&self) -> Offsets {
        self.0.journal.log().offsets()
    }

    /// The topic `name`.
    ///
    /// # Errors
    /// [`TopicError::Unknown`].
    pub fn topic(&self, name: &str) -> Result<Arc<Topic>, TopicError> {
        self.topics().get(name).cloned().ok_or_else(|| TopicError::Unknown(name.to_owned()))
    }

    /// The partition `at`, if there is one.
    #[must_use]
    pub fn partition(&self, at: &TopicPartition) -> Option<Partition> {
        self.topics().get(&at.topic)?.partition(at.partition).cloned()
    }

    /// The topic's settings, with defaults, as DescribeConfigs shows them.
    #[must_use]
    pub fn describe_topic_configs(&self, topic: &Topic) -> Vec<ConfigEntry> {
        crate::config::topic::describe(&topic.configs, &self.0.config)
    }

    /// The broker's settings as DescribeConfigs shows them.
    #[must_use]
    pub fn describe_broker_configs(&self) -> Vec<ConfigEntry> {
        self.0.config.describe()
    }

    /// An id for an idempotent producer, which nobody had before or will have again.
    ///
    /// # Errors
    /// [`ProducerIdError`] when it cannot be made durable.
    pub async fn init_producer_id(&self) -> Result<(ProducerId, ProducerEpoch), ProducerIdError> {
        self.0.producer_ids.next().await
    }

    /// The groups.
    #[must_use]
    pub fn groups(&self) -> &GroupService {
        &self.0.groups
    }

    /// The transactions.
    #[must_use]
    pub fn transactions(&self) -> &TransactionService {
        &self.0.transactions
    }
}
