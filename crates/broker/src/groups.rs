//! Groups, for many callers at a time: drives the coordinator of [`crate::group`].
//!
//! Callers put their requests into the coordinator under a lock and wait for their answers outside of it. One task
//! writes what the coordinator wants stored: whatever has gathered while one append was under way goes into the next.
//! Another lets time do its work.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::batch::{EndKind, Record};
use anabranch_core::seam::{Clock, Random};
use anabranch_core::{ProducerId, TopicId, TopicPartition};
use anabranch_log::{AppendError, Gate};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::catalogue::Catalogue;
use crate::config::broker::BrokerConfig;
use crate::config::group::{GroupConfigs, consumer_config, overrides};
use crate::driver::{Waiting, keep_time};
use crate::error::{BrokerError, ConfigError};
use crate::group::config::ConsumerOverrides;
use crate::group::consumer_protocol;
use crate::group::event::{Commit, DescribedGroup, Join, Joined, Leaver, ListedGroup, Sync, Synced};
use crate::group::record::{CommittedOffset, EncodedRecord};
use crate::group::{
    Beat, ConsumerHeartbeat, DescribedConsumerGroup, Effect, GroupConfig, GroupError, Groups, Heartbeat,
    InTransaction, Now, RequestId, Response, Restore,
};
use crate::group::{StoreError, StoreToken};
use crate::journal::Journal;
use crate::tasks::blocking;

/// Stores are gathered up to about this many bytes for one append.
const ROUND_BYTES: usize = 1 << 20;
/// A record larger than this is refused; a group's record holds what all of its members say.
const RECORD_BYTES_MAX: usize = 32 << 20;

/// The groups of a broker.
pub struct GroupService {
    driver: Arc<Driver>,
    timer: JoinHandle<()>,
    /// Taken by whoever closes.
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Driver {
    journal: Journal,
    clock: Arc<dyn Clock>,
    /// Protects the coordinator and who waits for it; never held across an await.
    state: Mutex<State>,
    /// There is something to store, or nothing will come any more.
    stores_wake: Notify,
    /// Something happens by itself earlier than the timer knows.
    timer_wake: Notify,
}

struct State {
    groups: Groups,
    waiting: Waiting<Response>,
    /// Bounded by [`GroupConfig::stores_in_flight_max`], and by one more per group.
    stores: VecDeque<Store>,
    /// Who waits for a store without an answer.
    stored_watches: HashMap<StoreToken, oneshot::Sender<bool>>,
    /// What the timer waits for.
    timer_until: Option<Duration>,
    /// Topics for which not everybody may commit, since they are moved elsewhere.
    gates: HashMap<String, Gate>,
    /// Commits that were let in and are not answered.
    commits: usize,
    /// Groups have their members elsewhere from now on: of those here, by group and id, whoever has heard of it.
    dismissed: Option<BTreeSet<(String, String)>>,
    closed: bool,
}

/// A commit that was let in.
struct UnderWay<'a>(&'a Driver);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state.lock().commits -= 1;
    }
}

struct Store {
    token: StoreToken,
    records: Vec<EncodedRecord>,
    transaction: Option<InTransaction>,
}

/// What goes into one append: stores in their order, each with whether it fits the log.
#[derive(Default)]
struct Round {
    tokens: Vec<(StoreToken, Result<(), StoreError>)>,
    records: Vec<Record>,
    transaction: Option<InTransaction>,
}

/// Calls the coordinator, if it may be asked that, and takes the answer of the kind that belongs to the question.
macro_rules! ask {
    ($service:expr, $kind:ident, $question:expr) => {
        ask!($service, $kind, |_| Ok(()), $question)
    };
    ($service:expr, $kind:ident, $may:expr, $question:expr) => {
        match $service.driver.ask_if($may, $question).await {
            Ok(Response::$kind(answer)) => answer,
            Ok(other) => unreachable!("a {} was answered with {other:?}", stringify!($kind)),
            Err(error) => Err(error),
        }
    };
}

impl GroupService {
    /// Restores the groups from their topic and takes up work.
    pub(crate) async fn open(
        journal: Journal,
        config: &BrokerConfig,
        group_configs: &BTreeMap<String, GroupConfigs>,
        topics: &BTreeMap<String, (TopicId, i32)>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, BrokerError> {
        let reading = journal.clone();
        let restored = blocking(journal.log().workers(), move || {
            let mut restore = Restore::default();
            reading.read_all(|batch, at| {
                let header = batch.header();
                if header.is_control() {
                    let marker = batch.end_marker().map_err(|error| error.to_string())?;
                    marker.into_iter().for_each(|marker| restore.ended(header.producer_id, marker.kind));
                    return Ok(());
                }
                let (key, value) =
                    (at.record.key.as_deref().ok_or("it has no key")?, at.record.value.as_deref());
                let applied = match header.is_transactional() {
                    true => restore.apply_in(header.producer_id, key, value),
                    false => restore.apply(key, value),
                };
                applied.map_err(|error| error.to_string())
            })?;
            Ok::<_, BrokerError>(restore)
        })
        .await?;
        let own = group_configs.iter().map(|(id, configs)| (id.clone(), overrides(configs, config)));
        let restored = restored.with_overrides(own.collect());
        let now = Now::of(clock.as_ref());
        let (groups, effects) = restored.finish(group_config(config)?, random, topics, now);
        let mut state = State {
            groups,
            waiting: Waiting::default(),
            stores: VecDeque::new(),
            stored_watches: HashMap::new(),
            timer_until: None,
            gates: HashMap::new(),
            commits: 0,
            dismissed: None,
            closed: false,
        };
        state.perform(effects);
        let driver = Arc::new(Driver {
            journal,
            clock,
            state: Mutex::new(state),
            stores_wake: Notify::new(),
            timer_wake: Notify::new(),
        });
        let (writing, ticking) = (Arc::clone(&driver), Arc::clone(&driver));
        Ok(Self {
            driver,
            timer: tokio::spawn(async move { ticking.keep_time().await }),
            writer: Mutex::new(Some(tokio::spawn(async move { writing.write_stores().await }))),
        })
    }

    /// Stores what is on its way, and refuses what comes.
    pub(crate) async fn close(&self) {
        self.driver.state.lock().closed = true;
        self.timer.abort();
        self.driver.stores_wake.notify_one();
        let writer = self.writer.lock().take();
        if let Some(writer) = writer
            && let Err(failed) = writer.await
        {
            tracing::error!(%failed, "the writer of the groups' topic failed");
        }
        // Whoever still waits for others to join waits no longer.
        let mut state = self.driver.state.lock();
        state.waiting.clear();
        state.stored_watches.clear();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.driver.state.lock().closed
    }

    /// A topic is gone: so are the offsets in it, when this returns. `false` when that could not be stored, or the groups
    /// are closed: the next start looks for such offsets, unless there is a topic of that name again.
    pub(crate) async fn topic_deleted(&self, topic: &str) -> bool {
        let (done, waiting) = oneshot::channel();
        {
            let mut state = self.driver.state.lock();
            let effects = state.groups.topic_deleted(topic);
            let Some(Effect::Store { token, .. }) = effects.last() else { return true };
            let token = *token;
            state.stored_watches.insert(token, done);
            state.perform(effects);
            self.driver.wake(&state);
        }
        waiting.await.unwrap_or(false)
    }

    /// Offsets in topics that do not exist: the broker stopped while their topic was being deleted. Returns the topics whose
    /// offsets could not be deleted.
    pub(crate) async fn delete_orphans(&self, exists: impl Fn(&str) -> bool) -> Vec<String> {
        let orphans: BTreeSet<String> = {
            let groups = &self.driver.state.lock().groups;
            let ids: Vec<String> = groups.list().map(|listed| listed.group).collect();
            let topics = ids.iter().flat_map(|id| groups.all_committed(id, false));
            topics.map(|(topic, _, _)| topic.to_owned()).filter(|topic| !exists(topic)).collect()
        };
        let mut left = Vec::new();
        for topic in orphans {
            if !self.topic_deleted(&topic).await {
                left.push(topic);
            }
        }
        left
    }

    /// JoinGroup; waits until the generation has gathered. `topics` as for [`Self::heartbeat_consumer`].
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn join(
        &self,
        join: Join,
        topics: impl FnOnce() -> Arc<Catalogue>,
    ) -> Result<Joined, GroupError> {
        let (group, member) = (join.group.clone(), join.member_id.clone());
        let (is_new, subscribed) = (member.is_empty(), subscribed(&join));
        let may = |state: &mut State| {
            state.refuse_dismissed(&group, &member, is_new)?;
            state.refuse_moved(subscribed.iter())
        };
        ask!(self, Join, may, |groups, request, now| groups.join(request, join, topics().as_ref(), now))
    }

    /// SyncGroup; waits for the leader's assignment.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn sync(&self, sync: Sync) -> Result<Synced, GroupError> {
        let (group, member) = (sync.group.clone(), sync.member_id.clone());
        let may = |state: &mut State| state.refuse_dismissed(&group, &member, false);
        ask!(self, Sync, may, |groups, request, now| groups.sync(request, sync, now))
    }

    /// Heartbeat. `topics` as for [`Self::heartbeat_consumer`].
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn heartbeat(
        &self,
        heartbeat: &Heartbeat<'_>,
        topics: impl FnOnce() -> Arc<Catalogue>,
    ) -> Result<(), GroupError> {
        let now = Now::of(self.driver.clock.as_ref());
        let mut state = self.driver.state.lock();
        state.refuse_dismissed(heartbeat.group, heartbeat.member_id, false)?;
        match state.closed {
            true => Err(GroupError::CoordinatorNotAvailable),
            false => {
                let outcome = state.groups.heartbeat(*heartbeat, topics().as_ref(), now);
                self.driver.wake(&state);
                outcome
            }
        }
    }

    /// ConsumerGroupHeartbeat; waits until all that the answer rests on is durable. `topics` is asked for the newest
    /// catalogue, so that no older one comes after it.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn heartbeat_consumer(
        &self,
        beat: &ConsumerHeartbeat,
        topics: impl FnOnce() -> Arc<Catalogue>,
    ) -> Result<Beat, GroupError> {
        let may = |state: &mut State| {
            // Who leaves, leaves.
            if beat.member_epoch >= 0 {
                state.refuse_dismissed(&beat.group, &beat.member_id, beat.member_epoch == 0)?;
            }
            match beat.member_epoch {
                0 => state.refuse_moved(beat.topics.iter().flatten()),
                _ => Ok(()),
            }
        };
        ask!(self, Beat, may, |groups, request, now| {
            groups.heartbeat_consumer(request, beat, topics().as_ref(), now)
        })
    }

    /// ConsumerGroupDescribe, one group.
    ///
    /// # Errors
    /// [`GroupError::GroupIdNotFound`], also for a group in the classic protocol.
    pub async fn describe_consumer(&self, group: &str) -> Result<DescribedConsumerGroup, GroupError> {
        self.driver.state.lock().groups.describe_consumer(group).ok_or(GroupError::GroupIdNotFound)
    }

    /// Whether a member may read what its group has committed (OffsetFetch 9 and above).
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn check_fetch(
        &self,
        group: &str,
        member_id: Option<&str>,
        member_epoch: i32,
    ) -> Result<(), GroupError> {
        self.driver.state.lock().groups.check_fetch(group, member_id, member_epoch)
    }

    /// From now on these settings hold for the group, also if it is made later.
    pub(crate) fn set_overrides(&self, group: &str, overrides: ConsumerOverrides) {
        self.driver.state.lock().groups.set_overrides(group, overrides);
    }

    /// LeaveGroup; an answer for each of `leavers`.
    ///
    /// # Errors
    /// [`GroupError`], when none of them could be looked at.
    pub async fn leave(
        &self,
        group: &str,
        leavers: Vec<Leaver>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        ask!(self, Leave, |groups, request, now| groups.leave(request, group, &leavers, now))
    }

    /// Where offsets are stored: what is in a transaction when its offsets are.
    #[must_use]
    pub fn partition(&self) -> TopicPartition {
        self.driver.journal.log().id().clone()
    }

    /// OffsetCommit; an answer for each offset, durable.
    ///
    /// # Errors
    /// [`GroupError`], when none of them could be looked at.
    pub async fn commit(&self, commit: Commit) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.refuse_commit_of_dismissed(&commit)?;
        let _under_way = self.let_in(&commit, false)?;
        ask!(self, Commit, |groups, request, now| groups.commit(request, commit, now))
    }

    /// TxnOffsetCommit; an answer for each offset, durable. They are visible when the transaction has committed.
    ///
    /// # Errors
    /// [`GroupError`], when none of them could be looked at.
    pub async fn commit_in(
        &self,
        commit: Commit,
        transaction: InTransaction,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let _under_way = self.let_in(&commit, true)?;
        ask!(self, Commit, |groups, request, now| groups.commit_in(request, commit, transaction, now))
    }

    /// From now on commits for `topics` are let in as `gate` says: those in transactions while these are waited for.
    pub(crate) fn set_gate(&self, topics: &[String], gate: &Gate) {
        let mut state = self.driver.state.lock();
        for topic in topics {
            match gate {
                Gate::Open => drop(state.gates.remove(topic)),
                gate => drop(state.gates.insert(topic.clone(), gate.clone())),
            }
        }
    }

    /// How many commits were let in and are not answered.
    pub(crate) fn commits_under_way(&self) -> usize {
        self.driver.state.lock().commits
    }

    /// A group for which something is under way in one of `topics`.
    pub(crate) fn unstable_in(&self, topics: &[String]) -> Option<String> {
        self.driver.state.lock().groups.unstable_in(topics).map(str::to_owned)
    }

    fn let_in(&self, commit: &Commit, is_in_transaction: bool) -> Result<UnderWay<'_>, GroupError> {
        let mut state = self.driver.state.lock();
        for offset in &commit.offsets {
            match state.gates.get(&offset.topic) {
                None | Some(Gate::Open) => {}
                Some(Gate::Draining) if is_in_transaction => {}
                // Which every client tries again.
                Some(Gate::Draining | Gate::Held) => return Err(GroupError::CoordinatorNotAvailable),
                Some(Gate::Moved(to) | Gate::Redirected(to)) => {
                    return Err(GroupError::Moved(Arc::clone(to)));
                }
            }
        }
        state.commits += 1;
        Ok(UnderWay(&self.driver))
    }

    /// From now on nobody is in a group here, nor comes into one. Members hear so when they ask for anything, and throw their
    /// positions away. Whoever waits for others to join waits no longer.
    pub(crate) fn dismiss_members(&self) {
        let mut state = self.driver.state.lock();
        state.dismissed.get_or_insert_default();
        state.waiting.clear();
    }

    /// Takes that back.
    pub(crate) fn take_members(&self) {
        self.driver.state.lock().dismissed = None;
    }

    /// Members that were dismissed, have not heard of it, and whose sessions go on: group and id of each.
    pub(crate) fn untold_members(&self) -> Vec<(String, String)> {
        let state = self.driver.state.lock();
        let Some(told) = &state.dismissed else { return Vec::new() };
        let members = state.groups.members();
        let members = members.map(|(group, member)| (group.to_owned(), member.to_owned()));
        members.filter(|member| !told.contains(member)).collect()
    }

    /// A member that was dismissed is to hear so by what it asks next, and not here: librdkafka does not act upon it, and Java's classic
    /// consumer would forget its id, and never be heard of again.
    fn refuse_commit_of_dismissed(&self, commit: &Commit) -> Result<(), GroupError> {
        let state = self.driver.state.lock();
        let is_member = commit.generation >= 0 || !commit.member_id.is_empty();
        match (is_member && state.dismissed.is_some(), state.groups.is_classic(&commit.group)) {
            (false, _) => Ok(()),
            (true, true) => Err(GroupError::Dismissed),
            (true, false) => Err(GroupError::UnknownMemberId),
        }
    }

    /// Whether members were dismissed, and all of that group's have heard it.
    pub fn is_dismissed(&self, group: &str) -> bool {
        let state = self.driver.state.lock();
        let Some(told) = &state.dismissed else { return false };
        let mut members = state.groups.members_of(group);
        members.all(|member| told.contains(&(group.to_owned(), member.to_owned())))
    }

    /// A producer's transaction has ended, durably.
    pub(crate) fn transaction_ended(&self, producer: ProducerId, kind: EndKind) {
        self.driver.state.lock().groups.transaction_ended(producer, kind);
    }

    /// OffsetDelete; an answer for each partition, durable.
    ///
    /// # Errors
    /// [`GroupError`], when none of them could be looked at.
    pub async fn delete_offsets(
        &self,
        group: &str,
        partitions: Vec<(String, i32)>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        ask!(self, DeleteOffsets, |groups, request, now| {
            groups.delete_offsets(request, group, &partitions, now)
        })
    }

    /// DeleteGroups; an answer for each group, durable.
    pub async fn delete(&self, group_ids: Vec<String>) -> Vec<Result<(), GroupError>> {
        let count = group_ids.len();
        match self.driver.ask(|groups, request, _| groups.delete_groups(request, &group_ids)).await {
            Some(Response::DeleteGroups(answers)) => answers,
            Some(other) => unreachable!("DeleteGroups was answered with {other:?}"),
            None => vec![Err(GroupError::CoordinatorNotAvailable); count],
        }
    }

    /// OffsetFetch of some partitions: what is committed for each, if anything is.
    pub async fn fetch_offsets(
        &self,
        group: &str,
        partitions: &[(String, i32)],
        require_stable: bool,
    ) -> Vec<Result<Option<CommittedOffset>, GroupError>> {
        let state = self.driver.state.lock();
        let committed = |(topic, partition): &(String, i32)| {
            Ok(state.groups.committed(group, topic, *partition, require_stable)?.cloned())
        };
        partitions.iter().map(committed).collect()
    }

    /// OffsetFetch of everything that the group has committed, by topic.
    pub async fn fetch_all_offsets(
        &self,
        group: &str,
        require_stable: bool,
    ) -> Vec<(String, i32, Result<CommittedOffset, GroupError>)> {
        let state = self.driver.state.lock();
        let all = state.groups.all_committed(group, require_stable);
        all.map(|(topic, partition, offset)| (topic.to_owned(), partition, offset.cloned())).collect()
    }

    /// DescribeGroups, one group.
    ///
    /// # Errors
    /// [`GroupError::GroupIdNotFound`], which older clients know as the state `Dead`.
    pub async fn describe(&self, group: &str) -> Result<DescribedGroup, GroupError> {
        self.driver.state.lock().groups.describe(group).ok_or(GroupError::GroupIdNotFound)
    }

    /// ListGroups, by id.
    pub async fn list(&self) -> Vec<ListedGroup> {
        self.driver.state.lock().groups.list().collect()
    }
}

impl Drop for GroupService {
    /// When it was not closed before, what nobody was told of is not stored.
    fn drop(&mut self) {
        self.timer.abort();
        if let Some(writer) = self.writer.get_mut() {
            writer.abort();
        }
    }
}

impl fmt::Debug for GroupService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupService")
            .field("groups", &self.driver.state.lock().groups)
            .finish_non_exhaustive()
    }
}

impl Driver {
    /// Asks the coordinator and waits for the answer; `None` once this is closed.
    async fn ask(
        &self,
        question: impl FnOnce(&mut Groups, RequestId, Now) -> Vec<Effect>,
    ) -> Option<Response> {
        self.ask_if(|_| Ok(()), question).await.ok()
    }

    /// The same, unless `may` refuses it: nothing comes between the two.
    async fn ask_if(
        &self,
        may: impl FnOnce(&mut State) -> Result<(), GroupError>,
        question: impl FnOnce(&mut Groups, RequestId, Now) -> Vec<Effect>,
    ) -> Result<Response, GroupError> {
        let answer = {
            let now = Now::of(self.clock.as_ref());
            let mut state = self.state.lock();
            if state.closed {
                return Err(GroupError::CoordinatorNotAvailable);
            }
            may(&mut state)?;
            let (request, answer) = state.waiting.add();
            let effects = question(&mut state.groups, request, now);
            state.perform(effects);
            self.wake(&state);
            answer
        };
        answer.await.map_err(|_| GroupError::CoordinatorNotAvailable)
    }

    /// Tells the coordinator what asks for no answer.
    fn run(&self, event: impl FnOnce(&mut Groups, Now) -> Vec<Effect>) {
        let now = Now::of(self.clock.as_ref());
        let mut state = self.state.lock();
        let effects = event(&mut state.groups, now);
        state.perform(effects);
        self.wake(&state);
    }

    fn wake(&self, state: &State) {
        if !state.stores.is_empty() {
            self.stores_wake.notify_one();
        }
        let is_earlier = |due: Duration| state.timer_until.is_none_or(|until| due < until);
        if state.groups.next_deadline().is_some_and(is_earlier) {
            self.timer_wake.notify_one();
        }
    }

    async fn keep_time(&self) {
        let due = || {
            let mut state = self.state.lock();
            state.timer_until = state.groups.next_deadline();
            state.timer_until
        };
        keep_time(self.clock.as_ref(), &self.timer_wake, due, || self.run(Groups::tick)).await;
    }

    async fn write_stores(&self) {
        loop {
            let Some(round) = self.next_round() else {
                if self.state.lock().closed {
                    return;
                }
                self.stores_wake.notified().await;
                continue;
            };
            let outcome = match self.journal.append_in(round.transaction, &round.records).await {
                Ok(()) => Ok(()),
                Err(AppendError::NotInTransaction { .. }) => Err(StoreError::NotInTransaction),
                Err(AppendError::InvalidProducerEpoch { .. }) => Err(StoreError::InvalidProducerEpoch),
                Err(error) => {
                    tracing::error!(%error, "the groups' offsets cannot be stored");
                    Err(StoreError::Unavailable)
                }
            };
            for (token, fits) in round.tokens {
                self.run(|groups, now| groups.stored(token, fits.and(outcome), now));
                let watch = self.state.lock().stored_watches.remove(&token);
                if let Some(watch) = watch {
                    let _ = watch.send(fits.and(outcome).is_ok());
                }
            }
        }
    }

    /// The stores that have gathered, up to a number of bytes, as far as they are of one transaction or of none.
    fn next_round(&self) -> Option<Round> {
        let now_ms = self.clock.now_ms();
        let mut state = self.state.lock();
        let mut round = Round { transaction: state.stores.front()?.transaction, ..Round::default() };
        let mut bytes = 0;
        while bytes < ROUND_BYTES
            && let Some(store) = state.stores.pop_front_if(|store| store.transaction == round.transaction)
        {
            if store.records.iter().any(|record| len_bytes(record) > RECORD_BYTES_MAX) {
                round.tokens.push((store.token, Err(StoreError::TooLarge)));
                continue;
            }
            bytes += store.records.iter().map(len_bytes).sum::<usize>();
            round.records.extend(store.records.into_iter().map(|record| record.at(now_ms)));
            round.tokens.push((store.token, Ok(())));
        }
        Some(round)
    }
}

impl State {
    /// Whoever would read nothing but what is elsewhere does not come into a group, and is told why.
    fn refuse_moved<'a>(&self, topics: impl Iterator<Item = &'a String>) -> Result<(), GroupError> {
        let mut moved = None;
        for topic in topics {
            match self.gates.get(topic) {
                Some(Gate::Moved(to)) => moved = Some(Arc::clone(to)),
                _ => return Ok(()),
            }
        }
        moved.map_or(Ok(()), |to| Err(GroupError::Moved(to)))
    }

    /// What a member is told that was dismissed, which counts as told from here on. Who is about to join has thrown away what it had,
    /// and is told to look elsewhere.
    fn refuse_dismissed(&mut self, group: &str, member: &str, is_new: bool) -> Result<(), GroupError> {
        let Self { dismissed: Some(told), groups, .. } = self else { return Ok(()) };
        // Others may call themselves what they like.
        if groups.has_member(group, member) {
            told.insert((group.to_owned(), member.to_owned()));
        }
        Err(match is_new {
            true => GroupError::CoordinatorNotAvailable,
            false => GroupError::UnknownMemberId,
        })
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer { request, response } => self.waiting.answer(request, response),
                Effect::Store { token, records, transaction } => {
                    self.stores.push_back(Store { token, records, transaction });
                }
            }
        }
    }
}

/// What a consumer that joins wants to read; nothing of whoever does not say so.
fn subscribed(join: &Join) -> Vec<String> {
    let metadata = join.protocols.first().filter(|_| join.protocol_type == "consumer");
    let topics = metadata.and_then(|(_, metadata)| consumer_protocol::subscribed_topics(metadata).ok());
    topics.unwrap_or_default()
}

fn len_bytes(record: &EncodedRecord) -> usize {
    record.key.len() + record.value.as_ref().map_or(0, bytes::Bytes::len)
}

fn group_config(config: &BrokerConfig) -> Result<GroupConfig, ConfigError> {
    let number = |name: &str| config.number(name).unsigned_abs();
    let ms = |name: &str| Duration::from_millis(number(name));
    Ok(GroupConfig {
        session_timeout_min: ms("group.min.session.timeout.ms"),
        session_timeout_max: ms("group.max.session.timeout.ms"),
        initial_rebalance_delay: ms("group.initial.rebalance.delay.ms"),
        members_max: number("group.max.size") as usize,
        offset_metadata_max: number("offset.metadata.max.bytes") as usize,
        offsets_retention: Duration::from_secs(60 * number("offsets.retention.minutes")),
        offsets_retention_check_interval: ms("offsets.retention.check.interval.ms"),
        consumer: consumer_config(config)?,
        ..GroupConfig::default()
    })
}
