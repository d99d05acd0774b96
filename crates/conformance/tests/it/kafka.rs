//! Apache Kafka, where `ANABRANCH_KAFKA=host:port` tells of a cluster.

use std::sync::Arc;
use std::time::Duration;

use anabranch_conformance::Ground;
use anabranch_core::engine::{Engine, EngineError};
use anabranch_engine_kafka::{KafkaEngine, KafkaSettings};

use crate::peer::{Kind, Peer, play};

const KAFKA: Kind = Kind {
    open: |addr| {
        Box::pin(async {
            // The least that Kafka takes, so that who is dropped is missed soon; and who is away is told so soon.
            let settings = KafkaSettings::new(addr)
                .property("session.timeout.ms", "6000")
                .property("heartbeat.interval.ms", "500")
                .delivery_timeout(Duration::from_secs(40))
                .request_timeout(Duration::from_secs(20));
            let engine: Arc<dyn Engine> = Arc::new(KafkaEngine::open(settings, &[]).await?);
            Ok(engine)
        })
    },
    child: "kafka::child",
    ageing: &[
        ("segment.bytes", "1048576"),
        ("segment.ms", "200"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "200"),
    ],
};

async fn lay() -> Result<Option<Arc<dyn Ground>>, EngineError> {
    Peer::find("ANABRANCH_KAFKA", &KAFKA).await
}

/// Not a test of its own: the process that behaviours start, and kill.
#[test]
fn child() {
    play(lay());
}

anabranch_conformance::conformance_tests!(crate::kafka::lay);
