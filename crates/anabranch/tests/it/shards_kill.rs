//! Several processes share a flow's parts, and are killed and held up while its input comes. The output is that of one pass:
//! each record of it once where the engine has transactions; and where it has none, the newest for each key.
//!
//! On the embedded engine by its own Kafka door; on Apache Kafka at `ANABRANCH_KAFKA=HOST:PORT`; on NATS at
//! `ANABRANCH_NATS=HOST:PORT`. `ANABRANCH_KILL_ROUNDS` is how often somebody is killed or held up.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anabranch::core::batch::RecordAt;
use anabranch::core::seam::SystemClock;
use anabranch::engine::{self, AppendOptions, TopicSpec, for_each_record};
use anabranch::flow::{
    Aggregate, Count, Definition, Disorder, Flow, Guarantee, Late, Runner, Status, Sum, Tumbling, Undecodable,
};
use anabranch::{Engine, EngineError, Record, TopicPartition};
use rustix::process::{Pid, Signal, kill_process};

use crate::flow_kill::{dice, runtime};
use crate::harness::Server;
use crate::kill9::{Dice, from_environment};

const URL: &str = "ANABRANCH_TEST_SHARDS_URL";
const NAME: &str = "ANABRANCH_TEST_SHARDS_NAME";
const STATE: &str = "ANABRANCH_TEST_SHARDS_STATE";
/// Asks for a run to the end of the input, without a runner.
const TO_THE_END: &str = "ANABRANCH_TEST_SHARDS_END";
const PROCESSES: usize = 3;
const SHARDS: i32 = 6;
const PARTITIONS: i32 = 3;
const KEYS: i64 = 50;
const WINDOW_MS: i64 = 100;
/// Many small commits, so that there is always one to die in.
const COMMIT_RECORDS: u64 = 40;
const COMMIT_INTERVAL: Duration = Duration::from_millis(200);
/// Numbers that are sent at once, to one partition, and how long after those before.
const SENT_AT_ONCE: i64 = 10;
const PACE: Duration = Duration::from_millis(40);
/// Longer than any takeover.
const PATIENCE: Duration = Duration::from_secs(90);

fn number(at: &RecordAt) -> Result<i64, std::num::ParseIntError> {
    std::str::from_utf8(at.record.value.as_deref().unwrap_or_default()).unwrap_or_default().parse()
}

fn input(name: &str) -> String {
    format!("{name}-numbers")
}

fn late(name: &str) -> String {
    format!("{name}-late")
}

fn output(name: &str) -> String {
    format!("{name}-sums")
}

/// Each number is its own time and amount.
fn sums(name: &str) -> Definition<i64, i64, impl Aggregate<i64, Output = (u64, i64)>> {
    Flow::named(name)
        .source([input(name)])
        .decode(number, Undecodable::Fail)
        .event_time(|number| *number, Disorder::bounded(Duration::ZERO))
        .key_by(|number| number % KEYS)
        .window(Tumbling::of(Duration::from_millis(WINDOW_MS as u64)), Late::ToTopic(late(name)))
        .aggregate((Count, Sum::of(|number: &i64| *number)))
        .sink(output(name), |key, window, (count, sum)| {
            Record::new(format!("{key}/{}", window.start_ms), format!("{count}/{sum}"))
        })
        .shards(SHARDS)
        .or_at_least_once()
        .commit_every(COMMIT_RECORDS, COMMIT_INTERVAL)
}

/// What one pass over the numbers below `end` comes to.
fn one_pass(end: i64) -> BTreeMap<String, String> {
    let mut sums: BTreeMap<(i64, i64), (u64, i64)> = BTreeMap::new();
    for number in 0..end {
        let sum = sums.entry((number % KEYS, number / WINDOW_MS * WINDOW_MS)).or_default();
        *sum = (sum.0 + 1, sum.1 + number);
    }
    let row = |((key, start), (count, sum))| (format!("{key}/{start}"), format!("{count}/{sum}"));
    sums.into_iter().map(row).collect()
}

/// Not a test of its own: a process that shares the flow.
#[test]
fn shards_process() {
    let (Ok(url), Ok(name), Some(state)) = (std::env::var(URL), std::env::var(NAME), std::env::var_os(STATE))
    else {
        return;
    };
    runtime().block_on(async {
        let engine = engine::open(&url, &[]).await.unwrap();
        let clock = Arc::new(SystemClock::new());
        if std::env::var_os(TO_THE_END).is_some() {
            let flow = sums(&name).open(engine, Path::new(&state), clock).await.unwrap();
            let end = flow.run_until_end().await.unwrap();
            println!("done {} late {}", end.counts.records_in, end.counts.late_sent);
            return;
        }
        let runner = Runner::new(engine, Path::new(&state), clock, || sums(&name));
        let mut status = runner.status();
        tokio::spawn(async move {
            loop {
                let running = |status: &Status| matches!(status, Status::Running(_));
                let Ok(Status::Running(metrics)) = status.wait_for(running).await.map(|now| now.clone())
                else {
                    return;
                };
                let parts: Vec<_> =
                    metrics.snapshot().lag.iter().map(|(input, _)| input.to_string()).collect();
                println!("running {}", parts.join(" "));
                let _ = status.changed().await;
            }
        });
        println!("ended: {:?}", runner.run(std::future::pending()).await);
    });
}

/// Where a flow runs.
struct Ground {
    url: String,
    guarantee: Guarantee,
    /// A member that was not heard of for so long is dead.
    session: Duration,
}

/// The flow's processes.
struct Processes<'a> {
    ground: &'a Ground,
    name: &'a str,
    home: &'a Path,
    tell: mpsc::Sender<(usize, String)>,
    /// By number, each with who passes on what it says.
    children: BTreeMap<usize, (Child, JoinHandle<()>)>,
}

impl Processes<'_> {
    fn command(&self, state: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "shards_kill::shards_process", "--nocapture"])
            .env(URL, &self.ground.url)
            .env(NAME, self.name)
            .env(STATE, self.home.join(state))
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        command
    }

    fn start(&mut self, number: usize) {
        let mut child = self.command(&format!("state-{number}")).spawn().unwrap();
        let (lines, tell) = (BufReader::new(child.stdout.take().unwrap()).lines(), self.tell.clone());
        let passes_on = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = tell.send((number, line));
            }
        });
        self.children.insert(number, (child, passes_on));
    }

    fn signal(&self, number: usize, signal: Signal) {
        kill_process(Pid::from_child(&self.children[&number].0), signal).unwrap();
    }

    /// The next one of its name has its local state, or none.
    fn restart(&mut self, number: usize, dice: &mut Dice) {
        if dice.below(2) == 0 {
            std::fs::remove_dir_all(self.home.join(format!("state-{number}"))).ok();
        }
        self.start(number);
    }

    /// Nothing more comes from it.
    fn kill(&mut self, number: usize) {
        let (mut child, passes_on) = self.children.remove(&number).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        passes_on.join().unwrap();
    }
}

/// What the processes have said.
struct Said<'a> {
    name: &'a str,
    told: mpsc::Receiver<(usize, String)>,
    /// Who had which part at some time.
    shared: BTreeSet<(usize, String)>,
    /// Who runs parts, as far as is known.
    working: BTreeSet<usize>,
    began: Instant,
    /// All of it, and what was done to them.
    lines: Vec<String>,
}

impl<'a> Said<'a> {
    fn of(name: &'a str, told: mpsc::Receiver<(usize, String)>) -> Self {
        let (shared, working, lines) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        Self { name, told, shared, working, began: Instant::now(), lines }
    }

    fn note(&mut self, number: usize, what: &str) {
        self.lines.push(format!("{:?} {number}: {what}", self.began.elapsed()));
    }

    /// Whether it says that it runs parts.
    fn hear(&mut self, (number, line): (usize, String)) -> bool {
        self.note(number, &line);
        assert!(!line.starts_with("ended"), "process {number}: {line}");
        // The test harness may have begun the line.
        let parts = line.split_once("running ").map(|(_, parts)| parts);
        let Some(parts) = parts.filter(|parts| parts.contains(self.name)) else { return false };
        self.shared.extend(parts.split(' ').map(|part| (number, part.to_owned())));
        self.working.insert(number);
        true
    }

    fn hear_what_came(&mut self) {
        while let Ok(said) = self.told.try_recv() {
            self.hear(said);
        }
    }

    /// Until one of them runs parts that it did not, and is not the one that is held up.
    fn wait(&mut self, held_up: Option<usize>) {
        let until = Instant::now() + PATIENCE;
        loop {
            let Ok(said) = self.told.recv_timeout(until.saturating_duration_since(Instant::now())) else {
                panic!("nobody takes over in time: {:#?}", self.lines);
            };
            let number = said.0;
            if self.hear(said) && held_up != Some(number) {
                return;
            }
        }
    }
}

/// Sends numbers until told to stop, and tells how many there are.
async fn feed(engine: &dyn Engine, name: &str, stop: &AtomicBool) -> i64 {
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        for partition in 0..PARTITIONS {
            let numbers =
                (0..SENT_AT_ONCE).map(|at| next + at * i64::from(PARTITIONS) + i64::from(partition));
            let records: Vec<_> = numbers.map(|number| Record::keyless(number.to_string())).collect();
            let to = TopicPartition::new(input(name), partition);
            engine.append(&to, records.into(), AppendOptions::default()).await.unwrap();
        }
        next += SENT_AT_ONCE * i64::from(PARTITIONS);
        tokio::time::sleep(PACE).await;
    }
    next
}

/// Every committed record of a topic, by key; in the order of the partitions, so that the newest of a key comes last.
async fn rows_of(engine: &dyn Engine, topic: &str) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let text = |bytes: Option<bytes::Bytes>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
    let collect = |RecordAt { record, .. }| {
        rows.push((text(record.key), text(record.value)));
        Ok::<_, EngineError>(())
    };
    for_each_record(engine, topic, collect).await.unwrap();
    rows
}

fn check(ground: &Ground) {
    let kills = from_environment("ANABRANCH_KILL_ROUNDS", 3);
    let mut dice = dice();
    let name = format!("shards{}", dice.below(1 << 40));
    let home = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let engine = runtime.block_on(engine::open(&ground.url, &[])).unwrap();
    for topic in [input(&name), output(&name), late(&name)] {
        runtime.block_on(engine.ensure_topic(&TopicSpec::new(topic, PARTITIONS))).unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let fed = runtime.spawn({
        let (engine, name, stop) = (Arc::clone(&engine), name.clone(), Arc::clone(&stop));
        async move { feed(&*engine, &name, &stop).await }
    });
    let (tell, told) = mpsc::channel();
    let mut processes = Processes { ground, name: &name, home: home.path(), tell, children: BTreeMap::new() };
    (0..PROCESSES).for_each(|number| processes.start(number));
    let mut said = Said::of(&name, told);
    let (mut killed, mut halted) = (0, 0);
    said.wait(None);
    for round in 0..kills {
        std::thread::sleep(Duration::from_millis(dice.below(1500))); // the moment of death is the input of this test
        said.hear_what_came();
        // Both happen, however few there are.
        if round == 1 || round > 1 && dice.below(3) == 0 {
            // From whoever has nothing, nobody takes over.
            let number = *said.working.iter().nth(dice.below(said.working.len() as u64) as usize).unwrap();
            processes.signal(number, Signal::STOP);
            said.note(number, "held up");
            // Held up for longer than its session: others have its parts when it goes on, and believes that it has them.
            std::thread::sleep(ground.session + Duration::from_millis(dice.below(1000)));
            said.wait(Some(number));
            said.note(number, "goes on");
            said.working.remove(&number);
            processes.signal(number, Signal::CONT);
            halted += 1;
        } else {
            let number = dice.below(PROCESSES as u64) as usize;
            processes.kill(number);
            said.hear_what_came();
            said.note(number, "killed");
            said.working.remove(&number);
            processes.restart(number, &mut dice);
            said.wait(None);
            killed += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let numbers = runtime.block_on(fed).unwrap();
    (0..PROCESSES).for_each(|number| processes.kill(number));
    let mut last = processes.command("state-end");
    let mut last = last.env(TO_THE_END, "1").spawn().unwrap();
    let mut told = String::new();
    last.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(last.wait().unwrap().success(), "{told}");
    assert!(told.contains(&format!("done {numbers} late 0")), "{numbers} numbers: {told}");

    let (rows, late) = runtime
        .block_on(async { (rows_of(&*engine, &output(&name)).await, rows_of(&*engine, &late(&name)).await) });
    let (count, table): (usize, BTreeMap<_, _>) = (rows.len(), rows.into_iter().collect());
    let expected = one_pass(numbers);
    let processes: BTreeSet<_> = said.shared.iter().map(|(number, _)| number).collect();
    println!(
        "{numbers} numbers, {killed} killed, {halted} held up; {} results, {} more than once; parts seen in {} processes",
        table.len(),
        count - table.len(),
        processes.len(),
    );
    assert_eq!(late.len(), 0, "nothing is late here");
    let wrong: Vec<_> = expected.iter().filter(|(key, value)| table.get(*key) != Some(value)).collect();
    let wrong: Vec<_> = wrong.iter().map(|(key, value)| (key, value, table.get(*key))).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} are wrong: {:?}",
        wrong.len(),
        expected.len(),
        &wrong[..wrong.len().min(10)]
    );
    assert_eq!(table.len(), expected.len());
    if ground.guarantee == Guarantee::ExactlyOnce {
        assert_eq!(count, table.len(), "each result is there once");
    }
    assert!(processes.len() > 1, "the flow was shared: {:?}", said.shared);
    runtime.block_on(engine.close());
}

fn at_kafka(address: &str, session: Duration) -> Ground {
    let session_ms = session.as_millis();
    let url =
        format!("kafka://{address}?session.timeout.ms={session_ms}&heartbeat.interval.ms={}", session_ms / 5);
    Ground { url, guarantee: Guarantee::ExactlyOnce, session }
}

#[test]
fn a_shared_flow_survives_its_processes_on_the_embedded_engine() {
    let home = tempfile::tempdir().unwrap();
    let server =
        Server::start_at(home.path(), "127.0.0.1:0", &["--set", "group.min.session.timeout.ms=1000"]);
    check(&at_kafka(&server.kafka, Duration::from_millis(1500)));
    server.stop();
}

#[test]
fn a_shared_flow_survives_its_processes_on_kafka() {
    match std::env::var("ANABRANCH_KAFKA") {
        Ok(address) => check(&at_kafka(&address, Duration::from_secs(6))),
        Err(_) => eprintln!("skipped: no ANABRANCH_KAFKA"),
    }
}

#[test]
fn a_shared_flow_survives_its_processes_on_nats() {
    let Ok(address) = std::env::var("ANABRANCH_NATS") else {
        eprintln!("skipped: no ANABRANCH_NATS");
        return;
    };
    let session = Duration::from_secs(2);
    let url = format!("nats://{address}?session_timeout_ms={}", session.as_millis());
    check(&Ground { url, guarantee: Guarantee::AtLeastOnce, session });
}
