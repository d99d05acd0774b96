//! From the log back to the groups.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use anabranch_core::batch::EndKind;
use anabranch_core::seam::Random;
use anabranch_core::{ProducerId, TopicId};

use super::classic::Group;
use super::config::{ConsumerOverrides, GroupConfig};
use super::consumer;
use super::entry::{Entry, Kind};
use super::event::{Effect, Now};
use super::member::Member;
use super::offsets::Offsets;
use super::record::{Decoded, GroupMetadata, GroupRecord, RecordError};
use super::{Groups, Place};

/// Reads the offsets topic from its beginning; the last record of a key is what counts.
#[derive(Debug, Default)]
pub struct Restore {
    groups: BTreeMap<String, Restored>,
    overrides: BTreeMap<String, ConsumerOverrides>,
    skipped: u64,
    /// How many records there were.
    read: u64,
    pending: HashMap<ProducerId, BTreeSet<Place>>,
}

#[derive(Debug, Default)]
struct Restored {
    metadata: Option<GroupMetadata>,
    consumer: consumer::Stored,
    /// What stands in the log of a group in the consumer protocol that had become a classic one.
    leftovers: consumer::Changes,
    offsets: Offsets,
}

impl Restore {
    /// Takes the next record of the topic. Keys of other kinds of groups are counted and left alone.
    ///
    /// # Errors
    /// [`RecordError`] when the record is damaged; nothing of it is taken.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), RecordError> {
        self.take(key, value, None)
    }

    /// The same for a record that is part of a producer's transaction.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn apply_in(
        &mut self,
        producer: ProducerId,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), RecordError> {
        self.take(key, value, Some(producer))
    }

    /// Takes the end of a producer's transaction. What none ends stays pending.
    pub fn ended(&mut self, producer: ProducerId, kind: EndKind) {
        for (group, topic, partition) in self.pending.remove(&producer).unwrap_or_default() {
            if let Some(group) = self.groups.get_mut(&group) {
                group.offsets.resolve(&topic, partition, producer, kind);
            }
        }
    }

    fn take(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        producer: Option<ProducerId>,
    ) -> Result<(), RecordError> {
        self.read += 1;
        match (GroupRecord::decode(key, value)?, producer) {
            (Decoded::Unknown { .. }, _) => self.skipped += 1,
            (
                Decoded::Record(GroupRecord::Offset { group, topic, partition, value: Some(value) }),
                Some(producer),
            ) => {
                let offsets = &mut self.groups.entry(group.clone()).or_default().offsets;
                offsets.end_in(&topic, partition, producer, self.read, Some(value));
                self.pending.entry(producer).or_default().insert((group, topic, partition));
            }
            (Decoded::Record(GroupRecord::Offset { group, topic, partition, value }), _) => {
                let group = self.groups.entry(group).or_default();
                group.offsets.restore(&topic, partition, self.read, value);
            }
            (Decoded::Record(GroupRecord::Group { group, value }), _) => {
                let group = self.groups.entry(group).or_default();
                if value.is_some() {
                    // It takes the place of a group in the consumer protocol, whose records are deleted behind it.
                    group.leftovers.extend(std::mem::take(&mut group.consumer).keys());
                }
                group.metadata = value;
            }
            (Decoded::Record(GroupRecord::Consumer { group, record }), _) => {
                let group = self.groups.entry(group).or_default();
                group.leftovers.remove(&consumer::Key::of(&record));
                group.consumer.apply(record);
            }
        }
        Ok(())
    }

    /// Settings of single groups.
    #[must_use]
    pub fn with_overrides(mut self, overrides: BTreeMap<String, ConsumerOverrides>) -> Self {
        self.overrides = overrides;
        self
    }

    /// Records that were of no kind that is known here.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The groups as they were, but for members that died with the broker. Sessions begin anew; a group that is larger than
    /// the configuration now allows rebalances, so that its members can commit before some are sent away. `topics` are those
    /// that there are.
    #[must_use]
    pub fn finish(
        self,
        config: GroupConfig,
        random: Arc<dyn Random>,
        topics: &BTreeMap<String, (TopicId, i32)>,
        now: Now,
    ) -> (Groups, Vec<Effect>) {
        let mut groups = Groups::new(config, random, now);
        groups.overrides = self.overrides;
        groups.pending = self.pending;
        // What is stored from now on is newer.
        groups.next_token = self.read + 1;
        let mut rebalancing = BTreeSet::new();
        for (id, Restored { metadata, consumer, mut leftovers, offsets }) in self.groups {
            // Nobody leads a group that became a classic one until it has rebalanced.
            let is_led = metadata.as_ref().is_none_or(|metadata| metadata.leader.is_some());
            // As long as the classic record is there, the group has not become one of the consumer protocol.
            let kind = if !consumer.is_empty() && metadata.is_none() {
                let group = consumer::Group::restored(
                    consumer,
                    std::mem::take(&mut leftovers),
                    topics,
                    &groups.config.consumer_with(groups.overrides.get(&id)),
                    now,
                );
                Kind::Consumer(Box::new(group))
            } else {
                leftovers.extend(consumer.keys());
                Kind::Classic(Box::new(match metadata {
                    Some(metadata) => Group::restored(metadata, now),
                    None if offsets.is_empty() => continue,
                    None => Group::new(now),
                }))
            };
            if !is_led {
                rebalancing.insert(id.clone());
            }
            groups.groups.insert(id, Entry { leftovers, ..Entry::of(kind, offsets) });
        }
        let ids: Vec<String> = groups.groups.keys().cloned().collect();
        let mut effects = Vec::new();
        for id in ids {
            effects.extend(groups.with_classic(&id, now, |group, turn| {
                // Nobody will hear of them again: the others need not wait until their sessions end.
                if group.remove_where(turn, Member::dies_with_the_broker) {
                    group.member_left(turn);
                }
                let must = rebalancing.contains(turn.group_id) && !group.members.is_empty();
                if must || group.members.len() > turn.config.members_max {
                    group.prepare_rebalance(turn);
                }
            }));
        }
        (groups, effects)
    }
}
