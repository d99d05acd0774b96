//! What goes into the coordinator and what comes out of it.

use std::time::Duration;

use anabranch_core::seam::Clock;
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_log::Part;
use bytes::Bytes;

use super::consumer::Beat;
use super::error::GroupError;
use super::record::EncodedRecord;

/// Chosen by the caller for each request; the answer carries it back. Unique among the requests that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names a store until its outcome is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreToken(pub(super) u64);

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For timeouts.
    pub monotonic: Duration,
    /// For what is stored, in milliseconds since the Unix epoch.
    pub unix_ms: i64,
}

impl Now {
    /// What `clock` says.
    pub fn of(clock: &dyn Clock) -> Self {
        Self { monotonic: clock.monotonic(), unix_ms: clock.now_ms() }
    }
}

/// What the driver must do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Answer a request. Each is answered once.
    Answer {
        /// Which.
        request: RequestId,
        /// With what.
        response: Response,
    },
    /// Make records durable, then report with [`super::Groups::stored`]. Stores are written, and reported, in the order
    /// in which they appear. One store may take several batches, and several stores may share one.
    Store {
        /// To report with.
        token: StoreToken,
        /// For the offsets topic.
        records: Vec<EncodedRecord>,
        /// Of which transaction they are part.
        transaction: Option<InTransaction>,
    },
}

/// Offsets that count when a transaction commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InTransaction {
    /// Whose.
    pub producer: ProducerId,
    /// In which incarnation.
    pub epoch: ProducerEpoch,
    /// From the coordinator of transactions.
    pub part: Part,
}

/// JoinGroup. Bytes of protocols go through untouched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// The group.
    pub group: String,
    /// Empty for a new member.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// As the client calls itself.
    pub client_id: String,
    /// Its address, as the describe request shows it (Kafka: `/127.0.0.1`).
    pub client_host: String,
    /// How long the member may be silent.
    pub session_timeout_ms: i32,
    /// How long a rebalance waits for the member; negative (JoinGroup 0): as long as the session.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect`, or another.
    pub protocol_type: String,
    /// Name and metadata, the preferred first.
    pub protocols: Vec<(String, Bytes)>,
    /// Whether a new member is told its id first (JoinGroup 4 and above).
    pub require_known_member_id: bool,
    /// Whether the client understands `skip_assignment` (JoinGroup 9 and above).
    pub can_skip_assignment: bool,
}

/// The answer to a [`Join`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The generation that the member is in now.
    pub generation: i32,
    /// The group's.
    pub protocol_type: Option<String>,
    /// The protocol that all members speak.
    pub protocol: Option<String>,
    /// Who assigns.
    pub leader: String,
    /// The member's id.
    pub member_id: String,
    /// All members, for the leader; empty for the others.
    pub members: Vec<JoinedMember>,
    /// A leader that came back, and has nothing to assign (KIP-814).
    pub skip_assignment: bool,
}

/// A member, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: String,
    /// Its `group.instance.id`.
    pub instance_id: Option<String>,
    /// What it said for the chosen protocol.
    pub metadata: Bytes,
}

/// SyncGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// The group.
    pub group: String,
    /// Who.
    pub member_id: String,
    /// Its `group.instance.id`.
    pub instance_id: Option<String>,
    /// From the join.
    pub generation: i32,
    /// From the join, if the client says (SyncGroup 5).
    pub protocol_type: Option<String>,
    /// From the join, if the client says (SyncGroup 5).
    pub protocol: Option<String>,
    /// From the leader: member id and assignment.
    pub assignments: Vec<(String, Bytes)>,
}

/// The answer to a [`Sync`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// The group's.
    pub protocol_type: Option<String>,
    /// The group's.
    pub protocol: Option<String>,
    /// What the leader assigned to the member; empty if it forgot it.
    pub assignment: Bytes,
}

/// Heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat<'a> {
    /// The group.
    pub group: &'a str,
    /// Who.
    pub member_id: &'a str,
    /// Its `group.instance.id`.
    pub instance_id: Option<&'a str>,
    /// From the join.
    pub generation: i32,
}

/// One member that LeaveGroup names; with an empty id, an administrator removes a static member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaver {
    /// Its id.
    pub member_id: String,
    /// Its `group.instance.id`.
    pub instance_id: Option<String>,
}

/// OffsetCommit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The group.
    pub group: String,
    /// Who; empty for a consumer that assigns itself.
    pub member_id: String,
    /// Its `group.instance.id`.
    pub instance_id: Option<String>,
    /// From the join, or the member's epoch; -1 for a consumer that assigns itself.
    pub generation: i32,
    /// Whether the client may mean an epoch (OffsetCommit 9 and above).
    pub by_epoch: bool,
    /// How long to keep the offsets, where the request says (OffsetCommit 2 to 4).
    pub retention_ms: Option<i64>,
    /// What to commit. The door has checked that the partitions exist, so that they bound what is kept.
    pub offsets: Vec<CommitOffset>,
}

/// One partition of a [`Commit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitOffset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The record to be read next.
    pub offset: i64,
    /// Of the last record that was read; -1: not told.
    pub leader_epoch: i32,
    /// Whatever the client likes to remember.
    pub metadata: String,
}

/// What comes back, per kind of request. Lists are in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To [`Join`].
    Join(Result<Joined, GroupError>),
    /// To [`Sync`].
    Sync(Result<Synced, GroupError>),
    /// To LeaveGroup: per member.
    Leave(Result<Vec<Result<(), GroupError>>, GroupError>),
    /// To [`Commit`]: per partition.
    Commit(Result<Vec<Result<(), GroupError>>, GroupError>),
    /// To OffsetDelete: per partition.
    DeleteOffsets(Result<Vec<Result<(), GroupError>>, GroupError>),
    /// To DeleteGroups: per group.
    DeleteGroups(Vec<Result<(), GroupError>>),
    /// To [`super::ConsumerHeartbeat`].
    Beat(Result<Beat, GroupError>),
}

impl Response {
    /// The same answer, when what it promises could not be stored.
    pub(super) fn failed(self, error: &GroupError) -> Self {
        let error = error.clone();
        match self {
            Self::Join(_) => Self::Join(Err(error)),
            Self::Sync(_) => Self::Sync(Err(error)),
            Self::Leave(_) => Self::Leave(Err(error)),
            Self::Commit(_) => Self::Commit(Err(error)),
            Self::DeleteOffsets(_) => Self::DeleteOffsets(Err(error)),
            Self::Beat(_) => Self::Beat(Err(error)),
            Self::DeleteGroups(groups) => {
                Self::DeleteGroups(groups.into_iter().map(|group| group.and(Err(error.clone()))).collect())
            }
        }
    }
}

/// One group of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    /// Its id.
    pub group: String,
    /// `consumer`, `connect`, ...; empty for a group that only stores offsets.
    pub protocol_type: String,
    /// Its state, as Kafka writes it.
    pub state: &'static str,
    /// Which protocol its members speak.
    pub kind: GroupKind,
}

/// Which protocol the members of a group speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupKind {
    /// JoinGroup and SyncGroup.
    Classic,
    /// KIP-848.
    Consumer,
}

impl GroupKind {
    /// As Kafka writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
        }
    }
}

/// A group, described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedGroup {
    /// Its state.
    pub state: GroupState,
    /// `consumer`, `connect`, ...; empty for a group that only stores offsets.
    pub protocol_type: String,
    /// The chosen protocol; empty unless the group is stable.
    pub protocol: String,
    /// By member id.
    pub members: Vec<DescribedMember>,
}

/// A member, described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedMember {
    /// Its id.
    pub member_id: String,
    /// Its `group.instance.id`.
    pub instance_id: Option<String>,
    /// As the client calls itself.
    pub client_id: String,
    /// Its address.
    pub client_host: String,
    /// What it said for the chosen protocol; empty unless the group is stable.
    pub metadata: Bytes,
    /// What it reads.
    pub assignment: Bytes,
}

/// Where a group is in its life. Kafka's fifth state, Dead, is that of a group which does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// No members; it may have offsets.
    Empty,
    /// Members are joining the next generation.
    PreparingRebalance,
    /// Members have joined and wait for the leader's assignment.
    CompletingRebalance,
    /// Members read what they were assigned.
    Stable,
}

/// Where a group in the consumer protocol is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerState {
    /// No members; it may have offsets.
    Empty,
    /// The assignor has not run since something changed.
    Assigning,
    /// Members are on the way to what they were assigned.
    Reconciling,
    /// Members have what they were assigned.
    Stable,
}

impl ConsumerState {
    /// As Kafka writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
        }
    }
}

impl GroupState {
    /// As Kafka writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}
