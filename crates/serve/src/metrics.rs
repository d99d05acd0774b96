//! What the doors count. Counters only: they are read by `http`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_wire::apis;
use anabranch_wire::messages::ApiKey;
use parking_lot::Mutex;

/// Upper bounds of the latency histogram, seconds: those that OpenTelemetry advises for durations.
pub(crate) const LATENCY_BOUNDS_S: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long requests of one API took. Buckets are not cumulative here.
#[derive(Debug, Default)]
pub(crate) struct ApiMetrics {
    /// By [`LATENCY_BOUNDS_S`], and one more for what is longer.
    pub(crate) buckets: [Counter; LATENCY_BOUNDS_S.len() + 1],
    pub(crate) nanoseconds: Counter,
}

impl ApiMetrics {
    fn took(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = LATENCY_BOUNDS_S.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].add(1);
        self.nanoseconds.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Everything that the doors count.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// As [`apis`].
    by_api: Vec<ApiMetrics>,
    /// Answers by API and error code. Protects the map itself; both keys are ours, so it stays small.
    errors: Mutex<BTreeMap<(i16, i16), u64>>,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) records_in: Counter,
    pub(crate) records_out: Counter,
    pub(crate) connections_opened: Counter,
    pub(crate) connections_closed: Counter,
    /// Over `max.connections`.
    pub(crate) connections_refused: Counter,
    /// The operating system gave none: most often for want of files.
    pub(crate) accepts_failed: Counter,
    /// Larger than all the memory that there can be for one.
    pub(crate) requests_without_memory: Counter,
    /// Answered without records though there were some.
    pub(crate) fetches_without_memory: Counter,
    /// Requests that had no answer but closing the connection.
    pub(crate) requests_refused: Counter,
    /// Connections closed because their client did not read.
    pub(crate) answers_unread: Counter,
    /// Panics and responses that could not be encoded.
    pub(crate) bugs: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            by_api: apis().iter().map(|_| ApiMetrics::default()).collect(),
            errors: Mutex::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            records_in: Counter::default(),
            records_out: Counter::default(),
            connections_opened: Counter::default(),
            connections_closed: Counter::default(),
            connections_refused: Counter::default(),
            accepts_failed: Counter::default(),
            requests_without_memory: Counter::default(),
            fetches_without_memory: Counter::default(),
            requests_refused: Counter::default(),
            answers_unread: Counter::default(),
            bugs: Counter::default(),
        }
    }

    pub(crate) fn answered(&self, key: ApiKey, after: Duration) {
        if let Some(index) = apis().iter().position(|api| api.key == key) {
            self.by_api[index].took(after);
        }
    }

    pub(crate) fn error(&self, key: ApiKey, code: i16) {
        *self.errors.lock().entry((key as i16, code)).or_default() += 1;
    }

    pub(crate) fn by_api(&self) -> impl Iterator<Item = (&'static str, &ApiMetrics)> {
        apis().iter().map(|api| api.name).zip(&self.by_api)
    }

    /// API key, error code, count.
    pub(crate) fn errors(&self) -> Vec<(i16, i16, u64)> {
        self.errors.lock().iter().map(|((key, code), count)| (*key, *code, *count)).collect()
    }
}
