//! Runs a seeded simulation, and says how to replay a seed that fails.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs all of `seeds`, or the one that `variable` names in the environment. Each run counts what it came to; fewer than
/// `enough_each` of them per seed mean that the simulation comes to nothing. `test` is what `cargo test` finds it by.
pub(crate) fn run(
    seeds: Range<u64>,
    variable: &str,
    test: &str,
    enough_each: usize,
    simulation: impl Fn(u64) -> usize,
) {
    let seeds = match std::env::var(variable) {
        Ok(seed) => vec![seed.parse().expect("a seed is a number")],
        Err(_) => seeds.collect::<Vec<_>>(),
    };
    let enough = enough_each * seeds.len();
    let mut count = 0;
    for seed in seeds {
        let run = catch_unwind(AssertUnwindSafe(|| simulation(seed)));
        count += run.unwrap_or_else(|panic| {
            eprintln!("seed {seed} fails; replay: {variable}={seed} cargo test -p anabranch-broker {test}");
            resume_unwind(panic);
        });
    }
    assert!(count > enough, "{count} in all: the simulation comes to nothing");
}
