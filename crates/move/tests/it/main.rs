//! Moves between real brokers, interrupted at every call.

mod deadly;
mod interrupted;
mod moves;
mod stage;
