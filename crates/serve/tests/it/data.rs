//! Produce and fetch.

use std::time::Duration;

use anabranch_core::batch::{BatchBuilder, Compression, Record, split_batches};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_serve::Limits;
use anabranch_wire::messages::delete_topics_request::DeleteTopicState;
use anabranch_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use anabranch_wire::messages::{
    DeleteTopicsRequest, FetchRequest, InitProducerIdRequest, ListOffsetsRequest, ProduceRequest,
};
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::client::{Client, Node, RECEIVED, SOON, batch, fetch, frame, produce, topic};

const OFFSET_OUT_OF_RANGE: i16 = 1;
const CORRUPT_MESSAGE: i16 = 2;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const MESSAGE_TOO_LARGE: i16 = 10;
const INVALID_REQUIRED_ACKS: i16 = 21;
const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
const INVALID_PRODUCER_EPOCH: i16 = 47;
const KAFKA_STORAGE_ERROR: i16 = 56;
const UNKNOWN_LEADER_EPOCH: i16 = 75;
const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
const INVALID_RECORD: i16 = 87;

async fn node_with_topic() -> (Node, Client) {
    let node = Node::start().await;
    let mut client = node.connect().await;
    client.create_topic("t", 2).await;
    (node, client)
}

fn values(records: &Bytes) -> Vec<(i64, String)> {
    let batches = split_batches(records.clone());
    let records = batches.flat_map(|batch| batch.unwrap().records().unwrap());
    records.map(|at| (at.offset.0, String::from_utf8(at.record.value.unwrap().to_vec()).unwrap())).collect()
}

#[tokio::test]
async fn what_was_written_is_read_as_it_was_written() {
    let (_node, mut client) = node_with_topic().await;
    let first = client.produce("t", batch(&["a", "b"])).await;
    assert_eq!((first.error_code, first.base_offset, first.log_start_offset), (0, 0, 0));
    assert_eq!(client.produce("t", batch(&["c"])).await.base_offset, 2);
    let fetched = client.fetch("t", 1).await;
    let expected = [(0, "a"), (1, "b"), (2, "c")].map(|(offset, value)| (offset, value.to_owned()));
    assert_eq!(
        values(fetched.records.as_ref().unwrap()),
        expected,
        "whole batches, the first holding offset 1"
    );
    assert_eq!((fetched.high_watermark, fetched.last_stable_offset, fetched.log_start_offset), (3, 3, 0));
    let end = client.fetch("t", 3).await;
    assert_eq!((end.error_code, end.records.as_ref().map(Bytes::len)), (0, Some(0)));
    for outside in [-1, 4] {
        assert_eq!(client.fetch("t", outside).await.error_code, OFFSET_OUT_OF_RANGE, "{outside}");
    }
}

/// Each bad batch has Kafka's code, and leaves nothing behind; its neighbour in the request is written all the same.
#[tokio::test]
async fn bad_batches_are_refused_with_kafkas_codes() {
    let (_node, mut client) = node_with_topic().await;
    let bent = |change: fn(&mut Vec<u8>)| {
        let mut bytes = batch(&["a", "b"]).to_vec();
        change(&mut bytes);
        Bytes::from(bytes)
    };
    // A change inside the checksum, with the checksum made right.
    let lying = |change: fn(&mut Vec<u8>)| {
        let mut bytes = bent(change).to_vec();
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        Bytes::from(bytes)
    };
    let large = "x".repeat(2 << 20);
    for (what, code, bytes) in [
        ("a flipped bit", CORRUPT_MESSAGE, bent(|b| b[70] ^= 1)),
        ("a cut batch", INVALID_RECORD, bent(|b| b.truncate(70))),
        ("nothing", INVALID_RECORD, Bytes::new()),
        ("an old format", INVALID_RECORD, bent(|b| b[16] = 1)),
        ("more records than it says", INVALID_RECORD, lying(|b| (b[26], b[60]) = (0, 1))),
        ("fewer records than it says", INVALID_RECORD, lying(|b| (b[26], b[60]) = (2, 3))),
        ("counts that disagree", INVALID_RECORD, lying(|b| b[60] = 9)),
        ("two batches", INVALID_RECORD, bent(|b| b.extend_from_slice(&batch(&["c"])))),
        ("2 MiB", MESSAGE_TOO_LARGE, batch(&[&large])),
        ("a control batch", INVALID_RECORD, lying(|b| b[22] |= 0x20)),
    ] {
        let mut request = produce("t", 0, -1, bytes);
        let neighbour = produce("t", 1, -1, batch(&["good"])).topic_data.remove(0).partition_data.remove(0);
        request.topic_data[0].partition_data.push(neighbour);
        let response = client.call(9, &request).await;
        let [bad, good] = &response.responses[0].partition_responses[..] else { panic!("{response:?}") };
        assert_eq!((bad.error_code, bad.base_offset), (code, -1), "{what}: {:?}", bad.error_message);
        assert!(bad.error_message.is_some(), "{what}");
        assert_eq!(good.error_code, 0, "{what}");
    }
    assert_eq!(client.fetch("t", 0).await.high_watermark, 0);
    assert_eq!(client.produce("t", batch(&["fine"])).await.base_offset, 0);
}

#[tokio::test]
async fn requests_that_contradict_themselves_are_refused() {
    let (_node, mut client) = node_with_topic().await;
    for (what, code, request) in [
        ("acks 2", INVALID_REQUIRED_ACKS, produce("t", 0, 2, batch(&["a"]))),
        ("no topic", UNKNOWN_TOPIC_OR_PARTITION, produce("none", 0, 1, batch(&["a"]))),
        ("no partition", UNKNOWN_TOPIC_OR_PARTITION, produce("t", 2, 1, batch(&["a"]))),
        ("a negative partition", UNKNOWN_TOPIC_OR_PARTITION, produce("t", -1, 1, batch(&["a"]))),
    ] {
        let response = client.call(9, &request).await;
        assert_eq!(response.responses[0].partition_responses[0].error_code, code, "{what}");
    }
    let zstd = BatchBuilder::new(Compression::Zstd).push(&Record::new("k", "v").at(1)).build().unwrap();
    for (version, code) in [(6, UNSUPPORTED_COMPRESSION_TYPE), (7, 0)] {
        let response = client.call(version, &produce("t", 0, 1, zstd.clone())).await;
        assert_eq!(response.responses[0].partition_responses[0].error_code, code, "version {version}");
    }
}

#[tokio::test]
async fn sequences_decide_what_is_new_what_is_a_repetition_and_what_is_wrong() {
    let (_node, mut client) = node_with_topic().await;
    let id = client.call(4, &InitProducerIdRequest::default().with_transactional_id(None)).await.producer_id;
    let send = |sequence: i32, epoch: i16| {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.producer(ProducerId(id.0), ProducerEpoch(epoch), sequence);
        builder.push(&Record::new("k", "v").at(1)).build().unwrap()
    };
    for (sequence, epoch, expected) in [
        (0, 0, (0, 0)),
        (1, 0, (0, 1)),
        (0, 0, (0, 0)), // a repetition, answered with the offset of then
        (1, 0, (0, 1)),
        (3, 0, (OUT_OF_ORDER_SEQUENCE_NUMBER, -1)),
        (2, 0, (0, 2)),
        (0, 1, (0, 3)), // the next incarnation
        (3, 0, (INVALID_PRODUCER_EPOCH, -1)),
    ] {
        let produced = client.produce("t", send(sequence, epoch)).await;
        let at = (sequence, epoch);
        assert_eq!(
            (produced.error_code, produced.base_offset),
            expected,
            "{at:?}: {:?}",
            produced.error_message
        );
    }
    assert_eq!(client.fetch("t", 0).await.high_watermark, 4);
}

/// Fifty requests leave before the first answer is read: their batches must stand in the order in which they were sent,
/// and the answers come in that order too, whatever stands between them.
#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (_node, mut client) = node_with_topic().await;
    let mut sent = Vec::new();
    let names: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    for (number, name) in names.iter().enumerate() {
        let acks = if number % 10 < 5 { 1 } else { -1 };
        sent.push((client.send(9, &produce("t", 0, acks, batch(&[name]))).await, 0));
        if number % 10 == 9 {
            sent.push((client.send(12, &fetch("t", &[(0, 0)])).await, 1));
        }
    }
    let mut next_offset = 0;
    for (id, kind) in sent {
        if kind == 0 {
            let response = client.receive::<ProduceRequest>(9, id).await;
            assert_eq!(response.responses[0].partition_responses[0].base_offset, next_offset);
            next_offset += 1;
        } else {
            let response = client.receive::<FetchRequest>(12, id).await;
            let seen = response.responses[0].partitions[0].high_watermark;
            assert_eq!(
                seen, next_offset,
                "a fetch sees what was written before it, and nothing after it has begun"
            );
        }
    }
    let all = client.fetch("t", 0).await;
    let read: Vec<String> =
        values(all.records.as_ref().unwrap()).into_iter().map(|(_, value)| value).collect();
    assert_eq!(read, names);
}

#[tokio::test]
async fn acks_0_has_no_answer_and_an_error_closes_the_connection() {
    let (node, mut client) = node_with_topic().await;
    for value in ["a", "b", "c"] {
        client.send(9, &produce("t", 0, 0, batch(&[value]))).await;
    }
    // The next answer is to the next question. What nobody waited for may not be durable yet, and so not to be seen.
    let three = 3 * batch(&["a"]).len() as i32;
    let request = fetch("t", &[(0, 0)]).with_max_wait_ms(20_000).with_min_bytes(three);
    assert_eq!(client.call(12, &request).await.responses[0].partitions[0].high_watermark, 3);
    client.send(9, &produce("no such topic", 0, 0, batch(&["d"]))).await;
    client.ends().await;
    assert_eq!(node.metric("messaging_server_bugs_total").await, 0);
}

#[tokio::test]
async fn a_fetch_waits_for_what_it_wants_and_no_longer() {
    let (node, mut producer) = node_with_topic().await;
    let mut consumer = node.connect().await;
    let waiting =
        |bytes_min: i32| fetch("t", &[(0, 0), (1, 0)]).with_max_wait_ms(60_000).with_min_bytes(bytes_min);
    // One batch, in the second of two partitions.
    let id = consumer.send(12, &waiting(1)).await;
    producer.call(9, &produce("t", 1, -1, batch(&["a"]))).await;
    let response = consumer.receive::<FetchRequest>(12, id).await;
    assert_eq!(values(response.responses[0].partitions[1].records.as_ref().unwrap()).len(), 1);
    // Bytes count over all partitions: one batch is there, and two more make it enough.
    let enough = 3 * batch(&["a"]).len() as i32;
    let id = consumer.send(12, &waiting(enough)).await;
    producer.produce("t", batch(&["b"])).await;
    producer.produce("t", batch(&["c"])).await;
    let response = consumer.receive::<FetchRequest>(12, id).await;
    let counts =
        response.responses[0].partitions.iter().map(|each| values(each.records.as_ref().unwrap()).len());
    assert_eq!(counts.collect::<Vec<_>>(), [2, 1]);
    // In vain, but not for ever.
    let short = fetch("t", &[(0, 2)]).with_max_wait_ms(30).with_min_bytes(1);
    let response = timeout(SOON, consumer.call(12, &short)).await.unwrap();
    assert_eq!(response.responses[0].partitions[0].error_code, 0);
}

#[tokio::test]
async fn limits_are_soft_for_the_first_batch_and_hard_after_it() {
    let (_node, mut client) = node_with_topic().await;
    for partition in [0, 0, 1] {
        client.call(9, &produce("t", partition, -1, batch(&["some value"]))).await;
    }
    let one = batch(&["some value"]).len();
    let mut sizes = async |bytes_max: usize, partition_bytes_max: usize| {
        let mut request = fetch("t", &[(0, 0), (1, 0)]).with_max_bytes(bytes_max as i32);
        for partition in &mut request.topics[0].partitions {
            partition.partition_max_bytes = partition_bytes_max as i32;
        }
        let response = client.call(12, &request).await;
        let sizes = response.responses[0].partitions.iter().map(|each| each.records.as_ref().unwrap().len());
        sizes.collect::<Vec<_>>()
    };
    assert_eq!(sizes(1, 1000).await, [one, 0]);
    assert_eq!(sizes(1000, 1).await, [one, 0]);
    assert_eq!(sizes(2 * one, 1000).await, [2 * one, 0]);
    assert_eq!(sizes(3 * one - 1, 1000).await, [2 * one, 0]);
    assert_eq!(sizes(3 * one, 1000).await, [2 * one, one]);
    assert_eq!(sizes(1000, one).await, [one, one]);
    assert_eq!(sizes(0, 0).await, [one, 0]);
}

/// A request of 200,000 entries for 64 partitions took seven seconds of reading, and an answer as long. Kafka keeps each
/// partition once, where it was first named, and believes the last word on it.
#[tokio::test]
async fn a_partition_that_is_named_again_is_read_once() {
    let (_node, mut client) = node_with_topic().await;
    for value in ["a", "b"] {
        assert_eq!(client.produce("t", batch(&[value])).await.error_code, 0);
    }
    let mut request = fetch("t", &[(0, 0), (1, 0), (0, 7), (0, 1)]);
    request.topics.extend(fetch("no such topic", &[(0, 0), (0, 1)]).topics);
    // The last word is said in another entry, and it is the last of many.
    request.topics.extend(fetch("t", &[(1, 5); 1_000]).topics);
    request.topics.extend(fetch("t", &[(1, 0), (0, 1)]).topics);
    let response = client.call(12, &request).await;
    let told: Vec<_> = response
        .responses
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|each| (topic.topic.as_str(), each)))
        .map(|(topic, each)| (topic, each.partition_index, each.error_code))
        .collect();
    let unknown = ("no such topic", 0, UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(told, [("t", 0, 0), ("t", 1, 0), unknown]);
    let records = response.responses[0].partitions[0].records.as_ref().unwrap();
    assert_eq!(values(records).into_iter().map(|(_, value)| value).collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn leader_epochs_are_checked() {
    let (_node, mut client) = node_with_topic().await;
    client.produce("t", batch(&["a"])).await;
    for (epoch, code) in [(-1, 0), (0, 0), (1, UNKNOWN_LEADER_EPOCH), (-2, 0)] {
        for from in [0, 1] {
            let mut request = fetch("t", &[(0, from)]);
            request.topics[0].partitions[0].current_leader_epoch = epoch;
            let response = client.call(12, &request).await;
            assert_eq!(response.responses[0].partitions[0].error_code, code, "epoch {epoch} at {from}");
        }
    }
}

#[tokio::test]
async fn a_topic_deleted_under_a_waiting_consumer_wakes_it() {
    let (node, mut other) = node_with_topic().await;
    let mut consumer = node.connect().await;
    let before = node.metric(RECEIVED).await;
    let id = consumer.send(12, &fetch("t", &[(0, 0)]).with_max_wait_ms(60_000)).await;
    node.metric_becomes(RECEIVED, |bytes| bytes > before).await;
    let topics = vec![DeleteTopicState::default().with_name(Some(topic("t")))];
    let deleted =
        other.call(6, &DeleteTopicsRequest::default().with_topics(topics).with_timeout_ms(1000)).await;
    assert_eq!(deleted.responses[0].error_code, 0);
    let response = consumer.receive::<FetchRequest>(12, id).await;
    assert_eq!(response.responses[0].partitions[0].error_code, UNKNOWN_TOPIC_OR_PARTITION);
    // And what follows is answered likewise.
    assert_eq!(consumer.fetch("t", 0).await.error_code, UNKNOWN_TOPIC_OR_PARTITION);
    let refused = consumer.produce("t", batch(&["late"])).await;
    assert_eq!(refused.error_code, UNKNOWN_TOPIC_OR_PARTITION);
}

/// Whatever the pieces in which the bytes of two producers arrive, nothing of one mixes with the other.
#[tokio::test]
async fn two_halves_of_two_requests_on_two_connections() {
    let (node, mut one) = node_with_topic().await;
    let mut two = node.connect().await;
    let frames = ["one", "two"].map(|value| frame(9, 1, &produce("t", 0, 1, batch(&[value]))));
    let middle = frames[0].len() / 2;
    one.stream.write_all(&frames[0][..middle]).await.unwrap();
    two.stream.write_all(&frames[1]).await.unwrap();
    let second = two.receive::<ProduceRequest>(9, 1).await;
    assert_eq!(second.responses[0].partition_responses[0].base_offset, 0, "nobody waits for half a request");
    one.stream.write_all(&frames[0][middle..]).await.unwrap();
    let first = timeout(Duration::from_secs(20), one.receive::<ProduceRequest>(9, 1)).await.unwrap();
    assert_eq!(first.responses[0].partition_responses[0].base_offset, 1);
}

/// A partition that was damaged when it was opened said that it ends at offset 0, and that every other is out of range. A
/// consumer that hears this begins anew at one end or the other, commits that, and has forgotten where it was.
#[tokio::test]
async fn a_damaged_partition_tells_nobody_where_it_begins_or_ends() {
    let dir = tempfile::tempdir().unwrap();
    let broker = anabranch_broker::Broker::open(dir.path()).await.unwrap();
    let new = anabranch_broker::NewTopic::new("t");
    let created = broker.create_topic(new, anabranch_broker::Apply::Now).await.unwrap();
    created.append(Record::new("k", "v")).await.unwrap();
    broker.close().await;
    let file = dir.path().join("topics/t/0/00000000000000000000.log");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[16] = 9;
    std::fs::write(&file, bytes).unwrap();

    let node = Node::over(dir, Limits::default(), &[]).await;
    let mut client = node.connect().await;
    assert_eq!(client.fetch("t", 1).await.error_code, KAFKA_STORAGE_ERROR);
    for timestamp in [-1, -2, 0] {
        let asked = ListOffsetsPartition::default().with_timestamp(timestamp);
        let asked = ListOffsetsTopic::default().with_name(topic("t")).with_partitions(vec![asked]);
        let request = ListOffsetsRequest::default().with_topics(vec![asked]);
        let answer = &client.call(7, &request).await.topics[0].partitions[0];
        assert_eq!((answer.error_code, answer.offset), (KAFKA_STORAGE_ERROR, -1), "{timestamp}");
    }
}
