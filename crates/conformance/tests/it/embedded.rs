//! The embedded engine, each time on a directory of its own.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anabranch_broker::{Broker, BrokerConfig};
use anabranch_conformance::Ground;
use anabranch_core::engine::{Engine, EngineError};
use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::Mutex;

/// Names a child's data directory.
pub(crate) const DIRECTORY: &str = "ANABRANCH_CONFORMANCE_DIRECTORY";

/// A data directory, and the broker that has it open: one for all clients, since the engine is inside of the process.
#[derive(Debug)]
pub(crate) struct Embedded {
    directory: PathBuf,
    open: Mutex<Option<Broker>>,
    /// Goes with it.
    _temporary: Option<TempDir>,
}

impl Embedded {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        Self { directory: temporary.path().join("data"), open: Mutex::default(), _temporary: Some(temporary) }
    }

    /// In a child: its parent's directory.
    pub(crate) fn of_parent() -> Option<Self> {
        let directory = std::env::var_os(DIRECTORY)?.into();
        Some(Self { directory, open: Mutex::default(), _temporary: None })
    }

    /// Maintenance is due all the time, and a member that is silent is soon taken for dead.
    fn config() -> BrokerConfig {
        let settings = [
            ("log.retention.check.interval.ms", "100"),
            ("log.cleaner.backoff.ms", "50"),
            ("group.min.session.timeout.ms", "1"),
            ("group.max.session.timeout.ms", "3000"),
        ];
        settings
            .iter()
            .fold(BrokerConfig::default(), |config, (name, value)| config.with(name, value).unwrap())
    }
}

impl Embedded {
    /// This program, so that it runs the test of this name on the same directory.
    pub(crate) fn child_of(&self, test: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(DIRECTORY, &self.directory);
        command
    }
}

#[async_trait]
impl Ground for Embedded {
    async fn open(&self, _: &str) -> Result<Arc<dyn Engine>, EngineError> {
        let mut open = self.open.lock().await;
        if let Some(broker) = &*open {
            return Ok(Arc::new(broker.clone()));
        }
        let opening = Broker::builder().data(&self.directory).config(Self::config()).open().await;
        let broker = opening.map_err(|error| EngineError::Failed(Box::new(error)))?;
        *open = Some(broker.clone());
        Ok(Arc::new(broker))
    }

    async fn release(&self) {
        if let Some(broker) = self.open.lock().await.take() {
            broker.close().await;
        }
    }

    fn syncs(&self) -> Option<bool> {
        Some(true)
    }

    fn ageing(&self) -> Option<Vec<(&'static str, &'static str)>> {
        Some(vec![("segment.bytes", "2000"), ("min.cleanable.dirty.ratio", "0.01")])
    }

    fn child(&self) -> Option<Command> {
        Some(self.child_of("embedded::child"))
    }
}

/// Not a test of its own: the process that behaviours start, and kill.
#[test]
fn child() {
    let Some(ground) = Embedded::of_parent() else { return };
    runtime().block_on(anabranch_conformance::play(&ground));
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn lay() -> Result<Option<Arc<dyn Ground>>, EngineError> {
    Ok(Some(Arc::new(Embedded::new())))
}

anabranch_conformance::conformance_tests!(crate::embedded::lay);
