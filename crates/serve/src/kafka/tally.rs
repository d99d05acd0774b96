//! The error codes inside a response, for the counters.

use anabranch_wire::messages::FetchResponse;
use anabranch_wire::{NO_ERROR, Response};

/// Every code in `response` that is an error.
pub(super) fn error_codes(response: &Response) -> Vec<i16> {
    errors(codes(response))
}

/// The same for a fetch, whose answer is not a [`Response`] while records of it are to be read.
pub(super) fn error_codes_of_fetch(response: &FetchResponse) -> Vec<i16> {
    errors(codes_of_fetch(response))
}

fn errors(mut codes: Vec<i16>) -> Vec<i16> {
    codes.retain(|code| *code != NO_ERROR);
    codes
}

macro_rules! each {
    ($list:expr, $code:ident) => {
        $list.iter().map(|each| each.$code).collect()
    };
    ($list:expr, $inner:ident, $code:ident) => {
        $list.iter().flat_map(|each| &each.$inner).map(|each| each.$code).collect()
    };
}

fn codes_of_fetch(response: &FetchResponse) -> Vec<i16> {
    match response.error_code {
        NO_ERROR => each!(response.responses, partitions, error_code),
        code => vec![code],
    }
}

fn codes(response: &Response) -> Vec<i16> {
    match response {
        Response::Produce(r) => each!(r.responses, partition_responses, error_code),
        Response::Fetch(r) => codes_of_fetch(r),
        Response::ListOffsets(r) => each!(r.topics, partitions, error_code),
        Response::Metadata(r) => each!(r.topics, error_code),
        Response::OffsetCommit(r) => each!(r.topics, partitions, error_code),
        Response::OffsetFetch(r) => {
            let old = r.topics.iter().flat_map(|topic| &topic.partitions).map(|each| each.error_code);
            let new = r.groups.iter().flat_map(|group| &group.topics).flat_map(|topic| &topic.partitions);
            old.chain(new.map(|each| each.error_code)).collect()
        }
        Response::FindCoordinator(r) if r.coordinators.is_empty() => vec![r.error_code],
        Response::FindCoordinator(r) => each!(r.coordinators, error_code),
        Response::JoinGroup(r) => vec![r.error_code],
        Response::SyncGroup(r) => vec![r.error_code],
        Response::Heartbeat(r) => vec![r.error_code],
        Response::LeaveGroup(r) if r.members.is_empty() => vec![r.error_code],
        Response::LeaveGroup(r) => each!(r.members, error_code),
        Response::DescribeGroups(r) => each!(r.groups, error_code),
        Response::ListGroups(r) => vec![r.error_code],
        Response::ApiVersions(r) => vec![r.error_code],
        Response::CreateTopics(r) => each!(r.topics, error_code),
        Response::DeleteTopics(r) => each!(r.responses, error_code),
        Response::DeleteRecords(r) => each!(r.topics, partitions, error_code),
        Response::InitProducerId(r) => vec![r.error_code],
        Response::OffsetForLeaderEpoch(r) => each!(r.topics, partitions, error_code),
        Response::AddPartitionsToTxn(r) => {
            let new = r.results_by_transaction.iter().flat_map(|transaction| &transaction.topic_results);
            let topics = r.results_by_topic_v3_and_below.iter().chain(new);
            let partitions = topics.flat_map(|topic| &topic.results_by_partition);
            partitions.map(|each| each.partition_error_code).collect()
        }
        Response::AddOffsetsToTxn(r) => vec![r.error_code],
        Response::TxnOffsetCommit(r) => each!(r.topics, partitions, error_code),
        Response::WriteTxnMarkers(r) => {
            let topics = r.markers.iter().flat_map(|marker| &marker.topics);
            topics.flat_map(|topic| &topic.partitions).map(|each| each.error_code).collect()
        }
        Response::DescribeProducers(r) => each!(r.topics, partitions, error_code),
        Response::DescribeTransactions(r) => each!(r.transaction_states, error_code),
        Response::ListTransactions(r) => vec![r.error_code],
        Response::EndTxn(r) => vec![r.error_code],
        Response::DescribeAcls(r) => vec![r.error_code],
        Response::DescribeConfigs(r) => each!(r.results, error_code),
        Response::AlterConfigs(r) => each!(r.responses, error_code),
        Response::AlterReplicaLogDirs(r) => each!(r.results, partitions, error_code),
        Response::DescribeLogDirs(r) => each!(r.results, error_code),
        Response::CreatePartitions(r) => each!(r.results, error_code),
        Response::DeleteGroups(r) => each!(r.results, error_code),
        Response::IncrementalAlterConfigs(r) => each!(r.responses, error_code),
        Response::ElectLeaders(r) => each!(r.replica_election_results, partition_result, error_code),
        Response::AlterPartitionReassignments(r) => each!(r.responses, partitions, error_code),
        Response::ListPartitionReassignments(r) => vec![r.error_code],
        Response::OffsetDelete(r) if r.error_code != NO_ERROR => vec![r.error_code],
        Response::OffsetDelete(r) => each!(r.topics, partitions, error_code),
        Response::DescribeQuorum(r) => each!(r.topics, partitions, error_code),
        Response::UpdateFeatures(r) => vec![r.error_code],
        Response::ListConfigResources(r) => vec![r.error_code],
        Response::DescribeCluster(r) => vec![r.error_code],
        Response::ConsumerGroupHeartbeat(r) => vec![r.error_code],
        Response::ConsumerGroupDescribe(r) => each!(r.groups, error_code),
        Response::DescribeTopicPartitions(r) => each!(r.topics, error_code),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use anabranch_wire::messages::consumer_group_describe_response::DescribedGroup;
    use anabranch_wire::messages::{ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatResponse};

    use super::*;

    /// What these two refuse was once counted as nothing.
    #[test]
    fn what_new_groups_are_refused_is_counted() {
        let beat = ConsumerGroupHeartbeatResponse::default().with_error_code(110);
        assert_eq!(error_codes(&beat.into()), [110]);
        let groups = [0, 69].map(|code| DescribedGroup::default().with_error_code(code));
        let described = ConsumerGroupDescribeResponse::default().with_groups(groups.into());
        assert_eq!(error_codes(&described.into()), [69]);
    }
}
