//! What groups have read.

use super::*;

fn fetch(driver: &Driver) -> Option<i64> {
    driver.groups.committed(GROUP, "t", 0, false).unwrap().map(|committed| committed.offset)
}

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[test]
fn a_commit_is_visible_once_it_is_durable() {
    let mut driver = Driver::new();
    driver.is_prompt = false;
    let request = driver.send_commit(commit(5));
    assert!(driver.waits(request));
    assert_eq!(fetch(&driver), None);
    let unstable = driver.groups.committed(GROUP, "t", 0, true);
    assert_eq!(unstable, Err(GroupError::UnstableOffsetCommit));
    driver.end_store(Ok(()));
    assert_eq!(driver.committed(request), Ok(vec![Ok(())]));
    let committed = driver.groups.committed(GROUP, "t", 0, true).unwrap().unwrap();
    assert_eq!((committed.offset, committed.leader_epoch, &*committed.metadata), (5, 0, "m"));
    assert_eq!((committed.commit_ms, committed.expire_ms), (driver.now.unix_ms, None));
    assert_eq!(driver.groups.all_committed(GROUP, true).count(), 1);
    driver.restart();
    assert_eq!(fetch(&driver), Some(5));
}

#[test]
fn a_commit_that_cannot_be_stored_leaves_the_older_one() {
    let mut driver = Driver::new();
    driver.send_commit(commit(5));
    driver.is_prompt = false;
    let failing = driver.send_commit(commit(6));
    let working = driver.send_commit(commit(7));
    driver.end_store(Err(StoreError::Unavailable));
    assert_eq!(driver.committed(failing), Err(GroupError::CoordinatorNotAvailable));
    assert_eq!(fetch(&driver), Some(5));
    driver.end_store(Ok(()));
    assert_eq!(driver.committed(working), Ok(vec![Ok(())]));
    assert_eq!(fetch(&driver), Some(7));
}

#[test]
fn who_may_commit() {
    let mut driver = Driver::new();
    let unknown = Commit { generation: 3, member_id: "x".into(), ..commit(1) };
    let request = driver.send_commit(unknown);
    assert_eq!(driver.committed(request), Err(GroupError::GroupIdNotFound));

    let request = driver.send_join(join("a"));
    let member = driver.joined(request).unwrap();
    let request = driver.send_commit(commit_by(&member, 1));
    assert_eq!(driver.committed(request), Err(GroupError::RebalanceInProgress));
    driver.send_sync(sync(&member, &[]));
    let request = driver.send_commit(commit_by(&member, 2));
    assert_eq!(driver.committed(request), Ok(vec![Ok(())]));
    let old = Commit { generation: 0, ..commit_by(&member, 3) };
    let request = driver.send_commit(old);
    assert_eq!(driver.committed(request), Err(GroupError::IllegalGeneration));
    let request = driver.send_commit(commit(4));
    assert_eq!(driver.committed(request), Err(GroupError::UnknownMemberId), "the group has members");
    assert_eq!(fetch(&driver), Some(2));
}

#[test]
fn a_commit_keeps_a_member_alive() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![join("a")]);
    for offset in 0..5 {
        driver.advance(Duration::from_secs(9));
        driver.send_commit(commit_by(&members[0], offset));
    }
    assert_eq!(driver.state(), "Stable");
}

#[test]
fn metadata_is_limited_as_kafka_counts_it() {
    #[track_caller]
    fn check(metadata: String, expected: Result<(), GroupError>) {
        let mut driver = Driver::new();
        let mut commit = commit(1);
        commit.offsets.push(CommitOffset { metadata, partition: 1, ..commit.offsets[0].clone() });
        let request = driver.send_commit(commit);
        assert_eq!(driver.committed(request), Ok(vec![Ok(()), expected]));
    }
    check("m".repeat(4096), Ok(()));
    check("m".repeat(4097), Err(GroupError::OffsetMetadataTooLarge));
    check("ä".repeat(4096), Ok(()));
    check("🦀".repeat(2049), Err(GroupError::OffsetMetadataTooLarge));
}

#[test]
fn offsets_of_an_abandoned_group_end_a_week_after_its_last_member() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![Join { session_timeout_ms: 1_800_000, ..join("a") }]);
    driver.send_commit(commit_by(&members[0], 5));
    driver.advance(Duration::from_secs(1000));
    driver.leave(&[leaver(&members[0].member_id, None)]).unwrap();
    driver.advance(WEEK - Duration::from_secs(1));
    assert_eq!(fetch(&driver), Some(5));
    driver.advance(Duration::from_secs(600));
    assert_eq!((fetch(&driver), driver.state()), (None, "Dead"));
    driver.restart();
    assert_eq!((fetch(&driver), driver.state()), (None, "Dead"));
}

#[test]
fn offsets_of_a_group_that_never_had_members_end_a_week_after_their_commit() {
    let mut driver = Driver::new();
    driver.send_commit(commit(5));
    let mut other = commit(6);
    other.offsets[0].partition = 1;
    driver.advance(Duration::from_secs(3600));
    driver.send_commit(other);
    driver.advance(WEEK - Duration::from_secs(1800));
    let kept: Vec<i32> =
        driver.groups.all_committed(GROUP, false).map(|(_, partition, _)| partition).collect();
    assert_eq!(kept, [1]);
}

#[test]
fn a_retention_of_the_commits_own_counts() {
    let mut driver = Driver::new();
    driver.send_commit(Commit { retention_ms: Some(60_000), ..commit(5) });
    driver.advance(Duration::from_secs(600));
    assert_eq!(fetch(&driver), None);
}

#[test]
fn members_keep_the_offsets_of_what_they_subscribe_to() {
    let mut driver = Driver::new();
    let members = driver.stable(vec![Join { session_timeout_ms: 1_800_000, ..join("a") }]);
    let mut both = commit_by(&members[0], 5);
    both.offsets.push(CommitOffset { topic: "u".into(), ..both.offsets[0].clone() });
    driver.send_commit(both);
    for _ in 0..(WEEK.as_secs() / 1000 + 2) {
        driver.advance(Duration::from_secs(1000));
        driver.heartbeat(&members[0].member_id, 1).unwrap();
    }
    let kept: Vec<&str> = driver.groups.all_committed(GROUP, false).map(|(topic, ..)| topic).collect();
    assert_eq!(kept, ["t"]);
}

#[test]
fn offsets_can_be_deleted_where_nobody_reads() {
    let mut driver = Driver::new();
    let delete = |driver: &mut Driver, topics: &[&str]| {
        let partitions: Vec<(String, i32)> = topics.iter().map(|topic| ((*topic).to_owned(), 0)).collect();
        let request = driver.next();
        let effects = driver.groups.delete_offsets(request, GROUP, &partitions, driver.now);
        driver.perform(effects);
        driver.answer(request)
    };
    assert_eq!(delete(&mut driver, &["t"]), Response::DeleteOffsets(Err(GroupError::GroupIdNotFound)));
    let mut both = commit(5);
    both.offsets.push(CommitOffset { topic: "u".into(), ..both.offsets[0].clone() });
    driver.send_commit(both);
    driver.stable(vec![join("a")]);
    let expected = vec![Err(GroupError::GroupSubscribedToTopic), Ok(()), Ok(())];
    assert_eq!(delete(&mut driver, &["t", "u", "none"]), Response::DeleteOffsets(Ok(expected)));
    assert_eq!(fetch(&driver), Some(5));
    assert_eq!(driver.groups.all_committed(GROUP, false).count(), 1);

    let mut driver = Driver::new();
    driver.stable(vec![Join { protocol_type: "connect".into(), ..join("a") }]);
    assert_eq!(delete(&mut driver, &["t"]), Response::DeleteOffsets(Err(GroupError::NonEmptyGroup)));

    let mut driver = Driver::new();
    driver.stable(vec![Join { protocols: vec![("x".into(), Bytes::from_static(b"?"))], ..join("a") }]);
    let expected = vec![Err(GroupError::GroupSubscribedToTopic)];
    assert_eq!(delete(&mut driver, &["t"]), Response::DeleteOffsets(Ok(expected)), "who knows what it reads");
}

#[test]
fn a_group_without_members_can_be_deleted() {
    let mut driver = Driver::new();
    let delete = |driver: &mut Driver| {
        let request = driver.next();
        let effects = driver.groups.delete_groups(request, &["none".into(), GROUP.into()]);
        driver.perform(effects);
        request
    };
    driver.send_commit(commit(5));
    let members = driver.stable(vec![join("a")]);
    let request = delete(&mut driver);
    let refused = vec![Err(GroupError::GroupIdNotFound), Err(GroupError::NonEmptyGroup)];
    assert_eq!(driver.answer(request), Response::DeleteGroups(refused));

    driver.leave(&[leaver(&members[0].member_id, None)]).unwrap();
    driver.is_prompt = false;
    let failing = delete(&mut driver);
    driver.end_store(Err(StoreError::Unavailable));
    let failed = vec![Err(GroupError::GroupIdNotFound), Err(GroupError::CoordinatorNotAvailable)];
    assert_eq!(driver.answer(failing), Response::DeleteGroups(failed));
    assert_eq!((driver.state(), fetch(&driver)), ("Empty", Some(5)));

    // Commits on both sides of the deletion: the log decides.
    driver.send_commit(commit(6));
    delete(&mut driver);
    driver.send_commit(commit(7));
    for expected in [Some(6), None, Some(7)] {
        driver.end_store(Ok(()));
        assert_eq!(fetch(&driver), expected);
    }
    driver.restart();
    assert_eq!(fetch(&driver), Some(7));
    driver.is_prompt = true;
    delete(&mut driver);
    assert_eq!(driver.state(), "Dead");
}

#[test]
fn a_group_that_is_deleted_while_somebody_joins_lives_on() {
    let mut driver = Driver::new();
    driver.send_commit(commit(5));
    driver.is_prompt = false;
    let request = driver.next();
    let effects = driver.groups.delete_groups(request, &[GROUP.into()]);
    driver.perform(effects);
    let joining = driver.send_join(join("a"));
    driver.end_store(Ok(()));
    let member = driver.joined(joining).unwrap();
    assert_eq!(driver.heartbeat(&member.member_id, member.generation), Ok(()));
    assert_eq!(fetch(&driver), None);
}

#[test]
fn offsets_go_with_their_topic() {
    let mut driver = Driver::new();
    let mut both = commit(5);
    both.offsets.push(CommitOffset { topic: "u".into(), ..both.offsets[0].clone() });
    driver.send_commit(both);
    let effects = driver.groups.topic_deleted("t");
    driver.perform(effects);
    assert_eq!(fetch(&driver), None);
    assert_eq!(driver.groups.all_committed(GROUP, false).count(), 1);
    assert_eq!(driver.groups.topic_deleted("t"), []);
    driver.restart();
    assert_eq!(driver.groups.all_committed(GROUP, false).count(), 1);
}

#[test]
fn commits_are_refused_while_the_disk_does_not_keep_up() {
    let mut driver = Driver::with(GroupConfig { stores_in_flight_max: 1, ..GroupConfig::default() });
    driver.is_prompt = false;
    driver.send_commit(commit(1));
    let request = driver.send_commit(commit(2));
    assert_eq!(driver.committed(request), Err(GroupError::CoordinatorNotAvailable));
}

#[test]
#[should_panic(expected = "reported once")]
fn stores_reported_out_of_order_are_the_drivers_fault() {
    let mut driver = Driver::new();
    driver.is_prompt = false;
    driver.send_commit(commit(1));
    driver.send_commit(commit(2));
    let (token, _) = driver.stores.pop_back().unwrap();
    let _ = driver.groups.stored(token, Ok(()), driver.now);
}
