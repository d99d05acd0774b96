//! The one writer of a store: appends in groups, made durable together.
//!
//! [`Writer::commit`] does one group, synchronously: everything that waits is staged (offsets assigned, sequences
//! judged), written with one call per partition, acknowledged as [`Ack::Written`] where that is enough, made durable by one
//! sync of the journal (or by one of each segment, where there is no journal or too much for it), made visible, and
//! acknowledged as [`Ack::Durable`]. [`Writer::run`] is the loop around it, on a thread of its own: while a group syncs,
//! the next one gathers in the queue.
//!
//! What needs no sync does not go through that thread when it is idle: whoever appends to a partition with relaxed
//! durability and waits for the answer may do it himself ([`Queue::append_now`]): to wake a thread and be woken takes ten
//! times longer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::Offset;
use anabranch_core::batch::{Batch, BatchHeader};
use anabranch_core::planted::{self, Bug};
use anabranch_core::seam::{Clock, Disk, DiskFile, Lock};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use crate::active::{Now, PartitionWriter};
use crate::end::QueuedEnd;
use crate::flusher::{SYNC_ALL_FILES_MIN, sync_all};
use crate::journal;
use crate::journal::ring::{JournalFile, Ring};
use crate::partition::{Ack, Appended};
use crate::removal::{Roll, Settled};
use crate::{AppendError, Fault, Part, ProducerState};

/// A batch that waits for the writer.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) partition: u64,
    pub(crate) batch: Batch,
    /// Its place in a transaction.
    pub(crate) part: Option<Part>,
    /// Where the log must end.
    pub(crate) expected: Option<Offset>,
    pub(crate) ack: Ack,
    pub(crate) reply: Reply,
}

pub(crate) type Reply = oneshot::Sender<Result<Appended, AppendError>>;

/// What the writer is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Append; the permit is its place in the queue.
    Append(Append, OwnedSemaphorePermit),
    /// End a transaction, likewise.
    End(Box<QueuedEnd>, OwnedSemaphorePermit),
    /// Take note of a batch of a transaction that does not come, likewise: its header, and `transaction.version`.
    NoteRefused(u64, Box<BatchHeader>, i8, OwnedSemaphorePermit),
    /// Take over a partition that was just opened.
    Adopt(u64, Box<PartitionWriter>),
    /// Sync a partition, and begin a new segment if asked to.
    Settle(u64, Roll, oneshot::Sender<Result<Settled, AppendError>>),
    /// Tell what is remembered of a partition's producers.
    Describe(u64, oneshot::Sender<Vec<ProducerState>>),
    /// Finish with a partition.
    Release(u64, oneshot::Sender<()>),
    /// Make the journal forget a topic whose partitions are released, before its directory is removed.
    Forget(String, oneshot::Sender<()>),
    /// The flusher has made a journal file, or could not.
    Made(Option<JournalFile>),
    /// The flusher has synced what this journal file holds, or could not.
    Flushed(u64, bool),
    /// Finish with everything.
    Stop(oneshot::Sender<()>),
}

/// The bounded way to the writer. Appends wait for a place; other commands are as many as there are partitions at most.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    waiting: Arc<Waiting>,
    places: Arc<Semaphore>,
    /// Counts appends that waited for a place.
    waits: Arc<AtomicU64>,
    /// The writer while it runs. Held for a group, from the moment that the group is taken from the queue: whoever has the
    /// lock and sees an empty queue is the next in order.
    writer: Arc<Mutex<Option<Writer>>>,
}

#[derive(Debug)]
struct Waiting {
    /// Protects the commands that wait; `None` once the writer has ended. Held to add to them or take from them.
    commands: Mutex<Option<VecDeque<Command>>>,
    /// Something waits where nothing did.
    arrived: Notify,
}

impl Queue {
    /// A queue in which `appends_max` appends may wait.
    pub(crate) fn new(appends_max: usize) -> Self {
        let waiting = Waiting { commands: Mutex::new(Some(VecDeque::new())), arrived: Notify::new() };
        Self {
            waiting: Arc::new(waiting),
            places: Arc::new(Semaphore::new(appends_max)),
            waits: Arc::default(),
            writer: Arc::default(),
        }
    }

    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Waits for a place and queues the append.
    pub(crate) async fn append(&self, append: Append) -> Result<(), AppendError> {
        let place = self.place().await?;
        self.queued(Command::Append(append, place))
    }

    /// The same for the end of a transaction.
    pub(crate) async fn end_transaction(&self, end: QueuedEnd) -> Result<(), AppendError> {
        let place = self.place().await?;
        self.queued(Command::End(Box::new(end), place))
    }

    /// The same for word of a batch that does not come.
    pub(crate) async fn note_refused(
        &self,
        partition: u64,
        batch: &BatchHeader,
        version: i8,
    ) -> Result<(), AppendError> {
        let place = self.place().await?;
        self.queued(Command::NoteRefused(partition, Box::new(*batch), version, place))
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, AppendError> {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Ok(place),
            Err(_) => {
                self.waits.fetch_add(1, Ordering::Relaxed);
                Arc::clone(&self.places).acquire_owned().await.map_err(|_| AppendError::Closed)
            }
        }
    }

    fn queued(&self, command: Command) -> Result<(), AppendError> {
        match self.control(command) {
            true => Ok(()),
            false => Err(AppendError::Closed),
        }
    }

    /// Appends where the caller is, if nothing is queued, the writer is idle, and no sync is needed; or gives the append back.
    pub(crate) fn append_now(&self, append: Append) -> Option<Append> {
        let waiting = self.waiting.commands.lock();
        if self.places.is_closed() || !waiting.as_ref().is_some_and(VecDeque::is_empty) {
            return Some(append);
        }
        let Some(mut guard) = self.writer.try_lock() else { return Some(append) };
        drop(waiting);
        let Some(writer) = guard.as_mut() else { return Some(append) };
        let ending = Ending(self); // for a panic
        let known = writer.look_at;
        let left = writer.append_now(append);
        std::mem::forget(ending);
        if writer.look_at != known {
            self.waiting.arrived.notify_one();
        }
        left
    }

    /// Queues a command; `false` if the writer has ended.
    pub(crate) fn control(&self, command: Command) -> bool {
        let mut waiting = self.waiting.commands.lock();
        let Some(commands) = waiting.as_mut() else { return false };
        commands.push_back(command);
        if commands.len() == 1 {
            self.waiting.arrived.notify_one();
        }
        true
    }

    /// Refuses further appends, also those that wait for a place.
    pub(crate) fn close(&self) {
        self.places.close();
    }

    /// Waits until there is something to do, `wait` at most.
    async fn arrival(&self, wait: Option<Duration>) {
        let arrived = self.waiting.arrived.notified();
        if self.waiting.commands.lock().as_ref().is_some_and(VecDeque::is_empty) {
            match wait {
                None => arrived.await,
                Some(wait) => drop(timeout(wait, arrived).await),
            }
        }
    }

    /// Takes what there is, within a group's limits; `false` if the queue has ended.
    fn take(&self, group: &mut Vec<Command>) -> bool {
        let mut waiting = self.waiting.commands.lock();
        let Some(commands) = waiting.as_mut() else { return false };
        let mut bytes = 0;
        while group.len() < GROUP_COMMANDS_MAX
            && bytes < GROUP_BYTES_MAX
            && let Some(command) = commands.pop_front()
        {
            if let Command::Append(append, _) = &command {
                bytes += append.batch.bytes().len();
            }
            group.push(command);
        }
        true
    }

    /// The writer has ended: whoever waits for an answer learns it.
    fn end(&self) {
        let commands = self.waiting.commands.lock().take();
        drop(commands);
        self.waiting.arrived.notify_one();
    }
}

/// Ends the queue with the writer, however that ends.
struct Ending<'a>(&'a Queue);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
        // Whoever holds it is the one that ends; the loop will see.
        if let Some(mut writer) = self.0.writer.try_lock() {
            drop(writer.take());
        }
    }
}

/// Commands that one group takes at most, so that its first append does not wait for ever for its last.
const GROUP_COMMANDS_MAX: usize = 8192;
/// And bytes.
const GROUP_BYTES_MAX: usize = 64 << 20;

/// Larger appends are left to the writer's thread: to copy them takes as long as to wake it.
const AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// How long it may take until a setting is obeyed that makes what is written due earlier.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// How long a topic that is to be forgotten waits for room in the journal, when nothing else happens.
const FORGET_RETRY: Duration = Duration::from_secs(1);

/// Owns what is written to.
#[derive(Debug)]
pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    root: PathBuf,
    producer_expiration_ms: i64,
    pub(crate) partitions: BTreeMap<u64, PartitionWriter>,
    /// Partitions with something staged or to be synced now, in the order in which they came into the group.
    group: Vec<u64>,
    /// Partitions with relaxed durability that have something to be synced later.
    unsynced: BTreeSet<u64>,
    /// When to look whether any of those is due.
    look_at: Option<Duration>,
    /// For syncs of all files.
    all_files: Arc<dyn DiskFile>,
    pub(crate) journal: Ring,
    /// Topics to be forgotten by the journal, and who waits for it.
    forgetting: Vec<(String, oneshot::Sender<()>)>,
    /// Given up when the writer is done, and not before.
    _lock: Box<dyn Lock>,
}

impl Writer {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        root: PathBuf,
        producer_expiration_ms: i64,
        all_files: Arc<dyn DiskFile>,
        journal: Ring,
        lock: Box<dyn Lock>,
    ) -> Self {
        Self {
            disk,
            clock,
            root,
            producer_expiration_ms,
            partitions: BTreeMap::new(),
            group: Vec::new(),
            unsynced: BTreeSet::new(),
            look_at: None,
            all_files,
            journal,
            forgetting: Vec::new(),
            _lock: lock,
        }
    }

    /// Works until told to stop.
    pub(crate) async fn run(self, queue: Queue) {
        let _ending = Ending(&queue);
        let mut wait = self.until_look();
        *queue.writer.lock() = Some(self);
        let mut group = Vec::new();
        loop {
            queue.arrival(wait).await;
            let stopped = {
                let mut guard = queue.writer.lock();
                let writer = guard.as_mut().expect("only the loop takes the writer");
                if !queue.take(&mut group) {
                    return; // somebody panicked with it
                }
                let stopped = writer.commit(&mut group);
                wait = writer.until_look();
                stopped.map(|stopped| (stopped, guard.take().expect("it is here")))
            };
            if let Some((stopped, mut writer)) = stopped {
                writer.journal.stop_flusher().await;
                writer.finish();
                drop(writer); // gives the directory up before anybody is told
                let _ = stopped.send(());
                return;
            }
        }
    }

    /// Does one group. Returns whom to tell if it was asked to stop.
    pub(crate) fn commit(&mut self, group: &mut Vec<Command>) -> Option<oneshot::Sender<()>> {
        let (mut stop, mut ends) = (None, Vec::new());
        let now = Now::of(self.clock.as_ref());
        for command in group.drain(..) {
            match command {
                Command::Append(append, place) => {
                    drop(place);
                    self.stage(append, now);
                }
                Command::End(end, place) => {
                    drop(place);
                    ends.push(*end);
                }
                Command::NoteRefused(number, header, version, place) => {
                    drop(place);
                    if let Some(partition) = self.partitions.get_mut(&number) {
                        partition.producers.note_refused(&header, version, now.wall_ms);
                    }
                }
                Command::Adopt(number, partition) => {
                    self.partitions.insert(number, *partition);
                }
                Command::Settle(number, roll, reply) => {
                    self.write_and_sync();
                    let settled = match self.partitions.get_mut(&number) {
                        Some(partition) => partition.settled(&self.disk, roll),
                        None => Err(AppendError::Closed),
                    };
                    let _ = reply.send(settled);
                }
                Command::Describe(number, reply) => {
                    if let Some(partition) = self.partitions.get(&number) {
                        let _ = reply.send(partition.producers.states());
                    }
                }
                Command::Release(number, released) => {
                    self.write_and_sync();
                    if let Some(mut partition) = self.partitions.remove(&number) {
                        partition.finish(self.disk.as_ref());
                    }
                    let _ = released.send(());
                }
                Command::Forget(_, forgotten) if planted::is(Bug::DeletedTopicRemembered) => {
                    let _ = forgotten.send(());
                }
                Command::Forget(topic, forgotten) => self.forgetting.push((topic, forgotten)),
                Command::Made(file) => self.journal.take_file(file),
                Command::Flushed(file, ok) => self.journal.flushed(file, ok),
                Command::Stop(stopped) => stop = Some(stopped),
            }
        }
        self.write_and_sync();
        self.end_transactions(ends);
        stop
    }

    fn stage(&mut self, append: Append, now: Now) {
        let number = append.partition;
        self.stage_only(append, now);
        self.join_group(number);
    }

    /// Stages an append; somebody else sees to it that it is written.
    pub(crate) fn stage_only(&mut self, append: Append, now: Now) {
        match self.partitions.get_mut(&append.partition) {
            Some(partition) => partition.stage(&self.disk, append, now),
            None => drop(append.reply.send(Err(AppendError::Closed))),
        }
    }

    fn join_group(&mut self, number: u64) {
        if let Some(partition) = self.partitions.get_mut(&number)
            && !std::mem::replace(&mut partition.in_group, true)
        {
            self.group.push(number);
        }
    }

    /// Appends what can be appended by a write alone that takes no time worth speaking of, and gives anything else back.
    /// What must be synced then is left to the loop.
    fn append_now(&mut self, append: Append) -> Option<Append> {
        let now = Now::of(self.clock.as_ref());
        let number = append.partition;
        let is_small = append.batch.bytes().len() <= AT_ONCE_BYTES_MAX;
        let partition = self.partitions.get_mut(&number).filter(|_| is_small);
        let partition = partition.filter(|partition| partition.takes_at_once(&append.batch, now.wall_ms));
        let Some(partition) = partition else { return Some(append) };
        partition.stage(&self.disk, append, now);
        let _ = partition.write(now); // whoever it concerns has been told
        self.sync_in_time(number, now.monotonic);
        None
    }

    /// Remembers a partition, if it has something that is not synced.
    fn sync_in_time(&mut self, number: u64, now: Duration) {
        let Some(partition) = self.partitions.get(&number) else { return };
        let Some(due) = partition.flush_due() else { return };
        // Its settings may change meanwhile.
        let due = if partition.sync_is_due(now) { now } else { due.min(now + LOOK_INTERVAL_MAX) };
        self.unsynced.insert(number);
        self.look_at = Some(self.look_at.map_or(due, |at| at.min(due)));
    }

    /// Adds those to the group that are to be synced by now though nobody appends to them.
    fn look_who_is_due(&mut self, now: Duration) {
        if self.look_at.is_none_or(|at| now < at) {
            return;
        }
        self.look_at = None;
        for number in std::mem::take(&mut self.unsynced) {
            if self.partitions.get(&number).is_some_and(|partition| partition.sync_is_due(now)) {
                self.join_group(number);
            } else {
                self.sync_in_time(number, now);
            }
        }
    }

    fn write_and_sync(&mut self) {
        let now = Now::of(self.clock.as_ref());
        self.look_who_is_due(now.monotonic);
        let group = std::mem::take(&mut self.group);
        // All writes before the first sync: a write takes microseconds, a sync milliseconds, and whoever asked only
        // for the write has the answer then.
        for number in &group {
            if let Some(partition) = self.partitions.get_mut(number) {
                partition.in_group = false;
                let _ = partition.write(now); // whoever it concerns has been told
                if planted::is(Bug::SnapshotAhead) {
                    partition.checkpoint(self.disk.as_ref());
                }
            }
        }
        let is_due = |number: &u64| {
            self.partitions.get(number).is_some_and(|partition| partition.sync_is_due(now.monotonic))
        };
        let (due, later) = group.into_iter().partition::<Vec<_>, _>(is_due);
        self.sync_due(&due, now);
        for number in later {
            self.sync_in_time(number, now.monotonic);
        }
    }

    /// Makes what is written in these partitions durable, and saves what is derived if that is due.
    pub(crate) fn sync_due(&mut self, due: &[u64], now: Now) {
        self.make_durable(due);
        self.save_derived(due, now);
    }

    /// Of partitions whose records are all durable.
    pub(crate) fn save_derived(&mut self, due: &[u64], now: Now) {
        let oldest_producer_ms = now.wall_ms.saturating_sub(self.producer_expiration_ms);
        for number in due {
            if let Some(partition) = self.partitions.get_mut(number) {
                partition.checkpoint_if_due(self.disk.as_ref(), oldest_producer_ms);
            }
            self.unsynced.remove(number);
        }
    }

    /// What the journal takes, by a sync of each of its files that it takes; the rest by a sync of each segment.
    fn make_durable(&mut self, due: &[u64]) {
        let mut left = due.to_vec();
        loop {
            let before = left.len();
            left = self.journal_due(&left).unwrap_or_else(|fault| {
                self.journal_failed(&fault);
                left
            });
            if left.len() == before || left.is_empty() {
                break;
            }
        }
        // They wait for one another in any case.
        let together = left.len() >= SYNC_ALL_FILES_MIN && sync_all(self.all_files.as_ref());
        for number in left {
            if let Some(partition) = self.partitions.get_mut(&number) {
                if together {
                    partition.synced_with_all();
                }
                partition.sync(self.disk.as_ref());
            }
        }
    }

    /// Whose bytes are durable is not known, and where they would go next neither.
    pub(crate) fn journal_failed(&mut self, fault: &Fault) {
        self.journal.give_up();
        self.partitions.values().for_each(|partition| partition.shared.stop(fault));
    }

    /// Makes partitions durable by the journal; those that it does not take are left.
    fn journal_due(&mut self, due: &[u64]) -> Result<Vec<u64>, Fault> {
        let wanted = due.iter().filter_map(|number| Some(self.partitions.get(number)?.journal_bytes())).sum();
        if wanted == 0 && self.forgetting.is_empty() {
            return Ok(due.to_vec());
        }
        let mut group = self.journal.group(wanted, self.clock.monotonic())?;
        let (forgetting, waiting) = std::mem::take(&mut self.forgetting)
            .into_iter()
            .partition::<Vec<_>, _>(|(topic, _)| !self.journal.knows(topic) || group.forget(topic));
        let is_taken = |number: &u64| {
            self.partitions.get(number).is_some_and(|partition| partition.journal(*number, &mut group))
        };
        let (taken, left) = due.iter().copied().partition::<Vec<_>, _>(is_taken);
        if !group.is_empty() {
            self.journal.commit(group)?;
        }
        for number in taken {
            let partition = self.partitions.get_mut(&number).expect("the journal took it");
            partition.settle(&Ok(()));
        }
        for (_, forgotten) in forgetting {
            let _ = forgotten.send(());
        }
        // Dropped, whoever waits learns that it cannot be done.
        self.forgetting = if self.journal.is_moving() { waiting } else { Vec::new() };
        Ok(left)
    }

    /// How long until there is something to do though nobody asks: a partition with relaxed durability to be synced, a topic
    /// to be forgotten; `None` when there is nothing.
    fn until_look(&self) -> Option<Duration> {
        let due = self.look_at.map(|at| at.saturating_sub(self.clock.monotonic()));
        // The journal had no room for it, and may have by then.
        let forget = (!self.forgetting.is_empty()).then_some(FORGET_RETRY);
        due.into_iter().chain(forget).min()
    }

    fn finish(&mut self) {
        self.write_and_sync();
        for partition in self.partitions.values_mut() {
            partition.finish(self.disk.as_ref());
        }
        self.partitions.clear();
        if self.journal.is_settled() {
            // If it stays, the next start reads it, and writes what stands there already.
            if let Err(error) = journal::discard(self.disk.as_ref(), &self.root) {
                tracing::warn!(%error, "the journal could not be removed");
            }
        }
    }
}
