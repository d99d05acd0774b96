//! What the broker said, and so what must be true of it from then on.

pub(crate) mod batch;
pub(crate) mod offsets;
pub(crate) mod partition;
pub(crate) mod producers;
pub(crate) mod table;
pub(crate) mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use anabranch_broker::group::GroupError;
use anabranch_broker::group::event::{Joined, Synced};
use anabranch_broker::{
    AppendError, At, DeleteRecordsError, LogStatus, Partition, ProduceError, Produced, ProducerIdError,
    Timestamped, TopicError,
};
use anabranch_core::batch::split_batches;
use anabranch_core::{Offset, ProducerEpoch, ProducerId, TopicId, TopicPartition};
use bytes::Bytes;

use self::batch::{BatchNumber, Key, Sent, identify};
use self::offsets::CommittedModels;
use self::partition::{PartitionModel, Placed, Strength};
use self::producers::{ProducerModel, Stream};
use self::topics::{Fate, TopicModel};
use crate::clients::Member;
use crate::clock::SimClock;
use crate::disk::{Fault, Happened, SimDisk};
use crate::trace::Trace;

/// Where the broker lives on the disk.
pub(crate) const DATA: &str = "/data";

/// A question to the broker that has no answer yet. The future is polled by whoever wants to know, so that an answer
/// counts from the moment in which it is given.
pub(crate) struct Waiting {
    pub(crate) question: Question,
    pub(crate) future: Pin<Box<dyn Future<Output = Answer> + Send>>,
    /// Kept until nobody else is in the middle of anything: whoever drops the last of it closes files.
    pub(crate) keeps: Option<Partition>,
}

/// What was asked.
#[derive(Debug)]
pub(crate) enum Question {
    Produce { batch: BatchNumber, strength: Strength },
    Create { topic: usize },
    Delete { topic: usize },
    Alter { topic: usize },
    Grow { topic: usize },
    Commit { offsets: Vec<((String, Key), i64)> },
    DeleteRecords { key: Key },
    Join { member: usize },
    Sync { member: usize },
    ProducerId,
}

/// What came back.
#[derive(Debug)]
pub(crate) enum Answer {
    Produced(Result<Produced, ProduceError>),
    Created(Result<TopicId, TopicError>),
    Changed(Result<(), TopicError>),
    Deleted(Result<Offset, DeleteRecordsError>),
    Committed(Result<Vec<Result<(), GroupError>>, GroupError>),
    Joined(Result<Joined, GroupError>),
    Synced(Result<Synced, GroupError>),
    ProducerId(Result<(ProducerId, ProducerEpoch), ProducerIdError>),
}

/// A batch that was read.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) base: i64,
    pub(crate) number: BatchNumber,
    /// The places of its records that are there.
    pub(crate) there: Vec<usize>,
}

/// The clients' side of everything.
pub(crate) struct World {
    pub(crate) trace: Trace,
    pub(crate) disk: SimDisk,
    pub(crate) clock: Arc<SimClock>,
    /// The first thing that went wrong.
    pub(crate) failure: Option<String>,
    pub(crate) sent: Vec<Sent>,
    pub(crate) topics: Vec<TopicModel>,
    pub(crate) partitions: BTreeMap<Key, PartitionModel>,
    pub(crate) producers: Vec<ProducerModel>,
    pub(crate) producer_ids: BTreeSet<i64>,
    pub(crate) committed: CommittedModels,
    pub(crate) members: Vec<Member>,
    pub(crate) waiting: Vec<Waiting>,
    /// See [`Waiting::keeps`].
    pub(crate) kept: Vec<Partition>,
    /// What the disk did in this life.
    pub(crate) faults: Vec<Happened>,
    /// So many of them while the broker opened.
    pub(crate) opening_faults: usize,
    /// The broker is closing: it may refuse what it is asked.
    pub(crate) closing: bool,
    /// The file in which a bit was changed last, and which.
    pub(crate) flipped: Option<(PathBuf, u64, u8)>,
    /// The partition that has stopped for want of a snapshot, in which the bit was changed.
    pub(crate) snapshot_lost: Option<Key>,
}

impl World {
    pub(crate) fn new(trace: Trace, disk: SimDisk, clock: Arc<SimClock>) -> Self {
        Self {
            trace,
            disk,
            clock,
            failure: None,
            sent: Vec::new(),
            topics: Vec::new(),
            partitions: BTreeMap::new(),
            producers: Vec::new(),
            producer_ids: BTreeSet::new(),
            committed: CommittedModels::new(),
            members: Vec::new(),
            waiting: Vec::new(),
            kept: Vec::new(),
            faults: Vec::new(),
            opening_faults: 0,
            closing: false,
            flipped: None,
            snapshot_lost: None,
        }
    }

    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.trace.note(format_args!("WRONG: {what}"));
        self.failure.get_or_insert(what);
    }

    pub(crate) fn check<T>(&mut self, whose: &str, outcome: Result<T, String>) {
        if let Err(what) = outcome {
            self.fail(format!("{whose}: {what}"));
        }
    }

    pub(crate) fn name(&self, key: Key) -> TopicPartition {
        TopicPartition::new(self.topics[key.0].name.clone(), key.1)
    }

    /// The partitions of topics that are there and stay.
    pub(crate) fn present(&self) -> Vec<Key> {
        let there = self.topics.iter().enumerate().filter(|(_, topic)| topic.fate == Fate::There);
        there.flat_map(|(at, topic)| (0..topic.partitions.0).map(move |number| (at, number))).collect()
    }

    /// Takes every answer that has come. From a dead process none comes any more.
    pub(crate) fn harvest(&mut self) {
        self.kept.clear();
        self.harvest_if(|_| true);
    }

    /// The same in the middle of a call of the disk, where nothing must be done but look.
    pub(crate) fn glean(&mut self) {
        self.harvest_if(|question| {
            matches!(question, Question::Produce { .. } | Question::Commit { .. } | Question::ProducerId)
        });
    }

    fn harvest_if(&mut self, is_wanted: impl Fn(&Question) -> bool) {
        if self.disk.is_dead() {
            return;
        }
        for mut waiting in std::mem::take(&mut self.waiting) {
            if !is_wanted(&waiting.question) {
                self.waiting.push(waiting);
                continue;
            }
            match waiting.future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => self.waiting.push(waiting),
                Poll::Ready(answer) => {
                    self.kept.extend(waiting.keeps);
                    self.answered(waiting.question, answer);
                }
            }
        }
    }

    pub(crate) fn answered(&mut self, question: Question, answer: Answer) {
        match (question, answer) {
            (Question::Produce { batch, strength }, Answer::Produced(answer)) => {
                self.produced(batch, strength, answer);
            }
            (Question::Create { topic }, Answer::Created(answer)) => {
                self.trace.note(format_args!("topic {topic} created: {answer:?}"));
                self.topics[topic].busy = false;
                match answer {
                    Ok(id) => {
                        self.topics[topic].id = Some(id);
                        self.topics[topic].fate = Fate::There;
                    }
                    Err(TopicError::Storage(_)) => {}
                    Err(_) if self.closing => {}
                    Err(error) => self.fail(format!("topic {topic} was not created: {error}")),
                }
            }
            (Question::Delete { topic }, Answer::Changed(answer)) => {
                self.trace.note(format_args!("topic {topic} deleted: {answer:?}"));
                self.topics[topic].busy = false;
                match answer {
                    Ok(()) => self.gone(topic),
                    Err(TopicError::Storage(_)) => {}
                    Err(_) if self.closing => {}
                    Err(error) => self.fail(format!("topic {topic} was not deleted: {error}")),
                }
            }
            (Question::Alter { topic }, Answer::Changed(answer)) => {
                self.trace.note(format_args!("topic {topic} altered: {answer:?}"));
                let model = &mut self.topics[topic];
                model.busy = false;
                match answer {
                    Ok(()) => model.configs = model.configs_asked.take().expect("it was asked for"),
                    Err(TopicError::Storage(_)) => {}
                    Err(_) if self.closing => {}
                    Err(error) => self.fail(format!("topic {topic} was not altered: {error}")),
                }
            }
            (Question::Grow { topic }, Answer::Changed(answer)) => {
                self.trace.note(format_args!("topic {topic} grown: {answer:?}"));
                let model = &mut self.topics[topic];
                model.busy = false;
                match answer {
                    Ok(()) => model.partitions.0 = model.partitions.1,
                    Err(TopicError::Storage(_)) => {}
                    Err(_) if self.closing => {}
                    Err(error) => self.fail(format!("topic {topic} did not grow: {error}")),
                }
            }
            (Question::DeleteRecords { key }, Answer::Deleted(answer)) => {
                self.trace.note(format_args!("{key:?} begins at {answer:?}"));
                // Of two that were under way together, the answers may come in any order.
                if let (Ok(start), Fate::There) = (answer, self.topics[key.0].fate)
                    && self.partitions.get(&key).is_some_and(|model| model.start < start.0)
                {
                    self.starts(key, start.0);
                }
            }
            (Question::Commit { offsets }, Answer::Committed(answer)) => {
                self.commit_answered(offsets, answer);
            }
            (Question::Join { member }, Answer::Joined(answer)) => {
                self.trace.note(format_args!("member {member} joined: {}", brief(&answer)));
                self.members[member].joined(answer.ok());
            }
            (Question::Sync { member }, Answer::Synced(answer)) => {
                self.trace.note(format_args!("member {member} synced: {}", brief(&answer)));
                self.members[member].synced(answer.is_ok());
            }
            (Question::ProducerId, Answer::ProducerId(answer)) => {
                self.trace.note(format_args!("producer id: {answer:?}"));
                if let Ok((id, epoch)) = answer {
                    if !self.producer_ids.insert(id.0) {
                        self.fail(format!("producer id {id} was given twice"));
                    }
                    let streams = BTreeMap::new();
                    self.producers.push(ProducerModel { id, epoch, streams, retired: false });
                }
            }
            (question, answer) => self.fail(format!("{question:?} was answered with {answer:?}")),
        }
    }

    fn commit_answered(
        &mut self,
        offsets: Vec<((String, Key), i64)>,
        answer: Result<Vec<Result<(), GroupError>>, GroupError>,
    ) {
        self.trace.note(format_args!("commit {offsets:?}: {answer:?}"));
        let Ok(answers) = answer else { return };
        for ((of, offset), answer) in offsets.into_iter().zip(answers) {
            if answer.is_ok()
                && let Some(model) = self.committed.get_mut(&of)
            {
                model.sure = model.sure.max(Some(offset));
            }
        }
    }

    /// A topic is gone, with all that was in it and was committed for it.
    pub(crate) fn gone(&mut self, topic: usize) {
        self.topics[topic].fate = Fate::Gone;
        self.partitions.retain(|key, _| key.0 != topic);
        self.committed.retain(|(_, key), _| key.0 != topic);
        for producer in &mut self.producers {
            producer.streams.retain(|key, _| key.0 != topic);
        }
    }

    fn produced(&mut self, batch: BatchNumber, strength: Strength, answer: Result<Produced, ProduceError>) {
        let key = self.sent[batch].key;
        if let Ok(produced) = &answer
            && self.topics[key.0].fate != Fate::Gone
        {
            self.trace.note(format_args!("batch {batch}: at {} {strength:?}", produced.base_offset));
            self.placed(batch, produced.base_offset.0, strength);
            self.advance(batch);
        }
        self.sent[batch].open -= 1;
        let Err(answer) = answer else { return };
        if self.topics[key.0].fate == Fate::Gone {
            return;
        }
        self.trace.note(format_args!("batch {batch}: {answer}"));
        let going = self.closing || self.topics[key.0].fate != Fate::There;
        match &answer {
            ProduceError::Log(AppendError::WriteFailed(_)) => {}
            ProduceError::Log(AppendError::OutOfOrderSequence { .. }) => self.out_of_order(batch),
            ProduceError::Log(AppendError::Stopped(fault)) => {
                self.sent[batch].unsure = true;
                if !self.may_stop(key) {
                    self.fail(format!("{} stopped: {fault}", self.name(key)));
                }
            }
            ProduceError::Log(AppendError::Closed) | ProduceError::Unknown(_) if going => {
                self.sent[batch].unsure = true;
            }
            _ => self.fail(format!("batch {batch} was refused: {answer}")),
        }
        if let Some(stream) = self.stream_of(batch)
            && !matches!(answer, ProduceError::Log(AppendError::OutOfOrderSequence { .. }))
        {
            stream.broken = true;
        }
    }

    fn stream_of(&mut self, batch: BatchNumber) -> Option<&mut Stream> {
        let Sent { key, producer, .. } = self.sent[batch];
        self.producers[producer?.0].streams.get_mut(&key)
    }

    fn advance(&mut self, batch: BatchNumber) {
        let Sent { key, producer, .. } = self.sent[batch];
        let Some((producer, _)) = producer else { return };
        let Some(stream) = self.producers[producer].streams.get_mut(&key) else { return };
        while stream.batches.get(stream.answered).is_some_and(|next| self.sent[*next].at.is_some()) {
            stream.answered += 1;
        }
    }

    /// A sequence was refused: rightly, if something before it is missing, or it is older than what is remembered.
    fn out_of_order(&mut self, batch: BatchNumber) {
        let key = self.sent[batch].key;
        let is_there = self.sent[batch].at.is_some();
        let Some((producer, _)) = self.sent[batch].producer else {
            return self.fail(format!("batch {batch} has no producer, and is out of order"));
        };
        let Some(stream) = self.producers[producer].streams.get_mut(&key) else { return };
        let at = stream.batches.iter().position(|other| *other == batch).expect("it is of this stream");
        let later = stream.batches.len() - 1 - at;
        let before_it = stream.batches[..at].iter().all(|other| self.sent[*other].at.is_some());
        let after_it = stream.batches[at + 1..].iter().any(|other| self.sent[*other].at.is_some());
        let rightly = match is_there {
            true => later >= producers::IN_FLIGHT_MAX,
            // Another attempt was taken back with others, and that answer is on its way.
            false => !before_it || after_it || stream.broken || self.sent[batch].open > 0,
        };
        if !is_there {
            stream.broken = true;
        }
        if !rightly && !self.partitions.get(&key).is_some_and(|model| model.damaged) {
            self.fail(format!("batch {batch} was refused as out of order, and is not (there: {is_there})"));
        }
    }

    /// Somebody was told where a partition begins.
    pub(crate) fn starts(&mut self, key: Key, start: i64) {
        let expires = self.topics[key.0].expires;
        let outcome = self.partitions.entry(key).or_default().starts(start, expires);
        let whose = self.name(key).to_string();
        self.check(&whose, outcome);
    }

    /// Somebody was told that the batch is at `base`.
    pub(crate) fn placed(&mut self, batch: BatchNumber, base: i64, strength: Strength) {
        let sent = &mut self.sent[batch];
        if sent.at.is_some_and(|at| at != base) {
            let first = sent.at.unwrap_or_default();
            return self.fail(format!("batch {batch} is in the log twice: at {first} and at {base}"));
        }
        if sent.is_refused() {
            return self.fail(format!("batch {batch} was refused, and is in the log at {base}"));
        }
        sent.at = Some(base);
        let (key, records) = (sent.key, sent.records);
        let model = self.partitions.entry(key).or_default();
        // Deleted meanwhile, it may be told of late.
        if base + i64::from(records) <= model.start {
            return;
        }
        let outcome = model.place(base, Placed { batch, records, strength });
        let whose = self.name(key).to_string();
        self.check(&whose, outcome);
    }

    /// Somebody read these bytes of a partition from offset `from` on. What follows them, and which batches they are.
    pub(crate) fn read(
        &mut self,
        key: Key,
        from: i64,
        batches: Bytes,
        strength: Strength,
    ) -> (i64, Vec<Found>) {
        let in_table = self.topics[key.0].table.is_some();
        let (mut next, mut found, mut is_first) = (from, Vec::new(), true);
        let whose = self.name(key).to_string();
        for batch in split_batches(batches) {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    self.fail(format!("{whose}: what was served after offset {next} is no batch: {error}"));
                    break;
                }
            };
            let (base, last) = (batch.header().base_offset.0, batch.header().last_offset().0);
            let joins = match (std::mem::take(&mut is_first), in_table) {
                (true, false) => base <= next && next <= last,
                (false, false) => base == next,
                (true, true) => next <= last,
                (false, true) => next <= base,
            };
            if !joins {
                self.fail(format!("{whose}: offset {next} was asked for, and {base} to {last} served"));
                break;
            }
            match identify(&batch, &self.sent, in_table) {
                Err(what) => self.fail(format!("{whose}: what was served at offset {base} {what}")),
                Ok(Some((number, _))) if self.sent[number].key != key => {
                    self.fail(format!("{whose}: batch {number} of another partition was served at {base}"));
                }
                Ok(Some((number, there))) => {
                    self.placed(number, base, strength);
                    self.advance(number);
                    found.push(Found { base, number, there });
                }
                Ok(None) => {}
            }
            next = last + 1;
            if self.failure.is_some() {
                break;
            }
        }
        (next, found)
    }

    /// Somebody was told where a time is, in a log that starts at `start`. Nothing that is known to be shown, with this
    /// strength, may contradict it; in a table most of that may be gone.
    pub(crate) fn located(
        &mut self,
        key: Key,
        at: At,
        found: Option<Timestamped>,
        start: i64,
        shown: Strength,
    ) {
        let is_asked = |timestamp_ms: i64| match at {
            At::Time(asked_ms) => timestamp_ms >= asked_ms,
            At::MaxTimestamp => found.is_none_or(|found| timestamp_ms > found.timestamp_ms),
            At::Earliest | At::Latest => false,
        };
        if matches!(at, At::Earliest | At::Latest) {
            return;
        }
        let in_table = self.topics[key.0].table.is_some();
        let known = self.partitions.get(&key).into_iter().flat_map(|model| model.known.iter());
        let known = known.flat_map(|(base, placed)| {
            (*base..)
                .zip(&self.sent[placed.batch].contents)
                .map(|(offset, record)| (offset, record, placed.strength))
        });
        let mut wrong = None;
        for (offset, record, strength) in known.filter(|(offset, ..)| *offset >= start) {
            match found {
                Some(found) if found.offset.0 == offset => {
                    let is_right = found.timestamp_ms == record.timestamp_ms
                        && (at == At::MaxTimestamp || is_asked(record.timestamp_ms));
                    wrong = wrong.or((!is_right).then_some((offset, record.timestamp_ms)));
                }
                _ if in_table || strength < shown => {}
                // Of the first that is late enough all before are too early; of the latest, all are earlier.
                Some(found) if at != At::MaxTimestamp && offset > found.offset.0 => {}
                _ => wrong = wrong.or(is_asked(record.timestamp_ms).then_some((offset, record.timestamp_ms))),
            }
        }
        if let Some((offset, timestamp_ms)) = wrong {
            let name = self.name(key);
            self.fail(format!(
                "{name}: {at:?} is at {found:?}, and the time at offset {offset} is {timestamp_ms}"
            ));
        }
    }

    /// Whether the batch is in the log, or nothing more will come of it.
    pub(crate) fn is_settled(&self, batch: BatchNumber) -> bool {
        self.sent[batch].at.is_some() || self.failure.is_some()
    }

    /// The disk's faults up to now were those of the opening.
    pub(crate) fn opened(&mut self) {
        self.faults.extend(self.disk.happened());
        self.opening_faults = self.faults.len();
    }

    /// How sure it is of what readers are shown.
    pub(crate) fn shown_strength(&self, key: Key) -> Strength {
        if self.topics[key.0].relaxed { Strength::Written } else { Strength::Durable }
    }

    /// Whether the disk gave the partition a reason to stop in this life, or for ever.
    pub(crate) fn may_stop(&mut self, key: Key) -> bool {
        self.faults.extend(self.disk.happened());
        let topics = Path::new(DATA).join("topics");
        let directory = topics.join(&self.topics[key.0].name).join(key.1.to_string());
        let concerns = |path: &Path| path.starts_with(&directory) || !path.starts_with(&topics);
        let stops = |fault: Fault| {
            // A change of names that fails in the middle of a swap of segments leaves it there.
            matches!(
                fault,
                Fault::SyncFailed | Fault::DirectorySyncFailed | Fault::ReadFailed | Fault::ChangeFailed
            )
        };
        // Recovery gives up where it cannot write, and so does the journal; a segment takes such a write back.
        let opening = self.opening_faults;
        let reason = |(at, it): (usize, &Happened)| {
            let path = Path::new(&it.path);
            (at < opening || stops(it.fault) || !path.starts_with(&topics)) && concerns(path)
        };
        self.partitions.get(&key).is_some_and(|model| model.damaged)
            || self.faults.iter().enumerate().any(reason)
    }

    /// Whether the partition works; it must, unless the disk gave a reason.
    pub(crate) fn works(&mut self, key: Key, partition: &Partition) -> bool {
        match partition.status() {
            LogStatus::Online => true,
            LogStatus::Closed => false,
            LogStatus::Stopped(fault) => {
                if !self.may_stop(key) {
                    self.fail(format!("{} stopped, and the disk is well: {fault}", self.name(key)));
                }
                false
            }
        }
    }
}

fn brief<T, E: std::fmt::Debug>(answer: &Result<T, E>) -> String {
    answer.as_ref().map_or_else(|error| format!("{error:?}"), |_| "yes".to_owned())
}
