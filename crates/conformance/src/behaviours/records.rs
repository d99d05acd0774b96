//! Records come back as they went, or are refused.

use anabranch_core::batch::{
    BATCH_HEADER_BYTES, BatchBuilder, Compression, Header, NO_TIMESTAMP, Record, check_batch, split_batches,
};
use anabranch_core::engine::{Block, EngineError, Payload, Place, ReadLimits};
use bytes::Bytes;

use crate::stage::{
    NO_WAIT, Outcome, Stage, Stop, append, ensure, ensure_eq, ensure_fails, now_ms, record, records, short,
    size, texts,
};

/// These records come back as they are.
async fn come_back(stage: &Stage, records: &[Record]) -> Outcome {
    let at = stage.partition().await?;
    stage.append(&at, records.to_vec()).await?;
    let read: Vec<_> = stage.read(&at).await?.into_iter().map(|at| at.record).collect();
    for (read, appended) in read.iter().zip(records) {
        ensure_eq!(read, appended, "a record");
    }
    ensure_eq!(read.len(), records.len(), "records");
    Ok(())
}

fn with_headers(headers: &[(&str, Option<&[u8]>)]) -> Record {
    let header = |(key, value): &(&str, Option<&[u8]>)| Header {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.map(Bytes::copy_from_slice),
    };
    Record { headers: headers.iter().map(header).collect(), ..record("x") }
}

pub(crate) async fn headers_repeat_in_order(stage: &Stage) -> Outcome {
    let names = ["b", "a", "b", "A", "c", "a", "b"];
    let values: Vec<_> = (0..names.len()).map(|number| number.to_string()).collect();
    let headers: Vec<_> =
        names.iter().zip(&values).map(|(name, value)| (*name, Some(value.as_bytes()))).collect();
    come_back(stage, &[with_headers(&headers), with_headers(&[])]).await
}

pub(crate) async fn values_of_headers_are_bytes(stage: &Stage) -> Outcome {
    let all: Vec<u8> = (0..=255).collect();
    let headers: &[(&str, Option<&[u8]>)] = &[
        ("all", Some(&all)),
        ("line", Some(b"a\r\nb: c\r\n\r\n")),
        ("nul", Some(b"\0")),
        ("empty", Some(b"")),
        ("null", None),
    ];
    come_back(stage, &[with_headers(headers)]).await
}

pub(crate) async fn names_of_headers_are_any_text(stage: &Stage) -> Outcome {
    let names = [
        "with space",
        "a:b",
        "Größe",
        "名前",
        "Nats-Msg-Id",
        "NATS/1.0 503",
        "\r\n",
        "x".repeat(300).as_str(),
    ]
    .map(|name| (name.to_owned(), Some(&b"v"[..])));
    let headers: Vec<_> = names.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    come_back(stage, &[with_headers(&headers)]).await
}

pub(crate) async fn empty_is_not_null(stage: &Stage) -> Outcome {
    let (empty, some) = (|| Some(Bytes::new()), || Some(Bytes::from_static(b"x")));
    let mut records = Vec::new();
    for key in [None, empty(), some()] {
        for value in [None, empty(), some()] {
            records.push(Record { key: key.clone(), value, ..record("") });
        }
    }
    come_back(stage, &records).await
}

pub(crate) async fn keys_and_values_are_bytes(stage: &Stage) -> Outcome {
    let all: Vec<u8> = (0..=255).collect();
    let record = Record::new(all.clone(), all.iter().rev().copied().collect::<Vec<_>>()).at(now_ms());
    let long = Record::new(b"k".repeat(5000), b"v".repeat(50_000)).at(now_ms());
    come_back(stage, &[record, long]).await
}

pub(crate) async fn timestamps_come_back_or_are_refused(stage: &Stage) -> Outcome {
    let now = now_ms();
    let far = 253_402_300_800_000; // the year 10000
    let at = stage.partition().await?;
    let mut stored = Vec::new();
    for ms in [now, now - 3_600_000, now + 60_000, 1, 0, -1000, far] {
        match stage.soon("an append", append(&**stage.engine(), &at, record("x").at(ms))).await? {
            Ok(_) => stored.push(ms),
            Err(EngineError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let read: Vec<_> = stage.read(&at).await?.iter().map(|at| at.record.timestamp_ms).collect();
    ensure_eq!(read, stored, "the timestamps that were not refused");
    ensure!(stored.contains(&now), "the time of now is refused");
    Ok(())
}

pub(crate) async fn a_record_needs_no_timestamp(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let before = now_ms() - 60_000;
    stage.append(&at, Record::new("k", "v")).await?;
    let read = stage.read(&at).await?;
    ensure_eq!(texts(&read), ["v"], "a record without a timestamp");
    let ms = read[0].record.timestamp_ms;
    ensure!(ms == NO_TIMESTAMP || ms >= before, "its timestamp is neither none nor that of its append: {ms}");
    Ok(())
}

pub(crate) async fn the_engines_time_is_shown_where_it_is_asked_for(stage: &Stage) -> Outcome {
    let topic = match stage.topic_with(1, &[("message.timestamp.type", "LogAppendTime")]).await {
        Err(Stop::Engine(EngineError::Refused { .. } | EngineError::Unsuitable(_))) => return Ok(()),
        topic => topic?,
    };
    let at = anabranch_core::TopicPartition::new(topic, 0);
    let before = now_ms();
    // Another machine's clock may differ a little.
    let (old, slack) = (before - 86_400_000, 60_000);
    stage.append(&at, record("x").at(old)).await?;
    let read = stage.read(&at).await?;
    ensure_eq!(texts(&read), ["x"], "the record");
    let ms = read[0].record.timestamp_ms;
    ensure!((before - slack..=now_ms() + slack).contains(&ms), "{ms} is shown for an append at {before}");
    Ok(())
}

pub(crate) async fn the_largest_record_passes(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let max = stage.engine().description().limits.record_bytes_max;
    // More than this is nothing to send about in a test; then the promise is that this much passes.
    let max = usize::try_from(max).unwrap_or(usize::MAX).min(64 << 20);
    let mut largest = record("").header("h", "h");
    largest.value = Some(vec![b'x'; max - size(&largest)].into());
    let small = append(&**stage.engine(), &at, record("small"));
    stage.soon("an append", small).await??;
    stage.append(&at, largest.clone()).await?;
    stage.append(&at, record("after")).await?;
    let read = stage.read(&at).await?;
    ensure_eq!(read.len(), 3, "records");
    ensure!(read[1].record == largest, "the largest record is another: {}", short(&read[1].record));
    Ok(())
}

pub(crate) async fn too_large_is_told_and_nothing_stored(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let limits = stage.engine().description().limits;
    let too_large = |bytes: u64| {
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes < 64 << 20)?;
        let key_bytes = size(&record(""));
        Some(Record { value: Some(vec![b'x'; bytes + 1 - key_bytes].into()), ..record("") })
    };
    let mut appends: Vec<Payload> = Vec::new();
    if let Some(record) = too_large(limits.record_bytes_max) {
        appends.push(record.clone().into());
        // What comes before it in the same append is not stored either.
        appends.push(vec![crate::stage::record("before"), record, crate::stage::record("after")].into());
    }
    if limits.append_bytes_max < 64 << 20 {
        let half = limits.record_bytes_max.min(limits.append_bytes_max / 2 + 1);
        let pieces = limits.append_bytes_max / half + 1;
        let piece = Record { value: Some(vec![b'x'; half as usize - 3].into()), ..record("") };
        appends.push((0..pieces).map(|_| piece.clone()).collect::<Vec<_>>().into());
    }
    if limits.append_records_max < 100_000 {
        appends.push((0..=limits.append_records_max).map(|_| record("x")).collect::<Vec<_>>().into());
    }
    if appends.is_empty() {
        return Err(Stop::Lacks("the limits are too large to go beyond them in a test".to_owned()));
    }
    stage.append(&at, record("a")).await?;
    for what in appends {
        let told = format!("an append of {}", short(&what));
        let sizes = match &what {
            Payload::Records(records) => records.iter().map(|record| size(record) as u64).sum::<u64>(),
            Payload::Batch(batch) => batch.len() as u64,
        };
        let result = stage.soon("an append", append(&**stage.engine(), &at, what)).await?;
        match result {
            Err(EngineError::TooLarge { partition, .. }) => {
                ensure_eq!(partition, at, "where {sizes} bytes are too large");
            }
            other => ensure!(false, "{sizes} bytes, beyond {limits:?}: {told} gives {}", short(&other)),
        }
    }
    stage.append(&at, record("b")).await?;
    ensure_eq!(stage.texts(&at).await?, ["a", "b"], "what is there after appends that were too large");
    Ok(())
}

pub(crate) async fn many_records_in_one_append(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let count = stage.engine().description().limits.append_records_max.min(5000);
    let expected: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    stage.append(&at, expected.iter().map(|text| record(text)).collect::<Vec<_>>()).await?;
    ensure_eq!(stage.texts(&at).await?, expected, "{count} records of one append");
    Ok(())
}

pub(crate) async fn every_codec_is_read(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let some = records(&["a", &"b".repeat(1000), "c"]);
    let mut expected = Vec::new();
    for codec in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        let mut batch = BatchBuilder::new(codec);
        some.iter().for_each(|record| {
            batch.push(record);
        });
        stage.append(&at, batch.build()?).await?;
        expected.extend(some.iter().cloned());
    }
    let read: Vec<_> = stage.read(&at).await?.into_iter().map(|at| at.record).collect();
    ensure_eq!(read, expected, "the same records in five codecs");
    Ok(())
}

pub(crate) async fn a_batch_comes_back_byte_by_byte(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let mut appended = Vec::new();
    for codec in [Compression::None, Compression::Zstd, Compression::Gzip] {
        let batch = BatchBuilder::new(codec).push(&record("a")).push(&record("b")).build()?;
        stage.append(&at, batch.clone()).await?;
        appended.push(batch);
    }
    let from = stage.engine().locate(&at, Place::Earliest).await?;
    let end = stage.engine().locate(&at, Place::Latest).await?;
    let mut reader = stage.engine().reader(&at, from).await?;
    let mut read = Vec::new();
    while reader.position() < end {
        match stage.soon("a read", reader.read(ReadLimits::default())).await??.block {
            Block::Batches(bytes) => {
                for batch in split_batches(bytes) {
                    read.push(batch?.bytes().clone());
                }
            }
            Block::Records(records) => {
                ensure!(records.is_empty(), "batches are read as records: {}", short(&records));
            }
        }
    }
    ensure_eq!(read.len(), appended.len(), "batches");
    for (read, appended) in read.iter().zip(&appended) {
        // Base offset, and leader epoch: the engine's, and outside of the checksum.
        let own = |batch: &[u8]| [&batch[8..12], &batch[16..]].concat();
        ensure!(
            read.len() > BATCH_HEADER_BYTES && own(read) == own(appended),
            "a batch's bytes are others: {}, not {}",
            short(read),
            short(appended)
        );
    }
    Ok(())
}

pub(crate) async fn what_is_no_batch_is_refused(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    let good = BatchBuilder::new(Compression::None).push(&record("x")).push(&record("y")).build()?;
    check_batch(&good)?;
    let flipped = |position: usize| {
        let mut bytes = good.to_vec();
        bytes[position] ^= 1;
        Bytes::from(bytes)
    };
    stage.append(&at, record("a")).await?;
    for bad in [
        Bytes::from_static(b"garbage"),
        Bytes::new(),
        good.slice(..good.len() - 1),
        Bytes::from([&good[..], b"x"].concat()),
        Bytes::from([&good[..], &good[..]].concat()),
        flipped(good.len() - 1),
        flipped(17),
        flipped(60),
    ] {
        let told = short(&bad);
        let result = stage.soon("an append", append(&**stage.engine(), &at, bad)).await?;
        ensure_fails!(result, EngineError::Batch(_), "an append of {told}");
    }
    stage.append(&at, record("b")).await?;
    ensure_eq!(stage.texts(&at).await?, ["a", "b"], "what is there after bytes that are no batch");
    let mut reader = stage.engine().reader(&at, stage.engine().locate(&at, Place::Latest).await?).await?;
    ensure!(
        stage.soon("a read", reader.read(NO_WAIT)).await??.block.is_empty(),
        "there is more behind the end"
    );
    Ok(())
}
