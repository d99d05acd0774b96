//! What a partition's records are read again for: to be delivered again, or to become dead letters.

use std::collections::BTreeSet;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::RecordAt;
use anabranch_core::engine::{Engine, EngineError, Position, ReadLimits, Reader};
use tokio::time::Instant;

/// Bytes that are read at once.
const READ: ReadLimits = ReadLimits { bytes_max: 256 << 10, wait_max: Duration::from_secs(1) };
/// What was there once comes within this time, or the engine is in trouble.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads single records that were seen before.
#[derive(Debug)]
pub(crate) struct Again {
    at: TopicPartition,
    /// Made when it is needed first: most partitions never do.
    reader: Option<Box<dyn Reader>>,
}

impl Again {
    pub(crate) fn new(at: TopicPartition) -> Self {
        Self { at, reader: None }
    }

    /// The records at the first few of these positions, which are in order and at least one; `None` where none is any more.
    pub(crate) async fn read(
        &mut self,
        engine: &dyn Engine,
        positions: &[Position],
    ) -> Result<Vec<(Position, Option<RecordAt>)>, EngineError> {
        let Some(&first) = positions.first() else { return Ok(Vec::new()) };
        let reader = match &mut self.reader {
            Some(reader) => {
                reader.seek(first);
                reader
            }
            none => none.insert(engine.reader(&self.at, first).await?),
        };
        let wanted: BTreeSet<Position> = positions.iter().copied().collect();
        let give_up = Instant::now() + PATIENCE;
        loop {
            let fetched = match reader.read(READ).await {
                Ok(fetched) => fetched,
                Err(EngineError::OutOfRange { earliest, .. }) if earliest > first => {
                    let gone = wanted.range(..earliest).map(|position| (*position, None));
                    return Ok(gone.collect());
                }
                Err(error) => return Err(error),
            };
            if fetched.next > first {
                let mut records = fetched.block.into_records(first)?.into_iter().peekable();
                let found = wanted.range(..fetched.next).map(|position| {
                    while records.next_if(|at| Position::from(at.offset) < *position).is_some() {}
                    (*position, records.next_if(|at| Position::from(at.offset) == *position))
                });
                return Ok(found.collect());
            }
            if Instant::now() > give_up {
                return Err(EngineError::Failed(
                    format!("{} at {first} was there, and is not read again", self.at).into(),
                ));
            }
        }
    }
}
