//! One member of a group.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::config::{ConsumerOverrides, GroupConfig};
use super::consumer::record::{ClassicValue, MemberValue};
use super::error::GroupError;
use super::event::{InTransaction, Join, JoinedMember, Now, RequestId, Response, Synced};
use super::record::{GroupRecord, MemberMetadata};

/// A new member cannot send heartbeats while its join waits, so its join may wait only this long. Kafka's constant.
const NEW_MEMBER_JOIN_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// One event for one group: what it may look at, and what it has brought about so far.
pub(super) struct Turn<'a> {
    pub(super) group_id: &'a str,
    pub(super) config: &'a GroupConfig,
    /// What the group has of its own of it.
    pub(super) own: Option<&'a ConsumerOverrides>,
    pub(super) now: Now,
    /// Whether no store of the group's own records (consumer protocol) is under way.
    pub(super) is_settled: bool,
    pub(super) acts: Vec<Act>,
}

/// What an event brings about; becomes an [`super::Effect`] once a store has its token.
pub(super) enum Act {
    Answer(RequestId, Response),
    Store(Vec<GroupRecord>, Then, Option<InTransaction>),
}

/// What to do when a store has ended.
pub(super) enum Then {
    Nothing,
    Answer(RequestId, Response),
    /// Answer a member of a group in the consumer protocol, unless something that its group stored before is not durable.
    Beat {
        group: String,
        /// How often the group had changed its protocol by then: if it has since, nothing is known of what the answer rests on.
        conversions: u32,
        request: RequestId,
        response: Response,
    },
    /// The group has become a classic one; whoever brought that about is answered.
    Downgrade {
        group: String,
        conversions: u32,
        reply: Option<(RequestId, Response)>,
    },
    /// Hand out what the leader assigned.
    Assign {
        group: String,
        generation: i32,
        assignments: Vec<(String, Bytes)>,
    },
    /// Answer a static member that came back to a stable group, or bring its old self back.
    Readmit {
        group: String,
        readmit: Box<Readmit>,
    },
}

/// A static member that came back under a new id.
pub(super) struct Readmit {
    pub(super) request: RequestId,
    pub(super) new_id: String,
    pub(super) old_id: String,
    pub(super) old: Member,
    /// Who the member is told leads, if it cannot be told to skip the assignment.
    pub(super) led_by: Option<String>,
}

impl Turn<'_> {
    pub(super) fn answer(&mut self, request: RequestId, response: Response) {
        self.acts.push(Act::Answer(request, response));
    }

    pub(super) fn refuse_join(&mut self, request: RequestId, error: GroupError) {
        self.answer(request, Response::Join(Err(error)));
    }

    pub(super) fn refuse_sync(&mut self, request: RequestId, error: GroupError) {
        self.answer(request, Response::Sync(Err(error)));
    }

    pub(super) fn store(&mut self, records: Vec<GroupRecord>, then: Then) {
        self.acts.push(Act::Store(records, then, None));
    }

    /// Answers once `records` are durable; at once if there are none.
    pub(super) fn store_then_answer(
        &mut self,
        records: Vec<GroupRecord>,
        request: RequestId,
        response: Response,
    ) {
        if records.is_empty() {
            self.answer(request, response);
        } else {
            self.store(records, Then::Answer(request, response));
        }
    }

    /// Answers once everything that this event stores is durable; at once if it stores nothing.
    pub(super) fn answer_when_stored(&mut self, request: RequestId, response: Response) {
        match self.acts.last_mut() {
            Some(Act::Store(_, then @ Then::Nothing, _)) => *then = Then::Answer(request, response),
            _ => self.answer(request, response),
        }
    }
}

/// The host of a member that has no connection. It dies with the broker.
pub(crate) const IN_PROCESS: &str = "in process";

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    /// The preferred first; at least one.
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    /// Has not seen its first generation yet.
    pub(super) is_new: bool,
    /// A join or sync that waits. While one does, the member counts as alive.
    pub(super) join: Option<RequestId>,
    pub(super) sync: Option<RequestId>,
    /// When the member is dead unless heard of; `None` once that passed while a request of it waits, until it is answered.
    pub(super) session_deadline: Option<Duration>,
}

impl Member {
    pub(super) fn dies_with_the_broker(&self) -> bool {
        self.client_host == IN_PROCESS
    }

    pub(super) fn new(join: Join, request: RequestId, now: Now) -> Self {
        let mut member = Self {
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout: Duration::ZERO,
            rebalance_timeout: Duration::ZERO,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            is_new: true,
            join: Some(request),
            sync: None,
            session_deadline: Some(now.monotonic + NEW_MEMBER_JOIN_TIMEOUT),
        };
        member.update(join.protocols, join.session_timeout_ms, join.rebalance_timeout_ms);
        member
    }

    pub(super) fn restored(stored: MemberMetadata, protocol: String, now: Now) -> Self {
        let mut member = Self {
            instance_id: stored.instance_id,
            client_id: stored.client_id,
            client_host: stored.client_host,
            session_timeout: Duration::ZERO,
            rebalance_timeout: Duration::ZERO,
            protocols: Vec::new(),
            assignment: stored.assignment,
            is_new: false,
            join: None,
            sync: None,
            session_deadline: None,
        };
        member.update(
            vec![(protocol, stored.subscription)],
            stored.session_timeout_ms,
            stored.rebalance_timeout_ms,
        );
        member.heard_of(now);
        member
    }

    /// A classic member of a group of the consumer protocol that becomes a classic one.
    pub(super) fn of_classic(about: &MemberValue, classic: &ClassicValue, now: Now) -> Self {
        let mut member = Self {
            instance_id: about.instance_id.clone(),
            client_id: about.client_id.clone(),
            client_host: about.client_host.clone(),
            session_timeout: Duration::ZERO,
            rebalance_timeout: Duration::ZERO,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            is_new: false,
            join: None,
            sync: None,
            session_deadline: None,
        };
        member.update(classic.protocols.clone(), classic.session_timeout_ms, about.rebalance_timeout_ms);
        member.heard_of(now);
        member
    }

    pub(super) fn update(
        &mut self,
        protocols: Vec<(String, Bytes)>,
        session_timeout_ms: i32,
        rebalance_timeout_ms: i32,
    ) {
        self.protocols = protocols;
        self.session_timeout = millis(session_timeout_ms);
        self.rebalance_timeout =
            if rebalance_timeout_ms < 0 { self.session_timeout } else { millis(rebalance_timeout_ms) };
    }

    pub(super) fn heard_of(&mut self, now: Now) {
        self.session_deadline = Some(now.monotonic + self.session_timeout);
    }

    /// Whether silence is no sign of death: the member waits for us.
    pub(super) fn waits(&self) -> bool {
        !self.is_new && (self.join.is_some() || self.sync.is_some())
    }

    /// Of the protocols that it supports, each once.
    pub(super) fn protocol_names(&self) -> BTreeSet<&str> {
        self.protocols.iter().map(|(name, _)| name.as_str()).collect()
    }

    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    /// Parks a join; one that waited already is an old connection's, and is told to try again.
    pub(super) fn park_join(&mut self, request: RequestId, turn: &mut Turn<'_>) {
        if let Some(older) = self.join.replace(request) {
            turn.refuse_join(older, GroupError::RebalanceInProgress);
        }
    }

    /// Parks a sync, likewise.
    pub(super) fn park_sync(&mut self, request: RequestId, turn: &mut Turn<'_>) {
        if let Some(older) = self.sync.replace(request) {
            turn.refuse_sync(older, GroupError::RebalanceInProgress);
        }
    }

    pub(super) fn answer_join(&mut self, response: Response, turn: &mut Turn<'_>) {
        if let Some(request) = self.join.take() {
            turn.answer(request, response);
            self.heard_of(turn.now);
        }
    }

    pub(super) fn answer_sync(&mut self, result: Result<Synced, GroupError>, turn: &mut Turn<'_>) {
        if let Some(request) = self.sync.take() {
            turn.answer(request, Response::Sync(result));
            self.heard_of(turn.now);
        }
    }

    /// Answers whatever waits; for a member that is no more.
    pub(super) fn dismiss(&mut self, error: &GroupError, turn: &mut Turn<'_>) {
        self.answer_join(Response::Join(Err(error.clone())), turn);
        self.answer_sync(Err(error.clone()), turn);
    }

    pub(super) fn to_joined(&self, member_id: &str, protocol: &str) -> JoinedMember {
        JoinedMember {
            member_id: member_id.to_owned(),
            instance_id: self.instance_id.clone(),
            metadata: self.metadata(protocol),
        }
    }

    pub(super) fn to_stored(&self, member_id: &str, protocol: &str, assignment: Bytes) -> MemberMetadata {
        MemberMetadata {
            member_id: member_id.to_owned(),
            instance_id: self.instance_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_timeout_ms: whole_ms(self.rebalance_timeout),
            session_timeout_ms: whole_ms(self.session_timeout),
            subscription: self.metadata(protocol),
            assignment,
        }
    }
}

/// At least one millisecond, so that every deadline lies ahead of the moment that sets it.
fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::from(ms.max(1).unsigned_abs()))
}

pub(super) fn whole_ms(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}
