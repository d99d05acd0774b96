//! Static members (KIP-345): a name that outlives the process.

use super::consumer::TestTopics;
use super::*;

#[test]
fn a_static_member_comes_back_to_a_stable_group_without_a_rebalance() {
    let mut driver = Driver::new();
    driver.is_prompt = false;
    let request = driver.send_join(static_join("i"));
    let member = driver.joined(request).unwrap();
    assert!(member.member_id.starts_with("i-"));
    driver.send_sync(sync(&member, std::slice::from_ref(&member.member_id)));
    driver.end_store(Ok(()));

    let request = driver.send_join(static_join("i"));
    assert!(driver.waits(request), "its new id is not durable yet");
    driver.end_store(Ok(()));
    let back = driver.joined(request).unwrap();
    assert_ne!(back.member_id, member.member_id);
    assert_eq!((back.generation, &back.leader, back.skip_assignment), (1, &back.member_id, true));
    assert_eq!(back.members.len(), 1);
    let request = driver.send_sync(sync(&back, &[]));
    assert_eq!(driver.synced(request).unwrap().assignment, member.member_id, "what its former self had");

    let old = Heartbeat { group: GROUP, member_id: &member.member_id, instance_id: Some("i"), generation: 1 };
    assert_eq!(
        driver.groups.heartbeat(old, &TestTopics::default(), driver.now),
        Err(GroupError::FencedInstanceId)
    );
    driver.restart();
    assert_eq!(driver.heartbeat(&back.member_id, 1), Ok(()));
}

#[test]
fn an_old_client_is_told_that_its_former_self_leads() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![static_join("i")]);
    let request = driver.send_join(Join { can_skip_assignment: false, ..static_join("i") });
    let back = driver.joined(request).unwrap();
    assert_eq!((&back.leader, back.members.len()), (&members[0].member_id, 0));
    assert!(!back.skip_assignment);
}

#[test]
fn a_new_id_that_cannot_be_stored_is_taken_back() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![static_join("i")]);
    driver.is_prompt = false;
    let request = driver.send_join(static_join("i"));
    driver.end_store(Err(StoreError::Unavailable));
    assert_eq!(driver.joined(request), Err(GroupError::CoordinatorNotAvailable));
    assert_eq!(driver.heartbeat(&members[0].member_id, 1), Ok(()));
}

#[test]
fn a_static_member_that_changes_the_protocol_causes_a_rebalance() {
    let mut driver = Driver::new();
    let protocols = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), Bytes::new())).collect();
    driver.stable(vec![Join { protocols: protocols(&["x", "y"]), ..static_join("i") }]);
    let request = driver.send_join(Join { protocols: protocols(&["y"]), ..static_join("i") });
    let back = driver.joined(request).unwrap();
    assert_eq!((back.generation, back.protocol.as_deref()), (2, Some("y")));
}

#[test]
fn a_twin_is_fenced_wherever_it_waits() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![join("a"), static_join("i")]);
    let (dynamic, twin): (Vec<_>, Vec<_>) =
        members.iter().partition(|member| member.member_id.starts_with('a'));
    let changed = Join { protocols: vec![("range".into(), subscription(&["u"]))], ..static_join("i") };
    let waiting = driver.send_join(again(changed, twin[0]));
    assert!(driver.waits(waiting));
    let successor = driver.send_join(static_join("i"));
    assert_eq!(driver.joined(waiting), Err(GroupError::FencedInstanceId));
    let request = driver.send_join(again(static_join("i"), twin[0]));
    assert_eq!(driver.joined(request), Err(GroupError::FencedInstanceId));

    let rejoin = driver.send_join(again(join("a"), dynamic[0]));
    let successor = driver.joined(successor).unwrap();
    let other = driver.joined(rejoin).unwrap();
    // In the middle of the sync phase the leader may know the old id already: all join again.
    let follower = if other.members.is_empty() { other } else { successor };
    let waiting = driver.send_sync(sync(&follower, &[]));
    driver.send_join(static_join("i"));
    assert!(driver.synced(waiting).is_err());
    assert_eq!(driver.state(), "PreparingRebalance");
}

#[test]
fn a_static_member_keeps_its_place_until_its_session_ends() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![join("a"), Join { session_timeout_ms: 300_000, ..static_join("i") }]);
    let dynamic = members.iter().find(|member| member.member_id.starts_with('a')).unwrap();
    let changed = Join { protocols: vec![("range".into(), subscription(&["u"]))], ..join("a") };
    let request = driver.send_join(again(changed, dynamic));
    driver.advance(Duration::from_secs(60));
    let joined = driver.joined(request).unwrap();
    assert_eq!(joined.leader, dynamic.member_id);
    assert_eq!(joined.members.len(), 2, "the silent static member is counted in");
}

#[test]
fn an_administrator_removes_a_static_member_by_name() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![static_join("i"), static_join("j")]);
    let wrong = leaver("not-the-id", Some("i"));
    let results = driver.leave(&[wrong, leaver("", Some("k")), leaver("", Some("i")), leaver("", Some("j"))]);
    let expected = [Err(GroupError::FencedInstanceId), Err(GroupError::UnknownMemberId), Ok(()), Ok(())];
    assert_eq!(results, Ok(expected.to_vec()));
    assert_eq!(driver.state(), "Empty");
    assert_eq!(driver.heartbeat(&members[0].member_id, 1), Err(GroupError::UnknownMemberId));
}

#[test]
fn a_promised_id_is_not_for_static_members() {
    let mut driver = Driver::new();
    driver.stable(vec![static_join("i")]);
    let request = driver.send_join(Join { require_known_member_id: true, ..join("c") });
    let Err(GroupError::MemberIdRequired(id)) = driver.joined(request) else { panic!("an id is required") };
    let request = driver.send_join(Join { member_id: id, ..static_join("i") });
    assert_eq!(driver.joined(request), Err(GroupError::InvalidRequest));
}
