//! What tools ask a cluster for, and what one node answers.
//!
//! As in `peer`, every expectation was compared with Apache Kafka's: `ANABRANCH_PEER=127.0.0.1:19092 cargo test -p anabranch-serve
//! --test it tools` runs the same cases there.

use std::sync::Arc;

use anabranch_serve::Limits;
use anabranch_wire::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use anabranch_wire::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
use anabranch_wire::messages::describe_log_dirs_request::DescribableLogDirTopic;
use anabranch_wire::messages::describe_log_dirs_response::DescribeLogDirsResult;
use anabranch_wire::messages::describe_quorum_request::{PartitionData, TopicData};
use anabranch_wire::messages::elect_leaders_request::TopicPartitions;
use anabranch_wire::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use anabranch_wire::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use anabranch_wire::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use anabranch_wire::messages::update_features_request::FeatureUpdateKey;
use anabranch_wire::messages::*;

use crate::client::{Client, Node, SOON, batch, fetch, ours_or_peer, own_name, text, topic};
use crate::limits::HeldDisk;

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const UNSUPPORTED_VERSION: i16 = 35;
const INVALID_REPLICA_ASSIGNMENT: i16 = 39;
const INVALID_REQUEST: i16 = 42;
const LOG_DIR_NOT_FOUND: i16 = 57;
const FENCED_LEADER_EPOCH: i16 = 74;
const UNKNOWN_LEADER_EPOCH: i16 = 75;
const ELECTION_NOT_NEEDED: i16 = 84;
const NO_REASSIGNMENT_IN_PROGRESS: i16 = 85;
const INVALID_UPDATE_VERSION: i16 = 95;

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
        let mut sizes = partitions.collect::<Vec<_>>();
        sizes.sort_unstable();
        sizes
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
async fn a_disk_that_does_not_know_its_size() {
    let node = Node::on(Arc::new(HeldDisk::default()), Limits::default(), &[]).await;
    let request = DescribeLogDirsRequest::default().with_topics(None);
    let response = node.connect().await.call(4, &request).await;
    let directory = &response.results[0];
    assert_eq!((directory.error_code, directory.total_bytes, directory.usable_bytes), (0, -1, -1));
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

#[tokio::test]
async fn who_leads_is_elected() {
    let (_node, mut client) = node().await;
    let of = |name: &str, partitions: &[i32]| {
        TopicPartitions::default().with_topic(topic(name)).with_partitions(partitions.to_vec())
    };
    let some = ElectLeadersRequest::default().with_topic_partitions(Some(vec![
        of(&own_name(), &[0, 0, 9, -1]),
        of("no-such-topic", &[0]),
        of(&own_name(), &[1]),
        of("", &[]),
    ]));
    let expected = [
        vec![
            (0, ELECTION_NOT_NEEDED),
            (0, ELECTION_NOT_NEEDED),
            (9, UNKNOWN_TOPIC_OR_PARTITION),
            (-1, UNKNOWN_TOPIC_OR_PARTITION),
        ],
        vec![(0, UNKNOWN_TOPIC_OR_PARTITION)],
        vec![(1, ELECTION_NOT_NEEDED)],
        vec![],
    ];
    let told = |response: &ElectLeadersResponse| {
        let topics = response.replica_election_results.iter().map(|topic| {
            topic.partition_result.iter().map(|each| (each.partition_id, each.error_code)).collect::<Vec<_>>()
        });
        (response.error_code, topics.collect::<Vec<_>>())
    };
    for version in 0..=2 {
        for kind in [0, 1] {
            let request = some.clone().with_election_type(if version == 0 { 0 } else { kind });
            let response = client.call(version, &request).await;
            assert_eq!(told(&response), (0, expected.to_vec()));
            let messages = response.replica_election_results[0].partition_result.iter();
            assert!(messages.into_iter().all(|each| each.error_message.is_some()));
        }
    }
    for kind in [7, -1] {
        let (code, refused) = told(&client.call(2, &some.clone().with_election_type(kind)).await);
        assert_eq!((code, refused.concat()[0]), (INVALID_REQUEST, (0, INVALID_REQUEST)));
        let all = ElectLeadersRequest::default().with_topic_partitions(None).with_election_type(kind);
        assert_eq!(told(&client.call(2, &all).await), (INVALID_REQUEST, vec![]));
    }
    // Of all, nothing is told but those that got another leader.
    let all = ElectLeadersRequest::default().with_topic_partitions(None);
    let response = client.call(2, &all).await;
    assert!(response.replica_election_results.iter().any(|topic| topic.topic.as_str() == own_name()));
    assert!(told(&response).1.concat().is_empty());
    let none = ElectLeadersRequest::default().with_topic_partitions(Some(vec![]));
    assert_eq!(told(&client.call(1, &none).await), (0, vec![]));
}

#[tokio::test]
async fn replicas_are_where_they_can_be() {
    let (_node, mut client) = node().await;
    // Partition, replicas, what comes of it.
    let cases: [(i32, Option<&[i32]>, i16); 10] = [
        (0, None, NO_REASSIGNMENT_IN_PROGRESS),
        (0, Some(&[1]), 0),
        (0, Some(&[]), INVALID_REPLICA_ASSIGNMENT),
        (0, Some(&[2]), INVALID_REPLICA_ASSIGNMENT),
        (0, Some(&[1, 1]), INVALID_REPLICA_ASSIGNMENT),
        (0, Some(&[1, 2]), INVALID_REPLICA_ASSIGNMENT),
        (0, Some(&[-1]), INVALID_REPLICA_ASSIGNMENT),
        (9, None, UNKNOWN_TOPIC_OR_PARTITION),
        (-1, Some(&[]), UNKNOWN_TOPIC_OR_PARTITION),
        (1, Some(&[1]), 0),
    ];
    let partitions = cases.map(|(index, replicas, _)| {
        let replicas = replicas.map(|replicas| replicas.iter().map(|node| BrokerId(*node)).collect());
        ReassignablePartition::default().with_partition_index(index).with_replicas(replicas)
    });
    let of = |name: &str, partitions: Vec<_>| {
        ReassignableTopic::default().with_name(topic(name)).with_partitions(partitions)
    };
    let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![
        of(&own_name(), partitions.to_vec()),
        of("no-such-topic", partitions[..2].to_vec()),
        of("", vec![]),
    ]);
    for (version, allowed) in [(0, true), (1, true), (1, false)] {
        let request = request.clone().with_allow_replication_factor_change(allowed);
        let response = client.call(version, &request).await;
        assert_eq!((response.error_code, response.error_message), (0, None));
        assert_eq!(response.allow_replication_factor_change, allowed);
        let codes = |topic: usize| {
            let each = response.responses[topic].partitions.iter();
            each.map(|each| (each.partition_index, each.error_code)).collect::<Vec<_>>()
        };
        assert_eq!(codes(0), cases.map(|(index, _, code)| (index, code)));
        assert_eq!(codes(1), [(0, UNKNOWN_TOPIC_OR_PARTITION); 2]);
        assert_eq!(codes(2), []);
    }
    let some = ListPartitionReassignmentsTopics::default().with_name(topic(&own_name()));
    for topics in [None, Some(vec![]), Some(vec![some.with_partition_indexes(vec![0, 9])])] {
        let request = ListPartitionReassignmentsRequest::default().with_topics(topics);
        let response = client.call(0, &request).await;
        assert_eq!((response.error_code, response.error_message, response.topics), (0, None, vec![]));
    }
}

#[tokio::test]
async fn the_quorum_of_the_metadata() {
    const METADATA: &str = "__cluster_metadata";
    let (_node, mut client) = node().await;
    let of = |name: &str, partitions: &[i32]| {
        let asked = |index: &i32| PartitionData::default().with_partition_index(*index);
        let partitions = partitions.iter().map(asked).collect();
        TopicData::default().with_topic_name(topic(name)).with_partitions(partitions)
    };
    let mut ends = Vec::new();
    for version in 0..=2 {
        let request = DescribeQuorumRequest::default().with_topics(vec![of(METADATA, &[0])]);
        let response = client.call(version, &request).await;
        assert_eq!((response.error_code, response.topics.len()), (0, 1));
        let [found] = &response.topics[0].partitions[..] else { panic!("one partition: {response:?}") };
        assert_eq!((found.error_code, found.leader_id, found.observers.len()), (0, BrokerId(1), 0));
        assert!(found.leader_epoch >= 0 && found.high_watermark > 0);
        let [voter] = &found.current_voters[..] else { panic!("one voter: {response:?}") };
        assert_eq!((voter.replica_id, voter.log_end_offset >= found.high_watermark), (BrokerId(1), true));
        let times = [voter.last_fetch_timestamp, voter.last_caught_up_timestamp];
        assert!(times.iter().all(|time| (*time > 1_700_000_000_000) == (version > 0)), "{times:?}");
        let nodes = response.nodes.iter().map(|node| (node.node_id, node.listeners.len()));
        let expected = if version < 2 { vec![] } else { vec![(BrokerId(1), 1)] };
        assert_eq!(nodes.collect::<Vec<_>>(), expected);
        ends.push(voter.log_end_offset);
        // What changes the metadata moves their log.
        client.create_topic(&format!("{}-{version}", own_name()), 1).await;
    }
    assert!(ends.is_sorted_by(|one, other| one < other), "{ends:?}");
    for topics in [
        vec![],
        vec![of(METADATA, &[1])],
        vec![of(METADATA, &[-1])],
        vec![of(METADATA, &[])],
        vec![of(METADATA, &[0, 1])],
        vec![of(METADATA, &[0, 0])],
        vec![of(METADATA, &[0]), of(METADATA, &[0])],
        vec![of(METADATA, &[0]), of(&own_name(), &[0])],
        vec![of(&own_name(), &[0])],
        vec![of("", &[0])],
    ] {
        let response = client.call(2, &DescribeQuorumRequest::default().with_topics(topics.clone())).await;
        let of_topic = |topic: &TopicData| topic.partitions.iter().map(|each| each.partition_index).collect();
        let asked: Vec<Vec<_>> = topics.iter().map(of_topic).collect();
        let refused = response.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter();
            let each = partitions.map(|each| {
                assert_eq!((each.error_code, each.current_voters.len()), (UNKNOWN_TOPIC_OR_PARTITION, 0));
                each.partition_index
            });
            each.collect()
        });
        assert_eq!((response.error_code, refused.collect::<Vec<Vec<_>>>()), (0, asked));
        assert_eq!(response.nodes.len(), 0);
    }
}

#[tokio::test]
async fn features_are_as_they_are() {
    let (_node, mut client) = node().await;
    let to = |name: &str, level, kind| {
        let update = FeatureUpdateKey::default().with_feature(text(name));
        update.with_max_version_level(level).with_upgrade_type(kind)
    };
    let same = to("group.version", 1, 1);
    let other = to("transaction.version", 2, 1);
    let unknown = to("no.such.feature", 1, 1);
    for (updates, code) in [
        (vec![], 0),
        (vec![same.clone()], 0),
        (vec![same.clone(), other], 0),
        (vec![same.clone(), same.clone()], 0),
        (vec![to("group.version", 1, 2)], 0),
        (vec![to("group.version", 1, 3)], 0),
        (vec![to("group.version", 1, 0)], INVALID_UPDATE_VERSION),
        (vec![to("group.version", 1, 9)], INVALID_UPDATE_VERSION),
        (vec![to("group.version", 99, 1)], INVALID_UPDATE_VERSION),
        (vec![to("group.version", 0, 1)], INVALID_UPDATE_VERSION),
        (vec![to("group.version", -1, 2)], INVALID_UPDATE_VERSION),
        (vec![to("", 1, 1)], INVALID_UPDATE_VERSION),
        (vec![to("no.such.feature", 0, 2)], INVALID_UPDATE_VERSION),
        (vec![unknown.clone()], INVALID_UPDATE_VERSION),
        (vec![same.clone(), unknown], INVALID_UPDATE_VERSION),
    ] {
        for version in 0..=2 {
            let mut updates = updates.clone();
            if version == 0 {
                if updates.iter().any(|update| ![1, 2].contains(&update.upgrade_type)) {
                    continue;
                }
                for update in &mut updates {
                    update.allow_downgrade = std::mem::replace(&mut update.upgrade_type, 1) == 2;
                }
            }
            for validate_only in [true, false] {
                let request = UpdateFeaturesRequest::default().with_feature_updates(updates.clone());
                let request = request.with_validate_only(validate_only && version > 0);
                let response = client.call(version, &request).await;
                assert_eq!((response.error_code, response.error_message.is_some()), (code, code != 0));
                let told = response.results.iter().map(|each| (each.feature.clone(), each.error_code));
                let is_told = code == 0 && version < 2;
                let all = updates.iter().filter(|_| is_told).map(|update| (update.feature.clone(), 0));
                assert!(told.eq(all), "{version} {request:?} {response:?}");
            }
        }
    }
}

/// Kafka can switch a feature off, which would here switch off what is being used.
#[tokio::test]
async fn no_feature_is_switched_off() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    for kind in [2, 3] {
        let update = FeatureUpdateKey::default().with_feature(text("transaction.version"));
        let update = update.with_max_version_level(1).with_upgrade_type(kind);
        let request = UpdateFeaturesRequest::default().with_feature_updates(vec![update]);
        assert_eq!(client.call(2, &request).await.error_code, INVALID_UPDATE_VERSION);
    }
}

#[tokio::test]
async fn what_has_settings_is_listed() {
    const TOPIC: i8 = 2;
    const BROKER: i8 = 4;
    const CLIENT_METRICS: i8 = 16;
    const GROUP: i8 = 32;
    let (_node, mut client) = node().await;
    let config = AlterableConfig::default().with_name(text("consumer.session.timeout.ms"));
    let group =
        AlterConfigsResource::default().with_resource_type(GROUP).with_resource_name(text(&own_name()));
    let group = group.with_configs(vec![config.with_value(Some(text("50000")))]);
    let alter = IncrementalAlterConfigsRequest::default().with_resources(vec![group]);
    assert_eq!(client.call(1, &alter).await.responses[0].error_code, 0);
    let listed = async |client: &mut Client, version, kinds: &[i8]| {
        let request = ListConfigResourcesRequest::default().with_resource_types(kinds.to_vec());
        let response = client.call(version, &request).await;
        let own = response.config_resources.into_iter().filter(|found| {
            found.resource_type != 8 && [&own_name(), "1"].contains(&found.resource_name.as_str())
        });
        let mut own: Vec<_> = own.map(|found| found.resource_type).collect();
        own.sort_unstable();
        (response.error_code, own)
    };
    // The peer applies settings behind.
    let ready = async { while listed(&mut client, 1, &[GROUP]).await.1 != [GROUP] {} };
    tokio::time::timeout(SOON, ready).await.expect("the group is listed");
    for (version, kinds, expected) in [
        (0, &[][..], (0, vec![])),
        (1, &[], (0, vec![TOPIC, BROKER, GROUP])),
        (1, &[TOPIC], (0, vec![TOPIC])),
        (1, &[BROKER, TOPIC, BROKER], (0, vec![TOPIC, BROKER])),
        (1, &[8], (0, vec![])),
        (1, &[CLIENT_METRICS], (0, vec![])),
        (1, &[0], (UNSUPPORTED_VERSION, vec![])),
        (1, &[TOPIC, 3], (UNSUPPORTED_VERSION, vec![])),
        (1, &[-1], (UNSUPPORTED_VERSION, vec![])),
    ] {
        assert_eq!(listed(&mut client, version, kinds).await, expected, "{version} {kinds:?}");
    }
}

/// `kafka-reassign-partitions` takes throttles away that were never there.
#[tokio::test]
async fn what_a_broker_was_not_told_at_run_time_can_be_taken_back() {
    const SET: i8 = 0;
    const DELETE: i8 = 1;
    let (_node, mut client) = node().await;
    let rate = "leader.replication.throttled.rate";
    for (broker, ops, code) in [
        ("1", &[(rate, DELETE)][..], 0),
        ("", &[(rate, DELETE)], 0),
        ("1", &[("no.such.setting", DELETE)], 0),
        ("1", &[("node.id", DELETE)], 0),
        ("1", &[], 0),
        ("1", &[(rate, DELETE), (rate, DELETE)], INVALID_REQUEST),
        ("1", &[(rate, DELETE), ("node.id", SET)], INVALID_REQUEST),
        ("7", &[(rate, DELETE)], INVALID_REQUEST),
        ("x", &[(rate, DELETE)], INVALID_REQUEST),
    ] {
        let configs = ops.iter().map(|(name, op)| {
            let config = AlterableConfig::default().with_name(text(name)).with_config_operation(*op);
            config.with_value((*op == SET).then(|| text("2")))
        });
        let resource = AlterConfigsResource::default().with_resource_type(4).with_resource_name(text(broker));
        let resource = resource.with_configs(configs.collect());
        for validate_only in [true, false] {
            let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource.clone()]);
            let response = client.call(1, &request.with_validate_only(validate_only)).await;
            assert_eq!(response.responses[0].error_code, code, "{broker} {ops:?}: {response:?}");
        }
    }
    let all = alter_configs_request::AlterConfigsResource::default().with_resource_type(4);
    let all = AlterConfigsRequest::default().with_resources(vec![all.with_resource_name(text("1"))]);
    assert_eq!(client.call(2, &all).await.responses[0].error_code, 0);
}
