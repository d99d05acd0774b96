//! Groups, through the door: two members, a rebalance, commits that last.

use anabranch_wire::messages::describe_groups_request::DescribeGroupsRequest;
use anabranch_wire::messages::join_group_request::JoinGroupRequestProtocol;
use anabranch_wire::messages::leave_group_request::MemberIdentity;
use anabranch_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use anabranch_wire::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use anabranch_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use anabranch_wire::messages::*;
use anabranch_wire::protocol::StrBytes;
use bytes::Bytes;

use crate::client::{Client, Node, text, topic};

const REBALANCE_IN_PROGRESS: i16 = 27;
const ILLEGAL_GENERATION: i16 = 22;
const NON_EMPTY_GROUP: i16 = 68;
const GROUP_ID_NOT_FOUND: i16 = 69;

fn group() -> GroupId {
    GroupId(text("g"))
}

pub(crate) fn join(member_id: &StrBytes) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"opaque"));
    JoinGroupRequest::default()
        .with_group_id(group())
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_member_id(member_id.clone())
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// Joins as a new member, which takes two requests (KIP-394): the id.
pub(crate) async fn first_join(client: &mut Client) -> StrBytes {
    client.call(9, &join(&StrBytes::new())).await.member_id
}

fn sync(joined: &JoinGroupResponse, assignments: &[(&StrBytes, &'static str)]) -> SyncGroupRequest {
    let assignments = assignments.iter().map(|(member, assignment)| {
        SyncGroupRequestAssignment::default()
            .with_member_id((*member).clone())
            .with_assignment(Bytes::from_static(assignment.as_bytes()))
    });
    SyncGroupRequest::default()
        .with_group_id(group())
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_assignments(assignments.collect())
}

async fn heartbeat(client: &mut Client, generation: i32, member: &StrBytes) -> i16 {
    let request = HeartbeatRequest::default()
        .with_group_id(group())
        .with_generation_id(generation)
        .with_member_id(member.clone());
    client.call(4, &request).await.error_code
}

#[tokio::test]
async fn two_members_share_and_one_leaves() {
    let node = Node::start().await;
    let (mut one, mut two) = (node.connect().await, node.connect().await);
    let first = first_join(&mut one).await;
    let alone = one.call(9, &join(&first)).await;
    assert_eq!((alone.error_code, alone.generation_id, &alone.leader), (0, 1, &first));
    assert_eq!(alone.members[0].metadata, "opaque");
    let synced = one.call(5, &sync(&alone, &[(&first, "everything")])).await;
    assert_eq!((synced.error_code, synced.assignment), (0, Bytes::from("everything")));
    assert_eq!(heartbeat(&mut one, 1, &first).await, 0);

    // The second member waits in its join until the first has come again.
    let second = first_join(&mut two).await;
    let waiting = two.send(9, &join(&second)).await;
    let until = async {
        while heartbeat(&mut one, 1, &first).await != REBALANCE_IN_PROGRESS {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::client::SOON, until).await.expect("the first member is told");
    let led = one.call(9, &join(&first)).await;
    let followed = two.receive::<JoinGroupRequest>(9, waiting).await;
    assert_eq!(
        (led.generation_id, followed.generation_id, led.members.len(), followed.members.len()),
        (2, 2, 2, 0)
    );
    assert_eq!(followed.leader, first);
    // The follower's sync waits for the leader's.
    let waiting = two.send(5, &sync(&followed, &[])).await;
    let synced = one.call(5, &sync(&led, &[(&first, "half"), (&second, "other half")])).await;
    assert_eq!(synced.assignment, "half");
    assert_eq!(two.receive::<SyncGroupRequest>(5, waiting).await.assignment, "other half");

    let described = one.call(6, &DescribeGroupsRequest::default().with_groups(vec![group()])).await;
    let described = &described.groups[0];
    assert_eq!((described.group_state.as_str(), described.protocol_data.as_str()), ("Stable", "range"));
    assert!(
        described
            .members
            .iter()
            .all(|member| member.client_host.as_str() == "/127.0.0.1" && member.client_id.as_str() == "test")
    );
    let deleted = one.call(2, &DeleteGroupsRequest::default().with_groups_names(vec![group()])).await;
    assert_eq!(deleted.results[0].error_code, NON_EMPTY_GROUP);

    let leaver = MemberIdentity::default().with_member_id(second.clone());
    let left =
        two.call(5, &LeaveGroupRequest::default().with_group_id(group()).with_members(vec![leaver])).await;
    assert_eq!((left.error_code, left.members[0].error_code), (0, 0));
    assert_eq!(heartbeat(&mut one, 2, &first).await, REBALANCE_IN_PROGRESS);
}

#[tokio::test]
async fn commits_are_fetched_one_by_one_all_at_once_and_per_group() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    client.create_topic("t", 3).await;
    let commit = |generation: i32, offsets: &[(&str, i32, i64)]| {
        let topics = offsets.iter().map(|(name, partition, offset)| {
            let offset = OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_metadata(Some(text("note")));
            OffsetCommitRequestTopic::default().with_name(topic(name)).with_partitions(vec![offset])
        });
        OffsetCommitRequest::default()
            .with_group_id(group())
            .with_generation_id_or_member_epoch(generation)
            .with_topics(topics.collect())
    };
    let response =
        client.call(9, &commit(-1, &[("t", 0, 5), ("none", 0, 1), ("t", 9, 1), ("t", 2, 7)])).await;
    let codes: Vec<i16> = response.topics.iter().map(|topic| topic.partitions[0].error_code).collect();
    assert_eq!(codes, [0, 3, 3, 0], "what does not exist is refused, the rest is kept");

    let asked =
        OffsetFetchRequestTopics::default().with_name(topic("t")).with_partition_indexes(vec![2, 1, 0]);
    let groups = vec![
        OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(Some(vec![asked])),
        OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(None),
        OffsetFetchRequestGroup::default().with_group_id(GroupId(text("nobody"))).with_topics(None),
    ];
    let response = client.call(9, &OffsetFetchRequest::default().with_groups(groups)).await;
    let shown: Vec<Vec<(i32, i64, Option<&str>)>> = response
        .groups
        .iter()
        .map(|group| {
            let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
            partitions
                .map(|each| (each.partition_index, each.committed_offset, each.metadata.as_deref()))
                .collect()
        })
        .collect();
    let (five, seven) = ((0, 5, Some("note")), (2, 7, Some("note")));
    assert_eq!(shown, [vec![seven, (1, -1, Some("")), five], vec![five, seven], vec![]]);

    // `GROUP_ID_NOT_FOUND` came with version 9.
    for (version, code) in [(8, ILLEGAL_GENERATION), (9, GROUP_ID_NOT_FOUND)] {
        let request = commit(3, &[("t", 0, 6)]).with_group_id(GroupId(text("nobody")));
        assert_eq!(client.call(version, &request).await.topics[0].partitions[0].error_code, code);
    }
}
