//! Batches that were sent: what is in them follows from their number, so that every byte that comes back can be checked.

use anabranch_core::batch::{Batch, BatchBuilder, Compression, Record};
use anabranch_core::{ProducerEpoch, ProducerId};
use bytes::Bytes;

/// Numbers batches, in the order in which they were made.
pub(crate) type BatchNumber = usize;

/// Which partition, of which of the topics that had its name.
pub(crate) type Key = (usize, i32);

/// One batch.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) key: Key,
    pub(crate) records: i32,
    /// The producer, by its place in the list, and the first sequence number.
    pub(crate) producer: Option<(usize, i32)>,
    /// As it went over the wire; empty if the broker built it.
    pub(crate) bytes: Bytes,
    /// Attempts without an answer, of which any may be done yet.
    pub(crate) open: u32,
    /// The answer to an attempt was lost, or not clear.
    pub(crate) unsure: bool,
    /// Where it is, as far as anybody was told.
    pub(crate) at: Option<i64>,
}

impl Sent {
    /// Whether the broker said, each time, that nothing of it is in the log.
    pub(crate) fn is_refused(&self) -> bool {
        self.open == 0 && !self.unsure && self.at.is_none()
    }
}

/// The records of batch `number`.
pub(crate) fn records(number: BatchNumber, count: i32, value_bytes: usize, now_ms: i64) -> Vec<Record> {
    let value: Vec<u8> = (0..value_bytes).map(|at| (number.wrapping_mul(31) + at * 7) as u8).collect();
    let value = Bytes::from(value);
    (0..count).map(|index| Record::new(format!("{number}/{index}"), value.clone()).at(now_ms)).collect()
}

/// The bytes of a batch of these records.
pub(crate) fn build(
    records: &[Record],
    producer: Option<(ProducerId, ProducerEpoch, i32)>,
    compression: Compression,
) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    if let Some((id, epoch, sequence)) = producer {
        builder.producer(id, epoch, sequence);
    }
    for record in records {
        builder.push(record);
    }
    builder.build().expect("a batch of a few small records")
}

/// Which batch these bytes are, if they are exactly one of `sent`.
pub(crate) fn identify(batch: &Batch, sent: &[Sent]) -> Result<BatchNumber, String> {
    let records = batch.records().map_err(|error| format!("cannot be read: {error}"))?;
    let key = records.first().and_then(|first| first.record.key.clone()).ok_or("has no key")?;
    let text = String::from_utf8_lossy(&key).into_owned();
    let number = text.split('/').next().and_then(|number| number.parse::<BatchNumber>().ok());
    let number = number.ok_or_else(|| format!("has the key {text:?}, which nobody sent"))?;
    let known = sent.get(number).ok_or_else(|| format!("is batch {number}, which nobody sent"))?;
    // Offset and leader epoch are the broker's; all other bytes are the client's.
    let is_same = match known.bytes.is_empty() {
        false => known.bytes.get(16..) == batch.bytes().get(16..),
        true => records
            .iter()
            .enumerate()
            .all(|(index, at)| at.record.key.as_deref() == Some(format!("{number}/{index}").as_bytes())),
    };
    match is_same && records.len() == known.records as usize {
        true => Ok(number),
        false => Err(format!("is batch {number}, changed")),
    }
}
