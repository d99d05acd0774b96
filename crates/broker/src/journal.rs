//! A topic with one partition that the broker keeps for itself: read whole at the start, appended to ever after.

use anabranch_core::Offset;
use anabranch_core::batch::{Batch, BatchBuilder, Compression, Record, RecordAt, check_batch, split_batches};
use anabranch_log::{Absent, Ack, AppendError, LogConfig, LogStatus, PartitionLog, ReadError, Store};

use crate::error::BrokerError;
use crate::group::InTransaction;

/// A batch is closed when it has grown to this.
const BATCH_BYTES: usize = 1 << 20;
/// The sequence of batches that the broker writes in a producer's name.
const UNNUMBERED: i32 = -1;
/// How much is read at a time.
const READ_BYTES: usize = 4 << 20;

#[derive(Debug, Clone)]
pub(crate) struct Journal {
    log: PartitionLog,
}

impl Journal {
    /// Opens the journal `topic`; `absent` says what it means when there is none. Blocks on the disk.
    ///
    /// # Errors
    /// [`BrokerError::InternalTopic`] when it is damaged.
    pub(crate) fn open(
        store: &Store,
        topic: &str,
        config: LogConfig,
        absent: Absent,
    ) -> Result<Self, BrokerError> {
        let log = store.open_partition(topic, 0, config, absent)?;
        match log.status() {
            LogStatus::Online => Ok(Self { log }),
            LogStatus::Stopped(fault) => Err(BrokerError::InternalTopic { topic: topic.to_owned(), fault }),
            LogStatus::Closed => unreachable!("a log that was just opened is not closed"),
        }
    }

    pub(crate) fn log(&self) -> &PartitionLog {
        &self.log
    }

    /// Whether it takes records.
    pub(crate) fn is_online(&self) -> bool {
        matches!(self.log.status(), LogStatus::Online)
    }

    /// Gives every record to `each`, with its batch, in order. Blocks on the disk.
    ///
    /// # Errors
    /// What `each` says of a record is told with its place.
    pub(crate) fn read_all(
        &self,
        mut each: impl FnMut(&Batch, &RecordAt) -> Result<(), String>,
    ) -> Result<(), BrokerError> {
        let topic = || self.log.id().topic.clone();
        let unclear =
            |offset: Offset, reason: String| BrokerError::InternalRecord { topic: topic(), offset, reason };
        let mut next = self.log.offsets().log_start;
        loop {
            let slice = match self.log.read(next, READ_BYTES) {
                Ok(slice) => slice,
                Err(ReadError::Fault(fault)) => {
                    return Err(BrokerError::InternalTopic { topic: topic(), fault });
                }
                Err(other) => return Err(unclear(next, other.to_string())),
            };
            if slice.batches.is_empty() {
                return Ok(());
            }
            for batch in split_batches(slice.batches) {
                let batch = batch.map_err(|error| unclear(next, error.to_string()))?;
                for record in batch.records().map_err(|error| unclear(next, error.to_string()))? {
                    each(&batch, &record).map_err(|reason| unclear(record.offset, reason))?;
                }
                next = batch.header().next_offset();
            }
        }
    }

    /// Appends `records`, as many to a batch as fit [`BATCH_BYTES`]; they survive power loss when this returns. After an
    /// error some of them may be there.
    pub(crate) async fn append(&self, records: &[Record]) -> Result<(), AppendError> {
        self.append_in(None, records).await
    }

    /// The same for records that are part of a transaction.
    pub(crate) async fn append_in(
        &self,
        transaction: Option<InTransaction>,
        records: &[Record],
    ) -> Result<(), AppendError> {
        let part = transaction.map(|transaction| transaction.part);
        let mut pending = Vec::new();
        let mut builder = BatchBuilder::new(Compression::None);
        for (index, record) in records.iter().enumerate() {
            builder.push(record);
            if builder.len_bytes() >= BATCH_BYTES || index + 1 == records.len() {
                if let Some(InTransaction { producer, epoch, .. }) = transaction {
                    builder.producer(producer, epoch, UNNUMBERED).transactional();
                }
                pending.push(self.log.submit_in(built(builder), Ack::Durable, part).await?);
                builder = BatchBuilder::new(Compression::None);
            }
        }
        for append in pending {
            append.answer().await?;
        }
        Ok(())
    }
}

/// A batch of one record.
pub(crate) fn batch_of(record: &Record) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(record);
    built(builder)
}

fn built(mut builder: BatchBuilder) -> Batch {
    let bytes = builder.build().expect("a journal's records are small, and there is one");
    check_batch(&bytes).expect("what was just built is a batch")
}
