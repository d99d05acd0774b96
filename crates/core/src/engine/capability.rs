//! What an engine can do, as data: asked before the work begins, and not found out at the worst moment.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// What an engine may or may not be able to do. The conformance suite holds each declaration to the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Capability {
    /// Records of one partition are read in the order in which they were acknowledged.
    PartitionOrder,
    /// Any kept record can be read again, from any position.
    Replay,
    /// The first record at a time is found.
    ReplayByTime,
    /// Consumers of a group share partitions, and the group's positions are kept by the engine.
    Groups,
    /// A member that lost its partitions cannot commit positions for them any more.
    GroupFencing,
    /// What the engine itself sends again, because an answer was lost, is stored once.
    IdempotentAppend,
    /// What the caller appends again under the same id is stored once ([`super::AppendOptions::id`]).
    AppendIds,
    /// The records of one append are stored all or not at all.
    AtomicAppend,
    /// An append can ask that the partition has not grown ([`super::AppendOptions::expected`]).
    ConditionalAppend,
    /// Records of any topics and a group's positions become visible together or not at all.
    Transactions,
    /// A topic can keep only the newest record per key; it refuses those that have none.
    Compaction,
    /// A topic can forget records of a certain age or behind a certain size.
    Retention,
    /// The oldest records of a partition can be deleted by position.
    Trim,
    /// Records are work that consumers share one by one ([`super::Queues`]).
    Queue,
    /// A consumer can give back a record so that it comes again after a while.
    DelayedRelease,
    /// A record is not delivered before the time in its header ([`super::DELIVER_AT_MS`]).
    DelayedDelivery,
    /// A record is not delivered after the time in its header ([`super::EXPIRES_AT_MS`]).
    RecordExpiry,
    /// What a queue cannot work on is kept in a topic, with the reason.
    DeadLetters,
    /// A batch is read back as the bytes that were appended, compressed as it was.
    VerbatimBatches,
    /// What was acknowledged is there after a node has died for good.
    SurvivesNodeLoss,
    /// What was acknowledged as durable is there after all nodes have lost power.
    SurvivesPowerLoss,
}

/// The engines that there are, by the names that their [`Description`]s bear.
pub const ENGINES: [&str; 3] = ["embedded", "kafka", "nats"];

impl Capability {
    /// Every capability that there is.
    pub const ALL: [Self; 21] = [
        Self::PartitionOrder,
        Self::Replay,
        Self::ReplayByTime,
        Self::Groups,
        Self::GroupFencing,
        Self::IdempotentAppend,
        Self::AppendIds,
        Self::AtomicAppend,
        Self::ConditionalAppend,
        Self::Transactions,
        Self::Compaction,
        Self::Retention,
        Self::Trim,
        Self::Queue,
        Self::DelayedRelease,
        Self::DelayedDelivery,
        Self::RecordExpiry,
        Self::DeadLetters,
        Self::VerbatimBatches,
        Self::SurvivesNodeLoss,
        Self::SurvivesPowerLoss,
    ];

    /// In words, as tables and errors show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PartitionOrder => "order within a partition",
            Self::Replay => "replay",
            Self::ReplayByTime => "replay by time",
            Self::Groups => "groups",
            Self::GroupFencing => "fencing of lost members",
            Self::IdempotentAppend => "idempotent appends",
            Self::AppendIds => "appends with ids",
            Self::AtomicAppend => "atomic appends",
            Self::ConditionalAppend => "conditional appends",
            Self::Transactions => "transactions",
            Self::Compaction => "compaction",
            Self::Retention => "retention",
            Self::Trim => "trimming",
            Self::Queue => "queues",
            Self::DelayedRelease => "delayed release",
            Self::DelayedDelivery => "delayed delivery",
            Self::RecordExpiry => "expiry of records",
            Self::DeadLetters => "dead letters",
            Self::VerbatimBatches => "verbatim batches",
            Self::SurvivesNodeLoss => "survives the loss of a node",
            Self::SurvivesPowerLoss => "survives the loss of power",
        }
    }

    /// The engines that have it, at least when they are set up for it.
    #[must_use]
    pub const fn had_by(self) -> &'static [&'static str] {
        match self {
            Self::Transactions => &["embedded", "kafka"],
            Self::AppendIds => &["nats"],
            Self::AtomicAppend | Self::ConditionalAppend => &["embedded", "nats"],
            Self::VerbatimBatches => &["embedded"],
            Self::SurvivesNodeLoss => &["kafka", "nats"],
            _ => &ENGINES,
        }
    }
}

impl Capability {
    /// Who else can have it, in brackets, for those who find it missing in `engine`; nothing where nobody can.
    #[must_use]
    pub fn elsewhere(self, engine: &str) -> String {
        let others: Vec<_> = self.had_by().iter().copied().filter(|other| *other != engine).collect();
        match others.is_empty() {
            true => String::new(),
            false => format!(" ({} can have it)", others.join(" and ")),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How an engine provides a capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// As its own feature.
    Native,
    /// On top of other features, at the cost that is told.
    Emulated {
        /// What it costs, in words.
        cost: Cow<'static, str>,
    },
    /// Not at all, or not as this cluster is set up.
    Absent {
        /// Why, and what to do instead.
        why: Cow<'static, str>,
    },
}

impl Support {
    /// On top of other features, at `cost`.
    pub fn emulated(cost: impl Into<Cow<'static, str>>) -> Self {
        Self::Emulated { cost: cost.into() }
    }

    /// Not at all, because of `why`.
    pub fn absent(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Absent { why: why.into() }
    }

    /// Whether it is there, in whatever way.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !matches!(self, Self::Absent { .. })
    }
}

/// How large things may be, where nothing else is set on a topic. An append beyond one of these is
/// [`super::EngineError::TooLarge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one record: key, value and headers.
    pub record_bytes_max: u64,
    /// Bytes of all records of one append.
    pub append_bytes_max: u64,
    /// Records of one append.
    pub append_records_max: u32,
}

/// What an engine is, as it was found when it was opened. Some of it depends on how the cluster is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// One of [`ENGINES`].
    pub engine: &'static str,
    /// Of the system behind it.
    pub version: String,
    /// What tells this cluster from every other.
    pub cluster: String,
    /// How many machines it runs on.
    pub nodes: u32,
    /// How large things may be.
    pub limits: Limits,
    /// How many partitions a topic has that nobody says more of; 1 where the engine has no opinion.
    pub partitions_default: i32,
    support: BTreeMap<Capability, Support>,
}

impl Description {
    /// A description that tells of every capability.
    pub fn new(
        engine: &'static str,
        version: impl Into<String>,
        cluster: impl Into<String>,
        nodes: u32,
        limits: Limits,
        support: impl Fn(Capability) -> Support,
    ) -> Self {
        let support =
            Capability::ALL.into_iter().map(|capability| (capability, support(capability))).collect();
        let (version, cluster) = (version.into(), cluster.into());
        Self { engine, version, cluster, nodes, limits, partitions_default: 1, support }
    }

    /// How the engine provides `capability`.
    #[must_use]
    pub fn support(&self, capability: Capability) -> &Support {
        &self.support[&capability]
    }

    /// Whether the engine has `capability`, in whatever way.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.support(capability).is_there()
    }

    /// Fails unless the engine has all of `needs`.
    ///
    /// # Errors
    /// [`Unsuitable`] names everything that is missing, and who has it.
    pub fn require(&self, needs: &[Capability]) -> Result<(), Unsuitable> {
        let missing: Vec<Missing> = needs
            .iter()
            .filter_map(|&capability| match self.support(capability) {
                Support::Absent { why } => Some(Missing { capability, why: why.clone() }),
                Support::Native | Support::Emulated { .. } => None,
            })
            .collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Unsuitable { engine: self.engine, missing }),
        }
    }
}

/// An engine cannot do all that the caller needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsuitable {
    /// Which engine.
    pub engine: &'static str,
    /// All that it lacks.
    pub missing: Vec<Missing>,
}

/// What an engine lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The capability.
    pub capability: Capability,
    /// Why it is not there.
    pub why: Cow<'static, str>,
}

impl std::error::Error for Unsuitable {}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} engine lacks what is needed", self.engine)?;
        for Missing { capability, why } in &self.missing {
            write!(f, "; {capability}: {why}{}", capability.elsewhere(self.engine))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named_and_who_has_it() {
        let limits = Limits { record_bytes_max: 1, append_bytes_max: 1, append_records_max: 1 };
        let support = |capability| match capability {
            Capability::Transactions => Support::absent("no transaction spans streams"),
            Capability::Retention => Support::absent("it is turned off"),
            Capability::Groups => Support::emulated("slow takeovers"),
            _ => Support::Native,
        };
        let description = Description::new("nats", "2", "c", 1, limits, support);
        description.require(&[Capability::Groups, Capability::Replay]).unwrap();
        let unsuitable = description.require(&Capability::ALL).unwrap_err();
        assert_eq!(
            unsuitable.to_string(),
            "the nats engine lacks what is needed; transactions: no transaction spans streams (embedded and kafka can have \
             it); retention: it is turned off (embedded and kafka can have it)"
        );
    }
}
