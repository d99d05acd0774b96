//! What a move does when nothing happens to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_broker::Broker;
use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{AppendOptions, Engine, EngineError, Payload, Position, TopicSpec};
use anabranch_move::{Begun, Errand, Gate, Lookout, Move, MoveError, Pause, Watching};
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::deadly::{DeadlyEngine, Fuse};
use crate::stage::{PLACES, SIGNATURE, Side, TOPICS, a_move, carrying, judge, note_place, source};

#[tokio::test(flavor = "multi_thread")]
async fn topics_groups_and_settings_are_there_and_the_report_tells_what_was_compared() {
    let (source, target) = (source().await, Side::new().await);
    let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    let report = a_move(engines.0.clone(), engines.1.clone()).notes(target.notes()).run().await.unwrap();
    judge(&*engines.0, &*engines.1, "at the end").await;

    assert_eq!(report.topics.len(), TOPICS.len() + 1);
    let places = report.topics.iter().find(|topic| topic.name == PLACES).unwrap();
    let partition = &places.partitions[0];
    assert_eq!((partition.records, partition.translated, partition.gone), (4, 1, 0));
    assert_eq!(partition.source_checksum, partition.target_checksum);
    let orders = report.topics.iter().find(|topic| topic.name == "orders").unwrap();
    let first = &orders.partitions[0];
    assert_eq!(first.records, 6 + 9 + 4);
    assert_eq!(first.source_checksum, first.target_checksum);
    assert_ne!(first.source_checksum, orders.partitions[1].source_checksum);
    assert_eq!(first.source.0, Position(3));
    assert!(!orders.was_there && orders.settings_left.is_empty());
    let groups: Vec<_> = report.groups.iter().map(|group| &*group.name).collect();
    assert_eq!(groups, ["audit", "begun", "shipping"]);

    // Decided is decided: once more, it only sees to the settings.
    let again = a_move(engines.0.clone(), engines.1.clone()).notes(target.notes()).run().await.unwrap();
    assert!(again.was_decided);
    judge(&*engines.0, &*engines.1, "after a second run").await;
}

/// Apache Kafka answers that a transaction is committed before its partitions have heard of it, and shows their old ends for a moment. The move stopped,
/// since the target seemed to have lost what was copied.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_shows_late_what_is_written_is_waited_for() {
    let (source, target) = (source().await, Side::new().await);
    let (here, there) = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    let (engine, fuse, late) = (there.clone(), Fuse::new(None), Some(Arc::default()));
    let slow = Arc::new(DeadlyEngine { engine, fuse, description: None, late });
    a_move(here.clone(), slow).notes(target.notes()).run().await.unwrap();
    judge(&*here, &*there, "at the end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_named_is_moved() {
    let (source, target) = (source().await, Side::new().await);
    let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    let plan = a_move(engines.0.clone(), engines.1.clone()).dry_run(true).run().await.unwrap();
    assert_eq!(plan.topics.len(), TOPICS.len() + 1);
    assert!(target.broker.topic("bills").is_err(), "a dry run does nothing");
    let some = a_move(engines.0.clone(), engines.1.clone()).topics(["bills"]).groups(["audit"]);
    let report = some.run().await.unwrap();
    assert_eq!((report.topics.len(), report.groups.len()), (1, 1));
    assert!(target.broker.topic("orders").is_err());
    let unknown = a_move(engines.0.clone(), engines.1.clone()).topics(["bils"]).run().await;
    assert!(matches!(unknown, Err(MoveError::Unknown { what: "topic", .. })));
    let unknown = a_move(engines.0.clone(), engines.1.clone()).groups(["adit"]).run().await;
    assert!(matches!(unknown, Err(MoveError::Unknown { what: "group", .. })));
}

/// A target topic that holds something else is left alone, and told.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_written_to_the_target_is_found() {
    let (source, target) = (source().await, Side::new().await);
    let bills = TopicPartition::new("bills", 0);
    let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    target.broker.ensure_topic(&TopicSpec::new("bills", 1)).await.unwrap();
    let other = Payload::from(Record::new("other", "record"));
    Engine::append(&target.broker, &bills, other.clone(), AppendOptions::default()).await.unwrap();
    let moved = a_move(engines.0.clone(), engines.1.clone()).run().await;
    assert!(matches!(moved, Err(MoveError::Diverged { at, .. }) if at == bills));

    // Behind all that was copied.
    let target = Side::new().await;
    let engines = (engines.0, Arc::new(target.broker.clone()));
    a_move(engines.0.clone(), engines.1.clone()).run().await.unwrap();
    Engine::append(&target.broker, &bills, other, AppendOptions::default()).await.unwrap();
    let moved = a_move(engines.0.clone(), engines.1.clone()).run().await;
    assert!(matches!(moved, Err(MoveError::Surplus { at, .. }) if at == bills));

    let target = Side::new().await;
    target.broker.ensure_topic(&TopicSpec::new("bills", 2)).await.unwrap();
    let moved = a_move(engines.0.clone(), Arc::new(target.broker.clone())).run().await;
    assert!(matches!(moved, Err(MoveError::Target(_))));
}

/// Something happens when all is there, last words are said, and it is to be decided.
struct AtTheSwitch<H> {
    gate: Watching,
    /// What it says of what was decided before, whatever that is.
    begun: Option<Begun>,
    happens: H,
}

impl<H> std::fmt::Debug for AtTheSwitch<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AtTheSwitch").field("gate", &self.gate).finish_non_exhaustive()
    }
}

#[async_trait]
impl<H> Gate for AtTheSwitch<H>
where
    H: Fn() -> BoxFuture<'static, Result<(), MoveError>> + Send + Sync,
{
    async fn begin(&self, errand: &Errand) -> Result<Begun, MoveError> {
        let begun = self.gate.begin(errand).await?;
        Ok(self.begun.unwrap_or(begun))
    }

    async fn pause(&self) -> Result<Pause, MoveError> {
        self.gate.pause().await
    }

    async fn go_on(&self) {
        self.gate.go_on().await;
    }

    async fn switch(&self, shifted: &[TopicPartition]) -> Result<(), MoveError> {
        (self.happens)().await?;
        self.gate.switch(shifted).await
    }
}

fn watching(source: &Broker) -> Watching {
    Watching::new(Arc::new(source.clone()), Duration::from_millis(1))
}

/// Somebody writes, so many times.
fn goes_on(source: &Broker, times: u64) -> Box<dyn Gate> {
    let (writer, left) = (source.clone(), Arc::new(AtomicU64::new(times)));
    let happens = move || {
        let (writer, left) = (writer.clone(), Arc::clone(&left));
        async move {
            let times = left.load(Ordering::SeqCst);
            if times > 0 {
                left.store(times - 1, Ordering::SeqCst);
                note_place(&writer, 20 - times).await;
            }
            Ok(())
        }
        .boxed()
    };
    Box::new(AtTheSwitch { gate: watching(source), begun: None, happens })
}

/// It never stands still; where there is a target, somebody makes a topic of it anew.
fn made_anew(source: &Broker, target: Option<Broker>) -> Box<dyn Gate> {
    let happens = move || {
        let target = target.clone();
        async move {
            if let Some(target) = target {
                target.delete_topic("bills").await.unwrap();
                target.ensure_topic(&TopicSpec::new("bills", 1)).await.unwrap();
            }
            Err(MoveError::NotStill { attempts: 1, reason: "for this test".to_owned() })
        }
        .boxed()
    };
    Box::new(AtTheSwitch { gate: watching(source), begun: None, happens })
}

/// Knows of no decision.
fn nothing_decided(source: &Broker) -> Box<dyn Gate> {
    let happens = || async { Ok(()) }.boxed();
    Box::new(AtTheSwitch { gate: watching(source), begun: Some(Begun::Copying), happens })
}

/// A last word was said, and the source goes on: what it says then comes behind, and another last word behind that.
#[tokio::test(flavor = "multi_thread")]
async fn a_last_word_that_was_said_too_early_is_passed_over() {
    for keeps_notes in [false, true] {
        let (source, target) = (source().await, Side::new().await);
        let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
        // The first gives up after some of them; its successor finds them in the target.
        let begin = |times| {
            let moving =
                carrying(Move::new(engines.0.clone(), engines.1.clone(), goes_on(&source.broker, times)));
            if keeps_notes { moving.notes(target.notes()) } else { moving }
        };
        assert!(matches!(begin(u64::MAX >> 60).run().await, Err(MoveError::NotStill { .. })));
        begin(2).run().await.unwrap();
        judge(&*engines.0, &*engines.1, &format!("notes: {keeps_notes}")).await;
    }
}

/// A move was given up when all was copied and noted. Then the target's topics are deleted, or made anew by hand: the notes
/// say that all is there, and nothing is. What begins again copies them anew.
#[tokio::test(flavor = "multi_thread")]
async fn notes_do_not_outlive_what_the_target_holds() {
    let (source, target) = (source().await, Side::new().await);
    let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    let gate = goes_on(&source.broker, u64::MAX >> 60);
    let given_up = carrying(Move::new(engines.0.clone(), engines.1.clone(), gate));
    assert!(matches!(given_up.notes(target.notes()).run().await, Err(MoveError::NotStill { .. })));
    target.broker.delete_topic("orders").await.unwrap();
    target.broker.delete_topic("bills").await.unwrap();
    target.broker.ensure_topic(&TopicSpec::new("bills", 1)).await.unwrap();
    a_move(engines.0.clone(), engines.1.clone()).notes(target.notes()).run().await.unwrap();
    judge(&*engines.0, &*engines.1, "with notes of topics that were deleted").await;
}

/// What turned out to be somebody's own had been copied as anybody's before: its notes tell of no place, and there would be no last word.
#[tokio::test(flavor = "multi_thread")]
async fn notes_that_were_taken_without_places_are_taken_again() {
    let (source, target) = (source().await, Side::new().await);
    let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    let gate = made_anew(&source.broker, None);
    let as_anybodys = Move::new(engines.0.clone(), engines.1.clone(), gate);
    assert!(matches!(as_anybodys.notes(target.notes()).run().await, Err(MoveError::NotStill { .. })));
    a_move(engines.0.clone(), engines.1.clone()).notes(target.notes()).run().await.unwrap();
    judge(&*engines.0, &*engines.1, "carried at last").await;
}

/// The same while the mover runs: the second look at the end finds less than the first, and nothing is decided.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_loses_what_was_compared_stops_the_move() {
    let (source, target) = (source().await, Side::new().await);
    let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    let gate = made_anew(&source.broker, Some(target.broker.clone()));
    let moved = carrying(Move::new(engines.0.clone(), engines.1.clone(), gate));
    let moved = moved.notes(target.notes()).run().await;
    assert!(matches!(&moved, Err(MoveError::Lost { at, .. }) if at.topic == "bills"), "{moved:?}");
    a_move(engines.0.clone(), engines.1.clone()).notes(target.notes()).run().await.unwrap();
    judge(&*engines.0, &*engines.1, "once more").await;
}

/// Sees something begin.
#[derive(Debug)]
struct Begins;

#[async_trait]
impl Lookout for Begins {
    async fn begun(&self) -> Result<Option<String>, EngineError> {
        Ok(Some("workers.queue.orders".to_owned()))
    }
}

/// A queue begins while its topic is copied. What it has settled is not in the plan, so nothing is decided; the next run has it in its plan.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_decided_when_something_has_begun_that_is_not_in_the_plan() {
    let (source, target) = (source().await, Side::new().await);
    let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    let begin = || a_move(engines.0.clone(), engines.1.clone()).notes(target.notes());
    let moved = begin().lookout(Box::new(Begins)).run().await;
    assert!(matches!(&moved, Err(MoveError::BegunMeanwhile { topic }) if topic == "workers.queue.orders"));
    assert!(!begin().run().await.unwrap().was_decided);
    judge(&*engines.0, &*engines.1, "the next run").await;
}

/// A move was decided, and given up: the source forgot it, and went on. Its notes are still there, and say that it was decided. The
/// same move, begun again, must not believe them.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_and_given_up_is_moved_again() {
    let (source, target) = (source().await, Side::new().await);
    let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    let begin = || {
        let gate = nothing_decided(&source.broker);
        carrying(Move::new(engines.0.clone(), engines.1.clone(), gate)).notes(target.notes()).run()
    };
    begin().await.unwrap();
    note_place(&source.broker, 14).await;
    let again = begin().await.unwrap();
    assert!(!again.was_decided);
    judge(&*engines.0, &*engines.1, "moved again").await;
    // And what others have done to the target meanwhile is seen, wherever it is.
    target.broker.delete_topic("bills").await.unwrap();
    target.broker.ensure_topic(&TopicSpec::new("bills", 1)).await.unwrap();
    let other = (0..99).map(|_| Record::new("other", "record")).collect();
    let bills = TopicPartition::new("bills", 0);
    let how = AppendOptions::default();
    Engine::append(&target.broker, &bills, Payload::Records(other), how).await.unwrap();
    let moved = begin().await;
    assert!(matches!(&moved, Err(MoveError::Diverged { at, .. }) if *at == bills), "{moved:?}");
}

/// A source that came to be by a move between the same two engines has last words of its own, which are records like others.
#[tokio::test(flavor = "multi_thread")]
async fn last_words_of_the_source_are_copied() {
    let (source, target) = (source().await, Side::new().await);
    let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    let id = Move::id(&*engines.0, &*engines.1);
    let to = TopicPartition::new(PLACES, 0);
    for time in 0..3 {
        let word = Record::new("place", "5").header(SIGNATURE, id.clone()).at(time);
        Engine::append(&source.broker, &to, Payload::from(word), AppendOptions::default()).await.unwrap();
    }
    a_move(engines.0.clone(), engines.1.clone()).run().await.unwrap();
    judge(&*engines.0, &*engines.1, "at the end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_translated_is_not_moved() {
    let (source, target) = (source().await, Side::new().await);
    let engines = (Arc::new(source.broker.clone()), Arc::new(target.broker.clone()));
    let moved = a_move(engines.0.clone(), engines.1.clone()).topics([PLACES, "bills"]).run().await;
    let Err(MoveError::Without { topic, needs }) = moved else { panic!("{moved:?}") };
    assert_eq!((&*topic, &*needs), (PLACES, "orders"));
    assert!(target.broker.topic(PLACES).is_err());
}
