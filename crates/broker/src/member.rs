//! A member of a group inside the process. It speaks Kafka's consumer protocol, so it shares groups with clients of the
//! network; with others of its kind it uses the range assignor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::engine::{EngineError, GroupEvent, GroupMember, Position};
use anabranch_core::{Offset, TopicPartition};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::broker::Broker;
use crate::group::consumer_protocol::{
    Assignment, RANGE, Subscriber, Subscription, assign_ranges, subscribed_topics,
};
use crate::group::event::{Commit, CommitOffset, Join, Joined, Leaver, Sync};
use crate::group::{GroupError, Heartbeat, IN_PROCESS};

/// As Kafka's clients ask for (`session.timeout.ms`), within the broker's bounds.
const SESSION_TIMEOUT_MS: i64 = 45_000;
/// How long a rebalance waits for a member that does not call `next_event` (`max.poll.interval.ms` of Kafka's clients).
const REBALANCE_TIMEOUT_MS: i32 = 300_000;
/// A heartbeat inside the process costs a lock, so a rebalance is noticed sooner than Kafka's 3 s.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(200);
const PROTOCOL_TYPE: &str = "consumer";
/// Subscriptions and assignments say nothing here that needs a later one.
const PROTOCOL_VERSION: i16 = 0;

/// One consumer of a group.
#[derive(Debug)]
pub(crate) struct Member {
    me: Arc<Identity>,
    phase: Phase,
    generation: i32,
    /// What it reads now, or has until it joins again.
    owned: BTreeSet<TopicPartition>,
}

#[derive(Debug)]
struct Identity {
    broker: Broker,
    group: String,
    topics: Vec<String>,
    session_timeout_ms: i32,
    /// Empty until the coordinator has given one; protects the id, held to copy or replace it only.
    member_id: Mutex<String>,
}

#[derive(Debug)]
enum Phase {
    /// It must join the next generation.
    Outside,
    /// It waits for the others.
    Joining(JoinHandle<Result<Membership, GroupError>>),
    /// It reads; the task sends heartbeats until the coordinator says that this is over.
    Inside(JoinHandle<GroupError>),
}

/// A member's place in one generation.
#[derive(Debug)]
struct Membership {
    generation: i32,
    assigned: Vec<TopicPartition>,
    /// What the leader saw when it assigned: when that changes, it assigns anew.
    seen: Option<BTreeMap<String, i32>>,
}

impl Member {
    /// A member that joins when its first event is asked for.
    pub(crate) fn new(broker: Broker, group: &str, topics: &[String]) -> Result<Self, EngineError> {
        let refused =
            |reason: &str| Err(EngineError::Refused { topic: group.to_owned(), reason: reason.to_owned() });
        if group.is_empty() {
            return refused("a group has a name");
        }
        if topics.is_empty() {
            return refused("a member of a group reads at least one topic");
        }
        let number = |name: &str| broker.config().number(name);
        let least = number("group.min.session.timeout.ms");
        let most = number("group.max.session.timeout.ms").max(least);
        let me = Identity {
            group: group.to_owned(),
            topics: topics.to_vec(),
            session_timeout_ms: SESSION_TIMEOUT_MS.clamp(least, most) as i32,
            member_id: Mutex::default(),
            broker,
        };
        Ok(Self { me: Arc::new(me), phase: Phase::Outside, generation: -1, owned: BTreeSet::new() })
    }

    /// What stores that the group stands at `positions`.
    pub(crate) fn commit_of(&self, positions: &[(TopicPartition, Position)]) -> Commit {
        let member_id = self.me.member_id.lock().clone();
        Commit { member_id, generation: self.generation, ..commit_of(&self.me.group, positions) }
    }

    /// What an assignment means: from where to read each partition.
    async fn settle(&mut self, membership: Membership) -> GroupEvent {
        let Membership { generation, assigned, seen } = membership;
        let asked: Vec<(String, i32)> = assigned.iter().map(|at| (at.topic.clone(), at.partition)).collect();
        let committed = self.me.broker.groups().fetch_offsets(&self.me.group, &asked, false).await;
        let place = |offset: i64| Offset(offset.max(0)).into();
        let positions =
            committed.into_iter().map(|found| found.ok().flatten().map(|found| place(found.offset)));
        self.generation = generation;
        self.owned = assigned.iter().cloned().collect();
        self.phase = Phase::Inside(tokio::spawn(Arc::clone(&self.me).beat(generation, seen)));
        GroupEvent::Assigned(assigned.into_iter().zip(positions).collect())
    }
}

#[async_trait]
impl GroupMember for Member {
    async fn next_event(&mut self) -> Result<GroupEvent, EngineError> {
        loop {
            match &mut self.phase {
                Phase::Outside => {
                    self.owned.clear();
                    self.phase = Phase::Joining(tokio::spawn(Arc::clone(&self.me).enter()));
                }
                Phase::Joining(joining) => {
                    let joined = joining.await;
                    self.phase = Phase::Outside;
                    match joined.map_err(|_| EngineError::Closed)? {
                        Ok(membership) => return Ok(self.settle(membership).await),
                        Err(error) => return Err(self.me.blame(error)),
                    }
                }
                Phase::Inside(beating) => {
                    let over = beating.await;
                    self.phase = Phase::Outside;
                    tracing::debug!(group = self.me.group, ?over, "a member's generation is over");
                    if self.owned.is_empty() {
                        continue;
                    }
                    // While the group waits for its members to join again, it takes their commits.
                    return match over {
                        Ok(GroupError::RebalanceInProgress) => {
                            Ok(GroupEvent::Revoked(self.owned.iter().cloned().collect()))
                        }
                        _ => Ok(GroupEvent::Lost(std::mem::take(&mut self.owned).into_iter().collect())),
                    };
                }
            }
        }
    }

    async fn commit(&mut self, positions: &[(TopicPartition, Position)]) -> Result<(), EngineError> {
        if let Some((lost, _)) = positions.iter().find(|(at, _)| !self.owned.contains(at)) {
            return Err(self.me.fenced(format!("{lost} is not assigned to it")));
        }
        let commit = self.commit_of(positions);
        let answers = self.me.broker.groups().commit(commit).await.map_err(|error| self.me.blame(error))?;
        match answers.into_iter().find_map(Result::err) {
            Some(error) => Err(self.me.blame(error)),
            None => Ok(()),
        }
    }

    async fn leave(mut self: Box<Self>) -> Result<(), EngineError> {
        self.owned.clear();
        let leaving = self.stop();
        match leaving.await {
            // It was sent away already.
            Ok(()) | Err(GroupError::UnknownMemberId) => Ok(()),
            Err(error) => Err(self.me.blame(error)),
        }
    }
}

impl Member {
    /// Ends its tasks; the future tells the coordinator.
    fn stop(&mut self) -> impl Future<Output = Result<(), GroupError>> + Send + use<> {
        match std::mem::replace(&mut self.phase, Phase::Outside) {
            Phase::Outside => {}
            Phase::Joining(task) => task.abort(),
            Phase::Inside(task) => task.abort(),
        }
        let me = Arc::clone(&self.me);
        let member_id = std::mem::take(&mut *me.member_id.lock());
        async move {
            if member_id.is_empty() {
                return Ok(());
            }
            let leaver = Leaver { member_id, instance_id: None };
            let answers = me.broker.groups().leave(&me.group, vec![leaver]).await?;
            answers.into_iter().collect()
        }
    }
}

impl Drop for Member {
    /// Where there is a runtime, the others take over at once; otherwise when the session times out.
    fn drop(&mut self) {
        let leaving = self.stop();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(leaving);
        }
    }
}

impl Identity {
    /// Joins and syncs until there is an assignment.
    async fn enter(self: Arc<Self>) -> Result<Membership, GroupError> {
        loop {
            match self.try_enter().await {
                Err(GroupError::MemberIdRequired(id)) => *self.member_id.lock() = id,
                Err(GroupError::UnknownMemberId) => self.member_id.lock().clear(),
                Err(GroupError::RebalanceInProgress | GroupError::IllegalGeneration) => {}
                outcome => return outcome,
            }
        }
    }

    async fn try_enter(&self) -> Result<Membership, GroupError> {
        let joined = self.broker.groups().join(self.join_request(), || self.broker.topics()).await?;
        let (assignments, seen) = match joined.leader == joined.member_id {
            true => {
                let (assignments, seen) = self.assign(&joined);
                (assignments, Some(seen))
            }
            false => (Vec::new(), None),
        };
        let sync = Sync {
            group: self.group.clone(),
            member_id: joined.member_id,
            instance_id: None,
            generation: joined.generation,
            protocol_type: joined.protocol_type,
            protocol: joined.protocol,
            assignments,
        };
        let synced = self.broker.groups().sync(sync).await?;
        let assignment = Assignment::decode(&synced.assignment).map_err(|_| GroupError::InvalidRequest)?;
        let assigned = assignment.partitions.into_iter().flat_map(|(topic, numbers)| {
            numbers.into_iter().map(move |number| TopicPartition::new(topic.clone(), number))
        });
        Ok(Membership { generation: joined.generation, assigned: assigned.collect(), seen })
    }

    fn join_request(&self) -> Join {
        let subscription = Subscription::to(self.topics.clone()).encode(PROTOCOL_VERSION);
        Join {
            group: self.group.clone(),
            member_id: self.member_id.lock().clone(),
            instance_id: None,
            client_id: "anabranch".to_owned(),
            client_host: IN_PROCESS.to_owned(),
            session_timeout_ms: self.session_timeout_ms,
            rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
            protocol_type: PROTOCOL_TYPE.to_owned(),
            protocols: vec![(RANGE.to_owned(), subscription)],
            require_known_member_id: true,
            can_skip_assignment: false,
        }
    }

    /// The leader's work: who reads what, and what there was to read.
    fn assign(&self, joined: &Joined) -> (Vec<(String, Bytes)>, BTreeMap<String, i32>) {
        let subscribers: Vec<Subscriber> = joined
            .members
            .iter()
            .map(|member| Subscriber {
                member_id: member.member_id.clone(),
                instance_id: member.instance_id.clone(),
                // A member whose bytes cannot be read gets nothing, and the others go on.
                topics: subscribed_topics(&member.metadata).unwrap_or_default(),
            })
            .collect();
        let wanted = subscribers.iter().flat_map(|subscriber| subscriber.topics.clone());
        let counts = self.partition_counts(wanted);
        let assignments = assign_ranges(&counts, &subscribers);
        let encode = |(member_id, partitions): (String, Vec<TopicPartition>)| {
            let mut by_topic: BTreeMap<String, Vec<i32>> = BTreeMap::new();
            for at in partitions {
                by_topic.entry(at.topic).or_default().push(at.partition);
            }
            let assignment = Assignment { partitions: by_topic.into_iter().collect(), user_data: None };
            (member_id, assignment.encode(PROTOCOL_VERSION))
        };
        // Topics that are not there yet are watched too.
        let watched = subscribers.iter().flat_map(|subscriber| &subscriber.topics);
        let seen = watched.map(|topic| (topic.clone(), counts.get(topic).copied().unwrap_or(0))).collect();
        (assignments.into_iter().map(encode).collect(), seen)
    }

    fn partition_counts(&self, topics: impl Iterator<Item = String>) -> BTreeMap<String, i32> {
        let catalogue = self.broker.topics();
        topics.filter_map(|name| Some((name.clone(), catalogue.get(&name)?.partition_count()))).collect()
    }

    /// Sends heartbeats until the generation is over.
    async fn beat(self: Arc<Self>, generation: i32, seen: Option<BTreeMap<String, i32>>) -> GroupError {
        let member_id = self.member_id.lock().clone();
        loop {
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
            let heartbeat =
                Heartbeat { group: &self.group, member_id: &member_id, instance_id: None, generation };
            if let Err(over) = self.broker.groups().heartbeat(&heartbeat, || self.broker.topics()).await {
                return over;
            }
            if seen.as_ref().is_some_and(|seen| self.has_changed(seen)) {
                return GroupError::RebalanceInProgress;
            }
        }
    }

    fn has_changed(&self, seen: &BTreeMap<String, i32>) -> bool {
        let catalogue = self.broker.topics();
        seen.iter()
            .any(|(name, count)| catalogue.get(name).map_or(0, |topic| topic.partition_count()) != *count)
    }

    fn fenced(&self, reason: String) -> EngineError {
        EngineError::Fenced { group: self.group.clone(), reason }
    }

    fn refused(&self, error: &GroupError) -> EngineError {
        EngineError::Refused { topic: self.group.clone(), reason: error.to_string() }
    }

    /// What the coordinator says, in the engine's words.
    fn blame(&self, error: GroupError) -> EngineError {
        match error {
            GroupError::UnknownMemberId
            | GroupError::IllegalGeneration
            | GroupError::FencedInstanceId
            | GroupError::RebalanceInProgress
            | GroupError::Dismissed
            | GroupError::GroupIdNotFound => self.fenced(error.to_string()),
            GroupError::CoordinatorNotAvailable if self.broker.groups().is_closed() => EngineError::Closed,
            GroupError::CoordinatorNotAvailable if let Some(to) = self.broker.redirected_to() => {
                self.refused(&GroupError::Moved(to.into()))
            }
            GroupError::CoordinatorNotAvailable | GroupError::UnknownServerError => {
                EngineError::Failed(Box::new(error))
            }
            other => self.refused(&other),
        }
    }
}

/// The same without a member.
pub(crate) fn commit_of(group: &str, positions: &[(TopicPartition, Position)]) -> Commit {
    Commit {
        group: group.to_owned(),
        member_id: String::new(),
        instance_id: None,
        generation: -1,
        by_epoch: false,
        retention_ms: None,
        offsets: positions.iter().map(|(at, next)| commit_offset(at, *next)).collect(),
    }
}

fn commit_offset(at: &TopicPartition, next: Position) -> CommitOffset {
    CommitOffset {
        topic: at.topic.clone(),
        partition: at.partition,
        offset: Offset::from(next).0,
        leader_epoch: crate::partition::LEADER_EPOCH.0,
        metadata: String::new(),
    }
}
