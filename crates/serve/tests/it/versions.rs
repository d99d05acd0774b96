//! Every API in every version that is advertised: what comes back decodes, and is no refusal of the version.

use anabranch_wire::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use anabranch_wire::messages::alter_configs_request::AlterConfigsResource as AlterResource;
use anabranch_wire::messages::create_partitions_request::CreatePartitionsTopic;
use anabranch_wire::messages::create_topics_request::CreatableTopic;
use anabranch_wire::messages::delete_topics_request::DeleteTopicState;
use anabranch_wire::messages::describe_configs_request::DescribeConfigsResource;
use anabranch_wire::messages::describe_topic_partitions_request::TopicRequest;
use anabranch_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use anabranch_wire::messages::incremental_alter_configs_request::AlterConfigsResource as IncrementalResource;
use anabranch_wire::messages::join_group_request::JoinGroupRequestProtocol;
use anabranch_wire::messages::leave_group_request::MemberIdentity;
use anabranch_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use anabranch_wire::messages::metadata_request::MetadataRequestTopic;
use anabranch_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use anabranch_wire::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use anabranch_wire::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use anabranch_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use anabranch_wire::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use anabranch_wire::messages::*;
use anabranch_wire::protocol::StrBytes;

use crate::client::{Client, Node, api_versions, batch, topic};

const UNSUPPORTED_VERSION: i16 = 35;

fn group() -> GroupId {
    GroupId(StrBytes::from_static_str("g"))
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

async fn client() -> (Node, Client, uuid::Uuid) {
    let node = Node::start().await;
    let mut client = node.connect().await;
    client.create_topic("t", 2).await;
    let id = node.broker.topic("t").unwrap().id().0;
    (node, client, id)
}

#[tokio::test]
async fn data() {
    let (_node, mut client, id) = client().await;
    for version in 3..=13 {
        let data = PartitionProduceData::default().with_records(Some(batch(&["v"])));
        let mut data = TopicProduceData::default().with_partition_data(vec![data]);
        match version {
            13.. => data.topic_id = id,
            _ => data.name = topic("t"),
        }
        let request = ProduceRequest::default().with_acks(-1).with_topic_data(vec![data]);
        let response = client.call(version, &request).await;
        let produced = &response.responses[0].partition_responses[0];
        assert_eq!((produced.error_code, produced.base_offset), (0, i64::from(version) - 3), "{version}");
    }
    for version in 4..=18 {
        let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
        let mut asked = FetchTopic::default().with_partitions(vec![partition]);
        match version {
            13.. => asked.topic_id = id,
            _ => asked.topic = topic("t"),
        }
        let request = FetchRequest::default().with_max_bytes(1 << 20).with_topics(vec![asked]);
        let response = client.call(version, &request).await;
        let fetched = &response.responses[0].partitions[0];
        assert_eq!(
            (response.error_code, fetched.error_code, fetched.high_watermark),
            (0, 0, 11),
            "{version}"
        );
        assert_eq!(response.responses[0].topic_id == id, version >= 13);
        assert_eq!(fetched.records.as_ref().unwrap().len(), 11 * batch(&["v"]).len(), "{version}");
    }
    for version in 1..=10 {
        for (timestamp, expected, since) in
            [(-1, 11, 1), (-2, 0, 1), (1_000, 0, 1), (1_001, -1, 1), (-3, 0, 7), (-4, 0, 8), (-5, -1, 9)]
        {
            let asked = ListOffsetsPartition::default().with_timestamp(timestamp);
            let asked = ListOffsetsTopic::default().with_name(topic("t")).with_partitions(vec![asked]);
            let request = ListOffsetsRequest::default().with_topics(vec![asked]);
            let response = client.call(version, &request).await;
            let found = &response.topics[0].partitions[0];
            let expected = if version >= since { (0, expected) } else { (UNSUPPORTED_VERSION, -1) };
            assert_eq!(
                (found.error_code, found.offset),
                expected,
                "version {version}, timestamp {timestamp}"
            );
            let epoch = if version >= 4 && found.offset >= 0 { 0 } else { -1 };
            assert_eq!(found.leader_epoch, epoch);
        }
    }
}

#[tokio::test]
async fn topics() {
    let (node, mut client, id) = client().await;
    for version in 0..=13 {
        let asked = MetadataRequestTopic::default().with_name(Some(topic("t")));
        let mut request = MetadataRequest::default().with_topics(Some(vec![asked]));
        request.allow_auto_topic_creation = version < 4;
        let response = client.call(version, &request).await;
        let found = &response.topics[0];
        assert_eq!((found.error_code, found.partitions.len()), (0, 2), "{version}");
        assert_eq!(found.topic_id == id, version >= 10);
        assert_eq!(response.brokers[0].port, i32::from(node.server.kafka_addr().port()));
        assert_eq!(response.cluster_id.is_some(), version >= 2);
    }
    for version in 2..=7 {
        let name = format!("created-{version}");
        let asked = CreatableTopic::default()
            .with_name(topic(&name))
            .with_num_partitions(1)
            .with_replication_factor(1);
        let response = client.call(version, &CreateTopicsRequest::default().with_topics(vec![asked])).await;
        assert_eq!(response.topics[0].error_code, 0, "{version}: {response:?}");
        assert_eq!(response.topics[0].topic_id.is_nil(), version < 7);
    }
    for version in 0..=3 {
        let asked = CreatePartitionsTopic::default()
            .with_name(topic("created-2"))
            .with_count(i32::from(version) + 2)
            .with_assignments(None);
        let response =
            client.call(version, &CreatePartitionsRequest::default().with_topics(vec![asked])).await;
        assert_eq!(response.results[0].error_code, 0, "{version}: {response:?}");
    }
    for version in 1..=6 {
        let name = topic(&format!("created-{}", version + 1));
        let request = match version {
            6 => DeleteTopicsRequest::default()
                .with_topics(vec![DeleteTopicState::default().with_name(Some(name))]),
            _ => DeleteTopicsRequest::default().with_topic_names(vec![name]),
        };
        let response = client.call(version, &request.with_timeout_ms(1000)).await;
        assert_eq!(response.responses[0].error_code, 0, "{version}: {response:?}");
    }
    for version in 0..=2 {
        let response = client.call(version, &DescribeClusterRequest::default()).await;
        assert_eq!((response.error_code, response.brokers.len()), (0, 1), "{version}");
        assert_eq!(response.cluster_id.len(), 22);
    }
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(vec![TopicRequest::default().with_name(topic("t"))])
        .with_response_partition_limit(10);
    let described = client.call(0, &request).await.topics.remove(0);
    assert_eq!(described.partitions.len(), 2);
    // Java's admin client failed on null, which the schema allows and Kafka never sends.
    assert!(described.partitions.iter().all(|each| each.eligible_leader_replicas.is_some()));
    assert!(described.partitions.iter().all(|each| each.last_known_elr.is_some()));
}

#[tokio::test]
async fn configs_and_handshakes() {
    let (_node, mut client, _) = client().await;
    for version in 1..=4 {
        let asked = DescribeConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("t"))
            .with_configuration_keys(None);
        let request =
            DescribeConfigsRequest::default().with_resources(vec![asked]).with_include_synonyms(true);
        let response = client.call(version, &request).await;
        assert_eq!(response.results[0].error_code, 0, "{version}");
        let policy =
            response.results[0].configs.iter().find(|config| config.name.as_str() == "cleanup.policy");
        assert_eq!(policy.unwrap().value.as_deref(), Some("delete"), "{version}");
    }
    for version in 0..=2 {
        let asked = AlterResource::default().with_resource_type(2).with_resource_name(text("t"));
        let response =
            client.call(version, &AlterConfigsRequest::default().with_resources(vec![asked])).await;
        assert_eq!(response.responses[0].error_code, 0, "{version}");
    }
    for version in 0..=1 {
        let asked = IncrementalResource::default().with_resource_type(2).with_resource_name(text("t"));
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![asked]);
        assert_eq!(client.call(version, &request).await.responses[0].error_code, 0, "{version}");
    }
    let mut last = -1;
    for version in 0..=5 {
        let response =
            client.call(version, &InitProducerIdRequest::default().with_transactional_id(None)).await;
        assert_eq!((response.error_code, response.producer_epoch), (0, 0), "{version}");
        assert!(response.producer_id.0 > last, "an id is never given twice");
        last = response.producer_id.0;
    }
    let id = TransactionalId(text("id"));
    for version in 0..=5 {
        let init = InitProducerIdRequest::default()
            .with_transactional_id(Some(id.clone()))
            .with_transaction_timeout_ms(60_000);
        let began = client.call(version, &init).await;
        assert_eq!(began.error_code, 0, "{version}");
        let asked = AddPartitionsToTxnTopic::default().with_name(topic("t")).with_partitions(vec![0, 1]);
        let add = match version {
            4.. => AddPartitionsToTxnRequest::default().with_transactions(vec![
                AddPartitionsToTxnTransaction::default()
                    .with_transactional_id(id.clone())
                    .with_producer_id(began.producer_id)
                    .with_producer_epoch(began.producer_epoch)
                    .with_topics(vec![asked]),
            ]),
            _ => AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(id.clone())
                .with_v3_and_below_producer_id(began.producer_id)
                .with_v3_and_below_producer_epoch(began.producer_epoch)
                .with_v3_and_below_topics(vec![asked]),
        };
        let mut added = client.call(version, &add).await;
        let topics = match version {
            4.. => added.results_by_transaction.remove(0).topic_results,
            _ => added.results_by_topic_v3_and_below,
        };
        let codes: Vec<i16> =
            topics[0].results_by_partition.iter().map(|each| each.partition_error_code).collect();
        assert_eq!(codes, [0, 0], "{version}");
        let offsets = AddOffsetsToTxnRequest::default()
            .with_transactional_id(id.clone())
            .with_producer_id(began.producer_id)
            .with_producer_epoch(began.producer_epoch)
            .with_group_id(group());
        assert_eq!(client.call(version.min(4), &offsets).await.error_code, 0, "{version}");
        let partition = TxnOffsetCommitRequestPartition::default().with_committed_offset(version.into());
        let asked =
            TxnOffsetCommitRequestTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
        let commit = TxnOffsetCommitRequest::default()
            .with_transactional_id(id.clone())
            .with_group_id(group())
            .with_producer_id(began.producer_id)
            .with_producer_epoch(began.producer_epoch)
            .with_topics(vec![asked]);
        let committed = client.call(version, &commit).await;
        assert_eq!(committed.topics[0].partitions[0].error_code, 0, "{version}");
        let end = EndTxnRequest::default()
            .with_transactional_id(id.clone())
            .with_producer_id(began.producer_id)
            .with_producer_epoch(began.producer_epoch)
            .with_committed(true);
        let ended = client.call(version, &end).await;
        let next =
            if version >= 5 { (began.producer_id, began.producer_epoch + 1) } else { (ProducerId(-1), -1) };
        assert_eq!((ended.error_code, (ended.producer_id, ended.producer_epoch)), (0, next), "{version}");
    }
    for version in 0..=2 {
        let listed = client.call(version, &ListTransactionsRequest::default()).await;
        assert_eq!((listed.error_code, listed.transaction_states.len()), (0, 1), "{version}");
    }
    let asked = DescribeTransactionsRequest::default().with_transactional_ids(vec![id]);
    assert_eq!(client.call(0, &asked).await.transaction_states[0].error_code, 0);
    let asked = DescribeProducersRequest::default();
    assert!(client.call(0, &asked).await.topics.is_empty());
    assert!(client.call(1, &WriteTxnMarkersRequest::default()).await.markers.is_empty());
    const SECURITY_DISABLED: i16 = 54;
    for version in 1..=3 {
        let any = DescribeAclsRequest::default()
            .with_resource_type_filter(1)
            .with_operation(1)
            .with_permission_type(1);
        assert_eq!(client.call(version, &any).await.error_code, SECURITY_DISABLED, "{version}");
    }
    for version in 0..=4 {
        let response = client.call(version, &api_versions()).await;
        assert_eq!(response.api_keys.len(), anabranch_wire::apis().len(), "{version}");
    }
    for version in 0..=6 {
        let request = match version {
            4.. => FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g"), text("h")]),
            _ => FindCoordinatorRequest::default().with_key(text("g")),
        };
        let response = client.call(version, &request).await;
        assert_eq!(
            (response.error_code, response.coordinators.len()),
            (0, if version >= 4 { 2 } else { 0 }),
            "{version}"
        );
    }
}

#[tokio::test]
async fn groups() {
    let (_node, mut client, _) = client().await;
    for version in 2..=9 {
        let asked = OffsetCommitRequestPartition::default().with_committed_offset(i64::from(version));
        let asked = OffsetCommitRequestTopic::default().with_name(topic("t")).with_partitions(vec![asked]);
        let request = OffsetCommitRequest::default().with_group_id(group()).with_topics(vec![asked]);
        let response = client.call(version, &request).await;
        assert_eq!(response.topics[0].partitions[0].error_code, 0, "{version}");
    }
    for version in 1..=9 {
        let (code, offset) = match version {
            8.. => {
                let asked =
                    OffsetFetchRequestTopics::default().with_name(topic("t")).with_partition_indexes(vec![0]);
                let asked =
                    OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(Some(vec![asked]));
                let response =
                    client.call(version, &OffsetFetchRequest::default().with_groups(vec![asked])).await;
                let found = &response.groups[0].topics[0].partitions[0];
                (found.error_code, found.committed_offset)
            }
            _ => {
                let asked =
                    OffsetFetchRequestTopic::default().with_name(topic("t")).with_partition_indexes(vec![0]);
                let request =
                    OffsetFetchRequest::default().with_group_id(group()).with_topics(Some(vec![asked]));
                let response = client.call(version, &request).await;
                let found = &response.topics[0].partitions[0];
                (found.error_code, found.committed_offset)
            }
        };
        assert_eq!((code, offset), (0, 9), "{version}");
    }
    const UNKNOWN_MEMBER_ID: i16 = 25;
    for version in 0..=4 {
        let request = HeartbeatRequest::default().with_group_id(group()).with_member_id(text("m"));
        assert_eq!(client.call(version, &request).await.error_code, UNKNOWN_MEMBER_ID, "{version}");
    }
    for version in 0..=5 {
        let request = SyncGroupRequest::default().with_group_id(group()).with_member_id(text("m"));
        let request = match version {
            ..5 => request,
            // Which it must say since then.
            _ => request.with_protocol_type(Some(text("p"))).with_protocol_name(Some(text("p"))),
        };
        assert_eq!(client.call(version, &request).await.error_code, UNKNOWN_MEMBER_ID, "{version}");
        let request = LeaveGroupRequest::default().with_group_id(group());
        let code = match version {
            3.. => {
                let member = MemberIdentity::default().with_member_id(text("m"));
                client.call(version, &request.with_members(vec![member])).await.members[0].error_code
            }
            _ => client.call(version, &request.with_member_id(text("m"))).await.error_code,
        };
        assert_eq!(code, UNKNOWN_MEMBER_ID, "{version}");
    }
    for version in 0..=6 {
        let response =
            client.call(version, &DescribeGroupsRequest::default().with_groups(vec![group()])).await;
        assert_eq!(response.groups[0].group_state.as_str(), "Empty", "{version}");
    }
    for version in 0..=5 {
        let response = client.call(version, &ListGroupsRequest::default()).await;
        assert_eq!((response.error_code, response.groups.len()), (0, 1), "{version}");
    }
    for version in 0..=9 {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(bytes::Bytes::from_static(b"x"));
        let mut request = JoinGroupRequest::default()
            .with_group_id(GroupId(StrBytes::from_string(format!("join-{version}"))))
            .with_session_timeout_ms(10_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        if version >= 1 {
            request.rebalance_timeout_ms = 10_000;
        }
        let mut response = client.call(version, &request).await;
        if version >= 4 {
            assert_eq!(response.error_code, 79, "KIP-394: join again with the id");
            request.member_id = response.member_id.clone();
            response = client.call(version, &request).await;
        }
        assert_eq!((response.error_code, response.generation_id), (0, 1), "{version}");
        assert_eq!(response.leader, response.member_id);
        assert_eq!(response.protocol_name.as_deref(), Some("range"));
    }
    let asked = OffsetDeleteRequestTopic::default().with_name(topic("t")).with_partitions(vec![
        OffsetDeleteRequestPartition::default(),
        OffsetDeleteRequestPartition::default().with_partition_index(9),
    ]);
    let request = OffsetDeleteRequest::default().with_group_id(group()).with_topics(vec![asked]);
    let response = client.call(0, &request).await;
    let codes: Vec<i16> = response.topics[0].partitions.iter().map(|each| each.error_code).collect();
    assert_eq!((response.error_code, codes), (0, vec![0, 3]));
    for version in 0..=2 {
        let name = GroupId(StrBytes::from_string(format!("none-{version}")));
        let response =
            client.call(version, &DeleteGroupsRequest::default().with_groups_names(vec![name])).await;
        assert_eq!(response.results[0].error_code, 69, "{version}");
    }
}
