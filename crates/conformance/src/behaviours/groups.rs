//! Members of a group share partitions, and go on where it stands.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{Engine, EngineError, GroupEvent, GroupMember, Position};
use futures::future::{Either, join, join_all, select, select_all, try_join};

use tokio::time::timeout;

use crate::stage::{Outcome, Stage, Stop, ensure, ensure_eq, ensure_fails, polled, record};

type Member = Box<dyn GroupMember>;
type Assigned = Vec<(TopicPartition, Option<Position>)>;

impl Stage {
    async fn join(&self, group: &str, topics: &[String]) -> Outcome<Member> {
        Ok(self.soon("joining", self.engine().join(group, topics)).await??)
    }

    async fn commits(&self, member: &mut Member, at: &TopicPartition, next: u64) -> Outcome {
        Ok(self.soon("a member's commit", member.commit(&[(at.clone(), Position(next))])).await??)
    }
}

fn partitions(assigned: &Assigned) -> BTreeSet<TopicPartition> {
    assigned.iter().map(|(at, _)| at.clone()).collect()
}

fn all_of(topic: &str, count: i32) -> BTreeSet<TopicPartition> {
    (0..count).map(|partition| TopicPartition::new(topic, partition)).collect()
}

/// Listens to the members until what they were told last is what `is_settled` waits for. A member that is told nothing more
/// has what it was told. Nothing is told to one that is still another's.
async fn settle(
    stage: &Stage,
    members: &mut [Member],
    is_settled: impl Fn(&[BTreeSet<TopicPartition>]) -> bool,
) -> Outcome<Vec<BTreeSet<TopicPartition>>> {
    let has = vec![BTreeSet::new(); members.len()];
    settle_from(stage, members, has, is_settled).await
}

/// The same, of members that have something already.
async fn settle_from(
    stage: &Stage,
    members: &mut [Member],
    has: Vec<BTreeSet<TopicPartition>>,
    is_settled: impl Fn(&[BTreeSet<TopicPartition>]) -> bool,
) -> Outcome<Vec<BTreeSet<TopicPartition>>> {
    let has = parking_lot::Mutex::new(has);
    let listen = members.iter_mut().enumerate().map(|(number, member)| {
        let has = &has;
        async move {
            loop {
                match member.next_event().await {
                    Ok(GroupEvent::Assigned(assigned)) => {
                        let own = partitions(&assigned);
                        let mut has = has.lock();
                        for (other, others) in has.iter().enumerate().filter(|(other, _)| *other != number) {
                            if let Some(both) = own.intersection(others).next() {
                                return Stop::Broken(format!(
                                    "{both} is member {number}'s, and member {other}'s still"
                                ));
                            }
                        }
                        has[number] = own;
                    }
                    Ok(GroupEvent::Revoked(gone) | GroupEvent::Lost(gone)) => {
                        has.lock()[number].retain(|at| !gone.contains(at));
                    }
                    Err(error) => return error.into(),
                }
            }
        }
    });
    let settled = stage
        .until("a group's members have what is theirs", async || Ok(is_settled(&has.lock()).then_some(())));
    let failed = select_all(listen.map(Box::pin));
    match select(Box::pin(settled), failed).await {
        Either::Left((settled, _)) => settled?,
        Either::Right(((stop, ..), _)) => return Err(stop),
    }
    Ok(has.into_inner())
}

/// Each partition is one member's, and each member has some.
fn is_shared(has: &[BTreeSet<TopicPartition>], all: &BTreeSet<TopicPartition>) -> bool {
    has.iter().map(BTreeSet::len).sum::<usize>() == all.len()
        && has.iter().all(|own| !own.is_empty())
        && has.iter().flatten().cloned().collect::<BTreeSet<_>>() == *all
}

pub(crate) async fn partitions_are_shared(stage: &Stage) -> Outcome {
    let (topic, group) = (stage.topic(6).await?, stage.name());
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(stage.join(&group, std::slice::from_ref(&topic)).await?);
    }
    let all = all_of(&topic, 6);
    settle(stage, &mut members, |has| is_shared(has, &all)).await?;
    Ok(())
}

pub(crate) async fn no_partition_is_two_members(stage: &Stage) -> Outcome {
    let (topic, group) = (stage.topic(4).await?, stage.name());
    let (mut members, mut has) = (Vec::new(), Vec::new());
    let all = all_of(&topic, 4);
    for _ in 0..3 {
        members.push(stage.join(&group, std::slice::from_ref(&topic)).await?);
        has.push(BTreeSet::new());
        has = settle_from(stage, &mut members, has, |has| is_shared(has, &all)).await?;
    }
    Ok(())
}

pub(crate) async fn a_group_goes_on_where_it_stands(stage: &Stage) -> Outcome {
    let (topic, group) = (stage.topic(2).await?, stage.name());
    let at = |partition| TopicPartition::new(&topic, partition);
    let mut member = stage.join(&group, std::slice::from_ref(&topic)).await?;
    let assigned = stage.assigned(&mut member).await?;
    ensure_eq!(partitions(&assigned), all_of(&topic, 2), "the only member's partitions");
    ensure!(assigned.iter().all(|(_, position)| position.is_none()), "a new group stands at {assigned:?}");
    let appended = stage.append(&at(0), record("x")).await?;
    stage.commits(&mut member, &at(0), appended.next.0).await?;
    stage.soon("leaving", member.leave()).await??;
    let mut next = stage.join(&group, std::slice::from_ref(&topic)).await?;
    let mut assigned = stage.assigned(&mut next).await?;
    assigned.sort_unstable();
    ensure_eq!(assigned, [(at(0), Some(appended.next)), (at(1), None)], "where the next member begins");
    Ok(())
}

pub(crate) async fn a_position_may_go_back(stage: &Stage) -> Outcome {
    let (at, group) = (stage.partition().await?, stage.name());
    let mut member = stage.join(&group, std::slice::from_ref(&at.topic)).await?;
    stage.assigned(&mut member).await?;
    for next in [5, 9, 3] {
        stage.commits(&mut member, &at, next).await?;
    }
    stage.soon("leaving", member.leave()).await??;
    let stands = stage.stands(&**stage.engine(), &group, &at).await?;
    ensure_eq!(stands, Some(Position(3)), "the position that was committed last");
    Ok(())
}

pub(crate) async fn who_joins_gets_a_part(stage: &Stage) -> Outcome {
    let (topic, group) = (stage.topic(4).await?, stage.name());
    let topics = [topic.clone()];
    let mut first = stage.join(&group, &topics).await?;
    ensure_eq!(
        partitions(&stage.assigned(&mut first).await?),
        all_of(&topic, 4),
        "the only member's partitions"
    );
    let second = stage.join(&group, &topics).await?;
    let mut members = vec![first, second];
    let all = all_of(&topic, 4);
    settle_from(stage, &mut members, vec![all.clone(), BTreeSet::new()], |has| is_shared(has, &all)).await?;
    Ok(())
}

pub(crate) async fn who_leaves_gives_up_at_once(stage: &Stage) -> Outcome {
    let (topic, group) = (stage.topic(4).await?, stage.name());
    let topics = [topic.clone()];
    let mut members = vec![stage.join(&group, &topics).await?, stage.join(&group, &topics).await?];
    let all = all_of(&topic, 4);
    settle(stage, &mut members, |has| is_shared(has, &all)).await?;
    let leaver = members.remove(0);
    stage.soon("leaving", leaver.leave()).await??;
    settle(stage, &mut members, |has| has[0] == all).await?;
    Ok(())
}

pub(crate) async fn who_is_dropped_is_missed(stage: &Stage) -> Outcome {
    let (topic, group) = (stage.topic(4).await?, stage.name());
    let topics = [topic.clone()];
    let mut members = vec![stage.join(&group, &topics).await?, stage.join(&group, &topics).await?];
    let all = all_of(&topic, 4);
    settle(stage, &mut members, |has| is_shared(has, &all)).await?;
    drop(members.remove(0));
    settle(stage, &mut members, |has| has[0] == all).await?;
    Ok(())
}

pub(crate) async fn revoked_is_ones_own_until_the_next_call(stage: &Stage) -> Outcome {
    let (topic, group) = (stage.topic(2).await?, stage.name());
    let topics = [topic.clone()];
    let mut first = stage.join(&group, &topics).await?;
    stage.assigned(&mut first).await?;
    let mut second = stage.join(&group, &topics).await?;
    let listens = async {
        loop {
            if let GroupEvent::Assigned(assigned) = second.next_event().await?
                && !assigned.is_empty()
            {
                return Ok::<_, EngineError>(assigned);
            }
        }
    };
    let gives = async {
        let revoked = loop {
            match stage.event(&mut first).await? {
                GroupEvent::Revoked(gone) if !gone.is_empty() => break gone,
                GroupEvent::Lost(gone) => {
                    return Err(Stop::Broken(format!(
                        "{gone:?} are lost, where a member listens and has not been slow"
                    )));
                }
                GroupEvent::Revoked(_) | GroupEvent::Assigned(_) => {}
            }
        };
        for at in &revoked {
            stage.commits(&mut first, at, 40 + at.partition as u64).await?;
        }
        // And then it lets go.
        loop {
            stage.event(&mut first).await?;
        }
    };
    let moving = async {
        tokio::select! {
            assigned = listens => Ok(assigned?),
            Err::<Infallible, Stop>(stop) = gives => Err(stop),
        }
    };
    for (at, position) in stage.soon("the next owner's assignment", moving).await?? {
        ensure_eq!(position, Some(Position(40 + at.partition as u64)), "where the next owner of {at} begins");
    }
    Ok(())
}

pub(crate) async fn what_is_anothers_is_not_committed(stage: &Stage) -> Outcome {
    let (topic, group) = (stage.topic(4).await?, stage.name());
    let topics = [topic.clone()];
    let mut first = stage.join(&group, &topics).await?;
    stage.assigned(&mut first).await?;
    for at in all_of(&topic, 4) {
        stage.commits(&mut first, &at, 1).await?;
    }
    let mut members = vec![first, stage.join(&group, &topics).await?];
    let all = all_of(&topic, 4);
    let has = settle(stage, &mut members, |has| is_shared(has, &all)).await?;
    let lost =
        has[1].iter().next().cloned().ok_or_else(|| Stop::Broken("nothing is the second's".to_owned()))?;
    let result = stage.soon("a commit", members[0].commit(&[(lost.clone(), Position(7))])).await?;
    ensure_fails!(result, EngineError::Fenced { .. }, "a commit for {lost}, which is another member's now");
    // It may have become another's again; what counts is that the position did not move.
    for member in members {
        stage.soon("leaving", member.leave()).await??;
    }
    let stands = stage.stands(&**stage.engine(), &group, &lost).await?;
    ensure_eq!(stands, Some(Position(1)), "where the group stands");
    Ok(())
}

pub(crate) async fn a_halted_member_is_fenced(stage: &Stage) -> Outcome {
    let (at, group) = (stage.partition().await?, stage.name());
    let mut working = stage.child_beside(&format!("member {} {group}", at.topic)).await?;
    let last = stage.work(&mut working, 10).await?;
    working.halt();
    let mut next = stage.join(&group, std::slice::from_ref(&at.topic)).await?;
    let assigned = stage.assigned(&mut next).await?;
    let begins = assigned.first().and_then(|(_, position)| *position);
    ensure!(
        begins >= Some(Position(last)),
        "{last} was committed, and the next member begins at {assigned:?}"
    );
    stage.commits(&mut next, &at, 1_000_000).await?;
    working.go_on();
    stage.end(working).await?;
    stage.soon("leaving", next.leave()).await??;
    let stands = stage.stands(&**stage.engine(), &group, &at).await?;
    ensure_eq!(stands, Some(Position(1_000_000)), "where the group stands");
    Ok(())
}

pub(crate) async fn groups_do_not_mix(stage: &Stage) -> Outcome {
    let (at, groups) = (stage.partition().await?, [stage.name(), stage.name()]);
    for (number, group) in groups.iter().enumerate() {
        let mut member = stage.join(group, std::slice::from_ref(&at.topic)).await?;
        let assigned = stage.assigned(&mut member).await?;
        ensure_eq!(assigned, [(at.clone(), None)], "what a group's first member is assigned");
        stage.commits(&mut member, &at, number as u64 + 1).await?;
        stage.soon("leaving", member.leave()).await??;
    }
    for (number, group) in groups.iter().enumerate() {
        let stands = stage.stands(&**stage.engine(), group, &at).await?;
        ensure_eq!(stands, Some(Position(number as u64 + 1)), "where group {number} stands");
    }
    Ok(())
}

pub(crate) async fn two_groups_read_the_same_at_once(stage: &Stage) -> Outcome {
    let topic = stage.topic(3).await?;
    let topics = [topic.clone()];
    let joins = (0..2).map(|_| {
        let (group, topics) = (stage.name(), &topics);
        async move {
            let mut member = stage.join(&group, topics).await?;
            let assigned = stage.assigned(&mut member).await?;
            Ok::<_, Stop>((member, partitions(&assigned)))
        }
    });
    let mut members = Vec::new();
    for joined in join_all(joins).await {
        let (member, assigned) = joined?;
        ensure_eq!(assigned, all_of(&topic, 3), "what a group's only member is assigned");
        members.push(member);
    }
    for member in &mut members {
        let told = timeout(Duration::from_millis(500), member.next_event()).await;
        ensure!(told.is_err(), "beside another group's, a member is told {told:?}");
    }
    Ok(())
}

pub(crate) async fn positions_are_durable(stage: &Stage) -> Outcome {
    let (at, group) = (stage.partition().await?, stage.name());
    let mut member = stage.join(&group, std::slice::from_ref(&at.topic)).await?;
    stage.assigned(&mut member).await?;
    stage.commits(&mut member, &at, 42).await?;
    drop(member);
    let engine = stage.reopened().await?;
    ensure_eq!(stage.stands(&*engine, &group, &at).await?, Some(Position(42)), "where the group stands");
    Ok(())
}

pub(crate) async fn positions_survive_a_members_death(stage: &Stage) -> Outcome {
    // Whether there are groups is found out here, and not in the child.
    let (at, group) = (stage.partition().await?, stage.name());
    drop(stage.join(&stage.name(), std::slice::from_ref(&at.topic)).await?);
    let working = stage.child(&format!("member {} {group}", at.topic)).await?;
    let last = stage.kill_after(working, 10).await?;
    let engine = stage.client("after").await?;
    let stands = stage.stands(&*engine, &group, &at).await?;
    let (least, most) = (Some(Position(last)), Some(Position(last + 1)));
    ensure!(least <= stands && stands <= most, "{last} was committed, and the group stands at {stands:?}");
    Ok(())
}

pub(crate) async fn an_event_may_be_dropped(stage: &Stage) -> Outcome {
    let (topic, group) = (stage.topic(2).await?, stage.name());
    let topics = [topic.clone()];
    // Dropped at once, after a millisecond, after two …
    for wait_ms in 0..8 {
        let mut member = stage.join(&group, &topics).await?;
        let event = stage
            .until("an event, of which the wait is dropped again and again", async || {
                match timeout(Duration::from_millis(wait_ms), member.next_event()).await {
                    Ok(event) => Ok(Some(event?)),
                    Err(_) => Ok(None),
                }
            })
            .await?;
        let GroupEvent::Assigned(assigned) = event else {
            return Err(Stop::Broken(format!("a new member is first told {event:?}")));
        };
        ensure_eq!(partitions(&assigned), all_of(&topic, 2), "what is told after waits were dropped");
        // While nothing happens, nothing is told, however often it is asked.
        for _ in 0..3 {
            let told = polled(20, member.next_event()).await;
            ensure!(told.is_none(), "the only member is told {told:?}");
        }
        stage.soon("leaving", member.leave()).await??;
    }
    Ok(())
}

pub(crate) async fn more_members_than_partitions(stage: &Stage) -> Outcome {
    let (at, group) = (stage.partition().await?, stage.name());
    let topics = [at.topic.clone()];
    let mut members = vec![stage.join(&group, &topics).await?, stage.join(&group, &topics).await?];
    let all = all_of(&at.topic, 1);
    // Before the second has come in, the first has all, and may lose it.
    let both_are_in = AtomicBool::new(false);
    let come = async {
        let look = async || {
            let found = stage.engine().admin().group(&group).await?;
            Ok(found.is_some_and(|found| found.members.len() == 2).then_some(()))
        };
        stage.until("both members are in the group", look).await?;
        both_are_in.store(true, Ordering::Relaxed);
        Ok(())
    };
    let is_shared_out = |has: &[BTreeSet<TopicPartition>]| {
        both_are_in.load(Ordering::Relaxed) && has[0].len() + has[1].len() == 1
    };
    let (has, ()) = try_join(settle(stage, &mut members, is_shared_out), come).await?;
    // When the one that has it leaves, the other gets it.
    let owner = usize::from(has[0].is_empty());
    stage.soon("leaving", members.remove(owner).leave()).await??;
    settle(stage, &mut members, |has| has[0] == all).await?;
    Ok(())
}

pub(crate) async fn a_member_reads_several_topics(stage: &Stage) -> Outcome {
    let (one, two, group) = (stage.topic(2).await?, stage.topic(3).await?, stage.name());
    let mut member = stage.join(&group, &[one.clone(), two.clone()]).await?;
    let assigned = stage.assigned(&mut member).await?;
    let expected: BTreeSet<_> = all_of(&one, 2).union(&all_of(&two, 3)).cloned().collect();
    ensure_eq!(partitions(&assigned), expected, "the only member's partitions of two topics");
    let positions: Vec<_> = expected.iter().cloned().zip((1..).map(Position)).collect();
    stage.soon("a commit", member.commit(&positions)).await??;
    stage.soon("leaving", member.leave()).await??;
    let mut next = stage.join(&group, &[one, two]).await?;
    let mut assigned = stage.assigned(&mut next).await?;
    assigned.sort_unstable();
    let expected: Vec<_> = positions.into_iter().map(|(at, next)| (at, Some(next))).collect();
    ensure_eq!(assigned, expected, "where the next member begins");
    Ok(())
}

pub(crate) async fn members_of_two_clients_share(stage: &Stage) -> Outcome {
    let (topic, group) = (stage.topic(4).await?, stage.name());
    let topics = [topic.clone()];
    let other = stage.client_of("other", &topic).await?;
    let other: &dyn Engine = &*other;
    let (one, two) = join(stage.engine().join(&group, &topics), other.join(&group, &topics)).await;
    let mut members = vec![one?, two?];
    let all = all_of(&topic, 4);
    settle(stage, &mut members, |has| is_shared(has, &all)).await?;
    Ok(())
}
