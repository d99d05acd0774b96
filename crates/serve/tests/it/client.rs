//! A node for tests, and what asks it: frames out, frames in, and nothing hidden.

use std::net::SocketAddr;
use std::sync::Arc;

use anabranch_broker::{Broker, BrokerConfig};
use anabranch_core::seam::{Disk, RealDisk};
pub(crate) use anabranch_diff::client::{Client, SOON, batch, fetch, frame, produce, text, topic};
use anabranch_serve::{Limits, ServeConfig, Server};
use anabranch_wire::messages::ApiVersionsRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The series of bytes that came in whole requests.
pub(crate) const RECEIVED: &str =
    "messaging_server_network_io_bytes_total{messaging_system=\"kafka\",network_io_direction=\"receive\"}";

/// A broker with open doors. The directory goes when this is dropped.
pub(crate) struct Node {
    pub(crate) broker: Broker,
    pub(crate) server: Server,
    pub(crate) _dir: tempfile::TempDir,
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default(), &[]).await
    }

    pub(crate) async fn with(limits: Limits, settings: &[(&str, &str)]) -> Self {
        Self::over(tempfile::tempdir().unwrap(), limits, settings).await
    }

    /// A node over a data directory that may hold something.
    pub(crate) async fn over(dir: tempfile::TempDir, limits: Limits, settings: &[(&str, &str)]) -> Self {
        Self::open(dir, Arc::new(RealDisk), limits, settings).await
    }

    /// A node on another disk.
    pub(crate) async fn on(disk: Arc<dyn Disk>, limits: Limits, settings: &[(&str, &str)]) -> Self {
        Self::open(tempfile::tempdir().unwrap(), disk, limits, settings).await
    }

    async fn open(
        dir: tempfile::TempDir,
        disk: Arc<dyn Disk>,
        limits: Limits,
        settings: &[(&str, &str)],
    ) -> Self {
        let mut config = BrokerConfig::default();
        config.set("group.initial.rebalance.delay.ms", "0").unwrap();
        for (name, value) in settings {
            config.set(name, value).unwrap();
        }
        let broker = Broker::builder().data(dir.path()).disk(disk).config(config).open().await.unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config =
            ServeConfig { kafka_addr: any, advertised: None, http_addr: Some(any), control: None, limits };
        let server = Server::start(broker.clone(), config).await.unwrap();
        Self { broker, server, _dir: dir }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.server.kafka_addr()).await
    }

    /// A counter of the metrics page.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let page = http_get(self.server.http_addr().unwrap(), "/metrics").await.1;
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no series {series} in\n{page}")).parse().unwrap()
    }

    /// Waits until a counter of the metrics page is what it should be.
    pub(crate) async fn metric_becomes(&self, series: &str, wanted: impl Fn(u64) -> bool) {
        let found = tokio::time::timeout(SOON, async {
            while !wanted(self.metric(series).await) {
                tokio::task::yield_now().await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("{series} never became what it should be"));
    }
}

/// As every client asks: with a name.
pub(crate) fn api_versions() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(text("test"))
        .with_client_software_version(text("1"))
}

/// Our broker, or the one at `ANABRANCH_PEER`: what holds on both is what Kafka does.
pub(crate) async fn ours_or_peer() -> (Option<Node>, Client) {
    match std::env::var("ANABRANCH_PEER") {
        Ok(peer) => (None, Client::connect(peer.parse().unwrap()).await),
        Err(_) => {
            let node = Node::start().await;
            let client = node.connect().await;
            (Some(node), client)
        }
    }
}

/// Each test has a group and a topic of its own, on the peer anew each time.
pub(crate) fn own_name() -> String {
    let test = std::thread::current().name().unwrap_or("t").replace("::", "-");
    format!("{test}-{}", std::process::id())
}

/// Status line and body.
pub(crate) async fn http_get(addr: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}
