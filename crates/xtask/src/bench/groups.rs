//! Consumer groups: how long a large one takes to come to rest, and what many small ones take of the memory; in both protocols,
//! beside Apache Kafka.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::contender::{Contender, Settings};
use super::goal::Goal;
use super::ground::{Ground, sync};
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
    /// How long the large group is watched at rest
    #[arg(long, default_value = "10", default_value_if("quick", "true", "3"))]
    rest_seconds: f64,
    /// Small groups, of one member and one offset each
    #[arg(long, default_value = "10000", default_value_if("quick", "true", "1000"))]
    groups: u32,
    /// Who is measured
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Contender::Anabranch, Contender::Kafka])]
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

/// What `anabranch-bench groups` prints of a large group.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Rebalanced {
    join: Step,
    leave: Step,
    come: Step,
    /// The time is that after the session of the dead member.
    death: Option<Step>,
    rest: Rest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Step {
    ms: f64,
    server_cpu_seconds: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Rest {
    heartbeats: u64,
    cpu_us_per_heartbeat: f64,
    resident_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Large {
    /// From 0, which warms up and is not in the tables.
    round: u32,
    contender: Contender,
    protocol: Protocol,
    before_bytes: u64,
    rebalanced: Rebalanced,
}

/// What `anabranch-bench many-groups` prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Made {
    groups_per_second: f64,
}

/// What `anabranch-bench list-groups` prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Listed {
    at_unix_ms: u64,
    list_ms: f64,
    with_member: usize,
}

#[derive(Debug, Serialize)]
struct Many {
    round: u32,
    contender: Contender,
    protocol: Protocol,
    made: Made,
    /// Of the server, while groups were made.
    used: Usage,
    before_bytes: u64,
    after_bytes: u64,
    listed: Listed,
    /// From the birth of a server that follows one that was killed, to its first list of all groups.
    ready_ms: f64,
    restarted_bytes: u64,
    relisted: Listed,
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

const MIB: f64 = (1 << 20) as f64;

type Figure<T> = fn(&T) -> f64;

const LARGE: [(&str, usize, Figure<Large>); 9] = [
    ("all joined ms", 0, |one| one.rebalanced.join.ms),
    ("one left ms", 0, |one| one.rebalanced.leave.ms),
    ("one came ms", 0, |one| one.rebalanced.come.ms),
    ("one died ms", 0, |one| one.rebalanced.death.as_ref().map_or(f64::NAN, |death| death.ms)),
    ("join CPU s", 2, |one| one.rebalanced.join.server_cpu_seconds),
    ("left CPU s", 2, |one| one.rebalanced.leave.server_cpu_seconds),
    ("came CPU s", 2, |one| one.rebalanced.come.server_cpu_seconds),
    ("CPU µs/heartbeat", 0, |one| one.rebalanced.rest.cpu_us_per_heartbeat),
    ("RSS MiB", 0, |one| one.rebalanced.rest.resident_bytes as f64 / MIB),
];

const MANY: [(&str, usize, Figure<Many>); 7] = [
    ("groups/s", 0, |one| one.made.groups_per_second),
    ("CPU s", 2, |one| one.used.cpu_seconds),
    ("RSS MiB", 0, |one| one.after_bytes as f64 / MIB),
    ("more MiB", 1, |one| one.grown_bytes() as f64 / MIB),
    ("list ms", 1, |one| one.listed.list_ms),
    ("restart ms", 0, |one| one.ready_ms),
    ("then RSS MiB", 0, |one| one.restarted_bytes as f64 / MIB),
];

impl Part for Options {
    type Found = Found;

    const NAME: &str = "groups";

    fn common(&self) -> &Common {
        &self.common
    }

    fn measure(&self, ground: &Ground, found: &mut Found) -> anyhow::Result<()> {
        found.settings = self.contenders.iter().copied().map(Settings::from).collect();
        let rounds = self.common.rounds;
        let mut servers = Vec::new();
        for &contender in &self.contenders {
            let server = Server::start(contender, ground)?;
            ground.client()?.create_empty_topic(&server.bootstrap, "large", self.partitions)?;
            servers.push(server);
        }
        for (round, protocol, server) in in_turn(rounds, &servers) {
            let context = || format!("{}, {}, round {round}", server.contender.name(), protocol.name());
            let large = self.large(ground, server, round, protocol).with_context(context)?;
            eprintln!("bench: {}: {:?}", context(), large.rebalanced);
            found.large.push(large);
        }
        drop(servers);
        for (round, protocol, &contender) in in_turn(rounds, &self.contenders) {
            if round == 0 {
                continue;
            }
            let context = || format!("{}, {}, round {round}", contender.name(), protocol.name());
            let many = self.many(ground, round, contender, protocol).with_context(context)?;
            eprintln!("bench: {}: {many:?}", context());
            found.many.push(many);
        }
        Ok(())
    }

    fn report(&self, found: &Found) -> String {
        let large: Vec<&Large> = found.large.iter().filter(|one| one.round > 0).collect();
        let many: Vec<&Many> = found.many.iter().collect();
        format!(
            "## One group of {} members, {} partitions, a heartbeat each {} ms\n\n{}\n\n\
             ## {} groups of one member and one offset\n\n{}",
            self.members,
            self.partitions,
            self.heartbeat_ms,
            figures(&large, &LARGE, |one| (one.round, one.contender, one.protocol)),
            self.groups,
            figures(&many, &MANY, |one| (one.round, one.contender, one.protocol)),
        )
    }

    fn goals(&self, found: &Found) -> Vec<Goal> {
        let ours = |protocol: Protocol| {
            let of = found.large.iter().filter(move |one| {
                one.round > 0 && (one.contender, one.protocol) == (Contender::Anabranch, protocol)
            });
            let slowest = |one: &Large| {
                let Rebalanced { join, leave, come, death, .. } = &one.rebalanced;
                [join, leave, come].into_iter().chain(death).map(|step| step.ms).fold(0.0, f64::max)
            };
            Spread::of(of.map(slowest)).map(|spread| {
                let told = format!("{} {spread:.0} ms ({} members)", protocol.name(), self.members);
                (told, spread.median < 10_000.0)
            })
        };
        let memory = |protocol: Protocol| {
            let of = found
                .many
                .iter()
                .filter(|one| (one.contender, one.protocol) == (Contender::Anabranch, protocol));
            let most = of.map(Many::grown_bytes).max()?;
            let told = format!("{} {} MiB ({} groups)", protocol.name(), mib(most), self.groups);
            Some((told, most < 100 << 20))
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

/// Rounds from 0, in each both protocols, in each everybody; who is first changes.
fn in_turn<T>(rounds: u32, all: &[T]) -> impl Iterator<Item = (u32, Protocol, &T)> {
    let turns = (0..=rounds).flat_map(|round| Protocol::ALL.map(|protocol| (round, protocol)));
    turns.enumerate().flat_map(|(number, (round, protocol))| {
        let from_first = all.iter().cycle().skip(number % all.len().max(1)).take(all.len());
        from_first.map(move |one| (round, protocol, one))
    })
}

/// A row for each contender and protocol, and one for each ratio of ours to theirs, round by round.
fn figures<T>(
    measured: &[&T],
    columns: &[(&str, usize, Figure<T>)],
    of: fn(&T) -> (u32, Contender, Protocol),
) -> String {
    let found = |round: Option<u32>, contender, protocol| {
        let is_meant = move |one: &&&T| {
            let key = of(one);
            round.is_none_or(|round| round == key.0) && (contender, protocol) == (key.1, key.2)
        };
        measured.iter().filter(is_meant).copied().collect::<Vec<_>>()
    };
    let mut rows = Vec::new();
    for protocol in Protocol::ALL {
        for contender in Contender::ALL {
            let all = found(None, contender, protocol);
            if !all.is_empty() {
                let mut row = vec![contender.name().to_owned(), protocol.name().to_owned()];
                row.extend(columns.iter().map(|(_, digits, figure)| {
                    cell(all.iter().map(|one| figure(one)).filter(|value| value.is_finite()), *digits)
                }));
                rows.push(row);
            }
        }
        let pairs = Contender::ALL.into_iter().filter(|one| !one.is_kafka()).flat_map(|ours| {
            Contender::ALL.into_iter().filter(|one| one.is_kafka()).map(move |theirs| (ours, theirs))
        });
        for (ours, theirs) in pairs {
            let rounds: Vec<(&T, &T)> = found(None, ours, protocol)
                .into_iter()
                .filter_map(|our| {
                    let their = found(Some(of(our).0), theirs, protocol);
                    Some((our, *their.first()?))
                })
                .collect();
            if !rounds.is_empty() {
                let names = format!("{} / {}", ours.name(), theirs.name());
                let mut row = vec![names, protocol.name().to_owned()];
                row.extend(columns.iter().map(|(_, _, figure)| {
                    let ratios = rounds.iter().map(|(our, their)| figure(our) / figure(their));
                    cell(ratios.filter(|ratio| ratio.is_finite()), 2)
                }));
                rows.push(row);
            }
        }
    }
    let mut header = vec!["", "protocol"];
    header.extend(columns.iter().map(|(name, ..)| *name));
    table(&header, &rows)
}

impl Options {
    fn large(
        &self,
        ground: &Ground,
        server: &Server,
        round: u32,
        protocol: Protocol,
    ) -> anyhow::Result<Large> {
        sync()?;
        let before_bytes = process::resident_bytes(server.pid)?;
        let mut arguments = vec![
            "groups".to_owned(),
            format!("--bootstrap={}", server.bootstrap),
            format!("--pid={}", server.pid),
            "--topic=large".to_owned(),
            format!("--partitions={}", self.partitions),
            format!("--group={}-{round}", protocol.name()),
            format!("--protocol={}", protocol.name()),
            format!("--members={}", self.members),
            format!("--heartbeat-ms={}", self.heartbeat_ms),
            format!("--rest-seconds={}", self.rest_seconds),
        ];
        if round > 0 {
            arguments.push("--death".to_owned());
        }
        let rebalanced = ground.client()?.run(arguments)?;
        Ok(Large { round, contender: server.contender, protocol, before_bytes, rebalanced })
    }

    fn many(
        &self,
        ground: &Ground,
        round: u32,
        contender: Contender,
        protocol: Protocol,
    ) -> anyhow::Result<Many> {
        let mut server = Server::start(contender, ground)?;
        let client = ground.client()?;
        client.create_empty_topic(&server.bootstrap, "small", 1)?;
        sync()?;
        thread::sleep(SETTLE);
        let (before, before_bytes) = (Usage::of(server.pid)?, process::resident_bytes(server.pid)?);
        let bootstrap = format!("--bootstrap={}", server.bootstrap);
        let groups = format!("--groups={}", self.groups);
        let (making, line) = client.start([
            "many-groups",
            &bootstrap,
            "--topic=small",
            &format!("--protocol={}", protocol.name()),
            &groups,
        ])?;
        let used = Usage::of(server.pid)?.since(before);
        let made = serde_json::from_str(&line)?;
        thread::sleep(SETTLE);
        let after_bytes = process::resident_bytes(server.pid)?;
        let list = ["list-groups", &bootstrap, &groups];
        let listed = client.run(list)?;
        making.kill()?;
        server.crash(ground)?;
        let relisted: Listed = client.run(list)?;
        let since_ms =
            SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as f64 - relisted.at_unix_ms as f64;
        let ready_ms = process::age(server.pid)?.as_secs_f64() * 1e3 - since_ms;
        thread::sleep(SETTLE);
        let restarted_bytes = process::resident_bytes(server.pid)?;
        Ok(Many {
            round,
            contender,
            protocol,
            made,
            used,
            before_bytes,
            after_bytes,
            listed,
            ready_ms,
            restarted_bytes,
            relisted,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::goal::Reached;
    use super::*;

    fn large(round: u32, contender: Contender, protocol: Protocol, ms: f64) -> Large {
        let step = |ms| Step { ms, server_cpu_seconds: 1.0 };
        let rest = Rest { heartbeats: 1, cpu_us_per_heartbeat: 1.0, resident_bytes: 1 };
        let death = (round > 0).then(|| step(20.0));
        let rebalanced = Rebalanced { join: step(ms), leave: step(10.0), come: step(10.0), death, rest };
        Large { round, contender, protocol, before_bytes: 0, rebalanced }
    }

    #[test]
    fn a_ratio_is_of_one_round_and_the_first_round_does_not_count() {
        use Contender::{Anabranch, Kafka};
        use Protocol::{Classic, Consumer};
        let options = {
            use clap::Parser;
            super::super::Alone::<Options>::try_parse_from(["bench"]).unwrap().part
        };
        let mut found = Found {
            large: vec![
                large(0, Anabranch, Classic, 1e9),
                large(1, Anabranch, Classic, 300.0),
                large(1, Kafka, Classic, 1000.0),
                large(2, Kafka, Classic, 2000.0),
                large(2, Anabranch, Classic, 600.0),
            ],
            ..Found::default()
        };
        let report = options.report(&found);
        assert!(report.contains("| anabranch / kafka | classic  | 0.30 "), "{report}");
        assert!(report.contains("| anabranch         | classic  | 450 (300–600) "), "{report}");
        let reached = |found: &Found| options.goals(found)[0].reached;
        assert_eq!(reached(&found), Reached::Unknown);
        found.large.push(large(1, Anabranch, Consumer, 9_999.0));
        assert_eq!(reached(&found), Reached::Yes);
        found.large.push(large(2, Anabranch, Consumer, 10_003.0));
        assert_eq!(reached(&found), Reached::No);
    }

    #[test]
    fn everybody_is_first_in_turn() {
        let turns: Vec<_> = in_turn(0, &["a", "b"]).map(|(_, protocol, who)| (protocol, *who)).collect();
        use Protocol::{Classic, Consumer};
        assert_eq!(turns, [(Classic, "a"), (Classic, "b"), (Consumer, "b"), (Consumer, "a")]);
    }
}
