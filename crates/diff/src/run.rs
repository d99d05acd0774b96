//! A case: its steps, one after the other, to both servers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anabranch_wire::messages::create_topics_request::CreatableTopic;
use anabranch_wire::messages::delete_topics_request::DeleteTopicState;
use anabranch_wire::messages::describe_configs_request::DescribeConfigsResource;
use anabranch_wire::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use anabranch_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use anabranch_wire::messages::metadata_request::MetadataRequestTopic;
use anabranch_wire::messages::*;
use anabranch_wire::protocol::StrBytes;
use anabranch_wire::{Head, Request, Response};
use tokio::time::{Instant, timeout};

use crate::client::{Answer, Client, SOON, text};
use crate::coverage::Coverage;
use crate::known::forgive;
use crate::normal::{BARRIER, normalize};
use crate::side::{PREFIX, State};
use crate::step::group::{GroupCall, MEMBERS};
use crate::step::{Call, Group, Step, Topic, admin, transaction};
use crate::tree::{Differing, Tree};

/// What a server that answers at once takes at most.
const AT_ONCE: Duration = Duration::from_secs(10);
/// After so long, a request that may wait for others is taken to wait.
const WAITS_AFTER: Duration = Duration::from_millis(400);
/// When one has answered, the other does within this.
const ALSO: Duration = Duration::from_secs(3);
/// How long it is asked again while an answer says "not yet".
const PASSING: Duration = Duration::from_secs(3);
/// A request that waits is looked after so long, after every step.
const GLANCE: Duration = Duration::from_millis(20);

/// Answers that say "ask again": LEADER_NOT_AVAILABLE, COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE,
/// NOT_COORDINATOR, CONCURRENT_TRANSACTIONS.
const PASSING_CODES: [&str; 5] = ["5", "14", "15", "16", "51"];

/// What is counted when a case ends before its end.
const ANY_LEADER: &str = "The leader has gone, and another one leads on each side: the case ends there";

/// Where both listen.
#[derive(Debug, Clone, Copy)]
pub struct Servers {
    /// Anabranch.
    pub ours: SocketAddr,
    /// Apache Kafka.
    pub kafka: SocketAddr,
}

/// A step that was answered differently.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Which step, from 1.
    pub number: usize,
    /// The step.
    pub step: Step,
    /// What was asked, of ours.
    pub asked: String,
    /// Where the answers differ.
    pub differing: Vec<Differing>,
    /// Ours, in normal form.
    pub ours: String,
    /// Kafka's, in normal form.
    pub kafka: String,
}

impl Difference {
    /// What it is, however often it is met.
    #[must_use]
    pub fn kind(&self) -> String {
        let first = &self.differing[0];
        let path: String = first.path.chars().filter(|char| !char.is_ascii_digit()).collect();
        let cut = |text: &str| text.chars().take(60).collect::<String>();
        format!("{:?} {path}: {} / Kafka {}", self.step.key(), cut(&first.one), cut(&first.other))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "step {}, {:?} version {}", self.number, self.step.key(), self.step.version)?;
        for differing in &self.differing {
            writeln!(out, "  {}: ours {}, Kafka {}", differing.path, differing.one, differing.other)?;
        }
        writeln!(out, "  asked {}", self.asked)?;
        writeln!(out, "  ours  {}", self.ours)?;
        write!(out, "  Kafka {}", self.kafka)
    }
}

/// One server in one case.
#[derive(Debug)]
struct Side {
    addr: SocketAddr,
    state: State,
    control: Client,
    connections: Vec<Client>,
    barrier: i64,
}

/// A request that waits, on both sides.
struct Waiting {
    number: usize,
    step: Step,
    sent: [Sent; 2],
}

/// A request that was sent.
#[derive(Clone)]
struct Sent {
    head: Head,
    request: Request,
}

/// An answer, or none in time.
type Heard = Option<Answer>;

/// Runs a case; the first step that was answered differently, if any.
///
/// # Errors
/// [`Difference`]
pub async fn run(servers: Servers, steps: &[Step], coverage: &mut Coverage) -> Result<(), Box<Difference>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let prefix = format!("{PREFIX}{:x}-", now.as_nanos() as u64 >> 10);
    // A little ago, so that the server's own times are told from the records'.
    let state = State::new(prefix, now.as_millis() as i64 - 10_000);
    let mut case = Case {
        sides: [Side::new(servers.ours, state.clone()).await, Side::new(servers.kafka, state).await],
        waiting: (0..=MEMBERS).map(|_| None).collect(),
        is_over: false,
    };
    let first = admin::first_topics();
    let mut result = case.step(0, &first, coverage).await;
    for (at, step) in steps.iter().enumerate() {
        if result.is_err() || case.is_over {
            break;
        }
        result = case.step(at + 1, step, coverage).await;
    }
    for side in &mut case.sides {
        side.clear().await;
    }
    result
}

/// Makes what the cases need. Once for both servers.
pub async fn prepare(servers: Servers) {
    for addr in [servers.ours, servers.kafka] {
        let mut client = Client::connect(addr).await;
        let topic = CreatableTopic::default()
            .with_name(TopicName(text(BARRIER)))
            .with_num_partitions(1)
            .with_replication_factor(1);
        let create = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
        let code = client.call(7, &create).await.topics[0].error_code;
        assert!([0, 36].contains(&code), "the barrier cannot be made: {code}");
        // The coordinators' topics are made when they are first asked for.
        for key_type in [0, 1] {
            let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(BARRIER)]);
            let deadline = Instant::now() + SOON;
            while client.call(4, &find.clone().with_key_type(key_type)).await.coordinators[0].error_code != 0
            {
                assert!(Instant::now() < deadline, "there is no coordinator");
            }
        }
        let init = InitProducerIdRequest::default().with_transaction_timeout_ms(60_000);
        let init = init.with_transactional_id(Some(TransactionalId(text(BARRIER))));
        let heartbeat = HeartbeatRequest::default().with_group_id(GroupId(text(BARRIER)));
        let deadline = Instant::now() + SOON;
        while client.call(4, &init).await.error_code != 0 || client.call(4, &heartbeat).await.error_code != 25
        {
            assert!(Instant::now() < deadline, "the coordinators do not get ready");
        }
    }
}

struct Case {
    /// Ours, and Kafka's.
    sides: [Side; 2],
    /// By connection.
    waiting: Vec<Option<Waiting>>,
    /// Both are right, and what comes now is another story on each side.
    is_over: bool,
}

impl Case {
    async fn step(
        &mut self,
        number: usize,
        step: &Step,
        coverage: &mut Coverage,
    ) -> Result<(), Box<Difference>> {
        let connection = step.connection();
        if self.waiting[connection].is_some() {
            return Ok(()); // its member is not there
        }
        let [ours, kafka] = &mut self.sides;
        let (ours, kafka) = tokio::join!(ours.ask(step), kafka.ask(step));
        let (sent, heard) = ([ours.0, kafka.0], [ours.1, kafka.1]);
        match heard {
            [None, None] if step.may_wait() => {
                coverage.unanswered(step, "waits");
                self.waiting[connection] = Some(Waiting { number, step: step.clone(), sent });
            }
            heard => self.judge(number, step, sent, heard, coverage).await?,
        }
        if changes_metadata(step) {
            let [ours, kafka] = &mut self.sides;
            tokio::join!(ours.settle_metadata(), kafka.settle_metadata());
        }
        if matches!(&step.call, Call::Transaction(call) if transaction::may_end(call)) {
            let [ours, kafka] = &mut self.sides;
            tokio::join!(ours.settle_transactions(), kafka.settle_transactions());
        }
        if let Request::Produce(produce) = step.request(&self.sides[0].state)
            && [0, 1].contains(&produce.acks)
        {
            self.see().await;
        }
        self.look_after_waiting(coverage).await
    }

    /// What was written without a promise is seen at once in Kafka, and after a sync here: waits for that.
    async fn see(&mut self) {
        let mut ends = [Vec::new(), Vec::new()];
        let deadline = Instant::now() + ALSO;
        while Instant::now() < deadline {
            for (side, ends) in self.sides.iter_mut().zip(&mut ends) {
                *ends = side.ends().await;
            }
            if ends[0] == ends[1] {
                return;
            }
        }
    }

    /// Whoever waited may have been answered by now.
    async fn look_after_waiting(&mut self, coverage: &mut Coverage) -> Result<(), Box<Difference>> {
        for connection in 1..self.waiting.len() {
            if self.is_over {
                break;
            }
            let Some(waiting) = self.waiting[connection].take() else { continue };
            let [ours, kafka] = &mut self.sides;
            let [at_ours, at_kafka] = &waiting.sent;
            let heard = tokio::join!(
                ours.listen(connection, &at_ours.head, GLANCE),
                kafka.listen(connection, &at_kafka.head, GLANCE)
            );
            match heard {
                (None, None) => self.waiting[connection] = Some(waiting),
                heard => {
                    self.judge(waiting.number, &waiting.step, waiting.sent, heard.into(), coverage).await?;
                }
            }
        }
        Ok(())
    }

    /// Waits for the other answer if there is one only, and compares.
    async fn judge(
        &mut self,
        number: usize,
        step: &Step,
        sent: [Sent; 2],
        mut heard: [Heard; 2],
        coverage: &mut Coverage,
    ) -> Result<(), Box<Difference>> {
        for (at, side) in self.sides.iter_mut().enumerate() {
            if heard[at].is_none() {
                heard[at] = side.listen(step.connection(), &sent[at].head, ALSO).await;
            }
        }
        for (side, (sent, heard)) in self.sides.iter_mut().zip(sent.iter().zip(&heard)) {
            if let Some(Answer::Said(response)) = heard {
                step.learn(&sent.request, response, &mut side.state);
            }
        }
        let [ours, kafka] = &self.sides;
        let says_nothing = wants_no_answer(&sent[0].request);
        let mut ours = form(&heard[0], &ours.state, says_nothing);
        let mut kafka = form(&heard[1], &kafka.state, says_nothing);
        match &heard[1] {
            Some(Answer::Said(_)) => coverage.answered(step, &kafka),
            Some(_) => coverage.unanswered(step, "closed"),
            None => coverage.unanswered(step, "silent"),
        }
        for line in forgive(step, &mut ours, &mut kafka) {
            *coverage.known.entry(line).or_default() += 1;
        }
        for (side, heard) in self.sides.iter_mut().zip(&heard) {
            if *heard == Some(Answer::Closed) {
                side.connections[step.connection()] = Client::connect(side.addr).await;
            }
        }
        let differing = ours.differing(&kafka);
        if differing.is_empty() {
            return Ok(());
        }
        if self.may_lead_both(step, [&ours, &kafka], &differing).await {
            *coverage.known.entry(ANY_LEADER).or_default() += 1;
            self.is_over = true;
            return Ok(());
        }
        Err(Box::new(Difference {
            number,
            step: step.clone(),
            asked: format!("{:?}", sent[0].request),
            differing,
            ours: ours.to_string(),
            kafka: kafka.to_string(),
        }))
    }
}

impl Case {
    /// Whether two answers to JoinGroup tell different leaders, and both may be. Where the leader has gone, or is a static member
    /// that is silent, Kafka takes the first in the order of a hash map; otherwise it stays who it was. Whoever is told to lead,
    /// and nobody else, is told the members, who are the same on both sides.
    async fn may_lead_both(&mut self, step: &Step, answers: [&Tree; 2], differing: &[Differing]) -> bool {
        let Call::Group(GroupCall::Join { group, .. }) = &step.call else { return false };
        let is_of_leader = |path: &str| path == "leader" || path.starts_with("members");
        if !differing.iter().all(|each| is_of_leader(&each.path))
            || answers[0].get("leader") == answers[1].get("leader")
        {
            return false;
        }
        let mut known: Vec<Vec<String>> = Vec::new();
        for (side, answer) in self.sides.iter_mut().zip(answers) {
            let leads = answer.get("leader") == answer.get("member_id");
            let told = answer.get("members").map(Tree::elements).unwrap_or_default();
            let members = side.members(*group).await;
            let Some(led) = side.state.led.get(group) else { return false };
            let stays = led.before.as_ref().and_then(|before| members.get(before));
            let is_bound = led.before.is_none() || stays.is_some_and(|is_static| !is_static);
            if leads == told.is_empty() || is_bound || !members.contains_key(&led.leader) {
                return false;
            }
            // Who joined together with this one may not have been heard of yet.
            let called = |id: &StrBytes| side.state.symbol(id).unwrap_or("<somebody>").to_owned();
            let mut called: Vec<String> = members.keys().map(called).collect();
            called.sort();
            known.push(called);
        }
        known[0] == known[1]
    }
}

/// The normal form of an answer.
fn form(heard: &Heard, state: &State, says_nothing: bool) -> Tree {
    match heard {
        Some(Answer::Said(_)) if says_nothing => Tree::leaf("nothing, and goes on"),
        None => Tree::leaf("no answer"),
        Some(Answer::Closed) => Tree::leaf("closed"),
        Some(Answer::Garbled(frame)) => Tree::Leaf(format!("no response: {frame:?}")),
        Some(Answer::Said(response)) => {
            let mut tree = Tree::of(&**response);
            normalize(&mut tree, state);
            tree
        }
    }
}

/// Whether something of it comes to be known behind its answer, in Kafka.
fn changes_metadata(step: &Step) -> bool {
    use admin::Admin;
    let Call::Admin(admin) = &step.call else { return false };
    matches!(
        admin,
        Admin::CreateTopics { .. }
            | Admin::DeleteTopics { .. }
            | Admin::CreatePartitions { .. }
            | Admin::AlterConfigs { .. }
            | Admin::IncrementalAlterConfigs { .. }
            | Admin::AlterPartitionReassignments { .. }
    )
}

/// Produce without an answer.
fn wants_no_answer(request: &Request) -> bool {
    matches!(request, Request::Produce(request) if request.acks == 0)
}

impl Side {
    async fn new(addr: SocketAddr, state: State) -> Self {
        let mut connections = Vec::new();
        for _ in 0..=MEMBERS {
            connections.push(Client::connect(addr).await);
        }
        Self { addr, state, control: Client::connect(addr).await, connections, barrier: 0 }
    }

    /// Sends a step's request and listens, again and again while the answer is a passing one.
    async fn ask(&mut self, step: &Step) -> (Sent, Heard) {
        let deadline = Instant::now() + PASSING;
        let request = step.request(&self.state);
        loop {
            let client = &mut self.connections[step.connection()];
            let mut head = client.ask(step.key(), step.version, &request).await;
            if wants_no_answer(&request) {
                // The next answer tells whether the connection was closed.
                let fence = Request::from(ApiVersionsRequest::default());
                head = client.ask(ApiKey::ApiVersions, 0, &fence).await;
            }
            let wait = if step.may_wait() { WAITS_AFTER } else { AT_ONCE };
            let heard = self.listen(step.connection(), &head, wait).await;
            if !is_passing(&heard) || Instant::now() > deadline {
                return (Sent { head, request }, heard);
            }
        }
    }

    async fn listen(&mut self, connection: usize, head: &Head, wait: Duration) -> Heard {
        timeout(wait, self.connections[connection].answer(head)).await.ok()
    }

    /// Waits until what was changed before is known everywhere: a change that comes later is, twice, since the first may come
    /// to be known together with it. Then looks which topics there are.
    async fn settle_metadata(&mut self) {
        for _ in 0..2 {
            self.barrier += 1;
            let value = format!("{}", self.state.now_ms + self.barrier);
            let config =
                AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text(&value)));
            let resource = AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text(BARRIER))
                .with_configs(vec![config]);
            let alter = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
            self.control.call(1, &alter).await;
            let resource = DescribeConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text(BARRIER))
                .with_configuration_keys(Some(vec![text("retention.ms")]));
            let describe = DescribeConfigsRequest::default().with_resources(vec![resource]);
            let deadline = Instant::now() + SOON;
            while self.control.call(4, &describe).await.results[0].configs[0].value.as_deref() != Some(&value)
            {
                assert!(Instant::now() < deadline, "a change of settings does not come to be known");
            }
        }
        for topic in [Topic::A, Topic::B, Topic::Never] {
            let asked = MetadataRequestTopic::default().with_name(Some(self.state.topic(topic)));
            let request = MetadataRequest::default().with_topics(Some(vec![asked]));
            let found = self.control.call(12, &request).await.topics.remove(0);
            self.state.set_topic_id(topic, found.topic_id);
        }
    }

    /// The ids of a classic group's members, and whether they are static.
    async fn members(&mut self, group: Group) -> BTreeMap<StrBytes, bool> {
        let request = DescribeGroupsRequest::default().with_groups(vec![self.state.group(group)]);
        let members = self.control.call(5, &request).await.groups.remove(0).members;
        members.into_iter().map(|member| (member.member_id, member.group_instance_id.is_some())).collect()
    }

    /// Where the partitions of the case end.
    async fn ends(&mut self) -> Vec<(i16, i64)> {
        let topics = [Topic::A, Topic::B, Topic::Never].map(|topic| {
            let each = (0..3).map(|partition| {
                ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(-1)
            });
            ListOffsetsTopic::default().with_name(self.state.topic(topic)).with_partitions(each.collect())
        });
        let request = ListOffsetsRequest::default().with_topics(topics.to_vec());
        let answer = self.control.call(5, &request).await;
        let mut ends: Vec<_> = answer
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(move |each| (&topic.name, each)))
            .map(|(name, each)| ((name.clone(), each.partition_index), (each.error_code, each.offset)))
            .collect();
        ends.sort();
        ends.into_iter().map(|(_, end)| end).collect()
    }

    /// Waits until no transaction is between its decision and its end.
    async fn settle_transactions(&mut self) {
        let request =
            DescribeTransactionsRequest::default().with_transactional_ids(transaction::ids(&self.state));
        let deadline = Instant::now() + SOON;
        loop {
            let described = self.control.call(0, &request).await;
            let mut states = described.transaction_states.iter();
            if !states.any(|each| each.transaction_state.starts_with("Prepare")) {
                return;
            }
            assert!(Instant::now() < deadline, "a transaction does not end at {}: {described:?}", self.addr);
        }
    }

    /// Leaves little behind.
    async fn clear(&mut self) {
        let topics = [Topic::A, Topic::B, Topic::Never]
            .map(|topic| DeleteTopicState::default().with_name(Some(self.state.topic(topic))));
        let delete = DeleteTopicsRequest::default().with_topics(topics.to_vec()).with_timeout_ms(10_000);
        self.control.call(6, &delete).await;
    }
}

fn is_passing(heard: &Heard) -> bool {
    let Some(Answer::Said(response)) = heard else { return false };
    if let Response::ApiVersions(_) = **response {
        return false;
    }
    let mut codes = BTreeSet::new();
    Tree::of(&**response).visit(&mut |name, field| {
        if let (true, Tree::Leaf(code)) = (name.ends_with("error_code"), field) {
            codes.insert(code.clone());
        }
    });
    PASSING_CODES.iter().any(|code| codes.contains(*code))
}
