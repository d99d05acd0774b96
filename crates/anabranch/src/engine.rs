//! Engines by their addresses: where an application's topics live is one string of its configuration.

use std::sync::Arc;

use anabranch_broker::{Broker, BrokerError};
use anabranch_core::engine::ENGINES;
pub use anabranch_core::engine::{
    AppendOptions, Appended, Block, Capability, DELIVER_AT_MS, Delivery, Description, Durability,
    EXPIRES_AT_MS, Engine, EngineError, Ensured, Fetched, GroupEvent, GroupMember, GroupPositions, Limits,
    Missing, Payload, Position, QueueConsumer, QueueSpec, Queues, ReadLimits, Reader, Settlement, Support,
    TakeLimits, Ticket, TooLate, TopicSpec, Transactions, Unsuitable, for_each_record,
};
#[cfg(feature = "kafka")]
pub use anabranch_engine_kafka::{KafkaEngine, KafkaSettings};
#[cfg(feature = "nats")]
pub use anabranch_engine_nats::{NatsEngine, NatsSettings};

/// Why an engine was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The address says something wrong: nothing was tried.
    #[error("{url}: {reason}")]
    Address {
        /// The address without its properties, which may be secret.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The directory of the embedded engine cannot be had.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The engine cannot be reached, or lacks what is needed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Opens the engine at `url`, which must have all of `needs`:
///
/// * `embedded:DIR`: a broker in this process, on the directory `DIR`;
/// * `kafka://HOST:PORT,...?PROPERTY=VALUE&...`: a Kafka cluster, see [`KafkaSettings`]; `kafkas://` with TLS;
/// * `nats://HOST:PORT,...?NAME=VALUE&...`: NATS JetStream, see [`NatsSettings::from_url`]; `tls://` with TLS.
///
/// ```
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// use anabranch::engine::{self, Capability};
///
/// # let dir = tempfile::tempdir()?;
/// # let url = format!("embedded:{}", dir.path().display());
/// let engine = engine::open(&url, &[Capability::Transactions]).await?;
/// println!("{} has transactions", engine.description().engine);
/// engine.close().await;
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`OpenError`].
pub async fn open(url: &str, needs: &[Capability]) -> Result<Arc<dyn Engine>, OpenError> {
    let wrong = |reason: String| {
        let url = url.split_once('?').map_or(url, |(address, _)| address);
        OpenError::Address { url: url.to_owned(), reason }
    };
    match url.split_once(':') {
        Some(("embedded", "")) => Err(wrong("it names no directory: embedded:DIR".to_owned())),
        Some(("embedded", dir)) => {
            let broker = Broker::open(dir).await?;
            if let Err(unsuitable) = broker.require(needs) {
                broker.close().await;
                return Err(EngineError::from(unsuitable).into());
            }
            Ok(Arc::new(broker))
        }
        #[cfg(feature = "kafka")]
        Some(("kafka" | "kafkas", _)) => {
            let settings = url.parse::<KafkaSettings>();
            let settings =
                settings.map_err(|error| OpenError::Address { url: error.url, reason: error.reason })?;
            Ok(Arc::new(KafkaEngine::open(settings, needs).await?))
        }
        #[cfg(feature = "nats")]
        Some(("nats" | "tls", _)) => {
            let settings = NatsSettings::from_url(url).map_err(|error| wrong(error.to_string()))?;
            Ok(Arc::new(NatsEngine::open(settings, needs).await?))
        }
        Some((engine, _)) if ENGINES.contains(&engine) => Err(wrong(format!(
            "this program was built without the {engine} engine (a cargo feature of that name)"
        ))),
        _ => Err(wrong("it must be embedded:DIR, or begin with kafka:// or nats://".to_owned())),
    }
}

/// What each engine of this program is where it is set up for all that it can do.
#[must_use]
pub fn at_best() -> Vec<Description> {
    vec![
        Broker::at_best(),
        #[cfg(feature = "kafka")]
        KafkaEngine::at_best(),
        #[cfg(feature = "nats")]
        NatsEngine::at_best(),
    ]
}
