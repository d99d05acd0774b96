//! The doors, through real sockets to a real broker in a temporary directory.

#![allow(clippy::unwrap_used)]

mod admin;
mod client;
mod consumer_groups;
mod control;
mod data;
mod fetch_sessions;
mod found;
mod garbage;
mod groups;
mod http;
mod large;
mod limits;
mod peer;
mod redirect;
mod tools;
mod transactions;
mod versions;
