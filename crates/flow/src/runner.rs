//! A flow that several processes share.

use std::future::Future;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::engine::{Capability, Engine, EngineError, GroupEvent, GroupMember};
use anabranch_core::seam::Clock;
use futures::FutureExt;
use futures::future::{BoxFuture, FusedFuture, OptionFuture, join, join_all};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

use crate::aggregate::Aggregate;
use crate::changelog::stand_by;
use crate::delivery::Mode;
use crate::frame::Frame;
use crate::layout::{Layout, Share};
use crate::metrics::{Metrics, Snapshot};
use crate::part::blocking;
use crate::state::{Role, Store};
use crate::{Definition, FlowError};

/// How long a runner joins again while the engine fails.
const TRIED_FOR: Duration = Duration::from_secs(300);
/// What lasts so long did not fail: longer than a commit is tried.
const LASTS: Duration = Duration::from_secs(120);
/// How soon it joins again, each time later, up to:
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);

/// Runs, in this process, the parts of a flow that are its share.
///
/// Runners of one flow are members of the group of its name, and share the partitions that its parts read: with one shard,
/// one of them runs the flow, and the others wait. When one leaves, or dies and its session is over, the group gives its
/// partitions to others, which bring their local copies of the state to the end of the changelog and go on from there: no
/// window is lost or counted twice. A process that was only held up, and believes that it still has its parts, is fenced.
///
/// ```no_run
/// # use std::{error::Error, sync::Arc, time::Duration};
/// # use anabranch_core::{batch::{Record, RecordAt}, engine::Engine, seam::SystemClock};
/// # use anabranch_flow::{Count, Disorder, Flow, Late, Runner, Tumbling, Undecodable};
/// # async fn example(engine: Arc<dyn Engine>) -> Result<(), Box<dyn Error>> {
/// let clicks = || {
///     Flow::named("clicks-by-minute")
///         .source(["clicks"])
///         .decode(|at: &RecordAt| Ok::<_, String>(at.record.timestamp_ms), Undecodable::Fail)
///         .event_time(|ms| *ms, Disorder::bounded(Duration::from_secs(5)))
///         .key_by(|_| ())
///         .window(Tumbling::of(Duration::from_secs(60)), Late::Drop)
///         .aggregate(Count)
///         .sink("clicks-by-minute", |(), window, count| {
///             Record::new(window.start_ms.to_string(), count.to_string())
///         })
/// };
/// let runner = Runner::new(engine, "state/clicks", Arc::new(SystemClock::new()), clicks);
/// runner.run(async { tokio::signal::ctrl_c().await.unwrap() }).await?;
/// # Ok(()) }
/// ```
pub struct Runner<D> {
    engine: Arc<dyn Engine>,
    state_dir: PathBuf,
    clock: Arc<dyn Clock>,
    define: D,
    stands_by: bool,
    followed: watch::Sender<u64>,
    status: watch::Sender<Status>,
}

/// What a [`Runner`] does.
#[derive(Debug, Clone)]
pub enum Status {
    /// Others run the flow, or it is not known yet who does.
    Waiting,
    /// It opens its share: it brings its state to where the changelog ends.
    Restoring,
    /// It runs its share, which reports here.
    Running(Arc<Metrics>),
}

/// What runs in this process.
struct Turn {
    stop: oneshot::Sender<()>,
    flow: BoxFuture<'static, Result<Snapshot, FlowError>>,
}

/// Why turns are over.
enum End {
    /// It was told to stop.
    Shutdown,
    /// Somebody else has a part of it, whom the group may not have told of yet.
    Fenced,
}

impl<T, K, A, D> Runner<D>
where
    T: 'static,
    K: Serialize + DeserializeOwned + 'static,
    A: Aggregate<T>,
    D: Fn() -> Definition<T, K, A>,
{
    /// A runner of the flow that `define` gives, the same every time. The directory `state_dir` is this process's own.
    pub fn new(
        engine: Arc<dyn Engine>,
        state_dir: impl Into<PathBuf>,
        clock: Arc<dyn Clock>,
        define: D,
    ) -> Self {
        Self {
            engine,
            state_dir: state_dir.into(),
            clock,
            define,
            stands_by: false,
            followed: watch::Sender::new(0),
            status: watch::Sender::new(Status::Waiting),
        }
    }

    /// Whether it keeps a local copy of the state of those shards, too, that others have: then what it takes over from them
    /// is nearly there. It costs the disk, and reading the whole changelog once more. No, unless told otherwise.
    #[must_use]
    pub fn standby(mut self, stands_by: bool) -> Self {
        self.stands_by = stands_by;
        self
    }

    /// How many records of others' changelogs it has taken into its local copies, now and later.
    pub fn followed(&self) -> watch::Receiver<u64> {
        self.followed.subscribe()
    }

    /// What it does, now and later.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Runs what the group gives to it, until `shutdown` is done; then it commits what it has begun, and
    /// others take over at once. When the engine cannot be reached, that takes up to a minute. When it cannot be reached before, or fails, this joins
    /// again, as another process would, and warns; for five minutes, unless it goes well for two in between.
    ///
    /// # Errors
    /// [`FlowError`] says what stopped it, here: others take over. The engine must have groups, and the flow's state must
    /// not be local ([`Definition::at_least_once`]).
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), FlowError> {
        let mut shutdown = pin!(shutdown.fuse());
        let flow = (self.define)().frame();
        flow.check()?;
        self.engine.require(&[Capability::Groups]).map_err(EngineError::from)?;
        let (mut failing_since, mut pause) = (None, AGAIN_AFTER);
        loop {
            let began = Instant::now();
            match self.take_part(&flow, shutdown.as_mut()).await {
                Ok(End::Shutdown) => return Ok(()),
                Ok(End::Fenced) => {
                    tracing::warn!(flow = flow.name, "another process has taken over what this one did");
                }
                Err(error) if error.is_passing() && !shutdown.is_terminated() => {
                    if began.elapsed() >= LASTS {
                        (failing_since, pause) = (None, AGAIN_AFTER);
                    }
                    if failing_since.get_or_insert_with(Instant::now).elapsed() >= TRIED_FOR {
                        return Err(error);
                    }
                    tracing::warn!(flow = flow.name, %error, "it joins again");
                    tokio::select! {
                        () = &mut shutdown => return Ok(()),
                        () = sleep(pause) => {}
                    }
                    pause = AGAIN_AFTER_MAX.min(2 * pause);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Joins, and leaves in the end.
    async fn take_part(
        &self,
        flow: &Frame,
        shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<End, FlowError> {
        let layout = Layout::of(flow, &*self.engine).await?;
        if layout.mode == Mode::Local {
            let reason = "its state is in one process only (at least once), so it cannot run in another";
            return Err(FlowError::Definition { flow: flow.name.clone(), reason });
        }
        let identity: Arc<str> = layout.identity(flow).into();
        let mut member = self.engine.join(&flow.name, &layout.topics(&flow.topics)).await?;
        let end = self.take_turns(&mut *member, &layout, &identity, shutdown).await;
        self.status.send_replace(Status::Waiting);
        let left = member.leave().await;
        let end = end?;
        if matches!(end, End::Shutdown) {
            left?;
        }
        Ok(end)
    }

    async fn take_turns(
        &self,
        member: &mut dyn GroupMember,
        layout: &Layout,
        identity: &Arc<str>,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<End, FlowError> {
        // Not every engine tells a member that it has nothing.
        let mut running = self.begin_with_none(layout, identity);
        loop {
            let flow = OptionFuture::from(running.as_mut().map(|turn| &mut turn.flow));
            tokio::select! {
                biased;
                () = &mut shutdown => {
                    finish(running).await?;
                    return Ok(End::Shutdown);
                }
                Some(ended) = flow => match ended {
                    Err(error) if error.is_replaced() => return Ok(End::Fenced),
                    ended => {
                        ended?;
                        return Ok(End::Shutdown);
                    }
                },
                event = member.next_event() => match event {
                    // What it has begun is ended, lest it has the local state still when this joins again.
                    Err(error) => {
                        let _ = self.stop(running.take()).await;
                        return Err(error.into());
                    }
                    Ok(GroupEvent::Assigned(partitions)) => {
                        let assigned: Vec<_> = partitions.into_iter().map(|(at, _)| at).collect();
                        let share = layout.share(&assigned);
                        // An engine that takes nothing away before it gives means what it gives to be all there is.
                        self.stop(running.take()).await?;
                        if share != Share::default() || self.stands_by {
                            running = Some(self.begin(layout.clone(), share, identity));
                        }
                    }
                    // What it has begun is committed before another goes on from there, if there still is time for that.
                    Ok(GroupEvent::Revoked(_) | GroupEvent::Lost(_)) => {
                        self.stop(running.take()).await?;
                        running = self.begin_with_none(layout, identity);
                    }
                },
            }
        }
    }

    /// Lets go of what it does. That another has it already is no error.
    async fn stop(&self, running: Option<Turn>) -> Result<(), FlowError> {
        let ended = finish(running).await;
        self.status.send_replace(Status::Waiting);
        match ended {
            Err(error) if error.is_replaced() => Ok(()),
            ended => ended,
        }
    }

    /// What it does while it has no part of the flow.
    fn begin_with_none(&self, layout: &Layout, identity: &Arc<str>) -> Option<Turn> {
        self.stands_by.then(|| self.begin(layout.clone(), Share::default(), identity))
    }

    fn begin(&self, layout: Layout, share: Share, identity: &Arc<str>) -> Turn {
        let (stop, stopped) = oneshot::channel();
        let (engine, clock, status) =
            (Arc::clone(&self.engine), Arc::clone(&self.clock), self.status.clone());
        let (definition, state_dir) = ((self.define)(), self.state_dir.clone());
        let others =
            layout.all().shards.into_iter().filter(|shard| self.stands_by && !share.shards.contains(shard));
        let others: Vec<_> =
            others.map(|shard| (layout.changelog(shard), layout.store_path(&state_dir, shard))).collect();
        let ended = watch::Sender::new(false);
        let parts = share.shards.len() + others.len();
        let follow = others.into_iter().map(|(log, path)| {
            let (engine, clock, identity, mut ended) =
                (Arc::clone(&engine), Arc::clone(&clock), Arc::clone(identity), ended.subscribe());
            let followed = self.followed.clone();
            async move {
                let stop = async {
                    let _ = ended.wait_for(|ended| *ended).await;
                };
                let kept = async {
                    let owned = identity.to_string();
                    let store = blocking(move || Store::open(&path, &owned, Role::Cache, parts)).await??;
                    stand_by(&*engine, &*clock, log.clone(), &identity, store, &followed, stop).await
                };
                if let Err(error) = kept.await {
                    tracing::warn!(%log, %error, "no local copy of this is kept: whoever takes it over reads it all");
                }
            }
        });
        let follow = join_all(follow);
        let run = async move {
            let ran = async {
                if share == Share::default() {
                    let _ = stopped.await;
                    return Ok(Snapshot::default());
                }
                status.send_replace(Status::Restoring);
                let open = definition.open_share(layout, &share, engine, state_dir, clock).await?;
                status.send_replace(Status::Running(open.metrics()));
                open.run(stopped.map(drop)).await
            };
            let ran = ran.await;
            ended.send_replace(true);
            ran
        };
        Turn { stop, flow: join(run, follow).map(|(ran, _)| ran).boxed() }
    }
}

/// Lets the flow commit and stop.
async fn finish(turn: Option<Turn>) -> Result<(), FlowError> {
    let Some(Turn { stop, flow }) = turn else { return Ok(()) };
    drop(stop);
    flow.await.map(drop)
}

impl<D> std::fmt::Debug for Runner<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("state_dir", &self.state_dir).finish_non_exhaustive()
    }
}
