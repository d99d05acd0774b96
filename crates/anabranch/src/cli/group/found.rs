//! Groups as the commands show them, whichever protocol their members speak.
//!
//! librdkafka tells of groups of the classic protocol, and calls the others dead. Those are asked for by requests of our own:
//! FindCoordinator 4 and ConsumerGroupDescribe 0, where the connection needs no more than TCP.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use anabranch_wire::messages::consumer_group_describe_response::{DescribedGroup, Member as NewMember};
use anabranch_wire::messages::{
    ApiKey, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, GroupId, RequestHeader, ResponseHeader,
};
use anabranch_wire::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use anyhow::{Context, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use rdkafka::groups::GroupInfo;

use super::member;
use crate::cli::client::{ClusterArgs, Observer, REQUEST_MAX, connect};

/// What Kafka calls a group that is not there, or that a request cannot speak of.
pub(super) const DEAD: &str = "Dead";
/// The largest answer that is taken: a group of thousands of members has some megabytes.
const ANSWER_BYTES_MAX: usize = 256 << 20;

pub(super) struct Group {
    pub(super) name: String,
    pub(super) state: String,
    /// `classic` or `consumer`; `-` where nobody knows.
    pub(super) kind: &'static str,
    /// `consumer`, `connect`, ...; empty for a group that only stores offsets.
    pub(super) protocol_type: String,
    /// The assignor.
    pub(super) protocol: String,
    pub(super) members: Vec<Member>,
}

pub(super) struct Member {
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) assigned: Vec<(String, i32)>,
}

/// All groups, or one, by name; an unknown group is not in the list, or dead.
pub(super) fn groups(
    observer: &Observer,
    cluster: &ClusterArgs,
    group: Option<&str>,
) -> anyhow::Result<Vec<Group>> {
    let found = observer.groups(group)?;
    let mut groups: BTreeMap<String, Group> =
        found.groups().iter().map(|info| (info.name().to_owned(), classic(info))).collect();
    let dead: Vec<String> =
        groups.values().filter(|group| group.state == DEAD).map(|group| group.name.clone()).collect();
    if !dead.is_empty() && cluster.is_plain() {
        for group in new(cluster, &dead).context("cannot read the groups of the consumer protocol")? {
            groups.insert(group.name.clone(), group);
        }
    }
    Ok(groups.into_values().collect())
}

fn classic(info: &GroupInfo) -> Group {
    let members = info.members().iter().map(|each| Member {
        client_id: each.client_id().to_owned(),
        client_host: each.client_host().to_owned(),
        assigned: member::assigned(each.assignment().unwrap_or_default()),
    });
    Group {
        name: info.name().to_owned(),
        state: info.state().to_owned(),
        kind: if info.state() == DEAD { "-" } else { "classic" },
        protocol_type: info.protocol_type().to_owned(),
        protocol: info.protocol().to_owned(),
        members: members.collect(),
    }
}

/// Those of `names` that are groups of the consumer protocol.
fn new(cluster: &ClusterArgs, names: &[String]) -> anyhow::Result<Vec<Group>> {
    const FIND_VERSION: i16 = 4;
    const DESCRIBE_VERSION: i16 = 0;
    let keys = names.iter().map(|name| StrBytes::from_string(name.clone())).collect();
    let find = FindCoordinatorRequest::default().with_coordinator_keys(keys);
    let answer: FindCoordinatorResponse =
        ask(cluster.first_server(), ApiKey::FindCoordinator, FIND_VERSION, &find)?;
    let mut by_server: BTreeMap<String, Vec<GroupId>> = BTreeMap::new();
    for found in answer.coordinators.into_iter().filter(|found| found.error_code == 0) {
        by_server.entry(format!("{}:{}", &*found.host, found.port)).or_default().push(GroupId(found.key));
    }
    let mut groups = Vec::new();
    for (server, ids) in by_server {
        let describe = ConsumerGroupDescribeRequest::default().with_group_ids(ids);
        let answer: ConsumerGroupDescribeResponse =
            ask(&server, ApiKey::ConsumerGroupDescribe, DESCRIBE_VERSION, &describe)?;
        groups.extend(answer.groups.into_iter().filter(|group| group.error_code == 0).map(described));
    }
    Ok(groups)
}

fn described(group: DescribedGroup) -> Group {
    Group {
        name: group.group_id.to_string(),
        state: group.group_state.to_string(),
        kind: "consumer",
        protocol_type: "consumer".to_owned(),
        protocol: group.assignor_name.to_string(),
        members: group.members.into_iter().map(member_of).collect(),
    }
}

fn member_of(member: NewMember) -> Member {
    let topics = member.assignment.topic_partitions.into_iter();
    let assigned = topics.flat_map(|topic| {
        let name = topic.topic_name.to_string();
        topic.partitions.into_iter().map(move |partition| (name.clone(), partition))
    });
    Member {
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
        assigned: assigned.collect(),
    }
}

/// One request on a connection of its own.
fn ask<Q: Encodable + HeaderVersion, A: Decodable + HeaderVersion>(
    server: &str,
    key: ApiKey,
    version: i16,
    request: &Q,
) -> anyhow::Result<A> {
    let mut stream: TcpStream = connect(server).with_context(|| format!("connecting to {server}"))?;
    stream.set_read_timeout(Some(REQUEST_MAX))?;
    stream.set_write_timeout(Some(REQUEST_MAX))?;
    let header = RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("anabranch")));
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    header.encode(&mut frame, Q::header_version(version))?;
    request.encode(&mut frame, version)?;
    let length = i32::try_from(frame.len() - 4)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&frame)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).with_context(|| format!("{server} does not answer {key:?}"))?;
    let length = usize::try_from(i32::from_be_bytes(length)).context("an answer of a negative length")?;
    ensure!(length <= ANSWER_BYTES_MAX, "{server} answers {key:?} with {length} bytes");
    let mut answer = Vec::new();
    stream.take(length as u64).read_to_end(&mut answer)?;
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, A::header_version(version))?;
    A::decode(&mut answer, version).with_context(|| format!("the answer of {server} to {key:?}"))
}
