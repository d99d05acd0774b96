//! State belongs to one definition and one process, and memory does not hold it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::batch::Record;
use anabranch_core::engine::EngineError;
use anabranch_core::seam::ManualClock;
use anabranch_flow::{Aggregate, Disorder, Flow, FlowError, Late, Tumbling, Undecodable};

use crate::memory::MemoryEngine;
use crate::model::{Event, Kind, event, flow, run_to_end};

fn one_event() -> Arc<MemoryEngine> {
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    engine.write("input", 0, &[event("k", 1, 1).to_record()]);
    engine
}

#[tokio::test]
async fn state_of_another_definition_is_refused() {
    let engine = one_event();
    let state = tempfile::tempdir().unwrap();
    run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap();
    let error = run_to_end(flow(Kind::Hopping, Late::Drop), &engine, &state).await.unwrap_err();
    let FlowError::OtherDefinition { found, expected, .. } = error else { panic!("{error}") };
    assert_eq!(
        (found.as_str(), expected.as_str()),
        (
            "flow test from input (1 partitions); windows tumbling of 10 ms; aggregate count, sum of i64",
            "flow test from input (1 partitions); windows hopping of 30 ms every 10 ms; aggregate count, sum of i64",
        )
    );
    // The late policy is not part of the state's shape.
    run_to_end(flow(Kind::Tumbling, Late::ToTopic("late".into())), &engine, &state).await.unwrap();
    engine.create("input", 2);
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::OtherDefinition { .. }), "{error}");
}

#[tokio::test]
async fn a_source_that_is_shorter_than_what_was_read_of_it_is_told() {
    let engine = one_event();
    let state = tempfile::tempdir().unwrap();
    run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap();
    engine.create("input", 1); // made anew, and empty
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::Engine(EngineError::OutOfRange { .. })), "{error}");
}

#[tokio::test]
async fn state_of_another_format_is_refused() {
    let engine = one_event();
    let state = tempfile::tempdir().unwrap();
    run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap();
    {
        let database = fjall::Database::builder(state.path()).open().unwrap();
        let meta = database.keyspace("meta", fjall::KeyspaceCreateOptions::default).unwrap();
        meta.insert("format", 2u32.to_be_bytes()).unwrap();
    }
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::StateFormat { found: 2, supported: 1, .. }), "{error}");
}

#[tokio::test]
async fn state_that_is_in_use_is_refused() {
    let engine = one_event();
    let state = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(0));
    let _open = flow(Kind::Tumbling, Late::Drop).open(engine.clone(), state.path(), clock).await.unwrap();
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::StateInUse { .. }), "{error}");
}

#[tokio::test]
async fn many_keys_do_not_stay_in_memory() {
    const KEYS: usize = 120_000;
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    let records: Vec<_> = (0..KEYS).map(|key| event(&format!("k{key}"), 1, 1).to_record()).collect();
    engine.write("input", 0, &records);
    let state = tempfile::tempdir().unwrap();
    let flow = flow(Kind::Tumbling, Late::Drop).commit_every(u64::MAX, Duration::from_secs(1));
    let end = run_to_end(flow, &engine, &state).await.unwrap();
    assert_eq!(end.counts.results, KEYS as u64);
    assert!(end.commits >= 3, "the write buffer was emptied {} times", end.commits);
    assert_eq!(engine.table("output").len(), KEYS);
}

#[tokio::test]
async fn what_is_over_leaves_no_state_behind() {
    let admit = Late::Admit { allowed_lateness: Duration::from_millis(15) };
    for kind in Kind::ALL {
        for (late, expected) in [(&Late::Drop, 0), (&admit, 1)] {
            let engine = MemoryEngine::new(1);
            engine.create("input", 1);
            for at_ms in [1, 3, 17, 40, 90, 1000] {
                engine.write("input", 0, &[event("k", at_ms, 1).to_record()]);
            }
            let state = tempfile::tempdir().unwrap();
            let flow = flow(kind, late.clone()).emit_early().commit_every(1, Duration::from_secs(1));
            run_to_end(flow, &engine, &state).await.unwrap();
            let database = fjall::Database::builder(state.path()).open().unwrap();
            let count =
                |name| database.keyspace(name, fjall::KeyspaceCreateOptions::default).unwrap().len().unwrap();
            // While it may be corrected, the last window stays; two of them hop.
            let windows = if kind == Kind::Hopping { 2 * expected } else { expected };
            let sessions = if kind == Kind::Session { expected } else { 0 };
            assert_eq!(
                (count("windows"), count("sessions"), count("outbox")),
                (windows, sessions, 0),
                "{kind:?}"
            );
        }
    }
}

/// The different amounts of a key.
struct Distinct;

impl Aggregate<Event> for Distinct {
    type State = BTreeSet<i64>;
    type Output = usize;

    fn name(&self) -> String {
        "distinct amounts".into()
    }

    fn init(&self) -> BTreeSet<i64> {
        BTreeSet::new()
    }

    fn add(&self, state: &mut BTreeSet<i64>, event: &Event) {
        state.insert(event.amount);
    }

    fn merge(&self, state: &mut BTreeSet<i64>, other: BTreeSet<i64>) {
        state.extend(other);
    }

    fn finish(&self, state: &BTreeSet<i64>) -> usize {
        state.len()
    }
}

#[tokio::test]
async fn an_aggregate_and_a_key_of_ones_own() {
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    let records: Vec<_> = [1, 2, 2, 3, 1].map(|amount| event("k", 1, amount).to_record()).into();
    engine.write("input", 0, &records);
    let state = tempfile::tempdir().unwrap();
    Flow::named("distinct")
        .source(["input"])
        .decode(Event::parse, Undecodable::Fail)
        .event_time(|event| event.at_ms, Disorder::bounded(Duration::ZERO))
        .key_by(|event| (event.key.clone(), event.amount > 2))
        .window(Tumbling::of(Duration::from_secs(1)), Late::Drop)
        .aggregate((Distinct,))
        .sink("output", |(key, large), _, (distinct,)| {
            Record::new(format!("{key} {large}"), distinct.to_string())
        })
        .commit_every(2, Duration::from_secs(1))
        .open(engine.clone(), state.path(), Arc::new(ManualClock::at(0)))
        .await
        .unwrap()
        .run_until_end()
        .await
        .unwrap();
    let expected = [("k false", "2"), ("k true", "1")];
    assert_eq!(engine.table("output"), expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}
