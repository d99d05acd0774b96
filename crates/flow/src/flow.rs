//! How a flow is put together: one step after another, from source to sink.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::batch::{Record, RecordAt};
use anabranch_core::engine::Engine;
use anabranch_core::seam::Clock;
use futures::future::join_all;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::FlowError;
use crate::aggregate::Aggregate;
use crate::delivery::{Asked, Guarantee};
use crate::frame::Frame;
use crate::layout::{Layout, Sharding, Share};
use crate::logic::{Decode, Encode, Logic, Of};
use crate::metrics::Metrics;
use crate::opening::Opening;
use crate::policy::{Disorder, Late, Undecodable};
use crate::run::OpenFlow;
use crate::window::{Window, WindowKind};

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
    event_time: Of<T, i64>,
    disorder: Disorder,
}

/// A flow whose records belong to keys.
pub struct Keyed<T, K> {
    timed: Timed<T>,
    key: Of<T, K>,
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
    asked: Asked,
    sharding: Sharding,
    commit_records: u64,
    commit_interval: Duration,
}

impl Flow {
    /// A flow's name is whose state it is: one flow of a name runs on an engine, and the one that was opened last.
    ///
    /// It is a group's name, too, so that tools can tell where the flow stands; `NAME-changelog` is the topic of its state,
    /// and its transactional ids begin so.
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
        decode: impl Fn(&RecordAt) -> Result<T, E> + Send + Sync + 'static,
        undecodable: Undecodable,
    ) -> Records<T> {
        let decode = move |record: &RecordAt| decode(record).map(Some).map_err(|error| error.to_string());
        Records { source: self, decode: Box::new(decode), undecodable }
    }
}

impl<T: 'static> Records<T> {
    /// Turns every record into another.
    #[must_use]
    pub fn map<U>(self, map: impl Fn(T) -> U + Send + Sync + 'static) -> Records<U> {
        let Self { source, decode, undecodable } = self;
        let decode = move |record: &RecordAt| Ok(decode(record)?.map(&map));
        Records { source, decode: Box::new(decode), undecodable }
    }

    /// Leaves out the records of which `keep` is false.
    #[must_use]
    pub fn filter(self, keep: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        let Self { source, decode, undecodable } = self;
        let decode = move |record: &RecordAt| Ok(decode(record)?.filter(&keep));
        Self { source, decode: Box::new(decode), undecodable }
    }

    /// Says when each record's event happened, in ms since the Unix epoch, and how far out of order events come.
    #[must_use]
    pub fn event_time(
        self,
        event_time: impl Fn(&T) -> i64 + Send + Sync + 'static,
        disorder: Disorder,
    ) -> Timed<T> {
        Timed { records: self, event_time: Box::new(event_time), disorder }
    }
}

impl<T> Timed<T> {
    /// Says what each record is about. Equal keys must have equal serde forms (a hash map has not).
    #[must_use]
    pub fn key_by<K>(self, key: impl Fn(&T) -> K + Send + Sync + 'static) -> Keyed<T, K> {
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
        encode: impl Fn(&K, Window, A::Output) -> Record + Send + Sync + 'static,
    ) -> Definition<T, K, A> {
        Definition {
            aggregated: self,
            encode: Box::new(encode),
            sink: topic.into(),
            emit_early: false,
            asked: Asked::ExactlyOnce,
            sharding: Sharding::One,
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
    /// grows otherwise the second time is not taken back.** It is told when the flow is opened, and in its [`Metrics`].
    ///
    /// Where the engine has conditional appends, state goes to the changelog and counts everything once, wherever it
    /// moves. Where it has not, state is in the local directory only, of one process with one shard; without it the flow
    /// reads its input again. Such state is not opened without this, or the other way round.
    #[must_use]
    pub fn at_least_once(mut self) -> Self {
        self.asked = Asked::AtLeastOnce;
        self
    }

    /// Exactly once on an engine with transactions, and elsewhere at least once, with state that moves: for one definition
    /// that runs on every engine. Which of both it is is told when the flow is opened, and in its [`Metrics`].
    #[must_use]
    pub fn or_at_least_once(mut self) -> Self {
        self.asked = Asked::AsTheEngineCan;
        self
    }

    /// Divides keys among `shards`, which several processes can share ([`crate::Runner`]); 1 unless told otherwise. More
    /// shards than processes leave room to grow, since another number needs another name: the state is laid out by it.
    ///
    /// With more than one, records go through a topic of the flow's own, `NAME-repartition`, where each shard has a
    /// partition; `NAME-sources` tells how far the sources were read. Decoders, filters, event times and keys are asked
    /// once before that and once after, so they must say the same both times.
    #[must_use]
    pub fn shards(mut self, shards: i32) -> Self {
        self.sharding = if shards == 1 { Sharding::One } else { Sharding::Keys(shards) };
        self
    }

    /// Makes each partition of the sources a shard, where **records are partitioned by the flow's key already**: nothing
    /// goes through another topic then. All sources must have as many partitions. Event time is each shard's own.
    ///
    /// Of a key that is found in two partitions all the same, each shard has a result, and the newer one hides the other.
    #[must_use]
    pub fn shard_by_partition(mut self) -> Self {
        self.sharding = Sharding::Partitions;
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

    /// Opens the whole flow on `engine`, with a copy of its state in the directory `state_dir`, where one flow at a time has
    /// its own. Topics that it writes and that are not there are made, with as many partitions as the sources have at most.
    /// A flow of this name that is open, on any machine, is fenced: its next commit fails.
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
        let layout = Layout::of(&frame, &*engine).await?;
        let share = layout.all();
        self.open_share(layout, &share, engine, state_dir.into(), clock).await
    }

    /// Opens some of its parts.
    pub(crate) async fn open_share(
        self,
        layout: Layout,
        share: &Share,
        engine: Arc<dyn Engine>,
        state_dir: PathBuf,
        clock: Arc<dyn Clock>,
    ) -> Result<OpenFlow, FlowError> {
        let frame = self.frame();
        let parts = share.intakes.len() + share.shards.len();
        let options = frame.options(&*engine, &layout, parts).await?;
        if layout.mode.guarantee() == Guarantee::AtLeastOnce {
            tracing::warn!(
                flow = frame.name,
                engine = engine.description().engine,
                "delivers at least once: a crash may repeat its results"
            );
        }
        let metrics = Arc::new(Metrics::new(layout.mode.guarantee()));
        let opening = Opening {
            identity: layout.identity(&frame),
            flow: frame.name,
            commit_interval: self.commit_interval,
            disorder: self.aggregated.windowed.keyed.timed.disorder,
            logic: Arc::new(self.into_logic()),
            layout,
            options,
            engine: Arc::clone(&engine),
            state_dir,
            clock,
            metrics: Arc::clone(&metrics),
        };
        // The shards' locks come first: a second flow of this directory must not fence the first.
        let shards = all(share.shards.iter().map(|shard| opening.shard(*shard))).await?;
        let intakes = all(share.intakes.iter().map(|source| opening.intake(*source))).await?;
        Ok(OpenFlow { engine, metrics, intakes, shards })
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
            asked: self.asked,
            sharding: self.sharding,
            commit_records: self.commit_records,
        }
    }

    fn into_logic(self) -> Logic<T, K, A> {
        let Aggregated { windowed: Windowed { keyed: Keyed { timed, key }, windows, .. }, aggregate } =
            self.aggregated;
        let Timed { records, event_time, .. } = timed;
        Logic { decode: records.decode, event_time, key, windows, aggregate, encode: self.encode }
    }
}

/// All of them, or the first error when each has come to its end: none is left in the middle.
async fn all<P>(
    opening: impl Iterator<Item = impl Future<Output = Result<P, FlowError>>>,
) -> Result<Vec<P>, FlowError> {
    join_all(opening).await.into_iter().collect()
}
