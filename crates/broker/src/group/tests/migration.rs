//! Members of both protocols in one group, and groups that change theirs.

use super::consumer::{Consumers, beating, joining, static_joining};
use super::*;
use crate::group::config::Migration;
use crate::group::consumer::record::ConsumerRecord;
use crate::group::consumer_protocol::Assignment;
use crate::group::record::{Decoded, GroupRecord};
use crate::group::{ConsumerHeartbeat, GroupKind};

const COOPERATIVE: &str = "cooperative-sticky";

/// Reads `t`, and owns these partitions of it.
fn classic(owned: &[i32]) -> Join {
    let subscription = Subscription {
        owned: if owned.is_empty() { Vec::new() } else { vec![("t".into(), owned.to_vec())] },
        ..Subscription::to(vec!["t".into()])
    };
    Join { protocols: vec![(COOPERATIVE.into(), subscription.encode(1))], ..join("c") }
}

fn as_member(id: &str, join: Join) -> Join {
    Join { member_id: id.into(), ..join }
}

fn as_static(join: Join) -> Join {
    Join { instance_id: Some("i".into()), ..join }
}

fn assignment(partitions: &[i32]) -> Bytes {
    let partitions = if partitions.is_empty() { Vec::new() } else { vec![("t".into(), partitions.to_vec())] };
    Assignment { partitions, user_data: None }.encode(1)
}

impl Consumers {
    fn join(&mut self, join: Join) -> Result<Joined, GroupError> {
        let request = self.driver.send_join_among(join, &self.topics);
        self.driver.joined(request)
    }

    /// Partitions of `t`.
    fn synced(&mut self, id: &str, generation: i32) -> Result<Vec<i32>, GroupError> {
        let request = self.driver.send_sync(sync_of(id, generation));
        let synced = self.driver.synced(request)?;
        let partitions = Assignment::decode(&synced.assignment).unwrap().partitions;
        Ok(partitions.into_iter().flat_map(|(_, all)| all).collect())
    }

    fn heard(&mut self, id: &str, generation: i32) -> Result<(), GroupError> {
        self.driver.heartbeat(id, generation)
    }

    fn kind(&self) -> GroupKind {
        self.driver.groups.list().next().expect("there is a group").kind
    }

    /// A classic group of members that joined with these joins, each with the partitions beside it; the leader first.
    fn stable_classic(&mut self, members: Vec<(Join, &[i32])>) -> Vec<Joined> {
        let mut waiting = Vec::new();
        for (mut join, partitions) in members {
            let request = self.driver.send_join_among(join.clone(), &self.topics);
            if let Some(Response::Join(Ok(joined))) = self.driver.answers.remove(&request) {
                join.member_id = joined.member_id;
                waiting.push((Some(join), request, partitions));
            } else {
                waiting.push((None, request, partitions));
            }
        }
        let mut joined = Vec::new();
        for (again, request, partitions) in waiting {
            let request = match again {
                Some(join) => self.driver.send_join_among(join, &self.topics),
                None => request,
            };
            joined.push((request, partitions));
        }
        let mut members: Vec<(Joined, &[i32])> = joined
            .into_iter()
            .map(|(request, partitions)| (self.driver.joined(request).unwrap(), partitions))
            .collect();
        members.sort_by_key(|(member, _)| member.member_id != member.leader);
        let assignments: Vec<(String, Bytes)> = members
            .iter()
            .map(|(member, partitions)| (member.member_id.clone(), assignment(partitions)))
            .collect();
        for (member, _) in &members {
            let is_leader = member.member_id == member.leader;
            let assignments = if is_leader { assignments.clone() } else { Vec::new() };
            let request = self.driver.send_sync(Sync { assignments, ..sync(member, &[]) });
            self.driver.synced(request).unwrap();
        }
        members.into_iter().map(|(member, _)| member).collect()
    }

    fn set(&mut self, change: impl Fn(&mut GroupConfig)) {
        let mut config = GroupConfig::default();
        change(&mut config);
        self.driver = Driver::with(config);
    }
}

fn sync_of(id: &str, generation: i32) -> Sync {
    Sync {
        group: GROUP.into(),
        member_id: id.into(),
        instance_id: None,
        generation,
        protocol_type: Some("consumer".into()),
        protocol: Some(COOPERATIVE.into()),
        assignments: Vec::new(),
    }
}

#[test]
fn a_classic_group_is_upgraded_and_its_members_go_on() {
    let mut group = Consumers::of(&[("t", 3)]);
    let a = group.stable_classic(vec![(classic(&[]), &[0, 1, 2])]).remove(0);
    let generation = a.generation;
    let records = group.driver.log.len();
    assert_eq!(group.told(joining("new")), (generation + 1, Some(vec![])));
    assert_eq!(group.kind(), GroupKind::Consumer);
    // Kafka's order, but for the classic record, whose deletion is last.
    let order: Vec<&str> = group.driver.log[records..]
        .iter()
        .map(|record| match GroupRecord::decode(&record.key, record.value.as_deref()).unwrap() {
            Decoded::Record(GroupRecord::Consumer { record: ConsumerRecord::Member(..), .. }) => "member",
            Decoded::Record(GroupRecord::Consumer { record: ConsumerRecord::Epoch(_), .. }) => "epoch",
            Decoded::Record(GroupRecord::Consumer { record: ConsumerRecord::Target(..), .. }) => "target",
            Decoded::Record(GroupRecord::Consumer { record: ConsumerRecord::TargetEpoch(_), .. }) => {
                "target epoch"
            }
            Decoded::Record(GroupRecord::Consumer { record: ConsumerRecord::Current(..), .. }) => "current",
            Decoded::Record(GroupRecord::Group { value: None, .. }) => "classic group, deleted",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        order,
        [
            "member",
            "member",
            "epoch",
            "target",
            "target",
            "target epoch",
            "current",
            "current",
            "classic group, deleted"
        ]
    );

    group.restart();
    let a = a.member_id;
    assert_eq!(group.heard(&a, generation), Err(GroupError::RebalanceInProgress));
    let again = as_member(&a, classic(&[0, 1, 2]));
    let joined = group.join(again).unwrap();
    assert_eq!((joined.generation, &*joined.leader, joined.members.len()), (generation, "", 0));
    let kept = group.synced(&a, generation).unwrap();
    assert_eq!(kept.len(), 2, "it must give up one, in its old epoch");
    assert_eq!(group.told(beating("new", generation + 1)), (generation + 1, None));
    assert_eq!(
        group.heard(&a, generation),
        Err(GroupError::RebalanceInProgress),
        "it has not said that it has"
    );
    let joined = group.join(as_member(&a, classic(&kept))).unwrap();
    assert_eq!(joined.generation, generation + 1);
    assert_eq!(group.synced(&a, generation + 1), Ok(kept));
    assert_eq!(group.heard(&a, generation + 1), Ok(()));
    assert_eq!(group.told(beating("new", generation + 1)).1.unwrap().len(), 1);
    assert_eq!(group.state(), "Stable");
}

#[test]
fn who_waits_in_a_classic_group_is_told_to_join_again() {
    let mut group = Consumers::of(&[("t", 1)]);
    let first = group.join(classic(&[])).unwrap();
    let second = group.driver.send_join_among(classic(&[]), &group.topics);
    let sync = group.driver.send_sync(sync_of(&first.member_id, first.generation));
    assert!(group.driver.waits(second) && !group.driver.waits(sync));
    assert_eq!(group.told(joining("new")).0, first.generation + 1);
    assert_eq!(group.driver.joined(second), Err(GroupError::RebalanceInProgress));
    assert_eq!(group.heard(&first.member_id, first.generation), Err(GroupError::RebalanceInProgress));
}

/// KIP-848's coordinator assigns; one of a classic group gave a partition to two members, or what else cannot be taken over.
#[test]
fn a_classic_group_that_cannot_be_upgraded_stays() {
    type Configure = fn(&mut GroupConfig);
    type Prepare = fn(&mut Consumers);
    let stable: Prepare = |group| drop(group.stable_classic(vec![(classic(&[]), &[0])]));
    let cases: [(&str, Configure, Prepare); 7] = [
        ("online upgrade is disabled", |config| config.consumer.migration = Migration::Downgrade, stable),
        ("online upgrade is disabled", |config| config.consumer.migration = Migration::Disabled, stable),
        (
            "the group size exceeds the consumer group maximum size",
            |config| config.consumer.members_max = 1,
            |group| drop(group.stable_classic(vec![(classic(&[]), &[0]), (classic(&[]), &[])])),
        ),
        (
            "the group does not use the consumer embedded protocol",
            |_| {},
            |group| drop(group.join(Join { protocol_type: "connect".into(), ..classic(&[]) })),
        ),
        (
            "the embedded consumer protocol is malformed",
            |_| {},
            |group| {
                drop(
                    group.join(Join {
                        protocols: vec![("range".into(), Bytes::from_static(b"x"))],
                        ..join("c")
                    }),
                );
            },
        ),
        (
            "an unsupported custom assignor is in use",
            |_| {},
            |group| {
                let member = group.join(classic(&[])).unwrap();
                let told =
                    Assignment { partitions: vec![], user_data: Some(Bytes::from_static(b"mine")) }.encode(1);
                let assignments = vec![(member.member_id.clone(), told)];
                let request = group.driver.send_sync(Sync { assignments, ..sync(&member, &[]) });
                group.driver.synced(request).unwrap();
            },
        ),
        (
            "two of its members have the same partition",
            |_| {},
            |group| {
                drop(group.stable_classic(vec![(classic(&[]), &[0]), (classic(&[]), &[0])]));
            },
        ),
    ];
    for (reason, configure, prepare) in cases {
        let mut group = Consumers::of(&[("t", 1)]);
        group.set(configure);
        prepare(&mut group);
        let error = group.beat(joining("new")).unwrap_err();
        assert!(matches!(error, GroupError::NotUpgraded { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
        assert_eq!(group.kind(), GroupKind::Classic);
    }
    // Whoever is refused for another reason changes nothing either.
    let mut group = Consumers::of(&[("t", 1)]);
    group.stable_classic(vec![(classic(&[]), &[0])]);
    let unreadable = ConsumerHeartbeat { pattern: Some("(".into()), ..joining("new") };
    assert!(matches!(group.beat(unreadable), Err(GroupError::InvalidRegularExpression(_))));
    assert_eq!((group.kind(), group.driver.state()), (GroupKind::Classic, "Stable"));
}

#[test]
fn how_a_classic_member_joins_a_consumer_group() {
    let mut group = Consumers::of(&[("t", 2)]);
    group.told(joining("new"));
    let asked = group.join(Join { require_known_member_id: true, ..classic(&[]) });
    let Err(GroupError::MemberIdRequired(id)) = asked else { panic!("{asked:?}") };
    group.advance(2);
    let joined = group.join(Join { require_known_member_id: true, ..as_member(&id, classic(&[])) }).unwrap();
    assert_eq!((joined.generation, &*joined.member_id), (3, &*id));
    assert_eq!(joined.protocol.as_deref(), Some(COOPERATIVE));
    assert_eq!(group.synced(&id, 3), Ok(vec![]), "the other has both still");
    assert_eq!(group.heard(&id, 3), Ok(()), "nothing is free yet");
    let told = group.told(beating("new", 2)).1.unwrap();
    let given_up = group.owning(beating("new", 2), &told);
    assert_eq!(group.told(given_up).0, 3);
    assert_eq!(group.heard(&id, 3), Err(GroupError::RebalanceInProgress), "now it is");
    assert_eq!(group.join(as_member(&id, classic(&[]))).unwrap().generation, 3);
    assert_eq!(group.synced(&id, 3).unwrap().len(), 1);

    let described = group.driver.groups.describe_consumer(GROUP).unwrap();
    let member = described.members.iter().find(|member| member.member_id == id).unwrap();
    assert!(member.about.classic.is_some());
    let range = |name: &str| vec![(name.to_owned(), subscription(&["t"]))];
    let refused = [
        (Join { protocol_type: "connect".into(), ..classic(&[]) }, GroupError::InconsistentGroupProtocol),
        (Join { protocols: range("range"), ..classic(&[]) }, GroupError::InconsistentGroupProtocol),
        (Join { protocols: vec![], ..classic(&[]) }, GroupError::InconsistentGroupProtocol),
        (
            Join { protocols: vec![(COOPERATIVE.into(), Bytes::from_static(b"x"))], ..classic(&[]) },
            GroupError::UnknownServerError,
        ),
        (as_member("x", as_static(classic(&[]))), GroupError::UnknownMemberId),
    ];
    for (join, error) in refused {
        assert_eq!(group.join(join), Err(error));
    }
    assert_eq!(group.driver.groups.describe_consumer(GROUP).unwrap(), described, "nothing has changed");
    // An id that nobody gave out is as good as another.
    assert!(group.join(as_member("mine", classic(&[]))).is_ok());
}

#[test]
fn a_consumer_group_that_takes_no_classic_members() {
    let mut group = Consumers::of(&[("t", 1)]);
    group.set(|config| config.consumer.migration = Migration::Disabled);
    group.told(joining("new"));
    assert_eq!(group.join(classic(&[])), Err(GroupError::InconsistentGroupProtocol));
    let mut group = Consumers::of(&[("t", 1)]);
    group.set(|config| config.consumer.members_max = 1);
    group.told(joining("new"));
    assert_eq!(group.join(classic(&[])), Err(GroupError::GroupMaxSizeReached));
}

#[test]
fn what_a_classic_member_may_ask_of_a_consumer_group() {
    let mut group = Consumers::of(&[("t", 2)]);
    group.told(joining("new"));
    group.advance(2);
    let id = group.join(classic(&[])).unwrap().member_id;
    assert_eq!(group.heard("x", 3), Err(GroupError::UnknownMemberId));
    assert_eq!(group.heard("new", 2), Err(GroupError::UnknownMemberId), "it speaks the other protocol");
    assert_eq!(group.heard(&id, 2), Err(GroupError::IllegalGeneration));
    assert_eq!(group.synced("x", 3), Err(GroupError::UnknownMemberId));
    assert_eq!(group.synced("new", 2), Err(GroupError::UnknownMemberId));
    assert_eq!(group.synced(&id, 2), Err(GroupError::IllegalGeneration));
    for (protocol_type, protocol) in [("connect", COOPERATIVE), ("consumer", "range")] {
        let sync = Sync {
            protocol_type: Some(protocol_type.into()),
            protocol: Some(protocol.into()),
            ..sync_of(&id, 3)
        };
        let request = group.driver.send_sync(sync);
        assert_eq!(group.driver.synced(request), Err(GroupError::InconsistentGroupProtocol));
    }

    // Old versions of OffsetCommit are a classic member's right.
    let by = |id: &str, generation| Commit { member_id: id.into(), generation, by_epoch: false, ..commit(7) };
    assert_eq!(group.commit(by(&id, 3)), Ok(vec![Ok(())]));
    assert_eq!(group.commit(by(&id, 4)), Err(GroupError::IllegalGeneration));
    assert_eq!(group.commit(by(&id, 2)), Err(GroupError::IllegalGeneration), "it has not had t-0 since then");
    assert!(matches!(group.commit(by("new", 2)), Err(GroupError::UnsupportedVersion(_))));
    let groups = &group.driver.groups;
    assert_eq!(groups.check_fetch(GROUP, Some(&id), 3), Ok(()));
    assert_eq!(groups.check_fetch(GROUP, Some(&id), 2), Err(GroupError::IllegalGeneration));

    // Another joins: the target moves on, and so must the member.
    group.advance(2);
    group.told(joining("newer"));
    assert_eq!(group.heard(&id, 3), Err(GroupError::RebalanceInProgress));
    assert_eq!(group.synced(&id, 3), Err(GroupError::RebalanceInProgress));
    let left = group.driver.leave(&[leaver("x", None), leaver("new", None), leaver("", Some("i"))]);
    let unknown = || Err(GroupError::UnknownMemberId);
    assert_eq!(left, Ok(vec![unknown(), Ok(()), unknown()]), "LeaveGroup removes whomever it names");
    assert_eq!(group.kind(), GroupKind::Consumer);
}

#[test]
fn a_classic_member_that_is_silent_or_slow_is_sent_away() {
    let stable = || {
        let mut group = Consumers::of(&[("t", 2)]);
        group.told(joining("new"));
        group.advance(2);
        let id = group.join(Join { session_timeout_ms: 100_000, ..classic(&[]) }).unwrap().member_id;
        let kept = group.told(beating("new", 2)).1.unwrap();
        let given_up = group.owning(beating("new", 2), &kept);
        assert_eq!(group.told(given_up).0, 3);
        (group, id)
    };
    let is_member = |group: &Consumers, id: &str| {
        let described = group.driver.groups.describe_consumer(GROUP);
        described.is_some_and(|group| group.members.iter().any(|member| member.member_id == id))
    };
    // The other one stays, whatever happens.
    let wait = |group: &mut Consumers, seconds: u64| {
        for _ in 0..seconds / 10 {
            group.advance(10);
            let epoch = group.driver.groups.describe_consumer(GROUP).unwrap().members.last().unwrap().epoch;
            group.told(beating("new", epoch));
        }
    };

    let (mut group, id) = stable();
    group.synced(&id, 3).unwrap();
    wait(&mut group, 90);
    assert!(is_member(&group, &id), "the session is its own, not the group's");
    wait(&mut group, 10);
    assert!(!is_member(&group, &id), "its session is over");

    let (mut group, id) = stable();
    wait(&mut group, 50);
    assert!(is_member(&group, &id));
    wait(&mut group, 10);
    assert!(!is_member(&group, &id), "it did not ask for its assignment within its rebalance timeout");

    let (mut group, id) = stable();
    group.synced(&id, 3).unwrap();
    group.advance(2);
    group.told(ConsumerHeartbeat { topics: Some(vec![]), ..joining("newer") });
    for seconds in (0..60).step_by(10) {
        assert_eq!(group.heard(&id, 3), Err(GroupError::RebalanceInProgress), "after {seconds} s");
        group.advance(10);
        let _ = group.beat(beating("newer", 4));
    }
    assert!(!is_member(&group, &id), "it did not join again within its rebalance timeout");
}

#[test]
fn a_group_is_classic_again_when_the_last_of_the_new_goes() {
    type Go = fn(&mut Consumers);
    let ways: [Go; 3] = [
        |group| drop(group.told(beating("new", -1))),
        |group| drop(group.driver.leave(&[leaver("new", None)])),
        |group| group.advance(45),
    ];
    for go in ways {
        let mut group = Consumers::of(&[("t", 2)]);
        group.told(joining("new"));
        group.advance(2);
        let id = group.join(Join { session_timeout_ms: 100_000, ..classic(&[]) }).unwrap().member_id;
        group.synced(&id, 3).unwrap();
        go(&mut group);
        assert_eq!((group.kind(), group.driver.state()), (GroupKind::Classic, "PreparingRebalance"));
        assert_eq!(group.heard(&id, 3), Err(GroupError::RebalanceInProgress), "its generation is its epoch");
        assert_eq!(
            group.commit(Commit { member_id: id.clone(), generation: 3, ..commit(1) }),
            Ok(vec![Ok(())])
        );
        // A start finds the classic group, and lets it rebalance.
        group.restart();
        assert_eq!((group.kind(), group.driver.state()), (GroupKind::Classic, "PreparingRebalance"));
        let joined = group.join(as_member(&id, classic(&[]))).unwrap();
        assert_eq!((joined.generation, &joined.leader), (4, &id));
        let told = vec![(id.clone(), assignment(&[0, 1]))];
        let request = group.driver.send_sync(Sync { assignments: told, ..sync(&joined, &[]) });
        assert_eq!(group.driver.synced(request).unwrap().assignment, assignment(&[0, 1]));
        group.restart();
        assert_eq!((group.driver.state(), group.heard(&id, 4)), ("Stable", Ok(())));
        let mut newest: BTreeMap<Bytes, bool> = BTreeMap::new();
        for record in &group.driver.log {
            newest.insert(record.key.clone(), record.value.is_some());
        }
        let left = newest.iter().filter(|(key, is_there)| **is_there && key[1] >= 3).count();
        assert_eq!(left, 0, "what was stored of the consumer group is deleted");
    }
}

#[test]
fn a_group_stays_where_the_policy_does_not_let_it_go() {
    for (policy, limit) in [(Migration::Upgrade, 10_000), (Migration::Bidirectional, 0)] {
        let mut group = Consumers::of(&[("t", 2)]);
        group.set(|config| (config.consumer.migration, config.members_max) = (policy, limit));
        group.told(joining("new"));
        group.advance(2);
        let id = group.join(classic(&[])).unwrap().member_id;
        group.synced(&id, 3).unwrap();
        group.told(beating("new", -1));
        assert_eq!(group.kind(), GroupKind::Consumer);
        // Nobody is left whose heartbeats would let the assignor run.
        group.advance(2);
        assert_eq!(group.heard(&id, 3), Err(GroupError::RebalanceInProgress));
        assert_eq!(group.join(as_member(&id, classic(&[]))).unwrap().generation, 4);
        assert_eq!(group.synced(&id, 4), Ok(vec![0, 1]));
        group.topics.grow("t");
        let heard = group.driver.groups.heartbeat(
            Heartbeat { group: GROUP, member_id: &id, instance_id: None, generation: 4 },
            &group.topics,
            group.driver.now,
        );
        assert_eq!(heard, Err(GroupError::RebalanceInProgress), "nor anybody who would look at topics");
    }
}

#[test]
fn static_members_change_their_protocol_in_place() {
    let mut group = Consumers::of(&[("t", 2)]);
    assert_eq!(group.told(static_joining("new")), (2, Some(vec![0, 1])));
    // Back to classic: the last of the new is replaced, nobody rebalances, and it has what its former self had.
    let joined = group.join(as_static(classic(&[]))).unwrap();
    assert_eq!((joined.generation, group.kind()), (2, GroupKind::Classic));
    let request =
        group.driver.send_sync(Sync { instance_id: Some("i".into()), ..sync_of(&joined.member_id, 2) });
    assert_eq!(group.driver.synced(request).unwrap().assignment, assignment(&[0, 1]));
    let stale = ConsumerHeartbeat { instance_id: Some("i".into()), ..beating("new", 2) };
    assert_eq!(group.beat(stale), Err(GroupError::GroupIdNotFound));
    group.restart();
    assert_eq!((group.driver.state(), group.heard(&joined.member_id, 2)), ("Stable", Ok(())));
    // And forth: a classic static member need not have left.
    let told = group.told(static_joining("newer"));
    assert_eq!((told.1, group.kind()), (Some(vec![0, 1]), GroupKind::Consumer));
    let old = Heartbeat { group: GROUP, member_id: &joined.member_id, instance_id: Some("i"), generation: 2 };
    let heard = group.driver.groups.heartbeat(old, &group.topics, group.driver.now);
    assert_eq!(heard, Err(GroupError::FencedInstanceId));
}

#[test]
fn a_replacement_lets_a_group_rebalance_that_is_on_its_way() {
    let mut group = Consumers::of(&[("t", 2)]);
    group.told(static_joining("new"));
    group.advance(2);
    let id = group.join(classic(&[])).unwrap().member_id;
    group.synced(&id, 3).unwrap();
    // The first has not given up anything yet.
    let joined = group.join(as_static(classic(&[]))).unwrap();
    assert_eq!((group.kind(), group.driver.state()), (GroupKind::Classic, "PreparingRebalance"));
    assert_eq!(group.heard(&id, 3), Err(GroupError::RebalanceInProgress));
    let request = group
        .driver
        .send_sync(Sync { instance_id: Some("i".into()), ..sync_of(&joined.member_id, joined.generation) });
    assert_eq!(group.driver.synced(request), Err(GroupError::RebalanceInProgress));
}

#[test]
fn an_answer_waits_for_the_store_of_a_conversion() {
    let mut group = Consumers::of(&[("t", 2)]);
    let a = group.stable_classic(vec![(classic(&[]), &[0, 1])]).remove(0);
    group.driver.is_prompt = false;
    let refused = group.send(&joining("new"));
    group.driver.end_store(Err(StoreError::Unavailable));
    assert_eq!(group.answer(refused), Err(GroupError::CoordinatorNotAvailable));
    let join = group.driver.send_join_among(as_member(&a.member_id, classic(&[0, 1])), &group.topics);
    assert!(group.driver.waits(join));
    group.driver.end_store(Ok(()));
    assert_eq!(group.driver.joined(join).unwrap().generation, a.generation, "what failed was stored with it");
    group.restart();
    assert_eq!(group.kind(), GroupKind::Consumer);

    // And back; an answer of the consumer group that is stored only now rests on what nobody knows of any more.
    group.driver.is_prompt = false;
    let late = group.driver.send_join_among(as_member(&a.member_id, classic(&[])), &group.topics);
    let left = group.send(&beating("new", -1));
    assert_eq!(group.kind(), GroupKind::Classic);
    group.driver.end_store(Ok(()));
    assert_eq!(group.driver.joined(late), Err(GroupError::CoordinatorNotAvailable));
    group.driver.end_store(Err(StoreError::Unavailable));
    assert_eq!(group.answer(left), Err(GroupError::CoordinatorNotAvailable));
}

/// A crash in the middle of a conversion leaves the group as it was before, or as it is after.
#[test]
fn a_torn_conversion_is_none() {
    let mut cuts = 0;
    loop {
        let mut group = Consumers::of(&[("t", 4)]);
        let a = group.stable_classic(vec![(classic(&[]), &[0, 1, 2, 3])]).remove(0);
        let before = group.driver.log.len();
        group.told(joining("new"));
        let whole = group.driver.log.len() - before;
        if cuts > whole {
            break;
        }
        group.driver.log.truncate(before + cuts);
        group.restart();
        let generation = a.generation;
        if cuts < whole {
            assert_eq!(
                (group.kind(), group.driver.state()),
                (GroupKind::Classic, "Stable"),
                "{cuts} records"
            );
            assert_eq!(group.heard(&a.member_id, generation), Ok(()));
            assert_eq!(group.told(joining("new")), (generation + 1, Some(vec![])), "{cuts} records");
        }
        assert_eq!(group.kind(), GroupKind::Consumer);
        assert_eq!(group.heard(&a.member_id, generation), Err(GroupError::RebalanceInProgress));

        let before = group.driver.log.len();
        group.told(beating("new", -1));
        let whole = group.driver.log.len() - before;
        for cut in 0..=whole {
            let log = group.driver.log.clone();
            group.driver.log.truncate(before + cut);
            group.restart();
            let kind = if cut == 0 { GroupKind::Consumer } else { GroupKind::Classic };
            assert_eq!(group.kind(), kind, "{cut} records");
            // It has not caught up with the group's epoch, which is the generation now.
            let error =
                if cut == 0 { GroupError::RebalanceInProgress } else { GroupError::IllegalGeneration };
            assert_eq!(group.heard(&a.member_id, generation), Err(error), "{cut} records");
            group.driver.log = log;
        }
        cuts += 1;
    }
    assert!(cuts > 5);
}
