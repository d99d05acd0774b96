//! Moves between real brokers, interrupted at every call.

mod deadly;
mod disk;
mod interrupted;
mod moves;
mod stage;
