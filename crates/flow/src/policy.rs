//! What a flow does where there is a choice. None of these choices is made in silence.

use std::time::Duration;

use crate::window::reach_ms;

/// What becomes of a record that cannot be decoded. It is counted in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undecodable {
    /// The flow stops with an error that names the record; it will stop there again.
    Fail,
    /// The record is left out.
    Drop,
    /// The record goes to this topic as it is, with headers that say where it was and what is wrong ([`crate::header`]).
    ToTopic(String),
}

/// What becomes of a record whose window has closed. It is counted in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Late {
    /// The record is left out.
    Drop,
    /// The window takes records in for longer, at the cost of its state, and emits a corrected result for each commit
    /// that brought some. What is later still is left out.
    Admit {
        /// How long after its end a window still takes records in, in event time.
        allowed_lateness: Duration,
    },
    /// The record goes to this topic as it is, with headers that say where it was and by how much it was late
    /// ([`crate::header`]).
    ToTopic(String),
}

impl Late {
    pub(crate) fn allowed_ms(&self) -> i64 {
        match self {
            Self::Admit { allowed_lateness } => reach_ms(*allowed_lateness),
            Self::Drop | Self::ToTopic(_) => 0,
        }
    }
}

/// How far out of order events come, and how long a silent partition is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disorder {
    bound_ms: i64,
    pub(crate) idle_after: Duration,
}

impl Disorder {
    /// How long a partition may be silent before the others stop waiting for it, unless told otherwise.
    pub const IDLE_AFTER_DEFAULT: Duration = Duration::from_secs(30);

    /// Within a partition an event comes at most `bound` (of event time) after a later one. What comes after that may
    /// be late.
    #[must_use]
    pub fn bounded(bound: Duration) -> Self {
        Self { bound_ms: reach_ms(bound), idle_after: Self::IDLE_AFTER_DEFAULT }
    }

    /// A partition that is read to its end and brings nothing new for `silence` (on the clock) does not hold the flow's
    /// watermark back.
    #[must_use]
    pub fn idle_after(mut self, silence: Duration) -> Self {
        self.idle_after = silence;
        self
    }

    /// The watermark of a partition whose latest event is at `event_ms`.
    pub(crate) fn behind(&self, event_ms: i64) -> i64 {
        event_ms - self.bound_ms
    }
}
