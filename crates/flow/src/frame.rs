//! What of a flow's definition is no code: names, policies, and what follows from them on an engine.

use anabranch_core::engine::{Capability, Engine, EngineError, TopicSpec};

use crate::FlowError;
use crate::changelog::{changelog_of, places_of};
use crate::delivery::{Asked, records_max};
use crate::layout::{Layout, Sharding, repartition_of};
use crate::logic::Aside;
use crate::outbox::Outlet;
use crate::policy::{Late, Undecodable};
use crate::worker::Options;

/// A definition without its functions.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) name: String,
    pub(crate) topics: Vec<String>,
    pub(crate) undecodable: Undecodable,
    pub(crate) late: Late,
    /// In words.
    pub(crate) windows: String,
    /// By name.
    pub(crate) aggregate: String,
    pub(crate) sink: String,
    pub(crate) emit_early: bool,
    pub(crate) asked: Asked,
    pub(crate) sharding: Sharding,
    pub(crate) commit_records: u64,
}

impl Frame {
    pub(crate) fn check(&self) -> Result<(), FlowError> {
        let topics = &self.topics;
        let wrong = |reason| Err(FlowError::Definition { flow: self.name.clone(), reason });
        if topics.is_empty() {
            return wrong("it has no source");
        }
        if topics.iter().enumerate().any(|(index, topic)| topics[..index].contains(topic)) {
            return wrong("it names a source twice");
        }
        let mut outlets = vec![&self.sink];
        if let Undecodable::ToTopic(topic) = &self.undecodable {
            outlets.push(topic);
        }
        if let Late::ToTopic(topic) = &self.late {
            outlets.push(topic);
        }
        if outlets.iter().any(|outlet| topics.contains(outlet)) {
            return wrong("it would read what it writes");
        }
        let own = [changelog_of(&self.name), places_of(&self.name), repartition_of(&self.name)];
        if own.iter().any(|own| topics.contains(own) || outlets.contains(&own)) {
            return wrong("a topic that it reads or writes has the name of one of its own");
        }
        if matches!(self.sharding, Sharding::Keys(..=0)) {
            return wrong("it has no shard");
        }
        Ok(())
    }

    /// What a shard goes by. Makes the topics that the flow writes unless they are there.
    /// In this process it has `parts`.
    pub(crate) async fn options(
        &self,
        engine: &dyn Engine,
        layout: &Layout,
        parts: usize,
    ) -> Result<Options, FlowError> {
        let partitions = layout.partitions_max;
        let mut sink = TopicSpec::new(&self.sink, partitions);
        if engine.description().has(Capability::Compaction) {
            // Results are upserts: the newest per key is enough.
            sink.configs.push(("cleanup.policy".into(), "compact".into()));
        }
        let undecodable = match &self.undecodable {
            Undecodable::Fail => Aside::Fail,
            Undecodable::Drop => Aside::Drop,
            Undecodable::ToTopic(topic) => {
                Aside::Send(outlet(engine, TopicSpec::new(topic, partitions)).await?)
            }
        };
        let late = match &self.late {
            Late::Drop | Late::Admit { .. } => Aside::Drop,
            Late::ToTopic(topic) => Aside::Send(outlet(engine, TopicSpec::new(topic, partitions)).await?),
        };
        Ok(Options {
            sink: outlet(engine, sink).await?,
            undecodable,
            late,
            allowed_lateness_ms: self.late.allowed_ms(),
            emit_early: self.emit_early,
            commit_records: self.commit_records,
            parts: parts.max(1),
            append_records_max: records_max(engine.description()),
            step_records_max: layout.mode.log_records_max(engine.description()),
        })
    }
}

/// The topic as it is, or made as `spec` says.
async fn outlet(engine: &dyn Engine, spec: TopicSpec) -> Result<Outlet, FlowError> {
    let partitions = match engine.partition_count(&spec.name).await {
        Err(EngineError::NotFound(_)) => {
            engine.ensure_topic(&spec).await?;
            spec.partitions
        }
        found => found?,
    };
    Ok(Outlet { topic: spec.name, partitions })
}
