//! Events, the flow that the tests run over them, and the same computation done naively in one pass.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::batch::{Record, RecordAt};
use anabranch_core::seam::ManualClock;
use anabranch_flow::{
    Count, Definition, Disorder, Flow, FlowError, Hopping, Late, Session, Snapshot, Sum, Tumbling,
    Undecodable, Window, WindowKind,
};
use tempfile::TempDir;

use crate::memory::MemoryEngine;

pub(crate) const DISORDER_MS: i64 = 20;

/// An amount that a key got at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Event {
    pub(crate) key: String,
    pub(crate) at_ms: i64,
    pub(crate) amount: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tumbling,
    Hopping,
    Session,
}

/// How a flow is spread, and what its steps are made of. The output is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) shards: i32,
    /// On an engine with transactions; else with conditional appends.
    pub(crate) exactly_once: bool,
}

impl Way {
    pub(crate) const ALL: [Self; 6] = [
        Self { shards: 1, exactly_once: true },
        Self { shards: 2, exactly_once: true },
        Self { shards: 5, exactly_once: true },
        Self { shards: 1, exactly_once: false },
        Self { shards: 2, exactly_once: false },
        Self { shards: 5, exactly_once: false },
    ];

    pub(crate) fn engine(self, batches_per_read: usize) -> Arc<MemoryEngine> {
        match self.exactly_once {
            true => MemoryEngine::new(batches_per_read),
            false => MemoryEngine::with_conditions(batches_per_read),
        }
    }

    pub(crate) fn flow(self, kind: Kind, late: Late) -> TestFlow {
        flow(kind, late).shards(self.shards).or_at_least_once()
    }
}

pub(crate) type TestFlow = Definition<Event, String, (Count, Sum<Event, i64>)>;

pub(crate) fn event(key: &str, at_ms: i64, amount: i64) -> Event {
    Event { key: key.into(), at_ms, amount }
}

impl Event {
    pub(crate) fn to_record(&self) -> Record {
        Record::new(self.key.clone(), format!("{},{},{}", self.key, self.at_ms, self.amount)).at(self.at_ms)
    }

    pub(crate) fn parse(at: &RecordAt) -> Result<Self, &'static str> {
        let text = at.record.value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
        let mut fields = text.ok_or("no text")?.split(',');
        let mut next = || fields.next().ok_or("a field is missing");
        let (key, at_ms, amount) = (next()?, next()?, next()?);
        let number = |text: &str| text.parse().map_err(|_| "not a number");
        Ok(event(key, number(at_ms)?, number(amount)?))
    }
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Tumbling, Self::Hopping, Self::Session];

    /// Windows of the kind around `at_ms`, found by trying every start.
    fn windows(self, at_ms: i64) -> Vec<Window> {
        let (size, step) = match self {
            Self::Tumbling => (10, 10),
            Self::Hopping => (30, 10),
            Self::Session => (15, 1),
        };
        let around = |start_ms: &i64| start_ms % step == 0 && (*start_ms..*start_ms + size).contains(&at_ms);
        let starts = at_ms - size..=at_ms;
        starts.filter(around).map(|start_ms| Window { start_ms, end_ms: start_ms + size }).collect()
    }
}

/// Either kind as a flow takes it.
struct Boxed(Box<dyn WindowKind>);

impl WindowKind for Boxed {
    fn assign(&self, at_ms: i64, into: &mut Vec<Window>) {
        self.0.assign(at_ms, into);
    }

    fn merges(&self) -> bool {
        self.0.merges()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// Counts and sums the amounts of `input` per key and window of `kind`, into `output`.
pub(crate) fn flow(kind: Kind, late: Late) -> TestFlow {
    let ms = Duration::from_millis;
    let windows: Box<dyn WindowKind> = match kind {
        Kind::Tumbling => Box::new(Tumbling::of(ms(10))),
        Kind::Hopping => Box::new(Hopping::of(ms(30), ms(10))),
        Kind::Session => Box::new(Session::with_gap(ms(15))),
    };
    Flow::named("test")
        .source(["input"])
        .decode(Event::parse, Undecodable::Fail)
        .event_time(|event| event.at_ms, Disorder::bounded(ms(DISORDER_MS as u64)))
        .key_by(|event| event.key.clone())
        .window(Boxed(windows), late)
        .aggregate((Count, Sum::of(|event: &Event| event.amount)))
        .sink("output", |key, window, (count, sum)| {
            Record::new(format!("{key} {window}"), format!("{count}, {sum}"))
        })
}

/// A directory for the state of a small flow that is opened very often: in memory where there is such a place, since
/// what is tested there is the death of the process, and not of the disk.
pub(crate) fn small_state() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) async fn run_to_end(
    flow: TestFlow,
    engine: &Arc<MemoryEngine>,
    state: &TempDir,
) -> Result<Snapshot, FlowError> {
    run_to_end_at(0, flow, engine, state).await
}

/// The same at a time of the clock.
pub(crate) async fn run_to_end_at(
    now_ms: i64,
    flow: TestFlow,
    engine: &Arc<MemoryEngine>,
    state: &TempDir,
) -> Result<Snapshot, FlowError> {
    let clock = Arc::new(ManualClock::at(now_ms));
    flow.open(engine.clone(), state.path(), clock).await?.run_until_end().await
}

/// Copies a directory, as deep as it is.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// What `output` must be in the end when `events` are all in time.
pub(crate) fn naive(kind: Kind, events: &[Event]) -> BTreeMap<String, String> {
    let mut events = events.to_vec();
    events.sort_by_key(|event| event.at_ms);
    let mut results: BTreeMap<(String, i64), (i64, u64, i64)> = BTreeMap::new();
    for Event { key, at_ms, amount } in events {
        if kind == Kind::Session {
            let joined = results
                .range_mut((key.clone(), i64::MIN)..=(key.clone(), at_ms))
                .next_back()
                .filter(|(_, (end_ms, ..))| at_ms <= *end_ms);
            if let Some((_, (end_ms, count, sum))) = joined {
                (*end_ms, *count, *sum) = (at_ms + 15, *count + 1, *sum + amount);
                continue;
            }
            results.insert((key, at_ms), (at_ms + 15, 1, amount));
            continue;
        }
        for Window { start_ms, end_ms } in kind.windows(at_ms) {
            let (_, count, sum) = results.entry((key.clone(), start_ms)).or_insert((end_ms, 0, 0));
            (*count, *sum) = (*count + 1, *sum + amount);
        }
    }
    as_table(results)
}

/// What `output` must be when one partition holds `events` in this order, and which events are late. Not for sessions.
pub(crate) fn naive_with_late(
    kind: Kind,
    events: &[Event],
    allowed_ms: i64,
) -> (BTreeMap<String, String>, Vec<Event>) {
    let mut results: BTreeMap<(String, i64), (i64, u64, i64)> = BTreeMap::new();
    let mut late = Vec::new();
    let mut watermark = i64::MIN;
    for event in events {
        let Event { key, at_ms, amount } = event;
        let (open, closed): (Vec<_>, Vec<_>) = kind
            .windows(*at_ms)
            .into_iter()
            .partition(|window| window.end_ms > watermark.saturating_sub(allowed_ms));
        for Window { start_ms, end_ms } in open {
            let (_, count, sum) = results.entry((key.clone(), start_ms)).or_insert((end_ms, 0, 0));
            (*count, *sum) = (*count + 1, *sum + amount);
        }
        if !closed.is_empty() {
            late.push(event.clone());
        }
        watermark = watermark.max(at_ms - DISORDER_MS);
    }
    (as_table(results), late)
}

fn as_table(results: BTreeMap<(String, i64), (i64, u64, i64)>) -> BTreeMap<String, String> {
    let row = |((key, start_ms), (end_ms, count, sum))| {
        (format!("{key} {}", Window { start_ms, end_ms }), format!("{count}, {sum}"))
    };
    results.into_iter().map(row).collect()
}
