//! Groups: members share partitions, let go when they are asked, and are fenced when they were taken for dead.

use std::collections::BTreeSet;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{Engine, EngineError, GroupEvent, GroupMember, Position, TopicSpec};
use anabranch_engine_nats::NatsEngine;
use tokio::time::timeout;

use crate::nats::{Nats, SOON, fresh, nats, own_nats};

async fn next(member: &mut Box<dyn GroupMember>) -> GroupEvent {
    timeout(SOON, member.next_event()).await.unwrap().unwrap()
}

/// What it is assigned next, with the partitions' numbers and positions; what it loses before that is let go at once.
async fn assigned(member: &mut Box<dyn GroupMember>) -> Vec<(i32, Option<u64>)> {
    loop {
        if let GroupEvent::Assigned(all) = next(member).await {
            return all.into_iter().map(|(at, next)| (at.partition, next.map(|next| next.0))).collect();
        }
    }
}

async fn topic(engine: &NatsEngine, partitions: i32) -> String {
    let name = fresh("t");
    engine.ensure_topic(&TopicSpec::new(name.clone(), partitions)).await.unwrap();
    name
}

async fn quick(nats: &Nats) -> NatsEngine {
    let mut settings = nats.own_settings();
    settings.session_timeout = Duration::from_secs(2);
    NatsEngine::open(settings, &[]).await.unwrap()
}

#[tokio::test]
async fn members_share_partitions_and_hand_them_over() {
    let Some(nats) = nats() else { return };
    let (engine, other) = (nats.engine().await, nats.engine().await);
    let (topic, group) = (topic(&engine, 3).await, fresh("g.*>"));
    let at = |partition| TopicPartition::new(topic.clone(), partition);
    let mut first = engine.join(&group, std::slice::from_ref(&topic)).await.unwrap();
    assert_eq!(assigned(&mut first).await, [(0, None), (1, None), (2, None)]);
    first.commit(&[(at(0), Position(7)), (at(2), Position(9))]).await.unwrap();
    first.commit(&[(at(2), Position(8))]).await.unwrap();

    let mut second = other.join(&group, std::slice::from_ref(&topic)).await.unwrap();
    let revoked = next(&mut first).await;
    assert_eq!(revoked, GroupEvent::Revoked((0..3).map(at).collect()));
    // Until it asks again they are its own, and nobody else has them.
    assert!(timeout(Duration::from_millis(300), second.next_event()).await.is_err());
    first.commit(&[(at(0), Position(10)), (at(1), Position(11)), (at(2), Position(12))]).await.unwrap();
    let (mine, theirs) = futures::future::join(assigned(&mut first), assigned(&mut second)).await;
    let all: BTreeSet<_> = mine.iter().chain(&theirs).copied().collect();
    assert_eq!(all, BTreeSet::from([(0, Some(10)), (1, Some(11)), (2, Some(12))]));
    assert!(mine.len() + theirs.len() == 3 && !mine.is_empty() && !theirs.is_empty());
    let fenced = first.commit(&[(at(theirs[0].0), Position(1))]).await;
    assert!(matches!(fenced, Err(EngineError::Fenced { .. })), "{fenced:?}");

    second.leave().await.unwrap();
    let all = assigned(&mut first).await;
    assert_eq!(all, [(0, Some(10)), (1, Some(11)), (2, Some(12))]);
    // One that is dropped, with its engine, leaves too.
    let mut third = other.join(&group, std::slice::from_ref(&topic)).await.unwrap();
    let (_, theirs) = futures::future::join(assigned(&mut first), assigned(&mut third)).await;
    assert!(!theirs.is_empty());
    drop(third);
    assert_eq!(assigned(&mut first).await.len(), 3);
    other.close().await;
    engine.close().await;
    let closed = timeout(SOON, first.next_event()).await.unwrap();
    assert!(matches!(closed, Err(EngineError::Closed)), "{closed:?}");
}

#[tokio::test]
async fn more_members_than_partitions_and_topics_that_come_later() {
    let Some(nats) = nats() else { return };
    let engine = quick(&nats).await;
    let (topic, later, group) = (topic(&engine, 1).await, fresh("later"), fresh("g"));
    let mut one = engine.join(&group, std::slice::from_ref(&topic)).await.unwrap();
    assert_eq!(assigned(&mut one).await.len(), 1);
    let mut two = engine.join(&group, &[topic, later.clone()]).await.unwrap();
    let (one_has, two_has) = futures::future::join(
        timeout(Duration::from_secs(3), assigned(&mut one)),
        timeout(SOON, assigned(&mut two)),
    )
    .await;
    // Who has the least id has it; the other has nothing, and is told so.
    assert_eq!(one_has.map_or(1, |has| has.len()) + two_has.unwrap().len(), 1);
    engine.ensure_topic(&TopicSpec::new(later.clone(), 2)).await.unwrap();
    loop {
        if let GroupEvent::Assigned(all) = next(&mut two).await
            && all.iter().filter(|(at, _)| at.topic == later).count() == 2
        {
            break;
        }
    }
    for bad in [engine.join("", &[later]).await, engine.join("g", &[]).await] {
        assert!(matches!(bad, Err(EngineError::Refused { .. })), "{bad:?}");
    }
    engine.close().await;
}

/// The member's process stands still for longer than its session, and comes back.
#[test]
fn a_member_that_was_taken_for_dead_is_fenced() {
    let Some(nats) = nats() else { return };
    let still = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lively = tokio::runtime::Runtime::new().unwrap();
    let engine = lively.block_on(quick(&nats));
    let (topic, group) = lively.block_on(async { (topic(&engine, 2).await, fresh("g")) });
    let at = |partition| TopicPartition::new(topic.clone(), partition);
    let (zombie_engine, mut zombie) = still.block_on(async {
        let engine = quick(&nats).await;
        let mut zombie = engine.join(&group, std::slice::from_ref(&topic)).await.unwrap();
        assert_eq!(assigned(&mut zombie).await.len(), 2);
        zombie.commit(&[(at(0), Position(5))]).await.unwrap();
        (engine, zombie)
    });
    // Its runtime does nothing now, so its heart does not beat.
    let mut heir = lively.block_on(async {
        let mut heir = engine.join(&group, std::slice::from_ref(&topic)).await.unwrap();
        assert_eq!(assigned(&mut heir).await, [(0, Some(5)), (1, None)]);
        heir.commit(&[(at(0), Position(6))]).await.unwrap();
        heir
    });
    still.block_on(async {
        let fenced = zombie.commit(&[(at(0), Position(100))]).await;
        assert!(matches!(fenced, Err(EngineError::Fenced { .. })), "{fenced:?}");
        assert_eq!(next(&mut zombie).await, GroupEvent::Lost(vec![at(0), at(1)]));
    });
    // It is a member again.
    let (theirs, ours) = lively.block_on(async {
        let heir = tokio::spawn(async move {
            let has = assigned(&mut heir).await;
            (has, heir)
        });
        let zombie = std::thread::spawn(move || {
            let has = still.block_on(assigned(&mut zombie));
            still.block_on(async { zombie.leave().await.unwrap() });
            still.block_on(zombie_engine.close());
            has
        });
        let (theirs, heir) = heir.await.unwrap();
        let ours = tokio::task::spawn_blocking(move || zombie.join().unwrap()).await.unwrap();
        drop(heir);
        (theirs, ours)
    });
    let all: BTreeSet<_> = theirs.into_iter().chain(ours).collect();
    assert_eq!(all, BTreeSet::from([(0, Some(6)), (1, None)]));
    lively.block_on(engine.close());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_survives_its_server() {
    let Some(nats) = own_nats(1) else { return };
    let engine = quick(&nats).await;
    let (topic, group) = (topic(&engine, 2).await, fresh("g"));
    let at = |partition| TopicPartition::new(topic.clone(), partition);
    let mut member = engine.join(&group, std::slice::from_ref(&topic)).await.unwrap();
    assert_eq!(assigned(&mut member).await.len(), 2);
    member.commit(&[(at(0), Position(5))]).await.unwrap();
    nats.kill(1);
    // It cannot know whether somebody else has them.
    let lost = loop {
        match timeout(SOON, member.next_event()).await.unwrap() {
            Ok(event) => break event,
            Err(EngineError::Away { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!(lost, GroupEvent::Lost(vec![at(0), at(1)]));
    nats.start_again();
    let all = loop {
        match timeout(SOON, member.next_event()).await.unwrap() {
            Ok(GroupEvent::Assigned(all)) => break all,
            Ok(event) => panic!("{event:?}"),
            Err(EngineError::Away { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!(all, [(at(0), Some(Position(5))), (at(1), None)]);
    member.commit(&[(at(0), Position(6))]).await.unwrap();
    engine.close().await;
}
