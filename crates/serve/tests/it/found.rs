//! What the differential tests (`crates/diff`) found that was answered otherwise than by Apache Kafka, case by case.
//!
//! As in `peer`: `ANABRANCH_PEER=127.0.0.1:19092 cargo test -p anabranch-serve --test it found` runs the same cases there.

use anabranch_wire::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use anabranch_wire::messages::delete_topics_request::DeleteTopicState;
use anabranch_wire::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use anabranch_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use anabranch_wire::messages::metadata_request::MetadataRequestTopic;
use anabranch_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use anabranch_wire::messages::*;
use bytes::Bytes;

use crate::client::{SOON, batch, fetch, ours_or_peer, own_name, produce, text, topic};

const UNKNOWN_SERVER_ERROR: i16 = -1;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const INVALID_REQUIRED_ACKS: i16 = 21;
const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
const INVALID_GROUP_ID: i16 = 24;
const UNKNOWN_MEMBER_ID: i16 = 25;
const UNSUPPORTED_VERSION: i16 = 35;
const INVALID_REQUEST: i16 = 42;
const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
const INVALID_RECORD: i16 = 87;

#[tokio::test]
async fn the_form_of_a_batch_is_judged_first() {
    let (_node, mut client) = ours_or_peer().await;
    client.create_topic(&own_name(), 1).await;
    let ready = async { while client.fetch(&own_name(), 0).await.error_code != 0 {} };
    tokio::time::timeout(SOON, ready).await.unwrap();
    let whole = batch(&["v"]);
    let twice: Bytes = [&whole[..], &whole[..]].concat().into();
    for (bytes, acks, code) in [
        (Bytes::new(), -1, INVALID_RECORD),
        (whole.slice(..whole.len() - 3), -1, INVALID_RECORD),
        (twice, 7, INVALID_RECORD),
        (whole.clone(), 7, INVALID_REQUIRED_ACKS),
    ] {
        let response = client.call(9, &produce(&own_name(), 0, acks, bytes)).await;
        let told = &response.responses[0].partition_responses[0];
        assert_eq!((told.error_code, told.log_start_offset), (code, -1), "acks {acks}");
    }
    // What claims to be transactional needs an id, wherever it goes.
    let mut transactional = whole.to_vec();
    transactional[22] |= 0x10;
    let response = client.call(9, &produce("no-such-topic", 0, -1, transactional.into())).await;
    let code = response.responses[0].partition_responses[0].error_code;
    assert_eq!(code, TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
}

#[tokio::test]
async fn an_unknown_isolation_level_is_an_unknown_error() {
    let (_node, mut client) = ours_or_peer().await;
    client.create_topic(&own_name(), 1).await;
    let ready = async { while client.fetch(&own_name(), 0).await.error_code != 0 {} };
    tokio::time::timeout(SOON, ready).await.unwrap();
    let asked = fetch(&own_name(), &[(0, 0)]).with_isolation_level(2);
    let fetched = client.call(12, &asked).await;
    assert_eq!(fetched.responses[0].partitions[0].error_code, UNKNOWN_SERVER_ERROR);
    let nowhere = client.call(12, &fetch("no-such-topic", &[(0, 0)]).with_isolation_level(2)).await;
    assert_eq!(nowhere.responses[0].partitions[0].error_code, UNKNOWN_TOPIC_OR_PARTITION);

    let locate = |index: i32, timestamp: i64| {
        let asked = ListOffsetsPartition::default().with_partition_index(index).with_timestamp(timestamp);
        let asked = ListOffsetsTopic::default().with_name(topic(&own_name())).with_partitions(vec![asked]);
        ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![asked])
    };
    let mut code =
        async |request: ListOffsetsRequest| client.call(3, &request).await.topics[0].partitions[0].error_code;
    assert_eq!(code(locate(0, -1).with_isolation_level(2)).await, UNKNOWN_SERVER_ERROR);
    assert_eq!(code(locate(7, -3)).await, UNSUPPORTED_VERSION, "before the partition is looked for");
    assert_eq!(code(locate(7, -1)).await, UNKNOWN_TOPIC_OR_PARTITION);
}

#[tokio::test]
async fn what_is_refused_says_none_were_aborted_or_nothing() {
    let (_node, mut client) = ours_or_peer().await;
    client.create_topic(&own_name(), 1).await;
    let ready = async { while client.fetch(&own_name(), 0).await.error_code != 0 {} };
    tokio::time::timeout(SOON, ready).await.unwrap();
    for (name, aborted) in [(own_name(), None), ("no-such-topic".to_owned(), Some(Vec::new()))] {
        let fetched = client.fetch(&name, 99).await;
        assert_eq!((fetched.error_code != 0, fetched.aborted_transactions), (true, aborted), "{name}");
    }
}

#[tokio::test]
async fn groups_are_told_as_in_kafka() {
    let (_node, mut client) = ours_or_peer().await;
    let group = GroupId(text(&own_name()));
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(&own_name())]);
    let ready = async { while client.call(4, &find).await.coordinators[0].error_code != 0 {} };
    tokio::time::timeout(SOON, ready).await.unwrap();
    assert_eq!(client.call(4, &find).await.coordinators[0].error_message.as_deref(), Some(""));
    let old = FindCoordinatorRequest::default().with_key(text(&own_name()));
    assert_eq!(client.call(3, &old).await.error_message.as_deref(), Some("NONE"));

    let describe = DescribeGroupsRequest::default()
        .with_groups(vec![group.clone()])
        .with_include_authorized_operations(true);
    let described = client.call(5, &describe).await.groups.remove(0);
    assert_eq!((described.group_state.as_str(), described.authorized_operations > 0), ("Dead", true));

    let sync = SyncGroupRequest::default().with_group_id(group).with_member_id(text("nobody"));
    assert_eq!(client.call(5, &sync).await.error_code, INCONSISTENT_GROUP_PROTOCOL);
    let said = sync.with_protocol_type(Some(text("consumer"))).with_protocol_name(Some(text("range")));
    assert_eq!(client.call(5, &said).await.error_code, UNKNOWN_MEMBER_ID);
    let long = OffsetCommitRequestPartition::default().with_committed_metadata(Some(text(&"m".repeat(5000))));
    let long = OffsetCommitRequestTopic::default().with_name(topic("t")).with_partitions(vec![long]);
    let commit = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(&own_name())))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![long]);
    let refused = client.call(7, &commit).await.topics[0].partitions[0].error_code;
    assert!(refused != 0);
    let listed = client.call(4, &ListGroupsRequest::default()).await.groups;
    assert!(listed.iter().all(|listed| listed.group_id.0.as_str() != own_name()), "nothing was committed");
    let nameless = ConsumerGroupDescribeRequest::default().with_group_ids(vec![GroupId::default()]);
    assert_eq!(client.call(0, &nameless).await.groups[0].error_code, INVALID_GROUP_ID);
}

#[tokio::test]
async fn what_comes_twice_or_from_elsewhere_is_refused() {
    let (_node, mut client) = ours_or_peer().await;
    client.create_topic(&own_name(), 1).await;
    let known = MetadataRequestTopic::default().with_name(Some(topic(&own_name())));
    let metadata = MetadataRequest::default().with_topics(Some(vec![known]));
    let ready = async { while client.call(12, &metadata).await.topics[0].error_code != 0 {} };
    tokio::time::timeout(SOON, ready).await.unwrap();

    let name = || DeleteTopicState::default().with_name(Some(topic(&own_name())));
    let delete = DeleteTopicsRequest::default().with_topics(vec![name(), name()]).with_timeout_ms(5000);
    let deleted = client.call(6, &delete).await.responses;
    assert_eq!((deleted.len(), deleted[0].error_code), (1, INVALID_REQUEST));

    let setting = AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("1000")));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(&own_name()))
        .with_configs(vec![setting.clone(), setting]);
    let alter = AlterConfigsRequest::default().with_resources(vec![resource]);
    assert_eq!(client.call(1, &alter).await.responses[0].error_code, INVALID_REQUEST);

    let page = DescribeTopicPartitionsRequest::default()
        .with_topics(vec![TopicRequest::default().with_name(topic(&own_name()))])
        .with_response_partition_limit(10);
    assert_eq!(client.call(0, &page).await.topics[0].error_code, 0);
    let at = Cursor::default().with_topic_name(topic(&own_name())).with_partition_index(0);
    for (cursor, code) in [
        (at.clone(), 0),
        (at.clone().with_topic_name(topic("a")), INVALID_REQUEST),
        (at.with_partition_index(-1), INVALID_REQUEST),
    ] {
        let page = page.clone().with_cursor(Some(cursor));
        assert_eq!(client.call(0, &page).await.topics[0].error_code, code);
    }

    for (name, code) in [("librdkafka", 0), ("a-1.2", 0), ("a b", INVALID_REQUEST), ("", INVALID_REQUEST)] {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text(name))
            .with_client_software_version(text("1"));
        assert_eq!(client.call(3, &request).await.error_code, code, "{name:?}");
    }
}
