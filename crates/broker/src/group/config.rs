//! What an operator may set.

use std::borrow::Cow;
use std::time::Duration;

use super::consumer::Assignor;

/// Longest text that a request may carry: group, member, client and topic names. Kafka's record format ends at 32,767
/// bytes; room is left for the UUID that is put behind a client's name.
pub const TEXT_BYTES_MAX: usize = 30_000;

/// Settings of the coordinator. Each names Kafka's property where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`.
    pub session_timeout_min: Duration,
    /// `group.max.session.timeout.ms`.
    pub session_timeout_max: Duration,
    /// `group.initial.rebalance.delay.ms`: how long the first generation of a group waits for more members.
    ///
    /// The default is 0 where Kafka's is 3,000 ms. The delay saves a large group some rebalances when it starts; on one
    /// node a rebalance costs a few messages, and three silent seconds cost every start of every application. (Kafka's
    /// own sample configuration says 0 for the same reason.)
    pub initial_rebalance_delay: Duration,
    /// `group.max.size`: members of one group, and likewise ids given out to members that have not joined yet.
    pub members_max: usize,
    /// How many groups there may be.
    pub groups_max: usize,
    /// What one member's protocols may take, names and metadata together.
    pub member_metadata_bytes_max: usize,
    /// `offset.metadata.max.bytes`, counted as Kafka does: in UTF-16 units.
    pub offset_metadata_max: usize,
    /// `offsets.retention.minutes`.
    pub offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval: Duration,
    /// Groups in the consumer protocol.
    pub consumer: ConsumerConfig,
    /// Commits and deletions are refused while this many stores are under way: the disk does not keep up.
    pub stores_in_flight_max: usize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            session_timeout_min: Duration::from_secs(6),
            session_timeout_max: Duration::from_secs(30 * 60),
            initial_rebalance_delay: Duration::ZERO,
            members_max: 10_000,
            groups_max: 100_000,
            member_metadata_bytes_max: 1 << 20,
            offset_metadata_max: 4096,
            offsets_retention: Duration::from_secs(7 * 24 * 60 * 60),
            offsets_retention_check_interval: Duration::from_secs(10 * 60),
            consumer: ConsumerConfig::default(),
            stores_in_flight_max: 10_000,
        }
    }
}

/// Settings of groups in the consumer protocol (`group.consumer.*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// `group.coordinator.rebalance.protocols` has `consumer`.
    pub is_enabled: bool,
    /// `group.consumer.session.timeout.ms`: how long a member may be silent.
    pub session_timeout: Duration,
    /// `group.consumer.heartbeat.interval.ms`: how often members are told to speak.
    pub heartbeat_interval: Duration,
    /// `group.consumer.assignment.interval.ms`: how long the assignor rests after it has run.
    pub assignment_interval: Duration,
    /// `group.consumer.max.size`.
    pub members_max: usize,
    /// `group.consumer.assignors`: the first is for members that do not care.
    pub assignors: Vec<Assignor>,
    /// `group.consumer.migration.policy`.
    pub migration: Migration,
}

/// What a group with members may become when members of the other protocol come, or those of its own go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Migration {
    /// Either.
    #[default]
    Bidirectional,
    /// A classic group becomes one of the consumer protocol, and stays one.
    Upgrade,
    /// A group of the consumer protocol becomes a classic one.
    Downgrade,
    /// Neither, and a group of the consumer protocol takes no classic members.
    Disabled,
}

impl Migration {
    /// As Kafka writes it.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "bidirectional" => Some(Self::Bidirectional),
            "upgrade" => Some(Self::Upgrade),
            "downgrade" => Some(Self::Downgrade),
            "disabled" => Some(Self::Disabled),
            _ => None,
        }
    }

    pub(super) fn upgrades(self) -> bool {
        matches!(self, Self::Bidirectional | Self::Upgrade)
    }

    pub(super) fn downgrades(self) -> bool {
        matches!(self, Self::Bidirectional | Self::Downgrade)
    }
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            is_enabled: true,
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(5),
            assignment_interval: Duration::from_secs(1),
            members_max: 10_000,
            assignors: vec![Assignor::Uniform, Assignor::Range],
            migration: Migration::default(),
        }
    }
}

/// What one group has of its own of a [`ConsumerConfig`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerOverrides {
    /// `consumer.session.timeout.ms`.
    pub session_timeout: Option<Duration>,
    /// `consumer.heartbeat.interval.ms`.
    pub heartbeat_interval: Option<Duration>,
    /// `consumer.assignment.interval.ms`.
    pub assignment_interval: Option<Duration>,
}

impl ConsumerConfig {
    /// The same with what a group has of its own.
    #[must_use]
    pub fn with(&self, own: &ConsumerOverrides) -> Self {
        Self {
            session_timeout: own.session_timeout.unwrap_or(self.session_timeout),
            heartbeat_interval: own.heartbeat_interval.unwrap_or(self.heartbeat_interval),
            assignment_interval: own.assignment_interval.unwrap_or(self.assignment_interval),
            ..self.clone()
        }
    }
}

impl GroupConfig {
    /// What holds for a group in the consumer protocol that has these settings of its own.
    pub(crate) fn consumer_with(&self, own: Option<&ConsumerOverrides>) -> Cow<'_, ConsumerConfig> {
        own.map_or(Cow::Borrowed(&self.consumer), |own| Cow::Owned(self.consumer.with(own)))
    }
}
