//! AlterReplicaLogDirs (key 34, versions 1 and 2): KIP-113. There is one directory, and what is to move there is there.

use std::collections::BTreeMap;
use std::path::Path;

use anabranch_core::TopicPartition;
use anabranch_wire::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use anabranch_wire::messages::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, TopicName};
use anabranch_wire::{ErrorCode, NO_ERROR};

use super::Door;

pub(super) fn answer(door: &Door, request: AlterReplicaLogDirsRequest) -> AlterReplicaLogDirsResponse {
    // As in Kafka, each partition is answered once, by the last directory that is named for it.
    let mut codes: BTreeMap<TopicName, BTreeMap<i32, i16>> = BTreeMap::new();
    for directory in request.dirs {
        let is_ours = Path::new(directory.path.as_str()) == door.broker.data_dir();
        for topic in directory.topics {
            let of_topic = codes.entry(topic.name.clone()).or_default();
            for number in topic.partitions {
                let at = TopicPartition::new(topic.name.as_str(), number);
                let code = match is_ours {
                    false => ErrorCode::LogDirNotFound.code(),
                    true if door.broker.partition(&at).is_none() => ErrorCode::UnknownTopicOrPartition.code(),
                    true => NO_ERROR,
                };
                of_topic.insert(number, code);
            }
        }
    }
    let results = codes.into_iter().map(|(name, codes)| {
        let partitions = codes.into_iter().map(|(number, code)| {
            AlterReplicaLogDirPartitionResult::default().with_partition_index(number).with_error_code(code)
        });
        AlterReplicaLogDirTopicResult::default().with_topic_name(name).with_partitions(partitions.collect())
    });
    AlterReplicaLogDirsResponse::default().with_results(results.collect())
}
