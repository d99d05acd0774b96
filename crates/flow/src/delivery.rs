//! How the steps of a part happen, and how whoever had the part before is kept from going on.

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{
    AppendOptions, Appended, Capability, Description, Engine, EngineError, GroupPositions, Payload, Place,
    Position, TransactionalProducer,
};
use bytes::Bytes;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

use crate::FlowError;
use crate::outbox::{Batches, Outgoing, unwritable};
use crate::work::Step;

/// A step that takes longer is given up. A process that died in one keeps readers of what it wrote waiting until the engine has noticed, and
/// whoever is given its parts by Kafka, which tells no position that may change. Kafka Streams has the same.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it is tried again of which nothing was done: as long as a broker may need to come back. A move to another engine holds
/// its topics still for less.
const TRIED_FOR: Duration = Duration::from_secs(60);
/// How long it waits before.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What readers of a flow's results can count on, however often it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Guarantee {
    /// Each result is there once.
    #[default]
    ExactlyOnce,
    /// Each result is there, and may be there again. What they are made of counts once all the same, but for a flow
    /// whose state is local ([`crate::Definition::at_least_once`]).
    AtLeastOnce,
}

/// What steps are made of on an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Each is a transaction.
    Transactions,
    /// What goes out is appended first. An append to the log, on the condition that nobody else has written there, decides:
    /// so state counts everything once, wherever it moves, and what went out before a death goes out again.
    Conditions,
    /// What goes out is appended first, and the local store decides: there is no log.
    Local,
}

/// What a flow's author asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    ExactlyOnce,
    AtLeastOnce,
    /// The first where the engine can, else the second.
    AsTheEngineCan,
}

/// Makes steps happen.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Where the part's state goes, or its place in its input.
    log: TopicPartition,
    /// The group that tells tools where the input stands, if the engine has groups.
    group: Option<String>,
    batch_records_max: usize,
    how: How,
}

#[derive(Debug)]
enum How {
    Transactions(Box<dyn TransactionalProducer>),
    /// Where the log ends, as far as this part knows.
    Conditions(Position),
    Local,
}

/// What became of a step.
#[derive(Debug)]
pub(crate) struct Delivered {
    /// Where the last append to the log is, if there is a log.
    pub(crate) logged: Option<Position>,
    /// Per partition that something went out to, where it ended then.
    pub(crate) reached: BTreeMap<TopicPartition, Position>,
}

impl Asked {
    /// What it comes to on an engine, or everything that the engine lacks.
    pub(crate) fn on(self, engine: &Description) -> Result<Mode, EngineError> {
        const CONDITIONS: [Capability; 2] = [Capability::AtomicAppend, Capability::ConditionalAppend];
        let has_conditions = CONDITIONS.iter().all(|capability| engine.has(*capability));
        let mode = match self {
            Self::ExactlyOnce => Mode::Transactions,
            Self::AsTheEngineCan if engine.has(Capability::Transactions) => Mode::Transactions,
            Self::AsTheEngineCan => Mode::Conditions,
            Self::AtLeastOnce if has_conditions => Mode::Conditions,
            Self::AtLeastOnce => Mode::Local,
        };
        let mut needs = vec![Capability::PartitionOrder, Capability::Replay];
        match mode {
            Mode::Transactions => needs.push(Capability::Transactions),
            Mode::Conditions => needs.extend(CONDITIONS),
            Mode::Local => {}
        }
        engine.require(&needs)?;
        Ok(mode)
    }
}

impl Mode {
    pub(crate) fn guarantee(self) -> Guarantee {
        match self {
            Self::Transactions => Guarantee::ExactlyOnce,
            Self::Conditions | Self::Local => Guarantee::AtLeastOnce,
        }
    }

    /// What is appended to the log in one step can be no more than this.
    pub(crate) fn log_records_max(self, engine: &Description) -> usize {
        match self {
            Self::Conditions => records_max(engine),
            Self::Transactions | Self::Local => usize::MAX,
        }
    }
}

/// What the engine takes in one append.
pub(crate) fn records_max(engine: &Description) -> usize {
    usize::try_from(engine.limits.append_records_max).unwrap_or(usize::MAX)
}

/// The transactional id under which a log is written.
fn transactional_id(log: &TopicPartition) -> String {
    match log.partition {
        0 => log.topic.clone(), // as when every flow had but one
        _ => log.to_string(),
    }
}

impl Delivery {
    /// From here on whoever wrote `log` in transactions before can do it no longer. (Where there are none, it is
    /// [`Delivery::claim`] that keeps others away.)
    pub(crate) async fn open(
        mode: Mode,
        engine: &dyn Engine,
        log: TopicPartition,
        flow: &str,
    ) -> Result<Self, FlowError> {
        let how = match mode {
            Mode::Transactions => {
                let transactions = engine.transactions().expect("it was required");
                let id = transactional_id(&log);
                How::Transactions(transactions.producer(&id, TRANSACTION_TIMEOUT).await?)
            }
            Mode::Conditions => How::Conditions(Position(0)),
            Mode::Local => How::Local,
        };
        let has_groups = engine.description().has(Capability::Groups);
        let group = has_groups.then(|| flow.to_owned());
        Ok(Self { log, group, batch_records_max: records_max(engine.description()), how })
    }

    /// Takes a log that ends at `end` over from whoever had it: where it ends now, and `None` if it did not end there.
    /// `claim` is a record that says nothing.
    pub(crate) async fn claim(
        &mut self,
        engine: &dyn Engine,
        end: Position,
        claim: Record,
    ) -> Result<Option<Position>, FlowError> {
        match &self.how {
            How::Transactions(_) | How::Local => Ok(Some(end)),
            How::Conditions(_) => {
                let claimed = self.append_to_log(engine, end, vec![claim]).await?;
                Ok(claimed.map(|claimed| claimed.next))
            }
        }
    }

    /// Writes the first records of a log, which is empty and ends at `end`: where they are, and `None` if it did not end
    /// there.
    pub(crate) async fn begin(
        &mut self,
        engine: &dyn Engine,
        end: Position,
        records: Vec<Record>,
    ) -> Result<Option<Position>, FlowError> {
        if let How::Conditions(_) = &self.how {
            return Ok(self.append_to_log(engine, end, records).await?.map(|begun| begun.first));
        }
        let step = Step { outgoing: Outgoing::new(), log: records, positions: Vec::new() };
        self.deliver(engine, &[], step).await.map(|delivered| delivered.logged)
    }

    /// Makes a step happen. `inputs` are the part's.
    pub(crate) async fn deliver(
        &mut self,
        engine: &dyn Engine,
        inputs: &[TopicPartition],
        step: Step,
    ) -> Result<Delivered, FlowError> {
        let Step { outgoing, log: records, positions } = step;
        let log = &self.log;
        match &mut self.how {
            How::Local => {
                let reached = append_all(engine, outgoing).await?;
                Ok(Delivered { logged: None, reached })
            }
            How::Conditions(end) => {
                let end = *end;
                // Whoever was held up and replaced meanwhile shows nothing old, unless it was held up from here on.
                if !outgoing.is_empty() && engine.locate(log, Place::Latest).await? != end {
                    return Err(FlowError::Replaced { log: log.clone() });
                }
                let reached = append_all(engine, outgoing).await?;
                match self.append_to_log(engine, end, records).await? {
                    Some(appended) => Ok(Delivered { logged: Some(appended.first), reached }),
                    None => Err(FlowError::Replaced { log: self.log.clone() }),
                }
            }
            How::Transactions(producer) => {
                let mut logged = Batches::new(self.batch_records_max);
                for record in &records {
                    logged.push(record).map_err(unwritable(log))?;
                }
                let logged = logged.close().map_err(unwritable(log))?;
                let outgoing = outgoing
                    .into_iter()
                    .flat_map(|(to, batches)| batches.into_iter().map(move |batch| (to.clone(), batch)));
                let appends: Vec<(TopicPartition, Bytes)> =
                    outgoing.chain(logged.into_iter().map(|batch| (log.clone(), batch))).collect();
                let whereto: Vec<_> = appends.iter().map(|(to, _)| to.clone()).collect();
                let stands: Vec<_> =
                    positions.into_iter().map(|(input, next)| (inputs[input].clone(), next)).collect();
                let positions = self
                    .group
                    .clone()
                    .filter(|_| !stands.is_empty())
                    .map(|group| GroupPositions { group, positions: stands });
                let appends = appends.into_iter().map(|(to, batch)| (to, Payload::from(batch))).collect();
                let commit = commit_again(&mut **producer, appends, positions);
                let appended = commit.await?;
                let logged = appended.last().map(|last| last.first);
                let reached =
                    whereto.into_iter().zip(appended.iter().map(|appended| appended.next)).collect();
                Ok(Delivered { logged, reached })
            }
        }
    }

    /// Appends to the log if it ends at `end`, with one append, which is stored as a whole or not at all.
    async fn append_to_log(
        &mut self,
        engine: &dyn Engine,
        end: Position,
        records: Vec<Record>,
    ) -> Result<Option<Appended>, FlowError> {
        let how = AppendOptions { expected: Some(end), ..AppendOptions::default() };
        let payload = Payload::from(records);
        match again(|| engine.append(&self.log, payload.clone(), how.clone())).await {
            Ok(appended) => {
                self.how = How::Conditions(appended.next);
                Ok(Some(appended))
            }
            Err(EngineError::NotAtEnd { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Commits, again while the engine says that nothing was done.
async fn commit_again(
    producer: &mut dyn TransactionalProducer,
    appends: Vec<(TopicPartition, Payload)>,
    positions: Option<GroupPositions>,
) -> Result<Vec<Appended>, EngineError> {
    let until = Instant::now() + TRIED_FOR;
    loop {
        match producer.commit(appends.clone(), positions.clone()).await {
            Err(EngineError::Away { .. } | EngineError::Aborted { .. }) if Instant::now() < until => {
                sleep(AGAIN_AFTER).await;
            }
            done => return done,
        }
    }
}

/// Does it again while the engine says that nothing was done.
async fn again<T, F>(call: impl Fn() -> F) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    let until = Instant::now() + TRIED_FOR;
    loop {
        match call().await {
            Err(EngineError::Away { .. }) if Instant::now() < until => sleep(AGAIN_AFTER).await,
            done => return done,
        }
    }
}

/// Appends all batches durably: those of one partition one after another, partitions side by side. Tells where each
/// partition ended then.
async fn append_all(
    engine: &dyn Engine,
    outgoing: Outgoing,
) -> Result<BTreeMap<TopicPartition, Position>, FlowError> {
    let append = |(to, batches): (TopicPartition, Vec<Bytes>)| async move {
        let mut reached = Position(0);
        for batch in batches {
            let append = || engine.append(&to, batch.clone().into(), AppendOptions::default());
            reached = again(append).await?.next;
        }
        Ok::<_, FlowError>((to, reached))
    };
    Ok(try_join_all(outgoing.into_iter().map(append)).await?.into_iter().collect())
}
