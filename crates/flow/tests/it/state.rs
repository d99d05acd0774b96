//! State belongs to one definition and one process, and memory does not hold it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{Capability, Carried, Elsewhere, EngineError, Noted, Position};
use anabranch_core::seam::ManualClock;
use anabranch_flow::{Aggregate, Disorder, Flow, FlowError, Late, OwnTopics, Tumbling, Undecodable};
use tempfile::TempDir;

use crate::memory::MemoryEngine;
use crate::model::{Event, Kind, event, flow, run_to_end, run_to_end_at};

fn one_event() -> Arc<MemoryEngine> {
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    engine.write("input", 0, &[event("k", 1, 1).to_record()]);
    engine
}

#[tokio::test]
async fn state_of_another_definition_is_refused() {
    let engine = one_event();
    let state = tempfile::tempdir().unwrap();
    run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap();
    let error = run_to_end(flow(Kind::Hopping, Late::Drop), &engine, &state).await.unwrap_err();
    let FlowError::OtherDefinition { found, expected, .. } = error else { panic!("{error}") };
    assert_eq!(
        (found.as_str(), expected.as_str()),
        (
            "flow test from input (1 partitions); windows tumbling of 10 ms; aggregate count, sum of i64",
            "flow test from input (1 partitions); windows hopping of 30 ms every 10 ms; aggregate count, sum of i64",
        )
    );
    // The late policy is not part of the state's shape.
    run_to_end(flow(Kind::Tumbling, Late::ToTopic("late".into())), &engine, &state).await.unwrap();
    engine.create("input", 2);
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::OtherDefinition { .. }), "{error}");
}

#[tokio::test]
async fn a_source_that_is_shorter_than_what_was_read_of_it_is_told() {
    let engine = one_event();
    let state = tempfile::tempdir().unwrap();
    run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap();
    engine.create("input", 1); // made anew, and empty
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::Engine(EngineError::OutOfRange { .. })), "{error}");
}

#[tokio::test]
async fn state_of_another_format_is_refused() {
    let engine = one_event();
    let state = tempfile::tempdir().unwrap();
    run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap();
    {
        let database = fjall::Database::builder(state.path().join("store")).open().unwrap();
        let meta = database.keyspace("meta", fjall::KeyspaceCreateOptions::default).unwrap();
        meta.insert("format", 3u32.to_be_bytes()).unwrap();
    }
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::StateFormat { found: 3, supported: 2, .. }), "{error}");
    // In format 1 the directory itself was the database.
    std::fs::rename(state.path().join("store/version"), state.path().join("version")).unwrap();
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::StateFormat { found: 1, supported: 2, .. }), "{error}");
}

/// A flow that was killed while its database was made could not be opened any more: "File exists".
#[tokio::test]
async fn a_copy_that_cannot_be_opened_is_made_anew() {
    let engine = one_event();
    let state = tempfile::tempdir().unwrap();
    let torn = |name: &str| {
        std::fs::create_dir_all(state.path().join(name)).unwrap();
        std::fs::write(state.path().join(name).join("0.jnl"), b"torn").unwrap();
    };
    torn("store.new");
    run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap();
    std::fs::remove_dir_all(state.path().join("store")).unwrap();
    torn("store");
    let end = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap();
    assert_eq!((end.counts.results, engine.records("output").len()), (1, 1));

    // Where there is no changelog, it is told.
    let engine = MemoryEngine::without_transactions(1);
    engine.create("input", 1);
    let state = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(state.path().join("store")).unwrap();
    std::fs::write(state.path().join("store/0.jnl"), b"torn").unwrap();
    let flow = flow(Kind::Tumbling, Late::Drop).at_least_once();
    let error = run_to_end(flow, &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::State { .. }), "{error}");
}

#[tokio::test]
async fn the_state_goes_where_the_changelog_is() {
    let engine = one_event();
    let state = tempfile::tempdir().unwrap();
    run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap();
    engine.write("input", 0, &[event("k", 100, 1).to_record()]);
    let elsewhere = tempfile::tempdir().unwrap();
    let end = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &elsewhere).await.unwrap();
    assert_eq!((end.counts.records_in, end.counts.results), (2, 2), "it knows of the first");
    assert_eq!(engine.records("output").len(), 2);
}

/// Apache Kafka's client hands on the records of a changelog, and then, with no records, that a transaction's marker was
/// passed. A store that was brought to the end stood behind the marker, where no progress was found: it was thrown away
/// when it was needed, and a standby had followed in vain.
#[tokio::test]
async fn a_copy_that_was_restored_is_not_restored_again() {
    let engine = one_event();
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &first).await.unwrap();
    let restored = async |state| {
        let open = flow(Kind::Tumbling, Late::Drop);
        let open = open.open(engine.clone(), state, Arc::new(ManualClock::at(0))).await.unwrap();
        open.metrics().snapshot().restored
    };
    assert!(restored(second.path()).await > 0);
    assert_eq!(restored(second.path()).await, 0);
}

/// A place in which all is where it was, as when a flow was moved away, and back again to where it came from.
struct Same(Noted, i64);

impl Elsewhere for Same {
    fn translate(&self, _: &TopicPartition, position: Position) -> Option<Position> {
        Some(position)
    }

    fn end(&self, _: &TopicPartition) -> Option<Position> {
        Some(Position(7))
    }

    fn noted(&self, _: &TopicPartition) -> Option<&Noted> {
        Some(&self.0)
    }

    fn now_ms(&self) -> i64 {
        self.1
    }
}

/// What a mover says when all of the changelog has come.
fn come_from_elsewhere(engine: &MemoryEngine, at_ms: i64) {
    let log = engine.records("test-changelog");
    let (own, at) =
        (OwnTopics::of("test-changelog", &log[0]).unwrap(), TopicPartition::new("test-changelog", 0));
    let mut there = Same(Noted::new(), at_ms);
    log.iter().for_each(|record| own.note(&at, record, &mut there.0));
    engine.write("test-changelog", 0, &own.last_word(&at, &there).unwrap().records);
}

/// Its local copy knows of the cluster and the changelog, but its place in that was another's. The same where the copy has come from
/// elsewhere, too, by another move, which was given up.
#[tokio::test]
async fn a_copy_from_before_a_move_is_made_anew() {
    let engine = one_event();
    let state = tempfile::tempdir().unwrap();
    run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap();
    let given_up = one_event();
    run_to_end(flow(Kind::Tumbling, Late::Drop), &given_up, &tempfile::tempdir().unwrap()).await.unwrap();
    for (engine, at_ms) in [(&engine, 6), (&given_up, 5)] {
        come_from_elsewhere(engine, at_ms);
    }
    let end = engine.records("test-changelog").len() as u64;
    let reopened = async |engine: &Arc<MemoryEngine>| {
        let open = flow(Kind::Tumbling, Late::Drop);
        let open = open.open(engine.clone(), state.path(), Arc::new(ManualClock::at(0))).await.unwrap();
        open.metrics().snapshot()
    };
    for engine in [&given_up, &engine] {
        let snapshot = reopened(engine).await;
        assert_eq!(snapshot.restored, end);
        assert_eq!(snapshot.counts.records_in, 1);
        assert_eq!(reopened(engine).await.restored, 0);
    }
}

/// The engine was set back, or is another one that began in the same millisecond. A store that is ahead has come to a place
/// that is not there, or has done more steps.
#[tokio::test]
async fn a_store_that_is_ahead_of_the_changelog_is_made_anew() {
    for keys in [1, 50] {
        let flow = |records| flow(Kind::Tumbling, Late::Drop).commit_every(records, Duration::from_secs(1));
        let theirs = one_event();
        for at_ms in [2, 200, 400] {
            theirs.write("input", 0, &[event("theirs", at_ms, 1).to_record()]);
        }
        let ours = MemoryEngine::new(1);
        ours.create("input", 1);
        let records: Vec<_> = (0..keys).map(|key| event(&format!("k{key}"), 1, 1).to_record()).collect();
        ours.write("input", 0, &records);
        let (state, another) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        run_to_end(flow(1), &theirs, &state).await.unwrap();
        run_to_end(flow(1000), &ours, &another).await.unwrap();
        ours.write("input", 0, &[event("k", 300, 5).to_record()]);
        let end = run_to_end(flow(1000), &ours, &state).await.unwrap();
        assert_eq!((end.counts.records_in, end.counts.results), (keys + 1, keys + 1));
        assert_eq!(ours.records("output").len() as u64, keys + 1);
        assert_eq!(ours.table("output")["k [300, 310)"], "1, 5");
    }
}

#[tokio::test]
async fn a_store_of_a_changelog_that_was_made_at_another_time_is_made_anew() {
    let admit = || Late::Admit { allowed_lateness: Duration::from_secs(1) };
    let flow = || flow(Kind::Tumbling, admit()).commit_every(1, Duration::from_secs(1));
    let (theirs, ours) = (one_event(), one_event());
    theirs.write("input", 0, &[event("k", 2, 7).to_record()]);
    let (state, another) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run_to_end(flow(), &theirs, &state).await.unwrap();
    run_to_end_at(1, flow(), &ours, &another).await.unwrap();
    for at_ms in [300, 400] {
        ours.write("input", 0, &[event("k", at_ms, 5).to_record()]);
        run_to_end_at(1, flow(), &ours, &another).await.unwrap();
    }
    // Late, and admitted into a window that theirs has, too.
    ours.write("input", 0, &[event("k", 3, 1).to_record()]);
    run_to_end_at(1, flow(), &ours, &state).await.unwrap();
    let expected = [("k [0, 10)", "2, 2"), ("k [300, 310)", "1, 5"), ("k [400, 410)", "1, 5")];
    assert_eq!(ours.table("output"), expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}

/// While a store lies aside, another goes on; what it deletes is told by tombstones, which go when they are old. So whoever
/// goes on from the old store finds a window that has been over for long, and its result once more.
#[tokio::test]
async fn a_store_that_was_left_for_too_long_is_made_anew() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    let admit = || Late::Admit { allowed_lateness: Duration::from_secs(1) };
    let flow = || flow(Kind::Tumbling, admit()).commit_every(1, Duration::from_secs(1));
    engine.write("input", 0, &[event("k", 1, 1).to_record()]);
    let (left, goes_on) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run_to_end(flow(), &engine, &left).await.unwrap();
    engine.write("input", 0, &[event("k", 5_000, 1).to_record()]);
    run_to_end(flow(), &engine, &goes_on).await.unwrap();
    engine.compact("test-changelog");
    assert_eq!(windows_of(&engine), ["5000"], "the first window is over, and nothing tells of it any more");
    run_to_end_at(DAY_MS, flow(), &engine, &left).await.unwrap();
    let database = fjall::Database::builder(left.path().join("store")).open().unwrap();
    let windows = database.keyspace("windows", fjall::KeyspaceCreateOptions::default).unwrap();
    assert_eq!(windows.len().unwrap(), 1);
}

/// The starts of the windows that a changelog tells of.
fn windows_of(engine: &MemoryEngine) -> Vec<String> {
    let mut windows = BTreeMap::new();
    for record in engine.records("test-changelog") {
        let key = record.key.unwrap();
        if let Some(start) = key.strip_prefix(b"w").map(|key| &key[8..16]) {
            let start_ms = i64::from_be_bytes(start.try_into().unwrap()) ^ i64::MIN;
            windows.insert(key, record.value.map(|_| start_ms.to_string()));
        }
    }
    windows.into_values().flatten().collect()
}

#[tokio::test]
async fn a_changelog_of_another_definition_is_refused() {
    let engine = one_event();
    let state = || tempfile::tempdir().unwrap();
    run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state()).await.unwrap();
    let error = run_to_end(flow(Kind::Hopping, Late::Drop), &engine, &state()).await.unwrap_err();
    let FlowError::OtherChangelog { topic, found, expected } = error else { panic!("{error}") };
    assert_eq!(topic, "test-changelog");
    assert!(found.contains("tumbling") && expected.contains("hopping"), "{found}; {expected}");
}

#[tokio::test]
async fn a_topic_that_is_no_changelog_is_refused() {
    let begins = |record: Record| async move {
        let engine = one_event();
        engine.create("test-changelog", 1);
        engine.write("test-changelog", 0, &[record]);
        let state = tempfile::tempdir().unwrap();
        run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err()
    };
    let error = begins(Record::new("somebody", "else")).await;
    assert!(matches!(error, FlowError::Changelog { .. }), "{error}");
    let error = begins(Record::new("oorigin", 3u32.to_be_bytes().to_vec())).await;
    assert!(matches!(error, FlowError::ChangelogFormat { found: 3, supported: 2, .. }), "{error}");

    let engine = one_event();
    engine.create("test-changelog", 2);
    let state = tempfile::tempdir().unwrap();
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::Engine(EngineError::Different { .. })), "{error}");
}

/// A changelog that somebody went on writing, or of which the newest records are lost.
#[tokio::test]
async fn what_is_not_a_flows_record_is_not_taken_for_one() {
    let engine = one_event();
    run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &tempfile::tempdir().unwrap()).await.unwrap();
    engine.write("test-changelog", 0, &[Record::new("x", "?")]);
    let state = tempfile::tempdir().unwrap();
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::Changelog { .. }), "{error}");
}

/// A flow that was replaced while it was held up somewhere adds nothing when it goes on.
#[tokio::test]
async fn a_flow_that_was_replaced_is_fenced() {
    let engine = one_event();
    let (old_state, new_state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = |state: &TempDir| {
        let flow = flow(Kind::Tumbling, Late::Drop).commit_every(1, Duration::from_secs(1));
        flow.open(engine.clone(), state.path().to_owned(), Arc::new(ManualClock::at(0)))
    };
    let old = open(&old_state).await.unwrap();
    let new = open(&new_state).await.unwrap();
    let error = old.run_until_end().await.unwrap_err();
    assert!(matches!(error, FlowError::Engine(EngineError::ProducerFenced { .. })), "{error}");
    assert_eq!(engine.records("output").len(), 0);
    new.run_until_end().await.unwrap();
    engine.write("input", 0, &[event("k", 100, 1).to_record()]);
    let end = open(&old_state).await.unwrap().run_until_end().await.unwrap();
    assert_eq!((end.counts.records_in, engine.records("output").len()), (2, 2), "it goes on from there");
}

#[tokio::test]
async fn an_engine_without_transactions_is_refused_unless_less_is_enough() {
    let engine = MemoryEngine::without_transactions(1);
    engine.create("input", 1);
    engine.write("input", 0, &[event("k", 1, 1).to_record()]);
    let state = tempfile::tempdir().unwrap();
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    let FlowError::Engine(EngineError::Unsuitable(unsuitable)) = error else { panic!("{error}") };
    assert_eq!(unsuitable.missing.len(), 1);
    assert_eq!(unsuitable.missing[0].capability, Capability::Transactions);
    let less = || flow(Kind::Tumbling, Late::Drop).at_least_once();
    run_to_end(less(), &engine, &state).await.unwrap();
    let end = run_to_end(less(), &engine, &state).await.unwrap();
    assert_eq!((end.counts.results, engine.records("output").len()), (1, 1));

    let engine = one_event();
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    let FlowError::OtherDefinition { found, .. } = error else { panic!("{error}") };
    assert!(found.ends_with("; at least once"), "{found}");
}

#[tokio::test]
async fn state_that_is_in_use_is_refused() {
    let engine = one_event();
    let state = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(0));
    let open = flow(Kind::Tumbling, Late::Drop).open(engine.clone(), state.path(), clock).await.unwrap();
    let error = run_to_end(flow(Kind::Tumbling, Late::Drop), &engine, &state).await.unwrap_err();
    assert!(matches!(error, FlowError::StateInUse { .. }), "{error}");
    open.run_until_end().await.expect("whoever was refused has not fenced it");
}

#[tokio::test]
async fn many_keys_do_not_stay_in_memory() {
    const KEYS: usize = 120_000;
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    let records: Vec<_> = (0..KEYS).map(|key| event(&format!("k{key}"), 1, 1).to_record()).collect();
    engine.write("input", 0, &records);
    let state = tempfile::tempdir().unwrap();
    let flow = flow(Kind::Tumbling, Late::Drop).commit_every(u64::MAX, Duration::from_secs(1));
    let end = run_to_end(flow, &engine, &state).await.unwrap();
    assert_eq!(end.counts.results, KEYS as u64);
    assert!(end.commits >= 3, "the write buffer was emptied {} times", end.commits);
    assert_eq!(engine.table("output").len(), KEYS);
}

#[tokio::test]
async fn what_is_over_leaves_no_state_behind() {
    let admit = Late::Admit { allowed_lateness: Duration::from_millis(15) };
    for kind in Kind::ALL {
        for (late, expected) in [(&Late::Drop, 0), (&admit, 1)] {
            let engine = MemoryEngine::new(1);
            engine.create("input", 1);
            for at_ms in [1, 3, 17, 40, 90, 1000] {
                engine.write("input", 0, &[event("k", at_ms, 1).to_record()]);
            }
            let state = tempfile::tempdir().unwrap();
            let flow = flow(kind, late.clone()).emit_early().commit_every(1, Duration::from_secs(1));
            run_to_end(flow, &engine, &state).await.unwrap();
            let database = fjall::Database::builder(state.path().join("store")).open().unwrap();
            let count =
                |name| database.keyspace(name, fjall::KeyspaceCreateOptions::default).unwrap().len().unwrap();
            // While it may be corrected, the last window stays; two of them hop.
            let windows = if kind == Kind::Hopping { 2 * expected } else { expected };
            let sessions = if kind == Kind::Session { expected } else { 0 };
            assert_eq!((count("windows"), count("sessions")), (windows, sessions), "{kind:?}");
            assert_eq!(windows_of(&engine).len(), windows, "{kind:?}");
        }
    }
}

/// The different amounts of a key.
struct Distinct;

impl Aggregate<Event> for Distinct {
    type State = BTreeSet<i64>;
    type Output = usize;

    fn name(&self) -> String {
        "distinct amounts".into()
    }

    fn init(&self) -> BTreeSet<i64> {
        BTreeSet::new()
    }

    fn add(&self, state: &mut BTreeSet<i64>, event: &Event) {
        state.insert(event.amount);
    }

    fn merge(&self, state: &mut BTreeSet<i64>, other: BTreeSet<i64>) {
        state.extend(other);
    }

    fn finish(&self, state: &BTreeSet<i64>) -> usize {
        state.len()
    }
}

#[tokio::test]
async fn an_aggregate_and_a_key_of_ones_own() {
    let engine = MemoryEngine::new(1);
    engine.create("input", 1);
    let records: Vec<_> = [1, 2, 2, 3, 1].map(|amount| event("k", 1, amount).to_record()).into();
    engine.write("input", 0, &records);
    let state = tempfile::tempdir().unwrap();
    Flow::named("distinct")
        .source(["input"])
        .decode(Event::parse, Undecodable::Fail)
        .event_time(|event| event.at_ms, Disorder::bounded(Duration::ZERO))
        .key_by(|event| (event.key.clone(), event.amount > 2))
        .window(Tumbling::of(Duration::from_secs(1)), Late::Drop)
        .aggregate((Distinct,))
        .sink("output", |(key, large), _, (distinct,)| {
            Record::new(format!("{key} {large}"), distinct.to_string())
        })
        .commit_every(2, Duration::from_secs(1))
        .open(engine.clone(), state.path(), Arc::new(ManualClock::at(0)))
        .await
        .unwrap()
        .run_until_end()
        .await
        .unwrap();
    let expected = [("k false", "2"), ("k true", "1")];
    assert_eq!(engine.table("output"), expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}
