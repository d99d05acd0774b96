//! A transactional client. It outlives the broker: what it was doing when that died it goes on with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anabranch_broker::transaction::event::{End, How, InitProducer, Join};
use anabranch_broker::transaction::{EndKind, TransactionError, TransactionVersion};
use anabranch_broker::{Ack, AppendError, Membership, Part, ProduceError, Produced};
use anabranch_core::batch::{BatchBuilder, Compression, Record};
use anabranch_core::seam::Clock;
use anabranch_core::{ProducerEpoch, ProducerId, TopicPartition};
use bytes::Bytes;

use super::question::Question;
use super::{IN, Life, Plan};
use crate::history::{Op, Outcome, Source};
use crate::random::Chance;

/// Before asking again.
const BACKOFF: Duration = Duration::from_millis(20);
/// Whoever was told so often to ask again does something else.
const ATTEMPTS_MAX: u32 = 500;

/// What a client is for.
#[derive(Debug, Clone)]
pub(super) enum Work {
    /// It writes.
    Produce,
    /// It makes one record of each that it reads, as the one that reads for its group.
    Loop {
        group: String,
        /// Where it reads on; empty: the group says where.
        positions: BTreeMap<TopicPartition, i64>,
    },
}

/// Why it cannot go on.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There is a newer one of its transactional id, or it is not known who it is.
    Fenced,
    /// The transaction can only be aborted.
    Broken,
    /// The broker has gone.
    Gone,
}

/// A client, in one incarnation after another.
pub(super) struct Client {
    id: String,
    /// Of those with the same transactional id.
    number: u64,
    incarnation: u64,
    version: TransactionVersion,
    /// What it waits for when it sends.
    ack: Ack,
    pub(super) work: Work,
    pub(super) chance: Chance,
    timeout_ms: u64,
    identity: Option<(ProducerId, ProducerEpoch)>,
    /// It asks for the next epoch of this identity: what became of its batches is not known.
    renewed: Option<(ProducerId, ProducerEpoch)>,
    sequences: BTreeMap<TopicPartition, i32>,
    transaction: Option<Open>,
    /// What was sent last, to be sent once more too late.
    last: Option<(Sent, i64)>,
    values: u64,
}

/// A transaction that has begun.
#[derive(Default)]
struct Open {
    /// What the coordinator knows of, or may.
    joined: BTreeSet<TopicPartition>,
    /// A batch on its way.
    sending: Option<Sent>,
    /// Batches that are written, for whoever does not wait until they are durable: that counts when they are committed.
    written: Vec<(Sent, i64)>,
    /// It cannot be committed.
    is_broken: bool,
    /// It is not known what became of all batches.
    is_unsure: bool,
    ending: Option<EndKind>,
    /// To end it.
    asked: Option<Arc<Question>>,
}

/// A batch.
#[derive(Debug, Clone)]
struct Sent {
    to: TopicPartition,
    bytes: Bytes,
    values: Vec<(String, Option<Source>)>,
}

impl Sent {
    /// What is written down of it.
    fn ops(&self, base: Option<i64>) -> impl Iterator<Item = Op> {
        (0..).zip(&self.values).map(move |(at, (value, source))| Op::Send {
            partition: self.to.to_string(),
            value: value.clone(),
            offset: base.map(|base| base + at),
            source: source.clone(),
        })
    }
}

impl Client {
    pub(super) fn all(plan: &Plan, chance: &mut Chance) -> Vec<Self> {
        let mut clients = Vec::new();
        for at in 0..plan.producers + plan.loops {
            let (id, work) = match at < plan.producers {
                true => (format!("producer-{at}"), Work::Produce),
                false => {
                    let group = format!("group-{at}");
                    (format!("loop-{at}"), Work::Loop { group, positions: BTreeMap::new() })
                }
            };
            let version = *chance.pick(&[TransactionVersion::V0, TransactionVersion::V2]);
            for number in 0..1 + u64::from(plan.zombies) {
                clients.push(Self {
                    id: id.clone(),
                    number,
                    incarnation: 0,
                    version,
                    ack: *chance.pick(&[Ack::Durable, Ack::Durable, Ack::Written]),
                    work: work.clone(),
                    chance: chance.fork(),
                    timeout_ms: plan.timeout_ms,
                    identity: None,
                    renewed: None,
                    sequences: BTreeMap::new(),
                    transaction: None,
                    last: None,
                    values: 0,
                });
            }
        }
        clients
    }

    pub(super) fn name(&self) -> String {
        format!("{}/{}.{}", self.id, self.number, self.incarnation)
    }

    pub(super) fn note(&self, life: &Life<'_>, op: Op, outcome: Outcome) {
        life.shared.note(&self.name(), op, outcome);
    }

    /// Does what it does in one life of the broker.
    pub(super) async fn live(&mut self, life: &Life<'_>) {
        if self.ack == Ack::Written && self.transaction.is_some() {
            // What it sent may be gone with the power. Had that been committed, it would be there.
            self.begin_anew().await;
        }
        for _ in 0..life.plan.steps {
            match self.step(life).await {
                _ if life.shared.is_over() => return,
                Ok(()) => {}
                Err(Trouble::Gone) => return,
                Err(Trouble::Broken) => {
                    if let Some(open) = &mut self.transaction {
                        open.is_broken = true;
                    }
                }
                Err(Trouble::Fenced) => self.begin_anew().await,
            }
            match self.chance.below(12) {
                0 => self.pause(self.timeout_ms * 2).await,
                1..4 => self.pause(200).await,
                turns => {
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    async fn pause(&mut self, ms_max: u64) {
        tokio::time::sleep(Duration::from_millis(self.chance.between(1..=ms_max))).await;
    }

    /// A new incarnation, a little later. What the old one has open is the coordinator's affair.
    async fn begin_anew(&mut self) {
        self.incarnation += 1;
        self.values = 0;
        (self.identity, self.renewed, self.transaction, self.last) = (None, None, None, None);
        if let Work::Loop { positions, .. } = &mut self.work {
            positions.clear();
        }
        self.pause(3000).await;
    }

    async fn step(&mut self, life: &Life<'_>) -> Result<(), Trouble> {
        if self.identity.is_none() {
            return self.init(life).await;
        }
        if let Some(open) = &mut self.transaction {
            if let Some(kind) = open.ending {
                return self.end(life, kind).await;
            }
            if open.is_broken {
                return self.end(life, EndKind::Abort).await;
            }
            // The broker died over it, and did it or did not.
            if let Some(sent) = open.sending.clone() {
                return self.submit(life, sent).await;
            }
        }
        match self.work {
            Work::Produce => self.produce(life).await,
            Work::Loop { .. } => self.process(life).await,
        }
    }

    async fn produce(&mut self, life: &Life<'_>) -> Result<(), Trouble> {
        if self.transaction.is_none() {
            self.begin(life)?;
        }
        let partitions = life.plan.partitions_of(IN).collect::<Vec<_>>();
        match self.chance.below(10) {
            0..6 => {
                let to = self.chance.pick(&partitions).clone();
                let sources = vec![None; self.chance.between(1..=3) as usize];
                self.send(life, to, sources).await
            }
            6 => self.late(life).await,
            7 => self.end(life, EndKind::Abort).await,
            _ => self.end(life, EndKind::Commit).await,
        }
    }

    pub(super) fn begin(&mut self, life: &Life<'_>) -> Result<(), Trouble> {
        if life.shared.disk.is_dead() {
            return Err(Trouble::Gone);
        }
        self.note(life, Op::Begin, Outcome::Ok);
        self.transaction = Some(Open::default());
        Ok(())
    }

    fn open(&mut self) -> &mut Open {
        self.transaction.as_mut().expect("a transaction has begun")
    }

    /// Who calls this and is cut off can only abort.
    pub(super) fn hold(&mut self, is_held: bool) {
        self.open().is_broken = is_held;
    }

    /// Asks as long as there is hope.
    async fn in_turn<T, F: Future<Output = Result<T, TransactionError>>>(
        &self,
        life: &Life<'_>,
        ask: impl Fn() -> F,
    ) -> Result<T, Trouble> {
        for _ in 0..ATTEMPTS_MAX {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.wait(life, error).await?,
            }
        }
        Err(Trouble::Broken)
    }

    /// Waits before asking again, if that may help.
    async fn wait(&self, life: &Life<'_>, error: TransactionError) -> Result<(), Trouble> {
        life.shared.trace.note(format_args!("{}: {error}", self.name()));
        match error {
            _ if life.shared.is_over() => Err(Trouble::Gone),
            TransactionError::ConcurrentTransactions | TransactionError::CoordinatorNotAvailable => {
                tokio::time::sleep(BACKOFF).await;
                Ok(())
            }
            TransactionError::TransactionAbortable => Err(Trouble::Broken),
            _ => Err(Trouble::Fenced),
        }
    }

    async fn init(&mut self, life: &Life<'_>) -> Result<(), Trouble> {
        let init =
            InitProducer { id: self.id.clone(), timeout_ms: self.timeout_ms as i32, expected: self.renewed };
        let transactions = life.broker.transactions();
        let identity = self.in_turn(life, || transactions.init_producer(init.clone())).await?;
        life.shared.trace.note(format_args!("{} is {identity:?}", self.name()));
        self.identity = Some(identity);
        self.renewed = None;
        self.sequences.clear();
        Ok(())
    }

    /// Has a partition in the transaction, as a client of its version sees to it.
    pub(super) async fn join(&mut self, life: &Life<'_>, at: &TopicPartition) -> Result<Membership, Trouble> {
        let (producer, epoch) = self.identity();
        let (id, transactions) = (self.id.clone(), life.broker.transactions());
        let join = |how| Join { id: id.clone(), producer, epoch, partitions: vec![at.clone()], how };
        // Who is not answered asks again.
        let is_new = self.open().joined.insert(at.clone()) || self.open().sending.is_some();
        match self.version {
            TransactionVersion::V2 => {
                let join = join(How::Add(TransactionVersion::V2));
                self.in_turn(life, || transactions.join(join.clone())).await
            }
            TransactionVersion::V0 => {
                if is_new {
                    let add = join(How::Add(TransactionVersion::V0));
                    self.in_turn(life, || async { transactions.join(add.clone()).await?.answer().await })
                        .await?;
                }
                let verify = join(How::Verify);
                self.in_turn(life, || transactions.join(verify.clone())).await
            }
        }
    }

    /// Whether the partition is in the transaction, durably.
    pub(super) async fn joined(&self, life: &Life<'_>, membership: Membership) -> Result<(), Trouble> {
        match membership.answer().await {
            _ if life.shared.disk.is_dead() => Err(Trouble::Gone),
            Ok(each) if each.iter().all(Result::is_ok) => Ok(()),
            _ => Err(Trouble::Broken),
        }
    }

    /// Sends a batch with a record for each source.
    pub(super) async fn send(
        &mut self,
        life: &Life<'_>,
        to: TopicPartition,
        sources: Vec<Option<Source>>,
    ) -> Result<(), Trouble> {
        // What it would write down of it would not count.
        if life.shared.disk.is_dead() {
            return Err(Trouble::Gone);
        }
        let (producer, epoch) = self.identity();
        let sequence = self.sequences.entry(to.clone()).or_default();
        let mut builder = BatchBuilder::new(Compression::None);
        builder.producer(producer, epoch, *sequence).transactional();
        *sequence += sources.len() as i32;
        let mut values = Vec::new();
        for source in sources {
            let value = format!("{}:{}", self.name(), self.values);
            self.values += 1;
            builder.push(&Record::new(Bytes::new(), value.clone()).at(life.shared.clock.now_ms()));
            values.push((value, source));
        }
        let bytes = builder.build().expect("a few small records");
        let sent = Sent { to, bytes, values };
        sent.ops(None).for_each(|op| self.note(life, op, Outcome::Unknown));
        self.open().sending = Some(sent.clone());
        self.submit(life, sent).await
    }

    async fn submit(&mut self, life: &Life<'_>, sent: Sent) -> Result<(), Trouble> {
        let base = self.append(life, &sent).await;
        if matches!(base, Err(Trouble::Gone)) {
            return Err(Trouble::Gone);
        }
        self.open().sending = None;
        match base {
            Ok(base) => {
                let is_durable = self.ack == Ack::Durable;
                match is_durable {
                    true => sent.ops(Some(base)).for_each(|op| self.note(life, op, Outcome::Ok)),
                    false => self.open().written.push((sent.clone(), base)),
                }
                if self.chance.one_in(8) {
                    self.again(life, &sent, base).await?;
                }
                if is_durable {
                    self.last = Some((sent, base));
                }
                Ok(())
            }
            Err(trouble) => {
                self.open().is_unsure = true;
                Err(trouble)
            }
        }
    }

    async fn append(&mut self, life: &Life<'_>, sent: &Sent) -> Result<i64, Trouble> {
        let membership = self.join(life, &sent.to).await?;
        let produced = self.produce_in(life, sent, membership.part()).await;
        self.joined(life, membership).await?;
        let error = match produced {
            _ if life.shared.disk.is_dead() => return Err(Trouble::Gone),
            Ok(produced) => return Ok(produced.base_offset.0),
            Err(error) => error,
        };
        life.shared.trace.note(format_args!("{}: {error}", self.name()));
        match error {
            ProduceError::Log(AppendError::InvalidProducerEpoch { .. }) => Err(Trouble::Fenced),
            _ => Err(Trouble::Broken),
        }
    }

    async fn produce_in(&self, life: &Life<'_>, sent: &Sent, part: Part) -> Result<Produced, ProduceError> {
        let partition = life.partition(&sent.to);
        partition.submit_in(sent.bytes.clone(), self.ack, Some(part)).await?.answer().await
    }

    /// A batch that is in the log comes once more.
    async fn again(&mut self, life: &Life<'_>, sent: &Sent, base: i64) -> Result<(), Trouble> {
        let membership = self.join(life, &sent.to).await?;
        if let Ok(produced) = self.produce_in(life, sent, membership.part()).await
            && produced.base_offset.0 != base
        {
            let at = produced.base_offset;
            life.shared.fail(format!("{}: what is at {base} came once more, and is at {at}", self.name()));
        }
        self.joined(life, membership).await
    }

    /// One of an earlier transaction does.
    async fn late(&mut self, life: &Life<'_>) -> Result<(), Trouble> {
        let Some((sent, base)) = self.last.clone() else { return Ok(()) };
        match self.again(life, &sent, base).await {
            Err(Trouble::Broken) => Ok(()),
            done => done,
        }
    }

    pub(super) async fn end(&mut self, life: &Life<'_>, kind: EndKind) -> Result<(), Trouble> {
        let op = if kind == EndKind::Commit { Op::Commit } else { Op::Abort };
        self.open().ending = Some(kind);
        let heard = self.open().asked.take().and_then(|question| question.answer());
        match heard {
            // It came before the broker died.
            Some(Ok(identity)) => self.is_now(identity),
            _ => {
                self.note(life, op.clone(), Outcome::Unknown);
                match self.open().joined.is_empty() {
                    // Of one that has nothing nobody knows.
                    true => self.note(life, op, Outcome::Ok),
                    false => self.ask_to_end(life, kind, &op).await?,
                }
            }
        }
        let open = self.transaction.take().expect("a transaction has begun");
        let is_unsure = open.is_unsure || open.sending.is_some();
        if is_unsure && self.version == TransactionVersion::V0 {
            self.renewed = self.identity.take();
        }
        if kind == EndKind::Abort
            && let Work::Loop { positions, .. } = &mut self.work
        {
            positions.clear();
        }
        Ok(())
    }

    async fn ask_to_end(&mut self, life: &Life<'_>, kind: EndKind, op: &Op) -> Result<(), Trouble> {
        let (producer, epoch) = self.identity();
        let end = End { id: self.id.clone(), producer, epoch, kind, version: self.version };
        let written = std::mem::take(&mut self.open().written);
        let committed = written.iter().filter(|_| kind == EndKind::Commit);
        let ops: Vec<Op> =
            committed.flat_map(|(sent, base)| sent.ops(Some(*base))).chain([op.clone()]).collect();
        for _ in 0..ATTEMPTS_MAX {
            let (broker, end) = (life.broker.clone(), end.clone());
            let (shared, name, ops) = (life.shared.clone(), self.name(), ops.clone());
            let question = life.shared.questions.ask(
                &life.shared.disk,
                async move { broker.transactions().end(&end).await },
                move |answer| {
                    if answer.is_ok() {
                        ops.iter().for_each(|op| shared.note(&name, op.clone(), Outcome::Ok));
                    }
                },
            );
            self.open().asked = Some(Arc::clone(&question));
            match question.answered().await {
                Ok(identity) => {
                    self.is_now(identity);
                    return Ok(());
                }
                Err(error) => self.wait(life, error).await.map_err(|trouble| match trouble {
                    // Whatever has become of it, this one does not know.
                    Trouble::Broken => Trouble::Fenced,
                    trouble => trouble,
                })?,
            }
        }
        Err(Trouble::Fenced)
    }

    fn is_now(&mut self, identity: (ProducerId, ProducerEpoch)) {
        if self.identity.replace(identity) != Some(identity) {
            self.sequences.clear();
        }
    }

    pub(super) fn identity(&self) -> (ProducerId, ProducerEpoch) {
        self.identity.expect("who has begun has an identity")
    }
}
