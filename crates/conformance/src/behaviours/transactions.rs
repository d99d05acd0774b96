//! Records and a group's positions become visible together, or not at all.

use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{
    Engine, EngineError, GroupPositions, Payload, Place, Position, TransactionalProducer,
};
use bytes::Bytes;

use crate::stage::{
    Outcome, Stage, Stop, append, check_fetched, ensure, ensure_eq, ensure_fails, polled, record, records,
    short, texts, transactions,
};

const MINUTE: Duration = Duration::from_secs(60);

fn stands(group: &str, at: &TopicPartition, next: u64) -> Option<GroupPositions> {
    Some(GroupPositions { group: group.to_owned(), positions: vec![(at.clone(), Position(next))] })
}

impl Stage {
    async fn commit(
        &self,
        producer: &mut Box<dyn TransactionalProducer>,
        appends: Vec<(TopicPartition, Payload)>,
        positions: Option<GroupPositions>,
    ) -> Outcome<Result<Vec<anabranch_core::engine::Appended>, EngineError>> {
        self.soon("a commit", producer.commit(appends, positions)).await
    }
}

pub(crate) async fn records_and_positions_are_committed_together(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let (topic, other, group) = (stage.topic(2).await?, stage.partition().await?, stage.name());
    let at = |partition| TopicPartition::new(&topic, partition);
    let mut producer = stage.producer().await?;
    for number in 0..5 {
        let text = number.to_string();
        let appends = vec![
            (at(0), record(&text).into()),
            (at(1), records(&[&text, &text]).into()),
            (other.clone(), record(&text).into()),
        ];
        stage.commit(&mut producer, appends, stands(&group, &other, number + 1)).await??;
        // All of it is there when the commit returns, or a moment later.
        for (at, count) in [(at(0), 1), (at(1), 2), (other.clone(), 1)] {
            let expected: Vec<_> = (0..=number).flat_map(|number| vec![number.to_string(); count]).collect();
            stage.shows(&at, &expected, "what was committed").await?;
        }
    }
    let stands = stage.stands(&**stage.engine(), &group, &other).await?;
    ensure_eq!(stands, Some(Position(5)), "where the group stands");
    Ok(())
}

pub(crate) async fn a_commit_tells_where_its_records_are(stage: &Stage) -> Outcome {
    let topic = stage.topic(2).await?;
    let at = |partition| TopicPartition::new(&topic, partition);
    let mut producer = stage.producer().await?;
    for round in 0..3 {
        let parts = [(0, ["a", "b"]), (1, ["c", "d"]), (0, ["e", "f"])];
        let appends =
            parts.iter().map(|(partition, texts)| (at(*partition), records(texts).into())).collect();
        let told = stage.commit(&mut producer, appends, None).await??;
        ensure_eq!(told.len(), 3, "a place per append");
        for ((partition, expected), told) in parts.iter().zip(told) {
            let mut reader = stage.engine().reader(&at(*partition), told.first).await?;
            let read = stage.read_count(&mut *reader, 2).await?;
            ensure_eq!(texts(&read)[..2], expected[..], "what is at {} in round {round}", told.first);
            ensure!(
                Position::from(read[1].offset) < told.next,
                "an append was told to end at {}, and has a record at {}",
                told.next,
                read[1].offset
            );
        }
    }
    Ok(())
}

pub(crate) async fn nothing_of_a_commit_that_failed_is_shown(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let (at, group) = (stage.partition().await?, stage.name());
    let missing = TopicPartition::new(stage.name(), 0);
    let mut producer = stage.producer().await?;
    let one = |text: &str| vec![(at.clone(), record(text).into())];
    stage.commit(&mut producer, one("a"), stands(&group, &at, 1)).await??;
    for number in 0..3 {
        let mut appends = one("lost");
        appends.push((missing.clone(), record("lost").into()));
        let result = stage.commit(&mut producer, appends, stands(&group, &at, 7)).await?;
        ensure_fails!(result, EngineError::NotFound(_), "a commit to a topic that does not exist");
        // The same producer goes on.
        stage.commit(&mut producer, one(&number.to_string()), None).await??;
    }
    stage.append(&at, record("end")).await?;
    stage.shows(&at, &["a", "0", "1", "2", "end"], "what was committed").await?;
    let stands = stage.stands(&**stage.engine(), &group, &at).await?;
    ensure_eq!(stands, Some(Position(1)), "where the group stands");
    Ok(())
}

pub(crate) async fn what_is_no_batch_is_refused_in_a_commit(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let at = stage.partition().await?;
    let mut producer = stage.producer().await?;
    let appends =
        vec![(at.clone(), record("lost").into()), (at.clone(), Bytes::from_static(b"garbage").into())];
    let result = stage.commit(&mut producer, appends, None).await?;
    ensure_fails!(result, EngineError::Batch(_), "a commit of bytes that are no batch");
    stage.commit(&mut producer, vec![(at.clone(), record("a").into())], None).await??;
    stage.shows(&at, &["a"], "what was committed").await?;
    Ok(())
}

pub(crate) async fn too_large_is_told_in_a_commit(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let at = stage.partition().await?;
    let max = stage.engine().description().limits.record_bytes_max;
    if max > 64 << 20 {
        return Err(Stop::Lacks("the limits are too large to go beyond them in a test".to_owned()));
    }
    let mut producer = stage.producer().await?;
    let large = "x".repeat(usize::try_from(max).unwrap_or_default() + 1);
    let appends = vec![(at.clone(), record("lost").into()), (at.clone(), record(&large).into())];
    let result = stage.commit(&mut producer, appends, None).await?;
    ensure_fails!(
        result,
        EngineError::TooLarge { .. },
        "a commit of {} bytes where {max} are taken",
        large.len()
    );
    stage.commit(&mut producer, vec![(at.clone(), record("a").into())], None).await??;
    stage.shows(&at, &["a"], "what was committed").await?;
    Ok(())
}

pub(crate) async fn a_commit_may_be_of_nothing(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let (at, group) = (stage.partition().await?, stage.name());
    let mut producer = stage.producer().await?;
    ensure_eq!(stage.commit(&mut producer, Vec::new(), None).await??.len(), 0, "places of no appends");
    stage.commit(&mut producer, Vec::new(), stands(&group, &at, 3)).await??;
    stage.commit(&mut producer, vec![(at.clone(), record("a").into())], None).await??;
    stage.shows(&at, &["a"], "what was committed").await?;
    let stands = stage.stands(&**stage.engine(), &group, &at).await?;
    ensure_eq!(stands, Some(Position(3)), "where the group stands");
    Ok(())
}

/// Where one partition has three records per transaction in two appends, no place that is told lies within one.
pub(crate) async fn no_reader_sees_a_part(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let at = stage.partition().await?;
    let engine = stage.engine();
    let start = engine.locate(&at, Place::Earliest).await?;
    let mut producer = stage.producer().await?;
    let watched = stage.client_of("watch", &at.topic).await?;
    let done = std::sync::atomic::AtomicBool::new(false);
    let work = async {
        let mut told = Vec::new();
        for number in 0..60 {
            let text = number.to_string();
            // One in three is not committed, so that there is what must never be seen.
            let mut appends =
                vec![(at.clone(), record(&text).into()), (at.clone(), records(&[&text, &text]).into())];
            if number % 3 == 2 {
                appends.push((TopicPartition::new(&at.topic, 9), record(&text).into()));
                ensure_fails!(
                    producer.commit(appends, None).await,
                    EngineError::NotFound(_),
                    "a commit to no partition"
                );
            } else {
                told.push(producer.commit(appends, None).await?);
            }
        }
        Ok::<_, Stop>(told)
    };
    let work = async {
        let told = work.await;
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        told
    };
    let watch = async {
        let (mut reader, mut seen, mut ends) = (watched.reader(&at, start).await?, Vec::new(), Vec::new());
        loop {
            let from = reader.position();
            let limits =
                anabranch_core::engine::ReadLimits { wait_max: Duration::from_millis(1), bytes_max: 1 << 20 };
            let fetched = reader.read(limits).await?;
            ends.push(fetched.latest);
            ends.push(watched.locate(&at, Place::Latest).await?);
            seen.extend(check_fetched(&*reader, from, fetched)?);
            if done.load(std::sync::atomic::Ordering::SeqCst) && seen.len() >= 120 {
                return Ok::<_, Stop>((seen, ends));
            }
            tokio::task::yield_now().await;
        }
    };
    let (told, watched) = stage.soon("sixty commits", futures::future::join(work, watch)).await?;
    let (told, (seen, ends)) = (told?, watched?);
    let expected: Vec<_> =
        (0..60).filter(|number| number % 3 != 2).flat_map(|number| vec![number.to_string(); 3]).collect();
    ensure_eq!(texts(&seen), expected, "what a reader sees while transactions come and go");
    for places in told {
        let (first, last) = (places[0].first, places[1].next);
        let inside = ends.iter().find(|end| **end > first && **end < last);
        ensure!(
            inside.is_none(),
            "the latest place was {inside:?}, inside of a transaction from {first} to {last}"
        );
    }
    Ok(())
}

pub(crate) async fn the_end_is_reached_behind_what_is_not_shown(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let at = stage.partition().await?;
    let mut producer = stage.producer().await?;
    for commits in [true, false, false, true, false] {
        let mut appends = vec![(at.clone(), record("x").into())];
        if !commits {
            appends.push((TopicPartition::new(&at.topic, 9), record("x").into()));
        }
        let result = stage.commit(&mut producer, appends, None).await?;
        ensure_eq!(result.is_ok(), commits, "whether a commit succeeds");
    }
    stage.shows(&at, &["x", "x"], "what was committed").await?;
    // What reads to the latest place comes there, or the stage says that it does not.
    let from = stage.engine().locate(&at, Place::Earliest).await?;
    let end = stage.engine().locate(&at, Place::Latest).await?;
    let mut reader = stage.engine().reader(&at, from).await?;
    ensure_eq!(texts(&stage.read_to(&mut *reader, end).await?), ["x", "x"], "what was committed");
    ensure!(reader.position() >= end, "a reader comes to {} and not to {end}", reader.position());
    // And what comes behind is read by the same reader.
    stage.append(&at, record("end")).await?;
    ensure_eq!(texts(&stage.read_count(&mut *reader, 1).await?), ["end"], "what comes behind");
    Ok(())
}

pub(crate) async fn an_older_producer_is_fenced(stage: &Stage) -> Outcome {
    let (at, group, id) = (stage.partition().await?, stage.name(), stage.name());
    let one = |text: &str| vec![(at.clone(), record(text).into())];
    let mut old = stage.transactions()?.producer(&id, MINUTE).await?;
    stage.commit(&mut old, one("old"), stands(&group, &at, 1)).await??;
    let elsewhere = stage.client("elsewhere").await?;
    let mut new = transactions(&*elsewhere)?.producer(&id, MINUTE).await?;
    for _ in 0..2 {
        let result = stage.commit(&mut old, one("zombie"), stands(&group, &at, 7)).await?;
        ensure_fails!(
            result,
            EngineError::ProducerFenced { .. },
            "a commit by a producer whose id was taken"
        );
    }
    stage.commit(&mut new, one("new"), None).await??;
    stage.shows(&at, &["old", "new"], "what was committed by the one and the other").await?;
    let stands = stage.stands(&**stage.engine(), &group, &at).await?;
    ensure_eq!(stands, Some(Position(1)), "where the group stands");
    Ok(())
}

pub(crate) async fn a_halted_producer_is_fenced(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let (topic, id, group) = (stage.topic(2).await?, stage.name(), stage.name());
    let at = |partition| TopicPartition::new(&topic, partition);
    let mut working = stage.child_beside(&format!("commit {topic} {id} {group}")).await?;
    let last = stage.work(&mut working, 10).await?;
    working.halt();
    let mut next = stage.transactions()?.producer(&id, MINUTE).await?;
    let both = vec![(at(0), record("next").into()), (at(1), record("next").into())];
    stage.commit(&mut next, both, stands(&group, &at(0), 1_000_000)).await??;
    working.go_on();
    stage.end(working).await?;
    for partition in 0..2 {
        let read = stage
            .until("the next producer's commit is shown", async || {
                let read = stage.texts(&at(partition)).await?;
                Ok(read.contains(&"next".to_owned()).then_some(read))
            })
            .await?;
        let done = read.len() as u64 - 1;
        ensure!(done > last, "{} commits were told, and {done} are there", last + 1);
        let expected: Vec<_> =
            (0..done).map(|number| number.to_string()).chain(["next".to_owned()]).collect();
        ensure_eq!(read, expected, "what is there, and nothing of the old producer's behind it");
    }
    let stands = stage.stands(&**stage.engine(), &group, &at(0)).await?;
    ensure_eq!(stands, Some(Position(1_000_000)), "where the group stands");
    Ok(())
}

pub(crate) async fn producers_of_two_ids_live_together(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let at = stage.partition().await?;
    let (mut one, mut two) = (stage.producer().await?, stage.producer().await?);
    let mut expected = Vec::new();
    for number in 0..10 {
        let text = number.to_string();
        let by = if number % 2 == 0 { &mut one } else { &mut two };
        stage.commit(by, vec![(at.clone(), record(&text).into())], None).await??;
        expected.push(text);
    }
    stage.shows(&at, &expected, "what two producers committed by turns").await?;
    Ok(())
}

pub(crate) async fn a_dropped_commit_is_whole(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let topic = stage.topic(2).await?;
    let at = |partition| TopicPartition::new(&topic, partition);
    let mut producer = stage.producer().await?;
    let both = |text: &str| vec![(at(0), record(text).into()), (at(1), record(text).into())];
    let mut certain = Vec::new();
    for polls in 0..12 {
        let text = format!("dropped {polls}");
        match polled(polls, producer.commit(both(&text), None)).await {
            Some(Ok(_)) => certain.push(text),
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
        let text = format!("behind {polls}");
        match stage.commit(&mut producer, both(&text), None).await? {
            Ok(_) => certain.push(text),
            // The engine may have to give up what was left open.
            Err(EngineError::Aborted { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let end = vec![(at(0), record("end").into()), (at(1), record("end").into())];
    stage.commit(&mut producer, end, None).await??;
    let read = async |at: TopicPartition| {
        stage
            .until("the last commit is shown", async || {
                let read = stage.texts(&at).await?;
                Ok((read.last().map(String::as_str) == Some("end")).then_some(read))
            })
            .await
    };
    let (one, two) = (read(at(0)).await?, read(at(1)).await?);
    ensure_eq!(one, two, "both partitions");
    let mut left = one.iter();
    for text in &certain {
        ensure!(
            left.any(|read| read == text),
            "{text:?} was committed, and is not there, or not in order: {}",
            short(&one)
        );
    }
    let mut unique = one.clone();
    unique.sort_unstable();
    unique.dedup();
    ensure_eq!(unique.len(), one.len(), "records that are there once");
    ensure!(certain.len() >= 12, "only {} of 24 commits succeed", certain.len());
    Ok(())
}

pub(crate) async fn a_killed_producer_leaves_all_or_nothing(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let (topic, id, group) = (stage.topic(2).await?, stage.name(), stage.name());
    let at = |partition| TopicPartition::new(&topic, partition);
    let working = stage.child(&format!("commit {topic} {id} {group}")).await?;
    let last = stage.kill_after(working, 10).await?;
    let engine = stage.client("after").await?;
    // The next of its id settles what was open.
    let mut next = transactions(&*engine)?.producer(&id, MINUTE).await?;
    let one = crate::stage::texts(&stage.read_by(&*engine, &at(0)).await?);
    let two = crate::stage::texts(&stage.read_by(&*engine, &at(1)).await?);
    ensure_eq!(one, two, "both partitions after the producer was killed");
    let expected: Vec<_> = (0..one.len()).map(|number| number.to_string()).collect();
    ensure_eq!(one, expected, "what was committed");
    let done = last as usize + 1;
    ensure!((done..=done + 1).contains(&one.len()), "{done} commits were told, and {} are there", one.len());
    let stands = stage.stands(&*engine, &group, &at(0)).await?;
    ensure_eq!(stands, Some(Position(one.len() as u64)), "where the group stands");
    stage.commit(&mut next, vec![(at(0), record("next").into())], None).await??;
    Ok(())
}

pub(crate) async fn committed_is_there_after_closing(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let (at, group, id) = (stage.partition().await?, stage.name(), stage.name());
    let one = |text: &str| vec![(at.clone(), record(text).into())];
    let mut producer = stage.transactions()?.producer(&id, MINUTE).await?;
    stage.commit(&mut producer, one("a"), stands(&group, &at, 4)).await??;
    drop(producer);
    let engine = stage.reopened().await?;
    let mut producer = transactions(&*engine)?.producer(&id, MINUTE).await?;
    stage.commit(&mut producer, one("b"), None).await??;
    append(&*engine, &at, record("c")).await?;
    let from = engine.locate(&at, Place::Earliest).await?;
    let mut reader = engine.reader(&at, from).await?;
    let read = stage.read_count(&mut *reader, 3).await?;
    ensure_eq!(texts(&read), ["a", "b", "c"], "what was committed before all was closed, and after");
    ensure_eq!(stage.stands(&*engine, &group, &at).await?, Some(Position(4)), "where the group stands");
    Ok(())
}

pub(crate) async fn positions_in_a_commit_are_the_groups(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let (topic, group) = (stage.topic(2).await?, stage.name());
    let at = |partition| TopicPartition::new(&topic, partition);
    let engine: &dyn Engine = &**stage.engine();
    let mut member = engine.join(&group, std::slice::from_ref(&topic)).await?;
    stage.assigned(&mut member).await?;
    stage.soon("a member's commit", member.commit(&[(at(0), Position(2)), (at(1), Position(3))])).await??;
    stage.soon("leaving", member.leave()).await??;
    let mut producer = stage.producer().await?;
    // What is not named stays.
    stage.commit(&mut producer, Vec::new(), stands(&group, &at(1), 9)).await??;
    ensure_eq!(
        stage.stands(engine, &group, &at(0)).await?,
        Some(Position(2)),
        "a position that was not in the commit"
    );
    ensure_eq!(stage.stands(engine, &group, &at(1)).await?, Some(Position(9)), "a position that was");
    Ok(())
}
