//! Results are those of a naive pass, whatever the order and the batches that events come in.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::seam::ManualClock;
use anabranch_flow::{Late, Snapshot};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tempfile::TempDir;

use crate::memory::MemoryEngine;
use crate::model::{DISORDER_MS, Event, Kind, Way, event, flow, naive, run_to_end, small_state};

/// Events of one partition, none later than the disorder allows.
fn partition() -> impl Strategy<Value = Vec<Event>> {
    let step = (0i64..12, 0..DISORDER_MS, 0u8..3, -9i64..10);
    prop::collection::vec(step, 0..50).prop_map(|steps| {
        let mut now_ms = -100;
        let event = |(ahead, behind, key, amount): (i64, i64, u8, i64)| {
            now_ms += ahead;
            event(&format!("k{key}"), now_ms - behind, amount)
        };
        steps.into_iter().map(event).collect()
    })
}

async fn check(
    way: Way,
    kind: Kind,
    partitions: Vec<Vec<Event>>,
    batch: usize,
    commit_records: u64,
    emit_early: bool,
) -> Result<(), TestCaseError> {
    let engine = way.engine(2);
    engine.create("input", partitions.len() as i32);
    engine.create("output", 2);
    for (index, events) in partitions.iter().enumerate() {
        for events in events.chunks(batch) {
            let records: Vec<_> = events.iter().map(Event::to_record).collect();
            engine.write("input", index as i32, &records);
        }
    }
    let mut flow = way.flow(kind, Late::Drop).commit_every(commit_records, Duration::from_secs(1));
    if emit_early {
        flow = flow.emit_early();
    }
    let state = small_state();
    let end = run_to_end(flow, &engine, &state).await.unwrap();
    let all = partitions.concat();
    prop_assert_eq!(end.counts.late_dropped, 0);
    prop_assert_eq!(end.counts.records_in, all.len() as u64);
    prop_assert!(end.lag.iter().all(|(_, lag)| *lag == 0));
    prop_assert_eq!(engine.table("output"), naive(kind, &all));
    let output = engine.records("output");
    let tombstones = output.iter().filter(|record| record.value.is_none()).count();
    prop_assert_eq!(end.counts.retractions, tombstones as u64);
    prop_assert_eq!(end.counts.results + end.counts.retractions, output.len() as u64);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn results_are_those_of_one_naive_pass(
        way in prop::sample::select(&Way::ALL),
        kind in prop::sample::select(&Kind::ALL),
        partitions in prop::collection::vec(partition(), 1..4),
        batch in 1usize..9,
        commit_records in 1u64..40,
        emit_early: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(way, kind, partitions, batch, commit_records, emit_early))?;
    }
}

/// Runs until so many records are read, and stops without closing any window.
async fn run_until_read(records: u64, engine: &Arc<MemoryEngine>, state: &TempDir) -> Snapshot {
    let clock = Arc::new(ManualClock::at(0));
    let open = flow(Kind::Tumbling, Late::Drop).open(engine.clone(), state.path(), clock).await.unwrap();
    let metrics = open.metrics();
    let read = async {
        while metrics.snapshot().counts.records_in < records {
            tokio::task::yield_now().await;
        }
    };
    open.run(read).await.unwrap()
}

#[tokio::test]
async fn a_result_comes_when_the_watermark_passes_the_end_and_not_before() {
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    let records = [0, 10, 29].map(|at_ms| event("k", at_ms, 1).to_record());
    engine.write("input", 0, &records);
    let state = small_state();
    run_until_read(3, &engine, &state).await;
    assert_eq!(engine.table("output").len(), 0, "29 - 20 is before the end of the first window");
    engine.write("input", 0, &[event("k", 30, 1).to_record()]);
    let end = run_until_read(4, &engine, &state).await;
    assert_eq!(engine.table("output").into_keys().collect::<Vec<_>>(), ["k [0, 10)"]);
    assert_eq!(end.watermark_ms, Some(10));
}

#[tokio::test]
async fn a_session_that_grows_takes_back_what_was_shown_of_it() {
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    for at_ms in [0, 20, 10] {
        engine.write("input", 0, &[event("k", at_ms, 1).to_record()]);
    }
    let state = small_state();
    let flow = flow(Kind::Session, Late::Drop).emit_early().commit_every(1, Duration::from_secs(1));
    run_to_end(flow, &engine, &state).await.unwrap();
    let shown: Vec<_> = engine
        .records("output")
        .into_iter()
        .map(|record| {
            let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
            (key, record.value.is_some())
        })
        .collect();
    let expected = [
        ("k [0, 15)", true),
        ("k [20, 35)", true),
        ("k [0, 15)", false),
        ("k [20, 35)", false),
        ("k [0, 35)", true),
        ("k [0, 35)", true), // and once more at its end
    ];
    assert_eq!(shown, expected.map(|(key, value)| (key.to_owned(), value)));
}
