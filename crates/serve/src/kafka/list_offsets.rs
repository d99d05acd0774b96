//! ListOffsets (key 2, versions 1 to 10): places in partitions, by time.

use std::collections::HashSet;

use anabranch_broker::{At, Isolation, Partition, check_leader_epoch};
use anabranch_core::batch::NO_TIMESTAMP;
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use anabranch_wire::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use anabranch_wire::messages::{ListOffsetsRequest, ListOffsetsResponse};
use uuid::Uuid;

use super::{Door, codes, find_topic, leader_epoch};

/// What a timestamp below zero means (`ListOffsetsRequest.java`), and since which version (KIP-734, KIP-405, KIP-1005).
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const UNKNOWN_OFFSET: i64 = -1;
/// `ListOffsetsRequest.json`'s IsolationLevel, versions 2 and above.
const READ_UNCOMMITTED: i8 = 0;
const READ_COMMITTED: i8 = 1;

pub(super) async fn answer(door: &Door, version: i16, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let mut seen = HashSet::new();
    let mut repeated = HashSet::new();
    for (name, partition) in
        request.topics.iter().flat_map(|topic| topic.partitions.iter().map(|at| (topic.name.clone(), at)))
    {
        let at = (name, partition.partition_index);
        if !seen.insert(at.clone()) {
            repeated.insert(at);
        }
    }
    let isolation = match request.isolation_level {
        READ_COMMITTED => Isolation::Committed,
        _ => Isolation::Written,
    };
    let mut topics = Vec::with_capacity(request.topics.len());
    for ListOffsetsTopic { name, partitions, .. } in request.topics {
        let topic = find_topic(door, false, &name, Uuid::nil());
        let mut located = Vec::with_capacity(partitions.len());
        for asked in partitions {
            let found = match &topic {
                // Kafka: a partition that is asked for twice has no answer.
                _ if repeated.contains(&(name.clone(), asked.partition_index)) => {
                    Err(ErrorCode::InvalidRequest)
                }
                // What Kafka makes of a level that it does not know.
                _ if !(READ_UNCOMMITTED..=READ_COMMITTED).contains(&request.isolation_level) => {
                    Err(ErrorCode::UnknownServerError)
                }
                _ if bound(version, asked.timestamp).is_none() => Err(ErrorCode::UnsupportedVersion),
                Err(code) => Err(*code),
                Ok(topic) => match topic.partition(asked.partition_index) {
                    None => Err(ErrorCode::UnknownTopicOrPartition),
                    Some(partition) => locate(version, partition.clone(), &asked, isolation).await,
                },
            };
            located.push(respond(version, asked.partition_index, found));
        }
        topics.push(ListOffsetsTopicResponse::default().with_name(name).with_partitions(located));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

/// What a timestamp asks for: `None` for what the version cannot say, and nothing for what is never there.
fn bound(version: i16, timestamp: i64) -> Option<Option<At>> {
    Some(Some(match (timestamp, version) {
        (LATEST, _) => At::Latest,
        (EARLIEST, _) | (EARLIEST_LOCAL, 8..) => At::Earliest,
        (MAX_TIMESTAMP, 7..) => At::MaxTimestamp,
        (LATEST_TIERED, 9..) => return Some(None),
        (0.., _) => At::Time(timestamp),
        _ => return None,
    }))
}

/// Offset and timestamp.
async fn locate(
    version: i16,
    partition: Partition,
    asked: &ListOffsetsPartition,
    isolation: Isolation,
) -> Result<(i64, i64), ErrorCode> {
    check_leader_epoch(leader_epoch(asked.current_leader_epoch)).map_err(|error| codes::fetch(&error))?;
    let Some(Some(at)) = bound(version, asked.timestamp) else {
        return Ok((UNKNOWN_OFFSET, NO_TIMESTAMP)); // nothing is tiered
    };
    let found = tokio::task::spawn_blocking(move || partition.locate_within(at, isolation)).await;
    let found = found.expect("looking into a log does not panic").map_err(|error| codes::fetch(&error))?;
    Ok(found.map_or((UNKNOWN_OFFSET, NO_TIMESTAMP), |found| (found.offset.0, found.timestamp_ms)))
}

fn respond(version: i16, index: i32, found: Result<(i64, i64), ErrorCode>) -> ListOffsetsPartitionResponse {
    let response = ListOffsetsPartitionResponse::default().with_partition_index(index);
    match found {
        Err(code) => {
            response.with_error_code(code.code()).with_offset(UNKNOWN_OFFSET).with_timestamp(NO_TIMESTAMP)
        }
        Ok((offset, timestamp_ms)) => {
            // `LeaderEpoch`: of the record that was found; versions 4 and above.
            let epoch = if version >= 4 && offset != UNKNOWN_OFFSET { 0 } else { -1 };
            response.with_offset(offset).with_timestamp(timestamp_ms).with_leader_epoch(epoch)
        }
    }
}
