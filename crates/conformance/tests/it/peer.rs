//! A cluster of another system, as the environment describes it (`tests/conformance/run` does).

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use anabranch_conformance::{Ground, Network, Nodes, Proxy};
use anabranch_core::engine::{Engine, EngineError};
use async_trait::async_trait;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// `LISTENS=TARGET`: clients that are to be cut off connect to the first address, and are passed on to the second.
const NETWORK: &str = "ANABRANCH_CONFORMANCE_NETWORK";
/// How many nodes there are. Set where they may be killed.
const NODES: &str = "ANABRANCH_CONFORMANCE_NODES";
/// A command, and its arguments: with the number of a node behind it, counted from 1, it kills that node.
const KILL: &str = "ANABRANCH_CONFORMANCE_KILL";
/// A command, and its arguments: it starts what was killed.
const START: &str = "ANABRANCH_CONFORMANCE_START";
/// Set where the nodes sync before they answer (`yes`) or do not (`no`).
const SYNCS: &str = "ANABRANCH_CONFORMANCE_SYNCS";

/// The client that behaviours cut off.
const CUT: &str = "cut";

/// Connects to an address.
pub(crate) type Opener = fn(String) -> BoxFuture<'static, Result<Arc<dyn Engine>, EngineError>>;

/// What differs from one system to the other.
pub(crate) struct Kind {
    /// Connects.
    pub(crate) open: Opener,
    /// The test that is a child process.
    pub(crate) child: &'static str,
    /// The topic settings with which records go soon.
    pub(crate) ageing: &'static [(&'static str, &'static str)],
}

/// In a process that a behaviour has started: does what it was started for, on the cluster that its parent has.
pub(crate) fn play(lay: impl Future<Output = Result<Option<Arc<dyn Ground>>, EngineError>>) {
    crate::embedded::runtime().block_on(async {
        if std::env::var_os(anabranch_conformance::CHILD).is_some() {
            let ground = lay.await.unwrap().expect("its parent has one");
            anabranch_conformance::play(&*ground).await;
        }
    });
}

/// A cluster.
pub(crate) struct Peer {
    addr: String,
    kind: &'static Kind,
    /// What is open; closed in the end.
    open: Mutex<Vec<Arc<dyn Engine>>>,
    /// Where clients that are to be cut off connect to, and to where that leads.
    network: Option<(SocketAddr, SocketAddr)>,
    /// There once such a client is; and whoever else wants one waits.
    proxy: Mutex<Option<(Proxy, OwnedMutexGuard<()>)>>,
    nodes: Option<u32>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Peer {
    /// The cluster at the address in the variable of this name, if it is set.
    pub(crate) async fn find(
        variable: &str,
        kind: &'static Kind,
    ) -> Result<Option<Arc<dyn Ground>>, EngineError> {
        let Ok(addr) = std::env::var(variable) else { return Ok(None) };
        let parse = |addr: &str| addr.parse::<SocketAddr>().expect("an address");
        let network = std::env::var(NETWORK).ok().map(|network| {
            let (listens, target) = network.split_once('=').expect("LISTENS=TARGET");
            (parse(listens), parse(target))
        });
        let nodes = std::env::var(NODES).ok().map(|count| count.parse().expect("a number of nodes"));
        Ok(Some(Arc::new(Self {
            addr,
            kind,
            open: Mutex::default(),
            network,
            proxy: Mutex::default(),
            nodes,
        })))
    }
}

#[async_trait]
impl Ground for Peer {
    async fn open(&self, client: &str) -> Result<Arc<dyn Engine>, EngineError> {
        let addr = match self.network {
            Some((listens, target)) if client == CUT => {
                static IN_TURN: OnceLock<Arc<tokio::sync::Mutex<()>>> = OnceLock::new();
                let turn = Arc::clone(IN_TURN.get_or_init(Arc::default)).lock_owned().await;
                let proxy = Proxy::listen(listens, target).await;
                let proxy = proxy.map_err(|error| EngineError::Failed(Box::new(error)))?;
                *self.proxy.lock() = Some((proxy, turn));
                listens.to_string()
            }
            _ => self.addr.clone(),
        };
        let engine = (self.kind.open)(addr).await?;
        self.open.lock().push(Arc::clone(&engine));
        Ok(engine)
    }

    async fn release(&self) {
        let open = std::mem::take(&mut *self.open.lock());
        for engine in open {
            engine.close().await;
        }
        let listening = self.proxy.lock().take();
        if let Some((proxy, _turn)) = listening {
            proxy.end().await;
        }
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn syncs(&self) -> Option<bool> {
        Some(std::env::var(SYNCS).ok()? == "yes")
    }

    fn ageing(&self) -> Option<Vec<(&'static str, &'static str)>> {
        Some(self.kind.ageing.to_vec())
    }

    fn network(&self) -> Option<&dyn Network> {
        self.network.is_some().then_some(self)
    }

    fn nodes(&self) -> Option<&dyn Nodes> {
        self.nodes.is_some().then_some(self)
    }

    fn child(&self) -> Option<Command> {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", self.kind.child, "--nocapture"]);
        Some(command)
    }
}

impl Network for Peer {
    fn cut(&self, _: &str) {
        self.proxy.lock().iter().for_each(|(proxy, _)| proxy.cut());
    }

    fn mend(&self, _: &str) {
        self.proxy.lock().iter().for_each(|(proxy, _)| proxy.mend());
    }
}

#[async_trait]
impl Nodes for Peer {
    fn count(&self) -> u32 {
        self.nodes.unwrap_or_default()
    }

    async fn kill(&self, node: u32) {
        command(KILL, Some(node)).await;
    }

    async fn start(&self, _: u32) {
        command(START, None).await;
    }
}

/// Runs what the variable holds.
async fn command(variable: &'static str, node: Option<u32>) {
    let run = move || {
        let text = std::env::var(variable).expect("it is set where nodes may be killed");
        let text = text + &node.map(|node| (node + 1).to_string()).unwrap_or_default();
        let mut words = text.split(' ');
        let mut command = Command::new(words.next().unwrap());
        assert!(command.args(words).status().unwrap().success(), "{text}");
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}
