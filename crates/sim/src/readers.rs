//! What consumers read, and what they must find.

use anabranch_broker::{Batches, FetchError, FetchLimits, Isolation, Partition, ReadError};
use anabranch_core::Offset;
use bytes::Bytes;

use crate::model::World;
use crate::model::batch::Key;

/// Of what is much: some pieces hold several batches, and some are only a part of one.
const PIECE_BYTES: usize = 5000;

/// What the Kafka door sends: what is much is found, and read piece by piece.
pub(crate) fn fetched(partition: &Partition, from: i64, bytes_max: usize) -> Result<Bytes, FetchError> {
    let limits = FetchLimits { bytes_max, first_comes: true, memory_bytes_max: usize::MAX };
    match partition.fetch_within(Offset(from), limits, Isolation::Written, None)?.batches {
        Batches::Read(bytes) => Ok(bytes),
        Batches::InFile(mut range) => {
            let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
            loop {
                match range.read_next(&mut piece)? {
                    0 => return Ok(bytes.into()),
                    read => bytes.extend_from_slice(&piece[..read]),
                }
            }
        }
    }
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
