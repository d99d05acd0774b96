//! Topics, producers and groups over the durable log: Kafka's broker as a library, and the embedded engine.
//!
//! A [`Broker`] owns a data directory. It has two doors:
//!
//! * The wide one is for the Kafka server, and for applications that hold the broker inside: everything that Kafka can
//!   say about topics ([`Broker::create_topic`]), settings ([`config`]), batches ([`Partition`]), idempotent producers
//!   ([`Broker::init_producer_id`]), transactions ([`TransactionService`]) and groups ([`GroupService`]).
//! * The narrow one is [`anabranch_core::engine::Engine`], which `Broker` implements: what is written against it runs on
//!   other systems too.
//!
//! Inside an application, records are enough:
//!
//! ```
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use anabranch_broker::{Apply, Broker, NewTopic, Record};
//!
//! let dir = tempfile::tempdir()?;
//! let broker = Broker::open(dir.path()).await?;
//! let orders = broker.create_topic(NewTopic::new("orders").partitions(3), Apply::Now).await?;
//!
//! // When this returns, the order survives power loss.
//! orders.append(Record::new("order-1", "two cups")).await?;
//!
//! // Consumers of a group share the partitions, and go on where the group stands.
//! let mut shipping = broker.consumer("shipping", ["orders"])?;
//! let order = shipping.next().await?;
//! assert_eq!(order.record.value.as_deref(), Some(&b"two cups"[..]));
//! shipping.commit().await?;
//!
//! broker.close().await;
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Broker::tail`] follows a topic without a group; [`Broker::transactional`] makes records in several topics, and where
//! a group stands, visible together or not at all; [`blocking`] is for programs without a runtime.
//!
//! What it keeps of itself, it keeps in topics: `__anabranch_catalogue` has the topics with their settings, the cluster's
//! id, and how many producer ids were given; `__consumer_offsets` has the groups and `__transaction_state` the transactions, in
//! Kafka's own records. What a request
//! changes is durable there before it is acknowledged, and visible after that: readers hold an immutable [`Catalogue`],
//! which one writer replaces. If one of them is damaged the broker does not open; a damaged partition of another topic
//! stops alone.
//!
//! There is one node, with id [`NODE_ID`], which leads every partition in epoch 0.

mod admin;
mod append;
pub mod blocking;
mod broker;
mod catalogue;
pub mod config;
mod consumer;
mod driver;
mod engine;
pub mod error;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
pub mod group;
mod group_configs;
mod groups;
mod journal;
mod kafka_record;
mod maintenance;
mod member;
mod memory;
mod moves;
mod names;
mod open;
mod partition;
mod pattern;
mod producers;
mod read;
mod redirect;
#[cfg(test)]
mod seeds;
mod tasks;
mod topics;
pub mod transaction;
mod transactional;
mod transactions;

pub use append::Appended;
pub use broker::{Broker, BrokerBuilder, NODE_ID};
pub use catalogue::{Catalogue, Topic};
pub use config::broker::BrokerConfig;
pub use config::{Apply, ConfigEntry, ConfigKind, ConfigOp, ConfigSource};
pub use consumer::Consumer;
pub use error::{
    BrokerError, ConfigError, DeleteRecordsError, FetchError, ProduceError, ProducerIdError, RecordError,
    RecordsRefused, TopicError, TransactionalError,
};
pub use groups::GroupService;
pub use maintenance::{Before, Maintained};
pub use memory::Memory;
pub use moves::{MOVE_LEASE_MAX, MoveBegun, MoveHold, MovingError, NewMove};
pub use partition::{At, Partition, Produced, Producing, check_leader_epoch};
pub use pattern::{Pattern, PatternError};
pub use read::{Consumed, Tail};
pub use redirect::{Elsewhere, Node, Redirect, Stage};
pub use topics::NewTopic;
pub use transactional::{Transaction, TransactionOptions, TransactionalProducer};
pub use transactions::{Membership, TransactionService};

pub use anabranch_core::batch::Record;
pub use anabranch_core::engine::Place;
/// The types of the log that show through.
pub use anabranch_log::{
    Aborted, Ack, AppendError, BatchRange, Batches, FetchLimits, FetchSlice, FileCounts, Isolation,
    LogStatus, Offsets, OpenError, Part, ProducerState, ReadError, ReadSlice, Timestamped, UpkeepError,
    Waiter,
};
