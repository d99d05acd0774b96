//! What a client is told when a request fails.

use std::sync::Arc;

/// Named after Kafka's error codes; the door turns them into numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// A new member must join again with the id that it is given here (KIP-394).
    #[error("join again as {0}")]
    MemberIdRequired(String),
    /// The member was removed, or never joined.
    #[error("the group has no such member")]
    UnknownMemberId,
    /// The member speaks of a generation that is over.
    #[error("the group has another generation")]
    IllegalGeneration,
    /// Members are joining: the member must join too.
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    /// The member shares no protocol with the others.
    #[error("the member has no protocol in common with the group")]
    InconsistentGroupProtocol,
    /// Another process has joined with the same `group.instance.id`.
    #[error("another member has taken over this instance id")]
    FencedInstanceId,
    /// `group.max.size`.
    #[error("the group is full")]
    GroupMaxSizeReached,
    /// Outside of the configured bounds.
    #[error("the session timeout is out of bounds")]
    InvalidSessionTimeout,
    /// Empty, or too long.
    #[error("the group id is invalid")]
    InvalidGroupId,
    /// There is no such group. OffsetCommit below version 9 says ILLEGAL_GENERATION instead.
    #[error("there is no such group")]
    GroupIdNotFound,
    /// A member of the consumer protocol joins a classic group that cannot become one of its protocol.
    #[error("Cannot upgrade classic group {group} to consumer group because {reason}.")]
    NotUpgraded {
        /// The group.
        group: String,
        /// Why not.
        reason: &'static str,
    },
    /// The group has members, and what was asked for needs it empty.
    #[error("the group has members")]
    NonEmptyGroup,
    /// Offsets of a topic that the group reads are not deleted.
    #[error("the group is subscribed to the topic")]
    GroupSubscribedToTopic,
    /// `offset.metadata.max.bytes`.
    #[error("the metadata of the offset is too large")]
    OffsetMetadataTooLarge,
    /// A commit for the partition is being stored: ask again.
    #[error("a commit for the partition is not stored yet")]
    UnstableOffsetCommit,
    /// The coordinator could not store what it must; the client may try again.
    #[error("the coordinator cannot store the change now")]
    CoordinatorNotAvailable,
    /// More groups than the configuration allows.
    #[error("there are as many groups as the configuration allows")]
    PolicyViolation,
    /// What the member reads, or commits for, is elsewhere now.
    #[error("moved to {0}")]
    Moved(Arc<str>),
    /// Its members are elsewhere from now on, and this one has not heard so: it does by whatever it asks but this.
    #[error("its members are elsewhere now")]
    Dismissed,
    /// The request breaks a limit or contradicts itself.
    #[error("the request is invalid")]
    InvalidRequest,
    /// The request breaks a rule of the consumer protocol.
    #[error("{0}")]
    Invalid(&'static str),
    /// The member says an epoch that is not its own: it must give up everything and join again.
    #[error(
        "the member epoch is not the one that the coordinator knows; the member must abandon all its partitions and rejoin"
    )]
    FencedMemberEpoch,
    /// A request speaks of an epoch of its member that is over, or not there yet.
    #[error("the member has another epoch")]
    StaleMemberEpoch,
    /// A static member joins while another of its name is in the group.
    #[error("the instance id is another member's, which has not left")]
    UnreleasedInstanceId,
    /// None of `group.consumer.assignors`.
    #[error("ServerAssignor {name} is not supported. Supported assignors: {}.", known.join(", "))]
    UnsupportedAssignor {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// It does not compile.
    #[error("the regular expression of the subscription is not valid: {0}")]
    InvalidRegularExpression(String),
    /// The request is too old for what its sender is.
    #[error("{0}")]
    UnsupportedVersion(&'static str),
    /// The transaction of a commit has ended.
    #[error("the transaction has ended")]
    InvalidTxnState,
    /// A newer incarnation of the transaction's producer is there.
    #[error("the producer has a newer epoch")]
    InvalidProducerEpoch,
    /// What must be stored is larger than the log takes, or what consumers tell each other cannot be read.
    #[error("the group's state is too large to be stored, or a subscription cannot be read")]
    UnknownServerError,
}

/// Why the driver could not make records durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The log refuses records of this size.
    #[error("the records are too large for the log")]
    TooLarge,
    /// The transaction of the records has ended.
    #[error("the transaction has ended")]
    NotInTransaction,
    /// The producer of the records has a newer epoch.
    #[error("the producer has a newer epoch")]
    InvalidProducerEpoch,
    /// The log failed or is closed.
    #[error("the log is not available")]
    Unavailable,
}

impl From<StoreError> for GroupError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooLarge => Self::UnknownServerError,
            StoreError::NotInTransaction => Self::InvalidTxnState,
            StoreError::InvalidProducerEpoch => Self::InvalidProducerEpoch,
            StoreError::Unavailable => Self::CoordinatorNotAvailable,
        }
    }
}
