//! Old clients after a move that sends them on (ADR 0023): who is told what, and when.
//!
//! A client that finds the target goes on there with what it has in memory: a batch that may be stored or not, and positions. So it is
//! not told at once. First it stays here, and gets what settles that:
//!
//! 1. *Telling*: batches that are stored are answered as they were, and new ones are to be tried again. Members of groups hear that they
//!    are none any more, and throw their positions away.
//! 2. *Parting*: every member has heard it, or its session is over. Whoever still reads is in no group, and has positions that nobody can
//!    take away: if they mean other records in the target, it is refused.
//! 3. *Sending*: the door names the target's brokers as this cluster's.
//!
//! The stages are in memory only. A server that starts again begins with the first: what it does not know then is who was told.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::broker::Broker;
use crate::groups::GroupService;

/// So long clients stay here at least. One whose connection broke when the move was decided is back by then: librdkafka and Java try
/// again after 0.1 s, and then after twice as long.
const STAY_MIN: Duration = Duration::from_secs(5);
/// So long members are waited for at most, which is Kafka's usual session. Who hears nothing in that time is known to nobody in the
/// target, and cannot commit there.
const TELL_MAX: Duration = Duration::from_secs(45);
/// What a member has heard it has acted upon by then: until its application has let its partitions go, librdkafka reads on.
const HEAR_MAX: Duration = Duration::from_secs(1);
/// Every request asks how far it is; members are counted no oftener than this.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// So long whoever reads without a group has to be refused: it asks at least every half second.
const PART_MIN: Duration = Duration::from_secs(2);

/// Where old clients are sent: the target as its own metadata describes it. Clients know brokers by their ids, so these are the
/// target's own: what a client learns here agrees with what it learns there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// The cluster's id.
    pub cluster: String,
    /// Its brokers, at least one.
    pub nodes: Vec<Node>,
}

/// A broker of the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: i32,
    /// Where clients reach it.
    pub host: String,
    /// And by which port.
    pub port: u16,
}

/// How far it is with old clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Members of groups hear that they are none.
    Telling,
    /// Nobody in a group reads any more.
    Parting,
    /// Clients are sent on.
    Sending,
}

/// What becomes of old clients, now.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// Where they are sent in the end.
    pub to: Arc<Elsewhere>,
    /// What they are told.
    pub stage: Stage,
    /// A position means another record there.
    pub positions_differ: bool,
}

/// A redirection from when it was decided, or this broker was opened.
#[derive(Debug)]
pub(crate) struct Redirecting {
    /// The move that it belongs to.
    pub(crate) id: String,
    to: Arc<Elsewhere>,
    positions_differ: bool,
    since: Instant,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    /// Since when every member has heard it.
    told: Option<Instant>,
    /// When it was looked last whether they have.
    looked: Option<Instant>,
    is_sending: bool,
}

impl Redirecting {
    pub(crate) fn new(id: &str, to: Elsewhere, positions_differ: bool) -> Self {
        let progress = Mutex::default();
        Self { id: id.to_owned(), to: Arc::new(to), positions_differ, since: Instant::now(), progress }
    }

    fn look(&self, groups: &GroupService) -> Redirect {
        let mut progress = self.progress.lock();
        let stay = self.since.elapsed();
        let is_due = progress.looked.is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL);
        if progress.told.is_none() && is_due {
            progress.looked = Some(Instant::now());
            let untold = groups.untold_members();
            if untold.is_empty() || stay >= TELL_MAX {
                progress.told = Some(Instant::now());
            }
            if let (true, Some((group, member))) = (progress.told.is_some(), untold.first()) {
                tracing::warn!(
                    group,
                    member,
                    members = untold.len(),
                    "members were not heard of since the move; clients are sent on without them"
                );
            }
        }
        let heard = progress.told.and_then(|told| told.elapsed().checked_sub(HEAR_MAX));
        let has_parted = heard.is_some_and(|heard| heard >= PART_MIN);
        if !progress.is_sending && has_parted && stay >= STAY_MIN {
            progress.is_sending = true;
            tracing::info!(target = self.to.cluster, after = ?stay, "old clients are sent on");
        }
        let stage = match (progress.is_sending, heard) {
            (true, _) => Stage::Sending,
            (false, Some(_)) => Stage::Parting,
            (false, None) => Stage::Telling,
        };
        Redirect { to: Arc::clone(&self.to), stage, positions_differ: self.positions_differ }
    }
}

impl Broker {
    /// What becomes of old clients, if this broker's topics have moved and the move sends them on.
    #[must_use]
    pub fn redirect(&self) -> Option<Redirect> {
        let redirecting = self.0.moves.redirecting()?;
        Some(redirecting.look(self.groups()))
    }
}
