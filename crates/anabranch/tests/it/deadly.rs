//! A disk and an engine that kill their process at a call that is named beforehand: kill -9 at each step of what goes on.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch::Broker;
use anabranch::core::seam::{Disk, DiskFile, Entry, Lock, Open, RealDisk, Space};
use anabranch::{Engine, EngineError, Place, TopicPartition};
use anabranch_core::engine::{
    Admin, AppendOptions, Appended, Description, Ensured, GroupMember, GroupPositions, Payload, Position,
    Reader, TopicSpec, TransactionalProducer, Transactions,
};
use async_trait::async_trait;
use rustix::process::{Signal, getpid, kill_process};

/// Counts calls that change something, once it burns.
#[derive(Debug, Default)]
pub(crate) struct Fuse {
    burns: std::sync::atomic::AtomicBool,
    calls: AtomicU64,
    dies_at: Option<u64>,
}

impl Fuse {
    /// Kills before the call of this number, counted from 0.
    pub(crate) fn new(dies_at: Option<u64>) -> Arc<Self> {
        Arc::new(Self { dies_at, ..Self::default() })
    }

    pub(crate) fn light(&self) {
        self.burns.store(true, Ordering::SeqCst);
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn burn(&self) {
        if self.burns.load(Ordering::SeqCst)
            && Some(self.calls.fetch_add(1, Ordering::SeqCst)) == self.dies_at
        {
            kill_process(getpid(), Signal::KILL).unwrap();
            loop {
                std::thread::park(); // whoever is on another thread may still come to this
            }
        }
    }
}

/// The real disk, on a fuse.
#[derive(Debug)]
pub(crate) struct DeadlyDisk(pub(crate) Arc<Fuse>);

#[derive(Debug)]
struct DeadlyFile(Arc<dyn DiskFile>, Arc<Fuse>);

impl Disk for DeadlyDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        if how == Open::Create {
            self.0.burn();
        }
        Ok(Arc::new(DeadlyFile(RealDisk.open(path, how)?, Arc::clone(&self.0))))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.burn();
        RealDisk.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.burn();
        RealDisk.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.burn();
        RealDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.burn();
        RealDisk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.burn();
        RealDisk.remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        RealDisk.try_lock(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        RealDisk.space(path)
    }
}

impl DiskFile for DeadlyFile {
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        self.0.read_exact_at(into, position)
    }

    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        self.1.burn();
        self.0.write_all_at(parts, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.burn();
        self.0.sync_data()
    }

    fn sync_file_system(&self) -> io::Result<()> {
        self.1.burn();
        self.0.sync_file_system()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.burn();
        self.0.set_len(len)
    }

    fn reserve(&self, position: u64, len: u64) -> io::Result<()> {
        self.1.burn();
        self.0.reserve(position, len)
    }
}

/// The broker as an engine, whose commits are on a fuse, before and after.
#[derive(Debug)]
pub(crate) struct DeadlyEngine {
    pub(crate) broker: Broker,
    pub(crate) fuse: Arc<Fuse>,
}

#[async_trait]
impl Engine for DeadlyEngine {
    fn description(&self) -> &Description {
        self.broker.description()
    }

    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<Ensured, EngineError> {
        self.broker.ensure_topic(spec).await
    }

    async fn partition_count(&self, topic: &str) -> Result<i32, EngineError> {
        self.broker.partition_count(topic).await
    }

    async fn append(
        &self,
        to: &TopicPartition,
        what: Payload,
        how: AppendOptions,
    ) -> Result<Appended, EngineError> {
        Engine::append(&self.broker, to, what, how).await
    }

    async fn reader(&self, at: &TopicPartition, from: Position) -> Result<Box<dyn Reader>, EngineError> {
        self.broker.reader(at, from).await
    }

    async fn trim(&self, at: &TopicPartition, before: Position) -> Result<Position, EngineError> {
        self.broker.trim(at, before).await
    }

    async fn locate(&self, partition: &TopicPartition, place: Place) -> Result<Position, EngineError> {
        self.broker.locate(partition, place).await
    }

    async fn join(&self, group: &str, topics: &[String]) -> Result<Box<dyn GroupMember>, EngineError> {
        self.broker.join(group, topics).await
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        Some(self)
    }

    fn admin(&self) -> &dyn Admin {
        self.broker.admin()
    }

    async fn close(&self) {
        self.broker.close().await;
    }
}

#[async_trait]
impl Transactions for DeadlyEngine {
    async fn producer(
        &self,
        id: &str,
        timeout: Duration,
    ) -> Result<Box<dyn TransactionalProducer>, EngineError> {
        let producer = Transactions::producer(&self.broker, id, timeout).await?;
        Ok(Box::new(DeadlyProducer { producer, fuse: Arc::clone(&self.fuse) }))
    }
}

#[derive(Debug)]
struct DeadlyProducer {
    producer: Box<dyn TransactionalProducer>,
    fuse: Arc<Fuse>,
}

#[async_trait]
impl TransactionalProducer for DeadlyProducer {
    async fn commit(
        &mut self,
        appends: Vec<(TopicPartition, Payload)>,
        positions: Option<GroupPositions>,
    ) -> Result<Vec<Appended>, EngineError> {
        self.fuse.burn();
        let appended = self.producer.commit(appends, positions).await?;
        self.fuse.burn();
        Ok(appended)
    }
}
