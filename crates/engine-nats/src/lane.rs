//! Appends. Each partition has a lane: a task that stores one round at a time, so that what is tried again overtakes nothing.
//!
//! While a round is under way the next one gathers. A round of several messages is an atomic batch (NATS ADR-50), with an id on
//! its first message by which the server knows it again. Where the server has stored it before, it says so, but not where: that
//! is asked by a message with the same id that could never be stored ([`Lane::find`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{AppendOptions, Appended, EngineError, Position};
use async_nats::HeaderMap;
use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE,
    NATS_EXPECTED_LAST_SEQUENCE, NATS_MESSAGE_ID, NATS_MESSAGE_TTL, NATS_ROLLUP,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::describe::{append_bytes_max, record_bytes_max};
use crate::envelope::{Envelope, RECORD_HEADER};
use crate::link::{Ack, CallError, Link, answer, code};
use crate::names;
use crate::topics::{Plan, Topics};
use crate::trouble::Trouble;

/// Messages of one atomic batch; the server's default.
pub(crate) const ROUND_RECORDS_MAX: usize = 1_000;
/// Bytes of one atomic batch, where a single record is not larger. The server keeps a batch until it is committed.
pub(crate) const ROUND_BYTES_MAX: usize = 4 << 20;
/// Bytes of all appends of an engine that wait or are under way.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// What the smallest append counts for.
const APPEND_BYTES_MIN: usize = 1 << 10;
/// The headers of a batch, of an id and of an expiry, beside `Ab-Record`.
const HEADERS_BYTES: usize = 512;

/// For all messages of a round, and the answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a close waits for what is under way.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// All lanes of an engine.
#[derive(Debug)]
pub(crate) struct Lanes {
    shared: Arc<Shared>,
    budget: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    link: Link,
    topics: Topics,
    delivery_timeout: Duration,
    /// What tells the ids of this engine from those of all others.
    session: String,
    next_id: AtomicU64,
    /// `None` when they are closed. The lock is held for a look only.
    lanes: Mutex<Option<HashMap<TopicPartition, Handle>>>,
}

#[derive(Debug)]
struct Handle {
    queue: mpsc::UnboundedSender<Append>,
    /// Whoever waits for room has it, so that nobody goes past.
    turn: Arc<Semaphore>,
    task: JoinHandle<()>,
}

/// What the caller handed over.
#[derive(Debug)]
struct Append {
    records: Vec<Record>,
    how: AppendOptions,
    told: oneshot::Sender<Result<Appended, EngineError>>,
    room: OwnedSemaphorePermit,
}

impl Lanes {
    pub(crate) fn new(link: Link, topics: Topics, delivery_timeout: Duration, session: String) -> Self {
        let lanes = Mutex::new(Some(HashMap::new()));
        let next_id = AtomicU64::new(0);
        let shared = Shared { link, topics, delivery_timeout, session, next_id, lanes };
        Self { shared: Arc::new(shared), budget: Arc::new(Semaphore::new(WAITING_BYTES_MAX)) }
    }

    pub(crate) async fn append(
        &self,
        to: &TopicPartition,
        mut records: Vec<Record>,
        mut how: AppendOptions,
    ) -> Result<Appended, EngineError> {
        let bytes: usize = records.iter().map(Record::size_bytes).sum();
        let bytes = bytes.clamp(APPEND_BYTES_MIN, WAITING_BYTES_MAX) as u32;
        loop {
            let (queue, turn) = self.lane(to).ok_or(EngineError::Closed)?;
            let closed = |_| EngineError::Closed;
            let turn = turn.acquire_owned().await.map_err(closed)?;
            let room = Arc::clone(&self.budget).acquire_many_owned(bytes).await.map_err(closed)?;
            let (told, tells) = oneshot::channel();
            let sent = queue.send(Append { records, how, told, room });
            drop(turn);
            match sent {
                Ok(()) => return tells.await.unwrap_or_else(|_| Err(Trouble::Closed.about(to))),
                // The topic was not there; it may be now.
                Err(mpsc::error::SendError(back)) => (records, how) = (back.records, back.how),
            }
        }
    }

    fn lane(&self, to: &TopicPartition) -> Option<(mpsc::UnboundedSender<Append>, Arc<Semaphore>)> {
        let mut lanes = self.shared.lanes.lock();
        let lanes = lanes.as_mut()?;
        let handle = lanes.entry(to.clone()).or_insert_with(|| {
            let (queue, appends) = mpsc::unbounded_channel(); // the budget bounds it
            let lane = Lane { at: to.clone(), subject: names::subject(to), shared: Arc::clone(&self.shared) };
            let task = tokio::spawn(lane.run(appends, queue.clone().downgrade()));
            Handle { queue, turn: Arc::new(Semaphore::new(1)), task }
        });
        Some((handle.queue.clone(), Arc::clone(&handle.turn)))
    }

    /// Takes no more, and waits for what was handed over.
    pub(crate) async fn close(&self) {
        let lanes = self.shut();
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        for Handle { queue, task, .. } in lanes {
            drop(queue);
            let abort = task.abort_handle();
            if tokio::time::timeout_at(deadline, task).await.is_err() {
                abort.abort();
            }
        }
    }

    fn shut(&self) -> Vec<Handle> {
        self.budget.close();
        self.shared.lanes.lock().take().into_iter().flat_map(HashMap::into_values).collect()
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.shut(); // each ends when its queue is empty
    }
}

/// A record on its way.
#[derive(Debug, Clone)]
struct Message {
    subject: String,
    envelope: Envelope,
    ttl: Option<Duration>,
}

/// An append that can be stored.
#[derive(Debug)]
struct Ready {
    messages: Vec<Message>,
    bytes: usize,
    how: AppendOptions,
    told: oneshot::Sender<Result<Appended, EngineError>>,
    room: OwnedSemaphorePermit,
}

impl Ready {
    /// Whether it shares a round with nothing: what is said about it must not be said about others.
    fn is_alone(&self) -> bool {
        self.how.expected.is_some() || self.how.id.is_some()
    }
}

/// What is stored at once.
#[derive(Debug)]
struct Round {
    messages: Vec<Message>,
    /// On the first message, so that the server looks at it before it looks at what is expected.
    id: String,
    expected: Option<Position>,
}

struct Stored {
    /// The sequence of the first message.
    first: u64,
    /// By an earlier attempt, ours or the caller's.
    before: bool,
}

#[derive(Debug)]
struct Lane {
    at: TopicPartition,
    subject: String,
    shared: Arc<Shared>,
}

impl Lane {
    async fn run(
        self,
        mut appends: mpsc::UnboundedReceiver<Append>,
        queue: mpsc::WeakUnboundedSender<Append>,
    ) {
        let mut known = None;
        let mut held: Option<Ready> = None;
        loop {
            let first = match held.take() {
                Some(ready) => ready,
                None => {
                    let Some(append) = appends.recv().await else { return };
                    if known.is_none() {
                        match self.shared.topics.plan(&self.at).await {
                            Ok(plan) => known = Some(plan),
                            Err(Trouble::NotFound) => return self.end(append, appends, &queue),
                            Err(trouble) => {
                                let _ = append.told.send(Err(trouble.about(&self.at)));
                                continue;
                            }
                        }
                    }
                    match self.prepare(append, known.as_ref().expect("it was found")) {
                        Some(ready) => ready,
                        None => continue,
                    }
                }
            };
            let plan = known.as_ref().expect("nothing is ready before it was found");
            let (mut bytes, mut count) = (first.bytes, first.messages.len());
            let mut together = vec![first];
            while !together[0].is_alone()
                && let Ok(append) = appends.try_recv()
            {
                let Some(next) = self.prepare(append, plan) else { continue };
                let fits =
                    bytes + next.bytes <= ROUND_BYTES_MAX && count + next.messages.len() <= ROUND_RECORDS_MAX;
                if !fits || next.is_alone() {
                    held = Some(next);
                    break;
                }
                bytes += next.bytes;
                count += next.messages.len();
                together.push(next);
            }
            if self.store_together(together).await == Err(Trouble::NotFound) {
                known = None;
            }
        }
    }

    /// The topic is not there: tells all who wait, and makes way for a lane that looks again.
    fn end(
        self,
        append: Append,
        mut appends: mpsc::UnboundedReceiver<Append>,
        queue: &mpsc::WeakUnboundedSender<Append>,
    ) {
        if let (Some(lanes), Some(queue)) = (self.shared.lanes.lock().as_mut(), queue.upgrade())
            && lanes.get(&self.at).is_some_and(|lane| lane.queue.same_channel(&queue))
        {
            lanes.remove(&self.at);
        }
        appends.close();
        let mut next = Some(append);
        while let Some(append) = next {
            let _ = append.told.send(Err(Trouble::NotFound.about(&self.at)));
            next = appends.try_recv().ok();
        }
    }

    /// Makes messages of the records; tells the caller if that cannot be.
    fn prepare(&self, append: Append, plan: &Plan) -> Option<Ready> {
        let Append { records, how, told, room } = append;
        match self.messages(&records, plan) {
            Ok(messages) => {
                let bytes = messages.iter().map(|message| message.envelope.len_bytes()).sum();
                Some(Ready { messages, bytes, how, told, room })
            }
            Err(trouble) => {
                let _ = told.send(Err(trouble.about(&self.at)));
                None
            }
        }
    }

    fn messages(&self, records: &[Record], plan: &Plan) -> Result<Vec<Message>, Trouble> {
        let payload_bytes_max = self.shared.link.client().max_payload();
        let bytes: u64 = records.iter().map(|record| record.size_bytes() as u64).sum();
        // As many as may be come to so many bytes.
        let fit = records.iter().take(ROUND_RECORDS_MAX).map(|record| record.size_bytes() as u64).sum();
        let max = append_bytes_max(payload_bytes_max);
        if records.len() > ROUND_RECORDS_MAX || bytes > max {
            return Err(Trouble::TooLarge { bytes, max: max.min(fit) });
        }
        let message_max = plan.message_bytes_max.map_or(usize::MAX, |max| max.unsigned_abs() as usize);
        let message_max = payload_bytes_max.min(message_max).saturating_sub(HEADERS_BYTES) as u64;
        let record_max = record_bytes_max(payload_bytes_max);
        let message = |record: &Record| {
            let envelope = Envelope::seal(record);
            for (bytes, max) in [(record.size_bytes(), record_max), (envelope.len_bytes(), message_max)] {
                if bytes as u64 > max {
                    return Err(Trouble::TooLarge { bytes: bytes as u64, max });
                }
            }
            let (subject, ttl) = match (&record.key, plan.compacted) {
                (_, false) => (format!("{}.r", self.subject), None),
                (Some(key), true) => {
                    let subject = format!("{}.k.{}", self.subject, names::key_token(key));
                    (subject, record.value.is_none().then_some(plan.tombstone_ttl))
                }
                (None, true) => {
                    let why = "a record of a compacted topic needs a key";
                    return Err(Trouble::Refused(why.to_owned()));
                }
            };
            Ok(Message { subject, envelope, ttl })
        };
        records.iter().map(message).collect()
    }

    /// Stores them in one round, and tells each where.
    async fn store_together(&self, together: Vec<Ready>) -> Result<(), Trouble> {
        let how = &together[0].how;
        let id = match &how.id {
            // Of any length, and with any characters.
            Some(id) => format!("c.{}", names::key_token(id.as_bytes())),
            None => format!("{}.{}", self.shared.session, self.shared.next_id()),
        };
        let (expected, has_id) = (how.expected, how.id.is_some());
        let mut messages = Vec::with_capacity(together.iter().map(|ready| ready.messages.len()).sum());
        let mut callers = Vec::with_capacity(together.len());
        for ready in together {
            callers.push((ready.messages.len() as u64, ready.told, ready.room));
            messages.extend(ready.messages);
        }
        let stored = self.store(&Round { messages, id, expected }).await;
        let mut next = stored.as_ref().map_or(0, |stored| stored.first - 1);
        for (count, told, _room) in callers {
            let first = Position(next);
            next += count;
            let _ = told.send(match &stored {
                Ok(stored) => {
                    Ok(Appended { first, next: Position(next), duplicate: stored.before && has_id })
                }
                Err(trouble) => Err(trouble.clone().about(&self.at)),
            });
        }
        stored.map(drop)
    }

    /// Stores a round once, however often it has to be tried.
    async fn store(&self, round: &Round) -> Result<Stored, Trouble> {
        let deadline = Instant::now() + self.shared.delivery_timeout;
        let (mut pause, mut is_known) = (PAUSE_MIN, true);
        let mut is_first = true;
        loop {
            let error = match self.shared.link.connected(deadline).await {
                Ok(()) => match self.attempt(round).await {
                    Ok(stored) => return Ok(Stored { before: stored.before && is_first, ..stored }),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            match (&error, round.expected) {
                (CallError::Api { code: code::WRONG_LAST_SEQUENCE, .. }, Some(expected)) => {
                    return Err(Trouble::NotAtEnd(expected));
                }
                (CallError::NoResponders, _)
                    if self.shared.topics.plan(&self.at).await == Err(Trouble::NotFound) =>
                {
                    return Err(Trouble::NotFound);
                }
                (CallError::NoAnswer(_), _) => is_known = false,
                _ if !error.is_passing() => return Err(error.into()),
                _ => {}
            }
            is_first = false;
            if Instant::now() + pause >= deadline {
                let told = error.to_string();
                return Err(if is_known { Trouble::Away(told) } else { Trouble::Failed(told) });
            }
            tracing::debug!(partition = %self.at, %error, "trying an append again");
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(&self, round: &Round) -> Result<Stored, CallError> {
        // Without a connection a message waits for its place in the client's queue, for as long as there is none.
        let publish = timeout(ATTEMPT_TIMEOUT, self.publish(round)).await;
        let publish = publish.unwrap_or_else(|_| Err(CallError::NoAnswer("the connection is slow".into())));
        match publish {
            Ok(stored) => Ok(stored),
            Err(CallError::Api { code: code::BATCH_DUPLICATE, .. }) => self.find(round).await,
            Err(error) => Err(error),
        }
    }

    async fn publish(&self, round: &Round) -> Result<Stored, CallError> {
        let count = round.messages.len();
        // A single message's expectation is judged before its id where there is one replica; a batch's behind it.
        let batch = (count > 1 || round.expected.is_some())
            .then(|| format!("{}.{}", self.shared.session, self.shared.next_id()));
        for (at, message) in round.messages.iter().enumerate() {
            let is_last = at + 1 == count;
            let mut headers = HeaderMap::new();
            headers.insert(RECORD_HEADER, message.envelope.header.as_str());
            if let Some(ttl) = message.ttl {
                headers.insert(NATS_MESSAGE_TTL, format!("{}s", ttl.as_secs()).as_str());
            }
            if at == 0 {
                headers.insert(NATS_MESSAGE_ID, round.id.as_str());
                if let Some(expected) = round.expected {
                    headers.insert(NATS_EXPECTED_LAST_SEQUENCE, expected.0.to_string().as_str());
                }
            }
            if let Some(batch) = &batch {
                headers.insert(NATS_BATCH_ID, batch.as_str());
                headers.insert(NATS_BATCH_SEQUENCE, (at + 1).to_string().as_str());
                if is_last {
                    headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
                }
            }
            let (subject, payload) = (message.subject.clone(), message.envelope.payload.clone());
            if is_last {
                let said = self.shared.link.ask(subject, Some(headers), payload).await?;
                let ack: Ack = answer(&said.payload)?;
                return match (&batch, ack.duplicate) {
                    (Some(_), _) => Ok(Stored { first: ack.seq + 1 - count as u64, before: false }),
                    (None, before) => Ok(Stored { first: ack.seq, before }),
                };
            }
            let sent = self.shared.link.client().publish_with_headers(subject, headers, payload).await;
            sent.map_err(|error| CallError::NotSent(error.to_string()))?;
        }
        unreachable!("a round has a last message")
    }

    /// Where the round is that the server has stored before: asked by a message with its id and a rollup that there is not.
    /// The server looks at the id first, and never stores such a message.
    async fn find(&self, round: &Round) -> Result<Stored, CallError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, round.id.as_str());
        headers.insert(NATS_ROLLUP, "none");
        let subject = round.messages[0].subject.clone();
        match answer(&self.shared.link.ask(subject, Some(headers), Bytes::new()).await?.payload) {
            Ok(Ack { seq, .. }) => Ok(Stored { first: seq, before: true }),
            // It has forgotten the id in between.
            Err(CallError::Api { text, .. }) => Err(CallError::NoAnswer(text)),
            Err(error) => Err(error),
        }
    }
}

impl Shared {
    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}
