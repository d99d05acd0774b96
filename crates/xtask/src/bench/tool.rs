//! Kafka's own tools, by way of `tests/peers/kafka/kafka`: what they are told, and what they print.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;

use super::kafka::Load;
use super::server::Server;

/// A tool that has not ended by then hangs.
const TOOL_MAX: Duration = Duration::from_secs(600);

/// How often a running tool is asked whether it has ended.
const ASK_INTERVAL: Duration = Duration::from_millis(10);

/// A tool that fails may complain for a minute; the end says why.
const ERROR_LINES_MAX: usize = 5;

/// What the scripts of Kafka's performance tools give them.
const TOOL_HEAP: &str = "512m";

/// Shortens the start of tools whose speed is not measured.
const QUICK_START: &str = "-XX:TieredStopAtLevel=1";

/// Kafka as the script in the repository installs and runs it.
#[derive(Debug, Clone)]
pub(crate) struct Kafka {
    script: PathBuf,
    lib: PathBuf,
    /// Where the output of the tool that ran last is kept.
    work: PathBuf,
}

/// One part in so many of a producer's records warms it up: a young Java client takes seconds to reach its speed, and the
/// records that waited for its first connection would be the slowest hundredth, whoever serves.
const CLIENT_WARM_UP_PART: u64 = 2;

/// What a tool measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Measured {
    /// All of them; the other figures leave out those that warmed up the producer.
    pub(super) records: u64,
    pub(super) records_per_second: f64,
    /// Of 1024 × 1024 bytes of values.
    pub(super) mib_per_second: f64,
    /// From the call of `send` to the acknowledgement; not known of consuming.
    pub(super) latency_ms: Option<Latency>,
}

/// How many milliseconds that share of the records took at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Latency {
    pub(super) p50: u64,
    pub(super) p95: u64,
    pub(super) p99: u64,
    pub(super) p99_9: u64,
}

impl Kafka {
    /// Installs it into `lib`, where it is not there yet.
    pub(super) fn install(script: PathBuf, lib: PathBuf, work: PathBuf) -> anyhow::Result<Self> {
        let kafka = Self { script, lib, work };
        kafka.finish("install", kafka.command(TOOL_HEAP).arg("install"))?;
        Ok(kafka)
    }

    /// The version of its client, whose name carries it.
    pub(crate) fn version(&self) -> anyhow::Result<String> {
        let names =
            fs::read_dir(&self.lib)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let version =
            |name: String| Some(name.strip_prefix("kafka-clients-")?.strip_suffix(".jar")?.to_owned());
        names.filter_map(version).next().with_context(|| format!("no Kafka in {}", self.lib.display()))
    }

    /// The class path of its jars.
    pub(crate) fn class_path(&self) -> String {
        format!("{}/*", self.lib.display())
    }

    /// The size of its jars; the Java runtime comes on top.
    pub(super) fn program_bytes(&self) -> anyhow::Result<u64> {
        fs::read_dir(&self.lib)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
    }

    /// Begins to start a node; the returned script ends when it serves.
    pub(super) fn start(
        &self,
        dir: &Path,
        port: u16,
        heap: &str,
        settings: &[&str],
    ) -> anyhow::Result<Child> {
        let mut command = self.command(heap);
        command.arg("start").arg("--dir").arg(dir).arg("--port").arg(port.to_string());
        for setting in settings {
            command.arg("-o").arg(setting);
        }
        let log = File::create(dir.join("start.log"))?;
        command.stdout(log.try_clone()?).stderr(log).spawn().context("starting Kafka's script")
    }

    /// Kills what runs in `dir`; fine when nothing does.
    pub(super) fn stop(&self, dir: &Path) -> anyhow::Result<()> {
        self.finish("stop", self.command(TOOL_HEAP).arg("stop").arg("--kill").arg("--dir").arg(dir)).map(drop)
    }

    /// Creates a topic with the settings of the contender.
    pub(super) fn create_topic(&self, server: &Server, topic: &str, partitions: u32) -> anyhow::Result<()> {
        let mut command = self.topics(server);
        command.args(["--create", "--topic", topic, "--partitions", &partitions.to_string()]);
        for setting in server.contender.topic_settings() {
            command.args(["--config", setting]);
        }
        self.finish("kafka-topics --create", &mut command).map(drop)
    }

    /// Deletes a topic.
    pub(super) fn delete_topic(&self, server: &Server, topic: &str) -> anyhow::Result<()> {
        let mut command = self.topics(server);
        self.finish("kafka-topics --delete", command.args(["--delete", "--topic", topic])).map(drop)
    }

    fn topics(&self, server: &Server) -> Command {
        let mut command = self.command(TOOL_HEAP);
        command.env("KAFKA_OPTS", QUICK_START);
        command.args(["run", "kafka-topics", "--bootstrap-server", &server.bootstrap]);
        command
    }

    /// Produces `records` records, as fast as possible or so many per second.
    pub(super) fn produce(
        &self,
        server: &Server,
        topic: &str,
        load: Load,
        records: u64,
        per_second: Option<u64>,
    ) -> anyhow::Result<Measured> {
        let throughput = per_second.map_or("-1".to_owned(), |rate| rate.to_string());
        let mut command = self.command(TOOL_HEAP);
        command.args(["run", "kafka-producer-perf-test", "--bootstrap-server", &server.bootstrap]);
        command.args(["--topic", topic, "--num-records", &records.to_string()]);
        command.args(["--record-size", &load.record_bytes.to_string(), "--throughput", &throughput]);
        command.args(["--warmup-records", &(records / CLIENT_WARM_UP_PART).to_string()]);
        command.args(["--command-property", &format!("acks={}", load.acks.name())]);
        let output = self.finish("kafka-producer-perf-test", &mut command)?;
        let measured = parse_produced(&output)
            .with_context(|| format!("kafka-producer-perf-test printed {output:?}"))?;
        ensure!(measured.records == records, "only {} of {records} records were produced", measured.records);
        Ok(measured)
    }

    /// Consumes `records` records from the topic's beginning.
    pub(super) fn consume(&self, server: &Server, topic: &str, records: u64) -> anyhow::Result<Measured> {
        let mut command = self.command(TOOL_HEAP);
        command.args(["run", "kafka-consumer-perf-test", "--bootstrap-server", &server.bootstrap]);
        command.args(["--topic", topic, "--num-records", &records.to_string()]);
        let output = self.finish("kafka-consumer-perf-test", &mut command)?;
        let measured = parse_consumed(&output)
            .with_context(|| format!("kafka-consumer-perf-test printed {output:?}"))?;
        ensure!(measured.records >= records, "only {} of {records} records were consumed", measured.records);
        Ok(measured)
    }

    fn command(&self, heap: &str) -> Command {
        let mut command = Command::new(&self.script);
        // The tools print numbers as the locale has them.
        command
            .env("LC_ALL", "C")
            .env("KAFKA_LIB", &self.lib)
            .env("KAFKA_HEAP", heap)
            .env_remove("KAFKA_OPTS");
        command.stdin(Stdio::null());
        command
    }

    /// What the command prints, if it succeeds in time.
    fn finish(&self, name: &str, command: &mut Command) -> anyhow::Result<String> {
        let (out, err) = (self.work.join("tool.out"), self.work.join("tool.err"));
        let child = command.stdout(File::create(&out)?).stderr(File::create(&err)?).spawn();
        let mut child = child.with_context(|| format!("starting {name}"))?;
        let deadline = Instant::now() + TOOL_MAX;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("{name} did not end within {} s; see {}", TOOL_MAX.as_secs(), out.display());
            }
            thread::sleep(ASK_INTERVAL);
        };
        let output = fs::read_to_string(&out)?;
        if !status.success() {
            let said = [output, fs::read_to_string(&err)?].concat();
            let lines: Vec<&str> = said.lines().collect();
            let last = lines[lines.len().saturating_sub(ERROR_LINES_MAX)..].join("\n");
            bail!("{name} failed ({status}), and said last:\n{last}");
        }
        Ok(output)
    }
}

/// The last two lines of kafka-producer-perf-test: of all records, and of those after the warm-up. Each reads (as one
/// line, the second with `steady state` before `records sent`):
///
/// ```text
/// 1000 records sent, 25106.703490 records/sec (24.52 MB/sec), 932.93 ms avg latency, 1506.00 ms max latency,
///     867 ms 50th, 1346 ms 95th, 1407 ms 99th, 1446 ms 99.9th.
/// ```
fn parse_produced(output: &str) -> Option<Measured> {
    let mut summaries = output.lines().filter(|line| line.ends_with(" ms 99.9th."));
    let (all, steady) = (summaries.next()?, summaries.next()?);
    Some(Measured {
        records: before(" records sent", all)?,
        records_per_second: before(" records/sec", steady)?,
        mib_per_second: before(" MB/sec", steady)?,
        latency_ms: Some(Latency {
            p50: before(" ms 50th", steady)?,
            p95: before(" ms 95th", steady)?,
            p99: before(" ms 99th", steady)?,
            p99_9: before(" ms 99.9th", steady)?,
        }),
    })
}

/// The number that stands before `label`.
fn before<T: std::str::FromStr>(label: &str, line: &str) -> Option<T> {
    let (start, _) = line.split_once(label)?;
    start.rsplit([' ', '(']).next()?.parse().ok()
}

/// The table of one line that kafka-consumer-perf-test prints. The columns that begin with `fetch.` leave out the time
/// that it took to join the group.
fn parse_consumed(output: &str) -> Option<Measured> {
    let mut lines = output.lines().skip_while(|line| !line.starts_with("start.time, "));
    let (header, values) = (lines.next()?, lines.next()?);
    let columns: Vec<(&str, &str)> = header.split(", ").zip(values.split(", ")).collect();
    let column = |name: &str| columns.iter().find(|(column, _)| *column == name).map(|(_, value)| *value);
    Some(Measured {
        records: column("data.consumed.in.nMsg")?.parse().ok()?,
        records_per_second: column("fetch.nMsg.sec")?.parse().ok()?,
        mib_per_second: column("fetch.MB.sec")?.parse().ok()?,
        latency_ms: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRODUCED: &str = "\
Warmup first 66666 records. Steady state results will print after the complete test summary.
In steady state.
83011 records sent, 16602.2 records/sec (16.21 MB/sec), 1104.3 ms avg latency, 1506.0 ms max latency.
200000 records sent, 25106.703490 records/sec (24.52 MB/sec), 932.93 ms avg latency, 1506.00 ms max latency, \
867 ms 50th, 1346 ms 95th, 1407 ms 99th, 1446 ms 99.9th.
133334 steady state records sent, 30144.130533 records/sec (29.67 MB/sec), 788.42 ms avg latency, \
989.00 ms max latency, 72 ms 50th, 552 ms 95th, 577 ms 99th, 588 ms 99.9th.
";

    const CONSUMED: &str = "\
start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, rebalance.time.ms, \
fetch.time.ms, fetch.MB.sec, fetch.nMsg.sec
2026-11-22 19:51:35:287, 2026-11-22 19:51:41:583, 195.3125, 31.0217, 200000, 31766.2008, 4736, 1560, 125.2003, \
128205.1282
";

    #[test]
    fn all_records_are_counted_and_the_warm_ones_measured() {
        let latency = Latency { p50: 72, p95: 552, p99: 577, p99_9: 588 };
        let expect = Measured {
            records: 200_000,
            records_per_second: 30_144.130_533,
            mib_per_second: 29.67,
            latency_ms: Some(latency),
        };
        assert_eq!(parse_produced(PRODUCED), Some(expect));
    }

    #[test]
    fn a_run_without_a_summary_has_no_figures() {
        let cut = PRODUCED.rsplit_once("133334").unwrap().0;
        for output in ["", cut, "java.lang.OutOfMemoryError\n", &PRODUCED.replace("577 ms 99th, ", "")] {
            assert_eq!(parse_produced(output), None, "{output}");
        }
        for output in ["", CONSUMED.lines().next().unwrap(), &CONSUMED.replace("fetch.nMsg.sec", "other")] {
            assert_eq!(parse_consumed(output), None, "{output}");
        }
    }

    #[test]
    fn joining_the_group_is_not_counted_as_consuming() {
        let expect = Measured {
            records: 200_000,
            records_per_second: 128_205.128_2,
            mib_per_second: 125.2003,
            latency_ms: None,
        };
        assert_eq!(parse_consumed(CONSUMED), Some(expect.clone()));
        let warned = format!("WARNING: a line of the client's\n{CONSUMED}");
        assert_eq!(parse_consumed(&warned), Some(expect));
    }
}
