//! placeholder

pub mod error;
