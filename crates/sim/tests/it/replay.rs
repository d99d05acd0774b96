//! What a seed does, it does again.

use anabranch_sim::run;

#[test]
fn a_seed_does_the_same_twice_and_another_does_not() {
    let first: Vec<_> = (100..120).map(|seed| run(seed, false)).collect();
    let second: Vec<_> = (100..120).map(|seed| run(seed, false)).collect();
    assert_eq!(first, second);
    let mut hashes: Vec<u64> = first.iter().map(|outcome| outcome.hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), first.len());
}

/// Threads run seeds side by side: what the process shares must not tell one from the other.
#[test]
fn a_seed_does_the_same_on_any_thread() {
    let here = run(7, false);
    let there = std::thread::scope(|scope| {
        let other = scope.spawn(|| run(8, false));
        let same = scope.spawn(|| run(7, false));
        other.join().unwrap();
        same.join().unwrap()
    });
    assert_eq!(here, there);
}

#[test]
fn some_seeds_run_clean() {
    for seed in 0..50 {
        let outcome = run(seed, false);
        assert_eq!(
            outcome.failure,
            None,
            "again: cargo xtask sim --seed {seed}\n{}",
            outcome.tail.join("\n")
        );
    }
}
