//! Clients that come, go, crash and commit, stores that fail, clocks that jump, a coordinator that restarts: from a
//! seed, with what must always hold checked after each step.

use std::collections::HashMap;

use anabranch_core::seam::Random;

use super::consumer::TestTopics;
use super::*;
use crate::group::GroupState;
use crate::group::record::{Decoded, GroupRecord};
use crate::seeds;

const SEEDS: u64 = 60;
const STEPS: usize = 1500;
const GROUPS: [&str; 2] = ["red", "blue"];
const CLIENTS: usize = 8;
const PARTITIONS: i32 = 3;
/// The longest that one answer may take: a rebalance, a jump of the clock, and the stores before it.
const WAIT_MAX: Duration = Duration::from_secs(27 + 60 + 60);
const SEED_VARIABLE: &str = "ANABRANCH_GROUP_SEED";

#[test]
fn whatever_happens_the_group_holds_together() {
    seeds::run(0..SEEDS, SEED_VARIABLE, "whatever_happens", 20, |seed| Simulation::new(seed).run());
}

/// A consumer as a client library drives it.
struct Client {
    group: &'static str,
    instance_id: Option<String>,
    is_old: bool,
    is_alive: bool,
    /// Its heart beats, and nothing else happens.
    is_stuck: bool,
    member_id: String,
    generation: i32,
    /// Changes now and then, as a subscription does.
    metadata: u64,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    MustJoin,
    MustSync(Vec<String>),
    Stable,
    Waits(RequestId),
}

/// Protocol and leader.
type Told = (Option<String>, String);

/// A request on its way.
struct Outstanding {
    client: Option<usize>,
    since: Duration,
    group: &'static str,
    generation: i32,
    commit: Option<(i32, i64)>,
}

struct Simulation {
    driver: Driver,
    random: SeededRandom,
    clients: Vec<Client>,
    outstanding: BTreeMap<RequestId, Outstanding>,
    /// How many crashes there were, and how often each group's record was deleted: both let generations be used again.
    crashes: u32,
    lives: HashMap<&'static str, u32>,
    /// What members of a generation were told of it: protocol and leader. Unsynced generations end with a crash.
    told: HashMap<(&'static str, u32, u32, i32), Told>,
    /// Which sync made the assignment of a generation. Holds over crashes: it was durable before it was told.
    assigned: HashMap<(&'static str, u32, i32), String>,
    /// The newest acknowledged offset of each partition since its last deletion.
    acknowledged: HashMap<(&'static str, i32), i64>,
    /// In which generation a sync was sent: what it assigns is for that one.
    sync_generations: HashMap<String, i32>,
    last_offset: i64,
    syncs_answered: usize,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let random = SeededRandom::new(seed);
        let mut config = GroupConfig::default();
        if random.next_u64().is_multiple_of(2) {
            config.initial_rebalance_delay = Duration::from_secs(3);
        }
        config.members_max = 3 + (random.next_u64() % 6) as usize;
        let mut driver = Driver::with(config);
        driver.is_prompt = false;
        let clients = (0..CLIENTS).map(|index| Client {
            group: GROUPS[index % 2],
            // The third of each group has a twin of the same name.
            instance_id: (index >= 4).then(|| format!("i{}", index % 2)),
            is_old: random.next_u64().is_multiple_of(2),
            is_alive: true,
            is_stuck: false,
            member_id: String::new(),
            generation: -1,
            metadata: 0,
            phase: Phase::MustJoin,
        });
        Self {
            clients: clients.collect(),
            driver,
            outstanding: BTreeMap::new(),
            crashes: 0,
            lives: HashMap::new(),
            told: HashMap::new(),
            assigned: HashMap::new(),
            acknowledged: HashMap::new(),
            sync_generations: HashMap::new(),
            last_offset: 0,
            syncs_answered: 0,
            random,
        }
    }

    fn below(&self, limit: u64) -> u64 {
        self.random.next_u64() % limit
    }

    /// How many members were given an assignment.
    fn run(mut self) -> usize {
        for _ in 0..STEPS {
            self.step();
            self.check();
        }
        self.calm();
        self.end();
        self.syncs_answered
    }

    fn step(&mut self) {
        for stuck in 0..CLIENTS {
            if self.clients[stuck].is_stuck {
                self.heartbeat(stuck);
            }
        }
        let index = self.below(CLIENTS as u64) as usize;
        match self.below(100) {
            0..55 => self.act(index),
            55..75 => self.end_store(),
            75..91 => self.advance(self.below(4000)),
            91 if self.below(4) == 0 => self.advance(self.below(60_000)),
            91 => self.clients[index].is_alive = true,
            92 => self.clients[index].is_stuck = !self.clients[index].member_id.is_empty(),
            93 => self.die(index),
            94 | 95 => self.clients[index].is_alive = true,
            96 => self.clients[index].metadata += 1,
            97 => self.leave(index),
            98 => self.commit_by_nobody(index),
            _ => match self.below(4) {
                0 => self.crash(),
                1 => self.delete(self.clients[index].group),
                _ => {}
            },
        }
    }

    fn send(&mut self, client: Option<usize>, group: &'static str, effects: Vec<Effect>, request: RequestId) {
        let generation = client.map_or(-1, |index| self.clients[index].generation);
        let since = self.driver.now.monotonic;
        self.outstanding.insert(request, Outstanding { client, since, group, generation, commit: None });
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        self.driver.perform(effects);
        for (request, response) in std::mem::take(&mut self.driver.answers) {
            let outstanding = self.outstanding.remove(&request);
            let outstanding =
                outstanding.unwrap_or_else(|| panic!("{request:?} was answered before: {response:?}"));
            self.answered(request, &outstanding, response);
        }
    }

    /// The client does what is next for it.
    fn act(&mut self, index: usize) {
        let client = &self.clients[index];
        if !client.is_alive || client.is_stuck {
            return;
        }
        match client.phase.clone() {
            // Now and then one loses patience, or its connection.
            Phase::Waits(_) if self.below(60) == 0 => self.clients[index].phase = Phase::MustJoin,
            Phase::Waits(_) => {}
            Phase::MustJoin => self.join(index),
            Phase::MustSync(members) => self.sync(index, &members),
            Phase::Stable if self.below(2) == 0 => self.commit(index),
            Phase::Stable => self.heartbeat(index),
        }
    }

    fn join(&mut self, index: usize) {
        let client = &self.clients[index];
        let protocol = |name: &str| (name.to_owned(), Bytes::from(client.metadata.to_string()));
        let names: &[&str] =
            if index.is_multiple_of(2) { &["range", "sticky"] } else { &["sticky", "range"] };
        let join = Join {
            group: client.group.into(),
            member_id: client.member_id.clone(),
            instance_id: client.instance_id.clone(),
            session_timeout_ms: 15_000,
            rebalance_timeout_ms: 20_000 + 1000 * i32::try_from(index).unwrap(),
            protocols: names.iter().map(|name| protocol(name)).collect(),
            require_known_member_id: !client.is_old,
            ..join("c")
        };
        let group = client.group;
        let request = self.driver.next();
        self.clients[index].phase = Phase::Waits(request);
        let effects = self.driver.groups.join(request, join, &TestTopics::default(), self.driver.now);
        self.send(Some(index), group, effects, request);
    }

    fn sync(&mut self, index: usize, members: &[String]) {
        let request = self.driver.next();
        let client = &mut self.clients[index];
        client.phase = Phase::Waits(request);
        let assignment = |id: &String| (id.clone(), Bytes::from(format!("{}", request.0)));
        let sync = Sync {
            group: client.group.into(),
            member_id: client.member_id.clone(),
            instance_id: client.instance_id.clone(),
            generation: client.generation,
            protocol_type: Some("consumer".into()),
            protocol: None,
            assignments: members.iter().map(assignment).collect(),
        };
        let group = client.group;
        self.sync_generations.insert(request.0.to_string(), client.generation);
        let effects = self.driver.groups.sync(request, sync, self.driver.now);
        self.send(Some(index), group, effects, request);
    }

    fn heartbeat(&mut self, index: usize) {
        let client = &self.clients[index];
        let heartbeat = Heartbeat {
            group: client.group,
            member_id: &client.member_id,
            instance_id: client.instance_id.as_deref(),
            generation: client.generation,
        };
        let result = self.driver.groups.heartbeat(heartbeat, &TestTopics::default(), self.driver.now);
        if let Err(error) = result {
            self.failed(index, &error);
        }
    }

    fn commit(&mut self, index: usize) {
        let client = &self.clients[index];
        let by = (client.member_id.clone(), client.instance_id.clone(), client.generation);
        self.send_commit(client.group, by);
    }

    fn commit_by_nobody(&mut self, index: usize) {
        self.send_commit(self.clients[index].group, (String::new(), None, -1));
    }

    fn send_commit(&mut self, group: &'static str, by: (String, Option<String>, i32)) {
        self.last_offset += 1;
        let partition = i32::try_from(self.below(PARTITIONS as u64)).unwrap();
        let mut commit = commit(self.last_offset);
        commit.offsets[0].partition = partition;
        let (member_id, instance_id, generation) = by;
        let commit = Commit { group: group.into(), member_id, instance_id, generation, ..commit };
        let request = self.driver.next();
        let effects = self.driver.groups.commit(request, commit, self.driver.now);
        let since = self.driver.now.monotonic;
        let commit = Some((partition, self.last_offset));
        self.outstanding.insert(request, Outstanding { client: None, since, group, generation, commit });
        self.perform(effects);
    }

    fn leave(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let leaver = Leaver { member_id: client.member_id.clone(), instance_id: client.instance_id.clone() };
        let group = client.group;
        client.forget();
        let request = self.driver.next();
        let effects = self.driver.groups.leave(request, group, &[leaver], self.driver.now);
        self.send(None, group, effects, request);
    }

    fn delete(&mut self, group: &'static str) {
        let request = self.driver.next();
        let effects = self.driver.groups.delete_groups(request, &[group.to_owned()]);
        self.send(None, group, effects, request);
    }

    /// The process is gone, without a word; a later one under the same name starts from nothing.
    fn die(&mut self, index: usize) {
        self.clients[index].is_alive = false;
        self.clients[index].forget();
    }

    fn end_store(&mut self) {
        let outcome = match self.below(12) {
            0 => Err(StoreError::Unavailable),
            _ => Ok(()),
        };
        self.end_store_with(outcome);
    }

    fn end_store_with(&mut self, outcome: Result<(), StoreError>) {
        let Some((token, records)) = self.driver.stores.pop_front() else { return };
        if outcome.is_ok() {
            self.write(records);
        }
        let effects = self.driver.groups.stored(token, outcome, self.driver.now);
        self.perform(effects);
    }

    fn write(&mut self, records: Vec<EncodedRecord>) {
        for record in records {
            let decoded = GroupRecord::decode(&record.key, record.value.as_deref()).unwrap();
            let known = |name: &str| GROUPS.into_iter().find(|group| *group == name).unwrap();
            match decoded {
                Decoded::Record(GroupRecord::Group { group, value: None }) => {
                    *self.lives.entry(known(&group)).or_default() += 1;
                }
                Decoded::Record(GroupRecord::Offset { group, partition, value: None, .. }) => {
                    self.acknowledged.remove(&(known(&group), partition));
                }
                Decoded::Record(_) => {}
                Decoded::Unknown { key_version } => panic!("key version {key_version} was written"),
            }
            self.driver.log.push(record);
        }
    }

    fn advance(&mut self, by_ms: u64) {
        self.driver.now.monotonic += Duration::from_millis(by_ms);
        self.driver.now.unix_ms += i64::try_from(by_ms).unwrap();
        let effects = self.driver.groups.tick(self.driver.now);
        self.perform(effects);
        let next = self.driver.groups.next_deadline();
        assert!(next.is_none_or(|next| next > self.driver.now.monotonic), "a tick does all that is due");
    }

    /// Stores under way may be durable without anyone having been told.
    fn crash(&mut self) {
        for _ in 0..self.below(self.driver.stores.len() as u64 + 1) {
            let (_, records) = self.driver.stores.pop_front().unwrap();
            self.write(records);
        }
        self.crashes += 1;
        self.outstanding.clear();
        for client in &mut self.clients {
            if matches!(client.phase, Phase::Waits(_) | Phase::MustSync(_)) {
                client.phase = Phase::MustJoin;
            }
        }
        self.driver.restart();
        assert!(self.driver.answers.is_empty());
    }

    fn answered(&mut self, request: RequestId, outstanding: &Outstanding, response: Response) {
        let Outstanding { client, group, generation, commit, .. } = *outstanding;
        match &response {
            Response::Join(Ok(joined)) => self.check_joined(group, joined),
            Response::Sync(Ok(synced)) => self.check_synced(group, generation, &synced.assignment),
            Response::Commit(Ok(results)) => {
                assert_eq!(results[..], [Ok(())]);
                let (partition, offset) = commit.unwrap();
                self.acknowledged.insert((group, partition), offset);
            }
            _ => {}
        }
        // A client that died or left meanwhile does not hear it.
        let Some(index) = client.filter(|index| self.clients[*index].phase == Phase::Waits(request)) else {
            return;
        };
        match response {
            Response::Join(Ok(joined)) => {
                let client = &mut self.clients[index];
                client.member_id = joined.member_id;
                client.generation = joined.generation;
                let members = joined.members.into_iter().map(|member| member.member_id).collect();
                let skips = joined.skip_assignment;
                client.phase = Phase::MustSync(if skips { Vec::new() } else { members });
            }
            Response::Sync(Ok(_)) => self.clients[index].phase = Phase::Stable,
            Response::Join(Err(error)) | Response::Sync(Err(error)) => self.failed(index, &error),
            other => panic!("{other:?} is no answer to a join or a sync"),
        }
    }

    fn failed(&mut self, index: usize, error: &GroupError) {
        let client = &mut self.clients[index];
        if client.is_stuck && *error == GroupError::RebalanceInProgress {
            return;
        }
        client.is_stuck = false;
        client.phase = Phase::MustJoin;
        match error {
            GroupError::MemberIdRequired(id) => client.member_id.clone_from(id),
            GroupError::UnknownMemberId => client.member_id.clear(),
            GroupError::FencedInstanceId | GroupError::GroupMaxSizeReached => {
                client.is_alive = false;
                client.forget();
            }
            GroupError::RebalanceInProgress
            | GroupError::IllegalGeneration
            | GroupError::CoordinatorNotAvailable => {}
            other => panic!("a well-behaved client is told: {other}"),
        }
    }

    fn life(&self, group: &'static str) -> u32 {
        self.lives.get(group).copied().unwrap_or_default()
    }

    fn check_joined(&mut self, group: &'static str, joined: &Joined) {
        assert_eq!(joined.members.is_empty(), joined.leader != joined.member_id, "only the leader knows all");
        let key = (group, self.crashes, self.life(group), joined.generation);
        // A static leader that comes back leads under a new id.
        let leader = if joined.skip_assignment { String::new() } else { joined.leader.clone() };
        let (protocol, first_leader) =
            self.told.entry(key).or_insert((joined.protocol.clone(), leader.clone()));
        assert_eq!(*protocol, joined.protocol, "generation {} has one protocol", joined.generation);
        let is_static = |id: &str| id.starts_with('i');
        if !is_static(first_leader) && !is_static(&leader) && !first_leader.is_empty() && !leader.is_empty() {
            assert_eq!(*first_leader, leader, "generation {} has one leader", joined.generation);
        }
    }

    fn check_synced(&mut self, group: &'static str, generation: i32, assignment: &Bytes) {
        self.syncs_answered += 1;
        let source = String::from_utf8(assignment.to_vec()).unwrap();
        if !source.is_empty() {
            assert_eq!(
                self.sync_generations.get(&source),
                Some(&generation),
                "an assignment of another generation"
            );
        }
        let key = (group, self.life(group), generation);
        let first = self.assigned.entry(key).or_insert_with(|| source.clone());
        assert_eq!(*first, source, "generation {generation} of {group} has one assignment");
    }

    fn check(&mut self) {
        for (request, outstanding) in &self.outstanding {
            let waited = self.driver.now.monotonic - outstanding.since;
            assert!(waited <= WAIT_MAX, "{request:?} has waited for {waited:?}");
        }
        for ((group, partition), acknowledged) in &self.acknowledged {
            let visible = self.driver.groups.committed(group, "t", *partition, false).unwrap();
            let visible = visible.map(|committed| committed.offset);
            assert!(visible >= Some(*acknowledged), "{group} {partition}: {visible:?}, was {acknowledged}");
        }
        if self.below(20) == 0 {
            self.check_restore();
        }
        // A disk may be slow, not stuck.
        while self.driver.stores.len() > 20 {
            self.end_store();
        }
    }

    fn check_restore(&self) {
        let mut restore = Restore::default();
        for record in &self.driver.log {
            restore.apply(&record.key, record.value.as_deref()).unwrap();
        }
        let random = Arc::new(SeededRandom::new(0));
        let (restored, _) =
            restore.finish(self.driver.config.clone(), random, &BTreeMap::new(), self.driver.now);
        for group in GROUPS {
            let offsets = |groups: &Groups| -> Vec<_> {
                let all = groups.all_committed(group, false);
                all.map(|(topic, partition, offset)| (topic.to_owned(), partition, offset.unwrap().clone()))
                    .collect()
            };
            assert_eq!(offsets(&restored), offsets(&self.driver.groups), "{group} after a restart");
            // A silent static member may make a group larger than it should be; such a one rebalances when restored.
            let is_settled = self.driver.groups.describe(group).is_some_and(|group| {
                group.state == GroupState::Stable && group.members.len() <= self.driver.config.members_max
            });
            if is_settled && self.driver.stores.is_empty() {
                assert_eq!(
                    restored.describe(group),
                    self.driver.groups.describe(group),
                    "{group} after a restart"
                );
            }
        }
    }

    /// Without faults, those who live get together.
    fn calm(&mut self) {
        for client in &mut self.clients {
            client.is_stuck = false;
        }
        for _ in 0..300 {
            while !self.driver.stores.is_empty() {
                self.end_store_with(Ok(()));
            }
            for index in 0..CLIENTS {
                match self.clients[index].phase {
                    Phase::Stable => self.heartbeat(index),
                    _ => self.act(index),
                }
            }
            self.advance(1000);
            self.check();
        }
        for group in GROUPS {
            let alive: Vec<&Client> =
                self.clients.iter().filter(|client| client.group == group && client.is_alive).collect();
            for client in &alive {
                assert_eq!(
                    (&client.phase, client.generation),
                    (&Phase::Stable, alive[0].generation),
                    "{group}"
                );
            }
            let members = self.driver.groups.describe(group).map_or(0, |group| group.members.len());
            assert_eq!(members, alive.len(), "{group} has those who live, and no others");
        }
    }

    /// When all are silent, everything ends.
    fn end(&mut self) {
        for index in 0..CLIENTS {
            self.die(index);
        }
        for _ in 0..60 {
            self.advance(10_000);
            while !self.driver.stores.is_empty() {
                self.end_store_with(Ok(()));
            }
        }
        assert!(self.outstanding.is_empty(), "{:?}", self.outstanding.keys());
        for group in GROUPS {
            let members = self.driver.groups.describe(group).map_or(0, |group| group.members.len());
            assert_eq!(members, 0);
        }
        self.check_restore();
    }
}

impl Client {
    fn forget(&mut self) {
        self.member_id.clear();
        self.generation = -1;
        self.is_stuck = false;
        self.phase = Phase::MustJoin;
    }
}
