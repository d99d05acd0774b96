//! Lies about transactions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{
    AppendOptions, Appended, EngineError, GroupPositions, Payload, TransactionalProducer,
};
use async_trait::async_trait;

use super::{HELD_MAX, Lie, OnDrop, Shared};

type Work = (Vec<(TopicPartition, Payload)>, Option<GroupPositions>);

#[derive(Debug)]
pub(super) struct LyingProducer {
    shared: Arc<Shared>,
    id: String,
    timeout: Duration,
    producer: Box<dyn TransactionalProducer>,
    is_broken: bool,
    held: VecDeque<Work>,
    /// What was begun and not seen to its end.
    dropped: Arc<parking_lot::Mutex<Option<Work>>>,
}

impl LyingProducer {
    pub(super) async fn open(
        shared: Arc<Shared>,
        id: &str,
        timeout: Duration,
    ) -> Result<Box<dyn TransactionalProducer>, EngineError> {
        let id = match shared.lie {
            Lie::TakesAllIdsForOne => "one".to_owned(),
            _ => id.to_owned(),
        };
        let producer = inner(&shared, &id, timeout).await?;
        let dropped = Arc::default();
        Ok(Box::new(Self { shared, id, timeout, producer, is_broken: false, held: VecDeque::new(), dropped }))
    }
}

/// Not together.
async fn append_all(
    shared: &Shared,
    appends: Vec<(TopicPartition, Payload)>,
) -> Result<Vec<Appended>, EngineError> {
    let mut places = Vec::new();
    for (to, what) in appends {
        places.push(shared.engine.append(&to, what, AppendOptions::default()).await?);
        tokio::task::yield_now().await;
    }
    Ok(places)
}

async fn inner(
    shared: &Shared,
    id: &str,
    timeout: Duration,
) -> Result<Box<dyn TransactionalProducer>, EngineError> {
    match shared.engine.transactions() {
        Some(transactions) => transactions.producer(id, timeout).await,
        None => Err(EngineError::Failed("there is nothing to lie about".into())),
    }
}

#[async_trait]
impl TransactionalProducer for LyingProducer {
    async fn commit(
        &mut self,
        appends: Vec<(TopicPartition, Payload)>,
        positions: Option<GroupPositions>,
    ) -> Result<Vec<Appended>, EngineError> {
        self.shared.check_open().await?;
        let work = (appends.clone(), positions.clone());
        let result = match self.shared.lie {
            Lie::CommitsOneByOne => {
                let places = append_all(&self.shared, appends).await?;
                self.producer.commit(Vec::new(), positions).await?;
                Ok(places)
            }
            Lie::ForgetsPositionsInCommits => self.producer.commit(appends, None).await,
            Lie::StoresPositionsOfFailures => match self.producer.commit(appends, positions.clone()).await {
                Err(error) => {
                    self.producer.commit(Vec::new(), positions).await.ok();
                    Err(error)
                }
                done => done,
            },
            Lie::TellsPlacesInReverse => {
                let mut places = self.producer.commit(appends, positions).await?;
                places.reverse();
                Ok(places)
            }
            Lie::CommitsForAZombie => match self.producer.commit(appends, positions).await {
                Err(EngineError::ProducerFenced { .. }) => {
                    self.producer = inner(&self.shared, &self.id, self.timeout).await?;
                    self.producer.commit(work.0, work.1).await
                }
                done => done,
            },
            Lie::BreaksAfterAnError if self.is_broken => Err(EngineError::Failed("it is broken".into())),
            Lie::AnswersBeforeCommitting => {
                if self.held.len() > HELD_MAX
                    && let Some((appends, positions)) = self.held.pop_front()
                {
                    self.producer.commit(appends, positions).await?;
                }
                let mut places = Vec::new();
                for (to, what) in &appends {
                    places.push(self.shared.made_up(to, what).await?);
                }
                self.held.push_back(work);
                Ok(places)
            }
            Lie::CommitsWhatIsDroppedAgain => {
                let again = self.dropped.lock().take();
                if let Some((appends, positions)) = again {
                    self.producer.commit(appends.clone(), positions.clone()).await?;
                    self.producer.commit(appends, positions).await?;
                }
                let dropped = Arc::clone(&self.dropped);
                let note = OnDrop(Some(Box::new(move || *dropped.lock() = Some(work))));
                let done = self.producer.commit(appends, positions).await;
                note.defuse();
                done
            }
            _ => self.producer.commit(appends, positions).await,
        };
        self.is_broken |= result.is_err();
        result
    }
}
