//! Runs a worker against an engine: reads, lets it work off the async threads, appends what it says.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{
    AppendOptions, Block, Engine, Fetched, GroupPositions, Place, Position, ReadLimits, Reader,
    TransactionalProducer,
};
use anabranch_core::seam::Clock;
use futures::future::{BoxFuture, try_join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, TryFutureExt};
use parking_lot::Mutex;

use crate::FlowError;
use crate::metrics::{Metrics, Snapshot};
use crate::outbox::Outgoing;
use crate::worker::{Chunk, Logged, Step, Work};

/// Bytes that all reads together ask for. There is one read per partition at a time.
const READ_BYTES: usize = 16 << 20;
/// What one read asks for, whatever the number of partitions.
const READ_BYTES_MIN: usize = 64 << 10;
const READ_BYTES_MAX: usize = 1 << 20;
/// How long a read waits for news: no longer than the commit interval, so that it is kept, and not so short as to spin.
const READ_WAIT_MAX: Duration = Duration::from_millis(500);
const READ_WAIT_MIN: Duration = Duration::from_millis(5);

/// A flow that is ready to run. One process at a time has its state open.
///
/// After an error nothing is lost: what was committed stays, and the flow, opened again, goes on from there.
pub struct OpenFlow {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sources: Vec<TopicPartition>,
    /// One per source. They are where the worker is to go on.
    pub(crate) readers: Vec<Box<dyn Reader>>,
    pub(crate) commit_interval: Duration,
    pub(crate) last_commit: Duration,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) delivery: Delivery,
    /// Locked by one blocking call at a time, so that none ever waits.
    pub(crate) worker: Arc<Mutex<dyn Work>>,
}

/// How the steps of commits happen.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// Each in one transaction.
    ExactlyOnce {
        producer: Box<dyn TransactionalProducer>,
        changelog: TopicPartition,
        /// It tells tools where the input stands.
        group: Option<String>,
    },
    /// Results first, and then the local store.
    AtLeastOnce,
}

/// What a read brought from which source, and what to read on with.
struct Arrival {
    source: usize,
    reader: Box<dyn Reader>,
    fetched: Result<Fetched, FlowError>,
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
        let outcome = self.drive(None, shutdown).await;
        self.finish(outcome).await
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
        let latest = self.sources.iter().map(|source| self.engine.locate(source, Place::Latest));
        let ends = try_join_all(latest).await?;
        self.drive(Some(&ends), std::future::pending()).await?;
        self.on_worker(|worker| worker.close()).await??;
        self.commit().await
    }

    /// Closes the state where that may block.
    async fn finish(self, outcome: Result<(), FlowError>) -> Result<Snapshot, FlowError> {
        let Self { worker, metrics, .. } = self;
        blocking(move || drop(worker)).await?;
        outcome.map(|()| metrics.snapshot())
    }

    async fn drive(
        &mut self,
        ends: Option<&[Position]>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), FlowError> {
        let mut shutdown = pin!(shutdown);
        let end_of = |partition: usize| ends.map(|ends| ends[partition]);
        // First of all, a commit that was interrupted is finished.
        self.commit().await?;
        let mut reads = FuturesUnordered::new();
        let mut chunks = Vec::new();
        for (partition, reader) in std::mem::take(&mut self.readers).into_iter().enumerate() {
            let next = reader.position();
            match end_of(partition) {
                // (A position after the end is the engine's to refuse.)
                Some(end) if next == end => {
                    let fetched = Fetched { block: Block::EMPTY, next, latest: end };
                    chunks.push(Chunk { partition, fetched, end: Some(end) });
                }
                _ => reads.push(self.read(partition, reader)),
            }
        }
        loop {
            self.work(chunks).await?;
            if self.clock.monotonic().saturating_sub(self.last_commit) >= self.commit_interval {
                self.commit().await?;
            }
            let arrivals = tokio::select! {
                biased;
                () = &mut shutdown => break,
                arrivals = arrived(&mut reads) => arrivals,
            };
            if arrivals.is_empty() {
                break;
            }
            chunks = Vec::with_capacity(arrivals.len());
            for Arrival { source: partition, reader, fetched } in arrivals {
                let fetched = fetched?;
                let end = end_of(partition);
                if end.is_none_or(|end| fetched.next < end) {
                    reads.push(self.read(partition, reader));
                }
                chunks.push(Chunk { partition, fetched, end });
            }
        }
        self.commit().await
    }

    fn read(&self, source: usize, mut reader: Box<dyn Reader>) -> BoxFuture<'static, Arrival> {
        let limits = ReadLimits {
            bytes_max: (READ_BYTES / self.sources.len()).clamp(READ_BYTES_MIN, READ_BYTES_MAX),
            wait_max: self.commit_interval.clamp(READ_WAIT_MIN, READ_WAIT_MAX),
        };
        let read = async move {
            let fetched = reader.read(limits).err_into().await;
            Arrival { source, reader, fetched }
        };
        read.boxed()
    }

    /// Works on `chunks`, with as many commits in between as it takes.
    async fn work(&mut self, chunks: Vec<Chunk>) -> Result<(), FlowError> {
        let now = self.clock.monotonic();
        let mut due = self
            .on_worker(move |worker| {
                worker.take_in(chunks, now);
                worker.work()
            })
            .await??;
        while due {
            self.commit().await?;
            due = self.on_worker(|worker| worker.work()).await??;
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), FlowError> {
        self.last_commit = self.clock.monotonic();
        let mut steps = 0;
        let mut step = self.on_worker(|worker| worker.commit_step()).await??;
        while let Some(next) = step {
            // Asked before, since what a flow that is held up here has missed must not look new.
            let at_ms = self.clock.now_ms();
            let position = self.deliver(next).await?;
            let logged = position.map(|position| Logged { position, at_ms });
            let go_on = move |worker: &mut dyn Work| {
                worker.step_done(logged)?;
                worker.commit_step()
            };
            step = self.on_worker(go_on).await??;
            steps += 1;
        }
        self.metrics.update(|snapshot| snapshot.commits += u64::from(steps > 0));
        Ok(())
    }

    /// Makes a step happen. Where the last batch of the changelog is, if there is a changelog.
    async fn deliver(&mut self, step: Step) -> Result<Option<Position>, FlowError> {
        let Step { outgoing, changelog: logged, positions } = step;
        let Delivery::ExactlyOnce { producer, changelog, group } = &mut self.delivery else {
            append_all(&*self.engine, outgoing).await?;
            return Ok(None);
        };
        let outgoing = outgoing
            .into_iter()
            .flat_map(|(to, batches)| batches.into_iter().map(move |b| (to.clone(), b.into())));
        let logged = logged.into_iter().map(|batch| (changelog.clone(), batch.into()));
        let stands = positions.into_iter().map(|(source, next)| (self.sources[source].clone(), next));
        let positions: Vec<_> = stands.collect();
        let positions =
            group.clone().filter(|_| !positions.is_empty()).map(|group| GroupPositions { group, positions });
        let appended = producer.commit(outgoing.chain(logged).collect(), positions).await?;
        Ok(appended.last().map(|last| last.first))
    }

    /// Lets the worker work where it may block, and reports how things stand then.
    async fn on_worker<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut dyn Work) -> R + Send + 'static,
    ) -> Result<R, FlowError> {
        let (worker, metrics) = (Arc::clone(&self.worker), Arc::clone(&self.metrics));
        blocking(move || {
            let mut worker = worker.lock();
            let done = work(&mut *worker);
            metrics.update(|snapshot| worker.report(snapshot));
            done
        })
        .await
    }
}

impl std::fmt::Debug for OpenFlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenFlow")
            .field("engine", &self.engine)
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

/// Every read that has come back, at least one; none when there is nothing to wait for.
async fn arrived(reads: &mut FuturesUnordered<BoxFuture<'static, Arrival>>) -> Vec<Arrival> {
    let mut arrivals: Vec<_> = reads.next().await.into_iter().collect();
    while let Some(Some(arrival)) = reads.next().now_or_never() {
        arrivals.push(arrival);
    }
    arrivals
}

/// Appends all batches durably: those of one partition one after another, partitions side by side.
async fn append_all(engine: &dyn Engine, outgoing: Outgoing) -> Result<(), FlowError> {
    let append = |(to, batches): (TopicPartition, Vec<bytes::Bytes>)| async move {
        for batch in batches {
            engine.append(&to, batch.into(), AppendOptions::default()).await?;
        }
        Ok::<(), FlowError>(())
    };
    try_join_all(outgoing.into_iter().map(append)).await.map(|_| ())
}

/// Runs `work` off the async threads; its panics are the caller's.
pub(crate) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, FlowError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => FlowError::RuntimeStopped,
    })
}
