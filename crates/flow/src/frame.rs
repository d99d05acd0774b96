//! What of a flow's definition is no code: names, policies, and what follows from them on an engine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{Capability, Engine, EngineError, Place, TopicSpec};
use anabranch_core::seam::Clock;

use crate::FlowError;
use crate::changelog::{Changelog, Opening, changelog_of};
use crate::metrics::Counts;
use crate::outbox::Outlet;
use crate::policy::{Late, Undecodable};
use crate::run::{Delivery, blocking};
use crate::state::{Progress, Role, Store};
use crate::watermark::NO_WATERMARK;
use crate::worker::{Aside, Options};

/// What a step takes longer than this is given up, so that readers of its topics need not wait: as in Kafka's clients.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

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
    pub(crate) at_least_once: bool,
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
        let changelog = changelog_of(&self.name);
        if topics.contains(&changelog) || outlets.contains(&&changelog) {
            return wrong("a topic that it reads or writes has the name of its changelog");
        }
        Ok(())
    }

    /// The state as it was committed last, when nobody else writes it any more.
    pub(crate) async fn open_state(
        &self,
        engine: &Arc<dyn Engine>,
        sources: &[TopicPartition],
        path: PathBuf,
        clock: &dyn Clock,
    ) -> Result<State, FlowError> {
        let identity = self.identity(sources);
        let role = if self.at_least_once { Role::Only } else { Role::Cache };
        // Its lock comes first: a second flow of this directory must not fence the first.
        let (store, identity) =
            blocking(move || Store::open(&path, &identity, role).map(|store| (store, identity))).await??;
        if self.at_least_once {
            tracing::warn!(flow = &self.name, "delivers at least once: a crash may repeat its results");
            let (store, known) =
                blocking(move || store.progress().map(|progress| (store, progress))).await??;
            let progress = match known {
                Some(progress) => progress,
                None => beginning(&**engine, sources).await?,
            };
            return Ok(State { store, progress, delivery: Delivery::AtLeastOnce, changelog: None });
        }
        let topic = changelog_of(&self.name);
        let transactions = engine.transactions().expect("it was required");
        let beginning = beginning(&**engine, sources).await?;
        let mut producer = transactions.producer(&topic, TRANSACTION_TIMEOUT).await?;
        let opening =
            Opening { engine: &**engine, producer: &mut *producer, clock, topic, identity, beginning };
        let (changelog, store, progress) = Changelog::open(opening, store).await?;
        let has_groups = engine.description().has(Capability::Groups);
        let delivery = Delivery::ExactlyOnce {
            producer,
            changelog: changelog.at.clone(),
            group: has_groups.then(|| self.name.clone()),
        };
        Ok(State { store, progress, delivery, changelog: Some(changelog) })
    }

    pub(crate) async fn options(&self, engine: &dyn Engine, partitions: i32) -> Result<Options, FlowError> {
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
            changelog: None,
        })
    }

    /// What the shape of the state depends on, in words.
    fn identity(&self, sources: &[TopicPartition]) -> String {
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for source in sources {
            match counts.last_mut() {
                Some((topic, count)) if *topic == source.topic => *count += 1,
                _ => counts.push((&source.topic, 1)),
            }
        }
        let topics: Vec<_> =
            counts.iter().map(|(topic, count)| format!("{topic} ({count} partitions)")).collect();
        format!(
            "flow {} from {}; windows {}; aggregate {}{}",
            &self.name,
            topics.join(", "),
            self.windows,
            self.aggregate,
            if self.at_least_once { "; at least once" } else { "" },
        )
    }
}

/// A flow's state, and how it goes on from there.
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) progress: Progress,
    pub(crate) delivery: Delivery,
    pub(crate) changelog: Option<Changelog>,
}

/// The progress of a flow that has not begun.
async fn beginning(engine: &dyn Engine, sources: &[TopicPartition]) -> Result<Progress, FlowError> {
    let mut positions = Vec::with_capacity(sources.len());
    for source in sources {
        positions.push(engine.locate(source, Place::Earliest).await?.0);
    }
    Ok(Progress {
        step: 0,
        positions,
        latest_events_ms: vec![None; sources.len()],
        watermark_ms: NO_WATERMARK,
        fired_ms: NO_WATERMARK,
        expired_ms: NO_WATERMARK,
        counts: Counts::default(),
    })
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
