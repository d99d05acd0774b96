//! OffsetForLeaderEpoch (key 23, versions 2 to 4): where an epoch of a partition's leader ends (KIP-101, KIP-320).
//!
//! A leader's epoch here is 0 for ever, so that epoch 0 ends where the log does. Who asks is not told apart: the request's
//! replica id is for followers.

use anabranch_broker::{Partition, check_leader_epoch};
use anabranch_core::LeaderEpoch;
use anabranch_wire::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use anabranch_wire::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use anabranch_wire::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use anabranch_wire::{ErrorCode, NO_ERROR};
use uuid::Uuid;

use super::{Door, codes, find_topic, leader_epoch};

/// `UNDEFINED_EPOCH` and `UNDEFINED_EPOCH_OFFSET` of `OffsetsForLeaderEpochResponse.java`.
const UNDEFINED: (i32, i64) = (-1, -1);

pub(super) fn answer(door: &Door, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|asked| {
        let topic = find_topic(door, false, &asked.topic, Uuid::nil());
        let partitions = asked.partitions.iter().map(|asked| {
            let partition = topic
                .as_ref()
                .map_err(|code| *code)
                .and_then(|topic| topic.partition(asked.partition).ok_or(ErrorCode::UnknownTopicOrPartition));
            let found = partition.and_then(|partition| end(partition, asked));
            let ((epoch, offset), code) = match found {
                Ok(end) => (end, NO_ERROR),
                Err(code) => (UNDEFINED, code.code()),
            };
            EpochEndOffset::default()
                .with_partition(asked.partition)
                .with_error_code(code)
                .with_leader_epoch(epoch)
                .with_end_offset(offset)
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default().with_topic(asked.topic).with_partitions(partitions)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

/// The largest epoch up to the one that is asked for, and its end (`LeaderEpochFileCache.endOffsetFor`).
fn end(partition: &Partition, asked: &OffsetForLeaderPartition) -> Result<(i32, i64), ErrorCode> {
    let current = leader_epoch(asked.current_leader_epoch);
    check_leader_epoch(current).map_err(|error| codes::fetch(&error))?;
    partition.check_status().map_err(|error| codes::fetch(&error))?;
    let bounds = partition.offsets();
    Ok(match leader_epoch(asked.leader_epoch) {
        Some(LeaderEpoch(0)) => (0, bounds.log_end.0),
        // Of an epoch before the first, Kafka says that it ended where the first begins.
        Some(LeaderEpoch(earlier @ ..0)) => (earlier, bounds.log_start.0),
        Some(_) | None => UNDEFINED,
    })
}
