//! A Kafka client for tests: frames out, frames in, and nothing hidden.

use std::net::SocketAddr;
use std::time::Duration;

use anabranch_core::batch::{BatchBuilder, Compression, Record};
use anabranch_wire::messages::create_topics_request::CreatableTopic;
use anabranch_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use anabranch_wire::messages::fetch_response::PartitionData;
use anabranch_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use anabranch_wire::messages::produce_response::PartitionProduceResponse;
use anabranch_wire::messages::{
    ApiKey, CreateTopicsRequest, FetchRequest, ProduceRequest, RequestHeader, ResponseHeader, TopicName,
};
use anabranch_wire::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use anabranch_wire::{Head, Response, decode_response, encode_request};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Whatever is awaited comes within this, or the test fails.
pub const SOON: Duration = Duration::from_secs(20);

/// What the client calls itself.
const CLIENT_ID: &str = "test";

/// One connection.
#[derive(Debug)]
pub struct Client {
    /// For bytes that are no frame.
    pub stream: TcpStream,
    /// What came of frames that are not whole.
    input: BytesMut,
    correlation_id: i32,
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A response.
    Said(Box<Response>),
    /// A frame that is no response to this request.
    Garbled(Bytes),
    /// The end of the connection.
    Closed,
}

#[allow(clippy::expect_used, clippy::unwrap_used)] // a test's client fails the test
impl Client {
    /// A connection to `addr`.
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("the server listens");
        stream.set_nodelay(true).unwrap();
        Self { stream, input: BytesMut::new(), correlation_id: 0 }
    }

    /// Sends a request and waits for its answer.
    pub async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request).await;
        self.receive::<R>(version, self.correlation_id).await
    }

    /// Sends a request; its correlation id.
    pub async fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        self.correlation_id += 1;
        let frame = frame(version, self.correlation_id, request);
        self.stream.write_all(&frame).await.unwrap();
        self.correlation_id
    }

    /// Waits for the answer to a request sent before.
    pub async fn receive<R: Request>(&mut self, version: i16, correlation_id: i32) -> R::Response {
        let mut frame = self.frame().await.expect("the connection is open");
        let header_version = <R::Response as HeaderVersion>::header_version(version);
        let header = ResponseHeader::decode(&mut frame, header_version).unwrap();
        assert_eq!(header.correlation_id, correlation_id, "answers come in the order of the requests");
        let response = R::Response::decode(&mut frame, version).unwrap();
        assert_eq!(frame.remaining(), 0, "the response ends where its frame ends");
        response
    }

    /// Sends a request of any kind; what its answer must look like. Whether the server still listens is told by that.
    pub async fn ask(&mut self, key: ApiKey, version: i16, request: &anabranch_wire::Request) -> Head {
        self.correlation_id += 1;
        let client_id = Some(StrBytes::from_static_str(CLIENT_ID));
        let head = Head { key, version, correlation_id: self.correlation_id, client_id };
        let frame = encode_request(&head, request)
            .unwrap_or_else(|| panic!("{key:?} version {version} cannot say {request:?}"));
        let _ = self.stream.write_all(&frame).await;
        head
    }

    /// What comes next, as an answer to the request of `head`. Nothing is lost when this is given up.
    pub async fn answer(&mut self, head: &Head) -> Answer {
        match self.next_frame().await {
            None => Answer::Closed,
            Some(frame) => match decode_response(head, frame.clone()) {
                Some(response) => Answer::Said(Box::new(response)),
                None => Answer::Garbled(frame),
            },
        }
    }

    /// A topic with one replica.
    pub async fn create_topic(&mut self, name: &str, partitions: i32) {
        let topic = CreatableTopic::default()
            .with_name(topic(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        let response = self.call(7, &CreateTopicsRequest::default().with_topics(vec![topic])).await;
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    }

    /// Writes to partition 0.
    pub async fn produce(&mut self, name: &str, batch: Bytes) -> PartitionProduceResponse {
        let response = self.call(9, &produce(name, 0, -1, batch)).await;
        response.responses[0].partition_responses[0].clone()
    }

    /// Fetches from one partition.
    pub async fn fetch(&mut self, name: &str, from: i64) -> PartitionData {
        let response = self.call(12, &fetch(name, &[(0, from)])).await;
        response.responses[0].partitions[0].clone()
    }

    /// The next frame without its length; `None` when the server has closed the connection.
    pub async fn frame(&mut self) -> Option<Bytes> {
        tokio::time::timeout(SOON, self.next_frame()).await.expect("an answer comes soon")
    }

    /// The same, however long it takes. Nothing is lost when this is given up.
    pub async fn next_frame(&mut self) -> Option<Bytes> {
        const LENGTH_BYTES: usize = size_of::<i32>();
        loop {
            if let Some(length) = self.input.first_chunk() {
                let length = usize::try_from(i32::from_be_bytes(*length)).unwrap();
                if self.input.len() >= LENGTH_BYTES + length {
                    self.input.advance(LENGTH_BYTES);
                    return Some(self.input.split_to(length).freeze());
                }
            }
            if self.stream.read_buf(&mut self.input).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Fails unless the server closes the connection without another word.
    pub async fn ends(mut self) {
        assert_eq!(self.frame().await, None);
    }
}

/// A whole request frame.
#[must_use]
#[allow(clippy::unwrap_used)] // a test's request is one that can be said
pub fn frame<R: Request>(version: i16, correlation_id: i32, request: &R) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
    let mut body = BytesMut::new();
    header.encode(&mut body, R::header_version(version)).unwrap();
    request.encode(&mut body, version).unwrap();
    let mut frame = BytesMut::new();
    frame.put_i32(body.len() as i32);
    frame.put_slice(&body);
    frame.freeze()
}

/// A string of the messages.
#[must_use]
pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A topic's name.
#[must_use]
pub fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

/// A batch of records without keys.
#[must_use]
#[allow(clippy::unwrap_used)] // there are records
pub fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.push(&Record::keyless(value.to_string()).at(1_000));
    }
    builder.build().unwrap()
}

/// One batch for one partition.
#[must_use]
pub fn produce(name: &str, partition: i32, acks: i16, batch: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
    let data = TopicProduceData::default().with_name(topic(name)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![data])
}

/// Waits for nothing; some partitions of a topic, each from an offset.
#[must_use]
pub fn fetch(name: &str, from: &[(i32, i64)]) -> FetchRequest {
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
