//! Groups in the consumer protocol (KIP-848).

use anabranch_wire::messages::consumer_group_heartbeat_request::TopicPartitions;
use anabranch_wire::messages::*;
use anabranch_wire::{Request, Response};
use proptest::prelude::*;
use proptest::sample::select;

use super::group::{MEMBERS, MemberRef, instance};
use super::{Call, Group, Step, Topic, group, mostly, step};
use crate::client::text;
use crate::side::State;

/// A request about a group in the consumer protocol.
#[derive(Debug, Clone)]
pub enum ConsumerCall {
    /// Joins, lives, tells, leaves.
    Heartbeat {
        /// Which.
        group: Group,
        /// Where the member's id is kept.
        slot: u8,
        /// Which it says.
        member: MemberRef,
        /// Which it says.
        epoch: MemberEpoch,
        /// Whether it is a static member.
        is_static: bool,
        /// The topics that it wants.
        wants: Option<Vec<Topic>>,
        /// The topics that it wants by a pattern, where the version can. Kafka looks for them behind the answer, and counts
        /// epochs as it goes, so that none of those here is valid.
        pattern: Option<&'static str>,
        /// Who should assign.
        assignor: Option<&'static str>,
        /// What it says that it has.
        owned: Owned,
        /// How long it may take to give up partitions.
        rebalance_ms: i32,
    },
    /// Shows.
    Describe {
        /// Which.
        groups: Vec<Group>,
        /// What the client may do.
        operations: bool,
    },
}

/// A member's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberEpoch {
    /// Joins.
    Join,
    /// The newest that it was told.
    Current,
    /// One less.
    Older,
    /// One more.
    Newer,
    /// Leaves.
    Leave,
    /// A static member leaves for a while.
    LeaveForNow,
}

/// What a member says that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owned {
    /// Nothing is said.
    Unsaid,
    /// Nothing.
    None,
    /// What it was assigned.
    Assigned,
}

fn own_id(state: &State, slot: u8) -> String {
    format!("{}member-{slot}", state.prefix)
}

impl ConsumerCall {
    pub(super) fn key(&self) -> ApiKey {
        match self {
            Self::Heartbeat { .. } => ApiKey::ConsumerGroupHeartbeat,
            Self::Describe { .. } => ApiKey::ConsumerGroupDescribe,
        }
    }

    pub(super) fn request(&self, version: i16, state: &State) -> Request {
        match self {
            Self::Heartbeat {
                group,
                slot,
                member,
                epoch,
                is_static,
                wants,
                pattern,
                assignor,
                owned,
                rebalance_ms,
            } => {
                let known = state.consumers.get(&(*group, *slot)).cloned().unwrap_or_default();
                let id = match member {
                    // Also in version 0, where the server could give one: who is assigned what goes by it.
                    MemberRef::Own if known.id.is_empty() => text(&own_id(state, *slot)),
                    MemberRef::Own => known.id,
                    MemberRef::Empty => text(""),
                    MemberRef::Unknown => text("nobody"),
                };
                let epoch = match epoch {
                    MemberEpoch::Join => 0,
                    MemberEpoch::Current => known.epoch,
                    MemberEpoch::Older => known.epoch - 1,
                    MemberEpoch::Newer => known.epoch + 1,
                    MemberEpoch::Leave => -1,
                    MemberEpoch::LeaveForNow => -2,
                };
                let owned = match owned {
                    Owned::Unsaid => None,
                    Owned::None => Some(Vec::new()),
                    Owned::Assigned => {
                        let each = known.assigned.into_iter().map(|(id, partitions)| {
                            TopicPartitions::default().with_topic_id(id).with_partitions(partitions)
                        });
                        Some(each.collect())
                    }
                };
                let wants = wants.as_ref();
                let wants = wants.map(|wants| wants.iter().map(|topic| state.topic(*topic)).collect());
                let pattern = pattern.filter(|_| version >= 1).map(text);
                ConsumerGroupHeartbeatRequest::default()
                    .with_group_id(state.group(*group))
                    .with_member_id(id)
                    .with_member_epoch(epoch)
                    .with_instance_id(instance(*is_static, *slot))
                    .with_rebalance_timeout_ms(*rebalance_ms)
                    .with_subscribed_topic_names(wants)
                    .with_subscribed_topic_regex(pattern)
                    .with_server_assignor(assignor.map(text))
                    .with_topic_partitions(owned)
                    .into()
            }
            Self::Describe { groups, operations } => ConsumerGroupDescribeRequest::default()
                .with_group_ids(groups.iter().map(|group| state.group(*group)).collect())
                .with_include_authorized_operations(*operations)
                .into(),
        }
    }

    pub(super) fn learn(&self, request: &Request, response: &Response, state: &mut State) {
        let (Self::Heartbeat { group, slot, .. }, Response::ConsumerGroupHeartbeat(told)) = (self, response)
        else {
            return;
        };
        let Request::ConsumerGroupHeartbeat(asked) = request else { return };
        if told.error_code != 0 {
            return;
        }
        let id = told.member_id.clone().unwrap_or_else(|| asked.member_id.clone());
        if !id.starts_with(&*state.prefix) {
            state.name(&id, &format!("consumer {slot} of {group:?}"));
        }
        let known = state.consumers.entry((*group, *slot)).or_default();
        known.id = id;
        known.epoch = told.member_epoch;
        if let Some(assignment) = &told.assignment {
            let each = assignment.topic_partitions.iter();
            known.assigned = each.map(|each| (each.topic_id, each.partitions.clone())).collect();
        }
    }
}

fn some_groups() -> impl Strategy<Value = Vec<Group>> + Clone {
    proptest::collection::vec(group(), 1..3).prop_map(|mut groups| {
        groups.sort_unstable();
        groups.dedup();
        groups
    })
}

const WANTS: &[&[Topic]] = &[&[Topic::A], &[Topic::A, Topic::B], &[Topic::B]];
const ODD_WANTS: &[&[Topic]] = &[&[], &[Topic::Never], &[Topic::A, Topic::Never], &[Topic::Empty]];

/// Not of RE2, or none at all.
const NO_PATTERNS: &[&str] = &["(", "", "(?=a)", "(a)\\1", "[b-a]", "*a", "a{2,1}", "\\pX", "(?<!a)"];

fn heartbeat() -> BoxedStrategy<Step> {
    let kind = prop_oneof![
        4 => Just(MemberEpoch::Join),
        8 => Just(MemberEpoch::Current),
        1 => Just(MemberEpoch::Older),
        1 => Just(MemberEpoch::Newer),
        2 => Just(MemberEpoch::Leave),
        1 => Just(MemberEpoch::LeaveForNow),
    ];
    let wants = mostly(WANTS, ODD_WANTS);
    let pattern = prop_oneof![9 => Just(None), 1 => select(NO_PATTERNS).prop_map(Some)];
    let assignor = mostly(&[None, None, Some("any")], &[Some("sticky"), Some("")]);
    // Owning and waiting as Java's client does, mostly.
    let usual = mostly(&[true], &[false]);
    let odd = (
        mostly(&[Owned::Assigned], &[Owned::None, Owned::Unsaid]),
        mostly(&[60_000], &[-1, 0, -2]),
        any::<bool>(),
    );
    let member = mostly(&[MemberRef::Own], &[MemberRef::Unknown]);
    let group = prop_oneof![5 => Just(Group::A), 1 => group()];
    (0..=1_i16, (group, 0..MEMBERS, member, kind), wants, pattern, assignor, (usual, odd))
        .prop_map(|(version, (group, slot, member, epoch), wants, pattern, assignor, (usual, odd))| {
            let joins = epoch == MemberEpoch::Join;
            // Which of three members has none of two partitions goes by the order of a hash map in Kafka.
            let slot = if group == Group::A { slot % 2 * (MEMBERS - 1) } else { slot };
            let (owned, rebalance_ms, says) = match (usual, joins) {
                (true, true) => (Owned::None, 60_000, true),
                (true, false) => (Owned::Assigned, -1, false),
                (false, _) => odd,
            };
            let is_static = slot == MEMBERS - 1 || epoch == MemberEpoch::LeaveForNow && usual;
            let pattern = if version == 0 { None } else { pattern };
            let no_pattern = pattern.is_none();
            let pattern = if says { pattern } else { None };
            // Which of two topics goes to whom depends on their ids in Kafka's uniform assignor.
            let wants = if group == Group::A { WANTS[0] } else { wants };
            // All of a group want the same: how a tie is broken is nobody's promise.
            let of_group = if group == Group::B { "range" } else { "uniform" };
            let assignor = assignor.map(|name| if name == "any" { of_group } else { name });
            let wants = (says && (no_pattern || !usual)).then(|| wants.to_vec());
            let assignor = if says { assignor } else { None };
            let call = ConsumerCall::Heartbeat {
                group,
                slot,
                member,
                epoch,
                is_static,
                wants,
                pattern,
                assignor,
                owned,
                rebalance_ms,
            };
            Step { version, call: Call::Consumer(call) }
        })
        .boxed()
}

/// What is asked of groups in the consumer protocol.
pub(super) fn steps() -> BoxedStrategy<Step> {
    let describe = (some_groups(), any::<bool>())
        .prop_map(|(groups, operations)| Call::Consumer(ConsumerCall::Describe { groups, operations }));
    prop_oneof![
        12 => heartbeat(),
        2 => step(ApiKey::ConsumerGroupDescribe, describe),
        1 => super::group::fetch(),
        1 => super::group::commit(),
    ]
    .boxed()
}
