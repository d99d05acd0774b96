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
use anabranch_core::batch::{BatchHeader, Compression, NO_TIMESTAMP};
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
type Partitioned = (i32, Result<Queued, Refused>);

/// A refusal, and the records that it is for.
type Refused = (Refusal, Vec<BatchIndexAndErrorMessage>);

fn refused(error: &ProduceError) -> Refused {
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
    (refusal(codes::produce(error), error.to_string()), named.collect())
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
                    Ok(queued) => queued.answer().await.map_err(|error| refused(&error)),
                    Err(refused) => Err(refused),
                };
                let produced = produced.and_then(|produced| match &joined {
                    Ok(()) => Ok(produced),
                    Err(outside) => Err((outside.clone(), Vec::new())),
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
pub(super) async fn submit(
    door: &Door,
    version: i16,
    request: ProduceRequest,
    held_back: Duration,
) -> Producing {
    let ack = match request.acks {
        0 | 1 => Ok(Ack::Written),
        -1 => Ok(Ack::Durable),
        acks => Err(refusal(ErrorCode::InvalidRequiredAcks, format!("acks {acks} is not -1, 0 or 1"))),
    };
    let joined = match ack {
        Ok(ack) => join(door, version, &request).await.map(|within| (ack, within)),
        Err(refused) => Err(refused),
    };
    let (ack, InTransaction { part, outside, joining }) = match joined {
        Ok((ack, within)) => (Ok(ack), within),
        Err(refused) => (Err(refused), InTransaction::default()),
    };
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for TopicProduceData { name, topic_id, partition_data, .. } in request.topic_data {
        let topic = find_topic(door, version >= 13, &name, topic_id);
        let mut partitions = Vec::with_capacity(partition_data.len());
        for PartitionProduceData { index, records, .. } in partition_data {
            let target = match (&ack, &topic) {
                (Err(refused), _) => Err(refused.clone()),
                (_, Err(code)) => Err(refusal(*code, "there is no such topic")),
                (Ok(ack), Ok(topic)) => match topic.partition(index) {
                    Some(partition) => match outside.get(partition.id()) {
                        Some(outside) => Err(outside.clone()),
                        None => Ok((partition, *ack)),
                    },
                    None => Err(refusal(ErrorCode::UnknownTopicOrPartition, "there is no such partition")),
                },
            };
            let queued = match target {
                Ok((partition, ack)) => queue(door, version, partition, records, ack, part).await,
                Err(refused) => Err((refused, Vec::new())),
            };
            partitions.push((index, queued));
        }
        topics.push((name, topic_id, partitions));
    }
    Producing { topics, joining, version, is_answered: request.acks != 0, held_back }
}

/// What the coordinator says of a request.
#[derive(Debug, Default)]
struct InTransaction {
    part: Option<Part>,
    /// Partitions that must not be appended to.
    outside: HashMap<TopicPartition, Refusal>,
    joining: Option<Membership>,
}

/// Asks the coordinator for leave to append what is transactional, in the order of Kafka's checks.
async fn join(door: &Door, version: i16, request: &ProduceRequest) -> Result<InTransaction, Refusal> {
    let mut producers = BTreeSet::new();
    let mut partitions = Vec::new();
    for TopicProduceData { name, topic_id, partition_data, .. } in &request.topic_data {
        for PartitionProduceData { index, records, .. } in partition_data {
            let header = records.as_ref().and_then(|records| BatchHeader::parse(records).ok());
            let Some(header) = header.filter(BatchHeader::is_transactional) else { continue };
            if request.transactional_id.is_none() {
                let why = "records of a transaction need a transactional id";
                return Err(refusal(ErrorCode::TransactionalIdAuthorizationFailed, why));
            }
            producers.insert((header.producer_id, header.producer_epoch));
            if let Ok(topic) = find_topic(door, version >= 13, name, *topic_id) {
                partitions.extend(topic.partition(*index).map(|partition| partition.id().clone()));
            }
        }
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
    let id = request.transactional_id.as_ref().map(|id| id.to_string()).unwrap_or_default();
    let transactions = door.broker.transactions();
    let asked = |how| Join { id, producer, epoch, partitions: partitions.clone(), how };
    let refused = |error| outside(error, version);
    if version >= 12 {
        let joining =
            transactions.join_in_turn(asked(How::Add(TransactionVersion::V2))).await.map_err(refused)?;
        return Ok(InTransaction {
            part: Some(joining.part()),
            joining: Some(joining),
            ..Default::default()
        });
    }
    let verified = transactions.join(asked(How::Verify)).await.map_err(refused)?;
    let part = Some(verified.part());
    let each = verified.answer().await.map_err(refused)?;
    let outside = partitions.into_iter().zip(each);
    let outside = outside.filter_map(|(partition, each)| Some((partition, refused(each.err()?)))).collect();
    Ok(InTransaction { part, outside, joining: None })
}

/// What is said of a partition that is not in the transaction.
fn outside(error: TransactionError, version: i16) -> Refusal {
    refusal(codes::produce_in_transaction(error, version), error.to_string())
}

async fn queue(
    door: &Door,
    version: i16,
    partition: &Partition,
    records: Option<Bytes>,
    ack: Ack,
    part: Option<Part>,
) -> Result<Queued, Refused> {
    let records = records.unwrap_or_default();
    let header = BatchHeader::parse(&records).ok();
    // KIP-110: "Zstd" came with version 7, and older consumers of the same generation cannot read it.
    if version < 7 && header.is_some_and(|header| header.compression() == Ok(Compression::Zstd)) {
        let refused = refusal(ErrorCode::UnsupportedCompressionType, "zstd needs produce version 7");
        return Err((refused, Vec::new()));
    }
    let queued = partition.submit_in(records, ack, part).await.map_err(|error| refused(&error))?;
    door.metrics.records_in.add(header.map_or(0, |header| header.record_count.unsigned_abs().into()));
    Ok(queued)
}

fn partition_response(index: i32, produced: Result<Produced, Refused>) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default().with_index(index);
    match produced {
        Ok(produced) => response
            .with_base_offset(produced.base_offset.0)
            .with_log_append_time_ms(produced.log_append_time_ms)
            .with_log_start_offset(produced.log_start.0),
        Err(((code, message), records)) => response
            .with_record_errors(records)
            .with_error_code(code)
            .with_error_message(message)
            .with_base_offset(-1)
            .with_log_append_time_ms(NO_TIMESTAMP)
            .with_log_start_offset(-1),
    }
}
