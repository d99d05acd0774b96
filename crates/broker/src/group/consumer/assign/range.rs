//! Follows Kafka's `RangeAssignor` of the coordinator: each topic is cut into as many ranges of neighbouring partitions as it
//! has subscribers, the first ones longer by one where it does not come out even. Static members come first, by instance
//! id, so that they keep their ranges over restarts; then the others by member id.

use std::collections::BTreeMap;

use anabranch_core::TopicId;

use super::super::record::Partitions;
use super::{GroupView, Subscriber};

pub(super) fn assign(group: &GroupView<'_>) -> BTreeMap<String, Partitions> {
    let mut members: Vec<&Subscriber<'_>> = group.members.iter().collect();
    members.sort_by_key(|member| (member.instance_id.is_none(), member.instance_id, member.id));
    let mut readers: BTreeMap<TopicId, i32> = BTreeMap::new();
    for topic in members.iter().flat_map(|member| member.topics.iter()) {
        *readers.entry(*topic).or_default() += 1;
    }
    let mut starts: BTreeMap<TopicId, i32> = BTreeMap::new();
    let mut turns: BTreeMap<TopicId, i32> = BTreeMap::new();
    let ranges = |member: &Subscriber<'_>| {
        let mut assigned = Partitions::new();
        for &topic in member.topics.iter() {
            let (count, readers) = (group.partition_count(topic), readers[&topic]);
            let (start, turn) = (starts.entry(topic).or_default(), turns.entry(topic).or_default());
            let len = count / readers + i32::from(*turn < count % readers);
            if len > 0 {
                assigned.insert(topic, (*start..*start + len).collect());
            }
            *start += len;
            *turn += 1;
        }
        assigned
    };
    let mut ranges = ranges;
    members.into_iter().map(|member| (member.id.to_owned(), ranges(member))).collect()
}
