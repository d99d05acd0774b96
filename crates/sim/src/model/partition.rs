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

    /// After the last record that anybody was told of.
    pub(crate) fn end(&self) -> i64 {
        self.known.last_key_value().map_or(0, |(base, placed)| base + i64::from(placed.records))
    }
}
