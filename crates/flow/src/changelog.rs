//! The changelog: the topic that a flow's state lives in. The local store is a copy of it that may be behind.
//!
//! Each step of a commit is written to it in the transaction that writes the flow's results, so a reader of committed
//! records finds the state after some step, whole. [`Changelog::open`] brings the store to where the changelog ends: from
//! where the store stands, or from the beginning where that cannot be trusted.

use anabranch_core::TopicPartition;
use anabranch_core::batch::{BatchError, Record, RecordAt};
use anabranch_core::engine::{
    Capability, Engine, Place, Position, ReadLimits, Reader, TopicSpec, TransactionalProducer,
};
use anabranch_core::seam::Clock;
use bytes::Bytes;

use crate::FlowError;
use crate::outbox::{Batches, unwritable};
use crate::run::blocking;
use crate::state::{FORMAT, Mark, NoOrigin, Origin, Progress, Store};

/// How long the topic keeps tombstones, ms: two days.
const TOMBSTONES_KEPT_MS: i64 = 48 * 60 * 60 * 1000;
/// A store that is behind, and was left for longer than this, ms, would miss tombstones that are gone. Half of the time,
/// so that the clocks of two machines may differ.
const STORE_AGE_MAX_MS: i64 = TOMBSTONES_KEPT_MS / 2;
/// As large as Kafka Streams makes them: the newest segment is not compacted, and is read as it is.
const SEGMENT_BYTES: &str = "52428800";
/// The state of one window is one record.
const MESSAGE_BYTES_MAX: &str = "16777216";

/// Where a flow's state lives.
#[derive(Debug, Clone)]
pub(crate) struct Changelog {
    pub(crate) at: TopicPartition,
    /// Tells it from others of its name ([`Origin::made_ms`]).
    pub(crate) made_ms: i64,
}

/// The flow that opens its changelog.
pub(crate) struct Opening<'a> {
    pub(crate) engine: &'a dyn Engine,
    /// Whoever wrote the changelog before is fenced by it.
    pub(crate) producer: &'a mut dyn TransactionalProducer,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) topic: String,
    pub(crate) identity: String,
    /// What its progress is before the first step.
    pub(crate) beginning: Progress,
}

/// The name of a flow's changelog, and the transactional id under which it is written.
pub(crate) fn changelog_of(flow: &str) -> String {
    format!("{flow}-changelog")
}

impl Changelog {
    /// Begins the changelog unless it is there, and brings `store` to its end.
    pub(crate) async fn open(
        opening: Opening<'_>,
        store: Store,
    ) -> Result<(Self, Store, Progress), FlowError> {
        let Opening { engine, clock, .. } = opening;
        let now_ms = clock.now_ms();
        ensure_topic(engine, &opening.topic).await?;
        let at = TopicPartition::new(&opening.topic, 0);
        let start = engine.locate(&at, Place::Earliest).await?;
        let end = engine.locate(&at, Place::Latest).await?;
        let span = Span { engine, at: at.clone(), start, end };
        let Some(first) = span.read_from(start).await?.first().await? else {
            return Self::begin(at, opening, store).await;
        };
        let made_ms = made_ms(&at, &first, opening.identity)?;
        let restore = Restore { changelog: Self { at, made_ms }, span, now_ms };
        let (store, progress) = restore.run(store).await?;
        Ok((restore.changelog, store, progress))
    }

    async fn begin(
        at: TopicPartition,
        opening: Opening<'_>,
        store: Store,
    ) -> Result<(Self, Store, Progress), FlowError> {
        let Opening { producer, clock, identity, beginning, .. } = opening;
        let made_ms = clock.now_ms();
        let changelog = Self { at: at.clone(), made_ms };
        let records = [Origin { identity, made_ms }.to_record()?, beginning.to_record()?];
        let batches = changelog.batches(&records)?.into_iter();
        let appended =
            producer.commit(batches.map(|batch| (at.clone(), batch.into())).collect(), None).await?;
        let position = appended.last().expect("each batch has its place").first.0;
        let (store, beginning) = blocking(move || {
            store.forget()?;
            let mut changes = store.changes();
            store.set_progress(&mut changes, &beginning)?;
            store.commit(changes, Some(&Mark { made_ms, position, written_ms: made_ms }))?;
            Ok::<_, FlowError>((store, beginning))
        })
        .await??;
        Ok((changelog, store, beginning))
    }

    /// The batches of `records`.
    pub(crate) fn batches(&self, records: &[Record]) -> Result<Vec<Bytes>, FlowError> {
        let batches = || {
            let mut batches = Batches::new();
            for record in records {
                batches.push(record)?;
            }
            batches.close()
        };
        batches().map_err(unwritable(&self.at))
    }
}

async fn ensure_topic(engine: &dyn Engine, topic: &str) -> Result<(), FlowError> {
    let mut spec = TopicSpec::new(topic, 1);
    if engine.description().has(Capability::Compaction) {
        let tombstones_kept_ms = TOMBSTONES_KEPT_MS.to_string();
        let configs = [
            ("cleanup.policy", "compact"),
            ("delete.retention.ms", &tombstones_kept_ms),
            ("segment.bytes", SEGMENT_BYTES),
            ("max.message.bytes", MESSAGE_BYTES_MAX),
        ];
        spec.configs = configs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    }
    engine.ensure_topic(&spec).await?;
    Ok(())
}

/// When the changelog that begins with `first` was made, if it is the flow's.
fn made_ms(at: &TopicPartition, first: &Record, identity: String) -> Result<i64, FlowError> {
    let topic = at.topic.clone();
    match Origin::parse(first) {
        Ok(origin) if origin.identity == identity => Ok(origin.made_ms),
        Ok(Origin { identity: found, .. }) => {
            Err(FlowError::OtherChangelog { topic, found, expected: identity })
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

impl Restore<'_> {
    async fn run(&self, store: Store) -> Result<(Store, Progress), FlowError> {
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
                let (position, written_ms) = (self.span.start.0, self.now_ms);
                self.follow(store, Mark { made_ms: self.changelog.made_ms, position, written_ms }).await?
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
        if mark.made_ms != self.changelog.made_ms {
            return Ok(Standing::Useless("the local copy is of another changelog"));
        }
        let stands = Position(mark.position);
        let newest = match stands >= self.span.start {
            true => self.span.read_from(stands).await?.newest_step().await?,
            false => None,
        };
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
    async fn follow(&self, mut store: Store, mut mark: Mark) -> Result<(Store, Mark), FlowError> {
        let mut reading = self.span.read_from(Position(mark.position)).await?;
        while let Some(records) = reading.next().await? {
            let newest = records.iter().rfind(|at| Progress::is_in(&at.record));
            mark.position = newest.map_or(reading.reader.position().0, |at| at.offset.0.cast_unsigned());
            let topic = self.changelog.at.topic.clone();
            store = blocking(move || {
                let mut changes = store.changes();
                for RecordAt { record, .. } in &records {
                    if !store.follow(&mut changes, record) {
                        return Err(FlowError::Changelog { topic, what: "it has records of another kind" });
                    }
                }
                store.commit(changes, Some(&mark)).map(|()| store)
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

    /// The number of the last step.
    async fn newest_step(&mut self) -> Result<Option<u64>, FlowError> {
        let mut newest = None;
        while let Some(records) = self.next().await? {
            let found = records.into_iter().rfind(|at| Progress::is_in(&at.record));
            newest = found.map(|at| at.record).or(newest);
        }
        let Some(newest) = newest else { return Ok(None) };
        let unreadable =
            || FlowError::Changelog { topic: self.at.topic.clone(), what: "its progress cannot be read" };
        Progress::parse(&newest).map(|progress| Some(progress.step)).ok_or_else(unreadable)
    }
}
