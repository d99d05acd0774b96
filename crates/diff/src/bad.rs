//! Bad input: every request of every version, falsified in every length, cut short, and in versions that are not served.
//!
//! What Apache Kafka does about each is kept in `bad_input.txt`, so that ours can be held to it where there is no Kafka. Of what
//! is not written there, Kafka closes the connection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anabranch_wire::messages::create_topics_request::CreatableTopic;
use anabranch_wire::messages::describe_quorum_request::{PartitionData, TopicData};
use anabranch_wire::messages::*;
use anabranch_wire::protocol::StrBytes;
use anabranch_wire::{Head, Length, LengthOf, Request, apis, decode_response, encode_request, lengths};
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::client::{Client, text};
use crate::known::is_meant;
use crate::side::State;
use crate::step::admin::{Admin, NewTopic, Resource};
use crate::step::consumer::{ConsumerCall, MemberEpoch, Owned};
use crate::step::data::{Data, Session};
use crate::step::group::{Generation, GroupCall, MemberRef, Metadata};
use crate::step::transaction::TransactionCall;
use crate::step::{Call, EpochRef, Group, Slot, Step, Topic, Transaction, Who, data};
use crate::tree::Tree;

/// What Apache Kafka 4.3.1 answers. Written anew by `cargo xtask diff --bad-input`.
pub const KAFKA: &str = include_str!("../bad_input.txt");

/// What begins the names of everything here.
const PREFIX: &str = "diff-bent-";
const CORRELATION_ID: i32 = 7;
/// Who has said nothing by then says nothing.
const SILENT: Duration = Duration::from_secs(3);
const LONG: usize = 1 << 20;

/// A falsified request.
#[derive(Debug, Clone)]
pub struct Bad {
    /// API, version, and what is wrong.
    pub name: String,
    head: Head,
    frame: Bytes,
}

/// What each of these is answered with: error codes; or a word when there is no answer.
pub type Outcomes = BTreeMap<String, String>;

/// The word for a connection that was closed, which is what is left out.
pub const CLOSED: &str = "closed";

fn call(key: ApiKey) -> Option<Call> {
    let (group, slot, member, generation) = (Group::A, 0, MemberRef::Unknown, Generation::None);
    let who = Who { slot: Slot::Unknown, epoch: EpochRef::Current };
    let transaction = Transaction::Never;
    let places = vec![(Topic::A, 0)];
    let topic = Resource::Topic(Topic::A);
    let setting = ("retention.ms", Some("3600000"));
    let new = NewTopic {
        topic: Topic::A,
        partitions: 1,
        replication: 1,
        assignment: None,
        settings: vec![setting],
    };
    Some(match key {
        ApiKey::Produce => Call::Data(data::one_record(Topic::Never, 0)),
        ApiKey::Fetch => Call::Data(Data::Fetch {
            isolation: 0,
            bytes_max: 1 << 20,
            from: vec![(Topic::A, 0, (0, -1, 1 << 20))],
            session: Session::None,
            forgotten: Vec::new(),
        }),
        ApiKey::ListOffsets => {
            Call::Data(Data::ListOffsets { isolation: 0, times: vec![(Topic::A, 0, (-1, -1))] })
        }
        ApiKey::DeleteRecords => Call::Data(Data::DeleteRecords { before: vec![(Topic::A, 0, 0)] }),
        ApiKey::OffsetForLeaderEpoch => {
            Call::Data(Data::OffsetForLeaderEpoch { epochs: vec![(Topic::A, 0, (-1, 0))] })
        }
        ApiKey::Metadata => {
            Call::Admin(Admin::Metadata { topics: Some(vec![Topic::A]), by_id: false, operations: false })
        }
        ApiKey::CreateTopics => Call::Admin(Admin::CreateTopics { topics: vec![new], validate_only: false }),
        ApiKey::DeleteTopics => Call::Admin(Admin::DeleteTopics { topics: vec![Topic::Never], by_id: false }),
        ApiKey::CreatePartitions => {
            Call::Admin(Admin::CreatePartitions { topics: vec![(Topic::A, 2, None)], validate_only: false })
        }
        ApiKey::DescribeTopicPartitions => {
            Call::Admin(Admin::DescribeTopicPartitions { topics: vec![Topic::A], limit: 10, cursor: None })
        }
        ApiKey::DescribeCluster => {
            Call::Admin(Admin::DescribeCluster { endpoint_type: 1, operations: false })
        }
        ApiKey::DescribeConfigs => Call::Admin(Admin::DescribeConfigs {
            resources: vec![(topic, Some(vec!["retention.ms"]))],
            synonyms: false,
            documentation: false,
        }),
        ApiKey::AlterConfigs => {
            Call::Admin(Admin::AlterConfigs { resources: vec![(topic, vec![setting])], validate_only: true })
        }
        ApiKey::IncrementalAlterConfigs => Call::Admin(Admin::IncrementalAlterConfigs {
            resources: vec![(topic, vec![(0, setting)])],
            validate_only: true,
        }),
        ApiKey::ListConfigResources => Call::Admin(Admin::ListConfigResources { types: vec![2] }),
        ApiKey::ElectLeaders => Call::Admin(Admin::ElectLeaders { election_type: 0, of: Some(places) }),
        ApiKey::AlterPartitionReassignments => {
            Call::Admin(Admin::AlterPartitionReassignments { to: vec![(Topic::A, 0, Some(vec![1]))] })
        }
        ApiKey::ListPartitionReassignments => {
            Call::Admin(Admin::ListPartitionReassignments { of: Some(places) })
        }
        ApiKey::DescribeLogDirs => Call::Admin(Admin::DescribeLogDirs { of: Some(places) }),
        ApiKey::AlterReplicaLogDirs => Call::Admin(Admin::AlterReplicaLogDirs { of: places }),
        ApiKey::UpdateFeatures => {
            Call::Admin(Admin::UpdateFeatures { updates: vec![("no.such.feature", 1, 1)] })
        }
        ApiKey::DescribeAcls => Call::Admin(Admin::DescribeAcls { resource_type: 1 }),
        ApiKey::ApiVersions => Call::Admin(Admin::ApiVersions { software: "test" }),
        ApiKey::FindCoordinator => Call::Group(GroupCall::FindCoordinator { key_type: 0, keys: vec![group] }),
        ApiKey::JoinGroup => Call::Group(GroupCall::Join {
            group,
            slot,
            member,
            is_static: false,
            session_ms: 60_000,
            protocol_type: "consumer",
            protocols: vec!["range"],
        }),
        ApiKey::SyncGroup => Call::Group(GroupCall::Sync {
            group,
            slot,
            member,
            is_static: false,
            generation,
            assigned: vec![0],
            protocol: (Some("consumer"), Some("range")),
        }),
        ApiKey::Heartbeat => {
            Call::Group(GroupCall::Heartbeat { group, slot, member, is_static: false, generation })
        }
        ApiKey::LeaveGroup => Call::Group(GroupCall::Leave { group, members: vec![(slot, member, false)] }),
        ApiKey::OffsetCommit => Call::Group(GroupCall::Commit {
            group: Group::B,
            slot,
            member: MemberRef::Empty,
            is_static: false,
            generation,
            offsets: vec![(Topic::A, 0, (0, -1, Metadata::Short))],
        }),
        ApiKey::OffsetFetch => {
            Call::Group(GroupCall::Fetch { groups: vec![group], of: Some(places), slot: None, stable: false })
        }
        ApiKey::OffsetDelete => Call::Group(GroupCall::Delete { group, of: places }),
        ApiKey::DescribeGroups => Call::Group(GroupCall::Describe { groups: vec![group], operations: false }),
        ApiKey::ListGroups => Call::Group(GroupCall::List { states: vec!["Stable"], types: vec!["classic"] }),
        ApiKey::DeleteGroups => Call::Group(GroupCall::DeleteGroups { groups: vec![Group::Never] }),
        ApiKey::InitProducerId => Call::Transaction(TransactionCall::Init {
            slot: Slot::A,
            transaction: Transaction::Own,
            timeout_ms: 0,
            expected: None,
        }),
        ApiKey::AddPartitionsToTxn => {
            Call::Transaction(TransactionCall::AddPartitions { who, transaction, places, verify_only: false })
        }
        ApiKey::AddOffsetsToTxn => Call::Transaction(TransactionCall::AddOffsets { who, transaction, group }),
        ApiKey::TxnOffsetCommit => Call::Transaction(TransactionCall::Commit {
            who,
            transaction,
            group,
            member: None,
            offsets: vec![(Topic::A, 0, (0, Metadata::Short))],
        }),
        ApiKey::EndTxn => Call::Transaction(TransactionCall::End { who, transaction, commits: true }),
        ApiKey::WriteTxnMarkers => Call::Transaction(TransactionCall::WriteMarkers {
            who,
            commits: false,
            places: vec![(Topic::Never, 0)],
        }),
        ApiKey::DescribeProducers => Call::Transaction(TransactionCall::DescribeProducers { places }),
        ApiKey::DescribeTransactions => {
            Call::Transaction(TransactionCall::Describe { transactions: vec![(transaction, Slot::A)] })
        }
        ApiKey::ListTransactions => Call::Transaction(TransactionCall::List {
            states: vec!["Ongoing"],
            of: Some(who),
            longer_than_ms: -1,
            pattern: Some("nothing"),
        }),
        ApiKey::ConsumerGroupHeartbeat => Call::Consumer(ConsumerCall::Heartbeat {
            group,
            slot,
            member,
            epoch: MemberEpoch::Newer,
            is_static: false,
            wants: Some(vec![Topic::A]),
            pattern: None,
            assignor: Some("uniform"),
            owned: Owned::None,
            rebalance_ms: 60_000,
        }),
        ApiKey::ConsumerGroupDescribe => {
            Call::Consumer(ConsumerCall::Describe { groups: vec![group], operations: false })
        }
        _ => return None,
    })
}

/// A valid request of each API.
fn sample(key: ApiKey, version: i16, state: &State) -> Request {
    match call(key) {
        Some(call) => Step { version, call }.request(state),
        None => {
            let partition = PartitionData::default().with_partition_index(0);
            let topic = TopicData::default()
                .with_topic_name(TopicName(text("no-such-topic")))
                .with_partitions(vec![partition]);
            DescribeQuorumRequest::default().with_topics(vec![topic]).into()
        }
    }
}

/// Everything, in order.
#[must_use]
pub fn all() -> Vec<Bad> {
    let state = State::new(PREFIX.to_owned(), 1_700_000_000_000);
    let mut all = Vec::new();
    for api in apis() {
        for version in api.served_min..=api.max {
            let request = sample(api.key, version, &state);
            falsify(api.name, api.key, version, &request, version == api.max, &mut all);
        }
        let head = head(api.key, api.max);
        let frame = encode_request(&head, &sample(api.key, api.max, &state)).expect("the sample is valid");
        for version in BTreeSet::from([-1, api.served_min - 1, api.max + 2, i16::MAX]) {
            let mut frame = frame.to_vec();
            frame[6..8].copy_from_slice(&version.to_be_bytes());
            let name = format!("{} {version} unserved", api.name);
            // Answered in version 0, if at all.
            all.push(Bad { name, head: Head { version: 0, ..head.clone() }, frame: frame.into() });
        }
    }
    all
}

fn head(key: ApiKey, version: i16) -> Head {
    Head { key, version, correlation_id: CORRELATION_ID, client_id: Some(StrBytes::from_static_str("test")) }
}

fn falsify(name: &str, key: ApiKey, version: i16, request: &Request, is_newest: bool, all: &mut Vec<Bad>) {
    let head = head(key, version);
    let frame = encode_request(&head, request).expect("the sample is valid");
    // Length, key, version, correlation id, client id, and tags if it is flexible.
    let is_flexible = key.request_header_version(version) >= 2;
    let body_at = 4 + 2 + 2 + 4 + 2 + 4 + usize::from(is_flexible);
    let (before, body) = frame.split_at(body_at);
    let mut push = |what: String, body: &[u8]| {
        let mut frame = [before, body].concat();
        let length = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        all.push(Bad { name: format!("{name} {version} {what}"), head: head.clone(), frame: frame.into() });
    };
    push("whole".to_owned(), body);
    push("longer".to_owned(), &[body, &[1, 2, 3]].concat());
    for cut in (0..body.len()).step_by(1 + body.len() / 40) {
        push(format!("cut at {cut}"), &body[..cut]);
    }
    for (number, length) in lengths(key, version, body).iter().enumerate() {
        let with = |replaced: Vec<u8>| [&body[..length.at.start], &replaced, &body[length.at.end..]].concat();
        let end = match &length.of {
            LengthOf::Text(bytes) | LengthOf::Blob(bytes) => length.at.end + bytes,
            LengthOf::List(elements) => elements.last().map_or(length.at.end, |last| last.end),
        };
        for (what, value) in [("null", -1), ("negative", -2)] {
            let without = [&body[..length.at.start], &encoded(length, value), &body[end..]].concat();
            push(format!("{what} {number}"), &without);
        }
        push(format!("much {number}"), &with(encoded(length, i64::from(i16::MAX))));
        if !matches!(length.of, LengthOf::Text(_)) || length.is_compact {
            push(format!("too much {number}"), &with(encoded(length, i64::from(i32::MAX) - 1)));
        }
        match &length.of {
            LengthOf::List(elements) => {
                if let Some(first) = elements.first() {
                    let count = encoded(length, elements.len() as i64 + 1);
                    let twice =
                        [&body[..length.at.start], &count, &body[first.clone()], &body[length.at.end..]];
                    push(format!("twice {number}"), &twice.concat());
                }
            }
            LengthOf::Text(bytes) if is_newest => {
                let long = if length.is_compact { LONG } else { i16::MAX as usize };
                let after = &body[length.at.end + bytes..];
                let text =
                    [&body[..length.at.start], &encoded(length, long as i64), &vec![b'x'; long], after];
                push(format!("long {number}"), &text.concat());
                let text = [&body[..length.at.start], &encoded(length, 2), b"\xff\xfe", after];
                push(format!("no text {number}"), &text.concat());
            }
            _ => {}
        }
    }
}

fn encoded(length: &Length, value: i64) -> Vec<u8> {
    if length.is_compact {
        let mut left = (value + 1) as u32;
        let mut bytes = Vec::new();
        while left >= 0x80 {
            bytes.push(left as u8 | 0x80);
            left >>= 7;
        }
        bytes.push(left as u8);
        return bytes;
    }
    value.to_be_bytes()[8 - length.at.len()..].to_vec()
}

/// Sends everything to a server that has nothing else to do, and tells what came of it; what closed the connection is left out.
pub async fn outcomes(addr: SocketAddr) -> Outcomes {
    let mut client = Client::connect(addr).await;
    prepare(&mut client).await;
    let mut outcomes = Outcomes::new();
    for bad in all() {
        let _ = client.stream.write_all(&bad.frame).await;
        let outcome = match timeout(SILENT, client.next_frame()).await {
            Err(_) => "silent".to_owned(),
            Ok(None) => CLOSED.to_owned(),
            Ok(Some(frame)) => codes(&bad.head, frame),
        };
        if !outcome.starts_with("ok") {
            client = Client::connect(addr).await;
        }
        if outcome != CLOSED {
            outcomes.insert(bad.name, outcome);
        }
    }
    outcomes
}

async fn prepare(client: &mut Client) {
    let topic = CreatableTopic::default()
        .with_name(TopicName(text(&format!("{PREFIX}a"))))
        .with_num_partitions(2)
        .with_replication_factor(1);
    let create = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    let code = client.call(7, &create).await.topics[0].error_code;
    assert!([0, 36].contains(&code), "the topic cannot be made: {code}");
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(PREFIX)]);
    for key_type in [0, 1] {
        while client.call(4, &find.clone().with_key_type(key_type)).await.coordinators[0].error_code != 0 {}
    }
    // The coordinators are ready, and have something.
    let heartbeat = HeartbeatRequest::default().with_group_id(GroupId(text(&format!("{PREFIX}group-a"))));
    while client.call(4, &heartbeat).await.error_code != 25 {}
    let end = EndTxnRequest::default().with_transactional_id(TransactionalId(text("t")));
    while client.call(4, &end).await.error_code != 49 {}
}

/// The codes of an answer, each once.
fn codes(head: &Head, frame: Bytes) -> String {
    let Some(response) = decode_response(head, frame) else { return "garbled".to_owned() };
    let mut codes = BTreeSet::new();
    Tree::of(&response).visit(&mut |name, field| {
        if let (true, Tree::Leaf(code)) = (name.ends_with("error_code"), field) {
            codes.insert(code.parse::<i16>().expect("a code is a number"));
        }
    });
    codes.into_iter().fold("ok".to_owned(), |told, code| format!("{told} {code}"))
}

/// The form of `bad_input.txt`: an API and version a line, and what is answered with what.
#[must_use]
pub fn written(outcomes: &Outcomes) -> String {
    let mut lines: BTreeMap<(String, i16), BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for (name, outcome) in outcomes {
        let mut words = name.splitn(3, ' ');
        let mut next = || words.next().expect("a name has three parts");
        let (api, version, what) = (next(), next(), next());
        let version = version.parse().expect("a version is a number");
        lines.entry((api.to_owned(), version)).or_default().entry(outcome).or_default().push(what);
    }
    let mut text = String::new();
    for ((api, version), outcomes) in lines {
        writeln!(text, "{api} {version}").expect("a string takes what is written");
        for (outcome, what) in outcomes {
            writeln!(text, "  {outcome}: {}", what.join(", ")).expect("a string takes what is written");
        }
    }
    text
}

/// What was written.
///
/// # Panics
/// If it was not.
#[must_use]
pub fn read(text: &str) -> Outcomes {
    let mut outcomes = Outcomes::new();
    let mut of = "";
    for line in text.lines() {
        match line.strip_prefix("  ") {
            None => of = line,
            Some(rest) => {
                let (outcome, what) = rest.split_once(": ").expect("an outcome is of something");
                outcomes.extend(what.split(", ").map(|what| (format!("{of} {what}"), outcome.to_owned())));
            }
        }
    }
    outcomes
}

/// Everything in which they differ without being meant to: what, ours, Kafka's.
#[must_use]
pub fn differing(one: &Outcomes, other: &Outcomes) -> Vec<String> {
    let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let of =
        |outcomes: &Outcomes, name: &String| outcomes.get(name).map_or(CLOSED, String::as_str).to_owned();
    let told = names.into_iter().map(|name| (name, of(one, name), of(other, name)));
    told.filter(|(name, one, other)| one != other && !is_meant(name, one, other))
        .map(|(name, one, other)| format!("{name}: {one}, Kafka {other}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let outcome = |name: &str, outcome: &str| (name.to_owned(), outcome.to_owned());
        let outcomes = Outcomes::from([
            outcome("Fetch 4 null 0", "ok 0"),
            outcome("Fetch 4 cut at 1", "ok 0"),
            outcome("Fetch 12 whole", "silent"),
            outcome("Produce -1 unserved", "ok"),
        ]);
        assert_eq!(read(&written(&outcomes)), outcomes);
    }

    #[test]
    fn names_are_unique() {
        let all = all();
        let names: BTreeSet<_> = all.iter().map(|bad| &bad.name).collect();
        assert_eq!(names.len(), all.len());
    }
}
