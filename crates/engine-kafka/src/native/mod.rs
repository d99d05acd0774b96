//! librdkafka's own functions, where the binding has none or costs too much.
#![allow(unsafe_code, reason = "the functions of a C library")]

pub(crate) mod admin;
mod queue;

pub(crate) use queue::{Event, PartitionQueue};
