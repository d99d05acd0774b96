//! The doors: listeners through which the world reaches the broker.
//!
//! * `kafka`: the Kafka protocol. One task per connection, one file per API, each a translation: request, call on the
//!   broker, response. What a client may rely on is Kafka's behaviour; nothing here decides anything about data.
//! * `http`: health and metrics.
//!
//! The doors keep no state but connections and counters, so that stopping them loses nothing.
//!
//! ```no_run
//! use anabranch_serve::{ServeConfig, Server};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = anabranch_broker::Broker::open("./data").await?;
//! let server = Server::start(broker.clone(), ServeConfig::default()).await?;
//! println!("Kafka clients: {}", server.kafka_addr());
//! server.shutdown().await;
//! broker.close().await;
//! # Ok(())
//! # }
//! ```

mod config;
mod control;
mod http;
mod kafka;
mod metrics;
mod pressure;
mod server;

pub use config::{Advertised, AdvertisedError, Limits, NotLoopback, ServeConfig, check_loopback};
pub use control::{Answer, Ask, CONTROL_SOCKET, Control, forget};
pub use server::{ServeError, Server};
