//! Groups, end to end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anabranch_broker::group::consumer_protocol::{Assignment, Subscription};
use anabranch_broker::group::event::{Commit, CommitOffset, Join, JoinedMember, Sync};
use anabranch_broker::group::{ConsumerHeartbeat, GroupError, Heartbeat};
use anabranch_broker::{Apply, Broker, BrokerConfig, BrokerError, ConfigOp, NewTopic, Record};
use anabranch_core::TopicPartition;
use anabranch_core::engine::{Engine, EngineError, GroupEvent, GroupMember, Position};

use crate::transactions::copied;
use crate::{broker_with, open, soon};

async fn assigned(member: &mut Box<dyn GroupMember>) -> Vec<(TopicPartition, Option<Position>)> {
    match soon(member.next_event()).await.unwrap() {
        GroupEvent::Assigned(partitions) => partitions,
        other => panic!("partitions are assigned, and this is {other:?}"),
    }
}

async fn revoked(member: &mut Box<dyn GroupMember>) -> Vec<TopicPartition> {
    match soon(member.next_event()).await.unwrap() {
        GroupEvent::Revoked(partitions) => partitions,
        other => panic!("partitions are revoked, and this is {other:?}"),
    }
}

fn numbers(partitions: &[(TopicPartition, Option<Position>)]) -> BTreeSet<i32> {
    partitions.iter().map(|(at, _)| at.partition).collect()
}

async fn join(broker: &Broker) -> Box<dyn GroupMember> {
    Engine::join(broker, "g", &["t".to_owned()]).await.unwrap()
}

#[tokio::test]
async fn two_members_share_and_take_over() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t").partitions(4)).await;
    let mut first = join(&broker).await;
    assert_eq!(numbers(&assigned(&mut first).await), BTreeSet::from([0, 1, 2, 3]));
    first.commit(&[(TopicPartition::new("t", 3), Position(7))]).await.unwrap();

    let mut second = join(&broker).await;
    let (one, other) = tokio::join!(
        async {
            assert_eq!(revoked(&mut first).await.len(), 4);
            // It is this member's until it joins again.
            first.commit(&[(TopicPartition::new("t", 3), Position(8))]).await.unwrap();
            assigned(&mut first).await
        },
        assigned(&mut second)
    );
    assert_eq!((one.len(), other.len()), (2, 2));
    assert_eq!(&numbers(&one) | &numbers(&other), BTreeSet::from([0, 1, 2, 3]));
    let with_three = one.iter().chain(&other).find(|(at, _)| at.partition == 3).unwrap();
    assert_eq!(with_three.1, Some(Position(8)), "the group's position goes with the partition");
    let others = other.iter().map(|(at, _)| (at.clone(), Position(9))).collect::<Vec<_>>();
    let late = first.commit(&others).await;
    assert!(matches!(late, Err(EngineError::Fenced { .. })), "what others have cannot be committed");

    second.leave().await.unwrap();
    revoked(&mut first).await;
    assert_eq!(assigned(&mut first).await.len(), 4);

    // A member that is only dropped is missed as well.
    let mut third = join(&broker).await;
    let (_, _) = tokio::join!(
        async {
            revoked(&mut first).await;
            assigned(&mut first).await
        },
        assigned(&mut third)
    );
    drop(third);
    revoked(&mut first).await;
    assert_eq!(assigned(&mut first).await.len(), 4);
}

#[tokio::test]
async fn new_partitions_and_new_topics_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let mut member = join(&broker).await;
    assert_eq!(assigned(&mut member).await, [], "there is no such topic yet");
    broker.create_topic(NewTopic::new("t"), Apply::Now).await.unwrap();
    assert_eq!(assigned(&mut member).await.len(), 1);
    broker.create_partitions("t", 3, Apply::Now).await.unwrap();
    revoked(&mut member).await;
    assert_eq!(assigned(&mut member).await.len(), 3);
}

#[tokio::test]
async fn consumers_resume_where_the_group_stands_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    for n in 0..5 {
        broker.topic("t").unwrap().append(Record::keyless(format!("{n}"))).await.unwrap();
    }
    let mut consumer = broker.consumer("g", ["t"]).unwrap();
    for expected in 0..3 {
        assert_eq!(soon(consumer.next()).await.unwrap().offset.0, expected);
    }
    consumer.commit().await.unwrap();
    assert_eq!(soon(consumer.next()).await.unwrap().offset.0, 3);
    // Not committed, not left: the broker goes down under it.
    broker.close().await;
    assert!(matches!(soon(consumer.next()).await, Ok(_) | Err(EngineError::Closed)));
    drop(consumer);

    let broker = open(dir.path()).await;
    let mut consumer = broker.consumer("other", ["t"]).unwrap();
    assert_eq!(soon(consumer.next()).await.unwrap().offset.0, 0, "another group stands elsewhere");
    let committed = broker.groups().fetch_offsets("g", &[("t".into(), 0)], true).await;
    assert_eq!(committed[0].as_ref().unwrap().as_ref().unwrap().offset, 3);
    let groups: Vec<String> = broker.groups().list().await.into_iter().map(|listed| listed.group).collect();
    assert_eq!(groups, ["g", "other"]);
}

#[tokio::test]
async fn two_consumers_read_everything_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t").partitions(4)).await;
    let topic = broker.topic("t").unwrap();
    for n in 0..40 {
        topic.append(Record::keyless(format!("{n}"))).await.unwrap();
    }
    let (sender, mut received) = tokio::sync::mpsc::channel(8);
    for _ in 0..2 {
        let (mut consumer, sender) = (broker.consumer("g", ["t"]).unwrap(), sender.clone());
        tokio::spawn(async move {
            while let Ok(consumed) = consumer.next().await {
                // Refused when the partition went to the other one: then it comes again there.
                if consumer.commit().await.is_ok() {
                    sender.send((consumed.partition.partition, consumed.offset.0)).await.unwrap();
                }
            }
        });
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 40 {
        seen.insert(soon(received.recv()).await.unwrap());
    }
    assert_eq!(seen.iter().map(|(partition, _)| *partition).collect::<BTreeSet<_>>().len(), 4);
}

pub(crate) fn simple_commit(topic: &str, offset: i64) -> Commit {
    Commit {
        group: "g".into(),
        member_id: String::new(),
        instance_id: None,
        generation: -1,
        by_epoch: true,
        retention_ms: None,
        offsets: vec![CommitOffset {
            topic: topic.into(),
            partition: 0,
            offset,
            leader_epoch: -1,
            metadata: "m".into(),
        }],
    }
}

#[tokio::test]
async fn offsets_go_with_their_topic_and_groups_can_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    broker.create_topic(NewTopic::new("u"), Apply::Now).await.unwrap();
    for topic in ["t", "u"] {
        broker.groups().commit(simple_commit(topic, 5)).await.unwrap();
    }
    broker.delete_topic("t").await.unwrap();
    let topics = async |broker: &Broker| {
        let all = broker.groups().fetch_all_offsets("g", true).await;
        all.into_iter()
            .map(|(topic, _, offset)| format!("{topic}@{}", offset.unwrap().offset))
            .collect::<Vec<_>>()
    };
    assert_eq!(topics(&broker).await, ["u@5"]);
    broker.close().await;

    let broker = open(dir.path()).await;
    assert_eq!(topics(&broker).await, ["u@5"]);
    let answers = broker.groups().delete(vec!["g".into(), "none".into()]).await;
    assert_eq!(answers, [Ok(()), Err(GroupError::GroupIdNotFound)]);
    broker.close().await;
    let broker = open(dir.path()).await;
    assert_eq!(topics(&broker).await, Vec::<String>::new());
    assert_eq!(broker.groups().describe("g").await.unwrap_err(), GroupError::GroupIdNotFound);
}

#[tokio::test]
async fn a_consumer_survives_the_deletion_of_one_of_its_topics() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    broker.create_topic(NewTopic::new("u"), Apply::Now).await.unwrap();
    broker.topic("t").unwrap().append(Record::keyless("x")).await.unwrap();
    let mut consumer = broker.consumer("g", ["t", "u"]).unwrap();
    assert_eq!(soon(consumer.next()).await.unwrap().partition.topic, "t");
    broker.delete_topic("t").await.unwrap();
    let appending = broker.clone();
    tokio::spawn(async move { appending.topic("u").unwrap().append(Record::keyless("y")).await });
    assert_eq!(soon(consumer.next()).await.unwrap().partition.topic, "u");
    soon(consumer.commit()).await.unwrap();
}

/// What a client on the network sends, of a newer version than members in the process speak.
fn client_join(member_id: &str) -> Join {
    Join {
        group: "g".into(),
        member_id: member_id.into(),
        instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Subscription::to(vec!["t".into()]).encode(3))],
        require_known_member_id: false,
        can_skip_assignment: true,
    }
}

#[tokio::test]
async fn a_member_in_the_process_follows_a_leader_on_the_network() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t").partitions(2)).await;
    let groups = broker.groups();
    let client = soon(groups.join(client_join(""), || broker.topics())).await.unwrap().member_id;
    let mut inside = join(&broker).await;
    let leading = async {
        let joined = loop {
            let joined = groups.join(client_join(&client), || broker.topics()).await.unwrap();
            if joined.members.len() == 2 {
                break joined;
            }
        };
        let assign = |member: &JoinedMember| {
            assert_eq!(Subscription::decode(&member.metadata).unwrap().topics, ["t"]);
            let number = i32::from(member.member_id != client);
            let partitions = vec![("t".to_owned(), vec![number])];
            (member.member_id.clone(), Assignment { partitions, user_data: None }.encode(3))
        };
        let sync = Sync {
            group: "g".into(),
            member_id: client.clone(),
            instance_id: None,
            generation: joined.generation,
            protocol_type: None,
            protocol: None,
            assignments: joined.members.iter().map(assign).collect(),
        };
        groups.sync(sync).await.unwrap()
    };
    let (synced, inside) = soon(async { tokio::join!(leading, assigned(&mut inside)) }).await;
    assert_eq!(Assignment::decode(&synced.assignment).unwrap().partitions, [("t".to_owned(), vec![0])]);
    assert_eq!(inside, [(TopicPartition::new("t", 1), None)]);
}

/// A process that died has members in the log whose sessions last for most of a minute.
#[tokio::test]
async fn a_member_in_the_process_dies_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t").partitions(4)).await;
    let mut member = join(&broker).await;
    assert_eq!(assigned(&mut member).await.len(), 4);
    member.commit(&[(TopicPartition::new("t", 3), Position(7))]).await.unwrap();
    let killed = copied(dir.path());
    let broker = open(killed.path()).await;
    let began = Instant::now();
    let all = assigned(&mut join(&broker).await).await;
    assert_eq!(all.len(), 4);
    assert!(all.contains(&(TopicPartition::new("t", 3), Some(Position(7)))));
    assert!(began.elapsed() < Duration::from_secs(20), "not when the session of the dead one ends");
}

#[tokio::test]
async fn a_silent_member_is_sent_away() {
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig::default().with("group.min.session.timeout.ms", "1").unwrap();
    let broker = Broker::builder().data(dir.path()).config(config).open().await.unwrap();
    let join = Join { session_timeout_ms: 20, ..client_join("") };
    let joined = soon(broker.groups().join(join, || broker.topics())).await.unwrap();
    soon(async {
        while !broker.groups().describe("g").await.unwrap().members.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let heartbeat = Heartbeat {
        group: "g",
        member_id: &joined.member_id,
        instance_id: None,
        generation: joined.generation,
    };
    assert_eq!(
        broker.groups().heartbeat(&heartbeat, || broker.topics()).await,
        Err(GroupError::UnknownMemberId)
    );
}

/// A crash between a topic's end and that of its offsets would hand them down to the next topic of the same name.
#[tokio::test]
async fn offsets_without_a_topic_are_deleted_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    for topic in ["t", "ghost"] {
        broker.groups().commit(simple_commit(topic, 5)).await.unwrap();
    }
    assert_eq!(broker.groups().fetch_all_offsets("g", true).await.len(), 2);
    broker.close().await;
    let broker = open(dir.path()).await;
    let left = broker.groups().fetch_all_offsets("g", true).await;
    assert_eq!(left.iter().map(|(topic, ..)| topic.as_str()).collect::<Vec<_>>(), ["t"]);
}

#[tokio::test]
async fn many_commits_share_few_appends() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    let before = broker.topic("__consumer_offsets").unwrap().partitions()[0].offsets().log_end;
    let commits = (0..500).map(|offset| broker.groups().commit(simple_commit("t", offset)));
    for answer in futures::future::join_all(commits).await {
        assert_eq!(answer.unwrap(), [Ok(())]);
    }
    let log = broker.topic("__consumer_offsets").unwrap().partitions()[0].clone();
    let bytes = log.fetch(before, 16 << 20, None).unwrap().batches;
    let batches = anabranch_core::batch::split_batches(bytes).count();
    assert!(batches < 50, "500 commits took {batches} batches");
    let committed = broker.groups().fetch_offsets("g", &[("t".into(), 0)], true).await;
    assert_eq!(committed[0].as_ref().unwrap().as_ref().unwrap().offset, 499, "the last one counts");
}

#[tokio::test]
async fn a_closed_broker_answers_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t")).await;
    let mut waiting = join(&broker).await;
    assigned(&mut waiting).await;
    // The second member waits for the first, which never comes back.
    let mut second = join(&broker).await;
    let joining = tokio::spawn(async move { second.next_event().await });
    while broker.groups().describe("g").await.unwrap().members.len() < 2 {
        tokio::task::yield_now().await;
    }
    broker.close().await;
    assert!(matches!(soon(joining).await.unwrap(), Err(EngineError::Closed)));
    let late = broker.groups().commit(simple_commit("t", 1)).await;
    assert_eq!(late.unwrap_err(), GroupError::CoordinatorNotAvailable);
}

fn consumer_beat(member_epoch: i32) -> ConsumerHeartbeat {
    let joins = member_epoch == 0;
    ConsumerHeartbeat {
        group: "new".into(),
        member_id: "m".into(),
        chooses_id: true,
        member_epoch,
        instance_id: None,
        rack_id: None,
        rebalance_timeout_ms: if joins { 60_000 } else { -1 },
        topics: joins.then(|| vec!["t".into()]),
        pattern: joins.then(|| "u.*".into()),
        assignor: None,
        owned: joins.then(Vec::new),
        client_id: "c".into(),
        client_host: "/h".into(),
    }
}

/// What a group in the consumer protocol was told is there after kill -9 and after a clean stop; so are its settings.
#[tokio::test]
async fn a_group_in_the_consumer_protocol_outlives_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker_with(dir.path(), NewTopic::new("t").partitions(2)).await;
    broker.create_topic(NewTopic::new("users"), Apply::Now).await.unwrap();
    let set = |name: &str, value: &str| [ConfigOp::Set(name.into(), value.into())];
    let session = set("consumer.session.timeout.ms", "50000");
    broker.alter_group_configs("new", &session, Apply::Now).await.unwrap();
    assert!(broker.alter_group_configs("", &session, Apply::Now).await.is_err());
    let beat = broker.groups().heartbeat_consumer(&consumer_beat(0), || broker.topics()).await.unwrap();
    assert_eq!((beat.member_epoch, beat.assignment.map(|all| all.len())), (2, Some(2)));
    let described = broker.groups().describe_consumer("new").await.unwrap();
    assert_eq!(described.members[0].about.pattern.as_deref(), Some("u.*"));
    let described = Ok(described);
    // Nobody closes it; its writer gives the directory up when it has noticed.
    drop(broker);
    let reopened = async {
        loop {
            match Broker::open(dir.path()).await {
                Err(BrokerError::Open(_)) => tokio::task::yield_now().await,
                opened => return opened.unwrap(),
            }
        }
    };
    let broker = soon(reopened).await;
    assert_eq!(broker.groups().describe_consumer("new").await, described);
    broker.close().await;
    let broker = open(dir.path()).await;
    assert_eq!(broker.groups().describe_consumer("new").await, described);
    let beat = broker.groups().heartbeat_consumer(&consumer_beat(2), || broker.topics()).await.unwrap();
    assert_eq!((beat.member_epoch, beat.assignment), (2, None));
    let session = |broker: &Broker| broker.describe_group_configs("new")[2].value.clone().unwrap();
    assert_eq!(session(&broker), "50000");
    broker.alter_group_configs("new", &[ConfigOp::ReplaceAll(vec![])], Apply::Now).await.unwrap();
    broker.close().await;
    assert_eq!(session(&open(dir.path()).await), "45000");
}
