//! The behaviours, a module per group. Their promises stand in [`crate::table`].

pub(crate) mod admin;
pub(crate) mod away;
pub(crate) mod durability;
pub(crate) mod groups;
pub(crate) mod log;
pub(crate) mod queue;
pub(crate) mod records;
pub(crate) mod topics;
pub(crate) mod transactions;
