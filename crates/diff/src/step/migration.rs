//! One group in both protocols: members of the one join where those of the other are (KIP-848's upgrade and downgrade).
//!
//! One member is classic and one of the consumer protocol: of more, who is called how decides who is assigned what, and a classic
//! member's id is the server's choice. None is static: see `COMPATIBILITY.md`.

use anabranch_wire::messages::ApiKey;
use proptest::prelude::*;

use super::consumer::{ConsumerCall, MemberEpoch, Owned};
use super::group::{Generation, GroupCall, MemberRef, Metadata, SESSION_MS};
use super::{Call, Group, Step, Topic, mostly, step};

const GROUP: Group = Group::A;
const CLASSIC: u8 = 0;
const CONSUMER: u8 = 1;

fn classic(key: ApiKey, call: GroupCall) -> BoxedStrategy<Step> {
    step(key, Just(Call::Group(call)))
}

fn join() -> BoxedStrategy<Step> {
    let join = GroupCall::Join {
        group: GROUP,
        slot: CLASSIC,
        member: MemberRef::Own,
        is_static: false,
        session_ms: SESSION_MS,
        protocol_type: "consumer",
        protocols: vec!["range"],
    };
    classic(ApiKey::JoinGroup, join)
}

fn sync() -> BoxedStrategy<Step> {
    let sync = GroupCall::Sync {
        group: GROUP,
        slot: CLASSIC,
        member: MemberRef::Own,
        is_static: false,
        generation: Generation::Current,
        assigned: vec![0],
        protocol: (Some("consumer"), Some("range")),
    };
    classic(ApiKey::SyncGroup, sync)
}

fn heartbeat(epoch: MemberEpoch) -> BoxedStrategy<Step> {
    (0..=1_i16)
        .prop_map(move |version| {
            let joins = epoch == MemberEpoch::Join;
            let call = ConsumerCall::Heartbeat {
                group: GROUP,
                slot: CONSUMER,
                member: MemberRef::Own,
                epoch,
                is_static: false,
                wants: joins.then(|| vec![Topic::A]),
                pattern: None,
                assignor: None,
                owned: if joins { Owned::None } else { Owned::Assigned },
                rebalance_ms: if joins { SESSION_MS } else { -1 },
            };
            Step { version, call: Call::Consumer(call) }
        })
        .boxed()
}

fn look() -> BoxedStrategy<Step> {
    let (group, slot, member, is_static) = (GROUP, CLASSIC, MemberRef::Own, false);
    let commit =
        mostly(&[Generation::Current], &[Generation::Older, Generation::None]).prop_map(move |generation| {
            let offsets = vec![(Topic::A, 0, (1, -1, Metadata::Short))];
            Call::Group(GroupCall::Commit { group, slot, member, is_static, generation, offsets })
        });
    let fetch = GroupCall::Fetch { groups: vec![group], of: None, slot: None, stable: false };
    let describe = GroupCall::Describe { groups: vec![group], operations: false };
    let list = GroupCall::List { states: Vec::new(), types: Vec::new() };
    let described = ConsumerCall::Describe { groups: vec![group], operations: false };
    prop_oneof![
        step(ApiKey::OffsetCommit, commit),
        classic(ApiKey::OffsetFetch, fetch),
        classic(ApiKey::DescribeGroups, describe),
        classic(ApiKey::ListGroups, list),
        step(ApiKey::ConsumerGroupDescribe, Just(Call::Consumer(described))),
    ]
    .boxed()
}

/// A whole case: each member does what its client would, and takes its turn to the end. A group that is upgraded amid a
/// rebalance is one of the differences that are meant.
pub fn case() -> BoxedStrategy<Vec<Step>> {
    let (group, slot, member, is_static) = (GROUP, CLASSIC, MemberRef::Own, false);
    let beat = || {
        classic(
            ApiKey::Heartbeat,
            GroupCall::Heartbeat { group, slot, member, is_static, generation: Generation::Current },
        )
    };
    let leave =
        classic(ApiKey::LeaveGroup, GroupCall::Leave { group, members: vec![(slot, member, is_static)] });
    // The first may only tell its id.
    let joins = || (join(), join(), sync()).prop_map(|(first, second, sync)| vec![first, second, sync]);
    let beats = || heartbeat(MemberEpoch::Current);
    let turn = prop_oneof![
        3 => joins(),
        2 => beat().prop_map(|beat| vec![beat]),
        2 => (beat(), joins()).prop_map(|(beat, joins)| [vec![beat], joins].concat()),
        1 => (leave, beats()).prop_map(|(leave, beat)| vec![leave, beat]),
        3 => (heartbeat(MemberEpoch::Join), beats()).prop_map(|(joins, beat)| vec![joins, beat]),
        4 => beats().prop_map(|beat| vec![beat]),
        2 => (heartbeat(MemberEpoch::Leave), joins()).prop_map(|(leaves, joins)| [vec![leaves], joins].concat()),
        4 => look().prop_map(|look| vec![look]),
    ];
    proptest::collection::vec(turn, 3..16).prop_map(|turns| turns.concat()).boxed()
}
