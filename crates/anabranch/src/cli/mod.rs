//! The command line: one file per command, and what they share.
//!
//! * `serve`, `check`, `dump` and `demo` work on a data directory;
//! * `topic`, `produce`, `consume`, `group`, `engine` and `bench` work on any engine, by its address (`client`);
//! * `move` moves from one to another;
//! * `completions` and `man` describe the command line itself.
//!
//! Data goes to standard output (`output`), everything else to standard error, and failures say what failed, on what,
//! why, and what to do (`failure`).

mod bench;
mod check;
mod client;
mod completions;
mod consume;
mod dump;
mod engine;
mod failure;
mod format;
mod group;
mod man;
mod moving;
mod output;
mod place;
mod produce;
mod serve;
mod topic;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::output::Output;
pub(crate) use self::output::{Column, grouped, table};
use crate::demo;

/// Message middleware in one binary: a durable log that speaks the Kafka protocol
#[derive(Debug, Parser)]
#[command(
    name = "anabranch",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110,
    after_help = GETTING_STARTED,
    after_long_help = format!("{GETTING_STARTED}\n\n{EXIT_CODES_AND_ENVIRONMENT}"),
)]
struct Cli {
    /// Print data as JSON, for programs
    #[arg(long, global = true, display_order = 900)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const GETTING_STARTED: &str = "\
Getting started:
  anabranch demo                           A year of real flights through all of it
  anabranch serve                          A log in ./data, for Kafka clients at 127.0.0.1:9092
  anabranch topic create orders -p 3       A topic of three partitions
  echo 'o-1:two cups' | anabranch produce orders -K :
  anabranch consume orders                 What is there, then what comes";

const EXIT_CODES_AND_ENVIRONMENT: &str = "\
Exit codes:
  0  it is done
  1  it failed, and standard error says what, why, and what to do; for `check` and `dump`: there is damage
  2  it was not tried: the command line, the settings file or the environment says something wrong

Environment:
  ANABRANCH_ENGINE     where the topics are, as --engine
  ANABRANCH_BOOTSTRAP  a Kafka's brokers, as --bootstrap
  ANABRANCH_...        the options of `serve`; see `anabranch serve --help`
  RUST_LOG             what is logged to standard error, such as `debug` or `anabranch_log=trace`
  NO_COLOR             no colours, even on a terminal";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    /// See it at work: a year of real flights, through the Kafka protocol, into a live table
    Demo(demo::DemoArgs),
    Check(check::CheckArgs),
    Dump(dump::DumpArgs),
    Topic(topic::TopicArgs),
    Produce(produce::ProduceArgs),
    Consume(consume::ConsumeArgs),
    Group(group::GroupArgs),
    Engine(engine::EngineArgs),
    Bench(bench::BenchArgs),
    Move(moving::MoveArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// Runs the command that the process was started with.
pub(crate) fn main() -> ExitCode {
    let Cli { json, command } = Cli::parse();
    let mut output = Output::new(json);
    let result = match command {
        Command::Serve(args) => serve::run(args, &mut output),
        Command::Demo(args) => demo::run(demo::DemoArgs { json, ..args }),
        Command::Check(args) => check::run(&args, &mut output),
        Command::Dump(args) => dump::run(&args, &mut output),
        Command::Topic(args) => done(topic::run(&args, &mut output)),
        Command::Produce(args) => produce::run(&args, &mut output),
        Command::Consume(args) => done(consume::run(&args, &mut output)),
        Command::Group(args) => done(group::run(&args, &mut output)),
        Command::Engine(args) => done(engine::run(&args, &mut output)),
        Command::Bench(args) => done(bench::run(&args, &mut output)),
        Command::Move(args) => moving::run(&args, &mut output),
        Command::Completions(args) => done(completions::run(&args, &mut output)),
        Command::Man(args) => done(man::run(&args, &mut output)),
    };
    result.unwrap_or_else(|error| failure::report(&error))
}

fn done(result: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

/// The known name that `name` was probably meant to be.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(name.len()) / 3)
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        super::Cli::command().debug_assert();
    }
}
