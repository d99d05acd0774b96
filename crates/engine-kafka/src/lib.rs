//! Apache Kafka as an engine, by librdkafka.
//!
//! What is written against [`anabranch_core::engine::Engine`] runs on a Kafka cluster by [`KafkaEngine`]: appends are
//! idempotent and acknowledged by all replicas in sync, reads see committed records only, groups are Kafka's own.

mod admin;
mod append;
mod engine;
mod error;
mod fetch;
mod group;
mod native;
mod settings;
mod transaction;
mod watch;

pub use self::engine::{KafkaBroker, KafkaEngine};
pub use self::settings::{KafkaSettings, SettingsError};
