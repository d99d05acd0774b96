//! What an append costs a program that holds the broker inside.

use serde::Serialize;

use super::client::Timed;
use super::goal::Goal;
use super::ground::{Ground, sync};
use super::table::{Spread, cell, table};
use super::{Common, Part};

#[derive(Debug, clap::Args, Serialize)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Records that are appended relaxed, one after the other
    #[arg(long, default_value = "500000", default_value_if("quick", "true", "50000"))]
    records: u64,
    /// Records that are appended durably
    #[arg(long, default_value = "5000", default_value_if("quick", "true", "500"))]
    durable_records: u64,
    #[arg(long, default_value_t = 1024)]
    record_bytes: u32,
}

/// A way to append, as the command line of `anabranch-bench append` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Way {
    face: &'static str,
    is_durable: bool,
}

const WAYS: [Way; 4] = [
    Way { face: "blocking", is_durable: false },
    Way { face: "async", is_durable: false },
    Way { face: "blocking", is_durable: true },
    Way { face: "async", is_durable: true },
];

#[derive(Debug, Serialize)]
struct Measurement {
    round: u32,
    way: Way,
    timed: Timed,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    measurements: Vec<Measurement>,
}

impl Part for Options {
    type Found = Found;

    const NAME: &str = "embedded";

    fn common(&self) -> &Common {
        &self.common
    }

    fn measure(&self, ground: &Ground, found: &mut Found) -> anyhow::Result<()> {
        for round in 0..self.common.rounds {
            for way in WAYS {
                let dir = ground.empty("embedded")?.join("data");
                let records = if way.is_durable { self.durable_records } else { self.records };
                let mut arguments = vec!["append".to_owned(), format!("--dir={}", dir.display())];
                arguments.push(format!("--face={}", way.face));
                arguments.push(format!("--records={records}"));
                arguments.push(format!("--warm-up={}", records / 10));
                arguments.push(format!("--record-bytes={}", self.record_bytes));
                arguments.extend(way.is_durable.then(|| "--durable".to_owned()));
                sync()?;
                let timed: Timed = ground.client()?.run(arguments)?;
                let p99 = timed.latency_us.as_ref().map(|latency| latency.p99);
                eprintln!("bench: round {round}: {way:?}: p99 {p99:?} µs");
                found.measurements.push(Measurement { round, way, timed });
            }
        }
        ground.empty("embedded").map(drop)
    }

    fn report(&self, found: &Found) -> String {
        let mut rows = Vec::new();
        for way in WAYS {
            let latencies = found.measurements.iter().filter(|one| one.way == way);
            let latencies = latencies.filter_map(|one| one.timed.latency_us.as_ref());
            let promise = if way.is_durable { "durable" } else { "relaxed" };
            rows.push(vec![
                format!("{}, {promise}", way.face),
                cell(latencies.clone().map(|latency| latency.p50), 1),
                cell(latencies.clone().map(|latency| latency.p90), 1),
                cell(latencies.clone().map(|latency| latency.p99), 1),
                cell(latencies.clone().map(|latency| latency.p99_9), 1),
                cell(latencies.clone().map(|latency| latency.p99_99), 1),
                cell(latencies.map(|latency| latency.max), 0),
            ]);
        }
        let header = ["µs for one record", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
        format!("{}\n\nThe histograms are in the raw results.", table(&header, &rows))
    }

    fn goals(&self, found: &Found) -> Vec<Goal> {
        let of = |way: Way| {
            let latencies = found.measurements.iter().filter(|one| one.way == way);
            let p99 = latencies.filter_map(|one| Some(one.timed.latency_us.as_ref()?.p99));
            let spread = Spread::of(p99)?;
            Some((format!("{} {spread:.1} µs", way.face), spread.median < 5.0))
        };
        vec![Goal::of("in process, 1 KiB relaxed append", "p99 < 5 µs", [of(WAYS[0]), of(WAYS[1])])]
    }
}
