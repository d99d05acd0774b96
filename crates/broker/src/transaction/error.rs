//! What a client is told when a request fails.

/// Named after Kafka's error codes; the door turns them into numbers, and into older ones for older clients
/// (`PRODUCER_FENCED` is `INVALID_PRODUCER_EPOCH` there).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// There is no transactional id, or it is too long.
    #[error("the transactional id is invalid")]
    InvalidRequest,
    /// Not positive, or above `transaction.max.timeout.ms`.
    #[error("the timeout of the transaction is out of bounds")]
    InvalidTransactionTimeout,
    /// The transactional id is not known, or belongs to another producer id.
    #[error("the transactional id does not belong to this producer id")]
    InvalidProducerIdMapping,
    /// A newer incarnation of the producer is there, or its transaction was aborted for it.
    #[error("the producer is fenced by a newer epoch")]
    ProducerFenced,
    /// Another change of the same transactional id is under way: ask again.
    #[error("a change of the transactional id is under way")]
    ConcurrentTransactions,
    /// There is nothing to be ended in this way.
    #[error("the transaction is in another state")]
    InvalidTxnState,
    /// The partition is not in the transaction, which cannot but be aborted.
    #[error("the partition is not in the transaction: abort it")]
    TransactionAbortable,
    /// The coordinator could not store what it must; the client may try again.
    #[error("the coordinator cannot store the change now")]
    CoordinatorNotAvailable,
    /// The log of the coordinator has stopped.
    #[error("the coordinator's log has stopped")]
    NotCoordinator,
    /// More transactional ids than the configuration allows.
    #[error("there are as many transactional ids as the configuration allows")]
    PolicyViolation,
    /// What must be stored is larger than the log takes.
    #[error("the transaction is too large to be stored")]
    UnknownServerError,
}

/// Why the driver could not make a record durable, or take a producer id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The log refuses records of this size.
    #[error("the record is too large for the log")]
    TooLarge,
    /// The disk is full, or what must be written has no room now.
    #[error("there is no room on the disk")]
    Full,
    /// The log failed or is closed.
    #[error("the log is not available")]
    Stopped,
}

/// As Kafka's `TransactionStateManager` answers its log's errors.
impl From<StoreError> for TransactionError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooLarge => Self::UnknownServerError,
            StoreError::Full => Self::CoordinatorNotAvailable,
            StoreError::Stopped => Self::NotCoordinator,
        }
    }
}
