//! Lies about queues.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{
    AppendOptions, Delivery, EngineError, QueueConsumer, QueueSpec, Settlement, TakeLimits, Ticket, TooLate,
    TopicSpec,
};
use async_trait::async_trait;

use super::{HELD_MAX, Lie, Shared};

#[derive(Debug)]
pub(super) struct LyingConsumer {
    shared: Arc<Shared>,
    spec: QueueSpec,
    /// None when it has left.
    consumer: Option<Box<dyn QueueConsumer>>,
    /// What was delivered, where it is needed again.
    taken: HashMap<Ticket, Delivery>,
    again: VecDeque<Delivery>,
    held: VecDeque<Vec<(Ticket, Settlement)>>,
}

impl LyingConsumer {
    pub(super) async fn open(
        shared: Arc<Shared>,
        mut spec: QueueSpec,
    ) -> Result<Box<dyn QueueConsumer>, EngineError> {
        static CONSUMERS: AtomicU64 = AtomicU64::new(0);
        let alone = CONSUMERS.fetch_add(1, Ordering::SeqCst);
        match shared.lie {
            Lie::GivesAllToEach => spec.group = format!("{}.{alone}", spec.group),
            Lie::MixesGroups => spec.group = "one".to_owned(),
            Lie::NeverTakesBack => spec.settle_within = Duration::from_secs(3600),
            Lie::NeverBuries => spec.deliveries_max = u32::MAX,
            Lie::HandsOutTooMany => spec.unsettled_max = QueueSpec::UNSETTLED_MAX,
            Lie::HandsOutOneByOne => spec.unsettled_max = 1,
            Lie::TakesAnySpec => spec.settle_within = spec.settle_within.max(Duration::from_secs(1)),
            Lie::CreatesWhatIsMissing => {
                for topic in &spec.topics {
                    shared.engine.ensure_topic(&TopicSpec::new(topic, 1)).await.ok();
                }
            }
            _ => {}
        }
        let queues = shared.engine.queues().ok_or(EngineError::Closed)?;
        let consumer = Some(queues.consumer(spec.clone()).await?);
        let (taken, again, held) = (HashMap::new(), VecDeque::new(), VecDeque::new());
        Ok(Box::new(Self { shared, spec, consumer, taken, again, held }))
    }

    fn consumer(&mut self) -> Result<&mut Box<dyn QueueConsumer>, EngineError> {
        self.consumer.as_mut().ok_or(EngineError::Closed)
    }

    /// Another settlement in place of what was said.
    async fn twisted(&mut self, ticket: Ticket, settlement: Settlement) -> Result<Settlement, EngineError> {
        let to = TopicPartition::new(self.spec.dead_letters_of(&self.spec.topics[0]), 0);
        let bury = async |record: Record| {
            self.shared.engine.append(&to, record.into(), AppendOptions::default()).await
        };
        Ok(match (self.shared.lie, settlement) {
            (Lie::TakesReleasedForDone, Settlement::Release { .. }) => Settlement::Accept,
            (Lie::ReleasesAtOnce, Settlement::Release { .. }) => {
                Settlement::Release { delay: Duration::ZERO }
            }
            (Lie::DropsRejected, Settlement::Reject { .. }) => Settlement::Accept,
            (Lie::BuriesWithoutAWord, Settlement::Reject { .. }) => {
                if let Some(taken) = self.taken.get(&ticket) {
                    bury(taken.record.record.clone()).await?;
                }
                Settlement::Accept
            }
            (Lie::BuriesTwice, Settlement::Reject { reason }) => {
                if let Some(taken) = self.taken.get(&ticket) {
                    bury(taken.record.record.clone()).await?;
                }
                Settlement::Reject { reason }
            }
            (_, settlement) => settlement,
        })
    }
}

#[async_trait]
impl QueueConsumer for LyingConsumer {
    async fn next(&mut self, limits: TakeLimits) -> Result<Vec<Delivery>, EngineError> {
        self.shared.check_open().await?;
        let lie = self.shared.lie;
        if let Some(again) = self.again.pop_front() {
            return Ok(vec![again]);
        }
        let limits = match lie {
            Lie::TakesTooMuch => {
                TakeLimits { deliveries_max: usize::MAX >> 8, bytes_max: usize::MAX >> 8, ..limits }
            }
            Lie::NeverWaits => {
                TakeLimits { wait_max: limits.wait_max.min(Duration::from_millis(50)), ..limits }
            }
            _ => limits,
        };
        let mut taken = self.consumer()?.next(limits).await?;
        for taken in &taken {
            self.taken.insert(taken.ticket, taken.clone());
        }
        match lie {
            Lie::CountsNothing => taken.iter_mut().for_each(|taken| taken.count = 1),
            Lie::HandsOutBackwards => taken.reverse(),
            Lie::LosesDroppedTakes => tokio::time::sleep(Duration::from_millis(100)).await,
            Lie::HandsOutTwice if self.shared.is_fifth() => self.again.extend(taken.first().cloned()),
            _ => {}
        }
        Ok(taken)
    }

    async fn settle(
        &mut self,
        what: Vec<(Ticket, Settlement)>,
    ) -> Result<Vec<Result<(), TooLate>>, EngineError> {
        self.shared.check_open().await?;
        let count = what.len();
        let mut twisted = Vec::with_capacity(count);
        for (ticket, settlement) in what {
            let settlement = self.twisted(ticket, settlement).await?;
            twisted.push((ticket, settlement));
        }
        match self.shared.lie {
            Lie::ForgetsSettlements => Ok(vec![Ok(()); count]),
            Lie::AnswersBeforeSettling => {
                self.held.push_back(twisted);
                if self.held.len() > HELD_MAX {
                    let held = self.held.pop_front().unwrap_or_default();
                    self.consumer()?.settle(held).await?;
                }
                Ok(vec![Ok(()); count])
            }
            Lie::IsNeverTooLate => {
                self.consumer()?.settle(twisted).await?;
                Ok(vec![Ok(()); count])
            }
            _ => self.consumer()?.settle(twisted).await,
        }
    }

    async fn extend(&mut self, tickets: &[Ticket]) -> Result<Vec<Result<(), TooLate>>, EngineError> {
        self.shared.check_open().await?;
        match self.shared.lie {
            Lie::ExtendsNothing => Ok(vec![Ok(()); tickets.len()]),
            _ => self.consumer()?.extend(tickets).await,
        }
    }

    async fn leave(mut self: Box<Self>) -> Result<(), EngineError> {
        match self.consumer.take() {
            Some(consumer) if self.shared.lies(Lie::StaysWhenItLeaves) => std::mem::forget(consumer),
            Some(consumer) => return consumer.leave().await,
            None => {}
        }
        Ok(())
    }
}

impl Drop for LyingConsumer {
    fn drop(&mut self) {
        if self.shared.lies(Lie::StaysWhenDropped) {
            std::mem::forget(self.consumer.take());
        }
    }
}
