//! Queue mode for engines that have a log, groups and transactions: [`Queues`](anabranch_core::engine::Queues) over the rest of
//! the [`Engine`] seam.
//!
//! The consumers of a queue are members of the group of its name, so a partition is one consumer's at a time. That one reads
//! it, hands its records out, and stores what is not settled (`snapshot.rs`) in the topic `GROUP.queue.TOPIC`, in a transaction,
//! together with dead letters. The transactional id, `GROUP.queue.TOPIC-PARTITION`, is what fences: whoever takes the partition
//! over opens it first, so nobody who has lost the partition can settle anything, and what is stored is what was settled last.
//!
//! * `backlog.rs`: what is not settled, as a state machine without I/O
//! * `worker.rs`: a task per partition: reads, stores, hands out
//! * `member.rs`: a task per consumer: which partitions are its own
//! * `consumer.rs`: what the application holds
//! * `moving.rs`: what of it goes to another engine
//!
//! An engine offers it so:
//!
//! ```
//! use std::sync::Arc;
//!
//! use anabranch_core::engine::{Engine, EngineError, QueueConsumer, QueueSpec};
//!
//! async fn consumer(engine: Arc<dyn Engine>, spec: QueueSpec) -> Result<Box<dyn QueueConsumer>, EngineError> {
//!     anabranch_queue::consumer(engine, spec).await
//! }
//! ```

mod backlog;
mod consumer;
mod letters;
mod member;
#[cfg(test)]
mod model;
mod moving;
mod shared;
mod snapshot;
mod worker;

use std::sync::Arc;

use anabranch_core::engine::{
    Capability, Engine, EngineError, Ensured, QueueConsumer, QueueSpec, Support, TopicSpec,
};
use anabranch_core::seam::{Clock, SystemClock};

use crate::consumer::Consumer;
pub use crate::moving::Settlements;

/// Between the names of a group and a topic in that of their settlements. No group's name has its first six letters, so no
/// two pairs have one name.
const BETWEEN: &str = ".queue.";
/// How Kafka's names end.
const NAME_BYTES_MAX: usize = 249;
/// A partition's newest snapshot is all that is read. So old ones go soon.
const CONFIGS: [(&str, &str); 3] =
    [("cleanup.policy", "compact"), ("segment.bytes", "16777216"), ("min.cleanable.dirty.ratio", "0.1")];

/// How an engine has the capabilities of queues that this crate gives it; `None` for any other capability.
#[must_use]
pub fn support(capability: Capability) -> Option<Support> {
    match capability {
        Capability::Queue => Some(Support::emulated(
            "over groups and transactions: a partition serves one consumer at a time, whose death is noticed when its session \
             ends; what is handed out, and what is settled, is a transaction for each partition, which many settlements share",
        )),
        Capability::DelayedRelease | Capability::DelayedDelivery => Some(Support::emulated(
            "a record that waits is one of the partition's unsettled ones, and is read again when it is due",
        )),
        Capability::RecordExpiry => {
            Some(Support::emulated("it is looked at when the record would be delivered"))
        }
        Capability::DeadLetters => Some(Support::emulated(
            "a dead letter is appended to its topic in the transaction that settles it",
        )),
        _ => None,
    }
}

/// A consumer of a queue. Creates the topics of settlements and of dead letters that are not there.
///
/// # Errors
/// The engine's; [`EngineError::Unsuitable`] when it has no transactions or groups.
pub async fn consumer(
    engine: Arc<dyn Engine>,
    spec: QueueSpec,
) -> Result<Box<dyn QueueConsumer>, EngineError> {
    consumer_at(engine, spec, Arc::new(SystemClock::new())).await
}

/// The same by another clock.
///
/// # Errors
/// As [`consumer`].
pub async fn consumer_at(
    engine: Arc<dyn Engine>,
    spec: QueueSpec,
    clock: Arc<dyn Clock>,
) -> Result<Box<dyn QueueConsumer>, EngineError> {
    spec.check()?;
    let refused = |reason: String| EngineError::Refused { topic: spec.group.clone(), reason };
    if spec.group.contains(".queue") {
        return Err(refused("the name of a queue's group does not contain \".queue\"".to_owned()));
    }
    engine.require(&[Capability::Groups, Capability::Transactions])?;
    for topic in &spec.topics {
        let partitions = engine.partition_count(topic).await?;
        let name = settlements(&spec.group, topic);
        if name.len() > NAME_BYTES_MAX {
            return Err(refused(format!("{name:?} is to be a topic, and is too long for one")));
        }
        let wanted = CONFIGS
            .iter()
            .fold(TopicSpec::new(name, partitions), |topic, (name, value)| topic.config(*name, *value));
        ensure(&*engine, &wanted).await?;
        ensure(&*engine, &TopicSpec::new(spec.dead_letters_of(topic), 1)).await?;
    }
    let member = engine.join(&spec.group, &spec.topics).await?;
    Ok(Box::new(Consumer::start(engine, Arc::new(spec), clock, member)))
}

/// As many partitions as there are will do.
async fn ensure(engine: &dyn Engine, topic: &TopicSpec) -> Result<(), EngineError> {
    match engine.ensure_topic(topic).await {
        Ok(Ensured::Created | Ensured::Existed) | Err(EngineError::Different { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The topic of what a group has settled of a topic.
fn settlements(group: &str, topic: &str) -> String {
    format!("{group}{BETWEEN}{topic}")
}
