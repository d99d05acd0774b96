//! How long things took.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// A nanosecond to an hour, in three digits.
const NANOSECONDS_MAX: u64 = 3_600_000_000_000;

/// Durations, each counted.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

/// What they amount to, in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) p99_99: f64,
    pub(crate) max: f64,
    /// Pairs of a share, from 0 to 1, and what that share took at most.
    pub(crate) quantiles: Vec<(f64, f64)>,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, NANOSECONDS_MAX, 3).expect("the bounds are in order"))
    }

    pub(crate) fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the bounds are the same");
    }

    pub(crate) fn summary(&self) -> Latency {
        let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        let share = |share: f64| us(self.0.value_at_quantile(share));
        Latency {
            count: self.0.len(),
            mean: self.0.mean() / 1e3,
            p50: share(0.5),
            p90: share(0.9),
            p99: share(0.99),
            p99_9: share(0.999),
            p99_99: share(0.9999),
            max: us(self.0.max()),
            quantiles: self
                .0
                .iter_quantiles(2)
                .map(|step| (step.quantile_iterated_to(), us(step.value_iterated_to())))
                .collect(),
        }
    }
}

/// The processor time that this process has used.
pub(crate) fn cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_thousand() {
        let mut latencies = Latencies::new();
        (1..=1000).for_each(|us| latencies.record(Duration::from_micros(us)));
        let summary = latencies.summary();
        for (got, expect) in [(summary.p50, 500.0), (summary.p99, 990.0), (summary.p99_9, 999.0)] {
            assert!((got / expect - 1.0).abs() < 2e-3, "{got} for {expect}");
        }
        assert_eq!(summary.count, 1000);
        assert!(summary.quantiles.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
    }
}
