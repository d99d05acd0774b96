//! The real binary, from outside.

#![allow(clippy::unwrap_used)]

mod check;
mod clients;
mod deadly;
mod dump;
mod engine;
mod flow_kill;
mod full_disk;
mod harness;
mod help;
mod kill9;
mod moves;
mod moves_state;
mod redirect;
mod runners;
mod serve;
mod shards_kill;
mod transactions_kill;
