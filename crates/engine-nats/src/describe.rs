//! What the engine is, as it was found.

use anabranch_core::engine::{Capability, Description, Limits, Support};

use crate::ENGINE;
use crate::envelope::OVERHEAD_BYTES;
use crate::lane::{ROUND_BYTES_MAX, ROUND_RECORDS_MAX};
use crate::settings::NatsSettings;

/// What was found when the engine was opened.
pub(crate) struct Found {
    pub(crate) version: String,
    pub(crate) cluster: String,
    pub(crate) nodes: u32,
    pub(crate) payload_bytes_max: usize,
}

pub(crate) fn describe(found: &Found, settings: &NatsSettings) -> Description {
    let record_bytes_max = record_bytes_max(found.payload_bytes_max);
    let limits = Limits {
        record_bytes_max,
        append_bytes_max: append_bytes_max(found.payload_bytes_max),
        append_records_max: ROUND_RECORDS_MAX as u32,
    };
    let support = |capability| support(capability, settings);
    Description::new(ENGINE, found.version.clone(), found.cluster.clone(), found.nodes, limits, support)
}

/// Bytes of a record that fit into a message of so many.
pub(crate) fn record_bytes_max(payload_bytes_max: usize) -> u64 {
    payload_bytes_max.saturating_sub(OVERHEAD_BYTES) as u64
}

pub(crate) fn append_bytes_max(payload_bytes_max: usize) -> u64 {
    record_bytes_max(payload_bytes_max).max(ROUND_BYTES_MAX as u64)
}

fn support(capability: Capability, settings: &NatsSettings) -> Support {
    match capability {
        Capability::PartitionOrder
        | Capability::Replay
        | Capability::IdempotentAppend
        | Capability::AppendIds
        | Capability::AtomicAppend
        | Capability::ConditionalAppend
        | Capability::Compaction
        | Capability::Retention
        | Capability::Trim => Support::Native,
        Capability::ReplayByTime => Support::emulated(
            "NATS knows when a message came, and not the record's own time: the search reads the headers of all records \
             before it",
        ),
        Capability::Groups => Support::emulated(format!(
            "members and positions are keys of a bucket: a dead member's partitions are taken over after {} ms, and NATS's own \
             tools do not see these groups",
            settings.session_timeout.as_millis()
        )),
        Capability::GroupFencing => Support::emulated(
            "each commit is a compare-and-set of the partition's key, which its owner has claimed",
        ),
        Capability::DelayedRelease => Support::Native,
        Capability::Queue if settings.replicas >= 3 => Support::Native,
        Capability::Queue => Support::emulated(
            "consumers of JetStream; on one server (replicas=1) a settlement is answered before it is written, so after that \
             server's death a record may come again that was accepted",
        ),
        Capability::DelayedDelivery => Support::emulated(
            "whoever gets it too early gives it back until then, which counts as a delivery; it is one of the unsettled",
        ),
        Capability::RecordExpiry => Support::emulated("it is looked at when the record would be delivered"),
        Capability::DeadLetters => Support::emulated(
            "it is appended first, and then taken out of the queue: when that is done again, it is known by its id for 2 minutes",
        ),
        Capability::Transactions => {
            Support::absent("an atomic batch is within one stream; nothing in NATS spans streams")
        }
        Capability::VerbatimBatches => Support::absent("NATS stores messages: each record becomes one"),
        Capability::SurvivesNodeLoss if settings.replicas >= 3 => Support::Native,
        Capability::SurvivesNodeLoss => {
            Support::absent("each partition is on one server (replicas=1): open it with replicas=3")
        }
        Capability::SurvivesPowerLoss if settings.synced => Support::Native,
        Capability::SurvivesPowerLoss => Support::absent(
            "by default NATS syncs every two minutes, and does not tell: where sync_interval is always, open it with synced=1",
        ),
        other => Support::absent(format!("{other} is not known to this engine")),
    }
}
