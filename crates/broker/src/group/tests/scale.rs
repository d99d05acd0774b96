//! No request looks at all members. The times are printed by
//! `cargo test --release -p anabranch-broker --lib scale -- --ignored --nocapture`.

use std::time::Instant;

use super::consumer::TestTopics;
use super::*;
use crate::group::ConsumerHeartbeat;

const FEW: usize = 500;
/// So many times as many members may cost so many times as much for each of them.
const TIMES: usize = 16;
const COST_MAX: f64 = 6.0;

/// How long a request takes, by what it is.
type Costs = Vec<(&'static str, f64)>;

#[test]
#[ignore = "it measures times: in a release build, on a machine that does little else"]
fn a_request_costs_the_same_however_many_members_there_are() {
    for (protocol, run) in [("classic", classic as fn(usize) -> Costs), ("consumer", consumer)] {
        // The best of some, since a machine is never quite alone.
        let best = |members| {
            (0..5).map(|_| run(members)).reduce(|one, other| {
                one.into_iter().zip(other).map(|((what, a), (_, b))| (what, f64::min(a, b))).collect()
            })
        };
        let (few, many) = (best(FEW).unwrap(), best(FEW * TIMES).unwrap());
        for ((what, few), (_, many)) in few.into_iter().zip(many) {
            eprintln!("{protocol} {what}: {few:.2} µs of {FEW} members, {many:.2} µs of {}", FEW * TIMES);
            assert!(many < few * COST_MAX, "{protocol} {what}");
        }
    }
}

/// Of each of so many.
fn timed(what: &'static str, costs: &mut Costs, count: usize, work: impl FnOnce()) {
    let begin = Instant::now();
    work();
    costs.push((what, begin.elapsed().as_secs_f64() * 1e6 / count as f64));
}

fn classic(count: usize) -> Costs {
    let mut driver = Driver::new();
    let mut costs = Costs::new();
    let mut requests = Vec::new();
    // The first is in a generation of its own, and the others wait for it.
    let first = driver.send_join(join("first"));
    let first = driver.joined(first).unwrap();
    timed("join", &mut costs, count, || {
        for _ in 1..count {
            requests.push(driver.send_join(join("c")));
        }
        requests.push(driver.send_join(again(join("first"), &first)));
    });
    let members: Vec<Joined> = requests.into_iter().map(|request| driver.joined(request).unwrap()).collect();
    let mut requests = Vec::new();
    timed("sync", &mut costs, count, || {
        for member in &members {
            requests.push(driver.send_sync(sync(member, &[])));
        }
    });
    for request in requests {
        driver.synced(request).unwrap();
    }
    timed("heartbeat", &mut costs, count, || {
        for member in &members {
            driver.heartbeat(&member.member_id, member.generation).unwrap();
        }
    });
    timed("commit", &mut costs, count, || {
        for member in &members {
            driver.send_commit(commit_by(member, 1));
        }
    });
    costs
}

fn consumer(count: usize) -> Costs {
    let mut driver = Driver::new();
    let topics = TestTopics::of(&[("red", 1000)]);
    let mut costs = Costs::new();
    let send = |driver: &mut Driver, id: usize, epoch: i32| {
        let request = driver.next();
        let joins = epoch == 0;
        let beat = ConsumerHeartbeat {
            group: GROUP.into(),
            member_id: format!("m{id}"),
            chooses_id: true,
            member_epoch: epoch,
            instance_id: None,
            rack_id: None,
            rebalance_timeout_ms: if joins { 60_000 } else { -1 },
            topics: joins.then(|| vec!["red".to_owned()]),
            pattern: None,
            assignor: None,
            owned: joins.then(Vec::new),
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
        };
        let effects = driver.groups.heartbeat_consumer(request, &beat, &topics, driver.now);
        driver.perform(effects);
        match driver.answer(request) {
            Response::Beat(Ok(beat)) => beat.member_epoch,
            other => panic!("{other:?}"),
        }
    };
    let mut epochs = Vec::new();
    timed("join", &mut costs, count, || {
        epochs = (0..count).map(|id| send(&mut driver, id, 0)).collect();
    });
    // The assignor runs with the first of them.
    driver.advance(Duration::from_secs(2));
    timed("heartbeat with a new target", &mut costs, count, || {
        for (id, epoch) in epochs.iter_mut().enumerate() {
            *epoch = send(&mut driver, id, *epoch);
        }
    });
    timed("heartbeat", &mut costs, count, || {
        for (id, epoch) in epochs.iter_mut().enumerate() {
            *epoch = send(&mut driver, id, *epoch);
        }
    });
    costs
}
