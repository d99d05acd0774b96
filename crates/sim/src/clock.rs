//! Virtual time: tokio's paused clock, slow disks on top of it, and a wall clock that jumps.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::seam::Clock;
use parking_lot::Mutex;
use tokio::time::Instant;

/// The clock of a run. It lives through all lives of the broker.
#[derive(Debug)]
pub struct SimClock {
    /// When the present life began, by tokio's clock, and how long all of them took before that.
    began: Mutex<(Instant, Duration)>,
    /// Time that went by in calls of the disk, ms.
    slow_ms: AtomicU64,
    /// How far the wall clock was moved, ms.
    jumped_ms: AtomicI64,
}

/// When the first life begins, by the wall clock: 2026-01-01.
const EPOCH_MS: i64 = 1_767_225_600_000;

impl SimClock {
    /// A clock that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self {
            began: Mutex::new((Instant::now(), Duration::ZERO)),
            slow_ms: AtomicU64::new(0),
            jumped_ms: AtomicI64::new(0),
        }
    }

    /// A life begins, in a runtime of its own.
    pub fn begin(&self) {
        self.began.lock().0 = Instant::now();
    }

    /// It ends.
    pub fn end(&self) {
        let mut began = self.began.lock();
        *began = (Instant::now(), began.1 + began.0.elapsed());
    }

    /// A call took long.
    pub fn slow(&self, ms: u64) {
        self.slow_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Somebody sets the wall clock.
    pub fn jump(&self, ms: i64) {
        self.jumped_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> i64 {
        EPOCH_MS + self.monotonic().as_millis() as i64 + self.jumped_ms.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        let (began, before) = *self.began.lock();
        before + began.elapsed() + Duration::from_millis(self.slow_ms.load(Ordering::Relaxed))
    }
}
