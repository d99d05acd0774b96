//! What operators see and change: the registry of topics with its streams, and the bucket of groups.

use std::collections::BTreeMap;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{
    Admin, EngineError, GroupInfo, GroupPositions, MemberInfo, PartitionInfo, Position, TopicConfig,
    TopicInfo,
};
use async_nats::jetstream::stream;
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use time::OffsetDateTime;

use crate::engine::NatsEngine;
use crate::group::{Key, Place, Plan};
use crate::link::{CallError, Entry, Keys, code};
use crate::names;
use crate::topics::defaults;
use crate::trouble::Trouble;

/// Questions that are under way at once.
const QUESTIONS_MAX: usize = 32;

#[async_trait]
impl Admin for NatsEngine {
    async fn topics(&self) -> Result<Vec<TopicInfo>, EngineError> {
        let told = |trouble: Trouble| trouble.about_topic("the topics");
        let inner = self.inner();
        inner.check_open().map_err(told)?;
        let names = inner.topics.names().await.map_err(told)?;
        let infos = futures::stream::iter(names).map(|name| async move {
            match self.info(&name).await {
                // Deleted meanwhile.
                Err(Trouble::NotFound) => Ok(None),
                Err(trouble) => Err(trouble.about_topic(&name)),
                Ok(info) => Ok(Some(info)),
            }
        });
        let infos: Vec<_> = infos.buffered(QUESTIONS_MAX).try_collect().await?;
        Ok(infos.into_iter().flatten().collect())
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo, EngineError> {
        self.info(name).await.map_err(|trouble| trouble.about_topic(name))
    }

    async fn topic_configs(&self, topic: &str) -> Result<Vec<TopicConfig>, EngineError> {
        let told = |trouble: Trouble| trouble.about_topic(topic);
        let inner = self.inner();
        inner.check_open().map_err(told)?;
        let found = inner.topics.find(topic).await.map_err(told)?.ok_or_else(|| told(Trouble::NotFound))?;
        let mut configs: BTreeMap<String, (String, bool)> =
            defaults().map(|(name, value)| (name.to_owned(), (value, false))).collect();
        configs.extend(found.configs.into_iter().map(|(name, value)| (name, (value, true))));
        let config = |(name, (value, is_own))| TopicConfig { name, value: Some(value), is_own };
        Ok(configs.into_iter().map(config).collect())
    }

    async fn set_topic_configs(
        &self,
        topic: &str,
        changes: &[(String, Option<String>)],
    ) -> Result<(), EngineError> {
        let told = |trouble: Trouble| trouble.about_topic(topic);
        self.inner().check_open().map_err(told)?;
        self.inner().topics.set_configs(topic, changes).await.map_err(told)
    }

    async fn add_partitions(&self, topic: &str, total: i32) -> Result<(), EngineError> {
        let told = |trouble: Trouble| trouble.about_topic(topic);
        self.inner().check_open().map_err(told)?;
        self.inner().topics.grow(topic, total).await.map_err(told)
    }

    async fn delete_topic(&self, name: &str) -> Result<(), EngineError> {
        let told = |trouble: Trouble| trouble.about_topic(name);
        let inner = self.inner();
        inner.check_open().map_err(told)?;
        inner.topics.mark_deleted(name).await.map_err(told)?;
        self.forget(&format!("*.at.{}.*", names::token(name))).await.map_err(told)?;
        inner.topics.finish_deletion(name).await.map_err(told)
    }

    async fn groups(&self) -> Result<Vec<GroupInfo>, EngineError> {
        let told = |trouble: Trouble| trouble.about_topic("the groups");
        self.inner().check_open().map_err(told)?;
        let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let found = self.group_keys(">").await.map_err(told)?;
        for key in found.keys {
            if let Some(group) = key.split('.').next().and_then(names::text) {
                keys.entry(group).or_default().push(key);
            }
        }
        let mut groups = Vec::new();
        for (group, keys) in keys {
            let keys = Keys { keys, now: found.now };
            groups.extend(self.group_of(&group, keys).await.map_err(told)?.map(|(info, _)| info));
        }
        Ok(groups)
    }

    async fn group(&self, name: &str) -> Result<Option<GroupInfo>, EngineError> {
        let told = |trouble: Trouble| trouble.about_topic(name);
        Ok(self.find_group(name).await.map_err(told)?.map(|(info, _)| info))
    }

    async fn group_positions(&self, group: &str) -> Result<Vec<(TopicPartition, Position)>, EngineError> {
        let told = |trouble: Trouble| trouble.about_topic(group);
        let found = self.find_group(group).await.map_err(told)?;
        let places = found.map(|(_, places)| places).unwrap_or_default().into_iter();
        Ok(places.filter_map(|(at, place, _)| Some((at, Position(place.next?)))).collect())
    }

    async fn set_group_positions(&self, to: &GroupPositions) -> Result<(), EngineError> {
        let group = &to.group;
        let told = |trouble: Trouble| trouble.about_topic(group);
        let found = self.find_group(group).await.map_err(told)?;
        refuse_members(found.as_ref().map(|(info, _)| info)).map_err(told)?;
        self.open_groups().await.map_err(told)?;
        for (at, next) in &to.positions {
            self.inner().topics.plan(at).await.map_err(|trouble| trouble.about(at))?;
            let key = Key::At(at.clone()).of(group);
            let entry = self.inner().link.entry(names::GROUPS_BUCKET, &key).await;
            let over = entry.map_err(|error| told(error.into()))?.revision;
            let place = Place { owner: None, next: Some(next.0) };
            let place = serde_json::to_vec(&place).expect("a place is a plain value");
            let put = self.inner().link.put_over(names::GROUPS_BUCKET, &key, place.into(), over).await;
            if put.map_err(|error| told(Trouble::from(error).of_a_change()))?.is_none() {
                return Err(told(Trouble::Refused("somebody else has moved the group".to_owned())));
            }
        }
        Ok(())
    }

    async fn delete_group(&self, name: &str) -> Result<(), EngineError> {
        let told = |trouble: Trouble| trouble.about_topic(name);
        let found = self.find_group(name).await.map_err(told)?;
        if found.is_none() {
            return Err(told(Trouble::Refused("there is no such group".to_owned())));
        }
        refuse_members(found.as_ref().map(|(info, _)| info)).map_err(told)?;
        self.forget(&Key::all_of(name)).await.map_err(told)
    }
}

fn refuse_members(group: Option<&GroupInfo>) -> Result<(), Trouble> {
    match group.is_none_or(|group| group.members.is_empty()) {
        true => Ok(()),
        false => Err(Trouble::Refused("the group has members".to_owned())),
    }
}

/// Where a group stands in a partition, and the revision of what says so.
type Stands = (TopicPartition, Place, u64);

impl NatsEngine {
    async fn info(&self, name: &str) -> Result<TopicInfo, Trouble> {
        let inner = self.inner();
        inner.check_open()?;
        let topic = inner.topics.find(name).await?.ok_or(Trouble::NotFound)?;
        let partitions = futures::stream::iter(0..topic.partitions).map(|number| {
            let stream = names::stream(&TopicPartition::new(name, number));
            async move {
                let info: stream::Info = inner.link.api(&format!("STREAM.INFO.{stream}"), &json!({})).await?;
                Ok::<_, Trouble>(partition_info(info))
            }
        });
        let partitions = partitions.buffered(QUESTIONS_MAX).try_collect().await?;
        Ok(TopicInfo { name: name.to_owned(), is_internal: false, partitions })
    }

    /// The keys of groups that fit `filter`; those that were deleted are among them.
    async fn group_keys(&self, filter: &str) -> Result<Keys, Trouble> {
        match self.inner().link.keys(names::GROUPS_BUCKET, filter).await {
            // There was never a group.
            Err(CallError::Api { code: code::STREAM_NOT_FOUND, .. }) => {
                Ok(Keys { keys: Vec::new(), now: OffsetDateTime::UNIX_EPOCH })
            }
            found => Ok(found?),
        }
    }

    /// Deletes those keys.
    async fn forget(&self, filter: &str) -> Result<(), Trouble> {
        match self.inner().link.forget(names::GROUPS_BUCKET, filter).await {
            // There was never a group.
            Ok(()) | Err(CallError::Api { code: code::STREAM_NOT_FOUND, .. }) => Ok(()),
            Err(error) => Err(Trouble::from(error).of_a_change()),
        }
    }

    async fn find_group(&self, name: &str) -> Result<Option<(GroupInfo, Vec<Stands>)>, Trouble> {
        self.inner().check_open()?;
        let keys = self.group_keys(&Key::all_of(name)).await?;
        self.group_of(name, keys).await
    }

    async fn group_of(&self, name: &str, keys: Keys) -> Result<Option<(GroupInfo, Vec<Stands>)>, Trouble> {
        let (link, session) = (&self.inner().link, self.inner().session_timeout());
        let entries = futures::stream::iter(keys.keys).map(|key| async move {
            Ok::<_, Trouble>((Key::parse(&key), link.entry(names::GROUPS_BUCKET, &key).await?))
        });
        let entries: Vec<(Option<Key>, Entry)> = entries.buffered(QUESTIONS_MAX).try_collect().await?;
        let (mut members, mut places, mut plan) = (Vec::new(), Vec::new(), Plan::default());
        let mut is_there = false;
        for (key, entry) in entries {
            let Some(value) = entry.value else { continue };
            is_there = true;
            match key {
                // Whoever has been silent for a session is dead, even if nobody has noticed.
                Some(Key::Member(id)) if keys.now - entry.written <= session => members.push(id),
                Some(Key::Plan) => plan = read(&value)?,
                Some(Key::At(at)) => places.push((at, read::<Place>(&value)?, entry.revision)),
                _ => {}
            }
        }
        if !is_there {
            return Ok(None);
        }
        let is_settled = members.iter().all(|id| plan.members.contains_key(id))
            && plan.members.keys().all(|id| members.contains(id));
        let member = |id: &String| MemberInfo {
            client: id.clone(),
            host: "-".to_owned(),
            partitions: places
                .iter()
                .filter(|(_, place, _)| place.owner.as_ref() == Some(id))
                .map(|(at, _, _)| at.clone())
                .collect(),
        };
        let info = GroupInfo {
            name: name.to_owned(),
            state: match (members.is_empty(), is_settled) {
                (true, _) => "Empty",
                (false, true) => "Stable",
                (false, false) => "PreparingRebalance",
            }
            .to_owned(),
            kind: "nats".to_owned(),
            protocol_type: "consumer".to_owned(),
            assignor: "range".to_owned(),
            members: members.iter().map(member).collect(),
        };
        Ok(Some((info, places)))
    }
}

fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, Trouble> {
    serde_json::from_slice(value)
        .map_err(|error| Trouble::Failed(format!("an entry of the group is damaged: {error}")))
}

fn partition_info(info: stream::Info) -> PartitionInfo {
    let Some(cluster) = info.cluster else {
        // One server alone has no name for itself there.
        let node = "0".to_owned();
        return PartitionInfo {
            leader: Some(node.clone()),
            replicas: vec![node.clone()],
            in_sync: vec![node],
        };
    };
    let mut replicas: Vec<_> = cluster.leader.iter().cloned().collect();
    let mut in_sync = replicas.clone();
    for peer in &cluster.replicas {
        replicas.push(peer.name.clone());
        if peer.current && !peer.offline {
            in_sync.push(peer.name.clone());
        }
    }
    replicas.sort();
    in_sync.sort();
    PartitionInfo { leader: cluster.leader, replicas, in_sync }
}
