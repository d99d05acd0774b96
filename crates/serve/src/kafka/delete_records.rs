//! DeleteRecords (key 21, versions 0 to 2): KIP-107.
//!
//! It is done when it is answered, so that `timeout_ms` bounds nothing: Kafka waits with it for replicas.

use anabranch_broker::{Before, DeleteRecordsError, UpkeepError};
use anabranch_core::{Offset, TopicPartition};
use anabranch_wire::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use anabranch_wire::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use anabranch_wire::{ErrorCode, NO_ERROR};

use super::{Door, codes};

/// The offset that stands for the high watermark (`DeleteRecordsRequest.HIGH_WATERMARK`).
const HIGH_WATERMARK: i64 = -1;
/// What stands where there is no low watermark (`DeleteRecordsResponse.INVALID_LOW_WATERMARK`).
const NO_LOW_WATERMARK: i64 = -1;

pub(super) async fn answer(door: &Door, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let at = TopicPartition::new(topic.name.as_str(), asked.partition_index);
            let before = match asked.offset {
                HIGH_WATERMARK => Before::HighWatermark,
                offset => Before::Offset(Offset(offset)),
            };
            let (low_watermark, code) = match door.broker.delete_records(&at, before).await {
                Ok(start) => (start.0, NO_ERROR),
                Err(error) => (NO_LOW_WATERMARK, error_code(&error).code()),
            };
            partitions.push(
                DeleteRecordsPartitionResult::default()
                    .with_partition_index(asked.partition_index)
                    .with_low_watermark(low_watermark)
                    .with_error_code(code),
            );
        }
        topics.push(DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions));
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

fn error_code(error: &DeleteRecordsError) -> ErrorCode {
    match error {
        DeleteRecordsError::Unknown(_) => ErrorCode::UnknownTopicOrPartition,
        DeleteRecordsError::Internal(_) => ErrorCode::InvalidTopicException,
        DeleteRecordsError::Policy(_) | DeleteRecordsError::Moving(_) => ErrorCode::PolicyViolation,
        DeleteRecordsError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        DeleteRecordsError::Append(error) => codes::append(error),
        DeleteRecordsError::Log(UpkeepError::Closed) => ErrorCode::NotLeaderOrFollower,
        DeleteRecordsError::Log(_) => ErrorCode::KafkaStorageError,
        _ => ErrorCode::UnknownServerError,
    }
}
