//! What is known to be in a partition, and how sure that is.

use std::collections::BTreeMap;

use super::batch::BatchNumber;

/// What a record survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strength {
    /// The death of the process.
    Written,
    /// The loss of power.
    Durable,
}

/// A batch at its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) batch: BatchNumber,
    pub(crate) records: i32,
    pub(crate) strength: Strength,
}

/// One partition.
#[derive(Debug, Default)]
pub(crate) struct PartitionModel {
    /// By base offset.
    pub(crate) known: BTreeMap<i64, Placed>,
    /// Something happened to its files that it may stop for, once and for all.
    pub(crate) damaged: bool,
    /// Where the log began when anybody was told last; it never goes back.
    pub(crate) start: i64,
    /// Up to where somebody asked for records to be deleted.
    pub(crate) start_asked: i64,
    /// The power went since this was compared last with what is there.
    pub(crate) power_lost: bool,
    /// What its consumer reads next.
    pub(crate) reader: i64,
}

impl PartitionModel {
    /// Somebody was told that `batch` is at `base`.
    pub(crate) fn place(&mut self, base: i64, placed: Placed) -> Result<(), String> {
        if let Some(known) = self.known.get_mut(&base) {
            if known.batch != placed.batch {
                return Err(format!(
                    "offset {base} had batch {}, and has batch {}",
                    known.batch, placed.batch
                ));
            }
            known.strength = known.strength.max(placed.strength);
            return Ok(());
        }
        let end = base + i64::from(placed.records);
        let before = self.known.range(..base).next_back();
        if let Some((at, other)) = before
            && at + i64::from(other.records) > base
        {
            return Err(format!("batch {} at {base} lies in batch {} at {at}", placed.batch, other.batch));
        }
        if let Some((at, other)) = self.known.range(base..).next()
            && *at < end
        {
            return Err(format!(
                "batch {} at {base} reaches into batch {} at {at}",
                placed.batch, other.batch
            ));
        }
        self.known.insert(base, placed);
        Ok(())
    }

    /// Somebody was told where the log begins; `expires` if the broker deletes by itself.
    pub(crate) fn starts(&mut self, start: i64, expires: bool) -> Result<(), String> {
        if start < self.start {
            return Err(format!("the log began at {}, and begins at {start}", self.start));
        }
        if start > self.start && start > self.start_asked && !expires {
            return Err(format!(
                "the log begins at {start}, and nobody asked for more than {}",
                self.start_asked
            ));
        }
        self.start = start;
        self.reader = self.reader.max(start);
        self.known.retain(|base, placed| base + i64::from(placed.records) > start);
        Ok(())
    }

    /// After the last record that anybody was told of.
    pub(crate) fn end(&self) -> i64 {
        self.known.last_key_value().map_or(0, |(base, placed)| base + i64::from(placed.records))
    }
}
