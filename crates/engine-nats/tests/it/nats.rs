//! The NATS that a test runs on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anabranch_engine_nats::{NatsEngine, NatsSettings};

/// Where NATS is: an address, or `start` for one that the test starts and kills.
const VARIABLE: &str = "ANABRANCH_NATS";

/// Every wait of a test ends by then.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A NATS server, or three.
pub(crate) struct Nats {
    pub(crate) url: String,
    /// Ours, to stop.
    own: Option<Own>,
}

struct Own {
    dir: tempfile::TempDir,
    nodes: u16,
    port: u16,
}

/// The server at `ANABRANCH_NATS`, or one of our own; `None`, and a line that says so, without that variable.
pub(crate) fn nats() -> Option<Nats> {
    match std::env::var(VARIABLE) {
        Ok(address) if address != "start" => Some(Nats { url: format!("nats://{address}"), own: None }),
        Ok(_) => Some(start(1)),
        Err(_) => skip(),
    }
}

/// Servers of our own, which can be stopped.
pub(crate) fn own_nats(nodes: u16) -> Option<Nats> {
    match std::env::var(VARIABLE) {
        Ok(_) => Some(start(nodes)),
        Err(_) => skip(),
    }
}

fn skip<T>() -> Option<T> {
    eprintln!(
        "skipped: no {VARIABLE}. It takes HOST:PORT, or `start` to build and start nats-server (needs Go)"
    );
    None
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn script() -> Command {
    Command::new(top().join("tests/peers/nats/nats"))
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// nats-server, for whoever starts it with a configuration of its own.
pub(crate) fn server_binary() -> Option<PathBuf> {
    match std::env::var(VARIABLE) {
        Ok(_) => Some(installed().join("nats-server")),
        Err(_) => skip(),
    }
}

fn installed() -> PathBuf {
    // One of them builds it, and the others wait.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock();
    let bin = top().join("target/nats");
    if !bin.join("nats-server").exists() {
        run(script().arg("install").arg(&bin));
    }
    bin
}

fn start(nodes: u16) -> Nats {
    installed();
    let port = free_ports();
    let own = Own { dir: tempfile::tempdir().unwrap(), nodes, port };
    own.start();
    let servers: Vec<_> = (0..nodes).map(|node| format!("127.0.0.1:{}", port + node)).collect();
    Nats { url: format!("nats://{}", servers.join(",")), own: Some(own) }
}

/// The first of those that clients, routes and monitors take. Every test of a process has its own.
pub(crate) fn free_ports() -> u16 {
    const COUNT: u16 = 30;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let is_free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let at = (std::process::id() * 7 + NEXT.fetch_add(1, Ordering::Relaxed)) % 300;
        let port = 20_000 + u16::try_from(at).unwrap() * COUNT;
        if (port..port + COUNT).all(is_free) {
            return port;
        }
    }
}

impl Own {
    fn start(&self) {
        let mut command = script();
        command.args(["start", "--nodes", &self.nodes.to_string(), "--port", &self.port.to_string()]);
        run(command.arg("--dir").arg(self.dir.path()).arg("--bin").arg(top().join("target/nats")));
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        run(script().args(["stop", "--kill", "--dir"]).arg(self.dir.path()));
    }
}

impl Nats {
    /// An engine that keeps a copy on each of three servers, if there are three.
    pub(crate) async fn engine(&self) -> NatsEngine {
        NatsEngine::open(self.own_settings(), &[]).await.unwrap()
    }

    pub(crate) fn own_settings(&self) -> NatsSettings {
        self.settings(if self.nodes() < 3 { "" } else { "replicas=3" })
    }

    /// As many as there are addresses.
    pub(crate) fn nodes(&self) -> u32 {
        self.url.split(',').count() as u32
    }

    pub(crate) fn settings(&self, query: &str) -> NatsSettings {
        NatsSettings::from_url(&format!("{}?{query}", self.url)).unwrap()
    }

    /// What is not ours to do, such as another client's.
    pub(crate) async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.url.trim_start_matches("nats://").split(',').collect::<Vec<_>>())
            .await
            .unwrap()
    }

    pub(crate) fn kill(&self, node: u16) {
        let own = self.own.as_ref().expect("a server of ours");
        run(script().args(["stop", "--kill", "--node", &node.to_string(), "--dir"]).arg(own.dir.path()));
    }

    /// Starts those that were killed.
    pub(crate) fn start_again(&self) {
        self.own.as_ref().expect("a server of ours").start();
    }
}

/// A name that no other test has, on a server that may be old.
pub(crate) fn fresh(name: &str) -> String {
    use anabranch_core::seam::{OsRandom, Random};
    format!("{name}.{}", OsRandom.uuid().simple())
}
