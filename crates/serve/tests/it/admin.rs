//! Topics, configs and the cluster, as tools ask for them.

use anabranch_wire::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use anabranch_wire::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use anabranch_wire::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use anabranch_wire::messages::delete_topics_request::DeleteTopicState;
use anabranch_wire::messages::describe_configs_request::DescribeConfigsResource;
use anabranch_wire::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use anabranch_wire::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use anabranch_wire::messages::metadata_request::MetadataRequestTopic;
use anabranch_wire::messages::*;

use crate::client::{Client, Node, text, topic};

const OFFSET_OUT_OF_RANGE: i16 = 1;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const INVALID_TOPIC_EXCEPTION: i16 = 17;
const TOPIC_ALREADY_EXISTS: i16 = 36;
const INVALID_PARTITIONS: i16 = 37;
const INVALID_REPLICATION_FACTOR: i16 = 38;
const INVALID_REPLICA_ASSIGNMENT: i16 = 39;
const INVALID_CONFIG: i16 = 40;
const INVALID_REQUEST: i16 = 42;
const POLICY_VIOLATION: i16 = 44;
const UNKNOWN_TOPIC_ID: i16 = 100;
const MISMATCHED_ENDPOINT_TYPE: i16 = 114;

fn asked(name: &str) -> MetadataRequestTopic {
    MetadataRequestTopic::default().with_name(Some(topic(name)))
}

/// The visible topics and their error codes.
async fn metadata(client: &mut Client, version: i16, request: MetadataRequest) -> Vec<(String, i16)> {
    let topics = client.call(version, &request).await.topics;
    let shown = topics
        .into_iter()
        .map(|topic| (topic.name.map_or(String::new(), |name| name.to_string()), topic.error_code));
    shown.filter(|(name, _)| !name.starts_with("__")).collect()
}

#[tokio::test]
async fn all_topics_none_and_some() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    client.create_topic("b", 1).await;
    client.create_topic("a", 1).await;
    let all = vec![("a".to_owned(), 0), ("b".to_owned(), 0)];
    let request =
        |topics| MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(true);
    assert_eq!(
        metadata(&mut client, 0, request(Some(Vec::new()))).await,
        all,
        "empty means all in version 0"
    );
    assert_eq!(metadata(&mut client, 1, request(Some(Vec::new()))).await, [], "and none after it");
    assert_eq!(metadata(&mut client, 1, request(None)).await, all);
    assert_eq!(metadata(&mut client, 13, request(None)).await, all);
    let some =
        request(Some(vec![asked("b"), asked("c"), asked("no/name")])).with_allow_auto_topic_creation(false);
    let expected = [("b", 0), ("c", UNKNOWN_TOPIC_OR_PARTITION), ("no/name", INVALID_TOPIC_EXCEPTION)];
    assert_eq!(metadata(&mut client, 4, some).await, expected.map(|(name, code)| (name.to_owned(), code)));
    // By id, from version 12.
    let id = node.broker.topic("a").unwrap().id().0;
    let by_id = |id| request(Some(vec![MetadataRequestTopic::default().with_name(None).with_topic_id(id)]));
    assert_eq!(metadata(&mut client, 12, by_id(id)).await, [("a".to_owned(), 0)]);
    assert_eq!(
        metadata(&mut client, 12, by_id(uuid::Uuid::from_u128(7))).await,
        [(String::new(), UNKNOWN_TOPIC_ID)]
    );
    assert_eq!(metadata(&mut client, 10, by_id(id)).await[0].1, INVALID_REQUEST);

    // Java's consumer, told by the coordinator which topics its regular expression finds, asks for their names by ids
    // that stand beside empty ones. It was told that "" is no topic, and threw.
    let beside = |name, id| MetadataRequestTopic::default().with_name(Some(topic(name))).with_topic_id(id);
    let nil = uuid::Uuid::nil();
    let asked = request(Some(vec![beside("", id), beside("b", nil)]));
    assert_eq!(metadata(&mut client, 12, asked).await, [("a".to_owned(), 0)]);
    let unknown = client.call(12, &request(Some(vec![beside("a", uuid::Uuid::from_u128(7))]))).await;
    assert_eq!((unknown.topics[0].error_code, &unknown.topics[0].name), (UNKNOWN_TOPIC_ID, &None));
}

#[tokio::test]
async fn topics_are_created_when_asked_for_if_everybody_agrees() {
    for (enabled, allowed, code) in [("true", true, 0), ("true", false, 3), ("false", true, 3)] {
        let node = Node::with(
            Default::default(),
            &[("auto.create.topics.enable", enabled), ("num.partitions", "3")],
        )
        .await;
        let mut client = node.connect().await;
        let request = MetadataRequest::default()
            .with_topics(Some(vec![asked("new")]))
            .with_allow_auto_topic_creation(allowed);
        let response = client.call(9, &request).await;
        let partitions = if code == 0 { 3 } else { 0 };
        assert_eq!((response.topics[0].error_code, response.topics[0].partitions.len()), (code, partitions));
    }
}

#[tokio::test]
async fn operations_are_told_only_when_asked_for() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    client.create_topic("t", 1).await;
    let request = MetadataRequest::default().with_topics(None);
    let response = client.call(8, &request).await;
    let nothing = (i32::MIN, i32::MIN);
    assert_eq!(
        (response.cluster_authorized_operations, response.topics[0].topic_authorized_operations),
        nothing
    );
    let request = request
        .with_include_cluster_authorized_operations(true)
        .with_include_topic_authorized_operations(true);
    let response = client.call(8, &request).await;
    // The numbers that Kafka gives without an authorizer.
    assert_eq!(response.cluster_authorized_operations, 8096);
    assert!(response.topics.iter().all(|topic| topic.topic_authorized_operations == 3576));
}

#[tokio::test]
async fn creating_topics() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    client.create_topic("there", 1).await;
    let new = |name: &str| {
        CreatableTopic::default().with_name(topic(name)).with_num_partitions(-1).with_replication_factor(-1)
    };
    let config = |name: &str, value: Option<&str>| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(value.map(text))
    };
    let assigned = |node: i32| CreatableReplicaAssignment::default().with_broker_ids(vec![BrokerId(node)]);
    let topics = vec![
        (new("fine").with_configs(vec![config("cleanup.policy", Some("compact"))]), 0),
        (new("there"), TOPIC_ALREADY_EXISTS),
        (new("no/name"), INVALID_TOPIC_EXCEPTION),
        (new("none").with_num_partitions(0), INVALID_PARTITIONS),
        (new("copies").with_replication_factor(3), INVALID_REPLICATION_FACTOR),
        (new("config").with_configs(vec![config("no.such.thing", Some("1"))]), INVALID_CONFIG),
        (new("value").with_configs(vec![config("retention.ms", Some("soon"))]), INVALID_CONFIG),
        (new("null").with_configs(vec![config("retention.ms", None)]), INVALID_CONFIG),
        (new("assigned").with_assignments(vec![assigned(1)]), 0),
        (new("elsewhere").with_assignments(vec![assigned(2)]), INVALID_REPLICA_ASSIGNMENT),
    ];
    let (asked, codes): (Vec<_>, Vec<_>) = topics.into_iter().unzip();
    let request = CreateTopicsRequest::default().with_topics(asked).with_validate_only(true);
    for only_validated in [true, false] {
        let response = client.call(7, &request.clone().with_validate_only(only_validated)).await;
        for (result, code) in response.topics.iter().zip(&codes) {
            assert_eq!(result.error_code, *code, "{only_validated}: {result:?}");
            assert_eq!(result.error_message.is_some(), *code != 0);
        }
        let fine = &response.topics[0];
        assert_eq!((fine.num_partitions, fine.replication_factor), (1, 1));
        assert_eq!(fine.topic_id.is_nil(), only_validated);
        let policy = fine
            .configs
            .as_ref()
            .unwrap()
            .iter()
            .find(|each| each.name.as_str() == "cleanup.policy")
            .unwrap();
        assert_eq!((policy.value.as_deref(), policy.config_source), (Some("compact"), 1));
        assert_eq!(node.broker.topic("fine").is_ok(), !only_validated);
    }
    let twice = CreateTopicsRequest::default().with_topics(vec![new("twice"), new("once"), new("twice")]);
    let response = client.call(7, &twice).await;
    let codes: Vec<_> = response.topics.iter().map(|each| (each.name.to_string(), each.error_code)).collect();
    assert_eq!(codes, [("twice".to_owned(), INVALID_REQUEST), ("once".to_owned(), 0)]);
}

#[tokio::test]
async fn deleting_topics_and_adding_partitions() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    client.create_topic("t", 2).await;
    client.create_topic("u", 1).await;
    let id = node.broker.topic("u").unwrap().id().0;
    let state = DeleteTopicState::default;
    for (what, asked, code) in [
        ("unknown", state().with_name(Some(topic("none"))), UNKNOWN_TOPIC_OR_PARTITION),
        ("unknown id", state().with_name(None).with_topic_id(uuid::Uuid::from_u128(7)), UNKNOWN_TOPIC_ID),
        ("both", state().with_name(Some(topic("t"))).with_topic_id(id), INVALID_REQUEST),
        ("neither", state().with_name(None), INVALID_REQUEST),
        ("by id", state().with_name(None).with_topic_id(id), 0),
    ] {
        let request = DeleteTopicsRequest::default().with_topics(vec![asked]).with_timeout_ms(1000);
        let response = client.call(6, &request).await;
        assert_eq!(response.responses[0].error_code, code, "{what}");
        if code == 0 {
            assert_eq!(response.responses[0].name, Some(topic("u")));
        }
    }
    let assigned = |node: i32| CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(node)]);
    for (what, name, count, assignments, code) in [
        ("unknown", "none", 3, None, UNKNOWN_TOPIC_OR_PARTITION),
        ("no more", "t", 2, None, INVALID_PARTITIONS),
        ("fewer", "t", 1, None, INVALID_PARTITIONS),
        ("assigned elsewhere", "t", 3, Some(vec![assigned(2)]), INVALID_REPLICA_ASSIGNMENT),
        ("too many assigned", "t", 3, Some(vec![assigned(1), assigned(1)]), INVALID_REPLICA_ASSIGNMENT),
        ("one more", "t", 3, Some(vec![assigned(1)]), 0),
    ] {
        let asked = CreatePartitionsTopic::default()
            .with_name(topic(name))
            .with_count(count)
            .with_assignments(assignments);
        let response = client.call(3, &CreatePartitionsRequest::default().with_topics(vec![asked])).await;
        assert_eq!(response.results[0].error_code, code, "{what}");
    }
    assert_eq!(node.broker.topic("t").unwrap().partition_count(), 3);
}

#[tokio::test]
async fn configs_are_shown_and_changed() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    client.create_topic("t", 1).await;
    let alter = |kind: i8, name: &str, configs: Vec<(&str, i8, Option<&str>)>| {
        let configs = configs.into_iter().map(|(name, op, value)| {
            AlterableConfig::default()
                .with_name(text(name))
                .with_config_operation(op)
                .with_value(value.map(text))
        });
        let resource =
            AlterConfigsResource::default().with_resource_type(kind).with_resource_name(text(name));
        let resource = resource.with_configs(configs.collect());
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    };
    let retention = ("retention.ms", 0, Some("1000"));
    for (what, request, code) in [
        ("set", alter(2, "t", vec![retention]), 0),
        ("append", alter(2, "t", vec![("cleanup.policy", 2, Some("compact"))]), 0),
        ("subtract", alter(2, "t", vec![("cleanup.policy", 3, Some("delete"))]), 0),
        ("unknown topic", alter(2, "none", vec![retention]), UNKNOWN_TOPIC_OR_PARTITION),
        ("unknown name", alter(2, "t", vec![("no.such.thing", 0, Some("1"))]), INVALID_CONFIG),
        ("bad value", alter(2, "t", vec![("retention.ms", 0, Some("soon"))]), INVALID_CONFIG),
        ("null", alter(2, "t", vec![("retention.ms", 0, None)]), INVALID_REQUEST),
        ("twice", alter(2, "t", vec![retention, retention]), INVALID_REQUEST),
        ("unknown operation", alter(2, "t", vec![("retention.ms", 9, Some("1"))]), INVALID_REQUEST),
        ("the broker", alter(4, "1", vec![("num.partitions", 0, Some("2"))]), INVALID_REQUEST),
        ("another broker", alter(4, "7", vec![]), INVALID_REQUEST),
        ("a logger", alter(8, "1", vec![]), INVALID_REQUEST),
    ] {
        let response = client.call(1, &request).await;
        assert_eq!(
            response.responses[0].error_code, code,
            "{what}: {:?}",
            response.responses[0].error_message
        );
    }
    let describe = |kind: i8, name: &str, keys: Option<Vec<&str>>| {
        let keys = keys.map(|keys| keys.into_iter().map(text).collect());
        let resource =
            DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(name));
        DescribeConfigsRequest::default()
            .with_resources(vec![resource.with_configuration_keys(keys)])
            .with_include_synonyms(true)
            .with_include_documentation(true)
    };
    let response = client.call(4, &describe(2, "t", Some(vec!["retention.ms", "cleanup.policy"]))).await;
    let mut shown: Vec<_> = response.results[0]
        .configs
        .iter()
        .map(|config| (config.name.as_str(), config.value.as_deref(), config.config_source))
        .collect();
    shown.sort_unstable();
    assert_eq!(shown, [("cleanup.policy", Some("compact"), 1), ("retention.ms", Some("1000"), 1)]);
    let retention =
        response.results[0].configs.iter().find(|config| config.name.as_str() == "retention.ms").unwrap();
    assert!(
        retention.synonyms.len() == 1
            && retention.documentation.as_ref().is_some_and(|text| !text.is_empty())
    );
    assert_eq!(retention.config_type, 5, "LONG");
    let response = client.call(4, &describe(4, "1", None)).await;
    assert!(
        response.results[0]
            .configs
            .iter()
            .any(|config| config.name.as_str() == "num.partitions" && config.read_only)
    );
    for (kind, name, code) in [
        (4, "", 0),
        (4, "2", INVALID_REQUEST),
        (2, "none", UNKNOWN_TOPIC_OR_PARTITION),
        (77, "x", INVALID_REQUEST),
    ] {
        assert_eq!(
            client.call(4, &describe(kind, name, None)).await.results[0].error_code,
            code,
            "{kind} {name}"
        );
    }
}

#[tokio::test]
async fn topics_page_by_page() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    for (name, partitions) in [("a", 3), ("b", 1), ("c", 4)] {
        client.create_topic(name, partitions).await;
    }
    let names = ["c", "a", "b", "none"].map(|name| TopicRequest::default().with_name(topic(name)));
    let mut request = DescribeTopicPartitionsRequest::default()
        .with_topics(names.to_vec())
        .with_response_partition_limit(2);
    let mut pages = Vec::new();
    loop {
        let response = client.call(0, &request).await;
        let page: Vec<(String, i16, Vec<i32>)> = response
            .topics
            .iter()
            .map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| partition.partition_index).collect();
                (topic.name.as_ref().unwrap().to_string(), topic.error_code, partitions)
            })
            .collect();
        pages.push(page);
        let Some(next) = response.next_cursor else { break };
        request.cursor = Some(
            Cursor::default().with_topic_name(next.topic_name).with_partition_index(next.partition_index),
        );
    }
    let all = |name: &str, partitions: &[i32]| (name.to_owned(), 0, partitions.to_vec());
    assert_eq!(
        pages,
        [
            vec![all("a", &[0, 1])],
            vec![all("a", &[2]), all("b", &[0])],
            vec![all("c", &[0, 1])],
            vec![all("c", &[2, 3])],
            vec![("none".to_owned(), UNKNOWN_TOPIC_OR_PARTITION, Vec::new())],
        ]
    );
}

#[tokio::test]
async fn what_is_not_there_is_said_honestly() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    for (kind, code) in [(0, 0), (1, 0), (2, INVALID_REQUEST)] {
        let request =
            FindCoordinatorRequest::default().with_key_type(kind).with_coordinator_keys(vec![text("x")]);
        let found = &client.call(6, &request).await.coordinators[0];
        assert_eq!((found.error_code, found.port > 0), (code, code == 0), "{kind}");
    }
    let response = client.call(2, &DescribeClusterRequest::default().with_endpoint_type(2)).await;
    assert_eq!(response.error_code, MISMATCHED_ENDPOINT_TYPE);
}

#[tokio::test]
async fn records_are_deleted_in_every_version_by_kafkas_rules() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    client.create_topic("t", 2).await;
    let table = CreatableTopic::default()
        .with_name(topic("table"))
        .with_num_partitions(1)
        .with_replication_factor(1)
        .with_configs(vec![
            CreatableTopicConfig::default()
                .with_name(text("cleanup.policy"))
                .with_value(Some(text("compact"))),
        ]);
    let created = client.call(7, &CreateTopicsRequest::default().with_topics(vec![table])).await;
    assert_eq!(created.topics[0].error_code, 0);
    for number in 0..10 {
        let record = anabranch_broker::Record::new("k", format!("v{number}"));
        let to = node.broker.topic("t").unwrap();
        to.append_batch(0, vec![record], anabranch_broker::Ack::Durable).await.unwrap();
    }
    for (version, offset, low_watermark) in [(0, 2, 2), (1, 5, 5), (2, 1, 5), (2, -1, 10)] {
        let partition = |index: i32, offset: i64| {
            DeleteRecordsPartition::default().with_partition_index(index).with_offset(offset)
        };
        let asked = |name: &str, partitions| {
            DeleteRecordsTopic::default().with_name(topic(name)).with_partitions(partitions)
        };
        let request = DeleteRecordsRequest::default().with_topics(vec![
            asked("t", vec![partition(0, offset), partition(1, 1), partition(1, -2), partition(2, 0)]),
            asked("table", vec![partition(0, -1)]),
            asked("__consumer_offsets", vec![partition(0, 0)]),
            asked("none", vec![partition(0, 0)]),
        ]);
        let response = client.call(version, &request).await;
        let answers: Vec<(i64, i16)> = response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|partition| (partition.low_watermark, partition.error_code))
            .collect();
        let expected = [
            (low_watermark, 0),
            (-1, OFFSET_OUT_OF_RANGE),
            (-1, OFFSET_OUT_OF_RANGE),
            (-1, UNKNOWN_TOPIC_OR_PARTITION),
            (-1, POLICY_VIOLATION),
            (-1, INVALID_TOPIC_EXCEPTION),
            (-1, UNKNOWN_TOPIC_OR_PARTITION),
        ];
        assert_eq!(answers, expected, "version {version}");
    }
    assert_eq!(node.broker.topic("t").unwrap().partition(0).unwrap().offsets().log_start.0, 10);
}
