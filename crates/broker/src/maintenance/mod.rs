//! Getting rid of data: retention and compaction, for every partition, off everybody's way.
//!
//! What is to be done is decided by rules without effects ([`plan`]); how it is done so that nothing is lost is the log's
//! affair. One round at a time looks at every partition, the broker's own topics included. A timer asks for rounds every
//! `log.retention.check.interval.ms` and `log.cleaner.backoff.ms`; [`Broker::maintain`] does one at once.

pub(crate) mod plan;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anabranch_core::{Offset, TopicPartition};
use anabranch_log::{
    AppendError, Compaction, LogStatus, PartitionLog, ReadError, Removed, Roll, UpkeepError,
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::broker::{Broker, Shared};
use crate::config::topic::TopicRules;
use crate::error::DeleteRecordsError;
use crate::tasks::{blocking, to_the_end};
use plan::{Dirty, dirty, expired};

/// How long after the start retention is looked at first: Kafka's `log.initial.task.delay.ms`.
const FIRST_CHECK_MS: u64 = 30_000;

/// The map of keys takes no more than this part of the memory budget, whatever the setting: the other budgets leave it.
const MAP_SHARE: usize = 16;

/// What retention and compaction have done since the broker was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Maintained {
    /// Segments that retention and DeleteRecords removed, and that compaction merged into others.
    pub segments_removed: u64,
    /// Bytes that both gave back.
    pub bytes_reclaimed: u64,
    /// Passes of compaction that came to their end.
    pub compaction_passes: u64,
    /// Records that they removed.
    pub records_compacted: u64,
    /// Of those, records without a key: they were written before the topic was compacted.
    pub keyless_records_compacted: u64,
    /// Partitions that could not be looked after in a round; the next one tries again.
    pub failures: u64,
}

/// The state of the work.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    /// Held for a round.
    round: tokio::sync::Mutex<()>,
    /// Ends a round early, and lets no other begin.
    closing: Arc<AtomicBool>,
    timer: Mutex<Option<JoinHandle<()>>>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    segments_removed: AtomicU64,
    bytes_reclaimed: AtomicU64,
    compaction_passes: AtomicU64,
    records_compacted: AtomicU64,
    keyless_records_compacted: AtomicU64,
    failures: AtomicU64,
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        if let Some(timer) = self.timer.get_mut() {
            timer.abort();
        }
    }
}

/// A log, and the rules that hold for it.
struct Maintainable {
    log: PartitionLog,
    rules: TopicRules,
}

/// Why a partition could not be looked after.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Settle(#[from] AppendError),
    #[error(transparent)]
    Upkeep(#[from] UpkeepError),
}

impl Failure {
    /// Whether somebody closed or deleted the partition, or wants no more of it: nothing is wrong then.
    fn is_the_end(&self) -> bool {
        matches!(
            self,
            Self::Read(ReadError::Closed)
                | Self::Settle(AppendError::Closed)
                | Self::Upkeep(UpkeepError::Closed | UpkeepError::CalledOff | UpkeepError::Busy)
        )
    }
}

/// Up to where records are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// This offset, which stays.
    Offset(Offset),
    /// The high watermark: everything that is visible.
    HighWatermark,
}

impl Broker {
    /// Deletes the records of a partition before an offset, for good: when this returns, a restart does not bring them
    /// back. The answer is the log's start from then on. Kafka's rules: not in internal topics, not without `delete` in
    /// `cleanup.policy`; and not while the topic is moved to another engine.
    ///
    /// # Errors
    /// [`DeleteRecordsError`].
    pub async fn delete_records(
        &self,
        at: &TopicPartition,
        before: Before,
    ) -> Result<Offset, DeleteRecordsError> {
        let topics = self.topics();
        let topic = topics.get(&at.topic).filter(|topic| topic.partition(at.partition).is_some());
        let topic = topic.ok_or_else(|| DeleteRecordsError::Unknown(at.clone()))?;
        if topic.is_internal() {
            return Err(DeleteRecordsError::Internal(at.topic.clone()));
        }
        let partition =
            topic.partition(at.partition).expect("it was there a moment ago, and this does not change");
        if !partition.rules().deleted {
            return Err(DeleteRecordsError::Policy(at.clone()));
        }
        if self.0.moves.pinned().contains(&at.topic) {
            return Err(DeleteRecordsError::Moving(at.clone()));
        }
        let settled = partition.log().settle(Roll::WhenDue).await?;
        let end = partition.offsets().high_watermark.min(settled.durable());
        let before = match before {
            Before::HighWatermark => end,
            Before::Offset(asked) if asked < Offset(0) || asked > end => {
                return Err(DeleteRecordsError::OutOfRange { asked, end });
            }
            Before::Offset(asked) => asked,
        };
        let log = partition.log().clone();
        let removed = blocking(self.0.store.workers(), move || log.remove_below(&settled, before)).await?;
        self.0.count_removed(&removed);
        Ok(removed.log_start)
    }

    /// Looks after every partition once: removes segments that have outlived their retention, and compacts what is dirty
    /// enough, the dirtiest first. Waits for a round that is under way. Dropping the future does not stop it.
    pub async fn maintain(&self) {
        let shared = Arc::clone(&self.0);
        to_the_end(async move {
            shared.enforce_retention().await;
            shared.compact().await;
        })
        .await;
    }

    /// What retention and compaction have done so far.
    #[must_use]
    pub fn maintained(&self) -> Maintained {
        let counts = &self.0.maintenance.counts;
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Maintained {
            segments_removed: get(&counts.segments_removed),
            bytes_reclaimed: get(&counts.bytes_reclaimed),
            compaction_passes: get(&counts.compaction_passes),
            records_compacted: get(&counts.records_compacted),
            keyless_records_compacted: get(&counts.keyless_records_compacted),
            failures: get(&counts.failures),
        }
    }
}

impl Shared {
    /// Starts the timer.
    pub(crate) fn start_maintenance(self: &Arc<Self>) {
        let timer = tokio::spawn(keep_time(Arc::downgrade(self), Timing::of(self)));
        *self.maintenance.timer.lock() = Some(timer);
    }

    /// Ends the round that is under way, and lets no other begin.
    pub(crate) async fn close_maintenance(&self) {
        self.maintenance.closing.store(true, Ordering::Relaxed);
        let timer = self.maintenance.timer.lock().take();
        drop(self.maintenance.round.lock().await);
        if let Some(timer) = timer {
            timer.abort();
        }
    }

    fn count_removed(&self, removed: &Removed) {
        add(&self.maintenance.counts.segments_removed, removed.segments);
        add(&self.maintenance.counts.bytes_reclaimed, removed.bytes);
    }

    async fn enforce_retention(&self) {
        let _round = self.maintenance.round.lock().await;
        for partition in self.maintainable() {
            if self.is_closing() {
                return;
            }
            let outcome = self.retain(&partition).await;
            self.tell(partition.log.id(), outcome);
        }
    }

    async fn retain(&self, partition: &Maintainable) -> Result<(), Failure> {
        if !partition.rules.deleted {
            return Ok(());
        }
        let (log, now_ms) = (partition.log.clone(), self.clock.now_ms());
        let segments = blocking(self.store.workers(), move || log.segments(now_ms)).await?;
        let high_watermark = partition.log.offsets().high_watermark;
        let Some(expired) = expired(&segments, high_watermark, partition.rules.retention, now_ms) else {
            return Ok(());
        };
        let roll = if expired.active_too { Roll::Now } else { Roll::WhenDue };
        let settled = match partition.log.settle(roll).await {
            // On a full disk no segment can be begun until older ones are gone.
            Err(AppendError::WriteFailed(_)) => partition.log.settle(Roll::WhenDue).await?,
            settled => settled?,
        };
        let log = partition.log.clone();
        let removed =
            blocking(self.store.workers(), move || log.remove_below(&settled, expired.start)).await?;
        tracing::info!(
            partition = %partition.log.id(), segments = removed.segments, bytes = removed.bytes,
            log_start = removed.log_start.0, "removed segments that have outlived their retention"
        );
        self.count_removed(&removed);
        Ok(())
    }

    async fn compact(&self) {
        let _round = self.maintenance.round.lock().await;
        if !self.config.flag("log.cleaner.enable") {
            return;
        }
        let mut due: Vec<(Maintainable, Dirty)> = Vec::new();
        for partition in self.maintainable().into_iter().filter(|partition| partition.rules.compacted) {
            if self.is_closing() {
                return;
            }
            match self.dirty(&partition).await {
                Ok(dirty) if dirty.is_due => due.push((partition, dirty)),
                Ok(_) => {}
                Err(failure) => self.tell(partition.log.id(), Err(failure)),
            }
        }
        due.sort_by(|(_, one), (_, other)| other.ratio.total_cmp(&one.ratio));
        for (partition, dirty) in due {
            // A map that was full takes another pass.
            loop {
                if self.is_closing() {
                    return;
                }
                match self.pass(&partition, dirty.before).await {
                    Ok(true) => {}
                    outcome => break self.tell(partition.log.id(), outcome.map(|_| ())),
                }
            }
        }
    }

    async fn dirty(&self, partition: &Maintainable) -> Result<Dirty, Failure> {
        let (log, now_ms) = (partition.log.clone(), self.clock.now_ms());
        let looked =
            blocking(self.store.workers(), move || Ok((log.segments(now_ms)?, log.first_dirty()))).await;
        let (segments, first_dirty) = looked.map_err(|error: ReadError| Failure::Read(error))?;
        let last_stable = partition.log.offsets().last_stable;
        Ok(dirty(&segments, last_stable, first_dirty, &partition.rules.compaction, now_ms))
    }

    /// One pass; whether another must follow.
    async fn pass(&self, partition: &Maintainable, before: Offset) -> Result<bool, Failure> {
        let set = usize::try_from(self.config.number("log.cleaner.dedupe.buffer.size")).unwrap_or(usize::MAX);
        let how = Compaction {
            now_ms: self.clock.now_ms(),
            before,
            delete_retention_ms: partition.rules.compaction.delete_retention_ms,
            map_bytes_max: set.min(self.memory.limit_bytes() / MAP_SHARE),
            hash_key: [self.random.next_u64(), self.random.next_u64()],
            call_off: Arc::clone(&self.maintenance.closing),
        };
        let settled = partition.log.settle(Roll::WhenDue).await?;
        let log = partition.log.clone();
        let done = blocking(self.store.workers(), move || log.compact(&settled, &how)).await?;
        tracing::info!(
            partition = %partition.log.id(), keys = done.keys, records_removed = done.records_removed,
            bytes_removed = done.bytes_removed, cleaned = done.cleaned.0, "compacted"
        );
        let counts = &self.maintenance.counts;
        add(&counts.compaction_passes, 1);
        add(&counts.segments_removed, done.segments_removed);
        add(&counts.bytes_reclaimed, done.bytes_removed);
        add(&counts.records_compacted, done.records_removed);
        add(&counts.keyless_records_compacted, done.keyless_removed);
        Ok(done.is_partial)
    }

    /// Every partition that works, in order, but those that are being moved; the catalogue's is none of the catalogue.
    fn maintainable(&self) -> Vec<Maintainable> {
        let own = Maintainable { log: self.journal.log().clone(), rules: crate::open::catalogue_rules() };
        let catalogue = Arc::clone(&self.catalogue.read());
        let pinned = self.moves.pinned();
        let of_topics = catalogue
            .iter()
            .filter(|topic| !pinned.contains(topic.name()))
            .flat_map(|topic| topic.partitions())
            .map(|partition| Maintainable { log: partition.log().clone(), rules: partition.rules() });
        let all = std::iter::once(own).chain(of_topics);
        all.filter(|partition| matches!(partition.log.status(), LogStatus::Online)).collect()
    }

    fn tell(&self, partition: &TopicPartition, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome
            && !failure.is_the_end()
        {
            add(&self.maintenance.counts.failures, 1);
            tracing::warn!(%partition, %failure, "retention or compaction failed; it is tried again later");
        }
    }

    fn is_closing(&self) -> bool {
        self.maintenance.closing.load(Ordering::Relaxed)
    }
}

fn add(count: &AtomicU64, by: u64) {
    count.fetch_add(by, Ordering::Relaxed);
}

/// When the timer does what.
#[derive(Debug, Clone, Copy)]
struct Timing {
    check: Duration,
    backoff: Duration,
}

impl Timing {
    fn of(shared: &Shared) -> Self {
        let ms = |name: &str| Duration::from_millis(shared.config.number(name).unsigned_abs());
        Self { check: ms("log.retention.check.interval.ms"), backoff: ms("log.cleaner.backoff.ms") }
    }
}

/// Asks for rounds until the broker is gone.
async fn keep_time(shared: Weak<Shared>, timing: Timing) {
    let mut until_check = timing.check.min(Duration::from_millis(FIRST_CHECK_MS));
    let mut until_clean = timing.backoff;
    loop {
        let wait = until_check.min(until_clean);
        tokio::time::sleep(wait).await;
        (until_check, until_clean) = (until_check - wait, until_clean - wait);
        let Some(shared) = shared.upgrade() else { return };
        if until_check.is_zero() {
            shared.enforce_retention().await;
            until_check = timing.check;
        }
        if until_clean.is_zero() {
            shared.compact().await;
            until_clean = timing.backoff;
        }
    }
}
