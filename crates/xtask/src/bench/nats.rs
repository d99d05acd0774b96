//! Beside NATS JetStream. It does not speak Kafka's protocol, so each has a client of its own: NATS its `nats bench`,
//! Anabranch the light one.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::client::Told;
use super::contender::Contender;
use super::goal::Goal;
use super::ground::{Ground, sync};
use super::process::Usage;
use super::server::{Server, free_port};
use super::table::{Spread, cell, table};
use super::{Common, Part};

/// What an error shows of what the command said.
const ERROR_LINES_MAX: usize = 5;

#[derive(Debug, clap::Args, Serialize)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Clients, each with a connection of its own
    #[arg(long, value_delimiter = ',', default_value = "1,8", default_value_if("quick", "true", "1"))]
    clients: Vec<u32>,
    #[arg(long, default_value_t = 1024)]
    record_bytes: u32,
    /// Records that NATS is given, all clients together
    #[arg(long, default_value = "100000", default_value_if("quick", "true", "10000"))]
    records: u64,
    /// How long Anabranch is given records
    #[arg(long, default_value = "5", default_value_if("quick", "true", "2"))]
    seconds: f64,
}

/// A server, and how its client publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    Anabranch,
    /// 500 in flight for each client.
    NatsAsync,
    /// All or nothing of 500.
    NatsAtomic,
    NatsSync,
}

impl Way {
    const ALL: [Self; 4] = [Self::Anabranch, Self::NatsAsync, Self::NatsAtomic, Self::NatsSync];

    fn says(self) -> &'static str {
        match self {
            Self::Anabranch => "anabranch, acks=all",
            Self::NatsAsync => "NATS, asynchronous",
            Self::NatsAtomic => "NATS, atomic batches of 500",
            Self::NatsSync => "NATS, synchronous",
        }
    }
}

#[derive(Debug, Serialize)]
struct Measurement {
    round: u32,
    clients: u32,
    way: Way,
    records: u64,
    records_per_second: f64,
    /// Of the server.
    usage: Usage,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    measurements: Vec<Measurement>,
}

impl Part for Options {
    type Found = Found;

    const NAME: &str = "nats";

    fn common(&self) -> &Common {
        &self.common
    }

    fn measure(&self, ground: &Ground, found: &mut Found) -> anyhow::Result<()> {
        let nats = Nats::start(ground, Sync::Always)?;
        let ours = Server::start(Contender::Anabranch, ground)?;
        for round in 0..self.common.rounds {
            for &clients in &self.clients {
                for way in Way::ALL {
                    let pid = if way == Way::Anabranch { ours.pid } else { nats.pid };
                    let name = format!("r{round}-{clients}-{way:?}");
                    let before = Usage::of(pid)?;
                    let (records, rate) = match way {
                        Way::Anabranch => self.produce(ground, &ours, &name, clients)?,
                        Way::NatsAsync => {
                            (self.records, self.publish(&nats, "async", &name, clients, self.records)?)
                        }
                        Way::NatsAtomic => {
                            (self.records, self.publish(&nats, "atomic", &name, clients, self.records)?)
                        }
                        Way::NatsSync => {
                            let records = self.records / 10;
                            (records, self.publish(&nats, "sync", &name, clients, records)?)
                        }
                    };
                    eprintln!("bench: round {round}: {clients} clients: {}: {rate:.0} records/s", way.says());
                    let usage = Usage::of(pid)?.since(before);
                    found.measurements.push(Measurement {
                        round,
                        clients,
                        way,
                        records,
                        records_per_second: rate,
                        usage,
                    });
                    sync()?;
                }
            }
        }
        Ok(())
    }

    fn report(&self, found: &Found) -> String {
        let mut rows = Vec::new();
        for &clients in &self.clients {
            for way in Way::ALL {
                let of =
                    found.measurements.iter().filter(move |one| (one.clients, one.way) == (clients, way));
                let ratio = found.ratio(clients, way);
                rows.push(vec![
                    clients.to_string(),
                    way.says().to_owned(),
                    cell(of.clone().map(|one| one.records_per_second), 0),
                    cell(of.map(|one| one.usage.cpu_seconds * 1e6 / one.records as f64), 2),
                    ratio.map_or_else(String::new, |ratio| format!("{ratio:.1} ×")),
                ]);
            }
        }
        let header = ["clients", "", "records/s", "CPU µs/record", "Anabranch to it"];
        format!(
            "{} B; NATS with `sync_interval: always` and `nats bench`, Anabranch with the light client (5 requests of 16 KiB in \
             flight): both sync before they acknowledge.\n\n{}",
            self.record_bytes,
            table(&header, &rows)
        )
    }

    fn goals(&self, found: &Found) -> Vec<Goal> {
        let of = |&clients: &u32| {
            let ratio = found.ratio(clients, Way::NatsAsync)?;
            Some((format!("{ratio:.1} × with {clients}"), ratio.median >= 10.0))
        };
        let goal = "against NATS JetStream with sync always, its own client, asynchronous";
        vec![Goal::of(goal, "≥ 10 ×", self.clients.iter().map(of))]
    }
}

impl Found {
    /// How many times as fast Anabranch is, each round's own.
    fn ratio(&self, clients: u32, than: Way) -> Option<Spread> {
        let of = |way| self.measurements.iter().filter(move |one| (one.clients, one.way) == (clients, way));
        Spread::of(of(Way::Anabranch).filter_map(|our| {
            let their = of(than).find(|their| their.round == our.round)?;
            Some(our.records_per_second / their.records_per_second).filter(|ratio| ratio.is_finite())
        }))
    }
}

impl Options {
    fn produce(
        &self,
        ground: &Ground,
        ours: &Server,
        topic: &str,
        clients: u32,
    ) -> anyhow::Result<(u64, f64)> {
        let (client, bootstrap) = (ground.client()?, ours.bootstrap.as_str());
        client.create_topic(bootstrap, topic, 1, ours.contender.topic_settings())?;
        let (clients, seconds) = (clients.to_string(), self.seconds.to_string());
        let bytes = self.record_bytes.to_string();
        let records = ((16 << 10) / self.record_bytes).max(1).to_string();
        let mut arguments =
            vec!["produce", "--bootstrap", bootstrap, "--topic", topic, "--seconds", &seconds];
        arguments.extend(["--connections", &clients, "--record-bytes", &bytes, "--batch-records", &records]);
        let told: Told = client.run(arguments)?;
        client.delete_topic(bootstrap, topic)?;
        Ok((told.records_total, told.records_per_second))
    }

    fn publish(
        &self,
        nats: &Nats,
        how: &str,
        stream: &str,
        clients: u32,
        records: u64,
    ) -> anyhow::Result<f64> {
        let mut command = nats.command();
        command.args(["bench", "js", "pub", how, "--create", "--no-progress", "--stream", stream]);
        command.arg(format!("--clients={clients}")).arg(format!("--msgs={records}"));
        command.arg(format!("--size={}", self.record_bytes)).arg(stream);
        let said = said(&mut command)?;
        let rate = parse_published(&said).with_context(|| format!("nats bench printed {said:?}"))?;
        said_ok(nats.command().args(["stream", "rm", "--force", stream]))?;
        Ok(rate)
    }
}

/// The rate in the summary of `nats bench js pub`, which reads, with the second form for several clients:
///
/// ```text
/// NATS JetStream asynchronous publisher stats: 3,776 msgs/sec ~ 3.7 MiB/sec ~ min: 68,153.14us ~ …
///  NATS JetStream atomic batch publisher aggregated stats: 75,148 msgs/sec ~ 73 MiB/sec
/// ```
fn parse_published(said: &str) -> Option<f64> {
    let line = said.lines().rfind(|line| line.contains(" publisher ") && line.contains("stats: "))?;
    let (_, from_rate) = line.split_once("stats: ")?;
    let (rate, _) = from_rate.split_once(" msgs/sec")?;
    rate.replace(',', "").parse().ok()
}

/// What a command prints, if it succeeds.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        let all = said + &String::from_utf8_lossy(&done.stderr);
        let lines: Vec<&str> = all.lines().collect();
        let last = lines[lines.len().saturating_sub(ERROR_LINES_MAX)..].join("\n");
        anyhow::bail!("{command:?} failed ({}), and said last:\n{last}", done.status);
    }
    Ok(said)
}

fn said_ok(command: &mut Command) -> anyhow::Result<()> {
    said(command).map(drop)
}

/// When a NATS server syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    /// Before it acknowledges.
    Always,
    /// Every two minutes, as it comes.
    Seldom,
}

/// A NATS server, by `tests/peers/nats/nats`.
#[derive(Debug)]
pub(super) struct Nats {
    script: PathBuf,
    bin: PathBuf,
    dir: PathBuf,
    port: u16,
    pid: u32,
}

impl Nats {
    pub(super) fn start(ground: &Ground, sync: Sync) -> anyhow::Result<Self> {
        let script = ground.top.join("tests/peers/nats/nats");
        let bin = ground.top.join("target/nats");
        eprintln!("bench: installing NATS, which takes two minutes the first time");
        said_ok(Command::new(&script).arg("install").arg(&bin))?;
        let left = ground.work.join("nats");
        if left.exists() {
            said_ok(Command::new(&script).args(["stop", "--kill", "--dir"]).arg(&left))?; // by a run that was interrupted
        }
        let dir = ground.empty("nats")?;
        let mut nats = Self { script, bin, dir, port: free_port()?, pid: 0 };
        // Its output goes to a file: the server that it leaves behind would keep a pipe open.
        let log = File::create(nats.dir.join("start.log"))?;
        let mut start = Command::new(&nats.script);
        start
            .args(["start", "--nodes", "1", "--dir"])
            .arg(&nats.dir)
            .arg("--port")
            .arg(nats.port.to_string());
        start.arg("--bin").arg(&nats.bin);
        if sync == Sync::Always {
            start.arg("--sync-always");
        }
        let status = start.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).status()?;
        ensure!(status.success(), "NATS does not start; its logs are in {}", nats.dir.display());
        let pid = fs::read_to_string(nats.dir.join("n1").join("pid"))?;
        nats.pid = pid.trim().parse().with_context(|| format!("its pid reads {pid:?}"))?;
        ground.met_nats(nats.version()?);
        Ok(nats)
    }

    /// Where clients connect.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.bin.join("nats"));
        command.env("LC_ALL", "C").arg("--no-context").arg(format!("--server={}", self.address()));
        command
    }

    fn version(&self) -> anyhow::Result<String> {
        let said = said(Command::new(self.bin.join("nats-server")).arg("--version"))?;
        Ok(said.trim().trim_start_matches("nats-server: v").to_owned())
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let mut stop = Command::new(&self.script);
        if let Err(error) = said_ok(stop.args(["stop", "--kill", "--dir"]).arg(&self.dir)) {
            eprintln!("bench: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_all_clients_is_read() {
        let one = "NATS JetStream asynchronous publisher stats: 3,776 msgs/sec ~ 3.7 MiB/sec ~ min: 68,153.14us ~\n\n";
        assert_eq!(parse_published(one), Some(3776.0));
        let four = "  [1] 22,219 msgs/sec ~ 22 MiB/sec ~ (5,000 msgs)\n  [2] 19,253 msgs/sec ~ 19 MiB/sec ~ (5,000 msgs)\n\n \
            NATS JetStream atomic batch publisher aggregated stats: 75,148 msgs/sec ~ 73 MiB/sec\n message rates min 18,811 |\n";
        assert_eq!(parse_published(four), Some(75_148.0));
        assert_eq!(parse_published("nats: error: no servers available for connection"), None);
    }
}
