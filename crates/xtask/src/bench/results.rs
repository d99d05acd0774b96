//! What was measured, and with what, as JSON in `bench/results`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use serde::Serialize;

use super::Part;
use super::goal::Goal;
use super::ground::Ground;
use super::machine::Machine;
use super::table::mib;

/// A run of one part.
#[derive(Debug, Serialize)]
pub(super) struct Results<'a, P: Part> {
    pub(super) part: &'static str,
    /// Of the day that it began, in UTC.
    pub(super) date: String,
    /// Short.
    pub(super) commit: String,
    /// Whether tracked files differed from the commit.
    pub(super) modified: bool,
    /// Whether the run built the Anabranch that it measured from the work tree; otherwise nobody knows its commit.
    pub(super) built: bool,
    /// Of the peers.
    pub(super) versions: BTreeMap<&'static str, String>,
    pub(super) machine: Machine,
    pub(super) options: &'a P,
    pub(super) goals: &'a [Goal],
    pub(super) found: Option<&'a P::Found>,
    /// Why the run ended before its end.
    pub(super) error: Option<String>,
}

impl<'a, P: Part> Results<'a, P> {
    /// Of a run that begins now.
    pub(super) fn new(ground: &Ground, part: &'a P) -> anyhow::Result<Self> {
        let say = |command: &mut Command| -> anyhow::Result<String> {
            let done =
                command.current_dir(&ground.top).output().with_context(|| format!("starting {command:?}"))?;
            ensure!(done.status.success(), "{command:?} failed");
            Ok(String::from_utf8(done.stdout)?.trim().to_owned())
        };
        eprintln!("bench: {}: trying the disk", P::NAME);
        Ok(Self {
            part: P::NAME,
            date: say(Command::new("date").args(["-u", "+%F"]))?,
            commit: say(Command::new("git").args(["rev-parse", "--short", "HEAD"]))?,
            modified: !say(Command::new("git").args(["status", "--porcelain", "--untracked-files=no"]))?
                .is_empty(),
            built: ground.built,
            versions: BTreeMap::new(),
            machine: Machine::inspect(&ground.work)?,
            options: part,
            goals: &[],
            found: None,
            error: None,
        })
    }

    /// What the figures are of, for the top of a report.
    pub(super) fn heading(&self) -> String {
        let Self { date, commit, machine, versions, .. } = self;
        let commit = match (self.built, self.modified) {
            (true, false) => format!("commit {commit}"),
            (true, true) => format!("commit {commit} with changes"),
            (false, _) => "a binary of an unknown commit".to_owned(),
        };
        let peers: String = versions.iter().map(|(peer, version)| format!(", {peer} {version}")).collect();
        format!(
            "{date}, {commit}{peers}\n\
             {} processors ({}), {} MiB, Linux {}, load average {:.2} before the run\n\
             4 KiB made durable {:.0} times a second (p50 {} µs, p99 {} µs)\n\
             cells: median (min–max) of {} rounds",
            machine.processors,
            machine.processor,
            mib(machine.memory_bytes),
            machine.kernel,
            machine.load_average,
            machine.fdatasync.per_second,
            machine.fdatasync.p50_us,
            machine.fdatasync.p99_us,
            self.options.common().rounds,
        )
    }

    /// Writes them down, over those of an earlier run of the same part, kind, day and commit.
    pub(super) fn write(&self, ground: &Ground) -> anyhow::Result<PathBuf> {
        let dir = ground.top.join("bench").join("results");
        fs::create_dir_all(&dir)?;
        let quick = if self.options.common().quick { "-quick" } else { "" };
        let path = dir.join(format!("{}-{}-{}{quick}.json", self.date, self.commit, self.part));
        let json = serde_json::to_string_pretty(self)?;
        fs::write(&path, json + "\n").with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}
