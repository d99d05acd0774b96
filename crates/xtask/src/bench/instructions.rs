//! How many instructions a produce request takes, which is steady where times are not: the guard against a path that
//! becomes longer without anybody noticing.
//!
//! `valgrind` counts two runs of `anabranch-bench path`, one longer than the other; the difference is the requests', and
//! not the start's. What is counted is compared with `bench/instructions.json`, which `--renew` writes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::ground::{Ground, build};
use super::table::table;

/// Runs of the same build were seen to differ by up to 11 %, and those of one hour by 2: how often a thread has to wait for
/// the other depends on the machine's other work.
const TOLERANCE_PERCENT: f64 = 12.0;

/// Requests of the shorter run: enough for every cache and buffer to have found its size.
const SHORT: u64 = 200;
const LONG: u64 = 1200;

/// Runs of each length, of which the one with the fewest counts.
const TRIES: usize = 3;

/// What is counted: a name, and the arguments that make it. One batch at a time, for how many of several the writer finds
/// at once is chance.
const PATHS: [(&str, &[&str]); 3] = [
    ("broker: a request of one record", &["broker", "--batch-records=1"]),
    ("broker: a request of 16 records", &["broker", "--batch-records=16"]),
    ("door: a request of 16 records", &["door", "--batch-records=16"]),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Write down what is counted now, as what it must stay
    #[arg(long)]
    renew: bool,
}

/// What `bench/instructions.json` has.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// Another compiler makes other instructions.
    rustc: String,
    /// Of one request.
    instructions: BTreeMap<String, u64>,
}

pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let ground = Ground::without_server()?;
    let arguments = ["--package", "anabranch-bench", "--no-default-features"];
    // Another build than that of the client, so in another place.
    let program = build(&ground.top, &ground.empty("instructions")?, &arguments)?;
    let rustc = said(Command::new("rustc").arg("--version").current_dir(&ground.top))?;
    let mut counted = Kept { rustc: rustc.trim().to_owned(), instructions: BTreeMap::new() };
    for (name, arguments) in PATHS {
        // What threads do to each other only adds.
        let count = |requests: u64| -> anyhow::Result<u64> {
            let counts = (0..TRIES).map(|_| count(&program, arguments, requests));
            Ok(counts.collect::<anyhow::Result<Vec<_>>>()?.into_iter().min().unwrap_or_default())
        };
        let of_one = count(LONG)?.saturating_sub(count(SHORT)?) / (LONG - SHORT);
        counted.instructions.insert(name.to_owned(), of_one);
    }
    let path = ground.top.join("bench").join("instructions.json");
    if options.renew {
        fs::write(&path, serde_json::to_string_pretty(&counted)? + "\n")?;
        println!("{} is renewed", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let kept = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let kept: Kept = serde_json::from_str(&kept).with_context(|| format!("reading {}", path.display()))?;
    let (rows, verdict) = compare(&kept, &counted);
    println!("{}", table(&["instructions of", "kept", "now", "change"], &rows));
    if kept.rustc != counted.rustc {
        println!("\nThey were counted with {}, and now with {}.", kept.rustc, counted.rustc);
    }
    match verdict {
        Verdict::Same => Ok(ExitCode::SUCCESS),
        Verdict::Fewer => {
            println!("\nFewer than before: keep them with `cargo xtask bench instructions --renew`.");
            Ok(ExitCode::SUCCESS)
        }
        Verdict::More => {
            eprintln!(
                "\nbench: more than {TOLERANCE_PERCENT} % more instructions than bench/instructions.json has. Look where \
                 they come from with `cargo xtask bench profile produce`; where they are worth it, keep them with \
                 `cargo xtask bench instructions --renew`, and say why in the commit."
            );
            Ok(ExitCode::FAILURE)
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Same,
    Fewer,
    More,
}

/// A row for each path, and the worst of what is to be said of them. What is not kept counts as more: nothing guards it.
fn compare(kept: &Kept, counted: &Kept) -> (Vec<Vec<String>>, Verdict) {
    let mut worst = Verdict::Same;
    let mut rows = Vec::new();
    for (name, &now) in &counted.instructions {
        let before = kept.instructions.get(name).copied();
        let percent = before.map_or(f64::INFINITY, |before| (now as f64 / before as f64 - 1.0) * 100.0);
        worst = worst.max(match percent {
            percent if percent > TOLERANCE_PERCENT => Verdict::More,
            percent if percent < -TOLERANCE_PERCENT => Verdict::Fewer,
            _ => Verdict::Same,
        });
        let before = before.map_or_else(|| "not kept".to_owned(), |before| before.to_string());
        rows.push(vec![name.clone(), before, now.to_string(), format!("{percent:+.1} %")]);
    }
    (rows, worst)
}

/// The instructions of a whole run.
fn count(program: &PathBuf, arguments: &[&str], requests: u64) -> anyhow::Result<u64> {
    let mut command = Command::new("valgrind");
    // Callgrind and not `none`, for it counts; its file of where they are is for profiles.
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    command.arg("path").args(arguments).arg(format!("--count={requests}"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let done = command.output().context("starting valgrind: is it installed?")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{command:?} failed:\n{said}");
    parse_count(&said).with_context(|| format!("valgrind printed {said:?}"))
}

/// `==4711== Collected : 10266323`
fn parse_count(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.split_once("Collected : ")?.1.split_whitespace().next()?.parse().ok())
}

fn said(command: &mut Command) -> anyhow::Result<String> {
    let done = command.output().with_context(|| format!("starting {command:?}"))?;
    ensure!(done.status.success(), "{command:?} failed");
    Ok(String::from_utf8(done.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(counts: &[(&str, u64)]) -> Kept {
        let instructions = counts.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
        Kept { rustc: String::new(), instructions }
    }

    #[test]
    fn the_count_is_read() {
        let said =
            "==1== Events    : Ir\n==1== Collected : 10266323\n==1== \n==1== I   refs:      10,266,323\n";
        assert_eq!(parse_count(said), Some(10_266_323));
        assert_eq!(parse_count("valgrind: failed to start tool"), None);
    }

    #[test]
    fn one_path_that_became_longer_fails_all() {
        let before = kept(&[("a", 1000), ("b", 1000)]);
        let verdict = |counts: &[(&str, u64)]| compare(&before, &kept(counts)).1;
        assert_eq!(verdict(&[("a", 1119), ("b", 881)]), Verdict::Same);
        assert_eq!(verdict(&[("a", 870), ("b", 1000)]), Verdict::Fewer);
        assert_eq!(verdict(&[("a", 870), ("b", 1121)]), Verdict::More);
        assert_eq!(verdict(&[("a", 1000), ("c", 1)]), Verdict::More, "nothing is known of c");
    }
}
