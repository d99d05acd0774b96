//! What is spoken: one table, from which the requests, the responses, and the answer to `ApiVersions` all come.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{self, ApiKey};
use kafka_protocol::protocol::{Decodable, Encodable};

use crate::shape::{self, Field};

/// A kind of request that is served.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    /// Which.
    pub key: ApiKey,
    /// Its name in Kafka.
    pub name: &'static str,
    /// The oldest version that `ApiVersions` reports. Differs from `served_min` for Produce alone.
    pub reported_min: i16,
    /// The oldest version that is served.
    pub served_min: i16,
    /// The newest version that is reported and served.
    pub max: i16,
    pub(crate) shape: &'static [Field],
}

impl Api {
    /// Whether requests of `version` are answered.
    #[must_use]
    pub fn serves(&self, version: i16) -> bool {
        (self.served_min..=self.max).contains(&version)
    }

    /// Whether `version` has compact lengths and tagged fields (KIP-482).
    pub(crate) fn is_flexible(&self, version: i16) -> bool {
        self.key.request_header_version(version) >= 2
    }
}

/// Everything that is served, ordered by key.
#[must_use]
pub fn apis() -> &'static [Api] {
    APIS
}

/// The API with this key, if it is served.
#[must_use]
pub fn api(key: i16) -> Option<&'static Api> {
    let at = APIS.binary_search_by_key(&key, |api| api.key as i16).ok()?;
    Some(&APIS[at])
}

macro_rules! apis {
    ($($name:ident, $request:ident, $response:ident, $shape:ident, $reported:literal, $min:literal..=$max:literal;)*) => {
        static APIS: &[Api] = &[$(Api {
            key: ApiKey::$name,
            name: stringify!($name),
            reported_min: $reported,
            served_min: $min,
            max: $max,
            shape: shape::$shape,
        },)*];

        /// A request that is served, whatever its version.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum Request {
            $(#[doc = concat!("`", stringify!($name), "`")] $name(messages::$request),)*
        }

        /// The answer to a [`Request`].
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum Response {
            $(#[doc = concat!("`", stringify!($name), "`")] $name(messages::$response),)*
        }

        impl Request {
            /// Believes array lengths: only for bytes that `shape` has walked.
            pub(crate) fn decode(key: ApiKey, body: &mut Bytes, version: i16) -> Option<Self> {
                match key {
                    $(ApiKey::$name => messages::$request::decode(body, version).ok().map(Self::$name),)*
                    _ => None,
                }
            }

            /// The API that this asks.
            #[must_use]
            pub fn key(&self) -> ApiKey {
                match self {
                    $(Self::$name(_) => ApiKey::$name,)*
                }
            }

            pub(crate) fn encode(&self, into: &mut BytesMut, version: i16) -> Option<()> {
                match self {
                    $(Self::$name(request) => request.encode(into, version).ok(),)*
                }
            }
        }

        impl Response {
            /// Believes array lengths.
            pub(crate) fn decode(key: ApiKey, body: &mut Bytes, version: i16) -> Option<Self> {
                match key {
                    $(ApiKey::$name => messages::$response::decode(body, version).ok().map(Self::$name),)*
                    _ => None,
                }
            }

            /// The API that this answers.
            #[must_use]
            pub fn key(&self) -> ApiKey {
                match self {
                    $(Self::$name(_) => ApiKey::$name,)*
                }
            }

            pub(crate) fn size_bytes(&self, version: i16) -> Option<usize> {
                match self {
                    $(Self::$name(response) => response.compute_size(version).ok(),)*
                }
            }

            pub(crate) fn encode(&self, into: &mut BytesMut, version: i16) -> Option<()> {
                match self {
                    $(Self::$name(response) => response.encode(into, version).ok(),)*
                }
            }
        }

        $(impl From<messages::$request> for Request {
            fn from(request: messages::$request) -> Self {
                Self::$name(request)
            }
        }

        impl From<messages::$response> for Response {
            fn from(response: messages::$response) -> Self {
                Self::$name(response)
            }
        })*
    };
}

// Name, messages, shape, reported minimum, served versions. Produce reports 0, for older librdkafka switches compression
// off or refuses when it does not (KAFKA-18659); what is older than 3 is refused when it comes, as Kafka 4 does.
// ListOffsets 11, OffsetCommit 10, OffsetFetch 10, WriteTxnMarkers 2 and DescribeLogDirs 5 are Kafka's newest, and not decoded by
// the messages' crate.
apis! {
    Produce, ProduceRequest, ProduceResponse, PRODUCE, 0, 3..=13;
    Fetch, FetchRequest, FetchResponse, FETCH, 4, 4..=18;
    ListOffsets, ListOffsetsRequest, ListOffsetsResponse, LIST_OFFSETS, 1, 1..=10;
    Metadata, MetadataRequest, MetadataResponse, METADATA, 0, 0..=13;
    OffsetCommit, OffsetCommitRequest, OffsetCommitResponse, OFFSET_COMMIT, 2, 2..=9;
    OffsetFetch, OffsetFetchRequest, OffsetFetchResponse, OFFSET_FETCH, 1, 1..=9;
    FindCoordinator, FindCoordinatorRequest, FindCoordinatorResponse, FIND_COORDINATOR, 0, 0..=6;
    JoinGroup, JoinGroupRequest, JoinGroupResponse, JOIN_GROUP, 0, 0..=9;
    Heartbeat, HeartbeatRequest, HeartbeatResponse, HEARTBEAT, 0, 0..=4;
    LeaveGroup, LeaveGroupRequest, LeaveGroupResponse, LEAVE_GROUP, 0, 0..=5;
    SyncGroup, SyncGroupRequest, SyncGroupResponse, SYNC_GROUP, 0, 0..=5;
    DescribeGroups, DescribeGroupsRequest, DescribeGroupsResponse, DESCRIBE_GROUPS, 0, 0..=6;
    ListGroups, ListGroupsRequest, ListGroupsResponse, LIST_GROUPS, 0, 0..=5;
    ApiVersions, ApiVersionsRequest, ApiVersionsResponse, API_VERSIONS, 0, 0..=4;
    CreateTopics, CreateTopicsRequest, CreateTopicsResponse, CREATE_TOPICS, 2, 2..=7;
    DeleteTopics, DeleteTopicsRequest, DeleteTopicsResponse, DELETE_TOPICS, 1, 1..=6;
    DeleteRecords, DeleteRecordsRequest, DeleteRecordsResponse, DELETE_RECORDS, 0, 0..=2;
    InitProducerId, InitProducerIdRequest, InitProducerIdResponse, INIT_PRODUCER_ID, 0, 0..=5;
    OffsetForLeaderEpoch, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OFFSET_FOR_LEADER_EPOCH, 2, 2..=4;
    AddPartitionsToTxn, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, ADD_PARTITIONS_TO_TXN, 0, 0..=5;
    AddOffsetsToTxn, AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, ADD_OFFSETS_TO_TXN, 0, 0..=4;
    EndTxn, EndTxnRequest, EndTxnResponse, END_TXN, 0, 0..=5;
    WriteTxnMarkers, WriteTxnMarkersRequest, WriteTxnMarkersResponse, WRITE_TXN_MARKERS, 1, 1..=1;
    TxnOffsetCommit, TxnOffsetCommitRequest, TxnOffsetCommitResponse, TXN_OFFSET_COMMIT, 0, 0..=5;
    DescribeAcls, DescribeAclsRequest, DescribeAclsResponse, DESCRIBE_ACLS, 1, 1..=3;
    DescribeConfigs, DescribeConfigsRequest, DescribeConfigsResponse, DESCRIBE_CONFIGS, 1, 1..=4;
    AlterConfigs, AlterConfigsRequest, AlterConfigsResponse, ALTER_CONFIGS, 0, 0..=2;
    AlterReplicaLogDirs, AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, ALTER_REPLICA_LOG_DIRS, 1, 1..=2;
    DescribeLogDirs, DescribeLogDirsRequest, DescribeLogDirsResponse, DESCRIBE_LOG_DIRS, 1, 1..=4;
    CreatePartitions, CreatePartitionsRequest, CreatePartitionsResponse, CREATE_PARTITIONS, 0, 0..=3;
    DeleteGroups, DeleteGroupsRequest, DeleteGroupsResponse, DELETE_GROUPS, 0, 0..=2;
    ElectLeaders, ElectLeadersRequest, ElectLeadersResponse, ELECT_LEADERS, 0, 0..=2;
    IncrementalAlterConfigs, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, INCREMENTAL_ALTER_CONFIGS, 0, 0..=1;
    AlterPartitionReassignments, AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ALTER_PARTITION_REASSIGNMENTS, 0, 0..=1;
    ListPartitionReassignments, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, LIST_PARTITION_REASSIGNMENTS, 0, 0..=0;
    OffsetDelete, OffsetDeleteRequest, OffsetDeleteResponse, OFFSET_DELETE, 0, 0..=0;
    DescribeQuorum, DescribeQuorumRequest, DescribeQuorumResponse, DESCRIBE_QUORUM, 0, 0..=2;
    UpdateFeatures, UpdateFeaturesRequest, UpdateFeaturesResponse, UPDATE_FEATURES, 0, 0..=2;
    DescribeCluster, DescribeClusterRequest, DescribeClusterResponse, DESCRIBE_CLUSTER, 0, 0..=2;
    DescribeProducers, DescribeProducersRequest, DescribeProducersResponse, DESCRIBE_PRODUCERS, 0, 0..=0;
    DescribeTransactions, DescribeTransactionsRequest, DescribeTransactionsResponse, DESCRIBE_TRANSACTIONS, 0, 0..=0;
    ListTransactions, ListTransactionsRequest, ListTransactionsResponse, LIST_TRANSACTIONS, 0, 0..=2;
    ConsumerGroupHeartbeat, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, CONSUMER_GROUP_HEARTBEAT, 0, 0..=1;
    ConsumerGroupDescribe, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, CONSUMER_GROUP_DESCRIBE, 0, 0..=1;
    ListConfigResources, ListConfigResourcesRequest, ListConfigResourcesResponse, LIST_CONFIG_RESOURCES, 0, 0..=1;
    DescribeTopicPartitions, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, DESCRIBE_TOPIC_PARTITIONS, 0, 0..=0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_within_what_decodes() {
        assert!(APIS.is_sorted_by_key(|api| api.key as i16));
        for api in APIS {
            let valid = api.key.valid_versions();
            assert!(api.served_min >= valid.min && api.max <= valid.max, "{}", api.name);
            assert!(api.reported_min == api.served_min || api.key == ApiKey::Produce, "{}", api.name);
        }
        assert!(super::api(17).is_none() && super::api(-1).is_none() && super::api(i16::MAX).is_none());
    }
}
