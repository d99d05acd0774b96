//! Threads that are none: everything runs on one, in an order that the seed chooses. What would have a thread of its own
//! is late at times, as one that syncs is: meanwhile more gathers for it to do.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use anabranch_core::seam::{Dedicated, Task, Workers};
use parking_lot::Mutex;

use crate::random::Chance;

/// Runs blocking work some turns of the runtime later.
#[derive(Debug)]
pub struct SimWorkers {
    chance: Mutex<Chance>,
}

impl SimWorkers {
    /// Workers whose turns follow from `chance`.
    #[must_use]
    pub fn new(chance: Chance) -> Self {
        Self { chance: Mutex::new(chance) }
    }
}

impl Workers for SimWorkers {
    fn block(&self, work: Box<dyn FnOnce() + Send>) {
        // Never at once: whoever asks may be polled by the disk, in the middle of somebody else's call.
        let turns = self.chance.lock().below(4);
        tokio::spawn(async move {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            work();
        });
    }

    fn dedicate(&self, _name: &'static str, mut task: Task) -> io::Result<Dedicated> {
        let mut chance = self.chance.lock().fork();
        // Busy so long at most, between the moment that it is woken and the one that it sees what there is to do.
        let busy_max = *chance.pick(&[0, 4, 20, 20]);
        let mut busy = 0;
        tokio::spawn(poll_fn(move |cx| {
            if busy > 0 {
                busy -= 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            busy = chance.between(0..=busy_max);
            task.as_mut().poll(cx)
        }));
        Ok(Dedicated::detached())
    }
}
