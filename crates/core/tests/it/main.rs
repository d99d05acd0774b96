//! Batches, from outside: what is written is read, and what lies is caught.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use anabranch_core::batch::{
    Batch, BatchBuilder, BatchError, Codec, Compression, Header, Record, check_batch, split_batches,
};
use anabranch_core::{Offset, ProducerEpoch, ProducerId};
use bytes::Bytes;
use proptest::prelude::*;

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn batch(codec: Compression, records: &[Record]) -> Batch {
    let mut builder = BatchBuilder::new(codec);
    for record in records {
        builder.push(record);
    }
    check_batch(&builder.build().unwrap()).unwrap()
}

/// The batch with its bytes changed and its checksum made right again: a liar, not an accident.
fn forged(batch: &Batch, change: impl FnOnce(&mut Vec<u8>)) -> Batch {
    let mut bytes = batch.bytes().to_vec();
    change(&mut bytes);
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    check_batch(&bytes.into()).unwrap()
}

fn field() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn record() -> impl Strategy<Value = Record> {
    let header = (field(), prop::option::of(field())).prop_map(|(key, value)| Header { key, value });
    let parts = (
        prop::option::of(field()),
        prop::option::of(field()),
        prop::collection::vec(header, 0..4),
        0..i64::MAX / 4,
    );
    parts.prop_map(|(key, value, headers, timestamp_ms)| Record { key, value, headers, timestamp_ms })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(records in prop::collection::vec(record(), 1..50), codec in prop::sample::select(&CODECS[..])) {
        let batch = batch(codec, &records);
        let summary = batch.check_records().unwrap();
        prop_assert_eq!(summary.max_timestamp_ms, records.iter().map(|r| r.timestamp_ms).max().unwrap());
        prop_assert_eq!(summary.keyless_count as usize, records.iter().filter(|r| r.key.is_none()).count());
        let read = batch.records().unwrap();
        prop_assert!(read.iter().enumerate().all(|(at, r)| r.offset == Offset(at as i64)));
        prop_assert_eq!(read.into_iter().map(|r| r.record).collect::<Vec<_>>(), records);
    }

    #[test]
    fn forged_records_never_panic_and_both_readers_agree(
        records in prop::collection::vec(record(), 1..8),
        codec in prop::sample::select(&CODECS[..]),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let batch = batch(codec, &records);
        let at = 61 + at.index(batch.bytes().len() - 61);
        let forged = forged(&batch, |bytes| bytes[at] = byte);
        let (checked, read) = (forged.check_records(), forged.records());
        prop_assert!(checked.is_err() || read.is_ok(), "checked {:?}, read {:?}", checked, read);
    }

    #[test]
    fn what_is_recompressed_keeps_everything_but_its_codec(
        records in prop::collection::vec(record(), 1..50),
        from in prop::sample::select(&CODECS[..]),
        compression in prop::sample::select(&CODECS[..]),
        level in prop::option::of(1..9),
        log_append_time in any::<bool>(),
    ) {
        let mut builder = BatchBuilder::new(from);
        builder.producer(ProducerId(7), ProducerEpoch(3), 11);
        records.iter().for_each(|record| { builder.push(record); });
        let mut batch = check_batch(&builder.build().unwrap()).unwrap();
        if log_append_time {
            batch = batch.with_log_append_time(5);
        }
        let again = batch.recompress(Codec { compression, level }, usize::MAX).unwrap();
        prop_assert_eq!(&check_batch(again.bytes()).unwrap(), &again);
        prop_assert_eq!(again.records().unwrap(), batch.records().unwrap());
        prop_assert_eq!(again.check_records().unwrap(), batch.check_records().unwrap());
        prop_assert_eq!(again.header().compression().unwrap(), compression);
        let (crc, len_bytes, attributes) = (batch.header().crc, batch.header().len_bytes, batch.header().attributes);
        prop_assert_eq!(again.header().attributes & !7, attributes & !7);
        let kept = anabranch_core::batch::BatchHeader { crc, len_bytes, attributes, ..*again.header() };
        prop_assert_eq!(kept, *batch.header());
        let (bytes, codec) = (again.bytes().len(), Codec { compression, level });
        prop_assert!(batch.recompress(codec, bytes).is_ok());
        let refused = batch.recompress(codec, bytes - 1);
        prop_assert_eq!(refused.unwrap_err(), BatchError::TooLarge { max_bytes: bytes as u64 - 1 });
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for batch in split_batches(bytes.into()).flatten() {
            let _ = (batch.records(), batch.check_records());
        }
    }
}

#[test]
fn batches_that_lie_about_their_records_are_refused() {
    for codec in CODECS {
        let honest = batch(codec, &[Record::new("a", "1"), Record::new("b", "2")]);
        let count = |batch: &Batch, delta: i32, count: i32| {
            forged(batch, |bytes| {
                bytes[23..27].copy_from_slice(&delta.to_be_bytes());
                bytes[57..61].copy_from_slice(&count.to_be_bytes());
            })
        };
        for (delta, records) in [(2, 3), (0, 1), (2, 2), (1_000_000_000, 1_000_000_001)] {
            let lie = count(&honest, delta, records);
            assert!(lie.check_records().is_err(), "{codec}: {records} records to offset {delta}");
        }
        assert!(honest.check_records().is_ok());
    }
}

#[test]
fn a_level_is_obeyed() {
    let text: Vec<Record> =
        (0..2000).map(|n: i32| Record::keyless(format!("{:x} {}", n.wrapping_mul(7919), n / 3))).collect();
    let plain = batch(Compression::None, &text);
    for (compression, low, high) in [(Compression::Gzip, 1, 9), (Compression::Zstd, -50, 19)] {
        let bytes = |level| {
            plain.recompress(Codec { compression, level: Some(level) }, usize::MAX).unwrap().bytes().len()
        };
        assert!(bytes(low) > bytes(high) + 500, "{compression}: {} and {}", bytes(low), bytes(high));
    }
}

#[test]
fn a_guard_lives_as_long_as_the_bytes() {
    let guard = std::sync::Arc::new(());
    let guarded = batch(Compression::None, &[Record::new("a", "1")]).guarded(std::sync::Arc::clone(&guard));
    let part = guarded.bytes().slice(60..);
    drop(guarded);
    assert_eq!(std::sync::Arc::strong_count(&guard), 2);
    drop(part);
    assert_eq!(std::sync::Arc::strong_count(&guard), 1);
}

#[test]
fn a_bomb_is_refused_in_constant_memory() {
    let zeros = vec![0u8; 300 << 20];
    let mut builder = BatchBuilder::new(Compression::Zstd);
    builder.push(&Record::keyless(zeros));
    let bomb = check_batch(&builder.build().unwrap()).unwrap();
    assert!(bomb.bytes().len() < 100_000);
    assert_eq!(bomb.check_records().unwrap_err(), BatchError::TooLarge { max_bytes: 256 << 20 });
    assert_eq!(bomb.records().unwrap_err(), BatchError::TooLarge { max_bytes: 256 << 20 });
}

#[test]
fn a_snappy_block_without_framing_is_read() {
    let plain = batch(Compression::None, &[Record::new("a", "1")]);
    let bare = forged(&plain, |bytes| {
        let block = snap::raw::Encoder::new().compress_vec(&bytes[61..]).unwrap();
        bytes.truncate(61);
        bytes.extend_from_slice(&block);
        bytes[22] |= 2;
    });
    assert!(bare.check_records().is_ok());
    assert_eq!(bare.records().unwrap(), plain.records().unwrap());
}

#[test]
fn an_unknown_codec_is_named() {
    let lie = forged(&batch(Compression::None, &[Record::new("a", "1")]), |bytes| bytes[22] |= 7);
    assert_eq!(lie.check_records().unwrap_err(), BatchError::UnknownCodec(7));
}
