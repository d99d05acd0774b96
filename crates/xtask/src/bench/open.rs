//! Opening a directory, after a clean stop and after a kill, and the memory of a server that does nothing.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::contender::Contender;
use super::goal::Goal;
use super::ground::{Ground, sync};
use super::process;
use super::server::Server;
use super::table::{Spread, cell, mib, table};
use super::{Common, Part};

/// A server that has just been asked for something is at rest after this.
const SETTLE: Duration = Duration::from_secs(3);

/// How long what is killed has been writing small batches.
const WRITING: Duration = Duration::from_secs(2);

/// What reading is tried with.
const READ_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug, clap::Args, Serialize)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// The size of the directory
    #[arg(long, default_value = "10240", default_value_if("quick", "true", "1024"))]
    data_mib: u64,
    /// Partitions of the directory
    #[arg(long, default_value_t = 100)]
    partitions: u32,
    /// Partitions that a server has which does nothing
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10,10000",
        default_value_if("quick", "true", "10,1000")
    )]
    idle_partitions: Vec<u32>,
}

/// What `anabranch-bench open` prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Opened {
    milliseconds: f64,
    /// What opening asked the operating system for.
    read_bytes: u64,
    records: i64,
    partitions: u32,
    data_bytes: u64,
}

/// What `anabranch-bench fill` prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Filled {
    bytes: u64,
    records: i64,
    seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum After {
    CleanStop,
    /// And nothing of it in memory.
    CleanStopCold,
    Kill,
}

#[derive(Debug, Serialize)]
struct Opening {
    round: u32,
    after: After,
    opened: Opened,
    /// How fast the disk, or the page cache, gives the same files.
    read_bytes_per_second: f64,
}

impl Opening {
    /// Without the time to read what was read.
    fn without_reading_ms(&self) -> f64 {
        self.opened.milliseconds - self.opened.read_bytes as f64 / self.read_bytes_per_second * 1e3
    }
}

#[derive(Debug, Serialize)]
struct Idle {
    partitions: u32,
    resident_bytes: u64,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Found {
    filled: Option<Filled>,
    openings: Vec<Opening>,
    idle: Vec<Idle>,
}

impl Part for Options {
    type Found = Found;

    const NAME: &str = "open";

    fn common(&self) -> &Common {
        &self.common
    }

    fn measure(&self, ground: &Ground, found: &mut Found) -> anyhow::Result<()> {
        for &partitions in &self.idle_partitions {
            let server = Server::start(Contender::Anabranch, ground)?;
            ground.client()?.create_empty_topic(&server.bootstrap, "idle", partitions)?;
            thread::sleep(SETTLE);
            let resident_bytes = process::resident_bytes(server.pid)?;
            eprintln!("bench: idle with {partitions} partitions: {} MiB", mib(resident_bytes));
            found.idle.push(Idle { partitions, resident_bytes });
        }
        let dir = ground.empty("open")?.join("data");
        let fill = [
            "fill".to_owned(),
            format!("--dir={}", dir.display()),
            format!("--bytes={}", self.data_mib << 20),
            format!("--partitions={}", self.partitions),
        ];
        eprintln!("bench: filling {} MiB", self.data_mib);
        let filled: Filled = ground.client()?.run(fill.clone())?;
        found.filled = Some(filled.clone());
        sync()?;
        for round in 0..self.common.rounds {
            for after in [After::CleanStop, After::CleanStopCold, After::Kill] {
                if after == After::Kill {
                    let until_killed = fill.clone().into_iter().chain(["--until-killed".to_owned()]);
                    let (writing, _) = ground.client()?.start(until_killed)?;
                    thread::sleep(WRITING);
                    writing.kill()?;
                }
                let opening = open(ground, &dir, round, after)?;
                eprintln!("bench: round {round}: {after:?}: {:.0} ms", opening.opened.milliseconds);
                ensure!(opening.opened.records >= filled.records, "records are gone: {opening:?}");
                ensure!(opening.opened.partitions == self.partitions, "partitions are gone: {opening:?}");
                found.openings.push(opening);
            }
        }
        ground.empty("open").map(drop)
    }

    fn report(&self, found: &Found) -> String {
        let row = |(what, after): (&str, After)| {
            let of = found.openings.iter().filter(move |one| one.after == after);
            vec![
                what.to_owned(),
                cell(of.clone().map(|one| one.opened.milliseconds), 0),
                cell(of.clone().map(|one| one.opened.read_bytes as f64 / f64::from(1 << 20)), 1),
                cell(of.clone().map(|one| one.read_bytes_per_second / f64::from(1 << 20)), 0),
                cell(of.map(Opening::without_reading_ms), 0),
            ]
        };
        let rows = [
            ("after a clean stop", After::CleanStop),
            ("after a clean stop, nothing in memory", After::CleanStopCold),
            ("after kill -9", After::Kill),
        ]
        .map(row);
        let header = ["", "open ms", "read MiB", "MiB/s of reading", "ms without reading"];
        let idle = found.idle.iter().map(|idle| vec![idle.partitions.to_string(), mib(idle.resident_bytes)]);
        format!(
            "{} MiB in {} partitions\n\n{}\n\n{}",
            self.data_mib,
            self.partitions,
            table(&header, &rows),
            table(&["partitions", "RSS MiB, idle"], &idle.collect::<Vec<_>>())
        )
    }

    fn goals(&self, found: &Found) -> Vec<Goal> {
        let opened = |after: After, figure: fn(&Opening) -> f64| {
            Spread::of(found.openings.iter().filter(|one| one.after == after).map(figure))
        };
        let whole = |one: &Opening| one.opened.milliseconds;
        let size = format!("{} MiB in {} partitions", self.data_mib, self.partitions);
        let clean = [After::CleanStop, After::CleanStopCold].map(|after| {
            let spread = opened(after, whole)?;
            let cold = if after == After::CleanStopCold { ", cold" } else { "" };
            // What nothing is in memory of has the disk's time on top; the goal is that of a restart.
            Some((
                format!("{spread:.0} ms ({size}{cold})"),
                after == After::CleanStopCold || spread.median < 100.0,
            ))
        });
        let killed = opened(After::Kill, Opening::without_reading_ms)
            .map(|spread| (format!("{spread:.0} ms without reading ({size})"), spread.median < 1000.0));
        let idle = |partitions: u32, most_mib: u64| {
            let idle = found.idle.iter().find(|idle| idle.partitions == partitions)?;
            let said = format!("{} MiB with {partitions}", mib(idle.resident_bytes));
            Some((said, idle.resident_bytes < most_mib << 20))
        };
        vec![
            Goal::of("open after a clean stop, 10 GB in 100 partitions", "< 100 ms", clean),
            Goal::of(
                "open after kill -9, same directory",
                "< 1 s + time to read the unsynced tail",
                [killed],
            ),
            Goal::of(
                "idle RSS with 10 and 10,000 partitions",
                "< 50 MB, < 250 MB",
                [idle(10, 50), idle(10_000, 250)],
            ),
        ]
    }
}

fn open(ground: &Ground, dir: &Path, round: u32, after: After) -> anyhow::Result<Opening> {
    let mut arguments = vec!["open".to_owned(), format!("--dir={}", dir.display())];
    arguments.extend((after == After::CleanStopCold).then(|| "--cold".to_owned()));
    let opened = ground.client()?.run(arguments)?;
    Ok(Opening { round, after, opened, read_bytes_per_second: read_rate(dir)? })
}

/// How fast the largest file below `dir` can be read, as it is now in memory or not.
fn read_rate(dir: &Path) -> anyhow::Result<f64> {
    let largest = largest(dir)?.context("there is no file to read")?.1;
    let mut buffer = vec![0; 1 << 20];
    let mut file = File::open(largest)?.take(READ_BYTES_MAX);
    let start = Instant::now();
    let mut total = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(total as f64 / start.elapsed().as_secs_f64());
        }
        total += count;
    }
}

fn largest(dir: &Path) -> anyhow::Result<Option<(u64, PathBuf)>> {
    let mut found = None;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let here = match entry.metadata()?.is_dir() {
            true => largest(&entry.path())?,
            false => Some((entry.metadata()?.len(), entry.path())),
        };
        found = found.max(here);
    }
    Ok(found)
}
