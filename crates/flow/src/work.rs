//! What a part of a flow does, seen from its driver: told what was read, it says what is to be appended.
//!
//! A part does no I/O but on its state, and reads no clock; [`crate::part`] goes between it and the engine.

use std::time::Duration;

use anabranch_core::batch::Record;
use anabranch_core::engine::{Fetched, Position};

use crate::FlowError;
use crate::metrics::Snapshot;
use crate::outbox::Outgoing;

/// What happens together.
#[derive(Debug)]
pub(crate) struct Step {
    /// What goes out: results, what went aside, what goes to shards.
    pub(crate) outgoing: Outgoing,
    /// What the part's log is told; the newest progress is the last.
    pub(crate) log: Vec<Record>,
    /// Where the input stands, as far as that is news: index among the part's inputs, and the record that is read next.
    pub(crate) positions: Vec<(usize, Position)>,
}

/// Where the last append of a step is in the log, and a moment before it was appended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Logged {
    pub(crate) position: Position,
    pub(crate) at_ms: i64,
}

/// What was read from an input.
pub(crate) struct Chunk {
    /// Index among the part's inputs.
    pub(crate) input: usize,
    pub(crate) fetched: Fetched,
    /// The input ends here, if it does.
    pub(crate) end: Option<Position>,
}

/// A part, without its types.
pub(crate) trait Work: Send {
    /// What is read next, per input.
    fn positions(&self) -> Vec<Position>;

    /// Takes in what was read at `now`.
    fn take_in(&mut self, chunks: Vec<Chunk>, now: Duration);

    /// Works on what was taken in. Ends early, with `true`, when a commit is due first.
    fn work(&mut self) -> Result<bool, FlowError>;

    /// Takes the next step of a commit, and says what it comes to. `None` when the commit is complete.
    fn commit_step(&mut self) -> Result<Option<Step>, FlowError>;

    /// The step has happened: its changes go to the store, if there is one.
    fn step_done(&mut self, logged: Option<Logged>) -> Result<(), FlowError>;

    /// Where the last of its windows ends; to be called with nothing left to commit.
    fn last_end_ms(&self) -> Result<Option<i64>, FlowError>;

    /// Declares all windows up to `end_ms` complete, because the input has ended.
    fn close(&mut self, end_ms: i64);

    /// Brings a snapshot up to date.
    fn report(&self, into: &mut Snapshot);
}
