//! Topics that are a flow's or a queue's own. Positions of other topics stand inside of their records, and mean other records
//! elsewhere. The flow and the queue know where, so they are carried: copied as they are, with a last word that has the
//! target's positions. What cannot be carried is left, and told.

use std::sync::Arc;

use anabranch::flow::OwnTopics;
use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{Capability, Carried, Engine, EngineError, Place, ReadLimits};
use anabranch_queue::Settlements;

/// What of it is wanted.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) carried: Vec<Arc<dyn Carried>>,
    pub(super) left: Vec<Left>,
}

/// A topic that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) topic: String,
    pub(super) why: String,
    /// It has nothing yet, so that nobody knows whose it is.
    pub(super) is_empty: bool,
}

/// Looks for such topics among `all` of the source, and says what becomes of those that are `wanted`.
pub(super) async fn own_topics(
    source: &dyn Engine,
    target: &dyn Engine,
    all: &[String],
    wanted: &[String],
) -> Result<Own, EngineError> {
    let mut own = Own::default();
    let is_wanted = |name: &String| wanted.contains(name) && all.contains(name);
    for topic in wanted.iter().filter(|name| all.contains(name)) {
        let Some(settlements) = Settlements::named(topic) else { continue };
        let first = first_of(source, topic).await?;
        if first.as_ref().is_some_and(Settlements::is_foreign) {
            own.leave(
                topic,
                "this version does not know the form of what the queue has settled; there, it begins where its group stands",
            );
            continue;
        }
        let is_its =
            first.as_ref().map_or_else(|| all.contains(&settlements.of().to_owned()), Settlements::is_one);
        if !is_its {
            continue; // somebody has given it such a name
        }
        if target.description().has(Capability::Transactions) {
            own.carry(Arc::new(settlements), is_wanted);
        } else {
            own.leave(topic, "the target has queues of its own; there, it begins where its group stands");
        }
    }
    for topic in all {
        let Some(flow) = OwnTopics::flow_of(topic) else { continue };
        let names = OwnTopics::names(flow);
        if !names.iter().any(is_wanted) {
            continue;
        }
        let Some(first) = first_of(source, topic).await? else {
            // What a flow calls its own else may be somebody's, unless it has all three.
            let is_its = names.iter().all(|name| all.contains(name));
            for name in names.iter().filter(|name| (is_its || *name == topic) && is_wanted(name)) {
                let why = "the flow has not begun".to_owned();
                own.left.push(Left { topic: name.clone(), why, is_empty: true });
            }
            continue;
        };
        match OwnTopics::of(topic, &first) {
            Some(topics) => own.carry(Arc::new(topics), is_wanted),
            None if OwnTopics::is_beginning(&first) => {
                let why = "this version does not know the form of the flow's state; there, the flow reads its input again";
                names.iter().filter(|name| is_wanted(name)).for_each(|name| own.leave(name, why));
            }
            None => {}
        }
    }
    Ok(own)
}

/// Whether a flow or a queue may call a topic of its own so.
pub(super) fn may_be_own(topic: &str) -> bool {
    Settlements::named(topic).is_some() || OwnTopics::flow_of(topic).is_some()
}

impl Own {
    /// With all that it needs, or not at all.
    fn carry(&mut self, carried: Arc<dyn Carried>, is_wanted: impl Fn(&String) -> bool) {
        let topics = carried.topics();
        if !topics.iter().any(&is_wanted) {
            return;
        }
        let needs = carried.needs();
        let lacks: Vec<_> = topics.iter().chain(&needs).filter(|name| !is_wanted(name)).cloned().collect();
        if lacks.is_empty() {
            self.carried.push(carried);
            return;
        }
        let why = format!("it means nothing without {}, which is not moved", lacks.join(" and "));
        topics.iter().filter(|name| is_wanted(name)).for_each(|name| self.leave(name, &why));
    }

    fn leave(&mut self, topic: &str, why: &str) {
        self.left.push(Left { topic: topic.to_owned(), why: why.to_owned(), is_empty: false });
    }
}

/// The first record of the first partition that has any.
async fn first_of(engine: &dyn Engine, topic: &str) -> Result<Option<Record>, EngineError> {
    for partition in 0..engine.partition_count(topic).await? {
        let at = TopicPartition::new(topic, partition);
        let start = engine.locate(&at, Place::Earliest).await?;
        let end = engine.locate(&at, Place::Latest).await?;
        let mut reader = engine.reader(&at, start).await?;
        while reader.position() < end {
            let from = reader.position();
            let limits = ReadLimits { bytes_max: 64 << 10, ..ReadLimits::default() };
            let records = reader.read(limits).await?.block.into_records(from)?;
            if let Some(first) = records.into_iter().next() {
                return Ok(Some(first.record));
            }
        }
    }
    Ok(None)
}
