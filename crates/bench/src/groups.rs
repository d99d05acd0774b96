//! Members of groups, as raw frames: one large group whose members each have a connection and a thread of their own, or many
//! groups of one member each on a few connections.
//!
//! Members send heartbeats each [`Options::heartbeat_ms`], whatever the server says, so that it is the same for both protocols and
//! for all servers; a member with news of its own does not wait for that, as Kafka's clients do not.

mod member;

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anabranch_core::TopicId;
use anabranch_wire::messages::GroupId;
use anabranch_wire::messages::metadata_request::MetadataRequestTopic;
use anabranch_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use anabranch_wire::messages::{
    ApiKey, FindCoordinatorRequest, FindCoordinatorResponse, MetadataRequest, MetadataResponse,
    OffsetCommitRequest, OffsetCommitResponse,
};
use anabranch_wire::protocol::StrBytes;
use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::request::Connection;
use crate::topic::name;
use member::Member;

/// A group that has not come to rest by then is not going to.
const REST_MAX: Duration = Duration::from_secs(120);
/// Between two looks at the members.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// Of a member's thread: a thousand of them are no load for the memory.
const STACK_BYTES: usize = 256 << 10;
/// On which many groups share their requests.
const CONNECTIONS: usize = 16;

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
    /// It must be there
    #[arg(long)]
    topic: String,
    #[arg(long)]
    partitions: u32,
    #[arg(long)]
    protocol: Protocol,
    /// Members of the one group
    #[arg(long, default_value_t = 1000)]
    members: usize,
    #[arg(long, default_value_t = 1000)]
    heartbeat_ms: u64,
    /// Instead of that: so many groups of one member, each with an offset; prints, and goes on until it is killed
    #[arg(long)]
    groups: Option<usize>,
}

/// How long a large group took to come to rest, each member with its share, all in one epoch.
#[derive(Debug, Serialize)]
pub(crate) struct Rebalanced {
    /// From nothing to all members.
    pub(crate) join_ms: f64,
    /// After one has left.
    pub(crate) leave_ms: f64,
    /// After one has come.
    pub(crate) return_ms: f64,
}

/// Many small groups.
#[derive(Debug, Serialize)]
pub(crate) struct Made {
    pub(crate) groups: usize,
    pub(crate) groups_per_second: f64,
}

/// What others see of a member.
#[derive(Debug, Default)]
struct Seen {
    /// 0: it is none.
    epoch: AtomicI32,
    share: AtomicU32,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<serde_json::Value> {
    let mut connection = Connection::open(&options.bootstrap)?;
    find_coordinator(&mut connection)?;
    let told = match options.groups {
        None => serde_json::to_value(rebalance(options, &mut connection)?)?,
        Some(groups) => {
            let (made, connections) = make(options, groups, &mut connection)?;
            println!("{}", serde_json::to_value(made)?);
            // Whoever started this looks at the server, and ends it.
            thread::sleep(REST_MAX);
            drop(connections);
            bail!("nobody ended this");
        }
    };
    Ok(told)
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
        ensure!(Instant::now() < deadline, "there is no coordinator: error code {}", answer.error_code);
        thread::sleep(Duration::from_millis(100));
    }
}

fn rebalance(options: &Options, connection: &mut Connection) -> anyhow::Result<Rebalanced> {
    let topic_id = topic_id(connection, &options.topic)?;
    let seen: Arc<Vec<Seen>> = Arc::new((0..options.members).map(|_| Seen::default()).collect());
    let stops: Arc<Vec<AtomicBool>> =
        Arc::new((0..options.members).map(|_| AtomicBool::new(false)).collect());
    let barrier = Arc::new(Barrier::new(options.members + 1));
    let start = |index: usize, barrier: Option<Arc<Barrier>>| -> anyhow::Result<_> {
        let connection = Connection::open(&options.bootstrap)?;
        let mut member = Member::new(options, connection, index, "large", topic_id);
        let (seen, stops) = (Arc::clone(&seen), Arc::clone(&stops));
        let interval = Duration::from_millis(options.heartbeat_ms);
        let run = move || -> anyhow::Result<()> {
            if let Some(barrier) = barrier {
                barrier.wait();
            }
            while !stops[index].load(Ordering::Relaxed) {
                let has_news = member.step()?;
                seen[index].share.store(member.share(), Ordering::Relaxed);
                seen[index].epoch.store(member.settled_epoch(), Ordering::Release);
                if !has_news {
                    thread::sleep(interval);
                }
            }
            seen[index].epoch.store(0, Ordering::Release);
            member.leave()
        };
        Ok(thread::Builder::new().stack_size(STACK_BYTES).spawn(run)?)
    };
    let mut threads = Vec::with_capacity(options.members);
    for index in 0..options.members {
        threads.push(start(index, Some(Arc::clone(&barrier)))?);
    }
    let begin = Instant::now();
    barrier.wait();
    let epoch = rest(&seen, options, 0, options.members)?;
    let join_ms = begin.elapsed().as_secs_f64() * 1e3;

    let begin = Instant::now();
    stops[0].store(true, Ordering::Relaxed);
    threads.swap_remove(0).join().map_err(|_| anyhow::anyhow!("a member panicked"))??;
    let left = begin.elapsed();
    let begin = Instant::now();
    let epoch = rest(&seen, options, epoch, options.members - 1)?;
    let leave_ms = begin.elapsed().as_secs_f64() * 1e3;
    eprintln!("bench: the member that left had heard of it after {} ms", left.as_millis());

    stops[0].store(false, Ordering::Relaxed);
    let begin = Instant::now();
    threads.push(start(0, None)?);
    rest(&seen, options, epoch, options.members)?;
    let return_ms = begin.elapsed().as_secs_f64() * 1e3;
    Ok(Rebalanced { join_ms, leave_ms, return_ms })
}

/// Waits until all of `members` have all partitions between them, evenly, in one epoch after `epoch`; says which.
fn rest(seen: &[Seen], options: &Options, epoch: i32, members: usize) -> anyhow::Result<i32> {
    let deadline = Instant::now() + REST_MAX;
    loop {
        let epochs: Vec<i32> = seen.iter().map(|each| each.epoch.load(Ordering::Acquire)).collect();
        let newest = epochs.iter().copied().max().unwrap_or(0);
        let settled = epochs.iter().filter(|each| **each == newest).count();
        let shares: Vec<u32> = seen
            .iter()
            .zip(&epochs)
            .filter(|(_, epoch)| **epoch == newest)
            .map(|(each, _)| each.share.load(Ordering::Relaxed))
            .collect();
        let least = options.partitions / members as u32;
        let is_even = shares.iter().all(|share| (least..=least + 1).contains(share));
        if newest > epoch && settled == members && is_even && shares.iter().sum::<u32>() == options.partitions
        {
            return Ok(newest);
        }
        ensure!(
            Instant::now() < deadline,
            "after {} s {settled} of {members} members are in epoch {newest}",
            REST_MAX.as_secs()
        );
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Groups that each have a member, and an offset.
fn make(
    options: &Options,
    groups: usize,
    connection: &mut Connection,
) -> anyhow::Result<(Made, Vec<Connection>)> {
    let topic_id = topic_id(connection, &options.topic)?;
    let begin = Instant::now();
    let connections = thread::scope(|scope| {
        let working: Vec<_> = (0..CONNECTIONS)
            .map(|first| {
                scope.spawn(move || -> anyhow::Result<Connection> {
                    let mut connection = Connection::open(&options.bootstrap)?;
                    for index in (first..groups).step_by(CONNECTIONS) {
                        let group = format!("group-{index}");
                        let mut member = Member::new(options, connection, index, &group, topic_id);
                        while member.share() < options.partitions {
                            member.step()?;
                        }
                        connection = member.commit()?;
                    }
                    Ok(connection)
                })
            })
            .collect();
        let ended = working.into_iter().map(|working| working.join().expect("it does not panic"));
        ended.collect::<anyhow::Result<Vec<_>>>()
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok((Made { groups, groups_per_second: groups as f64 / seconds }, connections))
}

fn topic_id(connection: &mut Connection, topic: &str) -> anyhow::Result<TopicId> {
    const VERSION: i16 = 12;
    let topic = MetadataRequestTopic::default().with_name(Some(name(topic)));
    connection.send(ApiKey::Metadata, VERSION, &MetadataRequest::default().with_topics(Some(vec![topic])))?;
    let answer: MetadataResponse = connection.receive(VERSION)?;
    Ok(TopicId(answer.topics.first().context("there is no such topic")?.topic_id))
}

/// An offset for the first partition of `topic`.
fn offset_commit(group: &str, topic: &str, member_id: &str, epoch: i32) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(7)
        .with_committed_metadata(Some(StrBytes::new()));
    OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
        .with_generation_id_or_member_epoch(epoch)
        .with_member_id(StrBytes::from_string(member_id.to_owned()))
        .with_topics(vec![
            OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition]),
        ])
}

fn check_committed(answer: &OffsetCommitResponse) -> anyhow::Result<()> {
    let codes = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|each| each.error_code);
    for code in codes {
        ensure!(code == 0, "a commit was answered with error code {code}");
    }
    Ok(())
}
