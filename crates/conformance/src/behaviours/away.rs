//! What is said before the work begins, dropped futures, closing, and an engine that is away.

use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{
    AppendOptions, Capability, Description, ENGINES, EngineError, Place, Position, ReadLimits, TopicSpec,
};
use futures::future::{join, join_all};

use crate::stage::{
    Outcome, Stage, Stop, append, check_fetched, ensure, ensure_eq, ensure_fails, polled, record, short,
    texts,
};

pub(crate) async fn the_description_is_of_one_engine(stage: &Stage) -> Outcome {
    let description = stage.engine().description();
    ensure!(ENGINES.contains(&description.engine), "there is no engine {:?}", description.engine);
    ensure!(!description.version.is_empty(), "the version is not told");
    ensure!(!description.cluster.is_empty(), "the cluster is not told");
    ensure!(description.nodes > 0, "there are no nodes");
    if let Some(nodes) = stage.ground().nodes() {
        ensure_eq!(description.nodes, nodes.count(), "nodes");
    }
    let limits = description.limits;
    ensure!(
        limits.record_bytes_max > 0
            && limits.append_records_max > 0
            && limits.append_bytes_max >= limits.record_bytes_max,
        "no record fits into {limits:?}"
    );
    for capability in Capability::ALL {
        ensure!(
            !description.has(capability) || capability.had_by().contains(&description.engine),
            "{capability} is declared, and core says that {} never has it",
            description.engine
        );
    }
    let other = stage.client("other").await?;
    let told = |of: &Description| (of.engine, of.version.clone(), of.cluster.clone(), of.nodes, of.limits);
    ensure_eq!(told(other.description()), told(description), "what another client is told");
    for capability in Capability::ALL {
        let (one, two) = (description.support(capability), other.description().support(capability));
        ensure_eq!(two, one, "what another client is told of {capability}");
    }
    let reopened = stage.reopened().await?;
    ensure_eq!(
        reopened.description().cluster,
        stage.engine().description().cluster,
        "the cluster, opened again"
    );
    Ok(())
}

pub(crate) async fn all_that_is_missing_is_named(stage: &Stage) -> Outcome {
    let description = stage.engine().description();
    let absent: Vec<_> =
        Capability::ALL.into_iter().filter(|capability| !description.has(*capability)).collect();
    let named = match stage.engine().require(&Capability::ALL) {
        Ok(()) => Vec::new(),
        Err(unsuitable) => {
            ensure_eq!(unsuitable.engine, description.engine, "the engine that is named");
            unsuitable.missing.iter().map(|missing| missing.capability).collect()
        }
    };
    ensure_eq!(named, absent, "what is named when everything is required");
    let has: Vec<_> = Capability::ALL.into_iter().filter(|capability| description.has(*capability)).collect();
    ensure!(stage.engine().require(&has).is_ok(), "what is declared is refused");
    Ok(())
}

pub(crate) async fn what_is_absent_is_refused_by_type(stage: &Stage) -> Outcome {
    let engine = stage.engine();
    let at = stage.partition().await?;
    stage.append(&at, record("a")).await?;
    let is_absent = |capability| !engine.description().has(capability);
    let refused = |capability: Capability, what: &str, error: Option<EngineError>| match error {
        Some(EngineError::Unsuitable(told))
            if told.missing.iter().any(|missing| missing.capability == capability) =>
        {
            Ok(())
        }
        other => Err(Stop::Broken(format!("{what}, without {capability}: {}", short(&other)))),
    };
    if is_absent(Capability::ConditionalAppend) {
        let end = engine.locate(&at, Place::Latest).await?;
        for expected in [end, Position(end.0 + 7)] {
            let how = AppendOptions { expected: Some(expected), ..AppendOptions::default() };
            let appended = stage.soon("an append", engine.append(&at, record("x").into(), how)).await?;
            refused(Capability::ConditionalAppend, "a conditional append", appended.err())?;
        }
    }
    if is_absent(Capability::AppendIds) {
        let how = AppendOptions { id: Some(stage.name()), ..AppendOptions::default() };
        let appended = stage.soon("an append", engine.append(&at, record("x").into(), how)).await?;
        refused(Capability::AppendIds, "an append with an id", appended.err())?;
    }
    if is_absent(Capability::Trim) {
        let trimmed = stage.soon("trim", engine.trim(&at, Position(0))).await?;
        refused(Capability::Trim, "trimming", trimmed.err())?;
    }
    if is_absent(Capability::Groups) {
        let joined =
            stage.soon("joining", engine.join(&stage.name(), std::slice::from_ref(&at.topic))).await?;
        refused(Capability::Groups, "joining a group", joined.err())?;
    }
    ensure_eq!(
        engine.transactions().is_none(),
        is_absent(Capability::Transactions),
        "whether there are no transactions, and none are declared"
    );
    ensure_eq!(stage.texts(&at).await?, ["a"], "what is there after all that was refused");
    Ok(())
}

pub(crate) async fn an_append_may_be_dropped(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let mut certain = Vec::new();
    for polls in 0..12 {
        let text = format!("dropped {polls}");
        if let Some(appended) = polled(polls, append(&**stage.engine(), &at, record(&text))).await {
            appended?;
            certain.push(text);
        }
        let text = format!("behind {polls}");
        stage.append(&at, record(&text)).await?;
        certain.push(text);
    }
    let read = stage.texts(&at).await?;
    let mut left = read.iter();
    for text in &certain {
        ensure!(
            left.any(|read| read == text),
            "{text:?} was acknowledged, and is not there, or not in order: {}",
            short(&read)
        );
    }
    // What was dropped is before what was called after it, if it is there at all, and once.
    let order: Vec<_> = (0..12)
        .flat_map(|polls| [format!("dropped {polls}"), format!("behind {polls}")])
        .filter(|text| read.contains(text))
        .collect();
    ensure_eq!(read, order, "appends of which some were dropped");
    Ok(())
}

pub(crate) async fn whatever_is_dropped_may_be_called_again(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let engine = stage.engine();
    let end = stage.append(&at, record("a")).await?.next;
    for polls in 0..6 {
        let spec = TopicSpec::new(stage.name(), 2);
        drop(polled(polls, engine.ensure_topic(&spec)).await);
        stage.soon("creating a topic", engine.ensure_topic(&spec)).await??;
        ensure_eq!(
            engine.partition_count(&spec.name).await?,
            2,
            "partitions of a topic whose creation was dropped"
        );
        drop(polled(polls, engine.locate(&at, Place::Latest)).await);
        ensure_eq!(engine.locate(&at, Place::Latest).await?, end, "the latest place, asked again");
        drop(polled(polls, engine.partition_count(&at.topic)).await);
        drop(polled(polls, engine.reader(&at, Position(0))).await);
    }
    ensure_eq!(stage.texts(&at).await?, ["a"], "what is there");
    Ok(())
}

pub(crate) async fn a_thousand_appends_at_once(stage: &Stage) -> Outcome {
    let topic = stage.topic(4).await?;
    let value = "x".repeat(2000);
    let appends = (0..1000).map(|number| {
        let at = TopicPartition::new(&topic, number % 4);
        let what = record(&format!("{number} {value}"));
        async move { append(&**stage.engine(), &at, what).await }
    });
    let results = stage.soon("a thousand appends", join_all(appends)).await?;
    results.into_iter().collect::<Result<Vec<_>, _>>()?;
    for partition in 0..4 {
        let read = stage.texts(&TopicPartition::new(&topic, partition)).await?;
        let numbers: Vec<i32> = read.iter().filter_map(|text| text.split(' ').next()?.parse().ok()).collect();
        let expected: Vec<i32> = (0..1000).filter(|number| number % 4 == partition).collect();
        ensure_eq!(numbers, expected, "partition {partition}");
    }
    Ok(())
}

pub(crate) async fn closed_is_told(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let engine = stage.client_of("closed", &at.topic).await?;
    append(&*engine, &at, record("a")).await?;
    let mut reader = engine.reader(&at, Position(0)).await?;
    stage.soon("closing", engine.close()).await?;
    for what in 0..5 {
        let call = async {
            match what {
                0 => append(&*engine, &at, record("x")).await.err(),
                1 => engine.ensure_topic(&TopicSpec::new(stage.name(), 1)).await.err(),
                2 => engine.locate(&at, Place::Latest).await.err(),
                3 => reader.read(ReadLimits::default()).await.err(),
                _ => match engine.reader(&at, Position(0)).await {
                    Ok(mut reader) => reader.read(ReadLimits::default()).await.err(),
                    Err(error) => Some(error),
                },
            }
        };
        let names = ["append", "ensure_topic", "locate", "read", "reader"];
        let told = stage.soon(names[what], call).await?;
        ensure!(matches!(told, Some(EngineError::Closed)), "{} after close: {}", names[what], short(&told));
    }
    stage.soon("closing again", engine.close()).await?;
    let engine = stage.reopened().await?;
    ensure_eq!(texts(&stage.read_by(&*engine, &at).await?), ["a"], "what is there");
    Ok(())
}

pub(crate) async fn closed_is_told_to_members(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let engine = stage.client_of("closed", &at.topic).await?;
    let topics = [at.topic.clone()];
    let mut member = engine.join(&stage.name(), &topics).await?;
    stage.assigned(&mut member).await?;
    stage.soon("closing", engine.close()).await?;
    let committed = stage.soon("a commit", member.commit(&[(at.clone(), Position(1))])).await?;
    ensure_fails!(committed, EngineError::Closed, "a member's commit after close");
    let events = async {
        // What it had may be told to be lost first.
        loop {
            if let Err(error) = member.next_event().await {
                return error;
            }
        }
    };
    let told = stage.soon("a member's next event", events).await?;
    ensure!(matches!(told, EngineError::Closed), "a member's next event after close: {}", short(&told));
    let joining = async {
        let mut member = engine.join(&stage.name(), &topics).await?;
        member.next_event().await
    };
    let joined = stage.soon("joining", joining).await?;
    ensure_fails!(joined, EngineError::Closed, "joining after close");
    Ok(())
}

pub(crate) async fn closed_is_told_to_producers(stage: &Stage) -> Outcome {
    stage.transactions()?;
    let at = stage.partition().await?;
    let engine = stage.client_of("closed", &at.topic).await?;
    let minute = Duration::from_secs(60);
    let mut producer = crate::stage::transactions(&*engine)?.producer(&stage.name(), minute).await?;
    producer.commit(vec![(at.clone(), record("a").into())], None).await?;
    stage.shows(&at, &["a"], "what was committed before close").await?;
    stage.soon("closing", engine.close()).await?;
    let committing = producer.commit(vec![(at.clone(), record("x").into())], None);
    let committed = stage.soon("a commit", committing).await?;
    ensure_fails!(committed, EngineError::Closed, "a commit after close");
    if let Some(transactions) = engine.transactions() {
        let made = stage.soon("a producer", transactions.producer(&stage.name(), minute)).await?;
        ensure_fails!(made, EngineError::Closed, "a new producer after close");
    }
    let engine = stage.reopened().await?;
    ensure_eq!(texts(&stage.read_by(&*engine, &at).await?), ["a"], "what is there");
    Ok(())
}

pub(crate) async fn closing_ends_what_is_under_way(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let engine = stage.client_of("closing", &at.topic).await?;
    let end = engine.locate(&at, Place::Latest).await?;
    let mut reader = engine.reader(&at, end).await?;
    let limits = ReadLimits { wait_max: stage.ground().patience() * 10, ..ReadLimits::default() };
    let reading = async {
        loop {
            if let Err(error) = reader.read(limits).await {
                return error;
            }
        }
    };
    let appends = (0..20).map(|number| {
        let (engine, at) = (&engine, &at);
        async move { append(&**engine, at, record(&number.to_string())).await }
    });
    let closing = async {
        // After the appends and the read were polled for the first time.
        tokio::task::yield_now().await;
        engine.close().await;
    };
    let ending = join(join(join_all(appends), reading), closing);
    let ((appended, read), ()) = stage.soon("what is under way while the engine closes", ending).await?;
    ensure!(
        matches!(read, EngineError::Closed),
        "a read that waits while the engine closes: {}",
        short(&read)
    );
    let mut certain = Vec::new();
    for (number, result) in appended.into_iter().enumerate() {
        match result {
            Ok(_) => certain.push(number.to_string()),
            Err(EngineError::Closed | EngineError::Failed(_) | EngineError::Away { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let engine = stage.reopened().await?;
    let read = texts(&stage.read_by(&*engine, &at).await?);
    let mut left = read.iter();
    for text in &certain {
        ensure!(left.any(|read| read == text), "{text} was acknowledged, and is not there: {}", short(&read));
    }
    Ok(())
}

pub(crate) async fn away_is_told(stage: &Stage) -> Outcome {
    let Some(network) = stage.ground().network() else {
        return Err(Stop::Lacks("there is no network to cut".to_owned()));
    };
    let at = stage.partition().await?;
    let client = stage.client_of("cut", &at.topic).await?;
    append(&*client, &at, record("a")).await?;
    let mut reader = client.reader(&at, Position(0)).await?;
    reader.seek(client.locate(&at, Place::Earliest).await?);
    stage.read_count(&mut *reader, 1).await?;
    network.cut("cut");
    let appended =
        stage.soon("an append to an engine that is away", append(&*client, &at, record("x"))).await?;
    ensure_fails!(
        appended,
        EngineError::Away { .. } | EngineError::Failed(_),
        "an append to an engine that is away"
    );
    let located = stage.soon("locate", client.locate(&at, Place::Latest)).await?;
    ensure_fails!(located, EngineError::Away { .. }, "a question to an engine that is away");
    let reading = async {
        // What had come already may be shown, and a wait may be in vain, but then it is told.
        loop {
            if let Err(error) = reader.read(ReadLimits::default()).await {
                return error;
            }
        }
    };
    let read = stage.soon("a read from an engine that is away", reading).await?;
    ensure!(matches!(read, EngineError::Away { .. }), "a read from an engine that is away: {}", short(&read));
    network.mend("cut");
    Ok(())
}

pub(crate) async fn back_again_goes_on(stage: &Stage) -> Outcome {
    let Some(network) = stage.ground().network() else {
        return Err(Stop::Lacks("there is no network to cut".to_owned()));
    };
    let at = stage.partition().await?;
    let client = stage.client_of("cut", &at.topic).await?;
    let start = client.locate(&at, Place::Earliest).await?;
    let mut reader = client.reader(&at, start).await?;
    let (mut read, mut expected) = (Vec::new(), Vec::new());
    for round in 0..5 {
        for number in 0..5 {
            let text = format!("{round} {number}");
            stage.append(&at, record(&text)).await?;
            expected.push(text);
        }
        network.cut("cut");
        let from = reader.position();
        if let Some(Ok(fetched)) = polled(3, reader.read(ReadLimits::default())).await {
            read.extend(check_fetched(&*reader, from, fetched)?);
        }
        network.mend("cut");
        let text = format!("{round} back");
        let appended = stage.until("an append after the engine is back", async || {
            match append(&*client, &at, record(&text)).await {
                Ok(_) => Ok(Some(true)),
                Err(EngineError::Away { .. }) => Ok(None),
                // Nobody knows; asking again would store it twice.
                Err(EngineError::Failed(_)) => Ok(Some(false)),
                Err(error) => Err(error.into()),
            }
        });
        if appended.await? {
            expected.push(text);
        }
        let wanted = expected.len();
        stage
            .until("a reader goes on after the engine is back", async || {
                let from = reader.position();
                match reader.read(ReadLimits::default()).await {
                    Ok(fetched) => read.extend(check_fetched(&*reader, from, fetched)?),
                    Err(EngineError::Away { .. }) => {
                        ensure_eq!(reader.position(), from, "the position after an error");
                    }
                    Err(error) => return Err(error.into()),
                }
                Ok((read.len() >= wanted).then_some(()))
            })
            .await?;
    }
    let seen: Vec<_> = texts(&read).into_iter().filter(|text| expected.contains(text)).collect();
    ensure_eq!(seen, expected, "what a reader is shown while the engine comes and goes");
    Ok(())
}
