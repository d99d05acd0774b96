//! Readers, who write down what they see.

use std::collections::BTreeMap;

use anabranch_broker::{Broker, FetchError, Isolation, ReadError};
use anabranch_core::TopicPartition;
use anabranch_log::FaultCause;

use super::{Shared, World};
use crate::history::{self, Op, Outcome};
use crate::readers::{consume, fetched_within};

/// So much at a time.
const READ_BYTES: usize = 4000;

/// A reader of some partitions.
pub(super) struct Reader {
    name: String,
    isolation: Isolation,
    positions: BTreeMap<TopicPartition, i64>,
}

impl Reader {
    pub(super) fn new(name: &str, isolation: Isolation) -> Self {
        Self { name: format!("{name}, {isolation:?}"), isolation, positions: BTreeMap::new() }
    }

    /// Reads on in a partition; whether it came further.
    pub(super) fn read(
        &mut self,
        shared: &Shared,
        world: &mut World,
        broker: &Broker,
        at: &TopicPartition,
    ) -> bool {
        let Some(partition) = broker.partition(at) else { return false };
        let position = self.positions.entry(at.clone()).or_default();
        if *position >= partition.offsets().end(self.isolation).0 {
            return false;
        }
        match fetched_within(&partition, *position, READ_BYTES, self.isolation) {
            Ok((batches, aborted)) => {
                let (found, next) = consume(batches, aborted, *position);
                let values = found.iter().map(|at| {
                    let value = at.record.value.as_deref().unwrap_or_default();
                    (at.offset.0, String::from_utf8_lossy(value).into_owned())
                });
                let poll = polled(at, (*position, next), values.collect(), self.isolation);
                shared.note_in(world, &self.name, poll, Outcome::Ok);
                next > std::mem::replace(position, next)
            }
            // A broker that closes does so one partition after the other.
            Err(FetchError::Log(ReadError::Closed)) => false,
            Err(_) if shared.disk.is_dead() => false,
            // A partition has stopped, since the disk has failed it. What is damaged is something else.
            Err(FetchError::Log(ReadError::Fault(fault)))
                if matches!(fault.cause, FaultCause::Io { .. } | FaultCause::SyncFailed(_)) =>
            {
                false
            }
            Err(error) => {
                world.fail(format!("{at}: cannot read from {position}: {error}"));
                false
            }
        }
    }

    /// Everything, up to the end of what it may see.
    pub(super) fn read_all(
        &mut self,
        shared: &Shared,
        world: &mut World,
        broker: &Broker,
        all: &[TopicPartition],
    ) {
        for at in all {
            while self.read(shared, world, broker, at) {}
            let Some(partition) = broker.partition(at) else { continue };
            let (end, position) = (partition.offsets().end(self.isolation).0, self.positions[at]);
            if position != end && !shared.disk.is_dead() {
                world.fail(format!("{at}: {} came to {position} of {end}", self.name));
            }
        }
    }
}

/// What a client was given.
pub(super) fn polled(
    at: &TopicPartition,
    (offset, next): (i64, i64),
    values: Vec<(i64, String)>,
    isolation: Isolation,
) -> Op {
    let isolation = match isolation {
        Isolation::Written => history::Isolation::ReadUncommitted,
        Isolation::Committed => history::Isolation::ReadCommitted,
    };
    Op::Poll { partition: at.to_string(), offset, next, values, isolation }
}
