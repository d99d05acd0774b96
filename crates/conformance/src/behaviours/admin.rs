//! What operators see and change.

use anabranch_core::TopicPartition;
use anabranch_core::engine::{
    Engine, EngineError, Ensured, GroupPositions, Place, Position, TopicConfig, TopicSpec,
};

use crate::stage::{Outcome, Stage, append, ensure, ensure_eq, ensure_fails, record, short};

impl Stage {
    /// The setting of a topic.
    async fn config(&self, topic: &str, name: &str) -> Outcome<Option<TopicConfig>> {
        let configs = self.soon("reading settings", self.engine().admin().topic_configs(topic)).await??;
        Ok(configs.into_iter().find(|config| config.name == name))
    }

    /// Waits until a setting is seen: nodes hear of it one after the other.
    async fn sees(&self, topic: &str, name: &str, value: Option<&str>, is_own: bool) -> Outcome {
        let what = format!("{name}={value:?} is seen");
        self.until(&what, async || {
            let found = self.config(topic, name).await?;
            let fits = found.is_some_and(|found| {
                found.is_own == is_own && (value.is_none() || found.value.as_deref() == value)
            });
            Ok(fits.then_some(()))
        })
        .await
    }

    async fn group_stands(
        &self,
        engine: &dyn Engine,
        group: &str,
    ) -> Outcome<Vec<(TopicPartition, Position)>> {
        let mut positions =
            self.soon("reading a group's positions", engine.admin().group_positions(group)).await??;
        positions.sort();
        Ok(positions)
    }
}

pub(crate) async fn topics_are_described(stage: &Stage) -> Outcome {
    let topic = stage.topic_with(3, &[("retention.ms", "3600000")]).await?;
    let admin = stage.engine().admin();
    let found = stage.soon("describing a topic", admin.topic(&topic)).await??;
    ensure_eq!(found.name, topic, "the topic's name");
    ensure_eq!(found.partitions.len(), 3, "partitions");
    ensure!(!found.is_internal, "the topic is said to be the engine's own");
    for partition in &found.partitions {
        let told = short(partition);
        ensure!(
            partition.leader.is_some() && !partition.replicas.is_empty(),
            "a partition is nowhere: {told}"
        );
        let has_copy = |node: &String| partition.replicas.contains(node);
        ensure!(partition.in_sync.iter().all(has_copy), "a node is in sync that has no copy: {told}");
    }
    let all = stage.soon("listing topics", admin.topics()).await??;
    let listed: Vec<_> = all.iter().filter(|listed| listed.name == topic).collect();
    ensure_eq!(listed.len(), 1, "of the list's topics have this name");
    ensure_eq!(listed[0].partitions.len(), 3, "partitions in the list");
    ensure!(all.is_sorted_by(|one, other| one.name < other.name), "topics are not listed by name");
    stage.sees(&topic, "retention.ms", Some("3600000"), true).await?;
    let other = stage.config(&topic, "cleanup.policy").await?;
    let expected =
        TopicConfig { name: "cleanup.policy".to_owned(), value: Some("delete".to_owned()), is_own: false };
    ensure_eq!(other, Some(expected), "a setting that was not set");
    let result = stage.soon("describing", admin.topic(&stage.name())).await?;
    ensure_fails!(result, EngineError::NotFound(_), "describing no topic");
    let result = stage.soon("describing", admin.topic_configs(&stage.name())).await?;
    ensure_fails!(result, EngineError::NotFound(_), "reading the settings of no topic");
    Ok(())
}

pub(crate) async fn settings_are_changed_one_by_one(stage: &Stage) -> Outcome {
    let topic = stage.topic_with(2, &[("max.message.bytes", "100000")]).await?;
    let at = TopicPartition::new(&topic, 1);
    stage.append(&at, record("a")).await?;
    let admin = stage.engine().admin();
    let set = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    stage
        .soon("a change", admin.set_topic_configs(&topic, &[set("retention.ms", Some("7200000"))]))
        .await??;
    stage.sees(&topic, "retention.ms", Some("7200000"), true).await?;
    stage.sees(&topic, "max.message.bytes", Some("100000"), true).await?;
    for bad in [set("no.such.setting", Some("1")), set("retention.ms", Some("a while"))] {
        let changes = [set("max.message.bytes", Some("200000")), bad];
        let result = stage.soon("a change", admin.set_topic_configs(&topic, &changes)).await?;
        ensure_fails!(result, EngineError::Refused { .. } | EngineError::Unsuitable(_), "{changes:?}");
    }
    stage.sees(&topic, "max.message.bytes", Some("100000"), true).await?;
    stage.soon("a change", admin.set_topic_configs(&topic, &[set("retention.ms", None)])).await??;
    stage.sees(&topic, "retention.ms", None, false).await?;
    let result = stage
        .soon("a change", admin.set_topic_configs(&stage.name(), &[set("retention.ms", Some("7200000"))]))
        .await?;
    ensure_fails!(result, EngineError::NotFound(_), "changing no topic");
    ensure_eq!(stage.texts(&at).await?, ["a"], "what was appended before");
    Ok(())
}

pub(crate) async fn partitions_are_added(stage: &Stage) -> Outcome {
    let topic = stage.topic(2).await?;
    let old = TopicPartition::new(&topic, 1);
    stage.append(&old, record("a")).await?;
    let engine = stage.engine();
    stage.soon("adding partitions", engine.admin().add_partitions(&topic, 4)).await??;
    ensure_eq!(engine.partition_count(&topic).await?, 4, "partitions");
    stage.append(&TopicPartition::new(&topic, 3), record("b")).await?;
    ensure_eq!(stage.texts(&old).await?, ["a"], "what was appended before");
    for fewer in [4, 1, 0, -1] {
        let result = stage.soon("adding", engine.admin().add_partitions(&topic, fewer)).await?;
        ensure_fails!(result, EngineError::Refused { .. }, "giving {fewer} partitions to a topic of 4");
    }
    let result = stage.soon("adding", engine.admin().add_partitions(&stage.name(), 4)).await?;
    ensure_fails!(result, EngineError::NotFound(_), "giving partitions to no topic");
    Ok(())
}

pub(crate) async fn a_deleted_topic_is_gone(stage: &Stage) -> Outcome {
    let topic = stage.topic(2).await?;
    let at = TopicPartition::new(&topic, 1);
    let engine = stage.engine();
    stage.append_each(&at, ["a", "b"]).await?;
    stage.soon("deleting", engine.admin().delete_topic(&topic)).await??;
    let result = engine.partition_count(&topic).await;
    ensure_fails!(result, EngineError::NotFound(_), "partitions of a topic that was deleted");
    let result = stage.soon("deleting", engine.admin().delete_topic(&topic)).await?;
    ensure_fails!(result, EngineError::NotFound(_), "deleting it again");
    // A cluster may still be about it.
    stage
        .until("a topic of the same name is created", async || {
            match engine.ensure_topic(&TopicSpec::new(&topic, 3)).await {
                Ok(Ensured::Created) => Ok(Some(())),
                Ok(Ensured::Existed) | Err(EngineError::Different { .. } | EngineError::Refused { .. }) => {
                    Ok(None)
                }
                Err(error) => Err(error.into()),
            }
        })
        .await?;
    ensure_eq!(engine.partition_count(&topic).await?, 3, "partitions of the new one");
    let end = engine.locate(&at, Place::Latest).await?;
    ensure_eq!(end, Position(0), "where the new topic ends");
    stage.append(&at, record("c")).await?;
    ensure_eq!(stage.texts(&at).await?, ["c"], "what the new topic has");
    Ok(())
}

pub(crate) async fn groups_are_described(stage: &Stage) -> Outcome {
    let topic = stage.topic(2).await?;
    let group = stage.name();
    let engine = stage.engine();
    let admin = engine.admin();
    ensure!(
        stage.soon("describing", admin.group(&group)).await??.is_none(),
        "there is a group before it was joined"
    );
    let mut member = engine.join(&group, std::slice::from_ref(&topic)).await?;
    stage.assigned(&mut member).await?;
    let at = TopicPartition::new(&topic, 1);
    stage.soon("a commit", member.commit(&[(at.clone(), Position(0))])).await??;
    // The assignment may be on its way to where it is described.
    let all = [TopicPartition::new(&topic, 0), at];
    let found = stage
        .until("the group is described with its member", async || {
            let found = admin.group(&group).await?;
            let has_all = |found: &anabranch_core::engine::GroupInfo| {
                let [member] = &found.members[..] else { return false };
                all.iter().all(|at| member.partitions.contains(at))
            };
            Ok(found.filter(has_all))
        })
        .await?;
    ensure_eq!(found.name, group, "the group's name");
    ensure_eq!(found.state, "Stable", "the state of a group whose only member has everything");
    let listed = stage.soon("listing", admin.groups()).await??;
    let listed: Vec<_> = listed.iter().filter(|listed| listed.name == group).collect();
    ensure_eq!(listed.len(), 1, "groups of that name are in the list");
    ensure_eq!(listed[0].members.len(), 1, "members in the list");
    let result = stage
        .soon(
            "moving",
            admin.set_group_positions(&GroupPositions {
                group: group.clone(),
                positions: vec![(TopicPartition::new(&topic, 0), Position(0))],
            }),
        )
        .await?;
    ensure_fails!(result, EngineError::Refused { .. }, "moving a group that has a member");
    let result = stage.soon("deleting", admin.delete_group(&group)).await?;
    ensure_fails!(result, EngineError::Refused { .. }, "deleting a group that has a member");
    stage.soon("leaving", member.leave()).await??;
    let found = stage
        .until("the group has no members", async || {
            Ok(admin.group(&group).await?.filter(|found| found.members.is_empty()))
        })
        .await?;
    ensure_eq!(found.state, "Empty", "the state of a group without members");
    Ok(())
}

pub(crate) async fn a_group_without_members_is_moved(stage: &Stage) -> Outcome {
    let topic = stage.topic(2).await?;
    let [first, second] = [0, 1].map(|partition| TopicPartition::new(&topic, partition));
    let group = stage.name();
    let engine = stage.engine();
    for at in [&first, &second] {
        stage.append_each(at, ["a", "b", "c"]).await?;
    }
    ensure_eq!(stage.group_stands(&**engine, &group).await?, [], "where no group stands");
    let moves = [
        vec![(first.clone(), Position(2)), (second.clone(), Position(1))],
        // Backwards, and only there.
        vec![(first.clone(), Position(1))],
    ];
    for positions in moves {
        let to = GroupPositions { group: group.clone(), positions };
        stage.soon("moving a group", engine.admin().set_group_positions(&to)).await??;
    }
    let expected = [(first.clone(), Position(1)), (second.clone(), Position(1))];
    ensure_eq!(stage.group_stands(&**engine, &group).await?, expected, "where the group stands");
    let reopened = stage.reopened().await?;
    ensure_eq!(
        stage.group_stands(&*reopened, &group).await?,
        expected,
        "where it stands after all was closed"
    );
    ensure_eq!(
        stage.stands(&*reopened, &group, &first).await?,
        Some(Position(1)),
        "what its next member is told"
    );
    let to = GroupPositions { group, positions: vec![(TopicPartition::new(stage.name(), 0), Position(1))] };
    let result = stage.soon("moving", reopened.admin().set_group_positions(&to)).await?;
    ensure!(result.is_err(), "a group was moved to a topic that is not there");
    Ok(())
}

pub(crate) async fn a_deleted_group_stands_nowhere(stage: &Stage) -> Outcome {
    let at = stage.partition().await?;
    append(&**stage.engine(), &at, record("a")).await?;
    let [group, other] = [stage.name(), stage.name()];
    let engine = stage.engine();
    for group in [&group, &other] {
        let to = GroupPositions { group: group.clone(), positions: vec![(at.clone(), Position(1))] };
        stage.soon("moving a group", engine.admin().set_group_positions(&to)).await??;
    }
    stage.soon("deleting", engine.admin().delete_group(&group)).await??;
    ensure!(
        stage.soon("describing", engine.admin().group(&group)).await??.is_none(),
        "the group is still there"
    );
    ensure_eq!(stage.group_stands(&**engine, &group).await?, [], "where the deleted group stands");
    ensure_eq!(
        stage.group_stands(&**engine, &other).await?,
        [(at, Position(1))],
        "where the other one stands"
    );
    let result = stage.soon("deleting", engine.admin().delete_group(&group)).await?;
    ensure_fails!(result, EngineError::Refused { .. }, "deleting it again");
    Ok(())
}
