//! Carries records from the source to the target, partition by partition, in steps.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{Engine, EngineError, Position, ReadLimits, Reader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::error::MoveError;
use crate::write::{Piece, Writer};

/// About what one step writes: transactions cost something each, and a step is in memory.
const STEP_BYTES: usize = 8 << 20;
/// How long a step waits for more, so that a trickle does not become a transaction per record.
const STEP_WAIT: Duration = Duration::from_millis(20);
/// How long a reader waits where nothing comes: a step waits as long, also when the source is to stand still.
const READ_WAIT: Duration = Duration::from_millis(100);
/// What all that is read ahead may take together, about, and each partition at least and at most.
const AHEAD_BYTES: usize = 64 << 20;
const BLOCK_BYTES_MIN: usize = 16 << 10;
const BLOCK_BYTES_MAX: usize = 1 << 20;

/// What one partition reads at once, where there are `lanes`.
pub(crate) fn block_bytes(lanes: usize) -> usize {
    (AHEAD_BYTES / (4 * lanes.max(1))).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX)
}

/// A block that was read.
struct Chunk {
    lane: usize,
    records: Vec<Record>,
    /// After what was read, also where nothing is shown.
    next: Position,
    latest: Position,
    /// Its place among what is read ahead.
    _place: OwnedSemaphorePermit,
}

/// Reads ahead, and writes.
#[derive(Debug)]
pub(crate) struct Copier {
    target: Arc<dyn Engine>,
    lanes: Arc<[TopicPartition]>,
    writer: Writer,
    chunks: mpsc::Receiver<Result<Chunk, EngineError>>,
    /// Ends with the copier.
    _readers: JoinSet<()>,
    /// By lane: how far the source was copied, how far the target goes, and where the source ended when it was last read.
    pub(crate) copied: Vec<Position>,
    pub(crate) ends: Vec<Position>,
    latest: Vec<Option<Position>>,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl Copier {
    /// Copies `lanes` on from where each was compared: `from` in the source. The target ends at `ends`.
    pub(crate) async fn start(
        source: &dyn Engine,
        target: Arc<dyn Engine>,
        writer: Writer,
        lanes: Arc<[TopicPartition]>,
        from: Vec<Position>,
        ends: Vec<Position>,
    ) -> Result<Self, MoveError> {
        let (into, chunks) = mpsc::channel(lanes.len().max(1));
        let mut readers = JoinSet::new();
        let limits = ReadLimits { bytes_max: block_bytes(lanes.len()), wait_max: READ_WAIT };
        for (lane, (at, from)) in lanes.iter().zip(&from).enumerate() {
            let reader = source.reader(at, *from).await.map_err(MoveError::Source)?;
            readers.spawn(read(lane, reader, limits, into.clone()));
        }
        let latest = vec![None; lanes.len()];
        Ok(Self {
            target,
            lanes,
            writer,
            chunks,
            _readers: readers,
            copied: from,
            ends,
            latest,
            records: 0,
            bytes: 0,
        })
    }

    /// Whether all that was there when the source was read last is copied.
    pub(crate) fn is_level(&self) -> bool {
        self.latest.iter().zip(&self.copied).all(|(latest, copied)| latest.is_some_and(|end| *copied >= end))
    }

    /// How many positions there are to be copied, as far as was seen.
    pub(crate) fn lag(&self) -> u64 {
        let each = self.latest.iter().zip(&self.copied);
        each.filter_map(|(latest, copied)| Some(latest.as_ref()?.0.saturating_sub(copied.0))).sum()
    }

    /// Whether everything before `ends` is copied.
    pub(crate) fn has_reached(&self, ends: &[Position]) -> bool {
        self.copied.iter().zip(ends).all(|(copied, end)| copied >= end)
    }

    /// Copies what was read, and waits for something to be read. Not to be dropped halfway: what was read would be lost.
    pub(crate) async fn step(&mut self) -> Result<(), MoveError> {
        let mut gathered: Vec<Chunk> = Vec::new();
        let (mut bytes, mut until) = (0, None);
        while bytes < STEP_BYTES {
            let next = match until {
                None => self.chunks.recv().await,
                Some(until) => match timeout_at(until, self.chunks.recv()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
            };
            let chunk = next.expect("readers send what ends them").map_err(|error| match error {
                // What is deleted before it is copied is told with its place.
                EngineError::OutOfRange { partition, position, earliest, .. } => {
                    MoveError::Gone { at: partition, wanted: position, earliest }
                }
                error => MoveError::Source(error),
            })?;
            bytes += chunk.records.iter().map(Record::size_bytes).sum::<usize>();
            until.get_or_insert_with(|| Instant::now() + STEP_WAIT);
            let is_level = chunk.next >= chunk.latest;
            gathered.push(chunk);
            if is_level && gathered.iter().all(|chunk| chunk.records.is_empty()) {
                break; // there is nothing to wait with
            }
        }
        self.write(gathered, bytes as u64).await
    }

    /// Writes what the source has not, behind all that was copied.
    pub(crate) async fn say(&mut self, pieces: Vec<Piece>) -> Result<(), MoveError> {
        if !pieces.is_empty() {
            self.append(pieces).await?;
        }
        Ok(())
    }

    async fn append(&mut self, pieces: Vec<Piece>) -> Result<(), MoveError> {
        let written = self.writer.write(&*self.target, &self.lanes, pieces).await;
        for (lane, end) in written.map_err(MoveError::Target)? {
            self.ends[lane] = end;
        }
        Ok(())
    }

    async fn write(&mut self, gathered: Vec<Chunk>, bytes: u64) -> Result<(), MoveError> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut places = Vec::with_capacity(gathered.len()); // what is written still takes memory
        let mut read = Vec::with_capacity(gathered.len());
        let mut records = 0;
        for Chunk { lane, records: more, next, latest, _place } in gathered {
            places.push(_place);
            read.push((lane, next, latest));
            records += more.len() as u64;
            match pieces.iter_mut().find(|piece| piece.lane == lane) {
                _ if more.is_empty() => {}
                Some(piece) => piece.records.extend(more),
                None => pieces.push(Piece { lane, records: more }),
            }
        }
        if !pieces.is_empty() {
            self.append(pieces).await?;
        }
        for (lane, next, latest) in read {
            self.copied[lane] = next;
            self.latest[lane] = Some(latest);
        }
        self.records += records;
        self.bytes += bytes;
        Ok(())
    }
}

/// Reads one partition until nobody wants it; an error ends it. Two blocks are on their way at most.
async fn read(
    lane: usize,
    mut reader: Box<dyn Reader>,
    limits: ReadLimits,
    into: mpsc::Sender<Result<Chunk, EngineError>>,
) {
    let places = Arc::new(Semaphore::new(2));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let from = reader.position();
        let chunk = async {
            let fetched = reader.read(limits).await?;
            let (next, latest) = (fetched.next, fetched.latest);
            let records = fetched.block.into_records(from)?;
            let records = records.into_iter().map(|at| at.record).collect();
            Ok(Chunk { lane, records, next, latest, _place: place })
        };
        let chunk = chunk.await;
        let is_over = chunk.is_err();
        if into.send(chunk).await.is_err() || is_over {
            return;
        }
    }
}
