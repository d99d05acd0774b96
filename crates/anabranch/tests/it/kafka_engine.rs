//! A Kafka cluster as an engine, by librdkafka: as much of it as a flow needs, so that a flow can run in a process of its own.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch::core::batch::{BatchBuilder, Compression, Record};
use anabranch::{Engine, EngineError, Place, TopicPartition};
use anabranch_core::engine::{
    AppendOptions, Appended, Block, Description, Ensured, Fetched, GroupMember, GroupPositions, Limits,
    Payload, Position, ReadLimits, Reader, Support, TopicSpec, TransactionalProducer, Transactions,
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::harness::DEADLINE;
use crate::kill9::{client, group_client};

pub(crate) struct KafkaEngine {
    addr: String,
    description: Description,
}

/// Reads one partition.
struct KafkaReader {
    cursor: Arc<Mutex<Cursor>>,
    at: TopicPartition,
    next: Position,
}

struct Cursor {
    consumer: BaseConsumer,
    /// Where the consumer goes on by itself.
    next: Option<Position>,
}

impl KafkaEngine {
    pub(crate) fn new(addr: &str) -> Self {
        let limits =
            Limits { record_bytes_max: 1 << 20, append_bytes_max: 1 << 20, append_records_max: u32::MAX };
        let description = Description::new("kafka", "4", addr, 1, limits, |_| Support::Native);
        Self { addr: addr.to_owned(), description }
    }

    fn consumer(&self) -> BaseConsumer {
        group_client(&self.addr, "reads")
    }

    fn count(&self, topic: &str) -> Result<i32, EngineError> {
        let metadata = self.consumer().fetch_metadata(Some(topic), DEADLINE).map_err(failed)?;
        Ok(metadata.topics()[0].partitions().len() as i32)
    }
}

impl fmt::Debug for KafkaEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaEngine").field("addr", &self.addr).finish_non_exhaustive()
    }
}

fn failed(error: KafkaError) -> EngineError {
    EngineError::Failed(Box::new(error))
}

#[async_trait]
impl Engine for KafkaEngine {
    fn description(&self) -> &Description {
        &self.description
    }

    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<Ensured, EngineError> {
        let admin: AdminClient<DefaultClientContext> = client(&self.addr).create().map_err(failed)?;
        let mut topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(1));
        for (name, value) in &spec.configs {
            topic = topic.set(name, value);
        }
        let created = admin.create_topics([&topic], &AdminOptions::new()).await.map_err(failed)?;
        match created.into_iter().next().expect("one was asked for") {
            Ok(_) => Ok(Ensured::Created),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(Ensured::Existed),
            Err((_, code)) => Err(failed(KafkaError::AdminOp(code))),
        }
    }

    async fn partition_count(&self, topic: &str) -> Result<i32, EngineError> {
        match self.count(topic)? {
            0 => Err(EngineError::NotFound(TopicPartition::new(topic, 0))),
            count => Ok(count),
        }
    }

    async fn append(
        &self,
        _: &TopicPartition,
        _: Payload,
        _: AppendOptions,
    ) -> Result<Appended, EngineError> {
        unimplemented!("a flow appends in transactions")
    }

    async fn reader(&self, at: &TopicPartition, from: Position) -> Result<Box<dyn Reader>, EngineError> {
        let cursor = Arc::new(Mutex::new(Cursor { consumer: self.consumer(), next: None }));
        Ok(Box::new(KafkaReader { cursor, at: at.clone(), next: from }))
    }

    async fn trim(&self, _: &TopicPartition, _: Position) -> Result<Position, EngineError> {
        unimplemented!("no flow trims")
    }

    async fn locate(&self, partition: &TopicPartition, place: Place) -> Result<Position, EngineError> {
        let found = self.consumer().fetch_watermarks(&partition.topic, partition.partition, DEADLINE);
        let (earliest, latest) = found.map_err(failed)?;
        match place {
            Place::Earliest => Ok(Position(earliest as u64)),
            Place::Latest => Ok(Position(latest as u64)),
            Place::AtTime(_) => unimplemented!("no flow asks for it"),
        }
    }

    async fn join(&self, _: &str, _: &[String]) -> Result<Box<dyn GroupMember>, EngineError> {
        unimplemented!("no flow is a member")
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        Some(self)
    }

    async fn close(&self) {}
}

impl fmt::Debug for KafkaReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaReader").field("at", &self.at).finish_non_exhaustive()
    }
}

#[async_trait]
impl Reader for KafkaReader {
    fn position(&self) -> Position {
        self.next
    }

    async fn read(&mut self, limits: ReadLimits) -> Result<Fetched, EngineError> {
        let (cursor, at, from) = (Arc::clone(&self.cursor), self.at.clone(), self.next);
        let read =
            tokio::task::spawn_blocking(move || cursor.lock().read(&at, from, limits)).await.unwrap()?;
        self.next = read.next;
        Ok(read)
    }

    fn seek(&mut self, to: Position) {
        self.next = to;
    }
}

impl Cursor {
    fn read(
        &mut self,
        at: &TopicPartition,
        from: Position,
        limits: ReadLimits,
    ) -> Result<Fetched, EngineError> {
        let until = Instant::now() + limits.wait_max;
        let (_, latest) =
            self.consumer.fetch_watermarks(&at.topic, at.partition, DEADLINE).map_err(failed)?;
        if self.next != Some(from) {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&at.topic, at.partition, Offset::Offset(from.0 as i64))
                .map_err(failed)?;
            self.consumer.assign(&list).map_err(failed)?;
        }
        let (mut batches, mut next) = (Vec::new(), from.0);
        while batches.len() < limits.bytes_max {
            let wait = if batches.is_empty() {
                until.saturating_duration_since(Instant::now())
            } else {
                Duration::ZERO
            };
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let start = batches.len();
                    let record = Record {
                        key: message.key().map(Bytes::copy_from_slice),
                        value: message.payload().map(Bytes::copy_from_slice),
                        headers: Vec::new(),
                        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                    };
                    batches.extend_from_slice(&BatchBuilder::new(Compression::None).push(&record).build()?);
                    batches[start..start + 8].copy_from_slice(&message.offset().to_be_bytes());
                    next = message.offset() as u64 + 1;
                }
                // What was stable before is read, or not shown.
                Some(Err(KafkaError::PartitionEOF(_))) if next < latest as u64 => next = latest as u64,
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => return Err(failed(error)),
                None => break,
            }
        }
        self.next = Some(Position(next));
        Ok(Fetched {
            block: Block::Batches(batches.into()),
            next: Position(next),
            latest: Position(next.max(latest as u64)),
        })
    }
}

#[async_trait]
impl Transactions for KafkaEngine {
    async fn producer(
        &self,
        id: &str,
        timeout: Duration,
    ) -> Result<Box<dyn TransactionalProducer>, EngineError> {
        let mut config = client(&self.addr);
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", timeout.as_millis().to_string())
            .set("message.timeout.ms", "30000");
        let producer: FutureProducer = config.create().map_err(failed)?;
        let (id, addr) = (id.to_owned(), self.addr.clone());
        let producer = KafkaProducer { producer, id, addr, group: None };
        producer.blocking(|producer| producer.init_transactions(DEADLINE)).await?;
        Ok(Box::new(producer))
    }
}

struct KafkaProducer {
    producer: FutureProducer,
    id: String,
    addr: String,
    /// The group that positions are committed of, and a consumer of its name.
    group: Option<(String, BaseConsumer)>,
}

impl fmt::Debug for KafkaProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaProducer").field("id", &self.id).finish_non_exhaustive()
    }
}

impl KafkaProducer {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&FutureProducer) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let producer = self.producer.clone();
        let done = tokio::task::spawn_blocking(move || work(&producer)).await.unwrap();
        done.map_err(|error| self.blame(error))
    }

    fn blame(&self, error: KafkaError) -> EngineError {
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        match fatal.or(error.rdkafka_error_code()) {
            Some(
                RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch,
            ) => EngineError::ProducerFenced { id: self.id.clone() },
            _ => failed(error),
        }
    }
}

#[async_trait]
impl TransactionalProducer for KafkaProducer {
    async fn commit(
        &mut self,
        appends: Vec<(TopicPartition, Payload)>,
        positions: Option<GroupPositions>,
    ) -> Result<Vec<Appended>, EngineError> {
        self.blocking(Producer::begin_transaction).await?;
        let mut sent = Vec::new();
        for (to, what) in appends {
            for (index, record) in what.into_records()?.into_iter().enumerate() {
                let Record { key, value, .. } = record;
                let mut record = FutureRecord::to(&to.topic).partition(to.partition);
                (record.key, record.payload) = (key.as_deref(), value.as_deref());
                let future = self.producer.send_result(record).map_err(|(error, _)| self.blame(error))?;
                if index == 0 {
                    sent.push(future);
                }
            }
        }
        if let Some(GroupPositions { group, positions }) = positions {
            let mut next = TopicPartitionList::new();
            for (at, position) in positions {
                let offset = Offset::Offset(position.0 as i64);
                next.add_partition_offset(&at.topic, at.partition, offset).map_err(failed)?;
            }
            if self.group.as_ref().is_none_or(|(name, _)| *name != group) {
                self.group = Some((group.clone(), group_client(&self.addr, &group)));
            }
            let consumer = &self.group.as_ref().expect("it was put there").1;
            let metadata = consumer.group_metadata().expect("it names a group");
            self.blocking(move |producer| producer.send_offsets_to_transaction(&next, &metadata, DEADLINE))
                .await?;
        }
        self.blocking(|producer| producer.commit_transaction(DEADLINE)).await?;
        let mut appended = Vec::new();
        for future in sent {
            let delivered = future.await.expect("it is committed").map_err(|(error, _)| self.blame(error))?;
            let first = Position(delivered.offset as u64);
            appended.push(Appended { first, next: first, duplicate: false });
        }
        Ok(appended)
    }
}
