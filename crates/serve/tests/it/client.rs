//! A Kafka client for tests: frames out, frames in, and nothing hidden.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch_broker::{Broker, BrokerConfig};
use anabranch_core::batch::{BatchBuilder, Compression, Record};
use anabranch_core::seam::{Disk, RealDisk};
use anabranch_serve::{Limits, ServeConfig, Server};
use anabranch_wire::messages::create_topics_request::CreatableTopic;
use anabranch_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use anabranch_wire::messages::fetch_response::PartitionData;
use anabranch_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use anabranch_wire::messages::produce_response::PartitionProduceResponse;
use anabranch_wire::messages::{
    CreateTopicsRequest, FetchRequest, ProduceRequest, RequestHeader, ResponseHeader, TopicName,
};
use anabranch_wire::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Whatever is awaited comes within this, or the test fails.
pub(crate) const SOON: Duration = Duration::from_secs(20);

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
        let config = ServeConfig { kafka_addr: any, advertised: None, http_addr: Some(any), limits };
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

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    correlation_id: i32,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, correlation_id: 0 }
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request).await;
        self.receive::<R>(version, self.correlation_id).await
    }

    /// Sends a request; its correlation id.
    pub(crate) async fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        self.correlation_id += 1;
        let frame = frame(version, self.correlation_id, request);
        self.stream.write_all(&frame).await.unwrap();
        self.correlation_id
    }

    /// Waits for the answer to a request sent before.
    pub(crate) async fn receive<R: Request>(&mut self, version: i16, correlation_id: i32) -> R::Response {
        let mut frame = self.frame().await.expect("the connection is open");
        let header_version = <R::Response as HeaderVersion>::header_version(version);
        let header = ResponseHeader::decode(&mut frame, header_version).unwrap();
        assert_eq!(header.correlation_id, correlation_id, "answers come in the order of the requests");
        let response = R::Response::decode(&mut frame, version).unwrap();
        assert_eq!(frame.remaining(), 0, "the response ends where its frame ends");
        response
    }

    /// The next frame without its length; `None` when the server has closed the connection.
    pub(crate) async fn frame(&mut self) -> Option<Bytes> {
        tokio::time::timeout(SOON, async {
            let length = self.stream.read_i32().await.ok()?;
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut bytes).await.ok()?;
            Some(bytes.into())
        })
        .await
        .expect("an answer comes soon")
    }

    /// Fails unless the server closes the connection without another word.
    pub(crate) async fn ends(mut self) {
        assert_eq!(self.frame().await, None);
    }

    pub(crate) async fn create_topic(&mut self, name: &str, partitions: i32) {
        let topic = CreatableTopic::default()
            .with_name(topic(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        let response = self.call(7, &CreateTopicsRequest::default().with_topics(vec![topic])).await;
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    }

    pub(crate) async fn produce(&mut self, name: &str, batch: Bytes) -> PartitionProduceResponse {
        let response = self.call(9, &produce(name, 0, -1, batch)).await;
        response.responses[0].partition_responses[0].clone()
    }

    /// Fetches from one partition.
    pub(crate) async fn fetch(&mut self, name: &str, from: i64) -> PartitionData {
        let response = self.call(12, &fetch(name, &[(0, from)])).await;
        response.responses[0].partitions[0].clone()
    }
}

/// A whole request frame.
pub(crate) fn frame<R: Request>(version: i16, correlation_id: i32, request: &R) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_static_str("test")));
    let mut body = BytesMut::new();
    header.encode(&mut body, R::header_version(version)).unwrap();
    request.encode(&mut body, version).unwrap();
    let mut frame = BytesMut::new();
    frame.put_i32(body.len() as i32);
    frame.put_slice(&body);
    frame.freeze()
}

pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

pub(crate) fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.push(&Record::keyless(value.to_string()).at(1_000));
    }
    builder.build().unwrap()
}

/// One batch for one partition.
pub(crate) fn produce(name: &str, partition: i32, acks: i16, batch: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
    let data = TopicProduceData::default().with_name(topic(name)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![data])
}

/// Waits for nothing; some partitions of a topic, each from an offset.
pub(crate) fn fetch(name: &str, from: &[(i32, i64)]) -> FetchRequest {
    let partitions = from.iter().map(|(partition, offset)| {
        FetchPartition::default()
            .with_partition(*partition)
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(1 << 20)
    });
    let asked = FetchTopic::default().with_topic(topic(name)).with_partitions(partitions.collect());
    FetchRequest::default()
        .with_max_wait_ms(0)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_topics(vec![asked])
}
