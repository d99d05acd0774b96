//! What is stored of a partition: a record of the topic `GROUP.queue.TOPIC`, whose key is the partition in decimal, and whose
//! value is JSON, so that a person can read it:
//!
//! ```text
//! {"version":1,"next":120,"unsettled":[[100,18,1,0],[119,1,2,1764213000000]]}
//! ```
//!
//! Everything before position 120 is settled but for 100 to 117, which were delivered once, and 119, which was delivered twice
//! and waits for a time. Only the newest record of a key counts, so the topic is compacted.

use anabranch_core::engine::{Position, QueueSpec};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    version: u32,
    #[serde(with = "number")]
    pub(crate) next: Position,
    unsettled: Vec<Run>,
}

/// Unsettled records side by side that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u32, i64)", into = "(u64, u64, u32, i64)")]
pub(crate) struct Run {
    pub(crate) from: Position,
    pub(crate) len: u64,
    pub(crate) count: u32,
    /// 0: they wait for nothing.
    pub(crate) until_ms: i64,
}

impl From<(u64, u64, u32, i64)> for Run {
    fn from((from, len, count, until_ms): (u64, u64, u32, i64)) -> Self {
        Self { from: Position(from), len, count, until_ms }
    }
}

impl From<Run> for (u64, u64, u32, i64) {
    fn from(run: Run) -> Self {
        (run.from.0, run.len, run.count, run.until_ms)
    }
}

impl Run {
    fn goes_on_with(&self, position: Position, count: u32, until_ms: i64) -> bool {
        self.from.0 + self.len == position.0 && self.count == count && self.until_ms == until_ms
    }
}

/// Adds an unsettled record behind others.
pub(crate) fn push(runs: &mut Vec<Run>, position: Position, count: u32, until_ms: i64) {
    match runs.last_mut() {
        Some(run) if run.goes_on_with(position, count, until_ms) => run.len += 1,
        _ => runs.push(Run { from: position, len: 1, count, until_ms }),
    }
}

/// What was read is not what was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damaged {
    #[error("it is not JSON of that form: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has version {0}, and this one knows {VERSION}")]
    Version(u32),
    #[error("its unsettled records are out of order, or too many")]
    Unsettled,
}

impl Snapshot {
    pub(crate) fn new(next: Position, unsettled: Vec<Run>) -> Self {
        Self { version: VERSION, next, unsettled }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("it consists of numbers")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let snapshot: Self = serde_json::from_slice(bytes)?;
        if snapshot.version != VERSION {
            return Err(Damaged::Version(snapshot.version));
        }
        let (mut end, mut total) = (0, 0_u64);
        for run in &snapshot.unsettled {
            let behind = run.from.0.checked_add(run.len).ok_or(Damaged::Unsettled)?;
            total = total.saturating_add(run.len);
            let is_fine = run.len > 0
                && run.from.0 >= end
                && behind <= snapshot.next.0
                && total <= u64::from(QueueSpec::UNSETTLED_MAX);
            if !is_fine {
                return Err(Damaged::Unsettled);
            }
            end = behind;
        }
        Ok(snapshot)
    }

    /// Whether it is a snapshot of a form that this program does not know.
    pub(crate) fn is_foreign(bytes: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Any {
            version: u32,
        }
        serde_json::from_slice::<Any>(bytes).is_ok_and(|any| any.version != VERSION)
    }

    /// The same with other positions. `translate` tells where the record is that is read next from a position on, or fails for all.
    /// How many positions were translated is told, and how many were left out, since there are no records at them any more.
    pub(crate) fn translate(
        &self,
        translate: impl Fn(Position) -> Option<Position>,
    ) -> Option<(Self, u64, u64)> {
        let (mut runs, mut positions, mut gone) = (Vec::<Run>::new(), 1, 0);
        for (position, count, until_ms) in self.positions() {
            let (there, behind) = (translate(position)?, translate(Position(position.0 + 1))?);
            if there == behind {
                gone += 1;
                continue;
            }
            positions += 1;
            push(&mut runs, there, count, until_ms);
        }
        Some((Self::new(translate(self.next)?, runs), positions, gone))
    }

    /// Of each unsettled record the position, the count, and the time that it waits for.
    pub(crate) fn positions(&self) -> impl Iterator<Item = (Position, u32, i64)> {
        self.unsettled.iter().flat_map(|run| {
            (run.from.0..run.from.0 + run.len).map(|position| (Position(position), run.count, run.until_ms))
        })
    }
}

mod number {
    use anabranch_core::engine::Position;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(position: &Position, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(position.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Position, D::Error> {
        u64::deserialize(from).map(Position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_as_it_is_drawn() {
        let run = |from, len, count, until_ms| Run { from: Position(from), len, count, until_ms };
        let runs = vec![run(100, 18, 1, 0), run(119, 1, 2, 1_764_213_000_000)];
        let snapshot = Snapshot::new(Position(120), runs);
        let text = r#"{"version":1,"next":120,"unsettled":[[100,18,1,0],[119,1,2,1764213000000]]}"#;
        assert_eq!(snapshot.encode(), text.as_bytes());
        assert_eq!(Snapshot::decode(text.as_bytes()).unwrap(), snapshot);
    }

    #[test]
    fn what_is_damaged_is_told() {
        for bad in [
            "",
            "{}",
            r#"{"version":2,"next":1,"unsettled":[]}"#,
            r#"{"version":1,"next":-1,"unsettled":[]}"#,
            r#"{"version":1,"next":5,"unsettled":[[5,1,1,0]]}"#,
            r#"{"version":1,"next":5,"unsettled":[[1,0,1,0]]}"#,
            r#"{"version":1,"next":5,"unsettled":[[1,2,1,0],[2,1,1,0]]}"#,
            r#"{"version":1,"next":5,"unsettled":[[18446744073709551615,2,1,0]]}"#,
            r#"{"version":1,"next":1000000,"unsettled":[[0,999999,1,0]]}"#,
        ] {
            assert!(Snapshot::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
