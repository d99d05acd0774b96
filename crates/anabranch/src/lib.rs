//! A durable, Kafka-compatible log inside your program: embed it like SQLite, talk to it like Kafka.
//!
//! A [`Broker`] owns a directory. It has *topics*, whose *partitions* hold *records* in order; consumers share a topic's
//! partitions as a *group*, which remembers where it stands. These are Kafka's words with Kafka's meanings, and the same
//! directory can be served to Kafka clients by the `anabranch serve` command, or by [`serve::Server`] from inside your
//! program.
//!
//! ```
//! use anabranch::{Apply, Broker, NewTopic, Place, Record};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Runtime::new()?.block_on(example())
//! # }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! # std::env::set_current_dir(home.path())?;
//! let broker = Broker::open("./data").await?;
//! let orders = broker.create_topic(NewTopic::new("orders").partitions(3), Apply::Now).await?;
//!
//! // When this returns, the record survives power loss. Equal keys go to the same partition.
//! orders.append(Record::new("order-1", "two cups")).await?;
//!
//! // A group's consumers share the partitions, and go on where the group stands.
//! let mut shipping = broker.consumer("shipping", ["orders"])?;
//! let order = shipping.next().await?;
//! println!("ship {:?} of {}", order.record.value, order.partition);
//! shipping.commit().await?;
//!
//! // Or follow a topic without a group, from any place.
//! let mut tail = broker.tail("orders", Place::Earliest).await?;
//! assert_eq!(tail.next().await.expect("a tail has no end")?.record, order.record);
//!
//! broker.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Exactly once
//! A transaction makes records in any topics, and where a group stands, visible together or not at all:
//!
//! ```
//! use anabranch::{Apply, Broker, NewTopic, Record, TransactionOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Runtime::new()?.block_on(example())
//! # }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! let broker = Broker::open(home.path()).await?;
//! for topic in ["orders", "bills", "parcels"] {
//!     broker.create_topic(NewTopic::new(topic), Apply::Now).await?;
//! }
//! broker.topic("orders")?.append(Record::new("order-1", "two cups")).await?;
//!
//! // From here on, whoever used this id before can no longer write: after a crash, the program just begins again.
//! let mut shop = broker.transactional("shop-1", TransactionOptions::default()).await?;
//! let mut orders = broker.consumer("shop", ["orders"])?;
//! let order = orders.next().await?.record;
//!
//! // An error, or a crash, before the commit: nothing of it is there, and the order comes again.
//! let mut transaction = shop.begin().await?;
//! transaction.append("bills", Record { value: Some("12.50".into()), ..order.clone() }).await?;
//! transaction.append("parcels", order).await?;
//! transaction.commit_consumed(&orders).await?;
//! transaction.commit().await?;
//! broker.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! Consumers and tails see committed records, here and in Kafka's clients with `isolation.level=read_committed`;
//! [`Broker::tail_with`] and [`Broker::consumer_with`] see all, if asked to.
//!
//! # Where things are
//! * [`Broker`] and what stands beside it here: topics, records, groups. Async, on tokio.
//! * [`blocking`]: the same for programs without a runtime.
//! * [`engine`]: the same topics in this process or on a Kafka cluster, by an address.
//! * [`flow`]: continuous computations over topics, exactly once: windows in event time, keyed state, aggregates.
//! * [`serve`]: the doors: Kafka's protocol, and HTTP for health and metrics.
//! * [`core`]: record batches, the [`Engine`] seam that flows are written against, disk and clock.
//!
//! # What is promised
//! What [`Ack::Durable`] acknowledged (the default) survives power loss; [`Ack::Written`], the death of the process.
//! Damage on the disk is told and never served. One process owns a directory at a time.
//!
//! # Features
//! `kafka`, on by default, is the engine for Kafka clusters, and `kafka-tls` those that want TLS or SCRAM.
//!
//! `cli`, on by default, is for the `anabranch` command. A program that embeds the broker does without its dependencies:
//! `default-features = false`.

pub mod engine;

pub use anabranch_broker::{
    Ack, Appended, Apply, Broker, BrokerBuilder, BrokerConfig, BrokerError, ConfigError, ConfigOp, Consumed,
    Consumer, FetchError, Isolation, NewTopic, Partition, Place, ProduceError, Produced, Record, Tail, Topic,
    TopicError, Transaction, TransactionOptions, TransactionalError, TransactionalProducer, blocking,
};
pub use anabranch_core as core;
pub use anabranch_core::batch::Header;
pub use anabranch_core::engine::{Engine, EngineError};
pub use anabranch_core::{Offset, TopicPartition};
pub use anabranch_flow as flow;
pub use anabranch_serve as serve;
