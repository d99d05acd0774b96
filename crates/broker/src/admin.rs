//! The narrow door for operators: the broker's topics and groups, as [`anabranch_core::engine::Admin`] has them.

use anabranch_core::engine::{
    Admin, EngineError, GroupInfo, GroupPositions, MemberInfo, PartitionInfo, Position, TopicConfig,
    TopicInfo,
};
use anabranch_core::{Offset, TopicPartition};
use async_trait::async_trait;

use crate::broker::Broker;
use crate::catalogue::Topic;
use crate::config::{Apply, ConfigOp, ConfigSource};
use crate::error::TopicError;
use crate::group::consumer_protocol::Assignment;
use crate::group::event::{DescribedMember, ListedGroup};
use crate::group::record::CommittedOffset;
use crate::group::{DescribedConsumer, GroupError, GroupKind};
use crate::member::commit_of;

#[async_trait]
impl Admin for Broker {
    async fn topics(&self) -> Result<Vec<TopicInfo>, EngineError> {
        let mut topics: Vec<_> = Broker::topics(self).iter().map(|topic| self.info(topic)).collect();
        topics.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(topics)
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo, EngineError> {
        let topic = Broker::topic(self, name).map_err(|error| trouble(name, error))?;
        Ok(self.info(&topic))
    }

    async fn topic_configs(&self, topic: &str) -> Result<Vec<TopicConfig>, EngineError> {
        let found = Broker::topic(self, topic).map_err(|error| trouble(topic, error))?;
        let entries = self.describe_topic_configs(&found).into_iter();
        let mut configs: Vec<_> = entries
            .map(|entry| TopicConfig {
                name: entry.name.to_owned(),
                value: entry.value,
                is_own: entry.source == ConfigSource::Topic,
            })
            .collect();
        configs.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(configs)
    }

    async fn set_topic_configs(
        &self,
        topic: &str,
        changes: &[(String, Option<String>)],
    ) -> Result<(), EngineError> {
        let op = |(name, value): &(String, Option<String>)| match value {
            Some(value) => ConfigOp::Set(name.clone(), value.clone()),
            None => ConfigOp::Delete(name.clone()),
        };
        let ops: Vec<_> = changes.iter().map(op).collect();
        self.alter_topic_configs(topic, &ops, Apply::Now).await.map_err(|error| trouble(topic, error))
    }

    async fn add_partitions(&self, topic: &str, total: i32) -> Result<(), EngineError> {
        let grown = self.create_partitions(topic, total, Apply::Now).await;
        grown.map(drop).map_err(|error| trouble(topic, error))
    }

    async fn delete_topic(&self, name: &str) -> Result<(), EngineError> {
        Broker::delete_topic(self, name).await.map(drop).map_err(|error| trouble(name, error))
    }

    async fn groups(&self) -> Result<Vec<GroupInfo>, EngineError> {
        let mut groups = Vec::new();
        for listed in Broker::groups(self).list().await {
            groups.push(self.group_info(listed).await);
        }
        groups.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(groups)
    }

    async fn group(&self, name: &str) -> Result<Option<GroupInfo>, EngineError> {
        let listed = Broker::groups(self).list().await.into_iter().find(|listed| listed.group == name);
        Ok(match listed {
            Some(listed) => Some(self.group_info(listed).await),
            None => None,
        })
    }

    async fn group_positions(&self, group: &str) -> Result<Vec<(TopicPartition, Position)>, EngineError> {
        let committed = Broker::groups(self).fetch_all_offsets(group, false).await;
        let position = |(topic, partition, offset): (String, i32, Result<_, GroupError>)| {
            let offset: CommittedOffset = offset.map_err(|error| said(group, error))?;
            Ok((TopicPartition::new(topic, partition), Offset(offset.offset.max(0)).into()))
        };
        committed.into_iter().map(position).collect()
    }

    async fn set_group_positions(&self, to: &GroupPositions) -> Result<(), EngineError> {
        let group = &to.group;
        for (at, _) in &to.positions {
            self.partition(at).ok_or_else(|| EngineError::NotFound(at.clone()))?;
        }
        let committed = Broker::groups(self).commit(commit_of(group, &to.positions)).await;
        let answers = committed.map_err(|error| said(group, error))?;
        match answers.into_iter().find_map(Result::err) {
            Some(error) => Err(said(group, error)),
            None => Ok(()),
        }
    }

    async fn delete_group(&self, name: &str) -> Result<(), EngineError> {
        let deleted = Broker::groups(self).delete(vec![name.to_owned()]).await;
        deleted.into_iter().collect::<Result<(), _>>().map_err(|error| said(name, error))
    }
}

impl Broker {
    fn info(&self, topic: &Topic) -> TopicInfo {
        let node = self.node_id().to_string();
        let partition =
            PartitionInfo { leader: Some(node.clone()), replicas: vec![node.clone()], in_sync: vec![node] };
        TopicInfo {
            name: topic.name().to_owned(),
            is_internal: topic.is_internal(),
            partitions: vec![partition; topic.partitions().len()],
        }
    }

    /// A group that may have changed, or gone, since it was listed.
    async fn group_info(&self, listed: ListedGroup) -> GroupInfo {
        let ListedGroup { group: name, protocol_type, state, kind } = listed;
        let (mut state, mut assignor) = (state, String::new());
        let members = match kind {
            GroupKind::Classic => match Broker::groups(self).describe(&name).await {
                Ok(group) => {
                    (state, assignor) = (group.state.name(), group.protocol);
                    let member = |member: DescribedMember| MemberInfo {
                        partitions: assigned(&member.assignment),
                        client: member.client_id,
                        host: member.client_host,
                    };
                    group.members.into_iter().map(member).collect()
                }
                Err(_) => Vec::new(),
            },
            GroupKind::Consumer => match Broker::groups(self).describe_consumer(&name).await {
                Ok(group) => {
                    (state, assignor) = (group.state.name(), group.assignor.to_owned());
                    let topics = Broker::topics(self);
                    let member = |member: DescribedConsumer| MemberInfo {
                        partitions: member
                            .assigned
                            .iter()
                            .filter_map(|(id, partitions)| Some((topics.by_id(*id)?, partitions)))
                            .flat_map(|(topic, partitions)| {
                                partitions.iter().map(|number| TopicPartition::new(topic.name(), *number))
                            })
                            .collect(),
                        client: member.about.client_id,
                        host: member.about.client_host,
                    };
                    group.members.into_iter().map(member).collect()
                }
                Err(_) => Vec::new(),
            },
        };
        GroupInfo {
            name,
            state: state.to_owned(),
            kind: kind.name().to_owned(),
            protocol_type,
            assignor,
            members,
        }
    }
}

/// What a member of the classic protocol was given. Groups that are no consumers write other bytes, which mean nothing here.
fn assigned(assignment: &[u8]) -> Vec<TopicPartition> {
    let partitions = Assignment::decode(assignment).unwrap_or_default().partitions.into_iter();
    let of_topic = |(topic, numbers): (String, Vec<i32>)| {
        numbers.into_iter().map(move |number| TopicPartition::new(topic.clone(), number))
    };
    partitions.flat_map(of_topic).collect()
}

/// What was wrong with a topic, in the engine's words.
fn trouble(topic: &str, error: TopicError) -> EngineError {
    match error {
        TopicError::Unknown(_) | TopicError::InvalidName { .. } => {
            EngineError::NotFound(TopicPartition::new(topic, 0))
        }
        TopicError::Closed => EngineError::Closed,
        TopicError::Storage(_) => EngineError::Failed(Box::new(error)),
        other => EngineError::Refused { topic: topic.to_owned(), reason: other.to_string() },
    }
}

/// What the coordinator says of a group, in the engine's words.
fn said(group: &str, error: GroupError) -> EngineError {
    match error {
        GroupError::CoordinatorNotAvailable | GroupError::UnknownServerError => {
            EngineError::Failed(Box::new(error))
        }
        // What Kafka answers to a commit without a member, while there are members.
        GroupError::UnknownMemberId | GroupError::RebalanceInProgress => {
            EngineError::Refused { topic: group.to_owned(), reason: GroupError::NonEmptyGroup.to_string() }
        }
        other => EngineError::Refused { topic: group.to_owned(), reason: other.to_string() },
    }
}
