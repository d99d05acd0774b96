//! The log on a real file system, and on one that fails on demand.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod at_once;
mod compacted_transactions;
mod compaction;
mod crash;
mod damage;
mod dump;
mod ends;
mod failing;
mod journal;
mod many;
mod promises;
mod ranges;
mod removal;
mod snapshots;
mod support;
mod times;
mod transactions;
