//! Does what [`Machine`] says: a task per member, which writes its heartbeat, hears the bucket, and takes the caller's commands
//! one after another.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{EngineError, GroupEvent, GroupMember, Position};
use async_nats::jetstream::kv::{Entry, Operation, Store, Watch};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::machine::{Action, Input, Machine, Revision};
use super::{Beat, Key, Place};
use crate::engine::Inner;
use crate::link::CallError;
use crate::names;
use crate::trouble::Trouble;

/// Heartbeats in a session: some may be late.
const BEATS_PER_SESSION: u32 = 5;
/// How long the caller may take to let go (`max.poll.interval.ms` of Kafka's clients).
const PATIENCE: Duration = Duration::from_secs(300);
/// Commands that wait; a caller has one under way unless it gives them up.
const COMMANDS_MAX: usize = 16;
/// Events that wait: after one that takes partitions away there is no other until the caller asks again.
const EVENTS_MAX: usize = 8;
/// How often a commit without an answer is tried.
const COMMITS_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// Revisions of each key that are kept, so that whoever is late hears of each plan in its order.
pub(crate) const HISTORY: i64 = 16;

type Told = Result<GroupEvent, EngineError>;

/// The caller's end.
#[derive(Debug)]
pub(crate) struct Member {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Told>,
    /// The caller was told that it loses partitions: when it asks again it has let go.
    must_let_go: bool,
}

#[derive(Debug)]
enum Command {
    LetGo,
    Commit(Vec<(TopicPartition, Position)>, oneshot::Sender<Result<(), EngineError>>),
    Leave(oneshot::Sender<Result<(), EngineError>>),
}

impl Member {
    /// Starts a member, and the task that it is.
    pub(crate) fn start(
        inner: Arc<Inner>,
        bucket: Store,
        id: String,
        group: &str,
        topics: &[String],
        session: Duration,
    ) -> (Self, JoinHandle<()>) {
        let (commands, heard) = mpsc::channel(COMMANDS_MAX);
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let machine = Machine::new(id.clone(), topics.to_vec(), millis(session), millis(PATIENCE), 0);
        let driver = Driver {
            inner,
            bucket,
            group: group.to_owned(),
            key: Key::Member(id).of(group),
            topics: topics.to_vec(),
            session,
            machine,
            start: Instant::now(),
            tell,
            has_complained: false,
        };
        (Self { commands, events, must_let_go: false }, tokio::spawn(driver.run(heard)))
    }
}

#[async_trait]
impl GroupMember for Member {
    async fn next_event(&mut self) -> Result<GroupEvent, EngineError> {
        if self.must_let_go {
            self.commands.send(Command::LetGo).await.map_err(|_| EngineError::Closed)?;
            self.must_let_go = false;
        }
        let event = self.events.recv().await.unwrap_or(Err(EngineError::Closed))?;
        self.must_let_go = !matches!(event, GroupEvent::Assigned(_));
        Ok(event)
    }

    async fn commit(&mut self, positions: &[(TopicPartition, Position)]) -> Result<(), EngineError> {
        let (tell, told) = oneshot::channel();
        let command = Command::Commit(positions.to_vec(), tell);
        self.commands.send(command).await.map_err(|_| EngineError::Closed)?;
        told.await.unwrap_or(Err(EngineError::Closed))
    }

    async fn leave(self: Box<Self>) -> Result<(), EngineError> {
        let (tell, told) = oneshot::channel();
        self.commands.send(Command::Leave(tell)).await.map_err(|_| EngineError::Closed)?;
        told.await.unwrap_or(Err(EngineError::Closed))
    }
}

/// The task's end.
struct Driver {
    inner: Arc<Inner>,
    bucket: Store,
    group: String,
    key: String,
    topics: Vec<String>,
    session: Duration,
    machine: Machine,
    start: Instant,
    tell: mpsc::Sender<Told>,
    /// The caller was told that NATS is away.
    has_complained: bool,
}

impl Driver {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut ticks = interval(self.session / BEATS_PER_SESSION);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // `None` until it hears the bucket, and when it has stopped to.
        let (mut watch, mut has_heard_all) = (None, false);
        loop {
            let inner = Arc::clone(&self.inner);
            tokio::select! {
                entry = next(&mut watch) => match entry {
                    Some(entry) => self.hear(&entry),
                    None => {
                        watch = None;
                        self.input(Input::Behind);
                    }
                },
                command = commands.recv() => match command {
                    Some(Command::LetGo) => self.input(Input::LetGo),
                    Some(Command::Commit(positions, told)) => {
                        let _ = told.send(self.commit(&positions).await);
                    }
                    Some(Command::Leave(told)) => {
                        let _ = told.send(self.leave().await);
                        return;
                    }
                    // It was dropped; if this fails, the others notice in a while.
                    None => return drop(self.leave().await),
                },
                _ = ticks.tick() => {
                    if self.beat().await && watch.is_none() {
                        watch = self.watch().await;
                    }
                }
                () = inner.closed() => return drop(self.leave().await),
            }
            self.count(false).await;
            self.act().await;
            if self.machine.is_current() {
                has_heard_all = true;
            } else if std::mem::take(&mut has_heard_all) {
                watch = None;
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn input(&mut self, input: Input) {
        let now_ms = self.now_ms();
        self.machine.hear(input, now_ms);
    }

    /// Writes the heartbeat; says whether that went well.
    async fn beat(&mut self) -> bool {
        // Before it is written: it must be no younger than what the others see.
        let now_ms = self.now_ms();
        if !self.machine.beats(now_ms) {
            return false;
        }
        let beat = Beat { topics: self.topics.clone() };
        if let Err(error) = self.bucket.put(&self.key, encode(&beat)).await {
            self.complain(error.to_string());
            return false;
        }
        let id = self.machine.id().to_owned();
        self.machine.hear(Input::Beat { id, topics: beat.topics }, now_ms);
        self.has_complained = false;
        self.count(true).await;
        true
    }

    /// Begins to hear the bucket, in which its own heartbeat is by now.
    async fn watch(&mut self) -> Option<Watch> {
        match self.bucket.watch_with_history(Key::all_of(&self.group)).await {
            Ok(watch) => Some(watch),
            Err(error) => {
                self.complain(error.to_string());
                None
            }
        }
    }

    /// Tells the caller once that NATS is away; the member goes on.
    fn complain(&mut self, why: String) {
        tracing::debug!(group = self.group, why, "a member cannot reach its group");
        if !std::mem::replace(&mut self.has_complained, true) {
            let _ = self.tell.try_send(Err(Trouble::Away(why).about_topic(&self.group)));
        }
    }

    /// Asks how many partitions there are: of all topics, or of those that it does not know.
    async fn count(&mut self, all: bool) {
        for topic in self.machine.watched(all) {
            let found = self.inner.topics.find(&topic).await;
            if let Ok(found) = found {
                let partitions = found.map_or(0, |topic| topic.partitions);
                self.input(Input::Count { topic, partitions });
            }
        }
    }

    fn hear(&mut self, entry: &Entry) {
        let revision = entry.revision;
        let is_there = entry.operation == Operation::Put;
        let input = match Key::parse(&entry.key) {
            Some(Key::Member(id)) if !is_there => Some(Input::Gone { id }),
            Some(Key::Member(id)) => {
                // Its own is heard when it is stored.
                let beat = decode(&entry.value).filter(|_| id != self.machine.id());
                beat.map(|Beat { topics }| Input::Beat { id, topics })
            }
            Some(Key::Plan) => decode(&entry.value).map(|plan| Input::Plan { plan, revision }),
            Some(Key::At(at)) => decode(&entry.value).map(|place| Input::Place { at, place, revision }),
            None => None,
        };
        input.into_iter().for_each(|input| self.input(input));
        if entry.seen_current {
            self.input(Input::Current);
        }
    }

    /// Does what is to be done, until somebody was faster.
    async fn act(&mut self) {
        while let Some(action) = self.machine.next(self.now_ms()) {
            let is_done = match action {
                Action::Tell(event) => self.tell.send(Ok(event)).await.is_ok(),
                Action::Forget { id } => {
                    let is_done = self.bucket.delete(Key::Member(id.clone()).of(&self.group)).await.is_ok();
                    self.input(Input::Gone { id });
                    is_done
                }
                Action::Plan { plan, over } => match self.write(&Key::Plan, &plan, over).await {
                    Ok(Some(revision)) => {
                        self.input(Input::Plan { plan, revision });
                        true
                    }
                    _ => false,
                },
                Action::Place { at, place, over } => {
                    match self.write(&Key::At(at.clone()), &place, over).await {
                        Ok(Some(revision)) => {
                            self.input(Input::Place { at, place, revision });
                            true
                        }
                        _ => false,
                    }
                }
            };
            if !is_done {
                return;
            }
        }
    }

    /// The new revision; `None` if somebody was faster.
    async fn write(
        &self,
        key: &Key,
        what: &impl Serialize,
        over: Revision,
    ) -> Result<Option<Revision>, CallError> {
        let key = key.of(&self.group);
        self.inner.link.put_over(names::GROUPS_BUCKET, &key, encode(what), over).await
    }

    async fn commit(&mut self, positions: &[(TopicPartition, Position)]) -> Result<(), EngineError> {
        // What is written then is what is known now: the watch may have more to say.
        let mut writes = Vec::with_capacity(positions.len());
        for (at, next) in positions {
            match self.machine.commit(at, *next) {
                Some((place, over)) => writes.push((at.clone(), place, over)),
                None => return Err(self.fenced(format!("{at} is not assigned to it"))),
            }
        }
        let writes = writes.into_iter().map(|(at, place, over)| {
            let this = &*self;
            async move {
                let stored = this.commit_one(&at, &place, over).await;
                stored.map(|revision| Input::Place { at, place, revision })
            }
        });
        let mut outcome = Ok(());
        for stored in join_all(writes).await {
            match stored {
                Ok(input) => self.input(input),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    async fn commit_one(
        &self,
        at: &TopicPartition,
        place: &Place,
        over: Revision,
    ) -> Result<Revision, EngineError> {
        let key = Key::At(at.clone());
        let mut attempts = 0;
        loop {
            attempts += 1;
            let error = match self.write(&key, place, over).await {
                Ok(Some(revision)) => return Ok(revision),
                Ok(None) => {
                    // Unless it was an earlier attempt, whose answer was lost.
                    let there = if attempts > 1 { self.read(&key).await } else { None };
                    return match there {
                        Some((there, revision)) if there == *place => Ok(revision),
                        _ => Err(self.fenced(format!("{at} has another owner"))),
                    };
                }
                Err(error) => error,
            };
            if attempts == COMMITS_MAX || !error.is_passing() {
                return Err(Trouble::from(error).of_a_change().about(at));
            }
            sleep(PAUSE).await;
        }
    }

    async fn read(&self, key: &Key) -> Option<(Place, Revision)> {
        let there = self.inner.link.entry(names::GROUPS_BUCKET, &key.of(&self.group)).await.ok()?;
        Some((decode(&there.value?)?, there.revision))
    }

    /// Gives everything back, so that the others take over at once.
    async fn leave(&mut self) -> Result<(), EngineError> {
        let back = self.machine.claimed().into_iter().map(|(at, place, over)| {
            let this = &*self;
            async move { this.write(&Key::At(at), &place, over).await }
        });
        join_all(back).await; // what fails belongs to somebody else, or is taken when it is gone
        match self.bucket.delete(&self.key).await {
            Ok(()) => Ok(()),
            Err(error) => Err(Trouble::Failed(error.to_string()).about_topic(&self.group)),
        }
    }

    fn fenced(&self, reason: String) -> EngineError {
        EngineError::Fenced { group: self.group.clone(), reason }
    }
}

/// The next entry; `None` when no more will come.
async fn next(watch: &mut Option<Watch>) -> Option<Entry> {
    match watch {
        None => pending().await,
        Some(watch) => watch.next().await?.ok(),
    }
}

fn encode(what: &impl Serialize) -> Bytes {
    serde_json::to_vec(what).expect("entries are plain values").into()
}

/// What cannot be read was written by somebody else, and says nothing.
fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}
