//! What the log costs in process: an append, and finding a place by offset and by time.
//!
//! `cargo bench -p anabranch-log`

#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use anabranch_core::Offset;
use anabranch_core::batch::{Batch, BatchBuilder, Compression, Record, check_batch};
use anabranch_core::seam::{OsRandom, RealDisk, SystemClock, Threads};
use anabranch_log::{Absent, Ack, LogConfig, PartitionLog, Store, StoreConfig};
use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;

fn open(root: &Path, flush_messages: i64) -> (Store, PartitionLog) {
    let store = Store::open(StoreConfig {
        root: root.to_owned(),
        disk: Arc::new(RealDisk),
        clock: Arc::new(SystemClock::new()),
        workers: Arc::new(Threads),
        random: Arc::new(OsRandom),
        queue_appends_max: 1024,
        open_files_max: 100,
        journal_file_bytes: 64 << 20,
        producer_expiration_ms: i64::MAX,
    })
    .unwrap();
    let config = LogConfig {
        segment_bytes: 64 << 20,
        segment_ms: i64::MAX,
        segment_jitter_ms: 0,
        flush_messages,
        flush_ms: i64::MAX,
        index_interval_bytes: 4096,
        segment_index_bytes: 10 << 20,
        reserve_bytes: 0,
    };
    let log = store.open_partition("t", 0, config, Absent::Create).unwrap();
    (store, log)
}

/// A batch of one record of 1 KiB.
fn batch(time_ms: i64) -> Batch {
    let record = Record::new("key", vec![b'x'; 1024]).at(time_ms);
    check_batch(&BatchBuilder::new(Compression::None).push(&record).build().unwrap()).unwrap()
}

fn append(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("append 1 KiB");
    for (name, flush_messages, ack) in
        [("relaxed", i64::MAX, Ack::Written), ("written", 1, Ack::Written), ("durable", 1, Ack::Durable)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (store, log) = open(dir.path(), flush_messages);
        let batch = batch(1);
        group.bench_function(name, |b| {
            b.iter(|| runtime.block_on(log.append(batch.clone(), ack)).unwrap());
        });
        runtime.block_on(store.close());
    }
    group.finish();
}

fn find(criterion: &mut Criterion) {
    const RECORDS: i64 = 200_000; // four segments
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (store, log) = open(dir.path(), i64::MAX);
    runtime.block_on(async {
        for time_ms in 0..RECORDS {
            log.append(batch(time_ms), Ack::Written).await.unwrap();
        }
    });
    let mut at = 0;
    let mut next = move || {
        at = (at + 7_919) % RECORDS;
        at
    };
    let mut group = criterion.benchmark_group("find");
    group.bench_function("by offset, and one batch", |b| {
        b.iter(|| log.read(Offset(black_box(next())), 1).unwrap());
    });
    group.bench_function("by time", |b| b.iter(|| log.find_by_time(black_box(next())).unwrap()));
    group.bench_function("largest time", |b| b.iter(|| log.find_max_time().unwrap()));
    group.finish();
    runtime.block_on(store.close());
}

criterion_group!(benches, append, find);
criterion_main!(benches);
