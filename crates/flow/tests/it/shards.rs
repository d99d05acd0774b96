//! A flow in parts: what goes between them counts once, is deleted behind them, and whoever was replaced adds nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::engine::{Capability, EngineError, Position};
use anabranch_core::partition_of;
use anabranch_core::seam::ManualClock;
use anabranch_flow::{FlowError, Guarantee, Late};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::memory::{Failure, MemoryEngine};
use crate::model::{Event, Kind, Way, event, flow, naive, run_to_end, small_state};

/// Far longer than anything here takes: reaching it is a failure.
const DEADLINE: Duration = Duration::from_secs(30);

/// In order, of many keys.
fn events(count: i64) -> Vec<Event> {
    (0..count).map(|number| event(&format!("k{}", number % 7), number * 3, number)).collect()
}

fn fill(engine: &MemoryEngine, events: &[Event]) {
    engine.create("input", 2);
    engine.create("output", 2);
    for (index, events) in events.chunks(4).enumerate() {
        let records: Vec<_> = events.iter().map(Event::to_record).collect();
        engine.write("input", (index % 2) as i32, &records);
    }
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, wait).await.expect("it did not come to be");
}

/// An intake dies when it has handed records over and not said so: the next one hands them over again.
#[tokio::test]
async fn what_comes_to_a_shard_twice_counts_once() {
    let mut repeated = 0;
    for calls in 0..120 {
        let engine = MemoryEngine::with_conditions(1);
        let events = events(60);
        fill(&engine, &events);
        let state = small_state();
        let flow = || {
            flow(Kind::Tumbling, Late::Drop).shards(2).at_least_once().commit_every(8, Duration::from_secs(1))
        };
        engine.fail_after(calls, Failure::After);
        let _ = run_to_end(flow(), &engine, &state).await;
        engine.heal();
        let end = run_to_end(flow(), &engine, &state).await.unwrap();
        assert_eq!(engine.table("output"), naive(Kind::Tumbling, &events), "after {calls} calls");
        assert_eq!(end.counts.records_in, 60);
        assert_eq!(end.delivery, Guarantee::AtLeastOnce);
        repeated += end.repeated;
    }
    assert!(repeated > 20, "{repeated} came twice: the test does not do what it is for");
}

#[tokio::test]
async fn whoever_was_replaced_adds_nothing() {
    for way in Way::ALL {
        let engine = way.engine(1);
        let events = events(60);
        fill(&engine, &events);
        let (old_state, new_state) = (small_state(), small_state());
        let open = |state: &tempfile::TempDir| {
            let flow = way.flow(Kind::Tumbling, Late::Drop).commit_every(5, Duration::from_secs(1));
            flow.open(engine.clone(), state.path().to_owned(), Arc::new(ManualClock::at(0)))
        };
        let old = open(&old_state).await.unwrap();
        let new = open(&new_state).await.unwrap();
        let error = old.run_until_end().await.unwrap_err();
        match (way.exactly_once, &error) {
            (true, FlowError::Engine(EngineError::ProducerFenced { .. }))
            | (false, FlowError::Replaced { .. }) => {}
            _ => panic!("{way:?}: {error}"),
        }
        assert_eq!(engine.records("output").len(), 0, "{way:?}");
        if way.shards > 1 {
            assert_eq!(engine.records("test-repartition").len(), 0, "{way:?}");
        }
        new.run_until_end().await.unwrap();
        assert_eq!(engine.table("output"), naive(Kind::Tumbling, &events), "{way:?}");
        let end = open(&old_state).await.unwrap().run_until_end().await.unwrap();
        assert_eq!(end.counts.records_in, 60, "{way:?}: it goes on from there");
        assert_eq!(engine.table("output"), naive(Kind::Tumbling, &events), "{way:?}");
    }
}

#[tokio::test]
async fn what_shards_have_read_is_deleted_behind_them() {
    let engine = MemoryEngine::new(100);
    engine.create("input", 1);
    let events = events(24_000);
    for events in events.chunks(500) {
        engine.write("input", 0, &events.iter().map(Event::to_record).collect::<Vec<_>>());
    }
    let state = small_state();
    run_to_end(flow(Kind::Tumbling, Late::Drop).shards(2), &engine, &state).await.unwrap();
    assert_eq!(engine.table("output"), naive(Kind::Tumbling, &events));
    let trimmed = [0, 1].map(|shard| engine.trimmed("test-repartition", shard));
    assert!(trimmed.iter().any(|at| *at > Position(9_000)), "{trimmed:?}");
    // What is left is enough to go on.
    engine.write("input", 0, &[event("k1", 100_000, 1).to_record()]);
    let end = run_to_end(flow(Kind::Tumbling, Late::Drop).shards(2), &engine, &small_state()).await.unwrap();
    assert_eq!((end.counts.records_in, end.counts.late_dropped), (24_001, 0));
    assert_eq!(engine.table("output")["k1 [100000, 100010)"], "1, 1");
}

#[tokio::test]
async fn partitions_can_be_shards() {
    let engine = MemoryEngine::new(2);
    engine.create("input", 3);
    let events = events(90);
    let mut parts: BTreeMap<i32, Vec<_>> = BTreeMap::new();
    for event in &events {
        parts.entry(partition_of(event.key.as_bytes(), 3)).or_default().push(event.to_record());
    }
    parts.iter().for_each(|(partition, records)| engine.write("input", *partition, records));
    let flow = || flow(Kind::Session, Late::Drop).shard_by_partition();
    let end = run_to_end(flow(), &engine, &small_state()).await.unwrap();
    assert_eq!(end.counts.records_in, 90);
    assert_eq!(engine.table("output"), naive(Kind::Session, &events));
    assert!(!engine.has_topic("test-repartition") && !engine.has_topic("test-sources"));
    run_to_end(flow(), &engine, &small_state()).await.expect("it opens again");
}

#[tokio::test]
async fn a_silent_source_does_not_hold_shards_back_for_ever() {
    let engine = MemoryEngine::new(10);
    engine.create("input", 2);
    engine.create("output", 1);
    engine.write("input", 0, &[event("k", 5, 1).to_record(), event("k", 40, 1).to_record()]);
    let state = small_state();
    let clock = Arc::new(ManualClock::at(0));
    let flow = flow(Kind::Tumbling, Late::Drop).shards(2).commit_every(1000, Duration::from_millis(10));
    let open = flow.open(engine.clone(), state.path(), clock.clone()).await.unwrap();
    let metrics = open.metrics();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(open.run(async { drop(stopped.await) }));
    until(|| metrics.snapshot().counts.records_in == 2).await;
    clock.advance_ms(29_000);
    engine.write("input", 0, &[event("k", 41, 1).to_record()]);
    let passes = || {
        clock.advance_ms(1);
        metrics.snapshot().counts.records_in == 3 && metrics.snapshot().lag.iter().all(|(_, lag)| *lag == 0)
    };
    until(passes).await;
    assert_eq!(engine.records("output").len(), 0, "the other source is waited for");
    clock.advance_ms(2_000);
    until(|| {
        clock.advance_ms(1);
        engine.records("output").len() == 1
    })
    .await;
    assert_eq!(engine.table("output"), [("k [0, 10)".to_owned(), "1, 1".to_owned())].into());

    // Whoever comes back is heard again, by shards that none of its records go to, too.
    engine.write("input", 1, &[event("k", 30, 1).to_record()]);
    until(|| {
        clock.advance_ms(1);
        metrics.snapshot().counts.records_in == 4
    })
    .await;
    stop.send(()).unwrap();
    let end = timeout(DEADLINE, running).await.unwrap().unwrap().unwrap();
    assert_eq!((end.counts.late_dropped, end.counts.results), (0, 1));
}

#[tokio::test]
async fn what_cannot_be_divided_is_refused() {
    let engine = MemoryEngine::without_transactions(1);
    fill(&engine, &events(3));
    let state = small_state();
    let base = || flow(Kind::Tumbling, Late::Drop);
    let error = run_to_end(base().shards(2).at_least_once(), &engine, &state).await.unwrap_err();
    assert!(error.to_string().ends_with("so it has one shard"), "{error}");
    let error = run_to_end(base().or_at_least_once(), &engine, &state).await.unwrap_err();
    let FlowError::Engine(EngineError::Unsuitable(unsuitable)) = error else { panic!("{error}") };
    let missing: Vec<_> = unsuitable.missing.iter().map(|missing| missing.capability).collect();
    assert_eq!(missing, [Capability::AtomicAppend, Capability::ConditionalAppend]);

    let engine = MemoryEngine::new(1);
    fill(&engine, &events(3));
    let error = run_to_end(base().shards(0), &engine, &state).await.unwrap_err();
    assert_eq!(error.to_string(), "the flow test cannot be: it has no shard");
    run_to_end(base().shards(2), &engine, &state).await.unwrap();
    let error = run_to_end(base().shards(3), &engine, &small_state()).await.unwrap_err();
    assert!(matches!(error, FlowError::Engine(EngineError::Different { .. })), "{error}");
}
