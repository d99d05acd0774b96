//! Work that must not be done in the caller's task.

use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use anabranch_core::seam::Workers;
use tokio::sync::oneshot;

/// Runs `work` off the async threads. Panics as it does.
pub(crate) async fn blocking<T: Send + 'static>(
    workers: &Arc<dyn Workers>,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, done) = oneshot::channel();
    workers.block(Box::new(move || {
        let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
    }));
    match done.await {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => resume_unwind(panic),
        // The runtime shuts down, and nobody goes on.
        Err(_) => pending().await,
    }
}

/// Runs `work` to its end even when the caller goes away in the middle; `None` when the runtime shuts down.
pub(crate) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    match tokio::spawn(work).await {
        Ok(done) => Some(done),
        Err(failed) if failed.is_panic() => resume_unwind(failed.into_panic()),
        Err(_) => None,
    }
}
