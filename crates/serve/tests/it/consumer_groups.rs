//! Groups in the consumer protocol (KIP-848), through the door.
//!
//! As in `peer`, every expectation was compared with Apache Kafka's: `ANABRANCH_PEER=127.0.0.1:19092 cargo test -p anabranch-serve
//! --test it consumer_groups` runs the same cases there.

use anabranch_wire::messages::consumer_group_heartbeat_request::TopicPartitions;
use anabranch_wire::messages::describe_configs_request::DescribeConfigsResource;
use anabranch_wire::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use anabranch_wire::messages::join_group_request::JoinGroupRequestProtocol;
use anabranch_wire::messages::leave_group_request::MemberIdentity;
use anabranch_wire::messages::metadata_request::MetadataRequestTopic;
use anabranch_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use anabranch_wire::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use anabranch_wire::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use anabranch_wire::messages::*;
use bytes::Bytes;
use uuid::Uuid;

use crate::client::{Client, Node, ours_or_peer, own_name, text, topic};

const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
const UNKNOWN_MEMBER_ID: i16 = 25;
const UNSUPPORTED_VERSION: i16 = 35;
const INVALID_CONFIG: i16 = 40;
const INVALID_REQUEST: i16 = 42;
const NON_EMPTY_GROUP: i16 = 68;
const GROUP_ID_NOT_FOUND: i16 = 69;
const MEMBER_ID_REQUIRED: i16 = 79;
const FENCED_INSTANCE_ID: i16 = 82;
const GROUP_SUBSCRIBED_TO_TOPIC: i16 = 86;
const FENCED_MEMBER_EPOCH: i16 = 110;
const UNRELEASED_INSTANCE_ID: i16 = 111;
const UNSUPPORTED_ASSIGNOR: i16 = 112;
const STALE_MEMBER_EPOCH: i16 = 113;
const INVALID_REGULAR_EXPRESSION: i16 = 128;
const GROUP: i8 = 32;

fn group() -> GroupId {
    GroupId(text(&own_name()))
}

fn joining(member: &str) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group())
        .with_member_id(text(member))
        .with_rebalance_timeout_ms(60_000)
        .with_subscribed_topic_names(Some(vec![topic(&own_name())]))
        .with_topic_partitions(Some(vec![]))
}

fn beating(member: &str, epoch: i32) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group())
        .with_member_id(text(member))
        .with_member_epoch(epoch)
}

fn owning(id: Uuid, partitions: Vec<i32>) -> Option<Vec<TopicPartitions>> {
    Some(vec![TopicPartitions::default().with_topic_id(id).with_partitions(partitions)])
}

/// Epoch, and what is assigned.
fn told(response: &ConsumerGroupHeartbeatResponse) -> (i16, i32, Option<Vec<i32>>) {
    let assigned = response.assignment.as_ref().map(|assigned| {
        assigned.topic_partitions.iter().flat_map(|topic| topic.partitions.clone()).collect()
    });
    (response.error_code, response.member_epoch, assigned)
}

/// Our broker or the peer, with a topic of two partitions; and its id.
async fn node() -> (Option<Node>, Client, Uuid) {
    let (node, mut client) = ours_or_peer().await;
    client.create_topic(&own_name(), 2).await;
    let ready = async {
        let asked = MetadataRequestTopic::default().with_name(Some(topic(&own_name())));
        let metadata = MetadataRequest::default().with_topics(Some(vec![asked]));
        let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(&own_name())]);
        loop {
            let found = client.call(4, &find).await.coordinators[0].error_code;
            let described = client.call(12, &metadata).await.topics[0].clone();
            // Its coordinator learns of topics a little later than the metadata.
            let probe = joining("probe").with_group_id(GroupId(text(&format!("probe-{}", own_name()))));
            let probed = told(&client.call(1, &probe).await).2.is_some_and(|assigned| !assigned.is_empty());
            let asked = client.call(1, &beating("nobody", 1)).await.error_code;
            if (found, described.error_code, asked, probed) == (0, 0, GROUP_ID_NOT_FOUND, true) {
                return described.topic_id;
            }
        }
    };
    let id = tokio::time::timeout(crate::client::SOON, ready).await.expect("the peer gets ready");
    (node, client, id)
}

#[tokio::test]
async fn two_members_share() {
    let (_node, mut client, id) = node().await;
    let joined = client.call(1, &joining("a")).await;
    assert_eq!(told(&joined), (0, 2, Some(vec![0, 1])));
    assert_eq!((joined.member_id.as_deref(), joined.heartbeat_interval_ms), (Some("a"), 5000));
    assert_eq!(joined.assignment.unwrap().topic_partitions[0].topic_id, id);
    assert_eq!(told(&client.call(1, &beating("a", 2)).await), (0, 2, None));
    // The assignor rests for a second (KIP-1263); then the first to speak is told.
    assert_eq!(told(&client.call(1, &joining("b")).await), (0, 2, Some(vec![])));
    let moved = async {
        loop {
            let response = client.call(1, &beating("b", 2)).await;
            if response.member_epoch == 3 {
                break;
            }
        }
    };
    tokio::time::timeout(crate::client::SOON, moved).await.expect("the assignor runs again");
    assert_eq!(told(&client.call(1, &beating("a", 2)).await), (0, 2, Some(vec![0])));
    let given_up = beating("a", 2).with_topic_partitions(owning(id, vec![0]));
    assert_eq!(told(&client.call(1, &given_up).await), (0, 3, None));
    assert_eq!(told(&client.call(1, &beating("b", 3)).await), (0, 3, Some(vec![1])));

    for version in 0..=1 {
        let request = ConsumerGroupDescribeRequest::default()
            .with_group_ids(vec![group(), GroupId(text("no-such-group"))])
            .with_include_authorized_operations(true);
        let mut response = client.call(version, &request).await;
        // The peer tells them in an order of its own.
        response.groups.sort_by_key(|described| described.group_id != group());
        let described = &response.groups[0];
        let state = (described.group_state.as_str(), described.group_epoch, described.assignment_epoch);
        assert_eq!((described.error_code, state), (0, ("Stable", 3, 3)));
        assert_eq!(described.assignor_name.as_str(), "uniform");
        let member = described.members.iter().find(|member| member.member_id.as_str() == "a").unwrap();
        assert_eq!((member.member_id.as_str(), member.member_epoch), ("a", 3));
        assert_eq!(member.client_host.as_str(), "/127.0.0.1");
        assert_eq!(member.assignment, member.target_assignment);
        let assigned = &member.assignment.topic_partitions[0];
        assert_eq!((&assigned.topic_name, &assigned.partitions[..]), (&topic(&own_name()), &[0][..]));
        assert_eq!(member.member_type, if version == 1 { 1 } else { -1 });
        assert_eq!(response.groups[1].error_code, GROUP_ID_NOT_FOUND);
    }
    let types = |name: &str| ListGroupsRequest::default().with_types_filter(vec![text(name)]);
    let mut listed = client.call(5, &types("Consumer")).await;
    listed.groups.retain(|listed| listed.group_id == group());
    assert_eq!(listed.groups.len(), 1);
    assert_eq!(
        (listed.groups[0].group_type.as_str(), listed.groups[0].group_state.as_str()),
        ("consumer", "Stable")
    );
    let classic = client.call(5, &types("classic")).await;
    assert!(classic.groups.iter().all(|listed| listed.group_id != group()));
    let classic = client.call(6, &DescribeGroupsRequest::default().with_groups(vec![group()])).await;
    assert_eq!(classic.groups[0].error_code, GROUP_ID_NOT_FOUND);
    assert_eq!(told(&client.call(1, &beating("b", -1)).await), (0, -1, None));
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let (_node, mut client, _) = node().await;
    // In version 0 the coordinator names the member.
    let named = client.call(0, &joining("")).await;
    assert_eq!((named.error_code, named.member_id.as_ref().map(|id| id.len())), (0, Some(22)));
    let joined = client.call(1, &joining("a").with_instance_id(Some(text("i")))).await;
    let epoch = joined.member_epoch;
    for (what, request, code) in [
        ("no id", joining(""), INVALID_REQUEST),
        ("no group", joining("a").with_group_id(GroupId::default()), INVALID_REQUEST),
        ("another group", beating("a", 2).with_group_id(GroupId(text("no-such-group"))), GROUP_ID_NOT_FOUND),
        ("assignor", joining("b").with_server_assignor(Some(text("sticky"))), UNSUPPORTED_ASSIGNOR),
        ("regex", joining("b").with_subscribed_topic_regex(Some(text("("))), INVALID_REGULAR_EXPRESSION),
        ("unknown", beating("b", 2), UNKNOWN_MEMBER_ID),
        ("epoch", beating("a", epoch + 1), FENCED_MEMBER_EPOCH),
        ("instance", joining("b").with_instance_id(Some(text("i"))), UNRELEASED_INSTANCE_ID),
    ] {
        let refused = client.call(1, &request).await;
        assert_eq!(refused.error_code, code, "{what}");
        assert!(refused.error_message.is_some_and(|message| !message.is_empty()), "{what}");
    }
}

#[tokio::test]
async fn offsets_are_committed_by_epoch() {
    let (_node, mut client, _) = node().await;
    client.call(1, &joining("a")).await;
    let commit = |member: &str, epoch: i32| {
        let offset = OffsetCommitRequestPartition::default().with_committed_offset(5);
        let of =
            OffsetCommitRequestTopic::default().with_name(topic(&own_name())).with_partitions(vec![offset]);
        OffsetCommitRequest::default()
            .with_group_id(group())
            .with_member_id(text(member))
            .with_generation_id_or_member_epoch(epoch)
            .with_topics(vec![of])
    };
    for (version, member, epoch, code) in [
        (9, "a", 3, STALE_MEMBER_EPOCH),
        (9, "b", 2, UNKNOWN_MEMBER_ID),
        (8, "a", 2, UNSUPPORTED_VERSION),
        (9, "a", 2, 0),
    ] {
        let response = client.call(version, &commit(member, epoch)).await;
        assert_eq!(response.topics[0].partitions[0].error_code, code, "version {version}, {member} {epoch}");
    }
    for (member, epoch, code) in [
        (Some("a"), 2, 0),
        (None, -1, 0),
        (Some("a"), 0, STALE_MEMBER_EPOCH),
        (Some("b"), 2, UNKNOWN_MEMBER_ID),
    ] {
        let asked =
            OffsetFetchRequestTopics::default().with_name(topic(&own_name())).with_partition_indexes(vec![0]);
        let of = OffsetFetchRequestGroup::default()
            .with_group_id(group())
            .with_member_id(member.map(text))
            .with_member_epoch(epoch)
            .with_topics(Some(vec![asked]));
        let response = client.call(9, &OffsetFetchRequest::default().with_groups(vec![of])).await;
        assert_eq!(response.groups[0].error_code, code, "{member:?} {epoch}");
        let found = response.groups[0].topics.first().map(|topic| topic.partitions[0].committed_offset);
        assert_eq!(found, (code == 0).then_some(5));
    }
}

#[tokio::test]
async fn a_group_has_settings_of_its_own() {
    let (_node, mut client, _) = node().await;
    let alter = |name: &str, value: Option<&str>| {
        let config = AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(if value.is_some() { 0 } else { 1 })
            .with_value(value.map(text));
        let resource = AlterConfigsResource::default()
            .with_resource_type(GROUP)
            .with_resource_name(text(&own_name()))
            .with_configs(vec![config]);
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    };
    let interval = "consumer.heartbeat.interval.ms";
    for (name, value, code) in [
        (interval, "7000", 0),
        (interval, "1", INVALID_CONFIG),
        ("consumer.session.timeout.ms", "1", INVALID_CONFIG),
        ("retention.ms", "1", INVALID_CONFIG),
    ] {
        let response = client.call(1, &alter(name, Some(value))).await;
        assert_eq!(response.responses[0].error_code, code, "{name}={value}");
    }
    let resource =
        DescribeConfigsResource::default().with_resource_type(GROUP).with_resource_name(text(&own_name()));
    let describe = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let shown = client.call(4, &describe).await;
    let ours = |name: &str| name.starts_with("consumer.") && !name.contains("offload");
    let shown = shown.results[0].configs.iter().filter(|config| ours(&config.name)).map(|config| {
        (config.name.to_string(), config.value.as_deref().map(str::to_owned), config.config_source)
    });
    let expected = [
        ("consumer.assignment.interval.ms", "1000", 5),
        (interval, "7000", 8),
        ("consumer.session.timeout.ms", "45000", 5),
    ];
    let expected = expected.map(|(name, value, source)| (name.to_owned(), Some(value.to_owned()), source));
    let mut shown: Vec<_> = shown.collect();
    shown.sort();
    assert_eq!(shown, expected);
    assert_eq!(client.call(1, &joining("a")).await.heartbeat_interval_ms, 7000);
    assert_eq!(client.call(1, &alter(interval, None)).await.responses[0].error_code, 0);
    assert_eq!(client.call(1, &beating("a", 2)).await.heartbeat_interval_ms, 5000);
}

#[tokio::test]
async fn the_feature_is_told() {
    let (_node, mut client, _) = node().await;
    for version in 0..=4 {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text("test"))
            .with_client_software_version(text("1"));
        let answer = client.call(version, &request).await;
        assert_eq!(answer.error_code, 0);
        let finalized =
            answer.finalized_features.iter().find(|feature| feature.name.as_str() == "group.version");
        assert_eq!(
            finalized.map(|feature| feature.max_version_level),
            (version >= 3).then_some(1),
            "{version}"
        );
        let supported =
            answer.supported_features.iter().any(|feature| feature.name.as_str() == "group.version");
        assert_eq!(supported, version >= 4, "{version}");
        assert_eq!(answer.finalized_features_epoch >= 0, version >= 3);
    }
}

#[tokio::test]
async fn a_static_member_leaves_for_a_while() {
    let (_node, mut client, id) = node().await;
    let of_i = |request: ConsumerGroupHeartbeatRequest| request.with_instance_id(Some(text("i")));
    let own = |response: &ConsumerGroupHeartbeatResponse| {
        let of = response.assignment.as_ref().map(|assigned| assigned.topic_partitions.clone());
        of.map(|of| of.iter().map(|of| (of.topic_id, of.partitions.len())).collect::<Vec<_>>())
    };
    let joined = client.call(1, &of_i(joining("a"))).await;
    assert_eq!((joined.member_epoch, own(&joined)), (2, Some(vec![(id, 2)])));
    let left = client.call(1, &of_i(beating("a", -2))).await;
    assert_eq!((left.error_code, left.member_epoch, left.heartbeat_interval_ms), (0, -2, 0));
    let back = client.call(1, &of_i(joining("b"))).await;
    assert_eq!((back.member_epoch, own(&back)), (2, Some(vec![(id, 2)])), "no new epoch");
    for (what, request, code) in [
        ("its former self", of_i(beating("a", 2)), FENCED_INSTANCE_ID),
        ("its former self, leaving", of_i(beating("a", -1)), FENCED_INSTANCE_ID),
        ("a name of nobody", beating("b", 2).with_instance_id(Some(text("j"))), UNKNOWN_MEMBER_ID),
        ("without its name", beating("b", 2), 0),
        ("nameless, for a while", beating("b", -2), INVALID_REQUEST),
        ("an epoch of nobody", beating("b", -3), INVALID_REQUEST),
        ("for good", of_i(beating("b", -1)), 0),
        ("again", of_i(beating("b", -1)), UNKNOWN_MEMBER_ID),
    ] {
        assert_eq!(client.call(1, &request).await.error_code, code, "{what}");
    }
}

#[tokio::test]
async fn a_subscription_by_regular_expression() {
    let (_node, mut client, id) = node().await;
    let pattern = own_name().replace("expression", "expr.*");
    let join =
        joining("a").with_subscribed_topic_names(None).with_subscribed_topic_regex(Some(text(&pattern)));
    let mut response = client.call(1, &join).await;
    assert_eq!(response.error_code, 0);
    // The peer resolves it a little later.
    let resolved = async {
        while response.assignment.as_ref().is_none_or(|assigned| assigned.topic_partitions.is_empty()) {
            response = client.call(1, &beating("a", response.member_epoch)).await;
        }
    };
    tokio::time::timeout(crate::client::SOON, resolved).await.expect("it is resolved");
    assert_eq!(response.assignment.unwrap().topic_partitions[0].topic_id, id);
    let described =
        client.call(1, &ConsumerGroupDescribeRequest::default().with_group_ids(vec![group()])).await;
    let member = &described.groups[0].members[0];
    assert_eq!(member.subscribed_topic_regex.as_deref(), Some(&*pattern));
    assert!(member.subscribed_topic_names.is_empty());
    // Who subscribes to nothing more gives up at once, whatever the assignor does.
    let none = beating("a", response.member_epoch).with_subscribed_topic_regex(Some(text("")));
    let response = client.call(1, &none).await;
    assert_eq!((response.error_code, told(&response).2), (0, Some(vec![])));
}

#[tokio::test]
async fn what_other_requests_say_of_the_group() {
    let (_node, mut client, _) = node().await;
    client.call(1, &joining("a")).await;
    let heartbeat = HeartbeatRequest::default().with_group_id(group()).with_member_id(text("x"));
    assert_eq!(client.call(4, &heartbeat).await.error_code, UNKNOWN_MEMBER_ID);
    let sync = SyncGroupRequest::default().with_group_id(group()).with_member_id(text("x"));
    assert_eq!(client.call(4, &sync).await.error_code, UNKNOWN_MEMBER_ID);
    let leaver = MemberIdentity::default().with_member_id(text("x"));
    let leave = LeaveGroupRequest::default().with_group_id(group()).with_members(vec![leaver]);
    assert_eq!(client.call(5, &leave).await.members[0].error_code, UNKNOWN_MEMBER_ID);
    let protocol =
        JoinGroupRequestProtocol::default().with_name(text("p")).with_metadata(Bytes::from_static(b"x"));
    let join = JoinGroupRequest::default()
        .with_group_id(group())
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_protocol_type(text("connect"))
        .with_protocols(vec![protocol]);
    assert_eq!(client.call(9, &join).await.error_code, INCONSISTENT_GROUP_PROTOCOL);
    let delete = DeleteGroupsRequest::default().with_groups_names(vec![group()]);
    assert_eq!(client.call(2, &delete).await.results[0].error_code, NON_EMPTY_GROUP);
    let partitions = vec![OffsetDeleteRequestPartition::default()];
    let of = OffsetDeleteRequestTopic::default().with_name(topic(&own_name())).with_partitions(partitions);
    let forget = OffsetDeleteRequest::default().with_group_id(group()).with_topics(vec![of]);
    let forgotten = client.call(0, &forget).await;
    assert_eq!(forgotten.topics[0].partitions[0].error_code, GROUP_SUBSCRIBED_TO_TOPIC);
    assert_eq!(client.call(1, &beating("a", -1)).await.error_code, 0);
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group()]);
    let described = client.call(1, &request).await;
    let empty = &described.groups[0];
    assert_eq!((empty.group_state.as_str(), empty.group_epoch, empty.assignment_epoch), ("Empty", 3, 2));
    // Nobody is in it: it may become one of the other protocol.
    let promised = client.call(9, &join).await;
    assert_eq!(promised.error_code, MEMBER_ID_REQUIRED);
    let joined = client.call(9, &join.with_member_id(promised.member_id)).await;
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert_eq!(client.call(1, &request).await.groups[0].error_code, GROUP_ID_NOT_FOUND);
    assert_eq!(client.call(1, &joining("a")).await.error_code, GROUP_ID_NOT_FOUND, "it is not of consumers");
}
