//! What a seed makes of a run: each run has some of the clients and some of the faults, since what does everything at once
//! never does one thing often.

use crate::disk::Ahead;
use crate::random::Chance;

/// The settings of one run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) lives: u64,
    pub(crate) steps: u64,
    /// Names that topics may have.
    pub(crate) topics: u64,
    /// Partitions that a new topic may have.
    pub(crate) partitions: u64,
    /// The longest pause between two steps.
    pub(crate) pause_ms: u64,
    pub(crate) groups: bool,
    /// Topics come, change and go.
    pub(crate) churn: bool,
    /// Some topics acknowledge before they sync.
    pub(crate) relaxed: bool,
    /// Some batches are large.
    pub(crate) large: bool,
    /// The disk is full at times.
    pub(crate) full: bool,
    /// Bits change at rest.
    pub(crate) flips: bool,
    /// Old records go, and topics are compacted.
    pub(crate) cleans: bool,
    /// Records have times in any order.
    pub(crate) times: bool,
    /// A few batches are so large that the journal does not take them.
    pub(crate) huge: bool,
    /// There are many partitions, and now and then many of them are written at once.
    pub(crate) wide: bool,
    /// The size of a journal file; 0: there is no journal.
    pub(crate) journal_bytes: u64,
    /// Consumers look while the broker syncs.
    pub(crate) peeks: bool,
    /// So many files may be open. Whoever peeks needs all of them: a file is synced before it is closed to make room for
    /// another, and nobody can open a third meanwhile.
    pub(crate) open_files: u64,
    faults: [bool; 6],
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The broker is closed.
    Clean,
    /// The process dies; what it wrote is in the page cache.
    Killed,
    /// The power goes.
    PowerLost,
}

impl Plan {
    pub(crate) fn new(chance: &mut Chance) -> Self {
        let (wide, peeks) = (chance.one_in(5), !chance.one_in(4));
        Self {
            lives: chance.between(2..=8),
            steps: chance.between(20..=400),
            topics: chance.between(1..=3),
            partitions: if wide { 24 } else { *chance.pick(&[1, 2, 3, 8]) },
            pause_ms: *chance.pick(&[5, 100, 20_000]),
            groups: !chance.one_in(3),
            churn: chance.one_in(2),
            relaxed: chance.one_in(2),
            large: chance.one_in(3),
            full: chance.one_in(2),
            flips: chance.one_in(2),
            cleans: chance.one_in(3),
            times: chance.one_in(2),
            huge: chance.one_in(12),
            wide,
            journal_bytes: *chance.pick(&[0, 0, 4000, 20_000, 100_000, 1 << 20]),
            peeks,
            open_files: if peeks { 1_000_000 } else { *chance.pick(&[4, 20, 100, 1_000_000]) },
            faults: [0; 6].map(|_| chance.one_in(5)),
        }
    }

    pub(crate) fn end(&self, chance: &mut Chance) -> End {
        // Bits flip after a clean stop.
        if self.flips && chance.one_in(4) {
            return End::Clean;
        }
        *chance.pick(&[End::Clean, End::Killed, End::Killed, End::PowerLost, End::PowerLost, End::PowerLost])
    }

    /// What goes wrong in a life that ends so, other than in its opening.
    pub(crate) fn ahead(&self, end: End, chance: &mut Chance) -> Ahead {
        let file_system_sync_fails = (self.wide && chance.one_in(2)).then(|| chance.below(2));
        let mut often = |kind: usize, calls: u64| self.faults[kind].then(|| chance.below(calls));
        Ahead {
            write_fails: often(0, 200),
            sync_fails: often(1, 200),
            file_system_sync_fails,
            directory_sync_fails: often(2, 20),
            read_fails: often(3, 100),
            change_fails: often(4, 20),
            slow: often(5, 100),
            death: (end != End::Clean).then(|| chance.between(1..=self.steps * 3)),
        }
    }

    /// The same for the opening.
    pub(crate) fn ahead_of_opening(&self, end: End, chance: &mut Chance) -> Ahead {
        let mut often = |kind: usize, calls: u64| {
            let happens = self.faults[kind] && chance.one_in(4);
            happens.then(|| chance.below(calls))
        };
        Ahead {
            write_fails: often(0, 10),
            sync_fails: often(1, 10),
            file_system_sync_fails: None,
            directory_sync_fails: often(2, 10),
            read_fails: often(3, 20),
            change_fails: often(4, 10),
            slow: None,
            death: (end != End::Clean && chance.one_in(4)).then(|| chance.below(40)),
        }
    }
}
