//! Flows on an engine in memory: what comes out, what is late, and what a crash does.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod crash;
mod input;
mod late;
mod memory;
mod model;
mod shards;
mod state;
mod time;
mod windows;
