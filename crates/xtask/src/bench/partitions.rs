//! What a record costs, from one partition to ten thousand: the same requests, each of one batch for the next partition.

use anyhow::Context;
use serde::Serialize;

use super::client::Told;
use super::contender::Contender;
use super::goal::Goal;
use super::ground::{Ground, sync};
use super::kafka::Acks;
use super::process::Usage;
use super::server::Server;
use super::table::{Spread, cell, table};
use super::{Common, Part};

const PRODUCERS: &str = "4";

#[derive(Debug, clap::Args, Serialize)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Partitions of the topic; the first is what the others are compared with
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=20_000),
        default_value = "1,10,100,1000,10000",
        default_value_if("quick", "true", "1,1000")
    )]
    partitions: Vec<u32>,
    /// How long each measurement takes
    #[arg(long, default_value = "5", default_value_if("quick", "true", "2"))]
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Measurement {
    round: u32,
    acks: Acks,
    partitions: u32,
    told: Told,
    usage: Usage,
}

impl Measurement {
    fn cpu_us_per_record(&self) -> f64 {
        self.usage.cpu_seconds * 1e6 / self.told.records_total as f64
    }
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    measurements: Vec<Measurement>,
}

/// Which server promises what with which acknowledgement: nothing is synced, or everything is.
const WAYS: [(Contender, Acks); 2] =
    [(Contender::AnabranchRelaxed, Acks::Leader), (Contender::Anabranch, Acks::All)];

impl Part for Options {
    type Found = Found;

    const NAME: &str = "partitions";

    fn common(&self) -> &Common {
        &self.common
    }

    fn measure(&self, ground: &Ground, found: &mut Found) -> anyhow::Result<()> {
        let client = ground.client()?;
        for (contender, acks) in WAYS {
            let server = Server::start(contender, ground)?;
            for round in 0..self.common.rounds {
                for &partitions in &self.partitions {
                    let topic = format!("r{round}-{partitions}");
                    let context = || format!("{partitions} partitions, round {round}");
                    client
                        .create_topic(&server.bootstrap, &topic, partitions, contender.topic_settings())
                        .with_context(context)?;
                    sync()?;
                    let before = Usage::of(server.pid)?;
                    let (count, seconds) = (partitions.to_string(), self.seconds.to_string());
                    let mut arguments = vec!["produce", "--bootstrap", &server.bootstrap, "--topic", &topic];
                    arguments.extend([
                        "--partitions",
                        &count,
                        "--connections",
                        PRODUCERS,
                        "--acks",
                        acks.name(),
                    ]);
                    arguments.extend(["--seconds", &seconds]);
                    let told: Told = client.run(arguments).with_context(context)?;
                    let usage = Usage::of(server.pid)?.since(before);
                    let one = Measurement { round, acks, partitions, told, usage };
                    eprintln!(
                        "bench: round {round}: acks={}, {partitions} partitions: {:.2} µs of CPU per record",
                        acks.name(),
                        one.cpu_us_per_record()
                    );
                    found.measurements.push(one);
                    client.delete_topic(&server.bootstrap, &topic)?;
                    sync()?;
                }
            }
        }
        Ok(())
    }

    fn report(&self, found: &Found) -> String {
        let mut rows = Vec::new();
        for (contender, acks) in WAYS {
            for &partitions in &self.partitions {
                let of = found
                    .measurements
                    .iter()
                    .filter(move |one| (one.acks, one.partitions) == (acks, partitions));
                let latency = of.clone().filter_map(|one| Some(one.told.latency_us.as_ref()?.p99 / 1e3));
                let ratio = found.cost(acks, self.partitions[0], partitions);
                rows.push(vec![
                    format!("{}, acks={}", contender.name(), acks.name()),
                    partitions.to_string(),
                    cell(of.clone().map(|one| one.told.records_per_second), 0),
                    cell(latency, 2),
                    cell(of.map(Measurement::cpu_us_per_record), 2),
                    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                ]);
            }
        }
        let header = ["", "partitions", "records/s", "p99 ms", "CPU µs/record", "to the first"];
        table(&header, &rows)
    }

    fn goals(&self, found: &Found) -> Vec<Goal> {
        let worst = |acks: Acks| {
            let first = *self.partitions.first()?;
            let of = |&partitions: &u32| Some((found.cost(acks, first, partitions)?, partitions));
            let ratios = self.partitions.iter().skip(1).filter_map(of);
            let (ratio, partitions) = ratios.max_by(|a, b| a.0.median.total_cmp(&b.0.median))?;
            let said = format!("acks={}: {ratio:.2} × at {partitions} partitions", acks.name());
            Some((said, ratio.median <= 1.3))
        };
        let goal = "produce cost (server CPU) per record from 1 to 10,000 partitions";
        vec![Goal::of(goal, "flat within 1.3 ×", WAYS.map(|(_, acks)| worst(acks)))]
    }
}

impl Found {
    /// How much more a record costs than with `first` partitions, each round's own.
    fn cost(&self, acks: Acks, first: u32, partitions: u32) -> Option<Spread> {
        let of = |partitions| {
            self.measurements.iter().filter(move |one| (one.acks, one.partitions) == (acks, partitions))
        };
        Spread::of(of(partitions).filter_map(|one| {
            let base = of(first).find(|base| base.round == one.round)?;
            Some(one.cpu_us_per_record() / base.cpu_us_per_record()).filter(|ratio| ratio.is_finite())
        }))
    }
}
