//! How a flow is put together: one step after another, from source to sink.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::{Record, RecordAt};
use anabranch_core::engine::{Capability, Engine, EngineError, Place, Position, TopicSpec};
use anabranch_core::seam::Clock;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::FlowError;
use crate::aggregate::Aggregate;
use crate::changelog::{Changelog, Opening, changelog_of};
use crate::metrics::{Counts, Metrics};
use crate::outbox::Outlet;
use crate::policy::{Disorder, Late, Undecodable};
use crate::run::{Delivery, OpenFlow, blocking};
use crate::state::{Progress, Role, Store, Table};
use crate::watermark::{NO_WATERMARK, Watermarks};
use crate::window::{Window, WindowKind};
use crate::worker::{Aside, Decode, Encode, Logic, Options, Work, Worker};

const COMMIT_RECORDS_DEFAULT: u64 = 20_000;
const COMMIT_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
/// What a step takes longer than this is given up, so that readers of its topics need not wait: as in Kafka's clients.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// The beginning of a flow: its name.
#[derive(Debug, Clone)]
pub struct Flow {
    name: String,
}

/// A flow that knows what it reads.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    topics: Vec<String>,
}

/// A flow of decoded records.
pub struct Records<T> {
    source: Source,
    decode: Decode<T>,
    undecodable: Undecodable,
}

/// A flow whose records have their place in event time.
pub struct Timed<T> {
    records: Records<T>,
    event_time: Box<dyn Fn(&T) -> i64 + Send>,
    disorder: Disorder,
}

/// A flow whose records belong to keys.
pub struct Keyed<T, K> {
    timed: Timed<T>,
    key: Box<dyn Fn(&T) -> K + Send>,
}

/// A flow whose records belong to windows.
pub struct Windowed<T, K> {
    keyed: Keyed<T, K>,
    windows: Box<dyn WindowKind>,
    late: Late,
}

/// A flow that knows what it computes.
pub struct Aggregated<T, K, A> {
    windowed: Windowed<T, K>,
    aggregate: A,
}

/// A whole flow, to be opened.
pub struct Definition<T, K, A: Aggregate<T>> {
    aggregated: Aggregated<T, K, A>,
    encode: Encode<K, A::Output>,
    sink: String,
    emit_early: bool,
    at_least_once: bool,
    commit_records: u64,
    commit_interval: Duration,
}

impl Flow {
    /// A flow's name is whose state it is: one flow of a name runs on an engine, and the one that was opened last.
    ///
    /// It is a group's name, too, so that tools can tell where the flow stands; `NAME-changelog` is the topic of its state,
    /// and its transactional id.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Reads all partitions of `topics`, from the oldest record on.
    pub fn source<S: Into<String>>(self, topics: impl IntoIterator<Item = S>) -> Source {
        Source { name: self.name, topics: topics.into_iter().map(Into::into).collect() }
    }
}

impl Source {
    /// Makes sense of records. What `decode` says of those that it cannot make sense of goes into the error or header.
    pub fn decode<T, E: Display>(
        self,
        decode: impl Fn(&RecordAt) -> Result<T, E> + Send + 'static,
        undecodable: Undecodable,
    ) -> Records<T> {
        let decode = move |record: &RecordAt| decode(record).map(Some).map_err(|error| error.to_string());
        Records { source: self, decode: Box::new(decode), undecodable }
    }
}

impl<T: 'static> Records<T> {
    /// Turns every record into another.
    #[must_use]
    pub fn map<U>(self, map: impl Fn(T) -> U + Send + 'static) -> Records<U> {
        let Self { source, decode, undecodable } = self;
        let decode = move |record: &RecordAt| Ok(decode(record)?.map(&map));
        Records { source, decode: Box::new(decode), undecodable }
    }

    /// Leaves out the records of which `keep` is false.
    #[must_use]
    pub fn filter(self, keep: impl Fn(&T) -> bool + Send + 'static) -> Self {
        let Self { source, decode, undecodable } = self;
        let decode = move |record: &RecordAt| Ok(decode(record)?.filter(&keep));
        Self { source, decode: Box::new(decode), undecodable }
    }

    /// Says when each record's event happened, in ms since the Unix epoch, and how far out of order events come.
    #[must_use]
    pub fn event_time(self, event_time: impl Fn(&T) -> i64 + Send + 'static, disorder: Disorder) -> Timed<T> {
        Timed { records: self, event_time: Box::new(event_time), disorder }
    }
}

impl<T> Timed<T> {
    /// Says what each record is about. Equal keys must have equal serde forms (a hash map has not).
    #[must_use]
    pub fn key_by<K>(self, key: impl Fn(&T) -> K + Send + 'static) -> Keyed<T, K> {
        Keyed { timed: self, key: Box::new(key) }
    }
}

impl<T, K> Keyed<T, K> {
    /// Cuts event time into windows, and says what becomes of records whose window has closed.
    ///
    /// A window closes when the flow's watermark passes its end (with [`Late::Admit`], its end and the allowed lateness).
    /// A record that belongs to several windows counts in those that are open, and is late if any is closed.
    #[must_use]
    pub fn window(self, windows: impl WindowKind + 'static, late: Late) -> Windowed<T, K> {
        Windowed { keyed: self, windows: Box::new(windows), late }
    }
}

impl<T, K> Windowed<T, K> {
    /// Says what is computed per key and window: an [`Aggregate`], or a tuple of them.
    #[must_use]
    pub fn aggregate<A: Aggregate<T>>(self, aggregate: A) -> Aggregated<T, K, A> {
        Aggregated { windowed: self, aggregate }
    }
}

impl<T, K, A: Aggregate<T>> Aggregated<T, K, A> {
    /// Says where results go, and as what records.
    ///
    /// A record's key must be made of the flow's key and the window, and of nothing else: a corrected result replaces
    /// the one before by it, and when sessions merge, what was shown of the shorter ones is taken back by a tombstone.
    #[must_use]
    pub fn sink(
        self,
        topic: impl Into<String>,
        encode: impl Fn(&K, Window, A::Output) -> Record + Send + 'static,
    ) -> Definition<T, K, A> {
        Definition {
            aggregated: self,
            encode: Box::new(encode),
            sink: topic.into(),
            emit_early: false,
            at_least_once: false,
            commit_records: COMMIT_RECORDS_DEFAULT,
            commit_interval: COMMIT_INTERVAL_DEFAULT,
        }
    }
}

impl<T, K, A> Definition<T, K, A>
where
    T: 'static,
    K: Serialize + DeserializeOwned + 'static,
    A: Aggregate<T>,
{
    /// Also emits, with every commit, the results so far of the windows that changed.
    #[must_use]
    pub fn emit_early(mut self) -> Self {
        self.emit_early = true;
        self
    }

    /// Settles for less than exactly once: **after a crash results may be repeated, and what was shown of a session that
    /// grows otherwise the second time is not taken back.** The state is in the local directory only; without it the flow
    /// reads its input again. For engines without transactions, and for where speed is worth that.
    ///
    /// State that was made with this is not opened without it, or the other way round.
    #[must_use]
    pub fn at_least_once(mut self) -> Self {
        self.at_least_once = true;
        self
    }

    /// Commits state and results after so many records, and after such a time, whichever is first; unless told otherwise,
    /// after 20,000 and after a second.
    #[must_use]
    pub fn commit_every(mut self, records: u64, interval: Duration) -> Self {
        self.commit_records = records;
        self.commit_interval = interval;
        self
    }

    /// Opens the flow on `engine`, with a copy of its state in the directory `state_dir`, where one flow at a time has its
    /// own. Topics that it writes and that are not there are made, with as many partitions as the sources have at most, and
    /// its changelog with one. A flow of this name that is open, on any machine, is fenced: its next commit fails.
    ///
    /// # Errors
    /// [`FlowError`]: the engine lacks a source or a capability, the state belongs to another flow or is in use, ...
    pub async fn open(
        self,
        engine: Arc<dyn Engine>,
        state_dir: impl Into<PathBuf>,
        clock: Arc<dyn Clock>,
    ) -> Result<OpenFlow, FlowError> {
        self.check()?;
        let mut needs = vec![Capability::PartitionOrder, Capability::Replay];
        needs.extend((!self.at_least_once).then_some(Capability::Transactions));
        engine.require(&needs).map_err(EngineError::Unsuitable)?;
        let mut sources = Vec::new();
        let mut partitions_max = 0;
        for topic in self.topics() {
            let partitions = engine.partition_count(topic).await?;
            partitions_max = partitions_max.max(partitions);
            sources.extend((0..partitions).map(|partition| TopicPartition::new(topic, partition)));
        }
        let mut options = self.options(&*engine, partitions_max).await?;
        let opened = self.open_state(&engine, &sources, state_dir.into(), &*clock).await?;
        let State { store, progress, delivery, changelog } = opened;
        if progress.positions.len() != sources.len() {
            return Err(store.damaged("its positions are not the sources'"));
        }
        options.changelog = changelog;
        let now = clock.monotonic();
        let commit_interval = self.commit_interval;
        let mut readers = Vec::with_capacity(sources.len());
        for (source, position) in sources.iter().zip(&progress.positions) {
            readers.push(engine.reader(source, Position(*position)).await?);
        }
        let worker = self.into_worker(options, sources.clone(), Table::new(store), progress, now);
        let metrics = Arc::new(Metrics::default());
        metrics.update(|snapshot| worker.report(snapshot));
        Ok(OpenFlow {
            engine,
            clock,
            sources,
            readers,
            commit_interval,
            last_commit: now,
            metrics,
            delivery,
            worker: Arc::new(Mutex::new(worker)),
        })
    }

    /// The state as it was committed last, when nobody else writes it any more.
    async fn open_state(
        &self,
        engine: &Arc<dyn Engine>,
        sources: &[TopicPartition],
        path: PathBuf,
        clock: &dyn Clock,
    ) -> Result<State, FlowError> {
        let identity = self.identity(sources);
        let role = if self.at_least_once { Role::Only } else { Role::Cache };
        // Its lock comes first: a second flow of this directory must not fence the first.
        let (store, identity) =
            blocking(move || Store::open(&path, &identity, role).map(|store| (store, identity))).await??;
        if self.at_least_once {
            tracing::warn!(flow = self.name(), "delivers at least once: a crash may repeat its results");
            let (store, known) =
                blocking(move || store.progress().map(|progress| (store, progress))).await??;
            let progress = match known {
                Some(progress) => progress,
                None => beginning(&**engine, sources).await?,
            };
            return Ok(State { store, progress, delivery: Delivery::AtLeastOnce, changelog: None });
        }
        let topic = changelog_of(self.name());
        let transactions = engine.transactions().expect("it was required");
        let beginning = beginning(&**engine, sources).await?;
        let mut producer = transactions.producer(&topic, TRANSACTION_TIMEOUT).await?;
        let opening =
            Opening { engine: &**engine, producer: &mut *producer, clock, topic, identity, beginning };
        let (changelog, store, progress) = Changelog::open(opening, store).await?;
        let has_groups = engine.description().has(Capability::Groups);
        let delivery = Delivery::ExactlyOnce {
            producer,
            changelog: changelog.at.clone(),
            group: has_groups.then(|| self.name().to_owned()),
        };
        Ok(State { store, progress, delivery, changelog: Some(changelog) })
    }

    fn into_worker(
        self,
        options: Options,
        sources: Vec<TopicPartition>,
        table: Table<A::State>,
        progress: Progress,
        now: Duration,
    ) -> Worker<T, K, A> {
        let Aggregated { windowed: Windowed { keyed: Keyed { timed, key }, windows, .. }, aggregate } =
            self.aggregated;
        let Timed { records, event_time, disorder } = timed;
        let Progress { latest_events_ms, watermark_ms, .. } = &progress;
        let watermarks = Watermarks::restore(disorder, latest_events_ms, *watermark_ms, now);
        let logic =
            Logic { decode: records.decode, event_time, key, windows, aggregate, encode: self.encode };
        Worker::new(logic, options, sources, table, watermarks, progress)
    }

    async fn options(&self, engine: &dyn Engine, partitions: i32) -> Result<Options, FlowError> {
        let mut sink = TopicSpec::new(&self.sink, partitions);
        if engine.description().has(Capability::Compaction) {
            // Results are upserts: the newest per key is enough.
            sink.configs.push(("cleanup.policy".into(), "compact".into()));
        }
        let windowed = &self.aggregated.windowed;
        let undecodable = match &windowed.keyed.timed.records.undecodable {
            Undecodable::Fail => Aside::Fail,
            Undecodable::Drop => Aside::Drop,
            Undecodable::ToTopic(topic) => {
                Aside::Send(outlet(engine, TopicSpec::new(topic, partitions)).await?)
            }
        };
        let late = match &windowed.late {
            Late::Drop | Late::Admit { .. } => Aside::Drop,
            Late::ToTopic(topic) => Aside::Send(outlet(engine, TopicSpec::new(topic, partitions)).await?),
        };
        Ok(Options {
            sink: outlet(engine, sink).await?,
            undecodable,
            late,
            allowed_lateness_ms: windowed.late.allowed_ms(),
            emit_early: self.emit_early,
            commit_records: self.commit_records,
            changelog: None,
        })
    }

    fn topics(&self) -> &[String] {
        &self.aggregated.windowed.keyed.timed.records.source.topics
    }

    fn name(&self) -> &str {
        &self.aggregated.windowed.keyed.timed.records.source.name
    }

    fn check(&self) -> Result<(), FlowError> {
        let topics = self.topics();
        let wrong = |reason| Err(FlowError::Definition { flow: self.name().to_owned(), reason });
        if topics.is_empty() {
            return wrong("it has no source");
        }
        if topics.iter().enumerate().any(|(index, topic)| topics[..index].contains(topic)) {
            return wrong("it names a source twice");
        }
        let windowed = &self.aggregated.windowed;
        let mut outlets = vec![&self.sink];
        if let Undecodable::ToTopic(topic) = &windowed.keyed.timed.records.undecodable {
            outlets.push(topic);
        }
        if let Late::ToTopic(topic) = &windowed.late {
            outlets.push(topic);
        }
        if outlets.iter().any(|outlet| topics.contains(outlet)) {
            return wrong("it would read what it writes");
        }
        let changelog = changelog_of(self.name());
        if topics.contains(&changelog) || outlets.contains(&&changelog) {
            return wrong("a topic that it reads or writes has the name of its changelog");
        }
        Ok(())
    }

    /// What the shape of the state depends on, in words.
    fn identity(&self, sources: &[TopicPartition]) -> String {
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for source in sources {
            match counts.last_mut() {
                Some((topic, count)) if *topic == source.topic => *count += 1,
                _ => counts.push((&source.topic, 1)),
            }
        }
        let topics: Vec<_> =
            counts.iter().map(|(topic, count)| format!("{topic} ({count} partitions)")).collect();
        format!(
            "flow {} from {}; windows {}; aggregate {}{}",
            self.name(),
            topics.join(", "),
            self.aggregated.windowed.windows.describe(),
            self.aggregated.aggregate.name(),
            if self.at_least_once { "; at least once" } else { "" },
        )
    }
}

/// A flow's state, and how it goes on from there.
struct State {
    store: Store,
    progress: Progress,
    delivery: Delivery,
    changelog: Option<Changelog>,
}

/// The progress of a flow that has not begun.
async fn beginning(engine: &dyn Engine, sources: &[TopicPartition]) -> Result<Progress, FlowError> {
    let mut positions = Vec::with_capacity(sources.len());
    for source in sources {
        positions.push(engine.locate(source, Place::Earliest).await?.0);
    }
    Ok(Progress {
        step: 0,
        positions,
        latest_events_ms: vec![None; sources.len()],
        watermark_ms: NO_WATERMARK,
        fired_ms: NO_WATERMARK,
        expired_ms: NO_WATERMARK,
        counts: Counts::default(),
    })
}

/// The topic as it is, or made as `spec` says.
async fn outlet(engine: &dyn Engine, spec: TopicSpec) -> Result<Outlet, FlowError> {
    let partitions = match engine.partition_count(&spec.name).await {
        Err(EngineError::NotFound(_)) => {
            engine.ensure_topic(&spec).await?;
            spec.partitions
        }
        found => found?,
    };
    Ok(Outlet { topic: spec.name, partitions })
}
