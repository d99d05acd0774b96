//! A flow's process is killed, again and again, on the real broker and the real disk. Its results are those of one pass.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anabranch::core::batch::{RecordAt, split_batches};
use anabranch::core::seam::{Random, SeededRandom, SystemClock};
use anabranch::flow::Disorder;
use anabranch::flow::{Count, Flow, Late, Sum, Tumbling, Undecodable};
use anabranch::{Ack, Apply, Broker, Engine, NewTopic, Place, Record, TopicPartition};
use anabranch_core::engine::ReadLimits;

/// Names the data directory to the process that runs the flow.
const CHILD: &str = "ANABRANCH_TEST_FLOW_DATA";
const PARTITIONS: i32 = 3;
const RECORDS_PER_PARTITION: i64 = 20_000;
const KEYS: i64 = 50;
const WINDOW: Duration = Duration::from_secs(1);
const KILLS_MIN: u32 = 5;
const KILLS_MAX: u32 = 60;

/// The numbers of a partition: each is its own time, key and amount.
fn numbers(partition: i32) -> impl Iterator<Item = i64> {
    (0..RECORDS_PER_PARTITION).map(move |at| at * i64::from(PARTITIONS) + i64::from(partition))
}

fn number(at: &RecordAt) -> Result<i64, std::num::ParseIntError> {
    std::str::from_utf8(at.record.value.as_deref().unwrap_or_default()).unwrap_or_default().parse()
}

/// Not a test of its own: the process that the test below starts, and kills.
#[test]
fn flow_process() {
    let Some(root) = std::env::var_os(CHILD) else { return };
    runtime().block_on(async {
        let broker = Broker::open(&root).await.unwrap();
        println!("running");
        let flow = Flow::named("sums")
            .source(["numbers"])
            .decode(number, Undecodable::Fail)
            .event_time(|number| *number, Disorder::bounded(Duration::ZERO))
            .key_by(|number| number % KEYS)
            .window(Tumbling::of(WINDOW), Late::ToTopic("numbers-late".to_owned()))
            .aggregate((Count, Sum::of(|number: &i64| *number)))
            .sink("sums", |key, window, (count, sum)| {
                Record::new(format!("{key}/{}", window.start_ms), format!("{count}/{sum}"))
            })
            .emit_early()
            .commit_every(500, Duration::from_millis(5));
        let state = Path::new(&root).join("flow");
        let open = flow.open(Arc::new(broker.clone()), state, Arc::new(SystemClock::new())).await.unwrap();
        open.run_until_end().await.unwrap();
        broker.close().await;
    });
}

#[test]
fn a_flow_that_is_killed_loses_nothing_and_counts_nothing_twice() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(fill(home.path()));
    let seed = std::env::var("ANABRANCH_KILL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("ANABRANCH_KILL_SEED={seed}");
    let random = SeededRandom::new(seed);
    let mut kills = 0;
    loop {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "flow_kill::flow_process", "--nocapture"])
            .env(CHILD, home.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until_running(&mut child);
        // A moment of its life, later every time, so that it gets to its end.
        let moment = Duration::from_millis(random.next_u64() % 100 + u64::from(kills) * 15);
        let done = (0..moment.as_millis()).any(|_| {
            std::thread::sleep(Duration::from_millis(1)); // the moment of death is the input of this test
            child.try_wait().unwrap().is_some()
        });
        if done || kills == KILLS_MAX {
            assert!(child.wait().unwrap().success(), "the flow failed after {kills} kills");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    println!("{kills} kills");
    assert!(kills >= KILLS_MIN, "the flow was done after {kills} kills: it must have more to do");
    assert_eq!(runtime().block_on(results(home.path())), one_pass());
}

fn wait_until_running(child: &mut std::process::Child) {
    use std::io::{BufRead, BufReader};
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(
        lines.map_while(Result::ok).any(|line| line.contains("running")),
        "the process did not open the broker"
    );
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn fill(root: &Path) {
    let broker = Broker::open(root).await.unwrap();
    let topic =
        broker.create_topic(NewTopic::new("numbers").partitions(PARTITIONS), Apply::Now).await.unwrap();
    for partition in 0..PARTITIONS {
        let records: Vec<Record> =
            numbers(partition).map(|number| Record::keyless(number.to_string())).collect();
        for chunk in records.chunks(1000) {
            topic.append_batch(partition, chunk.to_vec(), Ack::Written).await.unwrap();
        }
    }
    broker.close().await;
}

/// Upserts by key, as a reader of the sink sees them.
async fn results(root: &Path) -> BTreeMap<String, String> {
    let broker = Broker::open(root).await.unwrap();
    let mut results = BTreeMap::new();
    let late = broker.partition_count("numbers-late").await.unwrap();
    for partition in 0..late {
        let partition = TopicPartition::new("numbers-late", partition);
        let latest = broker.locate(&partition, Place::Latest).await.unwrap();
        assert_eq!(latest.0, 0, "nothing is late here");
    }
    for partition in 0..broker.partition_count("sums").await.unwrap() {
        let partition = TopicPartition::new("sums", partition);
        let mut position = broker.locate(&partition, Place::Earliest).await.unwrap();
        let end = broker.locate(&partition, Place::Latest).await.unwrap();
        while position < end {
            let fetched = broker.read(&partition, position, ReadLimits::default()).await.unwrap();
            for at in split_batches(fetched.batches).flat_map(|batch| batch.unwrap().records().unwrap()) {
                let text = |bytes: Option<_>| {
                    String::from_utf8(bytes.map(|b: bytes::Bytes| b.to_vec()).unwrap()).unwrap()
                };
                results.insert(text(at.record.key), text(at.record.value));
            }
            position = fetched.next;
        }
    }
    broker.close().await;
    results
}

fn one_pass() -> BTreeMap<String, String> {
    let mut sums: BTreeMap<(i64, i64), (u64, i64)> = BTreeMap::new();
    for number in (0..PARTITIONS).flat_map(numbers) {
        let window_ms = WINDOW.as_millis() as i64;
        let sum = sums.entry((number % KEYS, number / window_ms * window_ms)).or_default();
        *sum = (sum.0 + 1, sum.1 + number);
    }
    sums.into_iter()
        .map(|((key, start), (count, sum))| (format!("{key}/{start}"), format!("{count}/{sum}")))
        .collect()
}
