//! Idempotent producers, and the restart in between.

use anabranch_broker::{Ack, AppendError, Broker, NewTopic, Partition, ProduceError};
use anabranch_core::batch::{BatchBuilder, Compression, Record};
use anabranch_core::{ProducerEpoch, ProducerId, TopicPartition};
use bytes::Bytes;

use crate::{broker_with, open};

fn sequenced(id: ProducerId, epoch: i16, sequence: i32) -> Bytes {
    BatchBuilder::new(Compression::None)
        .producer(id, ProducerEpoch(epoch), sequence)
        .push(&Record::keyless(format!("{sequence}")).at(1))
        .build()
        .unwrap()
}

fn partition(broker: &Broker) -> Partition {
    broker.partition(&TopicPartition::new("t", 0)).unwrap()
}

async fn produce(broker: &Broker, bytes: Bytes) -> Result<i64, ProduceError> {
    Ok(partition(broker).produce(bytes, Ack::Durable).await?.base_offset.0)
}

#[tokio::test]
async fn retries_are_stored_once_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    let (id, epoch) = broker.init_producer_id().await.unwrap();
    assert_eq!(epoch, ProducerEpoch(0));
    for sequence in 0..3 {
        assert_eq!(produce(&broker, sequenced(id, 1, sequence)).await.unwrap(), i64::from(sequence));
    }
    broker.close().await;

    let broker = open(dir.path()).await;
    assert_eq!(produce(&broker, sequenced(id, 1, 1)).await.unwrap(), 1, "a duplicate has its first offset");
    let skipped = produce(&broker, sequenced(id, 1, 9)).await.unwrap_err();
    assert!(matches!(
        skipped,
        ProduceError::Log(AppendError::OutOfOrderSequence { expected: 3, found: 9, .. })
    ));
    let stale = produce(&broker, sequenced(id, 0, 3)).await.unwrap_err();
    assert!(matches!(stale, ProduceError::Log(AppendError::InvalidProducerEpoch { .. })));
    assert_eq!(produce(&broker, sequenced(id, 1, 3)).await.unwrap(), 3);
    assert_eq!(partition(&broker).offsets().log_end.0, 4);
}

#[tokio::test]
async fn an_id_is_never_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut ids = Vec::new();
    for round in 0..3 {
        let broker = open(dir.path()).await;
        // The first round uses up more than a block.
        for _ in 0..if round == 0 { 1001 } else { 2 } {
            ids.push(broker.init_producer_id().await.unwrap().0.0);
        }
        broker.close().await;
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "ids go up and never repeat");
    assert_eq!((ids[1000] - ids[0], ids[1001] - ids[0]), (1000, 2000));
}

/// A client that is sent elsewhere takes its id along. Kafka counts from 0: there, an id such as ours used to be was somebody else's, and
/// what its owner sent was taken for what that one had sent before.
#[tokio::test]
async fn a_producer_that_goes_on_in_another_directory_is_nobody_there() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (here, there) = (open(dirs[0].path()).await, broker_with(dirs[1].path(), NewTopic::new("t")).await);
    let (from_here, _) = here.init_producer_id().await.unwrap();
    let (of_there, _) = there.init_producer_id().await.unwrap();
    for sequence in 0..2 {
        produce(&there, sequenced(of_there, 0, sequence)).await.unwrap();
    }
    // It begins there with whatever comes next (KIP-360).
    assert_eq!(produce(&there, sequenced(from_here, 0, 1)).await.unwrap(), 2, "no repeat of the other's");
    assert_eq!(produce(&there, sequenced(from_here, 0, 2)).await.unwrap(), 3);
    let ids = [from_here.0, of_there.0];
    assert!(ids.iter().all(|id| *id >= 1 << 40), "none that a Kafka gives: {ids:?}");
    for broker in [here, there] {
        broker.close().await;
    }
}
