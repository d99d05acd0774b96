//! How event time is cut into windows: one file per kind.

mod hopping;
mod session;
mod tumbling;

pub use hopping::Hopping;
pub use session::Session;
pub(crate) use session::merge;
pub use tumbling::Tumbling;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A span of event time: from `start_ms` on, and before `end_ms`. Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Window {
    /// The first millisecond inside.
    pub start_ms: i64,
    /// The first millisecond after.
    pub end_ms: i64,
}

/// A way to cut event time into windows. Window kinds do no I/O and keep nothing.
pub trait WindowKind: Send + Sync {
    /// Adds the windows that an event at `at_ms` belongs to: at least one, each around `at_ms`. The flow keeps `at_ms`
    /// so far from the ends of `i64` that sums with a window's length do not overflow.
    fn assign(&self, at_ms: i64, into: &mut Vec<Window>);

    /// Whether windows of one key that touch become one ([`Session`]). Such a kind assigns one window per event.
    fn merges(&self) -> bool {
        false
    }

    /// The kind and its lengths, in words. State made under one description is not opened under another.
    fn describe(&self) -> String;
}

impl Window {
    /// Whether both have a moment in common, or one begins where the other ends.
    pub(crate) fn touches(self, other: Self) -> bool {
        self.start_ms <= other.end_ms && other.start_ms <= self.end_ms
    }

    /// The shortest window that holds both.
    pub(crate) fn span(self, other: Self) -> Self {
        Self { start_ms: self.start_ms.min(other.start_ms), end_ms: self.end_ms.max(other.end_ms) }
    }

    fn starting_at(start_ms: i64, size_ms: i64) -> Self {
        Self { start_ms, end_ms: start_ms + size_ms }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start_ms, self.end_ms)
    }
}

/// Event times and lengths are held within 73 million years of the epoch, so that sums of them never overflow.
const REACH_MS: i64 = i64::MAX / 4;

/// `at_ms`, held within reach of window arithmetic.
pub(crate) fn within_reach(at_ms: i64) -> i64 {
    at_ms.clamp(-REACH_MS, REACH_MS)
}

/// Milliseconds of `length`, held within reach of window arithmetic.
pub(crate) fn reach_ms(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX).min(REACH_MS)
}

/// Milliseconds of a window's length.
fn length_ms(length: Duration) -> i64 {
    let ms = reach_ms(length);
    assert!(ms > 0, "a window is at least a millisecond long");
    ms
}

/// The largest multiple of `step_ms` that is not above `at_ms`.
fn floor(at_ms: i64, step_ms: i64) -> i64 {
    at_ms - at_ms.rem_euclid(step_ms)
}
