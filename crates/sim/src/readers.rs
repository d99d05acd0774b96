//! What consumers read, and what they must find.

use std::collections::BTreeSet;

use anabranch_broker::{Aborted, Batches, FetchError, FetchLimits, Isolation, Partition, ReadError};
use anabranch_core::Offset;
use anabranch_core::batch::{EndKind, RecordAt, split_batches};
use bytes::Bytes;

use crate::model::World;
use crate::model::batch::Key;

/// Of what is much: some pieces hold several batches, and some are only a part of one.
const PIECE_BYTES: usize = 5000;

/// What the Kafka door sends: what is much is found, and read piece by piece.
pub(crate) fn fetched(partition: &Partition, from: i64, bytes_max: usize) -> Result<Bytes, FetchError> {
    Ok(fetched_within(partition, from, bytes_max, Isolation::Written)?.0)
}

/// The same, and what was aborted of it.
pub(crate) fn fetched_within(
    partition: &Partition,
    from: i64,
    bytes_max: usize,
    isolation: Isolation,
) -> Result<(Bytes, Vec<Aborted>), FetchError> {
    let limits = FetchLimits { bytes_max, first_comes: true, memory_bytes_max: usize::MAX };
    let slice = partition.fetch_within(Offset(from), limits, isolation, None)?;
    let bytes = match slice.batches {
        Batches::Read(bytes) => bytes,
        Batches::InFile(mut range) => {
            let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
            loop {
                match range.read_next(&mut piece)? {
                    0 => break bytes.into(),
                    read => bytes.extend_from_slice(&piece[..read]),
                }
            }
        }
    };
    Ok((bytes, slice.aborted))
}

/// The records from offset `from` on that a consumer finds, as Kafka's does (`CompletedFetch`), and where it goes on: not
/// those of transactions that it is told were aborted.
pub(crate) fn consume(batches: Bytes, mut aborted: Vec<Aborted>, from: i64) -> (Vec<RecordAt>, i64) {
    aborted.sort_by_key(|aborted| aborted.first);
    let mut aborted = aborted.into_iter().peekable();
    let (mut left_out, mut found, mut next) = (BTreeSet::new(), Vec::new(), from);
    for batch in split_batches(batches) {
        let batch = batch.expect("the log checks what it reads");
        let header = batch.header();
        while let Some(begun) = aborted.next_if(|begun| begun.first <= header.last_offset()) {
            left_out.insert(begun.producer);
        }
        next = header.next_offset().0;
        if header.is_control() {
            let marker = batch.end_marker().expect("a marker that we wrote can be read");
            if marker.is_some_and(|marker| marker.kind == EndKind::Abort) {
                left_out.remove(&header.producer_id);
            }
        } else if !header.is_transactional() || !left_out.contains(&header.producer_id) {
            let records = batch.records().expect("a batch that we wrote can be read");
            found.extend(records.into_iter().filter(|at| at.offset.0 >= from));
        }
    }
    (found, next)
}

/// A consumer reads on.
pub(crate) fn fetch(world: &mut World, key: Key, partition: &Partition, bytes_max: usize) {
    let from = world.partitions.entry(key).or_default().reader;
    let strength = world.shown_strength(key);
    let high_watermark = partition.offsets().high_watermark.0;
    match fetched(partition, from, bytes_max) {
        Ok(batches) => {
            if batches.is_empty() && from < high_watermark {
                world.fail(format!("{}: nothing at {from}, below {high_watermark}", partition.id()));
            }
            let (next, found) = world.read(key, from, batches, strength);
            world.trace.note(format_args!("{} read from {from} to {next}: {found:?}", partition.id()));
            world.partitions.entry(key).or_default().reader = next;
        }
        Err(_) if world.disk.is_dead() => {}
        Err(FetchError::Log(ReadError::OutOfRange { start, .. })) if start.0 > from => {
            world.starts(key, start.0);
        }
        Err(FetchError::Log(ReadError::OutOfRange { .. })) => {
            world.fail(format!("{}: offset {from} was there, and is out of range", partition.id()));
        }
        Err(error) => {
            world.trace.note(format_args!("{} read from {from}: {error}", partition.id()));
            if world.works(key, partition) && !world.may_stop(key) {
                world.fail(format!("{}: cannot read from {from}: {error}", partition.id()));
            }
        }
    }
}
