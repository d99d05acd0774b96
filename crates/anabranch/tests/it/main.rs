//! The real binary, from outside.

mod check;
mod clients;
mod harness;
mod help;
mod kill9;
mod serve;
