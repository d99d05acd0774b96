//! Runs seeds: `cargo xtask sim`; judges histories of real clients: `cargo xtask histories`.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anabranch_sim::history::{self, HistoryError};
use clap::Parser;
use parking_lot::Mutex;

/// Failures whose last lines are shown.
const TOLD_MAX: usize = 3;

/// Runs the broker's own code on simulated disks, one run for each seed.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim")]
struct Options {
    /// How many seeds.
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs this one alone, and prints everything that happens.
    #[arg(long)]
    seed: Option<u64>,
    /// Demands that each planted bug is caught within the seeds; needs a build with them.
    #[arg(long)]
    planted: bool,
    /// Of the planted bugs only this one, by its name in `planted.rs`.
    #[arg(long, value_name = "NAME", requires = "planted")]
    bug: Option<String>,
    /// Judges a history of transactional clients, one event a line, and runs nothing.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(history) = &options.history {
        return judge(history);
    }
    if let Some(seed) = options.seed {
        let outcome = anabranch_sim::run(seed, true);
        println!("seed {seed}: {}", outcome.failure.as_deref().unwrap_or("all is well"));
        return if outcome.failure.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if options.planted {
        return planted(&options);
    }
    let began = Instant::now();
    let failures = run_all(&options, u64::MAX);
    for failure in failures.iter().take(TOLD_MAX) {
        println!("\nseed {}: {}", failure.seed, failure.failure.as_deref().unwrap_or_default());
        failure.tail.iter().for_each(|line| println!("    {line}"));
        println!("again: cargo xtask sim --seed {}", failure.seed);
    }
    for failure in failures.iter().skip(TOLD_MAX) {
        println!("seed {}: {}", failure.seed, failure.failure.as_deref().unwrap_or_default());
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{} seeds from {} in {seconds:.1} s: {} failed", options.seeds, options.from, failures.len());
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints what the history in `file` comes to.
fn judge(file: &Path) -> ExitCode {
    let judged = File::open(file)
        .map_err(HistoryError::from)
        .and_then(|file| history::parse(BufReader::new(file)))
        .and_then(|events| history::judge(&events));
    match judged {
        Ok(verdict) => {
            println!("{verdict}");
            if verdict.anomalies.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{}: {error}", file.display());
            ExitCode::from(2)
        }
    }
}

/// Runs the seeds on all processors, until `failures_max` have failed; those that failed, by seed.
fn run_all(options: &Options, failures_max: u64) -> Vec<anabranch_sim::Outcome> {
    let next = AtomicU64::new(options.from);
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= options.from + options.seeds || failed.lock().len() as u64 >= failures_max {
                        break;
                    }
                    let outcome = anabranch_sim::run(seed, false);
                    if outcome.failure.is_some() {
                        failed.lock().push(outcome);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner();
    failed.sort_by_key(|outcome| outcome.seed);
    failed
}

#[cfg(not(anabranch_planted))]
fn planted(_: &Options) -> ExitCode {
    eprintln!("this build has no planted bugs: run cargo xtask sim --planted");
    ExitCode::FAILURE
}

/// Plants each bug in turn, and prints which seed caught it and by what.
#[cfg(anabranch_planted)]
fn planted(options: &Options) -> ExitCode {
    use anabranch_core::planted::{Bug, plant};
    let mut missed = 0;
    println!("{:<48} {:>6}  what the checker said", "bug", "seed");
    let is_asked = |bug: &Bug| options.bug.as_ref().is_none_or(|name| *name == format!("{bug:?}"));
    for (bug, what) in Bug::ALL.iter().filter(|(bug, _)| is_asked(bug)) {
        plant(*bug);
        let what = what.trim();
        match run_all(options, 1).first() {
            Some(caught) => {
                let said = caught.failure.as_deref().unwrap_or_default();
                println!("{what:<48} {:>6}  {}", caught.seed, said.replace('\n', " "));
            }
            None => {
                missed += 1;
                println!("{what:<48} {:>6}  not caught within {} seeds", "-", options.seeds);
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
