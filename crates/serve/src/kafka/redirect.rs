//! What old clients are told whose topics have moved, when they are not refused but sent on (ADR 0023).
//!
//! Nothing here tells a client where something stands: neither a record nor a group, for there it stands elsewhere. In the stage of sending,
//! the brokers of the target are this cluster's, by their own ids, and topics have no leader for a moment
//! (LEADER_NOT_AVAILABLE, `MetadataResponse.json`): so a client asks one of these brokers next, and gets the truth. Its connection is closed
//! soon (`connection`): Java's client knows connections by the node's id, and would take this one for that to the target's broker of
//! the same id; and its consumer, which looks for its coordinator, asks for metadata only when it loses one. kafkajs and franz-go ask for a
//! coordinator alone, and give up or wait for long: so theirs is a broker of the target, under an id that they do not know.
//!
//! Produce, Fetch, and what members of groups ask are refused where they are answered.

use anabranch_broker::{Elsewhere, Node, Redirect, Stage};
use anabranch_core::batch::NO_TIMESTAMP;
use anabranch_wire::messages::describe_cluster_response::DescribeClusterBroker;
use anabranch_wire::messages::find_coordinator_response::Coordinator;
use anabranch_wire::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use anabranch_wire::messages::metadata_request::MetadataRequestTopic;
use anabranch_wire::messages::metadata_response::{MetadataResponseBroker, MetadataResponseTopic};
use anabranch_wire::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use anabranch_wire::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use anabranch_wire::messages::{
    BrokerId, DescribeClusterRequest, DescribeClusterResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse,
    MetadataRequest, MetadataResponse, OffsetFetchRequest, OffsetFetchResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse, ProducerId,
};
use anabranch_wire::{ErrorCode, Request, Response};

use super::{Door, find_coordinator, text, topic_name};

/// No controller, no coordinator: to be asked for again.
const NOBODY: BrokerId = BrokerId(-1);
/// An id that no broker has, unless one does. Not the largest number: Java's client takes the distance to that for an id of its own.
const ANYBODY: i32 = 1_000_000_007;
/// The last version of Metadata that clients ask for which throw an answer away for one topic without a leader: kafkajs, kafka-python 2.
const METADATA_ALL_OR_NOTHING: i16 = 6;

/// What is said to a request, or the request if it is served as ever.
pub(super) fn answer(
    door: &Door,
    redirect: &Redirect,
    version: i16,
    request: Request,
) -> Result<Response, Box<Request>> {
    let is_sending = redirect.stage == Stage::Sending;
    Ok(match request {
        Request::Metadata(request) if is_sending => metadata(door, &redirect.to, version, request).into(),
        Request::DescribeCluster(request) if is_sending => describe_cluster(&redirect.to, &request).into(),
        Request::FindCoordinator(request) if has_no_coordinator(door, redirect.stage, &request) => {
            match (redirect.to.nodes.first(), request.key_type) {
                (Some(node), find_coordinator::GROUP) if is_sending => {
                    anybody(&redirect.to, node, version, request).into()
                }
                _ => no_coordinator(version, request).into(),
            }
        }
        Request::ListOffsets(request) => list_offsets(request).into(),
        Request::OffsetForLeaderEpoch(request) => offset_for_leader_epoch(request).into(),
        Request::OffsetFetch(request) => offset_fetch(version, request).into(),
        // Whoever begins anew begins there. An end of what was begun here is answered as ever, for it may be asked for again.
        Request::InitProducerId(request) if request.transactional_id.is_some() => {
            InitProducerIdResponse::default()
                .with_error_code(ErrorCode::NotCoordinator.code())
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1)
                .into()
        }
        request => return Err(Box::new(request)),
    })
}

/// What a fetch of anything is answered with.
pub(super) fn fetch(redirect: Option<&Redirect>) -> ErrorCode {
    match redirect {
        // A position means another record there: whoever has one, and is in no group that would take it away, must hear of it.
        Some(Redirect { stage: Stage::Parting | Stage::Sending, positions_differ: true, .. }) | None => {
            ErrorCode::PolicyViolation
        }
        Some(_) => ErrorCode::NotLeaderOrFollower,
    }
}

fn metadata(door: &Door, to: &Elsewhere, version: i16, request: MetadataRequest) -> MetadataResponse {
    let nodes = to.nodes.iter().map(|node| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(node.id))
            .with_host(text(&node.host))
            .with_port(node.port.into())
    });
    // Also who asks for all of them must ask again. In version 0, an empty list is that.
    let asked = request.topics.filter(|topics| version > 0 || !topics.is_empty());
    let all = || {
        let catalogue = door.broker.topics();
        let all = catalogue.iter().filter(|topic| !topic.is_internal());
        all.map(|topic| MetadataRequestTopic::default().with_name(Some(topic_name(topic.name())))).collect()
    };
    let asked = if version > METADATA_ALL_OR_NOTHING { asked.unwrap_or_else(all) } else { Vec::new() };
    let topics = asked.into_iter().map(|topic| {
        MetadataResponseTopic::default()
            .with_error_code(ErrorCode::LeaderNotAvailable.code())
            // Nullable from version 12 on, where a topic may be asked for by its id.
            .with_name(topic.name.or_else(|| (version < 12).then(Default::default)))
            .with_topic_id(topic.topic_id)
    });
    MetadataResponse::default()
        .with_brokers(nodes.collect())
        .with_cluster_id(Some(text(&to.cluster)))
        .with_controller_id(NOBODY)
        .with_topics(topics.collect())
}

fn describe_cluster(to: &Elsewhere, request: &DescribeClusterRequest) -> DescribeClusterResponse {
    let nodes = to.nodes.iter().map(|node| {
        DescribeClusterBroker::default()
            .with_broker_id(BrokerId(node.id))
            .with_host(text(&node.host))
            .with_port(node.port.into())
    });
    DescribeClusterResponse::default()
        .with_cluster_id(text(&to.cluster))
        .with_controller_id(NOBODY)
        .with_endpoint_type(request.endpoint_type)
        .with_brokers(nodes.collect())
}

/// Whether nobody has to ask a coordinator here any more. It is said as early as that: librdkafka knows its coordinator by the node's id, and
/// does not see that there is another of that id but by having had none in between.
fn has_no_coordinator(door: &Door, stage: Stage, request: &FindCoordinatorRequest) -> bool {
    // `FindCoordinatorRequest.json`: one key up to version 3.
    let mut keys = request.coordinator_keys.iter().chain(Some(&request.key).filter(|key| !key.is_empty()));
    match (stage, request.key_type) {
        (Stage::Sending | Stage::Parting, _) => true,
        (Stage::Telling, find_coordinator::GROUP) => {
            keys.all(|group| door.broker.groups().is_dismissed(group))
        }
        // An end of a transaction whose answer was lost is asked for again.
        (Stage::Telling, _) => false,
    }
}

fn no_coordinator(version: i16, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let none = Coordinator::default().with_error_code(ErrorCode::CoordinatorNotAvailable.code());
    coordinator(version, request, &none.with_node_id(NOBODY).with_port(-1))
}

/// A broker of the target, which knows who the coordinator is.
fn anybody(
    to: &Elsewhere,
    node: &Node,
    version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let mut ids = ANYBODY..;
    let id = ids.find(|id| to.nodes.iter().all(|node| node.id != *id)).unwrap_or(ANYBODY);
    let found = Coordinator::default().with_node_id(BrokerId(id));
    coordinator(version, request, &found.with_host(text(&node.host)).with_port(node.port.into()))
}

/// The same for all that is asked for.
fn coordinator(version: i16, request: FindCoordinatorRequest, is: &Coordinator) -> FindCoordinatorResponse {
    if version < 4 {
        return FindCoordinatorResponse::default()
            .with_error_code(is.error_code)
            .with_node_id(is.node_id)
            .with_host(is.host.clone())
            .with_port(is.port);
    }
    let coordinators = request.coordinator_keys.into_iter().map(|key| is.clone().with_key(key)).collect();
    FindCoordinatorResponse::default().with_coordinators(coordinators)
}

fn list_offsets(request: ListOffsetsRequest) -> ListOffsetsResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            ListOffsetsPartitionResponse::default()
                .with_partition_index(asked.partition_index)
                .with_error_code(ErrorCode::NotLeaderOrFollower.code())
                .with_offset(-1)
                .with_timestamp(NO_TIMESTAMP)
        });
        ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

fn offset_for_leader_epoch(request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            EpochEndOffset::default()
                .with_partition(asked.partition)
                .with_error_code(ErrorCode::NotLeaderOrFollower.code())
                .with_leader_epoch(-1)
                .with_end_offset(-1)
        });
        OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions.collect())
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

/// Where a group stands is told by the target.
fn offset_fetch(version: i16, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let code = ErrorCode::NotCoordinator.code();
    if version >= 8 {
        let groups = request.groups.into_iter().map(|group| {
            OffsetFetchResponseGroup::default().with_group_id(group.group_id).with_error_code(code)
        });
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    // Version 1 has no other place for it.
    let topics = request.topics.unwrap_or_default().into_iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|index| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(*index)
                .with_committed_offset(-1)
                .with_committed_leader_epoch(-1)
                .with_metadata(Some(Default::default()))
                .with_error_code(code)
        });
        OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    let code = if version >= 2 { code } else { 0 };
    OffsetFetchResponse::default().with_topics(topics.collect()).with_error_code(code)
}
