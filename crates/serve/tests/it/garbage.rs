//! What no client sends.

use anabranch_diff::bad;
use anabranch_serve::Limits;
use anabranch_wire::messages::{ApiVersionsRequest, HeartbeatRequest, MetadataRequest, ProduceRequest};
use tokio::io::AsyncWriteExt;

use crate::client::{Node, api_versions, frame};

/// Each of these ends its own connection and nothing else, and is counted.
#[tokio::test]
async fn what_cannot_be_answered_closes_the_connection() {
    let node = Node::start().await;
    let header = |key: i16, version: i16| {
        let mut frame = vec![0, 0, 0, 10];
        frame.extend_from_slice(&key.to_be_bytes());
        frame.extend_from_slice(&version.to_be_bytes());
        frame.extend_from_slice(&[0, 0, 0, 1, 0xff, 0xff]);
        frame
    };
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("2 GiB", vec![0x7f, 0xff, 0xff, 0xff, 0, 0]),
        ("a negative length", vec![0xff, 0xff, 0xff, 0xff]),
        ("an empty frame", vec![0, 0, 0, 0]),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("no header", vec![0, 0, 0, 2, 0, 18]),
        ("an unknown key", header(999, 0)),
        ("a negative key", header(-1, 0)),
        ("SASL, which is not spoken", header(17, 1)),
        ("a version too new", header(3, 99)),
        ("a version too old: Produce is reported from 0 and served from 3", header(0, 2)),
        ("a negative version", header(3, -1)),
        ("a body that ends early", header(3, 1)),
        ("a client id longer than the frame", {
            let mut frame = header(18, 0);
            frame[12..].copy_from_slice(&[0x7f, 0xff]);
            frame
        }),
    ];
    let mut witness = node.connect().await;
    for (index, (what, bytes)) in hostile.iter().enumerate() {
        let mut client = node.connect().await;
        client.stream.write_all(bytes).await.unwrap();
        client.ends().await;
        let refused = index as u64 + 1;
        node.metric_becomes("messaging_server_requests_refused_total", |count| count == refused).await;
        let answer = witness.call(4, &api_versions()).await;
        assert_eq!(answer.error_code, 0, "after {what}");
    }
    assert_eq!(node.metric("messaging_server_bugs_total").await, 0);
}

/// Every request in every version, falsified in each of its lengths: it is told what Kafka tells, or cut off as Kafka cuts off. What
/// Kafka does is written in `crates/diff/bad_input.txt`, and where ours is stricter is in COMPATIBILITY.md.
#[tokio::test]
async fn bad_input_is_taken_as_kafka_takes_it() {
    let node = Node::with(Limits::default(), &[("auto.create.topics.enable", "false")]).await;
    let ours = bad::outcomes(node.server.kafka_addr()).await;
    let differing = bad::differing(&ours, &bad::read(bad::KAFKA));
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n"));
    assert_eq!(node.metric("messaging_server_bugs_total").await, 0);
}

#[tokio::test]
async fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    // A header of version 2, and a body nobody knows.
    let mut bytes = vec![0, 0, 0, 14, 0, 18, 0, 77, 0, 0, 0, 9, 0xff, 0xff, 0, 1, 2, 3];
    client.stream.write_all(&bytes).await.unwrap();
    let frame = client.frame().await.unwrap();
    assert_eq!(&frame[..6], &[0, 0, 0, 9, 0, 35]);
    let count = i32::from_be_bytes(frame[6..10].try_into().unwrap());
    assert_eq!(count as usize, anabranch_wire::apis().len());
    assert_eq!(&frame[10..16], &[0, 0, 0, 0, 0, 13], "Produce is reported from 0 to 13");
    // The connection goes on.
    bytes.clear();
    let answer = client.call(3, &api_versions()).await;
    assert_eq!(answer.api_keys.len(), anabranch_wire::apis().len());
    assert_eq!(answer.finalized_features.len(), 2);
}

#[tokio::test]
async fn half_a_frame_is_waited_for_and_then_given_up() {
    let limits = Limits { frame_stall_max: std::time::Duration::from_millis(50), ..Limits::default() };
    let node = Node::with(limits, &[]).await;
    let whole = frame(4, 1, &HeartbeatRequest::default());
    for cut in [1, 3, 4, 7, whole.len() - 1] {
        let mut client = node.connect().await;
        client.stream.write_all(&whole[..cut]).await.unwrap();
        client.ends().await;
    }
    // A peer that hangs up half way is no news to anybody either.
    let mut client = node.connect().await;
    client.stream.write_all(&whole[..7]).await.unwrap();
    client.stream.shutdown().await.unwrap();
    client.ends().await;
}

#[tokio::test]
async fn a_frame_comes_in_whatever_pieces_it_comes() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    let mut bytes = frame(9, 1, &MetadataRequest::default().with_topics(Some(Vec::new()))).to_vec();
    bytes.extend_from_slice(&frame(4, 2, &api_versions()));
    for byte in bytes {
        client.stream.write_all(&[byte]).await.unwrap();
        client.stream.flush().await.unwrap();
    }
    assert!(client.receive::<MetadataRequest>(9, 1).await.topics.is_empty());
    assert_eq!(client.receive::<ApiVersionsRequest>(4, 2).await.error_code, 0);
}

/// The memory budget is smaller than `socket.request.max.bytes`: what would never get a permit is refused. Produce requests
/// are told (see `limits`); of others nobody makes such.
#[tokio::test]
async fn a_frame_larger_than_the_budget_is_refused() {
    let node = Node::with(Limits::default(), &[("queued.max.request.bytes", "1048576")]).await;
    let mut client = node.connect().await;
    const METADATA_9: &[u8] = &[0, 3, 0, 9];
    client.stream.write_all(&[&(2_i32 << 20).to_be_bytes(), METADATA_9].concat()).await.unwrap();
    client.ends().await;
    assert_eq!(node.metric("messaging_server_requests_without_memory_total").await, 1);
    let mut client = node.connect().await;
    assert!(client.call(9, &ProduceRequest::default().with_acks(1)).await.responses.is_empty());
}
