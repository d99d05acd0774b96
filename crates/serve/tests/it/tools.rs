//! What tools ask a cluster for, and what one node answers.
//!
//! As in `peer`, every expectation was compared with Apache Kafka's: `ANABRANCH_PEER=127.0.0.1:19092 cargo test -p anabranch-serve
//! --test it tools` runs the same cases there.

use anabranch_wire::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
use anabranch_wire::messages::describe_log_dirs_request::DescribableLogDirTopic;
use anabranch_wire::messages::describe_log_dirs_response::DescribeLogDirsResult;
use anabranch_wire::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use anabranch_wire::messages::*;

use crate::client::{Client, Node, SOON, batch, fetch, ours_or_peer, own_name, text, topic};

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const LOG_DIR_NOT_FOUND: i16 = 57;
const FENCED_LEADER_EPOCH: i16 = 74;
const UNKNOWN_LEADER_EPOCH: i16 = 75;

/// Ours or the peer, with a topic of two partitions, the first of which has two records.
async fn node() -> (Option<Node>, Client) {
    let (node, mut client) = ours_or_peer().await;
    client.create_topic(&own_name(), 2).await;
    let all = fetch(&own_name(), &[(0, 0), (1, 0)]);
    let ready = async {
        while client.call(12, &all).await.responses[0].partitions.iter().any(|each| each.error_code != 0) {}
    };
    tokio::time::timeout(SOON, ready).await.expect("the peer gets ready");
    assert_eq!(client.produce(&own_name(), batch(&["a", "b"])).await.error_code, 0);
    (node, client)
}

#[tokio::test]
async fn where_epochs_end() {
    let (_node, mut client) = node().await;
    const UNDEFINED: (i32, i64) = (-1, -1);
    // Partition, the epoch that the client believes in, the one that it asks for; error, and what is found.
    let cases = [
        (0, -1, 0, 0, (0, 2)),
        (0, 0, 0, 0, (0, 2)),
        (0, 1, 0, UNKNOWN_LEADER_EPOCH, UNDEFINED),
        (0, -2, 0, FENCED_LEADER_EPOCH, UNDEFINED),
        (0, -1, -1, 0, UNDEFINED),
        (0, -1, 5, 0, UNDEFINED),
        (0, -1, i32::MAX, 0, UNDEFINED),
        (0, -1, -7, 0, (-7, 0)),
        (1, -1, 0, 0, (0, 0)),
        (2, -1, 0, UNKNOWN_TOPIC_OR_PARTITION, UNDEFINED),
        (-1, -1, 0, UNKNOWN_TOPIC_OR_PARTITION, UNDEFINED),
        (0, -1, 0, 0, (0, 2)),
    ];
    let partitions = cases.map(|(partition, current, epoch, ..)| {
        let asked = OffsetForLeaderPartition::default().with_partition(partition);
        asked.with_current_leader_epoch(current).with_leader_epoch(epoch)
    });
    let of = |name: &str, partitions: Vec<_>| {
        OffsetForLeaderTopic::default().with_topic(topic(name)).with_partitions(partitions)
    };
    let request = OffsetForLeaderEpochRequest::default().with_topics(vec![
        of(&own_name(), partitions.to_vec()),
        of("no-such-topic", partitions[..1].to_vec()),
        of(&own_name(), partitions[..1].to_vec()),
        of("", vec![]),
    ]);
    for version in 2..=4 {
        let topics = client.call(version, &request).await.topics;
        for (found, (partition, .., code, end)) in topics[0].partitions.iter().zip(cases) {
            let found = (found.partition, found.error_code, (found.leader_epoch, found.end_offset));
            assert_eq!(found, (partition, code, end));
        }
        let ends = topics.iter().map(|topic| {
            topic.partitions.iter().map(|found| (found.error_code, found.end_offset)).collect::<Vec<_>>()
        });
        let expected = [vec![(UNKNOWN_TOPIC_OR_PARTITION, -1)], vec![(0, 2)], vec![]];
        assert_eq!(ends.skip(1).collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn the_log_directory_and_what_is_in_it() {
    let (_node, mut client) = node().await;
    let of = |name: &str, partitions: &[i32]| {
        DescribableLogDirTopic::default().with_topic(topic(name)).with_partitions(partitions.to_vec())
    };
    let sizes = |directory: &DescribeLogDirsResult| {
        let own = directory.topics.iter().filter(|topic| topic.name.as_str() == own_name());
        let partitions = own.flat_map(|topic| {
            topic.partitions.iter().map(|partition| {
                assert!(partition.offset_lag == 0 && !partition.is_future_key);
                (partition.partition_index, partition.partition_size)
            })
        });
        partitions.collect::<Vec<_>>()
    };
    let length = batch(&["a", "b"]).len() as i64;
    let some =
        vec![of(&own_name(), &[0, 0, 7, -1]), of("no-such-topic", &[0]), of(&own_name(), &[1]), of("", &[])];
    for (topics, expected) in [
        (Some(some), vec![(0, length), (1, 0)]),
        (Some(vec![of(&own_name(), &[1])]), vec![(1, 0)]),
        (Some(vec![of(&own_name(), &[])]), vec![]),
        (Some(vec![]), vec![]),
        (None, vec![(0, length), (1, 0)]),
    ] {
        let request = DescribeLogDirsRequest::default().with_topics(topics);
        for version in 1..=4 {
            let response = client.call(version, &request).await;
            let [directory] = &response.results[..] else { panic!("there is one directory: {response:?}") };
            assert_eq!((response.error_code, directory.error_code), (0, 0));
            assert!(directory.log_dir.starts_with('/'), "{directory:?}");
            assert_eq!(sizes(directory), expected);
            assert!(directory.topics.iter().all(|topic| !topic.partitions.is_empty()));
            let (total, usable) = (directory.total_bytes, directory.usable_bytes);
            match version {
                4 => assert!(0 < usable && usable < total, "{usable} of {total}"),
                _ => assert_eq!((total, usable), (-1, -1)),
            }
        }
    }
}

#[tokio::test]
async fn to_move_a_log_there_is_one_directory() {
    let (_node, mut client) = node().await;
    let own = DescribeLogDirsRequest::default().with_topics(Some(vec![]));
    let own = client.call(1, &own).await.results[0].log_dir.to_string();
    let of = |name: &str, partitions: &[i32]| {
        AlterReplicaLogDirTopic::default().with_name(topic(name)).with_partitions(partitions.to_vec())
    };
    let to = |path: &str, topics| AlterReplicaLogDir::default().with_path(text(path)).with_topics(topics);
    let request = AlterReplicaLogDirsRequest::default().with_dirs(vec![
        to(&own, vec![of(&own_name(), &[0, 0, 9, -1, 1]), of("no-such-topic", &[0])]),
        to("/elsewhere", vec![of(&own_name(), &[1, 8]), of("no-such-topic", &[1])]),
        to("", vec![of(&own_name(), &[7])]),
    ]);
    for version in 1..=2 {
        let results = client.call(version, &request).await.results;
        let mut codes: Vec<_> = results
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|each| (topic.topic_name.to_string(), each)))
            .map(|(name, each)| (name == own_name(), each.partition_index, each.error_code))
            .collect();
        codes.sort_unstable();
        let expected = [
            (false, 0, UNKNOWN_TOPIC_OR_PARTITION),
            (false, 1, LOG_DIR_NOT_FOUND),
            (true, -1, UNKNOWN_TOPIC_OR_PARTITION),
            (true, 0, 0),
            (true, 1, LOG_DIR_NOT_FOUND),
            (true, 7, LOG_DIR_NOT_FOUND),
            (true, 8, LOG_DIR_NOT_FOUND),
            (true, 9, UNKNOWN_TOPIC_OR_PARTITION),
        ];
        assert_eq!(codes, expected);
    }
}
