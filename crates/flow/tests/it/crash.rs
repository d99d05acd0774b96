//! A flow that is stopped anywhere goes on where it stood, and ends with the same results.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Offset;
use anabranch_core::batch::{Record, RecordAt};
use anabranch_flow::{FlowError, Late, header};
use tempfile::TempDir;

use crate::memory::{Failure, MemoryEngine};
use crate::model::{Event, Kind, event, flow, naive, naive_with_late, run_to_end, small_state};

const EVENTS: usize = 36;

/// Events in two partitions, out of order, but within what the flow allows.
fn input() -> (Arc<MemoryEngine>, Vec<Event>) {
    let engine = MemoryEngine::new(1);
    engine.create("input", 2);
    engine.create("output", 1);
    let at = |index: i64| event(&format!("k{}", index % 3), index * 4 - (index * 7) % 20, index);
    let events: Vec<_> = (0..EVENTS as i64).map(at).collect();
    for (index, events) in events.chunks(5).enumerate() {
        let records: Vec<_> = events.iter().map(Event::to_record).collect();
        engine.write("input", (index % 2) as i32, &records);
    }
    (engine, events)
}

/// Runs the flow once with the failure, which says whether it ended all the same.
async fn run_once(kind: Kind, late: &Late, engine: &Arc<MemoryEngine>, state: &TempDir) -> bool {
    let flow = flow(kind, late.clone()).emit_early().commit_every(8, Duration::from_secs(1));
    match run_to_end(flow, engine, state).await {
        Ok(end) => {
            assert_eq!(end.counts.records_in, EVENTS as u64, "every record is counted once");
            true
        }
        Err(FlowError::Engine(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Runs a flow with each failure after each number of calls, and once more where it failed, and checks what is left.
async fn fail_everywhere(
    kind: Kind,
    late: Late,
    input: impl Fn() -> (Arc<MemoryEngine>, Vec<Event>),
    check: impl Fn(&MemoryEngine, &[Event], &str),
) {
    for failure in [Failure::Read, Failure::BeforeAppend, Failure::AfterAppend] {
        for calls in 0.. {
            let (engine, events) = input();
            let state = small_state();
            engine.fail_after(calls, failure);
            let ended = run_once(kind, &late, &engine, &state).await;
            engine.heal();
            if !ended {
                assert!(run_once(kind, &late, &engine, &state).await);
            }
            check(&engine, &events, &format!("{kind:?}, {late:?}, {failure:?} after {calls} calls"));
            if ended {
                assert!(calls > 3, "the failure strikes in the middle, too");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_failure_anywhere_changes_no_result() {
    let admit = Late::Admit { allowed_lateness: Duration::from_millis(15) };
    let flows = [
        (Kind::Tumbling, Late::Drop),
        (Kind::Hopping, admit.clone()),
        (Kind::Session, Late::Drop),
        (Kind::Session, admit),
    ];
    for (kind, late) in flows {
        fail_everywhere(kind, late, input, |engine, events, context| {
            assert_eq!(engine.table("output"), naive(kind, events), "{context}");
        })
        .await;
    }
}

/// Events in one partition, many of them late.
fn late_input() -> (Arc<MemoryEngine>, Vec<Event>) {
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    let at = |index: i64| event("k", index * 4 - (index * 17) % 60, index);
    let events: Vec<_> = (0..EVENTS as i64).map(at).collect();
    for events in events.chunks(5) {
        engine.write("input", 0, &events.iter().map(Event::to_record).collect::<Vec<_>>());
    }
    (engine, events)
}

#[tokio::test]
async fn a_failure_anywhere_changes_nothing_about_what_is_late() {
    let to_topic = Late::ToTopic("late".into());
    fail_everywhere(Kind::Tumbling, to_topic, late_input, |engine, events, context| {
        let (table, late) = naive_with_late(Kind::Tumbling, events, 0);
        assert_eq!(engine.table("output"), table, "{context}");
        // Repeated records have the same origin.
        let by_origin: BTreeMap<u64, Event> = engine.records("late").into_iter().map(origin).collect();
        assert!(late.len() > 5);
        assert_eq!(by_origin.into_values().collect::<Vec<_>>(), late, "{context}");
    })
    .await;
}

fn origin(record: Record) -> (u64, Event) {
    let position = record.headers.iter().find(|h| h.key_text() == header::SOURCE_POSITION).unwrap();
    let position = std::str::from_utf8(position.value.as_ref().unwrap()).unwrap().parse().unwrap();
    (position, Event::parse(&RecordAt { offset: Offset(0), record }).unwrap())
}

#[tokio::test]
async fn a_flow_that_fails_again_and_again_still_comes_to_its_end() {
    for kind in Kind::ALL {
        let (engine, events) = input();
        let state = small_state();
        let mut runs = 1;
        loop {
            // The second append is of a new step, so that each run gets one step further.
            engine.fail_after(1, Failure::AfterAppend);
            if run_once(kind, &Late::Drop, &engine, &state).await {
                break;
            }
            runs += 1;
            assert!(runs < 100, "no progress");
        }
        assert!(runs > 5, "it failed {runs} times only");
        assert_eq!(engine.table("output"), naive(kind, &events), "{kind:?}");
    }
}
