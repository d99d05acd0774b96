//! Members of groups, as raw frames: one large group whose members each have a connection and a thread of their own, or (`many`)
//! many groups of one member each on a few connections.
//!
//! Members send heartbeats each [`Options::heartbeat_ms`], whatever the server says, so that it is the same for both protocols and
//! for all servers; a member with news of its own does not wait for that, as Kafka's clients do not. No partition may ever
//! have two of them, and when the group is at rest each must have one ([`Owners`]).

pub(crate) mod many;
mod member;
mod owners;

use std::fs;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anabranch_core::TopicId;
use anabranch_wire::messages::metadata_request::MetadataRequestTopic;
use anabranch_wire::messages::{
    ApiKey, FindCoordinatorRequest, FindCoordinatorResponse, MetadataRequest, MetadataResponse,
};
use anabranch_wire::protocol::StrBytes;
use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::request::Connection;
use crate::topic::name;
use member::{Member, Place};
use owners::Owners;

/// A group that has not come to rest by then is not going to.
const REST_MAX: Duration = Duration::from_secs(120);
/// Between two looks at the members.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// Of a member's thread: a thousand of them are no load for the memory.
const STACK_BYTES: usize = 256 << 10;
/// The default of Kafka's clients, and of servers for the consumer protocol.
const SESSION: Duration = Duration::from_secs(45);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// JoinGroup and SyncGroup; a member assigns
    Classic,
    /// KIP-848; the server assigns
    Consumer,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    bootstrap: String,
    /// The server's process, to see what it uses
    #[arg(long)]
    pid: u32,
    /// It must be there
    #[arg(long)]
    topic: String,
    #[arg(long)]
    partitions: u32,
    #[arg(long)]
    group: String,
    #[arg(long)]
    protocol: Protocol,
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    members: u32,
    #[arg(long)]
    heartbeat_ms: u64,
    /// How long the group is watched at rest
    #[arg(long)]
    rest_seconds: f64,
    /// Let a member die, too, which takes as long as its session
    #[arg(long)]
    death: bool,
}

/// What a large group took to come to rest, each member with its share, all in one epoch.
#[derive(Debug, Serialize)]
pub(crate) struct Rebalanced {
    /// From nothing to all members.
    join: Step,
    /// A member leaves.
    leave: Step,
    /// A member comes.
    come: Step,
    /// A member falls silent; the time is that after its session.
    death: Option<Step>,
    rest: Rest,
}

#[derive(Debug, Serialize)]
struct Step {
    ms: f64,
    server_cpu_seconds: f64,
}

/// Of the server, while all members are there and do nothing but to send heartbeats.
#[derive(Debug, Serialize)]
struct Rest {
    heartbeats: u64,
    cpu_us_per_heartbeat: f64,
    resident_bytes: u64,
}

/// How a member's life ends.
const LIVES: u8 = 0;
const LEAVES: u8 = 1;
const DIES: u8 = 2;

/// What others see of a member, and want of it.
#[derive(Debug, Default)]
struct Seen {
    /// 0: it is none.
    epoch: AtomicI32,
    end: AtomicU8,
}

struct Shared {
    place: Place,
    bootstrap: String,
    heartbeat: Duration,
    owners: Arc<Owners>,
    seen: Vec<Seen>,
    heartbeats: AtomicU64,
    /// What went wrong first.
    failed: Mutex<Option<anyhow::Error>>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<Rebalanced> {
    let mut connection = Connection::open(&options.bootstrap)?;
    find_coordinator(&mut connection)?;
    let place = Place {
        protocol: options.protocol,
        group: options.group.clone(),
        topic: options.topic.clone(),
        topic_id: topic_id(&mut connection, &options.topic)?,
        partitions: options.partitions,
        session_ms: SESSION.as_millis() as i32,
    };
    let shared = Arc::new(Shared {
        place,
        bootstrap: options.bootstrap.clone(),
        heartbeat: Duration::from_millis(options.heartbeat_ms),
        owners: Arc::new(Owners::of(options.partitions)),
        seen: (0..options.members).map(|_| Seen::default()).collect(),
        heartbeats: AtomicU64::new(0),
        failed: Mutex::new(None),
    });
    let all = options.members as usize;
    let barrier = Arc::new(Barrier::new(all + 1));
    let mut threads = (0..all)
        .map(|index| Shared::start(&shared, index, Some(Arc::clone(&barrier))))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let (begin, cpu) = (Instant::now(), server_cpu_seconds(options.pid)?);
    barrier.wait();
    let mut epoch = 0;
    let mut step = |begin: Instant, cpu: f64, members: usize| -> anyhow::Result<Step> {
        epoch = shared.rest(epoch, members)?;
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        Ok(Step { ms, server_cpu_seconds: server_cpu_seconds(options.pid)? - cpu })
    };
    let join = step(begin, cpu, all)?;
    let rest = shared.watch(options)?;

    let cpu = server_cpu_seconds(options.pid)?;
    let begin = shared.end(threads.swap_remove(0), 0, LEAVES)?;
    let leave = step(begin, cpu, all - 1)?;
    let (begin, cpu) = (Instant::now(), server_cpu_seconds(options.pid)?);
    threads.push(Shared::start(&shared, 0, None)?);
    let come = step(begin, cpu, all)?;
    let death = if options.death {
        let begin = shared.end(threads.pop().expect("it was just pushed"), 0, DIES)? + SESSION;
        thread::sleep(begin.saturating_duration_since(Instant::now()));
        let cpu = server_cpu_seconds(options.pid)?;
        Some(step(begin, cpu, all - 1)?)
    } else {
        None
    };
    Ok(Rebalanced { join, leave, come, death, rest })
}

impl Shared {
    /// A member, whose thread ends with when it did the last that the server knows of.
    fn start(
        shared: &Arc<Self>,
        index: usize,
        barrier: Option<Arc<Barrier>>,
    ) -> anyhow::Result<JoinHandle<Instant>> {
        let shared = Arc::clone(shared);
        shared.seen[index].end.store(LIVES, Ordering::Relaxed);
        let connection = Connection::open(&shared.bootstrap)?;
        let member = Member::new(connection, shared.place.clone(), index, Arc::clone(&shared.owners));
        let run = move || {
            if let Some(barrier) = barrier {
                barrier.wait();
            }
            let (last, error) = match shared.live(member, index) {
                Ok(last) => (last, None),
                Err(error) => (Instant::now(), Some(error.context(format!("member {index}")))),
            };
            if let Some(error) = error {
                shared.failed.lock().expect("nobody panics with it").get_or_insert(error);
            }
            last
        };
        Ok(thread::Builder::new().stack_size(STACK_BYTES).spawn(run)?)
    }

    fn live(&self, mut member: Member, index: usize) -> anyhow::Result<Instant> {
        let seen = &self.seen[index];
        loop {
            let sent = Instant::now();
            let has_news = member.step()?;
            self.heartbeats.fetch_add(1, Ordering::Relaxed);
            seen.epoch.store(member.settled_epoch(), Ordering::Release);
            if !has_news {
                thread::sleep(self.heartbeat);
            }
            let end = seen.end.load(Ordering::Relaxed);
            if end == LIVES {
                continue;
            }
            seen.epoch.store(0, Ordering::Release);
            if end == DIES {
                return member.die().map(|()| sent);
            }
            let begin = Instant::now();
            return member.leave().map(|()| begin);
        }
    }

    /// Ends a member's life; when that was.
    fn end(&self, thread: JoinHandle<Instant>, index: usize, how: u8) -> anyhow::Result<Instant> {
        self.seen[index].end.store(how, Ordering::Relaxed);
        thread.join().map_err(|_| anyhow::anyhow!("a member panicked"))
    }

    /// Waits until so many members have all partitions between them, evenly, in one epoch after `epoch`; says which.
    fn rest(&self, epoch: i32, members: usize) -> anyhow::Result<i32> {
        let deadline = Instant::now() + REST_MAX;
        loop {
            if let Some(error) = self.failed.lock().expect("nobody panics with it").take() {
                return Err(error);
            }
            let epochs = || self.seen.iter().map(|each| each.epoch.load(Ordering::Acquire));
            let newest = epochs().max().unwrap_or(0);
            let settled = epochs().filter(|each| *each == newest).count();
            let is_complete = if newest > epoch && settled == members {
                self.owners.check_complete(members)
            } else {
                Err(anyhow::anyhow!("{settled} of {members} members are in epoch {newest}"))
            };
            match is_complete {
                Ok(()) => return Ok(newest),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("not at rest after {} s", REST_MAX.as_secs())));
                }
                Err(_) => thread::sleep(LOOK_INTERVAL),
            }
        }
    }

    fn watch(&self, options: &Options) -> anyhow::Result<Rest> {
        let (cpu, before) = (server_cpu_seconds(options.pid)?, self.heartbeats.load(Ordering::Relaxed));
        thread::sleep(Duration::from_secs_f64(options.rest_seconds));
        let heartbeats = self.heartbeats.load(Ordering::Relaxed) - before;
        let cpu = server_cpu_seconds(options.pid)? - cpu;
        Ok(Rest {
            heartbeats,
            cpu_us_per_heartbeat: cpu * 1e6 / heartbeats as f64,
            resident_bytes: resident_bytes(options.pid)?,
        })
    }
}

/// Of all threads, in user and kernel, to a hundredth of a second (proc(5): fields 14 and 15, the second in parentheses).
fn server_cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}: has the server died?"))?;
    let fields = text.rsplit_once(") ").map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
    let ticks = fields.skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>();
    Ok(ticks.with_context(|| format!("{path} reads {text:?}"))? as f64 / 100.0)
}

fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    Ok(line.with_context(|| format!("{path} has no VmRSS"))?.parse::<u64>()? * 1024)
}

/// A server that has never had a group makes its topic now.
fn find_coordinator(connection: &mut Connection) -> anyhow::Result<()> {
    const VERSION: i16 = 2;
    let deadline = Instant::now() + REST_MAX;
    loop {
        let request = FindCoordinatorRequest::default().with_key(StrBytes::from_static_str("bench"));
        connection.send(ApiKey::FindCoordinator, VERSION, &request)?;
        let answer: FindCoordinatorResponse = connection.receive(VERSION)?;
        if answer.error_code == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("there is no coordinator: error code {}", answer.error_code);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn topic_id(connection: &mut Connection, topic: &str) -> anyhow::Result<TopicId> {
    const VERSION: i16 = 12;
    let request = MetadataRequestTopic::default().with_name(Some(name(topic)));
    connection.send(
        ApiKey::Metadata,
        VERSION,
        &MetadataRequest::default().with_topics(Some(vec![request])),
    )?;
    let answer: MetadataResponse = connection.receive(VERSION)?;
    let told = answer.topics.first().context("Metadata says nothing of the topic")?;
    ensure!(told.error_code == 0, "Metadata of {topic} has error code {}", told.error_code);
    Ok(TopicId(told.topic_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(server_cpu_seconds(pid).unwrap() >= 0.0);
        assert!(resident_bytes(pid).unwrap() > 100_000);
        let begin = Instant::now();
        while server_cpu_seconds(pid).unwrap() < 0.02 {
            assert!(begin.elapsed() < Duration::from_secs(60), "the time of this loop is not counted");
        }
    }
}
