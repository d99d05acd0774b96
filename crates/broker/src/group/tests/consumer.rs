//! Groups in the consumer protocol.

use anabranch_core::TopicId;
use uuid::Uuid;

use super::*;
use crate::group::config::Migration;
use crate::group::consumer::record::ConsumerRecord;
use crate::group::record::{Decoded, GroupRecord};
use crate::group::{Assignor, Beat, ConsumerHeartbeat, GroupKind, Topics};

/// Topics by name; every change is a version of its own.
#[derive(Debug, Clone, Default)]
pub(super) struct TestTopics {
    version: u64,
    topics: BTreeMap<String, (TopicId, i32)>,
    created: u128,
}

impl TestTopics {
    pub(super) fn of(topics: &[(&str, i32)]) -> Self {
        let mut all = Self::default();
        for (name, count) in topics {
            all.create(name, *count);
        }
        all
    }

    pub(super) fn create(&mut self, name: &str, count: i32) -> TopicId {
        self.created += 1;
        self.version += 1;
        let id = TopicId(Uuid::from_u128(self.created));
        self.topics.insert(name.to_owned(), (id, count));
        id
    }

    pub(super) fn grow(&mut self, name: &str) {
        self.version += 1;
        self.topics.get_mut(name).unwrap().1 += 1;
    }

    pub(super) fn all(&self) -> &BTreeMap<String, (TopicId, i32)> {
        &self.topics
    }

    pub(super) fn id(&self, name: &str) -> TopicId {
        self.topics[name].0
    }
}

impl Topics for TestTopics {
    fn version(&self) -> u64 {
        self.version
    }

    fn get(&self, name: &str) -> Option<(TopicId, i32)> {
        self.topics.get(name).copied()
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.topics.keys().map(String::as_str))
    }
}

/// Joins, reading `t`.
pub(super) fn joining(id: &str) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        group: GROUP.into(),
        member_id: id.into(),
        chooses_id: true,
        member_epoch: 0,
        instance_id: None,
        rack_id: None,
        rebalance_timeout_ms: 60_000,
        topics: Some(vec!["t".into()]),
        pattern: None,
        assignor: None,
        owned: Some(Vec::new()),
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
    }
}

/// A heartbeat with nothing new.
pub(super) fn beating(id: &str, epoch: i32) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        member_epoch: epoch,
        rebalance_timeout_ms: -1,
        topics: None,
        owned: None,
        ..joining(id)
    }
}

pub(super) fn static_joining(id: &str) -> ConsumerHeartbeat {
    ConsumerHeartbeat { instance_id: Some("i".into()), ..joining(id) }
}

/// A driver and its topics.
pub(super) struct Consumers {
    pub(super) driver: Driver,
    pub(super) topics: TestTopics,
}

impl Consumers {
    pub(super) fn of(topics: &[(&str, i32)]) -> Self {
        Self { driver: Driver::new(), topics: TestTopics::of(topics) }
    }

    pub(super) fn send(&mut self, beat: &ConsumerHeartbeat) -> RequestId {
        let request = self.driver.next();
        let effects = self.driver.groups.heartbeat_consumer(request, beat, &self.topics, self.driver.now);
        self.driver.perform(effects);
        request
    }

    pub(super) fn answer(&mut self, request: RequestId) -> Result<Beat, GroupError> {
        match self.driver.answer(request) {
            Response::Beat(result) => result,
            other => panic!("{other:?}"),
        }
    }

    #[allow(clippy::needless_pass_by_value)]
    pub(super) fn beat(&mut self, beat: ConsumerHeartbeat) -> Result<Beat, GroupError> {
        let request = self.send(&beat);
        self.answer(request)
    }

    /// Epoch, and partitions of `t`, if any are told.
    pub(super) fn told(&mut self, beat: ConsumerHeartbeat) -> (i32, Option<Vec<i32>>) {
        let answer = self.beat(beat).unwrap();
        let of_t = |all: Vec<(TopicId, Vec<i32>)>| all.into_iter().flat_map(|(_, all)| all).collect();
        (answer.member_epoch, answer.assignment.map(of_t))
    }

    pub(super) fn owning(&self, beat: ConsumerHeartbeat, partitions: &[i32]) -> ConsumerHeartbeat {
        ConsumerHeartbeat { owned: Some(vec![(self.topics.id("t"), partitions.to_vec())]), ..beat }
    }

    pub(super) fn restart(&mut self) {
        self.driver.restart_among(&self.topics);
    }

    pub(super) fn state(&self) -> &'static str {
        self.driver.groups.describe_consumer(GROUP).map_or("Dead", |group| group.state.name())
    }

    pub(super) fn advance(&mut self, seconds: u64) {
        self.driver.advance(Duration::from_secs(seconds));
    }

    pub(super) fn commit(&mut self, commit: Commit) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let request = self.driver.send_commit(commit);
        self.driver.committed(request)
    }
}

#[test]
fn a_member_alone_has_everything() {
    let mut group = Consumers::of(&[("t", 3)]);
    assert_eq!(group.told(joining("a")), (2, Some(vec![0, 1, 2])));
    assert_eq!(group.told(beating("a", 2)), (2, None), "nothing is new");
    assert_eq!(group.state(), "Stable");
    let listed: Vec<_> = group.driver.groups.list().collect();
    assert_eq!((listed[0].kind, &*listed[0].protocol_type), (GroupKind::Consumer, "consumer"));
    assert!(group.driver.groups.describe(GROUP).is_none(), "it is no classic group");
    let full = ConsumerHeartbeat { member_epoch: 2, ..group.owning(joining("a"), &[0, 1, 2]) };
    assert_eq!(group.told(full), (2, Some(vec![0, 1, 2])), "who says everything is told everything");
}

#[test]
fn partitions_move_when_their_member_has_given_them_up() {
    let mut group = Consumers::of(&[("t", 3)]);
    group.told(joining("a"));
    group.advance(2);
    assert_eq!(group.told(joining("b")), (3, Some(vec![])), "all of it is another's still");
    assert_eq!(group.state(), "Reconciling");
    assert_eq!(
        group.told(beating("a", 2)),
        (2, Some(vec![0, 1])),
        "it stays in its epoch until it has given up"
    );
    assert_eq!(group.told(beating("b", 3)), (3, None));
    let still = group.owning(beating("a", 2), &[0, 1, 2]);
    assert_eq!(group.told(still), (2, None));
    let given_up = group.owning(beating("a", 2), &[0, 1]);
    assert_eq!(group.told(given_up), (3, None));
    assert_eq!(group.told(beating("b", 3)), (3, Some(vec![2])));
    assert_eq!(group.state(), "Stable");
}

#[test]
fn the_assignor_rests_between_two_runs() {
    let mut group = Consumers::of(&[("t", 2)]);
    group.told(joining("a"));
    assert_eq!(group.told(joining("b")), (2, Some(vec![])), "it ran less than a second ago");
    assert_eq!(group.state(), "Assigning");
    group.advance(1);
    assert_eq!(group.told(beating("b", 2)), (3, None));
    assert_eq!(group.told(beating("a", 2)), (2, Some(vec![0])));
}

#[test]
fn what_a_heartbeat_must_say() {
    let mut group = Consumers::of(&[("t", 2)]);
    let mut check = |beat: ConsumerHeartbeat, expected: GroupError| {
        assert_eq!(group.beat(beat), Err(expected));
        assert_eq!(group.state(), "Dead", "nothing is made of what is refused");
    };
    let join = || joining("a");
    let invalid = GroupError::Invalid;
    check(joining(""), invalid("MemberId can't be empty."));
    check(ConsumerHeartbeat { chooses_id: false, ..beating("", 2) }, invalid("MemberId can't be empty."));
    check(ConsumerHeartbeat { group: String::new(), ..join() }, invalid("GroupId can't be empty."));
    check(
        ConsumerHeartbeat { instance_id: Some(String::new()), ..join() },
        invalid("InstanceId can't be empty."),
    );
    check(ConsumerHeartbeat { rack_id: Some(String::new()), ..join() }, invalid("RackId can't be empty."));
    check(
        ConsumerHeartbeat { rebalance_timeout_ms: -1, ..join() },
        invalid("RebalanceTimeoutMs must be provided in first request."),
    );
    check(
        ConsumerHeartbeat { owned: None, ..join() },
        invalid("TopicPartitions must be empty when (re-)joining."),
    );
    check(
        ConsumerHeartbeat { topics: None, ..join() },
        invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining."),
    );
    check(ConsumerHeartbeat { member_epoch: -2, ..join() }, invalid("InstanceId can't be null."));
    check(ConsumerHeartbeat { member_epoch: -3, ..join() }, invalid("MemberEpoch is invalid."));
    let assignor = ConsumerHeartbeat { assignor: Some("sticky".into()), ..join() };
    check(
        assignor,
        GroupError::UnsupportedAssignor { name: "sticky".into(), known: vec!["uniform", "range"] },
    );
    check(beating("a", 2), GroupError::GroupIdNotFound);
    check(beating("a", -1), GroupError::GroupIdNotFound);
    let pattern = ConsumerHeartbeat { pattern: Some("(".into()), ..join() };
    assert!(matches!(group.beat(pattern), Err(GroupError::InvalidRegularExpression(_))));
    assert_eq!(group.state(), "Dead");
}

#[test]
fn old_clients_are_given_an_id() {
    let mut group = Consumers::of(&[("t", 1)]);
    let joined = group.beat(ConsumerHeartbeat { chooses_id: false, ..joining("") }).unwrap();
    assert_eq!(joined.member_id.len(), 22, "a uuid as Kafka writes it: {}", joined.member_id);
    assert!(group.beat(beating(&joined.member_id, 2)).is_ok());
}

#[test]
fn a_member_of_another_epoch_is_fenced() {
    let mut group = Consumers::of(&[("t", 2)]);
    group.told(joining("a"));
    group.advance(2);
    group.told(joining("b"));
    group.told(beating("a", 2));
    let given_up = group.owning(beating("a", 2), &[0]);
    assert_eq!(group.told(given_up.clone()), (3, None));
    assert_eq!(group.told(given_up), (3, None), "the answer may have been lost");
    let more = group.owning(beating("a", 2), &[0, 1]);
    assert_eq!(group.beat(more), Err(GroupError::FencedMemberEpoch), "that is not its own any more");
    assert_eq!(group.beat(beating("a", 2)), Err(GroupError::FencedMemberEpoch));
    assert_eq!(group.beat(beating("a", 4)), Err(GroupError::FencedMemberEpoch));
    assert_eq!(group.beat(beating("x", 3)), Err(GroupError::UnknownMemberId));
    assert_eq!(group.told(joining("a")), (3, Some(vec![0])), "who is fenced joins again");
}

#[test]
fn silence_and_stubbornness_end_a_membership() {
    let mut group = Consumers::of(&[("t", 2)]);
    group.told(joining("a"));
    group.advance(2);
    group.told(joining("b"));
    assert_eq!(group.told(beating("a", 2)), (2, Some(vec![0])));
    for _ in 0..5 {
        group.advance(10);
        // It says in time that it lives, and never that it has given anything up.
        group.told(beating("a", 2));
        group.told(beating("b", 3));
    }
    group.advance(10);
    assert_eq!(group.beat(beating("a", 2)), Err(GroupError::UnknownMemberId), "it had 60 s");
    assert_eq!(group.told(beating("b", 3)), (4, Some(vec![0, 1])));
    group.advance(44);
    assert_eq!(group.state(), "Stable");
    group.advance(1);
    assert_eq!(group.state(), "Empty", "45 s of silence");
    assert!(
        group.driver.groups.describe_consumer(GROUP).unwrap().epoch > 4,
        "each who goes moves the group on"
    );
}

#[test]
fn a_member_leaves() {
    let mut group = Consumers::of(&[("t", 2)]);
    group.told(joining("a"));
    group.advance(2);
    group.told(joining("b"));
    assert_eq!(group.beat(beating("x", -1)), Err(GroupError::UnknownMemberId));
    assert_eq!(group.told(beating("a", -1)), (-1, None));
    group.advance(2);
    assert_eq!(group.told(beating("b", 3)), (4, Some(vec![0, 1])));
    group.told(beating("b", -1));
    assert_eq!(group.state(), "Empty");
    group.restart();
    assert_eq!(group.state(), "Empty");
    assert_eq!(group.told(joining("a")), (6, Some(vec![0, 1])), "epochs go on");
}

#[test]
fn a_static_member_comes_back_to_what_it_had() {
    let mut group = Consumers::of(&[("t", 2)]);
    assert_eq!(group.told(static_joining("a")), (2, Some(vec![0, 1])));
    assert_eq!(group.beat(static_joining("b")), Err(GroupError::UnreleasedInstanceId));
    let gone = ConsumerHeartbeat { member_epoch: -2, ..static_joining("a") };
    assert_eq!(group.told(gone), (-2, None));
    group.restart();
    assert_eq!(group.told(static_joining("b")), (2, Some(vec![0, 1])), "no new epoch");
    let old = ConsumerHeartbeat { instance_id: Some("i".into()), ..beating("a", 2) };
    assert_eq!(group.beat(old.clone()), Err(GroupError::FencedInstanceId));
    let unknown = ConsumerHeartbeat { instance_id: Some("j".into()), ..old };
    assert_eq!(group.beat(unknown), Err(GroupError::UnknownMemberId));
    group.restart();
    let new = ConsumerHeartbeat { instance_id: Some("i".into()), ..beating("b", 2) };
    assert_eq!(group.told(new.clone()), (2, None));
    group.told(ConsumerHeartbeat { member_epoch: -2, ..new });
    group.advance(45);
    assert_eq!(group.state(), "Empty", "it did not come back in time");
}

#[test]
fn a_full_group_takes_nobody_else() {
    let mut group = Consumers::of(&[("t", 2)]);
    let mut config = GroupConfig::default();
    config.consumer.members_max = 1;
    group.driver = Driver::with(config);
    group.told(joining("a"));
    assert_eq!(group.beat(joining("b")), Err(GroupError::GroupMaxSizeReached));
    assert_eq!(group.told(joining("a")), (2, Some(vec![0, 1])));
}

#[test]
fn a_member_is_answered_when_what_it_is_told_is_durable() {
    let mut group = Consumers::of(&[("t", 2)]);
    group.driver.is_prompt = false;
    let first = group.send(&joining("a"));
    let again = group.send(&joining("a"));
    let plain = group.send(&beating("a", 2));
    assert!(group.driver.waits(first) && group.driver.waits(again) && group.driver.waits(plain));
    group.driver.end_store(Err(StoreError::Unavailable));
    assert_eq!(group.answer(first), Err(GroupError::CoordinatorNotAvailable));
    group.driver.end_store(Ok(()));
    assert_eq!(
        group.answer(again),
        Err(GroupError::CoordinatorNotAvailable),
        "what it rests on is not durable, though its own store is"
    );
    group.driver.end_store(Ok(()));
    assert_eq!(group.answer(plain), Err(GroupError::CoordinatorNotAvailable));
    // The next one stores anew what failed.
    let next = group.send(&joining("a"));
    assert!(group.driver.waits(next));
    group.driver.end_store(Ok(()));
    assert_eq!(group.answer(next).unwrap().member_epoch, 2);
    let records = group.driver.log.len();
    group.driver.is_prompt = true;
    assert_eq!(group.told(beating("a", 2)), (2, None));
    assert_eq!(group.driver.log.len(), records, "a heartbeat without news touches no log");
    let before = group.driver.groups.describe_consumer(GROUP);
    group.restart();
    assert_eq!(group.driver.groups.describe_consumer(GROUP), before);
}

#[test]
fn records_are_stored_in_kafkas_order() {
    let mut group = Consumers::of(&[("t", 2)]);
    group.told(ConsumerHeartbeat { pattern: Some("t.*".into()), ..joining("a") });
    let kinds: Vec<i16> =
        group.driver.log.iter().map(|record| i16::from_be_bytes([record.key[0], record.key[1]])).collect();
    assert_eq!(kinds, [5, 16, 3, 7, 6, 8]);
    let member = |record: &EncodedRecord| GroupRecord::decode(&record.key, record.value.as_deref());
    match member(&group.driver.log[5]).unwrap() {
        Decoded::Record(GroupRecord::Consumer {
            group,
            record: ConsumerRecord::Current(id, Some(current)),
        }) => {
            assert_eq!((&*group, &*id, current.epoch, current.previous_epoch), (GROUP, "a", 2, 0));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn topics_that_come_grow_and_go_are_followed() {
    let mut group = Consumers::of(&[("other", 1)]);
    assert_eq!(group.told(joining("a")), (2, Some(vec![])), "there is no such topic yet");
    group.advance(2);
    group.topics.create("t", 1);
    assert_eq!(group.told(beating("a", 2)), (3, Some(vec![0])));
    group.advance(2);
    group.topics.grow("t");
    assert_eq!(group.told(beating("a", 3)), (4, Some(vec![0, 1])));
    group.topics.create("unrelated", 1);
    group.advance(2);
    assert_eq!(group.told(beating("a", 4)), (4, None));
    // Another topic of that name: what it had is nobody's business any more.
    let (old, new) = (group.topics.id("t"), group.topics.create("t", 1));
    let owned = |topic, all: &[i32]| Some(vec![(topic, all.to_vec())]);
    let first = group.beat(ConsumerHeartbeat { owned: owned(old, &[0, 1]), ..beating("a", 4) }).unwrap();
    assert_eq!((first.member_epoch, first.assignment), (4, Some(vec![])));
    let second = group.beat(ConsumerHeartbeat { owned: Some(vec![]), ..beating("a", 4) }).unwrap();
    assert_eq!((second.member_epoch, second.assignment), (5, owned(new, &[0])));
}

#[test]
fn a_topic_that_changed_while_nobody_looked_is_noticed() {
    let mut group = Consumers::of(&[("t", 1)]);
    group.told(joining("a"));
    group.advance(2);
    group.topics.grow("t");
    group.restart();
    assert_eq!(group.told(beating("a", 2)), (3, Some(vec![0, 1])));
    group.restart();
    assert_eq!(group.told(beating("a", 3)), (3, None), "nothing changed this time");
}

#[test]
fn subscriptions_by_regular_expression() {
    let mut group = Consumers::of(&[("eu.orders", 1), ("us.orders", 1), ("eu.other", 1)]);
    let pattern = |id: &str, pattern: &str| ConsumerHeartbeat {
        topics: None,
        pattern: Some(pattern.into()),
        ..joining(id)
    };
    let count = |beat: Beat| beat.assignment.map(|all| all.len());
    assert_eq!(count(group.beat(pattern("a", "eu\\..*")).unwrap()), Some(2));
    group.advance(2);
    group.topics.create("eu.third", 1);
    assert_eq!(count(group.beat(beating("a", 2)).unwrap()), Some(3));
    group.restart();
    assert_eq!(count(group.beat(pattern("a", "eu\\..*")).unwrap()), Some(3));
    let described = group.driver.groups.describe_consumer(GROUP).unwrap();
    assert_eq!(described.members[0].about.pattern.as_deref(), Some("eu\\..*"));
    // Other topics are given up at once, even while the assignor rests.
    group.told(ConsumerHeartbeat {
        pattern: Some(String::new()),
        topics: Some(vec!["eu.other".into()]),
        ..beating("a", 3)
    });
    let described = group.driver.groups.describe_consumer(GROUP).unwrap();
    assert_eq!(described.members[0].assigned.len(), 3, "until it says that it has");
    let has_only = vec![(group.topics.id("eu.other"), vec![0])];
    group.advance(2);
    let after = group.beat(ConsumerHeartbeat { owned: Some(has_only.clone()), ..beating("a", 3) }).unwrap();
    assert_eq!(after.member_epoch, 4);
    let described = group.driver.groups.describe_consumer(GROUP).unwrap();
    assert_eq!(described.members[0].assigned, has_only);
    group.restart();
    let patterns = group.driver.log.iter().filter(|record| record.key[1] == 16);
    assert_eq!(patterns.last().unwrap().value, None, "nobody subscribes to it any more");
}

#[test]
fn most_members_choose_the_assignor() {
    let mut group = Consumers::of(&[("t", 2)]);
    let with = |id: &str, assignor: Assignor| ConsumerHeartbeat {
        assignor: Some(assignor.name().into()),
        ..joining(id)
    };
    let chosen = |group: &Consumers| group.driver.groups.describe_consumer(GROUP).unwrap().assignor;
    group.told(joining("a"));
    assert_eq!(chosen(&group), "uniform");
    group.told(with("b", Assignor::Range));
    assert_eq!(chosen(&group), "range");
    group.told(with("c", Assignor::Uniform));
    group.told(with("d", Assignor::Uniform));
    assert_eq!(chosen(&group), "uniform");
}

#[test]
fn who_may_commit_and_fetch() {
    let mut group = Consumers::of(&[("t", 2)]);
    group.told(joining("a"));
    let by = |id: &str, generation: i32| Commit { member_id: id.into(), generation, ..commit(7) };
    assert_eq!(group.commit(by("a", 2)), Ok(vec![Ok(())]));
    assert_eq!(group.commit(by("x", 2)), Err(GroupError::UnknownMemberId));
    assert_eq!(group.commit(commit(1)), Err(GroupError::UnknownMemberId), "the group has members");
    assert_eq!(group.commit(by("a", 3)), Err(GroupError::StaleMemberEpoch));
    let old = Commit { by_epoch: false, ..by("a", 2) };
    assert!(matches!(group.commit(old), Err(GroupError::UnsupportedVersion(_))));
    let fetch = |group: &Consumers, id, epoch| group.driver.groups.check_fetch(GROUP, id, epoch);
    assert_eq!(fetch(&group, Some("a"), 2), Ok(()));
    assert_eq!(fetch(&group, None, -1), Ok(()));
    assert_eq!(fetch(&group, Some("a"), 3), Err(GroupError::StaleMemberEpoch));
    assert_eq!(fetch(&group, Some("x"), 2), Err(GroupError::UnknownMemberId));
    // Its epoch moves on; what it has had since the older one, it may commit with that (KIP-1251).
    group.advance(2);
    group.told(joining("b"));
    group.told(beating("a", 2));
    let given_up = group.owning(beating("a", 2), &[0]);
    assert_eq!(group.told(given_up), (3, None));
    assert_eq!(group.commit(by("a", 2)), Ok(vec![Ok(())]), "it has had t-0 since epoch 2");
    let mut lost = by("a", 2);
    lost.offsets[0].partition = 1;
    assert_eq!(group.commit(lost), Err(GroupError::StaleMemberEpoch), "t-1 is another's");
    group.told(beating("b", 3));
    let mut early = by("b", 2);
    early.offsets[0].partition = 1;
    assert_eq!(group.commit(early), Err(GroupError::StaleMemberEpoch), "it got t-1 in epoch 3");
}

#[test]
fn an_empty_group_of_either_kind_becomes_the_other() {
    let mut group = Consumers::of(&[("t", 1)]);
    let mut config = GroupConfig::default();
    config.consumer.migration = Migration::Disabled;
    group.driver = Driver::with(config);
    let members = group.driver.stable(vec![join("a")]);
    assert!(matches!(group.beat(joining("b")), Err(GroupError::NotUpgraded { .. })), "it has members");
    assert_eq!(group.commit(commit_by(&members[0], 5)), Ok(vec![Ok(())]));
    group.driver.leave(&[leaver(&members[0].member_id, None)]).unwrap()[0].clone().unwrap();
    assert_eq!(group.told(joining("b")), (2, Some(vec![0])));
    let offset = |group: &Consumers| {
        let committed = group.driver.groups.committed(GROUP, "t", 0, true).unwrap();
        committed.map(|committed| committed.offset)
    };
    assert_eq!(offset(&group), Some(5), "offsets stay");
    let heartbeat = group.driver.heartbeat(&members[0].member_id, 1);
    assert_eq!(heartbeat, Err(GroupError::UnknownMemberId));
    let request = group.driver.send_join(join("a"));
    assert_eq!(group.driver.joined(request), Err(GroupError::InconsistentGroupProtocol));
    group.restart();
    assert_eq!(group.state(), "Stable");
    group.told(beating("b", -1));
    let members = group.driver.stable(vec![join("a")]);
    assert_eq!(members[0].generation, 1);
    group.restart();
    assert_eq!((group.state(), group.driver.state()), ("Dead", "Stable"));
    assert_eq!(offset(&group), Some(5));
}

#[test]
fn a_group_is_deleted_with_its_records() {
    let mut group = Consumers::of(&[("t", 1)]);
    group.told(joining("a"));
    group.commit(Commit { member_id: "a".into(), generation: 2, ..commit(7) }).unwrap();
    let delete = |group: &mut Consumers| {
        let request = group.driver.next();
        let effects = group.driver.groups.delete_groups(request, &[GROUP.to_owned()]);
        group.driver.perform(effects);
        match group.driver.answer(request) {
            Response::DeleteGroups(results) => results[0].clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(delete(&mut group), Err(GroupError::NonEmptyGroup));
    group.told(beating("a", -1));
    assert_eq!(delete(&mut group), Ok(()));
    assert_eq!(group.state(), "Dead");
    let mut newest: BTreeMap<Bytes, bool> = BTreeMap::new();
    for record in &group.driver.log {
        newest.insert(record.key.clone(), record.value.is_some());
    }
    assert!(newest.values().all(|is_there| !is_there), "every key of it is deleted: {newest:?}");
    group.restart();
    assert_eq!(group.state(), "Dead");
}

/// A store may be torn by a crash: what it rests on is missing, and nobody was told of it. Here the fencing of `a` could not be
/// stored, and the grant of its partitions to `b` could.
#[test]
fn a_partition_that_the_log_gives_to_two_stays_with_the_first() {
    let mut group = Consumers::of(&[("t", 2)]);
    group.told(joining("a"));
    group.driver.is_prompt = false;
    group.advance(45);
    let granted = group.send(&joining("b"));
    group.driver.end_store(Err(StoreError::Unavailable));
    group.driver.end_store(Ok(()));
    assert_eq!(group.answer(granted), Err(GroupError::CoordinatorNotAvailable));
    group.driver.is_prompt = true;
    group.restart();
    assert_eq!(group.told(beating("a", 2)).0, 2, "as far as it knows, it has both");
    let told = group.told(joining("b"));
    assert_eq!(told.1, Some(vec![]), "{told:?}");
    let epoch = told.0;
    group.told(beating("a", 2));
    let given_up = group.owning(beating("a", 2), &[0]);
    assert_eq!(group.told(given_up).0, epoch);
    assert_eq!(group.told(beating("b", epoch)), (epoch, Some(vec![1])));
}

/// The records of a consumer group could not be deleted before a classic one took its place: nothing of it comes back.
#[test]
fn what_is_left_of_a_group_of_the_other_protocol_stays_gone() {
    let mut group = Consumers::of(&[("t", 1)]);
    group.told(joining("ghost"));
    group.driver.is_prompt = false;
    group.send(&beating("ghost", -1));
    group.driver.end_store(Err(StoreError::Unavailable));
    let request = group.driver.send_join(join("a"));
    group.driver.end_store(Err(StoreError::Unavailable));
    group.driver.is_prompt = true;
    let member = group.driver.joined(request).unwrap();
    group.driver.send_sync(sync(&member, &[]));
    group.restart();
    assert_eq!((group.state(), group.driver.state()), ("Dead", "Stable"));
    group.driver.leave(&[leaver(&member.member_id, None)]).unwrap()[0].clone().unwrap();
    assert_eq!(group.told(joining("b")), (2, Some(vec![0])));
    group.restart();
    let members = group.driver.groups.describe_consumer(GROUP).unwrap().members;
    assert_eq!(members.iter().map(|member| &*member.member_id).collect::<Vec<_>>(), ["b"]);
    assert_eq!(group.told(beating("b", 2)), (2, None));
}
