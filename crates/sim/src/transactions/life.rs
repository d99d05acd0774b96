//! What is done to a store while it is open.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::batch::{Batch, BatchBuilder, Compression, EndKind, Record, check_batch};
use anabranch_core::seam::Clock;
use anabranch_core::{Offset, ProducerEpoch, ProducerId};
use anabranch_log::{Ack, Compaction, LogStatus, Part, PartitionLog, Roll};
use tokio::task::coop::unconstrained;

use super::model::{Model, Sent, Transaction};
use super::{Answer, Opened, PATIENCE, Question, Run, Waiting, ordinal, read, standing};
use crate::disk::{Ahead, Moment};
use crate::random::Chance;

/// Keys of a table.
const TABLE_KEYS: u64 = 6;

/// The time between two starts.
pub(super) struct Life<'a> {
    pub(super) run: &'a mut Run,
    pub(super) chance: Chance,
    pub(super) opened: Opened,
}

impl Life<'_> {
    /// Readers look at every moment of the disk.
    pub(super) fn listen(&self) {
        let (world, disk, trace) =
            (Arc::clone(&self.run.world), self.run.disk.clone(), self.run.trace.clone());
        let logs = self.opened.logs.clone();
        self.run.disk.listen(Some(Box::new(move |moment| {
            // Whoever holds the world will look again.
            let Some(mut world) = world.try_lock() else { return };
            world.harvest(&disk, &trace);
            let Moment::Sync(path) = moment else { return };
            // Of what is derived somebody holds the lock.
            if path.extension().is_some_and(|kind| kind == "index" || kind == "aborted" || kind == "tmp") {
                return;
            }
            for (at, log) in logs.iter().enumerate() {
                read(&mut world.model, at, log);
            }
        })));
    }

    /// Others do something, and answers come.
    pub(super) async fn turn(&mut self) {
        for _ in 0..self.chance.below(6) {
            tokio::task::yield_now().await;
        }
        if self.chance.one_in(6) {
            tokio::time::sleep(Duration::from_millis(self.chance.between(1..=3000))).await;
        }
        self.harvest();
    }

    fn harvest(&self) {
        self.run.world.lock().harvest(&self.run.disk, &self.run.trace);
    }

    pub(super) async fn step(&mut self) {
        let at = self.chance.below(self.opened.logs.len() as u64) as usize;
        let producer = self.chance.below(4) as usize;
        match self.chance.below(100) {
            0..45 => self.send(producer, at).await,
            45..55 => self.plain(at).await,
            55..75 => self.end(producer).await,
            75..82 => self.late(producer).await,
            82..90 => self.maintain(at).await,
            90..93 if self.run.plan.full => self.run.disk.fill(Some(self.chance.below(1000))),
            93..96 => self.run.disk.fill(None),
            96..98 => drop(read(&mut self.run.world.lock().model, at, &self.opened.logs[at])),
            _ => {
                if let Ok(written) = standing::all(&self.opened.logs[at]) {
                    self.run.world.lock().model.looked(at, &written);
                }
            }
        }
    }

    /// A batch of a few records, of a producer in an epoch and from a sequence on, or of nobody; and their keys.
    fn batch(&mut self, number: usize, by: Option<(usize, i16, i32)>) -> (Batch, Vec<String>) {
        let mut builder = BatchBuilder::new(Compression::None);
        if let Some((producer, epoch, sequence)) = by {
            builder.producer(ProducerId(producer as i64), ProducerEpoch(epoch), sequence).transactional();
        }
        let is_table = self.run.plan.table.is_some();
        let mut keys = Vec::new();
        for place in 0..self.chance.between(1..=3) {
            let name = format!("{number}/{place}");
            let key = if is_table { format!("key {}", self.chance.below(TABLE_KEYS)) } else { name.clone() };
            builder.push(&Record::new(key.clone(), name).at(self.run.clock.now_ms()));
            keys.push(key);
        }
        let bytes = builder.build().expect("a few small records");
        (check_batch(&bytes).expect("what was just built is whole"), keys)
    }

    /// Sends what becomes of `question`.
    async fn submit(&self, at: usize, batch: Batch, part: Option<Part>, question: Question) {
        let submitted = self.opened.logs[at].submit_in(batch, Ack::Durable, part);
        let Ok(submitted) = tokio::time::timeout(PATIENCE, submitted).await else {
            return self.run.fail("waited for ever until a batch was queued");
        };
        let answer = async move {
            Answer::Appended(match submitted {
                Ok(pending) => pending.answer().await,
                Err(error) => Err(error),
            })
        };
        let answer = Box::pin(unconstrained(answer));
        self.run.world.lock().waiting.push(Waiting { question, answer });
    }

    async fn plain(&mut self, at: usize) {
        let number = self.run.world.lock().model.sent.len();
        let (batch, keys) = self.batch(number, None);
        self.send_new(number, at, None, (batch, keys)).await;
    }

    async fn send_new(
        &mut self,
        number: usize,
        partition: usize,
        transaction: Option<usize>,
        (batch, keys): (Batch, Vec<String>),
    ) {
        self.run.trace.note(format_args!("batch {number}: {keys:?} for {partition}, of {transaction:?}"));
        let part = {
            let mut world = self.run.world.lock();
            world.model.sent.push(Sent { partition, transaction, keys });
            transaction.map(|number| Part {
                ordinal: ordinal(number),
                version: world.model.transactions[number].version,
            })
        };
        self.submit(partition, batch, part, Question::Append { batch: number }).await;
    }

    /// A producer writes in its transaction, and begins one if it may.
    async fn send(&mut self, at: usize, partition: usize) {
        let sent = {
            let mut world = self.run.world.lock();
            let Model { transactions, producers, sent, .. } = &mut world.model;
            let producer = &mut producers[at];
            let newest = producer.newest.filter(|number| !transactions[*number].is_completed);
            let number = newest.unwrap_or_else(|| {
                transactions.push(Transaction {
                    producer: at,
                    epoch: producer.epoch,
                    version: producer.version,
                    partitions: BTreeSet::new(),
                    unanswered: 0,
                    is_broken: false,
                    asked: None,
                    is_ending: false,
                    outcome: None,
                    missing: Vec::new(),
                    is_completed: false,
                    ended_in: None,
                });
                transactions.len() - 1
            });
            producer.newest = Some(number);
            let transaction = &mut transactions[number];
            if !transaction.is_running() || transaction.is_broken {
                return;
            }
            transaction.unanswered += 1;
            transaction.partitions.insert(partition);
            let sequence = producer.sequences.get(&partition).copied().unwrap_or(0);
            (sent.len(), number, (at, producer.epoch, sequence))
        };
        let (number, transaction, by) = sent;
        let (batch, keys) = self.batch(number, Some(by));
        {
            let mut world = self.run.world.lock();
            let sequences = &mut world.model.producers[at].sequences;
            *sequences.entry(partition).or_insert(0) += keys.len() as i32;
        }
        self.send_new(number, partition, Some(transaction), (batch, keys)).await;
    }

    /// A producer ends its transaction, or what is missing of an end is tried again.
    async fn end(&mut self, at: usize) {
        let (number, to, end) = {
            let mut world = self.run.world.lock();
            let model = &mut world.model;
            let Some(number) = model.producers[at].newest else { return };
            let transaction = &mut model.transactions[number];
            if transaction.is_completed || transaction.is_ending {
                return;
            }
            let prepared = transaction.is_running();
            let to: Vec<usize> = if prepared {
                let is_whole = !transaction.is_broken && transaction.unanswered == 0;
                let kind = match is_whole && !self.chance.one_in(3) {
                    true => EndKind::Commit,
                    false => EndKind::Abort,
                };
                // A partition that was joined, and got nothing.
                if self.chance.one_in(4) {
                    transaction.partitions.insert(self.chance.below(self.opened.logs.len() as u64) as usize);
                }
                // The coordinator fences whoever could not end it himself.
                let is_fenced = transaction.version >= 2 || transaction.is_broken;
                transaction.asked = Some((kind, transaction.epoch + i16::from(is_fenced)));
                transaction.partitions.iter().copied().collect()
            } else {
                transaction.missing.clone()
            };
            transaction.is_ending = true;
            self.run
                .trace
                .note(format_args!("transaction {number} is to end: {:?} in {to:?}", transaction.asked));
            (number, to.clone(), self.opened.end(model, number, &to, prepared))
        };
        let submitted = self.opened.store.submit_end(end).await;
        let answer = async move {
            Answer::Ended(match submitted {
                Ok(pending) => pending.answer().await,
                Err(error) => Err(error),
            })
        };
        let answer = Box::pin(unconstrained(answer));
        let question = Question::End { transaction: number, to };
        self.run.world.lock().waiting.push(Waiting { question, answer });
    }

    /// A batch comes of a transaction that has ended: a zombie's, or a retry's.
    async fn late(&mut self, at: usize) {
        let late = {
            let world = self.run.world.lock();
            let model = &world.model;
            let ended = |number: &usize| {
                let transaction = &model.transactions[*number];
                transaction.producer == at && transaction.ended_in == Some(model.life)
            };
            let Some(number) = (0..model.transactions.len()).rev().find(ended) else { return };
            let transaction = &model.transactions[number];
            let to: Vec<usize> = transaction.partitions.iter().copied().collect();
            let partition = *self.chance.pick(&to);
            let sequence = model.producers[at].sequences.get(&partition).copied().unwrap_or(0);
            let part = Part { ordinal: ordinal(number), version: transaction.version };
            (number, partition, (at, transaction.epoch, sequence), part)
        };
        let (number, partition, by, part) = late;
        let (batch, _) = self.batch(usize::MAX, Some(by));
        self.submit(partition, batch, Some(part), Question::Late { transaction: number }).await;
    }

    /// Segments roll, old records go, and newer ones of a key take the place of older ones.
    async fn maintain(&mut self, at: usize) {
        let log = self.opened.logs[at].clone();
        let roll = if self.chance.one_in(3) { Roll::WhenDue } else { Roll::Now };
        let Ok(settled) = tokio::time::timeout(PATIENCE, log.settle(roll)).await else {
            return self.run.fail("waited for ever until a partition was settled");
        };
        self.harvest();
        let Ok(settled) = settled else { return };
        if self.run.plan.deletes && self.chance.one_in(3) {
            let offsets = log.offsets();
            let span = (offsets.log_end.0 - offsets.log_start.0).unsigned_abs();
            let to = offsets.log_start.plus(self.chance.below(span + 1) as i64);
            let removed = log.remove_below(&settled, to.min(settled.durable()));
            self.run.trace.note(format_args!("{at}: deleted to {to}: {removed:?}"));
        }
        let Some(delete_retention_ms) = self.run.plan.table else { return };
        let how = Compaction {
            now_ms: self.run.clock.now_ms(),
            before: Offset(i64::MAX),
            delete_retention_ms,
            map_bytes_max: *self.chance.pick(&[50, 100, 10_000]),
            hash_key: [1, 2],
            call_off: Arc::default(),
        };
        let done = log.compact(&settled, &how);
        self.run.trace.note(format_args!("{at}: compacted: {done:?}"));
    }

    /// All faults end, every answer comes, and every transaction ends.
    pub(super) async fn quiesce(&mut self) {
        self.run.trace.note(format_args!("quiet"));
        self.run.disk.fill(None);
        self.run.disk.expect(Ahead::default());
        for _ in 0..20 {
            for producer in 0..4 {
                self.end(producer).await;
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
            self.harvest();
        }
        let mut world = self.run.world.lock();
        if !world.waiting.is_empty() {
            return world.model.fail("somebody was never answered");
        }
        let is_online = |log: &PartitionLog| matches!(log.status(), LogStatus::Online);
        if self.opened.logs.iter().all(is_online) && is_online(&self.opened.decisions) {
            let open = world.model.transactions.iter().position(|transaction| !transaction.is_completed);
            if let Some(open) = open {
                return world.model.fail(format!("transaction {open} does not end"));
            }
            for (at, log) in self.opened.logs.iter().enumerate() {
                world.model.partitions[at].reader = log.offsets().log_start.0;
                while read(&mut world.model, at, log) {}
                let (reader, end) = (world.model.partitions[at].reader, log.offsets().log_end.0);
                if reader != end {
                    world.model.fail(format!("{at}: nothing is open, and it is read to {reader} of {end}"));
                }
            }
        }
    }
}
