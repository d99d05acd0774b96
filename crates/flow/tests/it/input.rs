//! Input that is not what it should be.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{EngineError, Position};
use anabranch_core::seam::ManualClock;
use anabranch_flow::{Count, Disorder, Flow, FlowError, Late, OpenFlow, Tumbling, Undecodable, header};
use tempfile::TempDir;

use crate::memory::MemoryEngine;
use crate::model::{Event, Kind, event, flow, run_to_end};

async fn counting(
    undecodable: Undecodable,
    engine: &Arc<MemoryEngine>,
    state: &TempDir,
) -> Result<OpenFlow, FlowError> {
    Flow::named("counting")
        .source(["input"])
        .decode(Event::parse, undecodable)
        .filter(|event| event.amount != 0)
        .map(|event| (event.key, event.at_ms))
        .event_time(|(_, at_ms)| *at_ms, Disorder::bounded(Duration::ZERO))
        .key_by(|(key, _)| key.clone())
        .window(Tumbling::of(Duration::from_secs(1)), Late::Drop)
        .aggregate(Count)
        .sink("output", |key, _, count| Record::new(key.clone(), count.to_string()))
        .open(engine.clone(), state.path(), Arc::new(ManualClock::at(0)))
        .await
}

fn bad_input() -> (Arc<MemoryEngine>, TempDir) {
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    let good = |amount| event("k", 1, amount).to_record();
    engine.write(
        "input",
        0,
        &[good(1), Record::new("bad", "k,soon,1"), good(0), Record::tombstone("k"), good(1)],
    );
    (engine, tempfile::tempdir().unwrap())
}

#[tokio::test]
async fn an_undecodable_record_stops_the_flow_where_it_should() {
    let (engine, state) = bad_input();
    for _ in 0..2 {
        let open = counting(Undecodable::Fail, &engine, &state).await.unwrap();
        let error = open.run_until_end().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the record at input-0 position 1 cannot be decoded: not a number",
            "and again when it is opened again"
        );
    }
}

#[tokio::test]
async fn an_undecodable_record_goes_aside_where_it_should() {
    let (engine, state) = bad_input();
    let open = counting(Undecodable::ToTopic("bad".into()), &engine, &state).await.unwrap();
    let counts = open.run_until_end().await.unwrap().counts;
    assert_eq!((counts.records_in, counts.filtered, counts.undecodable), (5, 1, 2));
    assert_eq!(engine.table("output"), [("k".to_owned(), "2".to_owned())].into());
    let bad = engine.records("bad");
    assert_eq!((bad[0].value.as_deref(), bad[1].value.as_deref()), (Some(b"k,soon,1".as_slice()), None));
    let headers: Vec<_> =
        bad[0].headers.iter().map(|h| (h.key_text(), h.value.as_deref().unwrap())).collect();
    assert_eq!(
        headers,
        [
            (header::SOURCE_TOPIC.into(), b"input".as_slice()),
            (header::SOURCE_PARTITION.into(), b"0"),
            (header::SOURCE_POSITION.into(), b"1"),
            (header::ERROR.into(), b"not a number"),
        ]
    );
}

#[tokio::test]
async fn an_undecodable_record_is_left_out_where_it_should() {
    let (engine, state) = bad_input();
    let open = counting(Undecodable::Drop, &engine, &state).await.unwrap();
    let counts = open.run_until_end().await.unwrap().counts;
    assert_eq!((counts.undecodable, counts.results), (2, 1));
}

#[tokio::test]
async fn damage_stops_the_flow_and_says_where() {
    let engine = MemoryEngine::new(1);
    engine.create("input", 2);
    engine.write("input", 1, &[event("k", 1, 1).to_record(), event("k", 2, 1).to_record()]);
    engine.write("input", 1, &[event("k", 3, 1).to_record()]);
    engine.damage("input", 1);
    let state = tempfile::tempdir().unwrap();
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    let FlowError::Damaged { partition, position, .. } = error else { panic!("{error}") };
    assert_eq!((partition, position), (TopicPartition::new("input", 1), Position(2)));
}

#[tokio::test]
async fn a_source_that_is_not_there_is_told() {
    let engine = MemoryEngine::new(1);
    let state = tempfile::tempdir().unwrap();
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::Engine(EngineError::NotFound(_))), "{error}");
}

#[tokio::test]
async fn a_flow_that_would_read_what_it_writes_is_refused() {
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    let state = tempfile::tempdir().unwrap();
    let late = Late::ToTopic("input".into());
    let error = run_to_end(flow(Kind::Tumbling, late), &engine, &state).await.unwrap_err();
    assert_eq!(error.to_string(), "the flow test cannot be: it would read what it writes");
}

#[tokio::test]
async fn a_result_without_a_key_is_refused() {
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    engine.write("input", 0, &[event("k", 1, 1).to_record()]);
    let state = tempfile::tempdir().unwrap();
    let open = Flow::named("keyless")
        .source(["input"])
        .decode(Event::parse, Undecodable::Fail)
        .event_time(|event| event.at_ms, Disorder::bounded(Duration::ZERO))
        .key_by(|event| event.key.clone())
        .window(Tumbling::of(Duration::from_secs(1)), Late::Drop)
        .aggregate(Count)
        .sink("output", |_, _, count| Record::keyless(count.to_string()))
        .open(engine.clone(), state.path(), Arc::new(ManualClock::at(0)))
        .await
        .unwrap();
    let error = open.run_until_end().await.unwrap_err();
    assert!(matches!(error, FlowError::KeylessResult { .. }), "{error}");
}

#[tokio::test]
async fn a_key_that_is_too_long_is_refused() {
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    engine.write("input", 0, &[event(&"k".repeat(70_000), 1, 1).to_record()]);
    let state = tempfile::tempdir().unwrap();
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::KeyTooLong { .. }), "{error}");
}

#[tokio::test]
async fn times_at_the_ends_of_the_world_are_counted() {
    for kind in Kind::ALL {
        let engine = MemoryEngine::new(1);
        engine.create("input", 1);
        let ends = [i64::MIN, i64::MAX].map(|at_ms| event("k", at_ms, 1).to_record());
        engine.write("input", 0, &ends);
        let state = tempfile::tempdir().unwrap();
        let late = Late::Admit { allowed_lateness: Duration::MAX };
        let counts = run_to_end(flow(kind, late), &engine, &state).await.unwrap().counts;
        let windows = if kind == Kind::Hopping { 6 } else { 2 };
        assert_eq!((counts.results, counts.late_dropped), (windows, 0), "{kind:?}");
    }
}
