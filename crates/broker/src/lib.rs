//! Topics, producers and groups over the durable log: Kafka's broker as a library, and the embedded engine.

mod broker;
mod catalogue;
pub mod config;
pub mod error;
mod groups;
mod journal;
mod names;
mod open;
mod partition;
mod producers;
mod tasks;
mod topics;

pub use broker::{Broker, BrokerBuilder, NODE_ID};
pub use catalogue::{Catalogue, Topic};
pub use config::broker::BrokerConfig;
pub use config::{Apply, ConfigEntry, ConfigKind, ConfigOp, ConfigSource};
pub use error::{BrokerError, ConfigError, FetchError, ProduceError, ProducerIdError, TopicError};
pub use groups::GroupService;
pub use partition::{At, Partition, Produced, Producing, check_leader_epoch};
pub use topics::NewTopic;

/// The types of the log that show through.
pub use anabranch_log::{
    Ack, AppendError, LogStatus, Offsets, OpenError, ReadError, ReadSlice, Timestamped, Waiter,
};
