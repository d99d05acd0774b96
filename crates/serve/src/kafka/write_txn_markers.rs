//! WriteTxnMarkers (key 27, version 1): what an administrator ends by hand. The coordinator here needs no requests.

use anabranch_broker::transaction::EndKind;
use anabranch_core::batch::EndMarker;
use anabranch_core::{ProducerEpoch, ProducerId, TopicPartition};
use anabranch_wire::NO_ERROR;
use anabranch_wire::messages::write_txn_markers_request::WritableTxnMarker;
use anabranch_wire::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use anabranch_wire::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};

use super::{Door, codes};

pub(super) async fn answer(door: &Door, request: WriteTxnMarkersRequest) -> WriteTxnMarkersResponse {
    let mut markers = Vec::with_capacity(request.markers.len());
    for asked in request.markers {
        let (id, topics) = (asked.producer_id, mark(door, asked).await);
        markers.push(WritableTxnMarkerResult::default().with_producer_id(id).with_topics(topics));
    }
    WriteTxnMarkersResponse::default().with_markers(markers)
}

async fn mark(door: &Door, asked: WritableTxnMarker) -> Vec<WritableTxnMarkerTopicResult> {
    let (producer, epoch) = (ProducerId(asked.producer_id.0), ProducerEpoch(asked.producer_epoch));
    let kind = if asked.transaction_result { EndKind::Commit } else { EndKind::Abort };
    let marker = EndMarker { kind, coordinator_epoch: asked.coordinator_epoch };
    let mut topics = Vec::with_capacity(asked.topics.len());
    for topic in asked.topics {
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for index in topic.partition_indexes {
            let partition = TopicPartition::new(topic.name.as_str(), index);
            let outcome = door.broker.transactions().mark(&partition, producer, epoch, marker).await;
            let code = outcome.map_or_else(|error| codes::produce(&error).code(), |()| NO_ERROR);
            partitions.push(
                WritableTxnMarkerPartitionResult::default().with_partition_index(index).with_error_code(code),
            );
        }
        topics
            .push(WritableTxnMarkerTopicResult::default().with_name(topic.name).with_partitions(partitions));
    }
    topics
}
