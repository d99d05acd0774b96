//! Writes the seeds that the fuzzers start from, so that they need not invent a valid input first:
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`. The seeds are committed; write them anew when a format
//! changes.

use std::path::Path;
use std::{fs, io};

use anabranch_core::batch::{BatchBuilder, Compression, NO_TIMESTAMP, Record};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use anabranch_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use anabranch_wire::messages::join_group_request::JoinGroupRequestProtocol;
use anabranch_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use anabranch_wire::messages::{
    ApiKey, ApiVersionsRequest, CreateTopicsRequest, FetchRequest, JoinGroupRequest, ProduceRequest,
    RequestHeader,
};
use anabranch_wire::protocol::{Encodable, StrBytes};
use bytes::{BufMut, BytesMut};

fn main() -> io::Result<()> {
    write("batch_view", &batches())?;
    write("frame_decoder", &streams())
}

fn write(target: &str, seeds: &[(String, Vec<u8>)]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    seeds.iter().try_for_each(|(name, bytes)| fs::write(folder.join(name), bytes))
}

/// One batch per codec, two in a row as a fetch returns them, and one with a record that tells no time.
fn batches() -> Vec<(String, Vec<u8>)> {
    use Compression::{Gzip, Lz4, None, Snappy, Zstd};
    let mut seeds: Vec<_> =
        [None, Gzip, Snappy, Lz4, Zstd].into_iter().map(|codec| (codec.to_string(), batch(codec))).collect();
    seeds.push(("two".to_owned(), [batch(None), batch(Zstd)].concat()));
    let mut builder = BatchBuilder::new(None);
    builder.push(&Record::new("key", "value").at(NO_TIMESTAMP));
    builder.push(&Record::new("key", "value").at(1_700_000_000_000));
    seeds.push(("untimed".to_owned(), builder.build().expect("two records make a batch").to_vec()));
    seeds
}

/// Every shape of a record: with headers of one key, without a key, without a value.
fn batch(codec: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    builder.producer(ProducerId(7), ProducerEpoch(1), 3);
    builder.push(&Record::new("key", "value").at(1_700_000_000_000).header("h", "1").header("h", "2"));
    builder.push(&Record::keyless("value value value value").at(1_700_000_000_009));
    builder.push(&Record::tombstone("key").at(1_699_999_999_999));
    builder.build().expect("three records make a batch").to_vec()
}

/// Requests with something in each of their lists, old (before compact lengths) and new; cut at one byte, see the target.
fn streams() -> Vec<(String, Vec<u8>)> {
    let text = StrBytes::from_static_str;
    let config = CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(Some(text("1")));
    let topic = CreatableTopic::default().with_name(text("t").into()).with_configs(vec![config]);
    let create = CreateTopicsRequest::default().with_topics(vec![topic]);

    let partition = PartitionProduceData::default().with_records(Some(batch(Compression::None).into()));
    let topic = TopicProduceData::default().with_name(text("t").into()).with_partition_data(vec![partition]);
    let produce = ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]);

    let topic =
        FetchTopic::default().with_topic(text("t").into()).with_partitions(vec![FetchPartition::default()]);
    let fetch = FetchRequest::default().with_topics(vec![topic]);

    let protocol = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata("any".into());
    let join = JoinGroupRequest::default().with_group_id(text("g").into()).with_protocols(vec![protocol]);

    let versions = ApiVersionsRequest::default().with_client_software_name(text("c"));
    let pipelined = [frame(ApiKey::ApiVersions, 4, &versions), frame(ApiKey::Produce, 9, &produce)].concat();
    [
        ("pipelined", pipelined),
        ("produce-old", frame(ApiKey::Produce, 3, &produce)),
        ("fetch-old", frame(ApiKey::Fetch, 4, &fetch)),
        ("fetch-new", frame(ApiKey::Fetch, 12, &fetch)),
        ("create-topics-old", frame(ApiKey::CreateTopics, 2, &create)),
        ("create-topics-new", frame(ApiKey::CreateTopics, 7, &create)),
        ("join-group-old", frame(ApiKey::JoinGroup, 0, &join)),
        ("join-group-new", frame(ApiKey::JoinGroup, 9, &join)),
    ]
    .into_iter()
    .map(|(name, stream)| (name.to_owned(), [&[1], &stream[..]].concat()))
    .collect()
}

fn frame(key: ApiKey, version: i16, request: &impl Encodable) -> Vec<u8> {
    let header = RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("c")));
    let mut body = BytesMut::new();
    header.encode(&mut body, key.request_header_version(version)).expect("a header fits its version");
    request.encode(&mut body, version).expect("the request has what its version has");
    let mut frame = BytesMut::new();
    frame.put_i32(body.len() as i32);
    frame.put(body);
    frame.to_vec()
}
