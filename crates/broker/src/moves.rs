//! Topics that are being moved to another engine, and those that were: what keeps them whole meanwhile, what holds them still for
//! a moment, and the one durable record that decides that the truth is elsewhere.
//!
//! A mover copies; it is a client, or another program in this process. *Copying*, its topics are not compacted and nothing of
//! them expires. *Held*, nothing is appended to them and nobody commits for them, for as long as the lease goes: when the mover
//! dies, it ends by itself. What repeats what was stored is answered as it was. *Moved*, they take nothing any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_log::{AppendError, Gate, Roll};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::broker::{Broker, Shared};
use crate::catalogue::{Catalogue, Key, MovePhase, MoveRecord, Version};
use crate::error::TopicError;
use crate::partition::Partition;
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
    /// The topics are not those that the mover knows: one was deleted, or has more partitions.
    #[error("topic {0} is not what it was when the move began")]
    Changed(String),
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

/// The moves of a broker.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// By the id of the move; held to look or to change only.
    entries: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    record: MoveRecord,
    hold: Option<Holding>,
}

#[derive(Debug, Clone, Copy)]
struct Holding {
    token: u64,
    until: Instant,
    /// It is being decided: the gates do not open when the lease runs out.
    is_deciding: bool,
}

impl Moves {
    pub(crate) fn new(restored: BTreeMap<String, MoveRecord>) -> Self {
        let entries = restored.into_iter().map(|(id, record)| (id, Entry { record, hold: None }));
        Self { entries: Mutex::new(entries.collect()) }
    }

    /// Topics of which nothing is to be lost.
    pub(crate) fn pinned(&self) -> BTreeSet<String> {
        let entries = self.entries.lock();
        let copying = entries.values().filter(|entry| entry.record.phase == MovePhase::Copying);
        copying.flat_map(|entry| entry.record.topics.keys().cloned()).collect()
    }
}

impl Broker {
    /// Begins the move `id` of `topics` to `target`, or goes on with it. Durable when it returns. Tells whether it was decided
    /// before, and where to.
    ///
    /// # Errors
    /// [`MovingError`].
    pub async fn begin_move(
        &self,
        id: &str,
        topics: &[String],
        target: &str,
    ) -> Result<Option<String>, MovingError> {
        let (broker, id, topics, target) = (self.clone(), id.to_owned(), topics.to_vec(), target.to_owned());
        let begun = async move { broker.0.begin_move(&id, &topics, &target).await };
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
            if entry.hold.is_some_and(|hold| hold.is_deciding) {
                return Err(MovingError::NotHeld);
            }
            entry.hold = Some(Holding { token: hold.token, until, is_deciding: false });
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
    ///
    /// # Errors
    /// [`MovingError::NotHeld`], and nothing is decided; [`MovingError::Catalogue`].
    pub async fn decide_move(&self, id: &str, hold: MoveHold) -> Result<(), MovingError> {
        let (broker, id) = (self.clone(), id.to_owned());
        let decided = async move { broker.0.decide_move(&id, hold).await };
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

    /// Where the topic was moved to, if it was.
    #[must_use]
    pub fn moved_to(&self, topic: &str) -> Option<String> {
        let entries = self.0.moves.entries.lock();
        if entries.is_empty() {
            return None;
        }
        let id = self.topics().get(topic)?.id().to_string();
        let moved = entries.values().find(|entry| {
            entry.record.phase == MovePhase::Moved && entry.record.topics.get(topic) == Some(&id)
        });
        moved.map(|entry| entry.record.target.clone())
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
    async fn begin_move(
        &self,
        id: &str,
        topics: &[String],
        target: &str,
    ) -> Result<Option<String>, MovingError> {
        let _turn = self.writer.turn().await?;
        let catalogue = Arc::clone(&self.catalogue.read());
        let mut ids = BTreeMap::new();
        for name in topics {
            let topic = catalogue.get(name).filter(|topic| !topic.is_internal());
            let topic = topic.ok_or_else(|| TopicError::Unknown(name.clone()))?;
            ids.insert(name.clone(), topic.id().to_string());
        }
        let record = MoveRecord {
            version: Version,
            phase: MovePhase::Copying,
            target: target.to_owned(),
            topics: ids,
        };
        {
            let entries = self.moves.entries.lock();
            if let Some(entry) = entries.get(id) {
                if entry.record.phase == MovePhase::Moved {
                    return Ok(Some(entry.record.target.clone()));
                }
                if entry.record == record {
                    return Ok(None);
                }
            }
            for (other, entry) in entries.iter().filter(|(other, _)| *other != id) {
                let taken =
                    record.topics.iter().find(|(name, id)| entry.record.topics.get(*name) == Some(id));
                if let Some((topic, _)) = taken {
                    return Err(MovingError::Taken { topic: topic.clone(), other: other.clone() });
                }
            }
        }
        self.write(Key::Move(id.to_owned()).record(&record)).await?;
        self.moves.entries.lock().insert(id.to_owned(), Entry { record, hold: None });
        Ok(None)
    }

    /// The topics of a move that is copying, if they are what the mover knows.
    fn known(&self, id: &str, partitions: &[TopicPartition]) -> Result<Vec<String>, MovingError> {
        let entries = self.moves.entries.lock();
        let entry = entries.get(id).filter(|entry| entry.record.phase == MovePhase::Copying);
        let entry = entry.ok_or_else(|| MovingError::Unknown(id.to_owned()))?;
        let catalogue = Arc::clone(&self.catalogue.read());
        for (name, topic_id) in &entry.record.topics {
            let count = partitions.iter().filter(|at| at.topic == *name).count();
            let topic = catalogue.get(name).filter(|topic| topic.id().to_string() == *topic_id);
            if topic.is_none_or(|topic| topic.partitions().len() != count) {
                return Err(MovingError::Changed(name.clone()));
            }
        }
        Ok(entry.record.topics.keys().cloned().collect())
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
        let hold = entries.get(id).and_then(|entry| entry.hold);
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
        if entry.hold.is_some_and(|hold| hold.token == token && !hold.is_deciding) {
            entry.hold = None;
            let topics: Vec<_> = entry.record.topics.keys().cloned().collect();
            self.set_gates(&topics, &Gate::Open);
        }
    }

    async fn decide_move(&self, id: &str, hold: MoveHold) -> Result<(), MovingError> {
        let _turn = self.writer.turn().await?;
        let record = {
            let mut entries = self.moves.entries.lock();
            let entry = entries.get_mut(id).ok_or_else(|| MovingError::Unknown(id.to_owned()))?;
            let holding = entry.hold.as_mut().filter(|holding| {
                holding.token == hold.token && !holding.is_deciding && Instant::now() < holding.until
            });
            holding.ok_or(MovingError::NotHeld)?.is_deciding = true;
            MoveRecord { phase: MovePhase::Moved, ..entry.record.clone() }
        };
        self.write(Key::Move(id.to_owned()).record(&record)).await?;
        let topics: Vec<_> = record.topics.keys().cloned().collect();
        let gate = Gate::Moved(record.target.clone().into());
        tracing::info!(
            id,
            target = record.target,
            topics = topics.len(),
            "topics were moved; they take nothing here any more"
        );
        self.moves.entries.lock().insert(id.to_owned(), Entry { record, hold: None });
        self.set_gates(&topics, &gate);
        Ok(())
    }

    async fn forget_move(&self, id: &str) -> Result<(), MovingError> {
        let _turn = self.writer.turn().await?;
        let topics: Vec<_> = {
            let entries = self.moves.entries.lock();
            let entry = entries.get(id).ok_or_else(|| MovingError::Unknown(id.to_owned()))?;
            entry.record.topics.keys().cloned().collect()
        };
        self.write(Record::tombstone(Key::Move(id.to_owned()).bytes())).await?;
        self.moves.entries.lock().remove(id);
        self.set_gates(&topics, &Gate::Open);
        Ok(())
    }

    /// Closes the gates of what was moved, before anybody comes.
    pub(crate) fn close_moved(&self) {
        let moved: Vec<_> = {
            let catalogue = Arc::clone(&self.catalogue.read());
            let is_same =
                |name: &str, id: &str| catalogue.get(name).is_some_and(|topic| topic.id().to_string() == id);
            let entries = self.moves.entries.lock();
            let moved = entries.values().filter(|entry| entry.record.phase == MovePhase::Moved);
            let each = moved.map(|entry| {
                let topics = entry.record.topics.iter().filter(|(name, id)| is_same(name, id));
                (topics.map(|(name, _)| name.clone()).collect::<Vec<_>>(), entry.record.target.clone())
            });
            each.collect()
        };
        for (topics, target) in moved {
            self.set_gates(&topics, &Gate::Moved(target.into()));
        }
    }
}

fn partitions_of(catalogue: &Catalogue, topics: &[String]) -> Vec<Partition> {
    let found = topics.iter().filter_map(|name| catalogue.get(name));
    found.flat_map(|topic| topic.partitions().iter().cloned()).collect()
}
