//! What clients of transactions did and saw, as they wrote it down, and whether that may have happened.
//!
//! The simulator keeps such histories, and so do real clients (`cargo xtask histories`): one [`Event`] a line, in JSON. A
//! client is one incarnation of a producer, of a loop that reads, processes and writes, or of a reader; what it does it does
//! one after another. Before a client asks for something whose outcome it may not live to hear, it writes the event down with
//! [`Outcome::Unknown`], and again when it knows more. A history ends with readers that have read everything.
//!
//! [`judge`] looks for what Jepsen's test of queues looks for (`jepsen.tests.kafka`): see [`Check`]. It takes what it is told
//! for the truth, reads no clock and touches nothing.
//!
//! Two transactions may write to a partition in turns, so their order there says nothing (Jepsen's G0, which Kafka allows).
//! A reader of committed records comes no further than the first record that is open, so what a transaction reads behind a
//! record of its own does say something.

mod check;
mod cycles;
mod ledger;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::BufRead;

use serde::{Deserialize, Serialize};

pub use check::judge;

/// What a client did or saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Who.
    pub client: String,
    /// What.
    #[serde(flatten)]
    pub op: Op,
    /// Whether it happened.
    pub outcome: Outcome,
    /// When it was written down, microseconds, by a clock that all clients share.
    pub at_us: i64,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// A transaction begins; the client's one before is over.
    Begin,
    /// A record. Outside of a transaction it stands for itself.
    Send {
        /// Where to.
        partition: String,
        /// No other record has it.
        value: String,
        /// Where it is, if the client was told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<i64>,
        /// What it was made of, exactly once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<Source>,
    },
    /// Where a group stands, as a part of the transaction.
    Offsets {
        /// The group.
        group: String,
        /// In which partition.
        partition: String,
        /// What it reads next.
        offset: i64,
    },
    /// The transaction is to be committed.
    Commit,
    /// The transaction is to be aborted.
    Abort,
    /// A reader goes on somewhere else.
    Seek {
        /// In which partition.
        partition: String,
    },
    /// A reader was given everything that it may see from `offset` to `next`.
    Poll {
        /// Of which partition.
        partition: String,
        /// From where on.
        offset: i64,
        /// Where it goes on.
        next: i64,
        /// Offsets and values.
        values: Vec<(i64, String)>,
        /// What it may see.
        isolation: Isolation,
    },
    /// Somebody was told where a group stands.
    Committed {
        /// The group.
        group: String,
        /// In which partition.
        partition: String,
        /// What it reads next.
        offset: i64,
    },
}

/// What a record was made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Source {
    /// The group that reads.
    pub group: String,
    /// From where.
    pub partition: String,
    /// Which record.
    pub offset: i64,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It happened.
    Ok,
    /// It did not happen, and never will.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// What a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Everything.
    ReadUncommitted,
    /// What was committed.
    ReadCommitted,
}

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// What was committed is shown to everybody who comes by.
    LostWrite,
    /// What was not committed is shown to nobody who asked for committed records (G1a).
    AbortedRead,
    /// No transaction sees what follows from it (G1c).
    CircularFlow,
    /// A record is there once, and so is what was made of another.
    Duplicate,
    /// A reader goes forward.
    NonMonotonicPoll,
    /// What a client sends to a partition stands there in this order.
    NonMonotonicSend,
    /// All of a transaction, or nothing; its offsets are a part of it.
    Torn,
    /// A group does not go where an aborted transaction wanted it to.
    AbortedOffsets,
    /// At an offset is one record, for ever.
    OffsetTaken,
    /// What is read was written by somebody.
    Phantom,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LostWrite => "lost write",
            Self::AbortedRead => "aborted read (G1a)",
            Self::CircularFlow => "circular information flow (G1c)",
            Self::Duplicate => "duplicate",
            Self::NonMonotonicPoll => "non-monotonic poll",
            Self::NonMonotonicSend => "non-monotonic send",
            Self::Torn => "torn transaction",
            Self::AbortedOffsets => "offsets of an aborted transaction",
            Self::OffsetTaken => "two records at one offset",
            Self::Phantom => "read and never written",
        })
    }
}

/// Something that may not happen, and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anomaly {
    /// What it is against.
    pub check: Check,
    /// What happened.
    pub what: String,
}

/// What a history comes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// How long the history is.
    pub events: usize,
    /// Who is in it.
    pub clients: usize,
    /// Transactions that their clients know to be committed. Plain sends are none.
    pub committed: usize,
    /// Those that their clients know to be aborted, or never asked to commit.
    pub aborted: usize,
    /// Those whose clients do not know, and readers do: committed.
    pub unknown_committed: usize,
    /// And aborted, or of which nothing is left to see.
    pub unknown_aborted: usize,
    /// Records that were sent.
    pub sent: usize,
    /// Records that readers were given.
    pub read: usize,
    /// What may not happen, and did, by check.
    pub anomalies: Vec<Anomaly>,
}

/// Of each check so many anomalies are shown.
const SHOWN_MAX: usize = 5;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} events of {} clients", self.events, self.clients)?;
        writeln!(
            f,
            "transactions: {} committed, {} aborted, {} of unknown outcome ({} committed, {} aborted)",
            self.committed,
            self.aborted,
            self.unknown_committed + self.unknown_aborted,
            self.unknown_committed,
            self.unknown_aborted,
        )?;
        writeln!(f, "records: {} sent, {} read", self.sent, self.read)?;
        for anomalies in self.anomalies.chunk_by(|one, other| one.check == other.check) {
            writeln!(f, "{}: {}", anomalies[0].check, anomalies.len())?;
            for anomaly in anomalies.iter().take(SHOWN_MAX) {
                writeln!(f, "    {}", anomaly.what)?;
            }
        }
        match self.anomalies.len() {
            0 => write!(f, "verdict: nothing is wrong"),
            count => write!(f, "verdict: WRONG, {count} anomalies"),
        }
    }
}

/// Why a history cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file cannot be read.
    #[error("cannot read the history: {0}")]
    Io(#[from] std::io::Error),
    /// A line is no event.
    #[error("line {line} is no event: {source}")]
    Line {
        /// From 1 on.
        line: usize,
        /// Why not.
        source: serde_json::Error,
    },
    /// Whoever wrote it down made a mistake.
    #[error("event {event} of {client} cannot be: {what}")]
    Senseless {
        /// From 1 on.
        event: usize,
        /// Whose.
        client: String,
        /// Why not.
        what: &'static str,
    },
}

/// The events in `lines`, one a line. A last line without its end was being written when its client was killed.
///
/// # Errors
/// [`HistoryError::Io`], [`HistoryError::Line`].
pub fn parse(mut lines: impl BufRead) -> Result<Vec<Event>, HistoryError> {
    let (mut events, mut text, mut line) = (Vec::new(), String::new(), 0);
    loop {
        text.clear();
        line += 1;
        match lines.read_line(&mut text)? {
            0 => return Ok(events),
            _ if !text.ends_with('\n') => return Ok(events),
            _ => {
                let event = serde_json::from_str(&text);
                events.push(event.map_err(|source| HistoryError::Line { line, source })?);
            }
        }
    }
}
