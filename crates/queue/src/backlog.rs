//! What of one partition is not settled: a plain state machine, to which records, settlements and the time come from outside.
//!
//! ```text
//!              see                       hand_out                settle: accept
//!  (new) ────────────────► ready ──────────────────────► out ───────────────────► (settled)
//!    │                       ▲                            │
//!    │ too early             │ again        release, time │ settle: reject
//!    └──────────► waiting ───┘ ◄──────────────────────────┤
//!                    │ too often, expired                 │
//!                    └──────────────────► dying ◄─────────┘ ──── buried ──────────► (settled)
//! ```
//!
//! A record's count goes up when it becomes ready, and that is stored before it is handed out: whoever takes over after a
//! death finds it counted. What is stored does not tell ready from out.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use anabranch_core::batch::RecordAt;
use anabranch_core::engine::{Position, QueueSpec, Settlement, TakeLimits, Times, TooLate};

use crate::snapshot::{Run, Snapshot, push};

/// Whoever waits for this time waits for nothing.
const AT_ONCE: i64 = 0;

/// How often, how long and how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    settle_within: Duration,
    deliveries_max: u32,
    unsettled_max: usize,
}

impl From<&QueueSpec> for Rules {
    fn from(spec: &QueueSpec) -> Self {
        Self {
            settle_within: spec.settle_within,
            deliveries_max: spec.deliveries_max,
            unsettled_max: spec.unsettled_max as usize,
        }
    }
}

/// The time: that of the world, for what headers and other processes say; and one that does not jump, for deadlines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) wall_ms: i64,
    pub(crate) passed: Duration,
}

/// A record that is to become a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dead {
    pub(crate) position: Position,
    pub(crate) reason: String,
    /// How often it was delivered.
    pub(crate) count: u32,
    /// None where it must be read again.
    pub(crate) record: Option<RecordAt>,
}

/// A record that goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handed {
    pub(crate) ticket: u64,
    pub(crate) record: RecordAt,
    pub(crate) count: u32,
    /// When its time is up.
    pub(crate) until: Duration,
}

#[derive(Debug)]
pub(crate) struct Backlog {
    rules: Rules,
    /// What is before it was seen, and is settled unless it stands among the unsettled.
    next: Position,
    unsettled: BTreeMap<Position, Entry>,
    /// Those that wait, by when they are due.
    waiting: BTreeSet<(i64, Position)>,
    /// Those that are out, by when their time is up.
    out: BTreeSet<(Duration, Position)>,
    tickets: HashMap<u64, Position>,
    ready: VecDeque<RecordAt>,
    ready_bytes: usize,
    /// It differs from what was stored last.
    is_changed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Deliveries that have begun.
    count: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting { until_ms: i64 },
    Ready,
    Out { ticket: u64, until: Duration },
    Dying,
}

impl Backlog {
    /// As it was stored: whoever had something out has it no more.
    pub(crate) fn restore(rules: Rules, snapshot: &Snapshot) -> Self {
        let mut backlog = Self {
            rules,
            next: snapshot.next,
            unsettled: BTreeMap::new(),
            waiting: BTreeSet::new(),
            out: BTreeSet::new(),
            tickets: HashMap::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            is_changed: false,
        };
        for (position, count, until_ms) in snapshot.positions() {
            backlog.put_off(position, count, until_ms);
        }
        backlog
    }

    /// What is to be stored.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut runs: Vec<Run> = Vec::new();
        for (position, entry) in &self.unsettled {
            let until_ms = match entry.state {
                State::Waiting { until_ms } => until_ms,
                State::Ready | State::Out { .. } | State::Dying => AT_ONCE,
            };
            push(&mut runs, *position, entry.count, until_ms);
        }
        Snapshot::new(self.next, runs)
    }

    /// Whether there is something to store.
    pub(crate) fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// It is being stored.
    pub(crate) fn stored(&mut self) {
        self.is_changed = false;
    }

    /// Where to go on reading what is new.
    pub(crate) fn next(&self) -> Position {
        self.next
    }

    /// All before it is settled.
    pub(crate) fn settled_to(&self) -> Position {
        self.unsettled.first_key_value().map_or(self.next, |(first, _)| *first)
    }

    /// How many new records there is room for.
    pub(crate) fn room(&self) -> usize {
        self.rules.unsettled_max.saturating_sub(self.unsettled.len())
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn ready_bytes(&self) -> usize {
        self.ready_bytes
    }

    pub(crate) fn has_out(&self) -> bool {
        !self.out.is_empty()
    }

    /// Takes back what is out for too long.
    pub(crate) fn tick(&mut self, now: Now) {
        while let Some(&(until, position)) = self.out.first()
            && until <= now.passed
        {
            self.give_back(position);
        }
    }

    /// How long nothing happens by itself. What is due already waits for somebody who wants it.
    pub(crate) fn rest(&self, now: Now) -> Option<Duration> {
        let out = self.out.first().map(|(until, _)| until.saturating_sub(now.passed));
        let later = (now.wall_ms.saturating_add(1), Position(0));
        let waiting =
            self.waiting.range(later..).next().map(|(until_ms, _)| {
                Duration::from_millis(until_ms.saturating_sub(now.wall_ms).unsigned_abs())
            });
        out.into_iter().chain(waiting).min()
    }

    /// A record comes into sight. There must be room.
    pub(crate) fn see(&mut self, record: RecordAt, now: Now) -> Option<Dead> {
        let position = Position::from(record.offset);
        assert!(position >= self.next, "what was seen is not new");
        assert!(self.room() > 0, "there is room for what is new");
        self.next = Position(position.0 + 1);
        self.unsettled.insert(position, Entry { count: 0, state: State::Dying });
        self.is_changed = true;
        match self.verdict(&record, now) {
            Ok(None) => {
                self.make_ready(position, record);
                None
            }
            Ok(Some(until_ms)) => {
                self.put_off(position, 0, until_ms);
                None
            }
            Err(reason) => Some(Dead { position, reason, count: 0, record: Some(record) }),
        }
    }

    /// Those that are due.
    pub(crate) fn due(&self, now: Now, most: usize) -> Vec<Position> {
        let due = self.waiting.iter().take_while(|(until_ms, _)| *until_ms <= now.wall_ms);
        let mut due: Vec<_> = due.take(most).map(|(_, position)| *position).collect();
        due.sort_unstable();
        due
    }

    /// One that is due has been read again; none is there any more in its place.
    pub(crate) fn again(&mut self, position: Position, record: Option<RecordAt>, now: Now) -> Option<Dead> {
        let entry = self.unsettled.get(&position).copied()?;
        let State::Waiting { until_ms } = entry.state else { return None };
        self.waiting.remove(&(until_ms, position));
        self.is_changed = true;
        let Some(record) = record else {
            // It has grown too old for its topic, as it would have in the log.
            self.unsettled.remove(&position);
            return None;
        };
        let often = entry.count >= self.rules.deliveries_max;
        let verdict = match often {
            true => Err(format!("delivered {} times, and never accepted", entry.count)),
            false => self.verdict(&record, now),
        };
        match verdict {
            Ok(None) => {
                self.make_ready(position, record);
                None
            }
            Ok(Some(until_ms)) => {
                self.put_off(position, entry.count, until_ms);
                None
            }
            Err(reason) => {
                self.set(position, State::Dying);
                Some(Dead { position, reason, count: entry.count, record: Some(record) })
            }
        }
    }

    /// What is ready goes out, as far as `limits` go; what has expired meanwhile dies. What is ready must be stored.
    pub(crate) fn hand_out(
        &mut self,
        limits: TakeLimits,
        now: Now,
        mut ticket: impl FnMut() -> u64,
    ) -> (Vec<Handed>, Vec<Dead>) {
        assert!(!self.is_changed, "it is stored that it goes out");
        let (mut handed, mut dead, mut bytes) = (Vec::new(), Vec::new(), 0);
        while handed.len() < limits.deliveries_max
            && let Some(front) = self.ready.front()
        {
            let size = front.record.size_bytes();
            if bytes + size > limits.bytes_max && !handed.is_empty() {
                break;
            }
            let record = self.ready.pop_front().expect("it was looked at");
            self.ready_bytes -= size;
            let position = Position::from(record.offset);
            if let Err(reason) = self.verdict(&record, now) {
                let count = self.set(position, State::Dying).saturating_sub(1);
                self.is_changed = true;
                dead.push(Dead { position, reason, count, record: Some(record) });
                continue;
            }
            let (ticket, until) = (ticket(), now.passed + self.rules.settle_within);
            let count = self.set(position, State::Out { ticket, until });
            self.out.insert((until, position));
            self.tickets.insert(ticket, position);
            bytes += size;
            handed.push(Handed { ticket, record, count, until });
        }
        (handed, dead)
    }

    /// What became of a delivery. What is rejected is to be buried.
    pub(crate) fn settle(
        &mut self,
        ticket: u64,
        settlement: Settlement,
        now: Now,
    ) -> Result<Option<Dead>, TooLate> {
        self.tick(now);
        let position = *self.tickets.get(&ticket).ok_or(TooLate)?;
        let count = self.unsettled[&position].count;
        self.is_changed = true;
        match settlement {
            Settlement::Accept => {
                self.take_back(position);
                self.unsettled.remove(&position);
            }
            Settlement::Release { delay } => {
                let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
                self.put_off(position, count, now.wall_ms.saturating_add(delay_ms));
            }
            Settlement::Reject { reason } => {
                self.take_back(position);
                self.set(position, State::Dying);
                return Ok(Some(Dead { position, reason, count, record: None }));
            }
        }
        Ok(None)
    }

    /// Gives a delivery as much time as there was at first.
    pub(crate) fn extend(&mut self, ticket: u64, now: Now) -> Result<(), TooLate> {
        self.tick(now);
        let position = *self.tickets.get(&ticket).ok_or(TooLate)?;
        let until = now.passed + self.rules.settle_within;
        self.take_back(position);
        self.set(position, State::Out { ticket, until });
        self.out.insert((until, position));
        self.tickets.insert(ticket, position);
        Ok(())
    }

    /// It has become a dead letter, as soon as that is stored.
    pub(crate) fn buried(&mut self, position: Position) {
        let gone = self.unsettled.remove(&position);
        assert!(gone.is_some_and(|entry| entry.state == State::Dying), "only what dies is buried");
        self.is_changed = true;
    }

    /// A delivery that nobody has seen is none.
    pub(crate) fn withdraw(&mut self, ticket: u64) {
        if let Some(&position) = self.tickets.get(&ticket) {
            let count = self.unsettled[&position].count;
            self.put_off(position, count.saturating_sub(1), AT_ONCE);
            self.is_changed = true;
        }
    }

    /// Gives everything back.
    pub(crate) fn stop(&mut self) {
        self.ready_bytes = 0;
        for record in std::mem::take(&mut self.ready) {
            let position = Position::from(record.offset);
            let count = self.unsettled[&position].count;
            self.put_off(position, count.saturating_sub(1), AT_ONCE);
            self.is_changed = true;
        }
        while let Some(&(_, position)) = self.out.first() {
            self.give_back(position);
        }
    }

    /// What is out comes again. Nothing is stored of that: whoever takes over finds it so.
    fn give_back(&mut self, position: Position) {
        let count = self.unsettled[&position].count;
        self.put_off(position, count, AT_ONCE);
    }

    /// Until when it is too early, or why it is too late.
    fn verdict(&self, record: &RecordAt, now: Now) -> Result<Option<i64>, String> {
        let times = Times::of(&record.record)?;
        match times.has_expired(now.wall_ms) {
            true => Err("expired".to_owned()),
            false => Ok(times.is_early(now.wall_ms)),
        }
    }

    fn make_ready(&mut self, position: Position, record: RecordAt) {
        let entry = self.unsettled.get_mut(&position).expect("it is unsettled");
        *entry = Entry { count: entry.count + 1, state: State::Ready };
        self.ready_bytes += record.record.size_bytes();
        self.ready.push_back(record);
    }

    fn put_off(&mut self, position: Position, count: u32, until_ms: i64) {
        self.take_back(position);
        self.unsettled.insert(position, Entry { count, state: State::Waiting { until_ms } });
        self.waiting.insert((until_ms, position));
    }

    /// It is not out any more.
    fn take_back(&mut self, position: Position) {
        if let Some(Entry { state: State::Out { ticket, until }, .. }) = self.unsettled.get(&position) {
            self.out.remove(&(*until, position));
            self.tickets.remove(ticket);
        }
    }

    /// Gives it another state, and tells its count.
    fn set(&mut self, position: Position, state: State) -> u32 {
        let entry = self.unsettled.get_mut(&position).expect("it is unsettled");
        entry.state = state;
        entry.count
    }
}
