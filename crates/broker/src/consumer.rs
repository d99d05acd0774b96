//! A consumer of a group, for applications: records one after the other, and a commit.

use std::collections::BTreeMap;

use anabranch_core::engine::{EngineError, GroupEvent, GroupMember, Position};
use anabranch_core::{Offset, TopicPartition};
use anabranch_log::Isolation;

use crate::broker::Broker;
use crate::group::event::Commit;
use crate::member::Member;
use crate::read::{Consumed, Reader};

/// One consumer of a group: see [`Broker::consumer`].
#[derive(Debug)]
pub struct Consumer {
    broker: Broker,
    member: Member,
    reader: Reader,
    /// Where the group stands once what was handed out is committed.
    handed_out: BTreeMap<TopicPartition, Position>,
}

impl Broker {
    /// A consumer of `topics` in `group`, which sees committed records. The group's consumers, in this process or anywhere, share the partitions. A
    /// partition is read from where the group has committed, and from its earliest record where it has not.
    ///
    /// A consumer whose [`Consumer::next`] is not called for five minutes while others want to join or leave loses its
    /// place.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// use anabranch_broker::{Apply, Broker, NewTopic, Record};
    ///
    /// let dir = tempfile::tempdir()?;
    /// let broker = Broker::open(dir.path()).await?;
    /// let orders = broker.create_topic(NewTopic::new("orders").partitions(3), Apply::Now).await?;
    /// orders.append(Record::new("order-1", "two cups")).await?;
    ///
    /// let mut consumer = broker.consumer("shipping", ["orders"])?;
    /// let order = consumer.next().await?;
    /// println!("shipping {:?} of {}", order.record.value, order.partition);
    /// consumer.commit().await?;
    /// consumer.leave().await?;
    /// broker.close().await;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`EngineError::Refused`] without a group's name or topics.
    pub fn consumer<T: Into<String>>(
        &self,
        group: &str,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Consumer, EngineError> {
        self.consumer_with(group, topics, Isolation::Committed)
    }

    /// The same, and whether it also sees records of transactions that have not ended, or were aborted.
    ///
    /// # Errors
    /// [`EngineError::Refused`] without a group's name or topics.
    pub fn consumer_with<T: Into<String>>(
        &self,
        group: &str,
        topics: impl IntoIterator<Item = T>,
        isolation: Isolation,
    ) -> Result<Consumer, EngineError> {
        let topics: Vec<String> = topics.into_iter().map(Into::into).collect();
        Ok(Consumer {
            broker: self.clone(),
            member: Member::new(self.clone(), group, &topics)?,
            reader: Reader::new(self.clone(), isolation),
            handed_out: BTreeMap::new(),
        })
    }
}

impl Consumer {
    /// The next record; waits for it. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn next(&mut self) -> Result<Consumed, EngineError> {
        loop {
            tokio::select! {
                biased;
                event = self.member.next_event() => match event? {
                    GroupEvent::Assigned(partitions) => self.take(partitions),
                    GroupEvent::Revoked(partitions) | GroupEvent::Lost(partitions) => self.give_up(&partitions),
                },
                consumed = self.reader.next() => match consumed {
                    Ok(consumed) => {
                        self.handed_out.insert(consumed.partition.clone(), consumed.offset.plus(1).into());
                        return Ok(consumed);
                    }
                    // Its topic was deleted; the group's leader will notice. The other partitions go on.
                    Err(EngineError::NotFound(deleted)) => self.give_up(&[deleted]),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Stores that everything handed out so far is done with; it survives power loss when this returns.
    ///
    /// # Errors
    /// [`EngineError::Fenced`] when other members have taken over: the records come again, there.
    pub async fn commit(&mut self) -> Result<(), EngineError> {
        if self.handed_out.is_empty() {
            return Ok(());
        }
        self.member.commit(&self.positions()).await?;
        self.handed_out.clear();
        Ok(())
    }

    /// Leaves the group, so that the others take over at once. What was not committed comes again, there.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn leave(self) -> Result<(), EngineError> {
        Box::new(self.member).leave().await
    }

    /// What [`Consumer::commit`] stores, for a transaction to store it.
    pub(crate) fn consumed(&self) -> Commit {
        self.member.commit_of(&self.positions())
    }

    fn positions(&self) -> Vec<(TopicPartition, Position)> {
        self.handed_out.iter().map(|(at, next)| (at.clone(), *next)).collect()
    }

    fn take(&mut self, partitions: Vec<(TopicPartition, Option<Position>)>) {
        for (at, committed) in partitions {
            // A topic that was deleted since is noticed by the group's leader.
            let Some(partition) = self.broker.partition(&at) else { continue };
            let start = committed.map_or(partition.offsets().log_start, Offset::from);
            self.reader.add(partition, start);
        }
    }

    fn give_up(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            self.reader.remove(at);
            self.handed_out.remove(at);
        }
    }
}
