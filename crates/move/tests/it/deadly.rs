//! An engine whose caller dies at a call that is named beforehand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{
    Admin, AppendOptions, Appended, Description, Engine, EngineError, Ensured, Fetched, GroupInfo,
    GroupMember, GroupPositions, Payload, Place, Position, ReadLimits, Reader, TopicConfig, TopicInfo,
    TopicSpec, TransactionalProducer, Transactions,
};
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How the caller dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// Before the call is made.
    Before,
    /// When it is done, and before the answer is there.
    After,
    /// The call is on its way, and comes when the successor is at work.
    Late,
}

/// Counts calls, and kills at one of them.
#[derive(Debug, Default)]
pub(crate) struct Fuse {
    calls: AtomicU64,
    dies_at: Option<(u64, Death)>,
    dead: Notify,
    late: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// Says that what is late may come.
    come: Arc<Notify>,
}

impl Fuse {
    pub(crate) fn new(dies_at: Option<(u64, Death)>) -> Arc<Self> {
        Arc::new(Self { dies_at, ..Self::default() })
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Returns when the caller is dead.
    pub(crate) async fn dead(&self) {
        self.dead.notified().await;
    }

    /// Lets come what is late.
    pub(crate) fn let_come(&self) {
        self.come.notify_waiters();
    }

    /// Waits for what is late.
    pub(crate) async fn settled(&self) {
        let late: Vec<_> = self.late.lock().drain(..).collect();
        for task in late {
            task.await.unwrap();
        }
    }

    /// The call's answer, or death.
    pub(crate) async fn burn<T: Send + 'static>(&self, call: BoxFuture<'static, T>) -> T {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let Some((_, death)) = self.dies_at.filter(|(at, _)| *at == number) else { return call.await };
        match death {
            Death::Before => {}
            Death::After => drop(call.await),
            Death::Late => {
                let come = Arc::clone(&self.come);
                let late = async move {
                    let _ = tokio::time::timeout(Duration::from_secs(5), come.notified()).await;
                    drop(call.await);
                };
                self.late.lock().push(tokio::spawn(late));
            }
        }
        self.dead.notify_one();
        std::future::pending().await
    }
}

/// An engine on a fuse.
#[derive(Debug, Clone)]
pub(crate) struct DeadlyEngine {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) fuse: Arc<Fuse>,
    /// Without transactions: as an engine that has conditional appends only.
    pub(crate) description: Option<Arc<Description>>,
    /// Where partitions ended before what was committed, if that is shown late.
    pub(crate) late: Option<Arc<Mutex<Late>>>,
}

/// For how many looks, and the ends.
pub(crate) type Late = BTreeMap<TopicPartition, (u32, Position)>;

/// One call of the engine within.
macro_rules! burnt {
    ($self:ident, |$engine:ident| $call:expr) => {{
        let $engine = Arc::clone(&$self.engine);
        $self.fuse.burn(async move { $call }.boxed()).await
    }};
}

#[async_trait]
impl Engine for DeadlyEngine {
    fn description(&self) -> &Description {
        self.description.as_deref().unwrap_or_else(|| self.engine.description())
    }

    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<Ensured, EngineError> {
        let spec = spec.clone();
        burnt!(self, |engine| engine.ensure_topic(&spec).await)
    }

    async fn partition_count(&self, topic: &str) -> Result<i32, EngineError> {
        self.engine.partition_count(topic).await
    }

    async fn append(
        &self,
        to: &TopicPartition,
        what: Payload,
        how: AppendOptions,
    ) -> Result<Appended, EngineError> {
        let to = to.clone();
        burnt!(self, |engine| engine.append(&to, what, how).await)
    }

    async fn locate(&self, at: &TopicPartition, place: Place) -> Result<Position, EngineError> {
        if let (Some(late), Place::Latest) = (&self.late, place)
            && let Some((looks, end)) = late.lock().get_mut(at)
            && *looks > 0
        {
            *looks -= 1;
            return Ok(*end);
        }
        let at = at.clone();
        burnt!(self, |engine| engine.locate(&at, place).await)
    }

    async fn reader(&self, at: &TopicPartition, from: Position) -> Result<Box<dyn Reader>, EngineError> {
        let reader = self.engine.reader(at, from).await?;
        Ok(Box::new(DeadlyReader { reader, fuse: Arc::clone(&self.fuse) }))
    }

    async fn trim(&self, at: &TopicPartition, before: Position) -> Result<Position, EngineError> {
        self.engine.trim(at, before).await
    }

    async fn join(&self, group: &str, topics: &[String]) -> Result<Box<dyn GroupMember>, EngineError> {
        self.engine.join(group, topics).await
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        self.description.is_none().then_some(self)
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    async fn close(&self) {
        self.engine.close().await;
    }
}

#[derive(Debug)]
struct DeadlyReader {
    reader: Box<dyn Reader>,
    fuse: Arc<Fuse>,
}

#[async_trait]
impl Reader for DeadlyReader {
    fn position(&self) -> Position {
        self.reader.position()
    }

    async fn read(&mut self, limits: ReadLimits) -> Result<Fetched, EngineError> {
        self.fuse.burn(std::future::ready(()).boxed()).await;
        self.reader.read(limits).await
    }

    fn seek(&mut self, to: Position) {
        self.reader.seek(to);
    }
}

#[async_trait]
impl Transactions for DeadlyEngine {
    async fn producer(
        &self,
        id: &str,
        timeout: Duration,
    ) -> Result<Box<dyn TransactionalProducer>, EngineError> {
        let id = id.to_owned();
        let producer = burnt!(self, |engine| {
            engine.transactions().expect("it has them").producer(&id, timeout).await
        })?;
        let producer = Arc::new(tokio::sync::Mutex::new(producer));
        let (engine, fuse, late) = (Arc::clone(&self.engine), Arc::clone(&self.fuse), self.late.clone());
        Ok(Box::new(DeadlyProducer { producer, fuse, late, engine }))
    }
}

#[derive(Debug)]
struct DeadlyProducer {
    producer: Arc<tokio::sync::Mutex<Box<dyn TransactionalProducer>>>,
    fuse: Arc<Fuse>,
    late: Option<Arc<Mutex<Late>>>,
    engine: Arc<dyn Engine>,
}

#[async_trait]
impl TransactionalProducer for DeadlyProducer {
    async fn commit(
        &mut self,
        appends: Vec<(TopicPartition, Payload)>,
        positions: Option<GroupPositions>,
    ) -> Result<Vec<Appended>, EngineError> {
        if let Some(late) = &self.late {
            for (to, _) in &appends {
                let end = self.engine.locate(to, Place::Latest).await?;
                late.lock().insert(to.clone(), (20, end));
            }
        }
        let producer = Arc::clone(&self.producer);
        let call = async move { producer.lock().await.commit(appends, positions).await };
        self.fuse.burn(call.boxed()).await
    }
}

#[async_trait]
impl Admin for DeadlyEngine {
    async fn topics(&self) -> Result<Vec<TopicInfo>, EngineError> {
        burnt!(self, |engine| engine.admin().topics().await)
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo, EngineError> {
        self.engine.admin().topic(name).await
    }

    async fn topic_configs(&self, topic: &str) -> Result<Vec<TopicConfig>, EngineError> {
        self.engine.admin().topic_configs(topic).await
    }

    async fn set_topic_configs(
        &self,
        topic: &str,
        changes: &[(String, Option<String>)],
    ) -> Result<(), EngineError> {
        let (topic, changes) = (topic.to_owned(), changes.to_vec());
        burnt!(self, |engine| engine.admin().set_topic_configs(&topic, &changes).await)
    }

    async fn add_partitions(&self, topic: &str, total: i32) -> Result<(), EngineError> {
        self.engine.admin().add_partitions(topic, total).await
    }

    async fn delete_topic(&self, name: &str) -> Result<(), EngineError> {
        self.engine.admin().delete_topic(name).await
    }

    async fn groups(&self) -> Result<Vec<GroupInfo>, EngineError> {
        burnt!(self, |engine| engine.admin().groups().await)
    }

    async fn group(&self, name: &str) -> Result<Option<GroupInfo>, EngineError> {
        self.engine.admin().group(name).await
    }

    async fn group_positions(&self, group: &str) -> Result<Vec<(TopicPartition, Position)>, EngineError> {
        let group = group.to_owned();
        burnt!(self, |engine| engine.admin().group_positions(&group).await)
    }

    async fn set_group_positions(&self, to: &GroupPositions) -> Result<(), EngineError> {
        let to = to.clone();
        burnt!(self, |engine| engine.admin().set_group_positions(&to).await)
    }

    async fn delete_group(&self, name: &str) -> Result<(), EngineError> {
        self.engine.admin().delete_group(name).await
    }
}
