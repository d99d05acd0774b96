//! What the Engine seam costs: the same client below it and without it, against the same server, by turns.
//!
//! Of Kafka's client the engine asks what others do. Of that of NATS it asks more: appends are stored whole or not at all, and a
//! record has a time of its own, in a header. So it is held to a client that does that, too; what it takes beside one that sends
//! each record by itself, without a header, is told.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::contender::Contender;
use super::goal::Goal;
use super::ground::{Ground, sync};
use super::nats::{Nats, Sync};
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
    #[arg(long, value_enum, value_delimiter = ',', default_value = "kafka,nats")]
    engines: Vec<Below>,
    /// The server of the engine `kafka`, which does not sync unless asked to: the client is to be the limit
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

/// What is behind the seam.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Below {
    Kafka,
    /// NATS JetStream, which syncs every two minutes, as it comes
    Nats,
}

/// The shape of what is sent and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Load {
    engine: Below,
    work: Work,
    record_bytes: u64,
    partitions: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Work {
    Produce,
    Consume,
    Remove,
}

/// How the server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    Raw,
    /// With appends that are stored whole or not at all, and a header with a record's time.
    RawAtomic,
    Engine,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Remove => "remove",
        }
    }
}

impl Below {
    fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Nats => "nats",
        }
    }

    fn ways(self) -> &'static [Way] {
        match self {
            Self::Kafka => &[Way::Raw, Way::Engine],
            Self::Nats => &[Way::Raw, Way::RawAtomic, Way::Engine],
        }
    }

    /// What promises the same without the seam.
    fn equal(self) -> Way {
        match self {
            Self::Kafka => Way::Raw,
            Self::Nats => Way::RawAtomic,
        }
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::RawAtomic => "raw-atomic",
            Self::Engine => "engine",
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { engine, work, record_bytes, partitions } = self;
        write!(f, "{}, {}, {record_bytes} B, {partitions} part.", engine.name(), work.name())
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
        for &engine in &self.engines {
            match engine {
                Below::Kafka => {
                    let server = Server::start(self.contender, ground)?;
                    self.measure_engine(ground, engine, &server.bootstrap, found)?;
                }
                Below::Nats => {
                    let server = Nats::start(ground, Sync::Seldom)?;
                    self.measure_engine(ground, engine, &server.address(), found)?;
                }
            }
        }
        Ok(())
    }

    fn report(&self, found: &Found) -> String {
        let header = ["", "", "records/s", "MiB/s", "client CPU µs/record"];
        let mut rows = Vec::new();
        for load in found.loads() {
            for &way in load.engine.ways() {
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
        let mut ratios = Vec::new();
        for load in found.loads() {
            for &than in load.engine.ways().iter().filter(|&&way| way != Way::Engine) {
                let ratio = |figure| found.ratio(load, than, figure);
                let cell = |figure| ratio(figure).map(|spread| format!("{spread:.2}")).unwrap_or_default();
                ratios.push(vec![load.to_string(), than.name().to_owned(), cell(RATE), cell(CPU)]);
            }
        }
        let ratios = table(&["engine", "to", "records/s", "CPU"], &ratios);
        [
            table(&header, &rows),
            "## Ratios to the client without the seam, each round's own".to_owned(),
            ratios,
        ]
        .join("\n\n")
    }

    fn goals(&self, found: &Found) -> Vec<Goal> {
        let of = |engine, work| {
            let loads = found.loads().into_iter().filter(|load| (load.engine, load.work) == (engine, work));
            let all = loads.filter_map(|load| Some((found.ratio(load, load.engine.equal(), RATE)?, load)));
            let (spread, load) = all.min_by(|a, b| a.0.median.total_cmp(&b.0.median))?;
            Some((format!("{spread:.2} × at worst ({load})"), spread.median >= LEAST))
        };
        let works = [Work::Produce, Work::Consume];
        let all = self.engines.iter().flat_map(|&engine| works.map(|work| of(engine, work)));
        let goal = "through the Engine seam against the same client without it, which promises the same";
        vec![Goal::of(goal, "≥ 0.95 × per second", all)]
    }
}

impl Options {
    fn measure_engine(
        &self,
        ground: &Ground,
        engine: Below,
        bootstrap: &str,
        found: &mut Found,
    ) -> anyhow::Result<()> {
        let warm_up = Load { engine, work: Work::Produce, record_bytes: 100, partitions: 1 };
        run(ground, bootstrap, "warm-up", warm_up, Way::Raw, WARM_UP_RECORDS).context("warming up")?;
        for round in 0..=self.common.rounds {
            for (&record_bytes, &partitions) in
                self.record_bytes.iter().flat_map(|bytes| self.partitions.iter().map(move |p| (bytes, p)))
            {
                let records = (self.mib << 20) / record_bytes.max(1);
                // Whoever begins has the emptier machine.
                let ways = engine.ways();
                for &way in ways.iter().cycle().skip(round as usize % ways.len()).take(ways.len()) {
                    let topic = format!("r{round}-{record_bytes}-{partitions}-{}", way.name());
                    for work in [Work::Produce, Work::Consume, Work::Remove] {
                        let load = Load { engine, work, record_bytes, partitions };
                        let context = || format!("{load}, {}, round {round}", way.name());
                        let told =
                            run(ground, bootstrap, &topic, load, way, records).with_context(context)?;
                        if work != Work::Remove {
                            eprintln!("bench: {}: {:.0} records/s", context(), told.records_per_second);
                            found.measurements.push(Measurement { round, load, way, told });
                        }
                    }
                    sync()?;
                }
            }
        }
        Ok(())
    }
}

/// Produces a topic, consumes it, or removes it.
fn run(
    ground: &Ground,
    bootstrap: &str,
    topic: &str,
    load: Load,
    way: Way,
    records: u64,
) -> anyhow::Result<Told> {
    let Load { engine, work, record_bytes, partitions } = load;
    let [record_bytes, partitions, records] =
        [record_bytes.to_string(), partitions.to_string(), records.to_string()];
    let arguments = [
        "engine",
        "--engine",
        engine.name(),
        "--way",
        way.name(),
        "--work",
        work.name(),
        "--bootstrap",
        bootstrap,
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

    /// The engine's figure to another way's of the same round.
    fn ratio(&self, load: Load, than: Way, figure: Figure) -> Option<Spread> {
        Spread::of(self.of(load, Way::Engine).filter_map(|engine| {
            let raw = self.of(load, than).find(|raw| raw.round == engine.round)?;
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
        let options =
            super::super::Alone::<Options>::try_parse_from(["bench", "--engines", "kafka"]).unwrap().part;
        let measurement = |round, work, way, rate| Measurement {
            round,
            load: Load { engine: Below::Kafka, work, record_bytes: 100, partitions: 1 },
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
                options.report(&found).contains("| kafka, consume, 100 B, 1 part. | raw | 2.00"),
                "{}",
                options.report(&found)
            );
            options.goals(&found).remove(0).reached
        };
        assert_eq!(reached(95.0), Reached::Yes);
        assert_eq!(reached(94.0), Reached::No);
    }
}
