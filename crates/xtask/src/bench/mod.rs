//! What Anabranch is held against, measured: Apache Kafka and NATS JetStream beside it, the machine's own limits, and the
//! goals that follow from them. `bench/README.md` says how to read it.
//!
//! Each part is a [`Part`]: it measures, keeps what it found as JSON in `bench/results`, prints it in Markdown, and says
//! which goals it reached. What speaks to servers quickly is the crate `anabranch-bench`, which is built and run here:
//! this crate compiles in seconds, whatever is broken.

mod client;
pub(crate) mod contender;
mod embedded;
mod engines;
mod goal;
pub(crate) mod ground;
mod groups;
mod instructions;
mod kafka;
mod limits;
mod load;
mod machine;
mod nats;
mod open;
mod partitions;
mod process;
mod profile;
mod results;
pub(crate) mod server;
pub(crate) mod table;
mod tool;
mod transactions;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use self::goal::Goal;
use self::ground::Ground;

/// What every part takes.
#[derive(Debug, Clone, Args, Serialize)]
struct Common {
    /// Other defaults, for a run that shows that everything works; what is given beside it still holds
    #[arg(long)]
    quick: bool,
    /// How often everything is measured, for the spread
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1..=100),
        default_value = "3",
        default_value_if("quick", "true", "1")
    )]
    rounds: u32,
    /// The Anabranch to measure, as it is, instead of a release build of the work tree
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    binary: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Everything, one part after the other, and the table of goals: more than an hour; with --quick, 15 minutes
    All(AllOptions),
    /// Beside Apache Kafka, with Kafka's own tools
    Kafka(kafka::Options),
    /// Beside Apache Kafka, with a client that is no limit, or with librdkafka
    Load(load::Options),
    /// Beside NATS JetStream, which has a client of its own
    Nats(nats::Options),
    /// Beside what the disk and the network can do
    Limits(limits::Options),
    /// Appending in process
    Embedded(embedded::Options),
    /// Through the Engine seam, beside the same client without it
    Engines(engines::Options),
    /// Opening a directory, and the memory of a server that does nothing
    Open(open::Options),
    /// What a record costs in one partition and in ten thousand
    Partitions(partitions::Options),
    /// Transactions, beside Apache Kafka
    Transactions(transactions::Options),
    /// Consumer groups beside Apache Kafka: one with many members, and many
    Groups(groups::Options),
    /// Counts the instructions of the produce path, and fails when they became more
    Instructions(instructions::Options),
    /// Where the server's time goes
    Profile(profile::Options),
}

#[derive(Debug, Args)]
pub(crate) struct AllOptions {
    #[arg(long)]
    quick: bool,
    /// Rounds of each part, instead of its own default
    #[arg(long)]
    rounds: Option<u32>,
    /// See the parts
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// One thing to measure.
trait Part: Serialize {
    /// What it found; what was found before an error is kept too.
    type Found: Serialize + Default;

    /// As the command line and the file of results have it.
    const NAME: &str;

    fn common(&self) -> &Common;

    fn measure(&self, ground: &Ground, found: &mut Self::Found) -> anyhow::Result<()>;

    /// Tables in Markdown.
    fn report(&self, found: &Self::Found) -> String;

    /// The goals that this part speaks of.
    fn goals(&self, found: &Self::Found) -> Vec<Goal>;
}

pub(crate) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::All(options) => run_all(options),
        Command::Kafka(options) => run_part(options),
        Command::Load(options) => run_part(options),
        Command::Nats(options) => run_part(options),
        Command::Limits(options) => run_part(options),
        Command::Embedded(options) => run_part(options),
        Command::Engines(options) => run_part(options),
        Command::Open(options) => run_part(options),
        Command::Partitions(options) => run_part(options),
        Command::Transactions(options) => run_part(options),
        Command::Groups(options) => run_part(options),
        Command::Instructions(options) => instructions::run(options),
        Command::Profile(options) => profile::run(options),
    }
}

fn run_part(part: &impl Part) -> anyhow::Result<ExitCode> {
    let goals = measure(part)?;
    if !goals.is_empty() {
        println!("\n## Goals\n\n{}", goal::table(&goals));
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures, writes the results down, and prints the report.
fn measure<P: Part>(part: &P) -> anyhow::Result<Vec<Goal>> {
    let ground = Ground::prepare(part.common().binary.as_deref())?;
    let mut results = results::Results::new(&ground, part)?;
    let mut found = P::Found::default();
    let outcome = part.measure(&ground, &mut found);
    let goals = part.goals(&found);
    results.versions = ground.versions();
    results.goals = &goals;
    results.found = Some(&found);
    results.error = outcome.as_ref().err().map(|error| format!("{error:#}"));
    let path = results.write(&ground)?;
    eprintln!("bench: the raw results are in {}", path.display());
    outcome?;
    println!("# {}\n\n{}\n\n{}\n", P::NAME, results.heading(), part.report(&found));
    Ok(goals)
}

/// A part that fails is told at the end, and keeps no other from being measured.
fn run_all(options: &AllOptions) -> anyhow::Result<ExitCode> {
    let mut arguments = vec!["bench".to_owned()];
    if options.quick {
        arguments.push("--quick".to_owned());
    }
    if let Some(rounds) = options.rounds {
        arguments.push(format!("--rounds={rounds}"));
    }
    if let Some(binary) = &options.binary {
        arguments.push(format!("--binary={}", binary.display()));
    }
    let mut goals = Vec::new();
    let mut failed = Vec::new();
    // The quick ones first.
    run_of::<embedded::Options>(&arguments, &mut goals, &mut failed)?;
    run_of::<limits::Options>(&arguments, &mut goals, &mut failed)?;
    run_of::<open::Options>(&arguments, &mut goals, &mut failed)?;
    run_of::<partitions::Options>(&arguments, &mut goals, &mut failed)?;
    run_of::<groups::Options>(&arguments, &mut goals, &mut failed)?;
    run_of::<nats::Options>(&arguments, &mut goals, &mut failed)?;
    run_of::<engines::Options>(&arguments, &mut goals, &mut failed)?;
    run_of::<load::Options>(&arguments, &mut goals, &mut failed)?;
    run_of::<transactions::Options>(&arguments, &mut goals, &mut failed)?;
    run_of::<kafka::Options>(&arguments, &mut goals, &mut failed)?;
    println!("# Goals\n\n{}", goal::table(&goals));
    failed.iter().for_each(|failed| eprintln!("bench: {failed}"));
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_of<P: Part + Args>(
    arguments: &[String],
    goals: &mut Vec<Goal>,
    failed: &mut Vec<String>,
) -> anyhow::Result<()> {
    let part = Alone::<P>::try_parse_from(arguments)?.part;
    match measure(&part) {
        Ok(reached) => goals.extend(reached),
        Err(error) => failed.push(format!("{}: {error:#}", P::NAME)),
    }
    Ok(())
}

/// A part's options on a line of their own.
#[derive(Debug, Parser)]
struct Alone<P: Args> {
    #[command(flatten)]
    part: P,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_takes_what_all_gives_it() {
        fn common<P: Part + Args>(arguments: &[&str]) -> Common {
            Alone::<P>::try_parse_from([&["bench"], arguments].concat()).unwrap().part.common().clone()
        }
        for part in [
            common::<kafka::Options>,
            common::<load::Options>,
            common::<nats::Options>,
            common::<limits::Options>,
            common::<embedded::Options>,
            common::<open::Options>,
            common::<partitions::Options>,
            common::<transactions::Options>,
            common::<groups::Options>,
        ] {
            let given = part(&["--quick", "--rounds=7", "--binary=x"]);
            assert!(given.quick && given.rounds == 7 && given.binary.is_some());
            assert!(!part(&[]).quick && part(&[]).rounds == 3);
            assert_eq!(part(&["--quick"]).rounds, 1);
        }
    }
}
