//! A partition is a log: order, positions, reading.

use std::time::{Duration, Instant};

use anabranch_core::TopicPartition;
use anabranch_core::batch::{BatchBuilder, Compression, Header, Record};
use anabranch_core::engine::{AppendOptions, EngineError, Payload, Place, Position, ReadLimits};
use futures::StreamExt;
use futures::future::{join, try_join_all};
use futures::stream::FuturesOrdered;
use tokio::time::timeout;

use crate::stage::{
    Dice, NO_WAIT, Outcome, Stage, append, check_fetched, ensure, ensure_eq, ensure_fails, measure, now_ms,
    record, records, texts,
};

pub(crate) async fn records_come_back_as_they_went(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let now = now_ms();
    let maybe =
        |dice: &mut Dice, len_max| (dice.below(5) > 0).then(|| bytes::Bytes::from(dice.bytes(len_max)));
    let mut appended: Vec<Record> = Vec::new();
    while appended.len() < 1000 {
        let some: Vec<Record> = (0..=dice.below(50))
            .map(|_| Record {
                key: maybe(&mut dice, 20),
                value: maybe(&mut dice, 200),
                headers: (0..dice.below(4))
                    .map(|_| Header {
                        key: format!("h{}", dice.below(3)).into(),
                        value: maybe(&mut dice, 20),
                    })
                    .collect(),
                timestamp_ms: now - dice.below(100_000) as i64,
            })
            .collect();
        appended.extend(some.iter().cloned());
        let payload = match dice.below(2) {
            0 => Payload::Records(some),
            _ => Payload::from(Payload::from(some).into_batch()?),
        };
        stage.append(&at, payload).await?;
    }
    let read: Vec<Record> = stage.read(&at).await?.into_iter().map(|at| at.record).collect();
    for (number, (read, appended)) in read.iter().zip(&appended).enumerate() {
        ensure_eq!(read, appended, "record {number} of what was appended");
    }
    ensure_eq!(read.len(), appended.len(), "records");
    Ok(())
}

pub(crate) async fn order_is_that_of_acknowledgements(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let other = stage.client_of("other", &at.topic).await?;
    let mut expected = Vec::new();
    for number in 0..40 {
        let by = if number % 3 == 0 { &other } else { stage.engine() };
        append(&**by, &at, record(&number.to_string())).await?;
        expected.push(number.to_string());
    }
    ensure_eq!(stage.texts(&at).await?, expected, "what was appended one after the other");
    Ok(())
}

pub(crate) async fn appends_under_way_keep_their_order(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    // The one has made the topic, and the other meets it for the first time.
    for engine in [stage.engine(), &stage.client("other").await?] {
        let start = stage.soon("locate", stage.engine().locate(&at, Place::Latest)).await??;
        let appends = (0..300).map(|number| {
            let at = at.clone();
            async move { append(&**engine, &at, record(&number.to_string())).await }
        });
        let mut under_way: FuturesOrdered<_> = appends.collect();
        let mut after = start;
        let all = async {
            while let Some(appended) = under_way.next().await {
                let appended = appended?;
                ensure!(
                    appended.first >= after && appended.next > appended.first,
                    "an append is told {appended:?}, behind {after}"
                );
                after = appended.next;
            }
            Ok(())
        };
        stage.soon("300 appends under way", all).await??;
        let expected: Vec<_> = (0..300).map(|number| number.to_string()).collect();
        let read = texts(&stage.read_from(&**engine, &at, start).await?);
        ensure_eq!(read, expected, "300 appends that were under way together");
    }
    Ok(())
}

pub(crate) async fn two_writers_keep_their_orders(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let other = stage.client_of("other", &at.topic).await?;
    let write = async |engine: &dyn anabranch_core::engine::Engine, name: &str| {
        for number in 0..100 {
            append(engine, &at, record(&format!("{name}{number}"))).await?;
        }
        Ok::<(), EngineError>(())
    };
    let (one, two) = join(write(&**stage.engine(), "a"), write(&*other, "b")).await;
    one.and(two)?;
    let read = stage.texts(&at).await?;
    for name in ["a", "b"] {
        let own: Vec<_> = read.iter().filter(|text| text.starts_with(name)).cloned().collect();
        let expected: Vec<_> = (0..100).map(|number| format!("{name}{number}")).collect();
        ensure_eq!(own, expected, "writer {name}'s records");
    }
    Ok(())
}

pub(crate) async fn an_append_tells_where_its_records_are(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let mut after = Position(0);
    for number in 0..10 {
        let texts = [format!("{number} a"), format!("{number} b"), format!("{number} c")];
        let appended = stage.append(&at, texts.iter().map(|text| record(text)).collect::<Vec<_>>()).await?;
        ensure!(appended.first >= after, "an append is told {} where {after} is taken", appended.first);
        ensure!(!appended.duplicate, "an append without an id is called a duplicate");
        after = appended.next;
        let read = stage.read_from(&**stage.engine(), &at, appended.first).await?;
        ensure_eq!(crate::stage::texts(&read), texts, "what is from {} on", appended.first);
        let last = read.last().map(|at| Position::from(at.offset));
        ensure!(
            last.is_some_and(|last| last < appended.next),
            "the last record is at {last:?}, and the append was told to end at {}",
            appended.next
        );
    }
    Ok(())
}

pub(crate) async fn a_position_names_its_record(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    stage.append_each(&at, (0..20).map(|number| number.to_string())).await?;
    for expected in stage.read(&at).await? {
        let mut reader = stage.engine().reader(&at, expected.offset.into()).await?;
        let first = stage.read_count(&mut *reader, 1).await?.swap_remove(0);
        ensure_eq!(first, expected, "the first record from its own position");
    }
    Ok(())
}

pub(crate) async fn any_position_is_read_again(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    for number in 0..10 {
        stage.append(&at, records(&[&format!("{number} a"), &format!("{number} b")])).await?;
    }
    let all = stage.read(&at).await?;
    ensure_eq!(all.len(), 20, "records");
    for _ in 0..2 {
        for from in 0..all.len() {
            let rest = stage.read_from(&**stage.engine(), &at, all[from].offset.into()).await?;
            ensure_eq!(rest, all[from..], "the rest from record {from}");
        }
    }
    Ok(())
}

pub(crate) async fn a_reader_goes_on_and_seeks(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    stage.append_each(&at, (0..20).map(|number| number.to_string())).await?;
    let all = stage.read(&at).await?;
    ensure_eq!(all.len(), 20, "records");
    let mut reader = stage.engine().reader(&at, all[0].offset.into()).await?;
    ensure_eq!(reader.position(), Position::from(all[0].offset), "a new reader's position");
    for to in [7, 3, 19, 0, 12] {
        let position = Position::from(all[to].offset);
        reader.seek(position);
        ensure_eq!(reader.position(), position, "the position after a seek");
        let fetched =
            stage.soon("a read", reader.read(ReadLimits { bytes_max: 1, ..ReadLimits::default() })).await??;
        let mut shown = check_fetched(&*reader, position, fetched)?;
        while shown.len() < 2 && to < 19 {
            // One more, which is where the reader goes on by itself.
            shown.extend(stage.read_count(&mut *reader, 1).await?);
        }
        let expected = &all[to..(to + shown.len()).min(20)];
        ensure_eq!(shown, expected, "what follows a seek to record {to}");
    }
    Ok(())
}

pub(crate) async fn earliest_and_latest_are_the_bounds(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let bounds = async || {
        let earliest = stage.soon("locate", stage.engine().locate(&at, Place::Earliest)).await??;
        let latest = stage.soon("locate", stage.engine().locate(&at, Place::Latest)).await??;
        Ok::<_, crate::Stop>((earliest, latest))
    };
    let (earliest, latest) = bounds().await?;
    ensure_eq!(earliest, latest, "the bounds of what is empty");
    ensure_eq!(stage.read(&at).await?, [], "what is empty");
    let first = stage.append(&at, record("a")).await?;
    let last = stage.append(&at, records(&["b", "c"])).await?;
    ensure_eq!(bounds().await?, (first.first, last.next), "the bounds behind three records");
    ensure_eq!(earliest, first.first, "the first record's position, which was the earliest before");
    Ok(())
}

pub(crate) async fn a_time_is_found(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let start = now_ms() - 100_000;
    let mut positions = Vec::new();
    // Times of records need not grow.
    for ms in [10, 30, 20, 20, 50, 40] {
        positions.push(stage.append(&at, record("x").at(start + ms)).await?.first);
    }
    for (ms, expected) in [(0, 0), (10, 0), (11, 1), (20, 1), (30, 1), (31, 4), (50, 4)] {
        let place = Place::AtTime(start + ms);
        let found = stage.soon("locate", stage.engine().locate(&at, place)).await??;
        ensure_eq!(
            found,
            positions[expected],
            "the first of the times 10 30 20 20 50 40 that is at least {ms}"
        );
    }
    Ok(())
}

pub(crate) async fn a_time_after_all_is_the_end(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let now = now_ms();
    for count in 0..3 {
        let latest = stage.soon("locate", stage.engine().locate(&at, Place::Latest)).await??;
        let place = Place::AtTime(now + 1);
        let found = stage.soon("locate", stage.engine().locate(&at, place)).await??;
        ensure_eq!(found, latest, "a time after all {count} records");
        stage.append(&at, record("x").at(now)).await?;
    }
    Ok(())
}

pub(crate) async fn a_read_waits_and_wakes(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let from = stage.append(&at, record("old")).await?.next;
    let mut reader = stage.engine().reader(&at, from).await?;
    let limits = ReadLimits { wait_max: stage.ground().patience() * 10, ..ReadLimits::default() };
    let waits = async {
        // It may come back for what is not shown.
        while reader.position() == from {
            reader.read(limits).await?;
        }
        Ok::<_, EngineError>(())
    };
    let appends = async {
        tokio::task::yield_now().await;
        append(&**stage.engine(), &at, record("new")).await
    };
    let (woken, appended) = stage.soon("a read that waits for an append", join(waits, appends)).await?;
    woken?;
    appended?;
    reader.seek(from);
    ensure_eq!(texts(&stage.read_count(&mut *reader, 1).await?), ["new"], "what was waited for");
    Ok(())
}

pub(crate) async fn a_read_in_vain_ends(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let end = stage.append(&at, record("x")).await?.next;
    let mut reader = stage.engine().reader(&at, end).await?;
    for wait_max in [Duration::ZERO, Duration::from_millis(50)] {
        let started = Instant::now();
        let limits = ReadLimits { wait_max, ..NO_WAIT };
        let fetched = stage.soon("a read at the end", reader.read(limits)).await??;
        ensure!(
            started.elapsed() >= wait_max,
            "a read gives up after {:?} of {wait_max:?}",
            started.elapsed()
        );
        ensure_eq!((fetched.next, fetched.latest), (end, end), "next and latest of a read in vain");
        ensure_eq!(check_fetched(&*reader, end, fetched)?, [], "a read in vain");
    }
    Ok(())
}

pub(crate) async fn a_read_is_no_larger_than_asked(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let value = "x".repeat(1000);
    for number in 0..40 {
        stage.append(&at, record(&format!("{number} {value}"))).await?;
    }
    for bytes_max in [1, 1500, 10_000] {
        let mut reader = stage.engine().reader(&at, Position(0)).await?;
        let start = stage.soon("locate", stage.engine().locate(&at, Place::Earliest)).await??;
        reader.seek(start);
        let (started, mut all) = (Instant::now(), Vec::new());
        while all.len() < 40 {
            let from = reader.position();
            let limits = ReadLimits { bytes_max, ..ReadLimits::default() };
            let fetched = stage.soon("a read", reader.read(limits)).await??;
            let (bytes, count) = measure(&fetched.block)?;
            ensure!(
                bytes <= bytes_max || count == 1,
                "a read of {bytes_max} bytes brings {bytes} in {count} pieces"
            );
            all.extend(check_fetched(&*reader, from, fetched)?);
            ensure!(
                started.elapsed() < stage.ground().patience(),
                "reads of {bytes_max} bytes bring {} of 40: the first comes whole",
                all.len()
            );
        }
        let numbers: Vec<_> =
            texts(&all).iter().map(|text| text.split(' ').next().unwrap_or_default().to_owned()).collect();
        let expected: Vec<_> = (0..40).map(|number| number.to_string()).collect();
        ensure_eq!(numbers, expected, "all, {bytes_max} bytes at once");
    }
    Ok(())
}

pub(crate) async fn what_is_out_of_range_is_told(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    stage.append_each(&at, ["a", "b"]).await?;
    let earliest = stage.soon("locate", stage.engine().locate(&at, Place::Earliest)).await??;
    let latest = stage.soon("locate", stage.engine().locate(&at, Place::Latest)).await??;
    let beyond = Position(latest.0 + 1);
    let mut reader = stage.engine().reader(&at, beyond).await?;
    for _ in 0..2 {
        match stage.refused(&mut *reader).await? {
            EngineError::OutOfRange { partition, position, earliest: from, latest: to } => ensure_eq!(
                (partition, position, from, to),
                (at.clone(), beyond, earliest, latest),
                "what is told of a position out of range"
            ),
            error => return Err(error.into()),
        }
        ensure_eq!(reader.position(), beyond, "the position after an error");
    }
    reader.seek(earliest);
    ensure_eq!(texts(&stage.read_to(&mut *reader, latest).await?), ["a", "b"], "what is read after an error");
    Ok(())
}

pub(crate) async fn many_readers_see_the_same(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let texts: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    stage.append_each(&at, &texts).await?;
    let all = stage.read(&at).await?;
    let reads = all.iter().map(|from| stage.read_from(&**stage.engine(), &at, from.offset.into()));
    for (from, read) in try_join_all(reads).await?.into_iter().enumerate() {
        ensure_eq!(read, all[from..], "what one of 20 readers is shown from record {from} on");
    }
    ensure_eq!(crate::stage::texts(&all), texts, "all of it");
    Ok(())
}

pub(crate) async fn partitions_are_apart(stage: &Stage) -> Outcome {
    let topic = stage.topic(3).await?;
    let partitions: Vec<_> = (0..3).map(|partition| TopicPartition::new(&topic, partition)).collect();
    // A reader that waits, and one that is held and not read, are in nobody's way.
    let from = stage.engine().locate(&partitions[2], Place::Latest).await?;
    let mut waiting = stage.engine().reader(&partitions[2], from).await?;
    let limits = ReadLimits { wait_max: stage.ground().patience() * 10, ..ReadLimits::default() };
    let idle = stage.engine().reader(&partitions[0], Position(0)).await?;
    let work = async {
        for number in 0..10 {
            for at in &partitions[..2] {
                stage.append(at, record(&format!("{} {number}", at.partition))).await?;
            }
        }
        for at in &partitions[..2] {
            let expected: Vec<_> = (0..10).map(|number| format!("{} {number}", at.partition)).collect();
            ensure_eq!(stage.texts(at).await?, expected, "partition {}", at.partition);
        }
        stage.append(&partitions[2], record("end")).await
    };
    let read = async {
        while waiting.position() == from {
            waiting.read(limits).await?;
        }
        Ok::<_, EngineError>(())
    };
    let (read, work) = stage.soon("work beside a reader that waits", join(read, work)).await?;
    read?;
    work?;
    drop(idle);
    ensure_eq!(stage.texts(&partitions[2]).await?, ["end"], "partition 2");
    Ok(())
}

pub(crate) async fn a_dropped_read_loses_nothing(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let expected: Vec<_> = (0..60).map(|number| number.to_string()).collect();
    stage.append_each(&at, &expected).await?;
    let end = stage.soon("locate", stage.engine().locate(&at, Place::Latest)).await??;
    let start = stage.soon("locate", stage.engine().locate(&at, Place::Earliest)).await??;
    let mut reader = stage.engine().reader(&at, start).await?;
    let (mut read, mut reads) = (Vec::new(), 0);
    let limits = ReadLimits { bytes_max: 300, ..ReadLimits::default() };
    while reader.position() < end {
        let from = reader.position();
        if let Ok(fetched) = timeout(Duration::from_millis(reads % 10), reader.read(limits)).await {
            read.extend(check_fetched(&*reader, from, fetched?)?);
            reads += 1;
            continue;
        }
        reads += 1;
        ensure_eq!(reader.position(), from, "the position after a read that was dropped");
        let fetched = stage.soon("a read", reader.read(limits)).await??;
        read.extend(check_fetched(&*reader, from, fetched)?);
    }
    ensure_eq!(texts(&read), expected, "what is read while reads are dropped");
    Ok(())
}

pub(crate) async fn batches_and_records_are_the_same(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let some = records(&["a", "b", "c"]);
    let mut batch = BatchBuilder::new(Compression::None);
    some.iter().for_each(|record| {
        batch.push(record);
    });
    let one = stage.append(&at, batch.build()?).await?;
    let two = stage.append(&at, some.clone()).await?;
    ensure_eq!(
        (one.next.0 - one.first.0, two.first >= one.next),
        (two.next.0 - two.first.0, true),
        "a batch, and its records, take up the same"
    );
    let read: Vec<_> = stage.read(&at).await?.into_iter().map(|at| at.record).collect();
    ensure_eq!(read, [some.clone(), some].concat(), "a batch and its records");
    Ok(())
}

pub(crate) async fn written_is_read_too(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let written = AppendOptions::new(anabranch_core::engine::Durability::Written);
    let mut after = Position(0);
    for number in 0..10 {
        let what = record(&number.to_string());
        let appended = match number % 2 {
            0 => stage.soon("an append", stage.engine().append(&at, what.into(), written.clone())).await??,
            _ => stage.append(&at, what).await?,
        };
        ensure!(appended.first >= after, "an append is told {}, behind {after}", appended.first);
        after = appended.next;
    }
    let expected: Vec<_> = (0..10).map(|number| number.to_string()).collect();
    let from = stage.engine().locate(&at, Place::Earliest).await?;
    let mut reader = stage.engine().reader(&at, from).await?;
    ensure_eq!(texts(&stage.read_count(&mut *reader, 10).await?), expected, "written and durable by turns");
    ensure_fails!(
        stage
            .soon("an append", append(&**stage.engine(), &TopicPartition::new(&at.topic, 7), record("x")))
            .await?,
        EngineError::NotFound(_),
        "an append to no partition"
    );
    Ok(())
}
