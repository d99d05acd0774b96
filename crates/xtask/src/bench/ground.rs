//! Where everything is, and what is built or installed when it is first needed.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, ensure};

use super::client::Client;
use super::contender::DELETED;
use super::tool::Kafka;

/// The repository, a folder to work in, and the programs to measure.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) top: PathBuf,
    /// Below `target`; what a run leaves here, the next one removes.
    pub(crate) work: PathBuf,
    /// The Anabranch to measure; empty where none is.
    pub(crate) binary: PathBuf,
    /// Whether it was built from the work tree; otherwise nobody knows its commit.
    pub(super) built: bool,
    client: OnceCell<Client>,
    kafka: OnceCell<Kafka>,
    nats: OnceCell<String>,
}

impl Ground {
    pub(crate) fn prepare(binary: Option<&Path>) -> anyhow::Result<Self> {
        let mut ground = Self::without_server()?;
        ground.built = binary.is_none();
        ground.binary = match binary {
            Some(binary) => binary.to_owned(),
            None => build(&ground.top, &ground.programs()?, &["--bin", "anabranch"])?,
        };
        ensure!(ground.binary.is_file(), "there is no {}", ground.binary.display());
        Ok(ground)
    }

    /// For what measures no server of ours.
    pub(crate) fn without_server() -> anyhow::Result<Self> {
        let top = repository()?;
        let work = top.join("target").join("bench");
        fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
        let (binary, built, client, kafka, nats) = Default::default();
        Ok(Self { top, work, binary, built, client, kafka, nats })
    }

    /// Where programs are copied to; servers have folders of the same names.
    fn programs(&self) -> anyhow::Result<PathBuf> {
        let dir = self.work.join("programs");
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir)
    }

    /// The light client.
    pub(super) fn client(&self) -> anyhow::Result<&Client> {
        if self.client.get().is_none() {
            let program = build(&self.top, &self.programs()?, &["--package", "anabranch-bench"])?;
            let _ = self.client.set(Client::new(program));
        }
        Ok(self.client.get().expect("it was just set"))
    }

    /// Apache Kafka, installed into `target/kafka-lib`, or where `KAFKA_LIB` says.
    pub(crate) fn kafka(&self) -> anyhow::Result<&Kafka> {
        if self.kafka.get().is_none() {
            let lib =
                env::var_os("KAFKA_LIB").map_or_else(|| self.top.join("target/kafka-lib"), PathBuf::from);
            let script = self.top.join("tests/peers/kafka/kafka");
            let _ = self.kafka.set(Kafka::install(script, lib, self.work.clone())?);
        }
        Ok(self.kafka.get().expect("it was just set"))
    }

    /// Says which NATS takes part.
    pub(super) fn met_nats(&self, version: String) {
        let _ = self.nats.set(version);
    }

    /// Of the peers that took part.
    pub(super) fn versions(&self) -> BTreeMap<&'static str, String> {
        let kafka = self.kafka.get().and_then(|kafka| Some(("kafka", kafka.version().ok()?)));
        let nats = self.nats.get().map(|version| ("nats", version.clone()));
        kafka.into_iter().chain(nats).collect()
    }

    /// An empty folder of this name to work in; what was there is gone.
    pub(crate) fn empty(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.work.join(name);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", dir.display()));
            }
            _ => {}
        }
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir)
    }
}

/// The top of the repository: two folders above this crate.
fn repository() -> anyhow::Result<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("no folder above crates")?;
    ensure!(top.join("bench").is_dir(), "{} is no longer the repository", top.display());
    Ok(top.to_owned())
}

/// Builds a program as it is released, and copies it to `into`, where no other build changes it under a measurement.
pub(super) fn build(top: &Path, into: &Path, what: &[&str]) -> anyhow::Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--locked", "--message-format=json-render-diagnostics"]).args(what);
    let done = command.current_dir(top).stderr(Stdio::inherit()).output().context("starting cargo")?;
    ensure!(done.status.success(), "cargo build {} failed", what.join(" "));
    let told = String::from_utf8(done.stdout)?;
    let program =
        executable(&told).with_context(|| format!("cargo build {} made no program", what.join(" ")))?;
    let copy = into.join(program.file_name().context("a program without a name")?);
    // A copy that still runs cannot be written to, and can be removed.
    let _ = fs::remove_file(&copy);
    fs::copy(&program, &copy).with_context(|| format!("copying {}", program.display()))?;
    Ok(copy)
}

/// The program that cargo's messages name: the last artifact that can be run.
fn executable(messages: &str) -> Option<PathBuf> {
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    artifacts.filter_map(|artifact| Some(PathBuf::from(artifact.get("executable")?.as_str()?))).next_back()
}

/// Makes the disk write down what it holds back, so that nobody pays for the one before.
pub(super) fn sync() -> anyhow::Result<()> {
    let status = Command::new("sync").status().context("starting sync")?;
    ensure!(status.success(), "sync failed");
    Ok(())
}

/// The same after a topic was deleted, whose files may go a little later.
pub(super) fn sync_deleted() -> anyhow::Result<()> {
    std::thread::sleep(DELETED);
    sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_what_cargo_says_it_is() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\nwarning: x\n\
            {\"reason\":\"compiler-artifact\",\"executable\":\"t/release/anabranch\"}\n{\"reason\":\"build-finished\"}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("t/release/anabranch")));
        assert_eq!(executable("{\"reason\":\"build-finished\"}"), None);
    }
}
