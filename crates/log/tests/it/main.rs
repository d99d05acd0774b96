//! The log on a real file system, and on one that fails on demand.

mod damage;
mod failing;
mod promises;
mod support;
