//! Lies about groups.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{EngineError, GroupEvent, GroupMember, GroupPositions, Position};
use async_trait::async_trait;

use super::{HELD_MAX, Lie, Shared};

#[derive(Debug)]
pub(super) struct LyingMember {
    shared: Arc<Shared>,
    group: String,
    /// None when it has left.
    member: Option<Box<dyn GroupMember>>,
    last: Option<GroupEvent>,
    is_revoked: bool,
    highest: Position,
    held: VecDeque<Vec<(TopicPartition, Position)>>,
}

impl LyingMember {
    pub(super) async fn join(
        shared: Arc<Shared>,
        group: &str,
        topics: &[String],
    ) -> Result<Box<dyn GroupMember>, EngineError> {
        static MEMBERS: AtomicU64 = AtomicU64::new(0);
        let alone = MEMBERS.fetch_add(1, Ordering::SeqCst);
        let group = match shared.lie {
            Lie::AssignsAllToAll => format!("{group}.{alone}"),
            Lie::MixesGroups => "one".to_owned(),
            _ => group.to_owned(),
        };
        let topics = match shared.lie {
            Lie::JoinsTheFirstTopicOnly => &topics[..1],
            _ => topics,
        };
        let member = Some(shared.engine.join(&group, topics).await?);
        let (last, highest, held) = (None, Position(0), VecDeque::new());
        Ok(Box::new(Self { shared, group, member, last, is_revoked: false, highest, held }))
    }

    fn member(&mut self) -> Result<&mut Box<dyn GroupMember>, EngineError> {
        self.member.as_mut().ok_or(EngineError::Closed)
    }

    async fn told(&mut self) -> Result<GroupEvent, EngineError> {
        let event = self.member()?.next_event().await?;
        self.is_revoked = matches!(event, GroupEvent::Revoked(_));
        let forgets = self.shared.lies(Lie::ForgetsPositions)
            || self.shared.lies(Lie::ForgetsWhenReopened) && self.shared.again;
        Ok(match event {
            GroupEvent::Assigned(assigned) if forgets => {
                GroupEvent::Assigned(assigned.into_iter().map(|(at, _)| (at, None)).collect())
            }
            GroupEvent::Revoked(gone) if self.shared.lies(Lie::TellsLostForRevoked) => GroupEvent::Lost(gone),
            event => event,
        })
    }
}

#[async_trait]
impl GroupMember for LyingMember {
    async fn next_event(&mut self) -> Result<GroupEvent, EngineError> {
        self.shared.check_open().await?;
        match self.shared.lie {
            Lie::RepeatsEvents => {
                if let Some(event) = self.last.take() {
                    return Ok(event);
                }
                let event = self.told().await?;
                self.last = Some(event.clone());
                Ok(event)
            }
            Lie::LosesDroppedEvents => {
                let event = self.told().await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(event)
            }
            _ => self.told().await,
        }
    }

    async fn commit(&mut self, positions: &[(TopicPartition, Position)]) -> Result<(), EngineError> {
        self.shared.check_open().await?;
        let last = positions.iter().map(|(_, position)| *position).max().unwrap_or_default();
        self.highest = self.highest.max(last);
        match self.shared.lie {
            Lie::KeepsTheHighestPosition if last < self.highest => Ok(()),
            Lie::DropsCommitsOfRevoked if self.is_revoked => Ok(()),
            Lie::CommitsTheFirstPositionOnly => self.member()?.commit(&positions[..1]).await,
            Lie::AnswersBeforeCommittingPositions => {
                self.held.push_back(positions.to_vec());
                match self.held.len() > HELD_MAX {
                    true => {
                        let held = self.held.pop_front().unwrap_or_default();
                        self.member()?.commit(&held).await
                    }
                    false => Ok(()),
                }
            }
            Lie::CommitsForOthers => match self.member()?.commit(positions).await {
                Err(EngineError::Fenced { .. }) => {
                    let stands = GroupPositions { group: self.group.clone(), positions: positions.to_vec() };
                    let transactions = self.shared.engine.transactions().ok_or(EngineError::Closed)?;
                    let mut producer = transactions.producer("liar", Duration::from_secs(60)).await?;
                    producer.commit(Vec::new(), Some(stands)).await.map(drop)
                }
                done => done,
            },
            _ => self.member()?.commit(positions).await,
        }
    }

    async fn leave(mut self: Box<Self>) -> Result<(), EngineError> {
        match self.member.take() {
            Some(member) if self.shared.lies(Lie::StaysWhenItLeaves) => std::mem::forget(member),
            Some(member) => return member.leave().await,
            None => {}
        }
        Ok(())
    }
}

impl Drop for LyingMember {
    fn drop(&mut self) {
        if self.shared.lies(Lie::StaysWhenDropped) {
            std::mem::forget(self.member.take());
        }
    }
}
