//! What goes through the seam: records, or batches as they are stored, whichever the side that hands them over has.

use bytes::Bytes;

use super::Position;
use crate::batch::{BatchBuilder, BatchError, Compression, Record, RecordAt, check_batch, split_batch};

/// What is appended to a partition, in this order.
///
/// Keys, values, headers and timestamps are read as they were appended: what an engine cannot keep it refuses, and it changes
/// nothing in silence. A record without a timestamp may get the time of its append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// One batch, which names no producer. An engine that stores batches stores it as it is.
    Batch(Bytes),
    /// Records, which the engine makes into whatever it stores.
    Records(Vec<Record>),
}

impl Payload {
    /// The records.
    ///
    /// # Errors
    /// The bytes are not a batch.
    pub fn into_records(self) -> Result<Vec<Record>, BatchError> {
        match self {
            Self::Records(records) => Ok(records),
            Self::Batch(bytes) => {
                Ok(check_batch(&bytes)?.records()?.into_iter().map(|at| at.record).collect())
            }
        }
    }

    /// The batch, which is made without compression where there was none.
    ///
    /// # Errors
    /// There are no records, or more than fit into one batch.
    pub fn into_batch(self) -> Result<Bytes, BatchError> {
        match self {
            Self::Batch(bytes) => Ok(bytes),
            Self::Records(records) => {
                let mut batch = BatchBuilder::new(Compression::None);
                records.iter().for_each(|record| {
                    batch.push(record);
                });
                batch.build()
            }
        }
    }
}

impl From<Bytes> for Payload {
    fn from(batch: Bytes) -> Self {
        Self::Batch(batch)
    }
}

impl From<Vec<Record>> for Payload {
    fn from(records: Vec<Record>) -> Self {
        Self::Records(records)
    }
}

impl From<Record> for Payload {
    fn from(record: Record) -> Self {
        Self::Records(vec![record])
    }
}

/// What was read, as the engine has it. A record's offset is its [`Position`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// Whole batches, one after another. The first may begin before the position that was read from.
    Batches(Bytes),
    /// Records.
    Records(Vec<RecordAt>),
}

impl Block {
    /// Nothing.
    pub const EMPTY: Self = Self::Records(Vec::new());

    /// Whether it holds nothing at all. Batches may hold no records, and none that were asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Batches(bytes) => bytes.is_empty(),
            Self::Records(records) => records.is_empty(),
        }
    }

    /// Takes off the records of the first batch, or all where there are no batches; `None` when it is empty. So whoever
    /// works through a block has one batch decompressed at a time.
    ///
    /// # Errors
    /// The bytes are not a batch.
    pub fn take_records(&mut self) -> Result<Option<Vec<RecordAt>>, BatchError> {
        match self {
            _ if self.is_empty() => Ok(None),
            Self::Records(records) => Ok(Some(std::mem::take(records))),
            Self::Batches(bytes) => {
                let (batch, rest) = split_batch(bytes)?;
                *bytes = rest;
                batch.records().map(Some)
            }
        }
    }

    /// All its records from `from` on.
    ///
    /// # Errors
    /// The bytes are not batches.
    pub fn into_records(mut self, from: Position) -> Result<Vec<RecordAt>, BatchError> {
        let mut all = Vec::new();
        while let Some(records) = self.take_records()? {
            match all.is_empty() {
                true => all = records,
                false => all.extend(records),
            }
        }
        // Only what comes first can be too early.
        let early = all.iter().take_while(|at| Position::from(at.offset) < from).count();
        all.drain(..early);
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Offset;

    #[test]
    fn batches_and_records_are_the_same() {
        let records = vec![Record::new("k", "1"), Record::tombstone("k").header("h", "x").at(7)];
        let batch = Payload::from(records.clone()).into_batch().unwrap();
        assert_eq!(Payload::from(batch.clone()).into_records().unwrap(), records);
        assert!(Payload::from(Vec::new()).into_batch().is_err());

        let placed: Vec<_> =
            (0_i64..).zip(&records).map(|(at, record)| (Offset(at), record.clone())).collect();
        let placed: Vec<_> = placed.into_iter().map(|(offset, record)| RecordAt { offset, record }).collect();
        for block in [Block::Batches(batch), Block::Records(placed.clone())] {
            assert_eq!(block.clone().into_records(Position(0)).unwrap(), placed);
            assert_eq!(block.clone().into_records(Position(1)).unwrap(), placed[1..]);
            assert!(block.into_records(Position(2)).unwrap().is_empty());
        }
        assert!(Block::Batches(Bytes::from_static(b"garbage")).into_records(Position(0)).is_err());
        assert!(Block::EMPTY.into_records(Position(0)).unwrap().is_empty());
    }
}
