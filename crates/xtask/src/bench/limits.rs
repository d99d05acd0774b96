//! Beside what the disk and the network can do, measured right before, round by round.

use serde::Serialize;

use super::client::{Client, Timed, Told};
use super::contender::Contender;
use super::goal::Goal;
use super::ground::{Ground, sync};
use super::process::Usage;
use super::server::Server;
use super::table::{Spread, cell, table};
use super::{Common, Part};

/// A record that makes a batch of nearly a mebibyte, which is Kafka's default limit.
const LARGE_RECORD: &str = "1048000";

/// What the fetch is given to read, in as many partitions.
const FETCH_PARTITIONS: &str = "4";

/// Over a synced write, what a server may take for one record.
const OVERHEAD_US: f64 = 150.0;

#[derive(Debug, clap::Args, Serialize)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// How long producing is measured
    #[arg(long, default_value = "5", default_value_if("quick", "true", "2"))]
    seconds: f64,
    /// Writes that the disk is tried with, of 4 KiB and of 1 MiB each
    #[arg(long, default_value = "1000", default_value_if("quick", "true", "300"))]
    writes: u32,
    /// How much is sent over loopback, and fetched
    #[arg(long, default_value = "4096", default_value_if("quick", "true", "1024"))]
    fetch_mib: u64,
}

/// One round: each limit, and ours beside it.
#[derive(Debug, Serialize)]
struct Round {
    small_writes: Timed,
    one_in_flight: Told,
    large_writes: Timed,
    large_batches: Told,
    loopback: Timed,
    fetch: Told,
    fetch_usage: Usage,
    /// From a producer to a consumer that waits for it.
    tail: Timed,
}

impl Round {
    /// What one record in flight takes longer than one synced write, at the median.
    fn overhead_us(&self) -> Option<f64> {
        Some(self.one_in_flight.latency_us.as_ref()?.p50 - self.small_writes.latency_us.as_ref()?.p50)
    }

    fn large_share(&self) -> Option<f64> {
        Some(self.large_batches.mib_per_second / self.large_writes.mib_per_second?)
    }

    fn fetch_share(&self) -> Option<f64> {
        Some(self.fetch.mib_per_second / self.loopback.mib_per_second?)
    }
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    rounds: Vec<Round>,
}

impl Part for Options {
    type Found = Found;

    const NAME: &str = "limits";

    fn common(&self) -> &Common {
        &self.common
    }

    fn measure(&self, ground: &Ground, found: &mut Found) -> anyhow::Result<()> {
        let client = ground.client()?;
        let server = Server::start(Contender::Anabranch, ground)?;
        for round in 0..self.common.rounds {
            let one = self.round(ground, client, &server, round)?;
            eprintln!(
                "bench: round {round}: {:?} µs over a write, {:?} of large writes, {:?} of sendfile",
                one.overhead_us(),
                one.large_share(),
                one.fetch_share()
            );
            found.rounds.push(one);
        }
        Ok(())
    }

    fn report(&self, found: &Found) -> String {
        let us = |timed: &Timed| timed.latency_us.as_ref().map(|latency| latency.p50);
        let of = |figure: &dyn Fn(&Round) -> Option<f64>, digits| {
            cell(found.rounds.iter().filter_map(figure), digits)
        };
        let row = |what: &str, limit: String, ours: String, compared: String| {
            vec![what.to_owned(), limit, ours, compared]
        };
        let p50 = |told: &Told| Some(told.latency_us.as_ref()?.p50);
        let rows = [
            row(
                "one record of 1 KiB in flight, acks=all, p50 µs; a write of 4 KiB",
                of(&|one| us(&one.small_writes), 0),
                of(&|one| p50(&one.one_in_flight), 0),
                format!("{} µs more", of(&Round::overhead_us, 0)),
            ),
            row(
                "durable batches of 1 MiB, MiB/s; writes of 1 MiB",
                of(&|one| one.large_writes.mib_per_second, 0),
                of(&|one| Some(one.large_batches.mib_per_second), 0),
                format!("{} ×", of(&Round::large_share, 2)),
            ),
            row(
                "catch-up fetch, MiB/s; sendfile over loopback",
                of(&|one| one.loopback.mib_per_second, 0),
                of(&|one| Some(one.fetch.mib_per_second), 0),
                format!(
                    "{} ×, {} s of server CPU per GiB",
                    of(&Round::fetch_share, 2),
                    of(&|one| Some(one.fetch_usage.cpu_seconds / self.fetch_mib as f64 * 1024.0), 2)
                ),
            ),
            row(
                "from a producer to a waiting consumer, acks=all, p50 µs",
                String::new(),
                of(&|one| us(&one.tail), 0),
                String::new(),
            ),
        ];
        table(&["", "the limit", "ours", "compared"], &rows)
    }

    fn goals(&self, found: &Found) -> Vec<Goal> {
        let spread = |figure: fn(&Round) -> Option<f64>| Spread::of(found.rounds.iter().filter_map(figure));
        let overhead = spread(Round::overhead_us);
        let large = spread(Round::large_share);
        let fetch = spread(Round::fetch_share);
        vec![
            Goal::of(
                "one record in flight, acks=all, p50",
                "≤ one raw fdatasync of the same run + 150 µs",
                [overhead.map(|us| (format!("one + {us:.0} µs"), us.median <= OVERHEAD_US))],
            ),
            Goal::of(
                "durable 1 MiB batches against raw pre-zeroed writes + fdatasync",
                "≥ 80 %",
                [large.map(|share| (format!("{share:.2} ×"), share.median >= 0.8))],
            ),
            Goal::of(
                "catch-up fetch against loopback `sendfile` of the same bytes",
                "≥ 90 % plaintext",
                [fetch.map(|share| (format!("{share:.2} ×"), share.median >= 0.9))],
            ),
        ]
    }
}

impl Options {
    fn round(&self, ground: &Ground, client: &Client, server: &Server, round: u32) -> anyhow::Result<Round> {
        let bootstrap = server.bootstrap.as_str();
        let dir = ground.empty("limits")?;
        let dir = dir.to_str().unwrap_or_default();
        let (writes, seconds) = (self.writes.to_string(), self.seconds.to_string());
        let topic = |name: &str| format!("r{round}-{name}");
        let topics = [topic("one"), topic("large"), topic("fetch"), topic("tail")];
        let [one, large, fetch, tail] = topics.each_ref().map(String::as_str);
        let relaxed = Contender::AnabranchRelaxed.topic_settings();
        let durable = server.contender.topic_settings();
        for (topic, partitions, configs) in [(one, 1, durable), (large, 1, durable), (fetch, 4, relaxed)] {
            client.create_topic(bootstrap, topic, partitions, configs)?;
        }
        client.create_empty_topic(bootstrap, tail, 1)?;

        let small_writes = client.run(["disk", "--dir", dir, "--bytes", "4096", "--writes", &writes])?;
        let to_one = ["produce", "--bootstrap", bootstrap, "--topic", one, "--seconds", &seconds];
        let one_in_flight = [&to_one[..], &["--in-flight", "1", "--batch-records", "1"]].concat();
        let one_in_flight = client.run(one_in_flight)?;
        sync()?;

        let large_writes = client.run(["disk", "--dir", dir, "--bytes", "1048576", "--writes", &writes])?;
        let to_large = ["produce", "--bootstrap", bootstrap, "--topic", large, "--seconds", &seconds];
        let large_batches =
            [&to_large[..], &["--record-bytes", LARGE_RECORD, "--batch-records", "1"]].concat();
        let large_batches = client.run(large_batches)?;
        sync()?;

        // A quarter is written and read four times, as the file is that is sent.
        let bytes = (self.fetch_mib / 4) << 20;
        let loopback =
            client.run(["loopback", "--dir", dir, "--bytes", &bytes.to_string(), "--times", "4"])?;
        client.run::<serde_json::Value, _>([
            "produce",
            "--bootstrap",
            bootstrap,
            "--topic",
            fetch,
            "--partitions",
            FETCH_PARTITIONS,
            "--acks",
            "1",
            "--batch-records",
            "900",
            "--seconds",
            "60",
            "--warm-up",
            "0",
            "--bytes-max",
            &bytes.to_string(),
        ])?;
        let to_fetch =
            ["fetch", "--bootstrap", bootstrap, "--topic", fetch, "--partitions", FETCH_PARTITIONS];
        let before = Usage::of(server.pid)?;
        let fetched = client.run([&to_fetch[..], &["--times", "4"]].concat())?;
        let fetch_usage = Usage::of(server.pid)?.since(before);

        let tail_latency =
            client.run(["tail", "--bootstrap", bootstrap, "--topic", tail, "--seconds", &seconds])?;
        for topic in [one, large, fetch, tail] {
            client.delete_topic(bootstrap, topic)?;
        }
        sync()?;
        Ok(Round {
            small_writes,
            one_in_flight,
            large_writes,
            large_batches,
            loopback,
            fetch: fetched,
            fetch_usage,
            tail: tail_latency,
        })
    }
}
