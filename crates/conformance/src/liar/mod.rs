//! An engine that breaks one promise, so that the behaviours can be seen to tell.

mod admin;
mod lies;
mod member;
mod producer;
mod queue;
mod reader;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::{Compression, Record, check_batch};
use anabranch_core::engine::{
    Admin, AppendOptions, Appended, Capability, DELIVER_AT_MS, Description, EXPIRES_AT_MS, Engine,
    EngineError, Ensured, GroupMember, Payload, Place, Position, QueueConsumer, QueueSpec, Queues, Reader,
    Support, TopicSpec, TransactionalProducer, Transactions, Unsuitable,
};
use async_trait::async_trait;
use parking_lot::Mutex;

pub use self::lies::Lie;
use self::member::LyingMember;
use self::producer::LyingProducer;
use self::queue::LyingConsumer;
use self::reader::LyingReader;

/// Wraps an engine, and lies once about what it does. Ids and expected ends it has of its own, so that there are engines to
/// test these behaviours on.
#[derive(Debug, Clone)]
pub struct Liar(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    engine: Arc<dyn Engine>,
    lie: Lie,
    /// All was closed before, and opened again.
    again: bool,
    description: Description,
    calls: AtomicU64,
    is_closed: AtomicBool,
    /// A call began and did not end.
    was_dropped: AtomicBool,
    /// Appends that were dropped.
    dropped: Arc<Mutex<Vec<Held>>>,
    /// What was answered, and is stored later.
    held: Mutex<VecDeque<Held>>,
    /// New topics that nobody has used.
    unused: Mutex<BTreeSet<String>>,
    /// How far was read, where nothing is read twice.
    read: Mutex<BTreeMap<TopicPartition, Position>>,
    /// Held while an append with an id or an expected end goes on.
    conditional: tokio::sync::Mutex<BTreeMap<String, Appended>>,
}

type Held = (TopicPartition, Payload);

/// How much is answered before it is done: enough that the death of a process is sure to lose some.
const HELD_MAX: usize = 10;

impl Liar {
    /// Lies about `engine`; `again` when all was closed before, and opened again.
    pub fn new(engine: Arc<dyn Engine>, lie: Lie, again: bool) -> Self {
        let told = engine.description();
        let support = |capability| match capability {
            Capability::AppendIds | Capability::ConditionalAppend if lie.has_conditions() => Support::Native,
            Capability::SurvivesNodeLoss if lie == Lie::DeclaresTooMuch => Support::Native,
            Capability::Trim if lie == Lie::DeclaresTooLittle => Support::absent("so it says"),
            Capability::Transactions if lie == Lie::HidesTransactions => Support::absent("so it says"),
            capability => told.support(capability).clone(),
        };
        let mut limits = told.limits;
        if lie == Lie::TellsLargerLimits {
            limits.record_bytes_max += 10_000;
            limits.append_bytes_max += 10_000;
        }
        let mut description = Description::new(
            told.engine,
            told.version.clone(),
            told.cluster.clone(),
            told.nodes,
            limits,
            support,
        );
        description.partitions_default = told.partitions_default;
        Self(Arc::new(Shared {
            engine,
            lie,
            again,
            description,
            calls: AtomicU64::default(),
            is_closed: AtomicBool::default(),
            was_dropped: AtomicBool::default(),
            dropped: Arc::default(),
            held: Mutex::default(),
            unused: Mutex::default(),
            read: Mutex::default(),
            conditional: tokio::sync::Mutex::default(),
        }))
    }
}

impl Shared {
    fn lies(&self, lie: Lie) -> bool {
        self.lie == lie
    }

    /// Every fifth call.
    fn is_fifth(&self) -> bool {
        self.calls.fetch_add(1, Ordering::SeqCst) % 5 == 3
    }

    /// Fails as a closed engine does, but for these lies.
    async fn check_open(&self) -> Result<(), EngineError> {
        if self.is_closed.load(Ordering::SeqCst) {
            match self.lie {
                Lie::HangsWhenClosed => std::future::pending().await,
                Lie::FailsWhenClosed => return Err(EngineError::Failed("it is closed".into())),
                _ => {}
            }
        }
        Ok(())
    }

    /// Stores what was answered before, but for so many.
    async fn store_held(&self, but: usize) -> Result<(), EngineError> {
        let next = || {
            let mut held = self.held.lock();
            if held.len() > but { held.pop_front() } else { None }
        };
        while let Some((to, what)) = next() {
            self.engine.append(&to, what, AppendOptions::default()).await?;
        }
        Ok(())
    }

    /// The end of the partition as the engine tells it.
    async fn end(&self, at: &TopicPartition) -> Result<Position, EngineError> {
        self.engine.locate(at, Place::Latest).await
    }

    /// What an append that was not made is told.
    async fn made_up(&self, to: &TopicPartition, what: &Payload) -> Result<Appended, EngineError> {
        let first = self.end(to).await?;
        let count = what.clone().into_records()?.len() as u64;
        Ok(Appended { first, next: Position(first.0 + count), duplicate: false })
    }

    /// Appends with an id or an expected end, one at a time, as honestly as this lie is.
    async fn append_conditionally(
        &self,
        to: &TopicPartition,
        what: Payload,
        how: AppendOptions,
    ) -> Result<Appended, EngineError> {
        let racing = self.lies(Lie::ComparesTooEarly);
        if racing {
            self.compare(to, how.expected).await?;
            tokio::task::yield_now().await;
        }
        let mut ids = self.conditional.lock().await;
        if !racing && !self.lies(Lie::ComparesNothing) {
            self.compare(to, how.expected).await?;
        }
        if let Some(stored) =
            how.id.as_ref().and_then(|id| ids.get(id)).filter(|_| !self.lies(Lie::ForgetsIds))
        {
            return Ok(Appended { duplicate: !self.lies(Lie::TellsNoDuplicates), ..*stored });
        }
        let plain = AppendOptions::new(how.durability);
        let appended = self.engine.append(to, what, plain).await?;
        if let Some(id) = how.id {
            ids.insert(id, appended);
        }
        Ok(appended)
    }

    async fn compare(&self, to: &TopicPartition, expected: Option<Position>) -> Result<(), EngineError> {
        match expected {
            Some(expected) if self.end(to).await? != expected => {
                Err(EngineError::NotAtEnd { partition: to.clone(), expected })
            }
            _ => Ok(()),
        }
    }

    /// What is stored in place of what was to be stored.
    fn twisted(&self, what: Payload) -> Result<Payload, EngineError> {
        if let (Lie::ReadsNoCodecs, Payload::Batch(batch)) = (self.lie, &what) {
            let batch = check_batch(batch)?;
            if batch.header().compression()? != Compression::None {
                let mut records = what.into_records()?;
                records.truncate(1);
                return Ok(records.into());
            }
            return Ok(what);
        }
        if !self.lie.twists_records() {
            return Ok(what);
        }
        let mut records = what.into_records()?;
        if self.lies(Lie::SwapsRecords) && records.len() > 1 {
            records.swap(0, 1);
        }
        records.iter_mut().for_each(|record| self.twist(record));
        Ok(records.into())
    }

    fn twist(&self, record: &mut Record) {
        let as_text =
            |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(['\r', '\n', '\0'], "").into_bytes();
        match self.lie {
            Lie::DropsAHeader => {
                let mut seen = BTreeSet::new();
                record.headers.retain(|header| seen.insert(header.key.clone()));
            }
            Lie::SortsHeaders => record.headers.sort_by(|one, two| one.key.cmp(&two.key)),
            Lie::TakesHeadersForText => {
                for header in &mut record.headers {
                    header.value = header.value.as_ref().map(|value| as_text(value).into());
                }
            }
            Lie::CleansHeaderNames => {
                let clean =
                    |name: &[u8]| name.iter().copied().filter(u8::is_ascii_graphic).collect::<Vec<_>>();
                record.headers.iter_mut().for_each(|header| header.key = clean(&header.key).into());
            }
            Lie::TurnsNullIntoEmpty => {
                record.key.get_or_insert_default();
                record.value.get_or_insert_default();
            }
            Lie::TakesValuesForText => {
                record.value = record.value.as_ref().map(|value| as_text(value).into());
            }
            Lie::DropsDeliveryTimes => record.headers.retain(|header| {
                header.key != DELIVER_AT_MS.as_bytes() && header.key != EXPIRES_AT_MS.as_bytes()
            }),
            Lie::ChangesTimestamps if record.timestamp_ms == 0 => record.timestamp_ms = 1,
            Lie::MakesUpTimestamps if record.timestamp_ms < 0 => record.timestamp_ms = 5,
            _ => {}
        }
    }

    async fn append_whole(
        &self,
        to: &TopicPartition,
        what: Payload,
        how: AppendOptions,
    ) -> Result<Appended, EngineError> {
        let what = match (self.lie, what) {
            (Lie::TakesAnyBytes, what) if what.clone().into_records().is_err() => {
                return self.made_up(to, &Vec::new().into()).await;
            }
            (Lie::StoresBeforeItRefuses, Payload::Records(records)) if records.len() > 1 => {
                let first = records[0].clone();
                let result = self.engine.append(to, records.into(), how.clone()).await;
                if matches!(result, Err(EngineError::TooLarge { .. })) {
                    self.engine.append(to, first.into(), how).await?;
                }
                return result;
            }
            (Lie::CutsAppends, Payload::Records(mut records)) if records.len() > 1000 => {
                records.truncate(1000);
                records.into()
            }
            (_, what) => self.twisted(what)?,
        };
        match self.lie {
            Lie::LosesAppends if self.is_fifth() => self.made_up(to, &what).await,
            Lie::StoresTwice if self.is_fifth() => {
                self.engine.append(to, what.clone(), how.clone()).await?;
                self.engine.append(to, what, how).await
            }
            Lie::SplitsAppends => {
                let mut places = Vec::new();
                for record in what.into_records()? {
                    places.push(self.engine.append(to, record.into(), how.clone()).await?);
                }
                let (first, last) = (places.first().copied(), places.last().copied());
                let first = first.zip(last).map(|(first, last)| Appended { next: last.next, ..first });
                first.ok_or_else(|| EngineError::Failed("there are no records".into()))
            }
            Lie::AnswersBeforeStoring => {
                let told = self.made_up(to, &what).await?;
                self.held.lock().push_back((to.clone(), what));
                self.store_held(HELD_MAX).await?;
                Ok(told)
            }
            Lie::TellsWrongPlaces => {
                let told = self.engine.append(to, what, how).await?;
                Ok(Appended { first: Position(told.first.0 + 1), ..told })
            }
            _ => self.engine.append(to, what, how).await,
        }
    }

    /// Another partition, where the lie is about that.
    fn place(&self, at: &TopicPartition) -> TopicPartition {
        let partition = match self.lie {
            Lie::MixesPartitions => 0,
            Lie::WrapsPartitions => at.partition % 2,
            _ => at.partition,
        };
        TopicPartition::new(&at.topic, partition)
    }
}

#[async_trait]
impl Engine for Liar {
    fn description(&self) -> &Description {
        &self.0.description
    }

    fn require(&self, needs: &[Capability]) -> Result<(), Unsuitable> {
        match self.0.lie {
            Lie::NamesTheFirstThatIsMissing => {
                needs.iter().try_for_each(|&needed| self.0.description.require(&[needed]))
            }
            _ => self.0.description.require(needs),
        }
    }

    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<Ensured, EngineError> {
        let shared = &self.0;
        shared.check_open().await?;
        if shared.lies(Lie::BreaksWhenDropped) && shared.was_dropped.swap(true, Ordering::SeqCst) {
            return Err(EngineError::Failed("a call was dropped".into()));
        }
        let mut spec = spec.clone();
        let known = [
            "cleanup.policy",
            "retention.ms",
            "retention.bytes",
            "segment.bytes",
            "min.cleanable.dirty.ratio",
        ];
        spec.configs.retain(|(name, _)| match shared.lie {
            Lie::DropsUnknownSettings => known.contains(&name.as_str()),
            Lie::NeverCompacts => name != "cleanup.policy",
            Lie::NeverForgets => !name.starts_with("retention."),
            Lie::DropsTheTimestampType => name != "message.timestamp.type",
            _ => true,
        });
        let result = match shared.engine.ensure_topic(&spec).await {
            Ok(_) if shared.lies(Lie::CreatesEveryTime) => Ok(Ensured::Created),
            Err(EngineError::Different { .. }) if shared.lies(Lie::TakesAnyPartitionCount) => {
                Ok(Ensured::Existed)
            }
            result => result,
        };
        if result.is_ok() && shared.lies(Lie::CreatesLate) {
            shared.unused.lock().insert(spec.name.clone());
        }
        shared.was_dropped.store(false, Ordering::SeqCst);
        result
    }

    async fn partition_count(&self, topic: &str) -> Result<i32, EngineError> {
        self.0.check_open().await?;
        self.0.engine.partition_count(topic).await
    }

    async fn append(
        &self,
        to: &TopicPartition,
        what: Payload,
        how: AppendOptions,
    ) -> Result<Appended, EngineError> {
        let shared = &self.0;
        shared.check_open().await?;
        let to = &shared.place(to);
        if shared.unused.lock().remove(&to.topic) {
            return Err(EngineError::NotFound(to.clone()));
        }
        if shared.lies(Lie::CreatesWhatIsMissing) {
            shared.engine.ensure_topic(&TopicSpec::new(&to.topic, 1)).await.ok();
        }
        if how.expected.is_some() || how.id.is_some() {
            if shared.lie.has_conditions() {
                return shared.append_conditionally(to, what, how).await;
            }
            if shared.lies(Lie::IgnoresConditions) {
                let plain = AppendOptions::new(how.durability);
                return shared.engine.append(to, what, plain).await;
            }
        }
        match shared.lie {
            Lie::StoresLater => {
                // Every other one is overtaken by whoever comes behind.
                if shared.calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                    for _ in 0..20 {
                        tokio::task::yield_now().await;
                    }
                }
                shared.engine.append(to, what, how).await
            }
            Lie::ForgetsWrittenAppends if how.durability == anabranch_core::engine::Durability::Written => {
                shared.made_up(to, &what).await
            }
            Lie::StoresWhatIsDroppedAgain => {
                let dropped = std::mem::take(&mut *shared.dropped.lock());
                for (to, what) in dropped {
                    shared.engine.append(&to, what, AppendOptions::default()).await?;
                }
                let (dropped, again) = (Arc::clone(&shared.dropped), (to.clone(), what.clone()));
                let note = OnDrop(Some(Box::new(move || dropped.lock().push(again))));
                let result = shared.engine.append(to, what, how).await;
                note.defuse();
                result
            }
            Lie::StoresInTheBackground => {
                let told = shared.made_up(to, &what).await?;
                let (engine, to) = (Arc::clone(&shared.engine), to.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    engine.append(&to, what, how).await.ok();
                });
                Ok(told)
            }
            _ => shared.append_whole(to, what, how).await,
        }
    }

    async fn locate(&self, at: &TopicPartition, place: Place) -> Result<Position, EngineError> {
        let shared = &self.0;
        shared.check_open().await?;
        shared.store_held(0).await?;
        let at = &shared.place(at);
        let engine = &shared.engine;
        match (shared.lie, place) {
            (Lie::TellsWrongLatest, Place::Latest) => {
                Ok(Position(engine.locate(at, place).await?.0.saturating_sub(1)))
            }
            (Lie::TellsTooLate, Place::Latest) => Ok(Position(engine.locate(at, place).await?.0 + 1)),
            (Lie::FindsNoTimes, Place::AtTime(_)) => engine.locate(at, Place::Latest).await,
            (Lie::FindsLaterTimes, Place::AtTime(ms)) => engine.locate(at, Place::AtTime(ms + 1)).await,
            (Lie::FindsTimesThatAreNotThere, Place::AtTime(_)) => {
                let found = engine.locate(at, place).await?;
                let end = engine.locate(at, Place::Latest).await?;
                Ok(if found == end { Position(end.0.saturating_sub(1)) } else { found })
            }
            (Lie::ForgetsWhenReopened, Place::Earliest) if shared.again => Ok(Position(0)),
            _ => engine.locate(at, place).await,
        }
    }

    async fn reader(&self, at: &TopicPartition, from: Position) -> Result<Box<dyn Reader>, EngineError> {
        let shared = &self.0;
        shared.check_open().await?;
        let at = shared.place(at);
        let reader = shared.engine.reader(&at, from).await?;
        Ok(Box::new(LyingReader::new(reader, at, Arc::clone(shared))))
    }

    async fn trim(&self, at: &TopicPartition, before: Position) -> Result<Position, EngineError> {
        let shared = &self.0;
        let earliest = shared.engine.locate(at, Place::Earliest).await?;
        let latest = shared.engine.locate(at, Place::Latest).await?;
        match shared.lie {
            Lie::TrimsTooMuch => shared.engine.trim(at, latest).await,
            Lie::TrimsNothing => Ok(before.max(earliest)),
            Lie::TrimsBehindTheEnd => shared.engine.trim(at, before.min(latest)).await,
            _ => shared.engine.trim(at, before).await,
        }
    }

    async fn join(&self, group: &str, topics: &[String]) -> Result<Box<dyn GroupMember>, EngineError> {
        let shared = &self.0;
        shared.check_open().await?;
        LyingMember::join(Arc::clone(shared), group, topics).await
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        match self.0.lie {
            Lie::LosesTransactions => None,
            _ => Some(self),
        }
    }

    fn queues(&self) -> Option<&dyn Queues> {
        match self.0.lie {
            Lie::LosesQueues => None,
            _ => Some(self),
        }
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    async fn close(&self) {
        self.0.is_closed.store(true, Ordering::SeqCst);
        if self.0.lies(Lie::HangsAtClose) {
            std::future::pending::<()>().await;
        }
        self.0.engine.close().await;
    }
}

#[async_trait]
impl Transactions for Liar {
    async fn producer(
        &self,
        id: &str,
        timeout: Duration,
    ) -> Result<Box<dyn TransactionalProducer>, EngineError> {
        self.0.check_open().await?;
        LyingProducer::open(Arc::clone(&self.0), id, timeout).await
    }
}

#[async_trait]
impl Queues for Liar {
    async fn consumer(&self, spec: QueueSpec) -> Result<Box<dyn QueueConsumer>, EngineError> {
        self.0.check_open().await?;
        LyingConsumer::open(Arc::clone(&self.0), spec).await
    }
}

/// Does something when it is dropped, unless it is defused.
struct OnDrop(Option<Box<dyn FnOnce() + Send>>);

impl OnDrop {
    fn defuse(mut self) {
        self.0 = None;
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done();
        }
    }
}
