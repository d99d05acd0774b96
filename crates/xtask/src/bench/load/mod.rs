//! Anabranch and Apache Kafka side by side, with a client that does as little as it can, so that the server is the limit;
//! or with librdkafka, which most clients are made of.
//!
//! What the light client sends is told by its load: batches of up to 16 KiB, as Kafka's clients make them by default,
//! a request of up to 16 of them for different partitions and up to 1 MiB, five requests in flight on each connection.

mod report;

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;

use super::client::Told;
use super::contender::{Contender, Settings};
use super::goal::Goal;
use super::ground::{Ground, sync, sync_deleted};
use super::kafka::Acks;
use super::process::{self, Usage};
use super::server::Server;
use super::{Common, Part};

/// `batch.size` of Kafka's clients.
const BATCH_BYTES: u32 = 16 << 10;

/// `max.request.size` of Kafka's clients.
const REQUEST_BYTES: u32 = 1 << 20;

/// More batches than this would make single requests of what many producers send.
const BATCHES_MAX: u32 = 16;

/// A topic for records of about a megabyte must allow them.
const LARGE_RECORD_BYTES: u32 = 900_000;
const LARGE_MESSAGES: &str = "max.message.bytes=4194304";

/// A young Java server handles its first ten thousand requests several times slower than later ones.
const SERVER_WARM_UP_SECONDS: f64 = 8.0;

/// Of the rate that the slowest contender reached, everybody is paced at.
const PACE: f64 = 0.5;

/// But at no less than so many requests in all: fewer say nothing.
const PACED_REQUESTS_MIN: f64 = 20.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Codec {
    None,
    Zstd,
}

impl Codec {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd => "zstd",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Client {
    /// The light one
    Light,
    Librdkafka,
}

#[derive(Debug, clap::Args, Serialize)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Who is measured
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Contender::ALL)]
    contenders: Vec<Contender>,
    /// What they are measured with
    #[arg(long, value_enum, default_value = "light")]
    client: Client,
    /// Producers, each with a connection of its own. With any of these, every combination is measured; without them,
    /// producers × partitions at 1 KiB, and one step from the middle in each other direction
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1000))]
    producers: Vec<u32>,
    /// Partitions of the topic
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: Vec<u32>,
    /// Sizes of a record's value; there are no keys
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    record_bytes: Vec<u32>,
    /// Acknowledgements
    #[arg(long, value_enum, value_delimiter = ',')]
    acks: Vec<Acks>,
    /// Compression
    #[arg(long, value_enum, value_delimiter = ',')]
    codecs: Vec<Codec>,
    /// How long each measurement takes
    #[arg(long, default_value = "4", default_value_if("quick", "true", "2"))]
    seconds: f64,
}

/// The shape of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Load {
    pub(super) record_bytes: u32,
    pub(super) acks: Acks,
    pub(super) codec: Codec,
    pub(super) producers: u32,
    pub(super) partitions: u32,
}

/// In the middle of everything.
const MIDDLE: Load =
    Load { record_bytes: 1024, acks: Acks::All, codec: Codec::None, producers: 8, partitions: 16 };

impl Load {
    pub(super) fn batch_records(self) -> u32 {
        (BATCH_BYTES / self.record_bytes).max(1)
    }

    fn batches(self) -> u32 {
        let batch_bytes = self.batch_records() * self.record_bytes;
        self.partitions.min(BATCHES_MAX).min((REQUEST_BYTES / batch_bytes).max(1))
    }

    /// What the light client is told of it.
    pub(super) fn arguments(self) -> Vec<String> {
        [
            ("--partitions", self.partitions.to_string()),
            ("--connections", self.producers.to_string()),
            ("--record-bytes", self.record_bytes.to_string()),
            ("--batch-records", self.batch_records().to_string()),
            ("--batches", self.batches().to_string()),
            ("--acks", self.acks.name().to_owned()),
            ("--codec", self.codec.name().to_owned()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { record_bytes, acks, codec, producers, partitions } = self;
        write!(f, "{record_bytes} B, acks={}, {producers} prod., {partitions} part.", acks.name())?;
        match codec {
            Codec::None => Ok(()),
            Codec::Zstd => write!(f, ", zstd"),
        }
    }
}

/// What is done with a load, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Work {
    /// As fast as the server answers.
    Produce,
    /// All of that, from the beginning, out of the page cache.
    Fetch,
    /// At a rate that everybody reaches: the latencies are those of the server.
    Paced,
}

/// One contender's work on one load in one round.
#[derive(Debug, Serialize)]
struct Measurement {
    /// From 0, which warms up and finds the pace, and is not in the tables.
    round: u32,
    contender: Contender,
    load: Load,
    work: Work,
    told: Told,
    /// Of the server alone, while the client ran and until all was on the disk.
    usage: Usage,
    /// Of the server, right after.
    resident_bytes_after: u64,
}

impl Measurement {
    fn cpu_us_per_record(&self) -> f64 {
        self.usage.cpu_seconds * 1e6 / self.told.records_total as f64
    }
}

/// What the client reaches when nothing has to be done for it.
#[derive(Debug, Serialize)]
struct Limit {
    load: Load,
    told: Told,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    settings: Vec<Settings>,
    limits: Vec<Limit>,
    /// In the order in which they were made.
    measurements: Vec<Measurement>,
}

impl Options {
    fn loads(&self) -> Vec<Load> {
        let Self { producers, partitions, record_bytes, acks, codecs, .. } = self;
        let given = [producers, partitions, record_bytes].iter().any(|axis| !axis.is_empty());
        if !given && acks.is_empty() && codecs.is_empty() {
            return if self.common.quick { QUICK.to_vec() } else { usual() };
        }
        fn or<T: Copy>(given: &[T], usual: T) -> Vec<T> {
            if given.is_empty() { vec![usual] } else { given.to_vec() }
        }
        let mut loads = vec![MIDDLE];
        loads = with(loads, &or(record_bytes, MIDDLE.record_bytes), |load, value| load.record_bytes = value);
        loads = with(loads, &or(acks, MIDDLE.acks), |load, value| load.acks = value);
        loads = with(loads, &or(codecs, MIDDLE.codec), |load, value| load.codec = value);
        loads = with(loads, &or(producers, MIDDLE.producers), |load, value| load.producers = value);
        with(loads, &or(partitions, MIDDLE.partitions), |load, value| load.partitions = value)
    }
}

const QUICK: [Load; 2] =
    [Load { producers: 1, partitions: 1, ..MIDDLE }, Load { producers: 8, partitions: 256, ..MIDDLE }];

fn usual() -> Vec<Load> {
    let mut loads = with(vec![MIDDLE], &[1, 8, 64], |load, value| load.producers = value);
    loads = with(loads, &[1, 16, 256, 2000], |load, value| load.partitions = value);
    loads.extend([100, 10 << 10, 1 << 20].map(|record_bytes| Load { record_bytes, ..MIDDLE }));
    loads.push(Load { acks: Acks::Leader, ..MIDDLE });
    loads.push(Load { codec: Codec::Zstd, ..MIDDLE });
    loads
}

/// Each load with each of the values.
fn with<T: Copy>(loads: Vec<Load>, values: &[T], set: fn(&mut Load, T)) -> Vec<Load> {
    let of = |load: Load| {
        values.iter().map(move |&value| {
            let mut load = load;
            set(&mut load, value);
            load
        })
    };
    loads.into_iter().flat_map(of).collect()
}

impl Part for Options {
    type Found = Found;

    const NAME: &str = "load";

    fn common(&self) -> &Common {
        &self.common
    }

    fn measure(&self, ground: &Ground, found: &mut Found) -> anyhow::Result<()> {
        found.settings = self.contenders.iter().map(|&contender| contender.into()).collect();
        if self.client == Client::Light {
            for load in self.loads() {
                found.limits.push(Limit { load, told: self.limit(ground, load)? });
            }
        }
        let mut servers = Vec::new();
        for &contender in &self.contenders {
            eprintln!("bench: starting {}", contender.name());
            let server = Server::start(contender, ground)?;
            self.warm_up(ground, &server).with_context(|| format!("warming up {}", contender.name()))?;
            servers.push(server);
        }
        // Of the last round, of each contender.
        let mut rates: BTreeMap<Load, Vec<f64>> = BTreeMap::new();
        for round in 0..=self.common.rounds {
            for (number, &load) in self.loads().iter().enumerate() {
                let slowest = rates.remove(&load).unwrap_or_default().into_iter().reduce(f64::min);
                let first = (round as usize + number) % servers.len().max(1);
                for server in servers.iter().cycle().skip(first).take(servers.len()) {
                    let context = || format!("{}, {load}, round {round}", server.contender.name());
                    let measured =
                        self.measure_one(ground, server, round, load, slowest).with_context(context)?;
                    let produced = measured.iter().filter(|one| one.work == Work::Produce);
                    let reached = produced.map(|one| one.told.records_per_second);
                    rates.entry(load).or_default().extend(reached);
                    found.measurements.extend(measured);
                }
            }
        }
        Ok(())
    }

    fn report(&self, found: &Found) -> String {
        report::report(found)
    }

    fn goals(&self, found: &Found) -> Vec<Goal> {
        // Those of the issue are spoken of with the light client.
        if self.client == Client::Light { report::goals(found) } else { Vec::new() }
    }
}

impl Options {
    fn limit(&self, ground: &Ground, load: Load) -> anyhow::Result<Told> {
        let (_hold, address) = ground.client()?.start(["sink"])?;
        let mut arguments = vec!["produce".to_owned(), "--bootstrap".to_owned(), address];
        arguments.extend(["--topic".to_owned(), "sink".to_owned()]);
        arguments.extend(["--seconds".to_owned(), self.seconds.to_string()]);
        arguments.extend(load.arguments());
        ground.client()?.run(arguments)
    }

    /// With small requests, since it is their number that warms up a server.
    fn warm_up(&self, ground: &Ground, server: &Server) -> anyhow::Result<()> {
        let (client, bootstrap) = (ground.client()?, server.bootstrap.as_str());
        client.create_topic(bootstrap, "warm-up", 4, server.contender.topic_settings())?;
        let seconds = if self.common.quick { self.seconds } else { SERVER_WARM_UP_SECONDS }.to_string();
        let mut arguments = vec!["produce", "--bootstrap", bootstrap, "--topic", "warm-up"];
        arguments.extend(["--partitions", "4", "--connections", "8", "--batch-records", "1"]);
        arguments.extend(["--seconds", &seconds]);
        client.run::<Told, _>(arguments)?;
        let fetch = ["fetch", "--bootstrap", bootstrap, "--topic", "warm-up", "--partitions", "4"];
        client.run::<Told, _>(fetch)?;
        client.delete_topic(bootstrap, "warm-up")?;
        sync_deleted()
    }

    /// All the work with one load on one server, on a new topic.
    fn measure_one(
        &self,
        ground: &Ground,
        server: &Server,
        round: u32,
        load: Load,
        slowest: Option<f64>,
    ) -> anyhow::Result<Vec<Measurement>> {
        let (client, bootstrap) = (ground.client()?, server.bootstrap.as_str());
        let Load { record_bytes, acks, codec, producers, partitions } = load;
        let topic =
            format!("r{round}-{record_bytes}-{}-{}-{producers}-{partitions}", acks.name(), codec.name());
        let mut configs = server.contender.topic_settings().to_vec();
        if record_bytes > LARGE_RECORD_BYTES {
            configs.push(LARGE_MESSAGES);
        }
        client.create_topic(bootstrap, &topic, partitions, &configs)?;
        let mut works = vec![(Work::Produce, self.produce(load, None))];
        // The first round only warms up producing, and finds the pace.
        if let Some(slowest) = slowest {
            let partitions = partitions.to_string();
            works.push((Work::Fetch, vec!["fetch".to_owned(), "--partitions".to_owned(), partitions]));
            works.push((Work::Paced, self.produce(load, Some(self.pace(load, slowest)))));
        }
        let mut measurements = Vec::new();
        for (work, mut arguments) in works {
            arguments.extend(["--bootstrap".to_owned(), bootstrap.to_owned()]);
            arguments.extend(["--topic".to_owned(), topic.clone()]);
            let before = Usage::of(server.pid)?;
            let told: Told = client.run(arguments)?;
            eprintln!(
                "bench: round {round}: {load}: {}: {work:?} {:.0} records/s",
                server.contender.name(),
                told.records_per_second
            );
            let resident_bytes_after = process::resident_bytes(server.pid)?;
            // Whoever leaves writing for later writes, too.
            sync()?;
            measurements.push(Measurement {
                round,
                contender: server.contender,
                load,
                work,
                told,
                usage: Usage::of(server.pid)?.since(before),
                resident_bytes_after,
            });
        }
        client.delete_topic(bootstrap, &topic)?;
        sync_deleted()?;
        Ok(measurements)
    }

    /// In records per second.
    fn pace(&self, load: Load, slowest: f64) -> f64 {
        let request_records = match self.client {
            Client::Light => load.batch_records() * load.batches(),
            Client::Librdkafka => 1,
        };
        (slowest * PACE).max(PACED_REQUESTS_MIN * f64::from(request_records) / self.seconds)
    }

    /// What the client is told, but where to.
    fn produce(&self, load: Load, rate: Option<f64>) -> Vec<String> {
        let mut arguments = match self.client {
            Client::Light => [vec!["produce".to_owned()], load.arguments()].concat(),
            Client::Librdkafka => vec![
                "librdkafka".to_owned(),
                format!("--producers={}", load.producers),
                format!("--record-bytes={}", load.record_bytes),
                format!("--config=acks={}", load.acks.name()),
                format!("--config=compression.type={}", load.codec.name()),
                format!("--config=message.max.bytes={}", 2 * load.record_bytes.max(1 << 20)),
            ],
        };
        arguments.push(format!("--seconds={}", self.seconds));
        arguments.extend(rate.map(|rate| format!("--rate={rate:.0}")));
        arguments
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Alone;
    use super::*;

    fn loads(arguments: &[&str]) -> Vec<Load> {
        Alone::<Options>::try_parse_from([&["bench"], arguments].concat()).unwrap().part.loads()
    }

    #[test]
    fn what_is_given_is_combined_and_the_rest_is_the_middle() {
        assert_eq!(loads(&["--producers=1,64", "--partitions=1,2000"]).len(), 4);
        assert_eq!(loads(&["--acks=1"]), [Load { acks: Acks::Leader, ..MIDDLE }]);
        assert_eq!(loads(&["--quick"]), QUICK);
        let usual = loads(&[]);
        assert_eq!(usual.len(), 17);
        assert!(usual.iter().all(|load| usual.iter().filter(|other| *other == load).count() == 1));
    }

    #[test]
    fn requests_stay_below_a_mebibyte_where_a_record_does() {
        for (record_bytes, partitions, batch_records, batches) in [
            (1024, 1, 16, 1),
            (1024, 2000, 16, 16),
            (100, 16, 163, 16),
            (10_240, 16, 1, 16),
            (1 << 20, 16, 1, 1),
        ] {
            let load = Load { record_bytes, partitions, ..MIDDLE };
            assert_eq!((load.batch_records(), load.batches()), (batch_records, batches), "{load}");
        }
    }
}
