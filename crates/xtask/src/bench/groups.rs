//! Consumer groups: how long a large one takes to come to rest, and what many small ones take of the memory; in both protocols,
//! beside Apache Kafka.

use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::contender::{Contender, Settings};
use super::goal::Goal;
use super::ground::Ground;
use super::process::{self, Usage};
use super::server::Server;
use super::table::{Spread, cell, mib, table};
use super::{Common, Part};

/// A server that has just been asked for something is at rest after this.
const SETTLE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args, Serialize)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Members of the large group
    #[arg(long, default_value = "1000", default_value_if("quick", "true", "100"))]
    members: u32,
    /// Partitions that they share
    #[arg(long, default_value = "1000", default_value_if("quick", "true", "100"))]
    partitions: u32,
    /// How often each member sends a heartbeat, whatever the server says
    #[arg(long, default_value_t = 1000)]
    heartbeat_ms: u32,
    /// Small groups, of one member and one offset each
    #[arg(long, default_value = "10000", default_value_if("quick", "true", "1000"))]
    groups: u32,
    /// Who is measured
    #[arg(long, value_delimiter = ',', default_value = "anabranch,kafka")]
    contenders: Vec<Contender>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Protocol {
    Classic,
    Consumer,
}

impl Protocol {
    const ALL: [Self; 2] = [Self::Classic, Self::Consumer];

    fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
        }
    }
}

/// What `anabranch-bench groups` prints of one large group.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Rebalanced {
    join_ms: f64,
    leave_ms: f64,
    return_ms: f64,
}

/// And of many small ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Made {
    groups: usize,
    groups_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Large {
    round: u32,
    contender: Contender,
    protocol: Protocol,
    rebalanced: Rebalanced,
    /// Of the server, over all three.
    used: Usage,
}

#[derive(Debug, Serialize)]
struct Many {
    round: u32,
    contender: Contender,
    protocol: Protocol,
    made: Made,
    before_bytes: u64,
    after_bytes: u64,
    used: Usage,
}

impl Many {
    fn grown_bytes(&self) -> u64 {
        self.after_bytes.saturating_sub(self.before_bytes)
    }
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    settings: Vec<Settings>,
    large: Vec<Large>,
    many: Vec<Many>,
}

impl Part for Options {
    type Found = Found;

    const NAME: &str = "groups";

    fn common(&self) -> &Common {
        &self.common
    }

    fn measure(&self, ground: &Ground, found: &mut Found) -> anyhow::Result<()> {
        found.settings = self.contenders.iter().copied().map(Settings::from).collect();
        for round in 0..self.common.rounds {
            for &contender in &self.contenders {
                for protocol in Protocol::ALL {
                    let large = self.large(ground, round, contender, protocol)?;
                    eprintln!("bench: round {round}: {}, {}: {large:?}", contender.name(), protocol.name());
                    found.large.push(large);
                    let many = self.many(ground, round, contender, protocol)?;
                    eprintln!("bench: round {round}: {}, {}: {many:?}", contender.name(), protocol.name());
                    found.many.push(many);
                }
            }
        }
        Ok(())
    }

    fn report(&self, found: &Found) -> String {
        let both = self
            .contenders
            .iter()
            .flat_map(|contender| Protocol::ALL.into_iter().map(move |protocol| (*contender, protocol)));
        let large = both.clone().map(|(contender, protocol)| {
            let of = found
                .large
                .iter()
                .filter(move |each| (each.contender, each.protocol) == (contender, protocol));
            vec![
                contender.name().to_owned(),
                protocol.name().to_owned(),
                cell(of.clone().map(|each| each.rebalanced.join_ms), 0),
                cell(of.clone().map(|each| each.rebalanced.leave_ms), 0),
                cell(of.clone().map(|each| each.rebalanced.return_ms), 0),
                cell(of.map(|each| each.used.cpu_seconds), 2),
            ]
        });
        let many = both.map(|(contender, protocol)| {
            let of = found
                .many
                .iter()
                .filter(move |each| (each.contender, each.protocol) == (contender, protocol));
            vec![
                contender.name().to_owned(),
                protocol.name().to_owned(),
                cell(of.clone().map(|each| each.made.groups_per_second), 0),
                cell(of.clone().map(|each| each.before_bytes as f64 / f64::from(1 << 20)), 1),
                cell(of.clone().map(|each| each.grown_bytes() as f64 / f64::from(1 << 20)), 1),
                cell(of.map(|each| each.used.cpu_seconds), 2),
            ]
        });
        let header = ["", "protocol", "all joined ms", "one left ms", "one came ms", "server CPU s"];
        let many_header = ["", "protocol", "groups/s", "RSS MiB before", "RSS MiB more", "server CPU s"];
        format!(
            "{} members, {} partitions, a heartbeat each {} ms\n\n{}\n\n{} groups of one member and one offset\n\n{}",
            self.members,
            self.partitions,
            self.heartbeat_ms,
            table(&header, &large.collect::<Vec<_>>()),
            self.groups,
            table(&many_header, &many.collect::<Vec<_>>())
        )
    }

    fn goals(&self, found: &Found) -> Vec<Goal> {
        let ours = |protocol| {
            let of = found
                .large
                .iter()
                .filter(move |each| each.contender == Contender::Anabranch && each.protocol == protocol);
            let slowest = |each: &Large| {
                let Rebalanced { join_ms, leave_ms, return_ms } = each.rebalanced;
                join_ms.max(leave_ms).max(return_ms)
            };
            Spread::of(of.map(slowest)).map(|spread| {
                (
                    format!("{} {spread:.0} ms ({} members)", protocol.name(), self.members),
                    spread.median < 10_000.0,
                )
            })
        };
        let memory = |protocol| {
            let of = found
                .many
                .iter()
                .filter(move |each| each.contender == Contender::Anabranch && each.protocol == protocol);
            let most = of.map(Many::grown_bytes).max()?;
            Some((
                format!("{} {} MiB ({} groups)", protocol.name(), mib(most), self.groups),
                most < 100 << 20,
            ))
        };
        vec![
            Goal::of(
                "a group of 1,000 members rebalances, heartbeats each second",
                "< 10 s",
                Protocol::ALL.map(ours),
            ),
            Goal::of("memory of 10,000 groups", "< 100 MiB", Protocol::ALL.map(memory)),
        ]
    }
}

impl Options {
    fn large(
        &self,
        ground: &Ground,
        round: u32,
        contender: Contender,
        protocol: Protocol,
    ) -> anyhow::Result<Large> {
        let server = Server::start(contender, ground)?;
        ground.client()?.create_empty_topic(&server.bootstrap, "large", self.partitions)?;
        let before = Usage::of(server.pid)?;
        let rebalanced = ground.client()?.run([
            "groups".to_owned(),
            format!("--bootstrap={}", server.bootstrap),
            "--topic=large".to_owned(),
            format!("--partitions={}", self.partitions),
            format!("--protocol={}", protocol.name()),
            format!("--members={}", self.members),
            format!("--heartbeat-ms={}", self.heartbeat_ms),
        ])?;
        let used = Usage::of(server.pid)?.since(before);
        Ok(Large { round, contender, protocol, rebalanced, used })
    }

    fn many(
        &self,
        ground: &Ground,
        round: u32,
        contender: Contender,
        protocol: Protocol,
    ) -> anyhow::Result<Many> {
        let server = Server::start(contender, ground)?;
        ground.client()?.create_empty_topic(&server.bootstrap, "small", 1)?;
        thread::sleep(SETTLE);
        let (before, before_bytes) = (Usage::of(server.pid)?, process::resident_bytes(server.pid)?);
        let (making, line) = ground.client()?.start([
            "groups".to_owned(),
            format!("--bootstrap={}", server.bootstrap),
            "--topic=small".to_owned(),
            "--partitions=1".to_owned(),
            format!("--protocol={}", protocol.name()),
            format!("--groups={}", self.groups),
        ])?;
        let made = serde_json::from_str(&line)?;
        let used = Usage::of(server.pid)?.since(before);
        thread::sleep(SETTLE);
        let after_bytes = process::resident_bytes(server.pid)?;
        making.kill()?;
        Ok(Many { round, contender, protocol, made, before_bytes, after_bytes, used })
    }
}
