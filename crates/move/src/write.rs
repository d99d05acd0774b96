//! Writes to the target, so that what a killed mover had under way cannot come behind what its successor writes.

use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{
    AppendOptions, Capability, Engine, EngineError, Limits, Payload, Place, Position, TransactionalProducer,
};
use futures::FutureExt;
use futures::future::try_join_all;

use crate::error::MoveError;

/// How long a transaction may be open, a killed mover's too.
const TRANSACTION_MAX: Duration = Duration::from_secs(60);
/// What a record takes in a batch beside what is counted as its size, at most, unless it has very many headers.
const RECORD_OVERHEAD_BYTES: u64 = 64;

/// The one way into the target's topics.
#[derive(Debug)]
pub(crate) enum Writer {
    /// The producer of one transactional id: to open it fences the mover before, and ends what that had open. A step is one
    /// transaction.
    Transactions(Box<dyn TransactionalProducer>),
    /// Each append says where its partition ends. Of two movers the later append fails, whoever sends it.
    Conditional {
        /// By lane.
        ends: Vec<Position>,
    },
}

/// Records for one partition.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) lane: usize,
    pub(crate) records: Vec<Record>,
}

impl Writer {
    /// Opens the way for a move named `id`. From then on nothing of an older mover comes, or it is noticed: where the target
    /// ends is asked afterwards.
    pub(crate) async fn open(
        target: &dyn Engine,
        id: &str,
        lanes: &[TopicPartition],
    ) -> Result<(Self, Vec<Position>), MoveError> {
        if let Some(transactions) = target.transactions() {
            let id = format!("anabranch-move-{id}");
            let producer = transactions.producer(&id, TRANSACTION_MAX).await.map_err(MoveError::Target)?;
            let ends = ends_of(target, lanes).await?;
            return Ok((Self::Transactions(producer), ends));
        }
        if target.description().has(Capability::ConditionalAppend) {
            let ends = ends_of(target, lanes).await?;
            return Ok((Self::Conditional { ends: ends.clone() }, ends));
        }
        Err(MoveError::Unfit {
            engine: target.description().engine,
            reason: "it has neither transactions nor conditional appends, by which a mover that was killed is kept out".into(),
        })
    }

    /// Writes a step, each lane once at most; tells where each of them ends now.
    pub(crate) async fn write(
        &mut self,
        target: &dyn Engine,
        lanes: &[TopicPartition],
        step: Vec<Piece>,
    ) -> Result<Vec<(usize, Position)>, EngineError> {
        let limits = target.description().limits;
        match self {
            Self::Transactions(producer) => {
                let mut places = Vec::new();
                let mut appends = Vec::new();
                for Piece { lane, records } in step {
                    for part in parts(records, limits) {
                        places.push(lane);
                        appends.push((lanes[lane].clone(), Payload::Records(part)));
                    }
                }
                let appended = producer.commit(appends, None).await?;
                // Of several appends to a lane the last counts.
                Ok(places.into_iter().zip(appended.iter().map(|appended| appended.next)).collect())
            }
            Self::Conditional { ends } => {
                let each = step.into_iter().map(|Piece { lane, records }| {
                    append_at(target, lanes, lane, ends[lane], parts(records, limits)).boxed()
                });
                let written: Vec<_> = each.collect();
                let written = try_join_all(written).await?;
                for (lane, end) in &written {
                    ends[*lane] = *end;
                }
                Ok(written)
            }
        }
    }
}

/// Where each partition ends.
async fn ends_of(target: &dyn Engine, lanes: &[TopicPartition]) -> Result<Vec<Position>, MoveError> {
    let ends: Vec<_> = lanes.iter().map(|at| target.locate(at, Place::Latest)).collect();
    try_join_all(ends).await.map_err(MoveError::Target)
}

/// Appends one part after the other, each where the one before has ended.
async fn append_at(
    target: &dyn Engine,
    lanes: &[TopicPartition],
    lane: usize,
    mut end: Position,
    parts: Vec<Vec<Record>>,
) -> Result<(usize, Position), EngineError> {
    for part in parts {
        let how = AppendOptions { expected: Some(end), ..AppendOptions::default() };
        end = target.append(&lanes[lane], Payload::Records(part), how).await?.next;
    }
    Ok((lane, end))
}

/// The records in appends that the engine takes. One record that is too large is left to the engine to refuse.
fn parts(records: Vec<Record>, limits: Limits) -> Vec<Vec<Record>> {
    let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0_u64);
    for record in records {
        let more = record.size_bytes() as u64 + RECORD_OVERHEAD_BYTES;
        let is_full = bytes.saturating_add(more) > limits.append_bytes_max
            || part.len() as u64 >= u64::from(limits.append_records_max);
        if is_full && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += more;
        part.push(record);
    }
    parts.extend(Some(part).filter(|part| !part.is_empty()));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_stay_within_the_limits() {
        let limits = Limits { record_bytes_max: 1000, append_bytes_max: 1000, append_records_max: 5 };
        let sizes = [900, 100, 1000, 1, 1, 1, 1, 1, 1, 400, 400, 400];
        let records: Vec<_> = sizes.iter().map(|size| Record::keyless(vec![0; *size])).collect();
        let parts = parts(records.clone(), limits);
        let lengths: Vec<_> = parts.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1, 1, 1, 5, 3, 1]);
        assert_eq!(parts.concat(), records);
        assert!(super::parts(Vec::new(), limits).is_empty());
    }
}
