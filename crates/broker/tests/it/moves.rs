//! Topics that are moved elsewhere: held still for a moment, and then gone for good.

use std::time::Duration;

use anabranch_broker::{
    Ack, AppendError, Apply, Broker, Elsewhere, MoveBegun, MovingError, NewMove, NewTopic, Node,
    ProduceError, Record, TransactionOptions,
};
use anabranch_core::batch::{BatchBuilder, Compression};
use anabranch_core::engine::{Engine, EngineError, GroupEvent, GroupPositions, Position};
use anabranch_core::{Offset, ProducerEpoch, ProducerId, TopicPartition};
use bytes::Bytes;

use crate::{batch, broker_with, open, soon};

const LEASE: Duration = Duration::from_secs(20);

fn at() -> TopicPartition {
    TopicPartition::new("t", 0)
}

async fn produce(broker: &Broker, bytes: Bytes) -> Result<i64, ProduceError> {
    Ok(broker.partition(&at()).unwrap().produce(bytes, Ack::Durable).await?.base_offset.0)
}

async fn commit(broker: &Broker, position: u64) -> Result<(), EngineError> {
    let to = GroupPositions { group: "g".to_owned(), positions: vec![(at(), Position(position))] };
    broker.admin().set_group_positions(&to).await
}

fn sequenced(id: ProducerId, sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.producer(id, ProducerEpoch(0), sequence).push(&Record::keyless(format!("{sequence}")).at(1));
    builder.build().unwrap()
}

fn is_held(produced: &Result<i64, ProduceError>) -> bool {
    matches!(produced, Err(ProduceError::Log(AppendError::Held)))
}

fn new_move(id: &str, target: &str) -> NewMove {
    NewMove { id: id.to_owned(), topics: vec!["t".to_owned()], target: target.to_owned(), redirect: None }
}

async fn begun(broker: &Broker) {
    let begun = broker.begin_move(new_move("m", "kafka://there:1")).await.unwrap();
    assert_eq!(begun, MoveBegun { moved_to: None, is_redirected: false });
}

#[tokio::test]
async fn while_it_is_held_nothing_comes_but_repeats_are_answered_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    let (id, _) = broker.init_producer_id().await.unwrap();
    produce(&broker, sequenced(id, 0)).await.unwrap();
    commit(&broker, 1).await.unwrap();
    begun(&broker).await;
    produce(&broker, sequenced(id, 1)).await.unwrap();

    let hold = broker.hold_move("m", &[at()], LEASE).await.unwrap();
    assert!(is_held(&produce(&broker, sequenced(id, 2)).await));
    assert!(is_held(&produce(&broker, batch(&["plain"])).await));
    assert_eq!(produce(&broker, sequenced(id, 1)).await.unwrap(), 1, "it is there");
    assert!(matches!(commit(&broker, 2).await, Err(EngineError::Failed(_) | EngineError::Away { .. })));
    broker.release_move("m", hold);
    assert_eq!(produce(&broker, sequenced(id, 2)).await.unwrap(), 2);
    commit(&broker, 3).await.unwrap();
    assert!(matches!(broker.decide_move("m", hold, false).await, Err(MovingError::NotHeld)));
    broker.close().await;
}

/// A mover that dies says nothing: the lease ends by itself.
#[tokio::test]
async fn a_lease_ends_by_itself_and_cannot_be_used_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    begun(&broker).await;
    let hold = broker.hold_move("m", &[at()], Duration::from_millis(60)).await.unwrap();
    assert!(is_held(&produce(&broker, batch(&["a"])).await));
    soon(async {
        while is_held(&produce(&broker, batch(&["a"])).await) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(matches!(broker.decide_move("m", hold, false).await, Err(MovingError::NotHeld)));
    // Another hold is not ended by what is left of the first.
    let first = broker.hold_move("m", &[at()], Duration::from_millis(60)).await.unwrap();
    let second = broker.hold_move("m", &[at()], LEASE).await.unwrap();
    tokio::time::sleep(Duration::from_millis(120)).await; // the first one's lease
    broker.release_move("m", first);
    assert!(is_held(&produce(&broker, batch(&["a"])).await));
    assert!(matches!(broker.decide_move("m", first, false).await, Err(MovingError::NotHeld)));
    broker.decide_move("m", second, false).await.unwrap();
    broker.close().await;
}

#[tokio::test]
async fn an_open_transaction_is_waited_for_and_comes_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    begun(&broker).await;
    let mut producer = broker.transactional("tx", TransactionOptions::default()).await.unwrap();
    let mut transaction = producer.begin().await.unwrap();
    transaction.produce(&at(), batch(&["1"])).await.unwrap();
    let held = broker.hold_move("m", &[at()], Duration::from_millis(100)).await;
    assert!(matches!(held, Err(MovingError::OpenTransactions(_))), "{held:?}");
    produce(&broker, batch(&["nothing is held any more"])).await.unwrap();

    let (holding, partitions) = (broker.clone(), [at()]);
    let holding = tokio::spawn(async move { holding.hold_move("m", &partitions, LEASE).await });
    soon(async {
        while !is_held(&produce(&broker, batch(&["plain"])).await) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    transaction.produce(&at(), batch(&["what is open goes on"])).await.unwrap();
    transaction.commit().await.unwrap();
    soon(holding).await.unwrap().unwrap();
    let offsets = broker.partition(&at()).unwrap().offsets();
    assert_eq!(offsets.last_stable, offsets.log_end, "all of it is there to be read");
    broker.close().await;
}

/// Where there always is a transaction open, since another begins before one ends, the topics would never be held.
#[tokio::test]
async fn none_begins_while_those_that_are_open_are_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    begun(&broker).await;
    let mut open = broker.transactional("open", TransactionOptions::default()).await.unwrap();
    let mut transaction = open.begin().await.unwrap();
    transaction.produce(&at(), batch(&["1"])).await.unwrap();
    let (holding, partitions) = (broker.clone(), [at()]);
    let holding = tokio::spawn(async move { holding.hold_move("m", &partitions, LEASE).await });
    soon(async {
        while !is_held(&produce(&broker, batch(&["plain"])).await) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let beginning = broker.clone();
    let beginning = tokio::spawn(async move {
        let mut producer = beginning.transactional("begins", TransactionOptions::default()).await.unwrap();
        let mut transaction = producer.begin().await.unwrap();
        transaction.produce(&at(), batch(&["it waits"])).await?;
        transaction.commit().await
    });
    transaction.produce(&at(), batch(&["2"])).await.unwrap();
    transaction.commit().await.unwrap();
    let hold = soon(holding).await.unwrap().unwrap();
    let offsets = broker.partition(&at()).unwrap().offsets();
    assert_eq!(offsets.last_stable, offsets.log_end);
    assert!(!beginning.is_finished());
    broker.release_move("m", hold);
    soon(beginning).await.unwrap().unwrap();
    broker.close().await;
}

/// A transaction may hold nothing of the topic but where a group stands, and that may be the group's first commit.
#[tokio::test]
async fn a_commit_in_an_open_transaction_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    produce(&broker, batch(&["1"])).await.unwrap();
    begun(&broker).await;
    let mut producer = broker.transactional("tx", TransactionOptions::default()).await.unwrap();
    let mut transaction = producer.begin().await.unwrap();
    transaction.commit_offsets("new", &[(at(), Offset(1))]).await.unwrap();
    let held = broker.hold_move("m", &[at()], Duration::from_millis(100)).await;
    assert!(matches!(held, Err(MovingError::OpenTransactions(_))), "{held:?}");
    transaction.commit().await.unwrap();
    broker.hold_move("m", &[at()], LEASE).await.unwrap();
    let positions = broker.admin().group_positions("new").await.unwrap();
    assert_eq!(positions, [(at(), Position(1))]);
    broker.close().await;
}

#[tokio::test]
async fn what_is_moved_is_moved_after_a_restart_too_until_it_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    let (id, _) = broker.init_producer_id().await.unwrap();
    produce(&broker, sequenced(id, 0)).await.unwrap();
    begun(&broker).await;
    assert_eq!(broker.moved_to("t"), None);
    let hold = broker.hold_move("m", &[at()], LEASE).await.unwrap();
    broker.decide_move("m", hold, false).await.unwrap();
    let mut broker = broker;
    for _ in 0..2 {
        assert_eq!(broker.moved_to("t").as_deref(), Some("kafka://there:1"));
        let refused = produce(&broker, sequenced(id, 1)).await.unwrap_err();
        assert_eq!(refused.to_string(), "moved to kafka://there:1");
        assert_eq!(produce(&broker, sequenced(id, 0)).await.unwrap(), 0, "it is there, and was copied");
        let again = broker.begin_move(new_move("m", "kafka://there:1")).await.unwrap();
        let decided = MoveBegun { moved_to: Some("kafka://there:1".to_owned()), is_redirected: false };
        assert_eq!(again, decided);
        broker.close().await;
        broker = open(dir.path()).await;
    }
    broker.forget_move("m").await.unwrap();
    assert_eq!(produce(&broker, sequenced(id, 1)).await.unwrap(), 1);
    broker.close().await;
}

#[tokio::test]
async fn a_topic_is_moved_by_one_and_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    begun(&broker).await;
    begun(&broker).await;
    let other = broker.begin_move(new_move("other", "nats://there:1")).await;
    assert!(matches!(other, Err(MovingError::Taken { .. })), "{other:?}");
    let held = broker.hold_move("m", &[], LEASE).await;
    assert!(matches!(held, Err(MovingError::Changed(_))), "{held:?}");
    broker.admin().add_partitions("t", 2).await.unwrap();
    let held = broker.hold_move("m", &[at()], LEASE).await;
    assert!(matches!(held, Err(MovingError::Changed(_))), "{held:?}");
    assert!(matches!(broker.hold_move("no", &[], LEASE).await, Err(MovingError::Unknown(_))));
    broker.close().await;
}

/// A partition that was added while the topic was held was open: its records were acknowledged, and the move was decided without
/// them. After the decision it was the same.
#[tokio::test]
async fn a_partition_that_is_added_belongs_to_no_move() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    begun(&broker).await;
    let hold = broker.hold_move("m", &[at()], LEASE).await.unwrap();
    broker.create_partitions("t", 2, Apply::Now).await.unwrap();
    let decided = broker.decide_move("m", hold, false).await;
    assert!(matches!(&decided, Err(MovingError::Changed(topic)) if topic == "t"), "{decided:?}");
    broker.release_move("m", hold);
    let all = [at(), TopicPartition::new("t", 1)];
    let hold = broker.hold_move("m", &all, LEASE).await.unwrap();
    broker.decide_move("m", hold, false).await.unwrap();
    let grown = broker.create_partitions("t", 3, Apply::Now).await;
    assert_eq!(grown.unwrap_err().to_string(), "topic \"t\" was moved to kafka://there:1");
    broker.close().await;
}

/// A topic that was made anew, by the name of one that was moved, was held for the old one: it could not be moved, its groups
/// could not be joined, and who gave the old move up opened what another had moved.
#[tokio::test]
async fn a_topic_of_the_same_name_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    let moved = async |id: &str| {
        let begun = broker.begin_move(new_move(id, "kafka://there:1")).await.unwrap();
        assert_eq!(begun.moved_to, None);
        let hold = broker.hold_move(id, &[at()], LEASE).await.unwrap();
        broker.decide_move(id, hold, false).await.unwrap();
    };
    let anew = async || {
        broker.delete_topic("t").await.unwrap();
        broker.create_topic(NewTopic::new("t"), Apply::Now).await.unwrap();
    };
    moved("m").await;
    anew().await;
    commit(&broker, 0).await.unwrap();
    moved("m").await;
    anew().await;
    moved("other").await;
    broker.forget_move("m").await.unwrap();
    assert_eq!(broker.moved_to("t").as_deref(), Some("kafka://there:1"));
    let refused = produce(&broker, sequenced(ProducerId(7), 0)).await.unwrap_err();
    assert_eq!(refused.to_string(), "moved to kafka://there:1");
    broker.close().await;
}

/// A mover was killed in the pause. The next one asked for something else, and took the place of the first: nobody let go
/// when its lease was over.
#[tokio::test]
async fn a_hold_is_not_forgotten_by_who_comes_next() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    begun(&broker).await;
    broker.hold_move("m", &[at()], Duration::from_millis(300)).await.unwrap();
    let next = async || broker.begin_move(new_move("m", "kafka://elsewhere:1")).await;
    assert!(matches!(next().await, Err(MovingError::Busy(_))));
    soon(async {
        while next().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(produce(&broker, sequenced(ProducerId(7), 0)).await.unwrap(), 0);
    broker.close().await;
}

/// Old clients are sent on by their metadata. A member in the process itself has none: it was told that its coordinator is not
/// available, and whoever was on call looked for one.
#[tokio::test]
async fn a_member_in_the_process_hears_where_all_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    let mut member = broker.join("g", &["t".to_owned()]).await.unwrap();
    assert!(matches!(member.next_event().await, Ok(GroupEvent::Assigned(_))));
    let nodes = vec![Node { id: 1, host: "there".to_owned(), port: 1 }];
    let redirect = Some(Elsewhere { cluster: "c".to_owned(), nodes });
    broker.begin_move(NewMove { redirect, ..new_move("m", "kafka://there:1") }).await.unwrap();
    let hold = broker.hold_move("m", &[at()], LEASE).await.unwrap();
    broker.decide_move("m", hold, false).await.unwrap();
    assert_eq!(soon(member.next_event()).await.unwrap(), GroupEvent::Lost(vec![at()]));
    let refused = soon(member.next_event()).await.unwrap_err();
    assert!(refused.to_string().contains("moved to kafka://there:1"), "{refused}");
    broker.close().await;
}
