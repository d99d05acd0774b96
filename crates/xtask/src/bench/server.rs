//! Starting a contender and stopping it, whatever happens.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::contender::Contender;
use super::ground::Ground;
use super::process;
use super::tool::Kafka;

/// A server that has not answered by then is not going to.
const START_MAX: Duration = Duration::from_secs(90);

/// How often a starting server is asked whether it serves.
const ASK_INTERVAL: Duration = Duration::from_millis(2);

/// What `kafka-server-start.sh` gives its broker.
const KAFKA_HEAP: &str = "1g";

/// A running contender; dropping it stops it at once. Its logs stay until the next run.
#[derive(Debug)]
pub(crate) struct Server {
    pub(super) contender: Contender,
    /// Where clients connect.
    pub(crate) bootstrap: String,
    pub(super) pid: u32,
    /// From the process's birth until it answered a Kafka request.
    pub(super) start: Duration,
    port: u16,
    hold: Hold,
}

impl Server {
    /// Starts `contender` with an empty directory, and waits until it serves.
    pub(crate) fn start(contender: Contender, ground: &Ground) -> anyhow::Result<Self> {
        let left = ground.work.join(contender.name());
        if contender.is_kafka() && left.exists() {
            ground.kafka()?.stop(&left)?; // by a run that was interrupted
        }
        let dir = ground.empty(contender.name())?;
        let port = free_port()?;
        let child = spawn(contender, ground, &dir, port)?;
        let kafka = if contender.is_kafka() { Some(ground.kafka()?.clone()) } else { None };
        let mut hold = Hold { child, dir, kafka };
        let pid = hold.wait_until_ready(port)?;
        let start = process::age(pid)?;
        Ok(Self { contender, bootstrap: format!("127.0.0.1:{port}"), pid, start, port, hold })
    }

    /// Kills it with SIGKILL, and starts it again where it was, with the data that it has.
    pub(crate) fn crash(&mut self, ground: &Ground) -> anyhow::Result<()> {
        self.hold.kill()?;
        self.hold.child = spawn(self.contender, ground, &self.hold.dir, self.port)?;
        self.pid = self.hold.wait_until_ready(self.port)?;
        Ok(())
    }
}

/// The server, or Kafka's script, which ends when the server that it starts serves.
fn spawn(contender: Contender, ground: &Ground, dir: &Path, port: u16) -> anyhow::Result<Child> {
    if contender.is_kafka() {
        ground.kafka()?.start(dir, port, KAFKA_HEAP, contender.server_settings())
    } else {
        start_ours(&ground.binary, dir, port, contender.server_settings())
    }
}

fn start_ours(binary: &Path, dir: &Path, port: u16, settings: &[&str]) -> anyhow::Result<Child> {
    let mut command = Command::new(binary);
    command.arg("serve").arg("--data").arg(dir.join("data")).arg("--kafka").arg(format!("127.0.0.1:{port}"));
    for setting in settings {
        command.arg("--set").arg(setting);
    }
    let log = File::create(dir.join("log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("starting {}", binary.display()))
}

/// Keeps a server from outliving its measurement.
#[derive(Debug)]
struct Hold {
    /// The server, or Kafka's script, which ends when the server that it started serves.
    child: Child,
    dir: PathBuf,
    /// Stops what the script started.
    kafka: Option<Kafka>,
}

impl Hold {
    /// The server's process, once it has answered a request.
    fn wait_until_ready(&mut self, port: u16) -> anyhow::Result<u32> {
        self.wait(port).with_context(|| format!("it does not start; its logs are in {}", self.dir.display()))
    }

    fn wait(&mut self, port: u16) -> anyhow::Result<u32> {
        let deadline = Instant::now() + START_MAX;
        while !answers(port) {
            ensure!(Instant::now() < deadline, "it did not answer within {} s", START_MAX.as_secs());
            if let Some(status) = self.child.try_wait()?
                && !(self.kafka.is_some() && status.success())
            {
                bail!("it ended: {status}");
            }
            thread::sleep(ASK_INTERVAL);
        }
        if self.kafka.is_none() {
            return Ok(self.child.id());
        }
        let path = self.dir.join("node1").join("pid");
        let pid = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        pid.trim().parse().with_context(|| format!("{} reads {pid:?}", path.display()))
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        // It may have ended by itself, as Kafka's script does.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.kafka.as_ref().map_or(Ok(()), |kafka| kafka.stop(&self.dir))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The data is thrown away, so nobody waits for a clean end.
        if let Err(error) = self.kill() {
            eprintln!("bench: {error:#}");
        }
    }
}

/// A port for clients; Kafka's controller takes the tenth above it.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    // Below those that Linux gives to connections.
    let mut ports = (29_092..32_000).step_by(20);
    ports.find(|&port| is_free(port) && is_free(port + 10)).context("no port from 29092 to 32000 is free")
}

/// An ApiVersions request, version 0: length, API key 18, version, correlation id 7, no client id.
const API_VERSIONS: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 255, 255];

/// Whether the server at `port` answers a Kafka request without an error.
pub(crate) fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(&API_VERSIONS)?;
        // Length, correlation id, error code.
        let mut answer = [0; 10];
        stream.read_exact(&mut answer)?;
        Ok(answer[4..] == [0, 0, 0, 7, 0, 0])
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is thought of a server that answers with these bytes and closes.
    fn thought_of(answer: &'static [u8]) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; API_VERSIONS.len()];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(answer).unwrap();
            request
        });
        let thought = answers(port);
        assert_eq!(server.join().unwrap(), API_VERSIONS);
        thought
    }

    #[test]
    fn only_an_answer_without_an_error_counts() {
        assert!(thought_of(&[0, 0, 0, 10, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0]));
        assert!(!thought_of(&[0, 0, 0, 10, 0, 0, 0, 7, 0, 35, 0, 0, 0, 0]), "an error code");
        assert!(!thought_of(&[0, 0, 0, 10, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0]), "another's answer");
        assert!(!thought_of(&[0, 0, 0]), "half an answer");
    }

    #[test]
    fn nobody_there_is_no_answer() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(!answers(port));
    }
}
