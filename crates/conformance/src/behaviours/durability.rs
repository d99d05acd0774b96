//! What is acknowledged stays, and is stored once.

use anabranch_core::TopicPartition;
use anabranch_core::engine::{AppendOptions, Capability, Durability, Engine, EngineError, Place, Position};
use futures::future::{join, join_all};

use crate::stage::{Outcome, Stage, Stop, append, ensure, ensure_eq, ensure_fails, record, records, short};

/// A child appends numbers until it is killed: all that it was told are stored is there, in order, and at most what it did not
/// live to hear of beside.
async fn survives_the_client(stage: &Stage, durability: &str) -> Outcome {
    let at = stage.partition().await?;
    let working = stage.child(&format!("append {} {durability}", at.topic)).await?;
    let last = stage.kill_after(working, 20).await?;
    let engine = stage.client("after").await?;
    let read = crate::stage::texts(&stage.read_by(&*engine, &at).await?);
    let acknowledged: Vec<_> = (0..=last).map(|number| number.to_string()).collect();
    ensure!(read.len() > last as usize, "{} were acknowledged, and {} are there", last + 1, read.len());
    ensure_eq!(read[..acknowledged.len()], acknowledged, "what was acknowledged");
    ensure!(read.len() <= acknowledged.len() + 1, "{} are there of {}", read.len(), acknowledged.len());
    // And whoever comes after goes on behind.
    append(&*engine, &at, record("after")).await?;
    let read = crate::stage::texts(&stage.read_by(&*engine, &at).await?);
    ensure_eq!(read.last().map(String::as_str), Some("after"), "the last record");
    Ok(())
}

pub(crate) async fn durable_survives_the_clients_death(stage: &Stage) -> Outcome {
    survives_the_client(stage, "durable").await
}

pub(crate) async fn written_survives_the_clients_death(stage: &Stage) -> Outcome {
    survives_the_client(stage, "written").await
}

pub(crate) async fn all_is_there_after_closing(stage: &Stage) -> Outcome {
    let topic = stage.topic(3).await?;
    let at = TopicPartition::new(&topic, 1);
    let written = AppendOptions::new(Durability::Written);
    stage.append(&at, records(&["a", "b"])).await?;
    stage.engine().append(&at, record("c").into(), written).await?;
    // What is but written may be shown a moment later.
    stage.shows(&at, &["a", "b", "c"], "what was appended").await?;
    let before = stage.read(&at).await?;
    let engine = stage.reopened().await?;
    ensure_eq!(stage.read_by(&*engine, &at).await?, before, "what is there after all was closed");
    ensure_eq!(engine.partition_count(&topic).await?, 3, "partitions after all was closed");
    let next = append(&*engine, &at, record("d")).await?;
    let last = before.last().map(|at| Position::from(at.offset));
    ensure!(last.is_some_and(|last| next.first > last), "{} is taken already", next.first);
    Ok(())
}

/// What is read once the engine has noticed what became of its nodes.
async fn read_again(stage: &Stage, at: &TopicPartition) -> Outcome<Vec<String>> {
    let mut last = None;
    let reading = stage.until("reading while nodes come and go", async || match stage.texts(at).await {
        Ok(read) => Ok(Some(read)),
        Err(Stop::Engine(error @ (EngineError::Away { .. } | EngineError::Failed(_)))) => {
            last = Some(error);
            Ok(None)
        }
        Err(stop) => Err(stop),
    });
    match reading.await {
        Err(Stop::Broken(what)) => Err(Stop::Broken(format!("{what}; the last error was {last:?}"))),
        read => read,
    }
}

pub(crate) async fn acknowledged_survives_a_nodes_death(stage: &Stage) -> Outcome {
    let Some(nodes) = stage.ground().nodes() else {
        return Err(Stop::Lacks("no node can be killed here".to_owned()));
    };
    let at = stage.partition().await?;
    let expected: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    stage.append_each(&at, &expected).await?;
    for node in 0..nodes.count() {
        nodes.kill(node).await;
    }
    for node in 0..nodes.count() {
        nodes.start(node).await;
    }
    let read = read_again(stage, &at).await?;
    ensure_eq!(read, expected, "what is there after all nodes were killed");
    Ok(())
}

pub(crate) async fn acknowledged_survives_the_loss_of_a_node(stage: &Stage) -> Outcome {
    let nodes = match stage.ground().nodes() {
        Some(nodes) if nodes.count() > 1 => nodes,
        Some(_) => return Err(Stop::Broken("there is but one node".to_owned())),
        None => return Err(Stop::Lacks("no node can be killed here".to_owned())),
    };
    let topic = stage.topic(3).await?;
    let mut expected = Vec::new();
    for number in 0..20 {
        for partition in 0..3 {
            stage.append(&TopicPartition::new(&topic, partition), record(&number.to_string())).await?;
        }
        expected.push(number.to_string());
    }
    nodes.kill(0).await;
    let mut all = Ok(());
    for partition in 0..3 {
        let at = TopicPartition::new(&topic, partition);
        let read = read_again(stage, &at).await;
        all = all.and(read.and_then(|read| {
            ensure_eq!(read, expected, "what is there of {at} without a node");
            Ok(())
        }));
    }
    nodes.start(0).await;
    all
}

pub(crate) async fn power_loss_is_told_as_it_is(stage: &Stage) -> Outcome {
    match stage.ground().syncs() {
        Some(true) => Ok(()),
        Some(false) => {
            Err(Stop::Broken("its nodes were started so that they do not sync before they answer".to_owned()))
        }
        None => Err(Stop::Lacks("nobody tells how the nodes were started".to_owned())),
    }
}

pub(crate) async fn what_the_engine_sends_again_is_stored_once(stage: &Stage) -> Outcome {
    let Some(network) = stage.ground().network() else {
        return Err(Stop::Lacks("there is no network to cut".to_owned()));
    };
    let at = stage.partition().await?;
    let client = stage.client_of("cut", &at.topic).await?;
    let mut known = Vec::new();
    for round in 0..20 {
        let appends = (0..5).map(|number| {
            let text = format!("{round} {number}");
            let (client, at) = (&client, &at);
            async move { (append(&**client, at, record(&text)).await, text) }
        });
        let cuts = async {
            for _ in 0..round % 4 {
                tokio::task::yield_now().await;
            }
            network.cut("cut");
            tokio::task::yield_now().await;
            network.mend("cut");
        };
        let (results, ()) =
            stage.soon("appends over a network that was mended", join(join_all(appends), cuts)).await?;
        for (result, text) in results {
            match result {
                Ok(_) => known.push((text, true)),
                // It may be there, or not.
                Err(EngineError::Failed(_)) => known.push((text, false)),
                Err(EngineError::Away { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let read = stage.texts(&at).await?;
    let mut left = known.iter();
    for text in &read {
        ensure!(
            left.by_ref().take_while(|(known, _)| known != text).all(|(_, stored)| !stored)
                && known.iter().any(|(known, _)| known == text),
            "{text:?} is stored again, or out of order, or what came before it is missing: {}",
            short(&read)
        );
    }
    ensure!(left.all(|(_, stored)| !stored), "what was acknowledged last is missing: {}", short(&read));
    let mut unique = read.clone();
    unique.sort_unstable();
    unique.dedup();
    ensure_eq!(unique.len(), read.len(), "records that are there once");
    Ok(())
}

fn with_id(id: &str) -> AppendOptions {
    AppendOptions { id: Some(id.to_owned()), ..AppendOptions::default() }
}

pub(crate) async fn an_id_is_stored_once(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let (one, two) = (stage.name(), stage.name());
    let append = async |what: &[&str], id: &str| {
        let appending = stage.engine().append(&at, records(what).into(), with_id(id));
        Ok::<_, Stop>(stage.soon("an append with an id", appending).await??)
    };
    let first = append(&["a", "b"], &one).await?;
    ensure!(!first.duplicate, "what is appended for the first time is called a duplicate");
    let second = append(&["c"], &two).await?;
    let again = append(&["a", "b"], &one).await?;
    ensure!(
        !second.duplicate && again.duplicate,
        "duplicate is told as {} and {}",
        second.duplicate,
        again.duplicate
    );
    ensure_eq!((again.first, again.next), (first.first, first.next), "where the first one is");
    ensure_eq!(stage.texts(&at).await?, ["a", "b", "c"], "three records with two ids, and one again");
    Ok(())
}

fn expecting(end: Position) -> AppendOptions {
    AppendOptions { expected: Some(end), ..AppendOptions::default() }
}

pub(crate) async fn an_expected_end_is_compared(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let engine = stage.engine();
    let empty = engine.locate(&at, Place::Latest).await?;
    let first = engine.append(&at, record("a").into(), expecting(empty)).await?;
    let second = engine.append(&at, records(&["b", "c"]).into(), expecting(first.next)).await?;
    for wrong in [empty, first.next, Position(second.next.0 + 1)] {
        let result = engine.append(&at, record("x").into(), expecting(wrong)).await;
        ensure_fails!(
            result,
            EngineError::NotAtEnd { ref partition, expected } if *partition == at && expected == wrong,
            "an append that expects {wrong} where the end is {}", second.next
        );
    }
    engine.append(&at, record("d").into(), expecting(second.next)).await?;
    ensure_eq!(
        stage.texts(&at).await?,
        ["a", "b", "c", "d"],
        "what was appended where it was expected to be"
    );
    Ok(())
}

pub(crate) async fn of_ten_rivals_one_wins(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let other = stage.client_of("other", &at.topic).await?;
    for round in 0..10 {
        let end = stage.engine().locate(&at, Place::Latest).await?;
        let rivals = (0..10).map(|rival| {
            let by: &dyn Engine = if rival % 2 == 0 { &**stage.engine() } else { &*other };
            by.append(&at, record(&format!("{round}")).into(), expecting(end))
        });
        let results = stage.soon("ten appends", join_all(rivals)).await?;
        let won = results.iter().filter(|result| result.is_ok()).count();
        let lost =
            results.iter().filter(|result| matches!(result, Err(EngineError::NotAtEnd { .. }))).count();
        ensure_eq!((won, lost), (1, 9), "of ten that expect the same end, who won and lost");
    }
    let expected: Vec<_> = (0..10).map(|round| round.to_string()).collect();
    ensure_eq!(stage.texts(&at).await?, expected, "one record of each round");
    Ok(())
}

pub(crate) async fn an_append_is_whole(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let other = stage.client_of("other", &at.topic).await?;
    let write = async |engine: &dyn Engine, name: &str| {
        let mut told = Vec::new();
        for number in 0..20 {
            let some: Vec<_> = (0..30).map(|part| record(&format!("{name}{number} {part}"))).collect();
            told.push(append(engine, &at, some).await?);
        }
        Ok::<_, EngineError>(told)
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let watch = async {
        let mut seen = Vec::new();
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            seen.push(stage.engine().locate(&at, Place::Latest).await?);
            tokio::task::yield_now().await;
        }
        Ok::<_, EngineError>(seen)
    };
    let writes = async {
        let both = join(write(&**stage.engine(), "a"), write(&*other, "b")).await;
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        both
    };
    let ((one, two), seen) = join(writes, watch).await;
    let (mut told, seen) = ([one?, two?].concat(), seen?);
    told.sort_unstable_by_key(|appended| appended.first);
    let read = stage.read(&at).await?;
    ensure_eq!(read.len(), 1200, "records");
    for (appended, records) in told.iter().zip(read.chunks(30)) {
        let texts = crate::stage::texts(records);
        let (name, _) = texts[0].split_once(' ').unwrap_or_default();
        let expected: Vec<_> = (0..30).map(|part| format!("{name} {part}")).collect();
        ensure_eq!(texts, expected, "the records of one append");
        ensure_eq!(Position::from(records[0].offset), appended.first, "where an append begins");
        let inside = seen.iter().find(|end| **end > appended.first && **end < appended.next);
        ensure!(inside.is_none(), "the latest place was {inside:?}, inside of {appended:?}");
    }
    ensure!(stage.engine().description().has(Capability::AtomicAppend), "it is not said to be so");
    Ok(())
}
