//! Joining, syncing, heartbeats, leaving, dying.

use super::*;

#[test]
fn a_member_joins_syncs_beats_and_leaves() {
    let mut driver = Driver::new();
    let request = driver.send_join(join("c"));
    let member = driver.joined(request).unwrap();
    assert!(member.member_id.starts_with("c-") && member.member_id.len() == 2 + 36);
    assert_eq!((member.generation, &member.leader), (1, &member.member_id));
    assert_eq!(
        (member.protocol.as_deref(), member.protocol_type.as_deref()),
        (Some("range"), Some("consumer"))
    );
    assert_eq!(member.members[0].metadata, subscription(&["t"]));
    assert_eq!(driver.state(), "CompletingRebalance");
    assert_eq!(driver.heartbeat(&member.member_id, 1), Ok(()));

    let request = driver.send_sync(sync(&member, std::slice::from_ref(&member.member_id)));
    assert_eq!(driver.synced(request).unwrap().assignment, member.member_id);
    let group = driver.groups.describe(GROUP).unwrap();
    assert_eq!(
        (group.state.name(), &*group.protocol, &*group.protocol_type),
        ("Stable", "range", "consumer")
    );
    assert_eq!(group.members[0].metadata, subscription(&["t"]));
    assert_eq!(group.members[0].assignment, member.member_id);

    assert_eq!(driver.heartbeat(&member.member_id, 1), Ok(()));
    assert_eq!(driver.heartbeat(&member.member_id, 2), Err(GroupError::IllegalGeneration));
    assert_eq!(driver.heartbeat("stranger", 1), Err(GroupError::UnknownMemberId));

    let results = driver.leave(&[leaver("stranger", None), leaver(&member.member_id, None)]);
    assert_eq!(results, Ok(vec![Err(GroupError::UnknownMemberId), Ok(())]));
    assert_eq!(driver.state(), "Empty");
    assert_eq!(driver.heartbeat(&member.member_id, 2), Err(GroupError::UnknownMemberId));
}

#[test]
fn a_new_member_is_told_its_id_first_and_the_promise_ends() {
    let mut driver = Driver::new();
    let first = Join { require_known_member_id: true, ..join("c") };
    let request = driver.send_join(first.clone());
    let Err(GroupError::MemberIdRequired(id)) = driver.joined(request) else { panic!("an id is required") };
    let request = driver.send_join(Join { member_id: id.clone(), ..first.clone() });
    assert_eq!(driver.joined(request).unwrap().member_id, id);

    let request = driver.send_join(first.clone());
    let Err(GroupError::MemberIdRequired(late)) = driver.joined(request) else { panic!("an id is required") };
    driver.advance(Duration::from_millis(10_000));
    let request = driver.send_join(Join { member_id: late, ..first });
    assert_eq!(driver.joined(request), Err(GroupError::UnknownMemberId));
}

#[test]
fn a_rebalance_waits_for_promised_members() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![join("a")]);
    let request = driver.send_join(Join { require_known_member_id: true, ..join("b") });
    let Err(GroupError::MemberIdRequired(id)) = driver.joined(request) else { panic!("an id is required") };
    let rejoin = driver.send_join(again(join("a"), &members[0]));
    assert!(driver.waits(rejoin));
    let newcomer = driver.send_join(Join { member_id: id, ..join("b") });
    let (first, second) = (driver.joined(rejoin).unwrap(), driver.joined(newcomer).unwrap());
    assert_eq!((first.generation, second.generation), (2, 2));
    assert_eq!((first.members.len(), second.members.len()), (2, 0));
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    #[track_caller]
    fn check(change: impl Fn(&mut Join), expected: &GroupError) {
        let config = GroupConfig { member_metadata_bytes_max: 1000, ..GroupConfig::default() };
        let mut driver = Driver::with(config);
        let mut join = join("c");
        change(&mut join);
        let request = driver.send_join(join);
        assert_eq!(driver.joined(request).as_ref(), Err(expected));
        assert_eq!(driver.state(), "Dead", "nothing is left behind");
    }
    check(|join| join.group.clear(), &GroupError::InvalidGroupId);
    check(|join| join.group = "g".repeat(40_000), &GroupError::InvalidGroupId);
    check(|join| join.session_timeout_ms = 5_999, &GroupError::InvalidSessionTimeout);
    check(|join| join.session_timeout_ms = 1_800_001, &GroupError::InvalidSessionTimeout);
    check(|join| join.session_timeout_ms = -1, &GroupError::InvalidSessionTimeout);
    check(|join| join.protocols.clear(), &GroupError::InconsistentGroupProtocol);
    check(|join| join.protocol_type.clear(), &GroupError::InconsistentGroupProtocol);
    check(|join| join.member_id = "stranger".into(), &GroupError::UnknownMemberId);
    check(|join| join.client_id = "c".repeat(40_000), &GroupError::InvalidRequest);
    check(|join| join.protocols[0].1 = vec![0; 1000].into(), &GroupError::InvalidRequest);
    check(|join| join.protocols = vec![(String::new(), Bytes::new()); 20], &GroupError::InvalidRequest);
}

#[test]
fn groups_and_members_are_limited() {
    let mut driver = Driver::with(GroupConfig { groups_max: 1, members_max: 1, ..GroupConfig::default() });
    driver.stable(vec![join("a")]);
    let request = driver.send_join(join("b"));
    assert_eq!(driver.joined(request), Err(GroupError::GroupMaxSizeReached));
    assert_eq!(driver.state(), "Stable");
    let request = driver.send_join(Join { group: "other".into(), ..join("c") });
    assert_eq!(driver.joined(request), Err(GroupError::PolicyViolation));
    let request = driver.send_commit(Commit { group: "other".into(), ..commit(1) });
    assert_eq!(driver.committed(request), Err(GroupError::PolicyViolation));
}

#[test]
fn a_protocol_must_be_common_to_all() {
    let mut driver = Driver::new();
    let both = vec![("sticky".into(), Bytes::from_static(b"1")), ("range".into(), Bytes::from_static(b"2"))];
    driver.stable(vec![Join { protocols: both, ..join("a") }]);
    assert_eq!(driver.groups.describe(GROUP).unwrap().protocol, "sticky");

    let other = Join { protocols: vec![("roundrobin".into(), Bytes::new())], ..join("b") };
    let request = driver.send_join(other);
    assert_eq!(driver.joined(request), Err(GroupError::InconsistentGroupProtocol));
    let request = driver.send_join(Join { protocol_type: "connect".into(), ..join("b") });
    assert_eq!(driver.joined(request), Err(GroupError::InconsistentGroupProtocol));
}

#[test]
fn most_votes_choose_the_protocol() {
    let mut driver = Driver::new();
    let prefers = |names: [&str; 2]| Join {
        protocols: names.map(|name| (name.to_owned(), Bytes::copy_from_slice(name.as_bytes()))).to_vec(),
        ..join("c")
    };
    let members = driver.stable(vec![prefers(["x", "y"]), prefers(["y", "x"]), prefers(["y", "x"])]);
    assert_eq!(members[0].protocol.as_deref(), Some("y"));
    assert!(members[0].members.iter().all(|member| member.metadata == "y"));
}

#[test]
fn a_silent_member_is_removed_and_a_waiting_one_is_not() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![join("a"), join("b")]);
    let (leader, follower) = (&members[0], &members[1]);
    driver.advance(Duration::from_secs(9));
    assert_eq!(driver.heartbeat(&leader.member_id, leader.generation), Ok(()));
    driver.advance(Duration::from_secs(1));
    assert_eq!(driver.state(), "PreparingRebalance");
    let error = driver.heartbeat(&leader.member_id, leader.generation);
    assert_eq!(error, Err(GroupError::RebalanceInProgress));
    let error = driver.heartbeat(&follower.member_id, follower.generation);
    assert_eq!(error, Err(GroupError::UnknownMemberId));

    let request = driver.send_join(again(join("a"), leader));
    assert_eq!(driver.joined(request).unwrap().members.len(), 1);
}

#[test]
fn a_group_of_silent_members_becomes_empty() {
    let mut driver = Driver::new();
    driver.stable(vec![join("a"), join("b")]);
    driver.advance(Duration::from_secs(10));
    assert_eq!(driver.state(), "Empty");
    driver.restart();
    assert_eq!(driver.state(), "Empty", "and that is stored");
}

#[test]
fn the_driver_is_told_when_to_wake() {
    let mut driver = Driver::new();
    assert_eq!(driver.groups.next_deadline(), None);
    driver.stable(vec![join("a")]);
    assert_eq!(driver.groups.next_deadline(), Some(driver.now.monotonic + Duration::from_secs(10)));
    driver.advance(Duration::from_secs(10));
    assert_eq!(driver.state(), "Empty");
    let sweep = driver.groups.next_deadline().unwrap();
    assert!(sweep > driver.now.monotonic + Duration::from_secs(500));
}

#[test]
fn requests_of_members_that_leave_are_answered() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![join("a"), join("b")]);
    let rejoin = driver.send_join(again(join("a"), &members[0]));
    assert!(driver.waits(rejoin));
    assert_eq!(driver.leave(&[leaver(&members[0].member_id, None)]), Ok(vec![Ok(())]));
    assert_eq!(driver.joined(rejoin), Err(GroupError::UnknownMemberId));
}

#[test]
fn a_request_that_is_sent_twice_is_answered_twice() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![join("a"), join("b")]);
    let first = driver.send_join(again(join("a"), &members[0]));
    let second = driver.send_join(again(join("a"), &members[0]));
    assert_eq!(driver.joined(first), Err(GroupError::RebalanceInProgress));
    let other = driver.send_join(again(join("b"), &members[1]));
    let (leader, follower) = (driver.joined(second).unwrap(), driver.joined(other).unwrap());

    let (leader, follower) = if leader.members.is_empty() { (follower, leader) } else { (leader, follower) };
    let first = driver.send_sync(sync(&follower, &[]));
    let second = driver.send_sync(sync(&follower, &[]));
    assert_eq!(driver.synced(first), Err(GroupError::RebalanceInProgress));
    driver.send_sync(sync(&leader, std::slice::from_ref(&follower.member_id)));
    assert_eq!(driver.synced(second).unwrap().assignment, follower.member_id);
}

#[test]
fn list_shows_every_group() {
    let mut driver = Driver::new();
    driver.stable(vec![Join { protocol_type: "connect".into(), ..join("a") }]);
    driver.send_commit(Commit { group: "simple".into(), ..commit(1) });
    let shown: Vec<_> =
        driver.groups.list().map(|listed| (listed.group, listed.protocol_type, listed.state)).collect();
    let expected = [("g", "connect", "Stable"), ("simple", "", "Empty")];
    assert_eq!(shown, expected.map(|(group, kind, state)| (group.to_owned(), kind.to_owned(), state)));
}
