//! An endless flow: idle partitions, live metrics, commits by the clock.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{Engine, Position, ReadLimits};
use anabranch_core::seam::ManualClock;
use anabranch_flow::Late;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::memory::MemoryEngine;
use crate::model::{Kind, event, flow};

/// Far longer than anything here takes: reaching it is a failure.
const DEADLINE: Duration = Duration::from_secs(30);

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, wait).await.expect("it did not come to be");
}

#[tokio::test]
async fn a_silent_partition_does_not_hold_the_rest_back_for_ever() {
    let engine = MemoryEngine::new(10);
    engine.create("input", 2);
    engine.create("output", 1);
    engine.write("input", 0, &[event("k", 5, 1).to_record(), event("k", 40, 1).to_record()]);
    let state = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(0));
    let flow = flow(Kind::Tumbling, Late::Drop).commit_every(1000, Duration::from_millis(10));
    let open = flow.open(engine.clone(), state.path(), clock.clone()).await.unwrap();
    let metrics = open.metrics();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(open.run(async { drop(stopped.await) }));

    until(|| metrics.snapshot().counts.records_in == 2).await;
    assert_eq!(metrics.snapshot().watermark_ms, None, "the other partition is waited for");
    // Partition 0 has news within the idle time, partition 1 has none.
    clock.advance_ms(29_000);
    engine.write("input", 0, &[event("k", 41, 1).to_record()]);
    until(|| metrics.snapshot().counts.records_in == 3).await;
    clock.advance_ms(2_000);
    let limits = ReadLimits { wait_max: Duration::from_millis(20), ..ReadLimits::default() };
    let output = TopicPartition::new("output", 0);
    let result = async {
        let mut reader = engine.reader(&output, Position(0)).await.unwrap();
        while reader.read(limits).await.unwrap().next == Position(0) {
            // The flow may have committed at this very moment, before it found the partition silent; the next commit
            // comes by the clock.
            clock.advance_ms(10);
        }
    };
    timeout(DEADLINE, result).await.expect("the window is over");
    assert_eq!(metrics.snapshot().watermark_ms, Some(21));

    // Whoever comes back is heard again.
    engine.write("input", 1, &[event("k", 30, 1).to_record()]);
    until(|| metrics.snapshot().counts.records_in == 4).await;
    engine.write("input", 0, &[event("k", 400, 1).to_record()]);
    until(|| metrics.snapshot().counts.records_in == 5).await;
    assert_eq!(metrics.snapshot().watermark_ms, Some(21), "the other partition is waited for once more");
    stop.send(()).unwrap();
    let end = timeout(DEADLINE, running).await.unwrap().unwrap().unwrap();
    assert_eq!((end.counts.late_dropped, end.counts.results), (0, 1));
    assert_eq!(end.lag, [(TopicPartition::new("input", 0), 0), (TopicPartition::new("input", 1), 0)]);
}

#[tokio::test]
async fn early_results_come_with_the_commit_interval() {
    let engine = MemoryEngine::new(10);
    engine.create("input", 1);
    engine.create("output", 1);
    engine.write("input", 0, &[event("k", 5, 1).to_record()]);
    let state = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(0));
    let flow = flow(Kind::Tumbling, Late::Drop).emit_early().commit_every(1000, Duration::from_millis(10));
    let open = flow.open(engine.clone(), state.path(), clock.clone()).await.unwrap();
    let metrics = open.metrics();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(open.run(async { drop(stopped.await) }));
    until(|| metrics.snapshot().counts.records_in == 1).await;
    assert_eq!(engine.records("output").len(), 0);
    clock.advance_ms(10);
    let limits = ReadLimits { wait_max: DEADLINE, ..ReadLimits::default() };
    let mut reader = engine.reader(&TopicPartition::new("output", 0), Position(0)).await.unwrap();
    reader.read(limits).await.unwrap();
    assert_eq!(engine.table("output"), [("k [0, 10)".to_owned(), "1, 1".to_owned())].into());
    stop.send(()).unwrap();
    timeout(DEADLINE, running).await.unwrap().unwrap().unwrap();
    assert_eq!(engine.records("output").len(), 1, "nothing changed since, and no window closed");
}
