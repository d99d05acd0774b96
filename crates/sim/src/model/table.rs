//! A compacted topic is a table: of each key the newest record counts, and older ones may be gone.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_core::batch::Record;

use super::batch::{Key, Sent};
use super::partition::PartitionModel;

/// Judges the records of a table that are there, by offset: `known` has them all, and others that may be gone.
///
/// * The newest record of each key is there. A newest tombstone may be gone from `delete_retention_ms` after it was sent on,
///   and then nothing older of its key is there.
/// * What nobody was told of may have come in between: a tombstone that took all others with it.
pub(crate) fn judge(
    key: Key,
    known: &PartitionModel,
    sent: &[Sent],
    there: &BTreeSet<i64>,
    now_ms: i64,
    delete_retention_ms: i64,
) -> Result<(), String> {
    let may_be_gone =
        |sent: &Sent, record: &Record| record.value.is_none() && now_ms - sent.made_ms >= delete_retention_ms;
    let mut newest: BTreeMap<&[u8], (i64, bool)> = BTreeMap::new();
    let mut left: BTreeMap<&[u8], i64> = BTreeMap::new();
    for (base, placed) in &known.known {
        let sent = &sent[placed.batch];
        for (offset, record) in (*base..).zip(&sent.contents).filter(|(offset, _)| *offset >= known.start) {
            let key = record.key.as_deref().unwrap_or_default();
            newest.insert(key, (offset, may_be_gone(sent, record)));
            if there.contains(&offset) {
                left.insert(key, offset);
            }
        }
    }
    for (name, (offset, may_be_gone_by_now)) in newest {
        let left = left.get(name).copied();
        let went_unseen = || {
            let unseen =
                sent.iter().filter(|sent| sent.key == key && sent.at.is_none() && !sent.is_refused());
            unseen
                .flat_map(|sent| sent.contents.iter().map(move |record| (sent, record)))
                .any(|(sent, record)| record.key.as_deref() == Some(name) && may_be_gone(sent, record))
        };
        if left != Some(offset) && !(left.is_none() && (may_be_gone_by_now || went_unseen())) {
            let name = String::from_utf8_lossy(name);
            return Err(format!(
                "the newest record of {name:?} is at offset {offset}, and of those {left:?} is there"
            ));
        }
    }
    Ok(())
}
