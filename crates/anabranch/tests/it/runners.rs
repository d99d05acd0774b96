//! Several processes stand ready for one flow. Whoever runs it is killed, or held up; the output is that of one pass.

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anabranch::core::seam::SystemClock;
use anabranch::flow::{Runner, Snapshot, Status};
use anabranch::{Broker, Engine};
use anabranch_engine_kafka::{KafkaEngine, KafkaSettings};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

use crate::flow_kill::{Work, check, dice, fill, finish, runtime};
use crate::harness::Server;
use crate::kill9::{from_environment, quiet_port};

const STATE: &str = "ANABRANCH_TEST_RUNNER_STATE";
const SERVER: &str = "ANABRANCH_TEST_RUNNER_SERVER";
/// Asks for a run to the end of the input, without a runner.
const TO_THE_END: &str = "ANABRANCH_TEST_RUNNER_END";
/// Many small commits, so that there is always one to die in.
const WORK: Work = Work { records_per_partition: 4000, commit_records: 20, commit_ms: 1000, window_ms: 100 };
/// A dead member is missed soon.
const SESSION_MS: &str = "1500";
const PROCESSES: usize = 3;
/// Longer than any takeover.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test of its own: a process that stands ready for the flow.
#[test]
fn runner_process() {
    let (Some(addr), Some(state)) = (std::env::var_os(SERVER), std::env::var_os(STATE)) else { return };
    let settings = KafkaSettings::new(addr.to_str().unwrap())
        .property("session.timeout.ms", SESSION_MS)
        .property("heartbeat.interval.ms", "300");
    runtime().block_on(async {
        let engine = Arc::new(KafkaEngine::open(settings, &[]).await.unwrap());
        let clock = Arc::new(SystemClock::new());
        if std::env::var_os(TO_THE_END).is_some() {
            let end = WORK.flow().open(engine, Path::new(&state), clock).await.unwrap().run_until_end().await;
            println!("done {}", end.unwrap().counts.records_in);
            return;
        }
        let runner = Runner::new(engine, Path::new(&state), clock, || WORK.flow());
        let mut status = runner.status();
        tokio::spawn(async move {
            while status.wait_for(|status| matches!(status, Status::Running(_))).await.is_ok() {
                println!("running");
                let _ = status.wait_for(|status| matches!(status, Status::Waiting)).await;
            }
        });
        println!("ended: {:?}", runner.run(std::future::pending()).await);
    });
}

fn signal(children: &[Child], number: usize, signal: Signal) {
    kill_process(Pid::from_child(&children[number]), signal).unwrap();
}

fn start(server: &Server, state: &Path, to_the_end: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "runners::runner_process", "--nocapture"])
        .env(SERVER, &server.kafka)
        .env(STATE, state)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    if to_the_end {
        command.env(TO_THE_END, "1");
    }
    command.spawn().unwrap()
}

#[test]
fn another_process_goes_on_when_the_one_that_runs_is_killed() {
    let kills = from_environment("ANABRANCH_KILL_ROUNDS", 5);
    let mut dice = dice();
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    runtime().block_on(fill(&data, WORK));
    let server = Server::start_at(&data, "127.0.0.1:0", &["--set", "group.min.session.timeout.ms=1000"]);
    let (tell, told) = mpsc::channel();
    let begin = |number: usize| {
        let mut child = start(&server, &home.path().join(format!("state-{number}")), false);
        let (lines, tell) = (BufReader::new(child.stdout.take().unwrap()).lines(), tell.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = tell.send((number, line));
            }
        });
        child
    };
    let mut children: Vec<_> = (0..PROCESSES).map(begin).collect();
    let (mut killed, mut runners, mut halted) = (0, Vec::new(), None);
    while killed < kills {
        let (number, line) = told.recv_timeout(PATIENCE).expect("one of them runs the flow in time");
        assert!(!line.starts_with("ended"), "{line}");
        if !line.contains("running") {
            continue;
        }
        runners.push(number);
        // Whoever was held up goes on, and believes that it runs the flow.
        if let Some(halted) = halted.take() {
            signal(&children, halted, Signal::CONT);
        }
        std::thread::sleep(Duration::from_millis(dice.below(300))); // the moment of death is the input of this test
        killed += 1;
        if dice.below(3) == 0 {
            signal(&children, number, Signal::STOP);
            halted = Some(number);
            continue;
        }
        children[number].kill().unwrap();
        children[number].wait().unwrap();
        // The next one of its name has its local state, or none.
        if dice.below(2) == 0 {
            std::fs::remove_dir_all(home.path().join(format!("state-{number}"))).ok();
        }
        children[number] = begin(number);
    }
    println!("run by {runners:?}");
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (status, _) = finish(start(&server, &home.path().join("state-end"), true));
    assert!(status.success(), "it goes on to the end");
    server.stop();
    check(&data, WORK);
}

/// How far the flow is that runs.
fn running(status: &Status) -> Option<Snapshot> {
    match status {
        Status::Running(metrics) => Some(metrics.snapshot()),
        Status::Waiting | Status::Restoring => None,
    }
}

/// It is other tasks, and other processes, that are waited for.
async fn until(condition: &dyn Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await; // nothing tells of each commit
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

/// It is gone for longer than a request waits: when the runner begins, and hears so, and in the middle of its work.
#[test]
fn a_runner_goes_on_when_its_server_is_back() {
    let work = Work { records_per_partition: 600, ..WORK };
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    runtime().block_on(fill(&data, work));
    let more = ["--set", "group.min.session.timeout.ms=1000"];
    let address = quiet_port(&mut dice());
    let mut server = Server::start_at(&data, &address, &more);
    let settings = KafkaSettings::new(&address)
        .property("session.timeout.ms", SESSION_MS)
        .property("heartbeat.interval.ms", "300")
        .request_timeout(Duration::from_secs(1));
    runtime().block_on(async {
        let engine = Arc::new(KafkaEngine::open(settings, &[]).await.unwrap());
        server.kill();
        let runner =
            Runner::new(engine, home.path().join("state"), Arc::new(SystemClock::new()), move || work.flow());
        let (stop, stopped) = oneshot::channel::<()>();
        let status = runner.status();
        let run = tokio::spawn(runner.run(async {
            let _ = stopped.await;
        }));
        let commits = || running(&status.borrow()).map_or(0, |now| now.commits);
        let mut before = 0;
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(4)).await; // the outage is the input of this test
            server = Server::start_at(&data, &address, &more);
            until(&|| commits() > 3 && commits() != before).await;
            before = commits();
            server.kill();
        }
        server = Server::start_at(&data, &address, &more);
        until(&|| {
            assert!(!run.is_finished());
            running(&status.borrow()).is_some_and(|now| now.lag.iter().all(|(_, lag)| *lag == 0))
        })
        .await;
        drop(stop);
        tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap().unwrap();
    });
    let (status, _) = finish(start(&server, &home.path().join("state-end"), true));
    assert!(status.success(), "it goes on to the end");
    server.stop();
    check(&data, work);
}

#[test]
fn a_runner_that_leaves_hands_over_at_once() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        fill(home.path(), WORK).await;
        let broker = Broker::open(home.path()).await.unwrap();
        let engine: Arc<dyn Engine> = Arc::new(broker.clone());
        let begin = |state: &str| {
            let (stop, stopped) = oneshot::channel::<()>();
            let state = home.path().join(state);
            let runner =
                Runner::new(Arc::clone(&engine), state, Arc::new(SystemClock::new()), || WORK.flow());
            let status = runner.status();
            let run = runner.run(async {
                let _ = stopped.await;
            });
            (stop, status, tokio::spawn(run))
        };
        let is_running = |status: &Status| matches!(status, Status::Running(_));
        let (stop, mut status, first) = begin("first");
        tokio::time::timeout(PATIENCE, status.wait_for(is_running)).await.unwrap().unwrap();
        let (stop_other, mut other, second) = begin("second");
        // Both join the next generation, and one of them goes on.
        drop(stop);
        tokio::time::timeout(PATIENCE, first).await.unwrap().unwrap().unwrap();
        tokio::time::timeout(PATIENCE, other.wait_for(is_running)).await.unwrap().unwrap();
        drop(stop_other);
        tokio::time::timeout(PATIENCE, second).await.unwrap().unwrap().unwrap();
        let end =
            WORK.flow().open(engine, home.path().join("end"), Arc::new(SystemClock::new())).await.unwrap();
        end.run_until_end().await.unwrap();
        broker.close().await;
    });
    check(home.path(), WORK);
}

#[test]
fn whoever_stands_by_takes_over_what_it_has_followed() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        fill(home.path(), WORK).await;
        let broker = Broker::open(home.path()).await.unwrap();
        let engine: Arc<dyn Engine> = Arc::new(broker.clone());
        let begin = |state: &str, stands_by: bool| {
            let (stop, stopped) = oneshot::channel::<()>();
            let clock = Arc::new(SystemClock::new());
            // Windows stay open, so that there is state.
            let flow = || Work { window_ms: 1_000_000, ..WORK }.flow().shards(2);
            let runner = Runner::new(Arc::clone(&engine), home.path().join(state), clock, flow);
            let runner = runner.standby(stands_by);
            let (status, followed) = (runner.status(), runner.followed());
            let run = tokio::spawn(runner.run(async {
                let _ = stopped.await;
            }));
            (stop, status, followed, run)
        };
        let all_is_read = |status: &Status| {
            let records = WORK.records_per_partition as u64 * 3;
            running(status).is_some_and(|now| {
                now.counts.records_in == records && now.lag.iter().all(|(_, lag)| *lag == 0)
            })
        };
        let (stop, status, _, first) = begin("first", false);
        until(&|| all_is_read(&status.borrow())).await;
        // The second has a shard and follows the other, or none and follows both.
        let (stop_second, second_status, followed, second) = begin("second", true);
        until(&|| *followed.borrow() > 20).await;
        // Until it has followed all that there is, of which nobody tells the end.
        let seen = Cell::new((0, Instant::now()));
        until(&|| {
            let (now, (count, since)) = (*followed.borrow(), seen.get());
            if now > count {
                seen.set((now, Instant::now()));
            }
            now == count && since.elapsed() > Duration::from_secs(1)
        })
        .await;
        drop(stop);
        tokio::time::timeout(PATIENCE, first).await.unwrap().unwrap().unwrap();
        until(&|| all_is_read(&second_status.borrow())).await;
        let restored = running(&second_status.borrow()).unwrap().restored;
        drop(stop_second);
        tokio::time::timeout(PATIENCE, second).await.unwrap().unwrap().unwrap();
        let (stop_third, third_status, _, third) = begin("third", false);
        until(&|| all_is_read(&third_status.borrow())).await;
        let cold = running(&third_status.borrow()).unwrap().restored;
        drop(stop_third);
        tokio::time::timeout(PATIENCE, third).await.unwrap().unwrap().unwrap();
        assert!(restored < 20 && cold > 40, "{restored} records with a standby, and {cold} without");
        broker.close().await;
    });
}
