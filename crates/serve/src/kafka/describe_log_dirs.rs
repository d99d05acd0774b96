//! DescribeLogDirs (key 35, versions 1 to 4): KIP-113, and KIP-827 for the room on the disk. There is one directory.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_wire::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use anabranch_wire::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};

use super::{Door, text, topic_name};

/// `UNKNOWN_VOLUME_BYTES` of `DescribeLogDirsResponse.java`.
const UNKNOWN_BYTES: i64 = -1;

pub(super) async fn answer(door: &Door, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    // `Topics` is nullable, and null is all.
    let asked = request.topics.map(|topics| {
        let mut asked: BTreeMap<_, BTreeSet<i32>> = BTreeMap::new();
        for topic in topics {
            asked.entry(topic.topic.to_string()).or_default().extend(topic.partitions);
        }
        asked
    });
    let mut topics = Vec::new();
    for topic in door.broker.topics().iter() {
        let wanted = asked.as_ref().map(|asked| asked.get(topic.name()));
        let is_wanted = |number| wanted.is_none_or(|wanted| wanted.is_some_and(|all| all.contains(&number)));
        let partitions = (0..).zip(topic.partitions()).filter(|(number, _)| is_wanted(*number));
        // Nothing lags behind, and nothing is on its way to another directory.
        let partitions = partitions.map(|(number, partition)| {
            DescribeLogDirsPartition::default()
                .with_partition_index(number)
                .with_partition_size(i64::try_from(partition.size_bytes()).unwrap_or(i64::MAX))
        });
        let partitions: Vec<_> = partitions.collect();
        if !partitions.is_empty() {
            let name = topic_name(topic.name());
            topics.push(DescribeLogDirsTopic::default().with_name(name).with_partitions(partitions));
        }
    }
    let broker = door.broker.clone();
    let space = tokio::task::spawn_blocking(move || broker.disk_space()).await;
    let space = space.expect("asking a disk does not panic");
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let directory = DescribeLogDirsResult::default()
        .with_log_dir(text(&door.broker.data_dir().to_string_lossy()))
        .with_topics(topics)
        .with_total_bytes(space.map_or(UNKNOWN_BYTES, |space| bytes(space.total_bytes)))
        .with_usable_bytes(space.map_or(UNKNOWN_BYTES, |space| bytes(space.usable_bytes)));
    DescribeLogDirsResponse::default().with_results(vec![directory])
}
