//! How a flow's work is divided: what its parts read and write, and which of them a process has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anabranch_core::TopicPartition;
use anabranch_core::engine::{Engine, Place, TopicSpec};

use crate::FlowError;
use crate::changelog::{changelog_of, ensure_logs, places_of};
use crate::delivery::Mode;
use crate::frame::Frame;
use crate::outbox::Outlet;
use crate::state::{Progress, Taken};

/// What divides a flow's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharding {
    /// One shard has all keys, and reads all sources.
    One,
    /// So many shards, at least two. Intakes bring each its records.
    Keys(i32),
    /// The partitions of the sources.
    Partitions,
}

/// A flow's parts, as they are on an engine.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) mode: Mode,
    pub(crate) sharding: Sharding,
    pub(crate) sources: Vec<TopicPartition>,
    /// What the topic with the most partitions has.
    pub(crate) partitions_max: i32,
    flow: String,
    shards: i32,
}

/// The parts that a process has: the sources with an intake, by index, and the shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) intakes: BTreeSet<usize>,
    pub(crate) shards: BTreeSet<i32>,
}

/// In words.
const PER_PARTITION: &str = "a shard per partition";
/// More than any engine has of a topic: what is read does not take memory beyond that.
const PARTITIONS_MAX: i32 = 1 << 20;

/// The name of the topic between a flow's sources and its shards.
pub(crate) fn repartition_of(flow: &str) -> String {
    format!("{flow}-repartition")
}

impl Layout {
    /// Looks at the sources, and makes the flow's own topics unless they are there.
    pub(crate) async fn of(frame: &Frame, engine: &dyn Engine) -> Result<Self, FlowError> {
        let wrong = |reason| FlowError::Definition { flow: frame.name.clone(), reason };
        let mode = frame.asked.on(engine.description())?;
        if mode == Mode::Local && frame.sharding != Sharding::One {
            return Err(wrong("its state is in one process only (at least once), so it has one shard"));
        }
        let mut sources = Vec::new();
        let mut counts = Vec::new();
        for topic in &frame.topics {
            let partitions = engine.partition_count(topic).await?;
            counts.push(partitions);
            sources.extend((0..partitions).map(|partition| TopicPartition::new(topic, partition)));
        }
        let partitions_max = counts.iter().copied().max().unwrap_or(0);
        let shards = match frame.sharding {
            Sharding::One => 1,
            Sharding::Keys(shards) => shards,
            Sharding::Partitions if counts.iter().any(|count| *count != partitions_max) => {
                return Err(wrong(
                    "its sources have different numbers of partitions, so these are no shards",
                ));
            }
            Sharding::Partitions => partitions_max,
        };
        let (flow, sharding) = (frame.name.clone(), frame.sharding);
        let layout = Self { mode, sharding, sources, partitions_max, flow, shards };
        layout.ensure_topics(engine).await?;
        Ok(layout)
    }

    async fn ensure_topics(&self, engine: &dyn Engine) -> Result<(), FlowError> {
        if self.mode != Mode::Local {
            ensure_logs(engine, &changelog_of(&self.flow), self.shards).await?;
        }
        if let Some(Outlet { topic, partitions }) = self.repartition() {
            let intakes = i32::try_from(self.sources.len()).unwrap_or(i32::MAX);
            ensure_logs(engine, &places_of(&self.flow), intakes).await?;
            // What shards have not taken in must not go, however old it is; they delete what they have.
            let spec = TopicSpec::new(topic, partitions).config("retention.ms", "-1");
            engine.ensure_topic(&spec).await?;
        }
        Ok(())
    }

    /// The topic between sources and shards, if there is one.
    pub(crate) fn repartition(&self) -> Option<Outlet> {
        let topic = repartition_of(&self.flow);
        matches!(self.sharding, Sharding::Keys(_)).then_some(Outlet { topic, partitions: self.shards })
    }

    /// The topics whose partitions a group shares out.
    pub(crate) fn topics(&self, of_flow: &[String]) -> Vec<String> {
        let repartition = self.repartition().map(|outlet| outlet.topic);
        of_flow.iter().cloned().chain(repartition).collect()
    }

    /// The parts that go with partitions.
    pub(crate) fn share(&self, assigned: &[TopicPartition]) -> Share {
        let mut share = Share::default();
        let repartition = self.repartition();
        for at in assigned {
            match &repartition {
                Some(between) if at.topic == between.topic => {
                    share.shards.insert(at.partition);
                }
                Some(_) => share.intakes.extend(self.sources.iter().position(|source| source == at)),
                None if at.topic == self.sources[0].topic && at.partition < self.shards => {
                    share.shards.insert(at.partition);
                }
                None => {}
            }
        }
        share
    }

    /// All parts.
    pub(crate) fn all(&self) -> Share {
        let intakes = self.repartition().map_or(0, |_| self.sources.len());
        Share { intakes: (0..intakes).collect(), shards: (0..self.shards).collect() }
    }

    /// Where a shard's records come from at first.
    pub(crate) fn sources_of(&self, shard: i32) -> Vec<TopicPartition> {
        let mut sources = self.sources.clone();
        if self.sharding == Sharding::Partitions {
            sources.retain(|source| source.partition == shard);
        }
        sources
    }

    /// What a shard reads.
    pub(crate) fn inputs_of(&self, shard: i32) -> Vec<TopicPartition> {
        match self.repartition() {
            Some(between) => vec![TopicPartition::new(between.topic, shard)],
            None => self.sources_of(shard),
        }
    }

    /// Where a shard's state goes.
    pub(crate) fn changelog(&self, shard: i32) -> TopicPartition {
        TopicPartition::new(changelog_of(&self.flow), shard)
    }

    /// Where the local copy of a shard's state is.
    pub(crate) fn store_path(&self, state_dir: &Path, shard: i32) -> PathBuf {
        match self.sharding {
            Sharding::One => state_dir.to_owned(),
            Sharding::Keys(_) | Sharding::Partitions => state_dir.join(format!("shard-{shard}")),
        }
    }

    /// Where the place of an intake goes.
    pub(crate) fn place(&self, intake: usize) -> TopicPartition {
        let partition = i32::try_from(intake).expect("a topic's partitions are counted so");
        TopicPartition::new(places_of(&self.flow), partition)
    }

    /// A shard that has not begun.
    pub(crate) async fn beginning(&self, engine: &dyn Engine, shard: i32) -> Result<Progress, FlowError> {
        let sources = self.sources_of(shard).len();
        let mut positions = Vec::new();
        for input in self.inputs_of(shard) {
            positions.push(engine.locate(&input, Place::Earliest).await?.0);
        }
        let taken =
            self.repartition().map(|_| Taken { positions: vec![0; sources], idle: vec![false; sources] });
        Ok(Progress { taken, ..Progress::beginning(positions, sources) })
    }

    /// As it was for the flow that has this identity, as far as that tells; `None` if nobody says so.
    pub(crate) fn of_identity(flow: &str, identity: &str) -> Option<Self> {
        let rest = identity.strip_prefix("flow ")?.strip_prefix(flow)?.strip_prefix(" from ")?;
        let (topics, rest) = rest.split_once("; windows ")?;
        let (mut sources, mut partitions_max) = (Vec::new(), 0);
        for topic in topics.split(", ") {
            let (topic, partitions) = topic.strip_suffix(" partitions)")?.rsplit_once(" (")?;
            let partitions: i32 =
                partitions.parse().ok().filter(|count| (1..=PARTITIONS_MAX).contains(count))?;
            sources.extend((0..partitions).map(|partition| TopicPartition::new(topic, partition)));
            partitions_max = partitions_max.max(partitions);
        }
        let last = rest.rsplit_once("; ")?.1;
        let shards = last.strip_suffix(" shards").and_then(|shards| shards.parse().ok());
        let (sharding, shards) = match shards {
            Some(shards) => (Sharding::Keys(shards), shards),
            None if last == PER_PARTITION => (Sharding::Partitions, partitions_max),
            None => (Sharding::One, 1),
        };
        let (mode, flow) = (Mode::Transactions, flow.to_owned());
        Some(Self { mode, sharding, sources, partitions_max, flow, shards })
    }

    /// What the shape of the state depends on, in words.
    pub(crate) fn identity(&self, frame: &Frame) -> String {
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for source in &self.sources {
            match counts.last_mut() {
                Some((topic, count)) if *topic == source.topic => *count += 1,
                _ => counts.push((&source.topic, 1)),
            }
        }
        let topics: Vec<_> =
            counts.iter().map(|(topic, count)| format!("{topic} ({count} partitions)")).collect();
        let shards = match self.sharding {
            Sharding::One => String::new(),
            Sharding::Keys(shards) => format!("; {shards} shards"),
            Sharding::Partitions => format!("; {PER_PARTITION}"),
        };
        format!(
            "flow {} from {}; windows {}; aggregate {}{shards}{}",
            self.flow,
            topics.join(", "),
            frame.windows,
            frame.aggregate,
            if self.mode == Mode::Local { "; at least once" } else { "" },
        )
    }
}
