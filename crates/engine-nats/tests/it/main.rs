//! What is NATS's own in the engine; what all engines have in common is held to the truth elsewhere.
//!
//! `ANABRANCH_NATS=start cargo test -p anabranch-engine-nats` builds and starts `nats-server` by `tests/peers/nats`;
//! `ANABRANCH_NATS=HOST:PORT` takes one that runs (name all nodes of a cluster). Without either, these tests are skipped.

#![allow(clippy::unwrap_used)]

mod append;
mod doors;
mod failures;
mod groups;
mod nats;
mod proxy;
mod read;
mod topics;
