//! Consumers in the classic protocol, as Java's drives it: eager ones, which give everything up before they join, and cooperative
//! ones, which go on with what they have, and join once more when they have given something up.

use super::*;
use crate::group::Heartbeat;
use crate::group::consumer_protocol::{Assignment, Subscriber, Subscription, assign_ranges};

const EAGER: &str = "range";
const COOPERATIVE: &str = "cooperative-sticky";

/// What a classic member knows besides what every member does.
#[derive(Debug, Default)]
pub(super) struct Classic {
    /// From the coordinator; empty: it has none.
    member_id: String,
    pub(super) must_join: bool,
    /// The catalogue that it assigned by, if it leads.
    leads_since: Option<u64>,
    /// What it joined with.
    subscribed: Vec<String>,
    said: BTreeSet<Place>,
}

impl Simulation {
    fn classic(&mut self, index: usize) -> &mut Classic {
        self.clients[index].classic.as_mut().expect("the client speaks the classic protocol")
    }

    pub(super) fn act_classic(&mut self, index: usize) {
        let client = &self.clients[index];
        if !client.is_alive || client.is_silent || client.waits.is_some() {
            return;
        }
        let version = self.topics.version();
        let wanted = self.wanted(index);
        let epoch = client.epoch;
        let classic = self.classic(index);
        let has_news =
            classic.subscribed != wanted || classic.leads_since.is_some_and(|seen| seen != version);
        if epoch == 0 || classic.must_join || has_news {
            return self.join_classic(index, wanted);
        }
        let heartbeat = Heartbeat {
            group: GROUP,
            member_id: &self.clients[index].classic.as_ref().unwrap().member_id,
            instance_id: self.clients[index].instance_id.as_deref(),
            generation: epoch,
        };
        match self.driver.groups.heartbeat(heartbeat, &self.topics, self.driver.now) {
            Ok(()) => self.clients[index].heard = self.driver.now.monotonic,
            Err(GroupError::RebalanceInProgress) => {
                self.clients[index].heard = self.driver.now.monotonic;
                self.classic(index).must_join = true;
            }
            Err(error) => self.refused(index, &error),
        }
    }

    /// By name, and by expression as the client looks at it.
    fn wanted(&self, index: usize) -> Vec<String> {
        let client = &self.clients[index];
        let named = client.topics.iter().copied();
        let matched = self.topics.names().filter(|name| client.wants(name));
        let all: BTreeSet<&str> = named.chain(matched).collect();
        all.into_iter().map(str::to_owned).collect()
    }

    fn join_classic(&mut self, index: usize, wanted: Vec<String>) {
        let is_cooperative = self.is_cooperative;
        let named = |topics: &TestTopics, places: &BTreeSet<Place>| -> Vec<(String, Vec<i32>)> {
            let mut named: BTreeMap<String, Vec<i32>> = BTreeMap::new();
            for (topic, partition) in places {
                let name = topics.names().find(|name| topics.id(name) == *topic).expect("topics stay");
                named.entry(name.to_owned()).or_default().push(*partition);
            }
            named.into_iter().collect()
        };
        let client = &mut self.clients[index];
        if !is_cooperative {
            client.owned.clear();
        }
        let generation = if client.epoch == 0 { -1 } else { client.epoch };
        let subscription = Subscription {
            owned: named(&self.topics, &client.owned),
            generation,
            ..Subscription::to(wanted.clone())
        };
        let classic = client.classic.as_mut().unwrap();
        classic.subscribed = wanted;
        classic.said.clone_from(&client.owned);
        classic.must_join = true;
        classic.leads_since = None;
        let join = Join {
            member_id: classic.member_id.clone(),
            instance_id: client.instance_id.clone(),
            session_timeout_ms: 45_000,
            rebalance_timeout_ms: 600_000,
            protocols: vec![(
                if is_cooperative { COOPERATIVE } else { EAGER }.to_owned(),
                subscription.encode(if is_cooperative { 3 } else { 0 }),
            )],
            require_known_member_id: true,
            ..join("c")
        };
        let request = self.driver.next();
        self.wait(index, request);
        let effects = self.driver.groups.join(request, join, &self.topics, self.driver.now);
        self.perform(effects);
    }

    fn wait(&mut self, index: usize, request: RequestId) {
        self.clients[index].waits = Some((request, self.driver.now.monotonic));
        self.outstanding.insert(request, Some(index));
    }

    pub(super) fn joined(&mut self, index: usize, answer: Result<Joined, GroupError>) {
        let joined = match answer {
            Ok(joined) => joined,
            Err(GroupError::MemberIdRequired(id)) => return self.classic(index).member_id = id,
            Err(error) => return self.refused(index, &error),
        };
        let version = self.topics.version();
        self.clients[index].heard = self.driver.now.monotonic;
        self.clients[index].epoch = joined.generation;
        let leads = joined.leader == joined.member_id;
        let assignments = if leads { self.lead(&joined) } else { Vec::new() };
        let classic = self.classic(index);
        classic.member_id.clone_from(&joined.member_id);
        classic.leads_since = leads.then_some(version);
        let sync = Sync {
            group: GROUP.into(),
            member_id: joined.member_id,
            instance_id: self.clients[index].instance_id.clone(),
            generation: joined.generation,
            protocol_type: joined.protocol_type,
            protocol: joined.protocol,
            assignments,
        };
        let request = self.driver.next();
        self.wait(index, request);
        let effects = self.driver.groups.sync(request, sync, self.driver.now);
        self.perform(effects);
    }

    pub(super) fn synced(&mut self, index: usize, answer: Result<Synced, GroupError>) {
        let synced = match answer {
            Ok(synced) => synced,
            Err(error) => return self.refused(index, &error),
        };
        let assignment = Assignment::decode(&synced.assignment).unwrap();
        let topics = &self.topics;
        let target: BTreeSet<Place> = assignment
            .partitions
            .into_iter()
            .flat_map(|(name, all)| all.into_iter().map(move |partition| (topics.id(&name), partition)))
            .collect();
        self.assignments += 1;
        let client = &mut self.clients[index];
        // A client whose session is over has abandoned all, and reads nothing before it is heard again.
        if client.epoch == 0 {
            return;
        }
        // Also what it said that it has, and has lost while it waited: the leader has kept that from others.
        let said = std::mem::take(&mut client.classic.as_mut().unwrap().said);
        let has_given_up = said.union(&client.owned).any(|place| !target.contains(place));
        client.owned = target;
        self.classic(index).must_join = has_given_up;
    }

    fn refused(&mut self, index: usize, error: &GroupError) {
        self.classic(index).must_join = true;
        match error {
            GroupError::RebalanceInProgress | GroupError::CoordinatorNotAvailable => {}
            GroupError::IllegalGeneration => self.clients[index].abandon(),
            GroupError::UnknownMemberId => {
                self.clients[index].abandon();
                self.classic(index).member_id.clear();
            }
            GroupError::FencedInstanceId | GroupError::InconsistentGroupProtocol => self.die(index),
            other => panic!("a well-behaved client is told: {other}"),
        }
    }

    /// Static members go without a word.
    pub(super) fn leave_classic(&mut self, index: usize) {
        let client = &self.clients[index];
        let member_id = client.classic.as_ref().unwrap().member_id.clone();
        let is_static = client.instance_id.is_some();
        self.die(index);
        if !is_static {
            let request = self.driver.next();
            self.outstanding.insert(request, None);
            let effects =
                self.driver.groups.leave(request, GROUP, &[leaver(&member_id, None)], self.driver.now);
            self.perform(effects);
        }
    }

    /// What the leader of a classic group assigns.
    fn lead(&self, joined: &Joined) -> Vec<(String, Bytes)> {
        let counts: BTreeMap<String, i32> =
            self.topics.names().map(|name| (name.to_owned(), self.topics.get(name).unwrap().1)).collect();
        let read = |metadata: &Bytes| Subscription::decode(metadata).unwrap();
        let subscribers: Vec<Subscriber> = joined
            .members
            .iter()
            .map(|member| Subscriber {
                member_id: member.member_id.clone(),
                instance_id: member.instance_id.clone(),
                topics: read(&member.metadata).topics,
            })
            .collect();
        // In a cooperative protocol nobody gets what another has, before that one has joined without it.
        let mut had: BTreeMap<(String, i32), BTreeSet<&str>> = BTreeMap::new();
        for member in &joined.members {
            for (name, partitions) in read(&member.metadata).owned {
                for partition in partitions {
                    had.entry((name.clone(), partition)).or_default().insert(&member.member_id);
                }
            }
        }
        let assigned = assign_ranges(&counts, &subscribers);
        let tell = |(id, partitions): (String, Vec<anabranch_core::TopicPartition>)| {
            let mut named: BTreeMap<String, Vec<i32>> = BTreeMap::new();
            for at in partitions {
                let owners = had.get(&(at.topic.clone(), at.partition));
                if owners.is_none_or(|owners| owners.iter().all(|owner| *owner == id)) {
                    named.entry(at.topic).or_default().push(at.partition);
                }
            }
            let assignment = Assignment { partitions: named.into_iter().collect(), user_data: None };
            (id, assignment.encode(1))
        };
        assigned.into_iter().map(tell).collect()
    }
}
