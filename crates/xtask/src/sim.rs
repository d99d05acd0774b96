//! Runs the simulator, built for speed; with planted bugs in a target directory of their own.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use clap::Args;

/// What `cargo xtask sim` takes.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many seeds; for planted bugs, within how many each must be caught.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs this one alone, and prints everything that happens.
    #[arg(long)]
    seed: Option<u64>,
    /// Plants each of the known bugs in turn, and demands that it is caught.
    #[arg(long)]
    planted: bool,
    /// Of them only this one, by its name in `crates/core/src/planted.rs`.
    #[arg(long, value_name = "NAME", requires = "planted")]
    bug: Option<String>,
}

const SEEDS: u64 = 2000;
const SEEDS_PER_BUG: u64 = 500;
/// The simulator's profile in the workspace's manifest.
pub(crate) const PROFILE: &str = "sim";
/// Rust's flags of a build with bugs to plant.
pub(crate) const PLANTED: &str = "--cfg anabranch_planted";

/// Builds the simulator and runs it.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let simulator = build(options.planted)?;
    let seeds = options.seeds.unwrap_or(if options.planted { SEEDS_PER_BUG } else { SEEDS });
    let mut run = Command::new(simulator);
    run.args(["--seeds", &seeds.to_string(), "--from", &options.from.to_string()]);
    if let Some(seed) = options.seed {
        run.args(["--seed", &seed.to_string()]);
    }
    if options.planted {
        run.arg("--planted");
    }
    if let Some(bug) = &options.bug {
        run.args(["--bug", bug]);
    }
    let ran = run.status().context("cannot run the simulator")?;
    Ok(if ran.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the simulator: where it is.
pub(crate) fn build(planted: bool) -> anyhow::Result<PathBuf> {
    let mut target = PathBuf::from(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "anabranch-sim", "--profile", PROFILE]);
    if planted {
        target.push("planted");
        build.env("RUSTFLAGS", PLANTED);
    }
    let built = build.env("CARGO_TARGET_DIR", &target).status().context("cannot run cargo")?;
    ensure!(built.success(), "the simulator does not build");

    Ok(target.join(PROFILE).join("anabranch-sim"))
}
