//! The end of a transaction: one record decides it, and a marker in each of its partitions carries it out.
//!
//! For each end there is one record whose durability decides it, [`End::prepared`]. Before, no start finds any of the markers;
//! after, whoever opens the store again completes all of them before anybody reads, by an end of which nothing is prepared.
//!
//! Where the journal takes them, the record of the end and all of its markers are one entry of it, and are written to their
//! segments afterwards: one sync, and nothing in between. Space for them is set aside before, since there is no way back then.
//! Otherwise each step is durable before the next one begins:
//!
//! 1. what the transaction has written, also where durability is relaxed: it is decided about what is there, and nothing is
//!    committed of which a part may be lost;
//! 2. `prepared`. An end that fails up to here has not happened;
//! 3. the markers. Where one cannot be written, it is [missing](Ended::missing);
//! 4. `completed`, if nothing is missing. Until it is durable, the next start ends the transaction again, where it is open.
//!
//! Without markers there is nothing to carry out, and `completed` decides. What the transaction has written is made durable
//! first either way.

use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_core::batch::{Batch, EndKind, EndMarker};
use anabranch_core::planted::{self, Bug};
use tokio::sync::oneshot;

use crate::active::{Now, PartitionWriter};
use crate::journal::entry::Item;
use crate::partition::{Ack, Appended, Shared};
use crate::writer::{Append, Writer};
use crate::{AppendError, Part, PartitionLog, Store};

/// How a transaction ends.
#[derive(Debug, Clone)]
pub struct End {
    /// Where the records of the decision go.
    pub decision: PartitionLog,
    /// The decision; `None` if it is durable.
    pub prepared: Option<Batch>,
    /// The decision, carried out.
    pub completed: Batch,
    /// The markers ([`anabranch_core::batch::EndMarker`]), at most one for a partition.
    pub markers: Vec<(PartitionLog, Batch)>,
    /// `transaction.version`: by which rules the partitions take them.
    pub version: i8,
    /// Of the transaction: what comes after its marker with this or an older one is refused.
    pub ordinal: u64,
}

/// What has become of an end, which is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What is to be tried again, by places in [`End::markers`]: partitions that have stopped or whose disk is full. All of
    /// them if only the record that completes the end could not be written. Empty when everything is done, durably.
    pub missing: Vec<usize>,
}

/// An end that is queued. Dropping it does not take the end back.
#[derive(Debug)]
pub struct PendingEnd {
    answer: oneshot::Receiver<Result<Ended, AppendError>>,
}

impl PendingEnd {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// [`AppendError`]: nothing has happened, except after [`AppendError::Stopped`] and [`AppendError::Closed`], when it is
    /// not known; the next start tells. A commit is refused as [`AppendError::Stopped`] where what was written without a
    /// sync may be lost; an abort is not.
    pub async fn answer(self) -> Result<Ended, AppendError> {
        self.answer.await.unwrap_or(Err(AppendError::Closed))
    }
}

/// An end on its way to the writer.
#[derive(Debug)]
pub(crate) struct QueuedEnd {
    decision: u64,
    prepared: Option<Batch>,
    completed: Batch,
    markers: Vec<Marker>,
    part: Part,
    reply: oneshot::Sender<Result<Ended, AppendError>>,
}

#[derive(Debug)]
struct Marker {
    partition: u64,
    shared: Arc<Shared>,
    batch: Batch,
}

impl Store {
    /// Queues the end of a transaction behind everything queued before. All its partitions must be of this store. Batches
    /// that are queued behind it and come into the same group are written before its markers, as if they had come earlier.
    ///
    /// # Errors
    /// [`AppendError::Closed`].
    pub async fn submit_end(&self, end: End) -> Result<PendingEnd, AppendError> {
        let (reply, answer) = oneshot::channel();
        let marker = |(log, batch): (PartitionLog, Batch)| Marker {
            partition: log.number,
            shared: Arc::clone(&log.shared),
            batch,
        };
        let markers = end.markers.into_iter().map(marker).collect();
        let queued = QueuedEnd {
            decision: end.decision.number,
            prepared: end.prepared,
            completed: end.completed,
            markers,
            part: Part { ordinal: end.ordinal, version: end.version },
            reply,
        };
        self.queue().end_transaction(queued).await?;
        Ok(PendingEnd { answer })
    }
}

/// A batch that was staged, and what has become of it.
type Outcome = oneshot::Receiver<Result<Appended, AppendError>>;

impl Writer {
    /// Does the ends of a group, after its appends.
    pub(crate) fn end_transactions(&mut self, ends: Vec<QueuedEnd>) {
        if ends.is_empty() {
            return;
        }
        let is_unsynced = |number: &u64| self.partitions.get(number).is_some_and(PartitionWriter::is_busy);
        let unsynced: Vec<u64> = ends.iter().flat_map(QueuedEnd::partitions).filter(is_unsynced).collect();
        if !planted::is(Bug::DecidedBeforeData) {
            self.sync_now(unsynced);
        }

        let mut sure = Vec::with_capacity(ends.len());
        for end in ends {
            match self.lost(&end) {
                Some(error) => drop(end.reply.send(Err(error))),
                None => sure.push(end),
            }
        }
        let stepwise = self.end_at_once(sure);
        self.end_stepwise(stepwise);
    }

    /// Does the ends that one entry of the journal takes, and gives the others back.
    fn end_at_once(&mut self, ends: Vec<QueuedEnd>) -> Vec<QueuedEnd> {
        let now = Now::of(self.clock.as_ref());
        let (item_bytes, payload_bytes) =
            ends.iter().flat_map(|end| self.runs(end)).fold((0, 0), |sum, run| {
                let (topic, batch) = run;
                (sum.0 + Item::run_bytes(topic), sum.1 + batch.bytes().len())
            });
        let mut group = match self.journal.group(item_bytes + payload_bytes, now.monotonic) {
            Ok(group) if group.has_room(item_bytes, payload_bytes) => group,
            Ok(_) => return ends,
            Err(fault) => {
                self.journal_failed(&fault);
                return ends;
            }
        };

        let (mut staged, mut left) = (Vec::new(), Vec::new());
        for end in ends {
            if !self.takes_ahead(&end, now) {
                left.push(end);
                continue;
            }
            let completed = self.stage_in(end.decision, end.completed.clone(), None);
            let markers = self.stage_markers(&end);
            staged.push((end, completed, markers));
        }
        let partitions = staged.iter().flat_map(|(end, ..)| end.partitions().chain([end.decision]));
        let partitions: BTreeSet<u64> = partitions.collect();
        for number in &partitions {
            let partition = &self.partitions[number];
            assert!(partition.journal_staged(*number, &mut group), "there is room for all ends");
        }
        if group.is_empty() {
            return left;
        }
        if planted::is(Bug::EndWrittenAhead) {
            partitions.iter().for_each(|number| self.partitions[number].write_ahead());
        }
        let committed = self.journal.commit(group);
        if let Err(fault) = &committed {
            self.journal_failed(fault);
        }
        for number in &partitions {
            let partition = self.partitions.get_mut(number).expect("something is staged in it");
            match &committed {
                Ok(()) => partition.write_journaled(now),
                Err(fault) => partition.stop_staged(fault),
            }
        }
        self.save_derived(&Vec::from_iter(partitions), now);
        for (end, completed, markers) in staged {
            let missing = missing(&end, markers);
            let _ = end.reply.send(self.outcome(end.decision, completed).map(|()| Ended { missing }));
        }
        left
    }

    /// The batches that one end writes where it needs no decision before, with their topics.
    fn runs<'a>(&'a self, end: &'a QueuedEnd) -> impl Iterator<Item = (&'a str, &'a Batch)> {
        let decision = self.partitions.get(&end.decision).map(|partition| &*partition.shared);
        let decision = decision.map(|shared| (shared.id.topic.as_str(), &end.completed));
        let marker = |marker: &'a Marker| (marker.shared.id.topic.as_str(), &marker.batch);
        end.markers.iter().map(marker).chain(decision)
    }

    /// Whether everything that an end writes can be staged, to be journaled before it is written.
    fn takes_ahead(&mut self, end: &QueuedEnd, now: Now) -> bool {
        let markers = end.markers.iter().map(|marker| (marker.partition, &marker.batch, Some(end.part)));
        markers.chain([(end.decision, &end.completed, None)]).all(|(number, batch, part)| {
            let partition = self.partitions.get_mut(&number);
            partition.is_some_and(|partition| partition.takes_ahead(batch, part, now.wall_ms))
        })
    }

    /// Does ends step by step, all of them together.
    fn end_stepwise(&mut self, ends: Vec<QueuedEnd>) {
        let mut deciding = Vec::with_capacity(ends.len());
        for end in ends {
            let record = match end.markers.is_empty() {
                true => Some(end.completed.clone()),
                false => end.prepared.clone(),
            };
            let outcome = record.map(|record| self.stage_in(end.decision, record, None));
            deciding.push((end, outcome));
        }
        let staged = deciding.iter().filter(|(_, outcome)| outcome.is_some());
        let decisions = staged.map(|(end, _)| end.decision).collect();
        if !planted::is(Bug::MarkerBeforeDecision) {
            self.sync_now(decisions);
        }

        let mut marking = Vec::new();
        for (end, outcome) in deciding {
            let outcome = outcome.filter(|_| !planted::is(Bug::MarkerBeforeDecision));
            match outcome.map_or(Ok(()), |outcome| self.outcome(end.decision, outcome)) {
                Err(error) => drop(end.reply.send(Err(error))),
                Ok(()) if end.markers.is_empty() => {
                    let _ = end.reply.send(Ok(Ended { missing: Vec::new() }));
                }
                Ok(()) => {
                    let outcomes = self.stage_markers(&end);
                    marking.push((end, outcomes));
                }
            }
        }
        let markers = marking.iter().flat_map(|(end, _)| &end.markers);
        let marked: Vec<u64> = markers.map(|marker| marker.partition).collect();
        if !planted::is(Bug::CompletedBeforeMarkers) {
            self.sync_now(marked.clone());
        }

        let mut completing = Vec::new();
        for (end, outcomes) in marking {
            let missing = missing(&end, outcomes);
            if missing.is_empty() || planted::is(Bug::CompletedBeforeMarkers) {
                let outcome = self.stage_in(end.decision, end.completed.clone(), None);
                completing.push((end, outcome));
            } else {
                let _ = end.reply.send(Ok(Ended { missing }));
            }
        }
        self.sync_now(completing.iter().map(|(end, _)| end.decision).collect());
        if planted::is(Bug::CompletedBeforeMarkers) {
            self.sync_now(marked);
        }
        for (end, outcome) in completing {
            let missing = match self.outcome(end.decision, outcome) {
                Ok(()) => Vec::new(),
                Err(_) => (0..end.markers.len()).collect(),
            };
            let _ = end.reply.send(Ok(Ended { missing }));
        }
    }

    /// Why a transaction must not be committed: what it wrote may not survive.
    fn lost(&self, end: &QueuedEnd) -> Option<AppendError> {
        end.prepared.as_ref()?;
        let commits = |marker: &&Marker| {
            matches!(marker.batch.end_marker(), Ok(Some(EndMarker { kind: EndKind::Commit, .. })))
        };
        let partitions =
            end.markers.iter().filter(commits).map(|marker| self.partitions.get(&marker.partition));
        partitions.flatten().find(|partition| partition.is_lost)?.shared.stopped()
    }

    fn stage_markers(&mut self, end: &QueuedEnd) -> Vec<Outcome> {
        let stage = |marker: &Marker| self.stage_in(marker.partition, marker.batch.clone(), Some(end.part));
        end.markers.iter().map(stage).collect()
    }

    /// Stages a batch that is not in the group: its own step makes it durable.
    fn stage_in(&mut self, number: u64, batch: Batch, part: Option<Part>) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let append = Append { partition: number, batch, part, expected: None, ack: Ack::Durable, reply };
        self.stage_only(append, Now::of(self.clock.as_ref()));
        outcome
    }

    /// After a sync: whether a batch is durable.
    fn outcome(&self, number: u64, mut outcome: Outcome) -> Result<(), AppendError> {
        outcome.try_recv().unwrap_or(Err(AppendError::Closed))?;
        // Where durability is relaxed, the answer does not tell.
        let stopped = self.partitions.get(&number).and_then(|partition| partition.shared.stopped());
        stopped.map_or(Ok(()), Err)
    }

    /// Writes what is staged in these partitions and makes it durable, also where durability is relaxed.
    fn sync_now(&mut self, mut due: Vec<u64>) {
        if due.is_empty() {
            return;
        }
        let now = Now::of(self.clock.as_ref());
        due.sort_unstable();
        due.dedup();
        for number in &due {
            if let Some(partition) = self.partitions.get_mut(number) {
                let _ = partition.write(now); // whoever it concerns has been told
            }
        }
        self.sync_due(&due, now);
    }
}

impl QueuedEnd {
    fn partitions(&self) -> impl Iterator<Item = u64> {
        self.markers.iter().map(|marker| marker.partition)
    }
}

/// After a sync: the places of the markers that are to be written another time.
fn missing(end: &QueuedEnd, outcomes: Vec<Outcome>) -> Vec<usize> {
    let all = end.markers.iter().zip(outcomes).enumerate();
    all.filter_map(|(at, (marker, outcome))| is_missing(marker, outcome).then_some(at)).collect()
}

/// After a sync: whether a marker is to be written another time.
fn is_missing(marker: &Marker, mut outcome: Outcome) -> bool {
    let outcome = outcome.try_recv().unwrap_or(Err(AppendError::Closed));
    match (outcome, marker.shared.stopped()) {
        // The topic is deleted: nothing is needed.
        (_, Some(AppendError::Closed)) => false,
        (_, Some(_)) => true,
        (Ok(_), None) => false,
        // Somebody else has ended what was open here, and the producer or its coordinator have gone on.
        (
            Err(error @ (AppendError::InvalidProducerEpoch { .. } | AppendError::CoordinatorFenced { .. })),
            None,
        ) => {
            tracing::warn!(
                partition = %marker.shared.id, %error, "the end of a transaction is not written where it has ended"
            );
            false
        }
        (Err(_), None) => true,
    }
}
