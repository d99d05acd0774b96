//! From the log back to the transactions.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anabranch_core::planted::{self, Bug};
use anabranch_core::{ProducerEpoch, ProducerId, TopicPartition};

use super::Transactions;
use super::config::TransactionConfig;
use super::event::{Effect, Now};
use super::join::timeout;
use super::record::{Decoded, RecordError, TransactionRecord, encode};
use super::state::{State, Transaction, TransactionMetadata};

/// Reads the coordinator's topic from its beginning; the last record of a key is what counts.
#[derive(Debug, Default)]
pub struct Restore {
    by_id: BTreeMap<String, TransactionMetadata>,
    skipped: u64,
}

/// What a partition has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Where.
    pub partition: TopicPartition,
    /// Whose.
    pub producer: ProducerId,
    /// In which epoch it was written.
    pub epoch: ProducerEpoch,
}

impl Restore {
    /// Takes the next record of the topic. Keys of other kinds are counted and left alone.
    ///
    /// # Errors
    /// [`RecordError`] when the record is damaged; nothing of it is taken.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), RecordError> {
        match TransactionRecord::decode(key, value)? {
            Decoded::Unknown { .. } => self.skipped += 1,
            Decoded::Record(TransactionRecord { id, value: Some(metadata) }) => {
                self.by_id.insert(id, metadata);
            }
            Decoded::Record(TransactionRecord { id, value: None }) => {
                self.by_id.remove(&id);
            }
        }
        Ok(())
    }

    /// Records that were of no kind that is known here.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The transactions as they were. Ends that were decided are to be completed first of all. What is ongoing lasts no
    /// longer than it would have without the restart: a clock that jumps may shorten that, and not prolong it.
    #[must_use]
    pub fn finish(self, config: TransactionConfig, now: Now) -> (Transactions, Vec<Effect>) {
        let mut transactions = Transactions::new(config, now);
        let mut effects = Vec::new();
        for (id, metadata) in self.by_id {
            let has_lasted_ms = u64::try_from(now.unix_ms.saturating_sub(metadata.started_ms)).unwrap_or(0);
            let may_last = timeout(metadata.timeout_ms).saturating_sub(Duration::from_millis(has_lasted_ms));
            let is_decided = metadata.state.preparing().is_some();
            transactions.last_ordinal += 1;
            let transaction = Transaction {
                ordinal: transactions.last_ordinal,
                expires: now.monotonic + may_last,
                is_restored: is_decided,
                ..Transaction::new(metadata)
            };
            transactions.by_id.insert(id.clone(), transaction);
            if is_decided && !planted::is(Bug::PreparedNotFinished) {
                effects.extend(transactions.end_again(&id, now));
            } else {
                transactions.index(&id, now);
            }
        }
        (transactions, effects)
    }
}

impl Transactions {
    /// Brings the coordinator and the partitions together, after a start and after the decided ends are done: data may be
    /// durable in a partition of which the coordinator's record is not. Such a partition joins the transaction, if that
    /// can still be ended by the coordinator; what nobody would end comes back, to be aborted in its own epoch.
    #[must_use]
    pub fn reconcile(&mut self, open: impl IntoIterator<Item = Open>, now: Now) -> (Vec<Effect>, Vec<Open>) {
        if planted::is(Bug::OpenNotReconciled) {
            return (Vec::new(), Vec::new());
        }
        let ids: HashMap<ProducerId, String> =
            self.by_id.iter().map(|(id, transaction)| (transaction.metadata.producer, id.clone())).collect();
        let mut orphans = Vec::new();
        let mut joining: BTreeMap<&String, Vec<TopicPartition>> = BTreeMap::new();
        for open in open {
            let id = ids.get(&open.producer);
            match id.map(|id| (id, &self.by_id[id].metadata)) {
                // Its marker is written as soon as the partition can take it.
                Some((_, metadata))
                    if metadata.state.preparing().is_some()
                        && metadata.partitions.contains(&open.partition) => {}
                Some((id, metadata))
                    if metadata.state.preparing().is_none() && metadata.epoch == open.epoch =>
                {
                    if !metadata.partitions.contains(&open.partition) {
                        joining.entry(id).or_default().push(open.partition);
                    }
                }
                _ => orphans.push(open),
            }
        }
        let mut effects = Vec::new();
        for (id, partitions) in joining {
            let transaction = self.known(id);
            let is_new = transaction.metadata.state != State::Ongoing;
            let version = transaction.metadata.version;
            let joined = transaction.metadata.joined(partitions, version, now.unix_ms);
            if is_new {
                transaction.expires = now.monotonic + timeout(joined.timeout_ms);
            }
            let record = encode(id, Some(&joined));
            effects.push(self.store_joined(id, joined, record, Vec::new()));
            self.index(id, now);
        }
        (effects, orphans)
    }
}
