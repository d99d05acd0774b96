//! How a flow is put together: one step after another, from source to sink.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::{Record, RecordAt};
use anabranch_core::engine::{Capability, Engine, EngineError, Position};
use anabranch_core::seam::Clock;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::FlowError;
use crate::aggregate::Aggregate;
use crate::frame::{Frame, State};
use crate::metrics::Metrics;
use crate::policy::{Disorder, Late, Undecodable};
use crate::run::OpenFlow;
use crate::state::{Progress, Table};
use crate::watermark::Watermarks;
use crate::window::{Window, WindowKind};
use crate::worker::{Decode, Encode, Logic, Options, Work, Worker};

const COMMIT_RECORDS_DEFAULT: u64 = 20_000;
const COMMIT_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);

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
        let frame = self.frame();
        frame.check()?;
        let mut needs = vec![Capability::PartitionOrder, Capability::Replay];
        needs.extend((!self.at_least_once).then_some(Capability::Transactions));
        engine.require(&needs).map_err(EngineError::Unsuitable)?;
        let mut sources = Vec::new();
        let mut partitions_max = 0;
        for topic in &frame.topics {
            let partitions = engine.partition_count(topic).await?;
            partitions_max = partitions_max.max(partitions);
            sources.extend((0..partitions).map(|partition| TopicPartition::new(topic, partition)));
        }
        let mut options = frame.options(&*engine, partitions_max).await?;
        let opened = frame.open_state(&engine, &sources, state_dir.into(), &*clock).await?;
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

    /// All but the functions.
    pub(crate) fn frame(&self) -> Frame {
        let Aggregated { windowed, aggregate } = &self.aggregated;
        let records = &windowed.keyed.timed.records;
        Frame {
            name: records.source.name.clone(),
            topics: records.source.topics.clone(),
            undecodable: records.undecodable.clone(),
            late: windowed.late.clone(),
            windows: windowed.windows.describe(),
            aggregate: aggregate.name(),
            sink: self.sink.clone(),
            emit_early: self.emit_early,
            at_least_once: self.at_least_once,
            commit_records: self.commit_records,
        }
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
}
