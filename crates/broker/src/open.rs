//! Opening a data directory: what the internal topics say, and what of it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use anabranch_core::TopicId;
use anabranch_core::batch::Record;
use anabranch_log::{Absent, LogStatus, Store, StoreConfig};
use parking_lot::RwLock;
use tokio::sync::OnceCell;

use crate::broker::{Broker, BrokerBuilder, Shared};
use crate::catalogue::{
    CATALOGUE_TOPIC, Catalogue, ClusterRecord, GroupConfigsRecord, Key, MoveRecord, OFFSETS_TOPIC,
    ProducerIdsRecord, TRANSACTIONS_TOPIC, Topic, TopicRecord, Version,
};
use crate::config::ConfigOp;
use crate::config::broker::BrokerConfig;
use crate::config::group::GroupConfigs;
use crate::config::topic::{TopicConfigs, TopicRules, apply};
use crate::error::BrokerError;
use crate::groups::GroupService;
use crate::journal::Journal;
use crate::maintenance::Maintenance;
use crate::memory::Memory;
use crate::moves::Moves;
use crate::names::{base64_url, check_topic_name};
use crate::partition::Partition;
use crate::producers::ProducerIds;
use crate::tasks::blocking;
use crate::topics::TopicWriter;
use crate::transactions::{Parts, TransactionService};

/// What the catalogue's records come to.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    pub(crate) cluster_id: Option<String>,
    pub(crate) next_producer_id: i64,
    pub(crate) topics: BTreeMap<String, TopicRecord>,
    /// Names that were topics and are no longer.
    pub(crate) deleted: BTreeSet<String>,
    pub(crate) group_configs: BTreeMap<String, GroupConfigs>,
    pub(crate) moves: BTreeMap<String, MoveRecord>,
}

/// What stands before any other topic is looked at.
struct Internal {
    store: Store,
    catalogue: Journal,
    offsets: Journal,
    transactions: Journal,
    restored: Restored,
}

pub(crate) async fn open(builder: BrokerBuilder) -> Result<Broker, BrokerError> {
    let memory = Memory::new(&builder.config, &builder.machine);
    let (opening, open_files) = (builder.clone(), open_files_max(&builder, &memory));
    let Internal { store, catalogue, offsets, transactions, mut restored } =
        blocking(&builder.workers, move || open_internal(&opening, open_files)).await?;
    let cluster_id = write_first_records(&builder, &catalogue, &mut restored).await?;

    let topics = restored.topics.iter();
    let topics = topics.map(|(name, topic)| (name.clone(), (topic.id, topic.partitions))).collect();
    let groups = GroupService::open(
        offsets.clone(),
        &builder.config,
        &restored.group_configs,
        &topics,
        Arc::clone(&builder.clock),
        Arc::clone(&builder.random),
    );
    let groups = Arc::new(groups.await?);

    // From here on nothing is wrong with the internal topics, so that what is left over may be removed.
    let (opening, opened_store, opened_memory) = (builder.clone(), store.clone(), memory.clone());
    let random = Arc::clone(&builder.random);
    let producer_ids = Arc::new(ProducerIds::new(catalogue.clone(), restored.next_producer_id, random));
    let group_configs = std::mem::take(&mut restored.group_configs);
    let moves = Moves::new(std::mem::take(&mut restored.moves));
    let own = [offsets, transactions.clone()];
    let (snapshot, mut refused) = blocking(&builder.workers, move || {
        open_topics(&opening, &opened_store, &opened_memory, &own, &restored)
    })
    .await?;

    let snapshot = Arc::new(snapshot);
    let newest = Arc::new(RwLock::new(Arc::clone(&snapshot)));
    let of_transactions = snapshot.get(TRANSACTIONS_TOPIC).and_then(|topic| topic.partition(0));
    let transactions = Parts {
        journal: transactions,
        store: store.clone(),
        producer_ids: Arc::clone(&producer_ids),
        catalogue: Arc::clone(&newest),
        groups: Arc::clone(&groups),
        clock: Arc::clone(&builder.clock),
        message_bytes_max: of_transactions.expect("the catalogue has it").rules().message_bytes_max,
    };
    let transactions = TransactionService::open(transactions, &builder.config).await?;

    // Records that nobody explains may be explained again, and their offsets with them.
    let left = groups.delete_orphans(|topic| snapshot.get(topic).is_some() || refused.contains(topic)).await;
    refused.extend(left);
    // A path that was opened a moment ago has an absolute one.
    let root = std::path::absolute(&builder.root).unwrap_or(builder.root);
    let description = crate::engine::describe(&cluster_id, &builder.config);
    let shared = Arc::new(Shared {
        root,
        disk: builder.disk,
        config: builder.config,
        clock: builder.clock,
        random: builder.random,
        memory,
        description,
        store,
        journal: catalogue,
        catalogue: newest,
        writer: TopicWriter::new(refused),
        producer_ids,
        groups,
        transactions,
        group_configs: RwLock::new(group_configs),
        maintenance: Maintenance::default(),
        moves,
        closed: OnceCell::new(),
    });
    shared.close_moved();
    shared.start_maintenance();
    Ok(Broker(shared))
}

/// `log.open.files.max`, or half of what the process may open, for connections are files, too, and so many that their
/// memory in the kernel, some 2 KiB each, is little beside the budget. One that was written to must be synced before it can
/// be closed: ten thousand partitions should not have to take turns.
fn open_files_max(builder: &BrokerBuilder, memory: &Memory) -> usize {
    const UNKNOWN: u64 = 1024;
    const MOST: u64 = 16_384;
    const BUDGET_BYTES_EACH: u64 = 50 << 10;
    let budget = memory.limit_bytes() as u64;
    let half = builder.machine.open_files.unwrap_or(UNKNOWN) / 2;
    let set = u64::try_from(builder.config.number("log.open.files.max")).ok();
    usize::try_from(set.unwrap_or(half.min(budget / BUDGET_BYTES_EACH).min(MOST))).unwrap_or(usize::MAX)
}

/// Takes the directory and reads the catalogue. Nothing but the internal topics is touched.
fn open_internal(builder: &BrokerBuilder, open_files_max: usize) -> Result<Internal, BrokerError> {
    let number = |name: &str| builder.config.number(name);
    let store = Store::open(StoreConfig {
        root: builder.root.clone(),
        disk: Arc::clone(&builder.disk),
        clock: Arc::clone(&builder.clock),
        workers: Arc::clone(&builder.workers),
        random: Arc::clone(&builder.random),
        journal_file_bytes: number("log.journal.file.bytes").unsigned_abs(),
        queue_appends_max: number("log.queue.appends.max") as usize,
        open_files_max,
        producer_expiration_ms: number("producer.id.expiration.ms"),
    })?;
    let rules = catalogue_rules();
    let catalogue = Journal::open(&store, CATALOGUE_TOPIC, rules.log, Absent::Create)?;
    let mut restored = Restored::default();
    catalogue.read_all(|_, at| restored.take(&at.record, &builder.config))?;
    let open_own = |name: &str| {
        let known = restored.topics.get(name);
        let configs = known.map_or_else(internal_configs, |known| known.configs.clone());
        let rules = TopicRules::of(&configs, &builder.config).internal();
        let absent = if known.is_some() { Absent::Damage } else { Absent::Create };
        Journal::open(&store, name, rules.log, absent)
    };
    let (offsets, transactions) = (open_own(OFFSETS_TOPIC)?, open_own(TRANSACTIONS_TOPIC)?);
    Ok(Internal { store, catalogue, offsets, transactions, restored })
}

impl Restored {
    pub(crate) fn take(&mut self, record: &Record, broker: &BrokerConfig) -> Result<(), String> {
        let key = record.key.as_ref().and_then(|key| Key::parse(key)).ok_or("its key is unknown")?;
        let value = record.value.as_deref();
        let told = |error: serde_json::Error| error.to_string();
        match (key, value) {
            (Key::Cluster, Some(value)) => {
                self.cluster_id = Some(serde_json::from_slice::<ClusterRecord>(value).map_err(told)?.id);
            }
            (Key::ProducerIds, Some(value)) => {
                self.next_producer_id =
                    serde_json::from_slice::<ProducerIdsRecord>(value).map_err(told)?.next;
            }
            (Key::Topic(name), Some(value)) => {
                let mut topic: TopicRecord = serde_json::from_slice(value).map_err(told)?;
                check_topic_name(&name).map_err(|error| error.to_string())?;
                let stored = ConfigOp::ReplaceAll(topic.configs.into_iter().collect());
                let checked = apply(&TopicConfigs::new(), &[stored], broker);
                topic.configs = checked.map_err(|error| error.to_string())?;
                if topic.partitions < 1 {
                    return Err("a topic without partitions".to_owned());
                }
                self.deleted.remove(&name);
                self.topics.insert(name, topic);
            }
            (Key::Topic(name), None) => {
                self.topics.remove(&name);
                self.deleted.insert(name);
            }
            (Key::Group(name), Some(value)) => {
                let stored: GroupConfigsRecord = serde_json::from_slice(value).map_err(told)?;
                self.group_configs.insert(name, stored.configs);
            }
            (Key::Group(name), None) => {
                self.group_configs.remove(&name);
            }
            (Key::Move(id), Some(value)) => {
                self.moves.insert(id, serde_json::from_slice(value).map_err(told)?);
            }
            (Key::Move(id), None) => {
                self.moves.remove(&id);
            }
            (Key::Cluster | Key::ProducerIds, None) => {
                return Err("it deletes what is never deleted".to_owned());
            }
        }
        Ok(())
    }
}

/// A new data directory gets its identity and its topics of offsets and of transactions; so does one of an older version. The
/// cluster's id.
async fn write_first_records(
    builder: &BrokerBuilder,
    catalogue: &Journal,
    restored: &mut Restored,
) -> Result<String, BrokerError> {
    let mut records: Vec<Record> = Vec::new();
    let cluster_id = restored.cluster_id.clone().unwrap_or_else(|| {
        let id = base64_url(builder.random.uuid());
        records.push(Key::Cluster.record(&ClusterRecord { version: Version, id: id.clone() }));
        id
    });
    for name in [OFFSETS_TOPIC, TRANSACTIONS_TOPIC] {
        if restored.topics.contains_key(name) {
            continue;
        }
        let topic = TopicRecord {
            version: Version,
            id: TopicId(builder.random.uuid()),
            partitions: 1,
            configs: internal_configs(),
            internal: true,
        };
        records.push(Key::Topic(name.to_owned()).record(&topic));
        restored.topics.insert(name.to_owned(), topic);
    }
    if !records.is_empty() {
        let now_ms = builder.clock.now_ms();
        let records: Vec<Record> = records.into_iter().map(|record| record.at(now_ms)).collect();
        let failed = |error| BrokerError::InternalWrite { topic: CATALOGUE_TOPIC.to_owned(), error };
        catalogue.append(&records).await.map_err(failed)?;
    }
    Ok(cluster_id)
}

/// Kafka's settings of `__consumer_offsets` and `__transaction_state`, and durable whatever the broker's default is.
fn internal_configs() -> TopicConfigs {
    [("cleanup.policy", "compact"), ("flush.messages", "1"), ("segment.bytes", "104857600")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// The catalogue is read before anything that could set it otherwise.
pub(crate) fn catalogue_rules() -> TopicRules {
    TopicRules::of(&internal_configs(), &BrokerConfig::default()).internal()
}

/// Opens every topic that the catalogue knows, and looks at the directories that it does not.
fn open_topics(
    builder: &BrokerBuilder,
    store: &Store,
    memory: &Memory,
    own: &[Journal],
    restored: &Restored,
) -> Result<(Catalogue, BTreeSet<String>), BrokerError> {
    let mut snapshot = Catalogue::default();
    for (name, record) in &restored.topics {
        let rules = TopicRules::of(&record.configs, &builder.config);
        let mut partitions = Vec::new();
        for number in 0..record.partitions {
            let log = match own.iter().find(|journal| journal.log().id().topic == *name) {
                Some(journal) => journal.log().clone(),
                // It was durable before the catalogue knew it.
                None => store.open_partition(name, number, rules.log, Absent::Damage)?,
            };
            if let LogStatus::Stopped(fault) = log.status() {
                tracing::error!(topic = name, partition = number, %fault, "the partition is damaged and has stopped");
            }
            let clock = Arc::clone(&builder.clock);
            partitions.push(Partition::new(log, clock, memory.clone(), record.internal, rules));
        }
        snapshot = snapshot.with(Arc::new(Topic {
            name: name.clone(),
            id: record.id,
            internal: record.internal,
            partition_count: record.partitions,
            partitions,
            configs: record.configs.clone(),
            keyless: AtomicU32::default(),
        }));
    }
    let mut refused = BTreeSet::new();
    for name in store.topic_directories()? {
        if name == CATALOGUE_TOPIC || restored.topics.contains_key(&name) {
            continue;
        }
        let explained = restored.deleted.contains(&name) || !store.topic_holds_records(&name)?;
        if explained {
            tracing::info!(
                topic = name,
                "removing what remains of a topic that was deleted or never finished"
            );
            store.remove_topic(&name)?;
        } else {
            tracing::warn!(
                topic = name,
                "there are records of a topic that the catalogue does not know; they are left alone"
            );
            refused.insert(name);
        }
    }
    Ok((snapshot, refused))
}
