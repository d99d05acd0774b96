//! NATS JetStream as an engine of [`anabranch_core::engine`].
//!
//! A partition is a stream, a record a message, a position a sequence less one; names and layouts are drawn in `names.rs` and
//! `envelope.rs`. What the engine promises depends on the cluster and on how it is opened, and is told by
//! [`description`](anabranch_core::engine::Engine::description):
//!
//! ```no_run
//! use anabranch_core::engine::{AppendOptions, Capability, Engine, EngineError, TopicSpec};
//! use anabranch_core::{TopicPartition, batch::Record};
//! use anabranch_engine_nats::{NatsEngine, NatsSettings};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = NatsSettings::from_url("nats://a:4222,b:4222?replicas=3")?;
//! let engine = NatsEngine::open(settings, &[Capability::AtomicAppend, Capability::SurvivesNodeLoss]).await?;
//! engine.ensure_topic(&TopicSpec::new("orders", 3)).await?;
//! let record = Record::new("customer-7", "2 pounds of flour");
//! engine.append(&TopicPartition::new("orders", 0), record.into(), AppendOptions::default()).await?;
//! engine.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What was found out about JetStream
//!
//! Tried on nats-server 2.15.2, one node and three; the reasons for how this crate does things:
//!
//! * An atomic batch's commit answers with the last sequence and the count. Sent again under the same message id it is refused
//!   (10201) without a sequence. A message with that id and an unknown `Nats-Rollup` is answered with the sequence if the id is
//!   known, and refused otherwise; it is never stored. An impossible `Nats-Expected-Last-Sequence` would not do: one replica
//!   looks at that first, three look at the id first.
//! * In a batch the id is looked at before what is expected, if it is on the first message. So conditional appends are batches,
//!   also of one record.
//! * On one node that syncs always, one round of 1 KiB messages at a time, in one run: batches of 100 carried nine times, and of
//!   1,000 twenty times as many a second as messages one by one; plain publishes with 1,000 in flight, twice as many. So a lane
//!   makes batches of what waits.
//! * A pull consumer that acknowledges nothing read twice as fast as batches of direct gets, and it can wait.
//! * Followers answer direct gets, and hold consumers, and may be late. What must not be missed is asked of the leader.
//! * One replica shows its last sequence in the middle of a batch that it commits.
//!
//! * A pull request that does not wait, and expires, is answered with what is there as soon as something is, and ends with the
//!   last of it. So a queue's consumer asks.
//! * A settlement counts whichever delivery of the record it is for. So consumers of queues keep their own deadlines, a second
//!   before the server's.
//!
//! # Weak spots
//!
//! * With one replica the server answers a queue's settlement before it has written it (`consumerFileStore.UpdateAcks`).
//! * A queue's consumer holds the records that are out, lest it had to ask for what is rejected: up to `unsettled_max` for each
//!   partition. It may get up to one record per partition more than was asked for, which it hands out next; that counts.
//! * A compacted topic's record that a newer one has replaced is forgotten with its id when the server starts anew.
//! * A foreign message whose headers are not UTF-8 breaks the connection of the client library, which comes back and meets it
//!   again.
//! * Topics keep the replicas that they were created with. `retention.bytes` is what a partition has at most, in Kafka at least.
//! * A group's members each hear all keys of the group; thousands of partitions were not tried.

mod admin;
mod describe;
mod engine;
mod envelope;
mod group;
mod lane;
mod link;
mod names;
mod queue;
mod reader;
mod settings;
mod topics;
mod trouble;

pub use self::engine::NatsEngine;
pub use self::settings::{NatsAuth, NatsSettings, NatsTls, Secret, SettingsError};

/// The engine's name in descriptions.
const ENGINE: &str = "nats";
