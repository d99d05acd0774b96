//! A partition's records, one after the other.

use std::collections::VecDeque;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::RecordAt;
use anabranch_core::engine::{Engine, EngineError, Position, ReadLimits, Reader};

/// Reads ahead by one block. Any of its futures can be dropped, and nothing is lost.
#[derive(Debug)]
pub(crate) struct Stream {
    reader: Box<dyn Reader>,
    waiting: VecDeque<RecordAt>,
    limits: ReadLimits,
}

impl Stream {
    pub(crate) async fn open(
        engine: &dyn Engine,
        at: &TopicPartition,
        from: Position,
        bytes_max: usize,
    ) -> Result<Self, EngineError> {
        let reader = engine.reader(at, from).await?;
        let limits = ReadLimits { bytes_max, wait_max: Duration::from_millis(200) };
        Ok(Self { reader, waiting: VecDeque::new(), limits })
    }

    /// Sees to it that the first record before `end` is here; `false` if there is none. `end` is a place that the engine has
    /// told, and waited for.
    pub(crate) async fn fill(&mut self, end: Position) -> Result<bool, EngineError> {
        while self.waiting.is_empty() && self.reader.position() < end {
            let from = self.reader.position();
            let fetched = self.reader.read(self.limits).await?;
            self.waiting = fetched.block.into_records(from)?.into();
        }
        Ok(self.waiting.front().is_some_and(|first| Position::from(first.offset) < end))
    }

    /// How many records are here, and come before `end`.
    pub(crate) fn ready(&self, end: Position) -> usize {
        self.waiting.partition_point(|at| Position::from(at.offset) < end)
    }

    /// The next of the records that are here.
    pub(crate) fn take(&mut self) -> Option<RecordAt> {
        self.waiting.pop_front()
    }

    pub(crate) fn first(&self) -> Option<&RecordAt> {
        self.waiting.front()
    }
}
