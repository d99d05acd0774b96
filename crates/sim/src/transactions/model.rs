//! What was asked of transactions, what the log answered and showed, and so what must be true of them from then on.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_core::ProducerId;
use anabranch_core::batch::EndKind;
use anabranch_log::{AppendError, Appended, Ended, Offsets, OpenTransaction};

use super::standing::{Found, Standing, What};

/// A batch that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) partition: usize,
    pub(super) transaction: Option<usize>,
    /// Of each of its records.
    pub(super) keys: Vec<String>,
}

/// One transaction. It has its place in the list, plus one, as its ordinal.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) producer: usize,
    pub(super) epoch: i16,
    pub(super) version: i8,
    /// Where it may write.
    pub(super) partitions: BTreeSet<usize>,
    /// Batches without an answer.
    pub(super) unanswered: u32,
    /// A batch was refused, or its answer is lost: it can only be aborted.
    pub(super) is_broken: bool,
    /// How it is to end, if anybody has asked for that, and in which epoch.
    pub(super) asked: Option<(EndKind, i16)>,
    /// That has no answer, and may get none in this life.
    pub(super) is_ending: bool,
    /// How it has ended, for ever: somebody was told, or has seen it.
    pub(super) outcome: Option<EndKind>,
    /// Where its marker is to be written another time.
    pub(super) missing: Vec<usize>,
    /// Everything is done.
    pub(super) is_completed: bool,
    /// All of it in this life: what comes too late is known by that in memory only, since after a start nothing is on its way.
    pub(super) ended_in: Option<u64>,
}

impl Transaction {
    pub(super) fn is_running(&self) -> bool {
        self.asked.is_none() && self.outcome.is_none()
    }
}

/// A transactional producer; its id is its place in the list.
#[derive(Debug)]
pub(super) struct Producer {
    pub(super) version: i8,
    pub(super) epoch: i16,
    /// The next ones, by partition.
    pub(super) sequences: BTreeMap<usize, i32>,
    /// Its newest transaction. It begins none before that is completed, as the coordinator sees to it.
    pub(super) newest: Option<usize>,
}

/// One partition.
#[derive(Debug, Default)]
pub(super) struct PartitionModel {
    /// It shows what is not durable.
    relaxed: bool,
    /// Every record that somebody was told of.
    known: BTreeMap<i64, (usize, usize)>,
    /// What a consumer of committed records reads next.
    pub(super) reader: i64,
    /// The largest last stable offset that anybody was told.
    stable: i64,
    pub(super) power_lost: bool,
}

impl PartitionModel {
    pub(super) fn new(relaxed: bool) -> Self {
        Self { relaxed, ..Self::default() }
    }
}

/// What the records of decisions say of a transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decision {
    pub(super) kind: EndKind,
    pub(super) is_completed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    /// The first thing that went wrong.
    pub(super) failure: Option<String>,
    pub(super) life: u64,
    /// Of each key the newest record counts.
    pub(super) is_table: bool,
    pub(super) sent: Vec<Sent>,
    pub(super) transactions: Vec<Transaction>,
    pub(super) producers: Vec<Producer>,
    pub(super) partitions: Vec<PartitionModel>,
}

impl Model {
    pub(super) fn fail(&mut self, what: impl Into<String>) {
        self.failure.get_or_insert(what.into());
    }

    /// What is known of the transaction: nobody may see it end in two ways, or before anybody has asked.
    fn decide(&mut self, number: usize, kind: EndKind, why: &str) {
        let transaction = &mut self.transactions[number];
        let asked = transaction.asked.map(|(kind, _)| kind);
        if transaction.outcome.or(asked) != Some(kind) {
            let what = format!(
                "transaction {number}: {kind:?} {why}, and was {:?}, asked {asked:?}",
                transaction.outcome
            );
            return self.fail(what);
        }
        transaction.outcome = Some(kind);
    }

    /// Somebody was told that a record is at an offset.
    fn learn(&mut self, partition: usize, at: i64, name: (usize, usize)) {
        if self.sent.get(name.0).is_none_or(|sent| sent.partition != partition) {
            return self
                .fail(format!("{partition}: a record of {name:?}, which was not sent there, is at {at}"));
        }
        let before = self.partitions[partition].known.insert(at, name);
        if let Some(before) = before.filter(|before| *before != name) {
            self.fail(format!("{partition}: offset {at} was record {before:?}, and is {name:?}"));
        }
    }

    pub(super) fn appended(&mut self, batch: usize, answer: &Result<Appended, AppendError>) {
        let Sent { partition, transaction, ref keys, .. } = self.sent[batch];
        let count = keys.len();
        if let Some(transaction) = transaction.map(|number| &mut self.transactions[number]) {
            transaction.unanswered -= 1;
            transaction.is_broken |= answer.is_err();
        }
        match answer {
            Ok(appended) => {
                let base = appended.base_offset.0;
                (0..count).for_each(|place| self.learn(partition, base + place as i64, (batch, place)));
            }
            // One that follows one that was refused.
            Err(AppendError::OutOfOrderSequence { .. }) if transaction.is_some() => {}
            Err(AppendError::WriteFailed(_) | AppendError::Stopped(_) | AppendError::Closed) => {}
            Err(error) => self.fail(format!("batch {batch} was refused: {error}")),
        }
    }

    /// A batch was sent of a transaction that had ended before.
    pub(super) fn came_late(&mut self, number: usize, answer: &Result<Appended, AppendError>) {
        if matches!(answer, Ok(appended) if !appended.duplicate) {
            self.fail(format!("a batch of transaction {number} came after its end, and was taken"));
        }
    }

    pub(super) fn ended(&mut self, number: usize, to: &[usize], answer: Result<Ended, AppendError>) {
        let transaction = &mut self.transactions[number];
        let Some((kind, _)) = transaction.asked else { return };
        transaction.is_ending = false;
        match answer {
            Ok(Ended { missing }) => {
                transaction.missing = missing.into_iter().map(|at| to[at]).collect();
                let is_completed = transaction.missing.is_empty();
                self.decide(number, kind, "was acknowledged");
                if is_completed {
                    self.transactions[number].ended_in = Some(self.life);
                    self.complete(number);
                }
            }
            Err(AppendError::WriteFailed(_)) => {
                transaction.asked = None;
                if transaction.outcome.is_some() {
                    self.fail(format!("transaction {number} was not ended, and somebody has seen its end"));
                }
            }
            // The next start tells.
            Err(AppendError::Stopped(_) | AppendError::Closed) => transaction.is_ending = true,
            Err(error) => self.fail(format!("the end of transaction {number} was refused: {error}")),
        }
    }

    pub(super) fn complete(&mut self, number: usize) {
        let transaction = &mut self.transactions[number];
        let (_, epoch) = transaction.asked.expect("it was asked to end");
        transaction.is_completed = true;
        let producer = &mut self.producers[transaction.producer];
        if std::mem::replace(&mut producer.epoch, epoch) != epoch {
            producer.sequences.clear();
        }
    }

    /// The process is gone: what has no answer gets none.
    pub(super) fn end_life(&mut self) {
        self.life += 1;
        for transaction in &mut self.transactions {
            transaction.is_broken |=
                std::mem::take(&mut transaction.unanswered) > 0 || transaction.is_running();
            transaction.is_ending = false;
            transaction.missing.clear();
        }
    }

    /// What the records of decisions say at the start.
    pub(super) fn decisions(&mut self, found: &BTreeMap<usize, Decision>) {
        for number in 0..self.transactions.len() {
            let outcome = self.transactions[number].outcome;
            match found.get(&number) {
                Some(Decision { kind, is_completed }) => {
                    self.decide(number, *kind, "is decided");
                    if *is_completed && !self.transactions[number].is_completed {
                        self.complete(number);
                    }
                }
                None if outcome.is_some() => {
                    self.fail(format!("transaction {number} was {outcome:?}, and that is gone"));
                }
                None => self.transactions[number].asked = None,
            }
        }
    }

    /// Whether readers of committed records see what the record is part of; `None` while that is open.
    fn is_committed(&self, (batch, _): (usize, usize)) -> Option<bool> {
        let Some(number) = self.sent[batch].transaction else { return Some(true) };
        self.transactions[number].outcome.map(|kind| kind == EndKind::Commit)
    }

    /// Whether compaction may have taken a record away: there is a newer one of its key, that counts or may.
    fn is_superseded(&self, partition: usize, at: i64, (batch, place): (usize, usize)) -> bool {
        let key = &self.sent[batch].keys[place];
        let newer = self.partitions[partition].known.range(at + 1..);
        let counts = |name: (usize, usize)| {
            let asked =
                || Some(self.transactions[self.sent[name.0].transaction?].asked?.0 == EndKind::Commit);
            self.is_committed(name).or_else(asked) == Some(true)
        };
        self.is_table
            && newer
                .filter(|(_, name)| counts(**name))
                .any(|(_, name)| self.sent[name.0].keys[name.1] == *key)
    }

    /// Somebody read committed records from one offset to another, and this is what he found.
    pub(super) fn saw(&mut self, partition: usize, (from, to): (i64, i64), found: &[Found]) {
        for (at, name) in found {
            self.learn(partition, *at, *name);
            if let Some(number) = self.sent[name.0].transaction {
                self.decide(number, EndKind::Commit, &format!("is seen in {partition} at {at}"));
            }
        }
        let found: BTreeSet<i64> = found.iter().map(|(at, _)| *at).collect();
        let passed: Vec<Found> =
            self.partitions[partition].known.range(from..to).map(|(at, name)| (*at, *name)).collect();
        for (at, name) in passed.into_iter().filter(|(at, _)| !found.contains(at)) {
            if self.is_superseded(partition, at, name) {
                continue;
            }
            match self.sent[name.0].transaction {
                Some(number) => {
                    self.decide(number, EndKind::Abort, &format!("is passed over in {partition} at {at}"));
                }
                None => self.fail(format!("{partition}: record {name:?} at {at} is not seen")),
            }
        }
    }

    /// Somebody was told the bounds of a partition.
    pub(super) fn told(&mut self, partition: usize, offsets: Offsets) {
        let stable = offsets.last_stable.0;
        if offsets.last_stable > offsets.high_watermark {
            self.fail(format!("{partition}: {offsets:?}"));
        }
        let before = self.partitions[partition].known.range(offsets.log_start.0..stable);
        let is_running = |name: &(usize, usize)| {
            self.sent[name.0].transaction.filter(|number| self.transactions[*number].is_running())
        };
        if let Some((at, number)) = before.filter_map(|(at, name)| Some((*at, is_running(name)?))).next() {
            self.fail(format!(
                "{partition}: stable up to {stable}, and transaction {number} is open from {at}"
            ));
        }
        let model = &mut self.partitions[partition];
        if !model.relaxed {
            model.stable = model.stable.max(stable);
        }
    }

    /// Somebody read everything that is written; the offsets of the records.
    pub(super) fn looked(&mut self, partition: usize, standing: &[Standing]) -> BTreeSet<i64> {
        let mut found = BTreeSet::new();
        for standing in standing {
            let What::Data(records) = &standing.what else { continue };
            for (at, name) in records {
                found.insert(*at);
                self.learn(partition, *at, *name);
            }
        }
        found
    }

    /// What stands in a partition after a start, and what is open by the log's account.
    pub(super) fn stands(
        &mut self,
        partition: usize,
        standing: &[Standing],
        open: &[OpenTransaction],
        offsets: Offsets,
    ) {
        let was_stable = self.partitions[partition].stable;
        if offsets.log_end.0 < was_stable {
            self.fail(format!("{partition} was stable up to {was_stable}, and ends at {}", offsets.log_end));
        }
        let found = self.looked(partition, standing);
        self.check_there(partition, &found, offsets.log_start.0);
        self.check_ends(partition, standing, open);
    }

    fn check_there(&mut self, partition: usize, found: &BTreeSet<i64>, start: i64) {
        let model = &self.partitions[partition];
        let may_be_lost = model.relaxed && model.power_lost;
        let missing: Vec<Found> = model.known.iter().map(|(at, name)| (*at, *name)).collect();
        for (at, name) in missing.into_iter().filter(|(at, _)| *at >= start && !found.contains(at)) {
            let number = self.sent[name.0].transaction;
            let is_committed = self.is_committed(name);
            // What a decision has made durable is durable.
            let is_decided = number.is_some() && is_committed == Some(true);
            if may_be_lost && !is_decided {
                self.partitions[partition].known.remove(&at);
            } else if !(self.is_table && is_committed == Some(false)
                || self.is_superseded(partition, at, name))
            {
                self.fail(format!("{partition}: record {name:?} of transaction {number:?} at {at} is gone"));
            }
        }
        self.partitions[partition].power_lost = false;
    }

    /// Each transaction ends behind all that is left of it, as it was decided; or it is open.
    fn check_ends(&mut self, partition: usize, standing: &[Standing], open: &[OpenTransaction]) {
        // Of each producer: what is open. What compaction has emptied is of a transaction that is not known.
        let mut begun: BTreeMap<ProducerId, Option<usize>> = BTreeMap::new();
        for Standing { base, producer, is_transactional, what } in standing {
            match what {
                What::Data(_) if !is_transactional => {}
                What::Data(records) => {
                    let number = records.first().and_then(|(_, name)| self.sent[name.0].transaction);
                    let before = begun.entry(*producer).or_insert(number);
                    if let (Some(before), Some(number)) = (*before, number)
                        && before != number
                    {
                        self.fail(format!("{partition}: no marker of {before} before {number} at {base}"));
                    }
                    *before = before.or(number);
                }
                What::End(kind) => match (begun.remove(producer), kind) {
                    (Some(Some(number)), Some(kind)) => {
                        self.decide(number, *kind, &format!("stands in {partition} at {base}"));
                    }
                    (Some(number), None) => {
                        self.fail(format!("{partition}: the marker of {number:?} is emptied at {base}"));
                    }
                    _ => {}
                },
            }
        }
        let known: BTreeSet<ProducerId> = open.iter().map(|open| open.producer).collect();
        // Where the log begins later than a transaction, it is open and nothing of it is left.
        if let Some((producer, number)) = begun.iter().find(|(producer, _)| !known.contains(producer)) {
            self.fail(format!("{partition}: {number:?} of {producer} has no end, and is not open"));
        }
        for producer in known {
            let newest = self.producers.get(producer.0 as usize).and_then(|producer| producer.newest);
            let is_completed = newest.is_some_and(|number| self.transactions[number].is_completed);
            if newest.is_none() || is_completed {
                self.fail(format!("{partition}: {newest:?} of {producer} is completed, and is open"));
            }
        }
    }
}
