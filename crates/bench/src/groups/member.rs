//! One member, of either protocol, and what it does next.

use std::sync::Arc;

use anabranch_broker::group::consumer_protocol::{Assignment, Subscription};
use anabranch_core::TopicId;
use anabranch_wire::messages::consumer_group_heartbeat_request::TopicPartitions;
use anabranch_wire::messages::join_group_request::JoinGroupRequestProtocol;
use anabranch_wire::messages::leave_group_request::MemberIdentity;
use anabranch_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use anabranch_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use anabranch_wire::messages::{
    ApiKey, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, HeartbeatRequest,
    HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    OffsetCommitRequest, OffsetCommitResponse, SyncGroupRequest, SyncGroupResponse,
};
use anabranch_wire::protocol::StrBytes;
use anyhow::{bail, ensure};

use super::Protocol;
use super::owners::Owners;
use crate::request::Connection;
use crate::topic::name;

/// The newest without tagged fields, or nearly.
const JOIN_VERSION: i16 = 5;
const SYNC_VERSION: i16 = 3;
const HEARTBEAT_VERSION: i16 = 3;
const LEAVE_VERSION: i16 = 3;
const COMMIT_VERSION: i16 = 7;
const CONSUMER_COMMIT_VERSION: i16 = 9;
/// From version 1 the member chooses its id.
const CONSUMER_VERSION: i16 = 1;

const PROTOCOL: &str = "range";

// Error codes of Kafka.
const LOADING: i16 = 14;
const NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER: i16 = 25;
const REBALANCE: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;
const FENCED_EPOCH: i16 = 110;

/// Where a member is, and what it reads.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) protocol: Protocol,
    pub(super) group: String,
    pub(super) topic: String,
    pub(super) topic_id: TopicId,
    /// Of the topic.
    pub(super) partitions: u32,
    /// In the classic protocol; in the other it is the server's.
    pub(super) session_ms: i32,
}

pub(super) struct Member {
    connection: Connection,
    place: Place,
    index: usize,
    owners: Arc<Owners>,
    id: StrBytes,
    /// 0: it must join.
    epoch: i32,
    must_join: bool,
    assigned: Vec<i32>,
    /// What it told the server that it has.
    told: Option<Vec<i32>>,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

impl Member {
    /// The `index`th of its group.
    pub(super) fn new(connection: Connection, place: Place, index: usize, owners: Arc<Owners>) -> Self {
        let id = match place.protocol {
            Protocol::Classic => StrBytes::new(),
            Protocol::Consumer => text(&format!("member-{index}-{}", std::process::id())),
        };
        let (epoch, must_join, assigned, told) = (0, true, Vec::new(), None);
        Self { connection, place, index, owners, id, epoch, must_join, assigned, told }
    }

    /// Has what it was assigned, and nothing else.
    fn assign(&mut self, assigned: Vec<i32>) -> anyhow::Result<()> {
        self.owners.change(self.index, &self.assigned, &assigned)?;
        self.assigned = assigned;
        Ok(())
    }

    /// Its epoch, if it has nothing to do before its next heartbeat.
    pub(super) fn settled_epoch(&self) -> i32 {
        if self.must_join { 0 } else { self.epoch }
    }

    /// Does what is next; whether there is more at once.
    pub(super) fn step(&mut self) -> anyhow::Result<bool> {
        match self.place.protocol {
            Protocol::Consumer => self.beat(),
            Protocol::Classic if self.must_join => self.join().map(|()| self.must_join),
            Protocol::Classic => self.heartbeat().map(|()| self.must_join),
        }
    }

    fn beat(&mut self) -> anyhow::Result<bool> {
        let joins = self.epoch == 0;
        let has_news = joins || self.told.as_ref() != Some(&self.assigned);
        let owned = TopicPartitions::default()
            .with_topic_id(self.place.topic_id.0)
            .with_partitions(self.assigned.clone());
        let owned = if self.assigned.is_empty() { Vec::new() } else { vec![owned] };
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(self.group())
            .with_member_id(self.id.clone())
            .with_member_epoch(self.epoch)
            .with_rebalance_timeout_ms(if joins { 300_000 } else { -1 })
            .with_subscribed_topic_names(joins.then(|| vec![name(&self.place.topic)]))
            .with_topic_partitions(has_news.then_some(owned));
        self.connection.send(ApiKey::ConsumerGroupHeartbeat, CONSUMER_VERSION, &request)?;
        let answer: ConsumerGroupHeartbeatResponse = self.connection.receive(CONSUMER_VERSION)?;
        match answer.error_code {
            0 => {}
            LOADING | NOT_AVAILABLE | NOT_COORDINATOR => {
                self.told = None;
                return Ok(false);
            }
            UNKNOWN_MEMBER | FENCED_EPOCH => {
                (self.epoch, self.told) = (0, None);
                self.assign(Vec::new())?;
                return Ok(true);
            }
            code => bail!("a heartbeat was answered with error code {code}: {:?}", answer.error_message),
        }
        self.told = Some(self.assigned.clone());
        (self.epoch, self.must_join) = (answer.member_epoch, false);
        if let Some(assignment) = answer.assignment {
            self.assign(
                assignment.topic_partitions.into_iter().flat_map(|topic| topic.partitions).collect(),
            )?;
        }
        Ok(self.told.as_ref() != Some(&self.assigned))
    }

    fn join(&mut self) -> anyhow::Result<()> {
        // It gives up everything before.
        self.assign(Vec::new())?;
        let subscription = Subscription::to(vec![self.place.topic.clone()]).encode(1);
        let protocol =
            JoinGroupRequestProtocol::default().with_name(text(PROTOCOL)).with_metadata(subscription);
        let request = JoinGroupRequest::default()
            .with_group_id(self.group())
            .with_session_timeout_ms(self.place.session_ms)
            .with_rebalance_timeout_ms(300_000)
            .with_member_id(self.id.clone())
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(vec![protocol]);
        self.connection.send(ApiKey::JoinGroup, JOIN_VERSION, &request)?;
        let joined: JoinGroupResponse = self.connection.receive(JOIN_VERSION)?;
        match joined.error_code {
            0 | MEMBER_ID_REQUIRED => self.id = joined.member_id.clone(),
            UNKNOWN_MEMBER => self.id = StrBytes::new(),
            LOADING | NOT_AVAILABLE | NOT_COORDINATOR | REBALANCE => {}
            code => bail!("a join was answered with error code {code}"),
        }
        if joined.error_code != 0 {
            return Ok(());
        }
        let leads = joined.leader == joined.member_id;
        let members: Vec<StrBytes> = joined.members.into_iter().map(|member| member.member_id).collect();
        let assign = |(at, member): (usize, StrBytes)| {
            let mine = (at as u32..self.place.partitions).step_by(members.len()).map(|each| each as i32);
            let assignment =
                Assignment { partitions: vec![(self.place.topic.clone(), mine.collect())], user_data: None };
            SyncGroupRequestAssignment::default().with_member_id(member).with_assignment(assignment.encode(1))
        };
        let assignments =
            if leads { members.iter().cloned().enumerate().map(assign).collect() } else { vec![] };
        let request = SyncGroupRequest::default()
            .with_group_id(self.group())
            .with_generation_id(joined.generation_id)
            .with_member_id(self.id.clone())
            .with_assignments(assignments);
        self.connection.send(ApiKey::SyncGroup, SYNC_VERSION, &request)?;
        let synced: SyncGroupResponse = self.connection.receive(SYNC_VERSION)?;
        match synced.error_code {
            0 => {
                let told = Assignment::decode(&synced.assignment)?.partitions;
                self.assign(told.into_iter().flat_map(|(_, partitions)| partitions).collect())?;
                (self.epoch, self.must_join) = (joined.generation_id, false);
            }
            LOADING | NOT_AVAILABLE | NOT_COORDINATOR | REBALANCE | ILLEGAL_GENERATION | UNKNOWN_MEMBER => {}
            code => bail!("a sync was answered with error code {code}"),
        }
        Ok(())
    }

    fn heartbeat(&mut self) -> anyhow::Result<()> {
        let request = HeartbeatRequest::default()
            .with_group_id(self.group())
            .with_generation_id(self.epoch)
            .with_member_id(self.id.clone());
        self.connection.send(ApiKey::Heartbeat, HEARTBEAT_VERSION, &request)?;
        let answer: HeartbeatResponse = self.connection.receive(HEARTBEAT_VERSION)?;
        match answer.error_code {
            0 => Ok(()),
            REBALANCE | ILLEGAL_GENERATION | UNKNOWN_MEMBER => {
                self.must_join = true;
                Ok(())
            }
            code => bail!("a heartbeat was answered with error code {code}"),
        }
    }

    fn group(&self) -> GroupId {
        GroupId(text(&self.place.group))
    }

    /// Commits an offset for partition 0, and gives the connection to another.
    pub(super) fn commit(mut self) -> anyhow::Result<Connection> {
        let version = match self.place.protocol {
            Protocol::Classic => COMMIT_VERSION,
            Protocol::Consumer => CONSUMER_COMMIT_VERSION,
        };
        let partition = OffsetCommitRequestPartition::default()
            .with_committed_offset(7)
            .with_committed_metadata(Some(StrBytes::new()));
        let topic = OffsetCommitRequestTopic::default()
            .with_name(name(&self.place.topic))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group())
            .with_generation_id_or_member_epoch(self.epoch)
            .with_member_id(self.id.clone())
            .with_topics(vec![topic]);
        self.connection.send(ApiKey::OffsetCommit, version, &request)?;
        let answer: OffsetCommitResponse = self.connection.receive(version)?;
        for each in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            ensure!(each.error_code == 0, "a commit was answered with error code {}", each.error_code);
        }
        Ok(self.connection)
    }

    /// It is no more, and nobody tells the server.
    pub(super) fn die(mut self) -> anyhow::Result<()> {
        self.assign(Vec::new())
    }

    pub(super) fn leave(mut self) -> anyhow::Result<()> {
        self.assign(Vec::new())?;
        match self.place.protocol {
            Protocol::Classic => {
                let member = MemberIdentity::default().with_member_id(self.id.clone());
                let request =
                    LeaveGroupRequest::default().with_group_id(self.group()).with_members(vec![member]);
                self.connection.send(ApiKey::LeaveGroup, LEAVE_VERSION, &request)?;
                self.connection.receive::<LeaveGroupResponse>(LEAVE_VERSION).map(drop)
            }
            Protocol::Consumer => {
                let request = ConsumerGroupHeartbeatRequest::default()
                    .with_group_id(self.group())
                    .with_member_id(self.id.clone())
                    .with_member_epoch(-1);
                self.connection.send(ApiKey::ConsumerGroupHeartbeat, CONSUMER_VERSION, &request)?;
                self.connection.receive::<ConsumerGroupHeartbeatResponse>(CONSUMER_VERSION).map(drop)
            }
        }
    }
}
