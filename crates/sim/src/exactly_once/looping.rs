//! A loop reads what is committed, makes something of it, and commits with that where it is.

use std::collections::BTreeMap;

use anabranch_broker::Isolation;
use anabranch_broker::group::GroupError;
use anabranch_broker::group::event::{Commit, CommitOffset, InTransaction};
use anabranch_broker::transaction::EndKind;
use anabranch_core::TopicPartition;

use super::client::{Client, Trouble, Work};
use super::reader::polled;
use super::{IN, Life, OUT};
use crate::history::{Op, Outcome, Source};
use crate::readers::{consume, fetched_within};

/// From where, to where, and what was there: offsets and values.
type Polled = (i64, i64, Vec<(i64, String)>);

/// So much of a partition at a time.
const READ_BYTES: usize = 400;

impl Client {
    fn group(&self) -> String {
        match &self.work {
            Work::Loop { group, .. } => group.clone(),
            Work::Produce => unreachable!("a producer has no group"),
        }
    }

    fn positions(&mut self) -> &mut BTreeMap<TopicPartition, i64> {
        match &mut self.work {
            Work::Loop { positions, .. } => positions,
            Work::Produce => unreachable!("a producer has no positions"),
        }
    }

    /// One transaction, or nothing if there is nothing to read.
    pub(super) async fn process(&mut self, life: &Life<'_>) -> Result<(), Trouble> {
        if self.positions().is_empty() {
            return self.go_on(life).await;
        }
        let group = self.group();
        let mut sources: BTreeMap<TopicPartition, Vec<Option<Source>>> = BTreeMap::new();
        let mut offsets = Vec::new();
        for at in life.plan.partitions_of(IN) {
            let Some((from, next, found)) = self.poll(life, &at) else { continue };
            let values = found.clone();
            self.note(life, polled(&at, (from, next), values, Isolation::Committed), Outcome::Ok);
            self.positions().insert(at.clone(), next);
            for (offset, _) in &found {
                let to = TopicPartition::new(OUT, self.chance.below(life.plan.partitions) as i32);
                let source = Source { group: group.clone(), partition: at.to_string(), offset: *offset };
                sources.entry(to).or_default().push(Some(source));
            }
            if let Some((last, _)) = found.last() {
                offsets.push((at, last + 1));
            }
        }
        if offsets.is_empty() {
            return Ok(());
        }
        self.begin(life)?;
        self.hold(true);
        for (to, sources) in sources {
            self.send(life, to, sources).await?;
        }
        self.commit_offsets(life, offsets).await?;
        self.hold(false);
        let kind = if self.chance.one_in(5) { EndKind::Abort } else { EndKind::Commit };
        self.end(life, kind).await
    }

    /// Offsets and values that are new, if anything is.
    fn poll(&mut self, life: &Life<'_>, at: &TopicPartition) -> Option<Polled> {
        let partition = life.partition(at);
        let from = self.positions().get(at).copied().unwrap_or(0);
        if from >= partition.offsets().last_stable.0 {
            return None;
        }
        // A disk that dies over it, or a partition that has stopped: nothing comes.
        let (batches, aborted) = fetched_within(&partition, from, READ_BYTES, Isolation::Committed).ok()?;
        let (found, next) = consume(batches, aborted, from);
        let values = found.iter().map(|at| {
            let value = at.record.value.as_deref().unwrap_or_default();
            (at.offset.0, String::from_utf8_lossy(value).into_owned())
        });
        (!life.shared.disk.is_dead()).then(|| (from, next, values.collect()))
    }

    /// The group says where; not before what is on its way has come.
    async fn go_on(&mut self, life: &Life<'_>) -> Result<(), Trouble> {
        let group = self.group();
        let all: Vec<TopicPartition> = life.plan.partitions_of(IN).collect();
        let asked: Vec<(String, i32)> = all.iter().map(|at| (at.topic.clone(), at.partition)).collect();
        let told = life.broker.groups().fetch_offsets(&group, &asked, true).await;
        if life.shared.disk.is_dead() {
            return Err(Trouble::Gone);
        }
        let mut positions = BTreeMap::new();
        for (at, told) in all.into_iter().zip(told) {
            let offset = match told {
                Ok(committed) => committed.map(|committed| committed.offset),
                Err(GroupError::UnstableOffsetCommit) => return Ok(()),
                Err(error) => {
                    life.shared.fail(format!("{group}: where it is in {at} is not told: {error}"));
                    return Ok(());
                }
            };
            let partition = at.to_string();
            if let Some(offset) = offset {
                let (group, partition) = (group.clone(), partition.clone());
                self.note(life, Op::Committed { group, partition, offset }, Outcome::Ok);
            }
            self.note(life, Op::Seek { partition }, Outcome::Ok);
            positions.insert(at, offset.unwrap_or(0));
        }
        *self.positions() = positions;
        Ok(())
    }

    async fn commit_offsets(
        &mut self,
        life: &Life<'_>,
        offsets: Vec<(TopicPartition, i64)>,
    ) -> Result<(), Trouble> {
        let group = self.group();
        for (at, offset) in &offsets {
            let (group, partition) = (group.clone(), at.to_string());
            self.note(life, Op::Offsets { group, partition, offset: *offset }, Outcome::Ok);
        }
        let offsets = offsets.into_iter().map(|(at, offset)| CommitOffset {
            topic: at.topic,
            partition: at.partition,
            offset,
            leader_epoch: -1,
            metadata: String::new(),
        });
        let commit = Commit {
            group,
            member_id: String::new(),
            instance_id: None,
            generation: -1,
            by_epoch: false,
            retention_ms: None,
            offsets: offsets.collect(),
        };
        let groups = life.broker.groups();
        let membership = self.join(life, &groups.partition()).await?;
        let (producer, epoch) = self.identity();
        let transaction = InTransaction { producer, epoch, part: membership.part() };
        let committed = groups.commit_in(commit, transaction).await;
        self.joined(life, membership).await?;
        match committed {
            _ if life.shared.disk.is_dead() => Err(Trouble::Gone),
            Ok(each) if each.iter().all(Result::is_ok) => Ok(()),
            Err(GroupError::InvalidProducerEpoch) => Err(Trouble::Fenced),
            _ => Err(Trouble::Broken),
        }
    }
}
