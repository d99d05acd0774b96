//! Writes the seeds that the fuzzers start from, so that they need not invent a valid input first:
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`. The seeds are committed; write them anew when a format
//! changes. Those of `request_decoder` are real clients' requests: `tests/clients/run --record fuzz/seeds/request_decoder`.

use std::path::Path;
use std::{fs, io};

use anabranch_broker::group::consumer::record::{
    ClassicValue, ConsumerRecord, EpochValue, MemberValue, PatternValue, TargetEpochValue,
};
use anabranch_broker::group::consumer_protocol::{Assignment, Subscription};
use anabranch_broker::group::record::{CommittedOffset, GroupMetadata, GroupRecord, MemberMetadata};
use anabranch_core::batch::{BatchBuilder, Compression, EndKind, EndMarker, NO_TIMESTAMP, Record};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_log::fuzz::Kind;
use anabranch_sim::history::{Event, Isolation, Op, Outcome, Source};
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
    write("frame_decoder", &streams())?;
    write("group_record", &group_records())?;
    write("transaction_record", &transaction_records())?;
    write("catalogue_record", &catalogue_records())?;
    write("log_file", &log_files())?;
    write("journal", &journals())?;
    write("history", &histories())?;
    write("damage", &damages())
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
    let commit = EndMarker { kind: EndKind::Commit, coordinator_epoch: 7 };
    let commit = commit.batch(ProducerId(7), ProducerEpoch(1), 1_700_000_000_000);
    seeds.push(("marker".to_owned(), commit.bytes().to_vec()));
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

/// A record as `targets/record.rs` splits it.
fn record(key: &[u8], value: Option<&[u8]>) -> Vec<u8> {
    let key_bytes = u8::try_from(key.len()).expect("a short key");
    assert!(key_bytes < 0x80, "the highest bit says that there is no value");
    let first = key_bytes | if value.is_none() { 0x80 } else { 0 };
    [&[first], key, value.unwrap_or_default()].concat()
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("a digit") as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// What the coordinators write, and what only Kafka does; what members send each other, as values.
fn group_records() -> Vec<(String, Vec<u8>)> {
    let group = || "g".to_owned();
    let offset = |expire_ms| GroupRecord::Offset {
        group: group(),
        topic: "t".to_owned(),
        partition: 7,
        value: Some(CommittedOffset {
            offset: 5,
            leader_epoch: -1,
            metadata: "m".to_owned(),
            commit_ms: 9,
            expire_ms,
        }),
    };
    let member = MemberMetadata {
        member_id: "a".to_owned(),
        instance_id: Some("i".to_owned()),
        client_id: "c".to_owned(),
        client_host: "/h".to_owned(),
        rebalance_timeout_ms: 2,
        session_timeout_ms: 1,
        subscription: Subscription::to(vec!["t".to_owned()]).encode(3),
        assignment: "any".into(),
    };
    let generation = GroupMetadata {
        protocol_type: "consumer".to_owned(),
        generation: 3,
        protocol: Some("range".to_owned()),
        leader: Some("a".to_owned()),
        since_ms: Some(1),
        members: vec![member],
    };
    let consumer = |record| GroupRecord::Consumer { group: group(), record };
    let classic = ClassicValue { session_timeout_ms: 1, protocols: vec![("range".to_owned(), "any".into())] };
    let about = MemberValue {
        client_id: "c".to_owned(),
        topics: ["t".to_owned()].into(),
        pattern: Some("t.*".to_owned()),
        classic: Some(classic),
        ..MemberValue::default()
    };
    let pattern = PatternValue { topics: ["t".to_owned()].into(), version: 2, resolved_ms: 3 };
    let mut seeds: Vec<(&str, Vec<u8>)> = [
        ("offset", offset(None)),
        ("offset-expiring", offset(Some(77))),
        ("group", GroupRecord::Group { group: group(), value: Some(generation) }),
        ("group-gone", GroupRecord::Group { group: group(), value: None }),
        ("epoch", consumer(ConsumerRecord::Epoch(Some(EpochValue { epoch: 3, topics_hash: 4 })))),
        ("member", consumer(ConsumerRecord::Member("a".to_owned(), Some(Box::new(about))))),
        (
            "target-epoch",
            consumer(ConsumerRecord::TargetEpoch(Some(TargetEpochValue { epoch: 3, computed_ms: 5 }))),
        ),
        ("pattern", consumer(ConsumerRecord::Pattern("t.*".to_owned(), Some(pattern)))),
    ]
    .into_iter()
    .map(|(name, read)| (name, read.encode()))
    .map(|(name, written)| (name, record(&written.key, written.value.as_deref())))
    .collect();
    // A topic's id, and its partitions 0 and 1; in the second with the epochs in which they came.
    let topic = "02000102030405060708090a0b0c0d0e0f030000000000000001";
    let key = |kind: u8| [&[0, kind, 0, 1], &b"g"[..], &[0, 1], b"a"].concat();
    seeds.push(("target", record(&key(7), Some(&unhex(&format!("0000{topic}0000"))))));
    let epochs = "0100090300000002 00000003".replace(' ', "");
    let current = format!("00000000000300000002 01{topic}{epochs}0100").replace(' ', "");
    seeds.push(("current", record(&key(8), Some(&unhex(&current)))));
    let subscription = Subscription {
        topics: vec!["a".to_owned(), "b".to_owned()],
        user_data: Some("u".into()),
        owned: vec![("a".to_owned(), vec![0, 2])],
        generation: 4,
        rack: Some("r".to_owned()),
    };
    let assignment = Assignment { partitions: subscription.owned.clone(), user_data: None };
    seeds.push(("subscription", record(b"", Some(&subscription.encode(3)))));
    seeds.push(("subscription-old", record(b"", Some(&subscription.encode(0)))));
    seeds.push(("assignment", record(b"", Some(&assignment.encode(1)))));
    named(seeds)
}

fn named(seeds: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    seeds.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

/// As Kafka 4.3.1 wrote them: see the tests of the record.
fn transaction_records() -> Vec<(String, Vec<u8>)> {
    let seeds = [
        (
            "empty",
            "0001000000000000000000000000ea600000000001a21737ca62ffffffffffffffff0100080000000000000000",
        ),
        (
            "ongoing",
            "0001000000000000000000000000ea6001020274020000000100000001a21737ccff000001a21737ccff0200080000\
             00000000000002020002",
        ),
        (
            "committed",
            "0001000000000000000000010000ea600401000001a21737cdd6000001a21737ccff02000800000000000000000\
             2020002",
        ),
        (
            "exhausted",
            "000100000000000000077fff0000ea600302027402000000000000000000000007d000000000000003e803000800000000\
             000000070108000000000000000802020002",
        ),
        (
            "classic",
            "0000000000000000000700030000ea6001000000010001740000000100000000000000000000\
             07d000000000000003e8",
        ),
    ];
    let key = [&[0, 0, 0, 3], &b"two"[..]].concat();
    let mut seeds: Vec<_> = seeds.map(|(name, hex)| (name, record(&key, Some(&unhex(hex))))).into();
    seeds.push(("gone", record(&key, None)));
    named(seeds)
}

fn catalogue_records() -> Vec<(String, Vec<u8>)> {
    let topic = r#"{"version":0,"id":"00010203-0405-0607-0809-0a0b0c0d0e0f","partitions":3,"configs":{"retention.ms":"1","cleanup.policy":"compact,delete"},"internal":false}"#;
    let group = r#"{"version":0,"configs":{"consumer.session.timeout.ms":"50000"}}"#;
    named([
        ("cluster", record(b"cluster", Some(br#"{"version":0,"id":"AAECAwQFBgcICQoLDA0ODw"}"#))),
        ("producer-ids", record(b"producer-ids", Some(br#"{"version":0,"next":1000}"#))),
        ("topic", record(b"topic/orders", Some(topic.as_bytes()))),
        ("topic-internal", record(b"topic/__own", Some(topic.replace("false", "true").as_bytes()))),
        ("topic-gone", record(b"topic/orders", None)),
        ("group", record(b"group/shipping", Some(group.as_bytes()))),
    ])
}

/// One of each kind, with its checksum; in front of it the kind, and which bit is to be flipped.
fn log_files() -> Vec<(String, Vec<u8>)> {
    let longs = |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut snapshot = [3_u32, 2].map(u32::to_le_bytes).concat();
    for producer in [7_i64, 8] {
        snapshot.put_i64_le(producer);
        snapshot.put_i16_le(1); // its epoch
        snapshot.put_u8(1); // one batch
        snapshot.put_i64_le(1_700_000_000_000);
        snapshot.put_i32_le(0); // of the coordinator
        snapshot.put_i64_le(if producer == 7 { -1 } else { 4 }); // what is open
        snapshot.put_i32_le(0);
        snapshot.put_i32_le(1);
        snapshot.put_slice(&longs(&[4, 5]));
    }
    snapshot.put_slice(&[2_u32, 3].map(u32::to_le_bytes).concat());
    snapshot.put_slice(&longs(&[0, 5]));
    snapshot.put_u32_le(0);
    let checked = |fields: Vec<u8>| [&fields[..], &[0; 4]].concat();
    let entry = [&[10, 0, 0, 0, 0, 16, 0, 0][..], &longs(&[5])].concat();
    let bytes = |kind| match kind {
        Kind::Snapshot => snapshot.clone(),
        Kind::Aborted => checked(longs(&[7, 10, 25, 20])),
        Kind::Index => checked(entry.clone()),
        Kind::Durable => checked(longs(&[0, 4096, 107])),
        Kind::Start | Kind::Cleaned => checked(longs(&[7])),
        Kind::Swap => checked(longs(&[7, 9])),
        Kind::JournalFile => journal_file(),
        Kind::JournalEntry => journal_entry(1, 1, 4),
    };
    (0_u8..)
        .zip(Kind::ALL)
        .map(|(number, kind)| {
            let forged = kind.forge(&bytes(kind)).expect("it is long enough");
            assert!(kind.rewrite(&forged).is_some(), "{kind:?} can be read");
            (format!("{kind:?}").to_lowercase(), [&[number, 0], &forged[..]].concat())
        })
        .collect()
}

/// The first sector of a file with the key 0.
fn journal_file() -> Vec<u8> {
    let mut sector = b"AJF1".to_vec();
    sector.resize(512, 0);
    Kind::JournalFile.forge(&sector).expect("a whole sector")
}

/// An entry of one run of five bytes to the partition t-0, from `position` on.
fn journal_entry(sequence: u64, oldest: u64, position: u64) -> Vec<u8> {
    let payload = b"hello";
    let mut entry = b"AJE1\0\0\0\0".to_vec();
    entry.put_u64_le(sequence);
    entry.put_u64_le(oldest);
    entry.put_u32_le(512);
    entry.put_u32_le(36 + 39);
    entry.put_u32_le(1);
    entry.put_slice(b"\x01\x01t");
    entry.put_i32_le(0);
    entry.put_i64_le(0);
    entry.put_u64_le(position);
    entry.put_i64_le(position as i64 + 5);
    entry.put_u32_le(payload.len() as u32);
    entry.put_u32_le(crc32c::crc32c(payload));
    entry.put_slice(payload);
    entry.resize(512, 0);
    Kind::JournalEntry.forge(&entry).expect("a whole entry")
}

/// Two entries that go on where the segment of four bytes ends; in one file, and in two.
fn journals() -> Vec<(String, Vec<u8>)> {
    let (first, second) = (journal_entry(1, 1, 4), journal_entry(2, 1, 9));
    let one = [&[4, 0xff], &journal_file()[..], &first, &second].concat();
    let two = [&[4, 2], &journal_file()[..], &first, &journal_file(), &second].concat();
    let torn = [&[4, 0xff], &journal_file()[..], &first, &second[..80]].concat();
    let missing = [&[4, 0xff], &journal_file()[..], &second].concat();
    named([("one", one), ("two", two), ("torn", torn), ("missing", missing)])
}

/// Everything that can be done, once.
fn histories() -> Vec<(String, Vec<u8>)> {
    let text = str::to_owned;
    let source = Source { group: text("g"), partition: text("in-0"), offset: 3 };
    let send = |value, offset| Op::Send { partition: text("a-0"), value: text(value), offset, source: None };
    let from = Op::Send { partition: text("a-0"), value: text("y"), offset: None, source: Some(source) };
    let poll = |next, values: &[(i64, &str)], isolation| Op::Poll {
        partition: text("a-0"),
        offset: 0,
        next,
        values: values.iter().map(|(at, value)| (*at, text(value))).collect(),
        isolation,
    };
    let ops = [
        ("p", Op::Begin, Outcome::Ok),
        ("p", send("x", Some(0)), Outcome::Ok),
        ("p", from, Outcome::Unknown),
        ("p", Op::Offsets { group: text("g"), partition: text("in-0"), offset: 4 }, Outcome::Ok),
        ("p", Op::Commit, Outcome::Ok),
        ("q", Op::Begin, Outcome::Ok),
        ("q", send("z", Some(3)), Outcome::Ok),
        ("q", Op::Abort, Outcome::Ok),
        ("r", Op::Seek { partition: text("a-0") }, Outcome::Ok),
        ("r", poll(5, &[(0, "x"), (1, "y")], Isolation::ReadCommitted), Outcome::Ok),
        ("s", poll(5, &[(0, "x"), (1, "y"), (3, "z")], Isolation::ReadUncommitted), Outcome::Ok),
        ("r", Op::Committed { group: text("g"), partition: text("in-0"), offset: 4 }, Outcome::Ok),
    ];
    let lines = (0..).zip(ops).map(|(at_us, (client, op, outcome))| {
        let event = Event { client: text(client), op, outcome, at_us };
        serde_json::to_string(&event).expect("an event is plain data") + "\n"
    });
    named([("all", lines.collect::<String>().into_bytes())])
}

/// Of either directory, one file in a few places, and some files at once.
fn damages() -> Vec<(String, Vec<u8>)> {
    let flip = |file: u8, at: u8| [file, 0, at, 9, 1];
    let one = |which: u8| {
        [&[which][..], &(0..4).flat_map(|place| flip(3, place * 20)).collect::<Vec<_>>()].concat()
    };
    let many =
        |which: u8| [&[which][..], &(0..8).flat_map(|file| flip(file * 3, 30)).collect::<Vec<_>>()].concat();
    named([
        ("stopped-one", one(0)),
        ("killed-one", one(1)),
        ("stopped-many", many(0)),
        ("killed-many", many(1)),
        ("gone", vec![0, 2, 0, 0, 0, 0]),
        ("cut", vec![1, 4, 0, 40, 1, 0]),
    ])
}
