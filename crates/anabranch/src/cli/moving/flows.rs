//! Topics that are a flow's own. Positions of its input stand inside of their records, and mean other records elsewhere: copied as
//! they are, the flow would go on in the wrong place. So they stay; the flow, opened there, reads its input from the beginning
//! again, and writes its results once more under the same keys.

use anabranch_core::TopicPartition;
use anabranch_core::engine::{Engine, EngineError, Place, ReadLimits};

/// What a flow named NAME calls its topics. The first of them tells by its first record that it is a flow's.
const CHANGELOG: &str = "-changelog";
const OTHERS: [&str; 2] = ["-repartition", "-sources"];
/// The key of that record (`anabranch_flow`, its `state/record.rs`).
const ORIGIN_KEY: &[u8] = b"oorigin";

/// The topics of flows among `names`.
pub(super) async fn own_topics(engine: &dyn Engine, names: &[String]) -> Result<Vec<String>, EngineError> {
    let mut own = Vec::new();
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

async fn is_changelog(engine: &dyn Engine, topic: &str) -> Result<bool, EngineError> {
    let at = TopicPartition::new(topic, 0);
    let (start, end) = (engine.locate(&at, Place::Earliest).await?, engine.locate(&at, Place::Latest).await?);
    let mut reader = engine.reader(&at, start).await?;
    while reader.position() < end {
        let from = reader.position();
        let records = reader.read(ReadLimits { bytes_max: 64 << 10, ..ReadLimits::default() }).await?.block;
        if let Some(first) = records.into_records(from)?.first() {
            return Ok(first.record.key.as_deref() == Some(ORIGIN_KEY));
        }
    }
    Ok(false)
}
