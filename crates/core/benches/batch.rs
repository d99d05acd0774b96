//! What one batch costs before it is written: its checksum, its header, the walk over its records, and another codec.
//!
//! `cargo bench -p anabranch-core`

#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use anabranch_core::batch::{Batch, BatchBuilder, BatchHeader, Codec, Compression, Record, check_batch};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// A batch of `count` records of `value_bytes` that compress to about a half.
fn batch(compression: Compression, count: usize, value_bytes: usize) -> Batch {
    let mut builder = BatchBuilder::new(compression);
    for number in 0..count as u64 {
        let mut value = Vec::with_capacity(value_bytes);
        let mut word = number.wrapping_add(1);
        while value.len() < value_bytes {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            value.extend_from_slice(&(word >> 32).to_be_bytes());
        }
        value.truncate(value_bytes);
        builder.push(&Record::new(format!("key {number}"), value).at(1_700_000_000_000 + number as i64));
    }
    check_batch(&builder.build().unwrap()).unwrap()
}

fn checks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    for (name, count, value_bytes) in
        [("1x100B", 1, 100), ("1x1KiB", 1, 1024), ("16x1KiB", 16, 1024), ("1000x1KiB", 1000, 1024)]
    {
        let batch = batch(Compression::None, count, value_bytes);
        group.throughput(Throughput::Bytes(batch.bytes().len() as u64));
        group.bench_function(BenchmarkId::new("header", name), |b| {
            b.iter(|| BatchHeader::parse(black_box(batch.bytes())).unwrap());
        });
        group.bench_function(BenchmarkId::new("checksum", name), |b| {
            b.iter(|| crc32c::crc32c(black_box(&batch.bytes()[21..])));
        });
        group.bench_function(BenchmarkId::new("check", name), |b| {
            b.iter(|| check_batch(black_box(batch.bytes())).unwrap());
        });
        group.bench_function(BenchmarkId::new("check_records", name), |b| {
            b.iter(|| black_box(&batch).check_records().unwrap());
        });
        group.bench_function(BenchmarkId::new("records", name), |b| {
            b.iter(|| black_box(&batch).records().unwrap());
        });
    }
    group.finish();
}

fn codecs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let plain = batch(Compression::None, 16, 1024);
    group.throughput(Throughput::Bytes(plain.bytes().len() as u64));
    for compression in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let compressed = plain.recompress(Codec::of(compression), usize::MAX).unwrap();
        group.bench_function(BenchmarkId::new("check_records", compression), |b| {
            b.iter(|| black_box(&compressed).check_records().unwrap());
        });
        group.bench_function(BenchmarkId::new("recompress", compression), |b| {
            b.iter(|| black_box(&plain).recompress(Codec::of(compression), usize::MAX).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, checks, codecs);
criterion_main!(benches);
