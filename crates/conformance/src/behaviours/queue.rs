//! Consumers of a queue share records one by one, and say what becomes of each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{
    Capability, DEAD_COUNT, DEAD_GROUP, DEAD_INCOMPLETE, DEAD_REASON, DELIVER_AT_MS, Delivery, EXPIRES_AT_MS,
    Engine, EngineError, Missing, Position, QueueConsumer, QueueSpec, Queues, SOURCE_PARTITION,
    SOURCE_POSITION, SOURCE_TOPIC, Settlement, Support, TakeLimits, TooLate, Unsuitable,
};
use futures::future::try_join_all;

use crate::stage::{Outcome, Stage, Stop, ensure, ensure_eq, ensure_fails, now_ms, polled, record, text};

type Consumer = Box<dyn QueueConsumer>;

/// For what is to come again by itself.
const SOON: Duration = Duration::from_secs(2);
/// How long to look for what must not come.
const A_WHILE: Duration = Duration::from_secs(1);
const RELEASE: Settlement = Settlement::Release { delay: Duration::ZERO };

/// What the seam says where there are no queues.
pub(crate) fn queues(engine: &dyn Engine) -> Outcome<&dyn Queues> {
    let refused = || {
        let why = match engine.description().support(Capability::Queue) {
            Support::Absent { why } => why.clone(),
            _ => "they are declared, and Engine::queues gives none".into(),
        };
        let missing = vec![Missing { capability: Capability::Queue, why }];
        Unsuitable { engine: engine.description().engine, missing }
    };
    engine.queues().ok_or_else(|| refused().into())
}

impl Stage {
    /// A new topic with these values in its one partition, and a group.
    async fn filled(&self, texts: impl IntoIterator<Item = String>) -> Outcome<(TopicPartition, QueueSpec)> {
        queues(&**self.engine())?;
        let at = self.partition().await?;
        let records: Vec<_> = texts.into_iter().map(|text| record(&text)).collect();
        if !records.is_empty() {
            self.append(&at, records).await?;
        }
        let spec = QueueSpec::new(self.name(), [at.topic.clone()]);
        Ok((at, spec))
    }

    async fn consumer(&self, spec: &QueueSpec) -> Outcome<Consumer> {
        self.consumer_of(&**self.engine(), spec).await
    }

    async fn consumer_of(&self, engine: &dyn Engine, spec: &QueueSpec) -> Outcome<Consumer> {
        Ok(self.soon("opening a consumer", queues(engine)?.consumer(spec.clone())).await??)
    }

    async fn next(&self, consumer: &mut Consumer, limits: TakeLimits) -> Outcome<Vec<Delivery>> {
        Ok(self.soon("a consumer's next", consumer.next(limits)).await??)
    }

    /// So many deliveries.
    async fn take(&self, consumer: &mut Consumer, count: usize) -> Outcome<Vec<Delivery>> {
        let (started, mut taken) = (Instant::now(), Vec::new());
        while taken.len() < count {
            let limits = TakeLimits { deliveries_max: count - taken.len(), ..TakeLimits::default() };
            taken.extend(self.next(consumer, limits).await?);
            ensure!(
                started.elapsed() < self.ground().patience(),
                "of {count} deliveries there come {}",
                taken.len()
            );
        }
        ensure_eq!(taken.len(), count, "how many deliveries come");
        Ok(taken)
    }

    async fn one(&self, consumer: &mut Consumer) -> Outcome<Delivery> {
        Ok(self.take(consumer, 1).await?.remove(0))
    }

    /// For a while nothing comes.
    async fn idles(&self, consumer: &mut Consumer, why: &str) -> Outcome {
        let limits = TakeLimits { wait_max: A_WHILE, ..TakeLimits::default() };
        let come = values(&self.next(consumer, limits).await?);
        ensure!(come.is_empty(), "{come:?} come, where {why}");
        Ok(())
    }

    /// Settles, in time.
    async fn settles(
        &self,
        consumer: &mut Consumer,
        taken: impl IntoIterator<Item = &Delivery>,
        settlement: Settlement,
    ) -> Outcome {
        let what: Vec<_> = taken.into_iter().map(|taken| (taken.ticket, settlement.clone())).collect();
        let count = what.len();
        let done = self.soon("settling", consumer.settle(what)).await??;
        ensure_eq!(done, vec![Ok(()); count], "what is said of {settlement:?}");
        Ok(())
    }

    async fn leaves(&self, consumer: Consumer) -> Outcome {
        Ok(self.soon("leaving", consumer.leave()).await??)
    }

    /// The records in the topic of dead letters, when there are so many.
    async fn dead(&self, spec: &QueueSpec, count: usize) -> Outcome<Vec<Record>> {
        let at = TopicPartition::new(spec.dead_letters_of(&spec.topics[0]), 0);
        let read = self
            .until("dead letters are there", async || {
                let read = self.read(&at).await?;
                Ok((read.len() >= count).then_some(read))
            })
            .await?;
        ensure_eq!(read.len(), count, "how many dead letters there are");
        Ok(read.into_iter().map(|at| at.record).collect())
    }
}

fn values(taken: &[Delivery]) -> Vec<String> {
    taken.iter().map(|taken| text(&taken.record.record)).collect()
}

fn numbers(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}

fn header(record: &Record, name: &str) -> Option<String> {
    let found = record.headers.iter().rev().find(|header| header.key == name.as_bytes())?;
    Some(String::from_utf8_lossy(found.value.as_deref().unwrap_or_default()).into_owned())
}

pub(crate) async fn each_record_goes_to_one_consumer(stage: &Stage) -> Outcome {
    queues(&**stage.engine())?;
    let topic = stage.topic(3).await?;
    for partition in 0..3_u32 {
        let of_it: Vec<_> =
            numbers(partition * 200..(partition + 1) * 200).map(|text| record(&text)).collect();
        stage.append(&TopicPartition::new(&topic, partition as i32), of_it).await?;
    }
    let spec = QueueSpec::new(stage.name(), [topic]);
    let accepted = parking_lot::Mutex::new(BTreeMap::<String, u32>::new());
    let consumers = (0..3).map(async |_| {
        let mut consumer = stage.consumer(&spec).await?;
        let limits = TakeLimits { deliveries_max: 20, ..TakeLimits::default() };
        while accepted.lock().len() < 600 {
            let taken = stage.next(&mut consumer, limits).await?;
            let what = taken.iter().map(|taken| (taken.ticket, Settlement::Accept)).collect();
            let done = stage.soon("settling", consumer.settle(what)).await??;
            for (taken, _) in taken.iter().zip(done).filter(|(_, done)| done.is_ok()) {
                *accepted.lock().entry(text(&taken.record.record)).or_default() += 1;
            }
        }
        // What comes twice comes now.
        let taken = stage.next(&mut consumer, TakeLimits { wait_max: A_WHILE, ..limits }).await?;
        ensure_eq!(values(&taken), Vec::<String>::new(), "what comes when all is accepted");
        stage.leaves(consumer).await
    });
    stage.soon("six hundred records", try_join_all(consumers)).await??;
    let accepted = accepted.into_inner();
    let twice = accepted.iter().find(|(_, times)| **times > 1);
    ensure!(twice.is_none(), "{twice:?}: accepted more than once");
    ensure_eq!(accepted.len(), 600, "records that were accepted");
    let mut behind = stage.consumer(&spec).await?;
    stage.idles(&mut behind, "all was accepted").await?;
    stage.leaves(behind).await
}

pub(crate) async fn new_records_come_in_order(stage: &Stage) -> Outcome {
    let (at, spec) = stage.filled(numbers(0..300)).await?;
    let mut consumer = stage.consumer(&spec).await?;
    let mut taken = stage.take(&mut consumer, 300).await?;
    stage.append_each(&at, numbers(300..310)).await?;
    taken.extend(stage.take(&mut consumer, 10).await?);
    ensure_eq!(values(&taken), numbers(0..310).collect::<Vec<_>>(), "what comes");
    ensure!(taken.iter().all(|taken| taken.count == 1), "what comes for the first time counts more");
    ensure!(taken.iter().all(|taken| taken.at == at), "what comes is from elsewhere than {at}");
    let tickets: BTreeSet<_> = taken.iter().map(|taken| taken.ticket).collect();
    ensure_eq!(tickets.len(), 310, "different tickets");
    let read = stage.read(&at).await?;
    ensure!(read.iter().eq(taken.iter().map(|taken| &taken.record)), "what comes is not what is in the log");
    stage.leaves(consumer).await
}

pub(crate) async fn what_is_accepted_stays_away(stage: &Stage) -> Outcome {
    let (_, spec) = stage.filled(numbers(0..20)).await?;
    let spec = QueueSpec { settle_within: Duration::from_secs(3600), ..spec };
    let mut consumer = stage.consumer(&spec).await?;
    let taken = stage.take(&mut consumer, 10).await?;
    // Not in order, and not all.
    stage.settles(&mut consumer, taken.iter().rev().step_by(2), Settlement::Accept).await?;
    stage.leaves(consumer).await?;
    let engine = stage.reopened().await?;
    let mut consumer = stage.consumer_of(&*engine, &spec).await?;
    let mut again = values(&stage.take(&mut consumer, 15).await?);
    again.sort_by_key(|value| value.parse::<u32>().unwrap_or_default());
    let left = (0..10).step_by(2).chain(10..20).map(|number| number.to_string());
    ensure_eq!(again, left.collect::<Vec<_>>(), "what comes again");
    stage.idles(&mut consumer, "what was accepted stays away").await
}

pub(crate) async fn what_is_accepted_survives_the_consumers_death(stage: &Stage) -> Outcome {
    let (at, spec) = stage.filled(numbers(0..1000)).await?;
    let spec = QueueSpec { settle_within: SOON, ..spec };
    let working = stage.child(&format!("accept {} {}", at.topic, spec.group)).await?;
    let last = stage.kill_after(working, 10).await? as usize;
    let engine = stage.client("after").await?;
    let mut consumer = stage.consumer_of(&*engine, &spec).await?;
    // What was being accepted may have been, or not.
    let mut left: BTreeSet<usize> = BTreeSet::new();
    stage
        .until("what is left comes", async || {
            let taken = stage.next(&mut consumer, TakeLimits::default()).await?;
            stage.settles(&mut consumer, &taken, Settlement::Accept).await?;
            left.extend(values(&taken).iter().filter_map(|value| value.parse::<usize>().ok()));
            Ok((left.len() >= 1000 - last - 2 && left.contains(&999)).then_some(()))
        })
        .await?;
    ensure!(left.first() > Some(&last), "{last} was accepted, and {:?} comes again", left.first());
    ensure!(left.len() >= 1000 - last - 2, "of 1000 records {last} were accepted, and {} came", left.len());
    Ok(())
}

pub(crate) async fn what_is_released_comes_again(stage: &Stage) -> Outcome {
    let (_, spec) = stage.filled(numbers(0..3)).await?;
    let mut consumer = stage.consumer(&spec).await?;
    let taken = stage.take(&mut consumer, 3).await?;
    stage.settles(&mut consumer, [&taken[1]], RELEASE).await?;
    let again = stage.one(&mut consumer).await?;
    ensure_eq!(
        (text(&again.record.record), again.count),
        ("1".to_owned(), 2),
        "what comes again, and its count"
    );
    ensure!(again.ticket != taken[1].ticket, "a second delivery has the first one's ticket");
    stage.settles(&mut consumer, [&taken[0], &again, &taken[2]], Settlement::Accept).await?;
    stage.idles(&mut consumer, "all was accepted").await?;
    stage.leaves(consumer).await
}

pub(crate) async fn what_is_released_for_later_comes_later(stage: &Stage) -> Outcome {
    let (at, spec) = stage.filled(numbers(0..2)).await?;
    let mut consumer = stage.consumer(&spec).await?;
    let taken = stage.take(&mut consumer, 2).await?;
    let delay = Duration::from_millis(1500);
    let released = Instant::now();
    stage.settles(&mut consumer, [&taken[0]], Settlement::Release { delay }).await?;
    stage.settles(&mut consumer, [&taken[1]], Settlement::Accept).await?;
    stage.append(&at, record("between")).await?;
    let between = stage.one(&mut consumer).await?;
    ensure_eq!(text(&between.record.record), "between", "what comes while another waits");
    stage.settles(&mut consumer, [&between], Settlement::Accept).await?;
    let again = stage.one(&mut consumer).await?;
    let waited = released.elapsed();
    ensure!(waited >= delay, "what was released for {delay:?} comes again after {waited:?}");
    ensure_eq!(
        (text(&again.record.record), again.count),
        ("0".to_owned(), 2),
        "what comes again, and its count"
    );
    stage.settles(&mut consumer, [&again], Settlement::Accept).await?;
    stage.leaves(consumer).await
}

pub(crate) async fn the_dead_give_back(stage: &Stage) -> Outcome {
    let (at, spec) = stage.filled(numbers(0..20)).await?;
    let spec = QueueSpec { settle_within: SOON, ..spec };
    let working = stage.child(&format!("take {} {}", at.topic, spec.group)).await?;
    let last = stage.kill_after(working, 9).await? as u32;
    let engine = stage.client("after").await?;
    let mut consumer = stage.consumer_of(&*engine, &spec).await?;
    let mut counts = BTreeMap::new();
    stage
        .until("the dead one's records come again", async || {
            let taken = stage.next(&mut consumer, TakeLimits::default()).await?;
            stage.settles(&mut consumer, &taken, Settlement::Accept).await?;
            for taken in taken {
                counts.insert(text(&taken.record.record).parse::<u32>().unwrap_or_default(), taken.count);
            }
            Ok((counts.len() == 20).then_some(()))
        })
        .await?;
    let once = counts.iter().find(|(number, count)| **number <= last && **count < 2);
    ensure!(once.is_none(), "{once:?} (record, count) was the dead one's, and its count is not higher");
    Ok(())
}

pub(crate) async fn what_is_not_settled_comes_again(stage: &Stage) -> Outcome {
    let (_, spec) = stage.filled(numbers(0..1)).await?;
    let mut consumer = stage.consumer(&QueueSpec { settle_within: SOON, ..spec.clone() }).await?;
    let taken = stage.one(&mut consumer).await?;
    let again = stage.one(&mut consumer).await?;
    ensure_eq!(again.count, 2, "the count of what comes again");
    let late = vec![(taken.ticket, Settlement::Reject { reason: "late".to_owned() })];
    ensure_eq!(
        stage.soon("a late settlement", consumer.settle(late)).await??,
        [Err(TooLate)],
        "what is said of a late settlement"
    );
    let late = stage.soon("a late extension", consumer.extend(&[taken.ticket])).await??;
    ensure_eq!(late, [Err(TooLate)], "what is said of a late extension");
    stage.settles(&mut consumer, [&again], Settlement::Accept).await?;
    let twice = vec![(again.ticket, Settlement::Accept)];
    let twice = stage.soon("a second settlement", consumer.settle(twice)).await??;
    ensure_eq!(twice, [Err(TooLate)], "what is said of a second settlement");
    stage.idles(&mut consumer, "all was accepted").await?;
    stage.dead(&spec, 0).await?;
    stage.leaves(consumer).await
}

pub(crate) async fn what_is_extended_stays(stage: &Stage) -> Outcome {
    let (_, spec) = stage.filled(numbers(0..2)).await?;
    let mut consumer = stage.consumer(&QueueSpec { settle_within: SOON, ..spec }).await?;
    let taken = stage.take(&mut consumer, 2).await?;
    let (kept, started) = (&taken[0], Instant::now());
    let mut again = Vec::new();
    while started.elapsed() < SOON * 2 || again.is_empty() {
        let done = stage.soon("extending", consumer.extend(&[kept.ticket])).await??;
        ensure_eq!(done, [Ok(())], "what is said of an extension");
        let limits = TakeLimits { wait_max: SOON / 10, ..TakeLimits::default() };
        again.extend(stage.next(&mut consumer, limits).await?);
        ensure!(started.elapsed() < stage.ground().patience(), "what was not extended does not come again");
    }
    let others: BTreeSet<_> = values(&again).into_iter().collect();
    ensure_eq!(others, BTreeSet::from(["1".to_owned()]), "what comes again while another is extended");
    stage.settles(&mut consumer, [kept], Settlement::Accept).await?;
    stage.leaves(consumer).await
}

pub(crate) async fn who_leaves_gives_back_at_once(stage: &Stage) -> Outcome {
    queues(&**stage.engine())?;
    let topic = stage.topic(2).await?;
    for (partition, range) in [(0, 0..5), (1, 5..10)] {
        let of_it: Vec<_> = numbers(range).map(|text| record(&text)).collect();
        stage.append(&TopicPartition::new(&topic, partition), of_it).await?;
    }
    // Nothing comes again by itself.
    let spec =
        QueueSpec { settle_within: Duration::from_secs(3600), ..QueueSpec::new(stage.name(), [topic]) };
    let mut first = stage.consumer(&spec).await?;
    let taken = stage.take(&mut first, 6).await?;
    stage.settles(&mut first, [&taken[0]], Settlement::Accept).await?;
    stage.leaves(first).await?;
    let mut second = stage.consumer(&spec).await?;
    let again = stage.take(&mut second, 9).await?;
    let had: BTreeSet<_> = values(&taken[1..]).into_iter().collect();
    let once = again.iter().find(|again| again.count < 2 && had.contains(&text(&again.record.record)));
    ensure!(once.is_none(), "{once:?} was another's, and its count is not higher");
    let mut all: Vec<_> = values(&again).into_iter().chain(values(&taken[..1])).collect();
    all.sort_unstable();
    ensure_eq!(all, numbers(0..10).collect::<Vec<_>>(), "what comes again, and what was accepted");
    stage.leaves(second).await
}

pub(crate) async fn who_is_dropped_gives_back(stage: &Stage) -> Outcome {
    queues(&**stage.engine())?;
    let topic = stage.topic(2).await?;
    for (partition, range) in [(0, 0..3), (1, 3..6)] {
        let of_it: Vec<_> = numbers(range).map(|text| record(&text)).collect();
        stage.append(&TopicPartition::new(&topic, partition), of_it).await?;
    }
    let spec = QueueSpec { settle_within: SOON, ..QueueSpec::new(stage.name(), [topic]) };
    let mut first = stage.consumer(&spec).await?;
    stage.take(&mut first, 6).await?;
    drop(first);
    let mut second = stage.consumer(&spec).await?;
    let mut again = BTreeSet::new();
    stage
        .until("what a consumer had that was dropped comes again", async || {
            let taken = stage.next(&mut second, TakeLimits::default()).await?;
            stage.settles(&mut second, &taken, Settlement::Accept).await?;
            again.extend(values(&taken));
            Ok((again.len() == 6).then_some(()))
        })
        .await?;
    stage.leaves(second).await
}

pub(crate) async fn what_is_rejected_is_a_dead_letter(stage: &Stage) -> Outcome {
    let (at, spec) = stage.filled([]).await?;
    let own = record("x").header("own", "1").header("own", "2");
    let records = vec![record("before"), own.clone(), record("behind")];
    stage.append(&at, records).await?;
    let mut consumer = stage.consumer(&spec).await?;
    let taken = stage.take(&mut consumer, 3).await?;
    stage.settles(&mut consumer, [&taken[1]], RELEASE).await?;
    let again = stage.one(&mut consumer).await?;
    stage.settles(&mut consumer, [&again], Settlement::Reject { reason: "no such order".to_owned() }).await?;
    stage.settles(&mut consumer, [&taken[0], &taken[2]], Settlement::Accept).await?;
    stage.idles(&mut consumer, "what was rejected stays away").await?;
    let letter = stage.dead(&spec, 1).await?.remove(0);
    ensure_eq!((&letter.key, &letter.value), (&own.key, &own.value), "key and value of the dead letter");
    ensure_eq!(letter.timestamp_ms, own.timestamp_ms, "its timestamp");
    ensure_eq!(letter.headers[..own.headers.len()], own.headers, "its own headers");
    let position = Position::from(taken[1].record.offset).to_string();
    for (name, value) in [
        (DEAD_REASON, "no such order"),
        (DEAD_GROUP, spec.group.as_str()),
        (DEAD_COUNT, "2"),
        (SOURCE_TOPIC, at.topic.as_str()),
        (SOURCE_PARTITION, "0"),
        (SOURCE_POSITION, position.as_str()),
    ] {
        ensure_eq!(header(&letter, name), Some(value.to_owned()), "the dead letter's {name}");
    }
    stage.leaves(consumer).await
}

pub(crate) async fn a_dead_letter_that_does_not_fit_is_there_in_part(stage: &Stage) -> Outcome {
    let (at, spec) = stage.filled(["x".repeat(5000), "behind".to_owned()]).await?;
    let dead = stage.topic_with(1, &[("max.message.bytes", "2000")]).await?;
    let mut consumer =
        stage.consumer(&QueueSpec { dead_letters: Some(dead.clone()), ..spec.clone() }).await?;
    let taken = stage.take(&mut consumer, 2).await?;
    let reason = "too large".to_owned();
    stage.settles(&mut consumer, [&taken[0]], Settlement::Reject { reason: reason.clone() }).await?;
    stage.settles(&mut consumer, [&taken[1]], Settlement::Accept).await?;
    stage.idles(&mut consumer, "all was settled").await?;
    let letter = stage.dead(&QueueSpec { dead_letters: Some(dead), ..spec }, 1).await?.remove(0);
    ensure_eq!(letter.value, None, "the value of a dead letter that does not fit");
    ensure_eq!(header(&letter, DEAD_REASON), Some(reason), "its reason");
    ensure_eq!(header(&letter, SOURCE_TOPIC), Some(at.topic), "where it is from");
    ensure_eq!(header(&letter, DEAD_INCOMPLETE), Some("1".to_owned()), "that something is missing");
    stage.leaves(consumer).await
}

pub(crate) async fn what_is_delivered_too_often_is_a_dead_letter(stage: &Stage) -> Outcome {
    let (_, spec) = stage.filled(numbers(0..2)).await?;
    let spec = QueueSpec { deliveries_max: 3, ..spec };
    let mut consumer = stage.consumer(&spec).await?;
    let taken = stage.take(&mut consumer, 2).await?;
    let mut bad = taken[0].clone();
    for count in 2..=3 {
        stage.settles(&mut consumer, [&bad], RELEASE).await?;
        bad = stage.one(&mut consumer).await?;
        ensure_eq!(
            (text(&bad.record.record), bad.count),
            ("0".to_owned(), count),
            "what comes again, and its count"
        );
    }
    stage.settles(&mut consumer, [&bad], RELEASE).await?;
    stage.idles(&mut consumer, "it was delivered as often as it may be").await?;
    let letter = stage.dead(&spec, 1).await?.remove(0);
    ensure_eq!(text(&letter), "0", "the dead letter");
    ensure_eq!(header(&letter, DEAD_COUNT), Some("3".to_owned()), "the dead letter's count");
    stage.settles(&mut consumer, [&taken[1]], Settlement::Accept).await?;
    stage.leaves(consumer).await
}

pub(crate) async fn one_slow_record_holds_no_other(stage: &Stage) -> Outcome {
    let (_, spec) = stage.filled(numbers(0..100)).await?;
    let mut consumer = stage.consumer(&QueueSpec { unsettled_max: 10, ..spec }).await?;
    let slow = stage.one(&mut consumer).await?;
    let mut done = Vec::new();
    while done.len() < 99 {
        let taken = stage.take(&mut consumer, (99 - done.len()).min(9)).await?;
        stage.settles(&mut consumer, &taken, Settlement::Accept).await?;
        done.extend(values(&taken));
    }
    ensure_eq!(done, numbers(1..100).collect::<Vec<_>>(), "what comes while one is slow");
    stage.settles(&mut consumer, [&slow], Settlement::Accept).await?;
    stage.leaves(consumer).await
}

pub(crate) async fn no_more_are_unsettled_than_asked_for(stage: &Stage) -> Outcome {
    let (_, spec) = stage.filled(numbers(0..30)).await?;
    let mut consumer = stage.consumer(&QueueSpec { unsettled_max: 10, ..spec }).await?;
    let taken = stage.take(&mut consumer, 10).await?;
    stage.idles(&mut consumer, "as many are unsettled as may be").await?;
    stage.settles(&mut consumer, &taken[2..5], Settlement::Accept).await?;
    let more = stage.take(&mut consumer, 3).await?;
    ensure_eq!(values(&more), numbers(10..13).collect::<Vec<_>>(), "what comes when there is room");
    stage.idles(&mut consumer, "as many are unsettled as may be").await?;
    stage.leaves(consumer).await
}

pub(crate) async fn what_is_for_later_is_delivered_later(stage: &Stage) -> Outcome {
    let (at, spec) = stage.filled([]).await?;
    let mut consumer = stage.consumer(&spec).await?;
    let due_ms = now_ms() + 1500;
    let later = record("later").header(DELIVER_AT_MS, due_ms.to_string());
    let past = record("past").header(DELIVER_AT_MS, (now_ms() - 1).to_string());
    stage.append(&at, vec![later, record("now"), past]).await?;
    let taken = stage.take(&mut consumer, 2).await?;
    ensure_eq!(values(&taken), ["now", "past"], "what comes before the time of another");
    let taken_later = stage.one(&mut consumer).await?;
    let now_ms = now_ms();
    ensure_eq!(text(&taken_later.record.record), "later", "what comes when it is time");
    ensure!(now_ms >= due_ms, "what is for {due_ms} comes at {now_ms}");
    stage.settles(&mut consumer, taken.iter().chain([&taken_later]), Settlement::Accept).await?;
    stage.idles(&mut consumer, "all was accepted").await?;
    stage.leaves(consumer).await
}

pub(crate) async fn what_has_expired_is_a_dead_letter(stage: &Stage) -> Outcome {
    let (at, spec) = stage.filled([]).await?;
    let expires = |text: &str, at_ms: i64| record(text).header(EXPIRES_AT_MS, at_ms.to_string());
    let unread = record("when?").header(EXPIRES_AT_MS, "tomorrow");
    let records =
        vec![expires("old", now_ms() - 1), record("plain"), expires("young", now_ms() + 3_600_000), unread];
    stage.append(&at, records).await?;
    let mut consumer = stage.consumer(&spec).await?;
    let taken = stage.take(&mut consumer, 2).await?;
    ensure_eq!(values(&taken), ["plain", "young"], "what comes beside what has expired");
    stage.settles(&mut consumer, &taken, Settlement::Accept).await?;
    stage.idles(&mut consumer, "what is left has expired").await?;
    let letters = stage.dead(&spec, 2).await?;
    ensure_eq!(text(&letters[0]), "old", "the dead letter");
    ensure_eq!(header(&letters[0], DEAD_REASON), Some("expired".to_owned()), "its reason");
    ensure_eq!(header(&letters[0], DEAD_COUNT), Some("0".to_owned()), "how often it was delivered");
    ensure_eq!(text(&letters[1]), "when?", "the dead letter of what has no time that can be read");
    stage.leaves(consumer).await
}

pub(crate) async fn a_dropped_next_loses_nothing(stage: &Stage) -> Outcome {
    let (at, spec) = stage.filled(numbers(0..50)).await?;
    let mut consumer = stage.consumer(&spec).await?;
    let (mut taken, mut polls, mut behind) = (Vec::new(), 0, Some("50"));
    let limits = TakeLimits { deliveries_max: 7, ..TakeLimits::default() };
    stage
        .until("all come, also when waits for them are dropped", async || {
            polls = (polls + 1) % 6;
            if let Some(some) = polled(polls, consumer.next(limits)).await {
                let some = some?;
                ensure!(some.len() <= 7, "of 7 that were asked for there come {}", some.len());
                taken.extend(values(&some));
            }
            if taken.len() == 50
                && let Some(behind) = behind.take()
            {
                // One more, while nobody may be waiting.
                stage.append(&at, record(behind)).await?;
            }
            Ok((taken.len() >= 51).then_some(()))
        })
        .await?;
    ensure_eq!(taken, numbers(0..51).collect::<Vec<_>>(), "what comes, each once");
    stage.idles(&mut consumer, "all has come").await?;
    stage.leaves(consumer).await
}

pub(crate) async fn two_groups_each_get_everything(stage: &Stage) -> Outcome {
    let (_, one) = stage.filled(numbers(0..20)).await?;
    let two = QueueSpec { group: stage.name(), ..one.clone() };
    let (mut one, mut two) = (stage.consumer(&one).await?, stage.consumer(&two).await?);
    for consumer in [&mut one, &mut two] {
        let taken = stage.take(consumer, 20).await?;
        ensure_eq!(values(&taken), numbers(0..20).collect::<Vec<_>>(), "what comes to a group");
        stage.settles(consumer, &taken, Settlement::Accept).await?;
        stage.idles(consumer, "all was accepted").await?;
    }
    stage.leaves(one).await?;
    stage.leaves(two).await
}

pub(crate) async fn a_take_is_no_larger_than_asked(stage: &Stage) -> Outcome {
    let (_, spec) = stage.filled((0..40).map(|number| format!("{number:01000}"))).await?;
    let mut consumer = stage.consumer(&spec).await?;
    let (started, mut count) = (Instant::now(), 0);
    for (deliveries_max, bytes_max) in [(3, 1 << 20), (100, 3500), (100, 1)].into_iter().cycle() {
        let limits = TakeLimits { deliveries_max, bytes_max, ..TakeLimits::default() };
        let taken = stage.next(&mut consumer, limits).await?;
        let bytes: usize = taken.iter().map(|taken| taken.record.record.size_bytes()).sum();
        ensure!(taken.len() <= deliveries_max, "of {deliveries_max} there come {}", taken.len());
        ensure!(bytes <= bytes_max || taken.len() == 1, "of {bytes_max} bytes there come {bytes}");
        count += taken.len();
        if count == 40 {
            return stage.leaves(consumer).await;
        }
        ensure!(started.elapsed() < stage.ground().patience(), "of 40 records there come {count}");
    }
    Ok(())
}

pub(crate) async fn a_take_in_vain_ends(stage: &Stage) -> Outcome {
    let (at, spec) = stage.filled(numbers(0..1)).await?;
    let mut consumer = stage.consumer(&spec).await?;
    let taken = stage.one(&mut consumer).await?;
    stage.settles(&mut consumer, [&taken], Settlement::Accept).await?;
    let started = Instant::now();
    let limits = TakeLimits { wait_max: A_WHILE, ..TakeLimits::default() };
    ensure_eq!(values(&stage.next(&mut consumer, limits).await?), Vec::<String>::new(), "what comes");
    let waited = started.elapsed();
    ensure!(waited >= A_WHILE * 9 / 10, "a wait of {A_WHILE:?} is over after {waited:?}");
    ensure!(waited < A_WHILE + stage.ground().patience() / 4, "a wait of {A_WHILE:?} takes {waited:?}");
    // And one that is not in vain ends before.
    let limits = TakeLimits { wait_max: stage.ground().patience(), ..TakeLimits::default() };
    let (taken, appended) =
        futures::future::join(stage.next(&mut consumer, limits), stage.append(&at, record("1"))).await;
    appended?;
    ensure_eq!(values(&taken?), ["1"], "what comes to one who waits");
    stage.leaves(consumer).await
}

pub(crate) async fn bad_queues_are_refused(stage: &Stage) -> Outcome {
    let (at, spec) = stage.filled([]).await?;
    let missing = stage.name();
    let absent = QueueSpec { topics: vec![at.topic.clone(), missing.clone()], ..spec.clone() };
    let result = stage.soon("no topic", queues(&**stage.engine())?.consumer(absent)).await?;
    ensure_fails!(result, EngineError::NotFound(_), "a queue of no topic");
    let result = stage.engine().partition_count(&missing).await;
    ensure_fails!(result, EngineError::NotFound(_), "a topic that nobody has created");
    for bad in [
        QueueSpec { topics: Vec::new(), ..spec.clone() },
        QueueSpec { group: "a b".to_owned(), ..spec.clone() },
        QueueSpec { unsettled_max: 0, ..spec.clone() },
        QueueSpec { deliveries_max: 0, ..spec.clone() },
        QueueSpec { settle_within: Duration::ZERO, ..spec.clone() },
    ] {
        let told = format!("{bad:?}");
        let result = stage.soon("a bad queue", queues(&**stage.engine())?.consumer(bad)).await?;
        ensure_fails!(result, EngineError::Refused { .. }, "{told}");
    }
    Ok(())
}

pub(crate) async fn a_halted_consumer_is_too_late(stage: &Stage) -> Outcome {
    let (at, spec) = stage.filled(numbers(0..1)).await?;
    let spec = QueueSpec { settle_within: SOON, ..spec };
    let mut working = stage.child_beside(&format!("keep {} {}", at.topic, spec.group)).await?;
    stage.work(&mut working, 3).await?;
    working.halt();
    let mut consumer = stage.consumer(&spec).await?;
    let again = stage.one(&mut consumer).await?;
    ensure!(again.count >= 2, "what another had comes with a count of {}", again.count);
    working.go_on();
    // It is told that it is too late, rejects nevertheless, and ends.
    let mut ends = std::pin::pin!(stage.end(working));
    loop {
        tokio::select! {
            ended = &mut ends => break ended?,
            () = tokio::time::sleep(SOON / 8) => {
                let done = stage.soon("extending", consumer.extend(&[again.ticket])).await??;
                ensure_eq!(done, [Ok(())], "what is said of an extension");
            }
        }
    }
    stage.settles(&mut consumer, [&again], Settlement::Accept).await?;
    stage.idles(&mut consumer, "all was accepted").await?;
    stage.dead(&spec, 0).await?;
    stage.leaves(consumer).await
}

pub(crate) async fn a_queue_goes_on_when_the_engine_is_back(stage: &Stage) -> Outcome {
    let Some(network) = stage.ground().network() else {
        return Err(Stop::Lacks("there is no network to cut".to_owned()));
    };
    let (at, spec) = stage.filled(numbers(0..200)).await?;
    let client = stage.client_of("cut", &at.topic).await?;
    let mut consumer =
        stage.consumer_of(&*client, &QueueSpec { settle_within: SOON, ..spec.clone() }).await?;
    let (mut accepted, mut unknown, mut cuts) = (BTreeSet::new(), BTreeSet::new(), 0);
    let limits = TakeLimits { deliveries_max: 10, ..TakeLimits::default() };
    stage
        .until("all is accepted while the engine comes and goes", async || {
            if accepted.len() >= cuts * 50 + 20 && cuts < 3 {
                cuts += 1;
                network.cut("cut");
                // What it comes to is not lost, and comes again at the latest when its time is up.
                let _ = polled(3, consumer.next(limits)).await;
                network.mend("cut");
            }
            let taken = match stage.soon("next", consumer.next(limits)).await? {
                Ok(taken) => taken,
                Err(EngineError::Away { .. } | EngineError::Failed(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let what = taken.iter().map(|taken| (taken.ticket, Settlement::Accept)).collect();
            let done = match stage.soon("settling", consumer.settle(what)).await? {
                Ok(done) => done,
                Err(EngineError::Away { .. } | EngineError::Failed(_)) => {
                    unknown.extend(values(&taken));
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            };
            for (value, done) in values(&taken).into_iter().zip(done) {
                ensure!(!accepted.contains(&value), "{value} was accepted, and comes again");
                match done {
                    Ok(()) => accepted.insert(value),
                    Err(TooLate) => false,
                };
            }
            Ok((accepted.union(&unknown).count() == 200).then_some(()))
        })
        .await?;
    ensure_eq!(cuts, 3, "how often the network was cut");
    // What is not known to be accepted may come, and nothing else.
    let rest = TakeLimits { wait_max: SOON * 2, ..limits };
    for value in values(&stage.next(&mut consumer, rest).await?) {
        ensure!(!accepted.contains(&value), "{value} was accepted, and comes again");
    }
    stage.leaves(consumer).await
}

pub(crate) async fn closed_is_told_to_queues(stage: &Stage) -> Outcome {
    let (_, spec) = stage.filled(numbers(0..2)).await?;
    let mut consumer = stage.consumer(&spec).await?;
    let taken = stage.one(&mut consumer).await?;
    stage.soon("close", stage.engine().close()).await?;
    let limits =
        TakeLimits { deliveries_max: 1, wait_max: stage.ground().patience() * 2, ..TakeLimits::default() };
    // What had come already may be given.
    stage
        .until("a closed engine's queue says so", async || {
            match stage.soon("next", consumer.next(limits)).await? {
                Ok(_) => Ok(None),
                Err(EngineError::Closed) => Ok(Some(())),
                Err(error) => Err(Stop::Broken(format!("a closed engine's queue says {error:?}"))),
            }
        })
        .await?;
    let result = stage.soon("settling", consumer.settle(vec![(taken.ticket, Settlement::Accept)])).await?;
    ensure_fails!(result, EngineError::Closed, "settling when the engine is closed");
    let result = stage.soon("opening", queues(&**stage.engine())?.consumer(spec)).await?;
    ensure_fails!(result, EngineError::Closed, "a consumer of a closed engine");
    // It may say that it is closed.
    let _ = stage.soon("leaving", consumer.leave()).await?;
    Ok(())
}
