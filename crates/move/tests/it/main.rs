//! Moves between real brokers, interrupted at every call.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod deadly;
mod disk;
mod interrupted;
mod moves;
mod stage;
