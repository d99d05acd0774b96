//! What the door refuses, and what it lets in.

use anabranch_broker::{Ack, AppendError, Apply, At, Broker, NewTopic, ProduceError, RecordsRefused};
use anabranch_core::batch::{BatchBuilder, BatchError, Compression, Record, split_batches};
use anabranch_core::seam::Machine;
use anabranch_core::{Offset, ProducerEpoch, ProducerId, TopicPartition};
use bytes::Bytes;

use crate::{batch, open};

const NOW_MS: i64 = 1_700_000_000_000;

/// The batch with bytes changed and its checksum made right again.
fn forged(bytes: &Bytes, change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

fn of(record: &Record, codec: Compression) -> Bytes {
    BatchBuilder::new(codec).push(record).build().unwrap()
}

async fn broker_at(path: &std::path::Path, new: NewTopic) -> Broker {
    let clock = std::sync::Arc::new(anabranch_core::seam::ManualClock::at(NOW_MS));
    let broker = Broker::builder().data(path).clock(clock).open().await.unwrap();
    broker.create_topic(new, Apply::Now).await.unwrap();
    broker
}

#[tokio::test]
async fn bad_batches_are_refused_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let new = NewTopic::new("t")
        .config("cleanup.policy", "compact")
        .config("max.message.bytes", "1000")
        .config("message.timestamp.before.max.ms", "1000")
        .config("message.timestamp.after.max.ms", "2000");
    let broker = broker_at(dir.path(), new).await;
    let partition = broker.partition(&TopicPartition::new("t", 0)).unwrap();
    let good = of(&Record::new("k", "v").at(NOW_MS), Compression::None);
    let plain = |record: Record| of(&record, Compression::None);
    let large = "x".repeat(2000);
    let mut idempotent = BatchBuilder::new(Compression::None);
    idempotent.producer(ProducerId(1), ProducerEpoch(0), -1).push(&Record::new("k", "v").at(NOW_MS));
    let mut beside = BatchBuilder::new(Compression::None);
    beside.push(&Record::new("k", "v")).push(&Record::new("k", "v").at(NOW_MS - 1001));

    type Expected = fn(&ProduceError) -> bool;
    let cases: Vec<(&str, Bytes, Expected)> = vec![
        ("nothing", Bytes::new(), |e| matches!(e, ProduceError::Batch(BatchError::Truncated { .. }))),
        ("half", good.slice(..64), |e| matches!(e, ProduceError::Batch(BatchError::Truncated { .. }))),
        ("two batches", [&good[..], &good[..]].concat().into(), |e| {
            matches!(e, ProduceError::Batch(BatchError::TrailingBytes(_)))
        }),
        ("old format", forged(&good, |b| b[16] = 1), |e| {
            matches!(e, ProduceError::Batch(BatchError::UnsupportedMagic(1)))
        }),
        (
            "damaged on the way",
            {
                let mut b = good.to_vec();
                b[65] ^= 1;
                b.into()
            },
            |e| matches!(e, ProduceError::Batch(BatchError::BadChecksum { .. })),
        ),
        ("base offset", forged(&good, |b| b[7] = 9), |e| matches!(e, ProduceError::InvalidRecord(_))),
        ("too large", plain(Record::new("k", large).at(NOW_MS)), |e| {
            matches!(e, ProduceError::TooLarge { max_bytes: 1000, .. })
        }),
        ("unknown codec", forged(&good, |b| b[22] |= 7), |e| {
            matches!(e, ProduceError::Batch(BatchError::UnknownCodec(7)))
        }),
        ("gzip that is none", forged(&good, |b| b[22] |= 1), |e| {
            matches!(e, ProduceError::Batch(BatchError::Undecompressable { .. }))
        }),
        ("no records", forged(&good, |b| b[57..61].fill(0)), |e| matches!(e, ProduceError::InvalidRecord(_))),
        (
            "two records that are one",
            forged(&good, |b| {
                b[26] = 1;
                b[60] = 2;
            }),
            |e| matches!(e, ProduceError::InvalidRecord(_)),
        ),
        ("control", forged(&good, |b| b[22] |= 0x20), |e| matches!(e, ProduceError::InvalidRecord(_))),
        ("transactional", forged(&good, |b| b[22] |= 0x10), |e| {
            matches!(e, ProduceError::Log(AppendError::NotInTransaction { .. }))
        }),
        ("sequence missing", idempotent.build().unwrap(), |e| matches!(e, ProduceError::InvalidRecord(_))),
        ("no key", plain(Record::keyless("v").at(NOW_MS)), |e| matches!(e, ProduceError::InvalidRecords(_))),
        ("the broker's bit", forged(&good, |b| b[22] |= 0x08), |e| {
            matches!(e, ProduceError::InvalidTimestamps(_))
        }),
        ("too old", plain(Record::new("k", "v").at(NOW_MS - 1001)), |e| {
            matches!(e, ProduceError::InvalidTimestamps(_))
        }),
        ("too old beside one without a time", beside.build().unwrap(), |e| {
            matches!(e, ProduceError::InvalidTimestamps(_))
        }),
        ("from the future", plain(Record::new("k", "v").at(NOW_MS + 2001)), |e| {
            matches!(e, ProduceError::InvalidTimestamps(_))
        }),
    ];
    for (name, bytes, expected) in cases {
        let error = partition.produce(bytes, Ack::Durable).await.unwrap_err();
        assert!(expected(&error), "{name}: {error:?}");
        assert_eq!(partition.offsets().log_end, Offset(0), "{name}");
    }
    for at in [NOW_MS, NOW_MS - 1000, NOW_MS + 2000, -1] {
        partition.produce(plain(Record::new("k", "v").at(at)), Ack::Durable).await.unwrap();
    }
    assert_eq!(partition.offsets().high_watermark, Offset(4));

    let internal = broker.partition(&TopicPartition::new("__consumer_offsets", 0)).unwrap();
    let error = internal.produce(good, Ack::Durable).await.unwrap_err();
    assert!(matches!(error, ProduceError::Internal(_)));
}

#[tokio::test]
async fn a_bomb_and_a_batch_beyond_the_segment_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let new = NewTopic::new("t").config("segment.bytes", "5000");
    let topic = broker.create_topic(new, Apply::Now).await.unwrap();
    let bomb = of(&Record::keyless(vec![0u8; 300 << 20]), Compression::Zstd);
    let error = topic.partitions()[0].produce(bomb, Ack::Durable).await.unwrap_err();
    assert!(matches!(error, ProduceError::LargerThanSegment { .. }), "{error:?}");
    let other = broker.create_topic(NewTopic::new("u"), Apply::Now).await.unwrap();
    let bomb = of(&Record::keyless(vec![0u8; 300 << 20]), Compression::Zstd);
    let error = other.partitions()[0].produce(bomb, Ack::Durable).await.unwrap_err();
    assert!(matches!(error, ProduceError::Batch(BatchError::TooLarge { .. })), "{error:?}");
}

#[tokio::test]
async fn batches_are_served_as_they_were_sent() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_at(dir.path(), NewTopic::new("t")).await;
    let partition = broker.partition(&TopicPartition::new("t", 0)).unwrap();
    let sent = [batch(&["a", "b"]), batch(&["c"])];
    let mut queued = Vec::new();
    for bytes in &sent {
        queued.push(partition.submit(bytes.clone(), Ack::Durable).await.unwrap());
    }
    let mut bases = Vec::new();
    for producing in queued {
        let produced = producing.answer().await.unwrap();
        assert_eq!((produced.log_append_time_ms, produced.log_start), (-1, Offset(0)));
        bases.push(produced.base_offset.0);
    }
    assert_eq!(bases, [0, 2]);
    let slice = partition.fetch(Offset(1), 1 << 20, None).unwrap();
    let stored: Vec<Bytes> = split_batches(slice.batches).map(|b| b.unwrap().bytes().slice(16..)).collect();
    assert_eq!(stored, sent.map(|bytes| bytes.slice(16..)));
}

#[tokio::test]
async fn log_append_time_is_the_brokers() {
    let dir = tempfile::tempdir().unwrap();
    let broker =
        broker_at(dir.path(), NewTopic::new("t").config("message.timestamp.type", "LogAppendTime")).await;
    let partition = broker.partition(&TopicPartition::new("t", 0)).unwrap();
    let produced = partition.produce(batch(&["a"]), Ack::Durable).await.unwrap();
    assert_eq!(produced.log_append_time_ms, NOW_MS);
    let slice = partition.fetch(Offset(0), 1 << 20, None).unwrap();
    let stored = split_batches(slice.batches).next().unwrap().unwrap();
    assert_eq!(stored.records().unwrap()[0].record.timestamp_ms, NOW_MS);
}

#[tokio::test]
async fn a_deleted_topic_refuses_its_producers() {
    let dir = tempfile::tempdir().unwrap();
    let broker = crate::broker_with(dir.path(), NewTopic::new("t")).await;
    let partition = broker.partition(&TopicPartition::new("t", 0)).unwrap();
    broker.delete_topic("t").await.unwrap();
    let error = partition.produce(batch(&["a"]), Ack::Durable).await.unwrap_err();
    assert!(matches!(error, ProduceError::Log(AppendError::Closed)), "{error:?}");
    assert!(partition.fetch(Offset(0), 100, None).is_err());
}

/// A batch's header said that its newest record was of the year 5138. Every search by time in its segment ended there.
#[tokio::test]
async fn a_largest_timestamp_that_no_record_has_is_corrected() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_at(dir.path(), NewTopic::new("t")).await;
    let partition = broker.partition(&TopicPartition::new("t", 0)).unwrap();
    let honest = of(&Record::new("k", "v").at(NOW_MS), Compression::None);
    let liar = forged(&honest, |bytes| bytes[35..43].copy_from_slice(&100_000_000_000_000_i64.to_be_bytes()));
    partition.produce(liar, Ack::Durable).await.unwrap();
    partition
        .produce(of(&Record::new("k", "w").at(NOW_MS + 5), Compression::None), Ack::Durable)
        .await
        .unwrap();
    let found = partition.locate(At::Time(NOW_MS + 1)).unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp_ms), (Offset(1), NOW_MS + 5));
    assert!(partition.locate(At::Time(NOW_MS + 6)).unwrap().is_none());
    assert_eq!(partition.locate(At::MaxTimestamp).unwrap().unwrap().offset, Offset(1));
}

/// Kafka names every record that is wrong (KIP-467), and its client gives each its own error.
#[tokio::test]
async fn wrong_records_are_named_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let new = NewTopic::new("t")
        .config("cleanup.policy", "compact")
        .config("message.timestamp.before.max.ms", "1000")
        .config("message.timestamp.after.max.ms", "2000");
    let broker = broker_at(dir.path(), new).await;
    let partition = broker.partition(&TopicPartition::new("t", 0)).unwrap();
    let refuse = async |codec, records: &[Record]| {
        let mut builder = BatchBuilder::new(codec);
        records.iter().for_each(|record| {
            builder.push(record);
        });
        partition.produce(builder.build().unwrap(), Ack::Durable).await.unwrap_err()
    };
    let good = Record::new("k", "v").at(NOW_MS);
    let indexes =
        |refused: &RecordsRefused| refused.errors.iter().map(|error| error.index).collect::<Vec<_>>();
    for codec in [Compression::None, Compression::Zstd] {
        let keyless = Record::keyless("v").at(NOW_MS);
        match refuse(codec, &[good.clone(), keyless.clone(), good.clone(), keyless.clone()]).await {
            ProduceError::InvalidRecords(refused) => {
                assert_eq!((indexes(&refused), refused.count), (vec![1, 3], 2));
            }
            other => panic!("{other:?}"),
        }
        // One wrong time makes it an error about times, and a record without a key stays in the list.
        let (old, new) = (good.clone().at(NOW_MS - 1001), good.clone().at(NOW_MS + 2001));
        match refuse(codec, &[keyless.clone().at(5), old, good.clone().at(-1), new]).await {
            ProduceError::InvalidTimestamps(refused) => {
                assert_eq!((indexes(&refused), refused.count), (vec![0, 1, 3], 3));
                assert!(refused.errors[0].reason.contains("key"), "{refused}");
                assert!(refused.errors[1].reason.contains(&(NOW_MS - 1001).to_string()), "{refused}");
            }
            other => panic!("{other:?}"),
        }
        let many = vec![keyless; 1500];
        match refuse(codec, &many).await {
            ProduceError::InvalidRecords(refused) => {
                assert_eq!((refused.errors.len(), refused.count), (1000, 1500));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A few kilobytes can name a window of 128 MiB. What its records fill of it is counted, and no more is given than there is.
#[tokio::test]
async fn a_decompressor_gets_no_more_memory_than_there_is() {
    let dir = tempfile::tempdir().unwrap();
    // A budget so small that decompression has its least, 33 MiB.
    let machine = Machine { cgroup_bytes: Some(100 << 20), ..Machine::default() };
    let broker = Broker::builder().data(dir.path()).machine(machine).open().await.unwrap();
    assert_eq!(broker.memory().limit_bytes(), 80 << 20);
    broker.create_topic(NewTopic::new("t"), Apply::Now).await.unwrap();
    let partition = broker.topic("t").unwrap().partition(0).unwrap().clone();
    let wide = |record_bytes: usize| with_window(27, record_bytes);
    assert!(partition.produce(wide(1 << 20), Ack::Durable).await.is_ok(), "its records are small");
    let error = partition.produce(wide(40 << 20), Ack::Durable).await.unwrap_err();
    let needed =
        matches!(error, ProduceError::Undecompressable { needed_bytes, .. } if needed_bytes > 128 << 20);
    assert!(needed, "{error}");
    assert!(partition.produce(with_window(20, 40 << 20), Ack::Durable).await.is_ok(), "its window is small");
    assert_eq!(broker.memory().decompression().used_bytes(), 0);
    broker.close().await;
}

/// A batch of one record, compressed with a window of so many bits.
fn with_window(log: u32, record_bytes: usize) -> Bytes {
    use std::io::Write;
    let plain =
        BatchBuilder::new(Compression::None).push(&Record::keyless(vec![0; record_bytes]).at(1)).build();
    let plain = plain.unwrap();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(log).unwrap();
    encoder.write_all(&plain[61..]).unwrap();
    let records = encoder.finish().unwrap();
    let mut bytes = [&plain[..61], &records[..]].concat();
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[22] = 4; // the codec, in the low bits of the attributes
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}
