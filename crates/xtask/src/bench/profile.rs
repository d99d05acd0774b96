//! Where a server's time goes: `perf` while it works, or `valgrind` where `perf` may not look.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::Serialize;

use super::client::Told;
use super::contender::Contender;
use super::ground::Ground;
use super::server::Server;

/// So many samples a second: an odd number, which falls in step with nothing.
const FREQUENCY: &str = "997";

/// A function that takes less is not told.
const PERCENT_MIN: &str = "0.7";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
pub(crate) enum What {
    /// acks=all, 1 KiB records, 8 producers
    Produce,
    /// The same with relaxed durability
    ProduceRelaxed,
    /// From the beginning, out of the page cache
    Fetch,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(value_enum)]
    what: What,
    #[arg(long, default_value_t = 16)]
    partitions: u32,
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Count instructions in one thread instead of sampling the server
    #[arg(long)]
    valgrind: bool,
    /// See the other parts
    #[arg(long, value_name = "FILE")]
    binary: Option<std::path::PathBuf>,
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let ground = Ground::prepare(options.binary.as_deref())?;
    let name = options.what.to_possible_value().expect("no value is hidden").get_name().to_owned();
    let dir = ground.empty(&format!("profile-{name}"))?;
    let told = if options.valgrind {
        by_valgrind(options, &ground, &dir)?
    } else {
        by_perf(options, &ground, &dir)?
    };
    let path = dir.join("report.txt");
    fs::write(&path, &told)?;
    println!("{told}");
    eprintln!("bench: this is {}, and the raw data is beside it", path.display());
    Ok(ExitCode::SUCCESS)
}

fn by_perf(options: &Options, ground: &Ground, dir: &Path) -> anyhow::Result<String> {
    let relaxed = options.what != What::Produce;
    let contender = if relaxed { Contender::AnabranchRelaxed } else { Contender::Anabranch };
    let server = Server::start(contender, ground)?;
    let (client, bootstrap) = (ground.client()?, server.bootstrap.as_str());
    client.create_topic(bootstrap, "profile", options.partitions, contender.topic_settings())?;
    let partitions = options.partitions.to_string();
    let to = ["--bootstrap", bootstrap, "--topic", "profile", "--partitions", &partitions];
    let batches = options.partitions.min(16).to_string();
    let seconds = (options.seconds + 2).to_string();
    let mut load = [&["produce"], &to[..], &["--connections", "8", "--batches", &batches]].concat();
    if options.what == What::Fetch {
        let written = [&load[..], &["--acks", "1", "--seconds", "60", "--bytes-max", "536870912"]].concat();
        client.run::<Told, _>(written)?;
        load = [&["fetch"], &to[..], &["--times", "200"]].concat();
    } else {
        load.extend(["--warm-up", "0", "--seconds", &seconds]);
    }
    let working = client.start_quiet(load)?;
    thread::sleep(Duration::from_secs(1));
    let data = dir.join("perf.data");
    let mut record = Command::new("perf");
    record.args([
        "record",
        "--quiet",
        "--call-graph=fp",
        "--freq",
        FREQUENCY,
        "--pid",
        &server.pid.to_string(),
    ]);
    record.arg("--output").arg(&data).args(["--", "sleep", &options.seconds.to_string()]);
    let done = record.output().context("starting perf (without it: --valgrind)")?;
    ensure!(done.status.success(), "{record:?} failed: {}", String::from_utf8_lossy(&done.stderr));
    drop(working);
    let mut report = Command::new("perf");
    report.args(["report", "--stdio", "--no-children", "--call-graph=none", "--percent-limit", PERCENT_MIN]);
    report.args(["--sort=symbol", "--input"]).arg(&data).stderr(Stdio::null());
    said(&mut report)
}

fn by_valgrind(options: &Options, ground: &Ground, dir: &Path) -> anyhow::Result<String> {
    let data = dir.join("callgrind.out");
    let way = if options.what == What::Fetch { "fetch" } else { "door" };
    let mut count = Command::new("valgrind");
    count.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", data.display()));
    count.arg(ground.client()?.program()).args(["path", way, "--count=2000"]);
    let done = count.stdin(Stdio::null()).output().context("starting valgrind")?;
    ensure!(done.status.success(), "{count:?} failed: {}", String::from_utf8_lossy(&done.stderr));
    said(Command::new("callgrind_annotate").arg("--threshold=95").arg(&data))
}

fn said(command: &mut Command) -> anyhow::Result<String> {
    let done = command.output().with_context(|| format!("starting {command:?}"))?;
    ensure!(done.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
