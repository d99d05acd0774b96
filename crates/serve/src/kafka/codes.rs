//! Kafka's error code for each of the broker's errors (`org.apache.kafka.common.protocol.Errors`).

use anabranch_broker::group::GroupError;
use anabranch_broker::transaction::TransactionError;
use anabranch_broker::{AppendError, ConfigError, FetchError, ProduceError, ReadError, TopicError};
use anabranch_core::batch::BatchError;
use anabranch_wire::ErrorCode;
use anabranch_wire::protocol::StrBytes;

/// What goes into a response's `error_code` and `error_message`.
pub(super) type Refusal = (i16, Option<StrBytes>);

pub(super) const NO_REFUSAL: Refusal = (anabranch_wire::NO_ERROR, None);

pub(super) fn refusal(code: ErrorCode, why: impl Into<String>) -> Refusal {
    (code.code(), Some(StrBytes::from_string(why.into())))
}

/// The outcome of a change of topics.
pub(super) fn outcome<T>(result: Result<T, TopicError>) -> Refusal {
    match result {
        Ok(_) => NO_REFUSAL,
        Err(error) => refusal(topic(&error), error.to_string()),
    }
}

pub(super) fn topic(error: &TopicError) -> ErrorCode {
    match error {
        TopicError::InvalidName { .. } | TopicError::Collides { .. } | TopicError::Internal(_) => {
            ErrorCode::InvalidTopicException
        }
        TopicError::Exists(_) => ErrorCode::TopicAlreadyExists,
        TopicError::InvalidRequest(_) => ErrorCode::InvalidRequest,
        TopicError::Unknown(_) => ErrorCode::UnknownTopicOrPartition,
        TopicError::InvalidPartitions(_) => ErrorCode::InvalidPartitions,
        TopicError::InvalidReplicationFactor(_) => ErrorCode::InvalidReplicationFactor,
        TopicError::InvalidAssignment(_) => ErrorCode::InvalidReplicaAssignment,
        TopicError::Config(error) => config(error),
        TopicError::Storage(_) => ErrorCode::KafkaStorageError,
        // What a client does with it: looks for the broker again, which may be back by then.
        TopicError::Moved { .. } => ErrorCode::PolicyViolation,
        TopicError::Closed | TopicError::Elsewhere => ErrorCode::NotController,
        _ => ErrorCode::UnknownServerError,
    }
}

pub(super) fn config(_: &ConfigError) -> ErrorCode {
    ErrorCode::InvalidConfig
}

pub(super) fn produce(error: &ProduceError) -> ErrorCode {
    match error {
        ProduceError::Unknown(_) => ErrorCode::UnknownTopicOrPartition,
        ProduceError::Batch(error) => batch(error),
        ProduceError::InvalidRecord(_) | ProduceError::InvalidRecords(_) => ErrorCode::InvalidRecord,
        ProduceError::InvalidTimestamps(_) => ErrorCode::InvalidTimestamp,
        ProduceError::TooLarge { .. }
        | ProduceError::TooLargeRecompressed { .. }
        | ProduceError::Undecompressable { .. } => ErrorCode::MessageTooLarge,
        ProduceError::LargerThanSegment { .. } => ErrorCode::RecordListTooLarge,
        ProduceError::Internal(_) => ErrorCode::InvalidTopicException,
        ProduceError::Log(error) => append(error),
        _ => ErrorCode::UnknownServerError,
    }
}

pub(super) fn batch(error: &BatchError) -> ErrorCode {
    match error {
        BatchError::UnsupportedMagic(_) => ErrorCode::UnsupportedForMessageFormat,
        BatchError::Invalid(_) | BatchError::TrailingBytes(_) => ErrorCode::InvalidRecord,
        BatchError::UnknownCodec(_) => ErrorCode::UnsupportedCompressionType,
        BatchError::TooLarge { .. } => ErrorCode::MessageTooLarge,
        _ => ErrorCode::CorruptMessage,
    }
}

pub(super) fn append(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        AppendError::NotInTransaction { .. } => ErrorCode::InvalidTxnState,
        AppendError::CoordinatorFenced { .. } => ErrorCode::TransactionCoordinatorFenced,
        AppendError::InvalidMarker(_) => ErrorCode::InvalidRecord,
        AppendError::WriteFailed(_) | AppendError::Stopped(_) => ErrorCode::KafkaStorageError,
        // Which every producer tries again.
        AppendError::Closed | AppendError::Held | AppendError::Redirected(_) => {
            ErrorCode::NotLeaderOrFollower
        }
        // Which none does.
        AppendError::Moved(_) => ErrorCode::PolicyViolation,
        // No request of this protocol asks for it.
        AppendError::NotAtEnd { .. } => ErrorCode::UnknownServerError,
    }
}

pub(super) fn fetch(error: &FetchError) -> ErrorCode {
    match error {
        FetchError::Unknown(_) => ErrorCode::UnknownTopicOrPartition,
        FetchError::FencedLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
        FetchError::UnknownLeaderEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
        FetchError::Log(ReadError::OutOfRange { .. }) => ErrorCode::OffsetOutOfRange,
        FetchError::Log(ReadError::Fault(_)) => ErrorCode::KafkaStorageError,
        FetchError::Log(ReadError::Closed) => ErrorCode::NotLeaderOrFollower,
        _ => ErrorCode::UnknownServerError,
    }
}

pub(super) fn group(error: &GroupError) -> ErrorCode {
    match error {
        GroupError::MemberIdRequired(_) => ErrorCode::MemberIdRequired,
        GroupError::UnknownMemberId => ErrorCode::UnknownMemberId,
        GroupError::IllegalGeneration => ErrorCode::IllegalGeneration,
        GroupError::RebalanceInProgress => ErrorCode::RebalanceInProgress,
        GroupError::InconsistentGroupProtocol => ErrorCode::InconsistentGroupProtocol,
        GroupError::FencedInstanceId => ErrorCode::FencedInstanceId,
        GroupError::GroupMaxSizeReached => ErrorCode::GroupMaxSizeReached,
        GroupError::InvalidSessionTimeout => ErrorCode::InvalidSessionTimeout,
        GroupError::InvalidGroupId => ErrorCode::InvalidGroupId,
        GroupError::GroupIdNotFound | GroupError::NotUpgraded { .. } => ErrorCode::GroupIdNotFound,
        GroupError::NonEmptyGroup => ErrorCode::NonEmptyGroup,
        GroupError::GroupSubscribedToTopic => ErrorCode::GroupSubscribedToTopic,
        GroupError::OffsetMetadataTooLarge => ErrorCode::OffsetMetadataTooLarge,
        GroupError::UnstableOffsetCommit => ErrorCode::UnstableOffsetCommit,
        GroupError::CoordinatorNotAvailable => ErrorCode::CoordinatorNotAvailable,
        // It is tried again until a heartbeat tells. Told of a rebalance, kafka-python takes its positions along, and kafkajs's consumer may crash.
        GroupError::Dismissed => ErrorCode::CoordinatorLoadInProgress,
        GroupError::PolicyViolation | GroupError::Moved(_) => ErrorCode::PolicyViolation,
        GroupError::InvalidRequest | GroupError::Invalid(_) => ErrorCode::InvalidRequest,
        GroupError::FencedMemberEpoch => ErrorCode::FencedMemberEpoch,
        GroupError::StaleMemberEpoch => ErrorCode::StaleMemberEpoch,
        GroupError::UnreleasedInstanceId => ErrorCode::UnreleasedInstanceId,
        GroupError::UnsupportedAssignor { .. } => ErrorCode::UnsupportedAssignor,
        GroupError::InvalidRegularExpression(_) => ErrorCode::InvalidRegularExpression,
        GroupError::UnsupportedVersion(_) => ErrorCode::UnsupportedVersion,
        GroupError::InvalidTxnState => ErrorCode::InvalidTxnState,
        GroupError::InvalidProducerEpoch => ErrorCode::InvalidProducerEpoch,
        GroupError::UnknownServerError => ErrorCode::UnknownServerError,
    }
}

pub(super) fn group_outcome(outcome: &Result<(), GroupError>) -> i16 {
    outcome.as_ref().map_or_else(|error| group(error).code(), |()| anabranch_wire::NO_ERROR)
}

/// `knows_fencing`: to older clients, who is fenced is of an invalid epoch.
pub(super) fn transaction(error: TransactionError, knows_fencing: bool) -> ErrorCode {
    match error {
        TransactionError::InvalidRequest => ErrorCode::InvalidRequest,
        TransactionError::InvalidTransactionTimeout => ErrorCode::InvalidTransactionTimeout,
        TransactionError::InvalidProducerIdMapping => ErrorCode::InvalidProducerIdMapping,
        TransactionError::ProducerFenced if knows_fencing => ErrorCode::ProducerFenced,
        TransactionError::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        TransactionError::ConcurrentTransactions => ErrorCode::ConcurrentTransactions,
        TransactionError::InvalidTxnState => ErrorCode::InvalidTxnState,
        TransactionError::TransactionAbortable => ErrorCode::TransactionAbortable,
        TransactionError::CoordinatorNotAvailable => ErrorCode::CoordinatorNotAvailable,
        TransactionError::NotCoordinator => ErrorCode::NotCoordinator,
        TransactionError::PolicyViolation => ErrorCode::PolicyViolation,
        TransactionError::UnknownServerError => ErrorCode::UnknownServerError,
    }
}

/// What a producer is told whose batch is not in a transaction, as Kafka's `ReplicaManager` has it.
pub(super) fn produce_in_transaction(error: TransactionError, version: i16) -> ErrorCode {
    match error {
        // TRANSACTION_ABORTABLE came with version 11; CONCURRENT_TRANSACTIONS with 12.
        TransactionError::TransactionAbortable if version < 11 => ErrorCode::InvalidTxnState,
        TransactionError::ConcurrentTransactions if version >= 12 => ErrorCode::ConcurrentTransactions,
        // Which every producer tries again.
        TransactionError::ConcurrentTransactions
        | TransactionError::CoordinatorNotAvailable
        | TransactionError::NotCoordinator => ErrorCode::NotEnoughReplicas,
        error => transaction(error, false),
    }
}

/// What a producer is told whose offsets are not in a transaction, as Kafka's `GroupCoordinatorService` has it.
pub(super) fn commit_in_transaction(error: TransactionError, version: i16) -> ErrorCode {
    match error {
        // TRANSACTION_ABORTABLE came with version 4; CONCURRENT_TRANSACTIONS with 5.
        TransactionError::TransactionAbortable if version < 4 => ErrorCode::InvalidTxnState,
        TransactionError::ConcurrentTransactions if version >= 5 => ErrorCode::ConcurrentTransactions,
        TransactionError::ConcurrentTransactions
        | TransactionError::CoordinatorNotAvailable
        | TransactionError::NotCoordinator => ErrorCode::CoordinatorNotAvailable,
        error => transaction(error, false),
    }
}
