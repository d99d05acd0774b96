//! What holds the source still for a moment, and decides that it is no longer the truth.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{Engine, Place, Position};
use async_trait::async_trait;
use futures::future::try_join_all;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::MoveError;

/// What is moved, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errand {
    /// Names the move: the same each time it is begun again.
    pub id: String,
    /// The topics, by name.
    pub topics: Vec<String>,
    /// Every partition of them.
    pub partitions: Vec<TopicPartition>,
}

/// Whether a move was decided before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// The source is the truth.
    Copying,
    /// The target is.
    Moved,
    /// Nobody keeps that for the source: the mover's notes tell.
    AsNoted,
}

/// The source stands still.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    /// Until then at least; `None` is for as long as nobody writes.
    pub until: Option<Instant>,
}

/// Holds the source still, and switches over. One move at a time.
#[async_trait]
pub trait Gate: Send + Sync + fmt::Debug {
    /// From now on the source keeps what it has, where that is in the gate's power. Tells what was decided before.
    async fn begin(&self, errand: &Errand) -> Result<Begun, MoveError>;

    /// Waits until the source stands still: nobody appends to the topics or commits for them, and no transaction is open in
    /// them. It goes on by itself when the pause is over or the mover is gone.
    async fn pause(&self) -> Result<Pause, MoveError>;

    /// Lets the source go on.
    async fn go_on(&self);

    /// Decides durably that the target is the truth, if the source has stood still since [`Gate::pause`]; fails with
    /// [`MoveError::NotStill`] otherwise, and has decided nothing. In the partitions of `shifted`, records have other positions there.
    async fn switch(&self, shifted: &[TopicPartition]) -> Result<(), MoveError>;
}

/// A source that nobody here can hold: waits until the operator has stopped whoever writes, and sees that it stays so.
#[derive(Debug)]
pub struct Watching {
    source: Arc<dyn Engine>,
    still: Duration,
    /// What was seen when it stood still.
    seen: Mutex<Option<Seen>>,
    errand: Mutex<Option<Errand>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    ends: Vec<Position>,
}

/// How often a source is looked at that is to stand still.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

impl Watching {
    /// The source stands still when its ends have for as long as `still`.
    pub fn new(source: Arc<dyn Engine>, still: Duration) -> Self {
        Self { source, still, seen: Mutex::default(), errand: Mutex::default() }
    }

    async fn look(&self) -> Result<Seen, MoveError> {
        let errand = self.errand.lock().clone().expect("it has begun");
        let ends = errand.partitions.iter().map(|at| self.source.locate(at, Place::Latest));
        let ends = try_join_all(ends).await.map_err(MoveError::Source)?;
        Ok(Seen { ends })
    }
}

#[async_trait]
impl Gate for Watching {
    async fn begin(&self, errand: &Errand) -> Result<Begun, MoveError> {
        *self.errand.lock() = Some(errand.clone());
        Ok(Begun::AsNoted)
    }

    async fn pause(&self) -> Result<Pause, MoveError> {
        let mut seen = self.look().await?;
        let mut since = Instant::now();
        while since.elapsed() < self.still {
            tokio::time::sleep(LOOK_INTERVAL.min(self.still)).await;
            let now = self.look().await?;
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
        *self.seen.lock() = Some(seen);
        Ok(Pause { until: None })
    }

    async fn go_on(&self) {
        *self.seen.lock() = None;
    }

    async fn switch(&self, _: &[TopicPartition]) -> Result<(), MoveError> {
        let now = self.look().await?;
        match self.seen.lock().as_ref() == Some(&now) {
            true => Ok(()),
            false => Err(MoveError::NotStill { attempts: 1, reason: "somebody appends to it".to_owned() }),
        }
    }
}
