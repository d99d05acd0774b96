//! The engines, held to what the seam promises. Another engine is plugged in as Kafka is: a file with what differs.

#![allow(clippy::unwrap_used)]

mod embedded;
mod kafka;
mod liars;
mod nats;
mod peer;
mod queue_faults;
