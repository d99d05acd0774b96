//! The data: 336,776 departures, in the order in which they really left.

use std::io::Read;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// See `data/nycflights13/README.md`.
static FLIGHTS_CSV_ZST: &[u8] = include_bytes!("../../data/nycflights13/flights.csv.zst");

/// Rows in the data.
pub(super) const FLIGHTS_TOTAL: u64 = 336_776;
/// Rows per airport.
pub(super) const FLIGHTS_BY_ORIGIN: [(&str, u64); 3] = [("EWR", 120_835), ("JFK", 111_279), ("LGA", 104_662)];
/// Rows without a delay.
pub(super) const WITHOUT_DELAY: u64 = 8_255;
/// Minutes of delay in the other rows, early departures counted as negative.
pub(super) const DELAY_MINUTES_TOTAL: i64 = 4_152_200;

/// A departure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Flight {
    pub(super) origin: String,
    pub(super) dest: String,
    pub(super) carrier: String,
    pub(super) flight: u32,
    /// The aircraft; unknown for most of the flights that never left.
    pub(super) tailnum: Option<String>,
    /// Scheduled departure, ms since the Unix epoch, UTC.
    pub(super) scheduled_ms: i64,
    /// Minutes after the scheduled departure; `None` for flights that never left.
    pub(super) dep_delay: Option<i64>,
}

impl Flight {
    /// When it left, or would have, ms since the Unix epoch, UTC.
    pub(super) fn left_ms(&self) -> i64 {
        self.scheduled_ms + self.dep_delay.unwrap_or(0) * 60_000
    }
}

/// The columns that are used. Missing values are empty or `NA`.
#[derive(Debug, Deserialize)]
struct Row {
    dep_delay: String,
    carrier: String,
    flight: u32,
    tailnum: String,
    origin: String,
    dest: String,
    minute: i64,
    time_hour: String,
}

/// All flights, ordered by when they left; cancelled ones by when they were scheduled.
pub(super) fn load() -> anyhow::Result<Vec<Flight>> {
    let mut text = Vec::new();
    zstd::stream::read::Decoder::with_buffer(FLIGHTS_CSV_ZST)?.read_to_end(&mut text)?;
    let mut reader = csv::Reader::from_reader(&text[..]);
    let rows = reader.deserialize::<Row>().map(|row| Flight::try_from(row?));
    let mut flights = rows.collect::<anyhow::Result<Vec<_>>>()?;
    flights.sort_by_key(Flight::left_ms);
    Ok(flights)
}

impl TryFrom<Row> for Flight {
    type Error = anyhow::Error;

    fn try_from(row: Row) -> anyhow::Result<Self> {
        let known = |text: String| (!text.is_empty() && text != "NA").then_some(text);
        let hour: jiff::Timestamp = row.time_hour.parse().with_context(|| row.time_hour.clone())?;
        let dep_delay = known(row.dep_delay).map(|minutes| minutes.parse().context(minutes)).transpose()?;
        Ok(Self {
            origin: row.origin,
            dest: row.dest,
            carrier: row.carrier,
            flight: row.flight,
            tailnum: known(row.tailnum),
            scheduled_ms: hour.as_millisecond() + row.minute * 60_000,
            dep_delay,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_what_it_is_known_to_be() {
        let flights = load().unwrap();
        assert_eq!(flights.len() as u64, FLIGHTS_TOTAL);
        for (origin, total) in FLIGHTS_BY_ORIGIN {
            assert_eq!(flights.iter().filter(|flight| flight.origin == origin).count() as u64, total);
        }
        let without = flights.iter().filter(|flight| flight.dep_delay.is_none()).count();
        assert_eq!(without as u64, WITHOUT_DELAY);
        assert_eq!(flights.iter().filter_map(|flight| flight.dep_delay).sum::<i64>(), DELAY_MINUTES_TOTAL);
        assert!(flights.is_sorted_by_key(Flight::left_ms));
    }
}
