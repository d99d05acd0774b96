//! Lies to operators.

use anabranch_core::TopicPartition;
use anabranch_core::engine::{
    Admin, EngineError, GroupInfo, GroupPositions, Position, TopicConfig, TopicInfo,
};
use async_trait::async_trait;

use super::{Liar, Lie};

#[async_trait]
impl Admin for Liar {
    async fn topics(&self) -> Result<Vec<TopicInfo>, EngineError> {
        self.0.engine.admin().topics().await
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo, EngineError> {
        let mut topic = self.0.engine.admin().topic(name).await?;
        if self.0.lies(Lie::HidesPartitions) {
            topic.partitions.truncate(1);
        }
        Ok(topic)
    }

    async fn topic_configs(&self, topic: &str) -> Result<Vec<TopicConfig>, EngineError> {
        self.0.engine.admin().topic_configs(topic).await
    }

    async fn set_topic_configs(
        &self,
        topic: &str,
        changes: &[(String, Option<String>)],
    ) -> Result<(), EngineError> {
        let admin = self.0.engine.admin();
        if self.0.lies(Lie::ChangesSettingsInPart) {
            for change in changes {
                admin.set_topic_configs(topic, std::slice::from_ref(change)).await?;
            }
            return Ok(());
        }
        admin.set_topic_configs(topic, changes).await
    }

    async fn add_partitions(&self, topic: &str, total: i32) -> Result<(), EngineError> {
        match self.0.lie {
            Lie::AddsNoPartitions => self.0.engine.partition_count(topic).await.map(drop),
            _ => self.0.engine.admin().add_partitions(topic, total).await,
        }
    }

    async fn delete_topic(&self, name: &str) -> Result<(), EngineError> {
        let engine = &self.0.engine;
        if self.0.lies(Lie::EmptiesDeletedTopics) {
            for partition in 0..engine.partition_count(name).await? {
                let at = TopicPartition::new(name, partition);
                let end = engine.locate(&at, anabranch_core::engine::Place::Latest).await?;
                engine.trim(&at, end).await?;
            }
            return Ok(());
        }
        engine.admin().delete_topic(name).await
    }

    async fn groups(&self) -> Result<Vec<GroupInfo>, EngineError> {
        let mut groups = self.0.engine.admin().groups().await?;
        if self.0.lies(Lie::HidesGroups) {
            groups.retain(|group| group.members.is_empty());
        }
        Ok(groups)
    }

    async fn group(&self, name: &str) -> Result<Option<GroupInfo>, EngineError> {
        self.0.engine.admin().group(name).await
    }

    async fn group_positions(&self, group: &str) -> Result<Vec<(TopicPartition, Position)>, EngineError> {
        self.0.engine.admin().group_positions(group).await
    }

    async fn set_group_positions(&self, to: &GroupPositions) -> Result<(), EngineError> {
        let admin = self.0.engine.admin();
        match self.0.lie {
            Lie::MovesGroupsForwardOnly => {
                let stands = admin.group_positions(&to.group).await?;
                let is_ahead = |(at, next): &&(TopicPartition, Position)| {
                    !stands.iter().any(|(other, stands)| other == at && stands > next)
                };
                let positions = to.positions.iter().filter(is_ahead).cloned().collect();
                admin.set_group_positions(&GroupPositions { group: to.group.clone(), positions }).await
            }
            _ => admin.set_group_positions(to).await,
        }
    }

    async fn delete_group(&self, name: &str) -> Result<(), EngineError> {
        match self.0.lie {
            Lie::KeepsDeletedGroups => match self.0.engine.admin().group(name).await? {
                Some(_) => Ok(()),
                None => self.0.engine.admin().delete_group(name).await,
            },
            _ => self.0.engine.admin().delete_group(name).await,
        }
    }
}
