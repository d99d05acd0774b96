//! What must come out: totals that are known of the data, counted from the topics.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anabranch::flow::Guarantee;
use anabranch_core::batch::{Record, RecordAt};
use anabranch_core::engine::{Engine, for_each_record};
use anyhow::Context;
use serde::Serialize;

use super::feed::Fed;
use super::flights::{DELAY_MINUTES_TOTAL, FLIGHTS_BY_ORIGIN, FLIGHTS_TOTAL, Flight, WITHOUT_DELAY};
use super::{Departures, FLIGHTS, LATE, RESULTS};

pub(super) const EXACTLY_ONCE: &str = "exactly_once";
pub(super) const AT_LEAST_ONCE: &str = "at_least_once";

/// What the topics hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    /// Rows in `flights`, per airport.
    pub(super) rows: BTreeMap<String, u64>,
    /// Departures in windows, per airport.
    pub(super) in_windows: BTreeMap<String, u64>,
    /// Late flights, per airport.
    pub(super) late: BTreeMap<String, u64>,
    /// Minutes, in windows and late.
    pub(super) delay_minutes: i64,
    /// Flights without a delay, in windows and late.
    pub(super) without_delay: u64,
    /// Windows, over all airports.
    pub(super) windows: u64,
}

impl Totals {
    /// Counts what the topics hold.
    pub(super) async fn read(engine: &dyn Engine) -> anyhow::Result<Self> {
        let mut totals = Self::default();
        for_each_record(engine, FLIGHTS, |RecordAt { record, .. }| {
            *totals.rows.entry(decode::<Flight>(&record)?.origin).or_default() += 1;
            Ok::<_, anyhow::Error>(())
        })
        .await?;
        for_each_record(engine, LATE, |RecordAt { record, .. }| {
            let flight: Flight = decode(&record)?;
            *totals.late.entry(flight.origin).or_default() += 1;
            totals.delay_minutes += flight.dep_delay.unwrap_or(0);
            totals.without_delay += u64::from(flight.dep_delay.is_none());
            Ok::<_, anyhow::Error>(())
        })
        .await?;
        // Results are upserts: the newest record per key counts.
        let mut results = HashMap::new();
        for_each_record(engine, RESULTS, |RecordAt { record, .. }| {
            let result: Departures = decode(&record)?;
            results.insert(record.key, result);
            Ok::<_, anyhow::Error>(())
        })
        .await?;
        totals.windows = results.len() as u64;
        for result in results.into_values() {
            *totals.in_windows.entry(result.airport).or_default() += result.departures;
            totals.delay_minutes += result.delay_total;
            totals.without_delay += result.without_delay;
        }
        Ok(totals)
    }
}

fn decode<'a, T: serde::Deserialize<'a>>(record: &'a Record) -> anyhow::Result<T> {
    serde_json::from_slice(record.value.as_deref().unwrap_or_default())
        .context("a record is not what the demo wrote")
}

/// One total.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) expected: i64,
    pub(super) found: i64,
    /// After the directory was opened again.
    pub(super) reopened: i64,
}

impl Check {
    pub(super) fn is_right(&self) -> bool {
        self.expected == self.found && self.found == self.reopened
    }
}

/// How the demo went.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) checks: Vec<Check>,
    pub(super) windows: u64,
    pub(super) late: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) produce_seconds: f64,
    pub(super) records_per_second: f64,
    pub(super) total_seconds: f64,
    /// What the flow promises on this engine.
    pub(super) delivery: &'static str,
}

impl Report {
    pub(super) fn new(
        first: &Totals,
        again: &Totals,
        fed: &Fed,
        delivery: Guarantee,
        elapsed: Duration,
    ) -> Self {
        let mut checks = Vec::new();
        let mut check = |name: String, expected: i64, of: &dyn Fn(&Totals) -> i64| {
            checks.push(Check { name, expected, found: of(first), reopened: of(again) });
        };
        let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>().cast_signed();
        check("flights in".into(), FLIGHTS_TOTAL.cast_signed(), &|totals| sum(&totals.rows));
        for (origin, expected) in FLIGHTS_BY_ORIGIN {
            let of =
                |counts: &BTreeMap<String, u64>| counts.get(origin).map_or(0, |count| count.cast_signed());
            check(format!("{origin} in"), expected.cast_signed(), &|totals| of(&totals.rows));
            check(format!("{origin} in windows and late"), expected.cast_signed(), &|totals| {
                of(&totals.in_windows) + of(&totals.late)
            });
        }
        check("minutes of delay".into(), DELAY_MINUTES_TOTAL, &|totals| totals.delay_minutes);
        check("without a delay".into(), WITHOUT_DELAY.cast_signed(), &|totals| {
            totals.without_delay.cast_signed()
        });
        let produce_seconds = fed.elapsed.as_secs_f64();
        Self {
            checks,
            windows: first.windows,
            late: first.late.values().sum(),
            records: fed.records,
            bytes: fed.bytes,
            produce_seconds,
            records_per_second: fed.records as f64 / produce_seconds,
            total_seconds: elapsed.as_secs_f64(),
            delivery: match delivery {
                Guarantee::ExactlyOnce => EXACTLY_ONCE,
                Guarantee::AtLeastOnce => AT_LEAST_ONCE,
            },
        }
    }

    pub(super) fn is_right(&self) -> bool {
        self.checks.iter().all(Check::is_right)
    }
}
