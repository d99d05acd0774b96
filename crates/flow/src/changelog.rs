//! The logs of a flow's parts: the changelog, which is the topic that the flow's state lives in, and the places of its intakes.
//!
//! Each step of a commit is written to the part's log in the transaction that writes the step's results, or by an append that
//! decides: so a reader of committed records finds the state after some step, whole. The local store is a copy that may be
//! behind; [`Changelog::open`] brings it to where the changelog ends: from where the store stands, or from the beginning
//! where that cannot be trusted. An intake has no state but its place, which is the newest progress in its log ([`place`]).

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::{BatchError, Record, RecordAt};
use anabranch_core::engine::{
    Capability, Engine, EngineError, Place, Position, ReadLimits, Reader, TopicSpec,
};
use anabranch_core::seam::Clock;
use tokio::sync::watch;

use crate::FlowError;
use crate::delivery::Delivery;
use crate::part::blocking;
use crate::state::{FORMAT, Mark, NoOrigin, Origin, Progress, Store, claim};

/// How long the topic keeps tombstones, ms: two days.
const TOMBSTONES_KEPT_MS: i64 = 48 * 60 * 60 * 1000;
/// A store that is behind, and was left for longer than this, ms, would miss tombstones that are gone. Half of the time,
/// so that the clocks of two machines may differ.
const STORE_AGE_MAX_MS: i64 = TOMBSTONES_KEPT_MS / 2;
/// As large as Kafka Streams makes them: the newest segment is not compacted, and is read as it is.
const SEGMENT_BYTES: &str = "52428800";
/// The state of one window is one record.
const MESSAGE_BYTES_MAX: &str = "16777216";
/// How often whoever stands by looks for news.
const STANDBY_PAUSE: Duration = Duration::from_millis(250);
/// How often a log is taken over that somebody else still writes.
const CLAIMS_TRIED_MAX: u32 = 100;
/// The newest progress is the last record of a log, but for what transactions leave behind it: it is looked for in so many
/// positions before the end, and else in the whole log.
const NEWEST_WITHIN: u64 = 64;

/// What the name of a changelog ends with.
pub(crate) const CHANGELOG: &str = "-changelog";

/// Where a shard's state lives.
#[derive(Debug, Clone)]
pub(crate) struct Changelog {
    pub(crate) at: TopicPartition,
    /// The engine's.
    pub(crate) cluster: String,
    /// Tells it from others of its name ([`Origin::made_ms`]).
    pub(crate) made_ms: i64,
}

/// A changelog that is this part's, and where it ends.
pub(crate) struct Opened {
    pub(crate) changelog: Changelog,
    pub(crate) store: Store,
    pub(crate) progress: Progress,
    /// Records that the store did not know.
    pub(crate) restored: u64,
}

/// The part that opens its log.
pub(crate) struct Opening<'a> {
    pub(crate) engine: &'a dyn Engine,
    /// Whoever wrote the log before is kept away by it.
    pub(crate) delivery: &'a mut Delivery,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) log: TopicPartition,
    pub(crate) identity: String,
    /// What its progress is before the first step.
    pub(crate) beginning: Progress,
}

/// The name of a flow's changelog.
pub(crate) fn changelog_of(flow: &str) -> String {
    format!("{flow}{CHANGELOG}")
}

/// The name of the topic that tells how far the intakes of a flow are.
pub(crate) fn places_of(flow: &str) -> String {
    format!("{flow}-sources")
}

/// A log that nobody else writes any more.
enum Log<'a> {
    /// It was empty, and begins with these.
    Begun {
        position: Position,
        made_ms: i64,
        beginning: Progress,
    },
    There {
        span: Span<'a>,
        made_ms: i64,
    },
}

impl<'a> Opening<'a> {
    /// Takes the log over, and begins it unless it is there.
    async fn take(self) -> Result<Log<'a>, FlowError> {
        let Self { engine, delivery, clock, log: at, identity, beginning } = self;
        for _ in 0..CLAIMS_TRIED_MAX {
            let start = engine.locate(&at, Place::Earliest).await?;
            let end = engine.locate(&at, Place::Latest).await?;
            let span = Span { engine, at: at.clone(), start, end };
            let Some(first) = span.read_from(start).await?.first().await? else {
                let made_ms = clock.now_ms();
                let origin = Origin { identity: identity.clone(), made_ms };
                let records = vec![origin.to_record()?, beginning.to_record()?];
                match delivery.begin(engine, end, records).await? {
                    Some(position) => return Ok(Log::Begun { position, made_ms, beginning }),
                    None => continue,
                }
            };
            let made_ms = made_ms(&at, &first, &identity)?;
            if let Some(end) = delivery.claim(engine, end, claim()).await? {
                return Ok(Log::There { span: Span { end, ..span }, made_ms });
            }
        }
        Err(FlowError::Replaced { log: at })
    }
}

/// Takes over the log of an intake, and tells its place.
pub(crate) async fn place(opening: Opening<'_>) -> Result<Progress, FlowError> {
    let span = match opening.take().await? {
        Log::Begun { beginning, .. } => return Ok(beginning),
        Log::There { span, .. } => span,
    };
    let near = Position(span.end.0.saturating_sub(NEWEST_WITHIN)).max(span.start);
    for from in [near, span.start] {
        if let Some(newest) = span.read_from(from).await?.newest().await? {
            return Ok(newest);
        }
    }
    Err(FlowError::Changelog { topic: span.at.topic, what: "it tells of no place" })
}

impl Changelog {
    /// Takes the changelog over, begins it unless it is there, and brings `store` to its end.
    pub(crate) async fn open(opening: Opening<'_>, store: Store) -> Result<Opened, FlowError> {
        let now_ms = opening.clock.now_ms();
        let (at, cluster) = (opening.log.clone(), opening.engine.description().cluster.clone());
        match opening.take().await? {
            Log::Begun { position, made_ms, beginning } => {
                let changelog = Self { at, cluster, made_ms };
                let mark = changelog.mark(position, made_ms);
                let (store, beginning) = blocking(move || {
                    store.forget()?;
                    let mut changes = store.changes();
                    store.set_progress(&mut changes, &beginning)?;
                    store.commit(changes, Some(&mark))?;
                    Ok::<_, FlowError>((store, beginning))
                })
                .await??;
                Ok(Opened { changelog, store, progress: beginning, restored: 0 })
            }
            Log::There { span, made_ms } => {
                let mut restore = Restore::new(Self { at, cluster, made_ms }, span, now_ms);
                let (store, progress) = restore.run(store).await?;
                let Restore { changelog, restored, .. } = restore;
                Ok(Opened { changelog, store, progress, restored })
            }
        }
    }

    /// A store that has followed it to `position`, and misses nothing from before `written_ms`.
    pub(crate) fn mark(&self, position: Position, written_ms: i64) -> Mark {
        let Self { cluster, made_ms, .. } = self;
        Mark { cluster: cluster.clone(), made_ms: *made_ms, position: position.0, written_ms }
    }
}

/// Keeps `store` near the end of a changelog that others write, until `stop` is done; counts the records on `followed`.
pub(crate) async fn stand_by(
    engine: &dyn Engine,
    clock: &dyn Clock,
    at: TopicPartition,
    identity: &str,
    mut store: Store,
    followed: &watch::Sender<u64>,
    stop: impl Future<Output = ()>,
) -> Result<(), FlowError> {
    let mut stop = pin!(stop);
    let mut seen = None;
    loop {
        // Not interrupted: the store is in it.
        let now_ms = clock.now_ms();
        let start = engine.locate(&at, Place::Earliest).await?;
        let end = engine.locate(&at, Place::Latest).await?;
        let span = Span { engine, at: at.clone(), start, end };
        let is_news = seen.replace(end) != Some(end);
        if let Some(first) = if is_news { span.read_from(start).await?.first().await? } else { None } {
            let made_ms = made_ms(&at, &first, identity)?;
            let cluster = engine.description().cluster.clone();
            let changelog = Changelog { at: at.clone(), cluster, made_ms };
            let mut restore = Restore::new(changelog, span, now_ms);
            (store, _) = restore.run(store).await?;
            followed.send_modify(|records| *records += restore.restored);
        }
        tokio::select! {
            () = &mut stop => return blocking(move || drop(store)).await,
            () = tokio::time::sleep(STANDBY_PAUSE) => {}
        }
    }
}

/// Makes the topic of logs unless it is there.
pub(crate) async fn ensure_logs(engine: &dyn Engine, topic: &str, partitions: i32) -> Result<(), FlowError> {
    let mut spec = TopicSpec::new(topic, partitions);
    if engine.description().has(Capability::Compaction) {
        spec = spec
            .config("cleanup.policy", "compact")
            .config("delete.retention.ms", TOMBSTONES_KEPT_MS.to_string());
    }
    // Not every engine has these, and without them it is but less well set up.
    let tuned = TopicSpec::clone(&spec)
        .config("segment.bytes", SEGMENT_BYTES)
        .config("max.message.bytes", MESSAGE_BYTES_MAX);
    match engine.ensure_topic(&tuned).await {
        Err(EngineError::Refused { .. }) => engine.ensure_topic(&spec).await?,
        ensured => ensured?,
    };
    Ok(())
}

/// When the changelog that begins with `first` was made, if it is the flow's.
fn made_ms(at: &TopicPartition, first: &Record, identity: &str) -> Result<i64, FlowError> {
    let topic = at.topic.clone();
    match Origin::parse(first) {
        Ok(origin) if origin.identity == identity => Ok(origin.made_ms),
        Ok(Origin { identity: found, .. }) => {
            Err(FlowError::OtherChangelog { topic, found, expected: identity.to_owned() })
        }
        Err(NoOrigin::Format(found)) => Err(FlowError::ChangelogFormat { topic, found, supported: FORMAT }),
        Err(NoOrigin::Other) => Err(FlowError::Changelog { topic, what: "it does not begin as one" }),
    }
}

/// Brings a store to the end of its changelog.
struct Restore<'a> {
    changelog: Changelog,
    span: Span<'a>,
    /// Before its end was looked for.
    now_ms: i64,
    /// Records that the store did not know.
    restored: u64,
}

/// What a store is worth.
enum Standing {
    /// It is at the end.
    Current(Mark),
    /// It goes on from here.
    Behind(Mark),
    /// It has to be made anew, because of this.
    Useless(&'static str),
}

impl<'a> Restore<'a> {
    fn new(changelog: Changelog, span: Span<'a>, now_ms: i64) -> Self {
        Self { changelog, span, now_ms, restored: 0 }
    }

    async fn run(&mut self, store: Store) -> Result<(Store, Progress), FlowError> {
        let (store, mark, known) = blocking(move || {
            let (mark, known) = (store.mark()?, store.progress()?);
            Ok::<_, FlowError>((store, mark, known))
        })
        .await??;
        let (store, mark) = match self.judge(mark, known).await? {
            Standing::Current(mark) => (store, mark),
            Standing::Behind(mark) => self.follow(store, mark).await?,
            Standing::Useless(why) => {
                tracing::info!(
                    changelog = %self.changelog.at.topic,
                    "a flow's state is made anew from its changelog, because {why}"
                );
                let store = blocking(move || store.forget().map(|()| store)).await??;
                let beginning = self.changelog.mark(self.span.start, self.now_ms);
                self.follow(store, beginning).await?
            }
        };
        let mark = Mark { written_ms: self.now_ms, ..mark };
        blocking(move || {
            store.commit(store.changes(), Some(&mark))?;
            let progress = store.progress()?.ok_or_else(|| store.damaged("it has no progress"))?;
            Ok((store, progress))
        })
        .await?
    }

    /// Nothing is touched before this is known: what a store has missed cannot be seen afterwards.
    async fn judge(&self, mark: Option<Mark>, known: Option<Progress>) -> Result<Standing, FlowError> {
        let Some(mark) = mark else { return Ok(Standing::Useless("there is no local copy")) };
        if mark.made_ms != self.changelog.made_ms || mark.cluster != self.changelog.cluster {
            return Ok(Standing::Useless("the local copy is of another changelog"));
        }
        let stands = Position(mark.position);
        let newest = match stands >= self.span.start {
            true => self.span.read_from(stands).await?.newest().await?,
            false => None,
        };
        let moved_at = |progress: &Option<Progress>| progress.as_ref().and_then(Progress::moved_at_ms);
        if newest.is_some() && moved_at(&newest) != moved_at(&known) {
            return Ok(Standing::Useless("the local copy was made before the flow came from another engine"));
        }
        let newest = newest.map(|newest| newest.step);
        let known = known.map_or(0, |known| known.step);
        let age_ms = self.now_ms.saturating_sub(mark.written_ms);
        Ok(match newest {
            Some(newest) if newest == known => Standing::Current(mark),
            Some(newest) if newest > known && (0..STORE_AGE_MAX_MS).contains(&age_ms) => {
                Standing::Behind(mark)
            }
            Some(newest) if newest > known => Standing::Useless("the local copy was left for too long"),
            _ => Standing::Useless("the changelog does not come to where the local copy stands"),
        })
    }

    /// Reads on from `mark`, which keeps its time until the end is reached.
    async fn follow(&mut self, mut store: Store, mut mark: Mark) -> Result<(Store, Mark), FlowError> {
        let mut reading = self.span.read_from(Position(mark.position)).await?;
        let mut has_progress = false;
        while let Some(records) = reading.next().await? {
            self.restored += records.len() as u64;
            match records.iter().rfind(|at| Progress::is_in(&at.record)) {
                Some(newest) => {
                    has_progress = true;
                    mark.position = newest.offset.0.cast_unsigned();
                }
                None if !has_progress => mark.position = reading.reader.position().0,
                // It stays at the newest progress, by which the store is known again: what is behind that may be no
                // records at all, but a transaction's marker.
                None => {}
            }
            let topic = self.changelog.at.topic.clone();
            let reached = mark.clone();
            store = blocking(move || {
                let mut changes = store.changes();
                for RecordAt { record, .. } in &records {
                    if !store.follow(&mut changes, record) {
                        return Err(FlowError::Changelog { topic, what: "it has records of another kind" });
                    }
                }
                store.commit(changes, Some(&reached)).map(|()| store)
            })
            .await??;
        }
        Ok((store, mark))
    }
}

/// The changelog as it was at the start.
struct Span<'a> {
    engine: &'a dyn Engine,
    at: TopicPartition,
    start: Position,
    end: Position,
}

impl Span<'_> {
    async fn read_from(&self, from: Position) -> Result<Reading, FlowError> {
        let reader = self.engine.reader(&self.at, from).await?;
        Ok(Reading { reader, at: self.at.clone(), end: self.end })
    }
}

/// Reads to the end of a span.
struct Reading {
    reader: Box<dyn Reader>,
    at: TopicPartition,
    end: Position,
}

impl Reading {
    /// The records that come next, which may be none; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<RecordAt>>, FlowError> {
        let from = self.reader.position();
        if from >= self.end {
            return Ok(None);
        }
        let fetched = self.reader.read(ReadLimits::default()).await?;
        let damaged =
            |source: BatchError| FlowError::Damaged { partition: self.at.clone(), position: from, source };
        fetched.block.into_records(from).map(Some).map_err(damaged)
    }

    async fn first(mut self) -> Result<Option<Record>, FlowError> {
        while let Some(records) = self.next().await? {
            if let Some(first) = records.into_iter().next() {
                return Ok(Some(first.record));
            }
        }
        Ok(None)
    }

    /// The last progress.
    async fn newest(&mut self) -> Result<Option<Progress>, FlowError> {
        let mut newest = None;
        while let Some(records) = self.next().await? {
            let found = records.into_iter().rfind(|at| Progress::is_in(&at.record));
            newest = found.map(|at| at.record).or(newest);
        }
        let Some(newest) = newest else { return Ok(None) };
        let unreadable =
            || FlowError::Changelog { topic: self.at.topic.clone(), what: "its progress cannot be read" };
        Progress::parse(&newest).map(Some).ok_or_else(unreadable)
    }
}
