//! Anabranch and Apache Kafka side by side, with Kafka's own tools.
//!
//! All contenders are started first and stay up, so that each is measured at rest, with the others idle, and warm
//! later. Then every load is given to one after the other, round by round: what is compared was measured within
//! minutes, and whoever comes first in one round comes second in the next.

mod load;
mod report;

use std::collections::BTreeMap;
use std::time::Duration;
use std::{fmt, fs, thread};

use anyhow::Context;
use serde::Serialize;

use self::load::Work;
pub(super) use self::load::{Acks, Load};
use super::contender::{Contender, Settings};
use super::goal::Goal;
use super::ground::{Ground, sync, sync_deleted};
use super::process::{self, Usage};
use super::server::Server;
use super::tool::{Kafka, Measured};
use super::{Common, Part};

/// What every server serves before anything is measured. A young Java server handles its first ten thousand requests several
/// times slower than later ones; this is about as many.
const SERVER_WARM_UP: Load = Load { record_bytes: 1024, acks: Acks::All, partitions: 1 };
const SERVER_WARM_UP_RECORDS: u64 = 150_000;

/// The first round of a load knows no rate yet: it produces so many bytes, or so many records if they are small.
const WARM_UP_BYTES: u64 = 16 << 20;
const WARM_UP_RECORDS_MAX: u64 = 200_000;

/// Fewer say nothing.
const RECORDS_MIN: u64 = 100;

/// One measurement writes no more, however fast the contender is.
const RUN_BYTES_MAX: u64 = 2 << 30;

/// After these, a server that has just started, or has just been asked for something, is at rest.
const SETTLE: Duration = Duration::from_secs(2);

/// The partitions of the topic that memory at rest is measured with.
const AT_REST_PARTITIONS: u32 = 10;

#[derive(Debug, clap::Args, Serialize)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Who is measured
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Contender::ALL)]
    contenders: Vec<Contender>,
    /// Sizes of a record's value; there are no keys
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=900_000),
        default_value = "1024,100",
        default_value_if("quick", "true", "1024")
    )]
    record_bytes: Vec<u32>,
    /// Acknowledgements
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "all,1",
        default_value_if("quick", "true", "all")
    )]
    acks: Vec<Acks>,
    /// Partitions of the topic
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=1000),
        default_value = "1,16"
    )]
    partitions: Vec<u32>,
    /// How long a producer should run: it gets as many records as it took in this time in the round before
    #[arg(
        long,
        value_parser = clap::value_parser!(u64).range(1..=120),
        default_value = "10",
        default_value_if("quick", "true", "5")
    )]
    seconds: u64,
    /// Give every producer so many records instead, however long they take (2 GiB at most)
    #[arg(long, value_parser = clap::value_parser!(u64).range(RECORDS_MIN..))]
    records: Option<u64>,
    /// Records per second of the paced producer, whose latencies are those of the server
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000), default_value_t = 5000)]
    pace: u64,
}

impl Options {
    fn loads(&self) -> Vec<Load> {
        let mut loads = Vec::new();
        for &record_bytes in &self.record_bytes {
            for &acks in &self.acks {
                let load = |&partitions| Load { record_bytes, acks, partitions };
                loads.extend(self.partitions.iter().map(load));
            }
        }
        loads
    }

    /// How many records are produced, given how many per second it were the last time.
    fn records(&self, load: Load, rate: Option<f64>) -> u64 {
        let bytes = u64::from(load.record_bytes);
        let wanted = self.records.unwrap_or_else(|| match rate {
            Some(rate) => (rate * self.seconds as f64) as u64,
            None => (WARM_UP_BYTES / bytes).min(WARM_UP_RECORDS_MAX),
        });
        wanted.clamp(RECORDS_MIN, RUN_BYTES_MAX / bytes)
    }
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    settings: Vec<Settings>,
    at_rest: Vec<AtRest>,
    /// In the order in which they were made.
    measurements: Vec<Measurement>,
}

/// A contender that does nothing.
#[derive(Debug, Serialize)]
struct AtRest {
    contender: Contender,
    /// From the process's birth, with an empty directory, until it answered.
    start_ms: u128,
    /// With no topic.
    resident_bytes: u64,
    /// With one empty topic of so many partitions.
    resident_bytes_with_partitions: u64,
    partitions: u32,
    /// The binary, or all of Kafka's jars (without the Java runtime).
    program_bytes: u64,
}

/// One contender's work on one load in one round.
#[derive(Debug, Serialize)]
struct Measurement {
    /// From 0, which warms up.
    round: u32,
    /// Whether it is left out of the report.
    warm_up: bool,
    contender: Contender,
    load: Load,
    work: Work,
    measured: Measured,
    /// Of the server alone, while the tool ran and until all was on the disk.
    usage: Usage,
    /// Of the server, right after.
    resident_bytes_after: u64,
}

impl Measurement {
    /// The server's processor time for one record.
    fn cpu_us_per_record(&self) -> f64 {
        self.usage.cpu_seconds * 1e6 / self.measured.records as f64
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, contender, load, work, measured, .. } = self;
        let rate = measured.records_per_second;
        write!(f, "round {round}: {load}: {}: {work:?} {rate:.0} records/s", contender.name())
    }
}

impl Part for Options {
    type Found = Found;

    const NAME: &str = "kafka";

    fn common(&self) -> &Common {
        &self.common
    }

    fn measure(&self, ground: &Ground, found: &mut Found) -> anyhow::Result<()> {
        found.settings = self.contenders.iter().map(|&contender| contender.into()).collect();
        Bench { options: self, ground, kafka: ground.kafka()? }.run(found)
    }

    fn report(&self, found: &Found) -> String {
        report::report(self, found)
    }

    fn goals(&self, _: &Found) -> Vec<Goal> {
        Vec::new() // they are spoken of with the light client, which is no limit
    }
}

struct Bench<'a> {
    options: &'a Options,
    ground: &'a Ground,
    kafka: &'a Kafka,
}

impl Bench<'_> {
    fn run(&self, results: &mut Found) -> anyhow::Result<()> {
        let mut servers = Vec::new();
        for &contender in &self.options.contenders {
            eprintln!("bench: starting {}", contender.name());
            let server = Server::start(contender, self.ground)?;
            results.at_rest.push(self.at_rest(&server)?);
            self.warm_up(&server).with_context(|| format!("warming up {}", contender.name()))?;
            servers.push(server);
        }
        // Of the last round, by load and contender.
        let mut rates: BTreeMap<(Load, Contender), f64> = BTreeMap::new();
        for round in 0..=self.options.common.rounds {
            for (number, &load) in self.options.loads().iter().enumerate() {
                let first = (round as usize + number) % servers.len().max(1);
                let in_turn = servers.iter().cycle().skip(first).take(servers.len());
                for server in in_turn {
                    let rate = rates.get(&(load, server.contender)).copied();
                    let measured = self
                        .measure(server, round, load, rate)
                        .with_context(|| format!("{}, {load}, round {round}", server.contender.name()))?;
                    if let Some(produced) = measured.iter().find(|one| one.work == Work::Produce) {
                        rates.insert((load, server.contender), produced.measured.records_per_second);
                    }
                    results.measurements.extend(measured);
                }
            }
        }
        Ok(())
    }

    /// What a contender costs that does nothing. The others do nothing either.
    fn at_rest(&self, server: &Server) -> anyhow::Result<AtRest> {
        thread::sleep(SETTLE);
        let resident_bytes = process::resident_bytes(server.pid)?;
        self.kafka.create_topic(server, "at-rest", AT_REST_PARTITIONS)?;
        thread::sleep(SETTLE);
        Ok(AtRest {
            contender: server.contender,
            start_ms: server.start.as_millis(),
            resident_bytes,
            resident_bytes_with_partitions: process::resident_bytes(server.pid)?,
            partitions: AT_REST_PARTITIONS,
            program_bytes: if server.contender.is_kafka() {
                self.kafka.program_bytes()?
            } else {
                fs::metadata(&self.ground.binary)?.len()
            },
        })
    }

    fn warm_up(&self, server: &Server) -> anyhow::Result<()> {
        let (kafka, topic) = (self.kafka, "warm-up");
        kafka.create_topic(server, topic, SERVER_WARM_UP.partitions)?;
        kafka.produce(server, topic, SERVER_WARM_UP, SERVER_WARM_UP_RECORDS, None)?;
        kafka.consume(server, topic, SERVER_WARM_UP_RECORDS)?;
        kafka.delete_topic(server, topic)?;
        sync_deleted()
    }

    /// All the work with one load on one server, on a new topic.
    fn measure(
        &self,
        server: &Server,
        round: u32,
        load: Load,
        rate: Option<f64>,
    ) -> anyhow::Result<Vec<Measurement>> {
        let topic = format!("round-{round}-{}-{}-{}", load.record_bytes, load.acks.name(), load.partitions);
        let records = self.options.records(load, rate);
        let paced = self.options.pace * self.options.seconds;
        self.kafka.create_topic(server, &topic, load.partitions)?;
        let mut measurements = Vec::new();
        for work in Work::ALL {
            let warm_up = round == 0;
            if warm_up && work == Work::Paced {
                continue; // producing has warmed up what it uses
            }
            let before = Usage::of(server.pid)?;
            let measured = match work {
                Work::Produce => self.kafka.produce(server, &topic, load, records, None)?,
                Work::Consume => self.kafka.consume(server, &topic, records)?,
                Work::Paced => self.kafka.produce(server, &topic, load, paced, Some(self.options.pace))?,
            };
            let resident_bytes_after = process::resident_bytes(server.pid)?;
            // Whoever leaves writing for later writes, too.
            sync()?;
            let measurement = Measurement {
                round,
                warm_up,
                contender: server.contender,
                load,
                work,
                measured,
                usage: Usage::of(server.pid)?.since(before),
                resident_bytes_after,
            };
            eprintln!("bench: {measurement}");
            measurements.push(measurement);
        }
        self.kafka.delete_topic(server, &topic)?;
        sync_deleted()?;
        Ok(measurements)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        Line::try_parse_from([&["bench"], arguments].concat()).unwrap().options
    }

    #[test]
    fn quick_is_another_set_of_defaults() {
        let full = options(&[]);
        assert_eq!((full.loads().len(), full.common.rounds, full.seconds), (8, 3, 10));
        let quick = options(&["--quick"]);
        let load = |partitions| Load { record_bytes: 1024, acks: Acks::All, partitions };
        assert_eq!((quick.loads(), quick.common.rounds), (vec![load(1), load(16)], 1));
        let mixed = options(&["--quick", "--acks", "all,1", "--rounds=4"]);
        assert_eq!((mixed.loads().len(), mixed.common.rounds, mixed.seconds), (4, 4, quick.seconds));
    }

    #[test]
    fn a_run_lasts_as_long_as_wanted_and_never_fills_the_disk() {
        let load = Load { record_bytes: 1024, acks: Acks::All, partitions: 1 };
        let small = Load { record_bytes: 1, ..load };
        let full = options(&[]);
        for (load, rate, expect) in [
            (load, None, WARM_UP_BYTES / 1024),
            (small, None, WARM_UP_RECORDS_MAX),
            (load, Some(1000.5), 10_005),
            (load, Some(0.0), RECORDS_MIN),
            (load, Some(1e12), RUN_BYTES_MAX / 1024),
            (load, Some(f64::INFINITY), RUN_BYTES_MAX / 1024),
        ] {
            assert_eq!(full.records(load, rate), expect, "{load} at {rate:?}");
        }
        let fixed = options(&["--records", "777"]);
        assert_eq!(fixed.records(load, None), 777);
        assert_eq!(fixed.records(load, Some(1000.0)), 777);
    }
}
