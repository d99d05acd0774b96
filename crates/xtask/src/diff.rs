//! Starts Anabranch and Apache Kafka, and runs the differential tests (`crates/diff`) between them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;

use crate::bench::server::{answers, free_port};

/// What `cargo xtask diff` takes.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many cases.
    #[arg(long, default_value_t = 300)]
    cases: u32,
    /// Which ones.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Groups that go from one protocol to the other, and no other cases.
    #[arg(long)]
    migration: bool,
    /// Counts all differences by kind instead of shrinking the first.
    #[arg(long)]
    survey: bool,
    /// Writes anew what Kafka does about bad input.
    #[arg(long)]
    bad_input: bool,
}

/// What both are told, so that what one node may choose is the same.
const SETTINGS: [&str; 3] = [
    "group.initial.rebalance.delay.ms=0",
    "group.consumer.assignment.interval.ms=0",
    "auto.create.topics.enable=false",
];
/// What ours has anyway.
const KAFKA_SETTINGS: [&str; 2] =
    ["offsets.topic.num.partitions=1", "transaction.state.log.num.partitions=1"];
/// What both are told but for cases of migration: what comes of one in the middle of anything differs as is told in
/// `COMPATIBILITY.md`.
const NO_MIGRATION: &str = "group.consumer.migration.policy=disabled";

/// A server that does not answer by then is not going to.
const START_MAX: Duration = Duration::from_secs(60);
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// Builds, starts both, runs the tests, stops both.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().context("the repository")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| top.join("target"), PathBuf::from);
    let mut build = Command::new(env!("CARGO"));
    let built = build.args(["build", "--quiet", "--package", "anabranch"]).current_dir(&top).status()?;
    ensure!(built.success(), "anabranch does not build");

    let work = target.join("diff");
    let kafka = Kafka {
        script: top.join("tests/peers/kafka/kafka"),
        lib: target.join("kafka-lib"),
        dir: work.join("kafka"),
    };
    kafka.call(&["install"])?;
    if kafka.dir.exists() {
        kafka.call(&["stop", "--kill", "--dir", &kafka.dir.display().to_string()])?; // of a run that was interrupted
    }
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
    let ours_port = free_port()?;
    let settings: Vec<&str> =
        SETTINGS.iter().copied().chain((!options.migration).then_some(NO_MIGRATION)).collect();
    let mut ours = Ours::start(&target.join("debug/anabranch"), &work, ours_port, &settings)?;
    ours.wait(ours_port)?;
    let port = free_port()?;
    let tested = kafka.start(port, &settings).and_then(|()| {
        let mut test = Command::new(env!("CARGO"));
        test.args(["test", "--quiet", "--package", "anabranch-diff", "--test", "it", "--", "--nocapture"]);
        if options.bad_input {
            test.arg("kafka_takes_bad_input").env("UPDATE_BAD_INPUT", "1");
        }
        if options.migration {
            test.env("ANABRANCH_DIFF_MIGRATION", "1");
        }
        if options.survey {
            test.env("ANABRANCH_DIFF_SURVEY", "1");
        }
        test.env("ANABRANCH_DIFF_KAFKA", format!("127.0.0.1:{port}"))
            .env("ANABRANCH_DIFF_OURS", format!("127.0.0.1:{ours_port}"))
            .env("ANABRANCH_DIFF_CASES", options.cases.to_string())
            .env("ANABRANCH_DIFF_SEED", options.seed.to_string());
        test.current_dir(&top).status().context("cannot run cargo")
    });
    kafka.call(&["stop", "--kill", "--dir", &kafka.dir.display().to_string()])?;
    Ok(if tested?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Apache Kafka, as the script in the repository installs and runs it.
struct Kafka {
    script: PathBuf,
    lib: PathBuf,
    dir: PathBuf,
}

impl Kafka {
    fn call(&self, args: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.script);
        command.args(args).env("KAFKA_LIB", &self.lib).stdout(Stdio::null());
        let status = command.status().with_context(|| format!("running {}", self.script.display()))?;
        ensure!(status.success(), "`kafka {}` failed", args.join(" "));
        Ok(())
    }

    fn start(&self, port: u16, settings: &[&str]) -> anyhow::Result<()> {
        let (dir, port) = (self.dir.display().to_string(), port.to_string());
        let mut args = vec!["start", "--dir", &dir, "--port", &port];
        args.extend(settings.iter().chain(&KAFKA_SETTINGS).flat_map(|setting| ["-o", *setting]));
        self.call(&args)
    }
}

/// Ours; ends when this is dropped.
struct Ours(Child);

impl Ours {
    fn start(binary: &Path, work: &Path, port: u16, settings: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        command
            .arg("serve")
            .arg("--data")
            .arg(work.join("data"))
            .arg("--kafka")
            .arg(format!("127.0.0.1:{port}"));
        command.args(settings.iter().flat_map(|setting| ["--set", *setting]));
        let log = File::create(work.join("anabranch.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn().with_context(|| format!("starting {}", binary.display()))?))
    }

    fn wait(&mut self, port: u16) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_MAX;
        while !answers(port) {
            ensure!(self.0.try_wait()?.is_none(), "anabranch ended; its log is beside its data");
            ensure!(Instant::now() < deadline, "anabranch does not answer");
            thread::sleep(ASK_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
