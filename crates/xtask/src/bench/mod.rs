//! Anabranch and Apache Kafka side by side: one machine, one client, one run.
//!
//! All contenders are started first and stay up, so that each is measured at rest, with the others idle, and warm
//! later. Then every load is given to one after the other, round by round: what is compared was measured within
//! minutes, and whoever comes first in one round comes second in the next. `bench/README.md` says how to read it.

mod contender;
mod load;
mod machine;
mod process;
mod report;
mod results;
mod server;
mod tool;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context, ensure};
use serde::Serialize;

use self::contender::Contender;
use self::load::{Acks, Load, Work};
use self::machine::Machine;
use self::results::{AtRest, Measurement, Results};
use self::server::Server;
use self::tool::Kafka;

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
    /// Other defaults, for a run of about 5 minutes; what is given beside it still holds
    #[arg(long)]
    quick: bool,
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
    /// Rounds, the first of which warms up
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(2..=100),
        default_value = "3",
        default_value_if("quick", "true", "2")
    )]
    rounds: u32,
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
    /// The Anabranch to measure, as it is, instead of a release build of the work tree
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    binary: Option<PathBuf>,
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

/// Measures, writes the results down, and prints the report.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let top = repository()?;
    let work = top.join("target").join("bench");
    fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => build(&top)?,
    };
    ensure!(binary.is_file(), "there is no {}", binary.display());
    let lib = env::var_os("KAFKA_LIB").map_or_else(|| top.join("target/kafka-lib"), PathBuf::from);
    let kafka = Kafka::install(top.join("tests/peers/kafka/kafka"), lib, work.clone())?;
    eprintln!("bench: trying the disk");
    let machine = Machine::inspect(&work)?;

    let mut results = Results::new(&top, options, machine, kafka.version()?)?;
    // What was measured before an error is written down all the same.
    let outcome = Bench { options, kafka, binary, work }.run(&mut results);
    results.error = outcome.as_ref().err().map(|error| format!("{error:#}"));
    let path = results.write(&top)?;
    eprintln!("bench: the raw results are in {}", path.display());
    outcome?;
    println!("{}", report::report(&results));
    Ok(ExitCode::SUCCESS)
}

/// The top of the repository: two folders above this crate.
fn repository() -> anyhow::Result<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("no folder above crates")?;
    ensure!(top.join("bench").is_dir(), "{} is no longer the repository", top.display());
    Ok(top.to_owned())
}

fn build(top: &Path) -> anyhow::Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["build", "--release", "--locked", "--bin", "anabranch"];
    let status = Command::new(cargo).args(arguments).current_dir(top).status().context("starting cargo")?;
    ensure!(status.success(), "cargo {} failed", arguments.join(" "));
    Ok(top.join("target/release/anabranch"))
}

/// Makes the disk write down what it holds back, so that nobody pays for the one before.
fn sync() -> anyhow::Result<()> {
    let status = Command::new("sync").status().context("starting sync")?;
    ensure!(status.success(), "sync failed");
    Ok(())
}

struct Bench<'a> {
    options: &'a Options,
    kafka: Kafka,
    binary: PathBuf,
    work: PathBuf,
}

impl Bench<'_> {
    fn run(&self, results: &mut Results<'_>) -> anyhow::Result<()> {
        let mut servers = Vec::new();
        for &contender in &self.options.contenders {
            eprintln!("bench: starting {}", contender.name());
            let server = Server::start(contender, &self.kafka, &self.binary, &self.work)?;
            results.at_rest.push(self.at_rest(&server)?);
            self.warm_up(&server).with_context(|| format!("warming up {}", contender.name()))?;
            servers.push(server);
        }
        // Of the last round, by load and contender.
        let mut rates: BTreeMap<(Load, Contender), f64> = BTreeMap::new();
        for round in 0..self.options.rounds {
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
                fs::metadata(&self.binary)?.len()
            },
        })
    }

    fn warm_up(&self, server: &Server) -> anyhow::Result<()> {
        let (kafka, topic) = (&self.kafka, "warm-up");
        kafka.create_topic(server, topic, SERVER_WARM_UP.partitions)?;
        kafka.produce(server, topic, SERVER_WARM_UP, SERVER_WARM_UP_RECORDS, None)?;
        kafka.consume(server, topic, SERVER_WARM_UP_RECORDS)?;
        kafka.delete_topic(server, topic)?;
        sync()
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
            let cpu_before = process::cpu_seconds(server.pid)?;
            let measured = match work {
                Work::Produce => self.kafka.produce(server, &topic, load, records, None)?,
                Work::Consume => self.kafka.consume(server, &topic, records)?,
                Work::Paced => self.kafka.produce(server, &topic, load, paced, Some(self.options.pace))?,
            };
            let measurement = Measurement {
                round,
                warm_up,
                contender: server.contender,
                load,
                work,
                measured,
                cpu_seconds: process::cpu_seconds(server.pid)? - cpu_before,
                resident_bytes_after: process::resident_bytes(server.pid)?,
            };
            eprintln!("bench: {measurement}");
            measurements.push(measurement);
            sync()?;
        }
        self.kafka.delete_topic(server, &topic)?;
        sync()?;
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
        assert_eq!((full.loads().len(), full.rounds, full.seconds), (8, 3, 10));
        let quick = options(&["--quick"]);
        let load = |partitions| Load { record_bytes: 1024, acks: Acks::All, partitions };
        assert_eq!((quick.loads(), quick.rounds), (vec![load(1), load(16)], 2));
        let mixed = options(&["--quick", "--acks", "all,1", "--rounds=4"]);
        assert_eq!((mixed.loads().len(), mixed.rounds, mixed.seconds), (4, 4, quick.seconds));
    }

    #[test]
    fn one_round_is_refused_because_it_only_warms_up() {
        assert!(Line::try_parse_from(["bench", "--rounds", "1"]).is_err());
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
