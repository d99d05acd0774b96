//! The backlog against a model that remembers everything: random records, consumers, deaths and clocks, from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_core::Offset;
use anabranch_core::batch::{Record, RecordAt};
use anabranch_core::engine::{
    DELIVER_AT_MS, EXPIRES_AT_MS, Position, QueueSpec, Settlement, TakeLimits, TooLate,
};

use crate::backlog::{Backlog, Dead, Handed, Now, Rules};
use crate::snapshot::Snapshot;

/// Sets how many seeds there are.
const SEEDS: &str = "ANABRANCH_QUEUE_SEEDS";
const RECORDS: u64 = 60;
const STEPS: u32 = 1500;
const SETTLE_WITHIN_MS: u64 = 1000;
const DELIVERIES_MAX: u32 = 4;
const UNSETTLED_MAX: u32 = 12;

/// xorshift64, Marsaglia 2003.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What is known of a record.
#[derive(Debug, Clone, Default)]
struct Known {
    deliver_at_ms: Option<i64>,
    expires_at_ms: Option<i64>,
    /// Deliveries that the application has seen.
    delivered: u32,
    /// Deliveries that deaths have counted beside: those of what was ready.
    spared: u32,
    /// Not before.
    released_to_ms: i64,
    out: Option<(u64, Duration)>,
    end: Option<End>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Accepted,
    Buried,
}

struct World {
    dice: Dice,
    now: Now,
    log: Vec<RecordAt>,
    known: BTreeMap<Position, Known>,
    backlog: Backlog,
    stored: Snapshot,
    tickets: u64,
    dead: Vec<Dead>,
    rules: Rules,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let (mut log, mut known, mut offset) = (Vec::new(), BTreeMap::new(), 0);
        for number in 0..RECORDS {
            // Markers, and what is compacted away.
            offset += 1 + i64::from(dice.below(4) == 0) * dice.below(3) as i64;
            let (mut record, mut of_it) = (Record::keyless(number.to_string()), Known::default());
            if dice.below(6) == 0 {
                let at_ms = dice.below(20_000) as i64;
                record = record.header(DELIVER_AT_MS, at_ms.to_string());
                of_it.deliver_at_ms = Some(at_ms);
            }
            if dice.below(6) == 0 {
                let at_ms = dice.below(40_000) as i64;
                record = record.header(EXPIRES_AT_MS, at_ms.to_string());
                of_it.expires_at_ms = Some(at_ms);
            }
            known.insert(Position(offset as u64), of_it);
            log.push(RecordAt { offset: Offset(offset), record });
        }
        let spec = QueueSpec {
            settle_within: Duration::from_millis(SETTLE_WITHIN_MS),
            deliveries_max: DELIVERIES_MAX,
            unsettled_max: UNSETTLED_MAX,
            ..QueueSpec::new("g", ["t"])
        };
        let rules = Rules::from(&spec);
        let stored = Snapshot::new(Position(0), Vec::new());
        let backlog = Backlog::restore(rules, &stored);
        let now = Now { wall_ms: 1000, passed: Duration::ZERO };
        Self { dice, now, log, known, backlog, stored, tickets: 0, dead: Vec::new(), rules }
    }

    fn step(&mut self) {
        match self.dice.below(16) {
            0..=3 => self.claim_new(),
            4..=5 => self.claim_due(),
            6..=8 => self.hand_out(),
            9..=11 => self.settle(),
            12 => self.extend(),
            13..=14 => self.pass(),
            _ => match self.dice.below(6) {
                0 => self.die(),
                1 => self.go(),
                _ => self.store(),
            },
        }
        self.check();
    }

    fn claim_new(&mut self) {
        for _ in 0..=self.dice.below(5) {
            let next = self.log.iter().find(|at| Position::from(at.offset) >= self.backlog.next()).cloned();
            let Some(record) = next else { return };
            if self.backlog.room() > 0 {
                self.dead.extend(self.backlog.see(record, self.now));
            }
        }
    }

    fn claim_due(&mut self) {
        for position in self.backlog.due(self.now, 3) {
            let record = self.log.iter().find(|at| Position::from(at.offset) == position).cloned();
            assert!(record.is_some(), "{position} is due, and is no record");
            self.dead.extend(self.backlog.again(position, record, self.now));
        }
    }

    fn hand_out(&mut self) {
        self.store();
        let limits = TakeLimits { deliveries_max: self.dice.below(6) as usize, ..TakeLimits::default() };
        let mut tickets = self.tickets;
        let (handed, dead) = self.backlog.hand_out(limits, self.now, || {
            tickets += 1;
            tickets
        });
        self.tickets = tickets;
        self.dead.extend(dead);
        assert!(handed.len() <= limits.deliveries_max);
        for Handed { ticket, record, count, until } in handed {
            let now_ms = self.now.wall_ms;
            let known = self.known.get_mut(&Position::from(record.offset)).expect("what comes is a record");
            assert_eq!(known.end, None, "{record:?} was settled, and comes again");
            assert_eq!(known.out, None, "{record:?} is out, and comes again");
            assert!(known.deliver_at_ms.is_none_or(|at| at <= now_ms), "{record:?} comes at {now_ms}");
            assert!(known.expires_at_ms.is_none_or(|at| at > now_ms), "{record:?} comes at {now_ms}");
            assert!(known.released_to_ms <= now_ms, "{record:?} comes too early");
            known.delivered += 1;
            assert_eq!(known.delivered + known.spared, count, "the count of {record:?}: {known:?}");
            assert!(count <= DELIVERIES_MAX, "{record:?} comes too often");
            known.out = Some((ticket, until));
        }
    }

    fn settle(&mut self) {
        let out: Vec<_> = self.known.iter().filter_map(|(at, known)| Some((*at, known.out?))).collect();
        let ticket = match out.is_empty() || self.dice.below(8) == 0 {
            // One that was, is, or never will be.
            true => self.dice.below(self.tickets + 3),
            false => out[self.dice.below(out.len() as u64) as usize].1.0,
        };
        let found = out.iter().find(|(_, (number, until))| *number == ticket && *until > self.now.passed);
        let settlement = match self.dice.below(5) {
            0..=2 => Settlement::Accept,
            3 => Settlement::Release { delay: Duration::from_millis(self.dice.below(3) * 700) },
            _ => Settlement::Reject { reason: "no".to_owned() },
        };
        let done = self.backlog.settle(ticket, settlement.clone(), self.now);
        let Some((position, _)) = found else {
            assert_eq!(done, Err(TooLate), "a ticket that is over settles");
            return;
        };
        let done = done.expect("it is in time");
        let known = self.known.get_mut(position).expect("it is out");
        known.out = None;
        match settlement {
            Settlement::Accept => known.end = Some(End::Accepted),
            Settlement::Release { delay } => {
                known.released_to_ms = self.now.wall_ms + delay.as_millis() as i64;
            }
            Settlement::Reject { .. } => assert!(done.is_some(), "what is rejected dies"),
        }
        // Nobody is told before that is stored.
        self.dead.extend(done);
        self.store();
    }

    fn extend(&mut self) {
        let ticket = self.dice.below(self.tickets + 2);
        let done = self.backlog.extend(ticket, self.now);
        let mut out = self.known.values_mut().filter_map(|known| known.out.as_mut());
        match out.find(|(number, until)| *number == ticket && *until > self.now.passed) {
            Some((_, until)) => {
                assert_eq!(done, Ok(()));
                *until = self.now.passed + Duration::from_millis(SETTLE_WITHIN_MS);
            }
            None => assert_eq!(done, Err(TooLate)),
        }
    }

    fn pass(&mut self) {
        let ms = match (self.dice.below(4), self.backlog.rest(self.now)) {
            (0, Some(rest)) => rest.as_millis() as u64,
            (1, _) => self.dice.below(1500),
            _ => self.dice.below(50),
        };
        self.now = Now {
            wall_ms: self.now.wall_ms + ms as i64,
            passed: self.now.passed + Duration::from_millis(ms),
        };
        self.backlog.tick(self.now);
        for known in self.known.values_mut() {
            known.out.take_if(|(_, until)| *until <= self.now.passed);
        }
    }

    /// Buries the dead, and stores.
    fn store(&mut self) {
        for Dead { position, count, record, reason } in std::mem::take(&mut self.dead) {
            let known = self.known.get_mut(&position).expect("what dies is a record");
            assert_eq!(known.end, None, "{position} dies twice, or was accepted");
            assert!(record.is_some() || reason == "no", "the record is at hand, but for what was rejected");
            assert_eq!(known.delivered + known.spared, count, "the count of {position}: {known:?}");
            if reason == "expired" {
                assert!(
                    known.expires_at_ms.is_some_and(|at| at <= self.now.wall_ms),
                    "{position} expires early"
                );
            }
            known.end = Some(End::Buried);
            self.backlog.buried(position);
        }
        let snapshot = self.backlog.snapshot();
        let is_changed = snapshot != self.stored;
        assert!(self.backlog.is_changed() || !is_changed, "what has changed is said to have");
        self.stored = Snapshot::decode(&snapshot.encode()).expect("what was written is read");
        assert_eq!(self.stored, snapshot);
        self.backlog.stored();
    }

    /// The owner is gone, and another goes on with what is stored.
    fn die(&mut self) {
        // What was rejected and is not stored is nobody's; whoever asked for it was told nothing.
        self.dead.clear();
        self.backlog = Backlog::restore(self.rules, &self.stored);
        self.known.values_mut().for_each(|known| known.out = None);
        for (position, count, _) in self.stored.positions() {
            let known = self.known.get_mut(&position).expect("what is unsettled is a record");
            // What was ready is counted, and was not delivered; what was delivered is counted in any case.
            let spared = count.checked_sub(known.delivered);
            known.spared = spared.unwrap_or_else(|| panic!("{position} has count {count}, and {known:?}"));
        }
    }

    /// The owner goes, and another goes on: nothing is counted beside.
    fn go(&mut self) {
        self.store();
        self.backlog.stop();
        self.store();
        self.backlog = Backlog::restore(self.rules, &self.stored);
        self.known.values_mut().for_each(|known| known.out = None);
    }

    fn check(&self) {
        let seen = self.known.range(..self.backlog.next());
        let unsettled = seen.filter(|(_, known)| known.end.is_none()).count();
        assert!(unsettled <= UNSETTLED_MAX as usize, "{unsettled} are unsettled");
        let first = self.known.iter().find(|(_, known)| known.end.is_none());
        if let Some((first, _)) = first.filter(|(first, _)| **first < self.backlog.next()) {
            assert!(self.backlog.settled_to() <= *first, "{first} is not settled");
        }
    }

    /// In the end everything is accepted or buried.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            if self.known.values().all(|known| known.end.is_some()) {
                return;
            }
            self.step();
        }
        let left: Vec<_> = self.known.iter().filter(|(_, known)| known.end.is_none()).collect();
        panic!("never settled: {left:?}");
    }
}

#[test]
fn nothing_is_lost_and_nothing_comes_again() {
    let seeds = std::env::var(SEEDS).ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    for seed in 0..seeds {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..STEPS).for_each(|_| world.step());
            world.finish();
        });
        assert!(run.is_ok(), "seed {seed}: run it again by {SEEDS}={}", seed + 1);
    }
}
