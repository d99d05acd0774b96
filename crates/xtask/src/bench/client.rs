//! The programs of the crate `anabranch-bench`: what they are told, and what they print.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A program that has not ended by then hangs.
const CLIENT_MAX: Duration = Duration::from_secs(1200);

/// How often a running program is asked whether it has ended.
const ASK_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Client(PathBuf);

/// What a client of a server measured. What a command does not print is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) records_per_second: f64,
    /// Of 1024 × 1024 bytes of values; of whole batches where they are fetched.
    pub(super) mib_per_second: f64,
    pub(super) latency_us: Option<Latency>,
    /// All that the server worked for, those that were not counted included.
    #[serde(alias = "records")]
    pub(super) records_total: u64,
    /// Of one request, as sent.
    pub(super) request_bytes: Option<u64>,
    pub(super) client_cpu_seconds: f64,
}

/// In microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    pub(super) p99_99: f64,
    pub(super) max: f64,
    /// Pairs of a share, from 0 to 1, and what that share took at most.
    pub(super) quantiles: Vec<(f64, f64)>,
}

/// What something without records measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Timed {
    #[serde(default)]
    pub(super) mib_per_second: Option<f64>,
    #[serde(default)]
    pub(super) latency_us: Option<Latency>,
}

impl Client {
    pub(super) fn new(program: PathBuf) -> Self {
        Self(program)
    }

    fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.0);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command
    }

    /// What the program prints, if it succeeds in time.
    pub(super) fn run<T: DeserializeOwned, A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<T> {
        let mut command = self.command(arguments);
        let mut hold = Hold(command.spawn().with_context(|| format!("starting {command:?}"))?);
        let deadline = Instant::now() + CLIENT_MAX;
        let status = loop {
            if let Some(status) = hold.0.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("{command:?} did not end within {} s", CLIENT_MAX.as_secs());
            }
            thread::sleep(ASK_INTERVAL);
        };
        ensure!(status.success(), "{command:?} failed ({status})");
        let line = hold.line()?;
        serde_json::from_str(&line).with_context(|| format!("{command:?} printed {line:?}"))
    }

    /// Starts a program that prints one line and then goes on until it is killed.
    pub(super) fn start<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<(Hold, String)> {
        let mut command = self.command(arguments);
        let mut hold = Hold(command.spawn().with_context(|| format!("starting {command:?}"))?);
        let line = hold.line()?;
        ensure!(!line.is_empty(), "{command:?} ended and said nothing");
        Ok((hold, line))
    }

    /// Starts a program whose output nobody reads.
    pub(super) fn start_quiet<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<Hold> {
        let mut command = self.command(arguments);
        Ok(Hold(command.stdout(Stdio::null()).spawn().with_context(|| format!("starting {command:?}"))?))
    }

    pub(super) fn program(&self) -> &Path {
        &self.0
    }

    /// Creates a topic with a record in each partition: what a server does at the first one is no part of what records cost.
    pub(super) fn create_topic(
        &self,
        bootstrap: &str,
        topic: &str,
        partitions: u32,
        configs: &[&str],
    ) -> anyhow::Result<()> {
        self.create(bootstrap, topic, partitions, configs, &["--touch"])
    }

    /// Creates a topic with nothing in it.
    pub(super) fn create_empty_topic(
        &self,
        bootstrap: &str,
        topic: &str,
        partitions: u32,
    ) -> anyhow::Result<()> {
        self.create(bootstrap, topic, partitions, &[], &[])
    }

    fn create(
        &self,
        bootstrap: &str,
        topic: &str,
        partitions: u32,
        configs: &[&str],
        more: &[&str],
    ) -> anyhow::Result<()> {
        let partitions = partitions.to_string();
        let mut arguments = vec!["create-topic", "--bootstrap", bootstrap, "--topic", topic];
        arguments.extend(["--partitions", &partitions]);
        configs.iter().for_each(|config| arguments.extend(["--config", config]));
        arguments.extend(more);
        self.run::<serde_json::Value, _>(arguments).map(drop)
    }

    pub(super) fn delete_topic(&self, bootstrap: &str, topic: &str) -> anyhow::Result<()> {
        self.run::<serde_json::Value, _>(["delete-topic", "--bootstrap", bootstrap, "--topic", topic])
            .map(drop)
    }
}

/// A program that does not outlive this.
#[derive(Debug)]
pub(super) struct Hold(Child);

impl Hold {
    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if let Some(stdout) = self.0.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        Ok(line.trim().to_owned())
    }

    /// Kills it, as a crash would, and waits until it is gone.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
