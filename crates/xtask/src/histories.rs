//! Real clients of transactions against the real binary, while all of them are killed at random; and what their histories
//! come to.
//!
//! The clients are Java's and librdkafka's (`compat/programs/histories`), each a process with producers, loops that read,
//! process and write, and readers. The broker and the clients get SIGKILL. A client's successor has the same transactional
//! ids; at times it starts while the old one lives, which is a zombie from then on, or while that is stopped, and goes on
//! later. At the end one reader goes through everything, and the simulator's checker reads what all of them have written
//! down (`crates/sim/src/history`).

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::bench::server::{answers, free_port};

/// What `cargo xtask histories` takes.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long clients work and are killed.
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// What is killed when follows from this; what the clients do meanwhile does not.
    #[arg(long)]
    seed: Option<u64>,
    /// Plants one of the known bugs in the broker (`crates/core/src/planted.rs`), by its name: the verdict must be against it.
    #[arg(long, value_name = "BUG", conflicts_with = "binary")]
    planted: Option<String>,
    /// An anabranch that was built before.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// A broker that does not answer by then does not start.
const START_MAX: Duration = Duration::from_secs(60);
const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// Between two kills, ms.
const CALM_MS: (u64, u64) = (500, 5000);
/// As long as a stopped process stays stopped, and a zombie lives, ms: shorter and longer than a transaction may last.
const ZOMBIE_MS: (u64, u64) = (1000, 12_000);
const TOPICS: [&str; 2] = ["in", "out"];
const PARTITIONS: &str = "4";
/// Small: the memory of this machine is not what is tested.
const JAVA: [&str; 3] = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
const CLIENTS: [Kind; 2] = [Kind::Java, Kind::Librdkafka];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Java,
    Librdkafka,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Java => "java",
            Self::Librdkafka => "librdkafka",
        }
    }
}

/// How often what was done.
#[derive(Debug, Default)]
struct Kills {
    broker: u64,
    clients: u64,
    zombies: u64,
    stopped: u64,
}

/// Lets clients work, kills, and tells what the checker says.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let checker = crate::sim::build(false)?;
    let target = target();
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => build_broker(&target, options.planted.is_some())?,
    };
    let work = target.join("histories");
    let programs = Programs::install(&work)?;
    let run = work.join("run");
    let _ = fs::remove_dir_all(&run);
    fs::create_dir_all(&run).with_context(|| format!("creating {}", run.display()))?;

    let seed = options.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_secs()
    });
    println!("seed {seed}: {} min in {}", options.minutes, run.display());
    let planted = options.planted.clone();
    let mut chaos = Chaos {
        chance: Chance(seed),
        broker: Broker { binary, planted, port: free_port()?, run: run.clone(), child: None },
        programs,
        run,
        clients: Vec::new(),
        zombies: Vec::new(),
        started: 0,
        kills: Kills::default(),
    };
    chaos.broker.start()?;
    chaos.broker.create_topics()?;
    for kind in CLIENTS {
        chaos.start(kind)?;
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60 * options.minutes) {
        thread::sleep(Duration::from_millis(chaos.chance.between(CALM_MS)));
        chaos.strike()?;
        chaos.bury()?;
    }
    chaos.end()?;
    let history = chaos.collect()?;
    let Kills { broker, clients, zombies, stopped } = chaos.kills;
    println!(
        "{} s: SIGKILL for the broker {broker} times, for clients {clients} times; of these",
        began.elapsed().as_secs()
    );
    println!("{zombies} were zombies before, and {stopped} stopped for a while");
    let judged = Command::new(checker).arg("--history").arg(&history).status();
    let judged = judged.context("starting the checker")?;
    Ok(if judged.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn target() -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate is in crates/");
    top.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// As it is released; or as the simulator is, with bugs to plant.
fn build_broker(target: &Path, planted: bool) -> anyhow::Result<PathBuf> {
    let (target, profile) = match planted {
        true => (target.join("planted"), crate::sim::PROFILE),
        false => (target.to_owned(), "release"),
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--bin", "anabranch", "--profile", profile]);
    if planted {
        cargo.env("RUSTFLAGS", crate::sim::PLANTED);
    }
    let built = cargo.env("CARGO_TARGET_DIR", &target).status().context("starting cargo")?;
    ensure!(built.success(), "the broker does not build");
    Ok(target.join(profile).join("anabranch"))
}

/// The clients' programs, installed below the target directory.
#[derive(Debug)]
struct Programs {
    java: PathBuf,
    librdkafka: PathBuf,
}

impl Programs {
    fn install(work: &Path) -> anyhow::Result<Self> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../compat/programs/histories");
        let install = |kind: Kind, steps: &dyn Fn(&Path, &Path) -> anyhow::Result<()>| {
            let (from, home) = (sources.join(kind.name()), work.join(kind.name()));
            let (pins, stamp) = (pins(&from)?, home.join("installed"));
            if fs::read(&stamp).is_ok_and(|stamped| stamped == pins) {
                return Ok::<_, anyhow::Error>(home);
            }
            let _ = fs::remove_dir_all(&home);
            fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
            steps(&from, &home)?;
            fs::write(&stamp, pins).with_context(|| format!("writing {}", stamp.display()))?;
            Ok(home)
        };
        let java = install(Kind::Java, &|from, home| {
            let mut maven = Command::new("mvn");
            maven.args(["--quiet", "--batch-mode", "-Dstyle.color=never", "dependency:copy-dependencies"]);
            maven.arg("-DincludeScope=runtime").arg("-f").arg(from.join("pom.xml"));
            succeed(maven.arg(format!("-DoutputDirectory={}", home.join("jars").display())))?;
            let mut javac = Command::new("javac");
            javac.arg("-cp").arg(home.join("jars").join("*")).arg("-d").arg(home.join("classes"));
            succeed(javac.arg(from.join("Histories.java")))
        })?;
        let librdkafka = install(Kind::Librdkafka, &|from, home| {
            succeed(Command::new("python3").args(["-m", "venv"]).arg(home.join("venv")))?;
            let mut pip = Command::new(home.join("venv/bin/pip"));
            pip.args(["install", "--quiet", "--no-deps", "--requirement"]).arg(from.join("requirements.txt"));
            succeed(&mut pip)?;
            let program = "histories.py";
            fs::copy(from.join(program), home.join(program)).context("copying the program")?;
            Ok(())
        })?;
        Ok(Self { java, librdkafka })
    }

    fn java(&self, arguments: &[&str]) -> Command {
        let mut java = Command::new("java");
        let classes = std::env::join_paths([self.java.join("jars").join("*"), self.java.join("classes")]);
        java.args(JAVA).arg("-cp").arg(classes.expect("a target directory has no colon in its name"));
        java.arg("Histories").args(arguments);
        java
    }

    fn work(&self, kind: Kind, bootstrap: &str, name: &str) -> Command {
        match kind {
            Kind::Java => self.java(&["work", bootstrap, name]),
            Kind::Librdkafka => {
                let mut python = Command::new(self.librdkafka.join("venv/bin/python"));
                python.arg(self.librdkafka.join("histories.py")).args([bootstrap, name]);
                python
            }
        }
    }
}

/// What an installation is made from; it is made again when this changes.
fn pins(from: &Path) -> anyhow::Result<Vec<u8>> {
    let entries = fs::read_dir(from).with_context(|| format!("reading {}", from.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    let mut pins = Vec::new();
    for file in files {
        pins.extend(fs::read(&file).with_context(|| format!("reading {}", file.display()))?);
    }
    Ok(pins)
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    let said = [done.stdout, done.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    ensure!(done.status.success(), "{command:?}: {}\n{said}", done.status);
    Ok(())
}

/// The same choices for the same seed (SplitMix64: Steele, Lea, Flood 2014).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.below(most - least + 1)
    }
}

/// The broker: whenever it starts, on the same directory and port.
#[derive(Debug)]
struct Broker {
    binary: PathBuf,
    planted: Option<String>,
    port: u16,
    run: PathBuf,
    child: Option<Child>,
}

impl Broker {
    fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg("--data").arg(self.run.join("data")).arg("--kafka").arg(self.bootstrap());
        // Whoever has gone shall not keep others waiting for long.
        command.args(["--set", "transaction.abort.timed.out.transaction.cleanup.interval.ms=1000"]);
        command.envs(self.planted.iter().map(|bug| ("ANABRANCH_PLANTED", bug)));
        let child = command.stdin(Stdio::null()).stdout(self.log()?).stderr(self.log()?).spawn();
        self.child = Some(child.with_context(|| format!("starting {}", self.binary.display()))?);
        let deadline = Instant::now() + START_MAX;
        while !answers(self.port) {
            if let Some(status) = self.child.as_mut().expect("it was just started").try_wait()? {
                bail!("the broker ended: {status}; see {}", self.run.join("broker.log").display());
            }
            ensure!(Instant::now() < deadline, "the broker does not answer within {START_MAX:?}");
            thread::sleep(ASK_INTERVAL);
        }
        Ok(())
    }

    fn log(&self) -> anyhow::Result<File> {
        append_to(&self.run.join("broker.log"))
    }

    fn create_topics(&self) -> anyhow::Result<()> {
        for topic in TOPICS {
            let mut create = Command::new(&self.binary);
            let bootstrap = self.bootstrap();
            succeed(create.args(["topic", "create", topic, "-p", PARTITIONS, "-b", bootstrap.as_str()]))?;
        }
        Ok(())
    }

    /// It must not have ended by itself.
    fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(status) = child.try_wait()? {
            bail!("the broker ended by itself: {status}; see {}", self.run.join("broker.log").display());
        }
        kill(&mut child)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = kill(child);
        }
    }
}

fn append_to(path: &Path) -> anyhow::Result<File> {
    let file = File::options().create(true).append(true).open(path);
    file.with_context(|| format!("opening {}", path.display()))
}

fn kill(child: &mut Child) -> anyhow::Result<()> {
    child.kill().context("killing a process")?;
    child.wait().context("waiting for a process that was killed")?;
    Ok(())
}

/// A client's process; it does not outlive this one.
#[derive(Debug)]
struct Client {
    kind: Kind,
    name: String,
    child: Child,
}

impl Client {
    /// Its end may only come from here.
    fn check(&mut self, run: &Path) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended by itself: {status}; see {}", self.name, run.join(&self.name).display())
            }
        }
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        succeed(Command::new("kill").arg(name).arg(self.child.id().to_string()))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = kill(&mut self.child);
    }
}

/// Who works, and who is killed next.
#[derive(Debug)]
struct Chaos {
    chance: Chance,
    broker: Broker,
    programs: Programs,
    run: PathBuf,
    clients: Vec<Client>,
    /// Old incarnations that go on, until when; or that are stopped, and go on then.
    zombies: Vec<Zombie>,
    started: u64,
    kills: Kills,
}

#[derive(Debug)]
struct Zombie {
    client: Client,
    until: Instant,
    is_stopped: bool,
}

impl Chaos {
    fn start(&mut self, kind: Kind) -> anyhow::Result<()> {
        self.started += 1;
        let name = format!("{}.{}", kind.name(), self.started);
        let mut command = self.programs.work(kind, &self.broker.bootstrap(), &name);
        command.arg(self.run.join(format!("{name}.jsonl")));
        let log = append_to(&self.run.join(format!("{name}.log")))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.with_context(|| format!("starting {}", kind.name()))?;
        self.clients.push(Client { kind, name, child });
        Ok(())
    }

    /// Something is killed.
    fn strike(&mut self) -> anyhow::Result<()> {
        if self.chance.below(2) == 0 {
            self.broker.kill()?;
            self.kills.broker += 1;
            thread::sleep(Duration::from_millis(self.chance.below(1000)));
            return self.broker.start();
        }
        let at = self.chance.below(self.clients.len() as u64) as usize;
        let mut client = self.clients.swap_remove(at);
        client.check(&self.run)?;
        let kind = client.kind;
        let until = Instant::now() + Duration::from_millis(self.chance.between(ZOMBIE_MS));
        match self.chance.below(4) {
            0 | 1 => {
                kill(&mut client.child)?;
                self.kills.clients += 1;
            }
            // It fences its successor as often as that fences it.
            2 => self.zombies.push(Zombie { client, until, is_stopped: false }),
            _ => {
                client.signal("-STOP")?;
                self.zombies.push(Zombie { client, until, is_stopped: true });
            }
        }
        self.start(kind)
    }

    /// Zombies whose time has come go on, or are killed.
    fn bury(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        for mut zombie in std::mem::take(&mut self.zombies) {
            zombie.client.check(&self.run)?;
            match (zombie.until <= now, zombie.is_stopped) {
                (false, _) => self.zombies.push(zombie),
                (true, true) => {
                    zombie.client.signal("-CONT")?;
                    self.kills.stopped += 1;
                    let until = now + Duration::from_millis(self.chance.between(ZOMBIE_MS));
                    self.zombies.push(Zombie { until, is_stopped: false, ..zombie });
                }
                (true, false) => {
                    kill(&mut zombie.client.child)?;
                    self.kills.clients += 1;
                    self.kills.zombies += 1;
                }
            }
        }
        Ok(())
    }

    /// All are killed, the broker last; and one reads everything.
    fn end(&mut self) -> anyhow::Result<()> {
        for client in &mut self.clients {
            client.check(&self.run)?;
            self.kills.clients += 1;
        }
        self.clients.clear();
        self.kills.clients += self.zombies.len() as u64;
        self.zombies.clear();
        self.broker.kill()?;
        self.kills.broker += 1;
        self.broker.start()?;
        let history = self.run.join("final.jsonl");
        let history = history.to_str().context("a path that is no text")?;
        let mut reader = self.programs.java(&["final", &self.broker.bootstrap(), "final", history]);
        succeed(&mut reader).context("not everything can be read: does a transaction hang?")?;
        self.broker.kill()
    }

    /// All histories as one. A line that its client did not finish is none.
    fn collect(&self) -> anyhow::Result<PathBuf> {
        let history = self.run.join("history.jsonl");
        let file = File::create(&history).with_context(|| format!("creating {}", history.display()))?;
        let mut all = BufWriter::new(file);
        let mut names = (1..=self.started)
            .flat_map(|number| CLIENTS.map(|kind| format!("{}.{number}", kind.name())))
            .chain(["final".to_owned()]);
        names.try_for_each(|name| {
            let Ok(file) = File::open(self.run.join(format!("{name}.jsonl"))) else { return Ok(()) };
            let (mut lines, mut line) = (BufReader::new(file), Vec::new());
            while lines.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
                all.write_all(&line)?;
                line.clear();
            }
            Ok::<_, std::io::Error>(())
        })?;
        all.flush().context("writing the history")?;
        Ok(history)
    }
}
