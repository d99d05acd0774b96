//! Telling that something runs short: once in a while, not each time.

use std::time::Duration;

use anabranch_broker::Broker;
use anabranch_core::budget::Pressure;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::kafka::memory::Memory;

/// How often the same warning is said at most, and how often it is looked whether there is one to say.
const PERIOD: Duration = Duration::from_secs(10);

/// A warning that may be due very often.
#[derive(Debug, Default)]
pub(crate) struct Often {
    /// Protects when it was said last, and how often it was not said since.
    last: Mutex<(Option<Duration>, u64)>,
}

impl Often {
    /// Says it, with how often it was left out before, unless it was said a short while ago. `now` is monotonic.
    pub(crate) fn warn(&self, now: Duration, say: impl FnOnce(u64)) {
        let mut last = self.last.lock();
        let (said, left_out) = *last;
        if said.is_some_and(|said| now < said + PERIOD) {
            last.1 += 1;
            return;
        }
        *last = (Some(now), 0);
        drop(last);
        say(left_out);
    }
}

/// Warns while requests wait for memory or for the log, until the door closes. `/metrics` has the numbers.
pub(crate) async fn watch(broker: Broker, memory: Memory, mut stopping: watch::Receiver<bool>) {
    let kinds = || {
        let kinds = memory.kinds().map(|(kind, budget)| (kind, budget.pressure()));
        let decompression = ("decompression", broker.memory().decompression().pressure());
        let recompression = ("recompression", broker.memory().recompression().pressure());
        kinds.into_iter().chain([decompression, recompression]).collect::<Vec<_>>()
    };
    let (mut before, mut waits_before) = (kinds(), broker.queue_waits());
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let now = kinds();
        for ((kind, now), (_, before)) in now.iter().zip(&before) {
            if let Some(Pressure { waiting, waited, refused }) = since(before, now) {
                tracing::warn!(
                    memory = kind,
                    waiting,
                    waited,
                    refused,
                    "memory is short, and clients are held back; see memory.budget.bytes and queued.max.request.bytes"
                );
            }
        }
        let waits = broker.queue_waits();
        if waits > waits_before {
            tracing::warn!(
                waited = waits - waits_before,
                "appends wait for a place in the queue of the log; see log.queue.appends.max"
            );
        }
        (before, waits_before) = (now, waits);
    }
}

/// What happened in a period, if anything did.
fn since(before: &Pressure, now: &Pressure) -> Option<Pressure> {
    let happened = Pressure {
        waiting: now.waiting,
        waited: now.waited - before.waited,
        refused: now.refused - before.refused,
    };
    (happened != Pressure::default()).then_some(happened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_said_once_in_a_period_and_tells_what_was_left_out() {
        let (often, mut said) = (Often::default(), Vec::new());
        for second in 0..25 {
            for _ in 0..100 {
                often.warn(Duration::from_secs(second), |left_out| said.push((second, left_out)));
            }
        }
        assert_eq!(said, [(0, 0), (10, 999), (20, 999)]);
    }

    #[test]
    fn a_quiet_period_is_not_told() {
        let before = Pressure { waiting: 0, waited: 7, refused: 2 };
        assert_eq!(since(&before, &before), None);
        let now = Pressure { waiting: 1, waited: 9, refused: 2 };
        assert_eq!(since(&before, &now), Some(Pressure { waiting: 1, waited: 2, refused: 0 }));
    }
}
