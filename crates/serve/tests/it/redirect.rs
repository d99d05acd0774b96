//! Old clients after a move that sends them on: what they are told first, and where they are sent then.

use std::time::Duration;

use anabranch_broker::group::consumer_protocol::Subscription;
use anabranch_broker::{Apply, Elsewhere, MovingError, NewMove, NewTopic, Node as Broker};
use anabranch_core::TopicPartition;
use anabranch_core::batch::{BatchBuilder, Compression, Record};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use anabranch_wire::messages::metadata_request::MetadataRequestTopic;
use anabranch_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use anabranch_wire::messages::offset_fetch_request::OffsetFetchRequestGroup;
use anabranch_wire::messages::*;
use anabranch_wire::protocol::StrBytes;
use bytes::Bytes;

use crate::client::{Client, Node, SOON, text, topic};
use crate::groups::{first_join, join};

const LEADER_NOT_AVAILABLE: i16 = 5;
const NOT_LEADER_OR_FOLLOWER: i16 = 6;
const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;
const UNKNOWN_MEMBER_ID: i16 = 25;
const NOT_CONTROLLER: i16 = 41;
const POLICY_VIOLATION: i16 = 44;
const MEMBER_ID_REQUIRED: i16 = 79;

fn sequenced(id: i64, sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.producer(ProducerId(id), ProducerEpoch(0), sequence);
    builder.push(&Record::new("k", "v").at(1)).build().unwrap()
}

fn elsewhere() -> Elsewhere {
    let node = |id: i32, host: &str| Broker { id, host: host.to_owned(), port: 9092 };
    // The first has our own id, as a Kafka of one node has.
    Elsewhere { cluster: "there".to_owned(), nodes: vec![node(1, "one"), node(7, "two")] }
}

fn new_move(topics: &[&str]) -> NewMove {
    NewMove {
        id: "m".to_owned(),
        topics: topics.iter().map(|name| (*name).to_owned()).collect(),
        target: "kafka://one:9092".to_owned(),
        redirect: Some(elsewhere()),
    }
}

async fn decide(node: &Node, positions_differ: bool) {
    let begun = node.broker.begin_move(new_move(&["t"])).await.unwrap();
    assert_eq!((begun.moved_to, begun.is_redirected), (None, true));
    let partitions = [TopicPartition::new("t", 0)];
    let hold = node.broker.hold_move("m", &partitions, Duration::from_secs(20)).await.unwrap();
    node.broker.decide_move("m", hold, positions_differ).await.unwrap();
}

fn metadata() -> MetadataRequest {
    let topic = MetadataRequestTopic::default().with_name(Some(topic("t")));
    MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(true)
}

fn list_offsets() -> ListOffsetsRequest {
    let partition = ListOffsetsPartition::default().with_timestamp(-1);
    let topic = ListOffsetsTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
    ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic])
}

async fn heartbeat(client: &mut Client, member: &StrBytes) -> i16 {
    let request = HeartbeatRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_generation_id(1)
        .with_member_id(member.clone());
    client.call(4, &request).await.error_code
}

async fn commit(client: &mut Client, version: i16, member: &StrBytes) -> i16 {
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(1);
    let topic = OffsetCommitRequestTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_generation_id_or_member_epoch(1)
        .with_member_id(member.clone())
        .with_topics(vec![topic]);
    client.call(version, &request).await.topics[0].partitions[0].error_code
}

/// Waits until a new connection is sent on. Every answer of another kind names our own broker.
async fn sent_on(node: &Node) -> MetadataResponse {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        let response = node.connect().await.call(12, &metadata()).await;
        if response.brokers.len() == 2 {
            return response;
        }
        assert_eq!(response.brokers[0].port, i32::from(node.server.kafka_addr().port()));
        assert!(tokio::time::Instant::now() < until, "nobody is sent on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn clients_stay_until_they_know_what_they_have_and_are_sent_on_then() {
    let node = Node::start().await;
    node.broker.create_topic(NewTopic::new("t"), Apply::Now).await.unwrap();
    let mut client = node.connect().await;
    let id =
        client.call(4, &InitProducerIdRequest::default().with_transactional_id(None)).await.producer_id.0;
    assert_eq!(client.produce("t", sequenced(id, 0)).await.error_code, 0);
    let member = first_join(&mut client).await;
    assert_eq!(client.call(9, &join(&member)).await.error_code, 0);
    decide(&node, true).await;

    // A batch whose answer was lost is stored, and is answered so; the next one will be stored there.
    let again = client.produce("t", sequenced(id, 0)).await;
    assert_eq!((again.error_code, again.base_offset), (0, 0));
    assert_eq!(client.produce("t", sequenced(id, 1)).await.error_code, NOT_LEADER_OR_FOLLOWER);
    // Nothing says where anything stands here.
    let located = client.call(7, &list_offsets()).await;
    assert_eq!(located.topics[0].partitions[0].error_code, NOT_LEADER_OR_FOLLOWER);
    let group = OffsetFetchRequestGroup::default().with_group_id(GroupId(text("g")));
    let stands = client.call(8, &OffsetFetchRequest::default().with_groups(vec![group])).await;
    assert_eq!(stands.groups[0].error_code, NOT_COORDINATOR);
    let init = InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("tx"))));
    assert_eq!(client.call(4, &init).await.error_code, NOT_COORDINATOR);
    let new = create_topics_request::CreatableTopic::default()
        .with_name(topic("new"))
        .with_num_partitions(1)
        .with_replication_factor(1);
    let made =
        client.call(7, &CreateTopicsRequest::default().with_topics(vec![new]).with_timeout_ms(1000)).await;
    assert_eq!(made.topics[0].error_code, NOT_CONTROLLER);
    // Nobody comes into a group. As long as its member has not heard that it is none, nobody is sent on.
    let joined = client.call(9, &join(&StrBytes::new())).await;
    assert_eq!(joined.error_code, COORDINATOR_NOT_AVAILABLE);
    assert_eq!(client.fetch("t", 0).await.error_code, NOT_LEADER_OR_FOLLOWER);
    // Nor does a commit tell it: not all clients throw their positions away then.
    assert_eq!(commit(&mut client, 8, &member).await, COORDINATOR_LOAD_IN_PROGRESS);
    tokio::time::sleep(Duration::from_millis(5200)).await; // longer than clients stay here at least
    let still = client.call(12, &metadata()).await;
    assert_eq!((still.brokers.len(), still.topics[0].error_code), (1, 0));
    assert_eq!(heartbeat(&mut client, &member).await, UNKNOWN_MEMBER_ID);
    let response = sent_on(&node).await;
    let brokers = response.brokers.iter();
    let brokers: Vec<_> = brokers.map(|at| (at.node_id.0, at.host.to_string(), at.port)).collect();
    assert_eq!(brokers, [(1, "one".to_owned(), 9092), (7, "two".to_owned(), 9092)]);
    assert_eq!(response.cluster_id.as_deref(), Some("there"));
    assert_eq!(response.topics[0].error_code, LEADER_NOT_AVAILABLE);
    // Whoever reads without a group has heard by now that it cannot: its position means another record there.
    assert_eq!(node.connect().await.fetch("t", 0).await.error_code, POLICY_VIOLATION);

    // A repeat is answered to the last, and its connection is not closed behind the answer.
    let mut late = node.connect().await;
    assert_eq!(late.produce("t", sequenced(id, 0)).await.error_code, 0);
    assert_eq!(late.produce("t", sequenced(id, 1)).await.error_code, NOT_LEADER_OR_FOLLOWER);
    // A client may know the connection by our id, and there is another of that id.
    late.ends().await;
}

#[tokio::test]
async fn every_version_is_sent_on_and_its_connection_closed() {
    let node = Node::start().await;
    node.broker.create_topic(NewTopic::new("t"), Apply::Now).await.unwrap();
    decide(&node, false).await;
    sent_on(&node).await;
    for version in 0..=13 {
        for asked in [Some(metadata().topics.unwrap()), None] {
            // In version 0 an empty list is all of them.
            let asked = if version == 0 { Some(asked.unwrap_or_default()) } else { asked };
            let mut client = node.connect().await;
            let response = client.call(version, &MetadataRequest::default().with_topics(asked)).await;
            assert_eq!(response.brokers.len(), 2, "{version}");
            // Who asks by an old version throws the brokers away with the topic that has no leader.
            let expected = if version > 6 { vec![LEADER_NOT_AVAILABLE] } else { Vec::new() };
            let topics: Vec<_> = response.topics.iter().map(|topic| topic.error_code).collect();
            assert_eq!(topics, expected, "{version}");
            client.ends().await;
        }
    }
    for version in 0..=2 {
        let response = node.connect().await.call(version, &DescribeClusterRequest::default()).await;
        assert_eq!((response.brokers.len(), response.cluster_id.as_str()), (2, "there"), "{version}");
    }
    for version in 0..=6 {
        let keys = if version >= 4 { vec![text("g")] } else { Vec::new() };
        let request = FindCoordinatorRequest::default().with_coordinator_keys(keys);
        let mut client = node.connect().await;
        let response = client.call(version, &request).await;
        // Under an id that the client does not know: else it may take it for us.
        let (id, code, host) = match response.coordinators.first() {
            None => (response.node_id, response.error_code, response.host.to_string()),
            Some(found) => (found.node_id, found.error_code, found.host.to_string()),
        };
        assert_eq!((code, &*host), (0, "one"), "{version}");
        assert!(![1, 7].contains(&id.0), "{version}");
        client.ends().await;
    }
    // Where positions are the same, whoever reads without a group goes on.
    assert_eq!(node.connect().await.fetch("t", 0).await.error_code, NOT_LEADER_OR_FOLLOWER);

    // It holds after a start, too, and begins anew: who was told is not known.
    let Node { broker, server, _dir: dir } = node;
    server.shutdown().await;
    broker.close().await;
    let node = Node::over(dir, Default::default(), &[]).await;
    assert_eq!(node.connect().await.call(12, &metadata()).await.brokers.len(), 1);
    sent_on(&node).await;
    // Given up, all is as it was.
    node.broker.forget_move("m").await.unwrap();
    let mut client = node.connect().await;
    assert_eq!(client.call(12, &metadata()).await.topics[0].error_code, 0);
    assert_eq!(client.produce("t", sequenced(9, 0)).await.error_code, 0);
    let joined = client.call(9, &join(&StrBytes::new())).await;
    assert_ne!(joined.error_code, COORDINATOR_NOT_AVAILABLE);
}

/// A client's metadata is of one cluster: what is left behind would be gone for it.
#[tokio::test]
async fn clients_are_sent_on_from_all_topics_or_from_none() {
    let node = Node::start().await;
    for name in ["t", "stays"] {
        node.broker.create_topic(NewTopic::new(name), Apply::Now).await.unwrap();
    }
    let begun = node.broker.begin_move(new_move(&["t"])).await;
    assert!(matches!(&begun, Err(MovingError::Stays(name)) if name == "stays"), "{begun:?}");
    node.broker.begin_move(new_move(&["t", "stays"])).await.unwrap();
    node.broker.create_topic(NewTopic::new("made-meanwhile"), Apply::Now).await.unwrap();
    let partitions = [TopicPartition::new("t", 0), TopicPartition::new("stays", 0)];
    let hold = node.broker.hold_move("m", &partitions, Duration::from_secs(20)).await.unwrap();
    let decided = node.broker.decide_move("m", hold, false).await;
    assert!(matches!(&decided, Err(MovingError::Stays(name)) if name == "made-meanwhile"), "{decided:?}");
    assert!(node.broker.redirect().is_none());
}

/// Clients that are refused were let into their group, and waited there for records that came no more.
#[tokio::test]
async fn whoever_joins_a_group_for_what_has_moved_is_refused() {
    let node = Node::start().await;
    for name in ["t", "stays"] {
        node.broker.create_topic(NewTopic::new(name), Apply::Now).await.unwrap();
    }
    node.broker.begin_move(NewMove { redirect: None, ..new_move(&["t"]) }).await.unwrap();
    let partitions = [TopicPartition::new("t", 0)];
    let hold = node.broker.hold_move("m", &partitions, Duration::from_secs(20)).await.unwrap();
    node.broker.decide_move("m", hold, true).await.unwrap();
    let mut client = node.connect().await;
    let topics = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (names, code) in [
        (&["t"][..], POLICY_VIOLATION),
        (&["t", "stays"], MEMBER_ID_REQUIRED),
        (&["stays"], MEMBER_ID_REQUIRED),
    ] {
        let mut request = join(&StrBytes::new());
        request.protocols[0].metadata = Subscription::to(topics(names)).encode(1);
        assert_eq!(client.call(9, &request).await.error_code, code, "{names:?}");
        let names: Vec<_> = names.iter().map(|name| topic(name)).collect();
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text("new")))
            .with_member_id(text("member"))
            .with_rebalance_timeout_ms(1000)
            .with_subscribed_topic_names(Some(names))
            .with_topic_partitions(Some(Vec::new()));
        let response = client.call(1, &request).await;
        let is_refused = code == POLICY_VIOLATION;
        assert_eq!(response.error_code == POLICY_VIOLATION, is_refused, "{response:?}");
        let told = response.error_message.as_deref() == Some("moved to kafka://one:9092");
        assert_eq!(told, is_refused, "{response:?}");
    }
}
