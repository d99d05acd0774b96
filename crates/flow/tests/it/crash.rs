//! A flow that is stopped anywhere goes on where it stood, and its output is that of one pass: each record of it once.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::Position;
use anabranch_flow::{FlowError, Late, header};
use tempfile::TempDir;

use crate::memory::{Failure, MemoryEngine};
use crate::model::{
    Event, Kind, TestFlow, copy, event, flow, naive, naive_with_late, run_to_end, small_state,
};

const EVENTS: usize = 36;

/// What is left of the local store when the flow is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// It is as it was.
    Everything,
    /// It is gone.
    Nothing,
    /// It is as it was some time before.
    Older,
}

/// One shard, and several.
const SHARDS: [i32; 2] = [1, 3];

/// Events in two partitions, out of order, but within what the flow allows.
fn input() -> (Arc<MemoryEngine>, Vec<Event>) {
    fill(MemoryEngine::new(1))
}

fn fill(engine: Arc<MemoryEngine>) -> (Arc<MemoryEngine>, Vec<Event>) {
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

fn often(kind: Kind, late: Late) -> TestFlow {
    flow(kind, late).commit_every(8, Duration::from_secs(1))
}

/// Runs the flow once with the failure, which says whether it ended all the same.
async fn run_once(flow: TestFlow, engine: &Arc<MemoryEngine>, state: &TempDir) -> bool {
    match run_to_end(flow, engine, state).await {
        Ok(end) => {
            assert_eq!(end.counts.records_in, EVENTS as u64, "every record is counted once");
            true
        }
        Err(FlowError::Engine(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Runs a flow with each failure after each number of calls, and once more, with what is left of its store, and checks
/// what it has written.
async fn fail_everywhere(
    flow: impl Fn() -> TestFlow,
    shards: i32,
    left: &[Left],
    input: impl Fn() -> (Arc<MemoryEngine>, Vec<Event>),
    check: impl Fn(&MemoryEngine, &[Event], &str),
) {
    for failure in [Failure::Before, Failure::After] {
        // Parts take turns: what one does at a call, another does at one nearby.
        for calls in (0..).step_by(if shards > 1 { 7 } else { 1 }) {
            let left = left[calls % left.len()];
            let (engine, events) = input();
            let (mut state, older) = (small_state(), small_state());
            if left == Left::Older {
                engine.fail_after(calls / 2, failure);
                run_once(flow(), &engine, &state).await;
                copy(state.path(), older.path());
            }
            engine.fail_after(calls, failure);
            let ended = run_once(flow(), &engine, &state).await;
            engine.heal();
            match left {
                Left::Everything => {}
                Left::Nothing => state = small_state(),
                Left::Older => state = older,
            }
            assert!(run_once(flow(), &engine, &state).await);
            check(&engine, &events, &format!("{failure:?} after {calls} calls, {left:?} is left"));
            if ended && left != Left::Older {
                assert!(calls > 15, "the failure strikes in the middle, too");
                break;
            }
        }
    }
}

const ANYTHING_LEFT: [Left; 3] = [Left::Everything, Left::Nothing, Left::Older];

#[tokio::test]
async fn a_failure_anywhere_changes_no_result() {
    let admit = Late::Admit { allowed_lateness: Duration::from_millis(15) };
    let flows = [
        (Kind::Tumbling, Late::Drop),
        (Kind::Hopping, admit.clone()),
        (Kind::Session, Late::Drop),
        (Kind::Session, admit),
    ];
    for ((kind, late), shards) in
        flows.into_iter().flat_map(|flow| SHARDS.map(|shards| (flow.clone(), shards)))
    {
        let flow = || often(kind, late.clone()).emit_early().shards(shards);
        fail_everywhere(flow, shards, &ANYTHING_LEFT, input, |engine, events, context| {
            let context = format!("{kind:?}, {late:?}, {shards} shards: {context}");
            assert_eq!(engine.table("output"), naive(kind, events), "{context}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_failure_anywhere_repeats_no_result_and_loses_none() {
    for (kind, shards) in Kind::ALL.into_iter().flat_map(|kind| SHARDS.map(|shards| (kind, shards))) {
        fail_everywhere(
            || often(kind, Late::Drop).shards(shards),
            shards,
            &ANYTHING_LEFT,
            input,
            |engine, events, context| {
                assert_eq!(
                    rows(engine),
                    naive(kind, events).into_iter().collect::<Vec<_>>(),
                    "{kind:?}, {shards} shards: {context}"
                );
                for partition in [0, 1] {
                    let at = TopicPartition::new("input", partition);
                    let end = Some(Position(if partition == 0 { 20 } else { 16 }));
                    assert_eq!(engine.position("test", &at), end, "the group stands at the end: {context}");
                }
            },
        )
        .await;
    }
}

/// The check sees what it is there for: here is an engine that shows what an aborted transaction has written.
#[tokio::test]
#[should_panic(expected = "tumbling, read uncommitted")]
async fn a_changelog_that_is_read_uncommitted_is_noticed() {
    let uncommitted = || {
        let (engine, events) = input();
        engine.show_all();
        (engine, events)
    };
    let flow = || often(Kind::Tumbling, Late::Drop);
    fail_everywhere(flow, 1, &[Left::Nothing], uncommitted, |engine, events, context| {
        assert_eq!(
            engine.table("output"),
            naive(Kind::Tumbling, events),
            "tumbling, read uncommitted: {context}"
        );
    })
    .await;
}

/// Every result that was ever shown, sorted.
fn rows(engine: &MemoryEngine) -> Vec<(String, String)> {
    let text = |bytes: Option<bytes::Bytes>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
    let records = engine.records("output").into_iter();
    let mut rows: Vec<_> = records.map(|record| (text(record.key), text(record.value))).collect();
    rows.sort_unstable();
    rows
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
    for shards in SHARDS {
        let flow = || often(Kind::Tumbling, Late::ToTopic("late".into())).emit_early().shards(shards);
        fail_everywhere(flow, shards, &ANYTHING_LEFT, late_input, |engine, events, context| {
            let (table, late) = naive_with_late(Kind::Tumbling, events, 0);
            assert_eq!(engine.table("output"), table, "{context}");
            let sent: Vec<_> = engine.records("late").iter().map(position).collect();
            let expected = late.iter().map(|late| events.iter().position(|event| event == late).unwrap());
            assert!(late.len() > 5);
            assert_eq!(sent, expected.collect::<Vec<_>>(), "each once: {context}");
        })
        .await;
    }
}

/// Where a record that went aside had been read.
fn position(record: &Record) -> usize {
    let position = record.headers.iter().find(|h| h.key_text() == header::SOURCE_POSITION).unwrap();
    std::str::from_utf8(position.value.as_ref().unwrap()).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_flow_that_fails_again_and_again_still_comes_to_its_end() {
    for kind in Kind::ALL {
        let (engine, events) = input();
        let state = small_state();
        let mut runs = 1;
        loop {
            // Each run gets one step further, and does not hear of it.
            engine.fail_after(0, Failure::AfterCommit);
            if run_once(often(kind, Late::Drop).emit_early(), &engine, &state).await {
                break;
            }
            runs += 1;
            assert!(runs < 100, "no progress");
        }
        assert!(runs > 5, "it failed {runs} times only");
        assert_eq!(engine.table("output"), naive(kind, &events), "{kind:?}");
    }
}

#[tokio::test]
async fn at_least_once_a_failure_anywhere_repeats_results_at_most() {
    for kind in [Kind::Tumbling, Kind::Hopping] {
        let (flow, input) = (
            || often(kind, Late::Drop).emit_early().at_least_once(),
            || fill(MemoryEngine::without_transactions(1)),
        );
        fail_everywhere(flow, 1, &[Left::Everything], input, |engine, events, context| {
            assert_eq!(engine.table("output"), naive(kind, events), "{kind:?}: {context}");
            assert!(!engine.has_topic("test-changelog"));
        })
        .await;
    }
}

/// On an engine with conditional appends only: results may be there again, but what they are made of counts once, whatever is
/// left of the local store.
#[tokio::test]
async fn at_least_once_state_that_moves_counts_everything_once() {
    for (kind, shards) in Kind::ALL.into_iter().flat_map(|kind| SHARDS.map(|shards| (kind, shards))) {
        let flow = || often(kind, Late::Drop).shards(shards).or_at_least_once();
        let input = || fill(MemoryEngine::with_conditions(1));
        fail_everywhere(flow, shards, &ANYTHING_LEFT, input, |engine, events, context| {
            assert_eq!(engine.table("output"), naive(kind, events), "{kind:?}, {shards} shards: {context}");
        })
        .await;
    }
}
