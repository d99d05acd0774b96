//! Random cases on Anabranch and on Apache Kafka. What to do is told by the environment, and mostly by `cargo xtask diff`:
//!
//! * `ANABRANCH_DIFF_OURS` and `ANABRANCH_DIFF_KAFKA`: where they listen (`127.0.0.1:9092`). Without both nothing is compared.
//! * `ANABRANCH_DIFF_CASES`: how many cases, 32 without.
//! * `ANABRANCH_DIFF_SEED`: which ones, 0 without.
//! * `ANABRANCH_DIFF_MIGRATION`: cases in which a group goes from one protocol to the other, and no others. Both sides allow it.
//! * `ANABRANCH_DIFF_SURVEY`: does not stop at the first difference, nor shrinks it, but counts them by kind.

#![allow(clippy::unwrap_used)]

mod patterns;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;

use anabranch_diff::bad;
use anabranch_diff::coverage::Coverage;
use anabranch_diff::run::{Difference, Servers, prepare, run};
use anabranch_diff::step::{Step, case, migration};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

fn told<T: FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} reads {value:?}")))
}

fn shown(steps: &[Step]) -> String {
    let mut shown = String::new();
    for (at, step) in steps.iter().enumerate() {
        writeln!(shown, "  {}: {step:?}", at + 1).unwrap();
    }
    shown
}

/// What Kafka does about bad input is what is written; `UPDATE_BAD_INPUT=1` writes it anew.
#[test]
fn kafka_takes_bad_input_as_is_written() {
    let Some(kafka) = told("ANABRANCH_DIFF_KAFKA") else {
        return println!("skipped: `cargo xtask diff` starts the Kafka that is asked");
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let found = runtime.block_on(bad::outcomes(kafka));
    if told::<u8>("UPDATE_BAD_INPUT").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/bad_input.txt");
        std::fs::write(path, bad::written(&found)).unwrap();
        return;
    }
    let differing = bad::differing(&bad::read(bad::KAFKA), &found);
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n"));
}

#[test]
fn both_answer_alike() {
    let (Some(ours), Some(kafka)) = (told("ANABRANCH_DIFF_OURS"), told("ANABRANCH_DIFF_KAFKA")) else {
        return println!("skipped: `cargo xtask diff` starts the two that are compared");
    };
    let servers = Servers { ours, kafka };
    let case = if told::<u8>("ANABRANCH_DIFF_MIGRATION").is_some() { migration::case } else { case };
    let cases = told("ANABRANCH_DIFF_CASES").unwrap_or(32);
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&told::<u64>("ANABRANCH_DIFF_SEED").unwrap_or(0).to_le_bytes());
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 400,
        max_shrink_time: 120_000,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(prepare(servers));
    let coverage = RefCell::new(Coverage::default());
    if told::<u8>("ANABRANCH_DIFF_SURVEY").is_some() {
        let mut found: BTreeMap<String, (u32, Vec<Step>, Box<Difference>)> = BTreeMap::new();
        for _ in 0..cases {
            let steps = case().new_tree(&mut runner).unwrap().current();
            if let Err(difference) = runtime.block_on(run(servers, &steps, &mut coverage.borrow_mut())) {
                let steps = steps[..difference.number].to_vec();
                let kind = difference.kind();
                let known = found.entry(kind).or_insert((0, steps.clone(), difference.clone()));
                known.0 += 1;
                if steps.len() < known.1.len() {
                    (known.1, known.2) = (steps, difference);
                }
            }
        }
        println!("{}", coverage.borrow());
        for (kind, (count, steps, difference)) in &found {
            println!("=== {count} times {kind}\n{difference}\nafter\n{}", shown(steps));
        }
        assert!(found.is_empty(), "{} kinds of differences", found.len());
        return;
    }
    let failed = RefCell::new(None);
    let outcome = runner.run(&case(), |steps| {
        // What is shrunk is not counted.
        let mut ignored = Coverage::default();
        let mut counted = coverage.borrow_mut();
        let counts = if failed.borrow().is_some() { &mut ignored } else { &mut *counted };
        runtime.block_on(run(servers, &steps, counts)).map_err(|difference| {
            let told = difference.to_string();
            *failed.borrow_mut() = Some(difference);
            TestCaseError::fail(told)
        })
    });
    println!("{}", coverage.borrow());
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, steps)) => {
            panic!("they differ in\n{reason}\nafter\n{}", shown(&steps))
        }
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}
