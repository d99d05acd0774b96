//! NATS, where `ANABRANCH_NATS=host:port,...` tells of a cluster: with several nodes, of all of them.

use std::sync::Arc;
use std::time::Duration;

use anabranch_conformance::Ground;
use anabranch_core::engine::{Engine, EngineError};
use anabranch_engine_nats::{NatsEngine, NatsSettings};

use crate::peer::{Kind, Peer, play};

const NATS: Kind = Kind {
    open: |addr| {
        Box::pin(async move {
            let mut settings = NatsSettings::new(addr.split(','));
            settings.session_timeout = Duration::from_secs(3);
            settings.delivery_timeout = Duration::from_secs(20);
            settings.request_timeout = Duration::from_secs(2);
            settings.synced = std::env::var("ANABRANCH_CONFORMANCE_SYNCS").is_ok_and(|syncs| syncs == "yes");
            settings.replicas = if addr.contains(',') { 3 } else { 1 };
            let engine: Arc<dyn Engine> = Arc::new(NatsEngine::open(settings, &[]).await?);
            Ok(engine)
        })
    },
    child: "nats::child",
    ageing: &[],
};

async fn lay() -> Result<Option<Arc<dyn Ground>>, EngineError> {
    Peer::find("ANABRANCH_NATS", &NATS).await
}

/// Not a test of its own: the process that behaviours start, and kill.
#[test]
fn child() {
    play(lay());
}

anabranch_conformance::conformance_tests!(crate::nats::lay);
