//! Answers that are read while they are sent.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anabranch_broker::Before;
use anabranch_core::Offset;
use anabranch_core::batch::split_batches;
use anabranch_serve::Limits;
use anabranch_wire::messages::FetchRequest;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::client::{Client, Node, SOON, batch, fetch};

const USED: &str = "messaging_server_memory_budget_used_bytes";
const KAFKA_STORAGE_ERROR: i16 = 56;
/// Of which one partition has each; some are read at once, and some are not.
const SIZES: [usize; 12] =
    [10, 90_000, 3000, 50, 200_000, 20, 66_000, 1_500_000, 10, 5000, 300_000, 64 << 10];

fn asked(from: &[(i32, i64)], bytes_max: i32) -> FetchRequest {
    let mut request = fetch("t", from);
    for partition in &mut request.topics[0].partitions {
        partition.partition_max_bytes = bytes_max;
    }
    request
}

async fn produced(node: &Node, sizes: &[usize], partitions: i32) -> Client {
    let mut client = node.connect().await;
    client.create_topic("t", partitions).await;
    for partition in 0..partitions {
        for bytes in sizes {
            let batch = batch(&["first", &"x".repeat(*bytes)]);
            let response = client.call(9, &crate::client::produce("t", partition, -1, batch)).await;
            assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
        }
    }
    client
}

fn first_segment(root: &Path) -> PathBuf {
    root.join("topics/t/0/00000000000000000000.log")
}

/// In every version, from every offset: what the door sends is what the partition has, and the door counts it.
#[tokio::test]
async fn an_answer_is_what_a_read_in_the_process_brings() {
    let settings = [("message.max.bytes", "2000000")];
    let node = Node::with(Limits::default(), &settings).await;
    let mut client = produced(&node, &SIZES, 2).await;
    let topic = node.broker.topic("t").unwrap();
    let mut records = 0;
    for from in 0..=2 * SIZES.len() as i64 {
        for (bytes_max, version) in [(0, 4), (1, 11), (70_000, 12), (400_000, 7), (4 << 20, 12)] {
            let request = asked(&[(1, from), (0, 1)], bytes_max);
            let response = client.call(version, &request).await;
            let [one, zero] = &response.responses[0].partitions[..] else { panic!("{response:?}") };
            assert_eq!((one.error_code, zero.error_code), (0, 0));
            let expected = topic.partition(1).unwrap().fetch(Offset(from), bytes_max as usize, None).unwrap();
            let got = one.records.clone().unwrap();
            assert!(got == expected.batches, "{from}, {bytes_max}: {} bytes", got.len());
            if got.is_empty() && from < 2 * SIZES.len() as i64 {
                panic!("the first batch comes in any case");
            }
            let rest = zero.records.clone().unwrap();
            let whole = topic.partition(0).unwrap().fetch(Offset(1), usize::MAX, None).unwrap().batches;
            assert!(whole.starts_with(&rest) && (rest.len() <= bytes_max as usize || got.is_empty()));
            let all = split_batches(got).chain(split_batches(rest));
            records += all.map(|batch| batch.unwrap().header().record_count as u64).sum::<u64>();
        }
    }
    node.metric_becomes("messaging_server_sent_messages_total", |count| count == records).await;
    node.metric_becomes(USED, |used| used == 0).await;
}

/// The length of the answer was sent when the damage was met: the connection ends before the damaged batch, and whoever asks
/// again is told.
#[tokio::test]
async fn damage_in_the_middle_of_an_answer_ends_it_and_is_told_to_the_next() {
    let node = Node::start().await;
    let mut client = produced(&node, &[500_000; 20], 1).await;
    let path = first_segment(node._dir.path());
    let good = fs::read(&path).unwrap();
    let length = good.len() / 20;
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"damage", (length * 15 + 1000) as u64).unwrap();
    client.send(12, &asked(&[(0, 0)], 50 << 20)).await;
    let mut got = Vec::new();
    timeout(SOON, client.stream.read_to_end(&mut got)).await.unwrap().unwrap();
    assert!(got.len() > length * 14, "{} bytes", got.len());
    assert!(got.len() < length * 15 + 200, "nothing of the damaged batch: {} bytes", got.len());
    let mut client = node.connect().await;
    let answer = client.call(12, &asked(&[(0, 0)], 50 << 20)).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, KAFKA_STORAGE_ERROR);
    node.metric_becomes(USED, |used| used == 0).await;
}

/// A file that is shorter than what was shown cannot be read; that is no damage yet, but the answer cannot be whole.
#[tokio::test]
async fn a_file_that_is_cut_meanwhile_ends_the_answer() {
    let node = Node::start().await;
    let mut client = produced(&node, &[500_000; 20], 1).await;
    let file = OpenOptions::new().write(true).open(first_segment(node._dir.path())).unwrap();
    let length = file.metadata().unwrap().len();
    client.send(12, &asked(&[(0, 0)], 50 << 20)).await;
    timeout(SOON, client.stream.peek(&mut [0])).await.unwrap().unwrap();
    file.set_len(length - 100).unwrap();
    let mut got = Vec::new();
    timeout(SOON, client.stream.read_to_end(&mut got)).await.unwrap().unwrap();
    assert!((got.len() as u64) < length, "{} bytes", got.len());
}

/// It takes a little at a time; meanwhile the segment is removed, and nothing but its answer stands still.
#[tokio::test]
async fn a_slow_reader_gets_all_of_a_segment_that_is_removed_meanwhile() {
    let node = Node::with(Limits::default(), &[("log.segment.bytes", "12000000")]).await;
    let mut client = produced(&node, &[500_000; 30], 1).await;
    let partition = node.broker.topic("t").unwrap().partition(0).unwrap().clone();
    let expected = partition.fetch(Offset(0), 50 << 20, None).unwrap().batches;
    let mut slow = node.connect().await;
    let id = slow.send(12, &asked(&[(0, 0)], 50 << 20)).await;
    timeout(SOON, slow.stream.peek(&mut [0])).await.unwrap().unwrap();
    node.broker.delete_records(partition.id(), Before::HighWatermark).await.unwrap();
    assert!(!first_segment(node._dir.path()).exists());
    assert_eq!(client.fetch("t", 0).await.error_code, 1, "out of range");
    let response = slow.receive::<FetchRequest>(12, id).await;
    assert!(response.responses[0].partitions[0].records.as_ref().unwrap() == &expected);
    node.metric_becomes(USED, |used| used == 0).await;
}

/// Its buffer comes back, and nobody else notices.
#[tokio::test]
async fn who_hangs_up_in_the_middle_of_an_answer_leaves_nothing_behind() {
    let limits = Limits { answer_stall_max: Duration::from_secs(60), ..Limits::default() };
    let node = Node::with(limits, &[]).await;
    let mut client = produced(&node, &[900_000; 20], 1).await;
    for _ in 0..20 {
        let mut gone = node.connect().await;
        gone.send(12, &asked(&[(0, 0)], 50 << 20)).await;
        let mut some = vec![0; 100_000];
        timeout(SOON, gone.stream.read_exact(&mut some)).await.unwrap().unwrap();
    }
    node.metric_becomes("messaging_server_connections", |open| open == 1).await;
    node.metric_becomes(USED, |used| used == 0).await;
    assert!(client.fetch("t", 0).await.records.is_some_and(|records| records.len() > 900_000));
}
