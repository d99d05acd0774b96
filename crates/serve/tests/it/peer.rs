//! What Apache Kafka answers, case by case: times, codecs, and which records of a batch are wrong.
//!
//! Every expectation here was compared with the real one: `ANABRANCH_PEER=127.0.0.1:19092 cargo test -p anabranch-serve
//! --test it peer` runs the same cases on the broker at that address (`tests/peers/kafka` starts one).

use anabranch_core::batch::{BatchBuilder, Compression, Record, split_batches};
use anabranch_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use anabranch_wire::messages::delete_topics_request::DeleteTopicState;
use anabranch_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use anabranch_wire::messages::produce_response::PartitionProduceResponse;
use anabranch_wire::messages::{CreateTopicsRequest, DeleteTopicsRequest, ListOffsetsRequest};
use bytes::Bytes;

use crate::client::{Client, Node, SOON, ours_or_peer, produce, text, topic};

const INVALID_TIMESTAMP: i16 = 32;
const MESSAGE_TOO_LARGE: i16 = 10;
const INVALID_RECORD: i16 = 87;

/// Our broker, or the peer.
struct Place {
    client: Client,
    _node: Option<Node>,
}

async fn place() -> Place {
    let (_node, client) = ours_or_peer().await;
    Place { client, _node }
}

impl Place {
    /// A topic of that name, anew.
    async fn topic(&mut self, name: &str, configs: &[(&str, &str)]) {
        let old = DeleteTopicState::default().with_name(Some(topic(name)));
        let delete = DeleteTopicsRequest::default().with_topics(vec![old]).with_timeout_ms(10_000);
        self.client.call(6, &delete).await;
        let configs = configs.iter().map(|(name, value)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        });
        let new = CreatableTopic::default()
            .with_name(topic(name))
            .with_num_partitions(1)
            .with_replication_factor(1)
            .with_configs(configs.collect());
        let create = CreateTopicsRequest::default().with_topics(vec![new]).with_timeout_ms(10_000);
        // The peer deletes behind, and tells of a new topic's leader a little later.
        tokio::time::timeout(SOON, async {
            while ![0, 36].contains(&self.client.call(7, &create).await.topics[0].error_code) {}
            while self.locate(name, -1, 10).await.0 != 0 {}
        })
        .await
        .unwrap();
    }

    async fn produce(&mut self, version: i16, name: &str, batch: Bytes) -> PartitionProduceResponse {
        let response = self.client.call(version, &produce(name, 0, -1, batch)).await;
        response.responses[0].partition_responses[0].clone()
    }

    /// Error, offset, timestamp and leader epoch.
    async fn locate(&mut self, name: &str, timestamp: i64, version: i16) -> (i16, i64, i64, i32) {
        let asked = ListOffsetsPartition::default().with_timestamp(timestamp);
        let asked = ListOffsetsTopic::default().with_name(topic(name)).with_partitions(vec![asked]);
        let request = ListOffsetsRequest::default().with_topics(vec![asked]).with_timeout_ms(5000);
        let answer = self.client.call(version, &request).await.topics.remove(0).partitions.remove(0);
        (answer.error_code, answer.offset, answer.timestamp, answer.leader_epoch)
    }

    /// What each time finds: offset and timestamp.
    async fn finds(&mut self, name: &str, expected: &[(i64, (i64, i64))]) {
        for (asked, (offset, timestamp)) in expected {
            let found = self.locate(name, *asked, 9).await;
            let epoch = if *offset < 0 { -1 } else { 0 };
            assert_eq!(found, (0, *offset, *timestamp, epoch), "{name} asked for {asked}");
        }
    }
}

fn batch(codec: Compression, times: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for time in times {
        builder.push(&Record::new("k", "v").at(*time));
    }
    builder.build().unwrap()
}

fn forged(bytes: &Bytes, change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

const NOWHERE: (i64, i64) = (-1, -1);

#[tokio::test]
async fn times_find_what_they_find_in_kafka() {
    let mut at = place().await;
    at.topic("times-empty", &[]).await;
    let empty = [(-1, (0, -1)), (-2, (0, -1)), (-3, NOWHERE), (-4, (0, -1)), (-5, NOWHERE), (0, NOWHERE)];
    at.finds("times-empty", &empty).await;

    // Out of order inside batches and across them, in every codec.
    for codec in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        let name = format!("times-{codec}");
        at.topic(&name, &[]).await;
        for times in [&[500, 100, 900, 200][..], &[300, 300], &[-1, 900, 950, 950], &[400], &[-1]] {
            assert_eq!(at.produce(9, &name, batch(codec, times)).await.error_code, 0);
        }
        let expected = [
            (-1, (12, -1)),
            (-2, (0, -1)),
            (-3, (8, 950)),
            (-4, (0, -1)),
            (-5, NOWHERE),
            (0, (0, 500)),
            (500, (0, 500)),
            (501, (2, 900)),
            (900, (2, 900)),
            (901, (8, 950)),
            (950, (8, 950)),
            (951, NOWHERE),
            (i64::MAX, NOWHERE),
        ];
        at.finds(&name, &expected).await;
    }

    // No record has a time.
    at.topic("times-none", &[]).await;
    at.produce(9, "times-none", batch(Compression::None, &[-1, -1])).await;
    at.finds("times-none", &[(-3, (0, -1)), (0, NOWHERE)]).await;

    // The broker's own times: all records of a batch have one.
    at.topic("times-append", &[("message.timestamp.type", "LogAppendTime")]).await;
    let first = at.produce(9, "times-append", batch(Compression::None, &[7, 9, 8])).await.log_append_time_ms;
    let mut second = first;
    while second == first {
        second = at.produce(9, "times-append", batch(Compression::Zstd, &[1, 2])).await.log_append_time_ms;
    }
    let end = at.locate("times-append", -1, 9).await.1;
    let expected =
        [(0, (0, first)), (first, (0, first)), (second, (end - 2, second)), (-3, (end - 2, second))];
    at.finds("times-append", &expected).await;

    for (timestamp, version) in [(-3, 6), (-4, 7), (-5, 8), (-6, 10), (-7, 10)] {
        let (code, ..) = at.locate("times-empty", timestamp, version).await;
        assert_eq!(code, 35, "UNSUPPORTED_VERSION: {timestamp} in version {version}");
    }
}

#[tokio::test]
async fn wrong_records_are_named_as_kafka_names_them() {
    let mut at = place().await;
    let mut refuse = async |settings: &[(&str, &str)], version: i16, batch: &Bytes| {
        at.topic("wrong", settings).await;
        let refused = at.produce(version, "wrong", batch.clone()).await;
        let indexes = refused.record_errors.iter().map(|error| error.batch_index).collect::<Vec<_>>();
        (refused.error_code, indexes)
    };
    let record = || Record::new("k", "v").at(1_700_000_000_000);
    let keyless = || Record::keyless("v").at(1_700_000_000_000);
    let of = |codec: Compression, records: &[Record]| {
        let mut builder = BatchBuilder::new(codec);
        records.iter().for_each(|record| {
            builder.push(record);
        });
        builder.build().unwrap()
    };
    let compact = [("cleanup.policy", "compact")];
    let old = [("message.timestamp.before.max.ms", "1000")];
    let both = [compact[0], old[0]];
    let appended = [("message.timestamp.type", "LogAppendTime"), old[0]];
    for codec in [Compression::None, Compression::Lz4] {
        let keys = of(codec, &[record(), keyless(), record(), keyless()]);
        assert_eq!(refuse(&compact, 9, &keys).await, (INVALID_RECORD, vec![1, 3]));
        assert_eq!(
            refuse(&compact, 7, &keys).await,
            (INVALID_RECORD, vec![]),
            "before version 8 there is no place"
        );
        assert_eq!(refuse(&[], 9, &keys).await, (0, vec![]));
        let times = of(codec, &[record().at(-1), record(), keyless()]);
        assert_eq!(refuse(&old, 9, &times).await, (INVALID_TIMESTAMP, vec![1, 2]));
        assert_eq!(refuse(&both, 9, &times).await, (INVALID_TIMESTAMP, vec![1, 2]));
        assert_eq!(
            refuse(&both, 9, &of(codec, &[record().at(-1), keyless()])).await,
            (INVALID_RECORD, vec![1])
        );
        assert_eq!(refuse(&appended, 9, &times).await, (0, vec![]));
        let future = of(codec, &[record().at(i64::MAX / 2)]);
        assert_eq!(refuse(&[], 9, &future).await, (INVALID_TIMESTAMP, vec![0]));
        // The bit that only the broker may set. (With CreateTime, Kafka lets it pass: COMPATIBILITY.md.)
        let claim = |bytes: &Bytes| forged(bytes, |bytes| bytes[22] |= 0x08);
        let claims = claim(&of(codec, &[record(), record()]));
        assert_eq!(refuse(&appended, 9, &claims).await, (INVALID_TIMESTAMP, vec![0, 1]));
    }
}

#[tokio::test]
async fn batches_are_stored_in_the_codec_that_kafka_stores_them_in() {
    let mut at = place().await;
    let record = Record::new("k", "v".repeat(3000)).at(5);
    let of = |codec| BatchBuilder::new(codec).push(&record).build().unwrap();
    for (wanted, stored) in [
        ("uncompressed", Some(Compression::None)),
        ("gzip", Some(Compression::Gzip)),
        ("snappy", Some(Compression::Snappy)),
        ("lz4", Some(Compression::Lz4)),
        ("zstd", Some(Compression::Zstd)),
        ("producer", None),
    ] {
        let name = format!("codec-{wanted}");
        at.topic(&name, &[("compression.type", wanted)]).await;
        let codecs =
            [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
        for (number, codec) in codecs.into_iter().enumerate() {
            let sent = of(codec);
            assert_eq!(at.produce(9, &name, sent.clone()).await.error_code, 0);
            let fetched = at.client.fetch(&name, number as i64).await.records.unwrap();
            let batch = split_batches(fetched).next().unwrap().unwrap();
            assert_eq!(batch.header().compression().unwrap(), stored.unwrap_or(codec), "{codec} to {wanted}");
            assert_eq!(batch.records().unwrap()[0].record, record, "{codec} to {wanted}");
            assert_eq!(batch.header().max_timestamp_ms, 5);
            if batch.header().compression() == Ok(codec) {
                assert_eq!(batch.bytes()[16..], sent[16..], "{codec} to {wanted}");
            }
        }
    }
    at.topic("codec-large", &[("compression.type", "uncompressed"), ("max.message.bytes", "1000")]).await;
    assert_eq!(at.produce(9, "codec-large", of(Compression::Zstd)).await.error_code, MESSAGE_TOO_LARGE);
}
