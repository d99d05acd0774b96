//! Topics, producers and groups over the durable log: Kafka's broker as a library, and the embedded engine.

mod append;
mod broker;
mod catalogue;
pub mod config;
mod consumer;
mod engine;
pub mod error;
pub mod group;
mod groups;
mod journal;
mod member;
mod names;
mod open;
mod partition;
mod producers;
mod read;
mod tasks;
mod topics;

pub use append::Appended;
pub use broker::{Broker, BrokerBuilder, NODE_ID};
pub use catalogue::{Catalogue, Topic};
pub use config::broker::BrokerConfig;
pub use config::{Apply, ConfigEntry, ConfigKind, ConfigOp, ConfigSource};
pub use consumer::Consumer;
pub use error::{BrokerError, ConfigError, FetchError, ProduceError, ProducerIdError, TopicError};
pub use groups::GroupService;
pub use partition::{At, Partition, Produced, Producing, check_leader_epoch};
pub use read::{Consumed, Tail};
pub use topics::NewTopic;

pub use anabranch_core::batch::Record;
pub use anabranch_core::engine::Place;
/// The types of the log that show through.
pub use anabranch_log::{
    Ack, AppendError, LogStatus, Offsets, OpenError, ReadError, ReadSlice, Timestamped, Waiter,
};
