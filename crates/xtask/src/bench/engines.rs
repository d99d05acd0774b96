//! What the Engine seam costs: the same client below it and without it, against the same server, by turns.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::contender::Contender;
use super::goal::Goal;
use super::ground::{Ground, sync};
use super::server::Server;
use super::table::{Spread, cell, table};
use super::{Common, Part};

/// What the seam may take: a twentieth.
const LEAST: f64 = 0.95;

/// A young Java server is slow.
const WARM_UP_RECORDS: u64 = 300_000;

#[derive(Debug, clap::Args, Serialize)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// The server, which does not sync unless asked to: the client is to be the limit
    #[arg(long, value_enum, default_value_t = Contender::Kafka)]
    contender: Contender,
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    partitions: Vec<u32>,
    #[arg(long, value_delimiter = ',', default_value = "100,1024")]
    record_bytes: Vec<u64>,
    /// Bytes of all records of a measurement, MiB
    #[arg(long, default_value = "300", default_value_if("quick", "true", "50"))]
    mib: u64,
}

/// The shape of what is sent and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Load {
    work: Work,
    record_bytes: u64,
    partitions: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Work {
    Produce,
    Consume,
}

/// How the server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    Raw,
    Engine,
}

const WAYS: [Way; 2] = [Way::Raw, Way::Engine];

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
        }
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Engine => "engine",
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} B, {} part.", self.work.name(), self.record_bytes, self.partitions)
    }
}

/// What the client measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Told {
    records_per_second: f64,
    mib_per_second: f64,
    client_cpu_us_per_record: f64,
}

#[derive(Debug, Serialize)]
struct Measurement {
    /// From 0, which warms up and is not in the tables.
    round: u32,
    load: Load,
    way: Way,
    told: Told,
}

/// What was found, in the order in which it was.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    measurements: Vec<Measurement>,
}

type Figure = fn(&Told) -> f64;

const RATE: Figure = |told| told.records_per_second;
const CPU: Figure = |told| told.client_cpu_us_per_record;

impl Part for Options {
    type Found = Found;

    const NAME: &str = "engines";

    fn common(&self) -> &Common {
        &self.common
    }

    fn measure(&self, ground: &Ground, found: &mut Found) -> anyhow::Result<()> {
        let server = Server::start(self.contender, ground)?;
        let warm_up = Load { work: Work::Produce, record_bytes: 100, partitions: 1 };
        run(ground, &server, "warm-up", warm_up, Way::Raw, WARM_UP_RECORDS).context("warming up")?;
        for round in 0..=self.common.rounds {
            for (&record_bytes, &partitions) in
                self.record_bytes.iter().flat_map(|bytes| self.partitions.iter().map(move |p| (bytes, p)))
            {
                let records = (self.mib << 20) / record_bytes.max(1);
                // Whoever begins has the emptier machine.
                let ways = WAYS.into_iter().cycle().skip(round as usize % 2).take(2);
                for way in ways {
                    let topic = format!("r{round}-{record_bytes}-{partitions}-{}", way.name());
                    for work in [Work::Produce, Work::Consume] {
                        let load = Load { work, record_bytes, partitions };
                        let context = || format!("{load}, {}, round {round}", way.name());
                        let told = run(ground, &server, &topic, load, way, records).with_context(context)?;
                        eprintln!("bench: {}: {:.0} records/s", context(), told.records_per_second);
                        found.measurements.push(Measurement { round, load, way, told });
                    }
                    ground.client()?.delete_topic(&server.bootstrap, &topic)?;
                    sync()?;
                }
            }
        }
        Ok(())
    }

    fn report(&self, found: &Found) -> String {
        let header = ["", "", "records/s", "MiB/s", "client CPU µs/record"];
        let mut rows = Vec::new();
        for load in found.loads() {
            for way in WAYS {
                let of = |figure: Figure| found.of(load, way).map(move |one| figure(&one.told));
                rows.push(vec![
                    load.to_string(),
                    way.name().to_owned(),
                    cell(of(RATE), 0),
                    cell(of(|told| told.mib_per_second), 1),
                    cell(of(CPU), 2),
                ]);
            }
        }
        let ratios = found.loads().into_iter().map(|load| {
            let cell =
                |figure| found.ratio(load, figure).map(|spread| format!("{spread:.2}")).unwrap_or_default();
            vec![load.to_string(), cell(RATE), cell(CPU)]
        });
        let ratios = table(&["engine / raw", "records/s", "CPU"], &ratios.collect::<Vec<_>>());
        [
            table(&header, &rows),
            "## Ratios to the client without the seam, each round's own".to_owned(),
            ratios,
        ]
        .join("\n\n")
    }

    fn goals(&self, found: &Found) -> Vec<Goal> {
        let of = |work| {
            let loads = found.loads().into_iter().filter(|load| load.work == work);
            let all = loads.filter_map(|load| Some((found.ratio(load, RATE)?, load)));
            let (spread, load) = all.min_by(|a, b| a.0.median.total_cmp(&b.0.median))?;
            Some((format!("{spread:.2} × at worst ({load})"), spread.median >= LEAST))
        };
        vec![Goal::of(
            "through the Engine seam against the same client without it",
            "≥ 0.95 × per second",
            [of(Work::Produce), of(Work::Consume)],
        )]
    }
}

/// Produces a topic, or consumes it.
fn run(
    ground: &Ground,
    server: &Server,
    topic: &str,
    load: Load,
    way: Way,
    records: u64,
) -> anyhow::Result<Told> {
    let Load { work, record_bytes, partitions } = load;
    let [record_bytes, partitions, records] =
        [record_bytes.to_string(), partitions.to_string(), records.to_string()];
    let arguments = [
        "engine",
        "--way",
        way.name(),
        "--work",
        work.name(),
        "--bootstrap",
        &server.bootstrap,
        "--topic",
        topic,
        "--partitions",
        &partitions,
        "--record-bytes",
        &record_bytes,
        "--records",
        &records,
    ];
    ground.client()?.run(arguments)
}

impl Found {
    fn counted(&self) -> impl Iterator<Item = &Measurement> {
        self.measurements.iter().filter(|one| one.round > 0)
    }

    fn loads(&self) -> BTreeSet<Load> {
        self.counted().map(|one| one.load).collect()
    }

    fn of(&self, load: Load, way: Way) -> impl Iterator<Item = &Measurement> {
        self.counted().filter(move |one| (one.load, one.way) == (load, way))
    }

    /// The engine's figure to the raw client's of the same round.
    fn ratio(&self, load: Load, figure: Figure) -> Option<Spread> {
        Spread::of(self.of(load, Way::Engine).filter_map(|engine| {
            let raw = self.of(load, Way::Raw).find(|raw| raw.round == engine.round)?;
            Some(figure(&engine.told) / figure(&raw.told)).filter(|ratio| ratio.is_finite())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::goal::Reached;
    use super::*;

    #[test]
    fn the_worst_load_decides_and_the_first_round_does_not_count() {
        use clap::Parser;
        let options = super::super::Alone::<Options>::try_parse_from(["bench"]).unwrap().part;
        let measurement = |round, work, way, rate| Measurement {
            round,
            load: Load { work, record_bytes: 100, partitions: 1 },
            way,
            told: Told { records_per_second: rate, mib_per_second: 1.0, client_cpu_us_per_record: 1.0 },
        };
        let reached = |rate| {
            let mut measurements = Vec::new();
            for work in [Work::Produce, Work::Consume] {
                measurements.push(measurement(0, work, Way::Engine, 1.0));
                measurements.push(measurement(1, work, Way::Raw, 100.0));
                measurements.push(measurement(
                    1,
                    work,
                    Way::Engine,
                    if work == Work::Produce { rate } else { 200.0 },
                ));
            }
            let found = Found { measurements };
            assert!(
                options.report(&found).contains("| consume, 100 B, 1 part. | 2.00"),
                "{}",
                options.report(&found)
            );
            options.goals(&found).remove(0).reached
        };
        assert_eq!(reached(95.0), Reached::Yes);
        assert_eq!(reached(94.0), Reached::No);
    }
}
