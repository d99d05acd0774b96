//! Topics that are a flow's or a queue's own. Positions of other topics stand inside of their records, and mean other records
//! elsewhere: copied as they are, the flow or the queue would go on in the wrong place. So they stay. A flow, opened there, reads its
//! input from the beginning again, and writes its results once more under the same keys. A queue begins where its
//! group stands.

use anabranch_core::TopicPartition;
use anabranch_core::engine::{Engine, EngineError, Place, ReadLimits};
use bytes::Bytes;

/// A queue's topic of settlements is `GROUP.queue.TOPIC` (`anabranch_queue`).
const QUEUE: &str = ".queue.";

/// What a flow named NAME calls its topics. The first of them tells by its first record that it is a flow's.
const CHANGELOG: &str = "-changelog";
const OTHERS: [&str; 2] = ["-repartition", "-sources"];
/// The key of that record (`anabranch_flow`, its `state/record.rs`).
const ORIGIN_KEY: &[u8] = b"oorigin";

/// The topics of flows and of queues among `names`.
pub(super) async fn own_topics(engine: &dyn Engine, names: &[String]) -> Result<Vec<String>, EngineError> {
    let is_of_queue = |name: &&String| {
        name.split_once(QUEUE).is_some_and(|(_, topic)| names.iter().any(|name| name == topic))
    };
    let mut own: Vec<String> = names.iter().filter(is_of_queue).cloned().collect();
    for changelog in names {
        let Some(flow) = changelog.strip_suffix(CHANGELOG) else { continue };
        if !is_changelog(engine, changelog).await? {
            continue;
        }
        own.push(changelog.clone());
        let others = OTHERS.iter().map(|suffix| format!("{flow}{suffix}"));
        own.extend(others.filter(|name| names.contains(name)));
    }
    Ok(own)
}

/// Each shard's partition begins with that record, if the shard was ever opened.
async fn is_changelog(engine: &dyn Engine, topic: &str) -> Result<bool, EngineError> {
    for partition in 0..engine.partition_count(topic).await? {
        let at = TopicPartition::new(topic, partition);
        if first_key(engine, &at).await?.as_deref() == Some(ORIGIN_KEY) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn first_key(engine: &dyn Engine, at: &TopicPartition) -> Result<Option<Bytes>, EngineError> {
    let (start, end) = (engine.locate(at, Place::Earliest).await?, engine.locate(at, Place::Latest).await?);
    let mut reader = engine.reader(at, start).await?;
    while reader.position() < end {
        let from = reader.position();
        let records = reader.read(ReadLimits { bytes_max: 64 << 10, ..ReadLimits::default() }).await?.block;
        if let Some(first) = records.into_records(from)?.into_iter().next() {
            return Ok(first.record.key);
        }
    }
    Ok(None)
}
