//! Classic groups, and offsets.

use anabranch_wire::messages::join_group_request::JoinGroupRequestProtocol;
use anabranch_wire::messages::leave_group_request::MemberIdentity;
use anabranch_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use anabranch_wire::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use anabranch_wire::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use anabranch_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use anabranch_wire::messages::*;
use anabranch_wire::protocol::StrBytes;
use anabranch_wire::{Request, Response};
use proptest::prelude::*;
use proptest::sample::select;

use super::data::At;
use super::{Call, Group, Step, Topic, by_topic, group, mostly, places, step};
use crate::client::text;
use crate::side::State;

/// How many members there may be; each has a connection of its own for what waits.
pub const MEMBERS: u8 = 3;

/// An error that brings a member's id.
const MEMBER_ID_REQUIRED: i16 = 79;

/// Longer than any case takes.
pub(super) const SESSION_MS: i32 = 60_000;

/// A request about a classic group.
#[derive(Debug, Clone)]
pub enum GroupCall {
    /// Asks who coordinates.
    FindCoordinator {
        /// Group, transaction, or neither.
        key_type: i8,
        /// Names of groups.
        keys: Vec<Group>,
    },
    /// Joins.
    Join {
        /// Which.
        group: Group,
        /// Where the member's id is kept.
        slot: u8,
        /// Which it says.
        member: MemberRef,
        /// Whether it is a static member.
        is_static: bool,
        /// How long it may be silent.
        session_ms: i32,
        /// "consumer", mostly.
        protocol_type: &'static str,
        /// In the order of its wishes.
        protocols: Vec<&'static str>,
    },
    /// Brings or asks for the assignment.
    Sync {
        /// Which.
        group: Group,
        /// Whose.
        slot: u8,
        /// Which it says.
        member: MemberRef,
        /// Whether it is a static member.
        is_static: bool,
        /// Which it says.
        generation: Generation,
        /// For whom it brings one.
        assigned: Vec<u8>,
        /// Type and name, where the version has them.
        protocol: (Option<&'static str>, Option<&'static str>),
    },
    /// Lives.
    Heartbeat {
        /// Which.
        group: Group,
        /// Whose.
        slot: u8,
        /// Which it says.
        member: MemberRef,
        /// Whether it is a static member.
        is_static: bool,
        /// Which it says.
        generation: Generation,
    },
    /// Leaves.
    Leave {
        /// Which.
        group: Group,
        /// Who; before version 3 the first one.
        members: Vec<(u8, MemberRef, bool)>,
    },
    /// Commits.
    Commit {
        /// Which.
        group: Group,
        /// As whom.
        slot: u8,
        /// Which it says.
        member: MemberRef,
        /// Whether it is a static member.
        is_static: bool,
        /// Which it says.
        generation: Generation,
        /// Offset, leader epoch, metadata.
        offsets: Vec<At<(i64, i32, Metadata)>>,
    },
    /// What is committed.
    Fetch {
        /// Which; one before version 8.
        groups: Vec<Group>,
        /// Of what; `None` for all.
        of: Option<Vec<(Topic, i32)>>,
        /// As whom, in version 9.
        slot: Option<u8>,
        /// Not while a transaction may change it.
        stable: bool,
    },
    /// Forgets what is committed.
    Delete {
        /// Which.
        group: Group,
        /// What.
        of: Vec<(Topic, i32)>,
    },
    /// Shows.
    Describe {
        /// Which.
        groups: Vec<Group>,
        /// What the client may do.
        operations: bool,
    },
    /// Shows all.
    List {
        /// Of those states.
        states: Vec<&'static str>,
        /// Of those types.
        types: Vec<&'static str>,
    },
    /// Removes.
    DeleteGroups {
        /// Which.
        groups: Vec<Group>,
    },
}

/// A member's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRef {
    /// The one it was given last; empty while it has none.
    Own,
    /// Empty.
    Empty,
    /// One that nobody was given.
    Unknown,
}

/// A generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// The newest that the member was told.
    Current,
    /// One less.
    Older,
    /// One more.
    Newer,
    /// -1.
    None,
}

/// What is committed beside an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// "m".
    Short,
    /// Nothing.
    Empty,
    /// Null.
    Null,
    /// More than is allowed.
    Long,
}

impl Metadata {
    pub(super) fn text(self) -> Option<StrBytes> {
        match self {
            Self::Short => Some(text("m")),
            Self::Empty => Some(text("")),
            Self::Null => None,
            Self::Long => Some(text(&"m".repeat(5000))),
        }
    }
}

/// The name of a static member.
#[must_use]
pub fn instance(is_static: bool, slot: u8) -> Option<StrBytes> {
    is_static.then(|| text(&format!("instance-{slot}")))
}

pub(super) fn member_id(state: &State, group: Group, slot: u8, member: MemberRef) -> StrBytes {
    match member {
        MemberRef::Own => state.members.get(&(group, slot)).map(|known| known.id.clone()).unwrap_or_default(),
        MemberRef::Empty => text(""),
        MemberRef::Unknown => text("nobody"),
    }
}

pub(super) fn generation_id(state: &State, group: Group, slot: u8, generation: Generation) -> i32 {
    let known = state.members.get(&(group, slot)).map_or(0, |known| known.generation);
    match generation {
        Generation::Current => known,
        Generation::Older => known - 1,
        Generation::Newer => known + 1,
        Generation::None => -1,
    }
}

impl GroupCall {
    pub(super) fn key(&self) -> ApiKey {
        match self {
            Self::FindCoordinator { .. } => ApiKey::FindCoordinator,
            Self::Join { .. } => ApiKey::JoinGroup,
            Self::Sync { .. } => ApiKey::SyncGroup,
            Self::Heartbeat { .. } => ApiKey::Heartbeat,
            Self::Leave { .. } => ApiKey::LeaveGroup,
            Self::Commit { .. } => ApiKey::OffsetCommit,
            Self::Fetch { .. } => ApiKey::OffsetFetch,
            Self::Delete { .. } => ApiKey::OffsetDelete,
            Self::Describe { .. } => ApiKey::DescribeGroups,
            Self::List { .. } => ApiKey::ListGroups,
            Self::DeleteGroups { .. } => ApiKey::DeleteGroups,
        }
    }

    /// Whose connection it takes, if it may wait for others.
    pub(super) fn waiting_slot(&self) -> Option<u8> {
        match self {
            Self::Join { slot, .. } | Self::Sync { slot, .. } => Some(*slot),
            _ => None,
        }
    }

    pub(super) fn request(&self, version: i16, state: &State) -> Request {
        match self {
            Self::FindCoordinator { key_type, keys } => {
                let request = FindCoordinatorRequest::default();
                let mut names = keys.iter().map(|group| state.group(*group).0);
                match version {
                    0 => request.with_key(names.next().unwrap_or_default()),
                    1..4 => request.with_key(names.next().unwrap_or_default()).with_key_type(*key_type),
                    _ => request.with_coordinator_keys(names.collect()).with_key_type(*key_type),
                }
                .into()
            }
            Self::Join { group, slot, member, is_static, session_ms, protocol_type, protocols } => {
                // Kafka makes a group of what nobody can join, when a new member asks.
                let is_new = member_id(state, *group, *slot, *member).is_empty();
                let is_possible = !protocols.is_empty() && !protocol_type.is_empty();
                let (protocol_type, protocols) = match is_possible || !is_new {
                    true => (*protocol_type, &protocols[..]),
                    false => ("consumer", &["range"][..]),
                };
                let protocols = protocols.iter().map(|name| {
                    JoinGroupRequestProtocol::default()
                        .with_name(text(name))
                        .with_metadata(state.subscription(Topic::A))
                });
                let request = JoinGroupRequest::default()
                    .with_group_id(state.group(*group))
                    .with_session_timeout_ms(*session_ms)
                    .with_member_id(member_id(state, *group, *slot, *member))
                    .with_group_instance_id(instance(*is_static && version >= 5, *slot))
                    .with_protocol_type(text(protocol_type))
                    .with_protocols(protocols.collect());
                let request =
                    if version >= 1 { request.with_rebalance_timeout_ms(SESSION_MS) } else { request };
                request.into()
            }
            Self::Sync { group, slot, member, is_static, generation, assigned, protocol } => {
                let assignments = assigned.iter().map(|to| {
                    SyncGroupRequestAssignment::default()
                        .with_member_id(member_id(state, *group, *to, MemberRef::Own))
                        .with_assignment(state.assignment(Topic::A, i32::from(*to)))
                });
                let protocol = if version >= 5 { *protocol } else { (None, None) };
                SyncGroupRequest::default()
                    .with_group_id(state.group(*group))
                    .with_generation_id(generation_id(state, *group, *slot, *generation))
                    .with_member_id(member_id(state, *group, *slot, *member))
                    .with_group_instance_id(instance(*is_static && version >= 3, *slot))
                    .with_protocol_type(protocol.0.map(text))
                    .with_protocol_name(protocol.1.map(text))
                    .with_assignments(assignments.collect())
                    .into()
            }
            Self::Heartbeat { group, slot, member, is_static, generation } => HeartbeatRequest::default()
                .with_group_id(state.group(*group))
                .with_generation_id(generation_id(state, *group, *slot, *generation))
                .with_member_id(member_id(state, *group, *slot, *member))
                .with_group_instance_id(instance(*is_static && version >= 3, *slot))
                .into(),
            Self::Leave { group, members } => {
                let request = LeaveGroupRequest::default().with_group_id(state.group(*group));
                let mut each = members.iter().map(|(slot, member, is_static)| {
                    MemberIdentity::default()
                        .with_member_id(member_id(state, *group, *slot, *member))
                        .with_group_instance_id(instance(*is_static, *slot))
                });
                match version {
                    ..3 => request.with_member_id(each.next().map(|each| each.member_id).unwrap_or_default()),
                    _ => request.with_members(each.collect()),
                }
                .into()
            }
            Self::Commit { group, slot, member, is_static, generation, offsets } => {
                let topics = by_topic(offsets).into_iter().map(|(topic, partitions)| {
                    let each = partitions.into_iter().map(|(partition, (offset, epoch, metadata))| {
                        OffsetCommitRequestPartition::default()
                            .with_partition_index(partition)
                            .with_committed_offset(offset)
                            .with_committed_leader_epoch(if version >= 6 { epoch } else { -1 })
                            .with_committed_metadata(metadata.text())
                    });
                    OffsetCommitRequestTopic::default()
                        .with_name(state.topic(topic))
                        .with_partitions(each.collect())
                });
                OffsetCommitRequest::default()
                    .with_group_id(state.group(*group))
                    .with_generation_id_or_member_epoch(generation_id(state, *group, *slot, *generation))
                    .with_member_id(member_id(state, *group, *slot, *member))
                    .with_group_instance_id(instance(*is_static && version >= 7, *slot))
                    .with_topics(topics.collect())
                    .into()
            }
            Self::Fetch { groups, of, slot, stable } => {
                let request = OffsetFetchRequest::default().with_require_stable(*stable && version >= 7);
                let all: Vec<_> =
                    of.iter().flatten().map(|(topic, partition)| (*topic, *partition, ())).collect();
                let topics: Vec<(TopicName, Vec<i32>)> = by_topic(&all)
                    .into_iter()
                    .map(|(topic, each)| (state.topic(topic), each.into_iter().map(|(at, ())| at).collect()))
                    .collect();
                match version {
                    ..8 => {
                        let topics = topics.into_iter().map(|(name, partitions)| {
                            OffsetFetchRequestTopic::default()
                                .with_name(name)
                                .with_partition_indexes(partitions)
                        });
                        // Version 1 has no way to say all.
                        let topics = (of.is_some() || version < 2).then(|| topics.collect());
                        let group = groups.first().copied().unwrap_or(Group::A);
                        request.with_group_id(state.group(group)).with_topics(topics)
                    }
                    _ => {
                        let groups = groups.iter().map(|group| {
                            let topics = topics.iter().map(|(name, partitions)| {
                                OffsetFetchRequestTopics::default()
                                    .with_name(name.clone())
                                    .with_partition_indexes(partitions.clone())
                            });
                            let asked = OffsetFetchRequestGroup::default()
                                .with_group_id(state.group(*group))
                                .with_topics(of.is_some().then(|| topics.collect()));
                            match (*slot, version) {
                                (Some(slot), 9..) => asked
                                    .with_member_id(Some(member_id(state, *group, slot, MemberRef::Own)))
                                    .with_member_epoch(generation_id(
                                        state,
                                        *group,
                                        slot,
                                        Generation::Current,
                                    )),
                                _ => asked,
                            }
                        });
                        request.with_groups(groups.collect())
                    }
                }
                .into()
            }
            Self::Delete { group, of } => {
                let all: Vec<_> = of.iter().map(|(topic, partition)| (*topic, *partition, ())).collect();
                let topics = by_topic(&all).into_iter().map(|(topic, partitions)| {
                    let each = partitions
                        .into_iter()
                        .map(|(at, ())| OffsetDeleteRequestPartition::default().with_partition_index(at));
                    OffsetDeleteRequestTopic::default()
                        .with_name(state.topic(topic))
                        .with_partitions(each.collect())
                });
                OffsetDeleteRequest::default()
                    .with_group_id(state.group(*group))
                    .with_topics(topics.collect())
                    .into()
            }
            Self::Describe { groups, operations } => DescribeGroupsRequest::default()
                .with_groups(groups.iter().map(|group| state.group(*group)).collect())
                .with_include_authorized_operations(*operations && version >= 3)
                .into(),
            Self::List { states, types } => {
                let states = if version >= 4 { &states[..] } else { &[] };
                let types = if version >= 5 { &types[..] } else { &[] };
                ListGroupsRequest::default()
                    .with_states_filter(states.iter().copied().map(text).collect())
                    .with_types_filter(types.iter().copied().map(text).collect())
                    .into()
            }
            Self::DeleteGroups { groups } => DeleteGroupsRequest::default()
                .with_groups_names(groups.iter().map(|group| state.group(*group)).collect())
                .into(),
        }
    }

    pub(super) fn learn(&self, response: &Response, state: &mut State) {
        if let (Self::Leave { group, members }, Response::LeaveGroup(response)) = (self, response)
            && response.error_code == 0
        {
            // Before version 3 there is one, and no list.
            for (at, (slot, member, _)) in members.iter().enumerate().take(response.members.len().max(1)) {
                let is_gone = response.members.get(at).is_none_or(|told| told.error_code == 0);
                if is_gone && *member == MemberRef::Own {
                    state.members.remove(&(*group, *slot));
                }
            }
        }
        let (Self::Join { group, slot, .. }, Response::JoinGroup(response)) = (self, response) else {
            return;
        };
        // Only one that joins is given an id, or must join once more with it.
        if response.member_id.is_empty() || ![0, MEMBER_ID_REQUIRED].contains(&response.error_code) {
            return;
        }
        state.name(&response.member_id, &format!("member {slot} of {group:?}"));
        let member = state.members.entry((*group, *slot)).or_default();
        member.id = response.member_id.clone();
        if response.error_code == 0 {
            member.generation = response.generation_id;
            state.set_leader(*group, response.generation_id, &response.leader);
        }
    }
}

fn slot() -> impl Strategy<Value = u8> + Clone {
    0..MEMBERS
}

fn member() -> impl Strategy<Value = MemberRef> + Clone {
    mostly(&[MemberRef::Own], &[MemberRef::Empty, MemberRef::Unknown])
}

fn generation() -> impl Strategy<Value = Generation> + Clone {
    mostly(&[Generation::Current], &[Generation::Older, Generation::Newer, Generation::None])
}

/// The third member is static.
fn is_static(slot: u8, usual: bool) -> bool {
    (slot == MEMBERS - 1) == usual
}

fn some_groups() -> impl Strategy<Value = Vec<Group>> + Clone {
    proptest::collection::vec(group(), 1..3).prop_map(|mut groups| {
        groups.sort_unstable();
        groups.dedup();
        groups
    })
}

/// A commit that needs no membership, or a member's.
pub(super) fn commit() -> BoxedStrategy<Step> {
    let offset = (
        mostly(&[0, 1, 7], &[-1, -2]),
        mostly(&[-1, 0], &[1]),
        mostly(&[Metadata::Short, Metadata::Empty, Metadata::Null], &[Metadata::Long]),
    );
    let offsets = (places(3), proptest::collection::vec(offset, 3)).prop_map(|(places, mut offsets)| {
        // A commit that is refused whole makes a group in Kafka, which shows later.
        if offsets[0].2 == Metadata::Long {
            offsets[0].2 = Metadata::Empty;
        }
        places
            .into_iter()
            .zip(offsets)
            .map(|((topic, partition), offset)| (topic, partition, offset))
            .collect()
    });
    let as_whom = prop_oneof![
        2 => (member(), generation()),
        2 => Just((MemberRef::Empty, Generation::None)),
    ];
    let call = (group(), slot(), as_whom, mostly(&[true], &[false]), offsets).prop_map(
        |(group, slot, (member, generation), usual, offsets)| {
            let is_static = is_static(slot, usual) && member != MemberRef::Empty;
            Call::Group(GroupCall::Commit { group, slot, member, is_static, generation, offsets })
        },
    );
    step(ApiKey::OffsetCommit, call)
}

pub(super) fn fetch() -> BoxedStrategy<Step> {
    let of = prop_oneof![3 => places(3).prop_map(Some), 2 => Just(None)];
    let slot = mostly(&[None], &[Some(0), Some(1)]);
    let call = (some_groups(), of, slot, any::<bool>())
        .prop_map(|(groups, of, slot, stable)| Call::Group(GroupCall::Fetch { groups, of, slot, stable }));
    step(ApiKey::OffsetFetch, call)
}

/// A group with a member and an assignment.
#[must_use]
pub fn opening() -> Vec<Step> {
    let (group, slot, member, is_static) = (Group::A, 0, MemberRef::Own, false);
    let join = GroupCall::Join {
        group,
        slot,
        member,
        is_static,
        session_ms: SESSION_MS,
        protocol_type: "consumer",
        protocols: vec!["range", "roundrobin"],
    };
    let sync = GroupCall::Sync {
        group,
        slot,
        member,
        is_static,
        generation: Generation::Current,
        assigned: vec![0],
        protocol: (None, None),
    };
    vec![Step { version: 3, call: Call::Group(join) }, Step { version: 3, call: Call::Group(sync) }]
}

/// What is asked of classic groups, and of offsets.
pub(super) fn steps() -> BoxedStrategy<Step> {
    // One group most often, so that members meet.
    let group = || prop_oneof![4 => Just(Group::A), 1 => group()];
    let find = (mostly(&[0, 1], &[2, 9]), some_groups())
        .prop_map(|(key_type, keys)| Call::Group(GroupCall::FindCoordinator { key_type, keys }));
    let protocols = select(vec![
        vec!["range", "roundrobin"],
        vec!["range", "roundrobin"],
        vec!["roundrobin", "range"],
        vec!["roundrobin"],
        vec!["sticky"],
        vec![],
    ]);
    let session = mostly(&[SESSION_MS], &[1, -1, 10_000_000]);
    let protocol_type = mostly(&["consumer"], &["connect", ""]);
    let join = (group(), slot(), member(), mostly(&[true], &[false]), session, protocol_type, protocols)
        .prop_map(|(group, slot, member, usual, session_ms, protocol_type, protocols)| {
            let is_static = is_static(slot, usual);
            Call::Group(GroupCall::Join {
                group,
                slot,
                member,
                is_static,
                session_ms,
                protocol_type,
                protocols,
            })
        });
    let protocol = mostly(
        &[(None, None), (Some("consumer"), Some("range"))],
        &[(Some("connect"), None), (None, Some("sticky")), (Some("consumer"), Some("roundrobin"))],
    );
    let assigned = prop_oneof![3 => Just(vec![0, 1, 2]), 1 => Just(vec![]), 1 => Just(vec![0])];
    let sync = (group(), slot(), member(), mostly(&[true], &[false]), generation(), assigned, protocol)
        .prop_map(|(group, slot, member, usual, generation, assigned, protocol)| {
            let is_static = is_static(slot, usual);
            Call::Group(GroupCall::Sync { group, slot, member, is_static, generation, assigned, protocol })
        });
    let beat = (group(), slot(), member(), mostly(&[true], &[false]), generation()).prop_map(
        |(group, slot, member, usual, generation)| {
            let is_static = is_static(slot, usual);
            Call::Group(GroupCall::Heartbeat { group, slot, member, is_static, generation })
        },
    );
    let leaving = (slot(), member(), mostly(&[true], &[false]))
        .prop_map(|(slot, member, usual)| (slot, member, is_static(slot, usual)));
    let leave = (group(), proptest::collection::vec(leaving, 1..3)).prop_map(|(group, mut members)| {
        members.sort_by_key(|(slot, ..)| *slot);
        members.dedup_by_key(|(slot, ..)| *slot);
        Call::Group(GroupCall::Leave { group, members })
    });
    let delete = (group(), places(2)).prop_map(|(group, of)| Call::Group(GroupCall::Delete { group, of }));
    let describe = (some_groups(), any::<bool>())
        .prop_map(|(groups, operations)| Call::Group(GroupCall::Describe { groups, operations }));
    let states = proptest::collection::vec(mostly(&["Stable", "Empty", "stable"], &["Nothing", ""]), 0..2);
    let types = proptest::collection::vec(mostly(&["classic", "Consumer"], &["share", "none", ""]), 0..2);
    let list = (states, types).prop_map(|(states, types)| Call::Group(GroupCall::List { states, types }));
    let remove = some_groups().prop_map(|groups| Call::Group(GroupCall::DeleteGroups { groups }));
    prop_oneof![
        1 => step(ApiKey::FindCoordinator, find),
        8 => step(ApiKey::JoinGroup, join),
        5 => step(ApiKey::SyncGroup, sync),
        3 => step(ApiKey::Heartbeat, beat),
        2 => step(ApiKey::LeaveGroup, leave),
        3 => commit(),
        3 => fetch(),
        1 => step(ApiKey::OffsetDelete, delete),
        2 => step(ApiKey::DescribeGroups, describe),
        1 => step(ApiKey::ListGroups, list),
        1 => step(ApiKey::DeleteGroups, remove),
    ]
    .boxed()
}
