//! Transactions of programs that hold the broker inside, and readers of committed records beside them.

use std::path::Path;
use std::time::Duration;

use anabranch_broker::group::GroupError;
use anabranch_broker::group::event::Leaver;
use anabranch_broker::{
    Ack, Apply, Broker, Consumer, Isolation, NewTopic, Place, ProduceError, Record, TransactionOptions,
    TransactionalError, TransactionalProducer, blocking,
};
use anabranch_core::{Offset, TopicPartition};

use crate::soon;
use crate::transactions::{config, copied};

const TOPICS: [&str; 3] = ["a", "b", "c"];

/// Three topics; transactions that are too old end at once.
async fn start(path: &Path) -> Broker {
    let broker = Broker::builder().data(path).config(config(&[])).open().await.unwrap();
    for topic in TOPICS {
        if broker.topic(topic).is_err() {
            broker.create_topic(NewTopic::new(topic), Apply::Now).await.unwrap();
        }
    }
    broker
}

async fn producer(broker: &Broker) -> TransactionalProducer {
    soon(broker.transactional("id", TransactionOptions::default())).await.unwrap()
}

/// One producer whose transactions may last so long.
async fn hasty(broker: &Broker, timeout: Duration) -> TransactionalProducer {
    broker.transactional("id", TransactionOptions { timeout }).await.unwrap()
}

fn record(value: &str) -> Record {
    Record::keyless(value.to_owned())
}

fn at(topic: &str) -> TopicPartition {
    TopicPartition::new(topic, 0)
}

/// What a reader is shown of a topic in which nothing is open.
async fn seen(broker: &Broker, topic: &str, isolation: Isolation) -> Vec<String> {
    // A tail has no end, so there is a last record.
    broker.topic(topic).unwrap().append(record("#")).await.unwrap();
    let end = broker.partition(&at(topic)).unwrap().offsets().high_watermark;
    let mut tail = broker.tail_with(topic, Place::Earliest, isolation).await.unwrap();
    let mut values = Vec::new();
    loop {
        let next = soon(tail.next()).await.unwrap().unwrap();
        values.push(String::from_utf8(next.record.value.unwrap().to_vec()).unwrap());
        if next.offset.plus(1) == end {
            values.retain(|value| value != "#");
            return values;
        }
    }
}

async fn committed(broker: &Broker, topic: &str) -> Vec<String> {
    seen(broker, topic, Isolation::Committed).await
}

/// Where group `g` stands in topic `a`.
async fn stands(broker: &Broker) -> Option<i64> {
    let mut fetched = broker.groups().fetch_offsets("g", &[("a".to_owned(), 0)], true).await;
    fetched.remove(0).unwrap().map(|committed| committed.offset)
}

/// Waits until nothing is open.
async fn stable(broker: &Broker) {
    let is_stable = || {
        TOPICS.iter().all(|topic| {
            let offsets = broker.partition(&at(topic)).unwrap().offsets();
            offsets.last_stable == offsets.log_end
        })
    };
    soon(async {
        while !is_stable() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_kill_leaves_all_of_a_transaction_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut producer = producer(&broker).await;
    let mut killed = Vec::new();
    let mut transaction = producer.begin().await.unwrap();
    for topic in TOPICS {
        transaction.append(topic, record("1")).await.unwrap();
        transaction.append_batch(topic, 0, vec![record("2"), record("3")]).await.unwrap();
        killed.push(copied(dir.path()));
    }
    transaction.commit_offsets("g", &[(at("a"), Offset(7))]).await.unwrap();
    killed.push(copied(dir.path()));
    transaction.commit().await.unwrap();
    killed.push(copied(dir.path()));
    for (number, left) in killed.iter().enumerate() {
        let broker = start(left.path()).await;
        let is_committed = number + 1 == killed.len();
        if !is_committed {
            assert_eq!(broker.partition(&at("a")).unwrap().offsets().last_stable, Offset(0), "it is open");
        }
        // Whoever goes on aborts what was left.
        self::producer(&broker).await;
        for topic in TOPICS {
            let expected: &[&str] = if is_committed { &["1", "2", "3"] } else { &[] };
            assert_eq!(committed(&broker, topic).await, expected, "{number}: {topic}");
        }
        assert_eq!(stands(&broker).await, is_committed.then_some(7), "{number}");
    }
}

#[tokio::test]
async fn a_newer_producer_fences_the_older_one_amid_its_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let (mut first, mut second) = (producer(&broker).await, None);
    for ends in [false, true] {
        let mut transaction = first.begin().await.unwrap();
        transaction.append("a", record("old")).await.unwrap();
        let newer = second.insert(producer(&broker).await);
        let fenced = match ends {
            true => transaction.commit().await.unwrap_err(),
            false => {
                // Also where it has not been yet.
                let fenced = transaction.append("a", record("old")).await.unwrap_err();
                assert!(matches!(fenced, TransactionalError::Fenced { .. }), "{fenced}");
                let left = transaction.commit().await.unwrap_err();
                assert!(matches!(left, TransactionalError::Incomplete { .. }), "{left}");
                first.begin().await.unwrap_err()
            }
        };
        assert!(matches!(fenced, TransactionalError::Fenced { .. }), "{fenced}");
        let mut transaction = newer.begin().await.unwrap();
        transaction.append("a", record("new")).await.unwrap();
        transaction.commit().await.unwrap();
        first = second.take().unwrap();
    }
    assert_eq!(committed(&broker, "a").await, ["new", "new"]);
    assert_eq!(seen(&broker, "a", Isolation::Written).await, ["old", "new", "old", "new"]);
}

#[tokio::test]
async fn what_is_aborted_is_not_seen() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut producer = producer(&broker).await;
    producer.begin().await.unwrap().abort().await.unwrap();
    producer.begin().await.unwrap().commit().await.unwrap();
    let mut other = broker.transactional("other", TransactionOptions::default()).await.unwrap();
    let mut beside = other.begin().await.unwrap();
    for (value, commits) in [("1", true), ("2", false), ("3", true), ("4", false)] {
        let mut transaction = producer.begin().await.unwrap();
        for topic in TOPICS {
            transaction.append(topic, record(value)).await.unwrap();
            // What others have in between is theirs.
            beside.append(topic, record("beside")).await.unwrap();
            transaction.append(topic, record(value)).await.unwrap();
        }
        transaction.commit_offsets("g", &[(at("a"), Offset(value.parse().unwrap()))]).await.unwrap();
        match commits {
            true => transaction.commit().await.unwrap(),
            false => transaction.abort().await.unwrap(),
        }
    }
    beside.commit().await.unwrap();
    for topic in TOPICS {
        let expected = ["1", "beside", "1", "beside", "3", "beside", "3", "beside"];
        assert_eq!(committed(&broker, topic).await, expected);
    }
    assert_eq!(seen(&broker, "a", Isolation::Written).await.len(), 12);
    assert_eq!(stands(&broker).await, Some(3));
}

#[tokio::test]
async fn dropping_aborts() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut producer = producer(&broker).await;
    let mut transaction = producer.begin().await.unwrap();
    transaction.append("a", record("dropped")).await.unwrap();
    assert_eq!(broker.partition(&at("a")).unwrap().offsets().last_stable, Offset(0));
    drop(transaction);
    stable(&broker).await;

    // Without waiting for it, over and over: whatever the abort meets, it is not the next transaction.
    for round in 0..20 {
        let mut transaction = producer.begin().await.unwrap();
        transaction.append("a", record("dropped")).await.unwrap();
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut transaction = soon(producer.begin()).await.unwrap();
    transaction.append("a", record("kept")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(committed(&broker, "a").await, ["kept"]);
}

#[tokio::test]
async fn after_an_error_or_a_call_that_was_dropped_nothing_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut producer = producer(&broker).await;
    let mut transaction = producer.begin().await.unwrap();
    transaction.append("a", record("1")).await.unwrap();
    let unknown = transaction.append("none", record("1")).await.unwrap_err();
    assert!(
        matches!(unknown, TransactionalError::Produce { error: ProduceError::Unknown(_), .. }),
        "{unknown}"
    );
    let left = transaction.commit().await.unwrap_err();
    assert!(matches!(left, TransactionalError::Incomplete { .. }), "{left}");

    let mut transaction = producer.begin().await.unwrap();
    transaction.append("a", record("2")).await.unwrap();
    let polled = futures::poll!(Box::pin(transaction.append("a", record("2"))));
    assert!(polled.is_pending());
    let left = transaction.append("a", record("2")).await.unwrap_err();
    assert!(matches!(left, TransactionalError::Incomplete { .. }), "{left}");
    transaction.abort().await.unwrap();

    let mut transaction = producer.begin().await.unwrap();
    let refused = transaction.commit_offsets("", &[(at("a"), Offset(1))]).await.unwrap_err();
    let TransactionalError::Group { error: GroupError::InvalidGroupId, .. } = refused else {
        panic!("{refused}")
    };
    drop(transaction);
    assert_eq!(committed(&broker, "a").await, Vec::<String>::new());

    let mut transaction = producer.begin().await.unwrap();
    transaction.append("a", record("3")).await.unwrap();
    broker.close().await;
    assert!(matches!(transaction.commit().await, Err(TransactionalError::Closed)));
    let unopened = broker.transactional("id", TransactionOptions::default()).await;
    assert!(matches!(unopened, Err(TransactionalError::Closed)));
}

#[tokio::test]
async fn what_lasts_too_long_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let timeout = Duration::from_millis(200);
    let mut producer = hasty(&broker, timeout).await;
    for ends in [true, false] {
        let mut transaction = producer.begin().await.unwrap();
        // On a busy machine this may last too long by itself: then it is told here.
        let refused = match transaction.append("a", record("late")).await {
            Err(error) => error,
            Ok(_) => {
                stable(&broker).await;
                match ends {
                    true => transaction.commit().await.unwrap_err(),
                    false => transaction.append("a", record("late")).await.unwrap_err(),
                }
            }
        };
        let TransactionalError::TimedOut { timeout: told, .. } = refused else { panic!("{refused}") };
        assert_eq!(told, timeout);
    }
    let mut producer = hasty(&broker, Duration::from_secs(60)).await;
    let mut transaction = producer.begin().await.unwrap();
    transaction.append("a", record("next")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(committed(&broker, "a").await, ["next"]);
    let endless =
        broker.transactional("id", TransactionOptions { timeout: Duration::MAX }).await.unwrap_err();
    assert!(matches!(endless, TransactionalError::Coordinator { .. }), "{endless}");
}

/// Takes one record, and gives it on.
async fn copy_one(
    producer: &mut TransactionalProducer,
    consumer: &mut Consumer,
) -> Result<(), TransactionalError> {
    let taken = soon(consumer.next()).await.unwrap();
    let mut transaction = producer.begin().await?;
    transaction.append("b", taken.record).await?;
    transaction.commit_consumed(consumer).await?;
    transaction.commit().await
}

#[tokio::test]
async fn a_member_gives_on_what_it_has_taken_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let source = broker.topic("a").unwrap();
    for value in ["1", "2", "3"] {
        source.append_with(record(value), Ack::Written).await.unwrap();
    }
    let mut producer = producer(&broker).await;
    let mut consumer = broker.consumer("g", ["a"]).unwrap();
    copy_one(&mut producer, &mut consumer).await.unwrap();
    copy_one(&mut producer, &mut consumer).await.unwrap();
    assert_eq!(stands(&broker).await, Some(2));
    // It is sent away, and does not know yet: neither its offsets count nor what it gives on with them.
    let member_id = broker.groups().describe("g").await.unwrap().members[0].member_id.clone();
    let leaver = Leaver { member_id, instance_id: None };
    broker.groups().leave("g", vec![leaver]).await.unwrap();
    let refused = copy_one(&mut producer, &mut consumer).await.unwrap_err();
    let TransactionalError::Group { error: GroupError::UnknownMemberId, .. } = refused else {
        panic!("{refused}")
    };
    drop(consumer);
    let mut other = broker.consumer("g", ["a"]).unwrap();
    copy_one(&mut producer, &mut other).await.unwrap();
    assert_eq!(
        (committed(&broker, "b").await, stands(&broker).await),
        (vec!["1".into(), "2".into(), "3".into()], Some(3))
    );
}

#[test]
fn the_blocking_face_has_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let broker = blocking::Broker::open(dir.path()).unwrap();
    broker.create_topic(NewTopic::new("a"), Apply::Now).unwrap();
    broker.create_topic(NewTopic::new("b"), Apply::Now).unwrap();
    broker.append("a", record("1")).unwrap();
    let mut consumer = broker.consumer("g", ["a"]).unwrap();
    let taken = consumer.next().unwrap();
    let mut producer = broker.transactional("id", TransactionOptions::default()).unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.append("b", record("dropped")).unwrap();
    drop(transaction);
    let mut transaction = producer.begin().unwrap();
    transaction.append_batch("b", 0, vec![record("aborted")]).unwrap();
    transaction.commit_offsets("h", &[(at("a"), Offset(1))]).unwrap();
    transaction.abort().unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.append("b", taken.record.clone()).unwrap();
    transaction.commit_consumed(&consumer).unwrap();
    transaction.commit().unwrap();
    let first = broker.tail("b", Place::Earliest).unwrap().next().unwrap().unwrap();
    assert_eq!(first.record.value, taken.record.value);
    let stands = broker.wait(broker.broker().groups().fetch_offsets("g", &[("a".to_owned(), 0)], true));
    assert_eq!(stands[0].as_ref().unwrap().as_ref().unwrap().offset, 1);
    drop(consumer);
    broker.close();
}
