//! A source with something in it, and what must come of it in the target.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_broker::Broker;
use anabranch_core::TopicPartition;
use anabranch_core::batch::{Record, RecordAt};
use anabranch_core::engine::{
    AppendOptions, Carried, Elsewhere, Engine, GroupPositions, LastWord, Noted, Payload, Place, Position,
    ReadLimits, TopicSpec, Transactions, Untranslatable,
};
use anabranch_move::{Move, Watching};

pub(crate) const TOPICS: [(&str, i32); 3] = [("orders", 2), ("bills", 1), ("empty", 1)];
/// Its newest record of the key `place` tells a position in the first partition of `orders`.
pub(crate) const PLACES: &str = "places";
/// What the header of a last word is called.
pub(crate) const SIGNATURE: &str = "anabranch.move";

/// A broker in a directory of its own.
pub(crate) struct Side {
    pub(crate) broker: Broker,
    pub(crate) home: tempfile::TempDir,
}

impl Side {
    pub(crate) async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        Self { broker: Broker::open(home.path().join("data")).await.unwrap(), home }
    }

    pub(crate) fn notes(&self) -> &Path {
        self.home.path()
    }
}

pub(crate) fn record(number: u64) -> Record {
    let record = Record::new(format!("key-{}", number % 7), format!("value {number}"))
        .at(1_790_000_000_000 + number as i64);
    match number % 5 {
        0 => Record { key: None, ..record },
        1 => Record { value: None, ..record },
        2 => record.header("twice", "1").header("twice", "2").header("", ""),
        _ => record,
    }
}

/// Records as they are, in transactions, in ones that were aborted, and with the oldest deleted; and groups.
pub(crate) async fn source() -> Side {
    let side = Side::new().await;
    let broker = &side.broker;
    for (topic, partitions) in TOPICS {
        let spec = TopicSpec::new(topic, partitions).config("retention.ms", "1234567890000");
        broker.ensure_topic(&spec).await.unwrap();
    }
    let orders: Vec<_> = (0..2).map(|partition| TopicPartition::new("orders", partition)).collect();
    let bills = TopicPartition::new("bills", 0);
    let mut number = 0;
    let mut some = |count: u64| {
        number += count;
        Payload::Records((number - count..number).map(record).collect())
    };
    let how = AppendOptions::default;
    for at in [&orders[0], &orders[1], &bills] {
        Engine::append(broker, at, some(9), how()).await.unwrap();
    }
    let mut producer = Transactions::producer(broker, "shop", Duration::from_secs(60)).await.unwrap();
    for _ in 0..3 {
        let appends = vec![(orders[0].clone(), some(3)), (bills.clone(), some(1))];
        producer.commit(appends, None).await.unwrap();
        Engine::append(broker, &bills, some(2), how()).await.unwrap();
        abort(broker, &orders[0]).await;
    }
    Engine::append(broker, &orders[0], some(4), how()).await.unwrap();
    broker.trim(&orders[0], Position(3)).await.unwrap();
    broker.trim(&bills, Position(1)).await.unwrap();
    let places = TopicSpec::new(PLACES, 1).config("cleanup.policy", "compact");
    broker.ensure_topic(&places).await.unwrap();
    for position in [3, 11] {
        note_place(broker, position).await;
    }
    let end = broker.locate(&orders[1], Place::Latest).await.unwrap();
    for (group, positions) in [
        ("shipping", vec![(orders[0].clone(), Position(11)), (orders[1].clone(), end)]),
        ("audit", vec![(orders[0].clone(), Position(14)), (bills.clone(), Position(5))]),
        ("begun", vec![(orders[0].clone(), Position(0)), (TopicPartition::new("empty", 0), Position(0))]),
    ] {
        let to = GroupPositions { group: group.to_owned(), positions };
        broker.admin().set_group_positions(&to).await.unwrap();
    }
    side
}

/// Somebody has come to this position of the first partition of `orders`, and has something else to keep.
pub(crate) async fn note_place(broker: &Broker, position: u64) {
    let records = vec![Record::new(format!("kept-{position}"), "as it is"), place(position)];
    let to = TopicPartition::new(PLACES, 0);
    Engine::append(broker, &to, Payload::Records(records), AppendOptions::default()).await.unwrap();
}

fn place(position: u64) -> Record {
    Record::new("place", position.to_string()).at(1_790_000_000_000)
}

/// Whose own `places` is.
#[derive(Debug)]
struct Places;

impl Carried for Places {
    fn topics(&self) -> Vec<String> {
        vec![PLACES.to_owned()]
    }

    fn needs(&self) -> Vec<String> {
        vec!["orders".to_owned()]
    }

    fn note(&self, _: &TopicPartition, record: &Record, noted: &mut Noted) {
        if record.key.as_deref() == Some(b"place") {
            noted.insert(b"place".to_vec(), record.value.clone().unwrap().to_vec());
        }
    }

    fn last_word(&self, at: &TopicPartition, there: &dyn Elsewhere) -> Result<LastWord, Untranslatable> {
        let noted = there.noted(at).and_then(|noted| noted.get(&b"place"[..])).unwrap();
        let position = Position(std::str::from_utf8(noted).unwrap().parse().unwrap());
        let position = there.translate(&TopicPartition::new("orders", 0), position).unwrap();
        Ok(LastWord { records: vec![place(position.0)], positions: 1, gone: 0 })
    }
}

/// A transaction whose records nobody ever sees.
async fn abort(broker: &Broker, at: &TopicPartition) {
    let mut producer = broker.transactional("never", Default::default()).await.unwrap();
    let mut transaction = producer.begin().await.unwrap();
    let batch = Payload::from(Record::new("never", "seen")).into_batch().unwrap();
    transaction.produce(at, batch).await.unwrap();
    transaction.abort().await.unwrap();
}

/// Everything that a partition shows, from its beginning.
pub(crate) async fn shown(engine: &dyn Engine, at: &TopicPartition) -> Vec<RecordAt> {
    let start = engine.locate(at, Place::Earliest).await.unwrap();
    let end = engine.locate(at, Place::Latest).await.unwrap();
    let mut reader = engine.reader(at, start).await.unwrap();
    let mut all = Vec::new();
    while reader.position() < end {
        let from = reader.position();
        all.extend(reader.read(ReadLimits::default()).await.unwrap().block.into_records(from).unwrap());
    }
    all
}

/// The target shows what the source shows, each record once, in order, and each group goes on at the same record.
pub(crate) async fn judge(source: &dyn Engine, target: &dyn Engine, told: &str) {
    judge_places(source, target, told).await;
    for (topic, partitions) in TOPICS {
        for partition in 0..partitions {
            let at = TopicPartition::new(topic, partition);
            let (here, there) = (shown(source, &at).await, shown(target, &at).await);
            let records = |all: &[RecordAt]| all.iter().map(|at| at.record.clone()).collect::<Vec<_>>();
            assert_eq!(records(&there), records(&here), "{at}, {told}");
            for group in ["shipping", "audit", "begun"] {
                let stands = async |engine: &dyn Engine| {
                    let positions = engine.admin().group_positions(group).await.unwrap();
                    positions.into_iter().find(|(named, _)| *named == at).map(|(_, position)| position)
                };
                let next = |all: &[RecordAt], from: Position| {
                    all.iter().position(|at| Position::from(at.offset) >= from).unwrap_or(all.len())
                };
                let here_next = stands(source).await.map(|from| next(&here, from));
                let there_next = stands(target).await.map(|from| next(&there, from));
                assert_eq!(there_next, here_next, "{group} in {at}, {told}");
            }
        }
        let configs = target.admin().topic_configs(topic).await.unwrap();
        let own: Vec<_> = configs.into_iter().filter(|config| config.is_own).collect();
        let own: Vec<_> = own.into_iter().map(|config| (config.name, config.value.unwrap())).collect();
        assert_eq!(own, [("retention.ms".to_owned(), "1234567890000".to_owned())], "{topic}, {told}");
    }
}

/// What tells a place is there as it was, each record once and in order, with last words between; the newest is the same record's.
async fn judge_places(source: &dyn Engine, target: &dyn Engine, told: &str) {
    let (at, orders) = (TopicPartition::new(PLACES, 0), TopicPartition::new("orders", 0));
    let (here, there) = (shown(source, &at).await, shown(target, &at).await);
    let is_word = |at: &&RecordAt| {
        at.record.headers.first().is_some_and(|header| header.key == SIGNATURE.as_bytes())
            && !here.iter().any(|source| source.record == at.record)
    };
    assert!(there.last().as_ref().is_some_and(is_word), "{told}");
    let copied: Vec<_> = there.iter().filter(|at| !is_word(at)).map(|at| &at.record).collect();
    assert_eq!(copied, here.iter().map(|at| &at.record).collect::<Vec<_>>(), "{told}");
    let next = async |engine: &dyn Engine, all: &[RecordAt]| {
        let newest = all.iter().rfind(|at| at.record.key.as_deref() == Some(b"place")).unwrap();
        let newest: i64 =
            std::str::from_utf8(newest.record.value.as_ref().unwrap()).unwrap().parse().unwrap();
        shown(engine, &orders).await.into_iter().find(|at| at.offset.0 >= newest).map(|at| at.record)
    };
    let (here, there) = (next(source, &here).await, next(target, &there).await);
    assert!(here.is_some());
    assert_eq!(there, here, "{told}");
    let configs = target.admin().topic_configs(PLACES).await.unwrap();
    let policy = configs.into_iter().find(|config| config.name == "cleanup.policy");
    assert_eq!(policy.unwrap().value.as_deref(), Some("compact"), "{told}");
}

/// A move of all of it, where the source stands still as soon as it is looked at.
pub(crate) fn a_move(source: Arc<dyn Engine>, target: Arc<dyn Engine>) -> Move {
    let gate = Watching::new(Arc::clone(&source), Duration::from_millis(1));
    carrying(Move::new(source, target, Box::new(gate)))
}

pub(crate) fn carrying(a_move: Move) -> Move {
    a_move.carrying([Arc::new(Places) as Arc<dyn Carried>])
}
