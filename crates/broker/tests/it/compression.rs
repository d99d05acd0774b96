//! `compression.type`: what batches are stored in.

use anabranch_broker::config::ConfigOp;
use anabranch_broker::{Ack, Apply, Broker, NewTopic, Partition, ProduceError};
use anabranch_core::batch::{Batch, BatchBuilder, Compression, Record, split_batches};
use anabranch_core::{Offset, ProducerEpoch, ProducerId, TopicPartition};
use bytes::Bytes;

use crate::{open, soon};

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

async fn partition(broker: &Broker, configs: &[(&str, &str)]) -> Partition {
    let name = format!("t{}", broker.topics().iter().count());
    let new = configs.iter().fold(NewTopic::new(&name), |new, (name, value)| new.config(*name, *value));
    broker.create_topic(new, Apply::Now).await.unwrap();
    broker.partition(&TopicPartition::new(name, 0)).unwrap()
}

fn batch(codec: Compression, sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    builder.producer(ProducerId(9), ProducerEpoch(2), sequence);
    for number in 0..20 {
        let record = Record::new(format!("key {number}"), "value ".repeat(50)).at(1000 - number);
        builder.push(&record.header("h", "1").header("h", "2"));
    }
    builder.build().unwrap()
}

fn stored(partition: &Partition) -> Vec<Batch> {
    let slice = partition.fetch(Offset(0), 64 << 20, None).unwrap();
    split_batches(slice.batches).map(|batch| batch.unwrap()).collect()
}

#[tokio::test]
async fn batches_are_stored_in_the_topics_codec_and_are_else_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    for (name, target) in [
        ("uncompressed", Some(Compression::None)),
        ("gzip", Some(Compression::Gzip)),
        ("snappy", Some(Compression::Snappy)),
        ("lz4", Some(Compression::Lz4)),
        ("zstd", Some(Compression::Zstd)),
        ("producer", None),
    ] {
        let partition = partition(&broker, &[("compression.type", name)]).await;
        for (number, codec) in CODECS.into_iter().enumerate() {
            let sent = batch(codec, number as i32 * 20);
            let base = partition.produce(sent.clone(), Ack::Durable).await.unwrap().base_offset;
            assert_eq!(base, Offset(number as i64 * 20));
            // Sent again, it is known: the producer's fields are what they were.
            let again = partition.produce(sent.clone(), Ack::Durable).await.unwrap().base_offset;
            assert_eq!(again, base, "{codec} to {name}");
            let stored = stored(&partition).pop().unwrap();
            let header = stored.header();
            assert_eq!(header.compression().unwrap(), target.unwrap_or(codec));
            if header.compression() == Ok(codec) {
                assert_eq!(stored.bytes()[16..], sent[16..], "{codec} to {name}: the same bytes");
            }
            assert_eq!((header.base_offset, header.last_offset_delta, header.record_count), (base, 19, 20));
            assert_eq!((header.producer_id, header.producer_epoch), (ProducerId(9), ProducerEpoch(2)));
            assert_eq!((header.base_sequence, header.max_timestamp_ms), (number as i32 * 20, 1000));
            for (index, at) in stored.records().unwrap().into_iter().enumerate() {
                assert_eq!(at.offset, base.plus(index as i64));
                assert_eq!(at.record.key.unwrap(), format!("key {index}"));
                assert_eq!((at.record.timestamp_ms, at.record.headers.len()), (1000 - index as i64, 2));
            }
        }
    }
    broker.close().await;
}

#[tokio::test]
async fn log_append_time_and_a_codec_go_together() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let settings = [("compression.type", "zstd"), ("message.timestamp.type", "LogAppendTime")];
    let partition = partition(&broker, &settings).await;
    let produced = partition.produce(batch(Compression::None, 0), Ack::Durable).await.unwrap();
    let stored = stored(&partition).remove(0);
    assert!(stored.header().is_log_append_time());
    assert_eq!(stored.header().compression(), Ok(Compression::Zstd));
    assert!(stored.records().unwrap().iter().all(|at| at.record.timestamp_ms == produced.log_append_time_ms));
}

#[tokio::test]
async fn a_level_is_obeyed_and_a_change_holds_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let text: String = (0..4000u32).map(|n| format!("{:x} {}", n * 7919, n / 3)).collect();
    let plain = BatchBuilder::new(Compression::None).push(&Record::keyless(text)).build().unwrap();
    for (codec, low, high) in [("gzip", "1", "9"), ("zstd", "-100", "19")] {
        let level = format!("compression.{codec}.level");
        let partition = partition(&broker, &[("compression.type", codec), (&level, low)]).await;
        partition.produce(plain.clone(), Ack::Durable).await.unwrap();
        let set = [ConfigOp::Set(level.clone(), high.to_owned())];
        broker.alter_topic_configs(&partition.id().topic, &set, Apply::Now).await.unwrap();
        partition.produce(plain.clone(), Ack::Durable).await.unwrap();
        let sizes: Vec<usize> = stored(&partition).iter().map(|batch| batch.bytes().len()).collect();
        assert!(sizes[0] > sizes[1] + 100, "{codec}: {sizes:?}");
    }
}

#[tokio::test]
async fn what_grows_too_large_in_the_topics_codec_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let zeros = |bytes: usize| {
        BatchBuilder::new(Compression::Zstd).push(&Record::keyless(vec![0; bytes])).build().unwrap()
    };
    let message =
        partition(&broker, &[("compression.type", "uncompressed"), ("max.message.bytes", "5000")]).await;
    message.produce(zeros(4900), Ack::Durable).await.unwrap();
    let refused = message.produce(zeros(5000), Ack::Durable).await.unwrap_err();
    assert!(matches!(refused, ProduceError::TooLargeRecompressed { max_bytes: 5000, .. }), "{refused:?}");
    let segment =
        partition(&broker, &[("compression.type", "uncompressed"), ("segment.bytes", "4000")]).await;
    let refused = segment.produce(zeros(4900), Ack::Durable).await.unwrap_err();
    assert!(matches!(refused, ProduceError::LargerThanSegment { max_bytes: 4000, .. }), "{refused:?}");
}

/// The memory of recompressed batches is bounded (64 MiB), and comes back when they are written: more than that goes through.
#[tokio::test]
async fn the_memory_of_recompressed_batches_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let partition =
        partition(&broker, &[("compression.type", "uncompressed"), ("flush.messages", "1000")]).await;
    let sent = BatchBuilder::new(Compression::Zstd)
        .push(&Record::keyless(vec![0; (1 << 20) - 100]))
        .build()
        .unwrap();
    soon(async {
        let mut queued = Vec::new();
        for _ in 0..100 {
            // None of the answers is awaited before the last is queued, as in one request with many partitions.
            queued.push(partition.submit(sent.clone(), Ack::Written).await.unwrap());
        }
        for producing in queued {
            producing.answer().await.unwrap();
        }
    })
    .await;
    assert_eq!(partition.offsets().log_end, Offset(100));
}
