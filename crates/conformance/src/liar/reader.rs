//! Lies about reading.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::RecordAt;
use anabranch_core::engine::{Block, EngineError, Fetched, Place, Position, ReadLimits, Reader};
use async_trait::async_trait;

use super::{Lie, Shared};

#[derive(Debug)]
pub(super) struct LyingReader {
    reader: Box<dyn Reader>,
    at: TopicPartition,
    shared: Arc<Shared>,
    /// Whether the next read follows a seek.
    jumped: bool,
    /// What is told, where that is another position.
    position: Option<Position>,
    /// Values of keys that were shown, where they come back.
    shown: Vec<RecordAt>,
}

impl LyingReader {
    pub(super) fn new(reader: Box<dyn Reader>, at: TopicPartition, shared: Arc<Shared>) -> Self {
        Self { reader, at, shared, jumped: false, position: None, shown: Vec::new() }
    }

    /// Shows other records than there are.
    fn twisted(&mut self, from: Position, fetched: Fetched) -> Result<Fetched, EngineError> {
        let mut records = fetched.block.clone().into_records(from)?;
        match self.shared.lie {
            Lie::ShowsRecordsSwapped if records.len() > 1 => {
                let (one, two) = records.split_at_mut(1);
                std::mem::swap(&mut one[0].record, &mut two[0].record);
            }
            Lie::ShowsRecordsSwapped => {}
            Lie::ForgetsWhenReopened if self.shared.again => records.retain(|at| at.offset.0 > 0),
            Lie::CompactsTooMuch => records.retain(|at| at.record.key.as_deref() != Some(b"a")),
            Lie::ShowsDeletedKeys => {
                for at in &mut records {
                    if at.record.key.as_deref() == Some(b"gone") && at.record.value.is_none() {
                        at.record.value = Some("back".into());
                    }
                }
            }
            Lie::SkipsAfterASeek if self.jumped && !records.is_empty() => drop(records.remove(0)),
            Lie::StaysBehindTheLastRecord => {
                let next = records.last().map_or(from, |at| Position(Position::from(at.offset).0 + 1));
                self.reader.seek(next);
                self.shown.clear();
                return Ok(Fetched { block: Block::Records(records), next, ..fetched });
            }
            _ => return Ok(fetched),
        }
        self.jumped = false;
        Ok(Fetched { block: Block::Records(records), ..fetched })
    }
}

#[async_trait]
impl Reader for LyingReader {
    fn position(&self) -> Position {
        self.position.unwrap_or_else(|| self.reader.position())
    }

    async fn read(&mut self, limits: ReadLimits) -> Result<Fetched, EngineError> {
        self.shared.check_open().await?;
        self.shared.store_held(0).await?;
        let from = self.reader.position();
        let limits = match self.shared.lie {
            Lie::NeverWaits => ReadLimits { wait_max: Duration::ZERO, ..limits },
            Lie::ReadsTooMuch => ReadLimits { bytes_max: 1 << 20, ..limits },
            _ => limits,
        };
        if self.shared.lies(Lie::NeverWakes) && from >= self.shared.end(&self.at).await? {
            tokio::time::sleep(limits.wait_max).await;
        }
        if self.shared.lies(Lie::ReadsOnce) {
            let read = self.shared.read.lock().get(&self.at).copied();
            if let Some(read) = read.filter(|read| *read > from) {
                self.reader.seek(read);
            }
        }
        let fetched = match self.reader.read(limits).await {
            Err(EngineError::OutOfRange { .. }) if self.shared.lies(Lie::ReadsElsewhere) => {
                let end = self.shared.engine.locate(&self.at, Place::Latest).await?;
                self.reader.seek(end);
                self.reader.read(limits).await?
            }
            Err(error) => {
                if self.shared.lies(Lie::MovesOnErrors) {
                    self.position = Some(Position(0));
                }
                return Err(error);
            }
            Ok(fetched) => fetched,
        };
        match self.shared.lie {
            Lie::LosesDroppedReads => tokio::time::sleep(Duration::from_millis(50)).await,
            Lie::ReadsOnce => {
                self.shared.read.lock().insert(self.at.clone(), fetched.next);
            }
            _ => {}
        }
        self.twisted(from, fetched)
    }

    fn seek(&mut self, to: Position) {
        self.jumped = to != self.reader.position();
        self.position = None;
        self.reader.seek(to);
    }
}
