//! Servers that are killed while appends and reads are under way.

use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{
    AppendOptions, Appended, Capability, Engine, EngineError, Place, Position, ReadLimits, TopicSpec,
};
use anabranch_engine_nats::{NatsEngine, NatsSettings};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::time::timeout;

use crate::append::{all, topic};
use crate::nats::{Nats, SOON, fresh, nats, own_nats};
use crate::proxy::Proxy;

fn number(record: &Record) -> u32 {
    std::str::from_utf8(record.value.as_ref().unwrap()).unwrap().parse().unwrap()
}

/// Appends and reads without a pause, has `kill` done in the middle, and sees each record once, in order, where it was said
/// to be.
async fn nothing_is_lost_or_doubled(engine: &NatsEngine, at: &TopicPartition, kill: impl FnOnce()) {
    const COUNT: u32 = 600;
    const IN_FLIGHT: usize = 50;
    let appending = async {
        let (mut kill, mut under_way, mut places) = (Some(kill), FuturesOrdered::new(), Vec::new());
        for sent in 0..COUNT {
            if sent == COUNT / 3 {
                (kill.take().unwrap())();
            }
            let records = vec![Record::keyless(sent.to_string()); sent as usize % 2 + 1];
            under_way.push_back(engine.append(at, records.into(), AppendOptions::default()));
            if under_way.len() == IN_FLIGHT {
                places.push(under_way.next().await.unwrap().unwrap());
            }
        }
        while let Some(place) = under_way.next().await {
            places.push(place.unwrap());
        }
        places
    };
    let reading = async {
        let mut reader = engine.reader(at, Position(0)).await.unwrap();
        let mut read = Vec::new();
        while read.len() < COUNT as usize / 2 * 3 {
            let from = reader.position();
            match reader.read(ReadLimits { bytes_max: 5_000, ..ReadLimits::default() }).await {
                Ok(fetched) => read.extend(fetched.block.into_records(from).unwrap()),
                Err(EngineError::Away { .. }) => assert_eq!(reader.position(), from),
                Err(error) => panic!("{error:?}"),
            }
        }
        read
    };
    let (places, read) = timeout(SOON * 2, futures::future::join(appending, reading)).await.unwrap();
    let stored = all(engine, at, Position(0)).await;
    let mut expect = Vec::new();
    for (sent, place) in (0..).zip(&places) {
        assert_eq!(place.next.0 - place.first.0, u64::from(sent % 2 + 1));
        expect.extend((place.first.0..place.next.0).map(|at| (at, sent)));
    }
    assert_eq!(stored.iter().map(|(at, record)| (*at, number(record))).collect::<Vec<_>>(), expect);
    let read: Vec<_> = read.iter().map(|at| (Position::from(at.offset).0, number(&at.record))).collect();
    assert_eq!(read, expect);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_loses_and_doubles_nothing() {
    let Some(nats) = own_nats(1) else { return };
    let engine = nats.engine().await;
    let to = topic(&engine, &[]).await;
    nothing_is_lost_or_doubled(&engine, &to, || {
        nats.kill(1);
        nats.start_again();
    })
    .await;
    engine.close().await;
}

/// The server has stored it, and its answer is lost: the engine's own second attempt must find where it is.
#[tokio::test]
async fn a_lost_answer_is_found_again() {
    let Some(nats) = nats() else { return };
    let server = nats.url.trim_start_matches("nats://").split(',').next().unwrap().to_owned();
    let proxy = Proxy::to(server).await;
    let mut settings = NatsSettings::new([proxy.address.clone()]);
    settings.request_timeout = Duration::from_secs(1);
    settings.replicas = if nats.nodes() < 3 { 1 } else { 3 };
    let engine = NatsEngine::open(settings, &[]).await.unwrap();
    let to = topic(&engine, &[]).await;
    let mut next = 0;
    for count in [1, 3] {
        for (has_expected, id) in
            [(false, None), (true, None), (false, Some("a".to_owned())), (true, Some("b".to_owned()))]
        {
            let expected = has_expected.then_some(Position(next));
            let id = id.map(|id| format!("{id}{count}"));
            let how = AppendOptions { expected, id, ..AppendOptions::default() };
            let records: Vec<_> = (0..count).map(|at| Record::keyless(at.to_string())).collect();
            proxy.lose_an_answer();
            let appended = engine.append(&to, records.into(), how.clone()).await.unwrap();
            assert!(proxy.has_lost_it());
            let (first, end) = (Position(next), Position(next + count));
            assert_eq!(appended, Appended { first, next: end, duplicate: false }, "{how:?}");
            next += count;
        }
    }
    assert_eq!(all(&engine, &to, Position(0)).await.len() as u64, next);
    engine.close().await;
}

async fn leader(nats: &Nats, at: &TopicPartition) -> u16 {
    let context = async_nats::jetstream::new(nats.client().await);
    let stream = context.get_stream(format!("ab-{}-0", at.topic.replace('.', "="))).await.unwrap();
    let leader = stream.cached_info().cluster.as_ref().unwrap().leader.clone().unwrap();
    leader.trim_start_matches('n').parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_lose_and_double_nothing_when_the_leader_dies() {
    let Some(nats) = own_nats(3) else { return };
    let settings = nats.settings("replicas=3");
    let engine = NatsEngine::open(settings, &[Capability::SurvivesNodeLoss]).await.unwrap();
    let to = topic(&engine, &[]).await;
    let leader = leader(&nats, &to).await;
    nothing_is_lost_or_doubled(&engine, &to, || nats.kill(leader)).await;
    assert_eq!(engine.partition_count(&to.topic).await.unwrap(), 1);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_away_and_nothing_was_done() {
    let Some(nats) = own_nats(1) else { return };
    let settings = nats.settings("delivery_timeout_ms=500&request_timeout_ms=500");
    let engine = NatsEngine::open(settings, &[]).await.unwrap();
    let to = topic(&engine, &[]).await;
    let append = || engine.append(&to, Record::keyless("v").into(), AppendOptions::default());
    append().await.unwrap();
    nats.kill(1);
    let mut reader = engine.reader(&to, Position(0)).await.err();
    let deadline = tokio::time::Instant::now() + SOON;
    // The client needs a moment to notice.
    while reader.is_none() {
        reader = engine.reader(&to, Position(0)).await.err();
        assert!(tokio::time::Instant::now() < deadline);
    }
    let away = |error: &EngineError| matches!(error, EngineError::Away { .. });
    assert!(reader.as_ref().is_some_and(away), "{reader:?}");
    let appended = append().await.unwrap_err();
    assert!(away(&appended), "{appended:?}");
    let located = engine.locate(&to, Place::Latest).await.unwrap_err();
    assert!(away(&located), "{located:?}");
    let made = engine.ensure_topic(&TopicSpec::new(fresh("t"), 1)).await.unwrap_err();
    assert!(away(&made), "{made:?}");
    nats.start_again();
    timeout(SOON, async { while append().await.is_err() {} }).await.unwrap();
    assert_eq!(all(&engine, &to, Position(0)).await.len(), 2);

    nats.kill(1);
    timeout(SOON + Duration::from_secs(10), engine.close()).await.unwrap();
}
