//! How far a flow has come.

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
}

/// How far a shard has taken in source partitions that come to it by another topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// The record that comes next, per source partition: what is before it was counted, also if it comes once more.
    pub(crate) positions: Vec<u64>,
    /// Whether the source partition brings nothing.
    pub(crate) idle: Vec<bool>,
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
        }
    }

    /// As the changelog has it.
    pub(crate) fn to_record(&self) -> Result<Record, FlowError> {
        Ok(record::of(About::Progress, PROGRESS, Some(self.to_bytes()?)))
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, FlowError> {
        let mut bytes = serialise(self, "flow's progress")?;
        if let Some(taken) = &self.taken {
            bytes.extend(serialise(taken, "flow's progress")?);
        }
        Ok(bytes)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (progress, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        if rest.is_empty() {
            return Some(progress);
        }
        match postcard::take_from_bytes(rest).ok()? {
            (taken, []) => Some(Self { taken: Some(taken), ..progress }),
            _ => None,
        }
    }

    /// Whether the record of a changelog tells it.
    pub(crate) fn is_in(record: &Record) -> bool {
        record.key.as_deref().and_then(record::about).is_some_and(|(about, _)| about == About::Progress)
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
        for progress in [&plain, &shard] {
            let bytes = progress.to_bytes().unwrap();
            assert_eq!(Progress::from_bytes(&bytes).as_ref(), Some(progress));
            assert_eq!(Progress::from_bytes(&[&bytes[..], b"x"].concat()), None);
            assert_eq!(Progress::from_bytes(&bytes[..bytes.len() - 1]), None);
        }
        assert!(shard.to_bytes().unwrap().starts_with(&plain.to_bytes().unwrap()));
    }
}
