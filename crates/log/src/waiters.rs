//! Who waits for a partition to grow.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Waits for any of the partitions that it was registered with.
#[derive(Debug, Clone, Default)]
pub struct Waiter(Arc<Notify>);

impl Waiter {
    /// Not registered anywhere.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns after a partition that this is registered with has grown, or at once if it has already since.
    pub async fn woken(&self) {
        self.0.notified().await;
    }
}

/// The waiters of one partition. A wake-up takes them all off; whoever is not satisfied registers again.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// Weak, so that a waiter that gave up costs nothing but its place until the next wake-up.
    waiting: Mutex<Vec<Weak<Notify>>>,
}

/// Places of waiters that gave up are reclaimed when the list has grown to a multiple of this.
const RECLAIM_EVERY: usize = 64;

impl Waiters {
    pub(crate) fn register(&self, waiter: &Waiter) {
        let mut waiting = self.waiting.lock();
        if waiting.len() % RECLAIM_EVERY == RECLAIM_EVERY - 1 {
            waiting.retain(|notify| notify.strong_count() > 0);
        }
        waiting.push(Arc::downgrade(&waiter.0));
    }

    pub(crate) fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for notify in waiting.iter().filter_map(Weak::upgrade) {
            notify.notify_one();
        }
    }
}
