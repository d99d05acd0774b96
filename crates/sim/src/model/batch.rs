//! Batches that were sent: what is in them follows from their number, so that every byte that comes back can be checked.

use anabranch_core::batch::{Batch, BatchBuilder, BatchHeader, Compression, Record};
use anabranch_core::{ProducerEpoch, ProducerId};
use bytes::Bytes;

use crate::random::Chance;

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
    /// As it went over the wire.
    pub(crate) bytes: Bytes,
    /// What is in it.
    pub(crate) contents: Vec<Record>,
    /// When it was made; wall clock, ms.
    pub(crate) made_ms: i64,
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

/// The records of batch `number`, each with the time that `times` gives it. In a `table` they have keys out of a few, and
/// some are tombstones; which batch they are of stands in a header.
pub(crate) fn records(
    number: BatchNumber,
    count: i32,
    value_bytes: usize,
    mut times: impl FnMut() -> i64,
    mut table: Option<&mut Chance>,
) -> Vec<Record> {
    let value: Vec<u8> = (0..value_bytes).map(|at| (number.wrapping_mul(31) + at * 7) as u8).collect();
    let value = Bytes::from(value);
    let mut record = |index| {
        let name = format!("{number}/{index}");
        let record = match &mut table {
            None => Record::new(name, value.clone()),
            Some(chance) => {
                let mut record = Record::new(format!("key {}", chance.below(TABLE_KEYS)), value.clone())
                    .header("name", name);
                if chance.one_in(4) {
                    record.value = None;
                }
                record
            }
        };
        record.at(times())
    };
    (0..count).map(&mut record).collect()
}

/// Keys that records of a table may have.
const TABLE_KEYS: u64 = 8;

/// The batch that a record says it is of, and its place in that.
fn name_of(record: &Record) -> Result<(BatchNumber, usize), String> {
    let header = record.headers.first().and_then(|header| header.value.clone());
    let name = header.or_else(|| record.key.clone()).ok_or("has no key")?;
    let text = String::from_utf8_lossy(&name).into_owned();
    let parsed =
        text.split_once('/').and_then(|(number, index)| Some((number.parse().ok()?, index.parse().ok()?)));
    parsed.ok_or_else(|| format!("has the name {text:?}, which nobody sent"))
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

/// Which batch these bytes are, and the places of the records that are there; `None` for one without records. It must be
/// exactly one of `sent`; in a table records may be missing, and nothing else.
pub(crate) fn identify(
    batch: &Batch,
    sent: &[Sent],
    in_table: bool,
) -> Result<Option<(BatchNumber, Vec<usize>)>, String> {
    let records = batch.records().map_err(|error| format!("cannot be read: {error}"))?;
    let Some(first) = records.first() else {
        return if in_table { Ok(None) } else { Err("has no records".to_owned()) };
    };
    let (number, _) = name_of(&first.record)?;
    let known = sent.get(number).ok_or_else(|| format!("is batch {number}, which nobody sent"))?;
    // Offset and leader epoch are the broker's; all other bytes are the client's.
    if known.bytes.get(16..) == batch.bytes().get(16..) {
        return Ok(Some((number, (0..records.len()).collect())));
    }
    let changed = || format!("is batch {number}, changed");
    let header = BatchHeader::parse(&known.bytes).map_err(|error| error.to_string())?;
    let of = |header: &BatchHeader| {
        let BatchHeader { producer_id, producer_epoch, base_sequence, last_offset_delta, .. } = *header;
        (producer_id, producer_epoch, base_sequence, last_offset_delta)
    };
    if !in_table || of(&header) != of(batch.header()) {
        return Err(changed());
    }
    let mut there = Vec::new();
    for at in records {
        let (_, index) = name_of(&at.record)?;
        let offset = batch.header().base_offset.0 + index as i64;
        if known.contents.get(index) != Some(&at.record) || offset != at.offset.0 {
            return Err(changed());
        }
        there.push(index);
    }
    Ok(Some((number, there)))
}
