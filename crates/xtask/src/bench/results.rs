//! What was measured, and with what: the raw material of a report, as JSON in `bench/results`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fmt, fs};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::Options;
use super::contender::Contender;
use super::load::{Load, Work};
use super::machine::Machine;
use super::tool::Measured;

/// A run.
#[derive(Debug, Serialize)]
pub(super) struct Results<'a> {
    /// Of the day that it began, in UTC.
    pub(super) date: String,
    /// Short.
    pub(super) commit: String,
    /// Whether tracked files differed from the commit.
    pub(super) modified: bool,
    /// Whether the run built the Anabranch that it measured from the work tree; otherwise nobody knows its commit.
    pub(super) built: bool,
    pub(super) kafka_version: String,
    pub(super) machine: Machine,
    pub(super) options: &'a Options,
    pub(super) settings: Vec<Settings>,
    pub(super) at_rest: Vec<AtRest>,
    /// In the order in which they were made.
    pub(super) measurements: Vec<Measurement>,
    /// Why the run ended before its end.
    pub(super) error: Option<String>,
}

/// How a contender was told to be.
#[derive(Debug, Serialize)]
pub(super) struct Settings {
    contender: Contender,
    server: &'static [&'static str],
    topic: &'static [&'static str],
}

/// A contender that does nothing.
#[derive(Debug, Serialize)]
pub(super) struct AtRest {
    pub(super) contender: Contender,
    /// From the process's birth, with an empty directory, until it answered.
    pub(super) start_ms: u128,
    /// With no topic.
    pub(super) resident_bytes: u64,
    /// With one empty topic of so many partitions.
    pub(super) resident_bytes_with_partitions: u64,
    pub(super) partitions: u32,
    /// The binary, or all of Kafka's jars (without the Java runtime).
    pub(super) program_bytes: u64,
}

/// One contender's work on one load in one round.
#[derive(Debug, Serialize)]
pub(super) struct Measurement {
    /// From 0.
    pub(super) round: u32,
    /// Whether it is left out of the report.
    pub(super) warm_up: bool,
    pub(super) contender: Contender,
    pub(super) load: Load,
    pub(super) work: Work,
    pub(super) measured: Measured,
    /// Of the server alone, while the tool ran.
    pub(super) cpu_seconds: f64,
    /// Of the server, right after.
    pub(super) resident_bytes_after: u64,
}

impl Measurement {
    /// The server's processor time for one record.
    pub(super) fn cpu_us_per_record(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.measured.records as f64
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, contender, load, work, measured, .. } = self;
        let rate = measured.records_per_second;
        write!(f, "round {round}: {load}: {}: {work:?} {rate:.0} records/s", contender.name())
    }
}

impl<'a> Results<'a> {
    /// Of a run that begins now.
    pub(super) fn new(
        top: &Path,
        options: &'a Options,
        machine: Machine,
        kafka_version: String,
    ) -> anyhow::Result<Self> {
        let say = |command: &mut Command| -> anyhow::Result<String> {
            let done = command.current_dir(top).output().with_context(|| format!("starting {command:?}"))?;
            ensure!(done.status.success(), "{command:?} failed");
            Ok(String::from_utf8(done.stdout)?.trim().to_owned())
        };
        let settings = |&contender: &Contender| Settings {
            contender,
            server: contender.server_settings(),
            topic: contender.topic_settings(),
        };
        Ok(Self {
            date: say(Command::new("date").args(["-u", "+%F"]))?,
            commit: say(Command::new("git").args(["rev-parse", "--short", "HEAD"]))?,
            modified: !say(Command::new("git").args(["status", "--porcelain", "--untracked-files=no"]))?
                .is_empty(),
            built: options.binary.is_none(),
            kafka_version,
            machine,
            options,
            settings: options.contenders.iter().map(settings).collect(),
            at_rest: Vec::new(),
            measurements: Vec::new(),
            error: None,
        })
    }

    /// Writes them down, over those of an earlier run of the same kind, day and commit.
    pub(super) fn write(&self, top: &Path) -> anyhow::Result<PathBuf> {
        let dir = top.join("bench").join("results");
        fs::create_dir_all(&dir)?;
        let quick = if self.options.quick { "-quick" } else { "" };
        let path = dir.join(format!("{}-{}{quick}.json", self.date, self.commit));
        let json = serde_json::to_string_pretty(self)?;
        fs::write(&path, json + "\n").with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}
