//! Chores of the repository, run as `cargo xtask CHORE`.
//!
//! * `tidy` holds the laws that no compiler checks: which crate may use which, how long a file may grow, that the
//!   documents name only what exists.
//! * `sim` runs the broker on simulated disks, one run for each seed.
//! * `histories` kills real clients of transactions and their broker, and judges what the clients saw.
//! * `compat` makes the report card: Kafka's clients on Anabranch and on Apache Kafka, side by side.
//! * `diff` sends random requests to Anabranch and to Apache Kafka, and compares the answers.
//! * `bench` measures Anabranch beside its peers, the machine and its goals.
//!
//! A chore reads the repository at the edge (`tidy::repository`) and judges it in pure functions, so that every law
//! has a test that breaks it and sees it caught.

mod bench;
mod compat;
mod diff;
mod histories;
mod sim;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

/// Chores of the repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Chore {
    /// Checks the laws that no compiler checks, and tells all that are broken; warnings do not fail.
    Tidy,
    /// Runs the broker's own code on simulated disks, one run for each seed; with planted bugs to see them caught.
    Sim(sim::Options),
    /// Kills real clients of transactions and their broker at random, and judges what the clients saw.
    Histories(histories::Options),
    /// Runs Kafka's clients, its tools and a Streams application against Anabranch and Apache Kafka, and writes the report card.
    Compat(compat::Options),
    /// Sends random requests to Anabranch and to Apache Kafka, and compares the answers field by field.
    Diff(diff::Options),
    /// Measures Anabranch beside its peers, the machine and its goals; see bench/README.md.
    #[command(subcommand)]
    Bench(bench::Command),
}

fn main() -> anyhow::Result<ExitCode> {
    match Chore::parse() {
        Chore::Tidy => tidy::run(),
        Chore::Sim(options) => sim::run(&options),
        Chore::Histories(options) => histories::run(&options),
        Chore::Compat(options) => compat::run(&options),
        Chore::Diff(options) => diff::run(&options),
        Chore::Bench(command) => bench::run(&command),
    }
}
