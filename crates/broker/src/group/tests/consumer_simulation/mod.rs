//! Members of the consumer protocol that come, go, stall, lose answers and change their minds; topics that grow, go and
//! come; stores that fail or are torn; a coordinator that restarts: from a seed, with what must always hold checked after each step.
//! In a second simulation some members speak the classic protocol (`classic`), and the group changes its own with them.
//!
//! * No partition is read by two at a time. A member reads what it was told until it gives it up, and gives all of it up when
//!   it is fenced, or has had no answer for as long as its session.
//! * No epoch that anybody was told goes back, over restarts too.
//! * In the end, when nothing fails any more, everything has a reader, and all are in one epoch.

mod classic;

use std::collections::{BTreeSet, HashMap};

use anabranch_core::TopicId;
use anabranch_core::seam::Random;

use super::consumer::TestTopics;
use super::*;
use crate::group::config::Migration;
use crate::group::{Beat, ConsumerHeartbeat, GroupKind, Topics};
use crate::seeds;

/// Where [`SEEDS_VARIABLE`] does not say another number.
const SEEDS: u64 = 60;
const STEPS: usize = 1200;
const CLIENTS: usize = 8;
const NAMES: [&str; 3] = ["red", "green", "blue"];
const PATTERNS: [&str; 3] = [".*", "red|green", "b.*"];
const SESSION: Duration = Duration::from_secs(45);
const SEED_VARIABLE: &str = "ANABRANCH_GROUP_SEED";
const SEEDS_VARIABLE: &str = "ANABRANCH_GROUP_SEEDS";

#[test]
fn whatever_happens_no_partition_has_two_readers() {
    seeds::run(seeds(), SEED_VARIABLE, "no_partition_has_two_readers", 20, |seed| {
        Simulation::new(seed, false).run().assignments
    });
}

#[test]
fn whatever_happens_a_group_that_changes_its_protocol_has_one_reader_for_each_partition() {
    seeds::run(seeds(), SEED_VARIABLE, "a_group_that_changes", 1, |seed| {
        Simulation::new(seed, true).run().conversions
    });
}

fn seeds() -> std::ops::Range<u64> {
    let seeds = std::env::var(SEEDS_VARIABLE);
    0..seeds.map_or(SEEDS, |seeds| seeds.parse().expect("it is a number of seeds"))
}

type Place = (TopicId, i32);

/// A consumer as a client library drives it.
#[derive(Debug)]
struct Client {
    id: String,
    instance_id: Option<String>,
    is_alive: bool,
    /// It says nothing, and reads on.
    is_silent: bool,
    epoch: i32,
    /// What it reads.
    owned: BTreeSet<Place>,
    /// What it was told to have, while it still reads more.
    target: Option<BTreeSet<Place>>,
    /// What it told the coordinator to have, if it knows.
    reported: Option<BTreeSet<Place>>,
    topics: Vec<&'static str>,
    pattern: Option<&'static str>,
    assignor: Option<&'static str>,
    is_changed: bool,
    must_say_all: bool,
    waits: Option<(RequestId, Duration)>,
    /// When it sent the last heartbeat that was answered.
    heard: Duration,
    /// It speaks the classic protocol, in which `epoch` is its generation.
    classic: Option<classic::Classic>,
}

struct Simulation {
    driver: Driver,
    random: SeededRandom,
    topics: TestTopics,
    clients: Vec<Client>,
    next_id: u32,
    /// Requests of clients that are gone are still answered.
    outstanding: BTreeMap<RequestId, Option<usize>>,
    /// The newest epoch that each member was told since it joined.
    told: HashMap<String, i32>,
    /// The newest epoch that anybody was told.
    newest: i32,
    /// How many assignments were told.
    assignments: usize,
    /// How often the group has changed its protocol, with members in it.
    conversions: usize,
    /// Most stores fail.
    is_disk_bad: bool,
    /// Members of both protocols come.
    is_mixed: bool,
    /// How classic members rebalance.
    is_cooperative: bool,
    /// What clients speak that start.
    rolls_to_classic: bool,
}

impl Simulation {
    fn new(seed: u64, is_mixed: bool) -> Self {
        let random = SeededRandom::new(seed);
        let mut config = GroupConfig::default();
        config.consumer.migration = match random.next_u64() % 8 {
            0 => Migration::Upgrade,
            1 => Migration::Downgrade,
            2 => Migration::Disabled,
            _ => Migration::Bidirectional,
        };
        let mut driver = Driver::with(config);
        driver.is_prompt = false;
        let clients = (0..CLIENTS).map(|index| Client {
            id: format!("m{index}"),
            // The last two have one name.
            instance_id: (index >= 4).then(|| format!("i{}", index.min(6))),
            is_alive: index % 2 == 0,
            is_silent: false,
            epoch: 0,
            owned: BTreeSet::new(),
            target: None,
            reported: None,
            topics: vec!["red", "green"],
            pattern: None,
            assignor: None,
            is_changed: false,
            must_say_all: false,
            waits: None,
            heard: driver.now.monotonic,
            classic: (is_mixed && index % 3 != 0).then(classic::Classic::default),
        });
        Self {
            clients: clients.collect(),
            topics: TestTopics::of(&[("red", 3), ("green", 2)]),
            driver,
            random,
            next_id: 0,
            outstanding: BTreeMap::new(),
            told: HashMap::new(),
            newest: 0,
            assignments: 0,
            conversions: 0,
            is_disk_bad: false,
            is_mixed,
            is_cooperative: seed % 2 == 1,
            rolls_to_classic: false,
        }
    }

    fn below(&self, limit: u64) -> u64 {
        self.random.next_u64() % limit
    }

    fn run(mut self) -> Self {
        let mut before = None;
        for _ in 0..STEPS {
            self.step();
            self.check();
            let after = self.speaks();
            self.conversions += usize::from(before.is_some() && after.is_some() && before != after);
            before = after;
        }
        self.calm();
        self
    }

    /// The protocol of the group, if it has members.
    fn speaks(&self) -> Option<GroupKind> {
        let groups = &self.driver.groups;
        let consumers = groups.describe_consumer(GROUP).filter(|group| !group.members.is_empty());
        let classics = groups.describe(GROUP).filter(|group| !group.members.is_empty());
        consumers.map(|_| GroupKind::Consumer).or(classics.map(|_| GroupKind::Classic))
    }

    fn step(&mut self) {
        let index = self.below(CLIENTS as u64) as usize;
        if self.is_mixed {
            self.roll(index);
        }
        match self.below(200) {
            0..110 => self.act(index),
            110..150 => {
                let failing = if self.is_disk_bad { 5 } else { 1 };
                let outcome = if self.below(8) < failing { Err(StoreError::Unavailable) } else { Ok(()) };
                self.end_store(outcome);
            }
            150..180 => self.advance(self.below(3000)),
            180 => self.advance(self.below(50_000)),
            181..185 => self.clients[index].is_silent = !self.clients[index].is_silent,
            185 => self.die(index),
            186..189 => self.start(index),
            189 | 190 => self.leave(index),
            191..194 => self.resubscribe(index),
            194 => self.topics.grow("red"),
            195 => {
                let name = NAMES[self.below(3) as usize];
                let count = 1 + self.below(3) as i32;
                // Classic members know topics by their names alone.
                if !self.is_mixed || self.topics.get(name).is_none() {
                    self.topics.create(name, count);
                }
            }
            196 => self.forget_answer(index),
            197 => self.is_disk_bad = true,
            198 => {
                // What failed is often the reason to start again.
                if std::mem::take(&mut self.is_disk_bad) {
                    self.crash();
                }
            }
            _ => self.crash(),
        }
        while self.driver.stores.len() > 12 {
            self.end_store(Ok(()));
        }
    }

    /// Processes of one name do not run side by side where one of them may take the other's place at once.
    fn start(&mut self, index: usize) {
        let name = &self.clients[index].instance_id;
        let is_twin = |other: &Client| other.is_alive && name.is_some() && other.instance_id == *name;
        if !self.is_mixed || !self.clients.iter().any(is_twin) {
            self.clients[index].is_alive = true;
        }
    }

    /// The next thing that a client does of its own accord.
    fn act(&mut self, index: usize) {
        if self.clients[index].classic.is_some() {
            return self.act_classic(index);
        }
        let now = self.driver.now.monotonic;
        let client = &mut self.clients[index];
        if !client.is_alive || client.is_silent || client.waits.is_some() {
            return;
        }
        if let Some(target) = client.target.take() {
            client.owned = target;
        }
        let joins = client.epoch == 0;
        let says_all = joins || client.must_say_all;
        let owned =
            (says_all || client.reported.as_ref() != Some(&client.owned)).then(|| by_topic(&client.owned));
        let tells = says_all || client.is_changed;
        let names = || client.topics.iter().map(|name| (*name).to_owned()).collect();
        let beat = ConsumerHeartbeat {
            group: GROUP.into(),
            member_id: client.id.clone(),
            chooses_id: true,
            member_epoch: client.epoch,
            instance_id: client.instance_id.clone(),
            rack_id: None,
            rebalance_timeout_ms: if says_all { 600_000 } else { -1 },
            topics: tells.then(names),
            pattern: tells.then(|| client.pattern.unwrap_or_default().to_owned()),
            assignor: client.assignor.filter(|_| tells).map(str::to_owned),
            owned,
            client_id: "c".into(),
            client_host: "/h".into(),
        };
        client.is_changed = false;
        client.reported = Some(client.owned.clone());
        if joins {
            self.told.remove(&client.id);
        }
        let request = self.driver.next();
        self.clients[index].waits = Some((request, now));
        self.send(Some(index), request, &beat);
    }

    fn send(&mut self, index: Option<usize>, request: RequestId, beat: &ConsumerHeartbeat) {
        self.outstanding.insert(request, index);
        let effects = self.driver.groups.heartbeat_consumer(request, beat, &self.topics, self.driver.now);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        self.driver.perform(effects);
        for (request, response) in std::mem::take(&mut self.driver.answers) {
            let index = self.outstanding.remove(&request).expect("it was asked");
            let waits = index.and_then(|index| self.clients[index].waits);
            let (Some(index), Some((waiting, sent))) = (index, waits) else { continue };
            if waiting != request {
                continue;
            }
            self.clients[index].waits = None;
            match response {
                Response::Beat(answer) => self.answered(index, sent, answer),
                Response::Join(answer) => self.joined(index, answer),
                Response::Sync(answer) => self.synced(index, answer),
                other => panic!("{other:?}"),
            }
        }
    }

    fn answered(&mut self, index: usize, sent: Duration, answer: Result<Beat, GroupError>) {
        let now = self.driver.now.monotonic;
        let client = &mut self.clients[index];
        match answer {
            Ok(_) if now >= sent + SESSION => client.abandon(),
            Ok(beat) => {
                client.heard = sent;
                client.must_say_all = false;
                client.epoch = beat.member_epoch;
                let told = self.told.entry(client.id.clone()).or_insert(beat.member_epoch);
                assert!(
                    *told <= beat.member_epoch,
                    "{} was told {told}, and now {}",
                    client.id,
                    beat.member_epoch
                );
                *told = beat.member_epoch;
                self.newest = self.newest.max(beat.member_epoch);
                if let Some(assigned) = beat.assignment {
                    self.assignments += 1;
                    let flat = |(topic, all): (TopicId, Vec<i32>)| all.into_iter().map(move |at| (topic, at));
                    let target: BTreeSet<Place> = assigned.into_iter().flat_map(flat).collect();
                    // What is new is read at once, what is to go a while longer.
                    client.owned.extend(&target);
                    client.target = Some(target);
                }
            }
            Err(GroupError::CoordinatorNotAvailable) => client.must_say_all = true,
            Err(
                GroupError::FencedMemberEpoch | GroupError::UnknownMemberId | GroupError::GroupIdNotFound,
            ) => {
                client.abandon();
            }
            Err(GroupError::UnreleasedInstanceId) => {}
            Err(GroupError::NotUpgraded { .. }) => client.abandon(),
            Err(GroupError::FencedInstanceId) => {
                client.abandon();
                client.is_alive = false;
            }
            Err(other) => panic!("a well-behaved client is told: {other}"),
        }
    }

    /// Its answer does not reach it, and it asks again.
    fn forget_answer(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.waits.take().is_some() {
            client.lose_answer();
        }
    }

    /// The process is gone; another, under another id, may start.
    fn die(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.abandon();
        client.waits = None;
        client.is_alive = false;
        client.is_silent = false;
        self.next_id += 1;
        client.id = format!("m{index}-{}", self.next_id);
        if self.is_mixed {
            let is_classic = self.random.next_u64().is_multiple_of(8) != self.rolls_to_classic;
            self.clients[index].classic = is_classic.then(classic::Classic::default);
        }
    }

    /// Clients are restarted, one by one, most of them in the other protocol than before.
    fn roll(&mut self, index: usize) {
        if self.below(150) == 0 {
            self.rolls_to_classic = !self.rolls_to_classic;
        }
        let client = &self.clients[index];
        if client.is_alive && client.classic.is_some() != self.rolls_to_classic && self.below(12) == 0 {
            self.leave(index);
            self.start(index);
        }
    }

    fn leave(&mut self, index: usize) {
        let for_a_while = self.below(2) == 0;
        let client = &mut self.clients[index];
        if !client.is_alive || client.epoch <= 0 {
            return;
        }
        if client.classic.is_some() {
            return self.leave_classic(index);
        }
        client.abandon();
        let beat = ConsumerHeartbeat {
            group: GROUP.into(),
            member_id: client.id.clone(),
            chooses_id: true,
            member_epoch: if client.instance_id.is_some() && for_a_while { -2 } else { -1 },
            instance_id: client.instance_id.clone(),
            rack_id: None,
            rebalance_timeout_ms: -1,
            topics: None,
            pattern: None,
            assignor: None,
            owned: None,
            client_id: "c".into(),
            client_host: "/h".into(),
        };
        self.die(index);
        let request = self.driver.next();
        self.send(None, request, &beat);
    }

    fn resubscribe(&mut self, index: usize) {
        let (names, pattern, assignor) = (self.below(8), self.below(6), self.below(3));
        let client = &mut self.clients[index];
        client.topics = (0..3).filter(|bit| names & (1 << bit) != 0).map(|bit| NAMES[bit]).collect();
        client.pattern = PATTERNS.get(pattern as usize).copied();
        client.assignor = ["uniform", "range"].get(assignor as usize).copied();
        client.is_changed = true;
    }

    fn end_store(&mut self, outcome: Result<(), StoreError>) {
        let Some((token, records)) = self.driver.stores.pop_front() else { return };
        // Of a store that fails some may be there.
        let durable =
            if outcome.is_ok() { records.len() } else { self.below(records.len() as u64 + 1) as usize };
        self.driver.log.extend(records.into_iter().take(durable));
        let effects = self.driver.groups.stored(token, outcome, self.driver.now);
        self.perform(effects);
    }

    fn advance(&mut self, by_ms: u64) {
        self.driver.now.monotonic += Duration::from_millis(by_ms);
        self.driver.now.unix_ms += i64::try_from(by_ms).unwrap();
        for client in &mut self.clients {
            // Before the coordinator acts on it: a client's clock runs from when it sent.
            if client.epoch != 0 && self.driver.now.monotonic >= client.heard + SESSION {
                client.abandon();
                // A classic join may take long, and is no sign of death.
                if client.classic.is_none() {
                    client.waits = None;
                }
            }
        }
        let effects = self.driver.groups.tick(self.driver.now);
        self.perform(effects);
    }

    /// Stores under way may be durable without anyone having been told, the last of them in part.
    fn crash(&mut self) {
        for _ in 0..self.below(self.driver.stores.len() as u64 + 1) {
            let (_, records) = self.driver.stores.pop_front().unwrap();
            self.driver.log.extend(records);
        }
        if let Some((_, records)) = self.driver.stores.pop_front() {
            let torn = self.below(records.len() as u64 + 1) as usize;
            self.driver.log.extend(records.into_iter().take(torn));
        }
        self.outstanding.clear();
        for client in &mut self.clients {
            if client.waits.take().is_some() {
                client.lose_answer();
            }
        }
        self.driver.restart_among(&self.topics);
        if self.is_mixed {
            // A classic group may become empty, and begin anew.
            return;
        }
        let epoch = self.driver.groups.describe_consumer(GROUP).map_or(0, |group| group.epoch);
        assert!(epoch >= self.newest, "epoch {epoch} after a restart, and {} was told", self.newest);
    }

    fn check(&self) {
        let mut readers: BTreeMap<Place, &str> = BTreeMap::new();
        for client in &self.clients {
            for place in &client.owned {
                let before = readers.insert(*place, &client.id);
                assert_eq!(before, None, "{place:?} is read by {} too", client.id);
            }
        }
        let Some(group) = self.driver.groups.describe_consumer(GROUP) else { return };
        let mut owners = BTreeSet::new();
        for (topic, partitions) in group.members.iter().flat_map(|member| &member.assigned) {
            for partition in partitions {
                assert!(owners.insert((*topic, *partition)), "{topic}-{partition} has two owners");
            }
        }
        assert!(group.epoch >= group.target_epoch);
    }

    /// Without faults, everything gets a reader.
    fn calm(&mut self) {
        for client in &mut self.clients {
            client.is_silent = false;
        }
        for round in 0..120 {
            if round == 60 {
                self.topics.grow("red");
            }
            for index in 0..CLIENTS {
                self.act(index);
                while !self.driver.stores.is_empty() {
                    self.end_store(Ok(()));
                }
                self.check();
            }
            self.advance(1000);
            self.check();
        }
        let alive: Vec<&Client> = self.clients.iter().filter(|client| client.epoch > 0).collect();
        let group = self.driver.groups.describe_consumer(GROUP);
        let classic = self.driver.groups.describe(GROUP);
        let classics = classic.as_ref().map_or(0, |group| group.members.len());
        let members = group.as_ref().map_or(classics, |group| group.members.len());
        assert_eq!(members, alive.len(), "the group has those who live, and no others");
        if let Some(group) = group.filter(|group| !group.members.is_empty()) {
            assert_eq!(group.state.name(), "Stable");
            for client in &alive {
                assert_eq!(client.epoch, group.epoch, "{}", client.id);
            }
        }
        if let Some(group) = classic.filter(|group| !group.members.is_empty()) {
            assert_eq!(group.state.name(), "Stable");
            assert!(alive.iter().all(|client| client.epoch == alive[0].epoch));
        }
        let mut wanted = BTreeSet::new();
        for client in &alive {
            for name in self.topics.names().filter(|name| client.wants(name)) {
                let (id, count) = self.topics.get(name).unwrap();
                wanted.extend((0..count).map(|partition| (id, partition)));
            }
            for (topic, _) in &client.owned {
                let mut mine = self.topics.names().filter(|name| client.wants(name));
                assert!(mine.any(|name| self.topics.id(name) == *topic), "{} reads {topic}", client.id);
            }
        }
        let read: BTreeSet<Place> = self.clients.iter().flat_map(|client| &client.owned).copied().collect();
        assert_eq!(read, wanted, "everything has a reader");
        let seen = |driver: &Driver| (driver.groups.describe_consumer(GROUP), driver.groups.describe(GROUP));
        let before = seen(&self.driver);
        self.driver.restart_among(&self.topics);
        let after = seen(&self.driver);
        assert_eq!(after.0, before.0, "after a restart");
        // An empty classic group may have begun anew meanwhile.
        if before.1.as_ref().is_some_and(|group| !group.members.is_empty()) {
            assert_eq!(after.1, before.1, "after a restart");
        }
    }
}

impl Client {
    /// It is no member any more, and reads nothing.
    fn abandon(&mut self) {
        self.owned.clear();
        self.target = None;
        self.reported = None;
        self.epoch = 0;
    }

    /// It does not know whether its request was heard.
    fn lose_answer(&mut self) {
        self.must_say_all = true;
        self.reported = None;
        if let Some(classic) = &mut self.classic {
            classic.must_join = true;
        }
    }

    fn wants(&self, name: &str) -> bool {
        let matches = match self.pattern {
            Some(".*") => true,
            Some("red|green") => name == "red" || name == "green",
            Some(_) => name.starts_with('b'),
            None => false,
        };
        matches || self.topics.contains(&name)
    }
}

fn by_topic(places: &BTreeSet<Place>) -> Vec<(TopicId, Vec<i32>)> {
    let mut topics: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in places {
        topics.entry(*topic).or_default().push(*partition);
    }
    topics.into_iter().collect()
}
