//! Topics that are being moved to another engine, and those that were: what keeps them whole meanwhile, what holds them still for
//! a moment, and the one durable record that decides that the truth is elsewhere.
//!
//! A mover copies; it is a client, or another program in this process. *Copying*, its topics are not compacted and nothing of
//! them expires. *Held*, nothing is appended to them and nobody commits for them, for as long as the lease goes: when the mover
//! dies, it ends by itself. What repeats what was stored is answered as it was. *Moved*, they take nothing any more; whoever comes for
//! them is refused, or sent on (`redirect`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_log::{AppendError, Gate, Roll};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::broker::{Broker, Shared};
use crate::catalogue::{Catalogue, Key, MovePhase, MoveRecord, Topic, Version};
use crate::error::TopicError;
use crate::partition::Partition;
use crate::redirect::{Elsewhere, Redirecting};
use crate::tasks::to_the_end;

/// How often it is looked whether transactions are over.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// The longest that topics are held: whoever asks for more gets this.
pub const MOVE_LEASE_MAX: Duration = Duration::from_secs(30);

/// Why a step of a move was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MovingError {
    /// No such move was begun here.
    #[error("no move was begun here by {0:?}")]
    Unknown(String),
    /// A topic is moved by another.
    #[error("topic {topic} belongs to the move {other:?}")]
    Taken {
        /// The topic.
        topic: String,
        /// The other move.
        other: String,
    },
    /// Another mover holds its topics still.
    #[error("the topics of the move {0:?} are held still by another mover; try again in a moment")]
    Busy(String),
    /// The topics are not those that the mover knows: one was deleted, or has more partitions.
    #[error("topic {0} is not what it was when the move began")]
    Changed(String),
    /// Old clients cannot be sent on while something is left here.
    #[error("topic {0} stays, and a client's metadata cannot be of two clusters")]
    Stays(String),
    /// Old clients cannot be sent on with their producer ids.
    #[error(
        "this directory has given its producers ids from 0 on, as an older version did, and in the target these are those of others"
    )]
    CommonIds,
    /// Transactions were open in the topics for longer than the pause may wait for them. Nothing is held any more.
    #[error("transactions were open for too long in {0}")]
    OpenTransactions(String),
    /// The lease has run out, or another has taken its place: nothing is decided.
    #[error("the topics are not held still any more")]
    NotHeld,
    /// The catalogue could not be written. What was to be decided may be, and is known at the next start; the topics stay held.
    #[error(transparent)]
    Catalogue(#[from] TopicError),
    /// A partition has stopped.
    #[error(transparent)]
    Log(#[from] AppendError),
}

/// Topics that are held still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveHold {
    /// Whose turn it is.
    pub token: u64,
    /// How long it lasts from when it was asked for.
    pub lease: Duration,
}

/// What is to be moved.
#[derive(Debug, Clone)]
pub struct NewMove {
    /// Names it.
    pub id: String,
    /// The topics.
    pub topics: Vec<String>,
    /// Where to, for people and without secrets.
    pub target: String,
    /// Where old clients are sent afterwards; `None` is that they are refused.
    pub redirect: Option<Elsewhere>,
}

/// How far a move is that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveBegun {
    /// It was decided before, and this is where to.
    pub moved_to: Option<String>,
    /// It was decided, or will be, that old clients are sent on.
    pub is_redirected: bool,
}

/// The moves of a broker.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// By the id of the move; held to look or to change only.
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Held to look or to replace only.
    redirecting: Mutex<Option<Arc<Redirecting>>>,
}

#[derive(Debug)]
struct Entry {
    record: MoveRecord,
    hold: Option<Holding>,
}

#[derive(Debug, Clone)]
struct Holding {
    token: u64,
    until: Instant,
    /// What is held.
    partitions: Arc<[TopicPartition]>,
    /// It is being decided: the gates do not open when the lease runs out.
    is_deciding: bool,
}

impl Moves {
    pub(crate) fn new(restored: BTreeMap<String, MoveRecord>) -> Self {
        let entries = restored.into_iter().map(|(id, record)| (id, Entry { record, hold: None }));
        Self { entries: Mutex::new(entries.collect()), redirecting: Mutex::default() }
    }

    pub(crate) fn redirecting(&self) -> Option<Arc<Redirecting>> {
        self.redirecting.lock().clone()
    }

    /// Topics of which nothing is to be lost.
    pub(crate) fn pinned(&self) -> BTreeSet<String> {
        let entries = self.entries.lock();
        let copying = entries.values().filter(|entry| entry.record.phase == MovePhase::Copying);
        copying.flat_map(|entry| entry.record.topics.keys().cloned()).collect()
    }
}

impl Broker {
    /// Begins a move, or goes on with it. Durable when it returns. Tells what was decided before, if it was.
    ///
    /// # Errors
    /// [`MovingError`].
    pub async fn begin_move(&self, new: NewMove) -> Result<MoveBegun, MovingError> {
        let broker = self.clone();
        let begun = async move { broker.0.begin_move(new).await };
        to_the_end(begun).await.ok_or(TopicError::Closed)?
    }

    /// Holds the topics of the move `id` still, for as long as `lease` at most: nothing is appended, nobody commits, no
    /// transaction is open in them, and all of it is durable and visible. Transactions that are open get half of the lease to end.
    /// `partitions` are all that the mover knows of.
    ///
    /// # Errors
    /// [`MovingError`]; nothing is held then.
    pub async fn hold_move(
        &self,
        id: &str,
        partitions: &[TopicPartition],
        lease: Duration,
    ) -> Result<MoveHold, MovingError> {
        let lease = lease.min(MOVE_LEASE_MAX);
        let shared = &self.0;
        let topics = shared.known(id, partitions)?;
        let hold = MoveHold { token: shared.random.next_u64(), lease };
        let until = Instant::now() + lease;
        {
            let mut entries = shared.moves.entries.lock();
            let entry = entries.get_mut(id).ok_or_else(|| MovingError::Unknown(id.to_owned()))?;
            if entry.hold.as_ref().is_some_and(|hold| hold.is_deciding) {
                return Err(MovingError::NotHeld);
            }
            entry.hold =
                Some(Holding { token: hold.token, until, partitions: partitions.into(), is_deciding: false });
        }
        // By itself, whatever becomes of whoever asks.
        let (weak, name) = (Arc::downgrade(shared), id.to_owned());
        tokio::spawn(async move { let_go_at(weak, name, hold.token, until).await });
        match shared.hold_still(id, hold.token, &topics, until - lease / 2).await {
            Ok(()) => Ok(hold),
            Err(error) => {
                shared.let_go(id, hold.token);
                Err(error)
            }
        }
    }

    /// Ends a hold early; nothing happens if it is over.
    pub fn release_move(&self, id: &str, hold: MoveHold) {
        self.0.let_go(id, hold.token);
    }

    /// Decides that the topics are elsewhere, if they were held all the time since `hold` was given. Durable when it returns.
    /// `positions_differ` if any of their records stands elsewhere in its partition there.
    ///
    /// # Errors
    /// [`MovingError::NotHeld`] or [`MovingError::Stays`], and nothing is decided; [`MovingError::Catalogue`].
    pub async fn decide_move(
        &self,
        id: &str,
        hold: MoveHold,
        positions_differ: bool,
    ) -> Result<(), MovingError> {
        let (broker, id) = (self.clone(), id.to_owned());
        let decided = async move { broker.0.decide_move(&id, hold, positions_differ).await };
        to_the_end(decided).await.ok_or(TopicError::Closed)?
    }

    /// The moves that were begun here and not given up: the id of each, and where to.
    #[must_use]
    pub fn moves(&self) -> Vec<(String, String)> {
        let entries = self.0.moves.entries.lock();
        entries.iter().map(|(id, entry)| (id.clone(), entry.record.target.clone())).collect()
    }

    /// Gives a move up, decided or not: its topics take again what comes. Durable when it returns.
    ///
    /// # Errors
    /// [`MovingError`].
    pub async fn forget_move(&self, id: &str) -> Result<(), MovingError> {
        let (broker, id) = (self.clone(), id.to_owned());
        let forgotten = async move { broker.0.forget_move(&id).await };
        to_the_end(forgotten).await.ok_or(TopicError::Closed)?
    }

    /// Where all is that was here, if old clients are sent there.
    pub(crate) fn redirected_to(&self) -> Option<String> {
        let redirecting = self.0.moves.redirecting()?;
        let entries = self.0.moves.entries.lock();
        entries.get(&redirecting.id).map(|entry| entry.record.target.clone())
    }

    /// Where the topic was moved to, if it was.
    #[must_use]
    pub fn moved_to(&self, topic: &str) -> Option<String> {
        if self.0.moves.entries.lock().is_empty() {
            return None;
        }
        self.0.moved_to(self.topics().get(topic)?)
    }
}

/// Waits for the end of a lease.
async fn let_go_at(shared: Weak<Shared>, id: String, token: u64, until: Instant) {
    tokio::time::sleep_until(until).await;
    if let Some(shared) = shared.upgrade() {
        shared.let_go(&id, token);
    }
}

impl Shared {
    async fn begin_move(&self, new: NewMove) -> Result<MoveBegun, MovingError> {
        let _turn = self.writer.turn().await?;
        let catalogue = Arc::clone(&self.catalogue.read());
        let NewMove { id, topics, target, redirect } = new;
        let id = id.as_str();
        let mut ids = BTreeMap::new();
        for name in topics {
            let topic = catalogue.get(&name).filter(|topic| !topic.is_internal());
            let topic = topic.ok_or_else(|| TopicError::Unknown(name.clone()))?;
            ids.insert(name, topic.id().to_string());
        }
        let begun = MoveBegun { moved_to: None, is_redirected: redirect.is_some() };
        let phase = MovePhase::Copying;
        let record =
            MoveRecord { version: Version, phase, target, topics: ids, redirect, positions_differ: false };
        {
            let entries = self.moves.entries.lock();
            if let Some(entry) = entries.get(id) {
                if entry.record.phase == MovePhase::Moved {
                    let is_moved = |(name, id): (&String, &String)| entry.record.topics.get(name) == Some(id);
                    if record.topics.iter().all(is_moved) {
                        let is_redirected = entry.record.redirect.is_some();
                        let moved_to = Some(entry.record.target.clone());
                        return Ok(MoveBegun { moved_to, is_redirected });
                    }
                    // Nothing that was decided is forgotten. When all of it was deleted, others may be moved by that name.
                    if let Some(moved) = self.still_there(&entry.record).into_iter().next() {
                        return Err(MovingError::Changed(moved));
                    }
                }
                if entry.record == record {
                    return Ok(begun);
                }
                // Whoever holds them may be dead, and lets go when its lease is over.
                if entry.hold.is_some() {
                    return Err(MovingError::Busy(id.to_owned()));
                }
            }
            // What was decided needs no leave any more.
            self.check_redirect(&record)?;
            for (other, entry) in entries.iter().filter(|(other, _)| *other != id) {
                let taken =
                    record.topics.iter().find(|(name, id)| entry.record.topics.get(*name) == Some(id));
                if let Some((topic, _)) = taken {
                    return Err(MovingError::Taken { topic: topic.clone(), other: other.clone() });
                }
            }
        }
        if record.redirect.is_some() && self.producer_ids.are_common().await {
            return Err(MovingError::CommonIds);
        }
        self.write(Key::Move(id.to_owned()).record(&record)).await?;
        self.moves.entries.lock().insert(id.to_owned(), Entry { record, hold: None });
        Ok(begun)
    }

    /// Where the topic was moved to, if it was.
    pub(crate) fn moved_to(&self, topic: &Topic) -> Option<String> {
        let id = topic.id().to_string();
        let entries = self.moves.entries.lock();
        let moved = entries.values().find(|entry| {
            entry.record.phase == MovePhase::Moved && entry.record.topics.get(topic.name()) == Some(&id)
        });
        moved.map(|entry| entry.record.target.clone())
    }

    /// Whether clients that are sent on find there all that they know from here.
    fn check_redirect(&self, record: &MoveRecord) -> Result<(), MovingError> {
        let catalogue = Arc::clone(&self.catalogue.read());
        let stays = |topic: &&Arc<Topic>| {
            !topic.is_internal() && record.topics.get(topic.name()) != Some(&topic.id().to_string())
        };
        match catalogue.iter().find(stays).filter(|_| record.redirect.is_some()) {
            Some(topic) => Err(MovingError::Stays(topic.name().to_owned())),
            None => Ok(()),
        }
    }

    /// The topics of a move that is copying, if they are what the mover knows.
    fn known(&self, id: &str, partitions: &[TopicPartition]) -> Result<Vec<String>, MovingError> {
        let entries = self.moves.entries.lock();
        let entry = entries.get(id).filter(|entry| entry.record.phase == MovePhase::Copying);
        let entry = entry.ok_or_else(|| MovingError::Unknown(id.to_owned()))?;
        self.check_same(&entry.record, partitions)?;
        Ok(entry.record.topics.keys().cloned().collect())
    }

    /// Whether the topics are those of the move, and have these partitions.
    fn check_same(&self, record: &MoveRecord, partitions: &[TopicPartition]) -> Result<(), MovingError> {
        let catalogue = Arc::clone(&self.catalogue.read());
        for (name, topic_id) in &record.topics {
            let count = partitions.iter().filter(|at| at.topic == *name).count();
            let topic = catalogue.get(name).filter(|topic| topic.id().to_string() == *topic_id);
            if topic.is_none_or(|topic| topic.partitions().len() != count) {
                return Err(MovingError::Changed(name.clone()));
            }
        }
        Ok(())
    }

    /// Closes the gates, first for what begins and then for all, as soon as no transaction is open.
    async fn hold_still(
        &self,
        id: &str,
        token: u64,
        topics: &[String],
        until: Instant,
    ) -> Result<(), MovingError> {
        let partitions = partitions_of(&self.catalogue.read(), topics);
        loop {
            self.close_gates(id, token, topics, &Gate::Draining)?;
            self.settle(&partitions).await?;
            let mut open = self.open_in(&partitions, topics);
            if open.is_none() {
                self.close_gates(id, token, topics, &Gate::Held)?;
                while self.groups.commits_under_way() > 0 && Instant::now() < until {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
                self.settle(&partitions).await?;
                // Another may have begun before the gates were closed.
                open = self.open_in(&partitions, topics);
                if open.is_none() && self.groups.commits_under_way() == 0 {
                    return Ok(());
                }
            }
            if Instant::now() >= until {
                return Err(MovingError::OpenTransactions(open.unwrap_or_else(|| "groups".to_owned())));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Comes behind everything that was queued, and makes it durable.
    async fn settle(&self, partitions: &[Partition]) -> Result<(), MovingError> {
        for partition in partitions {
            partition.log().settle(Roll::WhenDue).await?;
        }
        Ok(())
    }

    /// A place where a transaction is open.
    fn open_in(&self, partitions: &[Partition], topics: &[String]) -> Option<String> {
        let is_open = |partition: &&Partition| {
            let offsets = partition.offsets();
            offsets.last_stable < offsets.high_watermark
        };
        match partitions.iter().find(is_open) {
            Some(partition) => Some(partition.id().to_string()),
            None => self.groups.unstable_in(topics),
        }
    }

    /// Closes the gates for the hold of this token, unless that is over: whoever let go comes no more.
    fn close_gates(&self, id: &str, token: u64, topics: &[String], gate: &Gate) -> Result<(), MovingError> {
        let entries = self.moves.entries.lock();
        let hold = entries.get(id).and_then(|entry| entry.hold.as_ref());
        hold.filter(|hold| hold.token == token).ok_or(MovingError::NotHeld)?;
        self.set_gates(topics, gate);
        Ok(())
    }

    fn set_gates(&self, topics: &[String], gate: &Gate) {
        self.groups.set_gate(topics, gate);
        self.transactions.set_gate(topics, gate);
        for partition in partitions_of(&self.catalogue.read(), topics) {
            partition.log().set_gate(gate.clone());
        }
    }

    /// Opens the gates again, if the hold of this token is not over.
    fn let_go(&self, id: &str, token: u64) {
        let mut entries = self.moves.entries.lock();
        let Some(entry) = entries.get_mut(id) else { return };
        if entry.hold.as_ref().is_some_and(|hold| hold.token == token && !hold.is_deciding) {
            entry.hold = None;
            let topics: Vec<_> = entry.record.topics.keys().cloned().collect();
            self.set_gates(&topics, &Gate::Open);
        }
    }

    async fn decide_move(&self, id: &str, hold: MoveHold, positions_differ: bool) -> Result<(), MovingError> {
        let _turn = self.writer.turn().await?;
        let record = {
            let mut entries = self.moves.entries.lock();
            let entry = entries.get_mut(id).ok_or_else(|| MovingError::Unknown(id.to_owned()))?;
            // One that was made meanwhile.
            self.check_redirect(&entry.record)?;
            if let Some(holding) = &entry.hold {
                self.check_same(&entry.record, &holding.partitions)?;
            }
            let holding = entry.hold.as_mut().filter(|holding| {
                holding.token == hold.token && !holding.is_deciding && Instant::now() < holding.until
            });
            holding.ok_or(MovingError::NotHeld)?.is_deciding = true;
            MoveRecord { phase: MovePhase::Moved, positions_differ, ..entry.record.clone() }
        };
        self.write(Key::Move(id.to_owned()).record(&record)).await?;
        let topics: Vec<_> = record.topics.keys().cloned().collect();
        let gate = gate_of(&record);
        tracing::info!(
            id,
            target = record.target,
            topics = topics.len(),
            redirect = record.redirect.is_some(),
            "topics were moved; they take nothing here any more"
        );
        self.redirect(id, &record);
        self.moves.entries.lock().insert(id.to_owned(), Entry { record, hold: None });
        self.set_gates(&topics, &gate);
        Ok(())
    }

    async fn forget_move(&self, id: &str) -> Result<(), MovingError> {
        let _turn = self.writer.turn().await?;
        let topics: Vec<_> = {
            let entries = self.moves.entries.lock();
            let entry = entries.get(id).ok_or_else(|| MovingError::Unknown(id.to_owned()))?;
            self.still_there(&entry.record)
        };
        self.write(Record::tombstone(Key::Move(id.to_owned()).bytes())).await?;
        self.moves.entries.lock().remove(id);
        self.set_gates(&topics, &Gate::Open);
        if self.moves.redirecting.lock().take_if(|redirecting| redirecting.id == id).is_some() {
            self.groups.take_members();
        }
        Ok(())
    }

    /// Closes the gates of what was moved, before anybody comes.
    pub(crate) fn close_moved(&self) {
        let moved: Vec<_> = {
            let entries = self.moves.entries.lock();
            let moved = entries.iter().filter(|(_, entry)| entry.record.phase == MovePhase::Moved);
            let each =
                moved.map(|(id, entry)| (id.clone(), self.still_there(&entry.record), entry.record.clone()));
            each.collect()
        };
        for (id, topics, record) in moved {
            // Whether its topics were deleted here or not: old clients would make them anew.
            self.redirect(&id, &record);
            self.set_gates(&topics, &gate_of(&record));
        }
    }

    /// The topics of a move that were not deleted since, or made anew.
    fn still_there(&self, record: &MoveRecord) -> Vec<String> {
        let catalogue = Arc::clone(&self.catalogue.read());
        let is_there =
            |name: &str, id: &str| catalogue.get(name).is_some_and(|topic| topic.id().to_string() == id);
        let topics = record.topics.iter().filter(|(name, id)| is_there(name, id));
        topics.map(|(name, _)| name.clone()).collect()
    }

    /// A topic has gone: nothing is held or refused of one that is made by its name.
    pub(crate) fn topic_deleted(&self, name: &str) {
        let topic = [name.to_owned()];
        self.groups.set_gate(&topic, &Gate::Open);
        self.transactions.set_gate(&topic, &Gate::Open);
    }

    /// From now on old clients are sent on, if that was decided.
    fn redirect(&self, id: &str, record: &MoveRecord) {
        if let Some(to) = &record.redirect {
            self.groups.dismiss_members();
            let redirecting = Redirecting::new(id, to.clone(), record.positions_differ);
            *self.moves.redirecting.lock() = Some(Arc::new(redirecting));
        }
    }
}

/// What partitions take that are elsewhere.
fn gate_of(record: &MoveRecord) -> Gate {
    match record.redirect {
        None => Gate::Moved(record.target.clone().into()),
        Some(_) => Gate::Redirected(record.target.clone().into()),
    }
}

fn partitions_of(catalogue: &Catalogue, topics: &[String]) -> Vec<Partition> {
    let found = topics.iter().filter_map(|name| catalogue.get(name));
    found.flat_map(|topic| topic.partitions().iter().cloned()).collect()
}
