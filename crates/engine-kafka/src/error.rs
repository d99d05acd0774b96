//! What librdkafka says, in the engine's words.

use anabranch_core::TopicPartition;
use anabranch_core::engine::EngineError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// The engine's name.
pub(crate) const KAFKA: &str = "kafka";

/// A failure whose outcome nobody knows.
pub(crate) fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> EngineError {
    EngineError::Failed(error.into())
}

/// The library's or the broker's code, if there is one.
pub(crate) fn code_of(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// Why something about `at` did not work, where nothing has been done if the cluster cannot be reached.
pub(crate) fn blame(at: &TopicPartition, error: &KafkaError) -> EngineError {
    match code_of(error) {
        Some(code) => judge(at, code, error.to_string()),
        None => failed(error.to_string()),
    }
}

/// The same of a code and what is said of it.
pub(crate) fn judge(at: &TopicPartition, code: Code, text: String) -> EngineError {
    match code {
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicId => EngineError::NotFound(at.clone()),
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::DestroyBroker
        | Code::Resolve
        | Code::OperationTimedOut
        | Code::TimedOutQueue
        | Code::WaitingForCoordinator
        | Code::RequestTimedOut
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::BrokerNotAvailable
        | Code::ReplicaNotAvailable
        | Code::OffsetNotAvailable
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::NotController
        | Code::CoordinatorNotAvailable
        | Code::CoordinatorLoadInProgress
        | Code::NotCoordinator
        | Code::NetworkException => away(text),
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::SSL => EngineError::Unauthorised { engine: KAFKA, reason: text },
        Code::InvalidTopic
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidConfig
        | Code::PolicyViolation
        | Code::InvalidGroupId
        | Code::InvalidRecord
        | Code::InvalidRequest
        | Code::InvalidTransactionTimeout
        | Code::InvalidTimestamp
        | Code::GroupIdNotFound
        | Code::NonEmptyGroup => EngineError::Refused { topic: at.topic.clone(), reason: text },
        // What is answered to a commit without a member, while there are members.
        Code::UnknownMemberId | Code::RebalanceInProgress => EngineError::Refused {
            topic: at.topic.clone(),
            reason: format!("the group has members ({text})"),
        },
        _ => failed(text),
    }
}

/// The cluster cannot be reached.
pub(crate) fn away(reason: impl Into<String>) -> EngineError {
    EngineError::Away { engine: KAFKA, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that is held up for longer than a request may wait finds it in the queue still. That was taken for a failure of
    /// which nobody knows what it did, and ended the flow.
    #[test]
    fn a_request_that_waited_in_the_queue_is_away() {
        let at = TopicPartition::new("orders", 0);
        let told = blame(&at, &KafkaError::MetadataFetch(Code::TimedOutQueue));
        assert!(matches!(told, EngineError::Away { .. }), "{told:?}");
    }
}
