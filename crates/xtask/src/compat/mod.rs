//! The report card: what Kafka's clients, its tools and a Kafka Streams application meet on Anabranch and on Apache Kafka, side
//! by side. `compat/README.md` says how to read it.
//!
//! Who is asked what is the affair of `tests/clients`, which runs against one broker; here it is run against both, and the
//! answers are compared. What kills brokers, [`streams`], has brokers of its own.

mod clients;
mod judge;
mod report;
mod streams;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::bench::ground::Ground;
use judge::Verdict;
use streams::Streams;

/// What `cargo xtask compat` takes.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Asks these clients only, and prints the report instead of writing it to compat/
    #[arg(long, num_args = 1.., value_name = "CLIENT", conflicts_with = "streams")]
    only: Vec<String>,
    /// Runs the Kafka Streams application only, and prints the report instead of writing it to compat/
    #[arg(long)]
    streams: bool,
    /// Asks nobody, and writes compat/REPORT.md anew from compat/report.json
    #[arg(long, conflicts_with_all = ["only", "streams", "binary"])]
    render: bool,
    /// The Anabranch to judge, as it is, instead of a release build of the work tree
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// All that a run found; `compat/report.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    /// Of the day that it began, in UTC.
    date: String,
    /// Of the Anabranch that was judged, if it was built for this.
    commit: Option<String>,
    /// Of Apache Kafka.
    kafka: String,
    clients: Vec<Verdict>,
    streams: Option<Streams>,
    /// What went wrong and no check tells.
    troubles: Vec<String>,
}

impl Card {
    /// Whether Anabranch passes whatever Kafka passes, but for what is listed, and everything could be asked.
    fn is_passed(&self) -> bool {
        let clients = self.clients.iter().all(Verdict::is_passed);
        clients && self.troubles.is_empty() && self.streams.as_ref().is_none_or(Streams::is_same)
    }

    fn exit_code(&self) -> ExitCode {
        if self.is_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if options.render {
        let dir = Ground::without_server()?.top.join("compat");
        let card: Card = serde_json::from_str(&fs::read_to_string(dir.join("report.json"))?)?;
        return tell(&card, &dir);
    }
    let ground = Ground::prepare(options.binary.as_deref())?;
    let date = say(&ground.top, "date", &["-u", "+%F"])?;
    let commit = if options.binary.is_none() { Some(commit(&ground.top)?) } else { None };
    let kafka = ground.kafka()?.version()?;
    let (mut clients, mut troubles) = (Vec::new(), Vec::new());
    if !options.streams {
        let asked = clients::ask(&ground, &options.only)?;
        clients = judge::compare(&asked.kafka, &asked.ours);
        troubles = asked.troubles;
    }
    let streams = if options.only.is_empty() { Some(streams::run(&ground)?) } else { None };
    let card = Card { date, commit, kafka, clients, streams, troubles };

    if options.only.is_empty() && !options.streams {
        let dir = ground.top.join("compat");
        fs::write(dir.join("report.json"), serde_json::to_string_pretty(&card)? + "\n")?;
        return tell(&card, &dir);
    }
    println!("{}", report::markdown(&card));
    Ok(card.exit_code())
}

/// Writes the report of a whole card, and prints its summary.
fn tell(card: &Card, dir: &Path) -> anyhow::Result<ExitCode> {
    fs::write(dir.join("REPORT.md"), report::markdown(card))?;
    eprintln!("compat: the report is compat/REPORT.md");
    println!("{}", report::summary(card));
    Ok(card.exit_code())
}

fn commit(top: &Path) -> anyhow::Result<String> {
    let commit = say(top, "git", &["rev-parse", "--short", "HEAD"])?;
    let crates = ["status", "--porcelain", "--untracked-files=no", "--", "crates", "Cargo.lock"];
    let is_modified = !say(top, "git", &crates)?.is_empty();
    Ok(if is_modified { format!("{commit} with changes") } else { commit })
}

fn say(top: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let done = Command::new(program).args(arguments).current_dir(top).output();
    let done = done.with_context(|| format!("starting {program}"))?;
    ensure!(done.status.success(), "{program} {} failed", arguments.join(" "));
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}
