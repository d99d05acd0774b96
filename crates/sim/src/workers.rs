//! Threads that are none: everything runs on one, in an order that the seed chooses.

use std::io;

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

    fn dedicate(&self, _name: &'static str, task: Task) -> io::Result<Dedicated> {
        tokio::spawn(task);
        Ok(Dedicated::detached())
    }
}
