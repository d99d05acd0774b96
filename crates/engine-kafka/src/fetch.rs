//! Reading partitions. A few consumers fetch for all readers: one request to a broker asks for all of its partitions.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anabranch_core::batch::RecordAt;
use anabranch_core::engine::{Block, EngineError, Fetched, Position, ReadLimits, Reader};
use anabranch_core::{Offset, TopicPartition};
use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};

use crate::engine::Cluster;
use crate::error::{blame, failed};
use crate::native::{Event, PartitionQueue};
use crate::settings::KafkaSettings;
use crate::watch::Watch;

/// What a consumer fetches ahead per partition, KiB.
const AHEAD_KIB: &str = "4096";
/// How long a fetch is put off when that is full, ms. Librdkafka's second would be a pause in every long read.
const FULL_BACKOFF_MS: &str = "2";
/// How long a broker waits for something to send, ms. That nothing is behind a transaction's marker is told by an answer with
/// nothing in it, and a partition that is read from now on is asked for in the next request: librdkafka's half second would
/// come before each.
const WAIT_MS: &str = "100";
/// How often a consumer's events are served.
const SERVE_INTERVAL: Duration = Duration::from_millis(100);

/// The consumers. A partition is assigned to each of them once at most, so two readers of a partition have two.
#[derive(Debug)]
pub(crate) struct Fetchers {
    settings: KafkaSettings,
    all: Mutex<Vec<Arc<Fetcher>>>,
}

struct Fetcher {
    consumer: Arc<BaseConsumer<Watch>>,
    watch: Watch,
    assigned: Mutex<HashSet<TopicPartition>>,
    closing: Arc<AtomicBool>,
}

/// A partition that is being fetched, until it is dropped.
#[derive(Debug)]
struct Lane {
    queue: PartitionQueue,
    fetcher: Arc<Fetcher>,
    at: TopicPartition,
}

impl Fetchers {
    pub(crate) fn new(settings: KafkaSettings) -> Self {
        Self { settings, all: Mutex::default() }
    }

    fn lane(&self, at: &TopicPartition, from: Position) -> KafkaResult<Lane> {
        let mut all = self.all.lock();
        let free = all.iter().find(|fetcher| fetcher.assigned.lock().insert(at.clone())).map(Arc::clone);
        let fetcher = match free {
            Some(fetcher) => fetcher,
            None => {
                let fetcher = Fetcher::new(&self.settings)?;
                fetcher.assigned.lock().insert(at.clone());
                all.push(Arc::clone(&fetcher));
                fetcher
            }
        };
        drop(all);
        fetcher.lane(at, from)
    }

    pub(crate) fn close(&self) {
        self.all.lock().clear();
    }
}

impl Fetcher {
    fn new(settings: &KafkaSettings) -> KafkaResult<Arc<Self>> {
        let watch = Watch::default();
        let mut config = settings.client();
        // A group is asked for by the library; nobody joins it, and nothing is committed.
        config
            .set("group.id", "anabranch-reader")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("queued.max.messages.kbytes", AHEAD_KIB)
            .set("fetch.queue.backoff.ms", FULL_BACKOFF_MS)
            .set("fetch.wait.max.ms", WAIT_MS);
        let consumer: Arc<BaseConsumer<Watch>> = Arc::new(config.create_with_context(watch.clone())?);
        let closing = Arc::new(AtomicBool::new(false));
        let fetcher = Arc::new(Self { consumer, watch, assigned: Mutex::default(), closing });
        let (served, closing) = (Arc::downgrade(&fetcher.consumer), Arc::clone(&fetcher.closing));
        std::thread::Builder::new()
            .name("kafka-fetcher".into())
            .spawn(move || serve(&served, &closing))
            .map_err(|error| rdkafka::error::KafkaError::ClientCreation(error.to_string()))?;
        Ok(fetcher)
    }

    fn lane(self: Arc<Self>, at: &TopicPartition, from: Position) -> KafkaResult<Lane> {
        let lane = || {
            let queue = PartitionQueue::split(Arc::clone(&self.consumer), at)
                .ok_or(rdkafka::error::KafkaError::Global(RDKafkaErrorCode::UnknownPartition))?;
            let mut list = TopicPartitionList::new();
            let from = rdkafka::Offset::Offset(Offset::from(from).0);
            list.add_partition_offset(&at.topic, at.partition, from)?;
            self.consumer.incremental_assign(&list)?;
            Ok(queue)
        };
        match lane() {
            Ok(queue) => Ok(Lane { queue, fetcher: self, at: at.clone() }),
            Err(error) => {
                self.assigned.lock().remove(at);
                Err(error)
            }
        }
    }
}

/// Serves what is no partition's, for as long as there is a consumer.
fn serve(consumer: &Weak<BaseConsumer<Watch>>, closing: &AtomicBool) {
    while !closing.load(Ordering::Relaxed) {
        let Some(consumer) = consumer.upgrade() else { return };
        if let Some(Err(error)) = consumer.poll(SERVE_INTERVAL) {
            tracing::debug!(%error, "a consumer reports");
        }
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.at.topic, self.at.partition);
        if let Err(error) = self.fetcher.consumer.incremental_unassign(&list) {
            tracing::debug!(%error, at = %self.at, "a partition was not let go");
        }
        self.fetcher.assigned.lock().remove(&self.at);
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("assigned", &*self.assigned.lock()).finish_non_exhaustive()
    }
}

/// Reads one partition.
#[derive(Debug)]
pub(crate) struct KafkaReader {
    cluster: Arc<Cluster>,
    at: TopicPartition,
    next: Position,
    /// None before the first read, after a jump and after an error.
    lane: Option<Lane>,
    /// What has come and was not handed out.
    ready: VecDeque<RecordAt>,
    /// Where the partition ended behind that, if it did.
    ended: Option<Position>,
    /// What came behind that.
    failure: Option<(RDKafkaErrorCode, String)>,
}

impl KafkaReader {
    pub(crate) fn new(cluster: Arc<Cluster>, at: TopicPartition, from: Position) -> Self {
        Self { cluster, at, next: from, lane: None, ready: VecDeque::new(), ended: None, failure: None }
    }

    /// Takes what has come, up to about `bytes_max`; tells whether anything has.
    fn gather(&mut self, bytes_max: usize) -> Result<bool, EngineError> {
        let lane = match &self.lane {
            Some(lane) => lane,
            None => {
                let lane = self.cluster.fetchers.lane(&self.at, self.next);
                &*self.lane.insert(lane.map_err(|error| blame(&self.at, &error))?)
            }
        };
        let mut bytes: usize = self.ready.iter().map(|at| at.record.size_bytes()).sum();
        let mut any = false;
        while bytes < bytes_max && self.failure.is_none() {
            let came = lane.queue.take(|event| match event {
                Event::Record(record) if self.failure.is_none() => {
                    bytes += record.record.size_bytes();
                    self.ready.push_back(record);
                    self.ended = None;
                }
                Event::End(offset) if self.failure.is_none() => self.ended = Some(offset.into()),
                Event::Failed(code, said) if self.failure.is_none() => self.failure = Some((code, said)),
                // It is read again after the failure.
                Event::Record(_) | Event::End(_) | Event::Failed(..) => {}
            });
            if !came {
                break;
            }
            any = true;
        }
        if any {
            lane.fetcher.watch.is_back();
        }
        Ok(any)
    }

    /// What is ready, if that leads on.
    fn hand_out(&mut self, bytes_max: usize) -> Option<Fetched> {
        let (mut records, mut bytes) = (Vec::with_capacity(self.ready.len()), 0);
        while let Some(record) = self.ready.front() {
            bytes += record.record.size_bytes();
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            records.extend(self.ready.pop_front());
        }
        let behind = records.last().map_or(self.next, |last: &RecordAt| last.offset.plus(1).into());
        let next = match (self.ready.is_empty(), self.ended) {
            (true, Some(ended)) => ended.max(behind),
            _ => behind,
        };
        (next > self.next).then(|| {
            self.next = next;
            self.fetched(Block::Records(records))
        })
    }

    fn fetched(&self, block: Block) -> Fetched {
        let at_end = self.ready.is_empty() && self.ended.is_some_and(|ended| ended <= self.next);
        let known = self.lane.as_ref().filter(|_| !at_end).and_then(|lane| lane.queue.known_end());
        let latest = known.map_or(self.next, Position::from).max(self.next);
        Fetched { block, next: self.next, latest }
    }

    /// What a failure means. What was fetched is fetched again.
    async fn explain(&mut self, code: RDKafkaErrorCode, said: String) -> EngineError {
        self.start_over();
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                match self.cluster.ends(&self.at).await {
                    Ok((earliest, latest)) if self.next < earliest || self.next > latest => {
                        EngineError::OutOfRange {
                            partition: self.at.clone(),
                            position: self.next,
                            earliest,
                            latest,
                        }
                    }
                    Ok(_) => failed(said),
                    Err(error) => error,
                }
            }
            code => blame(&self.at, &rdkafka::error::KafkaError::MessageConsumption(code)),
        }
    }

    fn start_over(&mut self) {
        self.lane = None;
        self.ready.clear();
        self.ended = None;
        self.failure = None;
    }
}

#[async_trait]
impl Reader for KafkaReader {
    fn position(&self) -> Position {
        self.next
    }

    async fn read(&mut self, limits: ReadLimits) -> Result<Fetched, EngineError> {
        let give_up = tokio::time::sleep(limits.wait_max);
        tokio::pin!(give_up);
        loop {
            self.cluster.check_open()?;
            let came = self.gather(limits.bytes_max)?;
            if let Some(fetched) = self.hand_out(limits.bytes_max) {
                return Ok(fetched);
            }
            if let Some((code, said)) = self.failure.take() {
                return Err(self.explain(code, said).await);
            }
            if came {
                continue;
            }
            let lane = self.lane.as_ref().expect("it gathers by one");
            tokio::select! {
                () = lane.queue.news().notified() => {}
                () = self.cluster.closed() => {}
                () = &mut give_up => {
                    self.check_reach().await?;
                    return Ok(self.fetched(Block::EMPTY));
                }
            }
        }
    }

    fn seek(&mut self, to: Position) {
        if to != self.next {
            self.start_over();
            self.next = to;
        }
    }
}

impl KafkaReader {
    /// Nothing came: is there nothing, or nobody to send it?
    async fn check_reach(&self) -> Result<(), EngineError> {
        let Some(lane) = &self.lane else { return Ok(()) };
        if lane.fetcher.watch.away().is_none() {
            return Ok(());
        }
        self.cluster.ends(&self.at).await?;
        lane.fetcher.watch.is_back();
        Ok(())
    }
}
