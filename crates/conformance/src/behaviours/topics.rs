//! Topics, and how they get rid of records.

use std::collections::BTreeMap;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{AppendOptions, EngineError, Ensured, Place, Position, TopicSpec};
use futures::future::join_all;

use crate::stage::{
    Outcome, Stage, Stop, append, ensure, ensure_eq, ensure_fails, now_ms, record, records, short, text,
};

pub(crate) async fn creating_twice_is_once(stage: &Stage) -> Outcome {
    let name = stage.name();
    let engine = stage.engine();
    ensure_eq!(engine.ensure_topic(&TopicSpec::new(&name, 2)).await?, Ensured::Created, "the first time");
    let at = TopicPartition::new(&name, 1);
    stage.append(&at, record("a")).await?;
    ensure_eq!(engine.ensure_topic(&TopicSpec::new(&name, 2)).await?, Ensured::Existed, "the second time");
    for asked in [1, 3] {
        let result = engine.ensure_topic(&TopicSpec::new(&name, asked)).await;
        ensure_fails!(
            result,
            EngineError::Different { ref topic, actual: 2, asked: told } if *topic == name && told == asked,
            "asking for {asked} partitions of a topic with 2"
        );
    }
    ensure_eq!(engine.partition_count(&name).await?, 2, "partitions");
    ensure_eq!(stage.texts(&at).await?, ["a"], "what was appended before it was asked for again");
    Ok(())
}

pub(crate) async fn ten_at_once_create_one(stage: &Stage) -> Outcome {
    let spec = TopicSpec::new(stage.name(), 3);
    let other = stage.client("other").await?;
    let creating = (0..10).map(|number| match number % 2 {
        0 => stage.engine().ensure_topic(&spec),
        _ => other.ensure_topic(&spec),
    });
    let results = stage.soon("ten creations", join_all(creating)).await?;
    let results = results.into_iter().collect::<Result<Vec<_>, _>>()?;
    let created = results.iter().filter(|ensured| **ensured == Ensured::Created).count();
    ensure_eq!(created, 1, "of ten that create one topic, who did");
    for engine in [stage.engine(), &stage.client_of("third", &spec.name).await?] {
        ensure_eq!(engine.partition_count(&spec.name).await?, 3, "partitions");
    }
    Ok(())
}

pub(crate) async fn a_topic_is_there_when_it_was_created(stage: &Stage) -> Outcome {
    for partitions in [1, 5] {
        let topic = stage.topic(partitions).await?;
        for partition in 0..partitions {
            append(&**stage.engine(), &TopicPartition::new(&topic, partition), record("x")).await?;
        }
        let other = stage.client_of("other", &topic).await?;
        ensure_eq!(other.partition_count(&topic).await?, partitions, "partitions");
        for partition in 0..partitions {
            append(&*other, &TopicPartition::new(&topic, partition), record("x")).await?;
        }
        for partition in 0..partitions {
            ensure_eq!(
                stage.texts(&TopicPartition::new(&topic, partition)).await?,
                ["x", "x"],
                "partition {partition}"
            );
        }
    }
    Ok(())
}

pub(crate) async fn bad_names_and_settings_are_refused(stage: &Stage) -> Outcome {
    let name = stage.name();
    let long = "x".repeat(250);
    let specs = [
        TopicSpec::new("no/good", 1),
        TopicSpec::new("no good", 1),
        TopicSpec::new("nö", 1),
        TopicSpec::new("", 1),
        TopicSpec::new(".", 1),
        TopicSpec::new("..", 1),
        TopicSpec::new(long, 1),
        TopicSpec::new(&name, 0),
        TopicSpec::new(&name, -1),
        TopicSpec::new(&name, 1).config("no.such.setting", "1"),
        TopicSpec::new(&name, 1).config("retention.ms", "a while"),
        TopicSpec::new(&name, 1).config("cleanup.policy", "burn"),
    ];
    for spec in specs {
        let told = short(&spec);
        let result = stage.soon("creating a topic", stage.engine().ensure_topic(&spec)).await?;
        ensure_fails!(result, EngineError::Refused { .. } | EngineError::Unsuitable(_), "creating {told}");
    }
    let result = stage.engine().partition_count(&name).await;
    ensure_fails!(result, EngineError::NotFound(_), "partitions of what was refused");
    ensure_eq!(
        stage.engine().ensure_topic(&TopicSpec::new(&name, 1)).await?,
        Ensured::Created,
        "a topic whose name was refused because of something else"
    );
    Ok(())
}

/// Every call about what is not there says so, and creates nothing.
async fn is_not_found(stage: &Stage, at: &TopicPartition) -> Outcome {
    let engine = stage.engine();
    let found = async |what: &str, error: Option<EngineError>| {
        match error {
            Some(EngineError::NotFound(told)) => {
                ensure_eq!(told.topic, at.topic, "what is told after {what}");
            }
            other => ensure!(false, "{what} on {at}, which is not there: {}", short(&other)),
        }
        Ok::<_, Stop>(())
    };
    for _ in 0..2 {
        found("append", stage.soon("append", append(&**engine, at, record("x"))).await?.err()).await?;
        for place in [Place::Earliest, Place::Latest, Place::AtTime(1)] {
            found("locate", stage.soon("locate", engine.locate(at, place)).await?.err()).await?;
        }
        let error = match stage.soon("reader", engine.reader(at, Position(0))).await? {
            Ok(mut reader) => stage.refused(&mut *reader).await?,
            Err(error) => error,
        };
        found("a read", Some(error)).await?;
    }
    Ok(())
}

pub(crate) async fn no_topic_is_not_found(stage: &Stage) -> Outcome {
    let at = TopicPartition::new(stage.name(), 0);
    is_not_found(stage, &at).await?;
    let count = async || stage.soon("partition_count", stage.engine().partition_count(&at.topic)).await;
    ensure_fails!(count().await?, EngineError::NotFound(_), "partitions of a topic that is not there");
    let created = stage.engine().ensure_topic(&TopicSpec::new(&at.topic, 3)).await?;
    ensure_eq!(created, Ensured::Created, "a topic that was asked about");
    Ok(())
}

pub(crate) async fn no_partition_is_not_found(stage: &Stage) -> Outcome {
    let topic = stage.topic(2).await?;
    is_not_found(stage, &TopicPartition::new(&topic, 2)).await?;
    ensure_eq!(stage.engine().partition_count(&topic).await?, 2, "partitions");
    Ok(())
}

impl Stage {
    /// A topic whose records go soon.
    async fn ageing(&self, configs: &[(&str, &str)]) -> Outcome<TopicPartition> {
        let Some(ageing) = self.ground().ageing() else {
            return Err(Stop::Lacks("nothing is known to make records go soon".to_owned()));
        };
        let all = [&ageing[..], configs].concat();
        Ok(TopicPartition::new(self.topic_with(1, &all).await?, 0))
    }
}

/// The key of what is appended again and again, so that nothing else is in the newest part of the log.
const LAST: &str = "last";

impl Stage {
    /// What is left per key, and in how many records, but for [`LAST`], of which one more is appended before.
    async fn left(&self, at: &TopicPartition) -> Outcome<(usize, BTreeMap<String, String>)> {
        self.append(at, Record::new(LAST, "x".repeat(100)).at(now_ms())).await?;
        let key =
            |record: &Record| String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
        let read = self.read(at).await?;
        let left = read.iter().map(|at| (key(&at.record), text(&at.record))).filter(|(key, _)| key != LAST);
        let left: Vec<_> = left.collect();
        Ok((left.len(), left.into_iter().collect()))
    }
}

pub(crate) async fn compaction_keeps_the_newest(stage: &Stage) -> Outcome {
    let at = stage.ageing(&[("cleanup.policy", "compact")]).await?;
    let (mut appended, mut expected) = (0, BTreeMap::new());
    for round in 0..10 {
        for key in ["a", "b", "c"].iter().take(3 - usize::from(round > 5)) {
            let value = format!("{key}{round}");
            stage.append(&at, Record::new(*key, value.clone()).at(now_ms())).await?;
            expected.insert((*key).to_owned(), value);
            appended += 1;
        }
    }
    stage
        .until("older records of a key are gone", async || {
            let (count, left) = stage.left(&at).await?;
            ensure_eq!(left, expected, "the newest per key, while older ones go");
            Ok((count < appended).then_some(()))
        })
        .await
}

pub(crate) async fn a_deleted_key_stays_deleted(stage: &Stage) -> Outcome {
    let at = stage.ageing(&[("cleanup.policy", "compact")]).await?;
    for round in 0..20 {
        stage.append(&at, Record::new("gone", round.to_string()).at(now_ms())).await?;
    }
    stage.append(&at, Record::new("kept", "kept").at(now_ms())).await?;
    stage.append(&at, Record::tombstone("gone").at(now_ms())).await?;
    stage
        .until("records of a deleted key are gone", async || {
            let (count, left) = stage.left(&at).await?;
            let gone = left.get("gone");
            ensure!(gone.is_none_or(|value| value == "(null)"), "a key that was deleted has {gone:?}");
            ensure_eq!(left.get("kept").map(String::as_str), Some("kept"), "another key's value");
            // The tombstone itself may stay for a while.
            Ok((count <= 2).then_some(()))
        })
        .await
}

pub(crate) async fn what_is_compacted_has_keys(stage: &Stage) -> Outcome {
    let topic = stage.topic_with(1, &[("cleanup.policy", "compact")]).await?;
    let at = TopicPartition::new(topic, 0);
    stage.append(&at, record("a")).await?;
    let appending = append(&**stage.engine(), &at, Record::keyless("x").at(now_ms()));
    let result = stage.soon("an append", appending).await?;
    ensure_fails!(
        result,
        EngineError::Refused { .. },
        "a record without a key, where only the newest of a key is kept"
    );
    stage.append(&at, record("b")).await?;
    let read = stage.texts(&at).await?;
    ensure!(!read.contains(&"x".to_owned()), "what was refused is there: {read:?}");
    Ok(())
}

pub(crate) async fn what_is_old_goes(stage: &Stage) -> Outcome {
    let at = stage.ageing(&[("retention.ms", "1000")]).await?;
    let kept = stage.partition().await?;
    let old = now_ms() - 3_600_000;
    let last = stage.append(&at, (0..5).map(|_| record("x").at(old)).collect::<Vec<_>>()).await?;
    stage.append(&kept, record("x")).await?;
    let mut after = Position(0);
    stage
        .until("old records are gone", async || {
            let earliest = stage.engine().locate(&at, Place::Earliest).await?;
            ensure!(earliest >= after, "the earliest place goes back from {after} to {earliest}");
            after = earliest;
            Ok((earliest >= last.next).then_some(()))
        })
        .await?;
    let mut reader = stage.engine().reader(&at, last.first).await?;
    let result = Err::<(), _>(stage.refused(&mut *reader).await?);
    ensure_fails!(result, EngineError::OutOfRange { .. }, "reading from {}, which is gone", last.first);
    let next = stage.append(&at, record("new")).await?;
    ensure!(next.first >= last.next, "{} is given away again", next.first);
    ensure_eq!(stage.texts(&kept).await?, ["x"], "a topic that keeps its records for longer");
    Ok(())
}

pub(crate) async fn what_is_too_much_goes(stage: &Stage) -> Outcome {
    let at = stage.ageing(&[("retention.bytes", "20000")]).await?;
    let value = "x".repeat(1000);
    let mut number = 0;
    let first = stage.append(&at, record("first")).await?;
    stage
        .until("the oldest records are gone", async || {
            for _ in 0..20 {
                stage.append(&at, record(&format!("{number} {value}"))).await?;
                number += 1;
            }
            let earliest = stage.engine().locate(&at, Place::Earliest).await?;
            Ok((earliest > first.first).then_some(()))
        })
        .await?;
    let reading = stage.until("what is left is read", async || match stage.texts(&at).await {
        Ok(read) => Ok(Some(read)),
        // More went before it was read.
        Err(Stop::Engine(EngineError::OutOfRange { .. })) => Ok(None),
        Err(stop) => Err(stop),
    });
    let read = reading.await?;
    let newest = format!("{} {value}", number - 1);
    ensure!(read.last() == Some(&newest), "the newest is gone: {}", short(&read.last()));
    ensure!(read.len() >= 10, "{} records of 1 kB are left where 20 kB are kept", read.len());
    Ok(())
}

pub(crate) async fn trim_moves_the_start(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let engine = stage.engine();
    let places = stage.append_each(&at, (0..10).map(|number| number.to_string())).await?;
    let start = stage.soon("trim", engine.trim(&at, places[4].first)).await??;
    ensure_eq!(start, places[4].first, "where the oldest record is told to be");
    ensure_eq!(engine.locate(&at, Place::Earliest).await?, start, "the earliest place");
    let rest: Vec<_> = (4..10).map(|number| number.to_string()).collect();
    ensure_eq!(stage.texts(&at).await?, rest, "what was not deleted");
    let mut reader = engine.reader(&at, places[0].first).await?;
    let result = Err::<(), _>(stage.refused(&mut *reader).await?);
    let latest = places[9].next;
    ensure_fails!(
        result,
        EngineError::OutOfRange { earliest, latest: told, .. } if earliest == start && told == latest,
        "reading what was deleted, where {start} to {latest} is kept"
    );
    let again = stage.soon("trim", engine.trim(&at, places[2].first)).await??;
    ensure_eq!(again, start, "where the oldest is after trimming to before it");
    Ok(())
}

pub(crate) async fn trimmed_to_the_end_is_empty(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let engine = stage.engine();
    let end = stage.append(&at, records(&["a", "b", "c"])).await?.next;
    ensure_eq!(
        stage.soon("trim", engine.trim(&at, end)).await??,
        end,
        "where the oldest record is told to be"
    );
    let bounds = (engine.locate(&at, Place::Earliest).await?, engine.locate(&at, Place::Latest).await?);
    ensure_eq!(bounds, (end, end), "the bounds of what is empty");
    ensure_eq!(stage.append(&at, record("d")).await?.first, end, "the next record's position");
    ensure_eq!(stage.texts(&at).await?, ["d"], "what is there");
    Ok(())
}

pub(crate) async fn trim_goes_no_further_than_the_end(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let engine = stage.engine();
    let end = stage.append(&at, records(&["a", "b"])).await?.next;
    let result = stage.soon("trim", engine.trim(&at, Position(end.0 + 1))).await?;
    ensure_fails!(result, EngineError::OutOfRange { .. }, "trimming behind the end, {end}");
    ensure_eq!(stage.texts(&at).await?, ["a", "b"], "what is there");
    let result = stage.soon("trim", engine.trim(&TopicPartition::new(stage.name(), 0), Position(0))).await?;
    ensure_fails!(result, EngineError::NotFound(_), "trimming what is not there");
    Ok(())
}

pub(crate) async fn trimmed_stays_trimmed(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let places = stage.append_each(&at, ["a", "b", "c"]).await?;
    stage.soon("trim", stage.engine().trim(&at, places[1].first)).await??;
    let engine = stage.reopened().await?;
    ensure_eq!(engine.locate(&at, Place::Earliest).await?, places[1].first, "the earliest place");
    let read = stage.read_by(&*engine, &at).await?;
    ensure_eq!(crate::stage::texts(&read), ["b", "c"], "what is there after all was closed");
    let how = AppendOptions::default();
    let next = engine.append(&at, record("d").into(), how).await?;
    ensure_eq!(next.first, places[2].next, "the next record's position");
    Ok(())
}
