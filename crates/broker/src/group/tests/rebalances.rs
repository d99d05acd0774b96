//! From generation to generation.

use super::*;

#[test]
fn a_follower_that_rejoins_unchanged_disturbs_nobody_and_a_leader_does() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![join("a"), join("b")]);
    let request = driver.send_join(again(join("b"), &members[1]));
    let joined = driver.joined(request).unwrap();
    assert_eq!((joined.generation, joined.members.len()), (members[1].generation, 0));
    assert_eq!(driver.state(), "Stable");

    let changed = Join { protocols: vec![("range".into(), subscription(&["u"]))], ..join("b") };
    let request = driver.send_join(again(changed, &members[1]));
    assert!(driver.waits(request));
    assert_eq!(driver.state(), "PreparingRebalance");

    let mut driver = Driver::new();
    let members = driver.stable(vec![join("a"), join("b")]);
    driver.send_join(again(join("a"), &members[0]));
    assert_eq!(driver.state(), "PreparingRebalance");
}

#[test]
fn a_join_in_the_middle_of_a_sync_starts_over() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![join("a"), join("b")]);
    let requests = [0, 1].map(|i| driver.send_join(again(join("x"), &members[i])));
    let members = requests.map(|request| driver.joined(request).unwrap());
    let follower = members.iter().find(|member| member.members.is_empty()).unwrap();
    let waiting = driver.send_sync(sync(follower, &[]));
    let newcomer = driver.send_join(join("c"));
    assert_eq!(driver.synced(waiting), Err(GroupError::RebalanceInProgress));
    assert!(driver.waits(newcomer));

    let late = driver.send_sync(sync(follower, &[]));
    assert_eq!(driver.synced(late), Err(GroupError::RebalanceInProgress));
    driver.advance(Duration::from_secs(5));
    for member in &members {
        let error = driver.heartbeat(&member.member_id, member.generation);
        assert_eq!(error, Err(GroupError::RebalanceInProgress));
    }
}

#[test]
fn a_lost_answer_to_a_join_can_be_had_again() {
    let mut driver = Driver::new();
    let request = driver.send_join(join("a"));
    let member = driver.joined(request).unwrap();
    let request = driver.send_join(again(join("a"), &member));
    assert_eq!(driver.joined(request).unwrap(), member);
    assert_eq!(driver.state(), "CompletingRebalance");
}

#[test]
fn who_does_not_rejoin_in_time_is_out_and_a_leader_is_found() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![join("a"), join("b")]);
    let (leader, follower) = (&members[0], &members[1]);
    let changed = Join { protocols: vec![("range".into(), subscription(&["u"]))], ..join("b") };
    let request = driver.send_join(again(changed, follower));
    for _ in 0..10 {
        driver.advance(Duration::from_secs(6));
        let _ = driver.heartbeat(&leader.member_id, leader.generation);
    }
    let joined = driver.joined(request).unwrap();
    assert_eq!(joined.leader, follower.member_id);
    assert_eq!((joined.generation, joined.members.len()), (leader.generation + 1, 1));
    let error = driver.heartbeat(&leader.member_id, leader.generation);
    assert_eq!(error, Err(GroupError::UnknownMemberId));
}

#[test]
fn the_longest_rebalance_timeout_counts() {
    let mut driver = Driver::new();
    let long = Join { rebalance_timeout_ms: 100_000, session_timeout_ms: 200_000, ..join("a") };
    let short = Join { rebalance_timeout_ms: 1_000, session_timeout_ms: 200_000, ..join("b") };
    let members = driver.stable(vec![long, short.clone()]);
    let follower = members.iter().find(|member| member.member_id.starts_with('b')).unwrap();
    let changed = Join { protocols: vec![("range".into(), subscription(&["u"]))], ..short };
    let request = driver.send_join(again(changed, follower));
    driver.advance(Duration::from_millis(99_999));
    assert!(driver.waits(request));
    driver.advance(Duration::from_millis(1));
    assert!(driver.joined(request).is_ok());
}

#[test]
fn who_does_not_sync_in_time_is_out() {
    let mut driver = Driver::new();
    let long = Join { session_timeout_ms: 1_000_000, ..join("a") };
    let request = driver.send_join(long);
    let member = driver.joined(request).unwrap();
    driver.advance(Duration::from_millis(59_999));
    assert_eq!(driver.heartbeat(&member.member_id, 1), Ok(()));
    driver.advance(Duration::from_millis(1));
    assert_eq!(driver.heartbeat(&member.member_id, 1), Err(GroupError::UnknownMemberId));
    assert_eq!(driver.state(), "Empty");
}

#[test]
fn a_group_without_members_ends_its_rebalance_at_once_although_an_id_is_promised() {
    let mut driver = Driver::new();
    let request = driver.send_join(join("a"));
    driver.joined(request).unwrap();
    driver.advance(Duration::from_millis(1));
    let promised = Join { require_known_member_id: true, session_timeout_ms: 100_000, ..join("b") };
    driver.send_join(promised);
    driver.advance(Duration::from_secs(60));
    assert_eq!(driver.state(), "Empty");
}

#[test]
fn the_first_generation_can_wait_for_more_members() {
    let config = GroupConfig { initial_rebalance_delay: Duration::from_secs(3), ..GroupConfig::default() };
    let mut driver = Driver::with(config);
    let first = driver.send_join(join("a"));
    driver.advance(Duration::from_secs(2));
    let second = driver.send_join(join("b"));
    driver.advance(Duration::from_secs(1));
    assert!(driver.waits(first) && driver.waits(second), "a newcomer prolongs the wait");
    driver.advance(Duration::from_secs(3));
    let (first, second) = (driver.joined(first).unwrap(), driver.joined(second).unwrap());
    assert_eq!((first.generation, second.generation), (1, 1));
}

#[test]
fn an_assignment_is_handed_out_once_it_is_durable() {
    let mut driver = Driver::new();
    driver.is_prompt = false;
    let request = driver.send_join(join("a"));
    let member = driver.joined(request).unwrap();
    let first = driver.send_sync(sync(&member, std::slice::from_ref(&member.member_id)));
    assert!(driver.waits(first));
    assert_eq!(driver.state(), "CompletingRebalance");
    // A leader that asks again does not assign again.
    let second = driver.send_sync(sync(&member, &[]));
    assert_eq!(driver.synced(first), Err(GroupError::RebalanceInProgress));
    assert_eq!(driver.stores.len(), 1);
    driver.end_store(Ok(()));
    assert_eq!(driver.synced(second).unwrap().assignment, member.member_id);
    driver.restart();
    assert_eq!(driver.heartbeat(&member.member_id, 1), Ok(()));
    let request = driver.send_sync(sync(&member, &[]));
    assert_eq!(driver.synced(request).unwrap().assignment, member.member_id);
}

#[test]
fn an_assignment_that_cannot_be_stored_is_taken_back() {
    for (outcome, error) in [
        (StoreError::Unavailable, GroupError::CoordinatorNotAvailable),
        (StoreError::TooLarge, GroupError::UnknownServerError),
    ] {
        let mut driver = Driver::new();
        driver.is_prompt = false;
        let request = driver.send_join(join("a"));
        let member = driver.joined(request).unwrap();
        let request = driver.send_sync(sync(&member, std::slice::from_ref(&member.member_id)));
        driver.end_store(Err(outcome));
        assert_eq!(driver.synced(request), Err(error));
        assert_eq!(driver.state(), "PreparingRebalance");
        let request = driver.send_join(again(join("a"), &member));
        assert_eq!(driver.joined(request).unwrap().generation, 2);
    }
}

#[test]
fn an_assignment_that_is_stored_too_late_is_not_handed_out() {
    let mut driver = Driver::new();
    driver.is_prompt = false;
    let request = driver.send_join(join("a"));
    let member = driver.joined(request).unwrap();
    let synced = driver.send_sync(sync(&member, std::slice::from_ref(&member.member_id)));
    driver.send_join(join("b"));
    assert_eq!(driver.synced(synced), Err(GroupError::RebalanceInProgress));
    driver.end_store(Ok(()));
    assert_eq!(driver.state(), "PreparingRebalance");
}

#[test]
fn a_sync_must_agree_on_the_protocol() {
    let mut driver = Driver::new();
    let request = driver.send_join(join("a"));
    let member = driver.joined(request).unwrap();
    let good = sync(&member, &[]);
    for (bad, error) in [
        (Sync { protocol: Some("sticky".into()), ..good.clone() }, GroupError::InconsistentGroupProtocol),
        (
            Sync { protocol_type: Some("connect".into()), ..good.clone() },
            GroupError::InconsistentGroupProtocol,
        ),
        (Sync { generation: 7, ..good.clone() }, GroupError::IllegalGeneration),
        (Sync { member_id: "stranger".into(), ..good.clone() }, GroupError::UnknownMemberId),
        (Sync { group: "other".into(), ..good.clone() }, GroupError::UnknownMemberId),
        (Sync { group: String::new(), ..good.clone() }, GroupError::InvalidGroupId),
    ] {
        let request = driver.send_sync(bad);
        assert_eq!(driver.synced(request), Err(error));
    }
    let agreeing = Sync { protocol: Some("range".into()), protocol_type: Some("consumer".into()), ..good };
    let request = driver.send_sync(agreeing);
    assert_eq!(
        driver.synced(request).unwrap().assignment,
        "",
        "a member that the leader forgot gets nothing"
    );
}

#[test]
fn a_restored_group_too_large_for_the_configuration_shrinks() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![join("a"), join("b")]);
    driver.config.members_max = 1;
    driver.restart();
    assert_eq!(driver.state(), "PreparingRebalance");
    let first = driver.send_join(again(join("a"), &members[0]));
    let second = driver.send_join(again(join("b"), &members[1]));
    assert_eq!(driver.joined(second), Err(GroupError::GroupMaxSizeReached));
    assert_eq!(driver.joined(first).unwrap().members.len(), 1);
}
