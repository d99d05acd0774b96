//! Many groups, each with one member and one offset, and what lists them.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anabranch_wire::messages::{ApiKey, ListGroupsRequest, ListGroupsResponse};
use anyhow::{Context, bail, ensure};
use serde::Serialize;

use super::member::{Member, Place};
use super::owners::Owners;
use super::{Protocol, find_coordinator, topic_id};
use crate::request::Connection;

/// On which many groups share their requests.
const CONNECTIONS: usize = 16;
/// As long as a server lets it be, so that a member of the classic protocol, which sends no heartbeats, stays.
const SESSION_MS: i32 = 1_800_000;
/// A group that does not come to rest by then is not going to; nor is a server that does not list them.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Whoever started this ends it by then.
const STAY: Duration = Duration::from_secs(600);
const LISTS: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Make {
    #[arg(long)]
    bootstrap: String,
    /// Of one partition
    #[arg(long)]
    topic: String,
    #[arg(long)]
    protocol: Protocol,
    #[arg(long)]
    groups: usize,
}

#[derive(Debug, Serialize)]
struct Made {
    groups_per_second: f64,
}

/// Makes groups, prints that they are there, and goes on until it is killed.
pub(crate) fn make(options: &Make) -> anyhow::Result<()> {
    let mut connection = Connection::open(&options.bootstrap)?;
    find_coordinator(&mut connection)?;
    let topic_id = topic_id(&mut connection, &options.topic)?;
    let begin = Instant::now();
    let make_some = |first: usize| -> anyhow::Result<Connection> {
        let mut connection = Connection::open(&options.bootstrap)?;
        for index in (first..options.groups).step_by(CONNECTIONS) {
            let place = Place {
                protocol: options.protocol,
                group: format!("group-{index}"),
                topic: options.topic.clone(),
                topic_id,
                partitions: 1,
                session_ms: SESSION_MS,
            };
            let owners = Arc::new(Owners::of(1));
            let mut member = Member::new(connection, place, index, Arc::clone(&owners));
            let deadline = Instant::now() + WAIT_MAX;
            while owners.check_complete(1).is_err() {
                member.step().with_context(|| format!("group {index}"))?;
                ensure!(Instant::now() < deadline, "group {index} gets no partition");
            }
            connection = member.commit().with_context(|| format!("group {index}"))?;
        }
        Ok(connection)
    };
    let connections = thread::scope(|scope| {
        let make_some = &make_some;
        let working: Vec<_> = (0..CONNECTIONS).map(|first| scope.spawn(move || make_some(first))).collect();
        let ended = working.into_iter().map(|working| working.join().expect("it does not panic"));
        ended.collect::<anyhow::Result<Vec<_>>>()
    })?;
    let made = Made { groups_per_second: options.groups as f64 / begin.elapsed().as_secs_f64() };
    println!("{}", serde_json::to_value(made)?);
    thread::sleep(STAY);
    drop(connections);
    bail!("nobody ended this");
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[arg(long)]
    bootstrap: String,
    /// How many there must be, no more and no less
    #[arg(long)]
    groups: usize,
}

#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    /// Of the first answer with all of them, ms since the Unix epoch.
    at_unix_ms: u64,
    /// The median of some.
    list_ms: f64,
    /// How many groups have a member, by their state.
    with_member: usize,
}

/// Lists all groups, once the server knows all of them.
pub(crate) fn list(options: &List) -> anyhow::Result<Listed> {
    let mut connection = Connection::open(&options.bootstrap)?;
    let deadline = Instant::now() + WAIT_MAX;
    let first = loop {
        let answer = ask(&mut connection)?;
        if answer.error_code == 0 && answer.groups.len() == options.groups {
            break answer;
        }
        if Instant::now() > deadline {
            bail!("error code {}, {} of {} groups", answer.error_code, answer.groups.len(), options.groups);
        }
        thread::sleep(Duration::from_millis(5));
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let mut took = Vec::with_capacity(LISTS);
    for _ in 0..LISTS {
        let begin = Instant::now();
        let answer = ask(&mut connection)?;
        took.push(begin.elapsed().as_secs_f64() * 1e3);
        ensure!(answer.groups.len() == options.groups, "{} groups are listed", answer.groups.len());
    }
    took.sort_by(f64::total_cmp);
    Ok(Listed {
        at_unix_ms: u64::try_from(now.as_millis())?,
        list_ms: took[LISTS / 2],
        with_member: first.groups.iter().filter(|group| group.group_state.as_str() == "Stable").count(),
    })
}

fn ask(connection: &mut Connection) -> anyhow::Result<ListGroupsResponse> {
    const VERSION: i16 = 4;
    connection.send(ApiKey::ListGroups, VERSION, &ListGroupsRequest::default())?;
    connection.receive(VERSION)
}
