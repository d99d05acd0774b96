//! What clients do: each step asks the broker for one thing, and most do not wait for the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_broker::group::event::{Commit, CommitOffset, Join, Joined, Leaver, Sync};
use anabranch_broker::group::{GroupError, Heartbeat};
use anabranch_broker::{Ack, Apply, At, Before, Broker, ConfigOp, NewTopic, Partition};
use anabranch_core::Offset;
use anabranch_core::batch::Compression;
use anabranch_core::seam::Clock;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::coop::unconstrained;

use crate::clock::SimClock;
use crate::disk::SimDisk;
use crate::model::batch::{self, BatchNumber, Key, Sent};
use crate::model::offsets::metadata_of;
use crate::model::partition::Strength;
use crate::model::producers::{IN_FLIGHT_MAX, Stream};
use crate::model::topics::{Fate, TopicModel};
use crate::model::{Answer, Question, Waiting, World};
use crate::plan::Plan;
use crate::random::Chance;
use crate::readers::fetch;

/// From so many bytes on a batch goes to its segment only, and not to the journal.
const DIRECT_BYTES: u64 = 1 << 20;

/// Whoever waits longer than this for what takes no time waits for ever.
const PATIENCE: Duration = Duration::from_secs(600);

/// A member of a group.
#[derive(Debug, Default)]
pub(crate) struct Member {
    pub(crate) group: String,
    state: MemberState,
    id: String,
    generation: i32,
    /// Those that it must tell their assignments, if it leads.
    leads: Option<Vec<String>>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum MemberState {
    #[default]
    Out,
    Joining,
    Joined,
    Syncing,
    Stable,
}

impl Member {
    pub(crate) fn new(group: String) -> Self {
        Self { group, ..Self::default() }
    }

    pub(crate) fn joined(&mut self, joined: Option<Joined>) {
        let Some(joined) = joined else {
            self.state = MemberState::Out;
            self.id.clear();
            return;
        };
        self.state = MemberState::Joined;
        self.generation = joined.generation;
        self.leads = (joined.leader == joined.member_id)
            .then(|| joined.members.into_iter().map(|member| member.member_id).collect());
        self.id = joined.member_id;
    }

    pub(crate) fn synced(&mut self, well: bool) {
        self.state = if well { MemberState::Stable } else { MemberState::Out };
    }

    /// The broker is gone; what was under way will not be answered.
    pub(crate) fn cut_off(&mut self) {
        if self.state != MemberState::Stable {
            self.state = MemberState::Out;
        }
    }
}

/// All clients of one life.
pub(crate) struct Clients<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) broker: Broker,
    pub(crate) world: &'a Arc<Mutex<World>>,
    pub(crate) disk: &'a SimDisk,
    pub(crate) clock: &'a SimClock,
    pub(crate) chance: Chance,
}

impl Clients<'_> {
    /// Does one thing.
    pub(crate) async fn step(&mut self) {
        match self.chance.below(100) {
            0..3 if self.plan.cleans => self.maintain().await,
            3..9 if self.plan.wide => {
                for _ in 0..40 {
                    self.produce().await;
                }
            }
            0..45 => self.produce().await,
            45..60 => self.fetch(),
            60..68 if self.plan.groups => self.commit(),
            68..76 if self.plan.groups => self.member().await,
            76..79 => self.stale().await,
            79..82 => self.locate(),
            82..84 => self.create(),
            84..86 if self.plan.churn => self.delete(),
            86..88 if self.plan.churn => self.grow(),
            88..90 if self.plan.churn => self.alter(),
            90..91 => self.offsets().await,
            91..93 if self.plan.cleans => self.delete_records(),
            93..95 if self.plan.full => {
                let bytes = self.chance.below(4000);
                self.disk.fill(Some(bytes));
            }
            95..97 => self.disk.fill(None),
            97..98 => self.jump(),
            98..99 => self.ask_producer_id(),
            _ => self.pass(self.plan.pause_ms).await,
        }
    }

    /// Time goes by.
    pub(crate) async fn pass(&mut self, ms_max: u64) {
        let ms = self.chance.between(1..=ms_max);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Somebody sets the clock; not back where it counts how long tombstones stay.
    fn jump(&mut self) {
        let back_ms = if self.plan.cleans { 0 } else { 300_000 };
        self.clock.jump(self.chance.between(0..=600_000) as i64 - back_ms);
    }

    pub(crate) fn harvest(&self) {
        self.world.lock().harvest();
    }

    fn wait(&self, question: Question, future: impl Future<Output = Answer> + Send + 'static) {
        self.wait_with(question, future, None);
    }

    fn wait_with(
        &self,
        question: Question,
        future: impl Future<Output = Answer> + Send + 'static,
        keeps: Option<Partition>,
    ) {
        let future = Box::pin(unconstrained(future));
        self.world.lock().waiting.push(Waiting { question, future, keeps });
    }

    fn present(&mut self) -> Option<Key> {
        let present = self.world.lock().present();
        (!present.is_empty()).then(|| *self.chance.pick(&present))
    }

    pub(crate) fn partition(&self, key: Key) -> Option<Partition> {
        self.partition_of(&self.world.lock(), key)
    }

    fn partition_of(&self, world: &World, key: Key) -> Option<Partition> {
        self.broker.partition(&world.name(key))
    }

    async fn produce(&mut self) {
        let Some(key) = self.present() else { return self.create() };
        let ack = match self.chance.below(10) {
            0 => None,
            1..4 => Some(Ack::Written),
            _ => Some(Ack::Durable),
        };
        if self.chance.one_in(2) {
            let number = self.make(key, None);
            return self.submit(number, ack).await;
        }
        let producer = {
            let world = self.world.lock();
            let usable: Vec<usize> =
                (0..world.producers.len()).filter(|at| !world.producers[*at].retired).collect();
            match usable.is_empty() {
                true => None,
                false => Some(*self.chance.pick(&usable)),
            }
        };
        let Some(producer) = producer else { return self.ask_producer_id() };
        // An idempotent producer asks for all or one, and not for nothing.
        let ack = ack.or(Some(Ack::Durable));
        let again = {
            let mut world = self.world.lock();
            let world = &mut *world;
            let model = &mut world.producers[producer];
            let stream = model.streams.entry(key).or_default();
            if stream.broken {
                model.retired = true;
                return;
            }
            self.again(stream)
        };
        match again {
            Again::No => {
                let number = self.make(key, Some(producer));
                self.submit(number, ack).await;
            }
            Again::Send(number) => self.submit(number, ack).await,
            Again::Wait => {}
        }
    }

    /// What must, or may, be sent again.
    fn again(&mut self, stream: &mut Stream) -> Again {
        if let Some(next) = stream.resend {
            stream.resend = (next + 1 < stream.batches.len()).then_some(next + 1);
            if let Some(number) = stream.batches.get(next) {
                return Again::Send(*number);
            }
            stream.resend = None;
        }
        let open = &stream.batches[stream.answered..];
        match open.len() {
            0 => Again::No,
            // It gave up waiting for an answer, and sends all from there on again, as a client does.
            _ if self.chance.one_in(8) => {
                stream.resend = Some(stream.answered);
                Again::Wait
            }
            IN_FLIGHT_MAX.. => Again::Wait,
            _ => Again::No,
        }
    }

    /// Sends a batch that is long answered once more, as a network may.
    async fn stale(&mut self) {
        let number = {
            let world = self.world.lock();
            let old: Vec<BatchNumber> = world
                .producers
                .iter()
                .flat_map(|producer| producer.streams.iter())
                .filter(|(key, stream)| world.topics[key.0].fate == Fate::There && stream.answered > 0)
                .flat_map(|(_, stream)| stream.batches[..stream.answered].iter().rev().take(8).copied())
                .collect();
            if old.is_empty() {
                return;
            }
            *self.chance.pick(&old)
        };
        self.submit(number, Some(Ack::Durable)).await;
    }

    /// How many records of how many bytes a new batch has.
    fn measure(&mut self, in_table: bool) -> (u64, u64) {
        match self.chance.below(20) {
            _ if in_table => (self.chance.between(1..=6), self.chance.between(1..=200)),
            0 if self.plan.huge && self.chance.one_in(4) => {
                (1, self.chance.between(DIRECT_BYTES..=DIRECT_BYTES + 5000))
            }
            0 if self.plan.large => (self.chance.between(1..=4), self.chance.between(1000..=14_000)),
            0..4 => (self.chance.between(1..=20), self.chance.between(10..=400)),
            _ => (self.chance.between(1..=4), self.chance.between(1..=120)),
        }
    }

    /// A new batch.
    fn make(&mut self, key: Key, producer: Option<usize>) -> BatchNumber {
        let in_table = self.world.lock().topics[key.0].table.is_some();
        let (count, value_bytes) = self.measure(in_table);
        let compression = match value_bytes {
            DIRECT_BYTES.. => Compression::None,
            _ => *self.chance.pick(&[Compression::None, Compression::None, Compression::Lz4]),
        };
        let mut world = self.world.lock();
        let world = &mut *world;
        let number = world.sent.len();
        let now_ms = self.clock.now_ms();
        let (mut chance, is_mixed) = (self.chance.fork(), self.plan.times);
        let times = || now_ms - if is_mixed { chance.below(100_000) as i64 - 20_000 } else { 0 };
        let mut keys = self.chance.fork();
        let contents =
            batch::records(number, count as i32, value_bytes as usize, times, in_table.then_some(&mut keys));
        let mut by = None;
        let mut sequence_of = None;
        if let Some(producer) = producer {
            let model = &mut world.producers[producer];
            let stream = model.streams.entry(key).or_default();
            by = Some((model.id, model.epoch, stream.next_sequence));
            sequence_of = Some((producer, stream.next_sequence));
            stream.next_sequence += count as i32;
            stream.batches.push(number);
        }
        let bytes = batch::build(&contents, by, compression);
        world.trace.note(format_args!(
            "batch {number}: {count} records, {} bytes, for {} by {sequence_of:?}",
            bytes.len(),
            world.name(key)
        ));
        let sent = Sent {
            key,
            records: count as i32,
            producer: sequence_of,
            bytes,
            contents,
            made_ms: now_ms,
            open: 0,
            unsure: false,
            at: None,
        };
        world.sent.push(sent);
        number
    }

    /// Sends a batch; without `ack`, nobody will know what became of it.
    async fn submit(&mut self, number: BatchNumber, ack: Option<Ack>) {
        let (key, bytes, strength) = {
            let mut world = self.world.lock();
            let (key, bytes) = (world.sent[number].key, world.sent[number].bytes.clone());
            let strength = match ack {
                Some(Ack::Durable) => world.shown_strength(key),
                _ => Strength::Written,
            };
            world.trace.note(format_args!("batch {number}: send, ack {ack:?}"));
            world.sent[number].open += 1;
            world.sent[number].unsure |= ack.is_none();
            (key, bytes, strength)
        };
        let question = Question::Produce { batch: number, strength };
        let Some(partition) = self.partition(key) else {
            self.world.lock().sent[number].open -= 1;
            return;
        };
        // As a program does that holds the broker inside.
        if let Some(ack) = ack.filter(|_| self.chance.one_in(4)) {
            if let Some(answer) = self.patiently("a batch was appended", partition.produce(bytes, ack)).await
                && !self.disk.is_dead()
            {
                self.world.lock().answered(question, Answer::Produced(answer));
            }
            return;
        }
        let submitted =
            self.patiently("a batch was queued", partition.submit(bytes, ack.unwrap_or(Ack::Written)));
        let Some(submitted) = submitted.await else { return };
        match submitted {
            Err(error) if !self.disk.is_dead() => {
                self.world.lock().answered(question, Answer::Produced(Err(error)));
            }
            Ok(producing) if ack.is_some() => {
                let answer = async move { Answer::Produced(producing.answer().await) };
                self.wait_with(question, answer, Some(partition));
            }
            _ => {}
        }
    }

    /// Waits for what must come soon.
    pub(crate) async fn patiently<T>(&self, what: &str, future: impl Future<Output = T>) -> Option<T> {
        match tokio::time::timeout(PATIENCE, unconstrained(future)).await {
            Ok(done) => Some(done),
            Err(_) => {
                if !self.disk.is_dead() {
                    self.world.lock().fail(format!("waited for ever until {what}"));
                }
                None
            }
        }
    }

    fn fetch(&mut self) {
        let Some(key) = self.present() else { return };
        let bytes_max = *self.chance.pick(&[1, 500, 5000, 100_000]);
        if let Some(partition) = self.partition(key) {
            fetch(&mut self.world.lock(), key, &partition, bytes_max);
        }
    }

    /// A batch goes in, and comes out again.
    pub(crate) async fn probe(&mut self, key: Key, ack: Ack) {
        let mut number = self.make(key, None);
        self.submit(number, Some(ack)).await;
        for attempt in 0..100 {
            self.harvest();
            if self.disk.is_dead() || self.world.lock().is_settled(number) {
                return;
            }
            // A file that a sync of all files could not write says so when it is synced next: once.
            if attempt < 2 && self.world.lock().sent[number].open == 0 {
                number = self.make(key, None);
                self.submit(number, Some(ack)).await;
            }
            self.pass(100).await;
        }
        let mut world = self.world.lock();
        // Its next sync may have told of what a sync of all files could not write before.
        if let Some(partition) = self.partition_of(&world, key)
            && world.works(key, &partition)
        {
            let name = world.name(key);
            world.fail(format!("{name} works, and batch {number} does not go in"));
        }
    }

    fn locate(&mut self) {
        let Some(key) = self.present() else { return };
        let Some(partition) = self.partition(key) else { return };
        let at = match self.chance.below(6) {
            0 => At::Earliest,
            1 => At::Latest,
            2 => At::MaxTimestamp,
            _ => At::Time(self.clock.now_ms() - self.chance.below(120_000) as i64),
        };
        let mut world = self.world.lock();
        let found = partition.locate(at);
        world.trace.note(format_args!("{} {at:?}: {found:?}", partition.id()));
        match found {
            _ if self.disk.is_dead() => {}
            Ok(found) => {
                let start = partition.offsets().log_start.0;
                let strength = world.shown_strength(key);
                world.located(key, at, found, start, strength);
            }
            Err(error) if world.works(key, &partition) && !world.may_stop(key) => {
                world.fail(format!("{}: cannot find {at:?}: {error}", partition.id()));
            }
            Err(_) => {}
        }
    }

    fn ask_producer_id(&mut self) {
        let broker = self.broker.clone();
        self.wait(Question::ProducerId, async move { Answer::ProducerId(broker.init_producer_id().await) });
    }

    fn create(&mut self) {
        let name = format!("t{}", self.chance.below(self.plan.topics));
        let mut configs = BTreeMap::new();
        let sizes: &[&str] = match (self.plan.huge, self.plan.large) {
            (true, _) => &["1200000", "3000000"],
            (_, true) => &["60000", "200000", "1048576"],
            _ => &["9000", "20000"],
        };
        configs.insert("segment.bytes".to_owned(), self.chance.pick(sizes).to_string());
        if self.plan.huge {
            configs.insert("max.message.bytes".to_owned(), "1100000".to_owned());
        }
        configs
            .insert("index.interval.bytes".to_owned(), self.chance.pick(&["1", "300", "4096"]).to_string());
        if self.plan.relaxed && self.chance.one_in(3) {
            configs.insert("flush.messages".to_owned(), self.chance.between(2..=200).to_string());
            configs.insert("flush.ms".to_owned(), self.chance.between(1..=100_000).to_string());
        }
        if self.chance.one_in(4) {
            configs.insert("segment.ms".to_owned(), self.chance.between(1000..=100_000).to_string());
        }
        let (mut expires, mut compacted, mut table) = (false, false, None);
        if self.plan.cleans {
            let kind = self.chance.below(5);
            // Kind 1: no two records have the same key, so that nothing may go.
            (expires, compacted) = (matches!(kind, 0 | 3), matches!(kind, 1 | 2));
            if expires {
                configs.insert("retention.bytes".to_owned(), self.chance.between(1..=30_000).to_string());
                configs.insert("retention.ms".to_owned(), self.chance.between(1..=1_000_000).to_string());
            }
            if matches!(kind, 1..4) {
                let policy = if expires { "compact,delete" } else { "compact" };
                configs.insert("cleanup.policy".to_owned(), policy.to_owned());
                configs.insert("min.cleanable.dirty.ratio".to_owned(), "0".to_owned());
            }
            if matches!(kind, 2 | 3) {
                let stay_ms = *self.chance.pick(&[0, 20_000, 86_400_000]);
                table = Some(stay_ms);
                configs.insert("delete.retention.ms".to_owned(), stay_ms.to_string());
                configs.insert("segment.bytes".to_owned(), self.chance.pick(&["2000", "5000"]).to_string());
            }
        }
        let partitions = self.chance.between(1..=self.plan.partitions) as i32;
        let topic = {
            let mut world = self.world.lock();
            if world.topics.iter().any(|topic| topic.name == name && topic.fate != Fate::Gone) {
                return;
            }
            world.trace.note(format_args!("create topic {name}, {partitions} partitions, {configs:?}"));
            let relaxed = configs.contains_key("flush.messages");
            world.topics.push(TopicModel {
                name: name.clone(),
                id: None,
                fate: Fate::Unclear,
                partitions: (partitions, partitions),
                configs: configs.clone(),
                configs_asked: None,
                relaxed,
                expires,
                compacted,
                table,
                busy: true,
            });
            world.topics.len() - 1
        };
        let new = configs
            .into_iter()
            .fold(NewTopic::new(name).partitions(partitions), |new, (name, value)| new.config(name, value));
        let broker = self.broker.clone();
        self.wait(Question::Create { topic }, async move {
            Answer::Created(broker.create_topic(new, Apply::Now).await.map(|topic| topic.id()))
        });
    }

    /// A topic that is there, and that nobody is changing.
    fn idle_topic(&mut self) -> Option<usize> {
        let world = self.world.lock();
        let idle = |topic: &&TopicModel| topic.fate == Fate::There && !topic.busy;
        let idle: Vec<usize> =
            world.topics.iter().enumerate().filter(|(_, topic)| idle(topic)).map(|(at, _)| at).collect();
        (!idle.is_empty()).then(|| *self.chance.pick(&idle))
    }

    fn delete(&mut self) {
        let Some(topic) = self.idle_topic() else { return };
        let name = {
            let mut world = self.world.lock();
            world.trace.note(format_args!("delete topic {topic}"));
            (world.topics[topic].busy, world.topics[topic].fate) = (true, Fate::Unclear);
            world.topics[topic].name.clone()
        };
        let broker = self.broker.clone();
        self.wait(Question::Delete { topic }, async move {
            Answer::Changed(broker.delete_topic(&name).await.map(|_| ()))
        });
    }

    fn grow(&mut self) {
        let Some(topic) = self.idle_topic() else { return };
        let (name, total) = {
            let mut world = self.world.lock();
            let model = &mut world.topics[topic];
            // What became of an earlier growth is not clear.
            if model.partitions.0 != model.partitions.1 || model.partitions.0 > 5 {
                return;
            }
            model.busy = true;
            model.partitions.1 += 1;
            let (name, total) = (model.name.clone(), model.partitions.1);
            world.trace.note(format_args!("topic {topic} to {total} partitions"));
            (name, total)
        };
        let broker = self.broker.clone();
        self.wait(Question::Grow { topic }, async move {
            Answer::Changed(broker.create_partitions(&name, total, Apply::Now).await.map(|_| ()))
        });
    }

    fn alter(&mut self) {
        let Some(topic) = self.idle_topic() else { return };
        let value = self.chance.between(1..=5000).to_string();
        let name = {
            let mut world = self.world.lock();
            world.trace.note(format_args!("topic {topic}: index.interval.bytes to {value}"));
            let model = &mut world.topics[topic];
            if model.configs_asked.is_some() {
                return;
            }
            let mut asked = model.configs.clone();
            asked.insert("index.interval.bytes".to_owned(), value.clone());
            model.busy = true;
            model.configs_asked = Some(asked);
            model.name.clone()
        };
        let broker = self.broker.clone();
        self.wait(Question::Alter { topic }, async move {
            let ops = [ConfigOp::Set("index.interval.bytes".to_owned(), value)];
            Answer::Changed(broker.alter_topic_configs(&name, &ops, Apply::Now).await)
        });
    }

    fn delete_records(&mut self) {
        let Some(key) = self.present() else { return };
        let (at, before) = {
            let mut world = self.world.lock();
            if world.topics[key.0].compacted {
                return;
            }
            let at = world.name(key);
            let model = world.partitions.entry(key).or_default();
            let end = model.end().max(model.start);
            let before = model.start + self.chance.below((end - model.start) as u64 + 1) as i64;
            model.start_asked = model.start_asked.max(before);
            world.trace.note(format_args!("delete records of {at} before {before}"));
            (at, Before::Offset(Offset(before)))
        };
        let broker = self.broker.clone();
        self.wait(Question::DeleteRecords { key }, async move {
            Answer::Deleted(broker.delete_records(&at, before).await)
        });
    }

    pub(crate) async fn maintain(&mut self) {
        self.world.lock().trace.note(format_args!("maintenance"));
        self.patiently("maintenance was done", self.broker.maintain()).await;
        let done = self.broker.maintained();
        self.world.lock().trace.note(format_args!("maintained: {done:?}"));
    }

    /// A consumer that assigns itself commits.
    fn commit(&mut self) {
        let group = format!("alone-{}", self.chance.below(2));
        self.commit_as(&group, String::new(), -1);
    }

    fn commit_as(&mut self, group: &str, member_id: String, generation: i32) {
        let count = self.chance.between(1..=3);
        let keys: std::collections::BTreeSet<Key> = (0..count).filter_map(|_| self.present()).collect();
        if keys.is_empty() {
            return;
        }
        let (mut asked, mut offsets) = (Vec::new(), Vec::new());
        {
            let mut world = self.world.lock();
            for key in keys {
                let of = (group.to_owned(), key);
                let model = world.committed.entry(of.clone()).or_default();
                let offset = model.next();
                model.asked.insert(offset);
                asked.push((of, offset));
                let id = world.name(key);
                offsets.push(CommitOffset {
                    topic: id.topic,
                    partition: id.partition,
                    offset,
                    leader_epoch: -1,
                    metadata: metadata_of(offset),
                });
            }
            world.trace.note(format_args!("commit {asked:?} in generation {generation}"));
        }
        let broker = self.broker.clone();
        let commit = Commit {
            group: group.to_owned(),
            member_id,
            instance_id: None,
            generation,
            by_epoch: false,
            retention_ms: None,
            offsets,
        };
        self.wait(Question::Commit { offsets: asked }, async move {
            Answer::Committed(broker.groups().commit(commit).await)
        });
    }

    /// Somebody looks at what is committed.
    async fn offsets(&mut self) {
        check_offsets(self.world, &self.broker).await;
    }

    async fn member(&mut self) {
        let at = self.chance.below(self.world.lock().members.len() as u64) as usize;
        let (state, group, id, generation, leads) = {
            let world = self.world.lock();
            let member = &world.members[at];
            (member.state, member.group.clone(), member.id.clone(), member.generation, member.leads.clone())
        };
        match state {
            MemberState::Joining | MemberState::Syncing => {}
            MemberState::Out => self.join(at, group, id),
            MemberState::Joined => {
                self.world.lock().members[at].state = MemberState::Syncing;
                let assignments = leads.unwrap_or_default();
                let sync = Sync {
                    group,
                    member_id: id,
                    instance_id: None,
                    generation,
                    protocol_type: None,
                    protocol: None,
                    assignments: assignments
                        .into_iter()
                        .map(|id| (id, Bytes::from_static(b"some")))
                        .collect(),
                };
                let broker = self.broker.clone();
                self.wait(Question::Sync { member: at }, async move {
                    Answer::Synced(broker.groups().sync(sync).await)
                });
            }
            MemberState::Stable => match self.chance.below(8) {
                0..3 => {
                    let heartbeat =
                        Heartbeat { group: &group, member_id: &id, instance_id: None, generation };
                    let answer = self.broker.groups().heartbeat(&heartbeat, || self.broker.topics()).await;
                    let mut world = self.world.lock();
                    world.trace.note(format_args!("member {at}: heartbeat {answer:?}"));
                    match answer {
                        Ok(()) => {}
                        Err(GroupError::RebalanceInProgress) => world.members[at].state = MemberState::Out,
                        Err(_) => {
                            world.members[at].state = MemberState::Out;
                            world.members[at].id.clear();
                        }
                    }
                }
                3..6 => self.commit_as(&group, id, generation),
                6 => {
                    let leaver = Leaver { member_id: id, instance_id: None };
                    let broker = self.broker.clone();
                    let leave = async move { broker.groups().leave(&group, vec![leaver]).await };
                    self.patiently("a member left", leave).await;
                    self.forget(at);
                }
                _ => self.forget(at),
            },
        }
    }

    /// A member dies without a word, or has said it.
    fn forget(&mut self, at: usize) {
        let mut world = self.world.lock();
        let group = std::mem::take(&mut world.members[at].group);
        world.members[at] = Member::new(group);
    }

    fn join(&mut self, at: usize, group: String, member_id: String) {
        self.world.lock().members[at].state = MemberState::Joining;
        let join = Join {
            group,
            member_id,
            instance_id: None,
            client_id: format!("client-{at}"),
            client_host: "/127.0.0.1".to_owned(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 20_000,
            protocol_type: "consumer".to_owned(),
            protocols: vec![("range".to_owned(), Bytes::from_static(b"topics"))],
            require_known_member_id: false,
            can_skip_assignment: false,
        };
        let broker = self.broker.clone();
        self.wait(Question::Join { member: at }, async move {
            Answer::Joined(broker.groups().join(join, || broker.topics()).await)
        });
    }
}

enum Again {
    No,
    Send(BatchNumber),
    Wait,
}

/// What is committed is what must be.
pub(crate) async fn check_offsets(world: &Arc<Mutex<World>>, broker: &Broker) {
    let asked: Vec<((String, Key), String, i32)> = {
        let world = world.lock();
        let there = world.committed.keys().filter(|(_, key)| world.topics[key.0].fate == Fate::There);
        there
            .map(|of| {
                let id = world.name(of.1);
                (of.clone(), id.topic, id.partition)
            })
            .collect()
    };
    for (of, topic, partition) in asked {
        let found = broker.groups().fetch_offsets(&of.0, &[(topic, partition)], false).await.remove(0);
        let mut world = world.lock();
        let Some(model) = world.committed.get_mut(&of) else { continue };
        let outcome = match found {
            Ok(found) => model.shown(found.map(|found| (found.offset, found.metadata))),
            Err(error) => Err(error.to_string()),
        };
        world.check(&format!("group {} in {}", of.0, of.1.0), outcome);
    }
}
