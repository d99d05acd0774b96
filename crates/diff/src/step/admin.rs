//! Topics, settings, and what tools ask of the cluster.

use anabranch_wire::messages::alter_configs_request::{
    AlterConfigsResource as Altered, AlterableConfig as AlteredConfig,
};
use anabranch_wire::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use anabranch_wire::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
use anabranch_wire::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use anabranch_wire::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use anabranch_wire::messages::delete_topics_request::DeleteTopicState;
use anabranch_wire::messages::describe_configs_request::DescribeConfigsResource;
use anabranch_wire::messages::describe_log_dirs_request::DescribableLogDirTopic;
use anabranch_wire::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use anabranch_wire::messages::elect_leaders_request::TopicPartitions;
use anabranch_wire::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use anabranch_wire::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use anabranch_wire::messages::metadata_request::MetadataRequestTopic;
use anabranch_wire::messages::update_features_request::FeatureUpdateKey;
use anabranch_wire::messages::*;
use anabranch_wire::protocol::StrBytes;
use anabranch_wire::{Request, Response};
use proptest::prelude::*;
use proptest::sample::select;

use super::{Call, Group, Step, Topic, by_topic, group, mostly, partition, place, places, step, topic};
use crate::client::text;
use crate::side::State;

/// What both sides have as their only node.
pub const NODE: i32 = 1;

/// A request about topics, settings or the cluster.
#[derive(Debug, Clone)]
pub enum Admin {
    /// Makes topics.
    CreateTopics {
        /// Which.
        topics: Vec<NewTopic>,
        /// Or only looks.
        validate_only: bool,
    },
    /// Removes topics.
    DeleteTopics {
        /// Which.
        topics: Vec<Topic>,
        /// By id, where the version can.
        by_id: bool,
    },
    /// Gives a topic more partitions.
    CreatePartitions {
        /// Which, how many, where.
        topics: Vec<(Topic, i32, Option<Assignment>)>,
        /// Or only looks.
        validate_only: bool,
    },
    /// Where topics are.
    Metadata {
        /// Which; `None` for all.
        topics: Option<Vec<Topic>>,
        /// By id, where the version can.
        by_id: bool,
        /// What the client may do.
        operations: bool,
    },
    /// The same, in pages.
    DescribeTopicPartitions {
        /// Which.
        topics: Vec<Topic>,
        /// Partitions in one page.
        limit: i32,
        /// Where the page begins.
        cursor: Option<(Topic, i32)>,
    },
    /// The nodes.
    DescribeCluster {
        /// Brokers or controllers.
        endpoint_type: i8,
        /// What the client may do.
        operations: bool,
    },
    /// Settings.
    DescribeConfigs {
        /// Whose, and which.
        resources: Vec<(Resource, Option<Vec<&'static str>>)>,
        /// With where they come from.
        synonyms: bool,
        /// With what they are for.
        documentation: bool,
    },
    /// Replaces all settings.
    AlterConfigs {
        /// Whose, and by what.
        resources: Vec<(Resource, Vec<Setting>)>,
        /// Or only looks.
        validate_only: bool,
    },
    /// Changes some settings.
    IncrementalAlterConfigs {
        /// Whose, how, and which.
        resources: Vec<(Resource, Vec<(i8, Setting)>)>,
        /// Or only looks.
        validate_only: bool,
    },
    /// Who may have settings.
    ListConfigResources {
        /// Of which types.
        types: Vec<i8>,
    },
    /// Elects leaders.
    ElectLeaders {
        /// Preferred or unclean.
        election_type: i8,
        /// Of which; `None` for all.
        of: Option<Vec<(Topic, i32)>>,
    },
    /// Moves replicas.
    AlterPartitionReassignments {
        /// Where to; `None` to cancel.
        to: Vec<(Topic, i32, Option<Vec<i32>>)>,
    },
    /// What moves.
    ListPartitionReassignments {
        /// Of which; `None` for all.
        of: Option<Vec<(Topic, i32)>>,
    },
    /// What is on the disk.
    DescribeLogDirs {
        /// Of which; `None` for all.
        of: Option<Vec<(Topic, i32)>>,
    },
    /// Moves replicas to another directory.
    AlterReplicaLogDirs {
        /// A directory that is not there.
        of: Vec<(Topic, i32)>,
    },
    /// Features, without changing them.
    UpdateFeatures {
        /// Name, level, kind of change.
        updates: Vec<(&'static str, i16, i8)>,
    },
    /// Who may do what.
    DescribeAcls {
        /// Any, topic, group, ...
        resource_type: i8,
    },
    /// What is served.
    ApiVersions {
        /// The client's name for itself.
        software: &'static str,
    },
}

/// A topic to be made.
#[derive(Debug, Clone)]
pub struct NewTopic {
    /// Which.
    pub topic: Topic,
    /// How many.
    pub partitions: i32,
    /// How many replicas.
    pub replication: i16,
    /// Where.
    pub assignment: Option<Assignment>,
    /// Its settings.
    pub settings: Vec<Setting>,
}

/// Where replicas are put by hand: one partition after the other.
pub type Assignment = Vec<Vec<i32>>;

/// A setting and its value.
pub type Setting = (&'static str, Option<&'static str>);

/// What has settings.
#[derive(Debug, Clone, Copy)]
pub enum Resource {
    /// A topic.
    Topic(Topic),
    /// The node, by its id or by another name.
    Broker(&'static str),
    /// A group.
    Group(Group),
    /// Of a type of that number.
    Other(i8),
}

impl Resource {
    fn named(self, state: &State) -> (i8, StrBytes) {
        match self {
            Self::Topic(topic) => (2, state.topic(topic).0),
            Self::Broker(name) => (4, text(name)),
            Self::Group(group) => (32, state.group(group).0),
            Self::Other(number) => (number, text("r")),
        }
    }
}

fn nodes(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

fn value(value: Option<&str>) -> Option<StrBytes> {
    value.map(text)
}

fn partitions_of(places: &[(Topic, i32)]) -> Vec<(Topic, Vec<i32>)> {
    let places: Vec<_> = places.iter().map(|(topic, partition)| (*topic, *partition, ())).collect();
    let grouped = by_topic(&places).into_iter();
    grouped.map(|(topic, all)| (topic, all.into_iter().map(|(partition, ())| partition).collect())).collect()
}

impl NewTopic {
    fn request(&self, state: &State) -> CreatableTopic {
        let assignments = self.assignment.iter().flatten().enumerate().map(|(partition, replicas)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(partition as i32)
                .with_broker_ids(nodes(replicas))
        });
        let configs = self
            .settings
            .iter()
            .map(|(name, set)| CreatableTopicConfig::default().with_name(text(name)).with_value(value(*set)));
        CreatableTopic::default()
            .with_name(state.topic(self.topic))
            .with_num_partitions(self.partitions)
            .with_replication_factor(self.replication)
            .with_assignments(assignments.collect())
            .with_configs(configs.collect())
    }
}

impl Admin {
    pub(super) fn key(&self) -> ApiKey {
        match self {
            Self::CreateTopics { .. } => ApiKey::CreateTopics,
            Self::DeleteTopics { .. } => ApiKey::DeleteTopics,
            Self::CreatePartitions { .. } => ApiKey::CreatePartitions,
            Self::Metadata { .. } => ApiKey::Metadata,
            Self::DescribeTopicPartitions { .. } => ApiKey::DescribeTopicPartitions,
            Self::DescribeCluster { .. } => ApiKey::DescribeCluster,
            Self::DescribeConfigs { .. } => ApiKey::DescribeConfigs,
            Self::AlterConfigs { .. } => ApiKey::AlterConfigs,
            Self::IncrementalAlterConfigs { .. } => ApiKey::IncrementalAlterConfigs,
            Self::ListConfigResources { .. } => ApiKey::ListConfigResources,
            Self::ElectLeaders { .. } => ApiKey::ElectLeaders,
            Self::AlterPartitionReassignments { .. } => ApiKey::AlterPartitionReassignments,
            Self::ListPartitionReassignments { .. } => ApiKey::ListPartitionReassignments,
            Self::DescribeLogDirs { .. } => ApiKey::DescribeLogDirs,
            Self::AlterReplicaLogDirs { .. } => ApiKey::AlterReplicaLogDirs,
            Self::UpdateFeatures { .. } => ApiKey::UpdateFeatures,
            Self::DescribeAcls { .. } => ApiKey::DescribeAcls,
            Self::ApiVersions { .. } => ApiKey::ApiVersions,
        }
    }

    pub(super) fn request(&self, version: i16, state: &State) -> Request {
        match self {
            Self::CreateTopics { topics, validate_only } => CreateTopicsRequest::default()
                .with_topics(topics.iter().map(|topic| topic.request(state)).collect())
                .with_timeout_ms(10_000)
                .with_validate_only(*validate_only)
                .into(),
            Self::DeleteTopics { topics, by_id } => {
                let request = DeleteTopicsRequest::default().with_timeout_ms(10_000);
                let each = topics.iter().copied();
                match version {
                    ..6 => request.with_topic_names(each.map(|topic| state.topic(topic)).collect()),
                    _ => {
                        let states = each.map(|topic| match by_id {
                            true => DeleteTopicState::default().with_topic_id(state.topic_id(topic)),
                            false => DeleteTopicState::default().with_name(Some(state.topic(topic))),
                        });
                        request.with_topics(states.collect())
                    }
                }
                .into()
            }
            Self::CreatePartitions { topics, validate_only } => {
                let topics = topics.iter().map(|(topic, count, assignment)| {
                    let assignments = assignment.as_ref().map(|assignment| {
                        let each = assignment.iter();
                        each.map(|to| CreatePartitionsAssignment::default().with_broker_ids(nodes(to)))
                            .collect()
                    });
                    CreatePartitionsTopic::default()
                        .with_name(state.topic(*topic))
                        .with_count(*count)
                        .with_assignments(assignments)
                });
                CreatePartitionsRequest::default()
                    .with_topics(topics.collect())
                    .with_timeout_ms(10_000)
                    .with_validate_only(*validate_only)
                    .into()
            }
            Self::Metadata { topics, by_id, operations } => {
                let asked = topics.as_ref().map(|topics| {
                    let each = topics.iter().map(|topic| match *by_id && version >= 12 {
                        true => MetadataRequestTopic::default()
                            .with_topic_id(state.topic_id(*topic))
                            .with_name(None),
                        false => MetadataRequestTopic::default().with_name(Some(state.topic(*topic))),
                    });
                    each.collect()
                });
                // Version 0 says "all" by an empty list.
                let asked = if version == 0 { Some(asked.unwrap_or_default()) } else { asked };
                MetadataRequest::default()
                    .with_topics(asked)
                    .with_allow_auto_topic_creation(version < 4)
                    .with_include_cluster_authorized_operations(*operations && (8..=10).contains(&version))
                    .with_include_topic_authorized_operations(*operations && version >= 8)
                    .into()
            }
            Self::DescribeTopicPartitions { topics, limit, cursor } => {
                // Kafka fails on a topic without a name, and all topics are those of other cases too.
                let is_named = topics.iter().any(|topic| *topic != Topic::Empty);
                let topics = if is_named { &topics[..] } else { &[Topic::A] };
                let topics = topics
                    .iter()
                    .filter(|topic| **topic != Topic::Empty)
                    .map(|topic| TopicRequest::default().with_name(state.topic(*topic)))
                    .collect();
                let cursor = cursor.map(|(topic, partition)| {
                    Cursor::default().with_topic_name(state.topic(topic)).with_partition_index(partition)
                });
                DescribeTopicPartitionsRequest::default()
                    .with_topics(topics)
                    .with_response_partition_limit(*limit)
                    .with_cursor(cursor)
                    .into()
            }
            Self::DescribeCluster { endpoint_type, operations } => DescribeClusterRequest::default()
                .with_include_cluster_authorized_operations(*operations)
                .with_endpoint_type(if version >= 1 { *endpoint_type } else { 1 })
                .into(),
            Self::DescribeConfigs { resources, synonyms, documentation } => {
                let resources = resources.iter().map(|(resource, keys)| {
                    let (resource_type, name) = resource.named(state);
                    let keys = keys.as_ref().map(|keys| keys.iter().copied().map(text).collect());
                    DescribeConfigsResource::default()
                        .with_resource_type(resource_type)
                        .with_resource_name(name)
                        .with_configuration_keys(keys)
                });
                DescribeConfigsRequest::default()
                    .with_resources(resources.collect())
                    .with_include_synonyms(*synonyms)
                    .with_include_documentation(*documentation && version >= 3)
                    .into()
            }
            Self::AlterConfigs { resources, validate_only } => {
                let resources = resources.iter().map(|(resource, settings)| {
                    let (resource_type, name) = resource.named(state);
                    let configs = settings.iter().map(|(name, set)| {
                        AlteredConfig::default().with_name(text(name)).with_value(value(*set))
                    });
                    Altered::default()
                        .with_resource_type(resource_type)
                        .with_resource_name(name)
                        .with_configs(configs.collect())
                });
                AlterConfigsRequest::default()
                    .with_resources(resources.collect())
                    .with_validate_only(*validate_only)
                    .into()
            }
            Self::IncrementalAlterConfigs { resources, validate_only } => {
                let resources = resources.iter().map(|(resource, settings)| {
                    let (resource_type, name) = resource.named(state);
                    let configs = settings.iter().map(|(operation, (name, set))| {
                        AlterableConfig::default()
                            .with_config_operation(*operation)
                            .with_name(text(name))
                            .with_value(value(*set))
                    });
                    AlterConfigsResource::default()
                        .with_resource_type(resource_type)
                        .with_resource_name(name)
                        .with_configs(configs.collect())
                });
                IncrementalAlterConfigsRequest::default()
                    .with_resources(resources.collect())
                    .with_validate_only(*validate_only)
                    .into()
            }
            Self::ListConfigResources { types } => {
                let types = if version >= 1 { types.clone() } else { Vec::new() };
                ListConfigResourcesRequest::default().with_resource_types(types).into()
            }
            Self::ElectLeaders { election_type, of } => {
                let of = of.as_ref().map(|of| {
                    let each = partitions_of(of).into_iter().map(|(topic, partitions)| {
                        TopicPartitions::default().with_topic(state.topic(topic)).with_partitions(partitions)
                    });
                    each.collect()
                });
                ElectLeadersRequest::default()
                    .with_election_type(if version >= 1 { *election_type } else { 0 })
                    .with_topic_partitions(of)
                    .with_timeout_ms(5000)
                    .into()
            }
            Self::AlterPartitionReassignments { to } => {
                let topics = by_topic(to).into_iter().map(|(topic, partitions)| {
                    let each = partitions.into_iter().map(|(partition, replicas)| {
                        ReassignablePartition::default()
                            .with_partition_index(partition)
                            .with_replicas(replicas.map(|replicas| nodes(&replicas)))
                    });
                    ReassignableTopic::default().with_name(state.topic(topic)).with_partitions(each.collect())
                });
                AlterPartitionReassignmentsRequest::default()
                    .with_timeout_ms(5000)
                    .with_topics(topics.collect())
                    .into()
            }
            Self::ListPartitionReassignments { of } => {
                let of = of.as_ref().map(|of| {
                    let each = partitions_of(of).into_iter().map(|(topic, partitions)| {
                        ListPartitionReassignmentsTopics::default()
                            .with_name(state.topic(topic))
                            .with_partition_indexes(partitions)
                    });
                    each.collect()
                });
                ListPartitionReassignmentsRequest::default().with_timeout_ms(5000).with_topics(of).into()
            }
            Self::DescribeLogDirs { of } => {
                let of = of.as_ref().map(|of| {
                    let each = partitions_of(of).into_iter().map(|(topic, partitions)| {
                        DescribableLogDirTopic::default()
                            .with_topic(state.topic(topic))
                            .with_partitions(partitions)
                    });
                    each.collect()
                });
                DescribeLogDirsRequest::default().with_topics(of).into()
            }
            Self::AlterReplicaLogDirs { of } => {
                let topics = partitions_of(of).into_iter().map(|(topic, partitions)| {
                    AlterReplicaLogDirTopic::default()
                        .with_name(state.topic(topic))
                        .with_partitions(partitions)
                });
                let directory =
                    AlterReplicaLogDir::default().with_path(text("/nowhere")).with_topics(topics.collect());
                AlterReplicaLogDirsRequest::default().with_dirs(vec![directory]).into()
            }
            Self::UpdateFeatures { updates } => {
                let updates = updates.iter().map(|(feature, level, kind)| {
                    // Version 0 cannot only look, and what Kafka's cluster can do is the same for all cases.
                    let level = if version == 0 && lowers(feature, *level) { 99 } else { *level };
                    let update =
                        FeatureUpdateKey::default().with_feature(text(feature)).with_max_version_level(level);
                    match version {
                        0 => update.with_allow_downgrade(*kind != 1),
                        _ => update.with_upgrade_type(*kind),
                    }
                });
                UpdateFeaturesRequest::default()
                    .with_timeout_ms(5000)
                    .with_feature_updates(updates.collect())
                    .with_validate_only(version >= 1)
                    .into()
            }
            Self::DescribeAcls { resource_type } => DescribeAclsRequest::default()
                .with_resource_type_filter(*resource_type)
                .with_pattern_type_filter(1)
                .with_operation(1)
                .with_permission_type(1)
                .into(),
            Self::ApiVersions { software } => {
                let said = if version >= 3 { text(software) } else { text("") };
                ApiVersionsRequest::default()
                    .with_client_software_name(said.clone())
                    .with_client_software_version(said)
                    .into()
            }
        }
    }
}

impl Admin {
    pub(super) fn learn(&self, response: &Response, state: &mut State) {
        let (Self::CreateTopics { topics, validate_only: false }, Response::CreateTopics(response)) =
            (self, response)
        else {
            return;
        };
        for new in topics {
            let name = state.topic(new.topic);
            if let Some(made) = response.topics.iter().find(|each| each.name == name) {
                state.set_topic_id(new.topic, made.topic_id);
            }
        }
    }
}

/// The topics that most cases begin with.
#[must_use]
pub fn first_topics() -> Step {
    let plain = |topic, partitions| NewTopic {
        topic,
        partitions,
        replication: 1,
        assignment: None,
        settings: Vec::new(),
    };
    let topics = vec![plain(Topic::A, 2), plain(Topic::B, 1)];
    Step { version: 7, call: Call::Admin(Admin::CreateTopics { topics, validate_only: false }) }
}

/// What both have, and obey.
const SETTINGS: &[Setting] = &[
    ("retention.ms", Some("3600000")),
    ("cleanup.policy", Some("compact")),
    ("cleanup.policy", Some("delete")),
    ("cleanup.policy", Some("compact,delete")),
    ("max.message.bytes", Some("200")),
    ("message.timestamp.type", Some("LogAppendTime")),
    ("compression.type", Some("gzip")),
    ("compression.type", Some("uncompressed")),
    ("message.timestamp.after.max.ms", Some("1")),
    ("segment.ms", Some("600000")),
    ("min.compaction.lag.ms", Some("5")),
];
const BAD_SETTINGS: &[Setting] = &[
    ("retention.ms", Some("-2")),
    ("retention.ms", Some("")),
    ("retention.ms", None),
    ("cleanup.policy", Some("burn")),
    ("cleanup.policy", Some("")),
    ("max.message.bytes", Some("-1")),
    ("max.message.bytes", Some("1.5")),
    ("compression.type", Some("rar")),
    ("no.such.setting", Some("1")),
    ("", Some("1")),
    ("unclean.leader.election.enable", Some("perhaps")),
    ("min.cleanable.dirty.ratio", Some("2")),
];
const NAMES: &[&str] = &[
    "retention.ms",
    "cleanup.policy",
    "max.message.bytes",
    "compression.type",
    "message.timestamp.type",
    "min.insync.replicas",
    "no.such.setting",
];

fn settings(most: usize) -> impl Strategy<Value = Vec<Setting>> {
    proptest::collection::vec(prop_oneof![3 => select(SETTINGS), 1 => select(BAD_SETTINGS)], 0..=most)
        .prop_map(|mut settings| {
            settings.sort_by_key(|(name, _)| *name);
            settings.dedup_by_key(|(name, _)| *name);
            settings
        })
}

fn assignment() -> impl Strategy<Value = Option<Assignment>> {
    let replicas = prop_oneof![
        6 => Just(vec![NODE]),
        1 => Just(vec![]),
        1 => Just(vec![NODE, NODE]),
        1 => Just(vec![7]),
        1 => Just(vec![NODE, 7]),
    ];
    prop_oneof![8 => Just(None), 1 => proptest::collection::vec(replicas, 1..3).prop_map(Some)]
}

/// Some topics to be looked at, none twice.
fn shown_topics() -> impl Strategy<Value = Vec<Topic>> + Clone {
    some(prop_oneof![9 => any_topic(), 1 => Just(Topic::Internal)])
}

/// Some topics to be changed, none twice.
fn topics() -> impl Strategy<Value = Vec<Topic>> + Clone {
    some(any_topic())
}

fn some(topic: impl Strategy<Value = Topic> + Clone) -> impl Strategy<Value = Vec<Topic>> + Clone {
    proptest::collection::vec(topic, 0..3).prop_map(|mut topics| {
        topics.sort_unstable();
        topics.dedup();
        topics
    })
}

/// Here the others matter as much.
fn any_topic() -> impl Strategy<Value = Topic> + Clone {
    use Topic::{A, B, Dots, Empty, Illegal, Never};
    prop_oneof![4 => topic(), 1 => select(&[A, B, Never, Never, Dots, Illegal, Empty][..])]
}

fn new_topic() -> impl Strategy<Value = NewTopic> {
    let counts = (mostly(&[1, 2, -1], &[0, -2]), mostly(&[1, 1, -1], &[0, 2, -2]));
    // Manual assignments come with -1 for both, mostly.
    (any_topic(), counts, assignment(), settings(2), any::<bool>()).prop_map(
        |(topic, (partitions, replication), assignment, settings, agrees)| {
            let (partitions, replication) =
                if assignment.is_some() && agrees { (-1, -1) } else { (partitions, replication) };
            NewTopic { topic, partitions, replication, assignment, settings }
        },
    )
}

fn distinct<T: std::fmt::Debug + Clone>(
    each: impl Strategy<Value = T>,
    topic_of: impl Fn(&T) -> Topic + Clone,
) -> impl Strategy<Value = Vec<T>> {
    proptest::collection::vec(each, 1..3).prop_map(move |mut all| {
        all.sort_by_key(|each| topic_of(each));
        all.dedup_by_key(|each| topic_of(each));
        all
    })
}

fn resource() -> impl Strategy<Value = Resource> + Clone {
    prop_oneof![
        6 => any_topic().prop_map(Resource::Topic),
        1 => select(&["1", "", "7", "x"][..]).prop_map(Resource::Broker),
        1 => group().prop_map(Resource::Group),
    ]
}

fn described() -> BoxedStrategy<Admin> {
    let keys = prop_oneof![
        4 => proptest::collection::vec(select(NAMES), 1..3).prop_map(|mut keys| {
            keys.sort_unstable();
            keys.dedup();
            Some(keys)
        }),
        1 => Just(None),
        1 => Just(Some(Vec::new())),
    ];
    let resource = prop_oneof![8 => resource(), 1 => select(&[0_i8, 1, 99][..]).prop_map(Resource::Other)];
    (resource, keys, any::<bool>(), any::<bool>())
        .prop_map(|(resource, keys, synonyms, documentation)| Admin::DescribeConfigs {
            resources: vec![(resource, keys)],
            synonyms,
            documentation,
        })
        .boxed()
}

fn altered() -> BoxedStrategy<Admin> {
    let topic = any_topic().prop_map(Resource::Topic);
    let whose = prop_oneof![8 => topic, 1 => select(&[0_i8, 1, 99][..]).prop_map(Resource::Other)];
    (whose, settings(2), any::<bool>())
        .prop_map(|(whose, settings, validate_only)| Admin::AlterConfigs {
            resources: vec![(whose, settings)],
            validate_only,
        })
        .boxed()
}

fn altered_somewhat() -> BoxedStrategy<Admin> {
    let topic = any_topic().prop_map(Resource::Topic);
    let whose = prop_oneof![8 => topic, 1 => select(&[0_i8, 1, 99][..]).prop_map(Resource::Other)];
    // Set, delete, append, subtract.
    let operation = select(&[0, 0, 1, 2, 3][..]);
    let changes = (settings(2), proptest::collection::vec(operation, 2));
    let changes = changes.prop_map(|(settings, operations)| operations.into_iter().zip(settings).collect());
    (whose, changes, mostly(&[false], &[true]))
        .prop_map(|(whose, changes, validate_only)| Admin::IncrementalAlterConfigs {
            resources: vec![(whose, changes)],
            validate_only,
        })
        .boxed()
}

fn maybe_places() -> impl Strategy<Value = Option<Vec<(Topic, i32)>>> + Clone {
    prop_oneof![6 => places(3).prop_map(Some), 1 => Just(None)]
}

fn on_cluster() -> BoxedStrategy<Admin> {
    let replicas = select(vec![None, Some(vec![NODE]), Some(vec![]), Some(vec![7]), Some(vec![NODE, NODE])]);
    let to = (place(), replicas).prop_map(|((topic, partition), to)| (topic, partition, to));
    let update = (
        mostly(&["transaction.version", "group.version"], &["metadata.version", "no.such.feature", ""]),
        mostly(&[0_i16, 1, 2], &[3, 99, -1]),
        select(&[0_i8, 1, 2, 3][..]),
    );
    prop_oneof![
        (select(&[1_i8, 1, 2, 3][..]), any::<bool>())
            .prop_map(|(endpoint_type, operations)| Admin::DescribeCluster { endpoint_type, operations }),
        (select(&[0_i8, 1, 2][..]), places(3).prop_map(Some))
            .prop_map(|(election_type, of)| Admin::ElectLeaders { election_type, of }),
        to.prop_map(|to| Admin::AlterPartitionReassignments { to: vec![to] }),
        maybe_places().prop_map(|of| Admin::ListPartitionReassignments { of }),
        maybe_places().prop_map(|of| Admin::DescribeLogDirs { of }),
        places(2).prop_map(|of| Admin::AlterReplicaLogDirs { of }),
        update.prop_map(|update| Admin::UpdateFeatures { updates: vec![update] }),
        select(&[1_i8, 2, 3][..]).prop_map(|resource_type| Admin::DescribeAcls { resource_type }),
        select(&["librdkafka", "", "a b", "-x"][..]).prop_map(|software| Admin::ApiVersions { software }),
        proptest::collection::vec(select(&[2_i8, 4, 8, 16, 32, 1][..]), 0..2)
            .prop_map(|types| Admin::ListConfigResources { types }),
    ]
    .boxed()
}

fn with_version(admin: impl Strategy<Value = Admin> + 'static) -> BoxedStrategy<Step> {
    (admin, any::<proptest::sample::Index>())
        .prop_map(|(admin, index)| {
            let api = anabranch_wire::api(admin.key() as i16).expect("it is in the table");
            let version = api.served_min + index.index((api.max - api.served_min + 1) as usize) as i16;
            Step { version, call: Call::Admin(admin) }
        })
        .boxed()
}

/// Whether a feature of ours would be switched off, or down.
#[must_use]
pub fn lowers(feature: &str, level: i16) -> bool {
    let current = [("group.version", 1), ("transaction.version", 2)];
    current.iter().any(|(name, current)| *name == feature && (0..*current).contains(&level))
}

/// What is asked of topics, settings and the cluster.
pub(super) fn steps() -> BoxedStrategy<Step> {
    let create = (distinct(new_topic(), |new| new.topic), mostly(&[false, false, true], &[true]))
        .prop_map(|(topics, validate_only)| Admin::CreateTopics { topics, validate_only });
    let delete = (topics(), any::<bool>()).prop_map(|(topics, by_id)| Admin::DeleteTopics { topics, by_id });
    let more = (any_topic(), mostly(&[2, 3, 4], &[0, 1, -1]), assignment());
    let more = (distinct(more, |(topic, ..)| *topic), mostly(&[false], &[true]))
        .prop_map(|(topics, validate_only)| Admin::CreatePartitions { topics, validate_only });
    let asked = prop_oneof![6 => shown_topics().prop_map(Some), 1 => Just(None)];
    let metadata = (asked, any::<bool>(), any::<bool>())
        .prop_map(|(topics, by_id, operations)| Admin::Metadata { topics, by_id, operations });
    let cursor = prop_oneof![3 => Just(None), 1 => (any_topic(), partition()).prop_map(Some)];
    let pages = (shown_topics(), mostly(&[1, 2, 2000], &[0, -1]), cursor)
        .prop_map(|(topics, limit, cursor)| Admin::DescribeTopicPartitions { topics, limit, cursor });
    prop_oneof![
        4 => with_version(create),
        2 => with_version(delete),
        2 => with_version(more),
        3 => with_version(metadata),
        1 => with_version(pages),
        3 => with_version(described()),
        1 => with_version(altered()),
        3 => with_version(altered_somewhat()),
        4 => with_version(on_cluster()),
        2 => super::data::list_offsets(),
        2 => step(ApiKey::Produce, Just(Call::Data(super::data::one_record(Topic::A, 0)))),
        1 => super::data::fetch(),
    ]
    .boxed()
}
