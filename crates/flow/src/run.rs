//! A flow that is open: its parts, side by side.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use anabranch_core::engine::{Engine, Place, Position};
use futures::future::{join, join_all, try_join_all};
use tokio::sync::watch;

use crate::FlowError;
use crate::metrics::{Metrics, Snapshot};
use crate::part::{Part, blocking};

/// Bytes that all reads together ask for. There is one read per partition at a time.
pub(crate) const READ_BYTES: usize = 16 << 20;

/// A flow that is ready to run. One process at a time has its state open.
///
/// After an error nothing is lost: what was committed stays, and the flow, opened again, goes on from there.
pub struct OpenFlow {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) metrics: Arc<Metrics>,
    /// None if the shards read the sources themselves.
    pub(crate) intakes: Vec<Part>,
    pub(crate) shards: Vec<Part>,
}

/// Tells parts when to stop.
struct Stop(watch::Sender<bool>);

impl Stop {
    fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    fn now(&self) {
        self.0.send_replace(true);
    }

    fn stopped(&self) -> impl Future<Output = ()> + use<> {
        let mut told = self.0.subscribe();
        async move {
            let _ = told.wait_for(|stop| *stop).await;
        }
    }
}

impl OpenFlow {
    /// How the flow is doing; valid, and kept up to date, for as long as anyone holds it.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Runs until `shutdown` is done, then commits and stops.
    ///
    /// # Errors
    /// [`FlowError`] says what stopped the flow.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<Snapshot, FlowError> {
        let outcome = self.drive(shutdown).await;
        self.finish(outcome).await
    }

    async fn drive(&mut self, shutdown: impl Future<Output = ()>) -> Result<(), FlowError> {
        let stop = Stop::new();
        let parts = self.intakes.iter_mut().chain(&mut self.shards);
        let mut running = pin!(together(parts.map(|part| part.drive(None, stop.stopped())), &stop));
        tokio::select! {
            biased;
            outcome = &mut running => outcome,
            () = shutdown => {
                stop.now();
                running.await
            }
        }
    }

    /// Runs until everything is read that the sources held at the start, then closes all windows, commits and stops.
    /// Input that comes later continues the flow when it is opened again; what it brings for the closed windows is late.
    ///
    /// # Errors
    /// [`FlowError`] says what stopped the flow.
    pub async fn run_until_end(mut self) -> Result<Snapshot, FlowError> {
        let outcome = self.drive_to_end().await;
        self.finish(outcome).await
    }

    async fn drive_to_end(&mut self) -> Result<(), FlowError> {
        let Self { engine, intakes, shards, .. } = self;
        let engine = &**engine;
        if !intakes.is_empty() {
            // Shards follow while intakes go on, so that little stands between them.
            let ends = try_join_all(intakes.iter().map(|part| ends_of(engine, part))).await?;
            let (stop, ended) = (Stop::new(), Stop::new());
            let intakes = intakes.iter_mut().zip(&ends);
            let taken_in = async {
                let drives = intakes.map(|(part, ends)| part.drive(Some(ends), stop.stopped()));
                let outcome = together(drives, &stop).await;
                ended.now();
                outcome
            };
            let drives = shards.iter_mut().map(|part| part.drive(None, ended.stopped()));
            let follow = async {
                let outcome = together(drives, &ended).await;
                if outcome.is_err() {
                    stop.now();
                }
                outcome
            };
            let (taken_in, followed) = join(taken_in, follow).await;
            taken_in?;
            followed?;
        }
        let mut ends = try_join_all(shards.iter().map(|part| ends_of(engine, part))).await?;
        for (part, ends) in shards.iter().zip(&mut ends) {
            for (input, end) in part.inputs.iter().zip(ends) {
                // What an intake has committed may be shown a moment later.
                let reached = intakes.iter().filter_map(|intake| intake.reached.get(input)).copied();
                *end = reached.fold(*end, Position::max);
            }
        }
        let stop = Stop::new();
        let drives = shards.iter_mut().zip(&ends).map(|(part, ends)| part.drive(Some(ends), stop.stopped()));
        together(drives, &stop).await?;
        let last = try_join_all(shards.iter_mut().map(Part::last_end_ms)).await?;
        let Some(end_ms) = last.into_iter().flatten().max() else { return Ok(()) };
        let closed = join_all(shards.iter_mut().map(|part| part.close(end_ms))).await;
        closed.into_iter().collect()
    }

    /// Closes the state where that may block.
    async fn finish(self, outcome: Result<(), FlowError>) -> Result<Snapshot, FlowError> {
        let Self { intakes, shards, metrics, .. } = self;
        blocking(move || drop((intakes, shards))).await?;
        outcome.map(|()| metrics.snapshot())
    }
}

/// Where the part's inputs end now.
async fn ends_of(engine: &dyn Engine, part: &Part) -> Result<Vec<Position>, FlowError> {
    Ok(try_join_all(part.inputs.iter().map(|input| engine.locate(input, Place::Latest))).await?)
}

/// Drives parts side by side. The first that fails stops the others, where they can commit; none is left in the middle of a
/// commit. Of several errors, that others have taken over says most.
async fn together(
    drives: impl Iterator<Item = impl Future<Output = Result<(), FlowError>>>,
    stop: &Stop,
) -> Result<(), FlowError> {
    let drives = drives.map(|drive| async {
        let outcome = drive.await;
        if outcome.is_err() {
            stop.now();
        }
        outcome
    });
    let errors = join_all(drives).await.into_iter().filter_map(Result::err);
    match errors.min_by_key(|error| !error.is_replaced()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

impl std::fmt::Debug for OpenFlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inputs = |parts: &[Part]| parts.iter().flat_map(|part| part.inputs.clone()).collect::<Vec<_>>();
        f.debug_struct("OpenFlow")
            .field("engine", &self.engine)
            .field("intakes", &inputs(&self.intakes))
            .field("shards", &inputs(&self.shards))
            .finish_non_exhaustive()
    }
}
