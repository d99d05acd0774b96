//! What a member does, as a function of what it has heard. It reads no clock and asks nobody: it is told, and it says what is to
//! be written and what the caller is to be told.
//!
//! It hears of others in the order in which it was written, and of its own writes at once. What somebody was faster to write must
//! not be heard early: a partition's new owner would seem to be dead to whoever has not heard of the plan that has it.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_core::TopicPartition;
use anabranch_core::engine::{GroupEvent, Position};

use super::{Place, Plan, assign_ranges};

/// A key's revision, 0 when it is not there.
pub(crate) type Revision = u64;

/// What a member hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// A heartbeat of any member.
    Beat { id: String, topics: Vec<String> },
    /// A member has left, or was found dead.
    Gone { id: String },
    /// The plan.
    Plan { plan: Plan, revision: Revision },
    /// Whose a partition is, and where the group stands in it.
    Place { at: TopicPartition, place: Place, revision: Revision },
    /// How many partitions a topic has; none while it does not exist.
    Count { topic: String, partitions: i32 },
    /// Everything that was written before it joined was heard.
    Current,
    /// It hears nothing for a while, and then everything again.
    Behind,
    /// The caller has let go of what it was told that it loses.
    LetGo,
}

/// What a member does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Write the plan, unless somebody was faster.
    Plan { plan: Plan, over: Revision },
    /// Write a place, unless somebody was faster.
    Place { at: TopicPartition, place: Place, over: Revision },
    /// Delete the heartbeat of a member that is dead.
    Forget { id: String },
    /// Tell the caller.
    Tell(GroupEvent),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It takes what the plan gives it.
    Claiming,
    /// The caller has been told all that is its.
    Inside,
    /// The caller was told, at that time, that others are to have it.
    Revoked { at_ms: u64 },
    /// The caller was told that others may have it.
    Lost,
}

#[derive(Debug)]
struct Other {
    topics: Vec<String>,
    heard_ms: u64,
}

/// One member.
#[derive(Debug)]
pub(crate) struct Machine {
    id: String,
    topics: Vec<String>,
    session_ms: u64,
    /// How long the caller may take to let go.
    patience_ms: u64,
    /// It has heard everything, as far as it knows.
    is_current: bool,
    /// It was silent for a whole session, so what it has heard may be long over.
    is_late: bool,
    others: BTreeMap<String, Other>,
    counts: BTreeMap<String, i32>,
    plan: (Plan, Revision),
    places: BTreeMap<TopicPartition, (Place, Revision)>,
    phase: Phase,
    owned: BTreeSet<TopicPartition>,
    /// When its own heartbeat was stored last.
    beaten_ms: u64,
}

impl Machine {
    pub(crate) fn new(
        id: String,
        topics: Vec<String>,
        session_ms: u64,
        patience_ms: u64,
        now_ms: u64,
    ) -> Self {
        Self {
            id,
            topics,
            session_ms,
            patience_ms,
            is_current: false,
            is_late: false,
            others: BTreeMap::new(),
            counts: BTreeMap::new(),
            plan: (Plan::default(), 0),
            places: BTreeMap::new(),
            phase: Phase::Claiming,
            owned: BTreeSet::new(),
            beaten_ms: now_ms,
        }
    }

    pub(crate) fn hear(&mut self, input: Input, now_ms: u64) {
        match input {
            Input::Beat { id, .. } if id == self.id => {
                self.notice(now_ms);
                self.beaten_ms = now_ms;
            }
            Input::Beat { id, topics } => drop(self.others.insert(id, Other { topics, heard_ms: now_ms })),
            Input::Gone { id } => drop(self.others.remove(&id)),
            // Its own writes come again.
            Input::Plan { plan, revision } if revision > self.plan.1 => self.plan = (plan, revision),
            Input::Plan { .. } => {}
            Input::Place { at, place, revision } => {
                let known = self.places.entry(at).or_default();
                if revision > known.1 {
                    *known = (place, revision);
                }
            }
            Input::Count { topic, partitions } => drop(self.counts.insert(topic, partitions)),
            Input::Current => (self.is_current, self.is_late) = (true, false),
            Input::Behind => self.is_current = false,
            Input::LetGo => {
                if !matches!(self.phase, Phase::Inside) {
                    self.owned.clear();
                    self.phase = Phase::Claiming;
                }
            }
        }
    }

    /// What is to be done now. It is asked again when that was done, and it has heard of it; if somebody was faster, when it has
    /// heard of that.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<Action> {
        self.notice(now_ms);
        let lead = if self.is_current { self.lead(now_ms) } else { None };
        lead.or_else(|| self.follow(now_ms))
    }

    /// When it is late, it has to hear everything again.
    fn notice(&mut self, now_ms: u64) {
        if now_ms - self.beaten_ms > self.session_ms {
            (self.is_late, self.is_current) = (true, false);
        }
    }

    /// Whether it has heard everything, as far as it knows; if it had and has not now, it must hear it from the beginning.
    pub(crate) fn is_current(&self) -> bool {
        self.is_current
    }

    /// Whether it goes on with its heartbeat: it does not when the caller lets go of nothing.
    pub(crate) fn beats(&self, now_ms: u64) -> bool {
        !matches!(self.phase, Phase::Revoked { at_ms } if now_ms - at_ms > self.patience_ms)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The topics that it has to know the partitions of: all, or those that it does not know.
    pub(crate) fn watched(&self, all: bool) -> BTreeSet<String> {
        let others = self.others.values().flat_map(|other| &other.topics);
        let topics = self.topics.iter().chain(others);
        topics.filter(|topic| all || !self.counts.contains_key(*topic)).cloned().collect()
    }

    /// Where to write that the group stands at `next`, if the partition is its own.
    pub(crate) fn commit(&self, at: &TopicPartition, next: Position) -> Option<(Place, Revision)> {
        let (place, revision) = self.places.get(at)?;
        let is_own = self.owned.contains(at) && place.owner.as_ref() == Some(&self.id);
        is_own.then(|| (Place { owner: Some(self.id.clone()), next: Some(next.0) }, *revision))
    }

    /// What it would have to give back.
    pub(crate) fn claimed(&self) -> Vec<(TopicPartition, Place, Revision)> {
        let own = self.places.iter().filter(|(_, (place, _))| place.owner.as_ref() == Some(&self.id));
        own.map(|(at, (place, revision))| (at.clone(), Place { owner: None, next: place.next }, *revision))
            .collect()
    }

    /// The member with the least id plans for all.
    fn lead(&self, now_ms: u64) -> Option<Action> {
        let is_alive = |other: &Other| now_ms - other.heard_ms <= self.session_ms;
        let mut alive = self.others.iter().filter(|(_, other)| is_alive(other));
        if alive.clone().next().is_some_and(|(least, _)| *least < self.id) {
            return None;
        }
        if let Some((id, _)) = self.others.iter().find(|(_, other)| !is_alive(other)) {
            return Some(Action::Forget { id: id.clone() });
        }
        let mut members = vec![(self.id.as_str(), self.topics.as_slice())];
        members.extend(alive.by_ref().map(|(id, other)| (id.as_str(), other.topics.as_slice())));
        if !members.iter().all(|(_, topics)| topics.iter().all(|topic| self.counts.contains_key(topic))) {
            return None;
        }
        let plan = assign_ranges(&members, &self.counts);
        (plan != self.plan.0).then_some(Action::Plan { plan, over: self.plan.1 })
    }

    fn follow(&mut self, now_ms: u64) -> Option<Action> {
        let is_own = |(place, _): &(Place, Revision)| place.owner.as_ref() == Some(&self.id);
        let part: BTreeSet<_> = self.plan.0.part(&self.id).collect();
        match self.phase {
            Phase::Inside | Phase::Revoked { .. } => {
                if !self.owned.is_empty()
                    && (self.is_late || !self.owned.iter().all(|at| self.places.get(at).is_some_and(is_own)))
                {
                    self.phase = Phase::Lost;
                    let lost = std::mem::take(&mut self.owned);
                    return Some(Action::Tell(GroupEvent::Lost(lost.into_iter().collect())));
                }
                if self.phase == Phase::Inside && part != self.owned {
                    if self.owned.is_empty() {
                        self.phase = Phase::Claiming;
                        return self.follow(now_ms);
                    }
                    self.phase = Phase::Revoked { at_ms: now_ms };
                    let revoked = self.owned.iter().cloned().collect();
                    return Some(Action::Tell(GroupEvent::Revoked(revoked)));
                }
                None
            }
            Phase::Lost => None,
            Phase::Claiming if self.is_current => self.claim(&part),
            Phase::Claiming => None,
        }
    }

    /// Gives back what is not its, and takes what is.
    fn claim(&mut self, part: &BTreeSet<TopicPartition>) -> Option<Action> {
        let back = self.claimed().into_iter().find(|(at, ..)| !part.contains(at));
        if let Some((at, place, over)) = back {
            return Some(Action::Place { at, place, over });
        }
        if !self.plan.0.members.contains_key(&self.id) {
            return None;
        }
        let mut positions = Vec::with_capacity(part.len());
        let mut is_waiting = false;
        for at in part {
            let (place, over) = self.places.get(at).cloned().unwrap_or_default();
            match &place.owner {
                Some(owner) if *owner == self.id => positions.push((at.clone(), place.next.map(Position))),
                Some(owner) if self.plan.0.members.contains_key(owner) => is_waiting = true,
                _ => {
                    let place = Place { owner: Some(self.id.clone()), next: place.next };
                    return Some(Action::Place { at: at.clone(), place, over });
                }
            }
        }
        if is_waiting {
            return None;
        }
        self.phase = Phase::Inside;
        self.owned.clone_from(part);
        Some(Action::Tell(GroupEvent::Assigned(positions)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use anabranch_core::seam::{Random, SeededRandom};

    use super::super::Key;
    use super::*;

    const SESSION_MS: u64 = 1_000;
    const PATIENCE_MS: u64 = 5_000;
    const BEAT_MS: u64 = 200;
    const PARTITIONS: i32 = 4;
    const SEEDS: u64 = 50;

    /// What happens to members.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Weather {
        Quiet,
        /// They come, leave and hear late.
        Changes,
        /// They also die, stop and let go of nothing.
        Failures,
    }

    /// Keys with revisions, and what was written in order.
    #[derive(Default)]
    struct Bucket {
        entries: BTreeMap<String, (Revision, Option<Input>)>,
        log: Vec<(Revision, Input)>,
        last: Revision,
    }

    impl Bucket {
        fn put(&mut self, key: &Key, what: impl FnOnce(Revision) -> Input) {
            self.last += 1;
            let input = what(self.last);
            self.log.push((self.last, input.clone()));
            self.entries.insert(key.of("g"), (self.last, Some(input)));
        }

        fn put_over(&mut self, key: &Key, over: Revision, what: impl FnOnce(Revision) -> Input) -> bool {
            let is_so = self.entries.get(&key.of("g")).map_or(0, |(revision, _)| *revision) == over;
            if is_so {
                self.put(key, what);
            }
            is_so
        }

        fn get(&self, key: &Key) -> Option<Input> {
            self.entries.get(&key.of("g")).and_then(|(_, input)| input.clone())
        }
    }

    struct Member {
        machine: Machine,
        /// What of the bucket's log it has heard; it may lag.
        heard: usize,
        /// When it wrote its heartbeat; before it does anything else.
        beat_ms: Option<u64>,
        /// It does nothing until then, as a process that is stopped.
        stopped_until_ms: u64,
        told: VecDeque<GroupEvent>,
        /// What the caller reads, and the next of each.
        reads: BTreeMap<TopicPartition, u64>,
        must_let_go: bool,
        /// A caller that does not let go, which others must not wait for.
        is_stubborn: bool,
    }

    struct World {
        random: SeededRandom,
        now_ms: u64,
        bucket: Bucket,
        members: BTreeMap<String, Member>,
        next_id: u64,
        /// Positions as the model has them: each commit is one more than the one before.
        committed: BTreeMap<TopicPartition, u64>,
        fenced: u64,
        lost: u64,
        takeovers: u64,
    }

    impl World {
        fn new(seed: u64) -> Self {
            Self {
                random: SeededRandom::new(seed),
                now_ms: 0,
                bucket: Bucket::default(),
                members: BTreeMap::new(),
                next_id: 0,
                committed: BTreeMap::new(),
                fenced: 0,
                lost: 0,
                takeovers: 0,
            }
        }

        fn one_in(&self, many: u64) -> bool {
            self.random.next_u64().is_multiple_of(many)
        }

        fn join(&mut self) {
            // Ids do not come in order.
            let id = format!("{:02}-{}", self.random.next_u64() % 100, self.next_id);
            self.next_id += 1;
            let mut machine =
                Machine::new(id.clone(), vec!["t".to_owned()], SESSION_MS, PATIENCE_MS, self.now_ms);
            machine.hear(Input::Count { topic: "t".to_owned(), partitions: PARTITIONS }, self.now_ms);
            self.hear_all(&mut machine);
            let member = Member {
                machine,
                heard: self.bucket.log.len(),
                beat_ms: None,
                stopped_until_ms: 0,
                told: VecDeque::new(),
                reads: BTreeMap::new(),
                must_let_go: false,
                is_stubborn: false,
            };
            self.members.insert(id, member);
        }

        fn hear_all(&self, machine: &mut Machine) {
            let now = self.bucket.entries.values().filter_map(|(_, input)| input.clone());
            now.for_each(|input| machine.hear(input, self.now_ms));
            machine.hear(Input::Current, self.now_ms);
        }

        fn step(&mut self, weather: Weather) {
            // Nobody is late for a whole session where nobody fails.
            self.now_ms += self.random.next_u64() % if weather == Weather::Failures { 50 } else { 10 };
            let ids: Vec<_> = self.members.keys().cloned().collect();
            let Some(id) = ids.get(self.random.next_u64() as usize % ids.len().max(1)) else {
                return self.join();
            };
            let mut member = self.members.remove(id).unwrap();
            member.is_stubborn &= weather == Weather::Failures;
            let dice = self.random.next_u64() % 400;
            match (weather, dice) {
                (Weather::Quiet, _) => {}
                (_, 0) if ids.len() < 5 => self.join(),
                (_, 1) => {
                    for (at, place, over) in member.machine.claimed() {
                        self.write_place(&at, place, over);
                    }
                    self.forget(id);
                    return; // it leaves
                }
                (Weather::Failures, 2) => return, // it dies
                (Weather::Failures, 3) => {
                    member.stopped_until_ms = self.now_ms + self.random.next_u64() % (3 * SESSION_MS);
                }
                (Weather::Failures, 4) => member.is_stubborn = true,
                _ => {}
            }
            if self.now_ms >= member.stopped_until_ms {
                self.run(id, &mut member, weather != Weather::Quiet);
            }
            self.members.insert(id.clone(), member);
        }

        fn run(&mut self, id: &str, member: &mut Member, lags: bool) {
            let now_ms = self.now_ms;
            // Its caller may be faster than its task.
            if self.one_in(4) {
                self.call(member);
            }
            let is_due = member.beat_ms.is_none_or(|at_ms| now_ms - at_ms >= BEAT_MS);
            if is_due && member.machine.beats(now_ms) {
                member.beat_ms = Some(now_ms);
                let beat = Input::Beat { id: id.to_owned(), topics: vec!["t".to_owned()] };
                self.bucket.put(&Key::Member(id.to_owned()), |_| beat.clone());
                member.machine.hear(beat, now_ms);
            }
            if !member.machine.is_current() {
                self.hear_all(&mut member.machine);
                member.heard = self.bucket.log.len();
            }
            while member.heard < self.bucket.log.len() && !(lags && self.one_in(10)) {
                let (_, input) = self.bucket.log[member.heard].clone();
                // Its own heartbeat is heard when it is stored.
                if !matches!(&input, Input::Beat { id: of, .. } if of == id) {
                    member.machine.hear(input, now_ms);
                }
                member.heard += 1;
            }
            while let Some(action) = member.machine.next(now_ms)
                && self.act(member, action)
            {}
            self.call(member);
        }

        fn write_place(&mut self, at: &TopicPartition, place: Place, over: Revision) -> bool {
            let key = Key::At(at.clone());
            self.bucket.put_over(&key, over, |revision| Input::Place { at: at.clone(), place, revision })
        }

        fn forget(&mut self, id: &str) {
            self.bucket.put(&Key::Member(id.to_owned()), |_| Input::Gone { id: id.to_owned() });
            self.bucket.entries.remove(&Key::Member(id.to_owned()).of("g"));
        }

        /// Does it, and says whether it was done.
        fn act(&mut self, member: &mut Member, action: Action) -> bool {
            let (key, is_done) = match action {
                Action::Tell(event) => {
                    member.told.push_back(event);
                    return true;
                }
                Action::Forget { id } => {
                    self.takeovers += 1;
                    member.machine.hear(Input::Gone { id: id.clone() }, self.now_ms);
                    self.forget(&id);
                    return true;
                }
                Action::Plan { plan, over } => {
                    let put = |revision| Input::Plan { plan, revision };
                    (Key::Plan, self.bucket.put_over(&Key::Plan, over, put))
                }
                Action::Place { at, place, over } => {
                    let is_done = self.write_place(&at, place, over);
                    (Key::At(at), is_done)
                }
            };
            if is_done {
                member.machine.hear(self.bucket.get(&key).unwrap(), self.now_ms);
            }
            is_done
        }

        /// What the caller does: takes an event, or reads on and commits.
        fn call(&mut self, member: &mut Member) {
            if member.is_stubborn && member.must_let_go {
                return;
            }
            if !member.told.is_empty() || member.must_let_go && self.one_in(5) {
                if std::mem::take(&mut member.must_let_go) {
                    member.reads.clear();
                    member.machine.hear(Input::LetGo, self.now_ms);
                }
                match member.told.pop_front() {
                    Some(GroupEvent::Assigned(positions)) => {
                        let next =
                            positions.into_iter().map(|(at, next)| (at, next.map_or(0, |next| next.0)));
                        member.reads = next.collect();
                    }
                    Some(GroupEvent::Revoked(_)) => member.must_let_go = true,
                    Some(GroupEvent::Lost(_)) => {
                        self.lost += 1;
                        member.must_let_go = true;
                        member.reads.clear();
                    }
                    None => {}
                }
                return;
            }
            for (at, next) in &mut member.reads {
                let Some((place, over)) = member.machine.commit(at, Position(*next + 1)) else {
                    self.fenced += 1;
                    continue;
                };
                let is_stored = self.bucket.put_over(&Key::At(at.clone()), over, |revision| Input::Place {
                    at: at.clone(),
                    place: place.clone(),
                    revision,
                });
                if is_stored {
                    let committed = self.committed.entry(at.clone()).or_default();
                    assert_eq!(*next, *committed, "{at} was read by two, or a commit was lost");
                    *committed += 1;
                    *next += 1;
                    member.machine.hear(self.bucket.get(&Key::At(at.clone())).unwrap(), self.now_ms);
                } else {
                    self.fenced += 1;
                }
            }
        }

        /// Everybody has heard everything, and every partition is read by one.
        fn is_settled(&self) -> bool {
            let mut read: Vec<_> = self.members.values().flat_map(|member| member.reads.keys()).collect();
            read.sort();
            let all: Vec<_> = (0..PARTITIONS).map(|at| TopicPartition::new("t", at)).collect();
            let is_inside = |member: &Member| member.machine.phase == Phase::Inside && member.told.is_empty();
            self.members.values().all(is_inside) && read == all.iter().collect::<Vec<_>>()
        }
    }

    fn live(seed: u64, weather: Weather) -> World {
        let mut world = World::new(seed);
        for _ in 0..3 {
            for _ in 0..1_500 {
                world.step(weather);
            }
            let mut steps = 0;
            while !world.is_settled() {
                world.step(Weather::Quiet);
                steps += 1;
                assert!(steps < 20_000, "seed {seed}: it does not settle");
            }
        }
        world
    }

    /// No commit is lost or made twice, whatever happens, and in quiet times every partition has its reader.
    #[test]
    fn every_partition_is_read_by_one() {
        let (mut fenced, mut lost, mut takeovers, mut commits) = (0, 0, 0, 0);
        for seed in 0..SEEDS {
            let world = live(seed, Weather::Failures);
            fenced += world.fenced;
            lost += world.lost;
            takeovers += world.takeovers;
            commits += world.committed.values().sum::<u64>();
        }
        // The seeds are worth nothing if nothing happens.
        let is_much = fenced > SEEDS && lost > SEEDS && takeovers > SEEDS && commits > 1_000 * SEEDS;
        assert!(is_much, "{fenced} {lost} {takeovers} {commits}");
    }

    /// Who lives and lets go loses nothing without being asked first.
    #[test]
    fn nobody_loses_what_it_was_not_asked_for() {
        for seed in 0..SEEDS {
            let world = live(seed, Weather::Changes);
            assert_eq!((world.lost, world.fenced, world.takeovers), (0, 0, 0), "seed {seed}");
        }
    }

    #[test]
    fn a_group_of_one_has_everything_at_once() {
        let mut world = World::new(1);
        world.join();
        world.step(Weather::Quiet);
        let member = world.members.values().next().unwrap();
        assert_eq!(member.reads.len(), 4);
    }

    #[test]
    fn who_does_not_let_go_is_taken_for_dead() {
        let mut machine = Machine::new("b".into(), vec!["t".into()], SESSION_MS, PATIENCE_MS, 0);
        machine.hear(Input::Count { topic: "t".into(), partitions: 1 }, 0);
        machine.hear(Input::Current, 0);
        let mut revision = 0;
        let mut told = Vec::new();
        let mut settle = |machine: &mut Machine, now_ms| {
            while let Some(action) = machine.next(now_ms) {
                revision += 1;
                match action {
                    Action::Plan { plan, .. } => machine.hear(Input::Plan { plan, revision }, now_ms),
                    Action::Place { at, place, .. } => {
                        machine.hear(Input::Place { at, place, revision }, now_ms);
                    }
                    Action::Tell(event) => told.push(event),
                    Action::Forget { .. } => unreachable!(),
                }
            }
            told.clone()
        };
        let at = TopicPartition::new("t", 0);
        let assigned = GroupEvent::Assigned(vec![(at.clone(), None)]);
        assert_eq!(settle(&mut machine, 0), std::slice::from_ref(&assigned));
        // Another one takes over the lead, and the partition.
        let beat = |id: &str| Input::Beat { id: id.into(), topics: vec!["t".into()] };
        let plan = assign_ranges(&[("a", &["t".to_owned()]), ("b", &[])], &machine.counts);
        machine.hear(beat("a"), 100);
        machine.hear(Input::Plan { plan, revision: 100 }, 100);
        assert_eq!(settle(&mut machine, 100), [assigned, GroupEvent::Revoked(vec![at.clone()])]);
        assert!(machine.commit(&at, Position(7)).is_some());
        let now_ms = PATIENCE_MS + 200;
        machine.hear(beat("b"), now_ms);
        machine.hear(beat("a"), now_ms);
        assert!(machine.beats(PATIENCE_MS + 100) && !machine.beats(PATIENCE_MS + 101));
        let place = Place { owner: Some("a".into()), next: None };
        machine.hear(Input::Place { at: at.clone(), place, revision: 101 }, now_ms);
        assert_eq!(settle(&mut machine, now_ms).last(), Some(&GroupEvent::Lost(vec![at.clone()])));
        assert!(machine.commit(&at, Position(7)).is_none());
    }
}
