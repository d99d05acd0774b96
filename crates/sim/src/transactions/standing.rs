//! What stands in a partition: batch by batch, and as a consumer of committed records has it.

use anabranch_core::batch::{Batch, EndKind, RecordAt, split_batches};
use anabranch_core::{Offset, ProducerId};
use anabranch_log::{Isolation, PartitionLog, ReadError};

use crate::readers::consume;

/// A record: its offset, and which it is of which batch.
pub(super) type Found = (i64, (usize, usize));

/// A batch as it stands.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) base: i64,
    pub(super) producer: ProducerId,
    pub(super) is_transactional: bool,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Data(Vec<Found>),
    /// A marker; compaction may have emptied it.
    End(Option<EndKind>),
}

/// Everything, from the log's start on.
pub(super) fn all(log: &PartitionLog) -> Result<Vec<Standing>, ReadError> {
    let (mut next, mut all) = (log.offsets().log_start, Vec::new());
    while next < log.offsets().high_watermark {
        for batch in split_batches(log.read(next, 5000)?.batches) {
            let batch = batch.expect("the log checks what it reads");
            let header = batch.header();
            next = header.next_offset();
            all.push(Standing {
                base: header.base_offset.0,
                producer: header.producer_id,
                is_transactional: header.is_transactional(),
                what: match header.is_control() {
                    true => What::End(kind_of(&batch)),
                    false => What::Data(records(&batch)),
                },
            });
        }
    }
    Ok(all)
}

/// Committed records from an offset on, as a consumer finds them; where it goes on, and the last
/// stable offset.
pub(super) fn committed(
    log: &PartitionLog,
    from: i64,
    bytes_max: usize,
) -> Result<(Vec<Found>, i64, i64), ReadError> {
    let slice = log.read_within(Offset(from), bytes_max, Isolation::Committed)?;
    let (found, next) = consume(slice.batches, slice.aborted, from);
    Ok((found.iter().map(named).collect(), next, slice.offsets.last_stable.0))
}

fn kind_of(batch: &Batch) -> Option<EndKind> {
    batch.end_marker().expect("a marker that we wrote can be read").map(|marker| marker.kind)
}

fn records(batch: &Batch) -> Vec<Found> {
    batch.records().expect("a batch that we wrote can be read").iter().map(named).collect()
}

fn named(at: &RecordAt) -> Found {
    let name = |value: &[u8]| {
        let (batch, place) = std::str::from_utf8(value).ok()?.split_once('/')?;
        Some((batch.parse().ok()?, place.parse().ok()?))
    };
    let name = at.record.value.as_deref().and_then(name).expect("every record that we wrote has a name");
    (at.offset.0, name)
}
