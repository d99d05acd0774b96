//! Behaviour of the coordinator as its driver sees it.

mod consumer;
mod consumer_simulation;
mod members;
mod migration;
mod offsets;
mod rebalances;
mod scale;
mod simulation;
mod statics;
mod transactions;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::seam::SeededRandom;
use bytes::Bytes;

use self::consumer::TestTopics;
use super::consumer_protocol::Subscription;
use super::event::{Commit, CommitOffset, Join, Joined, Leaver, Sync, Synced};
use super::record::EncodedRecord;
use super::{
    Effect, GroupConfig, GroupError, Groups, Heartbeat, Now, RequestId, Response, Restore, StoreError,
    StoreToken,
};

const GROUP: &str = "g";

/// A driver without a disk: stores end when the test says so.
struct Driver {
    groups: Groups,
    config: GroupConfig,
    now: Now,
    last_request: u64,
    answers: BTreeMap<RequestId, Response>,
    stores: VecDeque<(StoreToken, Vec<EncodedRecord>)>,
    log: Vec<EncodedRecord>,
    /// Stores end at once, well.
    is_prompt: bool,
}

impl Driver {
    fn new() -> Self {
        Self::with(GroupConfig::default())
    }

    fn with(config: GroupConfig) -> Self {
        let now = Now { monotonic: Duration::from_secs(1000), unix_ms: 1_700_000_000_000 };
        Self {
            groups: Groups::new(config.clone(), Arc::new(SeededRandom::new(1)), now),
            config,
            now,
            last_request: 0,
            answers: BTreeMap::new(),
            stores: VecDeque::new(),
            log: Vec::new(),
            is_prompt: true,
        }
    }

    fn next(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer { request, response } => {
                    let before = self.answers.insert(request, response);
                    assert_eq!(before, None, "{request:?} is answered twice");
                }
                Effect::Store { token, records, .. } => self.stores.push_back((token, records)),
            }
        }
        while self.is_prompt && !self.stores.is_empty() {
            self.end_store(Ok(()));
        }
    }

    /// Ends the oldest store.
    fn end_store(&mut self, outcome: Result<(), StoreError>) {
        let (token, records) = self.stores.pop_front().expect("a store is under way");
        if outcome.is_ok() {
            self.log.extend(records);
        }
        let effects = self.groups.stored(token, outcome, self.now);
        self.perform(effects);
    }

    fn advance(&mut self, by: Duration) {
        self.now.monotonic += by;
        self.now.unix_ms += i64::try_from(by.as_millis()).unwrap();
        let effects = self.groups.tick(self.now);
        self.perform(effects);
    }

    /// The same groups after a restart.
    fn restart(&mut self) {
        self.restart_among(&TestTopics::default());
    }

    fn restart_among(&mut self, topics: &TestTopics) {
        let mut restore = Restore::default();
        for record in &self.log {
            restore.apply(&record.key, record.value.as_deref()).unwrap();
        }
        let random = Arc::new(SeededRandom::new(self.last_request));
        let (groups, effects) = restore.finish(self.config.clone(), random, topics.all(), self.now);
        self.groups = groups;
        self.stores.clear();
        self.perform(effects);
    }

    fn send_join(&mut self, join: Join) -> RequestId {
        self.send_join_among(join, &TestTopics::default())
    }

    fn send_join_among(&mut self, join: Join, topics: &TestTopics) -> RequestId {
        let request = self.next();
        let effects = self.groups.join(request, join, topics, self.now);
        self.perform(effects);
        request
    }

    fn send_sync(&mut self, sync: Sync) -> RequestId {
        let request = self.next();
        let effects = self.groups.sync(request, sync, self.now);
        self.perform(effects);
        request
    }

    fn send_commit(&mut self, commit: Commit) -> RequestId {
        let request = self.next();
        let effects = self.groups.commit(request, commit, self.now);
        self.perform(effects);
        request
    }

    fn leave(&mut self, leavers: &[Leaver]) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let request = self.next();
        let effects = self.groups.leave(request, GROUP, leavers, self.now);
        self.perform(effects);
        match self.answer(request) {
            Response::Leave(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn heartbeat(&mut self, member_id: &str, generation: i32) -> Result<(), GroupError> {
        let heartbeat = Heartbeat { group: GROUP, member_id, instance_id: None, generation };
        self.groups.heartbeat(heartbeat, &TestTopics::default(), self.now)
    }

    fn waits(&self, request: RequestId) -> bool {
        !self.answers.contains_key(&request)
    }

    fn answer(&mut self, request: RequestId) -> Response {
        self.answers.remove(&request).expect("the request is answered")
    }

    fn joined(&mut self, request: RequestId) -> Result<Joined, GroupError> {
        match self.answer(request) {
            Response::Join(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn synced(&mut self, request: RequestId) -> Result<Synced, GroupError> {
        match self.answer(request) {
            Response::Sync(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn committed(&mut self, request: RequestId) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        match self.answer(request) {
            Response::Commit(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn state(&self) -> &'static str {
        self.groups.describe(GROUP).map_or("Dead", |group| group.state.name())
    }

    /// Members that join one generation together, and hold it: the leader first. Each is assigned its own id.
    fn stable(&mut self, joins: Vec<Join>) -> Vec<Joined> {
        let mut waiting: Vec<(Join, RequestId)> = Vec::new();
        for join in joins {
            let request = self.send_join(join.clone());
            waiting.push((join, request));
        }
        // Who came first is in a generation of its own by now, and joins again when it hears of the others.
        let mut members: Vec<Joined> = Vec::new();
        for (join, request) in &mut waiting {
            if let Some(Response::Join(Ok(joined))) = self.answers.remove(request) {
                join.member_id = joined.member_id;
                *request = self.send_join(join.clone());
            }
        }
        for (_, request) in waiting {
            let joined = self.joined(request).unwrap();
            members.push(joined);
        }
        members.sort_by_key(|member| member.member_id != member.leader);
        let ids: Vec<String> = members.iter().map(|member| member.member_id.clone()).collect();
        let mut requests = Vec::new();
        for member in &members {
            let assignments = if member.member_id == member.leader { ids.as_slice() } else { &[] };
            requests.push(self.send_sync(sync(member, assignments)));
        }
        for (request, id) in requests.into_iter().zip(&ids) {
            assert_eq!(self.synced(request).unwrap().assignment, *id);
        }
        assert_eq!(self.state(), "Stable");
        members
    }
}

fn join(client: &str) -> Join {
    Join {
        group: GROUP.into(),
        member_id: String::new(),
        instance_id: None,
        client_id: client.into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), subscription(&["t"]))],
        require_known_member_id: false,
        can_skip_assignment: true,
    }
}

fn static_join(instance: &str) -> Join {
    Join { instance_id: Some(instance.into()), ..join("c") }
}

/// The join of a member that has been in the group.
fn again(join: Join, member: &Joined) -> Join {
    Join { member_id: member.member_id.clone(), ..join }
}

fn subscription(topics: &[&str]) -> Bytes {
    Subscription::to(topics.iter().map(|topic| (*topic).to_owned()).collect()).encode(1)
}

/// A member's sync; the assignment of each is its own id.
fn sync(member: &Joined, assigned: &[String]) -> Sync {
    Sync {
        group: GROUP.into(),
        member_id: member.member_id.clone(),
        instance_id: None,
        generation: member.generation,
        protocol_type: None,
        protocol: None,
        assignments: assigned.iter().map(|id| (id.clone(), Bytes::from(id.clone()))).collect(),
    }
}

fn leaver(member_id: &str, instance_id: Option<&str>) -> Leaver {
    Leaver { member_id: member_id.into(), instance_id: instance_id.map(str::to_owned) }
}

/// A commit for `t-0`, by nobody.
fn commit(offset: i64) -> Commit {
    Commit {
        group: GROUP.into(),
        member_id: String::new(),
        instance_id: None,
        generation: -1,
        by_epoch: true,
        retention_ms: None,
        offsets: vec![CommitOffset {
            topic: "t".into(),
            partition: 0,
            offset,
            leader_epoch: 0,
            metadata: "m".into(),
        }],
    }
}

fn commit_by(member: &Joined, offset: i64) -> Commit {
    Commit { member_id: member.member_id.clone(), generation: member.generation, ..commit(offset) }
}
