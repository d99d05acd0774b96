//! The broker's own code on a disk that lies, a clock that jumps and clients that die, all from one seed.
//!
//! [`run`] lives several lives of a broker. In each, simulated clients ask it for things through its public face, and the
//! disk ([`disk`]) fails as the seed has it; at the end the process dies, or the power goes, or the broker is closed. The
//! next life opens on what the disk kept, and everything is compared with what was acknowledged, and what was shown to
//! readers. The same seed does the same, to the last write: a failure is replayed by its number. Then the seed does the same
//! to transactions in the log alone (`transactions`), and to transactional clients of the whole broker (`exactly_once`).
//!
//! Nothing here is a model of the log, of the broker or of the coordinator: these are the production code. There is one
//! thread, tokio's paused clock for time, and the seams of `anabranch_core` for everything else.
//!
//! ```
//! let outcome = anabranch_sim::run(1, false);
//! assert_eq!(outcome.failure, None);
//! assert_eq!(outcome.hash, anabranch_sim::run(1, false).hash);
//! ```

mod check;
mod clients;
pub mod clock;
pub mod disk;
mod exactly_once;
pub mod history;
mod life;
mod model;
mod plan;
pub mod random;
mod readers;
pub mod trace;
mod transactions;
pub mod workers;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use anabranch_core::seam::SeededRandom;
use parking_lot::Mutex;

use crate::clients::Member;
use crate::clock::SimClock;
use crate::disk::SimDisk;
use crate::life::Run;
use crate::model::World;
use crate::plan::{End, Plan};
use crate::random::Chance;
use crate::trace::Trace;

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// From which seed.
    pub seed: u64,
    /// What went wrong, if anything did.
    pub failure: Option<String>,
    /// The same for every run that did the same.
    pub hash: u64,
    /// The last lines of what happened, after a failure.
    pub tail: Vec<String>,
}

/// Lines that are shown of a failure.
const TAIL_LINES: usize = 60;

thread_local! {
    /// Panics on this thread, also those that a task's handle would swallow.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Runs `seed`; `aloud` prints everything that happens.
#[must_use]
pub fn run(seed: u64, aloud: bool) -> Outcome {
    remember_panics();
    PANICS.take();
    let trace = Trace::new(aloud);
    let outcome = catch_unwind(AssertUnwindSafe(|| run_traced(seed, &trace)));
    let panic = PANICS.take().into_iter().next();
    let failure = match outcome {
        Ok(failure) => panic.or(failure),
        Err(_) => Some(panic.unwrap_or_else(|| "it panicked".to_owned())),
    };
    let tail = if failure.is_some() { trace.tail(TAIL_LINES) } else { Vec::new() };
    Outcome { seed, failure, hash: trace.hash(), tail }
}

fn run_traced(seed: u64, trace: &Trace) -> Option<String> {
    let mut chance = Chance::new(seed);
    let plan = Plan::new(&mut chance);
    trace.note(format_args!("seed {seed}: {plan:?}"));
    let clock = Arc::new(SimClock::new());
    let disk = SimDisk::new(chance.fork(), Arc::clone(&clock), trace.clone());
    let mut world = World::new(trace.clone(), disk.clone(), Arc::clone(&clock));
    world.members = (0..4).map(|at| Member::new(format!("together-{}", at % 2))).collect();
    let world = Arc::new(Mutex::new(world));
    let random = Arc::new(SeededRandom::new(chance.bits()));
    let lives = plan.lives;
    let mut run = Run {
        plan,
        disk,
        clock,
        trace: trace.clone(),
        world: Arc::clone(&world),
        random,
        chance,
        before: End::Clean,
    };
    for life in 0..=lives {
        let (clock, disk) = (Arc::clone(&run.clock), run.disk.clone());
        live(&clock, &disk, run.live(life == lives));
        if world.lock().failure.is_some() || has_panicked() {
            break;
        }
        run.between_lives();
    }
    let failure = world.lock().failure.take();
    match failure.is_none() && !has_panicked() {
        true => transactions::run(Chance::new(seed).fork(), trace)
            .or_else(|| exactly_once::run(Chance::new(!seed).fork(), trace)),
        false => failure,
    }
}

/// Lives one life, in a runtime of its own.
fn live<T>(clock: &SimClock, disk: &SimDisk, life: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        // Clients run on the root, the broker in tasks: each gets its turns while the other has something to do.
        .event_interval(1)
        .build()
        .expect("a runtime without I/O needs nothing");
    let lived = runtime.block_on(async {
        clock.begin();
        let lived = life.await;
        clock.end();
        lived
    });
    // What is left of the life meets a dead disk.
    disk.kill();
    lived
}

/// Whether anything has panicked on this thread.
fn has_panicked() -> bool {
    !PANICS.with_borrow(Vec::is_empty)
}

/// Panics are kept instead of printed, for the thread that runs a seed.
fn remember_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| panics.push(format!("panic: {info}")));
            if std::env::var_os("RUST_BACKTRACE").is_some() {
                before(info);
            }
        }));
    });
}
