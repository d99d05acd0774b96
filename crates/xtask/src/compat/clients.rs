//! Runs `tests/clients` against both, and reads what the clients said.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::bench::ground::Ground;

/// How long a check may take: beside a broker, other clients and whatever else a machine does. CI gives it less.
const CHECK_SECONDS_MAX: &str = "90";

/// What one client said of one broker: a line of `report.jsonl`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Said {
    pub(super) client: String,
    pub(super) version: String,
    /// The checks for which it was run a second time, alone; only that run counts.
    pub(super) again: Vec<String>,
    pub(super) checks: Vec<Check>,
}

/// What became of one check.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Check {
    pub(super) check: String,
    /// `None`: the client cannot do it.
    pub(super) passed: Option<bool>,
    pub(super) error: Option<String>,
    /// Why the client cannot.
    pub(super) note: Option<String>,
    /// The reason that `differences.txt` gives for its failure.
    pub(super) differs: Option<String>,
}

/// What all clients said.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) kafka: Vec<Said>,
    pub(super) ours: Vec<Said>,
    pub(super) troubles: Vec<String>,
}

/// Asks the clients of these names, or all.
pub(super) fn ask(ground: &Ground, only: &[String]) -> anyhow::Result<Asked> {
    let mut troubles = Vec::new();
    let mut side = |name: &str, arguments: &[&str]| -> anyhow::Result<Vec<Said>> {
        let work = ground.top.join("target").join("clients");
        let report = work.join(format!("{name}.jsonl"));
        fs::create_dir_all(&work)?;
        let mut command = Command::new(ground.top.join("tests/clients/run"));
        command.arg("--work").arg(&work).args(arguments);
        command.args(["--", "--again", "--report"]).arg(&report);
        if only.is_empty() {
            command.arg("--all");
        } else {
            command.arg("--only").args(only);
        }
        eprintln!("compat: the clients against {name}");
        // An earlier run's must not pass for this one's.
        let _ = fs::remove_file(&report);
        let status = command.env("CHECK_SECONDS_MAX", CHECK_SECONDS_MAX).status();
        let status = status.context("starting tests/clients/run")?;
        let said = read(&report, &ground.top)
            .with_context(|| format!("tests/clients/run against {name} ended with {status}"))?;
        // 1 is for checks that fail, which the comparison tells; but not if all pass, and the broker failed in the end.
        let has_failures = said.iter().flat_map(|said| &said.checks).any(|check| check.passed == Some(false));
        let is_told = status.code() == Some(1) && has_failures;
        if !status.success() && !is_told {
            troubles.push(format!("tests/clients/run against {name} ended with {status}"));
        }
        Ok(said)
    };
    let binary = ground.binary.to_str().context("the binary's path is not text")?;
    let ours = side("anabranch", &[binary])?;
    let kafka = side("kafka", &["--against", "kafka"])?;
    Ok(Asked { kafka, ours, troubles })
}

/// Errors may name files; the report names no folder of this machine.
fn read(report: &Path, top: &Path) -> anyhow::Result<Vec<Said>> {
    let text = fs::read_to_string(report).with_context(|| format!("reading {}", report.display()))?;
    let text = text.replace(&format!("{}/", top.display()), "");
    let said = text.lines().map(serde_json::from_str).collect::<Result<Vec<_>, _>>()?;
    ensure!(!said.is_empty(), "{} is empty", report.display());
    Ok(said)
}
