//! The broker from outside.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod breakage;
mod catalogue;
mod compression;
mod disk;
mod engine;
mod full;
mod groups;
mod in_process;
mod maintenance;
mod moves;
mod produce;
mod producers;
mod settings;
mod transactional;
mod transactions;

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use anabranch_broker::{Apply, Broker, NewTopic};
use anabranch_core::batch::{BatchBuilder, Compression, Record};
use bytes::Bytes;

/// No test waits longer than this for what must happen.
const DEADLINE: Duration = Duration::from_secs(30);

/// Fails the test when `what` takes too long, so that none hangs.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("it happens within the deadline")
}

async fn open(path: &Path) -> Broker {
    Broker::open(path).await.unwrap()
}

/// A broker with one topic.
async fn broker_with(path: &Path, new: NewTopic) -> Broker {
    let broker = open(path).await;
    broker.create_topic(new, Apply::Now).await.unwrap();
    broker
}

/// A batch with one record per value.
fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.push(&Record::new("key", (*value).to_owned()).at(1));
    }
    builder.build().unwrap()
}
