//! What those who drive a coordinator have in common.

use std::collections::HashMap;
use std::time::Duration;

use anabranch_core::seam::Clock;
use tokio::sync::{Notify, oneshot};

use crate::group::RequestId;

/// Who waits for an answer.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    by_request: HashMap<RequestId, oneshot::Sender<T>>,
    next: u64,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { by_request: HashMap::new(), next: 0 }
    }
}

impl<T> Waiting<T> {
    pub(crate) fn add(&mut self) -> (RequestId, oneshot::Receiver<T>) {
        let (sender, answer) = oneshot::channel();
        let request = RequestId(self.next);
        self.next += 1;
        self.by_request.insert(request, sender);
        (request, answer)
    }

    pub(crate) fn answer(&mut self, request: RequestId, response: T) {
        if let Some(waiting) = self.by_request.remove(&request) {
            // Nobody waits any more: the connection is gone.
            let _ = waiting.send(response);
        }
    }

    /// Nothing will be answered any more.
    pub(crate) fn clear(&mut self) {
        self.by_request.clear();
    }
}

/// Lets time do its work: `tick` when something is `due`. Woken through `wake` when that has become earlier.
pub(crate) async fn keep_time(
    clock: &dyn Clock,
    wake: &Notify,
    due: impl Fn() -> Option<Duration>,
    tick: impl Fn(),
) {
    loop {
        match due().map(|due| due.saturating_sub(clock.monotonic())) {
            Some(Duration::ZERO) => tick(),
            Some(wait) => {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = wake.notified() => {}
                }
            }
            None => wake.notified().await,
        }
    }
}
