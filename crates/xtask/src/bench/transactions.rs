//! Transactions beside Apache Kafka: producers that do nothing but small ones, by the rules of its newest client (KIP-890).

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::client::Latency;
use super::contender::{Contender, Settings};
use super::goal::Goal;
use super::ground::{Ground, sync, sync_deleted};
use super::process::Usage;
use super::server::Server;
use super::table::{Spread, cell, table};
use super::{Common, Part};

/// Of the topic.
const PARTITIONS: u32 = 16;

/// A young Java server handles its first thousands of transactions several times slower than later ones.
const SERVER_WARM_UP_SECONDS: &str = "15";

#[derive(Debug, clap::Args, Serialize)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Who is measured
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Contender::Anabranch, Contender::Kafka, Contender::KafkaFlush])]
    contenders: Vec<Contender>,
    /// Producers, each with a connection of its own, one transaction after the other
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=1000),
        default_value = "1,8,64",
        default_value_if("quick", "true", "8")
    )]
    producers: Vec<u32>,
    /// Batches of a transaction, each of ten records of 100 bytes and for another of 16 partitions
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=i64::from(PARTITIONS)),
        default_value = "1,16"
    )]
    batches: Vec<u32>,
    /// How long each measurement takes
    #[arg(long, default_value = "4", default_value_if("quick", "true", "2"))]
    seconds: f64,
}

/// The shape of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Load {
    producers: u32,
    batches: u32,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} prod., {} part.", self.producers, self.batches)
    }
}

/// What the client measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Told {
    transactions_per_second: f64,
    commit_us: Latency,
    transaction_us: Latency,
    /// What the server worked for, those that were not counted included.
    transactions_total: u64,
    client_cpu_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Measurement {
    /// From 0, which warms up and is not in the tables.
    round: u32,
    contender: Contender,
    load: Load,
    told: Told,
    /// Of the server, while the client ran and until all was on the disk.
    usage: Usage,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    settings: Vec<Settings>,
    /// In the order in which they were made.
    measurements: Vec<Measurement>,
}

type Figure = fn(&Measurement) -> f64;

const RATE: Figure = |one| one.told.transactions_per_second;
const COMMIT: Figure = |one| one.told.commit_us.p50;
const WHOLE: Figure = |one| one.told.transaction_us.p50;
const CPU: Figure = |one| one.usage.cpu_seconds * 1e6 / one.told.transactions_total as f64;

const FIGURES: [(&str, usize, Figure); 6] = [
    ("transactions/s", 0, RATE),
    ("commit p50 ms", 2, |one| COMMIT(one) / 1e3),
    ("commit p99 ms", 2, |one| one.told.commit_us.p99 / 1e3),
    ("whole p50 ms", 2, |one| WHOLE(one) / 1e3),
    ("whole p99 ms", 2, |one| one.told.transaction_us.p99 / 1e3),
    ("CPU µs/transaction", 0, CPU),
];

const RATIOS: [(&str, Figure); 4] =
    [("transactions/s", RATE), ("commit p50", COMMIT), ("whole p50", WHOLE), ("CPU", CPU)];

impl Part for Options {
    type Found = Found;

    const NAME: &str = "transactions";

    fn common(&self) -> &Common {
        &self.common
    }

    fn measure(&self, ground: &Ground, found: &mut Found) -> anyhow::Result<()> {
        found.settings = self.contenders.iter().map(|&contender| contender.into()).collect();
        let mut servers = Vec::new();
        for &contender in &self.contenders {
            eprintln!("bench: starting {}", contender.name());
            let server = Server::start(contender, ground)?;
            let load = Load { producers: 8, batches: 1 };
            let seconds = if self.common.quick { "2" } else { SERVER_WARM_UP_SECONDS };
            commit(ground, &server, "warm-up", load, seconds)
                .with_context(|| format!("warming up {}", contender.name()))?;
            servers.push(server);
        }
        for round in 0..=self.common.rounds {
            for (number, load) in self.loads().into_iter().enumerate() {
                let first = (round as usize + number) % servers.len().max(1);
                for server in servers.iter().cycle().skip(first).take(servers.len()) {
                    let contender = server.contender;
                    let context = || format!("{}, {load}, round {round}", contender.name());
                    let topic = format!("r{round}-{}-{}", load.producers, load.batches);
                    let (told, usage) = commit(ground, server, &topic, load, &self.seconds.to_string())
                        .with_context(context)?;
                    eprintln!("bench: {}: {:.0} transactions/s", context(), told.transactions_per_second);
                    found.measurements.push(Measurement { round, contender, load, told, usage });
                }
            }
        }
        Ok(())
    }

    fn report(&self, found: &Found) -> String {
        let ratios = "Each round's own. Transactions/s: more is better. The others: less is better.";
        [figures(found), "## Ratios to Kafka".to_owned(), ratios.to_owned(), found.ratios()].join("\n\n")
    }

    fn goals(&self, found: &Found) -> Vec<Goal> {
        let equal = (Contender::Anabranch, Contender::KafkaFlush);
        let stronger = (Contender::Anabranch, Contender::Kafka);
        vec![
            Goal::of(
                "transactions against Kafka with flush.messages=1",
                "≥ 3 × per second, and the time of a whole one ≤ a third",
                [found.least(equal, 3.0), found.longest(equal, 1.0 / 3.0)],
            ),
            Goal::of(
                "transactions against Kafka's default, which does not sync",
                "≥ 1 × per second, and the time of a whole one not longer",
                [found.least(stronger, 1.0), found.longest(stronger, 1.0)],
            ),
        ]
    }
}

impl Options {
    fn loads(&self) -> Vec<Load> {
        let with = |&producers| self.batches.iter().map(move |&batches| Load { producers, batches });
        self.producers.iter().flat_map(with).collect()
    }
}

/// Commits transactions on a topic of their own.
fn commit(
    ground: &Ground,
    server: &Server,
    topic: &str,
    load: Load,
    seconds: &str,
) -> anyhow::Result<(Told, Usage)> {
    let (client, bootstrap) = (ground.client()?, server.bootstrap.as_str());
    client.create_topic(bootstrap, topic, PARTITIONS, server.contender.topic_settings())?;
    sync()?;
    let before = Usage::of(server.pid)?;
    let (producers, batches) = (load.producers.to_string(), load.batches.to_string());
    let mut arguments = vec!["transactions", "--bootstrap", bootstrap, "--topic", topic];
    let partitions = PARTITIONS.to_string();
    arguments.extend(["--partitions", &partitions, "--producers", &producers, "--batches", &batches]);
    arguments.extend(["--seconds", seconds]);
    let told = client.run(arguments)?;
    sync()?;
    let usage = Usage::of(server.pid)?.since(before);
    client.delete_topic(bootstrap, topic)?;
    sync_deleted()?;
    Ok((told, usage))
}

fn figures(found: &Found) -> String {
    let mut rows = Vec::new();
    for load in found.loads() {
        for contender in found.contenders() {
            let mut row = vec![load.to_string(), contender.name().to_owned()];
            row.extend(
                FIGURES
                    .iter()
                    .map(|(_, digits, figure)| cell(found.of(load, contender).map(figure), *digits)),
            );
            rows.push(row);
        }
    }
    let mut header = vec!["", ""];
    header.extend(FIGURES.iter().map(|(name, _, _)| *name));
    table(&header, &rows)
}

impl Found {
    fn counted(&self) -> impl Iterator<Item = &Measurement> {
        self.measurements.iter().filter(|one| one.round > 0)
    }

    fn loads(&self) -> BTreeSet<Load> {
        self.counted().map(|one| one.load).collect()
    }

    fn contenders(&self) -> BTreeSet<Contender> {
        self.counted().map(|one| one.contender).collect()
    }

    fn of(&self, load: Load, contender: Contender) -> impl Iterator<Item = &Measurement> {
        self.counted().filter(move |one| (one.load, one.contender) == (load, contender))
    }

    fn ratios(&self) -> String {
        let (kafka, ours): (Vec<_>, Vec<_>) = self.contenders().into_iter().partition(|one| one.is_kafka());
        let mut rows = Vec::new();
        for load in self.loads() {
            for pair in ours.iter().flat_map(|&ours| kafka.iter().map(move |&kafka| (ours, kafka))) {
                let equal = if pair.0.syncs() == pair.1.syncs() { "yes" } else { "no" };
                let names = format!("{} / {}", pair.0.name(), pair.1.name());
                let mut row = vec![load.to_string(), names, equal.to_owned()];
                let cell = |figure| self.ratio(load, pair, figure).map(|spread| format!("{spread:.2}"));
                row.extend(RATIOS.iter().map(|&(_, figure)| cell(figure).unwrap_or_default()));
                rows.push(row);
            }
        }
        let mut header = vec!["", "", "equal durability"];
        header.extend(RATIOS.iter().map(|(name, _)| *name));
        table(&header, &rows)
    }

    /// How one contender's figure relates to another's of the same round.
    fn ratio(&self, load: Load, (ours, theirs): (Contender, Contender), figure: Figure) -> Option<Spread> {
        Spread::of(self.of(load, ours).filter_map(|our| {
            let their = self.of(load, theirs).find(|their| their.round == our.round)?;
            Some(figure(our) / figure(their)).filter(|ratio| ratio.is_finite())
        }))
    }

    /// The load with the least rate, and whether even that is enough.
    fn least(&self, pair: (Contender, Contender), least: f64) -> Option<(String, bool)> {
        let all = self.loads().into_iter().filter_map(|load| Some((self.ratio(load, pair, RATE)?, load)));
        let (spread, load) = all.min_by(|a, b| a.0.median.total_cmp(&b.0.median))?;
        Some((format!("rate {spread:.2} × at worst ({load})"), spread.median >= least))
    }

    /// The load with the longest transactions, and whether even those are short enough.
    fn longest(&self, pair: (Contender, Contender), most: f64) -> Option<(String, bool)> {
        let all = self.loads().into_iter().filter_map(|load| Some((self.ratio(load, pair, WHOLE)?, load)));
        let (spread, load) = all.max_by(|a, b| a.0.median.total_cmp(&b.0.median))?;
        Some((format!("time {spread:.2} × at worst ({load})"), spread.median <= most))
    }
}

#[cfg(test)]
mod tests {
    use super::super::goal::Reached;
    use super::*;

    fn measurement(round: u32, contender: Contender, producers: u32, rate: f64, us: f64) -> Measurement {
        let latency = Latency {
            count: 1,
            mean: us,
            p50: us,
            p90: us,
            p99: us,
            p99_9: us,
            p99_99: us,
            max: us,
            quantiles: Vec::new(),
        };
        let told = Told {
            transactions_per_second: rate,
            commit_us: latency.clone(),
            transaction_us: latency,
            transactions_total: 10,
            client_cpu_seconds: 0.0,
        };
        let usage = Usage { cpu_seconds: 1.0, disk_written_bytes: None };
        Measurement { round, contender, load: Load { producers, batches: 1 }, told, usage }
    }

    #[test]
    fn the_worst_load_decides_and_the_first_round_does_not_count() {
        use Contender::{Anabranch, KafkaFlush};
        let found = |rate, us| {
            let mut measurements = Vec::new();
            for (producers, rate) in [(1, rate), (8, 1000.0)] {
                measurements.push(measurement(0, Anabranch, producers, 1.0, 1e6));
                measurements.push(measurement(1, Anabranch, producers, rate, us));
                measurements.push(measurement(1, KafkaFlush, producers, 100.0, 300.0));
            }
            Found { measurements, ..Found::default() }
        };
        let options = || {
            use clap::Parser;
            super::super::Alone::<Options>::try_parse_from(["bench"]).unwrap().part
        };
        let reached = |found: &Found| options().goals(found).into_iter().map(|goal| goal.reached);
        assert!(reached(&found(300.0, 100.0)).eq([Reached::Yes, Reached::Unknown]));
        assert!(reached(&found(299.0, 100.0)).eq([Reached::No, Reached::Unknown]), "for its rate");
        assert!(reached(&found(300.0, 101.0)).eq([Reached::No, Reached::Unknown]), "for its time");
        let report = options().report(&found(300.0, 100.0));
        assert!(report.contains("| 1 prod., 1 part. | anabranch / kafka-flush | yes"), "{report}");
        assert!(!report.contains("1000.00"), "{report}");
    }
}
