//! A member of a group: it shares partitions and keeps positions, and reads nothing itself.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::engine::{EngineError, GroupEvent, GroupMember, Position};
use anabranch_core::{Offset, TopicPartition};
use async_trait::async_trait;
use parking_lot::{Condvar, Mutex};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};
use tokio::sync::mpsc;

use crate::engine::{Cluster, blocking};
use crate::error::{blame, failed};
use crate::watch::Watch;

/// How often the member's thread looks whether it is to end.
const POLL: Duration = Duration::from_millis(100);
/// How soon a topic that is made later, or grows, is noticed.
const REFRESH_MS: &str = "5000";
/// How long a member may keep partitions that are being revoked: librdkafka takes it for dead then.
const REVOKED_MAX: Duration = Duration::from_secs(300);

/// One consumer of a group. A thread of its own serves the group's protocol.
pub(crate) struct KafkaMember {
    cluster: Arc<Cluster>,
    group: String,
    consumer: Arc<BaseConsumer<Membership>>,
    shared: Arc<Shared>,
    told: mpsc::UnboundedReceiver<Result<GroupEvent, EngineError>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Between the member and its thread.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What it may commit for.
    owned: BTreeSet<TopicPartition>,
    /// It has been told that these go, and has them until it asks on.
    is_revoking: bool,
    is_closing: bool,
}

/// Hears from the group's coordinator, on the member's thread.
struct Membership {
    watch: Watch,
    shared: Arc<Shared>,
    tell: mpsc::UnboundedSender<Result<GroupEvent, EngineError>>,
    patience: Duration,
}

impl KafkaMember {
    pub(crate) fn join(cluster: Arc<Cluster>, group: &str, topics: &[String]) -> Result<Self, EngineError> {
        let refused = |reason: String| EngineError::Refused { topic: group.to_owned(), reason };
        if group.is_empty() {
            return Err(refused("a group has a name".into()));
        }
        if topics.is_empty() {
            return Err(refused("a member of a group reads at least one topic".into()));
        }
        let (tell, told) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let context = Membership {
            watch: Watch::default(),
            shared: Arc::clone(&shared),
            tell: tell.clone(),
            patience: cluster.settings.request_max(),
        };
        let mut config = cluster.settings.client();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("max.poll.interval.ms", REVOKED_MAX.as_millis().to_string())
            .set("topic.metadata.refresh.interval.ms", REFRESH_MS);
        let consumer: BaseConsumer<Membership> =
            config.create_with_context(context).map_err(|error| refused(error.to_string()))?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names).map_err(|error| refused(error.to_string()))?;
        let consumer = Arc::new(consumer);
        let (served, state) = (Arc::clone(&consumer), Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("kafka-member".into())
            .spawn(move || serve(&served, &state, &tell))
            .map_err(failed)?;
        Ok(Self { cluster, group: group.to_owned(), consumer, shared, told, thread: Some(thread) })
    }

    fn fenced(&self, reason: String) -> EngineError {
        EngineError::Fenced { group: self.group.clone(), reason }
    }

    /// Lets the thread end, which leaves the group.
    fn stop(&mut self) -> Option<std::thread::JoinHandle<()>> {
        let mut state = self.shared.state.lock();
        state.is_closing = true;
        state.owned.clear();
        drop(state);
        self.shared.changed.notify_all();
        self.thread.take()
    }
}

/// Serves the group until the member has gone.
fn serve(
    consumer: &BaseConsumer<Membership>,
    shared: &Shared,
    tell: &mpsc::UnboundedSender<Result<GroupEvent, EngineError>>,
) {
    while !shared.state.lock().is_closing {
        match consumer.poll(POLL) {
            None | Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "a member of a group reports");
                let code = error.rdkafka_error_code();
                let is_final = matches!(error, KafkaError::MessageConsumptionFatal(_))
                    || matches!(
                        code,
                        Some(
                            Code::GroupAuthorizationFailed
                                | Code::TopicAuthorizationFailed
                                // Its topics were moved elsewhere, and the server says so to whoever joins.
                                | Code::PolicyViolation
                        )
                    );
                if is_final {
                    let _ = tell.send(Err(blame(&TopicPartition::new("the group", 0), &error)));
                }
            }
        }
    }
    consumer.unsubscribe();
}

#[async_trait]
impl GroupMember for KafkaMember {
    async fn next_event(&mut self) -> Result<GroupEvent, EngineError> {
        self.cluster.check_open()?;
        {
            let mut state = self.shared.state.lock();
            if state.is_revoking {
                state.is_revoking = false;
                state.owned.clear();
                self.shared.changed.notify_all();
            }
        }
        tokio::select! {
            told = self.told.recv() => {
                let event = told.unwrap_or(Err(EngineError::Closed))?;
                if let GroupEvent::Assigned(partitions) = &event {
                    let mut state = self.shared.state.lock();
                    state.owned = partitions.iter().map(|(at, _)| at.clone()).collect();
                }
                Ok(event)
            }
            () = self.cluster.closed() => Err(EngineError::Closed),
        }
    }

    async fn commit(&mut self, positions: &[(TopicPartition, Position)]) -> Result<(), EngineError> {
        self.cluster.check_open()?;
        {
            let state = self.shared.state.lock();
            if let Some((lost, _)) = positions.iter().find(|(at, _)| !state.owned.contains(at)) {
                return Err(self.fenced(format!("{lost} is not assigned to it")));
            }
        }
        let Some((first, _)) = positions.first() else { return Ok(()) };
        let mut list = TopicPartitionList::new();
        for (at, next) in positions {
            let next = rdkafka::Offset::Offset(Offset::from(*next).0);
            list.add_partition_offset(&at.topic, at.partition, next).map_err(|error| blame(at, &error))?;
        }
        let consumer = Arc::clone(&self.consumer);
        let committed = blocking(move || consumer.commit(&list, CommitMode::Sync)).await?;
        committed.map_err(|error| match error.rdkafka_error_code() {
            Some(
                Code::IllegalGeneration
                | Code::UnknownMemberId
                | Code::FencedInstanceId
                | Code::RebalanceInProgress
                | Code::AssignmentLost
                | Code::NoOffset,
            ) => self.fenced(error.to_string()),
            _ => blame(first, &error),
        })
    }

    async fn leave(mut self: Box<Self>) -> Result<(), EngineError> {
        let thread = self.stop();
        // Its consumer goes with the thread and this member: whoever is last leaves the group.
        blocking(move || {
            if let Some(thread) = thread {
                let _ = thread.join();
            }
            drop(self);
        })
        .await
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Membership {
    fn assigned(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) -> KafkaResult<()> {
        let committed = loop {
            match consumer.committed_offsets(list.clone(), self.patience) {
                // A coordinator that moves is back in a moment; the group waits meanwhile, as its members' session goes on.
                Err(error) if is_passing(&error) && self.waits_on() => {}
                found => break found?,
            }
        };
        let position = |offset| match offset {
            rdkafka::Offset::Offset(next) => Some(Position::from(Offset(next))),
            _ => None,
        };
        let partitions: Vec<_> = committed
            .elements()
            .iter()
            .map(|at| (TopicPartition::new(at.topic(), at.partition()), position(at.offset())))
            .collect();
        // Nothing is fetched by a consumer that has no partitions; the group's assignment stays.
        consumer.assign(&TopicPartitionList::new())?;
        let _ = self.tell.send(Ok(GroupEvent::Assigned(partitions)));
        Ok(())
    }

    /// Lets a moment pass; not if the member goes.
    fn waits_on(&self) -> bool {
        let mut state = self.shared.state.lock();
        if !state.is_closing {
            self.shared.changed.wait_for(&mut state, POLL);
        }
        !state.is_closing
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        let partitions: Vec<_> =
            list.elements().iter().map(|at| TopicPartition::new(at.topic(), at.partition())).collect();
        let mut state = self.shared.state.lock();
        if state.is_closing || partitions.is_empty() {
            return;
        }
        if consumer.assignment_lost() {
            state.owned.clear();
            let _ = self.tell.send(Ok(GroupEvent::Lost(partitions)));
            return;
        }
        state.is_revoking = true;
        let _ = self.tell.send(Ok(GroupEvent::Revoked(partitions)));
        let until = std::time::Instant::now() + REVOKED_MAX;
        while state.is_revoking && !state.is_closing {
            if self.shared.changed.wait_until(&mut state, until).timed_out() {
                state.is_revoking = false;
                state.owned.clear();
            }
        }
    }
}

/// Whether it helps to ask again.
fn is_passing(error: &KafkaError) -> bool {
    matches!(blame(&TopicPartition::new("the group", 0), error), EngineError::Away { .. })
}

impl ClientContext for Membership {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.watch.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.watch.error(error, reason);
    }
}

impl ConsumerContext for Membership {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let done = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(consumer, list),
            _ => {
                self.revoked(consumer, list);
                consumer.unassign()
            }
        };
        if let Err(error) = done {
            let _ = consumer.unassign();
            let _ = self.tell.send(Err(blame(&TopicPartition::new("the group", 0), &error)));
        }
    }
}

impl fmt::Debug for KafkaMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaMember").field("group", &self.group).finish_non_exhaustive()
    }
}
