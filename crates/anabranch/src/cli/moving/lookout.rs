//! A flow or a queue that begins while its topics are moved: what is its own is not in the plan, and would stay behind.

use std::sync::Arc;

use anabranch_core::engine::{Engine, EngineError};
use anabranch_move::Lookout;
use async_trait::async_trait;

use super::own::{self, Own};

/// Knows what there was when the move was planned.
#[derive(Debug)]
pub(super) struct Newcomers {
    pub(super) source: Arc<dyn Engine>,
    pub(super) target: Arc<dyn Engine>,
    /// All topics that there were.
    pub(super) known: Vec<String>,
    /// Those of flows that had not begun.
    pub(super) waiting: Vec<String>,
    /// Those that are moved.
    pub(super) planned: Vec<String>,
    /// Old clients are sent on: no topic at all may stay.
    pub(super) is_redirected: bool,
}

#[async_trait]
impl Lookout for Newcomers {
    async fn begun(&self) -> Result<Option<String>, EngineError> {
        let all = topics(&*self.source).await?;
        let is_new = |name: &String| !self.known.contains(name);
        let new: Vec<_> = all.iter().filter(|name| is_new(name)).cloned().collect();
        if self.is_redirected && !new.is_empty() {
            return Ok(new.into_iter().next());
        }
        if self.waiting.is_empty() && !new.iter().any(|name| own::may_be_own(name)) {
            return Ok(None); // the source stands still meanwhile
        }
        let Own { carried, left } = own::own_topics(&*self.source, &*self.target, &all, &all).await?;
        let carried = carried.iter().filter(|own| own.needs().iter().any(|name| self.planned.contains(name)));
        let mut names =
            carried.flat_map(|own| own.topics()).chain(left.iter().map(|left| left.topic.clone()));
        let is_empty = |name: &String| left.iter().any(|left| left.is_empty && left.topic == *name);
        let waited = self.waiting.iter().find(|name| all.contains(name) && !is_empty(name)).cloned();
        Ok(waited.or_else(|| names.find(|name| is_new(name) && !is_empty(name))))
    }
}

/// All that are no engine's own.
pub(super) async fn topics(engine: &dyn Engine) -> Result<Vec<String>, EngineError> {
    let all = engine.admin().topics().await?;
    Ok(all.into_iter().filter(|topic| !topic.is_internal).map(|topic| topic.name).collect())
}

#[cfg(test)]
mod tests {
    use anabranch_broker::Broker;
    use anabranch_core::TopicPartition;
    use anabranch_core::batch::Record;
    use anabranch_core::engine::{AppendOptions, QueueSpec, TopicSpec};

    use super::*;

    /// A queue begins on a topic that is being copied. After the switch, what it has accepted would come again in the target, if what
    /// it has settled stayed behind.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_queue_that_begins_on_what_is_moved_is_seen() {
        let home = tempfile::tempdir().unwrap();
        let open = async |name: &str| {
            Arc::new(Broker::open(home.path().join(name)).await.unwrap()) as Arc<dyn Engine>
        };
        let (source, target) = (open("here").await, open("there").await);
        for name in ["orders", "others"] {
            source.ensure_topic(&TopicSpec::new(name, 1)).await.unwrap();
        }
        let lookout = |known, is_redirected| Newcomers {
            source: Arc::clone(&source),
            target: Arc::clone(&target),
            known,
            waiting: Vec::new(),
            planned: vec!["orders".to_owned()],
            is_redirected,
        };
        let known = topics(&*source).await.unwrap();
        assert_eq!(lookout(known.clone(), true).begun().await.unwrap(), None);
        // Neither what is anybody's nor a queue of a topic that stays concerns the move, unless nothing may stay.
        source.ensure_topic(&TopicSpec::new("new", 1)).await.unwrap();
        let begin = async |topic: &str| {
            let spec = QueueSpec::new("workers", [topic.to_owned()]);
            source.queues().unwrap().consumer(spec).await.unwrap()
        };
        let mut consumers = vec![begin("others").await];
        assert_eq!(lookout(known.clone(), false).begun().await.unwrap(), None);
        assert!(lookout(known.clone(), true).begun().await.unwrap().is_some());
        consumers.push(begin("orders").await);
        let begun = lookout(known, false).begun().await.unwrap();
        assert_eq!(begun.as_deref(), Some("workers.queue.orders"));
        let known = topics(&*source).await.unwrap();
        assert_eq!(lookout(known, true).begun().await.unwrap(), None);
        for consumer in consumers {
            consumer.leave().await.unwrap();
        }
        source.close().await;
        target.close().await;
    }

    /// A newer version has written what a queue has settled. Copied as anybody's, it told the target's queue of other records.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_newer_version_has_settled_is_left() {
        let home = tempfile::tempdir().unwrap();
        let broker = Arc::new(Broker::open(home.path()).await.unwrap()) as Arc<dyn Engine>;
        for name in ["orders", "workers.queue.orders", "others.queue.orders"] {
            broker.ensure_topic(&TopicSpec::new(name, 1)).await.unwrap();
        }
        let append = async |topic: &str, record: Record| {
            broker
                .append(&TopicPartition::new(topic, 0), record.into(), AppendOptions::default())
                .await
                .unwrap()
        };
        append("workers.queue.orders", Record::new("0", r#"{"version":9,"next":"?"}"#)).await;
        append("others.queue.orders", Record::new("0", "not a queue's")).await;
        let all = topics(&*broker).await.unwrap();
        let own = own::own_topics(&*broker, &*broker, &all, &all).await.unwrap();
        let left: Vec<_> = own.left.iter().map(|left| &*left.topic).collect();
        assert_eq!((left, own.carried.len()), (vec!["workers.queue.orders"], 0));
        broker.close().await;
    }

    /// A flow had made its topics and had not begun. Copied as anybody's, its state had the old engine's positions in the new one. It is left and
    /// told, and seen when it begins meanwhile.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_flow_that_has_not_begun_is_left_and_seen_when_it_begins() {
        let home = tempfile::tempdir().unwrap();
        let broker = Arc::new(Broker::open(home.path()).await.unwrap()) as Arc<dyn Engine>;
        for name in ["orders", "f-changelog", "f-sources", "f-repartition", "g-changelog", "g-sources"] {
            broker.ensure_topic(&TopicSpec::new(name, 1)).await.unwrap();
        }
        let all = topics(&*broker).await.unwrap();
        let own = own::own_topics(&*broker, &*broker, &all, &all).await.unwrap();
        let mut left: Vec<_> = own.left.iter().map(|left| (&*left.topic, &*left.why)).collect();
        left.sort_unstable();
        let why = "the flow has not begun";
        let names = ["f-changelog", "f-repartition", "f-sources", "g-changelog"];
        assert_eq!(left, names.map(|name| (name, why)));
        let lookout = Newcomers {
            source: Arc::clone(&broker),
            target: Arc::clone(&broker),
            known: all,
            waiting: names.map(str::to_owned).into(),
            planned: vec!["orders".to_owned(), "g-sources".to_owned()],
            is_redirected: false,
        };
        assert_eq!(lookout.begun().await.unwrap(), None);
        let at = TopicPartition::new("g-changelog", 0);
        broker.append(&at, Record::new("k", "v").into(), AppendOptions::default()).await.unwrap();
        assert_eq!(lookout.begun().await.unwrap().as_deref(), Some("g-changelog"));
        broker.close().await;
    }
}
