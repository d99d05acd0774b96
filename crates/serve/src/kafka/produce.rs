//! Produce (key 0, versions 3 to 13). Batches go to the log as the bytes that came.
//!
//! From version 13 topics are addressed by id (KIP-516); from version 8 errors come with a message, and name the records
//! that are wrong (KIP-467). From version 12 on, a partition joins its producer's transaction by what is produced to it;
//! before, it must have joined by AddPartitionsToTxn (KIP-890).

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use anabranch_broker::transaction::event::{How, Join};
use anabranch_broker::transaction::{TransactionError, TransactionVersion};
use anabranch_broker::{
    Ack, Membership, Part, Partition, ProduceError, Produced, Producing as Queued, RecordsRefused,
};
use anabranch_core::TopicPartition;
use anabranch_core::batch::{BatchError, BatchHeader, Compression, NO_TIMESTAMP};
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use anabranch_wire::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use anabranch_wire::messages::{ProduceRequest, ProduceResponse, TopicName};
use bytes::Bytes;
use uuid::Uuid;

use super::codes::{self, Refusal, refusal};
use super::connection::throttle_told_ms;
use super::{Door, find_topic, text};

/// A request whose batches are queued, each where it could be.
#[derive(Debug)]
pub(super) struct Producing {
    topics: Vec<(TopicName, Uuid, Vec<Partitioned>)>,
    /// The record by which the partitions join is on its way.
    joining: Option<Membership>,
    version: i16,
    is_answered: bool,
    held_back: Duration,
}

/// A partition's number, and its batch on its way.
type Partitioned = (i32, Result<(Partition, Queued), Refused>);

/// Why a batch is not taken.
#[derive(Debug, Clone)]
struct Refused {
    refusal: Refusal,
    /// The records that it is for.
    records: Vec<BatchIndexAndErrorMessage>,
    /// Where the log starts, if it was asked.
    log_start: i64,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, records: Vec::new(), log_start: -1 }
    }
}

fn refused(error: &ProduceError, partition: &Partition) -> Refused {
    let records = match error {
        ProduceError::InvalidRecords(RecordsRefused { errors, .. })
        | ProduceError::InvalidTimestamps(RecordsRefused { errors, .. }) => errors.as_slice(),
        _ => &[],
    };
    let named = records.iter().map(|record| {
        BatchIndexAndErrorMessage::default()
            .with_batch_index(record.index)
            .with_batch_index_error_message(Some(text(&record.reason)))
    });
    let code = codes::produce(error);
    // `ReplicaManager.appendRecordsToLeader` says it with all but these.
    let log_start = match code {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotLeaderOrFollower
        | ErrorCode::InvalidTopicException
        | ErrorCode::MessageTooLarge
        | ErrorCode::RecordListTooLarge
        | ErrorCode::CorruptMessage
        | ErrorCode::KafkaStorageError => -1,
        _ => partition.offsets().log_start.0,
    };
    Refused { refusal: refusal(code, error.to_string()), records: named.collect(), log_start }
}

impl Producing {
    /// Whether the client waits for an answer: not with acks=0.
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// Waits until every batch is as safe as was asked for.
    pub(super) async fn answer(self) -> ProduceResponse {
        let joined = match self.joining {
            None => Ok(()),
            Some(joining) => joining.answer().await.map(|_| ()),
        };
        let joined = joined.map_err(|error| outside(error, self.version));
        let mut responses = Vec::with_capacity(self.topics.len());
        for (name, topic_id, partitions) in self.topics {
            let mut answered = Vec::with_capacity(partitions.len());
            for (index, queued) in partitions {
                let produced = match queued {
                    Ok((partition, queued)) => {
                        queued.answer().await.map_err(|error| refused(&error, &partition))
                    }
                    Err(refused) => Err(refused),
                };
                let produced = produced.and_then(|produced| match &joined {
                    Ok(()) => Ok(produced),
                    Err(outside) => Err(outside.clone().into()),
                });
                answered.push(partition_response(index, produced));
            }
            responses.push(
                TopicProduceResponse::default()
                    .with_name(name)
                    .with_topic_id(topic_id)
                    .with_partition_responses(answered),
            );
        }
        let throttle_ms = throttle_told_ms(self.held_back);
        ProduceResponse::default().with_responses(responses).with_throttle_time_ms(throttle_ms)
    }
}

/// Queues the batches of a request, in order. It was held back so long for want of memory. `timeout_ms` has no meaning here: it bounds the wait for replicas.
///
/// What is wrong is found in Kafka's order: places and forms first, then transactions, then `acks`, then the records.
pub(super) async fn submit(
    door: &Door,
    version: i16,
    request: ProduceRequest,
    held_back: Duration,
) -> Producing {
    let is_answered = request.acks != 0;
    let ack = match request.acks {
        0 | 1 => Ok(Ack::Written),
        -1 => Ok(Ack::Durable),
        acks => Err(refusal(ErrorCode::InvalidRequiredAcks, format!("acks {acks} is not -1, 0 or 1"))),
    };
    let id = request.transactional_id.as_ref().map(|id| id.to_string());
    let topics: Vec<_> =
        request.topic_data.into_iter().map(|topic| Placed::of(door, version, topic)).collect();
    let joined = join(door, version, id, &topics).await;
    let mut queued = Vec::with_capacity(topics.len());
    for Placed { name, topic_id, batches } in topics {
        let mut partitions = Vec::with_capacity(batches.len());
        for (index, batch) in batches {
            let outcome = match (&joined, batch) {
                (Err(refused), _) => Err(refused.clone().into()),
                (_, Err((refused, _))) => Err(refused.into()),
                (Ok(within), Ok(batch)) => {
                    let Placing { partition, header, records } = batch;
                    let queued = match (within.outside.get(partition.id()), &ack) {
                        (Some(refused), _) | (None, Err(refused)) => Err(refused.clone().into()),
                        (None, Ok(ack)) => queue(door, &partition, &header, records, *ack, within.part).await,
                    };
                    if queued.is_err() && header.is_transactional() {
                        partition.note_refused(&header, version_of(version)).await;
                    }
                    queued.map(|queued| (partition, queued))
                }
            };
            partitions.push((index, outcome));
        }
        queued.push((name, topic_id, partitions));
    }
    let joining = joined.ok().and_then(|within| within.joining);
    Producing { topics: queued, joining, version, is_answered, held_back }
}

/// A topic's batches, those of them that may be appended with their partitions.
struct Placed {
    name: TopicName,
    topic_id: Uuid,
    batches: Vec<(i32, Result<Placing, Misplaced>)>,
}

/// Why a batch may not be appended, and whether it claims to be in a transaction, as far as it can be read.
type Misplaced = (Refusal, bool);

struct Placing {
    partition: Partition,
    header: BatchHeader,
    records: Bytes,
}

impl Placed {
    fn of(door: &Door, version: i16, topic: TopicProduceData) -> Self {
        let TopicProduceData { name, topic_id, partition_data, .. } = topic;
        let found = find_topic(door, version >= 13, &name, topic_id);
        let batches = partition_data.into_iter().map(|PartitionProduceData { index, records, .. }| {
            let records = records.unwrap_or_default();
            let header = BatchHeader::parse(&records);
            // What is cut is no batch to Kafka.
            let is_transactional = header
                .as_ref()
                .is_ok_and(|header| header.is_transactional() && records.len() >= header.len_bytes);
            let partition = match &found {
                Err(code) => Err(refusal(*code, "there is no such topic")),
                Ok(topic) => topic
                    .partition(index)
                    .cloned()
                    .ok_or_else(|| refusal(ErrorCode::UnknownTopicOrPartition, "there is no such partition")),
            };
            let placing = partition.and_then(|partition| {
                let header = check_form(version, &records, header)?;
                Ok(Placing { partition, header, records })
            });
            (index, placing.map_err(|refused| (refused, is_transactional)))
        });
        Self { batches: batches.collect(), name, topic_id }
    }

    fn is_transactional(&self) -> bool {
        self.batches.iter().any(|(_, batch)| match batch {
            Ok(batch) => batch.header.is_transactional(),
            Err((_, is_transactional)) => *is_transactional,
        })
    }
}

/// `ProduceRequest.validateRecords`: one batch of format 2, in a codec that the version may have.
fn check_form(
    version: i16,
    records: &Bytes,
    header: Result<BatchHeader, BatchError>,
) -> Result<BatchHeader, Refusal> {
    let invalid = |why: &str| refusal(ErrorCode::InvalidRecord, why);
    let header = match header {
        Ok(header) => header,
        Err(BatchError::Truncated { .. }) => return Err(invalid("there is no whole batch")),
        Err(BatchError::UnsupportedMagic(_)) => return Err(invalid("only batches of format 2 are taken")),
        Err(error) => return Err(refusal(codes::batch(&error), error.to_string())),
    };
    if records.len() < header.len_bytes {
        return Err(invalid("there is no whole batch"));
    }
    // KIP-110: "Zstd" came with version 7, and older consumers of the same generation cannot read it.
    if version < 7 && header.compression() == Ok(Compression::Zstd) {
        return Err(refusal(ErrorCode::UnsupportedCompressionType, "zstd needs produce version 7"));
    }
    if records.len() > header.len_bytes {
        return Err(invalid("something follows the batch, and one is all that is taken"));
    }
    Ok(header)
}

/// By which rules a request's transaction goes: from version 12 on the client knows those of KIP-890.
fn version_of(version: i16) -> TransactionVersion {
    if version >= 12 { TransactionVersion::V2 } else { TransactionVersion::V0 }
}

/// What the coordinator says of a request.
#[derive(Debug, Default)]
struct InTransaction {
    part: Option<Part>,
    /// Partitions that must not be appended to.
    outside: HashMap<TopicPartition, Refusal>,
    joining: Option<Membership>,
}

/// Asks the coordinator for leave to append what is transactional. A refusal is of the whole request.
async fn join(
    door: &Door,
    version: i16,
    id: Option<String>,
    topics: &[Placed],
) -> Result<InTransaction, Refusal> {
    if id.is_none() && topics.iter().any(Placed::is_transactional) {
        let why = "records of a transaction need a transactional id";
        return Err(refusal(ErrorCode::TransactionalIdAuthorizationFailed, why));
    }
    let batches = topics.iter().flat_map(|topic| &topic.batches).filter_map(|(_, batch)| batch.as_ref().ok());
    let (mut producers, mut partitions) = (BTreeSet::new(), Vec::new());
    for batch in batches.filter(|batch| batch.header.is_transactional()) {
        producers.insert((batch.header.producer_id, batch.header.producer_epoch));
        partitions.push(batch.partition.id().clone());
    }
    let mut producers = producers.into_iter();
    let (producer, epoch) = match (producers.next(), producers.next()) {
        (None, _) => return Ok(InTransaction::default()),
        (Some(only), None) => only,
        (Some(_), Some(_)) => {
            let why = "the request has records of several producers";
            return Err(refusal(ErrorCode::InvalidProducerIdMapping, why));
        }
    };
    let transactions = door.broker.transactions();
    let id = id.unwrap_or_default();
    let asked = |how| Join { id, producer, epoch, partitions: partitions.clone(), how };
    let rules = version_of(version);
    if rules == TransactionVersion::V2 {
        return Ok(match transactions.join_in_turn(asked(How::Add(rules))).await {
            Ok(joining) => {
                let part = Some(joining.part());
                InTransaction { part, joining: Some(joining), ..Default::default() }
            }
            Err(error) => none_within(partitions, error, version),
        });
    }
    let verified = async {
        let verified = transactions.join(asked(How::Verify)).await?;
        let part = Some(verified.part());
        Ok((part, verified.answer().await?))
    };
    Ok(match verified.await {
        Ok((part, each)) => {
            let each = partitions.into_iter().zip(each);
            let outside =
                each.filter_map(|(partition, each)| Some((partition, outside(each.err()?, version))));
            InTransaction { part, outside: outside.collect(), joining: None }
        }
        Err(error) => none_within(partitions, error, version),
    })
}

fn none_within(partitions: Vec<TopicPartition>, error: TransactionError, version: i16) -> InTransaction {
    let refused = outside(error, version);
    let outside = partitions.into_iter().map(|partition| (partition, refused.clone())).collect();
    InTransaction { outside, ..Default::default() }
}

/// What is said of a partition that is not in the transaction.
fn outside(error: TransactionError, version: i16) -> Refusal {
    refusal(codes::produce_in_transaction(error, version), error.to_string())
}

async fn queue(
    door: &Door,
    partition: &Partition,
    header: &BatchHeader,
    records: Bytes,
    ack: Ack,
    part: Option<Part>,
) -> Result<Queued, Refused> {
    match partition.submit_in(records, ack, part).await {
        Ok(queued) => {
            door.metrics.records_in.add(header.record_count.unsigned_abs().into());
            Ok(queued)
        }
        Err(error) => Err(refused(&error, partition)),
    }
}

fn partition_response(index: i32, produced: Result<Produced, Refused>) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default().with_index(index);
    match produced {
        Ok(produced) => response
            .with_base_offset(produced.base_offset.0)
            .with_log_append_time_ms(produced.log_append_time_ms)
            .with_log_start_offset(produced.log_start.0),
        Err(Refused { refusal: (code, message), records, log_start }) => response
            .with_record_errors(records)
            .with_error_code(code)
            .with_error_message(message)
            .with_base_offset(-1)
            .with_log_append_time_ms(NO_TIMESTAMP)
            .with_log_start_offset(log_start),
    }
}
