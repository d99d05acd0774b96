//! A Kafka Streams application with `exactly_once_v2` whose processes and whose broker are killed, on Kafka and on Anabranch:
//! `compat/programs/streams`. Its answer must be that of a single pass over the input, every time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::bench::contender::Contender;
use crate::bench::ground::Ground;
use crate::bench::server::Server;

const RECORDS: u64 = 60_000;
/// Slowly, so that processes that start have something to do, and not everything at once.
const RECORDS_PER_SECOND: u64 = 1_000;
/// The first process is killed when it has seen so many records,
const SEEN_BY_THE_FIRST: u64 = 5_000;
/// the broker when the second has,
const SEEN_AT_THE_CRASH: u64 = 5_000;
/// and the second when it went on so far. The third comes to the end.
const SEEN_BY_THE_SECOND: u64 = 12_000;
/// Longer than any of these steps takes on a busy machine.
const STEP_MAX: Duration = Duration::from_secs(240);
const ASK_INTERVAL: Duration = Duration::from_millis(50);
const HOUR_MS: u128 = 60 * 60 * 1000;

type Table = BTreeMap<String, String>;

/// How it went on both.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Streams {
    pub(super) records: u64,
    /// Of the right answer.
    pub(super) rows: usize,
    pub(super) kafka: Answer,
    pub(super) ours: Answer,
}

/// What the application answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) rows: usize,
    /// Rows that are wrong, missing or too many; the first few.
    pub(super) wrong: Vec<String>,
    pub(super) seconds: u64,
    /// Why there is no answer.
    pub(super) trouble: Option<String>,
}

impl Answer {
    pub(super) fn is_right(&self) -> bool {
        self.wrong.is_empty() && self.trouble.is_none()
    }
}

impl Streams {
    pub(super) fn is_same(&self) -> bool {
        self.kafka.is_right() && self.ours.is_right()
    }
}

/// Runs it on both, one after the other.
pub(super) fn run(ground: &Ground) -> anyhow::Result<Streams> {
    let program = Program::compile(ground)?;
    let expect = table(&program.finish("expect", "", &[])?)?;
    let answer = |contender: Contender| {
        eprintln!("compat: Kafka Streams on {}", contender.name());
        let start = Instant::now();
        let answered = program.answer(ground, contender);
        let seconds = start.elapsed().as_secs();
        match answered {
            Ok(rows) => Answer { rows: rows.len(), wrong: wrong(&expect, &rows), seconds, trouble: None },
            Err(error) => Answer { rows: 0, wrong: Vec::new(), seconds, trouble: Some(format!("{error:#}")) },
        }
    };
    let ours = answer(Contender::Anabranch);
    let kafka = answer(Contender::Kafka);
    Ok(Streams { records: RECORDS, rows: expect.len(), kafka, ours })
}

/// The application, and what feeds and reads it.
struct Program {
    class_path: String,
    work: PathBuf,
    /// The time of the first record, in milliseconds: not so old that anything is too old to be kept.
    base: String,
}

impl Program {
    fn compile(ground: &Ground) -> anyhow::Result<Self> {
        let work = ground.empty("streams")?;
        let classes = work.join("classes");
        let jars = ground.kafka()?.class_path();
        let mut javac = Command::new("javac");
        javac.arg("-d").arg(&classes).args(["-cp", &jars]);
        let status = javac.arg(ground.top.join("compat/programs/streams/Counts.java")).status();
        ensure!(status.context("starting javac")?.success(), "the Streams application does not compile");
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let base = ((now_ms / HOUR_MS - 1) * HOUR_MS).to_string();
        Ok(Self { class_path: format!("{}:{jars}", classes.display()), work, base })
    }

    /// Starts it; what it says goes to a log of this name.
    fn start(&self, name: &str, mode: &str, bootstrap: &str, more: &[&str]) -> anyhow::Result<Running> {
        let (out, err) = (self.work.join(format!("{name}.out")), self.work.join(format!("{name}.err")));
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-XX:+UseSerialGC", "-cp", &self.class_path, "Counts"]);
        command.args([mode, bootstrap, &self.base, &RECORDS.to_string()]).args(more);
        command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(err)?);
        Ok(Running { child: command.spawn().context("starting java")?, out })
    }

    /// Runs it to its end, and gives what it printed.
    fn finish(&self, mode: &str, bootstrap: &str, more: &[&str]) -> anyhow::Result<String> {
        self.start(mode, mode, bootstrap, more)?.finish(mode)
    }

    fn answer(&self, ground: &Ground, contender: Contender) -> anyhow::Result<Table> {
        let mut server = Server::start(contender, ground)?;
        let bootstrap = server.bootstrap.clone();
        let name = contender.name();
        let state = self.work.join(format!("{name}.state"));
        let state = state.to_str().context("the folder's path is not text")?;
        let rate = RECORDS_PER_SECOND.to_string();
        let producer = self.start(&format!("{name}-produce"), "produce", &bootstrap, &[&rate])?;
        let application =
            |number: u32| self.start(&format!("{name}-run-{number}"), "run", &bootstrap, &[state]);

        application(1)?.wait_until(SEEN_BY_THE_FIRST)?; // and is killed, as is every one that is dropped
        let mut second = application(2)?;
        second.wait_until(SEEN_AT_THE_CRASH)?;
        server.crash(ground)?;
        second.wait_until(SEEN_BY_THE_SECOND)?;
        let seen = second.seen()? + SEEN_BY_THE_FIRST;
        ensure!(seen < RECORDS, "nothing was left to do for a third process after {seen} records");
        drop(second);
        let _third = application(3)?;
        producer.finish("produce")?;
        table(&self.finish("read", &bootstrap, &[])?)
    }
}

/// A process of ours, killed with SIGKILL when it is dropped.
struct Running {
    child: Child,
    out: PathBuf,
}

impl Running {
    /// How many records the application has seen, as it told last.
    fn seen(&self) -> anyhow::Result<u64> {
        let told = fs::read_to_string(&self.out)?;
        Ok(told.lines().filter_map(|line| line.parse().ok()).max().unwrap_or(0))
    }

    /// Until the application has seen so many records.
    fn wait_until(&mut self, seen: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + STEP_MAX;
        loop {
            if self.seen()? >= seen {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the application ended with {status} before it had seen {seen} records");
            }
            let limit = STEP_MAX.as_secs();
            ensure!(Instant::now() < deadline, "the application did not see {seen} records in {limit} s");
            thread::sleep(ASK_INTERVAL);
        }
    }

    fn finish(mut self, what: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + STEP_MAX;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "{what} did not end in {} s", STEP_MAX.as_secs());
            thread::sleep(ASK_INTERVAL);
        };
        ensure!(status.success(), "{what} ended with {status}");
        Ok(fs::read_to_string(&self.out)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Rows as the program prints them: a name and a value.
fn table(printed: &str) -> anyhow::Result<Table> {
    let row = |line: &str| {
        line.split_once(' ')
            .map(|(row, value)| (row.to_owned(), value.to_owned()))
            .with_context(|| format!("not a row: {line}"))
    };
    printed.lines().map(row).collect()
}

const WRONG_MAX: usize = 10;

fn wrong(expect: &Table, got: &Table) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = expect.keys().chain(got.keys()).collect();
    let differ = names.into_iter().filter(|name| expect.get(*name) != got.get(*name));
    let say = |table: &Table, name: &String| table.get(name).cloned().unwrap_or_else(|| "nothing".to_owned());
    differ
        .map(|name| format!("{name}: {} instead of {}", say(got, name), say(expect, name)))
        .take(WRONG_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_wrong_missing_or_too_many_is_told() {
        let expect = table("a 1\nb 2/3\nc 4\n").unwrap();
        assert_eq!(wrong(&expect, &expect), [""; 0]);
        let got = table("a 1\nb 2/4\nd 5\n").unwrap();
        let told = ["b: 2/4 instead of 2/3", "c: nothing instead of 4", "d: 5 instead of nothing"];
        assert_eq!(wrong(&expect, &got), told);
        assert!(table("no-value\n").is_err());
    }

    #[test]
    fn no_answer_is_not_the_right_one() {
        let answer = |trouble: Option<&str>| Answer {
            rows: 0,
            wrong: Vec::new(),
            seconds: 1,
            trouble: trouble.map(str::to_owned),
        };
        assert!(answer(None).is_right());
        assert!(!answer(Some("it ended")).is_right());
    }
}
