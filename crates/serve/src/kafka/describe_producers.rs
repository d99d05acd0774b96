//! DescribeProducers (key 61, version 0): who has written to a partition, and of whom a transaction is open there.

use anabranch_broker::ProducerState;
use anabranch_core::TopicPartition;
use anabranch_wire::ErrorCode;
use anabranch_wire::messages::describe_producers_response::{
    PartitionResponse, ProducerState as Shown, TopicResponse,
};
use anabranch_wire::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};

use super::Door;
use super::codes::{self, refusal};

pub(super) async fn answer(door: &Door, request: DescribeProducersRequest) -> DescribeProducersResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let mut partitions = Vec::with_capacity(asked.partition_indexes.len());
        for index in asked.partition_indexes {
            let response = PartitionResponse::default().with_partition_index(index);
            let producers = match door.broker.partition(&TopicPartition::new(asked.name.as_str(), index)) {
                None => Err(match door.broker.topic_or_why(&asked.name) {
                    Ok(_) => refusal(ErrorCode::UnknownTopicOrPartition, "there is no such partition"),
                    Err(error) => refusal(codes::topic(&error), error.to_string()),
                }),
                Some(partition) => {
                    let producers = partition.producers().await;
                    producers.map_err(|error| refusal(codes::fetch(&error), error.to_string()))
                }
            };
            partitions.push(match producers {
                Ok(producers) => response.with_active_producers(producers.iter().map(show).collect()),
                Err((code, message)) => response.with_error_code(code).with_error_message(message),
            });
        }
        topics.push(TopicResponse::default().with_name(asked.name).with_partitions(partitions));
    }
    DescribeProducersResponse::default().with_topics(topics)
}

fn show(producer: &ProducerState) -> Shown {
    Shown::default()
        .with_producer_id(ProducerId(producer.id.0))
        .with_producer_epoch(producer.epoch.0.into())
        .with_last_sequence(producer.batches.last().map_or(-1, |(_, last, ..)| *last))
        .with_last_timestamp(producer.last_time_ms)
        .with_coordinator_epoch(producer.coordinator_epoch.unwrap_or(-1))
        .with_current_txn_start_offset(producer.open.map_or(-1, |open| open.0))
}
