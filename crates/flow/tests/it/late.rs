//! Late records go where the flow says, and every one is counted.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_core::Offset;
use anabranch_core::batch::{Record, RecordAt};
use anabranch_flow::{Late, header};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::memory::MemoryEngine;
use crate::model::{Event, Kind, Way, event, flow, naive_with_late, run_to_end, small_state};

const ALLOWED_MS: u64 = 25;

fn choices() -> [Late; 3] {
    [
        Late::Drop,
        Late::Admit { allowed_lateness: Duration::from_millis(ALLOWED_MS) },
        Late::ToTopic("late".into()),
    ]
}

fn headers(record: &Record) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    record.headers.iter().map(|h| (text(&h.key), text(h.value.as_ref().unwrap()))).collect()
}

fn parse(record: Record) -> Event {
    Event::parse(&RecordAt { offset: Offset(0), record }).unwrap()
}

async fn check(
    way: Way,
    kind: Kind,
    late: Late,
    events: &[Event],
    commit_records: u64,
) -> Result<(), TestCaseError> {
    let engine = way.engine(2);
    engine.create("input", 1);
    for events in events.chunks(3) {
        engine.write("input", 0, &events.iter().map(Event::to_record).collect::<Vec<_>>());
    }
    let state = small_state();
    let flow = way.flow(kind, late.clone()).commit_every(commit_records, Duration::from_secs(1));
    let counts = run_to_end(flow, &engine, &state).await.unwrap().counts;

    let allowed_ms = if matches!(late, Late::Admit { .. }) { ALLOWED_MS as i64 } else { 0 };
    let (table, expected_late) = naive_with_late(kind, events, allowed_ms);
    prop_assert_eq!(engine.table("output"), table);
    let expected = expected_late.len() as u64;
    if late == Late::ToTopic("late".into()) {
        let sent = engine.records("late");
        prop_assert_eq!((counts.late_dropped, counts.late_sent), (0, expected));
        let mut sent: Vec<_> = sent.into_iter().map(parse).collect();
        let mut expected_late = expected_late;
        if way.shards > 1 {
            // Shards do not wait for each other.
            sent.sort_unstable();
            expected_late.sort_unstable();
        }
        prop_assert_eq!(sent, expected_late);
    } else {
        prop_assert_eq!((counts.late_dropped, counts.late_sent), (expected, 0));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_late_does_not_depend_on_batches_or_commits(
        way in prop::sample::select(&Way::ALL),
        kind in prop::sample::select(&[Kind::Tumbling, Kind::Hopping]),
        late in prop::sample::select(choices().to_vec()),
        times in prop::collection::vec((0i64..150, 0u8..2), 0..60),
        commit_records in 1u64..40,
    ) {
        let events: Vec<_> =
            times.into_iter().map(|(at_ms, key)| event(&format!("k{key}"), at_ms, at_ms + 1)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(way, kind, late, &events, commit_records))?;
    }
}

#[tokio::test]
async fn a_late_record_says_where_it_was_and_by_how_much_it_was_late() {
    for way in Way::ALL {
        says_where_it_was(way).await;
    }
}

async fn says_where_it_was(way: Way) {
    let engine = way.engine(1);
    engine.create("input", 1);
    let record = |at_ms| event("k", at_ms, 1).to_record().header("mine", "kept");
    engine.write("input", 0, &[record(100), record(3), record(95)]);
    let state = small_state();
    run_to_end(way.flow(Kind::Tumbling, Late::ToTopic("late".into())), &engine, &state).await.unwrap();
    let late = engine.records("late");
    assert_eq!(late.len(), 1);
    assert_eq!((late[0].timestamp_ms, late[0].value.as_deref()), (3, Some(b"k,3,1".as_slice())));
    let expected = [
        ("mine", "kept"),
        (header::SOURCE_TOPIC, "input"),
        (header::SOURCE_PARTITION, "0"),
        (header::SOURCE_POSITION, "1"),
        (header::LATE_MS, "77"), // the watermark was at 80
    ];
    assert_eq!(headers(&late[0]), expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}

#[tokio::test]
async fn a_late_record_corrects_a_session_that_has_ended() {
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    // At 60 the watermark is at 40: both sessions of k have ended and been emitted; 12 joins them. 200 ends everything,
    // so that another 12 is too late.
    for at_ms in [0, 20, 60, 12, 200, 12] {
        engine.write("input", 0, &[event("k", at_ms, 1).to_record()]);
    }
    let state = small_state();
    let late = Late::Admit { allowed_lateness: Duration::from_millis(50) };
    let flow = flow(Kind::Session, late).commit_every(1, Duration::from_secs(1));
    let counts = run_to_end(flow, &engine, &state).await.unwrap().counts;
    let expected = [("k [0, 35)", "3, 3"), ("k [60, 75)", "1, 1"), ("k [200, 215)", "1, 1")];
    assert_eq!(engine.table("output"), expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    assert_eq!((counts.late_admitted, counts.late_dropped, counts.retractions), (1, 1, 2));
}

#[tokio::test]
async fn what_comes_after_the_end_of_a_bounded_run_does_not_replace_its_results() {
    for way in Way::ALL {
        let engine = way.engine(1);
        engine.create("input", 1);
        engine.write("input", 0, &[event("k", 5, 1).to_record()]);
        let state = small_state();
        run_to_end(way.flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap();
        // Another key may be in a shard that has had no window.
        let later = [("k", 6), ("k", 16), ("l", 7), ("m", 8)].map(|(key, at)| event(key, at, 1).to_record());
        engine.write("input", 0, &later);
        let counts = run_to_end(way.flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap().counts;
        let expected = [("k [0, 10)", "1, 1"), ("k [10, 20)", "1, 1")];
        let expected = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(engine.table("output"), expected, "{way:?}");
        assert_eq!((counts.records_in, counts.late_dropped), (5, 3), "{way:?}");
    }
}
