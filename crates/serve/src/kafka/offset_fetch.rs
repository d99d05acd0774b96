//! OffsetFetch (key 9, versions 1 to 9).
//!
//! Up to version 7 one group, from version 8 many (KIP-709). No list of topics means everything that is committed. What
//! is not committed has offset -1 and no error.

use anabranch_broker::group::GroupError;
use anabranch_broker::group::record::CommittedOffset;
use anabranch_wire::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use anabranch_wire::messages::{OffsetFetchRequest, OffsetFetchResponse};
use anabranch_wire::protocol::StrBytes;

use super::{Door, codes, text, topic_name};

/// Topic, partition, and what is committed.
type Offset = (String, i32, Result<Option<CommittedOffset>, GroupError>);

pub(super) async fn answer(door: &Door, version: i16, request: OffsetFetchRequest) -> OffsetFetchResponse {
    if version < 8 {
        let asked = request.topics.map(|topics| {
            partitions(topics.iter().map(|topic| (&*topic.name.0, &topic.partition_indexes[..])))
        });
        let offsets = fetch(door, &request.group_id, asked, request.require_stable).await;
        let topics = by_topic(offsets, partition).into_iter().map(|(name, partitions)| {
            OffsetFetchResponseTopic::default().with_name(topic_name(&name)).with_partitions(partitions)
        });
        return OffsetFetchResponse::default().with_topics(topics.collect());
    }
    let mut groups = Vec::with_capacity(request.groups.len());
    for group in request.groups {
        let asked = group.topics.map(|topics| {
            partitions(topics.iter().map(|topic| (&*topic.name.0, &topic.partition_indexes[..])))
        });
        let response = OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone());
        // Below version 9 there are no members to speak for: the fields have what the schema says.
        let member_id = group.member_id.as_deref();
        let groups_of = door.broker.groups();
        if let Err(error) = groups_of.check_fetch(&group.group_id, member_id, group.member_epoch).await {
            groups.push(response.with_error_code(codes::group(&error).code()));
            continue;
        }
        let offsets = fetch(door, &group.group_id, asked, request.require_stable).await;
        let topics = by_topic(offsets, partitions_8).into_iter().map(|(name, partitions)| {
            OffsetFetchResponseTopics::default().with_name(topic_name(&name)).with_partitions(partitions)
        });
        groups.push(response.with_topics(topics.collect()));
    }
    OffsetFetchResponse::default().with_groups(groups)
}

fn partitions<'a>(topics: impl Iterator<Item = (&'a str, &'a [i32])>) -> Vec<(String, i32)> {
    topics.flat_map(|(name, numbers)| numbers.iter().map(|number| (name.to_owned(), *number))).collect()
}

async fn fetch(door: &Door, group: &str, asked: Option<Vec<(String, i32)>>, stable: bool) -> Vec<Offset> {
    let groups = door.broker.groups();
    match asked {
        None => {
            let all = groups.fetch_all_offsets(group, stable).await;
            all.into_iter().map(|(topic, partition, offset)| (topic, partition, offset.map(Some))).collect()
        }
        Some(asked) => {
            let offsets = groups.fetch_offsets(group, &asked, stable).await;
            asked
                .into_iter()
                .zip(offsets)
                .map(|((topic, partition), offset)| (topic, partition, offset))
                .collect()
        }
    }
}

/// Offsets that stand together, gathered under their topic.
fn by_topic<T>(offsets: Vec<Offset>, show: impl Fn(i32, Shown) -> T) -> Vec<(String, Vec<T>)> {
    let mut topics: Vec<(String, Vec<T>)> = Vec::new();
    for (topic, partition, offset) in offsets {
        let shown = show(partition, Shown::of(offset));
        match topics.last_mut() {
            Some((name, partitions)) if *name == topic => partitions.push(shown),
            _ => topics.push((topic, vec![shown])),
        }
    }
    topics
}

/// The fields that both kinds of response have.
struct Shown {
    offset: i64,
    leader_epoch: i32,
    metadata: Option<StrBytes>,
    code: i16,
}

impl Shown {
    fn of(offset: Result<Option<CommittedOffset>, GroupError>) -> Self {
        let none = |code| Self { offset: -1, leader_epoch: -1, metadata: Some(StrBytes::new()), code };
        match offset {
            Ok(Some(committed)) => Self {
                offset: committed.offset,
                leader_epoch: committed.leader_epoch,
                metadata: Some(text(&committed.metadata)),
                code: anabranch_wire::NO_ERROR,
            },
            Ok(None) => none(anabranch_wire::NO_ERROR),
            Err(error) => none(codes::group(&error).code()),
        }
    }
}

fn partition(index: i32, shown: Shown) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition::default()
        .with_partition_index(index)
        .with_committed_offset(shown.offset)
        .with_committed_leader_epoch(shown.leader_epoch)
        .with_metadata(shown.metadata)
        .with_error_code(shown.code)
}

fn partitions_8(index: i32, shown: Shown) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions::default()
        .with_partition_index(index)
        .with_committed_offset(shown.offset)
        .with_committed_leader_epoch(shown.leader_epoch)
        .with_metadata(shown.metadata)
        .with_error_code(shown.code)
}
