//! What groups committed.

use std::collections::{BTreeMap, BTreeSet};

use super::batch::Key;

/// The offset of one group in one partition.
#[derive(Debug, Default)]
pub(crate) struct CommittedModel {
    /// Every offset that was ever asked for.
    pub(crate) asked: BTreeSet<i64>,
    /// The largest that was acknowledged or shown; it may not go back.
    pub(crate) sure: Option<i64>,
}

/// All groups' offsets.
pub(crate) type CommittedModels = BTreeMap<(String, Key), CommittedModel>;

impl CommittedModel {
    /// What the next commit says.
    pub(crate) fn next(&self) -> i64 {
        self.asked.last().map_or(1, |last| last + 1)
    }

    /// Somebody was shown this.
    pub(crate) fn shown(&mut self, found: Option<(i64, String)>) -> Result<(), String> {
        let Some((offset, metadata)) = found else {
            return match self.sure {
                Some(sure) => Err(format!("offset {sure} was committed, and there is none")),
                None => Ok(()),
            };
        };
        if !self.asked.contains(&offset) {
            return Err(format!("offset {offset} was never committed"));
        }
        if metadata != metadata_of(offset) {
            return Err(format!("offset {offset} has the metadata {metadata:?}"));
        }
        if self.sure.is_some_and(|sure| offset < sure) {
            return Err(format!("the committed offset went back from {:?} to {offset}", self.sure));
        }
        self.sure = Some(offset);
        Ok(())
    }
}

/// What is committed with an offset.
pub(crate) fn metadata_of(offset: i64) -> String {
    format!("as of {offset}")
}
