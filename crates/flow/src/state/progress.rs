//! How far a flow has come.

use std::collections::VecDeque;

use anabranch_core::batch::Record;
use serde::{Deserialize, Serialize};

use super::record::{self, About};
use super::store::{PROGRESS, serialise};
use crate::FlowError;
use crate::metrics::Counts;
use crate::watermark::NO_WATERMARK;

/// Stored with every step of a commit, together with the window states that it describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// How many steps there were.
    pub(crate) step: u64,
    /// The record that is read next, per input.
    pub(crate) positions: Vec<u64>,
    /// The latest event per source partition.
    pub(crate) latest_events_ms: Vec<Option<i64>>,
    /// The flow's watermark.
    pub(crate) watermark_ms: i64,
    /// Every window that ends here or before has emitted its result.
    pub(crate) fired_ms: i64,
    /// Every window that ends here or before is gone.
    pub(crate) expired_ms: i64,
    /// What was counted on the way.
    pub(crate) counts: Counts,
    /// Where the input is not the sources themselves, how far it has taken them in. In its serde form it comes behind all
    /// else, and only where it is: other progress reads as ever.
    #[serde(skip)]
    pub(crate) taken: Option<Taken>,
    /// Whether the flow came from another engine. It comes behind all else, too, and only where it is.
    #[serde(skip)]
    pub(crate) moved: Option<Moved>,
}

/// How far a shard has taken in source partitions that come to it by another topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// The record that comes next, per source partition: what is before it was counted, also if it comes once more.
    pub(crate) positions: Vec<u64>,
    /// Whether the source partition brings nothing.
    pub(crate) idle: Vec<bool>,
}

/// A flow that came from another engine ([`crate::OwnTopics`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moved {
    /// When that was, the last time: a local copy that does not know of it has places of another engine's changelog.
    pub(crate) at_ms: i64,
    /// Where what a shard reads changes from one engine's positions to another's, in order. What lies behind the shard is gone.
    pub(crate) ahead: VecDeque<Change>,
}

/// From one position of a shard's input on, the records in it have their sources' positions in the engine that it is on now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// The position in the input.
    pub(crate) at: u64,
    /// [`Taken::positions`] of whoever has taken in all that comes before it.
    pub(crate) taken: Vec<u64>,
}

impl Progress {
    /// Before the first step.
    pub(crate) fn beginning(positions: Vec<u64>, sources: usize) -> Self {
        Self {
            step: 0,
            positions,
            latest_events_ms: vec![None; sources],
            watermark_ms: NO_WATERMARK,
            fired_ms: NO_WATERMARK,
            expired_ms: NO_WATERMARK,
            counts: Counts::default(),
            taken: None,
            moved: None,
        }
    }

    /// When the flow came from another engine the last time, if it did.
    pub(crate) fn moved_at_ms(&self) -> Option<i64> {
        self.moved.as_ref().map(|moved| moved.at_ms)
    }

    /// Takes to another engine's positions where the input has come to them.
    pub(crate) fn pass_changes(&mut self) {
        let (Some(taken), Some(moved)) = (&mut self.taken, &mut self.moved) else { return };
        while let Some(change) = moved.ahead.pop_front_if(|change| change.at <= self.positions[0]) {
            taken.positions = change.taken;
        }
    }

    /// As the changelog has it.
    pub(crate) fn to_record(&self) -> Result<Record, FlowError> {
        Ok(record::of(About::Progress, PROGRESS, Some(self.to_bytes()?)))
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, FlowError> {
        let mut bytes = serialise(self, "flow's progress")?;
        // Where one that is not there comes before one that is, an empty one says so: there always is a source.
        let taken = match (&self.taken, &self.moved) {
            (None, Some(_)) => Some(&Taken { positions: Vec::new(), idle: Vec::new() }),
            (taken, _) => taken.as_ref(),
        };
        if let Some(taken) = taken {
            bytes.extend(serialise(taken, "flow's progress")?);
        }
        if let Some(moved) = &self.moved {
            bytes.extend(serialise(moved, "flow's progress")?);
        }
        Ok(bytes)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (progress, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        if rest.is_empty() {
            return Some(progress);
        }
        let (taken, rest) = postcard::take_from_bytes::<Taken>(rest).ok()?;
        let taken = Some(taken).filter(|taken| !taken.positions.is_empty());
        if rest.is_empty() {
            return taken.map(|taken| Self { taken: Some(taken), ..progress });
        }
        match postcard::take_from_bytes(rest).ok()? {
            (moved, []) => Some(Self { taken, moved: Some(moved), ..progress }),
            _ => None,
        }
    }

    /// Whether the record of a changelog tells it.
    pub(crate) fn is_in(record: &Record) -> bool {
        record::is_progress(record)
    }

    /// Out of a record that tells it.
    pub(crate) fn parse(record: &Record) -> Option<Self> {
        Self::from_bytes(record.value.as_deref()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_comes_behind_and_need_not_be_there() {
        let plain = Progress::beginning(vec![3, 4], 2);
        let taken = Taken { positions: vec![300, 1], idle: vec![true, false] };
        let shard = Progress { taken: Some(taken), ..plain.clone() };
        let change = Change { at: 7, taken: vec![1, 2] };
        let moved = Some(Moved { at_ms: 1, ahead: [change].into() });
        let both = [&plain, &shard].map(|progress| Progress { moved: moved.clone(), ..progress.clone() });
        for progress in [&plain, &shard, &both[0], &both[1]] {
            let bytes = progress.to_bytes().unwrap();
            assert_eq!(Progress::from_bytes(&bytes).as_ref(), Some(progress));
            assert_eq!(Progress::from_bytes(&[&bytes[..], b"x"].concat()), None);
            assert_eq!(Progress::from_bytes(&bytes[..bytes.len() - 1]), None);
        }
        assert!(shard.to_bytes().unwrap().starts_with(&plain.to_bytes().unwrap()));
    }

    #[test]
    fn positions_change_where_the_input_comes_to_them() {
        let taken = Taken { positions: vec![300, 1], idle: vec![false, false] };
        let change = |at, taken: [u64; 2]| Change { at, taken: taken.to_vec() };
        let moved = Moved { at_ms: 2, ahead: [change(5, [10, 2]), change(9, [4, 4])].into() };
        let mut progress = Progress::beginning(vec![4], 2);
        (progress.taken, progress.moved) = (Some(taken), Some(moved));
        for (position, expected) in [(4, [300, 1]), (5, [10, 2]), (8, [10, 2]), (12, [4, 4])] {
            progress.positions[0] = position;
            progress.pass_changes();
            assert_eq!(progress.taken.as_ref().unwrap().positions, expected, "at {position}");
        }
        assert_eq!(progress.moved, Some(Moved { at_ms: 2, ahead: VecDeque::new() }));
    }
}
