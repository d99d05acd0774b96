//! What can go wrong, by whose fault it is.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use anabranch_core::batch::BatchError;
use anabranch_core::{Offset, ProducerEpoch, ProducerId};

/// The disk's fault: what stopped a partition. It names where to look.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{} at byte {position}: {cause}", file.display())]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub position: u64,
    /// What is wrong there.
    pub cause: FaultCause,
}

/// What is wrong with a file.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FaultCause {
    /// A read, write or other call failed.
    #[error("{action} failed: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        error: Arc<io::Error>,
    },
    /// A sync failed: what reached the disk is not known, so nothing more is written. Restart to recover.
    #[error("sync failed ({0}); the partition has stopped, since what reached the disk is not known")]
    SyncFailed(Arc<io::Error>),
    /// Bytes that were durable are not a batch any more.
    #[error("damaged: {0}")]
    Damaged(BatchError),
    /// Offsets do not go on where the batch before ended.
    #[error("damaged: offset {found} where {expected} or later must be")]
    OffsetGoesBack {
        /// What follows from what stands before.
        expected: Offset,
        /// What stands there.
        found: Offset,
    },
    /// The file ends before the point that was durable.
    #[error("damaged: the file ends here, and {durable_bytes} bytes of it were durable")]
    Shortened {
        /// How many bytes there were.
        durable_bytes: u64,
    },
    /// The segment that held the durable point is gone.
    #[error("damaged: this segment was durable and is missing")]
    SegmentMissing,
    /// Segments do not join: the one before this is missing, or its end is.
    #[error("damaged: offsets {from} to {base} are missing before this segment")]
    Gap {
        /// After the last record of what stands before.
        from: Offset,
        /// Where this segment begins.
        base: Offset,
    },
    /// The journal's entries do not follow one another.
    #[error("damaged: entries {from} to {to} of the journal are missing here")]
    EntriesMissing {
        /// The first one.
        from: u64,
        /// The one that is there again.
        to: u64,
    },
    /// A batch has records where others begin.
    #[error("damaged: a batch reaches to offset {last}, and what follows begins at {limit}")]
    OffsetTooFar {
        /// The last offset of the batch.
        last: Offset,
        /// Where the next segment begins, or the part that may be seen ends.
        limit: Offset,
    },
    /// A small file that says where the log starts, or which segments one has replaced, is not what was written.
    #[error("damaged: what this file says cannot be read, and so which segments may be removed is not known")]
    MarkDamaged,
    /// No snapshot of producer state that can be read reaches the first segment, and what the producers wrote before that is
    /// deleted.
    #[error(
        "damaged: only this file knew what idempotent producers wrote before offset {first}, and those records are deleted. \
         All other records are whole. To go on, move the partition's *.snapshot files away: producers that have written \
         nothing since are forgotten then, and a batch that one of them sends again is stored again"
    )]
    ProducersLost {
        /// Where the first segment begins.
        first: Offset,
    },
    /// Records that were durable are gone from the end, or the last ones have other offsets.
    #[error("damaged: the log ends at offset {end}, and was durable up to {durable}")]
    EndsElsewhere {
        /// After the last record that is there.
        end: Offset,
        /// After the last record that was.
        durable: Offset,
    },
}

/// Why an append was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The producer skipped or repeated sequence numbers.
    #[error("producer {producer} sent sequence {found}, and {expected} comes next")]
    OutOfOrderSequence {
        /// Who.
        producer: ProducerId,
        /// What the log waits for.
        expected: i32,
        /// What came.
        found: i32,
    },
    /// The producer was replaced by a newer incarnation.
    #[error("producer {producer} has epoch {current} and wrote with {found}")]
    InvalidProducerEpoch {
        /// Who.
        producer: ProducerId,
        /// The newest epoch.
        current: ProducerEpoch,
        /// What came.
        found: ProducerEpoch,
    },
    /// A batch of a transaction that the partition is in no more, or never was; or a plain one of a producer amid a
    /// transaction.
    #[error("producer {producer} has no transaction here that this belongs to")]
    NotInTransaction {
        /// Who.
        producer: ProducerId,
    },
    /// The end of a transaction, by a coordinator that was replaced.
    #[error("the transaction coordinator has epoch {current}, and an end came from {found}")]
    CoordinatorFenced {
        /// The newest epoch.
        current: i32,
        /// What came.
        found: i32,
    },
    /// A control batch that is no end of a transaction, or cannot be read.
    #[error("not the end of a transaction: {0}")]
    InvalidMarker(BatchError),
    /// The log does not end where the append expected it ([`crate::PartitionLog::append_at`]).
    #[error("the log ends at {end}, and not at {expected}")]
    NotAtEnd {
        /// Where it was to end.
        expected: Offset,
        /// Where it ends.
        end: Offset,
    },
    /// The partition takes nothing for a moment ([`crate::Gate::Held`]): it may be tried again.
    #[error("the partition is held still for a moment, to be moved")]
    Held,
    /// The partition is elsewhere now ([`crate::Gate::Moved`]).
    #[error("moved to {0}")]
    Moved(Arc<str>),
    /// The same ([`crate::Gate::Redirected`]), and it may be tried again: there.
    #[error("moved to {0}")]
    Redirected(Arc<str>),
    /// The disk is full, or the write failed and was taken back: nothing of this append is in the log.
    #[error("the write failed and was taken back: {0}")]
    WriteFailed(Arc<io::Error>),
    /// The partition has stopped.
    #[error("the partition has stopped: {0}")]
    Stopped(Fault),
    /// The store is closed, or the partition deleted.
    #[error("the log is closed")]
    Closed,
}

/// Why a read was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// No such offset.
    #[error("offset {asked} is not in the log, which has {start} to {end}")]
    OutOfRange {
        /// What was asked for.
        asked: Offset,
        /// The oldest.
        start: Offset,
        /// After the newest.
        end: Offset,
    },
    /// The bytes are damaged, or the disk cannot read them.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The partition is deleted.
    #[error("the log is closed")]
    Closed,
}

/// Why segments were not removed or compacted. Whatever was done before is whole, and the log is as right as it was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpkeepError {
    /// The log cannot start there: the records up to it are not there, or not durable.
    #[error("offset {asked} is not in the log, which ends at {end}")]
    OutOfRange {
        /// Where it should start.
        asked: Offset,
        /// After the newest durable record.
        end: Offset,
    },
    /// A write or another call failed; it may work another time.
    #[error("{action} {} failed: {error}", file.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        file: PathBuf,
        /// What the operating system said.
        error: Arc<io::Error>,
    },
    /// Somebody else is compacting the partition.
    #[error("the partition is being compacted")]
    Busy,
    /// Whoever asked for it wants it no more.
    #[error("it was called off")]
    CalledOff,
    /// The partition has stopped, or must stop: damage was met.
    #[error("the partition has stopped: {0}")]
    Stopped(Fault),
    /// The store is closed, or the partition deleted.
    #[error("the log is closed")]
    Closed,
}

/// Why a data directory was not opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Written by a version that is newer, or by something else.
    #[error("{} has format {found:?}, and this version reads {expected:?}; it was left as it is", file.display())]
    UnknownFormat {
        /// The format file.
        file: PathBuf,
        /// What it says.
        found: String,
        /// What it must say.
        expected: &'static str,
    },
    /// There are files in it that are not ours, and no format file.
    #[error("{} is not a data directory, and not empty", .0.display())]
    NotADataDirectory(PathBuf),
    /// An entry of the journal that held durable records cannot be read, and whose they were is not known.
    #[error(
        "the journal is damaged: {0}. Records that were acknowledged may be in it and nowhere else. Nothing was changed; \
         to go on without them, move the directory `journal` away"
    )]
    JournalDamaged(Fault),
    /// The operating system refuses.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
}
