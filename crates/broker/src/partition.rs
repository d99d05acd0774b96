//! One partition of a topic: the log behind the rules of the door.

use std::num::NonZero;
use std::sync::{Arc, LazyLock};

use anabranch_core::batch::{
    Batch, BatchError, BatchHeader, Compression, NO_TIMESTAMP, RecordGlance, RecordSummary, check_batch,
    decompression_bytes,
};
use anabranch_core::budget::Permit;
use anabranch_core::seam::{Clock, Workers};
use anabranch_core::{LeaderEpoch, Offset, TopicPartition};
use anabranch_log::{
    Ack, Appended, FetchLimits, FetchSlice, Isolation, LogStatus, Offsets, Part, PartitionLog, Pending,
    ProducerState, ReadError, ReadSlice, Timestamped, Waiter,
};
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::Semaphore;

use crate::config::topic::TopicRules;
use crate::error::{FetchError, ProduceError, RecordError, RecordsRefused};
use crate::memory::Memory;
use crate::tasks::blocking;
use crate::transaction::TransactionVersion;

/// One node has one leader for ever.
pub(crate) const LEADER_EPOCH: LeaderEpoch = LeaderEpoch(0);
/// Checking takes about a microsecond for every few KiB; a batch larger than this is checked off the async threads.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// So is a compressed batch larger than this, since what it holds is larger.
const INLINE_COMPRESSED_BYTES_MAX: usize = 1 << 10;

/// As many batches are checked off the async threads at a time as there are processors: each takes one.
static CHECKS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get)));

/// Wrong records of one batch that are told one by one; of the others, how many there are.
const RECORD_ERRORS_MAX: usize = 1000;

/// One partition of a topic. Cheap to clone; all clones are the same partition.
#[derive(Debug, Clone)]
pub struct Partition(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: PartitionLog,
    clock: Arc<dyn Clock>,
    memory: Memory,
    internal: bool,
    /// Protects the rules from being read while they change; held for a copy only.
    rules: RwLock<TopicRules>,
}

/// Where a batch ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// The time that the broker gave its records, ms; -1 when they have the producer's.
    pub log_append_time_ms: i64,
    /// The oldest record that the partition keeps.
    pub log_start: Offset,
}

/// A batch that was accepted and is queued. Dropping it does not take the batch back.
#[derive(Debug)]
pub struct Producing {
    pending: Pending,
    partition: Partition,
    log_append_time_ms: i64,
}

impl Producing {
    /// Waits until the batch is as safe as was asked for.
    ///
    /// # Errors
    /// [`ProduceError::Log`].
    pub async fn answer(self) -> Result<Produced, ProduceError> {
        let appended = self.pending.answer().await?;
        Ok(self.partition.produced(appended, self.log_append_time_ms))
    }
}

/// What to look for in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The oldest kept record.
    Earliest,
    /// After the newest visible record.
    Latest,
    /// The record with the largest timestamp.
    MaxTimestamp,
    /// The first record that is at least as late, ms.
    Time(i64),
}

impl Partition {
    pub(crate) fn new(
        log: PartitionLog,
        clock: Arc<dyn Clock>,
        memory: Memory,
        internal: bool,
        rules: TopicRules,
    ) -> Self {
        Self(Arc::new(Inner { log, clock, memory, internal, rules: RwLock::new(rules) }))
    }

    pub(crate) fn log(&self) -> &PartitionLog {
        &self.0.log
    }

    pub(crate) fn workers(&self) -> &Arc<dyn Workers> {
        self.0.log.workers()
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// New rules hold from the next batch on.
    pub(crate) fn set_rules(&self, rules: TopicRules) {
        *self.0.rules.write() = rules;
        self.0.log.set_config(rules.log);
    }

    pub(crate) fn rules(&self) -> TopicRules {
        *self.0.rules.read()
    }

    /// Which partition this is.
    #[must_use]
    pub fn id(&self) -> &TopicPartition {
        self.0.log.id()
    }

    /// Checks one batch, appends it, and answers as `ack` says. Dropping the future does not take it back.
    ///
    /// # Errors
    /// [`ProduceError`].
    pub async fn produce(&self, bytes: Bytes, ack: Ack) -> Result<Produced, ProduceError> {
        let (batch, log_append_time_ms) = self.checked(bytes).await?;
        let appended = self.0.log.append(batch, ack).await?;
        Ok(self.produced(appended, log_append_time_ms))
    }

    /// The same, if the partition ends at `end` when the batch's turn comes ([`PartitionLog::append_at`]).
    ///
    /// # Errors
    /// [`ProduceError::Log`] of `NotAtEnd` when others were first.
    pub async fn produce_at(&self, end: Offset, bytes: Bytes, ack: Ack) -> Result<Produced, ProduceError> {
        let (batch, log_append_time_ms) = self.checked(bytes).await?;
        let appended = self.0.log.append_at(end, batch, ack).await?;
        Ok(self.produced(appended, log_append_time_ms))
    }

    /// Checks one batch and queues it behind everything queued before: whoever has several batches in order submits them
    /// one after the other, and waits for the answers as they like.
    ///
    /// # Errors
    /// [`ProduceError`]; nothing is queued then.
    pub async fn submit(&self, bytes: Bytes, ack: Ack) -> Result<Producing, ProduceError> {
        self.submit_in(bytes, ack, None).await
    }

    /// The same for a batch that is part of a transaction ([`crate::TransactionService::join`]).
    ///
    /// # Errors
    /// [`ProduceError`]; nothing is queued then.
    pub async fn submit_in(
        &self,
        bytes: Bytes,
        ack: Ack,
        part: Option<Part>,
    ) -> Result<Producing, ProduceError> {
        let (batch, log_append_time_ms) = self.checked(bytes).await?;
        let pending = self.0.log.submit_in(batch, ack, part).await?;
        Ok(Producing { pending, partition: self.clone(), log_append_time_ms })
    }

    /// Says of a client's batch that was meant for a transaction that it was refused before it was submitted
    /// ([`PartitionLog::note_refused`]).
    pub async fn note_refused(&self, batch: &BatchHeader, version: TransactionVersion) {
        self.0.log.note_refused(batch, version.level() as i8).await;
    }

    fn produced(&self, appended: Appended, log_append_time_ms: i64) -> Produced {
        Produced {
            base_offset: appended.base_offset,
            log_append_time_ms,
            log_start: self.offsets().log_start,
        }
    }

    /// A batch as the partition's rules want it, and the time that it was stamped with.
    async fn checked(&self, bytes: Bytes) -> Result<(Batch, i64), ProduceError> {
        if self.0.internal {
            return Err(ProduceError::Internal(self.id().topic.clone()));
        }
        let rules = self.rules();
        let now_ms = self.0.clock.now_ms();
        let recompressed = is_recompressed(&bytes, &rules);
        let turn = match !recompressed && is_quick(&bytes) {
            true => None,
            false => Some(CHECKS.acquire().await.expect("the semaphore is never closed")),
        };
        let permit = match recompressed {
            true => Some(self.recompression_memory(&rules).await),
            false => None,
        };
        let decompression = self.decompression_memory(&bytes).await;
        let memory_bytes = decompression.as_ref().map_or(usize::MAX, |(_, bytes)| *bytes);
        let batch = match turn {
            None => check(&bytes, &rules, now_ms, memory_bytes)?,
            Some(turn) => {
                // Whoever asked may be gone before the check is through: it holds what it uses itself.
                let check = move || {
                    let _held = (turn, decompression);
                    check(&bytes, &rules, now_ms, memory_bytes).map(|batch| hold(batch, permit))
                };
                blocking(self.workers(), check).await?
            }
        };
        Ok((batch, if rules.log_append_time { now_ms } else { NO_TIMESTAMP }))
    }

    /// Memory for decompressing a batch, and how much it is; none if it needs none. What would need more than there is at
    /// all gets that.
    async fn decompression_memory(&self, bytes: &Bytes) -> Option<(Permit, usize)> {
        let budget = self.memory().decompression();
        let wanted = decompression_bytes(bytes).min(budget.limit_bytes());
        match wanted {
            0 => None,
            _ => Some((budget.acquire(wanted).await.expect("it is no more than the budget"), wanted)),
        }
    }

    /// Memory for a batch that is compressed anew, until it is written.
    /// The writer gives it back without waiting for anybody, so that whoever waits here waits for the disk alone.
    async fn recompression_memory(&self, rules: &TopicRules) -> Permit {
        let budget = self.memory().recompression();
        let wanted = rules.message_bytes_max.min(budget.limit_bytes());
        budget.acquire(wanted).await.expect("it is no more than the budget")
    }

    /// Reads whole batches from the one that holds `from` on, up to `bytes_max`; the first comes whole even when it is
    /// larger. Empty at the high watermark. Blocks on the disk: call it off the async threads.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn fetch(
        &self,
        from: Offset,
        bytes_max: usize,
        leader_epoch: Option<LeaderEpoch>,
    ) -> Result<ReadSlice, FetchError> {
        check_leader_epoch(leader_epoch)?;
        Ok(self.0.log.read(from, bytes_max)?)
    }

    /// The same for whoever sends much: batches that are many are not read yet, but found; for readers of committed records
    /// up to the last stable offset. Blocks on the disk.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn fetch_within(
        &self,
        from: Offset,
        limits: FetchLimits,
        isolation: Isolation,
        leader_epoch: Option<LeaderEpoch>,
    ) -> Result<FetchSlice, FetchError> {
        check_leader_epoch(leader_epoch)?;
        Ok(self.0.log.fetch(from, limits, isolation)?)
    }

    /// The bounds now.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        self.0.log.offsets()
    }

    /// Finds a place; `None` when no record is that late, or there is none at all. The timestamp is that of the record,
    /// or [`NO_TIMESTAMP`] for [`At::Earliest`] and [`At::Latest`]. Blocks on the disk for a time.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn locate(&self, at: At) -> Result<Option<Timestamped>, FetchError> {
        self.locate_within(at, Isolation::Written)
    }

    /// The same for readers of committed records: nothing is found that they do not see yet.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn locate_within(&self, at: At, isolation: Isolation) -> Result<Option<Timestamped>, FetchError> {
        self.check_status()?;
        let bound = |offset: Offset| Some(Timestamped { offset, timestamp_ms: NO_TIMESTAMP });
        let offsets = self.offsets();
        let end = offsets.end(isolation);
        let is_seen = |found: &Timestamped| isolation == Isolation::Written || found.offset < end;
        Ok(match at {
            At::Earliest => bound(offsets.log_start),
            At::Latest => bound(end),
            At::MaxTimestamp => self.0.log.find_max_time()?.filter(is_seen),
            At::Time(timestamp_ms) => self.0.log.find_by_time(timestamp_ms)?.filter(is_seen),
        })
    }

    /// Wakes `waiter` once when the partition grows next, stops or closes.
    pub fn register(&self, waiter: &Waiter) {
        self.0.log.register(waiter);
    }

    /// The leader's epoch: 0.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        LEADER_EPOCH
    }

    /// Whether it works.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        self.0.log.status()
    }

    /// Fails unless it works: the bounds of a partition that was damaged when it was opened are not known, and must not
    /// be told to anybody who would go by them.
    ///
    /// # Errors
    /// [`ReadError::Fault`] and [`ReadError::Closed`].
    pub fn check_status(&self) -> Result<(), FetchError> {
        match self.status() {
            LogStatus::Online => Ok(()),
            LogStatus::Stopped(fault) => Err(ReadError::Fault(fault).into()),
            LogStatus::Closed => Err(ReadError::Closed.into()),
        }
    }

    /// What is remembered of producers, by id.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn producers(&self) -> Result<Vec<ProducerState>, FetchError> {
        self.check_status()?;
        self.0.log.producers().await.map_err(|_| ReadError::Closed.into())
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.0.log.size_bytes()
    }
}

/// Checks what a client believes about the leader (KIP-320).
///
/// # Errors
/// [`FetchError::FencedLeaderEpoch`] and [`FetchError::UnknownLeaderEpoch`].
pub fn check_leader_epoch(asked: Option<LeaderEpoch>) -> Result<(), FetchError> {
    match asked {
        Some(asked) if asked < LEADER_EPOCH => {
            Err(FetchError::FencedLeaderEpoch { asked, current: LEADER_EPOCH })
        }
        Some(asked) if asked > LEADER_EPOCH => {
            Err(FetchError::UnknownLeaderEpoch { asked, current: LEADER_EPOCH })
        }
        _ => Ok(()),
    }
}

/// Whether the topic wants the batch in another codec than its producer's.
fn is_recompressed(bytes: &[u8], rules: &TopicRules) -> bool {
    let Some(codec) = rules.codec else { return false };
    BatchHeader::parse(bytes)
        .and_then(|header| header.compression())
        .is_ok_and(|from| from != codec.compression)
}

/// Ties what was taken for a batch to its bytes.
fn hold(batch: Batch, permit: Option<Permit>) -> Batch {
    match permit {
        None => batch,
        Some(mut permit) => {
            permit.shrink_to(batch.bytes().len());
            batch.guarded(permit)
        }
    }
}

fn is_quick(bytes: &Bytes) -> bool {
    let plain = BatchHeader::parse(bytes).and_then(|header| header.compression()) == Ok(Compression::None);
    bytes.len() <= if plain { INLINE_BYTES_MAX } else { INLINE_COMPRESSED_BYTES_MAX }
}

/// Everything that a batch from a client must be, in the order in which Kafka looks (`UnifiedLog.append`, then
/// `LogValidator`): what is wrong first decides the client's error.
fn check(bytes: &Bytes, rules: &TopicRules, now_ms: i64, memory_bytes: usize) -> Result<Batch, ProduceError> {
    let header = BatchHeader::parse(bytes)?;
    if header.base_offset != Offset(0) {
        return Err(ProduceError::InvalidRecord("the base offset of a producer's batch must be 0"));
    }
    if bytes.len() > rules.message_bytes_max {
        return Err(ProduceError::TooLarge { bytes: bytes.len(), max_bytes: rules.message_bytes_max });
    }
    let batch = check_batch(bytes)?;
    let segment_bytes = rules.log.segment_bytes as usize;
    if bytes.len() > segment_bytes {
        return Err(ProduceError::LargerThanSegment { bytes: bytes.len(), max_bytes: segment_bytes });
    }
    if header.record_count != header.last_offset_delta.saturating_add(1) {
        return Err(ProduceError::InvalidRecord("the batch's record count and offsets do not agree"));
    }
    if header.is_control() {
        return Err(ProduceError::InvalidRecord("clients may not write control records"));
    }
    if header.producer_id.is_some() && (header.base_sequence < 0 || header.producer_epoch.0 < 0) {
        return Err(ProduceError::InvalidRecord("a producer's batch needs an epoch and a sequence number"));
    }
    let max_timestamp_ms = check_records(&batch, rules, now_ms, memory_bytes)?.max_timestamp_ms;
    let batch = recompress(batch, rules)?;
    if rules.log_append_time {
        return Ok(batch.with_log_append_time(now_ms));
    }
    // Kafka corrects a header that claims another time than the records have, too (`LogValidator`).
    match max_timestamp_ms == header.max_timestamp_ms {
        true => Ok(batch),
        false => Ok(batch.with_max_timestamp(max_timestamp_ms)),
    }
}

fn check_records(
    batch: &Batch,
    rules: &TopicRules,
    now_ms: i64,
    memory_bytes: usize,
) -> Result<RecordSummary, ProduceError> {
    let summary = batch.check_records_within(memory_bytes).map_err(|error| match error {
        BatchError::TooLarge { .. } if batch.decompression_bytes() > memory_bytes => {
            ProduceError::Undecompressable { needed_bytes: batch.decompression_bytes(), memory_bytes }
        }
        BatchError::Truncated { .. } => {
            ProduceError::InvalidRecord("the records end before there are as many as the batch says")
        }
        other => other.into(),
    })?;
    let time_is_wrong = batch.header().is_log_append_time()
        || !rules.log_append_time
            && (summary.max_timestamp_ms.saturating_sub(now_ms) > rules.after_ms_max
                || now_ms.saturating_sub(summary.min_timestamp_ms) > rules.before_ms_max);
    if time_is_wrong || rules.compacted && summary.keyless_count > 0 {
        return Err(refuse_records(batch, rules, now_ms));
    }
    Ok(summary)
}

/// Says which records are wrong (KIP-467). If the time of one is, the error is about times (`LogValidator`).
fn refuse_records(batch: &Batch, rules: &TopicRules, now_ms: i64) -> ProduceError {
    let (mut errors, mut count, mut any_time) = (Vec::new(), 0, false);
    let walked = batch.check_each_record(|record| {
        let claims = batch.header().is_log_append_time();
        let Some((is_time, reason)) = refuse_record(record, claims, rules, now_ms) else { return };
        count += 1;
        any_time |= is_time;
        if errors.len() < RECORD_ERRORS_MAX {
            errors.push(RecordError { index: record.index, reason });
        }
    });
    let refused = RecordsRefused { errors, count };
    match (walked, any_time) {
        (Err(error), _) => error.into(),
        (Ok(_), true) => ProduceError::InvalidTimestamps(refused),
        (Ok(_), false) => ProduceError::InvalidRecords(refused),
    }
}

/// What is wrong with a record of a batch that claims to have the broker's time or does not, and whether it is its time.
fn refuse_record(
    record: RecordGlance,
    claims_broker_time: bool,
    rules: &TopicRules,
    now_ms: i64,
) -> Option<(bool, String)> {
    if rules.compacted && !record.has_key {
        return Some((false, "a compacted topic takes no records without a key".to_owned()));
    }
    if claims_broker_time {
        return Some((true, "producers may not set the timestamp type to LogAppendTime".to_owned()));
    }
    let time_ms = record.timestamp_ms;
    let (earliest_ms, latest_ms) =
        (now_ms.saturating_sub(rules.before_ms_max), now_ms.saturating_add(rules.after_ms_max));
    let is_wrong = !rules.log_append_time
        && time_ms != NO_TIMESTAMP
        && (time_ms.saturating_sub(now_ms) > rules.after_ms_max
            || now_ms.saturating_sub(time_ms) > rules.before_ms_max);
    let reason = || {
        format!(
            "its time, {time_ms}, lies outside {earliest_ms} to {latest_ms}, which message.timestamp.before.max.ms and \
             message.timestamp.after.max.ms allow"
        )
    };
    is_wrong.then(|| (true, reason()))
}

/// The batch in the topic's codec, unless it has it already.
fn recompress(batch: Batch, rules: &TopicRules) -> Result<Batch, ProduceError> {
    let Some(codec) = rules.codec.filter(|_| is_recompressed(batch.bytes(), rules)) else { return Ok(batch) };
    let max_bytes = rules.message_bytes_max;
    let recompressed = batch.recompress(codec, max_bytes).map_err(|error| match error {
        // Of the batch as it would be stored: Kafka checks it again, too (`UnifiedLog.append`).
        BatchError::TooLarge { .. } => {
            ProduceError::TooLargeRecompressed { codec: codec.compression, max_bytes }
        }
        other => other.into(),
    })?;
    let (bytes, max_bytes) = (recompressed.bytes().len(), rules.log.segment_bytes as usize);
    match bytes > max_bytes {
        true => Err(ProduceError::LargerThanSegment { bytes, max_bytes }),
        false => Ok(recompressed),
    }
}
