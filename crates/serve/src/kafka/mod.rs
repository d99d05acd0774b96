//! The Kafka door: a listener, a loop per connection, and a file per API.
//!
//! Requests of a connection are served one after the other, as Kafka serves them, but for Produce: its batches are
//! queued in order, and their answers awaited while the next request is read (see `connection`).

mod add_offsets_to_txn;
mod add_partitions_to_txn;
mod alter_configs;
mod alter_partition_reassignments;
mod alter_replica_log_dirs;
mod api_versions;
mod codes;
mod connection;
mod consumer_group_describe;
mod consumer_group_heartbeat;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_acls;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_quorum;
mod describe_topic_partitions;
mod describe_transactions;
mod elect_leaders;
mod end_txn;
mod features;
mod fetch;
mod fetch_session;
mod find_coordinator;
mod group_offsets;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod list_partition_reassignments;
mod list_transactions;
pub(crate) mod memory;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod operations;
mod outgoing;
mod oversized;
mod produce;
mod redirect;
mod sync_group;
mod tally;
mod txn_offset_commit;
mod update_features;
mod write_txn_markers;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch_broker::group::GroupError;
use anabranch_broker::{Broker, Redirect, Topic};
use anabranch_core::{LeaderEpoch, TopicId};
use anabranch_wire::messages::{BrokerId, TopicName};
use anabranch_wire::protocol::StrBytes;
use anabranch_wire::{ErrorCode, Head, Request, Response};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use uuid::Uuid;

use crate::config::{Advertised, Limits};
use crate::metrics::Metrics;
use crate::pressure::Often;
use crate::server::ACCEPT_PAUSE;
use fetch_session::Sessions;
use memory::Memory;

/// What every connection shares.
#[derive(Debug)]
pub(crate) struct Door {
    broker: Broker,
    memory: Memory,
    /// Protects the sessions themselves, for as long as it takes to look at one.
    sessions: Mutex<Sessions>,
    host: StrBytes,
    port: i32,
    /// The client id of those that are never sent on.
    pass: String,
    limits: Limits,
    metrics: Arc<Metrics>,
    /// Warnings about connections that were refused, and about those that were closed.
    often_refused: Often,
    often_closed: Often,
    stopping: watch::Receiver<bool>,
}

impl Door {
    pub(crate) fn new(
        broker: Broker,
        (advertised, pass): (&Advertised, String),
        limits: Limits,
        metrics: Arc<Metrics>,
        memory: Memory,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let port = advertised.port.map_or(0, i32::from);
        let slots_max = broker.config().number("max.incremental.fetch.session.cache.slots");
        let slots_max = usize::try_from(slots_max).expect("the setting is not negative");
        let sessions = Sessions::new(slots_max, broker.memory().fetch_sessions().clone());
        Self {
            broker,
            memory,
            sessions: Mutex::new(sessions),
            host: text(&advertised.host),
            port,
            pass,
            limits,
            metrics,
            often_refused: Often::default(),
            often_closed: Often::default(),
            stopping,
        }
    }

    fn now(&self) -> Duration {
        self.broker.clock().monotonic()
    }

    /// What becomes of that client, if the topics have moved and old clients are sent on.
    fn redirect(&self, head: &Head) -> Option<Redirect> {
        let redirect = self.broker.redirect()?;
        (head.client_id.as_deref() != Some(self.pass.as_str())).then_some(redirect)
    }

    fn node_id(&self) -> BrokerId {
        BrokerId(self.broker.node_id())
    }

    /// Returns when the door closes.
    async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // An error means that the server is gone, which is to stop as well.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }
}

/// What a group answers, however long it takes; but a door that closes waits for no group.
async fn unless_stopped<T>(
    door: &Door,
    answer: impl Future<Output = Result<T, GroupError>>,
) -> Result<T, GroupError> {
    tokio::select! {
        answer = answer => answer,
        () = door.stopped() => Err(GroupError::CoordinatorNotAvailable),
    }
}

/// A text on its way out.
fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// A text on its way in, freed from the frame that it came in.
fn own_text(text: Option<&StrBytes>) -> Option<String> {
    text.map(|text| text.as_str().to_owned())
}

/// Bytes that outlive their request: a slice would keep the whole frame alive, outside of the budget.
fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// What a client believes the leader's epoch to be, if it says (KIP-320).
fn leader_epoch(epoch: i32) -> Option<LeaderEpoch> {
    (epoch != -1).then_some(LeaderEpoch(epoch))
}

/// The topic that a request means: by name, or by id in the versions that have ids (KIP-516).
fn find_topic(door: &Door, by_id: bool, name: &TopicName, id: Uuid) -> Result<Arc<Topic>, ErrorCode> {
    let topics = door.broker.topics();
    match by_id {
        true => topics.by_id(TopicId(id)).cloned().ok_or(ErrorCode::UnknownTopicId),
        false => topics.get(name).cloned().ok_or(ErrorCode::UnknownTopicOrPartition),
    }
}

/// The names that come more than once.
fn repeated<'a>(names: impl Iterator<Item = &'a TopicName>) -> HashSet<TopicName> {
    let mut seen = HashSet::new();
    names.filter(|name| !seen.insert(*name)).cloned().collect()
}

/// Accepts connections until the door closes, then waits for those that are open.
pub(crate) async fn serve(door: Arc<Door>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = door.stopped() => break,
            Some(ended) = connections.join_next() => told(&door, ended),
            accepted = listener.accept() => match accepted {
                Ok((_, peer)) if connections.len() >= door.limits.connections_max => {
                    door.metrics.connections_refused.add(1);
                    door.often_refused.warn(door.now(), |left_out| tracing::warn!(
                        %peer, limit = door.limits.connections_max, left_out,
                        "too many connections: refused; raise max.connections"
                    ));
                }
                Ok((stream, peer)) => {
                    door.metrics.connections_opened.add(1);
                    connections.spawn(connection::serve(Arc::clone(&door), stream, peer));
                }
                Err(error) => {
                    door.metrics.accepts_failed.add(1);
                    door.often_refused.warn(door.now(), |left_out| {
                        tracing::warn!(%error, left_out, "cannot accept a connection");
                    });
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(door.limits.shutdown_max, async {
        while let Some(ended) = connections.join_next().await {
            told(&door, ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "requests were still in flight at the deadline: cut off"
        );
        connections.shutdown().await;
    }
}

/// A panic ends its connection and nothing else; it is a bug all the same.
fn told(door: &Door, ended: Result<(), JoinError>) {
    door.metrics.connections_closed.add(1);
    if let Err(error) = ended {
        door.metrics.bugs.add(1);
        tracing::error!(%error, "a connection failed; this is a bug");
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Client<'a> {
    head: &'a Head,
    peer: SocketAddr,
}

impl Client<'_> {
    fn version(&self) -> i16 {
        self.head.version
    }
}

/// Serves everything but Produce and Fetch, which need more than a response: see `connection`.
async fn answer(door: &Door, client: Client<'_>, request: Request) -> Option<Response> {
    let version = client.version();
    let request = match door.redirect(client.head) {
        None => request,
        Some(redirect) => match redirect::answer(door, &redirect, version, request) {
            Ok(response) => return Some(response),
            Err(request) => *request,
        },
    };
    Some(match request {
        Request::ApiVersions(request) => api_versions::answer(version, &request).into(),
        Request::Metadata(request) => metadata::answer(door, version, request).await.into(),
        Request::ListOffsets(request) => list_offsets::answer(door, version, request).await.into(),
        Request::OffsetForLeaderEpoch(request) => offset_for_leader_epoch::answer(door, request).into(),
        Request::InitProducerId(request) => init_producer_id::answer(door, version, &request).await.into(),
        Request::AddPartitionsToTxn(request) => {
            add_partitions_to_txn::answer(door, version, request).await.into()
        }
        Request::AddOffsetsToTxn(request) => add_offsets_to_txn::answer(door, version, &request).await.into(),
        Request::TxnOffsetCommit(request) => txn_offset_commit::answer(door, version, request).await.into(),
        Request::WriteTxnMarkers(request) => write_txn_markers::answer(door, request).await.into(),
        Request::DescribeProducers(request) => describe_producers::answer(door, request).await.into(),
        Request::DescribeTransactions(request) => describe_transactions::answer(door, request).into(),
        Request::ListTransactions(request) => list_transactions::answer(door, request).into(),
        Request::EndTxn(request) => end_txn::answer(door, version, &request).await.into(),
        Request::CreateTopics(request) => create_topics::answer(door, request).await.into(),
        Request::DeleteTopics(request) => delete_topics::answer(door, version, request).await.into(),
        Request::DeleteRecords(request) => delete_records::answer(door, request).await.into(),
        Request::CreatePartitions(request) => create_partitions::answer(door, request).await.into(),
        Request::DescribeAcls(_) => describe_acls::answer().into(),
        Request::DescribeConfigs(request) => describe_configs::answer(door, &request).into(),
        Request::AlterConfigs(request) => alter_configs::answer(door, request).await.into(),
        Request::IncrementalAlterConfigs(request) => {
            incremental_alter_configs::answer(door, request).await.into()
        }
        Request::DescribeLogDirs(request) => describe_log_dirs::answer(door, request).await.into(),
        Request::AlterReplicaLogDirs(request) => alter_replica_log_dirs::answer(door, request).into(),
        Request::ElectLeaders(request) => elect_leaders::answer(door, request).into(),
        Request::AlterPartitionReassignments(request) => {
            alter_partition_reassignments::answer(door, request).into()
        }
        Request::ListPartitionReassignments(_) => list_partition_reassignments::answer().into(),
        Request::DescribeQuorum(request) => describe_quorum::answer(door, version, &request).into(),
        Request::UpdateFeatures(request) => update_features::answer(version, request).into(),
        Request::ListConfigResources(request) => {
            list_config_resources::answer(door, version, &request).into()
        }
        Request::DescribeCluster(request) => describe_cluster::answer(door, &request).into(),
        Request::ConsumerGroupHeartbeat(request) => {
            consumer_group_heartbeat::answer(door, client, request).await.into()
        }
        Request::ConsumerGroupDescribe(request) => {
            consumer_group_describe::answer(door, request).await.into()
        }
        Request::DescribeTopicPartitions(request) => describe_topic_partitions::answer(door, &request).into(),
        Request::FindCoordinator(request) => find_coordinator::answer(door, version, request).into(),
        Request::JoinGroup(request) => join_group::answer(door, client, request).await.into(),
        Request::SyncGroup(request) => sync_group::answer(door, version, request).await.into(),
        Request::Heartbeat(request) => heartbeat::answer(door, &request).await.into(),
        Request::LeaveGroup(request) => leave_group::answer(door, version, request).await.into(),
        Request::OffsetCommit(request) => offset_commit::answer(door, version, request).await.into(),
        Request::OffsetFetch(request) => offset_fetch::answer(door, version, request).await.into(),
        Request::OffsetDelete(request) => offset_delete::answer(door, request).await.into(),
        Request::DescribeGroups(request) => describe_groups::answer(door, version, request).await.into(),
        Request::ListGroups(request) => list_groups::answer(door, request).await.into(),
        Request::DeleteGroups(request) => delete_groups::answer(door, request).await.into(),
        _ => return None,
    })
}
