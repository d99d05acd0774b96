//! The emulation of queues on an engine whose calls fail, by chance from a seed: whatever an outcome is said to be, nothing that
//! was accepted comes again, everything is settled in the end, and what was rejected is a dead letter once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anabranch_conformance::Ground;
use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{
    Admin, AppendOptions, Appended, Description, Engine, EngineError, Ensured, Fetched, GroupMember,
    GroupPositions, Payload, Place, Position, QueueSpec, ReadLimits, Reader, SOURCE_POSITION, Settlement,
    TakeLimits, TopicSpec, TransactionalProducer, Transactions, for_each_record,
};
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::embedded::{Embedded, runtime};

const RECORDS: u32 = 200;

/// The engine, of which one call in so many fails.
#[derive(Debug, Clone)]
struct Faulty {
    engine: Arc<dyn Engine>,
    dice: Arc<Mutex<u64>>,
    failed: Arc<AtomicU32>,
}

#[derive(Debug)]
struct FaultyProducer(Faulty, Box<dyn TransactionalProducer>);

#[derive(Debug)]
struct FaultyReader(Faulty, Box<dyn Reader>);

impl Faulty {
    /// xorshift64, Marsaglia 2003.
    fn below(&self, end: u64) -> u64 {
        let mut dice = self.dice.lock();
        *dice ^= *dice << 13;
        *dice ^= *dice >> 7;
        *dice ^= *dice << 17;
        *dice % end
    }

    fn fails(&self, one_in: u64) -> bool {
        let fails = self.below(one_in) == 0;
        self.failed.fetch_add(u32::from(fails), Ordering::SeqCst);
        fails
    }

    fn away(&self) -> EngineError {
        EngineError::Away { engine: "embedded", reason: "as planned".to_owned() }
    }
}

#[async_trait]
impl Engine for Faulty {
    fn description(&self) -> &Description {
        self.engine.description()
    }

    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<Ensured, EngineError> {
        self.engine.ensure_topic(spec).await
    }

    async fn partition_count(&self, topic: &str) -> Result<i32, EngineError> {
        self.engine.partition_count(topic).await
    }

    async fn append(
        &self,
        to: &TopicPartition,
        what: Payload,
        how: AppendOptions,
    ) -> Result<Appended, EngineError> {
        self.engine.append(to, what, how).await
    }

    async fn locate(&self, at: &TopicPartition, place: Place) -> Result<Position, EngineError> {
        if self.fails(20) { Err(self.away()) } else { self.engine.locate(at, place).await }
    }

    async fn reader(&self, at: &TopicPartition, from: Position) -> Result<Box<dyn Reader>, EngineError> {
        Ok(Box::new(FaultyReader(self.clone(), self.engine.reader(at, from).await?)))
    }

    async fn trim(&self, at: &TopicPartition, before: Position) -> Result<Position, EngineError> {
        self.engine.trim(at, before).await
    }

    async fn join(&self, group: &str, topics: &[String]) -> Result<Box<dyn GroupMember>, EngineError> {
        self.engine.join(group, topics).await
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        Some(self)
    }

    fn admin(&self) -> &dyn Admin {
        self.engine.admin()
    }

    async fn close(&self) {
        self.engine.close().await;
    }
}

#[async_trait]
impl Transactions for Faulty {
    async fn producer(
        &self,
        id: &str,
        timeout: Duration,
    ) -> Result<Box<dyn TransactionalProducer>, EngineError> {
        let transactions = self.engine.transactions().unwrap();
        Ok(Box::new(FaultyProducer(self.clone(), transactions.producer(id, timeout).await?)))
    }
}

#[async_trait]
impl TransactionalProducer for FaultyProducer {
    async fn commit(
        &mut self,
        appends: Vec<(TopicPartition, Payload)>,
        positions: Option<GroupPositions>,
    ) -> Result<Vec<Appended>, EngineError> {
        let Self(faulty, producer) = self;
        if !faulty.fails(6) {
            return producer.commit(appends, positions).await;
        }
        match faulty.below(4) {
            0 => Err(faulty.away()),
            1 => Err(EngineError::Aborted { id: "x".to_owned(), reason: "as planned".to_owned() }),
            2 => Err(EngineError::Failed("not done".into())),
            _ => {
                producer.commit(appends, positions).await?;
                Err(EngineError::Failed("done".into()))
            }
        }
    }
}

#[async_trait]
impl Reader for FaultyReader {
    fn position(&self) -> Position {
        self.1.position()
    }

    async fn read(&mut self, limits: ReadLimits) -> Result<Fetched, EngineError> {
        if self.0.fails(20) { Err(self.0.away()) } else { self.1.read(limits).await }
    }

    fn seek(&mut self, to: Position) {
        self.1.seek(to);
    }
}

/// What is known of the records, by their positions.
#[derive(Debug, Default)]
struct Told {
    deliveries: BTreeMap<u64, u32>,
    accepted: BTreeSet<u64>,
    rejected: BTreeSet<u64>,
    /// Nobody knows what became of their settlement.
    unknown: BTreeSet<u64>,
}

async fn consume(faulty: &Faulty, spec: &QueueSpec, told: &Mutex<Told>, until: Instant) {
    let limits =
        TakeLimits { deliveries_max: 4, wait_max: Duration::from_millis(100), ..TakeLimits::default() };
    let mut consumer = anabranch_queue::consumer(Arc::new(faulty.clone()), spec.clone()).await.unwrap();
    loop {
        {
            let told = told.lock();
            let settled = told.accepted.union(&told.rejected).count();
            if settled + told.unknown.difference(&told.accepted).count() >= RECORDS as usize {
                break;
            }
        }
        assert!(Instant::now() < until, "it comes to no end: {:?}", told.lock());
        let taken = match consumer.next(limits).await {
            Ok(taken) => taken,
            Err(EngineError::Away { .. } | EngineError::Failed(_)) => continue,
            Err(error) => panic!("{error}"),
        };
        let mut what = Vec::new();
        for taken in &taken {
            let at = Position::from(taken.record.offset).0;
            let mut told = told.lock();
            assert!(!told.accepted.contains(&at), "{at} was accepted, and comes again");
            assert!(!told.rejected.contains(&at), "{at} was rejected, and comes again");
            let deliveries = told.deliveries.entry(at).or_default();
            *deliveries += 1;
            assert!(taken.count >= *deliveries, "{at} comes with count {} after {deliveries}", taken.count);
            let settlement = match faulty.below(8) {
                0 => Settlement::Release { delay: Duration::from_millis(faulty.below(50)) },
                1 => Settlement::Reject { reason: "no".to_owned() },
                _ => Settlement::Accept,
            };
            what.push((taken.ticket, settlement));
        }
        let done = consumer.settle(what.clone()).await;
        for (place, (taken, (_, settlement))) in taken.iter().zip(what).enumerate() {
            let (at, mut told) = (Position::from(taken.record.offset).0, told.lock());
            let told = &mut *told;
            let list = match settlement {
                Settlement::Accept => &mut told.accepted,
                Settlement::Reject { .. } => &mut told.rejected,
                Settlement::Release { .. } => continue,
            };
            match &done {
                Ok(done) if done[place].is_err() => {}
                Ok(_) => {
                    list.insert(at);
                }
                Err(EngineError::Away { .. } | EngineError::Failed(_)) => {
                    told.unknown.insert(at);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    consumer.leave().await.unwrap();
}

async fn run(seed: u64) {
    let ground = Embedded::new();
    let engine = ground.open("main").await.unwrap();
    let at = TopicPartition::new("work", 0);
    engine.ensure_topic(&TopicSpec::new("work", 1)).await.unwrap();
    let records: Vec<_> = (0..RECORDS).map(|number| Record::keyless(number.to_string())).collect();
    engine.append(&at, records.into(), AppendOptions::default()).await.unwrap();
    let dice = Arc::new(Mutex::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
    let faulty = Faulty { engine: Arc::clone(&engine), dice, failed: Arc::default() };
    let spec = QueueSpec {
        settle_within: Duration::from_secs(2),
        deliveries_max: u32::MAX,
        ..QueueSpec::new("workers", ["work"])
    };
    let (told, until) = (Mutex::default(), Instant::now() + Duration::from_secs(120));
    let both = [consume(&faulty, &spec, &told, until), consume(&faulty, &spec, &told, until)];
    futures::future::join_all(both).await;
    let told = told.into_inner();
    let mut buried = BTreeMap::<u64, u32>::new();
    for_each_record::<EngineError>(&*engine, "work-dead", |dead| {
        let header = dead.record.headers.iter().find(|header| header.key == SOURCE_POSITION).unwrap();
        let position = std::str::from_utf8(header.value.as_deref().unwrap()).unwrap().parse().unwrap();
        *buried.entry(position).or_default() += 1;
        Ok(())
    })
    .await
    .unwrap();
    assert!(buried.values().all(|times| *times == 1), "buried more than once: {buried:?}");
    for at in buried.keys() {
        let is_known = told.rejected.contains(at) || told.unknown.contains(at);
        assert!(is_known && !told.accepted.contains(at), "{at} is buried");
    }
    let missing = told.rejected.iter().find(|at| !buried.contains_key(at));
    assert_eq!(missing, None, "rejected, and no dead letter");
    println!(
        "seed {seed}: {} calls failed, {} outcomes unknown",
        faulty.failed.load(Ordering::SeqCst),
        told.unknown.len()
    );
    ground.release().await;
}

#[test]
fn nothing_that_was_settled_comes_again_whatever_fails() {
    let seeds = std::env::var("ANABRANCH_QUEUE_FAULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let runtime = runtime();
    runtime.block_on(futures::future::join_all((0..seeds).map(run)));
}
