//! What a behaviour is given, and what it says in the end.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anabranch_core::TopicPartition;
use anabranch_core::batch::{BatchError, Record, RecordAt};
use anabranch_core::engine::{
    AppendOptions, Appended, Block, Capability, Engine, EngineError, Fetched, GroupEvent, GroupMember,
    Missing, Payload, Place, Position, ReadLimits, Reader, Support, TopicSpec, TransactionalProducer,
    Transactions, Unsuitable,
};
use tokio::time::timeout;

use crate::ground::Ground;
use crate::table::Behaviour;

/// What a behaviour came to.
pub type Outcome<T = ()> = Result<T, Stop>;

/// Why a behaviour did not come to its end.
#[derive(Debug)]
pub enum Stop {
    /// The promise is broken: what was seen.
    Broken(String),
    /// An error where there must be none; or the refusal of what the engine says it cannot do.
    Engine(EngineError),
    /// The ground lacks what is needed.
    Lacks(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(what) | Self::Lacks(what) => f.write_str(what),
            Self::Engine(error) => write!(f, "{error}"),
        }
    }
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<Unsuitable> for Stop {
    fn from(refused: Unsuitable) -> Self {
        Self::Engine(refused.into())
    }
}

impl From<BatchError> for Stop {
    fn from(error: BatchError) -> Self {
        Self::Engine(error.into())
    }
}

/// Ends a behaviour as broken unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($said:tt)+) => {
        if !$holds {
            return Err($crate::stage::Stop::Broken(format!($($said)+)));
        }
    };
}

/// Ends a behaviour as broken unless both are equal.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($said:tt)+) => {
        match (&$left, &$right) {
            (left, right) => if left != right {
                let (left, right) = ($crate::stage::short(left), $crate::stage::short(right));
                return Err($crate::stage::Stop::Broken(format!("{}: {left}, not {right}", format_args!($($said)+))));
            }
        }
    };
}

/// Ends a behaviour as broken unless the result is the error.
macro_rules! ensure_fails {
    ($result:expr, $error:pat $(if $guard:expr)?, $($said:tt)+) => {
        match $result {
            Err($error) $(if $guard)? => {}
            other => {
                let (told, expected) = ($crate::stage::short(&other), stringify!($error));
                return Err($crate::stage::Stop::Broken(format!("{}: {told}, not {expected}", format_args!($($said)+))));
            }
        }
    };
}

pub(crate) use {ensure, ensure_eq, ensure_fails};

/// As much of a value as a person reads.
pub(crate) fn short(value: &(impl Debug + ?Sized)) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(400) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// One behaviour's engine, and names that are its own.
#[derive(Debug)]
pub struct Stage {
    behaviour: &'static str,
    ground: Arc<dyn Ground>,
    engine: Arc<dyn Engine>,
    /// What tells this run from every other on the same cluster.
    run: String,
    names: AtomicU32,
}

/// The client that [`Stage::engine`] is of.
pub(crate) const MAIN: &str = "main";

/// Does not wait.
pub(crate) const NO_WAIT: ReadLimits = ReadLimits { bytes_max: 1 << 20, wait_max: Duration::ZERO };

/// Between two looks at what another has to do.
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Stage {
    pub(crate) async fn open(behaviour: &Behaviour, ground: Arc<dyn Ground>) -> Result<Self, EngineError> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let engine = ground.open(MAIN).await?;
        let nanos = UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let run = format!("{nanos:x}-{:x}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::SeqCst));
        Ok(Self { behaviour: behaviour.name, ground, engine, run, names: AtomicU32::new(0) })
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Where it is.
    pub fn ground(&self) -> &Arc<dyn Ground> {
        &self.ground
    }

    /// Another client of the same cluster.
    pub(crate) async fn client(&self, name: &str) -> Outcome<Arc<dyn Engine>> {
        Ok(self.ground.open(name).await?)
    }

    /// Another client of the same cluster, to which this topic has got round.
    pub(crate) async fn client_of(&self, name: &str, topic: &str) -> Outcome<Arc<dyn Engine>> {
        let engine = self.client(name).await?;
        self.until("another client finds the topic", async || match engine.partition_count(topic).await {
            Ok(_) => Ok(Some(())),
            Err(EngineError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        })
        .await?;
        Ok(engine)
    }

    /// The engine, after all was closed cleanly and opened again.
    pub(crate) async fn reopened(&self) -> Outcome<Arc<dyn Engine>> {
        self.ground.release().await;
        self.client("again").await
    }

    /// A name that nothing else has.
    pub(crate) fn name(&self) -> String {
        let behaviour: String = self.behaviour.chars().take(60).collect();
        format!("{behaviour}.{}.{}", self.run, self.names.fetch_add(1, Ordering::SeqCst))
    }

    /// A new topic.
    pub(crate) async fn topic(&self, partitions: i32) -> Outcome<String> {
        self.topic_with(partitions, &[]).await
    }

    /// A new topic with settings.
    pub(crate) async fn topic_with(&self, partitions: i32, configs: &[(&str, &str)]) -> Outcome<String> {
        let name = self.name();
        let spec = configs
            .iter()
            .fold(TopicSpec::new(&name, partitions), |spec, (name, value)| spec.config(*name, *value));
        self.engine.ensure_topic(&spec).await?;
        Ok(name)
    }

    /// The one partition of a new topic.
    pub(crate) async fn partition(&self) -> Outcome<TopicPartition> {
        Ok(TopicPartition::new(self.topic(1).await?, 0))
    }

    /// Transactions, or the refusal that stands for [`Engine::transactions`] being none.
    pub(crate) fn transactions(&self) -> Outcome<&dyn Transactions> {
        transactions(&*self.engine)
    }

    /// A producer of an id that is new.
    pub(crate) async fn producer(&self) -> Outcome<Box<dyn TransactionalProducer>> {
        Ok(self.transactions()?.producer(&self.name(), Duration::from_secs(60)).await?)
    }

    /// Fails when `what` hangs.
    pub(crate) async fn soon<T>(&self, what: &str, future: impl Future<Output = T>) -> Outcome<T> {
        let patience = self.ground.patience();
        timeout(patience, future)
            .await
            .map_err(|_| Stop::Broken(format!("{what} hangs: {patience:?} are over")))
    }

    /// Looks until there is something.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Outcome<Option<T>>,
    ) -> Outcome<T> {
        let waiting = async {
            loop {
                match look().await? {
                    Some(found) => return Ok(found),
                    None => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        };
        match timeout(self.ground.patience(), waiting).await {
            Ok(found) => found,
            Err(_) => Err(Stop::Broken(format!("{what}: not within {:?}", self.ground.patience()))),
        }
    }

    /// Appends, durably.
    pub(crate) async fn append(&self, to: &TopicPartition, what: impl Into<Payload>) -> Outcome<Appended> {
        Ok(self.soon("an append", append(&*self.engine, to, what)).await??)
    }

    /// Appends one record per text, each by itself.
    pub(crate) async fn append_each<T: AsRef<str>>(
        &self,
        to: &TopicPartition,
        texts: impl IntoIterator<Item = T>,
    ) -> Outcome<Vec<Appended>> {
        let mut all = Vec::new();
        for text in texts {
            all.push(self.append(to, record(text.as_ref())).await?);
        }
        Ok(all)
    }

    /// All that `at` shows.
    pub(crate) async fn read(&self, at: &TopicPartition) -> Outcome<Vec<RecordAt>> {
        self.read_by(&*self.engine, at).await
    }

    /// The values that `at` shows.
    pub(crate) async fn texts(&self, at: &TopicPartition) -> Outcome<Vec<String>> {
        Ok(texts(&self.read(at).await?))
    }

    /// Waits until `at` shows these values, of which more and more may be shown, and nothing else.
    pub(crate) async fn shows<T: AsRef<str>>(
        &self,
        at: &TopicPartition,
        expected: &[T],
        what: &str,
    ) -> Outcome {
        let expected: Vec<_> = expected.iter().map(|text| text.as_ref().to_owned()).collect();
        self.until(what, async || {
            let read = self.texts(at).await?;
            ensure_eq!(read, expected[..read.len().min(expected.len())], "{what}");
            Ok((read.len() == expected.len()).then_some(()))
        })
        .await
    }

    /// All that `at` shows to this engine.
    pub(crate) async fn read_by(&self, engine: &dyn Engine, at: &TopicPartition) -> Outcome<Vec<RecordAt>> {
        let from = self.soon("locate", engine.locate(at, Place::Earliest)).await??;
        self.read_from(engine, at, from).await
    }

    /// All that `at` shows to this engine, from `from` to what is the latest place now.
    pub(crate) async fn read_from(
        &self,
        engine: &dyn Engine,
        at: &TopicPartition,
        from: Position,
    ) -> Outcome<Vec<RecordAt>> {
        let end = self.soon("locate", engine.locate(at, Place::Latest)).await??;
        let mut reader = engine.reader(at, from).await?;
        self.read_to(&mut *reader, end).await
    }

    /// All that the reader comes by up to `end`.
    pub(crate) async fn read_to(&self, reader: &mut dyn Reader, end: Position) -> Outcome<Vec<RecordAt>> {
        let (started, mut all) = (Instant::now(), Vec::new());
        while reader.position() < end {
            let from = reader.position();
            let fetched = self.soon("a read", reader.read(ReadLimits::default())).await??;
            let records = check_fetched(reader, from, fetched)?;
            all.extend(records.into_iter().take_while(|at| Position::from(at.offset) < end));
            ensure!(
                started.elapsed() < self.ground.patience(),
                "a reader stays at {} and never comes to {end}, which is the latest place",
                reader.position()
            );
        }
        Ok(all)
    }

    /// All from the reader's position on, until `count` records have come.
    pub(crate) async fn read_count(&self, reader: &mut dyn Reader, count: usize) -> Outcome<Vec<RecordAt>> {
        let (started, mut all) = (Instant::now(), Vec::new());
        while all.len() < count {
            let from = reader.position();
            let fetched = self.soon("a read", reader.read(ReadLimits::default())).await??;
            all.extend(check_fetched(reader, from, fetched)?);
            ensure!(
                started.elapsed() < self.ground.patience(),
                "a reader is shown {} records of {count}",
                all.len()
            );
        }
        Ok(all)
    }

    /// The error that reading comes to, where it must show nothing. A first read may be over before anything is known.
    pub(crate) async fn refused(&self, reader: &mut dyn Reader) -> Outcome<EngineError> {
        let from = reader.position();
        self.until("a read that must fail", async || match reader.read(ReadLimits::default()).await {
            Err(error) => Ok(Some(error)),
            Ok(fetched) => {
                ensure!(
                    fetched.next == from && fetched.block.is_empty(),
                    "a read from {from} gives {}",
                    short(&fetched)
                );
                Ok(None)
            }
        })
        .await
    }

    /// A member's next event.
    pub(crate) async fn event(&self, member: &mut Box<dyn GroupMember>) -> Outcome<GroupEvent> {
        Ok(self.soon("a member's next event", member.next_event()).await??)
    }

    /// What the member is assigned next, whatever it is told before.
    pub(crate) async fn assigned(
        &self,
        member: &mut Box<dyn GroupMember>,
    ) -> Outcome<Vec<(TopicPartition, Option<Position>)>> {
        loop {
            if let GroupEvent::Assigned(partitions) = self.event(member).await? {
                return Ok(partitions);
            }
        }
    }

    /// What a new and only member of the group is told of one partition.
    pub(crate) async fn stands(
        &self,
        engine: &dyn Engine,
        group: &str,
        at: &TopicPartition,
    ) -> Outcome<Option<Position>> {
        let topics = [at.topic.clone()];
        let mut member = engine.join(group, &topics).await?;
        let assigned = self.assigned(&mut member).await?;
        let found = assigned.into_iter().find(|(assigned, _)| assigned == at);
        self.soon("leaving", member.leave()).await??;
        match found {
            Some((_, position)) => Ok(position),
            None => Err(Stop::Broken(format!("the only member of a group is not assigned {at}"))),
        }
    }
}

/// What the seam says where there are no transactions.
pub(crate) fn transactions(engine: &dyn Engine) -> Outcome<&dyn Transactions> {
    let refused = || {
        let why = match engine.description().support(Capability::Transactions) {
            Support::Absent { why } => why.clone(),
            _ => "they are declared, and Engine::transactions gives none".into(),
        };
        let missing = vec![Missing { capability: Capability::Transactions, why }];
        Unsuitable { engine: engine.description().engine, missing }
    };
    engine.transactions().ok_or_else(|| refused().into())
}

/// What holds of every read.
pub(crate) fn check_fetched(reader: &dyn Reader, from: Position, fetched: Fetched) -> Outcome<Vec<RecordAt>> {
    let Fetched { block, next, latest } = fetched;
    ensure_eq!(reader.position(), next, "after a read the reader's position is where to read next");
    ensure!(next >= from, "a read from {from} goes on at {next}");
    let records = block.into_records(from)?;
    let mut after = from;
    for at in &records {
        let position = Position::from(at.offset);
        ensure!(position >= after, "a read from {from} shows {position} where {after} or later is to come");
        after = Position(position.0 + 1);
    }
    ensure!(after <= next, "a read shows a record at {} and goes on at {next}", after.0.saturating_sub(1));
    ensure!(after <= latest || records.is_empty(), "a read shows what is behind the latest place, {latest}");
    Ok(records)
}

/// Appends, durably.
pub(crate) async fn append(
    engine: &dyn Engine,
    to: &TopicPartition,
    what: impl Into<Payload>,
) -> Result<Appended, EngineError> {
    engine.append(to, what.into(), AppendOptions::default()).await
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A record of now with this value, and a key.
pub(crate) fn record(text: &str) -> Record {
    Record::new("key", text.to_owned()).at(now_ms())
}

/// One record of now per text.
pub(crate) fn records(texts: &[&str]) -> Vec<Record> {
    texts.iter().map(|text| record(text)).collect()
}

/// The values, as text.
pub(crate) fn texts(records: &[RecordAt]) -> Vec<String> {
    records.iter().map(|at| text(&at.record)).collect()
}

/// The value, as text.
pub(crate) fn text(record: &Record) -> String {
    record
        .value
        .as_deref()
        .map_or_else(|| "(null)".to_owned(), |value| String::from_utf8_lossy(value).into_owned())
}

/// Bytes of all keys, values and headers.
pub(crate) fn size(record: &Record) -> usize {
    let len = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let headers: usize = record.headers.iter().map(|header| header.key.len() + len(&header.value)).sum();
    len(&record.key) + len(&record.value) + headers
}

/// How much a block has of records, and of batches or records that come whole.
pub(crate) fn measure(block: &Block) -> Outcome<(usize, usize)> {
    match block.clone() {
        Block::Batches(bytes) => {
            let batches =
                anabranch_core::batch::split_batches(bytes.clone()).collect::<Result<Vec<_>, _>>()?;
            Ok((bytes.len(), batches.len()))
        }
        Block::Records(records) => Ok((records.iter().map(|at| size(&at.record)).sum(), records.len())),
    }
}

/// Numbers that look random, and are the same every time.
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// xorshift64, Marsaglia 2003.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    pub(crate) fn bytes(&mut self, len_max: u64) -> Vec<u8> {
        (0..self.below(len_max + 1)).map(|_| self.below(256) as u8).collect()
    }
}

/// Polls the future this many times, at most, and drops it; gives what it came to, if it did.
pub(crate) async fn polled<F: Future>(times: u32, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    for _ in 0..times {
        if let std::task::Poll::Ready(done) = futures::poll!(future.as_mut()) {
            return Some(done);
        }
        // What it waits for gets a chance to come.
        tokio::task::yield_now().await;
    }
    None
}
