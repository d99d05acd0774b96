//! One partition, as its users see it.

use std::sync::Arc;

use anabranch_core::batch::Batch;
use anabranch_core::{Offset, TopicPartition};
use bytes::Bytes;

use crate::{AppendError, Fault, ReadError, Waiter};

/// When an append is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// When it is in the page cache: survives the death of the process.
    Written,
    /// When it is on the disk: survives power loss.
    Durable,
}

/// A partition's settings, under Kafka's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment that would grow beyond this is closed and a new one begun.
    pub segment_bytes: u32,
    /// `segment.ms`: so is one whose first record is this old.
    pub segment_ms: i64,
    /// `flush.messages`: sync when so many records are not. 1, the default here, syncs every group before it is seen or
    /// acknowledged. More than 1 is relaxed durability: written bytes are seen and acknowledged before they are synced.
    pub flush_messages: i64,
    /// `flush.ms`: sync when the oldest record that is not synced is this old (relaxed durability only).
    pub flush_ms: i64,
    /// `index.interval.bytes`: about how far apart entries of the index are.
    pub index_interval_bytes: u32,
}

/// Where an append ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// Whether it had been appended before, by the same producer with the same sequence; it was not appended again.
    pub duplicate: bool,
}

/// An append that is queued. Dropping it does not take the append back.
#[derive(Debug)]
pub struct Pending {
    _stub: (),
}

impl Pending {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn answer(self) -> Result<Appended, AppendError> {
        unimplemented!()
    }
}

/// The offsets that bound a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    /// The oldest kept record.
    pub log_start: Offset,
    /// After the newest record that readers may see.
    pub high_watermark: Offset,
    /// After the newest record that is written.
    pub log_end: Offset,
}

/// What a read brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadSlice {
    /// Whole, checked batches. The first may begin below the offset that was asked for.
    pub batches: Bytes,
    /// The partition's bounds when it was read.
    pub offsets: Offsets,
}

/// An offset found by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamped {
    /// The record.
    pub offset: Offset,
    /// Its timestamp, ms since the Unix epoch.
    pub timestamp_ms: i64,
}

/// Whether a partition works.
#[derive(Debug, Clone)]
pub enum LogStatus {
    /// It does.
    Online,
    /// It has stopped, because of this.
    Stopped(Fault),
    /// It was closed or deleted.
    Closed,
}

/// One partition's log. Cheap to clone; all clones are the same log.
#[derive(Debug, Clone)]
pub struct PartitionLog {
    _stub: Arc<()>,
}

#[allow(unused_variables)]
impl PartitionLog {
    /// Which partition this is.
    #[must_use]
    pub fn id(&self) -> &TopicPartition {
        unimplemented!()
    }

    /// Appends one checked batch ([`Batch::check_records`] is the caller's affair) and answers as `ack` says. Dropping
    /// the future does not take the append back.
    ///
    /// # Errors
    /// [`AppendError`]; nothing of the batch is in the log then, except after [`AppendError::Stopped`], when it is not
    /// known.
    pub async fn append(&self, batch: Batch, ack: Ack) -> Result<Appended, AppendError> {
        unimplemented!()
    }

    /// Queues one checked batch behind everything queued before, and returns once it is queued: whoever appends several
    /// batches in order submits them one after the other and awaits the answers ([`Pending::answer`]) as they like.
    ///
    /// # Errors
    /// [`AppendError::Closed`] or [`AppendError::Stopped`].
    pub async fn submit(&self, batch: Batch, ack: Ack) -> Result<Pending, AppendError> {
        unimplemented!()
    }

    /// Reads whole batches from the one that holds `from` on, up to `bytes_max`; the first comes whole even when it is
    /// larger. Empty at the high watermark. Blocks on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, from: Offset, bytes_max: usize) -> Result<ReadSlice, ReadError> {
        unimplemented!()
    }

    /// The bounds now.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        unimplemented!()
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// The first visible record whose timestamp is at least `timestamp_ms`. Blocks on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn find_by_time(&self, timestamp_ms: i64) -> Result<Option<Timestamped>, ReadError> {
        unimplemented!()
    }

    /// The visible record with the largest timestamp, the first one if there are several. Blocks on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn find_max_time(&self) -> Result<Option<Timestamped>, ReadError> {
        unimplemented!()
    }

    /// Wakes `waiter` once when the high watermark moves next, or the partition stops or closes.
    pub fn register(&self, waiter: &Waiter) {
        unimplemented!()
    }

    /// Takes new settings; they hold from the next append on.
    pub fn set_config(&self, config: LogConfig) {
        unimplemented!()
    }

    /// Whether it works.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        unimplemented!()
    }
}
