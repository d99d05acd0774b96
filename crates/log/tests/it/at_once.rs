//! Appends that need no sync are done where the caller is, and never before what was queued.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use anabranch_core::seam::{Dedicated, RealDisk, Task, Workers};
use anabranch_log::{Absent, Ack, LogConfig};
use tokio::task::yield_now;

use crate::support::{batch, config, open_with};

/// The writer has its turn when the test awaits, and at no other time.
#[derive(Debug)]
struct InTurn;

impl Workers for InTurn {
    fn block(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn dedicate(&self, _name: &'static str, task: Task) -> io::Result<Dedicated> {
        tokio::spawn(task);
        Ok(Dedicated::detached())
    }
}

fn without_waiting<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn an_append_without_a_sync_waits_for_nobody_but_those_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(Arc::new(RealDisk), dir.path(), Arc::new(InTurn));
    let relaxed = LogConfig { flush_messages: i64::MAX, ..config() };
    let log = store.open_partition("t", 0, relaxed, Absent::Create).unwrap();
    yield_now().await;
    yield_now().await;

    let first = without_waiting(log.append(batch(0..1), Ack::Durable)).expect("nobody is before it").unwrap();
    assert_eq!(first.base_offset.0, 0);
    assert_eq!(log.offsets().high_watermark.0, 1);

    let queued = without_waiting(log.submit(batch(0..1), Ack::Durable)).expect("there is a place").unwrap();
    let mut behind = pin!(log.append(batch(0..1), Ack::Durable));
    assert!(without_waiting(behind.as_mut()).is_none(), "one is queued before it");
    assert_eq!(queued.answer().await.unwrap().base_offset.0, 1);
    assert_eq!(behind.await.unwrap().base_offset.0, 2);

    let synced = store.open_partition("t", 1, config(), Absent::Create).unwrap();
    yield_now().await;
    yield_now().await;
    assert!(without_waiting(synced.append(batch(0..1), Ack::Durable)).is_none(), "it needs a sync");
    store.close().await;
    assert!(log.append(batch(0..1), Ack::Written).await.is_err(), "the store is closed");
}
