//! Differential tests: the same requests to Anabranch and to Apache Kafka, and their answers compared field by field.
//!
//! ```text
//! step (a request in symbols: "the current epoch of producer 1")        one case: some thirty of them
//!   ├─► ours:  its ids filled in ─► frame ─► answer ─► tree ─► normal form ─┐
//!   └─► Kafka: its ids filled in ─► frame ─► answer ─► tree ─► normal form ─┴─► equal, or the case fails and is shrunk
//! ```
//!
//! What a request says is in [`step`], what a side has answered so far and is spoken of in later requests in [`side`], what may
//! differ in every answer (times, ids, addresses) in [`normal`], and what differs for a reason in [`known`], each with its line in
//! `COMPATIBILITY.md`. Everything else must be equal.
//!
//! `cargo xtask diff` starts both and runs it; `tests/it` says how it is told what to do.

#![allow(clippy::unwrap_used, clippy::expect_used)] // what is here fails a test

pub mod bad;
pub mod client;
pub mod coverage;
pub mod known;
pub mod normal;
pub mod run;
pub mod side;
pub mod step;
pub mod tree;
