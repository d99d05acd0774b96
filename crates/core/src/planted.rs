//! Bugs on purpose, so that whoever checks the log and the broker can be checked: see the `sim` room.
//!
//! [`is`] is a constant `false` in every build but one with `--cfg anabranch_planted`, which only `cargo xtask sim
//! --planted` and `cargo xtask histories --planted` make.

#[cfg(all(anabranch_planted, not(debug_assertions)))]
compile_error!("planted bugs are for simulations, not for a release");

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $bug:ident,)+) => {
        /// A bug that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $doc])+ $bug,)+
        }

        impl Bug {
            /// Every bug, and what it is.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$bug, concat!($($doc),+))),+];
        }
    };
}

bugs! {
    /// acknowledge before sync
    AcknowledgeBeforeSync,
    /// no directory sync after segment creation
    SegmentNameNotSynced,
    /// retry after a failed fsync
    FailedSyncRetried,
    /// trust the index over the log
    IndexTrusted,
    /// recovery that cuts a durable batch
    DurableBatchCut,
    /// recovery that keeps a torn batch
    TornBatchKept,
    /// producer snapshot newer than the log
    SnapshotAhead,
    /// high watermark past durable bytes
    ShownBeforeSync,
    /// offsets commit without sync
    CommitWithoutSync,
    /// producers forgotten by recovery
    ProducersForgotten,
    /// a failed write cut off, and the segment sealed without a sync
    SealedWithoutSync,
    /// recovery that believes the page cache after a failed sync
    PageCacheBelieved,
    /// journal not replayed
    JournalNotReplayed,
    /// journal file used again before its segments are synced
    JournalReusedEarly,
    /// journal's directory not synced
    JournalNameNotSynced,
    /// journal that remembers a deleted topic
    DeletedTopicRemembered,
    /// journal's torn entry replayed
    TornEntryReplayed,
    /// compaction that drops the newest value
    NewestValueDropped,
    /// compaction swap without sync
    SwapWithoutSync,
    /// retention that deletes the active segment
    ActiveSegmentRemoved,
    /// tombstones that go in the first pass
    TombstonesGoAtOnce,
    /// search by time that begins after the time
    TimeSoughtTooLate,
    /// search of the latest time after the index's last entry only
    LatestAfterIndex,
    /// large writes acknowledged without a sync of their segment
    LargeWriteNotSynced,
    /// a failed sync of all files believed
    FailedSyncOfAllBelieved,
    /// a transaction decided before what it wrote is durable
    DecidedBeforeData,
    /// markers before the decision is durable
    MarkerBeforeDecision,
    /// an end in one entry of the journal, written to its segments before that is durable
    EndWrittenAhead,
    /// an end noted as completed before its markers are synced
    CompletedBeforeMarkers,
    /// last stable offset past an open transaction
    StablePastOpen,
    /// an aborted transaction forgotten by recovery
    AbortedForgotten,
    /// a batch that comes after the end of its transaction taken
    LateBatchTaken,
    /// compaction that drops a marker before its records
    MarkerDroppedEarly,
    /// compaction that takes aborted values for the newest
    AbortedValueInMap,
    /// an aborted transaction told of after its marker is gone
    AbortedEntryOutlivesMarker,
    /// transactional producers fenced by id, and not by epoch
    FencedByIdOnly,
    /// a transaction that took too long aborted in its own epoch
    TimedOutNotFenced,
    /// offsets of an aborted transaction committed
    AbortedOffsetsCommitted,
    /// a decided transaction not carried out by the next start
    PreparedNotFinished,
    /// what partitions have open, and the coordinator does not know, left to itself by the next start
    OpenNotReconciled,
}

#[cfg(anabranch_planted)]
static PLANTED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(usize::MAX);

/// Plants `bug`, and takes out the one before.
#[cfg(anabranch_planted)]
pub fn plant(bug: Bug) {
    PLANTED.store(bug as usize, std::sync::atomic::Ordering::SeqCst);
}

/// Plants the bug of this name; whether there is one.
#[cfg(anabranch_planted)]
#[must_use]
pub fn plant_named(name: &str) -> bool {
    let named = Bug::ALL.iter().find(|(bug, _)| format!("{bug:?}") == name);
    named.map(|(bug, _)| plant(*bug)).is_some()
}

/// Whether `bug` is planted.
#[cfg(anabranch_planted)]
#[must_use]
pub fn is(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as usize
}

/// Whether `bug` is planted: no.
#[cfg(not(anabranch_planted))]
#[must_use]
#[inline(always)]
pub const fn is(_bug: Bug) -> bool {
    false
}
