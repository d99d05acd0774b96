//! Drives a part of a flow against an engine: reads, lets it work off the async threads, makes its steps happen.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{Block, Capability, Engine, Fetched, Position, ReadLimits, Reader};
use anabranch_core::seam::Clock;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, TryFutureExt};
use parking_lot::Mutex;

use crate::FlowError;
use crate::delivery::Delivery;
use crate::metrics::Metrics;
use crate::work::{Chunk, Logged, Step, Work};

/// What one read asks for, whatever the number of partitions.
const READ_BYTES_MIN: usize = 64 << 10;
const READ_BYTES_MAX: usize = 1 << 20;
/// How long a read waits for news: no longer than the commit interval, so that it is kept, and not so short as to spin.
const READ_WAIT_MAX: Duration = Duration::from_millis(500);
const READ_WAIT_MIN: Duration = Duration::from_millis(5);
/// Records of the topic between sources and shards that are left there when their shard has committed them.
const TRIM_RECORDS: u64 = 10_000;

/// A part that is ready to run.
pub(crate) struct Part {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) inputs: Vec<TopicPartition>,
    pub(crate) commit_interval: Duration,
    /// What all its reads together may ask for.
    pub(crate) read_bytes: usize,
    pub(crate) last_commit: Duration,
    pub(crate) metrics: Arc<Metrics>,
    /// The part's own in the metrics.
    pub(crate) number: usize,
    pub(crate) delivery: Delivery,
    /// Where what went out to each partition ended.
    pub(crate) reached: BTreeMap<TopicPartition, Position>,
    /// Its input is the flow's own, and is deleted behind it, from here on.
    pub(crate) trimmed: Option<Position>,
    /// Locked by one blocking call at a time, so that none ever waits.
    pub(crate) worker: Arc<Mutex<dyn Work>>,
}

/// What a read brought from which input, and what to read on with.
struct Arrival {
    input: usize,
    reader: Box<dyn Reader>,
    fetched: Result<Fetched, FlowError>,
}

impl Part {
    /// Runs until `shutdown` is done, or the inputs are read up to `ends`; then commits.
    pub(crate) async fn drive(
        &mut self,
        ends: Option<&[Position]>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), FlowError> {
        let mut shutdown = pin!(shutdown);
        let end_of = |input: usize| ends.map(|ends| ends[input]);
        // First of all, a commit that was interrupted is finished.
        self.commit().await?;
        let mut reads = FuturesUnordered::new();
        let mut chunks = Vec::new();
        let positions = self.on_worker(|worker| worker.positions()).await?;
        for (input, next) in positions.into_iter().enumerate() {
            match end_of(input) {
                // (A position after the end is the engine's to refuse.)
                Some(end) if next == end => {
                    let fetched = Fetched { block: Block::EMPTY, next, latest: end };
                    chunks.push(Chunk { input, fetched, end: Some(end) });
                }
                _ => {
                    let reader = self.engine.reader(&self.inputs[input], next).await?;
                    reads.push(self.read(input, reader));
                }
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
            for Arrival { input, reader, fetched } in arrivals {
                let fetched = fetched?;
                let end = end_of(input);
                if end.is_none_or(|end| fetched.next < end) {
                    reads.push(self.read(input, reader));
                }
                chunks.push(Chunk { input, fetched, end });
            }
        }
        self.commit().await
    }

    fn read(&self, input: usize, mut reader: Box<dyn Reader>) -> BoxFuture<'static, Arrival> {
        let limits = ReadLimits {
            bytes_max: (self.read_bytes / self.inputs.len()).clamp(READ_BYTES_MIN, READ_BYTES_MAX),
            wait_max: self.commit_interval.clamp(READ_WAIT_MIN, READ_WAIT_MAX),
        };
        let read = async move {
            let fetched = reader.read(limits).err_into().await;
            Arrival { input, reader, fetched }
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

    /// Where the last of its windows ends.
    pub(crate) async fn last_end_ms(&mut self) -> Result<Option<i64>, FlowError> {
        self.on_worker(|worker| worker.last_end_ms()).await?
    }

    /// Declares all windows up to `end_ms` complete, and commits what comes of it.
    pub(crate) async fn close(&mut self, end_ms: i64) -> Result<(), FlowError> {
        self.on_worker(move |worker| worker.close(end_ms)).await?;
        self.commit().await
    }

    async fn commit(&mut self) -> Result<(), FlowError> {
        self.last_commit = self.clock.monotonic();
        let mut steps = 0;
        let mut step = self.on_worker(|worker| worker.commit_step()).await??;
        while let Some(next) = step {
            // Asked before, since what a part that is held up here has missed must not look new.
            let at_ms = self.clock.now_ms();
            let logged = self.deliver(next).await?.map(|position| Logged { position, at_ms });
            let go_on = move |worker: &mut dyn Work| {
                worker.step_done(logged)?;
                worker.commit_step()
            };
            step = self.on_worker(go_on).await??;
            steps += 1;
        }
        if steps > 0 {
            self.metrics.update(self.number, |snapshot| snapshot.commits += 1);
            self.trim().await?;
        }
        Ok(())
    }

    async fn deliver(&mut self, step: Step) -> Result<Option<Position>, FlowError> {
        let delivered = self.delivery.deliver(&*self.engine, &self.inputs, step).await?;
        self.reached.extend(delivered.reached);
        Ok(delivered.logged)
    }

    /// Deletes what was read and committed, now and then.
    async fn trim(&mut self) -> Result<(), FlowError> {
        let Some(trimmed) = self.trimmed else { return Ok(()) };
        if !self.engine.description().has(Capability::Trim) {
            return Ok(());
        }
        let committed = self.on_worker(|worker| worker.positions()).await?[0];
        if committed.0.saturating_sub(trimmed.0) < TRIM_RECORDS {
            return Ok(());
        }
        self.trimmed = Some(committed);
        if let Err(error) = self.engine.trim(&self.inputs[0], committed).await {
            tracing::warn!(input = %self.inputs[0], %error, "what a flow has read is not deleted, and takes room");
        }
        Ok(())
    }

    /// Lets the worker work where it may block, and reports how things stand then.
    async fn on_worker<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut dyn Work) -> R + Send + 'static,
    ) -> Result<R, FlowError> {
        let (worker, metrics, number) = (Arc::clone(&self.worker), Arc::clone(&self.metrics), self.number);
        blocking(move || {
            let mut worker = worker.lock();
            let done = work(&mut *worker);
            metrics.update(number, |snapshot| worker.report(snapshot));
            done
        })
        .await
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

/// Runs `work` off the async threads; its panics are the caller's.
pub(crate) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, FlowError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => FlowError::RuntimeStopped,
    })
}
